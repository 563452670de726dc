// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * egress: counts what leaves the host with a source address of a container, which should have been translated.
 *
 * Attaches to tcx (6.6) or clsact (4.5) egress of the links that lead out of the host, where NAT is done. Nearly every
 * packet there is none of these, and is told by the first bits of its source address. Always passes the packet on to
 * whatever comes next.
 */
#include "include/kernel.h"
#include "egress.h"
#include "parse.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PASS_ON (-1) /* TCX_NEXT, TC_ACT_UNSPEC: no verdict, the next program is asked */
#define TCP_FIN_RST 0x05

/* Puts the types that the Go side needs into the object's BTF. */
const struct egress_key *egress_key_type __attribute__((unused));
const struct egress_value *egress_value_type __attribute__((unused));
const enum egress_counter *egress_counter_type __attribute__((unused));

/* A bit for each beginning of an address, of either family, that one of the subnets has. */
struct coarse_bits {
	__u8 bits[1 << (EGRESS_COARSE_BITS - 3)];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct coarse_bits);
} egress_coarse SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egress_subnet);
	__type(value, __u8);
} egress_subnets SEC(".maps");

struct egress_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(key_size, sizeof(struct egress_key));
	__uint(value_size, sizeof(struct egress_value));
};

/* One of two tables, as in drop.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct egress_table);
} egresses SEC(".maps");

/* The same by device only, for what finds no room there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct egress_table);
} egresses_other SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EGRESS_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} egress_counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&egress_counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline void add(struct egress_value *value, const struct egress_value *one)
{
	__sync_fetch_and_add(&value->skbs, one->skbs);
	__sync_fetch_and_add(&value->packets, one->packets);
	__sync_fetch_and_add(&value->bytes, one->bytes);
	if (one->resets)
		__sync_fetch_and_add(&value->resets, one->resets);
}

/* Adds one packet to its entry in the table that outer has in use. False: there is no room for one. */
static __always_inline bool record(void *outer, const struct egress_key *key, const struct egress_value *one)
{
	struct egress_value *value;
	__u32 slot = 0;
	void *table;

	table = bpf_map_lookup_elem(outer, &slot);
	if (!table)
		return false;
	value = bpf_map_lookup_elem(table, key);
	if (!value) {
		if (!bpf_map_update_elem(table, key, one, BPF_NOEXIST))
			return true;
		value = bpf_map_lookup_elem(table, key); /* another processor was first */
		if (!value)
			return false;
	}
	add(value, one);
	return true;
}

/*
 * Tells whether the packet's route ends at the device that it is at. Below a bond, a VLAN or a macvlan device it comes
 * by once more, and must not count again.
 */
static __always_inline bool is_routed_here(const struct sk_buff *skb)
{
	const struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL);

	return dst && BPF_CORE_READ(dst, dev) == BPF_CORE_READ(skb, dev);
}

static __always_inline bool is_in_subnet(const __u32 address[4])
{
	struct egress_subnet subnet = {
		.length = 128,
	};

	__builtin_memcpy(subnet.address, address, sizeof(subnet.address));
	return bpf_map_lookup_elem(&egress_subnets, &subnet);
}

/*
 * Links differ in what comes before the network header, so the packet is read from there, in the sk_buff itself. Its
 * version tells the family: a VLAN device that puts the tag into the bytes has made the sk_buff's protocol the tag's.
 */
static __always_inline void parse(const struct sk_buff *skb, struct tuple *tuple)
{
	__u32 network = BPF_CORE_READ(skb, network_header), tail = BPF_CORE_READ(skb, tail);
	struct packet packet = {
		.memory = BPF_CORE_READ(skb, head) + network,
		.length = tail > network ? tail - network : 0,
	};
	__u8 version;

	if (packet_read(&packet, 0, &version, sizeof(version)))
		return;
	parse_network(&packet, 0, version >> 4 == 6 ? ETH_P_IPV6 : ETH_P_IP, tuple);
}

/* Takes a closer look at a packet that may be one of those, and counts it if it is. */
static __noinline int examine(struct __sk_buff *ctx)
{
	const struct sk_buff *skb = (void *)ctx; /* what it really is */
	struct tuple tuple = {};
	struct egress_value one = {
		.skbs = 1,
		.packets = ctx->gso_segs ?: 1,
		.bytes = ctx->len,
	};
	struct egress_key key =
				  {
					  .device = ctx->ifindex,
				  },
			  device = key;

	parse(skb, &tuple);
	if (!is_in_subnet(tuple.saddr) || !is_routed_here(skb))
		return 0;
	if (tuple.marks & TUPLE_UNPARSED)
		count(EGRESS_NOT_PARSED);
	__builtin_memcpy(key.source, tuple.saddr, sizeof(key.source));
	__builtin_memcpy(one.destination, tuple.daddr, sizeof(one.destination));
	key.protocol = tuple.protocol;
	one.resets = !!(tuple.tcp_flags & TCP_FIN_RST);
	if (record(&egresses, &key, &one))
		return 0;
	__builtin_memset(one.destination, 0, sizeof(one.destination));
	if (!record(&egresses_other, &device, &one))
		count(EGRESS_LOST);
	count(EGRESS_TABLE_FULL); /* last: whoever sees it change also finds the entry */
	return 0;
}

/* Reads the first word of the source address, wherever the network header is. False: it is not there. */
static __always_inline bool read_source(struct __sk_buff *skb, __be32 *first)
{
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		offset = __builtin_offsetof(struct iphdr, saddr);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		offset = __builtin_offsetof(struct ipv6hdr, saddr);
	else
		return false;
	return !bpf_skb_load_bytes_relative(skb, offset, first, sizeof(*first), BPF_HDR_START_NET);
}

static __always_inline bool may_match(__be32 first)
{
	__u32 slot = 0;
	struct coarse_bits *coarse = bpf_map_lookup_elem(&egress_coarse, &slot);
	__u64 beginning = bpf_ntohl(first) >> (32 - EGRESS_COARSE_BITS), byte = beginning >> 3;

	barrier_var(byte); /* the compiler knows its bounds, older verifiers do not see them through a swap of bytes */
	return coarse && byte < sizeof(coarse->bits) && coarse->bits[byte] & 1 << (beginning & 7);
}

/* A tag in the bytes, as a VLAN device puts it there that was told not to leave it to the link below. */
static __always_inline bool has_tag(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD);
}

SEC("tc")
int egress(struct __sk_buff *skb)
{
	__be32 first;

	if (read_source(skb, &first) ? may_match(first) : has_tag(skb))
		examine(skb);
	return PASS_ON;
}
