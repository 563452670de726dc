// SPDX-License-Identifier: Apache-2.0

// Package api answers the questions of the agent's own commands, over its unix socket, and asks them.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters"
)

const (
	statusPath   = "/api/v1/status"
	findingsPath = "/api/v1/findings"
	natPath      = "/api/v1/nat"
	dnsPath      = "/api/v1/dns"

	maxReason = 1000 // bytes that are read of why a question was refused
)

// ErrUnknownQuestion means that whoever answers has never heard of the question: an older agent, or no agent at all.
var ErrUnknownQuestion = errors.New("it does not know the question")

// Findings is what is wrong on a host, and how far it could be looked at.
type Findings struct {
	Host       string                `json:"host"`               // the node's name
	Started    time.Time             `json:"started"`            // of the observation
	Evaluated  time.Time             `json:"evaluated,omitzero"` // when findings were last looked for, zero: not yet
	Containers int                   `json:"containers"`         // running
	Networks   int                   `json:"networks"`           // that these are on
	Docker     exporters.DockerState `json:"docker"`
	Signals    []exporters.Signal    `json:"signals"`
	Unread     []string              `json:"unread,omitempty"` // what of the state could not be read, and why
	Holding    []findings.Finding    `json:"findings"`         // those whose evidence held when it was last looked at, gravest first
}

// Answers is what the agent says to each question. All of them may be called concurrently.
type Answers struct {
	Status   func() exporters.Own
	Findings func() Findings
	NAT      func(NATQuestion) NAT
	DNS      func(DNSQuestion) DNS
}

// Handler answers each question by its function, and knows none that has no function.
func Handler(answers Answers) http.Handler {
	mux := http.NewServeMux()
	if answers.Status != nil {
		mux.HandleFunc("GET "+statusPath, answer(answers.Status))
	}
	if answers.Findings != nil {
		mux.HandleFunc("GET "+findingsPath, answer(answers.Findings))
	}
	if answers.NAT != nil {
		mux.HandleFunc("GET "+natPath, func(w http.ResponseWriter, r *http.Request) {
			var question NATQuestion
			if understand(w, r, question.set) {
				said := answers.NAT(question)
				said.Rows = list(said.Rows)
				write(w, said)
			}
		})
	}
	if answers.DNS != nil {
		mux.HandleFunc("GET "+dnsPath, func(w http.ResponseWriter, r *http.Request) {
			var question DNSQuestion
			if understand(w, r, question.set) {
				said := answers.DNS(question)
				said.Rows = list(said.Rows)
				write(w, said)
			}
		})
	}
	return mux
}

// understand reads a question's parameters. It refuses what it does not know: an answer to another question than was asked
// misleads.
func understand(w http.ResponseWriter, r *http.Request, set func(name, value string) error) bool {
	err := parseQuestion(r.URL.RawQuery, set)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func parseQuestion(query string, set func(name, value string) error) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("parse question: %w", err)
	}
	for name, given := range values {
		if len(given) > 1 {
			return fmt.Errorf("%s is given %d times", name, len(given))
		}
		if err := set(name, given[0]); err != nil {
			return err
		}
	}
	return nil
}

// list makes one of none, so that it is one in JSON, too.
func list[T any](rows []T) []T {
	if rows == nil {
		return []T{}
	}
	return rows
}

func answer[T any](get func() T) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { write(w, get()) }
}

func write(w http.ResponseWriter, said any) {
	w.Header().Set("Content-Type", "application/json")
	// The answer is small and the asker local: what cannot be written is the asker's loss.
	_ = json.NewEncoder(w).Encode(said)
}

// Status asks the agent behind a unix socket for its status.
func Status(ctx context.Context, socket string) (exporters.Own, error) {
	return ask[exporters.Own](ctx, socket, statusPath)
}

// AskFindings asks the agent behind a unix socket for what it has found.
func AskFindings(ctx context.Context, socket string) (Findings, error) {
	return ask[Findings](ctx, socket, findingsPath)
}

// AskNAT asks the agent behind a unix socket for translated connections, or where those of containers appear to come from.
func AskNAT(ctx context.Context, socket string, question NATQuestion) (NAT, error) {
	return ask[NAT](ctx, socket, natPath+"?"+question.query())
}

// AskDNS asks the agent behind a unix socket for lookups.
func AskDNS(ctx context.Context, socket string, question DNSQuestion) (DNS, error) {
	return ask[DNS](ctx, socket, dnsPath+"?"+question.query())
}

// ask returns ErrUnknownQuestion if there is no such path, and os.ErrNotExist or unix.ECONNREFUSED if nobody is there.
func ask[T any](ctx context.Context, socket, path string) (said T, err error) {
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bridgewatch"+path, nil)
	if err != nil {
		return said, fmt.Errorf("ask the agent: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return said, fmt.Errorf("ask the agent: %w", err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return said, fmt.Errorf("ask the agent: %w", ErrUnknownQuestion)
	case http.StatusBadRequest:
		reason, _ := io.ReadAll(io.LimitReader(response.Body, maxReason))
		return said, fmt.Errorf("ask the agent: %s", strings.TrimSpace(string(reason)))
	default:
		return said, fmt.Errorf("ask the agent: %s", response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&said); err != nil {
		return said, fmt.Errorf("read the agent's answer: %w", err)
	}
	return said, nil
}
