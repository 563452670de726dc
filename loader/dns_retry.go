// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"
)

const (
	// dnsRetryAfter is for how long at least a client has waited for an answer when it asks again, from another socket. What
	// comes sooner is somebody else who wants to know the same.
	dnsRetryAfter = time.Second
	// dnsRoundTime is for how long a client may be about asking all its servers at once.
	dnsRoundTime = 100 * time.Millisecond
	// dnsRetryTimeouts is after how many timeouts a lookup ends that is asked again and again.
	dnsRetryTimeouts = 12
)

// dnsRound is one asking of each of several servers at once.
type dnsRound struct {
	since time.Time
	first int // of its tries
}

// dnsAlike is what a lookup's retries from other sockets have in common, with another ID each. What the engine asks for one
// lookup is no retry of what it asks for another.
type dnsAlike struct {
	netns     Netns
	protocol  uint8
	leg       dnsLeg
	forwardOf uint64
	question  DNSQuestion
}

func (l *dnsPending) likeness() dnsAlike {
	return dnsAlike{l.Netns, l.Protocol, l.leg, l.ForwardOf, l.Question}
}

// mayRetry tells whether another question may be a lookup's, without end if it were not for this.
func (t *dnsTracker) mayRetry(l *dnsPending) bool {
	return t.now.Sub(l.since) <= dnsRetryTimeouts*t.timeout
}

// retried returns the lookup that a question from or to somewhere else is a retry of; nil: it is a new one. It is the one
// with the same ID if there is such a one, which a client keeps that has a socket for each server, or the engine; else the
// one that has waited for longest.
func (t *dnsTracker) retried(q *dnsAsked) *dnsPending {
	if l := t.retriedByID(q); l != nil {
		return l
	}
	oldest := t.alike[dnsAlike{q.netns, q.protocol, q.leg, q.forwardOf.serial, q.question}].front
	for range dnsSearchLimit {
		if oldest == nil || t.now.Sub(oldest.of.last) < dnsRetryAfter {
			return nil
		}
		if t.takesOther(oldest.of) {
			return oldest.of
		}
		oldest = oldest.after
	}
	return nil
}

func (t *dnsTracker) retriedByID(q *dnsAsked) (found *dnsPending) {
	t.search(q, func(s *dnsSent) bool {
		if s.lookup.mayBe(q) && t.takesOther(s.lookup) && t.isTry(s.lookup, q) {
			found = s.lookup
		}
		return found != nil
	})
	return found
}

// takesOther tells whether a lookup may have another exchange.
func (t *dnsTracker) takesOther(l *dnsPending) bool {
	return len(l.sent) < dnsTryLimit && t.mayRetry(l)
}

// mayBe tells whether a question is asked from where the lookup is, and for nobody else. It may be that for whom it was asked
// has given up meanwhile.
func (l *dnsPending) mayBe(q *dnsAsked) bool {
	return l.Netns == q.netns && l.Protocol == q.protocol && l.leg == q.leg &&
		(q.forwardOf.serial == 0 || q.forwardOf.serial == l.ForwardOf)
}

// isTry tells whether a question with a lookup's ID is another try: from the same socket, of another server, or after a time.
func (t *dnsTracker) isTry(l *dnsPending, q *dnsAsked) bool {
	return l.Client == q.client || !l.hasAsked(0, q.server) || t.now.Sub(l.last) >= dnsRetryAfter
}

// hasAsked tells whether one of the tries from the first on was to a server.
func (l *dnsPending) hasAsked(first int, server netip.AddrPort) bool {
	for i := first; i < len(l.Tries); i++ {
		if sameServer(l.Tries[i].Server, server) {
			return true
		}
	}
	return false
}

// sameServer tells so of addresses as the socket has them or as an exchange has.
func sameServer(a, b netip.AddrPort) bool {
	return a == b || a.Addr() == embeddedResolver && b.Addr() == embeddedResolver
}

// again adds a try to the lookup of an exchange.
func (t *dnsTracker) again(s *dnsSent, server netip.AddrPort, at time.Time) {
	l := s.lookup
	first := len(l.Tries) == 0
	if !first {
		t.waiting.remove(&l.ofWaiting)
		t.alike.remove(l.likeness(), &l.ofAlike)
	}
	if first || s.exchange.client != l.Client || t.now.Sub(l.round.since) > dnsRoundTime || l.hasAsked(l.round.first, server) {
		if !first {
			l.abandonTries()
			l.Retries++
		}
		l.round = dnsRound{since: t.now, first: min(len(l.Tries), dnsTryLimit-1)}
	}
	try := DNSTry{Server: server, Asked: at}
	if len(l.Tries) < dnsTryLimit {
		l.Tries = append(l.Tries, try)
	} else {
		l.Tries[dnsTryLimit-1] = try
	}
	s.try = len(l.Tries) - 1
	l.Messages++
	l.Client, l.ID, l.Server, l.last = s.exchange.client, s.exchange.id, server, t.now
	t.waiting.push(&l.ofWaiting)
	t.alike.push(l.likeness(), &l.ofAlike)
	if l.ForwardOf != 0 {
		t.forwarders.add(t.socket(l.Netns, l.Protocol, l.Client), t.now)
	}
}

// abandonTries says of those so far that the client waits for them no longer.
func (l *dnsPending) abandonTries() {
	for i := range l.Tries {
		l.Tries[i].GaveUp = true
	}
}
