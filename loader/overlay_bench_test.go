// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// BenchmarkOverlay is the cost of one packet that comes in: of the Swarm's, and of others.
func BenchmarkOverlay(b *testing.B) {
	const runs = 100_000
	const ip, ip6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	tunnelled := []gopacket.SerializableLayer{ethernet(ip), ipv4(layers.IPProtocolTCP), tcp()}
	for _, bc := range []struct {
		name    string
		layers  []gopacket.SerializableLayer
		counted bool
	}{
		{"other/udp4", []gopacket.SerializableLayer{toHost(ip), ipv4(layers.IPProtocolUDP), udp(53)}, false},
		{"other/tcp4", []gopacket.SerializableLayer{toHost(ip), ipv4(layers.IPProtocolTCP), tcp()}, false},
		{"other/udp6", []gopacket.SerializableLayer{toHost(ip6), ipv6(layers.IPProtocolUDP), udp(53)}, false},
		{"other/tcp6", []gopacket.SerializableLayer{toHost(ip6), ipv6(layers.IPProtocolTCP), tcp()}, false},
		{"other/no-ip", []gopacket.SerializableLayer{toHost(etherTypeLLDP)}, false},
		{"other/not-ours", []gopacket.SerializableLayer{ethernet(ip), ipv4(layers.IPProtocolUDP), udp(4789)}, false},
		{"counted/vxlan4", append([]gopacket.SerializableLayer{toHost(ip), ipv4(layers.IPProtocolUDP), udp(4789), vxlan()}, tunnelled...), true},
		{"counted/vxlan6", append([]gopacket.SerializableLayer{toHost(ip6), ipv6(layers.IPProtocolUDP), udp(4789), vxlan()}, tunnelled...), true},
		{"counted/esp4", []gopacket.SerializableLayer{toHost(ip), ipv4(layers.IPProtocolESP), gopacket.Payload(make([]byte, 32))}, true},
		{"counted/gossip4", []gopacket.SerializableLayer{toHost(ip), ipv4(layers.IPProtocolUDP), udp(7946)}, true},
	} {
		b.Run(bc.name, func(b *testing.B) {
			enterFreshNetns(b)
			overlays, empty := mustOpenOverlay(b, OverlayConfig{}), loadEmpty(b)
			head := serialize(b, bc.layers...)
			frame := append(head, make([]byte, max(64-len(head), 0))...)
			measure := func(program *ebpf.Program) (ns float64) {
				withoutSignals(b, func() {
					start := time.Now()
					if _, err := program.Run(&ebpf.RunOptions{Data: frame, Repeat: runs}); err != nil {
						b.Error(err)
					}
					ns = float64(time.Since(start).Nanoseconds()) / runs
				})
				return ns
			}
			var p pairs
			for b.Loop() {
				p.add(measure(overlays.objects.Ingress), measure(empty.EmptyTc))
			}
			if counted := mustRead(b, overlays.Read); (len(counted) > 0) != bc.counted {
				b.Errorf("counted %+v", counted)
			}
			p.report(b)
		})
	}
}

// BenchmarkOverlayOutgoing is the cost of one datagram that leaves, as the kernel measures both programs at the same ones.
func BenchmarkOverlayOutgoing(b *testing.B) {
	const runs = 2000
	for name, port := range map[string]uint16{"other": 53, "counted": DefaultDataPort} {
		b.Run(name, func(b *testing.B) {
			enterFreshNetns(b)
			uplink := vethPair(b, newNamespace(b))
			overlays, empty := mustOpenOverlay(b, OverlayConfig{}), loadEmpty(b)
			if err := overlays.SetDevices([]int{uplink.Index}); err != nil {
				b.Fatal(err)
			}
			attached, err := link.AttachTCX(link.TCXOptions{Interface: uplink.Index, Program: empty.EmptyTc, Attach: ebpf.AttachTCXEgress})
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, attached)
			measuring, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, measuring)
			from := mustListenUDP(b, "192.0.2.1:0")
			to := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port)
			ours, nothing := &meter{program: overlays.objects.Egress}, &meter{program: empty.EmptyTc}
			var p pairs
			for b.Loop() {
				ours.read(b)
				nothing.read(b)
				sendUDP(b, from, to, runs, 22)
				p.add(ours.read(b), nothing.read(b))
			}
			p.report(b)
		})
	}
}

// toHost is to the loopback's address, which is whose packets BPF_PROG_TEST_RUN makes of what it is given.
func toHost(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: mac1, DstMAC: make(net.HardwareAddr, 6), EthernetType: t}
}
