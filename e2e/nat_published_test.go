// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strconv"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// publishedCases connect to published ports.
func publishedCases() []natCase {
	return []natCase{
		{"remote", bothFamilies, remoteClient},
		{"host-address", bothFamilies, hostAddress},
		{"loopback", bothFamilies, loopbackClient},
		{"same-bridge", ipv4Only, sameBridge},
		{"other-bridge", ipv4Only, otherBridge},
		{"no-rule", bothFamilies, noRule},
		{"ipv6-to-ipv4", ipv6Only, ipv6ToIPv4},
		{"broad-masquerade", bothFamilies, broadMasquerade},
		{"rule-midway", ipv4Only, ruleMidway},
		{"rule-per-source", ipv4Only, rulePerSource},
		{"closed", bothFamilies, closedPort},
	}
}

// remoteClient comes by Docker's rule, which leaves the source as it is.
func remoteClient(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.visit(visit{from: s.outside, to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.NoMechanism})
	})
}

// hostAddress is a process of the host that uses the host's address, as everybody else does.
func hostAddress(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.visit(visit{from: s.host, to: s.door(), server: server, client: enrich.ClientHost, mechanism: enrich.NoMechanism})
	})
}

// loopbackClient is a process of the host that uses the loopback address, which Docker's rule leaves out.
func loopbackClient(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		to := s.doorAt(s.pick(loopback.Addr(), netip.IPv6Loopback()))
		s.visit(visit{from: s.host, to: to, server: server, client: enrich.ClientHost, mechanism: enrich.UserlandProxy})
	})
}

// sameBridge is a container beside the server. Before 28.0 docker-proxy answers UDP from the bridge's address, which the client
// has not asked.
func sameBridge(s natStage) {
	server, client := s.mirror("server"), s.run("client")
	v := visit{from: client.Place, to: s.door(), server: server, client: enrich.ClientContainer, mechanism: enrich.UserlandProxy}
	s.protocol = "tcp"
	s.visit(v)
	s.protocol = "udp"
	if s.engine.Major(s) >= 28 {
		s.visit(v)
		return
	}
	client.Traffic(s, "udp-spread", "--to", v.to.String(), "--sources", strconv.Itoa(many))
	s.requireTracked(s.host.Published(s, "udp", v.to), many, func(entry lab.Entry) bool { return !entry.Translated() && !entry.Answered })
	s.book(v, many, 0)
}

// otherBridge is a container on another network.
func otherBridge(s natStage) {
	server := s.mirror("server")
	client := s.own("10.87.0.0/24").run("client")
	s.protocol = "tcp"
	s.visit(visit{from: client.Place, to: s.door(), server: server, client: enrich.ClientContainer, mechanism: enrich.UserlandProxy})
}

// noRule takes the port's rule away, so that docker-proxy gets the remote clients too.
func noRule(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.host.AddRule(s, s.family, "nat", "PREROUTING", "-p", s.protocol, "--dport", strconv.Itoa(int(s.door().Port())), "-j", "ACCEPT")
		s.visit(visit{from: s.outside, to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.UserlandProxy})
	})
}

// ipv6ToIPv4 asks by IPv6 for a container that has none.
func ipv6ToIPv4(s natStage) {
	s.network = s.engine.Network(s, s.name, "--subnet", "10.88.0.0/24")
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.visit(visit{from: s.outside, to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.IPv6ToIPv4Proxy})
	})
}

// broadMasquerade has somebody masquerade whatever leaves by whatever device.
func broadMasquerade(s natStage) {
	server := s.mirror("server")
	for _, family := range s.families {
		s.host.AddRule(s, family, "nat", "POSTROUTING", "-j", "MASQUERADE")
	}
	s.each(func(s natStage) {
		s.visit(visit{from: s.outside, to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.InboundMasquerade})
	})
}

// ruleMidway has the rule come when half of the clients are through.
func ruleMidway(s natStage) {
	server := s.mirror("server")
	s.protocol = "tcp"
	v := visit{from: s.outside, to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.NoMechanism, count: many / 2}
	s.visit(v)
	s.masqueradeTo(server)
	v.mechanism = enrich.InboundMasquerade
	s.visit(v)
}

// rulePerSource has the rule for one of two clients, who come in turn.
func rulePerSource(s natStage) {
	server := s.mirror("server")
	other := netip.MustParseAddr("192.0.2.77")
	s.addAddress(s.outside, other)
	s.masqueradeTo(server, "-s", other.String())
	for range 5 {
		for _, s.protocol = range []string{"tcp", "udp"} {
			v := visit{from: s.outside, to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.NoMechanism, count: many / 10}
			s.visit(v)
			v.source, v.mechanism = other, enrich.InboundMasquerade
			s.visit(v)
		}
	}
}

func (s natStage) masqueradeTo(server *lab.Container, choose ...string) {
	s.Helper()
	s.host.AddRule(s, s.family, "nat", "POSTROUTING", append(choose, "-d", s.at(server).Addr().String(), "-j", "MASQUERADE")...)
}

// closedPort leads to a container that does not listen.
func closedPort(s natStage) {
	server := s.engine.Run(s, s.name+"-server", append([]string{"--network", s.network}, s.publish()...))
	s.each(func(s natStage) {
		v := visit{to: s.door(), server: server, client: enrich.ClientRemote, mechanism: enrich.NoMechanism}
		rule := s.host.FindRule(s, s.family, "nat", "-A DOCKER", "-p "+s.protocol, "--dport "+strconv.Itoa(int(v.to.Port())))
		if s.protocol == "tcp" {
			refused := s.outside.Traffic(s, "tcp-connect", "--to", v.to.String(), "--count", strconv.Itoa(many), "--timeout", "10s")
			if refused.Errors["ECONNREFUSED"] != many {
				s.Fatalf("%d connections: %v", refused.Sent, refused.Errors)
			}
		} else {
			s.outside.Traffic(s, "udp-spread", "--to", v.to.String(), "--sources", strconv.Itoa(many))
		}
		s.requireMatched(rule) // conntrack forgets at once what was refused
		s.book(v, many, 0)
	})
}
