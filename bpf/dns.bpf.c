// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * dns: copies what sockets ask name servers, and what they get for an answer, to user space.
 *
 * Attaches to the root of cgroup v2, where it sees the IP packets of all sockets, in all network namespaces, as they
 * leave the one that sends and reach the one that receives: before they are cut into fragments and segments, and after
 * they have been put together. Nearly every packet is told by its ports.
 *
 * The engine answers its containers at 127.0.0.11:53, which rules in their namespaces translate to a random port. A
 * packet that leaves has been translated by then, so that connection tracking has to be asked what it was addressed to;
 * one that arrives has been translated back.
 */
#include "include/kernel.h"
#include "dns.h"
#include "netns.bpf.h"
#include "parse.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PASS_ON 1
#define EMBEDDED_RESOLVER bpf_htonl(0x7f00000b) /* 127.0.0.11 */
#define DNS_PORT 53
#define MDNS_PORT 5353
#define LLMNR_PORT 5355
#define PORTS_LENGTH 4
#define SOCK_RAW 3

/* include/linux/skbuff.h, SKB_NFCT_PTRMASK: the low bits of the pointer are something else. */
#define NFCT_INFO 7UL

/* In the byte of the header. */
enum {
	TCP_FIN = 1 << 0,
	TCP_SYN = 1 << 1,
	TCP_RST = 1 << 2,
};

/*
 * How much of a payload is copied. The ring gives out only what is known to the verifier, so that a record has room for
 * the least of these that is enough.
 */
#define COPY_SMALL 112
#define COPY_MEDIUM 432
#define COPY_LARGE 1456 /* what fits into an Ethernet frame */
#define COPY_MAX 4096

/* In how many pieces of that size a segment is told: many that the kernel hands over as one have 64 KiB. */
#define PIECES_MAX 16

const volatile struct dns_config config;

/* Puts the types that the Go side needs into the object's BTF. */
const struct dns_packet *dns_packet_type __attribute__((unused));
const enum dns_counter *dns_counter_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} dns_packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DNS_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} dns_counters SEC(".maps");

static __always_inline void count(__u32 counter, __u32 add)
{
	__u64 *value = bpf_map_lookup_elem(&dns_counters, &counter);

	/* A packet that interrupts another one counts in the same place. */
	if (value)
		__sync_fetch_and_add(value, add);
}

static __always_inline bool is_dns_port(__be16 port)
{
	return port == bpf_htons(DNS_PORT) || port == bpf_htons(MDNS_PORT) || port == bpf_htons(LLMNR_PORT);
}

/* Tells what is certainly of no interest. False also means: not to be told by a short look. */
static __always_inline bool is_dull(struct __sk_buff *skb, bool outgoing)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ipv6hdr *ipv6 = data;
	const struct iphdr *ipv4 = data;
	const __be16 *ports;

	if (data + sizeof(*ipv4) + PORTS_LENGTH > end)
		return false;
	if (ipv4->version == 4) {
		if (ipv4->protocol != IPPROTO_TCP && ipv4->protocol != IPPROTO_UDP)
			return true;
		if (ipv4->ihl != 5 || (outgoing && ipv4->daddr == EMBEDDED_RESOLVER))
			return false;
		ports = data + sizeof(*ipv4);
		return !is_dns_port(ports[outgoing]);
	}
	if (data + sizeof(*ipv6) + PORTS_LENGTH > end)
		return false;
	if (ipv6->nexthdr != IPPROTO_TCP && ipv6->nexthdr != IPPROTO_UDP)
		return !is_extension_header(ipv6->nexthdr);
	ports = data + sizeof(*ipv6);
	return !is_dns_port(ports[outgoing]);
}

/*
 * Finds what is behind the extension headers of an IPv6 packet, of which protocol is the first, and returns where it
 * begins and, in the upper half, its protocol; 0: there is nothing. A function of its own to the verifier, so that it
 * looks at it but once.
 */
__noinline __u64 dns_find_transport(struct __sk_buff *skb, __u32 protocol)
{
	struct packet packet = {
		.skb = skb,
		.length = skb->len,
	};
	__u32 offset = sizeof(struct ipv6hdr);
	__u8 behind = protocol;

	if (skip_extension_headers(&packet, &offset, &behind))
		return 0;
	return offset | (__u64)behind << 32;
}

/* Reads the addresses and the protocol, and returns where the transport header is; 0: it has none, or none is found. */
static __always_inline __u32 read_network(const struct packet *packet, struct dns_packet *record)
{
	struct ipv6hdr ipv6;
	struct iphdr ipv4;
	__u64 transport;

	if (packet_read(packet, 0, &ipv4, sizeof(ipv4)))
		return 0;
	if (ipv4.version == 4) {
		map_ipv4(record->saddr, ipv4.saddr);
		map_ipv4(record->daddr, ipv4.daddr);
		record->protocol = ipv4.protocol;
		return ipv4.frag_off & bpf_htons(IP_OFFSET_MASK) ? 0 : ipv4.ihl * 4;
	}
	if (packet_read(packet, 0, &ipv6, sizeof(ipv6)))
		return 0;
	copy_ipv6(record->saddr, ipv6.saddr);
	copy_ipv6(record->daddr, ipv6.daddr);
	transport = dns_find_transport(packet->skb, ipv6.nexthdr);
	record->protocol = transport >> 32;
	return (__u32)transport;
}

/* Reads the header at offset, and returns where its payload is; 0: there is nothing to tell. */
static __always_inline __u32 read_transport(const struct packet *packet, __u32 offset, struct dns_packet *record)
{
	struct udphdr udp;
	struct tcphdr tcp;

	if (record->protocol == IPPROTO_UDP) {
		if (packet_read(packet, offset, &udp, sizeof(udp)))
			return 0;
		record->sport = udp.source;
		record->dport = udp.dest;
		return offset + sizeof(udp);
	}
	if (record->protocol != IPPROTO_TCP || packet_read(packet, offset, &tcp, sizeof(tcp)))
		return 0;
	record->sport = tcp.source;
	record->dport = tcp.dest;
	record->sequence = bpf_ntohl(tcp.seq);
	record->tcp_flags = tcp.flags;
	return offset + tcp.doff * 4;
}

/* Tells whether the connection that a packet belongs to was addressed to a name server before it was translated. */
static __always_inline bool was_to_dns_port(const struct sk_buff *skb)
{
	const struct nf_conn *ct;

	if (!bpf_core_field_exists(skb->_nfct) || !bpf_core_type_exists(struct nf_conn))
		return false;
	ct = (void *)(BPF_CORE_READ(skb, _nfct) & ~NFCT_INFO);
	return ct && BPF_CORE_READ(ct, tuplehash[0].tuple.dst.u.all) == bpf_htons(DNS_PORT);
}

static __always_inline bool is_to_resolver(const struct dns_packet *record)
{
	return record->daddr[3] == EMBEDDED_RESOLVER && record->daddr[2] == bpf_htonl(0xffff) && !record->daddr[1] &&
	       !record->daddr[0];
}

static __always_inline bool is_told(const struct sk_buff *skb, const struct dns_packet *record)
{
	if (record->protocol == IPPROTO_TCP && !record->length && !(record->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST)))
		return false;
	if (record->outgoing)
		return is_dns_port(record->dport) || (is_to_resolver(record) && was_to_dns_port(skb));
	/* Who listens to all datagrams gets those of others, too. */
	return is_dns_port(record->sport) && BPF_CORE_READ(skb, sk, sk_type) != SOCK_RAW;
}

/* Of datagrams that are handed over as one, the first is told: nobody asks that way. */
static __always_inline void take_first(const struct __sk_buff *skb, struct dns_packet *record)
{
	if (record->protocol != IPPROTO_UDP || skb->gso_segs < 2 || record->length <= skb->gso_size)
		return;
	record->length = skb->gso_size;
	count(DNS_SEGMENTED, skb->gso_segs - 1);
}

/*
 * Tells whether a record of that size is the one that fills another part of the ring. Only then is user space woken,
 * which costs more than all the rest: it looks by itself now and then. Of records that come at once none may be the
 * one.
 */
static __always_inline bool fills_part(__u32 size)
{
	__u64 full = bpf_ringbuf_query(&dns_packets, BPF_RB_AVAIL_DATA);

	return full >= config.part_bytes && (full & (config.part_bytes - 1)) < size + BPF_RINGBUF_HDR_SZ;
}

/* Hands over a record with room for that much payload. */
static __always_inline void tell(struct __sk_buff *skb, const struct dns_packet *record, __u32 payload,
				 const __u32 room)
{
	struct dns_packet *told = bpf_ringbuf_reserve(&dns_packets, sizeof(*told) + room, 0);
	__u64 last = (__u64)record->copied - 1;

	if (!told) {
		count(DNS_RING_FULL, 1);
		return;
	}
	*told = *record;
	/* The compiler knows that it is less, unless nothing is copied, and would not tell the verifier. */
	asm volatile("" : "+r"(last));
	if (last < room && bpf_skb_load_bytes(skb, payload, told + 1, last + 1))
		told->copied = 0;
	told->time_ns = bpf_ktime_get_ns();
	bpf_ringbuf_submit(told, fills_part(sizeof(*told) + room) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/*
 * Of how many pieces a packet is told. A SYN, which counts in the sequence, has no room for more than one. If several
 * parts of the ring are full when the first is told, that is the only one: whoever transfers a large zone must not
 * displace all others.
 */
static __always_inline __u32 pieces_of(const struct dns_packet *record, __u32 piece)
{
	__u32 pieces = (record->length + COPY_MAX - 1) / COPY_MAX;

	if (record->protocol != IPPROTO_TCP || record->tcp_flags & TCP_SYN || !pieces)
		return 1;
	if (!piece && bpf_ringbuf_query(&dns_packets, BPF_RB_AVAIL_DATA) >= 2 * config.part_bytes)
		return 1;
	return pieces < PIECES_MAX ? pieces : PIECES_MAX;
}

/* Makes a segment's record one of a piece of it. The last one has all that is left, though it may not all be copied. */
static __always_inline void cut_out(struct dns_packet *record, __u32 piece, __u32 pieces)
{
	record->sequence += piece * COPY_MAX;
	record->length -= piece * COPY_MAX;
	if (piece + 1 < pieces) {
		record->length = COPY_MAX;
		record->tcp_flags &= ~(TCP_FIN | TCP_RST);
	}
}

/*
 * Tells a piece of a packet that carries DNS messages, and returns how many there are; 0: it is no such packet. A
 * function of its own to the verifier, so that it looks at it but once.
 */
__noinline __u32 dns_tell_piece(struct __sk_buff *ctx, __u32 outgoing, __u32 piece)
{
	const struct sk_buff *skb = (void *)ctx; /* what it really is */
	struct packet packet = {
		.skb = ctx,
		.length = ctx->len,
	};
	struct dns_packet record = {
		.outgoing = outgoing,
	};
	__u32 offset, payload, pieces;

	offset = read_network(&packet, &record);
	if (!offset)
		return 0;
	payload = read_transport(&packet, offset, &record);
	if (!payload || payload > ctx->len)
		return 0;
	record.length = ctx->len - payload;
	if (!is_told(skb, &record))
		return 0;
	take_first(ctx, &record);
	record.netns = netns_of(BPF_CORE_READ(skb, sk, __sk_common.skc_net.net));
	pieces = pieces_of(&record, piece);
	cut_out(&record, piece, pieces);
	payload += piece * COPY_MAX;
	record.copied = record.length < COPY_MAX ? record.length : COPY_MAX;
	if (record.copied <= COPY_SMALL)
		tell(ctx, &record, payload, COPY_SMALL);
	else if (record.copied <= COPY_MEDIUM)
		tell(ctx, &record, payload, COPY_MEDIUM);
	else if (record.copied <= COPY_LARGE)
		tell(ctx, &record, payload, COPY_LARGE);
	else
		tell(ctx, &record, payload, COPY_MAX);
	return pieces;
}

static __always_inline int examine(struct __sk_buff *skb, bool outgoing)
{
	__u32 pieces;

	if (is_dull(skb, outgoing))
		return PASS_ON;
	pieces = dns_tell_piece(skb, outgoing, 0);
	for (__u32 piece = 1; piece < PIECES_MAX && piece < pieces; piece++)
		dns_tell_piece(skb, outgoing, piece);
	return PASS_ON;
}

SEC("cgroup_skb/egress")
int dns_egress(struct __sk_buff *skb)
{
	return examine(skb, true);
}

SEC("cgroup_skb/ingress")
int dns_ingress(struct __sk_buff *skb)
{
	return examine(skb, false);
}
