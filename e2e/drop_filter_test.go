// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// filterCases drop by rules of netfilter.
func filterCases() []dropCase {
	return []dropCase{
		{"forward-drop", bothFamilies, forwardDrop},
		{"forward-reject", bothFamilies, forwardReject},
		{"inbound-drop", bothFamilies, inboundDrop},
		{"input-drop", bothFamilies, inputDrop},
		{"output-drop", bothFamilies, outputDrop},
		{"raw-drop", bothFamilies, rawDrop},
		{"icc-false", bothFamilies, iccFalse},
		{"internal-network", ipv4Only, internalNetwork}, // Docker 20.10 writes no rules for IPv6
		{"foreign-network", ipv4Only, foreignNetwork},
		{"inside-output", bothFamilies, insideOutput},
		{"inside-input", bothFamilies, insideInput},
	}
}

// filtered is what a rule on the host drops of what a container sends.
func filtered(c *lab.Container, n count, counter string) []drops {
	return kept(c, fault("filtered"), n, counter)
}

// kept is what a rule on the host drops of what a container sends, and what that means.
func kept(c *lab.Container, m meaning, n count, counter string) []drops {
	return of(c, "host", "tx", m, n, counter, "NETFILTER_DROP")
}

// withheld is what a rule on the host drops of what a container would receive, and what that means.
func withheld(c *lab.Container, m meaning, n count) []drops {
	return of(c, "host", "rx", m, n, "rule counter", "NETFILTER_DROP")
}

// source selects what comes from the container's address.
func (s stage) source(c *lab.Container) []string {
	s.Helper()
	return []string{"-s", s.at(c).Addr().String()}
}

// destination selects the case's traffic to the container's address.
func (s stage) destination(c *lab.Container) []string {
	s.Helper()
	return []string{"-d", s.at(c).Addr().String(), "-p", "udp"}
}

// userChain is where an operator puts rules about forwarding.
func (s stage) userChain() string {
	if s.family == lab.IPv6 {
		return "FORWARD" // Docker 20.10 writes no rules for IPv6
	}
	return "DOCKER-USER"
}

func forwardDrop(s stage) []drops {
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "filter", s.userChain(), append(s.source(victim), "-j", "DROP")...)
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	return filtered(victim, rule.Packets, "rule counter")
}

func forwardReject(s stage) []drops {
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "filter", s.userChain(), append(s.source(victim), "-j", "REJECT")...)
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	return filtered(victim, rule.Packets, "rule counter")
}

// inboundDrop drops what the outside sends to a container by a published port; before version 28 directly with IPv6.
func inboundDrop(s stage) []drops {
	victim := s.engine.Run(s, s.name+"-victim", []string{"--network", s.network, "--publish", "7000:7000/udp"})
	rule := s.host.AddRule(s, s.family, "filter", s.userChain(), append(s.destination(victim), "-j", "DROP")...)
	to, meant := s.pick(lab.HostAddress, lab.HostAddress6), policy("docker-user")
	if s.family == lab.IPv6 && !s.isGuarded() {
		to, meant = s.at(victim).Addr(), fault("filtered")
	}
	s.outside.Send(s, lab.Datagrams{To: netip.AddrPortFrom(to, port), Count: 100})
	return withheld(victim, meant, rule.Packets)
}

func inputDrop(s stage) []drops {
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "filter", "INPUT", append(s.source(victim), "-p", "udp", "-j", "DROP")...)
	to := netip.AddrPortFrom(s.pick(lab.HostAddress, lab.HostAddress6), port)
	victim.Send(s, lab.Datagrams{To: to, Count: 100})
	return filtered(victim, rule.Packets, "rule counter")
}

// outputDrop drops what the host itself sends to a container: a packet that has no device yet.
func outputDrop(s stage) []drops {
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "filter", "OUTPUT", append(s.destination(victim), "-j", "DROP")...)
	s.host.Send(s, lab.Datagrams{To: s.at(victim), Count: 100})
	return withheld(victim, fault("filtered"), rule.Packets)
}

func rawDrop(s stage) []drops {
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "raw", "PREROUTING", append(s.source(victim), "-p", "udp", "-j", "DROP")...)
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	return filtered(victim, rule.Packets, "rule counter")
}

// iccFalse is a network whose containers may not talk with each other.
func iccFalse(s stage) []drops {
	s.network = s.engine.Network(s, s.name, "--subnet", "10.81.0.0/24", "--ipv6", "--subnet", "fd00:81::/64",
		"--opt", "com.docker.network.bridge.enable_icc=false")
	bridge := s.engine.Bridge(s, s.network)
	var rule lab.Rule
	if s.family == lab.IPv4 || s.isGuarded() {
		rule = s.host.FindRule(s, s.family, "filter", "FORWARD -i "+bridge+" -o "+bridge, "-j DROP")
	} else {
		rule = s.host.AddRule(s, s.family, "filter", "FORWARD", "-i", bridge, "-o", bridge, "-p", "udp", "-j", "DROP")
	}
	victim, other := s.run("victim"), s.run("other")
	if s.family == lab.IPv6 && s.isGuarded() { // the engine's own rule drops neighbour discovery too
		s.introduce(victim, other)
		victim.Send(s, lab.Datagrams{To: s.at(other), Count: 100})
		return kept(victim, policy("icc-false"), s.noneArrived(other, 100), "sent - InDatagrams")
	}
	victim.Send(s, lab.Datagrams{To: s.at(other), Count: 100})
	return kept(victim, policy("icc-false"), rule.Packets, "icc rule's counter")
}

// internalNetwork reaches out from a network that Docker closed. Whether the container has a default route depends on
// the engine; with one, Docker's rules decide.
func internalNetwork(s stage) []drops {
	s.network = s.engine.Network(s, s.name, "--internal", "--subnet", "10.82.0.0/24")
	victim := s.run("victim")
	s.ip(victim.Place, "route", "replace", "default", "via", "10.82.0.1")
	rule := s.host.FindRule(s, s.family, "filter", "DOCKER-ISOLATION-STAGE-1", "-i "+s.engine.Bridge(s, s.network), "-j DROP")
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	return kept(victim, policy("internal-net"), rule.Packets, "isolation rule's counter")
}

// foreignNetwork sends to a container on a network that the sender is not on.
func foreignNetwork(s stage) []drops {
	victim := s.run("victim")
	s.network = s.engine.Network(s, s.name, "--subnet", "10.83.0.0/24")
	other := s.run("other")
	rule := s.isolation(other)
	victim.Send(s, lab.Datagrams{To: s.at(other), Count: 100})
	return kept(victim, policy("isolation-between-bridges"), rule.Packets, "isolation rule's counter")
}

// inside is what a rule in a container's own namespace drops.
func inside(c *lab.Container, direction string, rule lab.Rule) []drops {
	return of(c, "container", direction, policy("own-firewall"), rule.Packets, "rule counter", "NETFILTER_DROP")
}

func insideOutput(s stage) []drops {
	victim := s.run("victim")
	rule := victim.AddRule(s, s.family, "filter", "OUTPUT", "-p", "udp", "-j", "DROP")
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	return inside(victim, "tx", rule)
}

func insideInput(s stage) []drops {
	victim, sender := s.run("victim"), s.run("sender")
	rule := victim.AddRule(s, s.family, "filter", "INPUT", "-p", "udp", "-j", "DROP")
	sender.Send(s, lab.Datagrams{To: s.at(victim), Count: 100})
	return inside(victim, "rx", rule)
}
