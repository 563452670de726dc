// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// This file keeps what came to published ports, and what connection tracking counted: the part of Recent that the nat
// signal feeds.

// useKey tells uses of one port apart.
type useKey struct {
	identity  enrich.Identity
	scope     enrich.Scope
	id        string
	port      uint16
	protocol  string
	ipv6      bool
	client    enrich.Client
	mechanism enrich.Mechanism
	preserved bool
}

type useEntry struct {
	attempts     slotted
	untranslated slotted
	connections  slotted
	opened       time.Time // the latest of the attempts
	answered     bool      // the example is a connection
	example      enrich.PublishedConnection
}

// AddNAT takes in what came to published ports. Link-local clients are left out: Docker never translates for them, and its
// proxy is there to serve them.
func (r *Recent) AddNAT(nat enrich.NAT, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range nat.Attempts {
		if c := &nat.Attempts[i]; !client(c).IsLinkLocalUnicast() {
			r.attempt(c, now)
		}
	}
	for i := range nat.Connections {
		if c := &nat.Connections[i]; !client(c).IsLinkLocalUnicast() {
			r.connect(c, now)
		}
	}
	for i := range nat.Joined {
		c := &nat.Joined[i]
		r.passedOn(c)
		if e := r.uses.entries[useOf(c)]; e != nil && e.answered {
			e.example = *c
		}
	}
}

func (r *Recent) attempt(c *enrich.PublishedConnection, now time.Time) {
	sentOn := isSentOn(c)
	if e := r.use(c); e != nil {
		e.attempts.add(now, 1)
		if !sentOn {
			e.untranslated.add(now, 1)
		}
		if c.At.After(e.opened) {
			e.opened = c.At
		}
		if !e.answered {
			e.example = *c
		}
	}
	r.asked(c, sentOn)
}

func (r *Recent) connect(c *enrich.PublishedConnection, now time.Time) {
	if e := r.use(c); e != nil {
		e.connections.add(now, 1)
		if c.Seen.IsValid() || !e.example.Seen.IsValid() { // one that tells what the container sees tells more
			e.example = *c
		}
		e.answered = true
	}
	r.answered(c)
}

func (r *Recent) use(c *enrich.PublishedConnection) *useEntry {
	return r.uses.entry(useOf(c), 1)
}

func useOf(c *enrich.PublishedConnection) useKey {
	return useKey{
		c.Identity, c.Scope, c.ContainerID, c.Port, c.Protocol, client(c).Is6(), c.Client, c.Mechanism, c.Preserved,
	}
}

func (k *useKey) subject() Subject {
	return Subject{Identity: k.identity, Scope: k.scope, Object: portName(k.port, k.protocol)}
}

// client is who opened a connection.
func client(c *enrich.PublishedConnection) netip.Addr { return c.Original.Source.Addr() }

// isSentOn tells whether a rule gave the connection another destination.
func isSentOn(c *enrich.PublishedConnection) bool { return c.Original.Destination != c.Reply.Source }

func (r *Recent) used(now time.Time) (all []Use) {
	for key, e := range r.uses.entries {
		attempts, _ := e.attempts.sum(now)
		untranslated, _ := e.untranslated.sum(now)
		connections, _ := e.connections.sum(now)
		if attempts == 0 && connections == 0 {
			delete(r.uses.entries, key)
			continue
		}
		all = append(all, Use{
			Subject: key.subject(), ContainerID: key.id, Port: key.port, Protocol: key.protocol,
			Client: key.client, Mechanism: key.mechanism, Preserved: key.preserved,
			Attempts: attempts, Untranslated: untranslated, Connections: connections, Opened: e.opened, Example: e.example,
		})
	}
	slices.SortFunc(all, func(a, b Use) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			cmp.Compare(a.Client, b.Client), cmp.Compare(a.Mechanism, b.Mechanism), compareFlags(a.Preserved, b.Preserved),
			client(&a.Example).Compare(client(&b.Example)))
	})
	return all
}

func compareFlags(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// conntrackEntry is what connection tracking has counted in the host's namespace.
type conntrackEntry struct {
	known   bool
	before  loader.ConntrackStats
	failed  slotted
	dropped slotted
	invalid slotted
}

// tracked is how much the host's counters have grown. What they had before they were first seen is not recent.
func (r *Recent) tracked(view *View) (rise ConntrackRise) {
	e, now := &r.conntrack, view.Host.ConntrackStats
	if now != nil {
		if e.known {
			grown := now.Since(e.before)
			e.failed.add(view.Now, grown.InsertFailed)
			e.dropped.add(view.Now, grown.Drop)
			e.invalid.add(view.Now, grown.Invalid)
		}
		e.known, e.before = true, *now
	}
	rise.InsertFailed, _ = e.failed.sum(view.Now)
	rise.Drop, _ = e.dropped.sum(view.Now)
	rise.Invalid, _ = e.invalid.sum(view.Now)
	return rise
}
