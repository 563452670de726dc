// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the container of an egressLab has, and the world beyond the host's uplink.
var (
	container4, container6 = netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00:30::2")
	world4, world6         = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	containerSubnets       = []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")}
)

// Sizes of headers, in bytes.
const (
	ethernetHeader = 14
	ipv4Header     = 20
	ipv6Header     = 40
	udpHeader      = 8
)

// egressLab is a host, which is the calling goroutine's namespace, that routes between a container and the world. The world
// knows the way back, as a network does that routes a private subnet, or a lab.
type egressLab struct {
	container, world namespace
	uplink           Link
	egress           *Egresses
}

func newEgressLab(t *testing.T) *egressLab {
	t.Helper()
	enterFreshNetns(t)
	lab := &egressLab{container: newNamespace(t), world: newNamespace(t)}
	lab.uplink = vethPair(t, lab.world)
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "eth0"})
	move(t, "eth0", lab.container)
	addIPv6(t, "outside", "2001:db8::1/64")
	addAddress(t, "port", "172.30.0.1/24")
	addIPv6(t, "port", "fd00:30::1/64")
	setUp(t, "port")
	lab.container.do(t, func() {
		addAddress(t, "eth0", "172.30.0.2/24")
		addIPv6(t, "eth0", "fd00:30::2/64")
		setUp(t, "eth0")
		addRoutes(t, "172.30.0.1", "fd00:30::1")
	})
	lab.world.do(t, func() {
		addIPv6(t, "inside", "2001:db8::2/64")
		addRoutes(t, "192.0.2.1", "2001:db8::1")
		write(t, "/proc/sys/net/ipv4/ip_forward", "0") // as in the machine's first namespace, unless told otherwise
	})
	write(t, "/proc/sys/net/ipv4/ip_forward", "1")
	write(t, "/proc/sys/net/ipv6/conf/all/forwarding", "1")
	lab.awaitWay(t, container4, world4)
	lab.awaitWay(t, container6, world6)
	lab.egress = mustOpenEgress(t, EgressConfig{})
	lab.setSubnets(t, containerSubnets...)
	lab.setDevices(t, lab.uplink.Index)
	return lab
}

// awaitWay sends until something arrives: links and addresses are not usable at once.
func (l *egressLab) awaitWay(t *testing.T, from, to netip.Addr) {
	t.Helper()
	var arrivals *net.UDPConn
	l.world.do(t, func() { arrivals = mustListenUDP(t, netip.AddrPortFrom(to, 9).String()) })
	defer arrivals.Close()
	eventually(t, "the way from container to world is open", func() bool {
		l.sendFromContainer(t, from, to, 1, 1)
		if err := arrivals.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := arrivals.Read(make([]byte, 1))
		return err == nil
	})
}

func mustOpenEgress(tb testing.TB, config EgressConfig) *Egresses {
	tb.Helper()
	liftMemoryLimit(tb)
	egress, err := OpenEgress(config)
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, egress) })
	return egress
}

func (l *egressLab) setDevices(tb testing.TB, indexes ...int) {
	tb.Helper()
	if err := l.egress.SetDevices(indexes); err != nil {
		tb.Fatal(err)
	}
}

func (l *egressLab) setSubnets(tb testing.TB, subnets ...netip.Prefix) {
	tb.Helper()
	if err := l.egress.SetSubnets(subnets); err != nil {
		tb.Fatal(err)
	}
}

func (l *egressLab) read(tb testing.TB) []Egress {
	tb.Helper()
	return mustRead(tb, l.egress.Read)
}

// addIPv6 gives a link an address, and one of the link's own, by which a router looks for neighbours.
func addIPv6(tb testing.TB, name, address string) {
	tb.Helper()
	write(tb, "/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", "0")
	_, last, _ := strings.Cut(address, "::")
	for _, text := range []string{address, "fe80::" + last} {
		parsed, err := netlink.ParseAddr(text)
		if err != nil {
			tb.Fatal(err)
		}
		parsed.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(mustLink(tb, name), parsed); err != nil {
			tb.Fatal(err)
		}
	}
}

// addRoutes makes the gateways the way to everywhere.
func addRoutes(tb testing.TB, gateways ...string) {
	tb.Helper()
	for _, gateway := range gateways {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
			tb.Fatalf("route by %s: %v", gateway, err)
		}
	}
}

// rules are for the tool of an address's family.
func rules(tb testing.TB, of netip.Addr, arguments ...string) string {
	tb.Helper()
	tool := "iptables"
	if of.Is6() {
		tool = "ip6tables"
	}
	out, err := exec.Command(tool, append([]string{"-w"}, arguments...)...).CombinedOutput()
	if err != nil {
		tb.Errorf("%s %s: %v: %s", tool, strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

// countArrivals adds a rule that counts what comes to the world and matches, and returns what reads it.
func (l *egressLab) countArrivals(tb testing.TB, family netip.Addr, match ...string) func() Counts {
	tb.Helper()
	comment := fmt.Sprintf("mark%d", time.Now().UnixNano())
	l.world.do(tb, func() {
		rules(tb, family, append([]string{"-t", "raw", "-A", "PREROUTING", "-m", "comment", "--comment", comment}, match...)...)
	})
	return func() (counted Counts) {
		var list string
		l.world.do(tb, func() { list = rules(tb, family, "-t", "raw", "-L", "PREROUTING", "-v", "-x", "-n") })
		for line := range strings.Lines(list) {
			if !strings.Contains(line, comment) {
				continue
			}
			fields := strings.Fields(line)
			var err, err2 error
			counted.Skbs, err = strconv.ParseUint(fields[0], 10, 64)
			counted.Bytes, err2 = strconv.ParseUint(fields[1], 10, 64)
			if err != nil || err2 != nil {
				tb.Errorf("rule %q: %v, %v", line, err, err2)
			}
			return counted
		}
		tb.Errorf("no rule %s in %s", comment, list)
		return counted
	}
}

// sendFromContainer sends datagrams to port 9 of the world.
func (l *egressLab) sendFromContainer(tb testing.TB, from, to netip.Addr, count, size int) {
	tb.Helper()
	l.container.do(tb, func() {
		sendUDP(tb, mustListenUDP(tb, netip.AddrPortFrom(from, 0).String()), netip.AddrPortFrom(to, 9), count, size)
	})
}

// sumEgress sums up, and counts those that carried RST or FIN.
func sumEgress(egresses []Egress) (sum Counts, resets uint64) {
	for _, e := range egresses {
		sum.Add(e.Counts)
		resets += e.Resets
	}
	return sum, resets
}

// onTheWire adds to what a rule counts, which is without the link's header.
func (c Counts) onTheWire() Counts {
	c.Bytes += c.Skbs * ethernetHeader
	return c
}

var compareEgress = cmpopts.EquateComparable(Egress{})

func TestEgressEqualsRuleCounters(t *testing.T) {
	const count, size = 300, 100
	for _, tc := range []struct {
		name                    string
		container, world, other netip.Addr
		header                  uint64
	}{
		{"ipv4", container4, world4, netip.MustParseAddr("192.0.2.1"), ipv4Header},
		{"ipv6", container6, world6, netip.MustParseAddr("2001:db8::1"), ipv6Header},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newEgressLab(t)
			private := lab.countArrivals(t, tc.world, "-s", tc.container.String(), "-p", "udp")
			public := lab.countArrivals(t, tc.world, "-s", tc.other.String(), "-p", "udp")
			lab.sendFromContainer(t, tc.container, tc.world, count, size)
			sendUDP(t, mustListenUDP(t, netip.AddrPortFrom(tc.other, 4000).String()), netip.AddrPortFrom(tc.world, 9), 7, size)

			got := slices.DeleteFunc(lab.read(t), func(e Egress) bool { return e.Protocol == unix.IPPROTO_ICMPV6 })
			want := []Egress{{
				Device: lab.uplink.Index, Protocol: unix.IPPROTO_UDP, Source: tc.container, Destination: tc.world,
				Counts: Counts{Skbs: count, Packets: count, Bytes: count * (ethernetHeader + tc.header + udpHeader + size)},
			}}
			if diff := cmp.Diff(want, got, compareEgress); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if sum, _ := sumEgress(got); sum.withoutSegments() != private().onTheWire() {
				t.Errorf("counted %+v, %+v arrived", sum, private())
			}
			if arrived := public(); arrived.Skbs != 7 {
				t.Errorf("%d packets of the host arrived, want 7: that they are not counted proves nothing", arrived.Skbs)
			}
			if again := lab.read(t); len(again) != 0 {
				t.Errorf("counted again: %+v", again)
			}
		})
	}
}

func TestMasqueradedEgressIsNotCounted(t *testing.T) {
	for _, tc := range []struct {
		name             string
		container, world netip.Addr
		subnet, host     string
	}{
		{"ipv4", container4, world4, "172.30.0.0/24", "192.0.2.1"},
		{"ipv6", container6, world6, "fd00:30::/64", "2001:db8::1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newEgressLab(t)
			translated := lab.countArrivals(t, tc.world, "-s", tc.host, "-p", "udp")
			rules(t, tc.world, "-t", "nat", "-A", "POSTROUTING", "-s", tc.subnet, "-o", "outside", "-j", "MASQUERADE")
			lab.sendFromContainer(t, tc.container, tc.world, 20, 100)
			if arrived := translated(); arrived.Skbs != 20 {
				t.Fatalf("%d translated packets arrived, want 20", arrived.Skbs)
			}
			if got := lab.read(t); len(got) != 0 {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

// dialWorld opens a TCP connection from the container.
func (l *egressLab) dialWorld(tb testing.TB) (inside, outside *net.TCPConn) {
	tb.Helper()
	var listener net.Listener
	var err error
	l.world.do(tb, func() { listener, err = net.Listen("tcp", "192.0.2.2:80") })
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	var conn net.Conn
	l.container.do(tb, func() { conn, err = net.Dial("tcp", "192.0.2.2:80") })
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// What a container sends when it ends connections is told apart: alone, it is what NAT has forgotten.
func TestEgressTellsResets(t *testing.T) {
	for _, tc := range []struct {
		name   string
		linger int
		flag   string
	}{{"fin", -1, "FIN"}, {"rst", 0, "RST"}} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newEgressLab(t)
			all := lab.countArrivals(t, world4, "-s", container4.String())
			ends := lab.countArrivals(t, world4, "-s", container4.String(), "-p", "tcp", "--tcp-flags", tc.flag, tc.flag)
			for range 5 {
				inside, outside := lab.dialWorld(t)
				if err := inside.SetLinger(tc.linger); err != nil {
					t.Fatal(err)
				}
				mustClose(t, inside)
				if _, err := io.Copy(io.Discard, outside); tc.linger < 0 && err != nil {
					t.Fatal(err)
				}
				mustClose(t, outside)
			}
			var sum Counts
			var resets uint64
			eventually(t, "all is counted that arrived", func() bool {
				more, moreResets := sumEgress(lab.read(t))
				sum.Add(more)
				resets += moreResets
				return sum.withoutSegments() == all().onTheWire() && resets == ends().Skbs && resets >= 5
			})
			if resets == sum.Packets {
				t.Errorf("all %d packets pass for ends of connections", resets)
			}
		})
	}
}

func TestEgressCountsSegments(t *testing.T) {
	const size = 1 << 20
	lab := newEgressLab(t)
	all := lab.countArrivals(t, world4, "-s", container4.String())
	inside, outside := lab.dialWorld(t)
	go func() {
		defer inside.Close()
		if _, err := inside.Write(make([]byte, size)); err != nil {
			t.Error(err)
		}
	}()
	if n, err := io.Copy(io.Discard, outside); n != size || err != nil {
		t.Fatalf("received %d bytes: %v", n, err)
	}
	mustClose(t, outside)
	var sum Counts
	eventually(t, "all is counted that arrived", func() bool {
		more, _ := sumEgress(lab.read(t))
		sum.Add(more)
		return sum.withoutSegments() == all().onTheWire()
	})
	const segment = 1500 - 20 - 32 // with timestamps
	if sum.Packets < size/segment || sum.Packets <= sum.Skbs {
		t.Errorf("%d packets in %d skbs, want at least %d packets in fewer skbs", sum.Packets, sum.Skbs, size/segment)
	}
}

// A packet passes the link that it is routed to and those below it. It counts at the former.
func TestEgressCountsOnceOnStackedLinks(t *testing.T) {
	inBytes := false
	for _, tc := range []struct {
		name  string
		stack func(lower int) netlink.Link
	}{
		{"macvlan", func(lower int) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "top", ParentIndex: lower}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		}},
		{"vlan", func(lower int) netlink.Link {
			return &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "top", ParentIndex: lower}, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		}},
		{"vlan whose tag is in the bytes", func(lower int) netlink.Link {
			return &netlink.Vlan{
				LinkAttrs: netlink.LinkAttrs{Name: "top", ParentIndex: lower}, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
				ReorderHdr: &inBytes,
			}
		}},
		{"bond", func(int) netlink.Link {
			bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: "top"})
			bond.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
			bond.Miimon = 10
			return bond
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newEgressLab(t)
			if out, err := exec.Command("ethtool", "-K", "outside", "txvlan", "off").CombinedOutput(); err != nil {
				t.Fatalf("leave tags to software: %v: %s", err, out)
			}
			top := tc.stack(lab.uplink.Index)
			if err := netlink.LinkAdd(top); errors.Is(err, unix.EOPNOTSUPP) {
				return // not in this kernel; it is in those that make test-kernels runs
			} else if err != nil {
				t.Fatal(err)
			}
			if top.Type() == "bond" {
				if err := errors.Join(netlink.LinkSetDown(mustLink(t, "outside")), netlink.LinkSetMaster(mustLink(t, "outside"), top)); err != nil {
					t.Fatal(err)
				}
				setUp(t, "outside")
			}
			setUp(t, "top")
			addAddress(t, "top", "203.0.113.1/24")
			_, way, _ := net.ParseCIDR("198.51.100.0/24")
			gateway := net.HardwareAddr{2, 0, 0, 0, 0, 9}
			lab.world.do(t, func() { gateway = mustLink(t, "inside").Attrs().HardwareAddr })
			err := errors.Join(
				netlink.NeighAdd(&netlink.Neigh{
					LinkIndex: mustLink(t, "top").Attrs().Index, IP: net.ParseIP("203.0.113.2"), HardwareAddr: gateway, State: netlink.NUD_PERMANENT,
				}),
				netlink.RouteAdd(&netlink.Route{Dst: way, Gw: net.ParseIP("203.0.113.2")}),
			)
			if err != nil {
				t.Fatal(err)
			}
			if top.Type() == "bond" {
				eventually(t, "the bond carries", func() bool { return mustLink(t, "top").Attrs().OperState == netlink.OperUp })
			}
			lab.setDevices(t, lab.uplink.Index, mustLink(t, "top").Attrs().Index)
			lab.sendFromContainer(t, container4, netip.MustParseAddr("198.51.100.2"), 10, 100)
			bytes := uint64(10 * (ethernetHeader + ipv4Header + udpHeader + 100))
			if vlan, ok := top.(*netlink.Vlan); ok && vlan.ReorderHdr != nil {
				bytes += 10 * 4
			}
			want := []Egress{{
				Device: mustLink(t, "top").Attrs().Index, Protocol: unix.IPPROTO_UDP, Source: container4,
				Destination: netip.MustParseAddr("198.51.100.2"), Counts: Counts{Skbs: 10, Packets: 10, Bytes: bytes},
			}}
			if diff := cmp.Diff(want, lab.read(t), compareEgress); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A tunnel has no Ethernet header.
func TestEgressByTunnel(t *testing.T) {
	lab := newEgressLab(t)
	tunnel := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "tunnel"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1,
		Flags: netlink.TUNTAP_DEFAULTS | netlink.TUNTAP_NO_PI,
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		if out, err := exec.Command("modprobe", "tun").CombinedOutput(); err != nil {
			t.Fatalf("modprobe tun: %v: %s", err, out)
		}
	}
	addLink(t, tunnel)
	defer mustClose(t, tunnel.Fds[0])
	setUp(t, "tunnel")
	addAddress(t, "tunnel", "203.0.113.1/24")
	index := mustLink(t, "tunnel").Attrs().Index
	lab.setDevices(t, lab.uplink.Index, index)
	lab.sendFromContainer(t, container4, netip.MustParseAddr("203.0.113.2"), 10, 100)
	var read uint64
	buffer := make([]byte, 2000)
	for read < 10 {
		n, err := tunnel.Fds[0].Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if source, _ := netip.AddrFromSlice(buffer[12:16]); n == ipv4Header+udpHeader+100 && source == container4 {
			read++
		}
	}
	want := []Egress{{
		Device: index, Protocol: unix.IPPROTO_UDP, Source: container4, Destination: netip.MustParseAddr("203.0.113.2"),
		Counts: Counts{Skbs: read, Packets: read, Bytes: read * (ipv4Header + udpHeader + 100)},
	}}
	if diff := cmp.Diff(want, lab.read(t), compareEgress); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Links come and go: those of the last call are watched, those that are not there do not matter.
func TestEgressFollowsDevices(t *testing.T) {
	const ghost = 4711
	lab := newEgressLab(t)
	late := newNamespace(t)
	to := netip.MustParseAddr("203.0.113.2")
	addUplink := func() int {
		addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "late"}, PeerName: "far"})
		move(t, "far", late)
		addAddress(t, "late", "203.0.113.1/24")
		setUp(t, "late")
		late.do(t, func() {
			addAddress(t, "far", "203.0.113.2/24")
			setUp(t, "far")
		})
		return mustLink(t, "late").Attrs().Index
	}
	wantSkbs := func(device int, want uint64) {
		t.Helper()
		sum, _ := sumEgress(slices.DeleteFunc(lab.read(t), func(e Egress) bool { return e.Device != device }))
		if sum.Skbs != want {
			t.Errorf("%d packets by link %d, want %d", sum.Skbs, device, want)
		}
	}

	index := addUplink()
	lab.sendFromContainer(t, container4, to, 10, 100)
	eventually(t, "the datagrams, and an ARP request, have left", func() bool {
		return mustLink(t, "late").Attrs().Statistics.TxPackets == 11
	})
	lab.setDevices(t, lab.uplink.Index, index, ghost)
	if before := lossesAt(t, lab.egress.Losses, "before_attach"); before != 11 {
		t.Errorf("before_attach = %d, want 11", before)
	}
	lab.sendFromContainer(t, container4, to, 11, 100)
	wantSkbs(index, 11)

	lab.setDevices(t, lab.uplink.Index)
	lab.sendFromContainer(t, container4, to, 12, 100)
	wantSkbs(index, 0)

	lab.setDevices(t, lab.uplink.Index, index)
	if before := lossesAt(t, lab.egress.Losses, "before_attach"); before != 11 {
		t.Errorf("before_attach = %d, want 11: it was watched before", before)
	}
	lab.sendFromContainer(t, container4, to, 13, 100)
	deleteLink(t, "late")
	lab.setDevices(t, lab.uplink.Index)
	wantSkbs(index, 13)
	again := addUplink()
	lab.setDevices(t, lab.uplink.Index, again)
	lab.sendFromContainer(t, container4, to, 14, 100)
	eventually(t, "the datagrams, and an ARP request, have left", func() bool {
		return mustLink(t, "late").Attrs().Statistics.TxPackets == 15
	})
	wantSkbs(again, 14)
	if diff := cmp.Diff(map[string]int{"uplink": 2}, lab.egress.Devices()); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	lab.sendFromContainer(t, container4, world4, 15, 100)
	wantSkbs(lab.uplink.Index, 15)
}

// An agent that was killed leaves its filter where there is no tcx. The next one takes its place, and neither disturbs the
// flow signal on the same link.
func TestEgressAfterKill(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			lab := newEgressLab(t)
			clsact := clsact || !haveTCX(t)
			lab.setDevices(t)
			lab.egress.clsact = clsact
			lab.setDevices(t, lab.uplink.Index)
			flows := mustOpenFlows(t, 0)
			flows.clsact = clsact
			mustWatchOutside(t, flows, lab.uplink, false)
			if !clsact {
				lab.setDevices(t) // what the kernel does with the links of a process that ends
			}
			lab.egress = mustOpenEgress(t, EgressConfig{})
			lab.egress.clsact = clsact
			lab.setSubnets(t, containerSubnets...)
			lab.setDevices(t, lab.uplink.Index)
			lab.sendFromContainer(t, container4, world4, 10, 100)
			if sum, _ := sumEgress(lab.read(t)); sum.Skbs != 10 {
				t.Errorf("%d packets, want 10", sum.Skbs)
			}
			if rx, _ := carried(of(mustRead(t, flows.Read), DeviceID(lab.uplink.Index))); rx.Skbs < 10 {
				t.Errorf("the flow signal counted %d packets, want at least 10", rx.Skbs)
			}
			if !clsact {
				return
			}
			if got := filters(t, "outside"); len(got) != 3 {
				t.Errorf("filters %q, want the flow signal's two and one", got)
			}
			if cleaned := mustRead(t, DetachLeftovers); !slices.Equal(cleaned, []string{"outside"}) || hasClsact(t, "outside") {
				t.Errorf("cleaned %q, clsact left: %t", cleaned, hasClsact(t, "outside"))
			}
		})
	}
}

// While subnets are replaced, those that stay are never missing.
func TestSetSubnetsMissesNothing(t *testing.T) {
	lab := newEgressLab(t)
	arrived := lab.countArrivals(t, world4, "-s", container4.String(), "-p", "udp")
	var stop atomic.Bool
	var replacing sync.WaitGroup
	replacing.Go(func() {
		for i := 0; !stop.Load(); i++ {
			set := append(slices.Clone(containerSubnets), netip.MustParsePrefix(fmt.Sprintf("172.30.%d.0/24", i%200+1)))
			if i%2 == 0 {
				slices.Reverse(set)
				set = append(set, netip.MustParsePrefix("172.30.0.0/29"), netip.MustParsePrefix("172.0.0.0/8"))
			}
			if err := lab.egress.SetSubnets(set); err != nil {
				t.Error(err)
				return
			}
		}
	})
	lab.sendFromContainer(t, container4, world4, 20_000, 10)
	stop.Store(true)
	replacing.Wait()
	if sum, _ := sumEgress(lab.read(t)); sum.withoutSegments() != arrived().onTheWire() || sum.Skbs != 20_000 {
		t.Errorf("counted %+v, %+v arrived of 20000", sum, arrived())
	}
}

func TestSetSubnetsReplaces(t *testing.T) {
	lab := newEgressLab(t)
	for _, tc := range []struct {
		name    string
		subnets []string
		err     string
		want    uint64 // of 3 packets of each family
	}{
		{"of both families", []string{"172.30.0.0/24", "fd00:30::/64"}, "", 6},
		{"with bits set beyond", []string{"172.30.0.77/24", "fd00:30::77/64"}, "", 6},
		{"none", nil, "", 0},
		{"one family", []string{"fd00:30::/64"}, "", 3},
		{"twice the same", []string{"172.30.0.0/24", "172.30.0.0/24"}, "", 3},
		{"wide", []string{"172.16.0.0/12", "fd00::/8"}, "", 6},
		{"wider than the first look", []string{"0.0.0.0/0", "8000::/1"}, "", 6},
		{"single addresses", []string{"172.30.0.2/32", "fd00:30::2/128"}, "", 6},
		{"next to it", []string{"172.30.0.4/30", "172.30.1.0/24", "fd00:30:0:1::/64"}, "", 0},
		{"of IPv4 in IPv6", []string{"172.30.0.0/24", "::ffff:172.30.0.0/120"}, "set subnets: ::ffff:172.30.0.0/120 is no subnet of IPv4 or IPv6", 0},
		{"all of both", []string{"::/0"}, "set subnets: ::/0 is no subnet of IPv4 or IPv6", 0},
		{"invalid", []string{""}, "set subnets: invalid Prefix is no subnet of IPv4 or IPv6", 0},
		{"after errors", []string{"172.30.0.0/24", "fd00:30::/64"}, "", 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var subnets []netip.Prefix
			for _, text := range tc.subnets {
				subnet, err := netip.ParsePrefix(text)
				if err != nil && text != "" {
					if subnet, err = mappedPrefix(text); err != nil {
						t.Fatal(err)
					}
				}
				subnets = append(subnets, subnet)
			}
			if err := lab.egress.SetSubnets(subnets); err == nil && tc.err != "" || err != nil && err.Error() != tc.err {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			lab.sendFromContainer(t, container4, world4, 3, 10)
			lab.sendFromContainer(t, container6, world6, 3, 10)
			got := slices.DeleteFunc(lab.read(t), func(e Egress) bool { return e.Protocol != unix.IPPROTO_UDP })
			if sum, _ := sumEgress(got); sum.Skbs != tc.want {
				t.Errorf("%d packets, want %d", sum.Skbs, tc.want)
			}
		})
	}
	if usage := lab.egress.Usage()[2]; usage.Map != "egress_subnets" || usage.Entries != 2 || usage.Capacity != 8192 {
		t.Errorf("usage %+v", usage)
	}
}

// mappedPrefix makes what the parser refuses.
func mappedPrefix(text string) (netip.Prefix, error) {
	address, bits, _ := strings.Cut(text, "/")
	parsed, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	length, err := strconv.Atoi(bits)
	return netip.PrefixFrom(parsed, length), err
}

func TestSetSubnetsRefusesTooMany(t *testing.T) {
	lab := newEgressLab(t)
	many := make([]netip.Prefix, 0, 8193)
	for i := range 8193 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	want := "set subnets: 8193 are too many, the limit is 8192"
	if err := lab.egress.SetSubnets(many); err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	lab.sendFromContainer(t, container4, world4, 3, 10)
	if sum, _ := sumEgress(lab.read(t)); sum.Skbs != 3 {
		t.Errorf("%d packets, want 3: the subnets before are gone", sum.Skbs)
	}
	lab.setSubnets(t, many[:8192]...)
	lab.setSubnets(t, containerSubnets...)
}

// rawSocket sends IPv4 packets as they are given, by the host's routes.
func rawSocket(tb testing.TB) (send func(packet []byte)) {
	tb.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(socket) })
	return func(packet []byte) {
		tb.Helper()
		if err := unix.Sendto(socket, packet, 0, &unix.SockaddrInet4{Addr: world4.As4()}); err != nil {
			tb.Fatalf("send %x: %v", packet, err)
		}
	}
}

// packet4 is an IPv4 packet to the world.
func packet4(source netip.Addr, protocol byte, fragmentOffset byte, rest ...byte) []byte {
	p := make([]byte, ipv4Header, ipv4Header+len(rest))
	p[0], p[5], p[7], p[8], p[9] = 0x45, 9, fragmentOffset, 64, protocol
	copy(p[12:], source.AsSlice())
	copy(p[16:], world4.AsSlice())
	return append(p, rest...)
}

// Fragments and packets that end too early count like others. They have no flags that could be believed.
func TestEgressOfBrokenPackets(t *testing.T) {
	lab := newEgressLab(t)
	send := rawSocket(t)
	tcpHeader := make([]byte, 20)
	tcpHeader[13] = 0x04 // RST
	for _, tc := range []struct {
		name     string
		packet   []byte
		resets   uint64
		unparsed uint64
	}{
		{"whole", packet4(container4, unix.IPPROTO_TCP, 0, tcpHeader...), 1, 0},
		{"cut before the flags", packet4(container4, unix.IPPROTO_TCP, 0, tcpHeader[:13]...), 0, 1},
		{"nothing of TCP", packet4(container4, unix.IPPROTO_TCP, 0), 0, 1},
		{"a later fragment", packet4(container4, unix.IPPROTO_TCP, 3, tcpHeader...), 0, 0},
		{"unknown protocol", packet4(container4, 254, 0), 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := lossesAt(t, lab.egress.Losses, "unparsed")
			send(tc.packet)
			want := []Egress{{
				Device: lab.uplink.Index, Protocol: tc.packet[9], Source: container4, Destination: world4, Resets: tc.resets,
				Counts: Counts{Skbs: 1, Packets: 1, Bytes: uint64(ethernetHeader + len(tc.packet))},
			}}
			if diff := cmp.Diff(want, lab.read(t), compareEgress); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if unparsed := lossesAt(t, lab.egress.Losses, "unparsed") - before; unparsed != tc.unparsed {
				t.Errorf("unparsed: %d more, want %d", unparsed, tc.unparsed)
			}
		})
	}
}

// Datagrams larger than the link count as the fragments that leave.
func TestEgressOfFragments(t *testing.T) {
	const datagrams, fragments, size = 5, 3, 4000
	lab := newEgressLab(t)
	before := mustLink(t, "outside").Attrs().Statistics
	lab.sendFromContainer(t, container4, world4, datagrams, size)
	after := mustLink(t, "outside").Attrs().Statistics
	sum, _ := sumEgress(lab.read(t))
	sent := Counts{Skbs: after.TxPackets - before.TxPackets, Bytes: after.TxBytes - before.TxBytes}
	if sum.withoutSegments() != sent || sum.Skbs != datagrams*fragments {
		t.Errorf("counted %+v, the link sent %+v, want %d fragments", sum, sent, datagrams*fragments)
	}
}

// Whatever leaves, in whatever subnet: it goes on to the next program.
func TestEgressPassesBrokenFramesOn(t *testing.T) {
	egress := mustOpenEgress(t, EgressConfig{})
	if err := egress.SetSubnets([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/32")}); err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Concat(samples(t), brokenFrames(t)) {
		mustPassOn(t, egress.objects.Program, s.frame)
	}
	if got := mustRead(t, egress.Read); len(got) != 0 {
		t.Errorf("counted what no route leads anywhere: %+v", got)
	}
}

func TestEgressFullTableKeepsTotals(t *testing.T) {
	const size, count = 16, 100
	lab := newEgressLab(t)
	lab.egress = mustOpenEgress(t, EgressConfig{TableSize: size})
	lab.setSubnets(t, containerSubnets...)
	lab.setDevices(t, lab.uplink.Index)
	for round := range uint64(2) {
		arrived := lab.countArrivals(t, world4, "-s", "172.30.0.0/24")
		send := rawSocket(t)
		for i := range count {
			send(packet4(netip.AddrFrom4([4]byte{172, 30, 0, byte(10 + i)}), 254, 0))
		}
		read := lab.read(t)
		known := slices.DeleteFunc(slices.Clone(read), func(e Egress) bool { return !e.Source.IsValid() })
		sum, _ := sumEgress(read)
		if len(known) != size || len(read) != size+1 || sum.withoutSegments() != arrived().onTheWire() || sum.Skbs != count {
			t.Errorf("%d entries, %d with a source, %+v in all; %+v arrived", len(read), len(known), sum, arrived())
		}
		if rest := read[len(read)-1]; rest.Device != lab.uplink.Index || rest.Destination.IsValid() || rest.Counts.Skbs != count-size {
			t.Errorf("the rest is %+v", rest)
		}
		if full := lossesAt(t, lab.egress.Losses, "table_full"); full != (round+1)*(count-size) {
			t.Errorf("table_full = %d in round %d, want %d more each", full, round, count-size)
		}
		if lost := lossesAt(t, lab.egress.Losses, "lost"); lost != 0 {
			t.Errorf("lost = %d", lost)
		}
	}
	if usage := lab.egress.Usage()[0]; usage != (MapUsage{Map: "egresses", Entries: size, Capacity: size}) {
		t.Errorf("usage %+v", usage)
	}
}

// A packet sent while the tables are read is in one reading or the next.
func TestEgressReadLosesNothing(t *testing.T) {
	lab := newEgressLab(t)
	arrived := lab.countArrivals(t, world4, "-s", container4.String(), "-p", "udp")
	var sum Counts
	var stop atomic.Bool
	var reading sync.WaitGroup
	reading.Go(func() {
		for !stop.Load() {
			read, err := lab.egress.Read()
			if err != nil {
				t.Error(err)
				return
			}
			more, _ := sumEgress(read)
			sum.Add(more)
		}
	})
	lab.sendFromContainer(t, container4, world4, 20_000, 10)
	stop.Store(true)
	reading.Wait()
	rest, _ := sumEgress(lab.read(t))
	sum.Add(rest)
	if sum.withoutSegments() != arrived().onTheWire() || sum.Skbs != 20_000 {
		t.Errorf("counted %+v, %+v arrived", sum, arrived())
	}
}
