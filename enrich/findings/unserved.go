// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// This file keeps which published ports remote clients ask for in vain.

// askedKey is a published port of a container, or of a service in the routing mesh, and a family of clients.
type askedKey struct {
	id       string // of the container; "": the mesh
	service  enrich.Identity
	port     uint16
	protocol string
	ipv6     bool
}

func askedOf(c *enrich.PublishedConnection) askedKey {
	key := askedKey{id: c.ContainerID, port: c.Port, protocol: c.Protocol, ipv6: client(c).Is6()}
	if key.id == "" {
		key.service = c.Identity
	}
	return key
}

// unservedEntry is what nobody has answered since the latest attempt that was.
type unservedEntry struct {
	attempts    uint64
	first, last time.Time
	example     enrich.PublishedConnection
}

func (e *unservedEntry) add(c *enrich.PublishedConnection, attempts uint64) {
	if e.attempts == 0 || c.At.Before(e.first) {
		e.first = c.At
	}
	if c.At.After(e.last) {
		e.last = c.At
	}
	e.attempts += attempts
	e.example = *c
}

// asked takes in an attempt. That a rule sends one on is enough, or that docker-proxy does: whether the container answers is
// its own business.
func (r *Recent) asked(c *enrich.PublishedConnection, sentOn bool) {
	if sentOn {
		r.ports.sentOn[familyIndex(client(c))] = true
	}
	switch {
	case c.Client != enrich.ClientRemote:
	case sentOn || c.Seen.IsValid():
		delete(r.unserved.entries, askedOf(c))
	default:
		if e := r.unserved.entry(askedOf(c), 1); e != nil {
			e.add(c, 1)
		}
	}
}

// passedOn takes in that an attempt of before has got to its container after all.
func (r *Recent) passedOn(c *enrich.PublishedConnection) {
	if c.Client == enrich.ClientRemote {
		delete(r.unserved.entries, askedOf(c))
	}
}

// answered takes in that a client was. For the routing mesh a socket of the engine's answers, which only keeps the port and
// serves nobody.
func (r *Recent) answered(c *enrich.PublishedConnection) {
	if c.Client == enrich.ClientRemote && (isSentOn(c) || c.Mechanism != enrich.IngressMesh) {
		delete(r.unserved.entries, askedOf(c))
	}
}

// ports are the published ports of running containers.
type ports struct {
	bound map[hostPort][]binding
	// sentOn says of IPv4 and of IPv6 that a rule has sent somebody on to a container since the start: that the host does so.
	sentOn     [2]bool
	broadcasts map[netip.Addr]struct{} // of the host's links
}

// familyIndex is 0 for IPv4 and 1 for IPv6.
func familyIndex(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

type hostPort struct {
	port     uint16
	protocol string
}

// binding is an address that a container's port is published on.
type binding struct {
	address netip.Addr // unspecified: all of the host's, of its family
	id      string
}

func (p *ports) note(view *View) {
	p.bound, p.broadcasts = make(map[hostPort][]binding), make(map[netip.Addr]struct{})
	for i := range view.Inventory.Containers {
		c := &view.Inventory.Containers[i]
		for _, port := range c.Published {
			key := hostPort{port.Host.Port(), port.Protocol}
			p.bound[key] = append(p.bound[key], binding{port.Host.Addr(), c.ID})
		}
	}
	for _, r := range view.Host.Routes {
		if r.Protocol == "kernel" && r.Destination.Addr().Is4() && r.Destination.Bits() <= 30 {
			p.broadcasts[lastOf(r.Destination)] = struct{}{}
		}
	}
}

// lastOf is the broadcast address of an IPv4 subnet.
func lastOf(subnet netip.Prefix) netip.Addr {
	a := subnet.Masked().Addr().As4()
	for bit := subnet.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// owner finds the container that has published a port of the host; "": none.
func (p *ports) owner(at netip.AddrPort, protocol string) string {
	if _, broadcast := p.broadcasts[at.Addr()]; broadcast {
		return ""
	}
	for _, b := range p.bound[hostPort{at.Port(), protocol}] {
		if b.address == at.Addr() || b.address.IsUnspecified() && b.address.Is6() == at.Addr().Is6() {
			return b.id
		}
	}
	return ""
}

// denied takes in a drop. What the host's own rules drop is no connection yet, and so no attempt that the nat signal knows
// of. But if it begins one at a published port, its place was not there: the port's rule would have sent it on before. On a
// host that sends nobody of the family on, as with iptables=false or ip6tables=false, such rules are how ports are guarded.
func (r *Recent) denied(d *enrich.Drop, now time.Time) {
	if d.Cause != "host-firewall" || !r.ports.sentOn[familyIndex(d.Destination)] || d.Direction != enrich.RX || !beginsUntranslated(d) {
		return
	}
	c := enrich.PublishedConnection{
		Port: d.DestinationPort, Protocol: enrich.ProtocolName(d.Protocol), Client: enrich.ClientRemote, Scope: enrich.ScopeHost,
	}
	c.At = now
	c.Original = loader.Tuple{
		Source:      netip.AddrPortFrom(d.Source, d.SourcePort),
		Destination: netip.AddrPortFrom(d.Destination, d.DestinationPort),
	}
	if c.ContainerID = r.ports.owner(c.Original.Destination, c.Protocol); c.ContainerID == "" {
		return
	}
	if e := r.unserved.entry(askedOf(&c), d.Packets); e != nil {
		e.add(&c, d.Packets)
	}
}

// beginsUntranslated tells a packet of somebody else's that connection tracking took for the first of a connection, or one of
// a connection that it knows. A late one of a connection that is over has no entry.
func beginsUntranslated(d *enrich.Drop) bool {
	return d.Source.IsValid() && d.Initiator == d.Source && !d.DNAT && !d.Fragment &&
		!d.Source.IsLoopback() && !d.Source.IsLinkLocalUnicast() && d.Source != d.Destination
}

// unservedIn lists the ports that are asked for in vain, and forgets those of containers that have ended, or only just
// begun: nobody could answer then.
func (r *Recent) unservedIn(view *View) (all []Unserved) {
	running := view.running()
	for key, e := range r.unserved.entries {
		c := running[key.id]
		ended := key.id != "" && (c == nil || e.first.Before(c.StartedAt.Add(settle)))
		if ended || view.Now.Sub(e.last) >= Window {
			delete(r.unserved.entries, key)
			continue
		}
		subject := Subject{Identity: key.service, Scope: e.example.Scope, Object: portName(key.port, key.protocol)}
		if c != nil {
			subject = ofPort(c, key.port, key.protocol)
		}
		all = append(all, Unserved{
			Subject: subject, ContainerID: key.id, Port: key.port, Protocol: key.protocol,
			Attempts: e.attempts, First: e.first, Last: e.last, Example: e.example,
		})
	}
	slices.SortFunc(all, func(a, b Unserved) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			client(&a.Example).Compare(client(&b.Example)))
	})
	return all
}
