// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// When the engine is asked for an overlay network again. Its log gets longer each time, and what changes is mostly heard of
// otherwise.
const (
	overlayRefresh   = 10 * time.Minute // without a reason
	overlayDebounce  = time.Second      // after a reason: more of it may follow
	overlayPause     = 3 * time.Second  // since the last time
	overlayPauseMost = 5 * time.Minute  // likewise, as long as it has nothing new to say: the pause doubles
)

// overlayWord is what the engine says of an overlay network, and when it is to be asked again.
type overlayWord struct {
	asked     time.Time    // when the question was asked that this answers; zero: none was answered yet
	peers     []netip.Addr // of the nodes that are on it, with this one: of their control plane
	endpoints []overlayEndpoint
	services  map[string]overlayService // by name, with the stack's
	use       []SubnetUse

	tried  time.Time     // when it was asked last, answered or not
	wanted time.Time     // since when there is a reason to ask; zero: there is none
	pause  time.Duration // since tried
}

// overlayEndpoint is somebody's place on the network.
type overlayEndpoint struct {
	id       string
	service  string
	name     string
	address  netip.Addr
	mac      [6]byte // of those on this node
	host     netip.Addr
	local    bool
	balancer bool
	since    time.Time // when the engine was first asked that told of it being there
}

type overlayService struct {
	vip  netip.Addr // not valid: it has none
	mark uint32     // the firewall mark by which IPVS knows vip on this node; 0: not known
}

// isOn tells whether this node is on the network.
func (w *overlayWord) isOn() bool { return w != nil && (len(w.peers) > 0 || len(w.endpoints) > 0) }

// isSettled tells whether an answer that came at a time may still change soon: it has been asked for and nothing new came.
func (w *overlayWord) isSettled() bool { return w.pause > overlayPause }

// isDue tells whether it is time to ask.
func (w *overlayWord) isDue(now time.Time) bool {
	if w.tried.IsZero() || now.Sub(w.tried) >= overlayRefresh {
		return true
	}
	return !w.wanted.IsZero() && now.Sub(w.wanted) >= overlayDebounce && now.Sub(w.tried) >= w.pause
}

// want notes a reason to ask.
func (w *overlayWord) want(now time.Time) {
	if w.wanted.IsZero() {
		w.wanted = now
	}
}

// answered notes that a question was, and what came of it.
func (w *overlayWord) answered(asked time.Time, news bool) {
	w.tried = asked
	if w.pause = min(2*w.pause, overlayPauseMost); news || w.pause == 0 {
		w.pause = overlayPause
	}
	if !w.wanted.After(asked) {
		w.wanted = time.Time{}
	}
}

// take puts a new answer in the place of the last one, and tells whether it says anything else.
func (w *overlayWord) take(next *overlayWord) (news bool) {
	type place struct {
		id            string
		address, host netip.Addr
	}
	known := make(map[place]time.Time, len(w.endpoints))
	for i := range w.endpoints {
		e := &w.endpoints[i]
		known[place{e.id, e.address, e.host}] = e.since
	}
	news = len(next.endpoints) != len(w.endpoints) || !slices.Equal(next.peers, w.peers) || len(next.services) != len(w.services)
	for i := range next.endpoints {
		e := &next.endpoints[i]
		if since, found := known[place{e.id, e.address, e.host}]; found {
			e.since = since
		} else {
			news = true
		}
	}
	w.asked, w.peers, w.endpoints, w.services, w.use = next.asked, next.peers, next.endpoints, next.services, next.use
	w.answered(next.asked, news)
	return news
}

// dueOverlays returns the IDs of the overlay networks that the engine is to be asked for now, those first that were not asked for
// the longest.
func (s *State) dueOverlays() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node.Role == "" {
		return nil
	}
	now := s.config.Now()
	var due []string
	for id, n := range s.networks {
		if n.isOverlay() && n.gone.IsZero() && s.overlays.word(id).isDue(now) {
			due = append(due, id)
		}
	}
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(s.overlays.words[a].tried.Compare(s.overlays.words[b].tried), strings.Compare(a, b))
	})
	return due
}

// overlayDriver is what the engine calls the driver of the Swarm's networks between nodes.
const overlayDriver = "overlay"

// isOverlay tells one of the Swarm's networks between nodes.
func (n *Network) isOverlay() bool { return n.Driver == overlayDriver }

// word returns what is known of a network, which may be nothing.
func (o *overlays) word(id string) *overlayWord {
	w := o.words[id]
	if w == nil {
		w = &overlayWord{}
		o.words[id] = w
	}
	return w
}

// setOverlay takes in what the engine says of a network.
func (s *State) setOverlay(id string, next *overlayWord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overlays.word(id).take(next)
	s.overlays.outdate()
}

// overlayUnanswered notes that a question was in vain. It will be asked again.
func (s *State) overlayUnanswered(id string, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.overlays.word(id)
	w.answered(asked, false)
	w.want(asked)
}

// outdateOverlay notes that something has happened on a network, if it is an overlay.
func (s *State) outdateOverlay(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.networks[id]; n != nil && n.isOverlay() {
		w := s.overlays.word(id)
		w.want(s.config.Now())
		w.pause = overlayPause
	}
}

// outdateOverlays notes that something has happened in the Swarm.
func (s *State) outdateOverlays() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.overlays.words {
		if w.isOn() {
			w.want(s.config.Now())
			w.pause = overlayPause
		}
	}
}

// distrustOverlays has the engine asked for all networks at once.
func (s *State) distrustOverlays() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.overlays.words {
		w.tried, w.pause = time.Time{}, overlayPause
	}
}

// missOverlay notes that somebody on a network is not known. It tells whether an answer may come soon that knows him.
func (s *State) missOverlay(id string) (soon bool) {
	n := s.networks[id]
	if n == nil || !n.isOverlay() || !n.gone.IsZero() || s.node.Role == "" {
		return false
	}
	w := s.overlays.word(id)
	w.want(s.config.Now())
	return !w.isSettled()
}
