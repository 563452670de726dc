// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/bridgewatch/bridgewatch/loader"
)

const (
	// snatPorts is how many ports there are to choose from where a rule names none, as MASQUERADE and Docker's SNAT do: 1024
	// to 65535 for a connection whose own port is one of these. The kernel (net/netfilter/nf_nat_core.c,
	// nf_nat_l4proto_unique_tuple) keeps ports below 1024 apart, for connections that come from such. It tries some 240 of
	// them at random places and then gives up, so that connections begin to be lost just before all are taken.
	snatPorts      = 65535 - lowestSNATPort + 1
	lowestSNATPort = 1024

	// maxPressure is how many destinations are told, and one of each protocol besides; maxStale how many entries.
	maxPressure = 10
	maxStale    = 1000
)

// Track says what the host's table of tracked connections means. translated visits its translated entries, passing those of
// UDP that are not: [loader.ListTracked] and [loader.ListUntranslatedUDP]. The latter is called only if somebody publishes
// UDP, and its entries may matter. If either fails, what was visited until then comes with its error.
func (s *State) Track(translated, passing func(visit func(*loader.Tracked)) error) (Tracking, error) {
	t := tracker{State: s, identities: make(map[egressKey]*EgressIdentity), pressure: make(map[pressureKey]ports)}
	err := translated(t.each(t.visit))
	if err == nil && t.leadsUDP() {
		err = passing(t.each(t.findPassedBy))
	}
	return t.tracking(), err
}

// each locks the state for each entry alone: the kernel takes its time for many.
func (t *tracker) each(take func(*loader.Tracked)) func(*loader.Tracked) {
	return func(entry *loader.Tracked) {
		t.mu.Lock()
		defer t.mu.Unlock()
		take(entry)
	}
}

// tracker sums up entries.
type tracker struct {
	*State
	identities map[egressKey]*EgressIdentity
	pressure   map[pressureKey]ports
	stale      []StaleEntry
	moreStale  int
}

type egressKey struct {
	containerID string
	address     netip.Addr
}

type pressureKey struct {
	address     netip.Addr
	destination netip.AddrPort
	protocol    uint8
}

// ports are those in use. Most often it is one: there may be as many destinations as connections.
type ports struct {
	first uint16
	more  *morePorts
}

type morePorts struct {
	list   []uint16 // perhaps with some of them twice, since an entry may be visited twice
	owner  *member  // of one of the connections, with the address that it comes from
	source netip.Addr
}

func (t *tracker) visit(entry *loader.Tracked) {
	if entry.Original.Source.Addr() != entry.Reply.Destination.Addr() {
		owner := t.sender(entry)
		t.countPort(entry, owner)
		t.countIdentity(entry, owner)
	}
	t.findStale(entry)
}

// sender finds the container that a connection comes from, nil if it is none that lives.
func (t *tracker) sender(entry *loader.Tracked) *member {
	m := t.memberByAddress(entry.Original.Source.Addr())
	if m == nil || !m.alive() || m.Name == "" {
		return nil
	}
	return m
}

// countIdentity counts what goes to the outside.
func (t *tracker) countIdentity(entry *loader.Tracked, owner *member) {
	to := entry.Reply.Source.Addr()
	if owner == nil || t.isOwn(to) || t.networkOfAddress(to) != "" {
		return
	}
	key := egressKey{owner.ID, entry.Reply.Destination.Addr()}
	network := t.networkOfEnd(owner, entry.Original.Source.Addr())
	found := t.identities[key]
	if found == nil {
		found = &EgressIdentity{Identity: owner.Identity, ContainerID: owner.ID, Address: key.address}
		found.Network = network
		t.identities[key] = found
	}
	found.Network = min(found.Network, network) // of several always the same
	found.Connections++
}

func (t *tracker) countPort(entry *loader.Tracked, owner *member) {
	port := entry.Reply.Destination.Port()
	if !hasPorts(entry.Protocol) || port < lowestSNATPort {
		return
	}
	key := pressureKey{entry.Reply.Destination.Addr(), entry.Reply.Source, entry.Protocol}
	used, known := t.pressure[key]
	switch {
	case !known:
		t.pressure[key] = ports{first: port}
		return
	case used.more == nil && used.first == port:
		return
	case used.more == nil:
		used.more = &morePorts{list: []uint16{used.first}}
		t.pressure[key] = used
	}
	more := used.more
	more.list = append(more.list, port)
	if more.owner == nil {
		more.owner, more.source = owner, entry.Original.Source.Addr()
	}
}

func (t *tracker) tracking() Tracking {
	sharing := make(map[netip.Addr]int)
	for key := range t.identities {
		sharing[key.address]++
	}
	result := Tracking{Pressure: t.mostPressed(), Stale: t.stale, MoreStale: t.moreStale}
	for _, identity := range t.identities {
		identity.Sharing = sharing[identity.Address]
		result.Identities = append(result.Identities, *identity)
	}
	slices.SortFunc(result.Identities, func(a, b EgressIdentity) int {
		return cmp.Or(compareIdentities(a.Identity, b.Identity), strings.Compare(a.ContainerID, b.ContainerID),
			a.Address.Compare(b.Address))
	})
	slices.SortFunc(result.Stale, func(a, b StaleEntry) int {
		return cmp.Or(compareIdentities(a.Identity, b.Identity), cmp.Compare(a.Port, b.Port),
			a.Original.Source.Compare(b.Original.Source), a.Original.Destination.Compare(b.Original.Destination))
	})
	return result
}

// mostPressed returns the destinations towards which most ports are in use, of those with more than one, and the first of each
// protocol.
func (t *tracker) mostPressed() []PortPressure {
	t.mu.Lock()
	defer t.mu.Unlock()
	var most []PortPressure
	highest := make(map[uint8]PortPressure)
	for key, used := range t.pressure {
		if used.more == nil {
			continue
		}
		slices.Sort(used.more.list)
		next := PortPressure{
			Address: key.address, Destination: key.destination, Protocol: key.protocol,
			Used: len(slices.Compact(used.more.list)), Limit: snatPorts,
		}
		if first, known := highest[key.protocol]; !known || comparePressure(next, first) < 0 {
			highest[key.protocol] = next
		}
		if at, _ := slices.BinarySearchFunc(most, next, comparePressure); at < maxPressure {
			most = slices.Insert(most, at, next)
			most = most[:min(len(most), maxPressure)]
		}
	}
	for _, first := range highest {
		if at, listed := slices.BinarySearchFunc(most, first, comparePressure); !listed {
			most = slices.Insert(most, at, first)
		}
	}
	for i := range most {
		t.addExample(&most[i])
	}
	return most
}

// addExample names one of those that use the ports.
func (t *tracker) addExample(p *PortPressure) {
	if more := t.pressure[pressureKey{p.Address, p.Destination, p.Protocol}].more; more.owner != nil {
		p.Example = more.owner.Identity
		p.Example.Network = t.networkOfEnd(more.owner, more.source)
	}
}

func comparePressure(a, b PortPressure) int {
	return cmp.Or(cmp.Compare(b.Used, a.Used), a.Address.Compare(b.Address), a.Destination.Compare(b.Destination),
		cmp.Compare(a.Protocol, b.Protocol))
}

func compareIdentities(a, b Identity) int {
	return cmp.Or(strings.Compare(a.Stack, b.Stack), strings.Compare(a.Service, b.Service),
		strings.Compare(a.Container, b.Container), strings.Compare(a.Network, b.Network))
}
