// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// maxAnswers bounds the addresses that are remembered of all containers' answers.
const maxAnswers = 32768

// resolvedAddresses are those that containers got from the engine's resolver, for as long as the containers live. The zero
// value has none.
type resolvedAddresses struct {
	got     map[string]map[netip.Addr]resolvedAddress // by the ID of who asked
	count   int
	refused uint64
}

// resolvedAddress says where an address came from.
type resolvedAddress struct {
	name     string
	at       time.Time
	place    stationAddress
	identity Identity // who had it then
}

// answerers finds the owners of the addresses of an answer, nil if all are nobody's here.
func (s *State) answerers(l *Lookup, asker *member) []Answerer {
	if l.Resolver != ResolverEmbedded || l.RCode != "NOERROR" {
		return nil
	}
	known := false
	owners := make([]Answerer, 0, len(l.Answer.Addresses))
	for _, a := range l.Answer.Addresses {
		_, holder := s.holderFor(asker, a)
		known = known || holder.identity != Identity{}
		owners = append(owners, Answerer{Address: a, Owner: holder.identity})
	}
	if !known {
		return nil
	}
	return owners
}

// holderFor finds who has an address, or had it last, on a network of the asker's.
func (s *State) holderFor(asker *member, address netip.Addr) (stationAddress, addressHolder) {
	for _, e := range asker.Endpoints {
		place := stationAddress{e.NetworkID, address}
		if holder, found := s.names().addresses[place]; found {
			return place, holder
		}
	}
	return stationAddress{}, addressHolder{}
}

// noteAnswers remembers which addresses containers were given.
func (s *State) noteAnswers(lookups []Lookup) {
	for i := range lookups {
		l := &lookups[i]
		asker := s.members[l.ContainerID]
		for _, a := range l.Answerers {
			if a.Owner == (Identity{}) || asker == nil {
				continue
			}
			place, _ := s.holderFor(asker, a.Address)
			s.pending.dns.resolved.note(l.ContainerID, resolvedAddress{name: l.Question.Name, at: l.Answered, place: place, identity: a.Owner})
		}
	}
}

func (a *resolvedAddresses) note(asker string, got resolvedAddress) {
	of := a.got[asker]
	_, known := of[got.place.address]
	if !known && a.count >= maxAnswers {
		a.refused++
		return
	}
	if of == nil {
		of = make(map[netip.Addr]resolvedAddress)
		if a.got == nil {
			a.got = make(map[string]map[netip.Addr]resolvedAddress)
		}
		a.got[asker] = of
	}
	if !known {
		a.count++
	}
	of[got.place.address] = got
}

// forget drops what was told to those who are no more.
func (a *resolvedAddresses) forget(members map[string]*member) {
	for id, of := range a.got {
		if members[id] == nil {
			a.count -= len(of)
			delete(a.got, id)
		}
	}
}

// StaleUses finds in lost packets those that a container sent to an address that it has from an answer and that nobody has
// any more: one each per container and address. It is to be called after AttributeDNS has taken in the answers.
func (s *State) StaleUses(drops []Drop) []StaleUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	type use struct {
		container string
		address   netip.Addr
	}
	packets := make(map[use]uint64)
	scopes := make(map[use]Scope)
	for i := range drops {
		d := &drops[i]
		if d.Cause != "dead-endpoint" && d.Cause != "no-route" {
			continue
		}
		key := use{d.ContainerID, d.Destination.Unmap()}
		if got, found := s.pending.dns.resolved.got[key.container][key.address]; found && !s.isTaken(got.place) {
			packets[key] += d.Packets
			scopes[key] = d.Scope
		}
	}
	var uses []StaleUse
	for key, count := range packets {
		asker := s.members[key.container]
		if asker == nil {
			continue
		}
		got := s.pending.dns.resolved.got[key.container][key.address]
		stale := StaleUse{
			Identity: asker.Identity, ContainerID: key.container, Scope: scopes[key], Name: got.name, Address: key.address,
			Answered: got.at, Gone: got.identity, Used: s.config.Now(), Packets: count,
		}
		stale.Network = got.identity.Network
		uses = append(uses, stale)
	}
	slices.SortFunc(uses, func(a, b StaleUse) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), a.Address.Compare(b.Address))
	})
	return uses
}

// isTaken tells whether somebody who lives has the address.
func (s *State) isTaken(place stationAddress) bool {
	holder, found := s.names().addresses[place]
	return found && holder.alive()
}
