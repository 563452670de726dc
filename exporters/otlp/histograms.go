// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// explicitPoint has the buckets of the family. It is what is sent by default, since every collector and every backend takes it, and
// Prometheus makes the same series of it that it scrapes, which rules and dashboards ask for.
func explicitPoint(h *dto.Histogram, at metricdata.DataPoint[float64]) metricdata.HistogramDataPoint[float64] {
	p := metricdata.HistogramDataPoint[float64]{
		Attributes: at.Attributes, StartTime: at.StartTime, Time: at.Time, Count: h.GetSampleCount(), Sum: h.GetSampleSum(),
		Bounds: make([]float64, 0, len(h.Bucket)), BucketCounts: make([]uint64, 0, len(h.Bucket)+1),
	}
	var below uint64
	for _, b := range h.Bucket {
		p.Bounds = append(p.Bounds, b.GetUpperBound())
		p.BucketCounts = append(p.BucketCounts, b.GetCumulativeCount()-below)
		below = b.GetCumulativeCount()
	}
	p.BucketCounts = append(p.BucketCounts, h.GetSampleCount()-below)
	return p
}

// exponentialPoint has the native buckets: Prometheus makes native histograms of it.
func exponentialPoint(h *dto.Histogram, at metricdata.DataPoint[float64]) metricdata.ExponentialHistogramDataPoint[float64] {
	return metricdata.ExponentialHistogramDataPoint[float64]{
		Attributes: at.Attributes, StartTime: at.StartTime, Time: at.Time, Count: h.GetSampleCount(), Sum: h.GetSampleSum(),
		Scale: h.GetSchema(), ZeroCount: h.GetZeroCount(), ZeroThreshold: h.GetZeroThreshold(), PositiveBucket: positiveBuckets(h),
	}
}

// positiveBuckets writes out the gaps, too. Prometheus numbers a bucket by its upper bound, OTLP by its lower one. A count is
// given as its difference from the one before, an offset as that from the end of the span before. Nothing observed is negative.
func positiveBuckets(h *dto.Histogram) (dense metricdata.ExponentialBucket) {
	var count int64
	deltas := h.PositiveDelta
	for i, span := range h.PositiveSpan {
		if i == 0 {
			dense.Offset = span.GetOffset() - 1
		} else {
			dense.Counts = append(dense.Counts, make([]uint64, span.GetOffset())...)
		}
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			dense.Counts = append(dense.Counts, uint64(count))
		}
	}
	return dense
}
