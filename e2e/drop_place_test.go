// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// placeCases drop where there is no bridge.
func placeCases() []dropCase {
	return []dropCase{
		{"host-network", bothFamilies, hostNetwork},
		{"macvlan-inside", ipv4Only, macvlanInside},
		{"macvlan-closed", ipv4Only, macvlanClosed},
	}
}

// hostNetwork drops what a container on the host's network sends. It shares the host's namespace, so only the
// sender's control group tells whose it was.
func hostNetwork(s stage) []drops {
	c := s.engine.Run(s, s.name+"-victim", []string{"--network", "host"})
	to := netip.AddrPortFrom(s.elsewhere().Addr(), port)
	rule := s.host.AddRule(s, s.family, "filter", "OUTPUT", "-p", "udp", "-d", to.Addr().String(), "-j", "DROP")
	c.Send(s, lab.Datagrams{To: to, Count: 100})
	lost := filtered(c, rule.Packets, "rule counter")
	lost[0].orNobody = true
	return lost
}

// newMacvlan makes a macvlan network over a veth device whose other end is a namespace of its own.
func newMacvlan(s stage) lab.Place {
	s.Helper()
	far := lab.NewNamespace(s, "far")
	s.host.Run(s, "ip", "link", "add", "parent0", "type", "veth", "peer", "name", "far0", "netns", "far")
	s.Cleanup(func() { s.host.Run(s, "ip", "link", "delete", "parent0") }) // a namespace takes its time to end
	s.host.Run(s, "ip", "link", "set", "parent0", "up")
	far.Run(s, "ip", "address", "add", "10.84.0.1/24", "dev", "far0")
	far.Run(s, "ip", "link", "set", "far0", "up")
	s.engine.Network(s, s.network, "--driver", "macvlan", "--subnet", "10.84.0.0/24", "--gateway", "10.84.0.1",
		"--opt", "parent=parent0")
	return far
}

func macvlanInside(s stage) []drops {
	s.network = s.name
	newMacvlan(s)
	victim := s.run("victim")
	rule := victim.AddRule(s, s.family, "filter", "OUTPUT", "-p", "udp", "-j", "DROP")
	victim.Send(s, lab.Datagrams{To: netip.MustParseAddrPort("10.84.0.1:7000"), Count: 100})
	return inside(victim, "tx", rule)
}

func macvlanClosed(s stage) []drops {
	s.network = s.name
	far := newMacvlan(s)
	owner := s.run("owner")
	far.Send(s, lab.Datagrams{To: s.at(owner), Count: 100})
	return of(owner, "container", "rx", application("no-listener"), snmp(owner.Place, "Udp", "NoPorts"), "NoPorts", "NO_SOCKET", "NOT_SPECIFIED")
}
