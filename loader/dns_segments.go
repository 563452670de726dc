// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"slices"
	"time"
)

const (
	// dnsMessageKept is how much is kept of a message that comes in several segments.
	dnsMessageKept = 4096
	// dnsHeldLimit is how many segments, or pieces, are kept that came too early, and dnsGapTime for how long they wait for the
	// missing.
	dnsHeldLimit = 32
	dnsGapTime   = 3 * time.Second
	// leastQuestion is how long a message with a question is: for the root.
	leastQuestion = dnsHeaderLength + 5
)

// dnsFlow is one direction of a stream: messages, each behind its length.
type dnsFlow struct {
	following bool
	broken    bool   // it could not be followed, and this is counted
	finished  bool   // by a FIN
	first     uint32 // the first byte's sequence number, if it was opened while the agent watched
	next      uint32 // the next one's

	prefix  int    // bytes that are known of the length of the message that has begun
	length  int    // of which prefix bytes are known
	passed  int    // bytes of it that have come
	message []byte // its beginning: as much as was copied without a hole, and is kept

	held      []dnsSegment // came too early
	heldSince time.Time
}

// dnsSegment is a TCP segment, or a piece of one, of which there may be only the beginning.
type dnsSegment struct {
	sequence uint32
	length   int
	payload  []byte
}

// arrive takes what a segment says, and those behind it that came before.
func (t *dnsTracker) arrive(p *dnsPath, f *dnsFlow, seg dnsSegment) {
	if !f.following && !t.begins(p, f, seg) {
		if seg.length > 1 { // which asks whether the peer is alive
			t.lose(p, f)
		}
		return
	}
	if f.isAhead(seg) {
		t.hold(p, f, seg)
		return
	}
	t.pass(p, f, seg)
	for {
		i := slices.IndexFunc(f.held, func(held dnsSegment) bool { return !f.isAhead(held) })
		if i < 0 {
			return
		}
		seg = f.held[i]
		t.streams.bytes -= len(seg.payload)
		f.held = slices.Delete(f.held, i, i+1)
		t.pass(p, f, seg)
	}
}

func (f *dnsFlow) isAhead(seg dnsSegment) bool { return int32(seg.sequence-f.next) > 0 }

// begins follows a flow, of which something was not seen, from a segment on that can hardly be anything but the beginning of
// a message.
func (t *dnsTracker) begins(p *dnsPath, f *dnsFlow, seg dnsSegment) bool {
	if len(seg.payload) < 2+leastQuestion {
		return false
	}
	length := int(binary.BigEndian.Uint16(seg.payload))
	if length < leastQuestion {
		return false
	}
	m, flaw := t.reader.read(seg.payload[2:min(2+length, len(seg.payload))], length)
	if flaw != dnsSound || !m.asks || m.response == p.outgoing || m.opcode != 0 || m.class == 0 || m.class > 255 {
		return false
	}
	f.follow(seg.sequence)
	return true
}

// follow begins a flow at a message's beginning.
func (f *dnsFlow) follow(sequence uint32) {
	f.following, f.broken, f.next = true, false, sequence
}

// hold keeps a segment that came too early. If the one before it does not come, it is passed over.
func (t *dnsTracker) hold(p *dnsPath, f *dnsFlow, seg dnsSegment) {
	same := func(held dnsSegment) bool { return held.sequence == seg.sequence && held.length >= seg.length }
	if slices.ContainsFunc(f.held, same) {
		return
	}
	if len(f.held) == 0 {
		f.heldSince = t.now
	}
	if len(f.held) < dnsHeldLimit && t.streams.bytes+len(seg.payload) <= dnsStreamBytes && t.now.Sub(f.heldSince) <= dnsGapTime {
		seg.payload = slices.Clone(seg.payload)
		t.streams.bytes += len(seg.payload)
		f.held = append(f.held, seg)
		return
	}
	t.skipGap(p, f, seg)
}

// skipGap goes on behind what did not come, at the next message that can be found in what has come.
func (t *dnsTracker) skipGap(p *dnsPath, f *dnsFlow, latest dnsSegment) {
	segments := append(slices.Clone(f.held), latest)
	slices.SortStableFunc(segments, func(a, b dnsSegment) int { return int(int32(a.sequence - b.sequence)) })
	t.lose(p, f)
	for _, seg := range segments {
		if f.following && !f.isAhead(seg) || t.begins(p, f, seg) {
			t.pass(p, f, seg)
		} else if f.following {
			t.lose(p, f)
		}
	}
}

// lose gives up following a flow, until a message's beginning is found.
func (t *dnsTracker) lose(p *dnsPath, f *dnsFlow) {
	if !f.broken {
		t.missed.broken++
	}
	t.streams.release(f)
	*f = dnsFlow{broken: true, finished: f.finished}
	p.stream.whole = false
	if !p.outgoing {
		p.stream.missed = t.now
	}
}

// pass takes what is new of a segment that is not ahead.
func (t *dnsTracker) pass(p *dnsPath, f *dnsFlow, seg dnsSegment) {
	known := int(int32(f.next - seg.sequence))
	if known < 0 || known >= seg.length {
		return // as far away as can be, which no sender is; or sent again
	}
	f.next = seg.sequence + uint32(seg.length)
	data := seg.payload[min(known, len(seg.payload)):]
	if !t.unframe(p, f, data, seg.length-known-len(data)) {
		t.lose(p, f)
	}
}

// unframe takes the next bytes of a flow, of which the last ones were not copied, and takes note of the messages that end in
// them. It returns false if one begins where nothing was copied.
func (t *dnsTracker) unframe(p *dnsPath, f *dnsFlow, data []byte, uncopied int) bool {
	for len(data) > 0 || uncopied > 0 {
		if f.prefix < 2 {
			if len(data) == 0 {
				return false
			}
			f.length = f.length<<8 | int(data[0])
			f.prefix++
			data = data[1:]
		} else if f.passed == 0 && len(data) >= f.length {
			t.message(p, data[:f.length], f.length) // no need to keep it
			data = data[f.length:]
			f.prefix, f.length = 0, 0
			continue
		} else {
			data, uncopied = t.fill(f, data, uncopied)
		}
		if f.prefix == 2 && f.passed == f.length {
			t.message(p, f.message, f.length)
			t.streams.bytes -= len(f.message)
			f.prefix, f.length, f.passed, f.message = 0, 0, 0, nil
		}
	}
	return true
}

// fill takes as much as the message that has begun is still long, and returns what is behind it.
func (t *dnsTracker) fill(f *dnsFlow, data []byte, uncopied int) ([]byte, int) {
	copied := min(len(data), f.length-f.passed)
	if len(f.message) == f.passed { // without a hole
		kept := min(copied, dnsMessageKept-f.passed, dnsStreamBytes-t.streams.bytes)
		f.message = append(f.message, data[:kept]...)
		t.streams.bytes += kept
	}
	f.passed += copied
	if copied < len(data) {
		return data[copied:], uncopied
	}
	hidden := min(uncopied, f.length-f.passed)
	f.passed += hidden
	return nil, uncopied - hidden
}
