// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// dnsFrames are packets with DNS messages in them, by name, as they leave a client.
func dnsFrames(tb testing.TB) map[string][]byte {
	tb.Helper()
	const ip, ip6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	message := gopacket.Payload(noise(40))
	segment := &layers.TCP{SrcPort: 40000, DstPort: portDNS, DataOffset: 5, PSH: true, ACK: true}
	return map[string][]byte{
		"udp4-query": serialize(tb, ethernet(ip), ipv4(layers.IPProtocolUDP), udp(portDNS), message),
		"udp6-query": serialize(tb, ethernet(ip6), ipv6(layers.IPProtocolUDP), udp(portDNS), message),
		"tcp4-query": serialize(tb, ethernet(ip), ipv4(layers.IPProtocolTCP), segment, message),
		"tcp6-query": serialize(tb, ethernet(ip6), ipv6(layers.IPProtocolTCP), segment, message),
	}
}

// BenchmarkDNS is the cost of one packet at a socket: of what is no DNS message, and of messages that are copied.
func BenchmarkDNS(b *testing.B) {
	const ip, ip6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	frames := dnsFrames(b)
	full := func(parts ...gopacket.SerializableLayer) []byte {
		head := serialize(b, parts...)
		return slices.Concat(head, make([]byte, 1514-len(head)))
	}
	embedded := ipv4(layers.IPProtocolUDP)
	embedded.DstIP = embeddedResolver.AsSlice()
	for _, bc := range []struct {
		name  string
		frame []byte
		runs  int
	}{
		{"tcp4-stream", full(ethernet(ip), ipv4(layers.IPProtocolTCP), tcp()), 20_000},
		{"tcp6-stream", full(ethernet(ip6), ipv6(layers.IPProtocolTCP), tcp()), 20_000},
		{"udp4-other", serialize(b, ethernet(ip), ipv4(layers.IPProtocolUDP), udp(4433), gopacket.Payload(noise(40))), 20_000},
		{"udp6-other", serialize(b, ethernet(ip6), ipv6(layers.IPProtocolUDP), udp(4433), gopacket.Payload(noise(40))), 20_000},
		{"icmp4", serialize(b, ethernet(ip), ipv4(layers.IPProtocolICMPv4), gopacket.Payload(noise(40))), 20_000},
		{"tcp4-acknowledgement", serialize(b, ethernet(ip), ipv4(layers.IPProtocolTCP),
			&layers.TCP{SrcPort: 40000, DstPort: portDNS, DataOffset: 5, ACK: true})[:ethernetHeader+ipv4Header+20], 20_000}, // without padding
		{"udp4-loopback-untranslated", serialize(b, ethernet(ip), embedded, udp(4433), gopacket.Payload(noise(40))), 20_000},
		{"udp4-query", frames["udp4-query"], 10_000},
		{"udp6-query", frames["udp6-query"], 10_000},
		{"tcp4-query", frames["tcp4-query"], 10_000},
	} {
		b.Run(bc.name, func(b *testing.B) {
			program, empty := mustOpenDNSProgram(b, 0), emptyProgram(b, ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress, 1)
			measure := func(program *ebpf.Program) (ns float64) {
				withoutSignals(b, func() {
					start := time.Now()
					if _, err := program.Run(&ebpf.RunOptions{Data: bc.frame, Repeat: uint32(bc.runs)}); err != nil {
						b.Error(err)
					}
					ns = float64(time.Since(start).Nanoseconds()) / float64(bc.runs)
				})
				return ns
			}
			var p pairs
			for b.Loop() {
				p.add(measure(program.objects.Egress), measure(empty))
				if _, err := program.read(gatherLimit, func(*dnsPacket) {}); err != nil {
					b.Fatal(err)
				}
			}
			if lost := lossesAt(b, program.losses, "ring_full"); lost != 0 {
				b.Errorf("%d packets found no room: this is the cost of losing them", lost)
			}
			p.report(b)
		})
	}
}

// BenchmarkDNSRead is the cost of one packet in user space, before it is looked into.
func BenchmarkDNSRead(b *testing.B) {
	const count = 10_000
	program := mustOpenDNSProgram(b, 0)
	var times []float64
	for b.Loop() {
		if _, err := program.objects.Egress.Run(&ebpf.RunOptions{Data: dnsFrames(b)["udp4-query"], Repeat: count}); err != nil {
			b.Fatal(err)
		}
		start, read := time.Now(), 0
		if _, err := program.read(gatherLimit, func(*dnsPacket) { read++ }); err != nil {
			b.Fatal(err)
		}
		times = append(times, float64(time.Since(start).Nanoseconds())/float64(read))
	}
	b.ReportMetric(0, "ns/op") // not shown
	b.ReportMetric(median(times), "ns/packet")
}
