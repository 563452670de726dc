// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// A container that lives for a moment may be seen by the kernel before the engine's event of its creation is read, and be
// gone when the engine is asked.
func TestSketchNamesWhatTheKernelSawFirst(t *testing.T) {
	id := strings.Repeat("a1", 32)
	state := NewState(Config{Host: 1, Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
	state.LinkChanged(loader.LinkChange{Link: loader.Link{Index: 7, Kind: "veth", Master: 3, PeerNetnsID: 5}})
	state.Process(loader.Process{Netns: 9, PID: 100, Cgroup: id, Ports: [4]loader.Port{{Index: 6, Peer: 7}}})
	state.SketchContainer(Container{ID: id, Name: "moment"})
	state.ContainerDied(id)

	flows, _ := state.Attribute([]loader.Flow{{Device: 7, TX: loader.Counts{Skbs: 1, Packets: 1, Bytes: 60}}}, nil)
	if len(flows) != 1 || flows[0].Container != "moment" {
		t.Fatalf("attributed to %+v, want moment", flows)
	}
}

// When the engine says that a container died, what was counted up to then is attributed while it still has its address.
func TestSettlesBeforeAnAddressMoves(t *testing.T) {
	e := newEngine(t, "1.41")
	state := NewState(Config{Host: 1, Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
	var mu sync.Mutex
	var living []string // at each settling
	connected := make(chan struct{}, 1)
	d := e.open(state, func(DockerStatus) { connected <- struct{}{} })
	d.hooks.Settle = func() {
		mu.Lock()
		defer mu.Unlock()
		living = living[:0]
		for _, c := range state.Inventory().Containers {
			living = append(living, c.Name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	<-connected
	victim := state.Inventory().Containers[0]
	e.event("container", "die", victim.ID, map[string]string{"name": victim.Name})
	for deadline := time.Now().Add(5 * time.Second); slices.ContainsFunc(state.Inventory().Containers,
		func(c LiveContainer) bool { return c.ID == victim.ID }); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the event of its death was not taken in")
		}
	}
	mu.Lock()
	settled := slices.Contains(living, victim.Name)
	mu.Unlock()
	if !settled {
		t.Error("its death was taken in before what was counted had been settled")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What depends on who is there is told when that has changed, not before.
func TestTellsOfChanges(t *testing.T) {
	e := newEngine(t, "1.41")
	state := NewState(Config{Host: 1, Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
	d := e.open(state, func(DockerStatus) {})
	living := make(chan []LiveContainer, 16)
	d.hooks.Changed = func() { living <- state.Inventory().Containers }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	listed := <-living
	if len(listed) == 0 {
		t.Fatal("told before anything was listed")
	}
	victim := listed[0]
	e.event("container", "die", victim.ID, map[string]string{"name": victim.Name})
	if slices.ContainsFunc(<-living, func(c LiveContainer) bool { return c.ID == victim.ID }) {
		t.Error("told before the death was taken in")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A veth is taken off its bridge just before it is removed: what it carried was still of that network.
func TestLastCountsKeepTheirNetwork(t *testing.T) {
	w := newWorld(t)
	id := strings.Repeat("a1", 32)
	veth := loader.Link{Index: 70, Name: "veth70", Kind: "veth", Master: webBridge, PeerNetnsID: 5}
	w.LinkChanged(change(veth))
	w.Process(loader.Process{Netns: 90, PID: 100, Cgroup: id, Ports: [4]loader.Port{{Index: 6, Peer: 70}}})
	w.SketchContainer(Container{ID: id, Name: "moment"})
	veth.Master = 0
	w.LinkChanged(change(veth))
	flows, _ := w.Attribute([]loader.Flow{{Device: 70, TX: loader.Counts{Skbs: 1, Packets: 1, Bytes: 60}}}, nil)
	if len(flows) != 1 || flows[0].Network != "web" {
		t.Fatalf("attributed to %+v, want network web", flows)
	}
}
