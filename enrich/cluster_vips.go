// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// addVirtualAddresses says which virtual addresses services have on a network, and who serves them here. In strange are noted the
// backends of whom nobody is known.
func (s *State) addVirtualAddresses(told *OverlayNetwork, strange map[backendAt]time.Time) {
	i := s.overlayIndex()
	marks := s.marks(told.ID)
	tasks := newTaskIndex(told.Endpoints)
	for at, identity := range i.vips {
		if at.networkID != told.ID {
			continue
		}
		vip := VirtualAddress{
			Identity: identity, Address: at.address, Tasks: tasks.of[Identity{Stack: identity.Stack, Service: identity.Service}],
		}
		if served := tasks.findVirtual(told.LoadBalancer, &vip, marks[at.address]); served != nil {
			vip.Served = true
			vip.Backends = slices.Clone(served.Backends)
			vip.Dead = s.deadBackends(told, &vip, strange)
		}
		told.VIPs = append(told.VIPs, vip)
	}
	slices.SortFunc(told.VIPs, func(a, b VirtualAddress) int { return a.Address.Compare(b.Address) })
}

// marks are the firewall marks by which IPVS knows the virtual addresses on a network. Each node has its own.
func (s *State) marks(networkID string) map[netip.Addr]uint32 {
	marks := make(map[netip.Addr]uint32)
	if word := s.overlays.words[networkID]; word != nil {
		for _, service := range word.services {
			if service.vip.IsValid() && service.mark != 0 {
				marks[service.vip] = service.mark
			}
		}
	}
	return marks
}

// taskIndex finds the tasks of services on a network.
type taskIndex struct {
	of map[Identity][]ClusterEndpoint // by the service's
	at map[netip.Addr]Identity
}

func newTaskIndex(endpoints []ClusterEndpoint) taskIndex {
	tasks := taskIndex{of: make(map[Identity][]ClusterEndpoint), at: make(map[netip.Addr]Identity)}
	for i := range endpoints {
		if e := &endpoints[i]; e.Service != "" {
			service := Identity{Stack: e.Stack, Service: e.Service}
			tasks.of[service] = append(tasks.of[service], *e)
			tasks.at[e.Address] = service
		}
	}
	return tasks
}

// findVirtual finds what IPVS has for a virtual address: by its mark, by itself, else by most of its tasks among the backends; nil:
// nothing.
func (t *taskIndex) findVirtual(balancer *loader.SandboxState, vip *VirtualAddress, mark uint32) *loader.VirtualService {
	if balancer == nil {
		return nil
	}
	for i := range balancer.IPVS {
		v := &balancer.IPVS[i]
		if v.Address.Addr() == vip.Address {
			return v
		}
		if mark != 0 && v.Mark == mark {
			if !t.isAnothers(v, vip) {
				return v
			}
			mark = 0
		}
	}
	var best *loader.VirtualService
	most := 0
	for i := range balancer.IPVS {
		v := &balancer.IPVS[i]
		if mark != 0 && v.Mark != 0 {
			continue // the engine says which mark, and it is not there
		}
		if common := t.common(v, vip); common > most {
			best, most = v, common
		}
	}
	return best
}

// isAnothers tells whether a mark leads to another service's tasks and none of this one's: then it was this one's before the engine
// started again, which numbers them from the beginning.
func (t *taskIndex) isAnothers(served *loader.VirtualService, vip *VirtualAddress) bool {
	return t.common(served, vip) == 0 && slices.ContainsFunc(served.Backends, func(b loader.IPVSBackend) bool {
		_, someones := t.at[b.Address]
		return someones
	})
}

// common counts a service's tasks among backends.
func (t *taskIndex) common(served *loader.VirtualService, vip *VirtualAddress) (common int) {
	for i := range served.Backends {
		if service, found := t.at[served.Backends[i].Address]; found && service == vip.service() {
			common++
		}
	}
	return common
}

func (v *VirtualAddress) service() Identity { return Identity{Stack: v.Stack, Service: v.Service} }

// backendAt is a backend of a virtual address.
type backendAt struct {
	networkID    string
	vip, backend netip.Addr
}

// deadBackends are those that get new connections and are nobody's: since before the engine was asked last, and for as long as rows
// may be on their way. It notes in strange since when those are there of whom nobody is known.
func (s *State) deadBackends(n *OverlayNetwork, vip *VirtualAddress, strange map[backendAt]time.Time) (dead []netip.Addr) {
	word, now := s.overlays.words[n.ID], s.config.Now()
	if !word.isOn() {
		return nil
	}
	for _, b := range vip.Backends {
		if b.Weight == 0 || slices.ContainsFunc(vip.Tasks, func(e ClusterEndpoint) bool { return e.Address == b.Address }) ||
			s.hasComeTo(n, b.Address) {
			continue
		}
		key := backendAt{n.ID, vip.Address, b.Address}
		since, seen := s.overlays.sandboxes.backends[key]
		if !seen {
			since = now
			word.pause = overlayPause
		}
		strange[key] = since
		word.want(now)
		if word.asked.After(since) && now.Sub(since) >= settled {
			dead = append(dead, b.Address)
		}
	}
	return dead
}

// hasComeTo tells whether somebody is at an address of whom the engine has not told yet: the kernel has a row for him if he is on
// another node, and he is a container if he is on this one.
func (s *State) hasComeTo(n *OverlayNetwork, address netip.Addr) bool {
	i, at := s.overlayIndex(), station{n.ID, address}
	if i.endpoints[at] != nil {
		return false
	}
	if m := i.members[at]; m != nil && m.alive() {
		return true
	}
	return n.Sandbox != nil && slices.ContainsFunc(n.Sandbox.Neighbours, func(row loader.Neighbour) bool {
		return row.Address == address && !row.Failed
	})
}

// missBackends has the engine asked again for networks on which IPVS spreads over somebody whom it has not told of. A task gets there
// when it is healthy, which may be long after it was started, and of which there is no event.
func (s *State) missBackends() {
	for _, state := range s.overlays.sandboxes.states {
		n := s.networkOf(&state.Sandbox)
		if n != nil && s.hasStrangeBackends(n.ID, state.IPVS) {
			s.missOverlay(n.ID)
		}
	}
}

func (s *State) hasStrangeBackends(networkID string, balanced []loader.VirtualService) bool {
	i := s.overlayIndex()
	return slices.ContainsFunc(balanced, func(v loader.VirtualService) bool {
		return slices.ContainsFunc(v.Backends, func(b loader.IPVSBackend) bool {
			return i.endpoints[station{networkID, b.Address}] == nil
		})
	})
}
