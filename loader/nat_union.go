// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"hash/maphash"
	"time"
)

const (
	// packetDelay is how long an event waits for the first packet to get to a device, which says more of the connection. On an
	// idle host that takes microseconds, and longer where the other end of a link is looked for.
	packetDelay = 100 * time.Millisecond
	// latePacket is for how long at least a connection is remembered that was told without its packet. One that waits for a
	// neighbour takes seconds, and one that is not answered is in the kernel's table for no longer than this.
	latePacket = 10 * time.Minute
	// lateEvent is for how long at least one is remembered that was told without its event: another packet of it could leave
	// by another processor while its event is being sent.
	lateEvent = 2 * time.Second
	// gatherLimit is how many of each source are taken at once. What is in the kernel's buffers is mostly less.
	gatherLimit = 1 << 16
	// rememberedLimit bounds each of the two halves of what is remembered, of about 1.5 MiB.
	rememberedLimit = 1 << 16
)

// natUnion makes one of what the program's records and the events tell of the same connections, since each of them misses
// what the other sees: the program what never gets to a device, the events what found no room in the socket's buffer, and
// the namespaces that the host's has no number for.
//
// A record and an event that have the same tuples are of one connection. Only their number counts, so it does not matter
// that the same tuples are used again soon, or at the same time in another namespace.
//
// A record alone is of a new connection, or of one that the program had told and forgotten. It is taken for the second where
// the events of the namespace are known to come: a new one would have its own.
type natUnion struct {
	news NATNews

	seed maphash.Seed
	now  time.Time

	records unmatched    // without an event yet; empty once all events are read
	answers []NATEvent   // likewise
	events  [2]unmatched // without a record yet: those of late, and those before them
	last    [2]time.Time // when the newest of each came

	known remembered // events told without a record, and what was there before the start
	alone remembered // records told without an event
	heard heard
}

// reading says how a source was read.
type reading struct {
	more   bool // not all that is there was taken
	missed bool // some have got lost since the last time
}

func newNATUnion() *natUnion {
	return &natUnion{
		seed:  maphash.MakeSeed(),
		known: remembered{period: latePacket, limit: rememberedLimit},
		alone: remembered{period: lateEvent, limit: rememberedLimit},
	}
}

// existing remembers a connection that is not new.
func (u *natUnion) existing(t *Tracked) { u.known.add(u.key(t), time.Now()) }

// unite takes the records that there are, then the events. The kernel sends an event before the packet gets to a device, so
// a record that finds no event has none once all are read. Without records, nil, no event waits for one.
func (u *natUnion) unite(now time.Time, records func(func(natRecord)) error, events func(func(NATEvent)) (reading, error)) error {
	u.now = now
	var errs []error
	if records != nil && len(u.records.entries)+len(u.answers) < gatherLimit {
		errs = append(errs, records(u.record))
	}
	u.tellEvents()
	var read reading
	if events != nil {
		var err error
		if read, err = events(u.event); read.missed || err != nil {
			u.heard.miss(now)
		}
		errs = append(errs, err)
	}
	if records == nil {
		u.tell(&u.events[0])
	}
	if !read.more {
		u.tellRecords()
		u.tellAnswers()
	}
	return errors.Join(errs...)
}

// key is made of the tuples and the protocol alone: where it was is not always known. Two connections that have the same by
// chance are not to be expected in the life of a host.
func (u *natUnion) key(t *Tracked) uint64 {
	return maphash.Comparable(u.seed, struct {
		original, reply Tuple
		protocol        uint8
	}{t.Original, t.Reply, t.Protocol})
}

func (u *natUnion) record(r natRecord) {
	if r.answered {
		u.answers = append(u.answers, r.NATEvent)
		return
	}
	key := u.key(&r.Tracked)
	for i := range u.events {
		if event, ok := u.events[i].take(key); ok {
			u.join(r.NATEvent, event)
			return
		}
	}
	u.records.put(key, r.NATEvent)
}

func (u *natUnion) event(e NATEvent) {
	key := u.key(&e.Tracked)
	if record, ok := u.records.take(key); ok {
		u.join(record, e)
		return
	}
	if u.alone.take(key, u.now) {
		return
	}
	u.events[0].put(key, e)
	u.last[0] = u.now
}

// join tells of a connection that both saw. The record knows all but the namespace's number.
func (u *natUnion) join(record, event NATEvent) {
	u.heard.hear(record.Netns, u.now)
	record.NetnsID = event.NetnsID
	u.news.Opened = append(u.news.Opened, record)
}

// tellEvents tells of those that have waited for long enough.
func (u *natUnion) tellEvents() {
	if u.now.Sub(u.last[1]) >= packetDelay {
		u.tell(&u.events[1])
		u.events[0], u.events[1] = u.events[1], u.events[0]
		u.last[1] = u.last[0]
	}
	if u.now.Sub(u.last[1]) >= packetDelay {
		u.tell(&u.events[1])
	}
}

func (u *natUnion) tell(events *unmatched) {
	events.drain(u.tellEvent)
}

// tellEvent tells of one that had no record. If that comes later, it is of one that is known.
func (u *natUnion) tellEvent(key uint64, e NATEvent) {
	u.known.add(key, u.now)
	u.news.Opened = append(u.news.Opened, e)
}

// tellRecords tells of those that the events have missed, and of no connection twice.
func (u *natUnion) tellRecords() {
	u.records.drain(func(key uint64, r NATEvent) {
		if u.known.take(key, u.now) || u.heard.all(r.Netns, u.now) {
			return
		}
		u.alone.add(key, u.now)
		u.news.Opened = append(u.news.Opened, r)
	})
}

// tellAnswers tells of the answers, and first of those connections whose event still waits for a packet. It waits in vain:
// what is answered has come to where it was meant to.
func (u *natUnion) tellAnswers() {
	for _, answer := range u.answers {
		key := u.key(&answer.Tracked)
		for i := range u.events {
			if event, ok := u.events[i].take(key); ok {
				if answer.At.Before(event.At) { // which is when it was read
					event.At = answer.At
				}
				u.tellEvent(key, event)
				break
			}
		}
	}
	u.news.Answered = append(u.news.Answered, u.answers...)
	clear(u.answers)
	u.answers = u.answers[:0]
}

// waiting is how much news nobody has read. Events that wait for a packet are none yet, and become news by time alone.
func (u *natUnion) waiting() int { return len(u.news.Opened) + len(u.news.Answered) }

// take hands out the news.
func (u *natUnion) take() NATNews {
	news := u.news
	u.news = NATNews{}
	return news
}

// unmatched is a bag of what waits for its counterpart.
type unmatched struct {
	entries []unmatchedEntry
	newest  map[uint64]int // position of the newest that is not taken, by key
}

type unmatchedEntry struct {
	NATEvent
	key   uint64
	older int // position of the next older one of the same key; -1: none
	taken bool
}

func (u *unmatched) put(key uint64, e NATEvent) {
	older, have := u.newest[key]
	if !have {
		older = -1
	}
	if u.newest == nil {
		u.newest = make(map[uint64]int)
	}
	u.newest[key] = len(u.entries)
	u.entries = append(u.entries, unmatchedEntry{NATEvent: e, key: key, older: older})
}

func (u *unmatched) take(key uint64) (NATEvent, bool) {
	i, have := u.newest[key]
	if !have {
		return NATEvent{}, false
	}
	entry := &u.entries[i]
	entry.taken = true
	if entry.older < 0 {
		delete(u.newest, key)
	} else {
		u.newest[key] = entry.older
	}
	return entry.NATEvent, true
}

// drain visits what is left, oldest first, and empties the bag.
func (u *unmatched) drain(visit func(key uint64, e NATEvent)) {
	for i := range u.entries {
		if e := &u.entries[i]; !e.taken {
			visit(e.key, e.NATEvent)
		}
	}
	if len(u.entries) > 1<<12 { // rare, and not worth the memory
		*u = unmatched{}
		return
	}
	clear(u.newest)
	clear(u.entries)
	u.entries = u.entries[:0]
}

// remembered is a bag of keys. It forgets those that nobody has taken within a period or two, or sooner if more than limit
// come meanwhile.
type remembered struct {
	period time.Duration
	limit  int

	recent, older map[uint64]int
	since         time.Time // when recent was begun
}

func (r *remembered) add(key uint64, now time.Time) {
	r.age(now)
	if len(r.recent) >= r.limit {
		r.turn(now)
	}
	if r.recent == nil {
		r.recent = make(map[uint64]int)
	}
	r.recent[key]++
}

// take removes one of a key and tells whether there was one.
func (r *remembered) take(key uint64, now time.Time) bool {
	r.age(now)
	for _, keys := range []map[uint64]int{r.older, r.recent} {
		switch count := keys[key]; count {
		case 0:
			continue
		case 1:
			delete(keys, key)
		default:
			keys[key] = count - 1
		}
		return true
	}
	return false
}

func (r *remembered) age(now time.Time) {
	elapsed := now.Sub(r.since)
	if elapsed >= r.period {
		r.turn(now)
	}
	if elapsed >= 2*r.period {
		r.older = nil
	}
}

func (r *remembered) turn(now time.Time) { r.older, r.recent, r.since = r.recent, nil, now }

func (r *remembered) len() int { return len(r.recent) + len(r.older) }
