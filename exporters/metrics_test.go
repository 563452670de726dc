// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// maxPerContainer is the contract's bound on the series of one container.
const maxPerContainer = 30

func newTestMetrics() (*testStore, *Metrics) {
	s := newTestStore(100000)
	return s, NewMetrics(s.Store)
}

// liveContainer is a running one on networks.
func liveContainer(s *testStore, name string, networks ...string) enrich.LiveContainer {
	return enrich.LiveContainer{
		Container: enrich.Container{ID: "id-" + name, Name: name, Image: "image:1", Running: true, PID: 1, StartedAt: s.now},
		Identity:  enrich.Identity{Container: name},
		Networks:  networks,
	}
}

func inventoryOf(containers ...enrich.LiveContainer) enrich.Inventory {
	return enrich.Inventory{Node: enrich.Node{Name: "n1"}, Containers: containers}
}

// dropOf is one of so many packets that the container lost.
func dropOf(container, reason, cause string, n uint64) enrich.Drop {
	return enrich.Drop{
		Drop:     loader.Drop{Reason: reason, Function: "f", Counts: loader.Counts{Skbs: n, Packets: n, Bytes: 100 * n}},
		Identity: enrich.Identity{Container: container, Network: "web"},
		Scope:    enrich.ScopeHost, DeviceKind: "bridge", Direction: enrich.RX, Cause: cause, Kind: enrich.KindFault,
	}
}

// perContainer counts the series that carry each container's name.
func perContainer(s *testStore) map[string]int {
	count := make(map[string]int)
	s.Each(func(f *Family, series *Series, _ Value) {
		for i, label := range f.Labels {
			if label == "container" && series.Values[i] != "" {
				count[series.Values[i]]++
			}
		}
	})
	return count
}

// Every series of a container that can be foreseen is there from its birth.
func TestBornAtZero(t *testing.T) {
	s, m := newTestMetrics()
	m.SetInventory(inventoryOf(liveContainer(s, "alpha", "web")))
	for _, f := range []*Family{packets, bytes, skbs} {
		s.wantShown(t, f, map[string]float64{",,alpha,web,container,rx": 0, ",,alpha,web,container,tx": 0})
	}
	for _, f := range []*Family{droppedPackets, droppedBytes} {
		s.wantShown(t, f, map[string]float64{",,alpha,,container,other,rx,other,other,fault": 0})
	}
	s.wantShown(t, observedPackets, map[string]float64{"flow": 0, "drop": 0})
	s.wantShown(t, unattributedPackets, map[string]float64{"flow": 0, "drop": 0})
	s.wantShown(t, containerInfo, map[string]float64{",,alpha,id-alpha,alpha,image:1": 1})
	s.wantShown(t, containerStart, map[string]float64{",,alpha,id-alpha": float64(s.now.Unix())})
}

func TestNetworksAreBornAtZero(t *testing.T) {
	s, m := newTestMetrics()
	inventory := inventoryOf()
	inventory.Networks = []enrich.Network{
		{ID: "n1", Name: "web", Driver: "bridge", Scope: "local", Bridge: "br-web", MTU: "1400"},
		{ID: "n2", Name: "ov", Driver: "overlay", Scope: "swarm", VNI: "4097", Encrypted: true, Internal: true},
	}
	m.SetInventory(inventory)
	for _, f := range []*Family{networkPackets, networkBytes} {
		s.wantShown(t, f, map[string]float64{"web,rx": 0, "web,tx": 0})
	}
	s.wantShown(t, networkInfo, map[string]float64{
		"web,n1,bridge,local,,false,false,1400": 1, "ov,n2,overlay,swarm,4097,true,true,": 1,
	})
}

// However many ways there are to lose packets, a container has so many series at most, and no packet goes uncounted.
func TestSeriesPerContainer(t *testing.T) {
	s, m := newTestMetrics()
	m.SetInventory(inventoryOf(liveContainer(s, "alpha", "web"), liveContainer(s, "beta", "web")))
	m.AddFlows([]enrich.Flow{flowOf("alpha", "~external"), flowOf("beta", "~external")})
	kinds := []enrich.Kind{enrich.KindFault, enrich.KindApplication, enrich.KindPolicy, enrich.KindBenign}
	const reasons = 400
	byKind := make(map[enrich.Kind]float64)
	for i := range reasons {
		d := dropOf("alpha", fmt.Sprint("REASON_", i%97), fmt.Sprint("cause-", i%31), uint64(i))
		d.Kind = kinds[i%len(kinds)]
		d.DeviceKind = []string{"veth", "bridge", "underlay"}[i%3]
		d.Direction = []enrich.Direction{enrich.RX, enrich.TX}[i%2]
		d.Scope = []enrich.Scope{enrich.ScopeHost, enrich.ScopeContainer}[i/2%2]
		byKind[d.Kind] += float64(i)
		m.AddDrops([]enrich.Drop{d})
	}
	m.AddDrops([]enrich.Drop{dropOf("beta", "REASON_1", "cause-1", 5)})
	s.wait(zeroFor)

	for container, n := range perContainer(s) {
		if n > maxPerContainer {
			t.Errorf("%s has %d series, want at most %d", container, n, maxPerContainer)
		}
	}
	const fed = reasons*(reasons-1)/2 + 5
	if got := s.sum(droppedPackets); got != fed {
		t.Errorf("drops sum up to %g, want %d", got, fed)
	}
	if got := s.sum(droppedBytes); got != 100*fed {
		t.Errorf("bytes sum up to %g, want %d", got, 100*fed)
	}
	if got := s.shown(observedPackets)["drop"]; got != fed {
		t.Errorf("observed are %g, want %d", got, fed)
	}
	byKind[enrich.KindFault] += 5
	for kind, want := range byKind {
		got := 0.0
		for values, value := range s.shown(droppedPackets) {
			if strings.HasSuffix(values, ","+string(kind)) {
				got += value
			}
		}
		if got != want {
			t.Errorf("kind %s sums up to %g, want %g: alerts look at it", kind, got, want)
		}
	}
	if got := s.shown(seriesOverflow)[droppedPackets.Name]; got == 0 {
		t.Error("overflow is 0")
	}
	if got := s.shown(droppedPackets)[",,beta,web,host,bridge,rx,REASON_1,cause-1,fault"]; got != 5 {
		t.Errorf("beta's drop shows %g, want 5: another container's budget is not its own", got)
	}
}

// Noise does not take the room of what a container loses.
func TestNoiseLeavesRoomForLosses(t *testing.T) {
	s, m := newTestMetrics()
	for i := range 100 {
		d := dropOf("web", fmt.Sprint("REASON_", i), "noise", 1)
		d.Kind = enrich.KindBenign
		m.AddDrops([]enrich.Drop{d})
	}
	m.AddDrops([]enrich.Drop{dropOf("web", "NETFILTER_DROP", "filtered", 7)})
	s.wait(zeroFor)
	found := 0.0
	for values, value := range s.shown(droppedPackets) {
		if strings.Contains(values, "NETFILTER_DROP,filtered") {
			found += value
		}
	}
	if found != 7 {
		t.Errorf("the loss shows %g under its cause, want 7", found)
	}
}

// A container without any label of its own is bounded too: with --metrics.container-label=none.
func TestSeriesPerServiceWithoutContainers(t *testing.T) {
	s, m := newTestMetrics()
	for i := range 100 {
		d := dropOf("", fmt.Sprint("REASON_", i), "c", 1)
		d.Stack, d.Service = "shop", "web"
		m.AddDrops([]enrich.Drop{d})
	}
	if got := len(s.shown(droppedPackets)); got > maxDropSeries+maxBenignSeries+4 {
		t.Errorf("%d series of drops, want at most %d", got, maxDropSeries+maxBenignSeries+4)
	}
	s.wait(zeroFor)
	if got := s.sum(droppedPackets); got != 100 {
		t.Errorf("drops sum up to %g, want 100", got)
	}
}

// The sum over all series is what was fed in even when there is no room at all.
func TestNothingIsLostBeyondTheLimit(t *testing.T) {
	s := newTestStore(0)
	m := NewMetrics(s.Store)
	s.config.Limit = s.count + 20
	for i := range 100 {
		name := fmt.Sprint("c", i)
		m.SetInventory(inventoryOf(liveContainer(s, name, "web")))
		m.AddFlows([]enrich.Flow{flowOf(name, "peer")})
		m.AddDrops([]enrich.Drop{dropOf(name, fmt.Sprint("R", i), "c", 3)})
	}
	s.wait(zeroFor)
	for f, want := range map[*Family]float64{
		packets: 100 * (2 + 3), bytes: 100 * (20 + 30), skbs: 100 * 2, droppedPackets: 300, droppedBytes: 30000,
		conversationBytes: 100 * (20 + 30), dropLocations: 300,
	} {
		if got := s.sum(f); got != want {
			t.Errorf("%s sums up to %g, want %g", f.Name, got, want)
		}
	}
	if got := s.shown(observedPackets); got["flow"] != 500 || got["drop"] != 300 {
		t.Errorf("observed: %v, want 500 flow and 300 drop", got)
	}
}

// flowOf is one of 2 received and 3 sent packets of a container with a peer beyond this host.
func flowOf(container, peer string) enrich.Flow {
	return enrich.Flow{
		Flow: loader.Flow{
			Remote: netip.MustParseAddr("198.51.100.1"), EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_TCP,
			RX: loader.Counts{Skbs: 1, Packets: 2, Bytes: 20}, TX: loader.Counts{Skbs: 1, Packets: 3, Bytes: 30},
		},
		Identity: enrich.Identity{Container: container, Network: "web"},
		Scope:    enrich.ScopeContainer, Via: enrich.ViaContainer, Peer: enrich.Peer{Service: peer},
	}
}

// Totals stay when series go.
func TestObservedOutlivesRetirement(t *testing.T) {
	s, m := newTestMetrics()
	m.SetInventory(inventoryOf(liveContainer(s, "alpha", "web")))
	m.AddFlows([]enrich.Flow{flowOf("alpha", "~external")})
	m.AddDrops([]enrich.Drop{dropOf("alpha", "R", "c", 7)})
	s.wait(10 * time.Minute)
	m.SetInventory(inventoryOf())
	for _, f := range []*Family{packets, bytes, skbs, droppedPackets, droppedBytes, conversationBytes, containerInfo, containerStart} {
		if shown := s.shown(f); len(shown) != 0 {
			t.Errorf("%s shows %v, want nothing", f.Name, shown)
		}
	}
	s.wantShown(t, observedPackets, map[string]float64{"flow": 5, "drop": 7})
	s.wantShown(t, dropLocations, map[string]float64{"R,f": 7})
	if len(m.drops) != 0 {
		t.Errorf("budgets of %d retired containers are kept", len(m.drops))
	}
}

// Two containers of one identity are one to every reader, except where their IDs stand.
func TestEqualIdentitiesAreSummed(t *testing.T) {
	s, m := newTestMetrics()
	first, second := liveContainer(s, "web.1", "web"), liveContainer(s, "web.1", "web")
	first.ID, first.Name = "id1", "web.1.aaa"
	second.ID, second.Name = "id2", "web.1.bbb"
	m.SetInventory(inventoryOf(first, second))
	m.AddFlows([]enrich.Flow{flowOf("web.1", "~external"), flowOf("web.1", "~external")})
	m.AddDrops([]enrich.Drop{dropOf("web.1", "R", "c", 1), dropOf("web.1", "R", "c", 2)})
	s.wait(zeroFor)
	s.wantShown(t, packets, map[string]float64{",,web.1,web,container,rx": 4, ",,web.1,web,container,tx": 6})
	if got := s.shown(droppedPackets)[",,web.1,web,host,bridge,rx,R,c,fault"]; got != 3 {
		t.Errorf("drops show %g, want 3", got)
	}
	s.wantShown(t, containerInfo, map[string]float64{
		",,web.1,id1,web.1.aaa,image:1": 1, ",,web.1,id2,web.1.bbb,image:1": 1,
	})

	// One of them ends; the series goes on.
	m.SetInventory(inventoryOf(second))
	s.wait(time.Hour)
	m.SetInventory(inventoryOf(second))
	s.wantShown(t, packets, map[string]float64{",,web.1,web,container,rx": 4, ",,web.1,web,container,tx": 6})
	s.wantShown(t, containerInfo, map[string]float64{",,web.1,id2,web.1.bbb,image:1": 1})
}

// Each conversation is counted once: by the sender, or by the receiver if nobody here counts for the sender.
func TestConversations(t *testing.T) {
	inside := enrich.Peer{Service: "beta", Local: true}
	for _, tc := range []struct {
		name string
		edit func(f *enrich.Flow)
		want map[string]float64
	}{
		{
			"with the world, both ways",
			func(*enrich.Flow) {},
			map[string]float64{",alpha,,~external,web,tcp": 30, ",~external,,alpha,web,tcp": 20},
		},
		{
			"with another container, what it sends",
			func(f *enrich.Flow) { f.Peer = inside },
			map[string]float64{",alpha,,beta,web,tcp": 30},
		},
		{
			"by services where there are any",
			func(f *enrich.Flow) {
				f.Identity = enrich.Identity{Stack: "shop", Service: "web", Container: "web.1", Network: "back"}
				f.Peer = enrich.Peer{Stack: "shop", Service: "db", Local: true}
				f.Protocol = unix.IPPROTO_UDP
			},
			map[string]float64{"shop,web,shop,db,back,udp": 30},
		},
		{
			"only received",
			func(f *enrich.Flow) { f.TX = loader.Counts{} },
			map[string]float64{",~external,,alpha,web,tcp": 20},
		},
		{
			"only received from another container",
			func(f *enrich.Flow) { f.TX = loader.Counts{}; f.Peer = inside },
			map[string]float64{},
		},
		{
			"what is not IP",
			func(f *enrich.Flow) { f.EtherType = unix.ETH_P_ARP },
			map[string]float64{},
		},
		{
			"what the kernel's table had no room for",
			func(f *enrich.Flow) {
				f.Other, f.Remote, f.EtherType, f.Protocol, f.Peer = true, netip.Addr{}, 0, 0, enrich.Peer{}
			},
			map[string]float64{",alpha,,~other,web,other": 30}, // who sent the rest may count it too
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, m := newTestMetrics()
			f := flowOf("alpha", enrich.External)
			tc.edit(&f)
			m.AddFlows([]enrich.Flow{f})
			s.wait(zeroFor)
			s.wantShown(t, conversationBytes, tc.want)
		})
	}
}

func TestFlowsOfBridgesAndNobody(t *testing.T) {
	s, m := newTestMetrics()
	bridge, nobody := flowOf("", ""), flowOf("", "")
	bridge.Via, bridge.Scope = enrich.ViaBridge, enrich.ScopeHost
	nobody.Via, nobody.Scope = enrich.ViaNobody, enrich.ScopeUnknown
	m.AddFlows([]enrich.Flow{bridge, nobody})
	s.wait(zeroFor)
	s.wantShown(t, networkPackets, map[string]float64{"web,rx": 2, "web,tx": 3})
	s.wantShown(t, networkBytes, map[string]float64{"web,rx": 20, "web,tx": 30})
	s.wantShown(t, packets, map[string]float64{})
	s.wantShown(t, unattributedPackets, map[string]float64{"flow": 5, "drop": 0})
	s.wantShown(t, observedPackets, map[string]float64{"flow": 10, "drop": 0})
}

// A load balancer sends nothing of its own: what passes it is no conversation.
func TestFlowsOfLoadBalancers(t *testing.T) {
	s, m := newTestMetrics()
	f := flowOf("", "web")
	f.Via, f.Scope = enrich.ViaSandbox, enrich.ScopeLoadBalancer
	m.AddFlows([]enrich.Flow{f})
	s.wait(zeroFor)
	s.wantShown(t, packets, map[string]float64{",,,web,loadbalancer,rx": 2, ",,,web,loadbalancer,tx": 3})
	s.wantShown(t, conversationBytes, map[string]float64{})
	s.wantShown(t, unattributedPackets, map[string]float64{"flow": 0, "drop": 0})
}

func TestDropsOfTheHostAndNobody(t *testing.T) {
	s, m := newTestMetrics()
	host, nobody := dropOf("", "R", "c", 2), dropOf("", "", "c", 3)
	host.Network, nobody.Network = "", ""
	nobody.Scope = enrich.ScopeUnknown
	m.AddDrops([]enrich.Drop{host, nobody})
	s.wait(zeroFor)
	s.wantShown(t, droppedPackets, map[string]float64{
		",,,,host,bridge,rx,R,c,fault": 2, ",,,,unknown,bridge,rx,none,c,fault": 3,
	})
	s.wantShown(t, dropLocations, map[string]float64{"R,f": 2, "none,f": 3})
	s.wantShown(t, unattributedPackets, map[string]float64{"flow": 0, "drop": 3})
}

func TestSetOwn(t *testing.T) {
	s, m := newTestMetrics()
	own := Own{
		Version: "1.2.3", Revision: "abc", GoVersion: "go1", Docker: DockerState{Up: true},
		Signals:  []Signal{{Name: "flow", Since: s.now}, {Name: "drop", Reason: "no BTF", Since: s.now}},
		Devices:  map[string]int{"veth": 3},
		Losses:   []SignalLoss{{"flow", "table_full", 4}},
		Programs: []loader.ProgramCost{{Program: "flow_ingress", Runs: 10, Time: 2 * time.Second}},
		Maps:     []loader.MapUsage{{Map: "flows", Entries: 5, Capacity: 100}},
	}
	m.SetOwn(&own)
	for f, want := range map[*Family]map[string]float64{
		buildInfo:         {"1.2.3,abc,go1": 1},
		dockerUp:          {"": 1},
		signalEnabled:     {"flow,": 1, "drop,no BTF": 0},
		signalStart:       {"flow": float64(s.now.Unix())},
		attachedDevices:   {"veth": 3},
		lostRecords:       {"flow,table_full": 4},
		programRunSeconds: {"flow_ingress": 2},
		programRuns:       {"flow_ingress": 10},
		mapEntries:        {"flows": 5},
		mapCapacity:       {"flows": 100},
	} {
		if diff := cmp.Diff(want, s.shown(f)); diff != "" {
			t.Errorf("%s: %s", f.Name, diff)
		}
	}
	if got := s.shown(seriesCount)[signalEnabled.Name]; got != 2 {
		t.Errorf("%g series of %s are counted, want 2", got, signalEnabled.Name)
	}
}

// Traffic on further networks is paid for with drop series.
func TestSeriesOnSeveralNetworks(t *testing.T) {
	for _, networks := range [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}, {"a", "b", "c", "d"}} {
		s, m := newTestMetrics()
		m.SetInventory(inventoryOf(liveContainer(s, "alpha", networks...)))
		for i := range 40 {
			d := dropOf("alpha", fmt.Sprint("REASON_", i), "c", 1)
			d.Kind = []enrich.Kind{enrich.KindFault, enrich.KindApplication, enrich.KindPolicy, enrich.KindBenign}[i%4]
			m.AddDrops([]enrich.Drop{d})
		}
		s.wait(zeroFor)
		most := maxPerContainer
		if len(networks) > 2 {
			most += 6 * (len(networks) - 2) // each further one adds its traffic: causes go on being told apart
		}
		if n := perContainer(s)["alpha"]; n > most {
			t.Errorf("on %d networks: %d series, want at most %d", len(networks), n, most)
		}
		if got := s.sum(droppedPackets); got != 40 {
			t.Errorf("on %d networks: drops sum up to %g, want 40", len(networks), got)
		}
	}
}
