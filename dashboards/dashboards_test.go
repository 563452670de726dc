// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPanels(t *testing.T) {
	for _, name := range dashboardNames(t) {
		d, err := read(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range d.Panels {
			checkPanel(t, name, p)
		}
		checkLayout(t, name, d.Panels)
	}
}

func checkPanel(t *testing.T, name string, p panel) {
	t.Helper()
	if p.Type == "row" {
		return
	}
	if p.Description == "" || p.FieldConfig.Defaults.Unit == "" && p.Type != "table" {
		t.Errorf("%s: panel %q lacks a description or a unit", name, p.Title)
	}
	if len(p.Targets) == 0 {
		t.Errorf("%s: panel %q has no query", name, p.Title)
	}
	letters := map[string]bool{}
	for _, target := range p.Targets {
		if target.Expr == "" || target.RefID == "" || letters[target.RefID] {
			t.Errorf("%s: panel %q: query %q is empty, or its letter is taken", name, p.Title, target.RefID)
		}
		letters[target.RefID] = true
	}
}

// checkLayout requires that panels lie within Grafana's 24 columns and on no other panel.
func checkLayout(t *testing.T, name string, panels []panel) {
	t.Helper()
	for i, p := range panels {
		a := p.GridPos
		if a.X < 0 || a.Y < 0 || a.W <= 0 || a.H <= 0 || a.X+a.W > 24 {
			t.Errorf("%s: panel %q lies outside of the page: %+v", name, p.Title, a)
		}
		for _, q := range panels[:i] {
			b := q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s: panels %q and %q overlap", name, q.Title, p.Title)
			}
		}
	}
}

// Every query and rule asks only for metrics and labels that the agent has.
func TestMetricsAndLabelsExist(t *testing.T) {
	metrics := families(t)
	for _, q := range allQueries(t) {
		for _, problem := range unknownNames(metrics, q.Expr) {
			t.Errorf("panel %q: %s in %s", q.Panel, problem, q.Expr)
		}
	}
	for _, expr := range append(ruleExprs(t), annotationExprs(t)...) {
		for _, problem := range unknownNames(metrics, expr) {
			t.Errorf("rules: %s in %s", problem, expr)
		}
	}
}

// A service is unique only together with its stack, and a network only together with its host, or its number in the Swarm.
func TestAggregation(t *testing.T) {
	exprs := ruleExprs(t)
	for _, q := range allQueries(t) {
		if q.RefID != "" {
			exprs = append(exprs, q.Expr)
		}
	}
	needs := map[string][]string{
		"service":             {"stack"},
		"container":           {"service"},
		"source_service":      {"source_stack"},
		"destination_service": {"destination_stack"},
		"network":             {"instance", "vni"},
	}
	for _, expr := range exprs {
		if strings.Contains(expr, "without") {
			t.Errorf("aggregation by exclusion breaks when a label is added: %s", expr)
		}
		for _, by := range groupings(expr) {
			for label, companions := range needs {
				if slices.Contains(by, label) && !slices.ContainsFunc(companions, func(c string) bool { return slices.Contains(by, c) }) {
					t.Errorf("grouped by %s without %s: %s", label, strings.Join(companions, " or "), expr)
				}
			}
		}
	}
}

func TestRulesAreComplete(t *testing.T) {
	for _, file := range ruleFiles {
		for _, alert := range strings.Split(text(t, file), "- alert: ")[1:] {
			name, _, _ := strings.Cut(alert, "\n")
			if !strings.HasPrefix(name, "Bridgewatch") {
				t.Errorf("alert %s is not named Bridgewatch…", name)
			}
			for _, part := range []string{"for: ", "severity: ", "summary: ", "description: ", "runbook_url: "} {
				if strings.Count(alert, " "+part) != 1 {
					t.Errorf("alert %s has not one %q", name, part)
				}
			}
			if strings.Contains(alert, "reason=") {
				t.Errorf("alert %s looks at reason, which differs between kernels", name)
			}
		}
	}
}

// runbookBase is where findings are explained, and repository where everything else is.
const (
	repository  = "https://github.com/bridgewatch/bridgewatch/blob/main/"
	runbookBase = repository + "docs/findings/"
)

var runbookURL = regexp.MustCompile(`(?m)runbook_url: (\S+)$`)

// Every alert has a page, and a section of its own where the page has more than one.
func TestRunbooksExist(t *testing.T) {
	for _, file := range ruleFiles {
		for _, m := range runbookURL.FindAllStringSubmatch(text(t, file), -1) {
			path, anchor, _ := strings.Cut(strings.TrimPrefix(m[1], repository), "#")
			page, err := os.ReadFile(filepath.Join("..", path))
			if err != nil {
				t.Errorf("%s: %v", m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(page)), anchor) {
				t.Errorf("%s has no section %s", path, anchor)
			}
		}
	}
}

var heading = regexp.MustCompile(`(?m)^#+ (.+)$`)

// anchors are those of a page's headings that are one word.
func anchors(page string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		all = append(all, strings.ToLower(strings.Trim(m[1], "`")))
	}
	return all
}

// The rules and the rules' own tests in bridgewatch.rules.test.yml.
func TestRules(t *testing.T) {
	for _, file := range ruleFiles {
		promtool(t, "check", "rules", "--lint=all", "--lint-fatal", file)
	}
	promtool(t, "test", "rules", "bridgewatch.rules.test.yml")
}

// Every alert of bridgewatch.rules.yml has a case in which it fires, by name.
func TestRulesAreTested(t *testing.T) {
	cases, err := os.ReadFile("bridgewatch.rules.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range strings.Split(text(t, Rules), "- alert: ")[1:] {
		name, _, _ := strings.Cut(alert, "\n")
		firing := fmt.Sprintf(`alertname="%s", alertstate="firing", `, name)
		if !strings.Contains(string(cases), firing) && !strings.Contains(string(cases), "alertname: "+name+"\n") {
			t.Errorf("no case in bridgewatch.rules.test.yml is about %s", name)
		}
	}
}

func TestScrapeConfig(t *testing.T) {
	promtool(t, "check", "config", ScrapeConfig)
	if config := text(t, ScrapeConfig); !strings.Contains(config, "\n    honor_labels: true\n") {
		t.Error("the scrape configuration does not keep the agent's labels")
	}
}

// Every query of the dashboards is PromQL: promtool reads each as a recording rule.
func TestQueriesParse(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n- name: panels\n  rules:\n")
	for i, q := range allQueries(t) {
		fmt.Fprintf(&rules, "  - record: panel:query_%d\n    expr: %q\n", i, q.Expr)
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", "--lint=none", file)
}

func TestQueriesFillVariables(t *testing.T) {
	want := `sum(rate(bridgewatch_packets_total{instance=~".*", stack=~".*", service=~".*", scope="container"}[60000ms]))`
	if !slices.ContainsFunc(allQueries(t), func(q Query) bool { return q.Expr == want }) {
		t.Errorf("no query reads %s", want)
	}
	want = `group by (stack) (bridgewatch_packets_total{instance=~".*", stack!=""})`
	if !slices.ContainsFunc(allQueries(t), func(q Query) bool { return q.Panel == "variable stack" && q.Expr == want }) {
		t.Errorf("the variable stack does not read %s", want)
	}
}

// promtool runs Prometheus's own checker, which Debian's package prometheus brings.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("promtool", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func dashboardNames(t *testing.T) []string {
	t.Helper()
	names, err := fs.Glob(Files(), "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no dashboard is embedded: %v", err)
	}
	return names
}

var ofContainers = regexp.MustCompile(`bridgewatch_(?:packets|bytes|skbs)_total\{([^}]*)\}`)

// What passes a load balancer or the routing mesh is no container's: panels about containers leave it out, or name services.
func TestPanelsAboutContainers(t *testing.T) {
	asked := 0
	for _, q := range allQueries(t) {
		for _, m := range ofContainers.FindAllStringSubmatch(q.Expr, -1) {
			asked++
			if !strings.HasPrefix(q.Panel, "variable ") && !strings.Contains(m[1], `scope="container"`) && !strings.Contains(m[1], `service!=""`) {
				t.Errorf("%s asks for more than containers", m[0])
			}
		}
	}
	if asked == 0 {
		t.Error("no panel asks for packets: this test looks at nothing")
	}
}

func allQueries(t *testing.T) []Query {
	t.Helper()
	var all []Query
	for _, name := range dashboardNames(t) {
		queries, err := Queries(name, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, queries...)
	}
	return all
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := fs.ReadFile(Files(), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ruleFiles are those with rules of Prometheus.
var ruleFiles = []string{Rules, FindingRules}

var ruleExpr = regexp.MustCompile(`(?m)^ +expr: (?:>-\n((?: {10,}.*\n)+)|(.+)\n)`)

// ruleExprs returns the expressions of all rules.
func ruleExprs(t *testing.T) []string {
	t.Helper()
	var exprs []string
	for _, file := range ruleFiles {
		rules := text(t, file)
		found := ruleExpr.FindAllStringSubmatch(rules, -1)
		for _, m := range found {
			exprs = append(exprs, m[1]+m[2])
		}
		if count := strings.Count(rules, "expr:"); len(found) != count {
			t.Fatalf("read %d of %d expressions of %s", len(found), count, file)
		}
	}
	return exprs
}

var annotationExpr = regexp.MustCompile(`printf "(\w+ by [^"]+)"`)

// annotationExprs returns what the rules' annotations ask, without the values of their matchers.
func annotationExprs(t *testing.T) []string {
	t.Helper()
	var exprs []string
	for _, m := range annotationExpr.FindAllStringSubmatch(text(t, Rules), -1) {
		exprs = append(exprs, strings.ReplaceAll(m[1], "%q", `""`))
	}
	if count := strings.Count(text(t, Rules), "| query"); len(exprs) != count {
		t.Fatalf("read %d of %d expressions in annotations", len(exprs), count)
	}
	return exprs
}
