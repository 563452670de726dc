// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// lookup is one of the web server's that began at a second, over UDP, and is answered at once.
func lookup(resolver enrich.Resolver, server string, second int) enrich.Lookup {
	l := enrich.Lookup{
		Identity: webOn("front", "", "").Identity, Scope: enrich.ScopeContainer, ContainerID: webID, Resolver: resolver, RCode: "NOERROR", QType: "A",
	}
	l.Serial, l.Protocol, l.RecursionDesired = uint64(second)+1, unix.IPPROTO_UDP, true
	l.Question = loader.DNSQuestion{Name: "example.com", Type: 1, Class: 1}
	l.Server = netip.AddrPortFrom(addr(server), 53)
	l.Answered = at(second).Add(time.Millisecond)
	l.Tries = []loader.DNSTry{{Server: l.Server, Asked: at(second), Answer: l.Answered}}
	return l
}

// unansweredAt is a lookup that was asked at those seconds, and given up.
func unansweredAt(resolver enrich.Resolver, server string, seconds ...int) enrich.Lookup {
	l := lookup(resolver, server, seconds[0])
	l.Outcome, l.RCode, l.Answered, l.Retries, l.Tries = loader.DNSTimedOut, "", time.Time{}, len(seconds)-1, nil
	for _, second := range seconds {
		l.Tries = append(l.Tries, loader.DNSTry{Server: l.Server, Asked: at(second), GaveUp: true})
	}
	return l
}

func coded(l enrich.Lookup, code string, took time.Duration) enrich.Lookup {
	l.RCode = code
	l.Answered = l.Asked().Add(took)
	l.Tries[len(l.Tries)-1].Answer = l.Answered
	return l
}

// addLookups adds what ended until a second.
func addLookups(r *Recent, second int, lookups ...enrich.Lookup) {
	r.AddDNS(enrich.DNS{Lookups: lookups}, at(second))
}

// crowded is what one more container does to all tables.
func crowded(name string) enrich.DNS {
	l := lookup(enrich.ResolverEmbedded, "127.0.0.11", 0)
	l.ContainerID, l.Question.Name, l.Misname, l.Answer.Truncated = name, name, enrich.MisnameHostname, true
	l.Answerers = []enrich.Answerer{
		{Address: addr("172.20.0.3"), Owner: enrich.Identity{Service: "a", Network: "front"}},
		{Address: addr("172.20.0.4"), Owner: enrich.Identity{Service: "b", Network: "front"}},
	}
	up := lookup(enrich.ResolverUpstream, "192.0.2.53", 0)
	up.ContainerID = name
	return enrich.DNS{
		Lookups: []enrich.Lookup{l, up},
		Stale:   []enrich.StaleUse{{ContainerID: name, Address: addr("172.20.0.9"), Packets: 1}},
	}
}

var ignoreAddresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestRecentLegs(t *testing.T) {
	r := NewRecent()
	stalledLookup := unansweredAt(enrich.ResolverEmbedded, "127.0.0.11", 1, 3)
	stalledLookup.Outcome = loader.DNSAnswered
	stalledLookup = coded(stalledLookup, "NOERROR", stall)
	quick := unansweredAt(enrich.ResolverEmbedded, "127.0.0.11", 1, 2)
	quick.Outcome = loader.DNSAnswered
	quick = coded(quick, "NOERROR", stall-1)
	unknown := unansweredAt(enrich.ResolverEmbedded, "127.0.0.11", 1)
	unknown.Outcome = loader.DNSUnknown
	hosts, group := lookup(enrich.ResolverDirect, "192.0.2.53", 1), lookup(enrich.ResolverMDNS, "224.0.0.251", 1)
	hosts.ContainerID, group.Group = "", loader.MulticastDNS
	inferred := lookup(enrich.ResolverUpstream, "127.0.0.53", 1)
	inferred.Inferred, inferred.Scope = true, enrich.ScopeHost
	pointer := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
	pointer.QType = reverse
	iterative := coded(unansweredAt(enrich.ResolverDirect, "203.0.113.1", 1, 3), "SERVFAIL", 0)
	iterative.RecursionDesired = false
	r.AddDNS(enrich.DNS{
		Lookups: []enrich.Lookup{
			coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", 1), "NOERROR", stall), stalledLookup, quick, unknown, hosts, group, inferred,
			unansweredAt(enrich.ResolverEmbedded, "127.0.0.11", 1),
			coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", 1), "REFUSED", 0),
			coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", 1), "SERVFAIL", prompt-1),
			coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", 1), "NXDOMAIN", 0),
			coded(pointer, "SERVFAIL", 0), coded(pointer, "REFUSED", 0), iterative,
		},
		Expansions: []enrich.Expansion{
			{Identity: webOn("front", "", "").Identity, ContainerID: webID, Scope: enrich.ScopeContainer, Resolver: enrich.ResolverEmbedded,
				Name: "db.corp.example", Base: "db"},
			{Scope: enrich.ScopeHost, Resolver: enrich.ResolverDirect, Name: "db.corp.example", Base: "db"},
		},
	}, at(11))
	want := []Leg{
		{
			Subject: webOn("front", enrich.ScopeContainer, ""), ContainerID: webID, Resolver: enrich.ResolverEmbedded, Lookups: 10, TimedOut: 1, Unasked: 1,
			Reverse: 2, ServFail: 1, Refused: 2, ReverseRefused: 1, FailingNames: 1, Stalled: 1, Expansions: 1, Domain: "corp.example", Server: embedded(), FirstFail: at(10),
			Good: at(3),
		},
		{
			Subject: webOn("front", enrich.ScopeHost, ""), ContainerID: webID, Resolver: enrich.ResolverUpstream, Lookups: 1, Inferred: 1,
			Good: at(1).Add(time.Millisecond),
		},
	}
	utc := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, filled(r, 12).DNS.Legs, ignoreAddresses, utc); diff != "" {
		t.Errorf("legs (-want +got):\n%s", diff)
	}
	addLookups(r, 13, coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", 12), "SERVFAIL", prompt))
	if got := filled(r, 13).DNS.Legs[0]; got.ServFail != 2 || !got.LateFail.Equal(at(13)) {
		t.Errorf("after one that took its time: %+v", got)
	}
	addLookups(r, 60, lookup(enrich.ResolverEmbedded, "127.0.0.11", 60), unansweredAt(enrich.ResolverUpstream, "127.0.0.53", 60))
	dns := filled(r, 75).DNS
	if got := dns.Legs[0]; !got.LateFail.IsZero() {
		t.Errorf("a minute after that: %+v", got)
	}
	if got := dns.Servers[0]; !got.Answered.IsZero() || got.Unanswered != 1 {
		t.Errorf("a minute after an answer: %+v", got)
	}
	if got := filled(r, 140).DNS; got.Legs != nil || got.Servers != nil || len(r.dns.legs.entries)+len(r.dns.servers.entries) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

// TestRecentServers follows what is known of one server, reading after reading.
func TestRecentServers(t *testing.T) {
	const up, server = enrich.ResolverUpstream, "192.0.2.53"
	other := netip.MustParseAddrPort("192.0.2.54:53")
	parallel := lookup(up, "192.0.2.54", 1) // asks both at once, and one answers
	parallel.Tries = []loader.DNSTry{{Server: addrPort(server + ":53"), Asked: at(1), GaveUp: true}, {Server: other, Asked: at(1), Answer: parallel.Answered}}
	moved := lookup(up, "192.0.2.54", 1) // gives one up for the other
	moved.Tries = []loader.DNSTry{{Server: addrPort(server + ":53"), Asked: at(1), GaveUp: true}, {Server: other, Asked: at(2), Answer: at(2)}}
	waited := moved
	waited.Tries = []loader.DNSTry{{Server: addrPort(server + ":53"), Asked: at(1)}, moved.Tries[1]}
	unknown := unansweredAt(up, server, 1, 3)
	unknown.Outcome = loader.DNSUnknown
	silent := func(tries, unanswered, lookups uint64, first, last int) Server {
		return Server{Tries: tries, Unanswered: unanswered, Lookups: lookups, Lost: lookups, First: at(first), Last: at(last)}
	}
	for _, tc := range []struct {
		name    string
		lookups []enrich.Lookup
		want    Server
	}{
		{"answers", []enrich.Lookup{lookup(up, server, 5)}, Server{Tries: 1, Answered: at(5).Add(time.Millisecond)}},
		{"says that it fails", []enrich.Lookup{coded(lookup(up, server, 5), "SERVFAIL", 0), coded(lookup(up, server, 5), "REFUSED", 0)},
			Server{Tries: 2, Failures: 2, Refused: 1, Answered: at(5)}},
		{"is silent", []enrich.Lookup{unansweredAt(up, server, 1, 3), unansweredAt(up, server, 2)}, silent(3, 3, 2, 1, 3)},
		{"answers the last of several tries", []enrich.Lookup{func() enrich.Lookup {
			l := unansweredAt(up, server, 1, 3)
			l.Outcome = loader.DNSAnswered
			return coded(l, "NOERROR", 2*time.Second)
		}()}, Server{Tries: 2, Answered: at(3)}},
		{"answers again", []enrich.Lookup{unansweredAt(up, server, 1, 3), lookup(up, server, 5)},
			Server{Tries: 3, Answered: at(5).Add(time.Millisecond)}},
		{"had answered what was asked later", []enrich.Lookup{lookup(up, server, 5), unansweredAt(up, server, 1, 6)},
			func() Server {
				s := silent(3, 1, 1, 6, 6)
				s.Answered = at(5).Add(time.Millisecond)
				return s
			}()},
		{"is the slower of two", []enrich.Lookup{parallel}, Server{Tries: 1}},
		{"is given up for another", []enrich.Lookup{moved}, silent(1, 1, 1, 1, 1)},
		{"is waited for while another answers", []enrich.Lookup{waited}, Server{Tries: 1}},
		{"had answered, which is told of later", []enrich.Lookup{unansweredAt(up, server, 1, 6), lookup(up, server, 5)},
			func() Server {
				s := silent(3, 2, 1, 1, 6)
				s.Answered = at(5).Add(time.Millisecond)
				return s
			}()},
		{"may have answered", []enrich.Lookup{unknown}, Server{Tries: 2}},
		{"is the embedded resolver, which is none of them", []enrich.Lookup{unansweredAt(enrich.ResolverEmbedded, server, 1)}, Server{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecent()
			for _, l := range tc.lookups {
				addLookups(r, 10, l)
			}
			var got Server
			for _, s := range filled(r, 11).DNS.Servers {
				if s.Address == addr(server) {
					if s.Subject != webOn("front", enrich.ScopeContainer, server) || s.ContainerID != webID || s.Resolver != up {
						t.Errorf("is of %+v", s)
					}
					got = s
				}
			}
			got.Subject, got.ContainerID, got.Resolver, got.Address = Subject{}, "", "", netip.Addr{}
			if diff := cmp.Diff(tc.want, got, ignoreAddresses); diff != "" {
				t.Errorf("server (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecentNames(t *testing.T) {
	r := NewRecent()
	wrong := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
	wrong.RCode, wrong.Question.Name, wrong.Misname = "NXDOMAIN", "db", enrich.MisnameOtherNetwork
	wrong.Targets = []enrich.NameTarget{{ContainerID: dbID}} // since when does not matter
	completed := wrong
	completed.Question.Name, completed.Base = "db.corp.example", "db"
	addLookups(r, 2, wrong)
	addLookups(r, 20, completed)
	want := []Misnamed{{
		Subject: webOn("front", enrich.ScopeContainer, "db"), ContainerID: webID, Reason: enrich.MisnameOtherNetwork, Lookups: 2,
		First: at(2), Last: at(20), Targets: wrong.Targets,
	}}
	if diff := cmp.Diff(want, filled(r, 21).DNS.Misnamed); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := filled(r, 90).DNS.Misnamed; got != nil || len(r.dns.misnamed.entries) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

// TestRecentMissing: what somebody was asked for while that one was just becoming known counts for nothing, however long that took.
func TestRecentMissing(t *testing.T) {
	missed := func(second, since int) enrich.Lookup {
		l := lookup(enrich.ResolverEmbedded, "127.0.0.11", second)
		l.RCode, l.Question.Name, l.Misname = "NXDOMAIN", "db", enrich.MisnameMissing
		l.Targets = []enrich.NameTarget{{ContainerID: dbID, Since: at(since)}}
		return l
	}
	ofNoAge := missed(1, 1)
	ofNoAge.Targets[0].Since = time.Time{}
	r := NewRecent()
	addLookups(r, 50, missed(50, 0), ofNoAge)
	addLookups(r, 59, missed(59, 0))
	if got := filled(r, 60).DNS.Misnamed; got != nil {
		t.Errorf("before anybody must know it: %+v", got)
	}
	addLookups(r, 61, missed(60, 0))
	addLookups(r, 75, missed(75, 0))
	if got := filled(r, 76).DNS.Misnamed; len(got) != 1 || got[0].Lookups != 2 || !got[0].First.Equal(at(61)) {
		t.Errorf("after a minute: %+v", got)
	}
	// It was replaced. That one need not be known, whatever was asked about the last.
	addLookups(r, 90, missed(90, 80))
	if got := filled(r, 90).DNS.Misnamed; len(got) != 1 || got[0].Lookups != 2 || !got[0].Targets[0].Since.Equal(at(80)) {
		t.Errorf("after it was replaced: %+v", got)
	}
}

// TestRecentManyServers: who asks very many servers takes the room of nobody else, and where there is none left nothing is
// concluded from it.
func TestRecentManyServers(t *testing.T) {
	asked := func(id string, n int) enrich.Lookup {
		l := lookup(enrich.ResolverDirect, netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)}).String(), 1)
		l.ContainerID = id
		return l
	}
	r := NewRecent()
	for n := range 2 * maxServers {
		addLookups(r, 1, asked(dbID, n))
	}
	addLookups(r, 1, asked(webID, 0))
	dns := filled(r, 2).DNS
	if len(dns.Servers) != maxServersOf+1 || dns.ServersMissing {
		t.Errorf("%d servers are kept, missing %v", len(dns.Servers), dns.ServersMissing)
	}
	if got := r.dns.servers.rest; got != 2*maxServers-maxServersOf {
		t.Errorf("%d found no room", got)
	}
	for n := range maxServers {
		addLookups(r, 30, asked(string(rune('a'+n/maxServersOf)), n))
	}
	addLookups(r, 31, asked("another", 0))
	if dns := filled(r, 32).DNS; len(dns.Servers) != maxServers || !dns.ServersMissing {
		t.Errorf("%d servers are kept of many containers, missing %v", len(dns.Servers), dns.ServersMissing)
	}
	if dns := filled(r, 95).DNS; len(dns.Servers) != 0 || dns.ServersMissing || len(r.dns.servers.of) != 0 {
		t.Errorf("after the window: %d servers, missing %v, %v", len(dns.Servers), dns.ServersMissing, r.dns.servers.of)
	}
	addLookups(r, 96, asked(dbID, 0))
	if got := len(filled(r, 97).DNS.Servers); got != 1 {
		t.Errorf("%d servers are kept of one who had too many", got)
	}
}

// TestRecentFailingNames: three are told apart, whichever they are, for as long as the Window.
func TestRecentFailingNames(t *testing.T) {
	r := NewRecent()
	fail := func(second int, name, base string) {
		l := coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", second), "SERVFAIL", 0)
		l.Question.Name, l.Base = name, base
		addLookups(r, second, l)
	}
	want := func(second, names int) {
		t.Helper()
		if got := filled(r, second).DNS.Legs[0].FailingNames; got != names {
			t.Errorf("%d names fail at %d s, want %d", got, second, names)
		}
	}
	fail(1, "a.example", "")
	fail(1, "a.example", "")
	fail(1, "a.example.corp.example", "a.example")
	want(1, 1)
	fail(2, "b.example", "")
	want(2, 2)
	for second := 10; second < 30; second++ {
		fail(second, string(rune('c'+second-10))+".example", "")
	}
	want(30, distinctFails)
	fail(60, "b.example", "")
	want(88, 2)
}

func TestRecentCollisions(t *testing.T) {
	owner := func(address, stack, service, container string) enrich.Answerer {
		return enrich.Answerer{Address: addr(address), Owner: enrich.Identity{Stack: stack, Service: service, Container: container, Network: "front"}}
	}
	nobody := enrich.Answerer{Address: addr("10.0.9.9")}
	for _, tc := range []struct {
		name    string
		several bool
		answer  []enrich.Answerer
	}{
		{"two projects", true, []enrich.Answerer{nobody, owner("172.20.0.3", "shop", "db", "shop-db-1"), owner("172.20.0.4", "other", "db", "other-db-1")}},
		{"two containers", true, []enrich.Answerer{owner("172.20.0.3", "", "", "a"), owner("172.20.0.4", "", "", "b")}},
		{"two containers without a name", true, []enrich.Answerer{owner("172.20.0.3", "", "", enrich.AdHoc), owner("172.20.0.4", "", "", enrich.AdHoc)}},
		{"one container without a name", false, []enrich.Answerer{owner("172.20.0.3", "", "", enrich.AdHoc)}},
		{"two services without a project", true, []enrich.Answerer{owner("172.20.0.3", "", "db", "db.1"), owner("172.20.0.4", "", "cache", "cache.1")}},
		{"two services of a project", false, []enrich.Answerer{owner("172.20.0.3", "shop", "db", "shop-db-1"), owner("172.20.0.4", "shop", "replica", "shop-replica-1")}},
		{"a service of a project, and a container of no service there", false, []enrich.Answerer{owner("172.20.0.3", "shop", "db", "shop-db-1"), owner("172.20.0.4", "shop", "", enrich.AdHoc)}},
		{"one service", false, []enrich.Answerer{owner("172.20.0.3", "shop", "db", "shop-db-1"), owner("172.20.0.4", "shop", "db", "shop-db-2")}},
		{"somebody and nobody", false, []enrich.Answerer{owner("172.20.0.3", "shop", "db", "shop-db-1"), nobody}},
		{"nobody", false, []enrich.Answerer{nobody, nobody}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecent()
			l := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
			l.Question.Name, l.Answerers = "db", tc.answer
			addLookups(r, 2, l, l)
			var want []Collision
			if tc.several {
				want = []Collision{{
					Subject:     Subject{Identity: enrich.Identity{Network: "front"}, Scope: enrich.ScopeHost, Object: "db"},
					ContainerID: webID, Answers: 2, Answerers: tc.answer,
				}}
			}
			if diff := cmp.Diff(want, filled(r, 3).DNS.Collisions, ignoreAddresses); diff != "" {
				t.Errorf("collisions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecentStale(t *testing.T) {
	r := NewRecent()
	use := enrich.StaleUse{
		Identity: webOn("front", "", "").Identity, ContainerID: webID, Scope: enrich.ScopeContainer, Name: "db", Address: addr("172.20.0.9"),
		Answered: at(-100), Used: at(1), Packets: 3,
	}
	later := use
	later.Used, later.Packets = at(12), 4
	r.AddDNS(enrich.DNS{Stale: []enrich.StaleUse{use}}, at(1))
	r.AddDNS(enrich.DNS{Stale: []enrich.StaleUse{later}}, at(12))
	want := []Stale{{
		Subject: webOn("front", enrich.ScopeContainer, "172.20.0.9"), ContainerID: webID, Packets: 7, First: at(1), Last: at(12), Example: later,
	}}
	if diff := cmp.Diff(want, filled(r, 13).DNS.Stale, ignoreAddresses); diff != "" {
		t.Errorf("stale answers (-want +got):\n%s", diff)
	}
	if got := filled(r, 90).DNS.Stale; got != nil || len(r.dns.stale.entries) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

// TestRecentTruncated: an answer that is cut short at second 1 has until second 8 to be followed by a whole one.
func TestRecentTruncated(t *testing.T) {
	short := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
	short.Answer.Truncated = true
	whole := lookup(enrich.ResolverEmbedded, "127.0.0.11", 2)
	tcp, failed, other, later, silent := whole, whole, whole, short, unansweredAt(enrich.ResolverEmbedded, "127.0.0.11", 1)
	silentUDP, shortTCP := silent, short
	tcp.Protocol, silent.Protocol, shortTCP.Protocol = unix.IPPROTO_TCP, unix.IPPROTO_TCP, unix.IPPROTO_TCP
	failed = coded(failed, "SERVFAIL", 0)
	other.Question.Type = 28
	unreached := coded(tcp, "SERVFAIL", 0)
	unreachedUDP, theServers, asked := unreached, unreached, unreached
	unreachedUDP.Protocol, asked.Forwarded = unix.IPPROTO_UDP, true
	theServers.Resolver = enrich.ResolverDirect
	upstream := short
	upstream.Resolver = enrich.ResolverUpstream
	for _, tc := range []struct {
		name                      string
		at1, at7                  []enrich.Lookup
		answers, alone, tcpSilent uint64
	}{
		{"nothing follows", []enrich.Lookup{short}, nil, 1, 1, 0},
		{"a whole one over TCP", []enrich.Lookup{short}, []enrich.Lookup{tcp}, 1, 0, 0},
		{"a whole one over UDP", []enrich.Lookup{short}, []enrich.Lookup{whole}, 1, 0, 0},
		{"a failure", []enrich.Lookup{short}, []enrich.Lookup{failed}, 1, 1, 0},
		{"another question's", []enrich.Lookup{short}, []enrich.Lookup{other}, 1, 1, 0},
		{"nobody answers over TCP", []enrich.Lookup{short}, []enrich.Lookup{silent}, 1, 1, 1},
		{"nobody answers over UDP", []enrich.Lookup{short}, []enrich.Lookup{silentUDP}, 1, 1, 0},
		{"the engine reaches nobody over TCP", []enrich.Lookup{short}, []enrich.Lookup{unreached}, 1, 1, 1},
		{"the engine reaches nobody over UDP", []enrich.Lookup{short}, []enrich.Lookup{unreachedUDP}, 1, 1, 0},
		{"the engine's server fails over TCP", []enrich.Lookup{short}, []enrich.Lookup{asked}, 1, 1, 0},
		{"another server fails over TCP", []enrich.Lookup{short}, []enrich.Lookup{theServers}, 1, 1, 0},
		{"even TCP is cut short", []enrich.Lookup{shortTCP}, nil, 0, 0, 0},
		{"it is asked again", []enrich.Lookup{short}, []enrich.Lookup{later}, 2, 0, 0},
		{"what the engine gets", []enrich.Lookup{upstream}, nil, 0, 0, 0},
		{"none is cut short", []enrich.Lookup{whole}, []enrich.Lookup{tcp, silent}, 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecent()
			addLookups(r, 1, tc.at1...)
			addLookups(r, 7, tc.at7...)
			var want []Truncated
			if tc.answers > 0 {
				want = []Truncated{{
					Subject: webOn("front", enrich.ScopeContainer, ""), ContainerID: webID, Resolver: enrich.ResolverEmbedded, Server: embedded(),
					Answers: tc.answers, Alone: tc.alone, TCPSilent: tc.tcpSilent,
				}}
			}
			if diff := cmp.Diff(want, filled(r, 8).DNS.Truncated, ignoreAddresses); diff != "" {
				t.Errorf("truncated answers (-want +got):\n%s", diff)
			}
			if got := filled(r, 69).DNS.Truncated; tc.alone == tc.answers && got != nil {
				t.Errorf("after the window: %+v", got)
			}
		})
	}
}

// TestRecentNoWhole: newer engines answer SERVFAIL over TCP if their server takes no connection. Of who asks there since the
// answer over UDP was cut short, that is no failure of its own.
func TestRecentNoWhole(t *testing.T) {
	short := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
	short.Answer.Truncated = true
	whole := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
	unreached := coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", 2), "SERVFAIL", 0)
	unreached.Protocol = unix.IPPROTO_TCP
	other, asked, udp := unreached, unreached, unreached
	other.Question.Type, asked.Forwarded, udp.Protocol = 28, true, unix.IPPROTO_UDP
	for _, tc := range []struct {
		name        string
		first, then enrich.Lookup
		second      int // at which it is read
		failed      uint64
	}{
		{"of the same question", short, unreached, 2, 0},
		{"of another", short, other, 2, 0},
		{"too late", short, unreached, 8, 1},
		{"a whole answer before", whole, unreached, 2, 1},
		{"a server was asked", short, asked, 2, 1},
		{"over UDP", short, udp, 2, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecent()
			addLookups(r, 1, tc.first)
			addLookups(r, tc.second, tc.then)
			leg := filled(r, tc.second).DNS.Legs[0]
			if leg.Lookups != 2 || leg.ServFail != tc.failed || leg.FailingNames != int(tc.failed) || leg.LastFail.IsZero() == (tc.failed > 0) {
				t.Errorf("got %+v, want %d failed", leg, tc.failed)
			}
		})
	}
}

// Of very many answers that are cut short at once some are forgotten, and none is told of that a whole one followed.
func TestRecentTruncatedIsBounded(t *testing.T) {
	r := NewRecent()
	for kind := range uint16(100) {
		l := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1)
		l.Answer.Truncated, l.Question.Type = true, kind
		addLookups(r, 1, l)
	}
	if got := filled(r, 20).DNS.Truncated; len(got) != 1 || got[0].Answers != 100 || got[0].Alone != maxPending {
		t.Errorf("of 100 at once: %+v", got)
	}
}

// TestRecentUnasked: what the engine asks nobody for, and leaves unanswered, is its own doing.
func TestRecentUnasked(t *testing.T) {
	silent := unansweredAt(enrich.ResolverEmbedded, "127.0.0.11", 1)
	forwarded, unknown := silent, silent
	forwarded.Forwarded = true
	unknown.Outcome = loader.DNSUnknown
	direct := unansweredAt(enrich.ResolverDirect, "192.0.2.53", 1)
	for _, tc := range []struct {
		name string
		of   enrich.Lookup
		want uint64
	}{
		{"nobody was asked", silent, 1},
		{"somebody was asked", forwarded, 0},
		{"the answer may have been missed", unknown, 0},
		{"the container asks itself", direct, 0},
		{"answered", lookup(enrich.ResolverEmbedded, "127.0.0.11", 1), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecent()
			addLookups(r, 9, tc.of)
			if legs := filled(r, 9).DNS.Legs; len(legs) != 1 || legs[0].Unasked != tc.want {
				t.Errorf("got %+v, want %d", legs, tc.want)
			}
		})
	}
}
