// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
	"github.com/bridgewatch/bridgewatch/loader"
)

const (
	endpointsPeriod = time.Second // between looks at which ports are published
	sourcesPeriod   = time.Second // between looks at what is not seen
	trackPeriod     = 30 * time.Second
	// trackShare is how much of the time at most goes into listing the tracked connections: one part in so many.
	trackShare = 200
)

// translations wires the nat signal. Each of its sources may be missing.
type translations struct {
	nat      *loader.NAT
	rulesets *loader.Rulesets
	table    *enrich.NATTable

	setting   sync.Mutex           // held while endpoints are set: an older view must not overtake a newer one
	endpoints []loader.NATEndpoint // those set last
	unset     string               // what was wrong with them last time
	unseen    string               // watchSources' own: what was not seen last time

	tracking     atomic.Pointer[listing] // nil: not listed yet
	tracked      time.Time               // judge's own: when to list next
	rulesChanged time.Time               // judge's own: when the host's rules were last seen to change
	// rulesChangedBy is judge's own: the process that did so, and its parent's name where that is known.
	rulesChangedBy string
	owners         loader.SocketOwners // judge's own
}

// listing is what the host's tracked connections meant when they were listed last. One that failed tells only of some, or of
// none: what was tracked before that is over for all that is known.
type listing struct {
	enrich.Tracking
	at  time.Time
	err error
}

// openTranslations starts the nat signal, which counts nothing that was there before.
func (a *agent) openTranslations(config *runCommand) {
	a.translations = &translations{table: enrich.NewNATTable(config.NATTable), owners: loader.SocketOwners{Procfs: a.procfs}}
	var err error
	a.nat, err = loader.OpenNAT(loader.NATConfig{})
	a.signal("nat", err)
	a.watchSources()
	a.rulesets, err = loader.OpenRulesets(a.procfs)
	a.signal("ruleset", err)
}

// noteExisting makes known what the namespaces of these processes track already.
func (a *agent) noteExisting(processes []loader.Process, host loader.Netns) {
	if a.nat == nil {
		return
	}
	seen := map[loader.Netns]bool{host: true}
	var paths []string
	for _, p := range processes {
		if !seen[p.Netns] {
			seen[p.Netns] = true
			paths = append(paths, a.procfs.NetnsPath(p.PID))
		}
	}
	if err := a.nat.Known(paths...); err != nil {
		a.log.Warn("what is tracked already may be counted as new", "error", err)
	}
}

// runTranslations follows the sources until ctx ends.
func (a *agent) runTranslations(ctx context.Context, group *errgroup.Group) {
	if a.nat != nil {
		group.Go(func() error {
			a.nat.Run(ctx)
			return nil
		})
		group.Go(func() error { return every(ctx, endpointsPeriod, always(a.watchPublished)) })
		group.Go(func() error { return every(ctx, sourcesPeriod, always(a.watchSources)) })
	}
	if a.rulesets != nil {
		group.Go(func() error {
			if err := a.rulesets.Run(ctx); err != nil {
				a.log.Warn("changes of firewall rules are no longer seen", "error", err)
			}
			return nil
		})
	}
}

// watchSources says what is not seen, when that changes: by then the kernel may have begun to track connections.
func (a *agent) watchSources() {
	if a.nat == nil {
		return
	}
	problem := ""
	if err := a.nat.Incomplete(); err != nil {
		problem = err.Error()
	}
	if problem != a.unseen && problem != "" {
		a.log.Warn("not all translations are seen", "error", problem)
	}
	a.unseen = problem
}

// watchPublished tells the signal which ports are published, when that changes.
func (a *agent) watchPublished() {
	if a.nat == nil {
		return
	}
	a.setting.Lock()
	defer a.setting.Unlock()
	endpoints := a.state.NATEndpoints()
	if slices.Equal(endpoints, a.endpoints) && a.unset == "" {
		return
	}
	a.endpoints = endpoints
	problem := ""
	if err := a.nat.SetEndpoints(endpoints); err != nil {
		problem = err.Error()
	}
	if problem != a.unset && problem != "" {
		a.log.Warn("not all published ports are watched", "error", problem)
	}
	a.unset = problem
}

// countTranslations takes what the signal has read all the way to the series. collecting is held.
func (a *agent) countTranslations(news loader.NATNews, now time.Time) {
	nat := a.state.AttributeNAT(news)
	a.metrics.AddNAT(nat)
	a.table.Add(nat)
	a.recent.AddNAT(nat, now)
}

// lister visits tracked connections.
type lister = func(visit func(*loader.Tracked)) error

// track lists the host's tracked connections, if it is time. What is wrong with that stays so until the next time.
func (a *agent) track(problems *unread, translated, passing lister) {
	if begun := time.Now(); !begun.Before(a.tracked) {
		tracking, err := a.state.Track(translated, passing)
		a.tracking.Store(&listing{tracking, begun, err})
		a.tracked = begun.Add(max(trackPeriod, trackShare*time.Since(begun)))
	}
	if last := a.tracking.Load(); last.err != nil {
		*problems = append(*problems, last.err.Error())
	}
}

// lastTracking is what track found last.
func (a *agent) lastTracking() enrich.Tracking {
	if last := a.tracking.Load(); last != nil {
		return last.Tracking
	}
	return enrich.Tracking{}
}

// readRulesets returns what changed in anybody's firewall rules since the last time.
func (a *agent) readRulesets() []loader.RulesetChange {
	if a.rulesets == nil {
		return nil
	}
	changes := a.rulesets.Read()
	for _, c := range changes {
		if c.NetnsID < 0 && c.At.After(a.rulesChanged) {
			a.rulesChanged, a.rulesChangedBy = c.At, c.Process
			if c.Parent != "" {
				a.rulesChangedBy += ", of " + c.Parent
			}
		}
	}
	return changes
}

// answerNAT says what is known of translated connections. What was read a moment ago may still wait for its owner.
func (a *agent) answerNAT(question api.NATQuestion) api.NAT {
	a.settle()
	answer := api.NAT{Now: time.Now()}
	for _, s := range a.signals {
		if s.Name == "nat" {
			answer.Started, answer.Off = s.Since, s.Reason
		}
	}
	if a.nat != nil {
		if err := a.nat.Incomplete(); err != nil {
			answer.Incomplete = err.Error()
		}
	}
	if question.Egress {
		a.answerEgress(&answer, question)
	} else {
		question.Choose(&answer, a.table)
	}
	return answer
}

// answerEgress says under which addresses containers appeared when that was last looked at, nothing if it was not yet.
func (a *agent) answerEgress(answer *api.NAT, question api.NATQuestion) {
	last := a.tracking.Load()
	if last == nil {
		return
	}
	question.ChooseEgress(answer, &last.Tracking, last.at)
	if last.err != nil {
		answer.Egress.Incomplete = last.err.Error()
	}
}

func (t *translations) close() error {
	var errs []error
	if t.nat != nil {
		errs = append(errs, t.nat.Close())
	}
	if t.rulesets != nil {
		errs = append(errs, t.rulesets.Close())
	}
	return errors.Join(errs...)
}
