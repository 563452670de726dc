// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// told is what the program has told of one namespace.
type told struct {
	program  *natProgram
	netns    Netns
	opened   []NATEvent
	answered []NATEvent
}

// mustOpenNATProgram takes a namespace for the host's.
func mustOpenNATProgram(tb testing.TB, host namespace, config NATConfig) *natProgram {
	tb.Helper()
	liftMemoryLimit(tb)
	inode := host.inode(tb)
	var program *natProgram
	var err error
	host.do(tb, func() {
		if program, err = openNATProgram(config, inode); err == nil {
			err = program.local.open()
		}
	})
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, program) })
	return program
}

// openNATProgramIn takes n for the host's namespace, and keeps what is told of n alone.
func openNATProgramIn(tb testing.TB, n namespace, config NATConfig) *told {
	tb.Helper()
	return &told{program: mustOpenNATProgram(tb, n, config), netns: n.netns(tb)}
}

func (r *told) read(tb testing.TB) {
	tb.Helper()
	err := r.program.read(gatherLimit, func(record natRecord) {
		switch {
		case record.Netns != r.netns:
		case record.answered:
			r.answered = append(r.answered, record.NATEvent)
		default:
			r.opened = append(r.opened, record.NATEvent)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// await reads until that many are told, and gives more a chance.
func (r *told) await(tb testing.TB, opened, answered int) {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if r.read(tb); len(r.opened) >= opened && len(r.answered) >= answered {
			break
		}
	}
	time.Sleep(50 * time.Millisecond)
	if r.read(tb); len(r.opened) != opened || len(r.answered) != answered {
		tb.Errorf("told that %d were opened and %d answered, want %d and %d", len(r.opened), len(r.answered), opened, answered)
	}
}

func connectionsOf(events []NATEvent) map[connection]int {
	found := make(map[connection]int)
	for i := range events {
		found[connectionOf(&events[i].Tracked)]++
	}
	return found
}

// echo answers datagrams that come to an address of the namespace.
func echo(tb testing.TB, n namespace, address netip.AddrPort) {
	tb.Helper()
	n.do(tb, func() {
		conn := mustListenUDP(tb, address.String())
		go func() {
			buffer := make([]byte, 2048)
			for {
				size, from, err := conn.ReadFromUDPAddrPort(buffer)
				if err != nil {
					return // it is closed
				}
				_, _ = conn.WriteToUDPAddrPort(buffer[:size], from)
			}
		}()
	})
}

func TestOpenNATProgram(t *testing.T) {
	program := openNATProgramIn(t, newNamespace(t), NATConfig{}).program
	if fd := program.filterFD(); fd < 0 {
		t.Errorf("filter's descriptor is %d", fd)
	}
	costs, err := program.costs()
	if err != nil || len(costs) != 2 || costs[0].Program != "nat_net_dev_queue" || costs[1].Program != "nat_filter_events" {
		t.Errorf("costs %+v, %v", costs, err)
	}
	for _, place := range []string{"ring_full", "recursion", "not_remembered", "not_awaited"} {
		lossesAt(t, program.losses, place)
	}
	if _, err := openNATProgram(NATConfig{RingSize: 5000}, 1); err == nil || !strings.Contains(err.Error(), "ring") {
		t.Errorf("a ring of 5000 bytes: %v", err)
	}
}

// Every connection is told with what conntrack and the rules know of it, and if it is answered, that too.
func TestNATProgramTellsTranslated(t *testing.T) {
	const count = 50
	for _, family := range []string{"ipv4", "ipv6"} {
		router, world, container := router4, world4, container4
		if family == "ipv6" {
			router, world, container = router6, world6, container6
		}
		literal := func(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
		for _, tc := range []struct {
			name, rule string
			from       string // a namespace of the lab
			to         netip.AddrPort
			protocols  []string
			answers    int    // connections of each protocol, but for sctp
			device     string // of the router
			want       Tracked
		}{
			{"masquerade", "-A POSTROUTING -o outside -j MASQUERADE", "container", netip.AddrPortFrom(world, 80),
				[]string{"tcp", "udp", "icmp", "sctp"}, count, "outside", Tracked{SourceNAT: true, Masqueraded: On}},
			{"refused", "-A POSTROUTING -o outside -j MASQUERADE", "container", netip.AddrPortFrom(world, 9),
				[]string{"tcp", "udp"}, 0, "outside", Tracked{SourceNAT: true, Masqueraded: On}},
			{"snat", "-A POSTROUTING -o outside -j SNAT --to-source " + router.String(), "container", netip.AddrPortFrom(world, 80),
				[]string{"tcp", "udp"}, count, "outside", Tracked{SourceNAT: true, Masqueraded: Off}},
			{"dnat", "-A PREROUTING -i outside -j DNAT --to-destination " + container.String(), "world", netip.AddrPortFrom(router, 80),
				[]string{"tcp", "udp", "icmp", "sctp"}, count, "port", Tracked{DestinationNAT: true, Masqueraded: Off}},
			{"dnat of the port", "-A PREROUTING -i outside -p tcp -j DNAT --to-destination " + literal(container, 80), "world",
				netip.AddrPortFrom(router, 8080), []string{"tcp"}, count, "port", Tracked{DestinationNAT: true, Masqueraded: Off}},
			{"dnat of the host's own udp", "-A OUTPUT -p udp -j DNAT --to-destination " + literal(container, 80), "router",
				netip.AddrPortFrom(router, 8080), []string{"udp"}, count, "port", Tracked{DestinationNAT: true, Masqueraded: Off, Local: true}},
			{"dnat of the host's own tcp", "-A OUTPUT -p tcp -j DNAT --to-destination " + literal(container, 80), "router",
				netip.AddrPortFrom(router, 8080), []string{"tcp"}, count, "port", Tracked{DestinationNAT: true, Masqueraded: Off, Local: true}},
			{"dnat of the host's own, refused", "-A OUTPUT -j DNAT --to-destination " + container.String(), "router",
				netip.AddrPortFrom(router, 9), []string{"tcp", "udp"}, 0, "port", Tracked{DestinationNAT: true, Masqueraded: Off, Local: true}},
		} {
			t.Run(family+"/"+tc.name, func(t *testing.T) {
				lab := newNATLab(t)
				lab.translate(t, router, tc.rule)
				for n, address := range map[namespace]netip.Addr{lab.world: world, lab.container: container} {
					n.do(t, func() { listen(t, 80) })
					echo(t, n, netip.AddrPortFrom(address, 80))
				}
				r := openNATProgramIn(t, lab.router, NATConfig{})
				from := map[string]namespace{"container": lab.container, "world": lab.world, "router": lab.router}[tc.from]
				before := time.Now()
				from.do(t, func() {
					for _, protocol := range tc.protocols {
						openers[protocol](t, tc.to, count)
					}
				})
				answers := tc.answers * len(tc.protocols)
				if slices.Contains(tc.protocols, "sctp") {
					answers -= count // nobody speaks it
				}
				r.await(t, count*len(tc.protocols), answers)
				want := translatedOf(lab.conntrack(t))
				if tc.answers == 0 { // a refused one is no longer in the table
					want = connectionsOf(r.opened)
				}
				if diff := cmp.Diff(want, connectionsOf(r.opened)); diff != "" {
					t.Errorf("opened (-want +got):\n%.2000s", diff)
				}
				for c, n := range connectionsOf(r.answered) {
					if n != 1 || want[c] != 1 {
						t.Errorf("%+v was answered %d times", c, n)
					}
				}
				wantEvent := tc.want
				wantEvent.Netns, wantEvent.NetnsID = r.netns, -1
				if !hasNATTypes() {
					wantEvent.Masqueraded = Absent
				}
				lab.router.do(t, func() { wantEvent.Device = mustLink(t, tc.device).Attrs().Index })
				for _, e := range append(r.opened, r.answered...) {
					if diff := cmp.Diff(wantEvent, e.Tracked, cmpopts.IgnoreFields(Tracked{}, "Protocol", "Original", "Reply")); diff != "" {
						t.Fatalf("%+v (-want +got):\n%s", e, diff)
					}
					if e.At.Before(before) || e.At.After(time.Now()) {
						t.Errorf("told to be at %s, it is %s", e.At, time.Now())
					}
				}
			})
		}
	}
}

// What is redirected to a process of the namespace itself never leaves it: only the answers do.
func TestNATProgramTellsRedirected(t *testing.T) {
	const count = 50
	lab := newNATLab(t)
	lab.translate(t, router4, "-A PREROUTING -i outside -p tcp -j REDIRECT --to-ports 80")
	lab.translate(t, router4, "-A PREROUTING -i outside -p udp -j REDIRECT --to-ports 53")
	lab.router.do(t, func() { listen(t, 80) })
	echo(t, lab.router, netip.AddrPortFrom(router4, 53))
	r := openNATProgramIn(t, lab.router, NATConfig{})
	lab.world.do(t, func() {
		openTCP(t, netip.AddrPortFrom(router4, 8080), count)
		openUDP(t, netip.AddrPortFrom(router4, 5353), count)
	})
	r.await(t, 0, 2*count)
	if diff := cmp.Diff(translatedOf(lab.conntrack(t)), connectionsOf(r.answered)); diff != "" {
		t.Errorf("answered (-want +got):\n%.2000s", diff)
	}
}

// Chunks of SCTP with which a server answers the first one, INIT.
const (
	sctpInitAck = 2
	sctpAbort   = 6
)

// answerSCTP has the namespace answer those who want to speak SCTP, as this kernel may not.
func answerSCTP(tb testing.TB, n namespace, chunk byte) {
	tb.Helper()
	n.do(tb, func() {
		conn, err := net.ListenIP("ip4:132", nil)
		if err != nil {
			tb.Error(err)
			return
		}
		tb.Cleanup(func() { conn.Close() })
		go func() {
			question := make([]byte, 2048)
			for {
				size, from, err := conn.ReadFromIP(question)
				if err != nil {
					return // it is closed
				}
				if size < 20 {
					continue
				}
				answer := slices.Concat(question[2:4], question[0:2], question[16:20], make([]byte, 4)) // ports, tag, checksum
				if chunk == sctpInitAck {
					answer = append(answer, chunk, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
				} else {
					answer = append(answer, chunk, 0, 0, 4)
				}
				binary.LittleEndian.PutUint32(answer[8:], crc32.Checksum(answer, crc32.MakeTable(crc32.Castagnoli)))
				_, _ = conn.WriteToIP(answer, from)
			}
		}()
	})
}

func TestNATProgramTellsAnswersOfSCTP(t *testing.T) {
	const count = 10
	for _, tc := range []struct {
		name     string
		chunk    byte
		answered int
	}{
		{"accepted", sctpInitAck, count},
		{"refused", sctpAbort, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newNATLab(t)
			lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
			answerSCTP(t, lab.container, tc.chunk)
			r := openNATProgramIn(t, lab.router, NATConfig{})
			lab.world.do(t, func() { openSCTP(t, netip.AddrPortFrom(router4, 3868), count) })
			eventually(t, "all are answered somehow", func() bool {
				var list string
				lab.router.do(t, func() { list = run(t, "conntrack", "-L", "-p", "sctp") })
				return strings.Count(list, "src=") == 2*count && !strings.Contains(list, "UNREPLIED")
			})
			r.await(t, count, tc.answered)
		})
	}
}

// bridged puts the container's port into a bridge, as Docker does: what goes there passes two devices.
func (l *natLab) bridged(tb testing.TB) {
	tb.Helper()
	l.router.do(tb, func() {
		addLink(tb, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}})
		if err := netlink.LinkSetMaster(mustLink(tb, "port"), mustLink(tb, "bridge")); err != nil {
			tb.Error(err)
		}
		run(tb, "ip", "address", "del", "172.30.0.1/24", "dev", "port")
		addAddress(tb, "bridge", "172.30.0.1/24")
		setUp(tb, "bridge")
	})
}

// arrived is what a rule of the container's has dropped.
func (l *natLab) arrived(tb testing.TB) (count int) {
	l.container.do(tb, func() {
		fields := strings.Fields(strings.Split(rules(tb, router4, "-L", "INPUT", "-v", "-x", "-n"), "\n")[2])
		var err error
		if count, err = strconv.Atoi(fields[0]); err != nil {
			tb.Error(err)
		}
	})
	return count
}

// connectFrom begins a connection from a port of the calling thread's namespace that others may have had.
func connectFrom(tb testing.TB, from uint16, to netip.AddrPort) (closer func()) {
	tb.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil { // ended by RST, it leaves nothing behind that would keep the port
		err = unix.SetsockoptLinger(socket, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrInet4{Port: int(from)})
	}
	if err == nil {
		err = unix.Connect(socket, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err != nil && err != unix.EINPROGRESS {
		tb.Errorf("connect from port %d to %s: %v", from, to, err)
	}
	return func() { _ = unix.Close(socket) }
}

// However often a packet is sent again, and whatever devices it passes, its connection is one.
func TestNATProgramTellsOnce(t *testing.T) {
	const port, sent = 4321, 5
	for _, tc := range []struct {
		protocol string
		send     func(tb testing.TB, to netip.AddrPort)
	}{
		{"udp", func(tb testing.TB, to netip.AddrPort) {
			from := mustListenUDP(tb, netip.AddrPortFrom(world4, port).String())
			sendUDP(tb, from, to, sent, 10)
		}},
		{"tcp", func(tb testing.TB, to netip.AddrPort) {
			for range sent { // not even the sequence number is the same
				connectFrom(tb, port, to)()
			}
		}},
	} {
		t.Run(tc.protocol, func(t *testing.T) {
			lab := newNATLab(t)
			lab.bridged(t)
			lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
			lab.container.do(t, func() {
				rules(t, router4, "-A", "INPUT", "-p", tc.protocol, "--dport", fmt.Sprint(port), "-j", "DROP")
			})
			r := openNATProgramIn(t, lab.router, NATConfig{})
			lab.world.do(t, func() { tc.send(t, netip.AddrPortFrom(router4, port)) })
			eventually(t, "all arrive", func() bool { return lab.arrived(t) == sent })
			r.await(t, 1, 0)
			if counted := lab.translated(t, router4, "PREROUTING"); counted != 1 {
				t.Errorf("the rule counted %d connections", counted)
			}
			lab.router.do(t, func() {
				if bridge := mustLink(t, "bridge").Attrs().Index; r.opened[0].Device != bridge {
					t.Errorf("by device %d, want the bridge, %d", r.opened[0].Device, bridge)
				}
			})
		})
	}
}

// What nobody answers stays new to the kernel, however long it lasts. It is not told again, even if it was forgotten
// meanwhile, as it is where there are too many; and it need not be looked up.
func TestNATProgramTellsStreamOnce(t *testing.T) {
	const port, sent = 4321, 5
	lab := newNATLab(t)
	lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
	lab.container.do(t, func() { rules(t, router4, "-A", "INPUT", "-p", "udp", "--dport", fmt.Sprint(port), "-j", "DROP") })
	r := openNATProgramIn(t, lab.router, NATConfig{})
	var from *net.UDPConn
	lab.world.do(t, func() { from = mustListenUDP(t, netip.AddrPortFrom(world4, port).String()) })
	sendUDP(t, from, netip.AddrPortFrom(router4, port), 1, 10)
	r.await(t, 1, 0)
	time.Sleep(stream)
	var name uint64
	forgotten := 0
	for connections := r.program.objects.Connections; connections.NextKey(nil, &name) == nil; forgotten++ {
		if err := connections.Delete(name); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // it ended
			t.Fatal(err)
		}
	}
	if forgotten == 0 {
		t.Error("nothing was known")
	}
	sendUDP(t, from, netip.AddrPortFrom(router4, port), sent-1, 10)
	eventually(t, "all arrive", func() bool { return lab.arrived(t) == sent })
	r.await(t, 1, 0)
}

// The same two ends may be connected again. The kernel has a new entry then, in memory that may be the old one's.
func TestNATProgramTellsAgain(t *testing.T) {
	const port, times = 4321, 5
	forget := func(t *testing.T, lab *natLab) {
		lab.router.do(t, func() { run(t, "conntrack", "-F") })
	}
	datagram := func(t *testing.T, lab *natLab, to netip.AddrPort) {
		lab.world.do(t, func() {
			from := mustListenUDP(t, netip.AddrPortFrom(world4, port).String())
			defer from.Close()
			sendUDP(t, from, to, 1, 10)
			_ = from.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, _ = from.Read(make([]byte, 10)) // the answer, or nothing
		})
	}
	t.Run("udp expired", func(t *testing.T) {
		lab := newNATLab(t)
		lab.router.do(t, func() { write(t, "/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "1") })
		lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
		lab.container.do(t, func() { rules(t, router4, "-A", "INPUT", "-p", "udp", "--dport", "4321", "-j", "DROP") })
		r := openNATProgramIn(t, lab.router, NATConfig{})
		for i := range times {
			datagram(t, lab, netip.AddrPortFrom(router4, port))
			r.await(t, i+1, 0)
			time.Sleep(1200 * time.Millisecond) // nobody looks: the next packet clears the old entry away, and makes its own
		}
	})
	t.Run("udp answered", func(t *testing.T) {
		lab := newNATLab(t)
		lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
		echo(t, lab.container, netip.AddrPortFrom(container4, port))
		r := openNATProgramIn(t, lab.router, NATConfig{})
		for range times {
			datagram(t, lab, netip.AddrPortFrom(router4, port))
			forget(t, lab)
		}
		r.await(t, times, times)
	})
	for _, to := range []uint16{80, 9} { // one that is listened to, one that is not
		t.Run(fmt.Sprintf("tcp to port %d", to), func(t *testing.T) {
			lab := newNATLab(t)
			lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
			lab.container.do(t, func() { listen(t, 80) })
			r := openNATProgramIn(t, lab.router, NATConfig{})
			answered := 0
			for i := range times {
				var end func()
				lab.world.do(t, func() { end = connectFrom(t, port, netip.AddrPortFrom(router4, to)) })
				if to == 80 {
					answered++
				}
				r.await(t, i+1, answered)
				end()
				forget(t, lab)
			}
			if counted := lab.translated(t, router4, "PREROUTING"); counted != times {
				t.Errorf("the rule counted %d connections", counted)
			}
		})
	}
	t.Run("tcp redirected", func(t *testing.T) {
		lab := newNATLab(t)
		lab.translate(t, router4, "-A PREROUTING -i outside -p tcp -j REDIRECT --to-ports 80")
		lab.router.do(t, func() { listen(t, 80) })
		r := openNATProgramIn(t, lab.router, NATConfig{})
		for i := range times {
			var end func()
			lab.world.do(t, func() { end = connectFrom(t, port, netip.AddrPortFrom(router4, 8080)) })
			r.await(t, 0, i+1)
			end()
			forget(t, lab)
		}
	})
}

// Connections that nothing translates are told if they go to an endpoint in the host's namespace.
func TestNATProgramTellsEndpoints(t *testing.T) {
	const count = 20
	tcp, udp := uint8(unix.IPPROTO_TCP), uint8(unix.IPPROTO_UDP)
	for _, tc := range []struct {
		name      string
		endpoints []NATEndpoint
		opened    int
	}{
		{"none", nil, 0},
		{"of another port, protocol and address", []NATEndpoint{{tcp, container4, 81}, {udp, container4, 80}, {tcp, world4, 80}}, 0},
		{"exact", []NATEndpoint{{tcp, container4, 80}}, count},
		{"any IPv4", []NATEndpoint{{tcp, netip.IPv4Unspecified(), 80}}, 2 * count},
		{"any", []NATEndpoint{{tcp, netip.Addr{}, 80}}, 2 * count},
		{"IPv6", []NATEndpoint{{tcp, container6, 80}}, count},
		{"both, and another", []NATEndpoint{{tcp, container4, 80}, {tcp, container6, 80}, {tcp, world6, 80}}, 2 * count},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newNATLab(t)
			for _, family := range []netip.Addr{router4, router6} { // where no rule needs it, the kernel does not track
				lab.translate(t, family, "-A POSTROUTING -o nowhere -j MASQUERADE")
			}
			lab.container.do(t, func() { listen(t, 80) })
			host, other := openNATProgramIn(t, lab.router, NATConfig{}), openNATProgramIn(t, lab.world, NATConfig{})
			for _, r := range []*told{host, other} {
				if err := r.program.setEndpoints(plainEndpoints(tc.endpoints)); err != nil {
					t.Fatal(err)
				}
			}
			other.netns = host.netns
			lab.world.do(t, func() {
				run(t, "ip", "route", "add", "172.30.0.0/24", "via", "192.0.2.1")
				run(t, "ip", "route", "add", "fd00:30::/64", "via", "2001:db8::1")
				openTCP(t, netip.AddrPortFrom(container4, 80), count)
				openTCP(t, netip.AddrPortFrom(container6, 80), count)
			})
			eventually(t, "all are tracked", func() bool { return len(lab.conntrack(t)) >= 2*count })
			host.await(t, tc.opened, tc.opened)
			other.await(t, 0, 0) // for which it is not the host's
		})
	}
}

func TestNATProgramSetEndpoints(t *testing.T) {
	program := openNATProgramIn(t, newNamespace(t), NATConfig{}).program
	a, b, c := NATEndpoint{6, container4, 80}, NATEndpoint{17, container6, 53}, NATEndpoint{132, netip.Addr{}, 9}
	keys := func() map[natNatEndpoint]bool {
		found := make(map[natNatEndpoint]bool)
		var key natNatEndpoint
		var value uint8
		entries := program.objects.Endpoints.Iterate()
		for entries.Next(&key, &value) {
			found[key] = true
		}
		if err := entries.Err(); err != nil {
			t.Fatal(err)
		}
		return found
	}
	for _, set := range [][]NATEndpoint{{a, b}, {b, c, c}, {a, b, c}, {}, {c}} {
		if err := program.setEndpoints(plainEndpoints(set)); err != nil {
			t.Fatal(err)
		}
		want := make(map[natNatEndpoint]bool)
		for _, e := range set {
			want[newNATEndpoint(e)] = true
		}
		if diff := cmp.Diff(want, keys()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", set, diff)
		}
	}
	room := int(program.objects.Endpoints.MaxEntries())
	many := make([]NATEndpoint, room+2)
	for i := range many {
		many[i] = NATEndpoint{6 + uint8(i>>16), container4, uint16(i)}
	}
	nat := &NAT{program: program, union: newNATUnion()}
	err, want := nat.SetEndpoints(many), fmt.Sprintf("set endpoints: no room for 2 of %d", room+2)
	if err == nil || err.Error() != want {
		t.Errorf("more than there is room for: %v, want %s", err, want)
	}
	if incomplete := nat.Incomplete(); incomplete == nil || incomplete.Error() != want {
		t.Errorf("incomplete: %v", incomplete)
	}
	if set := keys(); len(set) != room || set[newNATEndpoint(many[room])] || set[newNATEndpoint(c)] || len(nat.endpoints) != room {
		t.Errorf("%d are set, and %d taken for it", len(set), len(nat.endpoints))
	}
	for i, e := range many {
		if fits := i < room; nat.isEndpoint(e.Protocol, netip.AddrPortFrom(e.Address, e.Port)) != fits {
			t.Fatalf("endpoint %d is set: %t", i, !fits)
		}
	}
	if err := nat.SetEndpoints(many[2:]); err != nil || nat.Incomplete() != nil || len(keys()) != room {
		t.Errorf("as many as there is room for: %v", err)
	}
}

func TestNATProgramLeavesUntrackedAlone(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
	lab.router.do(t, func() { rules(t, router4, "-t", "raw", "-A", "PREROUTING", "-p", "udp", "-j", "NOTRACK") })
	r := openNATProgramIn(t, lab.router, NATConfig{})
	err := r.program.setEndpoints(plainEndpoints([]NATEndpoint{{unix.IPPROTO_UDP, netip.Addr{}, 53}}))
	if err != nil {
		t.Fatal(err)
	}
	lab.world.do(t, func() {
		run(t, "ip", "route", "add", "172.30.0.0/24", "via", "192.0.2.1")
		openUDP(t, netip.AddrPortFrom(container4, 53), 10)
		openTCP(t, netip.AddrPortFrom(router4, 80), 1) // which is tracked
	})
	r.await(t, 1, 0)
}

func TestNATProgramCountsFullRing(t *testing.T) {
	const count = 300
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	r := openNATProgramIn(t, lab.router, NATConfig{RingSize: 4096})
	for range 3 {
		lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), count/3) })
	}
	eventually(t, "the rule counts all", func() bool { return lab.translated(t, router4, "POSTROUTING") == count })
	r.read(t)
	lost := lossesAt(t, r.program.losses, "ring_full")
	if len(r.opened) == 0 || uint64(len(r.opened))+lost != count {
		t.Errorf("told of %d, lost %d, want %d together", len(r.opened), lost, count)
	}
}

// hasNATTypes tells whether the kernel says how NAT's part of an entry is laid out: not before 5.11 if that is a module.
func hasNATTypes() bool {
	var part *btf.Struct
	kernel, err := btf.LoadKernelSpec()
	if err == nil && kernel.TypeByName("nf_conn_nat", &part) == nil {
		return true
	}
	module, err := btf.LoadKernelModuleSpec("nf_nat")
	return err == nil && module.TypeByName("nf_conn_nat", &part) == nil
}
