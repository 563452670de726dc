// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// natLab is a router between a container and the world. The world's packets to its addresses may be translated, and so may
// the container's to the world.
type natLab struct {
	router, container, world namespace
}

// Addresses of the router, and one in the container's network that nobody has.
var (
	router4, router6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	dead4, dead6     = netip.MustParseAddr("172.30.0.99"), netip.MustParseAddr("fd00:30::99")
)

func newNATLab(t testing.TB) *natLab {
	t.Helper()
	loadModules(t)
	lab := &natLab{router: newNamespace(t), container: newNamespace(t), world: newNamespace(t)}
	lab.router.do(t, func() {
		vethPair(t, lab.world)
		addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "eth0"})
		move(t, "eth0", lab.container)
		addIPv6(t, "outside", "2001:db8::1/64")
		addAddress(t, "port", "172.30.0.1/24")
		addIPv6(t, "port", "fd00:30::1/64")
		setUp(t, "port")
		write(t, "/proc/sys/net/ipv4/ip_forward", "1")
		write(t, "/proc/sys/net/ipv6/conf/all/forwarding", "1")
	})
	lab.container.do(t, func() {
		addAddress(t, "eth0", "172.30.0.2/24")
		addIPv6(t, "eth0", "fd00:30::2/64")
		setUp(t, "eth0")
		addRoutes(t, "172.30.0.1", "fd00:30::1")
	})
	lab.world.do(t, func() {
		addIPv6(t, "inside", "2001:db8::2/64")
	})
	lab.awaitWay(t, world4)
	lab.awaitWay(t, world6)
	return lab
}

// awaitWay has the container send until something arrives in the world: links and addresses are not usable at once. Without
// rules nothing of it is tracked.
func (l *natLab) awaitWay(tb testing.TB, to netip.Addr) {
	tb.Helper()
	var arrivals *net.UDPConn
	l.world.do(tb, func() { arrivals = mustListenUDP(tb, netip.AddrPortFrom(to, 9).String()) })
	defer arrivals.Close()
	var socket int
	l.container.do(tb, func() { socket = openSocket(tb, netip.AddrPortFrom(to, 9), unix.SOCK_DGRAM, 0) })
	eventually(tb, "the way from container to world is open", func() bool {
		if err := unix.Send(socket, []byte("x"), 0); err != nil {
			return false // what a packet before it met
		}
		if err := arrivals.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			tb.Fatal(err)
		}
		_, err := arrivals.Read(make([]byte, 1))
		return err == nil
	})
}

// translate adds a rule to the router's table nat.
func (l *natLab) translate(tb testing.TB, of netip.Addr, rule string) {
	tb.Helper()
	l.router.do(tb, func() { rules(tb, of, append([]string{"-t", "nat"}, strings.Fields(rule)...)...) })
}

// translated says how many connections the rules of a chain of the router's table nat have counted: each once.
func (l *natLab) translated(tb testing.TB, of netip.Addr, chain string) (count int) {
	tb.Helper()
	var list string
	l.router.do(tb, func() { list = rules(tb, of, "-t", "nat", "-L", chain, "-v", "-x", "-n") })
	for _, line := range strings.Split(list, "\n")[2:] {
		if fields := strings.Fields(line); len(fields) > 0 {
			packets, err := strconv.Atoi(fields[0])
			if err != nil {
				tb.Errorf("rule %q: %v", line, err)
			}
			count += packets
		}
	}
	return count
}

// connection is what identifies one.
type connection struct {
	Protocol        uint8
	Original, Reply Tuple
}

func connectionOf(t *Tracked) connection { return connection{t.Protocol, t.Original, t.Reply} }

// conntrackTable is what the conntrack tool says of the calling thread's namespace.
func conntrackTable(tb testing.TB) map[connection]int {
	tb.Helper()
	found := make(map[connection]int)
	for _, family := range []string{"ipv4", "ipv6"} {
		list, err := exec.Command("conntrack", "-L", "-f", family).Output()
		if err != nil {
			tb.Errorf("conntrack -L: %v", err)
		}
		for line := range strings.Lines(string(list)) {
			c, err := parseTool(line)
			if err != nil {
				tb.Errorf("conntrack says %q: %v", line, err)
			}
			found[c]++
		}
	}
	return found
}

// parseTool reads a line of the conntrack tool: a protocol and its number, and for each direction addresses, and ports or
// the identifier of ICMP.
func parseTool(line string) (c connection, err error) {
	fields := strings.Fields(line)
	protocol, err := strconv.ParseUint(fields[1], 10, 8)
	if err != nil {
		return connection{}, err
	}
	c.Protocol = uint8(protocol)
	tuples, at := [2]*Tuple{&c.Original, &c.Reply}, -1
	for _, field := range fields[2:] {
		name, value, _ := strings.Cut(field, "=")
		var address netip.Addr
		var port uint64
		switch name {
		case "src", "dst":
			address, err = netip.ParseAddr(value)
		case "sport", "dport", "id":
			port, err = strconv.ParseUint(value, 10, 16)
		}
		if err != nil {
			return connection{}, err
		}
		switch name {
		case "src":
			at++
			tuples[at].Source = netip.AddrPortFrom(address, 0)
		case "dst":
			tuples[at].Destination = netip.AddrPortFrom(address, 0)
		case "id":
			tuples[at].Source = netip.AddrPortFrom(tuples[at].Source.Addr(), uint16(port))
			tuples[at].Destination = netip.AddrPortFrom(tuples[at].Destination.Addr(), uint16(port))
		case "sport":
			tuples[at].Source = netip.AddrPortFrom(tuples[at].Source.Addr(), uint16(port))
		case "dport":
			tuples[at].Destination = netip.AddrPortFrom(tuples[at].Destination.Addr(), uint16(port))
		}
	}
	return c, nil
}

// translatedOf keeps what is translated.
func translatedOf(connections map[connection]int) map[connection]int {
	found := maps.Clone(connections)
	maps.DeleteFunc(found, func(c connection, _ int) bool {
		return c.Original.Source == c.Reply.Destination && c.Original.Destination == c.Reply.Source
	})
	return found
}

// awaitTranslated returns what the tool says of the router's translated connections, once there are as many as that.
func (l *natLab) awaitTranslated(tb testing.TB, count int) (found map[connection]int) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("conntrack knows of %d connections", count), func() bool {
		found = translatedOf(l.conntrack(tb))
		return len(found) == count
	})
	return found
}

// conntrack is what the tool says of the router.
func (l *natLab) conntrack(tb testing.TB) (found map[connection]int) {
	tb.Helper()
	l.router.do(tb, func() { found = conntrackTable(tb) })
	return found
}

func mustOpenNAT(tb testing.TB, of namespace, config NATConfig) *NAT {
	tb.Helper()
	nat := openNATAnyway(tb, of, config)
	if err := nat.Incomplete(); err != nil {
		tb.Errorf("incomplete: %v", err)
	}
	return nat
}

// openNATAnyway opens one of which a part may not run.
func openNATAnyway(tb testing.TB, of namespace, config NATConfig) *NAT {
	tb.Helper()
	liftMemoryLimit(tb)
	var nat *NAT
	var err error
	of.do(tb, func() { nat, err = OpenNAT(config) })
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, nat) })
	return nat
}

// runNAT runs it until the test ends, or what it returns is called.
func runNAT(tb testing.TB, nat *NAT) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { nat.Run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	tb.Cleanup(stop)
	return stop
}

// opened counts the connections of a test that a NAT tells to be new. It tells of all the machine's.
type opened struct {
	nat      *NAT
	here     map[Netns]bool
	count    map[connection]int
	answered map[connection]int
	news     []NATEvent
}

func newOpened(tb testing.TB, nat *NAT, labs ...*natLab) *opened {
	tb.Helper()
	o := &opened{nat: nat, here: map[Netns]bool{0: true}, answered: make(map[connection]int)} // 0: has a number here
	o.forget()
	for _, lab := range labs {
		o.here[lab.router.netns(tb)] = true
	}
	return o
}

// forget begins anew.
func (o *opened) forget() { o.count = make(map[connection]int) }

func (o *opened) read(tb testing.TB) map[connection]int {
	tb.Helper()
	news, err := o.nat.Read()
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range news.Opened {
		if o.here[e.Netns] {
			o.count[connectionOf(&e.Tracked)]++
			o.news = append(o.news, e)
		}
	}
	for _, e := range news.Answered {
		if o.here[e.Netns] {
			o.answered[connectionOf(&e.Tracked)]++
		}
	}
	return o.count
}

// sum is how many there are of all.
func sum(connections map[connection]int) (total int) {
	for _, n := range connections {
		total += n
	}
	return total
}

// want waits until as many are told as are wanted, gives more a chance, and compares.
func (o *opened) want(tb testing.TB, want map[connection]int) {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); sum(o.read(tb)) < sum(want) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	if got := o.read(tb); !maps.Equal(want, got) {
		tb.Errorf("told %d connections, want %d (-want +got):\n%.3000s", sum(got), sum(want), cmp.Diff(want, got))
	}
}

// opener opens connections from the calling thread's namespace, each from a port, or with an identifier, of its own.
type opener func(tb testing.TB, to netip.AddrPort, count int)

var openers = map[string]opener{"tcp": openTCP, "udp": openUDP, "icmp": openICMP, "sctp": openSCTP}

// openTCP begins connections and leaves them to the kernel, which answers, or sends anew, until the test ends.
func openTCP(tb testing.TB, to netip.AddrPort, count int) {
	for range count {
		openSocket(tb, to, unix.SOCK_STREAM, 0)
	}
}

func openUDP(tb testing.TB, to netip.AddrPort, count int) {
	for range count {
		if err := unix.Send(openSocket(tb, to, unix.SOCK_DGRAM, 0), []byte("x"), 0); err != nil {
			tb.Errorf("send to %s: %v", to, err)
		}
	}
}

// openICMP sends echo requests.
func openICMP(tb testing.TB, to netip.AddrPort, count int) { ping(tb, to.Addr(), 1, count) }

// ping sends echo requests with that many identifiers, from the first on.
func ping(tb testing.TB, to netip.Addr, first, count int) {
	protocol, request := unix.IPPROTO_ICMP, byte(8)
	if to.Is6() {
		protocol, request = unix.IPPROTO_ICMPV6, 128
	}
	socket := openSocket(tb, netip.AddrPortFrom(to, 0), unix.SOCK_RAW, protocol)
	for id := first; id < first+count; id++ {
		message := []byte{request, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
		if to.Is4() { // of IPv6 it is the kernel's business
			binary.BigEndian.PutUint16(message[2:], checksum(message))
		}
		if err := unix.Send(socket, message, 0); err != nil {
			tb.Errorf("ping %s: %v", to, err)
		}
	}
}

// checksum is the internet's.
func checksum(message []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(message); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// openSCTP sends INIT chunks, as this kernel has no sockets that would.
func openSCTP(tb testing.TB, to netip.AddrPort, count int) {
	socket := openSocket(tb, netip.AddrPortFrom(to.Addr(), 0), unix.SOCK_RAW, unix.IPPROTO_SCTP)
	for i := range count {
		packet := binary.BigEndian.AppendUint16(nil, uint16(20_000+i))
		packet = binary.BigEndian.AppendUint16(packet, to.Port())
		packet = append(packet, 0, 0, 0, 0, 0, 0, 0, 0)                                            // tag and checksum
		packet = append(packet, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, byte(i)) // INIT
		binary.LittleEndian.PutUint32(packet[8:], crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli)))
		err := unix.Send(socket, packet, 0)
		for errors.Is(err, unix.ENOBUFS) { // the kernel is busy, and did not take it
			time.Sleep(time.Millisecond)
			err = unix.Send(socket, packet, 0)
		}
		if err != nil {
			tb.Errorf("send to %s: %v", to, err)
		}
	}
}

// openSocket is connected, or begins to be, and is closed when the test ends.
func openSocket(tb testing.TB, to netip.AddrPort, kind, protocol int) int {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	socket, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		tb.Errorf("open socket: %v", err)
		return -1
	}
	tb.Cleanup(func() { _ = unix.Close(socket) })
	if err := unix.Connect(socket, address); err != nil && err != unix.EINPROGRESS {
		tb.Errorf("connect to %s: %v", to, fmt.Errorf("%w", err))
	}
	return socket
}

// openRawUDP sends a datagram from each of many ports by one socket. IPv4 only.
func openRawUDP(tb testing.TB, to netip.AddrPort, count int) {
	socket := openSocket(tb, netip.AddrPortFrom(to.Addr(), 0), unix.SOCK_RAW, unix.IPPROTO_UDP)
	for i := range count {
		datagram := binary.BigEndian.AppendUint16(nil, uint16(10_000+i))
		datagram = binary.BigEndian.AppendUint16(datagram, to.Port())
		datagram = append(datagram, 0, udpHeader, 0, 0) // no checksum
		if err := unix.Send(socket, datagram, 0); err != nil {
			tb.Errorf("send to %s: %v", to, err)
			return
		}
	}
}
