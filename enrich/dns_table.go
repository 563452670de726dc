// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
	"time"
)

// defaultDNSRows is how many rows of a sort a table has unless told otherwise.
const defaultDNSRows = 4096

// slowLookup is from when on an answer counts as slow, so that quick ones do not push it out.
const slowLookup = 100 * time.Millisecond

// DNSTable holds the latest lookups, each with what the engine asked others for it. None of its sorts pushes out another, and
// within each who has most rows makes room. Its methods may be called concurrently.
type DNSTable struct {
	mu      sync.Mutex
	failed  dnsSort // that gave their client no answer
	slow    dnsSort // answered, but not soon
	quick   dnsSort // all others
	group   dnsSort // mDNS and LLMNR: nobody waits for them, and neighbours ask all day
	unknown dnsSort // of scope unknown

	rows     map[uint64]*dnsEntry   // of all sorts, by serial
	early    map[uint64][]*dnsEntry // among them the legs of lookups that are not there, by the serials of those
	attempts dnsAttempts            // likewise, not those of scope unknown
}

// dnsSort is the rows of a sort. Their owners have a fair share of its room each.
type dnsSort struct {
	rows    map[string]*list.List // by owner, in the order in which they were added
	count   int                   // of all owners
	size    int
	evicted uint64 // how many were pushed out by later ones
	// whole is when the last of those was asked: since then none is missing.
	whole time.Time
}

// dnsEntry is a row and where it is.
type dnsEntry struct {
	DNSRow
	serial, forwardOf uint64
	sort              *dnsSort
	at                *list.Element
}

// owner is whose share of a sort the row takes.
func (e *dnsEntry) owner() string { return dnsPlace(e.ContainerID, e.Scope) }

func newDNSEntry(l *Lookup) *dnsEntry {
	return &dnsEntry{DNSRow: newDNSRow(l), serial: l.Serial, forwardOf: l.ForwardOf}
}

// NewDNSTable makes an empty one of that many rows of a sort, and an eighth of mDNS and LLMNR and of scope unknown; 0: 4,096.
func NewDNSTable(rows int) *DNSTable {
	if rows <= 0 {
		rows = defaultDNSRows
	}
	side := max(1, rows/sideShare)
	return &DNSTable{
		failed: newDNSSort(rows), slow: newDNSSort(rows), quick: newDNSSort(rows), group: newDNSSort(side), unknown: newDNSSort(side),
		rows: make(map[uint64]*dnsEntry), early: make(map[uint64][]*dnsEntry), attempts: make(dnsAttempts),
	}
}

// DNSFilter chooses rows. Its zero value chooses all whose owner is known.
type DNSFilter struct {
	Container  string        // its label, that of its service, or an ID, of which 4 digits do if only one begins so; ~host; "": any
	Failed     bool          // only those that gave their client no answer
	SlowerThan time.Duration // only those that took longer, or had no answer; 0: any
	Limit      int           // at most so many, the most recent; 0: all
	// Unknown also chooses those of namespaces that nobody knows, if no container is asked for: they are nobody's.
	Unknown bool
}

func (f *DNSFilter) matches(row *DNSRow) bool {
	owner := row.Owner()
	return owner.is(f.Container) && (!f.Failed || row.Failed) && (f.SlowerThan == 0 || row.slowerThan(f.SlowerThan))
}

// Recent returns what the filter chooses, most recent first.
func (t *DNSTable) Recent(filter DNSFilter) []DNSRow {
	rows, _ := t.Find(filter)
	return rows
}

// Find returns what the filter chooses, most recent first, and what is not known of that.
func (t *DNSTable) Find(filter DNSFilter) (rows []DNSRow, gaps Gaps) {
	t.mu.Lock()
	defer t.mu.Unlock()
	resolved, known := resolveOwner(filter.Container, t.owners)
	filter.Container, gaps.Unknown = resolved, !known && resolved != Host
	var chosen []*dnsEntry
	for _, sort := range t.sortsFor(&filter) {
		for entry := range sort.all {
			if filter.matches(&entry.DNSRow) {
				chosen = append(chosen, entry)
			}
		}
		gaps.note(sort.evicted, sort.count, sort.whole)
	}
	if filter.Container == "" && !filter.Unknown {
		for entry := range t.unknown.all {
			if filter.matches(&entry.DNSRow) {
				gaps.Unowned++
			}
		}
	}
	slices.SortFunc(chosen, func(a, b *dnsEntry) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.serial, a.serial))
	})
	if filter.Limit > 0 && len(chosen) > filter.Limit {
		chosen = chosen[:filter.Limit]
	}
	for _, entry := range chosen {
		rows = append(rows, entry.DNSRow)
	}
	return rows, gaps
}

// sortsFor are those that may have what the filter chooses.
func (t *DNSTable) sortsFor(filter *DNSFilter) []*dnsSort {
	sorts := []*dnsSort{&t.failed}
	if !filter.Failed {
		sorts = append(sorts, &t.slow)
		if filter.SlowerThan < slowLookup {
			sorts = append(sorts, &t.quick)
		}
		if filter.SlowerThan == 0 {
			sorts = append(sorts, &t.group)
		}
	}
	if filter.Container == "" && filter.Unknown {
		sorts = append(sorts, &t.unknown)
	}
	return sorts
}

// owners yields those whom the rows are of, many of them often.
func (t *DNSTable) owners(yield func(Owner) bool) {
	for _, entry := range t.rows {
		if entry.sort != &t.unknown && !yield(entry.Owner()) {
			return
		}
	}
}

// Add takes in what [State.AttributeDNS] returned.
func (t *DNSTable) Add(dns DNS) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := make([]*dnsEntry, 0, len(dns.Lookups))
	numbered := make(map[uint64]*dnsEntry, len(dns.Lookups))
	for i := range dns.Lookups {
		if l := &dns.Lookups[i]; l.ForwardOf == 0 {
			entry := newDNSEntry(l)
			fresh = append(fresh, entry)
			numbered[l.Serial] = entry
		}
	}
	// The legs of these go there before any is placed: of more than there is room for, the legs shall not stay alone.
	for i := range dns.Lookups {
		if l := &dns.Lookups[i]; l.ForwardOf != 0 {
			t.forward(l, numbered[l.ForwardOf])
		}
	}
	t.complete(fresh, dns.Expansions)
	for _, entry := range fresh {
		t.gather(entry)
		t.place(entry)
	}
}

// complete finds out of new lookups, and of those that are only now known to have been attempts to complete a name, which did
// not fail since another one was answered.
func (t *DNSTable) complete(fresh []*dnsEntry, expansions []Expansion) {
	var news []*dnsEntry
	for _, entry := range fresh {
		if t.attempts.add(entry) {
			news = append(news, entry)
		}
	}
	for i := range expansions {
		news = append(news, t.attempts.expand(&expansions[i])...)
	}
	for _, entry := range news {
		for _, excused := range t.attempts.excused(entry) {
			if excused.sort != nil {
				t.remove(excused)
				t.place(excused)
			}
		}
	}
}

// gather nests the legs of a lookup that have ended before it.
func (t *DNSTable) gather(entry *dnsEntry) {
	for _, leg := range slices.Clone(t.early[entry.serial]) {
		entry.nest(leg.DNSLeg)
		t.remove(leg)
	}
}

// forward nests the leg of a lookup that is new or there, and makes a row of any other.
func (t *DNSTable) forward(l *Lookup, fresh *dnsEntry) {
	if fresh == nil {
		fresh = t.rows[l.ForwardOf]
	}
	if fresh != nil {
		fresh.nest(newDNSLeg(l))
		return
	}
	leg := newDNSEntry(l)
	t.early[l.ForwardOf] = append(t.early[l.ForwardOf], leg)
	t.place(leg)
}

// place adds a row to its sort, in place of another one if there is no room for both.
func (t *DNSTable) place(entry *dnsEntry) {
	entry.sort = t.sortOf(&entry.DNSRow)
	entry.sort.add(entry)
	t.rows[entry.serial] = entry
	if entry.sort.count > entry.sort.size {
		t.evict(entry.sort.surplus(entry.owner()))
	}
}

func (t *DNSTable) sortOf(row *DNSRow) *dnsSort {
	switch {
	case row.Outcome == Unawaited:
		return &t.group
	case row.Scope == ScopeUnknown:
		return &t.unknown
	case row.Failed:
		return &t.failed
	case row.slowerThan(slowLookup):
		return &t.slow
	}
	return &t.quick
}

func (t *DNSTable) evict(entry *dnsEntry) {
	sort := entry.sort
	sort.evicted++
	if entry.Time.After(sort.whole) {
		sort.whole = entry.Time
	}
	t.remove(entry)
	t.attempts.remove(entry)
}

// remove takes a row from its sort.
func (t *DNSTable) remove(entry *dnsEntry) {
	entry.sort.remove(entry)
	delete(t.rows, entry.serial)
	forget(t.early, entry.forwardOf, entry)
}

func newDNSSort(size int) dnsSort { return dnsSort{rows: make(map[string]*list.List), size: size} }

func (s *dnsSort) add(entry *dnsEntry) {
	of := s.rows[entry.owner()]
	if of == nil {
		of = list.New()
		s.rows[entry.owner()] = of
	}
	entry.at = of.PushBack(entry)
	s.count++
}

func (s *dnsSort) remove(entry *dnsEntry) {
	of := s.rows[entry.owner()]
	of.Remove(entry.at)
	s.count--
	if of.Len() == 0 {
		delete(s.rows, entry.owner())
	}
}

// surplus is the oldest row of whoever has more than a fair share: of the owner that has just got one, if it is one of those,
// so that there is rarely a need to look at all.
func (s *dnsSort) surplus(owner string) *dnsEntry {
	most := s.rows[owner]
	if most.Len()*len(s.rows) < s.count {
		for _, of := range s.rows {
			if of.Len() > most.Len() {
				most = of
			}
		}
	}
	return most.Front().Value.(*dnsEntry)
}

// all yields the rows, in no order.
func (s *dnsSort) all(yield func(*dnsEntry) bool) {
	for _, of := range s.rows {
		for at := of.Front(); at != nil; at = at.Next() {
			if !yield(at.Value.(*dnsEntry)) {
				return
			}
		}
	}
}
