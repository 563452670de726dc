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

// inOverlays changes the healthy Swarm instead of the healthy host.
func inOverlays(change func(*View)) func(*View) {
	return func(v *View) {
		config := v.Config
		*v = healthySwarm()
		v.Config = config
		change(v)
	}
}

func backNetwork(v *View) *enrich.OverlayNetwork { return &v.Cluster.Networks[1] }

// toPeer finds the healthy Swarm's channel to a node.
func toPeer(v *View, peer netip.Addr, channel loader.Channel) *PeerChannel {
	i := slices.IndexFunc(v.Channels, func(c PeerChannel) bool { return c.Peer == peer && c.Channel == channel && !c.Inner })
	return &v.Channels[i]
}

// silent has nothing come from a node on a channel for so long.
func silent(c *PeerChannel, length time.Duration) {
	c.Received, c.LastReceived = 0, start.Add(-length)
}

// exampleOf is what a tunnelLoss shows of a packet.
func exampleOf(peer string, packets float64) []Fact {
	return []Fact{
		number("packets lost", packets, "in the last minute"), text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"),
		text("device", "eth0"), text("example", peer+":0 > 192.168.1.5:4789 udp"), text("direction", "rx"), text("scope", "host"),
	}
}

const (
	ofBack     = "nsenter --net=/run/docker/netns/1-n9 "
	fromSecond = "timeout 10 tcpdump -c 5 -ni any udp dst port 4789 and src 192.168.1.6"
	showRules  = "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -e 4789"
)

func overlayCases() []ruleCase {
	return slices.Concat(overlayTableCases(), overlayPathCases(), overlaySuspicionCases(), overlayMTUCases())
}

func overlayTableCases() []ruleCase {
	lose := func(losses ...TunnelLoss) func(*View) {
		return inOverlays(func(v *View) { v.Lost = append(v.Lost, losses...) })
	}
	unknown := func(l TunnelLoss) TunnelLoss {
		l.Network, l.Peer = "late", netip.Addr{}
		return l
	}
	gone := func(cause string, packets uint64, length time.Duration) Loss {
		l := loss(cause, packets)
		l.Subject = Subject{Identity: enrich.Identity{Network: "stack_back"}, Scope: enrich.ScopeHost}
		l.First = start.Add(-length)
		l.Example = tunnelLoss(cause, second, packets, length).Example
		l.Example.Source, l.Example.Destination = addr("10.9.1.10"), addr("10.9.1.12")
		return l
	}
	return []ruleCase{
		{
			"rows of a node missing", inOverlays(func(v *View) {
				n := backNetwork(v)
				n.NoFDB = []enrich.ClusterEndpoint{n.Endpoints[2], n.Endpoints[1]}
				v.Missed = append(v.Missed, MissedPeer{OverlayMiss: missOf("stack_back", "n9", n.Endpoints[1], 30)})
			}),
			one("fdb-row-missing", between("stack_back", second), ofBack+"bridge fdb show dev vxlan0 | grep -c -e 02:42:0a:09:01:0b",
				number("rows", 2, ""), text("endpoints", "stack_web.0 (10.9.1.10), stack_web.1 (10.9.1.11)"), text("where they are", "node2 (192.168.1.6)"),
				number("asked for in vain", 30, "in the last minute"),
				number("packets lost", 9, "in the last minute"), text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"),
				text("device", "eth0"), text("example", "192.168.1.6:0 > 192.168.1.5:4789 udp"), text("direction", "rx"), text("scope", "host")),
		},
		{
			"neighbour of a load balancer missing", inOverlays(func(v *View) {
				e := backNetwork(v).Endpoints[3]
				e.Name, e.LoadBalancer = "", true
				backNetwork(v).NoNeighbour = []enrich.ClusterEndpoint{e}
				v.Lost = nil
				asked := missOf("stack_back", "n9", e, 7)
				asked.MAC, asked.Address = [6]byte{}, e.Address
				v.Missed = []MissedPeer{{OverlayMiss: asked}, {OverlayMiss: missOf("stack_back", "n9", e, 100)}} // the latter in the other table
			}),
			one("neigh-row-missing", between("stack_back", third), ofBack+"ip neigh show 10.9.1.12",
				number("rows", 1, ""), text("endpoints", "load balancer (10.9.1.12)"), text("where they are", "192.168.1.7"),
				number("asked for in vain", 7, "in the last minute")),
		},
		{
			"a row that leads astray", inOverlays(func(v *View) {
				backNetwork(v).Astray = []enrich.AstrayEntry{{ClusterEndpoint: backNetwork(v).Endpoints[1], Got: third}}
				v.Lost = nil
			}),
			one("stale-vtep", Subject{Identity: enrich.Identity{Network: "stack_back"}, Scope: enrich.ScopeHost, Object: "192.168.1.6 by 192.168.1.7"},
				ofBack+"bridge fdb show dev vxlan0 | grep -e 02:42:0a:09:01:0a",
				number("rows", 1, ""), text("endpoints", "stack_web.0 (10.9.1.10)"), text("where they are", "node2 (192.168.1.6)"),
				text("where the rows lead", "192.168.1.7")),
		},
		{
			"no row, the network's endpoints not known", lose(unknown(tunnelLoss("fdb-row-missing", second, 10, 5*time.Second))),
			one("fdb-row-missing", onNetwork("late"), "nsenter --net=SANDBOX bridge fdb show dev vxlan0 | grep -c -e MAC", exampleOf("192.168.1.6", 10)...),
		},
		{"the same, too few", lose(unknown(tunnelLoss("fdb-row-missing", second, 9, 5*time.Second))), nil},
		{"the same, for too short", lose(unknown(tunnelLoss("fdb-row-missing", second, 1000, 4*time.Second))), nil},
		{
			"frames for another node come here", inOverlays(func(v *View) { v.Losses = append(v.Losses, gone("stale-vtep", 10, 5*time.Second)) }),
			one("stale-vtep", Subject{Identity: enrich.Identity{Network: "stack_back"}, Scope: enrich.ScopeHost, Object: "192.168.1.6 by here"}, fromSecond,
				lost(10), text("whose rows lead here", "node2 (192.168.1.6)"), text("where it should have gone", "192.168.1.7"),
				text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"), text("device", "eth0"),
				text("example", "10.9.1.10:0 > 10.9.1.12:4789 udp"), text("direction", "rx"), text("scope", "host")),
		},
		{"the same, too few", inOverlays(func(v *View) { v.Losses = append(v.Losses, gone("stale-vtep", 9, 5*time.Second)) }), nil},
		{"the same, for too short", inOverlays(func(v *View) { v.Losses = append(v.Losses, gone("stale-vtep", 90, 4*time.Second)) }), nil},
		{
			"from another address", lose(tunnelLoss("vtep-src-mismatch", addr("10.1.1.1"), 10, 5*time.Second)),
			one("vtep-src-mismatch", between("stack_back", addr("10.1.1.1")), "timeout 10 tcpdump -c 5 -ni any udp dst port 4789 and src 10.1.1.1",
				append([]Fact{text("comes from", "10.1.1.1"), text("nodes on the network", "node4 (192.168.1.208), node2 (192.168.1.6), 192.168.1.7")},
					exampleOf("10.1.1.1", 10)...)...),
		},
	}
}

func overlayPathCases() []ruleCase {
	lose := func(losses ...TunnelLoss) func(*View) {
		return inOverlays(func(v *View) {
			v.Lost = slices.DeleteFunc(v.Lost, func(l TunnelLoss) bool { return l.Cause == losses[0].Cause })
			v.Lost = append(v.Lost, losses...)
		})
	}
	wrong := func(node, what string, facts ...Fact) []Fact {
		return append([]Fact{text("node", node), text("what is wrong", what)}, facts...)
	}
	networks := func(facts []Fact, names string) []Fact {
		return slices.Insert(slices.Clone(facts), 1, text("networks", names))
	}
	far := tunnelLoss("vni-unknown", second, 10, 5*time.Second)
	far.Network, far.VNI = "", farVNI
	unheard := far
	unheard.VNI = 4242
	out := tunnelLoss("4789-closed", second, 20, 10*time.Second)
	out.Outgoing = true
	untaken := tunnelLoss("4789-closed", second, 10, 5*time.Second)
	untaken.Example.Reason = "NO_SOCKET"
	esp := tunnelLoss("encrypted-esp-blocked", third, 10, 5*time.Second)
	esp.Network, esp.VNI, esp.Encrypted = "", 0, true
	noESP := esp
	noESP.Example.Reason = "IP_NOPROTO"
	vault := tunnelLoss("encrypted-plain-drop", second, 10, 5*time.Second)
	vault.Network, vault.VNI = "vault", vaultVNI
	forged := vault
	forged.Peer, forged.Example.Source = stranger, stranger
	away := tunnelLoss("advertise-nat", addr("10.77.0.9"), 6, 5*time.Second)
	alsoAway := away
	alsoAway.Network = "vault"
	return []ruleCase{
		{
			"a network that is elsewhere", lose(far),
			one("vni-unknown", Subject{Identity: enrich.Identity{Network: "far"}, Scope: enrich.ScopeHost, Object: "VNI 4099 from 192.168.1.6"}, fromSecond,
				append([]Fact{text("node", "node2 (192.168.1.6)"), number("VNI", farVNI, "")}, exampleOf("192.168.1.6", 10)...)...),
		},
		{
			"a network that nobody here knows", lose(unheard),
			one("vni-unknown", onTheHost("VNI 4242 from 192.168.1.6"), fromSecond,
				append([]Fact{text("node", "node2 (192.168.1.6)"), number("VNI", 4242, "")}, exampleOf("192.168.1.6", 10)...)...),
		},
		{
			"a rule against VXLAN from a node, on two networks", lose(tunnelLoss("4789-closed", second, 5, 5*time.Second), func() TunnelLoss {
				l := tunnelLoss("4789-closed", second, 6, 3*time.Second)
				l.Network = "ingress"
				return l
			}()),
			one("4789-closed", onTheHost("192.168.1.6"), showRules,
				wrong("node2 (192.168.1.6)", "this node does not let VXLAN in: look at its rules in PREROUTING and INPUT",
					networks(exampleOf("192.168.1.6", 11), "stack_back, ingress")...)...),
		},
		{
			"a rule against VXLAN to a node", lose(out),
			one("4789-closed", onTheHost("192.168.1.6"), showRules,
				wrong("node2 (192.168.1.6)", "this node does not let VXLAN out: look at its rules in OUTPUT",
					networks(exampleOf("192.168.1.6", 20), "stack_back")...)...),
		},
		{
			"nobody takes VXLAN", lose(untaken),
			one("4789-closed", onTheHost("192.168.1.6"), showRules,
				wrong("node2 (192.168.1.6)", "this node has nobody who takes VXLAN: the device of the network is down or gone, or the kernel lacks it",
					slices.Replace(networks(exampleOf("192.168.1.6", 10), "stack_back"), 2, 3, text("kernel's reason", "NO_SOCKET"))...)...),
		},
		{"a rule that dropped little", lose(tunnelLoss("4789-closed", second, 9, time.Minute)), nil},
		{
			"a rule against ESP", lose(esp),
			one("encrypted-esp-blocked", onTheHost("192.168.1.7"), "timeout 10 tcpdump -c 5 -ni any ip proto 50 and host 192.168.1.7",
				wrong("192.168.1.7", "this node does not let ESP in: look at its rules in PREROUTING and INPUT", exampleOf("192.168.1.7", 10)...)...),
		},
		{
			"a kernel without ESP", lose(noESP),
			one("encrypted-esp-blocked", onTheHost("192.168.1.7"), "timeout 10 tcpdump -c 5 -ni any ip proto 50 and host 192.168.1.7",
				wrong("192.168.1.7", "this node has nobody who takes ESP: the device of the network is down or gone, or the kernel lacks it",
					slices.Replace(exampleOf("192.168.1.7", 10), 1, 2, text("kernel's reason", "IP_NOPROTO"))...)...),
		},
		{
			"in the clear, from a node", lose(vault),
			one("encrypted-plain-drop", between("vault", second), showRules,
				append([]Fact{text("sender", "node node2, 192.168.1.6")}, exampleOf("192.168.1.6", 10)...)...),
		},
		{
			"in the clear, from somebody else", lose(forged),
			one("encrypted-plain-drop", between("vault", stranger), showRules,
				append([]Fact{text("sender", "no node of this Swarm, 203.0.113.9")}, exampleOf("203.0.113.9", 10)...)...),
		},
		{
			"an address that leads nowhere", lose(away, alsoAway),
			one("advertise-nat", onTheHost("10.77.0.9"), "ip route get 10.77.0.9",
				append([]Fact{text("node", "10.77.0.9")}, networks(exampleOf("10.77.0.9", 12), "stack_back, vault")...)...),
		},
		{
			"somebody else's VXLAN", inOverlays(func(v *View) { toPeer(v, stranger, loader.ChannelVXLAN).Received = 6 }),
			one("4789-collision", onTheHost(""), "timeout 10 tcpdump -c 5 -ni any udp dst port 4789 and src 203.0.113.9",
				number("packets of no network here", 6, "in the last minute"), number("packets without a readable header", 4, "in the last minute"),
				number("senders", 1, ""), text("they are", "203.0.113.9"), number("VNI", 7, "of the latest")),
		},
		{
			"no VXLAN from a node", inOverlays(func(v *View) {
				toPeer(v, stranger, loader.ChannelVXLAN).Received, toPeer(v, stranger, loader.ChannelVXLAN).Malformed = 0, 0
				toPeer(v, second, loader.ChannelVXLAN).Malformed = 10
			}),
			one("4789-collision", onTheHost(""), fromSecond,
				number("packets of no network here", 0, "in the last minute"), number("packets without a readable header", 10, "in the last minute"),
				number("senders", 1, ""), text("they are", "192.168.1.6")),
		},
		{"somebody who is not known yet, on a network of ours", inOverlays(func(v *View) {
			toPeer(v, stranger, loader.ChannelVXLAN).VNI, toPeer(v, stranger, loader.ChannelVXLAN).Received = farVNI, 5000
		}), nil},
	}
}

// overlaySuspicionCases are about TCP that is not answered: to the second node, of which nothing came for 10 s.
func overlaySuspicionCases() []ruleCase {
	cut := func(channel loader.Channel, network string, change func(*View)) func(*View) {
		return inOverlays(func(v *View) {
			silent(toPeer(v, second, channel), 10*time.Second)
			v.Talks = []Talk{{Network: network, Peer: second, Sent: 5, First: start.Add(-9 * time.Second), Last: start.Add(-4 * time.Second)}}
			change(v)
		})
	}
	vxlan := func(change func(*View)) func(*View) { return cut(loader.ChannelVXLAN, "stack_back", change) }
	suspected := func(what, since string) []Fact {
		return []Fact{
			text("node", "node2 (192.168.1.6)"),
			text("what is wrong", "suspected: "+what+" to the node, or from it, is lost on the way or there: look at its rules and at the provider's security groups, both ways"),
			number("TCP segments without an answer", 5, "in 5 s"), number(what+" packets sent", 60, "in the last minute"),
			text(what+" last received", since), text("last heard on other ports", "11:59:59 UTC"),
		}
	}
	as := func(id, confirm string, facts []Fact) []raised {
		return one(id, onTheHost("192.168.1.6"), confirm, facts...)
	}
	return []ruleCase{
		{"nothing comes back by VXLAN", vxlan(func(*View) {}), as("4789-closed", fromSecond, suspected("VXLAN", "11:59:50 UTC"))},
		{"nothing ever came", vxlan(func(v *View) { toPeer(v, second, loader.ChannelVXLAN).LastReceived = time.Time{} }),
			as("4789-closed", fromSecond, suspected("VXLAN", "never"))},
		{"nothing comes back by ESP", cut(loader.ChannelESP, "vault", func(*View) {}),
			as("encrypted-esp-blocked", "timeout 10 tcpdump -c 5 -ni any ip proto 50 and src 192.168.1.6", suspected("ESP", "11:59:50 UTC"))},
		{"too few segments", vxlan(func(v *View) { v.Talks[0].Sent = 4 }), nil},
		{"for too short", vxlan(func(v *View) { v.Talks[0].Last = start.Add(-5 * time.Second) }), nil},
		{"to somebody else", vxlan(func(v *View) { v.Talks[0].Peer = third; v.Talks[0].Sent = 4 }), nil},
		{"on a network of the other kind", vxlan(func(v *View) { v.Talks[0].Network = "vault" }), nil},
		{"on a network that is gone", vxlan(func(v *View) { v.Talks[0].Network = "late" }), nil},
		{"something came since", vxlan(func(v *View) { silent(toPeer(v, second, loader.ChannelVXLAN), 8*time.Second) }), nil},
		{"datagrams alone", vxlan(func(v *View) { v.Talks = nil }), nil},
		{"nothing was counted on the way out", vxlan(func(v *View) { toPeer(v, second, loader.ChannelVXLAN).Sent = 0 }), nil},
		{"its managers say that it is down", vxlan(func(v *View) { v.peer(second).State = "down" }), nil},
		{"it is not heard on other ports", vxlan(func(v *View) {
			v.Channels = slices.DeleteFunc(v.Channels, func(c PeerChannel) bool { return c.Peer == second && isControl(c.Channel) })
		}), nil},
		{"it fell silent on other ports at the same time", vxlan(func(v *View) {
			for i := range v.Channels {
				if c := &v.Channels[i]; c.Peer == second && isControl(c.Channel) {
					c.LastReceived = start.Add(-5 * time.Second)
				}
			}
		}), nil},
		{"two of its containers, to both little", vxlan(func(v *View) {
			v.Talks[0].Sent = 2
			other := v.Talks[0]
			other.Address, other.Sent = addr("10.9.1.11"), 3
			v.Talks = append(v.Talks, other)
		}), as("4789-closed", fromSecond, suspected("VXLAN", "11:59:50 UTC"))},
		{"its control address is not known", vxlan(func(v *View) { v.peer(second).Control = netip.Addr{} }), nil},
		{"told apart from what is proven", vxlan(func(v *View) {
			v.Lost = []TunnelLoss{tunnelLoss("4789-closed", second, 10, 5*time.Second)}
		}), as("4789-closed", showRules, slices.Concat([]Fact{
			text("node", "node2 (192.168.1.6)"), text("what is wrong", "this node does not let VXLAN in: look at its rules in PREROUTING and INPUT"),
			lost(10), text("networks", "stack_back"),
		}, exampleOf("192.168.1.6", 10)[1:]))},
	}
}

func overlayMTUCases() []ruleCase {
	mtus := func(change func(*View, *enrich.OverlayNetwork)) func(*View) {
		return inOverlays(func(v *View) { change(v, backNetwork(v)) })
	}
	facts := func(most, least float64, at string, link, room float64) []Fact {
		return []Fact{
			number("largest MTU on the network", most, "bytes"), number("smallest MTU on the network", least, "bytes"), text("smallest at", at),
			number("MTU of the link eth0", link, "bytes"), number("MTU that fits", room, "bytes"),
		}
	}
	all := func(n *enrich.OverlayNetwork, v *View, mtu int) {
		n.Sandbox.VXLANs[0].MTU = mtu
		for i := range n.Sandbox.Links {
			n.Sandbox.Links[i].MTU = mtu
		}
		v.Containers[taskID].Links[0].MTU = mtu
	}
	show := ofBack + "ip -o link show"
	return []ruleCase{
		{"all larger than the tunnel", mtus(func(v *View, n *enrich.OverlayNetwork) { all(n, v, 1411) }),
			one("overlay-mtu", onNetwork("stack_back"), show, facts(1411, 1411, "vxlan0", 1460, 1410)...)},
		{"all smaller than they need be", mtus(func(v *View, n *enrich.OverlayNetwork) { all(n, v, 1300) }), nil},
		{"the link's own MTU", mtus(func(v *View, n *enrich.OverlayNetwork) { all(n, v, 1380); v.link(uplinkIndex).MTU = 1430 }),
			// The encrypted network's are 1384.
			one("overlay-mtu", onNetwork("vault"), "nsenter --net=/run/docker/netns/1-n10 ip -o link show", facts(1384, 1384, "vxlan0", 1430, 1352)...)},
		{"the container's end is larger", mtus(func(v *View, _ *enrich.OverlayNetwork) { v.Containers[taskID].Links[0].MTU = 1500 }),
			one("overlay-mtu", onNetwork("stack_back"), show, facts(1500, 1410, "vxlan0", 1460, 1410)...)},
		{"a port is smaller", mtus(func(_ *View, n *enrich.OverlayNetwork) { n.Sandbox.Links[3].MTU = 1400 }),
			one("overlay-mtu", onNetwork("stack_back"), show, facts(1410, 1400, "veth0", 1460, 1410)...)},
		{"a node by IPv6", mtus(func(v *View, n *enrich.OverlayNetwork) {
			for i := range n.Endpoints[1:] {
				n.Endpoints[i+1].Host = addr("fe80::9")
			}
		}), one("overlay-mtu", onNetwork("stack_back"), show, facts(1410, 1410, "vxlan0", 1460, 1390)...)},
		{"no other node on it", mtus(func(v *View, n *enrich.OverlayNetwork) { all(n, v, 9000); n.Endpoints = n.Endpoints[:1] }), nil},
		{"no route known", mtus(func(v *View, n *enrich.OverlayNetwork) { all(n, v, 9000); v.Host.Routes = nil }), nil},
		{"not on this node", mtus(func(v *View, n *enrich.OverlayNetwork) { all(n, v, 9000); n.Sandbox, v.Lost = nil, nil }), nil},
		{
			"dropped for its size on the way out", inOverlays(func(v *View) {
				v.Lost = []TunnelLoss{tunnelLoss("mtu-route", second, 10, 5*time.Second)}
			}),
			one("overlay-mtu", between("stack_back", second), "ip route get 192.168.1.6",
				append(exampleOf("192.168.1.6", 10), text("node", "node2 (192.168.1.6)"))...),
		},
	}
}

// A suspicion needs its time even where much is sent at once.
func TestSuspicionsAreNotHasty(t *testing.T) {
	view := healthySwarm()
	silent(toPeer(&view, second, loader.ChannelVXLAN), time.Second)
	view.Talks = []Talk{{Network: "stack_back", Peer: second, Sent: 100000, First: start.Add(-500 * time.Millisecond), Last: start}}
	requireRaised(t, look(NewBoard(Config{}), view, 0), nil)
}
