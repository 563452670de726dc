// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// recently is how long a container that ended or began explains that packets for it are lost: neighbours need three
// seconds to be given up, and the engine tells of the end a moment late.
const recently = 10 * time.Second

// Flags of a TCP segment.
const (
	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpACK = 1 << 4
)

const dnsPort = 53

// smallMTU is a size, in bytes, that every usual link takes: what is smaller was not refused for its size.
const smallMTU = 576

// scene is a drop and what is known of the place where it happened. Its methods are the conditions of causes.
type scene struct {
	*State
	drop  *lostPacket
	owner *member // of the namespace, nil: it is the host's, the engine's or nobody's
	// sandbox is the engine's own namespace that it happened in, and network whose that is; nil: it was another, or is not known.
	sandbox *loader.SandboxState
	network *knownNetwork
}

func (s *State) sceneOf(lost *lostPacket) *scene {
	scene := &scene{State: s, drop: lost}
	if lost.Netns != s.config.Host {
		scene.owner = s.members[s.netns[lost.Netns]]
		scene.setOverlay()
	}
	return scene
}

func (s *scene) onHost() bool { return s.drop.Netns == s.config.Host }

// isInside tells what was dropped in a container's own namespace.
func (s *scene) isInside() bool { return s.owner != nil }

// Kinds of packets.

// isForGroup tells multicast and broadcast, that of a Docker network's subnet too.
func (s *scene) isForGroup() bool {
	_, subnets := s.index().broadcasts[s.drop.Destination]
	return subnets || isGroup(s.drop.Destination)
}

// isGroup tells multicast and broadcast: membership reports, discovery and announcements that every link makes when it
// comes up and that nobody waits for.
func isGroup(destination netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return destination.IsMulticast() || destination == broadcast
}

// isMessage tells what is no packet: messages between processes, or from the kernel to one, travel in the same buffers.
// They have neither a protocol nor a device, but for the answer to who asks for a route, which has the route's.
func (s *scene) isMessage() bool {
	d := s.drop
	for _, prefix := range []string{
		"unix_", "netlink_", "rtnetlink_", "nfnetlink_", "inet_rtm_", "inet6_rtm_", "virtio_transport_", "vsock_",
	} {
		if strings.HasPrefix(d.Function, prefix) {
			return true
		}
	}
	shapeless := d.EtherType == 0 && d.Device == 0 && d.InDevice == 0 && !d.Destination.IsValid()
	return strings.HasPrefix(d.Reason, "UNIX_") || shapeless && !d.Other
}

func (s *scene) hasDevice() bool { return s.drop.Device != 0 }

func (s *scene) isARP() bool { return s.drop.EtherType == unix.ETH_P_ARP }

func (s *scene) isIP() bool {
	return s.drop.EtherType == unix.ETH_P_IP || s.drop.EtherType == unix.ETH_P_IPV6
}

// isLarge tells what a link's MTU may have been too small for.
func (s *scene) isLarge() bool { return s.drop.Skbs == 0 || s.drop.Bytes/s.drop.Skbs > smallMTU }

func (s *scene) isLoopback() bool {
	return s.drop.Source.IsLoopback() || s.drop.Destination.IsLoopback()
}

// isFromLoopbackOut tells what the host sends from its loopback address to somebody else.
func (s *scene) isFromLoopbackOut() bool {
	d := s.drop
	return s.onHost() && d.Outgoing && d.Source.IsLoopback() && d.Destination.IsValid() && !d.Destination.IsLoopback()
}

func (s *scene) isLinkLocal() bool {
	return s.drop.Source.IsLinkLocalUnicast() || s.drop.Destination.IsLinkLocalUnicast()
}

// isFromOwner tells what comes to a container from its own address.
func (s *scene) isFromOwner() bool { return s.owner != nil && s.owner.has(s.drop.Source) }

// isForResolver tells what a container sends to the engine's resolver, where there is one: on networks that somebody made.
func (s *scene) isForResolver() bool {
	return s.owner != nil && s.drop.Destination == resolver() &&
		slices.ContainsFunc(s.owner.Endpoints, func(e Endpoint) bool { return e.Network != defaultBridge })
}

func (s *scene) isForOwner() bool { return s.owner != nil && s.owner.has(s.drop.Destination) }

func (s *scene) isPlainMartian() bool { return !s.isLoopback() && !s.isFromOwner() }

// isHairpin tells what after NAT would leave through the bridge port that it came in by.
func (s *scene) isHairpin() bool {
	d := s.drop
	if d.Source.IsValid() && d.Source == d.Destination {
		return true
	}
	p, to := s.links[d.InDevice], s.memberByAddress(d.Destination)
	return p != nil && to != nil && p.owner == to.ID
}

// wasForwarded tells what the kernel's forwarding dropped: there a wrong header is one whose time to live has run out.
func (s *scene) wasForwarded() bool {
	switch s.drop.Function {
	case "ip_forward", "ip6_forward", "br_nf_pre_routing":
		return true
	}
	return false
}

// isUnforwarded tells what the host would have to forward, and does not for its family.
func (s *scene) isUnforwarded() bool {
	if s.drop.EtherType == unix.ETH_P_IPV6 {
		return s.forwardingOff6
	}
	return s.forwardingOff4
}

// Both ends of a packet that netfilter dropped on the host.

// isRefusedByConntrack tells what got no entry in a full table: netfilter drops that where it would track it, and not from
// a chain of nf_tables.
func (s *scene) isRefusedByConntrack() bool {
	d := s.drop
	return s.onHost() && s.conntrackFull && !d.Initiator.IsValid() && d.Function != "nft_do_chain" && !s.isPastTracking()
}

// isPastTracking tells what connection tracking has surely seen. It comes before routing for what is received, and after it
// for what is made here.
func (s *scene) isPastTracking() bool { return s.drop.Routed && !s.drop.Outgoing }

// isUntracked tells a TCP segment that connection tracking saw and made nothing of, since no connection is known that it
// belongs to: a reset, or the end of one that is forgotten. A first segment gets an entry.
func (s *scene) isUntracked() bool {
	return s.onHost() && s.isPastTracking() && s.drop.Protocol == unix.IPPROTO_TCP && !s.drop.Initiator.IsValid() &&
		!s.conntrackFull && !s.conntrackEmpty
}

// mayHaveNoPort tells what netfilter dropped after its source was translated, where only connection tracking itself drops
// any more: it found no room for the connection under the new address.
func (s *scene) mayHaveNoPort() bool {
	d := s.drop
	return s.onHost() && s.droppedByHook() && d.Initiator.IsValid() && d.Source != d.Initiator && d.Destination != d.Initiator &&
		s.isHost(d.Source)
}

func (s *scene) hasNoPort() bool { return s.mayHaveNoPort() && s.failedOfLate() }

// mayBeLookup tells a DNS query that netfilter dropped after it was translated: to a server, or to the engine's resolver in
// the container itself, which has another port by then.
func (s *scene) mayBeLookup() bool {
	d := s.drop
	if !s.droppedByHook() || d.Protocol != unix.IPPROTO_UDP || !d.Initiator.IsValid() || d.Destination == d.Initiator {
		return false
	}
	return (d.DNAT || d.Source != d.Initiator) && (d.DestinationPort == dnsPort || d.Destination == resolver())
}

func (s *scene) isLostLookup() bool { return s.mayBeLookup() && s.failedOfLate() }

// mayBeClash tells what connection tracking may turn out to have dropped, when its counters are read next.
func (s *scene) mayBeClash() bool { return s.mayHaveNoPort() || s.mayBeLookup() }

// droppedByHook tells what no chain of nf_tables dropped, on kernels where those say so.
func (s *scene) droppedByHook() bool { return s.drop.Function == "nf_hook_slow" }

// mayBeInvalid tells a TCP segment of the middle of a connection, to a published port, that the host's own stack got: no
// entry was found to translate it by. A first segment would get an entry, and to a reset nobody answers.
func (s *scene) mayBeInvalid() bool {
	d := s.drop
	if !s.onHost() || d.Outgoing || d.Protocol != unix.IPPROTO_TCP || d.Initiator.IsValid() || s.conntrackFull || s.conntrackEmpty {
		return false
	}
	const endsAndBegins = tcpFIN | tcpSYN | tcpRST
	return d.TCPFlags&tcpACK != 0 && d.TCPFlags&endsAndBegins == 0 && s.publisher() != nil
}

func (s *scene) isInvalid() bool { return s.mayBeInvalid() && s.invalidOfLate() }

// publisher finds the container that publishes the port of the host that a packet is for, and was not translated, or did so
// when the packet was lost; nil: none.
func (s *scene) publisher() *member {
	d := s.drop
	if d.publisher != nil {
		return d.publisher
	}
	p := s.publishedAt(netip.AddrPortFrom(d.Destination, d.DestinationPort), d.Protocol)
	if p == nil {
		return nil
	}
	return p.member
}

// isPublished tells what somebody outside sends to a published port, and is no answer: the destination is translated.
func (s *scene) isPublished() bool {
	d := s.drop
	return s.onHost() && d.DNAT && s.isElsewhere(d.Initiator) && !s.isOfContainer(d.Initiator) && s.isOfContainer(d.Destination)
}

// isOfContainer tells an address that is on a bridge network, or that a container has.
func (s *scene) isOfContainer(address netip.Addr) bool {
	return s.bridgeNetwork(address) != nil || s.memberByAddress(address) != nil
}

// isBetweenSeparated tells what goes between two containers of a network with ICC off: routed by their addresses, bridged
// by their ports, whatever their addresses.
func (s *scene) isBetweenSeparated() bool {
	if !s.onHost() {
		return false
	}
	d := s.drop
	from, to := s.bridgeNetwork(d.Source), s.bridgeNetwork(d.Destination)
	if from == nil || to == nil {
		from, to = s.networkOfPort(d.InDevice), s.networkOfPort(d.Device)
	}
	return from != nil && from == to && !from.ICC
}

// leavesInternal tells what goes between an internal network and something that is neither on it nor the host.
func (s *scene) leavesInternal() bool {
	d := s.drop
	from, to := s.bridgeNetwork(d.Source), s.bridgeNetwork(d.Destination)
	if !s.onHost() || from == to {
		return false
	}
	return from != nil && from.Internal && s.isElsewhere(d.Destination) || to != nil && to.Internal && s.isElsewhere(d.Source)
}

// isOnInternalOnly tells a container that has no way out by design.
func (s *scene) isOnInternalOnly() bool {
	if s.owner == nil || len(s.owner.Endpoints) == 0 {
		return false
	}
	return !slices.ContainsFunc(s.owner.Endpoints, func(e Endpoint) bool {
		n := s.networks[e.NetworkID]
		return n == nil || !n.Internal
	})
}

// isBetweenBridges tells what goes from one bridge network to another, but for what a published port leads there.
func (s *scene) isBetweenBridges() bool {
	from, to := s.bridgeNetwork(s.drop.Source), s.bridgeNetwork(s.drop.Destination)
	return s.onHost() && from != nil && to != nil && from != to && !s.drop.DNAT
}

// isDirect tells what comes from outside straight to an address on a bridge network, and is no answer.
func (s *scene) isDirect() bool {
	d := s.drop
	return s.onHost() && !d.Outgoing && d.InDevice != 0 && !s.isDockers(d.InDevice) && !d.DNAT &&
		s.bridgeNetwork(d.Destination) != nil && s.bridgeNetwork(d.Source) == nil && s.isElsewhere(d.Source) &&
		(!d.Initiator.IsValid() || d.Initiator == d.Source)
}

// isDirectUnrouted tells what was refused before the host looked for a route: by the rules in raw PREROUTING that engines
// from 28.0 on write, or by somebody's own there, which looks the same.
func (s *scene) isDirectUnrouted() bool { return s.isDirect() && !s.drop.Routed }

func (s *scene) isDirectUnpublished() bool {
	if !s.isDirect() {
		return false
	}
	m := s.memberByAddress(s.drop.Destination)
	return m == nil || !m.publishes(s.drop.DestinationPort, ProtocolName(s.drop.Protocol))
}

// isForwardedForOthers tells what the host forwards, or its bridges carry, for somebody who is not Docker's.
func (s *scene) isForwardedForOthers() bool {
	d := s.drop
	return !d.Outgoing && d.Routed && s.isElsewhere(d.Destination) && s.isNotDockers()
}

// isNotDockers tells what has nothing to do with Docker: no end of it, before or behind NAT, no device and no socket. It
// takes the engine's inventory to know that.
func (s *scene) isNotDockers() bool {
	d := s.drop
	if !s.onHost() || !s.listed || !d.Destination.IsValid() || s.memberOnHost(d.Cgroup) != nil {
		return false
	}
	for _, end := range []netip.Addr{d.Source, d.Destination, d.Initiator, d.Responder} {
		if s.isOfContainer(end) {
			return false
		}
	}
	return !s.isDockers(d.InDevice) && !s.isDockers(d.Device)
}

// bridgeNetwork finds the bridge network that an address is on, nil if there is none or it is the host's own address.
func (s *scene) bridgeNetwork(address netip.Addr) *knownNetwork {
	if !address.IsValid() || s.isHost(address) {
		return nil
	}
	return s.index().bridgeNetwork(address)
}

// networkOfPort finds the network whose bridge a device is a port of.
func (s *scene) networkOfPort(device int) *knownNetwork {
	p := s.links[device]
	if p == nil {
		return nil
	}
	name := s.networkOfBridge(p.Master)
	for _, n := range s.networks {
		if name != "" && n.Name == name && n.Bridge != "" {
			return n
		}
	}
	return nil
}

// isDockers tells a bridge of Docker's, its ports, and whatever else leads to a container.
func (s *scene) isDockers(device int) bool {
	p := s.links[device]
	return p != nil && (p.owner != "" || s.networkOfBridge(device) != "" || s.networkOfBridge(p.Master) != "")
}

// isElsewhere tells an address that is not the host's own.
func (s *scene) isElsewhere(address netip.Addr) bool {
	return address.IsValid() && !address.IsLoopback() && !s.isHost(address)
}

// isFromChildToHost tells what a container on a macvlan or ipvlan network sends to its own host.
func (s *scene) isFromChildToHost() bool {
	if s.owner == nil || !s.isHost(s.drop.Destination) {
		return false
	}
	name := first(s.networkOfChild(s.owner, s.drop.Device), s.owner.network([6]byte{}, s.drop.Source))
	return slices.ContainsFunc(s.owner.Endpoints, func(e Endpoint) bool {
		n := s.networks[e.NetworkID]
		return e.Network == name && n != nil && n.childOnly()
	})
}

// Ends and beginnings of containers and of what leads to them.

// changed tells a container that has just ended or just begun: then nobody is at its address for a moment.
func (s *scene) changed(m *member) bool {
	when := m.StartedAt
	if !m.alive() {
		when = m.died
	}
	return s.config.Now().Sub(when) <= recently
}

// receiver finds the container that a packet was for, nil if none is known.
func (s *scene) receiver() *member {
	if s.sandbox != nil {
		return s.receiverInOverlay()
	}
	d := s.drop
	m := s.index().mac(s.networkOfBridge(d.Device), d.DestinationMAC)
	if p := s.links[d.Device]; m == nil && p != nil {
		m = s.index().mac(s.networkOfBridge(p.Master), d.DestinationMAC)
	}
	if m == nil {
		m = s.memberByAddress(d.Destination)
	}
	return m
}

// receiverIsGone tells whether the container that a packet was for is no more. What leaves by an uplink was for none, unless
// its address says so.
func (s *scene) receiverIsGone() bool {
	m := s.receiver()
	if m == nil && s.sandbox != nil {
		return s.hasLeft()
	}
	if m == nil {
		return !s.isForUplink() || s.bridgeNetwork(s.drop.Destination) != nil
	}
	return !m.alive()
}

func (s *scene) receiverJustChanged() bool {
	m := s.memberByAddress(s.drop.Destination)
	return m != nil && s.changed(m)
}

func (s *scene) hasLiveReceiver() bool {
	m := s.receiver()
	return m != nil && m.alive()
}

// behind finds the container behind the device of a drop.
func (s *scene) behind() *member {
	if s.sandbox != nil {
		return s.behindInOverlay()
	}
	if !s.onHost() {
		return s.owner
	}
	for _, device := range []int{s.drop.Device, s.drop.InDevice} {
		if p := s.links[device]; p != nil && s.members[p.owner] != nil {
			return s.members[p.owner]
		}
	}
	return nil
}

func (s *scene) linkIsDown() bool { return s.drop.LinkDown }

// isForUplink tells what was to leave by a device of the host that is none of Docker's: hardware, a bond, a tunnel, or
// somebody else's bridge. Its ports that lead to guests end with those.
func (s *scene) isForUplink() bool {
	p := s.links[s.drop.Device]
	if !s.onHost() || p == nil || !p.gone.IsZero() || s.isDockers(s.drop.Device) {
		return false
	}
	return !p.leadsToContainer() && (p.Kind != "tun" || p.Master == 0)
}

// linkEnds tells a device that is down and leads to nobody, or to a container that has just begun or ended. An uplink leads
// to nobody here, and is missed.
func (s *scene) linkEnds() bool { return s.drop.LinkDown && !s.isForUplink() && s.linkIsNew() }

// linkIsNew tells a device that is nobody's yet or any more, or whose container has just begun or ended.
func (s *scene) linkIsNew() bool {
	m := s.behind()
	return m == nil || !m.alive() || s.changed(m)
}
