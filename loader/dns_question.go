// SPDX-License-Identifier: Apache-2.0

package loader

// question takes note of one that leaves a socket.
func (t *dnsTracker) question(p *dnsPath, group DNSGroup, m *dnsMessage) {
	if !m.asks {
		t.count(p, group, DNSMalformedQuery)
		return
	}
	exchange := exchangeOf(p, m.id)
	if group != DNSUnicast {
		t.unawaited(&dnsAsked{dnsExchange: exchange, peer: p.peer, at: p.at, question: m.question()}, group)
		return
	}
	sent := t.match(exchange, m)
	if sent != nil && !t.mayRetry(sent.lookup) {
		t.giveUp(sent.lookup)
		sent = nil
	}
	if sent != nil {
		t.again(sent, p.peer, p.at)
		return
	}
	q := &dnsAsked{dnsExchange: exchange, peer: p.peer, at: p.at, stream: p.stream, leg: legOf(p.peer.Addr()), question: m.question(), recurse: m.recurse}
	q.forwardOf = t.forwardOf(q)
	lookup := t.retried(q)
	if lookup == nil {
		lookup = t.begin(q)
	}
	t.send(lookup, q)
}

// unawaited tells of a question to a group, which anybody or nobody answers.
func (t *dnsTracker) unawaited(q *dnsAsked, group DNSGroup) {
	if group == MulticastDNS {
		q.question.Class &^= mdnsUnicast
	}
	t.serial++
	t.tell(&DNSLookup{
		Serial: t.serial, Netns: q.netns, Protocol: q.protocol, Group: group, Client: q.client, ID: q.id,
		Question: q.question, Tries: []DNSTry{{Server: q.peer, Asked: q.at}}, Messages: 1, Outcome: DNSUnawaited, Server: q.peer,
	})
}

// begin returns a new lookup, which has not been asked yet.
func (t *dnsTracker) begin(q *dnsAsked) *dnsPending {
	t.serial++
	l := &dnsPending{leg: q.leg, since: t.now, DNSLookup: DNSLookup{
		Serial: t.serial, Netns: q.netns, Protocol: q.protocol, Question: q.question, RecursionDesired: q.recurse,
	}}
	l.ForwardOf, l.AskedFor = q.forwardOf.serial, q.forwardOf.netns
	if waiting := q.forwardOf.lookup; waiting != nil {
		waiting.Forwarded = true
	}
	l.ofWaiting.of, l.ofAlike.of, l.sent = l, l, l.one[:0]
	return l
}

// send has a lookup wait for another exchange.
func (t *dnsTracker) send(l *dnsPending, q *dnsAsked) {
	s := &l.first
	if len(l.sent) > 0 {
		s = new(dnsSent)
	}
	*s = dnsSent{exchange: q.dnsExchange, lookup: l, stream: q.stream}
	s.ofExchange.of, s.ofNumber.of = s, s
	l.sent = append(l.sent, s)
	t.exchanges.push(s.exchange, &s.ofExchange)
	t.numbered.push(s.number(), &s.ofNumber)
	t.sent++
	t.most = max(t.most, t.sent)
	t.again(s, q.peer, q.at)
	t.makeRoom(s.exchange)
}

// makeRoom ends those that were not asked for longest, if more wait than there is room for.
func (t *dnsTracker) makeRoom(latest dnsExchange) {
	for t.sent > t.room {
		t.missed.crowded++
		t.end(t.waiting.front.of, DNSUnknown)
	}
	questions := 0
	for at := t.exchanges[latest].front; at != nil; at = at.after {
		questions++
	}
	if questions > dnsQuestionLimit {
		t.missed.crowded++
		t.end(t.exchanges[latest].front.of.lookup, DNSUnknown)
	}
}

// match returns what went the same way and asks the same, or, if the message does not say what was asked, the latest.
func (t *dnsTracker) match(exchange dnsExchange, m *dnsMessage) *dnsSent {
	for at := t.exchanges[exchange].back; at != nil; at = at.before {
		if !m.asks || m.isAbout(&at.of.lookup.Question) {
			return at.of
		}
	}
	return nil
}
