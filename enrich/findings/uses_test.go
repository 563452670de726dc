// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// visited is a remote client's connection to the healthy host's web server, at a second. No rule sends it to the container
// if a proxy carries it.
func visited(mechanism enrich.Mechanism, from, to string, seconds int) enrich.PublishedConnection {
	c := enrich.PublishedConnection{
		Identity: webOn("front", "", "").Identity, Scope: enrich.ScopeHost, ContainerID: webID, Port: 8080, Protocol: "tcp",
		Client: enrich.ClientRemote, Mechanism: mechanism, Preserved: mechanism == enrich.NoMechanism,
	}
	c.At = at(seconds)
	c.Original = loader.Tuple{Source: addrPort(from), Destination: addrPort(to)}
	c.Reply = loader.Tuple{Source: c.Original.Destination, Destination: c.Original.Source}
	if mechanism == enrich.NoMechanism {
		c.Reply.Source = addrPort("172.20.0.2:80")
	}
	return c
}

func attempts(all ...enrich.PublishedConnection) enrich.NAT { return enrich.NAT{Attempts: all} }

func connections(all ...enrich.PublishedConnection) enrich.NAT { return enrich.NAT{Connections: all} }

// plain compares addresses by their values.
var plain = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func TestRecentUses(t *testing.T) {
	const client, client6, to, to6 = "203.0.113.9:50000", "[2001:db8::9]:50000", "192.168.1.5:8080", "[2001:db8::5]:8080"
	kept, carried := visited(enrich.NoMechanism, client, to, 0), visited(enrich.UserlandProxy, client, to, 0)
	carried6 := visited(enrich.UserlandProxy, client6, to6, 0)
	local := carried
	local.Client, local.Original.Source = enrich.ClientHost, addrPort("192.168.1.5:50000")
	latest := visited(enrich.NoMechanism, "203.0.113.8:1", to, 40)
	r := NewRecent()
	r.AddNAT(attempts(kept, kept, carried, carried6, local, visited(enrich.UserlandProxy, "[fe80::9]:50000", "[fe80::5]:8080", 0)), at(0))
	r.AddNAT(connections(kept, carried, visited(enrich.UserlandProxy, "[fe80::9]:50000", "[fe80::5]:8080", 0)), at(1))
	r.AddNAT(connections(latest), at(40))
	late := kept // what is told late
	late.At = at(-3)
	r.AddNAT(attempts(late), at(41))

	use := func(c enrich.PublishedConnection, attempts, untranslated, connections uint64) Use { // opened at 0
		return Use{
			Subject: webOn("front", enrich.ScopeHost, "8080/tcp"), ContainerID: webID, Port: 8080, Protocol: "tcp",
			Client: c.Client, Mechanism: c.Mechanism, Preserved: c.Preserved,
			Attempts: attempts, Untranslated: untranslated, Connections: connections, Opened: at(0), Example: c,
		}
	}
	want := []Use{use(local, 1, 1, 0), use(latest, 3, 0, 2), use(carried, 1, 1, 1), use(carried6, 1, 1, 0)}
	if diff := cmp.Diff(want, filled(r, 45).Uses, plain); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
	want = []Use{use(latest, 1, 0, 1)}
	if diff := cmp.Diff(want, filled(r, 70).Uses, plain); diff != "" {
		t.Errorf("after a minute (-want +got):\n%s", diff)
	}
	if got := filled(r, 110).Uses; len(got) != 0 || len(r.uses.entries) != 0 {
		t.Errorf("after the window: %+v, %d kept", got, len(r.uses.entries))
	}
}

// TestRecentUsesAreJoined: what a container sees is known late, and tells more than a later client of whom it is not known.
func TestRecentUsesAreJoined(t *testing.T) {
	first := visited(enrich.UserlandProxy, "203.0.113.9:50000", "192.168.1.5:8080", 0)
	joined, later := first, visited(enrich.UserlandProxy, "203.0.113.8:1", "192.168.1.5:8080", 2)
	joined.Seen, joined.Inferred = addrPort("172.20.0.1:41000"), true
	r := NewRecent()
	r.AddNAT(enrich.NAT{Joined: []enrich.PublishedConnection{joined}}, at(0)) // of one that was before the agent
	if got := filled(r, 0).Uses; len(got) != 0 {
		t.Errorf("counted what was told before: %+v", got)
	}
	r.AddNAT(connections(first), at(0))
	r.AddNAT(enrich.NAT{Joined: []enrich.PublishedConnection{joined}}, at(1))
	r.AddNAT(connections(later), at(2))
	got := filled(r, 3).Uses
	if len(got) != 1 || got[0].Connections != 2 {
		t.Fatalf("uses: %+v", got)
	}
	if diff := cmp.Diff(joined, got[0].Example, plain); diff != "" {
		t.Errorf("example (-want +got):\n%s", diff)
	}
}

func TestRecentConntrack(t *testing.T) {
	r := NewRecent()
	require := func(seconds int, stats *loader.ConntrackStats, want ConntrackRise) {
		t.Helper()
		view := healthy()
		view.Now = at(seconds)
		view.Host.ConntrackStats = stats
		if r.Fill(&view); view.Conntrack != want {
			t.Errorf("at %d s: %+v, want %+v", seconds, view.Conntrack, want)
		}
	}
	require(0, &loader.ConntrackStats{InsertFailed: 100, Drop: 10, Invalid: 1000}, ConntrackRise{}) // since boot
	require(5, &loader.ConntrackStats{InsertFailed: 103, Drop: 10, Invalid: 1050}, ConntrackRise{InsertFailed: 3, Invalid: 50})
	require(10, nil, ConntrackRise{InsertFailed: 3, Invalid: 50}) // could not be read
	require(15, &loader.ConntrackStats{InsertFailed: 103, Drop: 12, Invalid: 1051}, ConntrackRise{InsertFailed: 3, Drop: 2, Invalid: 51})
	require(80, &loader.ConntrackStats{InsertFailed: 103, Drop: 12, Invalid: 1051}, ConntrackRise{})
	// The sum of two processors' counters of 32 bits, of which first one and then the other begins again; then all do.
	const all = 1 << 32
	require(160, &loader.ConntrackStats{InsertFailed: all - 1 + 50, Drop: all - 10 + all - 20, Invalid: 1051}, ConntrackRise{
		InsertFailed: all - 1 + 50 - 103, Drop: all - 10 + all - 20 - 12,
	})
	require(230, &loader.ConntrackStats{InsertFailed: 4 + 50, Drop: 3 + all - 15, Invalid: 1052}, ConntrackRise{InsertFailed: 5, Drop: 18, Invalid: 1})
	require(300, &loader.ConntrackStats{InsertFailed: 54, Drop: 5 + 2, Invalid: 1052}, ConntrackRise{Drop: 19})
	require(370, &loader.ConntrackStats{InsertFailed: 2, Drop: 3, Invalid: 0}, ConntrackRise{InsertFailed: 2, Drop: 3})
	r.AddNetns(webID, loader.NetnsState{Conntrack: loader.ConntrackStats{InsertFailed: 3 << 30}}, at(375))
	r.AddNetns(webID, loader.NetnsState{Conntrack: loader.ConntrackStats{InsertFailed: 7}}, at(380))
	if diff := cmp.Diff(map[string]Rise{webID: {InsertFailed: 7}}, filled(r, 380).Rises); diff != "" {
		t.Errorf("of a container that has started again (-want +got):\n%s", diff)
	}
	r.AddNetns(webID, loader.NetnsState{Conntrack: loader.ConntrackStats{InsertFailed: 9}}, at(450))
	if diff := cmp.Diff(map[string]Rise{webID: {InsertFailed: 2}}, filled(r, 450).Rises); diff != "" {
		t.Errorf("of a container (-want +got):\n%s", diff)
	}
}
