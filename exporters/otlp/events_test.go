// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/loader"
)

var web = enrich.Identity{Stack: "shop", Service: "web", Container: "web.1", Network: "front"}

func exampleFinding() findings.Finding {
	return findings.Finding{
		ID: "filtered", Severity: findings.Warning, Title: "a firewall rule drops a container's packets",
		Subject: findings.Subject{Identity: web, Scope: enrich.ScopeHost, Object: "eth0"}, Since: start,
		Evidence: []findings.Fact{{Name: "packets", Number: 44, Unit: "in a minute"}, {Name: "function", Text: "nft_do_chain"}},
		Remedy:   "Look at the rules.", Confirm: "iptables -nvL", Basis: "drops", Runbook: "https://example.org/filtered.md",
	}
}

func exampleDrop() enrich.Drop {
	return enrich.Drop{
		Drop: loader.Drop{
			Counts: loader.Counts{Skbs: 1, Packets: 44, Bytes: 64000}, Reason: "NETFILTER_DROP", Function: "nft_do_chain",
			DeviceName: "br-1", EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_UDP,
			Source: netip.MustParseAddr("172.18.0.2"), SourcePort: 5000,
			Destination: netip.MustParseAddr("198.51.100.1"), DestinationPort: 53,
		},
		Identity: web, ContainerID: strings.Repeat("ab", 32), Scope: enrich.ScopeHost, DeviceKind: "bridge",
		Direction: enrich.TX, Cause: "filtered", Kind: enrich.KindFault,
	}
}

// event is what a log record says.
type event struct {
	Name       string
	Severity   string
	Time       time.Time
	Body       string
	Attributes map[string]any
}

func eventOf(r *logs.LogRecord) event {
	return event{
		r.EventName, r.SeverityNumber.String(), time.Unix(0, int64(r.TimeUnixNano)).UTC(), r.Body.GetStringValue(), texts(r.Attributes),
	}
}

func TestFindingEvents(t *testing.T) {
	for _, over := range []protocol{overGRPC, overHTTP} {
		t.Run(string(over), func(t *testing.T) {
			c := startCollector(t, over)
			e, _ := open(t, fixture("web.1"))
			f := exampleFinding()
			e.AddFindings([]findings.Change{{Finding: f}, {Finding: f, Cleared: true}})
			finish(t, e)
			_, records := c.received()
			if len(records) != 2 {
				t.Fatalf("%d records, want 2", len(records))
			}
			want := event{
				Name: "bridgewatch.finding.raised", Severity: "SEVERITY_NUMBER_WARN", Time: start,
				Body: "a firewall rule drops a container's packets; packets: 44 in a minute; function: nft_do_chain",
				Attributes: map[string]any{
					"bridgewatch.finding.id": "filtered", "bridgewatch.finding.severity": "warning",
					"docker.stack.name": "shop", "docker.service.name": "web", "container.name": "web.1", "docker.network.name": "front",
					"bridgewatch.scope": "host", "container.id": strings.Repeat("0", 63) + "1", "bridgewatch.finding.object": "eth0",
					"bridgewatch.finding.remedy": "Look at the rules.", "bridgewatch.finding.confirm": "iptables -nvL",
					"bridgewatch.finding.basis": "drops", "bridgewatch.finding.runbook": "https://example.org/filtered.md",
					"bridgewatch.finding.evidence": map[string]any{"packets": 44.0, "function": "nft_do_chain"},
				},
			}
			if diff := cmp.Diff(want, eventOf(records[0])); diff != "" {
				t.Error(diff)
			}
			cleared := eventOf(records[1])
			want.Name, want.Severity, want.Time = "bridgewatch.finding.cleared", "SEVERITY_NUMBER_INFO", cleared.Time
			if diff := cmp.Diff(want, cleared); diff != "" {
				t.Error(diff)
			}
			if time.Since(cleared.Time) > time.Minute {
				t.Errorf("it was cleared at %v, not now", cleared.Time)
			}
		})
	}
}

func TestSeverity(t *testing.T) {
	for s, want := range map[findings.Severity]string{findings.Critical: "ERROR", findings.Warning: "WARN", findings.Info: "INFO"} {
		if got := severity(s).String(); got != want {
			t.Errorf("%s is %s, want %s", s, got, want)
		}
	}
}

// An identity that several containers share tells none of them.
func TestFindingOfSeveral(t *testing.T) {
	c := startCollector(t, overHTTP)
	e, _ := open(t, fixture("web.1", "web.1"))
	e.AddFindings([]findings.Change{{Finding: exampleFinding()}})
	finish(t, e)
	_, records := c.received()
	if id := texts(records[0].Attributes)["container.id"]; id != nil {
		t.Errorf("container.id is %v, want none", id)
	}
}

func TestDropEvents(t *testing.T) {
	received := exampleDrop()
	received.Direction = enrich.RX
	arp := exampleDrop()
	arp.EtherType, arp.SourcePort, arp.DestinationPort = unix.ETH_P_ARP, 0, 0
	ping := exampleDrop()
	ping.Protocol, ping.SourcePort, ping.DestinationPort = unix.IPPROTO_ICMP, 8, 0
	nowhere := exampleDrop()
	nowhere.Source, nowhere.Destination = netip.Addr{}, netip.Addr{}
	refused := exampleDrop()
	refused.Kind, refused.Cause = enrich.KindApplication, "no-listener"
	hostile := exampleDrop()
	hostile.DeviceName, hostile.Container = "br\xff", "web\xfe"

	ends := map[string]any{
		"network.local.address": "172.18.0.2", "network.local.port": int64(5000),
		"network.peer.address": "198.51.100.1", "network.peer.port": int64(53),
		"network.transport": "udp", "network.type": "ipv4",
	}
	without := map[string]any{}
	for key := range ends {
		without[key] = nil
	}
	for _, tc := range []struct {
		name string
		drop enrich.Drop
		want map[string]any // attributes that differ; nil: not there
		as   string         // severity
	}{
		{"sent", exampleDrop(), nil, "WARN"},
		{"received", received, map[string]any{
			"network.io.direction": "receive", "network.local.address": "198.51.100.1", "network.local.port": int64(53),
			"network.peer.address": "172.18.0.2", "network.peer.port": int64(5000),
		}, "WARN"},
		{"arp", arp, map[string]any{"network.local.port": nil, "network.peer.port": nil, "network.transport": nil, "network.type": nil}, "WARN"},
		{"ping", ping, map[string]any{"network.local.port": nil, "network.peer.port": nil, "network.transport": "icmp"}, "WARN"},
		{"no addresses", nowhere, without, "WARN"},
		{"application", refused, map[string]any{"bridgewatch.kind": "application", "bridgewatch.cause": "no-listener"}, "INFO"},
		{"no UTF-8", hostile, map[string]any{"network.interface.name": "br\ufffd", "container.name": "web\ufffd"}, "WARN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startCollector(t, overHTTP)
			e, _ := open(t, fixture())
			e.AddDrops([]enrich.Drop{tc.drop})
			finish(t, e)
			_, records := c.received()
			if len(records) != 1 {
				t.Fatalf("%d records, want 1", len(records))
			}
			want := map[string]any{
				"docker.stack.name": "shop", "docker.service.name": "web", "container.name": "web.1", "docker.network.name": "front",
				"container.id": strings.Repeat("ab", 32), "bridgewatch.scope": "host", "bridgewatch.device_kind": "bridge",
				"network.io.direction": "transmit", "network.interface.name": "br-1", "error.type": "NETFILTER_DROP",
				"bridgewatch.function": "nft_do_chain", "bridgewatch.cause": "filtered", "bridgewatch.kind": "fault",
				"bridgewatch.packets": int64(44), "bridgewatch.bytes": int64(64000),
			}
			for _, more := range []map[string]any{ends, tc.want} {
				for key, value := range more {
					want[key] = value
					if value == nil {
						delete(want, key)
					}
				}
			}
			got := eventOf(records[0])
			if diff := cmp.Diff(want, got.Attributes); diff != "" {
				t.Error(diff)
			}
			if got.Name != "bridgewatch.drop" || got.Severity != "SEVERITY_NUMBER_"+tc.as {
				t.Errorf("it is %s, %s", got.Name, got.Severity)
			}
		})
	}
}

// Noise is no event, and of each cause there is one in a second.
func TestDropSample(t *testing.T) {
	c := startCollector(t, overHTTP)
	e, _ := open(t, fixture())
	var drops []enrich.Drop
	for _, cause := range []string{"filtered", "no-route", "multicast"} {
		for range 100 {
			d := exampleDrop()
			d.Cause = cause
			if cause == "multicast" {
				d.Kind = enrich.KindBenign
			}
			drops = append(drops, d)
		}
	}
	now := start
	for range 3 {
		e.events.addDrops(drops, now)
		e.events.addDrops(drops, now.Add(900*time.Millisecond))
		now = now.Add(time.Second)
	}
	finish(t, e)
	_, records := c.received()
	got := make(map[any]int)
	for _, r := range records {
		got[texts(r.Attributes)["bridgewatch.cause"]]++
	}
	if diff := cmp.Diff(map[any]int{"filtered": 3, "no-route": 3}, got); diff != "" {
		t.Error(diff)
	}
	if n := len(e.events.sample.taken); n > 2 {
		t.Errorf("it remembers %d causes, more than those of a second", n)
	}
}
