// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestIPvlan counts the devices of containers that only an ipvlan network gives.
func TestIPvlan(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine)
	for _, mode := range []string{"l2", "l3"} {
		t.Run(mode, func(t *testing.T) {
			network := engine.Network(t, "child"+mode, "--driver", "ipvlan", "--opt", "parent=eth0", "--opt", "ipvlan_mode="+mode,
				"--subnet", map[string]string{"l2": "192.0.2.128/25", "l3": "10.77.0.0/24"}[mode])
			sender, receiver := pair(t, engine, mode, network)
			sender.Send(t, lab.Datagrams{To: netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port), Count: 100})
			for _, c := range []*lab.Container{sender, receiver} {
				lab.Eventually(t, time.Minute, "the packets of "+c.Name, func() bool {
					// By its packets: what ipvlan counts as received bytes has the Ethernet header twice.
					own, metrics := c.Stats(t, "eth0"), agent.Scrape(t)
					packets := func(direction string) uint64 {
						return metrics.Sum("bridgewatch_packets_total", lab.Labels{"container": c.Name, "network": network, "direction": direction})
					}
					return packets("rx") == own.RxPackets && packets("tx") == own.TxPackets && own.RxPackets+own.TxPackets >= 100
				})
			}
		})
	}
}
