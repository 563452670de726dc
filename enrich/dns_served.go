// SPDX-License-Identifier: Apache-2.0

package enrich

import "time"

// This file tells since when the engine's resolver has to know a name.

// servedAfter is how long after a container's start, or a change of its networks, its names may still be unknown to the
// engine's resolver.
const servedAfter = time.Second

// servedSince returns since when a name is known to be there for those on its network; the zero time: it is not. Of a service
// that is known only if its tasks were asked for after a time, which this has done otherwise.
func (s *State) servedSince(h *nameHolder, after time.Time) (since time.Time, known bool) {
	switch {
	case h.member != nil:
		return h.member.registeredSince(), true
	case h.service.Running == 0: // without a task it has no address, and what has started since is new
		return time.Time{}, true
	}
	return s.tasks.since(h, after)
}

// isRegistered tells whether a container that runs can be found by its names. A Swarm task can from when it is found to be
// healthy until two seconds before it is told to stop (daemon/cluster/executor/container/controller.go of moby); others can all
// the time.
func (m *member) isRegistered() bool {
	return !m.isTask() || !m.stopping && (m.Health == "" || m.Health == healthy)
}

// registeredSince returns since when a container is known to be found by its names, zero if it is not.
func (m *member) registeredSince() time.Time {
	if !m.isRegistered() || m.StartedAt.IsZero() {
		return time.Time{}
	}
	since := m.StartedAt
	if m.joined.After(since) {
		since = m.joined
	}
	if m.isTask() && m.healthy.After(since) {
		since = m.healthy
	}
	return since
}

func (m *member) isTask() bool { return m.Labels[labelSwarmService] != "" }
