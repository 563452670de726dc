// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"os"
	"strings"
	"testing"
)

// Whoever reads a cause in a panel finds it in the docs.
func TestCausesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/signals/drop.md")
	if err != nil {
		t.Fatal(err)
	}
	causes := map[string]bool{CauseUnknown: true, "multicast": true, "local-message": true, "hairpin": true, "peer-ended": true}
	for _, r := range rules {
		causes[r.cause] = true
	}
	for cause := range causes {
		if !strings.Contains(string(page), "`"+cause+"`") {
			t.Errorf("cause %s is not in docs/signals/drop.md", cause)
		}
	}
}
