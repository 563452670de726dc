// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"

	"github.com/bridgewatch/bridgewatch/loader"
)

// OverlayTraffic is a loader's overlay traffic with its meaning.
type OverlayTraffic struct {
	loader.OverlayTraffic
	Network   string // of a VNI that a network of this engine has; "" else
	NetworkID string
	Node      string // name of the peer; "": not known
	Known     bool   // the peer is a node of this Swarm
	// Inner says that it was counted at the network's own VXLAN device, before encryption or behind it: of encrypted networks,
	// which the uplink does not tell apart. Channel is vxlan then.
	Inner bool
}

// OverlayMiss is a loader's miss with its meaning.
type OverlayMiss struct {
	loader.Miss
	Network   string
	NetworkID string
	Endpoint  ClusterEndpoint // who is missed; zero: nobody who is known
}

// Overlay is what a reading of the overlay signal means.
type Overlay struct {
	Traffic []OverlayTraffic
	Misses  []OverlayMiss
}

// SwarmPeer is another node of the Swarm, as far as this one knows it.
type SwarmPeer struct {
	Address netip.Addr // of its data path: where its tunnels end
	// Control is where its gossip and a manager's orders come from: the same, unless it was given a data path of its own
	// (--data-path-addr). Not valid: not known, and nothing but tunnels is to be expected of Address.
	Control netip.Addr
	Node    string // its name; "": only a manager knows
	ID      string // its node ID; "" likewise. Of managers every node knows it
	Manager bool
	State   string   // as managers say: ready, down, …; "": not known
	Nets    []string // names of the overlay networks that it and this node have in common, sorted
}

// ClusterEndpoint is somebody's place on an overlay network, on whatever node.
type ClusterEndpoint struct {
	Identity
	NetworkID string
	Name      string // as the engine says: the task's or the container's; "" of a load balancer
	Address   netip.Addr
	MAC       [6]byte    // zero: not known
	Host      netip.Addr // the node where it is, by its data-path address; not valid: not known
	Local     bool       // it is on this node
	// LoadBalancer says that it is that node's load balancer for the network, or its routing mesh.
	LoadBalancer bool
}

// OverlayNetwork is one of the Swarm's networks and what this node makes of it.
type OverlayNetwork struct {
	Network
	VNIs []uint32 // one for each subnet
	// Sandbox is its namespace here; nil: nobody on this node is on it.
	Sandbox *loader.SandboxState
	// LoadBalancer is where its virtual addresses are served here, the mesh's namespace for the ingress network; nil: nowhere.
	LoadBalancer *loader.SandboxState
	// Endpoints are all in the Swarm, with those here. Known says that the engine has told of them.
	Endpoints []ClusterEndpoint
	Known     bool
	// What is wrong with the tables here: remote endpoints without a row, and rows that lead to another node than the Swarm
	// says. Each was so at two looks with the engine's word between them.
	NoFDB       []ClusterEndpoint
	NoNeighbour []ClusterEndpoint
	Astray      []AstrayEntry
	VIPs        []VirtualAddress
	// Use is how full its subnets are, by what the engine says; empty where it does not (before API 1.52, or on a worker).
	Use []SubnetUse
}

// SubnetUse is how full a subnet is. Numbers are those of addresses, at most 2^64-1.
type SubnetUse struct {
	Subnet          netip.Prefix
	Used, Available uint64
}

// AstrayEntry is a row of an FDB that leads to the wrong node.
type AstrayEntry struct {
	ClusterEndpoint
	Got netip.Addr
}

// VirtualAddress is a service's virtual address on a network.
type VirtualAddress struct {
	Identity // of the service
	Address  netip.Addr
	// Tasks are who should serve it; Backends who does on this node, by IPVS.
	Tasks    []ClusterEndpoint
	Backends []loader.IPVSBackend
	Dead     []netip.Addr // backends that get new connections and are nobody's, as the engine said since they are
	Served   bool         // IPVS knows the address here
}

// Cluster is what this node knows of its Swarm at a moment.
type Cluster struct {
	Self     netip.Addr // this node's data-path address; not valid: it is in no Swarm
	Ports    loader.OverlayPorts
	Peers    []SwarmPeer      // without this node, sorted by address
	Networks []OverlayNetwork // sorted by name
	NoIPVS   bool             // the kernel has none: virtual addresses and the mesh cannot work
}
