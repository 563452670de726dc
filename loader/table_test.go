// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// runExactly runs program on frame count times.
func runExactly(tb testing.TB, program *ebpf.Program, frame []byte, count uint32) {
	tb.Helper()
	withoutSignals(tb, func() {
		if _, err := program.Run(&ebpf.RunOptions{Data: frame, Repeat: count}); err != nil {
			tb.Error(err)
		}
	})
}

// withoutSignals lets signals wait until f is done. One would interrupt a repeated run, which then begins again, and Go
// sends many.
func withoutSignals(tb testing.TB, f func()) {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		tb.Error(err)
		return
	}
	f()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		tb.Error(err)
	}
}

// total sums up flows, the conversations that are known and the rest.
func total(flows []Flow) (detail, other Counts) {
	for _, f := range flows {
		sum := &detail
		if f.Other {
			sum = &other
		}
		sum.Add(f.RX)
		sum.Add(f.TX)
	}
	return detail, other
}

// lossesAt returns the count of one place.
func lossesAt(tb testing.TB, losses func() ([]Loss, error), place string) uint64 {
	tb.Helper()
	all, err := losses()
	if err != nil {
		tb.Fatal(err)
	}
	for _, loss := range all {
		if loss.Place == place {
			return loss.Count
		}
	}
	tb.Fatalf("no place %q in %v", place, all)
	return 0
}

func mustRead[T any](tb testing.TB, read func() ([]T, error)) []T {
	tb.Helper()
	records, err := read()
	if err != nil {
		tb.Fatal(err)
	}
	return records
}

// Two processors count while a third party reads as fast as it can: the sum is what was sent.
func TestReadLosesNothing(t *testing.T) {
	const writers, batch, reads = 2, 20_000, 30
	flows := mustOpenFlows(t, 0)
	frames := samples(t)
	var running sync.WaitGroup
	var sent atomic.Uint64
	var stop atomic.Bool
	for range writers {
		running.Go(func() {
			for i := 0; !stop.Load(); i++ {
				runExactly(t, flows.objects.Ingress, frames[i%len(frames)].frame, batch)
				sent.Add(batch)
			}
		})
	}
	var skbs uint64
	read := func() {
		detail, other := total(mustRead(t, flows.Read))
		skbs += detail.Skbs + other.Skbs
	}
	for range reads {
		read()
	}
	stop.Store(true)
	running.Wait()
	read()
	if want := sent.Load(); skbs != want || want == 0 {
		t.Errorf("%d packets in %d reads, want %d", skbs, reads, want)
	}
	if n := len(mustRead(t, flows.Read)); n != 0 {
		t.Errorf("%d entries after all was read", n)
	}
}

// conversations are frames that differ in their source port.
func conversations(tb testing.TB, count int) [][]byte {
	tb.Helper()
	frames := make([][]byte, count)
	for i := range frames {
		frames[i] = append([]byte(nil), samples(tb)[0].frame...)
		binary.BigEndian.PutUint16(frames[i][14+20:], uint16(1000+i))
	}
	return frames
}

func TestFullTableKeepsTotals(t *testing.T) {
	const size, count = 16, 1000
	flows := mustOpenFlows(t, size)
	if err := flows.objects.Other.Put(uint32(testRunDevice), flowFlowValue{}); err != nil { // as a watched device has
		t.Fatal(err)
	}
	flows.devices[testRunDevice] = &device{}

	for round := range uint64(3) {
		var bytes uint64
		for _, frame := range conversations(t, count) {
			mustPassOn(t, flows.objects.Ingress, frame)
			bytes += uint64(len(frame))
		}
		read := mustRead(t, flows.Read)
		detail, other := total(read)
		if detail.Skbs != size || other.Skbs != count-size || detail.Bytes+other.Bytes != bytes {
			t.Errorf("detail %+v, other %+v, want %d and %d packets of %d bytes", detail, other, size, count-size, bytes)
		}
		if len(read) != size+1 {
			t.Errorf("%d entries, want %d and one for the rest", len(read), size)
		}
		if full := lossesAt(t, flows.Losses, "table_full"); full != (round+1)*(count-size) {
			t.Errorf("table_full = %d in round %d, want %d more each", full, round, count-size)
		}
		if lost := lossesAt(t, flows.Losses, "lost"); lost != 0 {
			t.Errorf("lost = %d", lost)
		}
	}
	if usage := flows.Usage()[0]; usage != (MapUsage{Map: "flows", Entries: size, Capacity: size}) {
		t.Errorf("usage %+v", usage)
	}
}

// A device that has no entry for what finds no room cannot be, but if it is, the loss is said.
func TestFullTableWithoutDeviceIsALoss(t *testing.T) {
	const size, count = 16, 100
	flows := mustOpenFlows(t, size)
	for _, frame := range conversations(t, count) {
		mustPassOn(t, flows.objects.Ingress, frame)
	}
	if lost := lossesAt(t, flows.Losses, "lost"); lost != count-size {
		t.Errorf("lost = %d, want %d", lost, count-size)
	}
}
