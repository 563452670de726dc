// SPDX-License-Identifier: Apache-2.0

// Package prometheus shows the series in Prometheus's formats.
package prometheus

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bridgewatch/bridgewatch/exporters"
)

// Exporter is a prometheus.Gatherer over a store. It makes the client library's messages itself, and keeps them from
// one scrape to the next, because making and checking them anew takes most of a scrape's time with many containers.
type Exporter struct {
	store   *exporters.Store
	refresh func()

	mu      sync.Mutex
	metrics map[*exporters.Series]*dto.Metric
}

// New makes an exporter of store. refresh is called before each scrape to bring the store up to date.
func New(store *exporters.Store, refresh func()) *Exporter {
	return &Exporter{store: store, refresh: refresh, metrics: make(map[*exporters.Series]*dto.Metric)}
}

// Handler serves the scrapes. With the store's metrics come the usual ones of the process and its runtime.
func (e *Exporter) Handler() http.Handler {
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Not prometheus.Gatherers, which would sort and check every series of every scrape.
	both := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		own, err := process.Gather()
		if err != nil {
			return nil, err
		}
		families, err := e.Gather()
		return append(families, own...), err
	})
	return promhttp.HandlerFor(both, promhttp.HandlerOpts{
		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: true,
	})
}

// Gather implements prometheus.Gatherer.
func (e *Exporter) Gather() ([]*dto.MetricFamily, error) {
	e.refresh()
	e.mu.Lock()
	defer e.mu.Unlock()
	families := make(map[*exporters.Family]*dto.MetricFamily)
	kept := make(map[*exporters.Series]*dto.Metric, len(e.metrics))
	e.store.Each(func(f *exporters.Family, series *exporters.Series, value exporters.Value) {
		family := families[f]
		if family == nil {
			family = newFamily(f)
			families[f] = family
		}
		cached := e.metrics[series]
		if cached == nil {
			cached = newMetric(f, series)
		}
		kept[series] = cached
		family.Metric = append(family.Metric, withValue(cached, value))
	})
	e.metrics = kept
	return sorted(families), nil
}

func newFamily(f *exporters.Family) *dto.MetricFamily {
	kind := dto.MetricType_COUNTER
	switch f.Type {
	case exporters.Gauge:
		kind = dto.MetricType_GAUGE
	case exporters.Histogram:
		kind = dto.MetricType_HISTOGRAM
	}
	return &dto.MetricFamily{Name: &f.Name, Help: &f.Help, Type: &kind}
}

// newMetric makes the parts that stay the same: labels, sorted by name as the format wants them, and time of creation.
func newMetric(f *exporters.Family, series *exporters.Series) *dto.Metric {
	m := &dto.Metric{Label: make([]*dto.LabelPair, len(f.Labels))}
	for i := range f.Labels {
		value := strings.ToValidUTF8(series.Values[i], "\uFFFD")
		m.Label[i] = &dto.LabelPair{Name: &f.Labels[i], Value: &value}
	}
	slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	if f.Type == exporters.Counter {
		m.Counter = &dto.Counter{CreatedTimestamp: timestamppb.New(series.Created)}
	}
	return m
}

// withValue makes a message of its own for this scrape: another one may still be writing out the last.
func withValue(cached *dto.Metric, value exporters.Value) *dto.Metric {
	switch {
	case value.Histogram != nil:
		return &dto.Metric{Label: cached.Label, Histogram: value.Histogram}
	case cached.Counter != nil:
		return &dto.Metric{Label: cached.Label, Counter: &dto.Counter{
			Value: &value.Number, CreatedTimestamp: cached.Counter.CreatedTimestamp,
		}}
	}
	return &dto.Metric{Label: cached.Label, Gauge: &dto.Gauge{Value: &value.Number}}
}

func sorted(families map[*exporters.Family]*dto.MetricFamily) []*dto.MetricFamily {
	list := make([]*dto.MetricFamily, 0, len(families))
	for _, family := range families {
		list = append(list, family)
	}
	slices.SortFunc(list, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return list
}
