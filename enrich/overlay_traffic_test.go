// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestAttributeOverlay(t *testing.T) {
	w := newSwarmWorld(t)
	stranger := netip.MustParseAddr("198.51.100.9")
	traffic := []loader.OverlayTraffic{
		{Channel: loader.ChannelVXLAN, Outgoing: true, Local: n2, Peer: n1, VNI: 4097, Counts: loader.Counts{Packets: 7}},
		{Channel: loader.ChannelVXLAN, Local: n2, Peer: n1, VNI: 77},
		{Channel: loader.ChannelVXLAN, Local: n2, Peer: stranger, VNI: 4097, Malformed: true},
		{Channel: loader.ChannelESP, Local: n2, Peer: n1, VNI: 4097},
		{Channel: loader.ChannelGossipUDP, Peer: stranger},
		{Channel: loader.ChannelVXLAN, VNI: 4096}, // the table was full
	}
	var want []OverlayTraffic
	for i, known := range []bool{true, true, false, true, false, false} {
		want = append(want, OverlayTraffic{OverlayTraffic: traffic[i], Known: known})
	}
	want[0].Network, want[0].NetworkID = "ov1", ov1ID
	want[5].Network, want[5].NetworkID = "ingress", ingressID
	if diff := cmp.Diff(want, w.AttributeOverlay(traffic, nil).Traffic, byComparison); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	routed := loader.OverlayTraffic{Channel: loader.ChannelVXLAN, Local: netip.MustParseAddr("10.99.7.3"), Peer: n1, VNI: 4097}
	if told := w.AttributeOverlay([]loader.OverlayTraffic{routed}, nil).Traffic; len(told) > 0 {
		t.Errorf("what another node sends by way of this one: %+v", told)
	}
	w.SetHostAddresses(nil)
	if told := w.AttributeOverlay([]loader.OverlayTraffic{routed}, nil).Traffic; len(told) != 1 {
		t.Error("left out, though it is not known whose it is")
	}
	w.SetNode(Node{Name: "n2", ID: workerID, Role: roleManager})
	w.setSwarmNodes([]swarmNode{{id: managerID, name: "n1", address: n1}})
	if told := w.AttributeOverlay(traffic[:1], nil).Traffic; told[0].Node != "n1" {
		t.Errorf("peer is %q", told[0].Node)
	}
}

// What passes an encrypted network's VXLAN device is no container's, and shows which network went to which node.
func TestInnerTraffic(t *testing.T) {
	w := newSwarmWorld(t)
	w.watchOverlay()
	counts := func(packets uint64) loader.Counts {
		return loader.Counts{Skbs: packets, Packets: packets, Bytes: 100 * packets}
	}
	inner := func(local, remote string, tx, rx uint64) loader.Flow {
		return loader.Flow{
			Device: ov1TunnelDevice, Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), TX: counts(tx), RX: counts(rx),
		}
	}
	asked, group, solicited := inner("10.0.1.3", "10.0.1.4", 1, 1), inner("10.0.1.3", "224.0.0.251", 1, 0), inner("fd00::3", "fd00::4", 1, 0)
	asked.EtherType, solicited.Protocol, solicited.LocalPort = unix.ETH_P_ARP, unix.IPPROTO_ICMPV6, icmpv6NeighborSolicitation
	flows, _ := w.Attribute([]loader.Flow{
		asked, group, solicited, // which stay here
		inner("10.0.1.3", "10.0.1.4", 5, 3), inner("10.0.1.3", "10.0.1.44", 2, 0), flowOf(ov1WebDevice, "10.0.1.3", "10.0.1.4"),
		{Device: ov1TunnelDevice, Other: true, RX: counts(9)},
	}, nil)
	if len(flows) != 1 || flows[0].Device != ov1WebDevice {
		t.Errorf("flows of containers: %+v", flows)
	}
	traffic := func(peer netip.Addr, outgoing bool, packets uint64) OverlayTraffic {
		return OverlayTraffic{
			OverlayTraffic: loader.OverlayTraffic{
				Channel: loader.ChannelVXLAN, Outgoing: outgoing, Local: n2, Peer: peer, VNI: 4097, Counts: counts(packets), Last: w.now,
			},
			Network: "ov1", NetworkID: ov1ID, Inner: true, Known: peer == n1,
		}
	}
	if diff := cmp.Diff([]OverlayTraffic{
		traffic(n1, true, 5), traffic(n1, false, 3), traffic(netip.Addr{}, false, 9),
	}, w.AttributeOverlay(nil, nil).Traffic, byComparison); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.wait(patience)
	if diff := cmp.Diff([]OverlayTraffic{traffic(netip.Addr{}, true, 2)}, w.AttributeOverlay(nil, nil).Traffic, byComparison); diff != "" {
		t.Errorf("of somebody whom the engine does not know (-want +got):\n%s", diff)
	}
}

func TestOverlayMisses(t *testing.T) {
	w := newSwarmWorld(t)
	address := netip.MustParseAddr("10.0.1.4")
	misses := []loader.Miss{
		{NetnsID: ov1Number, Device: vxlanIndex, Address: address, Count: 3},
		{NetnsID: ov1Number, Device: vxlanIndex, MAC: macOf(address), Count: 2},
		{NetnsID: ov1Number, Device: vxlanIndex, Address: netip.MustParseAddr("10.0.1.99"), Count: 1},
		{NetnsID: 99, Device: 4, Address: address, Count: 1},
	}
	told := w.AttributeOverlay(nil, misses).Misses
	if len(told) != 2 {
		t.Fatalf("%d are told at once", len(told))
	}
	for _, m := range told {
		if m.Network != "ov1" || m.NetworkID != ov1ID || m.Endpoint.Container != "web.2" || m.Endpoint.Host != n1 {
			t.Errorf("%+v", m)
		}
	}
	w.wait(patience)
	if diff := cmp.Diff([]OverlayMiss{
		{Miss: misses[2], Network: "ov1", NetworkID: ov1ID}, {Miss: misses[3]},
	}, w.AttributeOverlay(nil, nil).Misses, byComparison); diff != "" {
		t.Errorf("of nobody (-want +got):\n%s", diff)
	}
	if due := w.dueOverlays(); len(due) != 1 || due[0] != ov1ID {
		t.Errorf("%q are asked for", due)
	}
}

func TestOverlayUplinks(t *testing.T) {
	w := newWorld(t)
	want := func(what string, devices []int, ports loader.OverlayPorts) {
		t.Helper()
		gotDevices, gotPorts := w.OverlayUplinks()
		if diff := cmp.Diff([]any{devices, ports}, []any{gotDevices, gotPorts}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	want("in no Swarm", nil, loader.OverlayPorts{})
	w.SetNode(Node{Name: "n", Role: roleManager})
	w.setSwarmInfo(swarmInfo{member: true})
	want("nothing is told", []int{uplink}, loader.OverlayPorts{Data: 4789, Gossip: 7946, Managers: []uint16{2377}})
	w.SetSandboxes([]loader.SandboxState{{
		Sandbox: loader.Sandbox{Kind: loader.SandboxOverlay, Network: "x"}, VXLANs: []loader.VXLAN{{Port: 5789}},
	}})
	want("a worker", []int{uplink}, loader.OverlayPorts{Data: 5789, Gossip: 7946, Managers: []uint16{2377}})
	w.setSwarmInfo(swarmInfo{member: true, dataPort: 6789, managers: []swarmManager{
		{"a", netip.MustParseAddrPort("10.0.0.1:2378")}, {"b", netip.MustParseAddrPort("10.0.0.2:2377")}, {"c", netip.MustParseAddrPort("10.0.0.3:2378")},
	}})
	want("a manager", []int{uplink}, loader.OverlayPorts{Data: 6789, Gossip: 7946, Managers: []uint16{2377, 2378}})
}

func TestSandboxFolder(t *testing.T) {
	w := newWorld(t)
	if folder := w.SandboxFolder(); folder != "" {
		t.Errorf("%q before anything is known", folder)
	}
	w.SetNode(Node{Name: "n", Role: roleWorker})
	if folder := w.SandboxFolder(); folder != "/var/run/docker/netns" {
		t.Errorf("%q on a node of a Swarm", folder)
	}
	c := w.container("a")
	c.SandboxKey = "/srv/exec/netns/0123456789ab"
	w.PutContainer(c)
	w.ContainerDied(c.ID)
	if folder := w.SandboxFolder(); folder != "/srv/exec/netns" {
		t.Errorf("%q after a container has told", folder)
	}
	w.SetNode(Node{Name: "n"})
	if folder := w.SandboxFolder(); folder != "" {
		t.Errorf("%q on a node that has left", folder)
	}
}

func TestEncrypted(t *testing.T) {
	w := newWorld(t)
	n := overlayOf(ov1ID, "ov1", "4097", "10.0.1.0/24")
	n.Encrypted = true
	w.PutNetwork(n)
	w.PutNetwork(overlayOf(ingressID, "ingress", "4096", "10.0.0.0/24"))
	for prefix, want := range map[string]bool{ov1ID[:10]: true, ov1ID[:9]: true, ingressID[:10]: false, "": false, "x": false} {
		if got := w.Encrypted(prefix); got != want {
			t.Errorf("%q: %t", prefix, got)
		}
	}
}

// A namespace's number may be a container's by the time that its last drops are read.
func TestSandboxAt(t *testing.T) {
	w := newSwarmWorld(t)
	kindAt := func(netns loader.Netns) loader.SandboxKind {
		if state := w.sandboxAt(netns); state != nil {
			return state.Kind
		}
		return ""
	}
	want := func(what string, kind loader.SandboxKind) {
		t.Helper()
		if got := kindAt(ov1Netns); got != kind {
			t.Errorf("%s: it is %q", what, got)
		}
	}
	want("it is there", loader.SandboxOverlay)
	w.SetSandboxes(nil)
	want("it has just gone", loader.SandboxOverlay)
	w.netns[ov1Netns] = idOf("web")
	want("a container has its number", "")
	w.look()
	want("a container has come since the look", "")
	w.left[ov1Netns] = w.now
	want("it has left", loader.SandboxOverlay)
	delete(w.left, ov1Netns)
	w.ContainerDied(idOf("web"))
	want("it has ended", loader.SandboxOverlay)
	delete(w.netns, ov1Netns)
	w.SetSandboxes(nil)
	w.wait(keep + time.Second)
	w.SetSandboxes(nil)
	want("it is long gone", "")
	if kindAt(0) != "" {
		t.Error("no namespace is one")
	}
}

func TestNamesOfTasks(t *testing.T) {
	const node = "ls9c09mtn9qxq5z8rx6j6gqzg"
	for _, tc := range []struct {
		name     string
		label    ContainerLabel
		endpoint overlayEndpoint
		want     Identity
	}{
		{"slot", ContainerByName, overlayEndpoint{service: "app_web", name: "app_web.2.kwftwfxua2dagp15fvhws9lhe"}, Identity{Stack: "app", Service: "web", Container: "web.2"}},
		{"of no stack", ContainerByName, overlayEndpoint{service: "rr", name: "rr.1.x"}, Identity{Service: "rr", Container: "rr.1"}},
		{"of the longer stack", ContainerByName, overlayEndpoint{service: "app_b_web", name: "app_b_web.1.x"}, Identity{Stack: "app_b", Service: "web", Container: "web.1"}},
		{"of a stack that has only a network here", ContainerByName, overlayEndpoint{service: "blog_db", name: "blog_db.1.x"}, Identity{Stack: "blog", Service: "db", Container: "db.1"}},
		{"looks like one, and its label says no", ContainerByName, overlayEndpoint{service: "app_alone", name: "app_alone.1.x"}, Identity{Service: "app_alone", Container: "app_alone.1"}},
		{"global, of a node that is known", ContainerByName, overlayEndpoint{service: "g", name: "g." + node + ".x", host: n1}, Identity{Service: "g", Container: "g.n1"}},
		{"global, of this node", ContainerByName, overlayEndpoint{service: "g", name: "g." + workerID + ".x"}, Identity{Service: "g", Container: "g.n2"}},
		{"global, of an address", ContainerByName, overlayEndpoint{service: "g", name: "g.zzzz09mtn9qxq5z8rx6j6gqzg.x", host: n1}, Identity{Service: "g", Container: "g.10.99.7.1"}},
		{"global, of nobody", ContainerByName, overlayEndpoint{service: "g", name: "g.zzzz09mtn9qxq5z8rx6j6gqzg.x"}, Identity{Service: "g", Container: "g.zzzz09mtn9qx"}},
		{"by service", ContainerByService, overlayEndpoint{service: "rr", name: "rr.1.x"}, Identity{Service: "rr", Container: "rr"}},
		{"container", ContainerByName, overlayEndpoint{name: "c1"}, Identity{Container: "c1"}},
		{"container that nobody named", ContainerByName, overlayEndpoint{name: "jolly_wozniak"}, Identity{Container: AdHoc}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.config.ContainerLabel = tc.label
			w.SetNode(Node{Name: "n2", ID: workerID, Role: roleManager})
			w.setSwarmNodes([]swarmNode{{id: node, name: "n1"}})
			w.SetServices([]Service{{Name: "app_web", Labels: map[string]string{labelStack: "app"}}, {Name: "app_alone"}})
			w.PutNetwork(Network{ID: "b", Name: "b", Labels: map[string]string{labelStack: "blog"}})
			w.PutNetwork(Network{ID: "ab", Name: "ab", Labels: map[string]string{labelStack: "app_b"}})
			n := overlayOf(ov1ID, "ov1", "4097", "10.0.1.0/24")
			w.PutNetwork(n)
			if diff := cmp.Diff(tc.want, w.identifyTask(w.overlayIndex(), w.networks[ov1ID], &tc.endpoint)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestVNIs(t *testing.T) {
	for text, want := range map[string][]uint32{
		"4097": {4097}, "4097,4098": {4097, 4098}, " 4097 , x,16777216": {4097}, "": nil,
	} {
		n := Network{Driver: "overlay", VNI: text}
		if diff := cmp.Diff(want, n.vnis(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
