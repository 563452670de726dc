// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
)

// HostState is what the kernel says of the host's network namespace at a moment, read from netlink and procfs. What could
// not be read is the zero value, and Errors says why.
type HostState struct {
	Forwarding4       Switch // net.ipv4.ip_forward
	Forwarding6       Switch // net.ipv6.conf.all.forwarding
	BridgeNetfilter4  Switch // net.bridge.bridge-nf-call-iptables: do bridged frames pass the rules for IPv4
	BridgeNetfilter6  Switch
	Conntrack         Table   // entries of this namespace and net.netfilter.nf_conntrack_max
	Neighbours4       Table   // of all namespaces: arp_tbl's entries and net.ipv4.neigh.default.gc_thresh3
	Neighbours6       Table   // likewise
	Links             []Link  // all, with MTU and master
	Routes            []Route // main table, both families
	RouterAdvertised6 []int   // ifindexes of up, non-Docker links where forwarding is on and accept_ra is 1: router advertisements are ignored
	Neighbours        []Neighbour
	Listeners         []Listener   // TCP
	Connections       []Connection // TCP connections that a process of this namespace holds, established or in TIME_WAIT
	Sandboxes         []string     // paths of namespaces that the engine keeps, from the folder that SetSandboxFolder named

	Errors []error
}

// Switch is a setting that may also be missing from the kernel.
type Switch string

// The positions of a Switch.
const (
	Absent Switch = "" // the kernel does not have it (module not loaded, family disabled) or it could not be read
	Off    Switch = "off"
	On     Switch = "on"
)

// Table is how full a table of the kernel is.
type Table struct {
	Entries int
	Limit   int // 0: not known, or there is no such table
}

// Route is a route of the host.
type Route struct {
	Destination netip.Prefix // 0.0.0.0/0 and ::/0 for the default
	Device      int          // ifindex, 0: none (blackhole and the like)
	Gateway     netip.Addr
	Protocol    string // kernel, boot, static, ra, …
}

// Neighbour is an entry of the host's ARP or neighbour table.
type Neighbour struct {
	Device  int
	Address netip.Addr
	MAC     [6]byte
	Failed  bool
}

// Listener is a TCP socket that listens.
type Listener struct {
	Address netip.AddrPort
	Process string // name of the process that holds it, "" if it could not be found
}

// Connection is a TCP connection of a process of this namespace, as it sees it.
type Connection struct {
	Local  netip.AddrPort
	Remote netip.AddrPort
}

// NetnsState is what the kernel says of a container's network namespace at a moment.
type NetnsState struct {
	ListenOverflows uint64 // TcpExt ListenOverflows: a connection was not accepted in time. Since the namespace's birth
	ListenDrops     uint64
	Links           []Link // empty unless asked for
}

// Egress is what a container's private address sent out of the host, untranslated, since the last reading.
type Egress struct {
	Device   int // ifindex of the link that it left by
	Protocol uint8
	Source   netip.Addr
	// Destination is that of the latest packet.
	Destination netip.Addr
	Counts      Counts
	Resets      uint64 // packets among them that carried RST or FIN
}
