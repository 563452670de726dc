// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Trace records the kernel's drop tracepoint by tracefs: without BPF, and so without what limits BPF.
type Trace struct{ dir string }

// TraceDrops records the machine's drops of IP packets until the test ends.
func TraceDrops(tb testing.TB) Trace {
	tb.Helper()
	tr := Trace{filepath.Join("/sys/kernel/tracing/instances", filepath.Base(tempDir(tb)))}
	if err := os.Mkdir(tr.dir, 0o700); err != nil {
		tb.Fatalf("make trace: %v", err)
	}
	tb.Cleanup(func() {
		tr.write(tb, "events/skb/kfree_skb/enable", "0")
		if err := os.Remove(tr.dir); err != nil {
			tb.Errorf("remove trace: %v", err)
		}
	})
	tr.write(tb, "events/skb/kfree_skb/filter", "protocol == 0x0800 || protocol == 0x86dd")
	tr.write(tb, "events/skb/kfree_skb/enable", "1")
	return tr
}

// Count returns how many drops had the reason.
func (tr Trace) Count(tb testing.TB, reason string) uint64 {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(tr.dir, "trace"))
	if err != nil {
		tb.Fatalf("read trace: %v", err)
	}
	return uint64(strings.Count(string(text)+"\n", "reason: "+reason+"\n"))
}

func (tr Trace) write(tb testing.TB, file, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(tr.dir, file), []byte(text), 0); err != nil {
		tb.Errorf("set up trace: %v", err)
	}
}
