// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// resolver is the address at which the engine answers lookups in every container's namespace.
func resolver() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// natKind says what translation does to a connection; "": nothing. That a source keeps its address and gets another port,
// since its own was taken, is no translation.
func (s *State) natKind(p *placed) NATKind {
	switch t := &p.Tracked; {
	case movesDestination(t):
		return s.destinationKind(p)
	case t.Original.Source.Addr() != t.Reply.Destination.Addr():
		return s.sourceKind(p)
	}
	return ""
}

func (s *State) destinationKind(p *placed) NATKind {
	switch {
	case p.Original.Destination.Addr() == resolver():
		return EmbeddedDNS
	case !p.DestinationNAT:
		return IPVS
	case s.isInside(p, p.Reply.Source.Addr()):
		return Redirect
	}
	return DNAT
}

// sourceKind guesses where the kernel did not say: a rule that gives the source an address of the namespace itself is most
// often one that takes the device's.
func (s *State) sourceKind(p *placed) NATKind {
	if p.Masqueraded == loader.On || p.Masqueraded == loader.Absent && s.isInside(p, p.Reply.Destination.Addr()) {
		return Masquerade
	}
	return SNAT
}

// movesDestination tells whether the answer is expected from elsewhere than the first packet went to.
func movesDestination(t *loader.Tracked) bool {
	if !hasPorts(t.Protocol) {
		// What is in place of ports belongs to the connection, and changes on both sides if it must.
		return t.Original.Destination.Addr() != t.Reply.Source.Addr()
	}
	return t.Original.Destination != t.Reply.Source
}

func hasPorts(protocol uint8) bool {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE:
		return true
	}
	return false
}

// isInside tells whether an address is one of the namespace that a connection is in.
func (s *State) isInside(p *placed, address netip.Addr) bool {
	switch {
	case address.IsLoopback():
		return true
	case p.scope == ScopeHost:
		return s.isOwn(address)
	case p.scope == ScopeContainer:
		return p.owner.has(address) || s.learned[address] == p.owner.ID
	}
	return p.scope == ScopeIngress && address == s.ingressSandbox
}

// isOwn tells whether an address is the host's own: one of those that it was said to have, of its bridges, or loopback.
func (s *State) isOwn(address netip.Addr) bool {
	if _, ours := s.addresses[address]; ours || address.IsLoopback() {
		return true
	}
	_, gateway := s.index().gateways[address]
	return gateway
}
