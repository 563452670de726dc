// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// TestRecentCourse: a good answer ends a fault, but for one that comes back.
func TestRecentCourse(t *testing.T) {
	const took = 8 * time.Second
	good := func(second int) enrich.Lookup { return lookup(enrich.ResolverEmbedded, "127.0.0.11", second) }
	fail := func(second int) enrich.Lookup { return coded(good(second), "SERVFAIL", 2*time.Millisecond) }
	late := func(second int) enrich.Lookup { return coded(good(second), "SERVFAIL", took) }
	own := good(40)
	own.Answerers = []enrich.Answerer{{Address: addr("172.20.0.3")}}
	pointer := fail(40)
	pointer.QType = reverse
	var beside []enrich.Lookup
	for second := 20; second < 45; second += 5 {
		beside = append(beside, good(second), fail(second), good(second+1))
	}
	for _, tc := range []struct {
		name     string
		lookups  []enrich.Lookup
		relapses uint64
		over     bool
	}{
		{"only failures", []enrich.Lookup{fail(30), fail(31)}, 0, false},
		{"a good answer before", []enrich.Lookup{good(29), fail(30), fail(31)}, 1, false},
		{"a good answer since", []enrich.Lookup{good(29), fail(30), fail(31), good(32)}, 1, true},
		{"a name of Docker's since", []enrich.Lookup{fail(30), own}, 0, false},
		{"another failure since", []enrich.Lookup{fail(30), good(32), fail(33)}, 1, false},
		{"an address without a name since", []enrich.Lookup{fail(30), good(32), pointer}, 0, true},
		{"failures told later of what was asked before", []enrich.Lookup{fail(30), good(34), late(31), late(32)}, 0, true},
		{"failures told later of what was asked after", []enrich.Lookup{fail(30), good(31), late(32)}, 1, false},
		{"failures beside good answers", beside, 5, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecent()
			addLookups(r, 45, tc.lookups...)
			v := filled(r, 46)
			if l := &v.DNS.Legs[0]; l.Relapses != tc.relapses || v.isOver(l) != tc.over {
				t.Errorf("%d relapses, over %v; want %d, %v", l.Relapses, v.isOver(l), tc.relapses, tc.over)
			}
		})
	}
}

// TestServerIsGone: newer engines answer SERVFAIL at once where a server's host says that there is none. That nobody has answered
// the engine is told of later, and is the reason.
func TestServerIsGone(t *testing.T) {
	const lookups, toldAfter = 10, 6
	r, board := NewRecent(), NewBoard(Config{Hold: time.Minute, UnusedAfter: time.Hour})
	raised := map[string]bool{}
	addLookups(r, 0, lookup(enrich.ResolverEmbedded, "127.0.0.11", 0), lookup(enrich.ResolverUpstream, "192.0.2.53", 0))
	for second := 1; second < 40; second++ {
		if second <= lookups {
			asked := coded(lookup(enrich.ResolverEmbedded, "127.0.0.11", second), "SERVFAIL", time.Millisecond)
			asked.Question.Name, asked.Forwarded = fmt.Sprintf("%d.example", second), true
			addLookups(r, second, asked)
		}
		if asked := second - toldAfter; asked > 0 && asked <= lookups {
			addLookups(r, second, unansweredAt(enrich.ResolverUpstream, "192.0.2.53", asked))
		}
		if second%5 == 4 {
			view := filled(r, second)
			board.Evaluate(&view)
			for _, f := range board.Standing() {
				raised[f.ID] = true
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"upstream-blocked": true}, raised); diff != "" {
		t.Errorf("raised (-want +got):\n%s", diff)
	}
}
