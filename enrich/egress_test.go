// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridgewatch/bridgewatch/loader"
)

var comparePrefixes = cmpopts.EquateComparable(netip.Prefix{})

func egressFrom(source string) loader.Egress {
	e := loader.Egress{Device: uplink, Protocol: 17, Counts: loader.Counts{Skbs: 1, Packets: 1, Bytes: 100}}
	if source != "" {
		e.Source = netip.MustParseAddr(source)
	}
	return e
}

// wantEgressOwner fails unless what the address sent out is the container's, on the network.
func (w *world) wantEgressOwner(source, container, network string) {
	w.t.Helper()
	sent := egressFrom(source)
	got := w.AttributeEgress([]loader.Egress{sent})
	want := Egress{Egress: sent, Identity: Identity{Container: container, Network: network}}
	if container != "" {
		want.ContainerID = idOf(container)
	}
	if diff := cmp.Diff([]Egress{want}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		w.t.Errorf("of %q (-want +got):\n%s", source, diff)
	}
}

func TestAttributeEgress(t *testing.T) {
	w := newWorld(t)
	w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 31)
	w.connected(on(on(w.container("both"), "web", "172.30.1.3"), "back", "172.30.2.3"), backBridge, 32)
	w.wantEgressOwner("172.30.1.2", "alpha", "web")
	w.wantEgressOwner("172.30.1.3", "both", "web")
	w.wantEgressOwner("172.30.2.3", "both", "back")
	w.wantEgressOwner("172.30.2.77", "", "back") // nobody's, as a made-up address is
	w.wantEgressOwner("172.30.1.1", "", "web")   // the host's own on the bridge
	w.wantEgressOwner("10.9.9.9", "", "")
	w.wantEgressOwner("", "", "") // the table was full
	if got := w.AttributeEgress(nil); len(got) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
}

// What a connection has left when its container is gone is the container's as long as it is remembered, and then the
// network's.
func TestAttributeEgressOfTheDead(t *testing.T) {
	w := newWorld(t)
	w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 31)
	w.ContainerDied(idOf("alpha"))
	w.wantEgressOwner("172.30.1.2", "alpha", "web")
	w.connected(on(w.container("heir"), "web", "172.30.1.2"), webBridge, 32)
	w.wantEgressOwner("172.30.1.2", "heir", "web")
}

// The engine may be late to say who has an address that a container's own device has seen.
func TestAttributeEgressByTraffic(t *testing.T) {
	w := newWorld(t)
	w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 31)
	if _, done := w.flowAt(31, "172.30.1.9", "198.51.100.1"); !done {
		t.Fatal("the flow waits")
	}
	w.wantEgressOwner("172.30.1.9", "alpha", "web")
}

func TestUplinkSubnets(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(*Network)
		subnets []string // of 172.30.1.0/24, fd00:30:1::/64 and 2001:db8:1::/64
	}{
		{"as Docker makes it", func(*Network) {}, []string{"172.30.1.0/24", "fd00:30:1::/64"}},
		{"nat by name", func(n *Network) { n.GatewayMode4, n.GatewayMode6 = "nat", "nat" }, []string{"172.30.1.0/24", "fd00:30:1::/64"}},
		{"nat-unprotected", func(n *Network) { n.GatewayMode4 = "nat-unprotected" }, []string{"172.30.1.0/24", "fd00:30:1::/64"}},
		{"IPv4 routed", func(n *Network) { n.GatewayMode4 = "routed" }, []string{"fd00:30:1::/64"}},
		{"IPv6 routed", func(n *Network) { n.GatewayMode6 = "routed" }, []string{"172.30.1.0/24"}},
		{"isolated", func(n *Network) { n.GatewayMode4, n.GatewayMode6 = "isolated", "isolated" }, nil},
		{"not masqueraded", func(n *Network) { n.Masquerade = false }, nil},
		{"internal", func(n *Network) { n.Internal = true }, nil},
		{"macvlan", func(n *Network) { n.Driver = "macvlan" }, nil},
		{"overlay", func(n *Network) { n.Driver = "overlay" }, nil},
		{"without subnets", func(n *Network) { n.Subnets = nil }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			n := bridgeNetwork("web", "172.30.1.")
			for _, subnet := range []string{"fd00:30:1::/64", "2001:db8:1::/64"} {
				n.Subnets = append(n.Subnets, netip.MustParsePrefix(subnet))
			}
			tc.change(&n)
			w.SetNetworks([]Network{n})
			indexes, got := w.Uplinks()
			var want []netip.Prefix
			for _, subnet := range tc.subnets {
				want = append(want, netip.MustParsePrefix(subnet))
			}
			if diff := cmp.Diff(want, got, comparePrefixes); diff != "" {
				t.Errorf("subnets (-want +got):\n%s", diff)
			}
			if watched := len(indexes) > 0; watched != (len(want) > 0) {
				t.Errorf("links %v to look for %v", indexes, want)
			}
		})
	}
}

func TestUplinkSubnetsOfNetworksThatAreGone(t *testing.T) {
	w := newWorld(t)
	w.RemoveNetwork(idOf("network web"))
	if _, got := w.Uplinks(); !cmp.Equal(got, []netip.Prefix{netip.MustParsePrefix("172.30.2.0/24")}, comparePrefixes) {
		t.Errorf("subnets %v, want those of back alone", got)
	}
}

func TestUplinks(t *testing.T) {
	const one, two = 50, 51
	link := func(index int, kind string, set func(*loader.Link)) loader.LinkChange {
		l := loader.Link{Index: index, Name: kind, Kind: kind, PeerNetnsID: -1}
		if set != nil {
			set(&l)
		}
		return change(l)
	}
	master := func(index int) func(*loader.Link) { return func(l *loader.Link) { l.Master = index } }
	peer := func(netns int) func(*loader.Link) { return func(l *loader.Link) { l.PeerNetnsID = netns } }
	for _, tc := range []struct {
		name  string
		links []loader.LinkChange
		want  []int // beside the hardware
	}{
		{"none but hardware", nil, nil},
		{"tunnel", []loader.LinkChange{link(one, "wireguard", nil)}, []int{one}},
		{"vlan, whose parent has packets of its own", []loader.LinkChange{link(one, "vlan", nil)}, []int{one}},
		{"bond and slave", []loader.LinkChange{link(one, "bond", nil), link(two, "device", master(one))}, []int{one}},
		{"slave of an unknown master", []loader.LinkChange{link(two, "device", master(one))}, nil},
		{"VRF and what is in it", []loader.LinkChange{link(one, "vrf", nil), link(two, "device", master(one))}, []int{two}},
		{"bridge with hardware", []loader.LinkChange{link(one, "bridge", nil), link(two, "device", master(one))}, []int{one}},
		{"bridge that lost its hardware", []loader.LinkChange{
			link(one, "bridge", nil), link(two, "device", master(one)), gone(link(two, "device", master(one))),
		}, nil},
		{"bridge of virtual machines", []loader.LinkChange{link(one, "bridge", nil), link(two, "tun", master(one))}, nil},
		{"bridge of somebody's namespaces", []loader.LinkChange{
			link(one, "bridge", nil), link(two, "veth", func(l *loader.Link) { l.Master, l.PeerNetnsID = one, 7 }),
		}, nil},
		{"Docker's bridge with hardware", []loader.LinkChange{link(two, "device", master(webBridge))}, nil},
		{"veth into a namespace", []loader.LinkChange{link(one, "veth", peer(7))}, []int{one}},
		{"veth within the host", []loader.LinkChange{link(one, "veth", nil), link(two, "veth", nil)}, nil},
		{"veth on Docker's bridge", []loader.LinkChange{veth(one, webBridge, 7)}, nil},
		{"dummy", []loader.LinkChange{link(one, "dummy", nil)}, nil},
		{"gone", []loader.LinkChange{link(one, "ppp", nil), gone(link(one, "ppp", nil))}, nil},
		{"back", []loader.LinkChange{link(one, "ppp", nil), gone(link(one, "ppp", nil)), link(two, "ppp", nil)}, []int{two}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			for _, c := range tc.links {
				w.LinkChanged(c)
			}
			got, _ := w.Uplinks()
			if diff := cmp.Diff(append([]int{uplink}, tc.want...), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A container's device is its own even when it is no bridge's port, and before any news of it came.
func TestContainersDevicesAreNoUplinks(t *testing.T) {
	w := newWorld(t)
	w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 31)
	process := processOf("alpha", 31)
	process.Ports[0] = loader.Port{Index: 2, Peer: 33}
	w.Process(process)
	w.LinkChanged(change(loader.Link{Index: 34, Name: "routed", Kind: "veth", PeerNetnsID: 31}))
	got, _ := w.Uplinks()
	if diff := cmp.Diff([]int{uplink}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
