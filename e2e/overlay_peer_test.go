// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestOverlayPeers takes the way between two nodes away, and then one of them.
func TestOverlayPeers(t *testing.T) {
	playPath(t, pathStep{"no way", pathStage.noWay}, pathStep{"a dead peer", pathStage.deadPeer})
}

// TestOverlayMembers takes a node's engine away, and then its membership.
func TestOverlayMembers(t *testing.T) {
	playPath(t, pathStep{"an engine killed", pathStage.engineKilled}, pathStep{"a member again", pathStage.rejoined})
}

// pathStep is something that happens, and returns what may be found of it.
type pathStep struct {
	name string
	play func(pathStage) []foundAt
}

// playPath takes the steps one after the other, while containers on both nodes talk, if they can.
func playPath(t *testing.T, steps ...pathStep) {
	t.Helper()
	s := newSwarmStage(t)
	p := pathStage{s, s.tunnel("path", "--subnet", "10.180.0.0/24")}
	p.talkers()
	p.requireTalk()
	s.requireOnly()
	var explained []foundAt
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			explained = append(explained, step.play(pathStage{s.in(t), p.tunnel})...)
			s.in(t).requireOnly(explained...)
		})
	}
	s.requireCleared()
}

// pathStage is a network with a container on each node that talks to the other all the time.
type pathStage struct {
	swarmStage
	tunnel
}

// address is the talker's on a side.
func (p pathStage) address(at *side) netip.Addr {
	if at == p.manager {
		return netip.MustParseAddr("10.180.0.11")
	}
	return netip.MustParseAddr("10.180.0.12")
}

// talkers starts them, again if there were any. They know each other by address: names are the engines' talk.
func (p pathStage) talkers() {
	p.Helper()
	for _, at := range p.sides() {
		p.talker(at)
	}
}

func (p pathStage) talker(at *side) {
	p.Helper()
	p.silence(at)
	p.awaitAttachable(at)
	at.Start(p, "talker-"+at.Hostname, []string{"--network", p.name, "--ip", p.address(at).String()},
		"talk", strconv.Itoa(port), "--to", p.address(p.other(at)).String())
}

// silence removes a side's talker, if there is one.
func (p pathStage) silence(at *side) {
	p.Helper()
	at.Docker(p, "rm", "--force", "talker-"+at.Hostname)
}

// awaitAttachable waits until the manager lets a node's containers onto the network: not as long as it waits for word of the node.
func (p pathStage) awaitAttachable(at *side) {
	p.Helper()
	lab.Eventually(p, 2*time.Minute, "containers on the network", func() bool {
		_, err := at.RunOnce("probe", []string{"--network", p.name}, "udp-send", "--to=127.0.0.1:9")
		return err == nil
	})
}

// closedBetween is what a node finds that sends and gets nothing.
var closedBetween = lab.Finding{ID: "4789-closed", Severity: "critical", Scope: "host"}

// noWay lets nothing through from the manager to the worker, whose containers get no answer, and then nothing the other way
// either: by a rule on the manager itself, which knows what it drops.
func (p pathStage) noWay() []foundAt {
	block := p.swarm.Block(p, lab.Between(p.manager.Node, p.worker.Node).VXLAN(0))
	p.worker.awaitFound(p.T, 2*appears, closedBetween)
	if n := block.Packets(p); n < fewPackets {
		p.Errorf("%d packets were blocked", n)
	}
	p.requireCounted()
	if sent, arrived := p.sent[p.manager].Packets(p), p.arrived[p.manager].Packets(p); sent < arrived+fewPackets {
		p.Errorf("%d packets of %d have arrived in spite of the block", arrived, sent)
	}
	p.requireOnly(foundAt{p.worker, closedBetween})

	before := p.manager.agent.Scrape(p).Sum(tunnelDropped, p.ownRule())
	rule := p.manager.Host.AddRule(p, lab.IPv4, "filter", "INPUT", "-p", "udp", "--dport", "4789", "-j", "DROP")
	p.manager.awaitFound(p.T, 2*appears, closedBetween)
	p.eventually("the rule", func() (wrong []string) {
		got, want := p.manager.agent.Scrape(p).Sum(tunnelDropped, p.ownRule())-before, rule.Packets(p)
		if got != want || want < fewPackets {
			wrong = append(wrong, fmt.Sprintf("counted %d packets that it dropped, it says %d:\n%s", got, want,
				lines(p.manager.agent.Scrape(p).Select(tunnelDropped, nil))))
		}
		return wrong
	})
	return []foundAt{{p.worker, closedBetween}, {p.manager, closedBetween}}
}

func (p pathStage) ownRule() lab.Labels {
	return lab.Labels{"network": p.name, "peer": p.worker.Addr.String(), "direction": "rx", "cause": "4789-closed"}
}

// deadPeer takes the worker's cable out until both sides notice that they hear nothing, and puts it in again. Engines forget
// the containers of a node that is dead, so that those here which ask for one find nobody.
func (p pathStage) deadPeer() (explained []foundAt) {
	cable := func(state string) { p.swarm.Underlay.Run(p, "ip", "link", "set", p.worker.Hostname, state) }
	cable("down")
	silent := lab.Finding{ID: "peer-silent", Severity: "critical", Scope: "host"}
	for _, at := range p.sides() {
		at.awaitFound(p.T, lossWindow+2*appears, silent)
		nobody := lab.Finding{ID: "dead-endpoint", Severity: "warning", Container: "talker-" + at.Hostname, Network: p.name, Scope: "container"}
		explained = append(explained, foundAt{at, silent}, foundAt{at, nobody})
	}
	p.requirePeer("down")
	cable("up")
	p.requirePeer("ready")
	p.requireTalk()
	return append(explained, p.forgotten()...)
}

// requirePeer waits until the manager's agent says in what state the worker is.
func (p pathStage) requirePeer(state string) {
	p.Helper()
	want := lab.Labels{"peer": p.worker.Addr.String(), "node": p.worker.Hostname, "role": "worker", "state": state}
	p.eventuallyWithin(time.Minute, "the peer's state", func() (wrong []string) {
		got := p.manager.agent.Scrape(p).Select("bridgewatch_swarm_peer_info", nil)
		if len(got) != 1 || len(got.Select("bridgewatch_swarm_peer_info", want)) != 1 {
			wrong = append(wrong, fmt.Sprintf("want %v:\n%s", want, lines(got)))
		}
		return wrong
	})
}

// requireCounted holds all counts since the network's birth against the switch, while the talkers stand still: what the agent
// shows and what the switch shows are not of the same moment.
func (p pathStage) requireCounted() {
	p.Helper()
	for _, at := range p.sides() {
		at.Docker(p, "pause", "talker-"+at.Hostname)
		defer at.Docker(p, "unpause", "talker-"+at.Hostname)
	}
	p.requirePackets(p.tunnel)
}

// requireTalk waits until something comes through both ways, and holds all counts against the switch.
func (p pathStage) requireTalk() {
	p.Helper()
	before := map[*side]uint64{}
	for _, from := range p.sides() {
		before[from] = p.arrived[from].Packets(p)
	}
	lab.Eventually(p, time.Minute, "the talkers to talk", func() bool {
		return p.arrived[p.manager].Packets(p) > before[p.manager]+fewPackets && p.arrived[p.worker].Packets(p) > before[p.worker]+fewPackets
	})
	p.requireCounted()
}

// engineKilled ends the worker's engine, which takes its containers along when it comes back.
func (p pathStage) engineKilled() []foundAt {
	up := func(want uint64) func() bool {
		return func() bool { return p.worker.agent.Scrape(p).Sum("bridgewatch_docker_up", nil) == want }
	}
	p.worker.Kill(p)
	lab.Eventually(p, shown, "the agent to miss the engine", up(0))
	p.worker.Revive(p)
	lab.Eventually(p, shown, "the agent to have the engine back", up(1))
	p.talker(p.worker)
	p.requireTalk()
	p.requireFresh("revived")
	return p.forgotten()
}

// forgotten is what both nodes may find while engines tell each other again who is where: until they have, rows are missing, and
// what is sent is lost.
func (p pathStage) forgotten() (explained []foundAt) {
	for _, at := range p.sides() {
		for _, id := range []string{"fdb-row-missing", "neigh-row-missing"} {
			explained = append(explained, foundAt{at, lab.Finding{ID: id, Severity: "critical", Network: p.name, Scope: "host"}})
		}
	}
	return explained
}

// rejoined has the worker leave the Swarm and join it again, as another node.
func (p pathStage) rejoined() []foundAt {
	for _, at := range p.sides() {
		p.silence(at)
	}
	p.swarm.Leave(p)
	lab.Eventually(p, time.Minute, "the manager's agent to have no peer", func() bool {
		return len(p.manager.agent.Scrape(p).Select("bridgewatch_swarm_peer_info", nil)) == 0
	})
	p.swarm.Join(p)
	lab.Eventually(p, shown, "the worker's agent to know of the Swarm", func() bool {
		return len(p.worker.agent.Scrape(p).Select("bridgewatch_node_info", lab.Labels{"role": "worker"})) == 1
	})
	p.talkers()
	p.requirePeer("ready")
	p.requireTalk()
	p.requireFresh("rejoined")
	return p.forgotten()
}

// requireFresh counts a new container on the worker from its first packet on.
func (p pathStage) requireFresh(name string) {
	p.Helper()
	fresh := p.worker.Serve(p, name, []string{"--network", p.name}, "udp-listen", port)
	talker := p.manager.Inspect(p, "talker-n1")
	talker.Send(p, lab.Datagrams{To: netip.AddrPortFrom(fresh.Addr(p, p.name, lab.IPv4), port), Count: 100})
	requireEqual(p.T, p.worker.agent, p.member(fresh, p.name, plain(fresh)))
}
