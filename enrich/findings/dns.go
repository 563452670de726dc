// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// askRoot is a question that every working server answers at once, and that the embedded resolver hands on.
const askRoot = "dig +tries=1 +time=5 @{server} . NS"

// showResolvConf prints what a container has as /etc/resolv.conf. The engine notes its own servers there, too.
const showResolvConf = "cat $(docker inspect -f '{{.ResolvConfPath}}' {container})"

// dnsRules are about lookups that get no answer, or a bad one, whatever the name. No name is told: nobody has asked for that.
func dnsRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "servfail", Severity: Warning,
				Title:   "Lookups of a container fail: the answer is SERVFAIL.",
				Remedy:  "The evidence names the servers that fail. Mend them, or name others: dns in daemon.json for all containers, --dns for one. Which names fail says bridgewatch dns --failed.",
				Confirm: askRoot,
				Basis:   "answers of the embedded resolver, or of the server that a container asks itself, with SERVFAIL, or with the REFUSED that a server upstream gave, beside all lookups of the container in the last minute, unless good answers have followed since; without those for names of addresses (PTR), and those of a resolver that finds its own way",
			},
			// newer engines fail at once where a server is gone, of which it is told later: it is silent
			after: untold, inside: true,
			find: failing,
		},
		{
			Definition: Definition{
				ID: "upstream-blocked", Severity: Critical,
				Title:   "The DNS server that lookups of a container go to does not answer, or there is none.",
				Remedy:  "Let UDP and TCP port 53 pass to the server, or name one that is reached: dns in daemon.json for all containers, after which Docker and the containers have to be restarted; --dns for one that is made anew.",
				Confirm: askRoot,
				Basis:   "questions to a server that were asked again or given up without an answer, since the server last answered this container; of servers that a container asks itself, if a fifth of its lookups is lost to it or no other answers, and without questions of a resolver that finds its own way; or SERVFAIL at once from the embedded resolver, without any question of the engine's to a server",
			},
			inside: true,
			find:   blocked,
		},
		{
			Definition: Definition{
				ID: "resolver-overload", Severity: Warning,
				Title:   "The embedded resolver refuses or drops lookups of a container: too many wait for an answer.",
				Remedy:  "More than 1,024 lookups of one container wait for a server at once. See whether that server is slow, let the program keep answers, or run a cache on the container's network.",
				Confirm: "journalctl -u docker --since -15min --grep 'concurrent queries'",
				Basis:   "answers of the embedded resolver with REFUSED, beyond those that a server upstream gave; or lookups there that timed out and for which the engine asked nobody, while it answered others and its socket was there",
			},
			find: overloaded,
		},
		{
			Definition: Definition{
				ID: "resolver-nat-lost", Severity: Critical,
				Title:   "A container does not reach the embedded resolver: its rules or its socket are gone.",
				Remedy:  "Restart the container, which brings both back. If rules are gone, have nothing in the container flush the nat table; if it is the socket, see whether dockerd runs.",
				Confirm: askRoot,
				Basis:   "packets for 127.0.0.11 that a container's own loopback dropped since no socket took them: at port 53 where a rule should have sent them on, at another where the engine should have listened",
			},
			inside: true,
			find:   cutOff,
		},
		{
			Definition: Definition{
				ID: "internal-net-dns", Severity: Warning,
				Title:   "Lookups of a container on internal networks only reach DNS servers outside.",
				Remedy:  "Update the engine to 25.0.5, 26.0 or newer, which asks nobody from the host's namespace for such a container. Until then it can send out what it likes, in names.",
				Confirm: askRoot,
				Basis:   "lookups that the engine asked from the host's namespace for a container on internal networks only, and that were answered; matched to the container's by ID, name and time",
			},
			inside: true,
			find:   leakingNames,
		},
		{
			Definition: Definition{
				ID: "truncation", Severity: Warning,
				Title:   "Large DNS answers come cut short, and no whole one follows.",
				Remedy:  "Let TCP port 53 pass to the server, as UDP does. If the program never asks by TCP, let it use EDNS (--dns-opt edns0), or fewer records under one name.",
				Confirm: "dig +tcp +tries=1 +time=5 @{server} . NS",
				Basis:   "answers over UDP with the flag TC that no whole answer to the same question followed in seconds, over TCP or UDP",
			},
			inside: true,
			find:   truncating,
		},
		{
			Definition: Definition{
				ID: "ndots-search", Severity: Info,
				Title:   "Most lookups of a container only try search domains, and find nothing.",
				Remedy:  "End names with a dot, or give the container fewer search domains (--dns-search .) or ndots:1 (--dns-opt).",
				Confirm: showResolvConf,
				Basis:   "lookups of a name with a search domain behind it that found nothing, where the client had asked, or went on to ask, for the name without it",
			},
			find: expanding,
		},
	}
}

const (
	// fails is how many lookups must fail within the Window to make a finding: more than one name, A and AAAA, asked once.
	fails = 3
	// manyFails, or distinctFails names, is how many must be answered SERVFAIL where others are answered well: one name is somebody
	// else's to mend.
	manyFails     = 5
	distinctFails = 3
	// failShare is what part of a container's lookups these must be at least: one in ten. Of other people's names some always
	// fail, as who runs a mail server knows.
	failShare = 10
	// givenUp is how many tries at a server must get no answer, and givenUpOver the least time from the first to the last: what
	// was lost in a moment is asked again.
	givenUp     = 3
	givenUpOver = 3 * time.Second
	// lostShare is what part of a container's lookups a server must lose that it asks itself beside others: one in five.
	lostShare = 5
	// untold is until when it is known that nobody was asked, or answered: a lookup that nobody answers is told of after its timeout.
	untold = 12 * time.Second
	// manyUnasked is how many lookups an engine must have left unanswered of itself: those that it loses for other reasons are few.
	manyUnasked = 20
	// expansions is how many lookups of search domains somebody may ask about, and expansionShare what part they must be: half.
	expansions     = 20
	expansionShare = 2
)

// dnsHit concerns a container's lookups.
func (v *View) dnsHit(subject Subject, id string, server netip.Addr, evidence ...Fact) hit {
	h := hit{subject: subject, evidence: evidence, fill: map[string]string{"container": v.engineName(id), "server": "SERVER"}}
	if server.IsValid() {
		h.fill["server"] = server.String()
	}
	return h
}

// ofLookups is a part of a leg's lookups.
func ofLookups(name string, n uint64, l *Leg) Fact {
	return number(name, float64(n), fmt.Sprintf("of %d in the last minute", l.Lookups))
}

// upstreams is what containers' lookups asked of servers, by ID.
type upstreams map[string]*asked

type asked struct {
	servers []*Server
	refused uint64
	direct  uint64 // lookups that the container asks servers itself
	helped  bool   // by one of those servers that answers, or may
}

func (v *View) upstreams() upstreams {
	all := make(upstreams)
	for i := range v.DNS.Servers {
		s := &v.DNS.Servers[i]
		a := all[s.ContainerID]
		if a == nil {
			a = new(asked)
			all[s.ContainerID] = a
		}
		a.servers = append(a.servers, s)
		a.refused += s.Refused
		answers := s.Resolver == enrich.ResolverDirect && !s.isSilent() && !s.Answered.IsZero()
		a.helped = a.helped || answers || v.DNS.ServersMissing || len(a.servers) >= maxServersOf
	}
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		if a := all[l.ContainerID]; a != nil && l.Resolver == enrich.ResolverDirect {
			a.direct += l.Lookups
		}
	}
	return all
}

// blocks tells whether a server is silent, and whoever asks it feels that: the engine has few, and asks them in turn. A program that
// asks servers itself may ask many of the world's, of which some are dead.
func (a *asked) blocks(s *Server) bool {
	return s.isSilent() && (s.Resolver != enrich.ResolverDirect || !a.helped || s.Lost*lostShare >= a.direct)
}

// blocked tells whether one of a container's servers does.
func (u upstreams) blocked(id string) bool {
	a := u[id]
	return a != nil && slices.ContainsFunc(a.servers, a.blocks)
}

// passedOn is how many of so many REFUSED were a server's own: engines before 23.0 hand the last server's answer on.
func (u upstreams) passedOn(l *Leg, refused uint64) uint64 {
	if a := u[l.ContainerID]; a != nil {
		return min(refused, a.refused)
	}
	return 0
}

// isSilent tells whether a server does not answer any more, or never has. More than one lookup must say so: whoever tries out
// a server asks it three times.
func (s *Server) isSilent() bool {
	return s.Unanswered >= givenUp && s.Lookups > 1 && s.Last.Sub(s.First) >= givenUpOver
}

// failing finds containers of whose lookups too many fail, unless that has a reason of its own.
func failing(v *View) []hit {
	var hits []hit
	servers, running := v.upstreams(), v.running()
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		failed := l.ServFail + servers.passedOn(l, l.Refused-l.ReverseRefused)
		if l.Resolver == enrich.ResolverUpstream || !v.failsMuch(l, failed) || v.isOver(l) ||
			servers.blocked(l.ContainerID) || v.asksNobody(l, servers) || v.isSealed(l, running) {
			continue
		}
		h := v.dnsHit(l.Subject, l.ContainerID, l.Server, ofLookups("lookups that failed", failed, l))
		if names := servers.failing(l.ContainerID); names != "" {
			h.evidence = append(h.evidence, text("servers that fail", names))
		}
		hits = append(hits, h)
	}
	return hits
}

// failsMuch tells whether so many of a leg's lookups fail that it is not for want of one name: many, of several names, or all. Reverse
// ones are left out.
func (v *View) failsMuch(l *Leg, failed uint64) bool {
	lookups := l.Lookups - l.Reverse
	return v.enough(failed, fails) && failed*failShare >= lookups &&
		(failed >= manyFails || l.FailingNames >= distinctFails || failed >= lookups)
}

// failing names the servers that say so themselves.
func (u upstreams) failing(id string) string {
	var names []string
	if a := u[id]; a != nil {
		for _, s := range a.servers {
			if s.Failures > 0 {
				names = append(names, fmt.Sprintf("%s (%d of %d tries)", s.Address, s.Failures, s.Tries))
			}
		}
	}
	return list(names)
}

// isSealed tells whether a leg is that of a container on internal networks only, whose lookups are meant to lead nowhere.
func (v *View) isSealed(l *Leg, running map[string]*enrich.LiveContainer) bool {
	c := running[l.ContainerID]
	return c != nil && l.Resolver == enrich.ResolverEmbedded && v.onInternalOnly(c)
}

// asksNobody tells whether the engine seems to know no server to ask for a container.
func (v *View) asksNobody(l *Leg, servers upstreams) bool {
	return l.Resolver == enrich.ResolverEmbedded && v.enough(l.ServFail, fails) && l.LateFail.IsZero() && servers[l.ContainerID] == nil &&
		!v.DNS.ServersMissing
}

// blocked finds containers and the servers that do not answer them, and those for which there is none.
func blocked(v *View) []hit {
	var hits []hit
	servers, running := v.upstreams(), v.running()
	for i := range v.DNS.Servers {
		if s := &v.DNS.Servers[i]; servers[s.ContainerID].blocks(s) {
			hits = append(hits, v.dnsHit(s.Subject, s.ContainerID, s.Address, v.silence(s)...))
		}
	}
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		if !v.asksNobody(l, servers) || v.Now.Sub(l.FirstFail) < untold || running[l.ContainerID] == nil || v.isSealed(l, running) {
			continue
		}
		hits = append(hits, v.dnsHit(l.Subject, l.ContainerID, l.Server,
			ofLookups("lookups that failed at once", l.ServFail, l), text("servers asked", "none")))
	}
	return hits
}

func (v *View) silence(s *Server) []Fact {
	answered := "none in the last minute"
	if !s.Answered.IsZero() {
		answered = s.Answered.UTC().Format(time.TimeOnly) + " UTC"
	}
	facts := []Fact{
		text("server", s.Address.String()),
		number("tries without an answer", float64(s.Unanswered), "since its last one"),
		text("last answer", answered),
	}
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		if failed := l.TimedOut + l.ServFail; failed > 0 && l.ContainerID == s.ContainerID && l.Resolver != enrich.ResolverUpstream {
			facts = append(facts, ofLookups("lookups that failed", failed, l))
		}
	}
	return facts
}

// overloaded finds containers that have too many lookups under way.
func overloaded(v *View) []hit {
	var hits []hit
	servers := v.upstreams()
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		if l.Resolver != enrich.ResolverEmbedded {
			continue
		}
		var evidence []Fact
		if own := l.Refused - servers.passedOn(l, l.Refused); v.enough(own, fails) {
			evidence = append(evidence, ofLookups("lookups refused", own, l))
		}
		if v.enough(l.Unasked, manyUnasked) && l.Lookups > l.TimedOut && !v.isCutOff(l.ContainerID) && !servers.blocked(l.ContainerID) {
			evidence = append(evidence, number("lookups timed out", float64(l.Unasked), "that the engine asked nobody for"))
		}
		if evidence != nil {
			hits = append(hits, v.dnsHit(l.Subject, l.ContainerID, l.Server, evidence...))
		}
	}
	return hits
}

// resolverPort is where containers ask the embedded resolver. It listens at another, where a rule sends them.
const resolverPort = 53

// isCutOff tells whether a container's questions to the embedded resolver were lost for want of rules or a socket, if only for a
// moment: the engine may have been restarted.
func (v *View) isCutOff(id string) bool {
	return slices.ContainsFunc(v.Losses, func(l Loss) bool { return l.Cause == "resolver-nat-lost" && l.Example.ContainerID == id })
}

// cutOff finds containers whose questions to the embedded resolver no socket takes. Without its rules that is so at once; the
// socket is also gone while the engine is restarted and its containers live on.
func cutOff(v *View) []hit {
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		rules := l.Example.DestinationPort == resolverPort
		if l.Cause != "resolver-nat-lost" || !l.victim() || !v.enough(l.Packets, fails) || !rules && l.Last.Sub(l.First) < leave {
			continue
		}
		h, gone := v.lossHit(l), "the engine's socket"
		if rules {
			gone = "the rules of the nat table"
		}
		h.evidence = append(h.evidence, text("what is gone", gone))
		h.fill["server"] = l.Example.Destination.String()
		hits = append(hits, h)
	}
	return hits
}

// leakingNames finds containers that are to reach nothing outside, and whose lookups do.
func leakingNames(v *View) []hit {
	var hits []hit
	servers, running := v.upstreams(), v.running()
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		c := running[l.ContainerID]
		if l.Resolver != enrich.ResolverUpstream || c == nil || !v.enough(l.Inferred, fails) || !v.onInternalOnly(c) {
			continue
		}
		subject := l.Subject
		subject.Scope = enrich.ScopeContainer // whose network is to be sealed
		hits = append(hits, v.dnsHit(subject, l.ContainerID, embedded(),
			ofLookups("lookups answered from outside", l.Inferred, l), text("internal networks", networksOf(c)),
			text("servers asked", servers.asked(l.ContainerID))))
	}
	return hits
}

// embedded is where the engine's resolver answers.
func embedded() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

func (u upstreams) asked(id string) string {
	var names []string
	if a := u[id]; a != nil {
		for _, s := range a.servers {
			names = append(names, s.Address.String())
		}
	}
	slices.Sort(names)
	return orElse(list(slices.Compact(names)), "none")
}

// networksOf names the networks that a container is on.
func networksOf(c *enrich.LiveContainer) string {
	var names []string
	for _, e := range c.Endpoints {
		names = append(names, e.Network)
	}
	slices.Sort(names)
	return orElse(list(names), "none")
}

// truncating finds containers that are left with parts of answers.
func truncating(v *View) []hit {
	var hits []hit
	for i := range v.DNS.Truncated {
		t := &v.DNS.Truncated[i]
		if !v.enough(t.Alone, fails) {
			continue
		}
		hits = append(hits, v.dnsHit(t.Subject, t.ContainerID, t.Server,
			number("answers cut short", float64(t.Answers), "in the last minute"),
			number("not followed by a whole one", float64(t.Alone), ""),
			number("lookups over TCP without an answer", float64(t.TCPSilent), ""),
			text("server", t.Server.String())))
	}
	return hits
}

// expanding finds containers most of whose lookups are for nothing.
func expanding(v *View) []hit {
	var hits []hit
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		if l.Resolver == enrich.ResolverUpstream || !v.enough(l.Expansions, expansions) || l.Expansions*expansionShare < l.Lookups {
			continue
		}
		hits = append(hits, v.dnsHit(l.Subject, l.ContainerID, l.Server,
			ofLookups("lookups for search domains in vain", l.Expansions, l), text("a search domain", orElse(l.Domain, "not known"))))
	}
	return hits
}

// stalls is how many lookups of a container waited for an answer and were asked again.
func (v *View) stalls(id string) (sum uint64) {
	for i := range v.DNS.Legs {
		if l := &v.DNS.Legs[i]; l.ContainerID == id && l.Resolver != enrich.ResolverUpstream {
			sum += l.Stalled
		}
	}
	return sum
}
