// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * For tests only: the parser of the drop signal in a program that BPF_PROG_TEST_RUN can run, which no program on a
 * tracepoint is. It finds the packet as drop.bpf.c does, in the sk_buff that its context really is.
 */
#include "include/kernel.h"
#include "parse_memory.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PASS_ON (-1)

/* Puts the type of the result into the object's BTF, for the Go side. */
const struct tuple *tuple_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tuple);
} parsed SEC(".maps");

SEC("tc")
int parse_twin(struct __sk_buff *ctx)
{
	const struct sk_buff *skb = (void *)ctx;
	__u32 network = BPF_CORE_READ(skb, network_header), tail = BPF_CORE_READ(skb, tail), slot = 0;
	struct packet packet = {
		.memory = BPF_CORE_READ(skb, head) + network,
		.length = tail > network ? tail - network : 0,
	};
	struct tuple tuple = {};

	parse_memory(&packet, BPF_CORE_READ(skb, protocol), &tuple);
	bpf_map_update_elem(&parsed, &slot, &tuple, BPF_ANY);
	return PASS_ON;
}
