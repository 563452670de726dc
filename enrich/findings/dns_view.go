// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// DNS is what a View has of the lookups that ended within the Window. The host's own are left out, and those of mDNS and
// LLMNR. Names are only those that Docker gave its containers and services, and the search domains of containers.
type DNS struct {
	Legs    []Leg
	Servers []Server
	// ServersMissing says that there was no room for all servers: some may have been asked that are not here.
	ServersMissing bool

	Misnamed   []Misnamed
	Collisions []Collision
	Stale      []Stale
	Truncated  []Truncated
}

// Leg is what became of one container's lookups on one leg within the Window, but for those of a resolver that finds its own way
// through the world's servers.
type Leg struct {
	Subject     Subject // Object is empty
	ContainerID string
	Resolver    enrich.Resolver
	Lookups     uint64 // all that ended
	Reverse     uint64 // of these, for the name of an address
	TimedOut    uint64
	ServFail    uint64 // answered SERVFAIL, but for the reverse ones
	Refused     uint64 // answered REFUSED
	// ReverseRefused are those of them that are reverse; FailingNames how many names the others had that were answered SERVFAIL or
	// REFUSED: distinctFails at most.
	ReverseRefused uint64
	FailingNames   int
	Stalled        uint64 // answered only after they had been asked again, stall or later after the first time
	Inferred       uint64 // asked from the host's namespace for the container, and answered
	Expansions     uint64 // that a search domain made, and that found nothing
	Domain         string // the search domain of the latest of these
	Server         netip.Addr
	FirstFail      time.Time // of the SERVFAILs, to a slot
	LastFail       time.Time // until when the latest SERVFAIL or REFUSED, but for the reverse ones, is known to have been one
	Good           time.Time // when the latest good answer came, other than of Docker's own names
	Relapses       uint64    // how often a failure followed a good answer
	Unasked        uint64    // of those that timed out: the engine asked nobody for it
	LateFail       time.Time // when a SERVFAIL last took as long as asking somebody takes who does not answer; zero: not within the Window
}

// Server is what one container's lookups asked of one server other than the embedded resolver within the Window.
type Server struct {
	Subject     Subject // Object is its address
	ContainerID string
	Resolver    enrich.Resolver
	Address     netip.Addr
	Tries       uint64
	Failures    uint64 // answered SERVFAIL or REFUSED
	Refused     uint64 // of these, REFUSED
	// Unanswered is how many tries were given up that were made after its latest answer; First and Last are when the first and
	// the latest of these were made.
	Unanswered  uint64
	Lookups     uint64 // that made these
	Lost        uint64 // of these, within the Window
	First, Last time.Time
	Answered    time.Time // when its latest answer came; zero: not within the Window
}

// Misnamed is a name of Docker's that one container asked for in vain within the Window.
type Misnamed struct {
	Subject     Subject // Object is the name
	ContainerID string
	Reason      enrich.Misname
	Lookups     uint64
	First, Last time.Time
	Targets     []enrich.NameTarget // who has it, by the latest lookup
}

// Collision is a name for which the embedded resolver answered addresses of several within the Window.
type Collision struct {
	Subject     Subject // the network; Object is the name
	ContainerID string  // who asked last
	Answers     uint64
	Answerers   []enrich.Answerer // of the latest answer
}

// Stale is an address that one container had from a DNS answer and sent to within the Window, though nobody had it any more.
type Stale struct {
	Subject     Subject // Object is the address
	ContainerID string
	Packets     uint64    // that were lost
	First, Last time.Time // when such were seen to be lost
	Example     enrich.StaleUse
}

// Truncated is how one container's lookups fared within the Window whose answers over UDP were cut short.
type Truncated struct {
	Subject     Subject // Object is empty
	ContainerID string
	Resolver    enrich.Resolver
	Server      netip.Addr // of the latest
	Answers     uint64     // that were cut short
	Alone       uint64     // of these, not followed by a whole answer to the same question within whole
	TCPSilent   uint64     // lookups over TCP that nobody answered, or the engine alone: that it reached no server
}

// view is what rules may look at, in a fixed order.
func (d *dnsRecent) view(now time.Time) DNS {
	return DNS{
		Legs:    d.viewLegs(now),
		Servers: d.viewServers(now),
		// for so long somebody may have been asked of whom nothing is kept
		ServersMissing: !d.servers.full.IsZero() && now.Sub(d.servers.full) < Window,

		Misnamed:   d.viewMisnamed(now),
		Collisions: d.viewCollisions(now),
		Stale:      d.viewStale(now),
		Truncated:  d.viewTruncated(now),
	}
}

// viewed is what is made of the entries of a table, sorted. Those of which nothing is made are forgotten.
func viewed[K comparable, E, V any](table *bounded[K, E], view func(K, *E) (v V, recent bool), compare func(a, b V) int) (all []V) {
	for key, e := range table.entries {
		v, recent := view(key, e)
		if !recent {
			delete(table.entries, key)
			continue
		}
		all = append(all, v)
	}
	slices.SortFunc(all, compare)
	return all
}

func (d *dnsRecent) viewLegs(now time.Time) []Leg {
	return viewed(&d.legs, func(key legKey, e *legEntry) (leg Leg, recent bool) {
		leg = Leg{
			Subject: Subject{Identity: e.identity, Scope: key.scope}, ContainerID: key.id, Resolver: key.resolver,
			Domain: e.domain, Server: e.server,
		}
		leg.Lookups, _ = e.lookups.sum(now)
		leg.Reverse, _ = e.reverse.sum(now)
		leg.ReverseRefused, _ = e.reverseRef.sum(now)
		leg.FailingNames = e.failingNames(now)
		leg.TimedOut, _ = e.timedOut.sum(now)
		leg.ServFail, leg.FirstFail = e.servFail.sum(now)
		leg.Refused, _ = e.refused.sum(now)
		leg.Stalled, _ = e.stalled.sum(now)
		leg.Inferred, _ = e.inferred.sum(now)
		leg.Expansions, _ = e.expansions.sum(now)
		leg.LastFail, leg.Good = e.course.failed, e.course.good
		leg.Relapses, _ = e.course.relapses.sum(now)
		leg.Unasked, _ = e.unasked.sum(now)
		if now.Sub(e.lateFail) < Window {
			leg.LateFail = e.lateFail
		}
		return leg, leg.Lookups > 0
	}, func(a, b Leg) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			strings.Compare(string(a.Resolver), string(b.Resolver)))
	})
}

func (d *dnsRecent) viewServers(now time.Time) []Server {
	all := viewed(&d.servers.bounded, func(key serverKey, e *serverEntry) (s Server, recent bool) {
		s = Server{
			Subject:     Subject{Identity: e.identity, Scope: key.scope, Object: key.address.String()},
			ContainerID: key.id, Resolver: key.resolver, Address: key.address,
			Unanswered: e.unanswered, Lookups: e.lookups, First: e.first, Last: e.last,
		}
		s.Lost, _ = e.lost.sum(now)
		s.Tries, _ = e.tries.sum(now)
		s.Failures, _ = e.failures.sum(now)
		s.Refused, _ = e.refused.sum(now)
		if now.Sub(e.answered) < Window {
			s.Answered = e.answered
		}
		return s, s.Tries > 0
	}, func(a, b Server) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			strings.Compare(string(a.Resolver), string(b.Resolver)))
	})
	clear(d.servers.of)
	for i := range all {
		d.servers.of[all[i].ContainerID]++
	}
	return all
}

func (d *dnsRecent) viewMisnamed(now time.Time) []Misnamed {
	return viewed(&d.misnamed, func(key misnamedKey, e *misnamedEntry) (m Misnamed, recent bool) {
		m = Misnamed{
			Subject:     Subject{Identity: e.identity, Scope: key.scope, Object: key.name},
			ContainerID: key.id, Reason: key.reason, First: e.first, Last: e.last, Targets: e.targets,
		}
		m.Lookups, _ = e.lookups.sum(now)
		return m, m.Lookups > 0
	}, func(a, b Misnamed) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			strings.Compare(string(a.Reason), string(b.Reason)))
	})
}

func (d *dnsRecent) viewCollisions(now time.Time) []Collision {
	return viewed(&d.collisions, func(subject Subject, e *collisionEntry) (c Collision, recent bool) {
		c = Collision{Subject: subject, ContainerID: e.id, Answerers: e.answerers}
		c.Answers, _ = e.answers.sum(now)
		return c, c.Answers > 0
	}, func(a, b Collision) int { return compareSubjects(a.Subject, b.Subject) })
}

func (d *dnsRecent) viewStale(now time.Time) []Stale {
	return viewed(&d.stale, func(key staleKey, e *staleEntry) (s Stale, recent bool) {
		s = Stale{
			Subject:     Subject{Identity: e.example.Identity, Scope: key.scope, Object: key.address.String()},
			ContainerID: key.id, First: e.first, Last: e.last, Example: e.example,
		}
		s.Packets, _ = e.packets.sum(now)
		return s, s.Packets > 0
	}, func(a, b Stale) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID))
	})
}

func (d *dnsRecent) viewTruncated(now time.Time) []Truncated {
	return viewed(&d.truncated, func(key legKey, e *truncatedEntry) (t Truncated, recent bool) {
		e.expire(now)
		t = Truncated{
			Subject: Subject{Identity: e.identity, Scope: key.scope}, ContainerID: key.id, Resolver: key.resolver, Server: e.server,
		}
		t.Answers, _ = e.answers.sum(now)
		t.Alone, _ = e.alone.sum(now)
		t.TCPSilent, _ = e.tcpSilent.sum(now)
		return t, t.Answers > 0 || t.Alone > 0
	}, func(a, b Truncated) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			strings.Compare(string(a.Resolver), string(b.Resolver)))
	})
}
