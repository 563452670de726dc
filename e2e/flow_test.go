// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// device is a container's interface and the series that count it.
type device struct {
	place   lab.Place
	name    string
	labels  lab.Labels // without direction
	gsoFree bool       // nothing on it is ever longer than one segment
}

// on is a container's device on a network.
func on(tb testing.TB, c *lab.Container, network string) device {
	tb.Helper()
	return device{c.Place, c.DeviceOn(tb, network), lab.Labels{"container": c.Name, "network": network}, false}
}

// counters are what a device counts itself.
type counters struct{ rxPackets, rxBytes, txPackets, txBytes uint64 }

func (d device) counters(tb testing.TB) counters {
	tb.Helper()
	s := d.place.Stats(tb, d.name)
	return counters{s.RxPackets, s.RxBytes, s.TxPackets, s.TxBytes}
}

// requireEqual holds the agent's counts against the devices' own, since their birth.
func requireEqual(t *testing.T, agent *lab.Agent, devices ...device) {
	t.Helper()
	var wrong []string
	for end := time.Now().Add(shown); ; time.Sleep(100 * time.Millisecond) {
		metrics, own := scrapeBetween(t, agent, devices)
		if wrong = differences(metrics, devices, own); len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// differences are those between what was counted and what the devices say of themselves.
func differences(metrics lab.Metrics, devices []device, own []counters) (wrong []string) {
	for i, d := range devices {
		got := counters{
			sum(metrics, "bridgewatch_skbs_total", d.labels, "rx"), sum(metrics, "bridgewatch_bytes_total", d.labels, "rx"),
			sum(metrics, "bridgewatch_skbs_total", d.labels, "tx"), sum(metrics, "bridgewatch_bytes_total", d.labels, "tx"),
		}
		if got != own[i] {
			wrong = append(wrong, fmt.Sprintf("%s %v: counted %+v, the device says %+v", d.name, d.labels, got, own[i]))
		}
		segments := counters{rxPackets: sum(metrics, "bridgewatch_packets_total", d.labels, "rx"),
			txPackets: sum(metrics, "bridgewatch_packets_total", d.labels, "tx")}
		if d.gsoFree && (segments.rxPackets != own[i].rxPackets || segments.txPackets != own[i].txPackets) {
			wrong = append(wrong, fmt.Sprintf("%s %v: counted %+v packets, the device says %+v", d.name, d.labels, segments, own[i]))
		}
		if segments.rxPackets < got.rxPackets || segments.txPackets < got.txPackets {
			wrong = append(wrong, fmt.Sprintf("%s %v: fewer packets than skbs: %+v, %+v", d.name, d.labels, segments, got))
		}
	}
	return wrong
}

// scrapeBetween scrapes while the devices are at rest: their counters are the same before and after.
func scrapeBetween(t *testing.T, agent *lab.Agent, devices []device) (metrics lab.Metrics, own []counters) {
	t.Helper()
	lab.Eventually(t, patience, "the devices to be at rest", func() bool {
		own = nil
		for _, d := range devices {
			own = append(own, d.counters(t))
		}
		metrics = agent.Scrape(t)
		for i, d := range devices {
			if d.counters(t) != own[i] {
				return false
			}
		}
		return true
	})
	return metrics, own
}

func sum(metrics lab.Metrics, name string, labels lab.Labels, direction string) uint64 {
	all := lab.Labels{"direction": direction}
	for k, v := range labels {
		all[k] = v
	}
	return metrics.Sum(name, all)
}

// TestFlow holds counts of bulk traffic between two containers against their devices.
func TestFlow(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine)

	const count, size, headers = 1_000_000, 64, 14 + 20 + 8
	t.Run("a million datagrams", func(t *testing.T) {
		network := engine.Network(t, "million", "--subnet", "10.85.0.0/24")
		receiver := engine.Serve(t, "million-receiver", []string{"--network", network}, "udp-listen", port)
		sender := engine.Run(t, "million-sender", []string{"--network", network})
		to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)
		sender.Send(t, lab.Datagrams{To: to, Count: count, Size: size})

		from, at := on(t, sender, network), on(t, receiver, network)
		from.gsoFree, at.gsoFree = true, true
		requireEqual(t, agent, from, at)
		if n := from.counters(t).txPackets; n < count || n > count+10 {
			t.Errorf("the sender's device says %d packets", n)
		}
	})

	t.Run("ten seconds of a stream", func(t *testing.T) {
		stream(t, engine, agent, "stream", 10*time.Second, false)
	})
	t.Run("a stream without segmentation offload", func(t *testing.T) {
		stream(t, engine, agent, "segments", 3*time.Second, true)
	})

	agent.Settle(t)
	requireConversation(t, agent.Scrape(t), lab.Labels{
		"source_service": "million-sender", "destination_service": "million-receiver", "network": "million", "protocol": "udp",
	}, count*(headers+size))
}

func stream(t *testing.T, engine *lab.Engine, agent *lab.Agent, name string, duration time.Duration, gsoFree bool) {
	t.Helper()
	network := engine.Network(t, name, "--subnet", "10.86.0.0/24")
	receiver := engine.Serve(t, name+"-receiver", []string{"--network", network}, "tcp-listen", port)
	sender := engine.Run(t, name+"-sender", []string{"--network", network})
	if gsoFree {
		for _, c := range []*lab.Container{sender, receiver} {
			c.Run(t, "ip", "link", "set", "eth0", "gso_max_segs", "1")
		}
	}
	to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)
	r := sender.Traffic(t, "tcp-send", "--to", to.String(), "--for", duration.String())

	from, at := on(t, sender, network), on(t, receiver, network)
	from.gsoFree, at.gsoFree = gsoFree, gsoFree
	requireEqual(t, agent, from, at)
	if n := from.counters(t).txBytes; n < uint64(r.Bytes) {
		t.Errorf("the sender's device says %d bytes for a stream of %d", n, r.Bytes)
	}
}

// requireConversation holds the bytes that went one way between two services against want. Conversations are series that
// nobody can foresee: they show their value when the agent has settled.
func requireConversation(t *testing.T, metrics lab.Metrics, labels lab.Labels, want uint64) {
	t.Helper()
	if got := metrics.Sum("bridgewatch_conversation_bytes_total", labels); got != want {
		t.Errorf("conversation %v: counted %d bytes, want %d", labels, got, want)
	}
}
