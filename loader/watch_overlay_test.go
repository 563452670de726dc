// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forBothHooks runs a test with tcx, where the kernel has it, and as on a kernel without it.
func forBothHooks(t *testing.T, test func(*testing.T, *Flows)) {
	t.Run("tcx", func(t *testing.T) { test(t, mustOpenFlows(t, 0)) })
	t.Run("clsact", func(t *testing.T) { test(t, openClsactFlows(t)) })
}

// overlayOf makes an overlay's namespace with a container on it for each address.
func (l *sandboxLab) overlayOf(tb testing.TB, addresses ...string) (overlay string, containers []string) {
	tb.Helper()
	overlay = l.make(tb, "1-u1sixx4w1u")
	l.addVXLAN(tb, overlay, "vxlan0", "br0", 4097)
	for i, address := range addresses {
		container := l.make(tb, fmt.Sprintf("%012d", i))
		l.connect(tb, overlay, fmt.Sprintf("veth%d", i), container, address)()
		containers = append(containers, container)
	}
	return overlay, containers
}

// mustWatchOverlay returns the devices by name.
func mustWatchOverlay(tb testing.TB, flows *Flows, overlay string, vxlan bool) map[string]OverlayDevice {
	tb.Helper()
	devices, err := flows.WatchOverlay(tb.Context(), overlay, vxlan)
	if err != nil {
		tb.Fatal(err)
	}
	return byName(tb, devices)
}

func byName(tb testing.TB, devices []OverlayDevice) map[string]OverlayDevice {
	tb.Helper()
	named := make(map[string]OverlayDevice)
	for _, d := range devices {
		if d.ID < ownNumbers {
			tb.Errorf("device number %d could be an ifindex", d.ID)
		}
		named[d.Link.Name] = d
	}
	return named
}

// send sends frames from a container.
func send(tb testing.TB, container, from, to string, count int) {
	tb.Helper()
	frames := overlayFrames(tb, from, to, count)
	in(tb, container, func() { sendFrames(tb, "eth0", frames...) })
}

// wantAsCounted compares what was counted of an overlay's veth with its own counters.
func wantAsCounted(tb testing.TB, overlay string, d OverlayDevice, rx, tx Counts) {
	tb.Helper()
	var wantRX, wantTX Counts
	in(tb, overlay, func() { wantRX, wantTX = interfaceCounts(tb, d.Link.Name) })
	if rx.withoutSegments() != wantRX || tx.withoutSegments() != wantTX {
		tb.Errorf("counted of %s rx %+v tx %+v, the device says rx %+v tx %+v", d.Link.Name, rx, tx, wantRX, wantTX)
	}
}

func TestWatchOverlay(t *testing.T) {
	forBothHooks(t, func(t *testing.T, flows *Flows) {
		lab := newSandboxLab(t)
		overlay, containers := lab.overlayOf(t)
		for i, address := range []string{"10.11.0.2", "10.11.0.3"} { // watched before the container is there
			container := lab.make(t, fmt.Sprintf("%012d", i))
			containers = append(containers, container)
			start := lab.connect(t, overlay, fmt.Sprintf("veth%d", i), container, address)
			mustWatchOverlay(t, flows, overlay, false)
			start()
		}
		devices := mustWatchOverlay(t, flows, overlay, false)
		if again := mustWatchOverlay(t, flows, overlay, false); !cmp.Equal(again, devices) || len(devices) != 2 {
			t.Errorf("watched %+v, then %+v; want the same two", devices, again)
		}
		send(t, containers[0], "10.11.0.2", "10.11.0.3", 500)
		send(t, containers[1], "10.11.0.3", "10.11.0.2", 300)

		flowsRead := mustRead(t, flows.Read)
		const frame = 14 + 20 + 8 + 22
		counts := func(n uint64) Counts { return Counts{Skbs: n, Packets: n, Bytes: n * frame} }
		for i, name := range []string{"veth0", "veth1"} {
			got, d := of(slices.Clone(flowsRead), devices[name].ID), devices[name]
			rx, tx := carried(got)
			wantAsCounted(t, overlay, d, rx, tx)
			own, other := netip.MustParseAddr("10.11.0.2"), netip.MustParseAddr("10.11.0.3")
			sent, received := counts(500), counts(300)
			if i == 1 {
				own, other, sent, received = other, own, received, sent
			}
			for from, want := range map[netip.Addr]Flow{
				own:   {Local: own, Remote: other, LocalPort: 4000, RemotePort: 5000, TX: sent},
				other: {Local: own, Remote: other, LocalPort: 5000, RemotePort: 4000, RX: received},
			} {
				want.Device, want.EtherType, want.Protocol = d.ID, unix.ETH_P_IP, unix.IPPROTO_UDP
				if !slices.Contains(got, want) {
					t.Errorf("sent by %s: no %+v\nin %+v", from, want, got)
				}
			}
			var end Link
			in(t, containers[i], func() { end = newLink(mustLink(t, "eth0")) })
			if d.Link.Peer != end.Index || end.Peer != d.Link.Index {
				t.Errorf("%+v and %+v are two ends of one", d.Link, end)
			}
		}
		if kinds := flows.Devices(); kinds["veth"] != 2 || len(kinds) != 1 {
			t.Errorf("devices %v, want two veths", kinds)
		}
		if before := lossesAt(t, flows.Losses, "before_attach"); before != 0 {
			t.Errorf("%d packets passed before", before)
		}
	})
}

// Nothing is watched twice, whichever way the engine's folder is called, and whoever asks at once.
func TestWatchOverlayOnce(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, containers := lab.overlayOf(t, "10.11.0.2", "10.11.0.3")
	other := filepath.Join(t.TempDir(), "netns")
	if err := os.Symlink(lab.folder, other); err != nil {
		t.Fatal(err)
	}
	devices := mustWatchOverlay(t, flows, overlay, false)
	again := mustWatchOverlay(t, flows, filepath.Join(other, filepath.Base(overlay)), false)
	if diff := cmp.Diff(devices, again); diff != "" {
		t.Errorf("by another path (-want +got):\n%s", diff)
	}
	lab.connect(t, overlay, "veth2", lab.make(t, "00000000000a"), "10.11.0.4")()
	file, err := openNetns(overlay) // other threads have other mounts
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, file)
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			if devices, err := flows.WatchOverlay(t.Context(), (namespace{file}).path(), false); err != nil || len(devices) != 3 {
				t.Errorf("watched %+v, %v; want three", devices, err)
			}
		})
	}
	asking.Wait()
	send(t, containers[0], "10.11.0.2", "10.11.0.9", 10)
	rx, tx := carried(of(mustRead(t, flows.Read), devices["veth0"].ID))
	wantAsCounted(t, overlay, devices["veth0"], rx, tx)
	if kinds := flows.Devices(); kinds["veth"] != 3 {
		t.Errorf("devices %v, want three veths", kinds)
	}
}

// What passed a device that came unseen to a namespace that was watched is a loss; what passed before that was watched is not.
func TestWatchOverlayLate(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, containers := lab.overlayOf(t, "10.11.0.2")
	send(t, containers[0], "10.11.0.2", "10.11.0.9", 10)
	mustWatchOverlay(t, flows, overlay, false)
	if before := lossesAt(t, flows.Losses, "before_attach"); before != 0 {
		t.Errorf("%d packets passed before the agent came", before)
	}
	late := lab.make(t, "00000000000a")
	lab.connect(t, overlay, "veth1", late, "10.11.0.3")()
	send(t, late, "10.11.0.3", "10.11.0.9", 7)
	var passed uint64
	in(t, overlay, func() {
		rx, tx := interfaceCounts(t, "veth1")
		passed = rx.Skbs + tx.Skbs
	})
	mustWatchOverlay(t, flows, overlay, true) // its VXLAN device was there all the time
	if before := lossesAt(t, flows.Losses, "before_attach"); before != passed || passed < 7 {
		t.Errorf("before_attach = %d, want %d", before, passed)
	}
}

// A VXLAN device is watched if it is asked for, and from then on, in the directions of its own counters.
func TestWatchOverlayVXLAN(t *testing.T) {
	forBothHooks(t, func(t *testing.T, flows *Flows) {
		lab := newSandboxLab(t)
		overlay, containers := lab.overlayOf(t, "10.11.0.2")
		peer := newNamespace(t)
		vethPair(t, peer)
		peer.do(t, func() {
			addLink(t, &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan"}, VxlanId: 4097, Port: DefaultDataPort})
			setUp(t, "vxlan")
			run(t, "bridge", "fdb", "add", "02:42:0a:0b:00:02", "dev", "vxlan", "dst", "192.0.2.1", "self", "permanent")
		})
		in(t, overlay, func() {
			run(t, "bridge", "fdb", "add", "02:42:0a:0b:00:03", "dev", "vxlan0", "dst", "192.0.2.2", "self", "permanent")
		})
		if devices := mustWatchOverlay(t, flows, overlay, false); len(devices) != 1 {
			t.Errorf("watched %+v, want the veth", devices)
		}
		devices := mustWatchOverlay(t, flows, overlay, true)
		if again := mustWatchOverlay(t, flows, overlay, false); !cmp.Equal(again, devices) || len(devices) != 2 {
			t.Errorf("watched %+v, then %+v; want the same two", devices, again)
		}
		send(t, containers[0], "10.11.0.2", "10.11.0.3", 200)
		frames := overlayFrames(t, "10.11.0.3", "10.11.0.2", 100)
		peer.do(t, func() { sendFrames(t, "vxlan", frames...) })

		got := mustRead(t, flows.Read)
		got = slices.DeleteFunc(got, func(f Flow) bool { return f.Protocol != unix.IPPROTO_UDP }) // the container asks for the other
		rx, tx := carried(of(slices.Clone(got), devices["vxlan0"].ID))
		var counters *netlink.LinkStatistics
		in(t, overlay, func() { counters = mustLink(t, "vxlan0").Attrs().Statistics })
		if rx.Skbs != 100 || tx.Skbs != 200 || counters.RxPackets != rx.Skbs || counters.TxPackets != tx.Skbs {
			t.Errorf("counted rx %d tx %d, want 100 and 200, the device says %d and %d", rx.Skbs, tx.Skbs, counters.RxPackets, counters.TxPackets)
		}
		for _, f := range of(slices.Clone(got), devices["vxlan0"].ID) {
			if f.Local != netip.MustParseAddr("10.11.0.2") || f.Remote != netip.MustParseAddr("10.11.0.3") {
				t.Errorf("%s is here and %s there; want it the other way round", f.Local, f.Remote)
			}
		}
		rx, tx = carried(of(got, devices["veth0"].ID))
		if rx.Skbs != 100 || tx.Skbs != 200 {
			t.Errorf("the container received %d and sent %d, want 100 and 200", rx.Skbs, tx.Skbs)
		}
	})
}

// A namespace dies although its devices are watched, and the agent gets to know. Another with its path is another.
func TestWatchOverlayMadeAnew(t *testing.T) {
	forBothHooks(t, func(t *testing.T, flows *Flows) {
		lab := newSandboxLab(t)
		overlay, containers := lab.overlayOf(t, "10.11.0.2")
		first := mustWatchOverlay(t, flows, overlay, true)
		send(t, containers[0], "10.11.0.2", "10.11.0.9", 10)
		lab.destroy(t, containers[0])
		lab.destroy(t, overlay)
		awaitDeath(t)
		if devices, err := flows.WatchOverlay(t.Context(), overlay, true); !errors.Is(err, ErrNetnsGone) || devices != nil {
			t.Errorf("%+v, %v; want %v", devices, err, ErrNetnsGone)
		}

		overlay, containers = lab.overlayOf(t, "10.11.0.2")
		second := mustWatchOverlay(t, flows, overlay, true)
		for name, d := range second {
			if d.ID == first[name].ID || len(second) != 2 {
				t.Errorf("watched %+v, before it %+v", second, first)
			}
		}
		if kinds := flows.Devices(); kinds["veth"] != 1 || kinds["vxlan"] != 1 {
			t.Errorf("devices %v, want one of each kind", kinds)
		}
		send(t, containers[0], "10.11.0.2", "10.11.0.9", 20)
		got := mustRead(t, flows.Read)
		_, before := carried(of(slices.Clone(got), first["veth0"].ID))
		rx, after := carried(of(got, second["veth0"].ID))
		if before.Skbs != 10 {
			t.Errorf("%d packets of the old one, want 10", before.Skbs)
		}
		wantAsCounted(t, overlay, second["veth0"], rx, after)

		lab.destroy(t, containers[0])
		lab.destroy(t, overlay)
		awaitDeath(t)
		eventually(t, "nothing is remembered", func() bool {
			if err := flows.Sweep(); err != nil {
				t.Error(err)
			}
			mustRead(t, flows.Read)
			return len(flows.Devices()) == 0 && len(flows.devices) == 0 && len(flows.looked) == 0
		})
	})
}

// One that is deleted there is let go at the next look, and what it carried last is read.
func TestWatchOverlayDeviceGone(t *testing.T) {
	forBothHooks(t, func(t *testing.T, flows *Flows) {
		lab := newSandboxLab(t)
		overlay, containers := lab.overlayOf(t, "10.11.0.2", "10.11.0.3")
		devices := mustWatchOverlay(t, flows, overlay, false)
		send(t, containers[0], "10.11.0.2", "10.11.0.9", 10)
		in(t, containers[0], func() { deleteLink(t, "eth0") })
		rest := mustWatchOverlay(t, flows, overlay, false)
		if diff := cmp.Diff(map[string]OverlayDevice{"veth1": devices["veth1"]}, rest); diff != "" {
			t.Errorf("devices (-want +got):\n%s", diff)
		}
		if _, tx := carried(of(mustRead(t, flows.Read), devices["veth0"].ID)); tx.Skbs != 10 {
			t.Errorf("%d packets, want 10", tx.Skbs)
		}
		if flows.Knows(devices["veth0"].ID) || !flows.Knows(devices["veth1"].ID) {
			t.Error("the wrong one is let go")
		}
	})
}

// What copies of the programs cost is told with the rest, also when they are no more.
func TestWatchOverlayCosts(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, containers := lab.overlayOf(t, "10.11.0.2", "10.11.0.3")
	devices := mustWatchOverlay(t, flows, overlay, false)
	measuring, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	send(t, containers[0], "10.11.0.2", "10.11.0.9", 100)
	send(t, containers[1], "10.11.0.3", "10.11.0.9", 50)
	mustClose(t, measuring)
	before := mustRead(t, flows.Costs)
	if before[0].Program != "flow_ingress" || before[0].Runs < 150 || before[0].Time == 0 {
		t.Errorf("%+v, want at least 150 runs of flow_ingress", before)
	}
	if err := flows.Unwatch(devices["veth0"].ID); err != nil {
		t.Fatal(err)
	}
	if after := mustRead(t, flows.Costs); !cmp.Equal(before, after) {
		t.Errorf("%+v, and without one of the devices %+v", before, after)
	}
}

// A filter is not taken from the device that has the place of another.
func TestOverlayHookOfAnother(t *testing.T) {
	lab := newSandboxLab(t)
	overlay, _ := lab.overlayOf(t, "10.11.0.2")
	flows := openClsactFlows(t)
	d := mustWatchOverlay(t, flows, overlay, false)["veth0"]
	var own place
	in(t, overlay, func() { own = place{OwnNetns(), d.Link.Index, d.Link.MAC} })
	moved, renumbered := own, own
	moved.netns++
	renumbered.mac[5]++
	for _, other := range []place{moved, renumbered} {
		hook := &overlayHook{path: overlay, place: other, inner: failing{}}
		if err := hook.Close(); err != nil || !hook.gone() {
			t.Errorf("%+v for %+v: removed (%v), gone %t", other, own, err, hook.gone())
		}
	}
	hook := &overlayHook{path: overlay, place: own, inner: failing{}}
	if err := hook.Close(); !errors.Is(err, errFailing) || hook.gone() {
		t.Errorf("its own is not removed (%v), or gone %t", err, hook.gone())
	}
}

var errFailing = errors.New("removed")

// failing is a hook that tells when it is removed.
type failing struct{}

func (failing) Close() error { return errFailing }

// watchLab is a watcher of the calling thread's namespace.
type watchLab struct {
	*watcher
	changes <-chan LinkChange
	told    map[string]OverlayDevice // by name
	path    string
}

func newWatchLab(tb testing.TB, lab *sandboxLab, flows *Flows, encrypted bool) *watchLab {
	tb.Helper()
	w := &watchLab{changes: followLinks(tb, mustOpenLinks(tb))}
	w.watcher = &watcher{flows: flows, children: make(map[int]DeviceID), observer: Observer{
		Failed:        func(err error) { tb.Error(err) },
		SandboxFolder: func() string { return lab.folder },
		Encrypted: func(network string) bool {
			if network != "u1sixx4w1u" {
				tb.Errorf("asked for network %q", network)
			}
			return encrypted
		},
		OverlayWatched: func(path string, devices []OverlayDevice) { w.path, w.told = path, byName(tb, devices) },
	}}
	return w
}

// until handles what happens until it is told that a link of the host went.
func (w *watchLab) until(tb testing.TB, name string) {
	tb.Helper()
	await(tb, w.changes, name+" goes", func(change LinkChange) bool {
		w.handle(tb.Context(), change)
		return change.Gone && change.Name == name
	})
}

// What the engine puts into an overlay's namespace is watched at once: the first packet of a container counts.
func TestWatchMoved(t *testing.T) {
	forBothHooks(t, func(t *testing.T, flows *Flows) {
		lab := newSandboxLab(t)
		w := newWatchLab(t, lab, flows, false)
		overlay, _ := lab.overlayOf(t)
		w.until(t, "vx")
		if len(w.told) != 0 {
			t.Errorf("told of %+v, want nothing of a network that is not encrypted", w.told)
		}
		container := lab.make(t, "000000000001")
		start := lab.connect(t, overlay, "veth0", container, "10.11.0.2")
		w.until(t, "port")
		start()
		send(t, container, "10.11.0.2", "10.11.0.9", 1)
		w.until(t, "end")

		if len(w.told) != 1 || w.path != overlay || lossesAt(t, flows.Losses, "before_attach") != 0 {
			t.Fatalf("told of %+v in %s, want the port in %s", w.told, w.path, overlay)
		}
		device := mustWatchOverlay(t, flows, overlay, false)["veth0"]
		for _, told := range w.told {
			if told.ID != device.ID || told.Link.Index != device.Link.Index {
				t.Errorf("told of %+v, it is %+v", told, device)
			}
		}
		rx, tx := carried(of(mustRead(t, flows.Read), device.ID))
		if tx.Skbs < 1 {
			t.Errorf("the first packet is not counted")
		}
		wantAsCounted(t, overlay, device, rx, tx)
		if kinds := flows.Devices(); kinds["veth"] != 1 || len(kinds) != 1 {
			t.Errorf("devices %v, want the port alone", kinds)
		}
	})
}

// Who was there before the agent is not news, and what it has sent no loss.
func TestWatchMovedBesideOthers(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, containers := lab.overlayOf(t, "10.11.0.2")
	send(t, containers[0], "10.11.0.2", "10.11.0.9", 5)
	w := newWatchLab(t, lab, flows, false)
	await(t, w.changes, "the host's links are listed", named("lo"))
	lab.connect(t, overlay, "veth1", lab.make(t, "00000000000a"), "10.11.0.3")
	w.until(t, "port")
	if len(w.told) != 1 || flows.Devices()["veth"] != 1 {
		t.Errorf("told of %+v, want the new port", w.told)
	}
	if devices := mustWatchOverlay(t, flows, overlay, false); len(devices) != 2 {
		t.Errorf("watched %+v, want both", devices)
	}
	if before := lossesAt(t, flows.Losses, "before_attach"); before != 0 {
		t.Errorf("%d packets passed before the agent came", before)
	}
}

// Of an encrypted network the VXLAN device is watched too, from the moment that it goes there.
func TestWatchMovedVXLAN(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	w := newWatchLab(t, lab, flows, true)
	overlay, _ := lab.overlayOf(t)
	w.until(t, "vx")
	if len(w.told) != 1 || w.path != overlay || flows.Devices()["vxlan"] != 1 {
		t.Errorf("told of %+v in %s, want the VXLAN device in %s", w.told, w.path, overlay)
	}
}

// What passed a device on its way counts as a loss, and what goes elsewhere is left alone.
func TestWatchMovedLate(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	w := newWatchLab(t, lab, flows, false)
	overlay, containers := lab.overlayOf(t, "10.11.0.2")
	send(t, containers[0], "10.11.0.2", "10.11.0.9", 5)
	w.until(t, "vx")
	var passed uint64
	in(t, overlay, func() {
		rx, tx := interfaceCounts(t, "veth0")
		passed = rx.Skbs + tx.Skbs
	})
	w.until(t, "port")
	w.until(t, "end")
	if before := lossesAt(t, flows.Losses, "before_attach"); before != passed || passed < 5 {
		t.Errorf("before_attach = %d, want %d", before, passed)
	}

	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "outside"}, PeerName: "inside"})
	moveTo(t, "inside", lab.make(t, "foreign"))
	w.until(t, "inside")
	if kinds := flows.Devices(); kinds["veth"] != 1 || len(kinds) != 1 {
		t.Errorf("devices %v, want the overlay's one", kinds)
	}

	w.observer.SandboxFolder = func() string { return "" }
	w.handle(t.Context(), LinkChange{Link: Link{Index: 4711, Kind: "veth"}, Gone: true, MovedNetnsID: 0})
	w.observer.SandboxFolder = nil
	w.handle(t.Context(), LinkChange{Link: Link{Index: 4711, Kind: "veth"}, Gone: true, MovedNetnsID: 0})
}

// What a VXLAN device has carried while it was not known that its network is encrypted is a loss; what before it was seen is not.
func TestWatchOverlayKnownLate(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, containers := lab.overlayOf(t, "10.11.0.2")
	vethPair(t, newNamespace(t)) // leads to the other node
	in(t, overlay, func() {
		run(t, "bridge", "fdb", "add", "02:42:0a:0b:00:03", "dev", "vxlan0", "dst", "192.0.2.2", "self", "permanent")
	})
	carried := func() (sum uint64) {
		in(t, overlay, func() {
			rx, tx := interfaceCounts(t, "vxlan0")
			sum = rx.Skbs + tx.Skbs
		})
		return sum
	}
	send(t, containers[0], "10.11.0.2", "10.11.0.3", 5)
	first := carried()
	mustWatchOverlay(t, flows, overlay, false)
	send(t, containers[0], "10.11.0.2", "10.11.0.3", 7)
	mustWatchOverlay(t, flows, overlay, false)
	late := carried() - first
	mustWatchOverlay(t, flows, overlay, true)
	if before := lossesAt(t, flows.Losses, "before_attach"); before != late || late < 7 {
		t.Errorf("before_attach = %d, want %d", before, late)
	}
	if len(flows.skipped) != 0 {
		t.Errorf("%v are remembered", flows.skipped)
	}
}

// One who has to stop leaves the rest, and takes nothing for gone.
func TestWatchOverlayStops(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, _ := lab.overlayOf(t, "10.11.0.2", "10.11.0.3")
	ended, end := context.WithCancel(t.Context())
	end()
	if devices, err := flows.WatchOverlay(ended, overlay, true); err != nil || len(devices) != 0 || len(flows.looked) != 0 {
		t.Errorf("watched %+v, %v, looked at %v", devices, err, flows.looked)
	}
	devices := mustWatchOverlay(t, flows, overlay, true)
	if _, err := flows.WatchOverlay(ended, overlay, true); err != nil {
		t.Error(err)
	}
	for name, d := range devices {
		if !flows.Knows(d.ID) || flows.devices[d.ID].gone {
			t.Errorf("%s is let go", name)
		}
	}
}

// A device for which there is no room costs no load of programs: that would be tried again at each look.
func TestWatchOverlayNoRoom(t *testing.T) {
	lab := newSandboxLab(t)
	flows := mustOpenFlows(t, 0)
	overlay, _ := lab.overlayOf(t, "10.11.0.2")
	for i := range flows.objects.Other.MaxEntries() {
		if err := flows.objects.Other.Put(i, flowFlowValue{}); err != nil {
			t.Fatal(err)
		}
	}
	spec := flows.spec
	flows.spec = nil // whoever loads it panics
	if _, err := flows.WatchOverlay(t.Context(), overlay, false); err == nil || !strings.Contains(err.Error(), "4096 devices can be watched") {
		t.Errorf("%v", err)
	}
	flows.spec = spec
	if err := flows.objects.Other.Delete(uint32(0)); err != nil {
		t.Fatal(err)
	}
	if devices := mustWatchOverlay(t, flows, overlay, false); len(devices) != 1 {
		t.Errorf("watched %+v, want the veth", devices)
	}
}
