// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

var (
	selfNode  = netip.MustParseAddr("10.99.0.1")
	otherNode = netip.MustParseAddr("10.99.0.2")
	thirdNode = netip.MustParseAddr("10.99.0.3")
)

// clusterOf is a Swarm of this node and others, which share networks whose VNIs begin with 4097.
func clusterOf(peers []netip.Addr, networks ...string) *enrich.Cluster {
	c := &enrich.Cluster{Self: selfNode}
	for i, name := range networks {
		c.Networks = append(c.Networks, enrich.OverlayNetwork{Network: enrich.Network{Name: name}, VNIs: []uint32{uint32(4097 + i)}})
	}
	for _, p := range peers {
		c.Peers = append(c.Peers, enrich.SwarmPeer{Address: p, Control: p, Nets: networks})
	}
	return c
}

// tunnelled are packets of the network shop that came from a node of the Swarm.
func tunnelled(peer netip.Addr, n uint64) enrich.OverlayTraffic {
	return enrich.OverlayTraffic{
		OverlayTraffic: loader.OverlayTraffic{
			Channel: loader.ChannelVXLAN, Local: selfNode, Peer: peer, VNI: 4097,
			Counts: loader.Counts{Skbs: 1, Packets: n, Bytes: 100 * n}, Last: time.Date(2026, 11, 22, 8, 0, 1, 0, time.UTC),
		},
		Network: "shop", Known: true,
	}
}

// sent is the same the other way.
func sent(t enrich.OverlayTraffic) enrich.OverlayTraffic {
	t.Outgoing = true
	return t
}

// on is the same on another channel, which has no network.
func on(channel loader.Channel, t enrich.OverlayTraffic) enrich.OverlayTraffic {
	t.Channel, t.VNI, t.Network = channel, 0, ""
	return t
}

func overlayOf(traffic ...enrich.OverlayTraffic) enrich.Overlay {
	return enrich.Overlay{Traffic: traffic}
}

func TestOverlayTraffic(t *testing.T) {
	inner := tunnelled(otherNode, 7)
	inner.Inner, inner.Network, inner.VNI = true, "secret", 4098
	inner.Local = netip.MustParseAddr("192.0.2.1")
	unknown := tunnelled(otherNode, 11)
	unknown.Network, unknown.VNI = "", 9999
	malformed := tunnelled(otherNode, 13)
	malformed.Malformed, malformed.VNI, malformed.Network = true, 0, ""
	full := tunnelled(netip.Addr{}, 17)
	full.Local, full.Known = netip.Addr{}, false
	later := on(loader.ChannelGossipUDP, tunnelled(otherNode, 2))
	later.Last = later.Last.Add(time.Minute)

	s, m := newTestMetrics()
	m.SetCluster(clusterOf([]netip.Addr{otherNode}))
	m.AddOverlay(overlayOf(
		tunnelled(otherNode, 1), tunnelled(otherNode, 2), sent(tunnelled(otherNode, 5)), inner, sent(inner), unknown, malformed, full,
		on(loader.ChannelESP, tunnelled(otherNode, 19)), on(loader.ChannelManager, sent(tunnelled(otherNode, 23))), later,
		on(loader.ChannelGossipUDP, tunnelled(otherNode, 3)),
	))
	s.wait(zeroFor)
	want := map[string]float64{
		"shop,4097,10.99.0.1,10.99.0.2,rx,vxlan": 3, "shop,4097,10.99.0.1,10.99.0.2,tx,vxlan": 5,
		"secret,4098,10.99.0.1,10.99.0.2,rx,vxlan": 7, "secret,4098,10.99.0.1,10.99.0.2,tx,vxlan": 7,
		",9999,10.99.0.1,10.99.0.2,rx,vxlan": 11, "shop,4097,10.99.0.1,~other,rx,vxlan": 17,
		",,10.99.0.1,10.99.0.2,rx,esp": 19,
	}
	s.wantShown(t, overlayPackets, want)
	for values := range want {
		want[values] *= 100
	}
	s.wantShown(t, overlayBytes, want)
	s.wantShown(t, overlayMalformed, map[string]float64{"10.99.0.2": 13})
	s.wantShown(t, channelPackets, map[string]float64{
		"10.99.0.2,vxlan,rx": 14, "10.99.0.2,vxlan,tx": 5, "10.99.0.2,esp,rx": 19, "10.99.0.2,esp,tx": 0,
		"10.99.0.2,gossip_udp,rx": 5, "10.99.0.2,gossip_udp,tx": 0, "10.99.0.2,gossip_tcp,rx": 0, "10.99.0.2,gossip_tcp,tx": 0,
		"10.99.0.2,manager,rx": 0, "10.99.0.2,manager,tx": 23, "~other,vxlan,rx": 17,
	})
	at := float64(tunnelled(otherNode, 1).Last.Unix())
	s.wantShown(t, channelReceived, map[string]float64{"10.99.0.2,vxlan": at, "10.99.0.2,esp": at, "10.99.0.2,gossip_udp": at + 60})
}

// ESP that is between this node and none of the Swarm's is not the Swarm's. What found the kernel's table full may be.
func TestForeignESP(t *testing.T) {
	foreign := on(loader.ChannelESP, tunnelled(thirdNode, 1000))
	foreign.Known = false
	full := on(loader.ChannelESP, tunnelled(netip.Addr{}, 7))
	full.Local, full.Known = netip.Addr{}, false
	s, m := newTestMetrics()
	m.SetCluster(clusterOf(nil))
	m.AddOverlay(overlayOf(foreign, sent(foreign), full, on(loader.ChannelESP, tunnelled(otherNode, 3))))
	s.wait(zeroFor)
	s.wantShown(t, overlayPackets, map[string]float64{",,10.99.0.1,~other,rx,esp": 7, ",,10.99.0.1,10.99.0.2,rx,esp": 3})
	s.wantShown(t, channelPackets, map[string]float64{"~other,esp,rx": 7, "10.99.0.2,esp,rx": 3})
}

// Both ends of each pair of nodes are there before the first packet, or nobody sees that all of them are lost.
func TestOverlayIsBornAtZero(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf([]netip.Addr{otherNode, thirdNode}, "shop", "secret")
	c.Peers[1].Nets = []string{"shop"}
	c.Networks[0].VNIs = []uint32{4097, 4100}
	c.Networks[1].VNIs, c.Networks[1].Encrypted = []uint32{4098}, true
	m.SetCluster(c)
	want := map[string]float64{}
	for _, direction := range []string{"rx", "tx"} {
		for _, pair := range []string{
			"shop,4097,10.99.0.1,10.99.0.2", "shop,4100,10.99.0.1,10.99.0.2", "secret,4098,10.99.0.1,10.99.0.2",
			"shop,4097,10.99.0.1,10.99.0.3", "shop,4100,10.99.0.1,10.99.0.3",
		} {
			want[pair+","+direction+",vxlan"] = 0
		}
		want[",,10.99.0.1,10.99.0.2,"+direction+",esp"] = 0
	}
	s.wantShown(t, overlayPackets, want)
	s.wantShown(t, overlayBytes, want)
	s.wantShown(t, overlayMalformed, map[string]float64{"10.99.0.2": 0, "10.99.0.3": 0})
	if n := len(s.shown(channelPackets)); n != 2*2*len(loader.Channels()) {
		t.Errorf("%d series of channels", n)
	}
	s.wantShown(t, channelReceived, map[string]float64{})
}

// What an encrypted network sends is counted inside, once, whatever the uplink shows of it.
func TestEncryptedNetworkInTheClear(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf([]netip.Addr{otherNode}, "shop")
	c.Networks[0].Encrypted = true
	m.SetCluster(c)
	inner := sent(tunnelled(otherNode, 5))
	inner.Inner = true
	m.AddOverlay(overlayOf(inner, sent(tunnelled(otherNode, 5)), on(loader.ChannelESP, sent(tunnelled(otherNode, 4)))))
	s.wantShown(t, overlayPackets, map[string]float64{
		"shop,4097,10.99.0.1,10.99.0.2,tx,vxlan": 5, "shop,4097,10.99.0.1,10.99.0.2,rx,vxlan": 0,
		",,10.99.0.1,10.99.0.2,tx,esp": 4, ",,10.99.0.1,10.99.0.2,rx,esp": 0,
	})
	if got := s.shown(channelPackets)["10.99.0.2,vxlan,tx"]; got != 5 {
		t.Errorf("%g packets on the channel, want 5", got)
	}
}

// A node whose data path is apart from its gossip is one node still. Of one whose other address nobody has told, only tunnels are to
// be expected.
func TestDataPathOfItsOwn(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf([]netip.Addr{otherNode, thirdNode})
	c.Peers[0].Control = netip.MustParseAddr("192.0.2.2")
	c.Peers[1].Control = netip.Addr{}
	m.SetCluster(c)
	gossip := on(loader.ChannelGossipUDP, tunnelled(c.Peers[0].Control, 4))
	m.AddOverlay(overlayOf(gossip))
	s.wantShown(t, channelPackets, map[string]float64{
		"10.99.0.2,vxlan,rx": 0, "10.99.0.2,vxlan,tx": 0, "10.99.0.2,esp,rx": 0, "10.99.0.2,esp,tx": 0,
		"10.99.0.2,gossip_udp,rx": 4, "10.99.0.2,gossip_udp,tx": 0, "10.99.0.2,gossip_tcp,rx": 0, "10.99.0.2,gossip_tcp,tx": 0,
		"10.99.0.2,manager,rx": 0, "10.99.0.2,manager,tx": 0,
		"10.99.0.3,vxlan,rx": 0, "10.99.0.3,vxlan,tx": 0, "10.99.0.3,esp,rx": 0, "10.99.0.3,esp,tx": 0,
	})
	s.wantShown(t, channelReceived, map[string]float64{"10.99.0.2,gossip_udp": float64(gossip.Last.Unix())})
}

// A node with several addresses sends from one that the engine does not know of. What is foreseen is there then, too.
func TestOverlayFromAnotherAddress(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf([]netip.Addr{otherNode}, "shop")
	m.SetCluster(c)
	away := sent(tunnelled(otherNode, 5))
	away.Local = netip.MustParseAddr("192.0.2.1")
	m.AddOverlay(overlayOf(away))
	for range 10 {
		s.wait(2 * time.Minute)
		m.SetCluster(c)
		m.SetInventory(inventoryOf())
	}
	want := map[string]float64{"shop,4097,192.0.2.1,10.99.0.2,tx,vxlan": 5, "shop,4097,10.99.0.1,10.99.0.2,rx,vxlan": 0}
	s.wantShown(t, overlayPackets, want)
	m.AddOverlay(overlayOf(away, tunnelled(otherNode, 3)))
	want["shop,4097,192.0.2.1,10.99.0.2,tx,vxlan"], want["shop,4097,10.99.0.1,10.99.0.2,rx,vxlan"] = 10, 3
	s.wantShown(t, overlayPackets, want)
}

// What was counted before its node was known is not to be seen first with what it has.
func TestOverlayBeforeTheClusterIsKnown(t *testing.T) {
	s, m := newTestMetrics()
	m.AddOverlay(overlayOf(tunnelled(otherNode, 5)))
	m.SetCluster(clusterOf([]netip.Addr{otherNode}, "shop"))
	const at = "shop,4097,10.99.0.1,10.99.0.2,rx,vxlan"
	if got := s.shown(overlayPackets)[at]; got != 0 {
		t.Errorf("shows %g at first, want 0", got)
	}
	s.wait(zeroFor)
	if got := s.shown(overlayPackets)[at]; got != 5 {
		t.Errorf("shows %g, want 5", got)
	}
}

// A node that has left goes with what was counted of it; while its series are there, they have its address.
func TestPeerLeaves(t *testing.T) {
	s, m := newTestMetrics()
	m.SetCluster(clusterOf([]netip.Addr{otherNode, thirdNode}, "shop"))
	m.AddOverlay(overlayOf(tunnelled(thirdNode, 5)))
	left := clusterOf([]netip.Addr{otherNode}, "shop")
	look := func() {
		m.SetCluster(left)
		m.SetInventory(inventoryOf())
	}
	look()
	s.wait(9 * time.Minute)
	look()
	if got := s.shown(overlayPackets)["shop,4097,10.99.0.1,10.99.0.3,rx,vxlan"]; got != 5 {
		t.Errorf("shows %g, want 5: it has only just left", got)
	}
	if len(s.shown(channelReceived)) != 1 || len(s.shown(peerInfo)) != 1 {
		t.Errorf("shows %v and %v", s.shown(channelReceived), s.shown(peerInfo))
	}
	s.wait(2 * time.Minute)
	look()
	for _, f := range []*Family{overlayPackets, overlayBytes, overlayMalformed, channelPackets} {
		for values := range s.shown(f) {
			if strings.Contains(values, thirdNode.String()) {
				t.Errorf("%s{%s} is there", f.Name, values)
			}
		}
	}
	s.wantShown(t, channelReceived, map[string]float64{})
	if n := len(s.shown(channelPackets)); n != 2*len(loader.Channels()) {
		t.Errorf("%d series of channels: the other node's are kept", n)
	}
}

// Whatever strangers send from whichever address, so many are told apart, the nodes always, and nothing is uncounted.
func TestStrangersOnTheDataPort(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf([]netip.Addr{otherNode}, "shop")
	m.SetCluster(c)
	const strangers = 500
	send := func(from byte) {
		for i := range strangers {
			row := tunnelled(netip.AddrFrom4([4]byte{192, from, byte(i >> 8), byte(i)}), 1)
			row.VNI, row.Network, row.Known = uint32(100_000+i), "", false
			row.Local = netip.AddrFrom4([4]byte{203, from, byte(i >> 8), byte(i)})
			malformed := row
			malformed.Malformed = true
			m.AddOverlay(overlayOf(row, malformed, on(loader.ChannelGossipUDP, row)))
		}
	}
	distinct := func(f *Family, label int) map[string]bool {
		values := make(map[string]bool)
		for joined := range s.shown(f) {
			values[strings.Split(joined, ",")[label]] = true
		}
		return values
	}
	send(1)
	m.AddOverlay(overlayOf(tunnelled(otherNode, 9)))
	s.wait(zeroFor)
	for _, tc := range []struct {
		f     *Family
		label int
		limit int
	}{
		{overlayPackets, 3, maxOtherPeers}, {overlayPackets, 2, maxOtherLocals}, {overlayPackets, 1, maxOtherVNIs},
		{overlayMalformed, 0, maxOtherPeers}, {channelPackets, 0, maxOtherPeers}, {channelReceived, 0, maxOtherPeers},
	} {
		if n := len(distinct(tc.f, tc.label)); n > tc.limit+2 { // the one that is known, and ~other
			t.Errorf("label %d of %s has %d values", tc.label, tc.f.Name, n)
		}
	}
	if got := s.sum(overlayPackets); got != strangers+9 {
		t.Errorf("%g packets, want %d", got, strangers+9)
	}
	if got := s.sum(overlayMalformed); got != strangers {
		t.Errorf("%g malformed packets, want %d", got, strangers)
	}
	if got := s.shown(overlayPackets)["shop,4097,10.99.0.1,10.99.0.2,rx,vxlan"]; got != 9 {
		t.Errorf("%g packets of the node, want 9", got)
	}
	s.wait(11 * time.Minute)
	m.SetCluster(c) // has the first of them forgotten
	m.SetInventory(inventoryOf())
	send(2)
	if !distinct(channelPackets, 0)["192.2.0.0"] {
		t.Error("strangers that are gone keep others from being told apart")
	}
}

func TestTunnelDrops(t *testing.T) {
	drop := func(tunnel *enrich.Tunnel, n uint64) enrich.Drop {
		d := dropOf("alpha", "VXLAN_INVALID_HDR", "vxlan-invalid", n)
		d.Tunnel = tunnel
		return d
	}
	s, m := newTestMetrics()
	m.SetCluster(clusterOf([]netip.Addr{otherNode}, "shop"))
	m.AddDrops([]enrich.Drop{
		drop(nil, 1),
		drop(&enrich.Tunnel{Network: "shop", VNI: 4097, Local: selfNode, Peer: otherNode}, 2),
		drop(&enrich.Tunnel{Network: "shop", VNI: 4097, Peer: otherNode, Outgoing: true}, 3),
		drop(&enrich.Tunnel{Network: "shop", VNI: 4097, Outgoing: true}, 5),
		drop(&enrich.Tunnel{Local: selfNode, Peer: otherNode, Encrypted: true}, 7),
		drop(&enrich.Tunnel{Local: selfNode, Peer: thirdNode}, 11),
	})
	s.wait(zeroFor)
	s.wantShown(t, overlayDropped, map[string]float64{
		"shop,4097,10.99.0.1,10.99.0.2,rx,vxlan,VXLAN_INVALID_HDR,vxlan-invalid": 2,
		"shop,4097,10.99.0.1,10.99.0.2,tx,vxlan,VXLAN_INVALID_HDR,vxlan-invalid": 3,
		"shop,4097,10.99.0.1,,tx,vxlan,VXLAN_INVALID_HDR,vxlan-invalid":          5,
		",,10.99.0.1,10.99.0.2,rx,esp,VXLAN_INVALID_HDR,vxlan-invalid":           7,
		",,10.99.0.1,10.99.0.3,rx,vxlan,VXLAN_INVALID_HDR,vxlan-invalid":         11,
	})
	if got := s.sum(droppedPackets); got != 29 {
		t.Errorf("%g drops in all, want 29: one of the two is a view of the other", got)
	}
}

func TestOverlayMisses(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf(nil, "shop", "elsewhere")
	c.Networks[0].Sandbox = &loader.SandboxState{}
	m.SetCluster(c)
	s.wantShown(t, overlayMisses, map[string]float64{"shop,fdb": 0, "shop,neighbour": 0})
	mac := [6]byte{2, 0x42, 10, 0, 1, 7}
	m.AddOverlay(enrich.Overlay{Misses: []enrich.OverlayMiss{
		{Miss: loader.Miss{MAC: mac, Count: 3}, Network: "shop"},
		{Miss: loader.Miss{Address: netip.MustParseAddr("10.0.1.7"), Count: 4}, Network: "shop"},
		{Miss: loader.Miss{MAC: mac, Count: 5}, Network: "shop"},
	}})
	s.wantShown(t, overlayMisses, map[string]float64{"shop,fdb": 8, "shop,neighbour": 4})
}

// A node of a large Swarm has tens of thousands of rows in a reading.
func TestOverlayTrafficAllocatesNothing(t *testing.T) {
	_, m := newTestMetrics()
	var peers []netip.Addr
	var traffic []enrich.OverlayTraffic
	for i := range 100 {
		p := netip.MustParseAddr(fmt.Sprint("10.99.1.", i))
		peers = append(peers, p)
		traffic = append(traffic, tunnelled(p, 1), sent(tunnelled(p, 1)), on(loader.ChannelManager, sent(tunnelled(p, 1))))
	}
	m.SetCluster(clusterOf(peers, "shop"))
	const forTimestamps = 500 // of the last packet on each channel
	allocations := testing.AllocsPerRun(10, func() { m.AddOverlay(overlayOf(traffic...)) })
	if allocations > forTimestamps {
		t.Errorf("%g allocations for %d rows", allocations, len(traffic))
	}
}
