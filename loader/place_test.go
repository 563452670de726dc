// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// enterFreshNetns gives the calling goroutine a network namespace of its own, for good: its thread ends with it. It is
// the test's host. Goroutines that the test starts are elsewhere.
func enterFreshNetns(tb testing.TB) {
	tb.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatal(err)
	}
	setUpNetns(tb)
}

// setUpNetns makes a new namespace usable and quiet: nobody looks for IPv6 neighbours or routers.
func setUpNetns(tb testing.TB) {
	tb.Helper()
	write(tb, "/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1")
	write(tb, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
	setUp(tb, "lo")
}

// namespace is a network namespace that lives as long as the test.
type namespace struct{ file *os.File }

func newNamespace(tb testing.TB) namespace {
	tb.Helper()
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			made <- result{err: err}
			return
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		made <- result{file, errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))}
	}()
	r := <-made
	if r.err != nil {
		tb.Fatal(r.err)
	}
	tb.Cleanup(func() { mustClose(tb, r.file) })
	n := namespace{r.file}
	n.do(tb, func() { setUpNetns(tb) })
	return n
}

func (n namespace) path() string { return fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()) }

// do runs f in the namespace. f must not end the test.
func (n namespace) do(tb testing.TB, f func()) {
	tb.Helper()
	err := inNetns(n.path(), func() error {
		f()
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// netns is the number that the programs have for the namespace.
func (n namespace) netns(tb testing.TB) Netns {
	tb.Helper()
	var number Netns
	n.do(tb, func() { number = ownNetns(tb) })
	return number
}

func (n namespace) inode(tb testing.TB) (inode uint32) {
	tb.Helper()
	n.do(tb, func() { inode = ownInode(tb) })
	return inode
}

// ownNetns is the number that the programs have for the calling thread's namespace, as the kernel itself tells it.
func ownNetns(tb testing.TB) Netns {
	tb.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(socket)
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) { // before 5.14
		return Netns(ownInode(tb))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return Netns(cookie)
}

func ownInode(tb testing.TB) uint32 {
	tb.Helper()
	inode, err := HostNetnsInode()
	if err != nil {
		tb.Fatal(err)
	}
	return inode
}

// vethPair makes a veth as Docker does: outside stays here, inside goes into the namespace. Both are up, with addresses
// 192.0.2.1 outside and 192.0.2.2 inside.
func vethPair(tb testing.TB, to namespace) (outside Link) {
	tb.Helper()
	addLink(tb, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "outside"}, PeerName: "inside"})
	inside := mustLink(tb, "inside")
	if err := netlink.LinkSetNsFd(inside, int(to.file.Fd())); err != nil {
		tb.Fatal(err)
	}
	addAddress(tb, "outside", "192.0.2.1/24")
	setUp(tb, "outside")
	to.do(tb, func() {
		addAddress(tb, "inside", "192.0.2.2/24")
		setUp(tb, "inside")
	})
	return newLink(mustLink(tb, "outside"))
}

func addLink(tb testing.TB, link netlink.Link) {
	tb.Helper()
	if err := netlink.LinkAdd(link); err != nil {
		tb.Fatalf("add %s %s: %v", link.Type(), link.Attrs().Name, err)
	}
}

func mustLink(tb testing.TB, name string) netlink.Link {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	return link
}

func deleteLink(tb testing.TB, name string) {
	tb.Helper()
	if err := netlink.LinkDel(mustLink(tb, name)); err != nil {
		tb.Fatal(err)
	}
}

func setUp(tb testing.TB, name string) {
	tb.Helper()
	if err := netlink.LinkSetUp(mustLink(tb, name)); err != nil {
		tb.Fatal(err)
	}
}

func addAddress(tb testing.TB, name, address string) {
	tb.Helper()
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		tb.Fatal(err)
	}
	if err := netlink.AddrAdd(mustLink(tb, name), parsed); err != nil {
		tb.Fatal(err)
	}
}

func write(tb testing.TB, file, text string) {
	tb.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		tb.Fatal(err)
	}
}

// sendFrames puts frames on a device of the calling thread's namespace, with nothing in between.
func sendFrames(tb testing.TB, device string, frames ...[]byte) {
	tb.Helper()
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(socket)
	to := &unix.SockaddrLinklayer{Ifindex: mustLink(tb, device).Attrs().Index}
	for _, frame := range frames {
		if err := unix.Sendto(socket, frame, 0, to); err != nil {
			tb.Fatalf("send %x: %v", frame, err)
		}
	}
}

// eventually waits until condition holds.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within 5 s", what)
		}
	}
}
