// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"slices"
	"strings"
)

// Kind says whose business a drop is.
type Kind string

// The kinds. Only faults are anybody's loss.
const (
	KindFault       Kind = "fault"       // the network lost a packet that somebody wanted delivered
	KindApplication Kind = "application" // nobody listens, or whoever does is too slow
	KindPolicy      Kind = "policy"      // somebody decided so
	KindBenign      Kind = "benign"      // noise: nobody misses it
)

// Cause is what a drop means.
type Cause struct {
	Name    string
	Kind    Kind
	Meaning string // in one line
}

// CauseUnknown is the cause of a drop that no rule explains. It counts as a fault, so that it is seen.
const CauseUnknown = "unknown"

// Causes returns all, by kind and name: those that matter most come first.
func Causes() []Cause {
	kinds := []Kind{KindFault, KindPolicy, KindApplication, KindBenign}
	all := make([]Cause, 0, len(causes)+1)
	for _, kind := range kinds {
		first := len(all)
		for _, c := range append(causes, unknown) {
			if c.Kind == kind {
				all = append(all, c.Cause)
			}
		}
		slices.SortFunc(all[first:], func(a, b Cause) int { return strings.Compare(a.Name, b.Name) })
	}
	return all
}

// cause is a Cause and what leads to it.
type cause struct {
	Cause
	rules []rule
	// unless is what may still turn out, by news that is late: then it was another cause, and the drop waits for that.
	unless func(*scene) bool
	// uncounted is the same by news of what connection tracking has counted.
	uncounted func(*scene) bool
	// victim is who loses by it where neither a device nor an address tells; nil: nobody is known then.
	victim func(*scene) *member
}

// rule leads from what the kernel says to a cause. What is empty matches everything.
//
// Functions matter as much as reasons: kernels before 5.17 have no reasons, and later ones say NOT_SPECIFIED for many
// things that only the function tells apart.
type rule struct {
	reasons   []string
	functions []string
	when      func(*scene) bool
}

const (
	// noReason stands for the reason of kernels that give none, before 5.17: there the function has to do.
	noReason = ""
	// notSpecified is the reason that says nothing.
	notSpecified = "NOT_SPECIFIED"
)

// reason matches any of the kernel's reasons, from whatever function.
func reason(names ...string) rule { return rule{reasons: names} }

// reasonAt matches one reason, from any of the functions.
func reasonAt(reason string, functions ...string) rule {
	return rule{reasons: []string{reason}, functions: functions}
}

// silent matches the functions where the kernel gives no reason, or one that says nothing.
func silent(functions ...string) rule {
	return rule{reasons: []string{noReason, notSpecified}, functions: functions}
}

// reasonless matches the functions on kernels that have no reasons at all.
func reasonless(functions ...string) rule { return reasonAt(noReason, functions...) }

// always matches all that the condition holds for.
func always(when func(*scene) bool) rule { return rule{when: when} }

// where narrows rules to what a condition holds for.
func where(when func(*scene) bool, rules ...rule) []rule {
	narrowed := make([]rule, 0, len(rules))
	for _, r := range rules {
		earlier := r.when
		r.when = func(s *scene) bool { return (earlier == nil || earlier(s)) && when(s) }
		narrowed = append(narrowed, r)
	}
	return narrowed
}

// not turns a condition round.
func not(when func(*scene) bool) func(*scene) bool {
	return func(s *scene) bool { return !when(s) }
}

// signature is what the kernel itself says of a drop. There are a few hundred of them.
type signature struct{ reason, function string }

// candidate is a rule that a signature satisfies, and the cause that it leads to.
type candidate struct {
	when  func(*scene) bool // nil: whatever the place
	cause *cause
}

// candidatesOf lists the rules that a signature satisfies, in the table's order, up to the first that asks nothing else.
func candidatesOf(is signature) (found []candidate) {
	allows := func(names []string, name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	for i := range causes {
		for _, r := range causes[i].rules {
			if !allows(r.reasons, is.reason) || !allows(r.functions, is.function) {
				continue
			}
			found = append(found, candidate{r.when, &causes[i]})
			if r.when == nil {
				return found
			}
		}
	}
	return append(found, candidate{cause: &unknown})
}

// explain finds the cause of a drop: the first in the table with a rule that matches.
func (s *scene) explain() *cause {
	is := signature{s.drop.Reason, s.drop.Function}
	candidates, known := s.candidates[is]
	if !known {
		candidates = candidatesOf(is)
		s.candidates[is] = candidates
	}
	for _, c := range candidates {
		if c.when == nil || c.when(s) {
			return c.cause
		}
	}
	return &unknown
}
