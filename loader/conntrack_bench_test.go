// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkConntrackEvents is what user space spends on a new connection, in processor time from the kernel's buffers to the
// news: of one that both sources tell, of one that never gets to a device, and of one that nothing translates, of which the
// filter lets it hear nothing.
func BenchmarkConntrackEvents(b *testing.B) {
	const count = 5000
	for _, bc := range []struct {
		name string
		rule string
		told int
	}{
		{"with-packet", "-A PREROUTING -i outside -p udp -j DNAT --to-destination 172.30.0.2", count},
		{"without-packet", "-A PREROUTING -i outside -p udp -j DNAT --to-destination 172.30.0.99", count},
		{"untranslated", "-A PREROUTING -i lo -p udp -j REDIRECT --to-ports 1", 0},
	} {
		b.Run(bc.name, func(b *testing.B) {
			lab := newNATLab(b)
			lab.translate(b, router4, bc.rule)
			lab.container.do(b, func() { mustListenUDP(b, "172.30.0.2:9") })
			lab.router.do(b, func() { mustListenUDP(b, "192.0.2.1:9") })
			nat := mustOpenNAT(b, lab.router, NATConfig{})
			var spent time.Duration
			told, opened := 0, 0
			for b.Loop() {
				lab.world.do(b, func() { openRawUDP(b, netip.AddrPortFrom(router4, 9), count) })
				opened += count
				for range 2 {
					spent += processorTime(b, func() {
						news, err := nat.Read()
						if err != nil {
							b.Error(err)
						}
						told += len(news.Opened)
					})
					time.Sleep(packetDelay) // what has no packet is told then
				}
				lab.router.do(b, func() { run(b, "conntrack", "-F") })
			}
			if want := opened / count * bc.told; told < want {
				b.Errorf("told %d, want %d", told, want)
			}
			b.ReportMetric(0, "ns/op") // not shown
			b.ReportMetric(float64(spent.Nanoseconds())/float64(opened), "ns/connection")
		})
	}
}

// BenchmarkListTracked is what listing costs for each connection, translated or not.
func BenchmarkListTracked(b *testing.B) {
	const count = 20_000
	for name, rule := range map[string]string{
		"translated":   "-A PREROUTING -i outside -p udp -j DNAT --to-destination 172.30.0.99",
		"untranslated": "-A PREROUTING -i lo -p udp -j REDIRECT --to-ports 1",
	} {
		b.Run(name, func(b *testing.B) {
			lab := newNATLab(b)
			lab.translate(b, router4, rule)
			lab.router.do(b, func() {
				mustListenUDP(b, "192.0.2.1:9")
				write(b, "/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "600")
			})
			lab.world.do(b, func() { openRawUDP(b, netip.AddrPortFrom(router4, 9), count) })
			var spent time.Duration
			lists := 0
			lab.router.do(b, func() {
				for b.Loop() {
					spent += processorTime(b, func() {
						if err := ListTracked(func(*Tracked) {}); err != nil {
							b.Error(err)
						}
					})
					lists++
				}
			})
			b.ReportMetric(0, "ns/op") // not shown
			b.ReportMetric(float64(spent.Nanoseconds())/float64(count*lists), "ns/connection")
		})
	}
}

// processorTime is what f takes of the thread that it runs on.
func processorTime(tb testing.TB, f func()) time.Duration {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	read := func() time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
			tb.Error(err)
		}
		return time.Duration(now.Nano())
	}
	before := read()
	f()
	return read() - before
}
