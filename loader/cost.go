// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// SampleCosts lets the kernel measure all BPF programs of the host for a short while, again and again, until ctx ends.
// Measuring costs about 70 ns per run of every program, so it is never left on.
func SampleCosts(ctx context.Context, every, length time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		measuring, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
		if err != nil {
			return fmt.Errorf("measure BPF programs: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(length):
		}
		if err := measuring.Close(); err != nil {
			return fmt.Errorf("stop measuring BPF programs: %w", err)
		}
	}
}
