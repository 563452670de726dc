// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// BenchmarkDNSHooks is what each place where lookups could be watched costs datagrams that are none, before a program looks
// at anything; and last what ours cost, which are at the first. The datagrams are of 64 bytes, over a veth and within a
// namespace, with a program there and without, in turns.
func BenchmarkDNSHooks(b *testing.B) {
	for _, hook := range []struct {
		name   string
		attach func(b *testing.B) []io.Closer
	}{
		{"none", func(*testing.B) []io.Closer { return nil }},
		{"cgroup_skb", attachEmptyCgroupSKB},
		{"net_dev_queue", attachEmptyNetDevQueue},
		{"tcx-lo", attachEmptyTCX},
		{"ours", func(b *testing.B) []io.Closer { return []io.Closer{openDNSAnew(b)} }},
	} {
		for _, to := range []string{"192.0.2.2", "127.0.0.1"} {
			b.Run(hook.name+"/to="+to, func(b *testing.B) {
				const sends = 50_000
				send := datagrams(b, to)
				var p pairs
				for b.Loop() {
					attached := hook.attach(b)
					with := timePer(sends, send)
					for _, c := range attached {
						mustClose(b, c)
					}
					p.add(with, timePer(sends, send))
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(median(p.empty), "ns/datagram-without")
				b.ReportMetric(median(p.net), "ns/datagram-added")
			})
		}
	}
}

func timePer(times int, f func()) float64 {
	begun := time.Now()
	for range times {
		f()
	}
	return float64(time.Since(begun).Nanoseconds()) / float64(times)
}

// datagrams returns what sends one from one socket to another, which lose all that they have no room for.
func datagrams(b *testing.B, to string) func() {
	b.Helper()
	enterFreshNetns(b)
	inside := newNamespace(b)
	vethPair(b, inside)
	listen := func() {
		server, err := net.ListenPacket("udp", to+":7000")
		if err != nil {
			b.Error(err)
			return
		}
		b.Cleanup(func() { mustClose(b, server) })
	}
	if to == "192.0.2.2" {
		inside.do(b, listen)
	} else {
		listen()
	}
	client, err := net.Dial("udp", to+":7000")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { mustClose(b, client) })
	payload := make([]byte, 22)
	return func() { _, _ = client.Write(payload) }
}

func emptyProgram(b *testing.B, kind ebpf.ProgramType, attach ebpf.AttachType, verdict int32) *ebpf.Program {
	b.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { mustClose(b, program) })
	return program
}

func attachEmptyCgroupSKB(b *testing.B) (attached []io.Closer) {
	b.Helper()
	root := mustOpenCgroupRoot(b)
	for _, way := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
		l, err := link.AttachCgroup(link.CgroupOptions{
			Path: pathOf(root), Attach: way, Program: emptyProgram(b, ebpf.CGroupSKB, way, 1),
		})
		if err != nil {
			b.Fatal(err)
		}
		attached = append(attached, l)
	}
	return attached
}

func attachEmptyNetDevQueue(b *testing.B) []io.Closer {
	b.Helper()
	l, err := link.AttachTracing(link.TracingOptions{Program: loadEmpty(b).EmptyNetDevQueue})
	if err != nil {
		b.Fatal(err)
	}
	return []io.Closer{l}
}

func attachEmptyTCX(b *testing.B) (attached []io.Closer) {
	b.Helper()
	for _, way := range []ebpf.AttachType{ebpf.AttachTCXEgress, ebpf.AttachTCXIngress} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: emptyProgram(b, ebpf.SchedCLS, way, -1), Attach: way})
		if err != nil {
			b.Fatal(err)
		}
		attached = append(attached, l)
	}
	return attached
}

func openDNSAnew(b *testing.B) *dnsProgram {
	b.Helper()
	program, err := openDNSProgram(0)
	if err != nil {
		b.Fatal(err)
	}
	return program
}
