// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// histograms is what a scrape would show of a family of histograms now: label values joined by commas, to the distribution.
func (s *testStore) histograms(f *Family) map[string]*dto.Histogram {
	shown := make(map[string]*dto.Histogram)
	s.Each(func(of *Family, series *Series, value Value) {
		if of == f {
			shown[strings.Join(series.Values, ",")] = value.Histogram
		}
	})
	return shown
}

// wantObserved wants so many observations in each series.
func (s *testStore) wantObserved(t *testing.T, f *Family, want map[string]uint64) {
	t.Helper()
	got := make(map[string]uint64)
	for values, h := range s.histograms(f) {
		got[values] = h.GetSampleCount()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", f.Name, diff)
	}
}

// durations are label values of what containers of a service took on a network.
func durations(service, network string) []string {
	return []string{"shop", service, network, "container", "embedded"}
}

// nativeBuckets returns the counts of a histogram's native buckets by upper bound.
func nativeBuckets(h *dto.Histogram) map[float64]int64 {
	buckets := make(map[float64]int64)
	index, count, n := int32(0), int64(0), 0
	for _, span := range h.PositiveSpan {
		index += span.GetOffset()
		for range span.GetLength() {
			count += h.PositiveDelta[n]
			n++
			buckets[math.Pow(2, float64(index)*math.Pow(2, -float64(h.GetSchema())))] += count
			index++
		}
	}
	return buckets
}

// Whatever is observed is in the classic bucket and in the native one that it belongs to, and in the sum.
func TestHistogram(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spread float64 // of the logarithm
		schema int32
	}{
		{"of one sort", 0.5, 3},
		{"of all sorts", 2, 2},
		{"from nothing to months", 5, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newTestStore(1000)
			random := rand.New(rand.NewPCG(1, 2))
			var all []float64
			sum := 0.0
			for range 10000 {
				seconds := math.Exp(-5 + tc.spread*random.NormFloat64())
				all = append(all, seconds)
				sum += seconds
				s.Observe(dnsDuration, seconds, durations("web", "front")...)
			}
			s.wait(zeroFor)
			h := s.histograms(dnsDuration)["shop,web,front,container,embedded"]

			if h.GetSampleCount() != 10000 || math.Abs(h.GetSampleSum()-sum) > 1e-9*sum {
				t.Errorf("%d observed, %g in all, want 10000 and %g", h.GetSampleCount(), h.GetSampleSum(), sum)
			}
			if len(h.Bucket) != len(dnsDuration.Bounds) {
				t.Fatalf("%d buckets, want %d", len(h.Bucket), len(dnsDuration.Bounds))
			}
			for i, bound := range dnsDuration.Bounds {
				if want := countUpTo(all, 0, bound); h.Bucket[i].GetUpperBound() != bound || h.Bucket[i].GetCumulativeCount() != want {
					t.Errorf("bucket %v, want %d up to %g", h.Bucket[i], want, bound)
				}
			}
			if h.GetSchema() != tc.schema || len(h.PositiveDelta) > maxNativeBuckets {
				t.Errorf("%d native buckets of schema %d, want at most %d of %d", len(h.PositiveDelta), h.GetSchema(), maxNativeBuckets, tc.schema)
			}
			growth := math.Pow(2, math.Pow(2, -float64(h.GetSchema())))
			for bound, count := range nativeBuckets(h) {
				if want := countUpTo(all, bound/growth, bound); uint64(count) != want {
					t.Errorf("native bucket up to %g has %d, want %d", bound, count, want)
				}
			}
			if got := h.CreatedTimestamp.AsTime(); !got.Equal(s.now.Add(-zeroFor)) {
				t.Errorf("created %v, want %v", got, s.now.Add(-zeroFor))
			}
		})
	}
}

// countUpTo counts what is above one bound and not above the other.
func countUpTo(all []float64, above, bound float64) (n uint64) {
	for _, v := range all {
		if v > above && v <= bound {
			n++
		}
	}
	return n
}

// What is equal to a bound is in its bucket, and nothing at all and more than all bounds are somewhere too.
func TestHistogramEdges(t *testing.T) {
	s := newTestStore(1000)
	for _, seconds := range []float64{0, 0.0005, 0.001, 10, 10.1} {
		s.Observe(dnsDuration, seconds, durations("web", "front")...)
	}
	s.wait(zeroFor)
	h := s.histograms(dnsDuration)["shop,web,front,container,embedded"]
	if got := h.Bucket[0].GetCumulativeCount(); got != 2 {
		t.Errorf("%d in the first bucket, want 2", got)
	}
	if got := h.Bucket[len(h.Bucket)-1].GetCumulativeCount(); got != 4 {
		t.Errorf("%d up to the last bound, want 4", got)
	}
	if h.GetSampleCount() != 5 || h.GetZeroCount() != 1 {
		t.Errorf("%d observed, %d of them nothing, want 5 and 1", h.GetSampleCount(), h.GetZeroCount())
	}
}

// A histogram shows nothing observed for 15 s, as a counter shows 0: rate() asks for both.
func TestHistogramStartsAtZero(t *testing.T) {
	s := newTestStore(1000)
	s.Observe(dnsDuration, 0.002, durations("web", "front")...)
	s.wait(zeroFor - time.Millisecond)
	s.Observe(dnsDuration, 0.003, durations("web", "front")...)
	name := "shop,web,front,container,embedded"
	h := s.histograms(dnsDuration)[name]
	if h.GetSampleCount() != 0 || h.GetSampleSum() != 0 || len(h.PositiveDelta) != 0 {
		t.Errorf("a new series shows %v", h)
	}
	for _, b := range h.Bucket {
		if b.GetCumulativeCount() != 0 {
			t.Errorf("a new series has %v", b)
		}
	}
	s.wait(time.Millisecond)
	s.wantObserved(t, dnsDuration, map[string]uint64{name: 2})
}

// Beyond the limit, to which a histogram counts as much as a scraper makes of it, all go to one for each resolver.
func TestHistogramsBeyondLimit(t *testing.T) {
	s := newTestStore(0)
	s.config.Limit = s.count + dnsDuration.width() + 1 // there is room for two: the last may be too wide
	before := s.count
	for i := range 5 {
		s.Observe(dnsDuration, 0.002, durations(fmt.Sprint("s", i), "front")...)
	}
	s.Add(packets, 1, rx("alpha")...)
	s.wait(zeroFor)
	s.wantObserved(t, dnsDuration, map[string]uint64{
		"shop,s0,front,container,embedded": 1, "shop,s1,front,container,embedded": 1, "~other,~other,~other,container,embedded": 3,
	})
	overflow := s.shown(seriesOverflow)
	if overflow[dnsDuration.Name] != 3 || overflow[packets.Name] != 1 {
		t.Errorf("overflow is %g and %g, want 3 and 1", overflow[dnsDuration.Name], overflow[packets.Name])
	}
	if got := s.count - before; got != 3*(len(dnsDuration.Bounds)+3)+1 {
		t.Errorf("%d series are counted, want 3 histograms and a counter", got)
	}
	s.countSeries()
	if got := s.shown(seriesCount)[dnsDuration.Name]; got != float64(3*(len(dnsDuration.Bounds)+3)) {
		t.Errorf("%g series are shown of them", got)
	}
	for range 20 { // what stands for all stays
		s.wait(time.Minute)
		s.Retire(nil)
	}
	s.wantObserved(t, dnsDuration, map[string]uint64{"~other,~other,~other,container,embedded": 3})
	if got := s.count - before - len(s.shown(seriesCount)); got != len(dnsDuration.Bounds)+3+1 {
		t.Errorf("%d series are counted after retirement", got)
	}
}

// A service's histogram lives as long as a container of it is on the network, whether it asks or not.
func TestHistogramsAreRetired(t *testing.T) {
	s, m := newTestMetrics()
	on := func(networks ...string) enrich.LiveContainer {
		c := asking(s, "web.1", networks...)
		c.Identity.Stack, c.Identity.Service = "shop", "web"
		return c
	}
	m.SetInventory(inventoryOf(on("front", "back")))
	s.Observe(dnsDuration, 0.002, durations("web", "front")...)
	s.Observe(dnsDuration, 0.002, durations("web", "back")...)
	s.Observe(dnsDuration, 0.002, durations("web", "")...)
	s.Observe(dnsDuration, 0.002, "", "", "", "host", "direct")        // the host's own
	s.Observe(dnsDuration, 0.002, "", "", "ci", "container", "direct") // of containers that are no service's
	for range 11 {
		s.wait(time.Minute)
		m.SetInventory(inventoryOf(on("front")))
	}
	s.wantObserved(t, dnsDuration, map[string]uint64{
		"shop,web,front,container,embedded": 1, "shop,web,,container,embedded": 1, ",,,host,direct": 1,
	})
	for range 11 {
		s.wait(time.Minute)
		m.SetInventory(inventoryOf())
	}
	s.wantObserved(t, dnsDuration, map[string]uint64{",,,host,direct": 1})
}

// Histograms are written out while others count: with very many that takes a while.
func TestHistogramsDoNotHoldTheStore(t *testing.T) {
	s := newTestStore(1000)
	s.Add(packets, 1, rx("alpha")...)
	s.Observe(dnsDuration, 0.002, durations("web", "front")...)
	s.wait(zeroFor)
	visited, observed := 0, uint64(0)
	s.Each(func(f *Family, _ *Series, value Value) {
		if !s.mu.TryLock() {
			t.Fatal("the store is locked while it is visited")
		}
		s.mu.Unlock()
		if visited++; visited == 1 {
			s.Observe(dnsDuration, 0.002, durations("web", "front")...)
		}
		if f == dnsDuration {
			observed = value.Histogram.GetSampleCount()
		}
	})
	if observed != 2 {
		t.Errorf("%d observed, want what came while others were visited too", observed)
	}
}

// BenchmarkObserve is what a histogram adds to each lookup.
func BenchmarkObserve(b *testing.B) {
	s := newTestStore(1000)
	values := durations("web", "front")
	for i := 0; b.Loop(); i++ {
		s.Observe(dnsDuration, 1e-4*float64(i%1000), values...)
	}
}
