// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

func TestPeerInfo(t *testing.T) {
	s, m := newTestMetrics()
	c := clusterOf([]netip.Addr{otherNode, thirdNode})
	c.Peers[0].Node, c.Peers[0].Manager, c.Peers[0].State = "n2", true, "ready"
	m.SetCluster(c)
	s.wantShown(t, peerInfo, map[string]float64{"10.99.0.2,n2,manager,ready": 1, "10.99.0.3,,worker,": 1})
	c.Peers[0].State = "down"
	m.SetCluster(c)
	s.wantShown(t, peerInfo, map[string]float64{"10.99.0.2,n2,manager,down": 1, "10.99.0.3,,worker,": 1})
	m.SetCluster(&enrich.Cluster{})
	s.wantShown(t, peerInfo, map[string]float64{})
}

// endpointAt is somebody's place on another node or on this one.
func endpointAt(host netip.Addr, last byte) enrich.ClusterEndpoint {
	return enrich.ClusterEndpoint{
		Address: netip.AddrFrom4([4]byte{10, 0, 1, last}), MAC: [6]byte{2, 0x42, 10, 0, 1, last}, Host: host,
	}
}

func TestEntries(t *testing.T) {
	mac := func(last byte) [6]byte { return endpointAt(otherNode, last).MAC }
	full := &loader.SandboxState{
		FDB: []loader.FDBEntry{
			{MAC: mac(7), Peer: otherNode, Permanent: true}, {MAC: mac(8), Peer: thirdNode}, {MAC: mac(9)},
			{MAC: mac(66), Peer: thirdNode, Permanent: true}, // nobody's any more
		},
		Neighbours: []loader.Neighbour{
			{Address: netip.MustParseAddr("10.0.1.7"), MAC: mac(7), Confirmed: true}, {Address: netip.MustParseAddr("10.0.1.9"), MAC: mac(9), Failed: true},
			{Address: netip.MustParseAddr("10.0.1.8")}, {Address: netip.MustParseAddr("fd00::7"), MAC: mac(7), Confirmed: true},
			{Address: netip.MustParseAddr("10.0.1.66"), MAC: mac(66), Confirmed: true},
		},
	}
	here := endpointAt(selfNode, 2)
	here.Local = true
	endpoints := []enrich.ClusterEndpoint{
		endpointAt(otherNode, 7), endpointAt(thirdNode, 8), endpointAt(thirdNode, 8), here, endpointAt(netip.Addr{}, 3),
	}
	unreadable := *full
	unreadable.Errors = []error{errors.New("read nothing")}
	for _, tc := range []struct {
		name              string
		network           enrich.OverlayNetwork
		entries, expected map[string]float64
	}{
		{"one is missing", enrich.OverlayNetwork{Sandbox: full, Endpoints: endpoints, Known: true},
			map[string]float64{"shop,fdb": 1, "shop,neighbour": 1}, map[string]float64{"shop,fdb": 2, "shop,neighbour": 2}},
		{"alone", enrich.OverlayNetwork{Sandbox: &loader.SandboxState{}, Endpoints: endpoints[3:4], Known: true},
			map[string]float64{"shop,fdb": 0, "shop,neighbour": 0}, map[string]float64{"shop,fdb": 0, "shop,neighbour": 0}},
		{"the engine has not told", enrich.OverlayNetwork{Sandbox: full, Endpoints: endpoints[:1]},
			map[string]float64{}, map[string]float64{}},
		{"nobody here is on it", enrich.OverlayNetwork{Endpoints: endpoints, Known: true}, map[string]float64{}, map[string]float64{}},
		{"it could not be read", enrich.OverlayNetwork{Sandbox: &unreadable, Endpoints: endpoints, Known: true},
			map[string]float64{}, map[string]float64{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, m := newTestMetrics()
			tc.network.Name = "shop"
			m.SetCluster(&enrich.Cluster{Self: selfNode, Networks: []enrich.OverlayNetwork{tc.network}})
			s.wantShown(t, overlayEntries, tc.entries)
			s.wantShown(t, overlayExpected, tc.expected)
		})
	}
}

func TestAddresses(t *testing.T) {
	use := func(subnet string, available uint64) enrich.SubnetUse {
		return enrich.SubnetUse{Subnet: netip.MustParsePrefix(subnet), Used: 3, Available: available}
	}
	network := func(name string, use ...enrich.SubnetUse) enrich.OverlayNetwork {
		return enrich.OverlayNetwork{Network: enrich.Network{Name: name}, Use: use}
	}
	s, m := newTestMetrics()
	m.SetCluster(&enrich.Cluster{Self: selfNode, Networks: []enrich.OverlayNetwork{
		network("full", use("10.0.1.0/29", 0)), network("two", use("10.0.2.0/24", 5), use("10.0.3.0/24", 250)),
		network("both", use("10.0.4.0/24", 7), use("fd00::/64", 1<<63)), network("silent"),
	}})
	s.wantShown(t, networkAddresses, map[string]float64{"full": 0, "two": 255, "both": 7})
}

func TestIPVS(t *testing.T) {
	vip := enrich.VirtualAddress{
		Identity: enrich.Identity{Stack: "shop", Service: "web", Container: "never", Network: "never"}, Address: netip.MustParseAddr("10.0.1.2"),
		Tasks: []enrich.ClusterEndpoint{endpointAt(otherNode, 7), endpointAt(selfNode, 8), endpointAt(selfNode, 9)}, Served: true,
		Backends: []loader.IPVSBackend{
			{Address: netip.MustParseAddr("10.0.1.7"), Weight: 1, Active: 3, Inactive: 1}, {Address: netip.MustParseAddr("10.0.1.8"), Weight: 2},
			{Address: netip.MustParseAddr("10.0.1.9"), Active: 5}, {Address: netip.MustParseAddr("10.0.1.66"), Weight: 1, Inactive: 7},
		},
		Dead: []netip.Addr{netip.MustParseAddr("10.0.1.66")},
	}
	served := func(kind loader.SandboxKind) *loader.SandboxState {
		return &loader.SandboxState{Sandbox: loader.Sandbox{Kind: kind}}
	}
	for _, tc := range []struct {
		name     string
		network  enrich.OverlayNetwork
		at       string
		backends map[string]float64 // by state
	}{
		{"of a network", enrich.OverlayNetwork{LoadBalancer: served(loader.SandboxLoadBalancer), Known: true},
			"shop,web,,back,loadbalancer,10.0.1.2,", map[string]float64{"live": 2, "dead": 1, "draining": 1}},
		{"of the mesh", enrich.OverlayNetwork{LoadBalancer: served(loader.SandboxIngress), Known: true},
			"shop,web,,back,ingress,10.0.1.2,", map[string]float64{"live": 2, "dead": 1, "draining": 1}},
		{"it could not be read", enrich.OverlayNetwork{LoadBalancer: &loader.SandboxState{Errors: []error{errors.New("no")}}, Known: true}, "", nil},
		{"served nowhere here", enrich.OverlayNetwork{Known: true}, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, m := newTestMetrics()
			tc.network.Name, tc.network.VIPs = "back", []enrich.VirtualAddress{vip}
			m.SetCluster(&enrich.Cluster{Self: selfNode, Networks: []enrich.OverlayNetwork{tc.network}})
			backends, connections := map[string]float64{}, map[string]float64{}
			for state, n := range tc.backends {
				backends[tc.at+state] = n
			}
			if tc.at != "" {
				connections[tc.at+"active"], connections[tc.at+"inactive"] = 8, 8
			}
			s.wantShown(t, ipvsBackends, backends)
			s.wantShown(t, ipvsConnections, connections)
		})
	}
}

// A service that nobody serves any more has none: that is what there is to see.
func TestIPVSWithoutBackends(t *testing.T) {
	s, m := newTestMetrics()
	m.SetCluster(&enrich.Cluster{Self: selfNode, Networks: []enrich.OverlayNetwork{{
		Network: enrich.Network{Name: "back"}, LoadBalancer: &loader.SandboxState{},
		VIPs: []enrich.VirtualAddress{{Identity: enrich.Identity{Service: "web"}, Address: netip.MustParseAddr("10.0.1.2")}},
	}}})
	const at = ",web,,back,loadbalancer,10.0.1.2,"
	s.wantShown(t, ipvsBackends, map[string]float64{at + "live": 0, at + "dead": 0, at + "draining": 0})
}
