/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Finds the other ends of the veths of a network namespace. */
#ifndef BRIDGEWATCH_VETH_BPF_H
#define BRIDGEWATCH_VETH_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define NETDEV_ALIGN 32
#define NETDEV_SCAN 8 /* devices of a namespace that are looked at; loopback is the first */

/*
 * What a veth keeps in its private memory begins with a pointer to its other end (drivers/net/veth.c, struct
 * veth_priv), which points back: whatever else a device keeps there fails that test. The private memory follows the
 * device, aligned (include/linux/netdevice.h, netdev_priv).
 */
static __always_inline struct net_device *veth_private_peer(struct net_device *device)
{
	__u64 size = bpf_core_type_size(struct net_device);
	struct net_device *peer = NULL;

	size = (size + NETDEV_ALIGN - 1) & ~(__u64)(NETDEV_ALIGN - 1);
	bpf_probe_read_kernel(&peer, sizeof(peer), (void *)device + size);
	return peer;
}

/* The other end of a veth, NULL if device is none. */
static __always_inline struct net_device *veth_peer(struct net_device *device)
{
	char kind[5] = {};
	struct net_device *peer;

	bpf_probe_read_kernel_str(kind, sizeof(kind), BPF_CORE_READ(device, rtnl_link_ops, kind));
	if (kind[0] != 'v' || kind[1] != 'e' || kind[2] != 't' || kind[3] != 'h')
		return NULL;
	peer = veth_private_peer(device);
	if (!peer || veth_private_peer(peer) != device)
		return NULL;
	return peer;
}

#endif
