// SPDX-License-Identifier: Apache-2.0

package loader

import "net/netip"

// Tuple is one direction of a connection. ICMP has no ports: the identifier is in place of both. Other protocols without
// ports have 0.
type Tuple struct {
	Source, Destination netip.AddrPort
}

// Tracked is a connection as the kernel's connection tracking has it. Original is how its first packet came, Reply how the
// answer is expected: what NAT does to it is the difference between the two.
type Tracked struct {
	Netns    Netns // where; 0: not known
	NetnsID  int   // the number under which the host's namespace knows it; -1: it is the host's own, or not known
	Protocol uint8
	Original Tuple
	Reply    Tuple

	// SourceNAT and DestinationNAT are the kernel's marks. They are also set where nothing but a port had to change, and
	// DestinationNAT is not where IPVS chose the destination.
	SourceNAT      bool
	DestinationNAT bool
	// Masqueraded tells of a MASQUERADE rule, which takes the address of the device. Absent: not known, as of what the events
	// alone tell; and of all connections where nf_nat is a module and says nothing of its types (before 5.11), or was loaded
	// after the program.
	Masqueraded Switch

	Device int  // ifindex in Netns of the device that its first packet left by; 0: not known
	Local  bool // a process of Netns sent that packet; false also where that is not known
}

// Translated tells whether the answer is expected from elsewhere than the first packet went to, or for somebody else than
// it came from.
func (t *Tracked) Translated() bool {
	return t.Original.Source != t.Reply.Destination || t.Original.Destination != t.Reply.Source
}
