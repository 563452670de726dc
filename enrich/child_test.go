// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

const childDevice loader.DeviceID = 1<<31 + 1

// withLAN adds a macvlan network.
func withLAN(w *world) *world {
	w.PutNetwork(Network{ID: idOf("network lan"), Name: "lan", Driver: "macvlan", Scope: "local", Gateways: addresses("10.99.0.1")})
	return w
}

// moved is the host's last news of a macvlan device: it went into the namespace with the number.
func moved(number int) loader.LinkChange {
	return loader.LinkChange{
		Link: loader.Link{Index: 30, Kind: "macvlan", Name: "mc", MAC: macOf(netip.MustParseAddr("10.99.0.2"))},
		Gone: true, MovedNetnsID: number, MovedIndex: 7,
	}
}

func TestMovedChild(t *testing.T) {
	permutations([]string{"exec", "move", "inspect"}, func(order []string) {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			w := withLAN(newWorld(t))
			c := on(w.container("alpha"), "lan", "10.99.0.2")
			w.netnsIDs[c.PID] = -1
			for _, step := range order {
				switch step {
				case "exec":
					w.Process(processOf("alpha", 100))
				case "move":
					w.netnsIDs[c.PID] = 3
					w.DeviceMoved(childDevice, moved(3))
				case "inspect":
					w.PutContainer(c)
				}
			}
			w.wantFlowOwner(childDevice, "alpha", "lan")
			_, drops := w.Attribute(nil, []loader.Drop{{Netns: 100, Device: 7, DeviceName: "eth0"}})
			if len(drops) != 1 || drops[0].Network != "lan" {
				t.Errorf("drop at the device: %+v, want network lan", drops)
			}
			if diff := cmp.Diff(map[string]string{}, w.Unwatched()); diff != "" {
				t.Errorf("unwatched: %s", diff)
			}
		})
	})
}

func TestUnwatched(t *testing.T) {
	w := withLAN(newWorld(t))
	lan := on(w.container("alpha"), "lan", "10.99.0.2")
	w.PutContainer(lan)
	w.PutContainer(on(w.container("beta"), "web", "172.30.1.2"))
	joined := w.container("gamma")
	joined.NetworkMode, joined.SandboxKey = "container:"+lan.ID, ""
	w.PutContainer(joined)
	dead := on(w.container("delta"), "lan", "10.99.0.3")
	w.PutContainer(dead)
	w.ContainerDied(dead.ID)

	if diff := cmp.Diff(map[string]string{lan.ID: lan.SandboxKey}, w.Unwatched()); diff != "" {
		t.Errorf("before: %s", diff)
	}
	w.DeviceInside(childDevice, loader.Link{Index: 7, Kind: "macvlan"}, lan.ID)
	if diff := cmp.Diff(map[string]string{}, w.Unwatched()); diff != "" {
		t.Errorf("after: %s", diff)
	}
	w.wantFlowOwner(childDevice, "alpha", "lan")
}

// A restarted container has another device, and the one that is watched is the dead one.
func TestUnwatchedAfterRestart(t *testing.T) {
	w := withLAN(newWorld(t))
	c := on(w.container("alpha"), "lan", "10.99.0.2")
	w.PutContainer(c)
	w.DeviceInside(childDevice, loader.Link{Index: 7, Kind: "macvlan"}, c.ID)
	w.ContainerDied(c.ID)
	w.wantFlowOwner(childDevice, "alpha", "lan") // read late
	w.wait(time.Second)
	c.PID++
	c.StartedAt = w.now
	w.PutContainer(c)
	if diff := cmp.Diff(map[string]string{c.ID: c.SandboxKey}, w.Unwatched()); diff != "" {
		t.Error(diff)
	}
}
