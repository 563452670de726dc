// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/bridgewatch/bridgewatch/loader"
)

// overlayIndex finds who is where on overlay networks by what packets carry. It is made anew when something of that has changed and
// somebody asks.
type overlayIndex struct {
	madeWith  *stationIndex
	networks  map[string]*knownNetwork // overlays, by the beginnings of their IDs that files are named by
	ingress   *knownNetwork            // the routing mesh's; nil: none is known
	vnis      map[uint32]*knownNetwork
	endpoints map[station]*ClusterEndpoint
	macs      map[overlayMAC]*ClusterEndpoint
	members   map[station]*member // containers here
	owners    map[overlayMAC]*member
	vips      map[station]Identity
	peers     map[netip.Addr]*SwarmPeer // by both of their addresses
	ordered   []*SwarmPeer
	stacks    stackNames
	self      netip.Addr
}

// station is an address on a network; addresses repeat across networks.
type station struct {
	networkID string
	address   netip.Addr
}

// overlayMAC likewise.
type overlayMAC struct {
	networkID string
	mac       [6]byte
}

// How much of a network's ID is in the names of its namespaces' files.
const (
	balancerPrefix = 9
	overlayPrefix  = 10
)

func (s *State) overlayIndex() *overlayIndex {
	current := s.index()
	if made := s.overlays.indexed; made != nil && made.madeWith == current {
		return made
	}
	i := &overlayIndex{
		madeWith: current, networks: make(map[string]*knownNetwork), vnis: make(map[uint32]*knownNetwork),
		endpoints: make(map[station]*ClusterEndpoint), macs: make(map[overlayMAC]*ClusterEndpoint),
		members: make(map[station]*member), owners: make(map[overlayMAC]*member), vips: make(map[station]Identity),
		peers: make(map[netip.Addr]*SwarmPeer),
	}
	for _, n := range s.networks {
		if n.isOverlay() {
			i.addNetwork(n)
		}
	}
	for _, m := range s.members {
		i.addMember(m)
	}
	i.self, i.stacks = s.ownTunnelEnd(), s.stacks()
	s.addEndpoints(i)
	s.addVIPs(i)
	s.addPeers(i)
	s.overlays.indexed = i
	return i
}

func (i *overlayIndex) addNetwork(n *knownNetwork) {
	for _, length := range []int{balancerPrefix, overlayPrefix} {
		prefix := n.ID[:min(length, len(n.ID))]
		i.networks[prefix] = newer(i.networks[prefix], n)
	}
	if n.isMesh() {
		i.ingress = newer(i.ingress, n)
	}
	for _, vni := range n.vnis() {
		i.vnis[vni] = newer(i.vnis[vni], n)
	}
}

// newer chooses between two networks of one name: who is there, else who went last.
func newer(a, b *knownNetwork) *knownNetwork {
	if a == nil || b.gone.IsZero() || !a.gone.IsZero() && b.gone.After(a.gone) {
		return b
	}
	return a
}

// begins finds the overlay network by the beginning of its ID; nil: none is known.
func (i *overlayIndex) begins(prefix string) *knownNetwork {
	n := i.networks[prefix[:min(len(prefix), overlayPrefix)]]
	if n == nil || !strings.HasPrefix(n.ID, prefix) {
		return nil
	}
	return n
}

func (i *overlayIndex) addMember(m *member) {
	for _, e := range m.Endpoints {
		if e.MAC != ([6]byte{}) {
			key := overlayMAC{e.NetworkID, e.MAC}
			i.owners[key] = latest(i.owners[key], m)
		}
		for _, a := range e.Addresses {
			key := station{e.NetworkID, a}
			i.members[key] = latest(i.members[key], m)
		}
	}
}

// addEndpoints adds what the engine says of all nodes, and the load balancers that it leaves out.
func (s *State) addEndpoints(i *overlayIndex) {
	for id, w := range s.overlays.words {
		n := s.networks[id]
		if n == nil {
			continue
		}
		for j := range w.endpoints {
			i.add(s.clusterEndpoint(i, n, &w.endpoints[j]))
		}
	}
	for _, b := range s.balancers() {
		i.add(b)
	}
}

func (i *overlayIndex) add(e *ClusterEndpoint) {
	at := station{e.NetworkID, e.Address}
	if known := i.endpoints[at]; known != nil && known.Local && !e.Local {
		return // it has moved here, and the other word is old
	}
	i.endpoints[at] = e
	if e.MAC != ([6]byte{}) {
		i.macs[overlayMAC{e.NetworkID, e.MAC}] = e
	}
}

// clusterEndpoint says whose endpoint it is.
func (s *State) clusterEndpoint(i *overlayIndex, n *knownNetwork, said *overlayEndpoint) *ClusterEndpoint {
	e := &ClusterEndpoint{
		NetworkID: n.ID, Name: said.name, Address: said.address, MAC: said.mac, Host: said.host,
		Local: said.local, LoadBalancer: said.balancer,
	}
	if e.MAC == ([6]byte{}) {
		e.MAC = s.overlays.sandboxes.rows.macOf(n.ID, said)
	}
	if e.Local && !e.Host.IsValid() {
		e.Host = i.self
	}
	if said.balancer {
		e.Name = ""
	} else {
		e.Identity = s.identifyTask(i, n, said)
	}
	e.Network = n.Name
	return e
}

// usualMAC is the one that the engine gives an endpoint with an IPv4 address, unless somebody has asked for another; zero: none is
// known.
func usualMAC(address netip.Addr) (mac [6]byte) {
	if !address.Is4() {
		return mac
	}
	four := address.As4()
	return [6]byte{0x02, 0x42, four[0], four[1], four[2], four[3]}
}

// addVIPs adds the virtual addresses of services, as the engine says them with its networks, and on managers with its services,
// which come first.
func (s *State) addVIPs(i *overlayIndex) {
	for id, w := range s.overlays.words {
		n := s.networks[id]
		if n == nil {
			continue
		}
		for name, service := range w.services {
			if service.vip.IsValid() && name != "" {
				i.vips[station{id, service.vip}] = i.stacks.identity(name, n)
			}
		}
	}
	for j := range s.services {
		for _, at := range s.services[j].Networks {
			if n := s.networks[at.NetworkID]; n != nil && at.VIP.IsValid() {
				identity := s.services[j].identity()
				identity.Network = n.Name
				i.vips[station{at.NetworkID, at.VIP}] = identity
			}
		}
	}
}

// overlayPeer says who has an address on an overlay network, as seen from a container on it. It is not final while the engine may
// soon tell of somebody.
func (s *State) overlayPeer(n *knownNetwork, address netip.Addr) (peer Peer, final bool) {
	if isGroup(address) || slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return broadcast(p) == address }) {
		return Peer{Service: Group}, true
	}
	i, at := s.overlayIndex(), station{n.ID, address}
	if identity, found := i.vips[at]; found {
		return Peer{Stack: identity.Stack, Service: identity.Service}, true
	}
	if m := i.members[at]; m != nil && m.Name != "" && m.alive() {
		return Peer{Stack: m.Stack, Service: first(m.Service, m.Identity.Container), Local: true}, true
	}
	if e := i.endpoints[at]; e != nil {
		if e.LoadBalancer {
			return Peer{Service: LoadBalancer, Local: true}, true
		}
		return Peer{Stack: e.Stack, Service: first(e.Service, e.Container), Local: true}, true
	}
	if m := i.members[at]; m != nil && m.Name != "" { // he who had it last
		return Peer{Stack: m.Stack, Service: first(m.Service, m.Identity.Container), Local: true}, true
	}
	if !n.isOn(address) {
		return Peer{Service: External}, true
	}
	return Peer{Service: External}, !s.missOverlay(n.ID)
}

// isOn tells whether an address is on the network.
func (n *Network) isOn(address netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(address) })
}

// sandboxPort finds a link of one of the engine's namespaces by ifindex; nil: it has none.
func sandboxPort(state *loader.SandboxState, index int) *loader.Link {
	for i := range state.Links {
		if state.Links[i].Index == index && index != 0 {
			return &state.Links[i]
		}
	}
	return nil
}
