// SPDX-License-Identifier: Apache-2.0

package main

func flow() page {
	return page{
		uid:   "bridgewatch-flow",
		title: "Bridgewatch flow: traffic and conversations",
		description: "What containers send and receive, and with whom. Only container interfaces are counted, so that a sum counts a " +
			"packet once for each container that it passes. The page docs/signals/flow.md says what is counted and what is not.",
		variables: who(),
		rows: []row{
			{panels: flowNumbers()},
			{id: 10, title: "Services and containers", panels: trafficOfContainers()},
			{id: 20, title: "Networks", panels: trafficOfNetworks()},
			{id: 30, title: "Conversations", panels: trafficBetween()},
		},
	}
}

func flowNumbers() []panel {
	one := func(id int, title, description, metric, direction, unit string) panel {
		return panel{id, title, description, 6, 4,
			[]query{{"sum(rate(" + metric + "{" + ofContainers + `, direction="` + direction + `"}[$__rate_interval]))`, direction, false}},
			number{unit: unit, colour: "blue", graph: true}}
	}
	return []panel{
		one(1, "Received", "Bytes a second that the containers chosen receive, with the Ethernet header.", "bridgewatch_bytes_total", "rx", "Bps"),
		one(2, "Sent", "Bytes a second that the containers chosen send, with the Ethernet header.", "bridgewatch_bytes_total", "tx", "Bps"),
		one(3, "Packets received", "Packets a second that the containers chosen receive, as on the wire.", "bridgewatch_packets_total", "rx", "pps"),
		one(4, "Packets sent", "Packets a second that the containers chosen send, as on the wire.", "bridgewatch_packets_total", "tx", "pps"),
	}
}

func trafficOfContainers() []panel {
	bytes := func(id int, direction, does string) panel {
		return panel{id, "Services that " + does + " most",
			"The ten services with most bytes, over their containers. A container without a service is not here, but below.", 12, 9,
			[]query{{`topk(10, sum by (instance, stack, service) (rate(bridgewatch_bytes_total{` + ofContainers + `, service!="", direction="` + direction +
				`"}[$__rate_interval])))`, "{{stack}} {{service}} {{instance}}", false}},
			lines{unit: "Bps", stacked: true}}
	}
	return []panel{
		bytes(11, "rx", "receive"), bytes(12, "tx", "send"), receivers(13), senders(14),
		{15, "Containers with most packets",
			"The ten containers with most packets, both directions. Many packets with few bytes cost more than they carry.", 12, 9,
			[]query{{`topk(10, sum by (instance, stack, service, container, direction) (rate(bridgewatch_packets_total{` + ofContainers + `}[$__rate_interval])))`,
				"{{container}} {{direction}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "pps"}},
		{16, "Mean size of a packet",
			"Bytes per packet of each service, with the Ethernet header: the ten with the largest. A bulk transfer near 1500 is well; one " +
				"that is much smaller than the MTU of its network may suffer from an MTU set too low.", 12, 9,
			[]query{{`topk(10, sum by (instance, stack, service) (rate(bridgewatch_bytes_total{` + ofContainers + `}[$__rate_interval])) / ` +
				`sum by (instance, stack, service) (rate(bridgewatch_packets_total{` + ofContainers + `}[$__rate_interval])))`, "{{stack}} {{service}} {{instance}}", false}},
			lines{unit: "bytes"}},
		{17, "Packets per kernel buffer",
			"How many packets the kernel handles at once (GSO), for each service. Bulk TCP has ten and more; one means that each packet takes " +
				"the whole way alone, as it must be for small messages, or because offloading is off.", 12, 9,
			[]query{{`topk(10, sum by (instance, stack, service) (rate(bridgewatch_packets_total{` + ofContainers + `}[$__rate_interval])) / ` +
				`sum by (instance, stack, service) (rate(bridgewatch_skbs_total{` + ofContainers + `}[$__rate_interval])))`, "{{stack}} {{service}} {{instance}}", false}},
			lines{unit: "none"}},
		{18, "Containers that send and are hardly answered",
			"Packets a second of containers that send more than twenty for each that they receive. Who sends logs or metrics by UDP is well; " +
				"else nobody hears them, or the answers are lost: see the page about drops.",
			12, 9, []query{{`sum by (instance, stack, service, container) (rate(bridgewatch_packets_total{` + ofContainers + `, direction="tx"}[$__rate_interval])) > ` +
				`20 * sum by (instance, stack, service, container) (rate(bridgewatch_packets_total{` + ofContainers + `, direction="rx"}[$__rate_interval]))`,
				"{{container}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "pps"}},
	}
}

func trafficOfNetworks() []panel {
	return []panel{
		{21, "Sent within each network",
			"Bytes a second that the containers of a network send. Networks of the same name on two hosts are two networks, so each host has " +
				"its own line. A network that carries more than expected: see which of its containers send most, above.", 12, 9,
			[]query{{`topk(20, sum by (instance, network) (rate(bridgewatch_bytes_total{` + ofContainers + `, direction="tx"}[$__rate_interval])))`,
				"{{network}} {{instance}}", false}},
			lines{unit: "Bps"}},
		{22, "Crossing the edge of each network",
			"Bytes a second through the Docker bridge itself: tx leaves the network for the host or the world, rx enters it. Traffic between " +
				"two containers of one network is not in it. The stack and service chosen do not apply. An internal network with traffic to " +
				"the world here deserves a look.", 12, 9,
			[]query{{`topk(20, sum by (instance, network, direction) (rate(bridgewatch_network_bytes_total{instance=~"$instance"}[$__rate_interval])))`,
				"{{network}} {{direction}} {{instance}}", false}},
			lines{unit: "Bps"}},
		{23, "Packets that cross the edge of each network",
			"The same in packets. The stack and service chosen do not apply.", 12, 9,
			[]query{{`topk(20, sum by (instance, network, direction) (rate(bridgewatch_network_packets_total{instance=~"$instance"}[$__rate_interval])))`,
				"{{network}} {{direction}} {{instance}}", false}},
			lines{unit: "pps"}},
		{24, "Docker's networks",
			"What Docker says of the networks of the hosts chosen. The MTU is the one that Docker sets on containers; 0 is the driver's own.", 12, 9,
			[]query{{`max by (instance, network, driver, network_scope, internal, encrypted, mtu) (bridgewatch_network_info{instance=~"$instance"})`, "", true}},
			table{sort: "network", none: "Docker has told of no network.", columns: []column{
				{of: "network"}, {of: "driver"}, {of: "network_scope", title: "scope"}, {of: "internal"}, {of: "encrypted"},
				{of: "mtu"}, {of: "instance"}, {of: "Value", title: "known", values: []value{{"1", "yes", "text"}}},
			}}},
	}
}

func trafficBetween() []panel {
	ends := func(id int, title, description, end, other string) panel {
		return panel{id, title, description, 12, 9,
			[]query{{`topk(10, sum by (instance, ` + end + `_stack, ` + end + `_service, protocol) (rate(bridgewatch_conversation_bytes_total{` +
				`instance=~"$instance", ` + end + `_stack=~"$stack", ` + end + `_service=~"$service", ` + other + `_service="~external"}[$__rate_interval])))`,
				"{{" + end + "_stack}} {{" + end + "_service}} {{protocol}} {{instance}}", false}},
			lines{unit: "Bps"}}
	}
	return []panel{
		conversations(31),
		ends(32, "Sent out of Docker", "The ten services that send most to what is no container of the host (~external).", "source", "destination"),
		ends(33, "Received from outside of Docker", "The ten services that receive most from what is no container of the host (~external).",
			"destination", "source"),
	}
}
