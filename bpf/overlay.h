/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the overlay signal shares with user space. */
#ifndef BRIDGEWATCH_OVERLAY_H
#define BRIDGEWATCH_OVERLAY_H

#include "include/kernel.h"

#define OVERLAY_MANAGER_PORTS 6

enum overlay_channel {
	OVERLAY_NONE, /* none of ours */
	OVERLAY_VXLAN,
	OVERLAY_ESP,
	OVERLAY_GOSSIP_UDP,
	OVERLAY_GOSSIP_TCP,
	OVERLAY_MANAGER,
};

/* Where the nodes of a Swarm listen, in host order. 0: nowhere. */
struct overlay_ports {
	__u16 data;
	__u16 gossip;
	__u16 managers[OVERLAY_MANAGER_PORTS];
};

/* Who talks to whom. Of what found no room in the table, without the addresses. */
struct overlay_key {
	__u32 local[4]; /* IPv6 or IPv4-mapped, network order */
	__u32 peer[4];
	__u32 vni;
	__u8 channel;
	__u8 outgoing;
	__u8 malformed; /* VXLAN whose VNI cannot be read */
	__u8 pad;
};

struct overlay_value {
	__u64 skbs;
	__u64 packets; /* GSO segments */
	__u64 bytes; /* with the link's header */
	__u64 last_ns; /* monotonic clock at the last of them */
};

enum overlay_counter {
	OVERLAY_TABLE_FULL, /* counted without addresses */
	OVERLAY_LOST, /* not even that had room */
	OVERLAY_NOT_PARSED, /* not counted: what follows the addresses could not be read */
	OVERLAY_COUNTERS,
};

#endif
