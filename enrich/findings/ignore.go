// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"slices"
	"strings"
)

// LabelIgnore is the label on containers and services with the IDs that their operator accepts there, separated by commas.
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

// matches tells whether a finding is the accepted one. A container without a service stands for itself.
func (i Ignore) matches(id string, s Subject) bool {
	if i.ID != id {
		return false
	}
	return i.Service == "" || i.Stack == s.Stack && (i.Service == s.Service || s.Service == "" && i.Service == s.Container)
}

// ignored tells whether the operator accepts a finding for a subject, by flag or by label.
func (b *Board) ignored(view *View, id string, s Subject) bool {
	if slices.ContainsFunc(b.config.Ignore, func(i Ignore) bool { return i.matches(id, s) }) {
		return true
	}
	if s.Container == "" && s.Service == "" {
		return false
	}
	for i := range view.Inventory.Containers {
		c := &view.Inventory.Containers[i]
		if c.Identity.Stack != s.Stack || c.Identity.Service != s.Service || c.Identity.Container != s.Container {
			continue
		}
		for _, accepted := range strings.Split(c.Labels[LabelIgnore], ",") {
			if strings.TrimSpace(accepted) == id {
				return true
			}
		}
	}
	return false
}
