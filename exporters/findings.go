// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/loader"
)

// SetFindings shows the findings that stand, and how often each of the catalogue was raised. Two of one identity that differ
// in more than that, as in a port, are one series, since the earlier of them. It must not be called concurrently with the
// other methods.
func (m *Metrics) SetFindings(standing []findings.Finding, raised map[string]uint64) {
	holds := make([]Sample, 0, len(standing))
	since := map[string]Sample{}
	for i := range standing {
		f := &standing[i]
		values := identityValues(f.Subject.Identity, f.Subject.Scope, f.ID, string(f.Severity))
		holds = append(holds, Sample{Value: 1, Values: values})
		start := Sample{Value: float64(f.Since.UnixMilli()) / 1000, Values: values}
		if earlier, known := since[seriesKey(values)]; !known || start.Value < earlier.Value {
			since[seriesKey(values)] = start
		}
	}
	starts := make([]Sample, 0, len(since))
	for _, s := range since {
		starts = append(starts, s)
	}
	m.store.Replace(finding, holds)
	m.store.Replace(findingStart, starts)
	m.setRaised(raised)
}

func (m *Metrics) setRaised(raised map[string]uint64) {
	var counts []Sample
	for _, d := range findings.Catalogue() {
		counts = append(counts, Sample{Value: float64(raised[d.ID]), Values: []string{d.ID, string(d.Severity)}})
	}
	m.store.Replace(findingsRaised, counts)
}

// SetState takes in what the kernel says of the host's namespace and of those of containers, by the ID of the container that
// owns one. It must not be called concurrently with the other methods.
func (m *Metrics) SetState(host *loader.HostState, containers map[string]loader.NetnsState) {
	m.setConntrack(host, containers)
	m.addHostConntrack(host)
	for id, state := range containers {
		c, known := m.living[id]
		if !known {
			continue
		}
		last, seen := m.states[id]
		if !seen && c.started.Before(m.started) { // it rose while nobody counted
			last = state
		}
		state.Links = nil
		m.states[id] = state
		values := identityValues(c.identity, enrich.ScopeContainer)
		m.store.Add(listenOverflows, float64(rise(state.ListenOverflows, last.ListenOverflows)), values...)
		m.addConntrackFailures(risen(&state.Conntrack, &last.Conntrack), values)
	}
}

// rise is how much a counter has risen. One that is lower than it was has begun anew, as do all of a namespace that is new.
func rise(now, last uint64) uint64 {
	if now < last {
		return now
	}
	return now - last
}

// AddEgress counts what left the host untranslated. It must not be called concurrently with the other methods.
func (m *Metrics) AddEgress(egress []enrich.Egress) {
	for i := range egress {
		e := &egress[i]
		values := identityValues(e.Identity, enrich.ScopeHost)
		m.store.Add(unnattedEgress, float64(e.Counts.Packets), values...)
		m.store.Add(unnattedLeftovers, float64(e.Resets), values...) // also none: the one is subtracted from the other
	}
}
