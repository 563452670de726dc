// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bridgewatch/bridgewatch/enrich"
)

var (
	slug        = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	quoted      = regexp.MustCompile(`'[^']*'`)
	placeholder = regexp.MustCompile(`\{[a-z_]+\}`) // not those of docker's templates, {{.Name}}
)

func TestCatalogue(t *testing.T) {
	all := Catalogue()
	for i, d := range all {
		if !slug.MatchString(d.ID) {
			t.Errorf("%q is no slug", d.ID)
		}
		if i > 0 && d.ID <= all[i-1].ID {
			t.Errorf("%s comes after %s: twice, or not sorted", d.ID, all[i-1].ID)
		}
		if !slices.Contains(Severities(), d.Severity) {
			t.Errorf("%s: severity %q", d.ID, d.Severity)
		}
		for name, sentence := range map[string]string{"title": d.Title, "remedy": d.Remedy} {
			if !strings.HasSuffix(sentence, ".") || strings.ToUpper(sentence[:1]) != sentence[:1] {
				t.Errorf("%s: its %s is no sentence: %q", d.ID, name, sentence)
			}
		}
		if d.Basis == "" || d.Confirm == "" || strings.ContainsAny(quoted.ReplaceAllString(d.Confirm, ""), ";\n") {
			t.Errorf("%s: basis %q, confirmed by %q", d.ID, d.Basis, d.Confirm)
		}
	}
}

// TestCauses holds the catalogue against the causes that drops can have.
func TestCauses(t *testing.T) {
	// Somebody's decision about what is not Docker's, or not the network's.
	silent := []string{"host-firewall", "security-policy"}
	causes := map[string]enrich.Kind{}
	for _, c := range enrich.Causes() {
		causes[c.Name] = c.Kind
		concerns := (c.Kind == enrich.KindFault || c.Kind == enrich.KindPolicy) && !slices.Contains(silent, c.Name)
		found := slices.ContainsFunc(Catalogue(), func(d Definition) bool { return d.ID == c.Name })
		if concerns && !found {
			t.Errorf("no finding for cause %s, a %s", c.Name, c.Kind)
		}
		if kind := causes[c.Name]; found && kind == enrich.KindPolicy {
			for _, d := range Catalogue() {
				if d.ID == c.Name && d.Severity != Info {
					t.Errorf("%s is a policy, and its severity is %s", d.ID, d.Severity)
				}
			}
		}
	}
	view := healthy()
	for _, d := range Catalogue() {
		l := loss(d.ID, 1000)
		l.Repeated = 1000
		view.Losses = append(view.Losses, l)
	}
	for _, f := range look(NewBoard(Config{}), view, 0) {
		if _, known := causes[f.ID]; !known {
			t.Errorf("finding %s comes of drops with a cause that there is not", f.ID)
		}
	}
}

// TestConfirmIsFilled requires of every finding that any test raises that its command names the subject.
func TestConfirmIsFilled(t *testing.T) {
	raised := map[string]bool{}
	check := func(view View) {
		for _, f := range look(NewBoard(Config{UnusedAfter: 1}), view, swept) {
			raised[f.ID] = true
			if left := placeholder.FindString(strings.ReplaceAll(f.Confirm, "{{", "")); left != "" {
				t.Errorf("%s: %s is left in %q", f.ID, left, f.Confirm)
			}
		}
	}
	for _, cases := range allCases() {
		for _, c := range cases {
			view := healthy()
			c.change(&view)
			check(view)
		}
	}
	for _, scope := range []enrich.Scope{enrich.ScopeHost, enrich.ScopeContainer} {
		view := healthy()
		for _, d := range Catalogue() {
			bare := loss(d.ID, 1000)
			bare.Repeated, bare.Subject.Scope = 1000, scope
			bare.Example = enrich.Drop{ContainerID: webID}
			if d.ID == "dead-endpoint" { // which is none of a container's without
				bare.Example.Destination = addr("172.20.0.9")
			}
			view.Losses = append(view.Losses, bare)
		}
		check(view)
	}
	for _, d := range Catalogue() {
		if !raised[d.ID] {
			t.Errorf("no test raises %s", d.ID)
		}
	}
}
