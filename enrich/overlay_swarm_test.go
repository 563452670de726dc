// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
)

func TestSwarmInfo(t *testing.T) {
	got := newSwarmInfo(swarm.Info{
		LocalNodeState: swarm.LocalNodeStateActive, NodeID: "n", NodeAddr: "10.99.7.2",
		RemoteManagers: []swarm.Peer{{NodeID: "b", Addr: "10.99.7.3:2378"}, {NodeID: "a", Addr: "[fd00::1]:2377"}, {Addr: "manager:2377"}, {Addr: "0.0.0.0:2377"}},
		Cluster:        &swarm.ClusterInfo{DataPathPort: 5789},
	})
	want := swarmInfo{
		member: true, id: "n", address: n2, dataPort: 5789, managers: []swarmManager{
			{"b", netip.MustParseAddrPort("10.99.7.3:2378")}, {"a", netip.MustParseAddrPort("[fd00::1]:2377")},
		},
	}
	unexported := cmp.AllowUnexported(swarmInfo{}, swarmManager{}, swarmNode{})
	if diff := cmp.Diff(want, got, unexported, byComparison); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = newSwarmInfo(swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive, Cluster: &swarm.ClusterInfo{DataPathPort: 1 << 16}})
	if diff := cmp.Diff(swarmInfo{}, got, unexported, byComparison); diff != "" {
		t.Errorf("in no Swarm (-want +got):\n%s", diff)
	}
	nodes := newSwarmNodes([]swarm.Node{
		{ID: "b", Description: swarm.NodeDescription{Hostname: "n2"}, Status: swarm.NodeStatus{State: swarm.NodeStateDown, Addr: "10.99.7.2"}},
		{ID: "a", Status: swarm.NodeStatus{Addr: "0.0.0.0"}, ManagerStatus: &swarm.ManagerStatus{Addr: "10.99.7.1:2378"}},
		{ID: "c", Status: swarm.NodeStatus{Addr: "nowhere"}},
	})
	if diff := cmp.Diff([]swarmNode{
		{id: "a", address: n1, manager: netip.MustParseAddrPort("10.99.7.1:2378")}, {id: "b", name: "n2", state: "down", address: n2}, {id: "c"},
	}, nodes, unexported, byComparison); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

// What an engine cannot say right now stays as it is known; what it was in a Swarm that it has left does not.
func TestNodeOfEngineInTrouble(t *testing.T) {
	active := swarm.Info{
		LocalNodeState: swarm.LocalNodeStateActive, NodeID: "n", NodeAddr: "10.99.7.2", ControlAvailable: true,
		RemoteManagers: []swarm.Peer{{NodeID: "m", Addr: "10.99.7.1:2377"}}, Cluster: &swarm.ClusterInfo{ID: "s", DataPathPort: 5789},
	}
	working := Node{Name: "host", ID: "n", Address: "10.99.7.2", Role: roleManager, SwarmID: "s"}
	for _, tc := range []struct {
		name string
		next swarm.Info
		want Node
		kept bool
	}{
		{"no majority of managers", swarm.Info{
			LocalNodeState: swarm.LocalNodeStateActive, NodeID: "n", NodeAddr: "10.99.7.2", ControlAvailable: true, Cluster: &swarm.ClusterInfo{},
		}, working, true},
		{"starts", swarm.Info{LocalNodeState: swarm.LocalNodeStatePending}, working, true},
		{"locked", swarm.Info{LocalNodeState: swarm.LocalNodeStateLocked}, working, true},
		{"certificates have expired", swarm.Info{LocalNodeState: swarm.LocalNodeStateError, NodeAddr: "10.99.7.2"}, working, true},
		{"demoted", swarm.Info{LocalNodeState: swarm.LocalNodeStateActive, NodeID: "n", NodeAddr: "10.99.7.2"},
			Node{Name: "host", ID: "n", Address: "10.99.7.2", Role: roleWorker, SwarmID: "s"}, true},
		{"left", swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, Node{Name: "host"}, false},
		{"in another Swarm", swarm.Info{LocalNodeState: swarm.LocalNodeStateActive, NodeID: "o", NodeAddr: "10.99.7.2"},
			Node{Name: "host", ID: "o", Address: "10.99.7.2", Role: roleWorker}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			d := &Docker{state: w.State}
			d.takeNode(&system.Info{Name: "host", Swarm: active})
			w.setSwarmNodes([]swarmNode{{id: "m", name: "n1", address: n1}})
			w.PutNetwork(overlayOf(ov1ID, "ov1", "4097", "10.0.1.0/24"))
			w.setOverlay(ov1ID, newOverlayWord(readAnswer(t, "ov1-1.41"), w.now))
			d.takeNode(&system.Info{Name: "host", Swarm: tc.next})
			if diff := cmp.Diff(tc.want, w.Node()); diff != "" {
				t.Errorf("node (-want +got):\n%s", diff)
			}
			o := &w.overlays
			if kept := len(o.nodes) == 1 && o.info.dataPort == 5789 && len(o.info.managers) == 1 && o.words[ov1ID].isOn(); kept != tc.kept {
				t.Errorf("kept: %t; %+v, %d nodes", kept, o.info, len(o.nodes))
			}
		})
	}
}

// A manager without a majority cannot tell of services and nodes. Those that it told of do not lose their names.
func TestLossOfManagers(t *testing.T) {
	const nodes = `[{"ID":"` + managerID + `","Description":{"Hostname":"n1"},"Spec":{"Role":"manager"},"Status":{"State":"ready","Addr":"10.99.0.2"},
"ManagerStatus":{"Addr":"10.99.0.2:2377"}}]`
	e := newEngine(t, "1.41")
	answers := &swarmAnswers{services: swarmServices, gatewayBridge: gatewayBridgeNetwork}
	e.answerSwarm(answers)
	status := http.StatusOK
	e.change(func() {
		misbehave := e.misbehave
		e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
			if path != "/nodes" {
				return misbehave(path, w, r)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(map[bool]string{true: nodes, false: `{"message":"no leader"}`}[status == http.StatusOK]))
			return true
		}
	})
	s := follow(t, e)
	s.wantStatus(true)
	known := func() bool {
		c := s.Cluster()
		return len(s.Inventory().Services) == 2 && len(c.Peers) == 1 && c.Peers[0].Node == "n1" && c.Peers[0].State == "ready"
	}
	if !known() {
		t.Fatalf("services %d, cluster %+v", len(s.Inventory().Services), s.Cluster().Peers)
	}
	asked := e.asks("/nodes")
	e.change(func() {
		status, answers.status = http.StatusServiceUnavailable, http.StatusServiceUnavailable
		answers.services = `{"message":"rpc error: code = Unknown desc = The swarm does not have a leader."}`
	})
	e.event("node", "update", managerID, map[string]string{"name": "n1"})
	s.eventually("it is asked for nodes", func() bool { return e.asks("/nodes") > asked })
	s.wantQuiet(e)
	if !known() {
		t.Errorf("services %d, cluster %+v", len(s.Inventory().Services), s.Cluster().Peers)
	}
}

// wantQuiet waits until another event has been taken in.
func (s *session) wantQuiet(e *engine) {
	s.t.Helper()
	e.event("container", "create", "quiet", map[string]string{"name": "quiet"})
	s.eventually("an event is taken in", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.members["quiet"] != nil
	})
}

// Ports that a service publishes by itself, and those that it asks of the mesh in vain.
func TestServicePorts(t *testing.T) {
	port := func(port uint32, protocol network.IPProtocol, mode swarm.PortConfigPublishMode) swarm.PortConfig {
		return swarm.PortConfig{Protocol: protocol, PublishedPort: port, PublishMode: mode}
	}
	got := newServices([]swarm.Service{
		{Spec: swarm.ServiceSpec{Annotations: swarm.Annotations{Name: "a"}}, Endpoint: swarm.Endpoint{Ports: []swarm.PortConfig{
			port(80, "tcp", swarm.PortConfigPublishModeIngress), port(53, "udp", swarm.PortConfigPublishModeHost), port(81, "", ""), port(0, "tcp", ""),
		}}},
		{Spec: swarm.ServiceSpec{
			Annotations: swarm.Annotations{Name: "b"},
			EndpointSpec: &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR, Ports: []swarm.PortConfig{
				port(443, "tcp", swarm.PortConfigPublishModeIngress), port(53, "udp", swarm.PortConfigPublishModeHost),
			}},
		}},
	})
	want := []Service{
		{Name: "a", Mesh: []MeshPort{{80, "tcp"}, {81, "tcp"}}, HostPorts: []MeshPort{{53, "udp"}}},
		{Name: "b", Unmeshed: []MeshPort{{443, "tcp"}}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
