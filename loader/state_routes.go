// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readRoutes lists the main table. Routes that the kernel made of others, for path MTUs and redirects, are not in it.
func (s *HostState) readRoutes() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		var found []netlink.Route
		err := untilWhole(func() (err error) {
			found, err = netlink.RouteListFiltered(family, &netlink.Route{}, 0)
			return err
		})
		if err != nil {
			s.Routes = nil
			return fmt.Errorf("list routes: %w (%s)", err, needsNetlink)
		}
		for i := range found {
			s.Routes = append(s.Routes, newRoutes(&found[i])...)
		}
	}
	return nil
}

// newRoutes makes one route for each next hop.
func newRoutes(found *netlink.Route) []Route {
	route := Route{Destination: destination(found), Protocol: found.Protocol.String()}
	switch {
	case found.Type != unix.RTN_UNICAST: // blackhole, unreachable, prohibit, throw. IPv6 names the loopback then
		return []Route{route}
	case len(found.MultiPath) == 0:
		route.Device, route.Gateway = found.LinkIndex, gateway(found.Gw, found.Via)
		return []Route{route}
	}
	routes := make([]Route, 0, len(found.MultiPath))
	for _, hop := range found.MultiPath {
		route.Device, route.Gateway = hop.LinkIndex, gateway(hop.Gw, hop.Via)
		routes = append(routes, route)
	}
	return routes
}

// destination is what a route leads to. That of a default route is left out, or of the wrong length.
func destination(found *netlink.Route) netip.Prefix {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if found.Family == unix.AF_INET6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if found.Dst == nil {
		return all
	}
	bits, _ := found.Dst.Mask.Size()
	address, ok := netip.AddrFromSlice(found.Dst.IP)
	if !ok || bits == 0 {
		return all
	}
	return netip.PrefixFrom(address, bits)
}

// gateway is of either family: via is an IPv6 one of an IPv4 route.
func gateway(ip net.IP, via netlink.Destination) netip.Addr {
	if other, ok := via.(*netlink.Via); ok {
		ip = other.Addr
	}
	address, _ := netip.AddrFromSlice(ip)
	return address
}
