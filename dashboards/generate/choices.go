// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// What every page lets the operator choose: hosts, stacks and services.
func who() []object {
	return []object{
		host(),
		choice("stack", "Stack", "Swarm stack or Compose project.",
			`label_values(bridgewatch_packets_total{instance=~"$instance", stack!=""}, stack)`),
		choice("service", "Service", "Swarm or Compose service; unique only together with its stack.",
			`label_values(bridgewatch_packets_total{instance=~"$instance", stack=~"$stack", service!=""}, service)`),
	}
}

func host() object {
	return choice("instance", "Host", "The agent's target in Prometheus: one for each Docker host.",
		"label_values(bridgewatch_build_info, instance)")
}

// kinds lets the operator choose which kinds of drop to see.
func kinds() object {
	all := []string{"fault", "application", "policy", "benign"}
	var options []object
	for _, kind := range all {
		options = append(options, object{"text": kind, "value": kind, "selected": kind == "fault"})
	}
	return object{
		"name": "kind", "label": "Kind of drop", "type": "custom", "query": strings.Join(all, ","),
		"description": "fault: lost by the network. application: refused by a program. policy: a rule did its work. benign: noise.",
		"multi":       true, "includeAll": true, "allValue": ".*", "hide": 0, "skipUrlSync": false, "options": options,
		"current": object{"selected": true, "text": []string{"fault"}, "value": []string{"fault"}},
	}
}

// chosen are the matchers for what the operator has chosen.
const chosen = `instance=~"$instance", stack=~"$stack", service=~"$service"`

// toDrops leads from a line about a service to its drops.
func toDrops() link {
	return link{"Drops of this service", "/d/bridgewatch-drops?${__url_time_range}&${datasource:queryparam}" +
		"&var-instance=${__data.fields.instance}&var-stack=${__data.fields.stack}&var-service=${__data.fields.service}"}
}
