// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestPrintAbilities(t *testing.T) {
	var out bytes.Buffer
	err := printAbilities(&out, []loader.Ability{
		{Signal: "flow", Name: "tcx", OK: true, Needed: true, Detail: "attached"},
		{Signal: "drop", Name: "BTF", Needed: true, Detail: "none", Remedy: "another kernel"},
		{Signal: "all", Name: "CAP_SYSLOG", Detail: "to name functions", Remedy: "grant it"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ok flow tcx attached",
		"FAILS drop BTF none",
		"→ another kernel",
		"missing all CAP_SYSLOG to name functions",
		"→ grant it",
	}
	if diff := cmp.Diff(want, lines(out.String())[1:]); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(out.String(), "kernel ") {
		t.Errorf("it begins with %q, want the kernel", out.String())
	}
}

// Each privilege is named with its reason, whether it is there or not.
func TestCheckPrivileges(t *testing.T) {
	abilities := checkPrivileges()
	privileges := privileges()
	if len(abilities) != len(privileges) {
		t.Fatalf("%d abilities, want %d", len(abilities), len(privileges))
	}
	for i, a := range abilities {
		if a.Name != privileges[i].value.String() || !strings.HasPrefix(a.Detail, "to ") {
			t.Errorf("ability %+v, want %v and what for", a, privileges[i].value)
		}
		if a.OK != (a.Remedy == "") {
			t.Errorf("%s: ok is %t and the remedy %q", a.Name, a.OK, a.Remedy)
		}
	}
}

// Docker's absence is said with the way out, and is no failure.
func TestCheckWithoutDocker(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+t.TempDir()+"/none.sock")
	a := checkDocker(context.Background())
	if a.OK || a.Needed || a.Remedy == "" || !strings.Contains(a.Detail, "none.sock") {
		t.Errorf("got %+v", a)
	}
}
