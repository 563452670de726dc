// SPDX-License-Identifier: Apache-2.0

package main

func dns() page {
	return page{
		uid:   "bridgewatch-dns",
		title: "Bridgewatch dns: who asks, who answers, and what fails",
		description: "Every lookup, on both legs: from the container to Docker's resolver (embedded) or to a server that it asks itself (direct), " +
			"and from the engine on to the world (upstream). What goes on to the world is on two legs, so that nothing here is summed over " +
			"legs. bridgewatch dns on the host shows lookups one by one. The page docs/signals/dns.md says what is counted and what is not.",
		variables: append(who(), legs()),
		marks:     []object{ruleChanges(), containerStarts()},
		rows: []row{
			{panels: dnsNumbers()},
			{id: 10, title: "What fails (leg: $resolver)", panels: failingLookups()},
			{id: 20, title: "How long it takes", panels: slowness()},
			{id: 30, title: "Servers that are asked", panels: upstreamServers()},
			{id: 40, title: "Who asks (leg: $resolver)", panels: askers()},
			{id: 50, title: "Odd and large messages", panels: oddMessages()},
			{id: 60, title: "What is wrong", panels: []panel{findingsAbout(61, "Findings about DNS that stand", dnsFindings)}},
		},
	}
}

// dnsFindings are what can be wrong with lookups, as a regular expression.
const dnsFindings = "servfail|nxdomain-wrong-name|other-network|ndots-search|upstream-blocked|alias-collision|stale-record|" +
	"nxdomain-after-rejoin|resolver-overload|resolver-nat-lost|internal-net-dns|truncation|dns-5s-race"

// legs lets the operator choose whose lookups to see. At first it is those that programs wait for.
func legs() object {
	return options("resolver", "Leg", "embedded: containers ask Docker's resolver. direct: containers, or the host, ask a server themselves. "+
		"upstream: Docker's resolver asks a server for a container. mdns, llmnr: questions to a group.",
		[]string{"embedded", "direct", "upstream", "mdns", "llmnr"}, []string{"embedded", "direct"})
}

// atLeg are the matchers for what is chosen, the leg among it.
const atLeg = chosen + `, resolver=~"$resolver"`

// asked are the legs at which programs wait for an answer.
const asked = chosen + `, resolver=~"embedded|direct"`

// ended are the lookups with these matchers that ended within a range: those that nobody answered, and those that somebody did.
func ended(matchers, function, within string) string {
	return function + `(bridgewatch_dns_timeouts_total{` + matchers + `}[` + within + `]) or ` +
		function + `(bridgewatch_dns_responses_total{` + matchers + `}[` + within + `])`
}

// failed are those of them that nobody answered, or with a code that says that something is wrong.
func failed(matchers, function, within string) string {
	return function + `(bridgewatch_dns_timeouts_total{` + matchers + `}[` + within + `]) or ` +
		function + `(bridgewatch_dns_responses_total{` + matchers + `, rcode!~"NOERROR|NXDOMAIN"}[` + within + `])`
}

// failedShare is the share of lookups that failed.
func failedShare(by, matchers string) string {
	return by + `(` + failed(matchers, "rate", "$__rate_interval") + `) / ` + by + `(` + ended(matchers, "rate", "$__rate_interval") + `)`
}

// slowShare is the share of answers that took more than a second, by classic buckets, which every Prometheus has. It writes the
// bound of a bucket as 1 or as 1.0.
func slowShare(by, matchers string) string {
	const metric = "bridgewatch_dns_lookup_duration_seconds"
	return `1 - ` + by + `(rate(` + metric + `_bucket{` + matchers + `, le=~"1|1[.]0"}[$__rate_interval])) / ` +
		by + `(rate(` + metric + `_count{` + matchers + `}[$__rate_interval]))`
}

// duration is a quantile of how long answers took.
func duration(quantile, by, matchers string) string {
	return `histogram_quantile(` + quantile + `, sum by (` + by + `, le) (rate(bridgewatch_dns_lookup_duration_seconds_bucket{` + matchers +
		`}[$__rate_interval])))`
}

const (
	byService        = "sum by (instance, stack, service, resolver) "
	serviceLegend    = "{{stack}} {{service}} {{resolver}} {{instance}}"
	byContainer      = "sum by (instance, stack, service, container, resolver) "
	containerLegend  = "{{container}} {{stack}} {{service}} {{resolver}} {{instance}}"
	byServer         = "sum by (instance, server) "
	serverLegend     = "{{server}} {{instance}}"
	upstreamQueries  = `bridgewatch_dns_upstream_queries_total{instance=~"$instance"}`
	upstreamAnswers  = `bridgewatch_dns_upstream_responses_total{instance=~"$instance"}`
	upstreamTimeouts = `bridgewatch_dns_upstream_timeouts_total{instance=~"$instance"}`
	upstreamFailures = `bridgewatch_dns_upstream_failures_total{instance=~"$instance"}`
)

// silent are the servers to which questions were given up, more than a few of all, and that answered none. That alone proves
// nothing: of several that are asked at once the slower one's answers are not counted.
func silent(modifier string) string {
	in := func(metric string) string { return byServer + `(increase(` + metric + `[$__rate_interval]))` }
	return `(` + in(upstreamTimeouts) + ` >` + modifier + ` 0.1 * ` + in(upstreamQueries) + `) unless ` + in(upstreamAnswers) + ` > 0`
}

func dnsNumbers() []panel {
	return []panel{
		{1, "Lookups",
			"Lookups a second that programs wait for: at Docker's resolver, and at servers that they ask themselves. A question that is asked " +
				"again for want of an answer is one lookup.", 5, 4,
			[]query{{`sum by (resolver) (rate(bridgewatch_dns_queries_total{` + asked + `}[$__rate_interval]))`, "{{resolver}}", false}},
			number{unit: "ops", colour: "blue", graph: true, named: true}},
		{2, "Failed",
			"Share of them that nobody answered, or with a code that says that something is wrong: any but NOERROR and NXDOMAIN. Above zero: the " +
				"row What fails says whose, and how.", 5, 4,
			[]query{{failedShare("sum by (resolver) ", asked), "{{resolver}}", false}},
			number{unit: "percentunit", colour: "green", steps: []step{{0.01, "orange"}, {0.2, "red"}}, graph: true, named: true, none: "nobody asked"}},
		{3, "Without an answer",
			"Lookups in this range that nobody answered within 5 seconds (--dns.timeout) after they were last asked.", 5, 4,
			[]query{{`sum by (resolver) (increase(bridgewatch_dns_timeouts_total{` + asked + `}[$__range]))`, "{{resolver}}", true}},
			number{unit: "short", colour: "green", steps: []step{{1, "orange"}}, named: true, none: "0"}},
		{4, "99 % of answers come within",
			"How long programs wait, but for the slowest of a hundred. Those without an answer are not in it. Docker's own names take less than " +
				"a millisecond.", 5, 4,
			[]query{{duration("0.99", "resolver", asked), "{{resolver}}", false}},
			number{unit: "s", colour: "green", steps: []step{{0.5, "orange"}, {1, "red"}}, graph: true, named: true, none: "no answers"}},
		{5, "Servers that are silent",
			"Servers outside that were asked in the last minutes and answered nothing, of the hosts chosen. The row Servers that are asked names " +
				"them. The stack and service chosen do not apply.", 4, 4,
			[]query{{`count(` + silent("") + `) or vector(0)`, "silent", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}, graph: true}},
	}
}

func failingLookups() []panel {
	by := "sum by (instance, stack, service, container, resolver, rcode) "
	how := `increase(bridgewatch_dns_responses_total{` + atLeg + `, rcode!~"NOERROR|NXDOMAIN"}[$__range]) or ` +
		`label_replace(increase(bridgewatch_dns_timeouts_total{` + atLeg + `}[$__range]), "rcode", "no answer", "", "")`
	return []panel{
		{11, "Whose lookups fail, and how",
			"One line for each container, leg and code in the range shown, the most first. share is that of the container's lookups at the leg. " +
				"SERVFAIL of the leg embedded: no server outside answered the engine, or with that. REFUSED: the server does not serve us, or " +
				"Docker's resolver has too much to do. no answer at 127.0.0.11: its rules in the container are gone. A name that does not " +
				"exist (NXDOMAIN) is no failure; findings say where it is a mistake.", 24, 9,
			[]query{
				{by + `(` + how + `) > 0`, "", true},
				{by + `(` + how + `) / on (instance, stack, service, container, resolver) group_left () ` + byContainer +
					`(` + ended(atLeg, "increase", "$__range") + `) > 0`, "", true},
			},
			table{sort: "lookups", none: "No lookup failed.", columns: []column{
				{of: "stack"}, {of: "service"}, {of: "container"}, {of: "resolver", title: "leg"}, {of: "rcode", title: "answer"},
				{of: "Value #A", title: "lookups", unit: "short", gauge: true}, {of: "Value #B", title: "share", unit: "percentunit"}, {of: "instance"},
			}}},
		failedLookups(12, atLeg),
		{13, "Lookups without an answer",
			"Lookups a second that nobody answered in time: the ten services with most. All of a host at once: its way to the servers. One alone: " +
				"its own network, or its own rules.", 12, 9,
			[]query{{`topk(10, ` + byService + `(rate(bridgewatch_dns_timeouts_total{` + atLeg + `}[$__rate_interval])))`, serviceLegend, false}},
			lines{unit: "ops"}},
		{14, "Answers by code",
			"What lookups are answered with. NXDOMAIN, no such name, is normal where search lists are in use: the row Who asks says how much of " +
				"it that is.", 12, 9,
			[]query{{`sum by (resolver, rcode) (rate(bridgewatch_dns_responses_total{` + atLeg + `}[$__rate_interval]))`, "{{rcode}} {{resolver}}", false}},
			lines{unit: "ops"}},
		{15, "Asked again",
			"How often a lookup is asked again for want of an answer: the ten services with the highest share of lookups. Each time is some " +
				"seconds of waiting, whatever comes in the end.", 12, 9,
			[]query{{`topk(10, ` + byService + `(rate(bridgewatch_dns_retries_total{` + atLeg + `}[$__rate_interval])) / ` +
				byService + `(rate(bridgewatch_dns_queries_total{` + atLeg + `}[$__rate_interval])))`, serviceLegend, false}},
			lines{unit: "percentunit"}},
	}
}

func slowness() []panel {
	quantiles := func(id int, leg, title, description string) panel {
		at := chosen + `, resolver="` + leg + `"`
		return panel{id, title, description, 8, 9, []query{
			{duration("0.5", "resolver", at), "half, {{resolver}}", false},
			{duration("0.95", "resolver", at), "95 %, {{resolver}}", false},
			{duration("0.99", "resolver", at), "99 %, {{resolver}}", false},
		}, lines{unit: "s"}}
	}
	return []panel{
		quantiles(21, "embedded", "At Docker's resolver",
			"What programs wait for 127.0.0.11. Its own names take less than a millisecond. Slow here and upstream: the server outside. Slow here "+
				"alone: the engine has too much to do, or tries a silent server first."),
		quantiles(22, "upstream", "From the engine to the world", "What the engine waits for the servers outside, for lookups that it does not answer itself."),
		quantiles(23, "direct", "At servers that are asked directly", "What containers on the default bridge, or with a resolver of their own, and the host wait for."),
		slowLookups(24, atLeg),
		{25, "99 % of answers come within, by service",
			"The ten services that wait longest at the leg chosen. A step at 5 s is a question that was lost and asked again.", 12, 9,
			[]query{{`topk(10, ` + duration("0.99", "instance, stack, service, resolver", atLeg) + `)`, serviceLegend, false}}, lines{unit: "s", alarm: 1}},
	}
}

func upstreamServers() []panel {
	total := func(metric string) string { return byServer + `(increase(` + metric + `[$__range]))` }
	return []panel{
		{31, "Servers, and what they make of it",
			"Each server outside that the engine, a container or a host asks, in the range shown. Each try counts. A server with questions and no " +
				"answers is silent: alerts after ten minutes. failures are SERVFAIL and REFUSED. The stack and service chosen do not apply. ~other " +
				"is what came after the first eight.", 24, 8,
			[]query{
				{total(upstreamQueries) + ` > 0`, "", true}, {total(upstreamAnswers), "", true}, {total(upstreamTimeouts), "", true},
				{total(upstreamFailures), "", true},
			},
			table{sort: "questions", none: "No server outside was asked.", columns: []column{
				{of: "server"}, {of: "Value #A", title: "questions", unit: "short", gauge: true}, {of: "Value #B", title: "answers", unit: "short"},
				{of: "Value #C", title: "no answer", unit: "short"}, {of: "Value #D", title: "failures", unit: "short"}, {of: "instance"},
			}}},
		{32, "Questions to each server", "Tries a second. Where the first server of the list is silent, the second has as many.", 12, 8,
			[]query{{`topk(10, ` + byServer + `(rate(` + upstreamQueries + `[$__rate_interval])))`, serverLegend, false}}, lines{unit: "ops"}},
		{33, "Questions that are not answered",
			"Of each server, the share of tries without an answer. 100 %: it is silent, or the way there is blocked. A few: packets get lost.", 12, 8,
			[]query{{byServer + `(rate(` + upstreamTimeouts + `[$__rate_interval])) / ` + byServer + `(rate(` + upstreamQueries + `[$__rate_interval]))`,
				serverLegend, false}}, lines{unit: "percentunit", max: 1}},
		{34, "Servers that answer SERVFAIL or REFUSED",
			"Of each server, the share of answers that say so. Some names of the world fail at every server; many at once mean that the server " +
				"itself is cut off, or does not serve this host.", 12, 8,
			[]query{{byServer + `(rate(` + upstreamFailures + `[$__rate_interval])) / ` + byServer + `(rate(` + upstreamAnswers + `[$__rate_interval]))`,
				serverLegend, false}}, lines{unit: "percentunit"}},
		{35, "When a server was silent",
			"Servers that answered nothing while at least a tenth of the questions to them were given up. Who asks several servers at once " +
				"waits for the first answer only, and gives nothing up.", 12, 8,
			[]query{{silent("bool"), serverLegend, false}},
			states{on: state{"silent", "red"}, off: state{"", "transparent"}}},
	}
}

func askers() []panel {
	queries := `rate(bridgewatch_dns_queries_total{` + atLeg + `}[$__rate_interval])`
	vain := `rate(bridgewatch_dns_search_expansions_total{` + atLeg + `}[$__rate_interval])`
	return []panel{
		{41, "Services that ask most", "The ten services with most lookups. A program that asks for the same name each time should keep its connection, or " +
			"the answer.", 12, 9, []query{{`topk(10, ` + byService + `(` + queries + `))`, serviceLegend, false}}, lines{unit: "ops", stacked: true}},
		{42, "Containers that ask most", "The ten containers with most lookups.", 12, 9,
			[]query{{`topk(10, ` + byContainer + `(` + queries + `))`, containerLegend, false}}, lines{unit: "ops", stacked: true}},
		{43, "Questions for each name",
			"How many lookups a service makes for one that it wants, since its resolver puts search suffixes behind names: the ten with most. 1 is " +
				"none in vain. Each costs its time. Write names with a dot at the end, or shorten the list (--dns-search . for none).", 12, 9,
			[]query{{`topk(10, ` + byService + `(` + queries + `) / (` + byService + `(` + queries + `) - (` + byService + `(` + vain + `) or 0 * ` +
				byService + `(` + queries + `))))`, serviceLegend, false}}, lines{unit: "none"}},
		{44, "NXDOMAIN that a search suffix causes",
			"Share of \"no such name\" that only a search suffix made: the ten services with most. The rest are names that nobody has.", 12, 9,
			[]query{{`topk(10, ` + byService + `(` + vain + `) / ` + byService + `(rate(bridgewatch_dns_responses_total{` + atLeg +
				`, rcode="NXDOMAIN"}[$__rate_interval])))`, serviceLegend, false}}, lines{unit: "percentunit"}},
		{45, "Lookups by type",
			"What is asked for. AAAA beside each A is a program that would use IPv6. Many PTR: somebody turns addresses of its log into names.", 12, 9,
			[]query{{`sum by (resolver, qtype) (rate(bridgewatch_dns_queries_total{` + atLeg + `}[$__rate_interval]))`, "{{qtype}} {{resolver}}", false}},
			lines{unit: "ops", stacked: true}},
		{46, "Names that are asked for most",
			"Only where the agent was started with --dns.names=top:N, or hash. Over all that it watches: stack, service and leg do not apply.", 12, 9,
			[]query{{`topk(20, sum by (instance, name, rcode) (increase(bridgewatch_dns_name_lookups_total{instance=~"$instance"}[$__range])))`, "", true}},
			table{sort: "lookups", none: "The agent tells no names: --dns.names is off.", columns: []column{
				{of: "name"}, {of: "rcode", title: "answer"}, {of: "Value", title: "lookups", unit: "short", gauge: true}, {of: "instance"},
			}}},
	}
}

func oddMessages() []panel {
	return []panel{
		{51, "Messages that belong to no lookup",
			"malformed_query, malformed_response: no DNS. late: the answer came after its lookup was given up. unasked: nobody asked, or under " +
				"another ID. other_question: the ID is right and the name is not. Many unasked from outside may be somebody who guesses answers.", 12, 8,
			[]query{{`topk(10, sum by (instance, stack, service, container, resolver, oddity) (rate(bridgewatch_dns_odd_messages_total{` + atLeg +
				`}[$__rate_interval])))`, "{{oddity}} " + containerLegend, false}}, lines{unit: "ops"}},
		{52, "Answers that were cut short",
			"Answers too large for their datagram, which must be asked for again by TCP: the ten services with most. Where TCP port 53 is blocked " +
				"such names are not found.", 12, 8,
			[]query{{`topk(10, ` + byService + `(rate(bridgewatch_dns_truncated_total{` + atLeg + `}[$__rate_interval])))`, serviceLegend, false}},
			lines{unit: "ops"}},
	}
}
