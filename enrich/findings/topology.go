// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// This file answers what several rules ask of a view: who is behind what.

// bridged is a network with its bridge, which is there.
type bridged struct {
	*enrich.Network
	link *loader.Link
}

// bridges are the networks of driver bridge by the ifindex of their bridge.
func (v *View) bridges() map[int]bridged {
	byName := make(map[string]*enrich.Network)
	for i := range v.Inventory.Networks {
		if n := &v.Inventory.Networks[i]; n.Driver == "bridge" && n.Bridge != "" {
			byName[n.Bridge] = n
		}
	}
	all := make(map[int]bridged)
	for i := range v.Host.Links {
		l := &v.Host.Links[i]
		if n := byName[l.Name]; n != nil && l.Kind == "bridge" {
			all[l.Index] = bridged{n, l}
		}
	}
	return all
}

// sortedBridges are the same, by name of the network.
func (v *View) sortedBridges() []bridged {
	return slices.SortedFunc(maps.Values(v.bridges()), func(a, b bridged) int { return strings.Compare(a.Name, b.Name) })
}

// ports are the links that have a master, by its ifindex.
func (v *View) ports() map[int][]*loader.Link {
	all := make(map[int][]*loader.Link)
	for i := range v.Host.Links {
		if l := &v.Host.Links[i]; l.Master != 0 {
			all[l.Master] = append(all[l.Master], l)
		}
	}
	return all
}

// link finds a link of the host by its ifindex; nil: it is gone.
func (v *View) link(index int) *loader.Link {
	for i := range v.Host.Links {
		if v.Host.Links[i].Index == index {
			return &v.Host.Links[i]
		}
	}
	return nil
}

// container finds a running one by its ID; nil: there is none.
func (v *View) container(id string) *enrich.LiveContainer {
	for i := range v.Inventory.Containers {
		if v.Inventory.Containers[i].ID == id {
			return &v.Inventory.Containers[i]
		}
	}
	return nil
}

// running are the containers by their ID, for who looks for many.
func (v *View) running() map[string]*enrich.LiveContainer {
	all := make(map[string]*enrich.LiveContainer, len(v.Inventory.Containers))
	for i := range v.Inventory.Containers {
		all[v.Inventory.Containers[i].ID] = &v.Inventory.Containers[i]
	}
	return all
}

// network finds one by its name; nil: there is none.
func (v *View) network(name string) *enrich.Network {
	for i := range v.Inventory.Networks {
		if v.Inventory.Networks[i].Name == name {
			return &v.Inventory.Networks[i]
		}
	}
	return nil
}

// engineName is how the engine's commands know a container: its name, or its ID if it is gone.
func (v *View) engineName(id string) string {
	if c := v.container(id); c != nil {
		return c.Name
	}
	return id[:min(len(id), 12)]
}

// eachEndpoint calls with every place of a running container on a network that is known.
func (v *View) eachEndpoint(call func(*enrich.LiveContainer, *enrich.Endpoint, *enrich.Network)) {
	networks := make(map[string]*enrich.Network)
	for i := range v.Inventory.Networks {
		networks[v.Inventory.Networks[i].ID] = &v.Inventory.Networks[i]
	}
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for j := range c.Endpoints {
			if n := networks[c.Endpoints[j].NetworkID]; n != nil {
				call(c, &c.Endpoints[j], n)
			}
		}
	}
}

// engineNames are sorted.
func (v *View) engineNames(ids []string) []string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		names = append(names, v.engineName(id))
	}
	slices.Sort(names)
	return names
}

// inDockerSubnet tells whether an address belongs to a bridge network. Those of macvlan and ipvlan are the LAN's.
func (v *View) inDockerSubnet(address netip.Addr) bool {
	for i := range v.Inventory.Networks {
		n := &v.Inventory.Networks[i]
		if n.Driver == "bridge" && contains(n.Subnets, address) {
			return true
		}
	}
	return false
}

// inContainersSubnet tells whether an address belongs to a network that only containers are on: of bridge networks, and
// overlays.
func (v *View) inContainersSubnet(address netip.Addr) bool {
	return slices.ContainsFunc(v.Inventory.Networks, func(n enrich.Network) bool {
		return n.Driver != "macvlan" && n.Driver != "ipvlan" && contains(n.Subnets, address)
	})
}

// onNetwork is a network as a subject.
func onNetwork(name string) Subject {
	return Subject{Identity: enrich.Identity{Network: name}, Scope: enrich.ScopeHost}
}

// of is a container as a subject.
func of(c *enrich.LiveContainer, network string, scope enrich.Scope) Subject {
	s := Subject{Identity: c.Identity, Scope: scope}
	s.Network = network
	return s
}

func contains(subnets []netip.Prefix, address netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(address) })
}

// hasFamily tells whether a network has a subnet of IPv4, or of IPv6.
func hasFamily(n *enrich.Network, ipv6 bool) bool {
	return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Addr().Is6() == ipv6 })
}

// gatewayMode is that of a family.
func gatewayMode(n *enrich.Network, ipv6 bool) string {
	if ipv6 {
		return n.GatewayMode6
	}
	return n.GatewayMode4
}
