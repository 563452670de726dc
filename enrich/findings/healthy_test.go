// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

	addr     = netip.MustParseAddr
	addrPort = netip.MustParseAddrPort
	prefix   = netip.MustParsePrefix
)

// Ifindexes of the healthy host's links, and IDs of what is on it.
const (
	loIndex      = 1
	uplinkIndex  = 2
	docker0Index = 3
	frontIndex   = 4
	gwIndex      = 5
	webPort      = 10
	dbPort       = 11
	taskPort     = 12
	sboxPort     = 13
	buildPort    = 14 // a container's on the default bridge, or the step of a build

	frontID = "f0f0f0f0f0f000000000"
	webID   = "aaaaaaaaaaaa0001"
	dbID    = "bbbbbbbbbbbb0002"
	taskID  = "cccccccccccc0003"
	lanID   = "dddddddddddd0004"
	shareID = "eeeeeeeeeeee0005"
)

func mac(last byte) [6]byte { return [6]byte{2, 0x42, 0, 0, 0, last} }

// healthy is a host with much on it and nothing wrong: an uplink as on GCE, a Compose project with published ports, one of
// them on loopback only, a Swarm's task, a container on macvlan, and one that shares a namespace.
func healthy() View {
	return View{
		Now:       start,
		Listed:    true,
		Inventory: enrich.Inventory{Networks: healthyNetworks(), Containers: healthyContainers()},
		Host: loader.HostState{
			Forwarding4: loader.On, Forwarding6: loader.On, BridgeNetfilter4: loader.On, BridgeNetfilter6: loader.On,
			Conntrack:   loader.Table{Entries: 849, Limit: 1000},
			Neighbours4: loader.Table{Entries: 20, Limit: 1024},
			Neighbours6: loader.Table{Entries: 20, Limit: 1024},
			Links: []loader.Link{
				{Index: loIndex, Name: "lo", Kind: "device", Loopback: true, MTU: 65536, PeerNetnsID: -1},
				{Index: uplinkIndex, Name: "eth0", Kind: "device", MTU: 1460, MAC: mac(200), PeerNetnsID: -1},
				{Index: docker0Index, Name: "docker0", Kind: "bridge", MTU: 1500, PeerNetnsID: -1},
				{Index: frontIndex, Name: "br-f0f0f0f0f0f0", Kind: "bridge", MTU: 1500, PeerNetnsID: -1},
				{Index: gwIndex, Name: "docker_gwbridge", Kind: "bridge", MTU: 1500, PeerNetnsID: -1},
				{Index: webPort, Name: "veth0000001", Kind: "veth", Master: frontIndex, Peer: 2, PeerNetnsID: 0, MTU: 1500},
				{Index: dbPort, Name: "veth0000002", Kind: "veth", Master: frontIndex, Peer: 2, PeerNetnsID: 1, MTU: 1500},
				{Index: taskPort, Name: "veth0000003", Kind: "veth", Master: gwIndex, Peer: 20, PeerNetnsID: 2, MTU: 1500},
				{Index: sboxPort, Name: "veth0000004", Kind: "veth", Master: gwIndex, Peer: 21, PeerNetnsID: 3, MTU: 1500},
				{Index: buildPort, Name: "veth0000005", Kind: "veth", Master: docker0Index, Peer: 2, PeerNetnsID: 4, MTU: 1500},
				// Two bridges that somebody joined.
				{Index: 15, Name: "veth0000006", Kind: "veth", Master: docker0Index, Peer: 16, PeerNetnsID: -1, MTU: 1500},
				{Index: 16, Name: "veth0000007", Kind: "veth", Master: 17, Peer: 15, PeerNetnsID: -1, MTU: 1500},
				{Index: 17, Name: "virbr0", Kind: "bridge", MTU: 1500, PeerNetnsID: -1},
				{Index: 18, Name: "tun0", Kind: "tun", MTU: 1420, PeerNetnsID: -1},
			},
			Routes: []loader.Route{
				{Destination: prefix("0.0.0.0/0"), Device: uplinkIndex, Gateway: addr("192.168.1.1"), Protocol: "dhcp"},
				{Destination: prefix("192.168.1.0/24"), Device: uplinkIndex, Protocol: "kernel"},
				{Destination: prefix("172.17.0.0/16"), Device: docker0Index, Protocol: "kernel"},
				{Destination: prefix("172.20.0.0/16"), Device: frontIndex, Protocol: "kernel"},
				{Destination: prefix("172.18.0.0/16"), Device: gwIndex, Protocol: "kernel"},
				// A VPN's halves of the default route, one for something else, and a guard against leaks.
				{Destination: prefix("0.0.0.0/1"), Device: 18, Protocol: "static"},
				{Destination: prefix("128.0.0.0/1"), Device: 18, Protocol: "static"},
				{Destination: prefix("10.9.0.0/16"), Device: 18, Protocol: "static"},
				{Destination: prefix("172.16.0.0/12"), Protocol: "static"},
				{Destination: prefix("fe80::/64"), Device: uplinkIndex, Protocol: "kernel"},
				{Destination: prefix("fe80::/64"), Device: frontIndex, Protocol: "kernel"},
			},
			Neighbours: []loader.Neighbour{
				{Device: frontIndex, Address: addr("172.20.0.2"), MAC: mac(1), Confirmed: true},
				{Device: frontIndex, Address: addr("172.20.0.3"), MAC: mac(99), Confirmed: true}, // of a container that had it before
				{Device: frontIndex, Address: addr("172.20.0.9"), Failed: true},
				{Device: uplinkIndex, Address: addr("192.168.1.1"), MAC: mac(201), Confirmed: true},
				{Device: uplinkIndex, Address: addr("192.168.1.77"), Failed: true},
			},
			Listeners: []loader.Listener{
				{Address: addrPort("0.0.0.0:8080")}, {Address: addrPort("[::]:8080")},
				{Address: addrPort("127.0.0.1:5432")}, {Address: addrPort("0.0.0.0:22")},
				{Address: addrPort("127.0.0.1:2375")}, {Address: addrPort("[::1]:2375")},
				{Address: addrPort("[::]:2376")},
			},
			Connections: []loader.Connection{
				{Local: addrPort("127.0.0.1:8080"), Remote: addrPort("127.0.0.1:40000")},        // the host itself
				{Local: addrPort("192.168.1.5:8080"), Remote: addrPort("192.168.1.5:40001")},    // the same, by its address
				{Local: addrPort("192.168.1.5:8080"), Remote: addrPort("172.20.0.2:40002")},     // hairpin
				{Local: addrPort("[fe80::5]:8080"), Remote: addrPort("[fe80::77]:40003")},       // is never translated
				{Local: addrPort("192.168.1.5:32770"), Remote: addrPort("203.0.113.9:443")},     // the host is the client
				{Local: addrPort("[2001:db8::5]:8080"), Remote: addrPort("[2001:db8::9]:4000")}, // the container has no IPv6
			},
			Sandboxes: []string{
				"/run/docker/netns/aaaaaaaaaaaa", "/run/docker/netns/bbbbbbbbbbbb", "/run/docker/netns/cccccccccccc",
				"/run/docker/netns/dddddddddddd", "/run/docker/netns/1-n9", "/run/docker/netns/lb_n9",
				"/run/docker/netns/ingress_sbox", "/run/docker/netns/default",
			},
		},
		Containers: map[string]loader.NetnsState{
			webID: {ListenOverflows: 1000, Links: []loader.Link{
				{Index: 2, Name: "eth0", Kind: "veth", Peer: webPort, MTU: 1500, MAC: mac(1)}}},
			dbID: {Links: []loader.Link{{Index: 2, Name: "eth0", Kind: "veth", Peer: dbPort, MTU: 1500, MAC: mac(2)}}},
		},
		Owners: map[int]string{webPort: webID, dbPort: dbID, taskPort: taskID, buildPort: "aaaaaaaaaaaa0009"},
		Rises:  map[string]Rise{webID: {ListenOverflows: 9, ListenDrops: 500, OutNoRoutes: 9, InsertFailed: 100}},
		Uses:   healthyUses(),
		Unserved: []Unserved{ // while the engine wrote its rules anew
			{Subject: webOn("", enrich.ScopeHost, "8080/tcp"), ContainerID: webID, Port: 8080, Protocol: "tcp",
				Attempts: 2, First: start.Add(-10 * time.Second), Last: start,
				Example: webUse("", 0, "203.0.113.9:50000", "").Example},
		},
		Conntrack: ConntrackRise{InsertFailed: 100, Drop: 100, Invalid: 1000},
		Tracking: enrich.Tracking{
			Identities: []enrich.EgressIdentity{{ContainerID: webID, Address: addr("192.168.1.5"), Connections: 100, Sharing: 5}},
			Pressure:   []enrich.PortPressure{{Address: addr("192.168.1.5"), Destination: addrPort("203.0.113.7:443"), Protocol: 6, Used: 84, Limit: 100}},
		},
		DNS:            healthyDNS(),
		RulesetChanged: start, RulesetChangedBy: "iptables",
		Proxies: 99,
		Config:  Config{UnusedAfter: time.Hour},
	}
}

// healthyUses are the web server's clients: remote ones keep their addresses, and for the others the engine has its ways.
func healthyUses() []Use {
	host := webUse(enrich.UserlandProxy, 50, "192.168.1.5:50000", "172.20.0.1:50000")
	host.Client, host.Untranslated = enrich.ClientHost, 50
	container := webUse(enrich.Hairpin, 50, "172.20.0.2:50000", "172.20.0.1:50000")
	container.Client = enrich.ClientContainer
	closed := webUse("", 0, "203.0.113.9:50000", "")
	closed.Attempts = 500
	return []Use{host, container, webUse(enrich.NoMechanism, 5000, "203.0.113.9:50000", "203.0.113.9:50000"), closed}
}

func healthyNetworks() []enrich.Network {
	long := start.Add(-1000 * time.Hour)
	return []enrich.Network{
		{ID: "n1", Name: "bridge", Driver: "bridge", Scope: "local", Bridge: "docker0", Created: long, Predefined: true,
			ICC: true, Masquerade: true, Subnets: []netip.Prefix{prefix("172.17.0.0/16")}, MTU: "1500"},
		{ID: "n2", Name: "docker_gwbridge", Driver: "bridge", Scope: "local", Bridge: "docker_gwbridge", Created: long,
			Predefined: true, Masquerade: true, Subnets: []netip.Prefix{prefix("172.18.0.0/16")}},
		{ID: frontID, Name: "front", Driver: "bridge", Scope: "local", Bridge: "br-f0f0f0f0f0f0", Created: long, Attached: 2,
			ICC: true, Masquerade: true, Subnets: []netip.Prefix{prefix("172.20.0.0/16")}},
		{ID: "n4", Name: "fresh", Driver: "bridge", Scope: "local", Bridge: "br-000000000004", Created: start.Add(-time.Second),
			ICC: true, Masquerade: true, Subnets: []netip.Prefix{prefix("172.21.0.0/16")}},
		{ID: "n5", Name: "host", Driver: "host", Scope: "local", Created: long, Predefined: true},
		{ID: "n6", Name: "ingress", Driver: "overlay", Scope: "swarm", Created: long, Predefined: true},
		{ID: "n7", Name: "lan", Driver: "macvlan", Scope: "local", Parent: "eth0", Created: long, Attached: 1,
			Subnets: []netip.Prefix{prefix("192.168.1.0/24")}},
		{ID: "n8", Name: "lan-config", Driver: "null", Scope: "local", Created: long},
		{ID: "n9", Name: "stack_back", Driver: "overlay", Scope: "swarm", Created: long,
			Subnets: []netip.Prefix{prefix("10.9.1.0/24")}},
	}
}

func healthyContainers() []enrich.LiveContainer {
	published := func(host string, port uint16) enrich.PublishedPort {
		return enrich.PublishedPort{Host: addrPort(host), Container: port, Protocol: "tcp"}
	}
	onFront := func(last byte, address string) []enrich.Endpoint {
		return []enrich.Endpoint{{NetworkID: frontID, Network: "front", MAC: mac(last), Addresses: []netip.Addr{addr(address)}}}
	}
	return []enrich.LiveContainer{
		{
			Container: enrich.Container{ID: dbID, Name: "shop-db-1", Running: true, SandboxKey: "/run/docker/netns/bbbbbbbbbbbb",
				Endpoints: onFront(2, "172.20.0.3"),
				Published: []enrich.PublishedPort{published("127.0.0.1:5432", 5432), published("0.0.0.0:32770", 9090)}},
			Identity: enrich.Identity{Stack: "shop", Service: "db", Container: "shop-db-1"},
		},
		{
			Container: enrich.Container{ID: lanID, Name: "printer", Running: true, SandboxKey: "/run/docker/netns/dddddddddddd",
				Endpoints: []enrich.Endpoint{
					{NetworkID: "n7", Network: "lan", MAC: mac(4), Addresses: []netip.Addr{addr("192.168.1.77")}}}},
			Identity: enrich.Identity{Container: "printer"},
		},
		{
			Container: enrich.Container{ID: shareID, Name: "shop-sidecar-1", Running: true, NetworkMode: "container:" + webID},
			Identity:  enrich.Identity{Stack: "shop", Service: "sidecar", Container: "shop-sidecar-1"},
		},
		{
			Container: enrich.Container{ID: webID, Name: "shop-web-1", Running: true, SandboxKey: "/run/docker/netns/aaaaaaaaaaaa",
				Endpoints: onFront(1, "172.20.0.2"),
				Published: []enrich.PublishedPort{published("0.0.0.0:8080", 80), published("[::]:8080", 80)}},
			Identity: enrich.Identity{Stack: "shop", Service: "web", Container: "shop-web-1"},
		},
		{
			Container: enrich.Container{ID: taskID, Name: "stack_api.1.xyz", Running: true, SandboxKey: "/run/docker/netns/cccccccccccc",
				Endpoints: []enrich.Endpoint{
					{NetworkID: "n9", Network: "stack_back", MAC: mac(1), Addresses: []netip.Addr{addr("10.9.1.3")}}}},
			Identity: enrich.Identity{Stack: "stack", Service: "api", Container: "api.1"},
		},
	}
}

// containerOf finds one of the view's by its ID.
func containerOf(v *View, id string) *enrich.LiveContainer { return v.container(id) }

// webOn is the healthy host's web server as a subject.
func webOn(network string, scope enrich.Scope, object string) Subject {
	return Subject{
		Identity: enrich.Identity{Stack: "shop", Service: "web", Container: "shop-web-1", Network: network},
		Scope:    scope, Object: object,
	}
}

// loss is one of the web server's, of packets to an address beyond the host.
func loss(cause string, packets uint64) Loss {
	l := Loss{
		Subject: webOn("front", enrich.ScopeHost, ""), Cause: cause, Kind: enrich.KindFault, Packets: packets,
		First: start.Add(-20 * time.Second), Last: start,
	}
	l.Example.ContainerID = webID
	l.Example.Reason, l.Example.Function = "SOME_REASON", "some_function"
	l.Example.DeviceName = "br-f0f0f0f0f0f0"
	l.Example.Direction, l.Example.Scope = enrich.TX, enrich.ScopeHost
	l.Example.Protocol = 6
	l.Example.Source, l.Example.SourcePort = addr("172.20.0.2"), 40000
	l.Example.Destination, l.Example.DestinationPort = addr("203.0.113.7"), 443
	return l
}

// lossFacts is the evidence of such a loss.
func lossFacts(packets float64) []Fact {
	return []Fact{
		number("packets lost", packets, "in the last minute"),
		text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"),
		text("device", "br-f0f0f0f0f0f0"), text("example", "172.20.0.2:40000 > 203.0.113.7:443 tcp"), text("direction", "tx"), text("scope", "host"),
	}
}

// lookFor is how long a view must last for the findings that are wanted.
func lookFor(want []raised) time.Duration {
	length := unused
	for _, f := range want {
		for _, r := range rules() {
			if r.ID == f.ID {
				length = max(length, r.after)
			}
		}
	}
	return length
}

// look shows a board the same view for a while, as the agent does, and returns what stands then.
func look(board *Board, v View, length time.Duration) []Finding {
	for end := v.Now.Add(length); !v.Now.After(end); v.Now = v.Now.Add(5 * time.Second) {
		board.Evaluate(&v)
	}
	return board.Standing()
}

func TestHealthyHostRaisesNothing(t *testing.T) {
	board := NewBoard(Config{Hold: time.Minute, UnusedAfter: time.Hour})
	for _, f := range look(board, healthy(), 2*time.Minute) {
		t.Errorf("found on a healthy host: %+v", f)
	}
}

func TestNothingIsKnownYet(t *testing.T) {
	board := NewBoard(Config{Hold: time.Minute, UnusedAfter: time.Hour})
	view := healthy()
	view.Inventory, view.Listed, view.Containers = enrich.Inventory{}, false, nil // Docker has not answered
	for _, f := range look(board, view, 2*time.Minute) {
		t.Errorf("found without Docker: %+v", f)
	}
	for _, f := range look(board, View{Now: start.Add(time.Hour)}, 2*time.Minute) {
		t.Errorf("found in an empty view: %+v", f)
	}
}
