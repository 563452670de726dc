// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// spoke is a channel on which both sides have spoken so long ago, in seconds, and so much within the Window.
func spoke(peer string, channel loader.Channel, sent, received uint64, lastSent, lastReceived int) PeerChannel {
	began := start.Add(-time.Hour)
	return PeerChannel{
		Peer: addr(peer), Known: true, Channel: channel, Sent: sent, Received: received, FirstSent: began, FirstReceived: began,
		LastSent: ago(lastSent), LastReceived: ago(lastReceived),
	}
}

func ago(seconds int) time.Time { return start.Add(-time.Duration(seconds) * time.Second) }

// controlChannels are those to the two nodes: one with gossip of all sorts and a tunnel, which is a stream of datagrams that want no
// answer, and a manager that has not been heard of for as long as may be.
func controlChannels() []PeerChannel {
	silent := spoke("192.168.1.6", loader.ChannelVXLAN, 5000, 0, 0, 3000)
	silent.FirstReceived, silent.LastReceived = time.Time{}, time.Time{}
	return []PeerChannel{
		spoke("192.168.1.6", loader.ChannelGossipUDP, 100, 100, 1, 1),
		spoke("192.168.1.6", loader.ChannelGossipTCP, 4, 0, 0, 2), // a handshake has just begun
		spoke("192.168.1.6", loader.ChannelManager, 0, 0, 300, 300),
		silent,
		spoke("192.168.1.7", loader.ChannelGossipUDP, 2, 1, 21, 54),
		spoke("192.168.1.7", loader.ChannelManager, 12, 12, 3, 3),
		spoke("203.0.113.99", loader.ChannelGossipUDP, 100, 0, 0, 3000), // no node of the Swarm
	}
}

// onChannel changes one of the healthy Swarm's.
func onChannel(peer string, channel loader.Channel, change func(*PeerChannel)) func(*View) {
	return inSwarm(func(v *View) {
		for i := range v.Channels {
			if c := &v.Channels[i]; c.Peer == addr(peer) && c.Channel == channel {
				change(c)
			}
		}
	})
}

func swarmCases() []ruleCase {
	return slices.Concat(firewallCases(), swarmInventoryCases())
}

// TestControlPorts looks at one moment: what was last a while ago is a while longer ago at the next.
func TestControlPorts(t *testing.T) {
	for _, c := range controlPortCases() {
		t.Run(c.name, func(t *testing.T) {
			view := healthy()
			c.change(&view)
			var got []raised
			for _, r := range swarmPortRules() {
				for _, h := range r.find(&view) {
					got = append(got, raised{r.ID, h.subject, h.evidence, confirm(&r, h)})
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// With two peers gossip is silent for 38 s, and a peer for 60 s, before anything follows from it.
func controlPortCases() []ruleCase {
	const two, three = "192.168.1.6", "192.168.1.7"
	blocked := func(id, peer, name, port string, way string, sent, received float64, here, elsewhere string) []raised {
		number, protocol, _ := splitPort(port)
		confirm := "timeout 60 tcpdump -c 20 -ni any host " + peer + " and port " + number
		if id == "2377-closed" {
			confirm = "timeout 60 tcpdump -c 20 -ni any host " + peer + " and tcp port " + number
		}
		return one(id, onTheHost(peer+" "+number+"/"+protocol), confirm,
			text("peer", name+" ("+peer+")"), text("what happens", way), count("packets sent", sent), count("packets received", received),
			text("last received", here), text("last received on others", elsewhere))
	}
	at := func(seconds int) string { return clock(ago(seconds)) }
	const never = "not since the agent has started"
	silent := func(seconds string, state, nets, sent string) []raised {
		return one("peer-silent", onTheHost(two), "timeout 60 tcpdump -c 1 -ni any src "+two,
			text("peer", "two ("+two+")"), text("last received", seconds), text("last sent to it", sent),
			text("managers say", state), text("networks in common", nets))
	}
	// lastWords has nothing come from a node for so long, and has this one speak to it last at another moment.
	lastWords := func(state string, heard, spoke int) func(*View) {
		return inSwarm(func(v *View) {
			silence(v, heard)
			v.Cluster.Peers[0].State = state
			for i := range v.Channels {
				if c := &v.Channels[i]; c.Peer == addr(two) {
					c.Received, c.LastReceived = 0, ago(heard)
					if c.Channel != loader.ChannelVXLAN {
						c.Sent, c.LastSent = 0, ago(spoke)
					}
				}
			}
		})
	}
	return []ruleCase{
		{
			"probes are not acknowledged", onChannel(two, loader.ChannelGossipUDP, func(c *PeerChannel) { c.LastSent, c.LastReceived, c.Received = ago(1), ago(40), 0 }),
			blocked("7946-closed", two, "two", "7946/udp", unansweredThere, 100, 0, at(40), at(2)),
		},
		{"probes are not acknowledged for a while", onChannel(two, loader.ChannelGossipUDP, func(c *PeerChannel) { c.LastSent, c.LastReceived = ago(1), ago(38) }), nil},
		{"nobody probes any more", onChannel(two, loader.ChannelGossipUDP, func(c *PeerChannel) { c.LastSent, c.LastReceived = ago(38), ago(300) }), nil},
		{
			"probes were never acknowledged", onChannel(two, loader.ChannelGossipUDP, func(c *PeerChannel) {
				c.FirstSent, c.LastSent, c.Received = ago(50), ago(0), 0
				c.FirstReceived, c.LastReceived = time.Time{}, time.Time{}
			}),
			blocked("7946-closed", two, "two", "7946/udp", unansweredThere, 100, 0, never, at(2)),
		},
		{"probing has just begun", onChannel(two, loader.ChannelGossipUDP, func(c *PeerChannel) {
			c.FirstSent, c.LastSent, c.FirstReceived, c.LastReceived = ago(37), ago(0), time.Time{}, time.Time{}
		}), nil},
		{
			"probes come in and are not acknowledged", onChannel(two, loader.ChannelGossipUDP, func(c *PeerChannel) { c.LastSent, c.Sent, c.LastReceived = ago(39), 0, ago(1) }),
			blocked("7946-closed", two, "two", "7946/udp", unansweredHere, 0, 100, at(1), at(2)),
		},
		{
			"a handshake is not answered", onChannel(two, loader.ChannelGossipTCP, func(c *PeerChannel) { c.Sent, c.LastSent, c.LastReceived = 3, ago(1), ago(300) }),
			blocked("7946-closed", two, "two", "7946/tcp", unansweredThere, 3, 0, at(300), at(1)),
		},
		{"two segments", onChannel(two, loader.ChannelGossipTCP, func(c *PeerChannel) { c.Sent, c.LastSent, c.LastReceived = 2, ago(1), ago(60) }), nil},
		{
			"a connection that is not answered any more", onChannel(two, loader.ChannelManager, func(c *PeerChannel) { c.Sent, c.LastSent, c.LastReceived = 1, ago(10), ago(70) }),
			blocked("2377-closed", two, "two", "2377/tcp", unansweredThere, 1, 0, at(70), at(1)),
		},
		{
			"a connection of others' that is not answered any more", onChannel(two, loader.ChannelManager, func(c *PeerChannel) { c.Received, c.LastSent, c.LastReceived = 1, ago(70), ago(10) }),
			blocked("2377-closed", two, "two", "2377/tcp", unansweredHere, 0, 1, at(10), at(1)),
		},
		{"one segment of others'", onChannel(two, loader.ChannelManager, func(c *PeerChannel) { c.Received, c.LastSent, c.LastReceived = 1, ago(69), ago(10) }), nil},
		{"segments and an answer", onChannel(two, loader.ChannelGossipTCP, func(c *PeerChannel) { c.Sent, c.Received, c.LastSent, c.LastReceived = 9, 1, ago(1), ago(59) }), nil},
		{
			"handshakes of others are not answered", onChannel(two, loader.ChannelManager, func(c *PeerChannel) { c.Received, c.LastReceived = 4, ago(2) }),
			blocked("2377-closed", two, "two", "2377/tcp", unansweredHere, 0, 4, at(2), at(1)),
		},
		{
			"a manager does not answer", onChannel(three, loader.ChannelManager, func(c *PeerChannel) { c.Received, c.LastReceived = 0, ago(61) }),
			blocked("2377-closed", three, "three", "2377/tcp", unansweredThere, 12, 0, at(61), at(54)),
		},
		{"an old handshake was not answered", onChannel(two, loader.ChannelManager, func(c *PeerChannel) { c.Sent, c.LastSent, c.LastReceived = 4, ago(61), ago(600) }), nil},
		{"a manager at another port", inSwarm(func(v *View) { v.Cluster.Ports.Managers = []uint16{12377} }), nil},
		{"a silent peer", silentPeer, silent(at(61), "ready", "ingress, stack_back", at(0))},
		{"a peer that is silent for a while", inSwarm(func(v *View) { silence(v, 59) }), nil},
		{
			"a silent peer that was never heard of", inSwarm(func(v *View) {
				v.Cluster.Peers[0].State, v.Cluster.Peers[0].Nets = "", nil
				v.Channels = v.Channels[:1]
				c := &v.Channels[0]
				c.FirstSent, c.LastSent, c.FirstReceived, c.LastReceived, c.Received = ago(70), ago(1), time.Time{}, time.Time{}, 0
			}),
			silent(never, "not known on this node", "none", at(1)),
		},
		{"a peer that has just been spoken to for the first time", inSwarm(func(v *View) {
			v.Channels = v.Channels[:1]
			c := &v.Channels[0]
			c.FirstSent, c.LastSent, c.FirstReceived, c.LastReceived = ago(59), ago(1), time.Time{}, time.Time{}
		}), nil},
		{
			"nobody answers ARP for a node that is off", lastWords("ready", 70, 60), silent(at(70), "ready", "ingress, stack_back", at(60)),
		},
		{
			"a node that is off for long", lastWords("down", 600, 590), silent(at(600), "down", "ingress, stack_back", at(590)),
		},
		{
			"this node's link is down, after it has answered", lastWords("", 70, 72),
			silent(at(70), "not known on this node", "ingress, stack_back", at(72)),
		},
		{"a peer that is not spoken to", lastWords("ready", 600, 700), nil},
		{"a peer that has left", lastWords("down", 600, 598), nil},
		{"a peer that the Swarm does not list", inSwarm(func(v *View) {
			silence(v, 600)
			v.Cluster.Peers = v.Cluster.Peers[1:]
		}), nil},
		{"whoever has gossip at another address", inSwarm(func(v *View) {
			for i := range v.Channels {
				if c := &v.Channels[i]; c.Peer == addr(two) && c.Channel != loader.ChannelVXLAN {
					c.Peer = addr("10.1.1.6")
				}
			}
			v.Cluster.Peers[0].Control = addr("10.1.1.6")
		}), nil},
	}
}

func firewallCases() []ruleCase {
	dropped := func(v *View, cause string, packets uint64) *Loss {
		l := loss(cause, packets)
		l.Subject, l.Example.ContainerID = onTheHost(""), ""
		v.Losses = []Loss{l}
		return &v.Losses[0]
	}
	const rules = "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -iwE 'drop|reject'"
	return []ruleCase{
		{
			"gossip does not pass this host's firewall", inSwarm(func(v *View) { dropped(v, "7946-closed", 3) }),
			one("7946-closed", onTheHost(""), rules, append([]Fact{text("what happens", "a rule on this host drops it")}, lossFacts(3)...)...),
		},
		{"too little is dropped", inSwarm(func(v *View) { dropped(v, "7946-closed", 2) }), nil},
		{"dropped in another namespace", inSwarm(func(v *View) { dropped(v, "2377-closed", 30).Subject.Scope = enrich.ScopeUnknown }), nil},
		{
			"managers' traffic does not pass this host's firewall", inSwarm(func(v *View) { dropped(v, "2377-closed", 3) }),
			one("2377-closed", onTheHost(""), rules, append([]Fact{text("what happens", "a rule on this host drops it")}, lossFacts(3)...)...),
		},
		{"a silent peer, for a while longer", silentPeer, one("peer-silent", onTheHost("192.168.1.6"), "timeout 60 tcpdump -c 1 -ni any src 192.168.1.6",
			text("peer", "two (192.168.1.6)"), text("last received", clock(ago(61))), text("last sent to it", clock(start)),
			text("managers say", "ready"), text("networks in common", "ingress, stack_back"))},
	}
}

func silentPeer(v *View) { inSwarm(func(v *View) { silence(v, 61) })(v) }

// silence has nothing come from the first peer for so long, in seconds.
func silence(v *View, seconds int) {
	for i := range v.Channels {
		if c := &v.Channels[i]; c.Peer == addr("192.168.1.6") && !c.LastReceived.IsZero() {
			c.Received, c.LastReceived = 0, ago(max(seconds, int(start.Sub(c.LastReceived).Seconds())))
		}
	}
}

func count(name string, n float64) Fact { return number(name, n, "in the last minute") }

func splitPort(port string) (number, protocol string, n int) {
	for i := range port {
		if port[i] == '/' {
			n, _ = strconv.Atoi(port[:i])
			return port[:i], port[i+1:], n
		}
	}
	return port, "", 0
}

// The more nodes there are, the longer it takes until gossip visits each.
func TestGossipSilenceScales(t *testing.T) {
	for peers, want := range map[int]time.Duration{0: 30 * time.Second, 1: 34 * time.Second, 10: 70 * time.Second, 199: 826 * time.Second} {
		v := View{Cluster: enrich.Cluster{Peers: make([]enrich.SwarmPeer, peers)}}
		if got := v.gossipSilence(); got != want {
			t.Errorf("%d peers: %s, want %s", peers, got, want)
		}
		if got := v.peerSilence(); got != max(want, time.Minute) {
			t.Errorf("%d peers: %s, want %s", peers, got, max(want, time.Minute))
		}
	}
}

func swarmInventoryCases() []ruleCase {
	const inspect = "docker network inspect docker_gwbridge"
	inSubnet := func(subnet string) Subject {
		return Subject{Identity: enrich.Identity{Network: "stack_back"}, Scope: enrich.ScopeHost, Object: subnet}
	}
	use := func(subnet string, used, available uint64) func(*View) {
		return inSwarm(func(v *View) {
			v.Cluster.Networks[1].Use = []enrich.SubnetUse{{Subnet: prefix(subnet), Used: used, Available: available}}
		})
	}
	// populate puts so many tasks on stack_back, which has a virtual address and a gateway besides.
	populate := func(v *View, subnet string, tasks int) {
		n := &v.Cluster.Networks[1]
		n.Subnets, n.Gateways = []netip.Prefix{prefix(subnet)}, []netip.Addr{addr("10.9.1.1")}
		a := addr("10.9.1.2")
		n.Endpoints = nil
		for range tasks {
			a = a.Next()
			n.Endpoints = append(n.Endpoints, enrich.ClusterEndpoint{Address: a})
		}
	}
	exhausted := func(subnet string, used, all, free float64, by string) []raised {
		return one("subnet-exhausted", inSubnet(subnet), "docker network inspect --verbose stack_back",
			text("subnet", subnet), number("addresses in use", used, fmt.Sprintf("of %.0f", all)), number("addresses free", free, ""), text("by", by))
	}
	refused := func(v *View, packets uint64) *Loss {
		l := loss("host-mode-node", packets)
		l.Subject, l.Example.ContainerID = onTheHost(""), ""
		v.Losses = []Loss{l}
		v.Inventory.Services = []enrich.LiveService{{
			Service:  enrich.Service{Name: "stack_front", HostPorts: []enrich.MeshPort{{Port: 443, Protocol: "tcp"}}},
			Identity: enrich.Identity{Stack: "stack", Service: "front"},
		}}
		return &v.Losses[0]
	}
	guarded := loss("ingress-unlisted-port", 10)
	guarded.Subject.Scope = enrich.ScopeContainer
	return []ruleCase{
		{"the engine says that a subnet is nearly full", use("10.9.1.0/24", 229, 25), exhausted("10.9.1.0/24", 229, 254, 25, "the engine")},
		{"the engine says that it is just not", use("10.9.1.0/24", 227, 27), nil},
		{"as large as IPv6", use("fd00::/64", 1000, 1<<64-1), nil},
		{"nothing is known of a subnet", use("10.9.1.0/24", 0, 0), nil},
		{
			"so many are listed that a subnet is nearly full", inSwarm(func(v *View) { populate(v, "10.9.1.0/24", 227) }),
			exhausted("10.9.1.0/24", 229, 254, 25, "what is listed on the network, which may be less"),
		},
		{"so many that it is just not", inSwarm(func(v *View) { populate(v, "10.9.1.0/24", 225) }), nil},
		{"a subnet that is meant to be small", inSwarm(func(v *View) { populate(v, "10.9.1.0/30", 2) }), nil},
		{"a subnet of IPv6", inSwarm(func(v *View) { v.Cluster.Networks[1].Subnets = []netip.Prefix{prefix("fd00:9::/120")} }), nil},
		{"the engine has not told who is there", inSwarm(func(v *View) {
			populate(v, "10.9.1.0/24", 230)
			v.Cluster.Networks[1].Known, v.Cluster.Networks[1].VIPs = false, nil
		}), nil},

		{
			"a VXLAN device on the host", inSwarm(func(v *View) {
				goOn(v, swept)
				v.Host.Links = append(v.Host.Links, loader.Link{Index: 99, Name: "vx-001001-zmq0d", Kind: "vxlan", PeerNetnsID: -1})
			}),
			one("vxlan-leak", onTheHost("vx-001001-zmq0d"), "ip -d link show type vxlan", text("device", "vx-001001-zmq0d"), number("VNI", 4097, "")),
		},
		{"somebody else's VXLAN device", inSwarm(func(v *View) {
			v.Host.Links = append(v.Host.Links, loader.Link{Index: 99, Name: "flannel.1", Kind: "vxlan", PeerNetnsID: -1},
				loader.Link{Index: 98, Name: "vx-001001-zmq0d", Kind: "dummy", PeerNetnsID: -1})
		}), nil},
		{
			"a namespace of an overlay that is gone", inSwarm(func(v *View) {
				goOn(v, swept)
				v.Host.Sandboxes = append(v.Host.Sandboxes, "/run/docker/netns/1-abc0dp2jpu")
			}),
			one("vxlan-leak", onTheHost("/run/docker/netns/1-abc0dp2jpu"), "nsenter --net=/run/docker/netns/1-abc0dp2jpu ip -d link show type vxlan",
				text("namespace", "/run/docker/netns/1-abc0dp2jpu"), text("network", "none that the engine knows")),
		},
		{
			"two devices of one VNI", inSwarm(func(v *View) {
				goOn(v, swept)
				v.Cluster.Networks[1].Sandbox.VXLANs[0].VNI = 4096
			}),
			one("vxlan-leak", onTheHost("/run/docker/netns/1-zmq0dp2jpu vxlan0"), "nsenter --net=/run/docker/netns/1-zmq0dp2jpu ip -d link show type vxlan",
				number("VNI", 4096, ""), text("devices", "/run/docker/netns/1-yyy0dp2jpu vxlan0, /run/docker/netns/1-zmq0dp2jpu vxlan0")),
		},
		{"a network that is not used here", inSwarm(func(v *View) { v.Cluster.Networks[1].Sandbox = nil }), nil},

		{
			"a port that other nodes serve", inSwarm(func(v *View) { refused(v, 10) }),
			one("host-mode-node", Subject{Identity: enrich.Identity{Stack: "stack", Service: "front"}, Scope: enrich.ScopeHost, Object: "443/tcp"},
				"docker service ps --filter desired-state=running stack_front", lossFacts(10)...),
		},
		{
			"a port that other nodes served a moment ago", inSwarm(func(v *View) {
				refused(v, 10)
				v.Inventory.Services = nil
			}),
			one("host-mode-node", onTheHost(""), "docker service ps --filter desired-state=running SERVICE", lossFacts(10)...),
		},
		{"asked for it seldom", inSwarm(func(v *View) { refused(v, 9) }), nil},
		{"asked for it in another namespace", inSwarm(func(v *View) { refused(v, 10).Subject.Scope = enrich.ScopeUnknown }), nil},

		{
			"dnsrr with ports of the mesh", inSwarm(func(v *View) {
				v.Inventory.Services = []enrich.LiveService{{
					Service:  enrich.Service{Name: "stack_front", Unmeshed: []enrich.MeshPort{{Port: 80, Protocol: "tcp"}, {Port: 53, Protocol: "udp"}}},
					Identity: enrich.Identity{Stack: "stack", Service: "front"},
				}}
			}),
			one("dnsrr-no-mesh", Subject{Identity: enrich.Identity{Stack: "stack", Service: "front"}, Scope: enrich.ScopeIngress},
				"docker service inspect --format '{{json .Spec.EndpointSpec}}' stack_front",
				text("endpoint mode", "dnsrr"), text("ports asked of the mesh", "80/tcp, 53/udp")),
		},

		{
			"no network docker_gwbridge", inSwarm(func(v *View) {
				v.Inventory.Networks = slices.DeleteFunc(v.Inventory.Networks, func(n enrich.Network) bool { return n.Name == "docker_gwbridge" })
			}),
			one("gwbridge", onNetwork("docker_gwbridge"), inspect, text("network", "the engine has none of this name")),
		},
		{
			"no bridge docker_gwbridge", inSwarm(func(v *View) {
				v.Host.Links = slices.DeleteFunc(v.Host.Links, func(l loader.Link) bool { return l.Name == "docker_gwbridge" })
			}),
			one("gwbridge", onNetwork("docker_gwbridge"), inspect, text("network", "there"), text("bridge", "the host has none of this name")),
		},
		{"no network docker_gwbridge, and nobody needs it", inSwarm(func(v *View) {
			v.Inventory.Networks = slices.DeleteFunc(v.Inventory.Networks, func(n enrich.Network) bool { return n.Name == "docker_gwbridge" })
			v.network("stack_back").Internal = true
			v.Host.Sandboxes = v.Host.Sandboxes[:4]
		}), nil},
		{
			"no network docker_gwbridge, without the mesh", inSwarm(func(v *View) {
				v.Inventory.Networks = slices.DeleteFunc(v.Inventory.Networks, func(n enrich.Network) bool { return n.Name == "docker_gwbridge" })
				v.container(taskID).Endpoints[0].NetworkID = v.network("stack_back").ID
				v.Host.Sandboxes = v.Host.Sandboxes[:4]
			}),
			one("gwbridge", onNetwork("docker_gwbridge"), inspect, text("network", "the engine has none of this name")),
		},
		{"links could not be read", inSwarm(func(v *View) { v.Host.Links, v.Host.Routes = nil, nil }), nil},
		{
			"docker_gwbridge is nearly full", inSwarm(func(v *View) { crowdBridge(v, 12) }),
			one("gwbridge", onNetwork("docker_gwbridge"), inspect, text("subnet", "172.18.0.0/28"), number("ports on the bridge", 12, "of 13 addresses")),
		},
		{"docker_gwbridge is just not", inSwarm(func(v *View) { crowdBridge(v, 11) }), nil},

		{
			"a port that a task does not publish", inSwarm(func(v *View) { v.Losses = []Loss{guarded} }),
			one("ingress-unlisted-port", guarded.Subject, "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n iptables-save -c", lossFacts(10)...),
		},
		{"a few packets for one", inSwarm(func(v *View) {
			few := guarded
			few.Packets = 9
			v.Losses = []Loss{few}
		}), nil},
	}
}

// crowdBridge gives docker_gwbridge a small subnet and so many ports.
func crowdBridge(v *View, ports int) {
	v.network("docker_gwbridge").Subnets = []netip.Prefix{prefix("172.18.0.0/28")}
	for i := 2; i < ports; i++ { // two are there
		v.Host.Links = append(v.Host.Links, loader.Link{
			Index: 100 + i, Name: fmt.Sprintf("veth00001%02d", i), Kind: "veth", Master: gwIndex, Peer: 2, PeerNetnsID: 50 + i, MTU: 1500,
		})
	}
}
