// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// raised is what a case expects: all that a rule decides itself.
type raised struct {
	ID       string
	Subject  Subject
	Evidence []Fact
	Confirm  string
}

// ruleCase changes the healthy host. It lists all that is found then.
type ruleCase struct {
	name   string
	change func(*View)
	want   []raised
}

func onTheHost(object string) Subject { return Subject{Scope: enrich.ScopeHost, Object: object} }

// one is a single expected finding.
func one(id string, subject Subject, confirm string, evidence ...Fact) []raised {
	return []raised{{id, subject, evidence, confirm}}
}

func allCases() [][]ruleCase {
	return [][]ruleCase{
		filteringCases(), linkCases(), routeCases(), tableCases(), publishedCases(), sourceCases(), conntrackCases(), conflictCases(),
		inventoryCases(), dnsCases(), nameCases(), overlayCases(), ipvsCases(), swarmCases(),
	}
}

func TestRules(t *testing.T) {
	for _, cases := range allCases() {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				view := healthy()
				c.change(&view)
				requireRaised(t, look(NewBoard(Config{Hold: time.Minute, UnusedAfter: time.Hour}), view, lookFor(c.want)), c.want)
			})
		}
	}
}

// requireRaised compares what a case expects with what a board shows.
func requireRaised(t *testing.T, all []Finding, want []raised) {
	t.Helper()
	var got []raised
	for _, f := range all {
		got = append(got, raised{f.ID, f.Subject, f.Evidence, f.Confirm})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// TestLosses covers all rules that drops alone can raise, for what one container lost, and just not.
func TestLosses(t *testing.T) {
	victims := map[string]uint64{ // and how many packets it takes
		"filtered": 10, "docker-user": 10, "own-firewall": 10, "link-down": 10, "foreign-program": 10, "rp-filter": 10, "direct-route-drop": 10, "unpublished-port": 10,
		"icc-false": 10, "internal-net": 10, "isolation-between-bridges": 10, "veth-down": 10, "mtu-bridge": 10, "hairpin": 10,
		"csum-offload": 10, "v6-disabled": 10, "macvlan-host": 10, "no-route": 10, "localnet": 10, "ttl-loop": 100,
		"snat-exhaustion": 10, "dns-5s-race": 3, "ct-invalid-rst": 10,
		"neigh-queue": 10, "qdisc": 100, "no-memory": 10, "fragment-lost": 10, "unknown": 10,
	}
	host := []string{"forward-policy-drop", "cpu-backlog", "ip-forward-off", "conntrack-full", "neigh-overflow"}
	find := func(losses ...Loss) []Finding {
		view := healthy()
		view.Losses, view.Uses, view.Conntrack = losses, nil, ConntrackRise{}
		return look(NewBoard(Config{Hold: time.Minute, UnusedAfter: time.Hour}), view, 0)
	}
	for cause, least := range victims {
		t.Run(cause, func(t *testing.T) {
			all := find(loss(cause, least))
			if len(all) != 1 || all[0].ID != cause {
				t.Fatalf("%d packets: found %+v", least, all)
			}
			if diff := cmp.Diff(webOn("front", enrich.ScopeHost, ""), all[0].Subject); diff != "" {
				t.Errorf("subject (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(lossFacts(float64(least)), all[0].Evidence); diff != "" {
				t.Errorf("evidence (-want +got):\n%s", diff)
			}
			if all := find(loss(cause, least-1)); len(all) != 0 {
				t.Errorf("%d packets: found %+v", least-1, all)
			}
			nobodys := loss(cause, 100000)
			nobodys.Subject, nobodys.Example.ContainerID = onTheHost(""), ""
			if all := find(nobodys); len(all) != 0 {
				t.Errorf("of nobody known: found %+v", all)
			}
		})
	}
	for _, cause := range host {
		t.Run(cause, func(t *testing.T) {
			nobodys := loss(cause, 4)
			nobodys.Subject, nobodys.Example.ContainerID = onTheHost(""), ""
			others := nobodys
			others.Subject.Scope = enrich.ScopeUnknown // another namespace than the host's and the containers'
			others.Packets = 100000
			all := find(loss(cause, 6), nobodys, others)
			if len(all) != 1 || all[0].ID != cause {
				t.Fatalf("found %+v", all)
			}
			if diff := cmp.Diff(onTheHost(""), all[0].Subject); diff != "" {
				t.Errorf("subject (-want +got):\n%s", diff)
			}
			evidence := append(lossFacts(10)[:1:1], number("containers hit", 1, ""), text("containers", "shop-web-1"))
			if diff := cmp.Diff(append(evidence, lossFacts(10)[1:]...), all[0].Evidence); diff != "" {
				t.Errorf("evidence (-want +got):\n%s", diff)
			}
			if all := find(loss(cause, 5), nobodys, others); len(all) != 0 {
				t.Errorf("too few: found %+v", all)
			}
		})
	}
	for _, cause := range []string{"host-firewall", "no-listener", "multicast", "peer-ended", "rcvbuf"} {
		if all := find(loss(cause, 100000)); len(all) != 0 {
			t.Errorf("%s: found %+v", cause, all)
		}
	}
}

// TestLossDetails covers what evidence says where a drop says little, and the commands.
func TestLossDetails(t *testing.T) {
	bare := loss("filtered", 50)
	bare.Example = enrich.Drop{ContainerID: "0123456789abcdef"}
	bare.Example.Direction = enrich.RX
	inside := loss("no-route", 50)
	inside.Subject.Scope = enrich.ScopeContainer
	ping := loss("unknown", 50)
	ping.Example.Protocol, ping.Example.SourcePort, ping.Example.DestinationPort = 1, 8, 0
	arp := loss("dead-endpoint", 50)
	arp.Example.EtherType, arp.Example.Destination = 0x0806, addr("172.20.0.9")
	program := loss("foreign-program", 50)
	gone := loss("unpublished-port", 50)
	gone.Example.ContainerID = "0123456789abcdef"
	evil := loss("qdisc", 500)
	evil.Example.DeviceName = "';reboot;'"
	spaced := loss("icc-false", 50)
	spaced.Subject.Network = "my net"
	view := healthy()
	view.Losses = []Loss{bare, inside, ping, arp, program, gone, evil, spaced}

	type detail struct{ Example, Confirm string }
	got := map[string]detail{}
	for _, f := range look(NewBoard(Config{Hold: time.Minute}), view, 0) {
		d := detail{Confirm: f.Confirm}
		for _, fact := range f.Evidence {
			if fact.Name == "example" {
				d.Example = fact.Text
			}
		}
		got[f.ID] = d
	}
	tcp := "172.20.0.2:40000 > 203.0.113.7:443 tcp"
	want := map[string]detail{
		"filtered":         {"", "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -iwE 'drop|reject'"},
		"no-route":         {tcp, "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n ip route get 203.0.113.7"},
		"unknown":          {"172.20.0.2 > 203.0.113.7 icmp", "perf trace -a --event skb:kfree_skb sleep 10 2>&1 | grep -e some_function"},
		"dead-endpoint":    {"172.20.0.2:40000 > 172.20.0.9:443 arp", "ip neigh show 172.20.0.9"},
		"foreign-program":  {tcp, "bpftool net show dev br-f0f0f0f0f0f0"},
		"unpublished-port": {tcp, "docker port 0123456789ab"},
		"qdisc":            {tcp, `tc -s qdisc show dev ''\'';reboot;'\'''`},
		"icc-false":        {tcp, "docker network inspect -f '{{json .Options}}' 'my net'"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("details (-want +got):\n%s", diff)
	}
}

func TestRestartIsNotDeath(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(*Loss)
		expected int
	}{
		{"to nobody, at once", func(l *Loss) { l.First = start }, 1},
		{"to a container that restarts", func(l *Loss) { l.First, l.ToContainer = start.Add(-9*time.Second), true }, 0},
		{"to a container that does not come back", func(l *Loss) { l.First, l.ToContainer = start.Add(-10*time.Second), true }, 1},
	} {
		for _, cause := range []string{"dead-endpoint", "neigh-queue"} {
			l := loss(cause, 50)
			l.Example.Destination = addr("172.20.0.9")
			c.change(&l)
			view := healthy()
			view.Losses = []Loss{l}
			if all := look(NewBoard(Config{Hold: time.Minute}), view, 0); len(all) != c.expected {
				t.Errorf("%s, %s: found %+v", cause, c.name, all)
			}
		}
	}
}

// TestDeadEndpoint covers whose business a silent neighbour is.
func TestDeadEndpoint(t *testing.T) {
	const inWeb = "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n "
	behind := func(v *View) { // a route by way of a machine of the LAN, into the range of a broader one without, and so on
		v.Host.Routes = append(v.Host.Routes,
			loader.Route{Destination: prefix("198.51.100.0/24"), Device: uplinkIndex},
			loader.Route{Destination: prefix("198.51.100.128/25"), Device: uplinkIndex, Gateway: addr("192.168.1.9")},
			loader.Route{Destination: prefix("198.51.0.0/16"), Device: uplinkIndex, Gateway: addr("192.168.1.8")})
	}
	for _, c := range []struct {
		name    string
		to      string
		network string // inside a container that is on it; "" on the host
		change  func(*View)
		hop     string // the gateway that is named; "" none
		confirm string // "" nothing is raised
	}{
		{"in the container's own network", "172.20.0.9", "front", nil, "", inWeb + "ip neigh show 172.20.0.9"},
		{"in another's", "172.18.0.9", "", nil, "", "ip neigh show 172.18.0.9"},
		{"in an overlay", "10.9.1.9", "stack_back", nil, "", inWeb + "ip neigh show 10.9.1.9"},
		{"a task's that has just ended", "10.9.1.9", "stack_back", func(v *View) { v.Losses[0].ToContainer = true }, "", ""},
		{"on the LAN", "192.168.1.50", "", nil, "", ""},
		{"on the LAN, by macvlan", "192.168.1.50", "lan", nil, "", ""},
		{"a container that was there, by macvlan", "192.168.1.50", "lan", func(v *View) { v.Losses[0].ToContainer = true }, "", inWeb + "ip neigh show 192.168.1.50"},
		{"the host's gateway", "192.168.1.1", "", nil, "192.168.1.1", "ip neigh show 192.168.1.1"},
		{"behind a gateway", "198.51.100.200", "", behind, "192.168.1.9", "ip neigh show 192.168.1.9"},
		{"beside the network behind a gateway", "198.51.100.7", "", behind, "", ""},
		{"behind a gateway, by macvlan", "198.51.100.7", "lan", func(v *View) {
			v.network("lan").Gateways = []netip.Addr{addr("2001:db8::1"), addr("192.168.1.3")}
		}, "192.168.1.3", inWeb + "ip neigh show 192.168.1.3"},
		{"behind a gateway of a network that is not known", "198.51.100.7", "gone", nil, "", ""},
		{"where no route leads", "2001:db8::7", "", nil, "", ""},
		{"nobody knows where", "", "", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := loss("dead-endpoint", 10)
			l.Example.Destination, _ = netip.ParseAddr(c.to)
			if c.network != "" {
				l.Subject.Network, l.Subject.Scope = c.network, enrich.ScopeContainer
			}
			view := healthy()
			view.Losses = []Loss{l}
			if c.change != nil {
				c.change(&view)
			}
			var hop, confirm string
			for _, f := range look(NewBoard(Config{Hold: time.Minute}), view, 0) {
				confirm = f.Confirm
				if last := f.Evidence[len(f.Evidence)-1]; last.Name == "next hop" {
					hop = last.Text
				}
			}
			wantHop := ""
			if c.hop != "" {
				wantHop = c.hop + ", the gateway"
			}
			if confirm != c.confirm || hop != wantHop {
				t.Errorf("confirmed by %q, next hop %q; want %q, %q", confirm, hop, c.confirm, wantHop)
			}
			view.Losses[0].Packets--
			if all := look(NewBoard(Config{Hold: time.Minute}), view, 0); len(all) != 0 {
				t.Errorf("too few: found %+v", all)
			}
		})
	}
}

// TestLeakSettles: who has a route back may need a moment to show it.
func TestLeakSettles(t *testing.T) {
	view := healthy()
	view.Leaks = []Leak{{Subject: webOn("front", enrich.ScopeHost, ""), Packets: 1000}}
	view.Leaks[0].Example.Source = addr("172.20.0.2")
	for length, want := range map[time.Duration]int{0: 0, settle: 1} {
		if all := look(NewBoard(Config{Hold: time.Minute}), view, length); len(all) != want {
			t.Errorf("after %s: found %+v", length, all)
		}
	}
}

func filteringCases() []ruleCase {
	leak := func(v *View, network string, packets, resets uint64) {
		v.Leaks = []Leak{{
			Subject: webOn(network, enrich.ScopeHost, ""), Packets: packets, Resets: resets,
			Example: loader.Egress{Device: uplinkIndex, Protocol: 17, Source: addr("172.20.0.2"), Destination: addr("8.8.8.8")},
		}}
	}
	const sysctl = "sysctl net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables"
	const nat = "sh -c 'iptables-save -t nat; ip6tables-save -t nat; nft list ruleset' 2>/dev/null | grep -iwE 'masquerade|snat'"
	unsent := func(v *View) { v.Rises[webID] = Rise{OutNoRoutes: 10} }
	return []ruleCase{
		{
			"icc=false is not enforced", func(v *View) {
				v.network("front").ICC = false
				v.network("docker_gwbridge").ICC = true
				v.Host.BridgeNetfilter4 = loader.Off
			},
			one("icc-bypass", onNetwork("front"), sysctl,
				text("net.bridge.bridge-nf-call-iptables", "off"), number("ports on the bridge", 2, "")),
		},
		{
			"icc=false without br_netfilter, on the Swarm's bridge", func(v *View) { v.Host.BridgeNetfilter4 = loader.Absent },
			one("icc-bypass", onNetwork("docker_gwbridge"), sysctl,
				text("net.bridge.bridge-nf-call-iptables", "not there"), number("ports on the bridge", 2, "")),
		},
		{
			"icc=false, but IPv6 frames pass", func(v *View) {
				v.network("docker_gwbridge").Subnets = append(v.network("docker_gwbridge").Subnets, prefix("fd00:1::/64"))
				v.Host.BridgeNetfilter6 = loader.Off
			},
			one("icc-bypass", onNetwork("docker_gwbridge"), sysctl,
				text("net.bridge.bridge-nf-call-ip6tables", "off"), number("ports on the bridge", 2, "")),
		},
		{"icc=false, IPv6 frames pass where there is no IPv6", func(v *View) { v.Host.BridgeNetfilter6 = loader.Off }, nil},
		{"icc=false with one container", func(v *View) {
			v.Host.BridgeNetfilter4 = loader.Off
			v.Host.Links = v.Host.Links[:8] // without the second port of docker_gwbridge
		}, nil},
		{
			"untranslated", func(v *View) { leak(v, "front", 30, 20) },
			one("iptables-false", webOn("front", enrich.ScopeHost, ""), nat,
				number("packets untranslated", 10, "in the last minute"),
				text("example", "172.20.0.2 > 8.8.8.8 udp"), text("left by", "eth0")),
		},
		{
			"internal, and programs try to get out", func(v *View) {
				unsent(v)
				v.network("front").Internal = true
			},
			one("internal-net", webOn("front", enrich.ScopeContainer, ""), "docker network inspect -f '{{.Internal}}' front",
				number("IPv4 packets not sent", 10, "in the last minute")),
		},
		{
			"internal, of two networks", func(v *View) {
				unsent(v)
				v.network("front").Internal, v.network("lan").Internal = true, true
				web := containerOf(v, webID)
				web.Endpoints = append(web.Endpoints, enrich.Endpoint{NetworkID: "n7", Network: "lan"})
			},
			one("internal-net", webOn("", enrich.ScopeContainer, ""), "docker network inspect -f '{{.Internal}}' front",
				number("IPv4 packets not sent", 10, "in the last minute")),
		},
		{"untranslated on purpose", func(v *View) {
			leak(v, "front", 1000, 0)
			v.network("front").Masquerade = false
		}, nil},
		{"untranslated since routed", func(v *View) {
			leak(v, "front", 1000, 0)
			v.network("front").GatewayMode4 = "routed"
		}, nil},
		{"untranslated on macvlan", func(v *View) { leak(v, "lan", 1000, 0) }, nil},
		{"untranslated on a network that is not known", func(v *View) { leak(v, "", 1000, 0) }, nil},
	}
}

func linkCases() []ruleCase {
	mtu := func(v *View, index, mtu int) { v.link(index).MTU = mtu }
	show := "ip -o link show | grep -e br-f0f0f0f0f0f0"
	mtus := func(bridge, least float64, at string, most, uplink float64) []Fact {
		return []Fact{
			number("MTU of the bridge", bridge, "bytes"), number("smallest on the path", least, "bytes"), text("smallest at", at),
			number("largest on the path", most, "bytes"), number("MTU of the uplink eth0", uplink, "bytes"),
		}
	}
	tooBig := func(v *View, repeated uint64) {
		l := loss("mtu-route", 5000)
		l.Repeated = repeated
		v.Losses = []Loss{l}
	}
	const macs = `docker network inspect -f '{{range .Containers}}{{.MacAddress}} {{.Name}}{{"\n"}}{{end}}' front | grep -i `
	return []ruleCase{
		{
			"path MTU ignored", func(v *View) { tooBig(v, 3) },
			one("mtu-route", webOn("front", enrich.ScopeHost, ""), "ip route get 203.0.113.7", lossFacts(5000)...),
		},
		{"path MTU learnt, by many destinations", func(v *View) { tooBig(v, 2) }, nil},
		{
			"port narrower", func(v *View) { mtu(v, webPort, 1300) },
			one("mtu-mismatch", onNetwork("front"), show, mtus(1500, 1300, "veth0000001", 1500, 1460)...),
		},
		{
			"container's end narrower", func(v *View) { v.Containers[webID].Links[0].MTU = 1400 },
			one("mtu-mismatch", onNetwork("front"), show, mtus(1500, 1400, "eth0 in shop-web-1", 1500, 1460)...),
		},
		{
			"bridge narrower", func(v *View) { mtu(v, frontIndex, 1400) },
			one("mtu-mismatch", onNetwork("front"), show, mtus(1400, 1400, "br-f0f0f0f0f0f0", 1500, 1460)...),
		},
		{
			"all large, but the uplink", func(v *View) {
				for _, index := range []int{frontIndex, webPort, dbPort} {
					mtu(v, index, 9000)
				}
				v.Containers[webID].Links[0].MTU, v.Containers[dbID].Links[0].MTU = 9000, 9000
			},
			one("mtu-mismatch", onNetwork("front"), show, mtus(9000, 9000, "veth0000001", 9000, 1460)...),
		},
		{"all small", func(v *View) {
			for _, index := range []int{frontIndex, webPort, dbPort} {
				mtu(v, index, 1300)
			}
			v.Containers[webID].Links[0].MTU, v.Containers[dbID].Links[0].MTU = 1300, 1300
		}, nil},
		{"nobody on a bridge of another MTU", func(v *View) {
			v.Host.Links = append(v.Host.Links, loader.Link{Index: 50, Name: "br-000000000004", Kind: "bridge", MTU: 9000})
		}, nil},
		{
			"bridge nearly full", func(v *View) { addPorts(v, 898) },
			one("bridge-full", onNetwork("front"), "ip -o link show master br-f0f0f0f0f0f0 | wc -l", number("ports", 900, "of 1024")),
		},
		{"bridge with many ports", func(v *View) { addPorts(v, 897) }, nil},
		{
			"one MAC given twice", func(v *View) {
				containerOf(v, webID).Endpoints[0].MAC = mac(2)
				v.Containers = nil
				v.Host.Neighbours = nil
			},
			one("dup-mac", Subject{Identity: enrich.Identity{Network: "front"}, Scope: enrich.ScopeHost, Object: "02:42:00:00:00:02"},
				macs+"02:42:00:00:00:02", number("interfaces", 2, ""), text("containers", "shop-db-1, shop-web-1")),
		},
		{
			"one MAC taken twice", func(v *View) { v.Containers[dbID].Links[0].MAC = mac(1) },
			one("dup-mac", Subject{Identity: enrich.Identity{Network: "front"}, Scope: enrich.ScopeHost, Object: "02:42:00:00:00:01"},
				macs+"02:42:00:00:00:01", number("interfaces", 2, ""), text("containers", "shop-db-1, shop-web-1")),
		},
		{"one MAC on two networks", func(v *View) { containerOf(v, lanID).Endpoints[0].MAC = mac(1) }, nil},
		{"one MAC on ipvlan", func(v *View) {
			v.network("lan").Driver = "ipvlan"
			db := containerOf(v, dbID)
			db.Endpoints = append(db.Endpoints, enrich.Endpoint{NetworkID: "n7", Network: "lan", MAC: mac(4)})
		}, nil},
		{"no MAC at all", func(v *View) {
			containerOf(v, dbID).Endpoints[0].MAC = [6]byte{}
			containerOf(v, webID).Endpoints[0].MAC = [6]byte{}
		}, nil},
	}
}

func addPorts(v *View, n int) {
	for i := range n {
		v.Host.Links = append(v.Host.Links, loader.Link{
			Index: 1000 + i, Name: fmt.Sprintf("veth%07x", 1000+i), Kind: "veth", Master: frontIndex, Peer: 2, PeerNetnsID: 100 + i, MTU: 1500})
	}
}

func routeCases() []ruleCase {
	const sysctl = "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
	const inWeb = "nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n "
	answered := func(v *View, device int, address string, mac [6]byte) {
		v.Host.Neighbours = []loader.Neighbour{{Device: device, Address: addr(address), MAC: mac, Confirmed: true}}
	}
	route := func(v *View, destination string, device int) {
		v.Host.Routes = append(v.Host.Routes, loader.Route{Destination: prefix(destination), Device: device, Protocol: "static"})
	}
	overlaps := func(route string) []raised {
		return one("route-overlap", onNetwork("front"), "sh -c 'ip -4 route; ip -6 route' | grep -e br-f0f0f0f0f0f0 -e tun0",
			text("subnet", "172.20.0.0/16"), text("route", route+" dev tun0 proto static"))
	}
	advertised := func(v *View) { v.Host.RouterAdvertised6 = []int{frontIndex, uplinkIndex, 999} }
	return []ruleCase{
		{
			"forwarding off", func(v *View) { v.Host.Forwarding4 = loader.Off },
			one("ip-forward-off", onTheHost(""), sysctl, text("net.ipv4.ip_forward", "off"),
				text("networks that need it", "bridge, docker_gwbridge, front")),
		},
		{
			"forwarding off, and packets lost", func(v *View) {
				v.Host.Forwarding4 = loader.Off
				v.Losses = []Loss{loss("ip-forward-off", 50)}
			},
			one("ip-forward-off", onTheHost(""), sysctl, append([]Fact{
				text("net.ipv4.ip_forward", "off"), text("networks that need it", "bridge, docker_gwbridge, front"),
				lossFacts(50)[0], number("containers hit", 1, ""), text("containers", "shop-web-1"),
			}, lossFacts(50)[1:]...)...),
		},
		{
			"IPv6 forwarding off", func(v *View) {
				v.network("front").Subnets = append(v.network("front").Subnets, prefix("fd00:1::/64"))
				v.Host.Forwarding6 = loader.Off
			},
			one("ip-forward-off", onTheHost(""), sysctl, text("net.ipv6.conf.all.forwarding", "off"),
				text("networks that need it", "front")),
		},
		{
			"forwarding off, nobody on the default bridge", func(v *View) {
				v.Host.Forwarding4 = loader.Off
				for _, port := range []int{buildPort, 15} {
					v.link(port).Master = 0
				}
			},
			one("ip-forward-off", onTheHost(""), sysctl, text("net.ipv4.ip_forward", "off"),
				text("networks that need it", "docker_gwbridge, front")),
		},
		{"forwarding off, nobody on any bridge", func(v *View) {
			v.Host.Forwarding4 = loader.Off
			for i := range v.Host.Links {
				v.Host.Links[i].Master = 0
			}
			v.Containers = nil
		}, nil},
		{
			"a program has no route", func(v *View) { v.Rises[webID] = Rise{OutNoRoutes: 10} },
			one("no-route", webOn("front", enrich.ScopeContainer, ""), inWeb+"ip route get ADDRESS",
				number("IPv4 packets not sent", 10, "in the last minute")),
		},
		{
			"a program has no route, and packets are lost", func(v *View) {
				l := loss("no-route", 50)
				l.Subject.Scope = enrich.ScopeContainer
				v.Losses = []Loss{l}
				v.Rises[webID] = Rise{OutNoRoutes: 10}
			},
			one("no-route", webOn("front", enrich.ScopeContainer, ""), inWeb+"ip route get 203.0.113.7",
				append(lossFacts(50), number("IPv4 packets not sent", 10, "in the last minute"))...),
		},
		{
			"a program has no route, on internal and other networks", func(v *View) {
				v.Rises[webID] = Rise{OutNoRoutes: 10}
				v.network("front").Internal = true
				web := containerOf(v, webID)
				web.Endpoints = append(web.Endpoints, enrich.Endpoint{NetworkID: "n7", Network: "lan"})
			},
			one("no-route", webOn("", enrich.ScopeContainer, ""), inWeb+"ip route get ADDRESS",
				number("IPv4 packets not sent", 10, "in the last minute")),
		},
		{"a program without any network has no route", func(v *View) {
			v.Rises[webID] = Rise{OutNoRoutes: 1000}
			containerOf(v, webID).NetworkMode = "none"
		}, nil},
		{"IPv6 forwarding off without IPv6", func(v *View) { v.Host.Forwarding6 = loader.Off }, nil},
		{"forwarding not known", func(v *View) { v.Host.Forwarding4 = loader.Absent }, nil},
		{"forwarding off, internal networks only", func(v *View) {
			v.Host.Forwarding4 = loader.Off
			for _, name := range []string{"bridge", "docker_gwbridge"} {
				v.network(name).Internal = true
			}
			v.network("front").GatewayMode4 = "isolated"
		}, nil},
		{
			"one address given twice", func(v *View) {
				containerOf(v, dbID).Endpoints[0].Addresses = []netip.Addr{addr("172.20.0.2")}
			},
			one("dup-ip", Subject{
				Identity: enrich.Identity{Stack: "shop", Service: "db", Container: "shop-db-1", Network: "front"},
				Scope:    enrich.ScopeHost, Object: "172.20.0.2",
			}, "ip neigh show 172.20.0.2", text("address", "172.20.0.2"), text("container", "shop-db-1"), text("also of", "shop-web-1")),
		},
		{
			"another container answers", func(v *View) { answered(v, frontIndex, "172.20.0.2", mac(2)) },
			one("dup-ip", webOn("front", enrich.ScopeHost, "172.20.0.2"), "ip neigh show 172.20.0.2",
				text("address", "172.20.0.2"), text("container", "shop-web-1"),
				text("its MAC address", "02:42:00:00:00:01"), text("answered by", "02:42:00:00:00:02")),
		},
		{
			"a device of the host answers", func(v *View) { answered(v, frontIndex, "172.20.0.2", mac(200)) },
			one("dup-ip", webOn("front", enrich.ScopeHost, "172.20.0.2"), "ip neigh show 172.20.0.2",
				text("address", "172.20.0.2"), text("container", "shop-web-1"),
				text("its MAC address", "02:42:00:00:00:01"), text("answered by", "02:42:00:00:00:c8")),
		},
		{
			"another host answers for one on macvlan", func(v *View) { answered(v, uplinkIndex, "192.168.1.77", mac(202)) },
			one("dup-ip", Subject{
				Identity: enrich.Identity{Container: "printer", Network: "lan"}, Scope: enrich.ScopeHost, Object: "192.168.1.77",
			}, "ip neigh show 192.168.1.77", text("address", "192.168.1.77"), text("container", "printer"),
				text("its MAC address", "02:42:00:00:00:04"), text("answered by", "02:42:00:00:00:ca")),
		},
		{"another container answered once", func(v *View) {
			answered(v, frontIndex, "172.20.0.2", mac(2))
			v.Host.Neighbours[0].Confirmed = false
		}, nil},
		{"the container has another MAC by now", func(v *View) {
			answered(v, frontIndex, "172.20.0.2", mac(50))
			v.Containers[webID].Links[0].MAC = mac(50)
		}, nil},
		{"the address was another's on another device", func(v *View) { answered(v, uplinkIndex, "172.20.0.2", mac(2)) }, nil},
		{"a broader route", func(v *View) { route(v, "172.20.0.0/14", 18) }, overlaps("172.20.0.0/14")},
		{"a route into the subnet", func(v *View) { route(v, "172.20.5.0/24", 18) }, overlaps("172.20.5.0/24")},
		{"the same route", func(v *View) { route(v, "172.20.0.0/16", 18) }, overlaps("172.20.0.0/16")},
		{"a very broad route", func(v *View) { route(v, "160.0.0.0/3", 18) }, nil},
		{"a route by a device that is gone", func(v *View) { route(v, "172.20.0.0/16", 99) }, nil},
		{"a route by the bridge", func(v *View) { route(v, "172.20.5.0/24", frontIndex) }, nil},
		{"a route into a subnet that the host has no route to", func(v *View) {
			route(v, "172.20.5.0/24", 18)
			v.Host.Routes[3].Destination = prefix("172.30.0.0/16")
		}, nil},
		{
			"router advertisements ignored", advertised,
			one("v6-ra-lost", onTheHost("eth0"), "sysctl net/ipv6/conf/eth0/accept_ra net/ipv6/conf/eth0/forwarding",
				text("device", "eth0"), text("forwarding", "on"), number("accept_ra", 1, ""), text("IPv6 default route", "none")),
		},
		{"router advertisements not needed", func(v *View) {
			advertised(v)
			route(v, "::/0", uplinkIndex)
		}, nil},
	}
}

func tableCases() []ruleCase {
	const conntrack = "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"
	const neighbours = "ip -s ntable show name arp_cache"
	return []ruleCase{
		{
			"conntrack nearly full", func(v *View) { v.Host.Conntrack.Entries = 850 },
			one("conntrack-full", onTheHost(""), conntrack, number("conntrack entries", 850, ""), number("conntrack limit", 1000, "")),
		},
		{"conntrack's limit not known", func(v *View) { v.Host.Conntrack.Limit = 0 }, nil},
		{
			"neighbours nearly full", func(v *View) { v.Host.Neighbours4.Entries, v.Host.Neighbours6.Entries = 1000, 871 },
			one("neigh-overflow", onTheHost(""), neighbours, number("IPv4 entries", 1000, ""), number("IPv4 limit", 1024, ""),
				number("IPv6 entries", 871, ""), number("IPv6 limit", 1024, "")),
		},
		{
			"neighbours refused", func(v *View) { v.NeighboursRefused = 10 },
			one("neigh-overflow", onTheHost(""), neighbours, number("entries refused", 10, "in the last minute")),
		},
		{"few neighbours refused", func(v *View) { v.NeighboursRefused = 9 }, nil},
		{"many neighbours", func(v *View) { v.Host.Neighbours4.Entries, v.Host.Neighbours6.Entries = 870, 870 }, nil},
		{
			"slow to accept", func(v *View) { v.Rises[webID] = Rise{ListenOverflows: 10, ListenDrops: 11} },
			one("accept-overflow", webOn("", enrich.ScopeContainer, ""),
				"nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n nstat -az TcpExtListenOverflows TcpExtListenDrops",
				number("connections refused", 10, "in the last minute"), number("listen drops", 11, "in the last minute")),
		},
	}
}

func publishedCases() []ruleCase {
	inbound := func(v *View, id string, port uint16, network, remote string, packets uint64) {
		v.Inbound = append(v.Inbound, Inbound{
			Subject:     Subject{Identity: enrich.Identity{Network: network}, Scope: enrich.ScopeContainer},
			ContainerID: id, Port: port, Protocol: 6, Packets: packets, Remote: addr(remote)})
	}
	db := Subject{
		Identity: enrich.Identity{Stack: "shop", Service: "db", Container: "shop-db-1", Network: "front"},
		Scope:    enrich.ScopeHost, Object: "5432/tcp",
	}
	vain := func(v *View, attempts uint64, length time.Duration) {
		v.RulesetChanged = time.Time{}
		from := start.Add(-10 * time.Second)
		v.Unserved = []Unserved{{
			Subject: webOn("", enrich.ScopeHost, "8080/tcp"), ContainerID: webID, Port: 8080, Protocol: "tcp",
			Attempts: attempts, First: from, Last: from.Add(length),
			Example: webUse("", 0, "203.0.113.9:50000", "").Example,
		}}
	}
	vainMesh := func(v *View, attempts uint64, length time.Duration) {
		vain(v, attempts, length)
		v.Unserved[0].Subject, v.Unserved[0].ContainerID = meshUse(1).Subject, ""
	}
	const dnat = "sh -c 'iptables-save -t nat; ip6tables-save -t nat; nft list ruleset' 2>/dev/null | grep -iw dnat | grep -c 'dport 8080 '"
	return []ruleCase{
		{
			"published on loopback, reached from outside", func(v *View) { inbound(v, dbID, 5432, "front", "192.168.1.77", 3) },
			one("lo-publish-exposed", db, "conntrack -L --reply-src 172.20.0.3", text("published on", "127.0.0.1:5432"),
				text("reached by", "192.168.1.77"), number("packets", 3, "in the last minute")),
		},
		{"published on loopback, knocked at", func(v *View) { inbound(v, dbID, 5432, "front", "192.168.1.77", 2) }, nil},
		{"published on loopback, reached by a container", func(v *View) { inbound(v, dbID, 5432, "front", "172.20.0.9", 300) }, nil},
		{"published on loopback, reached where anybody may", func(v *View) {
			inbound(v, dbID, 5432, "front", "192.168.1.77", 300)
			v.network("front").GatewayMode4 = "nat-unprotected"
		}, nil},
		{"published on loopback, reached by a device that is trusted", func(v *View) {
			inbound(v, dbID, 5432, "front", "192.168.1.77", 300)
			v.network("front").Trusted = "eth0"
		}, nil},
		{"published on loopback and elsewhere", func(v *View) {
			inbound(v, dbID, 5432, "front", "192.168.1.77", 300)
			db := containerOf(v, dbID)
			db.Published = append(db.Published, enrich.PublishedPort{Host: addrPort("192.168.1.5:5432"), Container: 5432, Protocol: "tcp"})
		}, nil},
		{"published for all, reached from outside", func(v *View) { inbound(v, webID, 80, "front", "192.168.1.77", 300) }, nil},
		{"published on loopback, reached by macvlan", func(v *View) { inbound(v, dbID, 5432, "lan", "192.168.1.88", 300) }, nil},
		{
			"asked for in vain", func(v *View) { vain(v, 3, 5*time.Second) },
			one("firewall-flush", webOn("", enrich.ScopeHost, "8080/tcp"), dnat,
				number("attempts in vain", 3, "since 2026-03-01 11:59:50 UTC"), number("for", 5, "s"),
				text("example", "203.0.113.9:50000 > 192.168.1.5:8080 tcp")),
		},
		{
			"asked for in vain since the rules changed", func(v *View) {
				vain(v, 3, 5*time.Second)
				v.RulesetChanged, v.RulesetChangedBy = start.Add(-time.Minute), "nft, of ferm"
			},
			one("firewall-flush", webOn("", enrich.ScopeHost, "8080/tcp"), dnat,
				number("attempts in vain", 3, "since 2026-03-01 11:59:50 UTC"), number("for", 5, "s"),
				text("example", "203.0.113.9:50000 > 192.168.1.5:8080 tcp"),
				text("rules last changed", "2026-03-01 11:59:00 UTC by nft, of ferm")),
		},
		{
			"the mesh is asked for in vain", func(v *View) { vainMesh(v, 3, 30*time.Second) },
			one("firewall-flush", meshUse(1).Subject, dnat,
				number("attempts in vain", 3, "since 2026-03-01 11:59:50 UTC"), number("for", 30, "s"),
				text("example", "203.0.113.9:50000 > 192.168.1.5:8080 tcp")),
		},
		{"the mesh is asked for in vain for a moment", func(v *View) { vainMesh(v, 300, 29*time.Second) }, nil},
		{"the mesh is asked for in vain over IPv6, which it has not", func(v *View) {
			vainMesh(v, 300, time.Minute)
			v.Unserved[0].Example.Original.Source = addrPort("[2001:db8::9]:50000")
		}, nil},
		{"asked for in vain twice", func(v *View) { vain(v, 2, 30*time.Second) }, nil},
		{"asked for in vain for a moment", func(v *View) { vain(v, 300, 4900*time.Millisecond) }, nil},
		{"asked for in vain over IPv6, which the container has not", func(v *View) {
			vain(v, 300, time.Minute)
			v.Unserved[0].Example.Original.Source = addrPort("[2001:db8::9]:50000")
		}, nil},
		{"asked for in vain where nothing is translated", func(v *View) {
			vain(v, 300, time.Minute)
			v.network("front").GatewayMode4 = "routed"
		}, nil},
		{
			"many proxies", func(v *View) { v.Proxies = 100 },
			one("proxy-process-storm", onTheHost(""), "pgrep -cx docker-proxy",
				number("docker-proxy processes", 100, ""), number("published ports, by address", 4, ""),
				text("most of them of", "shop-db-1"), number("ports of that, by address", 2, "")),
		},
		{
			"the engine listens", func(v *View) { v.ClearAPIs = []netip.AddrPort{addrPort("192.168.1.5:2375")} },
			one("daemon-tcp-open", onTheHost("192.168.1.5:2375"), "curl -sim 2 --noproxy '*' http://192.168.1.5:2375/_ping",
				text("listens on", "192.168.1.5:2375"), text("answered in clear", "GET /_ping, as Docker's API does")),
		},
		{
			"the engine listens everywhere", func(v *View) { v.ClearAPIs = []netip.AddrPort{addrPort("[::]:2375")} },
			one("daemon-tcp-open", onTheHost("[::]:2375"), "curl -sim 2 --noproxy '*' http://localhost:2375/_ping",
				text("listens on", "[::]:2375"), text("answered in clear", "GET /_ping, as Docker's API does")),
		},
		{"something else listens there", func(v *View) {
			v.Host.Listeners = append(v.Host.Listeners, loader.Listener{Address: addrPort("[::]:2375")})
		}, nil},
	}
}

func inventoryCases() []ruleCase {
	add := func(v *View, l loader.Link) { v.Host.Links = append(v.Host.Links, l) }
	stray := func(v *View, name string) {
		add(v, loader.Link{Index: 60, Name: name, Kind: "veth", Master: frontIndex, Peer: 61, PeerNetnsID: -1, MTU: 1500})
		add(v, loader.Link{Index: 61, Name: "veth00000aa", Kind: "veth", Peer: 60, PeerNetnsID: -1, MTU: 1500})
	}
	device := func(name, what string) []raised {
		return one("leftover-device", onTheHost(name), "ip -d link show "+name, text("device", name), text("what it is", what))
	}
	return []ruleCase{
		{
			"unused", func(v *View) { v.network("fresh").Created = start.Add(-time.Hour) },
			one("unused-network", onNetwork("fresh"), "docker network inspect -f '{{.Created}} {{len .Containers}}' fresh",
				number("containers", 0, ""), text("created", "2026-03-01"), text("driver", "bridge")),
		},
		{"used by a container that is stopped", func(v *View) {
			v.network("fresh").Created, v.network("fresh").Attached = start.Add(-time.Hour), 1
		}, nil},
		{"unused, of unknown age", func(v *View) { v.network("fresh").Created = time.Time{} }, nil},
		{
			"links", func(v *View) { containerOf(v, webID).Endpoints[0].Links = []string{"shop-db-1:db"} },
			one("legacy-link", webOn("front", enrich.ScopeContainer, ""),
				"docker inspect -f '{{range .NetworkSettings.Networks}}{{.Links}}{{end}} {{.HostConfig.Links}}' shop-web-1",
				number("links", 1, ""), text("links to", "shop-db-1:db")),
		},
		{"links of a one-off container", func(v *View) {
			containerOf(v, webID).Endpoints[0].Links = []string{"shop-db-1:db"}
			containerOf(v, webID).Labels = map[string]string{"com.docker.compose.oneoff": "True"}
		}, nil},
		{
			"a namespace left over", func(v *View) { v.Host.Sandboxes = append(v.Host.Sandboxes, "/run/docker/netns/0123456789ab") },
			one("leftover-sandbox", onTheHost("/run/docker/netns/0123456789ab"),
				"nsenter --net=/run/docker/netns/0123456789ab ip -br address",
				text("namespace", "/run/docker/netns/0123456789ab"), text("container", "none")),
		},
		{"a namespace while something is built", func(v *View) {
			v.Host.Sandboxes = append(v.Host.Sandboxes, "/run/docker/netns/0123456789ab")
			delete(v.Owners, buildPort)
		}, nil},
		{
			"a bridge left over",
			func(v *View) { add(v, loader.Link{Index: 60, Name: "br-0123456789ab", Kind: "bridge", MTU: 1500}) },
			device("br-0123456789ab", "a bridge without a network and without ports"),
		},
		{"a bridge of another engine", func(v *View) {
			add(v, loader.Link{Index: 60, Name: "br-0123456789ab", Kind: "bridge", MTU: 1500})
			add(v, loader.Link{Index: 61, Name: "veth00000aa", Kind: "veth", Master: 60, Peer: 2, PeerNetnsID: 9, MTU: 1500})
		}, nil},
		{"a bridge of somebody else", func(v *View) { add(v, loader.Link{Index: 60, Name: "br-lan", Kind: "bridge", MTU: 1500}) }, nil},
		{
			"a veth left over", func(v *View) { stray(v, "veth00000bb") },
			device("veth00000bb", "a port of a network's bridge with its other end on the host"),
		},
		{"a veth of somebody else", func(v *View) { stray(v, "lab-probe") }, nil},
	}
}

// Who observes for a moment wants as many packets in proportion, but never so few that they may be strays.
func TestEnough(t *testing.T) {
	for _, tc := range []struct {
		observed time.Duration
		wanted   uint64
		least    uint64
	}{
		{0, 10, 10},
		{time.Hour, 10, 10},
		{30 * time.Second, 10, 5},
		{10 * time.Second, 10, 5},
		{30 * time.Second, 100, 50},
		{time.Second, 3, 3},
	} {
		v := View{Config: Config{Observed: tc.observed}}
		if v.enough(tc.least-1, tc.wanted) || !v.enough(tc.least, tc.wanted) {
			t.Errorf("observed for %s, of %d wanted: not %d are enough", tc.observed, tc.wanted, tc.least)
		}
	}
}
