/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the drop signal shares with user space. */
#ifndef BRIDGEWATCH_DROP_H
#define BRIDGEWATCH_DROP_H

#include "include/kernel.h"

enum drop_flag {
	DROP_OUT = 1 << 0, /* made by this namespace, not received by it */
	DROP_OTHER = 1 << 1, /* the table was full: addresses, ports and iif are left out */
	DROP_UNPARSED = 1 << 2,
	DROP_FRAGMENT = 1 << 3,
	DROP_VXLAN_OUTER = 1 << 4, /* addresses are tunnel endpoints, vni is set */
	DROP_ROUTED = 1 << 5, /* what is received has no route before it has passed netfilter's PREROUTING */
};

/* Locations in [start, end); 0, 0: none. */
struct drop_place {
	__u64 start;
	__u64 end;
};

struct drop_config {
	struct drop_place ignored[2]; /* where something is freed that is no packet of its own */
	__u32 arguments; /* of the tracepoint on this kernel: 2 (skb, location), 3 (reason) or 4 (rx_sk) */
	__u32 host_netns; /* inode number */
};

struct drop_key {
	__u64 netns; /* cookie, or inode number where the kernel has no cookies; 0: not known */
	__u64 location; /* address of the kernel function that dropped it */
	__u32 saddr[4]; /* IPv6 or IPv4-mapped, network order */
	__u32 daddr[4];
	__u32 reason; /* the running kernel's number; 0 where it has none */
	__u32 ifindex; /* device in netns, 0: none */
	__u32 iif; /* device in netns that the packet came in by, 0: none */
	__u32 vni;
	__u16 sport; /* host order; ICMP: type */
	__u16 dport; /* host order; ICMP: code */
	__u16 eth_proto; /* host order */
	__u8 protocol;
	__u8 flags; /* enum drop_flag */
};

/* Counts, and what the first packet of an entry told about its owner. */
struct drop_value {
	__u64 skbs;
	__u64 packets; /* GSO segments */
	__u64 bytes; /* skb->len */
	__u32 initiator[4]; /* of a conntrack entry: who really opened the connection, before NAT */
	__u32 responder[4]; /* and who really answers it */
	char device[16];
	char kind[16]; /* rtnl_link_ops->kind of the device */
	__u8 macs[2 * ETH_ALEN]; /* destination, source */
	__u8 has_mac;
	__u8 has_conntrack;
	__u8 has_dnat; /* the conntrack entry changes the destination */
	__u8 link_down; /* the device was down or had no carrier */
	char cgroup[80]; /* of the socket's owner, in the host's namespace only; "" if not known */
	__u8 tcp_flags; /* 0: it is no TCP, or the flags are not known */
};

enum drop_counter {
	DROP_SEEN, /* counted somewhere: detail, ~other or lost */
	DROP_IGNORED, /* parts of a packet already counted, and copies of messages */
	DROP_TABLE_FULL, /* counted without addresses */
	DROP_LOST, /* not even that had room */
	DROP_NOT_PARSED,
	DROP_COUNTERS,
};

#endif
