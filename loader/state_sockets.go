// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxConnections bounds a HostState's Connections.
const maxConnections = 4096

// States of a TCP socket, as bits.
const (
	stateListening = 1 << netlink.TCP_LISTEN
	// stateConnected are all from the handshake's end to that of TIME_WAIT.
	stateConnected = 1<<netlink.TCP_ESTABLISHED | 1<<netlink.TCP_FIN_WAIT1 | 1<<netlink.TCP_FIN_WAIT2 |
		1<<netlink.TCP_TIME_WAIT | 1<<netlink.TCP_CLOSE_WAIT | 1<<netlink.TCP_LAST_ACK | 1<<netlink.TCP_CLOSING
)

// From include/uapi/linux/inet_diag.h: a request, and the fields of a reply that are read.
const (
	sizeofInetDiagReq  = 56
	inetDiagReqStates  = 4
	inetDiagBytecode   = 1
	sizeofInetDiagMsg  = 72
	inetDiagFamily     = 0
	inetDiagState      = 1
	inetDiagLocalPort  = 4 // big endian, as is the next
	inetDiagRemotePort = 6
	inetDiagLocal      = 8
	inetDiagRemote     = 24
	inetDiagInode      = 68
	inetDiagV6Only     = 11 // an attribute, which the kernel adds for IPv6 sockets that listen (inet_diag_msg_attrs_fill)
)

// tcpSocket is one of a process of this namespace.
type tcpSocket struct {
	local  netip.AddrPort
	remote netip.AddrPort
	inode  uint32
	v6Only bool // known of those that listen
}

// readListeners lists the TCP sockets that listen. The kernel keeps them in a table of their own.
func (s *HostState) readListeners(query HostQuery) error {
	var found []tcpSocket
	err := listTCP(stateListening, nil, func(socket tcpSocket) { found = append(found, socket) })
	if err != nil {
		return err
	}
	ranges := portRanges(query.Ports)
	var published []uint32
	for _, socket := range found {
		if contains(ranges, socket.local.Port()) {
			published = append(published, socket.inode)
		}
	}
	var names map[uint32]string
	if query.Owners != nil {
		err = query.Owners.update(published, time.Now())
		names, s.Proxies = query.Owners.names, query.Owners.proxies
	}
	for _, socket := range found {
		s.Listeners = append(s.Listeners, Listener{
			Address: unmap(socket.local), V6Only: socket.v6Only, Process: names[socket.inode],
		})
	}
	return err
}

// readConnections lists the connections on some ports.
func (s *HostState) readConnections(ports []uint16) error {
	if len(ports) == 0 {
		return nil
	}
	ranges := portRanges(ports)
	err := listTCP(stateConnected, portFilter(ranges), func(socket tcpSocket) {
		switch {
		case !contains(ranges, socket.local.Port()):
		case len(s.Connections) == maxConnections:
			s.MoreConnections++
		default:
			s.Connections = append(s.Connections, Connection{
				Local: unmap(socket.local), Remote: unmap(socket.remote),
			})
		}
	})
	if err != nil {
		s.Connections, s.MoreConnections = nil, 0
	}
	return err
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// listTCP calls found for each socket of both families that is in one of the states and passes the filter; nil: all do.
func listTCP(states uint32, filter []byte, found func(tcpSocket)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		body := make([]byte, sizeofInetDiagReq)
		body[0], body[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(body[inetDiagReqStates:], states)
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddRawData(body)
		if filter != nil {
			request.AddRawData(nl.NewRtAttr(inetDiagBytecode, filter).Serialize())
		}
		err := request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
			if socket, ok := parseTCP(m); ok {
				found(socket)
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("list TCP sockets: %w (the kernel needs inet_diag and tcp_diag, the agent AF_NETLINK sockets)", err)
		}
	}
	return nil
}

// parseTCP reads a reply of the kernel's socket lister.
func parseTCP(m []byte) (tcpSocket, bool) {
	if len(m) < sizeofInetDiagMsg {
		return tcpSocket{}, false
	}
	size := 4
	if m[inetDiagFamily] == unix.AF_INET6 {
		size = 16
	}
	end := func(address, port int) netip.AddrPort {
		a, _ := netip.AddrFromSlice(m[address : address+size])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(m[port:]))
	}
	return tcpSocket{
		local:  end(inetDiagLocal, inetDiagLocalPort),
		remote: end(inetDiagRemote, inetDiagRemotePort),
		inode:  binary.NativeEndian.Uint32(m[inetDiagInode:]),
		v6Only: m[inetDiagState] == netlink.TCP_LISTEN && isV6Only(m[sizeofInetDiagMsg:]),
	}, true
}

// isV6Only looks for the attribute that says so. Without it, as of IPv4 sockets, or if it cannot be read, there is no such word.
func isV6Only(attributes []byte) bool {
	parsed, err := nl.ParseRouteAttr(attributes)
	return err == nil && slices.ContainsFunc(parsed, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == inetDiagV6Only && len(a.Value) > 0 && a.Value[0] != 0
	})
}

// portRange is both ends and what lies between.
type portRange struct{ first, last uint16 }

// portRanges sorts ports and puts neighbours together.
func portRanges(ports []uint16) []portRange {
	ports = slices.Sorted(slices.Values(ports))
	var ranges []portRange
	for _, p := range ports {
		if n := len(ranges); n > 0 && int(p) <= int(ranges[n-1].last)+1 {
			ranges[n-1].last = p
			continue
		}
		ranges = append(ranges, portRange{p, p})
	}
	return ranges
}

func contains(ranges []portRange, port uint16) bool {
	i, found := slices.BinarySearchFunc(ranges, port, func(r portRange, port uint16) int { return int(r.first) - int(port) })
	return found || i > 0 && port <= ranges[i-1].last
}
