// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// socketCases drop where a packet has reached its container.
func socketCases() []dropCase {
	return []dropCase{
		{"udp-closed", bothFamilies, udpClosed},
		{"tcp-closed", bothFamilies, tcpClosed},
		{"paused-queue", bothFamilies, pausedQueue},
		{"listen-overflow", bothFamilies, listenOverflow},
		{"bad-checksum", bothFamilies, badChecksum},
	}
}

// udpProtocol is the name under which the kernel counts the family's UDP.
func (s stage) udpProtocol() string {
	if s.family == lab.IPv6 {
		return "Udp6"
	}
	return "Udp"
}

// snmp reads one of a namespace's protocol counters.
func snmp(p lab.Place, protocol, name string) count {
	return func(tb testing.TB) uint64 { return p.SNMP(tb, protocol, name) }
}

func udpClosed(s stage) []drops {
	owner, sender := s.run("owner"), s.run("sender")
	sender.Send(s, lab.Datagrams{To: s.at(owner), Count: 100})
	return of(owner, "container", "rx", application("no-listener"), snmp(owner.Place, s.udpProtocol(), "NoPorts"), "NoPorts", "NO_SOCKET", "NOT_SPECIFIED")
}

func tcpClosed(s stage) []drops {
	owner, sender := s.run("owner"), s.run("sender")
	refused := sender.Connect(s, s.at(owner), 50).Errors["ECONNREFUSED"]
	return of(owner, "container", "rx", application("no-listener"), exactly(uint64(refused)), "connections refused", "NO_SOCKET", "NOT_SPECIFIED")
}

// pausedQueue fills the socket of a container that cannot read.
func pausedQueue(s stage) []drops {
	owner, sender := s.serve("owner", "udp-listen", "--receive-buffer=4096"), s.run("sender")
	s.engine.Docker(s, "pause", owner.Name)
	s.Cleanup(func() { s.engine.Docker(s, "unpause", owner.Name) })
	sender.Send(s, lab.Datagrams{To: s.at(owner), Count: 200, Size: 500})
	return of(owner, "container", "rx", application("rcvbuf"), snmp(owner.Place, s.udpProtocol(), "RcvbufErrors"), "RcvbufErrors", "SOCKET_RCVBUFF", "NOT_SPECIFIED")
}

// listenOverflow opens more connections than a backlog holds. Not every kernel reports each of them as a drop, and some
// none; the namespace's own counter is the most that there can be.
func listenOverflow(s stage) []drops {
	sender := s.run("sender") // ends last, so that the owner's resets reach it
	owner := s.serve("owner", "tcp-listen", "--never-accept", "--backlog=2")
	sender.Connect(s, s.at(owner), 10)
	lost := of(owner, "container", "rx", application("accept-overflow"), snmp(owner.Place, "TcpExt", "ListenOverflows"), "ListenOverflows", "TCP_LISTEN_OVERFLOW")
	lost[0].atMost = true
	return lost
}

// badChecksum sends what the receiving socket must refuse.
func badChecksum(s stage) []drops {
	owner, sender := s.serve("owner", "udp-listen"), s.run("sender")
	sender.Send(s, lab.Datagrams{To: s.at(owner), Count: 50, BadChecksum: true})
	return of(owner, "container", "rx", fault("csum-offload"), snmp(owner.Place, s.udpProtocol(), "InCsumErrors"), "InCsumErrors", "UDP_CSUM", "NOT_SPECIFIED")
}
