// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

// overlays wires the overlay signal, and what is seen inside of overlay networks. A node that is in no Swarm has none of them.
type overlays struct {
	overlay *loader.Overlays // nil: it does not run
	misses  *loader.Misses   // nil: nobody hears of what VXLAN devices miss
	refused error            // why nobody hears of them

	swarming  sync.Mutex                      // held while uplinks and ports are set: an older view must not overtake a newer one
	unwatched string                          // watchSwarm's own: what was wrong last time
	counts    atomic.Bool                     // uplinks have been watched
	lookNow   chan struct{}                   // asks watchOverlays to look now
	unentered string                          // watchOverlays' own: what was wrong last time
	cluster   atomic.Pointer[exporters.Swarm] // nil: this node is in none
}

// openOverlays starts the overlay signal, which watches no device until this node is in a Swarm.
func (a *agent) openOverlays() {
	a.overlays = &overlays{lookNow: make(chan struct{}, 1)}
	var err error
	a.overlay, err = loader.OpenOverlay(loader.OverlayConfig{})
	a.signal("overlay", err)
	a.misses, a.refused = loader.OpenMisses()
}

// runOverlays follows the Swarm until ctx ends.
func (a *agent) runOverlays(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return every(ctx, unwatchedPeriod, always(a.watchSwarm)) })
	group.Go(func() error { return a.followOverlays(ctx) })
	if a.misses != nil {
		group.Go(func() error { return a.misses.Run(ctx) })
	}
}

// unheard says why what VXLAN devices miss is not heard of; nil: it is.
func (o *overlays) unheard() error {
	if o.misses == nil {
		return o.refused
	}
	return o.misses.Err()
}

// inSwarm tells whether this node is in a Swarm, as far as Docker has said.
func (a *agent) inSwarm() bool { return a.state.Node().Role != "" }

// watchSwarm counts what this node and others of its Swarm send each other, at the links that lead out of this host.
func (a *agent) watchSwarm() {
	if a.overlay == nil {
		return
	}
	a.swarming.Lock()
	defer a.swarming.Unlock()
	devices, ports := a.state.OverlayUplinks()
	if len(devices) > 0 {
		a.counts.Store(true)
	}
	err := errors.Join(a.overlay.SetPorts(ports), a.overlay.SetDevices(devices))
	if a.drops != nil {
		err = errors.Join(err, a.drops.SetVXLANPort(ports.Data))
	}
	if warnAnew(&a.overlays.unwatched, err) {
		a.log.Warn("not all that nodes of the swarm send each other is counted", "error", a.overlays.unwatched)
	}
}

// followOverlays looks at overlay networks every so often, and when it is asked to, until ctx ends.
func (a *agent) followOverlays(ctx context.Context) error {
	ticker := time.NewTicker(unwatchedPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-a.lookNow:
		}
		a.watchOverlays(ctx)
	}
}

// lookAtOverlays has it done soon, and does not wait: with many containers it takes long.
func (a *agent) lookAtOverlays() {
	select {
	case a.lookNow <- struct{}{}:
	default: // asked already
	}
}

// watchOverlays watches the containers on overlay networks, whose devices lead into namespaces of the engine's own. It finds
// those that were there before, and what no event told of.
func (a *agent) watchOverlays(ctx context.Context) {
	if a.flows == nil || !a.inSwarm() {
		return
	}
	sandboxes, _ := loader.ListSandboxes(a.state.SandboxFolder()) // what is wrong with that judge says
	var errs []error
	for _, s := range sandboxes {
		if s.Kind != loader.SandboxOverlay {
			continue
		}
		devices, err := a.flows.WatchOverlay(ctx, s.Path, a.state.Encrypted(s.Network))
		if err != nil && !errors.Is(err, loader.ErrNetnsGone) {
			errs = append(errs, fmt.Errorf("network %s: %w", s.Network, err))
		}
		if len(devices) > 0 {
			a.state.OverlayDevices(s.Path, devices)
		}
	}
	if warnAnew(&a.overlays.unentered, errors.Join(errs...)) {
		a.log.Warn("not all containers on overlay networks are watched", "error", a.overlays.unentered)
	}
	a.readLegs()
}

// warnAnew tells whether there is something wrong that was not the last time, and remembers it: what lasts is told once.
func warnAnew(last *string, err error) bool {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	changed := problem != *last
	*last = problem
	return changed && problem != ""
}

// readLegs reads the links of containers that are new on overlay networks: they tell whose the devices are.
func (a *agent) readLegs() {
	for id, path := range a.state.UnknownLegs() {
		if links, err := loader.LinksInside(path); err == nil { // else judge says what is wrong
			a.state.SetLinksInside(id, links)
		}
	}
}

// readSandboxes reads what is in the namespaces of overlay networks, of load balancers and of the routing mesh.
func (a *agent) readSandboxes(problems *unread) {
	var states []loader.SandboxState
	if a.inSwarm() {
		if err := a.unheard(); err != nil {
			*problems = append(*problems, err.Error())
		}
		states = listSandboxes(a.state.SandboxFolder(), problems)
	}
	a.state.SetSandboxes(states)
}

func listSandboxes(folder string, problems *unread) (states []loader.SandboxState) {
	listed, err := loader.ListSandboxes(folder)
	if err != nil {
		*problems = append(*problems, err.Error())
	}
	connections := loader.MaxIPVSConnections
	for _, s := range listed {
		if s.Kind == loader.SandboxContainer || s.Kind == loader.SandboxHost {
			continue
		}
		state, err := loader.ReadSandbox(s, &connections)
		if errors.Is(err, loader.ErrNetnsGone) {
			continue
		}
		for _, err := range append(state.Errors, err) {
			if err != nil {
				*problems = append(*problems, fmt.Sprintf("namespace %s: %s", filepath.Base(s.Path), err))
			}
		}
		if err == nil {
			states = append(states, state)
		}
	}
	return states
}

// showCluster has all series exist that what is counted next may be of. collecting is held.
func (a *agent) showCluster() {
	cluster := a.state.Cluster()
	a.metrics.SetCluster(&cluster)
	a.cluster.Store(newSwarm(&cluster))
}

func newSwarm(cluster *enrich.Cluster) *exporters.Swarm {
	if !cluster.Self.IsValid() {
		return nil
	}
	return &exporters.Swarm{Address: cluster.Self.String(), Peers: len(cluster.Peers)}
}

// countOverlays takes what the signal has read all the way to the series. It comes after flows, which it needs. collecting is
// held.
func (a *agent) countOverlays(traffic []loader.OverlayTraffic, now time.Time) {
	var misses []loader.Miss
	if a.misses != nil {
		misses = a.misses.Read()
	}
	overlay := a.state.AttributeOverlay(traffic, misses)
	a.metrics.AddOverlay(overlay)
	a.recent.AddOverlay(overlay, now)
}

// missLosses are those of what is heard of misses. They are of the overlay signal, whose own have the same names.
func (o *overlays) missLosses() (losses []exporters.SignalLoss) {
	if o.misses == nil {
		return nil
	}
	for _, loss := range o.misses.Losses() {
		losses = append(losses, exporters.SignalLoss{Signal: "overlay", Place: "misses_" + loss.Place, Count: loss.Count})
	}
	return losses
}

func (o *overlays) close() error {
	var errs []error
	if o.overlay != nil {
		errs = append(errs, o.overlay.Close())
	}
	if o.misses != nil {
		errs = append(errs, o.misses.Close())
	}
	return errors.Join(errs...)
}
