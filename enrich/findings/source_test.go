// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// webUse is what remote clients made of the healthy host's web server in one way.
func webUse(mechanism enrich.Mechanism, connections uint64, from, seen string) Use {
	u := Use{
		Subject: webOn("front", enrich.ScopeHost, "8080/tcp"), ContainerID: webID, Port: 8080, Protocol: "tcp",
		Client: enrich.ClientRemote, Mechanism: mechanism, Preserved: mechanism == enrich.NoMechanism,
		Attempts: connections, Connections: connections, Opened: start,
	}
	u.Example = enrich.PublishedConnection{
		Identity: u.Subject.Identity, Scope: u.Subject.Scope, ContainerID: webID, Port: 8080, Protocol: "tcp",
		Client: u.Client, Preserved: u.Preserved, Mechanism: mechanism,
	}
	u.Example.Original = loader.Tuple{Source: addrPort(from), Destination: addrPort("192.168.1.5:8080")}
	u.Example.Seen, _ = netip.ParseAddrPort(seen)
	return u
}

// inVainBy is what remote clients tried in one way, and nobody answered.
func inVainBy(mechanism enrich.Mechanism) Use {
	u := webUse(mechanism, 9, "203.0.113.9:50000", "")
	if u.Connections = 0; mechanism == enrich.IngressMesh {
		u = meshUse(9)
		u.Connections = 0
	}
	return u
}

// syslog has the web server publish 514/udp, and a remote client that docker-proxy carries, opened so long after its start.
func syslog(v *View, from, to string, later time.Duration) {
	u := webUse(enrich.UserlandProxy, 2, from, "")
	u.Port, u.Protocol, u.Example.Protocol = 514, "udp", "udp"
	u.Subject.Object = "514/udp"
	u.Example.Original.Destination = addrPort(to)
	v.Uses = []Use{u}
	c := containerOf(v, webID)
	c.StartedAt = start.Add(-later)
	v.RulesetChanged = time.Time{}
	c.Published = append(c.Published, enrich.PublishedPort{
		Host: netip.AddrPortFrom(netip.IPv4Unspecified(), 514), Container: 514, Protocol: "udp",
	})
}

// meshUse is what remote clients made of a service by the routing mesh.
func meshUse(connections uint64) Use {
	u := webUse(enrich.IngressMesh, connections, "203.0.113.9:50000", "10.0.0.2:50000")
	u.Subject = Subject{Identity: enrich.Identity{Stack: "stack", Service: "api"}, Scope: enrich.ScopeIngress, Object: "8080/tcp"}
	u.ContainerID, u.Example.ContainerID, u.Example.Identity = "", "", u.Subject.Identity
	u.Example.Reply.Source = addrPort("172.18.0.2:8080")
	return u
}

func require(v *View, id, address string, connections, sharing int) {
	containerOf(v, id).Labels = map[string]string{enrich.LabelSourceAddress: enrich.SourceAddressRequired}
	v.Tracking.Identities = []enrich.EgressIdentity{
		{ContainerID: id, Address: addr(address), Connections: connections, Sharing: sharing},
	}
}

func sourceCases() []ruleCase {
	ipv6 := func(v *View) {
		v.Host.Routes = append(v.Host.Routes, loader.Route{Destination: prefix("2001:db8::/64"), Device: uplinkIndex, Protocol: "kernel"})
	}
	giveIPv6 := func(v *View) {
		web := containerOf(v, webID)
		web.Endpoints[0].Addresses = append(web.Endpoints[0].Addresses, addr("fd00::2"))
	}
	connect := func(v *View, local, remote string) {
		v.Host.Connections = append(v.Host.Connections, loader.Connection{Local: addrPort(local), Remote: addrPort(remote)})
	}
	web := webOn("", enrich.ScopeHost, "8080/tcp")
	used := func(change func(*Use), uses ...Use) func(*View) {
		return func(v *View) {
			if change != nil {
				change(&uses[0])
			}
			v.Uses = uses
		}
	}
	const (
		listening = "ss -Htulnp 'sport = :8080'"
		sockets   = "ss -Htunap 'sport = :8080'"
		tracked   = "conntrack -L -f ipv4 -p tcp --orig-port-dst 8080"
		tracked6  = "conntrack -L -f ipv6 -p tcp --orig-port-dst 8080"
		visitor   = "203.0.113.9:50000"
	)
	example := text("example", "203.0.113.9:50000 > 192.168.1.5:8080 tcp")
	lost := func(n float64) Fact { return number("connections that lost the address", n, "in the last minute") }
	kept := func(n float64) Fact { return number("connections that kept it", n, "in the last minute") }
	return []ruleCase{
		{
			"published on [::] without IPv6", ipv6,
			one("ipv6-proxy-src", web, listening, text("published on", "[::]:8080"), text("container's IPv6 address", "none")),
		},
		{
			"somebody comes by IPv6", func(v *View) {
				u := webUse(enrich.IPv6ToIPv4Proxy, 4, "[fd00:9::9]:4000", "172.20.0.1:41000")
				u.Example.Original.Destination, u.Example.Inferred = addrPort("[fd00:9::5]:8080"), true
				v.Uses = []Use{u, webUse(enrich.NoMechanism, 900, "203.0.113.8:4", "203.0.113.8:4")}
			},
			one("ipv6-proxy-src", web, listening, text("published on", "[::]:8080"), text("container's IPv6 address", "none"),
				lost(4), text("example", "[fd00:9::9]:4000 > [fd00:9::5]:8080 tcp"),
				text("container sees, as times suggest", "172.20.0.1:41000")),
		},
		{"published on [::] with IPv6", func(v *View) {
			ipv6(v)
			giveIPv6(v)
			v.Host.Connections = v.Host.Connections[:5]
		}, nil},
		{"published on [::], but without a proxy", func(v *View) {
			ipv6(v)
			v.Host.Listeners = v.Host.Listeners[:1]
		}, nil},
		{"published on [::], but another process has the port", func(v *View) {
			ipv6(v)
			v.Host.Listeners[1].Process = "nginx"
			v.Host.Listeners[0].Process = "docker-proxy"
		}, nil},
		{
			"published on [::] and the proxy is known", func(v *View) {
				ipv6(v)
				v.Host.Listeners[1].Process = "docker-proxy"
			},
			one("ipv6-proxy-src", web, listening, text("published on", "[::]:8080"), text("container's IPv6 address", "none")),
		},
		{"IPv6 on a bridge of Docker's only", func(v *View) {
			v.Host.Routes = append(v.Host.Routes, loader.Route{Destination: prefix("2001:db8::/64"), Device: frontIndex})
		}, nil},
		{"an IPv6 tunnel's default route only", func(v *View) {
			v.Host.Routes = append(v.Host.Routes, loader.Route{Destination: prefix("2000::/3"), Device: 18, Gateway: addr("fe80::1")})
		}, nil},
		{
			"sockets of remote clients", func(v *View) {
				connect(v, "192.168.1.5:8080", visitor)
				connect(v, "192.168.1.5:8080", "192.168.1.77:50000") // on macvlan: remote, too
			},
			one("userland-proxy-src", web, sockets,
				number("connections that the host holds", 2, "now"), text("example", visitor+" > 0.0.0.0:8080")),
		},
		{
			"sockets of remote clients over IPv6", giveIPv6,
			one("userland-proxy-src", web, sockets,
				number("connections that the host holds", 1, "now"), text("example", "[2001:db8::9]:4000 > [::]:8080")),
		},
		{
			"sockets of remote clients over both", func(v *View) {
				giveIPv6(v)
				connect(v, "192.168.1.5:8080", visitor)
			},
			one("userland-proxy-src", web, sockets,
				number("connections that the host holds", 2, "now"), text("example", visitor+" > 0.0.0.0:8080")),
		},
		{"sockets of remote clients that nobody will accept", func(v *View) {
			connect(v, "192.168.1.5:8080", visitor)
			v.Host.Listeners = []loader.Listener{{Address: addrPort("0.0.0.0:8080"), Process: "dockerd"}}
		}, nil},
		{"sockets of remote clients where the listener takes IPv6 only", func(v *View) {
			connect(v, "192.168.1.5:8080", visitor)
			v.Host.Listeners = []loader.Listener{{Address: addrPort("[::]:8080"), V6Only: true}}
		}, nil},
		{
			"sockets of remote clients where the listener takes both families", func(v *View) {
				connect(v, "192.168.1.5:8080", visitor)
				v.Host.Listeners = []loader.Listener{{Address: addrPort("[::]:8080")}}
			},
			one("userland-proxy-src", web, sockets,
				number("connections that the host holds", 1, "now"), text("example", visitor+" > 0.0.0.0:8080")),
		},
		{"sockets of the host's own server", func(v *View) { connect(v, "192.168.1.5:22", visitor) }, nil},
		{"sockets of a port published elsewhere", func(v *View) {
			containerOf(v, webID).Published[0].Host = addrPort("192.168.1.6:8080")
			connect(v, "192.168.1.5:8080", visitor)
		}, nil},
		{
			"remote clients by the proxy, of whom some got no answer", used(
				func(u *Use) { u.Attempts, u.Untranslated = 50, 50 }, webUse(enrich.UserlandProxy, 1, visitor, "172.20.0.1:41000")),
			one("userland-proxy-src", web, sockets, lost(1), example, text("container sees", "172.20.0.1:41000")),
		},
		{
			"remote clients by the proxy, and sockets, and others kept", func(v *View) {
				connect(v, "192.168.1.5:8080", visitor)
				v.Uses = []Use{webUse(enrich.UserlandProxy, 3, visitor, ""), webUse(enrich.NoMechanism, 900, "203.0.113.8:4", "203.0.113.8:4")}
			},
			one("userland-proxy-src", web, sockets,
				number("connections that the host holds", 1, "now"), lost(3), kept(900), example),
		},
		{
			"remote UDP by the proxy", func(v *View) { syslog(v, visitor, "192.168.1.5:514", time.Minute) },
			one("userland-proxy-src", webOn("", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv4 -p udp --orig-port-dst 514",
				lost(2), text("example", visitor+" > 192.168.1.5:514 udp")),
		},
		{
			"remote UDP by the proxy, over IPv6", func(v *View) {
				giveIPv6(v)
				v.Host.Connections = v.Host.Connections[:5]
				syslog(v, "[fd00:9::9]:4000", "[fd00:9::5]:514", settle)
			},
			one("userland-proxy-src", webOn("", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv6 -p udp --orig-port-dst 514",
				lost(2), text("example", "[fd00:9::9]:4000 > [fd00:9::5]:514 udp")),
		},
		{"remote UDP by the proxy, opened while the container was away", func(v *View) {
			syslog(v, visitor, "192.168.1.5:514", -time.Second)
		}, nil},
		{"remote UDP by the proxy, opened while the rules were made", func(v *View) {
			syslog(v, visitor, "192.168.1.5:514", settle-1)
		}, nil},
		{"remote UDP by the proxy, opened before anybody looked", func(v *View) {
			syslog(v, visitor, "192.168.1.5:514", time.Minute)
			v.Uses[0].Opened = time.Time{}
		}, nil},
		{
			"remote UDP by the proxy, of entries that are stale", func(v *View) {
				syslog(v, visitor, "192.168.1.5:514", time.Minute)
				stale(v, webID, 17, visitor, "192.168.1.5:514")
			},
			one("stale-udp-ct", webOn("front", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv4 -p udp --orig-port-dst 514",
				number("stale entries", 1, "tracked now"), text("example", visitor+" > 192.168.1.5:514 udp"),
				text("goes to", "the host itself"), text("container's addresses", "172.20.0.2")),
		},
		{
			"remote clients by the proxy, who came before the container's rules", func(v *View) {
				v.Uses = []Use{webUse(enrich.UserlandProxy, 1, visitor, "")}
				containerOf(v, webID).StartedAt = start.Add(time.Second) // of TCP no connection is older than its proxy
			},
			one("userland-proxy-src", web, sockets, lost(1), example),
		},
		{
			"remote clients by the proxy, since the rules changed", func(v *View) {
				v.Uses = []Use{webUse(enrich.UserlandProxy, 1, visitor, "")}
				containerOf(v, webID).StartedAt = start.Add(-time.Hour)
				v.RulesetChanged, v.RulesetChangedBy = start.Add(-time.Minute), "iptables, of bash"
			},
			one("userland-proxy-src", web, sockets, lost(1), example,
				text("rules last changed", "2026-03-01 11:59:00 UTC by iptables, of bash")),
		},
		{
			"remote clients by the proxy, of a container that started after the rules changed", func(v *View) {
				v.Uses = []Use{webUse(enrich.UserlandProxy, 1, visitor, "")}
				containerOf(v, webID).StartedAt = start.Add(-time.Hour)
				v.RulesetChanged = start.Add(-2 * time.Hour)
			},
			one("userland-proxy-src", web, sockets, lost(1), example),
		},
		{"attempts that nobody answers", used(nil,
			inVainBy(enrich.UserlandProxy), inVainBy(enrich.IPv6ToIPv4Proxy), inVainBy(enrich.InboundMasquerade),
			inVainBy(enrich.IngressMesh)), nil},
		{"the host's own clients by the proxy", used(
			func(u *Use) { u.Client = enrich.ClientHost }, webUse(enrich.UserlandProxy, 9, "192.168.1.5:50000", "")), nil},
		{"containers by the proxy", used(
			func(u *Use) { u.Client = enrich.ClientContainer }, webUse(enrich.UserlandProxy, 9, "172.20.0.3:50000", "")), nil},
		{"by the proxy of a container that has ended", used(
			func(u *Use) { u.ContainerID = "0123456789abcdef" }, webUse(enrich.UserlandProxy, 9, visitor, "")), nil},
		{
			"masqueraded on the way in", used(nil,
				webUse(enrich.NoMechanism, 5, "203.0.113.8:4", "203.0.113.8:4"), webUse(enrich.InboundMasquerade, 7, visitor, "172.20.0.1:50000")),
			one("broad-masq", web, tracked, lost(7), kept(5), example, text("container sees", "172.20.0.1:50000")),
		},
		{
			"masqueraded on the way in, by IPv6", used(func(u *Use) { u.Example.Original.Destination = addrPort("[fd00:9::5]:8080") },
				webUse(enrich.InboundMasquerade, 7, "[fd00:9::9]:4000", "[fd00::1]:4000")),
			one("broad-masq", web, tracked6, lost(7),
				text("example", "[fd00:9::9]:4000 > [fd00:9::5]:8080 tcp"), text("container sees", "[fd00::1]:4000")),
		},
		{"masqueraded on the way in, to nobody known", used(
			func(u *Use) { u.ContainerID = "" }, webUse(enrich.InboundMasquerade, 7, visitor, "172.20.0.1:50000")), nil},
		{"masqueraded, as Docker does for hairpin", used(
			func(u *Use) { u.Client = enrich.ClientContainer }, webUse(enrich.Hairpin, 7, "172.20.0.2:50000", "172.20.0.1:50000")), nil},
		{
			"the routing mesh", used(nil, meshUse(1)),
			one("mesh-snat", meshUse(1).Subject, "nsenter --net=/run/docker/netns/ingress_sbox conntrack -L -p tcp --orig-port-dst 8080",
				lost(1), example, text("container sees", "10.0.0.2:50000")),
		},
		{
			"the routing mesh, with the engine's folder elsewhere, by a node that does not know the service", func(v *View) {
				v.Host.Sandboxes = []string{"/srv/docker/netns/ingress_sbox"}
				u := meshUse(2)
				u.Subject.Identity = enrich.Identity{}
				v.Uses = []Use{u}
			},
			one("mesh-snat", Subject{Scope: enrich.ScopeIngress, Object: "8080/tcp"},
				"nsenter --net=/srv/docker/netns/ingress_sbox conntrack -L -p tcp --orig-port-dst 8080",
				lost(2), example, text("container sees", "10.0.0.2:50000")),
		},
		{"the routing mesh without its rules, where the engine's socket answers", used(
			func(u *Use) { u.Example.Reply.Source = u.Example.Original.Destination }, meshUse(5)), nil},
		{"the routing mesh, for the host itself", used(func(u *Use) { u.Client = enrich.ClientHost }, meshUse(5)), nil},
		{
			"to be recognised, and shares", func(v *View) { require(v, webID, "192.168.1.5", 3, 2) },
			one("masq-src", webOn("", enrich.ScopeHost, "192.168.1.5"), "conntrack -L --src-nat 192.168.1.5",
				text("appears as", "192.168.1.5"), number("connections of the container", 3, "tracked now"),
				number("containers that appear so", 2, "")),
		},
		{"to be recognised, and alone", func(v *View) { require(v, webID, "192.168.1.5", 3, 1) }, nil},
		{"shares, and need not be recognised", func(v *View) {
			require(v, webID, "192.168.1.5", 3, 2)
			containerOf(v, webID).Labels[enrich.LabelSourceAddress] = "no"
		}, nil},
		{"to be recognised, and has ended", func(v *View) {
			require(v, webID, "192.168.1.5", 3, 2)
			v.Tracking.Identities[0].ContainerID = "0123456789abcdef"
		}, nil},
	}
}
