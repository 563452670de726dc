// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * drop: counts every packet that the kernel frees as dropped, by reason, function, namespace, device and addresses.
 *
 * Attaches to the kfree_skb tracepoint, since 5.10; the reason is there since 5.17, the receiving socket since 6.11.
 * The pointers inside a dying skb may be stale or reused for something else (dev shares its place with dev_scratch
 * and with the links of trees, _skb_refdst with a list), so nothing is believed before it has been cross-checked.
 */
#include "include/kernel.h"
#include "drop.h"
#include "netns.bpf.h"
#include "parse_memory.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define GSO_MIN_LENGTH 128 /* shorter frames are not read for their number of segments */
#define HEADER_NOT_SET 0xffff
#define IFF_UP (1 << 0)
#define LINK_STATE_NOCARRIER (1 << 2) /* __LINK_STATE_NOCARRIER in include/linux/netdevice.h */
#define IPS_DST_NAT (1 << 5) /* include/uapi/linux/netfilter/nf_conntrack_common.h */

const volatile struct drop_config config;
volatile __u16 vxlan_port; /* besides the usual one, 0: none; user space sets it when it learns of it */

/* Puts the types of the tables into the object's BTF, for the Go side. */
const struct drop_key *drop_key_type __attribute__((unused));
const struct drop_value *drop_value_type __attribute__((unused));
const enum drop_flag *drop_flag_type __attribute__((unused));
const enum drop_counter *drop_counter_type __attribute__((unused));

struct drop_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(key_size, sizeof(struct drop_key));
	__uint(value_size, sizeof(struct drop_value));
};

struct drop_other_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(struct drop_key));
	__uint(value_size, sizeof(struct drop_value));
};

/*
 * User space puts one of two tables in here and takes the other one out: when the change has settled (the kernel
 * waits for running programs), nothing writes to the one taken out, and it can be read and emptied without loss.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct drop_table);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct drop_other_table);
} drops_other SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} drop_counters SEC(".maps");

/* Where a drop happened, as far as it can be told. */
struct place {
	__u64 netns; /* as in struct drop_key */
	const struct net *net; /* or NULL */
	const struct nf_conn *ct; /* or NULL */
	const struct net_device *device; /* in net, or NULL */
	__u32 ifindex; /* of device */
	bool out;
	bool routed;
};

/* What the skb's own device says, read through typed pointers, which cost nothing. */
struct device_place {
	__u64 netns;
	__u64 net; /* as a number, for comparison */
	__u32 ifindex;
};

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&drop_counters, &counter);

	if (value)
		*value += 1;
}

/* The verifier wants to see its pointers compared with NULL; the barrier keeps the compiler from folding that away. */
static __always_inline bool in_kernel(const void *pointer)
{
	if (!pointer)
		return false;
	barrier_var(pointer);
	return (__u64)pointer >> 56 == 0xff;
}

/* A namespace's loopback device lives in that namespace: what only looks like a namespace fails this. */
static __always_inline bool is_net(const struct net *net)
{
	const struct net_device *loopback;

	if (!in_kernel(net))
		return false;
	loopback = BPF_CORE_READ(net, loopback_dev);
	return in_kernel(loopback) && BPF_CORE_READ(loopback, nd_net.net) == net;
}

static __always_inline void read_device_place(struct sk_buff *skb, struct device_place *place)
{
	struct net_device *device = skb->dev, *loopback;
	struct net *net;

	if (!in_kernel(device))
		return;
	net = device->nd_net.net;
	if (!in_kernel(net))
		return;
	loopback = net->loopback_dev;
	if (!in_kernel(loopback) || loopback->nd_net.net != net)
		return;
	place->net = (__u64)net;
	place->ifindex = device->ifindex;
	if (bpf_core_field_exists(net->net_cookie))
		place->netns = net->net_cookie;
	else
		place->netns = net->ns.inum;
}

static __always_inline const struct net *net_of_socket(const struct sock *sk)
{
	const struct net *net;

	if (!in_kernel(sk))
		return NULL;
	net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	return is_net(net) ? net : NULL;
}

static __always_inline const struct net *net_of_current(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);

	return is_net(net) ? net : NULL;
}

/* The packet's conntrack entry, or NULL; the low bits of its pointer are the packet's state. */
static __always_inline const struct nf_conn *conntrack_of(struct sk_buff *skb)
{
	if (!bpf_core_field_exists(skb->_nfct) || !bpf_core_type_exists(struct nf_conn))
		return NULL;
	return (void *)(skb->_nfct & ~7UL);
}

/*
 * Whose namespace: the conntrack entry's, else the route's device's, else the device's, the socket's, the receiving
 * socket's, and of what is sent just now the current task's. The device alone misleads: an encapsulated packet in
 * OUTPUT still carries the tunnel's.
 */
static __always_inline const struct net *find_net(struct sk_buff *skb, const struct sock *rx_sk,
						  const struct net_device *route_device, __u64 device_net, bool out)
{
	const struct nf_conn *ct = conntrack_of(skb);
	const struct net *net = NULL;

	if (ct) {
		net = BPF_CORE_READ(ct, ct_net.net);
		if (net && ((__u64)net == device_net || is_net(net)))
			return net;
	}
	if (route_device) {
		net = BPF_CORE_READ(route_device, nd_net.net);
		if (net && (__u64)net == device_net)
			return net;
		/* The route of a device that is gone leads to one without a number, in the host's namespace. */
		if (is_net(net) && BPF_CORE_READ(route_device, ifindex))
			return net;
	}
	if (device_net)
		return (void *)device_net;
	net = net_of_socket(BPF_CORE_READ(skb, sk));
	if (!net)
		net = net_of_socket(rx_sk);
	if (!net && out)
		net = net_of_current();
	return net;
}

static __always_inline void locate(struct sk_buff *skb, const struct sock *rx_sk, struct place *place)
{
	const struct dst_entry *dst = (void *)(skb->_skb_refdst & ~1UL);
	const struct net_device *route_device = NULL;
	struct device_place device = {};
	const struct net *socket_net = NULL;

	place->routed = in_kernel(dst);
	if (place->routed) {
		route_device = BPF_CORE_READ(dst, dev);
		if (!in_kernel(route_device))
			route_device = NULL;
	}
	read_device_place(skb, &device);
	if (skb->skb_iif == 0)
		socket_net = net_of_socket(BPF_CORE_READ(skb, sk));
	place->out = skb->skb_iif == 0 && (socket_net || dst);
	place->net = find_net(skb, rx_sk, route_device, device.net, place->out);
	if (!place->net)
		return;
	/* A packet takes its socket along into the next namespace, which has not made it. */
	if (!dst && socket_net != place->net)
		place->out = false;
	place->ct = conntrack_of(skb);
	if ((__u64)place->net == device.net) {
		place->netns = device.netns;
		place->ifindex = device.ifindex;
		place->device = BPF_CORE_READ(skb, dev);
		return;
	}
	place->netns = netns_of(place->net);
	if (place->out && route_device && BPF_CORE_READ(route_device, nd_net.net) == place->net) {
		place->device = route_device;
		place->ifindex = BPF_CORE_READ(route_device, ifindex);
	}
}

static __always_inline void parse(struct sk_buff *skb, struct tuple *tuple)
{
	struct packet packet = {
		.memory = skb->head + skb->network_header,
		.length = skb->tail > skb->network_header ? skb->tail - skb->network_header : 0,
		.vxlan_port = vxlan_port,
	};

	parse_memory(&packet, skb->protocol, tuple);
	if (tuple->marks & TUPLE_UNPARSED)
		count(DROP_NOT_PARSED);
}

/* The short way of parsing leaves them out: there a TCP header follows an IP header without options. */
static __always_inline __u8 read_tcp_flags(struct sk_buff *skb, const struct tuple *tuple)
{
	__u32 header = tuple->eth_proto == ETH_P_IP ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u8 flags = tuple->tcp_flags;

	if (!flags && tuple->protocol == IPPROTO_TCP && !tuple->marks)
		bpf_probe_read_kernel(&flags, sizeof(flags),
				      skb->head + skb->network_header + header + TCP_FLAGS_OFFSET);
	return flags;
}

static __always_inline __u32 gso_segments(struct sk_buff *skb)
{
	struct skb_shared_info *info = (void *)(skb->head + skb->end);
	__u16 segments;

	if (skb->len < GSO_MIN_LENGTH)
		return 1;
	segments = BPF_CORE_READ(info, gso_segs);
	return segments ?: 1;
}

static __always_inline void fill_key(struct drop_key *key, const struct place *place, const struct tuple *tuple)
{
	key->netns = place->netns;
	key->ifindex = place->ifindex;
	key->flags = place->out ? DROP_OUT : 0;
	if (place->routed)
		key->flags |= DROP_ROUTED;
	if (tuple->marks & TUPLE_UNPARSED)
		key->flags |= DROP_UNPARSED;
	if (tuple->marks & TUPLE_FRAGMENT)
		key->flags |= DROP_FRAGMENT;
	if (tuple->is_vxlan)
		key->flags |= DROP_VXLAN_OUTER;
	__builtin_memcpy(key->saddr, tuple->saddr, sizeof(key->saddr));
	__builtin_memcpy(key->daddr, tuple->daddr, sizeof(key->daddr));
	key->vni = tuple->vni;
	key->sport = tuple->sport;
	key->dport = tuple->dport;
	key->eth_proto = tuple->eth_proto;
	key->protocol = tuple->protocol;
}

/* The entry is of the packet's own family. */
static __always_inline void read_conntrack(const struct nf_conn *ct, bool ipv4, struct drop_value *value)
{
	bpf_core_read(value->initiator, sizeof(value->initiator), &ct->tuplehash[0].tuple.src.u3);
	bpf_core_read(value->responder, sizeof(value->responder), &ct->tuplehash[1].tuple.src.u3);
	if (ipv4) {
		map_ipv4(value->initiator, value->initiator[0]);
		map_ipv4(value->responder, value->responder[0]);
	}
	value->has_dnat = !!(BPF_CORE_READ(ct, status) & IPS_DST_NAT);
	value->has_conntrack = 1;
}

static __always_inline void read_macs(struct sk_buff *skb, struct drop_value *value)
{
	if (skb->mac_header == HEADER_NOT_SET || skb->mac_header + ETH_HLEN > skb->network_header)
		return;
	bpf_probe_read_kernel(value->macs, sizeof(value->macs), skb->head + skb->mac_header);
	value->has_mac = 1;
}

static __always_inline struct cgroup *cgroup_of_socket(const struct sock *sk)
{
	const struct sock_cgroup_data *data = &sk->sk_cgrp_data;
	const struct sock_cgroup_data___word *word = (void *)data;
	__u64 value;

	if (bpf_core_field_exists(data->cgroup))
		return BPF_CORE_READ(data, cgroup);
	if (!bpf_core_field_exists(word->val))
		return NULL;
	value = BPF_CORE_READ(word, val);
	return value & 1 ? NULL : (void *)value;
}

/*
 * A container on the host's network has no namespace of its own: its socket's cgroup tells it apart. On cgroup v1 a
 * socket knows none; a datagram is then its sender's, who is the current task.
 */
static __always_inline void read_owner(struct sk_buff *skb, const struct place *place, struct drop_value *value)
{
	const struct net *net = place->net;
	const struct sock *sk = BPF_CORE_READ(skb, sk);
	struct task_struct *task;
	struct cgroup *cgroup;

	if (!net || net_of_socket(sk) != net || BPF_CORE_READ(net, ns.inum) != config.host_netns)
		return;
	cgroup = cgroup_of_socket(sk);
	if (in_kernel(cgroup) && read_container_cgroup(cgroup, value->cgroup))
		return;
	if (!place->out || BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP)
		return;
	task = (void *)bpf_get_current_task();
	if (BPF_CORE_READ(task, nsproxy, net_ns) == net)
		read_task_container(task, value->cgroup);
}

/* Reads, once for each new entry, what helps to tell whose packet it was. */
static __always_inline void read_evidence(struct sk_buff *skb, const struct place *place, bool ipv4,
					  struct drop_value *value)
{
	const struct net_device *device = place->device;

	if (place->ct)
		read_conntrack(place->ct, ipv4, value);
	read_macs(skb, value);
	if (device) {
		value->link_down = !(BPF_CORE_READ(device, flags) & IFF_UP) ||
				   (BPF_CORE_READ(device, state) & LINK_STATE_NOCARRIER);
		bpf_core_read_str(value->device, sizeof(value->device), &device->name);
		bpf_probe_read_kernel_str(value->kind, sizeof(value->kind), BPF_CORE_READ(device, rtnl_link_ops, kind));
	}
	read_owner(skb, place, value);
}

static __always_inline void add(struct drop_value *value, __u32 packets, __u32 bytes)
{
	__sync_fetch_and_add(&value->skbs, 1);
	__sync_fetch_and_add(&value->packets, packets);
	__sync_fetch_and_add(&value->bytes, bytes);
}

/* What a new entry begins as: on the stack it would not fit beside its caller's frame (512 bytes, up to 6.12). */
static const struct drop_value nothing;

/*
 * Adds to the entry of key in table, which is made if it is not there: whoever makes it reads the evidence. Tells
 * whether it was counted.
 */
static __always_inline bool count_in(void *table, const struct drop_key *key, struct sk_buff *skb,
				     const struct place *place, __u32 packets, __u8 tcp_flags)
{
	bool made = !bpf_map_update_elem(table, key, &nothing, BPF_NOEXIST);
	struct drop_value *value = bpf_map_lookup_elem(table, key);

	if (!value)
		return false;
	add(value, packets, skb->len);
	if (made) {
		read_evidence(skb, place, key->eth_proto == ETH_P_IP, value);
		value->tcp_flags = tcp_flags;
	}
	return true;
}

static __noinline int count_new(struct sk_buff *skb, struct drop_key *key, const struct place *place, __u32 packets,
				__u8 tcp_flags)
{
	__u32 slot = 0;
	void *table;

	table = bpf_map_lookup_elem(&drops, &slot);
	if (table && count_in(table, key, skb, place, packets, tcp_flags))
		return 0;

	count(DROP_TABLE_FULL);
	__builtin_memset(key->saddr, 0, sizeof(key->saddr));
	__builtin_memset(key->daddr, 0, sizeof(key->daddr));
	key->sport = 0;
	key->dport = 0;
	key->iif = 0;
	key->vni = 0;
	key->flags |= DROP_OTHER;
	table = bpf_map_lookup_elem(&drops_other, &slot);
	if (!table || !count_in(table, key, skb, place, packets, tcp_flags))
		count(DROP_LOST);
	return 0;
}

static __always_inline int count_drop(struct sk_buff *skb, __u64 location, __u32 reason, const struct sock *rx_sk)
{
	struct drop_key key = {
		.location = location,
		.reason = reason,
		.iif = skb->skb_iif,
	};
	struct tuple tuple = {};
	struct place place = {};
	struct drop_value *value;
	__u32 slot = 0, packets;
	void *table;

	parse(skb, &tuple);
	locate(skb, rx_sk, &place);
	fill_key(&key, &place, &tuple);
	packets = gso_segments(skb);
	count(DROP_SEEN);

	table = bpf_map_lookup_elem(&drops, &slot);
	if (!table)
		return 0;
	value = bpf_map_lookup_elem(table, &key);
	if (value)
		add(value, packets, skb->len);
	else
		count_new(skb, &key, &place, packets, read_tcp_flags(skb, &tuple));
	return 0;
}

static __always_inline bool is_in(const volatile struct drop_place *place, __u64 location)
{
	return location >= place->start && location < place->end;
}

SEC("tp_btf/kfree_skb")
int drop_kfree_skb(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u64 location = ctx[1];
	__u32 reason = 0;
	struct sock *rx_sk = NULL;

	if (config.arguments >= 3)
		reason = ctx[2];
	if (config.arguments >= 4)
		rx_sk = (void *)ctx[3];
	if (is_in(&config.ignored[0], location) || is_in(&config.ignored[1], location)) {
		count(DROP_IGNORED);
		return 0;
	}
	return count_drop(skb, location, reason, rx_sk);
}
