// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// ICMPv6 types of RFC 4861.
const (
	icmpv6NeighborSolicitation  = 135
	icmpv6NeighborAdvertisement = 136
)

// AttributeOverlay says which networks and nodes the overlay signal's news are of, with what passed the VXLAN devices of encrypted
// networks, which [State.Attribute] has put aside. What this host only routes for other nodes, as
// for machines that it hosts, is left out. What is of an endpoint that the engine may soon tell of waits, as there.
func (s *State) AttributeOverlay(traffic []loader.OverlayTraffic, misses []loader.Miss) Overlay {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	overlay := Overlay{Traffic: make([]OverlayTraffic, 0, len(traffic)+len(s.overlays.inner))}
	for _, t := range traffic {
		if !s.isOthers(&t) {
			overlay.Traffic = append(overlay.Traffic, s.overlayTraffic(t))
		}
	}
	var inner [][]OverlayTraffic
	s.overlays.inner, inner = settle(s.overlays.inner, nil, now, s.innerTraffic)
	for _, both := range inner {
		overlay.Traffic = append(overlay.Traffic, both...)
	}
	s.overlays.misses, overlay.Misses = settle(s.overlays.misses, misses, now, s.overlayMiss)
	return overlay
}

// isOthers tells what other nodes send each other by way of this host. It is not known while the host's own addresses are not.
func (s *State) isOthers(t *loader.OverlayTraffic) bool {
	local := t.Local.Unmap()
	return local.IsValid() && len(s.addresses) > 0 && local != s.overlayIndex().self && !s.isOwn(local)
}

func (s *State) overlayTraffic(t loader.OverlayTraffic) OverlayTraffic {
	i := s.overlayIndex()
	told := OverlayTraffic{OverlayTraffic: t}
	if n := i.vnis[t.VNI]; n != nil && t.Channel == loader.ChannelVXLAN && !t.Malformed {
		told.Network, told.NetworkID = n.Name, n.ID
	}
	if peer := i.peers[t.Peer]; peer != nil {
		told.Known, told.Node = true, peer.Node
	}
	return told
}

// innerTraffic is what a flow at a VXLAN device sent to another node, and what came from there.
func (s *State) innerTraffic(f loader.Flow, waited time.Duration) (both []OverlayTraffic, final bool) {
	d := s.overlays.devices[f.Device]
	if d == nil || staysHere(&f) {
		return nil, true
	}
	n := s.overlayIndex().begins(d.network)
	if n == nil {
		return nil, waited >= patience
	}
	t := loader.OverlayTraffic{
		Channel: loader.ChannelVXLAN, Local: s.overlayIndex().self, VNI: s.vniOf(d, n), Last: s.config.Now(),
	}
	if e := s.remoteEndpoint(n, f.Remote, [6]byte{}); e != nil {
		t.Peer = e.Host
	} else if mayBeRemote(n, f.Remote) && s.missOverlay(n.ID) && waited < patience {
		return nil, false
	}
	for _, side := range []struct {
		outgoing bool
		counts   loader.Counts
	}{{true, f.TX}, {false, f.RX}} {
		if side.counts.Skbs > 0 {
			t.Outgoing, t.Counts = side.outgoing, side.counts
			told := s.overlayTraffic(t)
			told.Network, told.NetworkID, told.Inner = n.Name, n.ID, true
			both = append(both, told)
		}
	}
	return both, true
}

// staysHere tells what an engine's VXLAN device sends nobody: it answers requests for link-layer addresses itself, in the name of
// the other node's container, and has no way for what is for all (arp_reduce, neigh_reduce and vxlan_xmit in
// drivers/net/vxlan/vxlan_core.c; the engine sets proxy, and no default destination).
func staysHere(f *loader.Flow) bool {
	switch {
	case f.EtherType == unix.ETH_P_ARP, isGroup(f.Remote):
		return true
	case f.Protocol == unix.IPPROTO_ICMPV6:
		return f.LocalPort == icmpv6NeighborSolicitation || f.LocalPort == icmpv6NeighborAdvertisement
	}
	return false
}

// mayBeRemote tells an address that somebody on the network can have.
func mayBeRemote(n *knownNetwork, address netip.Addr) bool {
	return address.IsValid() && !isGroup(address) && n.isOn(address)
}

// vniOf is the number of a VXLAN device, of which a network has one for each subnet.
func (s *State) vniOf(d *overlayDevice, n *knownNetwork) uint32 {
	if state := s.overlays.sandboxes.find(loader.SandboxOverlay, &n.Network); state != nil {
		if vni := deviceVNI(state, d.Index); vni != 0 {
			return vni
		}
	}
	return n.firstVNI()
}

func deviceVNI(state *loader.SandboxState, index int) uint32 {
	for i := range state.VXLANs {
		if state.VXLANs[i].Index == index {
			return state.VXLANs[i].VNI
		}
	}
	return 0
}

// remoteEndpoint finds who has an address on a network, else a MAC, if he is on another node; nil: nobody who is known.
func (s *State) remoteEndpoint(n *knownNetwork, address netip.Addr, mac [6]byte) *ClusterEndpoint {
	i := s.overlayIndex()
	e := i.endpoints[station{n.ID, address}]
	if e == nil && mac != ([6]byte{}) {
		e = i.macs[overlayMAC{n.ID, mac}]
	}
	if e == nil || e.Local || !e.Host.IsValid() || e.Host == i.self {
		return nil
	}
	return e
}

// overlayMiss says who was missed. It is not final while the engine may soon tell.
func (s *State) overlayMiss(miss loader.Miss, waited time.Duration) (OverlayMiss, bool) {
	told := OverlayMiss{Miss: miss}
	state := s.overlays.sandboxes.byNumber[miss.NetnsID]
	if state == nil {
		return told, waited >= patience
	}
	n := s.networkOf(&state.Sandbox)
	if n == nil {
		return told, waited >= patience
	}
	told.Network, told.NetworkID = n.Name, n.ID
	i := s.overlayIndex()
	e := i.endpoints[station{n.ID, miss.Address}]
	if !miss.Address.IsValid() {
		e = i.macs[overlayMAC{n.ID, miss.MAC}]
	}
	if e == nil {
		return told, !s.missOverlay(n.ID) || waited >= patience
	}
	told.Endpoint = *e
	return told, true
}
