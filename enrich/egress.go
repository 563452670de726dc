// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Egress is a loader's egress with its owner.
type Egress struct {
	loader.Egress
	Identity // of the container that has the address, or had it last; the network alone if none is known

	ContainerID string
}

// AttributeEgress finds the owners of what left the host untranslated. What nobody has, as a made-up address, keeps its
// network.
func (s *State) AttributeEgress(egresses []loader.Egress) []Egress {
	s.mu.Lock()
	defer s.mu.Unlock()
	attributed := make([]Egress, 0, len(egresses))
	for _, e := range egresses {
		attributed = append(attributed, s.attributeEgress(e))
	}
	return attributed
}

func (s *State) attributeEgress(e loader.Egress) Egress {
	egress := Egress{Egress: e}
	if m := s.memberByAddress(e.Source); m != nil && m.Name != "" {
		egress.Identity = m.Identity
		egress.ContainerID = m.ID
	}
	if n := s.index().bridgeNetwork(e.Source); n != nil {
		egress.Network = n.Name
	}
	return egress
}

// Uplinks says by which links, given by ifindex, packets leave this host, and from which subnets none should, since Docker
// is to translate them. As long as there is no such subnet there is nothing to look for, and no link either.
func (s *State) Uplinks() (indexes []int, subnets []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.networks {
		for _, subnet := range n.Subnets {
			if n.translates(subnet) {
				subnets = append(subnets, subnet)
			}
		}
	}
	if len(subnets) == 0 {
		return nil, nil
	}
	open := s.openBridges()
	for index, p := range s.links {
		if s.isUplink(p, open) {
			indexes = append(indexes, index)
		}
	}
	slices.Sort(indexes)
	slices.SortFunc(subnets, netip.Prefix.Compare)
	return indexes, subnets
}

// translates tells whether Docker is to translate what leaves the host from a subnet of the network. Public IPv6 addresses
// may leave as they are, and from engines before 27 they do.
func (n *knownNetwork) translates(subnet netip.Prefix) bool {
	if n.Driver != "bridge" || n.Internal || !n.Masquerade || !n.gone.IsZero() {
		return false
	}
	mode := n.GatewayMode4
	if subnet.Addr().Is6() {
		if !subnet.Addr().IsPrivate() {
			return false
		}
		mode = n.GatewayMode6
	}
	return mode != "routed" && mode != "isolated"
}

// isUplink tells whether a link leads out of this host. A link with others on top of it (VLANs, macvlan) is one too: it has
// packets of its own.
func (s *State) isUplink(p *port, open map[int]bool) bool {
	if !p.gone.IsZero() || p.Name == "" || p.Loopback || s.isPart(p) {
		return false
	}
	switch p.Kind {
	case "bridge":
		return open[p.Index] && s.networkOfBridge(p.Index) == ""
	case "veth":
		return p.owner == "" && p.PeerNetnsID >= 0 // else both ends are this host's
	case "dummy", "ifb", "nlmon", "vrf":
		return false
	}
	return true
}

// isPart tells whether packets are routed to a link's master instead: to a bridge or a bond, but not to a VRF.
func (s *State) isPart(p *port) bool {
	master := s.links[p.Master]
	return p.Master != 0 && (master == nil || master.Kind != "vrf")
}

// openBridges are those with a port that leads out of this host. A bridge of containers and virtual machines only does not,
// nor does Docker's own before the engine has told of it.
func (s *State) openBridges() map[int]bool {
	open := make(map[int]bool)
	for _, p := range s.links {
		if p.Master != 0 && p.gone.IsZero() && p.Name != "" && p.Kind != "veth" && p.Kind != "tun" {
			open[p.Master] = true
		}
	}
	return open
}
