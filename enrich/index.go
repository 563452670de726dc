// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// maxLearned bounds the addresses learned from traffic: a container can send with any source address it likes.
const maxLearned = 16384

// stationIndex finds containers and networks by what packets carry. It is made anew when one of them changed and somebody
// asks.
type stationIndex struct {
	addresses map[netip.Addr]*member
	macs      map[stationMAC]*member

	gateways   map[netip.Addr]struct{} // of networks with a bridge: the host's own
	broadcasts map[netip.Addr]struct{} // of all networks' subnets
	bridged    map[netip.Prefix]*knownNetwork
	lengths    []int // of the prefixes in bridged, longest first
}

// stationMAC is a MAC on a network; MACs repeat across networks.
type stationMAC struct {
	network string
	mac     [6]byte
}

func (s *State) index() *stationIndex {
	if s.indexed != nil {
		return s.indexed
	}
	s.indexed = &stationIndex{
		addresses: make(map[netip.Addr]*member), macs: make(map[stationMAC]*member),
		gateways: make(map[netip.Addr]struct{}), broadcasts: make(map[netip.Addr]struct{}),
		bridged: make(map[netip.Prefix]*knownNetwork),
	}
	for _, n := range s.networks {
		s.indexed.addNetwork(n)
	}
	slices.SortFunc(s.indexed.lengths, func(a, b int) int { return b - a })
	for _, m := range s.members {
		for _, e := range m.Endpoints {
			if n := s.networks[e.NetworkID]; n != nil && n.isOverlay() {
				continue // its packets are in namespaces of its own; the host's network may use the same addresses
			}
			s.indexed.addStation(m, &e)
		}
	}
	for id, leg := range s.gatewayLegs {
		if m := s.members[id]; m != nil {
			s.indexed.addStation(m, &leg)
		}
	}
	return s.indexed
}

func (i *stationIndex) addStation(m *member, at *Endpoint) {
	key := stationMAC{at.Network, at.MAC}
	i.macs[key] = latest(i.macs[key], m)
	for _, a := range at.Addresses {
		i.addresses[a] = latest(i.addresses[a], m)
	}
}

func (i *stationIndex) addNetwork(n *knownNetwork) {
	for _, subnet := range n.Subnets {
		if last := broadcast(subnet); last.IsValid() {
			i.broadcasts[last] = struct{}{}
		}
		if n.Bridge == "" {
			continue
		}
		subnet = subnet.Masked()
		if old := i.bridged[subnet]; old == nil || n.gone.IsZero() || !old.gone.IsZero() && n.gone.After(old.gone) {
			i.bridged[subnet] = n
		}
		if !slices.Contains(i.lengths, subnet.Bits()) {
			i.lengths = append(i.lengths, subnet.Bits())
		}
	}
	for _, gateway := range n.Gateways {
		if n.Bridge != "" {
			i.gateways[gateway] = struct{}{}
		}
	}
}

// broadcast returns the last address of an IPv4 subnet that is large enough to have one for broadcast.
func broadcast(subnet netip.Prefix) netip.Addr {
	if !subnet.Addr().Is4() || subnet.Bits() > 30 || subnet.Bits() < 0 {
		return netip.Addr{}
	}
	four := subnet.Masked().Addr().As4()
	binary.BigEndian.PutUint32(four[:], binary.BigEndian.Uint32(four[:])|^uint32(0)>>subnet.Bits())
	return netip.AddrFrom4(four)
}

// bridgeNetwork finds the network with a bridge that an address is on, nil if there is none. Of several it is the one with
// the longest prefix, but none that is gone while another is there.
func (i *stationIndex) bridgeNetwork(address netip.Addr) *knownNetwork {
	var last *knownNetwork
	for _, length := range i.lengths {
		subnet, err := address.Prefix(length)
		if err != nil {
			continue // of the other family
		}
		n := i.bridged[subnet]
		switch {
		case n == nil:
		case n.gone.IsZero():
			return n
		case last == nil:
			last = n
		}
	}
	return last
}

// latest chooses between two that had the same address: who lives, else who died last.
func latest(a, b *member) *member {
	if a == nil || b.alive() && !a.alive() || b.alive() == a.alive() && b.died.After(a.died) {
		return b
	}
	return a
}

func (i *stationIndex) mac(networkName string, mac [6]byte) *member {
	if mac == ([6]byte{}) {
		return nil
	}
	return i.macs[stationMAC{networkName, mac}]
}

// memberByAddress finds who has an address, or had it last, on a network of this host.
func (s *State) memberByAddress(address netip.Addr) *member {
	if !address.IsValid() || address.IsUnspecified() || address.IsLoopback() || address.IsMulticast() {
		return nil
	}
	if m := s.index().addresses[address]; m != nil {
		return m
	}
	return s.members[s.learned[address]]
}

// learn notes that a container sent from an address of a network here, for when the engine was too late to say so or does
// not list it. Never over what the engine told, or what a living one has: the dead's go to others at once.
func (s *State) learn(address netip.Addr, owner *member) {
	last, known := s.learned[address]
	if m := s.members[last]; m != nil && m.alive() || s.index().addresses[address] != nil {
		return
	}
	if !known && len(s.learned) >= maxLearned || s.isHost(address) || !s.isOnNetwork(address) {
		return
	}
	s.learned[address] = owner.ID
	s.pending.nat.endpoints.outdate()
}

func (s *State) isOnNetwork(address netip.Addr) bool {
	for _, n := range s.networks {
		for _, subnet := range n.Subnets {
			if subnet.Contains(address) {
				return true
			}
		}
	}
	return false
}
