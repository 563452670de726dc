// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Agent is a running `bridgewatch run`.
type Agent struct {
	URL     string // of the web server, without a path
	Address string // host and port of the web server, from the lab host
	Socket  string // path of the API socket
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended
	logFile string
	ended   bool // the test has ended it
}

// StartAgent starts the agent for an engine and where that is, on a free port and with a socket of its own, and waits until it is
// ready. When the test ends, the agent is told to end too; anything but success in that fails the test.
func StartAgent(tb testing.TB, engine *Engine, flags ...string) *Agent {
	tb.Helper()
	a := LaunchAgent(tb, engine, flags...)
	Eventually(tb, 3*time.Minute, "the agent to be ready", func() bool {
		select {
		case <-a.done:
			tb.Fatalf("the agent ended: %v\n%s", a.cmd.ProcessState, a.Log(tb))
		default:
		}
		resp, err := http.Get(a.URL + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return a
}

// LaunchAgent is StartAgent without the wait: for agents behind authentication.
func LaunchAgent(tb testing.TB, engine *Engine, flags ...string) *Agent {
	tb.Helper()
	dir := tempDir(tb)
	listen := freeAddress(tb, engine.netns)
	address := listen
	if engine.netns != "" {
		address = relay(tb, engine.netns, listen)
	}
	a := &Agent{
		URL: "http://" + address, Address: address, Socket: filepath.Join(dir, "api.sock"),
		done: make(chan struct{}), logFile: filepath.Join(dir, "log"),
	}
	log, err := os.Create(a.logFile)
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	args := append([]string{"run", "--web.listen-address=" + listen, "--api.socket=" + a.Socket, "--strict"}, flags...)
	a.cmd = agentCommand(tb, engine, args...)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	if err := a.cmd.Start(); err != nil {
		tb.Fatalf("start the agent: %v", err)
	}
	go func() {
		_ = a.cmd.Wait() // its outcome is in ProcessState
		close(a.done)
	}()
	tb.Cleanup(func() {
		if !a.ended {
			a.Stop(tb)
		}
		if tb.Failed() {
			tb.Logf("the agent's log:\n%s", a.Log(tb))
		}
	})
	return a
}

// Stop tells the agent to end, and fails the test if it does not end with success within ten seconds.
func (a *Agent) Stop(tb testing.TB) {
	tb.Helper()
	a.signal(tb, syscall.SIGTERM)
	if code := a.cmd.ProcessState.ExitCode(); code != 0 {
		tb.Errorf("the agent ended with %v after SIGTERM\n%s", a.cmd.ProcessState, a.Log(tb))
	}
}

// Kill ends the agent without giving it a chance to clean up.
func (a *Agent) Kill(tb testing.TB) {
	tb.Helper()
	a.signal(tb, syscall.SIGKILL)
}

func (a *Agent) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	a.ended = true
	if err := a.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Errorf("send %s to the agent: %v", sig, err)
	}
	select {
	case <-a.done:
	case <-time.After(10 * time.Second):
		tb.Errorf("the agent runs 10s after %s; killing it", sig)
		_ = a.cmd.Process.Kill()
		<-a.done
	}
}

// PID returns the agent's process id.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Log returns what the agent has written to its standard output and error.
func (a *Agent) Log(tb testing.TB) string {
	tb.Helper()
	log, err := os.ReadFile(a.logFile)
	if err != nil {
		tb.Errorf("read the agent's log: %v", err)
	}
	return string(log)
}

// Text returns the agent's /metrics as they are.
func (a *Agent) Text(tb testing.TB) string {
	tb.Helper()
	text, err := a.text()
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func (a *Agent) text() (string, error) {
	resp, err := http.Get(a.URL + "/metrics")
	if err != nil {
		return "", fmt.Errorf("scrape: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("scrape: %s: %w: %s", resp.Status, err, text)
	}
	return string(text), nil
}

// Scrape returns the agent's metrics.
func (a *Agent) Scrape(tb testing.TB) Metrics {
	tb.Helper()
	return ParseMetrics(tb, a.Text(tb))
}

// Settle scrapes, and waits until every drop series that was born in that shows its value instead of its first zero.
func (a *Agent) Settle(tb testing.TB) {
	tb.Helper()
	a.Scrape(tb)
	time.Sleep(16 * time.Second)
}

// Command runs a command of the agent's program and returns its exit code and its output.
func Command(tb testing.TB, engine *Engine, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	var out, errs strings.Builder
	cmd := agentCommand(tb, engine, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatalf("run bridgewatch: %v", err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// agentCommand is one of the agent's program, to run where the engine is. The engine may be nil.
func agentCommand(tb testing.TB, engine *Engine, args ...string) *exec.Cmd {
	tb.Helper()
	command := append([]string{program(tb, "bridgewatch")}, args...)
	if engine == nil {
		return exec.Command(command[0], command[1:]...)
	}
	command = append(engine.enter[:len(engine.enter):len(engine.enter)], command...)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+engine.socket)
	return cmd
}
