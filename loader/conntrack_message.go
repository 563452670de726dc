// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/netfilter/nfnetlink_conntrack.h: messages, and their attributes.
const (
	conntrackNew = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW, 0
	conntrackGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET

	ctaTupleOriginal = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaStatusMask    = 26 // since 5.15

	ctaTupleIP       = 1
	ctaTupleProtocol = 2

	ctaIPv4Source      = 1
	ctaIPv4Destination = 2
	ctaIPv6Source      = 3
	ctaIPv6Destination = 4

	ctaProtocolNumber          = 1
	ctaProtocolSourcePort      = 2
	ctaProtocolDestinationPort = 3
	ctaProtocolICMPID          = 4
	ctaProtocolICMPv6ID        = 7
)

// Bits of an entry's status, from include/uapi/linux/netfilter/nf_conntrack_common.h.
const (
	statusSeenReply = 1 << 1
	statusSourceNAT = 1 << 4
	statusDestNAT   = 1 << 5
)

// Layout of netlink's attributes, from include/uapi/linux/netlink.h.
const (
	attributeHeader   = 4
	attributeTypeMask = 1<<14 - 1 // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// conntrackEntry is an entry as the kernel describes it in a message.
type conntrackEntry struct {
	Tracked
	status uint32
}

// replied tells whether packets have come from both sides.
func (e *conntrackEntry) replied() bool { return e.status&statusSeenReply != 0 }

// parseConntrack reads the description of an entry, which follows the header of a netlink message; false: it is none, or
// cut short. It allocates nothing and keeps nothing of the message.
func parseConntrack(message []byte) (entry conntrackEntry, ok bool) {
	if len(message) < sizeofNfgenmsg {
		return conntrackEntry{}, false
	}
	entry.NetnsID = -1
	var reply uint8
	var original, answer, status bool
	for rest := message[sizeofNfgenmsg:]; len(rest) > 0; {
		var kind uint16
		var value []byte
		if kind, value, rest, ok = nextAttribute(rest); !ok {
			return conntrackEntry{}, false
		}
		switch kind {
		case ctaTupleOriginal:
			entry.Original, entry.Protocol, original = parseTuple(value)
		case ctaTupleReply:
			entry.Reply, reply, answer = parseTuple(value)
		case ctaStatus:
			if status = len(value) == 4; status {
				entry.status = binary.BigEndian.Uint32(value)
			}
		}
	}
	if !original || !answer || !status || entry.Protocol != reply {
		return conntrackEntry{}, false
	}
	entry.SourceNAT = entry.status&statusSourceNAT != 0
	entry.DestinationNAT = entry.status&statusDestNAT != 0
	return entry, true
}

// parseTuple reads one direction of an entry.
func parseTuple(nested []byte) (tuple Tuple, protocol uint8, ok bool) {
	var source, destination netip.Addr
	var ports struct{ source, destination uint16 }
	for rest := nested; len(rest) > 0; {
		var kind uint16
		var value []byte
		if kind, value, rest, ok = nextAttribute(rest); !ok {
			return Tuple{}, 0, false
		}
		switch kind {
		case ctaTupleIP:
			source, destination, ok = parseAddresses(value)
		case ctaTupleProtocol:
			protocol, ports.source, ports.destination, ok = parsePorts(value)
		}
		if !ok {
			return Tuple{}, 0, false
		}
	}
	tuple = Tuple{
		Source:      netip.AddrPortFrom(source, ports.source),
		Destination: netip.AddrPortFrom(destination, ports.destination),
	}
	return tuple, protocol, source.IsValid() && destination.IsValid()
}

func parseAddresses(nested []byte) (source, destination netip.Addr, ok bool) {
	for rest := nested; len(rest) > 0; {
		var kind uint16
		var value []byte
		if kind, value, rest, ok = nextAttribute(rest); !ok {
			return netip.Addr{}, netip.Addr{}, false
		}
		size := 4
		if kind == ctaIPv6Source || kind == ctaIPv6Destination {
			size = 16
		}
		if len(value) != size {
			return netip.Addr{}, netip.Addr{}, false
		}
		address, _ := netip.AddrFromSlice(value)
		switch kind {
		case ctaIPv4Source, ctaIPv6Source:
			source = address.Unmap()
		case ctaIPv4Destination, ctaIPv6Destination:
			destination = address.Unmap()
		}
	}
	return source, destination, source.Is4() == destination.Is4()
}

func parsePorts(nested []byte) (protocol uint8, source, destination uint16, ok bool) {
	for rest := nested; len(rest) > 0; {
		var kind uint16
		var value []byte
		if kind, value, rest, ok = nextAttribute(rest); !ok {
			return 0, 0, 0, false
		}
		switch {
		case kind == ctaProtocolNumber && len(value) == 1:
			protocol = value[0]
		case kind == ctaProtocolSourcePort && len(value) == 2:
			source = binary.BigEndian.Uint16(value)
		case kind == ctaProtocolDestinationPort && len(value) == 2:
			destination = binary.BigEndian.Uint16(value)
		case (kind == ctaProtocolICMPID || kind == ctaProtocolICMPv6ID) && len(value) == 2:
			source = binary.BigEndian.Uint16(value)
			destination = source
		}
	}
	return protocol, source, destination, true
}

// nextAttribute takes the first attribute off a list of them; false: its length lies.
func nextAttribute(list []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(list) < attributeHeader {
		return 0, nil, nil, false
	}
	length := int(binary.NativeEndian.Uint16(list))
	if length < attributeHeader || length > len(list) {
		return 0, nil, nil, false
	}
	next := min((length+3)&^3, len(list))
	return binary.NativeEndian.Uint16(list[2:]) & attributeTypeMask, list[attributeHeader:length], list[next:], true
}

// nextMessage takes the first message off a datagram of netlink; false: there is none, or its length lies.
func nextMessage(datagram []byte) (header unix.NlMsghdr, body, rest []byte, ok bool) {
	if len(datagram) < unix.SizeofNlMsghdr {
		return unix.NlMsghdr{}, nil, nil, false
	}
	header = unix.NlMsghdr{
		Len:   binary.NativeEndian.Uint32(datagram),
		Type:  binary.NativeEndian.Uint16(datagram[4:]),
		Flags: binary.NativeEndian.Uint16(datagram[6:]),
	}
	if header.Len < unix.SizeofNlMsghdr || uint64(header.Len) > uint64(len(datagram)) {
		return unix.NlMsghdr{}, nil, nil, false
	}
	next := min(int(header.Len+3)&^3, len(datagram))
	return header, datagram[unix.SizeofNlMsghdr:header.Len], datagram[next:], true
}
