// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * overlay: counts what the nodes of a Swarm send each other: tunnelled frames of containers, and the engines' own talk.
 *
 * Attaches to tcx (6.6) or clsact (4.5) ingress and egress of the links that lead out of the host. Nearly every packet
 * there is none of these, and is told by its protocol and ports alone. Always passes the packet on to whatever comes
 * next.
 */
#include "include/kernel.h"
#include "overlay.h"
#include "parse.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PASS_ON (-1) /* TCX_NEXT, TC_ACT_UNSPEC: no verdict, the next program is asked */
#define PACKET_HOST 0 /* sk_buff's pkt_type: to this host's hardware address */
#define VLAN_ID_MASK 0x0fff
#define IPPROTO_ESP 50

/* Puts the types that the Go side needs into the object's BTF. */
const struct overlay_key *overlay_key_type __attribute__((unused));
const struct overlay_value *overlay_value_type __attribute__((unused));
const enum overlay_channel *overlay_channel_type __attribute__((unused));
const enum overlay_counter *overlay_counter_type __attribute__((unused));

/* linux/bpf.h: what kernels before 5.11 lack. */
enum bpf_func_id {
	BPF_FUNC_ktime_get_coarse_ns = 160,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct overlay_ports);
} overlay_config SEC(".maps");

struct overlay_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(key_size, sizeof(struct overlay_key));
	__uint(value_size, sizeof(struct overlay_value));
};

/* One of two tables, as in drop.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct overlay_table);
} overlays SEC(".maps");

/* The same without addresses, for what finds no room there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct overlay_table);
} overlays_other SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OVERLAY_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} overlay_counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&overlay_counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline void add(struct overlay_value *value, const struct overlay_value *one)
{
	__sync_fetch_and_add(&value->skbs, one->skbs);
	__sync_fetch_and_add(&value->packets, one->packets);
	__sync_fetch_and_add(&value->bytes, one->bytes);
	value->last_ns = one->last_ns;
}

/* The monotonic clock, as of the last tick where that is to be had: a fraction of the cost. */
static __always_inline __u64 now(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

/* Adds one packet to its entry in the table that outer has in use. False: there is no room for one. */
static __always_inline bool record(void *outer, const struct overlay_key *key, const struct overlay_value *one)
{
	struct overlay_value *value;
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

/* Where the network header is, as a program counts: from the link's header, if there is one. */
static __always_inline __u32 network_offset(const struct __sk_buff *ctx)
{
	const struct sk_buff *skb = (void *)ctx; /* what it really is */

	return BPF_CORE_READ(skb, network_header) - BPF_CORE_READ(skb, mac_header);
}

/*
 * Reads behind the network header, in whatever part of the packet it is. Cards and packet sockets leave headers outside
 * of the sk_buff's own memory, where the quick way does not look.
 */
static __noinline int read_anywhere(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes(skb, network_offset(skb) + offset, to, size);
}

static __always_inline int read(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	if (!bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET))
		return 0;
	return read_anywhere(skb, offset, to, size);
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

/*
 * Tells whether the packet has reached the device that it is for: one with a VLAN's tag is for the device on top, and
 * so is one to the hardware address of a macvlan device. Without a VLAN's number the tag is only a priority.
 */
static __always_inline bool is_received_here(const struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_HOST && !(skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK);
}

static __always_inline bool is_manager(const struct overlay_ports *ports, __u16 port)
{
	for (int i = 0; i < OVERLAY_MANAGER_PORTS; i++)
		if (port && port == ports->managers[i])
			return true;
	return false;
}

/* What of the protocols is looked at. */
static __always_inline bool is_looked_at(__u8 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_TCP || protocol == IPPROTO_ESP;
}

static __always_inline __u8 channel_of(__u8 protocol, const __be16 pair[2])
{
	__u16 source = bpf_ntohs(pair[0]), destination = bpf_ntohs(pair[1]);
	const struct overlay_ports *ports;
	__u32 slot = 0;
	bool is_gossip;

	if (protocol == IPPROTO_ESP)
		return OVERLAY_ESP;
	if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP)
		return OVERLAY_NONE;
	ports = bpf_map_lookup_elem(&overlay_config, &slot);
	if (!ports)
		return OVERLAY_NONE;
	is_gossip = ports->gossip && (source == ports->gossip || destination == ports->gossip);
	if (protocol == IPPROTO_UDP) {
		if (ports->data && destination == ports->data)
			return OVERLAY_VXLAN;
		return is_gossip ? OVERLAY_GOSSIP_UDP : OVERLAY_NONE;
	}
	if (is_gossip)
		return OVERLAY_GOSSIP_TCP;
	return is_manager(ports, source) || is_manager(ports, destination) ? OVERLAY_MANAGER : OVERLAY_NONE;
}

/*
 * A datagram may be shorter than the frame that it came in, so its length counts, except a GSO frame's: no 16 bits hold
 * those that are longer than 64 KiB.
 */
static __always_inline void read_vni(struct __sk_buff *skb, __u32 offset, struct overlay_key *key)
{
	struct {
		struct udphdr udp;
		__be32 vxlan[2];
	} head;

	key->malformed = 1;
	if (read(skb, offset, &head, sizeof(head)))
		return;
	if (!skb->gso_size && bpf_ntohs(head.udp.len) < sizeof(head))
		return;
	if (!(bpf_ntohl(head.vxlan[0]) >> 24 & VXLAN_FLAG_VNI))
		return;
	key->malformed = 0;
	key->vni = bpf_ntohl(head.vxlan[1]) >> 8;
}

/* Counts a packet whose channel, direction and addresses are in the key. Its transport header begins at offset. */
static __noinline int count_packet(struct __sk_buff *skb, struct overlay_key *key, __u32 offset)
{
	struct overlay_value one = {
		.skbs = 1,
		.packets = skb->gso_segs ?: 1,
		.bytes = skb->len,
		.last_ns = now(),
	};

	if (key->outgoing && !is_routed_here((void *)skb))
		return 0;
	if (key->channel == OVERLAY_VXLAN)
		read_vni(skb, offset, key);
	if (record(&overlays, key, &one))
		return 0;
	__builtin_memset(key->local, 0, sizeof(key->local));
	__builtin_memset(key->peer, 0, sizeof(key->peer));
	if (!record(&overlays_other, key, &one))
		count(OVERLAY_LOST);
	count(OVERLAY_TABLE_FULL); /* last: whoever sees it change also finds the entry */
	return 0;
}

/* A packet that ends where its ports should be, unless it is the rest of a datagram, which has none. */
static __noinline int count_short_ipv4(struct __sk_buff *skb)
{
	struct iphdr ip;

	if (read(skb, 0, &ip, sizeof(ip)) || (is_looked_at(ip.protocol) && !(ip.frag_off & bpf_htons(IP_OFFSET_MASK))))
		count(OVERLAY_NOT_PARSED);
	return 0;
}

static __noinline int count_short_ipv6(struct __sk_buff *skb)
{
	struct ipv6hdr ip;

	if (read(skb, 0, &ip, sizeof(ip)) || is_looked_at(ip.nexthdr) || is_extension_header(ip.nexthdr))
		count(OVERLAY_NOT_PARSED);
	return 0;
}

static __always_inline void look_at_ipv4(struct __sk_buff *skb, bool outgoing)
{
	struct {
		struct iphdr ip;
		__be16 ports[2];
	} head;
	struct overlay_key key = {};
	__u32 offset = sizeof(head.ip);
	__u8 channel;

	if (read(skb, 0, &head, sizeof(head))) {
		count_short_ipv4(skb);
		return;
	}
	if (head.ip.frag_off & bpf_htons(IP_OFFSET_MASK))
		return;
	if (head.ip.version != 4 || head.ip.ihl != 5) {
		offset = head.ip.ihl * 4;
		if (head.ip.version != 4 || head.ip.ihl < 5 || read(skb, offset, head.ports, sizeof(head.ports))) {
			count(OVERLAY_NOT_PARSED);
			return;
		}
	}
	channel = channel_of(head.ip.protocol, head.ports);
	if (channel == OVERLAY_NONE)
		return;
	key.channel = channel;
	key.outgoing = outgoing;
	map_ipv4(key.local, outgoing ? head.ip.saddr : head.ip.daddr);
	map_ipv4(key.peer, outgoing ? head.ip.daddr : head.ip.saddr);
	count_packet(skb, &key, offset);
}

/* What follows the fixed header of an IPv6 packet. */
struct transport {
	__u32 offset; /* of the transport header, from the network header */
	__be16 ports[2];
	__u8 protocol;
};

/* Finds what follows extension headers. False: nothing is there, which is counted unless it is a fragment. */
static __noinline bool find_transport(struct __sk_buff *skb, struct transport *transport)
{
	struct packet packet = {
		.skb = skb,
		.length = skb->len,
	};
	__u32 network = network_offset(skb), offset = network + sizeof(struct ipv6hdr);
	__u8 protocol = transport->protocol, marks;

	marks = skip_extension_headers(&packet, &offset, &protocol);
	if (!marks && is_looked_at(protocol) &&
	    packet_read(&packet, offset, transport->ports, sizeof(transport->ports)))
		marks = TUPLE_UNPARSED;
	if (marks & TUPLE_UNPARSED)
		count(OVERLAY_NOT_PARSED);
	transport->protocol = protocol;
	transport->offset = offset - network;
	return !marks;
}

static __always_inline void look_at_ipv6(struct __sk_buff *skb, bool outgoing)
{
	struct {
		struct ipv6hdr ip;
		__be16 ports[2];
	} head;
	struct overlay_key key = {};
	struct transport transport;
	__u8 channel;

	if (read(skb, 0, &head, sizeof(head))) {
		count_short_ipv6(skb);
		return;
	}
	if (head.ip.version != 6) {
		count(OVERLAY_NOT_PARSED);
		return;
	}
	transport.offset = sizeof(head.ip);
	transport.protocol = head.ip.nexthdr;
	__builtin_memcpy(transport.ports, head.ports, sizeof(head.ports));
	if (is_extension_header(head.ip.nexthdr) && !find_transport(skb, &transport))
		return;
	channel = channel_of(transport.protocol, transport.ports);
	if (channel == OVERLAY_NONE)
		return;
	key.channel = channel;
	key.outgoing = outgoing;
	copy_ipv6(key.local, outgoing ? head.ip.saddr : head.ip.daddr);
	copy_ipv6(key.peer, outgoing ? head.ip.daddr : head.ip.saddr);
	count_packet(skb, &key, transport.offset);
}

/*
 * A tag may still be in the bytes when a packet leaves: a VLAN device puts it there that was told not to leave it to
 * the link below. Then it has made the sk_buff's protocol the tag's, and the packet's version tells the family.
 */
static __noinline int look_behind_tag(struct __sk_buff *skb)
{
	__u8 version;

	if (read(skb, 0, &version, sizeof(version)))
		return 0;
	if (version >> 4 == 4)
		look_at_ipv4(skb, true);
	else if (version >> 4 == 6)
		look_at_ipv6(skb, true);
	return 0;
}

SEC("tc")
int overlay_ingress(struct __sk_buff *skb)
{
	if (!is_received_here(skb))
		return PASS_ON;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		look_at_ipv4(skb, false);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		look_at_ipv6(skb, false);
	return PASS_ON;
}

SEC("tc")
int overlay_egress(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		look_at_ipv4(skb, true);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		look_at_ipv6(skb, true);
	else if (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD))
		look_behind_tag(skb);
	return PASS_ON;
}
