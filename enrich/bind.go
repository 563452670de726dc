// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"regexp"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// This file joins what the kernel says: which namespace is which container's, and which link leads there.

// SeesBridges tells whether any Docker network's bridge is among the links: an agent that sees none of them is not in the
// host's network namespace. True while there is nothing to compare.
func (s *State) SeesBridges() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	expected := false
	for _, n := range s.networks {
		if n.Bridge == "" || !n.gone.IsZero() {
			continue
		}
		expected = true
		for _, p := range s.links {
			if p.Name == n.Bridge && p.gone.IsZero() {
				return true
			}
		}
	}
	return !expected || len(s.links) == 0
}

// containerID finds the 64 digits of a container's ID in the name of its cgroup, which drivers decorate differently.
var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

// Process says that a process runs in a namespace: the way a namespace's container is known before anything else of it is.
func (s *State) Process(p loader.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Netns == s.config.Host || p.Netns == 0 {
		return
	}
	id := containerID.FindString(p.Cgroup)
	if id == "" {
		id = s.memberByPID(p.PID)
	}
	if id == "" {
		return
	}
	if m := s.members[id]; m != nil {
		if owner := s.members[m.sharedWith()]; owner != nil {
			id = owner.ID
		}
	}
	m := s.members[id]
	if bound := s.members[s.netns[p.Netns]]; bound != nil && bound.alive() {
		// The first container of a namespace owns it, others joined it, unless one is known to have come with its own:
		// then the number is that of a dead namespace, used again.
		if bound == m || m == nil || m.sketch {
			bound.seen = s.config.Now()
			if bound == m {
				s.bindPorts(m, p.Ports[:]) // it may be on another network since
			}
			return
		}
	}
	s.leave(id)
	s.netns[p.Netns] = id
	delete(s.left, p.Netns)
	if m == nil {
		m = &member{Container: Container{ID: id}, sketch: true}
		s.members[id] = m
	}
	m.seen = s.config.Now()
	m.netnsID = -1
	m.PID = p.PID
	m.died = time.Time{}
	s.bindPorts(m, p.Ports[:])
	s.bindNetnsID(m)
}

// leave notes that a container has a new namespace: the old one is remembered for a while only.
func (s *State) leave(id string) {
	for ns, owner := range s.netns {
		if owner == id && s.left[ns].IsZero() {
			s.left[ns] = s.config.Now()
		}
	}
}

// bindPorts takes the host's ends of a container's veths for the container's, if need be before they are known to be
// there, and learns the number of its namespace from them. It needs no process that still lives, and no process numbers,
// which an agent in a process namespace of its own does not share.
func (s *State) bindPorts(m *member, ports []loader.Port) {
	for _, found := range ports {
		if found.Peer == 0 {
			continue
		}
		p := s.links[found.Peer]
		if p == nil {
			p = &port{Link: loader.Link{Index: found.Peer, Kind: "veth", Peer: found.Index, PeerNetnsID: -1}}
			s.links[found.Peer] = p
		}
		if p.owner == "" {
			p.owner = m.ID
		}
		if p.PeerNetnsID >= 0 {
			m.netnsID = p.PeerNetnsID
		}
	}
}

func (s *State) memberByPID(pid int) string {
	for id, m := range s.members {
		if m.alive() && m.PID == pid && m.OwnsNetns() {
			return id
		}
	}
	return ""
}

// bindNetnsID learns the number of a container's namespace, and takes the links that lead there for the container's.
func (s *State) bindNetnsID(m *member) {
	number := m.netnsID
	if number < 0 {
		var err error
		if number, err = s.config.NetnsID(m.PID); err != nil || number < 0 {
			return // no link leads there yet, or the process is gone
		}
	}
	m.netnsID = number
	for _, p := range s.links {
		if p.owner == "" && p.gone.IsZero() && p.PeerNetnsID == number {
			p.owner = m.ID
		}
	}
	for _, c := range s.children {
		if c.owner == "" && c.netnsID == number {
			c.owner = m.ID
		}
	}
}

// ownerOf finds the living container whose namespace has the number. Numbers are reused at once, so the container's
// process is asked whether it is still there.
func (s *State) ownerOf(netnsID int) string {
	for id, m := range s.members {
		if netnsID < 0 || !m.alive() || m.PID == 0 || m.sketch && m.netnsID < 0 || !m.OwnsNetns() {
			continue
		}
		if m.netnsID >= 0 && m.netnsID != netnsID {
			continue
		}
		if number, err := s.config.NetnsID(m.PID); err == nil && number == netnsID {
			m.netnsID = number
			return id
		}
	}
	return ""
}

// LinkChanged takes in news of a link of the host.
func (s *State) LinkChanged(change loader.LinkChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.links[change.Index]
	if p == nil {
		p = &port{}
		s.links[change.Index] = p
	}
	if change.Gone {
		if p.gone.IsZero() {
			p.gone = s.config.Now()
		}
		return
	}
	if change.Master == 0 && p.owner != "" {
		change.Master = p.Master // a container's veth leaves its bridge a moment before it is gone, and its last counts are read
	}
	p.Link = change.Link
	p.gone = time.Time{}
	if p.PeerNetnsID < 0 || p.Kind != "veth" {
		return
	}
	if m := s.members[p.owner]; m != nil && m.alive() && m.netnsID < 0 {
		m.netnsID = p.PeerNetnsID
	}
	if p.owner == "" {
		p.owner = s.ownerOf(p.PeerNetnsID)
	}
}

// DeviceMoved says that a device watched from its birth went into a container.
func (s *State) DeviceMoved(id loader.DeviceID, to loader.LinkChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.children[id] = &child{Link: to.Link, index: to.MovedIndex, netnsID: to.MovedNetnsID, owner: s.ownerOf(to.MovedNetnsID)}
}

// DeviceInside says that a device inside a container's namespace is watched.
func (s *State) DeviceInside(id loader.DeviceID, l loader.Link, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entered := &child{Link: l, index: l.Index, netnsID: -1, owner: container}
	if m := s.members[container]; m != nil {
		entered.entered = m.StartedAt
	}
	s.children[id] = entered
}

// ForgetDevices drops the devices inside containers and overlay networks that known does not know.
func (s *State) ForgetDevices(known func(loader.DeviceID) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.children {
		if !known(id) {
			delete(s.children, id)
		}
	}
	for id := range s.overlays.devices {
		if !known(id) {
			delete(s.overlays.devices, id)
		}
	}
}

// Unwatched lists the living containers on macvlan and ipvlan networks none of whose devices is watched: ID to the path
// of the namespace.
func (s *State) Unwatched() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	watched := make(map[string]bool)
	for _, c := range s.children {
		// One that was entered before its container started again died with the old namespace.
		m := s.members[c.owner]
		if m != nil && (c.entered.IsZero() || c.entered.Equal(m.StartedAt)) {
			watched[c.owner] = true
		}
	}
	paths := make(map[string]string)
	for id, m := range s.members {
		if !m.alive() || !m.Running || m.SandboxKey == "" || watched[id] || !m.OwnsNetns() {
			continue
		}
		for _, e := range m.Endpoints {
			if n := s.networks[e.NetworkID]; n != nil && n.childOnly() {
				paths[id] = m.SandboxKey
			}
		}
	}
	return paths
}

// disown takes from a container what was taken for its own before it was known to live in another's namespace.
func (s *State) disown(m *member) {
	for _, p := range s.links {
		if p.owner == m.ID {
			p.owner = s.ownerOf(p.PeerNetnsID)
		}
	}
	for _, c := range s.children {
		if c.owner == m.ID {
			c.owner = s.ownerOf(c.netnsID)
		}
	}
}
