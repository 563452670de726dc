// SPDX-License-Identifier: Apache-2.0

package exporters

import "slices"

// Type is what a family's values mean.
type Type int

// The types.
const (
	Counter   Type = iota // only grows
	Gauge                 // what is now
	Histogram             // how many of what was observed were how large
)

// Family is a metric: a name and the labels that tell its series apart.
type Family struct {
	Name   string // as Prometheus has it
	Unit   string // as OpenTelemetry has it, in UCUM: By, s, or what is counted in braces. Never 1, which means a ratio
	Help   string
	Type   Type
	Labels []string  // in the order in which values are given
	Bounds []float64 // of a histogram: the upper bounds of its buckets, in order, without infinity

	Retired retirement
}

// retirement says when a series is taken out.
type retirement int

const (
	never     retirement = iota
	withOwner            // some time after whose identity it has; the labels of that come first
	whenIdle             // when nothing was added to it for some time
)

// identityLabels say whose a count is. They come first, in this order, in every family that has them.
var identityLabels = []string{"stack", "service", "container", "network", "scope"}

// serviceLabels do so in families that would have too many series with one for each container.
var serviceLabels = []string{"stack", "service", "network", "scope"}

// overlayLabels say of which overlay network something was, between which addresses of nodes, and whether it was encrypted.
var overlayLabels = []string{"network", "vni", "local", "peer", "direction", "encapsulation"}

// labelPort is a published port's number on the host.
const labelPort = "published_port"

func withIdentity(labels ...string) []string { return slices.Concat(identityLabels, labels) }

// lookupBounds are those of the time that a lookup takes, in seconds: from what the engine knows itself to what only comes after
// clients have asked again.
var lookupBounds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// The families. Names and labels are a contract with dashboards and alerts: adding is free, changing breaks them.
var (
	packets = &Family{Name: "bridgewatch_packets_total", Unit: "{packet}", Retired: withOwner, Labels: withIdentity("direction"),
		Help: "Packets that crossed a container's interface, as the container sees it. A GSO frame counts as its segments."}
	bytes = &Family{Name: "bridgewatch_bytes_total", Unit: "By", Retired: withOwner, Labels: withIdentity("direction"),
		Help: "Bytes that crossed a container's interface, with Ethernet headers."}
	skbs = &Family{Name: "bridgewatch_skbs_total", Unit: "{skb}", Retired: withOwner, Labels: withIdentity("direction"),
		Help: "Kernel packets that crossed a container's interface: what interface and rule counters count."}
	networkPackets = &Family{Name: "bridgewatch_network_packets_total", Unit: "{packet}", Retired: whenIdle, Labels: []string{"network", "direction"},
		Help: "Packets that crossed a network's bridge device, between the network and the host or the world. tx leaves the network."}
	networkBytes = &Family{Name: "bridgewatch_network_bytes_total", Unit: "By", Retired: whenIdle, Labels: []string{"network", "direction"},
		Help: "Bytes that crossed a network's bridge device, with Ethernet headers."}
	conversationBytes = &Family{Name: "bridgewatch_conversation_bytes_total", Unit: "By", Retired: whenIdle,
		Labels: []string{"source_stack", "source_service", "destination_stack", "destination_service", "network", "protocol"},
		Help:   "Bytes from one service to another, counted once: at the sender if it is a container of this host or of its Swarm, whose own agent counts it."}

	droppedPackets = &Family{Name: "bridgewatch_dropped_packets_total", Unit: "{packet}", Retired: withOwner,
		Labels: withIdentity("device_kind", "direction", "reason", "cause", "kind"),
		Help:   "Packets that the kernel dropped. Identity is the victim's, scope is the place."}
	droppedBytes = &Family{Name: "bridgewatch_dropped_bytes_total", Unit: "By", Retired: withOwner,
		Labels: withIdentity("device_kind", "direction", "reason", "cause", "kind"),
		Help:   "Bytes of the packets that the kernel dropped."}
	dropLocations = &Family{Name: "bridgewatch_drop_locations_total", Unit: "{skb}", Labels: []string{"reason", "function"},
		Help: "Kernel packets dropped, by the kernel function that dropped them."}

	listenOverflows = &Family{Name: "bridgewatch_tcp_listen_overflows_total", Unit: "{connection}", Retired: withOwner, Labels: withIdentity(),
		Help: "Connections that a container's programs did not accept in time, so that the kernel turned them away."}
	unnattedEgress = &Family{Name: "bridgewatch_unnatted_egress_packets_total", Unit: "{packet}", Retired: withOwner, Labels: withIdentity(),
		Help: "Packets that left the host under a container's private address, which no answer finds its way back to."}
	unnattedLeftovers = &Family{Name: "bridgewatch_unnatted_leftover_packets_total", Unit: "{packet}", Retired: withOwner, Labels: withIdentity(),
		Help: "Those of the packets that left untranslated that end a connection, RST or FIN: leftovers that hurt nobody."}

	natTranslations = &Family{Name: "bridgewatch_nat_translations_total", Unit: "{connection}", Retired: withOwner,
		Labels: withIdentity("kind", "protocol"),
		Help:   "New translated connections, each once, in the namespace that translates."}
	publishedAttempts = &Family{Name: "bridgewatch_published_attempts_total", Unit: "{connection}", Retired: withOwner,
		Labels: withIdentity(labelPort, "protocol"),
		Help:   "New connections to a published port of the host, answered or not."}
	publishedConnections = &Family{Name: "bridgewatch_published_connections_total", Unit: "{connection}", Retired: withOwner,
		Labels: withIdentity(labelPort, "protocol", "client", "source_address", "mechanism"),
		Help:   "Connections to a published port of the host that were answered, and whether the container sees the client's address."}
	serviceRequirement = &Family{Name: "bridgewatch_service_requirement", Unit: "{requirement}", Type: Gauge, Labels: withIdentity("requirement"),
		Help: "What a service asks for by label: source-address, to see its clients' addresses. Always 1."}

	conntrackEntries = &Family{Name: "bridgewatch_conntrack_entries", Unit: "{entry}", Type: Gauge, Labels: withIdentity(),
		Help: "Entries of the connection tracking table of a network namespace."}
	conntrackLimit = &Family{Name: "bridgewatch_conntrack_limit", Unit: "{entry}", Type: Gauge, Labels: withIdentity(),
		Help: "Entries that the connection tracking table has room for."}
	conntrackFailures = &Family{Name: "bridgewatch_conntrack_failures_total", Unit: "{failure}", Retired: withOwner, Labels: withIdentity("event"),
		Help: "What connection tracking of a network namespace could not do, in the kernel's words."}
	snatPortsUsed = &Family{Name: "bridgewatch_snat_ports_used", Unit: "{port}", Type: Gauge, Labels: withIdentity("protocol"),
		Help: "Ports of the host's address in use towards the destination that has the most of them."}
	snatPortsLimit = &Family{Name: "bridgewatch_snat_ports_limit", Unit: "{port}", Type: Gauge, Labels: withIdentity("protocol"),
		Help: "Ports to choose from towards the destination that has the most of them in use."}
	rulesetChanges = &Family{Name: "bridgewatch_ruleset_changes_total", Unit: "{change}", Labels: []string{"scope"},
		Help: "Changes of nftables rules, by whomever, with those of iptables-nft. Legacy iptables tells nobody."}

	dnsQueries = &Family{Name: "bridgewatch_dns_queries_total", Unit: "{lookup}", Retired: withOwner, Labels: withIdentity("resolver", "qtype"),
		Help: "DNS lookups that have ended, each once however often it was asked. A resolver is a leg: never sum over it."}
	dnsResponses = &Family{Name: "bridgewatch_dns_responses_total", Unit: "{lookup}", Retired: withOwner, Labels: withIdentity("resolver", "rcode"),
		Help: "DNS lookups that were answered."}
	dnsTimeouts = &Family{Name: "bridgewatch_dns_timeouts_total", Unit: "{lookup}", Retired: withOwner, Labels: withIdentity("resolver"),
		Help: "DNS lookups that nobody answered in time."}
	dnsRetries = &Family{Name: "bridgewatch_dns_retries_total", Unit: "{query}", Retired: withOwner, Labels: withIdentity("resolver"),
		Help: "How often DNS lookups were asked again."}
	dnsTruncated = &Family{Name: "bridgewatch_dns_truncated_total", Unit: "{lookup}", Retired: withOwner, Labels: withIdentity("resolver"),
		Help: "DNS lookups whose answer was too large for its datagram."}
	dnsExpansions = &Family{Name: "bridgewatch_dns_search_expansions_total", Unit: "{lookup}", Retired: withOwner, Labels: withIdentity("resolver"),
		Help: "DNS lookups that found nothing and were only made since their client puts search suffixes behind names."}
	dnsOdd = &Family{Name: "bridgewatch_dns_odd_messages_total", Unit: "{message}", Retired: withOwner, Labels: withIdentity("resolver", "oddity"),
		Help: "DNS messages that belong to no lookup."}
	dnsDuration = &Family{Name: "bridgewatch_dns_lookup_duration_seconds", Unit: "s", Type: Histogram, Retired: withOwner,
		Labels: append(slices.Clip(serviceLabels), "resolver"), Bounds: lookupBounds,
		Help: "Time from a DNS lookup's first question to its answer, of those that were answered."}
	dnsUpstreamQueries = &Family{Name: "bridgewatch_dns_upstream_queries_total", Unit: "{query}", Retired: whenIdle, Labels: []string{"server"},
		Help: "Questions to a DNS server outside of the engine, with those that were asked again."}
	dnsUpstreamResponses = &Family{Name: "bridgewatch_dns_upstream_responses_total", Unit: "{query}", Retired: whenIdle, Labels: []string{"server"},
		Help: "Questions that a DNS server has answered."}
	dnsUpstreamTimeouts = &Family{Name: "bridgewatch_dns_upstream_timeouts_total", Unit: "{query}", Retired: whenIdle, Labels: []string{"server"},
		Help: "Questions that a DNS server has not answered before they were asked again, or in time."}
	dnsUpstreamFailures = &Family{Name: "bridgewatch_dns_upstream_failures_total", Unit: "{query}", Retired: whenIdle, Labels: []string{"server"},
		Help: "Questions that a DNS server has answered with SERVFAIL or REFUSED."}
	dnsNameLookups = &Family{Name: "bridgewatch_dns_name_lookups_total", Unit: "{lookup}", Retired: whenIdle, Labels: []string{"name", "rcode"},
		Help: "DNS lookups of a name, without those that the engine makes for others. Only with --dns.names."}

	overlayPackets = &Family{Name: "bridgewatch_overlay_packets_total", Unit: "{packet}", Retired: whenIdle, Labels: overlayLabels,
		Help: "Packets of overlay networks that passed between this node and another, by the addresses of the outer header."}
	overlayBytes = &Family{Name: "bridgewatch_overlay_bytes_total", Unit: "By", Retired: whenIdle, Labels: overlayLabels,
		Help: "Bytes of overlay networks that passed between this node and another, with all headers."}
	overlayDropped = &Family{Name: "bridgewatch_overlay_dropped_packets_total", Unit: "{packet}", Retired: whenIdle,
		Labels: append(slices.Clip(overlayLabels), "reason", "cause"),
		Help:   "Those of the dropped packets that were on their way between this node and another. A view of the drops: never add the two."}
	overlayMalformed = &Family{Name: "bridgewatch_overlay_malformed_packets_total", Unit: "{packet}", Retired: whenIdle, Labels: []string{"peer"},
		Help: "Packets on the port of the overlay networks that are no VXLAN."}
	overlayEntries = &Family{Name: "bridgewatch_overlay_entries", Unit: "{entry}", Type: Gauge, Labels: []string{"network", "table"},
		Help: "Entries that say by which node whom of an overlay network is reached."}
	overlayExpected = &Family{Name: "bridgewatch_overlay_expected_entries", Unit: "{entry}", Type: Gauge, Labels: []string{"network", "table"},
		Help: "Entries that there should be: one for each endpoint on another node, as the engine knows them."}
	overlayMisses = &Family{Name: "bridgewatch_overlay_misses_total", Unit: "{miss}", Retired: whenIdle, Labels: []string{"network", "table"},
		Help: "How often a VXLAN device found no entry. The engine does not fill it in then."}
	channelPackets = &Family{Name: "bridgewatch_swarm_channel_packets_total", Unit: "{packet}", Retired: whenIdle,
		Labels: []string{"peer", "channel", "direction"},
		Help:   "Packets between this node and another on each of the channels that a Swarm needs."}
	channelReceived = &Family{Name: "bridgewatch_swarm_channel_last_received_timestamp_seconds", Unit: "s", Type: Gauge,
		Labels: []string{"peer", "channel"},
		Help:   "When something last came from another node on a channel, in Unix time. Absent until then."}
	peerInfo = &Family{Name: "bridgewatch_swarm_peer_info", Unit: "{node}", Type: Gauge, Labels: []string{"peer", "node", "role", "state"},
		Help: "Another node of the Swarm, as this one knows it. Always 1."}
	networkAddresses = &Family{Name: "bridgewatch_network_addresses_available", Unit: "{address}", Type: Gauge, Labels: []string{"network"},
		Help: "Addresses that an overlay network has left, where the engine tells."}
	ipvsBackends = &Family{Name: "bridgewatch_ipvs_backends", Unit: "{backend}", Type: Gauge, Labels: withIdentity("vip", "state"),
		Help: "Tasks that this node spreads a service's virtual address over."}
	ipvsConnections = &Family{Name: "bridgewatch_ipvs_connections", Unit: "{connection}", Type: Gauge, Labels: withIdentity("vip", "state"),
		Help: "Connections to a service's virtual address that this node keeps track of."}

	finding = &Family{Name: "bridgewatch_finding", Unit: "{finding}", Type: Gauge, Labels: withIdentity("id", "severity"),
		Help: "1 while a finding holds for a subject, and for some time after. Its runbook has the name of its id."}
	findingStart = &Family{Name: "bridgewatch_finding_start_timestamp_seconds", Unit: "s", Type: Gauge, Labels: withIdentity("id", "severity"),
		Help: "When a finding began to hold, in Unix time."}
	findingsRaised = &Family{Name: "bridgewatch_findings_raised_total", Unit: "{finding}", Labels: []string{"id", "severity"},
		Help: "How often a finding began to hold."}

	observedPackets = &Family{Name: "bridgewatch_observed_packets_total", Unit: "{packet}", Labels: []string{"signal"},
		Help: "All packets that a signal has counted since it started, whoever they belonged to. Never retired."}
	unattributedPackets = &Family{Name: "bridgewatch_unattributed_packets_total", Unit: "{packet}", Labels: []string{"signal"},
		Help: "Packets whose namespace or device belongs to no container and not to the host."}
	lostRecords = &Family{Name: "bridgewatch_lost_records_total", Unit: "{record}", Labels: []string{"signal", "place"},
		Help: "What could not be recorded in full, by the place where it was lost."}

	containerInfo = &Family{Name: "bridgewatch_container_info", Unit: "{container}", Type: Gauge,
		Labels: []string{"stack", "service", "container", "container_id", "name", "image"},
		Help:   "A running container. Always 1."}
	containerStart = &Family{Name: "bridgewatch_container_start_time_seconds", Unit: "s", Type: Gauge,
		Labels: []string{"stack", "service", "container", "container_id"},
		Help:   "When a running container started, in Unix time."}
	networkInfo = &Family{Name: "bridgewatch_network_info", Unit: "{network}", Type: Gauge,
		Labels: []string{"network", "network_id", "driver", "network_scope", "vni", "encrypted", "internal", "mtu"},
		Help:   "A Docker network. Always 1."}
	nodeInfo = &Family{Name: "bridgewatch_node_info", Unit: "{node}", Type: Gauge,
		Labels: []string{"node", "node_id", "swarm_id", "role", "address"},
		Help:   "The Docker host. Always 1."}

	buildInfo = &Family{Name: "bridgewatch_build_info", Unit: "{agent}", Type: Gauge, Labels: []string{"version", "revision", "goversion"},
		Help: "The agent. Always 1."}
	signalEnabled = &Family{Name: "bridgewatch_signal_enabled", Unit: "{signal}", Type: Gauge, Labels: []string{"signal", "reason"},
		Help: "1 while a signal runs; 0 with the reason why it does not."}
	signalStart = &Family{Name: "bridgewatch_signal_start_time_seconds", Unit: "s", Type: Gauge, Labels: []string{"signal"},
		Help: "When a running signal started, in Unix time."}
	attachedDevices = &Family{Name: "bridgewatch_attached_devices", Unit: "{device}", Type: Gauge, Labels: []string{"device_kind"},
		Help: "Devices that are watched: uplink by the signals egress and overlay, all others by flow."}
	dockerUp = &Family{Name: "bridgewatch_docker_up", Unit: "{engine}", Type: Gauge,
		Help: "1 while the agent is connected to the Docker engine."}
	programRunSeconds = &Family{Name: "bridgewatch_program_run_seconds_total", Unit: "s", Labels: []string{"program"},
		Help: "Time that a BPF program took while the kernel measured it, which is during short samples only. Divide by runs."}
	programRuns = &Family{Name: "bridgewatch_program_runs_total", Unit: "{run}", Labels: []string{"program"},
		Help: "Runs of a BPF program while the kernel measured it."}
	mapEntries = &Family{Name: "bridgewatch_map_entries", Unit: "{entry}", Type: Gauge, Labels: []string{"map"},
		Help: "Entries that the last reading of a BPF map found."}
	mapCapacity = &Family{Name: "bridgewatch_map_capacity", Unit: "{entry}", Type: Gauge, Labels: []string{"map"},
		Help: "Entries that a BPF map has room for between two readings."}
	seriesCount = &Family{Name: "bridgewatch_series", Unit: "{series}", Type: Gauge, Labels: []string{"metric"},
		Help: "Series of a metric."}
	seriesOverflow = &Family{Name: "bridgewatch_series_overflow_total", Unit: "{update}", Labels: []string{"metric"},
		Help: "Updates that found their budget of series used up and went to ~other."}
)

// Families lists every metric of the agent.
func Families() []*Family {
	return []*Family{
		packets, bytes, skbs, networkPackets, networkBytes, conversationBytes,
		droppedPackets, droppedBytes, dropLocations,
		listenOverflows, unnattedEgress, unnattedLeftovers,
		natTranslations, publishedAttempts, publishedConnections, serviceRequirement,
		conntrackEntries, conntrackLimit, conntrackFailures, snatPortsUsed, snatPortsLimit, rulesetChanges,
		dnsQueries, dnsResponses, dnsTimeouts, dnsRetries, dnsTruncated, dnsExpansions, dnsOdd, dnsDuration,
		dnsUpstreamQueries, dnsUpstreamResponses, dnsUpstreamTimeouts, dnsUpstreamFailures, dnsNameLookups,
		overlayPackets, overlayBytes, overlayDropped, overlayMalformed, overlayEntries, overlayExpected, overlayMisses,
		channelPackets, channelReceived, peerInfo, networkAddresses, ipvsBackends, ipvsConnections,
		finding, findingStart, findingsRaised,
		observedPackets, unattributedPackets, lostRecords,
		containerInfo, containerStart, networkInfo, nodeInfo,
		buildInfo, signalEnabled, signalStart, attachedDevices, dockerUp,
		programRunSeconds, programRuns, mapEntries, mapCapacity, seriesCount, seriesOverflow,
	}
}
