// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Records may be read before it is known whose they are: a container's first packets come before the engine has said its
// name. They wait this long, and no more of them than that. With a reading every five seconds, a little early or late, it
// costs one of them.
const (
	patience   = 4 * time.Second
	maxPending = 65536
)

// pending is what waits for its owner.
type pending struct {
	flows []waiting[loader.Flow]
	drops []waiting[loader.Drop]
	nat   natPending
}

type waiting[R any] struct {
	record R
	since  time.Time
}

// Attribute takes what was read and returns what is now known whose it is, or has waited in vain: that has ScopeUnknown or
// no name.
func (s *State) Attribute(flows []loader.Flow, drops []loader.Drop) ([]Flow, []Drop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	if now.Sub(s.swept) >= keep {
		s.sweep()
		s.swept = now
	}
	var outFlows []Flow
	var outDrops []Drop
	s.pending.flows, outFlows = settle(s.pending.flows, flows, now, s.attributeFlow)
	s.pending.drops, outDrops = settle(s.pending.drops, drops, now, s.attributeDrop)
	return outFlows, outDrops
}

// settle tries the old and the new records, and returns those that go on waiting and those that are done.
func settle[R, E any](old []waiting[R], records []R, now time.Time, attribute func(R) (E, bool)) ([]waiting[R], []E) {
	for _, r := range records {
		old = append(old, waiting[R]{record: r, since: now})
	}
	done := make([]E, 0, len(old))
	wait := old[:0]
	for _, w := range old {
		enriched, final := attribute(w.record)
		if final || now.Sub(w.since) >= patience || len(wait) >= maxPending {
			done = append(done, enriched)
			continue
		}
		wait = append(wait, w)
	}
	return wait, done
}
