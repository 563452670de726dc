// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// startContainer starts a process in a network namespace of its own, as a container's first one is.
func startContainer(tb testing.TB) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // the test may have done so
		_ = cmd.Wait()
	})
	return cmd
}

func mustReadNetns(tb testing.TB, pid int) NetnsState {
	tb.Helper()
	s, err := Procfs("").ReadNetns(pid)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// nstat is what the tool of that name says in a namespace.
func nstat(tb testing.TB, n namespace) NetnsState {
	tb.Helper()
	var said struct{ Kernel map[string]uint64 }
	n.do(tb, func() {
		said = runJSON[struct{ Kernel map[string]uint64 }](tb, "nstat", "--zeros", "--ignore", "--noupdate", "--json")
	})
	return NetnsState{
		ListenOverflows: said.Kernel["TcpExtListenOverflows"],
		ListenDrops:     said.Kernel["TcpExtListenDrops"],
		OutNoRoutes:     said.Kernel["IpOutNoRoutes"],
	}
}

// overflow connects more often to a listener, which does not accept, than its queue is long.
func overflow(tb testing.TB, backlog, connections int) {
	tb.Helper()
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(listener) })
	if err := unix.Bind(listener, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Listen(listener, backlog); err != nil {
		tb.Fatal(err)
	}
	for range connections {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = unix.Close(client) })
		err = unix.Connect(client, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}})
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			tb.Fatal(err)
		}
	}
}

func TestAcceptOverflow(t *testing.T) {
	container, other := startContainer(t), startContainer(t)
	inside := namespaceOf(t, container)
	inside.do(t, func() { setUpNetns(t) })
	pid := container.Process.Pid
	if s := mustReadNetns(t, pid); s.ListenOverflows != 0 || s.ListenDrops != 0 {
		t.Errorf("%+v before any connection", s)
	}
	inside.do(t, func() { overflow(t, 1, 10) })
	// Clients try again after a second: nstat is asked before and after.
	eventually(t, "nstat says the same", func() bool {
		before, got, after := nstat(t, inside), mustReadNetns(t, pid), nstat(t, inside)
		return got.ListenOverflows >= 8 && cmp.Equal(before, got) && cmp.Equal(got, after)
	})
	if s := mustReadNetns(t, other.Process.Pid); s.ListenOverflows != 0 || s.ListenDrops != 0 {
		t.Errorf("%+v in another container", s)
	}
}

// The kernel drops nothing when a process has no route for what it wants to send.
func TestNoRouteInside(t *testing.T) {
	container := startContainer(t)
	inside := namespaceOf(t, container)
	inside.do(t, func() {
		setUpNetns(t)
		for range 5 {
			if made, err := net.Dial("udp4", "203.0.113.1:53"); !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("connected %v, %v, want %v", made, err, unix.ENETUNREACH)
			}
		}
	})
	got := mustReadNetns(t, container.Process.Pid)
	if diff := cmp.Diff(nstat(t, inside), got); diff != "" || got.OutNoRoutes != 5 {
		t.Errorf("%d without a route, want 5 (-nstat +got):\n%s", got.OutNoRoutes, diff)
	}
}

func TestProcessIsGone(t *testing.T) {
	container := startContainer(t)
	pid := container.Process.Pid
	if err := container.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it ended, and its parent does not know yet", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(status), ") Z ")
	})
	if s, err := Procfs("").ReadNetns(pid); !errors.Is(err, ErrNetnsGone) || !cmp.Equal(s, NetnsState{}) {
		t.Errorf("%+v, %v, want %v", s, err, ErrNetnsGone)
	}
	_ = container.Wait() // says that it was killed
	for _, pid := range []int{pid, 0, -1} {
		if s, err := Procfs("").ReadNetns(pid); !errors.Is(err, ErrNetnsGone) || !cmp.Equal(s, NetnsState{}) {
			t.Errorf("process %d: %+v, %v, want %v", pid, s, err, ErrNetnsGone)
		}
	}
}

func TestReadCounters(t *testing.T) {
	const whole = "Udp: InErrors\nUdp: 3\nTcpExt: A B Zed\nTcpExt: 1 18446744073709551615 0\nIpExt: A\nIpExt: 9\n"
	for _, tc := range []struct {
		name, text string
		a, b       uint64
		err        string
	}{
		{name: "whole", text: whole, a: 1, b: 1<<64 - 1},
		{name: "unknown to the kernel", text: "TcpExt: B\nTcpExt: 2\n", a: 77, b: 2},
		{name: "last line is not ended", text: "TcpExt: A B\nTcpExt: 1 2", a: 1, b: 2},
		{name: "no values", text: "TcpExt: A B\n", a: 77, b: 77, err: "table TcpExt: is not there"},
		{name: "nothing", a: 77, b: 77, err: "table TcpExt: is not there"},
		{name: "fewer values", text: "TcpExt: A B\nTcpExt: 1\n", a: 77, b: 77, err: "table TcpExt: has 2 names and 1 values"},
		{name: "no number", text: "TcpExt: A\nTcpExt: -1\n", a: 77, b: 77, err: `counter A: strconv.ParseUint: parsing "-1": invalid syntax`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := uint64(77), uint64(77)
			err := readCounters([]byte(tc.text), "TcpExt:", map[string]*uint64{"A": &a, "B": &b})
			if a != tc.a || b != tc.b {
				t.Errorf("%d and %d, want %d and %d", a, b, tc.a, tc.b)
			}
			if got := fmt.Sprint(err); tc.err != "" && got != tc.err || tc.err == "" && err != nil {
				t.Errorf("%s, want %q", got, tc.err)
			}
		})
	}
}

func TestLinksInside(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	inside.do(t, func() {
		if err := netlink.LinkSetMTU(mustLink(t, "inside"), 1400); err != nil {
			t.Error(err)
		}
	})
	links, err := LinksInside(inside.path())
	if err != nil {
		t.Fatal(err)
	}
	var want []ipLink
	inside.do(t, func() { want = runJSON[[]ipLink](t, "ip", "-j", "-d", "link") })
	if diff := cmp.Diff(want, asIP(links)); diff != "" {
		t.Errorf("links (-ip +got):\n%s", diff)
	}
	if end := links[len(links)-1]; end.Name != "inside" || end.MTU != 1400 || end.Peer != outside.Index {
		t.Errorf("%+v leads to link %d, its MTU is 1400", end, outside.Index)
	}

	plain := filepath.Join(t.TempDir(), "sandbox")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, "/nonexistent"} {
		if links, err := LinksInside(path); !errors.Is(err, ErrNetnsGone) || links != nil {
			t.Errorf("%s: %+v, %v, want %v", path, links, err, ErrNetnsGone)
		}
	}
}
