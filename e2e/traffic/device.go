// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
)

// transmitted sums up what the kernel counts of the devices of this namespace, but for loopback.
func transmitted() (counted, error) {
	var sum counted
	text, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return sum, fmt.Errorf("read counters of devices: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, columns, isDevice := strings.Cut(line, ":")
		if !isDevice || strings.TrimSpace(name) == "lo" {
			continue
		}
		// Eight columns of what was received come first.
		var received [8]uint64
		var sent counted
		if _, err := fmt.Sscan(columns, &received[0], &received[1], &received[2], &received[3], &received[4],
			&received[5], &received[6], &received[7], &sent.Bytes, &sent.Packets); err != nil {
			return sum, fmt.Errorf("read counters of %s: %w", name, err)
		}
		sum.Packets += sent.Packets
		sum.Bytes += sent.Bytes
	}
	return sum, nil
}
