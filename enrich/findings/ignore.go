// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// LabelIgnore is the label on containers and networks with the IDs that their operator accepts there, separated by commas. On
// a network it is for findings of nobody but the network. A Swarm service's own labels count where they are known, which is
// on a manager; elsewhere those of its containers that run there do, for findings of the service as a whole, too.
const LabelIgnore = "bridgewatch.ignore"

// Ignore is a state that an operator accepts: a finding, everywhere or for one service.
type Ignore struct {
	ID      string
	Stack   string
	Service string // "" everywhere
}

// ParseIgnore reads ID, ID@service or ID@stack/service. It fails on an ID that no finding has.
func ParseIgnore(s string) (Ignore, error) {
	id, of, limited := strings.Cut(s, "@")
	i := Ignore{ID: id}
	if limited {
		i.Service = of
		if stack, service, both := strings.Cut(of, "/"); both {
			i.Stack, i.Service = stack, service
		}
		if i.Service == "" {
			return Ignore{}, fmt.Errorf("%q names no service: write %s@SERVICE or %s@STACK/SERVICE", s, id, id)
		}
	}
	if !slices.ContainsFunc(Catalogue(), func(d Definition) bool { return d.ID == id }) {
		return Ignore{}, fmt.Errorf("no finding is called %q; see bridgewatch explain", id)
	}
	return i, nil
}

// Matches tells whether a finding is the accepted one. A container without a service stands for itself.
func (i Ignore) Matches(id string, s Subject) bool {
	if i.ID != id {
		return false
	}
	return i.Service == "" || i.Stack == s.Stack && (i.Service == s.Service || s.Service == "" && i.Service == s.Container)
}

// ignored tells whether the operator accepts a finding for a subject, by flag or by label.
func (b *Board) ignored(labels map[enrich.Identity][]string, k key, now time.Time) bool {
	if slices.ContainsFunc(b.config.Ignore, func(i Ignore) bool { return i.Matches(k.id, k.subject) }) {
		return true
	}
	owner := k.subject.Identity
	owner.Network = ""
	if owner == (enrich.Identity{}) { // it concerns a network alone, or the host
		owner.Network = k.subject.Network
	}
	if owner == (enrich.Identity{}) {
		return false
	}
	accepted, there := labels[owner]
	switch {
	case slices.Contains(accepted, k.id):
		b.accepted[k] = now
		return true
	case there:
		delete(b.accepted, k)
		return false
	}
	// The container has ended, or the network, but what it lost in its last minute is still in view.
	return now.Sub(b.accepted[k]) < 2*Window
}

// ignoreLabels are the IDs that the labels of running containers and of networks accept, by who they are. Equal ones accept
// together, and a service's containers for their service.
func ignoreLabels(view *View) map[enrich.Identity][]string {
	labels := make(map[enrich.Identity][]string, len(view.Inventory.Containers))
	for i := range view.Inventory.Containers {
		c := &view.Inventory.Containers[i]
		accepted := acceptedBy(c.Labels)
		labels[c.Identity] = append(labels[c.Identity], accepted...)
		service := enrich.Identity{Stack: c.Identity.Stack, Service: c.Identity.Service}
		if service.Service != "" && service != c.Identity {
			labels[service] = append(labels[service], accepted...)
		}
	}
	for i := range view.Inventory.Services { // which may have no container here
		s := &view.Inventory.Services[i]
		labels[s.Identity] = append(labels[s.Identity], acceptedBy(s.Labels)...)
	}
	for i := range view.Inventory.Networks {
		n := &view.Inventory.Networks[i]
		owner := enrich.Identity{Network: n.Name}
		labels[owner] = append(labels[owner], acceptedBy(n.Labels)...)
	}
	return labels
}

func acceptedBy(labels map[string]string) (ids []string) {
	for id := range strings.SplitSeq(labels[LabelIgnore], ",") {
		ids = append(ids, strings.TrimSpace(id))
	}
	return ids
}
