// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"slices"

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
				Basis:   "the published ports of running containers and the processes that listen on them, which ought to be the engine's",
			},
			after: settle,
			find:  conflicting,
		},
	}
}

// portHolders are the names of processes that keep published ports for an engine: Docker's, and Podman's.
var portHolders = []string{"docker-proxy", "dockerd", "conmon"}

func conflicting(v *View) []hit {
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
func holding(l loader.Listener) Fact { return text("held by", l.Process+" on "+l.Address.String()) }

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

// strangerOf finds who has a published address, of those who listen on its port. On a loopback address another may listen
// besides one who has published the port on all: neither is in the other's way.
func strangerOf(published netip.Addr, listeners []loader.Listener) (found loader.Listener, taken bool) {
	for _, l := range listeners {
		at := l.Address.Addr()
		switch {
		case l.Process == "" || slices.Contains(portHolders, l.Process):
			return loader.Listener{}, false
		case at.Is6() != published.Is6():
		case at == published || at.IsUnspecified() || published.IsUnspecified() && !at.IsLoopback():
			found, taken = l, true
		}
	}
	return found, taken
}
