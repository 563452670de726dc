// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strconv"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// hostCases are of nobody's published ports.
func hostCases() []natCase {
	return []natCase{
		{"redirect", bothFamilies, redirect},
		{"dead-neighbour", bothFamilies, nobodyThere},
		{"host-network", bothFamilies, onHostNetwork},
		{"macvlan", ipv4Only, macvlanClient},
	}
}

// redirect leads the outside to sockets of the host, of which that of UDP says nothing.
func redirect(s natStage) {
	const mirror, silent = port + 2, port + 3
	s.host.Serve(s, "mirror", mirror)
	s.host.Serve(s, "udp-listen", silent)
	s.each(func(s natStage) {
		to := s.door()
		listener := map[string]int{"tcp": mirror, "udp": silent}[s.protocol]
		rule := s.host.AddRule(s, s.family, "nat", "PREROUTING", "-p", s.protocol, "--dport", strconv.Itoa(int(to.Port())),
			"-j", "REDIRECT", "--to-ports", strconv.Itoa(listener))
		if s.protocol == "tcp" {
			s.exchange(s.outside, netip.Addr{}, to, many)
		} else {
			s.outside.Traffic(s, "udp-spread", "--to", to.String(), "--sources", strconv.Itoa(many))
		}
		s.requireMatched(rule)
		s.requireTracked(s.host.Published(s, s.protocol, to), many, func(entry lab.Entry) bool {
			return entry.Translated() && entry.Answered == (s.protocol == "tcp")
		})
		s.translated(nil, "host", enrich.Redirect, s.protocol, many)
	})
}

// requireMatched makes sure that a rule has translated as many as there were.
func (s natStage) requireMatched(rule lab.Rule) {
	s.Helper()
	if n := rule.Packets(s); n != many {
		s.Fatalf("the rule translated %d of %d connections", n, many)
	}
}

// nobodyThere leads the outside to an address of the network that nobody has.
func nobodyThere(s natStage) {
	s.run("neighbour") // a bridge without ports is down
	s.eachFamily(func(s natStage) {
		nobody := netip.AddrPortFrom(s.pick(netip.MustParseAddr("10.80.0.253"), netip.MustParseAddr("fd00:80::253")), port)
		to := s.door()
		s.host.AddRule(s, s.family, "filter", "FORWARD", "-d", nobody.Addr().String(), "-j", "ACCEPT")
		rule := s.host.AddRule(s, s.family, "nat", "PREROUTING", "-p", "udp", "--dport", strconv.Itoa(int(to.Port())),
			"-j", "DNAT", "--to-destination", nobody.String())
		s.outside.Traffic(s, "udp-spread", "--to", to.String(), "--sources", strconv.Itoa(many))
		s.requireMatched(rule)
		s.requireTracked(s.host.Published(s, "udp", to), many, lab.Entry.Translated)
		s.translated(nil, "host", enrich.DNAT, "udp", many)
		// It leads to where containers are: a published port whose container has gone looks like that.
		s.books.add(seriesOf{metric: attempts, scope: "host", protocol: "udp", port: strconv.Itoa(int(to.Port()))}, s.name, many)
	})
}

// onHostNetwork is a server in the host's namespace: it sees everybody, and nothing translates.
func onHostNetwork(s natStage) {
	server := s.engine.Serve(s, s.name+"-server", []string{"--network", "host"}, "mirror", s.published)
	s.each(func(s natStage) {
		to := netip.AddrPortFrom(s.pick(lab.HostAddress, lab.HostAddress6), s.published)
		s.requireKept(s.exchange(s.outside, netip.Addr{}, to, many), server)
	})
}

// macvlanClient reaches a container that is on the wire itself.
func macvlanClient(s natStage) {
	s.network = s.name
	far := newMacvlan(s.stage)
	server := s.serve("server", "mirror")
	s.each(func(s natStage) {
		s.requireKept(s.exchange(far, netip.Addr{}, s.at(server), many), server)
	})
}

// requireKept makes sure that a server saw every client.
func (s natStage) requireKept(exchanged []lab.Exchange, server *lab.Container) {
	s.Helper()
	for _, e := range exchanged {
		if e.Local != e.Seen {
			s.Fatalf("%s saw %s of %s", server.Name, e.Seen, e.Local)
		}
	}
}
