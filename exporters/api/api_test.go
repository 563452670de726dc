// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
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

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
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
	socket := serve(t, Handler(Answers{Status: func() exporters.Own { return want }}))
	got, err := Status(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFindings(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC)
	want := Findings{
		Host: "node-1", Started: at, Evaluated: at.Add(time.Minute), Containers: 12, Networks: 3,
		Docker:  exporters.DockerState{Error: "connect to docker: no"},
		Signals: []exporters.Signal{{Name: "flow", Since: at}, {Name: "drop", Reason: "no BTF", Since: at}},
		Holding: []findings.Finding{{
			ID: "mtu-mismatch", Severity: findings.Info, Title: "MTUs differ.",
			Subject: findings.Subject{
				Identity: enrich.Identity{Stack: "shop", Service: "web", Container: "web.1", Network: "default"},
				Scope:    enrich.ScopeHost, Object: "eth0",
			},
			Since: at, LastSeen: at.Add(time.Second),
			Evidence: []findings.Fact{{Name: "bridge", Number: 1500, Unit: "bytes"}, {Name: "device", Text: "eth0"}},
			Remedy:   "Make them equal.", Confirm: "ip link show", Basis: "the links", Runbook: "https://example.org/mtu-mismatch.md",
		}},
	}
	socket := serve(t, Handler(Answers{Findings: func() Findings { return want }}))
	got, err := AskFindings(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An agent that has not looked yet says so, and not that it looked in the year 1.
func TestNoFindingsYet(t *testing.T) {
	socket := serve(t, Handler(Answers{Findings: func() Findings { return Findings{} }}))
	got, err := AskFindings(t.Context(), socket)
	if err != nil || !got.Evaluated.IsZero() {
		t.Errorf("evaluated at %v, %v; want never", got.Evaluated, err)
	}
	text, err := json.Marshal(Findings{})
	if err != nil || strings.Contains(string(text), "evaluated") {
		t.Errorf("%s, %v", text, err)
	}
}

// Whoever asks can tell that there is no agent from an agent that does not answer.
func TestNoAgent(t *testing.T) {
	folder := t.TempDir()
	if _, err := Status(t.Context(), filepath.Join(folder, "none.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing socket: %v, want %v", err, os.ErrNotExist)
	}
	if _, err := AskFindings(t.Context(), filepath.Join(folder, "none.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing socket: %v, want %v", err, os.ErrNotExist)
	}
}

// An agent that is older than the question is told from one that is broken.
func TestUnknownQuestion(t *testing.T) {
	old := serve(t, Handler(Answers{Status: func() exporters.Own { return exporters.Own{PID: 42} }}))
	if own, err := Status(t.Context(), old); err != nil || own.PID != 42 {
		t.Errorf("status: process %d, %v", own.PID, err)
	}
	if _, err := AskFindings(t.Context(), old); !errors.Is(err, ErrUnknownQuestion) {
		t.Errorf("older agent: %v, want %v", err, ErrUnknownQuestion)
	}
	broken := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	if _, err := AskFindings(t.Context(), broken); err == nil || errors.Is(err, ErrUnknownQuestion) {
		t.Errorf("broken agent: %v", err)
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
	socket := serve(t, Handler(Answers{
		Status:   func() exporters.Own { return exporters.Own{} },
		Findings: func() Findings { return Findings{} },
		NAT:      func(NATQuestion) NAT { return NAT{} },
	}))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	for _, path := range []string{statusPath, findingsPath, natPath} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
			request, err := http.NewRequestWithContext(t.Context(), method, "http://bridgewatch"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s is answered with %s", method, path, response.Status)
			}
		}
	}
}
