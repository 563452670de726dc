// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// This file keeps what came to published ports, and what connection tracking counted: the part of Recent that the nat
// signal feeds.

// askedKey is a published port of a container, or of a service, and a family of clients.
type askedKey struct {
	identity enrich.Identity
	scope    enrich.Scope
	id       string
	port     uint16
	protocol string
	ipv6     bool
}

func askedOf(c *enrich.PublishedConnection) askedKey {
	return askedKey{c.Identity, c.Scope, c.ContainerID, c.Port, c.Protocol, client(c).Is6()}
}

func (k *askedKey) subject() Subject {
	return Subject{Identity: k.identity, Scope: k.scope, Object: strconv.Itoa(int(k.port)) + "/" + k.protocol}
}

// useKey tells uses of one port apart.
type useKey struct {
	askedKey
	client    enrich.Client
	mechanism enrich.Mechanism
	preserved bool
}

type useEntry struct {
	attempts     slotted
	untranslated slotted
	connections  slotted
	answered     bool // the example is a connection
	example      enrich.PublishedConnection
}

// unservedEntry is what nobody has answered since the latest attempt that was.
type unservedEntry struct {
	attempts    uint64
	first, last time.Time
	example     enrich.PublishedConnection
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
		if !e.answered {
			e.example = *c
		}
	}
	switch {
	case c.Client != enrich.ClientRemote:
	case sentOn:
		delete(r.unserved.entries, askedOf(c))
	default:
		if e := r.unserved.entry(askedOf(c), 1); e != nil {
			e.add(c)
		}
	}
}

func (r *Recent) connect(c *enrich.PublishedConnection, now time.Time) {
	if e := r.use(c); e != nil {
		e.connections.add(now, 1)
		if c.Seen.IsValid() || !e.example.Seen.IsValid() { // one that tells what the container sees tells more
			e.example = *c
		}
		e.answered = true
	}
	// For the routing mesh a socket of the engine's answers, which only keeps the port and serves nobody.
	if c.Client == enrich.ClientRemote && (isSentOn(c) || c.Mechanism != enrich.IngressMesh) {
		delete(r.unserved.entries, askedOf(c))
	}
}

func (r *Recent) use(c *enrich.PublishedConnection) *useEntry {
	return r.uses.entry(useOf(c), 1)
}

func useOf(c *enrich.PublishedConnection) useKey {
	return useKey{askedOf(c), c.Client, c.Mechanism, c.Preserved}
}

func (e *unservedEntry) add(c *enrich.PublishedConnection) {
	if e.attempts == 0 || c.At.Before(e.first) {
		e.first = c.At
	}
	if c.At.After(e.last) {
		e.last = c.At
	}
	e.attempts++
	e.example = *c
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
			Attempts: attempts, Untranslated: untranslated, Connections: connections, Example: e.example,
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

// unservedIn lists the ports that are asked for in vain, and forgets those of containers that have ended, or only just
// begun: nobody could answer then.
func (r *Recent) unservedIn(view *View) (all []Unserved) {
	running := view.running()
	for key, e := range r.unserved.entries {
		c := running[key.id]
		ended := key.id != "" && (c == nil || e.first.Before(c.StartedAt.Add(settle)))
		if ended || view.Now.Sub(e.last) >= Window {
			delete(r.unserved.entries, key)
			continue
		}
		all = append(all, Unserved{
			Subject: key.subject(), ContainerID: key.id, Port: key.port, Protocol: key.protocol,
			Attempts: e.attempts, First: e.first, Last: e.last, Example: e.example,
		})
	}
	slices.SortFunc(all, func(a, b Unserved) int {
		return cmp.Or(compareSubjects(a.Subject, b.Subject), strings.Compare(a.ContainerID, b.ContainerID),
			client(&a.Example).Compare(client(&b.Example)))
	})
	return all
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
	if now != (loader.ConntrackStats{}) { // else they could not be read, or nothing is tracked
		if e.known {
			e.failed.add(view.Now, risen(e.before.InsertFailed, now.InsertFailed))
			e.dropped.add(view.Now, risen(e.before.Drop, now.Drop))
			e.invalid.add(view.Now, risen(e.before.Invalid, now.Invalid))
		}
		e.known, e.before = true, now
	}
	rise.InsertFailed, _ = e.failed.sum(view.Now)
	rise.Drop, _ = e.dropped.sum(view.Now)
	rise.Invalid, _ = e.invalid.sum(view.Now)
	return rise
}
