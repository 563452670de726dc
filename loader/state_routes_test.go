// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink/nl"
)

// addresses compares what netip has no exported fields for.
func addresses() cmp.Option {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})}
}

func TestRoutes(t *testing.T) {
	enterFreshNetns(t)
	vethPair(t, newNamespace(t))
	run(t, "ip", "link", "add", "second", "up", "type", "bridge")
	run(t, "sysctl", "-w", "net.ipv6.conf.outside.disable_ipv6=0", "net.ipv6.conf.outside.addr_gen_mode=1")
	run(t, "ip", "addr", "add", "2001:db8::1/64", "dev", "outside", "nodad")
	for _, route := range []string{
		"default via 192.0.2.9",
		"10.1.0.0/16 dev second proto static",
		"10.2.0.0/16 via inet6 2001:db8::7 dev outside proto 199",
		"blackhole 10.3.0.0/16",
		"unreachable 10.4.0.0/16",
		"10.5.0.0/16 nexthop via 192.0.2.3 nexthop dev second",
		"10.6.0.0/16 dev second table 77", // not the main one
		"default via 2001:db8::9 proto ra",
		"2001:db8:1::/48 nexthop via 2001:db8::3 dev outside nexthop via 2001:db8::4 dev outside",
		"blackhole 2001:db8:2::/48",
	} {
		run(t, "ip", append([]string{"route", "add"}, strings.Fields(route)...)...)
	}

	outside, second := mustLink(t, "outside").Attrs().Index, mustLink(t, "second").Attrs().Index
	prefix, address := netip.MustParsePrefix, netip.MustParseAddr
	want := []Route{
		{prefix("0.0.0.0/0"), outside, address("192.0.2.9"), "boot"},
		{prefix("10.1.0.0/16"), second, netip.Addr{}, "static"},
		{prefix("10.2.0.0/16"), outside, address("2001:db8::7"), "199"},
		{prefix("10.3.0.0/16"), 0, netip.Addr{}, "boot"},
		{prefix("10.4.0.0/16"), 0, netip.Addr{}, "boot"},
		{prefix("10.5.0.0/16"), outside, address("192.0.2.3"), "boot"},
		{prefix("10.5.0.0/16"), second, netip.Addr{}, "boot"},
		{prefix("192.0.2.0/24"), outside, netip.Addr{}, "kernel"},
		{prefix("::/0"), outside, address("2001:db8::9"), "ra"},
		{prefix("2001:db8::/64"), outside, netip.Addr{}, "kernel"},
		{prefix("2001:db8:1::/48"), outside, address("2001:db8::3"), "boot"},
		{prefix("2001:db8:1::/48"), outside, address("2001:db8::4"), "boot"},
		{prefix("2001:db8:2::/48"), 0, netip.Addr{}, "boot"},
	}
	got := mustReadHost(t, HostQuery{}).Routes
	for _, routes := range [][]Route{want, got} {
		slices.SortFunc(routes, func(a, b Route) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	if diff := cmp.Diff(want, got, addresses()); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestNeighbours(t *testing.T) {
	enterFreshNetns(t)
	vethPair(t, newNamespace(t))
	run(t, "sysctl", "-w", "net.ipv6.conf.outside.disable_ipv6=0")
	for _, neighbour := range []string{
		"192.0.2.10 lladdr 02:00:00:00:00:0a nud permanent",
		"192.0.2.11 lladdr 02:00:00:00:00:0b nud reachable",
		"192.0.2.12 nud failed",
		"192.0.2.14 lladdr 02:00:00:00:00:0e nud stale",
		"192.0.2.13 lladdr 02:00:00:00:00:0d nud noarp", // needs no resolution
		"2001:db8::10 lladdr 02:00:00:00:00:1a nud permanent",
	} {
		run(t, "ip", append(append([]string{"neigh", "add"}, strings.Fields(neighbour)...), "dev", "outside")...)
	}
	outside := mustLink(t, "outside").Attrs().Index
	want := []Neighbour{
		{outside, netip.MustParseAddr("192.0.2.10"), [6]byte{2, 0, 0, 0, 0, 0x0a}, false, true},
		{outside, netip.MustParseAddr("192.0.2.11"), [6]byte{2, 0, 0, 0, 0, 0x0b}, false, true},
		{outside, netip.MustParseAddr("192.0.2.12"), [6]byte{}, true, false},
		{outside, netip.MustParseAddr("192.0.2.14"), [6]byte{2, 0, 0, 0, 0, 0x0e}, false, false},
		{outside, netip.MustParseAddr("2001:db8::10"), [6]byte{2, 0, 0, 0, 0, 0x1a}, false, true},
	}
	got := mustReadHost(t, HostQuery{}).Neighbours
	slices.SortFunc(got, func(a, b Neighbour) int { return a.Address.Compare(b.Address) })
	if diff := cmp.Diff(want, got, addresses()); diff != "" {
		t.Errorf("neighbours (-want +got):\n%s", diff)
	}
}

// ipTable is what ip says of a neighbour table.
type ipTable struct {
	Limit     int    `json:"thresh3"` // 0: settings of a device
	Entries   int    `json:"entries"`
	Overflows uint64 `json:"table_fulls"`
}

// The tables are the whole kernel's: others use them meanwhile.
func TestNeighbourTables(t *testing.T) {
	enterFreshNetns(t)
	vethPair(t, newNamespace(t))
	run(t, "sysctl", "-w", "net.ipv6.conf.outside.disable_ipv6=0")
	tables := func() [2]Table {
		var of [2]Table
		for i, name := range []string{"arp_cache", "ndisc_cache"} {
			for _, table := range runJSON[[]ipTable](t, "ip", "-s", "-j", "ntable", "show", "name", name) {
				if table.Limit > 0 {
					of[i] = Table{Entries: table.Entries, Limit: table.Limit, Overflows: table.Overflows}
				}
			}
		}
		return of
	}
	for _, more := range []int{0, 5, 50} {
		for i := range more {
			run(t, "ip", "neigh", "replace", fmt.Sprintf("192.0.2.%d", i+10), "lladdr", "02:00:00:00:00:01", "dev", "outside")
			run(t, "ip", "neigh", "replace", fmt.Sprintf("2001:db8::%d", i+10), "lladdr", "02:00:00:00:00:01", "dev", "outside")
		}
		eventually(t, "ip says the same", func() bool {
			s := mustReadHost(t, HostQuery{})
			got := [2]Table{s.Neighbours4, s.Neighbours6}
			return got == tables() && got[0].Entries >= more && got[1].Entries >= more && got[0].Limit > 0 && got[1].Limit > 0
		})
	}
}

// As the kernel writes it: struct ndt_config and ndt_stats of include/uapi/linux/neighbour.h.
func TestParseNeighbourTable(t *testing.T) {
	encode := func(value any) []byte {
		var out bytes.Buffer
		if err := binary.Write(&out, binary.NativeEndian, value); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	config := nl.NewRtAttr(5, encode(struct {
		KeyLen, EntrySize                                                               uint16
		Entries, LastFlush, LastRand, HashRandom, HashMask, HashChainGC, ProxyQueueSize uint32
	}{4, 200, 1001, 2, 3, 4, 5, 6, 7})).Serialize()
	limit := nl.NewRtAttr(4, encode(uint32(1024))).Serialize()
	stats := nl.NewRtAttr(7, encode(struct {
		Allocs, Destroys, HashGrows, ResFailed, Lookups, Hits, MulticastProbes, UnicastProbes, PeriodicGC, ForcedGC, TableFulls uint64
	}{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})).Serialize()
	header := []byte{2, 0, 0, 0}

	whole, err := parseNeighbourTable(slices.Concat(header, limit, config, stats))
	if want := (Table{Entries: 1001, Limit: 1024, Overflows: 11}); err != nil || whole != want {
		t.Errorf("%+v, %v, want %+v", whole, err, want)
	}
	for name, m := range map[string][]byte{
		"nothing": nil, "no attributes": header, "no limit": slices.Concat(header, config), "no entries": slices.Concat(header, limit),
		"short entries": slices.Concat(header, limit, nl.NewRtAttr(5, []byte{1, 2, 3, 4, 5}).Serialize()),
	} {
		if table, err := parseNeighbourTable(m); err == nil {
			t.Errorf("%s: %+v, want an error", name, table)
		}
	}
}
