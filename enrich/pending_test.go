// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Records that come before their owner is known wait, and are then counted in full.
func TestPendingBecomesKnown(t *testing.T) {
	w := newWorld(t)
	flow := flowOf(11, "172.30.1.2", "198.51.100.1")
	drop := loader.Drop{Netns: 100, Reason: "NO_SOCKET", Counts: loader.Counts{Packets: 3}}
	flows, drops := w.Attribute([]loader.Flow{flow, flow}, []loader.Drop{drop})
	if len(flows)+len(drops) != 0 {
		t.Fatalf("%d flows and %d drops at once, want them to wait", len(flows), len(drops))
	}

	c := on(w.container("alpha"), "web", "172.30.1.2")
	w.netnsIDs[c.PID] = 3
	w.LinkChanged(veth(11, webBridge, 3))
	w.Process(processOf("alpha", 100))
	w.wait(time.Second)
	if flows, drops = w.Attribute(nil, nil); len(flows)+len(drops) != 0 {
		t.Fatalf("%d flows and %d drops of a container without a name, want them to wait", len(flows), len(drops))
	}

	w.PutContainer(c)
	flows, drops = w.Attribute(nil, nil)
	if len(flows) != 2 || flows[0].Container != "alpha" || flows[0].Network != "web" {
		t.Errorf("flows %+v, want 2 of alpha on web", flows)
	}
	if len(drops) != 1 || drops[0].Container != "alpha" || drops[0].Packets != 3 {
		t.Errorf("drops %+v, want one of alpha with 3 packets", drops)
	}
	if flows, drops = w.Attribute(nil, nil); len(flows)+len(drops) != 0 {
		t.Errorf("%d flows and %d drops again", len(flows), len(drops))
	}
}

// A drop on the host at a link whose owner is not known waits too.
func TestPendingOnHost(t *testing.T) {
	w := newTown(t)
	drop := loader.Drop{Netns: hostNetns, InDevice: strangerPort, Source: netip.MustParseAddr("172.30.1.2")}
	if _, drops := w.Attribute(nil, []loader.Drop{drop}); len(drops) != 0 {
		t.Fatalf("at once: %+v, want it to wait", places(drops))
	}
	w.netnsIDs[pidOf("late")] = 9
	w.PutContainer(on(w.container("late"), "web", "172.30.1.9"))
	_, drops := w.Attribute(nil, nil)
	if diff := cmp.Diff([]place{{"late", "web", ScopeHost, TX}}, places(drops)); diff != "" {
		t.Error(diff)
	}
}

// Nobody waits for ever, and who has waited in vain is nobody's.
func TestPatience(t *testing.T) {
	w := newWorld(t)
	w.LinkChanged(veth(12, webBridge, 4))
	flows := []loader.Flow{flowOf(11, "172.30.1.2", "198.51.100.1"), flowOf(12, "172.30.1.3", "198.51.100.1")}
	drops := []loader.Drop{{Netns: 100}, {Netns: hostNetns, InDevice: 12}}
	w.Attribute(flows, drops)
	w.wait(patience - time.Millisecond)
	if f, d := w.Attribute(nil, nil); len(f)+len(d) != 0 {
		t.Fatalf("%d flows and %d drops lost patience", len(f), len(d))
	}
	w.wait(time.Millisecond)
	f, d := w.Attribute(nil, nil)
	if len(f) != 2 || f[0].Via != ViaNobody || f[1].Via != ViaNobody {
		t.Errorf("flows %+v, want 2 of nobody", f)
	}
	if diff := cmp.Diff([]place{{"", "", ScopeUnknown, RX}, {"", "", ScopeHost, RX}}, places(d)); diff != "" {
		t.Errorf("drops: %s", diff)
	}
}

// Readings come every five seconds, a little early or late: what waits costs one of them, and not two.
func TestPatienceIsShorterThanReadings(t *testing.T) {
	w := newCity(t)
	for _, d := range []lost{
		dropped("NEIGH_FAILED", "neigh_invalidate").from("172.30.1.2").to("172.30.1.3").in(alphaPort).made(),
		dropped("NO_TX_TARGET", "br_handle_frame_finish").from("172.30.1.2").to("172.30.1.3").by(alphaPort, alphaPort),
	} {
		w.wait(5 * time.Millisecond) // late
		if _, drops := w.Attribute(nil, []loader.Drop{loader.Drop(d)}); len(drops) != 0 {
			t.Fatalf("%s: settled at once: %+v", d.Reason, drops)
		}
		w.wait(5*time.Second - 5*time.Millisecond)
		if _, drops := w.Attribute(nil, nil); len(drops) != 1 {
			t.Errorf("%s: %d drops at the next reading, want 1", d.Reason, len(drops))
		}
	}
}

// What waits is bounded, and what finds no room is counted as nobody's.
func TestMaxPending(t *testing.T) {
	const more = 10
	w := newWorld(t)
	flows := make([]loader.Flow, maxPending+more)
	drops := make([]loader.Drop, maxPending+more)
	for i := range flows {
		flows[i].Device = 11
		drops[i].Netns = 100
	}
	f, d := w.Attribute(flows, drops)
	if len(f) != more || len(d) != more {
		t.Errorf("%d flows and %d drops found no room, want %d each", len(f), len(d), more)
	}
	w.wait(patience)
	f, d = w.Attribute(nil, nil)
	if len(f) != maxPending || len(d) != maxPending {
		t.Errorf("%d flows and %d drops waited, want %d each", len(f), len(d), maxPending)
	}
}

// Before the engine's containers are known, nobody's drop is not settled: its owner may be among them.
func TestDropsWaitForTheFirstListing(t *testing.T) {
	address := netip.MustParseAddr("172.30.9.2")
	state := NewState(Config{Host: 1, Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
	state.LinkChanged(loader.LinkChange{Link: loader.Link{Index: 2, Name: "eth0", Kind: "device", PeerNetnsID: -1}})
	drop := loader.Drop{Netns: 1, Device: 2, Source: address, Counts: loader.Counts{Skbs: 1, Packets: 1, Bytes: 60}}
	if _, drops := state.Attribute(nil, []loader.Drop{drop}); len(drops) != 0 {
		t.Fatalf("settled as %+v before the listing", drops[0].Identity)
	}
	network := Network{ID: "n", Name: "web", Driver: "bridge", Bridge: "br-web", Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.9.0/24")}}
	state.SetNetworks([]Network{network})
	state.SetContainers([]Container{{
		ID: "c", Name: "alpha", Running: true, PID: 5,
		Endpoints: []Endpoint{{NetworkID: "n", Network: "web", Addresses: []netip.Addr{address}}},
	}}, time.Now())
	_, drops := state.Attribute(nil, nil)
	if len(drops) != 1 || drops[0].Container != "alpha" {
		t.Fatalf("settled as %+v, want alpha", drops)
	}
}
