// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestStaleUDP has senders that never pause, while the container that they send to is not there for a moment. What
// connection tracking made of them then, it keeps.
func TestStaleUDP(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	found := lab.WatchFindings(t, agent)
	s := natStage{
		stage:    stage{t, engine, lab.Host(t), lab.Outside(t), newNetwork(t, engine, "nat"), lab.IPv4, "stale"},
		families: ipv4Only, protocol: "udp", published: 8100, agent: agent,
	}
	const senders = 20
	bare := s // the entries were forgotten, and made again while there was no rule
	bare.name = "bare"
	one := bare.mirror("server")
	s.published += 10
	old := s // the engine left an entry that leads to where the container was
	old.name = "old"
	two := old.mirror("server")

	leads := func(entry lab.Entry) bool { return entry.Answered && entry.Translated() }
	for _, s := range []natStage{bare, old} {
		s.outside.Start(t, "udp-spread", "--to", s.door().String(), "--from", "20000", "--sources", strconv.Itoa(senders),
			"--rounds", "100000", "--interval", "20ms")
		lab.Eventually(t, patience, "senders", func() bool { return s.tracked(leads) == senders })
	}
	time.Sleep(appears)
	for f := range found.Seen() {
		t.Errorf("found before anything went wrong: %+v", f)
	}

	engine.Docker(t, "restart", "--time", "1", one.Name)
	if engine.Major(t) >= 28 { // since 23.0 the engine forgets them once more when there is a rule again
		lab.Eventually(t, patience, "the senders to be led again", func() bool { return bare.tracked(leads) == senders })
		bare.takeRule(t, senders)
	}
	if n := bare.tracked(bypassed); n != senders {
		t.Fatalf("%d of %d entries lead past the container", n, senders)
	}
	gone := netip.AddrPortFrom(netip.MustParseAddr("10.80.0.99"), port)
	old.leaveEntry(t, gone, 20000)

	all := func() bool { return stale(found, one) && stale(found, two) }
	for end := time.Now().Add(goesStale); time.Now().Before(end) && !all(); time.Sleep(time.Second) {
	}
	for _, c := range []*lab.Container{one, two} {
		if !stale(found, c) {
			t.Errorf("nothing was found of %s; found were %+v", c.Name, found.Standing())
		}
	}
	if bare.tracked(bypassed) != senders || old.tracked(func(entry lab.Entry) bool { return entry.Reply.Source == gone }) != 1 {
		t.Error("the entries went by themselves")
	}

	for _, s := range []natStage{bare, old} { // which is what the runbook says
		s.host.Run(t, "conntrack", "--delete", "--proto", "udp", "--orig-port-dst", strconv.Itoa(int(s.published)))
	}
	lab.Eventually(t, clears+trackPeriod, "the findings to clear", func() bool { return !stale(found, one) && !stale(found, two) })
}

const (
	// trackPeriod is how often the agent looks at the whole table.
	trackPeriod = 30 * time.Second
	// goesStale is how long it takes an entry to be one that nothing will end any more, and the agent to see it.
	goesStale = 45*time.Second + trackPeriod + appears
)

// stale tells whether the finding of a container's stale entries stands.
func stale(found *lab.Findings, c *lab.Container) bool {
	return slices.Contains(found.Standing(), lab.Finding{ID: "stale-udp-ct", Severity: "warning", Container: c.Name, Network: "nat", Scope: "host"})
}

// bypassed tells whether a connection to a published port leads past its container, to the host itself.
func bypassed(entry lab.Entry) bool { return !entry.Translated() }

// tracked counts the entries of connections to the published port that are as said.
func (s natStage) tracked(is func(lab.Entry) bool) (n int) {
	s.Helper()
	for _, entry := range s.host.Published(s, s.protocol, s.door()) {
		if is(entry) {
			n++
		}
	}
	return n
}

// takeRule takes the rules of all published ports away, as a firewall that is loaded anew does, until the senders' entries have
// been made without them. A restart of the engine, which is the remedy then, puts the rules back and leaves the entries.
func (s natStage) takeRule(t *testing.T, senders int) {
	t.Helper()
	published := strconv.Itoa(int(s.published))
	s.host.Run(t, "iptables", "-w", "-t", "nat", "-F", "DOCKER")
	s.host.Run(t, "conntrack", "--delete", "--proto", "udp", "--orig-port-dst", published)
	lab.Eventually(t, patience, "entries without a rule", func() bool { return s.tracked(bypassed) == senders })
	s.engine.Restart(t)
	s.host.FindRule(t, lab.IPv4, "nat", "-A DOCKER", "-p udp", "--dport "+published)
}

// leaveEntry has one sender's entry lead to an address that is nobody's any more.
func (s natStage) leaveEntry(t *testing.T, gone netip.AddrPort, from int) {
	t.Helper()
	from16, to := strconv.Itoa(from), s.door()
	sender := "192.0.2.1"
	// The sender does not pause: its next datagram may be faster than the entry that is put in its place.
	lab.Eventually(t, patience, "the entry to be in place", func() bool {
		s.host.Run(t, "sh", "-c", "conntrack --delete --proto udp --orig-port-dst $1 --orig-port-src $2; "+
			"conntrack --create --proto udp --orig-src "+sender+" --orig-dst $3 --orig-port-src $2 --orig-port-dst $1 "+
			"--dst-nat $4 --timeout 120 || true", "sh", strconv.Itoa(int(to.Port())), from16, to.Addr().String(), gone.String())
		return s.tracked(func(entry lab.Entry) bool { return entry.Reply.Source == gone }) == 1
	})
}
