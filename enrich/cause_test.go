// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whoever reads a cause in a panel finds it in the docs, with its kind and what it means.
func TestCausesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/signals/drop.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "| --- | --- | --- |\n| `fault`")
	table, _, _ := strings.Cut("| `fault`"+section, "\n\n")
	var want []string
	names := make(map[string]bool)
	for _, c := range Causes() {
		if c.Meaning == "" || strings.ContainsAny(c.Meaning, "|\n") {
			t.Errorf("cause %s means %q, want something that fits in a table", c.Name, c.Meaning)
		}
		if names[c.Name] {
			t.Errorf("cause %s is there twice", c.Name)
		}
		names[c.Name] = true
		want = append(want, fmt.Sprintf("| `%s` | `%s` | %s |", c.Kind, c.Name, c.Meaning))
	}
	if diff := cmp.Diff(want, strings.Split(table, "\n")); diff != "" {
		t.Errorf("docs/signals/drop.md, Causes (-want +got):\n%s", diff)
	}
}
