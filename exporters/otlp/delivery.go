// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// sayEvery is how often a failing export is logged.
const sayEvery = time.Minute

// delivery keeps count of what did not arrive, and says so now and then. Its methods may be called concurrently.
type delivery struct {
	log  *slog.Logger
	lost atomic.Uint64

	mu      sync.Mutex
	said    time.Time // when failure was last logged
	failing bool      // and it has not been said that this is over
}

func newDelivery(log *slog.Logger) *delivery { return &delivery{log: log} }

// done takes note of an attempt to deliver n items. After a failure all of them count as lost, although some may have
// arrived: what matters is that nothing is lost without a trace.
func (d *delivery) done(n int, err error, now time.Time) {
	d.lost.Add(uint64(undelivered(n, err)))
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil && d.failing:
		d.failing = false
		d.log.Info("otlp export works again", "lost", d.lost.Load())
	case err != nil && now.Sub(d.said) >= sayEvery:
		d.failing, d.said = true, now
		d.log.Warn("otlp export fails", "error", err, "lost", d.lost.Load())
	}
}

// partly finds the number in the text of the SDK's error about a collector that took only a part. The SDK keeps the type of
// that error to itself.
var partly = regexp.MustCompile(`OTLP partial success: (?s:.*) \((\d+) [a-z ]+ rejected\)$`)

func undelivered(n int, err error) int {
	if err == nil {
		return 0
	}
	if found := partly.FindStringSubmatch(err.Error()); found != nil {
		if rejected, err := strconv.Atoi(found[1]); err == nil {
			return min(n, rejected)
		}
	}
	return n
}

// metricExporter tells the delivery what became of each export. Failures end here: the SDK would hand them to a handler that
// belongs to the whole process.
type metricExporter struct {
	sdkmetric.Exporter
	delivery *delivery
}

func (m metricExporter) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	err := m.Exporter.Export(ctx, data)
	m.delivery.done(countPoints(data), err, time.Now())
	return nil
}

func countPoints(data *metricdata.ResourceMetrics) int {
	n := 0
	for _, s := range data.ScopeMetrics {
		for _, m := range s.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[float64]:
				n += len(d.DataPoints)
			case metricdata.Gauge[float64]:
				n += len(d.DataPoints)
			case metricdata.Histogram[float64]:
				n += len(d.DataPoints)
			case metricdata.ExponentialHistogram[float64]:
				n += len(d.DataPoints)
			}
		}
	}
	return n
}

// logExporter does the same for events, and gives back the room that they took.
type logExporter struct {
	sdklog.Exporter
	delivery *delivery
	pending  *atomic.Int64
}

func (l logExporter) Export(ctx context.Context, records []sdklog.Record) error {
	err := l.Exporter.Export(ctx, records)
	l.pending.Add(-int64(len(records)))
	l.delivery.done(len(records), err, time.Now())
	return nil
}
