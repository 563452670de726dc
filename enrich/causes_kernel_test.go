// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// kernelCases are rows of sections 1.3 and 1.7 of the catalogue, as kernels from 5.10 to 7.2 were seen to tell of them.
func kernelCases() []causeCase {
	out := func(reason, function string) lost { // of a container, on its way out by the host
		return dropped(reason, function).from("172.30.1.2").to("198.51.100.1").by(webBridge, webBridge)
	}
	out6 := func(reason, function string) lost {
		return dropped(reason, function).from("fd00:30:1::2").to("2001:db8::1").by(webBridge, webBridge).mac("172.30.1.1").sender("172.30.1.2")
	}
	leaving := func(reason, function string, device int) lost { // the same, at the device that it was to leave by
		return dropped(reason, function).from("192.0.2.1").to("198.51.100.1").by(webBridge, device).tracked("172.30.1.2", "198.51.100.1")
	}
	across := func(reason, function string) lost { // of a container to another one, by the bridge
		return dropped(reason, function).from("172.30.1.2").to("172.30.1.3").by(alphaPort, alphaPort).mac("172.30.1.3").of(1400)
	}
	inside := func(reason, function string) lost { // what beta receives of alpha
		return dropped(reason, function).from("172.30.1.2").to("172.30.1.3").in(betaPort)
	}
	noNeighbour := func(reason, destination string) lost { // of alpha, which got no answer
		return dropped(reason, "neigh_invalidate").from("172.30.1.2").to(destination).in(alphaPort).made()
	}
	forwardingOff := func(w *world) { w.SetForwardingOff(true, true) }
	betaEnds := func(w *world) { w.ContainerDied(idOf("beta")) }
	betaEndedLongAgo := func(w *world) { w.ContainerDied(idOf("beta")); w.wait(recently + time.Second) }
	betaBegins := func(w *world) {
		beta := w.live("beta").Container
		beta.StartedAt = w.now
		w.PutContainer(beta)
	}
	alphaBegins := func(w *world) {
		alpha := w.live("alpha").Container
		alpha.StartedAt = w.now
		w.PutContainer(alpha)
	}
	toResolver := func(reason, function string, protocol uint8, port uint16) lost {
		return dropped(reason, function).from("127.0.0.1").to("127.0.0.11").in(alphaPort).port(protocol, port)
	}
	sidecarJoins := func(w *world) {
		sidecar := w.container("sidecar")
		sidecar.NetworkMode = "container:" + idOf("alpha")
		w.PutContainer(sidecar)
	}
	alphaOnDefaultBridge := func(w *world) {
		alpha := w.live("alpha").Container
		alpha.Endpoints[0].Network = "bridge"
		w.PutContainer(alpha)
	}
	alphaOnNone := func(w *world) {
		alpha := w.live("alpha").Container
		alpha.Endpoints, alpha.NetworkMode = nil, "none"
		w.PutContainer(alpha)
	}
	alphaEnds := func(w *world) { w.ContainerDied(idOf("alpha")) }
	return []causeCase{
		{"forwarding off", nil, out("IP_INADDRERRORS", "ip_error"), "ip-forward-off", "alpha"},
		{"forwarding off, IPv6", nil, out6("IP_INADDRERRORS", "ip6_forward"), "ip-forward-off", "alpha"},
		{"forwarding off, before 5.17", forwardingOff, out("", "ip_error"), "ip-forward-off", "alpha"},
		{"forwarding off, IPv6, before 5.17", forwardingOff, out6("", "ip6_forward"), "ip-forward-off", "alpha"},

		{"no route", nil, out("IP_INNOROUTES", "ip_error"), "no-route", "alpha"},
		{"no route, before 5.17", nil, out("", "ip_error"), "no-route", "alpha"},
		{"no route, IPv6", nil, out6("IP_INNOROUTES", "ip6_pkt_discard"), "no-route", "alpha"},
		{"no route, IPv6, before 5.17", nil, out6("", "ip6_pkt_drop"), "no-route", "alpha"},
		{"unreachable route", nil, out("NOT_SPECIFIED", "ip_error"), "no-route", "alpha"},
		{"blackhole, IPv6", nil, out6("NOT_SPECIFIED", "dst_discard_out"), "no-route", "alpha"},
		{"prohibited, IPv6", nil, out6("IP_INNOROUTES", "ip6_pkt_prohibit"), "no-route", "alpha"},

		{"reverse path", nil, out("IP_RPFILTER", "ip_rcv_finish_core"), "rp-filter", "alpha"},
		{"reverse path, before 5.17", nil, out("", "ip_rcv_finish_core"), "rp-filter", "alpha"},
		{"published on loopback, from outside", nil, dropped("IP_LOCALNET", "ip_rcv_finish_core").from("198.51.100.1").to("127.0.0.1").by(uplink, uplink), "localnet", ""},
		{"the same, before 6.14", nil, dropped("NOT_SPECIFIED", "ip_rcv_finish_core").from("198.51.100.1").to("127.0.0.1").by(uplink, uplink), "localnet", ""},
		{"the same, before 5.17", nil, dropped("", "ip_rcv_finish_core").from("198.51.100.1").to("127.0.0.1").by(uplink, uplink), "localnet", ""},
		{"a container to the host's loopback", nil, dropped("IP_LOCALNET", "br_nf_pre_routing_finish").from("172.30.1.2").to("127.0.0.1").by(alphaPort, webBridge), "localnet", "alpha"},
		{"the same, before 6.14", nil, dropped("NOT_SPECIFIED", "br_nf_pre_routing_finish").from("172.30.1.2").to("127.0.0.1").by(alphaPort, webBridge), "localnet", "alpha"},
		{"the same, before 5.17", nil, dropped("", "br_nf_pre_routing_finish").from("172.30.1.2").to("127.0.0.1").by(alphaPort, webBridge), "localnet", "alpha"},
		{"the host's loopback to a container", nil, dropped("NETFILTER_DROP", "nf_hook_slow").from("127.0.0.1").to("172.30.1.2").made(), "localnet", "alpha"},
		{"the same, before 5.17", nil, dropped("", "nf_hook_slow").from("127.0.0.1").to("172.30.1.2").made(), "localnet", "alpha"},
		{"the same, by a rule of nf_tables", nil, dropped("NETFILTER_DROP", "nft_do_chain").from("127.0.0.1").to("172.30.1.2").made(), "filtered", "alpha"},
		{"hairpin off", nil, dropped("NOT_SPECIFIED", "br_handle_frame_finish").from("172.30.1.2").to("172.30.1.2").by(alphaPort, alphaPort), "hairpin", "alpha"},
		{"hairpin off, masqueraded", nil, dropped("NOT_SPECIFIED", "br_handle_frame_finish").from("172.30.1.1").to("172.30.1.2").by(alphaPort, alphaPort), "hairpin", "alpha"},
		{"hairpin off, before 5.17", nil, dropped("", "br_handle_frame_finish").from("172.30.1.2").to("172.30.1.2").by(alphaPort, alphaPort), "hairpin", "alpha"},
		{"hairpin without masquerading", nil, dropped("IP_LOCAL_SOURCE", "ip_rcv_finish_core").from("172.30.1.3").to("172.30.1.3").in(betaPort), "hairpin", "beta"},
		{"the same, before 6.14", nil, dropped("NOT_SPECIFIED", "ip_rcv_finish_core").from("172.30.1.3").to("172.30.1.3").in(betaPort), "hairpin", "beta"},
		{"the same, before 5.17", nil, dropped("", "ip_rcv_finish_core").from("172.30.1.3").to("172.30.1.3").in(betaPort), "hairpin", "beta"},
		{"the host's own address from outside", nil, dropped("IP_LOCAL_SOURCE", "ip_rcv_finish_core").from("192.0.2.1").to("192.0.2.1").by(uplink, uplink), "martian", ""},
		{"a source that cannot be", nil, dropped("IP_INVALID_SOURCE", "ip_rcv_finish_core").from("255.255.255.255").to("192.0.2.1").by(uplink, uplink), "martian", ""},
		{"the same, before 6.14", nil, dropped("NOT_SPECIFIED", "ip_rcv_finish_core").from("255.255.255.255").to("192.0.2.1").by(uplink, uplink), "martian", ""},
		{"a link-local source that wants out", nil, dropped("IP_INADDRERRORS", "ip6_forward").from("fe80::2").to("2001:db8::1").by(webBridge, webBridge), "martian", ""},

		{"nobody at the address", nil, noNeighbour("NEIGH_FAILED", "172.30.1.99"), "dead-endpoint", "alpha"},
		{"nobody at the address, IPv6", nil, noNeighbour("NOT_SPECIFIED", "fd00:30:1::99"), "dead-endpoint", "alpha"},
		{"nobody at the address, before 5.17", nil, noNeighbour("", "172.30.1.99"), "dead-endpoint", "alpha"},
		{"next hop dead", nil, out("NEIGH_FAILED", "neigh_invalidate"), "dead-endpoint", "alpha"},
		{"a living container that does not answer", nil, noNeighbour("NEIGH_FAILED", "172.30.1.3"), "dead-endpoint", "alpha"},
		{"a container that has just ended", betaEnds, noNeighbour("NEIGH_FAILED", "172.30.1.3"), "peer-ended", "alpha"},
		{"a container that has just ended, before 5.17", betaEnds, noNeighbour("", "172.30.1.3"), "peer-ended", "alpha"},
		{"a container that is just back", betaBegins, noNeighbour("NEIGH_FAILED", "172.30.1.3"), "peer-ended", "alpha"},
		{"a container that ended a while ago", betaEndedLongAgo, noNeighbour("NEIGH_FAILED", "172.30.1.3"), "dead-endpoint", "alpha"},
		{"a macvlan container to its host", nil, dropped("NEIGH_FAILED", "neigh_invalidate").from("10.99.0.2").to("10.99.0.77").macvlan().made(), "macvlan-host", "delta"},
		{"the same, before 5.17", nil, dropped("", "neigh_invalidate").from("10.99.0.2").to("10.99.0.77").macvlan().made(), "macvlan-host", "delta"},
		{"a macvlan container to a machine that is off", nil, dropped("NEIGH_FAILED", "neigh_invalidate").from("10.99.0.2").to("10.99.0.50").macvlan().made(), "dead-endpoint", "delta"},
		{"a bridged container to its host", nil, noNeighbour("NEIGH_FAILED", "172.30.1.1"), "dead-endpoint", "alpha"},
		{"too many wait", nil, dropped("NEIGH_QUEUEFULL", "__neigh_event_send").from("172.30.1.2").to("172.30.1.99").in(alphaPort).made(), "neigh-queue", "alpha"},
		{"too many wait, before 5.17", nil, dropped("", "__neigh_event_send").from("172.30.1.2").to("172.30.1.99").in(alphaPort).made(), "neigh-queue", "alpha"},
		{"too many neighbours", nil, out("NEIGH_CREATEFAIL", "ip_finish_output2"), "neigh-overflow", "alpha"},
		{"too many neighbours, before 5.17", nil, out("", "ip_finish_output2"), "neigh-overflow", "alpha"},

		{"too big for the way out", nil, out("PKT_TOO_BIG", "ip_forward"), "mtu-route", "alpha"},
		{"too big for the way out, before 5.17", nil, out("", "ip_forward").of(1428), "mtu-route", "alpha"},
		{"too big for the way out, IPv6", nil, out6("NOT_SPECIFIED", "ip6_fragment"), "mtu-route", "alpha"},
		{"too big for the way out, IPv6, before 5.17", nil, out6("", "ip6_forward").of(1448), "mtu-route", "alpha"},
		{"time to live", nil, out("IP_INHDR", "ip_forward"), "ttl-loop", "alpha"},
		{"time to live, IPv6", nil, out6("IP_INHDR", "ip6_forward"), "ttl-loop", "alpha"},
		{"time to live, before 5.17", nil, out("", "ip_forward"), "ttl-loop", "alpha"},
		{"time to live, IPv6, before 5.17", nil, out6("", "ip6_forward"), "ttl-loop", "alpha"},
		{"devices in a circle", nil, out("RECURSION_LIMIT", "__dev_queue_xmit"), "ttl-loop", "alpha"},

		{"too big for a port", nil, across("NOT_SPECIFIED", "br_dev_queue_push_xmit"), "mtu-bridge", "alpha"},
		{"too big for a port, bridge netfilter", nil, across("NOT_SPECIFIED", "br_nf_dev_queue_xmit"), "mtu-bridge", "alpha"},
		{"too big for the container's end", nil, across("NOT_SPECIFIED", "__dev_forward_skb2"), "mtu-bridge", "alpha"},
		{"too big for the container's end, before 5.17", nil, across("", "__dev_forward_skb"), "mtu-bridge", "alpha"},
		{"too big, by its reason", nil, across("PKT_TOO_BIG", "br_dev_queue_push_xmit"), "mtu-bridge", "alpha"},
		{"the container's end is down", nil, across("NOT_SPECIFIED", "__dev_forward_skb2").down(), "veth-down", "alpha"},
		{"the container's end is down, and its queue gone", nil, across("QDISC_DROP", "__dev_queue_xmit").down(), "veth-down", "alpha"},
		{"the container's end is down, it has just ended", betaEnds, across("NOT_SPECIFIED", "__dev_forward_skb2").by(alphaPort, betaPort).down(), "link-setup", "alpha"},
		{"port down", nil, across("NO_TX_TARGET", "br_handle_frame_finish"), "veth-down", "alpha"},
		{"port down, before 6.14", nil, across("NOT_SPECIFIED", "br_handle_frame_finish"), "veth-down", "alpha"},
		{"port down, before 5.17", nil, across("", "br_handle_frame_finish"), "veth-down", "alpha"},
		{"port down, its container has just ended", betaEnds, across("NO_TX_TARGET", "br_handle_frame_finish"), "peer-ended", "alpha"},
		{"port blocked for long", nil, across("BRIDGE_INGRESS_STP_STATE", "br_handle_frame"), "veth-down", "alpha"},
		{"port blocked for long, before 6.14", nil, across("NOT_SPECIFIED", "br_handle_frame"), "veth-down", "alpha"},
		{"port blocked while its container ends", alphaEnds, across("BRIDGE_INGRESS_STP_STATE", "br_handle_frame"), "link-setup", "alpha"},
		{"port blocked before it is anybody's", nil, dropped("BRIDGE_INGRESS_STP_STATE", "br_handle_frame").by(strangerPort, strangerPort), "link-setup", ""},

		{"rate limit", nil, across("QDISC_DROP", "__dev_queue_xmit"), "qdisc", "alpha"},
		{"rate limit, before 5.17", nil, across("", "__dev_queue_xmit"), "qdisc", "alpha"},
		{"rate limit, 6.1", nil, across("QDISC_DROP", "kfree_skb_list_reason"), "qdisc", "alpha"},
		{"rate limit, 5.10", nil, across("", "kfree_skb_list"), "qdisc", "alpha"},
		{"rate limit, 7.2", nil, across("QDISC_DROP_OVERLIMIT", "tbf_enqueue"), "qdisc", "alpha"},
		{"queue of the uplink", nil, dropped("QDISC_DROP", "__dev_queue_xmit").from("172.30.1.2").to("198.51.100.1").by(webBridge, uplink), "qdisc", "alpha"},
		{"queue of a container that ends, while its link is up", betaEnds, dropped("QDISC_DROP", "__dev_queue_xmit").from("172.30.1.1").to("172.30.1.3").by(0, betaPort).made(), "qdisc", "beta"},
		{"queue of a container that ends", betaEnds, dropped("QDISC_DROP", "__dev_queue_xmit").from("172.30.1.1").to("172.30.1.3").by(0, betaPort).made().down(), "link-setup", "beta"},
		{"queue taken down in a container that ends", alphaEnds, dropped("QDISC_DROP", "__dev_queue_xmit").from("172.30.1.2").to("172.30.1.3").in(alphaPort).made().down(), "link-setup", "alpha"},
		{"uplink without carrier", nil, leaving("QDISC_DROP", "__dev_queue_xmit", uplink).down(), "link-down", "alpha"},
		{"uplink without carrier, 6.1", nil, leaving("QDISC_DROP", "kfree_skb_list_reason", uplink).down(), "link-down", "alpha"},
		{"uplink without carrier, before 5.17", nil, leaving("", "__dev_queue_xmit", uplink).down(), "link-down", "alpha"},
		{"uplink without carrier, of a container that has just begun", alphaBegins, leaving("QDISC_DROP", "__dev_queue_xmit", uplink).by(alphaPort, uplink).down(), "link-down", "alpha"},
		{"uplink without carrier, the host's own", nil, dropped("QDISC_DROP", "__dev_queue_xmit").from("192.0.2.1").to("198.51.100.1").by(0, uplink).made().down(), "link-down", ""},
		{"tunnel down", nil, leaving("NOT_SPECIFIED", "__dev_queue_xmit", tunnel).down(), "link-down", "alpha"},
		{"tunnel that nobody holds open", func(w *world) {
			w.LinkChanged(change(loader.Link{Index: tunnel, Name: "tun0", Kind: "tun", PeerNetnsID: -1}))
		}, leaving("DEV_READY", "tun_net_xmit", tunnel), "link-down", "alpha"},
		{"somebody's bridge without carrier", nil, leaving("NO_TX_TARGET", "br_dev_xmit", virBridge).down(), "link-down", "alpha"},
		{"uplink that is a veth", nil, leaving("NOT_SPECIFIED", "__dev_queue_xmit", pairEnd).down(), "link-down", "alpha"},
		{"a virtual machine that ends", nil, leaving("DEV_READY", "tun_net_xmit", virPort), "peer-ended", "alpha"},
		{"somebody's container that ends", func(w *world) { w.LinkChanged(veth(guestPort, virBridge, 63)) }, leaving("QDISC_DROP", "__dev_queue_xmit", guestPort).down(), "link-setup", ""},
		{"uplink that is gone", func(w *world) {
			w.LinkChanged(gone(change(loader.Link{Index: tunnel, Name: "wg0", Kind: "wireguard", PeerNetnsID: -1})))
		}, leaving("NOT_SPECIFIED", "__dev_queue_xmit", tunnel).down(), "peer-ended", "alpha"},
		{"a bridge of Docker's without carrier", nil, dropped("QDISC_DROP", "__dev_queue_xmit").from("192.0.2.1").to("172.30.1.99").by(0, webBridge).made().down(), "link-setup", ""},
		{"a bridge of Docker's that is down, to nobody", nil, dropped("NOT_SPECIFIED", "__dev_queue_xmit").from("192.0.2.1").to("172.30.1.99").by(0, webBridge).made(), "peer-ended", ""},
		{"a container's own end, to the outside", nil, dropped("NOT_SPECIFIED", "__dev_queue_xmit").from("172.30.1.2").to("198.51.100.1").in(alphaPort).made(), "peer-ended", "alpha"},
		{"the original of segments", nil, across("NOT_SPECIFIED", "tbf_enqueue"), "segmented", "alpha"},
		{"fragments of a datagram, 5.10", nil, lost{Function: "kfree_skb_list", EtherType: unix.ETH_P_IP}, "segmented", ""},
		{"a device down, before 6.6", nil, across("NOT_SPECIFIED", "kfree_skb_list_reason"), "veth-down", "alpha"},
		{"processor's backlog", nil, across("CPU_BACKLOG", "enqueue_to_backlog"), "cpu-backlog", "alpha"},
		{"processor's backlog, before 5.17", nil, across("", "enqueue_to_backlog"), "cpu-backlog", "alpha"},
		{"reader of a tunnel too slow", nil, leaving("FULL_RING", "tun_net_xmit", tunnel), "qdisc", "alpha"},
		{"reader of a tunnel too slow, before 5.18", nil, leaving("", "tun_net_xmit", tunnel), "qdisc", "alpha"},
		{"no memory", nil, out("NOMEM", "ip_forward"), "no-memory", "alpha"},

		{"IPv6 off in the container", nil, inside("IPV6DISABLED", "ip6_rcv_core"), "v6-disabled", "beta"},
		{"IPv6 off in the container, before 5.17", nil, inside("", "ip6_rcv_core"), "v6-disabled", "beta"},
		{"checksum", nil, inside("UDP_CSUM", "__udp4_lib_rcv"), "csum-offload", "beta"},
		{"header's checksum at the bridge", nil, across("IP_INHDR", "br_nf_pre_routing"), "csum-offload", "alpha"},
		{"fragment without the others", nil, inside("FRAG_REASM_TIMEOUT", "ip_expire"), "fragment-lost", "beta"},
		{"fragment without the others, before 5.17", nil, inside("", "ip_expire"), "fragment-lost", "beta"},
		{"fragment twice", nil, inside("DUP_FRAG", "ip_defrag"), "fragment-duplicate", "beta"},
		{"somebody's XDP program", nil, across("XDP", "do_xdp_generic"), "foreign-program", "alpha"},
		{"somebody's XDP program on a veth", nil, across("NOT_SPECIFIED", "veth_xdp_rcv_skb"), "foreign-program", "alpha"},
		{"somebody's tc program", nil, across("TC_INGRESS", "sch_handle_ingress"), "foreign-program", "alpha"},
		{"somebody's tc program, before 5.17", nil, across("", "__netif_receive_skb_core"), "foreign-program", "alpha"},
		{"a security module", nil, inside("SECURITY_HOOK", "tcp_v4_rcv"), "security-policy", "beta"},

		{"the resolver's rules are lost", nil, toResolver("NO_SOCKET", "__udp4_lib_rcv", unix.IPPROTO_UDP, 53), "resolver-nat-lost", "alpha"},
		{"the resolver's rules are lost, TCP", nil, toResolver("NO_SOCKET", "tcp_v4_rcv", unix.IPPROTO_TCP, 53), "resolver-nat-lost", "alpha"},
		{"the resolver's socket is gone", nil, toResolver("NO_SOCKET", "udp_rcv", unix.IPPROTO_UDP, 40123), "resolver-nat-lost", "alpha"},
		{"the same, before 5.17", nil, toResolver("", "__udp4_lib_rcv", unix.IPPROTO_UDP, 40123), "resolver-nat-lost", "alpha"},
		{"the same, TCP, before 5.17", nil, toResolver("", "tcp_v4_rcv", unix.IPPROTO_TCP, 40123), "resolver-nat-lost", "alpha"},
		{"the same, of a container in another's namespace", sidecarJoins, toResolver("NO_SOCKET", "__udp4_lib_rcv", unix.IPPROTO_UDP, 53), "resolver-nat-lost", "alpha"},
		{"its buffer is full", nil, toResolver("SOCKET_RCVBUFF", "__udp_enqueue_schedule_skb", unix.IPPROTO_UDP, 40123), "rcvbuf", "alpha"},
		{"where there is no resolver", alphaOnDefaultBridge, toResolver("NO_SOCKET", "__udp4_lib_rcv", unix.IPPROTO_UDP, 53), "no-listener", "alpha"},
		{"without a network", alphaOnNone, toResolver("NO_SOCKET", "__udp4_lib_rcv", unix.IPPROTO_UDP, 53), "no-listener", "alpha"},
		{"on the host", nil, dropped("NO_SOCKET", "__udp4_lib_rcv").from("127.0.0.1").to("127.0.0.11").by(1, 1).port(unix.IPPROTO_UDP, 53), "no-listener", ""},
		{"a container's own port on loopback", nil, dropped("NO_SOCKET", "__udp4_lib_rcv").from("127.0.0.1").to("127.0.0.1").in(alphaPort).port(unix.IPPROTO_UDP, 53), "no-listener", "alpha"},
		{"closed port", nil, inside("NO_SOCKET", "__udp4_lib_rcv"), "no-listener", "beta"},
		{"closed port, TCP, before 5.17", nil, inside("", "tcp_v4_rcv"), "no-listener", "beta"},
		{"closed port, UDP, before 5.17", nil, inside("", "__udp4_lib_rcv"), "no-listener", "beta"},
		{"nobody speaks the protocol", nil, inside("IP_NOPROTO", "ip_local_deliver_finish"), "no-listener", "beta"},
		{"nobody speaks the protocol, IPv6, before 5.17", nil, inside("", "ip6_input"), "no-listener", "beta"},
		{"socket full", nil, inside("SOCKET_RCVBUFF", "udp_queue_rcv_one_skb"), "rcvbuf", "beta"},
		{"socket full, before 5.17", nil, inside("", "udp_queue_rcv_one_skb"), "rcvbuf", "beta"},
		{"nobody accepts", nil, inside("TCP_LISTEN_OVERFLOW", "tcp_v4_syn_recv_sock"), "accept-overflow", "beta"},
		{"nobody accepts, before 5.17", nil, inside("", "tcp_conn_request"), "accept-overflow", "beta"},
		{"socket's filter", nil, inside("SOCKET_FILTER", "sk_filter_trim_cap"), "socket-filter", "beta"},
		{"reset", nil, inside("TCP_RESET", "tcp_rcv_established"), "tcp-reset", "beta"},
		{"no window", nil, inside("TCP_ZEROWINDOW", "tcp_data_queue"), "tcp-window", "beta"},
		{"no signature", nil, inside("TCP_MD5NOTFOUND", "tcp_v4_rcv"), "tcp-authentication", "beta"},
		{"cut short", nil, inside("PKT_TOO_SMALL", "icmp_rcv"), "malformed", "beta"},
		{"wrong header", nil, inside("IP_INHDR", "ip_rcv_core"), "malformed", "beta"},

		{"multicast listener report", nil, dropped("NOT_SPECIFIED", "ip6_mc_input").from("fe80::2").to("ff02::16").in(betaPort), "multicast", "beta"},
		{"IGMP", nil, dropped("NOT_SPECIFIED", "ip_rcv_finish_core").from("172.30.1.1").to("224.0.0.22").in(betaPort), "multicast", "beta"},
		{"IGMP to an empty bridge", nil, dropped("NO_TX_TARGET", "br_dev_xmit").from("172.30.1.1").to("224.0.0.22").by(0, webBridge).made(), "multicast", ""},
		{"multicast that a rule drops", nil, between("172.30.1.2", "224.0.0.251").by(webBridge, webBridge), "multicast", "alpha"},
		{"broadcast", nil, dropped("NO_SOCKET", "__udp4_lib_rcv").from("172.30.1.2").to("255.255.255.255").in(betaPort), "multicast", "beta"},
		{"broadcast of the subnet", nil, dropped("", "__udp4_lib_rcv").from("172.30.1.2").to("172.30.1.255").in(betaPort), "multicast", "beta"},
		{"broadcast of a subnet that is not Docker's", nil, dropped("NOT_SPECIFIED", "__udp4_lib_rcv").from("192.0.2.9").to("192.0.2.255").by(uplink, uplink), "multicast", ""},
		{"ARP on an empty bridge", nil, dropped("NO_TX_TARGET", "br_dev_xmit").from("172.30.1.1").to("172.30.1.77").ether(unix.ETH_P_ARP).by(0, webBridge).made(), "multicast", ""},
		{"closing of a socket", nil, inside("QUEUE_PURGE", "sk_stream_kill_queues"), "socket-teardown", "beta"},
		{"closing of a socket, before 6.6", nil, inside("NOT_SPECIFIED", "inet_sock_destruct"), "socket-teardown", "beta"},
		{"closing of a socket, before 5.17", nil, inside("", "skb_queue_purge"), "socket-teardown", "beta"},
		{"closing of a socket of netlink", nil, lost{Reason: "QUEUE_PURGE", Function: "skb_queue_purge_reason", Netns: hostNetns, Outgoing: true}, "local-message", ""},
		{"a message to the kernel", nil, lost{Reason: "NOT_SPECIFIED", Function: "nfnetlink_rcv_batch"}, "local-message", ""},
		{"an answer that there is no such route, which engines from 28 on ask for", nil, inside("NOT_SPECIFIED", "inet6_rtm_getroute").made(), "local-message", "beta"},
		{"a message between processes", nil, lost{Reason: "UNIX_DISCONNECT", Function: "unix_release_sock", Netns: hostNetns}, "local-message", ""},
		{"neighbour discovery, before 6.2", nil, inside("NOT_SPECIFIED", "icmpv6_rcv").from("fe80::2").to("fe80::3"), "consumed", "beta"},
		{"neighbour discovery, before 5.17", nil, inside("", "icmpv6_rcv").from("fe80::2").to("fe80::3"), "consumed", "beta"},
		{"answer to a ping", nil, inside("NO_SOCKET", "ping_rcv"), "ping-copy", "beta"},
		{"answer to a ping, before 5.17", nil, inside("", "ping_rcv"), "ping-copy", "beta"},
		{"a device is made", nil, dropped("NOT_SPECIFIED", "netif_napi_add_weight_locked"), "link-setup", ""},
		{"a queue is taken away", nil, across("NOT_SPECIFIED", "__rtnl_unlock"), "link-setup", "alpha"},
		{"segment after close", nil, inside("NOT_SPECIFIED", "tcp_v4_rcv"), "post-close", "beta"},
		{"segment after close, by its reason", nil, inside("TCP_CLOSE", "tcp_rcv_state_process"), "post-close", "beta"},
		{"segment after close, before 5.17", nil, inside("", "tcp_v4_do_rcv"), "post-close", "beta"},
		{"segment twice", nil, inside("TCP_OLD_DATA", "tcp_data_queue"), "tcp-duplicate", "beta"},
		{"segment twice, before 5.17", nil, inside("", "tcp_data_queue"), "tcp-duplicate", "beta"},
		{"for another machine", nil, inside("OTHERHOST", "ip_rcv_core"), "other-host", "beta"},
		{"for another machine, before 5.17", nil, inside("", "ip_rcv_core"), "other-host", "beta"},
		{"for another machine, IPv6, before 5.17", nil, inside("", "ip6_rcv_core").to("fd00:30:1::77"), "other-host", "beta"},
		{"a switch's frame", nil, inside("UNHANDLED_PROTO", "__netif_receive_skb_core").ether(unix.ETH_P_PAE), "unhandled-protocol", "beta"},
		{"a switch's frame, before 5.17", nil, dropped("", "__netif_receive_skb_core").ether(unix.ETH_P_PAE).by(uplink, uplink), "unhandled-protocol", ""},
		{"spanning tree", nil, dropped("NOT_SPECIFIED", "llc_rcv").ether(unix.ETH_P_802_2).in(betaPort), "unhandled-protocol", "beta"},
		{"a program's test", nil, dropped("NOT_SPECIFIED", "bpf_prog_test_run_skb").from("203.0.113.5").by(0, 1).made(), "test-run", ""},

		{"what no rule explains", nil, out("NOT_SPECIFIED", "frobnicate"), "unknown", "alpha"},
		{"a reason that is new", nil, out("PHASE_OF_MOON", "ip_rcv_core"), "unknown", "alpha"},
		{"a reason without a name", nil, out("4711", "ip_forward"), "unknown", "alpha"},
	}
}

// macvlan puts a drop at the device of the city's container on a macvlan network.
func (l lost) macvlan() lost {
	l.Netns, l.Device, l.DeviceName, l.DeviceKind = 100, 7, "eth0", "macvlan"
	return l
}

func (l lost) down() lost {
	l.LinkDown = true
	return l
}

func (l lost) sender(address string) lost {
	l.SourceMAC = mac(address)
	return l
}

func TestKernelCauses(t *testing.T) {
	for _, tc := range kernelCases() {
		t.Run(tc.name, tc.check)
	}
}

// The engine tells of a container's end a moment after the kernel has lost what was for it: the drop waits for that, and
// is settled at once when it comes.
func TestPeerEndsLate(t *testing.T) {
	for _, d := range []lost{
		dropped("NEIGH_FAILED", "neigh_invalidate").from("172.30.1.2").to("172.30.1.3").in(alphaPort).made(),
		dropped("NO_TX_TARGET", "br_handle_frame_finish").from("172.30.1.2").to("172.30.1.3").by(alphaPort, alphaPort),
	} {
		t.Run(d.Reason, func(t *testing.T) {
			w := newCity(t)
			if _, drops := w.Attribute(nil, []loader.Drop{loader.Drop(d)}); len(drops) != 0 {
				t.Fatalf("settled at once: %+v", drops)
			}
			w.wait(time.Second)
			w.ContainerDied(idOf("beta"))
			_, drops := w.Attribute(nil, nil)
			if len(drops) != 1 || drops[0].Cause != "peer-ended" || drops[0].Kind != KindApplication {
				t.Errorf("got %+v, want one of cause peer-ended", drops)
			}
		})
	}
}

// What nobody can become part of does not wait.
func TestDeadAddressDoesNotWait(t *testing.T) {
	w := newCity(t)
	d := dropped("NEIGH_FAILED", "neigh_invalidate").from("172.30.1.2").to("172.30.1.99").in(alphaPort).made()
	_, drops := w.Attribute(nil, []loader.Drop{loader.Drop(d)})
	if len(drops) != 1 || drops[0].Cause != "dead-endpoint" {
		t.Errorf("got %+v at once, want one of cause dead-endpoint", drops)
	}
}
