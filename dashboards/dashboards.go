// SPDX-License-Identifier: Apache-2.0

// Package dashboards holds what an operator loads beside the agent: Grafana dashboards, Prometheus rules, a scrape
// configuration and one for Alertmanager. They are plain files, embedded so that a binary can write the ones that match its
// version. The dashboards and the rules about findings are generated: see the program in generate.
//
// The package also reads the dashboards' queries out, ready to run, so that a test can hold every panel against a live
// Prometheus. It touches neither network nor disk.
package dashboards

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"
)

//go:generate go run ./generate

// The names of the files in Files.
const (
	Overview     = "overview.json"         // Grafana dashboard: what is wrong, who loses what, who talks
	Drops        = "drops.json"            // Grafana dashboard: the signal drop
	Flow         = "flow.json"             // Grafana dashboard: the signal flow
	NAT          = "nat.json"              // Grafana dashboard: the signal nat
	DNS          = "dns.json"              // Grafana dashboard: the signal dns
	Overlay      = "overlay.json"          // Grafana dashboard: the signal overlay: what nodes of a Swarm lose between them
	Swarm        = "swarm.json"            // Grafana dashboard: nodes, services and who serves them
	Agent        = "agent.json"            // Grafana dashboard: the agents' own cost and losses
	Rules        = "bridgewatch.rules.yml" // Prometheus rules: services that lose packets, lookups or their clients' addresses, nodes that lose packets between them, and the agents
	FindingRules = "findings.rules.yml"    // Prometheus rules: one alert for each finding
	ScrapeConfig = "scrape.yml"            // Prometheus scrape configuration
	Alertmanager = "alertmanager.yml"      // Alertmanager configuration: routes and inhibitions
)

//go:embed overview.json drops.json flow.json nat.json dns.json overlay.json swarm.json agent.json bridgewatch.rules.yml findings.rules.yml scrape.yml alertmanager.yml
var files embed.FS

// Files returns all that ships with the agent.
func Files() fs.FS { return files }

// Query is one query of a dashboard, in PromQL and without variables.
type Query struct {
	Panel string // title of the panel, "variable NAME" or "annotation NAME"
	RefID string // the query's letter within the panel; empty for a variable or an annotation
	Expr  string
}

// Queries returns every query that the named dashboard sends when it is opened: those of its panels, with the variables
// at their defaults, those that fill its variables, and those that mark moments in its graphs. window, a positive time,
// stands for the range of the dashboard and for the interval of its rates.
func Queries(name string, window time.Duration) ([]Query, error) {
	d, err := read(name)
	if err != nil {
		return nil, err
	}
	fill := d.filler(window)
	var queries []Query
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		expr, err := seriesOf(v.Definition)
		if err != nil {
			return nil, fmt.Errorf("read variable %s of %s: %w", v.Name, name, err)
		}
		queries = append(queries, Query{Panel: "variable " + v.Name, Expr: fill.Replace(expr)})
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			queries = append(queries, Query{Panel: "annotation " + a.Name, Expr: fill.Replace(a.Expr)})
		}
	}
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			queries = append(queries, Query{Panel: p.Title, RefID: t.RefID, Expr: fill.Replace(t.Expr)})
		}
	}
	for _, q := range queries {
		if strings.Contains(q.Expr, "$") {
			return nil, fmt.Errorf("fill query of %q in %s: unknown variable in %s", q.Panel, name, q.Expr)
		}
	}
	return queries, nil
}

// dashboard is the part of Grafana's dashboard model that the queries need.
type dashboard struct {
	Panels      []panel
	Templating  struct{ List []variable }
	Annotations struct{ List []struct{ Name, Expr string } }
}

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct{ Unit string }
	}
	Targets []target
}

type target struct {
	RefID string
	Expr  string
}

type variable struct {
	Name       string
	Type       string
	Definition string
	AllValue   string
	Current    struct{ Value any } // a string, a list of strings, or nothing
}

func read(name string) (dashboard, error) {
	var d dashboard
	b, err := files.ReadFile(name)
	if err != nil {
		return d, fmt.Errorf("read dashboard: %w", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("parse dashboard %s: %w", name, err)
	}
	return d, nil
}

// filler replaces the dashboard's variables by their defaults, and Grafana's own by window.
func (d dashboard) filler(window time.Duration) *strings.Replacer {
	promTime := fmt.Sprintf("%dms", window.Milliseconds())
	pairs := []string{"$__rate_interval", promTime, "$__range", promTime}
	for _, v := range d.Templating.List {
		pairs = append(pairs, "$"+v.Name, v.value())
	}
	return strings.NewReplacer(pairs...)
}

// value is the variable's default as Grafana writes it into a matcher: a regular expression.
func (v variable) value() string {
	chosen, _ := v.Current.Value.([]any)
	var values []string
	for _, c := range chosen {
		if c == "$__all" {
			return v.AllValue
		}
		values = append(values, fmt.Sprint(c))
	}
	return strings.Join(values, "|")
}

var labelValues = regexp.MustCompile(`^label_values\((.+),\s*(\w+)\)$`)

// seriesOf turns Grafana's label_values(SERIES, LABEL) into PromQL with one result for each value.
func seriesOf(definition string) (string, error) {
	m := labelValues.FindStringSubmatch(definition)
	if m == nil {
		return "", fmt.Errorf("not label_values(series, label): %s", definition)
	}
	return fmt.Sprintf("group by (%s) (%s)", m[2], m[1]), nil
}
