// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openClsactFlows opens flows as on a kernel without tcx.
func openClsactFlows(tb testing.TB) *Flows {
	tb.Helper()
	flows := mustOpenFlows(tb, 0)
	flows.clsact = true
	return flows
}

// filters lists the names of the BPF filters on a device, ingress first.
func filters(tb testing.TB, device string) []string {
	tb.Helper()
	names := []string{}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		found, err := netlink.FilterList(mustLink(tb, device), parent)
		if err != nil {
			tb.Fatal(err)
		}
		for _, filter := range found {
			names = append(names, filter.(*netlink.BpfFilter).Name)
		}
	}
	return names
}

func hasClsact(tb testing.TB, device string) bool {
	tb.Helper()
	qdiscs, err := netlink.QdiscList(mustLink(tb, device))
	if err != nil {
		tb.Fatal(err)
	}
	return slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
}

// addForeignFilter puts somebody else's program on a device's ingress.
func addForeignFilter(tb testing.TB, l Link, program *ebpf.Program) {
	tb.Helper()
	err := netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 50, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "foreign", DirectAction: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func loadEmpty(tb testing.TB) *emptyTwinObjects {
	tb.Helper()
	liftMemoryLimit(tb)
	var empty emptyTwinObjects
	if err := loadEmptyTwinObjects(&empty, nil); err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, &empty) })
	return &empty
}

func TestClsactCountsAndLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		leave func(*testing.T, *Flows, DeviceID)
	}{
		{"unwatch", func(t *testing.T, flows *Flows, id DeviceID) {
			if err := flows.Unwatch(id); err != nil {
				t.Error(err)
			}
		}},
		{"close", func(t *testing.T, flows *Flows, id DeviceID) {
			if err := flows.devices[id].detach(); err != nil { // what Close does with each
				t.Error(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			inside := newNamespace(t)
			outside := vethPair(t, inside)
			flows := openClsactFlows(t)
			id := mustWatchOutside(t, flows, outside, true)
			if diff := cmp.Diff([]string{filterName, filterName}, filters(t, "outside")); diff != "" {
				t.Errorf("filters (-want +got):\n%s", diff)
			}
			inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
			sendFrames(t, "outside", conversations(t, 7)...)
			rx, tx := carried(of(mustRead(t, flows.Read), id))
			wantRX, wantTX := interfaceCounts(t, "outside")
			if rx.withoutSegments() != wantRX || tx.withoutSegments() != wantTX || rx.Skbs < 7 || tx.Skbs < 10 {
				t.Errorf("counted rx %+v tx %+v, the device says rx %+v tx %+v", rx, tx, wantRX, wantTX)
			}
			tc.leave(t, flows, id)
			if left := filters(t, "outside"); len(left) != 0 || hasClsact(t, "outside") {
				t.Errorf("left: filters %q, clsact %t", left, hasClsact(t, "outside"))
			}
		})
	}
}

// An agent that was killed leaves its filters. The next one takes their place instead of counting beside them.
func TestClsactReplacesLeftovers(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	mustWatchOutside(t, openClsactFlows(t), outside, true)
	flows := openClsactFlows(t)
	id := mustWatchOutside(t, flows, outside, false)
	if got := filters(t, "outside"); len(got) != 2 {
		t.Errorf("filters %q, want one each way", got)
	}
	inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
	if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
		t.Errorf("%d packets, want 10", tx.Skbs)
	}
}

func TestDetachLeftovers(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	mustWatchOutside(t, openClsactFlows(t), outside, true) // and never closed
	cleaned := mustRead(t, DetachLeftovers)
	if diff := cmp.Diff([]string{"outside"}, cleaned); diff != "" {
		t.Errorf("cleaned (-want +got):\n%s", diff)
	}
	if left := filters(t, "outside"); len(left) != 0 || hasClsact(t, "outside") {
		t.Errorf("left: filters %q, clsact %t", left, hasClsact(t, "outside"))
	}
	if again := mustRead(t, DetachLeftovers); len(again) != 0 {
		t.Errorf("cleaned %q again", again)
	}
}

func TestDetachLeftoversInAnotherNamespace(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	vethPair(t, inside)
	flows := openClsactFlows(t)
	inside.do(t, func() { mustWatchOutside(t, flows, newLink(mustLink(t, "inside")), true) })
	cleaned, err := DetachLeftoversIn(inside.path())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"inside"}, cleaned); diff != "" {
		t.Errorf("cleaned (-want +got):\n%s", diff)
	}
}

// What is attached inside a container is removed there, not from the host's device of that number.
func TestSandboxHooks(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	inside.do(t, func() {
		addLink(t, &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: mustLink(t, "inside").Attrs().Index}})
	})
	flows := openClsactFlows(t)
	mustWatchOutside(t, flows, outside, true)
	watched, err := flows.WatchSandbox(inside.path())
	if err != nil || len(watched) != 1 {
		t.Fatalf("watched %v, %v; want one device", watched, err)
	}
	inside.do(t, func() {
		if diff := cmp.Diff([]string{filterName, filterName}, filters(t, "child")); diff != "" {
			t.Errorf("filters inside (-want +got):\n%s", diff)
		}
	})
	if err := flows.Sweep(); err != nil {
		t.Fatal(err)
	}
	for id := range watched {
		if !flows.Knows(id) || flows.Devices()["macvlan"] != 1 {
			t.Error("a living device was swept")
		}
		if err := flows.Unwatch(id); err != nil {
			t.Fatal(err)
		}
	}
	inside.do(t, func() {
		if left := filters(t, "child"); len(left) != 0 || hasClsact(t, "child") {
			t.Errorf("left inside: %q, clsact %t", left, hasClsact(t, "child"))
		}
	})
	if !hasClsact(t, "outside") {
		t.Error("the host's device was taken for the container's")
	}
	if _, err := flows.WatchSandbox(inside.path()); err != nil {
		t.Fatal(err)
	}
	inside.do(t, func() { deleteLink(t, "child") })
	if err := flows.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := flows.Devices()["macvlan"]; n != 0 {
		t.Errorf("%d dead devices are still watched", n)
	}
}

func TestDetachLeftoversLeavesOthersAlone(t *testing.T) {
	enterFreshNetns(t)
	outside := vethPair(t, newNamespace(t))
	flows := openClsactFlows(t)
	mustWatchOutside(t, flows, outside, true)
	addForeignFilter(t, outside, loadEmpty(t).EmptyTc)
	mustRead(t, DetachLeftovers)
	if diff := cmp.Diff([]string{"foreign"}, filters(t, "outside")); diff != "" || !hasClsact(t, "outside") {
		t.Errorf("clsact %t, filters (-want +got):\n%s", hasClsact(t, "outside"), diff)
	}
}

// Somebody else's program behind ours still gets every packet.
func TestPassesOn(t *testing.T) {
	for _, tc := range []struct {
		name   string
		behind func(t *testing.T, outside Link, first, second *Flows)
	}{
		{"tcx", func(t *testing.T, outside Link, first, second *Flows) {
			mustWatchOutside(t, second, outside, true)
			mustWatchOutside(t, first, outside, true) // goes to the head
		}},
		{"clsact", func(t *testing.T, outside Link, first, second *Flows) {
			first.clsact = true
			mustWatchOutside(t, first, outside, true)
			addForeignFilter(t, outside, second.objects.Ingress)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			if tc.name == "tcx" && !haveTCX(t) {
				return // filters of one name replace each other
			}
			inside := newNamespace(t)
			outside := vethPair(t, inside)
			first, second := mustOpenFlows(t, 0), mustOpenFlows(t, 0)
			tc.behind(t, outside, first, second)
			inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
			for i, flows := range []*Flows{first, second} {
				if _, tx := carried(of(mustRead(t, flows.Read), DeviceID(outside.Index))); tx.Skbs != 10 {
					t.Errorf("program %d counted %d packets, want 10", i+1, tx.Skbs)
				}
			}
		})
	}
}

// Somebody else's verdict hides no packet from us, though theirs was there first.
func TestFirstInLine(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			enterFreshNetns(t)
			inside := newNamespace(t)
			outside := vethPair(t, inside)
			flows, dropper := mustOpenFlows(t, 0), newDropper(t)
			flows.clsact = clsact || !haveTCX(t)
			if flows.clsact {
				addClsact(t, outside)
				addForeignFilter(t, outside, dropper)
			} else {
				foreign, err := link.AttachTCX(link.TCXOptions{
					Interface: outside.Index, Program: dropper, Attach: ebpf.AttachTCXIngress,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer mustClose(t, foreign)
			}
			id := mustWatchOutside(t, flows, outside, true)
			inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
			if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
				t.Errorf("%d packets, want 10", tx.Skbs)
			}
		})
	}
}

// newDropper loads a program that drops everything.
func newDropper(tb testing.TB) *ebpf.Program {
	tb.Helper()
	const shot = 2 // TCX_DROP, TC_ACT_SHOT
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, shot), asm.Return()},
	})
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, program) })
	return program
}

func addClsact(tb testing.TB, l Link) {
	tb.Helper()
	err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil {
		tb.Fatal(err)
	}
}

func haveTCX(tb testing.TB) bool {
	tb.Helper()
	liftMemoryLimit(tb)
	return checkTCX().OK
}
