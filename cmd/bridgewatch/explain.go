// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bridgewatch/bridgewatch/docs"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

type explainCommand struct {
	ID string `arg:"" optional:"" help:"Finding to explain; without it, all are listed."`
}

// Run prints a runbook, or the list of them.
func (c *explainCommand) Run(to streams) error {
	if c.ID == "" {
		return printCatalogue(to.out, findings.Catalogue())
	}
	if !slices.Contains(docs.Findings(), c.ID) {
		return unknownFinding(c.ID, docs.Findings())
	}
	page, err := docs.Finding(c.ID)
	if err != nil {
		return err
	}
	_, err = io.WriteString(to.out, page)
	return err
}

// printCatalogue lists what can be found, gravest first.
func printCatalogue(to io.Writer, catalogue []findings.Definition) error {
	idWidth := 0
	for _, d := range catalogue {
		idWidth = max(idWidth, len(d.ID))
	}
	var text strings.Builder
	for _, severity := range findings.Severities() {
		for _, d := range catalogue {
			if d.Severity != severity {
				continue
			}
			before := fmt.Sprintf("%-8s  %-*s  ", d.Severity, idWidth, d.ID)
			for _, line := range wrap(d.Title, width-len(before)) {
				text.WriteString(before + line + "\n")
				before = strings.Repeat(" ", len(before))
			}
		}
	}
	_, err := io.WriteString(to, text.String())
	return err
}

// unknownFinding names up to three that somebody may have meant, the likeliest first.
func unknownFinding(meant string, ids []string) error {
	lower := strings.ToLower(meant)
	distance := make(map[string]int)
	var near []string
	for _, id := range ids {
		distance[id] = editDistance(lower, id)
		if strings.Contains(id, lower) || strings.Contains(lower, id) {
			distance[id] = min(distance[id], 1)
		}
		if distance[id] <= 1+len(meant)/4 {
			near = append(near, id)
		}
	}
	if len(near) == 0 {
		return fmt.Errorf("no finding is called %q; bridgewatch explain lists all", meant)
	}
	slices.SortStableFunc(near, func(a, b string) int { return cmp.Compare(distance[a], distance[b]) })
	return fmt.Errorf("no finding is called %q; did you mean %s?", meant, strings.Join(near[:min(3, len(near))], ", "))
}

// editDistance is how many bytes have to be put in, taken out or replaced to make one text of the other (Levenshtein).
func editDistance(a, b string) int {
	above := make([]int, len(b)+1) // distances of the beginnings of b to that of a which is one shorter
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		diagonal := above[0]
		above[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = above[j+1]
			above[j+1] = min(replaced, above[j]+1, above[j+1]+1)
		}
	}
	return above[len(b)]
}
