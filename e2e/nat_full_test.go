// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// conntrackEvents are the kernel's counters of what went wrong that the agent passes on.
var conntrackEvents = []string{"insert_failed", "drop", "early_drop", "invalid"}

// TestConntrackFull fills the host's table. Nobody new gets in then, and those who are known stay.
func TestConntrackFull(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	host, outside := lab.Host(t), lab.Outside(t)
	for _, chain := range []string{"PREROUTING", "OUTPUT"} { // so that the agent can be asked
		device := map[string]string{"PREROUTING": "-i", "OUTPUT": "-o"}[chain]
		host.AddRule(t, lab.IPv4, "raw", chain, device, "lo", "-j", "CT", "--notrack")
	}
	found := lab.WatchFindings(t, agent)
	server := engine.Serve(t, "full-server", []string{"--publish", "0.0.0.0:8100:7000/udp"}, "mirror", port)
	rule := host.FindRule(t, lab.IPv4, "nat", "-A DOCKER", "--dport 8100")

	limit := host.FillConntrack(t)
	before := host.ConntrackFailures(t)["drop"]
	outside.Traffic(t, "udp-spread", "--to", netip.AddrPortFrom(lab.HostAddress, 8100).String(), "--sources", strconv.Itoa(many))
	truth := host.ConntrackFailures(t)
	t.Logf("%d of %d datagrams came through to %s, conntrack says %v", rule.Packets(t), many, server.Name, truth)
	if n := truth["drop"] - before; n != many-rule.Packets(t) || n < many/2 {
		t.Fatalf("conntrack dropped %d datagrams", n)
	}

	onHost := lab.Labels{"scope": "host"}
	lab.Eventually(t, patience+shown, "the table's counts", func() bool {
		metrics := agent.Scrape(t)
		for _, event := range conntrackEvents {
			if metrics.Sum("bridgewatch_conntrack_failures_total", lab.Labels{"scope": "host", "event": event}) != host.ConntrackFailures(t)[event] {
				return false
			}
		}
		return metrics.Sum("bridgewatch_conntrack_limit", onHost) == limit && metrics.Sum("bridgewatch_conntrack_entries", onHost) >= limit-limit/100
	})
	lab.Eventually(t, appears, "the finding", func() bool { return stands(found, "conntrack-full") })
	host.Run(t, "conntrack", "--flush")
	lab.Eventually(t, clears, "the finding to clear", func() bool { return !stands(found, "conntrack-full") })
}

// stands tells whether there is a finding of the kind now, whomever it concerns.
func stands(found *lab.Findings, id string) bool {
	return slices.ContainsFunc(found.Standing(), func(f lab.Finding) bool { return f.ID == id })
}

// TestPortPressure has two containers use nearly all ports that the host's address has towards one destination.
func TestPortPressure(t *testing.T) {
	engine := lab.StartEngine(t)
	network := newNetwork(t, engine, "nat")
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	found := lab.WatchFindings(t, agent)
	outside := lab.Outside(t)
	ignored := outside.AddRule(t, lab.IPv4, "raw", "PREROUTING", "-p", "udp", "--dport", "9000", "-j", "DROP")
	to := netip.AddrPortFrom(lab.OutsideAddress, 9000)

	const half = 29000 // of 64,512 ports from 1024 on
	var clients []*lab.Container
	for i, name := range []string{"pressure-one", "pressure-two"} {
		c := engine.Run(t, name, []string{"--network", network})
		clients = append(clients, c)
		c.Start(t, "udp-spread", "--to", to.String(), "--from", strconv.Itoa(1024+i*half), "--sources", strconv.Itoa(half),
			"--rounds", "100", "--interval", "10s")
	}
	host := lab.Host(t)
	lab.Eventually(t, patience, "the ports to be in use", func() bool { return ignored.Packets(t) >= 2*half })
	if n := len(host.Published(t, "udp", to)); n != 2*half {
		t.Fatalf("conntrack has %d of %d connections", n, 2*half)
	}
	lab.Eventually(t, trackPeriod+appears, "the finding", func() bool { return stands(found, "snat-exhaustion") })
	requirePressure(t, agent, to, 2*half, clients)
	for _, c := range clients {
		c.Remove(t)
	}
	host.Run(t, "conntrack", "--delete", "--proto", "udp", "--orig-dst", to.Addr().String())
	lab.Eventually(t, clears+trackPeriod, "the finding to clear", func() bool { return !stands(found, "snat-exhaustion") })
}

// requirePressure holds what the agent says of egress against what the containers opened.
func requirePressure(t *testing.T, agent *lab.Agent, to netip.AddrPort, used int, clients []*lab.Container) {
	t.Helper()
	said := askNAT(t, agent, "--egress").Egress
	if said == nil || len(said.Pressure) == 0 {
		t.Fatal("nat --egress says nothing of ports")
	}
	const choice = 65536 - 1024
	if p := said.Pressure[0]; p.Address != lab.HostAddress || p.Destination != to || p.Used != used || p.Limit != choice {
		t.Errorf("nat --egress says %+v", p)
	}
	for _, c := range clients {
		is := func(id api.EgressIdentity) bool { return id.ContainerID == c.ID && id.Address == lab.HostAddress }
		if i := slices.IndexFunc(said.Identities, is); i < 0 || said.Identities[i].Connections != used/len(clients) || said.Identities[i].Sharing != len(clients) {
			t.Errorf("nat --egress says of %s: %+v", c.Name, said.Identities)
		}
	}
}
