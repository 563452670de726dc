// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// A container has at most 16 series for what is translated for it and tracked in its namespace: the translations counted here
// and two for all others, two for its table of tracked connections and four for what that could not do, one for untranslated
// packets that were leftovers, and one for what it asks for by label. A published port has at most 14: one for the attempts,
// three for clients whose address is kept, five for the ways in which remote ones lose it, those of other clients that are
// counted here, and for each of these clients one for all other ways; mostly it has three. Ports beyond those counted here are
// one, as other.
const (
	maxTranslationSeries = 6
	maxPublishedPorts    = 16
	maxLossSeries        = 3 // of clients that are not remote
)

// other stands in a closed set of label values for what has no room, or no name.
const other = "other"

// Values of the label source_address.
const (
	addressPreserved = "preserved"
	addressLost      = "lost"
)

// AddNAT counts translated connections and those to published ports. It must not be called concurrently with the other
// methods.
func (m *Metrics) AddNAT(nat enrich.NAT) {
	translations := tallyOf[translationKey]{}
	for i := range nat.Translations {
		t := &nat.Translations[i]
		translations.add(translationKey{t.Identity, t.Scope, t.Kind, enrich.ProtocolName(t.Protocol)})
	}
	for _, k := range translations.keys {
		m.store.Add(natTranslations, translations.counts[k], m.translationValues(k)...)
	}
	attempts, connections := tallyOf[attemptKey]{}, tallyOf[connectionKey]{}
	for i := range nat.Attempts {
		attempts.add(newAttemptKey(&nat.Attempts[i]))
	}
	for i := range nat.Connections {
		c := &nat.Connections[i]
		connections.add(connectionKey{newAttemptKey(c), c.Client, c.Preserved, c.Mechanism})
	}
	for _, k := range attempts.keys {
		m.addPublished(publishedAttempts, attempts.counts[k], m.attemptValues(k))
	}
	for _, k := range connections.keys {
		m.addPublished(publishedConnections, connections.counts[k], m.connectionValues(k))
	}
}

// addPublished notes what is of a port, or lost in a way, that is not told apart.
func (m *Metrics) addPublished(f *Family, n float64, values []string) {
	if slices.Contains(values[len(identityLabels):], other) {
		m.store.Add(seriesOverflow, 1, f.Name)
	}
	m.store.Add(f, n, values...)
}

// tallyOf counts how many there are of each: of the thousands of connections in a reading, few differ in their labels.
type tallyOf[K comparable] struct {
	keys   []K // in the order in which they came
	counts map[K]float64
}

func (t *tallyOf[K]) add(k K) { t.addMany(k, 1) }

// addMany adds so many, which may be none: then there is a key without a count.
func (t *tallyOf[K]) addMany(k K, more float64) {
	if t.counts == nil {
		t.counts = make(map[K]float64)
	}
	n, known := t.counts[k]
	if !known {
		t.keys = append(t.keys, k)
	}
	t.counts[k] = n + more
}

type translationKey struct {
	enrich.Identity
	scope    enrich.Scope
	kind     enrich.NATKind
	protocol string
}

// translationValues keeps each owner within its number of series. The host's own have no bound of their own.
func (m *Metrics) translationValues(k translationKey) []string {
	values := identityValues(k.Identity, k.scope, string(k.kind), k.protocol)
	owner := ownerOf(k.Identity)
	if owner == (Owner{}) || m.translations.admit(owner.key(), values[3:], natTranslations.place(values), maxTranslationSeries) {
		return values
	}
	m.store.Add(seriesOverflow, 1, natTranslations.Name)
	k.Network = ""
	return identityValues(k.Identity, k.scope, other, other)
}

func ownerOf(i enrich.Identity) Owner { return Owner{i.Stack, i.Service, i.Container} }

// attemptKey has no network: a published port is its container's, whichever network leads there.
type attemptKey struct {
	enrich.Identity
	scope    enrich.Scope
	port     uint16
	protocol string
}

func newAttemptKey(c *enrich.PublishedConnection) attemptKey {
	k := attemptKey{c.Identity, c.Scope, c.Port, c.Protocol}
	k.Network = ""
	return k
}

func (m *Metrics) attemptValues(k attemptKey) []string {
	return identityValues(k.Identity, k.scope, m.portLabel(k), k.protocol)
}

// portLabel tells so many ports of an owner apart.
func (m *Metrics) portLabel(k attemptKey) string {
	port := strconv.Itoa(int(k.port))
	owner := ownerOf(k.Identity)
	if owner == (Owner{}) || m.ports.admit(owner.key(), []string{port, k.protocol}, Place{Owner: owner, Port: port}, maxPublishedPorts) {
		return port
	}
	return other
}

type connectionKey struct {
	attemptKey
	client    enrich.Client
	preserved bool
	mechanism enrich.Mechanism
}

// connectionValues keeps each published port within its number of series. What alerts and runbooks look at, how remote clients
// lose their address, is told apart in any case: the ways are few.
func (m *Metrics) connectionValues(k connectionKey) []string {
	values := append(m.attemptValues(k.attemptKey), string(k.client), sourceAddress(k.preserved), string(k.mechanism))
	if ownerOf(k.Identity) == (Owner{}) || k.preserved || k.client == enrich.ClientRemote {
		return values
	}
	if m.connections.admit(seriesKey(values[:7]), values[7:], publishedConnections.place(values), maxLossSeries) {
		return values
	}
	values[len(values)-1] = other
	return values
}

func sourceAddress(preserved bool) string {
	if preserved {
		return addressPreserved
	}
	return addressLost
}

// planPublished makes the series of a container's published ports exist at 0, the lowest ports first: that they are asked
// for, and that all is well.
func (m *Metrics) planPublished(c *enrich.LiveContainer) {
	ports := slices.Clone(c.Published)
	slices.SortFunc(ports, func(a, b enrich.PublishedPort) int {
		return cmp.Or(cmp.Compare(a.Host.Port(), b.Host.Port()), cmp.Compare(a.Protocol, b.Protocol))
	})
	for _, p := range ports {
		if p.Host.Port() == 0 { // in gateway mode routed: it is no port of the host
			continue
		}
		k := attemptKey{c.Identity, enrich.ScopeHost, p.Host.Port(), p.Protocol}
		m.store.Plan(publishedAttempts, m.attemptValues(k)...)
		m.store.Plan(publishedConnections, m.connectionValues(connectionKey{k, enrich.ClientRemote, true, enrich.NoMechanism})...)
	}
}

// planMesh does the same for the ports that the routing mesh publishes for a service, whose containers never see the client.
func (m *Metrics) planMesh(s *enrich.LiveService) {
	for _, p := range s.Mesh {
		k := attemptKey{s.Identity, enrich.ScopeIngress, p.Port, p.Protocol}
		m.store.Plan(publishedAttempts, m.attemptValues(k)...)
		m.store.Plan(publishedConnections, m.connectionValues(connectionKey{k, enrich.ClientRemote, false, enrich.IngressMesh})...)
	}
}

// sourceAddresses is what the metric calls that a service asks to see its clients' addresses.
const sourceAddresses = "source-address"

// setRequirements shows what is asked for by label: by a service as a whole, or by a container that belongs to none.
func (m *Metrics) setRequirements(inventory *enrich.Inventory) {
	var samples []Sample
	ask := func(labels map[string]string, who enrich.Identity) {
		if labels[enrich.LabelSourceAddress] != enrich.SourceAddressRequired {
			return
		}
		asks := enrich.Identity{Stack: who.Stack, Service: who.Service}
		if asks.Service == "" {
			asks.Container = who.Container
		}
		samples = append(samples, Sample{Value: 1, Values: identityValues(asks, "", sourceAddresses)})
	}
	for i := range inventory.Services { // a manager's, of which this node may have no container
		ask(inventory.Services[i].Labels, inventory.Services[i].Identity)
	}
	for i := range inventory.Containers {
		ask(inventory.Containers[i].Labels, inventory.Containers[i].Identity)
	}
	m.store.Replace(serviceRequirement, samples)
}

// setConntrack shows how full the tables of tracked connections are: the host's, and those of the containers in which
// anything is tracked or was. Of several containers of one identity it is the fullest. The limit is the same for all.
func (m *Metrics) setConntrack(host *loader.HostState, containers map[string]loader.NetnsState) {
	limit := host.Conntrack.Limit
	if limit == 0 {
		m.store.Replace(conntrackEntries, nil)
		m.store.Replace(conntrackLimit, nil)
		return
	}
	entries := []Sample{{Value: float64(host.Conntrack.Entries), Values: identityValues(enrich.Identity{}, enrich.ScopeHost)}}
	for id, state := range containers {
		c, known := m.living[id]
		if !known || state.Conntrack.Entries == 0 && !m.tracking[id] {
			continue
		}
		m.tracking[id] = true
		entries = append(entries, Sample{Value: float64(state.Conntrack.Entries), Values: identityValues(c.identity, enrich.ScopeContainer)})
	}
	slices.SortFunc(entries, func(a, b Sample) int { return cmp.Compare(b.Value, a.Value) }) // Replace takes the first of an identity
	limits := make([]Sample, 0, len(entries))
	for _, e := range entries {
		limits = append(limits, Sample{Value: float64(limit), Values: e.Values})
	}
	m.store.Replace(conntrackEntries, entries)
	m.store.Replace(conntrackLimit, limits)
}

// addHostConntrack counts what the host's namespace could not track since the agent started.
func (m *Metrics) addHostConntrack(host *loader.HostState) {
	if host.Conntrack.Limit == 0 {
		return
	}
	values := identityValues(enrich.Identity{}, enrich.ScopeHost)
	for _, e := range conntrackEvents(&loader.ConntrackStats{}) {
		m.store.Plan(conntrackFailures, append(slices.Clip(values), e.event)...)
	}
	stats := host.ConntrackStats
	if stats == nil {
		return
	}
	if m.host != nil {
		m.addConntrackFailures(stats.Since(*m.host), values)
	}
	m.host = stats
}

// risen is how much the counters of a container's namespace have grown, which is a new one after a restart.
func risen(now, last *loader.ConntrackStats) loader.ConntrackStats {
	return loader.ConntrackStats{
		InsertFailed: rise(now.InsertFailed, last.InsertFailed), Drop: rise(now.Drop, last.Drop),
		EarlyDrop: rise(now.EarlyDrop, last.EarlyDrop), Invalid: rise(now.Invalid, last.Invalid),
	}
}

// addConntrackFailures counts what was not there the last time. That mostly is nothing: then there is no series for it.
func (m *Metrics) addConntrackFailures(risen loader.ConntrackStats, identity []string) {
	for _, e := range conntrackEvents(&risen) {
		if e.count > 0 {
			m.store.Add(conntrackFailures, float64(e.count), append(slices.Clip(identity), e.event)...)
		}
	}
}

type conntrackEvent struct {
	event string
	count uint64
}

// conntrackEvents are what can go wrong, always in the same order.
func conntrackEvents(s *loader.ConntrackStats) []conntrackEvent {
	return []conntrackEvent{
		{"insert_failed", s.InsertFailed}, {"drop", s.Drop}, {"early_drop", s.EarlyDrop}, {"invalid", s.Invalid},
	}
}

// SetTracking shows how many of the host's ports are in use towards the destination that has the most of them, of each
// protocol. It must not be called concurrently with the other methods.
func (m *Metrics) SetTracking(tracking *enrich.Tracking) {
	var used, limits []Sample
	for _, p := range tracking.Pressure { // highest first, and Replace takes the first
		values := identityValues(enrich.Identity{}, enrich.ScopeHost, enrich.ProtocolName(p.Protocol))
		used = append(used, Sample{Value: float64(p.Used), Values: values})
		limits = append(limits, Sample{Value: float64(p.Limit), Values: values})
	}
	m.store.Replace(snatPortsUsed, used)
	m.store.Replace(snatPortsLimit, limits)
}

// AddRulesetChanges counts changes of rules. It must not be called concurrently with the other methods.
func (m *Metrics) AddRulesetChanges(changes []loader.RulesetChange) {
	for i := range changes {
		scope := enrich.ScopeContainer
		if changes[i].NetnsID < 0 {
			scope = enrich.ScopeHost
		}
		m.store.Add(rulesetChanges, 1, string(scope))
	}
}
