// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The packets here are lost by connection tracking itself, in the ways that a host with containers loses them.

// conntrackTool is what the conntrack tool says of the calling thread's namespace.
func conntrackTool(tb testing.TB) (stats ConntrackStats) {
	tb.Helper()
	var err error
	if stats.Entries, err = strconv.Atoi(run(tb, "conntrack", "-C")); err != nil {
		tb.Fatal(err)
	}
	said := run(tb, "conntrack", "-S")
	for name, counter := range map[string]*uint64{
		"insert_failed": &stats.InsertFailed, "drop": &stats.Drop, "early_drop": &stats.EarlyDrop, "invalid": &stats.Invalid,
	} {
		for _, match := range regexp.MustCompile(`\s`+name+`=(\d+)`).FindAllStringSubmatch(said, -1) {
			value, err := strconv.ParseUint(match[1], 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			*counter += value
		}
	}
	return stats
}

// wantConntrackStats fails unless procfs, ctnetlink and the tool say the same of the calling thread's namespace, and that.
func wantConntrackStats(tb testing.TB, want ConntrackStats) {
	tb.Helper()
	if diff := cmp.Diff(want, conntrackTool(tb)); diff != "" {
		tb.Errorf("conntrack tool (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&want, mustReadHost(tb, HostQuery{}).ConntrackStats); diff != "" {
		tb.Errorf("host (-want +got):\n%s", diff)
	}
	asked, err := hostConntrackStats("/nonexistent", want.Entries) // as on a kernel without procfs's file
	if diff := cmp.Diff(want, asked); err != nil || diff != "" {
		tb.Errorf("ctnetlink: %v (-want +got):\n%s", err, diff)
	}
}

// wayOut gives the calling thread's namespace a way out to 198.51.100.0/24, where nobody answers.
func wayOut(tb testing.TB) {
	tb.Helper()
	away := newNamespace(tb)
	addLink(tb, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up"}, PeerName: "down", PeerNamespace: netlink.NsFd(away.file.Fd())})
	away.do(tb, func() { setUp(tb, "down") })
	setUp(tb, "up")
	addAddress(tb, "up", "198.51.100.1/24")
	run(tb, "ip", "neighbour", "replace", "198.51.100.9", "lladdr", "02:00:00:00:00:09", "dev", "up", "nud", "permanent")
	write(tb, "/proc/sys/net/ipv4/ip_forward", "1")
}

// fate is where and how netfilter lost a packet, and what it was.
type fate struct {
	Reason, Function     string
	Netns                Netns
	Source, Destination  netip.Addr
	Initiator, Responder netip.Addr
	Protocol             uint8
	DestinationPort      uint16
	DNAT, Outgoing       bool
	TCPFlags             uint8
	Skbs                 uint64
}

func fateOf(d Drop) fate {
	return fate{
		d.Reason, d.Function, d.Netns, d.Source, d.Destination, d.Initiator, d.Responder, d.Protocol, d.DestinationPort,
		d.DNAT, d.Outgoing, d.TCPFlags, d.Skbs,
	}
}

func wantFate(tb testing.TB, want fate, got []Drop) {
	tb.Helper()
	var fates []fate
	for _, d := range got {
		fates = append(fates, fateOf(d))
	}
	if diff := cmp.Diff([]fate{want}, fates, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		tb.Errorf("drops (-want +got):\n%s", diff)
	}
}

// Of three connections to one destination two get a port of the masquerade's range. The third is translated, and dropped
// for want of a place.
func TestDropOfSNATExhaustion(t *testing.T) {
	client, server, host := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("198.51.100.1")
	enterFreshNetns(t)
	inside := newNamespace(t)
	vethPair(t, inside)
	wayOut(t)
	run(t, "nft", `table ip lab { chain out { type nat hook postrouting priority 100; oifname "up" meta l4proto udp masquerade to :5000-5001; }; }`)
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	inside.do(t, func() {
		run(t, "ip", "route", "replace", "default", "via", "192.0.2.1")
		for range 3 {
			sendUDP(t, mustListenUDP(t, "192.0.2.2:0"), netip.AddrPortFrom(server, 99), 1, 10)
		}
	})
	wantFate(t, fate{
		Reason: reasonOr(drops, "NETFILTER_DROP"), Function: "nf_hook_slow", Netns: ownNetns(t), Source: host, Destination: server,
		Initiator: client, Responder: server, Protocol: unix.IPPROTO_UDP, DestinationPort: 99, Skbs: 1,
	}, to(here(mustRead(t, drops.Read), ownNetns(t)), 99))
	wantConntrackStats(t, ConntrackStats{Entries: 2, InsertFailed: 1, Drop: 1})
}

// segment is a TCP segment of a connection.
func segment(tb testing.TB, from, to netip.AddrPort, hardware net.HardwareAddr, header layers.TCP) []byte {
	tb.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	header.SrcPort, header.DstPort, header.Window = layers.TCPPort(from.Port()), layers.TCPPort(to.Port()), 1024
	if err := header.SetNetworkLayerForChecksum(ip); err != nil {
		tb.Fatal(err)
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, DstMAC: hardware, EthernetType: layers.EthernetTypeIPv4},
		ip, &header, gopacket.Payload("early"))
	if err != nil {
		tb.Fatal(err)
	}
	return buffer.Bytes()
}

// nextSequence is the sequence number that a connection's next segment will have.
func nextSequence(tb testing.TB, connection net.Conn) (next uint32) {
	tb.Helper()
	raw, err := connection.(*net.TCPConn).SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	const sendQueue, repairOff = 2, -1 // TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP
	err = raw.Control(func(descriptor uintptr) {
		socket := int(descriptor)
		if err := unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			tb.Error(err)
		}
		if err := unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, sendQueue); err != nil {
			tb.Error(err)
		}
		value, err := unix.GetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		if err != nil {
			tb.Error(err)
		}
		next = uint32(value)
		if err := unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOff); err != nil {
			tb.Error(err)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return next
}

// A segment that does not fit into its connection is not translated: the host gets it, and resets the connection. Where
// the userland proxy listens on the port, its socket gets it.
func TestDropOfInvalidSegment(t *testing.T) {
	const flags = 1<<4 | 1<<3 // ACK, PSH
	for _, tc := range []struct {
		name      string
		proxy     bool
		reasons   []string // one of them
		functions []string // likewise
	}{
		{"nobody listens on the host", false, []string{"NO_SOCKET"}, []string{"tcp_v4_rcv"}},
		{"a proxy listens on the host", true, []string{"TCP_FLAGS", "NOT_SPECIFIED"}, // the second below 6.2
			[]string{"tcp_v4_do_rcv", "tcp_rcv_state_process"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			client, server := newNamespace(t), newNamespace(t)
			outside := vethPair(t, client)
			addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "eth0"})
			if err := netlink.LinkSetNsFd(mustLink(t, "eth0"), int(server.file.Fd())); err != nil {
				t.Fatal(err)
			}
			addAddress(t, "port", "198.51.100.1/24")
			setUp(t, "port")
			write(t, "/proc/sys/net/ipv4/ip_forward", "1")
			write(t, "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "0")
			run(t, "nft", "table ip lab { chain in { type nat hook prerouting priority -100; tcp dport 8080 dnat to 198.51.100.9:80; }; }")
			var listener *net.TCPListener
			server.do(t, func() {
				addAddress(t, "eth0", "198.51.100.9/24")
				setUp(t, "eth0")
				run(t, "ip", "route", "replace", "default", "via", "198.51.100.1")
				listener = mustListenTCP(t, "tcp4", "198.51.100.9:80")
			})
			if tc.proxy {
				mustListenTCP(t, "tcp4", "192.0.2.1:8080")
			}
			_, connection := connect(t, client, listener, "192.0.2.1:8080")
			drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
			from, published := addrPort(connection.LocalAddr()), netip.MustParseAddrPort("192.0.2.1:8080")
			early := layers.TCP{Seq: nextSequence(t, connection) + 1<<30, Ack: 1, ACK: true, PSH: true}
			frame := segment(t, from, published, outside.MAC[:], early)
			client.do(t, func() { sendFrames(t, "inside", frame, frame) })

			var got []Drop
			eventually(t, "both are dropped", func() bool {
				got = append(got, here(mustRead(t, drops.Read), ownNetns(t))...)
				return sumDrops(got).Skbs == 2
			})
			reason, function := reasonOr(drops, tc.reasons[0]), tc.functions[0]
			if slices.Contains(tc.reasons, got[0].Reason) {
				reason = got[0].Reason
			}
			if slices.Contains(tc.functions, got[0].Function) {
				function = got[0].Function
			}
			wantFate(t, fate{
				Reason: reason, Function: function, Netns: ownNetns(t), Source: from.Addr(),
				Destination: published.Addr(), Protocol: unix.IPPROTO_TCP, DestinationPort: 8080, TCPFlags: flags, Skbs: 2,
			}, got)
			wantConntrackStats(t, ConntrackStats{Entries: 1, Invalid: 4}) // the host's resets too
		})
	}
}

// A container's counters are its namespace's own, and read without entering it.
func TestConntrackStatsOfContainer(t *testing.T) {
	container, other := startContainer(t), startContainer(t)
	inside := namespaceOf(t, container)
	var want ConntrackStats
	inside.do(t, func() {
		setUpNetns(t)
		wayOut(t)
		run(t, "nft", `table ip lab { chain out { type nat hook postrouting priority 100; oifname "up" meta l4proto udp masquerade to :5000-5003; }; }`)
		for port := range 7 {
			// The kernel tells the sender (EPERM).
			socket := mustListenUDP(t, fmt.Sprintf("198.51.100.1:%d", 2000+port))
			_, _ = socket.WriteToUDPAddrPort(make([]byte, 10), netip.MustParseAddrPort("198.51.100.9:99"))
		}
		want = conntrackTool(t)
	})
	if diff := cmp.Diff(ConntrackStats{Entries: 4, InsertFailed: 3, Drop: 3}, want); diff != "" {
		t.Errorf("conntrack tool (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, mustReadNetns(t, container.Process.Pid).Conntrack); diff != "" {
		t.Errorf("container (-conntrack tool +got):\n%s", diff)
	}
	if got := mustReadNetns(t, other.Process.Pid).Conntrack; got != (ConntrackStats{}) {
		t.Errorf("another container: %+v", got)
	}
}

func TestParseConntrackStats(t *testing.T) {
	const names = "entries  searched found new invalid ignore delete insert_failed drop early_drop expect_new\n"
	for _, tc := range []struct {
		name, text string
		want       ConntrackStats
		err        string
	}{
		{
			name: "two processors",
			text: names + "0000000a  00000000 00000000 00000000 00000001 00000000 00000000 00000010 00000002 00000003 00000000\n" +
				"0000000a  00000000 00000000 00000000 ffffffff 00000000 00000000 00000020 00000002 00000000 00000000\n",
			want: ConntrackStats{Entries: 10, Invalid: 1 << 32, InsertFailed: 48, Drop: 4, EarlyDrop: 3},
		},
		{name: "a counter that the kernel does not have", text: "entries drop\n00000001 00000002\n", want: ConntrackStats{Entries: 1, Drop: 2}},
		{name: "nothing", err: "no processor is listed"},
		{name: "no processor", text: names, err: "no processor is listed"},
		{name: "fewer values", text: names + "0000000a\n", err: "11 names and 1 values"},
		{name: "no number", text: "entries drop\n00000001 many\n", err: `strconv.ParseUint: parsing "many": invalid syntax`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseConntrackStats([]byte(tc.text))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if said := fmt.Sprint(err); tc.err != "" && said != tc.err || tc.err == "" && err != nil {
				t.Errorf("%s, want %q", said, tc.err)
			}
		})
	}
}

func TestConntrackStatsSince(t *testing.T) {
	for _, tc := range []struct {
		name              string
		before, now, want uint64
	}{
		{"grown", 5, 8, 3},
		{"one processor's has begun again", 1<<32 + 10, 15, 5},
		{"those of three have", 3<<32 + 10, 15, 5},
		{"beyond 32 bits", 1<<32 - 1, 1<<32 + 1, 2},
		{"the module is new", 1000, 7, 7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			of := func(n uint64) ConntrackStats {
				return ConntrackStats{Entries: 9, InsertFailed: n, Drop: n, EarlyDrop: n, Invalid: n}
			}
			if diff := cmp.Diff(of(tc.want), of(tc.now).Since(of(tc.before))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
