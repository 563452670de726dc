// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// observe watches this host as an agent would, and returns what holds at the end. Nothing stays behind.
func observe(ctx context.Context, log *slog.Logger, duration time.Duration) (api.Findings, error) {
	if err := requirePrivileges(); err != nil {
		return api.Findings{}, err
	}
	alone, err := claimHost()
	if err != nil {
		return api.Findings{}, fmt.Errorf("%w, or ask it through its --api.socket", err)
	}
	defer alone.Close()
	var defaults runCommand
	if err := kong.ApplyDefaults(&defaults); err != nil {
		return api.Findings{}, fmt.Errorf("set defaults: %w", err)
	}
	board, err := defaults.config()
	if err != nil {
		return api.Findings{}, err
	}
	board.Observed = duration
	store := exporters.NewStore(exporters.StoreConfig{Limit: defaults.SeriesLimit, Retention: defaults.Retention, Now: time.Now})
	agent, err := openAgent(log, store, &defaults, board)
	if err != nil {
		return api.Findings{}, err
	}
	defer agent.close()
	group, watching := errgroup.WithContext(ctx)
	watching, cancel := context.WithCancel(watching)
	defer cancel()
	group.Go(func() error { return agent.run(watching) })
	group.Go(func() error {
		defer cancel()
		agent.look(watching, duration)
		return nil
	})
	if err := group.Wait(); err != nil {
		return api.Findings{}, err
	}
	if err := ctx.Err(); err != nil {
		return api.Findings{}, fmt.Errorf("observe: %w", err)
	}
	return agent.findings(), nil
}

// look judges as soon as Docker has told what there is, and again when duration has passed since: much must hold for a
// while before it counts. Without Docker there is nothing to wait for.
func (a *agent) look(ctx context.Context, duration time.Duration) {
	for !a.ready() && wait(ctx, readyPoll) {
	}
	engine := a.engine.Load()
	if engine == nil || engine.Err != nil {
		return
	}
	a.judge(ctx)
	if wait(ctx, duration) {
		a.judge(ctx)
	}
}

// readyPoll is how often to look whether Docker has been asked.
const readyPoll = 50 * time.Millisecond

// wait returns false if ctx has ended before.
func wait(ctx context.Context, duration time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(duration):
		return true
	}
}

// findings is what holds, and what that rests on.
func (a *agent) findings() api.Findings {
	inventory := a.state.Inventory()
	networks := make(map[string]bool)
	for i := range inventory.Containers {
		for _, network := range inventory.Containers[i].Networks {
			networks[network] = true
		}
	}
	host := inventory.Node.Name
	if host == "" { // Docker is not there
		host, _ = os.Hostname()
	}
	return api.Findings{
		Host: host, Started: a.started, Evaluated: a.board.Evaluated(),
		Containers: len(inventory.Containers), Networks: len(networks), Docker: a.dockerState(), Signals: a.signals, Unread: a.unread.Load().problems(),
		Holding: a.board.Holding(),
	}
}
