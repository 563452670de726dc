// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"
)

// dnsPacket is what the program saw of a datagram or TCP segment that may carry messages.
type dnsPacket struct {
	netns       Netns
	at          time.Time // with a reading of the monotonic clock
	outgoing    bool      // it leaves a socket of netns; else it has come to one
	protocol    uint8     // unix.IPPROTO_UDP or IPPROTO_TCP
	source      netip.AddrPort
	destination netip.AddrPort
	flags       uint8  // of TCP: FIN, SYN, RST and ACK as in its header
	sequence    uint32 // of TCP: of the first byte of the payload, or the SYN's
	length      int    // bytes of payload
	payload     []byte // as much of it as was copied; valid until the packet's reader goes on
}
