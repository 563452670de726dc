// SPDX-License-Identifier: Apache-2.0

package enrich

import "golang.org/x/sys/unix"

// ProtocolName is the value that says which of IP's protocols a packet has: tcp, udp, icmp, sctp or other. Those with ports
// have the names that Docker gives them.
func ProtocolName(protocol uint8) string {
	switch protocol {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return "other"
}
