// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// shortLife is the command of a container that does nothing but send, and lives as long as that takes and 50 ms.
func shortLife(to netip.AddrPort, count int) []string {
	return append(lab.Datagrams{To: to, Count: count}.Args(), "--linger=50ms")
}

// TestFirstPacket counts containers whose very first act is to send, also those that live no longer than that.
func TestFirstPacket(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine)
	network := engine.Network(t, "first", "--subnet", "10.91.0.0/24")
	options := []string{"--network", network}
	receiver := engine.Serve(t, "first-receiver", options, "udp-listen", port)
	to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)

	const containers, count = 10, 200
	var stay []device
	for i := range containers {
		c := engine.Run(t, "first-stays-"+strconv.Itoa(i), options, append(shortLife(to, count), "--stay")...)
		stay = append(stay, on(t, c, network))
	}
	requireEqual(t, agent, stay...)

	truth := map[string]lab.Report{}
	for i := range containers {
		name := "first-goes-" + strconv.Itoa(i)
		r, err := engine.RunOnce(name, options, shortLife(to, count)...)
		if err != nil {
			t.Fatal(err)
		}
		truth[name] = r
	}
	agent.Settle(t) // who has gone is news
	metrics := agent.Scrape(t)
	for name, r := range truth {
		if r.Sent != count {
			t.Errorf("%s sent %d datagrams of %d", name, r.Sent, count)
		}
		requireTransmitted(t, metrics, name, network, r.Transmitted)
	}
}

// requireTransmitted holds what the agent counted of what a container sent against the truth.
func requireTransmitted(t *testing.T, metrics lab.Metrics, name, network string, truth lab.Counted) {
	t.Helper()
	if got := transmitted(metrics, name, network); got != truth {
		t.Errorf("%s on %s: counted %+v, transmitted %+v", name, network, got, truth)
	}
}

// transmitted is what the agent counted of what a container sent.
func transmitted(metrics lab.Metrics, name, network string) lab.Counted {
	labels := lab.Labels{"container": name, "network": network}
	return lab.Counted{
		Packets: sum(metrics, "bridgewatch_skbs_total", labels, "tx"),
		Bytes:   sum(metrics, "bridgewatch_bytes_total", labels, "tx"),
	}
}
