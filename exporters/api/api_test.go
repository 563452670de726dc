// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers on a unix socket until the test ends.
func serve(t *testing.T, handler http.Handler) (socket string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "api") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	socket = filepath.Join(folder, "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return socket
}

func TestStatus(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC)
	want := exporters.Own{
		Version: "1.2.3", Revision: "abc", GoVersion: "go1.26", PID: 42, Started: at,
		Signals:  []exporters.Signal{{Name: "flow", Since: at}, {Name: "drop", Reason: "no \"BTF\"\n", Since: at}},
		Docker:   exporters.DockerState{Up: true, Version: "28.5.2"},
		Devices:  map[string]int{"veth": 3},
		Losses:   []exporters.SignalLoss{{Signal: "flow", Place: "table_full", Count: 1<<63 + 1}},
		Programs: []loader.ProgramCost{{Program: "flow_ingress", Runs: 10, Time: time.Second}},
		Maps:     []loader.MapUsage{{Map: "flows", Entries: 1, Capacity: 2}},
		Memory:   1 << 40,
	}
	socket := serve(t, Handler(func() exporters.Own { return want }))
	got, err := Status(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whoever asks can tell that there is no agent from an agent that does not answer.
func TestNoAgent(t *testing.T) {
	folder := t.TempDir()
	if _, err := Status(t.Context(), filepath.Join(folder, "none.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing socket: %v, want %v", err, os.ErrNotExist)
	}
}

func TestBadAnswers(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"garbage":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"nothing":   func(http.ResponseWriter, *http.Request) {},
		"cut off":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Status(t.Context(), serve(t, handler))
			if err == nil || !strings.Contains(err.Error(), "agent") {
				t.Errorf("got %v, want an error that says whom it asked", err)
			}
		})
	}
}

func TestHangingAgent(t *testing.T) {
	socket := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Status(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

// The socket answers questions and takes no orders.
func TestOnlyGet(t *testing.T) {
	socket := serve(t, Handler(func() exporters.Own { return exporters.Own{} }))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://bridgewatch"+statusPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s is answered with %s", method, response.Status)
		}
	}
}
