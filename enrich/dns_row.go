// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// maxLegs is how many upstream legs a row shows. The engine asks three servers at most, again only for what comes over TCP.
const maxLegs = 8

// Outcome is how a lookup ended.
type Outcome string

// The outcomes.
const (
	Answered  Outcome = "answered"
	TimedOut  Outcome = "timed_out"
	NotKnown  Outcome = "unknown"   // records were lost meanwhile
	Unawaited Outcome = "unawaited" // a question to a group, which anybody or nobody answers
)

// DNSLeg is a lookup at one resolver.
type DNSLeg struct {
	Time      time.Time      `json:"time"` // when it was first asked
	Resolver  Resolver       `json:"resolver"`
	Protocol  string         `json:"protocol"`
	Client    netip.AddrPort `json:"client"`
	Server    netip.AddrPort `json:"server"` // who answered, or was asked last
	Outcome   Outcome        `json:"outcome"`
	RCode     string         `json:"rcode,omitempty"`            // NOERROR, NXDOMAIN, ...; other; empty: not answered
	Code      uint16         `json:"rcode_number,omitempty"`     // likewise
	Truncated bool           `json:"truncated,omitempty"`        // there is more over TCP
	Records   int            `json:"records,omitempty"`          // in the answer
	Addresses []netip.Addr   `json:"addresses,omitempty"`        // among them, 16 at most
	Seconds   float64        `json:"duration_seconds,omitempty"` // from the first question to the answer
	Retries   int            `json:"retries,omitempty"`
	Tries     []DNSTry       `json:"tries,omitempty"` // if it was asked more than once: the first and the last
	// Inferred says that the engine asked from the host's namespace: whom for is known by ID, name and time alone.
	Inferred bool `json:"inferred,omitempty"`
}

// DNSTry is a loader.DNSTry.
type DNSTry struct {
	Server netip.AddrPort `json:"server"`
	Asked  time.Time      `json:"asked"`
	Answer time.Time      `json:"answered,omitzero"`
	GaveUp bool           `json:"gave_up,omitempty"`
}

// DNSTarget is a NameTarget.
type DNSTarget struct {
	Identity
	ContainerID string `json:"container_id,omitempty"`
	UseName     string `json:"ask_for,omitempty"` // by which the asker could find it; empty: by none
}

// DNSAnswerer is an Answerer.
type DNSAnswerer struct {
	Address netip.Addr `json:"address"`
	Owner   Identity   `json:"owner"` // empty: none of this host's containers
}

// DNSRow is a line of the live table of lookups: one as its client made it, with what the engine asked others for it.
type DNSRow struct {
	DNSLeg

	Scope       Scope  `json:"scope"`
	Stack       string `json:"stack,omitempty"`
	Service     string `json:"service,omitempty"`
	Container   string `json:"container,omitempty"`
	Network     string `json:"network,omitempty"`
	ContainerID string `json:"container_id,omitempty"`
	Name        string `json:"name"` // as asked
	QType       string `json:"qtype"`
	// Failed says that it gave its client no answer: nothing came, or a code that is neither NOERROR nor NXDOMAIN, or NXDOMAIN
	// and no other way to complete the name was answered.
	Failed bool `json:"failed"`
	// FoundAs is the name under which the client found what it was looking for, after or before it was told NXDOMAIN for this one.
	FoundAs      string        `json:"found_as,omitempty"`
	Base         string        `json:"search_base,omitempty"` // the name without the search suffix; empty: none that is known
	Misname      Misname       `json:"misname,omitempty"`
	Targets      []DNSTarget   `json:"targets,omitempty"`
	Answerers    []DNSAnswerer `json:"answerers,omitempty"`
	Upstream     []DNSLeg      `json:"upstream,omitempty"`      // what the engine asked for it, in the order in which that ended, 8 at most
	MoreUpstream int           `json:"more_upstream,omitempty"` // that Upstream has no room for
}

// Owner is whom the row is of; the host itself is called ~host.
func (r *DNSRow) Owner() Owner {
	if r.Scope == ScopeHost && r.ContainerID == "" {
		return Owner{Container: Host}
	}
	return Owner{r.Service, r.Container, r.ContainerID}
}

func newDNSRow(l *Lookup) DNSRow {
	row := DNSRow{
		DNSLeg: newDNSLeg(l), Scope: l.Scope, Stack: l.Stack, Service: l.Service, Container: l.Container, Network: l.Network,
		ContainerID: l.ContainerID, Name: l.Question.Name, QType: l.QType, Base: l.Base, Misname: l.Misname,
	}
	row.Failed = l.Failed() || row.notFound()
	for _, t := range l.Targets {
		row.Targets = append(row.Targets, DNSTarget{Identity: t.Identity, ContainerID: t.ContainerID, UseName: t.UseName})
	}
	for _, a := range l.Answerers {
		row.Answerers = append(row.Answerers, DNSAnswerer(a))
	}
	return row
}

func newDNSLeg(l *Lookup) DNSLeg {
	leg := DNSLeg{
		Time: l.Asked(), Resolver: l.Resolver, Protocol: ProtocolName(l.Protocol), Client: l.Client, Server: l.Server,
		Outcome: outcomeOf(l.Outcome), RCode: l.RCode, Code: l.Answer.RCode, Truncated: l.Answer.Truncated, Records: l.Answer.Records,
		Addresses: l.Answer.Addresses, Seconds: l.Duration().Seconds(), Retries: l.Retries, Inferred: l.Inferred,
	}
	if len(l.Tries) > 1 {
		for _, t := range l.Tries {
			leg.Tries = append(leg.Tries, DNSTry(t))
		}
	}
	return leg
}

func outcomeOf(o loader.DNSOutcome) Outcome {
	switch o {
	case loader.DNSAnswered:
		return Answered
	case loader.DNSTimedOut:
		return TimedOut
	case loader.DNSUnawaited:
		return Unawaited
	}
	return NotKnown
}

// notFound tells whether the name was said not to be there.
func (l *DNSLeg) notFound() bool { return l.Outcome == Answered && l.RCode == "NXDOMAIN" }

// found tells whether the name was said to be there, with records of the type or without.
func (l *DNSLeg) found() bool { return l.Outcome == Answered && l.RCode == "NOERROR" }

// slowerThan tells whether the answer took longer, or never came.
func (l *DNSLeg) slowerThan(limit time.Duration) bool {
	return l.Outcome == TimedOut || l.Seconds > limit.Seconds()
}

// nest adds a lookup that the engine made for this one.
func (r *DNSRow) nest(leg DNSLeg) {
	if len(r.Upstream) == maxLegs {
		r.MoreUpstream++
		return
	}
	r.Upstream = append(r.Upstream, leg)
}
