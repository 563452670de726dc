// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file finds out what a container sees of connections that reach it by way of a second one: docker-proxy's own, or
// that of the routing mesh's namespace.

const (
	// joinWindow is how long docker-proxy may take to open its own connection.
	joinWindow = 2 * time.Second
	// joinMemory is how long connections are remembered for the answer that may come: longer than from one reading to the
	// next.
	joinMemory = 15 * time.Second
	// maxJoins bounds what is remembered. Of more than that at once it stays unknown what the container sees, which is counted.
	maxJoins = 16384
)

// joins are the connections that a second one belongs to. Its zero value is ready.
type joins struct {
	carried map[entryKey]*carried
	queues  map[proxyKey][]*carried // those that docker-proxy has opened none for yet
	dials   []dial                  // of this reading, and before it those that nobody has waited for yet
	hops    []hop                   // of this reading
	strays  map[proxyKey]time.Time  // the latest of those that nobody has waited for in the end, or several
	refused uint64                  // news of connections that there was no room for
}

// entryKey finds an entry of a namespace's connection tracking. The kernel has each reply tuple once.
type entryKey struct {
	protocol uint8
	reply    loader.Tuple
}

func keyOf(t *loader.Tracked) entryKey { return entryKey{t.Protocol, t.Reply} }

// proxyKey is what docker-proxy connects to.
type proxyKey struct {
	containerID string
	port        uint16 // of the container; 0: none
	protocol    uint8
}

// carried is a connection whose client is not who the container sees.
type carried struct {
	PublishedConnection      // as it was told last
	attempt, connection int  // where it is in the news at hand, -1: it is not
	told                bool // else only its second connection is known
	answered            bool // and told so
	joined              bool
	guessed             bool      // there were others that docker-proxy's connection could have been for
	earliest, latest    time.Time // when docker-proxy was asked for it
	since               time.Time
}

// dial is a connection that docker-proxy may have opened.
type dial struct {
	proxyKey
	at           time.Time
	seen, server netip.AddrPort
}

// hop is a connection as the routing mesh has it, with the key of the host's entry for it.
type hop struct {
	entryKey
	seen, server netip.AddrPort
	at           time.Time
	isNew        bool // else it was answered, and may have been opened before the agent started
}

// opened takes in the last of the attempts.
func (j *joins) opened(nat *NAT, proxied proxyKey) {
	last := len(nat.Attempts) - 1
	c := &nat.Attempts[last]
	// docker-proxy connects for TCP and SCTP when the kernel has answered, and only then.
	if c.Seen.IsValid() || proxied.port != 0 && c.NATEvent.Protocol != unix.IPPROTO_UDP {
		return
	}
	key := keyOf(&c.Tracked)
	k := j.carried[key]
	if k == nil || k.told { // the latter: the same addresses and ports again
		k = j.remember(key, c.At)
	}
	if k == nil {
		return
	}
	k.PublishedConnection, k.told, k.attempt = merge(k, c), true, last
	if proxied.port != 0 {
		// One that no device has sent was heard of some time after. The program knows exactly when a packet passed.
		heardOf := c.Device == 0
		j.wait(proxied, k, c.At, heardOf)
	}
}

// answered takes in the last of the connections.
func (j *joins) answered(nat *NAT, proxied proxyKey) {
	last := len(nat.Connections) - 1
	c := &nat.Connections[last]
	if c.Seen.IsValid() {
		return
	}
	key := keyOf(&c.Tracked)
	byAnswer := proxied.port != 0 && c.NATEvent.Protocol != unix.IPPROTO_UDP
	k := j.carried[key]
	if k == nil || byAnswer {
		k = j.remember(key, c.At)
	}
	if k == nil {
		return
	}
	k.PublishedConnection, k.told, k.answered, k.connection = merge(k, c), true, true, last
	if byAnswer {
		j.wait(proxied, k, c.At, false)
	}
}

// merge gives news of a connection what is known of it already.
func merge(k *carried, c *PublishedConnection) PublishedConnection {
	if k.joined {
		c.Seen, c.Server, c.Inferred = k.Seen, k.Server, k.Inferred
	}
	return *c
}

// remember returns nil if there is no room.
func (j *joins) remember(key entryKey, at time.Time) *carried {
	if j.carried == nil {
		j.carried = make(map[entryKey]*carried)
		j.queues = make(map[proxyKey][]*carried)
	}
	if _, known := j.carried[key]; !known && len(j.carried) >= maxJoins {
		j.refused++
		return nil
	}
	k := &carried{attempt: -1, connection: -1, since: at}
	j.carried[key] = k
	return k
}

// wait puts a connection into the queue for docker-proxy's.
func (j *joins) wait(proxied proxyKey, k *carried, at time.Time, heardOf bool) {
	k.earliest, k.latest = at, at
	if heardOf {
		k.earliest = at.Add(-joinWindow)
	}
	j.queues[proxied] = append(j.queues[proxied], k)
}

// meshed takes in what the routing mesh does with a connection that the host has sent it.
func (j *joins) meshed(p *placed, isNew bool) {
	if p.scope != ScopeIngress {
		return
	}
	j.hops = append(j.hops, hop{
		entryKey: entryKey{p.Protocol, loader.Tuple{Source: p.Original.Destination, Destination: p.Original.Source}},
		seen:     p.Reply.Destination, server: p.Reply.Source, at: p.At, isNew: isNew,
	})
}

// settle joins what has come in this reading, and forgets what is too old.
func (j *joins) settle(nat *NAT, now time.Time) {
	for _, h := range j.hops {
		k := j.carried[h.entryKey]
		if k == nil && h.isNew {
			k = j.remember(h.entryKey, h.at)
		}
		if k != nil && !k.joined {
			k.join(nat, h.seen, h.server, false)
		}
	}
	slices.SortStableFunc(j.dials, func(a, b dial) int { return a.at.Compare(b.at) })
	for _, waiting := range j.queues {
		slices.SortStableFunc(waiting, func(a, b *carried) int { return a.earliest.Compare(b.earliest) })
	}
	takers := make([]*carried, len(j.dials))
	for i := range j.dials {
		takers[i] = j.dialed(j.dials[i])
	}
	doubtful := j.doubtful(takers)
	for i, k := range takers {
		if k != nil {
			k.join(nat, j.dials[i].seen, j.dials[i].server, doubtful[i])
		}
	}
	j.leaveDials(takers, now)
	j.hops = nil
	j.forget(now)
}

// doubtful tells which of the dials that somebody waited for may be another's: several waited, or there is a dial to the same
// place that nobody waited for, within the window before or after, or one that several waited for before. A process of the host
// that connects to the container itself looks as docker-proxy does.
func (j *joins) doubtful(takers []*carried) []bool {
	doubtful := make([]bool, len(takers))
	strays := make(map[proxyKey]time.Time)
	maps.Copy(strays, j.strays)
	look := func(i int) {
		d, k := &j.dials[i], takers[i]
		at, found := strays[d.proxyKey]
		if k == nil {
			strays[d.proxyKey] = d.at
		} else if k.guessed || found && d.at.Sub(at).Abs() <= joinWindow {
			doubtful[i] = true
		}
	}
	for i, k := range takers {
		look(i)
		if k != nil && k.guessed {
			strays[j.dials[i].proxyKey] = j.dials[i].at
		}
	}
	clear(strays)
	for i := range slices.Backward(takers) {
		look(i)
	}
	return doubtful
}

// leaveDials keeps the dials that somebody may still be told to have waited for: what no device sends is told some time after
// docker-proxy's own connection for it, mostly in the next reading. Of the others it notes those that are not clear.
func (j *joins) leaveDials(takers []*carried, now time.Time) {
	left := j.dials[:0]
	for i := range takers {
		d := j.dials[i]
		switch k := takers[i]; {
		case k == nil && now.Sub(d.at) <= joinWindow:
			left = append(left, d)
		case k == nil || k.guessed:
			j.stray(&d)
		}
	}
	j.dials = left
	if len(left) == 0 {
		j.dials = nil // and give the room back
	}
}

func (j *joins) stray(d *dial) {
	if j.strays == nil {
		j.strays = make(map[proxyKey]time.Time)
	}
	if d.at.After(j.strays[d.proxyKey]) {
		j.strays[d.proxyKey] = d.at
	}
}

// dialed gives docker-proxy's connection to the oldest that waits for one; nil: nobody does.
func (j *joins) dialed(d dial) (taker *carried) {
	waiting := j.queues[d.proxyKey]
	for len(waiting) > 0 && d.at.Sub(waiting[0].latest) > joinWindow {
		waiting = waiting[1:]
	}
	if len(waiting) > 0 && !waiting[0].earliest.After(d.at) {
		doubt(waiting, d.at)
		taker, waiting = waiting[0], waiting[1:]
	}
	if waiting != nil {
		j.queues[d.proxyKey] = waiting
	}
	return taker
}

// doubt notes that of those that wait any could be meant, if there are several. All but the latest know already.
func doubt(waiting []*carried, at time.Time) {
	after, _ := slices.BinarySearchFunc(waiting, at, func(k *carried, at time.Time) int {
		if k.earliest.After(at) {
			return 1
		}
		return -1
	})
	for i := after - 1; after > 1 && i >= 0 && !waiting[i].guessed; i-- {
		waiting[i].guessed = true
	}
}

// join says what the container sees, in the news at hand, or, if it was told before, as news of its own.
func (k *carried) join(nat *NAT, seen, server netip.AddrPort, inferred bool) {
	k.joined = true
	k.Seen, k.Server, k.Inferred = seen, server, inferred
	if k.attempt >= 0 {
		merge(k, &nat.Attempts[k.attempt])
	}
	if k.connection >= 0 {
		merge(k, &nat.Connections[k.connection])
	}
	if k.told && k.attempt < 0 && k.connection < 0 {
		nat.Joined = append(nat.Joined, k.PublishedConnection)
	}
}

// forget drops what is too old, and those of which all is told.
func (j *joins) forget(now time.Time) {
	for key, k := range j.carried {
		k.leaveNews()
		if k.joined && k.answered || now.Sub(k.since) > joinMemory {
			delete(j.carried, key)
		}
	}
	for key, waiting := range j.queues {
		for _, k := range waiting {
			k.leaveNews() // its place in carried may be that of the same addresses and ports again
		}
		waiting = slices.DeleteFunc(waiting, func(k *carried) bool { return now.Sub(k.latest) > joinMemory })
		if len(waiting) == 0 {
			delete(j.queues, key)
			continue
		}
		j.queues[key] = waiting
	}
	maps.DeleteFunc(j.strays, func(_ proxyKey, at time.Time) bool { return now.Sub(at) > joinMemory })
}

// leaveNews is for the end of a reading: the next one's news are others.
func (k *carried) leaveNews() { k.attempt, k.connection = -1, -1 }
