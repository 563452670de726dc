// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// stale adds an entry of a client of a published port that leads to an address that nobody has.
func stale(v *View, id string, protocol uint8, from, to string) {
	e := enrich.StaleEntry{ContainerID: id, Port: 514}
	e.Protocol, e.Network = protocol, "front"
	e.Original = loader.Tuple{Source: addrPort(from), Destination: addrPort("192.168.1.5:514")}
	e.Reply = loader.Tuple{Source: addrPort(to), Destination: addrPort(from)}
	v.Tracking.Stale = append(v.Tracking.Stale, e)
}

func conntrackCases() []ruleCase {
	const invalid = "conntrack -S | grep -o ' invalid=[0-9]*'"
	lose := func(cause string, packets uint64, change func(*View)) func(*View) {
		return func(v *View) {
			v.Losses = []Loss{loss(cause, packets)}
			if change != nil {
				change(v)
			}
		}
	}
	pressure := func(used, limit int) func(*View) {
		return func(v *View) {
			v.Tracking.Pressure = []enrich.PortPressure{{
				Address: addr("192.168.1.5"), Destination: addrPort("203.0.113.7:443"), Protocol: 6, Used: used, Limit: limit,
				Example: enrich.Identity{Container: "shop-web-1"},
			}}
		}
	}
	leak := func(v *View, network string, packets, resets uint64) {
		v.Leaks = []Leak{{
			Subject: webOn(network, enrich.ScopeHost, ""), Packets: packets, Resets: resets,
			Example: loader.Egress{Device: uplinkIndex, Protocol: 6, Source: addr("172.20.0.2"), Destination: addr("203.0.113.7")},
		}}
	}
	served := func(connections uint64) func(*View) {
		return func(v *View) {
			v.Uses = []Use{webUse(enrich.NoMechanism, connections, "203.0.113.9:50000", "203.0.113.9:50000")}
		}
	}
	return []ruleCase{
		{
			"no port is left", lose("snat-exhaustion", 10, nil),
			one("snat-exhaustion", webOn("front", enrich.ScopeHost, ""),
				"conntrack -L -p tcp --orig-dst 203.0.113.7 --orig-port-dst 443 2>/dev/null | wc -l", lossFacts(10)...),
		},
		{
			"nearly no port is left", pressure(54840, 64512),
			one("snat-exhaustion", onTheHost("192.168.1.5 > 203.0.113.7:443 tcp"),
				"conntrack -L -p tcp --orig-dst 203.0.113.7 --orig-port-dst 443 2>/dev/null | wc -l",
				text("connections", "192.168.1.5 > 203.0.113.7:443 tcp"), number("ports in use", 54840, "of 64512"),
				text("one who uses them", "shop-web-1")),
		},
		{"some ports are left", pressure(84, 100), nil},
		{"nobody knows how many ports there are", pressure(84, 0), nil},
		{
			"queries lost on the host", lose("dns-5s-race", 3, func(v *View) { v.Conntrack.InsertFailed = 4 }),
			one("dns-5s-race", webOn("front", enrich.ScopeHost, ""), "conntrack -S | grep -o 'insert_failed=[0-9]*'",
				append(lossFacts(3), number("entries not inserted", 4, "in the last minute"))...),
		},
		{
			"queries lost in the container", lose("dns-5s-race", 3, func(v *View) {
				v.Losses[0].Subject.Scope = enrich.ScopeContainer
				v.Rises[webID] = Rise{InsertFailed: 5}
				v.Conntrack.InsertFailed = 7 // of others
			}),
			one("dns-5s-race", webOn("front", enrich.ScopeContainer, ""),
				"nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n conntrack -S | grep -o 'insert_failed=[0-9]*'",
				append(lossFacts(3), number("entries not inserted", 5, "in the last minute"))...),
		},
		{
			"resets", lose("ct-invalid-rst", 10, func(v *View) {
				served(1000)(v)
				v.Conntrack.Invalid = 30
			}),
			one("ct-invalid-rst", webOn("front", enrich.ScopeHost, ""), invalid,
				append(lossFacts(10), number("packets invalid on the host", 30, "in the last minute"))...),
		},
		{"late segments to a busy server", lose("ct-invalid-rst", 10, served(1001)), nil},
		{
			"leftovers leave", func(v *View) { leak(v, "front", 109, 100) },
			one("unnatted-rst-leak", webOn("front", enrich.ScopeHost, ""),
				"timeout 60 tcpdump -nn -c 10 -i eth0 src host 172.20.0.2 and tcp",
				number("RST and FIN segments untranslated", 100, "in the last minute"),
				text("example", "172.20.0.2 > 203.0.113.7 tcp"), text("left by", "eth0")),
		},
		{
			"leftovers leave by a device that is gone", func(v *View) {
				leak(v, "front", 100, 100)
				v.Leaks[0].Example.Device = 99
			},
			one("unnatted-rst-leak", webOn("front", enrich.ScopeHost, ""),
				"timeout 60 tcpdump -nn -c 10 -i UPLINK src host 172.20.0.2 and tcp",
				number("RST and FIN segments untranslated", 100, "in the last minute"), text("example", "172.20.0.2 > 203.0.113.7 tcp")),
		},
		{"few leftovers leave", func(v *View) { leak(v, "front", 99, 99) }, nil},
		{"leftovers leave where nothing is translated", func(v *View) {
			leak(v, "front", 1000, 1000)
			v.network("front").Masquerade = false
		}, nil},
		{
			"stale entries", func(v *View) {
				stale(v, webID, 17, "203.0.113.9:4000", "172.20.0.77:514")
				stale(v, webID, 17, "203.0.113.8:4000", "172.20.0.77:514")
			},
			one("stale-udp-ct", webOn("front", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv4 -p udp --orig-port-dst 514",
				number("stale entries", 2, "tracked now"), text("example", "203.0.113.9:4000 > 192.168.1.5:514 udp"),
				text("goes to", "172.20.0.77:514"), text("container's addresses", "172.20.0.2")),
		},
		{
			"stale entries, more than there was room for", func(v *View) {
				stale(v, webID, 17, "203.0.113.9:4000", "172.20.0.77:514")
				v.Tracking.MoreStale = 10
			},
			one("stale-udp-ct", webOn("front", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv4 -p udp --orig-port-dst 514",
				number("stale entries", 1, "tracked now, and 10 more of this port or others"), text("example", "203.0.113.9:4000 > 192.168.1.5:514 udp"),
				text("goes to", "172.20.0.77:514"), text("container's addresses", "172.20.0.2")),
		},
		{
			"an entry from before the port was published", func(v *View) { stale(v, webID, 17, "203.0.113.9:4000", "192.168.1.5:514") },
			one("stale-udp-ct", webOn("front", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv4 -p udp --orig-port-dst 514",
				number("stale entries", 1, "tracked now"), text("example", "203.0.113.9:4000 > 192.168.1.5:514 udp"),
				text("goes to", "the host itself"), text("container's addresses", "172.20.0.2")),
		},
		{
			"a stale entry of IPv6", func(v *View) {
				stale(v, webID, 17, "[fd00:9::9]:4000", "[fd00::77]:514")
				v.Tracking.Stale[0].Original.Destination = addrPort("[fd00:9::5]:514")
			},
			one("stale-udp-ct", webOn("front", enrich.ScopeHost, "514/udp"), "conntrack -L -f ipv6 -p udp --orig-port-dst 514",
				number("stale entries", 1, "tracked now"), text("example", "[fd00:9::9]:4000 > [fd00:9::5]:514 udp"),
				text("goes to", "[fd00::77]:514"), text("container's addresses", "172.20.0.2")),
		},
		{"a stale entry of a container that has ended", func(v *View) {
			stale(v, "0123456789abcdef", 17, "203.0.113.9:4000", "172.20.0.77:514")
		}, nil},
		{"a stale entry of TCP", func(v *View) { stale(v, webID, 6, "203.0.113.9:4000", "172.20.0.77:514") }, nil},
	}
}

// TestStaleEntriesLast: an entry that nobody uses is forgotten, so that only one that stays is worth a word.
func TestStaleEntriesLast(t *testing.T) {
	view := healthy()
	stale(&view, webID, 17, "203.0.113.9:4000", "172.20.0.77:514")
	for length, want := range map[time.Duration]int{40 * time.Second: 0, 45 * time.Second: 1} {
		if all := look(NewBoard(Config{Hold: time.Minute}), view, length); len(all) != want {
			t.Errorf("after %s: found %+v", length, all)
		}
	}
}
