// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Other stands in the labels of what its budget of series had no room for.
const Other = "~other"

// zeroFor is how long a counter that nobody could foresee shows 0 at first. A counter that is born above zero is
// invisible to rate() and increase(); one that rises from 0 is not, if a scrape comes in between.
const zeroFor = 15 * time.Second

// StoreConfig bounds a Store.
type StoreConfig struct {
	Limit     int           // series in all; a histogram counts as one for each of its buckets, and its sum and count
	Retention time.Duration // how long series outlive their owner
	Now       func() time.Time
}

// Store holds the series of all families. All methods may be called concurrently.
type Store struct {
	config StoreConfig

	mu       sync.Mutex
	count    int
	families map[*Family]*familySeries
	owners   map[Owner]time.Time // when each was last alive
	places   map[Place]time.Time // when series were last planned for each, or added to
	key      []byte              // series' own: what it looks for
}

// familySeries are the series of a family, in the order of their birth.
type familySeries struct {
	list  []*Series
	byKey map[string]*Series
}

// Series is one combination of a family's label values.
type Series struct {
	Values  []string // never changed
	Created time.Time

	value     float64              // of counters and gauges
	histogram prometheus.Histogram // of histograms
	planned   bool                 // exists from its owner's birth, so that its zero has been seen
	touched   time.Time            // last added to or planned
}

// NewStore makes a store with every family in it and no series.
func NewStore(config StoreConfig) *Store {
	s := &Store{config: config, families: make(map[*Family]*familySeries), owners: make(map[Owner]time.Time),
		places: make(map[Place]time.Time)}
	for _, f := range Families() {
		s.families[f] = &familySeries{byKey: make(map[string]*Series)}
	}
	for _, f := range Families() {
		if f.Retired != never {
			s.Plan(seriesOverflow, f.Name) // or the first overflow is invisible to increase() and to the alert
		}
	}
	return s
}

// Add adds to a counter. A new series beyond the limit is counted as ~other.
func (s *Store) Add(f *Family, amount float64, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touch(f, values).value += amount
}

// Observe adds to a histogram. Of a new series beyond the limit it adds to ~other.
func (s *Store) Observe(f *Family, observed float64, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touch(f, values).histogram.Observe(observed)
}

// touch returns the series that is to be added to.
func (s *Store) touch(f *Family, values []string) *Series {
	series, fits := s.series(f, values)
	if !fits {
		overflows, _ := s.series(seriesOverflow, []string{f.Name})
		overflows.value++
	}
	series.touched = s.config.Now()
	if f.Retired == withOwner {
		s.use(f.place(series.Values))
	}
	return series
}

// Keep says that a place lives, whether anything is planned for it or not.
func (s *Store) Keep(at Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use(at)
}

// Plan makes a counter exist at 0, before anything is counted. One that was counted before is not to be seen first with what it
// has, and stays new.
func (s *Store) Plan(f *Family, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	series, _ := s.series(f, values)
	series.planned = series.planned || series.value == 0
	series.touched = s.config.Now()
	if f.Retired == withOwner {
		s.places[f.place(values)] = series.touched
	}
}

// Replace sets all series of a gauge, or of a counter that somebody else keeps, at once. Series keep their time of
// creation; those not among samples are gone.
func (s *Store) Replace(f *Family, samples []Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.families[f]
	fresh := &familySeries{byKey: make(map[string]*Series, len(samples))}
	for _, sample := range samples {
		key := seriesKey(sample.Values)
		if fresh.byKey[key] != nil {
			continue // two of one identity
		}
		series := old.byKey[key]
		if series == nil {
			series = &Series{Values: slices.Clone(sample.Values), Created: s.config.Now()}
		}
		series.value = sample.Value
		series.planned = true
		fresh.byKey[key] = series
		fresh.list = append(fresh.list, series)
	}
	s.count += len(fresh.list) - len(old.list)
	s.families[f] = fresh
}

// Sample is a value for Replace.
type Sample struct {
	Value  float64
	Values []string
}

// series finds or makes one; fits is false if it is the one that stands for all beyond the limit. The limit spares what is
// never retired, which the agent says of itself: the combinations are few, and they are needed most when there is too much
// of the rest.
func (s *Store) series(f *Family, values []string) (series *Series, fits bool) {
	s.key = appendKey(s.key[:0], values)
	if series := s.families[f].byKey[string(s.key)]; series != nil { // most often, and without a copy of the key
		return series, true
	}
	if s.count >= s.config.Limit && f.Retired != never {
		return s.overflow(f, values), false
	}
	return s.insert(f, string(s.key), values), true
}

func (s *Store) insert(f *Family, key string, values []string) *Series {
	series := &Series{Values: slices.Clone(values), Created: s.config.Now()}
	if f.Retired == withOwner {
		s.renew(f, values)
	}
	if f.Type == Histogram {
		series.histogram = newHistogram(f)
	}
	family := s.families[f]
	family.byKey[key] = series
	family.list = append(family.list, series)
	s.count += f.width()
	return series
}

// overflow finds or makes the series of the family that stands for all the rest.
func (s *Store) overflow(f *Family, values []string) *Series {
	rest := f.rest(values)
	key := seriesKey(rest)
	if series := s.families[f].byKey[key]; series != nil {
		return series
	}
	return s.insert(f, key, rest)
}

// rest are the label values of the series that stands for others which have no room.
func (f *Family) rest(values []string) []string {
	rest := slices.Clone(values)
	for i, label := range f.Labels {
		if !slices.Contains(closedLabels, label) {
			rest[i] = Other
		}
	}
	return rest
}

// closedLabels have so few values that an overflow keeps them: a fault stays a fault.
var closedLabels = []string{
	"scope", "direction", "kind", "protocol", "client", "source_address", "mechanism", "event", "resolver", "rcode",
	"encapsulation", "channel", "table",
}

func seriesKey(values []string) string { return string(appendKey(nil, values)) }

func appendKey(key []byte, values []string) []byte {
	for _, value := range values {
		key = append(key, value...)
		key = append(key, '\xff')
	}
	return key
}

func (s *Store) alive(o Owner) { s.owners[o] = s.config.Now() }

// use is called when something is counted at a place, which lives for that: some are planned for nobody, such as Swarm's own
// networks. Whether a container lives its list says; of a service as such there may be none.
func (s *Store) use(at Place) {
	s.places[at] = s.config.Now()
	if at.Container == "" {
		s.alive(at.Owner)
	}
}

// renew is called for what shows that the owner of a series, and its place, live.
func (s *Store) renew(f *Family, values []string) {
	at := f.place(values)
	s.alive(at.Owner)
	s.places[at] = s.config.Now()
}

// Retire takes out the series that have outlived their owner by the retention, and those without an owner that nothing
// was added to for as long. alive are the owners that live now; of their networks and ports, and of networks that are nobody's,
// those live for which series were planned of late, or added to, or that were to be kept. What belongs to the host itself stays.
func (s *Store) Retire(alive []Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	for _, o := range alive {
		s.alive(o)
	}
	expired := func(t time.Time) bool { return now.Sub(t) >= s.config.Retention }
	gone := make(map[Owner]bool)
	for o, seen := range s.owners {
		if o != (Owner{}) && o.Stack != Other && expired(seen) {
			gone[o] = true
			delete(s.owners, o)
		}
	}
	left := make(map[Place]bool)
	for p, seen := range s.places {
		if gone[p.Owner] || p.isPart() && expired(seen) {
			left[p] = true
			delete(s.places, p)
		}
	}
	for f, family := range s.families {
		switch {
		case f.Retired == whenIdle:
			s.count -= f.width() * family.remove(func(series *Series) bool { return expired(series.touched) })
		case f.Retired == withOwner && len(left) > 0:
			s.count -= f.width() * family.remove(func(series *Series) bool { return left[f.place(series.Values)] })
		}
	}
}

// Owner is an identity whose series live and are retired together.
type Owner struct{ Stack, Service, Container string }

// Place is an owner on a network, or with an empty one off all networks, and at a published port of it.
type Place struct {
	Owner
	Network string
	Port    string
}

// place is where a series of a family with identity belongs: its first labels, and its port if it has one.
func (f *Family) place(values []string) Place {
	if f.Labels[2] == "network" {
		return Place{Owner: Owner{Stack: values[0], Service: values[1]}, Network: values[2]}
	}
	p := Place{Owner: Owner{values[0], values[1], values[2]}, Network: values[3]}
	if i := slices.Index(f.Labels, labelPort); i >= 0 {
		p.Port = values[i]
	}
	return p
}

// isPart tells whether an owner can leave the place and live on. The host has ports for good, but networks come and go.
func (p Place) isPart() bool {
	return p.Stack != Other && (p.Network != "" || p.Port != "" && p.Owner != (Owner{}))
}

func (fs *familySeries) remove(doomed func(*Series) bool) (removed int) {
	kept := fs.list[:0]
	for _, series := range fs.list {
		if doomed(series) {
			delete(fs.byKey, seriesKey(series.Values))
			removed++
			continue
		}
		kept = append(kept, series)
	}
	clear(fs.list[len(kept):])
	fs.list = kept
	return removed
}

// Value is what a series shows.
type Value struct {
	Number float64 // of counters and gauges
	// Histogram has the classic buckets of the family and native ones beside them. It is the visitor's own.
	Histogram *dto.Histogram
}

// Each visits every series with the value that is to be shown now. Numbers are of one moment. Histograms, which take their time, are
// written out when they are visited: the store is not locked then.
func (s *Store) Each(visit func(f *Family, series *Series, value Value)) {
	for _, m := range s.moment() {
		value := Value{Number: m.number}
		if m.histogram != nil {
			value = Value{Histogram: snapshot(m.histogram, m.series.Created)}
		}
		visit(m.family, m.series, value)
	}
}

// shown is what a series shows at a moment: a number, or what a histogram holds.
type shown struct {
	family    *Family
	series    *Series
	number    float64
	histogram prometheus.Histogram
}

// moment is all that is to be shown now.
func (s *Store) moment() []shown {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, n := s.config.Now(), 0
	for _, family := range s.families {
		n += len(family.list)
	}
	all := make([]shown, 0, n)
	for _, f := range Families() {
		for _, series := range s.families[f].list {
			young := !series.planned && now.Sub(series.Created) < zeroFor
			all = append(all, series.shown(f, young))
		}
	}
	return all
}

// shown is the value of a series, or of one to which nothing was added yet.
func (s *Series) shown(f *Family, young bool) shown {
	m := shown{family: f, series: s}
	switch {
	case f.Type == Histogram && young:
		m.histogram = newHistogram(f)
	case f.Type == Histogram:
		m.histogram = s.histogram
	case f.Type != Counter || !young:
		m.number = s.value
	}
	return m
}

// room tells whether a family has a series, or fewer than limit beside the one that stands for the rest.
func (s *Store) room(f *Family, limit int, values ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	family := s.families[f]
	if family.byKey[seriesKey(values)] != nil {
		return true
	}
	if family.byKey[seriesKey(f.rest(values))] != nil {
		limit++
	}
	return len(family.list) < limit
}

// evict takes out what several families have of one label value, of those that are not spared the one that was added to the longest
// ago. The first family tells which there are.
func (s *Store) evict(families []*Family, spared func(value string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var idle *Series
	for _, series := range s.families[families[0]].list {
		if value := series.Values[0]; value != Other && !spared(value) && (idle == nil || series.touched.Before(idle.touched)) {
			idle = series
		}
	}
	if idle == nil {
		return
	}
	for _, f := range families {
		s.count -= f.width() * s.families[f].remove(func(series *Series) bool { return series.Values[0] == idle.Values[0] })
	}
}

// ContainerIDs returns those of the running containers of an identity.
func (s *Store) ContainerIDs(o Owner) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, series := range s.families[containerInfo].list {
		if v := series.Values; (Owner{v[0], v[1], v[2]}) == o {
			ids = append(ids, v[3])
		}
	}
	return ids
}

// countSeries brings the metrics about series themselves up to date.
func (s *Store) countSeries() {
	s.mu.Lock()
	samples := make([]Sample, 0, len(s.families))
	for _, f := range Families() {
		samples = append(samples, Sample{Value: float64(f.width() * len(s.families[f].list)), Values: []string{f.Name}})
	}
	s.mu.Unlock()
	s.Replace(seriesCount, samples)
}
