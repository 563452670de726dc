// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// How long findings take: to appear once there is evidence, and to go once it is gone (the last minute's counts, what
// the agent is told to hold them for, and a moment).
const (
	appears = 15*time.Second + 5*time.Second // that much is a busy machine's, on which several labs run
	hold    = 15 * time.Second
	clears  = time.Minute + hold + 15*time.Second
)

// expected is a finding that a case must raise.
type expected struct {
	id        string
	container string // whose
	orNobody  bool   // or nobody's: not every kernel tells
	by        time.Time
	name      string // of the case
}

// fewPackets are too few for a finding.
const fewPackets = 10

// expectedFindings are those of all cases that lost enough.
func expectedFindings(table []outcome) []expected {
	var all []expected
	for _, o := range table {
		if o.nobodys || o.truth < fewPackets || o.kind != "fault" && o.kind != "policy" {
			continue
		}
		e := expected{o.cause, o.container, o.orNobody, o.ended.Add(appears), o.name}
		if o.cause == "ip-forward-off" {
			e.container = "" // it concerns the whole host
		}
		all = append(all, e)
	}
	return all
}

// requireFindings holds what was found against what must have been: each in time, no other, and all gone in the end.
func requireFindings(t *testing.T, found *lab.Findings, want []expected) {
	t.Helper()
	seen := found.Seen()
	for _, w := range want {
		span, ok := w.in(seen)
		switch {
		case !ok:
			t.Errorf("%s: finding %s of %q was not raised", w.name, w.id, w.container)
		case span.First.After(w.by):
			t.Errorf("%s: finding %s of %q came %s too late", w.name, w.id, w.container, span.First.Sub(w.by))
		}
	}
	for f := range seen {
		if !anyOf(want, f) && f.ID != "mtu-mismatch" { // how the cases of MTUs look, if they look for long enough
			t.Errorf("a finding that no case made: %+v", f)
		}
	}
	lab.Eventually(t, clears, "all findings to clear", func() bool { return len(found.Standing()) == 0 })
}

func (w expected) in(seen map[lab.Finding]lab.Span) (span lab.Span, ok bool) {
	for f, s := range seen {
		if w.is(f) && (!ok || s.First.Before(span.First)) {
			span, ok = s, true
		}
	}
	return span, ok
}

func (w expected) is(f lab.Finding) bool {
	return f.ID == w.id && (f.Container == w.container || w.orNobody && f.Container == "")
}

func anyOf(want []expected, f lab.Finding) bool {
	for _, w := range want {
		if w.is(f) {
			return true
		}
	}
	return false
}
