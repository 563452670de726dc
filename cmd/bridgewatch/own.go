// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

// measured is a signal that says what it lost and cost.
type measured interface {
	Losses() ([]loader.Loss, error)
	Costs() ([]loader.ProgramCost, error)
}

// dockerState is that of the connection to the engine.
func (a *agent) dockerState() exporters.DockerState {
	engine := a.engine.Load()
	if engine == nil {
		return exporters.DockerState{}
	}
	state := exporters.DockerState{Up: engine.Err == nil, Version: engine.Version}
	if engine.Err != nil {
		state.Error = engine.Err.Error()
	}
	return state
}

// status is what the agent says of itself now.
func (a *agent) status() exporters.Own {
	own := exporters.Own{
		Version: version, Revision: revision(), GoVersion: runtime.Version(), PID: os.Getpid(), Started: a.started,
		Signals: a.signals, Docker: a.dockerState(), Swarm: a.cluster.Load(), Devices: map[string]int{}, Memory: residentBytes(),
	}
	if a.flows != nil {
		own.Devices = a.flows.Devices()
		own.Maps = append(own.Maps, a.flows.Usage()...)
		a.measure(&own, "flow", a.flows)
	}
	if a.drops != nil {
		own.Maps = append(own.Maps, a.drops.Usage()...)
		a.measure(&own, "drop", a.drops)
	}
	if a.egress != nil {
		maps.Copy(own.Devices, a.egress.Devices())
		own.Maps = append(own.Maps, a.egress.Usage()...)
		a.measure(&own, "egress", a.egress)
	}
	if a.nat != nil {
		own.Maps = append(own.Maps, a.nat.Usage()...)
		a.measure(&own, "nat", a.nat)
		for _, loss := range a.state.NATLosses() {
			own.Losses = append(own.Losses, exporters.SignalLoss{Signal: "nat", Place: loss.Place, Count: loss.Count})
		}
	}
	if a.dns != nil {
		own.Maps = append(own.Maps, a.dns.Usage()...)
		a.measure(&own, "dns", a.dns)
		for _, loss := range a.state.DNSLosses() {
			own.Losses = append(own.Losses, exporters.SignalLoss{Signal: "dns", Place: loss.Place, Count: loss.Count})
		}
	}
	if a.overlay != nil {
		own.Devices["uplink"] = max(own.Devices["uplink"], a.overlay.Devices()["uplink"]) // they are the same
		own.Maps = append(own.Maps, a.overlay.Usage()...)
		a.measure(&own, "overlay", a.overlay)
	}
	own.Losses = append(own.Losses, a.missLosses()...)
	if a.execs != nil {
		a.measure(&own, "exec", a.execs)
	}
	for _, loss := range a.links.Losses() {
		own.Losses = append(own.Losses, exporters.SignalLoss{Signal: "flow", Place: loss.Place, Count: loss.Count})
	}
	if a.rulesets != nil {
		for _, loss := range a.rulesets.Losses() {
			own.Losses = append(own.Losses, exporters.SignalLoss{Signal: "ruleset", Place: loss.Place, Count: loss.Count})
		}
	}
	for _, loss := range a.recent.Overflow() {
		own.Losses = append(own.Losses, exporters.SignalLoss{Signal: "findings", Place: loss.Place, Count: loss.Count})
	}
	for _, loss := range a.otlp.Losses() {
		own.Losses = append(own.Losses, exporters.SignalLoss{Signal: "otlp", Place: loss.Place, Count: loss.Count})
	}
	return own
}

func (a *agent) measure(own *exporters.Own, name string, signal measured) {
	losses, err := signal.Losses()
	if err != nil {
		a.log.Warn("losses are unknown", "signal", name, "error", err)
	}
	for _, loss := range losses {
		own.Losses = append(own.Losses, exporters.SignalLoss{Signal: name, Place: loss.Place, Count: loss.Count})
	}
	costs, err := signal.Costs()
	if err != nil {
		a.log.Warn("cost is unknown", "signal", name, "error", err)
	}
	own.Programs = append(own.Programs, costs...)
}

// residentBytes reads the process's own memory, 0 if it cannot be read.
func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
