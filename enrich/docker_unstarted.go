// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// maxUnstarted bounds the containers that each listing asks for why they did not start: the newest, and those known not to.
const maxUnstarted = 64

// UnstartedContainer is a container that could not start since a port of the host that it publishes is taken.
type UnstartedContainer struct {
	Identity Identity
	ID       string
	Name     string
	Error    string // the engine's words

	// What it is that is taken, as far as the engine says.

	Port     uint16     // of the host; 0: not known
	Address  netip.Addr // of the host, unspecified for all of its family; not valid: not known
	Protocol string     // tcp, udp, sctp; "": not known
}

// listUnstarted asks why containers did not start that do not run. Engines remember that until the container is started
// again, and tell it of one at a time only. Whoever fails from now on is heard of by events.
func (d *Docker) listUnstarted(ctx context.Context, all []container.Summary) {
	known := d.state.unstartedIDs()
	asked := 0
	for i := range all { // the newest come first
		c := &all[i]
		wanted := known[c.ID]
		delete(known, c.ID)
		if mayHaveFailed(c.State) && (wanted || asked < maxUnstarted) {
			asked++
			d.askUnstarted(ctx, c.ID)
		}
	}
	for id := range known { // no more
		d.state.noteStart(&Container{ID: id}, "")
	}
}

// mayHaveFailed tells the states of a container whose last start may have failed. The status that it ended with does not
// tell: one that ran before keeps that.
func mayHaveFailed(state container.ContainerState) bool {
	return state == container.StateCreated || state == container.StateExited
}

func (d *Docker) askUnstarted(ctx context.Context, id string) {
	c, failure, err := d.inspectWithError(ctx, id)
	if err == nil {
		d.state.noteStart(&c, failure)
	}
}

// isPortTaken tells the two reasons that engines give: another container has the port, or a process of the host.
func isPortTaken(failure string) bool {
	return strings.Contains(failure, "port is already allocated") || strings.Contains(failure, "address already in use")
}

// portWanted finds the protocol, address and port in the engine's words, of which it has several:
//
//	Bind for 0.0.0.0:8080 failed: port is already allocated
//	Error starting userland proxy: listen tcp4 0.0.0.0:8080: bind: address already in use
//	failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use
//	failed to bind host port 0.0.0.0:8080/tcp: address already in use
var portWanted = regexp.MustCompile(`(?:Bind for|listen ([a-z]+)[46]?|host port(?: for)?) (\[[^\]]*\]|[0-9.]*|[0-9a-f:]*):([0-9]+)\b(?:\S*/([a-z]+))?`)

// readFailure takes what is taken from the engine's words.
func (u *UnstartedContainer) readFailure(failure string) {
	u.Error = failure
	match := portWanted.FindStringSubmatch(failure)
	if match == nil {
		return
	}
	port, err := strconv.ParseUint(match[3], 10, 16)
	if err != nil {
		return
	}
	u.Port = uint16(port)
	u.Protocol = cmp.Or(match[1], match[4])
	u.Address, _ = netip.ParseAddr(strings.Trim(match[2], "[]")) // not valid where there is none
}

// noteStart takes in how a container's last start went: failure is the engine's words, "" if it did not fail.
func (s *State) noteStart(c *Container, failure string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstarted = slices.DeleteFunc(s.unstarted, func(u UnstartedContainer) bool { return u.ID == c.ID })
	if c.Running || !isPortTaken(failure) {
		return
	}
	u := UnstartedContainer{Identity: identify(c.Name, c.Labels, s.node.Name, s.config.ContainerLabel), ID: c.ID, Name: c.Name}
	u.readFailure(failure)
	s.unstarted = append(s.unstarted, u)
}

// unstartedIDs are those that are known.
func (s *State) unstartedIDs() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[string]bool, len(s.unstarted))
	for i := range s.unstarted {
		ids[s.unstarted[i].ID] = true
	}
	return ids
}
