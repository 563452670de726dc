// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// HostQuery says what of the host's state depends on what the engine runs.
type HostQuery struct {
	// Ports are those of the host that are published. Connections are listed of these only; none: of no port.
	Ports []uint16
	// SandboxFolder is where the engine keeps the namespaces of containers, such as /run/docker/netns: the folder of any
	// running container's SandboxKey. "": Sandboxes stays empty.
	SandboxFolder string
	// Owners remembers, from one call to the next, which processes listen on the Ports. nil: nobody looks for them, nor for
	// Proxies.
	Owners *SocketOwners
}

// HostState is what the kernel says of the host's network namespace at a moment, read from netlink and procfs. What could
// not be read is the zero value, and Errors says why.
type HostState struct {
	Forwarding4      Switch          // net.ipv4.ip_forward
	Forwarding6      Switch          // net.ipv6.conf.all.forwarding
	BridgeNetfilter4 Switch          // net.bridge.bridge-nf-call-iptables: do bridged frames pass the rules for IPv4
	BridgeNetfilter6 Switch          // net.bridge.bridge-nf-call-ip6tables
	Conntrack        Table           // entries of this namespace and net.netfilter.nf_conntrack_max
	ConntrackStats   *ConntrackStats // nil: nothing is tracked, or it could not be read
	Neighbours4      Table           // of all namespaces: arp_tbl's entries and net.ipv4.neigh.default.gc_thresh3
	Neighbours6      Table           // likewise
	Links            []Link          // all, with MTU and master
	Routes           []Route         // main table, both families
	// RouterAdvertised6 are the ifindexes of links on which routers advertise themselves to no effect: advertisements have
	// come in since the link was made, and the kernel ignores them, since it forwards (forwarding is 1) and accept_ra is 1.
	// Only links that are up, have IPv6 and are no bridge's port. Docker sets accept_ra to 0 on its bridges.
	RouterAdvertised6 []int
	Neighbours        []Neighbour
	Listeners         []Listener // TCP
	// Proxies is how many processes of the engine's userland proxy, docker-proxy, there are, at most half a minute ago: those
	// that /proc shows, in this namespace.
	Proxies int
	// Connections are the TCP connections that a process of this namespace holds on one of the HostQuery's ports, and those
	// it closed within the last minute (TIME_WAIT). At most maxConnections; MoreConnections is how many there were beyond.
	// A port is the local one whoever began: where nothing listens on it, it may be that of an outgoing connection.
	Connections     []Connection
	MoreConnections int
	Sandboxes       []string // paths of the network namespaces in the HostQuery's folder, sorted. What is left of dead ones is not among them

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
	// Entries of neighbours include permanent ones, which since 5.0 do not count towards the limit; the kernel does not tell
	// how many they are.
	Entries int
	Limit   int // 0: not known, or there is no such table
	// Overflows is how often an entry was refused for want of room, since boot. Neighbours only: conntrack's is a drop.
	Overflows uint64
}

// Route is a route of the host. One with several next hops is several.
type Route struct {
	Destination netip.Prefix // 0.0.0.0/0 and ::/0 for the default
	Device      int          // ifindex, 0: none (blackhole and the like)
	Gateway     netip.Addr   // invalid: none
	Protocol    string       // kernel, boot, static, ra, …; a number if it has no name
}

// Neighbour is an entry of the host's ARP or neighbour table, but not one that needs no resolution (multicast).
type Neighbour struct {
	Device  int // ifindex
	Address netip.Addr
	MAC     [6]byte // zero: not known, or not that long
	Failed  bool    // nobody answered
	// Confirmed says that the MAC address is believed right now: it answered within the last seconds, or is given by hand. One
	// that is not may be of somebody who is gone (STALE).
	Confirmed bool
}

// Listener is a TCP socket that listens.
type Listener struct {
	Address netip.AddrPort // IPv4 by an IPv6 socket is IPv4
	V6Only  bool           // of IPv6 sockets; one on [::] that is not takes IPv4 connections too
	// Process is the name of one that holds it. "" is not known: see [SocketOwners]. Looked for on the HostQuery's ports only.
	Process string
}

// Takes tells whether a connection to an address, at the Listener's port, may become its own: one to its very address, and to
// any of its family if it listens on all. An IPv6 socket that does takes IPv4 too, unless it is V6Only.
func (l Listener) Takes(to netip.Addr) bool {
	switch at := l.Address.Addr(); at {
	case netip.IPv4Unspecified():
		return to.Is4()
	case netip.IPv6Unspecified():
		return to.Is6() || !l.V6Only
	default:
		return at == to
	}
}

// Connection is a TCP connection of a process of this namespace, as it sees it. IPv4 over an IPv6 socket is IPv4.
type Connection struct {
	Local  netip.AddrPort
	Remote netip.AddrPort
}

// NetnsState is what the kernel says of a container's network namespace at a moment.
// Counters are since the namespace's birth.
type NetnsState struct {
	ListenOverflows uint64         // TcpExt ListenOverflows: connections that a full accept queue refused
	ListenDrops     uint64         // TcpExt ListenDrops: those, and what was refused to listeners for other reasons
	OutNoRoutes     uint64         // Ip OutNoRoutes: IPv4 that its own processes had no route for. The kernel drops no packet then
	Conntrack       ConntrackStats // zero where the kernel does not show them (CONFIG_NF_CONNTRACK_PROCFS)
	Links           []Link         // empty unless asked for
}

// ReadHost reads the state of the calling thread's network namespace. It never fails as a whole. It may be called
// concurrently.
//
// Meant for every few seconds: it lists links, routes, neighbours and listening sockets, and never conntrack's entries.
// The kernel looks at every TCP socket to find those on the query's ports, and copies only those.
func ReadHost(query HostQuery) HostState {
	var s HostState
	for _, err := range []error{
		s.readSwitches(),
		s.readConntrack(),
		s.readConntrackStats(),
		s.readNeighbourTables(),
		s.readLinks(),
		s.readRoutes(),
		s.readNeighbours(),
		s.readListeners(query),
		s.readConnections(query.Ports),
		s.readSandboxes(query.SandboxFolder),
	} {
		if err != nil {
			s.Errors = append(s.Errors, err)
		}
	}
	return s
}

// readSandboxes lists the files in the engine's folder that are namespaces.
func (s *HostState) readSandboxes(folder string) error {
	if folder == "" {
		return nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w (give the agent the engine's folder, and CAP_DAC_READ_SEARCH if it is another user's)", err)
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		var stat unix.Statfs_t
		if unix.Statfs(path, &stat) == nil && stat.Type == nsfsMagic {
			s.Sandboxes = append(s.Sandboxes, path)
		}
	}
	return nil
}

// needsNetlink is what to do where a listing fails.
const needsNetlink = "allow netlink sockets, AF_NETLINK, in the agent's sandbox"

// untilWhole repeats a listing that the kernel says is not of one moment, since things changed meanwhile.
func untilWhole(list func() error) (err error) {
	for range 10 {
		if err = list(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return err
}
