// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// conflictRules are about ports of the host that two want.
func conflictRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "port-conflict", Severity: Warning,
				Title:   "A port of the host that a container publishes, or was to publish, belongs to somebody else.",
				Remedy:  "Stop whoever has the port, or publish another one, or on another address of the host. If nobody has it, the engine itself has kept it: restart Docker.",
				Confirm: "ss -Htulnp 'sport = :{port}'",
				Basis:   "the published ports of running containers and the processes that listen on them, which ought to be the engine's; and containers that the engine could not start for want of a port which somebody has now",
			},
			after: settle,
			find:  conflicting,
		},
	}
}

// portCarrier is the name of Docker's own process that serves a published port.
const portCarrier = "docker-proxy"

// portHolders are the names of processes that keep published ports for an engine: Docker's, and Podman's.
var portHolders = []string{portCarrier, "dockerd", "conmon"}

// Keeps tells of a socket of Docker itself that it is there to keep a published port from others: it accepts nobody.
func Keeps(l loader.Listener) bool { return l.Process == "dockerd" }

func conflicting(v *View) []hit { return append(v.displaced(), v.unstarted()...) }

// displaced finds running containers whose published ports somebody else has.
func (v *View) displaced() []hit {
	strangers := v.strangers()
	told := make(map[Subject]bool) // a port may be published on several addresses
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			subject := ofPort(c, p.Host.Port(), p.Protocol)
			if l, taken := strangers[subject]; taken && !told[subject] {
				told[subject] = true
				hits = append(hits, publishedHit(c, p, text("published on", p.Host.String()), holding(l)))
			}
		}
	}
	return hits
}

// holding says who listens on a port.
func holding(l loader.Listener) Fact {
	return text("held by", orElse(l.Process, "a process that is not known")+" on "+l.Address.String())
}

// unstarted finds containers that did not start since another had the port, and still has. The engine remembers why until
// they are started again; where the port is free by now, there is no conflict any more.
func (v *View) unstarted() []hit {
	listeners := v.listeners()
	var hits []hit
	for i := range v.Inventory.Unstarted {
		c := &v.Inventory.Unstarted[i]
		holder, taken := v.holderOf(c, listeners[c.Port])
		if c.Port == 0 || !taken {
			continue
		}
		port := strconv.Itoa(int(c.Port))
		hits = append(hits, hit{
			subject:  Subject{Identity: c.Identity, Scope: enrich.ScopeHost, Object: port},
			evidence: []Fact{text("did not start", c.Name), text("the engine says", c.Error), holder},
			fill:     map[string]string{"container": c.Name, "port": port},
		})
	}
	return hits
}

// holderOf says who has what a container wanted of the host: another one, whoever listens for it, or else a process of those
// that listen on the port. What the engine does not say of it may be anything.
func (v *View) holderOf(wanted *enrich.UnstartedContainer, listeners []loader.Listener) (Fact, bool) {
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			if p.Host.Port() == wanted.Port && mayBe(wanted.Protocol, p.Protocol) && collide(wanted.Address, p.Host.Addr()) {
				return text("held by", "container "+c.Name+" on "+p.Host.String()), true
			}
		}
	}
	for _, l := range listeners {
		if mayBe(wanted.Protocol, "tcp") && (collide(wanted.Address, l.Address.Addr()) || l.Takes(wanted.Address)) {
			return holding(l), true
		}
	}
	return Fact{}, false
}

func mayBe(wanted, protocol string) bool { return wanted == "" || wanted == protocol }

// collide tells whether one port may not be taken on both addresses: on equal ones, and where one stands for all of its family.
// The engine's sockets for IPv6 leave IPv4 to others.
func collide(wanted, held netip.Addr) bool {
	if !wanted.IsValid() || wanted == held {
		return true
	}
	return wanted.Is6() == held.Is6() && (wanted.IsUnspecified() || held.IsUnspecified())
}

// strangers are those who listen on the published ports of containers in the engine's place. With a socket of the engine's
// there, or one that nobody knows the owner of, there is none.
func (v *View) strangers() map[Subject]loader.Listener {
	listeners := v.listeners()
	all := make(map[Subject]loader.Listener)
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			if p.Protocol != "tcp" || p.Host.Port() == 0 {
				continue
			}
			subject := ofPort(c, p.Host.Port(), p.Protocol)
			l, taken := strangerOf(p.Host.Addr(), listeners[p.Host.Port()])
			if _, known := all[subject]; taken && !known {
				all[subject] = l
			}
		}
	}
	return all
}

// listeners are the host's by port.
func (v *View) listeners() map[uint16][]loader.Listener {
	all := make(map[uint16][]loader.Listener)
	for _, l := range v.Host.Listeners {
		all[l.Address.Port()] = append(all[l.Address.Port()], l)
	}
	return all
}

// strangerOf finds who has a published address, of those who listen on its port: whoever takes connections to it, or, where the
// port is published on all addresses of a family, to one of them. On a loopback address another may listen besides: neither is
// in the other's way.
func strangerOf(published netip.Addr, listeners []loader.Listener) (found loader.Listener, taken bool) {
	for _, l := range listeners {
		at := l.Address.Addr()
		switch {
		case l.Process == "" || slices.Contains(portHolders, l.Process):
			return loader.Listener{}, false
		case taken: // by the first
		case l.Takes(published) || published.IsUnspecified() && published.Is6() == at.Is6() && !at.IsLoopback():
			found, taken = l, true
		}
	}
	return found, taken
}
