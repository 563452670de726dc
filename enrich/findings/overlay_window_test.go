// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

var sameAddress = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// passed is traffic with a node, of so many packets at a second.
func passed(peer netip.Addr, channel loader.Channel, outgoing bool, packets uint64, second int) enrich.OverlayTraffic {
	t := enrich.OverlayTraffic{Known: true}
	t.Channel, t.Outgoing, t.Local, t.Peer, t.Packets, t.Last = channel, outgoing, here, peer, packets, at(second)
	return t
}

func onBack(t enrich.OverlayTraffic) enrich.OverlayTraffic {
	t.VNI, t.Network, t.NetworkID = backVNI, "stack_back", "n9"
	return t
}

// crowdedOverlay is what one more node, one more stranger and one more endpoint do to all tables.
func crowdedOverlay(i int) enrich.Overlay {
	var four [4]byte
	binary.BigEndian.PutUint32(four[:], uint32(i))
	peer := netip.AddrFrom4(four)
	unknown := passed(peer, loader.ChannelESP, true, 1, 0)
	unknown.Known = false
	whom := remoteTask("n9", 10, second)
	whom.MAC = [6]byte{2, 0, four[0], four[1], four[2], four[3]}
	return enrich.Overlay{
		Traffic: []enrich.OverlayTraffic{passed(peer, loader.ChannelESP, true, 1, 0), unknown},
		Misses:  []enrich.OverlayMiss{missOf("stack_back", "n9", whom, 1)},
	}
}

// filledSwarm is the healthy Swarm's view with what is recent at a second.
func filledSwarm(r *Recent, seconds int) View {
	view := healthySwarm()
	view.Now = at(seconds)
	r.Fill(&view)
	return view
}

func TestRecentChannels(t *testing.T) {
	r := NewRecent()
	add := func(second int, traffic ...enrich.OverlayTraffic) {
		r.AddOverlay(enrich.Overlay{Traffic: traffic}, at(second))
	}
	inner := onBack(passed(second, loader.ChannelVXLAN, true, 3, 0))
	inner.Inner = true
	broken := passed(second, loader.ChannelVXLAN, false, 2, 1)
	broken.Malformed = true
	many := passed(netip.Addr{}, loader.ChannelVXLAN, false, 99, 1) // the table was full
	expected := onBack(passed(third, loader.ChannelVXLAN, true, 0, 0))
	expected.Last = time.Time{} // a peer of whom nothing has passed
	add(0, onBack(passed(second, loader.ChannelVXLAN, true, 5, 0)), inner, many, expected)
	add(1, onBack(passed(second, loader.ChannelVXLAN, false, 7, 1)), broken)
	add(50, onBack(passed(second, loader.ChannelVXLAN, true, 1, 49)), passed(control4, loader.ChannelGossipUDP, false, 4, 50))

	want := []PeerChannel{
		{Peer: second, Node: "node2", Known: true, Channel: loader.ChannelVXLAN, Malformed: 2},
		{
			Peer: second, Node: "node2", Known: true, Channel: loader.ChannelVXLAN, Network: "stack_back", VNI: backVNI, Sent: 6, Received: 7,
			FirstSent: at(0), LastSent: at(49), FirstReceived: at(1), LastReceived: at(1),
		},
		{
			Peer: second, Node: "node2", Known: true, Channel: loader.ChannelVXLAN, Network: "stack_back", VNI: backVNI, Inner: true, Sent: 3,
			FirstSent: at(0), LastSent: at(0),
		},
		{Peer: control4, Node: "node4", Known: true, Channel: loader.ChannelGossipUDP, Received: 4, FirstReceived: at(50), LastReceived: at(50)},
	}
	if diff := cmp.Diff(want, filledSwarm(r, 51).Channels, sameAddress); diff != "" {
		t.Errorf("channels (-want +got):\n%s", diff)
	}
	// What nodes said long ago counts no more, and is not forgotten.
	got := filledSwarm(r, 1000).Channels
	if len(got) != 4 || got[1].Sent != 0 || got[1].Received != 0 || !got[1].FirstSent.Equal(at(0)) || !got[1].LastReceived.Equal(at(1)) {
		t.Errorf("long after: %+v", got)
	}
	// Of a node that has left it is.
	view := healthySwarm()
	view.Now, view.Cluster.Peers = at(1001), nil
	if r.Fill(&view); len(view.Channels) != 0 || len(r.overlay.channels.entries) != 0 {
		t.Errorf("after all have left: %+v", view.Channels)
	}
}

func TestRecentKnowsStrangersThatJoin(t *testing.T) {
	r := NewRecent()
	first := passed(second, loader.ChannelGossipTCP, false, 3, 0)
	first.Known = false
	r.AddOverlay(enrich.Overlay{Traffic: []enrich.OverlayTraffic{first}}, at(0))
	r.AddOverlay(enrich.Overlay{Traffic: []enrich.OverlayTraffic{passed(second, loader.ChannelGossipTCP, false, 4, 5)}}, at(5))
	got := filledSwarm(r, 6).Channels
	if len(got) != 1 || got[0].Received != 7 || !got[0].FirstReceived.Equal(at(0)) || !got[0].Known {
		t.Errorf("channels: %+v", got)
	}
	if len(r.overlay.strangers.entries) != 0 {
		t.Errorf("still a stranger: %+v", r.overlay.strangers.entries)
	}
	other := passed(stranger, loader.ChannelVXLAN, false, 4, 5)
	other.Known = false
	r.AddOverlay(enrich.Overlay{Traffic: []enrich.OverlayTraffic{other}}, at(5))
	if got := filledSwarm(r, 6).Channels; len(got) != 2 || got[1].Known {
		t.Errorf("with a stranger: %+v", got)
	}
	if got := filledSwarm(r, 70).Channels; len(got) != 1 {
		t.Errorf("a minute after the stranger: %+v", got)
	}
}

func TestRecentMisses(t *testing.T) {
	r := NewRecent()
	whom, local := remoteTask("n9", 10, second), remoteTask("n9", 3, here)
	local.Local = true
	miss := func(second int, e enrich.ClusterEndpoint, count uint64) {
		r.AddOverlay(enrich.Overlay{Misses: []enrich.OverlayMiss{missOf("stack_back", "n9", e, count)}}, at(second))
	}
	miss(0, whom, 3)
	miss(10, whom, 4)
	miss(10, local, 100)                    // whom the bridge finds
	miss(10, enrich.ClusterEndpoint{}, 100) // whom nobody has
	want := []MissedPeer{{OverlayMiss: missOf("stack_back", "n9", whom, 7), First: at(0), Last: at(10)}}
	if diff := cmp.Diff(want, filledSwarm(r, 11).Missed, sameAddress); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
	miss(40, whom, 1) // after a pause
	want[0].Count, want[0].First, want[0].Last = 8, at(40), at(40)
	if diff := cmp.Diff(want, filledSwarm(r, 41).Missed, sameAddress); diff != "" {
		t.Errorf("misses after a pause (-want +got):\n%s", diff)
	}
	if got := filledSwarm(r, 110).Missed; len(got) != 0 || len(r.overlay.missed.entries) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

func TestRecentTunnelLosses(t *testing.T) {
	r := NewRecent()
	lose := func(second int, kind enrich.Kind, tunnel *enrich.Tunnel, packets uint64) enrich.Drop {
		d := dropped("vni-unknown", "", packets)
		d.Kind, d.Tunnel = kind, tunnel
		r.AddDrops([]enrich.Drop{d}, at(second))
		return d
	}
	in := enrich.Tunnel{Network: "stack_back", VNI: backVNI, Local: here, Peer: second}
	out := in
	out.Outgoing = true
	lose(0, enrich.KindFault, &in, 3)
	lose(1, enrich.KindFault, nil, 50)
	lose(1, enrich.KindBenign, &in, 50)
	policy := lose(2, enrich.KindPolicy, &out, 5)
	last := lose(10, enrich.KindFault, &in, 4)
	want := []TunnelLoss{
		{Tunnel: in, Cause: "vni-unknown", Packets: 7, First: at(0), Last: at(10), Example: last},
		{Tunnel: out, Cause: "vni-unknown", Packets: 5, First: at(2), Last: at(2), Example: policy},
	}
	if diff := cmp.Diff(want, filledSwarm(r, 11).Lost, sameAddress); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	// What comes after a pause is another trouble.
	lose(25, enrich.KindFault, &in, 1)
	if got := filledSwarm(r, 26).Lost[0]; got.Packets != 8 || !got.First.Equal(at(25)) {
		t.Errorf("after a pause: %d packets since %s", got.Packets, got.First)
	}
	if got := filledSwarm(r, 90).Lost; len(got) != 0 || len(r.overlay.losses.entries) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}

func TestRecentTalks(t *testing.T) {
	r := NewRecent()
	filledSwarm(r, 0) // who is where
	talk := func(second int, remote string, sent, received uint64, change func(*enrich.Flow)) {
		f := enrich.Flow{Identity: enrich.Identity{Network: "stack_back"}, Via: enrich.ViaContainer}
		f.Remote, f.Protocol, f.TX.Packets, f.RX.Packets = addr(remote), unix.IPPROTO_TCP, sent, received
		if change != nil {
			change(&f)
		}
		r.AddFlows([]enrich.Flow{f}, at(second))
	}
	talk(0, "10.9.1.10", 100, 90, nil)
	talk(1, "10.9.1.10", 3, 0, nil)
	talk(5, "10.9.1.10", 2, 0, nil)
	talk(5, "10.9.1.11", 2, 0, nil) // on the same node
	talk(5, "10.9.1.12", 4, 0, nil) // on the third
	talk(5, "10.9.1.3", 100, 0, nil)
	talk(5, "203.0.113.9", 100, 0, nil)
	talk(5, "10.9.1.10", 100, 0, func(f *enrich.Flow) { f.Protocol = unix.IPPROTO_UDP })
	talk(5, "10.9.1.10", 100, 0, func(f *enrich.Flow) { f.Network = "front" })
	want := []Talk{
		{Network: "stack_back", Address: addr("10.9.1.10"), Peer: second, Sent: 5, First: at(1), Last: at(5)},
		{Network: "stack_back", Address: addr("10.9.1.11"), Peer: second, Sent: 2, First: at(5), Last: at(5)},
		{Network: "stack_back", Address: addr("10.9.1.12"), Peer: third, Sent: 4, First: at(5), Last: at(5)},
	}
	if diff := cmp.Diff(want, filledSwarm(r, 6).Talks, sameAddress); diff != "" {
		t.Errorf("talks (-want +got):\n%s", diff)
	}
	talk(7, "10.9.1.10", 0, 1, nil) // who answers
	if diff := cmp.Diff(want[1:], filledSwarm(r, 8).Talks, sameAddress); diff != "" {
		t.Errorf("talks after an answer (-want +got):\n%s", diff)
	}
	view := healthySwarm()
	view.Now = at(9)
	backNetwork(&view).Endpoints[2].Host = third // one has moved, the other has ended
	backNetwork(&view).Endpoints = backNetwork(&view).Endpoints[:3]
	if r.Fill(&view); len(view.Talks) != 0 {
		t.Errorf("to those that are gone: %+v", view.Talks)
	}
	talk(10, "10.9.1.11", 1, 0, nil)
	if got := filledSwarm(r, 65).Talks; len(got) != 0 || len(r.overlay.talks.entries) != 0 {
		t.Errorf("after the window: %+v", got)
	}
}
