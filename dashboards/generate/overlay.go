// SPDX-License-Identifier: Apache-2.0

package main

func overlay() page {
	return page{
		uid:   "bridgewatch-overlay",
		title: "Bridgewatch overlay: what nodes lose between them",
		description: "Overlay networks between the nodes of a Swarm, by the addresses of the outer header. What one node sends and another " +
			"receives is recorded by rules (bridgewatch.rules.yml), over 15 minutes, and belongs to a pair of nodes: the host, stack and " +
			"service chosen do not apply to it. There is no verdict for 20 minutes after an agent's restart. The page docs/signals/overlay.md " +
			"says what is counted and what is not.",
		variables: append(who(), choice("network", "Network", "Overlay network. What is encrypted has one only inside: outside it is ESP, of none.",
			`label_values(bridgewatch_overlay_packets_total{instance=~"$instance"}, network)`)),
		rows: []row{
			{panels: overlayNumbers()},
			{id: 10, title: "Who loses what, from node to node", panels: overlayLoss()},
			{id: 20, title: "Where it gets lost", panels: overlayPlaces()},
			{id: 30, title: "Traffic between nodes", panels: overlayTraffic()},
			{id: 40, title: "Whom the nodes know the way to", panels: overlayTables()},
			{id: 50, title: "What the nodes drop", panels: overlayDrops()},
			{id: 60, title: "What is wrong", panels: []panel{findingsAbout(61, "Findings about overlay networks that stand", overlayFindings)}},
		},
	}
}

// overlayFindings are what can be wrong with overlay networks, as a regular expression.
const overlayFindings = "fdb-row-missing|neigh-row-missing|stale-vtep|vtep-src-mismatch|vni-unknown|4789-closed|4789-collision|advertise-nat|" +
	"encrypted-esp-blocked|encrypted-plain-drop|overlay-mtu|subnet-exhausted|vxlan-leak|peer-silent|7946-closed|2377-closed"

// onNetwork are the matchers for the overlay network chosen.
const onNetwork = `network=~"$network"`

// paths is what rules record of pairs of nodes.
func paths(what string) string {
	return "cluster_network_path:bridgewatch_overlay_" + what + "{" + onNetwork + "}"
}

const (
	sentPackets     = "sent_packets:delta15m"
	receivedPackets = "received_packets:delta15m"
	lostPackets     = "lost_packets:delta15m"
	lossRatio       = "cluster_network_path:bridgewatch_overlay_lost_packets:ratio15m"
	byPath          = "sum by (cluster, network, vni, encapsulation, source, destination) "
	pathLegend      = "{{source}} to {{destination}} {{network}} {{encapsulation}} {{cluster}}"
	here            = `instance=~"$instance", ` + onNetwork
)

// pathLoss is the share of what is lost from node to node, of whom a hundred packets were sent.
func pathLoss() string { return paths(lostPackets) + " / (" + paths(sentPackets) + " >= 100)" }

// worstPath is the share of the pair of nodes and the network that lose most.
func worstPath(id, width int, matchers string) panel {
	return panel{id, "Highest loss between two nodes",
		"Of the packets that one node sent another on a network within 15 minutes, the share that did not arrive: the pair that loses most, of " +
			"those with more than 10000 packets. Above 1 % for long pages. While traffic changes it is off by what passes between two scrapes. " +
			"Empty: there was not so much traffic, or an agent has started within 20 minutes.",
		width, 4, []query{{"max(clamp_min(" + lossRatio + "{" + matchers + "}, 0))", "loss", false}},
		number{unit: "percentunit", colour: "green", steps: []step{{0.005, "orange"}, {0.01, "red"}}, graph: true, none: "no verdict"}}
}

// pathLossOverTime is the share of what the pairs of nodes lose that lose most.
func pathLossOverTime(id, width int, matchers string) panel {
	return panel{id, "Loss between nodes over time",
		"The ten pairs of nodes and networks that lose most, of those with more than 10000 packets in 15 minutes. Above the dashed line for long " +
			"pages. A peak of a minute at the beginning or the end of traffic is none: the two ends are scraped at different times.", width, 10,
		[]query{{"topk(10, max by (cluster, network, vni, encapsulation, source, destination) (clamp_min(" + lossRatio + "{" + matchers + "}, 0)))",
			pathLegend, false}},
		lines{unit: "percentunit", alarm: 0.01}}
}

func overlayNumbers() []panel {
	return []panel{
		worstPath(1, 5, onNetwork),
		{2, "Packets sent to other nodes",
			"Packets a second of overlay networks that the hosts chosen send to others.", 5, 4,
			[]query{{`sum(rate(bridgewatch_overlay_packets_total{` + here + `, direction="tx", encapsulation="vxlan"}[$__rate_interval]))`, "sent", false}},
			number{unit: "pps", colour: "blue", graph: true}},
		{3, "Dropped by the nodes",
			"Packets a second that the hosts chosen dropped themselves, on their way to another node or from it. The row What the nodes drop says why.",
			5, 4, []query{{`sum(rate(bridgewatch_overlay_dropped_packets_total{` + here + `}[$__rate_interval]))`, "dropped", false}},
			number{unit: "pps", colour: "green", steps: []step{{0.001, "orange"}, {1, "red"}}, graph: true, none: "0"}},
		{4, "Endpoints without a way",
			"Containers on other nodes that a host has no entry for, in the forwarding table or among the neighbours: it cannot reach them. Above " +
				"zero for long: the row Whom the nodes know the way to says where.", 5, 4,
			[]query{{`sum(clamp_min(bridgewatch_overlay_expected_entries{` + here + `} - bridgewatch_overlay_entries{` + here + `}, 0))`, "missing", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}, graph: true, none: "0"}},
		{5, "No VXLAN, on its port",
			"Packets a second on the data path's port without a readable VXLAN header. Somebody else uses the port. The network chosen does not apply.", 4, 4,
			[]query{{`sum(rate(bridgewatch_overlay_malformed_packets_total{instance=~"$instance"}[$__rate_interval]))`, "malformed", false}},
			number{unit: "pps", colour: "green", steps: []step{{0.001, "orange"}}, graph: true, none: "0"}},
	}
}

func overlayLoss() []panel {
	of := func(what string) query { return query{byPath + "(" + paths(what) + ")", "", true} }
	return []panel{
		{11, "Loss from node to node",
			"From the node of a line to that of a column: the share of packets that did not arrive within 15 minutes, on the network chosen that " +
				"loses most. A red line: that node cannot send, or everybody's way from it. A red column: it cannot receive. One cell: a rule or a " +
				"cable between these two. Empty cells: fewer than 100 packets, no agent at one end, or one that has just started.", 12, 10,
			[]query{{"max by (source, destination) (clamp_min(" + pathLoss() + ", 0))", "", true}},
			matrix{lines: "source", columns: "destination", unit: "percentunit", colour: "green", steps: []step{{0.001, "orange"}, {0.01, "red"}},
				none: "No verdict: no traffic between two nodes with agents, or agents that have just started."}},
		pathLossOverTime(12, 12, onNetwork),
		{13, "Sent, received and lost within 15 minutes",
			"One line for each pair of nodes and network. lost is sent less received; on the way is that without what the queues of either end " +
				"dropped. A few below zero is traffic between two scrapes. Encrypted networks are there twice: by name (vxlan), and for all of a pair " +
				"(esp).", 24, 10,
			[]query{of(sentPackets), of(receivedPackets), of(lostPackets), of("cable_lost_packets:delta15m"), {byPath + "(" + pathLoss() + ")", "", true}},
			table{sort: "lost", none: "No verdict.", columns: []column{
				{of: "source"}, {of: "destination"}, {of: "network"}, {of: "vni", title: "VNI"}, {of: "encapsulation"},
				{of: "Value #A", title: "sent", unit: "short"}, {of: "Value #B", title: "received", unit: "short"},
				{of: "Value #C", title: "lost", unit: "short", gauge: true}, {of: "Value #D", title: "on the way", unit: "short"},
				{of: "Value #E", title: "share", unit: "percentunit"}, {of: "cluster"},
			}}},
		{14, "Received from whom no agent says that it sends",
			"Their loss cannot be told. The address is rewritten on the way (NAT between nodes, which overlay networks do not bear), the sender has " +
				"no agent or another Prometheus, or it is no node of the Swarm. Packets of the last 15 minutes.", 24, 7,
			[]query{{"sum by (cluster, instance, network, vni, encapsulation, source, destination) (" +
				"instance_network_path:bridgewatch_overlay_unmatched_packets:delta15m{" + here + "})", "", true}},
			table{sort: "packets", none: "Every sender is known.", columns: []column{
				{of: "source"}, {of: "destination"}, {of: "network"}, {of: "vni", title: "VNI"}, {of: "encapsulation"},
				{of: "Value", title: "packets", unit: "short", gauge: true}, {of: "instance"}, {of: "cluster"},
			}}},
	}
}

func overlayPlaces() []panel {
	place := func(id int, title, description, expr string) panel {
		return panel{id, title, description, 8, 9,
			[]query{{"topk(10, " + byPath + "(" + expr + ") > 0)", pathLegend, false}}, lines{unit: "short", stacked: true}}
	}
	dropped := func(direction string) string {
		return "cluster_network_path:bridgewatch_overlay_dropped_packets:delta15m{" + onNetwork + `, direction="` + direction + `"}`
	}
	return []panel{
		place(21, "By the sender",
			"What the sending node dropped itself, in 15 minutes: no entry for the container, no route, a rule, a full queue. The row What the nodes "+
				"drop has the causes.", dropped("tx")),
		place(22, "On the way",
			"What left one node and did not reach the other, in 15 minutes: cables, switches, a firewall or a cloud's rules in between.",
			paths("cable_lost_packets:delta15m")),
		place(23, "By the receiver",
			"What reached the receiving node and was dropped there, in 15 minutes: a rule, an unknown network, a source that is not the one it expects.",
			dropped("rx")),
	}
}

func overlayTraffic() []panel {
	traffic := func(id int, metric, direction, title, description, unit string) panel {
		return panel{id, title, description, 12, 8,
			[]query{{`topk(10, sum by (instance, network, local, peer) (rate(` + metric + `{` + here + `, encapsulation="vxlan", direction="` + direction +
				`"}[$__rate_interval])))`, "{{local}} {{peer}} {{network}} {{instance}}", false}}, lines{unit: unit, stacked: true}}
	}
	const packets, bytes = "bridgewatch_overlay_packets_total", "bridgewatch_overlay_bytes_total"
	return []panel{
		traffic(31, packets, "tx", "Packets sent", "From each host chosen to each other node: the ten with most. The first address is the host's.", "pps"),
		traffic(32, packets, "rx", "Packets received", "By each host chosen from each other node: the ten with most. The first address is the host's.", "pps"),
		traffic(33, bytes, "tx", "Bytes sent", "With all headers, the tunnel's among them.", "Bps"),
		traffic(34, bytes, "rx", "Bytes received", "With all headers, the tunnel's among them.", "Bps"),
		{35, "By network",
			"Packets a second that the hosts chosen send on each network.", 12, 8,
			[]query{{`sum by (instance, network) (rate(` + packets + `{` + here + `, encapsulation="vxlan", direction="tx"}[$__rate_interval]))`,
				"{{network}} {{instance}}", false}}, lines{unit: "pps", stacked: true}},
		{36, "Encrypted",
			"ESP packets a second between each host chosen and each other node, of all encrypted networks. The network chosen does not apply.", 12, 8,
			[]query{{`sum by (instance, local, peer, direction) (rate(` + packets + `{instance=~"$instance", encapsulation="esp"}[$__rate_interval]))`,
				"{{direction}} {{local}} {{peer}} {{instance}}", false}}, lines{unit: "pps"}},
	}
}

func overlayTables() []panel {
	by := "max by (instance, network, table) "
	return []panel{
		{41, "Endpoints that a host knows the way to, and that there are",
			"fdb: by which node a container's hardware address is reached. neighbour: the hardware address of an IP address. missing is what should " +
				"be there and is not: these containers cannot be reached from that host. For a moment after a start it is normal. docker service " +
				"update --force has the entries written anew.", 16, 9,
			[]query{
				{by + "(bridgewatch_overlay_expected_entries{" + here + "} - bridgewatch_overlay_entries{" + here + "})", "", true},
				{by + "(bridgewatch_overlay_entries{" + here + "})", "", true},
				{by + "(bridgewatch_overlay_expected_entries{" + here + "})", "", true},
			},
			table{sort: "missing", none: "No overlay network has containers here.", columns: []column{
				{of: "network"}, {of: "table"}, {of: "Value #A", title: "missing", unit: "none", gauge: true},
				{of: "Value #B", title: "there", unit: "none"}, {of: "Value #C", title: "expected", unit: "none"}, {of: "instance"},
			}}},
		{42, "Addresses left on a network",
			"How many addresses are free, where the engine tells (managers, Docker 28 and newer): the ten networks with fewest.", 8, 9,
			[]query{{`bottomk(10, min by (instance, network) (bridgewatch_network_addresses_available{` + here + `}))`, "{{network}} {{instance}}", false}},
			lines{unit: "none", whole: true}},
		{43, "Entries that were missed",
			"How often a VXLAN device looked for an entry that is not there. The engine does not fill it in then, so that the packet is lost.", 12, 8,
			[]query{{`sum by (instance, network, table) (rate(bridgewatch_overlay_misses_total{` + here + `}[$__rate_interval]))`,
				"{{table}} {{network}} {{instance}}", false}}, lines{unit: "ops"}},
		{44, "Entries that are missing",
			"What should be there and is not, over time. A step that stays: news of a container has not come, see the page about the Swarm.", 12, 8,
			[]query{{by + `(clamp_min(bridgewatch_overlay_expected_entries{` + here + `} - bridgewatch_overlay_entries{` + here + `}, 0))`,
				"{{table}} {{network}} {{instance}}", false}}, lines{unit: "none", whole: true}},
	}
}

func overlayDrops() []panel {
	dropped := `bridgewatch_overlay_dropped_packets_total{` + here + `}`
	return []panel{
		{51, "Drops by cause",
			"What the hosts chosen dropped on its way between nodes. A cause that makes a finding has a runbook of its name.", 12, 9,
			[]query{{`sum by (cause, direction) (rate(` + dropped + `[$__rate_interval]))`, "{{cause}} {{direction}}", false}}, lines{unit: "pps", stacked: true}},
		{52, "Somebody else's packets on the port",
			"Packets on the data path's port that are no VXLAN, by sender. ~other is what came after the first sixteen.", 12, 9,
			[]query{{`topk(10, sum by (instance, peer) (rate(bridgewatch_overlay_malformed_packets_total{instance=~"$instance"}[$__rate_interval])))`,
				"{{peer}} {{instance}}", false}}, lines{unit: "pps"}},
		{53, "Which peer, which network, why",
			"One line for each in the range shown. tx: on its way to the peer; rx: from it. Without a peer: nobody knows whom it was for.", 24, 9,
			[]query{{`sum by (instance, network, vni, local, peer, encapsulation, direction, cause, reason) (increase(` + dropped + `[$__range])) > 0`, "", true}},
			table{sort: "packets", none: "The nodes dropped nothing.", columns: []column{
				{of: "network"}, {of: "vni", title: "VNI"}, {of: "local"}, {of: "peer"}, {of: "direction"},
				{of: "Value", title: "packets", unit: "short", gauge: true}, {of: "cause"}, {of: "reason"}, {of: "encapsulation"}, {of: "instance"},
			}}},
		findingsAbout(54, "Packets too large for the way (MTU)", "overlay-mtu|mtu-route|mtu-bridge|mtu-mismatch"),
	}
}
