// SPDX-License-Identifier: Apache-2.0

package enrich

import "strings"

// Identity is whose a count is: the labels that everything carries which belongs to somebody. Empty where they do not
// apply. Equal identities (a task and its successor) are one and the same to every reader.
type Identity struct {
	Stack     string `json:"stack,omitempty"`     // Swarm stack or Compose project
	Service   string `json:"service,omitempty"`   // Swarm or Compose service; unique only with Stack
	Container string `json:"container,omitempty"` // a name that survives restarts
	Network   string `json:"network,omitempty"`   // Docker network name
}

// Scope is the kind of network namespace where something happened.
type Scope string

// The scopes. A packet of a container that is lost on the uplink has the container's identity and the host's scope.
const (
	ScopeContainer Scope = "container"
	ScopeHost      Scope = "host"
	ScopeOverlay   Scope = "overlay" // an overlay network's own, where its bridge and its VXLAN devices are
	ScopeUnknown   Scope = "unknown"
)

// Names that stand for many.
const (
	AdHoc    = "~adhoc"    // containers that nobody named: generated names, one-off runs
	External = "~external" // whoever is neither a container of this host nor a task of its Swarm
	Host     = "~host"     // the host itself
	Group    = "~group"    // multicast and broadcast
	// LoadBalancer is a node's load balancer of an overlay network, or its routing mesh: who is behind it, it hides.
	LoadBalancer = "~loadbalancer"
)

// Labels that Swarm and Compose put on containers.
const (
	labelStack          = "com.docker.stack.namespace"
	labelSwarmService   = "com.docker.swarm.service.name"
	labelSwarmTask      = "com.docker.swarm.task.name"
	labelSwarmNode      = "com.docker.swarm.node.id"
	labelComposeProject = "com.docker.compose.project"
	labelComposeService = "com.docker.compose.service"
	labelComposeNumber  = "com.docker.compose.container-number"
	labelComposeOneOff  = "com.docker.compose.oneoff"
)

// ContainerLabel says what the container label holds.
type ContainerLabel string

// Its choices.
const (
	ContainerByName    ContainerLabel = "name"
	ContainerByService ContainerLabel = "service" // the service alone, for hosts with very many containers
	ContainerNone      ContainerLabel = "none"
)

// identify derives a container's identity, without a network, from its name and labels. node is this node's name.
func identify(name string, labels map[string]string, node string, label ContainerLabel) Identity {
	identity := Identity{
		Stack:   first(labels[labelStack], labels[labelComposeProject]),
		Service: first(labels[labelSwarmService], labels[labelComposeService]),
	}
	identity.Service = strings.TrimPrefix(identity.Service, stackPrefix(labels))
	switch label {
	case ContainerNone:
	case ContainerByService:
		identity.Container = identity.Service
	default:
		identity.Container = containerName(name, labels, node)
	}
	return identity
}

// stackPrefix is what Swarm puts before a service's name, which the stack already says.
func stackPrefix(labels map[string]string) string {
	if stack := labels[labelStack]; stack != "" {
		return stack + "_"
	}
	return ""
}

// containerName finds a name that stays the same when the container is replaced.
func containerName(name string, labels map[string]string, node string) string {
	switch {
	case labels[labelSwarmTask] != "":
		return strings.TrimPrefix(taskName(labels, node), stackPrefix(labels))
	case strings.EqualFold(labels[labelComposeOneOff], "true"):
		return AdHoc
	case labels[labelComposeService] != "":
		number := first(labels[labelComposeNumber], "1")
		return labels[labelComposeProject] + "-" + labels[labelComposeService] + "-" + number
	case name == "" || isGenerated(name):
		return AdHoc
	}
	return name
}

// taskName turns service.slot.id into service.slot, and a global service's service.node-id.id into service.node.
func taskName(labels map[string]string, node string) string {
	service := labels[labelSwarmService]
	task := strings.TrimPrefix(labels[labelSwarmTask], service+".")
	slot, _, _ := strings.Cut(task, ".")
	if slot == labels[labelSwarmNode] && node != "" {
		slot = node
	}
	return service + "." + slot
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
