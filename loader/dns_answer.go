// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// answer takes note of one that has come to a socket.
func (t *dnsTracker) answer(p *dnsPath, m *dnsMessage) {
	if m.broken {
		t.count(p, DNSUnicast, DNSMalformedResponse)
	}
	exchange := exchangeOf(p, m.id)
	sent := t.match(exchange, m)
	switch {
	case sent != nil && p.at.Sub(sent.lookup.last) > t.timeout:
		t.count(p, DNSUnicast, DNSLate) // it still may be asked again
	case sent != nil:
		t.finish(sent, p.at, &m.answer)
	case t.exchanges[exchange].front != nil:
		t.count(p, DNSUnicast, DNSOtherQuestion)
	default:
		t.unexpected(p, exchange, m)
	}
}

// unexpected takes note of an answer that nobody waits for.
func (t *dnsTracker) unexpected(p *dnsPath, exchange dnsExchange, m *dnsMessage) {
	key := t.key(exchange, m.question())
	switch {
	case t.overtaken.take(key, t.now): // of one of the servers that were asked at once: as it should be
	case t.ended[DNSAnswered].again(key, t.now):
		if p.protocol != unix.IPPROTO_TCP { // by which a zone is transferred in many messages
			t.count(p, DNSUnicast, DNSLate)
		}
	case t.ended[DNSTimedOut].again(key, t.now):
		t.count(p, DNSUnicast, DNSLate)
	case t.ended[DNSUnknown].again(key, t.now), t.lossy(p.at) || p.stream != nil && !p.stream.whole:
		t.missed.unmatched++
	default:
		t.count(p, DNSUnicast, DNSUnasked)
	}
}

// lossy tells whether the question for an answer that comes now may have got lost.
func (t *dnsTracker) lossy(now time.Time) bool {
	return !t.loss.IsZero() && now.Sub(t.loss) <= t.timeout+dnsGrace
}

// finish ends a lookup with an answer.
func (t *dnsTracker) finish(s *dnsSent, at time.Time, answer *DNSAnswer) {
	l := s.lookup
	s.answered = true
	l.Answered, l.Answer = at, *answer
	l.Answer.Addresses = append([]netip.Addr(nil), answer.Addresses...)
	try := &l.Tries[s.try]
	l.Server = try.Server
	if sameServer(try.Server, s.exchange.server) { // else there were too many
		try.Answer, try.GaveUp = at, false
	} else {
		l.Server = s.exchange.server
	}
	t.end(l, DNSAnswered)
}

// giveUp ends a lookup that nobody has answered, as far as was seen.
func (t *dnsTracker) giveUp(l *dnsPending) {
	if t.loss.After(l.last) || l.unfollowed() {
		t.missed.unknown++
		t.end(l, DNSUnknown)
		return
	}
	l.abandonTries()
	t.end(l, DNSTimedOut)
}

// unfollowed tells whether the answer may have been in a stream at a place that was not seen.
func (l *dnsPending) unfollowed() bool {
	for _, s := range l.sent {
		if s.stream != nil && !s.stream.missed.Before(l.last) {
			return true
		}
	}
	return false
}

// end forgets a lookup and tells of it.
func (t *dnsTracker) end(l *dnsPending, outcome DNSOutcome) {
	l.Outcome = outcome
	t.waiting.remove(&l.ofWaiting)
	t.alike.remove(l.likeness(), &l.ofAlike)
	for _, s := range l.sent {
		t.exchanges.remove(s.exchange, &s.ofExchange)
		t.numbered.remove(s.number(), &s.ofNumber)
		if key := t.key(s.exchange, l.Question); outcome == DNSAnswered && !s.answered {
			t.overtaken.add(key, t.now)
		} else {
			t.ended[outcome].add(key, t.now)
		}
		if l.isAskedOn() {
			t.origins.add(s.number(), l.origin(), t.now)
		}
	}
	if t.sent -= len(l.sent); t.sent == 0 && t.most > dnsTablesKept {
		t.makeTables()
	}
	t.tell(&l.DNSLookup)
}
