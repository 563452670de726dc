// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

type routerAdvertise struct {
	Device string `arg:"" help:"Where to."`
}

// Run tells all on a link once that here is a router for half an hour (RFC 4861, 4.2). The kernel adds the checksum.
func (c routerAdvertise) Run() error {
	link, err := net.InterfaceByName(c.Device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", c.Device, err)
	}
	fd, err := openSocket(netip.IPv6Unspecified(), unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return fmt.Errorf("set hop limit: %w", err)
	}
	message := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	all := &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16(), ZoneId: uint32(link.Index)}
	if err := unix.Sendto(fd, message, 0, all); err != nil {
		return fmt.Errorf("advertise on %s: %w", c.Device, err)
	}
	return report{Sent: 1}.print()
}
