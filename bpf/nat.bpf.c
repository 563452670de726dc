// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * nat: tells of every translated connection when it is opened and when it is first answered.
 *
 * nat_net_dev_queue attaches to the tracepoint by which every packet comes on its way to a device, since 2.6.37, and
 * follows the packet to its entry in connection tracking. Nearly every packet belongs to a connection that is long
 * known, and is told by the state that its pointer carries and one bit of the entry.
 *
 * nat_filter_events is for a socket that listens to conntrack's own events, which tell of what never gets to a device.
 */
#include "include/kernel.h"
#include "nat.h"
#include "netns.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_INET 2

/* include/linux/skbuff.h, SKB_NFCT_PTRMASK: the low bits of the pointer are the packet's enum ip_conntrack_info. */
#define NFCT_INFO 7UL

/* include/uapi/linux/netfilter/nf_conntrack_common.h */
enum {
	IP_CT_RELATED = 1,
	IP_CT_NEW = 2,
	IP_CT_ESTABLISHED_REPLY = 3,
};

enum {
	IPS_EXPECTED = 1 << 0,
	IPS_SEEN_REPLY = 1 << 1,
	IPS_ASSURED = 1 << 2,
	IPS_CONFIRMED = 1 << 3,
	IPS_SRC_NAT = 1 << 4,
	IPS_DST_NAT = 1 << 5,
	/* Of two packets that were one connection, and became entries at once: the second one's, which lives for a
	 * second. */
	IPS_NAT_CLASH = 1 << 12,
};

/* include/uapi/linux/netfilter/nf_conntrack_tcp.h */
enum {
	TCP_CONNTRACK_SYN_RECV = 2,
	TCP_CONNTRACK_CLOSE = 8,
};

/* include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h */
#define CONNTRACK_NEW (1 << 8 | 0) /* NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW */
#define ATTRIBUTES 20 /* behind a struct nlmsghdr and a struct nfgenmsg */
#define ATTRIBUTE_TYPE 0x3fff
#define MAX_ATTRIBUTES 24

enum {
	CTA_TUPLE_ORIG = 1,
	CTA_TUPLE_REPLY = 2,
	CTA_STATUS = 3,
};

enum {
	CTA_TUPLE_IP = 1,
	CTA_TUPLE_PROTO = 2,
};

enum {
	CTA_IP_V4_SRC = 1,
	CTA_IP_V4_DST = 2,
	CTA_IP_V6_SRC = 3,
	CTA_IP_V6_DST = 4,
};

enum {
	CTA_PROTO_NUM = 1,
	CTA_PROTO_DST_PORT = 3,
};

const volatile struct nat_config config;

/* Puts the types that the Go side needs into the object's BTF. */
const struct nat_record *nat_record_type __attribute__((unused));
const struct nat_endpoint *nat_endpoint_type __attribute__((unused));
const enum nat_event *nat_event_type __attribute__((unused));
const enum nat_masquerade *nat_masquerade_type __attribute__((unused));
const enum nat_counter *nat_counter_type __attribute__((unused));

/* What is remembered of a connection so that it is told once. */
struct nat_known {
	__u32 timeout; /* of the entry, when a packet of the kind that is told was last seen */
	__u32 sequence; /* of TCP: the client's */
	__u32 ifindex; /* as in the record */
	__u32 local;
};

/* By name_of(), and whether it is known to be opened or to be answered: the second takes the place of the first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct nat_known);
} nat_connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct nat_endpoint);
	__type(value, __u8);
} nat_endpoints SEC(".maps");

/* User space reads it at its own pace, and is not woken up. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} nat_records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NAT_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} nat_counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&nat_counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline void copy_address(__u32 to[4], const __u32 from[4], bool ipv4)
{
	to[0] = ipv4 ? 0 : from[0];
	to[1] = ipv4 ? 0 : from[1];
	to[2] = ipv4 ? bpf_htonl(0xffff) : from[2];
	to[3] = ipv4 ? from[0] : from[3];
}

extern void *bpf_rdonly_cast(const void *pointer, __u32 type) __ksym __weak;

/* An entry that may be read without a call: only where there is bpf_rdonly_cast (6.2). */
static __always_inline const struct nf_conn *readable(const struct nf_conn *ct)
{
	return bpf_rdonly_cast(ct, bpf_core_type_id_kernel(struct nf_conn));
}

/* What the verifier lets nobody read at once. An IPv4 address is one word. */
static __always_inline void copy_tuple(const struct nf_conntrack_tuple *from, struct nf_conntrack_tuple *to)
{
	to->src.l3num = from->src.l3num;
	to->src.u.all = from->src.u.all;
	to->dst.u.all = from->dst.u.all;
	to->dst.protonum = from->dst.protonum;
	for (int i = 0; i < 4; i++) {
		to->src.u3.all[i] = from->src.u3.all[i];
		to->dst.u3.all[i] = from->dst.u3.all[i];
		if (to->src.l3num == AF_INET)
			break;
	}
}

static __always_inline void read_tuples(const struct nf_conn *ct, struct nf_conntrack_tuple tuples[2])
{
	if (bpf_rdonly_cast) {
		ct = readable(ct);
		copy_tuple(&ct->tuplehash[0].tuple, &tuples[0]);
		copy_tuple(&ct->tuplehash[1].tuple, &tuples[1]);
		return;
	}
	bpf_core_read(&tuples[0], sizeof(tuples[0]), &ct->tuplehash[0].tuple);
	bpf_core_read(&tuples[1], sizeof(tuples[1]), &ct->tuplehash[1].tuple);
}

static __always_inline void fill_tuple(struct nat_tuple *tuple, const struct nf_conntrack_tuple *from, __u8 protocol)
{
	bool ipv4 = from->src.l3num == AF_INET;

	copy_address(tuple->saddr, from->src.u3.all, ipv4);
	copy_address(tuple->daddr, from->dst.u3.all, ipv4);
	tuple->sport = from->src.u.all;
	/* What ICMP has in place of a destination port is its type and code, which the answer has another of. */
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		tuple->dport = tuple->sport;
	else
		tuple->dport = from->dst.u.all;
}

static __always_inline bool is_same_address(const __u32 a[4], const __u32 b[4])
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline bool is_translated(const struct nat_tuple *original, const struct nat_tuple *reply)
{
	return original->sport != reply->dport || original->dport != reply->sport ||
	       !is_same_address(original->saddr, reply->daddr) || !is_same_address(original->daddr, reply->saddr);
}

static __always_inline bool is_endpoint(const __u32 address[4], __be16 port, __u8 protocol)
{
	struct nat_endpoint endpoint = {
		.port = port,
		.protocol = protocol,
	};

	__builtin_memcpy(endpoint.address, address, sizeof(endpoint.address));
	if (bpf_map_lookup_elem(&nat_endpoints, &endpoint))
		return true;
	__builtin_memset(endpoint.address, 0, sizeof(endpoint.address));
	return bpf_map_lookup_elem(&nat_endpoints, &endpoint);
}

/* MASQUERADE leaves the device's number in the entry, which loses it if the device does. */
static __always_inline __u8 read_masquerade(const struct nf_conn *ct)
{
	const struct nf_conn_nat *nat = NULL;
	const struct nf_ct_ext *ext;
	__u8 offset = 0;

	if (!bpf_core_field_exists(nat->masq_index) || !bpf_core_field_exists(ct->ext) ||
	    !bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_NAT))
		return NAT_MASQUERADE_UNKNOWN;
	ext = BPF_CORE_READ(ct, ext);
	if (!ext)
		return NAT_MASQUERADE_OFF;
	bpf_probe_read_kernel(&offset, sizeof(offset),
			      (void *)ext + bpf_core_field_offset(ext->offset) +
				      bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_NAT));
	if (!offset)
		return NAT_MASQUERADE_OFF;
	nat = (void *)ext + offset;
	return BPF_CORE_READ(nat, masq_index) ? NAT_MASQUERADE_ON : NAT_MASQUERADE_OFF;
}

static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15;
	return hash ^ hash >> 32;
}

/*
 * A name for an entry: where it is, and what it says, since the kernel uses the memory of an entry that ended for the
 * next one, even for packets that are just looking at it.
 */
static __always_inline __u64 name_of(const struct nf_conn *ct, const struct nat_record *record)
{
	const __u64 *words = (void *)&record->original;
	__u64 hash = mix(0, (__u64)ct);

	_Static_assert(sizeof(record->original) + sizeof(record->reply) == 9 * sizeof(*words), "tuples are 9 words");
	for (int i = 0; i < 9; i++)
		hash = mix(hash, words[i]);
	return mix(hash, record->protocol);
}

static __always_inline __u64 opened(__u64 name)
{
	return name & ~1ULL;
}

static __always_inline __u64 answered(__u64 name)
{
	return name | 1;
}

static __always_inline bool has_ended(const struct nat_known *known)
{
	return (__s32)(known->timeout - (__u32)bpf_jiffies64()) <= 0;
}

/* The first of all who ask, on any processor, gets true. */
static __always_inline bool claim(const __u64 *key, const struct nat_known *known)
{
	long error = bpf_map_update_elem(&nat_connections, key, known, BPF_NOEXIST);

	if (error && error != -EEXIST)
		count(NAT_NOT_REMEMBERED);
	return !error;
}

static __always_inline void tell(struct nat_record *record, const struct nf_conn *ct)
{
	record->netns = netns_of(BPF_CORE_READ(ct, ct_net.net));
	record->masquerade = read_masquerade(ct);
	record->time_ns = bpf_ktime_get_ns();
	if (bpf_ringbuf_output(&nat_records, record, sizeof(*record), BPF_RB_NO_WAKEUP))
		count(NAT_RING_FULL);
}

static __always_inline bool is_of_host(const struct nf_conn *ct)
{
	if (bpf_rdonly_cast)
		return readable(ct)->ct_net.net->ns.inum == config.host_netns;
	return BPF_CORE_READ(ct, ct_net.net, ns.inum) == config.host_netns;
}

/* Tells whether a connection is one that is told, and reads what identifies it. */
static __always_inline bool identify(const struct nf_conn *ct, struct nat_record *record)
{
	struct nf_conntrack_tuple tuples[2] = {};

	read_tuples(ct, tuples);
	record->protocol = tuples[0].dst.protonum;
	fill_tuple(&record->original, &tuples[0], record->protocol);
	fill_tuple(&record->reply, &tuples[1], record->protocol);
	if (is_translated(&record->original, &record->reply))
		return true;
	return record->original.dport && is_of_host(ct) &&
	       is_endpoint(record->original.daddr, record->original.dport, record->protocol);
}

static __always_inline void read_known(const struct nf_conn *ct, __u8 protocol, struct nat_known *known)
{
	known->timeout = BPF_CORE_READ(ct, timeout);
	if (protocol == IPPROTO_TCP)
		known->sequence = BPF_CORE_READ(ct, proto.tcp.seen[0].td_end);
}

/* Where the packet goes, and who sent it: what has come in by a device of the namespace is nobody's here. */
static __always_inline void read_sender(const struct sk_buff *skb, const struct nf_conn *ct, struct nat_known *known)
{
	const struct net *net = BPF_CORE_READ(ct, ct_net.net);
	const struct net_device *device = BPF_CORE_READ(skb, dev);
	const struct sock *sk = BPF_CORE_READ(skb, sk);

	if (device && BPF_CORE_READ(device, nd_net.net) == net)
		known->ifindex = BPF_CORE_READ(device, ifindex);
	known->local = !BPF_CORE_READ(skb, skb_iif) && sk && BPF_CORE_READ(sk, __sk_common.skc_net.net) == net;
}

/*
 * Tells whether a connection is known that a first packet belongs to. Who has seen an answer cannot have become one
 * that has not: that is another connection in the same place.
 */
static __always_inline bool is_known(__u64 name, __u32 status, const struct nat_known *now)
{
	__u64 key = opened(name);
	struct nat_known *known = bpf_map_lookup_elem(&nat_connections, &key);

	if (known && !has_ended(known)) {
		known->timeout = now->timeout;
		return true;
	}
	if (known)
		bpf_map_delete_elem(&nat_connections, &key);
	key = answered(name);
	known = bpf_map_lookup_elem(&nat_connections, &key);
	if (!known)
		return false;
	if (status & IPS_SEEN_REPLY)
		return true;
	bpf_map_delete_elem(&nat_connections, &key);
	return false;
}

static __noinline int see_first_packet(const struct sk_buff *skb, const struct nf_conn *ct, __u32 status)
{
	struct nat_record record = {
		.status = status,
		.event = NAT_OPENED,
	};
	struct nat_known now = {};
	__u64 name, key;

	if (!identify(ct, &record))
		return 0;
	name = name_of(ct, &record);
	read_known(ct, record.protocol, &now);
	if (is_known(name, status, &now))
		return 0;
	read_sender(skb, ct, &now);
	key = opened(name);
	if (!claim(&key, &now))
		return 0;
	record.ifindex = now.ifindex;
	record.local = now.local;
	tell(&record, ct);
	return 0;
}

/*
 * Tells whether a connection is known to have been answered. One that was opened anew in the same place begins with
 * another sequence number; one without such numbers in the meantime has had to end.
 */
static __always_inline bool is_answered(__u64 key, const struct nat_known *now)
{
	struct nat_known *known = bpf_map_lookup_elem(&nat_connections, &key);

	if (!known)
		return false;
	if (known->sequence == now->sequence && !has_ended(known)) {
		known->timeout = now->timeout;
		return true;
	}
	bpf_map_delete_elem(&nat_connections, &key);
	return false;
}

/* What was known of its first packet moves on with the connection. */
static __always_inline void take_over(__u64 key, struct nat_known *now)
{
	struct nat_known *known = bpf_map_lookup_elem(&nat_connections, &key);

	if (!known)
		return;
	now->ifindex = known->ifindex;
	now->local = known->local;
}

enum verdict {
	NOT_TOLD,
	ACCEPTED,
	REFUSED,
};

/*
 * What an answer that left is to its connection. Of TCP a SYN and ACK accepts it, and leaves the entry in a state that
 * it has only once; what refuses it ends the entry, before the packet gets here.
 */
static __always_inline enum verdict judge(const struct nf_conn *ct)
{
	__u8 protocol = BPF_CORE_READ(ct, tuplehash[0].tuple.dst.protonum), state;

	if (protocol == IPPROTO_TCP) {
		state = BPF_CORE_READ(ct, proto.tcp.state);
		if (state == TCP_CONNTRACK_CLOSE)
			return REFUSED;
		return state == TCP_CONNTRACK_SYN_RECV ? ACCEPTED : NOT_TOLD;
	}
	if (protocol == IPPROTO_SCTP)
		return BPF_CORE_READ(ct, proto.sctp.state) == SCTP_CONNTRACK_CLOSED ? REFUSED : ACCEPTED;
	return ACCEPTED;
}

static __noinline int see_answer(const struct nf_conn *ct, __u32 status)
{
	struct nat_record record = {
		.status = status,
		.event = NAT_ANSWERED,
	};
	enum verdict verdict = judge(ct);
	struct nat_known now = {};
	__u64 name, key;

	if (verdict == NOT_TOLD || !identify(ct, &record))
		return 0;
	name = name_of(ct, &record);
	key = opened(name);
	if (verdict == REFUSED) {
		bpf_map_delete_elem(&nat_connections, &key);
		return 0;
	}
	read_known(ct, record.protocol, &now);
	if (is_answered(answered(name), &now))
		return 0;
	take_over(key, &now);
	key = answered(name);
	if (!claim(&key, &now))
		return 0;
	key = opened(name);
	bpf_map_delete_elem(&nat_connections, &key);
	record.ifindex = now.ifindex;
	record.local = now.local;
	tell(&record, ct);
	return 0;
}

/*
 * Tells of UDP whether this is a later packet than the first, which had two seconds to get here; if it waited for
 * longer, for a neighbour's address, only the events tell of it. What nobody answers stays new for ever, and may be a
 * stream all the same: logs, video, or VXLAN, whose answers come from other ports.
 */
static __always_inline bool is_old(const struct nf_conn *ct)
{
	__u64 stream_ts;
	__u8 protocol;

	if (bpf_rdonly_cast) {
		ct = readable(ct);
		protocol = ct->tuplehash[0].tuple.dst.protonum;
		stream_ts = ct->proto.udp.stream_ts;
	} else {
		protocol = BPF_CORE_READ(ct, tuplehash[0].tuple.dst.protonum);
		stream_ts = BPF_CORE_READ(ct, proto.udp.stream_ts);
	}
	return protocol == IPPROTO_UDP && (__s64)(bpf_jiffies64() - stream_ts) > 0;
}

/* Nearly every packet costs this read. */
static __always_inline __u32 read_status(const struct nf_conn *ct)
{
	if (bpf_rdonly_cast)
		return readable(ct)->status;
	return BPF_CORE_READ(ct, status);
}

SEC("tp_btf/net_dev_queue")
int nat_net_dev_queue(__u64 *ctx)
{
	const struct sk_buff *skb = (void *)ctx[0];
	const struct nf_conn *ct;
	__u32 info, status;

	if (!bpf_core_field_exists(skb->_nfct) || !bpf_core_type_exists(struct nf_conn))
		return 0;
	info = skb->_nfct & NFCT_INFO;
	if (info != IP_CT_NEW && info != IP_CT_ESTABLISHED_REPLY && info != IP_CT_RELATED)
		return 0;
	ct = (void *)(skb->_nfct & ~NFCT_INFO);
	if (!ct)
		return 0;
	if (info != IP_CT_ESTABLISHED_REPLY && is_old(ct))
		return 0;
	status = read_status(ct);
	if (info == IP_CT_ESTABLISHED_REPLY) {
		if (!(status & (IPS_ASSURED | IPS_NAT_CLASH)))
			see_answer(ct, status);
		return 0;
	}
	/* Of what is related, an expected connection is one of its own; an ICMP error has the entry that it is about.
	 */
	if ((status & (IPS_CONFIRMED | IPS_NAT_CLASH)) == IPS_CONFIRMED && (info == IP_CT_NEW || status & IPS_EXPECTED))
		see_first_packet(skb, ct, status);
	return 0;
}

/* A stretch of a netlink message, in bytes from its beginning. */
struct stretch {
	__u32 from;
	__u32 to;
};

/*
 * Finds the attribute of that type among those between from and to, and returns where its content begins and, in the
 * upper half, where it ends; 0: there is none. A function of its own to the verifier, so that it looks at it but once.
 */
__noinline __u64 nat_find_attribute(struct __sk_buff *skb, __u32 from, __u32 to, __u32 type)
{
	struct {
		__u16 length; /* with this header */
		__u16 type;
	} header;

	for (int i = 0; i < MAX_ATTRIBUTES; i++) {
		if (from >= to || bpf_skb_load_bytes(skb, from, &header, sizeof(header)))
			return 0;
		if (header.length < sizeof(header) || from + header.length > to)
			return 0;
		if ((header.type & ATTRIBUTE_TYPE) == type)
			return from + sizeof(header) | (__u64)(from + header.length) << 32;
		from += (header.length + 3) & ~3;
	}
	return 0;
}

static __always_inline bool find(struct __sk_buff *skb, struct stretch in, __u32 type, struct stretch *found)
{
	__u64 result = nat_find_attribute(skb, in.from, in.to, type);

	found->from = (__u32)result;
	found->to = result >> 32;
	return result;
}

/* Reads the content of an attribute that has to have that size. */
static __always_inline bool load(struct __sk_buff *skb, struct stretch in, __u32 type, void *to, __u32 size)
{
	struct stretch content;

	return find(skb, in, type, &content) && content.to - content.from == size &&
	       !bpf_skb_load_bytes(skb, content.from, to, size);
}

/* Reads one of a tuple's addresses. */
static __always_inline bool load_address(struct __sk_buff *skb, struct stretch tuple, __u32 ipv4_type, __u32 ipv6_type,
					 __u32 address[4])
{
	struct stretch ip;
	__u32 ipv4[4] = {};

	if (!find(skb, tuple, CTA_TUPLE_IP, &ip))
		return false;
	if (load(skb, ip, ipv6_type, address, 16))
		return true;
	if (!load(skb, ip, ipv4_type, ipv4, 4))
		return false;
	copy_address(address, ipv4, true);
	return true;
}

/*
 * Tells whether an event is certainly of no interest: of a connection that nothing translates, to no endpoint. In which
 * namespace it is cannot be told here. IPVS sets no mark, but has the answer come from elsewhere.
 */
static __always_inline bool is_dull(struct __sk_buff *skb)
{
	struct stretch attributes = {.from = ATTRIBUTES}, original, reply, protocol;
	__u32 destination[4], answerer[4];
	__be32 status;
	__u16 type;
	__be16 port = 0;
	__u8 number;

	if (bpf_skb_load_bytes(skb, 0, &attributes.to, 4) || bpf_skb_load_bytes(skb, 4, &type, sizeof(type)))
		return false;
	if (type != CONNTRACK_NEW || attributes.to > skb->len || (attributes.to + 3 & ~3) < skb->len)
		return false;
	if (!load(skb, attributes, CTA_STATUS, &status, sizeof(status)) ||
	    status & bpf_htonl(IPS_SRC_NAT | IPS_DST_NAT))
		return false;
	if (!find(skb, attributes, CTA_TUPLE_ORIG, &original) || !find(skb, attributes, CTA_TUPLE_REPLY, &reply) ||
	    !load_address(skb, original, CTA_IP_V4_DST, CTA_IP_V6_DST, destination) ||
	    !load_address(skb, reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC, answerer) ||
	    !is_same_address(destination, answerer))
		return false;
	if (!find(skb, original, CTA_TUPLE_PROTO, &protocol) ||
	    !load(skb, protocol, CTA_PROTO_NUM, &number, sizeof(number)))
		return false;
	load(skb, protocol, CTA_PROTO_DST_PORT, &port, sizeof(port));
	return !is_endpoint(destination, port, number);
}

/* What it passes on, user space gets; what it cannot read, it passes on. */
SEC("socket")
int nat_filter_events(struct __sk_buff *skb)
{
	return is_dull(skb) ? 0 : -1;
}
