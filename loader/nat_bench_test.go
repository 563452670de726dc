// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BenchmarkNAT is the cost of one packet on its way to a device, as the kernel measures both programs at the same packets:
// of what is not tracked, of a connection that is long known, whose client or server has something to say, and of those
// that have to be looked at.
func BenchmarkNAT(b *testing.B) {
	const (
		runs       = 2000
		track      = "-A OUTPUT -d 127.0.0.99 -j DNAT --to-destination 127.0.0.1" // matches nothing
		translate  = "-A OUTPUT -d 127.0.0.2 -j DNAT --to-destination 127.0.0.1"
		translated = "127.0.0.2"
		plain      = "127.0.0.1"
	)
	for _, bc := range []struct {
		name string
		rule string
		to   string
		make func(b *testing.B, to string) (send func(i int))
	}{
		{"untracked", "", plain, sendSame},
		{"established-request", translate, translated, func(b *testing.B, to string) func(int) {
			client, server := connectTCP(b, to)
			return func(int) { writeByte(b, client, server) }
		}},
		{"established-answer", translate, translated, func(b *testing.B, to string) func(int) {
			client, server := connectTCP(b, to)
			return func(int) { writeByte(b, server, client) }
		}},
		{"stream-request", translate, translated, func(b *testing.B, to string) func(int) {
			client, _, server, _ := streamUDP(b, to)
			return func(int) { sendUDP(b, client, server, 1, 22) }
		}},
		{"stream-answer", translate, translated, func(b *testing.B, to string) func(int) {
			_, server, _, client := streamUDP(b, to)
			return func(int) { sendUDP(b, server, client, 1, 22) }
		}},
		{"answer", translate, translated, answerUDP},
		{"answer-untranslated", track, plain, answerUDP},
		{"again", translate, translated, sendSame},
		{"again-untranslated", track, plain, sendSame},
		{"one-way", translate, translated, sendAlways},
		{"one-way-untranslated", track, plain, sendAlways},
		{"first", translate, translated, sendEach},
		{"first-untranslated", track, plain, sendEach},
	} {
		b.Run(bc.name, func(b *testing.B) {
			enterFreshNetns(b)
			if bc.rule != "" {
				run(b, "sh", "-c", "iptables -w -t nat "+bc.rule)
			}
			program, empty := mustOpenNATProgram(b, newNamespace(b), NATConfig{}), loadEmpty(b)
			attached, err := link.AttachTracing(link.TracingOptions{Program: empty.EmptyNetDevQueue})
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, attached)
			measuring, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Fatal(err)
			}
			defer mustClose(b, measuring)
			send := bc.make(b, bc.to)
			ours, nothing := &meter{program: program.objects.NetDevQueue}, &meter{program: empty.EmptyNetDevQueue}
			var p pairs
			for b.Loop() {
				ours.read(b)
				nothing.read(b)
				for i := range runs {
					send(i)
				}
				p.add(ours.read(b), nothing.read(b))
				if err := program.read(gatherLimit, func(natRecord) {}); err != nil {
					b.Fatal(err)
				}
				if strings.HasPrefix(bc.name, "first") {
					run(b, "conntrack", "-F")
				}
			}
			p.report(b)
		})
	}
}

// BenchmarkNATFilter is the cost of one of conntrack's events, with what it takes to run any program (some 10 ns).
func BenchmarkNATFilter(b *testing.B) {
	const runs = 100_000
	original := Tuple{netip.AddrPortFrom(world4, 40_000), netip.AddrPortFrom(router4, 80)}
	for _, bc := range []struct {
		name   string
		status uint32
	}{{"translated", statusDestNAT}, {"dull", 0}} {
		b.Run(bc.name, func(b *testing.B) {
			program := mustOpenNATProgram(b, newNamespace(b), NATConfig{})
			message := ctMessage(
				ctTuple(ctaTupleOriginal, unix.IPPROTO_TCP, original),
				ctTuple(ctaTupleReply, unix.IPPROTO_TCP, Tuple{original.Destination, original.Source}),
				ctAttribute(12, number32(1)), ctAttribute(ctaStatus, number32(bc.status)))
			frame := append(make([]byte, 14), message...)
			var times []float64
			for b.Loop() {
				withoutSignals(b, func() {
					start := time.Now()
					if _, err := program.objects.FilterEvents.Run(&ebpf.RunOptions{Data: frame, Repeat: runs}); err != nil {
						b.Error(err)
					}
					times = append(times, float64(time.Since(start).Nanoseconds())/runs)
				})
			}
			b.ReportMetric(0, "ns/op") // not shown
			b.ReportMetric(median(times), "ns/run")
		})
	}
}

// benchmarkPort is where the benchmarks send to.
const benchmarkPort = 7777

// stream is what net/netfilter/nf_conntrack_proto_udp.c waits for before it takes a connection for a stream, and a bit.
const stream = 2100 * time.Millisecond

// sendSame sends datagrams of one connection, which nobody answers.
func sendSame(b *testing.B, to string) func(int) {
	mustListenUDP(b, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), benchmarkPort).String())
	from, destination := mustListenUDP(b, "127.0.0.1:0"), netip.AddrPortFrom(netip.MustParseAddr(to), benchmarkPort)
	return func(int) { sendUDP(b, from, destination, 1, 22) }
}

// answerUDP sends answers of a connection, another for each measurement: after a while the kernel would take it for a stream.
func answerUDP(b *testing.B, to string) func(int) {
	server := mustListenUDP(b, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), benchmarkPort).String())
	var client netip.AddrPort
	return func(i int) {
		if i == 0 {
			from := mustListenUDP(b, "127.0.0.1:0")
			client = from.LocalAddr().(*net.UDPAddr).AddrPort()
			sendUDP(b, from, netip.AddrPortFrom(netip.MustParseAddr(to), benchmarkPort), 1, 22)
		}
		sendUDP(b, server, client, 1, 22)
	}
}

// sendAlways sends datagrams of a connection of which the kernel knows by now that it is not new, and yet says so.
func sendAlways(b *testing.B, to string) func(int) {
	send := sendSame(b, to)
	send(0)
	time.Sleep(stream)
	return send
}

// sendEach sends datagrams of a connection each.
func sendEach(b *testing.B, to string) func(int) {
	mustListenUDP(b, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), benchmarkPort).String())
	destination := netip.AddrPortFrom(netip.MustParseAddr(to), benchmarkPort)
	return func(i int) {
		from, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10_000 + i})
		if err != nil {
			b.Fatal(err)
		}
		sendUDP(b, from, destination, 1, 22)
		mustClose(b, from)
	}
}

// connectTCP returns the two ends of a connection.
func connectTCP(b *testing.B, to string) (client, server *net.TCPConn) {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", benchmarkPort))
	if err != nil {
		b.Fatal(err)
	}
	defer mustClose(b, listener)
	a, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(to), benchmarkPort).String())
	if err != nil {
		b.Fatal(err)
	}
	z, err := listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { a.Close(); z.Close() })
	return a.(*net.TCPConn), z.(*net.TCPConn)
}

// writeByte sends a segment, and takes it at the other end: every other one is acknowledged.
func writeByte(b *testing.B, from, to *net.TCPConn) {
	octet := make([]byte, 1)
	if _, err := from.Write(octet); err != nil {
		b.Fatal(err)
	}
	if _, err := to.Read(octet); err != nil {
		b.Fatal(err)
	}
}

// streamUDP returns two ends that have talked for so long that the kernel takes it for a stream, and their addresses.
func streamUDP(b *testing.B, to string) (client, server *net.UDPConn, serverAddress, clientAddress netip.AddrPort) {
	server = mustListenUDP(b, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), benchmarkPort).String())
	client = mustListenUDP(b, "127.0.0.1:0")
	serverAddress = netip.AddrPortFrom(netip.MustParseAddr(to), benchmarkPort)
	clientAddress = client.LocalAddr().(*net.UDPAddr).AddrPort()
	for range 2 {
		sendUDP(b, client, serverAddress, 1, 22)
		sendUDP(b, server, clientAddress, 1, 22)
		time.Sleep(stream)
	}
	return client, server, serverAddress, clientAddress
}
