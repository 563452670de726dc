// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// dropCase makes packets that the kernel drops.
type dropCase struct {
	name     string
	families []lab.Family
	// play makes the traffic and returns what must have been counted for it, by a counter that is not Bridgewatch's.
	play func(s stage) []drops
}

// count reads a number of packets from somewhere that is not Bridgewatch.
type count func(testing.TB) uint64

// exactly is a number that is known already.
func exactly(n uint64) count { return func(testing.TB) uint64 { return n } }

// drops is a number of packets that were dropped for one reason.
type drops struct {
	container string   // the victim; "" where nobody can know
	scope     string   // the place
	direction string   // as the victim sees it
	meaning            // why it was lost and whose business that is
	reasons   []string // names of the reason on different kernels
	counter   string   // where the truth comes from
	count     count
	truth     uint64 // what count gave when the packets had settled
	atMost    bool   // the kernel need not report all of them
	// orNobody allows the victim to stay empty: not every kernel tells.
	orNobody bool
	// nobodys is a fault that raises no finding: it is not Docker's business.
	nobodys bool
}

// meaning is what a drop means, and what follows from that: a fault and a policy raise the finding of the cause.
type meaning struct{ cause, kind string }

func fault(cause string) meaning       { return meaning{cause, "fault"} }
func policy(cause string) meaning      { return meaning{cause, "policy"} }
func application(cause string) meaning { return meaning{cause, "application"} }

// of is what a container lost.
func of(c *lab.Container, scope, direction string, m meaning, n count, counter string, reasons ...string) []drops {
	return []drops{{container: c.Name, scope: scope, direction: direction, meaning: m, reasons: reasons, count: n, counter: counter}}
}

// settle reads the truth once it has stopped to change: packets may wait for an address to be resolved.
func (d *drops) settle(tb testing.TB) {
	tb.Helper()
	lab.Eventually(tb, patience, d.counter+" to settle", func() bool {
		before := d.truth
		d.truth = d.count(tb)
		return d.truth == before && (d.truth > 0 || d.counter == nothing)
	})
}

var (
	ipv4Only     = []lab.Family{lab.IPv4}
	ipv6Only     = []lab.Family{lab.IPv6}
	bothFamilies = []lab.Family{lab.IPv4, lab.IPv6}
)

// outcome is one line of the lab's table.
type outcome struct {
	drops
	name    string
	ended   time.Time // when its packets had been sent
	counted uint64
	seen    lab.Metrics // what was counted under the reasons for the container, in any scope and kind
}

// TestDrops plays every case under one agent, and then asks it once.
func TestDrops(t *testing.T) {
	engine := lab.StartEngine(t)
	network := newNetwork(t, engine, "drops")
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	found := lab.WatchFindings(t, agent)

	var table []outcome
	for _, c := range slices.Concat(filterCases(), routeCases(), linkCases(), socketCases(), fragmentCases(), placeCases(),
		isolationCases(), translationCases(), conntrackCases(), neighbourCases()) {
		for _, family := range c.families {
			name := c.name + "-" + strings.ToLower(string(family))
			t.Run(name, func(t *testing.T) {
				lost := c.play(stage{t, engine, lab.Host(t), lab.Outside(t), network, family, name})
				for _, d := range lost {
					d.settle(t)
					table = append(table, outcome{drops: d, name: name, ended: time.Now()})
				}
			})
		}
	}
	agent.Settle(t)
	metrics := agent.Scrape(t)

	for i := range table {
		table[i].observe(metrics)
	}
	logTable(t, table)
	for _, o := range table {
		if truth := o.total(table); o.counted > truth || o.counted < truth && !o.atMost {
			t.Errorf("%s: %s says %d, counted %d for container=%q scope=%q direction=%q kind=%q cause=%q reason=%v; seen:\n%s",
				o.name, o.counter, truth, o.counted, o.container, o.scope, o.direction, o.kind, o.cause, o.reasons, lines(o.seen))
		}
	}
	// The kernel frees a datagram's further fragments there: that is no drop of its own.
	if n := metrics.Sum("bridgewatch_drop_locations_total", lab.Labels{"function": "skb_release_data"}); n != 0 {
		t.Errorf("counted %d fragments of datagrams that were counted already", n)
	}
	for _, s := range unexpectedFaults(metrics, table) {
		t.Errorf("a fault that no case made: %s", lines(lab.Metrics{s}))
	}
	requireFindings(t, found, expectedFindings(table))
}

// nothing is the counter of a case that must drop nothing.
const nothing = "no drop"

// victims are the values that the label container may have, best first.
func (d drops) victims() []string {
	if d.orNobody {
		return []string{d.container, ""}
	}
	return []string{d.container}
}

// observe looks up what the agent counted.
func (o *outcome) observe(metrics lab.Metrics) {
	for _, victim := range o.victims() {
		if o.counted > 0 {
			return
		}
		for _, reason := range o.reasons {
			o.seen = append(o.seen, metrics.Select("bridgewatch_dropped_packets_total",
				lab.Labels{"container": victim, "reason": reason})...)
			exact := lab.Labels{"container": victim, "reason": reason, "scope": o.scope, "direction": o.direction,
				"kind": o.kind, "cause": o.cause}
			o.counted += metrics.Sum("bridgewatch_dropped_packets_total", exact)
		}
	}
}

// total is the truth of all rows that the agent cannot tell apart: they have no victim whose name would do it.
func (o *outcome) total(table []outcome) uint64 {
	if o.container != "" {
		return o.truth
	}
	var sum uint64
	for _, other := range table {
		if other.container == "" && other.scope == o.scope && other.direction == o.direction && other.meaning == o.meaning {
			sum += other.truth
		}
	}
	return sum
}

// unexpectedFaults returns the fault series above zero that no case expects.
func unexpectedFaults(metrics lab.Metrics, table []outcome) lab.Metrics {
	type place struct{ container, scope, direction, reason string }
	allowed := map[place]bool{}
	for _, o := range table {
		for _, victim := range o.victims() {
			for _, reason := range o.reasons {
				allowed[place{victim, o.scope, o.direction, reason}] = true // and held against the truth already
			}
		}
	}
	var unexpected lab.Metrics
	for _, s := range metrics.Select("bridgewatch_dropped_packets_total", lab.Labels{"kind": "fault"}) {
		at := place{s.Labels["container"], s.Labels["scope"], s.Labels["direction"], s.Labels["reason"]}
		ours := at.container != "" || at.scope != "unknown" // else it is of a namespace that is not this host's
		if s.Value > 0 && ours && !allowed[at] {
			unexpected = append(unexpected, s)
		}
	}
	return unexpected
}

func logTable(t *testing.T, table []outcome) {
	t.Helper()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\ttruth\tcounted\tattributed to\tscope\tkind\treason\tcause\tdevice\tdirection\ttruth from")
	for _, o := range table {
		var seen lab.Metrics
		for _, s := range o.seen {
			if s.Value > 0 {
				seen = append(seen, s)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s", o.name, o.truth, o.counted, strings.Join(seen.Values("container"), ","))
		for _, label := range []string{"scope", "kind", "reason", "cause", "device_kind", "direction"} {
			fmt.Fprintf(w, "\t%s", strings.Join(seen.Values(label), ","))
		}
		fmt.Fprintf(w, "\t%s\n", o.counter)
	}
	w.Flush()
	t.Logf("the lab's table\n%s", text.String())
}

// lines prints samples one below the other.
func lines(m lab.Metrics) string {
	var b strings.Builder
	for _, s := range m {
		fmt.Fprintf(&b, "\t%s%v %v\n", s.Name, s.Labels, s.Value)
	}
	return b.String()
}
