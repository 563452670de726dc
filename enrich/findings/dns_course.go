// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// goingOn is for how long failures beside good answers count as going on after the latest.
const goingOn = 15 * time.Second

// course is how failures and good answers follow each other on a leg. A good answer ends a fault, unless that comes back.
type course struct {
	good     time.Time // when the latest good answer came
	failed   time.Time // until when the latest failure is known to have been one
	relapses slotted   // how often one followed a good answer
}

// add takes in an answer. One that took its time tells of when it was asked for: its server may be well by now. Docker's own names
// tell nothing of servers, and addresses without a name nothing of failures.
func (c *course) add(l *enrich.Lookup, now time.Time) {
	switch {
	case !l.Failed():
		if len(l.Answerers) == 0 && l.Answered.After(c.good) {
			c.good = l.Answered
		}
	case (l.RCode == servFail || l.RCode == refused) && l.QType != reverse:
		at := l.Answered
		if l.Duration() >= prompt {
			at = l.Asked()
		}
		if at.Before(c.good) || !at.After(c.failed) {
			return
		}
		if !c.good.IsZero() && !c.failed.After(c.good) {
			c.relapses.add(now, 1)
		}
		c.failed = at
	}
}

// isOver tells whether a leg's failures are: a good answer came after the latest, and they do not go on beside such.
func (v *View) isOver(l *Leg) bool {
	return l.Good.After(l.LastFail) && (!v.enough(l.Relapses, fails) || v.Now.Sub(l.LastFail) >= goingOn)
}
