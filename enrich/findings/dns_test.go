// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// webLeg is what became of the web server's lookups at a resolver.
func webLeg(resolver enrich.Resolver, lookups uint64) Leg {
	l := Leg{Subject: webOn("front", enrich.ScopeContainer, ""), ContainerID: webID, Resolver: resolver, Lookups: lookups, Server: embedded()}
	if resolver != enrich.ResolverEmbedded {
		l.Server = addr("192.0.2.53")
	}
	return l
}

// webServer is a server that the web server's lookups are asked of.
func webServer(address string, tries uint64) Server {
	return Server{
		Subject: webOn("front", enrich.ScopeContainer, address), ContainerID: webID, Resolver: enrich.ResolverUpstream,
		Address: addr(address), Tries: tries, Answered: start,
	}
}

// silentServer has not answered for so many tries, from the first to the last over some time.
func silentServer(address string, tries uint64, over time.Duration) Server {
	s := webServer(address, tries)
	s.Unanswered, s.Lookups, s.Lost = tries, 2, 2
	s.First, s.Last, s.Answered = start.Add(-10*time.Second), start.Add(-10*time.Second+over), time.Time{}
	return s
}

// askedFor is a name of the data base's that the web server asks for in vain.
func askedFor(name string, reason enrich.Misname, lookups uint64) Misnamed {
	return Misnamed{
		Subject: webOn("front", enrich.ScopeContainer, name), ContainerID: webID, Reason: reason, Lookups: lookups,
		First: start.Add(-10 * time.Second), Last: start,
		Targets: []enrich.NameTarget{{
			Identity: enrich.Identity{Stack: "shop", Service: "db", Container: "shop-db-1"}, ContainerID: dbID, UseName: "db", Since: start.Add(-time.Hour),
		}},
	}
}

// nameShared is a name on the network front that leads to owners, by their addresses.
func nameShared(answers uint64, owners map[string]enrich.Identity) Collision {
	c := Collision{
		Subject:     Subject{Identity: enrich.Identity{Network: "front"}, Scope: enrich.ScopeHost, Object: "db"},
		ContainerID: webID, Answers: answers,
	}
	for address, owner := range owners {
		c.Answerers = append(c.Answerers, enrich.Answerer{Address: addr(address), Owner: owner})
	}
	return c
}

// staleAnswer is one that the web server goes on with, though it is of no use any more.
func staleAnswer(packets uint64, lasting, age time.Duration) Stale {
	return Stale{
		Subject: webOn("front", enrich.ScopeContainer, "172.20.0.9"), ContainerID: webID, Packets: packets,
		First: start.Add(-lasting), Last: start,
		Example: enrich.StaleUse{
			Name: "db", Address: addr("172.20.0.9"), Answered: start.Add(-age), Used: start, Packets: packets,
			Gone: enrich.Identity{Stack: "shop", Service: "db", Container: "shop-db-1", Network: "front"},
		},
	}
}

// healthyDNS is what a host has on which all is well: now and then a name of somebody else's does not resolve, a server loses a
// packet, somebody mistypes a name, a container has just been replaced.
func healthyDNS() DNS {
	asked, up := webLeg(enrich.ResolverEmbedded, 100), webLeg(enrich.ResolverUpstream, 500)
	asked.ServFail, asked.FirstFail, asked.TimedOut, asked.Refused, asked.Expansions = 9, start.Add(-time.Minute), 3, 2, 49
	asked.FailingNames = distinctFails
	up.ServFail, up.Refused = 60, 3
	lossy := webServer("192.0.2.53", 500)
	lossy.Failures, lossy.Unanswered, lossy.Lookups, lossy.First, lossy.Last = 60, 2, 2, start.Add(-5*time.Second), start
	mostly := askedFor("shop-db", enrich.MisnameHostname, 2)
	own := askedFor("shop-web", enrich.MisnameHostname, 100)
	own.Targets = []enrich.NameTarget{{ContainerID: webID, UseName: "web"}}
	return DNS{
		Legs:     []Leg{asked, up},
		Servers:  []Server{lossy},
		Misnamed: []Misnamed{mostly, own},
		Collisions: []Collision{nameShared(1, map[string]enrich.Identity{
			"172.20.0.3": {Stack: "shop", Service: "db"}, "172.20.0.4": {Stack: "other", Service: "db"},
		})},
		Stale:     []Stale{staleAnswer(1000, 9*time.Second, time.Hour), staleAnswer(4, time.Minute, time.Hour)},
		Truncated: []Truncated{{Subject: webOn("front", enrich.ScopeContainer, ""), ContainerID: webID, Answers: 100, Alone: 2, Server: embedded()}},
	}
}

// resolving replaces what the healthy host has of lookups.
func resolving(dns DNS, change ...func(*View)) func(*View) {
	return func(v *View) {
		v.DNS = dns
		for _, c := range change {
			c(v)
		}
	}
}

// failingLeg is a leg of the web server's with so many SERVFAILs, at once.
func failingLeg(resolver enrich.Resolver, failed, lookups uint64) Leg {
	l := webLeg(resolver, lookups)
	l.ServFail, l.FirstFail = failed, start.Add(-time.Minute)
	l.FailingNames = distinctFails
	return l
}

// followed is a leg that failed until so long ago, after so many good answers, and has had a good one since.
func followed(relapses uint64, ago time.Duration) Leg {
	l := failingLeg(enrich.ResolverEmbedded, 6, 30)
	l.Relapses, l.LastFail = relapses, start.Add(-ago)
	l.Good = l.LastFail.Add(1)
	return l
}

// unaskedLeg is a leg of which so many lookups were left unanswered by the engine itself.
func unaskedLeg(unasked uint64) Leg {
	l := webLeg(enrich.ResolverEmbedded, 30)
	l.TimedOut, l.Unasked = unasked, unasked
	return l
}

// nameless makes a leg's failures those of one name.
func nameless(l Leg) Leg {
	l.FailingNames = 1
	return l
}

// sealed makes the web server's only network an internal one.
func sealed(v *View) { v.network("front").Internal = true }

func dnsCases() []ruleCase {
	const (
		enter = "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n "
		root  = " . NS"
		ask   = "dig +tries=1 +time=5 @"
	)
	web := webOn("front", enrich.ScopeContainer, "")
	failedTries := webServer("192.0.2.53", 12)
	failedTries.Failures = 12
	refusing := webServer("192.0.2.53", 12)
	refusing.Failures, refusing.Refused = 12, 3
	refusedLeg := webLeg(enrich.ResolverEmbedded, 30)
	refusedLeg.Refused, refusedLeg.FailingNames = 3, 3
	late := failingLeg(enrich.ResolverEmbedded, 6, 6)
	late.LateFail = start
	others := webLeg(enrich.ResolverEmbedded, 6)
	others.ContainerID, others.TimedOut = dbID, 6
	justKnown := failingLeg(enrich.ResolverEmbedded, 6, 6)
	justKnown.FirstFail = start.Add(unused - untold) // cases look at the host for so long
	unknown := justKnown
	unknown.FirstFail = justKnown.FirstFail.Add(1)
	up := webLeg(enrich.ResolverUpstream, 6)
	up.TimedOut = 6
	silent := silentServer("192.0.2.53", 3, 3*time.Second)
	once := silent
	once.Lookups = 1
	answered := silent
	answered.Answered = start
	onHost := silentServer("127.0.0.53", 3, 3*time.Second)
	onHost.Subject.Scope = enrich.ScopeHost
	direct := silentServer("198.51.100.53", 3, 4*time.Second)
	direct.Resolver = enrich.ResolverDirect
	timedOut := webLeg(enrich.ResolverDirect, 8)
	timedOut.TimedOut = 8
	other := webServer("198.51.100.54", 8)
	other.Resolver = enrich.ResolverDirect
	alsoSilent := direct
	alsoSilent.Subject.Object, alsoSilent.Address = "198.51.100.55", addr("198.51.100.55")
	crowd := []Server{direct}
	for range maxServersOf - 1 {
		never := webServer("198.51.100.54", 1)
		never.Resolver, never.Answered = enrich.ResolverDirect, time.Time{}
		crowd = append(crowd, never)
	}
	reverseLeg := webLeg(enrich.ResolverEmbedded, 100)
	reverseLeg.Reverse, reverseLeg.Refused, reverseLeg.ReverseRefused = 70, 20, 18
	otherwise := failingLeg(enrich.ResolverEmbedded, 3, 100)
	otherwise.Reverse = 70
	leaking := webLeg(enrich.ResolverUpstream, 4)
	leaking.Inferred, leaking.Subject.Scope = 3, enrich.ScopeHost
	some := leaking
	some.Inferred = 2
	hostServer := webServer("127.0.0.53", 4)
	cut := Truncated{Subject: web, ContainerID: webID, Resolver: enrich.ResolverEmbedded, Server: embedded(), Answers: 4, Alone: 3, TCPSilent: 1}
	expanding := webLeg(enrich.ResolverEmbedded, 40)
	expanding.Expansions, expanding.Domain = 20, "corp.example"
	undecided, few := expanding, expanding
	undecided.Lookups, few.Lookups, few.Expansions = 41, 19, 19
	silence := func(server, answered string, tries float64, failed ...Fact) []Fact {
		return append([]Fact{text("server", server), number("tries without an answer", tries, "since its last one"), text("last answer", answered)}, failed...)
	}
	lost := func(port uint16, packets uint64, lasting time.Duration) func(*View) {
		return func(v *View) {
			l := loss("resolver-nat-lost", packets)
			l.Subject.Scope = enrich.ScopeContainer
			l.First = l.Last.Add(-lasting)
			l.Example.Destination, l.Example.DestinationPort, l.Example.Protocol = embedded(), port, 17
			v.Losses = []Loss{l}
		}
	}
	lostFacts := func(port, gone string) []Fact {
		return []Fact{
			number("packets lost", 3, "in the last minute"), text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"),
			text("device", "br-f0f0f0f0f0f0"), text("example", "172.20.0.2:40000 > 127.0.0.11:"+port+" udp"), text("direction", "tx"),
			text("scope", "host"), text("what is gone", gone),
		}
	}
	return []ruleCase{
		{
			"a server fails", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 3, 30)}, Servers: []Server{failedTries}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed", 3, "of 30 in the last minute"), text("servers that fail", "192.0.2.53 (12 of 12 tries)")),
		},
		{
			"a server fails that is asked directly", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverDirect, 3, 3)}}),
			one("servfail", web, enter+ask+"192.0.2.53"+root, number("lookups that failed", 3, "of 3 in the last minute")),
		},
		{
			"an old engine hands REFUSED on", resolving(DNS{Legs: []Leg{refusedLeg}, Servers: []Server{refusing}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed", 3, "of 30 in the last minute"), text("servers that fail", "192.0.2.53 (12 of 12 tries)")),
		},
		{
			"one name fails, and others do not", resolving(DNS{
				Legs: []Leg{nameless(failingLeg(enrich.ResolverEmbedded, 4, 30))}, Servers: []Server{failedTries},
			}), nil,
		},
		{
			"one name fails often", resolving(DNS{Legs: []Leg{nameless(failingLeg(enrich.ResolverEmbedded, 5, 30))}, Servers: []Server{failedTries}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed", 5, "of 30 in the last minute"), text("servers that fail", "192.0.2.53 (12 of 12 tries)")),
		},
		{
			"all fails, of one name", resolving(DNS{Legs: []Leg{nameless(failingLeg(enrich.ResolverEmbedded, 3, 3))}, Servers: []Server{failedTries}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed", 3, "of 3 in the last minute"), text("servers that fail", "192.0.2.53 (12 of 12 tries)")),
		},
		{
			"names fail beside many of addresses", resolving(DNS{Legs: []Leg{otherwise}, Servers: []Server{failedTries}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed", 3, "of 100 in the last minute"), text("servers that fail", "192.0.2.53 (12 of 12 tries)")),
		},
		{
			"an old engine hands REFUSED on, for addresses", resolving(DNS{Legs: []Leg{reverseLeg}, Servers: []Server{func() Server {
				s := refusing
				s.Refused = 20
				return s
			}()}}), nil,
		},
		{"good answers have followed", resolving(DNS{Legs: []Leg{followed(2, goingOn-unused-1)}, Servers: []Server{failedTries}}), nil},
		{"failures beside good answers have ended", resolving(DNS{Legs: []Leg{followed(3, goingOn)}, Servers: []Server{failedTries}}), nil},
		{
			"failures go on beside good answers", resolving(DNS{Legs: []Leg{followed(3, goingOn-unused-1)}, Servers: []Server{failedTries}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed", 6, "of 30 in the last minute"), text("servers that fail", "192.0.2.53 (12 of 12 tries)")),
		},
		{"two failures", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 2, 2)}, Servers: []Server{failedTries}}), nil},
		{"few of many fail", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 3, 31)}, Servers: []Server{failedTries}}), nil},
		{"failures of the engine's own questions", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverUpstream, 9, 9)}, Servers: []Server{failedTries}}), nil},
		{"names on an internal network", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 9, 9)}}, sealed), nil},
		{
			"many names on an internal network", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 10, 12)}}, sealed),
			one("internal-net", web, "docker network inspect -f '{{.Internal}}' front", number("lookups that failed", 10, "of 12 in the last minute")),
		},
		{
			"names and packets on an internal network", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 10, 12)}}, sealed, func(v *View) {
				v.Rises[webID] = Rise{OutNoRoutes: 10}
			}),
			one("internal-net", web, "docker network inspect -f '{{.Internal}}' front",
				number("IPv4 packets not sent", 10, "in the last minute"), number("lookups that failed", 10, "of 12 in the last minute")),
		},

		{
			"a server is silent", resolving(DNS{Legs: []Leg{late, up}, Servers: []Server{silent}}),
			one("upstream-blocked", webOn("front", enrich.ScopeContainer, "192.0.2.53"), enter+ask+"192.0.2.53"+root,
				silence("192.0.2.53", "none in the last minute", 3, number("lookups that failed", 6, "of 6 in the last minute"))...),
		},
		{
			"a server has fallen silent", resolving(DNS{Legs: []Leg{others}, Servers: []Server{answered}}),
			one("upstream-blocked", webOn("front", enrich.ScopeContainer, "192.0.2.53"), enter+ask+"192.0.2.53"+root,
				silence("192.0.2.53", "12:00:00 UTC", 3)...),
		},
		{
			"the host's own server is silent", resolving(DNS{Legs: []Leg{late}, Servers: []Server{onHost}}),
			one("upstream-blocked", webOn("front", enrich.ScopeHost, "127.0.0.53"), ask+"127.0.0.53"+root,
				silence("127.0.0.53", "none in the last minute", 3, number("lookups that failed", 6, "of 6 in the last minute"))...),
		},
		{
			"a server is silent that is asked directly", resolving(DNS{Legs: []Leg{timedOut}, Servers: []Server{direct}}),
			one("upstream-blocked", webOn("front", enrich.ScopeContainer, "198.51.100.53"), enter+ask+"198.51.100.53"+root,
				silence("198.51.100.53", "none in the last minute", 3, number("lookups that failed", 8, "of 8 in the last minute"))...),
		},
		{
			"one of many servers is silent that are asked directly", resolving(DNS{
				Legs: []Leg{webLeg(enrich.ResolverDirect, 11)}, Servers: []Server{direct, other},
			}), nil,
		},
		{
			"a fifth of the lookups is lost to it", resolving(DNS{Legs: []Leg{webLeg(enrich.ResolverDirect, 10)}, Servers: []Server{direct, other}}),
			one("upstream-blocked", webOn("front", enrich.ScopeContainer, "198.51.100.53"), enter+ask+"198.51.100.53"+root,
				silence("198.51.100.53", "none in the last minute", 3)...),
		},
		{
			"all servers are silent that are asked directly", resolving(DNS{
				Legs: []Leg{webLeg(enrich.ResolverDirect, 100)}, Servers: []Server{direct, alsoSilent},
			}),
			append(one("upstream-blocked", webOn("front", enrich.ScopeContainer, "198.51.100.53"), enter+ask+"198.51.100.53"+root,
				silence("198.51.100.53", "none in the last minute", 3)...),
				one("upstream-blocked", webOn("front", enrich.ScopeContainer, "198.51.100.55"), enter+ask+"198.51.100.55"+root,
					silence("198.51.100.55", "none in the last minute", 3)...)...),
		},
		{
			"more servers than are kept, of which none that is answers", resolving(DNS{Legs: []Leg{webLeg(enrich.ResolverDirect, 100)}, Servers: crowd}), nil,
		},
		{
			"there was no room for other servers, which may answer", resolving(DNS{
				Legs: []Leg{webLeg(enrich.ResolverDirect, 100)}, Servers: []Server{direct}, ServersMissing: true,
			}), nil,
		},
		{
			"a silent server that is not felt hides no failures", resolving(DNS{
				Legs: []Leg{failingLeg(enrich.ResolverDirect, 6, 30)}, Servers: []Server{direct, other},
			}),
			one("servfail", web, enter+ask+"192.0.2.53"+root, number("lookups that failed", 6, "of 30 in the last minute")),
		},
		{"one lookup got no answer", resolving(DNS{Servers: []Server{once}}), nil},
		{"two tries got no answer", resolving(DNS{Servers: []Server{silentServer("192.0.2.53", 2, time.Minute)}}), nil},
		{"many tries at one moment got no answer", resolving(DNS{Servers: []Server{silentServer("192.0.2.53", 100, 2999*time.Millisecond)}}), nil},
		{
			"there is no server", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 3, 9)}}),
			one("upstream-blocked", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed at once", 3, "of 9 in the last minute"), text("servers asked", "none")),
		},
		{
			"there was no room for who was asked, if anybody", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 3, 9)}, ServersMissing: true}),
			one("servfail", web, enter+ask+"127.0.0.11"+root, number("lookups that failed", 3, "of 9 in the last minute")),
		},
		{
			"it has just become known that nobody is asked", resolving(DNS{Legs: []Leg{justKnown}}),
			one("upstream-blocked", web, enter+ask+"127.0.0.11"+root,
				number("lookups that failed at once", 6, "of 6 in the last minute"), text("servers asked", "none")),
		},
		{"who is asked, if anybody, is not known yet", resolving(DNS{Legs: []Leg{unknown}}), nil},
		{
			"somebody was waited for who is not known", resolving(DNS{Legs: []Leg{late}}),
			one("servfail", web, enter+ask+"127.0.0.11"+root, number("lookups that failed", 6, "of 6 in the last minute")),
		},
		{"a container that has ended asked nobody", resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverEmbedded, 3, 9)}}, func(v *View) {
			v.DNS.Legs[0].ContainerID = "0123456789abcdef"
		}), nil},

		{
			"too many at once", resolving(DNS{Legs: []Leg{refusedLeg}}),
			one("resolver-overload", web, "journalctl -u docker --since -15min --grep 'concurrent queries'",
				number("lookups refused", 3, "of 30 in the last minute")),
		},
		{
			"too many at once, for an engine that does not say so", resolving(DNS{Legs: []Leg{unaskedLeg(20)}}),
			one("resolver-overload", web, "journalctl -u docker --since -15min --grep 'concurrent queries'",
				number("lookups timed out", 20, "that the engine asked nobody for")),
		},
		{"the engine asks nobody and answers nobody", resolving(DNS{Legs: []Leg{unaskedLeg(30)}}), nil},
		{"the engine asks nobody while it is restarted", func(v *View) {
			resolving(DNS{Legs: []Leg{unaskedLeg(20)}})(v)
			lost(40123, 1000, 10*time.Second)(v)
			v.Losses[0].Example.ContainerID = webID
		}, nil},
		{"nobody was asked for a few", resolving(DNS{Legs: []Leg{unaskedLeg(19)}}), nil},
		{
			"too many at once, for a server that is silent", resolving(DNS{Legs: []Leg{unaskedLeg(20)}, Servers: []Server{silent}}),
			one("upstream-blocked", webOn("front", enrich.ScopeContainer, "192.0.2.53"), enter+ask+"192.0.2.53"+root,
				silence("192.0.2.53", "none in the last minute", 3, number("lookups that failed", 20, "of 30 in the last minute"))...),
		},
		{"a server that is asked directly refuses", resolving(DNS{Legs: []Leg{{Subject: web, ContainerID: webID, Resolver: enrich.ResolverDirect, Lookups: 30, Refused: 30}}}), nil},

		{
			"rules are lost", lost(53, 3, 0),
			one("resolver-nat-lost", web, enter+ask+"127.0.0.11"+root, lostFacts("53", "the rules of the nat table")...),
		},
		{
			"the socket is lost", lost(40123, 3, 30*time.Second),
			one("resolver-nat-lost", web, enter+ask+"127.0.0.11"+root, lostFacts("40123", "the engine's socket")...),
		},
		{"the engine is restarted", lost(40123, 1000, 29*time.Second), nil},
		{"two strays", lost(53, 2, 0), nil},

		{
			"names leak from an internal network", resolving(DNS{Legs: []Leg{leaking}, Servers: []Server{hostServer}}, sealed),
			one("internal-net-dns", web, enter+ask+"127.0.0.11"+root, number("lookups answered from outside", 3, "of 4 in the last minute"),
				text("internal networks", "front"), text("servers asked", "127.0.0.53")),
		},
		{"few names leak", resolving(DNS{Legs: []Leg{some}, Servers: []Server{hostServer}}, sealed), nil},
		{"a network that is not internal", resolving(DNS{Legs: []Leg{leaking}, Servers: []Server{hostServer}}), nil},

		{
			"answers are cut short", resolving(DNS{Truncated: []Truncated{cut}}),
			one("truncation", web, enter+"dig +tcp +tries=1 +time=5 @127.0.0.11 . NS",
				number("answers cut short", 4, "in the last minute"), number("not followed by a whole one", 3, ""),
				number("lookups over TCP without an answer", 1, ""), text("server", "127.0.0.11")),
		},

		{
			"search domains", resolving(DNS{Legs: []Leg{expanding}}),
			one("ndots-search", web, "cat $(docker inspect -f '{{.ResolvConfPath}}' shop-web-1)",
				number("lookups for search domains in vain", 20, "of 40 in the last minute"), text("a search domain", "corp.example")),
		},
		{"less than half are for search domains", resolving(DNS{Legs: []Leg{undecided}}), nil},
		{"few search domains", resolving(DNS{Legs: []Leg{few}}), nil},

		{
			"lookups wait where queries are lost", func(v *View) {
				l := webLeg(enrich.ResolverEmbedded, 9)
				up, others := webLeg(enrich.ResolverUpstream, 9), l
				l.Stalled, up.Stalled, others.Stalled, others.ContainerID = 4, 8, 8, dbID
				resolving(DNS{Legs: []Leg{l, up, others}})(v)
				v.Losses = []Loss{loss("dns-5s-race", 3)}
				v.Conntrack = ConntrackRise{}
			},
			one("dns-5s-race", webOn("front", enrich.ScopeHost, ""), "conntrack -S | grep -o 'insert_failed=[0-9]*'",
				append(lossFacts(3), number("lookups that waited and were asked again", 4, "in the last minute"))...),
		},
	}
}

func nameCases() []ruleCase {
	inspect := func(format, names string) string { return "docker inspect -f '" + format + "' " + names }
	const networks = "{{json .NetworkSettings.Networks}}"
	vain := func(name, why string, more ...Fact) []Fact {
		return append([]Fact{text("asked for", name), number("lookups in vain", 3, "in the last minute"), text("why", why)}, more...)
	}
	at := func(name string) Subject { return webOn("front", enrich.ScopeContainer, name) }
	theirs := []Fact{text("who has it", "shop-db-1"), text("name to use", "db"), text("their networks", "front"), text("asker's networks", "front")}
	named := func(m Misnamed, change ...func(*View)) func(*View) {
		return resolving(DNS{Misnamed: []Misnamed{m}}, change...)
	}
	unnamed := askedFor("db", enrich.MisnameOtherNetwork, 3)
	unnamed.Targets[0].UseName = ""
	service := askedFor("other_db", enrich.MisnameOtherNetwork, 3)
	service.Targets = []enrich.NameTarget{{Identity: enrich.Identity{Stack: "other", Service: "db"}, Since: start.Add(-70 * time.Second)}}
	ofTheSwarm := askedFor("other_db", enrich.MisnameMissing, 3)
	ofTheSwarm.Targets = service.Targets
	brief := askedFor("db", enrich.MisnameMissing, 100)
	brief.First = brief.Last.Add(-9999 * time.Millisecond)
	strange := askedFor("-f/etc/shadow;id", enrich.MisnameMissing, 3)
	there := func(before time.Duration) func(*View) {
		return func(v *View) { v.DNS.Misnamed[0].Targets[0].Since = start.Add(-10 * time.Second).Add(-before) }
	}
	ofNoAge := func(v *View) { v.DNS.Misnamed[0].Targets[0].Since = time.Time{} }
	collide := func(c Collision, change ...func(*View)) func(*View) {
		return resolving(DNS{Collisions: []Collision{c}}, change...)
	}
	shopDB, otherDB := enrich.Identity{Stack: "shop", Service: "db", Container: "shop-db-1"}, enrich.Identity{Stack: "other", Service: "db", Container: "other-db-1"}
	plain := func(images ...string) func(*View) {
		return func(v *View) {
			for i, image := range images {
				v.Inventory.Containers = append(v.Inventory.Containers, enrich.LiveContainer{Container: enrich.Container{
					ID: "0000" + image + string(rune('a'+i)), Name: "plain-" + string(rune('a'+i)), Image: image, Running: true, NetworkMode: "front",
					Endpoints: []enrich.Endpoint{{Network: "front", Addresses: []netip.Addr{addr("172.20.0.20").Next()}}},
				}, Identity: enrich.Identity{Container: enrich.AdHoc}})
				c := &v.Inventory.Containers[len(v.Inventory.Containers)-1]
				c.Endpoints[0].Addresses[0] = netip.AddrFrom4([4]byte{172, 20, 0, byte(20 + i)})
			}
		}
	}
	elsewhere := func(v *View) {
		plain("postgres")(v)
		v.Inventory.Containers[len(v.Inventory.Containers)-1].Endpoints[0].Network = "lan"
	}
	adhoc := nameShared(2, map[string]enrich.Identity{"172.20.0.20": {Container: enrich.AdHoc}, "172.20.0.21": {Container: enrich.AdHoc}})
	dig := "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n dig +short @127.0.0.11 -q db"
	collision := Subject{Identity: enrich.Identity{Network: "front"}, Scope: enrich.ScopeHost, Object: "db"}
	leads := func(to string) []Fact {
		return []Fact{text("name", "db"), text("leads to", to), number("such answers", 2, "in the last minute"), text("one who asks", "shop-web-1")}
	}
	staled := func(s Stale) func(*View) { return resolving(DNS{Stale: []Stale{s}}) }
	return []ruleCase{
		{
			"a host name", named(askedFor("database", enrich.MisnameHostname, 3)),
			one("nxdomain-wrong-name", at("database"), inspect("{{.Config.Hostname}} "+networks, "shop-db-1"),
				vain("database", "Docker does not serve a host name in this form", theirs...)...),
		},
		{"a host name, twice", named(askedFor("database", enrich.MisnameHostname, 2)), nil},
		{
			"on the default bridge", named(askedFor("db", enrich.MisnameDefaultBridge, 3)),
			one("nxdomain-wrong-name", at("db"), inspect("{{.Config.Hostname}} "+networks, "shop-db-1"),
				vain("db", "no names are served on the default bridge", theirs...)...),
		},
		{
			"on another network", named(unnamed),
			one("other-network", at("db"), inspect("{{.Name}} "+networks, "shop-web-1 shop-db-1"),
				vain("db", "whoever has it is on none of the asker's networks",
					text("who has it", "shop-db-1"), text("their networks", "front"), text("asker's networks", "front"))...),
		},
		{
			"a service on another network", named(service),
			one("other-network", at("other_db"), inspect("{{.Name}} "+networks, "shop-web-1 CONTAINER"),
				vain("other_db", "whoever has it is on none of the asker's networks", text("who has it", "other/db"), text("asker's networks", "front"))...),
		},
		{"on another network, twice", named(askedFor("db", enrich.MisnameOtherNetwork, 2)), nil},

		{
			"missing", named(askedFor("db", enrich.MisnameMissing, 3), there(time.Minute)),
			one("nxdomain-after-rejoin", at("db"), "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n dig +tries=1 @127.0.0.11 -q db",
				vain("db", "the embedded resolver does not know it", theirs...)...),
		},
		{
			"missing, a service", named(ofTheSwarm),
			one("nxdomain-after-rejoin", at("other_db"), "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n dig +tries=1 @127.0.0.11 -q other_db",
				vain("other_db", "the embedded resolver does not know it", text("who has it", "other/db"), text("asker's networks", "front"))...),
		},
		{
			"missing, with a name that means something to a shell", named(strange),
			one("nxdomain-after-rejoin", at("-f/etc/shadow;id"),
				"nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n dig +tries=1 @127.0.0.11 -q '-f/etc/shadow;id'",
				vain("-f/etc/shadow;id", "the embedded resolver does not know it", theirs...)...),
		},
		{"missing for a moment", named(brief), nil},
		{"missing, twice", named(askedFor("db", enrich.MisnameMissing, 2)), nil},
		{"missing, but just there", named(askedFor("db", enrich.MisnameMissing, 3), there(time.Minute-1)), nil},
		{"missing, since when it is there is not known", named(askedFor("db", enrich.MisnameMissing, 3), ofNoAge), nil},
		{"missing, a service, but just there", named(ofTheSwarm, there(time.Minute-1)), nil},
		{"missing, a service, since when it is there is not known", named(ofTheSwarm, ofNoAge), nil},
		{"missing, but has ended", named(askedFor("db", enrich.MisnameMissing, 3), func(v *View) {
			v.DNS.Misnamed[0].Targets[0].ContainerID = "0123456789abcdef"
		}), nil},

		{
			"two projects", collide(nameShared(2, map[string]enrich.Identity{"172.20.0.3": shopDB, "172.20.0.4": otherDB})),
			one("alias-collision", collision, dig, leads("other/db, shop/db")...),
		},
		{
			"a project and a container", collide(nameShared(2, map[string]enrich.Identity{"172.20.0.3": shopDB, "172.20.0.4": {Container: "old-db"}})),
			one("alias-collision", collision, dig, leads("old-db, shop/db")...),
		},
		{
			"containers of two images", collide(adhoc, plain("redis", "postgres")),
			one("alias-collision", collision, dig, leads("plain-a, plain-b")...),
		},
		{"replicas without a service", collide(adhoc, plain("redis", "redis")), nil},
		{"replicas without a service, and an address that repeats on another network", collide(adhoc, elsewhere, plain("redis", "redis")), nil},
		{
			"two projects, one of them with two services", collide(nameShared(2, map[string]enrich.Identity{
				"172.20.0.3": shopDB, "172.20.0.4": otherDB, "172.20.0.5": {Stack: "shop", Service: "replica", Container: "shop-replica-1"},
			})),
			one("alias-collision", collision, dig, leads("other/db, shop/db")...),
		},
		{
			"two services without a project", collide(nameShared(2, map[string]enrich.Identity{"172.20.0.3": {Service: "db"}, "172.20.0.4": {Service: "cache"}})),
			one("alias-collision", collision, dig, leads("cache, db")...),
		},
		{"two services of one project", collide(nameShared(100, map[string]enrich.Identity{
			"172.20.0.3": shopDB, "172.20.0.4": {Stack: "shop", Service: "replica", Container: "shop-replica-1"},
		})), nil},
		{"replicas of a service", collide(nameShared(100, map[string]enrich.Identity{"172.20.0.3": shopDB, "172.20.0.4": {Stack: "shop", Service: "db", Container: "shop-db-2"}})), nil},
		{"an address that is nobody's here", collide(nameShared(100, map[string]enrich.Identity{"172.20.0.3": shopDB, "172.20.0.4": {}})), nil},
		{"one answer", collide(nameShared(1, map[string]enrich.Identity{"172.20.0.3": shopDB, "172.20.0.4": otherDB})), nil},

		{
			"a stale answer", staled(staleAnswer(5, 10*time.Second, 90*time.Second)),
			one("stale-record", at("172.20.0.9"), "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n ip neighbour show 172.20.0.9",
				number("packets lost", 5, "in the last minute"), text("address", "172.20.0.9"), text("answered for", "db"),
				number("age of the answer", 90, "s"), text("was", "shop/db")),
		},
		{"strays to a stale address", staled(staleAnswer(4, time.Minute, time.Hour)), nil},
		{"a stale answer for a moment", staled(staleAnswer(1000, 9999*time.Millisecond, time.Hour)), nil},
		{"an answer that has just become stale", staled(staleAnswer(1000, 10*time.Second, 9*time.Second)), nil},
	}
}

// TestFailuresLast: what fails for want of a server is told of otherwise once that is known, a few seconds later.
func TestFailuresLast(t *testing.T) {
	view := healthy()
	resolving(DNS{Legs: []Leg{failingLeg(enrich.ResolverDirect, 3, 3)}})(&view)
	for length, want := range map[time.Duration]int{0: 0, 10 * time.Second: 0, 15 * time.Second: 1} { // the steps around untold
		if all := look(NewBoard(Config{Hold: time.Minute}), view, length); len(all) != want {
			t.Errorf("after %s: found %+v", length, all)
		}
	}
}
