// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// advertiseRouter sends router advertisements from a device of the calling thread's namespace to all who are there. The
// kernel adds the checksum.
func advertiseRouter(tb testing.TB, device string) {
	tb.Helper()
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		tb.Fatal(err)
	}
	message := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0} // RFC 4861, 4.2: lifetime 1800 s
	to := &unix.SockaddrInet6{ZoneId: uint32(mustLink(tb, device).Attrs().Index)}
	copy(to.Addr[:], net.ParseIP("ff02::1"))
	if err := unix.Sendto(socket, message, 0, to); err != nil {
		tb.Fatalf("send router advertisement: %v", err)
	}
}

// enableIPv6 gives a device of the calling thread's namespace an address that is good at once. It must not end the test.
func enableIPv6(tb testing.TB, device, address string) {
	tb.Helper()
	out, err := exec.Command("sh", "-c", `
		sysctl -qw net.ipv6.conf.$0.addr_gen_mode=1 net.ipv6.conf.$0.disable_ipv6=0 &&
		ip address add "$1" dev "$0" nodad`, device, address).CombinedOutput()
	if err != nil {
		tb.Errorf("enable IPv6 on %s: %v: %s", device, err, out)
	}
}

func TestIgnoredRouters(t *testing.T) {
	enterFreshNetns(t)
	router := newNamespace(t)
	outside := vethPair(t, router)
	enableIPv6(t, "outside", "fe80::1/64")
	router.do(t, func() { enableIPv6(t, "inside", "fe80::2/64") })
	// Set all's first: it resets the links'.
	write(t, "/proc/sys/net/ipv6/conf/all/forwarding", "1")
	set := func(setting, value string) { write(t, "/proc/sys/net/ipv6/conf/outside/"+setting, value) }
	set("accept_ra", "1")
	ignored := func() bool {
		s := mustReadHost(t, HostQuery{})
		for _, index := range s.RouterAdvertised6 {
			if index != outside.Index {
				t.Errorf("nobody advertises on link %d", index)
			}
		}
		return slices.Contains(s.RouterAdvertised6, outside.Index)
	}

	if ignored() {
		t.Error("there is no router")
	}
	router.do(t, func() { advertiseRouter(t, "inside") })
	eventually(t, "a router is ignored", ignored)
	if routes := run(t, "ip", "-6", "route"); strings.Contains(routes, "proto ra") {
		t.Errorf("and is not: %s", routes)
	}

	set("forwarding", "0")
	if ignored() {
		t.Error("without forwarding it is listened to")
	}
	set("forwarding", "1")
	set("accept_ra", "2")
	if ignored() {
		t.Error("with accept_ra 2 it is listened to")
	}
	// The kernel says so too: the route is there now.
	router.do(t, func() { advertiseRouter(t, "inside") })
	eventually(t, "the router is used", func() bool { return strings.Contains(run(t, "ip", "-6", "route"), "proto ra") })
	set("accept_ra", "0")
	if ignored() {
		t.Error("with accept_ra 0 it was not asked for")
	}
	set("accept_ra", "1")
	if !ignored() {
		t.Error("with accept_ra 1 it is ignored")
	}
	set("disable_ipv6", "1")
	if ignored() {
		t.Error("the link has no IPv6")
	}
	set("disable_ipv6", "0")
	run(t, "ip", "link", "add", "bridge", "type", "bridge")
	run(t, "ip", "link", "set", "outside", "master", "bridge")
	if ignored() {
		t.Error("the link is a bridge's port")
	}
	run(t, "ip", "link", "set", "outside", "nomaster")
	if !ignored() {
		t.Error("the link is a port no more")
	}
	run(t, "ip", "link", "set", "outside", "down")
	if ignored() {
		t.Error("the link is down")
	}
}

// A message that ends early, or lies, is one without settings, and harms nobody.
func TestShortLinkMessages(t *testing.T) {
	enterFreshNetns(t)
	messages, err := listLinks()
	if err != nil || len(messages) == 0 {
		t.Fatalf("%d links, %v", len(messages), err)
	}
	for _, m := range messages {
		for size := range m {
			inet6Conf(m[:size:size])
			broken := bytes.Clone(m)
			broken[size] ^= 0xff
			inet6Conf(broken)
		}
	}
}
