// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// openSocket returns a blocking socket of the address's family.
func openSocket(addr netip.Addr, kind, protocol int) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	return fd, nil
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
}

// wildcard is the address that listens on both families.
func wildcard(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
}

// listenSocket returns a socket bound to port on all addresses, IPv4 and IPv6. Where a namespace has no IPv6 it
// falls back to IPv4.
func listenSocket(port uint16, kind int) (int, error) {
	fd, err := boundSocket(wildcard(port), kind)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return boundSocket(netip.AddrPortFrom(netip.IPv4Unspecified(), port), kind)
	}
	return fd, err
}

func boundSocket(addr netip.AddrPort, kind int) (int, error) {
	fd, err := openSocket(addr.Addr(), kind, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, sockaddr(addr)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", addr, err)
	}
	return fd, nil
}

// setHopLimit sets the time to live of what the socket sends; 0 leaves the default.
func setHopLimit(fd int, addr netip.Addr, hops int) error {
	if hops == 0 {
		return nil
	}
	if addr.Is6() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, hops)
}

// setFragments lets the kernel fragment what exceeds the MTU, or forbids it to every router. Either way the socket
// learns no MTU from the path.
func setFragments(fd int, addr netip.Addr, allow bool) error {
	if addr.Is6() {
		mode := unix.IPV6_PMTUDISC_PROBE
		if allow {
			mode = unix.IPV6_PMTUDISC_DONT
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
	mode := unix.IP_PMTUDISC_PROBE
	if allow {
		mode = unix.IP_PMTUDISC_DONT
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
}
