// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SandboxKind is what a network namespace of the engine is for.
type SandboxKind string

// The kinds. The engine tells them apart by the names of their files alone.
const (
	SandboxContainer    SandboxKind = "container"     // a container's, or several that share it
	SandboxOverlay      SandboxKind = "overlay"       // an overlay network's bridge and VXLAN devices on this node
	SandboxLoadBalancer SandboxKind = "load_balancer" // where IPVS spreads what containers send to a service's virtual address
	SandboxIngress      SandboxKind = "ingress"       // the same for published ports: the routing mesh
	SandboxHost         SandboxKind = "host"          // the host's own, under another name
)

// Sandbox is a network namespace that the engine keeps a file for.
type Sandbox struct {
	Path    string
	Kind    SandboxKind
	Network string // overlay and load balancer: the beginning of its network's ID
	Netns   Netns  // 0 in a listing: it takes a look inside
	NetnsID int    // the host's number for it, by which links and netlink messages name it; -1: none
}

// ListSandboxes lists the network namespaces in the engine's folder, such as /run/docker/netns, sorted by path. What is left of
// dead ones, and files that are not named as the engine names its own, are not among them. folder "": there are none. After an
// error the others are still listed. It enters none of them, and takes about 25 µs for each. It may be called concurrently. Needs
// CAP_DAC_READ_SEARCH if the folder is another user's.
func ListSandboxes(folder string) ([]Sandbox, error) {
	return listSandboxes(folder, func(SandboxKind) bool { return true })
}

func listSandboxes(folder string, wanted func(SandboxKind) bool) ([]Sandbox, error) {
	if folder == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w (give the agent the engine's folder, and CAP_DAC_READ_SEARCH if it is another user's)", err)
	}
	var sandboxes []Sandbox
	var errs []error
	for _, entry := range entries {
		s := Sandbox{Path: filepath.Join(folder, entry.Name())}
		if s.Kind, s.Network = parseSandboxName(entry.Name()); s.Kind == "" || !wanted(s.Kind) {
			continue
		}
		s.NetnsID, err = netnsIDAt(s.Path)
		if errors.Is(err, ErrNetnsGone) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list sandboxes: %w", err))
			continue
		}
		sandboxes = append(sandboxes, s)
	}
	return sandboxes, errors.Join(errs...)
}

// parseSandboxName reads the name of a file in the engine's folder, the first 12 characters of what libnetwork calls the
// namespace: a number, which starts at 1, and the network's ID of an overlay; lb_ and the network's ID of a load balancer; an ID
// of the engine's own, in hexadecimal digits, of containers. No kind: it is none of the engine's.
func parseSandboxName(name string) (kind SandboxKind, network string) {
	switch name {
	case "ingress_sbox":
		return SandboxIngress, ""
	case "default":
		return SandboxHost, ""
	}
	if network, found := strings.CutPrefix(name, "lb_"); found && network != "" {
		return SandboxLoadBalancer, network
	}
	number, network, found := strings.Cut(name, "-")
	if _, err := strconv.ParseUint(number, 10, 32); found && err == nil && network != "" {
		return SandboxOverlay, network
	}
	if id, err := hex.DecodeString(name); err == nil && len(id) == 6 {
		return SandboxContainer, ""
	}
	return "", ""
}

func netnsIDAt(path string) (int, error) {
	file, err := openNetns(path)
	if err != nil {
		return -1, err
	}
	defer file.Close()
	return netnsIDOf(file)
}

// findOverlay returns the overlay's namespace that the caller's has this number for; false: there is none.
func findOverlay(folder string, netnsID int) (Sandbox, bool, error) {
	overlays, err := listSandboxes(folder, func(kind SandboxKind) bool { return kind == SandboxOverlay })
	for _, s := range overlays {
		if s.NetnsID == netnsID {
			return s, true, nil
		}
	}
	return Sandbox{}, false, err
}

// SandboxState is what is in an overlay's, a load balancer's or the mesh's namespace at a moment. What could not be read is
// empty, and Errors says why.
type SandboxState struct {
	Sandbox
	Links      []Link
	VXLANs     []VXLAN
	FDB        []FDBEntry       // of the VXLAN devices: where each remote endpoint is
	Neighbours []Neighbour      // of the VXLAN devices, which answer ARP from them
	Forwarding Switch           // net.ipv4.ip_forward: without it the mesh's answers die
	IPVS       []VirtualService // of load balancers and the mesh. Empty where the kernel has no IPVS
	NoIPVS     bool             // the kernel has none
	PortReuse  Switch           // net.ipv4.vs.conn_reuse_mode, of load balancers and the mesh: the engine wants it off
	Errors     []error
}

// VXLAN is a VXLAN device.
type VXLAN struct {
	Index    int
	Name     string
	VNI      uint32
	Port     uint16     // UDP, that it sends to and listens on
	Local    netip.Addr // that it sends from; not valid: whichever the route says
	Learning bool       // it drops what comes from another node than its table says
	Proxy    bool       // it answers ARP itself
	MTU      int
	Up       bool
	// Of the device's own counters.
	TXDropped, TXCarrierErrors uint64
}

// FDBEntry is a row of a VXLAN device's own table: a MAC address is reached through a node.
type FDBEntry struct {
	Device    int // ifindex
	MAC       [6]byte
	Peer      netip.Addr
	Permanent bool // the engine's; else learned
}

// VirtualService is what IPVS spreads over backends.
type VirtualService struct {
	Mark      uint32         // firewall mark, which the engine uses; 0: none
	Address   netip.AddrPort // not valid: by Mark
	Protocol  uint8
	Scheduler string
	Backends  []IPVSBackend
}

// IPVSBackend is a real server.
type IPVSBackend struct {
	Address  netip.Addr
	Weight   int // 0: draining, gets no new connections
	Active   int // connections
	Inactive int
	// Silent are those of the active that have been silent for ten minutes: IPVS forgets them when it is fifteen, the ends do
	// not. Not counted where IPVS has very many connections.
	Silent int
}

// Miss is how often a VXLAN device did not know where to, since the last [Misses.Read]. The kernel tells of it by netlink.
type Miss struct {
	NetnsID int // of the device's namespace, as the host numbers it
	Device  int
	// MAC is whose node is not known (no row in the FDB); zero: it is an address that is missed; all ones: one among too many.
	MAC [6]byte
	// Address is whose MAC is not known (no neighbour); not valid: it is a MAC that is missed; 0.0.0.0: one among too many.
	Address netip.Addr
	Count   uint64
}
