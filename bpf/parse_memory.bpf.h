/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Parses a packet that lies in kernel memory, where a tracing program finds it. */
#ifndef BRIDGEWATCH_PARSE_MEMORY_BPF_H
#define BRIDGEWATCH_PARSE_MEMORY_BPF_H

#include "parse.bpf.h"

/* The network header as far as the short way reads it, of either family. */
union plain_header {
	struct {
		struct iphdr ip;
		__u8 transport[TCP_PARSED_LENGTH];
	} v4;
	struct {
		struct ipv6hdr ip;
		__u8 transport[TCP_PARSED_LENGTH];
	} v6;
};

/*
 * One read of memory. It may run past the packet's end, never past its buffer's, which the shared info follows;
 * what lies past the end is not looked at.
 */
static __always_inline bool parse_memory_plain(const struct packet *packet, __be16 protocol, struct tuple *tuple)
{
	union plain_header header;

	if (bpf_probe_read_kernel(&header, sizeof(header), packet->memory))
		return false;
	if (protocol == bpf_htons(ETH_P_IP)) {
		if (packet->length < sizeof(header.v4) || !parse_plain_ipv4(&header.v4.ip, tuple))
			return false;
		return parse_plain_ports((void *)header.v4.transport, packet->vxlan_port, tuple);
	}
	if (protocol != bpf_htons(ETH_P_IPV6) || packet->length < sizeof(header.v6) ||
	    !parse_plain_ipv6(&header.v6.ip, tuple))
		return false;
	return parse_plain_ports((void *)header.v6.transport, packet->vxlan_port, tuple);
}

static __noinline int parse_memory_any(const struct packet *packet, __be16 protocol, struct tuple *tuple)
{
	__builtin_memset(tuple, 0, sizeof(*tuple));
	parse_network(packet, 0, bpf_ntohs(protocol), tuple);
	return 0;
}

/* packet->memory is the network header, protocol the skb's EtherType. tuple is zero. */
static __always_inline void parse_memory(const struct packet *packet, __be16 protocol, struct tuple *tuple)
{
	if (!parse_memory_plain(packet, protocol, tuple))
		parse_memory_any(packet, protocol, tuple);
}

#endif
