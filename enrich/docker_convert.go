// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// This file turns what the engine says into what the rest of the agent reads. Engines from API 1.41 to 1.52 say it in the
// same places; older ones leave out what is newer than they are.

// sketch is what the event of its creation says of a container, which may be all that is ever to be had of one that
// lives for a moment.
func sketch(e events.Message) Container {
	return Container{
		ID:     e.Actor.ID,
		Name:   e.Actor.Attributes["name"],
		Image:  e.Actor.Attributes["image"],
		Labels: e.Actor.Attributes, // Docker puts all labels among them
	}
}

// isRunning tells the states in which a container has a namespace of its own: what a listing without All consists of.
func isRunning(state container.ContainerState) bool {
	switch state {
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		return true
	}
	return false
}

// attachments are the places on networks that containers are configured for, whether they run or not.
func attachments(all []container.Summary) map[string][]Endpoint {
	configured := make(map[string][]Endpoint, len(all))
	for _, c := range all {
		if c.NetworkSettings != nil {
			configured[c.ID] = newEndpoints(c.NetworkSettings.Networks)
		}
	}
	return configured
}

// newListed is what the list of containers says of one: no process and no namespace.
func newListed(c container.Summary) Container {
	out := Container{ID: c.ID, Image: c.Image, Labels: c.Labels, NetworkMode: c.HostConfig.NetworkMode, Running: true}
	if c.Health != nil {
		out.Health = newHealth(c.Health.Status)
	}
	if len(c.Names) > 0 {
		out.Name = strings.TrimPrefix(c.Names[0], "/")
	}
	if c.NetworkSettings != nil {
		out.Endpoints = newEndpoints(c.NetworkSettings.Networks)
		nameEndpoints(&out)
	}
	for _, p := range c.Ports {
		if p.PublicPort != 0 {
			out.Published = append(out.Published, newPublished(p.IP, p.PublicPort, p.PrivatePort, p.Type))
		}
	}
	slices.SortFunc(out.Published, comparePublished)
	return out
}

func newContainer(c container.InspectResponse) Container {
	out := Container{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), ResolvConfPath: c.ResolvConfPath}
	if c.Config != nil {
		out.Image = c.Config.Image
		out.Labels = c.Config.Labels
		out.Hostname, out.Domain = c.Config.Hostname, c.Config.Domainname
	}
	if c.HostConfig != nil {
		out.NetworkMode = string(c.HostConfig.NetworkMode)
		out.DNSServers, out.DNSSearch, out.DNSOptions = c.HostConfig.DNS, c.HostConfig.DNSSearch, c.HostConfig.DNSOptions
	}
	if c.State != nil {
		out.PID = c.State.Pid
		out.Running = c.State.Running
		if health := c.State.Health; health != nil {
			out.Health = newHealth(health.Status)
		}
		// Zero, in year 1, for a container that never ran.
		if started, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err == nil && started.Year() > 1 {
			out.StartedAt = started
		}
	}
	if c.NetworkSettings == nil {
		return out
	}
	out.SandboxKey = c.NetworkSettings.SandboxKey
	out.Endpoints = newEndpoints(c.NetworkSettings.Networks)
	nameEndpoints(&out)
	out.Published = newPorts(c.NetworkSettings.Ports)
	if c.HostConfig != nil {
		linkDefaultBridge(out.Endpoints, c.HostConfig.Links)
	}
	return out
}

// healthy is the Health of a container whose health check finds it well.
const healthy = string(container.Healthy)

func newHealth(status container.HealthStatus) string {
	if status == container.NoHealthcheck {
		return ""
	}
	return string(status)
}

func newEndpoints(networks map[string]*network.EndpointSettings) (endpoints []Endpoint) {
	for name, e := range networks {
		if e != nil {
			endpoints = append(endpoints, newEndpoint(name, e))
		}
	}
	return endpoints
}

func newEndpoint(name string, e *network.EndpointSettings) Endpoint {
	out := Endpoint{NetworkID: e.NetworkID, Network: name, Links: linked(e.Links)}
	out.Names = e.DNSNames
	if len(out.Names) == 0 {
		out.Names = slices.Clone(e.Aliases)
	}
	copy(out.MAC[:], e.MacAddress)
	for _, a := range []netip.Addr{e.IPAddress, e.GlobalIPv6Address} {
		if a.IsValid() && !a.IsUnspecified() {
			out.Addresses = append(out.Addresses, a.Unmap())
		}
	}
	return out
}

// shortID is how many digits of its ID the engine's resolver serves as a container's name.
const shortID = 12

// nameEndpoints completes what a container is called on its networks. Engines before 25 leave out its name and list as
// aliases what they add to those that were asked for: the short ID and the host name. Newer ones list all as DNSNames.
func nameEndpoints(c *Container) {
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		if !container.NetworkMode(e.Network).IsUserDefined() {
			e.Names = nil
			continue
		}
		for _, name := range []string{c.Name, c.ID[:min(shortID, len(c.ID))]} {
			if name != "" && !slices.Contains(e.Names, name) {
				e.Names = append(e.Names, name)
			}
		}
	}
}

// defaultBridge is the name of the network of containers that chose none. Its links are the container's; those of other
// networks are the endpoint's.
const defaultBridge = "bridge"

func linkDefaultBridge(endpoints []Endpoint, links []string) {
	for i := range endpoints {
		if endpoints[i].Network == defaultBridge && endpoints[i].Links == nil {
			endpoints[i].Links = linked(links)
		}
	}
}

// linked returns the names of the containers that links lead to: of db:alias as it was asked for, and of
// /db:/self/alias as the engine keeps it.
func linked(links []string) (names []string) {
	for _, l := range links {
		name, _, _ := strings.Cut(l, ":")
		names = append(names, strings.TrimPrefix(name, "/"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// newPorts lists what is published. An engine lists a port that the image exposes and nobody published, too: without
// bindings.
func newPorts(ports network.PortMap) (published []PublishedPort) {
	for port, bindings := range ports {
		for _, b := range bindings {
			host, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil && b.HostPort != "" {
				continue
			}
			published = append(published, newPublished(b.HostIP, uint16(host), port.Num(), string(port.Proto())))
		}
	}
	slices.SortFunc(published, comparePublished)
	return published
}

// newPublished takes no address for all of IPv4's: engines before 20.10 said so.
func newPublished(address netip.Addr, host, container uint16, protocol string) PublishedPort {
	if !address.IsValid() {
		address = netip.IPv4Unspecified()
	}
	return PublishedPort{Host: netip.AddrPortFrom(address.Unmap(), host), Container: container, Protocol: protocol}
}

func comparePublished(a, b PublishedPort) int {
	return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Protocol, b.Protocol), a.Host.Compare(b.Host))
}

// Options of the bridge, overlay, macvlan and ipvlan drivers.
const (
	optionBridgeName    = "com.docker.network.bridge.name"
	optionDefaultBridge = "com.docker.network.bridge.default_bridge"
	optionICC           = "com.docker.network.bridge.enable_icc"
	optionMasquerade    = "com.docker.network.bridge.enable_ip_masquerade"
	optionGatewayMode4  = "com.docker.network.bridge.gateway_mode_ipv4"
	optionGatewayMode6  = "com.docker.network.bridge.gateway_mode_ipv6"
	optionTrusted       = "com.docker.network.bridge.trusted_host_interfaces"
	optionMTU           = "com.docker.network.driver.mtu"
	optionVNI           = "com.docker.network.driver.overlay.vxlanid_list"
	optionParent        = "parent"
)

// gatewayBridge is the network by which an overlay's containers reach the outside.
const gatewayBridge = "docker_gwbridge"

func newNetwork(n network.Network) Network {
	out := Network{
		ID: n.ID, Name: n.Name, Driver: n.Driver, Scope: n.Scope, Internal: n.Internal,
		MTU: n.Options[optionMTU], VNI: n.Options[optionVNI], Parent: n.Options[optionParent],
		Created: n.Created, Predefined: isPredefined(n), ICC: true,
	}
	if len(n.Labels) > 0 {
		out.Labels = n.Labels
	}
	_, out.Encrypted = n.Options["encrypted"]
	if n.Driver == "bridge" {
		out.Bridge = first(n.Options[optionBridgeName], "br-"+n.ID[:min(12, len(n.ID))])
		out.ICC = !isOff(n.Options[optionICC])
		out.Masquerade = !isOff(n.Options[optionMasquerade])
		out.Trusted = n.Options[optionTrusted]
		out.GatewayMode4, out.GatewayMode6 = n.Options[optionGatewayMode4], n.Options[optionGatewayMode6]
	}
	for _, c := range n.IPAM.Config {
		if c.Subnet.IsValid() {
			out.Subnets = append(out.Subnets, c.Subnet)
		}
		if c.Gateway.IsValid() {
			out.Gateways = append(out.Gateways, c.Gateway.Unmap())
		}
	}
	return out
}

func isPredefined(n network.Network) bool {
	switch {
	case n.Ingress, n.Name == gatewayBridge, n.Driver == "host", n.Driver == "null":
		return true
	}
	return n.Name == defaultBridge || n.Options[optionDefaultBridge] == "true"
}

// isOff tells whether an option is there and says no. Without it both of the bridge driver's switches are on.
func isOff(option string) bool {
	on, err := strconv.ParseBool(option)
	return err == nil && !on
}
