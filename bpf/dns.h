/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the dns signal shares with user space. */
#ifndef BRIDGEWATCH_DNS_H
#define BRIDGEWATCH_DNS_H

#include "include/kernel.h"

struct dns_config {
	__u32 part_bytes; /* of the ring, a power of two: user space is woken when another such part is full */
};

/*
 * A datagram or TCP segment, or a piece of a long segment. In the ring it is followed by the first bytes of its
 * payload.
 */
struct dns_packet {
	__u64 netns; /* of the socket: cookie, or inode number where the kernel has no cookies */
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 saddr[4]; /* IPv6 or IPv4-mapped, network order */
	__u32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u32 sequence; /* of TCP, host order: as in its header */
	__u32 length; /* bytes of payload */
	__u32 copied; /* bytes of it that follow; what is behind them means nothing */
	__u8 protocol;
	__u8 tcp_flags; /* the byte of its header */
	__u8 outgoing; /* leaves the socket */
	__u8 pad[5];
};

enum dns_counter {
	DNS_RING_FULL, /* packets, or pieces, that the ring had no room for */
	DNS_SEGMENTED, /* datagrams behind the first of those that were handed over as one, to be cut apart later */
	DNS_COUNTERS,
};

#endif
