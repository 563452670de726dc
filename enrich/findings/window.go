// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// The Window is counted in slots: what leaves it leaves a slot at a time. One more is for what is counted while a view is
// made: its time is later than the view's.
const (
	slots      = 12
	slotLength = Window / slots
	allSlots   = slots + 1
)

// Bounds of what is kept. A key is a victim and a cause, a container and its network, a container and its port, a published
// port and how its clients come; a host with a thousand containers has few thousand of each even when all of them are in
// trouble.
const (
	maxLosses   = 4096
	maxLeaks    = 1024
	maxInbound  = 4096
	maxNetns    = 4096
	maxUses     = 4096
	maxUnserved = 4096
	maxTargets  = 8 // destinations that a loss or a leak remembers
)

// repeatAfter is how long after the first loss to a destination another one counts as repeated. Counts are read every
// second or so; who learns the path's MTU from the first answer has done so long before.
const repeatAfter = 2 * time.Second

// forgetAfter is how long a destination without losses is remembered at least, though others need its place.
const forgetAfter = 15 * time.Second

// Recent keeps what happened within the last Window, in bounded memory: what concerns more victims than fit is only
// counted. Its methods may be called concurrently, with times that do not go back. Adding takes the same time however much
// is kept.
type Recent struct {
	mu        sync.Mutex
	losses    bounded[lossKey, lossEntry]
	leaks     bounded[Subject, leakEntry]
	inbound   bounded[inboundKey, inboundEntry]
	uses      bounded[useKey, useEntry]
	unserved  bounded[askedKey, unservedEntry]
	ports     ports
	listening bounded[string, listenEntry] // by ID of the container that owns the namespace
	addresses map[netip.Addr]time.Time     // of containers, and when they last had them
	tables    [2]refusals                  // of neighbours, IPv4 and IPv6
	conntrack conntrackEntry               // of the host
	dns       dnsRecent
	overlay   overlayRecent
}

// NewRecent makes an empty one.
func NewRecent() *Recent {
	return &Recent{
		losses:    newBounded[lossKey, lossEntry](maxLosses),
		leaks:     newBounded[Subject, leakEntry](maxLeaks),
		inbound:   newBounded[inboundKey, inboundEntry](maxInbound),
		uses:      newBounded[useKey, useEntry](maxUses),
		unserved:  newBounded[askedKey, unservedEntry](maxUnserved),
		listening: newBounded[string, listenEntry](maxNetns),
		addresses: make(map[netip.Addr]time.Time),
		dns:       newDNSRecent(),
		overlay:   newOverlayRecent(),
	}
}

type lossKey struct {
	subject   Subject
	cause     string
	container bool // somebody's, though the labels may not say whose
}

type lossEntry struct {
	kind     enrich.Kind
	packets  slotted
	repeated slotted
	targets  [maxTargets]target
	example  enrich.Drop
	first    time.Time
	last     time.Time
}

// target is who packets were lost to.
type target struct {
	source      netip.Addr
	destination netip.Addr
	first, last time.Time
}

type leakEntry struct {
	packets slotted
	resets  slotted
	example loader.Egress
	targets [maxTargets]leakTarget
}

// leakTarget is where packets leaked to.
type leakTarget struct {
	remote   netip.Addr
	last     time.Time
	answered time.Time // when something last came back
}

type inboundKey struct {
	subject  Subject
	id       string
	port     uint16
	protocol uint8
}

type inboundEntry struct {
	packets slotted
	remote  netip.Addr
}

type listenEntry struct {
	before    loader.NetnsState
	seen      time.Time
	overflows slotted
	drops     slotted
	noRoutes  slotted
	failed    slotted
}

// refusals is how often a table refused an entry.
type refusals struct {
	known  bool
	before uint64 // since boot
	recent slotted
}

// AddDrops takes in drops. What is the application's business, or nobody's, is left out: no finding comes of it.
func (r *Recent) AddDrops(drops []enrich.Drop, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range drops {
		d := &drops[i]
		r.denied(d, now)
		r.overlay.lose(d, now)
		if d.Kind != enrich.KindFault && d.Kind != enrich.KindPolicy {
			continue
		}
		key := lossKey{Subject{Identity: d.Identity, Scope: d.Scope}, d.Cause, d.ContainerID != ""}
		if e := r.losses.entry(key, d.Packets); e != nil {
			e.add(d, now)
		}
	}
}

func (e *lossEntry) add(d *enrich.Drop, now time.Time) {
	if now.Sub(e.last) >= Window {
		e.first = now
	}
	e.last = now
	e.kind = d.Kind
	e.packets.add(now, d.Packets)
	if d.Source.IsValid() || !e.example.Source.IsValid() { // one with addresses tells more
		e.example = *d
	}
	if now.Sub(e.lostBefore(d, now)) >= repeatAfter {
		e.repeated.add(now, d.Packets)
	}
}

// lostBefore returns when packets were first lost between a drop's ends, and remembers these if there is a place. Whoever
// may repeat keeps his: of a server's many clients the latest would push out all others before they come again.
func (e *lossEntry) lostBefore(d *enrich.Drop, now time.Time) time.Time {
	oldest := &e.targets[0]
	for i := range e.targets {
		t := &e.targets[i]
		if t.source == d.Source && t.destination == d.Destination && now.Sub(t.last) < Window {
			t.last = now
			return t.first
		}
		if t.last.Before(oldest.last) {
			oldest = t
		}
	}
	if now.Sub(oldest.last) >= forgetAfter {
		*oldest = target{d.Source, d.Destination, now, now}
	}
	return now
}

// AddFlows takes in flows. Of interest is only what came from outside to a port of a container, or in answer to what it
// leaks. Who began is not known; the lower port is taken for the server's.
func (r *Recent) AddFlows(flows []enrich.Flow, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range flows {
		f := &flows[i]
		r.overlay.talk(f, now)
		if f.Via != enrich.ViaContainer || f.Peer.Service != enrich.External || f.RX.Packets == 0 {
			continue
		}
		if e := r.leaks.entries[leakOf(f.Identity)]; e != nil {
			e.answer(f.Remote, now)
		}
		if f.LocalPort == 0 || f.LocalPort >= f.RemotePort || !hasPorts(f.Protocol) { // of equal ones (NTP) neither is the server's
			continue
		}
		key := inboundKey{Subject{Identity: f.Identity, Scope: f.Scope}, f.ContainerID, f.LocalPort, f.Protocol}
		if e := r.inbound.entry(key, f.RX.Packets); e != nil {
			e.packets.add(now, f.RX.Packets)
			e.remote = f.Remote
		}
	}
}

// AddEgress takes in what left the host untranslated. What is of no container is left out.
func (r *Recent) AddEgress(egress []enrich.Egress, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range egress {
		out := &egress[i]
		if out.ContainerID == "" {
			continue
		}
		if e := r.leaks.entry(leakOf(out.Identity), out.Counts.Packets); e != nil && e.counts(out.Destination, now) {
			e.packets.add(now, out.Counts.Packets)
			e.resets.add(now, out.Resets)
			e.example = out.Egress
		}
	}
}

// leakOf is a container on a network that leaks.
func leakOf(i enrich.Identity) Subject { return Subject{Identity: i, Scope: enrich.ScopeHost} }

// counts tells whether a packet for a destination is lost as far as is known, and remembers the destination if there is a
// place. One that answers has a route for the private address. Once there are such, only remembered ones count.
func (e *leakEntry) counts(to netip.Addr, now time.Time) bool {
	oldest := &e.targets[0]
	for i := range e.targets {
		t := &e.targets[i]
		if t.remote == to && now.Sub(t.last) < Window {
			t.last = now
			return now.Sub(t.answered) >= Window
		}
		if t.last.Before(oldest.last) {
			oldest = t
		}
	}
	if now.Sub(oldest.last) >= forgetAfter {
		*oldest = leakTarget{remote: to, last: now}
		return true
	}
	return !e.isAnswered(now)
}

// answer notes that something came from a remote address. What was counted until the first answer may have been for it, so
// the count begins anew then.
func (e *leakEntry) answer(from netip.Addr, now time.Time) {
	for i := range e.targets {
		t := &e.targets[i]
		if t.remote != from || now.Sub(t.last) >= Window {
			continue
		}
		if now.Sub(t.answered) >= Window {
			e.packets, e.resets = slotted{}, slotted{}
		}
		t.answered = now
		return
	}
}

// isAnswered tells whether any destination sent something back within the Window.
func (e *leakEntry) isAnswered(now time.Time) bool {
	return slices.ContainsFunc(e.targets[:], func(t leakTarget) bool { return now.Sub(t.answered) < Window })
}

// AddNetns takes in the counters of a container's namespace, which rise while it lives. What they had risen to before they
// were first seen is not recent.
func (r *Recent) AddNetns(id string, s loader.NetnsState, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.listening.entry(id, 0)
	if e == nil {
		return
	}
	if !e.seen.IsZero() {
		e.overflows.add(now, risen(e.before.ListenOverflows, s.ListenOverflows))
		e.drops.add(now, risen(e.before.ListenDrops, s.ListenDrops))
		e.noRoutes.add(now, risen(e.before.OutNoRoutes, s.OutNoRoutes))
		e.failed.add(now, risen(e.before.Conntrack.InsertFailed, s.Conntrack.InsertFailed))
	}
	e.before, e.seen = s, now
}

// risen is how much a counter has grown. One that is smaller than before is that of a new namespace.
func risen(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// Fill sets what the view has of the Window before view.Now, in a fixed order. The view's inventory, host and cluster must be
// there.
func (r *Recent) Fill(view *View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noteAddresses(view)
	r.ports.note(view)
	view.Losses = r.lost(view.Now)
	view.Leaks = r.leaked(view.Now)
	view.Inbound = r.came(view.Now)
	view.Rises = r.risen(view.Now)
	view.Uses = r.used(view.Now)
	view.Unserved = r.unservedIn(view)
	view.Conntrack = r.tracked(view)
	view.NeighboursRefused = r.refused(view)
	view.DNS = r.dns.view(view.Now)
	r.overlay.fill(view)
}

// noteAddresses remembers who had which address within the Window, here or on other nodes of the Swarm.
func (r *Recent) noteAddresses(view *View) {
	for i := range view.Inventory.Containers {
		for _, e := range view.Inventory.Containers[i].Endpoints {
			for _, a := range e.Addresses {
				r.addresses[a] = view.Now
			}
		}
	}
	for i := range view.Cluster.Networks {
		for _, e := range view.Cluster.Networks[i].Endpoints {
			if e.Address.IsValid() {
				r.addresses[e.Address] = view.Now
			}
		}
	}
	for a, seen := range r.addresses {
		if view.Now.Sub(seen) >= Window {
			delete(r.addresses, a)
		}
	}
}

func (r *Recent) lost(now time.Time) (all []Loss) {
	for key, e := range r.losses.entries {
		packets, oldest := e.packets.sum(now)
		if packets == 0 {
			delete(r.losses.entries, key)
			continue
		}
		repeated, _ := e.repeated.sum(now)
		_, container := r.addresses[e.example.Destination]
		first := e.first
		if oldest.After(first) {
			first = oldest
		}
		all = append(all, Loss{
			Subject: key.subject, Cause: key.cause, Kind: e.kind, Packets: packets, Repeated: repeated,
			ToContainer: container, First: first, Last: e.last, Example: e.example,
		})
	}
	slices.SortFunc(all, func(a, b Loss) int {
		return cmp.Or(strings.Compare(a.Cause, b.Cause), compareSubjects(a.Subject, b.Subject),
			strings.Compare(a.Example.ContainerID, b.Example.ContainerID))
	})
	return all
}

func (r *Recent) leaked(now time.Time) (all []Leak) {
	for subject, e := range r.leaks.entries {
		packets, _ := e.packets.sum(now)
		if packets == 0 && !e.isAnswered(now) {
			delete(r.leaks.entries, subject)
		}
		if packets == 0 {
			continue
		}
		resets, _ := e.resets.sum(now)
		all = append(all, Leak{Subject: subject, Packets: packets, Resets: resets, Example: e.example})
	}
	slices.SortFunc(all, func(a, b Leak) int { return compareSubjects(a.Subject, b.Subject) })
	return all
}

func (r *Recent) came(now time.Time) (all []Inbound) {
	for key, e := range r.inbound.entries {
		packets, _ := e.packets.sum(now)
		if packets == 0 {
			delete(r.inbound.entries, key)
			continue
		}
		all = append(all, Inbound{
			Subject: key.subject, ContainerID: key.id, Port: key.port, Protocol: key.protocol, Packets: packets, Remote: e.remote,
		})
	}
	slices.SortFunc(all, func(a, b Inbound) int {
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Protocol, b.Protocol), compareSubjects(a.Subject, b.Subject))
	})
	return all
}

func (r *Recent) risen(now time.Time) map[string]Rise {
	all := make(map[string]Rise)
	for id, e := range r.listening.entries {
		if now.Sub(e.seen) >= Window {
			delete(r.listening.entries, id)
			continue
		}
		overflows, _ := e.overflows.sum(now)
		drops, _ := e.drops.sum(now)
		noRoutes, _ := e.noRoutes.sum(now)
		failed, _ := e.failed.sum(now)
		if rise := (Rise{overflows, drops, noRoutes, failed}); rise != (Rise{}) {
			all[id] = rise
		}
	}
	return all
}

// refused is how often the neighbour tables refused an entry. What they had before they were first seen is not recent.
func (r *Recent) refused(view *View) (sum uint64) {
	for i, t := range []loader.Table{view.Host.Neighbours4, view.Host.Neighbours6} {
		e := &r.tables[i]
		if t.Limit > 0 { // else it could not be read
			if e.known {
				e.recent.add(view.Now, risen(e.before, t.Overflows))
			}
			e.known, e.before = true, t.Overflows
		}
		recent, _ := e.recent.sum(view.Now)
		sum += recent
	}
	return sum
}

// Overflow says how many packets, or connections and attempts at them, or lookups, concerned somebody for whom there was no
// room, since the start.
func (r *Recent) Overflow() []loader.Loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]loader.Loss{
		{Place: "recent_losses", Count: r.losses.rest},
		{Place: "recent_leaks", Count: r.leaks.rest},
		{Place: "recent_inbound", Count: r.inbound.rest},
		{Place: "recent_uses", Count: r.uses.rest},
		{Place: "recent_unserved", Count: r.unserved.rest},
	}, append(r.dns.overflow(), r.overlay.overflow()...)...)
}

// bounded is a table with room for so many keys. What is of another is counted as the rest.
type bounded[K comparable, E any] struct {
	entries map[K]*E
	limit   int
	rest    uint64
}

func newBounded[K comparable, E any](limit int) bounded[K, E] {
	return bounded[K, E]{entries: make(map[K]*E), limit: limit}
}

// entry finds or makes that of a key; nil: there is no room, and the packets are counted as the rest.
func (b *bounded[K, E]) entry(key K, packets uint64) *E {
	if e := b.entries[key]; e != nil {
		return e
	}
	if len(b.entries) >= b.limit {
		b.rest += packets
		return nil
	}
	e := new(E)
	b.entries[key] = e
	return e
}

// slotted is a count of the last Window.
type slotted [allSlots]struct {
	number  int64 // of the slot, since 1970
	packets uint64
}

func (s *slotted) add(now time.Time, packets uint64) {
	number := slotNumber(now)
	slot := &s[number%allSlots]
	if slot.number != number {
		slot.number, slot.packets = number, 0
	}
	slot.packets += packets
}

// sum returns the count, and when the oldest slot began that has any of it.
func (s *slotted) sum(now time.Time) (packets uint64, oldest time.Time) {
	current := slotNumber(now)
	for number := current - slots + 1; number <= current+1; number++ {
		slot := &s[number%allSlots]
		if slot.number != number || slot.packets == 0 {
			continue
		}
		if packets == 0 {
			oldest = time.Unix(0, number*int64(slotLength))
		}
		packets += slot.packets
	}
	return packets, oldest
}

func slotNumber(t time.Time) int64 { return t.UnixNano() / int64(slotLength) }
