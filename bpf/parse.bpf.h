/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the bytes of a packet to its addresses and ports. One parser for every hook: the hook brings a struct packet
 * that says where the bytes are, and packet_read() fetches them, through the skb in tc programs and through
 * kernel memory in tracing programs. It never reads past what the packet holds, and it never fails: what cannot be
 * parsed stays zero and is marked.
 */
#ifndef BRIDGEWATCH_PARSE_BPF_H
#define BRIDGEWATCH_PARSE_BPF_H

#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VXLAN_PORT 4789
#define VXLAN_FLAG_VNI 0x08
#define IP_OFFSET_MASK 0x1fff
#define MAX_VLAN_TAGS 2
#define MAX_EXTENSION_HEADERS 8

#define TCP_FLAGS_OFFSET 13
#define TCP_PARSED_LENGTH 14
#define UDP_PARSED_LENGTH 4

/* Where a packet's bytes are: in a tc program's skb, or in kernel memory. */
struct packet {
	struct __sk_buff *skb;
	const unsigned char *memory;
	__u32 length; /* bytes that may be read */
	__u16 vxlan_port; /* host order; where VXLAN goes besides the usual port, 0: nowhere */
};

enum tuple_mark {
	TUPLE_UNPARSED = 1 << 0, /* the header lies or is cut short; what is not known is zero */
	TUPLE_FRAGMENT = 1 << 1, /* not the first fragment: it has no ports */
};

/* What a packet says of itself. Addresses are IPv6 or IPv4-mapped, ports in host order. */
struct tuple {
	__u32 saddr[4];
	__u32 daddr[4];
	__u16 sport; /* ICMP: the type */
	__u16 dport; /* ICMP: the code */
	__u16 eth_proto; /* host order */
	__u8 protocol;
	__u8 marks;
	__u8 tcp_flags;
	__u8 is_vxlan;
	__u32 vni; /* of a VXLAN outer header */
};

static __always_inline int packet_read(const struct packet *packet, __u32 offset, void *to, __u32 size)
{
	if (offset + size > packet->length)
		return -1;
	if (packet->skb)
		return bpf_skb_load_bytes(packet->skb, offset, to, size);
	return bpf_probe_read_kernel(to, size, packet->memory + offset);
}

static __always_inline void map_ipv4(__u32 to[4], __be32 address)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = address;
}

static __always_inline void copy_ipv6(__u32 to[4], const __u8 *address)
{
	__builtin_memcpy(to, address, 16);
}

static __always_inline bool is_vxlan_port(__u16 port, __u16 other)
{
	return port == VXLAN_PORT || (other && port == other);
}

/* A UDP datagram to a VXLAN port that carries a VNI: its source port is a hash, worthless and of great variety. */
static __always_inline void parse_vxlan(const struct packet *packet, __u32 offset, struct tuple *tuple)
{
	__be32 header[2];

	if (packet_read(packet, offset, header, sizeof(header)))
		return;
	if (!(bpf_ntohl(header[0]) >> 24 & VXLAN_FLAG_VNI))
		return;
	tuple->is_vxlan = 1;
	tuple->vni = bpf_ntohl(header[1]) >> 8;
	tuple->sport = 0;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_UDPLITE;
}

static __always_inline void parse_transport(const struct packet *packet, __u32 offset, struct tuple *tuple)
{
	__be16 ports[2];
	__u8 type_code[2];

	if (has_ports(tuple->protocol)) {
		if (packet_read(packet, offset, ports, sizeof(ports))) {
			tuple->marks |= TUPLE_UNPARSED;
			return;
		}
		tuple->sport = bpf_ntohs(ports[0]);
		tuple->dport = bpf_ntohs(ports[1]);
		if (tuple->protocol == IPPROTO_TCP) {
			if (packet_read(packet, offset + TCP_FLAGS_OFFSET, &tuple->tcp_flags, 1))
				tuple->marks |= TUPLE_UNPARSED;
		} else if (tuple->protocol == IPPROTO_UDP && is_vxlan_port(tuple->dport, packet->vxlan_port)) {
			parse_vxlan(packet, offset + 8, tuple);
		}
		return;
	}
	if (tuple->protocol == IPPROTO_ICMP || tuple->protocol == IPPROTO_ICMPV6) {
		if (packet_read(packet, offset, type_code, sizeof(type_code))) {
			tuple->marks |= TUPLE_UNPARSED;
			return;
		}
		tuple->sport = type_code[0];
		tuple->dport = type_code[1];
	}
}

static __always_inline void parse_ipv4(const struct packet *packet, __u32 offset, struct tuple *tuple)
{
	struct iphdr ip;

	if (packet_read(packet, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5) {
		tuple->marks |= TUPLE_UNPARSED;
		return;
	}
	map_ipv4(tuple->saddr, ip.saddr);
	map_ipv4(tuple->daddr, ip.daddr);
	tuple->protocol = ip.protocol;
	if (bpf_ntohs(ip.frag_off) & IP_OFFSET_MASK) {
		tuple->marks |= TUPLE_FRAGMENT;
		return;
	}
	parse_transport(packet, offset + ip.ihl * 4, tuple);
}

static __always_inline bool is_extension_header(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_AH;
}

/*
 * Passes over an IPv6 packet's extension headers: offset and protocol, of what is behind the fixed header, become those
 * of what is behind them. Returns marks: if any, nothing is there.
 */
static __always_inline __u8 skip_extension_headers(const struct packet *packet, __u32 *offset, __u8 *protocol)
{
	__u8 extension[4]; /* next header, length, and of a fragment header the offset */

	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (!is_extension_header(*protocol))
			return 0;
		if (packet_read(packet, *offset, extension, sizeof(extension)))
			break;
		if (*protocol == IPPROTO_FRAGMENT) {
			*protocol = extension[0];
			if (((__u16)extension[2] << 8 | extension[3]) & 0xfff8)
				return TUPLE_FRAGMENT;
			*offset += 8;
		} else if (*protocol == IPPROTO_AH) {
			*protocol = extension[0];
			*offset += (extension[1] + 2) * 4;
		} else {
			*protocol = extension[0];
			*offset += (extension[1] + 1) * 8;
		}
	}
	return TUPLE_UNPARSED;
}

static __always_inline void parse_ipv6(const struct packet *packet, __u32 offset, struct tuple *tuple)
{
	struct ipv6hdr ip;
	__u8 marks;

	if (packet_read(packet, offset, &ip, sizeof(ip)) || ip.version != 6) {
		tuple->marks |= TUPLE_UNPARSED;
		return;
	}
	copy_ipv6(tuple->saddr, ip.saddr);
	copy_ipv6(tuple->daddr, ip.daddr);
	tuple->protocol = ip.nexthdr;
	offset += sizeof(ip);
	marks = skip_extension_headers(packet, &offset, &tuple->protocol);
	if (marks)
		tuple->marks |= marks;
	else
		parse_transport(packet, offset, tuple);
}

static __always_inline void parse_arp(const struct packet *packet, __u32 offset, struct tuple *tuple)
{
	struct arp_ipv4 arp;
	__be32 address;

	if (packet_read(packet, offset, &arp, sizeof(arp)) || arp.ar_pro != bpf_htons(ETH_P_IP) || arp.ar_pln != 4) {
		tuple->marks |= TUPLE_UNPARSED;
		return;
	}
	__builtin_memcpy(&address, arp.ar_sip, sizeof(address));
	map_ipv4(tuple->saddr, address);
	__builtin_memcpy(&address, arp.ar_tip, sizeof(address));
	map_ipv4(tuple->daddr, address);
}

/*
 * The short way for nearly every packet: IPv4 without options or IPv6 without extensions, then TCP or UDP. The caller
 * has made sure that the header is there. False: take the long way, parse_network().
 */
static __always_inline bool parse_plain_ipv4(const struct iphdr *ip, struct tuple *tuple)
{
	if (ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(IP_OFFSET_MASK)))
		return false;
	tuple->eth_proto = ETH_P_IP;
	tuple->protocol = ip->protocol;
	map_ipv4(tuple->saddr, ip->saddr);
	map_ipv4(tuple->daddr, ip->daddr);
	return ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP;
}

static __always_inline bool parse_plain_ipv6(const struct ipv6hdr *ip, struct tuple *tuple)
{
	if (ip->version != 6)
		return false;
	tuple->eth_proto = ETH_P_IPV6;
	tuple->protocol = ip->nexthdr;
	copy_ipv6(tuple->saddr, ip->saddr);
	copy_ipv6(tuple->daddr, ip->daddr);
	return ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP;
}

/* The ports that follow. False for VXLAN, to the usual port or the other, which has more to say. */
static __always_inline bool parse_plain_ports(const __be16 *ports, __u16 vxlan_port, struct tuple *tuple)
{
	tuple->sport = bpf_ntohs(ports[0]);
	tuple->dport = bpf_ntohs(ports[1]);
	return tuple->protocol != IPPROTO_UDP || !is_vxlan_port(tuple->dport, vxlan_port);
}

/*
 * Parses what begins at offset, whose EtherType is eth_proto (host order). VLAN tags that are still in the bytes are
 * passed over.
 */
static __always_inline void parse_network(const struct packet *packet, __u32 offset, __u16 eth_proto,
					  struct tuple *tuple)
{
	struct vlan_hdr vlan;

	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (eth_proto != ETH_P_8021Q && eth_proto != ETH_P_8021AD)
			break;
		if (packet_read(packet, offset, &vlan, sizeof(vlan))) {
			tuple->marks |= TUPLE_UNPARSED;
			break;
		}
		eth_proto = bpf_ntohs(vlan.h_vlan_encapsulated_proto);
		offset += sizeof(vlan);
	}
	tuple->eth_proto = eth_proto;
	if (eth_proto == ETH_P_IP)
		parse_ipv4(packet, offset, tuple);
	else if (eth_proto == ETH_P_IPV6)
		parse_ipv6(packet, offset, tuple);
	else if (eth_proto == ETH_P_ARP)
		parse_arp(packet, offset, tuple);
}

#endif
