// SPDX-License-Identifier: Apache-2.0

package main

func drops() page {
	return page{
		uid:   "bridgewatch-drops",
		title: "Bridgewatch drops: what is lost, by whom and why",
		description: "Every packet that the kernel dropped on the hosts chosen, by what it means. Losses of the network, refusals of " +
			"programs and the work of rules are apart. The page docs/signals/drop.md says what is counted and what is not.",
		variables: append(who(), kinds(),
			choice("network", "Network", "Docker network. Drops that belong to no network have none.",
				`label_values(bridgewatch_dropped_packets_total{instance=~"$instance", network!=""}, network)`)),
		rows: []row{
			{panels: dropNumbers()},
			{id: 10, title: "Lost by the network", panels: faults()},
			{id: 20, title: "Refused by programs, or by rules that isolate", panels: refusals()},
			{id: 30, title: "Every drop (kind: $kind)", panels: everyDrop()},
			{id: 40, title: "Near their limits", panels: limits()},
		},
	}
}

// dropped are the drops of what is chosen, with more matchers.
func dropped(more string) string {
	return "bridgewatch_dropped_packets_total{" + chosen + `, network=~"$network", ` + more + "}"
}

func dropNumbers() []panel {
	one := func(id int, kind, title, description string, width int, view number) panel {
		return panel{id, title, description, width, 4,
			[]query{{"sum(rate(" + dropped(`kind="`+kind+`"`) + "[$__rate_interval]))", kind, false}}, view}
	}
	blue := number{unit: "pps", colour: "blue", graph: true}
	return []panel{
		one(1, "fault", "Lost by the network",
			"Packets a second of kind fault: nobody asked for these drops. Above zero: the first row says whose, and why.", 6,
			number{unit: "pps", colour: "green", steps: []step{{0.001, "orange"}, {1, "red"}}, graph: true}),
		one(2, "application", "Refused by programs",
			"Packets a second of kind application: a closed port, a full socket. Nothing is wrong with the network: look at the program.", 6, blue),
		one(3, "policy", "Stopped by rules that isolate",
			"Packets a second of kind policy: a rule that keeps networks apart did its work. Unexpected: somebody tries to reach what it may not.",
			6, blue),
		one(4, "benign", "Noise",
			"Packets a second of kind benign: multicast that nobody waits for, what was under way when a socket closed. Every host has it.", 6, blue),
	}
}

func faults() []panel {
	return []panel{
		{11, "Faults by cause",
			"What went wrong, in Docker's terms. A cause lasting for more than a moment makes a finding of the same name, whose runbook says what to do.",
			12, 9, []query{{"sum by (cause) (rate(" + dropped(`kind="fault"`) + "[$__rate_interval]))", "{{cause}}", false}},
			lines{unit: "pps", stacked: true}},
		{12, "Share of packets lost to faults",
			"Of all packets of a service, how many the network lost; the ten services that lose most. Above 5 % for ten minutes pages. Users " +
				"feel 1 %. A service at 100 % gets nothing through. Drops on the network chosen count, and packets of all networks.",
			12, 9, []query{{"topk(10, sum by (instance, stack, service) (rate(" + dropped(`kind="fault", service!=""`) + "[$__rate_interval])) / (" +
				"sum by (instance, stack, service) (rate(" + dropped(`kind="fault", service!=""`) + "[$__rate_interval])) + " +
				"sum by (instance, stack, service) (rate(bridgewatch_packets_total{" + chosen + `, service!=""}[$__rate_interval]))) > 0)`,
				"{{stack}} {{service}} {{instance}}", false}},
			lines{unit: "percentunit", alarm: 0.05}},
		{13, "Faults by service",
			"The ten services that lose most packets. One line: that service. All lines of a host: its firewall, routes or uplink.",
			12, 9, []query{{"topk(10, sum by (instance, stack, service, cause) (rate(" + dropped(`kind="fault"`) + "[$__rate_interval])))",
				"{{stack}} {{service}} {{cause}} {{instance}}", false}},
			lines{unit: "pps", stacked: true}},
		{14, "Faults by network",
			"Which network loses packets, and why. One network with one cause: a rule, an MTU or a route of that network. One cause on all " +
				"networks of a host: the host.",
			12, 9, []query{{"topk(10, sum by (instance, network, cause) (rate(" + dropped(`kind="fault"`) + "[$__rate_interval])))",
				"{{network}} {{cause}} {{instance}}", false}},
			lines{unit: "pps", stacked: true}},
		{15, "Faults by place",
			"In which kind of namespace (scope), on which kind of device and in which direction, as the victim sees it. container: the fault " +
				"is inside. host: between the container and the world.",
			24, 8, []query{{"topk(10, sum by (instance, scope, device_kind, direction) (rate(" + dropped(`kind="fault"`) + "[$__rate_interval])))",
				"{{scope}} {{device_kind}} {{direction}} {{instance}}", false}},
			lines{unit: "pps", stacked: true}},
	}
}

func refusals() []panel {
	by := func(id int, kind, title, description string) panel {
		return panel{id, title, description, 12, 9,
			[]query{{"topk(10, sum by (instance, stack, service, cause) (rate(" + dropped(`kind="`+kind+`"`) + "[$__rate_interval])))",
				"{{cause}} {{stack}} {{service}} {{instance}}", false}}, lines{unit: "pps", stacked: true}}
	}
	return []panel{
		by(21, "application", "Refused by programs, by cause and service",
			"no-listener: nobody listens on that port. rcvbuf: the program does not read in time. accept-overflow: it does not accept in time. "+
				"Look at the program, not at the network."),
		by(22, "policy", "Stopped by rules, by cause and service",
			"A rule of Docker's that isolates did its work: other networks, unpublished ports, internal networks, icc=false. If the two should "+
				"talk, put them on one network or publish the port; bridgewatch explain with the cause's name says how."),
	}
}

func everyDrop() []panel {
	return []panel{
		lossTable(31),
		{32, "Drops by network and reason (kind: $kind)",
			"Which network loses packets, with the kernel's own word for it, which differs between kernels.",
			12, 9, []query{{"topk(20, sum by (instance, network, reason) (rate(" + dropped(`kind=~"$kind"`) + "[$__rate_interval])))",
				"{{network}} {{reason}} {{instance}}", false}},
			lines{unit: "pps", stacked: true}},
		{33, "Drops by kernel function",
			"Where in the kernel packets are dropped, over all kinds and owners of the hosts chosen; the other choices do not apply. Where the " +
				"cause is unknown this tells what to search for. Where the reason is NOT_SPECIFIED the function tells the cases apart: " +
				"__dev_forward_skb2 is an MTU of a veth, br_dev_queue_push_xmit an MTU of a bridge port.",
			12, 9, []query{{`topk(15, sum by (instance, reason, function) (rate(bridgewatch_drop_locations_total{instance=~"$instance"}[$__rate_interval])))`,
				"{{function}} {{reason}} {{instance}}", false}},
			lines{unit: "pps"}},
	}
}

func limits() []panel {
	return []panel{
		{41, "Fill of the connection tracking table",
			"At 100 % the kernel drops the first packet of every new connection. Near the dashed line: raise net.netfilter.nf_conntrack_max, " +
				"or find who opens so many connections.",
			8, 8, []query{{`max by (instance) (bridgewatch_conntrack_entries{instance=~"$instance"} / bridgewatch_conntrack_limit{instance=~"$instance"})`,
				"{{instance}}", false}},
			lines{unit: "percentunit", max: 1, alarm: 0.85}},
		{42, "Connections not accepted in time",
			"Connections that the kernel turned away because a program's queue was full: the program is too slow, or its backlog too short.",
			8, 8, []query{{`topk(10, sum by (instance, stack, service, container) (rate(bridgewatch_tcp_listen_overflows_total{` + chosen + `}[$__rate_interval])))`,
				"{{container}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "cps"}},
		{43, "Packets that left with a private address",
			"Packets that left the host under a container's own address. No answer finds its way back to it: Docker's NAT rules are missing, " +
				"or the network has masquerading turned off.",
			8, 8, []query{{`topk(10, sum by (instance, stack, service, container) (rate(bridgewatch_unnatted_egress_packets_total{` + chosen + `}[$__rate_interval])))`,
				"{{container}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "pps"}},
	}
}
