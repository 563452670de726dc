// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Labels are names and values of labels.
type Labels map[string]string

// Sample is one series at one scrape.
type Sample struct {
	Name   string
	Labels Labels
	Value  float64
}

// Metrics is the outcome of one scrape.
type Metrics []Sample

// ParseMetrics reads Prometheus's text format. Of a histogram the value is how many were observed.
func ParseMetrics(tb testing.TB, text string) Metrics {
	tb.Helper()
	all, err := parseMetrics(text)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func parseMetrics(text string) (Metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("parse metrics: %w", err)
	}
	var all Metrics
	for _, name := range slices.Sorted(maps.Keys(families)) {
		for _, m := range families[name].Metric {
			labels := Labels{}
			for _, pair := range m.Label {
				labels[pair.GetName()] = pair.GetValue()
			}
			all = append(all, Sample{name, labels, value(m)})
		}
	}
	return all, nil
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Untyped != nil:
		return m.Untyped.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return math.NaN()
}

// Select returns the samples of a metric that have all the labels.
func (m Metrics) Select(name string, labels Labels) Metrics {
	var selected Metrics
	for _, s := range m {
		if s.Name == name && s.has(labels) {
			selected = append(selected, s)
		}
	}
	return selected
}

func (s Sample) has(labels Labels) bool {
	for name, value := range labels {
		if s.Labels[name] != value {
			return false
		}
	}
	return true
}

// Sum adds up the samples of a counter that have all the labels.
func (m Metrics) Sum(name string, labels Labels) uint64 {
	var sum float64
	for _, s := range m.Select(name, labels) {
		sum += s.Value
	}
	return uint64(math.Round(sum))
}

// Values returns the values that a label has among the samples, sorted.
func (m Metrics) Values(label string) []string {
	seen := map[string]bool{}
	for _, s := range m {
		seen[s.Labels[label]] = true
	}
	return slices.Sorted(maps.Keys(seen))
}
