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

// This file finds UDP that does not reach the container of a published port, since connection tracking remembers how it was
// when the container was elsewhere or not there. Other protocols end their connections, and begin new ones.

// rulesComplete is how long the engine may take to make a container's rules and to start the container, one after the other.
const rulesComplete = 2 * time.Second

// ruleKey is a published UDP port, for clients of one family of addresses.
type ruleKey struct {
	port uint16
	is6  bool
}

func ruleKeyOf(t *loader.Tracked) ruleKey {
	to := t.Original.Destination
	return ruleKey{to.Port(), to.Addr().Is6()}
}

// noteRule remembers whether rules lead clients of a published port to its container, by the latest that came while the
// container was there. Where none do, what is not translated is no left-over.
func (s *State) noteRule(c *PublishedConnection) {
	m := s.members[c.ContainerID]
	if c.NATEvent.Protocol != unix.IPPROTO_UDP || c.Client != ClientRemote || m == nil || !m.alive() ||
		c.At.Before(m.StartedAt.Add(rulesComplete)) {
		return
	}
	s.setRule(&c.Tracked, movesDestination(&c.Tracked))
}

func (s *State) setRule(t *loader.Tracked, leads bool) {
	if s.pending.nat.rules == nil {
		s.pending.nat.rules = make(map[ruleKey]bool)
	}
	s.pending.nat.rules[ruleKeyOf(t)] = leads
}

// leadsUDP tells whether rules lead to anybody.
func (s *State) leadsUDP() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(s.pending.nat.rules)), true)
}

// findStale takes in a translated entry.
func (t *tracker) findStale(entry *loader.Tracked) {
	if entry.Protocol != unix.IPPROTO_UDP || !t.listed || !movesDestination(entry) {
		return
	}
	port := t.publishedAt(entry.Original.Destination, entry.Protocol)
	switch {
	case port == nil || !port.alive():
	case t.isAbandoned(entry.Reply.Source.Addr()):
		t.addStale(entry, port.member)
	default:
		if _, known := t.pending.nat.rules[ruleKeyOf(entry)]; !known {
			t.setRule(entry, true)
		}
	}
}

// findPassedBy takes in an entry of UDP that is not translated. Clients on the host and in containers may not have to be: the
// former come by loopback, the latter from the container's own bridge.
func (t *tracker) findPassedBy(entry *loader.Tracked) {
	if !t.listed || !t.pending.nat.rules[ruleKeyOf(entry)] || t.client(entry) != ClientRemote {
		return
	}
	if port := t.publishedAt(entry.Original.Destination, entry.Protocol); port != nil && port.alive() {
		t.addStale(entry, port.member)
	}
}

func (t *tracker) addStale(entry *loader.Tracked, m *member) {
	if len(t.stale) == maxStale {
		t.moreStale++
		return
	}
	stale := StaleEntry{Tracked: *entry, Identity: m.Identity, ContainerID: m.ID, Port: entry.Original.Destination.Port()}
	stale.Network = t.networkToProxy(m)
	t.stale = append(t.stale, stale)
}

// isAbandoned tells an address behind one of Docker's bridges that no living container has. On the gateway bridge the engine
// does not tell who has one, so only those that the dead had are known to be abandoned.
func (t *tracker) isAbandoned(address netip.Addr) bool {
	network := t.networkOfAddress(address)
	if network == "" || t.isOwn(address) {
		return false
	}
	m := t.memberByAddress(address)
	return m == nil && network != gatewayBridge || m != nil && !m.alive()
}
