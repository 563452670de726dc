// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file tells which connections go to published ports, and by what they lose their client's address.

// publishedPort is a port of the host and the container behind it.
type publishedPort struct {
	*member
	host      netip.AddrPort // unspecified address: all of the host's, of its family
	container uint16
}

type portKey struct {
	port     uint16
	protocol uint8
}

// publishedIndex finds published ports. It is made anew when the stations' is.
type publishedIndex struct {
	madeWith *stationIndex
	ports    map[portKey][]publishedPort
}

func (s *State) publishedPorts() map[portKey][]publishedPort {
	made := &s.pending.nat.ports
	if current := s.index(); made.madeWith != current {
		*made = publishedIndex{madeWith: current, ports: make(map[portKey][]publishedPort)}
		for _, m := range s.members {
			for _, p := range m.Published {
				if p.Host.Port() != 0 {
					key := portKey{p.Host.Port(), protocolNumber(p.Protocol)}
					made.ports[key] = append(made.ports[key], publishedPort{m, p.Host, p.Container})
				}
			}
		}
	}
	return made.ports
}

// protocolNumber is the protocol that Docker gives a name; 0: it publishes no ports of it.
func protocolNumber(name string) uint8 {
	switch name {
	case "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	}
	return 0
}

// publishedAt finds who publishes a port of the host, or did so last; nil: nobody.
func (s *State) publishedAt(to netip.AddrPort, protocol uint8) *publishedPort {
	var found *publishedPort
	ports := s.publishedPorts()[portKey{to.Port(), protocol}]
	for i := range ports {
		if p := &ports[i]; s.listensAt(p.host.Addr(), to.Addr()) && (found == nil || p.isBefore(found)) {
			found = p
		}
	}
	return found
}

func (s *State) listensAt(published, to netip.Addr) bool {
	if published.IsUnspecified() {
		return published.Is4() == to.Is4() && s.isOwn(to)
	}
	return published == to
}

// isBefore chooses between two that have the same port: who lives, then who has it at the very address, then who had it last.
func (p *publishedPort) isBefore(other *publishedPort) bool {
	if p.alive() != other.alive() {
		return p.alive()
	}
	if exact := !p.host.Addr().IsUnspecified(); exact == other.host.Addr().IsUnspecified() {
		return exact
	}
	return p.died.After(other.died)
}

// SetKeptPorts says where the engine itself listens. It does so only to keep published ports from others, where it has no
// docker-proxy (userland-proxy=false) or the routing mesh serves them, and accepts nobody. The listeners become the State's.
func (s *State) SetKeptPorts(listeners []loader.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = listeners
}

// isKept tells of a connection that the kernel has accepted and nobody will serve.
func (s *State) isKept(c *PublishedConnection) bool {
	to := c.Original.Destination
	return !movesDestination(&c.Tracked) && c.NATEvent.Protocol == unix.IPPROTO_TCP && slices.ContainsFunc(s.kept, func(l loader.Listener) bool {
		return l.Address.Port() == to.Port() && l.Takes(to.Addr())
	})
}

// published makes of a connection on the host one to a published port, and says by whom docker-proxy's own connection for it
// would be taken; not found: it goes to none.
func (s *State) published(p *placed) (c PublishedConnection, proxied proxyKey, found bool) {
	if p.scope != ScopeHost || protocolNumber(ProtocolName(p.Protocol)) == 0 {
		return c, proxied, false
	}
	c = PublishedConnection{
		NATEvent: *p.NATEvent, Scope: ScopeHost, Port: p.Original.Destination.Port(), Protocol: ProtocolName(p.Protocol),
		Kind: p.kind, Client: s.client(&p.Tracked),
	}
	switch {
	case s.isMesh(&p.Tracked):
		s.intoMesh(&c)
		found = true
	case p.kind == DNAT || p.kind == IPVS:
		found = s.translated(&c)
	default:
		proxied, found = s.untranslated(&c)
	}
	return c, proxied, found
}

func (s *State) client(t *loader.Tracked) Client {
	source := t.Original.Source.Addr()
	if t.Local || s.isOwn(source) {
		return ClientHost
	}
	if s.memberByAddress(source) != nil {
		return ClientContainer
	}
	if n := s.index().bridgeNetwork(source); n != nil && n.gone.IsZero() {
		return ClientContainer
	}
	return ClientRemote
}

// translated is a connection that a rule sends on to a container.
func (s *State) translated(c *PublishedConnection) bool {
	to := c.Reply.Source.Addr()
	if m := s.memberByAddress(to); m != nil && m.alive() {
		if !m.publishesAt(c.Port, c.Reply.Source.Port(), c.Protocol) {
			return false // by a rule that is not Docker's
		}
		s.serve(c, m)
	} else if port := s.publishedAt(c.Original.Destination, c.NATEvent.Protocol); port != nil {
		s.serve(c, port.member)
	} else if network := s.networkOfAddress(to); network == "" || !s.isOwn(c.Original.Destination.Addr()) {
		return false
	} else if network == gatewayBridge {
		return s.perhapsMesh(c)
	}
	c.Network = s.networkOfAddress(to)
	c.Seen, c.Server = c.Reply.Destination, c.Reply.Source
	switch {
	case c.Seen.Addr() == c.Original.Source.Addr():
		c.Preserved, c.Mechanism = true, NoMechanism
	case c.Client == ClientRemote:
		c.Mechanism = InboundMasquerade
	default:
		c.Mechanism = Hairpin
	}
	return true
}

func (s *State) serve(c *PublishedConnection, m *member) {
	c.Identity, c.ContainerID = m.Identity, m.ID
}

// publishesAt tells whether a port of the host leads to the container's, at whatever address.
func (m *member) publishesAt(host, container uint16, protocol string) bool {
	return slices.ContainsFunc(m.Published, func(p PublishedPort) bool {
		return p.Host.Port() == host && p.Container == container && p.Protocol == protocol
	})
}

// untranslated is a connection that the host itself is to answer: docker-proxy carries it, if anybody does.
func (s *State) untranslated(c *PublishedConnection) (proxyKey, bool) {
	to := c.Original.Destination
	if c.Kind == Redirect {
		to = c.Reply.Source
		c.Port = to.Port()
	}
	port := s.publishedAt(to, c.NATEvent.Protocol)
	if port == nil {
		if !s.isMeshPort(ingressPort{to.Port(), c.Protocol}) || !s.isOwn(to.Addr()) {
			return proxyKey{}, false
		}
		s.intoMesh(c)
		return proxyKey{}, true
	}
	s.serve(c, port.member)
	c.Network = s.networkToProxy(port.member)
	c.Mechanism = UserlandProxy
	byIPv6 := to.Addr().Is6() && port.hasIPv6()
	if to.Addr().Is6() && !byIPv6 {
		c.Mechanism = IPv6ToIPv4Proxy
	}
	c.Gateway = s.gatewayToProxy(port.member, byIPv6)
	return proxyKey{port.ID, port.container, c.NATEvent.Protocol}, true
}

func (m *member) hasIPv6() bool {
	return slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, netip.Addr.Is6)
	})
}

// networkToProxy names the network by which docker-proxy reaches a container, "" if it could be several.
func (s *State) networkToProxy(m *member) string {
	var names []string
	for _, e := range m.Endpoints {
		if n := s.networks[e.NetworkID]; n != nil && n.Bridge != "" {
			names = append(names, e.Network)
		}
	}
	switch len(names) {
	case 0:
		return gatewayBridge
	case 1:
		return names[0]
	}
	return ""
}

// gatewayToProxy is the address that docker-proxy connects to a container from: the bridge's. It is not valid if it could be
// several, or is not known.
func (s *State) gatewayToProxy(m *member, byIPv6 bool) netip.Addr {
	var found []netip.Addr
	for _, e := range m.Endpoints {
		if n := s.networks[e.NetworkID]; n != nil && n.Bridge != "" {
			found = append(found, n.Gateways...)
		}
	}
	found = slices.DeleteFunc(found, func(a netip.Addr) bool { return a.Is6() != byIPv6 })
	if len(found) != 1 {
		return netip.Addr{}
	}
	return found[0]
}

// dialed makes of a connection on the host one that docker-proxy may have opened to a container's published port. It comes
// from the bridge's own address.
func (s *State) dialed(p *placed) (dial, bool) {
	if p.scope != ScopeHost || p.kind != "" || !s.isOwn(p.Original.Source.Addr()) {
		return dial{}, false
	}
	to := p.Original.Destination
	m := s.memberByAddress(to.Addr())
	if m == nil || !m.alive() || !m.publishes(to.Port(), ProtocolName(p.Protocol)) {
		return dial{}, false
	}
	network := s.index().bridgeNetwork(to.Addr())
	if network == nil || network != s.index().bridgeNetwork(p.Original.Source.Addr()) {
		return dial{}, false
	}
	return dial{
		proxyKey: proxyKey{m.ID, to.Port(), p.Protocol}, at: p.At, seen: p.Reply.Destination, server: p.Reply.Source,
	}, true
}
