// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/loader"
)

// judgePeriod is how often the state of the host is read and findings are looked for.
const judgePeriod = 5 * time.Second

// maxEntered is how many containers are entered each time, to see the links inside: those that were not for the longest.
// It takes some 0.3 ms each.
const maxEntered = 50

// judge looks for what is wrong, in what was counted, what Docker says and what the kernel says of its state.
func (a *agent) judge() {
	if !a.state.Listed() {
		return // whatever belongs to a container would look like nobody's
	}
	a.judging.Lock()
	defer a.judging.Unlock()
	a.collect()
	view := findings.View{Now: time.Now(), Inventory: a.state.Inventory(), Owners: a.state.LinkOwners(), Listed: true}
	view.Host = a.readHost(&view.Inventory)
	view.Containers = a.readNamespaces(&view.Inventory, view.Now)
	view.ClearAPIs = a.apis.Ask(context.Background(), view.Host.Listeners, view.Now)
	a.state.SetConntrackFull(full(view.Host.Conntrack))
	a.state.SetForwardingOff(view.Host.Forwarding4 == loader.Off, view.Host.Forwarding6 == loader.Off)
	a.recent.Fill(&view)
	changes := a.board.Evaluate(&view)

	a.collecting.Lock()
	a.metrics.SetState(&view.Host, view.Containers)
	a.metrics.SetFindings(a.board.Standing(), a.board.Raised())
	a.collecting.Unlock()
	a.tell(changes)
}

// tell says what has begun and ended to whoever reads the log, and to whom it is sent.
func (a *agent) tell(changes []findings.Change) {
	for i := range changes {
		c := &changes[i]
		log := a.log.With("id", c.ID, "severity", c.Severity, "stack", c.Subject.Stack, "service", c.Subject.Service,
			"container", c.Subject.Container, "network", c.Subject.Network, "object", c.Subject.Object)
		if c.Cleared {
			log.Info("finding cleared")
		} else {
			log.Info("finding raised")
		}
	}
	a.otlp.AddFindings(changes)
}

// readHost reads the state of the host's namespace. What cannot be read is said once, until it can be again.
func (a *agent) readHost(inventory *enrich.Inventory) loader.HostState {
	host := loader.ReadHost(hostQuery(inventory))
	problem := errors.Join(host.Errors...)
	if text := fmt.Sprint(problem); text != a.unread {
		a.unread = text
		if problem != nil {
			a.log.Warn("some state of the host is unknown", "error", problem)
		}
	}
	return host
}

// full tells whether a table has no room, or a moment ago had none: entries come and go by the thousand.
func full(t loader.Table) bool { return t.Limit > 0 && t.Entries >= t.Limit-t.Limit/50 }

// hostQuery asks for what the engine's containers make of interest.
func hostQuery(inventory *enrich.Inventory) (query loader.HostQuery) {
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		if c.SandboxKey != "" {
			query.SandboxFolder = filepath.Dir(c.SandboxKey)
		}
		for _, p := range c.Published {
			if p.Protocol == "tcp" && !slices.Contains(query.Ports, p.Host.Port()) {
				query.Ports = append(query.Ports, p.Host.Port())
			}
		}
	}
	return query
}

// readNamespaces reads the counters of all containers' namespaces, and in turn what links are inside of them.
func (a *agent) readNamespaces(inventory *enrich.Inventory, now time.Time) map[string]loader.NetnsState {
	a.enter(inventory, now)
	states := make(map[string]loader.NetnsState, len(inventory.Containers))
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		if !c.OwnsNetns() {
			continue
		}
		state, err := loader.ReadNetns(c.PID)
		if err != nil {
			if !errors.Is(err, loader.ErrNetnsGone) {
				a.log.Debug("counters of a container are unknown", "container", c.Name, "error", err)
			}
			continue
		}
		state.Links = a.inside[c.ID].links
		states[c.ID] = state
		a.recent.AddNetns(c.ID, state, now)
	}
	return states
}

// insideLinks are the links that a container had when its namespace was last entered.
type insideLinks struct {
	links []loader.Link
	read  time.Time
}

// enter reads the links inside of the containers whose turn it is, and forgets those of containers that are gone or have
// started again.
func (a *agent) enter(inventory *enrich.Inventory, now time.Time) {
	inside := make(map[string]insideLinks, len(inventory.Containers))
	var turn []*enrich.LiveContainer
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		if !c.OwnsNetns() || c.SandboxKey == "" {
			continue
		}
		turn = append(turn, c)
		if last, known := a.inside[c.ID]; known && last.read.After(c.StartedAt) {
			inside[c.ID] = last
		}
	}
	slices.SortStableFunc(turn, func(x, y *enrich.LiveContainer) int { return inside[x.ID].read.Compare(inside[y.ID].read) })
	for _, c := range turn[:min(len(turn), maxEntered)] {
		links, err := loader.LinksInside(c.SandboxKey)
		if err != nil && !errors.Is(err, loader.ErrNetnsGone) {
			a.log.Debug("links of a container are unknown", "container", c.Name, "error", err)
		}
		inside[c.ID] = insideLinks{links, now}
	}
	a.inside = inside
}
