// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// Config says how findings are kept.
type Config struct {
	Hold        time.Duration // how long a finding stays after its evidence has gone, so that it does not flap
	UnusedAfter time.Duration // how old a network must be to be called unused; 0: none is
	Ignore      []Ignore      // states that the operator accepts everywhere
	Observed    time.Duration // how long packets have been counted for at the last look; 0: for a Window or longer
}

// Change is the beginning or the end of a finding.
type Change struct {
	Finding
	Cleared bool
}

// Board holds the findings that stand. Its methods may be called concurrently.
type Board struct {
	config Config
	rules  []rule

	mu        sync.Mutex
	standing  map[key]*Finding
	waiting   map[key]time.Time // what holds, but not for long enough, and since when
	accepted  map[key]time.Time // what a label was last seen to accept
	evaluated time.Time
	raised    map[string]uint64 // by id, since the start
}

// key tells findings apart.
type key struct {
	id      string
	subject Subject
}

// NewBoard makes an empty one.
func NewBoard(config Config) *Board {
	return &Board{
		config: config, rules: rules(), standing: make(map[key]*Finding), raised: make(map[string]uint64),
		waiting: make(map[key]time.Time), accepted: make(map[key]time.Time),
	}
}

// Evaluate looks at a view, and returns what has begun and ended since the last one.
func (b *Board) Evaluate(view *View) []Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	view.Config = b.config
	b.evaluated = view.Now
	var changes []Change
	waiting, labels := make(map[key]time.Time), ignoreLabels(view)
	for i := range b.rules {
		r := &b.rules[i]
		for _, h := range r.find(view) {
			k := key{r.ID, h.subject}
			if b.ignored(labels, k, view.Now) || !b.lasts(r, k, view.Now, waiting) {
				continue
			}
			if f, begun := b.see(r, h, view.Now); begun {
				changes = append(changes, Change{Finding: *f})
			}
		}
	}
	b.waiting = waiting
	return append(changes, b.clear(view.Now)...)
}

// lasts tells whether a rule's condition has held for as long as it must. What has not is noted as waiting.
func (b *Board) lasts(r *rule, k key, now time.Time, waiting map[key]time.Time) bool {
	if r.after == 0 || b.standing[k] != nil {
		return true
	}
	since, known := b.waiting[k]
	if !known {
		since = now
	}
	waiting[k] = since
	return now.Sub(since) >= r.after
}

// see notes that a rule's condition holds for a subject.
func (b *Board) see(r *rule, h hit, now time.Time) (f *Finding, begun bool) {
	k := key{r.ID, h.subject}
	if f = b.standing[k]; f == nil {
		f = &Finding{
			ID: r.ID, Severity: r.Severity, Title: r.Title, Subject: h.subject, Since: now,
			Remedy: r.Remedy, Basis: r.Basis, Runbook: Runbook(r.ID),
		}
		b.standing[k] = f
		b.raised[r.ID]++
		begun = true
	}
	f.LastSeen = now
	f.Evidence = h.evidence
	f.Confirm = confirm(r, h)
	return f, begun
}

// clear takes away what has not held for long enough.
func (b *Board) clear(now time.Time) (changes []Change) {
	maps.DeleteFunc(b.accepted, func(_ key, seen time.Time) bool { return now.Sub(seen) >= 2*Window })
	for k, f := range b.standing {
		if f.LastSeen.Before(now) && now.Sub(f.LastSeen) >= b.config.Hold {
			delete(b.standing, k)
			changes = append(changes, Change{Finding: *f, Cleared: true})
		}
	}
	slices.SortFunc(changes, func(x, y Change) int { return compare(x.Finding, y.Finding) })
	return changes
}

// Standing returns all findings on show: those that hold, and those that held a moment ago. Gravest first.
func (b *Board) Standing() []Finding {
	return b.show(func(*Finding) bool { return true })
}

// Holding returns the findings whose evidence held when it was last looked at.
func (b *Board) Holding() []Finding {
	return b.show(func(f *Finding) bool { return !f.LastSeen.Before(b.evaluated) })
}

func (b *Board) show(wanted func(*Finding) bool) []Finding {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Finding, 0, len(b.standing))
	for _, f := range b.standing {
		if wanted(f) {
			all = append(all, *f)
		}
	}
	slices.SortFunc(all, compare)
	return all
}

// Evaluated returns when Evaluate was last called: zero if never.
func (b *Board) Evaluated() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.evaluated
}

// Raised returns how often each finding of the catalogue was raised since the start, by its ID.
func (b *Board) Raised() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	raised := make(map[string]uint64, len(b.rules))
	for i := range b.rules {
		raised[b.rules[i].ID] = b.raised[b.rules[i].ID]
	}
	return raised
}

func compare(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(slices.Index(Severities(), a.Severity), slices.Index(Severities(), b.Severity)),
		strings.Compare(a.ID, b.ID),
		compareSubjects(a.Subject, b.Subject),
	)
}

func compareSubjects(a, b Subject) int {
	return cmp.Or(
		strings.Compare(a.Stack, b.Stack),
		strings.Compare(a.Service, b.Service),
		strings.Compare(a.Container, b.Container),
		strings.Compare(a.Network, b.Network),
		strings.Compare(string(a.Scope), string(b.Scope)),
		strings.Compare(a.Object, b.Object),
	)
}

// confirm is a rule's command for a hit. Where it must look into the namespace of a container, it enters that first.
func confirm(r *rule, h hit) string {
	command := orElse(h.confirm, r.Confirm)
	if r.inside && h.subject.Scope == enrich.ScopeContainer {
		command = "nsenter -t $(docker inspect -f '{{.State.Pid}}' {container}) -n " + command
	}
	values := map[string]string{
		"container": orElse(h.subject.Container, "CONTAINER"), "network": orElse(h.subject.Network, "NETWORK"), "object": h.subject.Object,
	}
	maps.Copy(values, h.fill) // which knows a container by the engine's name
	pairs := make([]string, 0, 2*len(values))
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", quote(value))
	}
	return strings.NewReplacer(pairs...).Replace(command)
}

// harmless is what a shell takes as it is.
var harmless = regexp.MustCompile(`^[A-Za-z0-9_.:/@%+=,~-]+$`)

// quote makes one word of a value for a shell. Whoever is root in a container names its devices, and anybody who may talk
// to the engine names networks; an operator is to run the command.
func quote(value string) string {
	if harmless.MatchString(value) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
