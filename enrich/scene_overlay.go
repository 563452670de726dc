// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file has the conditions of causes that are about overlay networks: what happens in the engine's own namespaces, between
// nodes, and to containers for want of what those should do.

// setOverlay notes which of the engine's namespaces a drop was in, and whose that is.
func (s *scene) setOverlay() {
	if s.sandbox = s.sandboxAt(s.drop.Netns); s.sandbox != nil {
		s.network = s.networkOf(&s.sandbox.Sandbox)
	}
}

// isInOverlay tells what happened in an overlay network's namespace, where its bridge and its VXLAN devices are.
func (s *scene) isInOverlay() bool {
	return s.sandbox != nil && s.sandbox.Kind == loader.SandboxOverlay
}

// isInBalancer tells what happened where virtual addresses are served, or published ports of the routing mesh.
func (s *scene) isInBalancer() bool {
	return s.sandbox != nil && (s.sandbox.Kind == loader.SandboxLoadBalancer || s.sandbox.Kind == loader.SandboxIngress)
}

// Packets between nodes, as the host sees them.

// leaves tells which way a packet between nodes went.
func (s *scene) leaves() bool { return s.leavesNode(&s.drop.Drop) }

// remote is the other end of what the host sends or receives.
func (s *scene) remote() netip.Addr {
	if s.leaves() {
		return s.drop.Destination
	}
	return s.drop.Source
}

// isBetweenNodes tells what the host sends to another node of its Swarm, or gets from there.
func (s *scene) isBetweenNodes() bool {
	return s.onHost() && s.node.Role != "" && s.overlayIndex().peers[s.remote()] != nil
}

// isOuterVXLAN tells a tunnel's packet from what is in it.
func (s *scene) isOuterVXLAN() bool {
	d := s.drop
	return d.VXLAN || d.Protocol == unix.IPPROTO_UDP && !d.Fragment && d.DestinationPort == s.overlays.ports().Data
}

// isTunnels tells what carries overlay networks to another node or from there, unless a full table is to blame.
func (s *scene) isTunnels() bool {
	return s.isBetweenNodes() && s.isOuterVXLAN() && !s.isRefusedByConntrack()
}

// isEncryptedTunnels is the same of encrypted networks.
func (s *scene) isEncryptedTunnels() bool {
	return s.isBetweenNodes() && s.drop.Protocol == unix.IPPROTO_ESP && !s.isRefusedByConntrack()
}

// isTunnelOut tells what carries any overlay network to another node.
func (s *scene) isTunnelOut() bool {
	return s.isBetweenNodes() && s.leaves() && (s.isOuterVXLAN() || s.drop.Protocol == unix.IPPROTO_ESP)
}

// isPlainOfEncrypted tells what comes in by VXLAN alone although its network is encrypted. Behind ESP it is past the rules that
// look for that.
func (s *scene) isPlainOfEncrypted() bool {
	d := s.drop
	if !s.onHost() || !d.VXLAN || !d.Routed || s.leaves() {
		return false
	}
	n := s.overlayIndex().vnis[d.VNI]
	return n != nil && n.Encrypted
}

// isGossip tells what engines say to each other of who is there.
func (s *scene) isGossip() bool {
	protocol := s.drop.Protocol
	return (protocol == unix.IPPROTO_UDP || protocol == unix.IPPROTO_TCP) && s.isBetweenNodes() && !s.isRefusedByConntrack() &&
		s.hasPort(s.overlays.ports().Gossip)
}

// isManagers tells what goes between a node and a manager's port for orders and reports.
func (s *scene) isManagers() bool {
	return s.drop.Protocol == unix.IPPROTO_TCP && s.isBetweenNodes() && !s.isRefusedByConntrack() &&
		s.hasPort(s.overlays.ports().Managers...)
}

// hasPort tells whether one end has one of the ports.
func (s *scene) hasPort(ports ...uint16) bool {
	return slices.Contains(ports, s.drop.DestinationPort) || slices.Contains(ports, s.drop.SourcePort)
}

// isForOtherNodesPort tells what comes for a port that other nodes serve, as far as managers tell. A task here would have it
// translated.
func (s *scene) isForOtherNodesPort() bool {
	d := s.drop
	port := MeshPort{Port: d.DestinationPort, Protocol: ProtocolName(d.Protocol)}
	return s.onHost() && !d.Outgoing && slices.ContainsFunc(s.services, func(service Service) bool {
		return slices.Contains(service.HostPorts, port)
	}) && s.publisher() == nil
}

// hasNoDevice tells a tunnel's packet whose number no VXLAN device here has. Kernels before 6.13 do not say so.
func (s *scene) hasNoDevice() bool {
	d := s.drop
	return s.onHost() && d.VXLAN && !slices.ContainsFunc(s.overlays.sandboxes.states, func(state *loader.SandboxState) bool {
		return slices.ContainsFunc(state.VXLANs, func(x loader.VXLAN) bool { return x.VNI == d.VNI })
	})
}

// isAtTunnelEnd tells what a VXLAN device had already taken for its own. Kernels before 6.13 do not say what was wrong then.
func (s *scene) isAtTunnelEnd() bool { return s.isInOverlay() && s.drop.DeviceKind == "vxlan" }

// Packets on overlay networks.

// isToGroup tells frames that are not for one station alone.
func (s *scene) isToGroup() bool { return s.drop.DestinationMAC[0]&1 != 0 || s.isForGroup() }

// isToOne is the contrary.
func (s *scene) isToOne() bool { return !s.isToGroup() }

// stationOf finds who should be at an address, or have a MAC address, on the network whose namespace it is; nil: nobody is known.
func (s *scene) stationOf(mac [6]byte, address netip.Addr) *ClusterEndpoint {
	if s.network == nil {
		return nil
	}
	i := s.overlayIndex()
	if mac != ([6]byte{}) {
		if e := i.macs[overlayMAC{s.network.ID, mac}]; e != nil {
			return e
		}
	}
	return i.endpoints[station{s.network.ID, address}]
}

func (s *scene) destined() *ClusterEndpoint {
	return s.stationOf(s.drop.DestinationMAC, s.drop.Destination)
}
func (s *scene) sender() *ClusterEndpoint { return s.stationOf(s.drop.SourceMAC, s.drop.Source) }

// receiverInOverlay is the container here that a packet on an overlay network is for; nil: none.
func (s *scene) receiverInOverlay() *member {
	if s.network == nil {
		return nil
	}
	i := s.overlayIndex()
	if m := i.owners[overlayMAC{s.network.ID, s.drop.DestinationMAC}]; m != nil {
		return m
	}
	return i.members[station{s.network.ID, s.drop.Destination}]
}

// behindInOverlay is the container behind the device of a drop in an overlay's namespace; nil: none.
func (s *scene) behindInOverlay() *member {
	if s.network == nil {
		return nil
	}
	for _, device := range []int{s.drop.Device, s.drop.InDevice} {
		if m := s.ownerOfLeg(s.sandbox, s.network, device); m != nil {
			return m
		}
	}
	return nil
}

// hasLeft tells what is for somebody whom the network does not have, as far as the engine says: who ended a moment ago, or has
// begun and is not heard of yet.
func (s *scene) hasLeft() bool {
	return s.network != nil && s.isToOne() && s.destined() == nil && s.overlays.words[s.network.ID].isOn()
}

// mayBeHeardOf tells whether the engine may soon tell of whom a packet is for: it is asked again.
func (s *scene) mayBeHeardOf() bool { return s.hasLeft() && s.missOverlay(s.network.ID) }

// lacksRow tells a frame that a VXLAN device should know a node for.
func (s *scene) lacksRow() bool { return s.isToOne() && !s.hasLeft() }

// isAstray tells what came here from another node, although whom it is for is on another one too. In a load balancer's
// namespace it is a copy, of which there is one: the bridge gives to all of its ports what is for nobody here.
func (s *scene) isAstray() bool {
	to, from := s.destined(), s.sender()
	return to != nil && !to.Local && to.Host.IsValid() && from != nil && !from.Local
}

func (s *scene) isAstrayInOverlay() bool  { return s.isAtTunnelEnd() && s.isAstray() }
func (s *scene) isAstrayInBalancer() bool { return s.isInBalancer() && s.isAstray() }

// overlaysOf are the networks between nodes that the place of a drop is on: a container's, or a load balancer's.
func (s *scene) overlaysOf() (ids []string) {
	switch {
	case s.isInBalancer() && s.network != nil:
		return []string{s.network.ID}
	case s.owner != nil:
		for _, e := range s.owner.Endpoints {
			if n := s.networks[e.NetworkID]; n != nil && n.isOverlay() {
				ids = append(ids, n.ID)
			}
		}
	}
	return ids
}

// isForElsewhere tells what is for somebody who is on another node, and on a network of the sender's: this node's VXLAN device
// answers for him.
func (s *scene) isForElsewhere() bool {
	i := s.overlayIndex()
	return slices.ContainsFunc(s.overlaysOf(), func(id string) bool {
		e := i.endpoints[station{id, s.drop.Destination}]
		return e != nil && !e.Local && e.Host.IsValid()
	})
}

// isForVIP tells what is for a service's virtual address on a network of the sender's: this node's load balancer answers for it.
func (s *scene) isForVIP() bool {
	i := s.overlayIndex()
	return slices.ContainsFunc(s.overlaysOf(), func(id string) bool {
		_, found := i.vips[station{id, s.drop.Destination}]
		return found
	})
}

// isForVIPInVain is the same where the kernel has no IPVS, so that nobody does.
func (s *scene) isForVIPInVain() bool {
	return s.isForVIP() && slices.ContainsFunc(s.overlays.sandboxes.states, func(state *loader.SandboxState) bool { return state.NoIPVS })
}

// isForMesh tells what a container's rules drop because the routing mesh does not publish the port: those that the engine has
// written into it, for its address on the mesh's network.
func (s *scene) isForMesh() bool {
	mesh := s.overlayIndex().ingress
	if s.owner == nil || mesh == nil {
		return false
	}
	return slices.ContainsFunc(s.owner.Endpoints, func(e Endpoint) bool {
		return e.NetworkID == mesh.ID && (slices.Contains(e.Addresses, s.drop.Destination) || slices.Contains(e.Addresses, s.drop.Source))
	})
}
