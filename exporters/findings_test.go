// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/loader"
)

// standing is a finding about a container's port.
func standing(id, container, port string, since time.Time) findings.Finding {
	return findings.Finding{ID: id, Severity: findings.Warning, Since: since, Subject: findings.Subject{
		Identity: enrich.Identity{Container: container, Network: "web"}, Scope: enrich.ScopeHost, Object: port,
	}}
}

func TestFindings(t *testing.T) {
	s, m := newTestMetrics()
	first, later := time.Unix(1000, 0), time.Unix(2000, 0)
	m.SetFindings([]findings.Finding{
		standing("filtered", "alpha", "", later),
		standing("userland-proxy-src", "beta", "80", later),
		standing("userland-proxy-src", "beta", "443", first), // the same to whoever reads metrics
	}, map[string]uint64{"filtered": 7})
	s.wantShown(t, finding, map[string]float64{
		",,alpha,web,host,filtered,warning": 1, ",,beta,web,host,userland-proxy-src,warning": 1,
	})
	s.wantShown(t, findingStart, map[string]float64{
		",,alpha,web,host,filtered,warning": 2000, ",,beta,web,host,userland-proxy-src,warning": 1000,
	})
	raised := s.shown(findingsRaised)
	if len(raised) != len(findings.Catalogue()) {
		t.Errorf("%d counters for %d findings: each must be there at 0", len(raised), len(findings.Catalogue()))
	}
	if got := raised["filtered,warning"]; got != 7 {
		t.Errorf("filtered was raised %g times, want 7", got)
	}
	m.SetFindings(nil, nil)
	s.wantShown(t, finding, map[string]float64{})
	s.wantShown(t, findingStart, map[string]float64{})
}

// A namespace counts since its birth; its container may get another, and others may have the same identity.
func TestListenOverflows(t *testing.T) {
	s, m := newTestMetrics()
	task, successor := liveContainer(s, "alpha", "web"), liveContainer(s, "alpha", "web")
	successor.ID = "id-successor"
	old := liveContainer(s, "alpha", "web") // ran long before the agent
	old.ID, old.StartedAt = "id-old", s.now.Add(-time.Hour)
	m.SetInventory(inventoryOf(task, successor, old, liveContainer(s, "quiet", "web")))
	s.wantShown(t, listenOverflows, map[string]float64{",,alpha,,container": 0, ",,quiet,,container": 0})
	var host loader.HostState
	for _, read := range []struct {
		of   map[string]uint64
		want float64
	}{
		{map[string]uint64{"id-alpha": 5}, 5},
		{map[string]uint64{"id-alpha": 7}, 7},
		{map[string]uint64{"id-alpha": 7, "id-successor": 2}, 9},
		{map[string]uint64{"id-alpha": 1, "id-successor": 2}, 10}, // alpha was restarted
		{map[string]uint64{"id-unknown": 100, "id-successor": 3}, 11},
		{map[string]uint64{"id-alpha": 1, "id-successor": 3}, 11}, // alpha's could not be read last time
		{map[string]uint64{"id-old": 5000}, 11},
		{map[string]uint64{"id-old": 5001}, 12},
	} {
		states := map[string]loader.NetnsState{}
		for id, n := range read.of {
			states[id] = loader.NetnsState{ListenOverflows: n}
		}
		m.SetState(&host, states)
		s.wantShown(t, listenOverflows, map[string]float64{",,alpha,,container": read.want, ",,quiet,,container": 0})
	}
}

func TestConntrack(t *testing.T) {
	s, m := newTestMetrics()
	m.SetState(&loader.HostState{}, nil) // no connection tracking: no series that says 0 of 0
	s.wantShown(t, conntrackLimit, map[string]float64{})
	m.SetState(&loader.HostState{Conntrack: loader.Table{Entries: 10, Limit: 100}}, nil)
	s.wantShown(t, conntrackEntries, map[string]float64{",,,,host": 10})
	s.wantShown(t, conntrackLimit, map[string]float64{",,,,host": 100})
}

func TestUnnattedEgress(t *testing.T) {
	s, m := newTestMetrics()
	e := enrich.Egress{Egress: loader.Egress{Counts: loader.Counts{Skbs: 1, Packets: 3, Bytes: 300}}, Identity: enrich.Identity{Container: "alpha", Network: "web"}}
	leftover := e
	leftover.Resets = 2
	m.AddEgress([]enrich.Egress{e})
	s.wait(zeroFor)
	s.wantShown(t, unnattedLeftovers, map[string]float64{",,alpha,web,host": 0}) // or the difference would be nothing
	m.AddEgress([]enrich.Egress{leftover})
	s.wantShown(t, unnattedEgress, map[string]float64{",,alpha,web,host": 6})
	s.wantShown(t, unnattedLeftovers, map[string]float64{",,alpha,web,host": 2})
}
