// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// What follows is the part of Grafana's dashboard model (schema version 39) that our dashboards use. It is read strictly: a key
// that is not here is a misspelt one, or one whose meaning nobody has looked up. A pointer is a key that must be there.

type modelDashboard struct {
	ID                   any    `json:"id"`
	UID                  string `json:"uid"`
	Title                string `json:"title"`
	Description          string `json:"description"`
	Tags                 []string
	SchemaVersion        int
	Version              int
	Editable             *bool
	GraphTooltip         *int
	LiveNow              bool
	Refresh              string
	Time                 *struct{ From, To string }
	Timepicker           *struct{}
	Timezone             string
	WeekStart            string
	FiscalYearStartMonth int
	Links                []modelPageLink
	Annotations          struct{ List []modelAnnotation }
	Templating           struct{ List []modelVariable }
	Panels               []modelPanel
}

type modelSource struct{ Type, UID string }

type modelPageLink struct {
	Type, Title, Icon, Tooltip, URL                string
	Tags                                           []string
	AsDropdown, IncludeVars, KeepTime, TargetBlank *bool
}

type modelAnnotation struct {
	Name, Type, IconColor, Expr, TitleFormat, Step string
	BuiltIn                                        int
	Enable, Hide                                   *bool
	UseValueForTime                                bool
	Datasource                                     *modelSource
}

type modelVariable struct {
	Name, Label, Description, Type, Regex, Definition, AllValue string
	Query                                                       any // text, or query and refId
	Datasource                                                  *modelSource
	Refresh, Sort, Hide                                         int
	Multi, IncludeAll, SkipURLSync                              bool
	Options                                                     []modelOption
	Current                                                     *struct {
		Selected    bool
		Text, Value any // a text, or several
	}
}

type modelOption struct {
	Selected    bool
	Text, Value string
}

type modelPanel struct {
	ID                       int
	Type, Title, Description string
	Datasource               *modelSource
	GridPos                  *struct{ X, Y, W, H *int }
	FieldConfig              *modelFieldConfig
	Options                  json.RawMessage // by the type
	Targets                  []modelTarget
	Transformations          []struct {
		ID      string
		Options *struct {
			ExcludeByName map[string]bool
			IndexByName   map[string]int
			RenameByName  map[string]string

			RowField, ColumnField, ValueField string // of groupingToMatrix
		}
	}
	Collapsed *bool        // of rows
	Panels    []modelPanel // of rows that are collapsed
}

type modelTarget struct {
	RefID, Expr, LegendFormat, EditorMode, Format string
	Range, Instant                                *bool
	Datasource                                    *modelSource
}

type modelFieldConfig struct {
	Defaults struct {
		Unit, NoValue string
		Min, Max      *float64
		Decimals      *int
		Color         *struct{ Mode string }
		Thresholds    *modelThresholds
		Mappings      []modelMapping
		Custom        json.RawMessage // by the type
	}
	Overrides []struct {
		Matcher    struct{ ID, Options string }
		Properties []struct {
			ID    string
			Value any
		}
	}
}

type modelThresholds struct {
	Mode  string
	Steps []struct {
		Color string
		Value *float64 // null for the first
	}
}

type modelMapping struct {
	Type    string
	Options map[string]struct {
		Text, Color string
		Index       int
	}
}

type modelLegend struct {
	DisplayMode, Placement, SortBy string
	ShowLegend, SortDesc           bool
	Calcs                          []string
}

type modelTooltip struct{ Mode, Sort string }

// panelTypes are the kinds of panel that we use, each with the model of its options and of its own part of a field's defaults.
func panelTypes() map[string]struct{ options, custom func() any } {
	type types = struct{ options, custom func() any }
	return map[string]types{
		"timeseries": {
			func() any {
				return &struct {
					Legend  *modelLegend
					Tooltip *modelTooltip
				}{}
			},
			func() any {
				return &struct {
					DrawStyle, ShowPoints  string
					LineWidth, FillOpacity int
					SpanNulls              bool
					Stacking               *struct{ Mode, Group string }
					ThresholdsStyle        struct{ Mode string } // may be missing
				}{}
			},
		},
		"stat": {
			func() any {
				return &struct {
					ColorMode, GraphMode, JustifyMode, Orientation, TextMode string
					PercentChangeColorMode                                   *string
					WideLayout, ShowPercentChange                            *bool
					ReduceOptions                                            *struct {
						Calcs  []string
						Fields string
						Values bool
					}
				}{}
			}, nil,
		},
		"state-timeline": {
			func() any {
				return &struct {
					MergeValues           bool
					ShowValue, AlignValue string
					RowHeight             float64
					Legend                *modelLegend
					Tooltip               *modelTooltip
				}{}
			},
			func() any { return &struct{ FillOpacity, LineWidth int }{} },
		},
		"table": {
			func() any {
				return &struct {
					FrameIndex *int
					ShowHeader bool
					CellHeight string
					Footer     *struct {
						Show    bool
						Reducer []string
					}
					SortBy []struct {
						DisplayName string
						Desc        bool
					}
				}{}
			},
			func() any {
				return &struct {
					Align       string
					Filterable  bool
					Inspect     *bool
					CellOptions struct{ Type, Mode string } // may be missing
				}{}
			},
		},
	}
}

// strictly reads JSON into a model, and fails on what the model does not know.
func strictly(text []byte, model any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	return decoder.Decode(model)
}

func models(t *testing.T) map[string]modelDashboard {
	t.Helper()
	all := map[string]modelDashboard{}
	for _, name := range dashboardNames(t) {
		var d modelDashboard
		if err := strictly([]byte(text(t, name)), &d); err != nil {
			t.Fatalf("%s is not a dashboard: %v", name, err)
		}
		all[name] = d
	}
	return all
}

// Grafana imports every dashboard, beside all others, whatever the name of its data source.
func TestDashboardsImport(t *testing.T) {
	uids := map[string]string{}
	for name, d := range models(t) {
		if other, taken := uids[d.UID]; taken {
			t.Errorf("%s and %s have one uid, %s", name, other, d.UID)
		}
		uids[d.UID] = name
		for _, problem := range problems(d) {
			t.Errorf("%s: %s", name, problem)
		}
		if strings.Contains(text(t, name), "__inputs") || strings.Contains(text(t, name), "${DS_") {
			t.Errorf("%s was exported for sharing: it asks for its data source by __inputs", name)
		}
	}
}

// problems says why Grafana would refuse a dashboard, or not show it as it is meant.
func problems(d modelDashboard) []string {
	var all []string
	wrong := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	wrong(d.ID != nil, "it has an id, which only a server gives")
	wrong(!regexp.MustCompile(`^bridgewatch-[a-z-]{1,28}$`).MatchString(d.UID), "its uid is %q", d.UID) // 40 at most
	wrong(d.Title == "" || d.Description == "", "it has no title or no description")
	wrong(d.SchemaVersion != 39, "its schema version is %d", d.SchemaVersion)
	wrong(d.Time == nil || d.Time.From == "" || d.Time.To == "", "it has no range of time")
	wrong(d.Timepicker == nil || d.GraphTooltip == nil || d.Editable == nil, "it lacks timepicker, graphTooltip or editable")
	wrong(!slices.Contains(d.Tags, "bridgewatch"), "it lacks the tag that the others link to")
	wrong(len(d.Links) != 1 || d.Links[0].Type != "dashboards" || !slices.Equal(d.Links[0].Tags, []string{"bridgewatch"}),
		"it does not link to the others")
	for _, a := range d.Annotations.List {
		wrong(a.BuiltIn == 0 && !chosenSource(a.Datasource), "annotation %q asks another data source than the one chosen", a.Name)
	}
	all = append(all, variableProblems(d)...)
	ids := map[int]string{}
	for i := range d.Panels {
		p := &d.Panels[i]
		other, taken := ids[p.ID]
		wrong(taken || p.ID <= 0, "panel %q has id %d, as has %q", p.Title, p.ID, other)
		ids[p.ID] = p.Title
		all = append(all, panelProblems(p)...)
	}
	return all
}

func chosenSource(s *modelSource) bool {
	return s != nil && *s == modelSource{"prometheus", "${datasource}"}
}

func variableProblems(d modelDashboard) []string {
	var all []string
	var names []string
	for _, v := range d.Templating.List {
		if slices.Contains(names, v.Name) {
			all = append(all, "two variables are called "+v.Name)
		}
		names = append(names, v.Name)
		switch v.Type {
		case "datasource":
			if v.Query != "prometheus" {
				all = append(all, "the data source is no Prometheus")
			}
		case "query":
			query, _ := v.Query.(map[string]any)
			if !chosenSource(v.Datasource) || v.Definition == "" || query["query"] != v.Definition || query["refId"] == "" || v.Refresh == 0 {
				all = append(all, fmt.Sprintf("variable %s asks nothing, or somebody else", v.Name))
			}
		case "custom":
			if text, _ := v.Query.(string); len(v.Options) != len(strings.Split(text, ",")) {
				all = append(all, fmt.Sprintf("variable %s has other options than its query", v.Name))
			}
		default:
			all = append(all, fmt.Sprintf("variable %s has type %q", v.Name, v.Type))
		}
		if v.Current == nil || v.Type != "datasource" && (v.AllValue == "" || !v.IncludeAll || !v.Multi || v.Label == "") {
			all = append(all, fmt.Sprintf("variable %s has no label, no default, or no choice of all", v.Name))
		}
	}
	if want := []string{"datasource", "instance", "stack", "service"}; len(names) < len(want) || !slices.Equal(names[:len(want)], want) {
		all = append(all, fmt.Sprintf("its variables are %v, want %v first", names, want))
	}
	text, _ := json.Marshal(d)
	for _, m := range variableUse.FindAllStringSubmatch(string(text), -1) {
		if name := m[1] + m[2]; !slices.Contains(names, name) && !strings.HasPrefix(name, "__") {
			all = append(all, "nothing defines the variable "+name)
		}
	}
	return all
}

var variableUse = regexp.MustCompile(`\$(?:(\w+)|\{(\w+)[^}]*\})`)

func panelProblems(p *modelPanel) []string {
	var all []string
	wrong := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf("panel %q: ", p.Title)+fmt.Sprintf(format, args...))
		}
	}
	wrong(p.GridPos == nil || p.GridPos.X == nil || p.GridPos.Y == nil || p.GridPos.W == nil || p.GridPos.H == nil, "it has no place")
	wrong(p.Title == "", "it has no title")
	if p.Type == "row" {
		wrong(p.Collapsed == nil || p.Panels == nil || len(p.Targets) > 0, "a row must say whether it is collapsed, and have its own panels alone")
		return all
	}
	kind, known := panelTypes()[p.Type]
	if !known {
		return append(all, fmt.Sprintf("panel %q has the unknown type %q", p.Title, p.Type))
	}
	wrong(!chosenSource(p.Datasource), "it asks another data source than the one chosen")
	if err := complete(p.Options, kind.options()); err != nil {
		wrong(true, "options: %v", err)
	}
	if p.FieldConfig == nil {
		return append(all, fmt.Sprintf("panel %q has no fieldConfig", p.Title))
	}
	if kind.custom != nil {
		if err := complete(p.FieldConfig.Defaults.Custom, kind.custom()); err != nil {
			wrong(true, "custom: %v", err)
		}
	}
	if steps := p.FieldConfig.Defaults.Thresholds; steps != nil {
		wrong(len(steps.Steps) == 0 || steps.Steps[0].Value != nil, "its thresholds do not begin with a base")
	}
	wrong(len(p.Targets) == 0, "it asks nothing")
	for i, target := range p.Targets {
		wrong(!chosenSource(target.Datasource), "query %s asks another data source than the one chosen", target.RefID)
		wrong(target.RefID != string(rune('A'+i)), "query %d is called %q", i, target.RefID)
		wrong(target.Range == nil || target.Instant == nil || *target.Range == *target.Instant, "query %s is neither of a range nor of an instant", target.RefID)
		wrong((p.Type == "table") != (target.Format == "table"), "query %s has format %q", target.RefID, target.Format)
		for _, label := range legendLabels(target.LegendFormat) {
			wrong(!hasLabel(target.Expr, label), "its legend names the label %s, which its query does not have: %s", label, target.Expr)
		}
	}
	if p.Type == "table" {
		all = append(all, tableProblems(p)...)
	}
	return all
}

// complete reads options strictly, and fails where one that is an object is missing.
func complete(text json.RawMessage, model any) error {
	if err := strictly(text, model); err != nil {
		return err
	}
	var has map[string]any
	if err := json.Unmarshal(text, &has); err != nil {
		return err
	}
	written, err := json.Marshal(model)
	if err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(written, &all); err != nil {
		return err
	}
	for name, value := range all {
		if value == nil {
			return fmt.Errorf("no %s", name)
		}
	}
	return nil
}

// tableProblems says which columns are named that the queries do not give, and which are given and not named.
func tableProblems(p *modelPanel) []string {
	var all []string
	given := []string{"Time"}
	for _, target := range p.Targets {
		if by := groupings(target.Expr); len(by) > 0 {
			given = append(given, by[0]...)
		}
		value := "Value"
		if len(p.Targets) > 1 {
			value += " #" + target.RefID
		}
		given = append(given, value)
	}
	var titles []string
	for _, transformation := range p.Transformations {
		o := transformation.Options
		if transformation.ID == "groupingToMatrix" {
			if want := []string{o.RowField, o.ColumnField, o.ValueField}; !slices.Equal(slices.Sorted(slices.Values(given)), slices.Sorted(slices.Values(append(want, "Time")))) {
				all = append(all, fmt.Sprintf("panel %q makes a matrix of %v, and its query gives %v", p.Title, want, given))
			}
		}
		if transformation.ID != "organize" {
			continue
		}
		for _, column := range given {
			if _, named := o.IndexByName[column]; !named && !o.ExcludeByName[column] {
				all = append(all, fmt.Sprintf("panel %q does not say where the column %s goes", p.Title, column))
			}
		}
		for column := range o.IndexByName {
			if !slices.Contains(given, column) {
				all = append(all, fmt.Sprintf("panel %q has a column %s that no query gives", p.Title, column))
			}
			title := o.RenameByName[column]
			if title == "" {
				title = column
			}
			titles = append(titles, title)
		}
	}
	for _, o := range p.FieldConfig.Overrides {
		if o.Matcher.ID != "byName" || !slices.Contains(titles, o.Matcher.Options) {
			all = append(all, fmt.Sprintf("panel %q describes a column %q that it does not have", p.Title, o.Matcher.Options))
		}
	}
	return all
}

var legendLabel = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

func legendLabels(legend string) []string {
	var all []string
	for _, m := range legendLabel.FindAllStringSubmatch(legend, -1) {
		all = append(all, m[1])
	}
	return all
}

// hasLabel tells whether the answer to a query has a label: one that it groups by, or that of a single target.
func hasLabel(expr, label string) bool {
	by := groupings(expr)
	return len(by) > 0 && slices.Contains(by[0], label) || !strings.Contains(expr, " by (") && label == "instance"
}

var cellLink = regexp.MustCompile(`"url":\s*"([^"]+)"`)

// Links lead to dashboards that are there, by variables that they have, and to runbooks.
func TestDashboardLinks(t *testing.T) {
	all := models(t)
	variables := map[string][]string{}
	for _, d := range all {
		for _, v := range d.Templating.List {
			variables[d.UID] = append(variables[d.UID], "var-"+v.Name)
		}
	}
	for name := range all {
		for _, m := range cellLink.FindAllStringSubmatch(text(t, name), -1) {
			link := strings.ReplaceAll(m[1], `\u0026`, "&")
			if strings.HasPrefix(link, runbookBase) || strings.HasPrefix(link, natPage) {
				continue
			}
			path, query, _ := strings.Cut(strings.TrimPrefix(link, "/d/"), "?")
			known, ok := variables[path]
			if !ok {
				t.Errorf("%s links to a dashboard that is not ours: %s", name, link)
			}
			for part := range strings.SplitSeq(query, "&") {
				key, _, _ := strings.Cut(part, "=")
				if !slices.Contains(known, key) && !strings.HasPrefix(key, "${") {
					t.Errorf("%s links to %s by %s, which it does not have", name, path, key)
				}
			}
			if _, err := url.Parse(link); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

const natPage = repository + "docs/signals/nat.md#"

// A mechanism in a table leads to the section that explains it.
func TestMechanismsAreExplained(t *testing.T) {
	page, err := os.ReadFile("../docs/signals/nat.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range enrich.Mechanisms() {
		if !slices.Contains(anchors(string(page)), string(m)) {
			t.Errorf("docs/signals/nat.md has no section %s", m)
		}
	}
	if want := natPage + "${__value.raw}"; !strings.Contains(text(t, NAT), want) {
		t.Errorf("nothing in %s leads to %s", NAT, want)
	}
}

// The check itself finds what it is there to find: each line breaks the overview in one way.
func TestBrokenDashboards(t *testing.T) {
	good, err := fs.ReadFile(Files(), Overview)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, old, new string }{
		{"unknown key", `"graphTooltip":`, `"graphToolTipp": 1, "graphTooltip":`},
		{"no uid", `"uid": "bridgewatch-overview"`, `"uid": ""`},
		{"id of a server", `"id": null,`, `"id": 12,`},
		{"duplicate panel id", `"id": 30,`, `"id": 4,`},
		{"fixed data source", `"uid": "${datasource}"`, `"uid": "P1809F7CD0C75ACF3"`},
		{"undefined variable", `$kind`, `$kinds`},
		{"unknown panel type", `"type": "stat"`, `"type": "singlestat"`},
		{"unknown option", `"textMode": "value"`, `"textmod": "value"`},
		{"missing option", `"reduceOptions":`, `"reducedOptions":`},
		{"no place", `"w": 24,`, ``},
		{"legend without its label", `"legendFormat": "{{cause}}"`, `"legendFormat": "{{reason}}"`},
		{"column that no query gives", `"device_kind": 10`, `"device": 10`},
		{"no variable for the data source", `"name": "datasource"`, `"name": "source"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			broken := bytes.Replace(good, []byte(tc.old), []byte(tc.new), 1)
			if bytes.Equal(broken, good) {
				t.Fatalf("nothing to break: no %s", tc.old)
			}
			var d modelDashboard
			if err := strictly(broken, &d); err == nil && len(problems(d)) == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}
