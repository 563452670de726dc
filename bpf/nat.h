/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the nat signal shares with user space. */
#ifndef BRIDGEWATCH_NAT_H
#define BRIDGEWATCH_NAT_H

#include "include/kernel.h"

struct nat_config {
	__u32 host_netns; /* inode number */
};

/* Where connections may go to that are told even if nothing translates them. */
struct nat_endpoint {
	__u32 address[4]; /* IPv6 or IPv4-mapped, network order; all zero: any */
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* One direction of a connection. */
struct nat_tuple {
	__u32 saddr[4]; /* IPv6 or IPv4-mapped, network order */
	__u32 daddr[4];
	__be16 sport; /* ICMP: the identifier, in both */
	__be16 dport;
};

enum nat_event {
	NAT_OPENED,
	NAT_ANSWERED,
};

enum nat_masquerade {
	NAT_MASQUERADE_UNKNOWN,
	NAT_MASQUERADE_OFF,
	NAT_MASQUERADE_ON,
};

/* What happened to a connection. */
struct nat_record {
	struct nat_tuple original;
	struct nat_tuple reply;
	__u64 netns; /* cookie, or inode number where the kernel has no cookies */
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 status; /* IPS_ bits */
	__u32 ifindex; /* device in netns that its first packet left by; 0: not known */
	__u8 protocol;
	__u8 event; /* enum nat_event */
	__u8 masquerade; /* enum nat_masquerade */
	__u8 local; /* a socket of netns sent its first packet */
	__u32 pad;
};

enum nat_counter {
	NAT_RING_FULL, /* records that the ring had no room for */
	NAT_NOT_REMEMBERED, /* connections that were not told, since there was no room to remember that they are */
	NAT_COUNTERS,
};

#endif
