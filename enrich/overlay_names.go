// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"strings"
)

// This file names who is on other nodes. A manager knows everything; on a worker it is what gossip and the labels of the containers
// here tell.

// stackNames tell which stack a service is of: its name begins with the stack's.
type stackNames struct {
	of    map[string]string // by a service's whole name
	known []string          // longest first
}

// stacks learns stacks from services, as far as managers tell of them, and from the labels of containers and networks here.
func (s *State) stacks() stackNames {
	names := stackNames{of: make(map[string]string)}
	note := func(service, stack string) {
		if stack != "" && !slices.Contains(names.known, stack) {
			names.known = append(names.known, stack)
		}
		if service != "" {
			names.of[service] = stack
		}
	}
	for _, m := range s.members {
		if service := m.Labels[labelSwarmService]; service != "" {
			note(service, m.Labels[labelStack])
		}
	}
	for i := range s.services {
		note(s.services[i].Name, s.services[i].Labels[labelStack])
	}
	for _, n := range s.networks {
		note("", n.Labels[labelStack])
	}
	slices.SortFunc(names.known, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return names
}

// stack returns the stack of a service; "": it has none, or none that is known here.
func (n *stackNames) stack(service string) string {
	if stack, known := n.of[service]; known {
		return stack
	}
	for _, stack := range n.known {
		if strings.HasPrefix(service, stack+"_") {
			return stack
		}
	}
	return ""
}

// identity is a service's on a network, without a container.
func (n *stackNames) identity(service string, on *knownNetwork) Identity {
	identity := identify("", map[string]string{labelSwarmService: service, labelStack: n.stack(service)}, "", ContainerNone)
	identity.Network = on.Name
	return identity
}

// identifyTask derives the identity that a task or container has on its own node, as far as it can be known from here. The network
// is left out.
func (s *State) identifyTask(i *overlayIndex, n *knownNetwork, e *overlayEndpoint) Identity {
	if m := i.localMember(n, e); m != nil {
		return m.Identity
	}
	if e.service == "" {
		return identify(e.name, nil, "", s.config.ContainerLabel)
	}
	labels := map[string]string{
		labelSwarmService: e.service, labelSwarmTask: e.name, labelStack: i.stacks.stack(e.service),
	}
	node := ""
	if id := nodeOfTask(e.service, e.name); id != "" {
		labels[labelSwarmNode] = id
		node = s.nodeName(id, e.host)
	}
	return identify(e.name, labels, node, s.config.ContainerLabel)
}

// localMember finds the container here that an endpoint is of; nil: it is elsewhere, or not known yet.
func (i *overlayIndex) localMember(n *knownNetwork, e *overlayEndpoint) *member {
	m := i.members[station{n.ID, e.address}]
	if !e.local || m == nil || m.Name != e.name {
		return nil
	}
	return m
}

// idLength is how many digits the IDs of nodes, services and tasks have, which are of base 36.
const idLength = 25

// nodeOfTask returns the ID of the node in the name of a global service's task, service.node.task; "": it is another's, which has its
// slot there.
func nodeOfTask(service, task string) string {
	rest, found := strings.CutPrefix(task, service+".")
	id, _, more := strings.Cut(rest, ".")
	if !found || !more || len(id) != idLength || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		return ""
	}
	return id
}

// nodeName names a node as an operator would look for it: by its name, which managers know, and every node of itself; else by the
// address that tunnels to it are counted by; else by the beginning of its ID.
func (s *State) nodeName(id string, address netip.Addr) string {
	if id == s.node.ID && s.node.Name != "" {
		return s.node.Name
	}
	if node := s.overlays.nodeByID(id); node != nil && node.name != "" {
		return node.name
	}
	if address.IsValid() {
		return address.String()
	}
	return id[:min(shortID, len(id))]
}
