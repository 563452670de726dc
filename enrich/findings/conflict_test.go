// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

func conflictCases() []ruleCase {
	listen := func(listeners ...loader.Listener) func(*View) { return func(v *View) { v.Host.Listeners = listeners } }
	by := func(process, at string) loader.Listener {
		return loader.Listener{Address: addrPort(at), Process: process}
	}
	unstarted := func(port uint16, listeners ...loader.Listener) func(*View) {
		return func(v *View) {
			v.Host.Listeners = append(v.Host.Listeners, listeners...)
			v.Inventory.Unstarted = []enrich.UnstartedContainer{{
				Identity: enrich.Identity{Stack: "shop", Service: "old", Container: "shop-old-1"}, ID: "dead", Name: "shop-old-1",
				Error: "Bind for 0.0.0.0:8080 failed: port is already allocated", Port: port,
			}}
		}
	}
	wanting := func(address, protocol string, change func(*View)) func(*View) {
		return func(v *View) {
			change(v)
			u := &v.Inventory.Unstarted[0]
			u.Address, u.Protocol = addr(address), protocol
		}
	}
	failed := func(port, holder string) []raised {
		return one("port-conflict", Subject{
			Identity: enrich.Identity{Stack: "shop", Service: "old", Container: "shop-old-1"}, Scope: enrich.ScopeHost, Object: port,
		}, "ss -Htulnp 'sport = :"+port+"'", text("did not start", "shop-old-1"),
			text("the engine says", "Bind for 0.0.0.0:8080 failed: port is already allocated"), text("held by", holder))
	}
	const owner = "ss -Htulnp 'sport = :8080'"
	web := webOn("", enrich.ScopeHost, "8080/tcp")
	return []ruleCase{
		{
			"another process has the port", listen(by("nginx", "0.0.0.0:8080"), by("nginx", "[::]:8080")),
			one("port-conflict", web, owner, text("published on", "0.0.0.0:8080"), text("held by", "nginx on 0.0.0.0:8080")),
		},
		{
			"another process has the port on one address", listen(by("nginx", "192.168.1.5:8080")),
			one("port-conflict", web, owner, text("published on", "0.0.0.0:8080"), text("held by", "nginx on 192.168.1.5:8080")),
		},
		{
			"another process has the port and serves remote clients", func(v *View) {
				listen(by("nginx", "0.0.0.0:8080"))(v)
				v.Uses = []Use{webUse(enrich.UserlandProxy, 9, "203.0.113.9:50000", "")}
			},
			one("port-conflict", web, owner, text("published on", "0.0.0.0:8080"), text("held by", "nginx on 0.0.0.0:8080")),
		},
		{
			"another process has the port of both families", func(v *View) {
				containerOf(v, webID).Published = containerOf(v, webID).Published[:1] // 0.0.0.0 alone
				listen(by("caddy", "[::]:8080"))(v)
			},
			one("port-conflict", web, owner, text("published on", "0.0.0.0:8080"), text("held by", "caddy on [::]:8080")),
		},
		{
			"another process has the port of both families, published on one address", func(v *View) {
				containerOf(v, webID).Published = containerOf(v, webID).Published[:1]
				containerOf(v, webID).Published[0].Host = addrPort("192.168.1.6:8080")
				listen(by("caddy", "[::]:8080"))(v)
			},
			one("port-conflict", web, owner, text("published on", "192.168.1.6:8080"), text("held by", "caddy on [::]:8080")),
		},
		{"another process has the port of IPv6 only", func(v *View) {
			containerOf(v, webID).Published = containerOf(v, webID).Published[:1]
			listen(by("caddy", "[::]:8080"))(v)
			v.Host.Listeners[0].V6Only = true
		}, nil},
		{"another process has the port on loopback", listen(by("systemd-resolve", "127.0.0.53:8080")), nil},
		{"another process has another address", func(v *View) {
			containerOf(v, webID).Published[0].Host = addrPort("192.168.1.6:8080")
			listen(by("nginx", "192.168.1.5:8080"))(v)
			containerOf(v, webID).Published = containerOf(v, webID).Published[:1]
		}, nil},
		{"the engine keeps the port", listen(by("dockerd", "0.0.0.0:8080"), by("dockerd", "[::]:8080")), nil},
		{"the proxy has the port, and somebody beside it", listen(by("nginx", "192.168.1.5:8080"), by("docker-proxy", "0.0.0.0:8080")), nil},
		{"nobody knows who has the port", listen(by("", "0.0.0.0:8080")), nil},
		{"another process has the same port of UDP", func(v *View) {
			containerOf(v, webID).Published[0].Protocol, containerOf(v, webID).Published[1].Protocol = "udp", "udp"
			listen(by("nginx", "0.0.0.0:8080"))(v)
		}, nil},
		{"another container has the port of one that did not start", unstarted(8080), failed("8080", "container shop-web-1 on 0.0.0.0:8080")},
		{"a process has the port of one that did not start", unstarted(81, by("nginx", "0.0.0.0:81")), failed("81", "nginx on 0.0.0.0:81")},
		{"somebody has the port of one that did not start", unstarted(22), failed("22", "a process that is not known on 0.0.0.0:22")},
		{
			"another container has the port of one that did not start, on all addresses", wanting("192.168.1.6", "tcp", unstarted(8080)),
			failed("8080", "container shop-web-1 on 0.0.0.0:8080"),
		},
		{
			"another container has the port of one that did not start, on one address",
			wanting("0.0.0.0", "tcp", func(v *View) {
				unstarted(8080)(v)
				containerOf(v, webID).Published[0].Host = addrPort("192.168.1.5:8080")
			}),
			failed("8080", "container shop-web-1 on 192.168.1.5:8080"),
		},
		{"another container has the number of the port of one that did not start", wanting("0.0.0.0", "udp", unstarted(8080)), nil},
		{
			"another container has the port of one that did not start, on another address",
			wanting("192.168.1.6", "tcp", func(v *View) {
				unstarted(8080)(v)
				containerOf(v, webID).Published[0].Host = addrPort("192.168.1.5:8080")
				v.Host.Listeners = nil
			}), nil,
		},
		{
			"another container has the port of one that did not start, of the other family",
			wanting("::", "tcp", func(v *View) {
				unstarted(8080)(v)
				containerOf(v, webID).Published = containerOf(v, webID).Published[:1]
				v.Host.Listeners = nil
			}), nil,
		},
		{
			"a process has the port of one that did not start, on loopback",
			wanting("0.0.0.0", "tcp", unstarted(81, by("nginx", "192.168.1.5:82"), by("nginx", "127.0.0.1:81"))),
			failed("81", "nginx on 127.0.0.1:81"),
		},
		{
			"a process has the port of one that did not start, of both families",
			wanting("192.168.1.5", "tcp", unstarted(81, by("nginx", "127.0.0.1:81"), by("caddy", "[::]:81"))),
			failed("81", "caddy on [::]:81"),
		},
		{"a process has the port of one that did not start, on another address", wanting("192.168.1.6", "tcp", unstarted(81, by("nginx", "192.168.1.5:81"))), nil},
		{"a process has the number of the port of one that did not start", wanting("0.0.0.0", "udp", unstarted(81, by("nginx", "0.0.0.0:81"))), nil},
		{"nobody has the port of one that did not start", unstarted(81), nil},
		{"nobody knows the port of one that did not start", unstarted(0), nil},
	}
}
