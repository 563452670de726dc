// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

// permutations calls visit with every order of names.
func permutations(names []string, visit func(order []string)) {
	if len(names) == 0 {
		visit(nil)
		return
	}
	for i := range names {
		rest := append(append([]string(nil), names[:i]...), names[i+1:]...)
		permutations(rest, func(order []string) { visit(append([]string{names[i]}, order...)) })
	}
}

// Whatever comes first, namespace and link are the container's once all is there.
func TestBindingInEveryOrder(t *testing.T) {
	const netns, index, number = 100, 11, 3
	permutations([]string{"exec", "link", "create", "inspect"}, func(order []string) {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			w := newWorld(t)
			c := on(w.container("alpha"), "web", "172.30.1.2")
			w.netnsIDs[c.PID] = -1
			for _, step := range order {
				switch step {
				case "exec":
					w.Process(processOf("alpha", netns))
				case "link":
					w.LinkChanged(veth(index, 0, -1)) // born with both ends in the host's namespace
					w.LinkChanged(veth(index, webBridge, -1))
					w.netnsIDs[c.PID] = number
					w.LinkChanged(veth(index, webBridge, number))
				case "create":
					w.SketchContainer(Container{ID: c.ID, Name: c.Name})
				case "inspect":
					w.PutContainer(c)
				}
			}
			w.wantFlowOwner(index, "alpha", "web")
			w.wantNetnsOwner(netns, "alpha")
		})
	})
}

// Without the exec signal there are no namespaces, but links still have owners.
func TestBindingWithoutExec(t *testing.T) {
	permutations([]string{"link", "inspect"}, func(order []string) {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			w := newWorld(t)
			c := on(w.container("alpha"), "web", "172.30.1.2")
			w.netnsIDs[c.PID] = -1
			for _, step := range order {
				switch step {
				case "link":
					w.netnsIDs[c.PID] = 3
					w.LinkChanged(veth(11, webBridge, 3))
				case "inspect":
					w.PutContainer(c)
				}
			}
			w.wantFlowOwner(11, "alpha", "web")
		})
	})
}

// A second network's link finds the container that is known already.
func TestSecondNetwork(t *testing.T) {
	w := newWorld(t)
	c := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
	w.LinkChanged(veth(21, backBridge, 11))
	w.PutContainer(on(c, "back", "172.30.2.2"))
	w.wantFlowOwner(11, "alpha", "web")
	w.wantFlowOwner(21, "alpha", "back")
}

// A restarted container keeps its ID and gets another namespace, whose number and inode may be the old ones. The news
// of its end may come late.
func TestRestart(t *testing.T) {
	for _, tc := range []struct {
		name    string
		netns   loader.Netns
		number  int
		lateDie bool
	}{
		{name: "new numbers", netns: 200, number: 5},
		{name: "recycled numbers", netns: 11, number: 11},
		{name: "end told late", netns: 200, number: 5, lateDie: true},
		{name: "end told late and recycled numbers", netns: 11, number: 11, lateDie: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			c := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
			delete(w.netnsIDs, c.PID)
			w.LinkChanged(gone(veth(11, 0, 11)))
			if !tc.lateDie {
				w.ContainerDied(c.ID)
			}

			c.PID++
			w.LinkChanged(veth(12, webBridge, tc.number))
			w.netnsIDs[c.PID] = tc.number
			w.Process(loader.Process{Netns: tc.netns, PID: c.PID, Cgroup: c.ID})
			if tc.lateDie {
				w.ContainerDied(c.ID)
			}
			w.PutContainer(c)
			w.wantFlowOwner(12, "alpha", "web")
			w.wantNetnsOwner(tc.netns, "alpha")
		})
	}
}

// Of two containers in one namespace it belongs to the one that came with it, whoever is heard of first.
func TestSharedNamespace(t *testing.T) {
	const netns, index, number = 100, 11, 3
	permutations([]string{"owner exec", "joiner exec", "link", "inventory"}, func(order []string) {
		t.Run(strings.Join(order, ", "), func(t *testing.T) {
			w := newWorld(t)
			owner := on(w.container("alpha"), "web", "172.30.1.2")
			joiner := w.container("sidecar")
			joiner.NetworkMode = "container:" + owner.ID
			joiner.SandboxKey = ""
			for _, c := range []Container{owner, joiner} {
				w.netnsIDs[c.PID] = number
			}
			processes := []loader.Process{processOf("alpha", netns), processOf("sidecar", netns)}
			for _, step := range order {
				switch step {
				case "owner exec":
					w.Process(processes[0])
				case "joiner exec":
					w.Process(processes[1])
				case "link":
					w.LinkChanged(veth(index, webBridge, number))
				case "inventory":
					w.SetContainers([]Container{joiner, owner}, w.now)
				}
			}
			for _, p := range processes { // as after every connection to the engine
				w.Process(p)
			}
			w.wantNetnsOwner(netns, "alpha")
			w.wantFlowOwner(index, "alpha", "web")
		})
	})
}

// A container that is created, and of which no more is known, is not taken for the owner of the namespace that it joins.
func TestJoinerBeforeItIsKnown(t *testing.T) {
	w := newWorld(t)
	owner := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
	w.SketchContainer(Container{ID: idOf("sidecar"), Name: "sidecar"})
	w.Process(processOf("sidecar", 11))
	w.wantNetnsOwner(11, "alpha")
	joiner := w.container("sidecar")
	joiner.NetworkMode = "container:" + owner.ID
	w.PutContainer(joiner)
	w.wantNetnsOwner(11, "alpha")
}

func TestHostNetworkOwnsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.container("router")
	c.NetworkMode = "host"
	w.netnsIDs[c.PID] = 3 // a number that the kernel may have for the host's own namespace
	w.PutContainer(c)
	w.Process(processOf("router", hostNetns))
	w.LinkChanged(veth(11, webBridge, 3))
	if flow, done := w.flowAt(11, "172.30.1.2", "198.51.100.1"); done {
		t.Errorf("flow at a veth is of %q, want it to wait", flow.Container)
	}
	_, drops := w.Attribute(nil, []loader.Drop{{Netns: hostNetns, Source: netip.MustParseAddr("192.0.2.1")}})
	if len(drops) != 1 || drops[0].Container != "" || drops[0].Scope != ScopeHost {
		t.Errorf("drop on the host: %+v, want nobody's", drops)
	}
}

// On kernels without cookies a dead namespace's number is used again at once.
func TestRecycledNamespace(t *testing.T) {
	for _, tc := range []struct {
		name string
		dies bool // the engine tells in time
	}{{"death told", true}, {"death not told", false}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			alpha := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
			delete(w.netnsIDs, alpha.PID)
			if tc.dies {
				w.ContainerDied(alpha.ID)
			}
			w.PutContainer(on(w.container("beta"), "web", "172.30.1.3"))
			w.Process(processOf("beta", 11))
			w.wantNetnsOwner(11, "beta")
		})
	}
}

// So is its number among links.
func TestRecycledLinkNumber(t *testing.T) {
	permutations([]string{"link", "inspect", "exec"}, func(order []string) {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			w := newWorld(t)
			alpha := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
			beta := on(w.container("beta"), "web", "172.30.1.3")
			delete(w.netnsIDs, alpha.PID) // died, and nobody has told yet
			w.netnsIDs[beta.PID] = -1
			for _, step := range order {
				switch step {
				case "link":
					w.netnsIDs[beta.PID] = 11
					w.LinkChanged(veth(12, webBridge, 11))
				case "inspect":
					w.PutContainer(beta)
				case "exec":
					w.Process(processOf("beta", 200))
				}
			}
			w.wantFlowOwner(12, "beta", "web")
			w.wantFlowOwner(11, "alpha", "web")
		})
	})
}

func TestRename(t *testing.T) {
	w := newWorld(t)
	c := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
	c.Name = "omega"
	w.PutContainer(c)
	w.wantFlowOwner(11, "omega", "web")
	w.wantNetnsOwner(11, "omega")
}

// A listing says who lives, but not of those who started while it was made.
func TestSetContainers(t *testing.T) {
	w := newWorld(t)
	alpha := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
	w.connected(on(w.container("beta"), "web", "172.30.1.3"), webBridge, 12)
	w.wait(time.Second)
	begun := w.now
	w.wait(time.Second)
	w.connected(on(w.container("gamma"), "web", "172.30.1.4"), webBridge, 13)
	w.SetContainers([]Container{alpha}, begun)

	var names []string
	for _, c := range w.Inventory().Containers {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"alpha", "gamma"}, names); diff != "" {
		t.Errorf("living containers: %s", diff)
	}
	w.wantNetnsOwner(13, "gamma")
}

// A container that was only heard of by its process, while the listing was made, is not marked dead either.
func TestProcessDuringListing(t *testing.T) {
	w := newWorld(t)
	begun := w.now
	w.Process(processOf("alpha", 100))
	w.SetContainers(nil, begun)
	w.PutContainer(on(w.container("alpha"), "web", "172.30.1.2"))
	w.wantNetnsOwner(100, "alpha")
}

// The dead keep their last packets for a while, and then leave nothing behind.
func TestDeadAreSwept(t *testing.T) {
	w := newWorld(t)
	c := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
	w.DeviceInside(1<<31, loader.Link{Index: 7, Kind: "macvlan"}, c.ID)
	w.flowAt(11, "172.30.1.77", "198.51.100.1") // an address to learn
	w.ContainerDied(c.ID)
	w.LinkChanged(gone(veth(11, 0, 11)))
	w.RemoveNetwork(idOf("network web"))

	w.wait(keep - time.Second)
	w.SetContainers(nil, w.now)
	w.wantFlowOwner(11, "alpha", "web")
	w.wantNetnsOwner(11, "alpha")

	w.wait(2 * time.Second)
	w.SetContainers(nil, w.now)
	if flow, done := w.flowAt(11, "172.30.1.2", "198.51.100.1"); done {
		t.Errorf("flow at a device that is long gone is of %q, want it to wait", flow.Container)
	}
	left := fmt.Sprint("members ", len(w.members), " netns ", len(w.netns), " children ", len(w.children),
		" learned ", len(w.learned), " links ", len(w.links), " networks ", len(w.networks))
	if want := "members 0 netns 0 children 0 learned 0 links 4 networks 1"; left != want {
		t.Errorf("left are %s, want %s", left, want)
	}
}

// Where there is no engine nobody lists containers, and still nothing piles up.
func TestSweptWithoutEngine(t *testing.T) {
	w := newWorld(t)
	for i := range 100 {
		name := fmt.Sprint("pod ", i)
		w.netnsIDs[pidOf(name)] = 3
		w.Process(processOf(name, loader.Netns(100+i)))
		w.LinkChanged(veth(100+i, webBridge, 3))
		w.LinkChanged(gone(veth(100+i, webBridge, 3)))
		delete(w.netnsIDs, pidOf(name))
		w.wait(keep)
		w.Attribute(nil, nil)
	}
	if len(w.links) > 10 {
		t.Errorf("%d links are remembered, 3 are there", len(w.links))
	}
	if len(w.members) > 10 {
		t.Errorf("%d containers are remembered, none is there", len(w.members))
	}
}

func TestStoppedContainerKeepsEndpoints(t *testing.T) {
	w := newWorld(t)
	c := w.connected(on(w.container("alpha"), "web", "172.30.1.2"), webBridge, 11)
	c.Running, c.PID, c.Endpoints = false, 0, nil // what the engine says of a stopped one
	w.PutContainer(c)
	if len(w.Inventory().Containers) != 0 {
		t.Error("a stopped container is in the inventory")
	}
	_, drops := w.Attribute(nil, []loader.Drop{{Netns: hostNetns, Source: netip.MustParseAddr("172.30.1.2")}})
	if len(drops) != 1 || drops[0].Container != "alpha" || drops[0].Network != "web" {
		t.Errorf("late drop: %+v, want alpha's on web", drops)
	}
}
