// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestClusterOfWorker(t *testing.T) {
	w := newSwarmWorld(t)
	c := w.Cluster()
	if c.Self != n2 || c.NoIPVS {
		t.Errorf("self is %s, no IPVS %t", c.Self, c.NoIPVS)
	}
	if diff := cmp.Diff(loader.OverlayPorts{Data: 4789, Gossip: 7946, Managers: []uint16{2377}}, c.Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]SwarmPeer{
		{Address: n1, Control: n1, ID: managerID, Manager: true, Nets: []string{"ingress", "ov1"}},
	}, c.Peers, byComparison); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	ov1 := w.network("ov1")
	if !ov1.Known || ov1.Sandbox == nil || ov1.Sandbox.Path != ov1Path || ov1.LoadBalancer == nil ||
		ov1.LoadBalancer.Netns != lbNetns || !slices.Equal(ov1.VNIs, []uint32{4097}) {
		t.Errorf("ov1 is %+v", ov1)
	}
	if ingress := w.network("ingress"); ingress.Sandbox != nil || ingress.LoadBalancer == nil || ingress.LoadBalancer.Netns != meshNetns {
		t.Errorf("ingress is %+v", ingress)
	}
	var endpoints []string
	for _, e := range ov1.Endpoints {
		endpoints = append(endpoints, fmt.Sprintf("%s %s/%s/%s at %s, local %t, balancer %t", e.Address, e.Stack, e.Service, e.Container,
			e.Host, e.Local, e.LoadBalancer))
	}
	if diff := cmp.Diff([]string{
		"10.0.1.3 app/web/web.1 at 10.99.7.2, local true, balancer false",
		"10.0.1.4 app/web/web.2 at 10.99.7.1, local false, balancer false",
		"10.0.1.6 // at 10.99.7.2, local true, balancer true",
		"10.0.1.8 /agent/agent.10.99.7.1 at 10.99.7.1, local false, balancer false",
		"10.0.1.9 /agent/agent.n2 at 10.99.7.2, local true, balancer false",
		"10.0.1.10 /rr/rr.1 at 10.99.7.1, local false, balancer false",
		"10.0.1.11 /rr/rr.2 at 10.99.7.2, local true, balancer false",
		"10.0.1.12 //c1 at 10.99.7.1, local false, balancer false",
		"10.0.1.13 //c2 at 10.99.7.2, local true, balancer false",
	}, endpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if len(ov1.NoFDB)+len(ov1.NoNeighbour)+len(ov1.Astray) > 0 {
		t.Errorf("tables are wrong: %+v", ov1)
	}
}

// A manager knows names and states of nodes. What it was told stays known when managers have no majority any more.
func TestClusterOfManager(t *testing.T) {
	w := newSwarmWorld(t)
	manager := Node{Name: "n2", ID: workerID, Role: roleManager, Address: n2.String(), SwarmID: "s"}
	w.SetNode(manager)
	w.setSwarmNodes([]swarmNode{
		{id: workerID, name: "n2", state: "ready", address: n2, manager: netip.AddrPortFrom(n2, 2377)},
		{id: managerID, name: "n1", state: "ready", address: n1, manager: netip.AddrPortFrom(n1, 2378)},
		{id: "n3", name: "n3", state: "down", address: netip.MustParseAddr("10.99.7.3")},
	})
	want := []SwarmPeer{
		{Address: n1, Control: n1, Node: "n1", ID: managerID, Manager: true, State: "ready", Nets: []string{"ingress", "ov1"}},
		{Address: netip.MustParseAddr("10.99.7.3"), Control: netip.MustParseAddr("10.99.7.3"), Node: "n3", ID: "n3", State: "down"},
	}
	c := w.Cluster()
	if diff := cmp.Diff(want, c.Peers, byComparison, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint16{2377, 2378}, c.Ports.Managers); diff != "" {
		t.Errorf("managers' ports (-want +got):\n%s", diff)
	}
	if e := w.network("ov1").Endpoints[3]; e.Container != "agent.n1" {
		t.Errorf("a global service's task on another node is %q", e.Container)
	}
	manager.Role = roleWorker // it was demoted: the names are right still, the states may not be, and who was listed may have left
	w.SetNode(manager)
	want = want[:1]
	want[0].State = ""
	if diff := cmp.Diff(want, w.Cluster().Peers, byComparison, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("peers of one that is no manager any more (-want +got):\n%s", diff)
	}
	w.SetNode(Node{Name: "n2"})
	w.setSwarmInfo(swarmInfo{})
	if diff := cmp.Diff(Cluster{}, w.Cluster(), byComparison); diff != "" {
		t.Errorf("after it left (-want +got):\n%s", diff)
	}
}

// A node with a data path of its own has two addresses.
func TestClusterWithDataPaths(t *testing.T) {
	d1, d2, d3 := netip.MustParseAddr("10.50.0.1"), netip.MustParseAddr("10.50.0.2"), netip.MustParseAddr("10.50.0.3")
	n3 := netip.MustParseAddr("10.99.7.3")
	for _, tc := range []struct {
		name  string
		hosts map[string]netip.Addr // of endpoints
		peers []netip.Addr
		want  []SwarmPeer
	}{
		{
			"the only other node", map[string]netip.Addr{"10.0.1.4": d1}, []netip.Addr{n1, n2},
			[]SwarmPeer{{Address: d1, Control: n1, ID: managerID, Manager: true, Nets: []string{"ov1"}}},
		},
		{
			"told by a global service's task", map[string]netip.Addr{"10.0.1.4": d3, "10.0.1.8": d1}, []netip.Addr{n1, n2, n3},
			[]SwarmPeer{
				{Address: d1, Control: n1, ID: managerID, Manager: true, Nets: []string{"ov1"}},
				{Address: d3, Control: n3, Nets: []string{"ov1"}},
			},
		},
		{
			"not told", map[string]netip.Addr{"10.0.1.4": d3, "10.0.1.10": d1}, []netip.Addr{n1, n2, n3},
			[]SwarmPeer{
				{Address: d1, Nets: []string{"ov1"}},
				{Address: d3, Nets: []string{"ov1"}},
				{Address: n1, Control: n1, ID: managerID, Manager: true, Nets: []string{"ov1"}},
				{Address: n3, Control: n3, Nets: []string{"ov1"}},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			delete(w.answer, ingressID)
			w.setOverlay(ingressID, &overlayWord{asked: w.now})
			w.SetSandboxes(nil)
			kept := w.answer[ov1ID].endpoints[:0]
			for _, e := range w.answer[ov1ID].endpoints {
				if host, moved := tc.hosts[e.address.String()]; e.local || moved {
					if e.local {
						host = d2
					}
					e.host = host
					kept = append(kept, e)
				}
			}
			w.answer[ov1ID].endpoints = kept
			w.answer[ov1ID].peers = tc.peers
			w.tell()
			c := w.Cluster()
			if c.Self != d2 {
				t.Errorf("self is %s", c.Self)
			}
			if diff := cmp.Diff(tc.want, c.Peers, byComparison); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// As long as the engine has not told, the rows of FDBs tell of other nodes. Later one may lead to who is no node.
func TestClusterPeersByRows(t *testing.T) {
	w := newSwarmWorld(t)
	ghost := netip.MustParseAddr("10.99.7.9")
	w.addRows("10.0.1.99", ghost)
	w.look()
	has := func() bool {
		return slices.ContainsFunc(w.Cluster().Peers, func(p SwarmPeer) bool { return p.Address == ghost })
	}
	if has() {
		t.Error("a stale row makes a node")
	}
	w.setOverlay(ov1ID, &overlayWord{asked: w.now})
	if !has() {
		t.Error("no node is known by its row alone")
	}
}

// faultsOf are what is wrong with the tables of ov1.
func (w *swarmWorld) faultsOf() (faults []string) {
	n := w.network("ov1")
	for _, e := range n.NoFDB {
		faults = append(faults, "no fdb "+e.Address.String())
	}
	for _, e := range n.NoNeighbour {
		faults = append(faults, "no neighbour "+e.Address.String())
	}
	for _, e := range n.Astray {
		faults = append(faults, fmt.Sprintf("astray %s to %s", e.Address, e.Got))
	}
	return faults
}

func TestClusterTables(t *testing.T) {
	n3 := netip.MustParseAddr("10.99.7.3")
	const broken = "10.0.1.4"
	for _, tc := range []struct {
		name string
		// steps happen one after the other, each followed by a look.
		steps []func(w *swarmWorld)
		want  []string
	}{
		{"all is well", []func(*swarmWorld){(*swarmWorld).tell, (*swarmWorld).tell}, nil},
		{"fdb row is missing", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false) }, (*swarmWorld).tell,
		}, []string{"no fdb " + broken}},
		{"neighbour row is missing", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, true) }, (*swarmWorld).tell,
		}, []string{"no neighbour " + broken}},
		{"row leads elsewhere", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false); w.addRows(broken, n3) }, (*swarmWorld).tell,
		}, []string{"astray " + broken + " to 10.99.7.3"}},
		{"the engine has not been asked since", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false); w.removeRow(broken, true) }, func(*swarmWorld) {}, func(*swarmWorld) {},
		}, nil},
		{"it was so at one look only", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false) },
			func(w *swarmWorld) { w.tell(); w.addRows(broken, n1) },
		}, nil},
		{"it was so, and is not any more", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false) }, (*swarmWorld).tell, func(w *swarmWorld) { w.addRows(broken, n1) },
		}, nil},
		{"a task is new", []func(*swarmWorld){
			func(w *swarmWorld) {
				e := *w.endpoint("10.0.1.10")
				e.id, e.address = "new", netip.MustParseAddr("10.0.1.20")
				w.answer[ov1ID].endpoints = append(w.answer[ov1ID].endpoints, e)
				w.tell()
			},
		}, nil},
		{"a task stays without rows", []func(*swarmWorld){
			func(w *swarmWorld) {
				e := *w.endpoint("10.0.1.10")
				e.id, e.address = "new", netip.MustParseAddr("10.0.1.20")
				w.answer[ov1ID].endpoints = append(w.answer[ov1ID].endpoints, e)
				w.tell()
			}, (*swarmWorld).tell,
		}, []string{"no fdb 10.0.1.20", "no neighbour 10.0.1.20"}},
		{"a task has ended, and the engine says so late", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false); w.removeRow(broken, true) },
			func(w *swarmWorld) {
				w.answer[ov1ID].endpoints = slices.DeleteFunc(w.answer[ov1ID].endpoints, func(e overlayEndpoint) bool {
					return e.address == netip.MustParseAddr(broken)
				})
				w.tell()
			},
		}, nil},
		{"a task has moved, and the engine says so late", []func(*swarmWorld){
			func(w *swarmWorld) { w.removeRow(broken, false); w.addRows(broken, n3) },
			func(w *swarmWorld) { w.endpoint(broken).host = n3; w.tell() },
		}, nil},
		{"a task has moved, and the row has not", []func(*swarmWorld){
			func(w *swarmWorld) { w.endpoint(broken).host = n3; w.tell() }, (*swarmWorld).tell,
		}, []string{"astray " + broken + " to 10.99.7.1"}},
		{"a task has moved here", []func(*swarmWorld){
			func(w *swarmWorld) { e := w.endpoint(broken); e.host, e.local = n2, true; w.tell() },
			func(w *swarmWorld) { w.tell(); w.removeRow(broken, false) }, (*swarmWorld).tell,
		}, nil},
		{"a learned row hides for minutes that the engine's is gone", []func(*swarmWorld){
			func(w *swarmWorld) { w.ov1.FDB[0].Permanent = false }, (*swarmWorld).tell,
		}, []string{"no fdb " + broken}},
		{"somebody chose another MAC", []func(*swarmWorld){
			func(w *swarmWorld) {
				w.ov1.FDB[0].MAC, w.ov1.Neighbours[0].MAC = [6]byte{6, 1}, [6]byte{6, 1}
			}, (*swarmWorld).tell,
		}, nil},
		{"the neighbour with another MAC is gone", []func(*swarmWorld){
			func(w *swarmWorld) {
				w.ov1.FDB[0].MAC, w.ov1.Neighbours[0].MAC = [6]byte{6, 1}, [6]byte{6, 1}
			},
			func(w *swarmWorld) { w.removeRow(broken, true) }, (*swarmWorld).tell, (*swarmWorld).tell,
		}, []string{"no neighbour " + broken}},
		{"an address goes from one with another MAC to one without", []func(*swarmWorld){
			func(w *swarmWorld) {
				w.ov1.FDB[0].MAC, w.ov1.Neighbours[0].MAC = [6]byte{6, 1}, [6]byte{6, 1}
			},
			func(w *swarmWorld) {
				w.removeRow(broken, true)
				w.ov1.FDB = w.ov1.FDB[1:]
				w.addRows(broken, n1)
				w.endpoint(broken).id = "new"
				w.tell()
			},
			func(w *swarmWorld) { w.removeRow(broken, false); w.removeRow(broken, true) }, (*swarmWorld).tell,
		}, []string{"no fdb " + broken, "no neighbour " + broken}},
		{"a table could not be read", []func(*swarmWorld){
			func(w *swarmWorld) { w.ov1.FDB, w.ov1.Errors = nil, []error{errors.New("interrupted")} }, (*swarmWorld).tell,
		}, nil},
		{"where an endpoint is is not known", []func(*swarmWorld){
			func(w *swarmWorld) { w.endpoint(broken).host = netip.Addr{}; w.removeRow(broken, false); w.tell() }, (*swarmWorld).tell,
		}, nil},
		{"the other node's load balancer is gone from the table", []func(*swarmWorld){
			(*swarmWorld).tell, // it is known now that the row is nobody else's
			func(w *swarmWorld) { w.wait(settled); w.removeRow("10.0.1.5", false) }, (*swarmWorld).tell,
		}, []string{"no fdb 10.0.1.5"}},
		{"the other node's load balancer has another address", []func(*swarmWorld){
			(*swarmWorld).tell,
			func(w *swarmWorld) {
				w.removeRow("10.0.1.5", false)
				w.removeRow("10.0.1.5", true)
				w.addRows("10.0.1.30", n1)
			}, (*swarmWorld).tell, (*swarmWorld).tell,
		}, nil},
		{"the other node has left the network", []func(*swarmWorld){
			(*swarmWorld).tell,
			func(w *swarmWorld) { w.ov1.FDB, w.ov1.Neighbours = nil, nil },
			func(w *swarmWorld) {
				w.answer[ov1ID].peers = []netip.Addr{n2}
				w.answer[ov1ID].endpoints = slices.DeleteFunc(w.answer[ov1ID].endpoints, func(e overlayEndpoint) bool { return e.host == n1 })
				w.tell()
			},
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			w.pass()
			for _, step := range tc.steps {
				w.wait(time.Second)
				step(w)
				w.pass()
			}
			if diff := cmp.Diff(tc.want, w.faultsOf()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Who was given a MAC address is known by it, as long as the neighbours have had him once.
func TestClusterMACs(t *testing.T) {
	w := newSwarmWorld(t)
	const address = "10.0.1.4"
	given := [6]byte{6, 1}
	want := func(what string, mac [6]byte) {
		t.Helper()
		for _, e := range w.network("ov1").Endpoints {
			if e.Address == netip.MustParseAddr(address) && e.MAC != mac {
				t.Errorf("%s: it has %x, want %x", what, e.MAC, mac)
			}
		}
	}
	want("the usual", macOf(netip.MustParseAddr(address)))
	w.ov1.FDB[0].MAC, w.ov1.Neighbours[0].MAC = given, given
	w.look()
	want("its row says another", given)
	w.removeRow(address, true)
	w.look()
	want("its row is gone", given)
	w.ov1.Errors = []error{errors.New("interrupted")}
	w.look()
	want("nothing could be read", given)
	w.SetSandboxes(nil)
	want("nobody here is on the network", macOf(netip.MustParseAddr(address)))
}

// What is remembered of load balancers ends with the network's namespace here, and with the Swarm.
func TestClusterForgetsLoadBalancers(t *testing.T) {
	for name, end := range map[string]func(*swarmWorld){
		"nobody here is on the network": func(w *swarmWorld) { w.SetSandboxes([]loader.SandboxState{w.mesh}) },
		"another Swarm": func(w *swarmWorld) {
			w.setSwarmInfo(swarmInfo{member: true, id: "other", address: n2})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSwarmWorld(t)
			w.pass()
			w.tell()
			w.pass()
			balancers := func() int {
				w.mu.Lock()
				defer w.mu.Unlock()
				return len(w.balancers())
			}
			if balancers() != 1 {
				t.Fatal("none is known to begin with")
			}
			w.ov1.Errors = []error{errors.New("interrupted")}
			w.look()
			if balancers() != 1 {
				t.Error("it is forgotten where nothing could be read")
			}
			end(w)
			if n := balancers(); n != 0 {
				t.Errorf("%d are still known", n)
			}
		})
	}
}

// What is surely wrong may be the engine's mistake: it is asked on, ever more seldom.
func TestClusterAsksOn(t *testing.T) {
	w := newSwarmWorld(t)
	w.pass()
	w.removeRow("10.0.1.4", true)
	w.pass()
	asked := 0
	for range int(overlayRefresh / (5 * time.Second)) {
		w.pass()
		if slices.Contains(w.dueOverlays(), ov1ID) {
			asked++
			next := *w.answer[ov1ID]
			next.asked = w.now
			next.endpoints = slices.Clone(next.endpoints)
			w.setOverlay(ov1ID, &next)
		}
	}
	if len(w.faultsOf()) != 1 || asked < 5 || asked > 10 {
		t.Errorf("%q: asked %d times", w.faultsOf(), asked)
	}
}

// A task that moved with its address may be told of twice for a moment. If it is here, it is here.
func TestClusterOfTwoAtOneAddress(t *testing.T) {
	w := newSwarmWorld(t)
	e := *w.endpoint("10.0.1.3")
	e.id, e.host, e.local, e.mac = "zzz", n1, false, [6]byte{}
	w.answer[ov1ID].endpoints = append(w.answer[ov1ID].endpoints, e)
	w.tell()
	if first := w.network("ov1").Endpoints[0]; !first.Local || first.Host != n2 {
		t.Errorf("%+v", first)
	}
}

// However often the tables are looked at, and the engine asked, an endpoint's rows have their time.
func TestClusterGivesRowsTime(t *testing.T) {
	w := newSwarmWorld(t)
	w.pass()
	e := *w.endpoint("10.0.1.10")
	e.id, e.address = "new", netip.MustParseAddr("10.0.1.20")
	w.answer[ov1ID].endpoints = append(w.answer[ov1ID].endpoints, e)
	for begun := w.now; w.now.Sub(begun) < settled; w.wait(time.Second) {
		w.tell()
		w.look()
		if faults := w.faultsOf(); faults != nil {
			t.Errorf("after %s: %q", w.now.Sub(begun), faults)
		}
	}
	w.look()
	if len(w.faultsOf()) != 2 {
		t.Errorf("in the end: %q", w.faultsOf())
	}
}

// What looks wrong has the engine asked, at once.
func TestClusterAsksWhenTablesDiffer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(w *swarmWorld)
		asked  bool
	}{
		{"nothing", func(*swarmWorld) {}, false},
		{"row is missing", func(w *swarmWorld) { w.removeRow("10.0.1.4", false) }, true},
		{"row of somebody new", func(w *swarmWorld) { w.addRows("10.0.1.40", n1) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			w.wait(overlayPause)
			w.tell()
			w.pass()
			tc.change(w)
			w.pass()
			w.wait(overlayPause)
			if asked := slices.Contains(w.dueOverlays(), ov1ID); asked != tc.asked {
				t.Errorf("asked: %t", asked)
			}
		})
	}
}

// The load balancer of another node is found by its row, since the engine does not tell.
func TestClusterFindsLoadBalancers(t *testing.T) {
	w := newSwarmWorld(t)
	balancers := func() (found []string) {
		for _, e := range w.network("ov1").Endpoints {
			if e.LoadBalancer && !e.Local {
				found = append(found, fmt.Sprintf("%s at %s", e.Address, e.Host))
			}
		}
		return found
	}
	if found := balancers(); found != nil {
		t.Errorf("%q: it may be a task that the engine will tell of", found)
	}
	w.wait(time.Second)
	w.tell()
	w.pass()
	if diff := cmp.Diff([]string{"10.0.1.5 at 10.99.7.1"}, balancers()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e := *w.endpoint("10.0.1.4")
	e.address = netip.MustParseAddr("10.0.1.5")
	w.answer[ov1ID].endpoints = append(w.answer[ov1ID].endpoints, e)
	w.tell()
	w.pass()
	if found := balancers(); found != nil {
		t.Errorf("%q is a task by now", found)
	}
}

func TestVirtualAddresses(t *testing.T) {
	backends := func(texts ...string) (all []loader.IPVSBackend) {
		for _, a := range addresses(texts...) {
			all = append(all, loader.IPVSBackend{Address: a, Weight: 1})
		}
		return all
	}
	w := newSwarmWorld(t)
	agent := w.answer[ov1ID].services["agent"]
	agent.mark = 0 // not told
	w.answer[ov1ID].services["agent"] = agent
	w.tell()
	w.lb.IPVS = []loader.VirtualService{
		{Mark: 256, Backends: backends("10.0.1.3", "10.0.1.77")}, {Mark: 300, Backends: backends("10.0.1.8", "10.0.1.9")},
		{Mark: 301, Backends: backends("10.0.1.9")},
	}
	w.look()
	var got []string
	for _, v := range w.network("ov1").VIPs {
		text := fmt.Sprintf("%s %+v served %t by", v.Address, v.Identity, v.Served)
		for _, b := range v.Backends {
			text += " " + b.Address.String()
		}
		text += "; tasks"
		for _, e := range v.Tasks {
			text += " " + e.Container
		}
		got = append(got, text)
	}
	if diff := cmp.Diff([]string{
		"10.0.1.2 {Stack:app Service:web Container: Network:ov1} served true by 10.0.1.3 10.0.1.77; tasks web.1 web.2",
		"10.0.1.7 {Stack: Service:agent Container: Network:ov1} served true by 10.0.1.8 10.0.1.9; tasks agent.10.99.7.1 agent.n2",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// After the engine has started again, marks that it told before may be others'.
	w.lb.IPVS = []loader.VirtualService{{Mark: 256, Backends: backends("10.0.1.8", "10.0.1.9")}, {Mark: 257, Backends: backends("10.0.1.3", "10.0.1.4")}}
	w.look()
	for i, want := range []string{"10.0.1.3", "10.0.1.8"} {
		if v := w.network("ov1").VIPs[i]; len(v.Backends) != 2 || v.Backends[0].Address != netip.MustParseAddr(want) {
			t.Errorf("%s is served by %+v", v.Address, v.Backends)
		}
	}
	// One that leads to nobody's is the service's still.
	w.lb.IPVS = []loader.VirtualService{{Mark: 257, Backends: backends("10.0.1.3")}, {Mark: 256, Backends: backends("10.0.1.77")}}
	w.look()
	if v := w.network("ov1").VIPs[0]; !v.Served || v.Backends[0].Address != netip.MustParseAddr("10.0.1.77") {
		t.Errorf("%+v", v)
	}
	w.lb.IPVS, w.lb.NoIPVS = nil, true
	w.look()
	if v := w.network("ov1").VIPs[0]; v.Served || v.Backends != nil {
		t.Errorf("without IPVS: %+v", v)
	}
	if !w.Cluster().NoIPVS {
		t.Error("the kernel has no IPVS, and nobody says so")
	}
	// The mesh's are on its own network.
	if v := w.network("ingress").VIPs; len(v) != 1 || v[0].Service != "pub" || v[0].Address != netip.MustParseAddr("10.0.0.4") {
		t.Errorf("on the mesh: %+v", v)
	}
}

// A backend is dead if it is nobody's for long enough, and the engine has been asked since.
func TestDeadBackends(t *testing.T) {
	for _, tc := range []struct {
		name    string
		backend loader.IPVSBackend
		steps   []func(*swarmWorld)
		dead    bool
	}{
		{"a task's", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.4"), Weight: 1}, []func(*swarmWorld){(*swarmWorld).tell}, false},
		{"nobody's", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.77"), Weight: 1}, []func(*swarmWorld){(*swarmWorld).tell}, true},
		{"another service's", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.8"), Weight: 1}, []func(*swarmWorld){(*swarmWorld).tell}, true},
		{"it gets nothing new", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.77")}, []func(*swarmWorld){(*swarmWorld).tell}, false},
		{"the engine was not asked since", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.77"), Weight: 1}, nil, false},
		{"the kernel has its row", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.77"), Weight: 1},
			[]func(*swarmWorld){func(w *swarmWorld) { w.addRows("10.0.1.77", n1); w.tell() }}, false},
		{"it is here, and new", loader.IPVSBackend{Address: netip.MustParseAddr("10.0.1.77"), Weight: 1}, []func(*swarmWorld){func(w *swarmWorld) {
			c := w.container("new")
			c.Endpoints = []Endpoint{{NetworkID: ov1ID, Network: "ov1", Addresses: addresses("10.0.1.77")}}
			w.PutContainer(c)
			w.tell()
		}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newSwarmWorld(t)
			w.lb.IPVS = []loader.VirtualService{{Mark: 256, Backends: []loader.IPVSBackend{
				{Address: netip.MustParseAddr("10.0.1.3"), Weight: 1}, tc.backend,
			}}}
			w.look()
			if v := w.network("ov1").VIPs[0]; len(v.Dead) > 0 {
				t.Errorf("too soon: %+v", v)
			}
			for _, step := range tc.steps {
				w.wait(time.Second)
				step(w)
				w.look()
				if v := w.network("ov1").VIPs[0]; len(v.Dead) > 0 {
					t.Errorf("too soon: %+v", v)
				}
			}
			w.wait(settled)
			want := []netip.Addr(nil)
			if tc.dead {
				want = []netip.Addr{tc.backend.Address}
			}
			if diff := cmp.Diff(want, w.network("ov1").VIPs[0].Dead, byComparison); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
