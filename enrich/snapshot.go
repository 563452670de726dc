// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"strings"
)

// Inventory is what lives on the host at a moment.
type Inventory struct {
	Node       Node
	Containers []LiveContainer
	Networks   []Network
}

// LiveContainer is a running container with its identity, which has no network.
type LiveContainer struct {
	Container
	Identity Identity
	Networks []string // names, without those that have no device of the container's
}

// Inventory returns all living containers and networks, sorted by name.
func (s *State) Inventory() Inventory {
	s.mu.Lock()
	defer s.mu.Unlock()
	inventory := Inventory{Node: s.node}
	for _, m := range s.members {
		if !m.alive() || m.PID == 0 || m.Name == "" {
			continue
		}
		inventory.Containers = append(inventory.Containers, s.live(m))
	}
	for _, n := range s.networks {
		if n.gone.IsZero() {
			inventory.Networks = append(inventory.Networks, n.Network)
		}
	}
	slices.SortFunc(inventory.Containers, func(a, b LiveContainer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(inventory.Networks, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return inventory
}

func (s *State) live(m *member) LiveContainer {
	live := LiveContainer{Container: m.Container, Identity: m.Identity}
	for _, e := range m.Endpoints {
		if n := s.networks[e.NetworkID]; n != nil && (n.Bridge != "" || n.childOnly()) {
			live.Networks = append(live.Networks, e.Network)
		}
	}
	slices.Sort(live.Networks)
	return live
}
