// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// conntrackTrouble is what a namespace's connection tracking had trouble with of late, by when its counters last rose.
type conntrackTrouble struct {
	last    loader.ConntrackStats
	failed  time.Time // a new connection could not be entered
	invalid time.Time // a packet fitted into no connection
}

// next is what it is when the counters have been read again.
func (t conntrackTrouble) next(stats loader.ConntrackStats, now time.Time) conntrackTrouble {
	if stats.InsertFailed > t.last.InsertFailed {
		t.failed = now
	}
	if stats.Invalid > t.last.Invalid {
		t.invalid = now
	}
	t.last = stats
	return t
}

// SetConntrackStats takes in what connection tracking has counted since its beginning, in the host's namespace and in those
// of containers, by their ID: what it lost is told from what rules drop by the counters that rise meanwhile. It is to be
// called every few seconds, before the drops of that time are attributed.
func (s *State) SetConntrackStats(host loader.ConntrackStats, containers map[string]loader.ConntrackStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	s.counted++
	before := s.conntrack
	s.conntrack = make(map[string]conntrackTrouble, len(containers)+1)
	take := func(id string, stats loader.ConntrackStats) {
		trouble, known := before[id]
		if !known { // what it counted up to now may be long ago
			trouble.last = stats
		}
		s.conntrack[id] = trouble.next(stats, now)
	}
	take(hostConntrack, host)
	for id, stats := range containers {
		take(id, stats)
	}
}

// hostConntrack is in place of a container's ID for the host's own namespace.
const hostConntrack = ""

// troubleHere is what connection tracking had trouble with where the drop happened. Nothing is known of namespaces that are
// nobody's.
func (s *scene) troubleHere() conntrackTrouble {
	switch {
	case s.onHost():
		return s.conntrack[hostConntrack]
	case s.owner != nil:
		return s.conntrack[s.owner.ID]
	}
	return conntrackTrouble{}
}

func (s *scene) failedOfLate() bool  { return s.isRecent(s.troubleHere().failed) }
func (s *scene) invalidOfLate() bool { return s.isRecent(s.troubleHere().invalid) }

func (s *scene) isRecent(t time.Time) bool { return !t.IsZero() && s.config.Now().Sub(t) <= recently }
