// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file finds the lookups that are only made since their client puts search suffixes behind names. One that finds nothing
// is one of those if the same client asks for the name without the suffix just before or after, or with another suffix:
// resolvers go through their list in order. That a name ends with a suffix does not tell: it may be meant.

const (
	// searchPause is how long after an answer the next name of the list is asked for at most. A client that asks for two types
	// at once goes on when both are answered. Without its list, names that have to do with each other only by chance would be
	// joined.
	searchPause        = 5500 * time.Millisecond
	searchPauseGuessed = 1500 * time.Millisecond
	// searchKept is how long names are remembered: what follows may itself end only when its time is up. Where there are too
	// many, those of which that is not likely go earlier.
	searchKept      = 15 * time.Second
	searchKeptLeast = 2 * time.Second
	// maxSearches bounds what is remembered of all clients, in notes. Of these a client may have so many times as many as are
	// free, so that one that asks for very much leaves room for others.
	maxSearches = 65536
	searchShare = 4
	// maxTrySuffixes is with how many suffixes a name is remembered, and maxLeft how many lookups with each a later one looks
	// at in vain.
	maxTrySuffixes = 16
	maxLeft        = 16
	// maxSuffixes is how many suffixes resolvers take, and how many labels of a name may be one where the list is not known.
	maxSuffixes = loader.MaxSuffixes
	maxLearners = 4096
)

// searches are names that found nothing, and what they may have been made of. Its zero value is ready.
type searches struct {
	clients map[loader.Netns]*clientSearches
	notes   int                       // of all clients
	learned map[loader.Netns][]string // suffixes of those whose lists are not known
	clock   time.Time                 // of the latest question
	reading int
	refused uint64
}

// clientSearches are those of a client.
type clientSearches struct {
	tries map[searchKey][]searchTries // by the name without a suffix
	vain  map[searchKey]time.Time     // when names last found nothing
	notes []searchNote                // of the former two, in order
}

// searchKey is what a client asks for.
type searchKey struct {
	qtype uint16
	name  string
}

// searchTries are lookups that found nothing and end with what is, or may be, a suffix, in the order of their ends.
type searchTries struct {
	suffix string
	tries  []*searchTry
}

// searchTry is such a lookup, the same for all that may be its suffix.
type searchTry struct {
	Expansion
	asked, answered time.Time
	reading, index  int // where it was told
	told            bool
}

// searchNote is what is to be forgotten.
type searchNote struct {
	key  searchKey
	at   time.Time
	vain bool
}

// searcher is a lookup with what is known of its client's search list.
type searcher struct {
	*Lookup
	client   loader.Netns
	key      searchKey
	suffixes []string
	known    bool
	pause    time.Duration
}

// findExpansions looks through lookups in the order of their ends.
func (s *State) findExpansions(told *DNS) {
	memory := &s.pending.dns.searches
	memory.reading++
	for i := range told.Lookups {
		l := &told.Lookups[i]
		if l.Group != loader.DNSUnicast {
			continue
		}
		searcher := s.searcher(l)
		if searcher.known && len(searcher.suffixes) == 0 {
			continue
		}
		if l.Asked().After(memory.clock) {
			memory.clock = l.Asked()
		}
		memory.follow(told, &searcher)
		memory.try(told, &searcher, i)
	}
	memory.forgetOld()
}

func (s *State) searcher(l *Lookup) searcher {
	client := clientOf(&l.DNSLookup)
	out := searcher{Lookup: l, client: client, key: searchKey{l.Question.Type, l.Question.Name}, pause: searchPauseGuessed}
	if l.ContainerID != "" || client == s.config.Host {
		out.suffixes, out.known = s.searchList(l.ContainerID)
	}
	if out.known {
		out.pause = searchPause
	} else {
		out.suffixes = s.pending.dns.searches.learned[client]
	}
	return out
}

// foundNothing tells whether it was answered without anything of use.
func (l *Lookup) foundNothing() bool {
	return l.Outcome == loader.DNSAnswered && (l.RCode != "NOERROR" || l.Answer.Records == 0)
}

// follow takes a lookup for what comes after others of its client, which are explained by it.
func (m *searches) follow(told *DNS, l *searcher) {
	m.confirm(told, l, l.key, "")
	for _, suffix := range l.suffixes {
		if base, found := strings.CutSuffix(l.key.name, "."+suffix); found {
			key := l.key
			key.name = base
			if m.confirm(told, l, key, suffix) || m.isVain(key, l) {
				l.Base = base
			}
		}
	}
}

// confirm tells of the tries with a name that is now asked for without a suffix, or with another. What it does not explain
// any more is forgotten.
func (m *searches) confirm(told *DNS, l *searcher, key searchKey, suffix string) (confirmed bool) {
	of := m.clients[l.client]
	if of == nil {
		return false
	}
	all := of.tries[key]
	for i := range all {
		with := &all[i]
		if with.suffix == suffix || suffix != "" && !slices.Contains(l.suffixes, with.suffix) {
			continue
		}
		left, walked := 0, 0
		for ; walked < len(with.tries) && left < maxLeft; walked++ {
			try := with.tries[walked]
			switch {
			case try.told || l.Asked().Sub(try.answered) > l.pause:
			case !l.isBeside(try, suffix): // those after it mostly are not either
				with.tries[left] = try
				left++
			default:
				m.tell(told, l, try, key.name, with.suffix)
				confirmed = true
			}
		}
		copy(with.tries[walked-left:walked], with.tries[:left])
		with.tries = with.tries[walked-left:]
	}
	of.setTries(key, all)
	return confirmed
}

// setTries sets those that may be of a name, without suffixes of which there are none.
func (c *clientSearches) setTries(key searchKey, all []searchTries) {
	all = slices.DeleteFunc(all, func(with searchTries) bool { return len(with.tries) == 0 })
	if len(all) > 0 {
		c.tries[key] = all
	} else {
		delete(c.tries, key)
	}
}

// isBeside tells whether a lookup comes after a try, or just before it and in vain. Those that wait for something are looked
// at late.
func (l *searcher) isBeside(try *searchTry, suffix string) bool {
	if !l.Asked().Before(try.asked) {
		return true
	}
	return suffix == "" && l.foundNothing() && !try.asked.Before(l.Answered) && try.asked.Sub(l.Answered) <= l.pause
}

func (m *searches) tell(told *DNS, l *searcher, try *searchTry, base, suffix string) {
	try.told = true
	try.Base = base
	told.Expansions = append(told.Expansions, try.Expansion)
	if try.reading == m.reading {
		told.Lookups[try.index].Base = base
	}
	m.learn(l, suffix)
}

// learn takes note of a suffix of a client whose list is not known.
func (m *searches) learn(l *searcher, suffix string) {
	of := m.learned[l.client]
	if l.known || len(of) >= maxSuffixes || slices.Contains(of, suffix) {
		return
	}
	if m.learned == nil || len(m.learned) >= maxLearners {
		m.learned = make(map[loader.Netns][]string) // who still asks is learned again
	}
	m.learned[l.client] = append(of, suffix)
}

// isVain tells whether the same client has just asked for a name in vain.
func (m *searches) isVain(key searchKey, l *searcher) bool {
	of := m.clients[l.client]
	if of == nil {
		return false
	}
	answered, found := of.vain[key]
	return found && l.Asked().Sub(answered) <= l.pause && !l.Asked().Before(answered)
}

// try takes a lookup that found nothing for one with a suffix: for certain if the name without it was asked for before.
func (m *searches) try(told *DNS, l *searcher, index int) {
	if !l.foundNothing() {
		return
	}
	try := &searchTry{
		Expansion: Expansion{
			Identity: l.Identity, ContainerID: l.ContainerID, Scope: l.Scope, Resolver: l.Resolver, Name: l.key.name,
		},
		asked: l.Asked(), answered: l.Answered, reading: m.reading, index: index,
	}
	for _, suffix := range l.possibleSuffixes() {
		key := l.key
		key.name = strings.TrimSuffix(key.name, "."+suffix)
		if m.isVain(key, l) {
			m.tell(told, l, try, key.name, suffix)
			break
		}
		if of := m.note(l.client, key, false); of != nil {
			m.refused += uint64(of.add(key, suffix, try))
		}
	}
	if of := m.note(l.client, l.key, true); of != nil {
		of.vain[l.key] = l.Answered
	}
}

// add remembers one more of those that may be of a name. If there are too many suffixes it forgets those with the oldest, and
// returns how many.
func (c *clientSearches) add(key searchKey, suffix string, try *searchTry) (forgotten int) {
	all := c.tries[key]
	at := slices.IndexFunc(all, func(with searchTries) bool { return with.suffix == suffix })
	if at < 0 {
		if len(all) == maxTrySuffixes {
			forgotten = len(all[0].tries)
			all = slices.Delete(all, 0, 1)
		}
		at = len(all)
		all = append(all, searchTries{suffix: suffix})
	}
	all[at].tries = append(all[at].tries, try)
	c.tries[key] = all
	return forgotten
}

// possibleSuffixes are those of its client's list that the name ends with, or all that could be one.
func (l *searcher) possibleSuffixes() (suffixes []string) {
	if l.known {
		for _, suffix := range l.suffixes {
			if strings.HasSuffix(l.key.name, "."+suffix) {
				suffixes = append(suffixes, suffix)
			}
		}
		return suffixes
	}
	for rest := l.key.name; len(suffixes) < maxSuffixes; suffixes = append(suffixes, rest) {
		found := false
		if _, rest, found = strings.Cut(rest, "."); !found {
			break
		}
	}
	return suffixes
}

// note makes room for one more of a client. It returns nil if there is none.
func (m *searches) note(client loader.Netns, key searchKey, vain bool) *clientSearches {
	of := m.clients[client]
	if of == nil {
		of = &clientSearches{tries: make(map[searchKey][]searchTries), vain: make(map[searchKey]time.Time)}
	}
	if len(of.notes) >= searchShare*(maxSearches-m.notes) {
		m.forget(client, of, searchKeptLeast)
	}
	if len(of.notes) >= searchShare*(maxSearches-m.notes) {
		m.refused++
		return nil
	}
	if m.clients == nil {
		m.clients = make(map[loader.Netns]*clientSearches)
	}
	m.clients[client] = of
	m.notes++
	of.notes = append(of.notes, searchNote{key, m.clock, vain})
	return of
}

// forgetOld drops what is too old of all clients.
func (m *searches) forgetOld() {
	for client, of := range m.clients {
		m.forget(client, of, searchKept)
	}
}

// forget drops what is older than an age of a client.
func (m *searches) forget(client loader.Netns, of *clientSearches, age time.Duration) {
	before := m.clock.Add(-age)
	for ; len(of.notes) > 0 && of.notes[0].at.Before(before); of.notes = of.notes[1:] {
		m.notes--
		key := of.notes[0].key
		if of.notes[0].vain {
			if of.vain[key].Before(before) {
				delete(of.vain, key)
			}
			continue
		}
		all := of.tries[key]
		for i := range all {
			tries := all[i].tries
			for len(tries) > 0 && tries[0].asked.Before(before) {
				tries = tries[1:]
			}
			all[i].tries = tries
		}
		of.setTries(key, all)
	}
	if len(of.notes) == 0 {
		delete(m.clients, client)
	}
}
