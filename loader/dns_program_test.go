// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// copyMax is how much of a payload the program copies at most, as in dns.bpf.c.
	copyMax = 4096
	// Bits of TCP's header.
	bitFIN, bitSYN, bitRST, bitACK = 1 << 0, 1 << 1, 1 << 2, 1 << 4
)

// dnsLab is a client and a server with a wire between them.
type dnsLab struct {
	client, server namespace
}

func newDNSLab(tb testing.TB) *dnsLab {
	tb.Helper()
	lab := &dnsLab{client: newNamespace(tb), server: newNamespace(tb)}
	lab.client.do(tb, func() {
		vethPair(tb, lab.server)
		addIPv6(tb, "outside", "2001:db8::1/64")
	})
	lab.server.do(tb, func() { addIPv6(tb, "inside", "2001:db8::2/64") })
	for _, address := range []netip.Addr{world4, world6} {
		lab.awaitWay(tb, address)
	}
	return lab
}

// awaitWay asks a server until it answers: links and addresses are not usable at once.
func (l *dnsLab) awaitWay(tb testing.TB, to netip.Addr) {
	tb.Helper()
	echo(tb, l.server, netip.AddrPortFrom(to, benchmarkPort))
	var client net.Conn
	l.client.do(tb, func() { client = dialUDP(tb, netip.AddrPortFrom(to, benchmarkPort)) })
	eventually(tb, "the way from client to server is open", func() bool {
		if _, err := client.Write([]byte("x")); err != nil {
			return false // what one before it met
		}
		_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := client.Read(make([]byte, 1))
		return err == nil
	})
}

// dialUDP connects a socket in the calling thread's namespace.
func dialUDP(tb testing.TB, to netip.AddrPort) net.Conn {
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		tb.Error(err)
		return nil
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// local is the socket's own address.
func local(conn net.Conn) netip.AddrPort {
	address := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
}

func mustOpenDNSProgram(tb testing.TB, ringSize uint32) *dnsProgram {
	tb.Helper()
	liftMemoryLimit(tb)
	program, err := openDNSProgram(ringSize)
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, program) })
	return program
}

// dnsTold is what a program has told of some namespaces.
type dnsTold struct {
	program *dnsProgram
	of      []Netns
	packets []dnsPacket
}

func hearDNS(tb testing.TB, of ...namespace) *dnsTold {
	tb.Helper()
	h := &dnsTold{program: mustOpenDNSProgram(tb, 0)}
	for _, n := range of {
		h.of = append(h.of, n.netns(tb))
	}
	return h
}

func (h *dnsTold) read(tb testing.TB) {
	tb.Helper()
	all, err := h.program.read(gatherLimit, func(p *dnsPacket) {
		if slices.Contains(h.of, p.netns) {
			kept := *p
			kept.payload = bytes.Clone(p.payload)
			h.packets = append(h.packets, kept)
		}
	})
	if err != nil || !all {
		tb.Fatalf("read all of the ring: %t, %v", all, err)
	}
}

// take returns what has been told since it was last called: it waits for that many packets, and gives more a chance.
func (h *dnsTold) take(tb testing.TB, count int) []dnsPacket {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); len(h.packets) < count && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		h.read(tb)
	}
	time.Sleep(20 * time.Millisecond)
	h.read(tb)
	packets := h.packets
	h.packets = nil
	return packets
}

// want compares what is told with what was sent, but for times, which have to lie between.
func (h *dnsTold) want(tb testing.TB, since time.Time, want ...dnsPacket) {
	tb.Helper()
	got := h.take(tb, len(want))
	if diff := cmp.Diff(want, got, dnsPacketOptions()...); diff != "" {
		tb.Errorf("packets (-want +got):\n%.3000s", diff)
	}
	for last := since.Add(-time.Millisecond); len(got) > 0; got = got[1:] {
		if at := got[0].at; at.Before(last) || at.After(time.Now()) {
			tb.Errorf("a packet passed at %v, not between %v and now", at, last)
		} else if !strings.Contains(at.String(), " m=") {
			tb.Errorf("a packet passed at %v, which is by a clock that may be set", at)
		}
		last = got[0].at
	}
	for _, place := range []string{"ring_full", "segmented"} {
		if lost := lossesAt(tb, h.program.losses, place); lost != 0 {
			tb.Errorf("%s: %d", place, lost)
		}
	}
}

func dnsPacketOptions() []cmp.Option {
	return []cmp.Option{
		cmp.AllowUnexported(dnsPacket{}), cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(dnsPacket{}, "at"),
	}
}

// datagram is one as the program should tell it.
func (n namespace) datagram(tb testing.TB, from, to netip.AddrPort, outgoing bool, payload []byte) dnsPacket {
	tb.Helper()
	return dnsPacket{
		netns: n.netns(tb), outgoing: outgoing, protocol: unix.IPPROTO_UDP, source: from, destination: to,
		length: len(payload), payload: payload[:min(len(payload), copyMax)],
	}
}

// noise is bytes of which no two neighbours are the same.
func noise(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func mustWrite(tb testing.TB, to io.Writer, payload []byte) {
	tb.Helper()
	if _, err := to.Write(payload); err != nil {
		tb.Fatal(err)
	}
}

// mustGet reads a datagram.
func mustGet(tb testing.TB, from net.Conn, want []byte) {
	tb.Helper()
	buffer := make([]byte, 1<<16)
	_ = from.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := from.Read(buffer)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(buffer[:n], want) {
		tb.Fatalf("got %d bytes, want %d", n, len(want))
	}
}

// Every question and every answer is told once, at the client, however large and though the wire has it in fragments.
func TestDNSProgramTellsDatagrams(t *testing.T) {
	for _, address := range []netip.Addr{world4, world6} {
		lab := newDNSLab(t)
		h := hearDNS(t, lab.client, lab.server)
		for _, port := range []uint16{portDNS, portMDNS, portLLMNR} {
			to := netip.AddrPortFrom(address, port)
			lab.server.do(t, func() { echoAny(t, to) })
			for _, size := range []int{0, 1, 12, 111, 112, 113, 431, 432, 433, 1455, 1456, 1457, 1472, 1473, 4095, 4096, 4097, 65_000} {
				t.Run(fmt.Sprintf("%s/%d", to, size), func(t *testing.T) {
					var client net.Conn
					lab.client.do(t, func() { client = dialUDP(t, to) })
					from, message, begun := local(client), noise(size), time.Now()
					mustWrite(t, client, message)
					mustGet(t, client, message)
					h.want(t, begun,
						lab.client.datagram(t, from, to, true, message),
						lab.client.datagram(t, to, from, false, message))
				})
			}
		}
	}
}

// echoAny answers datagrams, of any size, that come to an address of the calling thread's namespace.
func echoAny(tb testing.TB, address netip.AddrPort) {
	conn := mustListenUDP(tb, address.String())
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // it is closed
			}
			_, _ = conn.WriteToUDPAddrPort(buffer[:n], from)
		}
	}()
}

// What has other ports is nobody's business: not a byte of it is copied.
func TestDNSProgramLeavesOthersAlone(t *testing.T) {
	lab := newDNSLab(t)
	lab.client.do(t, func() { // so that connections are tracked, and one is translated
		loadModules(t)
		rules(t, world4, "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-d", "127.0.0.11", "--dport", "7001", "-j", "DNAT", "--to", "127.0.0.11:7000")
	})
	h := hearDNS(t, lab.client, lab.server)
	for _, to := range []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.2:52"), netip.MustParseAddrPort("192.0.2.2:5354"), netip.MustParseAddrPort("192.0.2.2:853"),
		netip.MustParseAddrPort("[2001:db8::2]:54"), netip.MustParseAddrPort("[2001:db8::2]:5352"),
	} {
		lab.server.do(t, func() { echoAny(t, to) })
		var client net.Conn
		lab.client.do(t, func() { client = dialUDP(t, to) })
		mustWrite(t, client, noise(100))
		mustGet(t, client, noise(100))
	}
	lab.client.do(t, func() {
		embedded := netip.MustParseAddrPort("127.0.0.11:7000")
		echoAny(t, embedded)
		for _, to := range []netip.AddrPort{embedded, netip.MustParseAddrPort("127.0.0.11:7001")} {
			client := dialUDP(t, to)
			mustWrite(t, client, noise(100))
			mustGet(t, client, noise(100))
		}
		listen(t, 80)
		for _, to := range []string{"127.0.0.1:80", "127.0.0.11:80", "[::1]:80"} {
			client, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				continue
			}
			mustWrite(t, client, noise(100))
			mustClose(t, client)
		}
		// Not even if its bytes look so: an echo request whose "ports" are 53.
		ping(t, netip.MustParseAddr("127.0.0.11"), portDNS, 1)
		ping(t, netip.MustParseAddr("127.0.0.1"), portDNS, 1)
	})
	// A server's side is not the client's: its questions and answers are those of others.
	lab.client.do(t, func() { echoAny(t, netip.MustParseAddrPort("192.0.2.1:53")) })
	h.of = []Netns{lab.client.netns(t)}
	var outside net.Conn
	lab.server.do(t, func() { outside = dialUDP(t, netip.MustParseAddrPort("192.0.2.1:53")) })
	mustWrite(t, outside, noise(40))
	mustGet(t, outside, noise(40))
	h.want(t, time.Now())
}

// installDockerNAT has questions to 127.0.0.11:53 reach another port, and its answers come from 53, as Docker does
// (its resolver_unix.go).
func installDockerNAT(tb testing.TB, protocol string, port uint16) {
	for _, rule := range []string{
		"-N DOCKER_OUTPUT_%[1]s", "-N DOCKER_POSTROUTING_%[1]s",
		"-I OUTPUT -d 127.0.0.11 -j DOCKER_OUTPUT_%[1]s", "-I POSTROUTING -d 127.0.0.11 -j DOCKER_POSTROUTING_%[1]s",
		"-A DOCKER_OUTPUT_%[1]s -d 127.0.0.11 -p %[1]s --dport 53 -j DNAT --to-destination 127.0.0.11:%[2]d",
		"-A DOCKER_POSTROUTING_%[1]s -s 127.0.0.11 -p %[1]s --sport %[2]d -j SNAT --to-source :53",
	} {
		rules(tb, world4, append([]string{"-t", "nat"}, strings.Fields(fmt.Sprintf(rule, protocol, port))...)...)
	}
}

// ruleCounts sums how many packets the rules of a chain have counted that mention text.
func ruleCounts(tb testing.TB, table, chain, text string) (count int) {
	tb.Helper()
	for line := range strings.Lines(rules(tb, world4, "-t", table, "-L", chain, "-v", "-x", "-n")) {
		if !strings.Contains(line, text) {
			continue
		}
		packets, err := strconv.Atoi(strings.Fields(line)[0])
		if err != nil {
			tb.Error(err)
		}
		count += packets
	}
	return count
}

func TestDNSProgramTellsEmbeddedResolver(t *testing.T) {
	const port, count = 40_123, 20
	client := newNamespace(t)
	loadModules(t)
	h := hearDNS(t, client)
	resolver, translated := netip.MustParseAddrPort("127.0.0.11:53"), netip.MustParseAddrPort("127.0.0.11:40123")
	var want []dnsPacket
	begun := time.Now()
	client.do(t, func() {
		installDockerNAT(t, "udp", port)
		echoAny(t, translated)
		for i := range count {
			conn, message := dialUDP(t, resolver), noise(30+i)
			from := local(conn)
			mustWrite(t, conn, message)
			mustGet(t, conn, message)
			want = append(want, client.datagram(t, from, translated, true, message), client.datagram(t, resolver, from, false, message))
		}
	})
	h.want(t, begun, want...)
	client.do(t, func() {
		if counted := ruleCounts(t, "nat", "DOCKER_OUTPUT_udp", "dpt:53"); counted != count {
			t.Errorf("the rule counted %d lookups", counted)
		}
		// Who asks at the translated port asked nobody at port 53.
		conn := dialUDP(t, translated)
		mustWrite(t, conn, noise(9))
		mustGet(t, conn, noise(9))
	})
	h.want(t, begun)
}

func TestDNSProgramTellsEmbeddedResolverOverTCP(t *testing.T) {
	const port = 40_123
	client := newNamespace(t)
	loadModules(t)
	h := hearDNS(t, client)
	resolver, translated := netip.MustParseAddrPort("127.0.0.11:53"), netip.MustParseAddrPort("127.0.0.11:40123")
	question, answer := noise(77), noise(5000)
	client.do(t, func() {
		installDockerNAT(t, "tcp", port)
		answerTCP(t, translated, len(question), answer)
		askTCP(t, resolver, question, len(answer))
	})
	outgoing, incoming := follow(t, h.take(t, 8), question, answer)
	if outgoing.destination != translated || incoming.source != resolver || outgoing.source != incoming.destination {
		t.Errorf("asked %s, %s answered to %s, not %s", outgoing.destination, incoming.source, incoming.destination, outgoing.source)
	}
}

// What is asked after the engine's rules are gone comes to port 53, where nobody is.
func TestDNSProgramTellsLostNAT(t *testing.T) {
	client := newNamespace(t)
	h := hearDNS(t, client)
	resolver := netip.MustParseAddrPort("127.0.0.11:53")
	begun := time.Now()
	var conn net.Conn
	client.do(t, func() { conn = dialUDP(t, resolver) })
	mustWrite(t, conn, noise(30))
	h.want(t, begun, client.datagram(t, local(conn), resolver, true, noise(30)))
}

// answerTCP waits for questions of that size in the calling thread's namespace, and answers each.
func answerTCP(tb testing.TB, at netip.AddrPort, size int, answer []byte) {
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		tb.Error(err)
		return
	}
	tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			if _, err := io.ReadFull(conn, make([]byte, size)); err == nil {
				_, _ = conn.Write(answer)
			}
			_ = conn.Close()
		}
	}()
}

// askTCP asks, byte for byte where there are few, and reads the answer to its end.
func askTCP(tb testing.TB, at netip.AddrPort, question []byte, size int) {
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		tb.Error(err)
		return
	}
	defer conn.Close()
	for _, part := range [][]byte{question[:1], question[1:2], question[2:]} {
		if _, err := conn.Write(part); err != nil {
			tb.Error(err)
		}
	}
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) != size {
		tb.Errorf("got %d bytes, %v, want %d", len(answer), err, size)
	}
}

// follow checks that packets are a connection's, of which everything that was sent is told, if not copied, and returns the
// first of each direction.
func follow(tb testing.TB, packets []dnsPacket, question, answer []byte) (outgoing, incoming dnsPacket) {
	tb.Helper()
	for _, way := range []struct {
		outgoing bool
		sent     []byte
		first    *dnsPacket
	}{{true, question, &outgoing}, {false, answer, &incoming}} {
		sent := make([]bool, len(way.sent))
		ends := make(map[uint8][]uint32) // where they are: they may be sent again
		for _, p := range packets {
			if p.outgoing != way.outgoing {
				continue
			}
			if way.first.protocol == 0 {
				*way.first = p
			}
			if p.protocol != unix.IPPROTO_TCP || p.source != way.first.source || p.destination != way.first.destination {
				tb.Errorf("%+v is of another connection", p)
			}
			for _, flag := range []uint8{bitSYN, bitFIN} {
				if at := p.sequence + uint32(p.length); p.flags&flag != 0 && !slices.Contains(ends[flag], at) {
					ends[flag] = append(ends[flag], at)
				}
			}
			if p.length == 0 && p.flags&(bitSYN|bitFIN|bitRST) == 0 {
				tb.Errorf("%+v says nothing", p)
			}
			if p.length == 0 {
				continue
			}
			at := int(p.sequence - way.first.sequence - 1)
			if at < 0 || at+p.length > len(sent) || len(p.payload) != min(p.length, copyMax) ||
				!bytes.Equal(p.payload, way.sent[at:at+len(p.payload)]) {
				tb.Fatalf("bytes %d to %d, of which %d are copied, are not what was sent", at, at+p.length, len(p.payload))
			}
			for i := at; i < at+p.length; i++ {
				sent[i] = true
			}
		}
		if way.first.flags&bitSYN == 0 || len(ends[bitSYN]) != 1 || len(ends[bitFIN]) != 1 {
			tb.Errorf("outgoing %t: begins with flags %#x, SYN and FIN: %v", way.outgoing, way.first.flags, ends)
		}
		if missing := slices.Index(sent, false); missing >= 0 {
			tb.Errorf("outgoing %t: byte %d of %d is not told", way.outgoing, missing, len(sent))
		}
	}
	return outgoing, incoming
}

func TestDNSProgramTellsTCP(t *testing.T) {
	for _, address := range []netip.Addr{world4, world6} {
		for _, size := range []int{1, 500, 1448, 4096, 4097, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", address, size), func(t *testing.T) {
				lab := newDNSLab(t)
				h := hearDNS(t, lab.client, lab.server)
				to, question, answer := netip.AddrPortFrom(address, portDNS), noise(300), noise(size)
				lab.server.do(t, func() { answerTCP(t, to, len(question), answer) })
				lab.client.do(t, func() { askTCP(t, to, question, len(answer)) })
				packets := h.take(t, 8)
				for _, p := range packets {
					if p.netns != lab.client.netns(t) {
						t.Errorf("told of the server: %+v", p)
					}
					if len(p.payload) < p.length {
						t.Errorf("of %d bytes %d are copied", p.length, len(p.payload))
					}
				}
				outgoing, incoming := follow(t, packets, question, answer)
				if outgoing.destination != to || incoming.source != to || outgoing.source != incoming.destination {
					t.Errorf("asked %s, %s answered to %s, not %s", outgoing.destination, incoming.source, incoming.destination, outgoing.source)
				}
			})
		}
	}
}

// Both ends may have agreed on longer segments than there is room for (since 5.19). Their last piece says how long they are.
func TestDNSProgramTellsBigTCP(t *testing.T) {
	lab := newDNSLab(t)
	h := hearDNS(t, lab.client)
	to, question, answer := netip.AddrPortFrom(world6, portDNS), noise(300), noise(1<<20)
	lab.server.do(t, func() {
		// Where it may not, it is the same as above.
		if err := netlink.LinkSetGSOMaxSize(mustLink(t, "inside"), 190_000); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
		answerTCP(t, to, len(question), answer)
	})
	lab.client.do(t, func() { askTCP(t, to, question, len(answer)) })
	follow(t, h.take(t, 8), question, answer)
}

func TestDNSProgramTellsRefusedTCP(t *testing.T) {
	lab := newDNSLab(t)
	h := hearDNS(t, lab.client)
	lab.client.do(t, func() {
		if _, err := net.Dial("tcp", "192.0.2.2:53"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Error(err)
		}
	})
	packets := h.take(t, 2)
	if len(packets) != 2 || packets[0].flags != bitSYN || packets[1].flags != bitRST|bitACK || packets[1].outgoing {
		t.Errorf("%+v", packets)
	}
}

// A question to a group is told once where it is asked, and once for each socket that it reaches.
func TestDNSProgramTellsMulticast(t *testing.T) {
	lab := newDNSLab(t)
	h := hearDNS(t, lab.client, lab.server)
	group := netip.MustParseAddrPort("224.0.0.251:5353")
	join := func(device string) *net.UDPConn {
		place, err := net.InterfaceByName(device)
		if err != nil {
			t.Error(err)
			return nil
		}
		conn, err := net.ListenMulticastUDP("udp4", place, net.UDPAddrFromAddrPort(group))
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var asker *net.UDPConn
	lab.client.do(t, func() {
		run(t, "ip", "route", "add", "224.0.0.0/4", "dev", "outside")
		asker, _ = join("outside"), join("outside")
	})
	lab.server.do(t, func() { join("inside") })
	raw, err := asker.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asker.WriteToUDPAddrPort(noise(50), group); err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddrPort("192.0.2.1:5353")
	packets := h.take(t, 4)
	count := make(map[string]int)
	for _, p := range packets {
		count[fmt.Sprintf("client=%t outgoing=%t", p.netns == lab.client.netns(t), p.outgoing)]++
		if p.source != from || p.destination != group || !bytes.Equal(p.payload, noise(50)) {
			t.Errorf("%+v", p)
		}
	}
	want := map[string]int{"client=true outgoing=true": 1, "client=true outgoing=false": 2, "client=false outgoing=false": 1}
	if !maps.Equal(want, count) {
		t.Errorf("told %v, want %v", count, want)
	}
}

// The headers before the ports may be longer than they nearly always are.
func TestDNSProgramPassesOverHeaders(t *testing.T) {
	for _, tc := range []struct {
		name   string
		to     netip.Addr
		level  int
		option int
		value  []byte
	}{
		{"IPv4 options", world4, unix.IPPROTO_IP, unix.IP_OPTIONS, []byte{148, 4, 0, 0}}, // router alert
		{"most IPv4 options", world4, unix.IPPROTO_IP, unix.IP_OPTIONS, append(bytes.Repeat([]byte{1}, 36), 148, 4, 0, 0)},
		{"IPv6 destination options", world6, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, []byte{0, 0, 1, 4, 0, 0, 0, 0}},
		{"IPv6 hop-by-hop options", world6, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, append([]byte{0, 2, 0x1e, 20}, make([]byte, 20)...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newDNSLab(t)
			h := hearDNS(t, lab.client)
			to := netip.AddrPortFrom(tc.to, portDNS)
			var server *net.UDPConn
			lab.server.do(t, func() { server = mustListenUDP(t, to.String()) })
			var client net.Conn
			lab.client.do(t, func() { client = dialUDP(t, to) })
			for _, conn := range []net.Conn{client, server} {
				setOption(t, conn.(*net.UDPConn), tc.level, tc.option, tc.value)
			}
			begun, from := time.Now(), local(client)
			mustWrite(t, client, noise(200))
			mustGet(t, server, noise(200))
			if _, err := server.WriteToUDPAddrPort(noise(210), from); err != nil {
				t.Fatal(err)
			}
			mustGet(t, client, noise(210))
			h.want(t, begun, lab.client.datagram(t, from, to, true, noise(200)), lab.client.datagram(t, to, from, false, noise(210)))
		})
	}
}

func setOption(tb testing.TB, conn *net.UDPConn, level, option int, value []byte) {
	tb.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptString(int(fd), level, option, string(value)) }); err != nil || failed != nil {
		tb.Fatal(err, failed)
	}
}

func TestDNSProgramSeesTaggedPackets(t *testing.T) {
	lab := newDNSLab(t)
	var errs []error
	tag := func(device, address string) {
		parent := mustLink(t, device).Attrs().Index
		vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "tagged", ParentIndex: parent}, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		if err := netlink.LinkAdd(vlan); err != nil {
			errs = append(errs, err)
			return
		}
		addAddress(t, "tagged", address)
		setUp(t, "tagged")
	}
	lab.client.do(t, func() { tag("outside", "198.51.100.1/24") })
	lab.server.do(t, func() { tag("inside", "198.51.100.2/24") })
	if err := errors.Join(errs...); errors.Is(err, unix.EOPNOTSUPP) {
		return // not in this kernel; it is in those that make test-kernels runs
	} else if err != nil {
		t.Fatal(err)
	}
	h := hearDNS(t, lab.client, lab.server)
	to := netip.MustParseAddrPort("198.51.100.2:53")
	lab.server.do(t, func() { echoAny(t, to) })
	var client net.Conn
	lab.client.do(t, func() { client = dialUDP(t, to) })
	begun, from := time.Now(), local(client)
	mustWrite(t, client, noise(60))
	mustGet(t, client, noise(60))
	h.want(t, begun, lab.client.datagram(t, from, to, true, noise(60)), lab.client.datagram(t, to, from, false, noise(60)))
}

// A socket that gets all datagrams of the host makes no second answer of one, but what it sends is asked.
func TestDNSProgramAndRawSockets(t *testing.T) {
	lab := newDNSLab(t)
	to := netip.AddrPortFrom(world4, portDNS)
	lab.server.do(t, func() { echoAny(t, to) })
	var raw int
	lab.client.do(t, func() { raw = openSocket(t, netip.AddrPortFrom(world4, 0), unix.SOCK_RAW, unix.IPPROTO_UDP) })
	h := hearDNS(t, lab.client)
	var client net.Conn
	lab.client.do(t, func() { client = dialUDP(t, to) })
	begun, from := time.Now(), local(client)
	mustWrite(t, client, noise(60))
	mustGet(t, client, noise(60))
	eventually(t, "the raw socket gets it, too", func() bool {
		n, err := unix.Read(raw, make([]byte, 1000))
		return err == nil && n == ipv4Header+udpHeader+60
	})
	h.want(t, begun, lab.client.datagram(t, from, to, true, noise(60)), lab.client.datagram(t, to, from, false, noise(60)))
	lab.client.do(t, func() { openRawUDP(t, to, 1) })
	self := netip.MustParseAddrPort("192.0.2.1:10000")
	h.want(t, begun, lab.client.datagram(t, self, to, true, nil))
}

// A program may hand over many datagrams as one.
func TestDNSProgramCountsSegmented(t *testing.T) {
	const size, count = 100, 7
	lab := newDNSLab(t)
	to := netip.AddrPortFrom(world4, portDNS)
	h := hearDNS(t, lab.client)
	var client net.Conn
	lab.client.do(t, func() { client = dialUDP(t, to) })
	setOption(t, client.(*net.UDPConn), unix.SOL_UDP, unix.UDP_SEGMENT, []byte{size, 0, 0, 0})
	mustWrite(t, client, noise(size*count-1))
	got := h.take(t, 1)
	want := []dnsPacket{lab.client.datagram(t, local(client), to, true, noise(size))}
	if diff := cmp.Diff(want, got, dnsPacketOptions()...); diff != "" {
		t.Errorf("packets (-want +got):\n%.3000s", diff)
	}
	if lost := lossesAt(t, h.program.losses, "segmented"); lost != count-1 {
		t.Errorf("segmented: %d, want %d", lost, count-1)
	}
}

// The first message of a namespace that was not there when the program was attached is seen.
func TestDNSProgramSeesNewNamespaces(t *testing.T) {
	h := hearDNS(t)
	for range 20 {
		n := newNamespace(t)
		h.of = append(h.of, n.netns(t))
		to := netip.MustParseAddrPort("127.0.0.1:53")
		var client net.Conn
		n.do(t, func() { client = dialUDP(t, to) })
		begun := time.Now()
		mustWrite(t, client, noise(33))
		h.want(t, begun, n.datagram(t, local(client), to, true, noise(33)))
	}
}

// Nothing is lost that is not counted, however little room there is.
func TestDNSProgramCountsFullRing(t *testing.T) {
	for _, tc := range []struct {
		name     string
		ringSize uint32
		count    int
		late     bool // nobody reads before all is sent
	}{
		{"nobody reads", 4096, 1000, true},
		{"one page", 4096, 100_000, false},
		{"small", 1 << 16, 100_000, false},
		{"as it is", 0, 100_000, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			control := newDNSControl(t)
			program := mustOpenDNSProgram(t, tc.ringSize)
			before := control.count(t)
			rules(t, world4, "-A", "OUTPUT", "-p", "udp", "--dport", "53")
			rules(t, world4, "-A", "INPUT", "-p", "udp", "--dport", "53", "-j", "DROP")
			told := 0
			read := func() error {
				_, err := program.read(gatherLimit, func(*dnsPacket) { told++ })
				return err
			}
			stop := func() error { return nil }
			if !tc.late {
				stop = repeat(func() error { return errors.Join(program.wait(time.Now().Add(dnsPeriod)), read()) })
			}
			sendUDP(t, mustListenUDP(t, "127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.1:53"), tc.count, 40)
			least := control.count(t) - before
			if err := errors.Join(stop(), read()); err != nil {
				t.Fatal(err)
			}
			lost := int(lossesAt(t, program.losses, "ring_full"))
			most := control.count(t)
			if counted := ruleCounts(t, "filter", "OUTPUT", "dpt:53"); counted != tc.count || control.here != tc.count {
				t.Errorf("the rule counted %d, the other program %d, sent were %d", counted, control.here, tc.count)
			}
			if told+lost < least || told+lost > most || told == 0 || tc.late && lost == 0 {
				t.Errorf("told %d and lost %d of %d to %d", told, lost, least, most)
			}
		})
	}
}

// A long transfer is told in less detail when the ring fills, and displaces nothing.
func TestDNSProgramLeavesRoom(t *testing.T) {
	lab := newDNSLab(t)
	h := &dnsTold{program: mustOpenDNSProgram(t, 1<<21), of: []Netns{lab.client.netns(t)}}
	to, question, answer := netip.AddrPortFrom(world4, portDNS), noise(300), noise(3<<20)
	lab.server.do(t, func() { answerTCP(t, to, len(question), answer) })
	lab.client.do(t, func() { askTCP(t, to, question, len(answer)) })
	if lost := lossesAt(t, h.program.losses, "ring_full"); lost != 0 {
		t.Errorf("there was no room for %d", lost)
	}
	follow(t, h.take(t, 8), question, answer)
}

// dnsControl is a program that has room for all, of which it tells how much there was: others on this machine have
// lookups, too.
type dnsControl struct {
	program   *dnsProgram
	netns     Netns
	all, here int
}

// newDNSControl watches the calling thread's namespace beside all.
func newDNSControl(tb testing.TB) *dnsControl {
	tb.Helper()
	return &dnsControl{program: mustOpenDNSProgram(tb, 1<<25), netns: ownNetns(tb)}
}

func (c *dnsControl) count(tb testing.TB) int {
	tb.Helper()
	_, err := c.program.read(1<<20, func(p *dnsPacket) {
		c.all++
		if p.netns == c.netns {
			c.here++
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	if lost := lossesAt(tb, c.program.losses, "ring_full"); lost != 0 {
		tb.Fatalf("there was no room for %d", lost)
	}
	return c.all
}

// repeat calls f again and again, until it fails or what repeat returns is called, which returns f's error.
func repeat(f func() error) (stop func() error) {
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-end:
				ended <- nil
				return
			default:
			}
			if err := f(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return func() error {
		close(end)
		return <-ended
	}
}

// Whatever comes, it goes on.
func TestDNSProgramPassesOn(t *testing.T) {
	program := mustOpenDNSProgram(t, 0)
	frames := [][]byte{}
	for _, s := range samples(t) {
		frames = append(frames, s.frame)
	}
	for _, whole := range dnsFrames(t) {
		for size := range whole {
			frames = append(frames, whole[:size])
		}
		frames = append(frames, whole)
	}
	ran := 0
	for _, frame := range frames {
		if !testable(frame) {
			continue
		}
		for _, p := range []*ebpf.Program{program.objects.Egress, program.objects.Ingress} {
			verdict, err := p.Run(&ebpf.RunOptions{Data: frame})
			if err != nil {
				t.Fatalf("run on %x: %v", frame, err)
			}
			if verdict != 1 {
				t.Fatalf("verdict %d on %x", verdict, frame)
			}
			ran++
		}
	}
	if ran < 400 {
		t.Errorf("only %d frames were run", ran)
	}
}

// Another agent's programs see the same.
func TestDNSProgramsSideBySide(t *testing.T) {
	const count = 100
	enterFreshNetns(t)
	here := ownNamespace(t)
	one, other := hearDNS(t, here), hearDNS(t, here)
	from, to := mustListenUDP(t, "127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.1:53")
	sendUDP(t, from, to, count, 40)
	first, second := one.take(t, count), other.take(t, count)
	if diff := cmp.Diff(first, second, dnsPacketOptions()...); diff != "" || len(first) != count {
		t.Errorf("%d packets (-one +other):\n%.2000s", len(first), diff)
	}
	mustClose(t, one.program)
	sendUDP(t, from, to, count, 40)
	if left := other.take(t, count); len(left) != count {
		t.Errorf("after the other was closed, %d of %d are told", len(left), count)
	}
}

func TestDNSProgramIsKeptOut(t *testing.T) {
	cgroup := mustOpenCgroup(t, newCgroup(t, pathOf(mustOpenCgroupRoot(t)), "bridgewatch-test-exclusive"))
	exclusive, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, exclusive)
	options := link.RawAttachProgramOptions{Target: int(cgroup.Fd()), Program: exclusive, Attach: ebpf.AttachCGroupInetIngress}
	if err := link.RawAttachProgram(options); err != nil {
		t.Fatal(err)
	}
	program := mustOpenDNSProgram(t, 0)
	err = program.attach(cgroup)
	if err == nil || errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "allows no other") {
		t.Errorf("attached beside one that allows no other: %v", err)
	}
}

func TestOpenDNSProgram(t *testing.T) {
	program := mustOpenDNSProgram(t, 0)
	costs, err := program.costs()
	if err != nil || len(costs) != 2 || costs[0].Program != "dns_egress" || costs[1].Program != "dns_ingress" {
		t.Errorf("costs %+v, %v", costs, err)
	}
	if _, err := openDNSProgram(5000); err == nil || !strings.Contains(err.Error(), "dns") {
		t.Errorf("a ring of 5000 bytes: %v", err)
	}
}

func TestParseDNSRecord(t *testing.T) {
	for _, raw := range [][]byte{nil, make([]byte, 71), slices.Concat(make([]byte, 60), []byte{9, 0, 0, 0}, make([]byte, 8+8))} {
		if _, err := parseDNSRecord(raw, time.Time{}); err == nil {
			t.Errorf("%d bytes are a record", len(raw))
		}
	}
}
