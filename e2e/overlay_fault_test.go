// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// faultStage is where one fault plays: an overlay network that no other fault needs, with a container on each node.
type faultStage struct {
	swarmStage
	tunnel
	near, far *lab.Container // on the manager, on the worker
}

// faultStage makes the network and its containers.
func (s swarmStage) faultStage(name string) faultStage {
	s.Helper()
	network := s.tunnel(name)
	options := []string{"--network", name}
	return faultStage{s, network,
		s.manager.Serve(s, name+"-near", options, "udp-listen", port), s.worker.Serve(s, name+"-far", options, "udp-listen", port)}
}

// at is the traffic's port at the address that a container has on the network.
func (s faultStage) at(c *lab.Container) netip.AddrPort {
	return netip.AddrPortFrom(c.Addr(s, s.name, lab.IPv4), port)
}

// overlayFault is something that goes wrong with a network. play breaks it, and begins to lose packets.
type overlayFault struct {
	name string // of the network, too
	play func(s faultStage) overlayLoss
}

// overlayLoss is what is lost by a fault, and how it must be seen.
type overlayLoss struct {
	name  string
	at    *side         // whose agent sees it
	sent  func()        // waits until all has been sent
	truth count         // how many packets were lost; nil: none need be
	shown []shownLoss   // by which series they are counted, each all of them
	found []lab.Finding // what must be found
	table string        // that has a row too few; "": none
	mend  func()
}

// shownLoss is a series, or several, at a node.
type shownLoss struct {
	at     *side
	metric string
	labels lab.Labels
}

const (
	dropped       = "bridgewatch_dropped_packets_total"
	tunnelDropped = "bridgewatch_overlay_dropped_packets_total"
	tunnelled     = "bridgewatch_overlay_packets_total"
	missed        = "bridgewatch_overlay_misses_total"
)

// What is lost is enough for a finding, and takes longer than what is lost whenever a container moves.
const (
	lossCount    = 50
	lossInterval = 200 * time.Millisecond
)

// losing sends datagrams of which all are to be lost.
func losing(s faultStage, from *lab.Container, to netip.AddrPort) (wait func()) {
	s.Helper()
	report := from.Begin(s, lab.Datagrams{To: to, Count: lossCount, Interval: lossInterval}.Args()...)
	return func() { report() }
}

func overlayFaults() []overlayFault {
	return []overlayFault{
		{"fdb-gone", entryGone},
		{"neigh-gone", neighbourGone},
		{"astray", entryAstray},
		{"stranger", unknownNetwork},
		{"garbled", malformedFrames},
		{"other-source", otherSource},
		{"narrow", narrowLink},
	}
}

// entryGone takes away the row that says on which node the far container is.
func entryGone(s faultStage) overlayLoss {
	overlay, mac := s.manager.Overlay(s, s.name), s.far.HardwareAddr(s.name)
	row := func(verb string) {
		overlay.Run(s, "bridge", "fdb", verb, mac, "dev", "vxlan0", "dst", s.worker.Addr.String(), "self", "permanent")
	}
	row("del")
	before := overlay.Stats(s, "vxlan0").TxDropped
	labels := lab.Labels{"network": s.name, "peer": s.worker.Addr.String(), "direction": "tx", "cause": "fdb-row-missing"}
	return overlayLoss{
		at: s.manager, sent: losing(s, s.near, s.at(s.far)),
		truth: func(tb testing.TB) uint64 { return overlay.Stats(tb, "vxlan0").TxDropped - before },
		shown: []shownLoss{
			{s.manager, tunnelDropped, labels},
			{s.manager, missed, lab.Labels{"network": s.name, "table": "fdb"}}, // the kernel tells of each packet
			{s.manager, dropped, lab.Labels{"network": s.name, "container": s.near.Name, "scope": "overlay", "cause": "fdb-row-missing", "kind": "fault"}},
		},
		table: "fdb",
		found: []lab.Finding{{ID: "fdb-row-missing", Severity: "critical", Network: s.name, Scope: "host"}},
		mend:  func() { row("replace") },
	}
}

// neighbourGone takes away the row by which ARP is answered for the far container.
func neighbourGone(s faultStage) overlayLoss {
	overlay, addr := s.manager.Overlay(s, s.name), s.at(s.far).Addr().String()
	overlay.Run(s, "ip", "neigh", "del", addr, "dev", "vxlan0")
	var report lab.Report
	wait := s.near.Begin(s, lab.Datagrams{To: s.at(s.far), Count: lossCount, Interval: lossInterval}.Args()...)
	return overlayLoss{
		at: s.manager, sent: func() { report = wait() },
		truth: func(testing.TB) uint64 { return uint64(report.Sent) },
		shown: []shownLoss{{s.manager, dropped, lab.Labels{"network": s.name, "container": s.near.Name, "scope": "container", "reason": "NEIGH_FAILED"}}},
		table: "neighbour",
		found: []lab.Finding{{ID: "neigh-row-missing", Severity: "critical", Network: s.name, Scope: "host"}},
		mend: func() {
			overlay.Run(s, "ip", "neigh", "replace", addr, "lladdr", s.far.HardwareAddr(s.name), "dev", "vxlan0", "nud", "permanent")
		},
	}
}

// entryAstray leads the row to a machine where the far container may have been.
func entryAstray(s faultStage) overlayLoss {
	overlay, mac := s.manager.Overlay(s, s.name), s.far.HardwareAddr(s.name)
	lead := func(to netip.Addr) {
		overlay.Run(s, "bridge", "fdb", "replace", mac, "dev", "vxlan0", "dst", to.String(), "self", "permanent")
	}
	lead(lab.OnUnderlay)
	astray := s.swarm.CountSent(s, lab.Match("ip saddr "+s.manager.Addr.String()+" ip daddr "+lab.OnUnderlay.String()).VXLAN(s.vni))
	return overlayLoss{
		at: s.manager, sent: losing(s, s.near, s.at(s.far)), truth: func(tb testing.TB) uint64 { return astray.Packets(tb) },
		shown: []shownLoss{{s.manager, tunnelled, lab.Labels{"network": s.name, "peer": lab.OnUnderlay.String(), "direction": "tx"}}},
		found: []lab.Finding{{ID: "stale-vtep", Severity: "critical", Network: s.name, Scope: "host"}},
		mend:  func() { lead(s.worker.Addr) },
	}
}

// unknownNetwork has the manager send frames of a network that the worker does not have.
func unknownNetwork(s faultStage) overlayLoss {
	const vni = 4242
	wire := s.swarm.CountArrived(s, s.worker.Node, lab.Between(s.manager.Node, s.worker.Node).VXLAN(vni))
	labels := lab.Labels{"network": "", "vni": strconv.Itoa(vni), "peer": s.manager.Addr.String(), "direction": "rx"}
	dropLabels := lab.Labels{"vni": strconv.Itoa(vni), "peer": s.manager.Addr.String(), "direction": "rx", "cause": "vni-unknown"}
	wait := s.manager.Host.Begin(s, frames(s.worker.Addr, "--vni="+strconv.Itoa(vni))...)
	return overlayLoss{
		at: s.worker, sent: func() { wait() }, truth: func(tb testing.TB) uint64 { return wire.Packets(tb) },
		shown: []shownLoss{
			{s.worker, tunnelled, labels}, {s.worker, tunnelDropped, dropLabels},
			{s.manager, tunnelled, lab.Labels{"vni": strconv.Itoa(vni), "peer": s.worker.Addr.String(), "direction": "tx"}},
		},
		found: []lab.Finding{{ID: "vni-unknown", Severity: "warning", Scope: "host"}},
		mend:  func() {},
	}
}

// frames are arguments of the traffic program that send tunnelled frames for as long as a loss takes.
func frames(to netip.Addr, flags ...string) []string {
	return append([]string{"vxlan-send", "--to", to.String() + ":4789", "--count", strconv.Itoa(lossCount), "--interval", lossInterval.String()}, flags...)
}

// malformedFrames are somebody's who has another use for the port.
func malformedFrames(s faultStage) overlayLoss {
	wire := s.swarm.CountArrived(s, s.manager.Node, lab.Match("ip saddr "+lab.OnUnderlay.String()+" ip daddr "+s.manager.Addr.String()).VXLAN(0))
	wait := lab.Outside(s).Begin(s, frames(s.manager.Addr, "--malformed")...)
	return overlayLoss{
		at: s.manager, sent: func() { wait() }, truth: func(tb testing.TB) uint64 { return wire.Packets(tb) },
		shown: []shownLoss{
			{s.manager, "bridgewatch_overlay_malformed_packets_total", lab.Labels{"peer": lab.OnUnderlay.String()}},
			{s.manager, tunnelDropped, lab.Labels{"peer": lab.OnUnderlay.String(), "direction": "rx"}},
		},
		found: []lab.Finding{{ID: "4789-collision", Severity: "warning", Scope: "host"}},
		mend:  func() {},
	}
}

// otherSource has the worker's tunnels begin at an address that the Swarm does not know.
func otherSource(s faultStage) overlayLoss {
	other := netip.MustParseAddr("203.0.113.12")
	s.worker.Host.Run(s, "ip", "address", "add", other.String()+"/24", "dev", "eth0")
	s.worker.Host.Run(s, "ip", "route", "add", s.manager.Addr.String(), "dev", "eth0", "src", other.String())
	wire := s.swarm.CountArrived(s, s.manager.Node, lab.Match("ip saddr "+other.String()+" ip daddr "+s.manager.Addr.String()).VXLAN(s.vni))
	return overlayLoss{
		at: s.manager, sent: losing(s, s.far, s.at(s.near)), truth: func(tb testing.TB) uint64 { return wire.Packets(tb) },
		shown: []shownLoss{
			{s.manager, tunnelDropped, lab.Labels{"network": s.name, "peer": other.String(), "direction": "rx", "cause": "vtep-src-mismatch"}},
			{s.manager, tunnelled, lab.Labels{"network": s.name, "peer": other.String(), "direction": "rx"}},
			{s.worker, tunnelled, lab.Labels{"network": s.name, "local": other.String(), "peer": s.manager.Addr.String(), "direction": "tx"}},
		},
		found: []lab.Finding{{ID: "vtep-src-mismatch", Severity: "critical", Network: s.name, Scope: "host"}},
		mend: func() {
			s.worker.Host.Run(s, "ip", "route", "delete", s.manager.Addr.String())
			s.worker.Host.Run(s, "ip", "address", "delete", other.String()+"/24", "dev", "eth0")
		},
	}
}

// narrowLink leaves the worker's tunnels no room for what its containers may send. Every network is concerned.
func narrowLink(s faultStage) overlayLoss {
	s.worker.Host.Run(s, "ip", "link", "set", "eth0", "mtu", "1450")
	return overlayLoss{
		at: s.worker, sent: func() {},
		found: []lab.Finding{{ID: "overlay-mtu", Severity: "warning", Network: s.name, Scope: "host"}},
		mend:  func() { s.worker.Host.Run(s, "ip", "link", "set", "eth0", "mtu", "1500") },
	}
}

// TestOverlayFaults makes what goes wrong with single networks all at once, and then what goes wrong with the engines' own talk.
func TestOverlayFaults(t *testing.T) {
	s := newSwarmStage(t)
	var stages []faultStage
	for _, f := range overlayFaults() {
		stages = append(stages, s.faultStage(f.name))
	}
	s.requireOnly()

	var losses []overlayLoss
	for i, f := range overlayFaults() {
		l := f.play(stages[i])
		l.name = f.name
		losses = append(losses, l)
	}
	for _, l := range losses {
		l.sent()
	}
	var want []foundAt
	for _, l := range losses {
		t.Run(l.name, func(t *testing.T) { l.require(t) })
		for _, f := range l.found {
			want = append(want, foundAt{l.at, f})
		}
	}
	s.requireOnly(want...)
	for _, l := range losses {
		l.mend()
	}

	t.Run("control ports", func(t *testing.T) { want = append(want, s.in(t).blockControl()...) })
	s.requireOnly(want...)
	s.requireCleared()
	t.Run("after all", func(t *testing.T) {
		for _, f := range stages {
			f.near.Send(t, lab.Datagrams{To: f.at(f.far), Count: 10})
			f.far.Send(t, lab.Datagrams{To: f.at(f.near), Count: 10})
		}
		for _, f := range stages {
			before := f.arrived[s.manager].Packets(t)
			f.near.Send(t, lab.Datagrams{To: f.at(f.far), Count: 10})
			if n := f.arrived[s.manager].Packets(t) - before; n != 10 {
				t.Errorf("%s: %d of 10 packets have come through", f.name, n)
			}
		}
	})
}

// blockControl lets nothing through between the engines but gossip's TCP, until they notice. Containers' traffic goes on. It is
// workers that talk to managers: these may have nothing to say that is not answered.
func (s swarmStage) blockControl() (explained []foundAt) {
	gossip := lab.Finding{ID: "7946-closed", Severity: "critical", Scope: "host"}
	manager := lab.Finding{ID: "2377-closed", Severity: "critical", Scope: "host"}
	var blocks []*lab.Wire
	for _, from := range s.sides() {
		between := lab.Between(from.Node, s.other(from).Node)
		for _, match := range []string{"udp dport 7946", "tcp dport 2377", "tcp sport 2377"} {
			blocks = append(blocks, s.swarm.Block(s, between.And(match)))
		}
		explained = append(explained, foundAt{from, gossip}, foundAt{from, manager})
	}
	for _, want := range []foundAt{{s.worker, manager}, {s.worker, gossip}, {s.manager, gossip}} {
		want.at.awaitFound(s.T, lossWindow+gossipSilence+appears, want.Finding)
	}
	for _, b := range blocks {
		b.Lift(s)
	}
	s.swarm.AwaitReady(s)
	return explained
}

// How long the counts reach back that findings rest on, and how long gossip between two nodes may be silent.
const (
	lossWindow    = time.Minute
	gossipSilence = 34 * time.Second
)

// foundAt is a finding on a node.
type foundAt struct {
	at *side
	lab.Finding
}

// requireOnly looks for findings, since the start, that nothing explains. A link that is too narrow is so for all networks.
func (s swarmStage) requireOnly(explained ...foundAt) {
	s.Helper()
	for _, at := range s.sides() {
		for f, span := range at.found.Seen() {
			known := slices.ContainsFunc(explained, func(e foundAt) bool {
				return e.at == at && (e.Finding == f || e.ID == f.ID && f.ID == "overlay-mtu")
			})
			if !known && f.Severity != "info" && (f.ID != "ipvs-unavailable" || hasIPVS()) {
				said, _ := at.said.Load(f)
				s.Errorf("%s has found at %s what nothing explains: %+v; doctor said then:\n%s", at.Hostname, span.First.Format(time.TimeOnly), f, said)
			}
		}
	}
}

// requireCleared waits until nothing stands but what is wrong with the kernel.
func (s swarmStage) requireCleared() {
	s.Helper()
	for _, at := range s.sides() {
		var standing []lab.Finding
		for end := time.Now().Add(clears); ; time.Sleep(time.Second) {
			standing = slices.DeleteFunc(at.found.Standing(), func(f lab.Finding) bool { return f.Severity == "info" || f.ID == "ipvs-unavailable" })
			if len(standing) == 0 {
				break
			}
			if time.Now().After(end) {
				s.Errorf("on %s it still stands:\n%s", at.Hostname, findingLines(standing))
				break
			}
		}
	}
}

// require holds what is lost against what is counted, and against what is found.
func (l overlayLoss) require(t *testing.T) {
	t.Helper()
	if l.truth != nil {
		if n := l.truth(t); n != lossCount {
			t.Errorf("%d packets of %d were lost: the fault is not what it is meant to be", n, lossCount)
		}
	}
	for _, shown := range l.shown {
		var got uint64
		want := l.truth(t)
		for end := time.Now().Add(2 * appears); got != want && time.Now().Before(end); time.Sleep(time.Second) {
			got = shown.at.agent.Scrape(t).Sum(shown.metric, shown.labels)
		}
		if got != want {
			near := lab.Labels{}
			for _, name := range []string{"vni", "network"} {
				if value, ok := shown.labels[name]; ok {
					near[name] = value
				}
			}
			t.Errorf("%s counted %d in %s%v, want %d; near that:\n%s", shown.at.Hostname, got, shown.metric, shown.labels, want,
				lines(shown.at.agent.Scrape(t).Select(shown.metric, near)))
		}
	}
	for _, want := range l.found {
		l.at.awaitFound(t, appears, want)
	}
	if l.table == "" {
		return
	}
	metrics, of := l.at.agent.Scrape(t), lab.Labels{"network": l.name, "table": l.table}
	entries, expected := metrics.Sum("bridgewatch_overlay_entries", of), metrics.Sum("bridgewatch_overlay_expected_entries", of)
	if entries+1 != expected {
		t.Errorf("%s: %d entries are there, %d should be", l.table, entries, expected)
	}
	if metrics.Sum(missed, of) == 0 {
		t.Errorf("%s: nobody was missed", l.table)
	}
}

// awaitFound waits until a finding stands.
func (at *side) awaitFound(t *testing.T, within time.Duration, want lab.Finding) {
	t.Helper()
	for end := time.Now().Add(within); !slices.Contains(at.found.Standing(), want); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Errorf("%s did not find %+v; it stands:\n%s", at.Hostname, want, findingLines(at.found.Standing()))
			return
		}
	}
}

func findingLines(all []lab.Finding) (text string) {
	for _, f := range all {
		text += fmt.Sprintf("\t%+v\n", f)
	}
	return text
}
