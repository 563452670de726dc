/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the egress signal shares with user space. */
#ifndef BRIDGEWATCH_EGRESS_H
#define BRIDGEWATCH_EGRESS_H

#include "include/kernel.h"

#define EGRESS_COARSE_BITS 20

/* A subnet whose addresses must not leave the host, as an LPM trie has it. */
struct egress_subnet {
	__u32 length; /* bits, of 128 */
	__u32 address[4]; /* IPv6 or IPv4-mapped, network order */
};

/* Who sent by which link. Of what found no room in the table: the link alone. */
struct egress_key {
	__u32 source[4]; /* IPv6 or IPv4-mapped, network order */
	__u32 device; /* ifindex */
	__u32 protocol;
};

struct egress_value {
	__u32 destination[4]; /* of the first packet */
	__u64 skbs;
	__u64 packets; /* GSO segments */
	__u64 bytes; /* with the link's header */
	__u64 resets; /* packets with RST or FIN */
};

enum egress_counter {
	EGRESS_TABLE_FULL, /* counted for the device only */
	EGRESS_LOST, /* not even that had room */
	EGRESS_NOT_PARSED, /* counted, but what follows the addresses could not be read */
	EGRESS_COUNTERS,
};

#endif
