// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// routeCases drop because the host cannot or may not forward.
func routeCases() []dropCase {
	return []dropCase{
		{"route-unreachable", bothFamilies, routeUnreachable},
		{"route-blackhole", bothFamilies, routeBlackhole},
		{"route-missing", bothFamilies, routeMissing},
		{"reverse-path", ipv4Only, reversePath}, // IPv6 has no such sysctl
		{"ttl-expired", bothFamilies, ttlExpired},
		{"path-mtu", bothFamilies, pathMTU},
		{"dead-neighbour", bothFamilies, deadNeighbour},
		{"dead-next-hop", bothFamilies, deadNextHop},
		{"forwarding-off", ipv4Only, forwardingOff}, // for IPv6 the kernel then takes the packets for its own
	}
}

// heedless is for how long a sender must go on with packets that are too big before that is a finding: longer than it
// takes to learn a path's MTU.
const heedless = 4 * time.Second

// elsewhere is an address beyond the host that no other case sends to.
func (s stage) elsewhere() netip.AddrPort {
	return netip.AddrPortFrom(s.pick(netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:7::7")), port)
}

// unrouted is a container's packet that the host does not forward.
func unrouted(c *lab.Container, cause string, n count, counter string, reasons ...string) []drops {
	return of(c, "host", "tx", fault(cause), n, counter, reasons...)
}

func routeUnreachable(s stage) []drops {
	victim := s.run("victim")
	route := []string{"unreachable", s.elsewhere().Addr().String()}
	s.ip(s.host, append([]string{"route", "add"}, route...)...)
	s.undo(s.host, append([]string{"route", "delete"}, route...)...)
	sent := victim.Send(s, lab.Datagrams{To: s.elsewhere(), Count: 50})
	return unrouted(victim, "no-route", exactly(sent), "sent", "IP_INNOROUTES", "NOT_SPECIFIED")
}

func routeBlackhole(s stage) []drops {
	victim := s.run("victim")
	route := []string{"blackhole", s.elsewhere().Addr().String()}
	s.ip(s.host, append([]string{"route", "add"}, route...)...)
	s.undo(s.host, append([]string{"route", "delete"}, route...)...)
	sent := victim.Send(s, lab.Datagrams{To: s.elsewhere(), Count: 50})
	return unrouted(victim, "no-route", exactly(sent), "sent", "IP_INNOROUTES", "NOT_SPECIFIED")
}

func routeMissing(s stage) []drops {
	victim := s.run("victim")
	gateway := s.pick(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")).String()
	before := s.noRoutes(s)
	s.ip(s.host, "route", "delete", "default", "via", gateway)
	s.undo(s.host, "route", "add", "default", "via", gateway)
	victim.Send(s, lab.Datagrams{To: s.elsewhere(), Count: 50})
	return unrouted(victim, "no-route", since(s.noRoutes, before), "InNoRoutes", "IP_INNOROUTES", "NOT_SPECIFIED")
}

// noRoutes is the host's own count of packets that it had no route for.
func (s stage) noRoutes(tb testing.TB) uint64 {
	if s.family == lab.IPv6 {
		return s.host.SNMP(tb, "Ip6", "InNoRoutes")
	}
	return s.host.SNMP(tb, "IpExt", "InNoRoutes")
}

// since is how much a count has grown.
func since(n count, before uint64) count {
	return func(tb testing.TB) uint64 { return n(tb) - before }
}

// reversePath sends from an address that the host would answer over another device.
func reversePath(s stage) []drops {
	victim := s.run("victim")
	strict := "net.ipv4.conf." + s.engine.Bridge(s, s.network) + ".rp_filter"
	s.host.Run(s, "sysctl", "-w", strict+"=1")
	s.Cleanup(func() { s.host.Run(s, "sysctl", "-w", strict+"=0") })
	// With the spoofed source in them, the container's ARP requests would be filtered too.
	s.ip(victim.Place, "neighbour", "replace", victim.Gateway(s.network),
		"lladdr", s.host.LinkAddr(s, s.engine.Bridge(s, s.network)), "dev", "eth0", "nud", "permanent")
	spoofed := s.elsewhere().Addr()
	s.ip(victim.Place, "address", "add", spoofed.String(), "dev", "eth0")
	filtered := snmp(s.host, "TcpExt", "IPReversePathFilter")
	before := filtered(s)
	victim.Send(s, lab.Datagrams{To: s.beyond(), From: spoofed, Count: 50})
	return unrouted(victim, "rp-filter", since(filtered, before), "IPReversePathFilter", "IP_RPFILTER", "NOT_SPECIFIED")
}

func ttlExpired(s stage) []drops {
	victim := s.run("victim")
	sent := victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 150, TTL: 1}) // more than a path trace sends
	return unrouted(victim, "ttl-loop", exactly(sent), "sent", "IP_INHDR", "NOT_SPECIFIED")
}

// pathMTU sends whole packets towards a route with a smaller MTU.
func pathMTU(s stage) []drops {
	victim := s.run("victim")
	gateway := s.pick(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")).String()
	route := []string{s.elsewhere().Addr().String(), "via", gateway, "mtu", "1280"}
	s.ip(s.host, append([]string{"route", "add"}, route...)...)
	s.undo(s.host, append([]string{"route", "delete"}, route...)...)
	sent := victim.Send(s, lab.Datagrams{To: s.elsewhere(), Count: 50, Size: 1400, Whole: true, Interval: heedless / 50})
	return unrouted(victim, "mtu-route", exactly(sent), "sent", "PKT_TOO_BIG", "NOT_SPECIFIED")
}

// deadNeighbour sends to an address of the container's own network that nobody has: it fails in the container.
func deadNeighbour(s stage) []drops {
	victim := s.run("victim")
	nobody := netip.AddrPortFrom(s.pick(netip.MustParseAddr("10.80.0.250"), netip.MustParseAddr("fd00:80::250")), port)
	sent := victim.Send(s, lab.Datagrams{To: nobody, Count: 20})
	s.awaitDeadNeighbour(victim.Place, nobody.Addr())
	return of(victim, "container", "tx", fault("dead-endpoint"), exactly(sent), "sent", "NEIGH_FAILED", "NOT_SPECIFIED")
}

// deadNextHop sends to an address on the host's uplink that nobody has: it fails on the host. A machine of the LAN that is
// off raises no finding.
func deadNextHop(s stage) []drops {
	victim := s.run("victim")
	nobody := netip.AddrPortFrom(s.pick(netip.MustParseAddr("192.0.2.250"), netip.MustParseAddr("2001:db8:1::250")), port)
	sent := victim.Send(s, lab.Datagrams{To: nobody, Count: 20})
	s.awaitDeadNeighbour(s.host, nobody.Addr())
	lost := unrouted(victim, "dead-endpoint", exactly(sent), "sent", "NEIGH_FAILED", "NOT_SPECIFIED")
	lost[0].nobodys = true
	return lost
}

// forwardingOff turns off what Docker needs, as hardening tools do.
func forwardingOff(s stage) []drops {
	victim := s.run("victim")
	s.host.Run(s, "sysctl", "-w", "net.ipv4.ip_forward=0")
	s.Cleanup(func() { s.host.Run(s, "sysctl", "-w", "net.ipv4.ip_forward=1") })
	before := s.host.SNMP(s, "Ip", "InAddrErrors")
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 50})
	return unrouted(victim, "ip-forward-off", since(snmp(s.host, "Ip", "InAddrErrors"), before), "InAddrErrors", "IP_INADDRERRORS", "NOT_SPECIFIED")
}

// awaitDeadNeighbour waits until the place has given up asking for an address; its queue is dropped then.
func (s stage) awaitDeadNeighbour(place lab.Place, addr netip.Addr) {
	s.Helper()
	lab.Eventually(s, patience, "neighbour "+addr.String()+" to be given up", func() bool {
		state := place.Run(s, "ip", "neighbour", "show", addr.String())
		return !strings.Contains(state, "INCOMPLETE")
	})
}
