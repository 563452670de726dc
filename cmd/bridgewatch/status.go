// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

type statusCommand struct {
	APISocket string `name:"api.socket" default:"/run/bridgewatch/bridgewatch.sock" help:"Unix socket of the agent."`
	Output    string `enum:"table,json" default:"table" help:"table or json."`
	Quiet     bool   `help:"Print nothing: the exit code is 0 if the agent answers. For health checks."`
}

// Run fails if no agent answers. An agent with a signal off, or without Docker, is a healthy agent.
func (c *statusCommand) Run(ctx context.Context, to streams) error {
	own, err := api.Status(ctx, c.APISocket)
	if err != nil {
		return unasked(err, c.APISocket)
	}
	if c.Quiet {
		return nil
	}
	if c.Output == "json" {
		return printJSON(to.out, own)
	}
	return printStatus(to.out, &own)
}

func printJSON(to io.Writer, value any) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// minRuns is how many measured runs make a mean worth showing: single cold ones take microseconds.
const minRuns = 1000

func printStatus(to io.Writer, own *exporters.Own) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "agent\tversion %s, process %d, up %s, %d MiB\n",
		own.Version, own.PID, time.Since(own.Started).Round(time.Second), own.Memory>>20)
	fmt.Fprintf(table, "docker\t%s\n", dockerText(own.Docker))
	if own.Swarm != nil {
		fmt.Fprintf(table, "swarm\t%s, this one's data path is %s\n", nodesText(own.Swarm.Peers), own.Swarm.Address)
	}
	for _, s := range own.Signals {
		state := "on since " + s.Since.Format(time.DateTime)
		if s.Reason != "" {
			state = "off: " + s.Reason
		}
		fmt.Fprintf(table, "signal %s\t%s\n", s.Name, state)
	}
	for _, kind := range slices.Sorted(maps.Keys(own.Devices)) {
		fmt.Fprintf(table, "watched %s\t%d\n", kind, own.Devices[kind])
	}
	for _, m := range own.Maps {
		fmt.Fprintf(table, "map %s\t%d of %d entries\n", m.Map, m.Entries, m.Capacity)
	}
	for _, p := range own.Programs {
		if p.Runs >= minRuns {
			fmt.Fprintf(table, "program %s\t%d ns a run, %d runs measured\n", p.Program, uint64(p.Time)/p.Runs, p.Runs)
		}
	}
	lost := false
	for _, l := range own.Losses {
		if l.Count > 0 {
			lost = true
			fmt.Fprintf(table, "lost %s %s\t%d\n", l.Signal, l.Place, l.Count)
		}
	}
	if !lost {
		fmt.Fprintf(table, "lost\tnothing\n")
	}
	return table.Flush()
}

func nodesText(others int) string {
	switch others {
	case 0:
		return "no other node"
	case 1:
		return "1 other node"
	}
	return fmt.Sprintf("%d other nodes", others)
}

func dockerText(d exporters.DockerState) string {
	switch {
	case d.Up:
		return "connected, version " + d.Version
	case d.Error != "":
		return "not there: " + d.Error
	}
	return "connecting"
}
