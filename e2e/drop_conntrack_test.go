// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// conntrackCases are drops that come of connection tracking. Queries that race for an entry (dns-5s-race) are not among them:
// newer kernels let both through.
func conntrackCases() []dropCase {
	return []dropCase{
		{"snat-exhaustion", bothFamilies, snatExhaustion},
		{"invalid-segment", bothFamilies, invalidSegment},
		{"invalid-segment-proxy", bothFamilies, invalidSegmentToProxy},
	}
}

// snatExhaustion leaves a container two ports of the host's to reach one destination from.
func snatExhaustion(s stage) []drops {
	victim := s.run("victim")
	s.host.AddRule(s, s.family, "nat", "POSTROUTING", "-p", "udp", "-s", s.at(victim).Addr().String(), "-d", s.beyond().Addr().String(),
		"-j", "MASQUERADE", "--to-ports", "50000-50001")
	failed := func(tb testing.TB) uint64 { return s.host.ConntrackFailures(tb)["insert_failed"] }
	dropped := since(failed, failed(s))
	victim.Traffic(s, "udp-spread", "--to", s.beyond().String(), "--sources", "50")
	return of(victim, "host", "tx", fault("snat-exhaustion"), dropped, "insert_failed", "NETFILTER_DROP")
}

// invalidSegment has nobody listen on the host, as without a userland proxy.
func invalidSegment(s stage) []drops {
	victim, at := s.publishStreams()
	s.host.EndListener(s, at.Port())
	return s.stray(victim, at, "NO_SOCKET", "NOT_SPECIFIED")
}

// invalidSegmentToProxy has docker-proxy's socket get the segments, which knows nothing of their connection.
func invalidSegmentToProxy(s stage) []drops {
	victim, at := s.publishStreams()
	return s.stray(victim, at, "TCP_FLAGS", "NOT_SPECIFIED")
}

// publishStreams starts a listener behind a published port.
func (s stage) publishStreams() (*lab.Container, netip.AddrPort) {
	s.Helper()
	const published = 7002
	victim := s.engine.Serve(s, s.name+"-victim", []string{"--network", s.network, "--publish", "7002:7000"}, "tcp-listen", port)
	if s.family == lab.IPv6 { // Docker 20.10 writes no rules for it
		s.host.AddRule(s, s.family, "nat", "PREROUTING", "-p", "tcp", "--dport", strconv.Itoa(published),
			"-j", "DNAT", "--to-destination", s.at(victim).String())
	}
	return victim, netip.AddrPortFrom(s.pick(lab.HostAddress, lab.HostAddress6), published)
}

// stray sends segments that do not fit into their connection, so that they are not translated like the others.
func (s stage) stray(victim *lab.Container, to netip.AddrPort, reasons ...string) []drops {
	s.Helper()
	invalid := s.host.AddRule(s, s.family, "filter", "INPUT", "-p", "tcp", "--dport", strconv.Itoa(int(to.Port())),
		"-m", "conntrack", "--ctstate", "INVALID")
	s.outside.Traffic(s, "tcp-stray", "--to", to.String(), "--count", "50")
	return of(victim, "host", "rx", fault("ct-invalid-rst"), invalid.Packets, "INPUT's count of invalid ones", reasons...)
}
