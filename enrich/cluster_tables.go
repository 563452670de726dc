// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file holds the tables of VXLAN devices against what the engine says of the Swarm. Both are read at other times, and tasks
// come, go and move all the while: what looks wrong is so only if it did before the engine was asked, the engine still says so, and
// it does after.

// settled is how long after the engine first told of an endpoint its rows may still be on their way.
const settled = 5 * time.Second

// fault is a row that is missing (got is not valid), or that leads to another node than the engine says.
type fault struct {
	networkID string
	address   netip.Addr
	neighbour bool // it is of the table of neighbours, else of the FDB
	got       netip.Addr
}

// suspicion is since when a fault was there at every look, and whether it is one.
type suspicion struct {
	since time.Time
	sure  bool
}

// rowKey is a row of an FDB on a network.
type rowKey struct {
	networkID string
	mac       [6]byte
}

// balancerAt is where the load balancer of a network is on another node. The engine does not tell of those.
type balancerAt struct {
	networkID string
	host      netip.Addr
}

// macHolder is an endpoint that may have been given a MAC address. Its address alone may be another's tomorrow.
type macHolder struct {
	networkID, endpointID string
	address               netip.Addr
}

// rowMemory is what is remembered from look to look.
type rowMemory struct {
	faults    map[fault]suspicion
	strange   map[rowKey]time.Time // rows of nobody whom the engine knows, since when
	balancers map[balancerAt]overlayEndpoint
	macs      map[macHolder][6]byte // unusual ones, as the neighbours had them last
}

func newRowMemory() rowMemory {
	return rowMemory{
		faults: make(map[fault]suspicion), strange: make(map[rowKey]time.Time),
		balancers: make(map[balancerAt]overlayEndpoint), macs: make(map[macHolder][6]byte),
	}
}

// macOf is the MAC address of a remote endpoint: as the neighbours had it last, else the one that the engine gives by itself.
func (m *rowMemory) macOf(networkID string, e *overlayEndpoint) [6]byte {
	if mac, found := m.macs[macHolder{networkID, e.id, e.address}]; found {
		return mac
	}
	return usualMAC(e.address)
}

// tables are those of one overlay's VXLAN devices. Rows that a device has learned from packets are left out: they go after minutes
// without any, and until then hide that the engine's is missing.
type tables struct {
	fdb        map[[6]byte][]netip.Addr
	neighbours map[netip.Addr][6]byte
	addresses  map[[6]byte]netip.Addr
}

func newTables(state *loader.SandboxState) *tables {
	t := &tables{
		fdb: make(map[[6]byte][]netip.Addr, len(state.FDB)), neighbours: make(map[netip.Addr][6]byte, len(state.Neighbours)),
		addresses: make(map[[6]byte]netip.Addr, len(state.Neighbours)),
	}
	for _, row := range state.FDB {
		if row.Permanent && row.Peer.IsValid() && row.MAC != ([6]byte{}) {
			t.fdb[row.MAC] = append(t.fdb[row.MAC], row.Peer)
		}
	}
	for _, row := range state.Neighbours {
		if !row.Failed && row.MAC != ([6]byte{}) {
			t.neighbours[row.Address] = row.MAC
			t.addresses[row.MAC] = row.Address
		}
	}
	return t
}

// compareTables finds what is wrong with the tables of all overlays. Networks without a namespace here are forgotten.
func (s *State) compareTables(now time.Time) {
	memory := &s.overlays.sandboxes.rows
	next := newRowMemory()
	present := make(map[string]bool)
	for _, state := range s.overlays.sandboxes.states {
		if state.Kind != loader.SandboxOverlay {
			continue
		}
		n := s.networkOf(&state.Sandbox)
		if n == nil || !s.overlays.words[n.ID].isOn() {
			continue
		}
		present[n.ID] = true
		if len(state.Errors) > 0 { // rows may be left out
			memory.keep(n.ID, &next)
			continue
		}
		c := comparison{State: s, network: n, word: s.overlays.words[n.ID], tables: newTables(state), now: now}
		c.learnMACs(next.macs)
		c.compare(next.faults)
		c.findStrange(next.strange)
	}
	known := len(memory.balancers)
	maps.DeleteFunc(memory.balancers, func(at balancerAt, _ overlayEndpoint) bool { return !present[at.networkID] })
	if len(memory.balancers) != known || !maps.Equal(memory.macs, next.macs) {
		s.overlays.outdate()
	}
	memory.faults, memory.strange, memory.macs = next.faults, next.strange, next.macs
}

// keep takes over what was known of a network.
func (m *rowMemory) keep(networkID string, next *rowMemory) {
	for f, known := range m.faults {
		if f.networkID == networkID {
			next.faults[f] = known
		}
	}
	for row, since := range m.strange {
		if row.networkID == networkID {
			next.strange[row] = since
		}
	}
	for at, mac := range m.macs {
		if at.networkID == networkID {
			next.macs[at] = mac
		}
	}
}

// comparison is of one network.
type comparison struct {
	*State
	network *knownNetwork
	word    *overlayWord
	tables  *tables
	now     time.Time
}

func (c *comparison) memory() *rowMemory { return &c.overlays.sandboxes.rows }

// learnMACs notes who has an unusual MAC address, as the neighbours say, or did as long as they had him.
func (c *comparison) learnMACs(macs map[macHolder][6]byte) {
	for i := range c.word.endpoints {
		e := &c.word.endpoints[i]
		if mac := c.macOf(e); mac != usualMAC(e.address) {
			macs[macHolder{c.network.ID, e.id, e.address}] = mac
		}
	}
}

// macOf is the MAC address of an endpoint right now.
func (c *comparison) macOf(e *overlayEndpoint) [6]byte {
	if mac, found := c.tables.neighbours[e.address]; found {
		return mac
	}
	return c.memory().macOf(c.network.ID, e)
}

func (c *comparison) compare(faults map[fault]suspicion) {
	self := c.overlayIndex().self
	for i := range c.word.endpoints {
		if e := &c.word.endpoints[i]; !e.local && e.host.IsValid() && e.host != self {
			c.expect(e, faults)
		}
	}
	for at, e := range c.memory().balancers {
		if at.networkID == c.network.ID {
			c.expectBalancer(at, e, faults)
		}
	}
}

// expect notes what is wrong with the rows of an endpoint of another node.
func (c *comparison) expect(e *overlayEndpoint, faults map[fault]suspicion) {
	f := fault{networkID: c.network.ID, address: e.address}
	mac := c.macOf(e)
	if rows := c.tables.fdb[mac]; mac != ([6]byte{}) && !slices.Contains(rows, e.host) {
		if len(rows) > 0 {
			f.got = rows[0]
		}
		c.suspect(f, e, faults)
	}
	if _, found := c.tables.neighbours[e.address]; !found {
		c.suspect(fault{networkID: c.network.ID, address: e.address, neighbour: true}, e, faults)
	}
}

// suspect notes what looks wrong, and has the engine asked again.
func (c *comparison) suspect(f fault, e *overlayEndpoint, faults map[fault]suspicion) {
	known, seen := c.memory().faults[f]
	if !seen {
		known.since = c.now
		c.word.pause = overlayPause
	}
	known.sure = known.sure || c.word.asked.After(known.since) && c.now.Sub(e.since) >= settled
	c.word.want(c.now) // also of one that is sure: it may be that the engine had not heard yet. The pause gets longer by itself
	faults[f] = known
}

// findStrange notes the rows of nobody whom the engine knows. Who is there still when the engine was asked after it came is a node's
// load balancer, of which each has one.
func (c *comparison) findStrange(strange map[rowKey]time.Time) {
	expected := make(map[[6]byte]bool, len(c.word.endpoints))
	for i := range c.word.endpoints {
		expected[c.macOf(&c.word.endpoints[i])] = true
	}
	for mac, hosts := range c.tables.fdb {
		if expected[mac] {
			continue
		}
		key := rowKey{c.network.ID, mac}
		since, seen := c.memory().strange[key]
		if !seen {
			since = c.now
			c.word.want(c.now)
			c.word.pause = overlayPause
		}
		strange[key] = since
		if seen && c.word.asked.After(since) {
			c.noteBalancer(mac, hosts[0])
		}
	}
}

// noteBalancer takes a row for that of a node's load balancer, unless that has another one.
func (c *comparison) noteBalancer(mac [6]byte, host netip.Addr) {
	address, known := c.tables.addresses[mac]
	if !known || !c.network.isOn(address) {
		return
	}
	at := balancerAt{c.network.ID, host}
	last, known := c.memory().balancers[at]
	if known && (last.mac == mac || len(c.tables.fdb[last.mac]) > 0) {
		return
	}
	c.memory().balancers[at] = overlayEndpoint{address: address, mac: mac, host: host, balancer: true, since: c.now}
	c.overlays.outdate()
}

// expectBalancer does so of a node's load balancer, as long as that node is on the network.
func (c *comparison) expectBalancer(at balancerAt, e overlayEndpoint, faults map[fault]suspicion) {
	taken := slices.ContainsFunc(c.word.endpoints, func(other overlayEndpoint) bool { return other.address == e.address })
	if taken || !c.isOnNetwork(at.host) {
		delete(c.memory().balancers, at)
		c.overlays.outdate()
		return
	}
	c.expect(&e, faults)
}

// isOnNetwork tells whether a node is on the network, by its data-path address.
func (c *comparison) isOnNetwork(host netip.Addr) bool {
	p := c.overlayIndex().peers[host]
	return p != nil && (slices.Contains(c.word.peers, p.Control) || slices.ContainsFunc(c.word.endpoints, func(e overlayEndpoint) bool {
		return e.host == host
	}))
}

// balancers are the load balancers of other nodes.
func (s *State) balancers() []*ClusterEndpoint {
	var found []*ClusterEndpoint
	for at, e := range s.overlays.sandboxes.rows.balancers {
		if n := s.networks[at.networkID]; n != nil {
			found = append(found, &ClusterEndpoint{
				Identity: Identity{Network: n.Name}, NetworkID: n.ID, Address: e.address, MAC: e.mac, Host: e.host, LoadBalancer: true,
			})
		}
	}
	return found
}

// addFaults says what is surely wrong with the tables of a network.
func (s *State) addFaults(told *OverlayNetwork) {
	for f, known := range s.overlays.sandboxes.rows.faults {
		e := s.overlayIndex().endpoints[station{f.networkID, f.address}]
		if f.networkID != told.ID || !known.sure || e == nil {
			continue
		}
		switch {
		case f.neighbour:
			told.NoNeighbour = append(told.NoNeighbour, *e)
		case f.got.IsValid():
			told.Astray = append(told.Astray, AstrayEntry{*e, f.got})
		default:
			told.NoFDB = append(told.NoFDB, *e)
		}
	}
	byAddress := func(a, b ClusterEndpoint) int { return a.Address.Compare(b.Address) }
	slices.SortFunc(told.NoFDB, byAddress)
	slices.SortFunc(told.NoNeighbour, byAddress)
	slices.SortFunc(told.Astray, func(a, b AstrayEntry) int { return a.Address.Compare(b.Address) })
}
