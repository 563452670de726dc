// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"maps"

	"github.com/bridgewatch/bridgewatch/loader"
)

// ofHost is in place of a container's ID where the host's own resolv.conf is meant.
const ofHost = ""

// ResolvConfPaths returns where the resolv.confs of the living containers are, by the containers' IDs, and the host's under
// the empty one. As the host sees them: an agent with a file system of its own may not.
func (s *State) ResolvConfPaths() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths := map[string]string{ofHost: loader.HostResolvConf}
	for id, m := range s.members {
		if m.alive() && m.Running && m.ResolvConfPath != "" {
			paths[id] = m.ResolvConfPath
		}
	}
	return paths
}

// SetResolvConfs says what resolv.confs hold, by the keys of [State.ResolvConfPaths]. What is not among them is not known, or
// not any more.
func (s *State) SetResolvConfs(confs map[string]loader.ResolvConf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.dns.confs = maps.Clone(confs)
}

// resolvConf returns a copy of what is known of one, nil if nothing is.
func (s *State) resolvConf(id string) *loader.ResolvConf {
	conf, known := s.pending.dns.confs[id]
	if !known {
		return nil
	}
	return &conf
}

// searchList returns the suffixes that a container puts behind names, or the host. Without its resolv.conf it is known only
// if the container was started with a list of its own.
func (s *State) searchList(id string) (suffixes []string, known bool) {
	if conf, known := s.pending.dns.confs[id]; known {
		return conf.Search, true
	}
	m := s.members[id]
	if m == nil || len(m.DNSSearch) == 0 {
		return nil, false
	}
	return m.search, true
}
