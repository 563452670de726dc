// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"maps"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// A container has at most 30 series for its traffic and what it loses: two that describe it, six for its traffic on each
// network, one for its full listen queues, one for what it sends out of each network untranslated, two for each of the drop
// combinations counted here (of device, direction, reason and cause), and two for each of four kinds, under which the drops of
// further combinations are counted with reason and cause other. On three networks and more it has a few more. What nat.go and
// dns.go add has bounds of its own, and findings are not among them.
const (
	maxDropSeries     = 5 // on one network
	perFurtherNetwork = 4 // fewer, for the traffic there
	minDropSeries     = 2 // on however many
	maxBenignSeries   = 1 // beside these
)

// Metrics turns what is read, enriched and known into series.
type Metrics struct {
	store        *Store
	drops        details                   // by victim
	translations details                   // by owner
	ports        details                   // published ones that are told apart, by owner
	connections  details                   // by owner and published port
	lookups      details                   // by owner
	names        *nameTable                // of lookups
	servers      map[string]bool           // by address, that the host or containers are configured to ask
	networks     map[Owner]map[string]bool // that containers of an identity are on
	overlays     *overlayNames

	started  time.Time
	living   map[string]living            // containers, by ID
	states   map[string]loader.NetnsState // as last read, by ID of the living container
	tracking map[string]bool              // living containers, by ID, in whose namespaces connections were tracked
	host     *loader.ConntrackStats       // as last read; nil: not yet
}

type living struct {
	identity enrich.Identity
	started  time.Time
}

// NewMetrics writes to store.
func NewMetrics(store *Store) *Metrics {
	for _, signal := range []string{"flow", "drop"} {
		store.Plan(observedPackets, signal)
		store.Plan(unattributedPackets, signal)
	}
	for _, scope := range []enrich.Scope{enrich.ScopeHost, enrich.ScopeContainer} {
		store.Plan(rulesetChanges, string(scope))
	}
	m := &Metrics{
		store: store, drops: make(details), translations: make(details), ports: make(details), connections: make(details),
		lookups: make(details), names: newNameTable(DNSNames{}, store.config.Retention), overlays: newOverlayNames(store.config.Now),
		started: store.config.Now(), states: make(map[string]loader.NetnsState), tracking: make(map[string]bool),
	}
	m.setRaised(nil)
	return m
}

func identityValues(i enrich.Identity, scope enrich.Scope, more ...string) []string {
	return append([]string{i.Stack, i.Service, i.Container, i.Network, string(scope)}, more...)
}

// AddFlows counts traffic. It must not be called concurrently with the other methods.
func (m *Metrics) AddFlows(flows []enrich.Flow) {
	for i := range flows {
		f := &flows[i]
		switch f.Via {
		case enrich.ViaContainer:
			m.addInterfaceFlow(f)
			m.addConversation(f)
		case enrich.ViaSandbox: // it passes on what others say to each other
			m.addInterfaceFlow(f)
		case enrich.ViaBridge:
			m.addBridgeFlow(f)
		case enrich.ViaNobody:
			m.store.Add(unattributedPackets, float64(f.RX.Packets+f.TX.Packets), "flow")
		}
		m.store.Add(observedPackets, float64(f.RX.Packets+f.TX.Packets), "flow")
	}
}

func (m *Metrics) addInterfaceFlow(f *enrich.Flow) {
	for _, side := range []struct {
		direction enrich.Direction
		counts    loader.Counts
	}{{enrich.RX, f.RX}, {enrich.TX, f.TX}} {
		if side.counts.Skbs == 0 {
			continue
		}
		values := identityValues(f.Identity, f.Scope, string(side.direction))
		m.store.Add(packets, float64(side.counts.Packets), values...)
		m.store.Add(bytes, float64(side.counts.Bytes), values...)
		m.store.Add(skbs, float64(side.counts.Skbs), values...)
	}
}

// addConversation counts what the container sent, and what it received from anybody who does not count it as sent.
func (m *Metrics) addConversation(f *enrich.Flow) {
	if !f.Other && f.EtherType != unix.ETH_P_IP && f.EtherType != unix.ETH_P_IPV6 {
		return // ARP and the like: no conversation
	}
	self := []string{f.Stack, f.Service}
	if f.Service == "" {
		self[1] = f.Container
	}
	peer := []string{f.Peer.Stack, f.Peer.Service}
	protocol := enrich.ProtocolName(f.Protocol)
	if f.Other {
		peer[1] = Other
	}
	if f.TX.Bytes > 0 {
		m.store.Add(conversationBytes, float64(f.TX.Bytes), self[0], self[1], peer[0], peer[1], f.Network, protocol)
	}
	if f.RX.Bytes > 0 && !f.Peer.Local && !f.Other { // of whom it is not known, the sender may count it
		m.store.Add(conversationBytes, float64(f.RX.Bytes), peer[0], peer[1], self[0], self[1], f.Network, protocol)
	}
}

func (m *Metrics) addBridgeFlow(f *enrich.Flow) {
	m.store.Add(networkPackets, float64(f.RX.Packets), f.Network, string(enrich.RX))
	m.store.Add(networkPackets, float64(f.TX.Packets), f.Network, string(enrich.TX))
	m.store.Add(networkBytes, float64(f.RX.Bytes), f.Network, string(enrich.RX))
	m.store.Add(networkBytes, float64(f.TX.Bytes), f.Network, string(enrich.TX))
}

// AddDrops counts drops. It must not be called concurrently with the other methods.
func (m *Metrics) AddDrops(drops []enrich.Drop) {
	for i := range drops {
		d := &drops[i]
		values := m.dropValues(d)
		m.store.Add(droppedPackets, float64(d.Packets), values...)
		m.store.Add(droppedBytes, float64(d.Bytes), values...)
		m.store.Add(dropLocations, float64(d.Skbs), reasonLabel(d.Reason), d.Function)
		m.store.Add(observedPackets, float64(d.Packets), "drop")
		m.addTunnelDrop(d)
		if d.Scope == enrich.ScopeUnknown {
			m.store.Add(unattributedPackets, float64(d.Packets), "drop")
		}
	}
}

// dropValues keeps each container within its number of series. The host's own have no bound of their own.
func (m *Metrics) dropValues(d *enrich.Drop) []string {
	detail := []string{d.DeviceKind, string(d.Direction), reasonLabel(d.Reason), d.Cause, string(d.Kind)}
	victim := Owner{d.Stack, d.Service, d.Container}
	if victim == (Owner{}) {
		return identityValues(d.Identity, d.Scope, detail...)
	}
	values := identityValues(d.Identity, d.Scope, detail...)
	whose, limit := victim.key(), m.dropBudget(victim)
	if d.Kind == enrich.KindBenign { // noise must not take the room of what somebody loses
		whose, limit = whose+" benign", maxBenignSeries
	}
	if !m.drops.admit(whose, values[3:], droppedPackets.place(values), limit) {
		if d.Kind != enrich.KindBenign { // of noise, one combination is told as an example
			m.store.Add(seriesOverflow, 1, droppedPackets.Name)
		}
		return foreseenDrop(enrich.Identity{Stack: d.Stack, Service: d.Service, Container: d.Container}, string(d.Kind))
	}
	return values
}

func (m *Metrics) dropBudget(o Owner) int {
	further := max(0, len(m.networks[o])-1)
	return max(minDropSeries, maxDropSeries-further*perFurtherNetwork)
}

// reasonLabel gives kernels without reasons a value that says so.
func reasonLabel(reason string) string {
	if reason == "" {
		return "none"
	}
	return reason
}

// foreseenDrop are the labels of a container's drop about which nothing more is said: the zero that each container is
// born with, and what its number of series has no room for.
func foreseenDrop(i enrich.Identity, kind string) []string {
	return identityValues(i, enrich.ScopeContainer, "other", string(enrich.RX), "other", "other", kind)
}

// SetInventory makes the series of living containers exist at 0 and retires those of the dead. It must not be called
// concurrently with the other methods.
func (m *Metrics) SetInventory(inventory enrich.Inventory) {
	owners := make([]Owner, 0, len(inventory.Containers))
	var infos, starts, networks []Sample
	m.networks = make(map[Owner]map[string]bool, len(inventory.Containers))
	m.living = make(map[string]living, len(inventory.Containers))
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		o := Owner{c.Identity.Stack, c.Identity.Service, c.Identity.Container}
		owners = append(owners, o)
		m.living[c.ID] = living{c.Identity, c.StartedAt}
		if m.networks[o] == nil {
			m.networks[o] = make(map[string]bool)
		}
		for _, name := range c.Networks {
			m.networks[o][name] = true
		}
		m.planContainer(c)
		id := []string{c.Identity.Stack, c.Identity.Service, c.Identity.Container, c.ID}
		infos = append(infos, Sample{Value: 1, Values: append(id[:4:4], c.Name, c.Image)})
		if !c.StartedAt.IsZero() {
			starts = append(starts, Sample{Value: float64(c.StartedAt.UnixMilli()) / 1000, Values: id})
		}
	}
	for _, n := range inventory.Networks {
		networks = append(networks, Sample{Value: 1, Values: []string{
			n.Name, n.ID, n.Driver, n.Scope, n.VNI, strconv.FormatBool(n.Encrypted), strconv.FormatBool(n.Internal), n.MTU,
		}})
		m.store.Keep(Place{Network: n.Name})
		if n.Bridge != "" {
			m.planNetwork(n.Name)
		}
	}
	m.store.Replace(containerInfo, infos)
	m.store.Replace(containerStart, starts)
	m.store.Replace(networkInfo, networks)
	for i := range inventory.Services {
		s := &inventory.Services[i]
		owners = append(owners, Owner{Stack: s.Identity.Stack, Service: s.Identity.Service})
		m.planMesh(s)
	}
	m.setRequirements(&inventory)
	m.setServers(&inventory)
	if node := inventory.Node; node.Name != "" {
		m.store.Replace(nodeInfo, []Sample{{Value: 1, Values: []string{node.Name, node.ID, node.SwarmID, node.Role, node.Address}}})
	}
	maps.DeleteFunc(m.states, func(id string, _ loader.NetnsState) bool { _, lives := m.living[id]; return !lives })
	maps.DeleteFunc(m.tracking, func(id string, _ bool) bool { _, lives := m.living[id]; return !lives })
	m.store.Retire(owners)
	m.forgetRetired()
}

func (m *Metrics) planContainer(c *enrich.LiveContainer) {
	for _, name := range c.Networks {
		identity := c.Identity
		identity.Network = name
		for _, direction := range []enrich.Direction{enrich.RX, enrich.TX} {
			values := identityValues(identity, enrich.ScopeContainer, string(direction))
			for _, f := range []*Family{packets, bytes, skbs} {
				m.store.Plan(f, values...)
			}
		}
	}
	values := foreseenDrop(c.Identity, string(enrich.KindFault))
	m.store.Plan(droppedPackets, values...)
	m.store.Plan(droppedBytes, values...)
	m.store.Plan(listenOverflows, identityValues(c.Identity, enrich.ScopeContainer)...)
	m.planPublished(c)
	m.planDNS(c)
}

func (m *Metrics) planNetwork(name string) {
	for _, direction := range []enrich.Direction{enrich.RX, enrich.TX} {
		m.store.Plan(networkPackets, name, string(direction))
		m.store.Plan(networkBytes, name, string(direction))
	}
}

// forgetRetired gives owners the room back of series that were retired.
func (m *Metrics) forgetRetired() {
	for _, d := range []details{m.drops, m.translations, m.ports, m.connections, m.lookups} {
		d.forget(func(at Place) bool { return !m.store.knows(at) })
	}
}

func (s *Store) knows(p Place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.places[p]
	return known
}
