// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

func translationOf(i enrich.Identity, scope enrich.Scope, kind enrich.NATKind, protocol uint8) enrich.Translation {
	return enrich.Translation{
		NATEvent: loader.NATEvent{Tracked: loader.Tracked{Protocol: protocol}}, Identity: i, Scope: scope, Kind: kind,
	}
}

// connectionTo is one to a port that a container publishes.
func connectionTo(container string, port uint16, client enrich.Client, mechanism enrich.Mechanism) enrich.PublishedConnection {
	return enrich.PublishedConnection{
		Identity: enrich.Identity{Container: container, Network: "web"}, Scope: enrich.ScopeHost, ContainerID: "id-" + container,
		Port: port, Protocol: "tcp", Client: client, Preserved: mechanism == enrich.NoMechanism, Mechanism: mechanism,
	}
}

// publishing is a running container with ports such as 80/tcp.
func publishing(s *testStore, name string, ports ...string) enrich.LiveContainer {
	c := liveContainer(s, name, "web")
	for _, p := range ports {
		var host uint16
		var protocol string
		if _, err := fmt.Sscanf(strings.ReplaceAll(p, "/", " "), "%d %s", &host, &protocol); err != nil {
			panic(err)
		}
		c.Published = append(c.Published, enrich.PublishedPort{
			Host: netip.AddrPortFrom(netip.IPv4Unspecified(), host), Container: 8080, Protocol: protocol,
		})
	}
	return c
}

func times[T any](n int, one T) (many []T) {
	for range n {
		many = append(many, one)
	}
	return many
}

func TestTranslations(t *testing.T) {
	s, m := newTestMetrics()
	alpha := enrich.Identity{Container: "alpha", Network: "web"}
	m.AddNAT(enrich.NAT{Translations: append(
		times(1000, translationOf(alpha, enrich.ScopeHost, enrich.Masquerade, unix.IPPROTO_TCP)),
		translationOf(alpha, enrich.ScopeHost, enrich.DNAT, unix.IPPROTO_SCTP),
		translationOf(alpha, enrich.ScopeHost, enrich.Masquerade, unix.IPPROTO_ICMP),
		translationOf(enrich.Identity{Container: "alpha"}, enrich.ScopeContainer, enrich.EmbeddedDNS, unix.IPPROTO_UDP),
		translationOf(enrich.Identity{}, enrich.ScopeUnknown, enrich.SNAT, unix.IPPROTO_GRE),
	)})
	m.AddNAT(enrich.NAT{Translations: times(5, translationOf(alpha, enrich.ScopeHost, enrich.Masquerade, unix.IPPROTO_TCP))})
	s.wait(zeroFor)
	s.wantShown(t, natTranslations, map[string]float64{
		",,alpha,web,host,masquerade,tcp": 1005, ",,alpha,web,host,dnat,sctp": 1, ",,alpha,web,host,masquerade,icmp": 1,
		",,alpha,,container,embedded_dns,udp": 1, ",,,,unknown,snat,other": 1,
	})
}

// That a port is asked for, and that a client is seen, can be known beforehand.
func TestPublishedPortsAreBornAtZero(t *testing.T) {
	s, m := newTestMetrics()
	c := publishing(s, "alpha", "443/tcp", "80/tcp", "443/udp")
	c.Published = append(c.Published,
		enrich.PublishedPort{Host: netip.MustParseAddrPort("[::]:80"), Container: 8080, Protocol: "tcp"}, // the same to whoever asks
		enrich.PublishedPort{Host: netip.AddrPortFrom(netip.IPv4Unspecified(), 0), Container: 9000, Protocol: "tcp"},
	)
	m.SetInventory(inventoryOf(c))
	s.wantShown(t, publishedAttempts, map[string]float64{
		",,alpha,,host,80,tcp": 0, ",,alpha,,host,443,tcp": 0, ",,alpha,,host,443,udp": 0,
	})
	s.wantShown(t, publishedConnections, map[string]float64{
		",,alpha,,host,80,tcp,remote,preserved,none": 0, ",,alpha,,host,443,tcp,remote,preserved,none": 0,
		",,alpha,,host,443,udp,remote,preserved,none": 0,
	})
	// What comes is added to these, at once, and is not hidden for being new.
	good := connectionTo("alpha", 80, enrich.ClientRemote, enrich.NoMechanism)
	m.AddNAT(enrich.NAT{Attempts: times(3, good), Connections: times(2, good)})
	if got := s.shown(publishedAttempts)[",,alpha,,host,80,tcp"]; got != 3 {
		t.Errorf("%g attempts, want 3", got)
	}
	if got := s.shown(publishedConnections)[",,alpha,,host,80,tcp,remote,preserved,none"]; got != 2 {
		t.Errorf("%g connections, want 2", got)
	}
}

// A port of the routing mesh exists at 0 as soon as a manager has told of its service, and stays while there is one.
func TestMeshPortsAreBornAtZero(t *testing.T) {
	s, m := newTestMetrics()
	inventory := enrich.Inventory{Services: []enrich.LiveService{{
		Service: enrich.Service{Name: "shop_web", Mesh: []enrich.MeshPort{{Port: 8080, Protocol: "tcp"}},
			Labels: map[string]string{enrich.LabelSourceAddress: enrich.SourceAddressRequired}},
		Identity: enrich.Identity{Stack: "shop", Service: "web"},
	}}}
	for range 20 {
		m.SetInventory(inventory)
		s.wait(time.Minute)
	}
	m.SetInventory(inventory)
	s.wantShown(t, publishedAttempts, map[string]float64{"shop,web,,,ingress,8080,tcp": 0})
	s.wantShown(t, publishedConnections, map[string]float64{"shop,web,,,ingress,8080,tcp,remote,lost,ingress_mesh": 0})
	s.wantShown(t, serviceRequirement, map[string]float64{"shop,web,,,,source-address": 1})
}

func TestPublishedConnections(t *testing.T) {
	s, m := newTestMetrics()
	mesh := connectionTo("", 8080, enrich.ClientRemote, enrich.IngressMesh)
	mesh.Identity = enrich.Identity{Stack: "shop", Service: "web"}
	mesh.Scope = enrich.ScopeIngress
	unknown := mesh
	unknown.Identity = enrich.Identity{}
	udp := connectionTo("alpha", 53, enrich.ClientHost, enrich.UserlandProxy)
	udp.Protocol = "udp"
	all := []enrich.PublishedConnection{
		mesh, mesh, unknown, udp,
		connectionTo("alpha", 80, enrich.ClientRemote, enrich.NoMechanism),
		connectionTo("alpha", 80, enrich.ClientRemote, enrich.InboundMasquerade),
		connectionTo("alpha", 80, enrich.ClientContainer, enrich.Hairpin),
		connectionTo("alpha", 80, enrich.ClientRemote, enrich.IPv6ToIPv4Proxy),
	}
	m.AddNAT(enrich.NAT{Attempts: all, Connections: all})
	s.wait(zeroFor)
	s.wantShown(t, publishedAttempts, map[string]float64{
		"shop,web,,,ingress,8080,tcp": 2, ",,,,ingress,8080,tcp": 1, ",,alpha,,host,53,udp": 1, ",,alpha,,host,80,tcp": 4,
	})
	s.wantShown(t, publishedConnections, map[string]float64{
		"shop,web,,,ingress,8080,tcp,remote,lost,ingress_mesh": 2,
		",,,,ingress,8080,tcp,remote,lost,ingress_mesh":        1,
		",,alpha,,host,53,udp,host,lost,userland_proxy":        1,
		",,alpha,,host,80,tcp,remote,preserved,none":           1,
		",,alpha,,host,80,tcp,remote,lost,inbound_masquerade":  1,
		",,alpha,,host,80,tcp,remote,lost,ipv6_to_ipv4_proxy":  1,
		",,alpha,,host,80,tcp,container,lost,hairpin":          1,
	})
}

// What is used goes on rising wherever it is, as on docker_gwbridge, which no container says to be on. Of a container that is
// gone it goes away.
func TestTranslationsOffKnownNetworks(t *testing.T) {
	s, m := newTestMetrics()
	gateway := translationOf(enrich.Identity{Container: "alpha", Network: "docker_gwbridge"}, enrich.ScopeHost, enrich.Masquerade, unix.IPPROTO_TCP)
	const name = ",,alpha,docker_gwbridge,host,masquerade,tcp"
	for minute := range 25 {
		m.SetInventory(inventoryOf(liveContainer(s, "alpha", "web")))
		m.AddNAT(enrich.NAT{Translations: []enrich.Translation{gateway}})
		s.wait(time.Minute)
		s.wantShown(t, natTranslations, map[string]float64{name: float64(minute + 1)})
	}
	for range 10 {
		s.wait(time.Minute)
		m.SetInventory(inventoryOf())
	}
	s.wantShown(t, natTranslations, map[string]float64{})
	if n := len(m.translations); n != 0 {
		t.Errorf("%d budgets are kept of what is gone", n)
	}
}

// A port that is published no more goes away although its container stays. One of the routing mesh stays while it is used.
func TestPortsAreRetired(t *testing.T) {
	s, m := newTestMetrics()
	mesh := connectionTo("", 9000, enrich.ClientRemote, enrich.IngressMesh)
	mesh.Identity, mesh.Scope = enrich.Identity{Stack: "shop", Service: "web"}, enrich.ScopeIngress
	m.SetInventory(inventoryOf(publishing(s, "alpha", "80/tcp", "81/tcp")))
	m.AddNAT(enrich.NAT{Attempts: []enrich.PublishedConnection{mesh}})
	for range 9 {
		s.wait(time.Minute)
		m.SetInventory(inventoryOf(publishing(s, "alpha", "80/tcp")))
		m.AddNAT(enrich.NAT{Attempts: []enrich.PublishedConnection{mesh}})
	}
	want := map[string]float64{",,alpha,,host,80,tcp": 0, ",,alpha,,host,81,tcp": 0, "shop,web,,,ingress,9000,tcp": 10}
	s.wantShown(t, publishedAttempts, want)
	s.wait(time.Minute)
	m.SetInventory(inventoryOf(publishing(s, "alpha", "80/tcp")))
	delete(want, ",,alpha,,host,81,tcp")
	s.wantShown(t, publishedAttempts, want)
	s.wantShown(t, publishedConnections, map[string]float64{",,alpha,,host,80,tcp,remote,preserved,none": 0})

	s.wait(10 * time.Minute)
	m.SetInventory(inventoryOf())
	s.wantShown(t, publishedAttempts, map[string]float64{})
	if n := len(m.ports) + len(m.connections) + len(m.translations); n != 0 {
		t.Errorf("%d budgets are kept of what is gone", n)
	}
}

// A container that gets another port of the host at each start uses up no more than it has at a time.
func TestRandomPorts(t *testing.T) {
	s, m := newTestMetrics()
	for i := range 100 {
		m.SetInventory(inventoryOf(publishing(s, "alpha", fmt.Sprintf("%d/tcp", 32768+i))))
		s.wait(5 * time.Minute)
	}
	s.wantShown(t, publishedAttempts, map[string]float64{",,alpha,,host,32866,tcp": 0, ",,alpha,,host,32867,tcp": 0})
}

// However much is translated, in however many ways, a container has so many series at most, and no connection goes uncounted.
func TestNATSeriesPerContainer(t *testing.T) {
	const (
		ports = 100
		most  = 30 + 16 + 14*(maxPublishedPorts+1)
	)
	s, m := newTestMetrics()
	var published []string
	for port := range ports {
		published = append(published, fmt.Sprintf("%d/tcp", 1000+port))
	}
	c := publishing(s, "alpha", published...)
	c.Labels = map[string]string{"bridgewatch.source-address": "required"}
	m.SetInventory(inventoryOf(c))
	m.SetState(&loader.HostState{Conntrack: loader.Table{Entries: 1, Limit: 100}}, map[string]loader.NetnsState{
		c.ID: {Conntrack: loader.ConntrackStats{Entries: 5, InsertFailed: 1, Drop: 2, EarlyDrop: 3, Invalid: 4}},
	})
	m.AddFlows([]enrich.Flow{flowOf("alpha", "~external")})
	m.AddEgress([]enrich.Egress{{Identity: enrich.Identity{Container: "alpha", Network: "web"}}})
	for i := range 400 {
		d := dropOf("alpha", fmt.Sprint("REASON_", i), "c", 1)
		d.Kind = []enrich.Kind{enrich.KindFault, enrich.KindApplication, enrich.KindPolicy, enrich.KindBenign}[i%4]
		m.AddDrops([]enrich.Drop{d})
	}
	var nat enrich.NAT
	for _, kind := range enrich.NATKinds() {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_SCTP, unix.IPPROTO_GRE} {
			for _, scope := range []enrich.Scope{enrich.ScopeHost, enrich.ScopeContainer} {
				nat.Translations = append(nat.Translations, translationOf(enrich.Identity{Container: "alpha", Network: "web"}, scope, kind, protocol))
			}
		}
	}
	lost := 0
	for port := range ports {
		for _, client := range enrich.Clients() {
			for _, mechanism := range enrich.Mechanisms() {
				nat.Connections = append(nat.Connections, connectionTo("alpha", uint16(1000+port), client, mechanism))
				if client == enrich.ClientRemote && mechanism != enrich.NoMechanism {
					lost++
				}
			}
		}
	}
	nat.Attempts = nat.Connections
	m.AddNAT(nat)
	s.wait(zeroFor)

	if n := perContainer(s)["alpha"]; n > most {
		t.Errorf("%d series, want at most %d", n, most)
	}
	for f, want := range map[*Family]int{
		natTranslations: len(nat.Translations), publishedAttempts: len(nat.Attempts), publishedConnections: len(nat.Connections),
	} {
		if got := s.sum(f); got != float64(want) {
			t.Errorf("%s sums up to %g, want %d", f.Name, got, want)
		}
	}
	for _, mechanism := range enrich.Mechanisms()[1:] {
		if got := s.shown(publishedConnections)[",,alpha,,host,1000,tcp,remote,lost,"+string(mechanism)]; got != 1 {
			t.Errorf("remote clients of a port lost their address by %s %g times, want 1: runbooks look at it", mechanism, got)
		}
	}
	alerting := 0.0
	for values, value := range s.shown(publishedConnections) {
		if strings.Contains(values, ",remote,lost,") {
			alerting += value
		}
	}
	if alerting != float64(lost) {
		t.Errorf("remote clients lost their address %g times, want %d: alerts look at it", alerting, lost)
	}
	if got := s.shown(publishedAttempts)[",,alpha,,host,1015,tcp"]; got != 18 {
		t.Errorf("the sixteenth port was asked for %g times, want 18", got)
	}
	if got := s.shown(publishedAttempts)[",,alpha,,host,other,tcp"]; got != 18*(ports-maxPublishedPorts) {
		t.Errorf("the rest of the ports were asked for %g times, want %d", got, 18*(ports-maxPublishedPorts))
	}
	for _, f := range []*Family{natTranslations, publishedAttempts, publishedConnections} {
		if s.shown(seriesOverflow)[f.Name] == 0 {
			t.Errorf("overflow of %s is 0", f.Name)
		}
	}
}

// However much comes to a port that harms nobody, the grave is told by its name.
func TestHarmlessClientsHideNothing(t *testing.T) {
	s, m := newTestMetrics()
	var all []enrich.PublishedConnection
	for _, c := range []struct {
		client    enrich.Client
		mechanism enrich.Mechanism
	}{
		{enrich.ClientHost, enrich.UserlandProxy}, {enrich.ClientContainer, enrich.UserlandProxy}, {enrich.ClientContainer, enrich.Hairpin},
		{enrich.ClientHost, enrich.Hairpin}, {enrich.ClientRemote, enrich.IPv6ToIPv4Proxy},
		{enrich.ClientRemote, enrich.UserlandProxy}, {enrich.ClientRemote, enrich.InboundMasquerade},
	} {
		all = append(all, connectionTo("alpha", 80, c.client, c.mechanism))
	}
	m.AddNAT(enrich.NAT{Connections: all})
	s.wait(zeroFor)
	s.wantShown(t, publishedConnections, map[string]float64{
		",,alpha,,host,80,tcp,host,lost,userland_proxy":       1,
		",,alpha,,host,80,tcp,container,lost,userland_proxy":  1,
		",,alpha,,host,80,tcp,container,lost,hairpin":         1,
		",,alpha,,host,80,tcp,host,lost,other":                1,
		",,alpha,,host,80,tcp,remote,lost,ipv6_to_ipv4_proxy": 1,
		",,alpha,,host,80,tcp,remote,lost,userland_proxy":     1,
		",,alpha,,host,80,tcp,remote,lost,inbound_masquerade": 1,
	})
}

// A healthy container's series are few.
func TestSeriesOfAHealthyContainer(t *testing.T) {
	s, m := newTestMetrics()
	c := publishing(s, "alpha", "80/tcp")
	c.Endpoints = []enrich.Endpoint{{NetworkID: "id-web", Network: "web"}}
	m.SetInventory(inventoryOf(c))
	m.SetState(&loader.HostState{Conntrack: loader.Table{Entries: 1, Limit: 100}}, map[string]loader.NetnsState{
		c.ID: {Conntrack: loader.ConntrackStats{Entries: 5}},
	})
	m.AddFlows([]enrich.Flow{flowOf("alpha", "~external")})
	on := enrich.Identity{Container: "alpha", Network: "web"}
	m.AddNAT(enrich.NAT{
		Translations: []enrich.Translation{
			translationOf(on, enrich.ScopeHost, enrich.DNAT, unix.IPPROTO_TCP),
			translationOf(on, enrich.ScopeHost, enrich.Masquerade, unix.IPPROTO_TCP),
			translationOf(on, enrich.ScopeContainer, enrich.EmbeddedDNS, unix.IPPROTO_UDP),
		},
		Connections: []enrich.PublishedConnection{
			connectionTo("alpha", 80, enrich.ClientRemote, enrich.NoMechanism),
			connectionTo("alpha", 80, enrich.ClientHost, enrich.UserlandProxy),
		},
	})
	m.AddDNS(enrich.DNS{Lookups: []enrich.Lookup{
		lookupOf("alpha", enrich.ResolverEmbedded, "A", "NOERROR"), lookupOf("alpha", enrich.ResolverEmbedded, "AAAA", "NXDOMAIN"),
		lookupOf("alpha", enrich.ResolverUpstream, "A", "NOERROR"), lookupOf("alpha", enrich.ResolverUpstream, "AAAA", "NOERROR"),
	}})
	if n := perContainer(s)["alpha"]; n > maxPerContainer {
		t.Errorf("%d series; docs/metrics.md says some 20, and mostly ten for its lookups", n)
	}
}

// Who belongs to a service asks for it as a whole.
func TestServiceRequirement(t *testing.T) {
	s, m := newTestMetrics()
	task, other, alone, silent := liveContainer(s, "web.1"), liveContainer(s, "web.2"), liveContainer(s, "vote"), liveContainer(s, "db")
	for _, c := range []*enrich.LiveContainer{&task, &other, &alone} {
		c.Labels = map[string]string{"bridgewatch.source-address": "required"}
	}
	task.Identity.Stack, task.Identity.Service = "shop", "web"
	other.Identity.Stack, other.Identity.Service = "shop", "web"
	silent.Labels = map[string]string{"bridgewatch.source-address": "whatever"}
	m.SetInventory(inventoryOf(task, other, alone, silent))
	s.wantShown(t, serviceRequirement, map[string]float64{"shop,web,,,,source-address": 1, ",,vote,,,source-address": 1})
	m.SetInventory(inventoryOf(silent))
	s.wantShown(t, serviceRequirement, map[string]float64{})
}

func TestConntrackOfContainers(t *testing.T) {
	s, m := newTestMetrics()
	twin := liveContainer(s, "alpha", "web")
	twin.ID = "id-twin"
	m.SetInventory(inventoryOf(liveContainer(s, "alpha", "web"), twin, liveContainer(s, "quiet", "web")))
	host := loader.HostState{Conntrack: loader.Table{Entries: 10, Limit: 100}}
	tracks := func(entries int) loader.NetnsState {
		return loader.NetnsState{Conntrack: loader.ConntrackStats{Entries: entries}}
	}
	m.SetState(&host, map[string]loader.NetnsState{"id-alpha": tracks(3), "id-twin": tracks(7), "id-quiet": tracks(0), "id-unknown": tracks(50)})
	s.wantShown(t, conntrackEntries, map[string]float64{",,,,host": 10, ",,alpha,,container": 7})
	s.wantShown(t, conntrackLimit, map[string]float64{",,,,host": 100, ",,alpha,,container": 100})
	// Lookups come and go. The series stays.
	m.SetState(&host, map[string]loader.NetnsState{"id-alpha": tracks(0), "id-twin": tracks(0), "id-quiet": tracks(0)})
	s.wantShown(t, conntrackEntries, map[string]float64{",,,,host": 10, ",,alpha,,container": 0})
	m.SetInventory(inventoryOf(liveContainer(s, "quiet", "web")))
	m.SetState(&host, map[string]loader.NetnsState{"id-quiet": tracks(0)})
	s.wantShown(t, conntrackEntries, map[string]float64{",,,,host": 10})
	if len(m.tracking)+len(m.states) != 1 {
		t.Errorf("states of containers that are gone are kept: %v %v", m.tracking, m.states)
	}
}

// The kernel counts since a namespace's birth, and the host's was there before the agent.
func TestConntrackFailures(t *testing.T) {
	s, m := newTestMetrics()
	old := liveContainer(s, "old", "web")
	old.StartedAt = s.now.Add(-time.Hour)
	m.SetInventory(inventoryOf(liveContainer(s, "alpha", "web"), old, liveContainer(s, "quiet", "web")))
	var host loader.HostState
	m.SetState(&host, nil)
	s.wantShown(t, conntrackFailures, map[string]float64{}) // it tracks nothing, or does not say
	read := func(hostFailed uint64, containers map[string]loader.ConntrackStats) {
		host.Conntrack.Limit = 100
		host.ConntrackStats = &loader.ConntrackStats{Entries: 4, InsertFailed: hostFailed, Invalid: 1000}
		states := make(map[string]loader.NetnsState)
		for id, stats := range containers {
			states[id] = loader.NetnsState{Conntrack: stats}
		}
		m.SetState(&host, states)
		s.wait(zeroFor)
	}
	read(500, map[string]loader.ConntrackStats{"id-alpha": {Drop: 3}, "id-old": {Drop: 70}, "id-quiet": {}})
	want := map[string]float64{
		",,,,host,insert_failed": 0, ",,,,host,drop": 0, ",,,,host,early_drop": 0, ",,,,host,invalid": 0,
		",,alpha,,container,drop": 3,
	}
	s.wantShown(t, conntrackFailures, want)
	read(510, map[string]loader.ConntrackStats{"id-alpha": {Drop: 5, EarlyDrop: 1}, "id-old": {Drop: 71}, "id-quiet": {}})
	want[",,,,host,insert_failed"], want[",,alpha,,container,drop"], want[",,alpha,,container,early_drop"] = 10, 5, 1
	want[",,old,,container,drop"] = 1
	s.wantShown(t, conntrackFailures, want)

	read(510, map[string]loader.ConntrackStats{"id-alpha": {Drop: 2}}) // restarted
	want[",,alpha,,container,drop"] = 7
	s.wantShown(t, conntrackFailures, want)

	host.ConntrackStats = nil // could not be read this time
	m.SetState(&host, nil)
	read(511, nil)
	want[",,,,host,insert_failed"] = 11
	s.wantShown(t, conntrackFailures, want)
}

// TestConntrackCountersWrap: each processor's counter has 32 bits, and what is read is their sum. What falls by more than that
// explains is that of a module that was loaded anew.
func TestConntrackCountersWrap(t *testing.T) {
	const all = 1 << 32
	s, m := newTestMetrics()
	total := 0.0
	for _, read := range []struct {
		invalid uint64
		rise    float64
	}{
		{all - 10 + all - 20 + 7000, 0},
		{all - 5 + all - 20 + 7001, 6},
		{3 + all - 10 + 7001, 18}, // of one processor, while another's rose
		{9 + all - 9 + 7001, 7},
		{10 + 2 + 7001, 12},
		{40, 40},
		{41, 1},
	} {
		m.SetState(&loader.HostState{
			Conntrack: loader.Table{Limit: 100}, ConntrackStats: &loader.ConntrackStats{Invalid: read.invalid},
		}, nil)
		s.wait(zeroFor)
		total += read.rise
		s.wantShown(t, conntrackFailures, map[string]float64{
			",,,,host,insert_failed": 0, ",,,,host,drop": 0, ",,,,host,early_drop": 0, ",,,,host,invalid": total,
		})
	}
}

// TestConntrackFromNothing has a host on which nothing was ever tracked, until everything goes wrong at once.
func TestConntrackFromNothing(t *testing.T) {
	s, m := newTestMetrics()
	host := loader.HostState{Conntrack: loader.Table{Limit: 100}, ConntrackStats: &loader.ConntrackStats{}}
	m.SetState(&host, nil)
	host.ConntrackStats = &loader.ConntrackStats{Entries: 100, Drop: 7}
	m.SetState(&host, nil)
	s.wait(zeroFor)
	s.wantShown(t, conntrackFailures, map[string]float64{
		",,,,host,insert_failed": 0, ",,,,host,drop": 7, ",,,,host,early_drop": 0, ",,,,host,invalid": 0,
	})
}

func TestTracking(t *testing.T) {
	s, m := newTestMetrics()
	pressure := func(protocol uint8, used, limit int) enrich.PortPressure {
		return enrich.PortPressure{Protocol: protocol, Used: used, Limit: limit}
	}
	m.SetTracking(&enrich.Tracking{Pressure: []enrich.PortPressure{
		pressure(unix.IPPROTO_TCP, 900, 1000), pressure(unix.IPPROTO_TCP, 500, 1000), pressure(unix.IPPROTO_UDP, 3, 28000),
	}})
	s.wantShown(t, snatPortsUsed, map[string]float64{",,,,host,tcp": 900, ",,,,host,udp": 3})
	s.wantShown(t, snatPortsLimit, map[string]float64{",,,,host,tcp": 1000, ",,,,host,udp": 28000})
	m.SetTracking(&enrich.Tracking{})
	s.wantShown(t, snatPortsUsed, map[string]float64{})
	s.wantShown(t, snatPortsLimit, map[string]float64{})
}

func TestRulesetChanges(t *testing.T) {
	s, m := newTestMetrics()
	s.wantShown(t, rulesetChanges, map[string]float64{"host": 0, "container": 0})
	m.AddRulesetChanges([]loader.RulesetChange{{NetnsID: -1}, {NetnsID: 0}, {NetnsID: 7}, {NetnsID: -1}, {NetnsID: -1}})
	s.wantShown(t, rulesetChanges, map[string]float64{"host": 3, "container": 2})
}
