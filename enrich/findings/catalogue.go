// SPDX-License-Identifier: Apache-2.0

package findings

import "slices"

// rules are all that are looked for, by subject.
func rules() []rule {
	return slices.Concat(
		lossRules(),
	)
}

// Catalogue returns what can be found, sorted by ID.
func Catalogue() []Definition {
	var all []Definition
	for _, r := range rules() {
		all = append(all, r.Definition)
	}
	slices.SortFunc(all, func(a, b Definition) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return all
}
