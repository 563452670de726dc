// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

const (
	// maxTargets bounds the owners of a name that a lookup is told.
	maxTargets = 4
	// tasksPrefix is put before a service's name to ask for its tasks' addresses.
	tasksPrefix = "tasks."
)

// nameHolder is who has a name: a container, or a service that a Swarm manager tells of.
type nameHolder struct {
	member   *member // nil: it is a service's
	service  *Service
	identity Identity
	// network is the ID of the one on which it is served; "": on none, since it is a host name, or of a container that is on no
	// network that names are served on.
	network  string
	hostname bool
	since    time.Time // of one that a lookup missed: as NameTarget.Since
}

// alive tells whether somebody has the name now.
func (h *nameHolder) alive() bool { return h.service != nil || h.member.alive() }

// runs tells whether somebody has the name who is wherever it is going to be: what has been made and is not started yet is on
// no network.
func (h *nameHolder) runs() bool { return h.service != nil || h.member.Running && !h.member.sketch }

// registered tells whether the name should be known where it is served.
func (h *nameHolder) registered() bool {
	return h.service != nil || h.member.alive() && h.member.isRegistered()
}

func (h *nameHolder) containerID() string {
	if h.member == nil {
		return ""
	}
	return h.member.ID
}

// stationAddress is an address on a network: they repeat across networks.
type stationAddress struct {
	network string // its ID
	address netip.Addr
}

// addressHolder is who has an address: a container, or a service.
type addressHolder struct {
	member   *member // nil: it is a service's
	identity Identity
}

func (h *addressHolder) alive() bool { return h.member == nil || h.member.alive() }

// nameList is what the engine's resolver serves, and what it could be taken to serve, made with an index and what was known
// besides. Its zero value is out of date.
type nameList struct {
	madeWith  *stationIndex
	holders   map[string][]nameHolder // by name, in lower case; in the order of targets, and few on each network
	addresses map[stationAddress]addressHolder
}

func (l *nameList) outdate() { *l = nameList{} }

func (l *nameList) add(name string, h nameHolder) {
	name = strings.ToLower(name)
	if name != "" {
		l.holders[name] = append(l.holders[name], h)
	}
}

// arrange leaves no more of each name's holders on a network than are told, each once: of a name that a thousand replicas have,
// lookups may fail ten thousand times a second.
func (l *nameList) arrange() {
	for name, holders := range l.holders {
		if len(holders) == 1 {
			continue
		}
		slices.SortFunc(holders, func(a, b nameHolder) int {
			return cmp.Or(cmp.Compare(a.network, b.network), compareTruth(a.hostname, b.hostname),
				compareTruth(b.registered(), a.registered()), compareHolders(&a, &b))
		})
		var few []nameHolder
		kept := 0 // of those on the same network
		for _, h := range slices.Compact(holders) {
			if last := len(few) - 1; last < 0 || few[last].network != h.network || few[last].hostname != h.hostname {
				kept = 0
			}
			if kept++; kept <= maxTargets {
				few = append(few, h)
			}
		}
		slices.SortFunc(few, func(a, b nameHolder) int { return compareHolders(&a, &b) })
		l.holders[name] = few
	}
}

// compareHolders is the order in which a name's holders are told.
func compareHolders(a, b *nameHolder) int {
	return cmp.Or(cmp.Compare(a.identity.Stack, b.identity.Stack), cmp.Compare(a.identity.Service, b.identity.Service),
		cmp.Compare(a.identity.Container, b.identity.Container), cmp.Compare(a.identity.Network, b.identity.Network),
		cmp.Compare(a.containerID(), b.containerID()))
}

func compareTruth(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// names returns the list as it is now. It is cheap as long as nothing changes.
func (s *State) names() *nameList {
	list := &s.pending.dns.names
	if current := s.index(); list.madeWith != current {
		*list = nameList{current, make(map[string][]nameHolder), make(map[stationAddress]addressHolder)}
		services := make(map[string]bool, len(s.services))
		for i := range s.services {
			services[s.services[i].Name] = true
			s.addServiceNames(list, &s.services[i])
		}
		for _, m := range s.members {
			s.addMemberNames(list, m, !services[m.Labels[labelSwarmService]])
			s.addAddresses(list, m)
		}
		list.arrange()
	}
	return list
}

func (s *State) addServiceNames(list *nameList, service *Service) {
	for _, at := range service.Networks {
		identity := service.identity()
		identity.Network = s.networkName(at.NetworkID)
		for _, name := range append([]string{service.Name}, at.Aliases...) {
			holder := nameHolder{service: service, identity: identity, network: at.NetworkID}
			list.add(name, holder)
			list.add(tasksPrefix+name, holder)
		}
		if at.VIP.IsValid() {
			list.addresses[stationAddress{at.NetworkID, at.VIP}] = addressHolder{identity: identity}
		}
	}
}

// addMemberNames adds the names of a container, and that of its Swarm service if only its labels tell of that.
func (s *State) addMemberNames(list *nameList, m *member, withService bool) {
	if m.Name == "" {
		return
	}
	var served []string
	for _, e := range m.Endpoints {
		if !s.servesNames(&e) {
			continue
		}
		holder := nameHolder{member: m, identity: m.Identity, network: e.NetworkID}
		holder.identity.Network = e.Network
		for _, name := range e.Names {
			list.add(name, holder)
		}
		if service := m.Labels[labelSwarmService]; withService && service != "" {
			list.add(service, holder)
			list.add(tasksPrefix+service, holder)
		}
		served = append(served, e.Names...)
	}
	unserved := nameHolder{member: m, identity: m.Identity}
	unserved.identity.Network = m.network([6]byte{})
	if len(served) == 0 { // on another network these would be served
		list.add(m.Name, unserved)
		list.add(m.Labels[labelComposeService], unserved)
	}
	if !m.OwnsNetns() || m.Hostname == "" {
		return // its host name is another's
	}
	unserved.hostname = len(served) > 0
	if !slices.Contains(served, m.Hostname) {
		list.add(m.Hostname, unserved)
	}
	if m.Domain != "" {
		unserved.hostname = true
		list.add(m.Hostname+"."+m.Domain, unserved)
	}
}

func (s *State) addAddresses(list *nameList, m *member) {
	for _, e := range m.Endpoints {
		for _, a := range e.Addresses {
			key := stationAddress{e.NetworkID, a}
			if old, found := list.addresses[key]; found && (old.member == nil || latest(old.member, m) != m) {
				continue
			}
			holder := addressHolder{member: m, identity: m.Identity}
			holder.identity.Network = e.Network
			list.addresses[key] = holder
		}
	}
}

// servesNames tells whether the engine's resolver serves the names of an endpoint's network: on those that somebody made.
func (s *State) servesNames(e *Endpoint) bool {
	if n := s.networks[e.NetworkID]; n != nil {
		return !n.Predefined
	}
	return len(e.Names) > 0
}

// networkName is a network's name by its ID, "" if it is not known.
func (s *State) networkName(id string) string {
	if n := s.networks[id]; n != nil {
		return n.Name
	}
	return ""
}

// misname finds out why an address was asked for in vain, if it was, and who has the name. late: what is not known by now is
// not waited for.
func (s *State) misname(l *Lookup, asker *member, late bool) (Misname, []NameTarget) {
	if slices.ContainsFunc(asker.Endpoints, func(e Endpoint) bool { return e.NetworkID == "" }) {
		return "", nil // an attachable overlay that the engine is just attaching it to: which one is not known yet
	}
	onDefaultBridge := l.Resolver == ResolverDirect && asker.isOnDefaultBridge()
	if l.QType != "A" && l.QType != "AAAA" || l.RCode != "NXDOMAIN" && !l.Failed() ||
		l.Resolver != ResolverEmbedded && !onDefaultBridge || asker.isCalled(l.Question.Name) {
		return "", nil
	}
	// Where no answer came from outside, it may be somebody's name there: a host name, or any with a dot.
	asked := l.RCode == "NXDOMAIN" || !onDefaultBridge && s.isSealed(asker)
	public := strings.Contains(l.Question.Name, ".")
	var here, elsewhere, hosts []nameHolder
	for h := range s.holders(l.Question.Name) {
		isHere := !onDefaultBridge && asker.isOn(h.network)
		switch {
		case isHere:
			here = append(here, *h)
		case !h.runs(): // it may be on its way to where the asker is
		case !asked && (h.hostname || public):
		case h.hostname && !onDefaultBridge:
			hosts = appendFew(hosts, h)
		default:
			elsewhere = appendFew(elsewhere, h)
		}
	}
	switch {
	case len(here) > 0:
		return s.missing(l, here, asker, late)
	case len(elsewhere) > 0 && onDefaultBridge:
		return MisnameDefaultBridge, s.targets(elsewhere, asker)
	case len(elsewhere) > 0:
		return MisnameOtherNetwork, s.targets(elsewhere, asker)
	case len(hosts) > 0:
		return MisnameHostname, s.targets(hosts, asker)
	}
	return "", nil
}

func appendFew(few []nameHolder, h *nameHolder) []nameHolder {
	if len(few) == maxTargets {
		return few
	}
	return append(few, *h)
}

// missing finds those who have a name that the engine's resolver should have known where they and the asker are. A resolver
// that does not answer misses nobody.
func (s *State) missing(l *Lookup, holders []nameHolder, asker *member, late bool) (Misname, []NameTarget) {
	if l.Outcome != loader.DNSAnswered {
		return "", nil
	}
	var missed []nameHolder
	for i := range holders {
		h := &holders[i]
		since, known := s.servedSince(h, l.Answered)
		if known && !since.IsZero() && l.Asked().Sub(since) >= servedAfter || !known && !late {
			h.since = since
			missed = append(missed, *h)
		}
	}
	if len(missed) == 0 {
		return "", nil
	}
	return MisnameMissing, s.targets(missed, asker)
}

// isCalled tells whether a name is the container's own host name. It has that in /etc/hosts, but mostly for IPv4 only.
func (m *member) isCalled(name string) bool {
	host, rest, dotted := strings.Cut(name, ".")
	return m.Hostname != "" && m.OwnsNetns() &&
		(strings.EqualFold(name, m.Hostname) || dotted && strings.EqualFold(host, m.Hostname) && strings.EqualFold(rest, m.Domain))
}

// isSealed tells whether a container is on internal networks alone: the engine asks nobody outside for it.
func (s *State) isSealed(m *member) bool {
	return len(m.Endpoints) > 0 && !slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool {
		n := s.networks[e.NetworkID]
		return n == nil || !n.Internal
	})
}

// holders are the living who have a name. It may have the name of a network behind it, as the engine's resolver allows.
func (s *State) holders(name string) iter.Seq[*nameHolder] {
	list := s.names()
	return func(yield func(*nameHolder) bool) {
		all := list.holders[name]
		for i := range all {
			if all[i].alive() && !yield(&all[i]) {
				return
			}
		}
		for dot := range len(name) {
			if name[dot] != '.' {
				continue
			}
			all := list.holders[name[:dot]]
			for i := range all {
				if all[i].alive() && strings.EqualFold(s.networkName(all[i].network), name[dot+1:]) && !yield(&all[i]) {
					return
				}
			}
		}
	}
}

// targets are who has a name, sorted, each once.
func (s *State) targets(holders []nameHolder, asker *member) (targets []NameTarget) {
	slices.SortFunc(holders, func(a, b nameHolder) int { return compareHolders(&a, &b) })
	for i := range holders {
		h := &holders[i]
		targets = append(targets, NameTarget{Identity: h.identity, ContainerID: h.containerID(), UseName: s.useName(h, asker), Since: h.since})
	}
	targets = slices.Compact(targets)
	return targets[:min(maxTargets, len(targets))]
}

// useName finds a name by which the asker finds whoever has another, "" if there is none.
func (s *State) useName(h *nameHolder, asker *member) string {
	if h.service != nil {
		for _, at := range h.service.Networks {
			if asker.isOn(at.NetworkID) {
				return h.service.Name
			}
		}
		return ""
	}
	m := h.member
	if owner := s.members[m.sharedWith()]; owner != nil {
		m = owner
	}
	for _, e := range m.Endpoints {
		if asker.isOn(e.NetworkID) && s.servesNames(&e) {
			return m.bestName(&e)
		}
	}
	return ""
}

// bestName is the one of a container's names on a network that outlives the container, if there is one.
func (m *member) bestName(e *Endpoint) string {
	if service := m.Labels[labelSwarmService]; service != "" {
		return service
	}
	for _, name := range []string{m.Labels[labelComposeService], m.Name} {
		if slices.Contains(e.Names, name) {
			return name
		}
	}
	return first(e.Names...)
}

// isOn tells whether a container is on a network, by the network's ID.
func (m *member) isOn(network string) bool {
	return network != "" && slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool { return e.NetworkID == network })
}

// isOnDefaultBridge tells whether it is on no network but the one on which the engine serves no names and makes containers ask
// outside.
func (m *member) isOnDefaultBridge() bool {
	return len(m.Endpoints) == 1 && m.Endpoints[0].Network == defaultBridge
}
