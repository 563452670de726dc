// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// asking is a running container on networks, as the engine tells it.
func asking(s *testStore, name string, networks ...string) enrich.LiveContainer {
	c := liveContainer(s, name, networks...)
	for _, n := range networks {
		c.Endpoints = append(c.Endpoints, enrich.Endpoint{NetworkID: "id-" + n, Network: n})
	}
	return c
}

var (
	embedded = netip.MustParseAddrPort("127.0.0.11:40000")
	google   = netip.MustParseAddrPort("8.8.8.8:53")
)

// lookupOf is one of a container's that was asked once and answered after 2 ms.
func lookupOf(container string, resolver enrich.Resolver, qtype, rcode string) enrich.Lookup {
	asked := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	server := google
	if resolver == enrich.ResolverEmbedded {
		server = embedded
	}
	answered := asked.Add(2 * time.Millisecond)
	return enrich.Lookup{
		DNSLookup: loader.DNSLookup{
			Question: loader.DNSQuestion{Name: "example.com"}, RecursionDesired: true,
			Server: server, Answered: answered, Outcome: loader.DNSAnswered,
			Tries: []loader.DNSTry{{Server: server, Asked: asked, Answer: answered}},
		},
		Identity: enrich.Identity{Container: container, Network: "web"}, Scope: enrich.ScopeContainer,
		Resolver: resolver, QType: qtype, RCode: rcode,
	}
}

// unanswered is the same with another end, after so many more tries.
func unanswered(l enrich.Lookup, outcome loader.DNSOutcome, retries int) enrich.Lookup {
	l.Outcome, l.RCode, l.Answered, l.Retries = outcome, "", time.Time{}, retries
	try := l.Tries[0]
	try.Answer, try.GaveUp = time.Time{}, outcome == loader.DNSTimedOut
	l.Tries = times(1+retries, try)
	return l
}

func TestLookups(t *testing.T) {
	s, m := newTestMetrics()
	truncated := lookupOf("alpha", enrich.ResolverDirect, "TXT", "NOERROR")
	truncated.Answer.Truncated = true
	retried := lookupOf("alpha", enrich.ResolverEmbedded, "A", "SERVFAIL")
	retried.Retries = 2
	host := lookupOf("", enrich.ResolverDirect, "A", "NOERROR")
	host.Network, host.Scope = "", enrich.ScopeHost
	alpha := enrich.Identity{Container: "alpha", Network: "web"}
	m.AddDNS(enrich.DNS{
		Lookups: append(times(1000, lookupOf("alpha", enrich.ResolverEmbedded, "A", "NOERROR")),
			lookupOf("alpha", enrich.ResolverEmbedded, "AAAA", "NXDOMAIN"), retried, truncated, host,
			unanswered(lookupOf("alpha", enrich.ResolverUpstream, "A", ""), loader.DNSTimedOut, 3),
			unanswered(lookupOf("alpha", enrich.ResolverUpstream, "A", ""), loader.DNSUnknown, 0),
			unanswered(lookupOf("alpha", enrich.ResolverMDNS, "PTR", ""), loader.DNSUnawaited, 0),
		),
		Odd: []enrich.OddMessage{{
			DNSOdd: loader.DNSOdd{Oddity: loader.DNSLate, Count: 7}, Identity: alpha, Scope: enrich.ScopeContainer, Resolver: enrich.ResolverUpstream,
		}},
		Expansions: []enrich.Expansion{{Identity: alpha, Scope: enrich.ScopeContainer, Resolver: enrich.ResolverEmbedded}},
	})
	s.wait(zeroFor)
	for f, want := range map[*Family]map[string]float64{
		dnsQueries: {
			",,alpha,web,container,embedded,A": 1001, ",,alpha,web,container,embedded,AAAA": 1, ",,alpha,web,container,direct,TXT": 1,
			",,,,host,direct,A": 1, ",,alpha,web,container,upstream,A": 2, ",,alpha,web,container,mdns,PTR": 1,
		},
		dnsResponses: {
			",,alpha,web,container,embedded,NOERROR": 1000, ",,alpha,web,container,embedded,NXDOMAIN": 1,
			",,alpha,web,container,embedded,SERVFAIL": 1, ",,alpha,web,container,direct,NOERROR": 1, ",,,,host,direct,NOERROR": 1,
		},
		dnsTimeouts:   {",,alpha,web,container,upstream": 1},
		dnsRetries:    {",,alpha,web,container,upstream": 3, ",,alpha,web,container,embedded": 2},
		dnsTruncated:  {",,alpha,web,container,direct": 1},
		dnsExpansions: {",,alpha,web,container,embedded": 1},
		dnsOdd:        {",,alpha,web,container,upstream,late": 7},
	} {
		s.wantShown(t, f, want)
	}
	s.wantObserved(t, dnsDuration, map[string]uint64{
		",,web,container,embedded": 1002, ",,web,container,direct": 1, ",,,host,direct": 1,
	})
	if h := s.histograms(dnsDuration)[",,web,container,direct"]; h.GetSampleSum() != 0.002 {
		t.Errorf("an answer took %g s, want 0.002", h.GetSampleSum())
	}
	s.wantShown(t, dnsNameLookups, map[string]float64{}) // nobody asked for it
}

// Clocks of two processors may differ. No time is less than none.
func TestAnswersBeforeTheQuestion(t *testing.T) {
	s, m := newTestMetrics()
	l := lookupOf("alpha", enrich.ResolverDirect, "A", "NOERROR")
	l.Answered = l.Asked().Add(-time.Microsecond)
	m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{l}})
	s.wait(zeroFor)
	if h := s.histograms(dnsDuration)[",,web,container,direct"]; h.GetSampleCount() != 1 || h.GetSampleSum() != 0 || h.GetZeroCount() != 1 {
		t.Errorf("it is %v", h)
	}
}

// Whatever comes, what was asked was answered or timed out, or it is not known.
func TestEveryLookupHasItsEnd(t *testing.T) {
	s, m := newTestMetrics()
	unknown := 0.0
	for i := range 2000 {
		l := lookupOf(fmt.Sprint("c", i%3), enrich.Resolvers()[i%3], fmt.Sprint("T", i%13), []string{"NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", other}[i%5])
		l.Scope = []enrich.Scope{enrich.ScopeContainer, enrich.ScopeHost}[i/7%2]
		switch i % 11 {
		case 3:
			l = unanswered(l, loader.DNSTimedOut, i%4)
		case 5:
			l = unanswered(l, loader.DNSUnknown, 0)
			unknown++
		}
		m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{l}})
	}
	s.wait(zeroFor)
	if queries, ends := s.sum(dnsQueries), s.sum(dnsResponses)+s.sum(dnsTimeouts)+unknown; queries != 2000 || queries != ends {
		t.Errorf("%g queries, %g responses, timeouts and unknown, want 2000", queries, ends)
	}
	failed := 0.0
	for values, n := range s.shown(dnsResponses) {
		if !strings.HasSuffix(values, ",NOERROR") && !strings.HasSuffix(values, ",NXDOMAIN") {
			failed += n
		}
	}
	want := 0.0
	for i := range 2000 {
		if i%5 > 1 && i%11 != 3 && i%11 != 5 {
			want++
		}
	}
	if failed != want {
		t.Errorf("%g answers fail, want %g: alerts look at them", failed, want)
	}
}

// What alerts compare is there from a container's birth, of the resolver that it will ask.
func TestLookupsAreBornAtZero(t *testing.T) {
	for _, tc := range []struct {
		name     string
		networks []string
		want     string // identity and resolver
	}{
		{"on a network of its own", []string{"web"}, ",,alpha,web,container,embedded"},
		{"on several", []string{"bridge", "web"}, ",,alpha,,container,embedded"},
		{"on the default bridge", []string{"bridge"}, ",,alpha,bridge,container,direct"},
		{"on the host's", []string{"host"}, ""},
		{"on none", []string{"none"}, ""},
		{"in another's namespace", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, m := newTestMetrics()
			m.SetInventory(inventoryOf(asking(s, "alpha", tc.networks...)))
			queries, responses, timeouts := map[string]float64{}, map[string]float64{}, map[string]float64{}
			if tc.want != "" {
				queries[tc.want+",A"], queries[tc.want+",AAAA"] = 0, 0
				responses[tc.want+",NOERROR"], responses[tc.want+",SERVFAIL"], timeouts[tc.want] = 0, 0, 0
			}
			s.wantShown(t, dnsResponses, responses)
			s.wantShown(t, dnsTimeouts, timeouts)
			s.wantShown(t, dnsQueries, queries)
			s.wantObserved(t, dnsDuration, map[string]uint64{})
		})
	}
}

// A Swarm task's overlay has no device that is watched, and yet its resolver is the engine's.
func TestLookupsOfTasksAreBornAtZero(t *testing.T) {
	s, m := newTestMetrics()
	published, inner := asking(s, "published", "ingress", "overlay"), asking(s, "inner", "overlay")
	published.Networks, inner.Networks = nil, nil
	m.SetInventory(inventoryOf(published, inner))
	s.wantShown(t, dnsTimeouts, map[string]float64{",,published,,container,embedded": 0, ",,inner,overlay,container,embedded": 0})
}

// What alerts look at is what lookups are told to come to.
func TestCodes(t *testing.T) {
	for _, code := range []string{codeSuccess, codeNoName, codeServerFailure, codeRefused, other} {
		if !slices.Contains(enrich.RCodes(), code) {
			t.Errorf("%s is no code of an answer", code)
		}
	}
	for _, code := range []string{codeTimeout, codeNone} {
		if slices.Contains(enrich.RCodes(), code) {
			t.Errorf("%s is a code of an answer", code)
		}
	}
	if !slices.Contains(enrich.QTypes(), other) {
		t.Errorf("%s is no type of a question", other)
	}
}

var oddities = []loader.DNSOddity{
	loader.DNSMalformedQuery, loader.DNSMalformedResponse, loader.DNSLate, loader.DNSUnasked, loader.DNSOtherQuestion,
}

// However it asks, a container has so many series at most, nothing goes uncounted, and failures stay failures.
func TestLookupSeriesPerContainer(t *testing.T) {
	const (
		legs   = 4        // embedded, upstream in the container's namespace and in the host's, direct
		groups = 2        // which nobody has to answer
		rest   = 4*legs + // responses
			4*legs + // timeouts, retries, truncated, expansions
			2*(legs+groups) // queries, odd messages
	)
	s, m := newTestMetrics()
	c := asking(s, "alpha", "web")
	m.SetInventory(inventoryOf(c, asking(s, "beta", "web")))
	before := perContainer(s)["alpha"]
	var dns enrich.DNS
	for _, resolver := range enrich.Resolvers() {
		scopes := []enrich.Scope{enrich.ScopeContainer}
		if resolver == enrich.ResolverUpstream {
			scopes = append(scopes, enrich.ScopeHost)
		}
		for _, scope := range scopes {
			identity := enrich.Identity{Container: "alpha", Network: "web"}
			for _, qtype := range enrich.QTypes() {
				for _, rcode := range enrich.RCodes() {
					l := lookupOf("alpha", resolver, qtype, rcode)
					l.Scope, l.Retries, l.Answer.Truncated = scope, 1, true
					if resolver == enrich.ResolverMDNS || resolver == enrich.ResolverLLMNR {
						l = unanswered(l, loader.DNSUnawaited, 0)
						dns.Lookups = append(dns.Lookups, l)
						continue
					}
					dns.Lookups = append(dns.Lookups, l, unanswered(l, loader.DNSTimedOut, 1))
					dns.Expansions = append(dns.Expansions, enrich.Expansion{Identity: identity, Scope: scope, Resolver: resolver})
				}
			}
			for _, oddity := range oddities {
				dns.Odd = append(dns.Odd, enrich.OddMessage{
					DNSOdd:   loader.DNSOdd{Oddity: oddity, Count: 1},
					Identity: identity, Scope: scope, Resolver: resolver,
				})
			}
		}
	}
	m.AddDNS(dns)
	m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{lookupOf("beta", enrich.ResolverEmbedded, "A", "REFUSED")}})
	s.wait(zeroFor)

	const bornWith = 5
	if n := perContainer(s)["alpha"] - before + bornWith; n > maxLookupSeries+rest {
		t.Errorf("%d series of lookups, want at most %d", n, maxLookupSeries+rest)
	}
	if got, want := s.sum(dnsQueries), float64(len(dns.Lookups)+1); got != want {
		t.Errorf("queries sum up to %g, want %g", got, want)
	}
	qtypes := float64(len(enrich.QTypes()))
	answered := legs * qtypes * float64(len(enrich.RCodes()))
	for f, want := range map[*Family]float64{
		dnsResponses: answered + 1, dnsTimeouts: answered, dnsRetries: 2 * answered, dnsTruncated: answered, dnsExpansions: answered, dnsOdd: 5 * (legs + groups),
	} {
		if got := s.sum(f); got != want {
			t.Errorf("%s sums up to %g, want %g", f.Name, got, want)
		}
	}
	byCode := make(map[string]float64)
	for values, n := range s.shown(dnsResponses) {
		if strings.HasPrefix(values, ",,alpha,") {
			byCode[values[strings.LastIndex(values, ",")+1:]] += n
		}
	}
	for _, code := range []string{"NOERROR", "NXDOMAIN", "SERVFAIL"} {
		if byCode[code] != legs*qtypes {
			t.Errorf("%g answers are %s, want %g", byCode[code], code, legs*qtypes)
		}
	}
	for _, f := range []*Family{dnsQueries, dnsResponses, dnsOdd} {
		if s.shown(seriesOverflow)[f.Name] == 0 {
			t.Errorf("overflow of %s is 0", f.Name)
		}
	}
	if got := s.shown(dnsResponses)[",,beta,web,container,embedded,REFUSED"]; got != 1 {
		t.Errorf("beta's answer shows %g, want 1: another container's budget is not its own", got)
	}
}

// All that a container on a network of its own meets is told apart: both legs, with all that goes wrong there of late.
func TestLookupsOfAContainerInTrouble(t *testing.T) {
	s, m := newTestMetrics()
	m.SetInventory(inventoryOf(asking(s, "alpha", "web")))
	for _, resolver := range []enrich.Resolver{enrich.ResolverEmbedded, enrich.ResolverUpstream} {
		for _, rcode := range []string{"NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED"} {
			for _, qtype := range []string{"A", "AAAA", "SRV"} {
				l := lookupOf("alpha", resolver, qtype, rcode)
				l.Answer.Truncated = true
				m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{l, unanswered(l, loader.DNSTimedOut, 1)}})
			}
		}
		m.AddDNS(enrich.DNS{Odd: []enrich.OddMessage{{
			DNSOdd:   loader.DNSOdd{Oddity: loader.DNSLate, Count: 1},
			Identity: enrich.Identity{Container: "alpha", Network: "web"}, Scope: enrich.ScopeContainer, Resolver: resolver,
		}}})
	}
	for metric, n := range s.shown(seriesOverflow) {
		if n != 0 {
			t.Errorf("overflow of %s is %g", metric, n)
		}
	}
}

// Containers of one identity come and go on ever new networks. Series of those that are gone make room for others, and what is
// foreseen is no update.
func TestLookupsOnPassingNetworks(t *testing.T) {
	s, m := newTestMetrics()
	most := 0
	for i := range 200 {
		network := fmt.Sprint("job-", i)
		m.SetInventory(inventoryOf(asking(s, "~adhoc", network)))
		l := lookupOf("~adhoc", enrich.ResolverEmbedded, "A", "NOERROR")
		l.Network = network
		m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{l}})
		s.wait(30 * time.Second)
		most = max(most, len(s.shown(dnsResponses)))
	}
	if most > maxLookupSeries+2 {
		t.Errorf("%d series of responses, want at most %d", most, maxLookupSeries+2)
	}
	if n := len(s.histograms(dnsDuration)); n > 22 {
		t.Errorf("%d histograms are left of networks that are gone", n)
	}
	s.wait(10 * time.Minute)
	overflow := s.sum(seriesOverflow)
	for range 5 {
		m.SetInventory(inventoryOf())
	}
	if len(m.lookups) != 0 || s.sum(seriesOverflow) != overflow {
		t.Errorf("budgets of %d are kept, %g updates found none", len(m.lookups), s.sum(seriesOverflow)-overflow)
	}
}

func TestUpstreamServers(t *testing.T) {
	s, m := newTestMetrics()
	second := netip.MustParseAddrPort("[2001:4860:4860::8888]:53")
	refused := lookupOf("alpha", enrich.ResolverDirect, "A", "REFUSED")
	both := lookupOf("alpha", enrich.ResolverUpstream, "A", "SERVFAIL") // the first was silent
	both.Server, both.Retries = second, 1
	both.Tries = []loader.DNSTry{
		{Server: google, Asked: both.Asked(), GaveUp: true}, {Server: second, Asked: both.Asked(), Answer: both.Answered},
	}
	late := both // and answered after all, well or not
	late.Tries = []loader.DNSTry{{Server: google, Asked: both.Asked(), Answer: both.Answered, GaveUp: true}, both.Tries[1]}
	parallel := lookupOf("alpha", enrich.ResolverUpstream, "A", "NOERROR") // the other was asked at the same time
	parallel.Tries = append(parallel.Tries, loader.DNSTry{Server: second, Asked: parallel.Asked()})
	many := unanswered(lookupOf("alpha", enrich.ResolverDirect, "A", ""), loader.DNSTimedOut, 15)
	many.Messages = 20                                               // of which 16 are known one by one
	elsewhere := lookupOf("", enrich.ResolverDirect, "A", "NOERROR") // in a namespace that nobody knows
	elsewhere.Scope = enrich.ScopeUnknown
	iterative := unanswered(lookupOf("alpha", enrich.ResolverDirect, "A", ""), loader.DNSTimedOut, 0) // a resolver's, on its way from the root
	iterative.RecursionDesired = false
	all := enrich.DNS{Lookups: []enrich.Lookup{
		refused, both, late, parallel, many, elsewhere, iterative,
		lookupOf("alpha", enrich.ResolverEmbedded, "A", "SERVFAIL"),
		lookupOf("alpha", enrich.ResolverDirect, "A", "NXDOMAIN"),
		unanswered(lookupOf("alpha", enrich.ResolverDirect, "A", ""), loader.DNSTimedOut, 2),
		unanswered(lookupOf("alpha", enrich.ResolverMDNS, "A", ""), loader.DNSUnawaited, 0),
	}}
	m.AddDNS(all)
	s.wantShown(t, dnsUpstreamFailures, map[string]float64{"8.8.8.8": 0, "2001:4860:4860::8888": 0})
	s.wait(zeroFor)
	for f, want := range map[*Family]map[string]float64{
		dnsUpstreamQueries:   {"8.8.8.8": 28, "2001:4860:4860::8888": 3},
		dnsUpstreamResponses: {"8.8.8.8": 4, "2001:4860:4860::8888": 2},
		dnsUpstreamTimeouts:  {"8.8.8.8": 24, "2001:4860:4860::8888": 0},
		dnsUpstreamFailures:  {"8.8.8.8": 1, "2001:4860:4860::8888": 2},
	} {
		s.wantShown(t, f, want)
	}
}

// The first eight are told apart, and when one is asked no more there is room for another.
func TestManyUpstreamServers(t *testing.T) {
	s, m := newTestMetrics()
	ask := func(last byte) {
		l := lookupOf("alpha", enrich.ResolverDirect, "A", "NOERROR")
		l.Server = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 53)
		l.Tries[0].Server = l.Server
		m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{l}})
	}
	for range 3 {
		for last := range byte(20) {
			ask(last)
		}
	}
	s.wait(zeroFor)
	shown := s.shown(dnsUpstreamQueries)
	if len(shown) != maxUpstreamServers+1 || shown["192.0.2.7"] != 3 || shown[Other] != 3*12 {
		t.Errorf("%v", shown)
	}
	if got := s.sum(seriesOverflow); got != 0 {
		t.Errorf("overflow is %g: an alert looks at it", got)
	}
	for range 10 {
		s.wait(time.Minute)
		for last := range byte(maxUpstreamServers - 1) {
			ask(last)
		}
		ask(50)
		m.SetInventory(inventoryOf())
	}
	ask(99)
	s.wait(zeroFor)
	for f, want := range map[*Family]float64{dnsUpstreamQueries: 1, dnsUpstreamResponses: 1, dnsUpstreamTimeouts: 0, dnsUpstreamFailures: 0} {
		shown := s.shown(f)
		if got, told := shown["192.0.2.99"]; !told || got != want || len(shown) != maxUpstreamServers+1 {
			t.Errorf("%s is %v, want eight and the rest, and %g of 192.0.2.99", f.Name, shown, want)
		}
	}
}

// Servers that somebody is configured to ask have a place before others, which a program asks as it likes.
func TestConfiguredServers(t *testing.T) {
	s, m := newTestMetrics()
	ask := func(servers ...string) {
		for _, server := range servers {
			l := unanswered(lookupOf("alpha", enrich.ResolverDirect, "A", ""), loader.DNSTimedOut, 0)
			l.Tries[0].Server = netip.AddrPortFrom(netip.MustParseAddr(server), 53)
			l.Server = l.Tries[0].Server
			m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{l}})
		}
		s.wait(time.Second)
	}
	told := func() []string {
		s.wait(zeroFor)
		var told []string
		for _, f := range upstreamFamilies() {
			shown := slices.Sorted(maps.Keys(s.shown(f)))
			if f != dnsUpstreamQueries && !slices.Equal(shown, told) {
				t.Errorf("%s has %v, others %v", f.Name, shown, told)
			}
			told = shown
		}
		return told
	}
	others := func(from, to int) (servers []string) {
		for i := from; i <= to; i++ {
			servers = append(servers, fmt.Sprint("198.51.100.", i))
		}
		return servers
	}
	address := netip.MustParseAddr
	alpha, beta, gamma := asking(s, "alpha", "web"), asking(s, "beta", "web"), asking(s, "gamma", "web")
	alpha.ResolvConf = &loader.ResolvConf{
		Servers:   []netip.Addr{embedded.Addr()},
		Upstreams: []loader.Upstream{{Address: address("192.0.2.2"), FromHost: true}},
	}
	beta.DNSServers = []netip.Addr{address("::ffff:192.0.2.3")}
	inventory := inventoryOf(alpha, beta)
	inventory.ResolvConf = &loader.ResolvConf{Servers: []netip.Addr{address("192.0.2.1")}}
	m.SetInventory(inventory)
	if got := slices.Sorted(maps.Keys(m.servers)); !slices.Equal(got, []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}) {
		t.Errorf("configured are %v; the engine's resolver is none outside of it", got)
	}
	ask(others(1, 9)...)
	if want := append(others(1, 8), Other); !slices.Equal(told(), want) {
		t.Errorf("while no other is asked: %v, want %v", told(), want)
	}
	count := s.count
	ask("198.51.100.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.2") // of the others the first was asked the latest
	want := append([]string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1"}, append(others(5, 8), Other)...)
	if !slices.Equal(told(), want) || s.count != count {
		t.Errorf("after configured ones were asked: %v, want %v; %d series, were %d", told(), want, s.count, count)
	}
	if got := s.shown(dnsUpstreamTimeouts); got["192.0.2.3"] != 1 || got[Other] != 2 {
		t.Errorf("%v", got)
	}

	// Of very many the host's come first, then those of most containers. What one container writes to its file is bounded.
	gamma.ResolvConf = &loader.ResolvConf{}
	for i := range 100 {
		gamma.ResolvConf.Servers = append(gamma.ResolvConf.Servers, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	var many []enrich.LiveContainer
	for i := range 20 {
		c := asking(s, fmt.Sprint("c", i), "web")
		c.DNSServers = []netip.Addr{address(fmt.Sprint("192.0.2.", 100+i/3))}
		many = append(many, c)
	}
	inventory.Containers = append(many, gamma, beta)
	m.SetInventory(inventory)
	got := slices.Sorted(maps.Keys(m.servers))
	want = []string{"192.0.2.1", "192.0.2.100", "192.0.2.101", "192.0.2.102", "192.0.2.103", "192.0.2.104", "192.0.2.105", "192.0.2.106"}
	if !slices.Equal(got, want) {
		t.Errorf("configured are %v, want %v", got, want)
	}
	inventory.Containers = []enrich.LiveContainer{gamma}
	m.SetInventory(inventory)
	if got := slices.Sorted(maps.Keys(m.servers)); !slices.Equal(got, []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "192.0.2.1"}) {
		t.Errorf("configured are %v, want three of a container's", got)
	}
}

// BenchmarkAddDNS is what metrics take for each lookup: of one reading with few containers or with many, and with names.
func BenchmarkAddDNS(b *testing.B) {
	const lookups = 10000
	for _, containers := range []int{10, 1000} {
		for _, names := range []string{"off", "top:100", "hash"} {
			b.Run(fmt.Sprintf("containers=%d/names=%s", containers, names), func(b *testing.B) {
				s, m := newTestMetrics()
				chosen, err := ParseDNSNames(names)
				if err != nil {
					b.Fatal(err)
				}
				m.SetDNSNames(chosen)
				var dns enrich.DNS
				for i := range lookups {
					l := lookupOf(fmt.Sprint("web.", i%containers), enrich.Resolvers()[i%2], []string{"A", "AAAA"}[i/2%2], "NOERROR")
					l.Stack, l.Service = fmt.Sprint("stack", i%containers/10), "web"
					l.Question.Name = fmt.Sprint("name", i%5000)
					dns.Lookups = append(dns.Lookups, l)
				}
				b.ReportAllocs()
				for b.Loop() {
					m.AddDNS(dns)
					s.wait(time.Second)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lookups, "ns/lookup")
			})
		}
	}
}
