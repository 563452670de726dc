// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

// What is committed is what the program writes.
func TestFilesAreFresh(t *testing.T) {
	all, err := files()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range all {
		got, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: run go generate ./dashboards", name)
		}
	}
}

func TestInformationNeverAlerts(t *testing.T) {
	rules := string(findingRules([]findings.Definition{
		{ID: "worse", Severity: findings.Critical}, {ID: "bad", Severity: findings.Warning}, {ID: "so-so", Severity: findings.Info},
	}))
	for name, want := range map[string]bool{"BridgewatchWorse": true, "BridgewatchBad": true, "BridgewatchSoSo": false} {
		if got := strings.Contains(rules, "alert: "+name+"\n"); got != want {
			t.Errorf("%s alerts: %t, want %t", name, got, want)
		}
	}
}

func TestAlertName(t *testing.T) {
	for id, want := range map[string]string{
		"ip-forward-off": "BridgewatchIpForwardOff",
		"filtered":       "BridgewatchFiltered",
		"v6-ra-lost":     "BridgewatchV6RaLost",
	} {
		if got := alertName(id); got != want {
			t.Errorf("alert of %s is %s, want %s", id, got, want)
		}
	}
}

func TestCommand(t *testing.T) {
	for _, tc := range []struct{ confirm, want string }{
		{"sysctl net.ipv4.ip_forward", "sysctl net.ipv4.ip_forward"},
		{"docker port {container}", `docker port {{ or $labels.container "CONTAINER" }}`},
		{"ip neigh show {object} dev {device}", "ip neigh show OBJECT dev DEVICE"},
		{"docker network inspect -f '{{.Internal}}' {network}",
			`docker network inspect -f '{{ "{{" }}.Internal}}' {{ or $labels.network "NETWORK" }}`},
		{"docker ps --format '{{range .Networks}}x{{end}}'", `docker ps --format '{{ "{{" }}range .Networks}}x{{ "{{" }}end}}'`},
		{"awk '{print $1}'", "awk '{print $1}'"},
	} {
		if got := command(tc.confirm); got != tc.want {
			t.Errorf("%s becomes\n%s, want\n%s", tc.confirm, got, tc.want)
		}
	}
}

// A folded scalar is read as what it was made of: lines are joined by a space.
func TestFolded(t *testing.T) {
	for _, text := range []string{
		"short",
		strings.Repeat("word ", 60) + "end",
		strings.Repeat("two  spaces ", 40) + "end",
		strings.Repeat("x", 300) + " " + strings.Repeat("y", 300),
		strings.Repeat(`{{ or $labels.container "CONTAINER" }} `, 20) + "end",
	} {
		var joined []string
		for line := range strings.SplitSeq(folded(text), "\n") {
			line = strings.TrimPrefix(line, "            ")
			if line != strings.TrimSpace(line) || strings.Count(line, "{{") != strings.Count(line, "}}") {
				t.Errorf("a line of its own: %q", line)
			}
			joined = append(joined, line)
		}
		if diff := cmp.Diff(text, strings.Join(joined, " ")); diff != "" {
			t.Errorf("read again (-want +got):\n%s", diff)
		}
	}
}

// Panels are put side by side as long as there is room.
func TestLayout(t *testing.T) {
	box := func(id, width, height int) panel { return panel{id: id, width: width, height: height, view: number{}} }
	p := page{rows: []row{
		{panels: []panel{box(1, 12, 4), box(2, 12, 6), box(3, 24, 5)}},
		{id: 4, title: "more", panels: []panel{box(5, 8, 3)}},
	}}
	got := map[any]any{}
	for _, box := range p.layout() {
		got[box["id"]] = box["gridPos"]
	}
	want := map[any]any{
		1: object{"x": 0, "y": 0, "w": 12, "h": 4}, 2: object{"x": 12, "y": 0, "w": 12, "h": 6},
		3: object{"x": 0, "y": 6, "w": 24, "h": 5}, 4: object{"x": 0, "y": 11, "w": 24, "h": 1},
		5: object{"x": 0, "y": 12, "w": 8, "h": 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
}
