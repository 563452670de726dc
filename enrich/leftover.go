// SPDX-License-Identifier: Apache-2.0

package enrich

// This file tells what belongs to a container, so that what does not can be told from it.

// Listed tells whether the engine has named all its containers since the start. Before that, what belongs to one may look
// as if it belonged to nobody.
func (s *State) Listed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed
}

// LinkOwners returns the IDs of the containers that the host's links lead to, by ifindex. Links without a known owner, and
// those that are gone, are left out.
func (s *State) LinkOwners() map[int]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	owners := make(map[int]string)
	for index, p := range s.links {
		if p.owner != "" && p.gone.IsZero() {
			owners[index] = p.owner
		}
	}
	return owners
}
