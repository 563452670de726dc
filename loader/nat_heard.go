// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"time"
)

const (
	// lateRecord is how long after its event the first packet of a connection may get to a device: the kernel gives a neighbour
	// three seconds to say where it is, and then drops what waits for that.
	lateRecord = 5 * time.Second
	// silence is after what time without a new connection it is not known any more whether a namespace's events come: somebody
	// may have switched them off. No TCP sends its first packet again for longer than this.
	silence = 130 * time.Second
	// heardLimit bounds of how many namespaces it is known.
	heardLimit = 1 << 12
)

// heard knows of which namespaces all events come. There a record without an event is of a connection that has been told:
// one whose first packet is sent again after the program had to forget it for newer ones.
type heard struct {
	from   map[Netns]hearing
	missed time.Time // when some last got lost
}

// hearing says when events of a namespace began to come, and when the latest did.
type hearing struct{ since, last time.Time }

// hear takes note of an event of a namespace.
func (h *heard) hear(from Netns, now time.Time) {
	if from == 0 {
		return
	}
	at, known := h.from[from]
	if !known && len(h.from) >= heardLimit {
		maps.DeleteFunc(h.from, func(_ Netns, at hearing) bool { return now.Sub(at.last) > silence })
		if len(h.from) >= heardLimit {
			return
		}
	}
	if now.Sub(at.last) > silence {
		at.since = now
	}
	if h.from == nil {
		h.from = make(map[Netns]hearing)
	}
	at.last = now
	h.from[from] = at
}

// miss takes note that events got lost, nobody knows of which namespace.
func (h *heard) miss(now time.Time) { h.missed = now }

// all tells whether the event of every connection of a namespace has come whose record comes now.
func (h *heard) all(of Netns, now time.Time) bool {
	at, known := h.from[of]
	return known && now.Sub(at.last) <= silence && now.Sub(at.since) > lateRecord && now.Sub(h.missed) > lateRecord
}
