// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// evidence is what a drop says of how far the packet had come through netfilter.
type evidence struct {
	Routed    bool
	DNAT      bool
	Initiator netip.Addr
	Responder netip.Addr
}

// What netfilter drops is told apart by whether the packet had a route, and whether its destination was translated.
func TestDropsByNetfilter(t *testing.T) {
	client, server := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.9")
	enterFreshNetns(t)
	inside := newNamespace(t)
	vethPair(t, inside)
	write(t, "/proc/sys/net/ipv4/ip_forward", "1")
	run(t, "ip", "route", "add", "198.51.100.0/24", "via", client.String())
	for _, chain := range []string{
		"raw { type filter hook prerouting priority -300; udp dport 7 drop; }",
		"nat { type nat hook prerouting priority -100; udp dport 8 dnat to 198.51.100.9:80; }",
		"forward { type filter hook forward priority 0; drop; }",
	} {
		run(t, "nft", "table ip lab { chain "+chain+"; }")
	}
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	for _, tc := range []struct {
		name  string
		to    string
		lands uint16 // port that it has when it is dropped
		want  evidence
	}{
		{"before routing", "198.51.100.9:7", 7, evidence{}},
		{"forwarded", "198.51.100.9:9", 9, evidence{Routed: true, Initiator: client, Responder: server}},
		{"translated", "192.0.2.1:8", 80, evidence{Routed: true, DNAT: true, Initiator: client, Responder: server}},
	} {
		inside.do(t, func() {
			run(t, "ip", "route", "replace", "default", "via", "192.0.2.1")
			sendUDP(t, mustListenUDP(t, "192.0.2.2:0"), netip.MustParseAddrPort(tc.to), 3, 10)
		})
		got := to(here(mustRead(t, drops.Read), ownNetns(t)), tc.lands)
		if sum := sumDrops(got); sum.Skbs != 3 || len(got) != 1 {
			t.Fatalf("%s: drops %+v, want one entry of 3", tc.name, got)
		}
		d := got[0]
		if diff := cmp.Diff(tc.want, evidence{d.Routed, d.DNAT, d.Initiator, d.Responder},
			cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", tc.name, diff)
		}
	}
}

// What is lost because the other end of a link went down is told apart from what a queue drops.
func TestDropsAtDownLink(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	run(t, "ip", "neighbour", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "outside", "nud", "permanent")
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	inside.do(t, func() { run(t, "ip", "link", "set", "inside", "down") })
	sendUDP(t, mustListenUDP(t, "192.0.2.1:0"), netip.MustParseAddrPort("192.0.2.2:9"), 3, 10)
	got := to(here(mustRead(t, drops.Read), ownNetns(t)), closedPort)
	if sum := sumDrops(got); sum.Skbs != 3 {
		t.Fatalf("drops %+v, want 3", got)
	}
	for _, d := range got {
		if !d.LinkDown || d.Device != outside.Index {
			t.Errorf("%s at %s: device %d, down %t; want %d, down", d.Reason, d.Function, d.Device, d.LinkDown, outside.Index)
		}
	}
}
