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
	engine := lab.StartEngine(t, "--experimental", "--ip6tables")
	network := engine.Network(t, "front", "--subnet", subnet)
	agent := lab.StartAgent(t, engine, "--dns.names=top:20", "--dns.timeout=3s")
	prom := launchPrometheus(t, scrapeConfig(t, agent.Address, nil),
		[]string{shipped(t, dashboards.Rules), shipped(t, dashboards.FindingRules)})
	// What was counted before the first scrape is no increase.
	lab.Eventually(t, 30*time.Second, "the first scrape", func() bool { return len(prom.query(t, "bridgewatch_build_info")) > 0 })

	app := func(service string, more ...string) []string {
		return append([]string{"--network", network,
			"--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=" + service}, more...)
	}
	client := func(service string, to netip.AddrPort) *lab.Container { // sends for longer than the test waits
		return engine.Run(t, "shop-"+service, app(service), "udp-send", "--to", to.String(),
			"--count", "3000", "--interval", "100ms", "--stay")
	}
	vote := engine.Serve(t, "shop-vote", app("vote", "--publish", "7000:7000/udp"), "udp-listen", port)
	world := netip.AddrPortFrom(lab.OutsideAddress, port)
	client("client", netip.AddrPortFrom(vote.Addr(t, network, lab.IPv4), port))
	client("reader", world)
	client("knocker", netip.AddrPortFrom(vote.Addr(t, network, lab.IPv4), port+1))                      // nobody listens there
	back := engine.Network(t, "back", "--subnet", "10.81.0.0/24", "--ipv6", "--subnet", "fd00:81::/64") // so that IPv6 is tracked
	elsewhere := engine.Run(t, "elsewhere", []string{"--network", back})
	client("stranger", netip.AddrPortFrom(elsewhere.Addr(t, back, lab.IPv4), port)) // Docker keeps the two apart
	broken := client("broken", world)
	lab.Host(t).AddRule(t, lab.IPv4, "filter", "DOCKER-USER",
		"-s", broken.Addr(t, network, lab.IPv4).String(), "-j", "DROP")

	engine.Serve(t, "shop-web", app("web", "--publish", "8080:7000"), "mirror", port)
	visitor := func(from lab.Place, to netip.Addr, pace time.Duration) {
		from.Start(t, "exchange", "--to", netip.AddrPortFrom(to, 8080).String(), "--count", "3000", "--pace", pace.String())
	}
	visitor(lab.Outside(t), lab.HostAddress, 200*time.Millisecond)
	visitor(lab.Outside(t), lab.HostAddress6, time.Second) // one of five loses its address: the container has no IPv6
	visitor(lab.Host(t), loopback.Addr(), time.Second)

	lookUp := lookups(t, engine, app)

	empty := allQueries(t)
	end := time.Now().Add(90 * time.Second)
	for empty = prom.empty(t, empty); len(empty) > 0 && time.Now().Before(end); empty = prom.empty(t, empty) {
		lab.Outside(t).Send(t, lab.Datagrams{To: netip.AddrPortFrom(lab.HostAddress, port), Count: 10})
		lookUp()
		time.Sleep(2 * time.Second)
	}
	for _, q := range empty {
		t.Errorf("panel %q %s shows nothing: %s", q.Panel, q.RefID, q.Expr)
	}
	checkLossTable(t, prom)
	checkFindingsTable(t, prom)
	checkRules(t, prom)
}

// lookups returns what makes some on each leg. A few fail, too few for an alert; one service has the finding about search lists,
// which is information.
func lookups(t *testing.T, engine *lab.Engine, app func(service string, more ...string) []string) (once func()) {
	t.Helper()
	lab.Outside(t).ServeDNS(t, []netip.Addr{lab.OutsideAddress})
	outside := []string{"--dns", lab.OutsideAddress.String()}
	asker := engine.Run(t, "shop-asker", app("asker", outside...))
	searcher := engine.Run(t, "shop-searcher", app("searcher", append(outside, "--dns-search", "search", "--dns-option", "ndots:5")...))
	loner := engine.Run(t, "loner", outside) // on the default bridge
	rare := [][]string{
		{"servfail.world"}, {"slow.world"}, {"wrongid.world"}, {"second.world", "--tries=2", "--patience=100ms"},
		{"big.world"}, {"big.world", "--protocol=tcp"},
	}
	times := 0
	return func() {
		asker.Traffic(t, "dns-ask", "ok-#.world", "--count=100", "--type=A", "--type=AAAA")
		loner.Traffic(t, "dns-ask", "ok-#.world", "--count=20", "--server="+netip.AddrPortFrom(lab.OutsideAddress, 53).String())
		searcher.Traffic(t, "resolve", "bare-a", "bare-b", "bare-c", "bare-d", "--for=ip4")
		if times++; times%5 == 1 {
			for _, lookup := range rare {
				asker.Traffic(t, append([]string{"dns-ask"}, lookup...)...)
			}
		}
	}
}

// checkLossTable requires that the tables of losses name the one container that loses packets, and no other. Lines
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
	if checked != 4 {
		t.Errorf("the tables of losses have %d queries, want packets and bytes of two", checked)
	}
}

// checkFindingsTable requires that the table of findings has the fault as a warning, and no other that is as grave.
func checkFindingsTable(t *testing.T, p prometheus) {
	t.Helper()
	for _, q := range allQueries(t) {
		if q.Panel != "Findings that stand" || q.RefID != "A" {
			continue
		}
		const warning = 2 // see the table's mapping
		stand := p.query(t, q.Expr)
		grave := slices.DeleteFunc(slices.Clone(stand), func(s lab.Sample) bool { return s.Value < warning })
		want := lab.Labels{"stack": "shop", "service": "broken", "container": "shop-broken-1", "network": "front", "id": "filtered"}
		if len(grave) != 1 || len(grave.Select("", want)) != 1 || grave[0].Value != warning {
			t.Errorf("the table of findings shows %v, want a warning about %v alone", stand, want)
		}
		return
	}
	t.Error("no dashboard has a table of findings")
}

// checkRules requires that every rule can be evaluated, and that the alerts about the fault, and no others, are on their
// way for the broken container.
func checkRules(t *testing.T, p prometheus) {
	t.Helper()
	aboutLoss := []string{"BridgewatchFiltered", "BridgewatchServiceLosesPackets"}
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

// zeroIsGood matches queries about troubles that the app does not have: what they must show is that there are none.
var zeroIsGood = regexp.MustCompile(`lost_records|unattributed|series_overflow|1 - bridgewatch_signal_enabled|` +
	`listen_overflows|severity="critical"} == 1|conntrack_failures|dns_upstream_(timeouts|failures)`)

// mayBeEmpty matches queries about what has no series until it happens, and does not happen here; the one that marks that the
// agent was started again; and those about a Swarm, which has a test of its own: see TestOverlayLoss.
var mayBeEmpty = regexp.MustCompile(`unnatted_|signal="otlp"|changes\(bridgewatch_signal_start|` +
	`bridgewatch_(overlay|swarm|ipvs|network_addresses)_|driver="overlay"|mechanism="ingress_mesh"|` +
	`id=~"[^"]*(overlay-mtu|fdb-row-missing|peer-silent)`)

// empty returns those of the queries that have no answer, or no other than zero or not-a-number.
func (p prometheus) empty(t *testing.T, queries []dashboards.Query) []dashboards.Query {
	t.Helper()
	var empty []dashboards.Query
	for _, q := range queries {
		shows := mayBeEmpty.MatchString(q.Expr)
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
