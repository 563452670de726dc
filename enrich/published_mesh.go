// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file tells which published ports are the routing mesh's, and of whom.

// The ports of the routing mesh that are learned from traffic are bounded in number, and forgotten that long after the last.
const (
	maxMeshed  = 1024
	meshMemory = time.Hour
)

// isMesh tells what the host sends on to the routing mesh.
func (s *State) isMesh(t *loader.Tracked) bool {
	return s.ingressSandbox.IsValid() && t.Reply.Source.Addr() == s.ingressSandbox && movesDestination(t)
}

// meshedPort is who serves a port of the routing mesh, as learned from a container of theirs.
type meshedPort struct {
	Identity
	containerID string
	at          time.Time
}

// meshService is who serves a port of the routing mesh, as far as this node can know.
func (s *State) meshService(port uint16, protocol uint8) (service Identity, known bool) {
	key := ingressPort{port, ProtocolName(protocol)}
	if service, told := s.ingressPorts[key]; told {
		return service, true
	}
	learned, known := s.pending.nat.meshed[key]
	return learned.Identity, known
}

// isMeshPort tells whether the routing mesh publishes a port right now. Of a port that was learned that is sure as long as a
// container of its service lives here: one that lives elsewhere, or no more, makes no difference that a worker sees.
func (s *State) isMeshPort(port ingressPort) bool {
	if _, told := s.ingressPorts[port]; told {
		return true
	}
	m := s.members[s.pending.nat.meshed[port].containerID]
	return m != nil && m.alive()
}

// meshPorts visits the ports that the routing mesh publishes right now. Some may come twice.
func (s *State) meshPorts() iter.Seq[ingressPort] {
	return func(yield func(ingressPort) bool) {
		for port := range s.ingressPorts {
			if !yield(port) {
				return
			}
		}
		for port := range s.pending.nat.meshed {
			if s.isMeshPort(port) && !yield(port) {
				return
			}
		}
	}
}

// learnMesh notes which service serves a port of the mesh, for nodes that Swarm does not tell: what comes from the mesh for
// the port is redirected to the task's own in the task's namespace.
func (s *State) learnMesh(p *placed) {
	if p.kind != Redirect || p.scope != ScopeContainer || !s.isOnMesh(p.owner, p.Original.Destination.Addr()) {
		return
	}
	key := ingressPort{p.Original.Destination.Port(), ProtocolName(p.Protocol)}
	pending := &s.pending.nat
	if pending.meshed == nil {
		pending.meshed = make(map[ingressPort]meshedPort)
	}
	last, known := pending.meshed[key]
	if !known && len(pending.meshed) >= maxMeshed {
		return
	}
	if last.containerID != p.owner.ID {
		pending.endpoints.outdate()
	}
	pending.meshed[key] = meshedPort{Identity{Stack: p.owner.Stack, Service: p.owner.Service}, p.owner.ID, s.config.Now()}
}

// forgetMeshed forgets ports of the routing mesh that nobody here has served for long.
func (s *State) forgetMeshed() {
	maps.DeleteFunc(s.pending.nat.meshed, func(_ ingressPort, m meshedPort) bool {
		return s.config.Now().Sub(m.at) > meshMemory
	})
}

// isOnMesh tells whether an address is a task's on the ingress network: the only overlay network that Docker makes itself.
func (s *State) isOnMesh(m *member, address netip.Addr) bool {
	return slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool {
		n := s.networks[e.NetworkID]
		return n != nil && n.isOverlay() && n.Predefined && slices.Contains(e.Addresses, address)
	})
}

// intoMesh is of the service alone: which of its tasks serves a connection is chosen in the mesh, and it may be on another
// node.
func (s *State) intoMesh(c *PublishedConnection) {
	c.Scope = ScopeIngress
	c.Identity, _ = s.meshService(c.Port, c.NATEvent.Protocol)
	c.Mechanism = IngressMesh
}

// perhapsMesh is a connection that a rule sends on to somebody on the gateway bridge: the routing mesh, if it has that port,
// or a container that nobody has told of. Nothing is said of the latter, since the one loses every client's address and the
// other none.
func (s *State) perhapsMesh(c *PublishedConnection) bool {
	if _, known := s.meshService(c.Port, c.NATEvent.Protocol); !known {
		s.pending.nat.maybeMesh++
		return false
	}
	s.intoMesh(c)
	return true
}
