// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ctAttribute is one as it is in a message, with what others it holds, or with its own bytes.
func ctAttribute(kind uint16, content ...[]byte) []byte {
	joined := slices.Concat(content...)
	attribute := binary.NativeEndian.AppendUint16(nil, uint16(attributeHeader+len(joined)))
	attribute = binary.NativeEndian.AppendUint16(attribute, kind)
	attribute = append(attribute, joined...)
	return append(attribute, make([]byte, -len(attribute)&3)...)
}

func nested(kind uint16, content ...[]byte) []byte {
	return ctAttribute(kind|unix.NLA_F_NESTED, content...)
}

func number16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func number32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// ctTuple is one of either family. Without ports it is that of a protocol that has none.
func ctTuple(kind uint16, protocol uint8, t Tuple) []byte {
	ip, from := [2]uint16{1, 2}, t.Source.Addr()
	if from.Is6() {
		ip = [2]uint16{3, 4}
	}
	parts := [][]byte{ctAttribute(1, []byte{protocol})}
	if t.Destination.Port() != 0 {
		parts = append(parts, ctAttribute(2, number16(t.Source.Port())), ctAttribute(3, number16(t.Destination.Port())))
	}
	return nested(kind,
		nested(1, ctAttribute(ip[0], from.AsSlice()), ctAttribute(ip[1], t.Destination.Addr().AsSlice())),
		nested(2, parts...))
}

// ctMessage is one that tells of a new entry.
func ctMessage(attributes ...[]byte) []byte {
	return ctMessageOf(1<<8, attributes...) // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
}

func ctMessageOf(kind uint16, attributes ...[]byte) []byte {
	body := slices.Concat(append([][]byte{{2, 0, 0, 0}}, attributes...)...)
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	return append(append(message, make([]byte, unix.NLMSG_HDRLEN-6)...), body...)
}

// passes has the filter see a message as the kernel shows it to a socket's.
func passes(tb testing.TB, program *natProgram, message []byte) bool {
	tb.Helper()
	frame := append(make([]byte, 14), message...) // of Ethernet, which BPF_PROG_TEST_RUN takes off
	result, err := program.objects.FilterEvents.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		tb.Fatal(err)
	}
	return result != 0
}

func TestNATFilter(t *testing.T) {
	program := openNATProgramIn(t, newNamespace(t), NATConfig{}).program
	err := program.setEndpoints(plainEndpoints([]NATEndpoint{
		{unix.IPPROTO_TCP, router4, 80}, {unix.IPPROTO_UDP, netip.Addr{}, 53}, {unix.IPPROTO_TCP, router6, 443},
	}))
	if err != nil {
		t.Fatal(err)
	}
	tuple := func(from, to netip.Addr, port uint16) (Tuple, Tuple) {
		source := uint16(40_000)
		if port == 0 {
			source = 0
		}
		a, b := netip.AddrPortFrom(from, source), netip.AddrPortFrom(to, port)
		return Tuple{a, b}, Tuple{b, a}
	}
	const confirmed = 1 << 3
	status := func(bits uint32) []byte { return ctAttribute(3, number32(bits|confirmed)) }
	for _, tc := range []struct {
		name     string
		protocol uint8
		from, to netip.Addr
		port     uint16
		status   uint32
		answerer netip.Addr // if another than who is asked
		want     bool
	}{
		{"of no interest", unix.IPPROTO_TCP, world4, router4, 81, 0, netip.Addr{}, false},
		{"of no interest, IPv6", unix.IPPROTO_TCP, world6, router6, 80, 0, netip.Addr{}, false},
		{"of no interest, ICMP", unix.IPPROTO_ICMP, world4, router4, 0, 0, netip.Addr{}, false},
		{"source", unix.IPPROTO_TCP, world4, router4, 81, statusSourceNAT, netip.Addr{}, true},
		{"destination", unix.IPPROTO_UDP, world6, router6, 81, statusDestNAT, router6, true},
		{"IPVS", unix.IPPROTO_TCP, world4, router4, 81, 0, container4, true},
		{"IPVS, IPv6", unix.IPPROTO_TCP, world6, router6, 81, 0, container6, true},
		{"endpoint", unix.IPPROTO_TCP, world4, router4, 80, 0, netip.Addr{}, true},
		{"endpoint, IPv6", unix.IPPROTO_TCP, world6, router6, 443, 0, netip.Addr{}, true},
		{"endpoint of any address", unix.IPPROTO_UDP, world6, container6, 53, 0, netip.Addr{}, true},
		{"endpoint's other protocol", unix.IPPROTO_TCP, world4, container4, 53, 0, netip.Addr{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			original, reply := tuple(tc.from, tc.to, tc.port)
			if tc.answerer.IsValid() {
				reply.Source = netip.AddrPortFrom(tc.answerer, tc.port)
			}
			a, b, s := ctTuple(1, tc.protocol, original), ctTuple(2, tc.protocol, reply), status(tc.status)
			others := slices.Concat(ctAttribute(18, number16(7)), ctAttribute(12, number32(1)), ctAttribute(7, number32(30)))
			for i, order := range [][][]byte{{a, b, s}, {a, b, others, s}, {s, others, b, a}, {others, b, s, a, others}} {
				message := ctMessage(order...)
				if got := passes(t, program, message); got != tc.want {
					t.Errorf("order %d passes: %t, want %t", i, got, tc.want)
				}
				if tc.want {
					continue
				}
				// What it cannot read, another may: it is cut short, or two, or the news is another.
				for length := range len(message) {
					if length > 0 && !passes(t, program, message[:length]) {
						t.Errorf("order %d is lost if cut to %d bytes of %d", i, length, len(message))
					}
				}
				for j, length := range []uint16{0, attributeHeader - 1, 1000} {
					lying := slices.Clone(order)
					lying[0] = slices.Clone(order[0])
					binary.NativeEndian.PutUint16(lying[0], length)
					if !passes(t, program, ctMessage(lying...)) {
						t.Errorf("order %d is lost if the first attribute tells lie %d of its length", i, j)
					}
				}
				many := slices.Repeat([][]byte{others}, 8) // three each
				if !passes(t, program, ctMessage(append(many, order...)...)) {
					t.Errorf("order %d is lost behind many attributes", i)
				}
				if !passes(t, program, append(slices.Clone(message), message...)) {
					t.Errorf("order %d is lost if there are two", i)
				}
				if !passes(t, program, ctMessageOf(1<<8|2, order...)) || !passes(t, program, ctMessageOf(2, order...)) {
					t.Errorf("order %d is lost if it is not of a new entry", i)
				}
			}
		})
	}
}

// The filter keeps the events of dull connections from user space. That is not to pass for drops of somebody's packets:
// where others listen too, the kernel frees our copy of the message as it does a packet that is dropped.
func TestNATFilterOnEvents(t *testing.T) {
	const count = 200
	for _, listeners := range []string{"ours", "ours, another", "another, ours"} {
		lab := newNATLab(t)
		lab.translate(t, router4, "-A POSTROUTING -o outside -p udp --dport 53 -j MASQUERADE")
		lab.container.do(t, func() { rules(t, router4, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW") })
		r := openNATProgramIn(t, lab.router, NATConfig{})
		if err := r.program.setEndpoints(plainEndpoints([]NATEndpoint{{unix.IPPROTO_UDP, router4, 7}})); err != nil {
			t.Fatal(err)
		}
		var events *conntrackEvents
		lab.router.do(t, func() {
			for _, listener := range strings.Split(listeners, ", ") {
				filter := noFilter
				if listener == "ours" {
					filter = r.program.filterFD()
				}
				e, err := openConntrackEvents(1<<20, filter)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { _ = e.close() })
				if listener == "ours" {
					events = e
				}
			}
		})
		drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
		lab.world.do(t, func() { run(t, "ip", "route", "add", "172.30.0.0/24", "via", "192.0.2.1") })
		lab.container.do(t, func() {
			for _, to := range []netip.AddrPort{
				netip.AddrPortFrom(world4, 53), netip.AddrPortFrom(router4, 7), netip.AddrPortFrom(world4, 9),
			} {
				openUDP(t, to, count)
				time.Sleep(10 * time.Millisecond)
			}
		})
		eventually(t, "all are tracked", func() bool { return len(lab.conntrack(t)) == 3*count })
		type kind struct {
			host bool
			port uint16
		}
		got := make(map[kind]int)
		_, err := events.read(gatherLimit, func(e *conntrackEntry) { got[kind{e.NetnsID < 0, e.Original.Destination.Port()}]++ })
		if err != nil {
			t.Error(err)
		}
		// In whose namespace a connection is to an endpoint the filter cannot tell.
		if diff := cmp.Diff(map[kind]int{{true, 53}: count, {true, 7}: count, {false, 7}: count}, got); diff != "" {
			t.Errorf("%s listen: events by port (-want +got):\n%s", listeners, diff)
		}
		for _, d := range mustRead(t, drops.Read) {
			if strings.HasPrefix(d.Function, "netlink_broadcast") {
				t.Errorf("%s listen: an event passes for a packet: %+v", listeners, d)
			}
		}
	}
}
