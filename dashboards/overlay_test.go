// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// What follows plays two agents to Prometheus: what they count by a course of traffic, and when each is scraped. All that a test
// tries goes on at once, each in a cluster of its own.

const (
	second = 1
	minute = 60 * second
	hour   = 60 * minute
	step   = 5 * second // of the series that promtool is given
)

// course is how many packets have passed by a moment, in seconds.
type course func(at int) float64

// steady is packets a second from one moment to another.
func steady(rate float64, from, to int) course {
	return func(at int) float64 { return rate * float64(min(max(at, from), to)-from) }
}

// bursts of packets, each within five seconds, at moments that are so far apart.
func bursts(packets float64, from, every int) course {
	return func(at int) float64 {
		if at < from {
			return 0
		}
		return packets * (math.Floor(float64(at-from)/float64(every)) + 1)
	}
}

// random bursts, up to a minute apart.
func random(seed uint64) course {
	source := rand.New(rand.NewPCG(seed, seed))
	sums := make([]float64, 3*hour+1)
	for at := 1; at < len(sums); at += 1 + source.IntN(60) {
		sums[at] = float64(source.IntN(40000))
	}
	for at := 1; at < len(sums); at++ {
		sums[at] += sums[at-1]
	}
	return func(at int) float64 { return sums[max(at, 0)] }
}

func ramp(from, to int) course {
	return func(at int) float64 {
		t := float64(min(max(at, from), to) - from)
		return t * t / 4
	}
}

func (c course) plus(other course) course { return func(at int) float64 { return c(at) + other(at) } }

// losing is what arrives if a share gets lost.
func (c course) losing(share float64) course {
	return func(at int) float64 { return math.Round(c(at) * (1 - share)) }
}

// agent is one of two, and how it is scraped.
type agent struct {
	name, address string
	every, phase  int // seconds between scrapes, and of the first
	born          int // when its series came to be; they are not there before, though the agent is
	seen          int // when Prometheus was first told of it; it has run for long
	restart       int // when it was started anew, if it was; it is away for half a minute
}

const away = 30 * second

// values are what Prometheus gets within three hours. A counter begins anew with its agent.
func (a agent) values(born int, c course) string {
	var values strings.Builder
	for at := 0; at <= 3*hour; at += step {
		switch {
		case at < max(born, a.seen) || at%a.every != a.phase%a.every:
			values.WriteString("_ ")
		case a.restart == 0 || at < a.restart:
			fmt.Fprintf(&values, "%.0f ", c(at))
		case at < a.restart+away:
			values.WriteString("stale ")
		default:
			fmt.Fprintf(&values, "%.0f ", c(at)-c(a.restart+away-step))
		}
	}
	return values.String()
}

// series are those of a network that this agent has with a peer, and what else it says.
func (a agent) series(cluster, peer string, sent, received course) []object {
	ours := fmt.Sprintf(`cluster=%q, instance=%q, job="bridgewatch"`, cluster, a.name)
	packets := func(direction string) string {
		return fmt.Sprintf(`bridgewatch_overlay_packets_total{%s, network="shop", vni="4097", local=%q, peer=%q, direction=%q, encapsulation="vxlan"}`,
			ours, a.address, peer, direction)
	}
	begun := func(at int) float64 { return 1000 }
	if a.restart > 0 {
		begun = func(at int) float64 { return 1000 + float64(min(max(at, a.restart), a.restart+1)) }
	}
	constant := a
	constant.restart = 0 // what follows are no counters
	return []object{
		{"series": packets("tx"), "values": a.values(a.born, sent)},
		{"series": packets("rx"), "values": a.values(a.born, received)},
		{"series": fmt.Sprintf(`bridgewatch_signal_start_time_seconds{%s, signal="overlay"}`, ours), "values": constant.values(0, begun)},
		{"series": fmt.Sprintf(`bridgewatch_swarm_peer_info{%s, peer=%q, node="n", role="worker", state=""}`, ours, peer),
			"values": constant.values(0, func(int) float64 { return 1 })},
		{"series": fmt.Sprintf(`bridgewatch_swarm_channel_last_received_timestamp_seconds{%s, peer=%q, channel="gossip_udp"}`, ours, peer),
			"values": constant.values(0, func(at int) float64 { return float64(at) })},
		{"series": fmt.Sprintf(`bridgewatch_swarm_channel_packets_total{%s, peer=%q, channel="gossip_udp", direction="rx"}`, ours, peer),
			"values": a.values(0, func(at int) float64 { return float64(at) })},
	}
}

const (
	addressA = "192.0.2.1"
	addressB = "192.0.2.2"
)

// scraped are two agents at these intervals.
func scraped(everyA, phaseA, everyB, phaseB int) (a, b agent) {
	return agent{name: "a", address: addressA, every: everyA, phase: phaseA}, agent{name: "b", address: addressB, every: everyB, phase: phaseB}
}

// overlayPlay is a promtool case with many clusters of two nodes, which looks at their rules.
type overlayPlay struct {
	series, tests []object
}

// swarm adds a cluster where packets go from A to B, maybe fewer arrive, and some go back.
func (p *overlayPlay) swarm(cluster string, a, b agent, sent, received course) {
	back := steady(1, 0, 3*hour)
	p.series = append(p.series, a.series(cluster, b.address, sent, back)...)
	p.series = append(p.series, b.series(cluster, a.address, back, received)...)
}

// expect asks for the sum of what a query says, or that it says nothing.
func (p *overlayPlay) expect(at int, expr string, values ...float64) {
	samples := []object{}
	for _, v := range values {
		samples = append(samples, object{"labels": "{}", "value": v})
	}
	p.tests = append(p.tests, object{"expr": "sum(" + expr + ")", "eval_time": fmt.Sprintf("%ds", at), "exp_samples": samples})
}

// expectNoAlert is that no alert of an overlay fires in a cluster up to a moment.
func (p *overlayPlay) expectNoAlert(cluster string, until int) {
	p.expect(until, fmt.Sprintf(`count_over_time(ALERTS{alertname=~"BridgewatchOverlay.*", alertstate="firing", cluster=%q}[3h])`, cluster))
}

// run has Prometheus evaluate the rules about overlay networks at an interval.
func (p *overlayPlay) run(t *testing.T, interval string) {
	t.Helper()
	runPromtoolEvery(t, interval, overlayRules(t), []any{object{
		"interval": strconv.Itoa(step) + "s", "input_series": p.series, "promql_expr_test": p.tests,
	}})
}

// overlayRules writes those rules alone to a file: all of them take long.
func overlayRules(t *testing.T) string {
	t.Helper()
	_, rules, found := strings.Cut(text(t, Rules), "  - name: bridgewatch.overlay\n")
	rules, _, more := strings.Cut(rules, "  - name: ")
	if !found || !more {
		t.Fatal("no group of rules about overlay networks")
	}
	file := filepath.Join(t.TempDir(), "overlay.rules.yml")
	if err := os.WriteFile(file, []byte("groups:\n  - name: overlay\n"+rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// lossOf is the recorded share of what is lost from A to B.
func lossOf(cluster string) string {
	return fmt.Sprintf(`cluster_network_path:bridgewatch_overlay_lost_packets:ratio15m{cluster=%q, network="shop", vni="4097", encapsulation="vxlan", `+
		`source=%q, destination=%q}`, cluster, addressA, addressB)
}

// A million packets of which one in a hundred is lost read as one in a hundred, whenever the series came to be and however the ends
// are scraped, as soon as both are quiet.
func TestOverlayLossIsExact(t *testing.T) {
	const begin = 40 * minute
	burst := steady(50000, begin, begin+20)
	few := steady(500, begin, begin+20)
	var play overlayPlay
	for _, tc := range []struct {
		name           string
		scrapes        [4]int // intervals and phases
		bornA, bornB   int
		sent, received course
		ratio          []float64
		lost           float64
	}{
		{"equal scrapes", [4]int{15, 0, 15, 10}, 0, 0, burst, burst.losing(0.01), []float64{0.01}, 10000},
		{"unequal scrapes", [4]int{15, 5, 60, 35}, 0, 0, burst, burst.losing(0.01), []float64{0.01}, 10000},
		{"born in the burst, zeros first", [4]int{15, 0, 15, 10}, begin - 15, begin - 15, burst, burst.losing(0.01), []float64{0.01}, 10000},
		{"born in the burst, without", [4]int{15, 0, 15, 10}, begin + 10, begin + 15, burst, burst.losing(0.01), []float64{0.01}, 10000},
		{"blocked from the start", [4]int{15, 0, 15, 10}, 0, 0, burst, burst.losing(1), []float64{1}, 1e6},
		{"nothing lost", [4]int{60, 0, 15, 10}, 0, 0, burst, burst, []float64{0}, 0},
		{"too few for a ratio", [4]int{15, 0, 15, 10}, 0, 0, few, few.losing(0.5), nil, 5000},
	} {
		a, b := scraped(tc.scrapes[0], tc.scrapes[1], tc.scrapes[2], tc.scrapes[3])
		a.born, b.born = tc.bornA, tc.bornB
		play.swarm(tc.name, a, b, tc.sent, tc.received)
		for _, at := range []int{begin + 2*minute, begin + 14*minute} {
			play.expect(at, "round("+lossOf(tc.name)+", 0.0000001)", tc.ratio...)
			play.expect(at, strings.Replace(lossOf(tc.name), "ratio15m", "delta15m", 1), tc.lost)
		}
		play.expect(begin+20*minute, lossOf(tc.name)) // it is over
	}
	play.run(t, "1m")
}

// After a restart of either end there is no verdict until nothing of before it is looked at.
func TestOverlayLossAfterARestart(t *testing.T) {
	sent := steady(1000, 0, 3*hour)
	// A counter may be ahead of the old one at its first scrape: no value tells that it was reset.
	young := steady(1000, hour-10, 3*hour)
	var play overlayPlay
	for _, tc := range []struct {
		name                        string
		restartOfSender, ofReceiver int
		sent                        course
	}{
		{"of the sender", hour, 0, sent}, {"of the receiver", 0, hour, sent}, {"of both", hour, hour, sent},
		{"of a young sender", hour, 0, young}, {"of a young receiver", 0, hour, young},
	} {
		a, b := scraped(15, 0, 15, 10)
		a.restart, b.restart = tc.restartOfSender, tc.ofReceiver
		play.swarm(tc.name, a, b, tc.sent, tc.sent)
		for after := minute; after < 20*minute; after += minute {
			play.expect(hour+after, lossOf(tc.name))
		}
		play.expect(hour+22*minute, "abs("+lossOf(tc.name)+") < bool 0.002", 1)
		play.expectNoAlert(tc.name, 3*hour)
	}
	play.run(t, "1m")
}

// What agents counted before Prometheus knew of them is no traffic of now.
func TestOverlayLossOfAgentsThatAreNewToPrometheus(t *testing.T) {
	sent := steady(1000, 0, 3*hour)
	before := func(packets float64) course { return sent.plus(func(int) float64 { return packets }) }
	var play overlayPlay
	a, b := scraped(15, 0, 15, 10)
	a.seen, b.seen = hour, hour
	play.swarm("new", a, b, before(1e9), before(1e6))
	play.expect(hour+14*minute, lossOf("new"))
	play.expect(hour+16*minute, "abs("+lossOf("new")+") < bool 0.002", 1)
	play.expectNoAlert("new", 3*hour)
	play.run(t, "1m")
}

// scrapes are how two agents may be scraped: intervals and phases.
var scrapes = [][4]int{{15, 0, 15, 10}, {15, 10, 15, 0}, {15, 10, 60, 15}, {60, 15, 15, 10}, {60, 55, 60, 5}, {60, 5, 60, 55}}

// Whatever the traffic does, nobody is woken while nothing is lost.
func TestNoOverlayAlertWithoutLoss(t *testing.T) {
	var play overlayPlay
	for name, c := range map[string]course{
		"a step up":         steady(1000, hour, 3*hour),
		"a step down":       steady(1000, 0, hour),
		"up and down":       steady(1000, hour, hour+20*minute),
		"more":              steady(1000, 0, 3*hour).plus(steady(800, hour, 3*hour)),
		"rising":            ramp(hour, 2*hour),
		"a burst each 20 s": bursts(20000, hour, 20),
		"each minute":       bursts(20000, hour+35, minute),
		"each 3 minutes":    bursts(50000, hour+25, 3*minute),
		"each 14 minutes":   bursts(50000, 20*minute, 14*minute),
		"each 15 minutes":   bursts(50000, 20*minute, 15*minute),
		"each 16 minutes":   bursts(50000, 20*minute, 16*minute),
		"random":            random(1), "random too": random(2), "random again": random(3),
	} {
		for _, s := range scrapes {
			a, b := scraped(s[0], s[1], s[2], s[3])
			cluster := fmt.Sprintf("%s, scraped %v", name, s)
			play.swarm(cluster, a, b, c, c)
			play.expectNoAlert(cluster, 3*hour)
		}
	}
	play.run(t, "1m") // of the intervals that are usual the one at which the scrapes are furthest apart for longest
}

// Loss pages, in whatever traffic, and names who receives: two in a hundred within half an hour where traffic is even, five
// within two hours where it comes in the wildest bursts.
func TestOverlayLossPages(t *testing.T) {
	var play overlayPlay
	for _, tc := range []struct {
		name   string
		sent   course
		share  float64
		within int
	}{
		{"steady", steady(1000, 0, 3*hour), 0.02, 30 * minute},
		{"all of little", steady(0.5, 0, 3*hour), 1, 30 * minute},
		{"a burst each minute", bursts(20000, 35, minute), 0.02, 30 * minute},
		{"rising", steady(1000, 0, 3*hour).plus(ramp(0, 3*hour)), 0.05, 2 * hour},
		{"random", random(1), 0.05, 2 * hour},
		{"random too", random(2), 0.05, 2 * hour},
	} {
		received := func(at int) float64 { return tc.sent(at) - math.Round(tc.share*max(0, tc.sent(at)-tc.sent(hour))) }
		for _, s := range scrapes {
			a, b := scraped(s[0], s[1], s[2], s[3])
			cluster := fmt.Sprintf("%s, scraped %v", tc.name, s)
			play.swarm(cluster, a, b, tc.sent, received)
			play.expectNoAlert(cluster, hour)
			play.expect(hour+tc.within, fmt.Sprintf(`max_over_time(ALERTS{alertname="BridgewatchOverlayLoss", alertstate="firing", severity="critical", `+
				`cluster=%q, instance="b", network="shop", vni="4097", source=%q, destination=%q}[2h])`, cluster, addressA, addressB), 1)
		}
	}
	play.run(t, "1m")
}

// Where addresses are rewritten on the way the two ends do not meet: that is no loss. A node without an agent, which the Swarm
// knows, is nobody's other name, and does not hide that nothing arrives of another. Nor does who sends far less.
func TestUnmatchedPeers(t *testing.T) {
	const stranger = "198.51.100.7"
	sent := steady(1000, 0, 3*hour)
	var play overlayPlay
	for _, tc := range []struct {
		cluster string
		rate    float64
	}{{"NAT", 1000}, {"NAT that loses most", 101}, {"another node", 1000}, {"a scan", 99}} {
		a, b := scraped(15, 0, 15, 10)
		play.swarm(tc.cluster, a, b, sent, sent.losing(1))
		other := b.series(tc.cluster, stranger, sent, steady(tc.rate, 0, 3*hour))
		play.series = append(play.series, other[1]) // what it receives
		if tc.cluster == "another node" {
			play.series = append(play.series, other[3:]...) // that it knows who that is
		}
		play.expect(hour, fmt.Sprintf(`instance_network_path:bridgewatch_overlay_unmatched_packets:delta15m{cluster=%q, instance="b", network="shop", `+
			`source=%q, destination=%q}`, tc.cluster, stranger, addressB), 900*tc.rate)
	}
	for _, cluster := range []string{"NAT", "NAT that loses most"} {
		play.expect(hour, lossOf(cluster))
		play.expectNoAlert(cluster, 3*hour)
	}
	for _, cluster := range []string{"another node", "a scan"} {
		play.expect(hour, lossOf(cluster), 1)
		play.expect(hour, fmt.Sprintf(`ALERTS{alertname="BridgewatchOverlayLoss", alertstate="firing", cluster=%q}`, cluster), 1)
	}
	play.run(t, "1m")
}

// An agent whose signal does not run has its series at 0, and says nothing by it; nor when the signal has just begun to run.
func TestNoVerdictWithoutTheSignal(t *testing.T) {
	sent := steady(1000, 0, 3*hour)
	var play overlayPlay
	for name, runs := range map[string]int{"it does not run": 4 * hour, "it begins": hour} {
		a, b := scraped(15, 0, 15, 10)
		play.swarm(name, a, b, sent, steady(1000, runs, 3*hour))
		later := b
		later.born = runs
		start := play.series[len(play.series)-4] // of the receiver
		start["values"] = later.values(runs, func(int) float64 { return 1000 })
		for at := 20 * minute; at < hour+15*minute; at += 5 * minute {
			play.expect(at, lossOf(name))
		}
		play.expectNoAlert(name, 3*hour)
	}
	play.expect(hour+22*minute, "abs("+lossOf("it begins")+") < bool 0.002", 1)
	play.run(t, "1m")
}
