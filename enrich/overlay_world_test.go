// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Where things are on the node of these tests, n2 at 10.99.7.2, a worker.
const (
	ov1Netns        loader.Netns    = 500 // the namespace of the network ov1
	ov1Number                       = 50
	lbNetns         loader.Netns    = 501 // of its load balancer
	lbNumber                        = 51
	meshNetns       loader.Netns    = 502
	meshNumber                      = 52
	ov1Path                         = "/var/run/docker/netns/1-w5pdc7nbxy"
	vxlanIndex                      = 14 // in ov1Netns
	webPort                         = 16 // likewise: the veths of app_web.1 and of the load balancer
	lbPort                          = 18
	ov1WebDevice    loader.DeviceID = 1<<31 + 100 + webPort
	ov1LBDevice     loader.DeviceID = 1<<31 + 100 + lbPort
	ov1TunnelDevice loader.DeviceID = 1<<31 + 100 + vxlanIndex
	ingressDevice   loader.DeviceID = 1<<31 + 200
	webTask                         = "app_web.1.kwftwfxua2dagp15fvhws9lhe"
	managerID                       = "ls9c09mtn9qxq5z8rx6j6gqzg"
	workerID                        = "lf36jlgj09l6vabn8vpkmld1e"
)

// swarmWorld is a world on a node of a Swarm: the networks ov1 and ingress are as the engine told, and on it are the container
// app_web.1, which is on ov1, and ov1's load balancer.
type swarmWorld struct {
	*world
	ov1    loader.SandboxState
	lb     loader.SandboxState
	mesh   loader.SandboxState
	answer map[string]*overlayWord
}

func newSwarmWorld(t *testing.T) *swarmWorld {
	t.Helper()
	w := &swarmWorld{world: newWorld(t)}
	w.SetNode(Node{Name: "n2", ID: workerID, Role: roleWorker, Address: n2.String()})
	w.setSwarmInfo(swarmInfo{
		member: true, id: workerID, address: n2, managers: []swarmManager{{managerID, netip.AddrPortFrom(n1, 2377)}},
	})
	w.SetHostAddresses(append(addresses("192.0.2.1", "172.18.0.1"), n2))
	w.PutNetwork(overlayOf(ov1ID, "ov1", "4097", "10.0.1.0/24"))
	ingress := overlayOf(ingressID, "ingress", "4096", "10.0.0.0/24")
	ingress.Predefined = true
	w.PutNetwork(ingress)
	w.tell()
	c := w.container("web")
	c.Name = webTask
	c.Labels = map[string]string{
		labelSwarmService: "app_web", labelSwarmTask: webTask, labelSwarmNode: workerID, labelStack: "app",
	}
	c.Endpoints = []Endpoint{{
		NetworkID: ov1ID, Network: "ov1", Addresses: addresses("10.0.1.3"), MAC: macOf(netip.MustParseAddr("10.0.1.3")),
	}}
	w.PutContainer(c)
	w.makeSandboxes()
	w.look()
	return w
}

func overlayOf(id, name, vni, subnet string) Network {
	return Network{ID: id, Name: name, Driver: "overlay", Scope: "swarm", VNI: vni, Subnets: prefixes(subnet)}
}

// tell has the engine say of both networks what it said last, or at first what is in the files, right now.
func (w *swarmWorld) tell() {
	w.t.Helper()
	if w.answer == nil {
		w.answer = map[string]*overlayWord{
			ov1ID: newOverlayWord(readAnswer(w.t, "ov1-1.41"), w.now), ingressID: newOverlayWord(readAnswer(w.t, "ingress-1.41"), w.now),
		}
	}
	for id, word := range w.answer {
		next := *word
		next.asked = w.now
		next.endpoints = append([]overlayEndpoint(nil), word.endpoints...)
		for i := range next.endpoints {
			next.endpoints[i].since = w.now
		}
		w.setOverlay(id, &next)
	}
}

// endpoint is what the engine will say of one of ov1's.
func (w *swarmWorld) endpoint(address string) *overlayEndpoint {
	w.t.Helper()
	for i := range w.answer[ov1ID].endpoints {
		if e := &w.answer[ov1ID].endpoints[i]; e.address == netip.MustParseAddr(address) {
			return e
		}
	}
	w.t.Fatalf("no endpoint %s", address)
	return nil
}

func (w *swarmWorld) makeSandboxes() {
	veth := func(index, peer int, address string) loader.Link {
		l := loader.Link{Index: index, Kind: "veth", Name: "veth", Master: 2, Peer: peer, PeerNetnsID: 1}
		if address != "" {
			l.MAC = macOf(netip.MustParseAddr(address))
		}
		return l
	}
	w.ov1 = loader.SandboxState{
		Sandbox: loader.Sandbox{Path: ov1Path, Kind: loader.SandboxOverlay, Network: ov1ID[:10], Netns: ov1Netns, NetnsID: ov1Number},
		Links: []loader.Link{
			{Index: 2, Name: "br0", Kind: "bridge"}, {Index: vxlanIndex, Name: "vxlan0", Kind: "vxlan", Master: 2},
			veth(webPort, 17, ""), veth(lbPort, 19, ""),
		},
		VXLANs: []loader.VXLAN{{Index: vxlanIndex, Name: "vxlan0", VNI: 4097, Port: 4789}},
	}
	for _, address := range []string{"10.0.1.4", "10.0.1.5", "10.0.1.8", "10.0.1.10", "10.0.1.12"} { // 5 is the other node's load balancer
		w.addRows(address, n1)
	}
	w.lb = loader.SandboxState{
		Sandbox: loader.Sandbox{
			Path: "/var/run/docker/netns/lb_w5pdc7nbx", Kind: loader.SandboxLoadBalancer, Network: ov1ID[:9], Netns: lbNetns, NetnsID: lbNumber,
		},
		Links: []loader.Link{veth(19, lbPort, "10.0.1.6")},
	}
	w.mesh = loader.SandboxState{
		Sandbox: loader.Sandbox{
			Path: "/var/run/docker/netns/ingress_sbox", Kind: loader.SandboxIngress, Netns: meshNetns, NetnsID: meshNumber,
		},
		Links: []loader.Link{veth(7, 6, "10.0.0.3"), veth(9, 10, "172.18.0.2")},
	}
}

// addRows gives ov1's VXLAN device what it needs to reach an endpoint.
func (w *swarmWorld) addRows(address string, host netip.Addr) {
	a := netip.MustParseAddr(address)
	w.ov1.FDB = append(w.ov1.FDB, loader.FDBEntry{Device: vxlanIndex, MAC: macOf(a), Peer: host, Permanent: true})
	w.ov1.Neighbours = append(w.ov1.Neighbours, loader.Neighbour{Device: vxlanIndex, Address: a, MAC: macOf(a), Confirmed: true})
}

// removeRow takes a row out of the FDB, or of the neighbours.
func (w *swarmWorld) removeRow(address string, neighbour bool) {
	a := netip.MustParseAddr(address)
	for i, row := range w.ov1.FDB {
		if !neighbour && row.MAC == macOf(a) {
			w.ov1.FDB = append(append([]loader.FDBEntry(nil), w.ov1.FDB[:i]...), w.ov1.FDB[i+1:]...)
			return
		}
	}
	for i, row := range w.ov1.Neighbours {
		if neighbour && row.Address == a {
			w.ov1.Neighbours = append(append([]loader.Neighbour(nil), w.ov1.Neighbours[:i]...), w.ov1.Neighbours[i+1:]...)
			return
		}
	}
	w.t.Fatalf("no row of %s", address)
}

// look reads the engine's namespaces.
func (w *swarmWorld) look() { w.SetSandboxes([]loader.SandboxState{w.ov1, w.lb, w.mesh}) }

// pass lets a look's time pass, and looks.
func (w *swarmWorld) pass() {
	w.wait(5 * time.Second)
	w.look()
}

// network finds one in the cluster.
func (w *swarmWorld) network(name string) OverlayNetwork {
	w.t.Helper()
	for _, n := range w.Cluster().Networks {
		if n.Name == name {
			return n
		}
	}
	w.t.Fatalf("no network %s", name)
	return OverlayNetwork{}
}
