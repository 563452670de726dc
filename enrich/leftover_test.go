// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestListed(t *testing.T) {
	s := NewState(Config{NetnsID: func(int) (int, error) { return -1, nil }, Now: time.Now})
	s.SketchContainer(Container{ID: "early"})
	s.SetNetworks(nil)
	if s.Listed() {
		t.Error("listed before the engine named its containers")
	}
	s.SetContainers(nil, time.Now())
	if !s.Listed() {
		t.Error("not listed although the engine named its containers, none")
	}
}

func TestLinkOwners(t *testing.T) {
	w := newWorld(t)
	veth := func(index, netns int) loader.LinkChange {
		return change(loader.Link{Index: index, Name: "veth" + strconv.Itoa(index), Kind: "veth", Master: webBridge, Peer: 2, PeerNetnsID: netns})
	}
	w.netnsIDs[100] = 5
	w.PutContainer(Container{ID: "c1", Name: "db", PID: 100, Running: true})
	w.LinkChanged(veth(30, 5))
	w.LinkChanged(veth(31, 5))
	w.LinkChanged(veth(32, 6)) // of nobody known
	gone := veth(31, 5)
	gone.Gone = true
	w.LinkChanged(gone)
	if diff := cmp.Diff(map[int]string{30: "c1"}, w.LinkOwners()); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}
