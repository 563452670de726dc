// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"strings"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Inventory is what lives on the host at a moment.
type Inventory struct {
	Node       Node
	Containers []LiveContainer
	Networks   []Network
	// Services are the Swarm's. Empty on a node that is no manager.
	Services []LiveService
	// Unstarted are the containers whose last start failed for want of a port of the host.
	Unstarted []UnstartedContainer
	// ResolvConf is the host's own, nil where it is not known.
	ResolvConf *loader.ResolvConf
}

// LiveService is a Swarm service with its identity, which has neither a container nor a network.
type LiveService struct {
	Service
	Identity Identity
}

// LiveContainer is a running container with its identity, which has no network.
type LiveContainer struct {
	Container
	Identity Identity
	Networks []string // names, without those that have no device of the container's
	// ResolvConf is its own, nil where it is not known.
	ResolvConf *loader.ResolvConf
}

// Inventory returns all living containers and networks, sorted by name.
func (s *State) Inventory() Inventory {
	s.mu.Lock()
	defer s.mu.Unlock()
	inventory := Inventory{Node: s.node, Unstarted: slices.Clone(s.unstarted), ResolvConf: s.resolvConf(ofHost)}
	for i := range s.services {
		inventory.Services = append(inventory.Services, LiveService{s.services[i], s.services[i].identity()})
	}
	for _, m := range s.members {
		if !m.alive() || m.PID == 0 || m.Name == "" {
			continue
		}
		inventory.Containers = append(inventory.Containers, s.live(m))
	}
	attached := s.attached()
	for _, n := range s.networks {
		if n.gone.IsZero() {
			listed := n.Network
			listed.Attached = attached[n.ID]
			inventory.Networks = append(inventory.Networks, listed)
		}
	}
	slices.SortFunc(inventory.Unstarted, func(a, b UnstartedContainer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(inventory.Containers, func(a, b LiveContainer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(inventory.Networks, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return inventory
}

func (s *State) live(m *member) LiveContainer {
	live := LiveContainer{Container: m.Container, Identity: m.Identity, ResolvConf: s.resolvConf(m.ID)}
	live.Labels = s.labelsOf(m)
	for _, e := range m.Endpoints {
		if n := s.networks[e.NetworkID]; n != nil && (n.Bridge != "" || n.childOnly() || n.isOverlay()) {
			live.Networks = append(live.Networks, e.Network)
		}
	}
	slices.Sort(live.Networks)
	return live
}

// attached counts the containers that are configured to be on each network, by its ID: those that the last listing had,
// and those that have come since. What is gone counts for a minute more.
func (s *State) attached() map[string]int {
	ids := make(map[string]string) // a container that never ran knows its networks by name only
	for _, n := range s.networks {
		if n.gone.IsZero() {
			ids[n.Name] = n.ID
		}
	}
	type place struct{ network, container string }
	seen := make(map[place]bool)
	counts := make(map[string]int)
	count := func(container string, endpoints []Endpoint) {
		for _, e := range endpoints {
			at := place{first(e.NetworkID, ids[e.Network], e.Network), container}
			if !seen[at] {
				seen[at] = true
				counts[at.network]++
			}
		}
	}
	for id, endpoints := range s.attachments {
		count(id, endpoints)
	}
	for id, m := range s.members {
		count(id, m.Endpoints)
	}
	return counts
}
