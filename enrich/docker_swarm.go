// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"context"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// ingressEndpoint is where the routing mesh's namespace is among the containers of the networks that it is on.
const ingressEndpoint = "ingress-sbox"

// swarmPause is how long traffic that may be of the routing mesh waits at least before the engine is asked again where that is.
const swarmPause = 10 * time.Second

// Service is what a Swarm manager says of a service. Others do not know.
type Service struct {
	ID     string
	Name   string // with its stack's
	Labels map[string]string
	Mesh   []MeshPort
	// HostPorts are published without the mesh (mode=host), by those nodes only that have a task.
	HostPorts []MeshPort
	// Unmeshed are asked of the mesh and not published: the service has no virtual address (endpoint mode dnsrr).
	Unmeshed []MeshPort
	// Networks are those that its tasks are on, without the routing mesh's.
	Networks []ServiceNetwork
	Running  int // tasks in the whole Swarm, when the engine was last asked
}

// ServiceNetwork is a service's place on a network.
type ServiceNetwork struct {
	NetworkID string
	Aliases   []string   // names that the engine's resolver serves there beside the service's own
	VIP       netip.Addr // its virtual address there; not valid: its tasks' addresses are served
}

// MeshPort is a port that a service publishes: of every node of the Swarm if the routing mesh does it.
type MeshPort struct {
	Port     uint16
	Protocol string // tcp, udp, sctp
}

// identity is the stack and service that its containers have too.
func (s *Service) identity() Identity {
	labels := map[string]string{labelStack: s.Labels[labelStack], labelSwarmService: s.Name}
	return identify("", labels, "", ContainerNone)
}

// listSwarm takes in what Swarm makes of this node, if it is in one by now. What cannot be asked for stays as it is known.
func (d *Docker) listSwarm(ctx context.Context) {
	_, _ = d.askNode(ctx) // a node may join a Swarm and leave it without an event
	if d.state.Node().Role == "" {
		d.state.SetServices(nil)
		d.state.SetIngressSandbox(netip.Addr{})
		return
	}
	d.listGatewayBridge(ctx)
	d.listServices(ctx)
	d.listNodes(ctx)
}

// listGatewayBridge asks for docker_gwbridge and who is on it. No event tells of either: the engine makes it when somebody first
// needs it.
func (d *Docker) listGatewayBridge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.NetworkInspect(ctx, gatewayBridge, client.NetworkInspectOptions{})
	if err == nil {
		d.state.PutNetwork(newNetwork(result.Network.Network))
	}
	if err == nil || errdefs.IsNotFound(err) {
		d.state.SetIngressSandbox(result.Network.Containers[ingressEndpoint].IPv4Address.Addr())
		d.state.setGatewayLegs(newGatewayLegs(result.Network.Containers))
	}
}

// newGatewayLegs are the places on docker_gwbridge by container ID. Containers do not say themselves that they are on it.
func newGatewayLegs(containers map[string]network.EndpointResource) map[string]Endpoint {
	legs := make(map[string]Endpoint, len(containers))
	for id, c := range containers {
		leg := Endpoint{Network: gatewayBridge, Addresses: []netip.Addr{c.IPv4Address.Addr()}}
		if mac := c.MacAddress; len(mac) == len(leg.MAC) {
			copy(leg.MAC[:], mac)
		}
		legs[id] = leg
	}
	return legs
}

// listServices asks for all services. Only a manager answers, and only as long as managers have a majority: until they have it
// again, what they said last holds. One that was a manager and is none any more would know nothing of what comes.
func (d *Docker) listServices(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.ServiceList(ctx, client.ServiceListOptions{Status: true})
	if err == nil || errdefs.IsUnavailable(err) && d.state.Node().Role == roleWorker {
		d.state.SetServices(newServices(result.Items))
	}
}

// listNodes asks for all nodes. Only a manager answers; what was said last holds.
func (d *Docker) listNodes(ctx context.Context) {
	if d.state.Node().Role != roleManager {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.NodeList(ctx, client.NodeListOptions{})
	if err == nil {
		d.state.setSwarmNodes(newSwarmNodes(result.Items))
	}
}

func newServices(listed []swarm.Service) []Service {
	services := make([]Service, 0, len(listed))
	for _, s := range listed {
		service := Service{ID: s.ID, Name: s.Spec.Name, Labels: s.Spec.Labels}
		service.Mesh, service.HostPorts = splitPorts(s.Endpoint.Ports)
		if spec := s.Spec.EndpointSpec; spec != nil && spec.Mode == swarm.ResolutionModeDNSRR {
			service.Unmeshed, _ = splitPorts(spec.Ports)
		}
		service.Networks = newServiceNetworks(&s)
		if s.ServiceStatus != nil {
			service.Running = int(min(s.ServiceStatus.RunningTasks, math.MaxInt32))
		}
		services = append(services, service)
	}
	slices.SortFunc(services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return services
}

// splitPorts tells the published ports of the routing mesh from those of the nodes with a task.
func splitPorts(ports []swarm.PortConfig) (mesh, host []MeshPort) {
	for _, p := range ports {
		if p.PublishedPort == 0 || p.PublishedPort >= 1<<16 {
			continue
		}
		port := MeshPort{uint16(p.PublishedPort), first(string(p.Protocol), string(network.TCP))}
		if p.PublishMode == swarm.PortConfigPublishModeHost {
			host = append(host, port)
		} else { // engines do not always say which mode, if it is the usual one
			mesh = append(mesh, port)
		}
	}
	return mesh, host
}

func newServiceNetworks(s *swarm.Service) (networks []ServiceNetwork) {
	for _, n := range s.Spec.TaskTemplate.Networks {
		at := ServiceNetwork{NetworkID: n.Target, Aliases: n.Aliases}
		for _, vip := range s.Endpoint.VirtualIPs {
			if vip.NetworkID == n.Target {
				at.VIP = vip.Addr.Addr().Unmap()
			}
		}
		networks = append(networks, at)
	}
	return networks
}

// setGatewayLegs says which places containers have on docker_gwbridge, by their IDs: all that there are.
func (s *State) setGatewayLegs(legs map[string]Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gatewayLegs = legs
	s.indexed = nil
}

// SetIngressSandbox says which address on docker_gwbridge the routing mesh has on this node; the zero one: none is known.
func (s *State) SetIngressSandbox(address netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ingressSandbox = address.Unmap()
}

// wantSwarm has the engine asked for the routing mesh's address, now and then.
func (s *State) wantSwarm() {
	now := s.config.Now()
	if now.Sub(s.swarmAsked) < swarmPause {
		return
	}
	s.swarmAsked = now
	select {
	case s.swarmWanted <- struct{}{}:
	default: // it is about to be
	}
}

// SetServices says which services the Swarm has; none: there is no Swarm, or this node cannot know.
func (s *State) SetServices(services []Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services = services
	s.tasks.keep(services)
	s.ingressPorts = make(map[ingressPort]Identity)
	s.pending.nat.endpoints.outdate()
	s.pending.dns.names.outdate()
	for i := range services {
		for _, p := range services[i].Mesh {
			s.ingressPorts[ingressPort(p)] = services[i].identity()
		}
	}
}

// ownLabels begin what an operator tells this program by labels.
const ownLabels = "bridgewatch."

// labelsOf are a container's labels, with those for this program that its Swarm service has as a whole.
func (s *State) labelsOf(m *member) map[string]string {
	i := slices.IndexFunc(s.services, func(service Service) bool {
		return service.Name == m.Labels[labelSwarmService]
	})
	if i < 0 {
		return m.Labels
	}
	labels := make(map[string]string)
	for label, value := range s.services[i].Labels {
		if strings.HasPrefix(label, ownLabels) {
			labels[label] = value
		}
	}
	if len(labels) == 0 {
		return m.Labels
	}
	maps.Copy(labels, m.Labels)
	return labels
}
