// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/api"
	"github.com/bridgewatch/bridgewatch/loader"
)

// answering makes a socket on which an agent says that of itself until the test ends.
func answering(t *testing.T, own exporters.Own) (socket string) {
	t.Helper()
	return serving(t, api.Handler(api.Answers{Status: func() exporters.Own { return own }}))
}

// serving answers on a unix socket until the test ends.
func serving(t *testing.T, handler http.Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(socketFolder(t), "api.sock")
	listener, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, handler) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return socket
}

// socketFolder is a folder with a name short enough for a socket in it.
func socketFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "cmd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func exampleOwn() exporters.Own {
	since := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	return exporters.Own{
		Version: "1.2.3", PID: 42, Started: time.Now().Add(-90 * time.Second), Memory: 33 << 20,
		Signals: []exporters.Signal{{Name: "flow", Since: since}, {Name: "drop", Reason: "no BTF", Since: since}},
		Docker:  exporters.DockerState{Up: true, Version: "28.5.2"},
		Devices: map[string]int{"veth": 3, "bridge": 2},
		Losses:  []exporters.SignalLoss{{Signal: "flow", Place: "table_full", Count: 7}, {Signal: "drop", Place: "lost"}},
		Programs: []loader.ProgramCost{
			{Program: "flow_ingress", Runs: 2000, Time: 100 * time.Microsecond}, {Program: "cold", Runs: 1, Time: time.Second},
		},
		Maps: []loader.MapUsage{{Map: "flows", Entries: 1, Capacity: 32768}},
	}
}

func TestStatusTable(t *testing.T) {
	quiet := exampleOwn()
	quiet.Losses[0].Count = 0
	quiet.Docker = exporters.DockerState{Error: "connect to docker: no"}
	connecting := exampleOwn()
	connecting.Docker = exporters.DockerState{}
	connecting.Losses = nil
	const top = "agent           version 1.2.3, process 42, up 1m30s, 33 MiB\n"
	const middle = `signal flow     on since 2026-11-22 08:00:00
signal drop     off: no BTF
watched bridge  2
watched veth    3
map flows       1 of 32768 entries
program flow_ingress  50 ns a run, 2000 runs measured
`
	for _, tc := range []struct {
		name string
		own  exporters.Own
		want []string // lines, whatever their columns
	}{
		{"with losses", exampleOwn(), []string{"docker connected, version 28.5.2", "lost flow table_full 7"}},
		{"without losses or Docker", quiet, []string{"docker not there: connect to docker: no", "lost nothing"}},
		{"just started", connecting, []string{"docker connecting", "lost nothing"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := execute(t.Context(), []string{"status", "--api.socket=" + answering(t, tc.own)}, &out, &errs)
			if code != exitGood || errs.Len() > 0 {
				t.Fatalf("exit code %d, stderr %q", code, errs.String())
			}
			common := lines(top + middle)
			want := append([]string{common[0], tc.want[0]}, common[1:]...)
			want = append(want, tc.want[1:]...)
			if diff := cmp.Diff(want, lines(out.String())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A host without Swarm hears nothing of one.
func TestStatusOfASwarm(t *testing.T) {
	for others, want := range map[int]string{
		0: "swarm no other node, this one's data path is 10.99.0.1", 1: "swarm 1 other node, this one's data path is 10.99.0.1",
		12: "swarm 12 other nodes, this one's data path is 10.99.0.1",
	} {
		own := exampleOwn()
		own.Swarm = &exporters.Swarm{Address: "10.99.0.1", Peers: others}
		var out bytes.Buffer
		if err := printStatus(&out, &own); err != nil {
			t.Fatal(err)
		}
		if got := lines(out.String())[2]; got != want {
			t.Errorf("says %q, want %q", got, want)
		}
	}
}

// lines splits a text, and makes every run of blanks one.
func lines(text string) []string {
	var list []string
	for line := range bytes.Lines([]byte(text)) {
		list = append(list, string(bytes.Join(bytes.Fields(line), []byte(" "))))
	}
	return list
}

func TestStatusJSON(t *testing.T) {
	want := exampleOwn()
	want.Started = want.Started.Round(0) // without the monotonic clock, which does not travel
	var out, errs bytes.Buffer
	code := execute(t.Context(), []string{"status", "--output=json", "--api.socket=" + answering(t, want)}, &out, &errs)
	if code != exitGood || errs.Len() > 0 {
		t.Fatalf("exit code %d, stderr %q", code, errs.String())
	}
	var got exporters.Own
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// For health checks: an agent with a signal off is healthy.
func TestStatusQuiet(t *testing.T) {
	var out, errs bytes.Buffer
	code := execute(t.Context(), []string{"status", "--quiet", "--api.socket=" + answering(t, exampleOwn())}, &out, &errs)
	if code != exitGood || out.Len()+errs.Len() > 0 {
		t.Errorf("exit code %d, stdout %q, stderr %q; want 0 and silence", code, out.String(), errs.String())
	}
}

// What answers but is no agent is told from an agent.
func TestStatusOfAnotherServer(t *testing.T) {
	socket := filepath.Join(socketFolder(t), "other.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-ended })
	var out, errs bytes.Buffer
	if code := execute(t.Context(), []string{"status", "--api.socket=" + socket}, &out, &errs); code != exitCannot {
		t.Errorf("exit code %d, want %d; stderr %q", code, exitCannot, errs.String())
	}
}
