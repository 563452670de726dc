// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// isolationCases drop between those whom Docker, or the host, keeps apart.
func isolationCases() []dropCase {
	return []dropCase{
		{"unpublished-port", bothFamilies, unpublishedPort},
		{"direct-route", bothFamilies, directRoute},
		{"foreign-published", ipv4Only, foreignPublished}, // Docker 20.10 writes no rules for IPv6
		{"foreign-translated", ipv4Only, foreignTranslated},
		{"forward-policy", ipv4Only, forwardPolicy},
		{"forward-policy-bridged", ipv4Only, forwardPolicyBridged},
		{"host-firewall", bothFamilies, hostFirewall},
	}
}

// keptOut is what never gets to a container since somebody decided so.
func keptOut(c *lab.Container, cause string, n count, counter string) []drops {
	return of(c, "host", "rx", policy(cause), n, counter, "NETFILTER_DROP")
}

// strangers is what the host drops that is no container's.
func strangers(m meaning, n count, counter string, reasons ...string) []drops {
	return []drops{{scope: "host", direction: "rx", meaning: m, reasons: reasons, count: n, counter: counter}}
}

// openWay lets the outside send straight to containers' addresses; by IPv6 it always can.
func (s stage) openWay() {
	s.Helper()
	if s.family == lab.IPv6 {
		return
	}
	s.ip(s.outside, "route", "add", subnet, "via", lab.HostAddress.String())
	s.undo(s.outside, "route", "delete", subnet, "via", lab.HostAddress.String())
}

// policyCount is what the policy DROP that Docker gave the chain FORWARD drops from now on.
func (s stage) policyCount() count {
	s.Helper()
	dropped := func(tb testing.TB) uint64 { return s.host.PolicyPackets(tb, s.family, "filter", "FORWARD", "DROP") }
	return since(dropped, dropped(s))
}

// isGuarded tells whether the engine drops, before routing and for both families, what comes to a container's own address by
// anything but its bridge: since version 28.
func (s stage) isGuarded() bool { return s.engine.Major(s) >= 28 }

// guard finds the rule by which it does so.
func (s stage) guard(c *lab.Container) lab.Rule {
	s.Helper()
	return s.host.FindRule(s, s.family, "raw", "PREROUTING -d "+s.at(c).Addr().String()+"/", "! -i "+s.engine.Bridge(s, s.network), "-j DROP")
}

// isolation finds the rule that keeps other networks away from a container on the stage's.
func (s stage) isolation(c *lab.Container) lab.Rule {
	s.Helper()
	if s.isGuarded() {
		return s.guard(c)
	}
	return s.host.FindRule(s, s.family, "filter", "DOCKER-ISOLATION-STAGE-2", "-o "+s.engine.Bridge(s, s.network), "-j DROP")
}

// unpublishedPort asks for a port at the container's own address. Docker 20.10 has no rule for that but its policy, and
// nothing for IPv6: the rule there is the one of Docker 27.
func unpublishedPort(s stage) []drops {
	s.openWay()
	victim := s.run("victim")
	if s.isGuarded() {
		rule := s.guard(victim)
		s.outside.Send(s, lab.Datagrams{To: s.at(victim), Count: 100})
		return keptOut(victim, "direct-route-drop", rule.Packets, "raw rule's counter")
	}
	var dropped count
	if s.family == lab.IPv4 {
		dropped = s.policyCount()
	} else {
		bridge := s.engine.Bridge(s, s.network)
		dropped = s.host.AddRule(s, s.family, "filter", "FORWARD", "!", "-i", bridge, "-o", bridge, "-p", "udp", "-j", "DROP").Packets
	}
	s.outside.Send(s, lab.Datagrams{To: s.at(victim), Count: 100})
	return keptOut(victim, "unpublished-port", dropped, "FORWARD's counter")
}

// directRoute is what Docker has written before routing since version 28, for published ports too.
func directRoute(s stage) []drops {
	s.openWay()
	victim := s.engine.Run(s, s.name+"-victim", []string{"--network", s.network, "--publish", "7001:7000/udp"})
	rule := s.host.AddRule(s, s.family, "raw", "PREROUTING",
		"-d", s.at(victim).Addr().String(), "!", "-i", s.engine.Bridge(s, s.network), "-j", "DROP")
	s.outside.Send(s, lab.Datagrams{To: s.at(victim), Count: 100})
	return keptOut(victim, "direct-route-drop", rule.Packets, "raw rule's counter")
}

// newForeign starts a container on a network of its own, with a published port, and finds the rule that keeps other
// networks away from it.
func newForeign(s stage, subnet, publish string) (stage, *lab.Container, lab.Rule) {
	s.Helper()
	s.network = s.engine.Network(s, s.name, "--subnet", subnet)
	other := s.engine.Run(s, s.name+"-other", []string{"--network", s.network, "--publish", publish})
	rule := s.host.FindRule(s, s.family, "filter", "DOCKER-ISOLATION-STAGE-2", "-o "+s.engine.Bridge(s, s.network), "-j DROP")
	return s, other, rule
}

// foreignPublished asks for a published port at the address of a container on another network: by that it is closed.
func foreignPublished(s stage) []drops {
	victim := s.run("victim")
	s, other, rule := newForeign(s, "10.85.0.0/24", "7002:7000/udp")
	if s.isGuarded() {
		rule = s.guard(other)
	}
	victim.Send(s, lab.Datagrams{To: s.at(other), Count: 100})
	return kept(victim, policy("isolation-between-bridges"), rule.Packets, "isolation rule's counter")
}

// foreignTranslated asks for it at the host's address, where it is open. Without the userland proxy Docker's rules
// translate that for containers too, and then keep the networks apart all the same (until version 28).
func foreignTranslated(s stage) []drops {
	victim := s.run("victim")
	s, other, rule := newForeign(s, "10.86.0.0/24", "7003:7000/udp")
	s.translate(netip.AddrPortFrom(lab.HostAddress, 7003), s.at(other))
	victim.Send(s, lab.Datagrams{To: netip.AddrPortFrom(lab.HostAddress, 7003), Count: 100})
	return filtered(victim, rule.Packets, "isolation rule's counter")
}

// newGuest makes a namespace that reaches the world by the host, as a virtual machine does, and the host's end of its link.
func newGuest(s stage, name, address string) (guest lab.Place, link string) {
	s.Helper()
	guest, link = lab.NewNamespace(s, name), name+"0"
	s.host.Run(s, "ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
	s.Cleanup(func() { s.host.Run(s, "ip", "link", "delete", link) }) // a namespace takes its time to end
	s.host.Run(s, "ip", "link", "set", link, "up")
	guest.Run(s, "ip", "address", "add", address, "dev", "eth0")
	guest.Run(s, "ip", "link", "set", "eth0", "up")
	return guest, link
}

// forwardPolicy forwards for somebody who is not Docker's.
func forwardPolicy(s stage) []drops {
	guest, link := newGuest(s, "guest", "10.87.0.2/24")
	s.host.Run(s, "ip", "address", "add", "10.87.0.1/24", "dev", link)
	guest.Run(s, "ip", "route", "add", "default", "via", "10.87.0.1")
	dropped := s.policyCount()
	guest.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	return strangers(fault("forward-policy-drop"), dropped, "FORWARD's counter", "NETFILTER_DROP")
}

// forwardPolicyBridged is between two on a bridge, whose frames netfilter gets to see as if they were forwarded.
func forwardPolicyBridged(s stage) []drops {
	s.host.Run(s, "ip", "link", "add", "guests", "type", "bridge")
	s.Cleanup(func() { s.host.Run(s, "ip", "link", "delete", "guests") })
	s.host.Run(s, "ip", "link", "set", "guests", "up")
	a, linkA := newGuest(s, "a", "10.88.0.2/24")
	_, linkB := newGuest(s, "b", "10.88.0.3/24")
	for _, link := range []string{linkA, linkB} {
		s.host.Run(s, "ip", "link", "set", link, "master", "guests")
	}
	dropped := s.policyCount()
	a.Send(s, lab.Datagrams{To: netip.MustParseAddrPort("10.88.0.3:7000"), Count: 100})
	return strangers(fault("forward-policy-drop"), dropped, "FORWARD's counter", "NETFILTER_DROP")
}

// hostFirewall keeps the host's own ports closed, which is no finding.
func hostFirewall(s stage) []drops {
	rule := s.host.AddRule(s, s.family, "filter", "INPUT", "-i", "eth0", "-p", "udp", "-j", "DROP")
	s.outside.Send(s, lab.Datagrams{To: s.atHost(), Count: 100})
	lost := strangers(policy("host-firewall"), rule.Packets, "rule counter", "NETFILTER_DROP")
	lost[0].nobodys = true
	return lost
}
