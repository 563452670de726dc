// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"iter"
	"strings"
	"time"
)

// minIDPrefix is how much of a container's ID finds it, if it is the only one.
const minIDPrefix = 4

// Owner is the container that something is of, or its service.
type Owner struct {
	Service     string `json:"service,omitempty"`
	Container   string `json:"container,omitempty"`
	ContainerID string `json:"container_id,omitempty"`
}

// is tells whether somebody who says that name means this container, by its label, that of its service or its ID. "" means all.
func (o *Owner) is(name string) bool {
	return name == "" || name == o.Container || name == o.Service || name == o.ContainerID
}

// resolveOwner returns the whole ID in place of the beginning of one, of which 4 digits do, if it is of one of these containers
// alone and none of them is called so; else the name as it is. It tells whether any is meant.
func resolveOwner(name string, all iter.Seq[Owner]) (resolved string, known bool) {
	whole, several := "", false
	for o := range all {
		if o.is(name) {
			return name, true
		}
		if isIDPrefix(name) && strings.HasPrefix(o.ContainerID, name) {
			several = several || whole != "" && whole != o.ContainerID
			whole = o.ContainerID
		}
	}
	if whole == "" || several {
		return name, name == ""
	}
	return whole, true
}

func isIDPrefix(text string) bool {
	return len(text) >= minIDPrefix && strings.Trim(text, "0123456789abcdef") == ""
}

// Gaps is what a live table does not know of what it was asked for.
type Gaps struct {
	Evicted uint64    `json:"evicted,omitempty"` // rows of these sorts that have been pushed out by later ones
	Kept    int       `json:"kept,omitempty"`    // how many are there of the sorts that this happened to
	Oldest  time.Time `json:"oldest,omitzero"`   // since then none is missing of those
	Unknown bool      `json:"unknown,omitempty"` // nobody in the table is called so
	Unowned int       `json:"unowned,omitempty"` // lookups of namespaces that nobody knows, left out since nobody asked for them
}

// note adds what one of the sorts has pushed out, how many it has, and since when none of it is missing.
func (g *Gaps) note(evicted uint64, kept int, whole time.Time) {
	if evicted == 0 {
		return
	}
	g.Evicted += evicted
	g.Kept += kept
	if whole.After(g.Oldest) {
		g.Oldest = whole
	}
}
