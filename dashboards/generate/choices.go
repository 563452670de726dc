// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
)

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
	return options("kind", "Kind of drop", "fault: lost by the network. application: refused by a program. policy: a rule did its work. benign: noise.",
		[]string{"fault", "application", "policy", "benign"}, []string{"fault"})
}

// options is a variable with values of its own, of which some are chosen at first.
func options(name, label, description string, all, first []string) object {
	var options []object
	for _, value := range all {
		options = append(options, object{"text": value, "value": value, "selected": slices.Contains(first, value)})
	}
	return object{
		"name": name, "label": label, "type": "custom", "query": strings.Join(all, ","), "description": description,
		"multi": true, "includeAll": true, "allValue": ".*", "hide": 0, "skipUrlSync": false, "options": options,
		"current": object{"selected": true, "text": first, "value": first},
	}
}

// chosen are the matchers for what the operator has chosen.
const chosen = `instance=~"$instance", stack=~"$stack", service=~"$service"`

// ofContainers leaves out what passed load balancers and the routing mesh, which containers have sent or get.
const ofContainers = chosen + `, scope="container"`

// toDrops leads from a line about a service to its drops.
func toDrops() link {
	return link{"Drops of this service", "/d/bridgewatch-drops?${__url_time_range}&${datasource:queryparam}" +
		"&var-instance=${__data.fields.instance}&var-stack=${__data.fields.stack}&var-service=${__data.fields.service}"}
}
