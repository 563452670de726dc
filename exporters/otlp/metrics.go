// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/bridgewatch/bridgewatch/exporters"
)

// producer makes the SDK's messages of the store, with the same values as /metrics at the same moment. It implements
// sdkmetric.Producer. The reader calls it from one goroutine at a time.
type producer struct {
	config      Config
	exponential bool                                // histograms have no bounds
	sets        map[*exporters.Series]attribute.Set // kept from one export to the next
}

func newProducer(config Config, exponential bool) *producer {
	return &producer{config: config, exponential: exponential}
}

// dataPoints are those of a metric: all of one of the types.
type dataPoints struct {
	numbers     []metricdata.DataPoint[float64]
	explicit    []metricdata.HistogramDataPoint[float64]
	exponential []metricdata.ExponentialHistogramDataPoint[float64]
}

// Produce implements sdkmetric.Producer. It never fails.
func (p *producer) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	p.config.Collect()
	now := time.Now()
	collected := make(map[*exporters.Family]*dataPoints)
	sets := make(map[*exporters.Series]attribute.Set, len(p.sets))
	p.config.Store.Each(func(f *exporters.Family, series *exporters.Series, value exporters.Value) {
		set, known := p.sets[series]
		if !known {
			set = seriesAttributes(f, series.Values)
		}
		sets[series] = set
		if collected[f] == nil {
			collected[f] = &dataPoints{}
		}
		p.add(collected[f], f, value, metricdata.DataPoint[float64]{Attributes: set, Time: now, StartTime: series.Created})
	})
	p.sets = sets
	all := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope, Version: p.config.Version}}
	for _, f := range exporters.Families() {
		if collected[f] != nil {
			all.Metrics = append(all.Metrics, newMetric(f, collected[f]))
		}
	}
	return []metricdata.ScopeMetrics{all}, nil
}

// add makes a point of a value. at has what is the same in all types of points.
func (p *producer) add(to *dataPoints, f *exporters.Family, value exporters.Value, at metricdata.DataPoint[float64]) {
	switch {
	case f.Type == exporters.Histogram && p.exponential:
		to.exponential = append(to.exponential, exponentialPoint(value.Histogram, at))
	case f.Type == exporters.Histogram:
		to.explicit = append(to.explicit, explicitPoint(value.Histogram, at))
	default:
		at.Value = value.Number
		if f.Type == exporters.Gauge {
			at.StartTime = time.Time{}
		}
		to.numbers = append(to.numbers, at)
	}
}

func newMetric(f *exporters.Family, p *dataPoints) metricdata.Metrics {
	const cumulative = metricdata.CumulativeTemporality
	m := metricdata.Metrics{Name: metricName(f), Description: f.Help, Unit: f.Unit}
	switch {
	case f.Type == exporters.Counter:
		m.Data = metricdata.Sum[float64]{DataPoints: p.numbers, Temporality: cumulative, IsMonotonic: true}
	case f.Type == exporters.Gauge:
		m.Data = metricdata.Gauge[float64]{DataPoints: p.numbers}
	case p.exponential != nil:
		m.Data = metricdata.ExponentialHistogram[float64]{DataPoints: p.exponential, Temporality: cumulative}
	default:
		m.Data = metricdata.Histogram[float64]{DataPoints: p.explicit, Temporality: cumulative}
	}
	return m
}
