// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// overlayDevice is a device that is watched in an overlay network's namespace.
type overlayDevice struct {
	loader.Link
	network string // the beginning of its ID
	// Who is behind it, once known. It stays: the device ends with the other end.
	owner string // container ID; "": none
	scope Scope  // of a load balancer, or of the routing mesh; "": neither
}

// OverlayDevices says which devices are watched in the namespace of an overlay network that has the path: all of them.
func (s *State) OverlayDevices(path string, devices []loader.OverlayDevice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range devices {
		known := s.overlays.devices[d.ID]
		if known == nil {
			known = &overlayDevice{network: networkInPath(path)}
			s.overlays.devices[d.ID] = known
		}
		known.Link = d.Link
	}
}

// isTunnel tells a VXLAN device, which is watched for what encryption hides.
func (d *overlayDevice) isTunnel() bool { return d.Kind == "vxlan" }

// attributeOverlayFlow finds the owner of a veth in an overlay network's namespace: a container's, a load balancer's or the routing
// mesh's.
func (s *State) attributeOverlayFlow(flow Flow, d *overlayDevice) (Flow, bool) {
	n := s.overlayIndex().begins(d.network)
	if n == nil {
		return flow, false
	}
	if owner := s.ownerOfPort(d, n, &flow.Flow); owner != nil {
		return s.flowInside(flow, owner, n)
	}
	if d.scope == "" {
		d.scope = s.scopeOfPort(d, n, &flow.Flow)
	}
	if d.scope == "" {
		return flow, false
	}
	flow.Via = ViaSandbox
	flow.Scope = d.scope
	flow.Network = n.Name
	var final bool
	flow.Peer, final = s.overlayPeer(n, flow.Remote)
	return flow, final
}

// flowInside is what a container sent and received on an overlay network. Its addresses are not learned: those of the host's
// networks may be the same.
func (s *State) flowInside(flow Flow, owner *member, n *knownNetwork) (Flow, bool) {
	if owner.Name == "" {
		return flow, false
	}
	flow.Via = ViaContainer
	flow.Scope = ScopeContainer
	flow.Identity = owner.Identity
	flow.ContainerID = owner.ID
	flow.Network = n.Name
	var final bool
	flow.Peer, final = s.overlayPeer(n, flow.Remote)
	return flow, final
}

// ownerOfPort finds the container behind a veth: by both ends' ifindexes, if that container is on the network, else as was found
// before, else by the address that it sends from. What comes to it tells nothing: bridges flood.
func (s *State) ownerOfPort(d *overlayDevice, n *knownNetwork, f *loader.Flow) *member {
	m := s.members[s.overlays.legs.owners[leg{inside: d.Peer, outside: d.Index}]]
	if m == nil || !m.isOn(n.ID) {
		m = s.members[d.owner]
	}
	if m == nil && f.TX.Skbs > 0 {
		m = s.overlayIndex().members[station{n.ID, f.Local}]
	}
	if m != nil {
		d.owner = m.ID
	}
	return m
}

// scopeOfPort tells whether it is a load balancer or the routing mesh that is behind a veth: by both ends' ifindexes, else by the
// address that it sends from; "": it is neither.
func (s *State) scopeOfPort(d *overlayDevice, n *knownNetwork, f *loader.Flow) Scope {
	kind := loader.SandboxLoadBalancer
	if n.isMesh() {
		kind = loader.SandboxIngress
	}
	state := s.overlays.sandboxes.find(kind, &n.Network)
	if state == nil {
		return ""
	}
	if l := sandboxPort(state, d.Peer); l != nil && l.Peer == d.Index {
		return scopeOfSandbox(kind)
	}
	mac := usualMAC(f.Local)
	if f.TX.Skbs > 0 && f.Local.Is4() && slices.ContainsFunc(state.Links, func(l loader.Link) bool { return l.MAC == mac }) {
		return scopeOfSandbox(kind)
	}
	return ""
}

// attributeMeshFlow is of the routing mesh's other leg, on the gateway bridge, by which it gets what comes from outside.
func (s *State) attributeMeshFlow(flow Flow, p *port, state *loader.SandboxState) (Flow, bool) {
	flow.Via = ViaSandbox
	flow.Scope = scopeOfSandbox(state.Kind)
	flow.Network = s.networkOfBridge(p.Master)
	flow.Peer = s.peer(flow.Remote)
	return flow, true
}

// putAside takes the flows at VXLAN devices, which are no container's, out of a reading.
func (s *State) putAside(flows []loader.Flow, now time.Time) []loader.Flow {
	var tunnels int
	for i := range flows {
		if d := s.overlays.devices[flows[i].Device]; d != nil && d.isTunnel() {
			tunnels++
		}
	}
	if tunnels == 0 {
		return flows
	}
	rest := make([]loader.Flow, 0, len(flows)-tunnels)
	for _, f := range flows {
		if d := s.overlays.devices[f.Device]; d != nil && d.isTunnel() {
			s.overlays.inner = append(s.overlays.inner, waiting[loader.Flow]{record: f, since: now})
		} else {
			rest = append(rest, f)
		}
	}
	return rest
}
