// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"

	"github.com/google/go-cmp/cmp"
)

// testStore is a store whose clock the test moves.
type testStore struct {
	*Store
	now time.Time
}

func newTestStore(limit int) *testStore {
	s := &testStore{now: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)}
	s.Store = NewStore(StoreConfig{Limit: limit, Retention: 10 * time.Minute, Now: func() time.Time { return s.now }})
	return s
}

func (s *testStore) wait(d time.Duration) { s.now = s.now.Add(d) }

// shown is what a scrape would show of a family now: label values joined by commas, to value.
func (s *testStore) shown(f *Family) map[string]float64 {
	shown := make(map[string]float64)
	s.Each(func(of *Family, series *Series, value Value) {
		if of == f {
			shown[strings.Join(series.Values, ",")] = value.Number
		}
	})
	return shown
}

func (s *testStore) sum(f *Family) (sum float64) {
	for _, value := range s.shown(f) {
		sum += value
	}
	return sum
}

// created says when each series of a family was.
func (s *testStore) created(f *Family) map[string]time.Time {
	created := make(map[string]time.Time)
	s.Each(func(of *Family, series *Series, _ Value) {
		if of == f {
			created[strings.Join(series.Values, ",")] = series.Created
		}
	})
	return created
}

func (s *testStore) wantShown(t *testing.T, f *Family, want map[string]float64) {
	t.Helper()
	if diff := cmp.Diff(want, s.shown(f)); diff != "" {
		t.Errorf("%s: %s", f.Name, diff)
	}
}

// rx are the label values of packets that a container of no stack received on the network web.
func rx(container string) []string { return []string{"", "", container, "web", "container", "rx"} }

// A counter that nobody could foresee shows 0 for 15 s, so that a scrape sees it before it sees its value.
func TestUnforeseenStartsAtZero(t *testing.T) {
	s := newTestStore(1000)
	born := s.now
	s.Add(packets, 5, rx("alpha")...)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 0})
	s.wait(zeroFor - time.Millisecond)
	s.Add(packets, 2, rx("alpha")...)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 0})
	s.wait(time.Millisecond)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 7})
	s.Add(packets, 1, rx("alpha")...)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 8})
	if diff := cmp.Diff(map[string]time.Time{",,alpha,web,container,rx": born}, s.created(packets)); diff != "" {
		t.Errorf("created: %s", diff)
	}
}

// One that was foreseen shows its value at once, and is not set back by being foreseen again.
func TestPlanned(t *testing.T) {
	s := newTestStore(1000)
	s.Plan(packets, rx("alpha")...)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 0})
	s.Add(packets, 5, rx("alpha")...)
	s.Plan(packets, rx("alpha")...)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 5})
}

func TestReplace(t *testing.T) {
	s := newTestStore(1000)
	born := s.now
	s.Replace(mapEntries, []Sample{{Value: 1, Values: []string{"flows"}}, {Value: 2, Values: []string{"drops"}}})
	s.wait(time.Minute)
	s.Replace(mapEntries, []Sample{
		{Value: 3, Values: []string{"drops"}}, {Value: 4, Values: []string{"execs"}}, {Value: 9, Values: []string{"execs"}},
	})
	s.wantShown(t, mapEntries, map[string]float64{"drops": 3, "execs": 4})
	if diff := cmp.Diff(map[string]time.Time{"drops": born, "execs": s.now}, s.created(mapEntries)); diff != "" {
		t.Errorf("created: %s", diff)
	}
	s.Replace(mapEntries, nil)
	s.wantShown(t, mapEntries, map[string]float64{})

	// A counter that somebody else keeps shows its value at once.
	s.Replace(lostRecords, []Sample{{Value: 7, Values: []string{"flow", "table_full"}}})
	s.wantShown(t, lostRecords, map[string]float64{"flow,table_full": 7})
}

// Gauges that come and go leave the room that they took.
func TestReplaceGivesRoomBack(t *testing.T) {
	s := newTestStore(1000)
	before := s.count
	for i := range 10 {
		samples := make([]Sample, i)
		for j := range samples {
			samples[j].Values = []string{fmt.Sprint(j)}
		}
		s.Replace(mapEntries, samples)
	}
	s.Replace(mapEntries, nil)
	if s.count != before {
		t.Errorf("%d series are counted, want %d", s.count, before)
	}
}

// Beyond the limit all counts go to one series of each family, which keeps the labels with few values.
func TestLimit(t *testing.T) {
	s := newTestStore(0)
	s.config.Limit = s.count + 2
	for i := range 5 {
		s.Add(packets, 10, rx(fmt.Sprint("c", i))...)
	}
	s.Add(packets, 1, rx("c0")...) // it was there before the limit was reached
	s.Add(droppedPackets, 3, "", "", "c9", "web", "host", "bridge", "rx", "NETFILTER_DROP", "filtered", "fault")
	s.Add(droppedPackets, 4, "", "", "c8", "web", "host", "veth", "rx", "NO_ROUTE", "no-route", "fault")
	s.Add(droppedPackets, 5, "", "", "c8", "web", "container", "veth", "tx", "NO_SOCKET", "no-listener", "application")
	s.Add(conversationBytes, 6, "a", "b", "c", "d", "web", "tcp")
	s.Add(observedPackets, 1, "flow") // the agent's own have no limit
	s.wait(zeroFor)
	s.wantShown(t, packets, map[string]float64{
		",,c0,web,container,rx": 11, ",,c1,web,container,rx": 10,
		"~other,~other,~other,~other,container,rx": 30,
	})
	s.wantShown(t, droppedPackets, map[string]float64{
		"~other,~other,~other,~other,host,~other,rx,~other,~other,fault":            7,
		"~other,~other,~other,~other,container,~other,tx,~other,~other,application": 5,
	})
	s.wantShown(t, conversationBytes, map[string]float64{"~other,~other,~other,~other,~other,tcp": 6})
	s.wantShown(t, observedPackets, map[string]float64{"flow": 1})
	overflow := s.shown(seriesOverflow)
	for f, want := range map[*Family]float64{packets: 3, droppedPackets: 3, conversationBytes: 1, bytes: 0} {
		if overflow[f.Name] != want {
			t.Errorf("overflow of %s is %g, want %g", f.Name, overflow[f.Name], want)
		}
	}
}

// What is foreseen but finds no room is no update: it would be counted again at every reading.
func TestPlanBeyondLimit(t *testing.T) {
	s := newTestStore(0)
	for range 10 {
		s.Plan(packets, rx("alpha")...)
	}
	if got := s.sum(seriesOverflow); got != 0 {
		t.Errorf("overflow is %g, want 0", got)
	}
	s.Add(packets, 1, rx("alpha")...)
	if got := s.shown(seriesOverflow)[packets.Name]; got != 1 {
		t.Errorf("overflow is %g, want 1", got)
	}
}

// The retired give their room to others.
func TestRetireGivesRoomBack(t *testing.T) {
	s := newTestStore(0)
	s.config.Limit = s.count + 1
	s.Add(packets, 1, rx("alpha")...)
	s.wait(10 * time.Minute)
	s.Retire(nil)
	s.Add(packets, 2, rx("beta")...)
	s.wait(zeroFor)
	s.wantShown(t, packets, map[string]float64{",,beta,web,container,rx": 2})
}

func TestRetire(t *testing.T) {
	s := newTestStore(1000)
	alpha, beta := Owner{Container: "alpha"}, Owner{Container: "beta"}
	s.Plan(packets, rx("alpha")...)
	s.Plan(packets, rx("beta")...)
	s.Add(packets, 1, rx("alpha")...)
	s.Add(packets, 1, rx("beta")...)
	s.Add(droppedPackets, 4, "", "", "alpha", "web", "host", "veth", "rx", "X", "y", "fault")
	s.Add(droppedPackets, 5, "", "", "", "", "host", "underlay", "rx", "X", "y", "fault") // the host's own
	s.Add(observedPackets, 9, "drop")

	s.wait(10*time.Minute - time.Second)
	s.Plan(packets, rx("beta")...) // it is still on its network
	s.Retire([]Owner{beta})
	if got := len(s.shown(packets)); got != 2 {
		t.Fatalf("%d series before the retention is over, want 2", got)
	}
	s.wait(time.Second)
	s.Retire([]Owner{beta})
	s.wantShown(t, packets, map[string]float64{",,beta,web,container,rx": 1})
	s.wantShown(t, droppedPackets, map[string]float64{",,,,host,underlay,rx,X,y,fault": 5})
	s.wantShown(t, observedPackets, map[string]float64{"drop": 9})

	// It may come back, and starts anew with a creation of its own.
	s.Add(packets, 3, rx("alpha")...)
	s.Retire([]Owner{alpha, beta})
	s.wait(zeroFor)
	s.wantShown(t, packets, map[string]float64{",,alpha,web,container,rx": 3, ",,beta,web,container,rx": 1})
	if got := s.created(packets)[",,alpha,web,container,rx"]; got != s.now.Add(-zeroFor) {
		t.Errorf("created %v, want %v", got, s.now.Add(-zeroFor))
	}
}

// An identity that lives on takes the series of a network that it left with it no further: CI has a new network for each job.
func TestRetireOfANetwork(t *testing.T) {
	s, m := newTestMetrics()
	onBoth := liveContainer(s, "alpha", "old", "new")
	m.SetInventory(inventoryOf(onBoth))
	d := dropOf("alpha", "X", "y", 1)
	d.Network = "old"
	m.AddDrops([]enrich.Drop{d})
	for range 11 {
		s.wait(time.Minute)
		m.SetInventory(inventoryOf(liveContainer(s, "alpha", "new")))
	}
	s.wantShown(t, packets, map[string]float64{",,alpha,new,container,rx": 0, ",,alpha,new,container,tx": 0})
	s.wantShown(t, droppedPackets, map[string]float64{",,alpha,,container,other,rx,other,other,fault": 0})
	if len(m.drops) != 0 {
		t.Errorf("the budget still holds %v", m.drops)
	}
}

// What nobody on a network is the victim of lives as long as the network, used or not. What is the host's own stays.
func TestRetireOfANetworkOfNobody(t *testing.T) {
	s, m := newTestMetrics()
	inventory := inventoryOf()
	inventory.Networks = []enrich.Network{{ID: "id-web", Name: "web", Driver: "bridge"}}
	onNetwork, hosts := dropOf("", "X", "y", 1), dropOf("", "X", "y", 1)
	hosts.Network = ""
	m.AddDrops([]enrich.Drop{onNetwork, hosts})
	for range 30 {
		m.SetInventory(inventory)
		s.wait(time.Minute)
	}
	s.wantShown(t, droppedPackets, map[string]float64{",,,web,host,bridge,rx,X,y,fault": 1, ",,,,host,bridge,rx,X,y,fault": 1})
	for range 11 {
		m.SetInventory(inventoryOf())
		s.wait(time.Minute)
	}
	s.wantShown(t, droppedPackets, map[string]float64{",,,,host,bridge,rx,X,y,fault": 1})
}

// A task and its successor are one to every reader: their series goes on.
func TestEqualIdentitiesGoOn(t *testing.T) {
	s := newTestStore(1000)
	born := s.now
	owner := Owner{Container: "alpha"}
	last := 0.0
	for range 100 {
		s.Plan(packets, rx("alpha")...)
		s.Add(packets, 1, rx("alpha")...)
		s.Retire([]Owner{owner})
		s.wait(5 * time.Minute) // between the end of one and the start of the next
		s.Retire(nil)
		got := s.shown(packets)[",,alpha,web,container,rx"]
		if got <= last {
			t.Fatalf("it shows %g after %g", got, last)
		}
		last = got
	}
	if last != 100 || s.created(packets)[",,alpha,web,container,rx"] != born {
		t.Errorf("it shows %g, created %v; want 100 and %v", last, s.created(packets), born)
	}
}

// Series without an owner live as long as they are used.
func TestIdleSeriesAreRetired(t *testing.T) {
	s := newTestStore(1000)
	busy, idle := []string{"", "a", "", "b", "web", "tcp"}, []string{"", "a", "", "c", "web", "tcp"}
	s.Add(conversationBytes, 1, idle...)
	s.Plan(networkPackets, "web", "rx")
	s.Plan(networkPackets, "gone", "rx")
	for range 60 {
		s.wait(time.Minute)
		s.Add(conversationBytes, 1, busy...)
		s.Plan(networkPackets, "web", "rx")
		s.Retire(nil)
	}
	s.wantShown(t, conversationBytes, map[string]float64{",a,,b,web,tcp": 60})
	s.wantShown(t, networkPackets, map[string]float64{"web,rx": 0})
}

// Values that would look alike when strung together are told apart.
func TestValuesAreToldApart(t *testing.T) {
	s := newTestStore(1000)
	s.Add(dropLocations, 1, "a", "b,c")
	s.Add(dropLocations, 2, "a,b", "c")
	s.Add(dropLocations, 4, "", "ab")
	s.Add(dropLocations, 8, "ab", "")
	s.wait(zeroFor)
	if got := len(s.families[dropLocations].list); got != 4 {
		t.Errorf("%d series, want 4", got)
	}
}

func TestSeriesAreCounted(t *testing.T) {
	s := newTestStore(1000)
	s.Add(packets, 1, rx("alpha")...)
	s.Add(packets, 1, rx("beta")...)
	s.countSeries()
	s.countSeries() // its own are there by now
	shown := s.shown(seriesCount)
	if len(shown) != len(Families()) {
		t.Errorf("%d metrics are counted, want %d", len(shown), len(Families()))
	}
	sum := 0.0
	for f, n := range map[*Family]int{packets: 2, bytes: 0, seriesCount: len(Families())} {
		if shown[f.Name] != float64(n) {
			t.Errorf("%s has %g series, want %d", f.Name, shown[f.Name], n)
		}
	}
	for _, n := range shown {
		sum += n
	}
	if int(sum) != s.count {
		t.Errorf("%g series in all metrics, the limit is held against %d", sum, s.count)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := NewStore(StoreConfig{Limit: 50, Retention: time.Hour, Now: time.Now})
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := range 200 {
				s.Add(packets, 1, rx(fmt.Sprint("c", i))...)
				s.Plan(packets, rx(fmt.Sprint("p", worker))...)
				s.Replace(mapEntries, []Sample{{Value: 1, Values: []string{"m"}}})
				s.Retire([]Owner{{Container: "c1"}})
				s.countSeries()
				s.Each(func(*Family, *Series, Value) {})
			}
		})
	}
	group.Wait()
	sum := 0.0
	for _, series := range s.families[packets].list {
		sum += series.value
	}
	if sum != 800 {
		t.Errorf("packets sum up to %g, want 800", sum)
	}
}
