// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strconv"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// egressCases translate what containers send.
func egressCases() []natCase {
	return []natCase{
		{"masquerade", bothFamilies, masqueradeEgress},
		{"snat", bothFamilies, snatEgress},
		{"ping", bothFamilies, pingEgress},
		{"sctp", bothFamilies, sctpEgress},
		{"lookup", ipv4Only, embeddedLookup},
		{"crowd", ipv4Only, crowd},
	}
}

// masqueradeEgress goes out by the rule that Docker makes for each network.
func masqueradeEgress(s natStage) {
	client := s.run("client")
	s.outside.Serve(s, "mirror", s.published)
	s.each(func(s natStage) {
		s.leave(client, s.pick(lab.HostAddress, lab.HostAddress6))
		s.translated(client, "host", enrich.Masquerade, s.protocol, many)
	})
}

// snatEgress goes out by a rule that names the address.
func snatEgress(s natStage) {
	client := s.run("client")
	s.outside.Serve(s, "mirror", s.published)
	s.each(func(s natStage) {
		as := s.pick(netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8:1::200"))
		s.addAddress(s.host, as)
		s.host.AddRule(s, s.family, "nat", "POSTROUTING", "-p", s.protocol, "-s", s.at(client).Addr().String(),
			"-j", "SNAT", "--to-source", as.String())
		s.leave(client, as)
		s.translated(client, "host", enrich.SNAT, s.protocol, many)
	})
}

// addAddress gives a place's uplink another address.
func (s natStage) addAddress(place lab.Place, addr netip.Addr) {
	s.Helper()
	s.ip(place, "address", "replace", addr.String(), "dev", "eth0")
	s.Cleanup(func() { s.ip(place, "address", "flush", "to", addr.String(), "dev", "eth0") })
}

// leave opens connections from a container to the outside, which must see the address.
func (s natStage) leave(client *lab.Container, as netip.Addr) {
	s.Helper()
	seen := map[netip.AddrPort]netip.AddrPort{}
	for _, e := range s.exchange(client.Place, netip.Addr{}, s.beyond(), many) {
		seen[e.Local] = e.Seen
		if e.Seen.Addr() != as {
			s.Fatalf("the outside saw %s of %s", e.Seen, e.Local)
		}
	}
	s.requireTracked(s.host.Published(s, s.protocol, s.beyond()), many, func(entry lab.Entry) bool {
		return seen[entry.Original.Source] == entry.Reply.Destination
	})
}

// requireTracked makes sure that so many entries are as they must be.
func (s natStage) requireTracked(entries []lab.Entry, want int, is func(lab.Entry) bool) {
	s.Helper()
	got := 0
	for _, entry := range entries {
		if is(entry) {
			got++
		}
	}
	if got != want {
		s.Fatalf("conntrack has %d of %d entries, among %d", got, want, len(entries))
	}
}

// beyond is a port outside of the host that no other case uses: connection tracking remembers by addresses and ports, and a
// container's address is soon another's.
func (s natStage) beyond() netip.AddrPort {
	return netip.AddrPortFrom(s.pick(lab.OutsideAddress, lab.OutsideAddress6), s.published)
}

func pingEgress(s natStage) {
	client := s.run("client")
	s.eachFamily(func(s natStage) {
		if r := client.Traffic(s, "ping", "--to", s.beyond().Addr().String(), "--count", strconv.Itoa(many)); r.Sent != many {
			s.Fatalf("%d echoes: %v", r.Sent, r.Errors)
		}
		protocol := map[lab.Family]string{lab.IPv4: "icmp", lab.IPv6: "icmpv6"}[s.family]
		s.requireTracked(s.trackedFrom(client, protocol), many, lab.Entry.Translated)
		s.translated(client, "host", enrich.Masquerade, "icmp", many)
	})
}

func (s natStage) trackedFrom(client *lab.Container, protocol string) []lab.Entry {
	s.Helper()
	return s.host.Tracked(s, s.family, "--proto", protocol, "--orig-src", s.at(client).Addr().String())
}

// sctpEgress asks for associations. Nobody outside knows the protocol: what counts is what connection tracking makes of it.
func sctpEgress(s natStage) {
	client := s.run("client")
	s.eachFamily(func(s natStage) {
		if r := client.Traffic(s, "sctp-init", "--to", s.beyond().String(), "--count", strconv.Itoa(many)); r.Sent != many {
			s.Fatalf("%d asked for", r.Sent)
		}
		s.requireTracked(s.trackedFrom(client, "sctp"), many, lab.Entry.Translated)
		s.translated(client, "host", enrich.Masquerade, "sctp", many)
	})
}

// embeddedLookup asks Docker's resolver, to which rules in the container's own namespace lead.
func embeddedLookup(s natStage) {
	named := s.run("named")
	client := s.run("client")
	if r := client.Traffic(s, "lookup", named.Name, "--count", strconv.Itoa(many)); r.Sent != many {
		s.Fatalf("%d lookups: %v", r.Sent, r.Errors)
	}
	resolver := netip.MustParseAddrPort("127.0.0.11:53")
	s.requireTracked(client.Published(s, "udp", resolver), many, lab.Entry.Translated)
	s.translated(client, "container", enrich.EmbeddedDNS, "udp", many)
}

// crowd has 65,000 translations at the same time, which nobody answers.
func crowd(s natStage) {
	const sources, destinations = 65, 1000
	client := s.run("client")
	first := netip.AddrPortFrom(lab.OutsideAddress, 20000)
	ignored := s.outside.AddRule(s, s.family, "raw", "PREROUTING", "-p", "udp", "--dport", "20000:20999", "-j", "DROP")
	client.Traffic(s, "udp-spread", "--to", first.String(), "--sources", strconv.Itoa(sources), "--destinations", strconv.Itoa(destinations))
	if n := ignored.Packets(s); n != sources*destinations {
		s.Fatalf("%d of %d datagrams came out", n, sources*destinations)
	}
	s.requireTracked(s.trackedFrom(client, "udp"), sources*destinations, func(entry lab.Entry) bool {
		return entry.Translated() && entry.Original.Destination.Port() >= first.Port()
	})
	s.translated(client, "host", enrich.Masquerade, "udp", sources*destinations)
}

// opened are connections that are older than the agent.
type opened struct {
	stage
	client *lab.Container
}

// openBefore opens connections to the outside and keeps traffic on them.
func openBefore(s stage) opened {
	s.name = "before"
	o := opened{s, s.run("client")}
	s.outside.Serve(s, "mirror", port+1)
	for _, protocol := range []string{"tcp", "udp"} {
		o.client.Start(s, "exchange", "--to", netip.AddrPortFrom(lab.OutsideAddress, port+1).String(), "--protocol", protocol,
			"--count", strconv.Itoa(many), "--repeat", "1000", "--interval", "5s")
	}
	lab.Eventually(s, patience, "old connections", func() bool { return o.open("tcp") == many && o.open("udp") == many })
	return o
}

func (o opened) open(protocol string) (n int) {
	for _, entry := range o.host.Tracked(o, lab.IPv4, "--proto", protocol, "--orig-src", o.at(o.client).Addr().String()) {
		if entry.Answered && entry.Translated() {
			n++
		}
	}
	return n
}

// requireOpen makes sure that the connections were there all the time.
func (o opened) requireOpen() {
	o.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		if n := o.open(protocol); n != many {
			o.Errorf("%d old %s connections are left", n, protocol)
		}
	}
}
