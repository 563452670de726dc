// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestEncrypted counts what the wire does not tell: which network an encrypted packet is of.
func TestEncrypted(t *testing.T) {
	s := newSwarmStage(t)
	s.swarm.Network(t, "secret", "--opt", "encrypted")
	vni := s.manager.VNI(t, "secret")
	near := s.manager.Run(t, "near", []string{"--network", "secret"})
	far := s.worker.Serve(t, "far", []string{"--network", "secret"}, "udp-listen", port)
	esp, plain := map[*side]*lab.Wire{}, map[*side]*lab.Wire{}
	for _, at := range s.sides() {
		between := lab.Between(at.Node, s.other(at).Node)
		esp[at], plain[at] = s.swarm.CountSent(t, between.And("ip protocol esp")), s.swarm.CountSent(t, between.VXLAN(vni))
	}
	const count = 1000
	near.Send(t, lab.Datagrams{To: netip.AddrPortFrom(far.Addr(t, "secret", lab.IPv4), port), Count: count, Size: 200})
	s.eventuallyWithin(time.Minute, "encrypted packets", func() (wrong []string) {
		if n := esp[s.manager].Packets(t); n < count {
			wrong = append(wrong, fmt.Sprintf("the switch saw %d encrypted packets", n))
		}
		for _, from := range s.sides() {
			to := s.other(from)
			want := esp[from].Packets(t)
			for at, direction := range map[*side]string{from: "tx", to: "rx"} {
				of := lab.Labels{"encapsulation": "esp", "direction": direction, "network": "", "peer": s.other(at).Addr.String()}
				if got := at.agent.Scrape(t).Sum("bridgewatch_overlay_packets_total", of); got != want {
					wrong = append(wrong, fmt.Sprintf("%s counted %d ESP packets %s, the switch %d", at.Hostname, got, direction, want))
				}
			}
			if n := plain[from].Packets(t); n != 0 {
				wrong = append(wrong, fmt.Sprintf("%d packets of %s in plain", n, from.Hostname))
			}
		}
		for at, direction := range map[*side]string{s.manager: "tx", s.worker: "rx"} {
			of := lab.Labels{"encapsulation": "vxlan", "network": "secret", "direction": direction, "peer": s.other(at).Addr.String()}
			if got := at.agent.Scrape(t).Sum("bridgewatch_overlay_packets_total", of); got != count {
				wrong = append(wrong, fmt.Sprintf("%s counted %d packets of the network %s, want %d:\n%s", at.Hostname, got, direction, count,
					lines(at.agent.Scrape(t).Select("bridgewatch_overlay_packets_total", nil))))
			}
		}
		return wrong
	})
	blocked := s.swarm.Block(t, lab.Between(s.manager.Node, s.worker.Node).And("ip protocol esp"))
	wait := near.Begin(t, "tcp-connect", "--to", netip.AddrPortFrom(far.Addr(t, "secret", lab.IPv4), port).String(), "--count", "10", "--timeout", "1m")
	s.eventuallyWithin(2*time.Minute, "the finding that ESP is blocked", func() (wrong []string) {
		isFound := func(f lab.Finding) bool { return f.ID == "encrypted-esp-blocked" }
		if !slices.ContainsFunc(append(s.worker.found.Standing(), s.manager.found.Standing()...), isFound) {
			wrong = append(wrong, fmt.Sprintf("%d packets were blocked, and the manager counted:\n%s", blocked.Packets(t),
				lines(s.manager.agent.Scrape(t).Select("bridgewatch_swarm_channel_packets_total", nil))))
		}
		return wrong
	})
	blocked.Lift(t)
	wait()
}
