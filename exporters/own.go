// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Own is what the agent says of itself, to Prometheus and to whoever asks for its status.
type Own struct {
	Version   string    `json:"version"`
	Revision  string    `json:"revision"`
	GoVersion string    `json:"go_version"`
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`

	Signals  []Signal             `json:"signals"`
	Docker   DockerState          `json:"docker"`
	Swarm    *Swarm               `json:"swarm,omitempty"` // nil: the engine is in none
	Devices  map[string]int       `json:"devices"`         // watched, by kind
	Losses   []SignalLoss         `json:"losses"`
	Programs []loader.ProgramCost `json:"programs"`
	Maps     []loader.MapUsage    `json:"maps"`
	Memory   uint64               `json:"resident_bytes"`
}

// Signal is a signal's state.
type Signal struct {
	Name   string    `json:"name"`
	Reason string    `json:"reason,omitempty"` // why it is off; "" while it runs
	Since  time.Time `json:"since"`
}

// DockerState is the state of the connection to the engine.
type DockerState struct {
	Up      bool   `json:"up"`
	Version string `json:"version,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Swarm is the Swarm that the engine is in, as this node knows it.
type Swarm struct {
	Address string `json:"address"` // of this node's data path
	Peers   int    `json:"peers"`   // other nodes
}

// SignalLoss is a loss and the signal that has it.
type SignalLoss struct {
	Signal string `json:"signal"`
	Place  string `json:"place"`
	Count  uint64 `json:"count"`
}

// SetOwn brings the agent's own metrics up to date. It must not be called concurrently with the other methods.
func (m *Metrics) SetOwn(own *Own) {
	m.store.Replace(buildInfo, []Sample{{Value: 1, Values: []string{own.Version, own.Revision, own.GoVersion}}})
	m.store.Replace(dockerUp, []Sample{{Value: truth(own.Docker.Up)}})
	var enabled, starts, devices, losses, seconds, runs, entries, capacities []Sample
	for _, s := range own.Signals {
		enabled = append(enabled, Sample{Value: truth(s.Reason == ""), Values: []string{s.Name, s.Reason}})
		if s.Reason == "" {
			starts = append(starts, Sample{Value: float64(s.Since.UnixMilli()) / 1000, Values: []string{s.Name}})
		}
	}
	for kind, n := range own.Devices {
		devices = append(devices, Sample{Value: float64(n), Values: []string{kind}})
	}
	for _, l := range own.Losses {
		losses = append(losses, Sample{Value: float64(l.Count), Values: []string{l.Signal, l.Place}})
	}
	for _, p := range own.Programs {
		seconds = append(seconds, Sample{Value: p.Time.Seconds(), Values: []string{p.Program}})
		runs = append(runs, Sample{Value: float64(p.Runs), Values: []string{p.Program}})
	}
	for _, u := range own.Maps {
		entries = append(entries, Sample{Value: float64(u.Entries), Values: []string{u.Map}})
		capacities = append(capacities, Sample{Value: float64(u.Capacity), Values: []string{u.Map}})
	}
	m.store.Replace(signalEnabled, enabled)
	m.store.Replace(signalStart, starts)
	m.store.Replace(attachedDevices, devices)
	m.store.Replace(lostRecords, losses)
	m.store.Replace(programRunSeconds, seconds)
	m.store.Replace(programRuns, runs)
	m.store.Replace(mapEntries, entries)
	m.store.Replace(mapCapacity, capacities)
	m.store.countSeries()
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
