// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Devices and namespaces of the town. Each container's port has the number of its namespace.
const (
	alphaPort    = 11
	betaPort     = 12
	gammaPort    = 21
	strangerPort = 90 // of a namespace that nobody knows yet
	pairEnd      = 91 // of a veth pair with both ends in the host's namespace
)

// newTown is a host with two networks: alpha and beta on web, gamma on back, delta on a macvlan, and router in the host's
// namespace.
func newTown(t *testing.T) *world {
	w := withLAN(newWorld(t))
	w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, alphaPort)
	w.connected(on(w.container("beta"), "web", "172.30.1.3"), webBridge, betaPort)
	w.connected(on(w.container("gamma"), "back", "172.30.2.2"), backBridge, gammaPort)
	w.PutContainer(on(w.container("delta"), "lan", "10.99.0.2"))
	w.Process(processOf("delta", 100))
	w.DeviceInside(childDevice, loader.Link{Index: 7, Kind: "macvlan", MAC: mac("10.99.0.2")}, idOf("delta"))
	router := w.container("router")
	router.NetworkMode = "host"
	w.PutContainer(router)
	w.LinkChanged(veth(strangerPort, webBridge, 9))
	w.LinkChanged(veth(pairEnd, 0, -1))
	return w
}

func mac(address string) [6]byte { return macOf(netip.MustParseAddr(address)) }

// place is all that attribution says of a drop.
type place struct {
	Container string
	Network   string
	Scope     Scope
	Direction Direction
}

func placeOf(d Drop) place {
	return place{Container: d.Container, Network: d.Network, Scope: d.Scope, Direction: d.Direction}
}

// A fragment that waited has lost its device, and with it its namespace.
func TestDropWithoutDevice(t *testing.T) {
	waited := func(in int, from, to [6]byte) loader.Drop {
		return loader.Drop{
			Reason: "FRAG_REASM_TIMEOUT", Function: "inet_frag_rbtree_purge", InDevice: in, SourceMAC: from, DestinationMAC: to,
			Source: netip.MustParseAddr("172.30.1.2"), Destination: netip.MustParseAddr("172.30.1.3"),
		}
	}
	alpha, beta, stranger := mac("172.30.1.2"), mac("172.30.1.3"), [6]byte{2, 1}
	nowhere := place{Scope: ScopeUnknown, Direction: RX}
	for _, tc := range []struct {
		name string
		drop loader.Drop
		want place

		returned int // ifindex of beta's device, if the engine has taken it back since
	}{
		{"at the sender's port", waited(alphaPort, alpha, beta), place{"alpha", "web", ScopeHost, TX}, 0},
		{"in the receiver", waited(betaPort+1000, alpha, beta), place{"beta", "web", ScopeContainer, RX}, 0},
		{"in a macvlan container", waited(7, stranger, mac("10.99.0.2")), place{"delta", "lan", ScopeContainer, RX}, 0},
		{"at the host's uplink", waited(uplink, stranger, uplinkMAC), place{"alpha", "web", ScopeHost, TX}, 0},
		{"at a port with somebody else's address", waited(alphaPort, stranger, beta), nowhere, 0},
		{"at a device that the receiver has not", waited(betaPort+1, alpha, beta), nowhere, 0},
		{"without hardware addresses", waited(alphaPort, [6]byte{}, [6]byte{}), nowhere, 0},
		{"at no device", waited(0, alpha, beta), nowhere, 0},
		{"in a receiver that ends", waited(betaPort+1000, alpha, beta), place{"beta", "web", ScopeContainer, RX}, betaPort + 1000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTown(t)
			w.LinkChanged(change(loader.Link{Index: uplink, Name: "eth0", Kind: "device", MAC: uplinkMAC, PeerNetnsID: -1}))
			if tc.returned != 0 {
				w.LinkChanged(change(loader.Link{Index: tc.returned, Name: "vethdead", Kind: "veth", MAC: beta, PeerNetnsID: -1}))
			}
			_, drops := w.Attribute(nil, []loader.Drop{tc.drop})
			if len(drops) == 0 {
				w.wait(patience)
				_, drops = w.Attribute(nil, nil)
			}
			if len(drops) != 1 {
				t.Fatalf("%d drops, want 1", len(drops))
			}
			if diff := cmp.Diff(tc.want, placeOf(drops[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// uplinkMAC is the hardware's.
var uplinkMAC = [6]byte{0x52, 0x54, 0, 0, 0, 1}

// What contradicts itself on purpose shows which of the signs goes first.
func TestDropOnHost(t *testing.T) {
	alphaTX := place{"alpha", "web", ScopeHost, TX}
	betaRX := place{"beta", "web", ScopeHost, RX}
	gammaTX := place{"gamma", "back", ScopeHost, TX}
	var (
		alpha, beta, gamma = netip.MustParseAddr("172.30.1.2"), netip.MustParseAddr("172.30.1.3"), netip.MustParseAddr("172.30.2.2")
		host, world        = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	)
	for _, tc := range []struct {
		name string
		drop loader.Drop
		want place
	}{
		{
			name: "socket's cgroup before everything",
			drop: loader.Drop{Cgroup: "docker-" + idOf("router") + ".scope", InDevice: alphaPort, Device: betaPort, Source: alpha},
			want: place{"router", "", ScopeHost, RX},
		},
		{
			name: "port it came in by before the port it was to leave by",
			drop: loader.Drop{InDevice: alphaPort, Device: betaPort, Source: gamma, Destination: beta},
			want: alphaTX,
		},
		{
			name: "port it came in by before MACs and addresses",
			drop: loader.Drop{InDevice: alphaPort, Device: backBridge, SourceMAC: mac("172.30.2.2"), Source: gamma},
			want: alphaTX,
		},
		{
			name: "port it was to leave by before MACs and addresses",
			drop: loader.Drop{InDevice: uplink, Device: betaPort, SourceMAC: mac("172.30.1.2"), Source: alpha},
			want: betaRX,
		},
		{
			name: "sender's MAC on a bridge before addresses",
			drop: loader.Drop{InDevice: webBridge, Device: webBridge, SourceMAC: mac("172.30.1.2"), DestinationMAC: mac("172.30.1.3"), Source: gamma},
			want: alphaTX,
		},
		{
			name: "receiver's MAC on a bridge before addresses",
			drop: loader.Drop{Device: webBridge, SourceMAC: [6]byte{2, 1}, DestinationMAC: mac("172.30.1.3"), Source: gamma},
			want: betaRX,
		},
		{
			name: "MAC on the bridge that it came in by",
			drop: loader.Drop{InDevice: webBridge, Device: uplink, SourceMAC: mac("172.30.1.2"), Source: gamma},
			want: alphaTX,
		},
		{
			name: "a MAC means nothing on another bridge",
			drop: loader.Drop{Device: backBridge, SourceMAC: mac("172.30.1.2"), Source: gamma, Destination: world},
			want: gammaTX,
		},
		{
			name: "a MAC means nothing off the bridges",
			drop: loader.Drop{Device: uplink, SourceMAC: mac("172.30.1.2"), Source: gamma, Destination: world},
			want: gammaTX,
		},
		{
			name: "source address before destination",
			drop: loader.Drop{Device: uplink, Source: alpha, Destination: beta},
			want: alphaTX,
		},
		{
			name: "destination address",
			drop: loader.Drop{InDevice: uplink, Device: webBridge, Source: world, Destination: beta},
			want: betaRX,
		},
		{
			name: "address on the wire before the one behind NAT",
			drop: loader.Drop{InDevice: uplink, Device: uplink, Source: world, Destination: beta, Initiator: gamma},
			want: betaRX,
		},
		{
			name: "masqueraded, on its way out",
			drop: loader.Drop{InDevice: backBridge, Device: uplink, Source: host, Destination: world, Initiator: gamma, Responder: world},
			want: gammaTX,
		},
		{
			name: "masqueraded, answer on its way in",
			drop: loader.Drop{InDevice: uplink, Device: uplink, Source: world, Destination: host, Initiator: gamma, Responder: world},
			want: place{"gamma", "back", ScopeHost, RX},
		},
		{
			name: "published port, on its way in",
			drop: loader.Drop{InDevice: uplink, Device: uplink, Source: world, Destination: host, Initiator: world, Responder: beta},
			want: betaRX,
		},
		{
			name: "initiator before responder",
			drop: loader.Drop{Device: uplink, Source: host, Destination: host, Initiator: alpha, Responder: beta, InDevice: webBridge},
			want: alphaTX,
		},
		{
			name: "macvlan container's address on the uplink",
			drop: loader.Drop{InDevice: uplink, Device: uplink, Source: world, Destination: netip.MustParseAddr("10.99.0.2")},
			want: place{"delta", "lan", ScopeHost, RX},
		},
		{
			name: "the host's own",
			drop: loader.Drop{Device: uplink, Outgoing: true, Source: host, Destination: world},
			want: place{"", "", ScopeHost, TX},
		},
		{
			name: "a veth pair of the host's own",
			drop: loader.Drop{InDevice: pairEnd, Device: pairEnd, Source: host, Destination: world},
			want: place{"", "", ScopeHost, RX},
		},
		{
			name: "nothing known",
			drop: loader.Drop{},
			want: place{"", "", ScopeHost, RX},
		},
		{
			name: "loopback addresses are everybody's",
			drop: loader.Drop{Device: 1, Source: netip.MustParseAddr("127.0.0.1"), Destination: netip.MustParseAddr("127.0.0.1")},
			want: place{"", "", ScopeHost, RX},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTown(t)
			tc.drop.Netns = hostNetns
			_, drops := w.Attribute(nil, []loader.Drop{tc.drop})
			if len(drops) != 1 {
				t.Fatalf("%d drops at once, want 1", len(drops))
			}
			if diff := cmp.Diff(tc.want, placeOf(drops[0])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDropInContainer(t *testing.T) {
	multi := netip.MustParseAddr("172.30.2.9")
	for _, tc := range []struct {
		name string
		drop loader.Drop
		want place
	}{
		{
			name: "network of the device before that of the address",
			drop: loader.Drop{Device: 1051, DeviceName: "eth0", Source: multi},
			want: place{"multi", "web", ScopeContainer, RX},
		},
		{
			name: "second device",
			drop: loader.Drop{Device: 1052, DeviceName: "eth1", Outgoing: true},
			want: place{"multi", "back", ScopeContainer, TX},
		},
		{
			name: "address where the device says nothing",
			drop: loader.Drop{Destination: multi},
			want: place{"multi", "back", ScopeContainer, RX},
		},
		{
			name: "loopback is on no network",
			drop: loader.Drop{Device: 1, DeviceName: "lo", Source: multi, Destination: multi},
			want: place{"multi", "", ScopeContainer, RX},
		},
		{
			name: "an ifindex of another namespace",
			drop: loader.Drop{Device: betaPort, Destination: multi},
			want: place{"multi", "back", ScopeContainer, RX},
		},
		{
			name: "neither",
			drop: loader.Drop{Destination: netip.MustParseAddr("198.51.100.1")},
			want: place{"multi", "", ScopeContainer, RX},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTown(t)
			c := w.connected(on(w.container("multi"), "web", "172.30.1.9"), webBridge, 51)
			w.LinkChanged(veth(52, backBridge, 51))
			w.PutContainer(on(c, "back", multi.String()))
			tc.drop.Netns = 51
			_, drops := w.Attribute(nil, []loader.Drop{tc.drop})
			if len(drops) != 1 {
				t.Fatalf("%d drops at once, want 1", len(drops))
			}
			if diff := cmp.Diff(tc.want, placeOf(drops[0])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Overlay addresses are not those of the host's namespace: the same may be in use on the host's own network.
func TestOverlayAddressOnHost(t *testing.T) {
	w := newTown(t)
	w.PutNetwork(Network{ID: idOf("network ov"), Name: "ov", Driver: "overlay", Scope: "swarm"})
	w.PutContainer(on(w.container("task"), "ov", "10.0.1.5"))
	_, drops := w.Attribute(nil, []loader.Drop{{
		Netns: hostNetns, InDevice: uplink, Device: uplink,
		Source: netip.MustParseAddr("10.0.1.5"), Destination: netip.MustParseAddr("192.0.2.1"),
	}})
	if diff := cmp.Diff([]place{{"", "", ScopeHost, RX}}, places(drops)); diff != "" {
		t.Error(diff)
	}
}

func places(drops []Drop) []place {
	list := make([]place, 0, len(drops))
	for _, d := range drops {
		list = append(list, placeOf(d))
	}
	return list
}

func TestDeviceKind(t *testing.T) {
	for _, tc := range []struct {
		name string
		drop loader.Drop
		want string
	}{
		{"none", loader.Drop{Netns: hostNetns}, "other"},
		{"loopback", loader.Drop{Netns: hostNetns, Device: 1, DeviceName: "lo"}, "loopback"},
		{"veth", loader.Drop{Netns: hostNetns, Device: 5, DeviceKind: "veth"}, "veth"},
		{"bridge", loader.Drop{Netns: hostNetns, Device: 5, DeviceKind: "bridge"}, "bridge"},
		{"vxlan", loader.Drop{Netns: 7, Device: 5, DeviceKind: "vxlan"}, "vxlan"},
		{"hardware", loader.Drop{Netns: hostNetns, Device: 5, DeviceName: "eth0"}, "underlay"},
		{"bond", loader.Drop{Netns: hostNetns, Device: 5, DeviceKind: "bond"}, "underlay"},
		{"hardware given to a container", loader.Drop{Netns: 7, Device: 5, DeviceName: "eth0"}, "other"},
		{"tunnel", loader.Drop{Netns: hostNetns, Device: 5, DeviceKind: "wireguard"}, "other"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			if got := w.deviceKind(&tc.drop); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
