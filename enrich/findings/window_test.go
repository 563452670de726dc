// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// dropped is a drop of the healthy host's web server, or of whoever has the ID.
func dropped(cause, id string, packets uint64) enrich.Drop {
	var d enrich.Drop
	d.Packets = packets
	d.Cause, d.Kind, d.Scope, d.ContainerID = cause, enrich.KindFault, enrich.ScopeHost, id
	if id != "" {
		d.Identity = webOn("front", "", "").Identity
	}
	d.Source, d.Destination = addr("172.20.0.2"), addr("203.0.113.7")
	return d
}

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// filled is the healthy host's view with what is recent at a second.
func filled(r *Recent, seconds int) View {
	view := healthy()
	view.Now = at(seconds)
	r.Fill(&view)
	return view
}

func TestRecentLosses(t *testing.T) {
	r := NewRecent()
	r.AddDrops([]enrich.Drop{dropped("filtered", webID, 3), dropped("filtered", "", 5), dropped("hairpin", webID, 7)}, at(0))
	benign, application, policy := dropped("multicast", webID, 9), dropped("no-listener", webID, 9), dropped("icc-false", webID, 9)
	benign.Kind, application.Kind, policy.Kind = enrich.KindBenign, enrich.KindApplication, enrich.KindPolicy
	r.AddDrops([]enrich.Drop{benign, application, policy}, at(1))
	last := dropped("filtered", webID, 4)
	last.Function = "the latest"
	r.AddDrops([]enrich.Drop{last}, at(32))
	blurred := dropped("filtered", webID, 1)
	blurred.Source, blurred.Destination, blurred.Other = netip.Addr{}, netip.Addr{}, true
	r.AddDrops([]enrich.Drop{blurred}, at(33))

	nobody, somebody := Subject{Scope: enrich.ScopeHost}, webOn("front", enrich.ScopeHost, "")
	want := []Loss{
		{Subject: nobody, Cause: "filtered", Kind: enrich.KindFault, Packets: 5, First: at(0), Last: at(0), Example: dropped("filtered", "", 5)},
		{Subject: somebody, Cause: "filtered", Kind: enrich.KindFault, Packets: 8, Repeated: 4, First: at(0), Last: at(33), Example: last},
		{Subject: somebody, Cause: "hairpin", Kind: enrich.KindFault, Packets: 7, First: at(0), Last: at(0), Example: dropped("hairpin", webID, 7)},
		{Subject: somebody, Cause: "icc-false", Kind: enrich.KindPolicy, Packets: 9, First: at(1), Last: at(1), Example: policy},
	}
	addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, filled(r, 35).Losses, addresses); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	// A minute after the first, give or take a slot: only the later ones are left.
	got := filled(r, 65).Losses
	if len(got) != 1 || got[0].Packets != 5 || got[0].First.Before(at(30)) {
		t.Errorf("after a minute: %+v", got)
	}
	if got := filled(r, 100).Losses; len(got) != 0 || len(r.losses.entries) != 0 {
		t.Errorf("after the window: %+v, %d kept", got, len(r.losses.entries))
	}
}

// TestRecentCountsEveryWindow compares with a sum over all that was added, at any moment.
func TestRecentCountsEveryWindow(t *testing.T) {
	r := NewRecent()
	added := map[int]uint64{}
	for second := range 300 {
		n := uint64(second*7919%13 + 1)
		added[second] = n
		r.AddDrops([]enrich.Drop{dropped("filtered", webID, n)}, at(second))
		var most, least uint64
		for s, n := range added {
			if second-s < 60 {
				most += n
			}
			if second-s < 55 {
				least += n
			}
		}
		if got := filled(r, second).Losses[0].Packets; got > most || got < least {
			t.Fatalf("at %d s: %d packets, want %d to %d", second, got, least, most)
		}
	}
}

func TestRecentTellsWhoAdapts(t *testing.T) {
	to := func(n byte, packets uint64) []enrich.Drop {
		d := dropped("mtu-route", webID, packets)
		d.Destination = netip.AddrFrom4([4]byte{203, 0, 113, n})
		return []enrich.Drop{d}
	}
	r := NewRecent()
	for i := range 50 { // to a new destination each second; the last of those with a place is forgotten at 65
		r.AddDrops(to(byte(i), 10), at(i))
		r.AddDrops(to(byte(i), 10), at(i).Add(1900*time.Millisecond))
	}
	if got := filled(r, 52).Losses[0].Repeated; got != 0 {
		t.Errorf("%d repeated to destinations that were new", got)
	}
	r.AddDrops(to(200, 10), at(66))
	r.AddDrops(to(200, 1), at(68))
	r.AddDrops(to(200, 1), at(84))
	if got := filled(r, 84).Losses[0].Repeated; got != 2 {
		t.Errorf("%d repeated, want 2", got)
	}
	r.AddDrops(to(200, 10), at(300))
	if got := filled(r, 300).Losses[0].Repeated; got != 0 {
		t.Errorf("%d repeated long after", got)
	}
}

// TestRecentTellsWhoOfManyAdapts has a server whose clients do not adapt, more of them than are remembered.
func TestRecentTellsWhoOfManyAdapts(t *testing.T) {
	r := NewRecent()
	for second := range 30 {
		for client := range byte(5 * maxTargets) {
			d := dropped("mtu-route", webID, 1)
			d.Destination = netip.AddrFrom4([4]byte{203, 0, 113, client})
			r.AddDrops([]enrich.Drop{d}, at(second))
		}
	}
	if got, want := filled(r, 30).Losses[0].Repeated, uint64(28*maxTargets); got != want {
		t.Errorf("%d repeated, want %d", got, want)
	}
}

func TestRecentKnowsFormerContainers(t *testing.T) {
	r := NewRecent()
	d := dropped("dead-endpoint", webID, 50)
	d.Destination = addr("172.20.0.3")
	filled(r, 0) // the database is there
	for second, want := range map[int]bool{10: true, 50: true, 60: false} {
		r.AddDrops([]enrich.Drop{d}, at(second))
		view := healthy()
		view.Now = at(second)
		view.Inventory.Containers = view.Inventory.Containers[1:]
		r.mu.Lock()
		r.addresses[addr("172.20.0.3")] = at(0)
		r.mu.Unlock()
		r.Fill(&view)
		if got := view.Losses[0].ToContainer; got != want {
			t.Errorf("%d s after its end: ToContainer %v", second, got)
		}
	}
}

// A task on another node has an address as one here does.
func TestRecentKnowsFormerTasks(t *testing.T) {
	for second, want := range map[int]bool{59: true, 60: false} {
		r := NewRecent()
		view := healthySwarm()
		view.Now = at(0)
		d := dropped("dead-endpoint", webID, 50)
		task := remoteTask("n9", 99, third)
		n := &view.Cluster.Networks[1]
		n.Endpoints, d.Destination = append(n.Endpoints, task), task.Address
		r.Fill(&view)
		r.AddDrops([]enrich.Drop{d}, at(second))
		view.Now, view.Cluster.Networks = at(second), nil
		r.Fill(&view)
		if got := view.Losses[0].ToContainer; got != want {
			t.Errorf("%d s after its end: ToContainer %v", second, got)
		}
	}
}

func TestRecentLeaks(t *testing.T) {
	r := NewRecent()
	out := func(id string, packets, resets uint64) enrich.Egress {
		e := enrich.Egress{Identity: webOn("front", "", "").Identity, ContainerID: id}
		e.Source, e.Counts.Packets, e.Resets = addr("172.20.0.2"), packets, resets
		return e
	}
	r.AddEgress([]enrich.Egress{out(webID, 10, 1), out("", 99, 0)}, at(0))
	r.AddEgress([]enrich.Egress{out(webID, 20, 2)}, at(30))
	want := []Leak{{Subject: webOn("front", enrich.ScopeHost, ""), Packets: 30, Resets: 3, Example: out(webID, 20, 2).Egress}}
	if diff := cmp.Diff(want, filled(r, 31).Leaks, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("leaks (-want +got):\n%s", diff)
	}
	if got := filled(r, 65).Leaks; len(got) != 1 || got[0].Packets != 20 || got[0].Resets != 2 {
		t.Errorf("after a minute: %+v", got)
	}
	if got := filled(r, 95).Leaks; len(got) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

// TestRecentLeaksAnswered has a container that sends to a site with routes back, and to others without.
func TestRecentLeaksAnswered(t *testing.T) {
	r := NewRecent()
	site, other := addr("10.50.0.1"), addr("198.51.100.1")
	out := func(to netip.Addr, packets uint64, seconds int) {
		e := enrich.Egress{Identity: webOn("front", "", "").Identity, ContainerID: webID}
		e.Source, e.Destination, e.Counts.Packets = addr("172.20.0.2"), to, packets
		r.AddEgress([]enrich.Egress{e}, at(seconds))
	}
	back := func(from netip.Addr, seconds int) {
		f := enrich.Flow{Identity: webOn("front", "", "").Identity, ContainerID: webID, Via: enrich.ViaContainer}
		f.Peer, f.Remote, f.RX.Packets = enrich.Peer{Service: enrich.External}, from, 1
		f.Protocol = 1
		r.AddFlows([]enrich.Flow{f}, at(seconds))
	}
	require := func(seconds int, want uint64, example netip.Addr) {
		t.Helper()
		var packets uint64
		var to netip.Addr
		for _, l := range filled(r, seconds).Leaks {
			packets, to = l.Packets, l.Example.Destination
		}
		if packets != want || to != example {
			t.Errorf("at %d s: %d packets, to %v; want %d, %v", seconds, packets, to, want, example)
		}
	}
	out(site, 100, 0)
	require(0, 100, site)
	back(addr("203.0.113.9"), 1) // a client of the container's: nothing leaked there
	require(1, 100, site)
	back(site, 2)
	out(site, 100, 3)
	require(3, 0, netip.Addr{})
	out(other, 20, 4)
	out(site, 100, 5)
	back(site, 5)
	require(5, 20, other)
	for i := range byte(2 * maxTargets) { // more than are remembered
		out(netip.AddrFrom4([4]byte{198, 51, 100, 10 + i}), 1, 6)
	}
	require(6, 20+maxTargets-2, netip.AddrFrom4([4]byte{198, 51, 100, 10 + maxTargets - 3}))
	out(site, 7, 70) // no answer for more than the Window
	require(70, 7, site)
	if filled(r, 200); len(r.leaks.entries) != 0 {
		t.Error("a leak that has ended is kept")
	}
}

func TestRecentInbound(t *testing.T) {
	flow := func(change func(*enrich.Flow)) enrich.Flow {
		f := enrich.Flow{Identity: webOn("front", "", "").Identity, ContainerID: webID, Scope: enrich.ScopeContainer, Via: enrich.ViaContainer}
		f.Peer = enrich.Peer{Service: enrich.External}
		f.Remote, f.RemotePort, f.LocalPort, f.Protocol = addr("203.0.113.9"), 50000, 80, 6
		f.RX.Packets, f.TX.Packets = 5, 5
		if change != nil {
			change(&f)
		}
		return f
	}
	r := NewRecent()
	r.AddFlows([]enrich.Flow{
		flow(nil),
		flow(func(f *enrich.Flow) { f.RemotePort = 50001 }),
		flow(func(f *enrich.Flow) { f.LocalPort, f.RemotePort = 40000, 443 }),               // the container is the client
		flow(func(f *enrich.Flow) { f.LocalPort, f.RemotePort, f.Protocol = 123, 123, 17 }), // NTP: nobody's port
		flow(func(f *enrich.Flow) { f.RX.Packets = 0 }),
		flow(func(f *enrich.Flow) { f.Peer.Service = enrich.Host }),
		flow(func(f *enrich.Flow) { f.Peer = enrich.Peer{Service: "db", Local: true} }),
		flow(func(f *enrich.Flow) { f.Via = enrich.ViaBridge }),
		flow(func(f *enrich.Flow) { f.Protocol, f.LocalPort, f.RemotePort = 1, 8, 8 }),
		flow(func(f *enrich.Flow) { f.LocalPort, f.Other = 0, true }),
	}, at(0))
	want := []Inbound{{
		Subject: webOn("front", enrich.ScopeContainer, ""), ContainerID: webID, Port: 80, Protocol: 6, Packets: 10,
		Remote: addr("203.0.113.9"),
	}}
	if diff := cmp.Diff(want, filled(r, 1).Inbound, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("inbound (-want +got):\n%s", diff)
	}
	if got := filled(r, 61).Inbound; len(got) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

func TestRecentRises(t *testing.T) {
	r := NewRecent()
	add := func(seconds int, overflows uint64) {
		r.AddNetns(webID, loader.NetnsState{ListenOverflows: overflows, ListenDrops: 2 * overflows}, at(seconds))
	}
	require := func(seconds int, want map[string]Rise) {
		t.Helper()
		if diff := cmp.Diff(want, filled(r, seconds).Rises); diff != "" {
			t.Errorf("after %d s (-want +got):\n%s", seconds, diff)
		}
	}
	add(0, 1000) // long ago
	require(0, map[string]Rise{})
	add(5, 1007)
	add(10, 1010)
	require(10, map[string]Rise{webID: {ListenOverflows: 10, ListenDrops: 20}})
	add(15, 4) // a new namespace
	require(15, map[string]Rise{webID: {ListenOverflows: 14, ListenDrops: 28}})
	add(71, 4)
	require(71, map[string]Rise{webID: {ListenOverflows: 4, ListenDrops: 8}})
	require(140, map[string]Rise{})
	if len(r.listening.entries) != 0 {
		t.Error("a namespace that is gone is kept")
	}
}

func TestRecentRefusals(t *testing.T) {
	r := NewRecent()
	require := func(seconds int, want, ipv4, ipv6 uint64, limit int) {
		t.Helper()
		view := healthy()
		view.Now = at(seconds)
		view.Host.Neighbours4 = loader.Table{Limit: limit, Overflows: ipv4}
		view.Host.Neighbours6 = loader.Table{Limit: limit, Overflows: ipv6}
		if r.Fill(&view); view.NeighboursRefused != want {
			t.Errorf("at %d s: %d refused, want %d", seconds, view.NeighboursRefused, want)
		}
	}
	require(0, 0, 500, 50, 1024) // since boot
	require(5, 7, 504, 53, 1024)
	require(10, 7, 0, 0, 0) // could not be read
	require(15, 8, 505, 53, 1024)
	require(80, 0, 505, 53, 1024)
}

func TestRecentIsBounded(t *testing.T) {
	r := NewRecent()
	many := 3 * maxLosses
	for i := range many {
		d := dropped("filtered", webID, 2)
		d.Container = strconv.Itoa(i)
		d.Tunnel = &enrich.Tunnel{VNI: uint32(i)}
		r.AddDrops([]enrich.Drop{d}, at(0))
		e := enrich.Egress{Identity: d.Identity, ContainerID: webID}
		e.Counts.Packets = 3
		r.AddEgress([]enrich.Egress{e}, at(0))
		f := enrich.Flow{ContainerID: d.Container, Via: enrich.ViaContainer, Peer: enrich.Peer{Service: enrich.External}}
		f.LocalPort, f.RemotePort, f.Protocol, f.RX.Packets = 80, 50000, 6, 5
		r.AddFlows([]enrich.Flow{f}, at(0))
		r.AddNetns(d.Container, loader.NetnsState{}, at(0))
		c := visited(enrich.UserlandProxy, "203.0.113.9:50000", "192.168.1.5:8080", 0)
		c.Container, c.ContainerID = d.Container, d.Container
		r.AddNAT(enrich.NAT{Attempts: []enrich.PublishedConnection{c}}, at(0))
		r.AddDNS(crowded(d.Container), at(0))
		r.AddOverlay(crowdedOverlay(i), at(0))
	}
	known := dropped("filtered", webID, 100)
	known.Container = "0"
	r.AddDrops([]enrich.Drop{known}, at(1))

	if len(r.unserved.entries) != maxUnserved {
		t.Errorf("kept %d unserved ports", len(r.unserved.entries))
	}
	view := filled(r, 2)
	if len(view.Losses) != maxLosses || len(view.Leaks) != maxLeaks || len(view.Inbound) != maxInbound || len(r.listening.entries) != maxNetns {
		t.Errorf("kept %d losses, %d leaks, %d inbound, %d namespaces",
			len(view.Losses), len(view.Leaks), len(view.Inbound), len(r.listening.entries))
	}
	if len(view.Uses) != maxUses {
		t.Errorf("kept %d uses", len(view.Uses))
	}
	if view.Losses[0].Packets != 102 {
		t.Errorf("of one that is known: %d packets", view.Losses[0].Packets)
	}
	want := []loader.Loss{
		{Place: "recent_losses", Count: 2 * uint64(many-maxLosses)},
		{Place: "recent_leaks", Count: 3 * uint64(many-maxLeaks)},
		{Place: "recent_inbound", Count: 5 * uint64(many-maxInbound)},
		{Place: "recent_uses", Count: uint64(many - maxUses)},
		{Place: "recent_unserved", Count: uint64(many - maxUnserved)},
		{Place: "recent_lookups", Count: uint64(2*many - maxLegs)},
		{Place: "recent_servers", Count: uint64(many - maxServers)},
		{Place: "recent_misnamed", Count: uint64(many - maxMisnamed)},
		{Place: "recent_collisions", Count: uint64(many - maxCollisions)},
		{Place: "recent_stale", Count: uint64(many - maxStale)},
		{Place: "recent_truncated", Count: uint64(many - maxTruncated)},
		{Place: "recent_channels", Count: uint64(many - maxChannels)},
		{Place: "recent_strangers", Count: uint64(many - maxStrangers)},
		{Place: "recent_misses", Count: uint64(many - maxMissed)},
		{Place: "recent_tunnel_losses", Count: 2 * uint64(many-maxTunnelLosses)},
		{Place: "recent_talks"},
	}
	if diff := cmp.Diff(want, r.Overflow()); diff != "" {
		t.Errorf("overflow (-want +got):\n%s", diff)
	}
	filled(r, 100) // room again
	r.AddDrops([]enrich.Drop{dropped("filtered", webID, 2)}, at(101))
	if got := filled(r, 101).Losses; len(got) != 1 {
		t.Errorf("after the window: %+v", got)
	}
}
