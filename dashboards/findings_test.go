// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

// victim and host are whom the findings of the rules' tests concern.
const (
	victim = `cluster="c", instance="a", stack="shop", service="web", container="web.1", network="front", scope="host"`
	host   = `cluster="c", instance="a", stack="", service="", container="", network="", scope="host"`
)

// Every finding of the catalogue that deserves an alert has one, which fires, names whom it concerns, says what to do, and
// clears; information never alerts. promtool runs a test that is made here from the catalogue.
func TestFindingAlerts(t *testing.T) {
	catalogue := findings.Catalogue()
	if len(catalogue) == 0 {
		t.Fatal("the catalogue is empty")
	}
	rules, err := filepath.Abs(FindingRules)
	if err != nil {
		t.Fatal(err)
	}
	runPromtool(t, rules, []any{alertsCase(catalogue)})
}

type object = map[string]any

// alertsCase is one case for promtool, for JSON is YAML: all findings at once, each of a cluster of its own, since cases take
// time for every rule. A minute apart: nothing for five minutes, ten minutes of the findings, nothing.
func alertsCase(catalogue []findings.Definition) object {
	series := []object{}
	tests := []object{}
	firing := []object{} // all that may fire at once
	for i := range catalogue {
		d := &catalogue[i]
		alerts := []object{}
		for _, subject := range []string{victim, host} {
			own := strings.Replace(subject, `cluster="c"`, `cluster="`+d.ID+`"`, 1)
			series = append(series, object{
				"series": fmt.Sprintf(`bridgewatch_finding{%s, id="%s", severity="%s"}`, own, d.ID, d.Severity), "values": "_x5 1x10 _x20",
			})
			alerts = append(alerts, object{"exp_labels": alertLabels(d, own), "exp_annotations": annotations(d, subject)})
		}
		if !d.Severity.AtLeast(findings.Warning) {
			continue
		}
		for minute, expected := range map[int][]object{4: {}, 5: {}, 7: alerts, 15: alerts, 20: {}} {
			tests = append(tests, object{"alertname": alertName(d.ID), "eval_time": fmt.Sprintf("%dm", minute), "exp_alerts": expected})
		}
		firing = append(firing, object{"labels": fmt.Sprintf(`{alertname="%s", cluster="%s"}`, alertName(d.ID), d.ID), "value": len(alerts)})
	}
	count := func(minute int, samples []object) object {
		return object{"expr": `count by (alertname, cluster) (ALERTS{alertstate="firing"})`, "eval_time": fmt.Sprintf("%dm", minute), "exp_samples": samples}
	}
	return object{
		"interval": "1m", "input_series": series, "alert_rule_test": tests,
		"promql_expr_test": []object{count(4, []object{}), count(12, firing), count(20, []object{})},
	}
}

func alertName(id string) string {
	var name string
	for _, word := range strings.Split(id, "-") {
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return "Bridgewatch" + name
}

var label = regexp.MustCompile(`(\w+)="([^"]+)"`)

func alertLabels(d *findings.Definition, subject string) object {
	labels := object{"severity": string(d.Severity)}
	for _, m := range label.FindAllStringSubmatch(subject, -1) {
		labels[m[1]] = m[2]
	}
	return labels
}

// annotations are what the operator must read: what the definition says, for the subject.
func annotations(d *findings.Definition, subject string) object {
	who, container, network := "Container web.1, network front, host a", "web.1", "front"
	if subject == host {
		who, container, network = "Host a", "CONTAINER", "NETWORK"
	}
	confirm := strings.NewReplacer("{container}", container, "{network}", network).Replace(d.Confirm)
	for unfilled.MatchString(confirm) {
		at := unfilled.FindStringSubmatchIndex(confirm)[2:4]
		confirm = confirm[:at[0]-1] + strings.ToUpper(confirm[at[0]:at[1]]) + confirm[at[1]+1:]
	}
	return object{
		"summary": who + ": " + d.Title,
		"description": d.Remedy + ` On a, "bridgewatch doctor" shows the evidence in numbers, and this shows it without Bridgewatch: ` +
			confirm,
		"runbook_url": runbookBase + d.ID + ".md",
	}
}

// unfilled is a placeholder that no label fills; double braces are docker's.
var unfilled = regexp.MustCompile(`[^{]\{([a-z_0-9]+)\}(?:[^}]|$)`)

func runPromtool(t *testing.T, rules string, cases []any) {
	t.Helper()
	runPromtoolEvery(t, "1m", rules, cases)
}

// runPromtoolEvery runs cases in which rules are evaluated at an interval.
func runPromtoolEvery(t *testing.T, interval, rules string, cases []any) {
	t.Helper()
	text, err := json.MarshalIndent(object{"rule_files": []string{rules}, "evaluation_interval": interval, "tests": cases}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "findings.rules.test.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "test", "rules", file)
}

var findingID = regexp.MustCompile(`\bid=~?\\?"([a-z0-9|-]+)\\?"`)

// A finding that a panel or a rule asks for is in the catalogue.
func TestNamedFindingsExist(t *testing.T) {
	var known []string
	for _, d := range findings.Catalogue() {
		known = append(known, d.ID)
	}
	named := 0
	for _, file := range append(dashboardNames(t), Rules) {
		for _, m := range findingID.FindAllStringSubmatch(text(t, file), -1) {
			for id := range strings.SplitSeq(m[1], "|") {
				named++
				if !slices.Contains(known, id) {
					t.Errorf("%s asks for the finding %s, which is not in the catalogue", file, id)
				}
			}
		}
	}
	if named == 0 {
		t.Error("nothing names a finding: this test looks at nothing")
	}
}

// Two findings of one id and one subject that differ in an object alone are one alert, and what differs in a label is two.
func TestFindingAlertsPerSubject(t *testing.T) {
	rules, err := filepath.Abs(FindingRules)
	if err != nil {
		t.Fatal(err)
	}
	warning := slices.IndexFunc(findings.Catalogue(), func(d findings.Definition) bool { return d.Severity == findings.Warning })
	d := findings.Catalogue()[warning]
	series := func(subject string) object {
		return object{"series": fmt.Sprintf(`bridgewatch_finding{%s, id="%s", severity="warning"}`, subject, d.ID), "values": "1x10"}
	}
	other := strings.Replace(victim, `cluster="c"`, `cluster="d"`, 1)
	runPromtool(t, rules, []any{object{
		"interval": "1m", "input_series": []object{series(victim), series(other), series(host)},
		"promql_expr_test": []object{{
			"expr": `count(ALERTS{alertstate="firing"})`, "eval_time": "5m", "exp_samples": []object{{"labels": "{}", "value": 3}},
		}},
	}})
}

// A restart of the agent ends no alert and begins none: its series vanish for a moment, and a finding is raised anew.
func TestRestartKeepsFindingAlerts(t *testing.T) {
	rules, err := filepath.Abs(FindingRules)
	if err != nil {
		t.Fatal(err)
	}
	firing := `count(ALERTS{alertstate="firing"})`
	runPromtool(t, rules, []any{object{
		"interval": "15s",
		"input_series": []object{{
			"series": fmt.Sprintf(`bridgewatch_finding{%s, id="ip-forward-off", severity="critical"}`, host),
			"values": "1x40 stale _x5 1x40", // away for a minute and a half
		}},
		"promql_expr_test": []object{
			{"expr": fmt.Sprintf(`count_over_time(%s[17m:1m])`, firing), "eval_time": "19m", "exp_samples": []object{{"labels": "{}", "value": 18}}},
		},
	}})
}
