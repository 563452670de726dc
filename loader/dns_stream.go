// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"
)

const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4

	// dnsStreamLimit is how many TCP streams are followed, and dnsStreamBytes how much of all of them is kept at most.
	dnsStreamLimit = 1 << 12
	dnsStreamBytes = 8 << 20
	// closedStream is for how long a stream is known after its end, for what is sent again, and idleStream one that nobody
	// uses. It is taken up again if somebody does.
	closedStream = 10 * time.Second
	idleStream   = 10 * time.Minute
)

// dnsStreams are the TCP streams that are followed.
type dnsStreams struct {
	by     map[dnsStreamKey]*dnsStream
	open   chain[dnsStream] // the latest used last
	closed chain[dnsStream] // likewise
	bytes  int              // kept of all
}

type dnsStreamKey struct {
	netns       Netns
	local, peer netip.AddrPort // of the embedded resolver with port 53
}

// dnsStream is a TCP connection between a client and a server.
type dnsStream struct {
	key     dnsStreamKey
	out, in dnsFlow
	whole   bool      // all was seen since it was opened
	serving bool      // the peer has opened it: its client, from port 53
	closed  bool      // by a RST, or both FINs
	missed  time.Time // when something of the answers was last not seen
	used    time.Time
	listed  chained[dnsStream]
}

func newDNSStreams() dnsStreams { return dnsStreams{by: make(map[dnsStreamKey]*dnsStream)} }

// segment takes note of one that leaves a socket or has come to it.
func (t *dnsTracker) segment(p *dnsPath, flags uint8, seg dnsSegment) {
	s := t.stream(p, flags, seg)
	if s == nil {
		return
	}
	p.stream = s
	t.streams.use(s, t.now)
	f := s.flow(p)
	if flags&flagSYN != 0 {
		seg.sequence++ // a SYN takes one
		if !f.following || f.first != seg.sequence {
			t.streams.release(f)
			*f = dnsFlow{first: seg.sequence}
			f.follow(seg.sequence)
		}
	}
	if seg.length > 0 && !s.serving {
		t.arrive(p, f, seg)
	}
	f.finished = f.finished || flags&flagFIN != 0
	if flags&flagRST != 0 || s.in.finished && s.out.finished {
		t.streams.close(s)
	}
}

// stream returns the one that a segment is of, new if it is not known; nil: none that matters.
func (t *dnsTracker) stream(p *dnsPath, flags uint8, seg dnsSegment) *dnsStream {
	key := dnsStreamKey{p.netns, p.local, exchangeOf(p, 0).server}
	s := t.streams.by[key]
	opens := flags&(flagSYN|flagACK) == flagSYN
	if s != nil && opens {
		if !p.outgoing && !s.serving {
			return nil // whom the client asks, or somebody who pretends to be that one, does not open what is open
		}
		if f := s.flow(p); f.following && f.first == seg.sequence+1 {
			return s // sent again
		}
		t.streams.forget(s)
		s = nil
	}
	if s != nil || !opens && flags&(flagFIN|flagRST) != 0 && seg.length == 0 {
		return s
	}
	if len(t.streams.by) >= dnsStreamLimit {
		t.forgetOldest()
	}
	s = &dnsStream{key: key, whole: opens, serving: opens && !p.outgoing}
	t.streams.add(s)
	return s
}

// flow is the direction of a message.
func (s *dnsStream) flow(p *dnsPath) *dnsFlow {
	if p.outgoing {
		return &s.out
	}
	return &s.in
}

// forgetOldest makes room for another stream.
func (t *dnsTracker) forgetOldest() {
	if l := t.streams.closed.front; l != nil {
		t.streams.forget(l.of)
		return
	}
	s := t.streams.open.front.of
	s.missed = t.now
	t.missed.untracked++
	t.streams.forget(s)
}

// add lists a new stream.
func (d *dnsStreams) add(s *dnsStream) {
	d.by[s.key] = s
	s.listed.of = s
	d.open.push(&s.listed)
}

// chain is where a stream is listed.
func (d *dnsStreams) chain(s *dnsStream) *chain[dnsStream] {
	if s.closed {
		return &d.closed
	}
	return &d.open
}

func (d *dnsStreams) use(s *dnsStream, now time.Time) {
	s.used = now
	d.chain(s).remove(&s.listed)
	d.chain(s).push(&s.listed)
}

// close has a stream forgotten soon. What is sent again is known until then.
func (d *dnsStreams) close(s *dnsStream) {
	d.chain(s).remove(&s.listed)
	s.closed = true
	d.chain(s).push(&s.listed)
}

func (d *dnsStreams) forget(s *dnsStream) {
	delete(d.by, s.key)
	d.chain(s).remove(&s.listed)
	d.release(&s.out)
	d.release(&s.in)
}

// release forgets what is kept of a flow.
func (d *dnsStreams) release(f *dnsFlow) {
	d.bytes -= len(f.message)
	for _, seg := range f.held {
		d.bytes -= len(seg.payload)
	}
	f.message, f.held = nil, nil
}

// expire forgets what has been closed, or not been used, for long.
func (d *dnsStreams) expire(now time.Time) {
	for l := d.closed.front; l != nil && now.Sub(l.of.used) > closedStream; l = d.closed.front {
		d.forget(l.of)
	}
	for l := d.open.front; l != nil && now.Sub(l.of.used) > idleStream; l = d.open.front {
		d.forget(l.of)
	}
}
