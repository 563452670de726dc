// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// This file keeps what became of lookups: the part of Recent that the dns signal feeds.

// Bounds of what is kept. A container has two legs and a few servers; programs choose servers, and names that are Docker's.
const (
	maxLegs       = 4096
	maxServers    = 4096
	maxServersOf  = 64 // one container
	maxMisnamed   = 1024
	maxCollisions = 1024
	maxStale      = 1024
	maxTruncated  = 1024
	maxPending    = 8 // truncated answers of one container that may still be followed by a whole one
)

const (
	// stall is how long a lookup takes at least that was asked again for want of an answer: resolvers wait 5 s, or 2.5.
	stall = 2 * time.Second
	// patience is how long somebody waits at least who gives a server up. Who asks several servers at once, or all anew for
	// the next name, has given up none.
	patience = time.Second
	// prompt is how long an answer takes at most for which nobody else was waited for.
	prompt = time.Second
	// whole is how long a whole answer may take to follow one that was cut short: the 5 s that a resolver waits, and the time
	// to the next reading.
	whole = 7 * time.Second
)

// dnsRecent is what is kept of lookups.
type dnsRecent struct {
	legs       bounded[legKey, legEntry]
	servers    serverTable
	misnamed   bounded[misnamedKey, misnamedEntry]
	collisions bounded[Subject, collisionEntry]
	stale      bounded[staleKey, staleEntry]
	truncated  bounded[legKey, truncatedEntry]
}

func newDNSRecent() dnsRecent {
	return dnsRecent{
		legs:       newBounded[legKey, legEntry](maxLegs),
		servers:    serverTable{bounded: newBounded[serverKey, serverEntry](maxServers), of: make(map[string]int)},
		misnamed:   newBounded[misnamedKey, misnamedEntry](maxMisnamed),
		collisions: newBounded[Subject, collisionEntry](maxCollisions),
		stale:      newBounded[staleKey, staleEntry](maxStale),
		truncated:  newBounded[legKey, truncatedEntry](maxTruncated),
	}
}

// legKey is a container's leg.
type legKey struct {
	id       string
	scope    enrich.Scope
	resolver enrich.Resolver
}

type legEntry struct {
	identity   enrich.Identity
	lookups    slotted
	reverse    slotted
	timedOut   slotted
	servFail   slotted
	refused    slotted
	reverseRef slotted
	failing    [distinctFails]failingName
	stalled    slotted
	inferred   slotted
	expansions slotted
	domain     string
	server     netip.Addr // of the latest failure
	lateFail   time.Time
	course     course
	unasked    slotted
}

// failingName is a name that was not found out, and when that was last told.
type failingName struct {
	name string
	at   time.Time
}

type serverKey struct {
	legKey
	address netip.Addr
}

// serverTable has room for so many servers, and for fewer of any one container.
type serverTable struct {
	bounded[serverKey, serverEntry]
	of   map[string]int // how many are kept of a container, by its ID
	full time.Time      // when a container's server last found no room that its own others did not take
}

// entry finds or makes that of a server; nil: there is no room.
func (t *serverTable) entry(key serverKey, now time.Time) *serverEntry {
	if e := t.entries[key]; e != nil {
		return e
	}
	if t.of[key.id] >= maxServersOf {
		t.rest++
		return nil
	}
	e := t.bounded.entry(key, 1)
	if e == nil {
		t.full = now
		return nil
	}
	t.of[key.id]++
	return e
}

type serverEntry struct {
	identity    enrich.Identity
	lost        slotted // lookups
	tries       slotted
	failures    slotted
	refused     slotted
	unanswered  uint64 // since answered
	lookups     uint64 // that these are of
	serial      uint64 // of the latest of them
	first, last time.Time
	answered    time.Time
}

type misnamedKey struct {
	legKey
	name   string
	reason enrich.Misname
}

type misnamedEntry struct {
	identity    enrich.Identity
	lookups     slotted
	first, last time.Time
	targets     []enrich.NameTarget
}

type collisionEntry struct {
	answers   slotted
	id        string
	answerers []enrich.Answerer
}

type staleKey struct {
	id      string
	scope   enrich.Scope
	address netip.Addr
}

type staleEntry struct {
	packets     slotted
	first, last time.Time
	example     enrich.StaleUse
}

type truncatedEntry struct {
	identity  enrich.Identity
	answers   slotted
	alone     slotted
	tcpSilent slotted
	server    netip.Addr
	pending   []cutAnswer
}

// cutAnswer is a question whose answer was cut short, and when that was read.
type cutAnswer struct {
	name string
	kind uint16
	at   time.Time
}

// AddDNS takes in lookups that have ended. What is not a container's is left out.
func (r *Recent) AddDNS(dns enrich.DNS, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range dns.Lookups {
		if l := &dns.Lookups[i]; l.ContainerID != "" && l.Group == loader.DNSUnicast {
			r.dns.add(l, now)
		}
	}
	for i := range dns.Expansions {
		r.dns.expand(&dns.Expansions[i], now)
	}
	for i := range dns.Stale {
		r.dns.use(&dns.Stale[i], now)
	}
}

func (d *dnsRecent) add(l *enrich.Lookup, now time.Time) {
	key := legKey{l.ContainerID, l.Scope, l.Resolver}
	var noWhole bool
	if l.Resolver != enrich.ResolverUpstream { // what the engine does with a short answer is the client's to mend
		noWhole = d.cut(key, l, now)
	}
	// Who asks without wanting recursion is a resolver itself. It asks the world's servers, of which some are always dead.
	if l.RecursionDesired {
		if e := d.legs.entry(key, 1); e != nil {
			e.add(l, noWhole, now)
		}
		if l.Resolver != enrich.ResolverEmbedded {
			d.ask(key, l, now)
		}
	}
	if l.Misname != "" {
		d.misname(key, l, now)
	}
	if l.Resolver == enrich.ResolverEmbedded {
		d.collide(l, now)
	}
}

// add takes in a lookup. noWhole: it only failed to get the whole of an answer that was cut short, of which another finding tells.
func (e *legEntry) add(l *enrich.Lookup, noWhole bool, now time.Time) {
	e.identity = l.Identity
	e.lookups.add(now, 1)
	if l.QType == reverse {
		e.reverse.add(now, 1)
	}
	switch l.Outcome {
	case loader.DNSTimedOut:
		e.timedOut.add(now, 1)
		if l.Resolver == enrich.ResolverEmbedded && !l.Forwarded {
			e.unasked.add(now, 1)
		}
		e.server = l.Server.Addr()
		return
	case loader.DNSAnswered:
	default:
		return
	}
	if noWhole {
		return
	}
	if l.RCode == servFail || l.RCode == refused {
		e.fail(l, now)
	}
	e.course.add(l, now)
	if l.Retries > 0 && l.Duration() >= stall {
		e.stalled.add(now, 1)
	}
	if l.Inferred {
		e.inferred.add(now, 1)
	}
}

// fail notes an answer that says that something is wrong. Addresses without a name, of which mail servers and logs ask, have many.
func (e *legEntry) fail(l *enrich.Lookup, now time.Time) {
	e.server = l.Server.Addr()
	if l.RCode == servFail && l.Duration() >= prompt {
		e.lateFail = now
	}
	switch {
	case l.RCode == servFail && l.QType != reverse:
		e.servFail.add(now, 1)
	case l.RCode == refused && l.QType == reverse:
		e.reverseRef.add(now, 1)
		fallthrough
	case l.RCode == refused:
		e.refused.add(now, 1)
	}
	if l.QType != reverse {
		e.failName(cmp.Or(l.Base, l.Question.Name), now)
	}
}

// failName keeps a few names: those that failed last.
func (e *legEntry) failName(name string, now time.Time) {
	oldest := &e.failing[0]
	for i := range e.failing {
		f := &e.failing[i]
		if f.name == name {
			f.at = now
			return
		}
		if f.at.Before(oldest.at) {
			oldest = f
		}
	}
	*oldest = failingName{name, now}
}

// failingNames is how many different names failed within the Window, as far as that is kept.
func (e *legEntry) failingNames(now time.Time) (n int) {
	for _, f := range e.failing {
		if !f.at.IsZero() && now.Sub(f.at) < Window {
			n++
		}
	}
	return n
}

// Codes of answers, and a type of questions, as enrich names them.
const (
	servFail = "SERVFAIL"
	refused  = "REFUSED"
	reverse  = "PTR"
)

// ask notes which servers a lookup asked, and which of them answered. Where records were lost nobody knows who did.
func (d *dnsRecent) ask(key legKey, l *enrich.Lookup, now time.Time) {
	for i := range l.Tries {
		try := &l.Tries[i]
		e := d.servers.entry(serverKey{key, try.Server.Addr()}, now)
		if e == nil {
			continue
		}
		e.identity = l.Identity
		e.tries.add(now, 1)
		switch {
		case !try.Answer.IsZero():
			e.answer(try.Answer)
		case l.Outcome != loader.DNSUnknown && isGivenUp(l, i) && try.Asked.After(e.answered):
			e.giveUp(try.Asked, l.Serial, now)
		}
	}
	if e := d.servers.entries[serverKey{key, l.Server.Addr()}]; e != nil && l.Outcome == loader.DNSAnswered {
		e.answer(l.Answered)
		if l.RCode == servFail || l.RCode == refused {
			e.failures.add(now, 1)
		}
		if l.RCode == refused {
			e.refused.add(now, 1)
		}
	}
}

// isGivenUp tells whether a try was waited for in vain.
func isGivenUp(l *enrich.Lookup, i int) bool {
	if !l.Tries[i].GaveUp {
		return false
	}
	return i+1 == len(l.Tries) || l.Tries[i+1].Asked.Sub(l.Tries[i].Asked) >= patience
}

// answer notes that a server is there. What it did not answer before that is over. Of what was asked since, the end may have
// come first.
func (e *serverEntry) answer(at time.Time) {
	if at.After(e.answered) {
		e.answered = at
	}
	if !e.last.After(e.answered) {
		e.unanswered, e.lookups, e.lost, e.first, e.last = 0, 0, slotted{}, time.Time{}, time.Time{}
	}
}

func (e *serverEntry) giveUp(asked time.Time, serial uint64, now time.Time) {
	if e.unanswered == 0 || asked.Before(e.first) {
		e.first = asked
	}
	if asked.After(e.last) {
		e.last = asked
	}
	if e.unanswered == 0 || serial != e.serial {
		e.lookups++
		e.lost.add(now, 1)
	}
	e.serial = serial
	e.unanswered++
}

// misname notes a name of Docker's that was asked for in vain; with a search domain behind it, as without. One that nobody has had
// for long need not be known yet.
func (d *dnsRecent) misname(key legKey, l *enrich.Lookup, now time.Time) {
	e := d.misnamed.entry(misnamedKey{key, cmp.Or(l.Base, l.Question.Name), l.Misname}, 1)
	if e == nil {
		return
	}
	e.identity, e.targets = l.Identity, l.Targets
	if l.Misname == enrich.MisnameMissing && !slices.ContainsFunc(l.Targets, knownAt(l.Asked())) {
		return
	}
	if now.Sub(e.last) >= Window {
		e.first = now
	}
	e.last = now
	e.lookups.add(now, 1)
}

// known is how long somebody must have run where the asker could find it to be missed.
const known = time.Minute

// knownAt tells of who has a name whether the engine's resolver must have known it at a time.
func knownAt(at time.Time) func(enrich.NameTarget) bool {
	return func(t enrich.NameTarget) bool { return !t.Since.IsZero() && at.Sub(t.Since) >= known }
}

// collide notes an answer with the addresses of several. Those of one service share its name, and are meant to, as services of one
// project or stack mostly are.
func (d *dnsRecent) collide(l *enrich.Lookup, now time.Time) {
	network, several := shares(l.Answerers)
	if !several {
		return
	}
	subject := Subject{Identity: enrich.Identity{Network: network}, Scope: enrich.ScopeHost, Object: l.Question.Name}
	if e := d.collisions.entry(subject, 1); e != nil {
		e.answers.add(now, 1)
		e.id, e.answerers = l.ContainerID, l.Answerers
	}
}

// shares tells whether addresses belong to several projects, or services or containers without one, and on which network they
// are. The embedded resolver answers from one network at a time. An address that is nobody's here says nothing.
func shares(answerers []enrich.Answerer) (network string, several bool) {
	var first enrich.Identity
	for _, a := range answerers {
		owner := ownerOf(a.Owner)
		switch {
		case owner == (enrich.Identity{}):
		case first == (enrich.Identity{}):
			first, network = owner, a.Owner.Network
		case owner != first || owner == enrich.Identity{Container: enrich.AdHoc}:
			several = true
		}
	}
	return network, several
}

// ownerOf is the project or stack of an identity; of one that is of none, the service, or else the container.
func ownerOf(i enrich.Identity) enrich.Identity {
	switch {
	case i.Stack != "":
		return enrich.Identity{Stack: i.Stack}
	case i.Service != "":
		return enrich.Identity{Service: i.Service}
	}
	return enrich.Identity{Container: i.Container}
}

// cut keeps answers over UDP that were cut short until a whole one follows. It tells of a lookup whether it asked for a whole one
// over TCP, and no server gave any answer.
func (d *dnsRecent) cut(key legKey, l *enrich.Lookup, now time.Time) (noWhole bool) {
	tcp := l.Protocol == unix.IPPROTO_TCP
	short := l.Outcome == loader.DNSAnswered && l.Answer.Truncated && !tcp
	e := d.truncated.entries[key]
	if short {
		e = d.truncated.entry(key, 1)
	}
	if e == nil {
		return false
	}
	e.identity = l.Identity
	e.expire(now)
	asked := cutAnswer{l.Question.Name, l.Question.Type, now}
	switch {
	case short:
		e.answers.add(now, 1)
		e.server = l.Server.Addr()
		if e.pending = e.without(asked); len(e.pending) < maxPending {
			e.pending = append(e.pending, asked)
		}
	case l.Outcome == loader.DNSAnswered && !l.Failed():
		e.pending = e.without(asked)
	case tcp && (l.Outcome == loader.DNSTimedOut || reachesNobody(l)):
		e.tcpSilent.add(now, 1)
		return len(e.pending) > 0 // of whichever question: not all are kept
	}
	return false
}

// reachesNobody tells whether the engine failed of itself, since it could ask no server. Over TCP that is so where the server does
// not take the connection. 20.10 then says nothing.
func reachesNobody(l *enrich.Lookup) bool {
	return l.Resolver == enrich.ResolverEmbedded && l.RCode == servFail && !l.Forwarded
}

// without is what is pending but for a question.
func (e *truncatedEntry) without(asked cutAnswer) []cutAnswer {
	return slices.DeleteFunc(e.pending, func(c cutAnswer) bool { return c.name == asked.name && c.kind == asked.kind })
}

// expire counts what no whole answer has followed for too long.
func (e *truncatedEntry) expire(now time.Time) {
	e.pending = slices.DeleteFunc(e.pending, func(c cutAnswer) bool {
		if now.Sub(c.at) < whole {
			return false
		}
		e.alone.add(now, 1)
		return true
	})
}

// expand notes what a search domain made of a lookup that was taken in with it, or before.
func (d *dnsRecent) expand(x *enrich.Expansion, now time.Time) {
	if e := d.legs.entries[legKey{x.ContainerID, x.Scope, x.Resolver}]; e != nil {
		e.expansions.add(now, 1)
		e.domain = strings.TrimPrefix(strings.TrimPrefix(x.Name, x.Base), ".")
	}
}

func (d *dnsRecent) use(u *enrich.StaleUse, now time.Time) {
	e := d.stale.entry(staleKey{u.ContainerID, u.Scope, u.Address}, u.Packets)
	if e == nil {
		return
	}
	if now.Sub(e.last) >= Window {
		e.first = now
	}
	e.last = now
	e.packets.add(now, u.Packets)
	e.example = *u
}

// overflow says what concerned somebody for whom there was no room.
func (d *dnsRecent) overflow() []loader.Loss {
	return []loader.Loss{
		{Place: "recent_lookups", Count: d.legs.rest},
		{Place: "recent_servers", Count: d.servers.rest},
		{Place: "recent_misnamed", Count: d.misnamed.rest},
		{Place: "recent_collisions", Count: d.collisions.rest},
		{Place: "recent_stale", Count: d.stale.rest},
		{Place: "recent_truncated", Count: d.truncated.rest},
	}
}
