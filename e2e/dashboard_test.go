// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io/fs"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/dashboards"
	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestDashboard opens every dashboard on a Prometheus that scrapes the agent with the shipped configuration, while a
// small app has a fault: no panel may be empty, and the rules must see the fault.
func TestDashboard(t *testing.T) {
	engine := lab.StartEngine(t)
	network := engine.Network(t, "front", "--subnet", subnet)
	agent := lab.StartAgent(t, engine)
	prom := startPrometheus(t, agent.Address)

	app := func(service string) []string {
		return []string{"--network", network,
			"--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=" + service}
	}
	forever := []string{"--count", "3000", "--interval", "100ms", "--stay"} // longer than the test waits
	vote := engine.Serve(t, "shop-vote", app("vote"), "udp-listen", port)
	to := netip.AddrPortFrom(vote.Addr(t, network, lab.IPv4), port)
	engine.Run(t, "shop-client", app("client"), append([]string{"udp-send", "--to", to.String()}, forever...)...)
	world := netip.AddrPortFrom(lab.OutsideAddress, port)
	engine.Run(t, "shop-reader", app("reader"), append([]string{"udp-send", "--to", world.String()}, forever...)...)
	broken := engine.Run(t, "shop-broken", app("broken"), append([]string{"udp-send", "--to", world.String()}, forever...)...)
	lab.Host(t).AddRule(t, lab.IPv4, "filter", "DOCKER-USER",
		"-s", broken.Addr(t, network, lab.IPv4).String(), "-j", "DROP")

	var empty []dashboards.Query
	end := time.Now().Add(90 * time.Second)
	for empty = prom.empty(t); len(empty) > 0 && time.Now().Before(end); empty = prom.empty(t) {
		time.Sleep(2 * time.Second)
	}
	for _, q := range empty {
		t.Errorf("panel %q %s shows nothing: %s", q.Panel, q.RefID, q.Expr)
	}
	checkLossTable(t, prom)
	checkRules(t, prom)
}

// checkLossTable requires that the table of losses names the one container that loses packets, and no other. Lines
// without a container may be about other labs on the machine.
func checkLossTable(t *testing.T, p prometheus) {
	t.Helper()
	want := lab.Labels{"stack": "shop", "service": "broken", "container": "shop-broken-1", "network": "front",
		"scope": "host", "direction": "tx", "reason": "NETFILTER_DROP", "cause": "filtered", "kind": "fault"}
	checked := 0
	for _, q := range allQueries(t) {
		if !strings.HasPrefix(q.Panel, "Which container") {
			continue
		}
		checked++
		lost := p.query(t, q.Expr)
		named := slices.DeleteFunc(slices.Clone(lost), func(s lab.Sample) bool { return s.Labels["container"] == "" })
		if len(named) != 1 || len(named.Select("", want)) != 1 {
			t.Errorf("the table of losses shows %v, want %v alone", lost, want)
		}
	}
	if checked != 2 {
		t.Errorf("the table of losses has %d queries, want packets and bytes", checked)
	}
}

// checkRules requires that every rule can be evaluated, and that the alerts about loss, and no others, are on their way
// for the broken container.
func checkRules(t *testing.T, p prometheus) {
	t.Helper()
	aboutLoss := []string{"BridgewatchContainerDropsFault", "BridgewatchServiceLosesPackets"}
	lab.Eventually(t, 30*time.Second, "the alerts about loss", func() bool {
		seen := 0
		for _, r := range p.rules(t) {
			if slices.Contains(aboutLoss, r.Name) && len(r.Alerts) > 0 {
				seen++
			}
		}
		return seen == len(aboutLoss)
	})
	for _, r := range p.rules(t) {
		if r.Health != "ok" {
			t.Errorf("rule %s cannot be evaluated: %s: %s", r.Name, r.Health, r.LastError)
		}
		if r.Name == "BridgewatchLosingRecords" {
			continue // what others on the machine do may cost records
		}
		for _, a := range r.Alerts {
			if !slices.Contains(aboutLoss, r.Name) || a.Labels["service"] != "broken" {
				t.Errorf("alert %s is %s for %v", r.Name, a.State, a.Labels)
			}
		}
	}
}

// zeroIsGood matches queries about the agent's own troubles: what they must show is that there are none.
var zeroIsGood = regexp.MustCompile(`lost_records|unattributed|series_overflow|1 - bridgewatch_signal_enabled`)

// empty returns the queries that have no answer, or no other than zero or not-a-number.
func (p prometheus) empty(t *testing.T) []dashboards.Query {
	t.Helper()
	var empty []dashboards.Query
	for _, q := range allQueries(t) {
		shows := false
		for _, s := range p.query(t, q.Expr) {
			good := s.Value == 0 && zeroIsGood.MatchString(q.Expr)
			shows = shows || good || s.Value != 0 && !math.IsNaN(s.Value)
		}
		if !shows {
			empty = append(empty, q)
		}
	}
	return empty
}

func allQueries(t *testing.T) []dashboards.Query {
	t.Helper()
	names, err := fs.Glob(dashboards.Files(), "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no dashboard is embedded: %v", err)
	}
	var all []dashboards.Query
	for _, name := range names {
		queries, err := dashboards.Queries(name, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, queries...)
	}
	return all
}
