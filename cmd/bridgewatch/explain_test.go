// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/docs"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

// Every finding can be explained, by the page that ships with the agent.
func TestExplain(t *testing.T) {
	for _, d := range findings.Catalogue() {
		want, err := docs.Finding(d.ID)
		if err != nil {
			t.Error(err)
			continue
		}
		var out, errs bytes.Buffer
		if code := execute(t.Context(), []string{"explain", d.ID}, &out, &errs); code != exitGood || errs.Len() > 0 {
			t.Errorf("%s: exit code %d, stderr %q", d.ID, code, errs.String())
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%s: %s", d.ID, diff)
		}
	}
}

// The list has every finding once, with its severity, the gravest first.
func TestExplainAll(t *testing.T) {
	var out, errs bytes.Buffer
	if code := execute(t.Context(), []string{"explain"}, &out, &errs); code != exitGood || errs.Len() > 0 {
		t.Fatalf("exit code %d, stderr %q", code, errs.String())
	}
	listed := make(map[string]findings.Severity)
	last := findings.Critical
	for line := range strings.Lines(out.String()) {
		if columns(line) > width+1 {
			t.Errorf("%d columns: %s", columns(line), line)
		}
		if strings.HasPrefix(line, " ") {
			continue // the rest of a long title
		}
		fields := strings.Fields(line)
		severity := findings.Severity(fields[0])
		if !last.AtLeast(severity) {
			t.Errorf("%s comes after %s", severity, last)
		}
		last = severity
		listed[fields[1]] = severity
	}
	want := make(map[string]findings.Severity)
	for _, d := range findings.Catalogue() {
		want[d.ID] = d.Severity
	}
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Error(diff)
	}
}

func TestPrintCatalogue(t *testing.T) {
	var out bytes.Buffer
	err := printCatalogue(&out, []findings.Definition{
		{ID: "dup-ip", Severity: findings.Warning, Title: "Two interfaces on one network have the same address, and packets reach whichever answered last."},
		{ID: "ip-forward-off", Severity: findings.Critical, Title: "The host does not forward packets."},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `critical  ip-forward-off  The host does not forward packets.
warning   dup-ip          Two interfaces on one network have the same address,
                          and packets reach whichever answered last.
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownFinding(t *testing.T) {
	ids := []string{"dup-ip", "dup-mac", "filtered", "forward-policy-drop", "ip-forward-off", "mtu-bridge", "mtu-mismatch", "mtu-route", "mtu-zero", "v6-disabled"}
	const none = "bridgewatch explain lists all"
	for meant, want := range map[string]string{
		"filtred":        "did you mean filtered?",
		"Filtered":       "did you mean filtered?",
		"IP_FORWARD_OFF": "did you mean ip-forward-off?",
		"mtu":            "did you mean mtu-bridge, mtu-mismatch, mtu-route?",
		"ip-forward":     "did you mean ip-forward-off?",
		"ip_forward_off": "did you mean ip-forward-off?",
		"xy":             none,
		"nonsense-here":  none,
		"../commands":    none,
	} {
		if got := unknownFinding(meant, ids).Error(); !strings.HasSuffix(got, want) {
			t.Errorf("%q: %s; want %s", meant, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"same", "same", 0}, {"kitten", "sitting", 3}, {"abc", "ca", 3},
	} {
		if got := editDistance(tc.a, tc.b); got != tc.want {
			t.Errorf("%q to %q is %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if got := editDistance(tc.b, tc.a); got != tc.want {
			t.Errorf("%q to %q is %d, want %d", tc.b, tc.a, got, tc.want)
		}
	}
}
