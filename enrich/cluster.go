// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Cluster returns what this node knows of its Swarm: the zero one if it is in none. Namespaces in it are those of SetSandboxes, not
// to be changed.
func (s *State) Cluster() Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.overlayIndex()
	if !i.self.IsValid() {
		return Cluster{}
	}
	cluster := Cluster{Self: i.self, Ports: s.overlays.ports(), Peers: i.swarmPeers()}
	endpoints, strange := make(map[string][]ClusterEndpoint), make(map[backendAt]time.Time)
	for _, e := range i.endpoints {
		endpoints[e.NetworkID] = append(endpoints[e.NetworkID], *e)
	}
	for id, n := range s.networks {
		if !n.isOverlay() || !n.gone.IsZero() {
			continue
		}
		slices.SortFunc(endpoints[id], func(a, b ClusterEndpoint) int { return a.Address.Compare(b.Address) })
		cluster.Networks = append(cluster.Networks, s.overlayNetwork(n, endpoints[id], strange))
	}
	s.overlays.sandboxes.backends = strange
	slices.SortFunc(cluster.Networks, func(a, b OverlayNetwork) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, state := range s.overlays.sandboxes.states {
		cluster.NoIPVS = cluster.NoIPVS || state.NoIPVS && state.Kind != loader.SandboxOverlay
	}
	return cluster
}

func (s *State) overlayNetwork(n *knownNetwork, endpoints []ClusterEndpoint, strange map[backendAt]time.Time) OverlayNetwork {
	word := s.overlays.words[n.ID]
	told := OverlayNetwork{
		Network: n.Network, VNIs: n.vnis(), Endpoints: endpoints, Known: word.isOn(),
		Sandbox: s.overlays.sandboxes.find(loader.SandboxOverlay, &n.Network),
	}
	balancer := loader.SandboxLoadBalancer
	if n.isMesh() {
		balancer = loader.SandboxIngress
	}
	told.LoadBalancer = s.overlays.sandboxes.find(balancer, &n.Network)
	if word != nil {
		told.Use = slices.Clone(word.use)
	}
	s.addFaults(&told)
	s.addVirtualAddresses(&told, strange)
	return told
}
