// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// listen has the calling thread's namespace take connections of both families.
func listen(tb testing.TB, port uint16) {
	tb.Helper()
	for _, family := range []string{"tcp4", "tcp6"} {
		listener, err := net.Listen(family, fmt.Sprintf(":%d", port))
		if err != nil {
			tb.Error(err)
			return
		}
		tb.Cleanup(func() { listener.Close() })
	}
}

// number gives a namespace a number in another.
func number(tb testing.TB, in, of namespace, id int) {
	tb.Helper()
	in.do(tb, func() {
		if err := netlink.SetNetNsIdByFd(int(of.file.Fd()), id); err != nil {
			tb.Error(err)
		}
	})
}

func TestNATTellsEachConnectionOnce(t *testing.T) {
	const count = 1000
	for _, place := range []string{"host", "child"} {
		for _, family := range []string{"ipv4", "ipv6"} {
			router, world, container, dead := router4, world4, container4, dead4
			if family == "ipv6" {
				router, world, container, dead = router6, world6, container6, dead6
			}
			literal := func(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
			for _, tc := range []struct {
				name      string
				rule      string
				outgoing  bool
				leaves    bool // the first packet gets to a device
				to        netip.AddrPort
				protocols []string
			}{
				{"masquerade", "-A POSTROUTING -o outside -j MASQUERADE", true, true, netip.AddrPortFrom(world, 80), []string{"tcp", "udp", "icmp", "sctp"}},
				{"snat", "-A POSTROUTING -o outside -j SNAT --to-source " + router.String(), true, true, netip.AddrPortFrom(world, 80), []string{"tcp", "udp"}},
				{"dnat tcp", "-A PREROUTING -i outside -p tcp -j DNAT --to-destination " + literal(container, 80), false, true, netip.AddrPortFrom(router, 8080), []string{"tcp"}},
				{"dnat udp", "-A PREROUTING -i outside -p udp -j DNAT --to-destination " + literal(container, 53), false, true, netip.AddrPortFrom(router, 5353), []string{"udp"}},
				{"dnat sctp", "-A PREROUTING -i outside -p sctp -j DNAT --to-destination " + container.String(), false, true, netip.AddrPortFrom(router, 5353), []string{"sctp"}},
				{"redirect tcp", "-A PREROUTING -i outside -p tcp -j REDIRECT --to-ports 80", false, false, netip.AddrPortFrom(router, 8080), []string{"tcp"}},
				{"redirect to silence", "-A PREROUTING -i outside -p udp -j REDIRECT --to-ports 53", false, false, netip.AddrPortFrom(router, 5353), []string{"udp"}},
				{"dead neighbour tcp", "-A PREROUTING -i outside -p tcp -j DNAT --to-destination " + dead.String(), false, false, netip.AddrPortFrom(router, 8080), []string{"tcp"}},
				{"dead neighbour udp", "-A PREROUTING -i outside -p udp -j DNAT --to-destination " + dead.String(), false, false, netip.AddrPortFrom(router, 8080), []string{"udp"}},
			} {
				t.Run(place+"/"+family+"/"+tc.name, func(t *testing.T) {
					lab := newNATLab(t)
					lab.translate(t, router, tc.rule)
					lab.router.do(t, func() {
						listen(t, 80)
						mustListenUDP(t, literal(router, 53))
					})
					lab.container.do(t, func() { listen(t, 80) })
					lab.world.do(t, func() { listen(t, 80) }) // conntrack forgets a connection that is refused
					observer, netns, id := lab.router, lab.router.netns(t), -1
					if place == "child" {
						observer, id = newNamespace(t), 7
						number(t, observer, lab.router, id)
					}
					o := newOpened(t, mustOpenNAT(t, observer, NATConfig{}), lab)
					runNAT(t, o.nat)
					from := lab.world
					if tc.outgoing {
						from = lab.container
					}
					from.do(t, func() {
						for _, protocol := range tc.protocols {
							openers[protocol](t, tc.to, count)
						}
					})
					wanted := count * len(tc.protocols)
					o.want(t, lab.awaitTranslated(t, wanted))
					chain := "PREROUTING"
					if tc.outgoing {
						chain = "POSTROUTING"
					}
					if counted := lab.translated(t, router, chain); counted != wanted {
						t.Errorf("the rules counted %d connections, want %d", counted, wanted)
					}
					devices, masqueraded := 0, On
					if !hasNATTypes() {
						masqueraded = Absent
					}
					for _, e := range o.news {
						if e.Device != 0 {
							devices++
						}
						if tc.name == "masquerade" && e.Device != 0 && e.Masqueraded != masqueraded || tc.name == "snat" && e.Masqueraded == On {
							t.Fatalf("masqueraded: %q", e.Masqueraded)
						}
						if e.Netns != netns && (e.Netns != 0 || id < 0) || e.NetnsID != id {
							t.Fatalf("in namespace %d, number %d, want %d, %d", e.Netns, e.NetnsID, netns, id)
						}
					}
					if tc.leaves != (devices > wanted/2) || !tc.leaves && devices != 0 {
						t.Errorf("of %d connections a device is known", devices)
					}
				})
			}
		}
	}
}

// Namespaces that come later, or get their number later, are heard of; of one without a number the program tells.
func TestNATOfLaterNamespaces(t *testing.T) {
	loadModules(t)
	observer := newNamespace(t)
	nat := mustOpenNAT(t, observer, NATConfig{})
	lab := newNATLab(t)
	o := newOpened(t, nat, lab)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
	want := make(map[connection]int)
	for round, id := range []int{-1, 5} {
		if id >= 0 {
			number(t, observer, lab.router, id)
		}
		lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), 100) })
		for c := range lab.awaitTranslated(t, 100*(round+1)) {
			want[c] = 1
		}
		told := len(o.news)
		o.want(t, want)
		for _, e := range o.news[told:] {
			if e.Netns != lab.router.netns(t) || e.NetnsID != id {
				t.Fatalf("in namespace %d, number %d, want %d, %d", e.Netns, e.NetnsID, lab.router.netns(t), id)
			}
		}
	}
}

// refuseProgram is a ring that no kernel makes.
const refuseProgram = 12345

// Nobody reads, and the buffers are too small. What is told and what is counted as lost are together what was opened; what
// the other source has is not lost.
func TestNATOverflow(t *testing.T) {
	const count = 3000
	for _, tc := range []struct {
		name         string
		config       NATConfig
		noEvents     bool
		full         []string // places with losses
		told, atMost int      // at least, and so many with the losses
	}{
		{"nothing", NATConfig{}, false, nil, count, count},
		{"small ring", NATConfig{RingSize: uint32(os.Getpagesize())}, false, []string{"ring_full"}, count, count},
		{"small buffer", NATConfig{SocketBuffer: 1}, false, []string{"netlink_overrun"}, count, count},
		{"small ring, no events", NATConfig{RingSize: uint32(os.Getpagesize())}, true, []string{"ring_full"}, 1, count},
		{"small buffer, no program", NATConfig{SocketBuffer: 1, RingSize: refuseProgram}, false, []string{"netlink_overrun"}, 1, count},
		{"both", NATConfig{RingSize: uint32(os.Getpagesize()), SocketBuffer: 1}, false, []string{"ring_full", "netlink_overrun"}, 1, count},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newNATLab(t)
			lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
			lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
			if tc.noEvents {
				lab.router.do(t, func() { write(t, "/proc/sys/net/netfilter/nf_conntrack_events", "0") })
			}
			o := newOpened(t, openNATAnyway(t, lab.router, tc.config), lab)
			lab.container.do(t, func() { openRawUDP(t, netip.AddrPortFrom(world4, 9), count) })
			truth := lab.awaitTranslated(t, count)
			lost := uint64(math.MaxUint64)
			losses, err := o.nat.Losses()
			if err != nil {
				t.Fatal(err)
			}
			for _, loss := range losses {
				if full := slices.Contains(tc.full, loss.Place); full != (loss.Count != 0) {
					t.Errorf("lost %d at %s", loss.Count, loss.Place)
				} else if full {
					lost = min(lost, loss.Count)
				}
			}
			if tc.told == count {
				o.want(t, truth)
				return
			}
			eventually(t, "all is told", func() bool { return sum(o.read(t)) >= count-int(lost) })
			for c, times := range o.count {
				if truth[c] != 1 || times != 1 {
					t.Fatalf("told %d times of %+v", times, c)
				}
			}
			told := sum(o.count)
			if told < tc.told || len(tc.full) == 1 && told+int(lost) != count || told+int(lost) < count {
				t.Errorf("told %d, lost %d, want together %d", told, lost, count)
			}
		})
	}
}

// What was opened before is not new, however late its packets come, if its namespace was looked at.
func TestNATOfEntriesFromBefore(t *testing.T) {
	const count = 300
	observer, known, unknown := newNATLab(t), newNATLab(t), newNATLab(t)
	labs := map[*natLab]int{observer: -1, known: 5, unknown: 6} // their numbers
	resend := func() {
		for lab, id := range labs {
			lab.container.do(t, func() { ping(t, world4, 1000*(id+2), count) })
		}
	}
	for lab, id := range labs {
		lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
		lab.world.do(t, func() { rules(t, router4, "-A", "INPUT", "-p", "icmp", "-j", "DROP") })
		if id >= 0 {
			number(t, observer.router, lab.router, id)
		}
	}
	resend()
	for lab := range labs {
		lab.awaitTranslated(t, count)
	}
	o := newOpened(t, mustOpenNAT(t, observer.router, NATConfig{}), observer, known, unknown)
	if err := o.nat.Known(known.router.path(), "/nonexistent"); err != nil {
		t.Fatal(err)
	}
	existing := observer.conntrack(t)
	maps.Copy(existing, known.conntrack(t))
	if usage := o.nat.Usage(); usage[0].Entries != len(existing) {
		t.Errorf("usage %+v, want %d entries", usage, len(existing))
	}
	runNAT(t, o.nat)
	resend()
	o.want(t, unknown.awaitTranslated(t, count))

	o.forget()
	known.router.do(t, func() { run(t, "conntrack", "-F") })
	resend()
	o.want(t, known.awaitTranslated(t, count))
}

func TestNATOfReopened(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.translate(t, router4, "-A PREROUTING -i outside -p udp -j REDIRECT --to-ports 53")
	o := newOpened(t, mustOpenNAT(t, lab.router, NATConfig{}), lab)
	runNAT(t, o.nat)
	lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
	lab.router.do(t, func() { mustListenUDP(t, "192.0.2.1:53") })
	var sockets []int
	lab.container.do(t, func() {
		sockets = append(sockets, openSocket(t, netip.AddrPortFrom(world4, 9), unix.SOCK_DGRAM, 0))
	})
	lab.world.do(t, func() {
		sockets = append(sockets, openSocket(t, netip.AddrPortFrom(router4, 5353), unix.SOCK_DGRAM, 0))
	})
	want := make(map[connection]int)
	for range 3 {
		for range 5 {
			for _, socket := range sockets {
				if err := unix.Send(socket, []byte("x"), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		for c := range lab.awaitTranslated(t, len(sockets)) {
			want[c]++
		}
		o.want(t, want)
		lab.router.do(t, func() { run(t, "conntrack", "-D", "-p", "udp") })
	}
}

// A packet that has waited for a neighbour comes long after its connection is told.
func TestNATOfLatePacket(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A PREROUTING -i outside -p udp -j DNAT --to-destination 172.30.0.99")
	o := newOpened(t, mustOpenNAT(t, lab.router, NATConfig{}), lab)
	runNAT(t, o.nat)
	lab.world.do(t, func() { openUDP(t, netip.AddrPortFrom(router4, 5353), 50) })
	want := lab.awaitTranslated(t, 50)
	o.want(t, want)
	before := sentBy(t, lab.router, "port")
	lab.container.do(t, func() { addAddress(t, "eth0", "172.30.0.99/24") })
	eventually(t, "the packets have left", func() bool { return sentBy(t, lab.router, "port") >= before+50 })
	o.want(t, want)
}

// sentBy is how many packets a device has sent.
func sentBy(tb testing.TB, n namespace, device string) (packets uint64) {
	tb.Helper()
	n.do(tb, func() { packets = mustLink(tb, device).Attrs().Statistics.TxPackets })
	return packets
}

// Connections to an endpoint are told though nothing translates them, in the host's namespace and nowhere else.
func TestNATOfEndpoints(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config NATConfig
	}{{"both", NATConfig{}}, {"events alone", NATConfig{RingSize: refuseProgram}}} {
		t.Run(tc.name, func(t *testing.T) {
			host, child := newNATLab(t), newNATLab(t)
			number(t, host.router, child.router, 5)
			o := newOpened(t, openNATAnyway(t, host.router, tc.config), host, child)
			runNAT(t, o.nat)
			setEndpoints := func(endpoints ...NATEndpoint) {
				if err := o.nat.SetEndpoints(endpoints); err != nil {
					t.Fatal(err)
				}
			}
			connect := func() {
				for _, lab := range []*natLab{host, child} {
					lab.world.do(t, func() {
						for _, to := range []netip.AddrPort{netip.AddrPortFrom(router4, 80), netip.AddrPortFrom(router6, 80), netip.AddrPortFrom(router4, 81)} {
							openTCP(t, to, 10)
							openUDP(t, to, 10)
						}
					})
				}
			}
			for _, lab := range []*natLab{host, child} {
				lab.router.do(t, func() {
					listen(t, 80)
					listen(t, 81)
					mustListenUDP(t, "[::]:80")
					mustListenUDP(t, "[::]:81")
				})
				// What is tracked is so for some rule's sake.
				lab.translate(t, router4, "-A PREROUTING -i lo -p tcp -j REDIRECT --to-ports 1")
				lab.translate(t, router6, "-A PREROUTING -i lo -p tcp -j REDIRECT --to-ports 1")
			}
			want := func(wanted func(connection) bool) {
				t.Helper()
				o.forget()
				host.router.do(t, func() { run(t, "conntrack", "-F") })
				connect()
				var all map[connection]int
				eventually(t, "all are tracked", func() bool {
					all = host.conntrack(t)
					return len(all) == 60
				})
				maps.DeleteFunc(all, func(c connection, _ int) bool { return !wanted(c) })
				o.want(t, all)
			}
			setEndpoints(NATEndpoint{unix.IPPROTO_TCP, router4, 80}, NATEndpoint{unix.IPPROTO_UDP, netip.IPv4Unspecified(), 80})
			want(func(c connection) bool {
				to := c.Original.Destination
				return to.Port() == 80 && (c.Protocol == unix.IPPROTO_UDP || to.Addr() == router4)
			})
			setEndpoints(NATEndpoint{unix.IPPROTO_TCP, netip.Addr{}, 81})
			want(func(c connection) bool {
				return c.Original.Destination.Port() == 81 && c.Protocol == unix.IPPROTO_TCP
			})
			setEndpoints()
			o.forget()
			connect()
			o.want(t, map[connection]int{})
		})
	}
}

// What does not run is said, and the rest does.
func TestNATIncomplete(t *testing.T) {
	noBroadcast := func(tb testing.TB) { dropCapability(tb, unix.CAP_NET_BROADCAST) }
	noEvents := func(tb testing.TB) { write(tb, "/proc/sys/net/netfilter/nf_conntrack_events", "0") }
	for _, tc := range []struct {
		name   string
		before func(testing.TB)
		config NATConfig
		want   string
		err    string
	}{
		{"nothing is missing", nil, NATConfig{}, "", ""},
		{"not privileged for events", noBroadcast, NATConfig{},
			"connections that never get to a device are not told: subscribe to conntrack events: listen to all namespaces: operation not permitted (needs CAP_NET_BROADCAST)", ""},
		{"events are off", noEvents, NATConfig{},
			"connections that never get to a device are not told: subscribe to conntrack events: net.netfilter.nf_conntrack_events is 0", ""},
		{"no program", nil, NATConfig{RingSize: refuseProgram}, "answers, devices and what has no room in the socket's buffer are not told: load nat object: ", ""},
		{"neither", noEvents, NATConfig{RingSize: refuseProgram}, "", "net.netfilter.nf_conntrack_events is 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newNATLab(t)
			lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
			lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
			liftMemoryLimit(t)
			var nat *NAT
			var err error
			lab.router.do(t, func() {
				if tc.before != nil {
					tc.before(t)
				}
				nat, err = OpenNAT(tc.config)
			})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || nat != nil {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer mustClose(t, nat)
			if got := nat.Incomplete(); (got == nil) != (tc.want == "") || got != nil && !strings.HasPrefix(got.Error(), tc.want) {
				t.Errorf("incomplete: %v, want %q", got, tc.want)
			}
			o := newOpened(t, nat, lab)
			lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), 100) })
			o.want(t, lab.awaitTranslated(t, 100))
		})
	}
}

// dropCapability takes it from the calling thread.
func dropCapability(tb testing.TB, capability uint) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		tb.Error(err)
	}
	data[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &data[0]); err != nil {
		tb.Error(err)
	}
}

// A kernel that tracks no connections yet is not made to, and heard of when it does.
func TestNATBeforeTracking(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	enterFreshMounts(t)
	hide(t, "/proc/sys/net/netfilter")
	liftMemoryLimit(t)
	nat, err := OpenNAT(NATConfig{})
	if err != nil {
		fatalLoad(t, err)
	}
	defer mustClose(t, nat)
	if err := nat.Incomplete(); err != nil {
		t.Errorf("incomplete: %v", err)
	}
	insert := func(port string) {
		run(t, "conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", port, "--dport", "53", "-t", "60", "-n", "192.0.2.9")
	}
	insert("1")
	o := newOpened(t, nat)
	o.here[ownNetns(t)] = true
	time.Sleep(trackingPeriod)
	if got := o.read(t); len(got) != 0 || nat.events != nil {
		t.Errorf("told %v", got)
	}
	if err := unix.Unmount("/proc/sys/net/netfilter", 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the events are subscribed to", func() bool {
		o.read(t)
		return nat.events != nil
	})
	insert("2")
	eventually(t, "it is told", func() bool { return sum(o.read(t)) == 1 })
}

// What nobody reads stays in the kernel's buffers, which are bounded, once enough has been taken out of them.
func TestNATKeepsBoundedNews(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
	nat := mustOpenNAT(t, lab.router, NATConfig{})
	nat.union.news.Answered = make([]NATEvent, newsLimit)
	lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), 10) })
	news, err := nat.Read()
	if len(news.Opened) != 0 || len(news.Answered) != newsLimit || err != nil {
		t.Errorf("read %d opened, %d answered, %v", len(news.Opened), len(news.Answered), err)
	}
	newOpened(t, nat, lab).want(t, lab.awaitTranslated(t, 10))
}

// What cannot be had once the kernel tracks connections is said as long as that is so, tried again, and the rest runs.
func TestNATWithoutProgramBeforeTracking(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	enterFreshMounts(t)
	hide(t, "/proc/sys/net/netfilter")
	nat, err := OpenNAT(NATConfig{RingSize: refuseProgram})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, nat)
	if err := unix.Unmount("/proc/sys/net/netfilter", 0); err != nil {
		t.Fatal(err)
	}
	read := func() {
		if _, err := nat.Read(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it is said", func() bool {
		read()
		return nat.Incomplete() != nil
	})
	if got, want := nat.Incomplete().Error(), "answers, devices and what has no room in the socket's buffer are not told: load nat object: "; !strings.HasPrefix(got, want) {
		t.Errorf("incomplete: %s, want %s", got, want)
	}
	if nat.events == nil {
		t.Error("there are no events")
	}
	for nat.retry < 2*trackingPeriod { // it fails again
		nat.tracking = time.Now()
		read()
	}
	if nat.Incomplete() == nil {
		t.Error("nothing is missing any more")
	}
	nat.config.RingSize = 0
	nat.tracking = time.Now()
	read()
	if err := nat.Incomplete(); err != nil || nat.program == nil || !nat.tracking.IsZero() {
		t.Errorf("then incomplete: %v, program %t", err, nat.program != nil)
	}
}

// An error does not end the gathering, and the next Read returns it once.
func TestNATRunGoesOnAfterError(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
	nat := mustOpenNAT(t, lab.router, NATConfig{})
	events := nat.events
	nat.events = &conntrackEvents{socket: -1, batch: events.batch}
	runNAT(t, nat)
	eventually(t, "it fails", func() bool {
		nat.mu.Lock()
		defer nat.mu.Unlock()
		return nat.failed != nil
	})
	nat.mu.Lock()
	nat.events = events
	nat.mu.Unlock()
	if _, err := nat.Read(); !errors.Is(err, unix.EBADF) {
		t.Errorf("error %v", err)
	}
	o := newOpened(t, nat, lab)
	lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), 10) })
	want := lab.awaitTranslated(t, 10)
	eventually(t, "they are gathered", func() bool {
		nat.mu.Lock()
		defer nat.mu.Unlock()
		return nat.union.waiting() >= 10
	})
	o.want(t, want)
}

// More events than Read is given at once wait for their packets, and become news all the same.
func TestNATReadsOnWhileEventsWait(t *testing.T) {
	nat, start := &NAT{union: newNATUnion()}, time.Now().Add(-time.Minute)
	err := nat.union.unite(start, func(func(natRecord)) error { return nil }, func(visit func(NATEvent)) (reading, error) {
		for i := range newsLimit + 1 {
			visit(unionEvent(uint16(i)))
		}
		return reading{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if news, err := nat.Read(); err != nil || len(news.Opened) != newsLimit+1 {
		t.Errorf("told %d, %v, want %d", len(news.Opened), err, newsLimit+1)
	}
}

// No more is taken at once than is asked for, and the rest stays there.
func TestNATTakesBoundedNumbers(t *testing.T) {
	const count, limit = 300, 100
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
	nat := mustOpenNAT(t, lab.router, NATConfig{})
	lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), count) })
	want := lab.awaitTranslated(t, count)
	var records []natRecord
	err := nat.program.read(limit, func(r natRecord) { records = append(records, r) })
	if err != nil || len(records) != limit {
		t.Errorf("read %d records, %v", len(records), err)
	}
	events := 0
	got, err := nat.events.read(limit, func(*conntrackEntry) { events++ })
	if err != nil || !got.more || got.missed || events < limit || events >= limit+eventBatch {
		t.Errorf("read %d events, %+v, %v", events, got, err)
	}
	got, err = nat.events.read(gatherLimit, func(*conntrackEntry) { events++ })
	if err != nil || got.more || got.missed || events < count {
		t.Errorf("read %d events, %+v, %v", events, got, err)
	}
	for _, r := range records {
		nat.union.news.Opened = append(nat.union.news.Opened, r.NATEvent)
	}
	newOpened(t, nat, lab).want(t, want)
}

// However few the program can remember, a first packet that is sent again is no new connection.
func TestNATTellsForgottenOnce(t *testing.T) {
	const count, remembered = 1500, 256
	lab := newNATLab(t)
	lab.translate(t, router4, "-A PREROUTING -i outside -j DNAT --to-destination 172.30.0.2")
	lab.container.do(t, func() { rules(t, router4, "-A", "INPUT", "-p", "tcp", "-j", "DROP") })
	lab.container.do(t, func() { rules(t, router4, "-A", "INPUT", "-p", "icmp", "-j", "DROP") })
	o := newOpened(t, mustOpenNAT(t, lab.router, NATConfig{Connections: remembered}), lab)
	runNAT(t, o.nat)
	send := func(first, count int) {
		lab.world.do(t, func() {
			for port := first; port < first+count; port++ {
				connectFrom(t, uint16(port), netip.AddrPortFrom(router4, 80))()
			}
			ping(t, router4, first, count)
		})
	}
	send(9000, 1)
	o.want(t, lab.awaitTranslated(t, 2))
	time.Sleep(lateRecord) // until the events are known to come
	for range 2 {
		send(10_000, count)
		o.want(t, lab.awaitTranslated(t, 2*count+2))
	}
	before := sentBy(t, lab.router, "port")
	send(10_000, count)
	eventually(t, "all are sent again", func() bool { return sentBy(t, lab.router, "port") >= before+2*count })
	o.want(t, lab.awaitTranslated(t, 2*count+2))
}

// Run ends with its context, leaves nothing running, and Read goes on.
func TestNATRunEnds(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.world.do(t, func() { mustListenUDP(t, "192.0.2.2:9") })
	before := kernelObjects(t)
	running := goleak.IgnoreCurrent()
	o := newOpened(t, openNATAnyway(t, lab.router, NATConfig{}), lab)
	ours := kernelObjects(t).without(before)
	stop := runNAT(t, o.nat)
	lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), 10) })
	o.want(t, lab.awaitTranslated(t, 10))
	stop()
	lab.container.do(t, func() { openUDP(t, netip.AddrPortFrom(world4, 9), 10) })
	o.want(t, lab.awaitTranslated(t, 20))
	mustClose(t, o.nat)
	goleak.VerifyNone(t, running)
	eventually(t, "the kernel has freed all", func() bool { return len(ours.alive(t)) == 0 })
	if len(ours) == 0 {
		t.Error("there was nothing to free")
	}
}
