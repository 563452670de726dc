// SPDX-License-Identifier: Apache-2.0

package main

// lines is a graph over time.
type lines struct {
	unit    string
	stacked bool    // as areas that add up
	whole   bool    // values are whole numbers
	max     float64 // of the axis; 0: what the values need
	alarm   float64 // value of a dashed line; 0: none
}

func (l lines) grafana() (kind string, options, defaults, rest object) {
	custom := object{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false,
		"stacking": object{"mode": "none", "group": "A"},
	}
	if l.stacked {
		custom["fillOpacity"], custom["stacking"] = 25, object{"mode": "normal", "group": "A"}
	}
	defaults = object{"unit": l.unit, "min": 0, "color": object{"mode": "palette-classic"}, "custom": custom}
	if l.whole {
		defaults["decimals"] = 0
	}
	if l.max > 0 {
		defaults["max"] = l.max
	}
	if l.alarm > 0 {
		custom["thresholdsStyle"] = object{"mode": "dashed"}
		defaults["thresholds"] = steps("green", step{l.alarm, "red"})
	}
	return "timeseries", object{
		"legend": object{
			"displayMode": "table", "placement": "bottom", "showLegend": true,
			"calcs": []string{"mean", "max"}, "sortBy": "Mean", "sortDesc": true,
		},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}, defaults, nil
}

// number is one large figure, or one for each query.
type number struct {
	unit   string
	colour string // below the first step
	steps  []step
	named  bool // with the names of the queries
	graph  bool // with a small graph behind it
	none   string
}

// step is where a colour begins.
type step struct {
	from   float64
	colour string
}

func (n number) grafana() (kind string, options, defaults, rest object) {
	defaults = object{
		"unit": n.unit, "color": object{"mode": "thresholds"}, "mappings": []object{}, "thresholds": steps(n.colour, n.steps...),
	}
	if n.none != "" {
		defaults["noValue"] = n.none
	}
	options = object{
		"colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "value",
		"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		"wideLayout":    true, "showPercentChange": false, "percentChangeColorMode": "standard",
	}
	if n.named {
		options["textMode"] = "value_and_name"
	}
	if n.graph {
		options["graphMode"] = "area"
	}
	return "stat", options, defaults, nil
}

func steps(base string, more ...step) object {
	all := []object{{"color": base, "value": nil}}
	for _, s := range more {
		all = append(all, object{"color": s.colour, "value": s.from})
	}
	return object{"mode": "absolute", "steps": all}
}

// states shows over time what is on and what is off.
type states struct {
	on, off state
}

type state struct{ text, colour string }

func (s states) grafana() (kind string, options, defaults, rest object) {
	values := object{
		"0": object{"text": s.off.text, "color": s.off.colour, "index": 0},
		"1": object{"text": s.on.text, "color": s.on.colour, "index": 1},
	}
	return "state-timeline", object{
			"mergeValues": true, "showValue": "never", "alignValue": "center", "rowHeight": 0.8,
			"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []string{}},
			"tooltip": object{"mode": "single", "sort": "none"},
		}, object{
			"unit": "none", "color": object{"mode": "thresholds"},
			"thresholds": steps(s.off.colour, step{1, s.on.colour}),
			"mappings":   []object{{"type": "value", "options": values}},
			"custom":     object{"fillOpacity": 70, "lineWidth": 0},
			"noValue":    "none",
		}, nil
}

// table has a line for each series, and a column for each label and each query.
type table struct {
	columns []column
	sort    string // title of the column to sort by, the largest first
	none    string // what to say instead of an empty table
}

// column is a column of a table.
type column struct {
	of     string // label, or "Value #A" for query A; "Value" if there is one query
	title  string // "" as the label
	unit   string
	gauge  bool // as a coloured bar
	values []value
	link   link
}

// value is how a value is written.
type value struct{ is, text, colour string }

// link leads from a cell to another page.
type link struct{ title, url string }

func (c column) heading() string {
	if c.title != "" {
		return c.title
	}
	return c.of
}

func (t table) grafana() (kind string, options, defaults, rest object) {
	order, titles := object{}, object{}
	overrides := []object{}
	for i, c := range t.columns {
		order[c.of] = i
		if c.title != "" {
			titles[c.of] = c.title
		}
		if properties := c.properties(); len(properties) > 0 {
			overrides = append(overrides, object{"matcher": object{"id": "byName", "options": c.heading()}, "properties": properties})
		}
	}
	defaults = object{
		"custom": object{"align": "auto", "filterable": true, "inspect": false}, "mappings": []object{}, "thresholds": steps("text"), "noValue": t.none,
	}
	return "table", object{
			"frameIndex": 0, "showHeader": true, "cellHeight": "sm", "footer": object{"show": false, "reducer": []string{}},
			"sortBy": []object{{"displayName": t.sort, "desc": true}},
		}, defaults, object{
			"overrides": overrides,
			"transformations": []object{
				{"id": "merge", "options": object{}},
				{"id": "organize", "options": object{
					"excludeByName": object{"Time": true}, "indexByName": order, "renameByName": titles,
				}},
			},
		}
}

func (c column) properties() []object {
	var all []object
	set := func(id string, value any) { all = append(all, object{"id": id, "value": value}) }
	if c.unit != "" {
		set("unit", c.unit)
	}
	if c.gauge {
		set("decimals", 0)
		set("custom.cellOptions", object{"type": "gauge", "mode": "basic"})
		set("color", object{"mode": "continuous-YlRd"})
	}
	if len(c.values) > 0 {
		values := object{}
		for i, v := range c.values {
			values[v.is] = object{"text": v.text, "color": v.colour, "index": i}
		}
		set("mappings", []object{{"type": "value", "options": values}})
		set("custom.cellOptions", object{"type": "color-text"})
	}
	if c.link.url != "" {
		set("links", []object{{"title": c.link.title, "url": c.link.url, "targetBlank": true}})
	}
	return all
}

// matrix is a table of pairs: a line for each value of one label, a column for each of another, and a coloured cell where the two
// meet. Its query must group by these two labels alone.
type matrix struct {
	lines, columns string // labels
	unit           string
	colour         string // below the first step
	steps          []step
	none           string // what to say instead of an empty table
}

func (m matrix) grafana() (kind string, options, defaults, rest object) {
	kind, options, defaults, _ = table{sort: m.lines + "\\" + m.columns, none: m.none}.grafana()
	defaults["unit"], defaults["color"], defaults["thresholds"] = m.unit, object{"mode": "thresholds"}, steps(m.colour, m.steps...)
	defaults["custom"].(object)["cellOptions"] = object{"type": "color-background", "mode": "basic"}
	return kind, options, defaults, object{
		"transformations": []object{{"id": "groupingToMatrix", "options": object{
			"rowField": m.lines, "columnField": m.columns, "valueField": "Value",
		}}},
	}
}
