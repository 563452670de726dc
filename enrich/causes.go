// SPDX-License-Identifier: Apache-2.0

package enrich

import "slices"

// causes is the table of all causes but unknown. The first that matches holds: what connection tracking says of itself, then
// what concerns overlay networks alone, then what is noise whatever dropped it, then filters, then the rest.
//
// To add a cause, add an entry here, name it in docs/signals/drop.md and give it a row in causes_test.go.
var causes = slices.Concat(trackingCauses, overlayCauses, noiseCauses, policyCauses, applicationCauses, faultCauses)

var unknown = cause{Cause: Cause{CauseUnknown, KindFault, "no rule explains it: see the function that dropped it"}}

// trackingCauses look like a rule's drop or a closed port. That connection tracking was the reason is known by its counters,
// which are read a moment later: what may have one of these causes waits for that.
var trackingCauses = []cause{
	{
		Cause: Cause{"dns-5s-race", KindFault, "a DNS query for which connection tracking had no place: no port was left, or another query of its socket was first; it is asked again after 5 s"},
		rules: where((*scene).isLostLookup, netfilterDrops...),
	},
	{
		Cause: Cause{"snat-exhaustion", KindFault, "no port was left to translate its source to, towards its destination"},
		rules: where((*scene).hasNoPort, netfilterDrops...),
	},
	{
		Cause: Cause{"ct-invalid-rst", KindFault, "a segment that connection tracking found invalid and did not translate: the host got it and reset the connection"},
		rules: where((*scene).isInvalid,
			reasonAt("NO_SOCKET", "tcp_v4_rcv", "tcp_v6_rcv"), reasonless("tcp_v4_rcv", "tcp_v6_rcv"),
			// The proxy's socket got it, which listens.
			reasonAt("TCP_FLAGS", "tcp_v4_do_rcv", "tcp_v6_do_rcv"), silent("tcp_v4_do_rcv", "tcp_v6_do_rcv")),
		victim: (*scene).publisher,
	},
}

// noRow is a VXLAN device that has no row for whom a frame is for. 6.13 and its like had a reason of their own.
var noRow = []rule{reason("VXLAN_NO_REMOTE"), reasonAt("NO_TX_TARGET", "vxlan_xmit"), silent("vxlan_xmit")}

// overlayCauses are those of overlay networks: at their VXLAN devices, between nodes, and in containers for want of what the
// devices answer. Kernels before 6.13 have no reasons for what a VXLAN device drops.
var overlayCauses = []cause{
	{
		Cause: Cause{"vni-unknown", KindFault, "a VXLAN packet whose number (VNI) no device here has"},
		rules: slices.Concat([]rule{reason("VXLAN_VNI_NOT_FOUND")}, where((*scene).hasNoDevice, silent("vxlan_rcv"))),
	},
	{
		Cause: Cause{"vtep-src-mismatch", KindFault, "a frame from another node that came from another address than the one behind which the table has its sender"},
		rules: slices.Concat([]rule{reason("VXLAN_ENTRY_EXISTS")}, where((*scene).isAtTunnelEnd, silent("vxlan_rcv"))),
	},
	{
		Cause: Cause{"vxlan-malformed", KindBenign, "a packet to the VXLAN port that is none: somebody else's"},
		rules: []rule{
			reason("VXLAN_INVALID_HDR"),
			{
				reasons: []string{noReason, notSpecified, "PKT_TOO_SMALL", "HDR_TRUNC", "MAC_INVALID_SOURCE", "LOCAL_MAC",
					"IP_TUNNEL_ECN", "TUNNEL_TXINFO"},
				functions: []string{"vxlan_rcv"},
			},
		},
	},
	{
		Cause: Cause{"fdb-row-missing", KindFault, "a VXLAN device does not know behind which node the container is that it is for"},
		rules: where((*scene).lacksRow, noRow...),
	},
	{
		Cause: Cause{"neigh-row-missing", KindFault, "for a container on another node, for which the overlay network did not answer ARP"},
		rules: where((*scene).isForElsewhere, neighbourFailed...),
	},
	{
		Cause: Cause{"ipvs-unavailable", KindFault, "for a service's virtual address, which nobody serves: the kernel has no IPVS"},
		rules: where((*scene).isForVIPInVain, neighbourFailed...),
	},
	{
		Cause: Cause{"ipvs-no-backend", KindFault, "for a service's virtual address, for which this node's load balancer did not answer"},
		rules: where((*scene).isForVIP, neighbourFailed...),
	},
	{
		Cause: Cause{"stale-vtep", KindFault, "a frame from another node for a container that is not here but on yet another one"},
		rules: slices.Concat(
			where((*scene).isAstrayInOverlay, portDown...),
			where((*scene).isAstrayInBalancer, reason("OTHERHOST"), reasonless("ip_rcv_core")),
		),
	},
	{
		Cause: Cause{"advertise-nat", KindFault, "to another node, at whose address nobody is reached"},
		rules: slices.Concat(
			[]rule{reasonAt("IP_OUTNOROUTES", "vxlan_xmit_one"), silent("vxlan_xmit_one")},
			where((*scene).isTunnelOut, neighbourFailed...),
		),
	},
	{
		Cause: Cause{"encrypted-plain-drop", KindFault, "an encrypted network's packet that came without encryption, dropped by the engine's rule"},
		rules: where((*scene).isPlainOfEncrypted, netfilterDrops...),
	},
	{
		Cause: Cause{"4789-closed", KindFault, "between nodes, for containers: a firewall rule, or nobody here who takes VXLAN"},
		rules: where((*scene).isTunnels, slices.Concat(netfilterDrops, noListener)...),
	},
	{
		Cause: Cause{"encrypted-esp-blocked", KindFault, "between nodes, for containers on encrypted networks: a firewall rule, or a kernel without ESP"},
		rules: where((*scene).isEncryptedTunnels, slices.Concat(netfilterDrops, noProtocol)...),
	},
	{
		Cause: Cause{"host-mode-node", KindPolicy, "for a port that a service publishes with mode=host: only nodes with a task have it"},
		rules: where((*scene).isForOtherNodesPort, noListener...),
	},
	{
		Cause: Cause{"7946-closed", KindFault, "gossip between nodes: a firewall rule"},
		rules: where((*scene).isGossip, netfilterDrops...),
	},
	{
		Cause: Cause{"2377-closed", KindFault, "between a node and a manager: a firewall rule"},
		rules: where((*scene).isManagers, netfilterDrops...),
	},
}

// noiseCauses are what nobody misses. Several functions are those of kernels from 5.10 on, which free as dropped what
// they have read, or take down with a socket or link what nobody waits for any more.
var noiseCauses = []cause{
	{
		Cause: Cause{"multicast", KindBenign, "multicast or broadcast, membership reports among it, that nobody here waits for"},
		rules: slices.Concat(
			[]rule{
				always((*scene).isForGroup),
				reason("UNICAST_IN_L2_MULTICAST"),
				silent("macvlan_broadcast", "macvlan_process_broadcast", "macvlan_broadcast_enqueue", "ipvlan_process_multicast"),
				reasonAt(notSpecified, "__udp4_lib_rcv", "__udp6_lib_rcv", "udp_rcv", "udpv6_rcv", "ip_mr_input", "ip6_mc_input"),
			},
			where((*scene).isToGroup, noRow...),
			// An ARP request to a bridge on which nobody is: what waits for the answer is dropped and counted on its own.
			where((*scene).isARP, reasonAt("NO_TX_TARGET", "br_dev_xmit"), silent("br_dev_xmit")),
		),
	},
	{
		Cause: Cause{"local-message", KindBenign, "a message between processes or from the kernel, no packet"},
		rules: []rule{always((*scene).isMessage)},
	},
	{
		Cause: Cause{"test-run", KindBenign, "made by a test run of a BPF program"},
		rules: []rule{silent("bpf_prog_test_run_skb", "bpf_test_finish")},
	},
	{
		Cause: Cause{"socket-teardown", KindBenign, "left unread in a socket or a queue that was closed"},
		rules: []rule{
			reason("QUEUE_PURGE", "SOCKET_CLOSE"),
			silent("inet_sock_destruct", "skb_queue_purge_reason", "skb_queue_purge", "skb_rbtree_purge", "sk_stream_kill_queues",
				"tcp_disconnect", "tcp_write_queue_purge", "udp_destruct_common", "udp_destroy_sock", "udpv6_destroy_sock",
				"packet_sock_destruct", "inet_csk_listen_stop", "inet_csk_destroy_sock", "tcp_v4_destroy_sock"),
		},
	},
	{
		Cause: Cause{"consumed", KindBenign, "read by the kernel itself, which on older versions frees it like a lost one"},
		rules: []rule{silent("icmpv6_rcv", "icmp_rcv", "igmp_rcv", "arp_rcv", "arp_process", "ndisc_rcv")},
	},
	{
		Cause: Cause{"link-setup", KindBenign, "its link was just being made or taken down"},
		rules: slices.Concat(
			[]rule{
				reason("NEIGH_DEAD"),
				silent("netif_napi_add_weight_locked", "netif_napi_add_weight", "netif_napi_add", "__rtnl_unlock", "rtnl_unlock",
					"rtnl_kfree_skbs", "qdisc_reset", "dev_deactivate_queue", "dev_shutdown", "neigh_flush_dev", "neigh_destroy",
					"pneigh_queue_purge", "flush_backlog"),
			},
			where((*scene).linkEnds, linkDrops...),
			where((*scene).linkIsNew, blockedPort...),
		),
	},
	{
		Cause: Cause{"ping-copy", KindBenign, "an echo reply that was also offered to sockets that did not ask"},
		rules: []rule{reasonAt("NO_SOCKET", "ping_rcv"), silent("ping_rcv")},
	},
	{
		Cause: Cause{"segmented", KindBenign, "the original of segments that are counted on their own, or a part of what is counted whole"},
		rules: slices.Concat(
			[]rule{silent("tbf_enqueue", "tbf_segment")},
			where(not((*scene).hasDevice), silent("kfree_skb_list", "kfree_skb_list_reason")),
		),
	},
	{
		Cause: Cause{"post-close", KindBenign, "a segment for a TCP connection that was closed already"},
		rules: []rule{
			reason("TCP_CLOSE", "TCP_ABORT_ON_DATA"),
			reasonAt(notSpecified, "tcp_v4_rcv", "tcp_v6_rcv"),
			silent("tcp_rcv_state_process", "tcp_v4_do_rcv", "tcp_v6_do_rcv", "tcp_timewait_state_process"),
		},
		uncounted: (*scene).mayBeInvalid,
	},
	{
		Cause: Cause{"tcp-duplicate", KindBenign, "a segment that TCP has had already or does not expect any more"},
		rules: []rule{
			reason("TCP_OLD_ACK", "TCP_OLD_DATA", "TCP_OLD_SEQUENCE", "TCP_TOO_OLD_ACK", "TCP_OFOMERGE", "TCP_ACK_UNSENT_DATA",
				"TCP_INVALID_SEQUENCE", "TCP_INVALID_END_SEQUENCE", "TCP_INVALID_ACK_SEQUENCE", "TCP_INVALID_SYN", "TCP_FLAGS",
				"TCP_FASTOPEN", "TCP_RFC7323_PAWS", "TCP_RFC7323_PAWS_ACK", "TCP_RFC7323_TSECR", "TCP_RFC7323_TW_PAWS"),
			silent("tcp_data_queue", "tcp_data_queue_ofo", "tcp_validate_incoming", "tcp_rcv_established",
				"tcp_rcv_synsent_state_process", "tcp_check_req"),
		},
		uncounted: (*scene).mayBeInvalid,
	},
	{
		Cause: Cause{"fragment-duplicate", KindBenign, "a fragment that came twice"},
		rules: []rule{reason("DUP_FRAG")},
	},
	{
		Cause: Cause{"other-host", KindBenign, "a frame for another machine that came here too"},
		rules: slices.Concat(
			[]rule{
				reason("OTHERHOST", "TAP_FILTER", "TAP_TXFILTER", "IPV6_NDISC_NS_OTHERHOST"),
				reasonless("ip_rcv_core"),
			},
			where(not((*scene).isForOwner), reasonless("ip6_rcv_core")),
		),
	},
	{
		Cause: Cause{"unhandled-protocol", KindBenign, "a protocol that the kernel does not speak, as of switches and neighbours"},
		rules: slices.Concat(
			[]rule{
				reason("UNHANDLED_PROTO", "MAC_IEEE_MAC_CONTROL", "INVALID_PROTO", "ARP_PVLAN_DISABLE",
					"CAN_RX_INVALID_FRAME", "CANFD_RX_INVALID_FRAME", "CANXL_RX_INVALID_FRAME"),
				silent("llc_rcv", "snap_rcv", "stp_pdu_rcv"),
			},
			where(not((*scene).isIP), reasonless("__netif_receive_skb_core")),
		),
	},
	{
		Cause: Cause{"martian", KindBenign, "an address that no packet may have there"},
		rules: slices.Concat(
			[]rule{reason("IP_INVALID_SOURCE", "IP_INVALID_DEST")},
			where((*scene).isLinkLocal, reasonAt("IP_INADDRERRORS", "ip6_forward"), reasonless("ip6_forward")),
			where((*scene).isPlainMartian, reasonAt(notSpecified, "ip_rcv_finish_core")),
			where((*scene).onHost, reason("IP_LOCAL_SOURCE")),
		),
	},
}

// netfilterDrops are what a rule dropped: by their own function where the kernel's nf_tables frees them (from 6.7 on).
var netfilterDrops = []rule{reason("NETFILTER_DROP"), silent("nft_do_chain", "nf_hook_slow")}

// policyCauses are somebody's decisions, and the filters that may be. What netfilter dropped is told apart by whom the
// packet was between: which rule it was the kernel does not say.
var policyCauses = []cause{
	{
		Cause: Cause{"macvlan-host", KindPolicy, "from a macvlan or ipvlan container to its own host, which such networks never reach"},
		rules: where((*scene).isFromChildToHost, neighbourFailed...),
	},
	{
		Cause: Cause{"ingress-unlisted-port", KindPolicy, "to or from a container's address on the routing mesh's network, at a port that it does not publish"},
		rules: where((*scene).isForMesh, netfilterDrops...),
	},
	{
		Cause:     Cause{"own-firewall", KindPolicy, "a firewall rule in the container's own namespace"},
		rules:     where((*scene).isInside, netfilterDrops...),
		uncounted: (*scene).mayBeClash,
	},
	{
		Cause: Cause{"conntrack-full", KindFault, "the host's connection tracking table is full: no new connection passes"},
		rules: where((*scene).isRefusedByConntrack, netfilterDrops...),
	},
	{
		Cause: Cause{"localnet", KindFault, "from or to 127.0.0.0/8, which may not leave a host"},
		rules: slices.Concat(
			[]rule{reason("IP_LOCALNET")},
			// The second is of bridged packets that were translated there (br_netfilter).
			where((*scene).isLoopback, silent("ip_rcv_finish_core", "br_nf_pre_routing_finish")),
			// Translated on its way out, the packet is routed again, and netfilter drops what has no route.
			where((*scene).isFromLoopbackOut, reasonAt("NETFILTER_DROP", "nf_hook_slow"), silent("nf_hook_slow")),
		),
	},
	{
		Cause: Cause{"icc-false", KindPolicy, "both ends are on one network whose containers may not talk with each other (enable_icc=false)"},
		rules: where((*scene).isBetweenSeparated, netfilterDrops...),
	},
	{
		Cause: Cause{"internal-net", KindPolicy, "between an internal network and what is not on it"},
		rules: slices.Concat(
			where((*scene).leavesInternal, netfilterDrops...),
			where((*scene).isOnInternalOnly, reason("IP_OUTNOROUTES")),
		),
	},
	{
		Cause: Cause{"isolation-between-bridges", KindPolicy, "between two of Docker's bridge networks, not by a published port"},
		rules: where((*scene).isBetweenBridges, netfilterDrops...),
	},
	{
		Cause: Cause{"direct-route-drop", KindPolicy, "from outside straight to a container's address, which engines from 28.0 on refuse before routing"},
		rules: where((*scene).isDirectUnrouted, netfilterDrops...),
	},
	{
		Cause: Cause{"unpublished-port", KindPolicy, "from outside straight to a container's port that is not published"},
		rules: where((*scene).isDirectUnpublished, netfilterDrops...),
	},
	{
		Cause: Cause{"forward-policy-drop", KindFault, "forwarded by the host, but not of Docker's: a rule, or the policy DROP that Docker gives the chain FORWARD"},
		rules: where((*scene).isForwardedForOthers, netfilterDrops...),
	},
	{
		Cause:     Cause{"host-firewall", KindPolicy, "the host's own traffic, dropped by the host's own rules"},
		rules:     where((*scene).isNotDockers, netfilterDrops...),
		uncounted: (*scene).mayBeClash,
	},
	{
		Cause:     Cause{"docker-user", KindPolicy, "from outside to a published port, by an operator's rule such as those in the chain DOCKER-USER"},
		rules:     where((*scene).isPublished, netfilterDrops...),
		uncounted: (*scene).mayBeClash,
	},
	{
		Cause: Cause{"untracked", KindBenign, "a TCP segment of no connection that is tracked, as after its end: rules drop those as invalid"},
		rules: where((*scene).isUntracked, netfilterDrops...),
	},
	{
		Cause:     Cause{"filtered", KindFault, "a firewall rule"},
		rules:     netfilterDrops,
		uncounted: (*scene).mayBeClash,
	},
	{
		Cause: Cause{"security-policy", KindPolicy, "refused by a security module or by an IPsec policy"},
		rules: []rule{reason("SECURITY_HOOK", "XFRM_POLICY", "PSP_INPUT", "PSP_OUTPUT")},
	},
	{
		Cause: Cause{"foreign-program", KindFault, "somebody's XDP, tc or cgroup program"},
		rules: slices.Concat(
			[]rule{
				reason("XDP", "TC_INGRESS", "TC_EGRESS", "TC_COOKIE_ERROR", "TC_CHAIN_NOTFOUND", "TC_RECLASSIFY_LOOP", "BPF_CGROUP_EGRESS"),
				silent("do_xdp_generic", "netif_receive_generic_xdp", "veth_xdp_rcv_skb", "veth_xdp_rcv_one", "sch_handle_ingress",
					"sch_handle_egress", "tcf_mirred_act", "ip_finish_output", "ip6_finish_output"),
			},
			where((*scene).isIP, reasonless("__netif_receive_skb_core")),
		),
	},
}

// noListener is that no socket is there for what came.
var noListener = []rule{
	reason("NO_SOCKET"),
	reasonless("tcp_v4_rcv", "tcp_v6_rcv", "__udp4_lib_rcv", "__udp6_lib_rcv", "udp_rcv", "udpv6_rcv"),
}

// noProtocol is that the kernel does not speak what came over IP.
var noProtocol = []rule{
	reason("IP_NOPROTO"),
	reasonless("ip_local_deliver_finish", "ip_protocol_deliver_rcu", "ip6_protocol_deliver_rcu", "ip6_input", "ip6_input_finish"),
}

// applicationCauses are of those who listen, or do not.
var applicationCauses = []cause{
	{
		Cause: Cause{"peer-ended", KindApplication, "the container it was for had just ended, or just begun"},
		rules: slices.Concat(
			where((*scene).receiverIsGone, portDown...),
			where((*scene).receiverJustChanged, neighbourFailed...),
			where((*scene).hasLeft, noRow...),
		),
		unless: (*scene).mayBeHeardOf,
	},
	{
		Cause: Cause{"resolver-nat-lost", KindFault, "a container's question to the engine's resolver that nobody took: its rules (port 53) or its socket are gone"},
		rules: where((*scene).isForResolver, noListener...),
	},
	{
		Cause:     Cause{"no-listener", KindApplication, "nobody listens on the port or for the protocol"},
		rules:     slices.Concat(noListener, noProtocol),
		uncounted: (*scene).mayBeInvalid,
	},
	{
		Cause: Cause{"rcvbuf", KindApplication, "the program does not read fast enough: its socket's buffer is full"},
		rules: []rule{
			reason("SOCKET_RCVBUFF", "SOCKET_BACKLOG", "PROTO_MEM", "TCP_OFO_QUEUE_PRUNE", "TCP_OFO_DROP"),
			silent("udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb", "__udp_enqueue_schedule_skb", "sock_queue_rcv_skb",
				"tcp_prune_ofo_queue"),
		},
	},
	{
		Cause: Cause{"accept-overflow", KindApplication, "the program does not accept connections fast enough"},
		rules: []rule{
			reason("TCP_LISTEN_OVERFLOW"),
			silent("tcp_conn_request", "tcp_v4_syn_recv_sock", "tcp_v6_syn_recv_sock", "tcp_v4_conn_request", "tcp_v6_conn_request"),
		},
	},
	{
		Cause: Cause{"socket-filter", KindApplication, "the socket's own filter refused it"},
		rules: []rule{reason("SOCKET_FILTER", "PACKET_SOCK_ERROR")},
	},
	{
		Cause: Cause{"tcp-reset", KindApplication, "the connection was reset"},
		rules: []rule{reason("TCP_RESET")},
	},
	{
		Cause: Cause{"tcp-window", KindApplication, "the receiver had said that it has no room"},
		rules: []rule{reason("TCP_ZEROWINDOW", "TCP_OVERWINDOW")},
	},
	{
		Cause: Cause{"tcp-authentication", KindApplication, "TCP's signature or its time-to-live is not what the program asks for"},
		rules: []rule{
			reason("TCP_MD5NOTFOUND", "TCP_MD5UNEXPECTED", "TCP_MD5FAILURE", "TCP_AUTH_HDR", "TCP_AONOTFOUND", "TCP_AOUNEXPECTED",
				"TCP_AOKEYNOTFOUND", "TCP_AOFAILURE", "TCP_MINTTL"),
		},
	},
	{
		Cause: Cause{"malformed", KindApplication, "its headers are wrong: whoever made it has to mend it"},
		rules: slices.Concat(
			where(not((*scene).wasForwarded), reason("IP_INHDR")),
			[]rule{
				reason("HDR_TRUNC", "PKT_TOO_SMALL", "DEV_HDR", "MAC_INVALID_SOURCE", "SKB_BAD_GSO", "SKB_GSO_SEG", "IPV6_BAD_EXTHDR",
					"IPV6_TOO_MANY_EXTHDRS", "IPV6_NDISC_FRAG", "IPV6_NDISC_HOP_LIMIT", "IPV6_NDISC_BAD_CODE",
					"IPV6_NDISC_BAD_OPTIONS"),
			},
		),
	},
}

// queueDrops are a queue's that is full, or has been taken away because its link is down.
var queueDrops = []rule{
	reason("QDISC_DROP", "QDISC_OVERLIMIT", "QDISC_CONGESTED", "QDISC_BURST_DROP", "CAKE_FLOOD", "FQ_BAND_LIMIT",
		"FQ_HORIZON_LIMIT", "FQ_FLOW_LIMIT", "DUALPI2_STEP_DROP", "QDISC_DROP_GENERIC", "QDISC_DROP_OVERLIMIT",
		"QDISC_DROP_CONGESTED", "QDISC_DROP_MAXFLOWS", "QDISC_DROP_FLOOD_PROTECTION", "QDISC_DROP_BAND_LIMIT",
		"QDISC_DROP_HORIZON_LIMIT", "QDISC_DROP_FLOW_LIMIT", "QDISC_DROP_L4S_STEP_NON_ECN", "QDISC_DROP_UNSPEC"),
	reasonless("__dev_queue_xmit", "__dev_xmit_skb", "kfree_skb_list"),
}

// blockedPort is a bridge's port that takes nothing in.
var blockedPort = []rule{reason("BRIDGE_INGRESS_STP_STATE"), silent("br_handle_frame")}

// portDown is a bridge's port, or the container's end behind it, that takes nothing out.
var portDown = slices.Concat(
	[]rule{
		reason("DEV_READY"),
		reasonAt("NO_TX_TARGET", "br_handle_frame_finish", "br_forward", "__br_forward", "br_flood", "br_dev_xmit"),
		silent("br_handle_frame_finish", "br_forward", "__br_forward", "br_flood", "br_dev_xmit", "veth_xmit",
			"macvlan_handle_frame", "macvlan_queue_xmit"),
		reasonAt(notSpecified, "__dev_queue_xmit", "kfree_skb_list_reason"),
	},
	where((*scene).linkIsDown, linkDrops...),
)

// linkDown is a device that takes nothing out because it is down, or has no carrier.
var linkDown = slices.Concat(
	[]rule{reason("DEV_READY"), reasonAt(notSpecified, "__dev_queue_xmit", "kfree_skb_list_reason")},
	where((*scene).linkIsDown, portDown...),
)

// narrowPort refuses what is larger than its MTU, and everything while it is down, without saying which.
var narrowPort = silent("br_dev_queue_push_xmit", "br_nf_dev_queue_xmit", "__dev_forward_skb2", "__dev_forward_skb")

// linkDrops are those that a link which is down brings about, and others too.
var linkDrops = slices.Concat(queueDrops, []rule{narrowPort})

// neighbourFailed is that nobody answered.
var neighbourFailed = []rule{
	reason("NEIGH_FAILED", "NEIGH_HH_FILLFAIL"),
	silent("neigh_invalidate", "arp_error_report", "ndisc_error_report", "neigh_resolve_output", "neigh_connected_output"),
}

// faultCauses are the network's.
var faultCauses = []cause{
	{
		Cause: Cause{"hairpin", KindFault, "it would go back out of the bridge port that it came in by, or came back to its own sender"},
		rules: slices.Concat(
			where((*scene).isHairpin, rule{functions: []string{"br_handle_frame_finish"}}),
			where((*scene).isFromOwner, reasonAt(notSpecified, "ip_rcv_finish_core"), reasonless("ip_rcv_finish_core")),
			[]rule{reason("IP_LOCAL_SOURCE")},
		),
	},
	{
		Cause: Cause{"rp-filter", KindFault, "the host would not answer to its source by the device that it came in by (reverse path filter)"},
		rules: []rule{reason("IP_RPFILTER"), reasonless("ip_rcv_finish_core")},
	},
	{
		Cause: Cause{"ip-forward-off", KindFault, "the host does not forward: net.ipv4.ip_forward or its twin for IPv6 is off"},
		rules: slices.Concat(
			[]rule{reasonAt("IP_INADDRERRORS", "ip_error", "ip6_forward")},
			where((*scene).isUnforwarded, reasonless("ip_error", "ip6_forward")),
		),
	},
	{
		Cause: Cause{"no-route", KindFault, "there is no route to its destination, or one that says so"},
		rules: []rule{
			reason("IP_INNOROUTES", "IP_OUTNOROUTES"),
			silent("ip_error", "ip6_pkt_drop", "ip6_pkt_discard", "ip6_pkt_discard_out", "ip6_pkt_prohibit", "ip6_pkt_prohibit_out",
				"dst_discard", "dst_discard_out"),
		},
	},
	{
		Cause: Cause{"dead-endpoint", KindFault, "nobody answers ARP or neighbour discovery for its next hop"},
		rules: neighbourFailed,
		// The engine tells of a container's end, or of its new beginning, a moment later.
		unless: (*scene).hasLiveReceiver,
	},
	{
		Cause: Cause{"neigh-queue", KindFault, "too many wait for one neighbour's answer"},
		rules: []rule{reason("NEIGH_QUEUEFULL"), silent("__neigh_event_send")},
	},
	{
		Cause: Cause{"neigh-overflow", KindFault, "the kernel's table of neighbours is full"},
		rules: []rule{reason("NEIGH_CREATEFAIL"), silent("ip_finish_output2", "ip6_finish_output2")},
	},
	{
		Cause: Cause{"link-down", KindFault, "a device of the host that it was to leave by is down or has no carrier"},
		rules: where((*scene).isForUplink, linkDown...),
	},
	{
		Cause:  Cause{"veth-down", KindFault, "a bridge's port or the container's end behind it is down"},
		rules:  slices.Concat(portDown, blockedPort),
		unless: (*scene).hasLiveReceiver,
	},
	{
		Cause: Cause{"mtu-bridge", KindFault, "larger than the MTU of a bridge's port or of the container's end behind it"},
		rules: []rule{
			narrowPort,
			reasonAt("PKT_TOO_BIG", "br_dev_queue_push_xmit", "br_nf_dev_queue_xmit", "__dev_forward_skb2", "__dev_forward_skb"),
		},
	},
	{
		Cause: Cause{"mtu-route", KindFault, "larger than the MTU of the way out, and not to be fragmented"},
		rules: slices.Concat(
			[]rule{reason("PKT_TOO_BIG"), silent("ip_fragment", "ip_do_fragment", "ip6_fragment")},
			where((*scene).isLarge, reasonless("ip_forward", "ip6_forward")),
		),
	},
	{
		Cause: Cause{"ttl-loop", KindFault, "its time to live or the nesting of devices has run out: a loop"},
		rules: []rule{reason("RECURSION_LIMIT"), reasonAt("IP_INHDR", "ip_forward", "ip6_forward"), reasonless("ip_forward", "ip6_forward")},
	},
	{
		Cause: Cause{"csum-offload", KindFault, "a wrong checksum, most often by a faulty offload"},
		rules: []rule{
			reason("TCP_CSUM", "UDP_CSUM", "IP_CSUM", "ICMP_CSUM", "SKB_CSUM"),
			reasonAt("IP_INHDR", "br_nf_pre_routing"), silent("br_nf_pre_routing"),
		},
	},
	{
		Cause: Cause{"v6-disabled", KindFault, "IPv6 is off at the device that it came in by"},
		rules: []rule{reason("IPV6DISABLED"), reasonless("ip6_rcv_core")},
	},
	{
		Cause: Cause{"cpu-backlog", KindFault, "a processor's or a device's queue of received packets is full"},
		rules: []rule{
			reason("CPU_BACKLOG", "MACVLAN_BROADCAST_BACKLOG", "IPVLAN_MULTICAST_BACKLOG"),
			reasonless("enqueue_to_backlog", "netif_rx_internal"),
		},
	},
	{
		Cause: Cause{"qdisc", KindFault, "a queue for sending is full, or its rate limit reached"},
		rules: slices.Concat(queueDrops, []rule{reason("FULL_RING"), silent("tun_net_xmit")}),
	},
	{
		Cause: Cause{"fragment-lost", KindFault, "a fragment whose others did not come in time"},
		rules: []rule{
			reason("FRAG_REASM_TIMEOUT", "FRAG_TOO_FAR"),
			silent("ip_defrag", "ip_expire", "ip_frag_queue", "ip_frag_reasm", "inet_frag_rbtree_purge", "ipv6_frag_rcv",
				"ip6_frag_queue", "ip6_frag_expire", "nf_ct_frag6_gather", "nf_ct_frag6_queue", "nf_ct_frag6_expire"),
		},
	},
	{
		Cause: Cause{"no-memory", KindFault, "the kernel had no memory for it"},
		rules: []rule{reason("NOMEM", "PFMEMALLOC", "SKB_UCOPY_FAULT")},
	},
}
