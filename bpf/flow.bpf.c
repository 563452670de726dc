// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * flow: counts what crosses a container's device, or a Docker bridge, by conversation.
 *
 * Attaches to tcx (6.6) or clsact (4.5) ingress and egress: on the host's side of a container's veth, on the bridge,
 * and on a macvlan or ipvlan child, where the sides are the other way round. Always passes the packet on to whatever
 * comes next.
 */
#include "include/kernel.h"
#include "flow.h"
#include "parse.bpf.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PASS_ON (-1) /* TCX_NEXT, TC_ACT_UNSPEC: no verdict, the next program is asked */

const volatile struct flow_config config;

/* Puts the types that the Go side needs into the object's BTF. */
const struct flow_key *flow_key_type __attribute__((unused));
const enum flow_counter *flow_counter_type __attribute__((unused));
const enum flow_direction *flow_direction_type __attribute__((unused));

struct flow_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(key_size, sizeof(struct flow_key));
	__uint(value_size, sizeof(struct flow_value));
};

/* One of two tables, as in drop.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct flow_table);
} flows SEC(".maps");

/* What finds no room in a table, by device. User space makes the entry before it attaches and takes it after. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct flow_value);
} flows_other SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} flow_counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&flow_counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline void add(struct flow_value *value, struct __sk_buff *skb, __u32 direction, __u8 tcp_flags)
{
	struct flow_count *count = &value->count[direction];

	__sync_fetch_and_add(&count->skbs, 1);
	__sync_fetch_and_add(&count->packets, skb->gso_segs ?: 1);
	__sync_fetch_and_add(&count->bytes, skb->len);
	if (tcp_flags & ~count->tcp_flags) /* flags are seldom new, so this seldom writes */
		count->tcp_flags |= tcp_flags;
}

static __always_inline void fill_key(struct flow_key *key, const struct tuple *tuple, __u32 direction)
{
	bool is_icmp = tuple->protocol == IPPROTO_ICMP || tuple->protocol == IPPROTO_ICMPV6;

	if (direction == FLOW_TX) {
		__builtin_memcpy(key->local, tuple->saddr, sizeof(key->local));
		__builtin_memcpy(key->remote, tuple->daddr, sizeof(key->remote));
	} else {
		__builtin_memcpy(key->local, tuple->daddr, sizeof(key->local));
		__builtin_memcpy(key->remote, tuple->saddr, sizeof(key->remote));
	}
	if (direction == FLOW_TX || is_icmp) { /* type and code are nobody's side */
		key->local_port = tuple->sport;
		key->remote_port = tuple->dport;
	} else {
		key->local_port = tuple->dport;
		key->remote_port = tuple->sport;
	}
	key->eth_proto = tuple->eth_proto;
	key->protocol = tuple->protocol;
	key->unparsed = tuple->marks & TUPLE_UNPARSED;
}

static __always_inline void count_new(struct __sk_buff *skb, struct flow_key *key, __u32 direction, __u8 tcp_flags)
{
	struct flow_value fresh = {}, *value;
	__u32 slot = 0;
	void *table;

	fresh.count[direction].skbs = 1;
	fresh.count[direction].packets = skb->gso_segs ?: 1;
	fresh.count[direction].bytes = skb->len;
	fresh.count[direction].tcp_flags = tcp_flags;
	table = bpf_map_lookup_elem(&flows, &slot);
	if (table) {
		if (!bpf_map_update_elem(table, key, &fresh, BPF_NOEXIST))
			return;
		value = bpf_map_lookup_elem(table, key); /* another processor was first */
		if (value) {
			add(value, skb, direction, tcp_flags);
			return;
		}
	}
	value = bpf_map_lookup_elem(&flows_other, &key->device);
	if (value)
		add(value, skb, direction, 0);
	else
		count(FLOW_LOST);
	count(FLOW_TABLE_FULL); /* last: whoever sees it change also sees the entry changed */
}

/* Looks at the packet's own memory, where its headers nearly always are. */
static __always_inline bool parse_plain(struct __sk_buff *skb, struct tuple *tuple)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	void *transport;

	if ((void *)(ip + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		if (!parse_plain_ipv4(ip, tuple))
			return false;
		transport = ip + 1;
	} else {
		if (eth->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || !parse_plain_ipv6(ip6, tuple))
			return false;
		transport = ip6 + 1;
	}
	if (tuple->protocol == IPPROTO_TCP) {
		if (transport + TCP_PARSED_LENGTH > end)
			return false;
		tuple->tcp_flags = ((__u8 *)transport)[TCP_FLAGS_OFFSET];
	} else if (transport + UDP_PARSED_LENGTH > end) {
		return false;
	}
	return parse_plain_ports(transport, 0, tuple);
}

static __noinline int parse_any(struct __sk_buff *skb, struct tuple *tuple)
{
	struct packet packet = {
		.skb = skb,
		.length = skb->len,
	};
	__be16 eth_proto;

	if (!tuple)
		return 0;
	__builtin_memset(tuple, 0, sizeof(*tuple));
	if (packet_read(&packet, ETH_HLEN - 2, &eth_proto, sizeof(eth_proto)))
		tuple->marks |= TUPLE_UNPARSED;
	else
		parse_network(&packet, ETH_HLEN, bpf_ntohs(eth_proto), tuple);
	if (tuple->marks & TUPLE_UNPARSED)
		count(FLOW_NOT_PARSED);
	return 0;
}

static __always_inline int count_flow(struct __sk_buff *skb, __u32 direction)
{
	struct flow_key key = {
		.device = config.device ?: skb->ifindex,
	};
	struct flow_value *value;
	struct tuple tuple = {};
	__u32 slot = 0;
	void *table;

	if (!parse_plain(skb, &tuple))
		parse_any(skb, &tuple);
	fill_key(&key, &tuple, direction);

	table = bpf_map_lookup_elem(&flows, &slot);
	if (!table)
		return PASS_ON;
	value = bpf_map_lookup_elem(table, &key);
	if (value)
		add(value, skb, direction, tuple.tcp_flags);
	else
		count_new(skb, &key, direction, tuple.tcp_flags);
	return PASS_ON;
}

SEC("tc")
int flow_ingress(struct __sk_buff *skb)
{
	return config.outside ? count_flow(skb, FLOW_TX) : count_flow(skb, FLOW_RX);
}

SEC("tc")
int flow_egress(struct __sk_buff *skb)
{
	return config.outside ? count_flow(skb, FLOW_RX) : count_flow(skb, FLOW_TX);
}
