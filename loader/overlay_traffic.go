// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"
)

// Channel is what a packet between two nodes of a Swarm belongs to.
type Channel string

// The channels. All but vxlan and esp are the engine's own traffic.
const (
	ChannelVXLAN     Channel = "vxlan"      // containers' frames, UDP to the data-path port
	ChannelESP       Channel = "esp"        // the same, encrypted: which network they are of is not to be seen
	ChannelGossipUDP Channel = "gossip_udp" // who is alive, 7946/udp
	ChannelGossipTCP Channel = "gossip_tcp" // full states, 7946/tcp
	ChannelManager   Channel = "manager"    // orders and reports, 2377/tcp
)

// Channels returns all.
func Channels() []Channel {
	return []Channel{ChannelVXLAN, ChannelESP, ChannelGossipUDP, ChannelGossipTCP, ChannelManager}
}

// OverlayTraffic is what passed an uplink of this node on one channel, to or from one address, since the last
// [Overlays.Read]. Addresses are those of the outer header.
type OverlayTraffic struct {
	Channel   Channel
	Outgoing  bool       // this node sent it; else it has come in
	Local     netip.Addr // this node's. Not valid: the table was full, and only channel, direction and VNI are known
	Peer      netip.Addr // the other's, likewise
	VNI       uint32     // of vxlan
	Malformed bool       // vxlan without a readable VNI: the header is cut short or its flag is not set
	Counts               // of first fragments: a datagram counts once
	Last      time.Time  // when the last of them passed
}

// OverlayPorts are where a Swarm's nodes listen.
type OverlayPorts struct {
	Data     uint16   // UDP, of VXLAN; 0: not known yet, nothing counts as vxlan
	Gossip   uint16   // UDP and TCP
	Managers []uint16 // TCP; at most maxManagerPorts, others are left out
}

// The ports that the engine uses unless it is told otherwise.
const (
	DefaultDataPort    = 4789
	DefaultGossipPort  = 7946
	DefaultManagerPort = 2377
)
