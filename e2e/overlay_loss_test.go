// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/dashboards"
	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// hastened is how many times faster than shipped Prometheus goes through its rules, which look back for 15 minutes.
const hastened = 12

// The window of the rules about loss between nodes, and the longest time between two scrapes.
const (
	verdictWindow = 15 * time.Minute / hastened
	verdictScrape = time.Minute / hastened
)

var ruleDuration = regexp.MustCompile(`\b(\d+)([smhd])\b`)

// hasten makes all durations in rules shorter. What is a part of a metric's name stays, as what is no duration in its writing.
func hasten(t *testing.T, rules string) string {
	t.Helper()
	return ruleDuration.ReplaceAllStringFunc(rules, func(text string) string {
		m := ruleDuration.FindStringSubmatch(text)
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[m[2]]
		return fmt.Sprintf("%dms", (time.Duration(n) * unit / hastened).Milliseconds())
	})
}

// startSwarmPrometheus starts a Prometheus that goes through the shipped rules, hastened, and scrapes the manager's agent as often
// as our configuration does, the worker's as seldom as others do.
func startSwarmPrometheus(t *testing.T, s swarmStage) prometheus {
	t.Helper()
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte(hasten(t, shipped(t, dashboards.Rules))), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("global:\n  evaluation_interval: %dms\nrule_files: [%s]\nscrape_configs:\n", verdictScrape.Milliseconds(), rules)
	for at, every := range map[*side]time.Duration{s.manager: verdictScrape / 4, s.worker: verdictScrape} {
		text += fmt.Sprintf(`
- job_name: %[1]s
  honor_labels: true
  scrape_interval: %[2]dms
  scrape_timeout: %[2]dms
  static_configs: [{targets: [%[3]q], labels: {instance: %[1]s, job: bridgewatch, cluster: lab}}]
`, at.Hostname, every.Milliseconds(), at.agent.Address)
	}
	// What is not scraped any more is forgotten as soon as it would be, so that a restart is over when the rules say so.
	return startPrometheusWith(t, text, fmt.Sprintf("--query.lookback-delta=%dms", (5*time.Minute/hastened).Milliseconds()))
}

// TestOverlayLoss has Prometheus say what gets lost between two nodes, and holds that against the switch that loses it.
func TestOverlayLoss(t *testing.T) {
	s := newSwarmStage(t)
	calm, lossy := s.lossStage("calm"), s.lossStage("lossy")
	p := startSwarmPrometheus(t, s)

	// Traffic begins and ends, and nothing is lost: Prometheus has a verdict for longer than it takes to wake somebody.
	p.awaitVerdict(t)
	const seconds, rate = 50, 1000
	calm.near.Send(t, lab.Datagrams{To: calm.at(calm.far), Count: seconds * rate, Interval: time.Second / rate})
	calm.requireNoLoss(t, p)

	// A million packets, of which the switch loses one in a hundred.
	const million = 1_000_000
	block := s.swarm.Block(t, lab.Between(s.manager.Node, s.worker.Node).VXLAN(lossy.vni).And("numgen inc mod 100 0"))
	begun := time.Now()
	lossy.near.Send(t, lab.Datagrams{To: lossy.at(lossy.far), Count: million})
	took := time.Since(begun)
	t.Logf("a million packets took %s", took)
	if took > verdictWindow-3*verdictScrape {
		t.Fatalf("the rules look at %s alone", verdictWindow)
	}
	lossy.requireLoss(t, p, block)
	requirePages(t, p)
}

// lossStage is a network whose loss Prometheus tells, from the manager to the worker.
type lossStage struct {
	faultStage
}

func (s swarmStage) lossStage(name string) lossStage {
	s.Helper()
	return lossStage{s.faultStage(name)}
}

// of is a series that the rules record about the network.
func (s lossStage) of(what string) string {
	return fmt.Sprintf(`cluster_network_path:bridgewatch_overlay_%s{cluster="lab", network=%q, vni="%d", encapsulation="vxlan", source=%q, destination=%q}`,
		what, s.name, s.vni, s.manager.Addr, s.worker.Addr)
}

// awaitVerdict waits until the agents have been scraped for long enough.
func (p prometheus) awaitVerdict(t *testing.T) {
	t.Helper()
	lab.Eventually(t, verdictWindow+time.Minute, "a verdict", func() bool {
		return len(p.query(t, `count by (network) (instance_network_peer:bridgewatch_overlay_packets:delta15m{network=~"calm|lossy"}) == 4`)) == 2
	})
}

// awaitQuiet waits until Prometheus knows all that the switch has seen of the network.
func (s lossStage) awaitQuiet(t *testing.T, p prometheus) {
	t.Helper()
	p.awaitWithin(t, 5*verdictScrape, s.of("sent_packets:delta15m"), float64(s.sent[s.manager].Packets(t)))
	p.awaitWithin(t, 5*verdictScrape, s.of("received_packets:delta15m"), float64(s.arrived[s.manager].Packets(t)))
}

func (s lossStage) requireNoLoss(t *testing.T, p prometheus) {
	t.Helper()
	s.awaitQuiet(t, p)
	p.awaitWithin(t, 5*verdictScrape, s.of("lost_packets:delta15m"), 0)
	if n := p.query(t, "count_over_time("+s.of("lost_packets:ratio15m")+"[10m]) > 5"); len(n) != 1 {
		t.Errorf("while traffic ran there was no verdict: %v", n)
	}
	// What others on the machine do may cost records, but none of what the nodes send each other.
	if fired := p.query(t, `max_over_time(ALERTS{alertstate="firing"}[10m]) unless `+
		`max_over_time(ALERTS{alertname="BridgewatchLosingRecords", signal!="overlay"}[10m])`); len(fired) != 0 {
		t.Errorf("nothing was lost, and these fired:\n%s", lines(fired))
	}
}

func (s lossStage) requireLoss(t *testing.T, p prometheus, block *lab.Wire) {
	t.Helper()
	s.awaitQuiet(t, p)
	lost, sent := float64(block.Packets(t)), float64(s.sent[s.manager].Packets(t))
	if truth := lost / sent; sent < 1e6 || math.Abs(truth-0.01) > 1e-6 {
		t.Errorf("the switch lost %v of %v packets", lost, sent)
	}
	p.awaitWithin(t, 5*verdictScrape, s.of("lost_packets:delta15m"), lost)
	p.awaitWithin(t, 5*verdictScrape, s.of("cable_lost_packets:delta15m"), lost)
	if own := p.query(t, s.of("dropped_packets:delta15m")); len(own) != 0 {
		t.Errorf("the nodes take what the switch lost for their own:\n%s", lines(own))
	}
	ratio := p.query(t, s.of("lost_packets:ratio15m"))
	const hundredth = 0.0001 // percentage points
	if len(ratio) != 1 || math.Abs(ratio[0].Value-lost/sent) > hundredth {
		t.Fatalf("prometheus says that %v were lost, and the switch lost %v of %v", ratio, lost, sent)
	}
	t.Logf("the switch lost %v of %v; Prometheus: %v", lost, sent, ratio[0].Value)
}

// quietPanels matches queries of the pages about a Swarm for what does not happen here: what a node drops itself, strangers, what is
// encrypted, clients from outside; for what this kernel or this engine need not have, and for findings.
var quietPanels = regexp.MustCompile(`dropped_packets|malformed|unmatched|misses|esp"|bridgewatch_ipvs|published|addresses_available|state="down"|` +
	`stack!=""|service!=""|container_start|bridgewatch_finding|changes\(`)

// zeroOfEntries matches those that are at zero where nothing is wrong.
var zeroOfEntries = regexp.MustCompile(`expected_entries`)

// requirePages opens the pages about a Swarm: no panel is empty of what there is.
func requirePages(t *testing.T, p prometheus) {
	t.Helper()
	asked := 0
	for _, name := range []string{dashboards.Overlay, dashboards.Swarm} {
		queries, err := dashboards.Queries(name, verdictWindow)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range queries {
			if quietPanels.MatchString(q.Expr) {
				continue
			}
			asked++
			got := p.query(t, q.Expr)
			if shows := slices.ContainsFunc(got, func(s lab.Sample) bool { return s.Value != 0 && !math.IsNaN(s.Value) }); !shows &&
				(len(got) == 0 || !zeroOfEntries.MatchString(q.Expr)) {
				t.Errorf("panel %q %s of %s shows nothing: %s", q.Panel, q.RefID, name, q.Expr)
			}
		}
	}
	if asked < 20 {
		t.Errorf("only %d queries are looked at", asked)
	}
}
