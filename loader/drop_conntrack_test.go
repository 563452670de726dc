// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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
	if diff := cmp.Diff(want, mustReadHost(tb, HostQuery{}).ConntrackStats); diff != "" {
		tb.Errorf("host (-want +got):\n%s", diff)
	}
	asked, err := askConntrackStats()
	asked.Entries = want.Entries
	if diff := cmp.Diff(want, asked); err != nil || diff != "" {
		tb.Errorf("ctnetlink: %v (-want +got):\n%s", err, diff)
	}
}

// wayOut gives the calling thread's namespace a way out to 198.51.100.0/24, where nobody answers.
func wayOut(tb testing.TB) {
	tb.Helper()
	addLink(tb, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "up"}})
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
	run(t, "nft", `table ip lab { chain out { type nat hook postrouting priority 100; oifname "up" masquerade to :5000-5001; }; }`)
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
		ip, &header, gopacket.Payload("late"))
	if err != nil {
		tb.Fatal(err)
	}
	return buffer.Bytes()
}

// A segment that does not fit into its connection is not translated: the host gets it, and resets the connection. Where
// the userland proxy listens on the port, its socket gets it.
func TestDropOfInvalidSegment(t *testing.T) {
	const flags = 1<<4 | 1<<3 // ACK, PSH
	for _, tc := range []struct {
		name      string
		proxy     bool
		reason    string
		functions []string
	}{
		{"nobody listens on the host", false, "NO_SOCKET", []string{"tcp_v4_rcv"}},
		{"a proxy listens on the host", true, "TCP_FLAGS", []string{"tcp_v4_do_rcv", "tcp_rcv_state_process"}},
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
			late := segment(t, from, published, outside.MAC[:], layers.TCP{Seq: 1 << 30, Ack: 1, ACK: true, PSH: true})
			client.do(t, func() { sendFrames(t, "inside", late, late) })

			got := here(mustRead(t, drops.Read), ownNetns(t))
			if len(got) != 1 {
				t.Fatalf("drops %+v, want one entry", got)
			}
			for _, function := range tc.functions {
				if got[0].Function == function {
					tc.functions[0] = function
				}
			}
			wantFate(t, fate{
				Reason: reasonOr(drops, tc.reason), Function: tc.functions[0], Netns: ownNetns(t), Source: from.Addr(),
				Destination: published.Addr(), Protocol: unix.IPPROTO_TCP, DestinationPort: 8080, TCPFlags: flags, Skbs: 2,
			}, got)
			wantConntrackStats(t, ConntrackStats{Entries: 1, Invalid: 2})
		})
	}
}

// From include/uapi/linux/netfilter/nfnetlink_queue.h.
const (
	queueVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1 // NFQNL_MSG_VERDICT
	queueConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2 // NFQNL_MSG_CONFIG
	queuePacket  = 1                             // NFQA_PACKET_HDR
	queueHold    = 2                             // NFQA_VERDICT_HDR
	queueCommand = 1                             // NFQA_CFG_CMD
	queueParams  = 2                             // NFQA_CFG_PARAMS
	queueAccept  = 1                             // NF_ACCEPT
)

// queue holds packets that a rule sends to it, in the calling thread's namespace.
type queue struct {
	testing.TB
	socket *nl.NetlinkSocket
	number uint16
}

func newQueue(tb testing.TB, number uint16) queue {
	tb.Helper()
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(socket.Close)
	if err := socket.SetReceiveTimeout(&unix.Timeval{Sec: 5}); err != nil {
		tb.Fatal(err)
	}
	q := queue{tb, socket, number}
	q.send(queueConfig, nl.NewRtAttr(queueCommand, []byte{1, 0, 0, unix.AF_INET})) // bind
	q.send(queueConfig, nl.NewRtAttr(queueParams, []byte{0, 0, 0, 0, 1}))          // copy no more than what it is
	return q
}

func (q queue) send(kind int, attribute *nl.RtAttr) {
	q.Helper()
	request := nl.NewNetlinkRequest(kind, 0)
	request.AddRawData([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(q.number >> 8), byte(q.number)})
	request.AddData(attribute)
	if err := q.socket.Send(request); err != nil {
		q.Fatal(err)
	}
}

// await returns the number of the next packet that is held.
func (q queue) await() (packet uint32) {
	q.Helper()
	messages, _, err := q.socket.Receive()
	if err != nil || len(messages) != 1 {
		q.Fatalf("%d packets are held, %v", len(messages), err)
	}
	header := attribute(messages[0].Data[sizeofNfgenmsg:], queuePacket)
	if len(header) < 4 {
		q.Fatalf("a message without a packet: %x", messages[0].Data)
	}
	return binary.BigEndian.Uint32(header)
}

func (q queue) accept(packet uint32) {
	q.Helper()
	q.send(queueVerdict, nl.NewRtAttr(queueHold, binary.BigEndian.AppendUint32([]byte{0, 0, 0, queueAccept}, packet)))
}

// Two lookups from one socket go out at once. The first packet of the one is held before it is translated, until that of
// the other has taken the place of both: as on two processors of which one is slower.
func TestDropOfLookupRace(t *testing.T) {
	client, server, host := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("198.51.100.1")
	const dns, slow, fast = 53, 40, 30
	enterFreshNetns(t)
	inside := newNamespace(t)
	vethPair(t, inside)
	wayOut(t)
	run(t, "nft", `table ip lab { chain out { type nat hook postrouting priority 100; oifname "up" masquerade; }; }`)
	run(t, "iptables-nft", "-t", "mangle", "-A", "PREROUTING", "-p", "udp", "-m", "length", "--length", fmt.Sprint(28+slow), "-j", "NFQUEUE", "--queue-num", "3")
	held := newQueue(t, 3)
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	inside.do(t, func() {
		run(t, "ip", "route", "replace", "default", "via", "192.0.2.1")
		socket := mustListenUDP(t, "192.0.2.2:0")
		sendUDP(t, socket, netip.AddrPortFrom(server, dns), 1, slow)
		packet := held.await()
		sendUDP(t, socket, netip.AddrPortFrom(server, dns), 1, fast)
		held.accept(packet)
	})
	var got []Drop
	eventually(t, "the second is lost", func() bool {
		got = append(got, to(here(mustRead(t, drops.Read), ownNetns(t)), dns)...)
		return len(got) > 0
	})
	wantFate(t, fate{
		Reason: reasonOr(drops, "NETFILTER_DROP"), Function: "nf_hook_slow", Netns: ownNetns(t), Source: host, Destination: server,
		Initiator: client, Responder: server, Protocol: unix.IPPROTO_UDP, DestinationPort: dns, Skbs: 1,
	}, got)
	wantConntrackStats(t, ConntrackStats{Entries: 1, InsertFailed: 1, Drop: 1})
}

// A container's counters are its namespace's own, and read without entering it.
func TestConntrackStatsOfContainer(t *testing.T) {
	container, other := startContainer(t), startContainer(t)
	inside := namespaceOf(t, container)
	var want ConntrackStats
	inside.do(t, func() {
		setUpNetns(t)
		wayOut(t)
		run(t, "nft", `table ip lab { chain out { type nat hook postrouting priority 100; oifname "up" masquerade to :5000-5003; }; }`)
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

// A kernel without procfs's file is asked over netlink for the host's; of containers nothing is known.
func TestConntrackStatsWithoutFile(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	run(t, "conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1", "--dport", "53", "-t", "60")
	enterFreshMounts(t)
	hide(t, "/proc/thread-self/net/stat")
	if _, err := os.Stat("/proc/thread-self/net/stat/nf_conntrack"); err == nil {
		t.Fatal("the file is still there")
	}
	if got := mustReadHost(t, HostQuery{}).ConntrackStats; got != (ConntrackStats{Entries: 1}) {
		t.Errorf("%+v, want 1 entry", got)
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
