// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// closedPort is one that nobody listens on in a fresh namespace.
const closedPort = 9

// mustListenUDP opens a socket in the calling thread's namespace.
func mustListenUDP(tb testing.TB, address string) *net.UDPConn {
	tb.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// sendUDP sends count datagrams of size bytes. It may be called from any goroutine.
func sendUDP(tb testing.TB, from *net.UDPConn, to netip.AddrPort, count, size int) {
	tb.Helper()
	datagram := make([]byte, size)
	for range count {
		if _, err := from.WriteToUDPAddrPort(datagram, to); err != nil {
			tb.Error(err)
			return
		}
	}
}

func sumDrops(drops []Drop) (sum Counts) {
	for _, d := range drops {
		sum.Add(d.Counts)
	}
	return sum
}

// here keeps the drops of one namespace.
func here(drops []Drop, netns Netns) []Drop {
	return slices.DeleteFunc(drops, func(d Drop) bool { return d.Netns != netns })
}

// to keeps the drops of what was for a UDP port.
func to(drops []Drop, port uint16) []Drop {
	return slices.DeleteFunc(drops, func(d Drop) bool { return d.Protocol != unix.IPPROTO_UDP || d.DestinationPort != port })
}

// reasonOr expects a reason where the running kernel has any.
func reasonOr(d *Drops, reason string) string {
	if len(d.reasons.names) == 0 {
		return ""
	}
	return reason
}

func TestDropsOfClosedPort(t *testing.T) {
	const count, size = 300, 32
	for _, tc := range []struct {
		name, source, destination string
		etherType                 uint16
		functions                 []string // what drops it, from old kernels to new
	}{
		{"IPv4", "127.0.0.1", "127.0.0.2", unix.ETH_P_IP, []string{"__udp4_lib_rcv", "udp_rcv"}},
		{"IPv6", "::1", "::1", unix.ETH_P_IPV6, []string{"__udp6_lib_rcv", "udpv6_rcv"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			write(t, "/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0")
			drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
			from := mustListenUDP(t, netip.AddrPortFrom(netip.MustParseAddr(tc.source), 0).String())
			port := from.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			destination := netip.MustParseAddr(tc.destination)
			sendUDP(t, from, netip.AddrPortFrom(destination, closedPort), count, size)

			got := to(here(mustRead(t, drops.Read), ownNetns(t)), closedPort)
			if len(got) != 1 {
				t.Fatalf("%d entries, want 1: %+v", len(got), got)
			}
			if !slices.Contains(tc.functions, got[0].Function) {
				t.Errorf("dropped by %q, want one of %q", got[0].Function, tc.functions)
			}
			want := Drop{
				Counts: Counts{Skbs: count, Packets: count, Bytes: count * (8 + size)}, // the IP header is off by then
				Reason: reasonOr(drops, "NO_SOCKET"), Netns: ownNetns(t), Device: 1, DeviceName: "lo", InDevice: 1,
				Routed:    true, // loopback keeps the sender's
				EtherType: tc.etherType, Protocol: unix.IPPROTO_UDP, Source: netip.MustParseAddr(tc.source),
				Destination: destination, SourcePort: port, DestinationPort: closedPort,
			}
			if diff := cmp.Diff(want, got[0], cmpopts.EquateComparable(netip.Addr{}),
				cmpopts.IgnoreFields(Drop{}, "Function")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if lost := lossesAt(t, drops.Losses, "lost"); lost != 0 {
				t.Errorf("lost = %d", lost)
			}
		})
	}
}

// A datagram that came in pieces is freed in pieces, each with an event of its own: it is one drop.
// TestDropsOfVXLAN tells networks apart at the usual port, and at the one that a Swarm was made with once that is known.
func TestDropsOfVXLAN(t *testing.T) {
	enterFreshNetns(t)
	const own, vni = 5789, 4097
	drops := mustOpenDrops(t, DropsConfig{})
	from := mustListenUDP(t, "127.0.0.1:0")
	header := []byte{0x08, 0, 0, 0, 0, vni >> 8, vni & 0xff, 0}
	lost := func(port uint16) Drop {
		t.Helper()
		if _, err := from.WriteToUDPAddrPort(header, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)); err != nil {
			t.Fatal(err)
		}
		got := to(here(mustRead(t, drops.Read), ownNetns(t)), port)
		if len(got) != 1 {
			t.Fatalf("%d entries for port %d, want 1: %+v", len(got), port, got)
		}
		return got[0]
	}
	setOwn := func(port uint16) {
		t.Helper()
		if err := drops.SetVXLANPort(port); err != nil {
			t.Fatal(err)
		}
	}
	requireVNI := func(when string, d Drop, want uint32) {
		t.Helper()
		if d.VXLAN != (want != 0) || d.VNI != want || (d.SourcePort == 0) != (want != 0) {
			t.Errorf("%s: port %d, VXLAN %t, VNI %d, want %d, from port %d", when, d.DestinationPort, d.VXLAN, d.VNI, want, d.SourcePort)
		}
	}
	requireVNI("the usual port", lost(DefaultDataPort), vni)
	requireVNI("another", lost(own), 0)
	setOwn(own)
	requireVNI("the Swarm's", lost(own), vni)
	requireVNI("the usual port beside it", lost(DefaultDataPort), vni)
	setOwn(0)
	requireVNI("no more", lost(own), 0)
}

func TestDropOfFragmentedDatagram(t *testing.T) {
	enterFreshNetns(t)
	if err := netlink.LinkSetMTU(mustLink(t, "lo"), 1500); err != nil {
		t.Fatal(err)
	}
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	from := mustListenUDP(t, "127.0.0.1:0")
	sendUDP(t, from, netip.MustParseAddrPort("127.0.0.1:9"), 1, 4000)

	all := mustRead(t, drops.Read)
	got := here(slices.Clone(all), ownNetns(t))
	if len(got) != 1 || got[0].Skbs != 1 || got[0].DestinationPort != closedPort || got[0].Bytes != 4008 {
		t.Errorf("drops %+v, want one of 4008 bytes", got)
	}
	for _, d := range all {
		if d.Netns == 0 && d.Function == "skb_release_data" {
			t.Errorf("a piece was counted: %+v", d)
		}
	}
}

// Datagrams that nobody read are freed with their socket. What they carry for a device by then is something else.
func TestDropsWithoutDevice(t *testing.T) {
	const count = 7
	enterFreshNetns(t)
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	receiver := mustListenUDP(t, "127.0.0.1:7777")
	sendUDP(t, mustListenUDP(t, "127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.1:7777"), count, 10)
	if err := receiver.Close(); err != nil {
		t.Fatal(err)
	}
	var got []Drop
	eventually(t, "the socket's queue is freed", func() bool {
		got = append(got, to(mustRead(t, drops.Read), 7777)...)
		return sumDrops(got).Skbs >= count
	})
	if sum := sumDrops(got); sum.Skbs != count {
		t.Errorf("%d drops, want %d", sum.Skbs, count)
	}
	for _, d := range got {
		if d.Device != 0 || d.DeviceName != "" || (d.Netns != 0 && d.Netns != ownNetns(t)) {
			t.Errorf("device %d %q in namespace %d of nothing but chance", d.Device, d.DeviceName, d.Netns)
		}
	}
}

// A frame that is no more than its Ethernet header and a byte or two of what that promises.
func TestShortFrames(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	flows := mustOpenFlows(t, 0)
	if _, err := flows.WatchOutside(outside, true); err != nil {
		t.Fatal(err)
	}
	mustRead(t, flows.Read)
	var count, bytes uint64
	for _, s := range samples(t) {
		var frames [][]byte
		for length := 15; length < 14+40 && length < len(s.frame); length++ {
			if !testable(s.frame[:length]) {
				frames = append(frames, s.frame[:length])
				count++
				bytes += uint64(length)
			}
		}
		inside.do(t, func() { sendFrames(t, "inside", frames...) })
	}
	var sum Counts
	for _, f := range mustRead(t, flows.Read) {
		if f.Unparsed {
			sum.Add(f.TX)
		}
	}
	if sum != (Counts{Skbs: count, Packets: count, Bytes: bytes}) {
		t.Errorf("counted %+v unparsed, want %d frames of %d bytes", sum, count, bytes)
	}
}

// Two senders drop while a third party reads: the sum is what was sent, but for what the kernel says it kept back.
func TestDropsReadLosesNothing(t *testing.T) {
	const senders, count = 2, 100_000
	enterFreshNetns(t)
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	var running sync.WaitGroup
	for range senders {
		from := mustListenUDP(t, "127.0.0.1:0")
		running.Go(func() { sendUDP(t, from, netip.MustParseAddrPort("127.0.0.1:9"), count, 1) })
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	var skbs uint64
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		default:
		}
		skbs += sumDrops(to(here(mustRead(t, drops.Read), ownNetns(t)), closedPort)).Skbs
	}
	missed := lossesAt(t, drops.Losses, "recursion")
	if skbs > senders*count || skbs+missed < senders*count {
		t.Errorf("%d drops and %d missed, want %d", skbs, missed, senders*count)
	}
}

func TestFullDropTableKeepsTotals(t *testing.T) {
	const size, count = 16, 1000
	enterFreshNetns(t)
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms, TableSize: size})
	from := mustListenUDP(t, "127.0.0.1:0")
	for i := range count {
		sendUDP(t, from, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1000+i)), 1, 10)
	}
	got := here(mustRead(t, drops.Read), ownNetns(t))
	var other Counts
	for _, d := range got {
		if d.Protocol != unix.IPPROTO_UDP || d.Reason != reasonOr(drops, "NO_SOCKET") || d.Device != 1 {
			t.Errorf("device, reason or protocol is lost: %+v", d)
		}
		if d.Other {
			other.Add(d.Counts)
			if d.Source.IsValid() || d.DestinationPort != 0 {
				t.Errorf("an address of many: %+v", d)
			}
		}
	}
	if sum := sumDrops(got); sum != (Counts{Skbs: count, Packets: count, Bytes: count * 18}) {
		t.Errorf("counted %+v, want %d of 18 bytes", sum, count)
	}
	full := lossesAt(t, drops.Losses, "table_full")
	if other.Skbs < count-size || full < other.Skbs { // other namespaces' drops take room as well
		t.Errorf("%d in ~other, table_full = %d, want at least %d", other.Skbs, full, count-size)
	}
}

func TestDropsWithoutSymbols(t *testing.T) {
	enterFreshNetns(t)
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: "/nonexistent"})
	if drops.NoFunctions == nil {
		t.Error("no word on why functions have no names")
	}
	sendUDP(t, mustListenUDP(t, "127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.1:9"), 3, 1)
	got := to(here(mustRead(t, drops.Read), ownNetns(t)), closedPort)
	if sum := sumDrops(got); sum.Skbs != 3 || got[0].Function != "" {
		t.Errorf("counted %+v", got)
	}
}

func TestDropsCostsAndUsage(t *testing.T) {
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms, TableSize: 100})
	costs := mustRead(t, drops.Costs)
	if len(costs) != 1 || costs[0].Program != "drop_kfree_skb" {
		t.Errorf("costs %+v", costs)
	}
	if usage := drops.Usage()[0]; usage.Map != "drops" || usage.Capacity != 100 {
		t.Errorf("usage %+v", usage)
	}
}
