// SPDX-License-Identifier: Apache-2.0

package main

func swarm() page {
	return page{
		uid:   "bridgewatch-swarm",
		title: "Bridgewatch swarm: nodes, services and who serves them",
		description: "What the nodes of a Swarm hear of each other, on each of the ports that they need, and whom services' addresses and " +
			"published ports lead to. Loss between nodes has a page of its own. The page docs/signals/overlay.md says what is counted and what is not.",
		variables: who(),
		marks:     []object{containerStarts()},
		rows: []row{
			{panels: swarmNumbers()},
			{id: 10, title: "Who is heard", panels: swarmPeers()},
			{id: 20, title: "Who serves a service's address", panels: swarmBackends()},
			{id: 30, title: "Published ports", panels: swarmPorts()},
			{id: 40, title: "What there is", panels: swarmInventory()},
			{id: 50, title: "What is wrong", panels: []panel{findingsAbout(51, "Findings about the Swarm that stand", swarmFindings)}},
		},
	}
}

// swarmFindings are what can be wrong with a Swarm, as a regular expression.
const swarmFindings = "peer-silent|7946-closed|2377-closed|4789-closed|encrypted-esp-blocked|advertise-nat|ipvs-unavailable|ipvs-no-backend|" +
	"ipvs-stale-backend|ipvs-drain|ipvs-idle-900|ipvs-port-reuse|vip-no-ping|mesh-forwarding-off|mesh-snat|host-mode-node|dnsrr-no-mesh|" +
	"ingress-unlisted-port|subnet-exhausted|gwbridge"

// silentFor is for how many seconds nothing has come, by more labels than the host and its peer.
func silentFor(by string) string {
	return `time() - max by (` + by + `) (bridgewatch_swarm_channel_last_received_timestamp_seconds{instance=~"$instance"})`
}

// present are the peers that hosts list. A node that has an address for its tunnels alone (--data-path-addr) may not be known to have
// it: there nothing is to be heard unless containers talk.
const present = ` and on (instance, peer) bridgewatch_swarm_peer_info{instance=~"$instance"}` +
	` and on (instance, peer) bridgewatch_swarm_channel_packets_total{instance=~"$instance", channel="gossip_udp"}`

func swarmNumbers() []panel {
	backends := func(state string) string { return `bridgewatch_ipvs_backends{` + chosen + `, state="` + state + `"}` }
	return []panel{
		{1, "Longest silence",
			"Of all pairs of a host chosen and another node of the Swarm, for how long the one has heard nothing of the other, on any channel. Nodes " +
				"talk every few seconds; of 200 each in turn within minutes. Above ten minutes pages.", 5, 4,
			[]query{{"max(" + silentFor("instance, peer") + present + ")", "silence", false}},
			number{unit: "s", colour: "green", steps: []step{{60, "orange"}, {600, "red"}}, graph: true, none: "no Swarm"}},
		{2, "Other nodes",
			"Nodes that the hosts chosen know of: the most that one of them does. Those that managers say are down are in it.", 4, 4,
			[]query{{`max(count by (instance) (bridgewatch_swarm_peer_info{instance=~"$instance"}))`, "nodes", false}},
			number{unit: "none", colour: "blue", none: "no Swarm"}},
		{3, "Nodes that are down", "By what managers say, as far as they have agents.", 4, 4,
			[]query{{`count(group by (peer) (bridgewatch_swarm_peer_info{instance=~"$instance", state="down"}))`, "down", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}, none: "0"}},
		{4, "Backends that are dead",
			"Tasks that are gone, and to which the hosts chosen still send a part of the connections to a service. The row Who serves a service's " +
				"address says which.", 4, 4, []query{{"sum(" + backends("dead") + ")", "dead", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "red"}}, graph: true, none: "0"}},
		{5, "Addresses that nobody serves",
			"Virtual addresses of services that lead to no live task on a host chosen. A service that was scaled to none has one on each host.", 4, 4,
			[]query{{"count(" + backends("live") + " == 0)", "addresses", false}},
			number{unit: "none", colour: "green", steps: []step{{1, "orange"}}, graph: true, none: "0"}},
		worstPath(6, 3, ""),
	}
}

func swarmPeers() []panel {
	channel := func(id int, direction, title, description string) panel {
		return panel{id, title, description, 12, 8,
			[]query{{`topk(20, sum by (instance, peer, channel) (rate(bridgewatch_swarm_channel_packets_total{instance=~"$instance", direction="` + direction +
				`"}[$__rate_interval])))`, "{{channel}} {{peer}} {{instance}}", false}}, lines{unit: "pps"}}
	}
	return []panel{
		{11, "For how long a node has been silent",
			"From the node of a column, on any channel, as the host of a line hears it. A red column: that node is off, or cut off. A red line: that " +
				"host hears nobody. One cell: something between these two. Empty: never heard since the agent started.", 12, 10,
			[]query{{"max by (instance, peer) (" + silentFor("instance, peer") + present + ")", "", true}},
			matrix{lines: "instance", columns: "peer", unit: "s", colour: "green", steps: []step{{60, "orange"}, {600, "red"}}, none: "No host is in a Swarm."}},
		{12, "For how long a channel has been silent",
			"vxlan and esp: containers' packets, which are silent when containers are. gossip_udp: who is alive, always some. gossip_tcp: full states, " +
				"now and then. manager: between managers and all others. One that is silent while others are not: its port is blocked.", 12, 10,
			[]query{{silentFor("instance, peer, channel") + present, "", true}},
			table{sort: "silent for", none: "No host is in a Swarm.", columns: []column{
				{of: "peer"}, {of: "channel"}, {of: "Value", title: "silent for", unit: "s"}, {of: "instance"},
			}}},
		channel(13, "tx", "Sent on each channel", "Packets a second from the hosts chosen to each other node: the twenty with most."),
		channel(14, "rx", "Received on each channel",
			"Packets a second from each other node: the twenty with most. A channel that is sent on and not received on is blocked, one way or both."),
		{15, "Nodes, as others know them",
			"Names and states are known to managers. A host does not list itself.", 24, 8,
			[]query{{`max by (instance, peer, node, role, state) (bridgewatch_swarm_peer_info{instance=~"$instance"})`, "", true}},
			table{sort: "node", none: "No host is in a Swarm.", columns: []column{
				{of: "peer"}, {of: "node"}, {of: "role"}, {of: "state"}, {of: "instance", title: "known to"}, {of: "Value", title: "there", unit: "none"},
			}}},
	}
}

func swarmBackends() []panel {
	by := "sum by (instance, stack, service, network, scope, vip) "
	backends := func(state string) query {
		return query{by + `(bridgewatch_ipvs_backends{` + chosen + `, state="` + state + `"})`, "", true}
	}
	return []panel{
		{21, "Whom addresses lead to",
			"Each service's virtual address, on each host that serves it: loadbalancer for containers of that host, ingress for published ports. " +
				"live: tasks that get connections. dead: gone, and get them all the same. draining: end, and get no new ones.", 24, 9,
			[]query{
				backends("dead"), backends("live"), backends("draining"),
				{by + `(bridgewatch_ipvs_connections{` + chosen + `, state="active"})`, "", true},
				{by + `(bridgewatch_ipvs_connections{` + chosen + `, state="inactive"})`, "", true},
			},
			table{sort: "dead", none: "No service has a virtual address here, or the kernel has no IPVS.", columns: []column{
				{of: "stack"}, {of: "service", link: toDrops()}, {of: "network"}, {of: "vip", title: "address"},
				{of: "Value #A", title: "dead", unit: "none", gauge: true}, {of: "Value #B", title: "live", unit: "none"},
				{of: "Value #C", title: "draining", unit: "none"}, {of: "Value #D", title: "active", unit: "short"},
				{of: "Value #E", title: "inactive", unit: "short"}, {of: "scope"}, {of: "instance"},
			}}},
		{22, "Backends by state",
			"Over all addresses of the services chosen. Dead ones that stay after an update get a part of all connections, which fail.", 12, 8,
			[]query{{`sum by (state) (bridgewatch_ipvs_backends{` + chosen + `})`, "{{state}}", false}}, lines{unit: "none", stacked: true, whole: true}},
		{23, "Connections by service",
			"Connections that are active, by address: the ten with most. One that is silent for 15 minutes is forgotten, and its next packet is refused.",
			12, 8, []query{{`topk(10, sum by (instance, stack, service, network) (bridgewatch_ipvs_connections{` + chosen + `, state="active"}))`,
				"{{stack}} {{service}} {{network}} {{instance}}", false}}, lines{unit: "none", stacked: true}},
	}
}

func swarmPorts() []panel {
	connections := func(more string) string {
		return `increase(bridgewatch_published_connections_total{` + chosen + `, client="remote"` + more + `}[$__range])`
	}
	by := "sum by (instance, stack, service, published_port, protocol, scope, mechanism) "
	return []panel{
		{31, "Which host answers which port, and how",
			"Connections of remote clients in the range shown, on the host that they reached. Scope ingress: the routing mesh, at every node. Else the " +
				"port is published in mode host, and only the hosts with a task answer: a load balancer in front must know which. lost is how many " +
				"came under another address than the client's; click the mechanism for how that comes about.", 24, 9,
			[]query{
				{by + "(" + connections("") + ") > 0", "", true},
				{by + "(" + connections(`, source_address="lost"`) + ") > 0", "", true},
			},
			table{sort: "connections", none: "No remote client has connected.", columns: []column{
				{of: "stack"}, {of: "service"}, {of: "published_port", title: "port"}, {of: "protocol"}, {of: "instance"}, {of: "scope"},
				{of: "mechanism", link: link{"How it comes about", natPage + "#${__value.raw}"}},
				{of: "Value #A", title: "connections", unit: "short", gauge: true}, {of: "Value #B", title: "lost", unit: "short"},
			}}},
		{32, "Through the mesh",
			"Remote clients' connections a second that came through the routing mesh, which puts a node's address in the place of theirs: the ten " +
				"ports with most. Publish with mode=host to keep it.", 12, 8,
			[]query{{`topk(10, sum by (instance, stack, service, published_port, protocol) (rate(bridgewatch_published_connections_total{` + chosen +
				`, client="remote", mechanism="ingress_mesh"}[$__rate_interval])))`, "{{published_port}}/{{protocol}} {{stack}} {{service}} {{instance}}", false}},
			lines{unit: "cps", stacked: true}},
		{33, "Attempts and connections, by host",
			"Of the published ports of the services chosen. Where the two part, clients of that host are not answered.", 12, 8,
			[]query{
				{`sum by (instance) (rate(bridgewatch_published_attempts_total{` + chosen + `}[$__rate_interval]))`, "attempts {{instance}}", false},
				{`sum by (instance) (rate(bridgewatch_published_connections_total{` + chosen + `}[$__rate_interval]))`, "connections {{instance}}", false},
			}, lines{unit: "cps"}},
	}
}

func swarmInventory() []panel {
	return []panel{
		{41, "Hosts", "Each host with an agent, as its engine says. address is where other nodes find it.", 12, 8,
			[]query{{`max by (instance, node, role, address, swarm_id) (bridgewatch_node_info{instance=~"$instance"})`, "", true}},
			table{sort: "node", none: "No agent.", columns: []column{
				{of: "node"}, {of: "role"}, {of: "address"}, {of: "instance"}, {of: "swarm_id", title: "Swarm"}, {of: "Value", title: "there", unit: "none"},
			}}},
		{42, "Overlay networks", "Each network and its number (VNI) in the outer header. The same on every host that is on it.", 12, 8,
			[]query{{`count by (network, vni, encrypted, internal, mtu) (bridgewatch_network_info{instance=~"$instance", driver="overlay"})`, "", true}},
			table{sort: "hosts", none: "No overlay network.", columns: []column{
				{of: "network"}, {of: "vni", title: "VNI"}, {of: "encrypted"}, {of: "internal"}, {of: "mtu", title: "MTU"}, {of: "Value", title: "hosts", unit: "none"},
			}}},
		{43, "Tasks by host", "Running containers of the services chosen that the agents know.", 24, 8,
			[]query{{`count by (instance, stack, service) (bridgewatch_container_info{` + chosen + `, service!=""})`, "{{stack}} {{service}} {{instance}}", false}},
			lines{unit: "none", stacked: true, whole: true}},
	}
}
