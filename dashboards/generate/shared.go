// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/bridgewatch/bridgewatch/enrich/findings"

// Panels that more than one page has.

func receivers(id int) panel {
	return panel{id, "Containers that receive most",
		"The ten containers that receive most bytes, as the container sees it, with the Ethernet header. An unexpected name: find its " +
			"partner in Top conversations. A line that ends: the container is gone, or see the panel Signals.",
		12, 9, []query{{`topk(10, sum by (instance, stack, service, container) (rate(bridgewatch_bytes_total{` + ofContainers +
			`, direction="rx"}[$__rate_interval])))`, "{{container}} {{stack}} {{service}} {{instance}}", false}},
		lines{unit: "Bps"}}
}

func senders(id int) panel {
	return panel{id, "Containers that send most",
		"The ten containers that send most bytes, as the container sees it, with the Ethernet header. An unexpected name: find its " +
			"partner in Top conversations. A line that ends: the container is gone, or see the panel Signals.",
		12, 9, []query{{`topk(10, sum by (instance, stack, service, container) (rate(bridgewatch_bytes_total{` + ofContainers +
			`, direction="tx"}[$__rate_interval])))`, "{{container}} {{stack}} {{service}} {{instance}}", false}},
		lines{unit: "Bps"}}
}

func conversations(id int) panel {
	return panel{id, "Top conversations",
		"Who sends to whom: the fifty largest conversations, averaged over the range shown. ~host is the Docker host itself, ~external " +
			"everything outside it, ~other what did not fit into the table of conversations. A container without a service stands with " +
			"its own name. A pair that should not talk: take one of the two off that network.",
		24, 9, []query{{`topk(50, sum by (instance, source_stack, source_service, destination_stack, destination_service, network, protocol) (` +
			`rate(bridgewatch_conversation_bytes_total{instance=~"$instance", source_stack=~"$stack", source_service=~"$service"}[$__range]) or ` +
			`rate(bridgewatch_conversation_bytes_total{instance=~"$instance", destination_stack=~"$stack", destination_service=~"$service"}[$__range])))`,
			"", true}},
		table{sort: "bytes per second", none: "Nobody talks.", columns: []column{
			{of: "source_stack", title: "from stack"}, {of: "source_service", title: "from service"},
			{of: "destination_stack", title: "to stack"}, {of: "destination_service", title: "to service"},
			{of: "network"}, {of: "protocol"}, {of: "instance"},
			{of: "Value", title: "bytes per second", unit: "Bps"},
		}}}
}

func lossTable(id int) panel {
	by := "sum by (instance, stack, service, container, network, scope, device_kind, direction, cause, reason, kind) "
	return panel{id, "Which container, on which network, loses what, and why (kind: $kind)",
		"One line for each loss in the range shown, the largest first. Identity is the victim; scope is the kind of namespace where it " +
			"happened; direction is as the victim sees it. cause is the meaning, reason is the kernel's own word. A cause that makes a " +
			"finding has a runbook: click it. A line without a container belongs to the host. The counts are Prometheus's estimate over " +
			"the range; /metrics has them exactly.",
		24, 10, []query{
			{by + `(increase(bridgewatch_dropped_packets_total{` + chosen + `, kind=~"$kind"}[$__range])) > 0`, "", true},
			{by + `(increase(bridgewatch_dropped_bytes_total{` + chosen + `, kind=~"$kind"}[$__range])) > 0`, "", true},
		},
		table{sort: "packets lost", none: "Nothing was lost.", columns: []column{
			{of: "stack"}, {of: "service", link: toDrops()}, {of: "container"}, {of: "network"},
			{of: "Value #A", title: "packets lost", unit: "short", gauge: true}, {of: "Value #B", title: "bytes lost", unit: "bytes"},
			{of: "cause", link: link{"Runbook", findings.Runbook("${__value.raw}")}}, {of: "reason"}, {of: "direction"}, {of: "scope"},
			{of: "device_kind", title: "device"}, {of: "kind"}, {of: "instance"},
		}}}
}

func failedLookups(id int, matchers string) panel {
	return panel{id, "Share of lookups that fail",
		"Of the lookups of a service at a leg, those that nobody answered, or with a code that says that something is wrong: the ten services " +
			"with most. Above the dashed line for ten minutes pages, if it was below 5 % within the last week. All services of a host at once: " +
			"the servers that it asks.",
		12, 9, []query{{`topk(10, ` + failedShare(byService, matchers) + `)`, serviceLegend, false}},
		lines{unit: "percentunit", alarm: 0.2}}
}

func slowLookups(id int, matchers string) panel {
	return panel{id, "Share of answers that take more than a second",
		"Of the answers to a service at a leg: the ten services with most. Above the dashed line for long makes a ticket, which counts lookups " +
			"without an answer too. Mostly a server that is silent and is asked first: see the page about dns.",
		12, 9, []query{{`topk(10, ` + slowShare(byService, matchers) + `)`, serviceLegend, false}},
		lines{unit: "percentunit", alarm: 0.05}}
}

func signals(id int) panel {
	return panel{id, "Signals",
		"Each signal of each agent: on, or off with the reason. What an off signal counts is missing, not zero. bridgewatch check on the " +
			"host says what would bring it back.",
		12, 7, []query{{`min by (instance, signal, reason) (bridgewatch_signal_enabled{instance=~"$instance"})`, "{{signal}} {{instance}} {{reason}}", false}},
		states{on: state{"on", "green"}, off: state{"off", "red"}}}
}

func docker(id int) panel {
	return panel{id, "Docker",
		"Whether the agent hears the Docker engine. While it does not, packets are still counted, but new containers have no names. Check " +
			"that the engine runs and that the agent may read its socket.",
		12, 7, []query{{`min by (instance) (bridgewatch_docker_up{instance=~"$instance"})`, "{{instance}}", false}},
		states{on: state{"connected", "green"}, off: state{"not connected", "red"}}}
}

// concerned are the matchers for findings: those of the stacks and services chosen, and those of the host.
const concerned = `instance=~"$instance", stack=~"$stack|", service=~"$service|"`

// findingsAbout is the table of findings, of all or of those that a regular expression names.
func findingsAbout(id int, title, ids string) panel {
	which := concerned
	if ids != "" {
		which += `, id=~"` + ids + `"`
	}
	by := "max by (instance, stack, service, container, network, scope, id) "
	// Of a severity, as a number to sort by.
	rank := func(severity, rank string) string {
		return `bridgewatch_finding{` + which + `, severity="` + severity + `"} * ` + rank
	}
	return panel{id, title,
		"What is wrong now, the gravest first. Click a finding for its runbook: symptom, reason, remedy, and the command that " +
			"confirms it. A finding stays for two minutes after its evidence has gone. One without a container concerns the whole host, " +
			"whatever stack and service are chosen. bridgewatch doctor on the host shows the evidence in numbers.",
		24, 9, []query{
			{by + "(" + rank("critical", "3") + " or " + rank("warning", "2") + " or " + rank("info", "1") + ")", "", true},
			{by + `(bridgewatch_finding_start_timestamp_seconds{` + which + `}) * 1000`, "", true},
		}, table{
			sort: "severity",
			none: "No finding stands.",
			columns: []column{
				{of: "Value #A", title: "severity", values: []value{{"3", "critical", "red"}, {"2", "warning", "orange"}, {"1", "info", "blue"}}},
				{of: "id", title: "finding", link: link{"Runbook", findings.Runbook("${__value.raw}")}},
				{of: "stack"}, {of: "service", link: toDrops()}, {of: "container"}, {of: "network"}, {of: "scope"}, {of: "instance"},
				{of: "Value #B", title: "since", unit: "dateTimeFromNow"},
			},
		}}
}
