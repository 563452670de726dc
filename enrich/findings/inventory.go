// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// inventoryRules are about what the engine was asked for, and what it left behind.
func inventoryRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "unused-network", Severity: Info,
				Title:   "No container is on a network.",
				Remedy:  "Remove it if nobody needs it: it holds a subnet, a bridge and rules.",
				Confirm: "docker network inspect -f '{{.Created}} {{len .Containers}}' {network}",
				Basis:   "the engine's networks and the containers that are configured to be on them, running or not",
			},
			find: unusedNetworks,
		},
		{
			Definition: Definition{
				ID: "legacy-link", Severity: Info,
				Title:   "A container uses legacy links to find others.",
				Remedy:  "Put the containers on a network of their own and use their names; links break when the other side is recreated.",
				Confirm: "docker inspect -f '{{range .NetworkSettings.Networks}}{{.Links}}{{end}} {{.HostConfig.Links}}' {container}",
				Basis:   "the links in the container's configuration",
			},
			find: legacyLinks,
		},
		{
			Definition: Definition{
				ID: "leftover-sandbox", Severity: Info,
				Title:   "The engine keeps a network namespace that belongs to no container.",
				Remedy:  "A container's removal was cut short. Restart Docker, which clears such namespaces; else unmount and remove the file.",
				Confirm: "nsenter --net={object} ip -br address",
				Basis:   "the namespace files in the engine's folder beside the namespaces of running containers",
			},
			after: leave,
			find:  leftoverSandboxes,
		},
		{
			Definition: Definition{
				ID: "leftover-device", Severity: Info,
				Title:   "A device that Docker made belongs to nothing any more.",
				Remedy:  "A removal or a start was cut short. Delete the device with ip link delete, after a look at it.",
				Confirm: "ip -d link show {object}",
				Basis:   "the host's bridges and veths with names as Docker gives them, beside its networks and containers",
			},
			after: leave,
			find:  leftoverDevices,
		},
	}
}

// unusedNetworks finds those that were made by somebody, on this host, for containers. A Swarm's networks are used by
// services, of which a node knows only its own tasks; those without a driver are configurations for others.
func unusedNetworks(v *View) []hit {
	if !v.Listed || v.Config.UnusedAfter <= 0 {
		return nil
	}
	var hits []hit
	for i := range v.Inventory.Networks {
		n := &v.Inventory.Networks[i]
		forContainers := slices.Contains([]string{"bridge", "macvlan", "ipvlan"}, n.Driver) && n.Scope == "local"
		age := v.Now.Sub(n.Created)
		if n.Attached > 0 || n.Predefined || !forContainers || n.Created.IsZero() || age < v.Config.UnusedAfter {
			continue
		}
		hits = append(hits, hit{subject: onNetwork(n.Name), evidence: []Fact{
			number("containers", 0, ""), text("created", n.Created.UTC().Format(time.DateOnly)), text("driver", n.Driver),
		}})
	}
	return hits
}

// legacyLinks finds containers with links. Compose gives its one-off containers links of its own accord.
func legacyLinks(v *View) []hit {
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, e := range c.Endpoints {
			if len(e.Links) == 0 || c.Labels[oneOff] == "True" {
				continue
			}
			hits = append(hits, hit{
				subject:  of(c, e.Network, enrich.ScopeContainer),
				evidence: []Fact{number("links", float64(len(e.Links)), ""), text("links to", list(e.Links))},
				fill:     map[string]string{"container": c.Name},
			})
		}
	}
	return hits
}

// oneOff is Compose's label on containers of docker compose run.
const oneOff = "com.docker.compose.oneoff"

// Names that the engine gives: of the file that holds a container's namespace, of a network's bridge and of the host's end
// of a veth. Swarm's own namespaces (1-…, lb_…, ingress_sbox) and the host's (default) are named differently.
var (
	sandboxName = regexp.MustCompile(`^[0-9a-f]{12}$`)
	bridgeName  = regexp.MustCompile(`^br-[0-9a-f]{12}$`)
	vethName    = regexp.MustCompile(`^veth[0-9a-f]{7}$`)
)

// leftoverSandboxes finds files that hold the namespace of no container. The steps of a build have such namespaces too,
// with a veth on the default bridge: while there is one of unknown owner, nothing is said.
func leftoverSandboxes(v *View) []hit {
	if !v.Listed || v.isBuilding() {
		return nil
	}
	used := make(map[string]bool)
	for i := range v.Inventory.Containers {
		used[path.Base(v.Inventory.Containers[i].SandboxKey)] = true
	}
	var hits []hit
	for _, file := range v.Host.Sandboxes {
		name := path.Base(file)
		if used[name] || !sandboxName.MatchString(name) {
			continue
		}
		hits = append(hits, hit{
			subject:  Subject{Scope: enrich.ScopeHost, Object: file},
			evidence: []Fact{text("namespace", file), text("container", "none")},
		})
	}
	return hits
}

// isBuilding tells whether the default bridge has a port that leads into a namespace of no container.
func (v *View) isBuilding() bool {
	bridges := v.bridges()
	return slices.ContainsFunc(v.Host.Links, func(l loader.Link) bool {
		b, docked := bridges[l.Master]
		return docked && b.Name == "bridge" && l.Kind == "veth" && l.PeerNetnsID >= 0 && v.Owners[l.Index] == ""
	})
}

// leftoverDevices finds bridges of networks that are gone, and veths both ends of which are on the host although one ought
// to be in a container. A veth whose other end is in a namespace goes with that: whoever lives there, which may be a build
// and no container, needs it, and if nobody does, the namespace is what is left over.
func leftoverDevices(v *View) []hit {
	if !v.Listed {
		return nil
	}
	bridges, ports := v.bridges(), v.ports()
	var hits []hit
	for i := range v.Host.Links {
		l := &v.Host.Links[i]
		var why string
		switch _, owned := bridges[l.Index]; {
		case l.Kind == "bridge" && !owned && bridgeName.MatchString(l.Name) && len(ports[l.Index]) == 0:
			why = "a bridge without a network and without ports"
		case l.Kind == "veth" && v.isStray(l, bridges):
			why = "a port of a network's bridge with its other end on the host"
		default:
			continue
		}
		hits = append(hits, hit{
			subject:  Subject{Scope: enrich.ScopeHost, Object: l.Name},
			evidence: []Fact{text("device", l.Name), text("what it is", why)},
		})
	}
	return hits
}

// isStray tells a veth named by Docker, on a bridge of Docker's, that does not lead to any namespace, nor anywhere else.
func (v *View) isStray(l *loader.Link, bridges map[int]bridged) bool {
	if _, docked := bridges[l.Master]; !docked || l.PeerNetnsID >= 0 || !vethName.MatchString(l.Name) {
		return false
	}
	peer := v.link(l.Peer)
	return peer != nil && peer.Kind == "veth" && peer.Peer == l.Index && peer.Master == 0
}
