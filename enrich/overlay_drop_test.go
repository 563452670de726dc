// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// lostIn is a packet that was lost in a namespace.
func lostIn(netns loader.Netns, from, to string) loader.Drop {
	source, destination := netip.MustParseAddr(from), netip.MustParseAddr(to)
	return loader.Drop{
		Netns: netns, Reason: "NOT_SPECIFIED", EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_TCP, Source: source, Destination: destination,
		Counts: loader.Counts{Skbs: 1, Packets: 1},
	}
}

// atDevice is where: a device of the namespace, and the one that it came in by.
func atDevice(d loader.Drop, device, in int, kind string) loader.Drop {
	d.Device, d.InDevice, d.DeviceKind = device, in, kind
	return d
}

// framed gives it the hardware addresses of its ends.
func framed(d loader.Drop) loader.Drop {
	d.SourceMAC, d.DestinationMAC = macOf(d.Source), macOf(d.Destination)
	return d
}

func outer(netns loader.Netns, from, to string, vni uint32) loader.Drop {
	d := lostIn(netns, from, to)
	d.Protocol, d.DestinationPort, d.VXLAN, d.VNI = unix.IPPROTO_UDP, 4789, true, vni
	return d
}

func TestDropInSandbox(t *testing.T) {
	const (
		web  = "app/web/web.1/ov1 "
		none = "///ov1 "
	)
	for _, tc := range []struct {
		name    string
		prepare func(w *swarmWorld)
		drop    loader.Drop
		want    string // identity, scope, direction
	}{
		{"from a container, by MAC", nil, atDevice(framed(lostIn(ov1Netns, "10.0.1.3", "10.0.1.4")), vxlanIndex, webPort, "vxlan"), web + "overlay tx"},
		{"to a container, by MAC", nil, atDevice(framed(lostIn(ov1Netns, "10.0.1.4", "10.0.1.3")), webPort, vxlanIndex, "veth"), web + "overlay rx"},
		{"by address", nil, lostIn(ov1Netns, "10.0.1.4", "10.0.1.3"), web + "overlay rx"},
		{"by its port", func(w *swarmWorld) { w.SetLinksInside(idOf("web"), linksOfWeb()) },
			atDevice(lostIn(ov1Netns, "10.0.1.250", "10.0.1.4"), vxlanIndex, webPort, "vxlan"), web + "overlay tx"},
		{"to its port", func(w *swarmWorld) { w.SetLinksInside(idOf("web"), linksOfWeb()) },
			atDevice(lostIn(ov1Netns, "10.0.1.4", "10.0.1.250"), webPort, vxlanIndex, "veth"), web + "overlay rx"},
		{"between other nodes' containers", nil, lostIn(ov1Netns, "10.0.1.4", "10.0.1.8"), none + "overlay rx"},
		{"in the load balancer", nil, lostIn(lbNetns, "10.0.1.3", "10.0.1.2"), web + "loadbalancer tx"},
		{"in the load balancer, of another node", nil, lostIn(lbNetns, "10.0.1.4", "10.0.1.6"), none + "loadbalancer rx"},
		{"in the mesh", nil, lostIn(meshNetns, "203.0.113.7", "172.18.0.2"), "///ingress ingress rx"},
		{"outer header in the network's namespace", nil, atDevice(outer(ov1Netns, "10.99.7.1", "10.99.7.2", 4097), vxlanIndex, 0, "vxlan"), none + "overlay rx"},
		{"outer header with addresses that containers have too", nil, outer(ov1Netns, "10.0.1.3", "10.0.1.4", 4097), none + "overlay rx"},
		{"on the uplink", nil, atDevice(outer(hostNetns, "10.99.7.1", "10.99.7.2", 4097), uplink, uplink, ""), none + "host rx"},
		{"on the uplink, of no network", nil, atDevice(outer(hostNetns, "10.99.7.1", "10.99.7.2", 9), uplink, uplink, ""), "/// host rx"},
		{"in a namespace of nobody", nil, outer(999, "10.99.7.1", "10.99.7.2", 4097), "/// unknown rx"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			if tc.prepare != nil {
				tc.prepare(w)
			}
			w.Attribute(nil, []loader.Drop{tc.drop})
			w.wait(countPatience)
			_, drops := w.Attribute(nil, []loader.Drop{tc.drop})
			d := drops[0]
			if diff := cmp.Diff(tc.want, fmt.Sprintf("%s/%s/%s/%s %s %s", d.Stack, d.Service, d.Container, d.Network, d.Scope, d.Direction)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is lost in one of the engine's own namespaces does not wait: it is known whose that is.
func TestDropInSandboxIsFinal(t *testing.T) {
	w := newSwarmWorld(t)
	d := lostIn(ov1Netns, "10.0.1.4", "10.0.1.8")
	d.Reason = "QUEUE_PURGE"
	if _, drops := w.Attribute(nil, []loader.Drop{d}); len(drops) != 1 {
		t.Error("it waits")
	}
}

func TestTunnel(t *testing.T) {
	esp := lostIn(hostNetns, "10.99.7.2", "10.99.7.1")
	esp.Protocol = unix.IPPROTO_ESP
	foreign := lostIn(hostNetns, "10.99.7.2", "198.51.100.9")
	foreign.Protocol = unix.IPPROTO_ESP
	malformed := outer(hostNetns, "10.99.7.1", "10.99.7.2", 0)
	malformed.VXLAN = false
	routed := outer(hostNetns, "192.0.2.77", "192.0.2.78", 4097)
	routed.Outgoing = true
	atVXLAN := func(from, to string, in int) loader.Drop {
		return atDevice(lostIn(ov1Netns, from, to), vxlanIndex, in, "vxlan")
	}
	byMAC := atVXLAN("10.0.1.3", "10.0.1.99", webPort)
	byMAC.DestinationMAC = macOf(netip.MustParseAddr("10.0.1.4"))
	for _, tc := range []struct {
		name    string
		prepare func(w *swarmWorld)
		drop    loader.Drop
		want    *Tunnel
	}{
		{"comes in", nil, outer(hostNetns, "10.99.7.1", "10.99.7.2", 4097), &Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: n1, Node: "n1"}},
		{"goes out", nil, outer(hostNetns, "10.99.7.2", "10.99.7.1", 4096),
			&Tunnel{Network: "ingress", VNI: 4096, Local: n2, Peer: n1, Node: "n1", Outgoing: true}},
		{"of a network that is not known", nil, outer(hostNetns, "10.99.7.1", "10.99.7.2", 77), &Tunnel{VNI: 77, Local: n2, Peer: n1, Node: "n1"}},
		{"of a stranger", nil, outer(hostNetns, "198.51.100.9", "10.99.7.2", 4097),
			&Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: netip.MustParseAddr("198.51.100.9")}},
		{"by addresses that are not this node's", nil, routed,
			&Tunnel{Network: "ov1", VNI: 4097, Local: routed.Source, Peer: routed.Destination, Outgoing: true}},
		{"outer header in the network's namespace", nil, atDevice(outer(ov1Netns, "10.99.7.1", "10.99.7.2", 4097), vxlanIndex, 0, "vxlan"),
			&Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: n1, Node: "n1"}},
		{"malformed", nil, malformed, &Tunnel{Local: n2, Peer: n1, Node: "n1"}},
		{"to another port that the Swarm uses", func(w *swarmWorld) { w.setSwarmInfo(swarmInfo{member: true, id: workerID, dataPort: 80}) },
			func() loader.Drop { d := malformed; d.DestinationPort = 80; return d }(), &Tunnel{Local: n2, Peer: n1, Node: "n1"}},
		{"to another port", nil, func() loader.Drop { d := malformed; d.DestinationPort = 80; return d }(), nil},
		{"ESP", nil, esp, &Tunnel{Local: n2, Peer: n1, Node: "n1", Outgoing: true, Encrypted: true}},
		{"somebody else's ESP", nil, foreign, nil},
		{"at the VXLAN device, to another node", nil, atVXLAN("10.0.1.3", "10.0.1.4", webPort),
			&Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: n1, Node: "n1", Outgoing: true}},
		{"at the VXLAN device, to another node by MAC", nil, byMAC,
			&Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: n1, Node: "n1", Outgoing: true}},
		{"at the VXLAN device, from another node", nil, atVXLAN("10.0.1.4", "10.0.1.3", vxlanIndex),
			&Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: n1, Node: "n1"}},
		{"at the VXLAN device, from another node and for a third", func(w *swarmWorld) {
			w.endpoint("10.0.1.10").host = netip.MustParseAddr("10.99.7.3")
			w.tell()
		}, atVXLAN("10.0.1.4", "10.0.1.10", vxlanIndex), &Tunnel{Network: "ov1", VNI: 4097, Local: n2, Peer: n1, Node: "n1"}},
		{"at the VXLAN device, to nobody", nil, atVXLAN("10.0.1.3", "10.0.1.99", webPort), &Tunnel{Network: "ov1", VNI: 4097, Local: n2, Outgoing: true}},
		{"at another device of the network's namespace", nil, atDevice(lostIn(ov1Netns, "10.0.1.3", "10.0.1.4"), 2, webPort, "bridge"), nil},
		{"on the host, and no tunnel's", nil, lostIn(hostNetns, "10.99.7.1", "10.99.7.2"), nil},
		{"in a namespace of nobody", nil, outer(999, "10.99.7.1", "10.99.7.2", 4097), nil},
		{"in no Swarm", func(w *swarmWorld) { w.SetNode(Node{Name: "n2"}) }, outer(hostNetns, "10.99.7.1", "10.99.7.2", 4097), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			w.setSwarmNodes([]swarmNode{{id: managerID, name: "n1", address: n1}})
			if tc.prepare != nil {
				tc.prepare(w)
			}
			w.Attribute(nil, []loader.Drop{tc.drop})
			w.wait(countPatience)
			_, drops := w.Attribute(nil, []loader.Drop{tc.drop})
			if diff := cmp.Diff(tc.want, drops[0].Tunnel, byComparison); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Translations in the engine's own namespaces are placed by the namespace, and are of the service that is asked for.
func TestNATInSandbox(t *testing.T) {
	const toVIP, answered = "10.0.1.3:4000->10.0.1.2:80", "10.0.1.4:80->10.0.1.6:4000"
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
		want  Translation
	}{
		{"by its number, for a virtual address", with(entry(toVIP, answered), inNumber(lbNumber), byIPVS),
			Translation{Scope: ScopeLoadBalancer, Kind: IPVS, Identity: Identity{Stack: "app", Service: "web", Network: "ov1"}}},
		{"by itself", with(entry(toVIP, answered), inNetns(lbNetns), byIPVS),
			Translation{Scope: ScopeLoadBalancer, Kind: IPVS, Identity: Identity{Stack: "app", Service: "web", Network: "ov1"}}},
		{"to nobody's address", with(entry("10.0.1.3:4000->10.0.1.99:80", answered), inNumber(lbNumber), byIPVS),
			Translation{Scope: ScopeLoadBalancer, Kind: IPVS, Identity: Identity{Network: "ov1"}}},
		{"in the network's own namespace", with(entry("10.0.1.3:4000->10.0.1.99:80", "10.0.1.4:80->10.0.1.3:4000"), inNumber(ov1Number)),
			Translation{Scope: ScopeOverlay, Kind: DNAT, Identity: Identity{Network: "ov1"}}},
		{"in the mesh", with(entry("203.0.113.7:4000->172.18.0.2:8080", "10.0.0.6:8080->10.0.0.3:4000"), inNumber(meshNumber), byIPVS),
			Translation{Scope: ScopeIngress, Kind: IPVS}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			told := w.AttributeNAT(w.opened(tc.entry)).Translations
			if len(told) != 1 {
				t.Fatalf("%d translations at once", len(told))
			}
			told[0].NATEvent = loader.NATEvent{}
			if diff := cmp.Diff(tc.want, told[0], byComparison); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A container may have the number of one of the engine's namespaces since the last look.
func TestNATInNumberUsedAgain(t *testing.T) {
	w := newSwarmWorld(t)
	w.netnsIDs[pidOf("new")] = lbNumber
	w.PutContainer(w.container("new"))
	told := w.AttributeNAT(w.opened(with(entry("10.0.1.3:4000->10.0.1.2:80", "10.0.1.4:80->10.0.1.6:4000"), inNumber(lbNumber)))).Translations
	if len(told) != 1 || told[0].Scope != ScopeContainer || told[0].ContainerID != idOf("new") {
		t.Errorf("%+v", told)
	}
}
