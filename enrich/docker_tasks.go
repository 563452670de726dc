// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// Swarm is asked for the tasks of a service only while its name is missed, and for so many services at a time and so often at
// most: what it says of a service else is as old as the last listing, and counts those that are about to stop.
const (
	maxMissed = 64
	taskPause = time.Second
)

// serviceTasks is what is known of the tasks of services whose names were missed.
type serviceTasks struct {
	wanted chan struct{}       // asks whoever follows the engine
	missed map[string]struct{} // the IDs of those to ask for
	asked  time.Time
	known  map[string]taskListing // by the service's ID
}

// taskListing is what Swarm said of a service's tasks, in an answer that was asked for at a time.
type taskListing struct {
	asked time.Time
	since map[string]time.Time // since when the first of those runs that are to go on, by the IDs of the networks that it is on
}

func newServiceTasks() serviceTasks {
	return serviceTasks{
		wanted: make(chan struct{}, 1), missed: make(map[string]struct{}), known: make(map[string]taskListing),
	}
}

// since returns since when a task of a service runs on the network on which a name is served; the zero time: none does. It is
// not known, and will be asked for, unless it was since the given time.
func (t *serviceTasks) since(h *nameHolder, after time.Time) (since time.Time, known bool) {
	listing, found := t.known[h.service.ID]
	if found && listing.asked.After(after) {
		return listing.since[h.network], true
	}
	if len(t.missed) < maxMissed {
		t.missed[h.service.ID] = struct{}{}
	}
	return time.Time{}, false
}

// want has the engine asked for the tasks of the services that are missed, not too often.
func (t *serviceTasks) want(now time.Time) {
	if len(t.missed) == 0 || now.Sub(t.asked) < taskPause {
		return
	}
	t.asked = now
	select {
	case t.wanted <- struct{}{}:
	default: // it is about to be
	}
}

// keep forgets all but some services.
func (t *serviceTasks) keep(services []Service) {
	known := make(map[string]taskListing)
	for i := range services {
		if listing, found := t.known[services[i].ID]; found {
			known[services[i].ID] = listing
		}
	}
	t.known = known
}

// takeMissedServices returns the IDs of the services whose tasks are to be asked for, once.
func (s *State) takeMissedServices() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.tasks.missed))
	clear(s.tasks.missed)
	return ids
}

// setTasks takes in the tasks of these services that run and are to go on, as they were asked for at a time.
func (s *State) setTasks(services []string, tasks []swarm.Task, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range services {
		s.tasks.known[id] = taskListing{asked: asked, since: make(map[string]time.Time)}
	}
	for i := range tasks {
		listing, wanted := s.tasks.known[tasks[i].ServiceID]
		if wanted && listing.asked.Equal(asked) && tasks[i].Status.State == swarm.TaskStateRunning {
			listing.note(&tasks[i])
		}
	}
}

// note takes in one that runs. Its node's clock told since when.
func (l *taskListing) note(task *swarm.Task) {
	begun := task.Status.Timestamp
	for _, at := range task.NetworksAttachments {
		if first, found := l.since[at.Network.ID]; !found || begun.Before(first) {
			l.since[at.Network.ID] = begun
		}
	}
}

// listTasks asks for the tasks of services whose names are missed. Only a manager answers.
func (d *Docker) listTasks(ctx context.Context) {
	services := d.state.takeMissedServices()
	if len(services) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	asked := d.state.config.Now()
	result, err := d.api.TaskList(ctx, client.TaskListOptions{
		Filters: make(client.Filters).Add("service", services...).Add("desired-state", string(swarm.TaskStateRunning)),
	})
	if err == nil {
		d.state.setTasks(services, result.Items, asked)
	}
}
