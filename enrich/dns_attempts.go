// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"time"
)

// Attempts to complete a name follow each other: within the time that two of them take which nobody answers. Of more than so
// many they are several clients' in one container.
const (
	attemptSpan = 10 * time.Second
	maxAttempts = 32
)

// attempt is what a client looks for, in whichever way the name is completed.
type attempt struct{ place, base string }

// dnsAttempts are the latest answered lookups by what their clients look for: one whose name is not found has not failed if
// another one's is.
type dnsAttempts map[attempt][]*dnsEntry

// attempt is what the client of a lookup looks for. Containers are told apart.
func (r *DNSRow) attempt() attempt {
	return attempt{dnsPlace(r.ContainerID, r.Scope), first(r.Base, r.Name)}
}

func dnsPlace(containerID string, scope Scope) string { return first(containerID, string(scope)) }

// add takes in a lookup. It tells whether that is an attempt of a client's: what the engine asks others is none, and who is not
// known cannot be told from others.
func (a dnsAttempts) add(entry *dnsEntry) bool {
	if entry.forwardOf != 0 || entry.Scope == ScopeUnknown || !entry.found() && !entry.notFound() {
		return false
	}
	key := entry.attempt()
	entries := a[key]
	if len(entries) == maxAttempts {
		entries = slices.Delete(entries, 0, 1)
	}
	a[key] = append(entries, entry)
	return true
}

func (a dnsAttempts) remove(entry *dnsEntry) { forget(a, entry.attempt(), entry) }

// expand notes that lookups of a name were attempts to complete another, of which the client said nothing itself. It returns
// them.
func (a dnsAttempts) expand(e *Expansion) (expanded []*dnsEntry) {
	if e.Name == e.Base {
		return nil
	}
	for _, entry := range slices.Clone(a[attempt{dnsPlace(e.ContainerID, e.Scope), e.Name}]) {
		if entry.Base == "" {
			a.remove(entry)
			entry.Base = e.Base
			a.add(entry)
			expanded = append(expanded, entry)
		}
	}
	return expanded
}

// excused returns the attempts of which one or the other is known to have not failed by this one.
func (a dnsAttempts) excused(entry *dnsEntry) (excused []*dnsEntry) {
	for _, other := range a[entry.attempt()] {
		if entry.excuse(&other.DNSRow) {
			excused = append(excused, entry)
		}
		if other.excuse(&entry.DNSRow) {
			excused = append(excused, other)
		}
	}
	return excused
}

// excuse notes that a lookup that found nothing has not failed, if another one found what both were looking for. It tells
// whether that is new.
func (r *DNSRow) excuse(by *DNSRow) bool {
	if !r.Failed || !r.notFound() || !by.found() || by.Name == r.Name || by.QType != r.QType || r.Time.Sub(by.Time).Abs() > attemptSpan {
		return false
	}
	r.Failed, r.FoundAs = false, by.Name
	return true
}

// forget takes an entry out of a list of several.
func forget[K comparable](lists map[K][]*dnsEntry, key K, entry *dnsEntry) {
	entries := lists[key]
	at := slices.Index(entries, entry)
	switch {
	case at < 0:
	case len(entries) == 1:
		delete(lists, key)
	default:
		lists[key] = slices.Delete(entries, at, at+1)
	}
}
