// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestOverlayEqualsCounters(t *testing.T) {
	const size = 100
	for _, tc := range []struct {
		name        string
		over6       bool
		here, there netip.Addr
	}{
		{"over ipv4", false, netip.MustParseAddr("192.0.2.1"), world4},
		{"over ipv6", true, netip.MustParseAddr("2001:db8::1"), world6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newOverlayLab(t)
			shop, bank := lab.addNetwork(t, 4097, 1400, tc.over6), lab.addNetwork(t, 0xfffffe, 1400, tc.over6)
			sent := truth(t, lab.here.host, "output", "udp dport 4789")
			received := truth(t, lab.here.host, "prerouting", "udp dport 4789")
			lab.here.send(t, shop.here, shop.there, 300, size)
			lab.here.send(t, bank.here, bank.there, 40, size)
			lab.there.send(t, shop.there, shop.here, 200, size)

			got := readTraffic(t, lab.overlays, 540)
			row := func(vni uint32, outgoing bool, count uint64) OverlayTraffic {
				return OverlayTraffic{
					Channel: ChannelVXLAN, VNI: vni, Outgoing: outgoing, Local: tc.here, Peer: tc.there,
					Counts: Counts{Skbs: count, Packets: count, Bytes: count * frame(size, tc.over6)},
				}
			}
			want := []OverlayTraffic{row(4097, true, 300), row(4097, false, 200), row(0xfffffe, true, 40)}
			if diff := gocmp.Diff(want, got, compareTraffic()...); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if out := sumTraffic(outgoing(got, true)); out.withoutSegments() != sent().onTheWire() {
				t.Errorf("counted %+v outgoing, the rule %+v", out, sent())
			}
			if in := sumTraffic(outgoing(got, false)); in.withoutSegments() != received().onTheWire() {
				t.Errorf("counted %+v incoming, the rule %+v", in, received())
			}
			lab.here.containers.do(t, func() {
				if s := mustLink(t, "vx4097").Attrs().Statistics; s.TxPackets != 300 || s.RxPackets != 200 {
					t.Errorf("the tunnel's device has sent %d and received %d", s.TxPackets, s.RxPackets)
				}
			})
			if again := mustRead(t, lab.overlays.Read); len(again) != 0 {
				t.Errorf("counted again: %+v", again)
			}
		})
	}
}

// transfer sends bytes from the first node's container to the other's in one TCP connection, and some back.
func (l *overlayLab) transfer(t *testing.T, network overlayNetwork, size int64) {
	t.Helper()
	to := netip.AddrPortFrom(network.there, 80).String()
	var listener net.Listener
	var client, server net.Conn
	var err error
	l.there.containers.do(t, func() { listener, err = net.Listen("tcp", to) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l.here.containers.do(t, func() { client, err = net.Dial("tcp", to) })
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := io.CopyN(client, zeroes{}, size); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.CopyN(io.Discard, server, size); err != nil {
		t.Fatal(err)
	}
	writing.Wait()
}

// zeroes never end.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// What one node counts as packets sent the other counts as packets received, whatever pieces the kernels on the way made of
// them: loss between nodes is the difference.
func TestOverlayCountsSegments(t *testing.T) {
	const size = 4 << 20
	for _, tc := range []struct {
		name      string
		uplink    []string // what ethtool and ip change at both ends
		segmented bool
	}{
		{"as it is", nil, false},
		{"segmented at the uplink", []string{"gso_max_segs", "1"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newOverlayLab(t)
			network := lab.addNetwork(t, 4097, 1400, false)
			var others *Overlays
			lab.there.host.do(t, func() {
				others = mustOpenOverlay(t, OverlayConfig{})
				if err := others.SetDevices([]int{lab.there.uplink.Index}); err != nil {
					t.Error(err)
				}
			})
			for _, node := range []*overlayNode{lab.here, lab.there} {
				change := func(name string) { run(t, "ip", append([]string{"link", "set", name}, tc.uplink...)...) }
				if tc.uplink != nil {
					node.host.do(t, func() { change(node.uplink.Name) })
					node.containers.do(t, func() { change("vx4097") })
				}
			}
			sent := truth(t, lab.here.host, "output", "udp dport 4789")
			received := truth(t, lab.here.host, "prerouting", "udp dport 4789")
			lab.transfer(t, network, size)
			var here, there []OverlayTraffic
			eventually(t, "all is counted at both ends", func() bool {
				for _, traffic := range mustRead(t, lab.overlays.Read) {
					here = addTraffic(here, traffic)
				}
				for _, traffic := range mustRead(t, others.Read) {
					there = addTraffic(there, traffic)
				}
				return sumTraffic(outgoing(here, true)).withoutSegments() == sent().onTheWire() &&
					sumTraffic(outgoing(here, false)).withoutSegments() == received().onTheWire() &&
					sumTraffic(outgoing(here, true)).Packets == sumTraffic(outgoing(there, false)).Packets &&
					sumTraffic(outgoing(here, false)).Packets == sumTraffic(outgoing(there, true)).Packets
			})
			const segment = 1400 - 20 - 32 // with timestamps
			out := sumTraffic(outgoing(here, true))
			if out.Packets < size/segment {
				t.Errorf("%+v sent, want at least %d packets", out, size/segment)
			}
			if tc.segmented != (out.Packets == out.Skbs) {
				t.Errorf("%d packets in %d skbs, one each: want %t", out.Packets, out.Skbs, tc.segmented)
			}
		})
	}
}

// The kernel dates packets by its own clock, as of its last tick, and the last one counts.
func TestOverlayLast(t *testing.T) {
	const tick = 10 * time.Millisecond // of the slowest kernels
	lab := newOverlayLab(t)
	from := mustListenUDP(t, "192.0.2.1:0")
	for _, count := range []int{1, 1, 2} {
		var before, after time.Time
		for range count {
			time.Sleep(5 * tick)
			before = time.Now()
			sendUDP(t, from, netip.AddrPortFrom(world4, DefaultGossipPort), 1, 10)
			after = time.Now()
		}
		got := readTraffic(t, lab.overlays, uint64(count))[0].Last
		if got.Before(before.Add(-2*tick)) || got.After(after.Add(time.Millisecond)) {
			t.Errorf("a packet that was sent between %s and %s is dated %s", before, after, got)
		}
	}
}

// A datagram that the underlay cannot take in one piece is one packet, of which the first piece is counted.
func TestOverlayCountsFragmentsOnce(t *testing.T) {
	const datagrams, size = 20, 4000
	lab := newOverlayLab(t)
	datagram := make([]byte, size)
	datagram[0], datagram[5] = 0x08, 7
	send := func(from, to netip.Addr) {
		socket := mustListenUDP(t, netip.AddrPortFrom(from, DefaultDataPort).String())
		for range datagrams {
			if _, err := socket.WriteToUDPAddrPort(datagram, netip.AddrPortFrom(to, DefaultDataPort)); err != nil {
				t.Error(err)
			}
		}
	}
	for _, tc := range []struct {
		here, there netip.Addr
		first       uint64 // bytes of the first fragment
	}{
		{lab.here.v4, lab.there.v4, ethernetHeader + 1500},
		{lab.here.v6, lab.there.v6, ethernetHeader + ipv6Header + 8 + (1500-ipv6Header-8)/8*8},
	} {
		before := mustLink(t, "outside").Attrs().Statistics
		lab.there.host.do(t, func() { send(tc.there, tc.here) })
		send(tc.here, tc.there)
		row := OverlayTraffic{
			Channel: ChannelVXLAN, VNI: 7 << 8, Outgoing: true, Local: tc.here, Peer: tc.there,
			Counts: Counts{Skbs: datagrams, Packets: datagrams, Bytes: datagrams * tc.first},
		}
		back := row
		back.Outgoing = false
		got := readTraffic(t, lab.overlays, 2*datagrams)
		if diff := gocmp.Diff([]OverlayTraffic{row, back}, got, compareTraffic()...); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		after := mustLink(t, "outside").Attrs().Statistics
		if sent := after.TxPackets - before.TxPackets; sent < 3*datagrams {
			t.Errorf("%d packets were sent, want %d fragments: this proves nothing", sent, 3*datagrams)
		}
	}
}

// A tunnel of a real device, whose packets the underlay has to fragment.
func TestOverlayCountsFragmentedTunnel(t *testing.T) {
	const datagrams, size = 50, 4000
	lab := newOverlayLab(t)
	network := lab.addNetwork(t, 4097, 9000, false)
	for _, node := range []*overlayNode{lab.here, lab.there} {
		node.containers.do(t, func() { // as of containers behind a bridge, whom nobody tells of the underlay
			run(t, "ip", "route", "replace", "10.11.1.0/24", "dev", "vx4097", "mtu", "lock", "9000")
		})
	}
	before := mustLink(t, "outside").Attrs().Statistics
	sent := truth(t, lab.here.host, "output", "udp dport 4789")
	lab.here.send(t, network.here, network.there, datagrams, size)
	lab.there.send(t, network.there, network.here, datagrams, size)
	got := readTraffic(t, lab.overlays, 2*datagrams)
	if out := sumTraffic(outgoing(got, true)); out.Packets != sent().Skbs || out.Packets != datagrams {
		t.Errorf("%d packets sent, the rule has %d", out.Packets, sent().Skbs)
	}
	lab.here.containers.do(t, func() {
		if s := mustLink(t, "vx4097").Attrs().Statistics; s.RxPackets != datagrams {
			t.Errorf("%d datagrams arrived, want %d", s.RxPackets, datagrams)
		}
	})
	if after := mustLink(t, "outside").Attrs().Statistics; after.TxPackets-before.TxPackets < 3*datagrams {
		t.Errorf("%d packets were sent, want %d fragments: this proves nothing", after.TxPackets-before.TxPackets, 3*datagrams)
	}
}

// converse opens a connection to the port, sends something and closes it.
func converse(t *testing.T, client, server *overlayNode, port string) {
	t.Helper()
	var listener net.Listener
	var connection net.Conn
	var err error
	server.host.do(t, func() { listener, err = net.Listen("tcp", net.JoinHostPort(server.v4.String(), port)) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client.host.do(t, func() { connection, err = net.Dial("tcp", listener.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, connection, make([]byte, 100))
	mustClose(t, connection)
	if n, err := io.Copy(io.Discard, accepted); n != 100 || err != nil {
		t.Errorf("received %d bytes: %v", n, err)
	}
	mustClose(t, accepted)
}

// Connections of the engines count whoever has opened them.
func TestOverlayChannelsOfConnections(t *testing.T) {
	lab := newOverlayLab(t)
	for port, channel := range map[string]Channel{"7946": ChannelGossipTCP, "2377": ChannelManager, "443": ""} {
		for _, fromHere := range []bool{true, false} {
			client, server, ours, theirs := lab.here, lab.there, "tcp dport "+port, "tcp sport "+port
			if !fromHere {
				client, server, ours, theirs = server, client, theirs, ours
			}
			sent, received := truth(t, lab.here.host, "output", ours), truth(t, lab.here.host, "prerouting", theirs)
			converse(t, client, server, port)
			if channel == "" {
				if got := mustRead(t, lab.overlays.Read); len(got) != 0 || sent().Skbs == 0 {
					t.Errorf("counted %+v of %+v", got, sent())
				}
				continue
			}
			var all []OverlayTraffic
			eventually(t, "all is counted that the rules count", func() bool {
				for _, traffic := range mustRead(t, lab.overlays.Read) {
					all = addTraffic(all, traffic)
				}
				return sumTraffic(outgoing(all, true)).withoutSegments() == sent().onTheWire() &&
					sumTraffic(outgoing(all, false)).withoutSegments() == received().onTheWire() &&
					min(sent().Skbs, received().Skbs) >= 3
			})
			for _, traffic := range all {
				if traffic.Channel != channel || traffic.Local != lab.here.v4 || traffic.Peer != lab.there.v4 {
					t.Errorf("port %s: counted %+v", port, traffic)
				}
			}
		}
	}
}

// Packets of ESP are made by hand: the machine's kernel need not have it.
func TestOverlayCountsESP(t *testing.T) {
	lab := newOverlayLab(t)
	for _, tc := range []struct {
		network     string
		here, there netip.Addr
		header      uint64
	}{
		{"ip4:50", lab.here.v4, lab.there.v4, ipv4Header},
		{"ip6:50", lab.here.v6, lab.there.v6, ipv6Header},
	} {
		send := func(from, to netip.Addr, count int) {
			socket, err := net.ListenPacket(tc.network, from.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer socket.Close()
			for range count {
				if _, err := socket.WriteTo(make([]byte, 64), &net.IPAddr{IP: to.AsSlice()}); err != nil {
					t.Error(err)
				}
			}
		}
		send(tc.here, tc.there, 30)
		lab.there.host.do(t, func() { send(tc.there, tc.here, 20) })
		row := func(outgoing bool, count uint64) OverlayTraffic {
			return OverlayTraffic{
				Channel: ChannelESP, Outgoing: outgoing, Local: tc.here, Peer: tc.there,
				Counts: Counts{Skbs: count, Packets: count, Bytes: count * (ethernetHeader + tc.header + 64)},
			}
		}
		got := readTraffic(t, lab.overlays, 50)
		if diff := gocmp.Diff([]OverlayTraffic{row(true, 30), row(false, 20)}, got, compareTraffic()...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.network, diff)
		}
	}
}

// A packet that passes while the tables are read is in one reading or the next.
func TestOverlayReadLosesNothing(t *testing.T) {
	const count = 20_000
	lab := newOverlayLab(t)
	network := lab.addNetwork(t, 4097, 1400, false)
	var sum Counts
	var stop atomic.Bool
	var reading sync.WaitGroup
	reading.Go(func() {
		for !stop.Load() {
			read, err := lab.overlays.Read()
			if err != nil {
				t.Error(err)
				return
			}
			sum.Add(sumTraffic(read))
		}
	})
	lab.here.send(t, network.here, network.there, count, 10)
	stop.Store(true)
	reading.Wait()
	sum.Add(sumTraffic(mustRead(t, lab.overlays.Read)))
	if want := (Counts{Skbs: count, Packets: count, Bytes: count * frame(10, false)}); sum != want {
		t.Errorf("counted %+v, want %+v", sum, want)
	}
}

func TestOverlayFullTableKeepsTotals(t *testing.T) {
	const size, count = 16, 100
	lab := newOverlayLab(t)
	lab.overlays = mustOpenOverlay(t, OverlayConfig{TableSize: size})
	lab.setDevices(t, lab.here.uplink.Index)
	for round := range uint64(2) {
		sent := truth(t, lab.here.host, "output", "meta l4proto 50")
		send := rawSocket(t)
		for i := range count {
			send(packet4(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), 50, 0, make([]byte, 20)...))
		}
		read := mustRead(t, lab.overlays.Read)
		known := slices.DeleteFunc(slices.Clone(read), func(o OverlayTraffic) bool { return !o.Local.IsValid() })
		sum := sumTraffic(read)
		if len(known) != size || len(read) != size+1 || sum.withoutSegments() != sent().onTheWire() || sum.Skbs != count {
			t.Errorf("%d rows, %d with addresses, %+v in all; %+v were sent", len(read), len(known), sum, sent())
		}
		rest := read[len(read)-1]
		if rest.Channel != ChannelESP || !rest.Outgoing || rest.Local.IsValid() || rest.Peer.IsValid() || rest.Skbs != count-size {
			t.Errorf("the rest is %+v", rest)
		}
		if full := lossesAt(t, lab.overlays.Losses, "table_full"); full != (round+1)*(count-size) {
			t.Errorf("table_full = %d in round %d, want %d more each", full, round, count-size)
		}
		if lost := lossesAt(t, lab.overlays.Losses, "lost"); lost != 0 {
			t.Errorf("lost = %d", lost)
		}
	}
	if usage := lab.overlays.Usage()[0]; usage != (MapUsage{Map: "overlays", Entries: size, Capacity: size}) {
		t.Errorf("usage %+v", usage)
	}
}

// Even networks without number, which somebody invents, leave only as many packets uncounted as are said to be.
func TestOverlayFullTableKeepsVNIs(t *testing.T) {
	const size, lost = 16, 50
	lab := newOverlayLab(t)
	lab.overlays = mustOpenOverlay(t, OverlayConfig{TableSize: size})
	lab.setDevices(t, lab.here.uplink.Index)
	send := rawSocket(t)
	for vni := range size + maxOverlaySums + lost {
		send(packet4(lab.here.v4, unix.IPPROTO_UDP, 0, datagram4789(uint32(vni))...))
	}
	read := mustRead(t, lab.overlays.Read)
	seen := make(map[uint32]bool)
	for _, traffic := range read {
		seen[traffic.VNI] = true
		if traffic.Skbs != 1 || traffic.Channel != ChannelVXLAN {
			t.Errorf("counted %+v", traffic)
		}
	}
	if len(seen) != size+maxOverlaySums || len(read) != len(seen) {
		t.Errorf("%d networks in %d rows, want %d", len(seen), len(read), size+maxOverlaySums)
	}
	if got := lossesAt(t, lab.overlays.Losses, "lost"); got != lost {
		t.Errorf("lost = %d, want %d", got, lost)
	}
	if got := lossesAt(t, lab.overlays.Losses, "table_full"); got != maxOverlaySums+lost {
		t.Errorf("table_full = %d, want %d", got, maxOverlaySums+lost)
	}
}

// datagram4789 is a VXLAN header in a UDP header.
func datagram4789(vni uint32) []byte {
	return []byte{0x9c, 0x40, 4789 >> 8, 4789 & 0xff, 0, 16, 0, 0, 0x08, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
}

// From the moment that ports are set, they are what is looked for.
func TestOverlaySetPorts(t *testing.T) {
	lab := newOverlayLab(t)
	send := rawSocket(t)
	all := []uint16{4789, 8472, 7946, 7947, 2377, 5001, 5002, 5003, 5004, 5005, 5006, 0}
	for _, tc := range []struct {
		name  string
		ports OverlayPorts
		udp   map[uint16]Channel
		tcp   map[uint16]Channel
	}{
		{
			"usual", swarmPorts,
			map[uint16]Channel{4789: ChannelVXLAN, 7946: ChannelGossipUDP},
			map[uint16]Channel{7946: ChannelGossipTCP, 2377: ChannelManager},
		},
		{"none", OverlayPorts{}, nil, nil},
		{
			"no data port yet", OverlayPorts{Gossip: 7946}, map[uint16]Channel{7946: ChannelGossipUDP},
			map[uint16]Channel{7946: ChannelGossipTCP},
		},
		{
			"others", OverlayPorts{Data: 8472, Gossip: 7947, Managers: []uint16{5002, 5001}},
			map[uint16]Channel{8472: ChannelVXLAN, 7947: ChannelGossipUDP},
			map[uint16]Channel{7947: ChannelGossipTCP, 5001: ChannelManager, 5002: ChannelManager},
		},
		{
			"the same of all managers", OverlayPorts{Managers: []uint16{5001, 5001, 5001, 5001, 5001, 5001, 5001, 5002}}, nil,
			map[uint16]Channel{5001: ChannelManager, 5002: ChannelManager},
		},
		{
			"too many managers", OverlayPorts{Managers: []uint16{2377, 5001, 5002, 5003, 5004, 5005, 5006}}, nil,
			map[uint16]Channel{
				2377: ChannelManager, 5001: ChannelManager, 5002: ChannelManager, 5003: ChannelManager, 5004: ChannelManager, 5005: ChannelManager,
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mustSetPorts(t, lab.overlays, tc.ports)
			for _, of := range []struct {
				protocol byte
				want     map[uint16]Channel
			}{{unix.IPPROTO_UDP, tc.udp}, {unix.IPPROTO_TCP, tc.tcp}} {
				for _, port := range all {
					send(packet4(lab.here.v4, of.protocol, 0, 0x9c, 0x40, byte(port>>8), byte(port), 0, 16, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0))
					var got Channel
					for _, traffic := range outgoing(mustRead(t, lab.overlays.Read), true) {
						got = traffic.Channel
					}
					if got != of.want[port] {
						t.Errorf("protocol %d to port %d is %q, want %q", of.protocol, port, got, of.want[port])
					}
				}
			}
		})
	}
}
