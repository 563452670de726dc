// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

// watchOverlay says that both veths of ov1 and its VXLAN device are watched.
func (w *swarmWorld) watchOverlay() {
	w.OverlayDevices(ov1Path, []loader.OverlayDevice{
		{ID: ov1WebDevice, Link: *sandboxPort(&w.ov1, webPort)}, {ID: ov1LBDevice, Link: *sandboxPort(&w.ov1, lbPort)},
		{ID: ov1TunnelDevice, Link: *sandboxPort(&w.ov1, vxlanIndex)},
	})
}

// linksOfWeb are those inside of app_web.1.
func linksOfWeb() []loader.Link {
	return []loader.Link{
		{Index: 1, Name: "lo", Kind: "device"}, {Index: 17, Name: "eth0", Kind: "veth", Peer: webPort},
		{Index: 21, Name: "eth1", Kind: "veth", Peer: 22},
	}
}

// short is a flow in short.
func short(f Flow) string {
	return fmt.Sprintf("%s %s %s/%s/%s/%s with %s/%s local %t", f.Via, f.Scope, f.Stack, f.Service, f.Container, f.Network,
		f.Peer.Stack, f.Peer.Service, f.Peer.Local)
}

func TestOverlayFlowOwner(t *testing.T) {
	const (
		web    = "container container app/web/web.1/ov1 with /rr local true"
		lb     = "sandbox loadbalancer ///ov1 with app/web local true"
		nobody = "nobody unknown /// with / local false"
	)
	for _, tc := range []struct {
		name          string
		prepare       func(w *swarmWorld)
		device        loader.DeviceID
		local, remote string
		want          string // "": it waits
	}{
		{"by address", nil, ov1WebDevice, "10.0.1.3", "10.0.1.10", web},
		{"by its links", func(w *swarmWorld) { w.SetLinksInside(idOf("web"), linksOfWeb()) }, ov1WebDevice, "10.0.1.250", "10.0.1.10", web},
		{"by what it used once", func(w *swarmWorld) { w.flowAt(ov1WebDevice, "10.0.1.3", "10.0.1.10") }, ov1WebDevice, "fe80::1", "10.0.1.10", web},
		{"by its links, after it used another's address", func(w *swarmWorld) {
			w.PutContainer(on(w.container("other"), "web", "172.30.1.9"))
			other := w.members[idOf("other")]
			other.Endpoints = append(other.Endpoints, Endpoint{NetworkID: ov1ID, Network: "ov1", Addresses: addresses("10.0.1.13")})
			w.identify(other)
			w.flowAt(ov1WebDevice, "10.0.1.13", "10.0.1.10")
			w.SetLinksInside(idOf("web"), linksOfWeb())
		}, ov1WebDevice, "10.0.1.13", "10.0.1.10", web},
		{"another's links", func(w *swarmWorld) { w.SetLinksInside(idOf("elsewhere"), linksOfWeb()) }, ov1WebDevice, "10.0.1.3", "10.0.1.10", web},
		{"links of one that is on other networks", func(w *swarmWorld) {
			c := on(w.container("other"), "web", "172.30.1.9")
			w.PutContainer(c)
			w.SetLinksInside(c.ID, linksOfWeb())
		}, ov1WebDevice, "10.0.1.3", "10.0.1.10", web},
		{"its namespace is gone, and it too", func(w *swarmWorld) {
			w.flowAt(ov1WebDevice, "10.0.1.3", "10.0.1.10")
			w.ContainerDied(idOf("web"))
			w.SetSandboxes(nil)
		}, ov1WebDevice, "10.0.1.3", "10.0.1.10", web},
		{"load balancer by its link", nil, ov1LBDevice, "10.0.1.2", "10.0.1.3", lb},
		{"load balancer by its address", func(w *swarmWorld) { w.lb.Links[0].Peer = 99; w.look() }, ov1LBDevice, "10.0.1.6", "10.0.1.3", lb},
		{"nobody who is known", nil, ov1WebDevice, "10.0.1.99", "10.0.1.3", ""},
		{"another network", func(w *swarmWorld) {
			w.OverlayDevices("/run/docker/netns/1-whoknowsit", []loader.OverlayDevice{{ID: 1<<31 + 9}})
		}, 1<<31 + 9, "10.0.1.3", "10.0.1.10", ""},
		{"device that nobody told of", nil, 1<<31 + 10, "10.0.1.3", "10.0.1.10", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			w.watchOverlay()
			if tc.prepare != nil {
				tc.prepare(w)
			}
			flow, done := w.flowAt(tc.device, tc.local, tc.remote)
			if done != (tc.want != "") {
				t.Fatalf("done: %t, %s", done, short(flow))
			}
			want := tc.want
			if !done {
				w.wait(patience)
				flows, _ := w.Attribute(nil, nil)
				flow, want = flows[0], nobody
			}
			if diff := cmp.Diff(want, short(flow)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if isWeb := flow.ContainerID == idOf("web"); isWeb != (tc.want == web) {
				t.Errorf("container is %.12s", flow.ContainerID)
			}
		})
	}
}

// Both legs of the routing mesh: on its own network, and on the gateway bridge.
func TestMeshLegs(t *testing.T) {
	w := newSwarmWorld(t)
	w.PutNetwork(Network{
		ID: "g", Name: gatewayBridge, Driver: "bridge", Bridge: gatewayBridge, Subnets: prefixes("172.18.0.0/16"), Gateways: addresses("172.18.0.1"),
	})
	w.LinkChanged(change(loader.Link{Index: 30, Name: gatewayBridge, Kind: "bridge", PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: 10, Kind: "veth", Name: "veth", Master: 30, Peer: 9, PeerNetnsID: meshNumber}))
	w.OverlayDevices("/var/run/docker/netns/1-nvybi6uv79", []loader.OverlayDevice{
		{ID: ingressDevice, Link: loader.Link{Index: 6, Kind: "veth", Peer: 7}},
	})
	for _, tc := range []struct {
		device        loader.DeviceID
		local, remote string
		want          string
	}{
		{ingressDevice, "10.0.0.3", "10.0.0.6", "sandbox ingress ///ingress with /pub local true"},
		{ingressDevice, "10.0.0.3", "10.0.0.2", "sandbox ingress ///ingress with /~loadbalancer local true"},
		{10, "172.18.0.2", "203.0.113.7", "sandbox ingress ///docker_gwbridge with /~external local false"},
	} {
		flow, done := w.flowAt(tc.device, tc.local, tc.remote)
		if diff := cmp.Diff(tc.want, short(flow)); !done || diff != "" {
			t.Errorf("device %d, done %t (-want +got):\n%s", tc.device, done, diff)
		}
	}
	d := atDevice(lostIn(hostNetns, "203.0.113.7", "172.18.0.2"), 10, uplink, "veth")
	d.Reason = "QUEUE_PURGE" // is nobody's fault, and waits for nothing else
	if _, drops := w.Attribute(nil, []loader.Drop{d}); len(drops) != 1 || drops[0].Scope != ScopeHost || drops[0].Network != gatewayBridge {
		t.Errorf("a drop at the mesh's leg: %+v", drops)
	}
}

func TestOverlayPeer(t *testing.T) {
	w := newSwarmWorld(t)
	w.watchOverlay()
	w.wait(settled)
	w.tell()
	w.pass() // the other node's load balancer is found
	for _, tc := range []struct {
		remote string
		want   Peer
	}{
		{"10.0.1.4", Peer{Stack: "app", Service: "web", Local: true}}, // a task on another node, whose agent counts what it sends
		{"10.0.1.12", Peer{Service: "c1", Local: true}},               // a container there
		{"10.0.1.3", Peer{Stack: "app", Service: "web", Local: true}}, // one here
		{"10.0.1.13", Peer{Service: "c2", Local: true}},               // one here that its node has not listed yet
		{"10.0.1.2", Peer{Stack: "app", Service: "web"}},              // a virtual address
		{"10.0.1.5", Peer{Service: LoadBalancer, Local: true}},        // load balancers, there and here
		{"10.0.1.6", Peer{Service: LoadBalancer, Local: true}},        //
		{"10.0.1.255", Peer{Service: Group}},                          //
		{"224.0.0.1", Peer{Service: Group}},                           //
		{"192.0.2.1", Peer{Service: External}},                        // the host is not to be seen from there
		{"172.30.1.9", Peer{Service: External}},                       //
	} {
		flow, done := w.flowAt(ov1WebDevice, "10.0.1.3", tc.remote)
		if diff := cmp.Diff(tc.want, flow.Peer); !done || diff != "" {
			t.Errorf("%s, done %t (-want +got):\n%s", tc.remote, done, diff)
		}
	}
}

// Somebody new is asked for, once, and waited for.
func TestOverlayPeerIsAskedFor(t *testing.T) {
	w := newSwarmWorld(t)
	w.watchOverlay()
	if _, done := w.flowAt(ov1WebDevice, "10.0.1.3", "10.0.1.44"); done {
		t.Fatal("does not wait")
	}
	w.wait(overlayPause)
	if due := w.dueOverlays(); len(due) != 1 || due[0] != ov1ID {
		t.Fatalf("%q are asked for", due)
	}
	e := *w.endpoint("10.0.1.4")
	e.id, e.address, e.service, e.name = "new", netip.MustParseAddr("10.0.1.44"), "late", "late.1.x"
	w.answer[ov1ID].endpoints = append(w.answer[ov1ID].endpoints, e)
	w.tell()
	flows, _ := w.Attribute(nil, nil)
	if len(flows) != 1 || flows[0].Peer != (Peer{Service: "late", Local: true}) {
		t.Errorf("%+v", flows)
	}
	w.flowAt(ov1WebDevice, "10.0.1.3", "10.0.1.45")
	w.tell() // nothing new, and again: whoever it is, the engine does not know him
	w.tell()
	if flow, done := w.flowAt(ov1WebDevice, "10.0.1.3", "10.0.1.45"); !done || flow.Peer.Service != External {
		t.Errorf("done %t: %s", done, short(flow))
	}
}

// The addresses of overlay networks are no addresses of the host's networks.
func TestOverlayAddressesAreNotLearned(t *testing.T) {
	w := newSwarmWorld(t)
	w.watchOverlay()
	w.SetLinksInside(idOf("web"), linksOfWeb())
	w.flowAt(ov1WebDevice, "10.0.1.77", "10.0.1.4")
	if len(w.learned) != 0 {
		t.Errorf("learned %v", w.learned)
	}
}

func TestForgetOverlayDevices(t *testing.T) {
	w := newSwarmWorld(t)
	w.watchOverlay()
	w.ForgetDevices(func(id loader.DeviceID) bool { return id == ov1WebDevice })
	if len(w.overlays.devices) != 1 || w.overlays.devices[ov1WebDevice] == nil {
		t.Errorf("%v are left", w.overlays.devices)
	}
}

// Containers are on overlay networks by a device of their own, which is watched.
func TestInventoryHasOverlays(t *testing.T) {
	w := newSwarmWorld(t)
	if diff := cmp.Diff([]string{"ov1"}, w.live(webTask).Networks); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a bridge floods comes to every port: it makes nobody the owner of one.
func TestFloodedFramesTellNoOwner(t *testing.T) {
	w := newSwarmWorld(t)
	w.watchOverlay()
	for _, local := range []string{"10.0.1.13", "10.0.1.6"} { // another container's, and the load balancer's
		flood := loader.Flow{
			Device: ov1WebDevice, Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr("10.0.1.4"),
			RX: loader.Counts{Skbs: 1, Packets: 1, Bytes: 100},
		}
		if flows, _ := w.Attribute([]loader.Flow{flood}, nil); len(flows) != 0 {
			t.Errorf("a frame for %s has an owner: %s", local, short(flows[0]))
		}
	}
	w.SetLinksInside(idOf("web"), linksOfWeb())
	flows, _ := w.Attribute(nil, nil)
	if len(flows) != 2 || flows[0].ContainerID != idOf("web") || flows[1].ContainerID != idOf("web") {
		t.Errorf("flooded frames at a port are counted as %+v, want its container's", flows)
	}
}

// Containers that are new on an overlay network are to be looked into, and those that have started again.
func TestUnknownLegs(t *testing.T) {
	w := newSwarmWorld(t)
	web := w.members[idOf("web")]
	lacks := func(want bool) {
		t.Helper()
		if _, got := w.UnknownLegs()[web.ID]; got != want {
			t.Errorf("is to be looked into: %t, want %t", got, want)
		}
	}
	web.SandboxKey, web.Running = "/run/docker/netns/web", true
	links := linksOfWeb()
	for i, e := range web.Endpoints {
		if w.networks[e.NetworkID].isOverlay() {
			web.Endpoints[i].MAC = [6]byte{2, 0x42, 10, 0, 1, byte(i)}
			links = append(links, loader.Link{Index: 100 + i, Kind: "veth", Peer: 200 + i, MAC: web.Endpoints[i].MAC})
		}
	}
	lacks(true)
	w.SetLinksInside(web.ID, linksOfWeb()) // without those
	lacks(true)
	w.SetLinksInside(web.ID, links)
	lacks(false)
	w.wait(settled)
	web.StartedAt = w.now
	w.wait(settled)
	lacks(true)
	w.SetLinksInside(web.ID, links)
	lacks(false)
}
