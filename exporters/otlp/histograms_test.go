// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

// lookups adds some of a service's that took so long to a store.
func lookups(store *exporters.Store, service string, took ...time.Duration) {
	var dns enrich.DNS
	for _, d := range took {
		server := netip.MustParseAddrPort("127.0.0.11:40000")
		dns.Lookups = append(dns.Lookups, enrich.Lookup{
			DNSLookup: loader.DNSLookup{
				Server: server, Outcome: loader.DNSAnswered, Answered: start.Add(d),
				Tries: []loader.DNSTry{{Server: server, Asked: start, Answer: start.Add(d)}},
			},
			Identity: enrich.Identity{Stack: "shop", Service: service, Network: "front"},
			Scope:    enrich.ScopeContainer, Resolver: enrich.ResolverEmbedded, QType: "A", RCode: "NOERROR",
		})
	}
	exporters.NewMetrics(store).AddDNS(dns)
}

// tookLong is a store with three lookups from 0.4 ms to 20 s, longer ago than those of a new series are hidden for.
func tookLong(t *testing.T) *exporters.Store {
	t.Helper()
	now := start
	store := exporters.NewStore(exporters.StoreConfig{Limit: 100000, Retention: time.Hour, Now: func() time.Time { return now }})
	lookups(store, "web", 400*time.Microsecond, 3*time.Millisecond, 20*time.Second)
	now = start.Add(30 * time.Second)
	return store
}

var durationAttributes = map[string]any{
	"docker.stack.name": "shop", "docker.service.name": "web", "docker.network.name": "front",
	"bridgewatch.scope": "container", "bridgewatch.resolver": "embedded",
}

const cumulative = metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE

// Unless something else is asked for, histograms have the bounds that they have for Prometheus.
func TestExplicitHistograms(t *testing.T) {
	for _, aggregation := range []string{"", "explicit_bucket_histogram"} {
		c := startCollector(t, overGRPC)
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", aggregation)
		e, _ := open(t, tookLong(t))
		finish(t, e)
		got, _ := c.received()
		m := got["bridgewatch.dns.lookup.duration"]
		if m.GetUnit() != "s" || m.GetHistogram().GetAggregationTemporality() != cumulative || len(m.GetHistogram().GetDataPoints()) != 1 {
			t.Fatalf("it is %v", m)
		}
		p := m.GetHistogram().DataPoints[0]
		if p.Count != 3 || math.Abs(p.GetSum()-20.0034) > 1e-9 || p.StartTimeUnixNano != uint64(start.UnixNano()) {
			t.Errorf("the point is %v", p)
		}
		if diff := cmp.Diff(durationAttributes, texts(p.Attributes)); diff != "" {
			t.Error(diff)
		}
		bounds := []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
		if diff := cmp.Diff(bounds, p.ExplicitBounds); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]uint64{1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, p.BucketCounts); diff != "" {
			t.Error(diff)
		}
	}
}

// Who asks for exponential ones gets the native buckets: what is in them is what was observed.
func TestExponentialHistograms(t *testing.T) {
	for _, over := range []protocol{overGRPC, overHTTP} {
		c := startCollector(t, over)
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram")
		e, _ := open(t, tookLong(t))
		finish(t, e)
		got, _ := c.received()
		m := got["bridgewatch.dns.lookup.duration"].GetExponentialHistogram()
		if m.GetAggregationTemporality() != cumulative || len(m.GetDataPoints()) != 1 {
			t.Fatalf("over %s it is %v", over, m)
		}
		p := m.DataPoints[0]
		if p.Count != 3 || math.Abs(p.GetSum()-20.0034) > 1e-9 || p.Scale != 3 || p.StartTimeUnixNano != uint64(start.UnixNano()) {
			t.Errorf("the point is %v", p)
		}
		if diff := cmp.Diff(durationAttributes, texts(p.Attributes)); diff != "" {
			t.Error(diff)
		}
		base := math.Pow(2, math.Pow(2, -float64(p.Scale)))
		within := map[float64]uint64{0.0004: 0, 0.003: 0, 20: 0}
		for i, count := range p.Positive.BucketCounts {
			below, above := math.Pow(base, float64(int(p.Positive.Offset)+i)), math.Pow(base, float64(int(p.Positive.Offset)+i+1))
			for seconds := range within {
				if seconds > below && seconds <= above {
					within[seconds] = count
				}
			}
		}
		if diff := cmp.Diff(map[float64]uint64{0.0004: 1, 0.003: 1, 20: 1}, within); diff != "" {
			t.Errorf("%s in %v", diff, p.Positive)
		}
		if losses(e)["metrics_export"] != 0 {
			t.Error("points were lost")
		}
	}
}

// Where a span of buckets begins is told from the end of the one before, and counts from one to the next.
func TestPositiveBuckets(t *testing.T) {
	span := func(offset int32, length uint32) *dto.BucketSpan {
		return &dto.BucketSpan{Offset: &offset, Length: &length}
	}
	for _, tc := range []struct {
		name   string
		spans  []*dto.BucketSpan
		deltas []int64
		want   metricdata.ExponentialBucket
	}{
		{"none", nil, nil, metricdata.ExponentialBucket{}},
		{"one", []*dto.BucketSpan{span(-5, 1)}, []int64{7}, metricdata.ExponentialBucket{Offset: -6, Counts: []uint64{7}}},
		{
			"gaps", []*dto.BucketSpan{span(2, 2), span(3, 1), span(0, 2)}, []int64{4, -3, 9, -9, 1},
			metricdata.ExponentialBucket{Offset: 1, Counts: []uint64{4, 1, 0, 0, 0, 10, 1, 2}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := positiveBuckets(&dto.Histogram{PositiveSpan: tc.spans, PositiveDelta: tc.deltas})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The points of histograms are counted if they cannot be delivered, and go into several requests if they are too many for one.
func TestManyHistograms(t *testing.T) {
	for _, aggregation := range []string{"explicit_bucket_histogram", "base2_exponential_bucket_histogram"} {
		c := startCollector(t, overGRPC)
		c.set(mood{refuse: true})
		t.Setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", aggregation)
		store := exporters.NewStore(exporters.StoreConfig{Limit: 1000000, Retention: time.Hour, Now: time.Now})
		for i := range 10 {
			lookups(store, fmt.Sprint("s", i), time.Millisecond)
		}
		all := 0
		store.Each(func(*exporters.Family, *exporters.Series, exporters.Value) { all++ })
		e, _ := open(t, store)
		finish(t, e)
		if lost := losses(e)["metrics_export"]; lost != uint64(all) {
			t.Errorf("%d points are lost of %d", lost, all)
		}
	}
}
