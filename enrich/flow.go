// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Via says what kind of device a flow was counted at.
type Via string

// A container's own interface, a network's bridge, the interface of a load balancer or of the routing mesh, which only passes on
// what others send, or one that is none of these.
const (
	ViaContainer Via = "container"
	ViaBridge    Via = "bridge"
	ViaSandbox   Via = "sandbox"
	ViaNobody    Via = "nobody"
)

// Peer is the other end of a conversation.
type Peer struct {
	Stack   string
	Service string // of a container without one: its container label. Host, Group, LoadBalancer or External for others
	// Local tells somebody whose own interface counts the conversation too: a container of this host, or of another node of the
	// Swarm, whose agent does.
	Local bool
}

// Flow is a loader's flow with its meaning.
type Flow struct {
	loader.Flow
	Identity

	ContainerID string
	Scope       Scope
	Via         Via
	Peer        Peer
}

// attributeFlow finds the owner of a flow's device. It is not final while the owner may still become known.
func (s *State) attributeFlow(f loader.Flow) (flow Flow, final bool) {
	flow = Flow{Flow: f, Via: ViaNobody, Scope: ScopeUnknown}
	if c := s.children[f.Device]; c != nil {
		return s.flowOf(flow, s.members[c.owner], func(m *member) string { return m.network(c.MAC, f.Local) })
	}
	if d := s.overlays.devices[f.Device]; d != nil {
		return s.attributeOverlayFlow(flow, d)
	}
	p := s.links[int(f.Device)]
	if p == nil {
		return flow, false
	}
	if state := s.sandboxBehind(p); state != nil {
		return s.attributeMeshFlow(flow, p, state)
	}
	if p.Kind == "bridge" {
		flow.Network = s.networkOfBridge(p.Index)
		flow.Scope = ScopeHost
		if flow.Network == "" {
			return flow, false
		}
		flow.Via = ViaBridge
		return flow, true
	}
	return s.flowOf(flow, s.members[p.owner], func(*member) string { return s.networkOfBridge(p.Master) })
}

func (s *State) flowOf(flow Flow, owner *member, networkOf func(*member) string) (Flow, bool) {
	if owner == nil || owner.Name == "" {
		return flow, false
	}
	flow.Via = ViaContainer
	flow.Scope = ScopeContainer
	flow.Identity = owner.Identity
	flow.ContainerID = owner.ID
	flow.Network = networkOf(owner)
	flow.Peer = s.peer(flow.Remote)
	if flow.TX.Skbs > 0 {
		s.learn(flow.Local, owner)
	}
	return flow, true
}

// peer says who has the address, as seen from a container. On its link there are only containers and the host.
func (s *State) peer(address netip.Addr) Peer {
	if isGroup(address) {
		return Peer{Service: Group}
	}
	if m := s.memberByAddress(address); m != nil {
		return Peer{Stack: m.Stack, Service: first(m.Service, m.Identity.Container), Local: true}
	}
	if s.isHost(address) {
		return Peer{Service: Host}
	}
	return Peer{Service: External}
}

// isHost tells whether an address is the host's own. It is the gateway of networks with a bridge, and only of those.
func (s *State) isHost(address netip.Addr) bool {
	if _, ours := s.addresses[address]; ours || address.IsLinkLocalUnicast() {
		return true
	}
	_, gateway := s.index().gateways[address]
	return gateway
}
