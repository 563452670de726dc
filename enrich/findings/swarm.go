// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// swarmRules are about what Swarm makes of a node, and what nodes say to each other.
func swarmRules() []rule {
	return slices.Concat(swarmPortRules(), []rule{
		{
			Definition: Definition{
				ID: "subnet-exhausted", Severity: Warning,
				Title:   "A network of the Swarm has hardly any addresses left: new tasks will not start.",
				Remedy:  "Make a network with a larger subnet (docker network create --driver overlay --subnet) and move services to it: a subnet cannot be changed. Each task, each service with a virtual address and each node on the network takes one.",
				Confirm: "docker network inspect --verbose {network}",
				Basis:   "how many addresses of a subnet are in use, and how many are free, as the engine says (API 1.52); where it does not, the tasks, virtual addresses and load balancers that it lists, which are at most as many",
			},
			after: leave,
			find:  exhausted,
		},
		{
			Definition: Definition{
				ID: "vxlan-leak", Severity: Warning,
				Title:   "A VXLAN device of an overlay network is left over: the network's next container on this node may not start.",
				Remedy:  "Delete what is left over: ip link delete DEVICE in the host's namespace, or unmount and remove the namespace's file. Then restart the engine. Until then it fails with \"error creating vxlan interface: file exists\".",
				Confirm: "ip -d link show type vxlan",
				Basis:   "devices that the engine makes for an overlay, left in the host's namespace for two minutes; namespaces of overlays in its folder whose network it does not know; and two devices with one VNI",
			},
			after: swept,
			find:  leakedVXLANs,
		},
		{
			Definition: Definition{
				ID: "host-mode-node", Severity: Info,
				Title:   "A port that is published with mode=host is asked for on a node on which its service has no task.",
				Remedy:  "With mode=host only nodes with a task answer. Let clients and load balancers ask those, run the service on each node (mode global), or publish the port through the mesh.",
				Confirm: "docker service ps --filter desired-state=running {service}",
				Basis:   "packets for the port of a service that is published with mode=host, that no socket took on this node; known on managers",
			},
			find: hostModeElsewhere,
		},
		{
			Definition: Definition{
				ID: "dnsrr-no-mesh", Severity: Info,
				Title:   "A service with DNS round robin asks for ports of the routing mesh, which it cannot have.",
				Remedy:  "The mesh needs a virtual address. Publish the ports with mode=host, or let the service have one (--endpoint-mode vip).",
				Confirm: "docker service inspect --format '{{json .Spec.EndpointSpec}}' {service}",
				Basis:   "the endpoint mode and the published ports of the service's specification; known on managers",
			},
			find: unmeshed,
		},
		{
			Definition: Definition{
				ID: "gwbridge", Severity: Warning,
				Title:   "The bridge docker_gwbridge, by which tasks reach the outside and published ports reach them, is missing or full.",
				Remedy:  "Make it anew with a subnet that nothing else uses and that is large enough: drain the node, let it leave the Swarm, remove the network docker_gwbridge, create it (docker network create --subnet SUBNET --opt com.docker.network.bridge.name=docker_gwbridge docker_gwbridge), and join again.",
				Confirm: "docker network inspect docker_gwbridge",
				Basis:   "the engine's networks and the host's links, on a node of a Swarm that has the mesh or containers on overlay networks; and the ports of the bridge beside the addresses of its subnet",
			},
			after: leave,
			find:  gatewayBridgeBroken,
		},
		{
			Definition: Definition{
				ID: "ingress-unlisted-port", Severity: Info,
				Title:   "Packets for a task's address on the ingress network are dropped, for a port that it does not publish.",
				Remedy:  "Docker lets only published ports through there. Attach whoever asks to an overlay network of the service's, and use its name.",
				Confirm: "iptables-save -c",
				Basis:   "packets that netfilter dropped in a task's namespace, to or from its address on the ingress network",
			},
			inside: true,
			find:   losing("ingress-unlisted-port", perMinute),
		},
	})
}

// scarce is what part of a subnet must be in use, in percent.
const scarce = 90

// exhausted finds networks of the Swarm with a subnet that is nearly full.
func exhausted(v *View) []hit {
	var hits []hit
	for i := range v.Cluster.Networks {
		n := &v.Cluster.Networks[i]
		uses, told := n.Use, "the engine"
		if len(uses) == 0 && n.Known {
			uses, told = countedUse(n), "what is listed on the network, which may be less"
		}
		for _, u := range uses {
			all := u.Used + u.Available
			if all < u.Used || all == 0 || u.Used < all/100*scarce+all%100*scarce/100 { // the first: as many as IPv6 has
				continue
			}
			hits = append(hits, hit{
				subject: Subject{Identity: enrich.Identity{Network: n.Name}, Scope: enrich.ScopeHost, Object: u.Subnet.String()},
				evidence: []Fact{
					text("subnet", u.Subnet.String()), number("addresses in use", float64(u.Used), fmt.Sprintf("of %d", all)),
					number("addresses free", float64(u.Available), ""), text("by", told),
				},
			})
		}
	}
	return hits
}

// minHostBits is that of the smallest subnet whose use is counted: in smaller ones there are few to begin with.
const minHostBits = 3

// countedUse is how full the IPv4 subnets of a network are at least: who is known to be there, and the gateway. The first address
// and the last are nobody's.
func countedUse(n *enrich.OverlayNetwork) (uses []enrich.SubnetUse) {
	taken := make(map[netip.Addr]bool)
	for _, e := range n.Endpoints {
		taken[e.Address] = true
	}
	for i := range n.VIPs {
		taken[n.VIPs[i].Address] = true
	}
	for _, g := range n.Gateways {
		taken[g] = true
	}
	for _, subnet := range n.Subnets {
		bits := 32 - subnet.Bits()
		if !subnet.Addr().Is4() || bits < minHostBits {
			continue
		}
		use := enrich.SubnetUse{Subnet: subnet}
		for a := range taken {
			if subnet.Contains(a) {
				use.Used++
			}
		}
		usable := uint64(1)<<bits - 2
		use.Available = usable - min(use.Used, usable)
		uses = append(uses, use)
	}
	return uses
}

// Names that the engine gives: to a VXLAN device until it is in its network's namespace, with the VNI in hexadecimal digits, and
// to that namespace's file, with the beginning of the network's ID.
var (
	vxlanName          = regexp.MustCompile(`^vx-([0-9a-f]{6})-[0-9a-z]{5}$`)
	overlaySandboxName = regexp.MustCompile(`^[0-9]+-([0-9a-z]{10})$`)
)

// swept is how long an engine that was killed may take, from when it is back, to take away what it had left: it looks each minute.
const swept = 2 * time.Minute

func leakedVXLANs(v *View) []hit {
	return slices.Concat(v.vxlansOnHost(), v.strayOverlays(), v.sharedVNIs())
}

// vxlansOnHost finds devices that the engine has made and not taken away.
func (v *View) vxlansOnHost() (hits []hit) {
	for i := range v.Host.Links {
		l := &v.Host.Links[i]
		if m := vxlanName.FindStringSubmatch(l.Name); m != nil && l.Kind == "vxlan" {
			vni, _ := strconv.ParseUint(m[1], 16, 32) // six digits
			hits = append(hits, leakHit(l.Name, text("device", l.Name), number("VNI", float64(vni), "")))
		}
	}
	return hits
}

func leakHit(object string, evidence ...Fact) hit {
	return hit{subject: Subject{Scope: enrich.ScopeHost, Object: object}, evidence: evidence}
}

// strayOverlays finds namespaces of overlay networks that the engine does not know any more.
func (v *View) strayOverlays() (hits []hit) {
	if !v.Listed || !v.Cluster.Self.IsValid() {
		return nil
	}
	for _, file := range v.Host.Sandboxes {
		m := overlaySandboxName.FindStringSubmatch(path.Base(file))
		if m == nil || slices.ContainsFunc(v.Inventory.Networks, func(n enrich.Network) bool { return strings.HasPrefix(n.ID, m[1]) }) {
			continue
		}
		h := leakHit(file, text("namespace", file), text("network", "none that the engine knows"))
		h.confirm, h.fill = "nsenter --net={sandbox} ip -d link show type vxlan", map[string]string{"sandbox": file}
		hits = append(hits, h)
	}
	return hits
}

// sharedVNIs finds VNIs of which there are two devices in networks' namespaces.
func (v *View) sharedVNIs() (hits []hit) {
	first := make(map[uint32]string)
	for i := range v.Cluster.Networks {
		s := v.Cluster.Networks[i].Sandbox
		if s == nil {
			continue
		}
		for _, x := range s.VXLANs {
			here := s.Path + " " + x.Name
			if other, taken := first[x.VNI]; taken {
				h := leakHit(here, number("VNI", float64(x.VNI), ""), text("devices", other+", "+here))
				h.confirm, h.fill = "nsenter --net={sandbox} ip -d link show type vxlan", map[string]string{"sandbox": s.Path}
				hits = append(hits, h)
				continue
			}
			first[x.VNI] = here
		}
	}
	return hits
}

// hostModeElsewhere finds out whether somebody asks here for what other nodes serve.
func hostModeElsewhere(v *View) []hit {
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		if l.Cause != "host-mode-node" || l.Subject.Scope != enrich.ScopeHost || !v.enough(l.Packets, perMinute) {
			continue
		}
		port, protocol := l.Example.DestinationPort, enrich.ProtocolName(l.Example.Protocol)
		h := hit{subject: Subject{Scope: enrich.ScopeHost}, evidence: append([]Fact{lost(l.Packets)}, exampleFacts(&l.Example)...)}
		h.fill = map[string]string{"service": "SERVICE"}
		if s := v.serviceAt(port, protocol); s != nil {
			h.subject.Identity, h.subject.Object = s.Identity, portName(port, protocol)
			h.fill["service"] = s.Name
		}
		hits = append(hits, h)
	}
	return hits
}

// serviceAt is the service that has published a port with mode=host; nil: none that is known.
func (v *View) serviceAt(port uint16, protocol string) *enrich.LiveService {
	for i := range v.Inventory.Services {
		if s := &v.Inventory.Services[i]; slices.Contains(s.HostPorts, enrich.MeshPort{Port: port, Protocol: protocol}) {
			return s
		}
	}
	return nil
}

// unmeshed finds services that ask for what they cannot have.
func unmeshed(v *View) []hit {
	var hits []hit
	for i := range v.Inventory.Services {
		s := &v.Inventory.Services[i]
		if len(s.Unmeshed) == 0 {
			continue
		}
		ports := make([]string, 0, len(s.Unmeshed))
		for _, p := range s.Unmeshed {
			ports = append(ports, portName(p.Port, p.Protocol))
		}
		hits = append(hits, hit{
			subject:  Subject{Identity: s.Identity, Scope: enrich.ScopeIngress},
			evidence: []Fact{text("endpoint mode", "dnsrr"), text("ports asked of the mesh", list(ports))},
			fill:     map[string]string{"service": s.Name},
		})
	}
	return hits
}

// gatewayBridge is what the engine calls both the network and its bridge.
const gatewayBridge = "docker_gwbridge"

// needsGatewayBridge tells whether there is somebody on the node who has a leg on it: the mesh, or a container on an overlay network
// that is not internal. A node that has just joined has neither yet.
func (v *View) needsGatewayBridge() (needs bool) {
	if !v.Listed || !v.Cluster.Self.IsValid() || len(v.Host.Links) == 0 {
		return false
	}
	needs = slices.ContainsFunc(v.Host.Sandboxes, func(file string) bool { return path.Base(file) == ingressSandbox })
	v.eachEndpoint(func(_ *enrich.LiveContainer, _ *enrich.Endpoint, n *enrich.Network) {
		needs = needs || n.Driver == "overlay" && !n.Internal
	})
	return needs
}

// gatewayBridgeBroken finds out what is wrong with the bridge.
func gatewayBridgeBroken(v *View) []hit {
	if !v.needsGatewayBridge() {
		return nil
	}
	n := v.network(gatewayBridge)
	bridge := slices.IndexFunc(v.Host.Links, func(l loader.Link) bool { return n != nil && l.Name == n.Bridge })
	switch {
	case n == nil:
		return []hit{{subject: onNetwork(gatewayBridge), evidence: []Fact{text("network", "the engine has none of this name")}}}
	case bridge < 0:
		return []hit{{subject: onNetwork(gatewayBridge), evidence: []Fact{text("network", "there"), text("bridge", "the host has none of this name")}}}
	}
	ports := uint64(len(v.ports()[v.Host.Links[bridge].Index]))
	for _, subnet := range n.Subnets {
		bits := 32 - subnet.Bits()
		if !subnet.Addr().Is4() || bits < minHostBits {
			continue
		}
		if usable := uint64(1)<<bits - 3; ports*100 >= usable*scarce { // neither the first, the last nor the bridge's own
			return []hit{{subject: onNetwork(gatewayBridge), evidence: []Fact{
				text("subnet", subnet.String()), number("ports on the bridge", float64(ports), fmt.Sprintf("of %d addresses", usable)),
			}}}
		}
	}
	return nil
}
