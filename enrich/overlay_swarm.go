// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file keeps what the engine says of its Swarm as a whole: who manages it, and, on managers, which nodes there are. It stays
// known when managers cannot be asked any more, until this node leaves.

// overlays is what is known of the Swarm and of its networks between nodes.
type overlays struct {
	info  swarmInfo
	nodes []swarmNode             // as a manager has said
	words map[string]*overlayWord // by network ID

	folder    string // of the engine's namespaces, as a container told; "": none has
	sandboxes sandboxes
	legs      legs
	devices   map[loader.DeviceID]*overlayDevice

	// What waits for the engine's word.
	inner  []waiting[loader.Flow]
	misses []waiting[loader.Miss]

	indexed *overlayIndex // nil: to be made anew
}

func newOverlays() overlays {
	return overlays{
		words: make(map[string]*overlayWord), sandboxes: newSandboxes(), legs: newLegs(),
		devices: make(map[loader.DeviceID]*overlayDevice),
	}
}

// outdate has the index made anew.
func (o *overlays) outdate() { o.indexed = nil }

// swarmInfo is what every node's engine says of its Swarm.
type swarmInfo struct {
	member   bool
	id       string     // of this node
	address  netip.Addr // that this node advertises
	managers []swarmManager
	dataPort uint16 // 0: not said, as on workers
}

type swarmManager struct {
	id      string
	address netip.AddrPort
}

func newSwarmInfo(said swarm.Info) swarmInfo {
	info := swarmInfo{member: isMember(said.LocalNodeState), id: said.NodeID, address: parseAddress(said.NodeAddr)}
	for _, m := range said.RemoteManagers {
		if address := parseManager(m.Addr); address.IsValid() {
			info.managers = append(info.managers, swarmManager{m.NodeID, address})
		}
	}
	slices.SortFunc(info.managers, func(a, b swarmManager) int {
		return cmp.Or(a.address.Compare(b.address), strings.Compare(a.id, b.id))
	})
	if said.Cluster != nil && said.Cluster.DataPathPort < 1<<16 {
		info.dataPort = uint16(said.Cluster.DataPathPort)
	}
	return info
}

// parseManager returns no valid address for what is none, or none that anybody could be reached at.
func parseManager(text string) netip.AddrPort {
	address, err := netip.ParseAddrPort(text)
	if err != nil || address.Addr().IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
}

// swarmNode is what a manager says of a node.
type swarmNode struct {
	id      string
	name    string
	state   string
	address netip.Addr     // that it advertises
	manager netip.AddrPort // where it takes orders; not valid: it is a worker
}

func newSwarmNodes(listed []swarm.Node) []swarmNode {
	nodes := make([]swarmNode, 0, len(listed))
	for _, n := range listed {
		node := swarmNode{
			id: n.ID, name: n.Description.Hostname, state: string(n.Status.State), address: parseAddress(n.Status.Addr),
		}
		if n.ManagerStatus != nil {
			node.manager = parseManager(n.ManagerStatus.Addr)
		}
		if !node.address.IsValid() { // of a manager itself, some engines say 0.0.0.0
			node.address = node.manager.Addr()
		}
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b swarmNode) int { return strings.Compare(a.id, b.id) })
	return nodes
}

// setSwarmInfo takes in what the engine says of its Swarm. What it leaves out right now stays as it is known.
func (s *State) setSwarmInfo(info swarmInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.overlays
	known := &o.info
	if !info.member || info.id != "" && known.id != "" && info.id != known.id { // it left, and may have joined another
		*known = swarmInfo{}
		o.nodes = nil
		clear(o.words)
		o.sandboxes.rows = newRowMemory()
		o.outdate()
	}
	if !info.member {
		return
	}
	next := *known
	next.member = true
	next.id = first(info.id, known.id)
	if info.address.IsValid() {
		next.address = info.address
	}
	if len(info.managers) > 0 {
		next.managers = info.managers
	}
	if info.dataPort != 0 {
		next.dataPort = info.dataPort
	}
	if next.address != known.address || !slices.Equal(next.managers, known.managers) {
		o.outdate()
	}
	*known = next
}

// setSwarmNodes takes in which nodes a manager knows.
func (s *State) setSwarmNodes(nodes []swarmNode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(nodes, s.overlays.nodes) {
		return
	}
	s.overlays.nodes = nodes
	s.overlays.outdate()
}

// nodeByID finds what a manager has said of a node; nil: nothing.
func (o *overlays) nodeByID(id string) *swarmNode {
	i, found := slices.BinarySearchFunc(o.nodes, id, func(n swarmNode, id string) int { return strings.Compare(n.id, id) })
	if !found {
		return nil
	}
	return &o.nodes[i]
}

// ports are where the nodes of the Swarm listen. Only managers are told the data path's; a VXLAN device knows it too.
func (o *overlays) ports() loader.OverlayPorts {
	ports := loader.OverlayPorts{Data: o.info.dataPort, Gossip: loader.DefaultGossipPort}
	if ports.Data == 0 {
		ports.Data = o.sandboxes.dataPort()
	}
	if ports.Data == 0 {
		ports.Data = loader.DefaultDataPort
	}
	for _, m := range o.info.managers {
		ports.Managers = append(ports.Managers, m.address.Port())
	}
	for i := range o.nodes {
		if manager := o.nodes[i].manager; manager.IsValid() {
			ports.Managers = append(ports.Managers, manager.Port())
		}
	}
	if len(ports.Managers) == 0 {
		ports.Managers = []uint16{loader.DefaultManagerPort}
	}
	slices.Sort(ports.Managers)
	ports.Managers = slices.Compact(ports.Managers)
	return ports
}

// OverlayUplinks says by which links, given by ifindex, packets of the Swarm's nodes come and go, and by which ports they are
// known. As long as this node is in no Swarm there are neither. Uplinks are those of [State.Uplinks].
func (s *State) OverlayUplinks() (devices []int, ports loader.OverlayPorts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node.Role == "" {
		return nil, loader.OverlayPorts{}
	}
	open := s.openBridges()
	for index, p := range s.links {
		if s.isUplink(p, open) {
			devices = append(devices, index)
		}
	}
	slices.Sort(devices)
	return devices, s.overlays.ports()
}

// usualFolder is where engines keep the namespaces of their containers and networks, unless they are told otherwise by
// --exec-root, of which the API says nothing.
const usualFolder = "/var/run/docker/netns"

// SandboxFolder returns where the engine of a node in a Swarm keeps its namespaces, as any container has told so far: the usual folder
// until one tells, since there are some even without containers. "": the node is in no Swarm, so that none is of interest.
func (s *State) SandboxFolder() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.node.Role == "":
		return ""
	case s.overlays.folder == "":
		return usualFolder
	}
	return s.overlays.folder
}
