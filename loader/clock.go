// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// clockReadings is of how many comparisons of two clocks the best is taken: between its two sides a thread may have to wait.
const clockReadings = 8

// kernelClock dates what programs say of the time by bpf_ktime_get_ns, which is CLOCK_MONOTONIC. The runtime's monotonic clock
// is the same one, but begins elsewhere.
type kernelClock struct {
	zero time.Time // when the kernel's began, by the runtime's monotonic clock
}

func newKernelClock() (kernelClock, error) {
	var best time.Duration
	var clock kernelClock
	for i := range clockReadings {
		var reading unix.Timespec
		before := time.Now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &reading); err != nil {
			return kernelClock{}, fmt.Errorf("read monotonic clock: %w", err)
		}
		took := time.Since(before)
		if i == 0 || took < best {
			best, clock.zero = took, before.Add(took/2-time.Duration(reading.Nano()))
		}
	}
	return clock, nil
}

// origin returns when the kernel's clock began. Of what is computed from it, the time of day is by the clock as it is set
// now. All else goes by the monotonic clock alone: what is computed from another call's result compares with it exactly,
// even if the clock was set in between.
func (c kernelClock) origin() time.Time {
	now := time.Now()
	return now.Add(-now.Sub(c.zero))
}
