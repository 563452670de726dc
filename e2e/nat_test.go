// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// many is how many connections a case opens in each of its ways.
const many = 1000

// natCase opens connections that something translates, or that something carries in its stead.
type natCase struct {
	name     string
	families []lab.Family
	play     func(s natStage)
}

// natStage is a stage with a published port, and the books in which a case writes down what must have been counted.
type natStage struct {
	stage
	families  []lab.Family
	protocol  string // of the way that is being played: see each
	published uint16 // for the first of the families; the next one is for the other
	agent     *lab.Agent
	books     books
}

// each plays in all ways: by TCP and by UDP, with each of the case's families. What a way makes ends with it.
func (s natStage) each(play func(s natStage)) {
	s.eachFamily(func(s natStage) {
		for _, s.protocol = range []string{"tcp", "udp"} {
			s.TB.(*testing.T).Run(s.protocol, func(t *testing.T) {
				s := s
				s.TB = t
				play(s)
			})
		}
	})
}

func (s natStage) eachFamily(play func(s natStage)) {
	for _, s.family = range s.families {
		s.TB.(*testing.T).Run(strings.ToLower(string(s.family)), func(t *testing.T) {
			s := s
			s.TB = t
			play(s)
		})
	}
}

// own makes a network for one case, and the stage on it.
func (s natStage) own(subnet string, options ...string) natStage {
	s.stage = s.stage.own(subnet, options...)
	return s
}

// seriesOf says what a series counts; labels that a metric does not have are empty.
type seriesOf struct {
	metric, service, container, scope, protocol string
	kind                                        string
	port, client, sourceAddress, mechanism      string
}

// The metrics that the books are held against.
const (
	translations = "bridgewatch_nat_translations_total"
	attempts     = "bridgewatch_published_attempts_total"
	connections  = "bridgewatch_published_connections_total"
)

// books hold how many connections each series must have counted, by the name of the case that opened them.
type books struct {
	counts map[seriesOf]map[string]uint64
	opened map[string]bool // see isNew
}

func newBooks() books { return books{map[seriesOf]map[string]uint64{}, map[string]bool{}} }

// isNew tells whether nobody had a connection between these two before. By UDP it would be the same one.
func (b books) isNew(protocol string, from, to netip.AddrPort) bool {
	key := fmt.Sprint(protocol, from, to)
	known := b.opened[key]
	b.opened[key] = true
	return protocol == "tcp" || !known
}

func (b books) add(of seriesOf, by string, n int) {
	if n == 0 {
		return
	}
	if b.counts[of] == nil {
		b.counts[of] = map[string]uint64{}
	}
	b.counts[of][by] += uint64(n)
}

// truth is what all cases opened together.
func (b books) truth(of seriesOf) (sum uint64) {
	for _, n := range b.counts[of] {
		sum += n
	}
	return sum
}

// translated writes down translations of a container's connections, or of the host's own if it is nil.
func (s natStage) translated(c *lab.Container, scope string, kind enrich.NATKind, protocol string, n int) {
	of := seriesOf{metric: translations, scope: scope, kind: string(kind), protocol: protocol}
	if c != nil {
		of.container = c.Name
	}
	s.books.add(of, s.name, n)
}

// counted is the agent's side of the books.
func counted(metrics lab.Metrics) map[seriesOf]uint64 {
	all := map[seriesOf]uint64{}
	for _, name := range []string{translations, attempts, connections} {
		for _, sample := range metrics.Select(name, nil) {
			if sample.Value == 0 || sample.Labels["scope"] == "unknown" { // unknown: the other labs'
				continue
			}
			all[seriesOf{
				metric: name, service: sample.Labels["service"], container: sample.Labels["container"], scope: sample.Labels["scope"], protocol: sample.Labels["protocol"],
				kind: sample.Labels["kind"],
				port: sample.Labels["published_port"], client: sample.Labels["client"],
				sourceAddress: sample.Labels["source_address"], mechanism: sample.Labels["mechanism"],
			}] += uint64(sample.Value)
		}
	}
	return all
}

// audit holds the agent's counts against the books: every series that is there, and none that is not. Some come late: those
// of which the agent waits to hear whose they are, and each shows its first zero for some time.
func (b books) audit(t *testing.T, agent *lab.Agent) {
	t.Helper()
	var got map[seriesOf]uint64
	for end := time.Now().Add(3 * shown); time.Now().Before(end) && !b.balance(got); time.Sleep(time.Second) {
		got = counted(agent.Scrape(t))
	}
	agent.Settle(t) // nothing may come after that
	got = counted(agent.Scrape(t))
	lines := map[seriesOf]bool{}
	for of := range b.counts {
		lines[of] = true
	}
	for of := range got {
		lines[of] = true
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	wrong := 0
	fmt.Fprintln(w, "\tcase\ttruth\tcounted\tmetric\tservice\tcontainer\tscope\tprotocol\tkind\tport\tclient\tsource address\tmechanism")
	for _, of := range slices.SortedFunc(maps.Keys(lines), compareBooked) {
		by := strings.Join(slices.Sorted(maps.Keys(b.counts[of])), ",")
		name := strings.TrimSuffix(strings.TrimPrefix(of.metric, "bridgewatch_"), "_total")
		mark := ""
		if got[of] != b.truth(of) {
			mark = "WRONG"
			wrong++
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, cmp.Or(by, "none"), b.truth(of), got[of],
			name, of.service, of.container, of.scope, of.protocol, of.kind, of.port, of.client, of.sourceAddress, of.mechanism)
	}
	w.Flush()
	t.Logf("the lab's table\n%s", text.String())
	if wrong > 0 {
		t.Errorf("%d lines of the table are wrong", wrong)
	}
}

// balance tells whether the agent counted what the cases opened, and nothing else.
func (b books) balance(got map[seriesOf]uint64) bool {
	for of := range b.counts {
		if got[of] != b.truth(of) {
			return false
		}
	}
	return len(got) == len(b.counts)
}

func compareBooked(a, b seriesOf) int {
	words := func(of seriesOf) []string {
		return []string{of.service, of.container, of.metric, of.port, of.protocol, of.kind, of.client, of.sourceAddress, of.mechanism, of.scope}
	}
	return slices.Compare(words(a), words(b))
}

// TestNAT plays cases under one agent, and then asks it once. The agent starts when there are connections already.
func TestNAT(t *testing.T) {
	engine := lab.StartEngine(t, "--experimental", "--ip6tables")
	at := stage{t, engine, lab.Host(t), lab.Outside(t), newNetwork(t, engine, "nat"), lab.IPv4, ""}
	old := openBefore(at)
	playNAT(at, slices.Concat(egressCases(), publishedCases(), hostCases()))
	old.requireOpen()
}

// TestNATWithoutProxy plays those cases in which Docker's rules have to do what its proxy does elsewhere.
func TestNATWithoutProxy(t *testing.T) {
	engine := lab.StartEngine(t, "--experimental", "--ip6tables", "--userland-proxy=false")
	playNAT(stage{t, engine, lab.Host(t), lab.Outside(t), newNetwork(t, engine, "nat"), lab.IPv4, ""}, withoutProxyCases())
}

func playNAT(at stage, cases []natCase) {
	t := at.TB.(*testing.T)
	agent := lab.StartAgent(t, at.engine)
	b := newBooks()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := natStage{stage: at, families: c.families, published: uint16(8100 + 10*i), agent: agent, books: b}
			s.TB, s.name, s.family = t, c.name, c.families[0]
			c.play(s)
		})
	}
	b.audit(t, agent)
}

// publish returns the options of `docker run` that publish the case's ports.
func (s natStage) publish() []string {
	var options []string
	for i := range s.families {
		for _, protocol := range []string{"tcp", "udp"} {
			options = append(options, "--publish", fmt.Sprintf("%d:%d/%s", int(s.published)+i, port, protocol))
		}
	}
	return options
}
