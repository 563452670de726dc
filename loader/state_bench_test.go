// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkReadHost is what it costs to read all of a host's state: of one with nothing on it, and of one with a thousand
// containers, a hundred published ports and twenty thousand TCP sockets, of which a thousand are on these ports.
func BenchmarkReadHost(b *testing.B) {
	var query HostQuery
	for i := range 100 {
		query.Ports = append(query.Ports, uint16(8000+2*i))
	}
	b.Run("idle", func(b *testing.B) {
		enterFreshNetns(b)
		for b.Loop() {
			mustReadHost(b, query)
		}
	})
	b.Run("busy", func(b *testing.B) {
		enterFreshNetns(b)
		containers(b, 1000)
		closedConnections(b, 8000, 1000)
		closedConnections(b, 7999, 19_000)
		for b.Loop() {
			mustReadHost(b, query)
		}
	})
}

// BenchmarkReadNetns is what it costs to read one container's counters.
func BenchmarkReadNetns(b *testing.B) {
	pid := startContainer(b).Process.Pid
	for b.Loop() {
		mustReadNetns(b, pid)
	}
}

// containers makes a bridge with ports whose other ends are in another namespace, and a neighbour behind each.
func containers(b *testing.B, count int) {
	b.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
	addLink(b, bridge)
	setUp(b, "br")
	inside := newNamespace(b)
	for i := range count {
		addLink(b, &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("veth", i), MasterIndex: bridge.Index, Flags: net.FlagUp},
			PeerName:  fmt.Sprint("eth", i), PeerNamespace: netlink.NsFd(inside.file.Fd()),
		})
		err := netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: bridge.Index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
			IP: net.IPv4(10, 0, byte(i>>8), byte(i)), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// closedConnections leaves sockets in TIME_WAIT on a port, each from a remote port of its own.
func closedConnections(b *testing.B, port, count int) {
	b.Helper()
	write(b, "/proc/sys/net/ipv4/tcp_max_tw_buckets", "1000000")
	server := mustListenTCP(b, "tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)).String())
	for i := range count {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10_000 + i}}
		client, err := from.Dial("tcp", server.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		accepted, err := server.Accept()
		if err != nil {
			b.Fatal(err)
		}
		mustClose(b, accepted)
		mustClose(b, client)
	}
}
