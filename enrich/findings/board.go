// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says how findings are kept.
type Config struct {
	Hold        time.Duration // how long a finding stays after its evidence has gone, so that it does not flap
	UnusedAfter time.Duration // how old a network must be to be called unused
	Ignore      []Ignore      // states that the operator accepts everywhere
	RunbookBase string        // address that a runbook's name is appended to
}

// DefaultHold is how long a finding stays on show at least.
const DefaultHold = 2 * time.Minute

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
	return &Board{config: config, rules: rules(), standing: make(map[key]*Finding), raised: make(map[string]uint64)}
}

// Evaluate looks at a view, and returns what has begun and ended since the last one.
func (b *Board) Evaluate(view *View) []Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	view.Config = b.config
	b.evaluated = view.Now
	var changes []Change
	for i := range b.rules {
		r := &b.rules[i]
		for _, h := range r.find(view) {
			if b.ignored(view, r.ID, h.subject) {
				continue
			}
			if f, begun := b.see(r, h, view.Now); begun {
				changes = append(changes, Change{Finding: *f})
			}
		}
	}
	return append(changes, b.clear(view.Now)...)
}

// see notes that a rule's condition holds for a subject.
func (b *Board) see(r *rule, h hit, now time.Time) (f *Finding, begun bool) {
	k := key{r.ID, h.subject}
	if f = b.standing[k]; f == nil {
		f = &Finding{
			ID: r.ID, Severity: r.Severity, Title: r.Title, Subject: h.subject, Since: now,
			Remedy: r.Remedy, Basis: r.Basis, Runbook: b.config.RunbookBase + r.ID + ".md",
		}
		b.standing[k] = f
		b.raised[r.ID]++
		begun = true
	}
	f.LastSeen = now
	f.Evidence = h.evidence
	f.Confirm = fill(r.Confirm, h)
	return f, begun
}

// clear takes away what has not held for long enough.
func (b *Board) clear(now time.Time) (changes []Change) {
	for k, f := range b.standing {
		if now.Sub(f.LastSeen) >= b.config.Hold {
			delete(b.standing, k)
			changes = append(changes, Change{Finding: *f, Cleared: true})
		}
	}
	return changes
}

// Standing returns all findings on show: those that hold, and those that held a moment ago. Gravest first.
func (b *Board) Standing() []Finding {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Finding, 0, len(b.standing))
	for _, f := range b.standing {
		all = append(all, *f)
	}
	slices.SortFunc(all, compare)
	return all
}

// Holding returns the findings whose evidence held when it was last looked at.
func (b *Board) Holding() []Finding {
	all := b.Standing()
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(all, func(f Finding) bool { return f.LastSeen.Before(b.evaluated) })
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
		strings.Compare(a.Subject.Stack, b.Subject.Stack),
		strings.Compare(a.Subject.Service, b.Subject.Service),
		strings.Compare(a.Subject.Container, b.Subject.Container),
		strings.Compare(a.Subject.Network, b.Subject.Network),
		strings.Compare(a.Subject.Object, b.Subject.Object),
	)
}

// fill puts the subject into a command.
func fill(command string, h hit) string {
	pairs := []string{"{container}", h.subject.Container, "{network}", h.subject.Network, "{object}", h.subject.Object}
	for name, value := range h.fill {
		pairs = append(pairs, "{"+name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(command)
}
