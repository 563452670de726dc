// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"strings"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Kind says whose business a drop is.
type Kind string

// The kinds. Only faults are anybody's loss.
const (
	KindFault       Kind = "fault"       // the network lost a packet that somebody wanted delivered
	KindApplication Kind = "application" // nobody listens, or whoever does is too slow
	KindPolicy      Kind = "policy"      // somebody decided so
	KindBenign      Kind = "benign"      // noise: nobody misses it
)

// CauseUnknown is the cause of a drop that no rule explains. It counts as a fault, so that it is seen.
const CauseUnknown = "unknown"

// causeVethDown is a bridge port that does not take a packet. Whether that is anybody's fault depends on who is behind it.
const causeVethDown = "veth-down"

// rule maps what the kernel says to what it means. Empty fields match everything.
type rule struct {
	reason   string
	function string
	cause    string
	kind     Kind
}

// rules in order; the first that matches holds. Functions matter as much as reasons: kernels before 5.17 have no
// reasons, and later ones say NOT_SPECIFIED for many things that only the function tells apart.
var rules = []rule{
	// Noise of the kernel's own housekeeping.
	{reason: "QUEUE_PURGE", cause: "socket-teardown", kind: KindBenign},
	{reason: "SOCKET_CLOSE", cause: "socket-teardown", kind: KindBenign},
	{function: "inet_sock_destruct", cause: "socket-teardown", kind: KindBenign},
	{function: "skb_queue_purge_reason", cause: "socket-teardown", kind: KindBenign},
	{function: "skb_queue_purge", cause: "socket-teardown", kind: KindBenign},
	{function: "sk_stream_kill_queues", cause: "socket-teardown", kind: KindBenign},
	{function: "tcp_disconnect", cause: "socket-teardown", kind: KindBenign},
	{function: "udp_destruct_common", cause: "socket-teardown", kind: KindBenign},
	{function: "bpf_prog_test_run_skb", cause: "test-run", kind: KindBenign},
	{reason: "BRIDGE_INGRESS_STP_STATE", cause: "link-setup", kind: KindBenign},
	{function: "icmpv6_rcv", reason: "NOT_SPECIFIED", cause: "unhandled-protocol", kind: KindBenign},
	{function: "netif_napi_add_weight_locked", cause: "link-setup", kind: KindBenign},
	{function: "__rtnl_unlock", cause: "link-setup", kind: KindBenign},
	{function: "ping_rcv", cause: "ping-copy", kind: KindBenign},
	{function: "tbf_enqueue", cause: "segmented", kind: KindBenign}, // the original of segments counted on their own
	{reason: "NOT_SPECIFIED", function: "tcp_v4_rcv", cause: "post-close", kind: KindBenign},
	{reason: "NOT_SPECIFIED", function: "tcp_v6_rcv", cause: "post-close", kind: KindBenign},
	{reason: "OTHERHOST", cause: "other-host", kind: KindBenign},
	{reason: "UNHANDLED_PROTO", cause: "unhandled-protocol", kind: KindBenign},
	{reason: "TCP_OLD_ACK", cause: "tcp-duplicate", kind: KindBenign},
	{reason: "TCP_OLD_DATA", cause: "tcp-duplicate", kind: KindBenign},
	{reason: "TCP_OLD_SEQUENCE", cause: "tcp-duplicate", kind: KindBenign},
	{reason: "TCP_OFOMERGE", cause: "tcp-duplicate", kind: KindBenign},
	{reason: "TCP_ACK_UNSENT_DATA", cause: "tcp-duplicate", kind: KindBenign},

	// The application's.
	{reason: "NO_SOCKET", cause: "no-listener", kind: KindApplication},
	{reason: "SOCKET_RCVBUFF", cause: "rcvbuf", kind: KindApplication},
	{reason: "SOCKET_BACKLOG", cause: "rcvbuf", kind: KindApplication},
	{reason: "PROTO_MEM", cause: "rcvbuf", kind: KindApplication},
	{reason: "TCP_LISTEN_OVERFLOW", cause: "accept-overflow", kind: KindApplication},
	{reason: "SOCKET_FILTER", cause: "socket-filter", kind: KindApplication},
	{reason: "TCP_RESET", cause: "tcp-reset", kind: KindApplication},
	{reason: "TCP_CLOSE", cause: "post-close", kind: KindApplication},
	{reason: "TCP_ABORT_ON_DATA", cause: "post-close", kind: KindApplication},
	{reason: "TCP_ZEROWINDOW", cause: "tcp-window", kind: KindApplication},
	{reason: "TCP_OVERWINDOW", cause: "tcp-window", kind: KindApplication},

	// The same, and more noise, where there are no reasons.
	{reason: noReason, function: "tcp_v4_rcv", cause: "no-listener", kind: KindApplication},
	{reason: noReason, function: "tcp_v6_rcv", cause: "no-listener", kind: KindApplication},
	{reason: noReason, function: "__udp4_lib_rcv", cause: "no-listener", kind: KindApplication},
	{reason: noReason, function: "__udp6_lib_rcv", cause: "no-listener", kind: KindApplication},
	{reason: noReason, function: "udp_queue_rcv_one_skb", cause: "rcvbuf", kind: KindApplication},
	{reason: noReason, function: "udpv6_queue_rcv_one_skb", cause: "rcvbuf", kind: KindApplication},
	{reason: noReason, function: "__udp_enqueue_schedule_skb", cause: "rcvbuf", kind: KindApplication},
	{reason: noReason, function: "tcp_conn_request", cause: "accept-overflow", kind: KindApplication},
	{reason: noReason, function: "tcp_data_queue", cause: "tcp-duplicate", kind: KindBenign},
	{reason: noReason, function: "tcp_validate_incoming", cause: "tcp-duplicate", kind: KindBenign},
	{reason: noReason, function: "tcp_rcv_established", cause: "tcp-duplicate", kind: KindBenign},
	{reason: noReason, function: "tcp_rcv_state_process", cause: "post-close", kind: KindBenign},
	{reason: noReason, function: "tcp_v4_do_rcv", cause: "post-close", kind: KindBenign},
	{reason: noReason, function: "tcp_v6_do_rcv", cause: "post-close", kind: KindBenign},
	{reason: noReason, function: "ip_rcv_core", cause: "other-host", kind: KindBenign},
	{reason: noReason, function: "__netif_receive_skb_core", cause: "unhandled-protocol", kind: KindBenign},

	// Filters, and programs of others.
	{reason: "NETFILTER_DROP", cause: "filtered", kind: KindFault},
	{function: "nft_do_chain", cause: "filtered", kind: KindFault},
	{function: "nf_hook_slow", cause: "filtered", kind: KindFault},
	{reason: "XDP", cause: "foreign-program", kind: KindFault},
	{function: "do_xdp_generic", cause: "foreign-program", kind: KindFault},
	{function: "veth_xdp_rcv_skb", cause: "foreign-program", kind: KindFault},
	{reason: "TC_INGRESS", cause: "foreign-program", kind: KindFault},
	{reason: "TC_EGRESS", cause: "foreign-program", kind: KindFault},

	// Routes, neighbours, links.
	{reason: "IP_RPFILTER", cause: "rp-filter", kind: KindFault},
	{reason: "IP_INNOROUTES", cause: "no-route", kind: KindFault},
	{reason: "IP_OUTNOROUTES", cause: "no-route", kind: KindFault},
	{reason: "IP_INADDRERRORS", function: "ip_error", cause: "ip-forward-off", kind: KindFault},
	{function: "ip_error", cause: "no-route", kind: KindFault},
	{function: "ip6_pkt_discard", cause: "no-route", kind: KindFault},
	{function: "ip6_pkt_prohibit", cause: "no-route", kind: KindFault},
	{function: "dst_discard", cause: "no-route", kind: KindFault},
	{function: "dst_discard_out", cause: "no-route", kind: KindFault},
	{reason: "IP_LOCALNET", cause: "localnet", kind: KindFault},
	{reason: "IP_LOCAL_SOURCE", cause: "hairpin", kind: KindFault},
	{reason: "NEIGH_FAILED", cause: "dead-endpoint", kind: KindFault},
	{function: "neigh_invalidate", cause: "dead-endpoint", kind: KindFault},
	{reason: "NEIGH_QUEUEFULL", cause: "neigh-queue", kind: KindFault},
	{reason: "NEIGH_CREATEFAIL", cause: "neigh-overflow", kind: KindFault},
	{reason: "PKT_TOO_BIG", cause: "mtu-route", kind: KindFault},
	{function: "ip6_fragment", cause: "mtu-route", kind: KindFault},
	{function: "ip_fragment", cause: "mtu-route", kind: KindFault},
	{function: "br_dev_queue_push_xmit", cause: "mtu-bridge", kind: KindFault},
	{function: "br_nf_dev_queue_xmit", cause: "mtu-bridge", kind: KindFault},
	{function: "__dev_forward_skb2", cause: "mtu-bridge", kind: KindFault},
	{function: "__dev_forward_skb", cause: "mtu-bridge", kind: KindFault},
	{reason: "IP_INHDR", function: "ip_forward", cause: "ttl-loop", kind: KindFault},
	{reason: "IP_INHDR", function: "ip6_forward", cause: "ttl-loop", kind: KindFault},
	{reason: "TCP_CSUM", cause: "csum-offload", kind: KindFault},
	{reason: "UDP_CSUM", cause: "csum-offload", kind: KindFault},
	{reason: "IP_CSUM", cause: "csum-offload", kind: KindFault},
	{reason: "ICMP_CSUM", cause: "csum-offload", kind: KindFault},
	{reason: "SKB_CSUM", cause: "csum-offload", kind: KindFault},
	{reason: "IPV6DISABLED", cause: "v6-disabled", kind: KindFault},
	{reason: "NO_TX_TARGET", function: "br_handle_frame_finish", cause: causeVethDown, kind: KindFault},
	{reason: "DEV_READY", cause: causeVethDown, kind: KindFault},
	{reason: "CPU_BACKLOG", cause: "cpu-backlog", kind: KindFault},
	{reason: "QDISC_DROP", cause: "qdisc", kind: KindFault},
	{reason: "QDISC_OVERLIMIT", cause: "qdisc", kind: KindFault},
	{reason: "QDISC_CONGESTED", cause: "qdisc", kind: KindFault},
	{reason: "FRAG_REASM_TIMEOUT", cause: "fragment-lost", kind: KindFault},
	{reason: "DUP_FRAG", cause: "fragment-lost", kind: KindFault},
}

// noReason matches kernels that give none, before 5.17: there the function has to do.
const noReason = "-"

// explain says why a packet was dropped and whose business that is.
func explain(d *loader.Drop) (cause string, kind Kind) {
	if isGroup(d.Destination) {
		return "multicast", KindBenign
	}
	if isMessage(d) {
		return "local-message", KindBenign
	}
	if hairpinOff(d) {
		return "hairpin", KindFault
	}
	for _, r := range rules {
		if (r.reason == "" || r.reason == d.Reason || r.reason == noReason && d.Reason == "") && (r.function == "" || r.function == d.Function) {
			return r.cause, r.kind
		}
	}
	return CauseUnknown, KindFault
}

// isGroup tells multicast and broadcast: membership reports, discovery and announcements that every link makes when it
// comes up and that nobody waits for.
func isGroup(destination netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return destination.IsMulticast() || destination == broadcast
}

// isMessage tells what is no packet: messages between processes, or from the kernel to one, travel in the same buffers.
func isMessage(d *loader.Drop) bool {
	for _, prefix := range []string{"unix_", "netlink_", "rtnetlink_", "inet_rtm_", "virtio_transport_", "vsock_"} {
		if strings.HasPrefix(d.Function, prefix) {
			return true
		}
	}
	return strings.HasPrefix(d.Reason, "UNIX_")
}

// hairpinOff recognises a packet that after NAT would leave through the bridge port it came in by.
func hairpinOff(d *loader.Drop) bool {
	return d.Function == "br_handle_frame_finish" && d.Source.IsValid() && d.Source == d.Destination
}
