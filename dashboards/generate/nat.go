// SPDX-License-Identifier: Apache-2.0

package main

// natPage is where the signal is explained. Its headings are called as the mechanisms are.
const natPage = "https://github.com/bridgewatch/bridgewatch/blob/main/docs/signals/nat.md"

func nat() page {
	return page{
		uid:   "bridgewatch-nat",
		title: "Bridgewatch nat: who is translated, and whose address is lost",
		description: "Every new translated connection, every connection to a published port, and whether the container sees its client. " +
			"bridgewatch nat on the host names the clients. The page docs/signals/nat.md says what is counted and what is not.",
		variables: append(who(), choice("port", "Published port", "Port of the host that leads to a container.",
			`label_values(bridgewatch_published_attempts_total{instance=~"$instance"}, published_port)`)),
		marks: []object{ruleChanges(), containerStarts()},
		rows: []row{
			{panels: natNumbers()},
			{id: 10, title: "Who loses its clients' addresses", panels: lostAddresses()},
			{id: 20, title: "Published ports", panels: publishedPorts()},
			{id: 30, title: "Translations", panels: translations()},
			{id: 40, title: "Connection tracking", panels: tracking()},
			{id: 50, title: "What leaves untranslated", panels: untranslated()},
			{id: 60, title: "What is wrong", panels: []panel{findingsAbout(61, "Findings about NAT that stand", natFindings)}},
		},
	}
}

// natFindings are what can be wrong with translation, as a regular expression.
const natFindings = "mesh-snat|userland-proxy-src|ipv6-proxy-src|masq-src|broad-masq|iptables-false|firewall-flush|snat-exhaustion|" +
	"dns-5s-race|conntrack-full|stale-udp-ct|ct-invalid-rst|unnatted-rst-leak|hairpin|localnet|port-conflict|proxy-process-storm"

// ruleChanges marks when the host's rules were changed, by Docker or somebody else.
func ruleChanges() object {
	return mark("Rules changed", "orange", "NAT or filter rules changed on {{instance}}",
		`sum by (instance) (increase(bridgewatch_ruleset_changes_total{instance=~"$instance", scope="host"}[2m])) > 0`)
}

func containerStarts() object {
	return mark("Container starts", "green", "{{stack}} {{service}} {{container}} started on {{instance}}",
		`max by (instance, stack, service, container) (bridgewatch_container_start_time_seconds{`+chosen+`}) > time() - 60`)
}

const ported = chosen + `, published_port=~"$port"`

// arrived are the answered connections to what is chosen, with more matchers.
func arrived(more string) string {
	return "bridgewatch_published_connections_total{" + ported + ", " + more + "}"
}

// tried are the attempts at what is chosen.
func tried() string { return "bridgewatch_published_attempts_total{" + ported + "}" }

// byPort sums up by the published port and whose it is.
const byPort = "sum by (instance, stack, service, container, published_port, protocol) "

const portLegend = "{{published_port}}/{{protocol}} {{container}} {{stack}} {{service}} {{instance}}"

func natNumbers() []panel {
	remote := arrived(`client="remote"`)
	return []panel{
		{1, "Clients seen as they are",
			"Share of remote clients' connections whose address the container sees. Below 100 %: the table below says whose are lost, and by what. " +
				"Empty: nobody came.", 5, 4,
			[]query{{`sum(rate(` + arrived(`client="remote", source_address="preserved"`) + `[$__rate_interval])) / sum(rate(` + remote + `[$__rate_interval]))`,
				"preserved", false}},
			number{unit: "percentunit", colour: "red", steps: []step{{0.5, "orange"}, {0.95, "green"}}, graph: true, none: "nobody came"}},
		{2, "Clients' addresses lost",
			"Connections of remote clients in this range whose container sees another address than theirs.", 5, 4,
			[]query{{`sum(increase(` + arrived(`client="remote", source_address="lost"`) + `[$__range]))`, "lost", true}},
			number{unit: "short", colour: "green", steps: []step{{1, "orange"}}, none: "0"}},
		{3, "Attempts that nobody answers",
			"Connections a second to published ports for which no answer left. Above zero for long: the panel Attempts that nobody answers says where. " +
				"UDP servers that never answer are in it.", 5, 4,
			[]query{{`clamp_min(sum(rate(` + tried() + `[$__rate_interval])) - (sum(rate(bridgewatch_published_connections_total{` + ported +
				`}[$__rate_interval])) or vector(0)), 0)`, "unanswered", false}},
			number{unit: "cps", colour: "green", steps: []step{{1, "orange"}}, graph: true}},
		{4, "Translated connections",
			"New translated connections a second, each once, in all namespaces.", 5, 4,
			[]query{{`sum(rate(bridgewatch_nat_translations_total{` + chosen + `}[$__rate_interval]))`, "translated", false}},
			number{unit: "cps", colour: "blue", graph: true}},
		{5, "Changes of rules",
			"How often the hosts' nftables rules were changed in this range, by Docker or by somebody else. The graphs have a mark at each.", 4, 4,
			[]query{{`sum(increase(bridgewatch_ruleset_changes_total{instance=~"$instance", scope="host"}[$__range]))`, "changes", true}},
			number{unit: "short", colour: "blue", none: "0"}},
	}
}

func lostAddresses() []panel {
	lost := `increase(` + arrived(`client="remote", source_address="lost"`) + `[$__range])`
	remote := `increase(` + arrived(`client="remote"`) + `[$__range])`
	return []panel{
		{11, "Whose clients' addresses are lost, and by what",
			"One line for each port and mechanism in the range shown. lost is the number of remote clients' connections, share that of all that " +
				"came to the port. Click the mechanism for how it comes about and what keeps the address. A masquerade or a mesh that somebody " +
				"wants is nothing wrong: the alert is about ports that saw their clients before, or are labelled " +
				"bridgewatch.source-address=required.", 24, 9,
			[]query{
				{`sum by (instance, stack, service, container, published_port, protocol, mechanism) (` + lost + `) > 0`, "", true},
				{`sum by (instance, stack, service, container, published_port, protocol, mechanism) (` + lost + `) / ` +
					`on (instance, stack, service, container, published_port, protocol) group_left () ` + byPort + `(` + remote + `) > 0`, "", true},
			},
			table{sort: "lost", none: "Every container saw its clients.", columns: []column{
				{of: "stack"}, {of: "service"}, {of: "container"}, {of: "published_port", title: "port"}, {of: "protocol"},
				{of: "mechanism", link: link{"How it comes about", natPage + "#${__value.raw}"}},
				{of: "Value #A", title: "lost", unit: "short", gauge: true}, {of: "Value #B", title: "share", unit: "percentunit"}, {of: "instance"},
			}}},
		{12, "Share of remote clients seen as they are",
			"Of each port, the ten with the lowest share. A line that falls: something has changed at that moment; see the marks. Below the dashed " +
				"line for ten minutes alerts, if it was at 95 % within the last week.", 12, 9,
			[]query{{`bottomk(10, ` + byPort + `(rate(` + arrived(`client="remote", source_address="preserved"`) + `[$__rate_interval])) / ` +
				byPort + `(rate(` + arrived(`client="remote"`) + `[$__rate_interval])))`, portLegend, false}},
			lines{unit: "percentunit", max: 1, alarm: 0.5}},
		{13, "When addresses were lost",
			"Ports to which remote clients came under another address than their own. Where it begins at a mark, that is what did it.", 12, 9,
			[]query{{`sum by (instance, stack, service, container, published_port, protocol, mechanism) (rate(` +
				arrived(`client="remote", source_address="lost"`) + `[$__rate_interval])) > bool 0`, "{{mechanism}} " + portLegend, false}},
			states{on: state{"lost", "orange"}, off: state{"", "transparent"}}},
	}
}

func publishedPorts() []panel {
	return []panel{
		{21, "Attempts and connections",
			"Connections a second to all published ports chosen: opened, and answered. The two lines lie on each other while all is well. If they " +
				"part at a mark, that change of rules or that deploy has broken something.", 12, 9,
			[]query{
				{`sum(rate(` + tried() + `[$__rate_interval]))`, "attempts", false},
				{`sum(rate(bridgewatch_published_connections_total{` + ported + `}[$__rate_interval]))`, "connections", false},
			}, lines{unit: "cps"}},
		{22, "Attempts that are answered",
			"Of each port, the share of attempts that were answered: the ten with the lowest. 0 %: nobody listens, or nothing leads there any more. " +
				"UDP servers that never answer are at 0 % too.", 12, 9,
			[]query{{`bottomk(10, ` + byPort + `(rate(bridgewatch_published_connections_total{` + ported + `}[$__rate_interval])) / ` +
				byPort + `(rate(` + tried() + `[$__rate_interval])))`, portLegend, false}},
			lines{unit: "percentunit"}},
		{23, "Attempts that nobody answers",
			"Connections a second without an answer: the ten ports with most. A scanner leaves none at a port that is open.", 12, 9,
			[]query{{`topk(10, ` + byPort + `(rate(` + tried() + `[$__rate_interval])) - (` + byPort +
				`(rate(bridgewatch_published_connections_total{` + ported + `}[$__rate_interval])) or 0 * ` + byPort + `(rate(` + tried() +
				`[$__rate_interval]))) > 0)`, portLegend, false}},
			lines{unit: "cps"}},
		{24, "Busiest ports",
			"Answered connections a second: the ten ports with most.", 12, 9,
			[]query{{`topk(10, ` + byPort + `(rate(bridgewatch_published_connections_total{` + ported + `}[$__rate_interval])))`, portLegend, false}},
			lines{unit: "cps", stacked: true}},
		{25, "Remote clients, by what becomes of their address",
			"none: the container sees it. Any other mechanism: it sees an address of the host instead; docs/signals/nat.md explains each.", 12, 9,
			[]query{{`sum by (mechanism) (rate(` + arrived(`client="remote"`) + `[$__rate_interval]))`, "{{mechanism}}", false}},
			lines{unit: "cps", stacked: true}},
		{26, "Clients by kind",
			"remote, the host itself, or a container of the host. The host's own connections lose their address by design: health checks do, and " +
				"hurt nobody.", 12, 9,
			[]query{{`sum by (client, source_address) (rate(` + arrived(`client!=""`) + `[$__rate_interval]))`, "{{client}} {{source_address}}", false}},
			lines{unit: "cps", stacked: true}},
	}
}

func translations() []panel {
	translated := `bridgewatch_nat_translations_total{` + chosen + `}`
	return []panel{
		{31, "Translations by kind",
			"masquerade, snat: out of the host under its address. dnat: to a published port. redirect: to a port of the namespace itself. ipvs: by a " +
				"virtual server of a Swarm service. embedded_dns: lookups that containers send to Docker's resolver.", 12, 9,
			[]query{{`sum by (kind) (rate(` + translated + `[$__rate_interval]))`, "{{kind}}", false}}, lines{unit: "cps", stacked: true}},
		{32, "Translations by protocol",
			"The same by protocol. Much UDP is lookups, mostly; the panel beside tells.", 12, 9,
			[]query{{`sum by (protocol) (rate(` + translated + `[$__rate_interval]))`, "{{protocol}}", false}}, lines{unit: "cps", stacked: true}},
		{33, "Who is translated most",
			"The ten containers with most new translated connections. Who opens hundreds a second outwards should keep its connections: each takes a " +
				"port and an entry for a while.", 24, 9,
			[]query{{`topk(10, sum by (instance, stack, service, container, kind) (rate(` + translated + `[$__rate_interval])))`,
				"{{kind}} {{container}} {{stack}} {{service}} {{instance}}", false}}, lines{unit: "cps", stacked: true}},
	}
}

func tracking() []panel {
	return []panel{
		{41, "Tracked connections, and how many may be",
			"Entries of each host's own table, and its limit. At the limit the kernel refuses new connections.", 12, 8,
			[]query{
				{`sum by (instance) (bridgewatch_conntrack_entries{instance=~"$instance", scope="host"})`, "{{instance}}", false},
				{`max by (instance) (bridgewatch_conntrack_limit{instance=~"$instance", scope="host"})`, "limit of {{instance}}", false},
			}, lines{unit: "none", whole: true}},
		{42, "Fill of the tables",
			"Each namespace has entries of its own, and all have the limit of the host: the ten fullest. Near the dashed line: find who opens so many " +
				"connections, or raise net.netfilter.nf_conntrack_max.", 12, 8,
			[]query{{`topk(10, max by (instance, stack, service, container, scope) (bridgewatch_conntrack_entries{` + chosen + `} / ` +
				`bridgewatch_conntrack_limit{` + chosen + `}))`, "{{scope}} {{container}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "percentunit", max: 1, alarm: 0.85}},
		{43, "What connection tracking could not do",
			"insert_failed: two packets wanted the same entry, or no source port was free. drop: lost for it, or for want of room. early_drop: another " +
				"connection was thrown out to make room. invalid: belongs to no connection, and is not translated.", 12, 8,
			[]query{{`topk(20, sum by (instance, stack, service, container, scope, event) (rate(bridgewatch_conntrack_failures_total{` + chosen +
				`}[$__rate_interval])))`, "{{event}} {{scope}} {{container}} {{stack}} {{service}} {{instance}}", false}}, lines{unit: "cps"}},
		{44, "Source ports in use towards one destination",
			"Of the ports that an address of the host has towards one destination, how many are taken: the highest of each host. At 100 % no further " +
				"connection gets there. bridgewatch doctor names the destination.", 12, 8,
			[]query{{`max by (instance, protocol) (bridgewatch_snat_ports_used{instance=~"$instance"} / bridgewatch_snat_ports_limit{instance=~"$instance"})`,
				"{{protocol}} {{instance}}", false}}, lines{unit: "percentunit", max: 1, alarm: 0.85}},
	}
}

func untranslated() []panel {
	by := func(id int, metric, title, description string) panel {
		return panel{id, title, description, 12, 8,
			[]query{{`topk(10, sum by (instance, stack, service, container, network) (rate(` + metric + `{` + chosen + `}[$__rate_interval])))`,
				"{{container}} {{network}} {{stack}} {{service}} {{instance}}", false}}, lines{unit: "pps"}}
	}
	return []panel{
		by(51, "bridgewatch_unnatted_egress_packets_total", "Packets that left with a private address",
			"No answer finds its way back to it: Docker's NAT rules are missing, or exempt the network. Leftovers are in it."),
		by(52, "bridgewatch_unnatted_leftover_packets_total", "Leftovers of them",
			"RST and FIN of connections that NAT has forgotten. Nobody waits for them. If all that leaves is this, nothing is wrong."),
	}
}
