// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// fragmentCases send datagrams of three fragments each: one dropped datagram is one drop, and a delivered one none.
func fragmentCases() []dropCase {
	return []dropCase{
		{"fragments-dropped", bothFamilies, fragmentsDropped},
		{"fragments-refused", bothFamilies, fragmentsRefused},
		{"fragments-delivered", bothFamilies, fragmentsDelivered},
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

// noFault is that nothing was dropped without a name.
func noFault(c *lab.Container) []drops {
	return of(c, "host", "tx", fault("unknown"), exactly(0), nothing, "NOT_SPECIFIED")
}
