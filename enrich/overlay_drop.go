// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// victimInSandbox finds whose packet was lost in one of the engine's own namespaces: the container here that it was of, which may
// be none, and the network.
func (s *State) victimInSandbox(state *loader.SandboxState, d *loader.Drop) victim {
	n := s.networkOf(&state.Sandbox)
	if n == nil {
		return victim{}
	}
	i := s.overlayIndex()
	lost := victim{network: n.Name}
	for _, side := range []struct {
		mac       [6]byte
		address   netip.Addr
		direction Direction
	}{{d.SourceMAC, d.Source, TX}, {d.DestinationMAC, d.Destination, RX}} {
		m := i.owners[overlayMAC{n.ID, side.mac}]
		if m == nil && !d.VXLAN {
			m = i.members[station{n.ID, side.address}]
		}
		if m != nil {
			lost.member, lost.direction = m, side.direction
			return lost
		}
	}
	for _, side := range []struct {
		port      int
		direction Direction
	}{{d.InDevice, TX}, {d.Device, RX}} {
		if m := s.ownerOfLeg(state, n, side.port); m != nil {
			lost.member, lost.direction = m, side.direction
			return lost
		}
	}
	return lost
}

// ownerOfLeg finds the container behind a port of an overlay's bridge, by ifindex.
func (s *State) ownerOfLeg(state *loader.SandboxState, n *knownNetwork, index int) *member {
	l := sandboxPort(state, index)
	if l == nil || l.Kind != "veth" {
		return nil
	}
	if m := s.members[s.overlays.legs.owners[leg{inside: l.Peer, outside: l.Index}]]; m != nil && m.isOn(n.ID) {
		return m
	}
	return nil
}

// nameTunnel says of a drop in the host's namespace or one of the engine's own which overlay network it was on. That is whose it is
// as long as no container is known.
func (s *State) nameTunnel(drop *Drop, state *loader.SandboxState) {
	drop.Tunnel = s.tunnelOf(&drop.Drop, state)
	if drop.Tunnel != nil {
		drop.Network = first(drop.Network, drop.Tunnel.Network)
	}
}

// tunnelOf says which overlay network a drop was on and between which nodes, if it was between two: nil otherwise. It is so of outer
// VXLAN packets wherever they are lost, of ESP between nodes, and of what is lost at a VXLAN device.
func (s *State) tunnelOf(d *loader.Drop, state *loader.SandboxState) *Tunnel {
	if s.node.Role == "" {
		return nil
	}
	switch {
	case d.VXLAN:
		return s.outerTunnel(d)
	case state == nil && d.Protocol == unix.IPPROTO_UDP && d.DestinationPort != 0 && d.DestinationPort == s.overlays.ports().Data:
		return s.outerTunnel(d) // without a VNI that could be read
	case state == nil && d.Protocol == unix.IPPROTO_ESP:
		t := s.outerTunnel(d)
		if s.overlayIndex().peers[t.Peer] == nil {
			return nil // somebody else's
		}
		t.Encrypted = true
		return t
	case state != nil && state.Kind == loader.SandboxOverlay && d.DeviceKind == "vxlan":
		return s.innerTunnel(d, state)
	}
	return nil
}

// outerTunnel is of a packet between nodes.
func (s *State) outerTunnel(d *loader.Drop) *Tunnel {
	t := &Tunnel{VNI: d.VNI, Outgoing: s.leavesNode(d)}
	t.Local, t.Peer = d.Destination, d.Source
	if t.Outgoing {
		t.Local, t.Peer = d.Source, d.Destination
	}
	if n := s.overlayIndex().vnis[d.VNI]; n != nil && d.VXLAN {
		t.Network = n.Name
	}
	s.namePeer(t)
	return t
}

// leavesNode tells which way a packet between nodes went.
func (s *State) leavesNode(d *loader.Drop) bool {
	self := s.overlayIndex().self
	switch {
	case d.Source.IsValid() && (d.Source == self || s.isOwn(d.Source)):
		return true
	case d.Destination.IsValid() && (d.Destination == self || s.isOwn(d.Destination)):
		return false
	}
	return d.Outgoing
}

// innerTunnel is of a packet of containers at a VXLAN device, before it was wrapped or after.
func (s *State) innerTunnel(d *loader.Drop, state *loader.SandboxState) *Tunnel {
	n := s.networkOf(&state.Sandbox)
	if n == nil {
		return nil
	}
	i := s.overlayIndex()
	t := &Tunnel{Network: n.Name, VNI: deviceVNI(state, d.Device), Local: i.self}
	if t.VNI == 0 {
		t.VNI = n.firstVNI()
	}
	if from := s.remoteEndpoint(n, d.Source, d.SourceMAC); from != nil { // whoever it is for: it may have come here astray
		t.Peer = from.Host
	} else if to := s.remoteEndpoint(n, d.Destination, d.DestinationMAC); to != nil {
		t.Outgoing, t.Peer = true, to.Host
	} else {
		t.Outgoing = d.InDevice != d.Device && sandboxPort(state, d.InDevice) != nil // it came in by another port of the bridge
	}
	s.namePeer(t)
	return t
}

func (s *State) namePeer(t *Tunnel) {
	if peer := s.overlayIndex().peers[t.Peer]; peer != nil {
		t.Node = peer.Node
	}
}

// vnis are the numbers of an overlay network, one for each subnet.
func (n *Network) vnis() (numbers []uint32) {
	if !n.isOverlay() {
		return nil
	}
	for text := range strings.SplitSeq(n.VNI, ",") {
		if number, err := strconv.ParseUint(strings.TrimSpace(text), 10, 24); err == nil {
			numbers = append(numbers, uint32(number))
		}
	}
	return numbers
}

func (n *Network) firstVNI() uint32 {
	if numbers := n.vnis(); len(numbers) > 0 {
		return numbers[0]
	}
	return 0
}
