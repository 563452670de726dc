// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

func dnsCases() []dnsCase {
	return []dnsCase{
		{"known", knownNames},
		{"world", worldNames},
		{"types", allTypes},
		{"streams", embeddedStreams},
		{"streams-direct", directStreams},
		{"behaved", embeddedBehaviours},
		{"direct", directBehaviours},
		{"direct6", direct6},
		{"refusing", absentServer},
		{"again", embeddedRetries},
		{"again-direct", directRetries},
		{"local", hostsResolver},
		{"groups", groups},
		{"musl", libraryCase(lab.Musl)},
		{"glibc", libraryCase(lab.GNU)},
		{"go", libraryCase("traffic")},
		{"search-musl", searchCase(lab.Musl)},
		{"search-glibc", searchCase(lab.GNU)},
		{"search-go", searchCase("traffic")},
	}
}

// member starts a container on the stage's network, for which the engine asks the world's server.
func (s dnsStage) member(role string, options ...string) *lab.Container {
	s.Helper()
	options = append([]string{"--network", s.network, "--dns", worldServer.String()}, options...)
	return s.engine.Run(s, s.name+"-"+role, options)
}

// loner starts a container on the default bridge, which has no resolver but the one that it is told of.
func (s dnsStage) loner(role string) *lab.Container {
	s.Helper()
	return s.engine.Run(s, s.name+"-"+role, []string{"--dns", worldServer.String()})
}

// ask begins to look up a name of the case's in a container.
func (s dnsStage) ask(c *lab.Container, label string, flags ...string) (wait func() lab.Report) {
	s.Helper()
	return c.Begin(s, append([]string{"dns-ask", label + s.domain()}, flags...)...)
}

// answered waits for lookups, all of which must have been answered, and books them.
func (s dnsStage) answered(c *lab.Container, resolver enrich.Resolver, waits []func() lab.Report) {
	s.Helper()
	for _, wait := range waits {
		r := wait()
		if r.Answered != len(r.Lookups) || r.Answered == 0 {
			s.Errorf("%s: %d of %d lookups were answered: %v", s.name, r.Answered, len(r.Lookups), r.Errors)
		}
		s.asked(c, resolver, r)
	}
}

// server53 is the flag that names a server.
func server53(addr netip.Addr) string { return "--server=" + netip.AddrPortFrom(addr, 53).String() }

// knownNames are answered by the engine alone.
func knownNames(s dnsStage) func() {
	web := s.member("web", "--network-alias", "alias")
	client := s.member("client")
	b := s.at(web).Addr().As4()
	var waits []func() lab.Report
	for _, flags := range [][]string{
		{web.Name, "--type=A,AAAA", "--count=100"},
		{"alias", "--count=10"},
		{web.ID[:12], "--count=10"},
		{web.Name + "." + s.network, "--count=10"},
		{fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", b[3], b[2], b[1], b[0]), "--type=PTR", "--count=10"},
		{web.Name, "--protocol=tcp", "--count=10"},
	} {
		waits = append(waits, client.Begin(s, append([]string{"dns-ask"}, flags...)...))
	}
	return func() { s.answered(client, enrich.ResolverEmbedded, waits) }
}

// worldNames are asked of the server, one after the other, many at once, and with EDNS.
func worldNames(s dnsStage) func() {
	client := s.member("client")
	waits := []func() lab.Report{
		s.ask(client, "ok-one#", "--count=100", "--type=A,AAAA"),
		s.ask(client, "ok-many#", "--count=500", "--rate=500"),
		s.ask(client, "ok-edns#", "--count=50", "--edns=1232"),
	}
	return func() {
		s.answered(client, enrich.ResolverEmbedded, waits)
		s.forwarded(client, s.server)
	}
}

func allTypes(s dnsStage) func() {
	const types = "A,AAAA,PTR,MX,TXT,CNAME,NS,SOA,HTTPS,SVCB,ANY,CAA,NAPTR"
	loner := s.loner("loner")
	wait := s.ask(loner, "ok-#", server53(worldServer), "--type="+types, "--count=26")
	return func() { s.answered(loner, enrich.ResolverDirect, []func() lab.Report{wait}) }
}

// streams asks by TCP: with a connection for each lookup, one for all, all at once on it, and with messages that come in
// pieces. Answers that are read at once are small: of what comes as one, the agent sees 4 KiB.
func (s dnsStage) streams(c *lab.Container, server netip.Addr) (waits []func() lab.Report) {
	s.Helper()
	for i, way := range [][]string{
		{"big", "--count=20"},
		{"big", "--count=20", "--one-connection"},
		{"ok", "--count=20", "--one-connection", "--together"},
		{"ok", "--count=5", "--one-connection", "--together", "--split"},
		{"big", "--count=5", "--split"},
	} {
		waits = append(waits, s.ask(c, fmt.Sprintf("%s-%d-#", way[0], i), append(way[1:], "--protocol=tcp", server53(server))...))
	}
	return waits
}

func embeddedStreams(s dnsStage) func() {
	client := s.member("client")
	waits := s.streams(client, embeddedServer)
	return func() {
		s.answered(client, enrich.ResolverEmbedded, waits)
		s.forwarded(client, s.server)
	}
}

func directStreams(s dnsStage) func() {
	loner := s.loner("loner")
	waits := s.streams(loner, worldServer)
	return func() { s.answered(loner, enrich.ResolverDirect, waits) }
}

// behave asks for each of the server's behaviours, and waits long enough for that which is late.
func (s dnsStage) behave(c *lab.Container, server netip.Addr) (waits []func() lab.Report) {
	s.Helper()
	for _, b := range []string{"ok", "nx", "servfail", "refused", "never", "slow", "late", "big", "wrongid", "garbage", "other"} {
		waits = append(waits, s.ask(c, b+"-#", "--count=3", "--together", "--patience=8s", server53(server)))
	}
	return waits
}

func embeddedBehaviours(s dnsStage) func() {
	client := s.member("client")
	waits := s.behave(client, embeddedServer)
	return func() {
		for _, wait := range waits {
			s.asked(client, enrich.ResolverEmbedded, wait())
		}
		s.forwarded(client, s.server)
	}
}

func directBehaviours(s dnsStage) func() {
	loner := s.loner("loner")
	waits := s.behave(loner, worldServer)
	return func() {
		for _, wait := range waits {
			s.asked(loner, enrich.ResolverDirect, wait())
		}
	}
}

// direct6 asks a server by IPv6, by both protocols, from a container that has the engine's resolver and does not ask it.
func direct6(s dnsStage) func() {
	client := s.member("client")
	waits := []func() lab.Report{
		s.ask(client, "ok-udp#", server53(worldServer6), "--count=20", "--type=AAAA,A"),
		s.ask(client, "ok-tcp#", server53(worldServer6), "--count=20", "--protocol=tcp"),
	}
	return func() { s.answered(client, enrich.ResolverDirect, waits) }
}

// absentServer is no server's.
func absentServer(s dnsStage) func() {
	loner := s.loner("loner")
	wait := s.ask(loner, "ok-#", server53(noServer), "--count=5", "--together", "--patience=1s")
	return func() {
		r := wait()
		if r.Answered > 0 {
			s.Errorf("%s: there is a server at %s", s.name, noServer)
		}
		s.asked(loner, enrich.ResolverDirect, r)
	}
}

// retries are of lookups that nobody answers, or only when they are repeated.
func (s dnsStage) retries(c *lab.Container, server netip.Addr) (waits []func() lab.Report) {
	s.Helper()
	return []func() lab.Report{
		s.ask(c, "never-#", "--count=3", "--together", "--tries=3", "--patience=1500ms", server53(server)),
		s.ask(c, "second-#", "--count=3", "--together", "--tries=3", "--patience=1500ms", server53(server)),
	}
}

func embeddedRetries(s dnsStage) func() {
	client := s.member("client")
	waits := s.retries(client, embeddedServer)
	return func() {
		for _, wait := range waits {
			s.asked(client, enrich.ResolverEmbedded, wait())
		}
		s.forwarded(client, s.server)
	}
}

func directRetries(s dnsStage) func() {
	loner := s.loner("loner")
	waits := s.retries(loner, worldServer)
	return func() {
		for _, wait := range waits {
			s.asked(loner, enrich.ResolverDirect, wait())
		}
	}
}

// hostsResolver has the engine ask a server at the host's loopback address, which it can only do from the host's namespace.
func hostsResolver(s dnsStage) func() {
	local := s.host.ServeDNS(s, []netip.Addr{hostServer})
	client := s.engine.Run(s, s.name+"-client", []string{"--network", s.network})
	waits := []func() lab.Report{
		s.ask(client, "ok-#", "--count=50", "--type=A,AAAA"),
		s.ask(client, "nx-#", "--count=5"),
		s.ask(client, "slow-#", "--count=5", "--together"),
	}
	return func() {
		s.answered(client, enrich.ResolverEmbedded, waits)
		s.forwarded(client, local)
	}
}

// groups are asked by multicast, and nobody answers.
func groups(s dnsStage) func() {
	client := s.member("client")
	for resolver, to := range map[enrich.Resolver][]string{
		enrich.ResolverMDNS:  {"224.0.0.251:5353", "[ff02::fb%eth0]:5353"},
		enrich.ResolverLLMNR: {"224.0.0.252:5355", "[ff02::1:3%eth0]:5355"},
	} {
		for _, group := range to {
			r := client.Traffic(s, "dns-shout", "printer.local", "--to", group, "--count=10")
			s.add(client, resolver, dnsQueries, "A", r.Sent)
		}
	}
	return func() {}
}

// libraryCase looks names up as programs do: those that the engine knows, that the world knows, that nobody knows, and one
// that nobody answers. They ask for both types of address.
func libraryCase(program string) func(dnsStage) func() {
	return func(s dnsStage) func() {
		web := s.member("web")
		client := s.member("client")
		some := resolve(s, client, program, web.Name, "ok-1"+s.domain(), "nx-1"+s.domain(), "servfail-1"+s.domain(), "ok-2"+s.domain())
		none := resolve(s, client, program, "never"+s.domain())
		return func() {
			for i, l := range some().Lookups {
				if want := i == 0 || strings.HasPrefix(l.Name, "ok"); l.Answered != want || want && len(l.Addresses) != 2 {
					s.Errorf("%s: got %v %q for %s", s.name, l.Addresses, l.Error, l.Name)
				}
			}
			l := none().Lookups[0]
			if l.Answered {
				s.Errorf("%s: got %v for %s", s.name, l.Addresses, l.Name)
			}
			s.add(client, enrich.ResolverEmbedded, dnsQueries, "A", 1)
			s.add(client, enrich.ResolverEmbedded, dnsQueries, "AAAA", 1)
			s.add(client, enrich.ResolverEmbedded, dnsResponses, "NOERROR", 2)
			s.passedOn(client, l.Asked.Add(l.Duration()))
		}
	}
}

// resolve begins to look names up in a container with a program that does so as others do.
func resolve(s dnsStage, c *lab.Container, program string, names ...string) (wait func() lab.Report) {
	s.Helper()
	if program == "traffic" {
		names = append([]string{"resolve"}, names...)
	}
	return c.With(program).Begin(s, names...)
}

// passedOn books what a container asked the engine by what the server got: the engine passes on each message as it comes. The
// container gives up what is not answered at the end.
func (s dnsStage) passedOn(c *lab.Container, end time.Time) {
	s.Helper()
	s.logged(c, enrich.ResolverEmbedded, s.server, end)
	s.forwarded(c, s.server)
}

// searchCase looks names up in a container whose search list is tried first, in vain.
func searchCase(program string) func(dnsStage) func() {
	return func(s dnsStage) func() {
		client := s.member("client", "--dns-search=one.search", "--dns-search=two.search", "--dns-opt=ndots:3")
		var names []string
		for i := range 10 {
			names = append(names, fmt.Sprintf("bare-%d%s", i, s.domain()))
		}
		wait := resolve(s, client, program, names...)
		return func() {
			for _, l := range wait().Lookups {
				if len(l.Addresses) != 2 {
					s.Errorf("%s: got %v %q for %s", s.name, l.Addresses, l.Error, l.Name)
				}
			}
			s.passedOn(client, time.Time{})
			for _, m := range s.server.Asked(s) {
				if strings.HasSuffix(m.Name, ".search") && strings.Contains(m.Name, s.domain()) {
					s.add(client, enrich.ResolverEmbedded, dnsExpansions, "", 1)
					s.add(client, enrich.ResolverUpstream, dnsExpansions, "", 1)
				}
			}
		}
	}
}
