// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mustOpenMisses listens in the calling thread's namespace until the test ends.
func mustOpenMisses(tb testing.TB) *Misses {
	tb.Helper()
	misses, err := OpenMisses()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, misses) })
	return misses
}

// runMisses takes them in until the test ends.
func runMisses(tb testing.TB, misses *Misses) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- misses.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
}

// awaitMisses adds up what is read until there is as much as wanted, and fails if it is something else.
func awaitMisses(tb testing.TB, misses *Misses, want map[Miss]uint64) {
	tb.Helper()
	got := make(map[Miss]uint64)
	total := func(counts map[Miss]uint64) (sum uint64) {
		for _, count := range counts {
			sum += count
		}
		return sum
	}
	eventually(tb, "all misses are told", func() bool {
		for _, miss := range misses.Read() {
			count := miss.Count
			miss.Count = 0
			got[miss] += count
		}
		return total(got) >= total(want)
	})
	if diff := cmp.Diff(want, got, addresses()); diff != "" {
		tb.Errorf("misses (-want +got):\n%s", diff)
	}
}

func wantLosses(tb testing.TB, got []Loss, overruns, full, unparsed uint64) {
	tb.Helper()
	if diff := cmp.Diff([]Loss{{"netlink_overrun", overruns}, {"table_full", full}, {"unparsed", unparsed}}, got); diff != "" {
		tb.Errorf("losses (-want +got):\n%s", diff)
	}
}

// monitor follows neighbours in the namespace at path as ip does, until stop is called, which returns what it printed.
func monitor(tb testing.TB, path string) (stop func() string) {
	tb.Helper()
	var printed strings.Builder
	cmd := exec.Command("ip", "monitor", "neigh")
	cmd.Stdout = &printed
	in(tb, path, func() {
		if err := cmd.Start(); err != nil {
			tb.Error(err)
		}
	})
	inode := ""
	eventually(tb, "ip listens", func() bool {
		in(tb, path, func() { inode = run(tb, "cat", "/proc/net/netlink") })
		return slices.ContainsFunc(strings.Split(inode, "\n"), func(line string) bool {
			fields := strings.Fields(line)
			return len(fields) > 3 && fields[2] == fmt.Sprint(cmd.Process.Pid) && fields[3] != "00000000"
		})
	})
	return func() string {
		if err := cmd.Process.Kill(); err != nil {
			tb.Error(err)
		}
		_ = cmd.Wait() // says that it was killed
		return printed.String()
	}
}

// What the devices of two overlays do not know is counted for each, as ip and the devices' own counters say.
func TestMisses(t *testing.T) {
	lab := newSandboxLab(t)
	type overlay struct {
		path, container string
		number, device  int
	}
	var overlays []overlay
	for i, name := range []string{"1-u1sixx4w1u", "1-vo4lkg43zo"} {
		o := overlay{path: lab.make(t, name), container: lab.make(t, fmt.Sprintf("00000000000%d", i))}
		lab.addVXLAN(t, o.path, "vxlan0", "br0", 4097+i)
		lab.connect(t, o.path, "veth0", o.container, "10.11.0.2")()
		sandbox, err := ReadSandbox(Sandbox{Path: o.path}, new(MaxIPVSConnections))
		if err != nil {
			t.Fatal(err)
		}
		o.number, o.device = sandbox.NetnsID, sandbox.VXLANs[0].Index
		overlays = append(overlays, o)
	}
	in(t, overlays[0].path, func() { // it is known where this one is
		run(t, "bridge", "fdb", "add", "02:42:0a:0b:00:03", "dev", "vxlan0", "dst", "10.99.0.2", "self", "permanent")
		run(t, "ip", "neigh", "add", "10.11.0.3", "lladdr", "02:42:0a:0b:00:03", "dev", "vxlan0", "nud", "permanent")
	})
	misses := mustOpenMisses(t)
	runMisses(t, misses)
	said := monitor(t, overlays[0].path)
	in(t, overlays[0].container, func() {
		sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.3", 50)...)
		sendFrames(t, "eth0", overlayQuestions(t, "10.11.0.2", "10.11.0.3", 50)...)
		sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.9", 300)...)
		sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.10", 20)...)
		sendFrames(t, "eth0", overlayQuestions(t, "10.11.0.2", "10.11.0.9", 7)...)
	})
	in(t, overlays[1].container, func() {
		sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.9", 3)...)
	})
	first, second := overlays[0], overlays[1]
	awaitMisses(t, misses, map[Miss]uint64{
		{NetnsID: first.number, Device: first.device, MAC: mac(t, "02:42:0a:0b:00:09")}:          300,
		{NetnsID: first.number, Device: first.device, MAC: mac(t, "02:42:0a:0b:00:0a")}:          20,
		{NetnsID: first.number, Device: first.device, Address: netip.MustParseAddr("10.11.0.9")}: 7,
		{NetnsID: second.number, Device: second.device, MAC: mac(t, "02:42:0a:0b:00:09")}:        3,
	})
	wantLosses(t, misses.Losses(), 0, 0, 0)

	printed := said()
	for miss, want := range map[string]int{
		"miss dev vxlan0 lladdr 02:42:0a:0b:00:09 ": 300, "miss dev vxlan0 lladdr 02:42:0a:0b:00:0a ": 20, "miss 10.11.0.9 dev vxlan0 ": 7,
	} {
		if got := strings.Count(printed, miss); got != want {
			t.Errorf("ip said %q %d times, want %d:\n%.500s", miss, got, want, printed)
		}
	}
	for i, dropped := range []uint64{320, 3} {
		sandbox, err := ReadSandbox(Sandbox{Path: overlays[i].path}, new(MaxIPVSConnections))
		if err != nil || sandbox.VXLANs[0].TXDropped != dropped {
			t.Errorf("the device of overlay %d has dropped %d (%v), want %d", i+1, sandbox.VXLANs[0].TXDropped, err, dropped)
		}
	}
}

// Whoever listens keeps nothing alive: neither the namespace nor, in the host's, the port of its device.
func TestMissesKeepNothingAlive(t *testing.T) {
	lab := newSandboxLab(t)
	overlay, container := lab.make(t, "1-u1sixx4w1u"), lab.make(t, "000000000001")
	lab.addVXLAN(t, overlay, "vxlan0", "br0", 4097)
	lab.connect(t, overlay, "veth0", container, "10.11.0.2")()
	misses := mustOpenMisses(t) // what is queued keeps nothing alive either: nobody takes it in
	in(t, container, func() { sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.9", 10)...) })
	lab.destroy(t, container)
	lab.destroy(t, overlay)
	awaitDeath(t)
	runMisses(t, misses)
	var count uint64
	eventually(t, "what was told before is read", func() bool {
		for _, miss := range misses.Read() {
			count += miss.Count
		}
		return count == 10
	})
}

// News of neighbours are passed over, and the copies of them that the kernel throws away are no drops.
func TestMissesPassOverNews(t *testing.T) {
	enterFreshNetns(t)
	vethPair(t, newNamespace(t))
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	misses := mustOpenMisses(t)
	runMisses(t, misses)
	netns := ownNetns(t)
	mustRead(t, drops.Read)
	const news = 200
	for i := range news {
		run(t, "ip", "neigh", "replace", "192.0.2.9", "lladdr", fmt.Sprintf("02:42:0a:0b:00:%02x", i), "dev", "outside")
	}
	for _, d := range here(mustRead(t, drops.Read), netns) {
		if strings.HasPrefix(d.Function, "netlink_") {
			t.Errorf("counted as drops: %+v", d)
		}
	}
	if got := misses.Read(); len(got) != 0 {
		t.Errorf("misses %v of nothing", got)
	}
	wantLosses(t, misses.Losses(), 0, 0, 0)
}

// Whoever may administer a network could send the same.
func TestMissesAreTheKernels(t *testing.T) {
	enterFreshNetns(t)
	misses := mustOpenMisses(t)
	runMisses(t, misses)
	forger, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(forger)
	listener := mustOpenMisses(t) // hears it too
	forged := missOf(7, attributeOf(2, 2, 0x42, 10, 11, 0, 9))
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_NEIGH - 1)}
	if err := unix.Sendto(forger, forged, 0, to); err != nil {
		t.Fatal(err)
	}
	connection, err := listener.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.socket.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	heard := make([]byte, missMessage)
	var n int
	var from unix.Sockaddr
	var received error
	err = connection.Read(func(socket uintptr) bool {
		n, from, received = unix.Recvfrom(int(socket), heard, 0)
		return !errors.Is(received, unix.EAGAIN)
	})
	if err := errors.Join(err, received); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(heard[:n], forged) || isKernel(from) {
		t.Errorf("heard %x from %+v; want the forged one", heard[:n], from)
	}
	vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0"}, VxlanId: 4097, Port: DefaultDataPort, L2miss: true}
	addLink(t, vxlan)
	setUp(t, "vxlan0")
	sendFrames(t, "vxlan0", overlayFrames(t, "10.11.0.2", "10.11.0.9", 1)...)
	awaitMisses(t, misses, map[Miss]uint64{
		{NetnsID: -1, Device: mustLink(t, "vxlan0").Attrs().Index, MAC: mac(t, "02:42:0a:0b:00:09")}: 1,
	})
}

// What has no room is counted, one by one.
func TestMissesOverrun(t *testing.T) {
	const sent = 500
	lab := newSandboxLab(t)
	overlay, container := lab.make(t, "1-u1sixx4w1u"), lab.make(t, "000000000001")
	lab.addVXLAN(t, overlay, "vxlan0", "br0", 4097)
	lab.connect(t, overlay, "veth0", container, "10.11.0.2")()
	misses := mustOpenMisses(t)
	connection, err := misses.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var refused error
	err = connection.Control(func(socket uintptr) {
		refused = unix.SetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10)
	})
	if err := errors.Join(err, refused); err != nil {
		t.Fatal(err)
	}
	in(t, container, func() { sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.9", sent)...) })
	runMisses(t, misses)
	var count, lost uint64
	eventually(t, "all are counted", func() bool {
		for _, miss := range misses.Read() {
			count += miss.Count
		}
		lost = misses.Losses()[0].Count
		return count+lost == sent
	})
	if count == 0 || lost == 0 {
		t.Errorf("%d told and %d lost, want some of both", count, lost)
	}
	in(t, container, func() { sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.9", 5)...) })
	eventually(t, "it goes on", func() bool { return len(misses.Read()) > 0 })
}

// missOf is what a VXLAN device sends when it does not know where to.
func missOf(device uint32, attributes ...[]byte) []byte {
	message := make([]byte, unix.SizeofNlMsghdr+sizeofNdmsg)
	binary.NativeEndian.PutUint16(message[netlinkTypeOffset:], unix.RTM_GETNEIGH)
	binary.NativeEndian.PutUint32(message[unix.SizeofNlMsghdr+ndmIfindex:], device)
	for _, a := range attributes {
		message = append(message, a...)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	return message
}

func TestParseMiss(t *testing.T) {
	address4, address6 := netip.MustParseAddr("10.11.0.9"), netip.MustParseAddr("fd00::9")
	hardware := []byte{2, 0x42, 10, 11, 0, 9}
	other := missOf(7, attributeOf(2, hardware...))
	binary.NativeEndian.PutUint16(other[netlinkTypeOffset:], unix.RTM_NEWNEIGH)
	for _, tc := range []struct {
		name    string
		message []byte
		want    Miss
		ok      bool
	}{
		{"of a MAC address", missOf(7, attributeOf(2, hardware...)), Miss{Device: 7, MAC: [6]byte(hardware)}, true},
		{"of IPv4", missOf(7, attributeOf(1, address4.AsSlice()...)), Miss{Device: 7, Address: address4}, true},
		{"of IPv6", missOf(7, attributeOf(1, address6.AsSlice()...)), Miss{Device: 7, Address: address6}, true},
		{
			"of an address whose MAC address is out of date",
			missOf(7, attributeOf(2, hardware...), attributeOf(1, address4.AsSlice()...)), Miss{Device: 7, Address: address4}, true,
		},
		{"of nothing", missOf(7), Miss{}, false},
		{"address is cut short", missOf(7, attributeOf(1, 10, 11, 0)), Miss{}, false},
		{"MAC address is cut short", missOf(7, attributeOf(2, 2, 0x42)), Miss{}, false},
		{"MAC address is too long", missOf(7, attributeOf(2, make([]byte, 8)...)), Miss{}, false},
		{"message is cut short", missOf(7)[:20], Miss{}, false},
		{"other message", other, Miss{}, false},
		{"no message", nil, Miss{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseMiss(tc.message)
			if ok != tc.ok || ok && got != tc.want {
				t.Errorf("%+v, %t; want %+v, %t", got, ok, tc.want, tc.ok)
			}
		})
	}
}

// However many come, memory is bounded and none goes uncounted.
func TestMissesAreBounded(t *testing.T) {
	enterFreshNetns(t)
	misses := mustOpenMisses(t)
	for i := range maxMisses + 3 {
		misses.take(missOf(7, attributeOf(2, 2, 0x42, 10, 11, byte(i>>8), byte(i))), 1)
	}
	misses.take(missOf(7, attributeOf(2, 2, 0x42, 10, 11, 0, 0)), 1)
	for i := range 2 {
		misses.take(missOf(7, attributeOf(1, 10, 11, 0, byte(i))), 1)
	}
	misses.take(missOf(7), 1)
	first, others := Miss{NetnsID: 1, Device: 7, MAC: [6]byte{2, 0x42, 10, 11, 0, 0}, Count: 2}, Miss{NetnsID: 1, Device: 7, Count: 3}
	others.MAC = [6]byte(bytes.Repeat([]byte{0xff}, 6))
	addresses := Miss{NetnsID: 1, Device: 7, Address: netip.IPv4Unspecified(), Count: 2}
	got := misses.Read()
	for _, want := range []Miss{first, others, addresses} {
		if !slices.Contains(got, want) {
			t.Errorf("no %+v", want)
		}
	}
	if len(got) != maxMisses+2 {
		t.Errorf("%d are kept, want %d, and one of each kind for the others", len(got), maxMisses)
	}
	wantLosses(t, misses.Losses(), 0, 5, 1)
	for i := range 3 * maxMisses {
		misses.take(missOf(uint32(i), attributeOf(2, 2, 0x42, 10, 11, 0, 9)), 1)
	}
	if got := misses.Read(); len(got) != 2*maxMisses {
		t.Errorf("of very many devices %d are kept, want %d", len(got), 2*maxMisses)
	}
	misses.take(missOf(7, attributeOf(1, netip.MustParseAddr("fe80::1").AsSlice()...)), 1)
	if got := misses.Read(); len(got) != 0 {
		t.Errorf("%+v of a link-local address", got)
	}
	mustClose(t, misses)
	wantLosses(t, misses.Losses(), 0, 5+2*maxMisses, 1)
}

// An error is told while it lasts, and does not end it.
func TestMissesGoOnAfterAnError(t *testing.T) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	misses := &Misses{socket: os.NewFile(uintptr(socket), "misses")}
	if err := unix.Connect(socket, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	runMisses(t, misses)
	if _, err := unix.Write(socket, []byte{1}); err != nil { // nobody listens there
		t.Fatal(err)
	}
	eventually(t, "it is told", func() bool { return errors.Is(misses.Err(), unix.ECONNREFUSED) })
	eventually(t, "it is over", func() bool { return misses.Err() == nil })
}
