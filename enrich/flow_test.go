// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestFlowOwner(t *testing.T) {
	type owner struct {
		Container string
		Network   string
		Scope     Scope
		Via       Via
	}
	for _, tc := range []struct {
		name   string
		device loader.DeviceID
		want   owner
	}{
		{"container's port", alphaPort, owner{"alpha", "web", ScopeContainer, ViaContainer}},
		{"port on another network", gammaPort, owner{"gamma", "back", ScopeContainer, ViaContainer}},
		{"macvlan child", childDevice, owner{"delta", "lan", ScopeContainer, ViaContainer}},
		{"bridge", webBridge, owner{"", "web", ScopeHost, ViaBridge}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTown(t)
			flow, done := w.flowAt(tc.device, "172.30.1.2", "198.51.100.1")
			if !done {
				t.Fatal("it waits")
			}
			if diff := cmp.Diff(tc.want, owner{flow.Container, flow.Network, flow.Scope, flow.Via}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A bridge that is no Docker network's is nobody's.
func TestForeignBridge(t *testing.T) {
	w := newWorld(t)
	w.LinkChanged(change(loader.Link{Index: 40, Name: "virbr0", Kind: "bridge", PeerNetnsID: -1}))
	w.Attribute([]loader.Flow{flowOf(40, "10.0.0.1", "10.0.0.2")}, nil)
	w.wait(patience)
	flows, _ := w.Attribute(nil, nil)
	if len(flows) != 1 || flows[0].Via != ViaNobody {
		t.Errorf("got %+v, want one of nobody", flows)
	}
}

func TestPeer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		remote string
		want   Peer
	}{
		{"container by its name", "172.30.1.3", Peer{Service: "beta", Local: true}},
		{"container by its service", "172.30.2.8", Peer{Stack: "shop", Service: "db", Local: true}},
		{"container that nobody named", "172.30.2.9", Peer{Service: AdHoc, Local: true}},
		{"gateway", "172.30.2.1", Peer{Service: Host}},
		{"host's own address", "192.0.2.1", Peer{Service: Host}},
		{"router of a macvlan network", "10.99.0.1", Peer{Service: External}},
		{"somebody else", "198.51.100.1", Peer{Service: External}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTown(t)
			db := on(w.container("shop-db-1"), "back", "172.30.2.8")
			db.Labels = composeLabels("shop", "db", "1", "False")
			w.PutContainer(db)
			w.PutContainer(on(w.container("jolly_wozniak"), "back", "172.30.2.9"))
			flow, _ := w.flowAt(alphaPort, "172.30.1.2", tc.remote)
			if diff := cmp.Diff(tc.want, flow.Peer); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Of two ends on this host each sees the other as local, so that one of them does not count.
func TestPeersAgree(t *testing.T) {
	w := newTown(t)
	forth, _ := w.flowAt(alphaPort, "172.30.1.2", "172.30.1.3")
	back, _ := w.flowAt(betaPort, "172.30.1.3", "172.30.1.2")
	if !forth.Peer.Local || !back.Peer.Local {
		t.Errorf("local is %t and %t, want both", forth.Peer.Local, back.Peer.Local)
	}
	if forth.Peer.Service != back.Container || back.Peer.Service != forth.Container {
		t.Errorf("peers are %q and %q", forth.Peer.Service, back.Peer.Service)
	}
}

// An address goes from a dead container to its successor.
func TestAddressOfTheLiving(t *testing.T) {
	w := newTown(t)
	w.ContainerDied(idOf("beta"))
	w.PutContainer(on(w.container("omega"), "web", "172.30.1.3"))
	for range 20 { // whatever order they are found in
		w.PutContainer(on(w.container("omega"), "web", "172.30.1.3"))
		if flow, _ := w.flowAt(alphaPort, "172.30.1.2", "172.30.1.3"); flow.Peer.Service != "omega" {
			t.Fatalf("peer is %q, want omega", flow.Peer.Service)
		}
	}
	w.wait(time.Second)
	w.ContainerDied(idOf("omega"))
	if flow, _ := w.flowAt(alphaPort, "172.30.1.2", "172.30.1.3"); flow.Peer.Service != "omega" {
		t.Errorf("peer is %q, want omega, who had the address last", flow.Peer.Service)
	}
}

// The engine does not list docker_gwbridge's addresses: they are learned from what containers send.
func TestLearnedAddress(t *testing.T) {
	w := newTown(t)
	w.PutNetwork(bridgeNetwork("gateway", "172.18.0."))
	w.LinkChanged(change(loader.Link{Index: 60, Name: "br-gateway", Kind: "bridge", PeerNetnsID: -1}))
	w.LinkChanged(veth(61, 60, alphaPort))
	const learned = "172.18.0.7"
	receive := flowOf(61, learned, "198.51.100.1")
	receive.TX = loader.Counts{}
	w.Attribute([]loader.Flow{receive}, nil)
	if flow, _ := w.flowAt(betaPort, "172.30.1.3", learned); flow.Peer.Local {
		t.Error("an address was learned from what was sent to it")
	}
	w.flowAt(61, learned, "198.51.100.1")
	flow, _ := w.flowAt(betaPort, "172.30.1.3", learned)
	if diff := cmp.Diff(Peer{Service: "alpha", Local: true}, flow.Peer); diff != "" {
		t.Error(diff)
	}
}

// A container may send with any source address. It does not become another's, the host's or the world's owner by that.
func TestSpoofedAddress(t *testing.T) {
	for _, tc := range []struct {
		name    string
		address string
		want    Peer
	}{
		{"another container's", "172.30.1.3", Peer{Service: "beta", Local: true}},
		{"gateway's", "172.30.1.1", Peer{Service: Host}},
		{"host's", "192.0.2.1", Peer{Service: Host}},
		{"of no network here", "198.51.100.1", Peer{Service: External}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTown(t)
			w.flowAt(alphaPort, tc.address, "203.0.113.1")
			flow, _ := w.flowAt(gammaPort, "172.30.2.2", tc.address)
			if diff := cmp.Diff(tc.want, flow.Peer); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLearnedAddressesAreBounded(t *testing.T) {
	w := newTown(t)
	w.PutNetwork(Network{
		ID: idOf("network web"), Name: "web", Driver: "bridge", Bridge: "br-web",
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")},
	})
	flows := make([]loader.Flow, 0, maxLearned+100)
	for i := range cap(flows) {
		flows = append(flows, flowOf(alphaPort, fmt.Sprintf("172.20.%d.%d", i/250, 1+i%250), "198.51.100.1"))
	}
	w.Attribute(flows, nil)
	if len(w.learned) != maxLearned {
		t.Errorf("%d addresses are learned, want %d", len(w.learned), maxLearned)
	}
}
