// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/loader"
)

// judgePeriod is how often the state of the host is read and findings are looked for.
const judgePeriod = 5 * time.Second

// maxEntered is how many containers are entered each time, to see the links inside: those that were not for the longest.
// It takes some 0.2 ms each.
const maxEntered = 200

// judge looks for what is wrong, in what was counted, what Docker says and what the kernel says of its state.
func (a *agent) judge(ctx context.Context) {
	a.judging.Lock()
	defer a.judging.Unlock()
	a.readAddresses()
	var problems unread
	a.readResolvConfs(&problems)
	a.readSandboxes(&problems)
	view := findings.View{Inventory: a.state.Inventory(), Listed: a.state.Listed()}
	query := a.hostQuery(&view.Inventory, a.state.NATEndpoints())
	query.Owners = &a.owners
	view.Host = loader.ReadHost(query)
	for _, err := range view.Host.Errors {
		problems = append(problems, err.Error())
	}
	a.state.SetConntrackFull(full(view.Host.Conntrack))
	a.state.SetConntrackEmpty(view.Host.Conntrack.Entries == 0)
	a.state.SetForwardingOff(view.Host.Forwarding4 == loader.Off, view.Host.Forwarding6 == loader.Off)
	if engine := a.engine.Load(); engine != nil && engine.Err == nil { // else nobody would say if a process number is another's now
		view.Containers = a.readNamespaces(&view.Inventory, &problems)
	}
	view.Cluster = a.state.Cluster()
	a.noteConntrack(&view)
	a.state.SetKeptPorts(keptPorts(view.Host.Listeners))
	a.track(&problems, loader.ListTracked, loader.ListUntranslatedUDP)
	a.noteUnread(problems)
	rulesets := a.readRulesets()
	var changes []findings.Change
	if view.Listed { // else whatever belongs to a container would look like nobody's
		view.Owners = a.state.LinkOwners()
		view.ClearAPIs = a.apis.Ask(ctx, view.Host.Listeners, time.Now())
		view.Tracking, view.Proxies = a.lastTracking(), view.Host.Proxies
		view.RulesetChanged, view.RulesetChangedBy = a.rulesChanged, a.rulesChangedBy
		a.settle()
		view.Now = time.Now()
		a.recent.Fill(&view)
		changes = a.board.Evaluate(&view)
	}
	a.collecting.Lock()
	a.metrics.SetState(&view.Host, view.Containers)
	a.metrics.SetTracking(&view.Tracking)
	a.metrics.AddRulesetChanges(rulesets)
	a.metrics.SetFindings(a.board.Standing(), a.board.Raised())
	a.collecting.Unlock()
	a.tell(changes)
}

// noteCounters reads what the kernel's own counters are at the beginning, so that what they count from then on is known.
func (a *agent) noteCounters() {
	view := findings.View{Host: loader.ReadHost(loader.HostQuery{})}
	a.noteConntrack(&view)
	a.collecting.Lock()
	defer a.collecting.Unlock()
	a.metrics.SetState(&view.Host, nil)
}

// noteConntrack hands on what connection tracking has counted, unless the host's could not be read: the next time would look
// as if all of it had happened since.
func (a *agent) noteConntrack(view *findings.View) {
	if view.Host.ConntrackStats == nil {
		return
	}
	containers := make(map[string]loader.ConntrackStats, len(view.Containers))
	for id, n := range view.Containers {
		containers[id] = n.Conntrack
	}
	a.state.SetConntrackStats(*view.Host.ConntrackStats, containers)
}

// keptPorts are where the engine listens for nobody.
func keptPorts(listeners []loader.Listener) (kept []loader.Listener) {
	for _, l := range listeners {
		if findings.Keeps(l) {
			kept = append(kept, l)
		}
	}
	return kept
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

// unread is what could not be read of the state: findings that rest on it are not seen.
type unread []string

func (u *unread) problems() []string {
	if u == nil {
		return nil
	}
	return *u
}

// maxUnread is how many problems are told one by one.
const maxUnread = 5

// noteUnread keeps what could not be read, and says so in the log when that changes.
func (a *agent) noteUnread(problems unread) {
	if more := len(problems) - maxUnread; more > 0 { // most often all for the same reason
		problems = append(problems[:maxUnread:maxUnread], fmt.Sprintf("and %d more", more))
	}
	last := a.unread.Swap(&problems)
	if !slices.Equal(last.problems(), problems) && len(problems) > 0 {
		a.log.Warn("some state is unknown, and what is wrong with it not seen", "error", strings.Join(problems, "; "))
	}
}

// full tells whether a table has no room, or a moment ago had none: entries come and go by the thousand.
func full(t loader.Table) bool { return t.Limit > 0 && t.Entries >= t.Limit-t.Limit/50 }

// hostQuery asks for what the engine's containers make of interest, and for the ports that are published on all addresses: the
// routing mesh's are among those alone, and the engine keeps them. The folder of the containers' namespaces is remembered: what
// they leave there outlives the last of them.
func (a *agent) hostQuery(inventory *enrich.Inventory, endpoints []loader.NATEndpoint) (query loader.HostQuery) {
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		if c.SandboxKey != "" {
			a.sandboxes = filepath.Dir(c.SandboxKey)
		}
		for _, p := range c.Published {
			if p.Protocol == "tcp" {
				query.Ports = append(query.Ports, p.Host.Port())
			}
		}
	}
	for _, e := range endpoints {
		if e.Protocol == unix.IPPROTO_TCP && e.Address.IsUnspecified() && !slices.Contains(query.Ports, e.Port) {
			query.Ports = append(query.Ports, e.Port)
		}
	}
	for i := range inventory.Unstarted {
		if port := inventory.Unstarted[i].Port; port != 0 {
			query.Ports = append(query.Ports, port)
		}
	}
	query.SandboxFolder = a.sandboxes
	return query
}

// readNamespaces reads the counters of all containers' namespaces, and in turn what links are inside of them.
func (a *agent) readNamespaces(inventory *enrich.Inventory, problems *unread) map[string]loader.NetnsState {
	now := time.Now()
	a.enter(inventory, now, problems)
	states := make(map[string]loader.NetnsState, len(inventory.Containers))
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		if !c.OwnsNetns() {
			continue
		}
		state, err := a.procfs.ReadNetns(c.PID)
		if err != nil {
			if !errors.Is(err, loader.ErrNetnsGone) {
				*problems = append(*problems, fmt.Sprintf("container %s: %s", c.Name, err))
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
func (a *agent) enter(inventory *enrich.Inventory, now time.Time, problems *unread) {
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
			*problems = append(*problems, fmt.Sprintf("container %s: %s", c.Name, err))
		}
		inside[c.ID] = insideLinks{links, now}
		a.state.SetLinksInside(c.ID, links)
	}
	a.inside = inside
}
