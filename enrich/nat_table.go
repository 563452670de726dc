// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// sideShare is which part of a table's size lookups get, and what happens in namespaces of which nobody told.
const sideShare = 8

// defaultNATRows is how many rows of a sort a table has unless told otherwise.
const defaultNATRows = 4096

// NATTable holds the latest translated connections, and those that a proxy carries to published ports. None of its sorts pushes
// out another. Its methods may be called concurrently.
type NATTable struct {
	mu       sync.Mutex
	outgoing natRing // to no published port
	lost     natRing // to published ports whose container does not see the client
	kept     natRing // to published ports, all others
	lookups  natRing // to the engine's resolver: every container makes them all day, and they are all alike
	unknown  natRing // of scope unknown
}

// NewNATTable makes an empty one of that many rows of a sort, and an eighth of lookups and of scope unknown; 0: 4,096.
func NewNATTable(size int) *NATTable {
	if size <= 0 {
		size = defaultNATRows
	}
	side := max(1, size/sideShare)
	return &NATTable{
		outgoing: newNATRing(size), lost: newNATRing(size), kept: newNATRing(size),
		lookups: newNATRing(side), unknown: newNATRing(side),
	}
}

// NATFilter chooses rows. Its zero value chooses all.
type NATFilter struct {
	Container string // its label, that of its service, or an ID, of which 4 digits do if only one begins so; "": any
	Port      uint16 // published; 0: any
	Lost      bool   // only those to published ports whose container does not see the client
	Limit     int    // at most so many, the most recent; 0: all
}

func (f *NATFilter) matches(row *NATRow) bool {
	return f.names(row) && (f.Port == 0 || row.Port == f.Port) && (!f.Lost || row.Lost)
}

func (f *NATFilter) names(row *NATRow) bool {
	return f.Names(row.Owner()) || row.ServedBy != nil && f.Names(*row.ServedBy)
}

// Names tells whether the filter's Container is meant by a container's names or ID.
func (f *NATFilter) Names(o Owner) bool { return o.is(f.Container) }

// Resolve puts the whole ID in place of the beginning of one, if it is of one of these containers alone and none of them is
// called so. It tells whether any is meant.
func (f *NATFilter) Resolve(all iter.Seq[Owner]) (known bool) {
	f.Container, known = resolveOwner(f.Container, all)
	return known
}

// Rows returns what the filter chooses, most recent first.
func (t *NATTable) Rows(filter NATFilter) []NATRow {
	rows, _ := t.Find(filter, true)
	return rows
}

// Find returns what the filter chooses, most recent first, lookups only if they are wanted, and what is not known of that.
func (t *NATTable) Find(filter NATFilter, lookups bool) ([]NATRow, Gaps) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gaps := Gaps{Unknown: !filter.Resolve(t.owners)}
	var rows []NATRow
	for _, ring := range t.ringsOf(&filter, lookups) {
		rows = ring.choose(&filter, rows)
		gaps.note(ring.evicted, len(ring.index), ring.oldest())
	}
	slices.SortStableFunc(rows, func(a, b NATRow) int { return b.Time.Compare(a.Time) })
	if filter.Limit > 0 && len(rows) > filter.Limit {
		rows = rows[:filter.Limit]
	}
	return rows, gaps
}

// owners yields those whom the rows are of, many of them often.
func (t *NATTable) owners(yield func(Owner) bool) {
	for _, ring := range []*natRing{&t.outgoing, &t.lost, &t.kept, &t.lookups} {
		for i := range ring.rows {
			if row := &ring.rows[i]; !yield(row.Owner()) || row.ServedBy != nil && !yield(*row.ServedBy) {
				return
			}
		}
	}
}

// ringsOf are those that may have what the filter chooses.
func (t *NATTable) ringsOf(filter *NATFilter, lookups bool) []*natRing {
	if filter.Lost {
		return []*natRing{&t.lost}
	}
	rings := []*natRing{&t.lost, &t.kept}
	if filter.Port != 0 {
		return rings
	}
	rings = append(rings, &t.outgoing)
	if filter.Container == "" {
		rings = append(rings, &t.unknown) // they are nobody's
	}
	if lookups {
		rings = append(rings, &t.lookups)
	}
	return rings
}

// Add takes in what [State.AttributeNAT] returned.
func (t *NATTable) Add(nat NAT) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range nat.Translations {
		if tr := &nat.Translations[i]; !tr.Published { // else the attempt says more
			key := translationKey(tr)
			t.ringOf(tr.Kind, key).insert(key, translationRow(tr))
		}
	}
	for i := range nat.Attempts {
		t.publish(&nat.Attempts[i], attempted)
	}
	for i := range nat.Answered {
		t.answer(&nat.Answered[i])
	}
	for i := range nat.Connections {
		t.publish(&nat.Connections[i], connected)
	}
	for i := range nat.Joined {
		t.publish(&nat.Joined[i], rejoined)
	}
}

// publishedNews is what is told of a connection to a published port.
type publishedNews int

const (
	attempted publishedNews = iota
	connected
	rejoined // of one that was told: what the container sees
)

// publish notes news of a connection to a published port, and moves its row to where it belongs by now.
func (t *NATTable) publish(c *PublishedConnection, news publishedNews) {
	key := publishedKey(c)
	ring, row := t.published(key)
	var now NATRow
	switch {
	case row != nil && (news != attempted || row.Time.Equal(c.At)): // else one of before had the same addresses and ports
		now = *row
	case news == rejoined:
		return
	default: // if it was not attempted, it was opened before the agent started
		ring, now = nil, publishedRow(c)
	}
	now.Answered = now.Answered || news == connected
	now.publish(c)
	to := &t.kept
	if now.Lost {
		to = &t.lost
	}
	switch ring {
	case to:
		*row = now
	case nil:
		to.insert(key, now)
	default:
		ring.remove(key)
		to.insert(key, now)
	}
}

// published finds the latest row of that key, and where it is; nil: none.
func (t *NATTable) published(key natKey) (*natRing, *NATRow) {
	lost, kept := t.lost.find(key), t.kept.find(key)
	switch {
	case lost != nil && (kept == nil || !kept.Time.After(lost.Time)):
		return &t.lost, lost
	case kept != nil:
		return &t.kept, kept
	}
	return nil, nil
}

func (t *NATTable) answer(a *NATAnswer) {
	row := t.ringOf(a.Kind, a.key).find(a.key)
	if row == nil && (a.Kind == DNAT || a.Kind == IPVS) { // of others to published ports Connections tells who answers
		_, row = t.published(a.key)
	}
	if row != nil {
		row.Answered = true
	}
}

// ringOf is where a connection belongs that goes to no published port.
func (t *NATTable) ringOf(kind NATKind, key natKey) *natRing {
	switch {
	case kind == EmbeddedDNS:
		return &t.lookups
	case key.place == string(ScopeUnknown):
		return &t.unknown
	}
	return &t.outgoing
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
	row.Seen, row.Server, row.ServedBy = t.Reply.Destination, t.Reply.Source, t.ServedBy
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

// Owner is whom the row is of.
func (r *NATRow) Owner() Owner { return Owner{r.Service, r.Container, r.ContainerID} }

// publish notes what is known of a row as a connection to a published port. What nothing translates is lost by whoever carries
// it: by nobody, as long as nobody answers or passes it on.
func (r *NATRow) publish(c *PublishedConnection) {
	if c.Seen.IsValid() || r.Port == 0 { // else it was known before
		r.Seen, r.Server, r.Inferred = c.Seen, c.Server, c.Inferred
	}
	if !r.Seen.IsValid() && r.Answered && c.Gateway.IsValid() && c.NATEvent.Protocol == unix.IPPROTO_UDP {
		// docker-proxy answers for TCP before it has reached anybody, for UDP only what the container has said.
		r.Seen, r.Inferred = netip.AddrPortFrom(c.Gateway, 0), true
	}
	r.Port, r.From = c.Port, c.Client
	if movesDestination(&c.Tracked) && c.Kind != Redirect || r.Answered || r.Seen.IsValid() {
		r.Lost, r.Mechanism = !c.Preserved, c.Mechanism
	}
}

// natRing keeps the latest rows.
type natRing struct {
	size  int
	next  int // where the next one goes, once all places are taken
	rows  []NATRow
	keys  []natKey // of the rows
	index map[natKey]int
	// evicted is how many were pushed out by later ones.
	evicted uint64
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
		if r.keys[at] != (natKey{}) {
			r.evicted++
		}
		r.leave(at)
		r.rows[at], r.keys[at] = row, key
		r.next = (at + 1) % r.size
	}
	r.index[key] = at
	return &r.rows[at]
}

// remove leaves a gap, whose turn comes as any row's.
func (r *natRing) remove(key natKey) {
	if at, found := r.index[key]; found {
		r.leave(at)
		r.rows[at], r.keys[at] = NATRow{}, natKey{}
	}
}

func (r *natRing) leave(at int) {
	if found, there := r.index[r.keys[at]]; there && found == at { // else a later one has the key
		delete(r.index, r.keys[at])
	}
}

// oldest is the time of the row that has been there longest, of those in a full ring.
func (r *natRing) oldest() time.Time {
	for i := range r.rows {
		if at := (r.next + i) % len(r.rows); r.keys[at] != (natKey{}) {
			return r.rows[at].Time
		}
	}
	return time.Time{}
}

// choose appends the rows that a filter chooses, the latest inserted first.
func (r *natRing) choose(filter *NATFilter, rows []NATRow) []NATRow {
	for i := range r.rows {
		at := (r.next - 1 - i + 2*len(r.rows)) % len(r.rows)
		if r.keys[at] != (natKey{}) && filter.matches(&r.rows[at]) {
			rows = append(rows, r.rows[at])
		}
	}
	return rows
}
