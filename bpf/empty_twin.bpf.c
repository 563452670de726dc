// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For tests only: programs that do nothing, to hold the cost of ours against. */
#include "include/kernel.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int empty_tc(struct __sk_buff *skb __attribute__((unused)))
{
	return -1; /* pass on */
}

SEC("tp_btf/kfree_skb")
int empty_kfree_skb(__u64 *ctx __attribute__((unused)))
{
	return 0;
}

SEC("tp_btf/net_dev_queue")
int empty_net_dev_queue(__u64 *ctx __attribute__((unused)))
{
	return 0;
}
