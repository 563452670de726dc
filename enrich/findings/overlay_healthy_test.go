// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// Nodes of the healthy Swarm. The fourth has a data path of its own.
var (
	here     = addr("192.168.1.5")
	second   = addr("192.168.1.6")
	third    = addr("192.168.1.7")
	fourth   = addr("192.168.1.208")
	control4 = addr("192.168.1.8")
	stranger = addr("203.0.113.9")
)

const (
	backVNI  = 4097
	vaultVNI = 4098
	farVNI   = 4099 // of a network that this node is not on
)

// healthySwarm is the healthy host as a worker of a Swarm with four nodes: an overlay network, an encrypted one, one that is
// elsewhere, services that are updated right now, and neighbours that have nothing to do with it.
func healthySwarm() View {
	v := healthy()
	v.Inventory.Networks = append(v.Inventory.Networks, enrich.Network{
		ID: "n10", Name: "vault", Driver: "overlay", Scope: "swarm", Encrypted: true, VNI: "4098", Subnets: []netip.Prefix{prefix("10.9.2.0/24")},
	})
	v.Containers[taskID] = loader.NetnsState{Links: []loader.Link{
		{Index: 40, Name: "eth0", Kind: "veth", Peer: 41, PeerNetnsID: 2, MTU: 1410, MAC: mac(1)},
	}}
	v.Cluster = enrich.Cluster{
		Self:  here,
		Ports: loader.OverlayPorts{Data: 4789, Gossip: 7946, Managers: []uint16{2377}},
		Peers: []enrich.SwarmPeer{
			{Address: fourth, Control: control4, Node: "node4", State: "ready", Nets: []string{"stack_back"}},
			{Address: second, Control: second, Node: "node2", Manager: true, State: "ready", Nets: []string{"stack_back", "vault"}},
			{Address: third, Control: third, Nets: []string{"stack_back", "vault"}},
		},
		Networks: []enrich.OverlayNetwork{
			{Network: enrich.Network{ID: "n11", Name: "far", Driver: "overlay"}, VNIs: []uint32{farVNI}},
			overlayNetwork("n9", "stack_back", backVNI, 1410),
			overlayNetwork("n10", "vault", vaultVNI, 1384),
		},
	}
	v.Cluster.Networks[2].Encrypted = true
	v.Channels = healthyChannels()
	v.Lost = healthyTunnelLosses()
	v.Missed = []MissedPeer{ // of somebody who ended, and whose rows are gone
		{OverlayMiss: missOf("stack_back", "n9", remoteTask("n9", 6, second), 500), First: start.Add(-20 * time.Second), Last: start},
	}
	v.Talks = []Talk{ // to a task that has just ended, and to one that is slow
		{Network: "stack_back", Peer: second, Sent: 500, First: start.Add(-4 * time.Second), Last: start},
		{Network: "stack_back", Peer: third, Sent: 4, First: start.Add(-40 * time.Second), Last: start},
		{Network: "vault", Peer: third, Sent: 4, First: start.Add(-40 * time.Second), Last: start},
	}
	return v
}

// overlayNetwork is one with a task here, and two on each other node.
func overlayNetwork(id, name string, vni uint32, mtu int) enrich.OverlayNetwork {
	n := enrich.OverlayNetwork{
		Network: enrich.Network{ID: id, Name: name, Driver: "overlay"}, VNIs: []uint32{vni}, Known: true,
		Sandbox: &loader.SandboxState{
			Sandbox: loader.Sandbox{Path: "/run/docker/netns/1-" + id, Kind: loader.SandboxOverlay, Network: id},
			Links: []loader.Link{
				{Index: 1, Name: "lo", Kind: "device", Loopback: true, MTU: 65536},
				{Index: 2, Name: "br0", Kind: "bridge", MTU: mtu},
				{Index: 14, Name: "vxlan0", Kind: "vxlan", Master: 2, MTU: mtu},
				{Index: 41, Name: "veth0", Kind: "veth", Master: 2, Peer: 40, MTU: mtu},
			},
			VXLANs: []loader.VXLAN{{Index: 14, Name: "vxlan0", VNI: vni, Port: 4789, Learning: true, Proxy: true, MTU: mtu, Up: true}},
		},
	}
	local := remoteTask(id, 3, here)
	local.Local = true
	n.Endpoints = append(n.Endpoints, local)
	for i, host := range []netip.Addr{second, third, fourth} {
		n.Endpoints = append(n.Endpoints, remoteTask(id, byte(10+2*i), host), remoteTask(id, byte(11+2*i), host))
	}
	return n
}

// remoteTask is a task of a service on a network, at the address with that last number.
func remoteTask(network string, last byte, host netip.Addr) enrich.ClusterEndpoint {
	third := byte(1)
	if network == "n10" {
		third = 2
	}
	return enrich.ClusterEndpoint{
		Identity:  enrich.Identity{Stack: "stack", Service: "web", Container: "web." + string('0'+last%10)},
		NetworkID: network, Name: "stack_web." + string('0'+last%10), Address: netip.AddrFrom4([4]byte{10, 9, third, last}),
		MAC: [6]byte{2, 0x42, 10, 9, third, last}, Host: host,
	}
}

func missOf(network, id string, whom enrich.ClusterEndpoint, count uint64) enrich.OverlayMiss {
	return enrich.OverlayMiss{
		Miss: loader.Miss{NetnsID: 7, Device: 14, MAC: whom.MAC, Count: count}, Network: network, NetworkID: id, Endpoint: whom,
	}
}

// healthyChannels are those to three nodes. To the third only datagrams go, which nobody answers.
func healthyChannels() []PeerChannel {
	both := func(peer netip.Addr, channel loader.Channel) PeerChannel {
		return PeerChannel{
			Peer: peer, Known: true, Channel: channel, Sent: 60, Received: 60,
			FirstSent: start.Add(-time.Hour), LastSent: start.Add(-time.Second), FirstReceived: start.Add(-time.Hour), LastReceived: start.Add(-time.Second),
		}
	}
	var all []PeerChannel
	for _, peer := range []netip.Addr{second, third, control4} {
		all = append(all, both(peer, loader.ChannelGossipUDP), both(peer, loader.ChannelGossipTCP))
	}
	all = append(all, both(second, loader.ChannelManager), both(second, loader.ChannelESP), both(third, loader.ChannelESP))
	for _, peer := range []netip.Addr{second, third, fourth} {
		back := both(peer, loader.ChannelVXLAN)
		back.Network, back.VNI = "stack_back", backVNI
		inner := both(peer, loader.ChannelVXLAN)
		inner.Network, inner.VNI, inner.Inner = "vault", vaultVNI, true
		if peer == third {
			back.Received, back.FirstReceived, back.LastReceived = 0, time.Time{}, time.Time{}
		}
		all = append(all, back, inner)
	}
	seldom := both(stranger, loader.ChannelVXLAN)
	seldom.Known, seldom.VNI, seldom.Sent, seldom.Received, seldom.Malformed = false, 7, 0, 5, 4
	return append(all, seldom)
}

// overlayCauses are those of drops on overlay networks that findings are made of.
var overlayCauses = []string{
	"fdb-row-missing", "neigh-row-missing", "stale-vtep", "vtep-src-mismatch", "vni-unknown", "4789-closed", "advertise-nat",
	"encrypted-esp-blocked", "encrypted-plain-drop", "mtu-route", "mtu-bridge", "fragment-lost",
}

// tunnelLoss is packets of a network lost between here and another node for so long.
func tunnelLoss(cause string, peer netip.Addr, packets uint64, length time.Duration) TunnelLoss {
	l := TunnelLoss{
		Tunnel: enrich.Tunnel{Network: "stack_back", VNI: backVNI, Local: here, Peer: peer},
		Cause:  cause, Packets: packets, First: start.Add(-length), Last: start,
	}
	l.Example.Reason, l.Example.Function, l.Example.DeviceName = "SOME_REASON", "some_function", "eth0"
	l.Example.Direction, l.Example.Scope = enrich.RX, enrich.ScopeHost
	l.Example.Protocol, l.Example.Source, l.Example.Destination, l.Example.DestinationPort = 17, peer, here, 4789
	return l
}

// healthyTunnelLosses are what moves and ends of tasks cost, and what means nothing.
func healthyTunnelLosses() []TunnelLoss {
	var all []TunnelLoss
	for _, cause := range overlayCauses {
		all = append(all, tunnelLoss(cause, second, 9, time.Minute), tunnelLoss(cause, third, 10000, 4*time.Second))
	}
	return append(all,
		tunnelLoss("fdb-row-missing", fourth, 10000, time.Minute),    // its rows are there, and so they were all the time
		tunnelLoss("vni-unknown", fourth, 10000, time.Minute),        // the network has come back here
		tunnelLoss("vni-unknown", stranger, 10000, time.Minute),      // who is no node
		tunnelLoss("4789-closed", stranger, 10000, time.Minute),      // likewise: a firewall does its work
		tunnelLoss("advertise-nat", fourth, 10000, time.Minute),      // it is being restarted, and was there before
		tunnelLoss("vxlan-malformed", stranger, 10000, time.Minute),  // nobody's loss
		tunnelLoss("socket-teardown", fourth, 10000, 10*time.Second), // nor this
	)
}

// goOn has nodes that speak to each other do so for so long.
func goOn(v *View, length time.Duration) {
	for i := range v.Channels {
		for _, last := range []*time.Time{&v.Channels[i].LastSent, &v.Channels[i].LastReceived} {
			if !last.IsZero() {
				*last = last.Add(length)
			}
		}
	}
}

func TestHealthySwarmRaisesNothing(t *testing.T) {
	board := NewBoard(Config{Hold: time.Minute, UnusedAfter: time.Hour})
	view := healthySwarm()
	goOn(&view, 2*time.Minute)
	for _, f := range look(board, view, 2*time.Minute) {
		t.Errorf("found in a healthy Swarm: %+v", f)
	}
}

// A node that has just joined is known by its tunnels at most, and has not sent anything yet.
func TestJoiningRaisesNothing(t *testing.T) {
	view := healthySwarm()
	view.Cluster.Peers = append(view.Cluster.Peers, enrich.SwarmPeer{Address: addr("192.168.1.9")})
	view.Channels = append(view.Channels, PeerChannel{
		Peer: addr("192.168.1.9"), Channel: loader.ChannelVXLAN, Network: "stack_back", VNI: backVNI, Received: 500, FirstReceived: start, LastReceived: start,
	})
	goOn(&view, 2*time.Minute)
	for _, f := range look(NewBoard(Config{}), view, 2*time.Minute) {
		t.Errorf("found while a node joins: %+v", f)
	}
	view = healthySwarm()
	view.Cluster.Peers, view.Cluster.Networks, view.Channels, view.Talks, view.Lost, view.Missed = nil, nil, nil, nil, nil, nil
	for _, f := range look(NewBoard(Config{}), view, 2*time.Minute) {
		t.Errorf("found on the first node: %+v", f)
	}
}

// A host whose engine is in no Swarm may carry somebody else's tunnels.
func TestStrangersTunnelsRaiseNothing(t *testing.T) {
	view := healthySwarm()
	view.Cluster = enrich.Cluster{}
	view.Lost, view.Talks = nil, nil
	view.Channels = slices.DeleteFunc(view.Channels, func(c PeerChannel) bool { return c.Channel != loader.ChannelVXLAN })
	for i := range view.Channels {
		view.Channels[i].Known, view.Channels[i].Network = false, ""
	}
	for _, f := range look(NewBoard(Config{}), view, 2*time.Minute) {
		t.Errorf("found outside of a Swarm: %+v", f)
	}
}
