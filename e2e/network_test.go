// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestNetworks counts traffic on every kind of network that a container can have.
func TestNetworks(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine)
	for _, kind := range []struct {
		name string
		play func(t *testing.T, engine *lab.Engine, agent *lab.Agent)
	}{
		{"default bridge", defaultBridge},
		{"user-defined bridge with IPv6", bridgeIPv6},
		{"internal", internalPair},
		{"several networks", severalNetworks},
		{"macvlan", macvlanFlow},
		{"host", hostMode},
		{"none", noneMode},
		{"another container's", sharedMode},
		{"host and world", crossing},
		{"compose", composeLabels},
		{"one identity twice", oneIdentityTwice},
	} {
		t.Run(kind.name, func(t *testing.T) { kind.play(t, engine, agent) })
	}
	agent.Settle(t)
	requireConversation(t, agent.Scrape(t), lab.Labels{
		"source_stack": "shop", "source_service": "web", "destination_stack": "shop", "destination_service": "db", "protocol": "udp",
	}, 100*(14+20+8+64))
}

// exchange sends datagrams from one container to another and holds both ends' counts against their devices.
func exchange(t *testing.T, agent *lab.Agent, network string, family lab.Family, sender, receiver *lab.Container) {
	t.Helper()
	to := netip.AddrPortFrom(receiver.Addr(t, network, family), port)
	sender.Send(t, lab.Datagrams{To: to, Count: 100})
	requireEqual(t, agent, on(t, sender, network), on(t, receiver, network))
}

// pair starts a sender and a receiver.
func pair(t *testing.T, engine *lab.Engine, name, network string) (sender, receiver *lab.Container) {
	t.Helper()
	options := []string{"--network", network}
	receiver = engine.Serve(t, name+"-receiver", options, "udp-listen", port)
	return engine.Run(t, name+"-sender", options), receiver
}

func defaultBridge(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	sender, receiver := pair(t, engine, "default", "bridge")
	exchange(t, agent, "bridge", lab.IPv4, sender, receiver)
}

func bridgeIPv6(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	network := newNetwork(t, engine, "six")
	sender, receiver := pair(t, engine, "six", network)
	exchange(t, agent, network, lab.IPv4, sender, receiver)
	exchange(t, agent, network, lab.IPv6, sender, receiver)
}

func internalPair(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	network := engine.Network(t, "closed", "--internal", "--subnet", "10.87.0.0/24")
	sender, receiver := pair(t, engine, "closed", network)
	exchange(t, agent, network, lab.IPv4, sender, receiver)
}

// severalNetworks tells the networks of one container apart.
func severalNetworks(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	front := engine.Network(t, "front", "--subnet", "10.88.0.0/24")
	back := engine.Network(t, "back", "--subnet", "10.88.1.0/24")
	middle := engine.Serve(t, "several-middle", []string{"--network", front}, "udp-listen", port)
	engine.Docker(t, "network", "connect", back, middle.Name)
	middle = engine.Inspect(t, middle.Name)
	for _, network := range []string{front, back} {
		sender := engine.Run(t, "several-"+network, []string{"--network", network})
		exchange(t, agent, network, lab.IPv4, sender, middle)
	}
	requireEqual(t, agent, on(t, middle, front), on(t, middle, back))
}

func macvlanFlow(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	s := stage{TB: t, engine: engine, host: lab.Host(t), network: "lan", family: lab.IPv4, name: "lan"}
	far := newMacvlan(s)
	far.Serve(t, "udp-listen", port)
	sender := s.run("sender")
	sender.Send(t, lab.Datagrams{To: netip.MustParseAddrPort("10.84.0.1:7000"), Count: 100})
	requireEqual(t, agent, on(t, sender, "lan"))
}

// hostMode has no interface of its own: it is known, and nothing is counted as its.
func hostMode(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	c := engine.Run(t, "host-mode", []string{"--network", "host"})
	metrics := agent.Scrape(t)
	requireKnown(t, metrics, c)
	if got := metrics.Select("bridgewatch_skbs_total", lab.Labels{"container": c.Name}); len(got) > 0 {
		t.Errorf("a container on the host's network has interface counts:\n%s", lines(got))
	}
}

func noneMode(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	c := engine.Run(t, "none-mode", []string{"--network", "none"})
	requireKnown(t, agent.Scrape(t), c)
}

// sharedMode puts a container into another one's namespace: all is the other one's.
func sharedMode(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	sender, receiver := pair(t, engine, "shared", "bridge")
	guest := engine.Run(t, "shared-guest", []string{"--network", "container:" + sender.Name})
	to := netip.AddrPortFrom(receiver.Addr(t, "bridge", lab.IPv4), port)
	guest.Send(t, lab.Datagrams{To: to, Count: 100})
	requireEqual(t, agent, on(t, sender, "bridge"), on(t, receiver, "bridge"))
	requireKnown(t, agent.Scrape(t), guest)
}

// crossing leaves the network for the world beyond the host, and comes back as errors. It compares what is new: a packet
// that the bridge refused while it had no port is none that its device counts.
func crossing(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	network := engine.Network(t, "border", "--subnet", "10.95.0.0/24")
	sender := engine.Run(t, "border-sender", []string{"--network", network})
	bridge := []device{{lab.Host(t), engine.Bridge(t, network), nil, false}}
	crossed := func() (tx, rx int64) {
		metrics, own := scrapeBetween(t, agent, bridge)
		labels := lab.Labels{"network": network}
		// What the bridge device receives is what leaves the network.
		return int64(sum(metrics, "bridgewatch_network_packets_total", labels, "tx") - own[0].rxPackets),
			int64(sum(metrics, "bridgewatch_network_packets_total", labels, "rx") - own[0].txPackets)
	}
	agent.Settle(t)
	txBefore, rxBefore := crossed()
	sender.Send(t, lab.Datagrams{To: netip.AddrPortFrom(lab.OutsideAddress, port), Count: 100})
	if tx, rx := crossed(); tx != txBefore || rx != rxBefore {
		t.Errorf("counted %d packets more out of the network and %d more into it than the bridge", tx-txBefore, rx-rxBefore)
	}
}

// composeLabels names a container by its project and service.
func composeLabels(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	network := engine.Network(t, "shop_default", "--subnet", "10.89.0.0/24")
	sender := engine.Run(t, "shop-web-1", append(composed("shop", "web", "1"), "--network", network))
	receiver := engine.Serve(t, "shop-db-1", append(composed("shop", "db", "1"), "--network", network), "udp-listen", port)
	to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)
	sender.Send(t, lab.Datagrams{To: to, Count: 100, Size: 64})
	from, at := on(t, sender, network), on(t, receiver, network)
	from.labels["stack"], from.labels["service"] = "shop", "web"
	at.labels["stack"], at.labels["service"] = "shop", "db"
	requireEqual(t, agent, from, at)
}

// composed are options that Compose gives a container.
func composed(project, service, number string) []string {
	return []string{
		"--label", "com.docker.compose.project=" + project,
		"--label", "com.docker.compose.service=" + service,
		"--label", "com.docker.compose.container-number=" + number,
	}
}

// oneIdentityTwice has two containers that no label tells apart: they are one series, and the scrape works.
func oneIdentityTwice(t *testing.T, engine *lab.Engine, agent *lab.Agent) {
	network := engine.Network(t, "twice", "--subnet", "10.90.0.0/24")
	receiver := engine.Serve(t, "twice-receiver", []string{"--network", network}, "udp-listen", port)
	to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)
	var twins []device
	for _, name := range []string{"twins-web-1", "0123456789ab_twins-web-1"} {
		c := engine.Run(t, name, append(composed("twins", "web", "1"), "--network", network))
		c.Send(t, lab.Datagrams{To: to, Count: 100})
		twins = append(twins, on(t, c, network))
	}
	agent.Settle(t)
	metrics, own := scrapeBetween(t, agent, twins)
	labels := lab.Labels{"stack": "twins", "service": "web", "network": network}
	if got, want := sum(metrics, "bridgewatch_skbs_total", labels, "tx"), own[0].txPackets+own[1].txPackets; got != want {
		t.Errorf("counted %d skbs of both, their devices say %d", got, want)
	}
	series := metrics.Select("bridgewatch_skbs_total", lab.Labels{"stack": "twins", "direction": "tx"})
	if len(series) != 1 {
		t.Errorf("want one series:\n%s", lines(series))
	}
}

// requireKnown finds the container in the agent's inventory.
func requireKnown(t *testing.T, metrics lab.Metrics, c *lab.Container) {
	t.Helper()
	if len(metrics.Select("bridgewatch_container_info", lab.Labels{"container_id": c.ID, "name": c.Name})) != 1 {
		t.Errorf("%s is not in the inventory:\n%s", c.Name,
			lines(metrics.Select("bridgewatch_container_info", nil)))
	}
}
