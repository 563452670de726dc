// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"time"

	"github.com/miekg/dns"

	"github.com/bridgewatch/bridgewatch/loader"
)

// dnsPending is what the dns signal's news wait for, and what they are explained by. Its zero value is ready.
type dnsPending struct {
	lookups  []waiting[loader.DNSLookup]
	odd      []waiting[loader.DNSOdd]
	names    nameList
	searches searches
	resolved resolvedAddresses
	// confs are the resolv.confs of containers, by their IDs, and the host's under the empty one.
	confs map[string]loader.ResolvConf
	told  int // how many lookups the last reading had, within reason
}

// maxTold bounds the room that is made before it is known how many lookups there are.
const maxTold = 4096

// AttributeDNS says what the dns signal's news mean. What is of a container that nobody has told of yet waits, as in
// [State.Attribute].
func (s *State) AttributeDNS(news loader.DNSNews) DNS {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	pending := &s.pending.dns
	told := DNS{Lookups: make([]Lookup, 0, max(pending.told, len(news.Lookups)))}
	pending.lookups = s.settleLookups(pending.lookups, news.Lookups, now, &told)
	pending.odd, told.Odd = settle(pending.odd, news.Odd, now, s.settleOdd)
	pending.resolved.forget(s.members)
	s.noteAnswers(told.Lookups)
	s.findExpansions(&told)
	s.tasks.want(now)
	pending.told = min(len(told.Lookups), maxTold)
	return told
}

// DNSLosses returns what is not known of lookups for good.
//   - "searches": names that found nothing and may have been a search suffix's, for want of room.
//   - "answers": addresses that containers were given, for want of room: their use is not known to be late.
func (s *State) DNSLosses() []loader.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := &s.pending.dns
	return []loader.Loss{
		{Place: "searches", Count: pending.searches.refused},
		{Place: "answers", Count: pending.resolved.refused},
	}
}

// settleLookups does what settle does, without copies of what does not have to wait: there may be very many.
func (s *State) settleLookups(
	old []waiting[loader.DNSLookup], news []loader.DNSLookup, now time.Time, told *DNS,
) []waiting[loader.DNSLookup] {
	wait := old[:0]
	try := func(l *loader.DNSLookup, since time.Time) {
		late := now.Sub(since) >= patience || len(wait) >= maxPending
		lookup, final := s.lookup(l, late)
		if final || late {
			told.Lookups = append(told.Lookups, lookup)
			return
		}
		wait = append(wait, waiting[loader.DNSLookup]{record: *l, since: since})
	}
	for i := range old {
		try(&old[i].record, old[i].since)
	}
	for i := range news {
		try(&news[i], now)
	}
	if len(wait) == 0 {
		return nil // and give the room back
	}
	return wait
}

// lookup says what is known of one. It is not final while its owner may still become known, or the end of whoever has the
// name, which the engine tells a moment later than it stops to serve it. late: there is no more time for either.
func (s *State) lookup(l *loader.DNSLookup, late bool) (lookup Lookup, final bool) {
	lookup = Lookup{DNSLookup: *l, Resolver: resolverOf(l), QType: qtype(l.Question.Type)}
	if l.Outcome == loader.DNSAnswered {
		lookup.RCode = rcode(l.Answer.RCode)
	}
	asker, known := s.asker(clientOf(l))
	lookup.Scope = s.scopeOf(l.Netns)
	lookup.Inferred = l.ForwardOf != 0 && l.AskedFor != l.Netns
	if asker == nil {
		return lookup, known
	}
	lookup.Identity = asker.Identity
	lookup.Network = asker.network([6]byte{})
	lookup.ContainerID = asker.ID
	lookup.Misname, lookup.Targets = s.misname(&lookup, asker, late)
	if lookup.Misname == MisnameMissing && !late {
		return lookup, false
	}
	lookup.Answerers = s.answerers(&lookup, asker)
	return lookup, true
}

// clientOf is the namespace of whoever wants to know: of what the engine asks from the host's, the container's.
func clientOf(l *loader.DNSLookup) loader.Netns {
	if l.ForwardOf != 0 {
		return l.AskedFor
	}
	return l.Netns
}

// asker finds the container whose namespace it is. It is known that there is none only of the host's, the engine's own, and of none
// at all.
func (s *State) asker(netns loader.Netns) (m *member, known bool) {
	if netns == s.config.Host || netns == 0 || s.sandboxAt(netns) != nil {
		return nil, true
	}
	m = s.members[s.netns[netns]]
	if m == nil || m.Name == "" { // the latter: a container that this host's engine does not know, or not yet
		return nil, false
	}
	return m, true
}

func (s *State) scopeOf(netns loader.Netns) Scope {
	if netns == s.config.Host {
		return ScopeHost
	}
	if state := s.sandboxAt(netns); state != nil {
		return scopeOfSandbox(state.Kind)
	}
	if m, _ := s.asker(netns); m != nil {
		return ScopeContainer
	}
	return ScopeUnknown
}

// settleOdd gives the owner of messages that belong to no lookup.
func (s *State) settleOdd(odd loader.DNSOdd, waited time.Duration) (OddMessage, bool) {
	message := OddMessage{DNSOdd: odd, Scope: s.scopeOf(odd.Netns), Resolver: resolverAt(odd.Group, odd.Server == resolver())}
	if odd.Forwarded && odd.Group == loader.DNSUnicast {
		message.Resolver = ResolverUpstream
	}
	asker, known := s.asker(odd.Netns)
	if asker != nil {
		message.Identity = asker.Identity
		message.Network = asker.network([6]byte{})
	}
	return message, known || waited >= patience
}

func resolverOf(l *loader.DNSLookup) Resolver {
	if l.Group == loader.DNSUnicast && l.ForwardOf != 0 {
		return ResolverUpstream
	}
	return resolverAt(l.Group, l.Embedded())
}

func resolverAt(group loader.DNSGroup, embedded bool) Resolver {
	switch {
	case group == loader.MulticastDNS:
		return ResolverMDNS
	case group == loader.LLMNR:
		return ResolverLLMNR
	case embedded:
		return ResolverEmbedded
	}
	return ResolverDirect
}

// qtype names a question's type, one of QTypes.
func qtype(number uint16) string {
	switch number {
	case dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeSRV, dns.TypeMX, dns.TypeTXT, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA,
		dns.TypeHTTPS, dns.TypeSVCB, dns.TypeANY:
		return dns.TypeToString[number]
	}
	return otherCode
}

// rcode names a response code, one of RCodes.
func rcode(number uint16) string {
	switch number {
	case dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeNotImplemented,
		dns.RcodeRefused:
		return dns.RcodeToString[int(number)]
	}
	return otherCode
}
