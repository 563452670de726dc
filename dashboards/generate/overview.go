// SPDX-License-Identifier: Apache-2.0

package main

func overview() page {
	return page{
		uid:   "bridgewatch-overview",
		title: "Bridgewatch overview: what is wrong, who loses what, who talks",
		description: "What holds on every Docker host, whom it concerns and what to do. Prometheus must scrape the agents with " +
			"honor_labels: true, as scrape.yml does; else the labels service and container may arrive under other names and this " +
			"page stays empty.",
		variables: append(who(), kinds()),
		rows: []row{
			{panels: overviewNumbers()},
			{id: 32, title: "What is wrong", panels: []panel{findingsAbout(33, "Findings that stand", ""), findingsTimeline()}},
			{id: 12, title: "Who loses what", panels: overviewLosses()},
			{id: 40, title: "Who is not told where others are", panels: []panel{failedLookups(41, asked), slowLookups(42, asked)}},
			{id: 50, title: "What nodes lose between them", panels: []panel{worstPath(51, 6, ""), pathLossOverTime(52, 18, "")}},
			{id: 6, title: "Who talks", panels: []panel{receivers(7), senders(8), conversations(9)}},
			{id: 19, title: "Can I trust a zero?", panels: []panel{signals(20), docker(21)}},
		},
	}
}

func overviewNumbers() []panel {
	return []panel{
		{1, "Agents up",
			"Agents that answered the last scrape, and agents seen at any time in the range shown. If the second number is larger, a " +
				"host went blind: look at the Prometheus page Status, Targets, then at the agent's log on that host.",
			4, 4, []query{
				{`count(bridgewatch_build_info{instance=~"$instance"})`, "up", false},
				{`count(count by (instance) (last_over_time(bridgewatch_build_info{instance=~"$instance"}[$__range])))`, "seen in this range", true},
			}, number{unit: "none", colour: "blue", named: true}},
		{30, "Critical findings",
			"Findings that users feel, over the hosts chosen. The table below names them. The stack and service chosen do not apply.",
			4, 4, []query{{`count(bridgewatch_finding{instance=~"$instance", severity="critical"} == 1) or vector(0)`, "critical", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}, graph: true}},
		{31, "Warnings",
			"Findings that deserve a ticket, over the hosts chosen. The table below names them. The stack and service chosen do not apply.",
			4, 4, []query{{`count(bridgewatch_finding{instance=~"$instance", severity="warning"} == 1) or vector(0)`, "warnings", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "orange"}}, graph: true}},
		{4, "Packets lost to faults",
			"Packets a second that the kernel dropped although nobody asked for it (kind fault). Above zero: the table of losses says " +
				"which container, on which network, for what reason. At zero: the last row says whether that zero can be trusted.",
			4, 4, []query{{`sum(rate(bridgewatch_dropped_packets_total{` + chosen + `, kind="fault"}[$__rate_interval]))`, "lost", false}},
			number{unit: "pps", colour: "green", steps: []step{{0.001, "orange"}, {1, "red"}}, graph: true}},
		{3, "Packets",
			"Packets a second through container interfaces, received and sent together. A packet between two containers counts once for " +
				"each of them. Zero while containers talk means that the flow signal is off: see the panel Signals.",
			4, 4, []query{{`sum(rate(bridgewatch_packets_total{` + ofContainers + `}[$__rate_interval]))`, "packets", false}},
			number{unit: "pps", colour: "blue", graph: true}},
		{2, "Containers watched",
			"Running containers that the agents know by name. If a container that runs is not among them, look at the panel Docker below " +
				"and at Devices watched on the page about the agent.",
			2, 4, []query{{`count(bridgewatch_container_info{` + chosen + `})`, "containers", false}},
			number{unit: "none", colour: "blue"}},
		{5, "Signals off",
			"Signals that could not run, over all agents. Above zero: the panel Signals names them with the reason; bridgewatch check on " +
				"that host says what would change it. What an off signal would count is missing from this page.",
			2, 4, []query{{`sum(1 - bridgewatch_signal_enabled{instance=~"$instance"})`, "off", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}}},
	}
}

func findingsTimeline() panel {
	return panel{34, "Findings over time",
		"Since when, and how often. A finding that begins where an agent started was there before: the agent did not look. Findings " +
			"of severity info are left out.",
		24, 8, []query{{`max by (instance, stack, service, container, network, id) (bridgewatch_finding{` + concerned +
			`, severity=~"critical|warning"})`, "{{id}} {{stack}} {{service}} {{container}} {{network}} {{instance}}", false}},
		states{on: state{"stands", "orange"}, off: state{"", "transparent"}}}
}

func overviewLosses() []panel {
	return []panel{
		lossTable(13),
		{15, "Drops by cause (kind: $kind)",
			"What the drops mean in Docker's terms. A cause has the same name on every kernel: build alerts on it, not on the reason. The " +
				"page docs/signals/drop.md explains each; a cause that makes a finding has a runbook of its name.",
			12, 9, []query{{`sum by (cause) (rate(bridgewatch_dropped_packets_total{` + chosen + `, kind=~"$kind"}[$__rate_interval]))`, "{{cause}}", false}},
			lines{unit: "pps", stacked: true}},
		{17, "Drops by kind",
			"Network or application? fault: the network lost it. application: a closed port or a full socket, so look at the program. " +
				"policy: a rule that isolates networks did its work. benign: noise that every host has. Choose a kind above to see who it is.",
			12, 9, []query{{`sum by (kind) (rate(bridgewatch_dropped_packets_total{` + chosen + `}[$__rate_interval]))`, "{{kind}}", false}},
			lines{unit: "pps", stacked: true}},
		{14, "Drops by container (kind: $kind)",
			"The ten containers that lose most packets. One line alone: that container, or its service. All lines together: the host or " +
				"its uplink. The table above says why.",
			24, 9, []query{{`topk(10, sum by (instance, stack, service, container) (rate(bridgewatch_dropped_packets_total{` + chosen +
				`, kind=~"$kind"}[$__rate_interval])))`, "{{container}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "pps", stacked: true}},
	}
}
