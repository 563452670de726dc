// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// natPending is what the nat signal's news wait for, and what they are joined by. Its zero value is ready.
type natPending struct {
	opened   []waiting[loader.NATEvent]
	answered []waiting[loader.NATEvent]
	// numbers are the owners of namespaces by number, as found for the news at hand: asking the kernel costs too much for
	// each of them, and tomorrow the number is another's.
	numbers map[int]string
	ports   publishedIndex
	// endpoints are what NATEndpoints returned last.
	endpoints endpointList
	joins     joins
	meshed    map[ingressPort]meshedPort // services behind ports of the routing mesh, as learned
	maybeMesh uint64                     // news of connections of which it is not known whether they are the routing mesh's
	rules     map[ruleKey]bool           // see noteRule
	told      [4]int                     // how many translations, attempts, connections and answers the last reading had
}

// placed is news of a connection, with where it happened and whose it is.
type placed struct {
	*loader.NATEvent
	scope   Scope
	owner   *member              // of the namespace; on the host, of the address that is translated. nil: nobody, or not known
	sandbox *loader.SandboxState // the engine's own namespace where it is; nil: it is in another, or that is not known
	kind    NATKind
}

// AttributeNAT says what the nat signal's news mean. What is of a container that nobody has told of yet waits, as in
// [State.Attribute].
func (s *State) AttributeNAT(news loader.NATNews) NAT {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	pending := &s.pending.nat
	clear(pending.numbers)
	// There may be very many, and about as many as the last time.
	nat := NAT{
		Translations: make([]Translation, 0, pending.told[0]),
		Attempts:     make([]PublishedConnection, 0, pending.told[1]),
		Connections:  make([]PublishedConnection, 0, pending.told[2]),
		Answered:     make([]NATAnswer, 0, pending.told[3]),
	}
	pending.opened = s.settleNAT(pending.opened, news.Opened, now, func(p *placed) { s.opened(&nat, p) })
	pending.answered = s.settleNAT(pending.answered, news.Answered, now, func(p *placed) { s.answered(&nat, p) })
	pending.joins.settle(&nat, now)
	pending.told = [...]int{len(nat.Translations), len(nat.Attempts), len(nat.Connections), len(nat.Answered)}
	return nat
}

// settleNAT does what settle does, without copies of what does not have to wait.
func (s *State) settleNAT(
	old []waiting[loader.NATEvent], news []loader.NATEvent, now time.Time, done func(*placed),
) []waiting[loader.NATEvent] {
	wait := old[:0]
	var p placed
	var final bool
	try := func(e *loader.NATEvent, since time.Time) {
		p, final = s.place(e)
		if final || now.Sub(since) >= patience || len(wait) >= maxPending {
			done(&p)
			return
		}
		wait = append(wait, waiting[loader.NATEvent]{record: *e, since: since})
	}
	for i := range old {
		try(&old[i].record, old[i].since)
	}
	for i := range news {
		try(&news[i], now)
	}
	if len(wait) == 0 {
		return nil // and give the room back
	}
	return wait
}

func (s *State) opened(nat *NAT, p *placed) {
	joins := &s.pending.nat.joins
	if p.kind != "" {
		nat.Translations = append(nat.Translations, s.translation(p))
		s.learnMesh(p)
	}
	if c, proxied, found := s.published(p); found {
		nat.Attempts = append(nat.Attempts, c)
		if p.kind != "" {
			nat.Translations[len(nat.Translations)-1].Published = true
		}
		s.noteRule(&c)
		joins.opened(nat, proxied)
	} else if d, found := s.dialed(p); found {
		joins.dials = append(joins.dials, d)
	}
	joins.meshed(p, true)
}

func (s *State) answered(nat *NAT, p *placed) {
	joins := &s.pending.nat.joins
	if p.kind != "" {
		nat.Answered = append(nat.Answered, NATAnswer{key: p.key(), Kind: p.kind})
	}
	if c, proxied, found := s.published(p); found && !s.isKept(&c) {
		nat.Connections = append(nat.Connections, c)
		joins.answered(nat, proxied)
	}
	joins.meshed(p, false)
}

// NATLosses returns what is not known of connections for good, in news of them: one that is opened and answered is twice
// in the news.
//   - "not_joined": what the container sees, for want of room.
//   - "maybe_mesh": whether it is the routing mesh that they are sent on to. They are neither attempts nor connections.
func (s *State) NATLosses() []loader.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := &s.pending.nat
	return []loader.Loss{
		{Place: "not_joined", Count: pending.joins.refused},
		{Place: "maybe_mesh", Count: pending.maybeMesh},
	}
}

// place finds the namespace of a connection and its owner. It is not final while either may still become known.
func (s *State) place(e *loader.NATEvent) (p placed, final bool) {
	p = placed{NATEvent: e, scope: ScopeUnknown}
	if e.Netns == s.config.Host {
		p.scope = ScopeHost
		p.kind = s.natKind(&p)
		return p, s.ownOnHost(&p)
	}
	if p.sandbox = s.sandboxOf(&e.Tracked); p.sandbox != nil {
		p.scope = scopeOfSandbox(p.sandbox.Kind)
		p.kind = s.natKind(&p)
		return p, true
	}
	m := s.memberInside(&e.Tracked)
	if m != nil && m.Name != "" {
		p.scope, p.owner, final = ScopeContainer, m, true
	} else if s.ingressSandbox.IsValid() && e.Original.Destination.Addr() == s.ingressSandbox {
		p.scope, final = ScopeIngress, true
	}
	p.kind = s.natKind(&p)
	if m == nil && p.scope == ScopeUnknown && p.kind == IPVS && s.isOnOverlay(e.Original.Destination.Addr()) {
		p.scope, final = ScopeLoadBalancer, true
	}
	return p, final
}

// sandboxOf finds the engine's own namespace that a connection is in; nil: it is in another, or none that is known yet. A number may
// be a container's since the last look.
func (s *State) sandboxOf(t *loader.Tracked) *loader.SandboxState {
	if t.Netns != 0 {
		return s.sandboxAt(t.Netns)
	}
	state := s.overlays.sandboxes.byNumber[t.NetnsID]
	if state == nil || s.memberInside(t) != nil {
		return nil
	}
	return state
}

// isOnOverlay tells whether an address is on one of Swarm's networks between nodes.
func (s *State) isOnOverlay(address netip.Addr) bool {
	for _, n := range s.networks {
		if n.isOverlay() && slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(address) }) {
			return true
		}
	}
	return false
}

// key finds the entry among those of all namespaces. Those that are nobody's are not told apart.
func (p *placed) key() natKey {
	if p.scope == ScopeContainer {
		return natKey{p.owner.ID, keyOf(&p.Tracked)}
	}
	return natKey{string(p.scope), keyOf(&p.Tracked)}
}

// memberInside finds the container whose namespace a connection is in.
func (s *State) memberInside(t *loader.Tracked) *member {
	if id, bound := s.netns[t.Netns]; bound && t.Netns != 0 {
		return s.members[id]
	}
	if t.NetnsID < 0 {
		return nil
	}
	numbers := s.pending.nat.numbers
	if numbers == nil {
		numbers = make(map[int]string)
		s.pending.nat.numbers = numbers
	}
	id, asked := numbers[t.NetnsID]
	if !asked {
		id = s.ownerOf(t.NetnsID)
		numbers[t.NetnsID] = id
	}
	return s.members[id]
}

// ownOnHost finds whose connection the host translates: of the container that it is sent to, else of the one that it
// comes from.
func (s *State) ownOnHost(p *placed) (final bool) {
	if p.kind == "" || s.isMesh(&p.Tracked) {
		return true // it is no translation, or nobody's; who publishes the port is asked later
	}
	if movesDestination(&p.Tracked) {
		to := p.Reply.Source.Addr()
		m, known := s.holder(to, p.At)
		if m == nil || !m.alive() {
			if port := s.publishedAt(p.Original.Destination, p.Protocol); port != nil && port.alive() {
				// The engine does not tell the addresses that containers have on the gateway bridge.
				m, known = port.member, known || s.networkOfAddress(to) == gatewayBridge
			} else if m == nil && s.networkOfAddress(to) == gatewayBridge {
				s.wantSwarm() // it may be the routing mesh that is there
			}
		}
		if m != nil || !known {
			p.owner = m
			return known
		}
	}
	p.owner, final = s.holder(p.Original.Source.Addr(), p.At)
	return final
}

// holder finds the container that had an address at a time. It is not known as long as there may be one that nobody has
// told of: Docker hands out the addresses of the dead again at once.
func (s *State) holder(address netip.Addr, at time.Time) (m *member, known bool) {
	if s.isOwn(address) {
		return nil, true
	}
	switch m = s.memberByAddress(address); {
	case m != nil && m.Name != "":
		return m, m.alive() || !at.After(m.died)
	case m != nil:
		return nil, false
	}
	return nil, s.listed && s.networkOfAddress(address) == ""
}

// networkOfAddress names the network whose bridge an address is behind, "" if there is none.
func (s *State) networkOfAddress(address netip.Addr) string {
	if n := s.index().bridgeNetwork(address); n != nil {
		return n.Name
	}
	return ""
}

func (s *State) translation(p *placed) Translation {
	t := Translation{NATEvent: *p.NATEvent, Scope: p.scope, Kind: p.kind}
	switch {
	case p.owner != nil:
		t.Identity = p.owner.Identity
		t.Network = s.networkOfConnection(p)
		t.ContainerID = p.owner.ID
	case p.scope == ScopeIngress, p.scope == ScopeHost && s.isMesh(&p.Tracked):
		t.Identity, _ = s.meshService(p.Original.Destination.Port(), p.Protocol)
	case p.sandbox != nil:
		t.Identity = s.virtualService(p)
	}
	if p.scope == ScopeHost && !movesDestination(&p.Tracked) {
		t.ServedBy = s.servedBy(p)
	}
	return t
}

// virtualService is the service whose virtual address a connection in a load balancer's namespace is to, with the network; the
// network alone if there is none.
func (s *State) virtualService(p *placed) Identity {
	n := s.networkOf(&p.sandbox.Sandbox)
	if n == nil {
		return Identity{}
	}
	if service, found := s.overlayIndex().vips[station{n.ID, p.Original.Destination.Addr()}]; found {
		return service
	}
	return Identity{Network: n.Name}
}

// servedBy finds the container that another one's connection leads to, as where a rule masquerades between two networks.
func (s *State) servedBy(p *placed) *Owner {
	m := s.memberByAddress(p.Reply.Source.Addr())
	if m == nil || !m.alive() || m == p.owner {
		return nil
	}
	return &Owner{Service: m.Service, Container: m.Identity.Container, ContainerID: m.ID}
}

// networkOfConnection names the network of the end that belongs to the owner.
func (s *State) networkOfConnection(p *placed) string {
	switch {
	case p.kind == EmbeddedDNS:
		return "" // loopback is on none
	case p.scope == ScopeContainer:
		return p.owner.network([6]byte{}, p.Original.Source.Addr(), p.Original.Destination.Addr(),
			p.Reply.Source.Addr(), p.Reply.Destination.Addr())
	}
	end := p.Original.Source.Addr()
	if to := p.Reply.Source.Addr(); movesDestination(&p.Tracked) && s.networkOfAddress(to) != "" && !s.isOwn(to) {
		end = to
	}
	return s.networkOfEnd(p.owner, end)
}

// networkOfEnd names the network of a container's address, as the host has it.
func (s *State) networkOfEnd(m *member, address netip.Addr) string {
	return first(s.networkOfAddress(address), m.network([6]byte{}, address))
}
