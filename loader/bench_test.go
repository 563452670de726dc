// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// What our programs cost is told apart from what it costs to run one at all: each measurement is a pair, ours and a
// program that does nothing, one right after the other. Reported are the medians; ns/op means nothing.

// pairs collects measurements in nanoseconds per run.
type pairs struct{ ours, empty, net []float64 }

func (p *pairs) add(ours, empty float64) {
	p.ours = append(p.ours, ours)
	p.empty = append(p.empty, empty)
	p.net = append(p.net, ours-empty)
}

func (p *pairs) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // not shown
	b.ReportMetric(median(p.ours), "ns/run")
	b.ReportMetric(median(p.empty), "empty-ns/run")
	b.ReportMetric(median(p.net), "net-ns/run")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// segmentedContext is a __sk_buff that says its packet stands for many.
func segmentedContext() []byte {
	const gsoSegs, gsoSize, size = 164, 176, 184 // offsets in uapi/linux/bpf.h
	context := make([]byte, size)
	binary.NativeEndian.PutUint32(context[gsoSegs:], 44)
	binary.NativeEndian.PutUint32(context[gsoSize:], 1448)
	return context
}

// BenchmarkFlow is the cost of one packet of a conversation that is in the table.
func BenchmarkFlow(b *testing.B) {
	const runs = 100_000
	for _, bc := range []struct {
		name    string
		layers  []gopacket.SerializableLayer
		size    int
		context []byte
	}{
		{"udp4-64", []gopacket.SerializableLayer{
			ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolUDP), udp(53),
		}, 64, nil},
		{"udp6-64", []gopacket.SerializableLayer{
			ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolUDP), udp(53),
		}, 64, nil},
		{"tcp4-segments", []gopacket.SerializableLayer{
			ethernet(layers.EthernetTypeIPv4), ipv4(layers.IPProtocolTCP), tcp(),
		}, 1514, segmentedContext()},
		{"no-ip", []gopacket.SerializableLayer{ethernet(etherTypeLLDP)}, 64, nil},
	} {
		b.Run(bc.name, func(b *testing.B) {
			flows, empty := mustOpenFlows(b, 0), loadEmpty(b)
			head := serialize(b, bc.layers...)
			frame := append(head, make([]byte, bc.size-len(head))...)
			measure := func(program *ebpf.Program) (ns float64) {
				withoutSignals(b, func() {
					options := ebpf.RunOptions{Data: frame, Repeat: runs}
					if bc.context != nil {
						options.Context = bc.context
					}
					start := time.Now()
					if _, err := program.Run(&options); err != nil {
						b.Error(err)
					}
					ns = float64(time.Since(start).Nanoseconds()) / runs
				})
				return ns
			}
			var p pairs
			for b.Loop() {
				p.add(measure(flows.objects.Ingress), measure(empty.EmptyTc))
			}
			p.report(b)
		})
	}
}

// BenchmarkDrop is the cost of one datagram dropped at a closed port, as the kernel measures both programs at the same
// drops: of a conversation that is in the table, and of one that is new.
func BenchmarkDrop(b *testing.B) {
	const runs = 2000
	for _, bc := range []struct {
		name string
		port func(i int) uint16
	}{
		{"known", func(int) uint16 { return closedPort }},
		{"new", func(i int) uint16 { return uint16(1000 + i) }},
	} {
		b.Run(bc.name, func(b *testing.B) {
			enterFreshNetns(b)
			drops, empty := mustOpenDrops(b, DropsConfig{Kallsyms: kallsyms}), loadEmpty(b)
			attached, err := link.AttachTracing(link.TracingOptions{Program: empty.EmptyKfreeSkb})
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, attached)
			measuring, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, measuring)
			from := mustListenUDP(b, "127.0.0.1:0")
			ours, nothing := &meter{program: drops.objects.KfreeSkb}, &meter{program: empty.EmptyKfreeSkb}
			var p pairs
			for b.Loop() {
				ours.read(b)
				nothing.read(b)
				for i := range runs {
					sendUDP(b, from, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), bc.port(i)), 1, 22)
				}
				p.add(ours.read(b), nothing.read(b))
				mustRead(b, drops.Read)
			}
			p.report(b)
		})
	}
}

// meter reads what the kernel measures of a program.
type meter struct {
	program *ebpf.Program
	runs    uint64
	time    time.Duration
}

// read returns the mean in nanoseconds per run since it was last called.
func (m *meter) read(tb testing.TB) float64 {
	tb.Helper()
	stats, err := m.program.Stats()
	if err != nil {
		tb.Fatal(err)
	}
	runs, spent := stats.RunCount-m.runs, stats.Runtime-m.time
	m.runs, m.time = stats.RunCount, stats.Runtime
	return float64(spent.Nanoseconds()) / float64(max(runs, 1))
}
