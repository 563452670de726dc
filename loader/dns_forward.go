// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"time"
)

// dnsLeg is where a question goes, as far as it matters for whose it is.
type dnsLeg uint8

const (
	// The engine's resolver is asked.
	legEmbedded dnsLeg = iota
	// A server of the client's own namespace is asked, which may ask others from there: two lookups.
	legLoopback
	legAway
)

// dnsSearchLimit bounds how many with the same ID and question are looked at for one that fits. More are somebody's who
// does not want to be understood.
const dnsSearchLimit = 16

// dnsNumber is what stays the same when the engine asks somebody else for a container: it passes on what it was asked.
type dnsNumber struct {
	id       uint16
	question DNSQuestion
}

func (s *dnsSent) number() dnsNumber { return dnsNumber{s.exchange.id, s.lookup.Question} }

func legOf(server netip.Addr) dnsLeg {
	switch {
	case server == embeddedResolver:
		return legEmbedded
	case server.IsLoopback():
		return legLoopback
	}
	return legAway
}

// dnsOrigin is the lookup at the embedded resolver that the engine asks somebody else for.
type dnsOrigin struct {
	serial uint64 // 0: there is none
	netns  Netns
	client netip.AddrPort
	lookup *dnsPending // nil: it has ended
}

func (l *dnsPending) origin() dnsOrigin { return dnsOrigin{l.Serial, l.Netns, l.Client, l} }

// mayAsk tells whether the engine may ask a question for it, and whether it can be no other's: from the container's namespace,
// or from the host's for a container of any. It has sockets of its own for that.
func (o *dnsOrigin) mayAsk(q *dnsAsked, host Netns) (may, surely bool) {
	switch q.netns {
	case o.netns:
		return q.client != o.client, q.client != o.client
	case host:
		return true, false
	}
	return false, false
}

// forwardOf returns the lookup that the engine asks a question for. If several containers wait for the same name with the same
// ID, it is the latest that it did not ask for yet. If none does, it may be one that has ended: the engine goes through its
// servers, once for each time that it was asked, whether or not its client still waits.
func (t *dnsTracker) forwardOf(q *dnsAsked) (best dnsOrigin) {
	if q.leg == legEmbedded {
		return dnsOrigin{}
	}
	t.search(q, func(s *dnsSent) bool {
		l := s.lookup
		if l.leg != legEmbedded {
			return false
		}
		origin := l.origin()
		may, surely := origin.mayAsk(q, t.host)
		if may && (surely || best.lookup == nil || best.lookup.Forwarded && !l.Forwarded) {
			best = origin
		}
		return surely
	})
	if best.serial != 0 {
		return best
	}
	if ended := t.origins.find(dnsNumber{q.id, q.question}, t.now); ended.serial != 0 {
		if may, _ := ended.mayAsk(q, t.host); may {
			return ended
		}
	}
	return dnsOrigin{}
}

// isAskedOn tells whether the engine may go on asking for a lookup that has ended.
func (l *dnsPending) isAskedOn() bool {
	return l.leg == legEmbedded && l.Forwarded && (l.Messages > 1 || l.Outcome != DNSAnswered)
}

const (
	// originPeriod is for how long the engine may go on at least: for 4 s with each of three servers (moby, libnetwork's resolver.go,
	// extIOTimeout and maxExtDNS).
	originPeriod = 15 * time.Second
	originLimit  = 1 << 12
)

// dnsOrigins remembers lookups that the engine may still ask somebody for, for one period to two.
type dnsOrigins struct {
	recent, older map[dnsNumber]dnsOrigin
	since         time.Time // when recent was begun
}

func (o *dnsOrigins) add(number dnsNumber, origin dnsOrigin, now time.Time) {
	o.age(now)
	if o.recent == nil || len(o.recent) >= originLimit {
		o.older, o.recent, o.since = o.recent, make(map[dnsNumber]dnsOrigin), now
	}
	origin.lookup = nil
	o.recent[number] = origin
}

func (o *dnsOrigins) find(number dnsNumber, now time.Time) dnsOrigin {
	o.age(now)
	if origin, found := o.recent[number]; found {
		return origin
	}
	return o.older[number]
}

func (o *dnsOrigins) age(now time.Time) {
	switch elapsed := now.Sub(o.since); {
	case elapsed >= 2*originPeriod:
		*o = dnsOrigins{since: now}
	case elapsed >= originPeriod:
		*o = dnsOrigins{older: o.recent, since: now}
	}
}

// search visits what waits that has a question's number, latest first, until visit returns true.
func (t *dnsTracker) search(q *dnsAsked, visit func(*dnsSent) bool) {
	at := t.numbered[dnsNumber{q.id, q.question}].back
	for range dnsSearchLimit {
		if at == nil || visit(at.of) {
			return
		}
		at = at.before
	}
}
