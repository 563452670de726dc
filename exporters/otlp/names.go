// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters"
)

// attributeKeys says which attribute holds what a label holds: that of the semantic conventions where there is one with the
// same meaning. All others are in our own namespace, under the label's name.
var attributeKeys = map[string]attribute.Key{
	"container":    "container.name",
	"container_id": "container.id",
	"direction":    "network.io.direction",
	"local":        "network.local.address",
	"network":      "docker.network.name",
	"peer":         "network.peer.address",
	"protocol":     "network.transport",
	"reason":       "error.type",
	"server":       "server.address",
	"service":      "docker.service.name",
	"stack":        "docker.stack.name",

	"id":       "bridgewatch.finding.id",
	"severity": "bridgewatch.finding.severity",
}

func attributeKey(label string) attribute.Key {
	if key, known := attributeKeys[label]; known {
		return key
	}
	return attribute.Key("bridgewatch." + label)
}

// appendLabel adds what a label holds. An empty label says that it does not apply: there is no attribute then.
func appendLabel(list []attribute.KeyValue, label, value string) []attribute.KeyValue {
	if value == "" {
		return list
	}
	if label == "direction" {
		value = directionName(value)
	}
	return append(list, attributeKey(label).String(validText(value)))
}

func directionName(direction string) string {
	switch enrich.Direction(direction) {
	case enrich.RX:
		return "receive"
	case enrich.TX:
		return "transmit"
	}
	return direction
}

// validText replaces what is no UTF-8: protobuf refuses a whole message for it.
func validText(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// metricName is a family's name without the suffixes that Prometheus wants, and by which a collector that writes for
// Prometheus gives it back: bridgewatch_program_run_seconds_total is bridgewatch.program.run, a sum in seconds.
func metricName(f *exporters.Family) string {
	name := strings.TrimSuffix(f.Name, "_total")
	if f.Unit == "s" {
		name = strings.TrimSuffix(name, "_seconds")
	}
	return strings.ReplaceAll(name, "_", ".")
}

func seriesAttributes(f *exporters.Family, values []string) attribute.Set {
	list := make([]attribute.KeyValue, 0, len(values))
	for i, label := range f.Labels {
		list = appendLabel(list, label, values[i])
	}
	return attribute.NewSet(list...)
}
