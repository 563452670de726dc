/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the flow signal shares with user space. */
#ifndef BRIDGEWATCH_FLOW_H
#define BRIDGEWATCH_FLOW_H

#include "include/kernel.h"

enum flow_direction {
	FLOW_RX, /* as the container, or the network behind a bridge, sees it */
	FLOW_TX,
	FLOW_DIRECTIONS,
};

struct flow_config {
	__u32 device; /* number for all that this copy sees; 0: the device's own ifindex */
	__u32 outside; /* 1: attached to the host's side, where the container's tx comes in */
};

/* A conversation of one device, both directions in one entry. Local is the container's side. */
struct flow_key {
	__u32 local[4]; /* IPv6 or IPv4-mapped, network order */
	__u32 remote[4];
	__u32 device;
	__u16 local_port; /* host order; ICMP: type */
	__u16 remote_port; /* host order; ICMP: code */
	__u16 eth_proto; /* host order */
	__u8 protocol;
	__u8 unparsed;
};

struct flow_count {
	__u64 skbs;
	__u64 packets; /* GSO segments */
	__u64 bytes; /* with the Ethernet header */
	__u32 tcp_flags; /* all flags seen, ored */
	__u32 pad;
};

struct flow_value {
	struct flow_count count[FLOW_DIRECTIONS];
};

enum flow_counter {
	FLOW_TABLE_FULL, /* counted for the device only */
	FLOW_LOST, /* not even that had room */
	FLOW_NOT_PARSED,
	FLOW_COUNTERS,
};

#endif
