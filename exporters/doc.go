// SPDX-License-Identifier: Apache-2.0

// Package exporters defines every metric once, for all ways out: the families, and how enriched records become series
// of them. Each way out is a package of its own below this one and reads the same [Store].
//
// What is bounded is bounded here: the number of series in all and of each container, and how long a series outlives
// its owner.
package exporters
