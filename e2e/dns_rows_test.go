// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// dnsRows asks the agent for its live table of lookups.
func dnsRows(tb testing.TB, agent *lab.Agent, choose ...string) []enrich.DNSRow {
	tb.Helper()
	args := append([]string{"dns", "--output=json", "--limit=20000", "--api.socket=" + agent.Socket}, choose...)
	code, stdout, stderr := lab.Command(tb, nil, args...)
	if code != 0 {
		tb.Fatalf("bridgewatch %s ended with %d: %s", strings.Join(args, " "), code, stderr)
	}
	var said struct{ Rows []enrich.DNSRow }
	if err := json.Unmarshal([]byte(stdout), &said); err != nil {
		tb.Fatalf("read the answer of dns: %v", err)
	}
	return said.Rows
}

// awaitRows waits for as many rows of a container, each with as many upstream legs, as it must have.
func (s dnsStage) awaitRows(agent *lab.Agent, container string, rows, legs int) []enrich.DNSRow {
	s.Helper()
	var all []enrich.DNSRow
	var have int
	for end := time.Now().Add(patience); time.Now().Before(end) && (len(all) < rows || have < legs); time.Sleep(200 * time.Millisecond) {
		all, have = dnsRows(s, agent, "--container="+container), 0
		for i := range all {
			have += len(all[i].Upstream)
		}
	}
	if len(all) != rows || have != legs {
		s.Errorf("%s has %d rows with %d upstream legs, want %d with %d", container, len(all), have, rows, legs)
	}
	return all
}

// shortLives are containers of which a lookup is the first act, and the last.
func (s dnsStage) shortLives(agent *lab.Agent) {
	s.name = "first"
	const containers = 20
	options := []string{"--network", s.network, "--dns", worldServer.String()}
	for i := range containers {
		c := &lab.Container{Name: fmt.Sprintf("first-%d", i)}
		r, err := s.engine.RunOnce(c.Name, options, "dns-ask", fmt.Sprintf("ok-%d%s", i, s.domain()))
		if err != nil {
			s.Fatal(err)
		}
		s.answered(c, enrich.ResolverEmbedded, []func() lab.Report{func() lab.Report { return r }})
		s.add(c, enrich.ResolverUpstream, dnsQueries, "A", 1)
		s.add(c, enrich.ResolverUpstream, dnsResponses, "NOERROR", 1)
	}
	for i := range containers {
		name := fmt.Sprintf("first-%d", i)
		for _, row := range s.awaitRows(agent, name, 1, 1) {
			if row.Resolver != enrich.ResolverEmbedded || row.Name != fmt.Sprintf("ok-%d%s", i, s.domain()) || row.RCode != "NOERROR" {
				s.Errorf("the lookup of %s is told as %+v", name, row)
			}
		}
	}
}

// latencies holds how long lookups took, as the table has it, against what their clients say. A client is woken some time
// after its answer has come: on a machine that has much to do, later than by what is to be proven.
func (s dnsStage) latencies(agent *lab.Agent) {
	s.name = "latency"
	client, loner := s.member("client"), s.loner("loner")
	wait := func(r lab.Report) []func() lab.Report { return []func() lab.Report{func() lab.Report { return r }} }

	r := client.Traffic(s, "dns-ask", "ok-#"+s.domain(), "--count=200")
	s.answered(client, enrich.ResolverEmbedded, wait(r))
	s.forwarded(client, s.server)
	s.compare("raw, embedded", r, s.awaitRows(agent, client.Name, 200, 200))

	s.name = "latency-direct"
	r = loner.Traffic(s, "dns-ask", "ok-#"+s.domain(), "--count=200", server53(worldServer))
	s.answered(loner, enrich.ResolverDirect, wait(r))
	s.compare("raw, direct", r, s.awaitRows(agent, loner.Name, 200, 0))

	for _, program := range []string{"traffic", lab.Musl, lab.GNU} {
		s.name = "latency-" + program
		client := s.member("client")
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("ok-%d%s", i, s.domain()))
		}
		r := resolve(s, client, program, names...)()
		s.passedOn(client, time.Time{})
		s.compare(program, r, s.awaitRows(agent, client.Name, 200, 200))
	}
}

const (
	// within is how near to the client's own figure the table's must be, for most lookups.
	within = time.Millisecond
	// atMostLonger is how much longer than for its client a lookup may seem to have taken, for any: the clock is read in two places.
	atMostLonger = 100 * time.Microsecond
)

// compare holds each call of a client against the rows of its name, for which it may have asked at once, by several types.
func (s dnsStage) compare(what string, r lab.Report, rows []enrich.DNSRow) {
	s.Helper()
	var off []time.Duration
	for _, l := range r.Lookups {
		var first, last time.Time
		for _, row := range rows {
			if row.Name != l.Name {
				continue
			}
			answered := row.Time.Add(time.Duration(row.Seconds * float64(time.Second)))
			if first.IsZero() || row.Time.Before(first) {
				first = row.Time
			}
			if answered.After(last) {
				last = answered
			}
			s.requireInside(&row)
		}
		shorter := l.Duration() - last.Sub(first)
		if shorter < -atMostLonger {
			s.Errorf("latency, %s: %s took %s, and %s for its client", what, l.Name, last.Sub(first), l.Duration())
		}
		off = append(off, shorter.Abs())
	}
	slices.Sort(off)
	s.Logf("latency, %s: off by %s at the median, %s at the 90th and %s at the 99th percentile, %s at most", what,
		off[len(off)/2], off[len(off)*90/100], off[len(off)*99/100], off[len(off)-1])
	if off[len(off)/2] > within {
		s.Errorf("latency, %s: fewer than half of %d are within %s of what the client says", what, len(off), within)
	}
}

// requireInside makes sure that what the engine asked for a lookup was asked, and answered, meanwhile.
func (s dnsStage) requireInside(row *enrich.DNSRow) {
	s.Helper()
	for _, leg := range row.Upstream {
		late := leg.Time.Sub(row.Time).Seconds() + leg.Seconds - row.Seconds
		if leg.Time.Before(row.Time) || late > 0 || leg.Inferred {
			s.Errorf("the upstream leg of %s is not inside of it, or inferred: %+v", row.Name, row)
		}
	}
}

// requireInferred makes sure that the table says of what the engine asked from the host's namespace that it is inferred.
func (s dnsStage) requireInferred(agent *lab.Agent) {
	s.Helper()
	for _, row := range s.awaitRows(agent, "local-client", 60, 60) {
		for _, leg := range row.Upstream {
			if !leg.Inferred || leg.Resolver != enrich.ResolverUpstream || leg.Server.Addr() != hostServer {
				s.Errorf("what the engine asked for %s from the host's namespace is told as %+v", row.Name, leg)
			}
		}
	}
}

// requireServers holds what the agent counts of each server against what has come to it.
func (s dnsStage) requireServers(agent *lab.Agent) {
	s.Helper()
	count := func() (sum int) {
		metrics := agent.Scrape(s)
		for _, server := range []netip.Addr{worldServer, worldServer6} {
			sum += int(metrics.Sum("bridgewatch_dns_upstream_queries_total", lab.Labels{"server": server.String()}))
		}
		return sum
	}
	came, got := len(s.server.Asked(s)), 0
	for end := time.Now().Add(patience); time.Now().Before(end) && got != came; time.Sleep(time.Second) {
		got = count()
	}
	if got != came {
		s.Errorf("%d messages to the world's server were counted, and it has got %d", got, came)
	}
}

// flood makes 10,000 lookups a second for some seconds. It returns what makes sure that the agent has counted them, or their
// loss. An answer that finds its client's queue full has been counted.
func (s dnsStage) flood(agent *lab.Agent) (audit func()) {
	s.Helper()
	s.name = "flood"
	loner := s.loner("loner")
	lostRecords := func(metrics lab.Metrics) int {
		return int(metrics.Sum("bridgewatch_lost_records_total", lab.Labels{"signal": "dns"}))
	}
	before := lostRecords(agent.Scrape(s))
	r := loner.Traffic(s, "dns-flood", s.domain()[1:], server53(worldServer), "--count=30000", "--rate=10000")
	came := 0
	for _, m := range s.server.Asked(s) {
		if strings.HasSuffix(m.Name, s.domain()) {
			came++
		}
	}
	s.Logf("flood: %d lookups in %.2fs, %d reached the server, %d were answered", r.Sent, r.Seconds, came, r.Answered)
	return func() {
		var lost, queries, responses, timeouts int
		for end := time.Now().Add(patience); time.Now().Before(end) && queries+lost < r.Sent; time.Sleep(time.Second) {
			metrics := agent.Scrape(s)
			count := func(metric string) int {
				return int(metrics.Sum("bridgewatch_dns_"+metric+"_total", lab.Labels{"container": loner.Name, "resolver": "direct"}))
			}
			lost = lostRecords(metrics) - before
			queries, responses, timeouts = count(dnsQueries), count(dnsResponses), count(dnsTimeouts)
		}
		s.Logf("flood: counted %d lookups, %d answers, %d timeouts and %d lost records", queries, responses, timeouts, lost)
		switch {
		case queries > r.Sent, queries+lost < r.Sent, responses > came, responses+lost < r.Answered,
			lost == 0 && queries != responses+timeouts:
			s.Error("the agent lost what it does not count")
		}
	}
}
