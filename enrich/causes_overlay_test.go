// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Namespaces of the city's Swarm on this node, and what is in them.
const (
	shopNetns    loader.Netns = 500
	shopBalancer loader.Netns = 501
	strangeNetns loader.Netns = 502 // of an overlay that the engine does not tell of
	shopperNetns loader.Netns = 510
	facadeNetns  loader.Netns = 511 // of a container on the routing mesh's network
	tunnelDevice              = 14
	shopperLeg                = 16
	shopVNI                   = 4097
	vaultVNI                  = 4098
	nodeESP                   = unix.IPPROTO_ESP
	nextNode                  = "192.0.2.2"
	nextNodeData              = "192.0.2.22" // its data path's own address
	lastNode                  = "192.0.2.3"
)

// joinSwarm makes the city a worker of a Swarm with two other nodes: an overlay network with two containers here and one on each
// other node, an encrypted one, and the routing mesh's.
func joinSwarm(w *world) {
	w.SetNode(Node{Name: "city", ID: "n1", Role: roleWorker, Address: "192.0.2.1"})
	w.setSwarmInfo(swarmInfo{member: true, id: "n1", address: netip.MustParseAddr("192.0.2.1"), managers: []swarmManager{
		{"n2", netip.MustParseAddrPort(nextNode + ":2377")},
	}})
	for _, n := range []Network{
		{Name: "shop", VNI: "4097", Subnets: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}},
		{Name: "vault", VNI: "4098", Encrypted: true},
		{Name: "ingress", VNI: "4096", Predefined: true},
	} {
		n.ID, n.Driver, n.Scope = idOf("network "+n.Name), "overlay", "swarm"
		w.PutNetwork(n)
	}
	w.PutContainer(on(w.container("shopper"), "shop", "10.9.0.3"))
	w.Process(processOf("shopper", shopperNetns))
	w.PutContainer(on(w.container("facade"), "ingress", "10.0.0.5"))
	w.Process(processOf("facade", facadeNetns))
	w.SetLinksInside(idOf("shopper"), []loader.Link{{Index: shopperLeg - 1, Kind: "veth", Peer: shopperLeg}})
	at := func(name, address, host string, local bool) overlayEndpoint {
		return overlayEndpoint{
			id: name, service: "shop_" + name, name: "shop_" + name + ".1.xyz", address: netip.MustParseAddr(address),
			host: netip.MustParseAddr(host), local: local, since: w.now,
		}
	}
	w.setOverlay(idOf("network shop"), &overlayWord{
		asked: w.now, peers: addresses("192.0.2.1", nextNode, lastNode),
		endpoints: []overlayEndpoint{
			at("here", "10.9.0.3", "192.0.2.1", true), at("next", "10.9.0.4", nextNodeData, false), at("last", "10.9.0.5", lastNode, false),
		},
		services: map[string]overlayService{"shop_web": {vip: netip.MustParseAddr("10.9.0.2")}},
	})
	w.seeSandboxes(false)
	w.wait(time.Minute)
}

// seeSandboxes looks at the engine's namespaces.
func (w *world) seeSandboxes(noIPVS bool) {
	overlay := loader.SandboxState{
		Sandbox: loader.Sandbox{
			Path: "/run/docker/netns/1-shop", Kind: loader.SandboxOverlay, Network: idOf("network shop")[:overlayPrefix], Netns: shopNetns, NetnsID: 500,
		},
		Links: []loader.Link{
			{Index: 2, Name: "br0", Kind: "bridge"}, {Index: tunnelDevice, Name: "vxlan0", Kind: "vxlan", Master: 2},
			{Index: shopperLeg, Name: "veth0", Kind: "veth", Master: 2, Peer: shopperLeg - 1},
		},
		VXLANs: []loader.VXLAN{{Index: tunnelDevice, Name: "vxlan0", VNI: shopVNI, Port: 4789}},
	}
	for _, to := range []string{nextNodeData, lastNode} {
		overlay.FDB = append(overlay.FDB, loader.FDBEntry{Device: tunnelDevice, MAC: mac(to), Peer: netip.MustParseAddr(to), Permanent: true})
	}
	balancer := loader.SandboxState{Sandbox: loader.Sandbox{
		Path: "/run/docker/netns/lb_shop", Kind: loader.SandboxLoadBalancer, Network: idOf("network shop")[:balancerPrefix], Netns: shopBalancer, NetnsID: 501,
	}, NoIPVS: noIPVS}
	strange := loader.SandboxState{Sandbox: loader.Sandbox{
		Path: "/run/docker/netns/1-strange", Kind: loader.SandboxOverlay, Network: "strange000", Netns: strangeNetns, NetnsID: 502,
	}}
	w.SetSandboxes([]loader.SandboxState{overlay, balancer, strange})
}

// atTunnelIn is what goes from one station to another at an overlay's VXLAN device.
func (l lost) atTunnelIn(netns loader.Netns, from, to string) lost {
	l = l.from(from).to(to).mac(to).sender(from)
	l.Netns, l.Device, l.DeviceName, l.DeviceKind = netns, tunnelDevice, "vxlan0", "vxlan"
	return l
}

func (l lost) atTunnel(from, to string) lost { return l.atTunnelIn(shopNetns, from, to) }

// vxlan makes it a tunnel's packet.
func (l lost) vxlan(vni uint32) lost {
	l = l.port(unix.IPPROTO_UDP, 4789)
	l.VXLAN, l.VNI = true, vni
	return l
}

func overlayCases() []causeCase {
	with := func(more func(*world)) func(*world) {
		return func(w *world) {
			joinSwarm(w)
			if more != nil {
				more(w)
			}
		}
	}
	swarm := with(nil)
	came := func(reason, function string) lost { // from another node, to this one
		return dropped(reason, function).from(nextNodeData).to("192.0.2.1").by(uplink, uplink)
	}
	sent := func(reason, function string) lost {
		return dropped(reason, function).from("192.0.2.1").to(nextNodeData).by(0, uplink).made()
	}
	atEnd := func(reason, function string) lost { // from another node, with its outer header
		l := came(reason, function).vxlan(shopVNI).by(0, tunnelDevice)
		l.Netns, l.DeviceName, l.DeviceKind = shopNetns, "vxlan0", "vxlan"
		return l
	}
	leaving := func(reason, function, to string) lost { // of the shopper, to somebody on the network
		l := dropped(reason, function).atTunnel("10.9.0.3", to)
		l.InDevice = shopperLeg
		return l
	}
	noNeighbour := func(netns loader.Netns, to string) lost {
		return dropped("NEIGH_FAILED", "neigh_invalidate").from("10.9.0.3").to(to).in(netns).made()
	}
	noIPVS := with(func(w *world) { w.seeSandboxes(true) })
	noWord := with(func(w *world) { w.overlays.words = map[string]*overlayWord{}; w.overlays.outdate() })
	lldp := leaving("NO_TX_TARGET", "vxlan_xmit", "10.9.0.99").ether(0x88cc)
	lldp.DestinationMAC, lldp.Source, lldp.Destination = [6]byte{1, 0x80, 0xc2}, netip.Addr{}, netip.Addr{}
	stray := dropped("OTHERHOST", "ip_rcv_core").from("10.9.0.4").to("10.9.0.5").mac("10.9.0.5").sender("10.9.0.4").in(shopBalancer)
	copied := stray.from("10.9.0.3").sender("10.9.0.3")
	hostPort := with(func(w *world) {
		w.SetServices([]Service{{Name: "shop_web", HostPorts: []MeshPort{{Port: 8443, Protocol: "tcp"}, {Port: 8080, Protocol: "tcp"}}}})
	})
	return []causeCase{
		{"unknown VNI", swarm, came("VXLAN_VNI_NOT_FOUND", "vxlan_rcv").vxlan(9999), "vni-unknown", ""},
		{"unknown VNI, before 6.13", swarm, came("NOT_SPECIFIED", "vxlan_rcv").vxlan(9999), "vni-unknown", ""},
		{"unknown VNI, before 5.17", swarm, came("", "vxlan_rcv").vxlan(9999), "vni-unknown", ""},
		{"no VXLAN header", swarm, came("VXLAN_INVALID_HDR", "vxlan_rcv").port(unix.IPPROTO_UDP, 4789), "vxlan-malformed", ""},
		{"no VXLAN header, before 6.13", swarm, came("NOT_SPECIFIED", "vxlan_rcv").port(unix.IPPROTO_UDP, 4789), "vxlan-malformed", ""},
		{"odd flags in its header, before 6.13", swarm, came("NOT_SPECIFIED", "vxlan_rcv").vxlan(shopVNI), "vxlan-malformed", ""},
		{"VXLAN, cut short", swarm, came("PKT_TOO_SMALL", "vxlan_rcv").port(unix.IPPROTO_UDP, 4789), "vxlan-malformed", ""},
		{"VXLAN, a group as its sender", swarm, atEnd("MAC_INVALID_SOURCE", "vxlan_rcv"), "vxlan-malformed", ""},
		{"VXLAN, its own sender", swarm, atEnd("LOCAL_MAC", "vxlan_rcv"), "vxlan-malformed", ""},
		{"from another address than the row's", swarm, atEnd("VXLAN_ENTRY_EXISTS", "vxlan_rcv"), "vtep-src-mismatch", ""},
		{"the same, before 6.13", swarm, atEnd("NOT_SPECIFIED", "vxlan_rcv"), "vtep-src-mismatch", ""},
		{"the same, before 5.17", swarm, atEnd("", "vxlan_rcv"), "vtep-src-mismatch", ""},

		{"no row for a container elsewhere", swarm, leaving("NO_TX_TARGET", "vxlan_xmit", "10.9.0.4"), "fdb-row-missing", "shopper"},
		{"the same, 6.13", swarm, leaving("VXLAN_NO_REMOTE", "vxlan_xmit", "10.9.0.4"), "fdb-row-missing", "shopper"},
		{"the same, before 6.13", swarm, leaving("NOT_SPECIFIED", "vxlan_xmit", "10.9.0.4"), "fdb-row-missing", "shopper"},
		{"the same, before 5.17", swarm, leaving("", "vxlan_xmit", "10.9.0.4"), "fdb-row-missing", "shopper"},
		{"no row for whom the network does not have", swarm, leaving("NO_TX_TARGET", "vxlan_xmit", "10.9.0.77"), "peer-ended", "shopper"},
		{"no row, and the engine has said nothing", noWord, leaving("NO_TX_TARGET", "vxlan_xmit", "10.9.0.77"), "fdb-row-missing", "shopper"},
		{"no row, of a network that nobody knows", swarm, dropped("NO_TX_TARGET", "vxlan_xmit").atTunnelIn(strangeNetns, "10.9.0.3", "10.9.0.4"), "fdb-row-missing", ""},
		{"no row, in somebody else's namespace", swarm, dropped("NO_TX_TARGET", "vxlan_xmit").atTunnelIn(4711, "10.9.0.3", "10.9.0.4"), "fdb-row-missing", ""},
		{"no row for a group", swarm, leaving("NO_TX_TARGET", "vxlan_xmit", "224.0.0.251"), "multicast", "shopper"},
		{"no row for a group of stations", swarm, lldp, "multicast", "shopper"},

		{"no ARP for a container elsewhere", swarm, noNeighbour(shopperNetns, "10.9.0.4"), "neigh-row-missing", "shopper"},
		{"no ARP for a backend elsewhere", swarm, noNeighbour(shopBalancer, "10.9.0.4"), "neigh-row-missing", "shopper"},
		{"no ARP for a container here", swarm, noNeighbour(shopperNetns, "10.9.0.3"), "dead-endpoint", "shopper"},
		{"no ARP for whom the network does not have", swarm, noNeighbour(shopperNetns, "10.9.0.77"), "dead-endpoint", "shopper"},
		{"no ARP, on another network", swarm, noNeighbour(facadeNetns, "10.9.0.4"), "dead-endpoint", "facade"},
		{"no ARP for a virtual address", swarm, noNeighbour(shopperNetns, "10.9.0.2"), "ipvs-no-backend", "shopper"},
		{"no ARP for a virtual address, no IPVS", noIPVS, noNeighbour(shopperNetns, "10.9.0.2"), "ipvs-unavailable", "shopper"},

		{"for a container on another node", swarm, dropped("NO_TX_TARGET", "br_handle_frame_finish").atTunnel("10.9.0.4", "10.9.0.5"), "stale-vtep", ""},
		{"the same, learned by the bridge", swarm, dropped("NOT_SPECIFIED", "br_handle_frame_finish").atTunnel("10.9.0.4", "10.9.0.5"), "stale-vtep", ""},
		{"the same, before 5.17", swarm, dropped("", "br_forward").atTunnel("10.9.0.4", "10.9.0.5"), "stale-vtep", ""},
		{"the same, given to the load balancer", swarm, stray, "stale-vtep", ""},
		{"a copy of what is sent there from here", swarm, copied, "other-host", "shopper"},
		{"for a container here that takes none", swarm, dropped("NO_TX_TARGET", "br_handle_frame_finish").atTunnel("10.9.0.4", "10.9.0.3"), "veth-down", "shopper"},
		{"for a container here that has ended", with(func(w *world) { w.ContainerDied(idOf("shopper")) }),
			dropped("NO_TX_TARGET", "br_handle_frame_finish").atTunnel("10.9.0.4", "10.9.0.3"), "peer-ended", "shopper"},
		{"for whom the network does not have", swarm, dropped("NO_TX_TARGET", "br_handle_frame_finish").atTunnel("10.9.0.4", "10.9.0.77"), "peer-ended", ""},

		{"no route to a node", swarm, leaving("IP_OUTNOROUTES", "vxlan_xmit_one", "10.9.0.4"), "advertise-nat", "shopper"},
		{"the same, before 6.13", swarm, leaving("NOT_SPECIFIED", "vxlan_xmit_one", "10.9.0.4"), "advertise-nat", "shopper"},
		{"a node's address does not answer", swarm, sent("NEIGH_FAILED", "neigh_invalidate").vxlan(shopVNI), "advertise-nat", ""},
		{"the same, encrypted", swarm, sent("NEIGH_FAILED", "neigh_invalidate").port(nodeESP, 0), "advertise-nat", ""},
		{"the host's own, to a node that does not answer", swarm, sent("NEIGH_FAILED", "neigh_invalidate").port(unix.IPPROTO_TCP, 22), "dead-endpoint", ""},
		{"a tunnel that is not the Swarm's", swarm, sent("NEIGH_FAILED", "neigh_invalidate").to("198.51.100.1").vxlan(7), "dead-endpoint", ""},

		{"VXLAN from a node, by a rule", swarm, came("NETFILTER_DROP", "nft_do_chain").vxlan(shopVNI), "4789-closed", ""},
		{"VXLAN from a node, by a rule, before 5.17", swarm, came("", "nf_hook_slow").vxlan(shopVNI), "4789-closed", ""},
		{"VXLAN to a node, by a rule", swarm, sent("NETFILTER_DROP", "nft_do_chain").vxlan(shopVNI), "4789-closed", ""},
		{"VXLAN to a node, whose namespace is not the sender's", swarm, sent("NETFILTER_DROP", "nft_do_chain").vxlan(shopVNI).received(), "4789-closed", ""},
		{"VXLAN that nobody takes", swarm, came("NO_SOCKET", "__udp4_lib_rcv").vxlan(shopVNI), "4789-closed", ""},
		{"VXLAN that nobody takes, before 5.17", swarm, came("", "__udp4_lib_rcv").vxlan(shopVNI), "4789-closed", ""},
		{"VXLAN on a port of the Swarm's own", with(func(w *world) {
			w.setSwarmInfo(swarmInfo{member: true, id: "n1", dataPort: 4790})
		}), came("NETFILTER_DROP", "nft_do_chain").port(unix.IPPROTO_UDP, 4790), "4789-closed", ""},
		{"VXLAN while connection tracking is full", with(func(w *world) { w.SetConntrackFull(true) }), came("NETFILTER_DROP", "nf_hook_slow").vxlan(shopVNI).unrouted(), "conntrack-full", ""},
		{"VXLAN from who is no node", swarm, came("NETFILTER_DROP", "nft_do_chain").from("198.51.100.1").vxlan(shopVNI), "host-firewall", ""},
		{"VXLAN that nobody takes, from who is no node", swarm, came("NO_SOCKET", "__udp4_lib_rcv").from("198.51.100.1").vxlan(shopVNI), "no-listener", ""},
		{"VXLAN without a Swarm", nil, came("NETFILTER_DROP", "nft_do_chain").vxlan(shopVNI), "host-firewall", ""},

		{"encrypted network's, in the clear", swarm, came("NETFILTER_DROP", "nft_do_chain").vxlan(vaultVNI), "encrypted-plain-drop", ""},
		{"encrypted network's, in the clear, from who is no node", swarm, came("NETFILTER_DROP", "nft_do_chain").from("198.51.100.1").vxlan(vaultVNI), "encrypted-plain-drop", ""},
		{"encrypted network's, on its way out", swarm, sent("NETFILTER_DROP", "nft_do_chain").vxlan(vaultVNI), "4789-closed", ""},
		{"encrypted network's, refused before routing", swarm, came("NETFILTER_DROP", "nft_do_chain").vxlan(vaultVNI).unrouted(), "4789-closed", ""},

		{"ESP from a node, by a rule", swarm, came("NETFILTER_DROP", "nft_do_chain").port(nodeESP, 0), "encrypted-esp-blocked", ""},
		{"ESP to a node, by a rule", swarm, sent("NETFILTER_DROP", "nft_do_chain").port(nodeESP, 0), "encrypted-esp-blocked", ""},
		{"ESP without a handler", swarm, came("IP_NOPROTO", "ip_local_deliver_finish").port(nodeESP, 0), "encrypted-esp-blocked", ""},
		{"ESP without a handler, before 5.17", swarm, came("", "ip_protocol_deliver_rcu").port(nodeESP, 0), "encrypted-esp-blocked", ""},
		{"ESP from who is no node", swarm, came("IP_NOPROTO", "ip_local_deliver_finish").from("198.51.100.1").port(nodeESP, 0), "no-listener", ""},

		{"gossip, by a rule", swarm, came("NETFILTER_DROP", "nft_do_chain").from(nextNode).port(unix.IPPROTO_UDP, 7946), "7946-closed", ""},
		{"gossip by TCP, on its way out", swarm, sent("NETFILTER_DROP", "nft_do_chain").to(nextNode).port(unix.IPPROTO_TCP, 7946), "7946-closed", ""},
		{"gossip from who is no node", swarm, came("NETFILTER_DROP", "nft_do_chain").from("198.51.100.1").port(unix.IPPROTO_UDP, 7946), "host-firewall", ""},
		{"another port of a node", swarm, came("NETFILTER_DROP", "nft_do_chain").from(nextNode).port(unix.IPPROTO_UDP, 7947), "host-firewall", ""},
		{"a manager's, by a rule", swarm, sent("NETFILTER_DROP", "nft_do_chain").to(nextNode).port(unix.IPPROTO_TCP, 2377), "2377-closed", ""},
		{"a manager's number of another protocol", swarm, sent("NETFILTER_DROP", "nft_do_chain").to(nextNode).port(unix.IPPROTO_UDP, 2377), "host-firewall", ""},

		{"the mesh's guard, in", swarm, between("10.0.0.9", "10.0.0.5").in(facadeNetns).port(unix.IPPROTO_TCP, 81), "ingress-unlisted-port", "facade"},
		{"the mesh's guard, out", swarm, between("10.0.0.5", "10.0.0.9").in(facadeNetns).made(), "ingress-unlisted-port", "facade"},
		{"a container's own rule beside it", swarm, between("172.18.0.3", "198.51.100.1").in(facadeNetns).made(), "own-firewall", "facade"},

		{"a port that other nodes serve", hostPort, dropped("NO_SOCKET", "tcp_v4_rcv").from("198.51.100.1").to("192.0.2.1").by(uplink, uplink).port(unix.IPPROTO_TCP, 8443), "host-mode-node", ""},
		{"the same number of another protocol", hostPort, dropped("NO_SOCKET", "__udp4_lib_rcv").from("198.51.100.1").to("192.0.2.1").by(uplink, uplink).port(unix.IPPROTO_UDP, 8443), "no-listener", ""},
		{"a port that a container here has too", hostPort, dropped("NO_SOCKET", "tcp_v4_rcv").from("198.51.100.1").to("192.0.2.1").by(uplink, uplink).port(unix.IPPROTO_TCP, 8080), "no-listener", ""},
	}
}

func (l lost) received() lost {
	l.Outgoing = false
	return l
}

func TestOverlayCauses(t *testing.T) {
	for _, tc := range overlayCases() {
		t.Run(tc.name, tc.check)
	}
}
