// SPDX-License-Identifier: Apache-2.0

// Package docs carries the runbooks of the findings, so that the program can print them where there is no network.
package docs

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:generate go test . -run ^TestIndex$ -update
//go:embed findings/*.md
var runbooks embed.FS

// index lists the pages and is none.
const index = "README"

// ErrUnknownFinding says that no finding has the ID that was asked for.
var ErrUnknownFinding = errors.New("unknown finding")

// Finding returns the runbook of a finding, as Markdown. It fails with [ErrUnknownFinding].
func Finding(id string) (page string, err error) {
	if !slices.Contains(Findings(), id) {
		return "", fmt.Errorf("%w %q", ErrUnknownFinding, id)
	}
	text, err := runbooks.ReadFile("findings/" + id + ".md")
	if err != nil {
		return "", fmt.Errorf("read the runbook of %q: %w", id, err)
	}
	return string(text), nil
}

// Findings returns the IDs of all findings that have a runbook, sorted.
func Findings() []string {
	files, err := fs.Glob(runbooks, "findings/*.md")
	if err != nil {
		panic(err) // the pattern is wrong: it is a constant
	}
	var ids []string
	for _, file := range files {
		id := strings.TrimSuffix(strings.TrimPrefix(file, "findings/"), ".md")
		if id != index {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
