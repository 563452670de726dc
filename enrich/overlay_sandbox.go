// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// sandboxes are the engine's own namespaces on this node, as they were seen last.
type sandboxes struct {
	states []*loader.SandboxState
	// By what the kernel calls them. Numbers of namespaces are used again as soon as they are free: each look replaces all, but
	// for those by netns that nobody has taken over, of which the last drops may still be read.
	byNetns  map[loader.Netns]sandboxPlace
	byNumber map[int]*loader.SandboxState
	rows     rowMemory
	backends map[backendAt]time.Time // of whom nobody is known, since when
}

// sandboxPlace is one of the engine's namespaces that may be gone by now.
type sandboxPlace struct {
	*loader.SandboxState
	gone time.Time // zero: it was there at the last look
}

func newSandboxes() sandboxes {
	return sandboxes{
		byNetns: make(map[loader.Netns]sandboxPlace), byNumber: make(map[int]*loader.SandboxState), rows: newRowMemory(),
	}
}

// scopeOfSandbox is that of what happens in one of the engine's own namespaces; ScopeUnknown: it is none of these.
func scopeOfSandbox(kind loader.SandboxKind) Scope {
	switch kind {
	case loader.SandboxOverlay:
		return ScopeOverlay
	case loader.SandboxLoadBalancer:
		return ScopeLoadBalancer
	case loader.SandboxIngress:
		return ScopeIngress
	}
	return ScopeUnknown
}

// SetSandboxes takes in the namespaces of overlays, load balancers and the routing mesh that were there at a look a moment ago, all
// of them. They become the State's.
func (s *State) SetSandboxes(states []loader.SandboxState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	k := &s.overlays.sandboxes
	k.states = k.states[:0:0]
	clear(k.byNumber)
	for netns, p := range k.byNetns {
		if p.gone.IsZero() {
			p.gone = now
			k.byNetns[netns] = p
		} else if now.Sub(p.gone) > keep {
			delete(k.byNetns, netns)
		}
	}
	for i := range states {
		if scopeOfSandbox(states[i].Kind) != ScopeUnknown {
			k.add(&states[i])
		}
	}
	s.overlays.outdate()
	s.compareTables(now)
	s.missBackends()
}

func (k *sandboxes) add(state *loader.SandboxState) {
	k.states = append(k.states, state)
	if state.Netns != 0 {
		k.byNetns[state.Netns] = sandboxPlace{SandboxState: state}
	}
	if state.NetnsID >= 0 {
		k.byNumber[state.NetnsID] = state
	}
}

// tunnelEnds are the nodes that the engine's rows in an overlay's FDB lead to, sorted.
func tunnelEnds(state *loader.SandboxState) (ends []netip.Addr) {
	for i := range state.FDB {
		if peer := state.FDB[i].Peer; state.FDB[i].Permanent && peer.IsValid() && !peer.IsUnspecified() {
			ends = append(ends, peer)
		}
	}
	slices.SortFunc(ends, netip.Addr.Compare)
	return slices.Compact(ends)
}

// dataPort is the one that VXLAN devices use; 0: there are none.
func (k *sandboxes) dataPort() uint16 {
	for _, state := range k.states {
		for i := range state.VXLANs {
			if port := state.VXLANs[i].Port; port != 0 {
				return port
			}
		}
	}
	return 0
}

// find returns the namespace of a kind that belongs to a network; nil: there is none here.
func (k *sandboxes) find(kind loader.SandboxKind, n *Network) *loader.SandboxState {
	for _, state := range k.states {
		if state.Kind == kind && belongs(&state.Sandbox, n) {
			return state
		}
	}
	return nil
}

// belongs tells whether a namespace is a network's. The routing mesh's has a name of its own.
func belongs(sandbox *loader.Sandbox, n *Network) bool {
	if sandbox.Kind == loader.SandboxIngress {
		return n.isMesh()
	}
	return sandbox.Network != "" && strings.HasPrefix(n.ID, sandbox.Network)
}

// isMesh tells the network of the routing mesh: the only overlay that Docker makes itself.
func (n *Network) isMesh() bool { return n.isOverlay() && n.Predefined }

// networkOf finds whose network's namespace it is; nil: of none that is known.
func (s *State) networkOf(sandbox *loader.Sandbox) *knownNetwork {
	if sandbox.Kind == loader.SandboxIngress {
		return s.overlayIndex().ingress
	}
	return s.overlayIndex().begins(sandbox.Network)
}

// sandboxAt finds the engine's namespace that something happened in; nil: it was in another. One that is gone yields to a container
// that has its number, and any to a container that is there with it: it has come since the last look.
func (s *State) sandboxAt(netns loader.Netns) *loader.SandboxState {
	p, found := s.overlays.sandboxes.byNetns[netns]
	if !found || netns == 0 {
		return nil
	}
	if id, taken := s.netns[netns]; taken && (!p.gone.IsZero() || s.stillIn(id, netns)) {
		return nil
	}
	return p.SandboxState
}

// stillIn tells whether a container lives in a namespace that it once was in.
func (s *State) stillIn(id string, netns loader.Netns) bool {
	m := s.members[id]
	return m != nil && m.alive() && s.left[netns].IsZero()
}

// sandboxBehind finds the engine's namespace that a link of the host leads to, by the ifindexes of both ends; nil: it leads elsewhere.
func (s *State) sandboxBehind(p *port) *loader.SandboxState {
	if p == nil || p.Kind != "veth" || p.owner != "" || p.PeerNetnsID < 0 {
		return nil
	}
	state := s.overlays.sandboxes.byNumber[p.PeerNetnsID]
	if state == nil {
		return nil
	}
	if l := sandboxPort(state, p.Peer); l == nil || l.Peer != p.Index {
		return nil
	}
	return state
}

// Encrypted tells whether the overlay network whose ID begins so is encrypted: what leaves its VXLAN devices is not to be told apart
// on the wire.
func (s *State) Encrypted(network string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.overlayIndex().begins(network)
	return n != nil && n.Encrypted
}

// networkInPath is the beginning of the ID of the network whose namespace has the path.
func networkInPath(path string) string {
	_, network, _ := strings.Cut(filepath.Base(path), "-")
	return network
}

// SetLinksInside says which links a container has, so that the other ends of its veths are known to be its own, wherever they are.
func (s *State) SetLinksInside(containerID string, links []loader.Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overlays.legs.set(containerID, links, s.config.Now())
}

// UnknownLegs lists the living containers on overlay networks whose links have not been told of since they are there: ID to the
// path of the namespace.
func (s *State) UnknownLegs() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths := make(map[string]string)
	for id, m := range s.members {
		if m.alive() && m.Running && m.SandboxKey != "" && m.OwnsNetns() && s.lacksLeg(m) {
			paths[id] = m.SandboxKey
		}
	}
	return paths
}

// lacksLeg tells whether a container has a place on an overlay network that none of its known links is for.
func (s *State) lacksLeg(m *member) bool {
	known := s.overlays.legs.of[m.ID]
	return slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool {
		n := s.networks[e.NetworkID]
		if n == nil || !n.isOverlay() || e.MAC == ([6]byte{}) {
			return false
		}
		return known.read.Before(m.StartedAt) || !slices.Contains(known.macs, e.MAC)
	})
}

// leg is a veth by the ifindexes of its two ends.
type leg struct{ inside, outside int }

// legs tell which veth is whose. Most keep the ifindexes that they got on the host, of which no two are the same.
type legs struct {
	owners map[leg]string
	of     map[string]legsOf
}

// legsOf are those of one container, as they were read at a time.
type legsOf struct {
	legs []leg
	macs [][6]byte
	read time.Time
}

func newLegs() legs { return legs{owners: make(map[leg]string), of: make(map[string]legsOf)} }

func (l *legs) set(owner string, links []loader.Link, read time.Time) {
	l.forget(owner)
	known := legsOf{read: read}
	for i := range links {
		if links[i].Kind != "veth" || links[i].Peer == 0 {
			continue
		}
		found := leg{inside: links[i].Index, outside: links[i].Peer}
		l.owners[found] = owner
		known.legs = append(known.legs, found)
		known.macs = append(known.macs, links[i].MAC)
	}
	l.of[owner] = known
}

func (l *legs) forget(owner string) {
	for _, old := range l.of[owner].legs {
		if l.owners[old] == owner {
			delete(l.owners, old)
		}
	}
	delete(l.of, owner)
}
