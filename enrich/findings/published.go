// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// publishedRules are about ports of the host: those that lead to containers, and the engine's own.
func publishedRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "ipv6-proxy-src", Severity: Info,
				Title:   "A port is published on IPv6, but its container has none: IPv6 clients appear under the bridge's address.",
				Remedy:  "Give the container's network IPv6, or publish the port on 0.0.0.0 only.",
				Confirm: "ss -Htlnp 'sport = :{port}'",
				Basis:   "the published ports, the proxy that listens on [::], the container's addresses, and whether the host has a global IPv6 prefix",
			},
			after: settle,
			find:  publishedOverIPv6,
		},
		{
			Definition: Definition{
				ID: "userland-proxy-src", Severity: Warning,
				Title:   "Remote clients reach a container through docker-proxy: it sees the bridge's address instead of theirs.",
				Remedy:  "The translation rule for the port is missing, or something comes before it. Restart Docker after the firewall, so that its rules are made anew. For IPv6 before version 27.0 it takes \"ip6tables\": true with \"experimental\": true in daemon.json.",
				Confirm: "ss -Htnap 'sport = :{port}'",
				Basis:   "TCP connections of remote clients that a process of the host holds on a published port; translated ones have no socket there",
			},
			find: proxied,
		},
		{
			Definition: Definition{
				ID: "lo-publish-exposed", Severity: Warning,
				Title:   "A port published on 127.0.0.1 only is reached from outside of the host.",
				Remedy:  "Before version 28.0 Docker does not guard such ports against neighbours on the same link. Upgrade, or drop packets from outside to the container's address in table raw.",
				Confirm: "conntrack -L --reply-src {container_address}",
				Basis:   "packets from outside that arrived at the container's port, beside the address that the port is published on",
			},
			find: loopbackExposed,
		},
		{
			Definition: Definition{
				ID: "daemon-tcp-open", Severity: Critical,
				Title:   "The Docker API listens on TCP without encryption: whoever reaches it is root on this host.",
				Remedy:  "Remove the tcp:// address from dockerd's hosts and use ssh://, or demand client certificates (--tlsverify, port 2376). Until then close the port to everybody else.",
				Confirm: "curl -sim 2 --noproxy '*' http://{address}/_ping",
				Basis:   "TCP listeners of the host on port 2375 with an address beyond loopback, and whether they answer a ping over plain HTTP with the version of Docker's API",
			},
			find: daemonOpen,
		},
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

// publishedOverIPv6 finds ports that a proxy offers on [::] for containers without IPv6. Docker publishes on both families
// if nothing is said; it matters only where somebody can come by IPv6.
func publishedOverIPv6(v *View) []hit {
	if !v.hasGlobal6() {
		return nil
	}
	listens := make(map[uint16]bool)
	for _, l := range v.Host.Listeners {
		if l.Address.Addr() == netip.IPv6Unspecified() {
			listens[l.Address.Port()] = true
		}
	}
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			if p.Protocol != "tcp" || p.Host.Addr() != netip.IPv6Unspecified() || !listens[p.Host.Port()] || hasIPv6(c) {
				continue
			}
			hits = append(hits, publishedHit(c, p, text("published on", p.Host.String()), text("container's IPv6 address", "none")))
		}
	}
	return hits
}

func hasIPv6(c *enrich.LiveContainer) bool {
	return slices.ContainsFunc(c.Endpoints, func(e enrich.Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, netip.Addr.Is6)
	})
}

// publishedHit concerns a published port: it tells findings of one container apart.
func publishedHit(c *enrich.LiveContainer, p enrich.PublishedPort, evidence ...Fact) hit {
	subject := of(c, "", enrich.ScopeHost)
	subject.Object = fmt.Sprintf("%d/%s", p.Host.Port(), p.Protocol)
	return hit{subject: subject, evidence: evidence, fill: map[string]string{
		"container": c.Name, "port": strconv.Itoa(int(p.Host.Port())),
	}}
}

// proxied finds published ports on which a process of the host serves remote clients. By design that is so for the host
// itself, for containers (hairpin), for what comes by a link-local address, which is not translated, and for IPv6 where the
// container has none: ipv6-proxy-src says that.
func proxied(v *View) []hit {
	remote := v.remoteClients()
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		for _, p := range c.Published {
			clients := clientsOf(p, remote[p.Host.Port()], hasIPv6(c))
			if len(clients) == 0 {
				continue
			}
			hits = append(hits, publishedHit(c, p,
				number("connections", float64(len(clients)), "now"), text("example", clients[0].String()+" > "+p.Host.String())))
		}
	}
	return hits
}

// remoteClients are the connections of clients beyond the host and its bridges, by the host's port.
func (v *View) remoteClients() map[uint16][]loader.Connection {
	own := make(map[netip.Addr]bool)
	for _, c := range v.Host.Connections {
		own[c.Local.Addr()] = true
	}
	listeners := make(map[uint16][]netip.Addr)
	for _, l := range v.Host.Listeners {
		listeners[l.Address.Port()] = append(listeners[l.Address.Port()], l.Address.Addr())
	}
	remote := make(map[uint16][]loader.Connection)
	for _, c := range v.Host.Connections {
		client, local, port := c.Remote.Addr(), c.Local.Addr(), c.Local.Port()
		if client.IsLoopback() || client.IsLinkLocalUnicast() || local.IsLoopback() || own[client] || v.inDockerSubnet(client) {
			continue
		}
		// Where nobody listens, the host is the client, from a port that happens to be the same.
		if slices.ContainsFunc(listeners[port], func(l netip.Addr) bool { return covers(l, local) }) {
			remote[port] = append(remote[port], c)
		}
	}
	return remote
}

// covers tells whether a socket on an address takes what is for another: an unspecified one takes all, and that of IPv6
// mostly IPv4 too.
func covers(listening, address netip.Addr) bool {
	return listening == address || listening == netip.IPv6Unspecified() || listening == netip.IPv4Unspecified() && address.Is4()
}

// clientsOf are those that came to a published port, of connections to a port with its number.
func clientsOf(p enrich.PublishedPort, connections []loader.Connection, ipv6 bool) []netip.AddrPort {
	var clients []netip.AddrPort
	for _, c := range connections {
		local := c.Local.Addr()
		sameFamily := p.Host.Addr().Is6() == local.Is6()
		if p.Protocol == "tcp" && sameFamily && covers(p.Host.Addr(), local) && (ipv6 || local.Is4()) {
			clients = append(clients, c.Remote)
		}
	}
	return clients
}

// established is how many packets make a connection: the handshake, and something said. Fewer may be a scan's, which a guard
// in the container's own namespace ends.
const established = 3

// loopbackExposed finds ports published for the host alone that somebody outside got through to. On networks whose
// containers may be reached directly, by anybody or by a device that is trusted, that is by design, and so it is on macvlan
// and ipvlan.
func loopbackExposed(v *View) []hit {
	var hits []hit
	for _, in := range v.Inbound {
		c, n := v.container(in.ContainerID), v.network(in.Subject.Network)
		if c == nil || n == nil || n.Driver != "bridge" || in.Packets < established || v.inDockerSubnet(in.Remote) {
			continue
		}
		if mode := gatewayMode(n, in.Remote.Is6()); mode == "routed" || mode == "nat-unprotected" || n.Trusted != "" {
			continue
		}
		p, only := onLoopbackOnly(c, in.Port, enrich.ProtocolName(in.Protocol))
		if !only {
			continue
		}
		h := publishedHit(c, p,
			text("published on", p.Host.String()), text("reached by", in.Remote.String()),
			number("packets", float64(in.Packets), "in the last minute"))
		h.subject.Network = n.Name
		h.fill["container_address"] = addressOn(c, n.ID, in.Remote.Is6())
		hits = append(hits, h)
	}
	return hits
}

// onLoopbackOnly tells whether a container's port is published, and on loopback addresses alone.
func onLoopbackOnly(c *enrich.LiveContainer, port uint16, protocol string) (found enrich.PublishedPort, only bool) {
	for _, p := range c.Published {
		if p.Container != port || p.Protocol != protocol {
			continue
		}
		if !p.Host.Addr().IsLoopback() {
			return enrich.PublishedPort{}, false
		}
		found, only = p, true
	}
	return found, only
}

// addressOn is a container's address on a network.
func addressOn(c *enrich.LiveContainer, networkID string, ipv6 bool) string {
	for _, e := range c.Endpoints {
		for _, a := range e.Addresses {
			if e.NetworkID == networkID && a.Is6() == ipv6 {
				return a.String()
			}
		}
	}
	return "ADDRESS"
}

func daemonOpen(v *View) []hit {
	var hits []hit
	for _, at := range v.ClearAPIs {
		ask := at.String()
		if at.Addr().Unmap().IsUnspecified() {
			ask = fmt.Sprintf("localhost:%d", at.Port())
		}
		hits = append(hits, hit{
			subject:  Subject{Scope: enrich.ScopeHost, Object: at.String()},
			evidence: []Fact{text("listens on", at.String()), text("answered in clear", "GET /_ping, as Docker's API does")},
			fill:     map[string]string{"address": ask},
		})
	}
	return hits
}
