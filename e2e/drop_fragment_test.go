// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// fragmentCases send datagrams of three fragments each: one dropped datagram is one drop, and a delivered one none.
func fragmentCases() []dropCase {
	return []dropCase{
		{"fragments-dropped", bothFamilies, fragmentsDropped},
		{"fragments-refused", bothFamilies, fragmentsRefused},
		{"fragments-delivered", bothFamilies, fragmentsDelivered},
		{"fragments-incomplete", bothFamilies, fragmentsIncomplete},
		{"fragments-incomplete-inside", bothFamilies, fragmentsIncompleteInside},
	}
}

// threeFragments is a payload that takes three packets.
const threeFragments = 4000

// fragmentsDropped are put together by the host's connection tracking and dropped by a rule.
func fragmentsDropped(s stage) []drops {
	victim := s.run("victim")
	s.host.AddRule(s, s.family, "filter", "INPUT", "-m", "conntrack", "--ctstate", "NEW") // turns tracking on
	rule := s.host.AddRule(s, s.family, "filter", s.userChain(), append(s.source(victim), "-p", "udp", "-j", "DROP")...)
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 30, Size: threeFragments})
	return append(filtered(victim, rule.Packets, "rule counter"), noFault(victim)...)
}

// fragmentsRefused are put together by the container and have no socket.
func fragmentsRefused(s stage) []drops {
	owner, sender := s.run("owner"), s.run("sender")
	sender.Send(s, lab.Datagrams{To: s.at(owner), Count: 30, Size: threeFragments})
	return append(of(owner, "container", "rx", application("no-listener"), snmp(owner.Place, s.udpProtocol(), "NoPorts"), "NoPorts", "NO_SOCKET", "NOT_SPECIFIED"), noFault(sender)...)
}

// fragmentsDelivered reach a socket that reads them.
func fragmentsDelivered(s stage) []drops {
	owner, sender := s.serve("owner", "udp-listen"), s.run("sender")
	sent := sender.Send(s, lab.Datagrams{To: s.at(owner), Count: 30, Size: threeFragments})
	lab.Eventually(s, patience, "all datagrams to arrive", func() bool {
		return owner.SNMP(s, s.udpProtocol(), "InDatagrams") == sent
	})
	return append(noFault(owner), noFault(sender)...)
}

// fragmentsIncomplete lose their first fragment to somebody's program. The host's connection tracking waits for it in vain.
func fragmentsIncomplete(s stage) []drops {
	timeout := "net.ipv4.ipfrag_time"
	if s.family == lab.IPv6 {
		timeout = "net.netfilter.nf_conntrack_frag6_timeout"
	}
	sender, receiver := s.run("sender"), s.serve("receiver", "udp-listen")
	before := strings.TrimSpace(s.host.Run(s, "sysctl", "-n", timeout))
	s.Cleanup(func() { s.host.Run(s, "sysctl", "-w", timeout+"="+before) })
	dropped, lost := s.incomplete(sender, receiver, s.host, timeout)
	return append(lost, of(sender, "host", "tx", fault("fragment-lost"), dropped, "XDP program's counter", "FRAG_REASM_TIMEOUT", "NOT_SPECIFIED")...)
}

// fragmentsIncompleteInside get to the container, which waits.
func fragmentsIncompleteInside(s stage) []drops {
	s.bypassNetfilter()
	timeout := "net.ipv4.ipfrag_time"
	if s.family == lab.IPv6 {
		timeout = "net.ipv6.ip6frag_time"
	}
	sender, receiver := s.run("sender"), s.serve("receiver", "udp-listen")
	dropped, lost := s.incomplete(sender, receiver, receiver.Place, timeout)
	return append(lost, of(receiver, "container", "rx", fault("fragment-lost"), dropped, "XDP program's counter", "FRAG_REASM_TIMEOUT", "NOT_SPECIFIED")...)
}

// incomplete sends datagrams of two fragments, of which a program drops the first. The sysctl is for how many seconds the
// place waits for the rest. It returns the number of datagrams, and what the program dropped.
func (s stage) incomplete(sender, receiver *lab.Container, waits lab.Place, timeout string) (count, []drops) {
	s.Helper()
	waits.Run(s, "sysctl", "-w", timeout+"=1")
	dropper := lab.DropXDP(s, sender.HostLink(s, "eth0"), false)
	sender.Send(s, lab.Datagrams{To: s.at(receiver), Count: 30, Size: 2000})
	time.Sleep(1500 * time.Millisecond)
	return dropper.Packets, of(sender, "host", "tx", fault("foreign-program"), dropper.Packets, "XDP program's counter", "XDP", "NOT_SPECIFIED")
}

// noFault is that nothing was dropped without a name.
func noFault(c *lab.Container) []drops {
	return of(c, "host", "tx", fault("unknown"), exactly(0), nothing, "NOT_SPECIFIED")
}
