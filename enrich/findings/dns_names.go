// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// nameRules are about Docker's own names: of containers, services and aliases. Those are told, as in docker ps.
func nameRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "nxdomain-wrong-name", Severity: Warning,
				Title:   "A container asks for another by a name that Docker does not serve to it.",
				Remedy:  "Use the name that the evidence has: Docker serves names of containers and services, and aliases, on networks that somebody made; no host name with a domain, and nothing on the default bridge.",
				Confirm: "docker inspect -f '{{.Config.Hostname}} {{json .NetworkSettings.Networks}}' {target}",
				Basis:   "lookups that found nothing for a name which is a container's host name in a form that Docker does not serve, mostly with its domain, or which somebody has whom a container on the default bridge asks for",
			},
			find: misnamed(enrich.MisnameHostname, enrich.MisnameDefaultBridge),
		},
		{
			Definition: Definition{
				ID: "other-network", Severity: Warning,
				Title:   "A container asks for another that is on none of its networks.",
				Remedy:  "Attach both to one network: docker network connect, or networks in the Compose file. Nothing restarts for the former.",
				Confirm: "docker inspect -f '{{.Name}} {{json .NetworkSettings.Networks}}' {container} {target}",
				Basis:   "lookups that found nothing for a name which somebody has on networks that the asking container is not on",
			},
			find: misnamed(enrich.MisnameOtherNetwork),
		},
		{
			Definition: Definition{
				ID: "nxdomain-after-rejoin", Severity: Critical,
				Title:   "The embedded resolver does not know the name of somebody who runs on the asker's network.",
				Remedy:  "Have the engine tell of it again: docker service update --force for a service, docker restart for a container. Then update the engine, if it is 29.0 to 29.6.",
				Confirm: "dig +tries=1 @127.0.0.11 -q {object}",
				Basis:   "lookups over ten seconds or longer that found nothing for a name which a running and healthy container or service has on a network of the asking container's, and had had for a minute",
			},
			inside: true,
			find:   missing,
		},
		{
			Definition: Definition{
				ID: "alias-collision", Severity: Warning,
				Title:   "One name on a network leads to several services.",
				Remedy:  "Clients get now one and now the other. Give each an alias of its own, ask for the full name (project-service-1, stack_service), or keep the projects on networks of their own.",
				Confirm: "nsenter -t $(docker inspect -f '{{.State.Pid}}' {container}) -n dig +short @127.0.0.11 -q {object}",
				Basis:   "answers of the embedded resolver with addresses of different projects or stacks at once; of services without one, of different services; of other containers, of different images",
			},
			find: colliding,
		},
		{
			Definition: Definition{
				ID: "stale-record", Severity: Warning,
				Title:   "A container sends to an address that it got from a DNS answer and that nobody has any more.",
				Remedy:  "Restart the client, which asks anew. Then have it keep answers for seconds only, or let it ask for a service with a virtual address, which stays.",
				Confirm: "ip neighbour show {object}",
				Basis:   "packets lost for ten seconds or longer on the way to an address that the container had got from an answer before, and whose owner is gone",
			},
			inside: true,
			find:   usingStale,
		},
	}
}

// misnamed finds containers that ask for a name in vain, for one of the reasons.
func misnamed(reasons ...enrich.Misname) func(*View) []hit {
	return func(v *View) []hit {
		var hits []hit
		for i := range v.DNS.Misnamed {
			if m := &v.DNS.Misnamed[i]; slices.Contains(reasons, m.Reason) && v.enough(m.Lookups, fails) && !m.isOwn() {
				hits = append(hits, v.misnamedHit(m))
			}
		}
		return hits
	}
}

// isOwn tells whether a container asks for its own name alone. It has that in /etc/hosts, but mostly for IPv4 only.
func (m *Misnamed) isOwn() bool {
	return len(m.Targets) > 0 && !slices.ContainsFunc(m.Targets, func(t enrich.NameTarget) bool { return t.ContainerID != m.ContainerID })
}

func (v *View) misnamedHit(m *Misnamed) hit {
	h := v.dnsHit(m.Subject, m.ContainerID, netip.Addr{},
		text("asked for", m.Subject.Object), number("lookups in vain", float64(m.Lookups), "in the last minute"),
		text("why", reasonOf(m.Reason)))
	h.fill["target"] = "CONTAINER"
	var names, use, theirs []string
	for i := range m.Targets {
		t := &m.Targets[i]
		names = append(names, v.targetName(t))
		if t.UseName != "" {
			use = append(use, t.UseName)
		}
		if c := v.container(t.ContainerID); c != nil {
			h.fill["target"] = c.Name
			theirs = append(theirs, networksOf(c))
		}
	}
	for _, fact := range []struct {
		name  string
		texts []string
	}{{"who has it", names}, {"name to use", use}, {"their networks", theirs}} {
		if len(fact.texts) > 0 {
			h.evidence = append(h.evidence, text(fact.name, distinct(fact.texts)))
		}
	}
	if c := v.container(m.ContainerID); c != nil {
		h.evidence = append(h.evidence, text("asker's networks", networksOf(c)))
	}
	return h
}

func reasonOf(m enrich.Misname) string {
	switch m {
	case enrich.MisnameHostname:
		return "Docker does not serve a host name in this form"
	case enrich.MisnameDefaultBridge:
		return "no names are served on the default bridge"
	case enrich.MisnameOtherNetwork:
		return "whoever has it is on none of the asker's networks"
	}
	return "the embedded resolver does not know it"
}

// targetName is how the engine's commands know who has a name.
func (v *View) targetName(t *enrich.NameTarget) string {
	if t.ContainerID != "" {
		return v.engineName(t.ContainerID)
	}
	return serviceName(t.Identity)
}

// serviceName is a service, with its stack; of what is of none, the container.
func serviceName(i enrich.Identity) string {
	switch {
	case i.Service == "":
		return orElse(i.Container, "not known")
	case i.Stack == "":
		return i.Service
	}
	return i.Stack + "/" + i.Service
}

// distinct names the first few of many, each once.
func distinct(names []string) string {
	slices.Sort(names)
	return list(slices.Compact(names))
}

// missing finds names that the engine should know. That it learns of a start, and forgets at an end, takes it a moment; a service's
// task gets its name when it is found to be healthy.
func missing(v *View) []hit {
	var hits []hit
	running := v.running()
	for i := range v.DNS.Misnamed {
		m := &v.DNS.Misnamed[i]
		if m.Reason != enrich.MisnameMissing || !v.enough(m.Lookups, fails) || m.Last.Sub(m.First) < restart {
			continue
		}
		there := func(t enrich.NameTarget) bool {
			return (t.ContainerID == "" || running[t.ContainerID] != nil) && knownAt(m.First)(t)
		}
		if slices.ContainsFunc(m.Targets, there) {
			hits = append(hits, v.misnamedHit(m))
		}
	}
	return hits
}

// colliding finds names that lead to several.
func colliding(v *View) []hit {
	var hits []hit
	for i := range v.DNS.Collisions {
		c := &v.DNS.Collisions[i]
		owners := v.sharers(c)
		if len(owners) < 2 || !v.enough(c.Answers, collisions) {
			continue
		}
		hits = append(hits, v.dnsHit(c.Subject, c.ContainerID, embedded(),
			text("name", c.Subject.Object), text("leads to", list(owners)), number("such answers", float64(c.Answers), "in the last minute"),
			text("one who asks", v.engineName(c.ContainerID))))
	}
	return hits
}

// collisions is how many answers make a finding: an address may have just gone from one to the other.
const collisions = 2

// sharers are who a name leads to, a service of each project once: the services of one are mostly meant to share it. Containers that
// nobody made a service of are replicas of one if they are of one image.
func (v *View) sharers(c *Collision) []string {
	type group struct {
		owner enrich.Identity
		image string
	}
	groups := make(map[group]string)
	for _, a := range c.Answerers {
		g, name := group{owner: ownerOf(a.Owner)}, serviceName(a.Owner)
		if g.owner == (enrich.Identity{}) {
			continue
		}
		if holder := v.holderOfAddress(a.Address, c.Subject.Network); holder != nil && g.owner.Container != "" {
			g, name = group{image: holder.Image}, holder.Name
		}
		if first, there := groups[g]; !there || name < first {
			groups[g] = name
		}
	}
	return slices.Sorted(maps.Values(groups))
}

// holderOfAddress finds the running container that has an address on a network; nil: none here.
func (v *View) holderOfAddress(address netip.Addr, network string) *enrich.LiveContainer {
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		if slices.ContainsFunc(c.Endpoints, func(e enrich.Endpoint) bool {
			return e.Network == network && slices.Contains(e.Addresses, address)
		}) {
			return c
		}
	}
	return nil
}

// usingStale finds containers that go on with an answer whose address is nobody's. Those that have just asked will ask again,
// and what was under way when its end went is soon over.
func usingStale(v *View) []hit {
	var hits []hit
	for i := range v.DNS.Stale {
		s := &v.DNS.Stale[i]
		age := s.Example.Used.Sub(s.Example.Answered)
		if !v.enough(s.Packets, strays) || s.Last.Sub(s.First) < restart || age < restart {
			continue
		}
		hits = append(hits, v.dnsHit(s.Subject, s.ContainerID, netip.Addr{},
			lost(s.Packets), text("address", s.Subject.Object), text("answered for", s.Example.Name),
			number("age of the answer", age.Round(time.Second).Seconds(), "s"), text("was", serviceName(s.Example.Gone))))
	}
	return hits
}
