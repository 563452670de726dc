// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"strings"
)

// ownTunnelEnd is this node's data-path address: as the engine says where its own containers are, else the one that it advertises.
// Not valid: it is in no Swarm.
func (s *State) ownTunnelEnd() netip.Addr {
	if s.node.Role == "" {
		return netip.Addr{}
	}
	for _, w := range s.overlays.words {
		for i := range w.endpoints {
			if e := &w.endpoints[i]; e.local && e.host.IsValid() {
				return e.host
			}
		}
	}
	return s.overlays.info.address
}

// peerList gathers the other nodes. Their control plane and their data path are heard of apart, and mostly have the same address.
type peerList struct {
	own     []netip.Addr
	control map[netip.Addr]*SwarmPeer
	data    map[netip.Addr]string // by data-path address: the node's ID, "" if that is not known
	nets    map[netip.Addr][]string
}

// addPeers finds the other nodes of the Swarm in all that is known of it.
func (s *State) addPeers(i *overlayIndex) {
	if !i.self.IsValid() {
		return
	}
	l := peerList{
		own: []netip.Addr{i.self, s.overlays.info.address}, control: make(map[netip.Addr]*SwarmPeer),
		data: make(map[netip.Addr]string), nets: make(map[netip.Addr][]string),
	}
	s.gatherControl(&l)
	s.gatherData(i, &l)
	i.ordered = l.join()
	for _, p := range i.ordered {
		i.peers[p.Address] = p
	}
	for _, p := range i.ordered {
		if p.Control.IsValid() && i.peers[p.Control] == nil {
			i.peers[p.Control] = p
		}
	}
}

// gatherControl takes in who manages, gossips, or is listed by managers.
func (s *State) gatherControl(l *peerList) {
	for _, m := range s.overlays.info.managers {
		if p := l.controlled(m.address.Addr()); p != nil {
			p.ID, p.Manager = m.id, true
		}
	}
	for id, w := range s.overlays.words {
		for _, address := range w.peers {
			if l.controlled(address) != nil {
				l.on(address, s.networks[id])
			}
		}
	}
	s.gatherNodes(l)
}

// gatherNodes takes in what managers list. Who is none any more keeps the list that it had last: that may name nodes, but who is in
// it may have left since.
func (s *State) gatherNodes(l *peerList) {
	manager := s.node.Role == roleManager
	for j := range s.overlays.nodes {
		n := &s.overlays.nodes[j]
		if !manager && l.control[n.address] == nil {
			continue
		}
		p := l.controlled(n.address)
		if p == nil {
			continue
		}
		p.ID, p.Node, p.Manager = n.id, n.name, p.Manager || n.manager.IsValid()
		if manager {
			p.State = n.state
		}
	}
}

// controlled returns the node that has an address, which may be new; nil: it is this one, or no address.
func (l *peerList) controlled(address netip.Addr) *SwarmPeer {
	if !address.IsValid() || slices.Contains(l.own, address) {
		return nil
	}
	p := l.control[address]
	if p == nil {
		p = &SwarmPeer{Address: address, Control: address}
		l.control[address] = p
	}
	return p
}

// gatherData takes in where endpoints are, and as long as the engine has not told, where the rows of FDBs lead.
func (s *State) gatherData(i *overlayIndex, l *peerList) {
	for id, w := range s.overlays.words {
		for j := range w.endpoints {
			e := &w.endpoints[j]
			if e.local || !e.host.IsValid() || slices.Contains(l.own, e.host) {
				continue
			}
			l.data[e.host] = first(nodeOfTask(e.service, e.name), l.data[e.host])
			l.on(e.host, s.networks[id])
		}
	}
	for at := range s.overlays.sandboxes.rows.balancers {
		l.ends(at.host)
	}
	for _, state := range s.overlays.sandboxes.states {
		if n := i.begins(state.Network); n == nil || !s.overlays.words[n.ID].isOn() {
			l.ends(tunnelEnds(state)...) // nobody else tells; where the engine does, a row may lead to who is no node any more
		}
	}
}

// ends notes where tunnels end.
func (l *peerList) ends(addresses ...netip.Addr) {
	for _, end := range addresses {
		if _, known := l.data[end]; !known && end.IsValid() && !slices.Contains(l.own, end) {
			l.data[end] = ""
		}
	}
}

func (l *peerList) on(address netip.Addr, n *knownNetwork) {
	if n != nil && n.gone.IsZero() && !slices.Contains(l.nets[address], n.Name) {
		l.nets[address] = append(l.nets[address], n.Name)
	}
}

// join makes one of the two addresses of each node that has two: where the names of its tasks tell its ID, or no other node is left
// that it could be.
func (l *peerList) join() []*SwarmPeer {
	var strange []netip.Addr
	for data, id := range l.data {
		if l.control[data] != nil {
			continue
		}
		if p := l.byID(id); p != nil {
			p.Address = data
			continue
		}
		strange = append(strange, data)
	}
	if left := l.withoutData(); len(strange) == 1 && len(left) == 1 {
		left[0].Address = strange[0]
		strange = nil
	}
	peers := make([]*SwarmPeer, 0, len(l.control)+len(strange))
	for _, p := range l.control {
		peers = append(peers, p)
	}
	for _, data := range strange {
		peers = append(peers, &SwarmPeer{Address: data, ID: l.data[data]})
	}
	for _, p := range peers {
		p.Nets = append(slices.Clone(l.nets[p.Address]), l.nets[p.Control]...)
		slices.Sort(p.Nets)
		p.Nets = slices.Compact(p.Nets)
	}
	slices.SortFunc(peers, func(a, b *SwarmPeer) int { return a.Address.Compare(b.Address) })
	return peers
}

func (l *peerList) byID(id string) *SwarmPeer {
	for _, p := range l.control {
		if id != "" && p.ID == id {
			return p
		}
	}
	return nil
}

// withoutData are the nodes that have no address of a data path yet.
func (l *peerList) withoutData() (left []*SwarmPeer) {
	for control, p := range l.control {
		if _, known := l.data[control]; !known && p.Address == control {
			left = append(left, p)
		}
	}
	return left
}

// swarmPeers returns the other nodes. They become the caller's.
func (i *overlayIndex) swarmPeers() []SwarmPeer {
	peers := make([]SwarmPeer, 0, len(i.ordered))
	for _, p := range i.ordered {
		told := *p
		told.Nets = slices.Clone(p.Nets)
		peers = append(peers, told)
	}
	slices.SortFunc(peers, func(a, b SwarmPeer) int {
		if c := a.Address.Compare(b.Address); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return peers
}
