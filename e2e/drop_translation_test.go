// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strconv"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// translationCases drop what was translated to where it cannot go.
func translationCases() []dropCase {
	return []dropCase{
		{"hairpin-off", bothFamilies, hairpinOff},
		{"hairpin-on", ipv4Only, hairpinOn}, // IPv6 takes packets from a host's own address
		{"loopback-outside", ipv4Only, loopbackOutside},
		{"loopback-container", ipv4Only, loopbackContainer},
		{"loopback-source", ipv4Only, loopbackSource},
	}
}

// loopback is where the host's services listen that nobody else is to reach.
var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)

// translate leads what is sent to one address to another, whoever sends it: Docker does so without its userland proxy.
func (s stage) translate(from, to netip.AddrPort) {
	s.Helper()
	s.host.AddRule(s, s.family, "nat", "PREROUTING",
		"-p", "udp", "-d", from.Addr().String(), "--dport", strconv.Itoa(int(from.Port())), "-j", "DNAT", "--to-destination", to.String())
}

// atHost is the traffic's port at the host's address.
func (s stage) atHost() netip.AddrPort {
	return netip.AddrPortFrom(s.pick(lab.HostAddress, lab.HostAddress6), port)
}

// hairpinOff talks to itself by the host's address: the bridge does not send back by the port it received from.
func hairpinOff(s stage) []drops {
	victim := s.serve("victim", "udp-listen")
	s.translate(s.atHost(), s.at(victim))
	sent := victim.Send(s, lab.Datagrams{To: s.atHost(), Count: 50})
	return of(victim, "host", "tx", fault("hairpin"), s.noneArrived(victim, sent), "sent, none received", "NOT_SPECIFIED")
}

// hairpinOn has the port send back, but nothing masquerades: the container gets packets from its own address.
func hairpinOn(s stage) []drops {
	victim := s.serve("victim", "udp-listen")
	s.host.Run(s, "bridge", "link", "set", "dev", victim.HostLink(s, "eth0"), "hairpin", "on")
	s.translate(s.atHost(), s.at(victim))
	sent := victim.Send(s, lab.Datagrams{To: s.atHost(), Count: 50})
	return of(victim, "container", "rx", fault("hairpin"), s.noneArrived(victim, sent), "sent, none received", "IP_LOCAL_SOURCE", "NOT_SPECIFIED")
}

// loopbackOutside leads the outside to where only the host itself may come from. No container loses by it.
func loopbackOutside(s stage) []drops {
	s.host.Serve(s, "udp-listen", port)
	s.translate(s.atHost(), loopback)
	before := s.host.SNMP(s, "Udp", "InDatagrams")
	sent := s.outside.Send(s, lab.Datagrams{To: s.atHost(), Count: 50})
	if got := s.host.SNMP(s, "Udp", "InDatagrams") - before; got != 0 {
		s.Fatalf("%d datagrams came through", got)
	}
	lost := strangers(fault("localnet"), exactly(sent), "sent, none received", "IP_LOCALNET", "NOT_SPECIFIED")
	lost[0].nobodys = true
	return lost
}

// loopbackContainer leads a container there.
func loopbackContainer(s stage) []drops {
	victim := s.run("victim")
	s.host.Serve(s, "udp-listen", port)
	s.translate(s.atHost(), loopback)
	before := s.host.SNMP(s, "Udp", "InDatagrams")
	sent := victim.Send(s, lab.Datagrams{To: s.atHost(), Count: 50})
	if got := s.host.SNMP(s, "Udp", "InDatagrams") - before; got != 0 {
		s.Fatalf("%d datagrams came through", got)
	}
	return of(victim, "host", "tx", fault("localnet"), exactly(sent), "sent, none received", "IP_LOCALNET", "NOT_SPECIFIED")
}

// loopbackSource leads the host's own connections from its loopback address to a container, where that may not appear.
// Docker allows it (route_localnet) if it runs without the userland proxy, until somebody resets that.
func loopbackSource(s stage) []drops {
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "nat", "OUTPUT", "-p", "tcp", "-d", loopback.Addr().String(), "--dport", strconv.Itoa(port),
		"-j", "DNAT", "--to-destination", s.at(victim).String())
	s.host.Connect(s, loopback, 20)
	return of(victim, "host", "rx", fault("localnet"), rule.Packets, "rule counter", "NETFILTER_DROP")
}
