// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/bridgewatch/bridgewatch/loader"
)

// endpointList are endpoints, made with an index and what was known besides. Its zero value is out of date.
type endpointList struct {
	madeWith *stationIndex
	list     []loader.NATEndpoint
}

func (l *endpointList) outdate() { *l = endpointList{} }

// NATEndpoints returns where connections go to that are of interest even if nothing translates them: published ports, and
// the ports of containers that they lead to. It is cheap as long as nothing changes. The result is not to be changed.
func (s *State) NATEndpoints() []loader.NATEndpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := &s.pending.nat.endpoints
	if current := s.index(); made.madeWith != current {
		*made = endpointList{current, s.listEndpoints()}
	}
	return made.list
}

func (s *State) listEndpoints() []loader.NATEndpoint {
	var endpoints []loader.NATEndpoint
	add := func(protocol uint8, address netip.Addr, port uint16) {
		if protocol != 0 && port != 0 {
			endpoints = append(endpoints, loader.NATEndpoint{Protocol: protocol, Address: address, Port: port})
		}
	}
	reached := s.reachedByHost()
	for _, m := range s.members {
		for _, p := range m.Published {
			if p.Host.Port() == 0 || !m.alive() {
				continue
			}
			protocol := protocolNumber(p.Protocol)
			add(protocol, p.Host.Addr(), p.Host.Port())
			for _, address := range reached[m.ID] {
				add(protocol, address, p.Container)
			}
		}
	}
	for port := range s.meshPorts() {
		add(protocolNumber(port.Protocol), netip.IPv4Unspecified(), port.Port)
		add(protocolNumber(port.Protocol), netip.IPv6Unspecified(), port.Port)
	}
	slices.SortFunc(endpoints, func(a, b loader.NATEndpoint) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.Address.Compare(b.Address))
	})
	return slices.Compact(endpoints)
}

// reachedByHost are the addresses at which the host reaches the containers that publish ports, by their IDs: those on the
// gateway bridge as far as they were learned.
func (s *State) reachedByHost() map[string][]netip.Addr {
	reached := make(map[string][]netip.Addr)
	for id, m := range s.members {
		if len(m.Published) == 0 {
			continue
		}
		for _, e := range m.Endpoints {
			if n := s.networks[e.NetworkID]; n != nil && n.Bridge != "" {
				reached[id] = append(reached[id], e.Addresses...)
			}
		}
	}
	for address, id := range s.learned {
		reached[id] = append(reached[id], address)
	}
	return reached
}
