// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Times of one clock compare exactly, however often its origin is asked for, and whatever is done to the time of day.
func TestKernelClock(t *testing.T) {
	clock, err := newKernelClock()
	if err != nil {
		t.Fatal(err)
	}
	first := clock.origin()
	for range 100 {
		var reading unix.Timespec
		before := time.Now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &reading); err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		origin := clock.origin()
		at := origin.Add(time.Duration(reading.Nano()))
		if !origin.Equal(first) || !strings.Contains(at.String(), " m=") {
			t.Fatalf("the clock began %s, or %s", first, origin)
		}
		if at.Before(before.Add(-time.Millisecond)) || at.After(after.Add(time.Millisecond)) {
			t.Fatalf("it is said to be %s between %s and %s", at, before, after)
		}
		if day := at.Round(0); day.Before(before.Round(0).Add(-time.Second)) || day.After(after.Round(0).Add(time.Second)) {
			t.Fatalf("it is said to be %s between %s and %s", day, before, after)
		}
	}
}
