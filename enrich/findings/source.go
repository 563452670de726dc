// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// trackedAt shows what came to a port of the host, and where it was sent.
const trackedAt = "conntrack -L -f {family} -p {protocol} --orig-port-dst {port}"

// sourceRules are about addresses that get lost: the client's behind a published port, and a container's own beyond the
// host. What the nat signal counts tells of every connection; where it does not run, sockets that the host holds tell of TCP.
func sourceRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "mesh-snat", Severity: Info,
				Title:   "The routing mesh hides clients from a service: its tasks see an address of the ingress network.",
				Remedy:  "That is how the mesh works. If the service needs its clients' addresses, publish the port with mode=host, or let a reverse proxy published so pass them on (X-Forwarded-For, PROXY protocol).",
				Confirm: "nsenter --net={sandbox} conntrack -L -p {protocol} --orig-port-dst {port}",
				Basis:   "connections of remote clients that were translated to the ingress sandbox of this node",
			},
			find: meshed,
		},
		{
			Definition: Definition{
				ID: "userland-proxy-src", Severity: Warning,
				Title:   "Remote clients reach a container through docker-proxy: it sees the bridge's address instead of theirs.",
				Remedy:  "The translation rule for the port is missing, or something comes before it. Restart Docker after the firewall, so that its rules are made anew. For IPv6 before version 27.0 it takes \"ip6tables\": true with \"experimental\": true in daemon.json.",
				Confirm: "ss -Htunap 'sport = :{port}'",
				Basis:   "connections of remote clients to a published port that no rule translated and the host itself answered; and TCP connections of remote clients that a process of the host holds on one, where translated ones have no socket",
			},
			find: proxied,
		},
		{
			Definition: Definition{
				ID: "ipv6-proxy-src", Severity: Info,
				Title:   "A port is published on IPv6, but its container has none: IPv6 clients appear under the bridge's address.",
				Remedy:  "Give the container's network IPv6, or publish the port on 0.0.0.0 only.",
				Confirm: "ss -Htulnp 'sport = :{port}'",
				Basis:   "connections of remote IPv6 clients that docker-proxy carried; and the published ports, the proxy that listens on [::], the container's addresses, and whether the host has a global IPv6 prefix",
			},
			after: settle,
			find:  publishedOverIPv6,
		},
		{
			Definition: Definition{
				ID: "broad-masq", Severity: Warning,
				Title:   "A masquerade rule hides remote clients from a container: it sees the host's address instead of theirs.",
				Remedy:  "A rule in POSTROUTING translates what comes in as well as what leaves. Limit it to the uplink (-o UPLINK), or to the sources that need it (-s SUBNET).",
				Confirm: trackedAt,
				Basis:   "connections of remote clients to a published port whose destination and whose source were both translated on the host",
			},
			find: masqueradedInbound,
		},
		{
			Definition: Definition{
				ID: "masq-src", Severity: Info,
				Title:   "A container that is to be recognised by its address shares the host's with others.",
				Remedy:  "Give its network an address of its own: com.docker.network.host_ipv4 with a second address of the host, or gateway mode \"routed\" with a route back, or attach the container to macvlan or ipvlan.",
				Confirm: "conntrack -L --src-nat {address}",
				Basis:   "the label bridgewatch.source-address=required, and the tracked connections of all containers to the outside by the address that they appear under",
			},
			after: settle,
			find:  sharedAddress,
		},
	}
}

// lostUse is what remote clients made of a published port whose container does not see all of them.
type lostUse struct {
	subject    Subject
	container  *enrich.LiveContainer // nil: the routing mesh serves the port
	port       uint16
	protocol   string
	lost, kept uint64    // connections
	opened     time.Time // when somebody last tried in the way that loses it
	example    enrich.PublishedConnection
}

// lostBy finds the published ports at which a mechanism takes remote clients' addresses away. What nobody answered has lost
// nothing. Of a mechanism that only IPv6 clients meet, others say nothing.
func (v *View) lostBy(mechanism enrich.Mechanism) []*lostUse {
	running := v.running()
	bySubject := make(map[Subject]*lostUse)
	var all []*lostUse
	for i := range v.Uses {
		u := &v.Uses[i]
		c := running[u.ContainerID]
		meshed := u.Mechanism == enrich.IngressMesh && isSentOn(&u.Example)
		if u.Client != enrich.ClientRemote || u.Connections == 0 || c == nil && !meshed ||
			mechanism == enrich.IPv6ToIPv4Proxy && client(&u.Example).Is4() {
			continue
		}
		subject := u.Subject
		if c != nil {
			subject = ofPort(c, u.Port, u.Protocol)
		}
		use := bySubject[subject]
		if use == nil {
			use = &lostUse{subject: subject, container: c, port: u.Port, protocol: u.Protocol}
			bySubject[subject] = use
			all = append(all, use)
		}
		switch {
		case u.Preserved:
			use.kept += u.Connections
		case u.Mechanism == mechanism:
			use.lost += u.Connections
			use.example = u.Example
			if u.Opened.After(use.opened) {
				use.opened = u.Opened
			}
		}
	}
	return slices.DeleteFunc(all, func(u *lostUse) bool { return u.lost == 0 })
}

func (u *lostUse) facts() []Fact {
	facts := []Fact{number("connections that lost the address", float64(u.lost), "in the last minute")}
	if u.kept > 0 {
		facts = append(facts, number("connections that kept it", float64(u.kept), "in the last minute"))
	}
	facts = append(facts, visit(&u.example))
	if seen := u.example.Seen; seen.IsValid() && u.example.Inferred {
		facts = append(facts, text("container sees, as times suggest", seen.String()))
	} else if seen.IsValid() {
		facts = append(facts, text("container sees", seen.String()))
	}
	return facts
}

func (u *lostUse) hit(evidence ...Fact) hit {
	h := portHit(u.subject, u.port, u.protocol, evidence...)
	if u.container != nil {
		h.fill["container"] = u.container.Name
	}
	return h
}

// visit is a client and where it came to.
func visit(c *enrich.PublishedConnection) Fact {
	return text("example", c.Original.Source.String()+" > "+c.Original.Destination.String()+" "+c.Protocol)
}

// familyOf is what the conntrack tool calls a connection's family. Where no address tells, it has to be said: before 1.4.7 the
// tool lists IPv4 only.
func familyOf(t *loader.Tuple) string {
	if t.Destination.Addr().Is6() {
		return "ipv6"
	}
	return "ipv4"
}

// ofPort is a published port of a container as a subject.
func ofPort(c *enrich.LiveContainer, port uint16, protocol string) Subject {
	subject := of(c, "", enrich.ScopeHost)
	subject.Object = portName(port, protocol)
	return subject
}

func portName(port uint16, protocol string) string { return strconv.Itoa(int(port)) + "/" + protocol }

// portHit concerns a port of the host.
func portHit(subject Subject, port uint16, protocol string, evidence ...Fact) hit {
	return hit{subject: subject, evidence: evidence, fill: map[string]string{
		"port": strconv.Itoa(int(port)), "protocol": protocol,
	}}
}

// ingressSandbox is what Docker calls the namespace of the routing mesh.
const ingressSandbox = "ingress_sbox"

func meshed(v *View) []hit {
	sandbox := "/run/docker/netns/" + ingressSandbox
	for _, file := range v.Host.Sandboxes {
		if path.Base(file) == ingressSandbox {
			sandbox = file
		}
	}
	var hits []hit
	for _, u := range v.lostBy(enrich.IngressMesh) {
		h := u.hit(u.facts()...)
		h.fill["sandbox"] = sandbox
		hits = append(hits, h)
	}
	return hits
}

func masqueradedInbound(v *View) []hit {
	var hits []hit
	for _, u := range v.lostBy(enrich.InboundMasquerade) {
		h := u.hit(u.facts()...)
		h.fill["family"] = familyOf(&u.example.Original)
		hits = append(hits, h)
	}
	return hits
}

// publishedOverIPv6 finds ports that a proxy offers on [::] for containers without IPv6, and those by which somebody came
// that way. Docker publishes on both families if nothing is said; it matters only where somebody can come by IPv6.
func publishedOverIPv6(v *View) []hit {
	came := make(map[Subject]*lostUse)
	for _, u := range v.lostBy(enrich.IPv6ToIPv4Proxy) {
		came[u.subject] = u
	}
	offered := v.offeredOverIPv6()
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			u := came[ofPort(c, p.Host.Port(), p.Protocol)]
			if !p.Host.Addr().Is6() || hasIPv6(c) || u == nil && !offered(p) {
				continue
			}
			h := publishedHit(c, p, text("published on", p.Host.String()), text("container's IPv6 address", "none"))
			if u != nil {
				h.evidence = append(h.evidence, u.facts()...)
			}
			hits = append(hits, h)
		}
	}
	return hits
}

// offeredOverIPv6 tells which published ports docker-proxy, as far as is known, listens on for all IPv6 clients that there may be.
func (v *View) offeredOverIPv6() func(enrich.PublishedPort) bool {
	listens := make(map[uint16]bool)
	for _, l := range v.Host.Listeners {
		if l.Address.Addr() == netip.IPv6Unspecified() && (l.Process == "" || l.Process == portCarrier) {
			listens[l.Address.Port()] = true
		}
	}
	reached := v.hasGlobal6()
	return func(p enrich.PublishedPort) bool {
		return reached && p.Protocol == "tcp" && p.Host.Addr() == netip.IPv6Unspecified() && listens[p.Host.Port()]
	}
}

// globalUnicast6 is what the world's IPv6 addresses are in (RFC 4291).
var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// hasGlobal6 tells whether the host has a global IPv6 prefix or address on a link that is not Docker's: both are routes.
func (v *View) hasGlobal6() bool {
	bridges := v.bridges()
	return slices.ContainsFunc(v.Host.Routes, func(r loader.Route) bool {
		_, dockers := bridges[r.Device]
		return !dockers && r.Device != 0 && !r.Gateway.IsValid() &&
			r.Destination.Bits() >= globalUnicast6.Bits() && globalUnicast6.Contains(r.Destination.Addr())
	})
}

func hasIPv6(c *enrich.LiveContainer) bool {
	return slices.ContainsFunc(c.Endpoints, func(e enrich.Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, netip.Addr.Is6)
	})
}

// proxied finds published ports on which a process of the host serves remote clients. By design that is so for the host
// itself, for containers (hairpin), for what comes by a link-local address, which is not translated, and for IPv6 where the
// container has none: ipv6-proxy-src says that. A port that is somebody else's is no matter of the proxy: port-conflict.
func proxied(v *View) []hit {
	held, carried, strangers := v.held(), v.carried(), v.strangers()
	told := make(map[Subject]bool) // a port may be published on several addresses
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			subject := ofPort(c, p.Host.Port(), p.Protocol)
			if _, taken := strangers[subject]; taken || told[subject] {
				continue
			}
			told[subject] = true
			facts := proxyFacts(held[subject], carried[subject])
			if len(facts) == 0 {
				continue
			}
			if !c.StartedAt.IsZero() && v.RulesetChanged.After(c.StartedAt) {
				facts = append(facts, v.rulesetFacts()...)
			}
			h := publishedHit(c, p, facts...)
			if p.Protocol != "tcp" { // sockets that have no peers, or that ss does not list
				h.confirm, h.fill["family"] = trackedAt, familyOf(&carried[subject].example.Original)
			}
			hits = append(hits, h)
		}
	}
	return hits
}

// carried are the ports whose remote clients docker-proxy carried for want of a rule. UDP that was opened while the container
// was away, or its rules were being made, stays with the proxy although there is a rule by now: that is stale-udp-ct.
func (v *View) carried() map[Subject]*lostUse {
	running := v.running()
	stale := make(map[Subject]bool)
	for i := range v.Tracking.Stale {
		if e := &v.Tracking.Stale[i]; running[e.ContainerID] != nil {
			stale[ofPort(running[e.ContainerID], e.Port, enrich.ProtocolName(e.Protocol))] = true
		}
	}
	all := make(map[Subject]*lostUse)
	for _, u := range v.lostBy(enrich.UserlandProxy) {
		leftOver := stale[u.subject] || u.opened.Before(u.container.StartedAt.Add(settle))
		if u.protocol != "udp" || !leftOver {
			all[u.subject] = u
		}
	}
	return all
}

// proxyFacts are what the host's sockets and what the nat signal say of a port: either is enough.
func proxyFacts(held []string, carried *lostUse) (facts []Fact) {
	if len(held) > 0 {
		facts = append(facts, number("connections that the host holds", float64(len(held)), "now"))
	}
	switch {
	case carried != nil:
		facts = append(facts, carried.facts()...)
	case len(held) > 0:
		facts = append(facts, text("example", held[0]))
	}
	return facts
}

// held are the TCP connections of remote clients on published ports that a process of the host has.
func (v *View) held() map[Subject][]string {
	remote := v.remoteClients()
	all := make(map[Subject][]string)
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			for _, client := range clientsOf(p, remote[p.Host.Port()], hasIPv6(c)) {
				subject := ofPort(c, p.Host.Port(), p.Protocol)
				all[subject] = append(all[subject], client.String()+" > "+p.Host.String())
			}
		}
	}
	return all
}

// remoteClients are the connections of clients beyond the host and its bridges, by the host's port.
func (v *View) remoteClients() map[uint16][]loader.Connection {
	own := make(map[netip.Addr]bool)
	for _, c := range v.Host.Connections {
		own[c.Local.Addr()] = true
	}
	listeners := v.listeners()
	remote := make(map[uint16][]loader.Connection)
	for _, c := range v.Host.Connections {
		client, local, port := c.Remote.Addr(), c.Local.Addr(), c.Local.Port()
		if client.IsLoopback() || client.IsLinkLocalUnicast() || local.IsLoopback() || own[client] || v.inDockerSubnet(client) {
			continue
		}
		// Where nobody listens, the host is the client, from a port that happens to be the same. The engine serves nobody.
		if slices.ContainsFunc(listeners[port], func(l loader.Listener) bool { return l.Takes(local) && !Keeps(l) }) {
			remote[port] = append(remote[port], c)
		}
	}
	return remote
}

// clientsOf are those that came to a published port, of connections to a port with its number.
func clientsOf(p enrich.PublishedPort, connections []loader.Connection, ipv6 bool) []netip.AddrPort {
	var clients []netip.AddrPort
	for _, c := range connections {
		local := c.Local.Addr()
		published := p.Host.Addr() == local || p.Host.Addr().IsUnspecified() && p.Host.Addr().Is6() == local.Is6()
		if p.Protocol == "tcp" && published && (ipv6 || local.Is4()) {
			clients = append(clients, c.Remote)
		}
	}
	return clients
}

// sharedAddress finds containers that are to be told apart by their address and cannot be.
func sharedAddress(v *View) []hit {
	running := v.running()
	var hits []hit
	for i := range v.Tracking.Identities {
		e := &v.Tracking.Identities[i]
		c := running[e.ContainerID]
		if c == nil || c.Labels[enrich.LabelSourceAddress] != enrich.SourceAddressRequired || e.Sharing < 2 || e.Connections == 0 {
			continue
		}
		subject := of(c, "", enrich.ScopeHost)
		subject.Object = e.Address.String()
		hits = append(hits, hit{
			subject: subject,
			evidence: []Fact{
				text("appears as", e.Address.String()),
				number("connections of the container", float64(e.Connections), "tracked now"),
				number("containers that appear so", float64(e.Sharing), ""),
			},
			fill: map[string]string{"container": c.Name, "address": e.Address.String()},
		})
	}
	return hits
}
