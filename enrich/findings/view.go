// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// View is all that a rule may look at, as it is at a moment. Rules must not change it.
type View struct {
	Now        time.Time
	Inventory  enrich.Inventory
	Host       loader.HostState
	Containers map[string]loader.NetnsState // the namespaces of containers, by ID of the container that owns one
	Owners     map[int]string               // IDs of the containers that the host's links lead to, by ifindex: State.LinkOwners
	Listed     bool                         // the engine's containers are known, so that others are not there: State.Listed
	ClearAPIs  []netip.AddrPort             // where the host offers Docker's API without encryption: enrich.ClearAPIs

	// What happened within the last Window, summed by whom it concerns: see Recent.Fill.
	Losses  []Loss
	Leaks   []Leak
	Inbound []Inbound
	Rises   map[string]Rise // by ID of the container that owns the namespace
	Uses    []Use
	// Unserved are the published ports that remote clients ask for in vain right now.
	Unserved  []Unserved
	Conntrack ConntrackRise // of the host's namespace
	// NeighboursRefused is how often an entry of the kernel's neighbour tables was refused for want of room.
	NeighboursRefused uint64
	DNS               DNS

	Cluster  enrich.Cluster // what this node knows of its Swarm: State.Cluster
	Channels []PeerChannel  // what went between this node and others since each was first heard of: see Recent.AddOverlay
	Missed   []MissedPeer   // what VXLAN devices did not know where to within the Window
	Lost     []TunnelLoss   // what overlay networks lost between this node and others within the Window
	Talks    []Talk         // what containers here sent to others' on overlay networks without an answer

	Tracking enrich.Tracking // what is in the host's table of tracked connections
	// RulesetChanged is when the host's nftables rules were last changed, by whomever; zero: not since the agent started, or
	// not known.
	RulesetChanged   time.Time
	RulesetChangedBy string // name of the process that did so, and of its parent where that is known; "" is not
	Proxies          int    // processes of docker-proxy

	Config Config
}

// Window is how far back the counts of a View reach.
const Window = time.Minute

// Loss is what one victim lost for one cause within the Window.
type Loss struct {
	Subject Subject // Object is empty
	Cause   string
	Kind    enrich.Kind
	Packets uint64
	// Repeated are those of the packets whose sender had lost others to the same destination a while before: it has not
	// adapted. A lower bound; only some destinations are remembered.
	Repeated    uint64
	ToContainer bool // the latest was for an address that a container has, or had within the Window
	First       time.Time
	Last        time.Time
	Example     enrich.Drop // the latest of them
}

// Leak is what one container sent out of the host under its private address within the Window, to where no answer came
// from.
type Leak struct {
	Subject Subject
	Packets uint64 // all; a lower bound while answers begin to come
	Resets  uint64 // of these, RST and FIN segments: leftovers of connections that NAT has forgotten
	Example loader.Egress
}

// Inbound is traffic that came to a container from outside of the host, to one of its ports, within the Window.
type Inbound struct {
	Subject     Subject
	ContainerID string
	Port        uint16
	Protocol    uint8
	Packets     uint64
	Remote      netip.Addr // who sent the latest
}

// Use is what came to one published port, from clients of one kind and family of addresses and in one way, within the Window.
type Use struct {
	Subject      Subject // Object is port/protocol
	ContainerID  string
	Port         uint16
	Protocol     string
	Client       enrich.Client
	Mechanism    enrich.Mechanism
	Preserved    bool
	Attempts     uint64
	Untranslated uint64                     // of the attempts: no rule sent them to the container
	Connections  uint64                     // that were answered
	Opened       time.Time                  // when the latest of the attempts was; zero: long before those that were answered
	Example      enrich.PublishedConnection // the latest connection, or attempt as long as there is none
}

// Unserved is a published port whose remote clients no rule sends to a container and nobody answers, since the last one that
// fared better and since the container has started. Clients of one family of addresses: the other may fare better.
type Unserved struct {
	Subject     Subject // Object is port/protocol
	ContainerID string  // "": the routing mesh serves the port
	Port        uint16
	Protocol    string
	Attempts    uint64
	First, Last time.Time                  // of the attempts
	Example     enrich.PublishedConnection // the latest of them
}

// PeerChannel is what went between this node and one address on one channel: of VXLAN, for one network.
type PeerChannel struct {
	Peer    netip.Addr
	Node    string // the peer's name, "" if it is not known
	Known   bool   // it is a node of this Swarm
	Channel loader.Channel
	Network string // of VXLAN; "" where no network here has the VNI
	VNI     uint32
	Inner   bool // counted at an encrypted network's own VXLAN device: the wire has it as ESP
	// Within the Window. What is malformed is not among the received.
	Sent, Received, Malformed uint64
	// Since the agent started; zero: never.
	FirstSent, LastSent         time.Time
	FirstReceived, LastReceived time.Time
}

// TunnelLoss is what was lost on an overlay network, between this node and another, for one cause within the Window.
type TunnelLoss struct {
	enrich.Tunnel
	Cause   string
	Packets uint64
	// First and Last are of those that followed each other without a long pause.
	First, Last time.Time
	Example     enrich.Drop // the latest of them
}

// Talk is the TCP segments that containers here have sent to somebody on another node, on an overlay network, since the last that
// came back from there. There is none where answers come, or where the other has ended.
type Talk struct {
	Network     string
	Address     netip.Addr
	Peer        netip.Addr // the node
	Sent        uint64
	First, Last time.Time
}

// MissedPeer is somebody whom a VXLAN device could not reach for want of an entry.
type MissedPeer struct {
	enrich.OverlayMiss
	First, Last time.Time
}

// ConntrackRise is how much connection tracking's counters of a namespace have grown within the Window: see
// loader.ConntrackStats.
type ConntrackRise struct {
	InsertFailed uint64
	Drop         uint64
	Invalid      uint64
}

// Rise is how much counters of a container's namespace have grown within the Window.
type Rise struct {
	ListenOverflows uint64
	ListenDrops     uint64
	OutNoRoutes     uint64 // see loader.NetnsState
	InsertFailed    uint64 // see loader.ConntrackStats
}
