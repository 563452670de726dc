// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// refused requires that a command could not run and says so in one line.
func refused(t *testing.T, engine *lab.Engine, wantText string, args ...string) {
	t.Helper()
	code, stdout, stderr := lab.Command(t, engine, args...)
	if code != 2 {
		t.Errorf("bridgewatch %s: exit code %d, want 2", strings.Join(args, " "), code)
	}
	message := strings.TrimSpace(stderr)
	if strings.Count(message, "\n") > 0 || !strings.Contains(message, wantText) {
		t.Errorf("bridgewatch %s: want one sentence with %q, got\n%s%s", strings.Join(args, " "), wantText, stdout, stderr)
	}
}

// TestCommands runs the program as an operator would, also wrongly.
func TestCommands(t *testing.T) {
	engine := lab.StartEngine(t)
	socket := "--api.socket=" + t.TempDir() + "/api.sock"

	t.Run("unknown flag", func(t *testing.T) {
		refused(t, engine, "--no-such-flag", "run", "--no-such-flag")
	})
	t.Run("address in use", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		address := listener.Addr().String()
		refused(t, engine, address, "run", "--web.listen-address="+address, socket)
	})
	t.Run("second agent", func(t *testing.T) {
		agent := lab.StartAgent(t, engine)
		before := agent.Objects(t)
		refused(t, engine, "another agent", "run", "--web.listen-address=127.0.0.1:0", socket)
		if diff := cmp.Diff(before.Links, agent.Objects(t).Links); diff != "" {
			t.Errorf("the first agent's links changed:\n%s", diff)
		}
	})
	for name, end := range map[string]func(*lab.Agent, testing.TB){
		"SIGTERM": (*lab.Agent).Stop,
		"SIGKILL": (*lab.Agent).Kill,
	} {
		t.Run("nothing stays after "+name, func(t *testing.T) {
			agent := lab.StartAgent(t, engine)
			engine.Run(t, "watched", nil)
			held := agent.Objects(t)
			if len(held.Links) == 0 || len(held.Maps) == 0 || len(held.Programs) == 0 {
				t.Fatalf("the agent holds %+v", held)
			}
			end(agent, t)
			lab.Eventually(t, patience, "the kernel to free what the agent held", func() bool {
				return cmp.Equal(held.Alive(t), lab.Objects{})
			})
		})
	}
	t.Run("version", func(t *testing.T) {
		if code, stdout, _ := lab.Command(t, engine, "version"); code != 0 || stdout == "" {
			t.Errorf("exit code %d, output %q", code, stdout)
		}
	})
	t.Run("check", func(t *testing.T) {
		if code, stdout, stderr := lab.Command(t, engine, "check"); code != 0 {
			t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
		}
	})
}
