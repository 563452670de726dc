// SPDX-License-Identifier: Apache-2.0

// Package api answers the questions of the agent's own commands, over its unix socket, and asks them.
package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/bridgewatch/bridgewatch/exporters"
)

const statusPath = "/api/v1/status"

// Handler answers with what status returns.
func Handler(status func() exporters.Own) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The answer is small and the asker local: what cannot be written is the asker's loss.
		_ = json.NewEncoder(w).Encode(status())
	})
	return mux
}

// Status asks the agent behind a unix socket for its status.
func Status(ctx context.Context, socket string) (exporters.Own, error) {
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bridgewatch"+statusPath, nil)
	if err != nil {
		return exporters.Own{}, fmt.Errorf("ask the agent: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return exporters.Own{}, fmt.Errorf("ask the agent: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return exporters.Own{}, fmt.Errorf("ask the agent: %s", response.Status)
	}
	var own exporters.Own
	if err := json.NewDecoder(response.Body).Decode(&own); err != nil {
		return exporters.Own{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	return own, nil
}
