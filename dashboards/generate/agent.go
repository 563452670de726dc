// SPDX-License-Identifier: Apache-2.0

package main

func agent() page {
	return page{
		uid:   "bridgewatch-agent",
		title: "Bridgewatch agent: what it costs, and whether a zero can be trusted",
		description: "The agents themselves: what runs, what is missing from their counts, and what they cost the host. " +
			"The page docs/agent.md says what to do about each of their alerts. The stack and service chosen apply to nothing here.",
		variables: who(),
		rows: []row{
			{panels: agentNumbers()},
			{id: 10, title: "What runs", panels: agentRuns()},
			{id: 20, title: "What is missing", panels: agentLosses()},
			{id: 30, title: "What it costs", panels: agentCosts()},
			{id: 40, title: "What it holds", panels: agentHolds()},
		},
	}
}

func agentNumbers() []panel {
	return []panel{
		{1, "Agents up", "Agents that answered the last scrape.", 6, 4,
			[]query{{`count(bridgewatch_build_info{instance=~"$instance"})`, "up", false}}, number{unit: "none", colour: "blue", graph: true}},
		{2, "Signals off", "Signals that could not run, over all agents. What they would count is missing, not zero.", 6, 4,
			[]query{{`sum(1 - bridgewatch_signal_enabled{instance=~"$instance"})`, "off", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}}},
		{3, "Records lost in this range", "What the agents could not record in full, over all signals and places. The row What is missing has the places.",
			6, 4, []query{{`sum(increase(bridgewatch_lost_records_total{instance=~"$instance", signal!="otlp"}[$__range]))`, "lost", true}},
			number{unit: "short", colour: "green", steps: []step{{1, "orange"}}, none: "0"}},
		{4, "Processor time", "Of one core, by all agents together, without what their kernel programs take.", 6, 4,
			[]query{{`sum(rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval]) and on (instance, job) bridgewatch_build_info)`, "cores", false}},
			number{unit: "percentunit", colour: "blue", graph: true}},
	}
}

func agentRuns() []panel {
	return []panel{
		signals(11), docker(12),
		{13, "Versions", "Which version runs where. Load the rules and dashboards of the same version: bridgewatch export writes them.", 12, 7,
			[]query{{`max by (instance, version, revision, goversion) (bridgewatch_build_info{instance=~"$instance"})`, "", true}},
			table{sort: "instance", none: "No agent answers.", columns: []column{
				{of: "instance"}, {of: "version"}, {of: "revision"}, {of: "goversion", title: "Go"}, {of: "Value", title: "up", values: []value{{"1", "yes", "green"}}},
			}}},
		{14, "Packets seen by each signal",
			"All packets that a signal counted, whoever owns them. If the line of flow is flat at zero while containers talk, zeros elsewhere " +
				"are not to be trusted.", 12, 7,
			[]query{{`sum by (instance, signal) (rate(bridgewatch_observed_packets_total{instance=~"$instance"}[$__rate_interval]))`,
				"{{signal}} {{instance}}", false}}, lines{unit: "pps"}},
		{15, "Devices watched",
			"Network devices that the agent counts on, by kind. The veth line should follow the number of running containers with a network.", 12, 8,
			[]query{{`sum by (instance, device_kind) (bridgewatch_attached_devices{instance=~"$instance"})`, "{{device_kind}} {{instance}}", false}},
			lines{unit: "none", whole: true}},
		{16, "Findings raised",
			"How often each finding began in an hour. One that comes and goes all the time: its cause does too, or its threshold lies in the " +
				"middle of what is normal here; then accept it with --findings.ignore.", 12, 8,
			[]query{{`sum by (instance, id, severity) (increase(bridgewatch_findings_raised_total{instance=~"$instance"}[1h])) > 0`,
				"{{id}} {{severity}} {{instance}}", false}}, lines{unit: "none"}},
	}
}

func agentLosses() []panel {
	return []panel{
		{21, "Records lost by the agent",
			"What the agent itself could not record in full, by place. recursion, lost, ring_full: missing from all counts. table_full, " +
				"unparsed: counted, but perhaps without its owner; see Fill of the kernel tables. The pages in docs/signals explain each place.",
			12, 8, []query{{`sum by (instance, signal, place) (rate(bridgewatch_lost_records_total{instance=~"$instance", signal!="otlp"}[$__rate_interval]))`,
				"{{signal}} {{place}} {{instance}}", false}}, lines{unit: "cps"}},
		{22, "Packets without an owner",
			"Packets counted in a namespace or on a device that belongs neither to the host nor to a container: made by hand, or by another " +
				"engine. They have scope unknown among the drops. A steady line although there is no such thing: see the panel Docker.",
			12, 8, []query{{`sum by (instance, signal) (rate(bridgewatch_unattributed_packets_total{instance=~"$instance"}[$__rate_interval]))`,
				"{{signal}} {{instance}}", false}}, lines{unit: "pps"}},
		{23, "Series that did not fit",
			"How often a count went to ~other because a budget of series was used up. Totals stay right, details are lost. " +
				"bridgewatch_dropped_packets_total alone: a container with more kinds of drop than one may have. Others: raise " +
				"--metrics.series-limit, or set --metrics.container-label=service.",
			12, 8, []query{{`sum by (instance, metric) (rate(bridgewatch_series_overflow_total{instance=~"$instance"}[$__rate_interval]))`,
				"{{metric}} {{instance}}", false}}, lines{unit: "cps"}},
		{24, "Lost on the way to a collector (OTLP)",
			"Data points and events that the OpenTelemetry collector did not get. Empty unless the agent is told to export. metrics_export: made " +
				"good by the next export that arrives. logs_export, logs_queue_full: these events are gone.",
			12, 8, []query{{`sum by (instance, place) (rate(bridgewatch_lost_records_total{instance=~"$instance", signal="otlp"}[$__rate_interval]))`,
				"{{place}} {{instance}}", false}}, lines{unit: "cps"}},
	}
}

func agentCosts() []panel {
	own := " and on (instance, job) bridgewatch_build_info"
	return []panel{
		{31, "Memory of the agent", "Resident memory of each agent's process. Its kernel tables come on top: see Fill of the kernel tables.", 8, 8,
			[]query{{`process_resident_memory_bytes{instance=~"$instance"}` + own, "{{instance}}", false}}, lines{unit: "bytes"}},
		{32, "Processor time of the agent",
			"Of one core, by each agent's process. What its kernel programs take is in Cost of one program run, and paid by whoever sends the packet.", 8, 8,
			[]query{{`rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval])` + own, "{{instance}}", false}}, lines{unit: "percentunit"}},
		{33, "Cost of one program run",
			"Mean time of one run of each kernel program in the last hour, from the agent's short samples, with what the measuring itself " +
				"costs. Above a microsecond: report it with the kernel version.", 8, 8,
			[]query{{`sum by (instance, program) (rate(bridgewatch_program_run_seconds_total{instance=~"$instance"}[1h])) / ` +
				`sum by (instance, program) (rate(bridgewatch_program_runs_total{instance=~"$instance"}[1h]))`, "{{program}} {{instance}}", false}},
			lines{unit: "s"}},
	}
}

func agentHolds() []panel {
	return []panel{
		{41, "Series held",
			"Series that each metric holds now: the ten largest. Compare with --metrics.series-limit. Growth without new containers: many " +
				"short-lived names; --metrics.container-label=service helps.", 12, 8,
			[]query{{`topk(10, sum by (instance, metric) (bridgewatch_series{instance=~"$instance"}))`, "{{metric}} {{instance}}", false}},
			lines{unit: "none", whole: true}},
		{42, "Fill of the kernel tables",
			"How full the kernel tables are. At 100 % new entries go to ~other of their device: totals stay right, details are lost. Near the " +
				"dashed line: find the container with very many conversations on the page about flow.", 12, 8,
			[]query{{`max by (instance, map) (bridgewatch_map_entries{instance=~"$instance"} / bridgewatch_map_capacity{instance=~"$instance"})`,
				"{{map}} {{instance}}", false}}, lines{unit: "percentunit", max: 1, alarm: 0.8}},
	}
}
