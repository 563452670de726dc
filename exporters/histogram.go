// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Native buckets are at most a tenth wider than the ones below them. That many span a factor of 5,000 from the least to the
// greatest. Of more, each two are merged into one, for as long as the series lives.
const (
	nativeFactor     = 1.1
	maxNativeBuckets = 100
)

// newHistogram is the client library's own: it counts in the family's buckets and in native ones.
func newHistogram(f *Family) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: f.Name, Help: f.Help, Buckets: f.Bounds,
		NativeHistogramBucketFactor:    nativeFactor,
		NativeHistogramMaxBucketNumber: maxNativeBuckets,
	})
}

// snapshot is what a histogram holds now. It began when its series did.
func snapshot(h prometheus.Histogram, created time.Time) *dto.Histogram {
	var message dto.Metric
	_ = h.Write(&message) // never fails
	message.Histogram.CreatedTimestamp = timestamppb.New(created)
	return message.Histogram
}

// width is how many series a scraper that knows no native histograms makes of one of the family: of a histogram one for each
// bucket, with the one up to infinity, the sum and the count.
func (f *Family) width() int {
	if f.Type == Histogram {
		return len(f.Bounds) + 3
	}
	return 1
}
