// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"hash/maphash"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const (
	defaultDNSTimeout = 5 * time.Second
	defaultDNSPending = 1 << 16
	// dnsGrace is how much later than the timeout a lookup is told that nobody has answered: a client that waits for just as
	// long, and then asks again, has one lookup.
	dnsGrace = 500 * time.Millisecond
	// dnsTryLimit is how many tries of a lookup are told, and how many sockets, servers and IDs it may have.
	dnsTryLimit = 16
	// dnsQuestionLimit is how many questions with the same ID one socket may have waiting. Clients have one.
	dnsQuestionLimit = 8
	// dnsTablesKept is how many may have waited for the tables to be kept, when nobody waits any more.
	dnsTablesKept = 1 << 12
	// dnsNewsLimit is how many bytes of lookups are kept for whoever reads them, about.
	dnsNewsLimit = 32 << 20

	portDNS   = 53
	portMDNS  = 5353
	portLLMNR = 5355
)

// dnsTracker makes lookups of packets. It goes by their times alone, and compares these by the monotonic clock, which nobody
// sets. It is not for concurrent use.
//
// A lookup waits until an answer comes to one of its exchanges, or until it was last asked long ago. All that wait are in
// the order in which they were last asked, which is the order in which their time is up.
type dnsTracker struct {
	timeout time.Duration
	room    int   // for exchanges
	host    Netns // from which the engine may ask for containers
	seed    maphash.Seed

	now    time.Time // the latest that is known
	loss   time.Time // packets got lost before; zero: none
	serial uint64    // of the latest lookup
	reader dnsReader

	waiting   chain[dnsPending]
	exchanges chains[dnsExchange, dnsSent]
	numbered  chains[dnsNumber, dnsSent] // the latest last
	alike     chains[dnsAlike, dnsPending]
	sent      int // in exchanges
	most      int // that were, since these tables are there: they never shrink

	origins    dnsOrigins
	overtaken  remembered    // exchanges of lookups that another one has answered
	ended      [3]remembered // exchanges of lookups that have ended, by their outcome
	forwarders remembered    // sockets by which the engine has asked for others
	streams    dnsStreams

	news   []DNSLookup
	bytes  int // of news, about
	odd    dnsOddities
	missed dnsMissed
}

// dnsMissed counts what the tracker cannot tell, since the start.
type dnsMissed struct {
	crowded    uint64 // lookups that were waited for no longer since there were too many
	unknown    uint64 // lookups whose answer may be among what got lost
	cut        uint64 // messages whose question was not copied to its end
	unmatched  uint64 // answers to what may have got lost
	broken     uint64 // times that a TCP stream could not be followed
	untracked  uint64 // TCP streams that were forgotten since there were too many
	unreported uint64 // lookups that nobody has read in time
}

// dnsExchange is a question's way, by which its answer comes back.
type dnsExchange struct {
	netns    Netns
	protocol uint8
	client   netip.AddrPort
	server   netip.AddrPort // of the embedded resolver with port 53, from which it answers
	id       uint16
}

// dnsSent is a question on its way. Several tries may have gone the same one.
type dnsSent struct {
	exchange dnsExchange
	lookup   *dnsPending
	try      int        // the latest, in the lookup's Tries
	stream   *dnsStream // of TCP
	answered bool

	ofExchange, ofNumber chained[dnsSent]
}

// dnsPending is a lookup that waits for an answer.
type dnsPending struct {
	DNSLookup

	leg   dnsLeg
	since time.Time // when it was first and last asked, by the tracker's clock
	last  time.Time
	round dnsRound
	sent  []*dnsSent // its exchanges
	first dnsSent    // the first of them, and room for the list: mostly there is no other
	one   [1]*dnsSent

	ofWaiting, ofAlike chained[dnsPending]
}

// dnsPath is how a message went.
type dnsPath struct {
	netns    Netns
	protocol uint8
	outgoing bool
	local    netip.AddrPort
	peer     netip.AddrPort
	at       time.Time  // of TCP: of its last byte
	stream   *dnsStream // of TCP
}

// dnsAsked is a question that leaves a socket.
type dnsAsked struct {
	dnsExchange
	peer      netip.AddrPort // the server as the socket has it
	at        time.Time
	stream    *dnsStream // of TCP
	leg       dnsLeg
	question  DNSQuestion
	recurse   bool
	forwardOf dnsOrigin
}

// newDNSTracker returns a tracker for a host whose own network namespace is that one.
func newDNSTracker(config DNSConfig, host Netns) *dnsTracker {
	if config.Timeout <= 0 {
		config.Timeout = defaultDNSTimeout
	}
	if config.Pending <= 0 {
		config.Pending = defaultDNSPending
	}
	t := &dnsTracker{
		timeout:    config.Timeout,
		room:       config.Pending,
		host:       host,
		seed:       maphash.MakeSeed(),
		ended:      newDNSMemory(config.Timeout),
		overtaken:  remembered{period: config.Timeout, limit: rememberedAnswers},
		forwarders: remembered{period: max(rememberedFor, config.Timeout+dnsGrace), limit: rememberedAnswers},
		streams:    newDNSStreams(),
	}
	t.makeTables()
	return t
}

// makeTables makes those of what waits anew.
func (t *dnsTracker) makeTables() {
	t.most = 0
	t.exchanges = make(chains[dnsExchange, dnsSent])
	t.numbered = make(chains[dnsNumber, dnsSent])
	t.alike = make(chains[dnsAlike, dnsPending])
}

// packet takes note of one. They come in the order in which they left and reached sockets.
func (t *dnsTracker) packet(p *dnsPacket) {
	t.tick(p.at)
	length := max(p.length, len(p.payload))
	path := dnsPath{netns: p.netns, protocol: p.protocol, outgoing: p.outgoing, local: p.source, peer: p.destination, at: p.at}
	if !p.outgoing {
		path.local, path.peer = p.destination, p.source
	}
	switch p.protocol {
	case unix.IPPROTO_UDP:
		t.message(&path, p.payload, length)
	case unix.IPPROTO_TCP:
		t.segment(&path, p.flags, dnsSegment{p.sequence, length, p.payload})
	}
}

// lost takes note that packets got lost before at, not all of them long before.
func (t *dnsTracker) lost(at time.Time) {
	if at.After(t.loss) {
		t.loss = at
	}
}

// advance ends what nobody has answered. All packets until now must have come.
func (t *dnsTracker) advance(now time.Time) { t.tick(now) }

func (t *dnsTracker) tick(now time.Time) {
	if !now.After(t.now) { // packets of several processors may come a little out of order
		return
	}
	t.now = now
	for l := t.waiting.front; l != nil && now.Sub(l.of.last) > t.timeout+dnsGrace; l = t.waiting.front {
		t.giveUp(l.of)
	}
	t.streams.expire(now)
}

// message takes note of one, of which there may be only the beginning.
func (t *dnsTracker) message(p *dnsPath, copied []byte, length int) {
	m, flaw := t.reader.read(copied, length)
	group := groupOf(p.peer)
	switch {
	case flaw == dnsCut:
		t.missed.cut++
	case flaw == dnsMalformed:
		t.count(p, group, malformed(p))
	case m.response == p.outgoing:
		// Somebody serves here. Of those who do, no more is seen than what they and their clients send from port 53.
		if group == DNSUnicast && p.local.Port() != portDNS {
			t.count(p, group, malformed(p))
		}
	case m.opcode != 0:
		if !knownOpcode(m.opcode) {
			t.count(p, group, malformed(p))
		}
	case p.outgoing:
		t.question(p, group, m)
	case group == DNSUnicast:
		t.answer(p, m)
	}
}

// malformed is what a message is that is not what it should be.
func malformed(p *dnsPath) DNSOddity {
	if p.outgoing {
		return DNSMalformedQuery
	}
	return DNSMalformedResponse
}

// knownOpcode tells whether a message may be sent for another purpose than to look something up: IQUERY, STATUS, NOTIFY,
// UPDATE, DSO.
func knownOpcode(code dnsmessage.OpCode) bool { return code <= 6 && code != 3 }

// groupOf tells the protocol by who is asked or answers. The embedded resolver's port may be any.
func groupOf(peer netip.AddrPort) DNSGroup {
	switch {
	case peer.Addr() == embeddedResolver:
		return DNSUnicast
	case peer.Port() == portMDNS:
		return MulticastDNS
	case peer.Port() == portLLMNR:
		return LLMNR
	}
	return DNSUnicast
}

func exchangeOf(p *dnsPath, id uint16) dnsExchange {
	server := p.peer
	if server.Addr() == embeddedResolver {
		server = netip.AddrPortFrom(embeddedResolver, portDNS)
	}
	return dnsExchange{p.netns, p.protocol, p.local, server, id}
}

func (t *dnsTracker) tell(l *DNSLookup) {
	bytes := l.memory()
	if t.bytes+bytes > dnsNewsLimit {
		t.missed.unreported++
		return
	}
	t.bytes += bytes
	t.news = append(t.news, *l)
}

// memory is how many bytes a lookup takes, about.
func (l *DNSLookup) memory() int {
	return int(unsafe.Sizeof(*l)) + len(l.Question.Name) + cap(l.Tries)*int(unsafe.Sizeof(DNSTry{})) +
		cap(l.Answer.Addresses)*int(unsafe.Sizeof(netip.Addr{}))
}

// crowded tells whether so much waits to be read that it should be soon.
func (t *dnsTracker) crowded() bool { return t.bytes > dnsNewsLimit/8 }

// take hands out the news.
func (t *dnsTracker) take() DNSNews {
	news := DNSNews{Lookups: t.news, Odd: t.odd.take()}
	t.news, t.bytes = nil, 0
	return news
}

// losses says what cannot be told, since the start: lookups that were waited for no longer than there was room (not_awaited),
// those whose answer may have got lost (answer_unknown), answers to what may have got lost (unmatched), messages whose
// question was not copied to its end (cut), times that a TCP stream could not be followed (stream_broken), streams that were
// too many to follow (stream_forgotten), and lookups that nobody has read in time (unread).
func (t *dnsTracker) losses() []Loss {
	return []Loss{
		{"not_awaited", t.missed.crowded},
		{"answer_unknown", t.missed.unknown},
		{"unmatched", t.missed.unmatched},
		{"cut", t.missed.cut},
		{"stream_broken", t.missed.broken},
		{"stream_forgotten", t.missed.untracked},
		{"unread", t.missed.unreported},
	}
}

// usage says how much is remembered.
func (t *dnsTracker) usage() []MapUsage {
	return []MapUsage{
		{Map: "dns_pending", Entries: t.sent, Capacity: t.room},
		{Map: "dns_streams", Entries: len(t.streams.by), Capacity: dnsStreamLimit},
		{Map: "dns_stream_bytes", Entries: t.streams.bytes, Capacity: dnsStreamBytes},
	}
}
