// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unionEvent is of a connection that is told by its number.
func unionEvent(number uint16) NATEvent {
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	return NATEvent{Tracked: Tracked{
		NetnsID: 7, Protocol: 6,
		Original: Tuple{netip.AddrPortFrom(here, number), netip.AddrPortFrom(there, 80)},
		Reply:    Tuple{netip.AddrPortFrom(there, 8080), netip.AddrPortFrom(here, number)},
	}}
}

// unionRecord is what the program tells of it, and knows a device.
func unionRecord(number uint16) natRecord {
	r := natRecord{NATEvent: unionEvent(number)}
	r.NetnsID, r.Netns, r.Device = -1, 4711, 3
	return r
}

func TestNATUnion(t *testing.T) {
	// What is told of a connection, by its number: by both sources, by one.
	type told struct {
		Number          uint16
		Record, Event   bool
		AnsweredInstead bool
	}
	both := func(n uint16) told { return told{Number: n, Record: true, Event: true} }
	record := func(n uint16) told { return told{Number: n, Record: true} }
	event := func(n uint16) told { return told{Number: n, Event: true} }
	// A step is a gathering: when, and what is found.
	type step struct {
		at       time.Duration
		records  []uint16
		answered []uint16
		events   []uint16
		want     []told
		reading
	}
	const soon, later = 10 * time.Millisecond, packetDelay
	for _, tc := range []struct {
		name     string
		existing []uint16
		alone    bool // there is no program
		steps    []step
	}{
		{name: "by both", steps: []step{{records: []uint16{1, 2}, events: []uint16{2, 1}, want: []told{both(2), both(1)}}}},
		{name: "event missed", steps: []step{{records: []uint16{1, 2}, events: []uint16{2}, want: []told{both(2), record(1)}}}},
		{name: "no device", steps: []step{
			{events: []uint16{1}}, {at: soon}, {at: later, want: []told{event(1)}}, {at: 2 * later},
		}},
		{name: "no device, and always more", steps: []step{
			{events: []uint16{1}}, {at: later / 2, events: []uint16{2}}, {at: later, events: []uint16{3}, want: []told{event(1)}},
			{at: later * 3 / 2, events: []uint16{4}, want: []told{event(2)}}, {at: later * 2, want: []told{event(3)}},
			{at: later * 5 / 2, want: []told{event(4)}},
		}},
		{name: "no device, seldom read", steps: []step{{events: []uint16{1}}, {at: time.Hour, events: []uint16{2}, want: []told{event(1)}}}},
		{name: "packet soon", steps: []step{{events: []uint16{1}}, {at: soon, records: []uint16{1}, want: []told{both(1)}}, {at: later}}},
		{name: "packet after some", steps: []step{
			{events: []uint16{1}}, {at: soon, events: []uint16{2}}, {at: 2 * soon, records: []uint16{2, 1}, want: []told{both(2), both(1)}}, {at: 3 * later},
		}},
		{name: "packet late", steps: []step{
			{events: []uint16{1}}, {at: later, want: []told{event(1)}}, {at: latePacket, records: []uint16{1}}, {at: latePacket, records: []uint16{1}, want: []told{record(1)}},
		}},
		{name: "event late", steps: []step{
			{records: []uint16{1}, want: []told{record(1)}}, {at: soon, events: []uint16{1}}, {at: later}, {at: later, events: []uint16{1}}, {at: 2 * later, want: []told{event(1)}},
		}},
		{name: "same tuples in two places", steps: []step{
			{records: []uint16{1, 1}, events: []uint16{1, 1}, want: []told{both(1), both(1)}},
			{at: soon, events: []uint16{2, 2, 2}}, {at: 2 * soon, records: []uint16{2, 2}, want: []told{both(2), both(2)}}, {at: later + soon, want: []told{event(2)}},
		}},
		{name: "opened anew", steps: []step{
			{records: []uint16{1}, events: []uint16{1}, want: []told{both(1)}}, {at: soon, records: []uint16{1}, events: []uint16{1}, want: []told{both(1)}},
			{at: 2 * soon, events: []uint16{1, 1}}, {at: later + 2*soon, want: []told{event(1), event(1)}},
		}},
		{name: "there before", existing: []uint16{1, 2}, steps: []step{
			{records: []uint16{1}}, {records: []uint16{1}, want: []told{record(1)}}, {records: []uint16{2}, events: []uint16{2}, want: []told{both(2)}},
		}},
		{name: "answered, and no device", steps: []step{
			{events: []uint16{1, 2}, answered: []uint16{1}, want: []told{event(1), {Number: 1, AnsweredInstead: true}}},
			{at: soon, answered: []uint16{2}, want: []told{event(2), {Number: 2, AnsweredInstead: true}}},
			{at: later}, {at: 2 * later},
			{at: 3 * later, records: []uint16{1}}, // a late packet
		}},
		{name: "answered, and seen by both", steps: []step{
			{records: []uint16{1}, events: []uint16{1}, answered: []uint16{1}, want: []told{both(1), {Number: 1, AnsweredInstead: true}}}, {at: later},
		}},
		{name: "answers", steps: []step{{answered: []uint16{1, 1}, want: []told{{Number: 1, AnsweredInstead: true}, {Number: 1, AnsweredInstead: true}}}}},
		{name: "forgotten by the program", steps: []step{
			{records: []uint16{1}, events: []uint16{1}, want: []told{both(1)}}, {at: lateRecord, records: []uint16{1}, want: []told{record(1)}},
			{at: lateRecord + soon, records: []uint16{1, 2}, events: []uint16{2}, want: []told{both(2)}},
			{at: lateRecord + soon + silence, records: []uint16{1}}, {at: lateRecord + 2*soon + silence, records: []uint16{1}, want: []told{record(1)}},
		}},
		{name: "events missed since", steps: []step{
			{records: []uint16{1}, events: []uint16{1}, want: []told{both(1)}}, {at: lateRecord + soon, records: []uint16{1}},
			{at: 2 * lateRecord, records: []uint16{3}, reading: reading{missed: true}, want: []told{record(3)}}, {at: 3 * lateRecord, records: []uint16{4}, want: []told{record(4)}},
			{at: 3*lateRecord + soon, records: []uint16{4}},
		}},
		{name: "events begin anew", steps: []step{
			{records: []uint16{1}, events: []uint16{1}, want: []told{both(1)}},
			{at: time.Hour, records: []uint16{2, 3}, events: []uint16{2}, want: []told{both(2), record(3)}},
			{at: time.Hour + lateRecord + soon, records: []uint16{1}},
		}},
		{name: "more events to read", steps: []step{
			{records: []uint16{1, 2}, answered: []uint16{1}, events: []uint16{2}, reading: reading{more: true}, want: []told{both(2)}},
			{at: later, records: []uint16{3}, events: []uint16{1}, want: []told{both(1), record(3), {Number: 1, AnsweredInstead: true}}},
		}},
		{name: "events alone", alone: true, steps: []step{{events: []uint16{1, 1}, want: []told{event(1), event(1)}}, {at: later}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, start := newNATUnion(), time.Now()
			for _, n := range tc.existing {
				e := unionEvent(n)
				u.existing(&e.Tracked)
			}
			for i, step := range tc.steps {
				records := func(visit func(natRecord)) error {
					for _, n := range step.records {
						visit(unionRecord(n))
					}
					for _, n := range step.answered {
						r := unionRecord(n)
						r.answered = true
						visit(r)
					}
					return nil
				}
				if tc.alone {
					records = nil
				}
				err := u.unite(start.Add(step.at), records, func(visit func(NATEvent)) (reading, error) {
					for _, n := range step.events {
						visit(unionEvent(n))
					}
					return step.reading, nil
				})
				if err != nil {
					t.Error(err)
				}
				news := u.take()
				var got []told
				for _, e := range news.Opened {
					got = append(got, told{Number: e.Original.Source.Port(), Record: e.Device != 0, Event: e.NetnsID == 7})
				}
				for _, e := range news.Answered {
					got = append(got, told{Number: e.Original.Source.Port(), AnsweredInstead: true})
				}
				if diff := cmp.Diff(step.want, got); diff != "" {
					t.Errorf("step %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// What is told before an error is kept.
func TestNATUnionAfterError(t *testing.T) {
	u, broken := newNATUnion(), errors.New("broken")
	err := u.unite(time.Now(),
		func(visit func(natRecord)) error { visit(unionRecord(1)); return broken },
		func(visit func(NATEvent)) (reading, error) { visit(unionEvent(2)); return reading{}, nil })
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if got := u.take().Opened; len(got) != 1 || got[0].Original.Source.Port() != 1 {
		t.Errorf("told %+v", got)
	}
}

// What is remembered is bounded, and the newest of it is there.
func TestRememberedIsBounded(t *testing.T) {
	const limit = 1000
	now := time.Now()
	r := remembered{period: time.Minute, limit: limit}
	for key := range uint64(100 * limit) {
		r.add(key, now)
		if r.len() > 2*limit {
			t.Fatalf("%d remembered", r.len())
		}
	}
	for key := uint64(100*limit - limit); key < 100*limit; key++ {
		if !r.take(key, now) || r.take(key, now) {
			t.Fatalf("key %d", key)
		}
	}
	if r.take(0, now) {
		t.Error("the oldest is remembered")
	}
	for _, tc := range []struct {
		after time.Duration
		want  bool
	}{{59 * time.Second, true}, {61 * time.Second, true}, {121 * time.Second, false}, {time.Hour, false}} {
		r := remembered{period: time.Minute, limit: limit}
		r.add(1, now)
		if got := r.take(1, now.Add(tc.after)); got != tc.want {
			t.Errorf("after %s: remembered %t, want %t", tc.after, got, tc.want)
		}
	}
}

// A bag gives back as many of a key as were put in, and drains in order.
func TestUnmatched(t *testing.T) {
	var u unmatched
	for round := range 3 {
		for _, n := range []uint16{1, 2, 1, 3, 1} {
			u.put(uint64(n), unionEvent(n))
		}
		for range 2 {
			if e, ok := u.take(1); !ok || e.Original.Source.Port() != 1 {
				t.Fatalf("round %d: took %+v, %t", round, e, ok)
			}
		}
		var left []uint16
		u.drain(func(key uint64, e NATEvent) { left = append(left, e.Original.Source.Port()) })
		if want := []uint16{1, 2, 3}; !slices.Equal(left, want) {
			t.Errorf("round %d: left %v, want %v", round, left, want)
		}
		if _, ok := u.take(1); ok {
			t.Errorf("round %d: something is left", round)
		}
	}
}

// What is known of namespaces is bounded, and those that are silent make room.
func TestHeardIsBounded(t *testing.T) {
	var h heard
	now := time.Now()
	h.hear(0, now) // not known which
	for n := range Netns(2 * heardLimit) {
		h.hear(n+1, now)
	}
	if len(h.from) != heardLimit {
		t.Errorf("%d are known", len(h.from))
	}
	if later := now.Add(lateRecord + 1); !h.all(1, later) || h.all(2*heardLimit, later) || h.all(0, later) {
		t.Error("the first is not heard of, or the last is")
	}
	now = now.Add(silence + 1)
	h.hear(2*heardLimit, now)
	if len(h.from) != 1 || !h.all(2*heardLimit, now.Add(lateRecord+1)) {
		t.Errorf("%d are known", len(h.from))
	}
}
