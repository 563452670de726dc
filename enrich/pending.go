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

// What connection tracking counts tells why some packets were lost. Its counters may have been read just before a loss, or
// be read at that moment: only the second time after it tells for sure. On a busy host readings take their time.
const (
	countings     = 2
	countPatience = 4 * patience
)

// pending is what waits for its owner.
type pending struct {
	flows []waiting[loader.Flow]
	drops []waiting[*lostPacket]
	nat   natPending
	dns   dnsPending
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
	s.pending.flows, outFlows = settle(s.pending.flows, s.putAside(flows, now), now, s.settleFlow)
	s.pending.drops, outDrops = settle(s.pending.drops, newLost(drops), now, s.settleDrop)
	return outFlows, outDrops
}

func (s *State) settleFlow(f loader.Flow, waited time.Duration) (Flow, bool) {
	flow, final := s.attributeFlow(f)
	return flow, final || waited >= patience
}

func (s *State) settleDrop(lost *lostPacket, waited time.Duration) (Drop, bool) {
	drop, final := s.attributeDrop(lost)
	if lost.awaitsCount {
		return drop, waited >= countPatience
	}
	return drop, final || waited >= patience
}

// settle tries the old and the new records, and returns those that go on waiting and those that are done.
func settle[R, E any](old []waiting[R], records []R, now time.Time, attribute func(r R, waited time.Duration) (E, bool)) ([]waiting[R], []E) {
	for _, r := range records {
		old = append(old, waiting[R]{record: r, since: now})
	}
	done := make([]E, 0, len(old))
	wait := old[:0]
	for _, w := range old {
		enriched, final := attribute(w.record, now.Sub(w.since))
		if final || len(wait) >= maxPending {
			done = append(done, enriched)
			continue
		}
		wait = append(wait, w)
	}
	return wait, done
}
