// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mustListenTCP listens in the calling thread's namespace.
func mustListenTCP(tb testing.TB, network, address string) *net.TCPListener {
	tb.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, listener) })
	return listener.(*net.TCPListener)
}

// connect makes a connection to a listener, from a namespace, and returns both ends.
func connect(tb testing.TB, from namespace, to *net.TCPListener, address string) (server, client net.Conn) {
	tb.Helper()
	var err error
	from.do(tb, func() { client, err = net.Dial("tcp", address) })
	if err == nil {
		server, err = to.Accept()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = server.Close(), client.Close() }) // the test may have closed them
	return server, client
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

func byLocal(a, b Connection) int {
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

func TestListeners(t *testing.T) {
	enterFreshNetns(t)
	var want []Listener
	listen := func(network, address string, v6Only bool) *net.TCPListener {
		listener := mustListenTCP(t, network, address)
		want = append(want, Listener{Address: addrPort(listener.Addr()), V6Only: v6Only})
		return listener
	}
	listen("tcp4", "0.0.0.0:80", false)
	listen("tcp6", "[::1]:81", true)
	listen("tcp", ":82", false)
	listen("tcp6", "[::]:85", true)
	server := listen("tcp4", "127.0.0.1:83", false)
	want = append(want, Listener{Address: mustListenMapped(t, "::ffff:127.0.0.1", 86)})
	connect(t, ownNamespace(t), server, "127.0.0.1:83") // neither end listens
	newNamespace(t).do(t, func() {
		if other, err := net.Listen("tcp4", "127.0.0.1:84"); err != nil {
			t.Error(err)
		} else {
			t.Cleanup(func() { mustClose(t, other) })
		}
	})

	got := mustReadHost(t, HostQuery{}).Listeners
	for _, listeners := range [][]Listener{want, got} {
		slices.SortFunc(listeners, func(a, b Listener) int { return int(a.Address.Port()) - int(b.Address.Port()) })
	}
	if diff := cmp.Diff(want, got, addresses()); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}

// mustListenMapped listens on an IPv4 address by an IPv6 socket, as Java does, and returns the address.
func mustListenMapped(tb testing.TB, address string, port uint16) netip.AddrPort {
	tb.Helper()
	at := netip.MustParseAddr(address)
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		tb.Cleanup(func() { _ = unix.Close(socket) })
		err = errors.Join(
			unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
			unix.Bind(socket, &unix.SockaddrInet6{Addr: at.As16(), Port: int(port)}),
			unix.Listen(socket, 1))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return netip.AddrPortFrom(at.Unmap(), port)
}

// Whether a connection becomes a listener's is for the kernel to say.
func TestListenersTake(t *testing.T) {
	enterFreshNetns(t)
	enableIPv6(t, "lo", "2001:db8::1/128")
	run(t, "ip", "address", "add", "192.0.2.1/32", "dev", "lo")
	addresses := []string{"127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"}
	port := 90
	try := func(listen func(port uint16)) {
		port++
		listen(uint16(port))
		listeners := slices.DeleteFunc(mustReadHost(t, HostQuery{}).Listeners, func(l Listener) bool { return int(l.Address.Port()) != port })
		if len(listeners) != 1 {
			t.Fatalf("listeners %+v", listeners)
		}
		for _, address := range addresses {
			to := netip.AddrPortFrom(netip.MustParseAddr(address), uint16(port))
			connection, err := net.Dial("tcp", to.String())
			if err == nil {
				mustClose(t, connection)
			}
			if got := listeners[0].Takes(to.Addr()); got != (err == nil) {
				t.Errorf("%+v takes what is for %s: %t, but connecting says %v", listeners[0], address, got, err)
			}
		}
	}
	for _, address := range []string{"0.0.0.0", "127.0.0.1", "192.0.2.1", "[::]", "[::1]", "[2001:db8::1]"} {
		network := "tcp6"
		if address[0] != '[' {
			network = "tcp4"
		}
		try(func(port uint16) { mustListenTCP(t, network, fmt.Sprintf("%s:%d", address, port)) })
	}
	try(func(port uint16) { mustListenTCP(t, "tcp", fmt.Sprintf(":%d", port)) })
	try(func(port uint16) { mustListenMapped(t, "::ffff:192.0.2.1", port) })
	try(func(port uint16) { mustListenMapped(t, "::ffff:0.0.0.0", port) })
}

func TestConnections(t *testing.T) {
	enterFreshNetns(t)
	client := newNamespace(t)
	vethPair(t, client)
	enableIPv6(t, "outside", "2001:db8::1/64")
	client.do(t, func() { enableIPv6(t, "inside", "2001:db8::2/64") })

	published := mustListenTCP(t, "tcp", ":8080") // takes both families
	plain := mustListenTCP(t, "tcp4", "192.0.2.1:8081")
	other := mustListenTCP(t, "tcp", ":8082")
	var want []Connection
	meet := func(with *net.TCPListener, address string) (here, there net.Conn) {
		here, there = connect(t, client, with, address)
		if port := with.Addr().(*net.TCPAddr).Port; port != 8082 {
			want = append(want, Connection{Local: netip.MustParseAddrPort(address), Remote: addrPort(there.LocalAddr())})
		}
		return here, there
	}
	meet(published, "192.0.2.1:8080")
	meet(published, "[2001:db8::1]:8080")
	meet(plain, "192.0.2.1:8081")
	meet(other, "192.0.2.1:8082")
	ended, peer := meet(published, "192.0.2.1:8080") // who ends it first remembers it
	mustClose(t, ended)
	mustClose(t, peer)
	left, peer := meet(published, "192.0.2.1:8080") // the client is gone, the server has not noticed
	mustClose(t, peer)
	if n, err := left.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v from a connection that was ended", n, err)
	}

	check := func(what string, ports ...uint16) {
		t.Helper()
		got := mustReadHost(t, HostQuery{Ports: ports}).Connections
		slices.SortFunc(got, byLocal)
		slices.SortFunc(want, byLocal)
		if diff := cmp.Diff(want, got, addresses()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if states := run(t, "ss", "-Htan", "sport = 8080"); !strings.Contains(states, "TIME-WAIT") || !strings.Contains(states, "CLOSE-WAIT") {
		t.Errorf("no connection is closing:\n%s", states)
	}
	check("on two ports", 8081, 8080, 8080)
	want = slices.DeleteFunc(want, func(c Connection) bool { return c.Local.Port() != 8081 })
	check("on one port", 8081, 9999)
	want = nil
	check("nobody uses it", 9999)
	check("of no port")
}

// However many there are, memory is bounded and none goes uncounted.
func TestTooManyConnections(t *testing.T) {
	const beyond = 25
	enterFreshNetns(t)
	write(t, "/proc/sys/net/ipv4/tcp_max_tw_buckets", "100000")
	server := mustListenTCP(t, "tcp4", "127.0.0.1:8080")
	for i := range maxConnections + beyond {
		// From a port each: one that is used again ends what the server remembers.
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10_000 + i}}
		made, err := from.Dial("tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, accepted)
		mustClose(t, made)
	}
	eventually(t, "all are counted", func() bool {
		s := mustReadHost(t, HostQuery{Ports: []uint16{8080}})
		return len(s.Connections) == maxConnections && s.MoreConnections == beyond
	})
}

// The kernel itself tells what a filter lets through.
func TestPortFilters(t *testing.T) {
	enterFreshNetns(t)
	random := rand.New(rand.NewPCG(1, 2))
	open := []uint16{1, 2, 79, 80, 81, 1023, 1024, 32767, 32768, 65534, 65535}
	for len(open) < 120 {
		open = append(open, uint16(1+random.IntN(65535)))
	}
	slices.Sort(open)
	open = slices.Compact(open)
	for _, port := range open {
		mustListenTCP(t, "tcp", fmt.Sprintf(":%d", port))
	}
	everySecond := func(count int) (ports []uint16) {
		for i := range count {
			ports = append(ports, uint16(2*i))
		}
		return ports
	}
	sets := [][]uint16{{80}, {1}, {65535}, {0}, {79, 80, 81}, {80, 1024}, {1, 65535}, open, everySecond(maxPortRanges)}
	for range 30 {
		sets = append(sets, open[random.IntN(len(open)/2):][:1+random.IntN(len(open)/2)])
		var scattered []uint16
		for range 1 + random.IntN(300) {
			scattered = append(scattered, uint16(random.IntN(65536)))
		}
		sets = append(sets, scattered, append(scattered, open[random.IntN(len(open))]))
	}
	for _, set := range sets {
		var got, want []uint16
		for _, port := range open {
			if slices.Contains(set, port) {
				want = append(want, port)
			}
		}
		err := listTCP(stateListening, portFilter(portRanges(set)), func(s tcpSocket) { got = append(got, s.local.Port()) })
		if err != nil {
			t.Fatalf("%d: %v", set, err)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of ports %d pass (-want +got):\n%s", set, diff)
		}
	}

	// Of too many, the kernel passes more, and the reader takes its choice.
	many := everySecond(5000)
	server := mustListenTCP(t, "tcp4", "127.0.0.1:2222")
	odd := mustListenTCP(t, "tcp4", "127.0.0.1:2223")
	_, wanted := connect(t, ownNamespace(t), server, "127.0.0.1:2222")
	connect(t, ownNamespace(t), odd, "127.0.0.1:2223")
	want := []Connection{{Local: netip.MustParseAddrPort("127.0.0.1:2222"), Remote: addrPort(wanted.LocalAddr())}}
	if diff := cmp.Diff(want, mustReadHost(t, HostQuery{Ports: many}).Connections, addresses()); diff != "" {
		t.Errorf("of %d ports (-want +got):\n%s", len(many), diff)
	}
}

func TestPortRanges(t *testing.T) {
	ranges := portRanges([]uint16{443, 80, 81, 80, 65535, 65534, 0, 82})
	want := []portRange{{0, 0}, {80, 82}, {443, 443}, {65534, 65535}}
	if diff := cmp.Diff(want, ranges, cmp.AllowUnexported(portRange{})); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
	for port, want := range map[uint16]bool{0: true, 1: false, 79: false, 80: true, 81: true, 82: true, 83: false, 443: true, 65533: false, 65534: true, 65535: true} {
		if contains(ranges, port) != want {
			t.Errorf("port %d is in them: %t", port, !want)
		}
	}
}
