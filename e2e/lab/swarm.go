// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Swarm is a cluster of two nodes, each with namespaces and an engine of its own, and a cable between them:
//
//	n1 (manager) ── port n1 ─┐
//	                         underlay ── port outside ── outside
//	n2 (worker) ─── port n2 ─┘
//
// Outside is the nodes' default route.
type Swarm struct {
	Manager, Worker *Node
	// Underlay is the switch between the nodes. Its ports are named after who is plugged in.
	Underlay Place
	wires    int // rules of the switch so far
}

// Addresses on the underlay.
var (
	ManagerAddress = netip.MustParseAddr("203.0.113.1")
	WorkerAddress  = netip.MustParseAddr("203.0.113.2")
	OnUnderlay     = netip.MustParseAddr("203.0.113.254") // where Outside is there
)

// StartSwarm makes a Swarm with the lab's image on both nodes. It ends with the test. Flags are dockerd's.
func StartSwarm(tb testing.TB, flags ...string) *Swarm {
	tb.Helper()
	s := &Swarm{Underlay: newUnderlay(tb)}
	s.Manager = newNode(tb, "n1", ManagerAddress, flags)
	s.Worker = newNode(tb, "n2", WorkerAddress, flags)
	for _, node := range s.Nodes() {
		node.start(tb)
		tb.Cleanup(func() { node.close(tb) })
		node.importImage(tb)
	}
	s.Manager.Docker(tb, append([]string{"swarm", "init"}, s.Manager.swarmFlags()...)...)
	s.Join(tb)
	return s
}

// Nodes returns both, the manager first.
func (s *Swarm) Nodes() []*Node { return []*Node{s.Manager, s.Worker} }

// Other returns the node that is not the given one.
func (s *Swarm) Other(node *Node) *Node {
	if node == s.Manager {
		return s.Worker
	}
	return s.Manager
}

// Join makes the worker part of the Swarm, and waits until the manager says that it is ready.
func (s *Swarm) Join(tb testing.TB) {
	tb.Helper()
	token := s.Manager.Docker(tb, "swarm", "join-token", "--quiet", "worker")
	join := append([]string{"swarm", "join", "--token", token}, s.Worker.swarmFlags()...)
	s.Worker.Docker(tb, append(join, s.Manager.Addr.String()+":2377")...)
	s.AwaitReady(tb)
}

// Leave makes the worker leave the Swarm, and the manager forget it.
func (s *Swarm) Leave(tb testing.TB) {
	tb.Helper()
	Eventually(tb, time.Minute, "the worker to leave", func() bool {
		_, err := try(s.Worker.command("swarm", "leave", "--force")...)
		return err == nil || strings.Contains(err.Error(), "not part of a swarm") // it has a deadline for that, and goes on after it
	})
	Eventually(tb, 30*time.Second, "the manager to forget the worker", func() bool {
		_, err := try(s.Manager.command("node", "rm", s.Worker.Hostname)...)
		return err == nil
	})
}

// AwaitReady waits until the manager says that both nodes are.
func (s *Swarm) AwaitReady(tb testing.TB) {
	tb.Helper()
	Eventually(tb, time.Minute, "both nodes to be ready", func() bool {
		states, err := try(s.Manager.command("node", "ls", "--format", "{{.Status}}")...)
		return err == nil && strings.Join(strings.Fields(states), " ") == "Ready Ready"
	})
}

// newUnderlay makes the switch, with what is outside plugged in.
func newUnderlay(tb testing.TB) Place {
	tb.Helper()
	p := NewNamespace(tb, "underlay")
	for _, line := range []string{
		"ip link add switch type bridge",
		"ip link set switch type bridge mcast_snooping 0",
		"ip link set switch up",
		"ip link add outside type veth peer name underlay netns outside",
	} {
		p.Run(tb, strings.Fields(line)...)
	}
	p.plug(tb, "outside")
	for line := range strings.Lines(strings.TrimSpace(wireTable)) {
		p.Run(tb, "nft", strings.TrimSpace(line))
	}
	outside := Outside(tb)
	outside.Run(tb, "ip", "address", "add", OnUnderlay.String()+"/24", "dev", "underlay")
	outside.Run(tb, "ip", "link", "set", "underlay", "up")
	return p
}

// plug makes a device a port of the switch. A veth carries segments of 64 kB, a wire does not.
func (p Place) plug(tb testing.TB, port string) {
	tb.Helper()
	p.Run(tb, "ip", "link", "set", port, "gso_max_segs", "1", "master", "switch", "up")
}
