// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Direction of a packet as its owner sees it.
type Direction string

// The directions.
const (
	RX Direction = "rx"
	TX Direction = "tx"
)

// Drop is a loader's drop with its meaning.
type Drop struct {
	loader.Drop
	Identity

	ContainerID string // of the victim, "" if it is no container
	Scope       Scope  // the place
	DeviceKind  string // veth, bridge, vxlan, underlay, loopback, other
	Direction   Direction
	Cause       string
	Kind        Kind
	Tunnel      *Tunnel // of what an overlay network lost between two nodes; else nil
}

// Tunnel is which overlay network a drop was on, and between which nodes.
type Tunnel struct {
	Network     string // "": none here has the VNI
	VNI         uint32
	Local, Peer netip.Addr // not valid: not known
	Node        string     // the peer's name
	Outgoing    bool
	Encrypted   bool // it was lost as ESP: no network is known
}

// victim is a container that lost a packet.
type victim struct {
	member    *member
	network   string
	direction Direction
}

// lostPacket is a drop, and whom it was about when it was first looked at. While it waits for its cause the container may
// end, and another take over its address and its port.
type lostPacket struct {
	loader.Drop
	victim    victim
	publisher *member // of the port that it is for
	// awaitsCount tells that connection tracking's counters may still say that it has another cause. They do so by the
	// reading of this number; 0: it has not been looked at.
	awaitsCount bool
	lastCount   uint64
}

// awaitCount has the drop wait for the counters, if they have not been read often enough since it was first looked at.
func (l *lostPacket) awaitCount(s *scene, found victim) {
	if l.lastCount == 0 {
		l.victim, l.publisher, l.lastCount = found, s.publisher(), s.counted+countings
	}
	l.awaitsCount = s.counted < l.lastCount
}

func newLost(drops []loader.Drop) []*lostPacket {
	lost := make([]*lostPacket, len(drops))
	for i := range drops {
		lost[i] = &lostPacket{Drop: drops[i]}
	}
	return lost
}

// attributeDrop finds place and victim of a drop. It is not final while something may still become known of either.
func (s *State) attributeDrop(lost *lostPacket) (drop Drop, final bool) {
	d := &lost.Drop
	if d.Netns == 0 {
		d.Netns = s.cameInAt(d)
	}
	drop = Drop{Drop: *d, DeviceKind: s.deviceKind(d), Direction: RX}
	if d.Outgoing {
		drop.Direction = TX
	}
	var found victim
	sandbox := s.sandboxAt(d.Netns)
	switch owner, bound := s.netns[d.Netns]; {
	case d.Netns == s.config.Host:
		drop.Scope = ScopeHost
		found, final = s.victimOnHost(d)
	case sandbox != nil:
		drop.Scope = scopeOfSandbox(sandbox.Kind)
		found, final = s.victimInSandbox(sandbox, d), true
	case bound:
		drop.Scope = ScopeContainer
		found = s.victimInside(owner, d)
		final = true
	default:
		drop.Scope = ScopeUnknown
	}
	if lost.victim.member != nil {
		found = lost.victim
	}
	drop.Network = found.network
	if sandbox != nil || d.Netns == s.config.Host {
		s.nameTunnel(&drop, sandbox)
	}
	scene := s.sceneOf(lost)
	cause := scene.explain()
	drop.Cause, drop.Kind = cause.Name, cause.Kind
	if cause.unless != nil && cause.unless(scene) {
		final = false
	}
	lost.awaitsCount = false
	if cause.uncounted != nil && cause.uncounted(scene) {
		lost.awaitCount(scene, found)
	}
	if found.member == nil && cause.victim != nil {
		if m := cause.victim(scene); m != nil {
			found = victim{member: m, network: m.network([6]byte{})}
		}
	}
	if found.member == nil {
		return drop, final
	}
	if found.member.Name == "" {
		drop.Scope = ScopeUnknown // a container that this host's engine does not know, or not yet
		return drop, false
	}
	drop.Identity = found.member.Identity
	drop.Network = found.network
	drop.ContainerID = found.member.ID
	if found.direction != "" {
		drop.Direction = found.direction
	}
	return drop, final
}

// cameInAt finds the namespace of a packet that has lost its device, 0 if it stays unknown. Fragments lose theirs while
// they wait for the rest, which the kernel keeps in a tree (include/linux/skbuff.h: dev and rbnode share their place). By
// which device they came in is known still, and the hardware addresses tell whose that is. Containers are asked first: the
// engine takes a container's device back into the host's namespace, as it is, before it removes it.
func (s *State) cameInAt(d *loader.Drop) loader.Netns {
	if d.InDevice == 0 || d.SourceMAC == ([6]byte{}) {
		return 0
	}
	for netns, owner := range s.netns {
		m := s.members[owner]
		if m == nil || !s.left[netns].IsZero() || !m.hasMAC(d.DestinationMAC) {
			continue
		}
		if s.portInside(owner, d.InDevice) != nil || s.networkOfChild(m, d.InDevice) != "" {
			return netns
		}
	}
	if p := s.links[d.InDevice]; p != nil {
		m := s.members[p.owner]
		if p.MAC == d.DestinationMAC || m != nil && m.hasMAC(d.SourceMAC) {
			return s.config.Host
		}
	}
	return 0
}

// victimInside is the container itself. Its network is that of the device, else of an address.
func (s *State) victimInside(owner string, d *loader.Drop) victim {
	m := s.members[owner]
	if m == nil {
		return victim{}
	}
	v := victim{member: m}
	if p := s.portInside(owner, d.Device); p != nil {
		v.network = s.networkOfBridge(p.Master)
	}
	if v.network == "" {
		v.network = s.networkOfChild(m, d.Device)
	}
	if v.network == "" && d.DeviceName != "lo" {
		v.network = m.network([6]byte{}, d.Source, d.Destination)
	}
	return v
}

// victimOnHost follows the order that holds although the device of a drop may mislead: the socket's owner, the port it
// came in by, the port it was to leave by, the sender's MAC on that bridge, and last the addresses, as they really are
// behind NAT. Nobody at all is final unless a link is not yet known to be anybody's.
func (s *State) victimOnHost(d *loader.Drop) (victim, bool) {
	if m := s.memberOnHost(d.Cgroup); m != nil {
		return victim{member: m}, true
	}
	for _, side := range []struct {
		device    int
		direction Direction
	}{{d.InDevice, TX}, {d.Device, s.sideOf(d)}} {
		p := s.links[side.device]
		if p == nil || !p.leadsToContainer() {
			continue
		}
		if m := s.members[p.owner]; m != nil {
			return victim{member: m, network: s.networkOfBridge(p.Master), direction: side.direction}, true
		}
		if s.sandboxBehind(p) != nil {
			return victim{network: s.networkOfBridge(p.Master), direction: side.direction}, true
		}
		return victim{}, false
	}
	v, found := s.victimByMAC(d)
	if !found {
		v = s.victimByAddress(d)
	}
	return v, v.member != nil || s.listed && s.knowsLinks(d)
}

// knowsLinks tells whether news of the drop's devices has come.
func (s *State) knowsLinks(d *loader.Drop) bool {
	return (d.Device == 0 || s.links[d.Device] != nil) && (d.InDevice == 0 || s.links[d.InDevice] != nil)
}

// memberOnHost finds the container on the host's network that has the cgroup. A container with a namespace of its own is
// found by what its packets passed, which tells the network too.
func (s *State) memberOnHost(cgroup string) *member {
	m := s.members[containerID.FindString(cgroup)]
	if cgroup == "" || m == nil {
		return nil
	}
	if m.onHost() {
		return m
	}
	if owner := s.members[m.sharedWith()]; owner != nil && owner.onHost() {
		return owner
	}
	return nil
}

// sideOf tells which way a packet crossed the device that it was dropped at, as the container behind it sees it. One that
// has not come in by any device yet, nor was made here, was just coming out of it.
func (s *State) sideOf(d *loader.Drop) Direction {
	if d.InDevice == 0 && !d.Outgoing {
		return TX
	}
	return RX
}

// leadsToContainer tells a container's veth from one that joins the host to something else, as an uplink may be.
func (p *port) leadsToContainer() bool {
	return p.Kind == "veth" && (p.owner != "" || p.Master != 0 && p.PeerNetnsID >= 0)
}

func (s *State) victimByMAC(d *loader.Drop) (victim, bool) {
	if d.SourceMAC == ([6]byte{}) {
		return victim{}, false
	}
	for _, device := range []int{d.Device, d.InDevice} {
		name := s.networkOfBridge(device)
		if name == "" {
			continue
		}
		if m := s.index().mac(name, d.SourceMAC); m != nil {
			return victim{member: m, network: name, direction: TX}, true
		}
		if m := s.index().mac(name, d.DestinationMAC); m != nil {
			return victim{member: m, network: name, direction: RX}, true
		}
	}
	return victim{}, false
}

// victimByAddress tries the ends as they are on the wire, then as they are behind NAT; senders first.
func (s *State) victimByAddress(d *loader.Drop) victim {
	for _, end := range []struct {
		address   netip.Addr
		direction Direction
	}{
		{d.Source, TX},
		{d.Destination, RX},
		{d.Initiator, s.directionOf(d)},
		{d.Responder, s.directionOf(d)},
	} {
		if m := s.memberByAddress(end.address); m != nil {
			return victim{member: m, network: m.network([6]byte{}, end.address), direction: end.direction}
		}
	}
	return victim{}
}

// directionOf a packet whose addresses are translated: what came in by hardware was on its way to the container.
func (s *State) directionOf(d *loader.Drop) Direction {
	if p := s.links[d.InDevice]; p != nil && s.networkOfBridge(d.InDevice) == "" && !p.leadsToContainer() {
		return RX
	}
	return TX
}

// portInside finds the host's end of a container's device by the ifindex that it has in the container.
func (s *State) portInside(owner string, index int) *port {
	if index == 0 {
		return nil
	}
	for _, p := range s.links {
		if p.owner == owner && p.Peer == index {
			return p
		}
	}
	return nil
}

func (s *State) networkOfChild(m *member, index int) string {
	for _, c := range s.children {
		if c.owner == m.ID && c.index == index && index != 0 {
			return m.network(c.MAC)
		}
	}
	return ""
}

// networkOfBridge names the Docker network whose bridge has the ifindex; "": it is no network's.
func (s *State) networkOfBridge(index int) string {
	p := s.links[index]
	if index == 0 || p == nil || p.Kind != "bridge" {
		return ""
	}
	name := ""
	for _, n := range s.networks {
		if n.Bridge == p.Name {
			if n.gone.IsZero() {
				return n.Name
			}
			name = n.Name
		}
	}
	return name
}

// deviceKind sorts a drop's device into the closed set of the label.
func (s *State) deviceKind(d *loader.Drop) string {
	if d.Device == 0 {
		return "other"
	}
	if d.DeviceName == "lo" {
		return "loopback"
	}
	if p := s.links[d.Device]; d.Netns == s.config.Host && p != nil && p.Kind == "veth" && p.owner == "" && p.Master == 0 {
		return "underlay"
	}
	switch d.DeviceKind {
	case "veth", "bridge", "vxlan":
		return d.DeviceKind
	case "", "bond", "team", "vlan":
		if d.Netns == s.config.Host {
			return "underlay"
		}
	}
	return "other"
}
