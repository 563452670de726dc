// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"
)

// NATNews is what happened to connections since the last [NAT.Read].
type NATNews struct {
	// Opened are the new connections that are translated, in any namespace, and those of the host's namespace to one of the
	// endpoints given to [NAT.SetEndpoints], translated or not. Each is in here once in its life.
	Opened []NATEvent
	// Answered are those of them whose first answer has left: of TCP the SYN and ACK. A connection may be answered before
	// the same Read tells that it was opened; one that was there before the agent may be answered without having been opened.
	Answered []NATEvent
}

// NATEvent is something that happened to a connection.
type NATEvent struct {
	Tracked
	At time.Time
}

// NATEndpoint is where connections may go to that are of interest even if nothing translates them: a published port, or the
// port of a container that one leads to.
type NATEndpoint struct {
	Protocol uint8
	Address  netip.Addr // unspecified: any
	Port     uint16
}

// NATConfig says how much is kept between two reads.
type NATConfig struct {
	RingSize     uint32 // bytes of the program's ring, a power of two; 0: 4 MiB
	SocketBuffer int    // bytes for conntrack's events; 0: 8 MiB
	Connections  uint32 // that the program remembers, so as to count each once; 0: 65,536
}
