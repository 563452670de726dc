// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"slices"
	"strings"
)

// rules are all that are looked for, by subject.
//
// To add a finding, add a rule to the file of its subject, a case that raises it and cases that just do not to
// rules_test.go, and its runbook, docs/findings/ID.md. Metrics, alerts and doctor follow from that.
func rules() []rule {
	return slices.Concat(
		filteringRules(),
		linkRules(),
		routeRules(),
		tableRules(),
		publishedRules(),
		sourceRules(),
		conntrackRules(),
		conflictRules(),
		inventoryRules(),
		dnsRules(),
		nameRules(),
		overlayRules(),
		ipvsRules(),
		swarmRules(),
	)
}

// Catalogue returns what can be found, sorted by ID.
func Catalogue() []Definition {
	var all []Definition
	for _, r := range rules() {
		all = append(all, r.Definition)
	}
	slices.SortFunc(all, func(a, b Definition) int { return strings.Compare(a.ID, b.ID) })
	return all
}
