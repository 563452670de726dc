// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Names and labels are a contract.
func TestFamilies(t *testing.T) {
	name := regexp.MustCompile(`^bridgewatch_[a-z][a-z_]*[a-z]$`)
	label := regexp.MustCompile(`^[a-z][a-z_]*[a-z]$`)
	unit := regexp.MustCompile(`^(By|s|\{[a-z]+\})$`) // never 1, of which Prometheus makes a ratio
	seen := make(map[string]bool)
	for _, f := range Families() {
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
		if !name.MatchString(f.Name) || strings.HasSuffix(f.Name, "_total") != (f.Type == Counter) {
			t.Errorf("%s is no name for its type", f.Name)
		}
		if !unit.MatchString(f.Unit) || strings.Contains(f.Name, "_bytes") != (f.Unit == "By") || strings.Contains(f.Name, "_seconds") != (f.Unit == "s") {
			t.Errorf("%s has the unit %q", f.Name, f.Unit)
		}
		if f.Help == "" || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("help of %s is %q, want sentences", f.Name, f.Help)
		}
		for i, l := range f.Labels {
			if !label.MatchString(l) || slices.Contains(f.Labels[:i], l) {
				t.Errorf("%s has a label %q", f.Name, l)
			}
			for _, taken := range []string{"instance", "job", "node"} {
				if l == taken && f != nodeInfo && f != peerInfo {
					t.Errorf("%s has the label %q, which is Prometheus's", f.Name, l)
				}
			}
		}
		if f.Retired == withOwner && !beginsWith(f.Labels, identityLabels) && !beginsWith(f.Labels, serviceLabels) {
			t.Errorf("%s is retired with its owner, and its labels do not begin with the identity", f.Name)
		}
		if (f.Type == Histogram) != (f.Bounds != nil) || !slices.IsSorted(f.Bounds) {
			t.Errorf("%s has the bounds %v", f.Name, f.Bounds)
		}
		if f.Type == Histogram && slices.Contains(f.Labels, "container") {
			t.Errorf("%s has a series for each bucket of each container", f.Name)
		}
	}
}

func beginsWith(labels, prefix []string) bool {
	return slices.Equal(labels[:min(len(labels), len(prefix))], prefix)
}

// Every metric is in the page of metrics, with each of its labels, and nothing is there that does not exist.
func TestFamiliesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, m := range regexp.MustCompile("`(bridgewatch_[a-z_]+)\\b").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	known := make(map[string]bool)
	for _, f := range Families() {
		known[f.Name] = true
		if !documented[f.Name] {
			t.Errorf("docs/metrics.md does not name %s", f.Name)
		}
		for _, l := range f.Labels {
			if !strings.Contains(string(text), "`"+l+"`") {
				t.Errorf("docs/metrics.md does not name the label %s of %s", l, f.Name)
			}
		}
	}
	for name := range documented {
		if !known[name] {
			t.Errorf("docs/metrics.md names %s, which does not exist", name)
		}
	}
}
