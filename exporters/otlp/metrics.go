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
	config Config
	sets   map[*exporters.Series]attribute.Set // kept from one export to the next
}

func newProducer(config Config) *producer { return &producer{config: config} }

// Produce implements sdkmetric.Producer. It never fails.
func (p *producer) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	p.config.Collect()
	now := time.Now()
	points := make(map[*exporters.Family][]metricdata.DataPoint[float64])
	sets := make(map[*exporters.Series]attribute.Set, len(p.sets))
	p.config.Store.Each(func(f *exporters.Family, series *exporters.Series, value float64) {
		set, known := p.sets[series]
		if !known {
			set = seriesAttributes(f, series.Values)
		}
		sets[series] = set
		point := metricdata.DataPoint[float64]{Attributes: set, Time: now, Value: value}
		if f.Type == exporters.Counter {
			point.StartTime = series.Created
		}
		points[f] = append(points[f], point)
	})
	p.sets = sets
	all := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope, Version: p.config.Version}}
	for _, f := range exporters.Families() {
		if len(points[f]) > 0 {
			all.Metrics = append(all.Metrics, newMetric(f, points[f]))
		}
	}
	return []metricdata.ScopeMetrics{all}, nil
}

func newMetric(f *exporters.Family, points []metricdata.DataPoint[float64]) metricdata.Metrics {
	m := metricdata.Metrics{Name: metricName(f), Description: f.Help, Unit: f.Unit}
	if f.Type == exporters.Counter {
		m.Data = metricdata.Sum[float64]{DataPoints: points, Temporality: metricdata.CumulativeTemporality, IsMonotonic: true}
	} else {
		m.Data = metricdata.Gauge[float64]{DataPoints: points}
	}
	return m
}
