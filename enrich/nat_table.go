// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"strings"
	"sync"

	"github.com/bridgewatch/bridgewatch/loader"
)

// lookupShare is which part of a table's size lookups get: every container makes them all day, and they are all alike.
const lookupShare = 8

// defaultNATRows is how many rows a table has unless told otherwise, lookups not counted.
const defaultNATRows = 4096

// minIDPrefix is how much of a container's ID finds it, as many digits as Docker shows.
const minIDPrefix = 12

// NATTable holds the latest translated connections, and those that a proxy carries to published ports. Its methods may be
// called concurrently.
type NATTable struct {
	mu      sync.Mutex
	rows    natRing
	lookups natRing // the engine's resolver, so that they do not push out everything else
}

// NewNATTable makes an empty one of that many rows, and an eighth more for lookups; 0: 4,096.
func NewNATTable(size int) *NATTable {
	if size <= 0 {
		size = defaultNATRows
	}
	return &NATTable{rows: newNATRing(size), lookups: newNATRing(max(1, size/lookupShare))}
}

// NATFilter chooses rows. Its zero value chooses all.
type NATFilter struct {
	Container string // its label, that of its service, or at least 12 digits of its ID; "": any
	Port      uint16 // published; 0: any
	Lost      bool   // only those whose client the container does not see
	Limit     int    // at most so many, the most recent; 0: all
}

func (f *NATFilter) matches(row *NATRow) bool {
	return f.Names(row.Service, row.Container, row.ContainerID) && (f.Port == 0 || row.Port == f.Port) && (!f.Lost || row.Lost)
}

// Names tells whether the filter's Container is meant by these labels and ID.
func (f *NATFilter) Names(service, container, containerID string) bool {
	name := f.Container
	return name == "" || name == container || name == service ||
		len(name) >= minIDPrefix && strings.HasPrefix(containerID, name)
}

// Rows returns what the filter chooses, most recent first.
func (t *NATTable) Rows(filter NATFilter) []NATRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := t.lookups.choose(&filter, t.rows.choose(&filter, nil))
	slices.SortStableFunc(rows, func(a, b NATRow) int { return b.Time.Compare(a.Time) })
	if filter.Limit > 0 && len(rows) > filter.Limit {
		rows = rows[:filter.Limit]
	}
	return rows
}

// Add takes in what [State.AttributeNAT] returned.
func (t *NATTable) Add(nat NAT) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range nat.Translations {
		tr := &nat.Translations[i]
		t.ringOf(tr.Kind).insert(translationKey(tr), translationRow(tr))
	}
	for i := range nat.Attempts {
		c := &nat.Attempts[i]
		row := t.rows.find(publishedKey(c))
		if row == nil || !row.Time.Equal(c.At) { // the latter: one of before had the same addresses and ports
			row = t.rows.insert(publishedKey(c), publishedRow(c))
		}
		row.publish(c)
	}
	for i := range nat.Answered {
		answer := &nat.Answered[i]
		if row := t.ringOf(answer.Kind).find(answer.key); row != nil {
			row.Answered = true
		}
	}
	for i := range nat.Connections {
		c := &nat.Connections[i]
		row := t.rows.find(publishedKey(c))
		if row == nil { // it was opened before the agent started
			row = t.rows.insert(publishedKey(c), publishedRow(c))
		}
		row.publish(c)
		row.Answered = true
	}
	for i := range nat.Joined {
		c := &nat.Joined[i]
		if row := t.rows.find(publishedKey(c)); row != nil {
			row.publish(c)
		}
	}
}

func (t *NATTable) ringOf(kind NATKind) *natRing {
	if kind == EmbeddedDNS {
		return &t.lookups
	}
	return &t.rows
}

// natKey finds the row of an entry. Containers' namespaces are told apart, and from the host's.
type natKey struct {
	place string
	entryKey
}

func translationKey(t *Translation) natKey {
	if t.Scope == ScopeContainer {
		return natKey{t.ContainerID, keyOf(&t.Tracked)}
	}
	return natKey{string(t.Scope), keyOf(&t.Tracked)}
}

// publishedKey finds the host's entry: published ports are the host's, whoever serves them.
func publishedKey(c *PublishedConnection) natKey { return natKey{string(ScopeHost), keyOf(&c.Tracked)} }

func translationRow(t *Translation) NATRow {
	row := newNATRow(&t.NATEvent, t.Identity, t.ContainerID)
	row.Scope, row.Kind = t.Scope, t.Kind
	row.Seen, row.Server = t.Reply.Destination, t.Reply.Source
	return row
}

func publishedRow(c *PublishedConnection) NATRow {
	row := newNATRow(&c.NATEvent, c.Identity, c.ContainerID)
	row.Scope, row.Kind = ScopeHost, c.Kind
	return row
}

func newNATRow(e *loader.NATEvent, identity Identity, id string) NATRow {
	return NATRow{
		Time: e.At, Stack: identity.Stack, Service: identity.Service, Container: identity.Container, Network: identity.Network,
		ContainerID: id, Protocol: ProtocolName(e.Protocol), Client: e.Original.Source, Destination: e.Original.Destination,
	}
}

// publish notes what is known of a row as a connection to a published port.
func (r *NATRow) publish(c *PublishedConnection) {
	if c.Seen.IsValid() || r.Port == 0 { // else it was known before
		r.Seen, r.Server, r.Inferred = c.Seen, c.Server, c.Inferred
	}
	r.Port, r.From, r.Lost, r.Mechanism = c.Port, c.Client, !c.Preserved, c.Mechanism
}

// natRing keeps the latest rows.
type natRing struct {
	size  int
	next  int // where the next one goes, once all places are taken
	rows  []NATRow
	keys  []natKey // of the rows
	index map[natKey]int
}

func newNATRing(size int) natRing { return natRing{size: size, index: make(map[natKey]int)} }

func (r *natRing) find(key natKey) *NATRow {
	if i, found := r.index[key]; found {
		return &r.rows[i]
	}
	return nil
}

// insert adds a row in place of the oldest. It is valid until the next one.
func (r *natRing) insert(key natKey, row NATRow) *NATRow {
	at := r.next
	if len(r.rows) < r.size {
		at = len(r.rows)
		r.rows, r.keys = append(r.rows, row), append(r.keys, key)
	} else {
		if r.index[r.keys[at]] == at { // else a later one has the key
			delete(r.index, r.keys[at])
		}
		r.rows[at], r.keys[at] = row, key
		r.next = (at + 1) % r.size
	}
	r.index[key] = at
	return &r.rows[at]
}

// choose appends the rows that a filter chooses, the latest inserted first.
func (r *natRing) choose(filter *NATFilter, rows []NATRow) []NATRow {
	for i := range r.rows {
		at := (r.next - 1 - i + 2*len(r.rows)) % len(r.rows)
		if filter.matches(&r.rows[at]) {
			rows = append(rows, r.rows[at])
		}
	}
	return rows
}
