// SPDX-License-Identifier: Apache-2.0

package main

import "encoding/json"

// object is a JSON object in Grafana's dashboard model. Its keys are written in alphabetical order.
type object map[string]any

// page is a dashboard.
type page struct {
	uid         string // stays when the title changes: links name it
	title       string
	description string
	variables   []object // after the data source
	marks       []object // of moments in its graphs, beside those that every page has
	rows        []row
}

// row is a heading with panels below it, from left to right and on to the next line. The first row of a page may go without
// a heading.
type row struct {
	id     int
	title  string
	panels []panel
}

// panel is one box of a page. Its id stays when it moves: links name it. Ids of rows are taken from the same numbers.
type panel struct {
	id          int
	title       string
	description string
	width       int // of 24
	height      int
	queries     []query
	view        view
}

// query is what a panel asks Prometheus.
type query struct {
	expr   string
	legend string // of a series, with {{label}}
	once   bool   // asks for the end of the range alone
}

// view is how a panel shows its answers.
type view interface {
	// grafana returns the panel's type, options and defaults of its fields, and what else the type has.
	grafana() (kind string, options, defaults, rest object)
}

const schemaVersion = 39 // Grafana 10.4; later ones migrate it

// grafana writes the page in Grafana's model.
func (p page) grafana() ([]byte, error) {
	text, err := json.MarshalIndent(object{
		"id": nil, "uid": p.uid, "title": p.title, "description": p.description,
		"tags": []string{tag, "docker", "network"}, "schemaVersion": schemaVersion, "version": 1,
		"editable": true, "graphTooltip": 1, "liveNow": false, "refresh": "30s",
		"time": object{"from": "now-1h", "to": "now"}, "timepicker": object{}, "timezone": "browser",
		"weekStart": "", "fiscalYearStartMonth": 0,
		"links":       []object{siblings()},
		"annotations": object{"list": append([]object{grafanasOwn(), agentStarts()}, p.marks...)},
		"templating":  object{"list": append([]object{source()}, p.variables...)},
		"panels":      p.layout(),
	}, "", "  ")
	return append(text, '\n'), err
}

// layout places the panels.
func (p page) layout() []object {
	var placed []object
	y := 0
	for _, r := range p.rows {
		if r.title != "" {
			placed = append(placed, object{
				"id": r.id, "type": "row", "title": r.title, "collapsed": false, "panels": []object{},
				"gridPos": object{"x": 0, "y": y, "w": columns, "h": 1},
			})
			y++
		}
		x, height := 0, 0
		for _, box := range r.panels {
			if x+box.width > columns {
				x, y, height = 0, y+height, 0
			}
			placed = append(placed, box.grafana(x, y))
			x, height = x+box.width, max(height, box.height)
		}
		y += height
	}
	return placed
}

const columns = 24

func (p panel) grafana(x, y int) object {
	kind, options, defaults, rest := p.view.grafana()
	overrides := rest["overrides"]
	if overrides == nil {
		overrides = []object{}
	}
	box := object{
		"id": p.id, "type": kind, "title": p.title, "description": p.description, "datasource": prometheus(),
		"gridPos":     object{"x": x, "y": y, "w": p.width, "h": p.height},
		"fieldConfig": object{"defaults": defaults, "overrides": overrides},
		"options":     options,
		"targets":     p.targets(kind),
	}
	if transformations := rest["transformations"]; transformations != nil {
		box["transformations"] = transformations
	}
	return box
}

func (p panel) targets(kind string) []object {
	var targets []object
	for i, q := range p.queries {
		target := object{
			"datasource": prometheus(), "editorMode": "code", "refId": string(rune('A' + i)), "expr": q.expr,
			"range": !q.once, "instant": q.once,
		}
		if kind == "table" {
			target["format"], target["range"], target["instant"] = "table", false, true
		} else {
			target["legendFormat"] = q.legend
		}
		targets = append(targets, target)
	}
	return targets
}

// prometheus is the data source that the operator has chosen.
func prometheus() object { return object{"type": "prometheus", "uid": "${datasource}"} }

// tag is what all of our pages have, and no other.
const tag = "bridgewatch"

// siblings leads to the other pages with the same choice and the same time.
func siblings() object {
	return object{
		"type": "dashboards", "tags": []string{tag}, "title": "Bridgewatch", "asDropdown": false, "icon": "external link",
		"includeVars": true, "keepTime": true, "targetBlank": false, "tooltip": "", "url": "",
	}
}

// grafanasOwn is what every page of Grafana has.
func grafanasOwn() object {
	return object{
		"name": "Annotations & Alerts", "type": "dashboard", "builtIn": 1, "enable": true, "hide": true,
		"iconColor": "rgba(0, 211, 255, 1)", "datasource": object{"type": "grafana", "uid": "-- Grafana --"},
	}
}

// agentStarts marks where counters begin anew.
func agentStarts() object {
	return mark("Agent starts", "blue", "Bridgewatch started on {{instance}}",
		`max by (instance) (changes(bridgewatch_signal_start_time_seconds{instance=~"$instance"}[2m])) > 0`)
}

// mark is a line in all graphs of a page, at each moment at which a query has an answer.
func mark(name, colour, title, expr string) object {
	return object{
		"name": name, "enable": true, "hide": false, "iconColor": colour, "datasource": prometheus(),
		"expr": expr, "titleFormat": title, "step": "60s", "useValueForTime": false,
	}
}

// source lets the operator choose among several Prometheus.
func source() object {
	return object{
		"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1, "regex": "",
		"hide": 0, "multi": false, "includeAll": false, "skipUrlSync": false, "options": []object{},
		"current": object{"text": "default", "value": "default"},
	}
}

// choice is a variable whose values are those of a label. All is chosen at first.
func choice(name, label, description, definition string) object {
	return object{
		"name": name, "label": label, "description": description, "type": "query", "datasource": prometheus(),
		"definition": definition, "query": object{"query": definition, "refId": name, "qryType": 1},
		"refresh": 2, "regex": "", "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "hide": 0, "skipUrlSync": false,
		"options": []object{}, "current": object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
	}
}
