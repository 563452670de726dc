// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// TestRulesFlushed has somebody flush the rules while clients come. docker-proxy carries them from then on, and they lose
// their addresses.
func TestRulesFlushed(t *testing.T) {
	flushRules(t, lab.Finding{ID: "userland-proxy-src", Severity: "warning", Scope: "host"})
}

// TestRulesFlushedWithoutProxy is the same where no proxy stands in: the engine's socket, which is there to keep the port from
// others, takes the clients, and nobody answers them.
func TestRulesFlushedWithoutProxy(t *testing.T) {
	flushRules(t, lab.Finding{ID: "firewall-flush", Severity: "critical", Scope: "host"}, "--userland-proxy=false")
}

// flushRules raises the finding, for one container, and has the engine put it right.
func flushRules(t *testing.T, want lab.Finding, flags ...string) {
	engine := lab.StartEngine(t, flags...)
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	found := lab.WatchFindings(t, agent)
	s := natStage{
		stage:    stage{t, engine, lab.Host(t), lab.Outside(t), newNetwork(t, engine, "nat"), lab.IPv4, "flush"},
		families: ipv4Only, protocol: "tcp", published: 8100, agent: agent, books: newBooks(),
	}
	v := visit{from: s.outside, to: s.door(), server: s.mirror("server"), client: enrich.ClientRemote, mechanism: enrich.NoMechanism}
	want.Container = v.server.Name

	const seconds, perSecond = 20, 50
	wait := s.outside.Begin(t, "exchange", "--to", v.to.String(), "--count", strconv.Itoa(seconds*perSecond),
		"--pace", (time.Second / perSecond).String(), "--tries", "1")
	time.Sleep(seconds / 3 * time.Second)
	flushed := time.Now()
	s.host.Run(t, "iptables", "-w", "-t", "nat", "-F")
	r := wait()

	kept, lost := 0, 0
	for _, e := range r.Exchanged {
		if e.Kept() {
			kept++
		} else {
			lost++
		}
	}
	unanswered := r.Errors["no answer"]
	t.Logf("%d connections kept the client's address, %d lost it, %d were not answered", kept, lost, unanswered)
	if kept+lost+unanswered != seconds*perSecond || kept == 0 || (lost == 0) == (unanswered == 0) {
		t.Fatalf("the rest: %v", r.Errors)
	}
	s.book(v, kept, kept)
	proxied := v
	proxied.mechanism = enrich.UserlandProxy
	s.book(proxied, lost+unanswered, lost)

	lab.Eventually(t, appears, "the finding", func() bool { return slices.Contains(found.Standing(), want) })
	if span := found.Seen()[want]; span.First.Before(flushed) {
		t.Errorf("the finding came %s too early", flushed.Sub(span.First))
	}
	engine.Restart(t)
	s.visit(v)
	lab.Eventually(t, clears, "the finding to clear", func() bool { return !slices.Contains(found.Standing(), want) })
	for f := range found.Seen() {
		if f != want {
			t.Errorf("a finding that nobody caused: %+v", f)
		}
	}
	s.books.audit(t, agent)
}
