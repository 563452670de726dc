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

// dnsCase makes lookups. play begins to, and returns what waits for their end and writes down what must have been counted, so
// that those who wait in vain wait together.
type dnsCase struct {
	name string
	play func(s dnsStage) (finish func())
}

// dnsStage is a stage with the server that the world's names are asked of, and the books.
type dnsStage struct {
	stage
	server *lab.DNSServer
	books  dnsBooks
	tells  bool // the engine says SERVFAIL when no server has answered it. 20.10 says nothing, however long its client waits
}

// Where the servers are. A container that is not told otherwise has the engine ask the host's.
var (
	worldServer  = netip.MustParseAddr("198.51.100.53") // no other lab's
	worldServer6 = netip.MustParseAddr("2001:db8:2::53")
	hostServer   = netip.MustParseAddr("127.0.0.53")
	noServer     = netip.MustParseAddr("192.0.2.1") // outside of the host, where nobody listens

	embeddedServer = netip.MustParseAddr("127.0.0.11")
)

// dnsSeries says what a series counts.
type dnsSeries struct{ metric, container, resolver, kind string }

// The metrics that the books are held against, and the label that says of what kind.
const (
	dnsQueries   = "queries"
	dnsResponses = "responses"
	dnsTimeouts  = "timeouts"
	dnsRetries   = "retries"
	dnsTruncated = "truncated"
	dnsOdd       = "odd_messages"

	dnsExpansions = "search_expansions"
)

func dnsKind(metric string) string {
	return map[string]string{dnsQueries: "qtype", dnsResponses: "rcode", dnsOdd: "oddity"}[metric]
}

// dnsBooks hold how much each series must have counted, by the name of the case.
type dnsBooks map[dnsSeries]map[string]int

func (b dnsBooks) truth(of dnsSeries) (sum int) {
	for _, n := range b[of] {
		sum += n
	}
	return sum
}

// add writes down what a container must have been counted for.
func (s dnsStage) add(c *lab.Container, resolver enrich.Resolver, metric, kind string, n int) {
	of := dnsSeries{metric, c.Name, string(resolver), kind}
	if n == 0 {
		return
	}
	if s.books[of] == nil {
		s.books[of] = map[string]int{}
	}
	s.books[of][s.name] += n
}

// dnsCounted is the agent's side of the books.
func dnsCounted(metrics lab.Metrics) map[dnsSeries]int {
	all := map[dnsSeries]int{}
	for _, metric := range []string{dnsQueries, dnsResponses, dnsTimeouts, dnsRetries, dnsTruncated, dnsOdd, dnsExpansions} {
		for _, sample := range metrics.Select("bridgewatch_dns_"+metric+"_total", nil) {
			of := sample.Labels
			if sample.Value == 0 || of["scope"] == "unknown" || of["container"] == "flood-loner" { // unknown: the other labs', and the machine's
				continue
			}
			all[dnsSeries{metric, of["container"], of["resolver"], of[dnsKind(metric)]}] += int(sample.Value)
		}
	}
	return all
}

// audit holds the agent's counts against the books: every series that is there, and none that is not. What nobody answers is
// told late.
func (b dnsBooks) audit(t *testing.T, agent *lab.Agent) {
	t.Helper()
	got := dnsCounted(agent.Scrape(t))
	for end := time.Now().Add(2 * shown); time.Now().Before(end) && !b.balance(got); time.Sleep(time.Second) {
		got = dnsCounted(agent.Scrape(t))
	}
	lines := map[dnsSeries]bool{}
	for of := range b {
		lines[of] = true
	}
	for of := range got {
		lines[of] = true
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	wrong := 0
	fmt.Fprintln(w, "\tcase\ttruth\tcounted\tmetric\tcontainer\tresolver\tkind")
	for _, of := range slices.SortedFunc(maps.Keys(lines), compareDNSSeries) {
		mark := ""
		if got[of] != b.truth(of) {
			mark = "WRONG"
			wrong++
		}
		by := strings.Join(slices.Sorted(maps.Keys(b[of])), ",")
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", mark, by, b.truth(of), got[of], of.metric, of.container, of.resolver, of.kind)
	}
	w.Flush()
	t.Logf("the lab's table\n%s", text.String())
	if wrong > 0 {
		t.Errorf("%d lines of the table are wrong", wrong)
	}
}

func (b dnsBooks) balance(got map[dnsSeries]int) bool {
	for of := range b {
		if got[of] != b.truth(of) {
			return false
		}
	}
	return len(got) == len(b)
}

func compareDNSSeries(a, b dnsSeries) int {
	return cmp.Or(
		cmp.Compare(a.container, b.container), cmp.Compare(a.resolver, b.resolver), cmp.Compare(a.metric, b.metric), cmp.Compare(a.kind, b.kind))
}

// dnsTimeout is after how long a lookup is over for the agent, also if its client goes on waiting.
const dnsTimeout = 5 * time.Second

// asked books what a client says of its lookups: whom it asked, how often, and what came back.
func (s dnsStage) asked(c *lab.Container, resolver enrich.Resolver, r lab.Report) {
	s.Helper()
	s.add(c, resolver, dnsOdd, "unasked", r.Strays)
	for _, l := range r.Lookups {
		s.add(c, resolver, dnsQueries, qtypeLabel(l.Type), 1)
		s.add(c, resolver, dnsRetries, "", l.Tries-1)
		switch {
		case l.Answered && l.Duration() > dnsTimeout:
			s.add(c, resolver, dnsTimeouts, "", 1)
			s.add(c, resolver, dnsOdd, "late", 1)
		case l.Answered:
			s.add(c, resolver, dnsResponses, l.RCode, 1)
		default:
			s.add(c, resolver, dnsTimeouts, "", 1)
		}
		if l.Truncated {
			s.add(c, resolver, dnsTruncated, "", 1)
		}
		switch l.Error {
		case "malformed":
			s.add(c, resolver, dnsOdd, "malformed_response", 1)
		case "other question":
			s.add(c, resolver, dnsOdd, "other_question", 1)
		}
	}
}

// forwarded books what the engine asked a server for a container.
func (s dnsStage) forwarded(c *lab.Container, server *lab.DNSServer) {
	s.Helper()
	s.logged(c, enrich.ResolverUpstream, server, time.Time{})
}

// engineWaits is for how long the engine waits for a server, and then, if it says so, tells its client. Clients wait for half as
// long or for longer before they ask again of themselves, so that what the two clocks and the machine add does not matter.
const (
	engineWaits = 4 * time.Second
	clocksApart = engineWaits / 10
)

// inVain parts the messages of a question that no server answers into lookups. An engine that tells ends the first 4 s after its
// first message: what the client asks after that is another, and so is what the engine then asks for it.
func (s dnsStage) inVain(messages []time.Time) (lookups [][]time.Time) {
	for _, at := range messages {
		n := len(lookups)
		if n == 0 || s.tells && toldBy(lookups[n-1], at) {
			lookups = append(lookups, []time.Time{at})
			continue
		}
		lookups[n-1] = append(lookups[n-1], at)
	}
	return lookups
}

// toldBy tells whether the engine has given a lookup of those messages up until then.
func toldBy(messages []time.Time, then time.Time) bool {
	return then.Sub(messages[0]) >= engineWaits-clocksApart
}

// lost books lookups that no server answers. A client hears so from an engine that tells, if it waits for that until the end.
func (s dnsStage) lost(c *lab.Container, resolver enrich.Resolver, lookups [][]time.Time, end time.Time) {
	for _, messages := range lookups {
		if resolver == enrich.ResolverEmbedded && s.tells && toldBy(messages, end) {
			s.add(c, resolver, dnsResponses, "SERVFAIL", 1)
			continue
		}
		s.add(c, resolver, dnsTimeouts, "", 1)
	}
}

// logged books what a server's log has of the case's names. A name is looked up once for each type and protocol, and again if
// its client does not like the answer. The client of one that is not answered gives it up at the end.
func (s dnsStage) logged(c *lab.Container, resolver enrich.Resolver, server *lab.DNSServer, end time.Time) {
	s.Helper()
	type question struct{ name, qtype, protocol string }
	messages := map[question][]time.Time{}
	for _, m := range server.Asked(s) {
		if strings.Contains(m.Name, s.domain()) {
			q := question{m.Name, m.Type, m.Protocol}
			messages[q] = append(messages[q], m.Time)
		}
	}
	if len(messages) == 0 {
		s.Errorf("%s: nothing for %s has come to the server", s.name, s.domain())
	}
	for q, came := range messages {
		behaviour, _, _ := strings.Cut(q.name, ".")
		behaviour, _, _ = strings.Cut(behaviour, "-")
		n := len(came)
		lookups := n
		switch {
		case behaviour == "never", behaviour == "late": // by then, the engine's socket is closed
			vain := s.inVain(came)
			lookups = len(vain)
			s.lost(c, resolver, vain, end)
		case oddOf(behaviour) != "":
			lookups = 1
			s.add(c, resolver, dnsOdd, oddOf(behaviour), n)
			s.add(c, resolver, dnsTimeouts, "", 1)
		case behaviour == "second":
			lookups = 1
			s.add(c, resolver, dnsResponses, "NOERROR", 1)
		default:
			s.add(c, resolver, dnsResponses, rcodeOf(behaviour, q.name), n)
		}
		if behaviour == "big" && q.protocol == "udp" {
			s.add(c, resolver, dnsTruncated, "", n)
		}
		s.add(c, resolver, dnsQueries, qtypeLabel(q.qtype), lookups)
		s.add(c, resolver, dnsRetries, "", n-lookups)
	}
}

// oddOf is what a server sends that is no answer, if it behaves so.
func oddOf(behaviour string) string {
	return map[string]string{"wrongid": "unasked", "garbage": "malformed_response", "other": "other_question"}[behaviour]
}

// rcodeOf is what a server says that behaves so.
func rcodeOf(behaviour, name string) string {
	if behaviour == "bare" && strings.HasSuffix(name, ".search") {
		return "NXDOMAIN"
	}
	return cmp.Or(map[string]string{"nx": "NXDOMAIN", "servfail": "SERVFAIL", "refused": "REFUSED"}[behaviour], "NOERROR")
}

// domain is what the case's names end with, but for what a search list puts behind them.
func (s dnsStage) domain() string { return "." + s.name + ".test" }

// qtypeLabel is how metrics name a type.
func qtypeLabel(qtype string) string {
	if slices.Contains([]string{"A", "AAAA", "PTR", "SRV", "MX", "TXT", "CNAME", "NS", "SOA", "HTTPS", "SVCB", "ANY"}, qtype) {
		return qtype
	}
	return "other"
}

// TestDNS plays all cases under one agent, and then asks it once.
func TestDNS(t *testing.T) {
	lab.NameServer(t, hostServer)
	engine := lab.StartEngine(t)
	outside, host := lab.Outside(t), lab.Host(t)
	for _, addr := range []netip.Addr{worldServer, worldServer6} {
		outside.Run(t, "ip", "address", "add", addr.String(), "dev", "lo")
	}
	s := dnsStage{
		stage:  stage{t, engine, host, outside, newNetwork(t, engine, "dns"), lab.IPv4, ""},
		server: outside.ServeDNS(t, []netip.Addr{worldServer, worldServer6}), books: dnsBooks{}, tells: engine.Major(t) > 20,
	}
	agent := lab.StartAgent(t, engine)

	var finish []func()
	for _, c := range dnsCases() {
		s := s
		s.name = c.name
		finish = append(finish, c.play(s))
	}
	for _, f := range finish {
		f()
	}
	s.requireInferred(agent)
	s.shortLives(agent)
	s.latencies(agent)
	s.requireServers(agent)
	auditFlood := s.flood(agent)
	s.books.audit(t, agent)
	auditFlood()
	for _, sample := range agent.Scrape(t).Select("bridgewatch_lost_records_total", lab.Labels{"signal": "dns"}) {
		t.Logf("lost at %s: %g", sample.Labels["place"], sample.Value)
	}
}
