// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"
	"time"
)

// CommandHolding is Command for one that takes some seconds. It also returns what the process held in the kernel when it
// held most.
func CommandHolding(tb testing.TB, engine *Engine, args ...string) (code int, stdout string, held Objects) {
	tb.Helper()
	var out, errs strings.Builder
	a := &Agent{cmd: agentCommand(tb, engine, args...), done: make(chan struct{})}
	a.cmd.Stdout, a.cmd.Stderr = &out, &errs
	if err := a.cmd.Start(); err != nil {
		tb.Fatalf("run bridgewatch: %v", err)
	}
	go func() {
		_ = a.cmd.Wait() // its outcome is in ProcessState
		close(a.done)
	}()
	for {
		select {
		case <-a.done:
			if errs.Len() > 0 {
				tb.Errorf("bridgewatch %s: %s", strings.Join(args, " "), errs.String())
			}
			return a.cmd.ProcessState.ExitCode(), out.String(), held
		case <-time.After(100 * time.Millisecond):
			if now := a.Objects(tb); len(now.Links) >= len(held.Links) {
				held = now
			}
		}
	}
}
