// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// BenchmarkEgress is the cost of one packet that is none of a container's, with all the subnets that Docker takes by
// default.
func BenchmarkEgress(b *testing.B) {
	const runs = 100_000
	var subnets []netip.Prefix
	for i := 17; i < 32; i++ {
		subnets = append(subnets, netip.MustParsePrefix(fmt.Sprintf("172.%d.0.0/16", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", i)))
	}
	for i := 16; i < 256; i += 16 {
		subnets = append(subnets, netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/20", i)))
	}
	for _, bc := range []struct {
		name   string
		layers []gopacket.SerializableLayer
	}{
		{"ipv4", []gopacket.SerializableLayer{ethernet(layers.EthernetTypeIPv4), ipv4From("10.0.2.15"), udp(53)}},
		{"ipv4-near", []gopacket.SerializableLayer{ethernet(layers.EthernetTypeIPv4), ipv4From("192.168.1.15"), udp(53)}},
		{"ipv6", []gopacket.SerializableLayer{ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolUDP), udp(53)}},
		{"no-ip", []gopacket.SerializableLayer{ethernet(etherTypeLLDP)}},
		{"ipv4-same-beginning", []gopacket.SerializableLayer{ethernet(layers.EthernetTypeIPv4), ipv4From("192.168.33.15"), udp(53)}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			egress, empty := mustOpenEgress(b, EgressConfig{}), loadEmpty(b)
			set := subnets
			if bc.name == "ipv4-same-beginning" { // a subnet that shares its first 20 bits with the host's own
				set = []netip.Prefix{netip.MustParsePrefix("192.168.32.0/24")}
			}
			if err := egress.SetSubnets(set); err != nil {
				b.Fatal(err)
			}
			head := serialize(b, bc.layers...)
			frame := append(head, make([]byte, 64-len(head))...)
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
				p.add(measure(egress.objects.Program), measure(empty.EmptyTc))
			}
			p.report(b)
		})
	}
}

func ipv4From(address string) *layers.IPv4 {
	l := ipv4(layers.IPProtocolUDP)
	l.SrcIP = netip.MustParseAddr(address).AsSlice()
	return l
}
