// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestLifecycle changes containers, networks and the daemon while traffic is counted.
func TestLifecycle(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine)
	frames := lab.CountFrames(t)
	network := engine.Network(t, "life", "--subnet", "10.92.0.0/24")
	receiver := engine.Serve(t, "life-receiver", []string{"--network", network}, "udp-listen", port)
	to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)
	const count = 100
	newWire := func(c *lab.Container) *wire {
		w := &wire{frames: frames}
		w.join(c, network)
		return w
	}

	t.Run("stop, start and restart", func(t *testing.T) {
		options, command := firstAct(network, 1, to, count)
		c := engine.Run(t, "life-again", options, append(command, "--stay")...)
		w := newWire(c)
		engine.Docker(t, "stop", "--time", "1", c.Name)
		engine.Docker(t, "start", c.Name)
		w.join(engine.Inspect(t, c.Name), network)
		engine.Docker(t, "restart", "--time", "1", c.Name)
		w.join(engine.Inspect(t, c.Name), network)
		w.await(t, 3*count)
		requireFrames(t, agent, c.Name, network, w, 3*count)
	})

	t.Run("rename", func(t *testing.T) {
		options, command := firstAct(network, 2, to, count)
		c := engine.Run(t, "life-before", options, append(command, "--stay")...)
		w := newWire(c)
		w.await(t, count)
		requireFrames(t, agent, "life-before", network, w, count)
		engine.Docker(t, "rename", "life-before", "life-after")
		t.Cleanup(func() { engine.Docker(t, "rename", "life-after", "life-before") })
		lab.Eventually(t, patience, "the new name", func() bool {
			return len(agent.Scrape(t).Select("bridgewatch_container_info", lab.Labels{"container_id": c.ID, "name": "life-after"})) == 1
		})
		engine.Inspect(t, "life-after").Send(t, lab.Datagrams{To: to, Count: count})
		lab.Eventually(t, shown, "all that the bridge saw, under both names", func() bool {
			metrics := agent.Scrape(t)
			old, now := transmitted(metrics, "life-before", network), transmitted(metrics, "life-after", network)
			return now.Packets >= count && old.Packets+now.Packets == w.crossed(t).Packets
		})
	})

	t.Run("pause", func(t *testing.T) {
		options, command := firstAct(network, 3, to, count)
		c := engine.Run(t, "life-paused", options, append(command, "--stay")...)
		engine.Docker(t, "pause", c.Name)
		engine.Docker(t, "unpause", c.Name)
		c.Send(t, lab.Datagrams{To: to, Count: count})
		requireFrames(t, agent, c.Name, network, newWire(c), 2*count)
	})

	t.Run("network connect and disconnect", func(t *testing.T) {
		second := engine.Network(t, "life-second", "--subnet", "10.93.0.0/24")
		far := engine.Serve(t, "life-far", []string{"--network", second}, "udp-listen", port)
		options, command := firstAct(network, 4, to, count)
		c := engine.Run(t, "life-moves", options, append(command, "--stay")...)
		near, beyond := newWire(c), &wire{frames: frames}
		toFar := netip.AddrPortFrom(far.Addr(t, second, lab.IPv4), port)
		for round := uint64(1); round <= 3; round++ {
			engine.Docker(t, "network", "connect", "--ip", nth(toFar, 0).String(), second, c.Name)
			beyond.join(engine.Inspect(t, c.Name), second)
			c.Send(t, lab.Datagrams{To: toFar, Count: count})
			c.Send(t, lab.Datagrams{To: to, Count: count})
			engine.Docker(t, "network", "disconnect", second, c.Name)
			requireFrames(t, agent, c.Name, network, near, (1+round)*count)
		}
		requireFrames(t, agent, c.Name, second, beyond, 3*count)
	})

	t.Run("restart of the daemon", func(t *testing.T) {
		options, command := firstAct(network, 5, to, count)
		c := engine.Run(t, "life-lasting", options, append(command, "--stay")...)
		w := newWire(c)
		w.await(t, count)
		engine.Restart(t)
		engine.Inspect(t, c.Name).Send(t, lab.Datagrams{To: to, Count: count})
		requireFrames(t, agent, c.Name, network, w, 2*count)
		lab.Eventually(t, patience, "the agent to find the daemon again", func() bool {
			return agent.Scrape(t).Sum("bridgewatch_docker_up", nil) == 1
		})
		options, command = firstAct(network, 6, to, count)
		w = newWire(engine.Run(t, "life-later", options, append(command, "--stay")...))
		w.await(t, count)
		requireFrames(t, agent, "life-later", network, w, count)
	})
}

// firstAct are the options and the command of a container that does nothing but send, from its first moment on.
func firstAct(network string, n int, to netip.AddrPort, count int) (options, command []string) {
	options = []string{"--network", network, "--ip", nth(to, n).String()}
	return options, lab.Datagrams{To: to, Count: count}.Args()
}

// nth is the n-th address that a test gives to a container itself, on the network of a listener: no two of its containers may
// have the same one, or their hardware addresses are the same too.
func nth(listener netip.AddrPort, n int) netip.Addr {
	a := listener.Addr().As4()
	a[3] = byte(10 + n)
	return netip.AddrFrom4(a)
}

// wire is what one container has sent into a bridge.
type wire struct {
	frames    lab.Frames
	addresses []string // that it has had: before 28.0 the engine makes them of the IPv4 address, later of nothing at each start
}

// join has the hardware address count too that the container has now.
func (w *wire) join(c *lab.Container, network string) {
	if address := c.HardwareAddr(network); !slices.Contains(w.addresses, address) {
		w.addresses = append(w.addresses, address)
	}
}

func (w *wire) crossed(t *testing.T) (sum lab.Counted) {
	t.Helper()
	for _, address := range w.addresses {
		counted := w.frames.From(t, address)
		sum.Packets += counted.Packets
		sum.Bytes += counted.Bytes
	}
	return sum
}

func (w *wire) await(t *testing.T, want uint64) {
	t.Helper()
	lab.Eventually(t, patience, "the datagrams to be sent", func() bool { return w.crossed(t).Packets >= want })
}

// requireFrames holds what the agent counted of at least a number of datagrams against what crossed the bridge. What a
// container sent before it died is new to a scrape that finds nobody alive, and shows its zero first. From 28.0 on the engine
// announces a container's address for some seconds, so that the bridge is asked again each time.
func requireFrames(t *testing.T, agent *lab.Agent, name, network string, w *wire, sent uint64) {
	t.Helper()
	truth := w.crossed(t)
	if truth.Packets < sent {
		t.Errorf("%s sent %d datagrams, the bridge saw %d frames", name, sent, truth.Packets)
	}
	var got lab.Counted
	for end := time.Now().Add(shown); got != truth && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		got, truth = transmitted(agent.Scrape(t), name, network), w.crossed(t)
	}
	if got != truth {
		t.Errorf("%s on %s: counted %+v, transmitted %+v", name, network, got, truth)
	}
}

// shown is how long a new series may show its zero, and a moment.
const shown = 16 * time.Second
