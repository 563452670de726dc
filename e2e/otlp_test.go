// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestOTLP sends what the agent counts to the real OpenTelemetry Collector, over both protocols, and compares what arrives
// with /metrics.
func TestOTLP(t *testing.T) {
	engine := lab.StartEngine(t)
	newNetwork(t, engine, "sent")
	for _, tc := range []struct{ protocol, address string }{
		{"grpc", collectorGRPC},
		{"http/protobuf", collectorHTTP},
	} {
		t.Run(tc.protocol, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+tc.address)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", tc.protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
			t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
			playOTLP(t, engine, "sent-by-"+tc.protocol[:4])
		})
	}
}

func playOTLP(t *testing.T, engine *lab.Engine, name string) {
	s := stage{TB: t, engine: engine, host: lab.Host(t), outside: lab.Outside(t), network: "sent", family: lab.IPv4, name: name}
	c := startCollector(t)
	agent := lab.StartAgent(t, engine)
	victim := s.run("victim")
	rule := s.host.AddRule(s, s.family, "filter", s.userChain(), append(s.source(victim), "-j", "DROP")...)
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 100})
	victim.Traffic(s, "lookup", victim.Name)

	compareOTLP(t, agent, c, victim, rule)
	compareEvents(t, agent, c, victim, s.at(victim).Addr())

	c.stop(t)
	lost := lab.Labels{"signal": "otlp", "place": "metrics_export"}
	lab.Eventually(t, 30*time.Second, "a loss to be counted", func() bool {
		return agent.Scrape(t).Sum("bridgewatch_lost_records_total", lost) > 0
	})
	victim.Send(s, lab.Datagrams{To: s.beyond(), Count: 50})
	lab.Eventually(t, 30*time.Second, "an event to be lost", func() bool {
		return agent.Scrape(t).Sum("bridgewatch_lost_records_total", lab.Labels{"signal": "otlp", "place": "logs_export"}) > 0
	})
	resp, err := http.Get(agent.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("without a collector the agent is %s", resp.Status)
	}
	compareOTLP(t, agent, startCollector(t), victim, rule)
}

// compareOTLP waits for an export that shows the rule's count, and compares all of it with /metrics.
func compareOTLP(t *testing.T, agent *lab.Agent, c *collector, victim *lab.Container, rule lab.Rule) {
	t.Helper()
	truth := float64(rule.Packets(t))
	mapped := newMapping(t)
	var differences string
	var compared int
	defer func() {
		if t.Failed() {
			t.Logf("the last comparison:\n%s", differences)
		}
	}()
	lab.Eventually(t, 60*time.Second, "an export that is like /metrics", func() bool {
		before := mapped.series(agent.Scrape(t))
		since := time.Now()
		var export map[string]float64
		var dropped float64
		lab.Eventually(t, 30*time.Second, "an export", func() bool {
			export, dropped = c.export(t, since, victim)
			return export != nil
		})
		compared, differences = compareSeries(before, export, mapped.series(agent.Scrape(t)))
		if dropped != truth {
			differences += fmt.Sprintf("\nthe victim lost %v packets, the rule has %v", dropped, truth)
		}
		return differences == ""
	})
	if compared < 100 {
		t.Errorf("%d series were the same before and after the export: that proves little", compared)
	}
}

// export returns the first export after a moment as values by name and attributes, nil if there is none yet, and how many
// dropped packets of the victim are in it.
func (c *collector) export(t *testing.T, since time.Time, victim *lab.Container) (values map[string]float64, dropped float64) {
	t.Helper()
	for _, r := range c.received(t) {
		for _, rm := range r.ResourceMetrics {
			values, dropped = make(map[string]float64), 0
			fresh := false
			for _, m := range rm.ScopeMetrics[0].Metrics {
				for _, p := range checkMetric(t, m) {
					fresh = time.Time(p.TimeUnixNano).After(since)
					values[seriesName(m.Name, p.Attributes)] = p.AsDouble
					if m.Name == "bridgewatch.dropped.packets" && p.Attributes["container.name"] == victim.Name && isForwarded(p.Attributes) {
						dropped += p.AsDouble
					}
				}
			}
			if got := rm.Resource.Attributes; got["service.name"] != "bridgewatch" || got["deployment.environment.name"] != "lab" {
				t.Errorf("the resource is %v", got)
			}
			if fresh {
				return values, dropped
			}
		}
	}
	return nil, 0
}

// isForwarded tells the drops of what a container sends into the world from the noise of its devices.
func isForwarded(a attributes) bool {
	return a["bridgewatch.scope"] == "host" && a["network.io.direction"] == "transmit" && a["bridgewatch.kind"] != "benign"
}

// checkMetric checks what is not in the values, and returns those.
func checkMetric(t *testing.T, m otlpMetric) []otlpPoint {
	t.Helper()
	if !regexp.MustCompile(`^(By|s|\{[a-z]+\})$`).MatchString(m.Unit) {
		t.Errorf("%s has the unit %q", m.Name, m.Unit)
	}
	switch {
	case m.Gauge != nil:
		return m.Gauge.DataPoints
	case m.Histogram != nil:
		return checkHistogram(t, m)
	}
	if !m.Sum.IsMonotonic || m.Sum.AggregationTemporality != 2 {
		t.Errorf("%s is no counter: %+v", m.Name, m.Sum)
	}
	for _, p := range m.Sum.DataPoints {
		checkStart(t, m.Name, p)
	}
	return m.Sum.DataPoints
}

// checkHistogram checks what is not in the values, and returns how many were observed: so many as are in the buckets.
func checkHistogram(t *testing.T, m otlpMetric) (counts []otlpPoint) {
	t.Helper()
	if m.Histogram.AggregationTemporality != 2 {
		t.Errorf("%s is not cumulative: %+v", m.Name, m.Histogram)
	}
	for _, d := range m.Histogram.DataPoints {
		checkStart(t, m.Name, d.otlpPoint)
		var inBuckets uint64
		for _, text := range d.BucketCounts {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Errorf("%s %v has a bucket with %q: %v", m.Name, d.Attributes, text, err)
			}
			inBuckets += n
		}
		if inBuckets != d.Count {
			t.Errorf("%s %v has %d in its buckets, of %d", m.Name, d.Attributes, inBuckets, d.Count)
		}
		d.AsDouble = float64(d.Count)
		counts = append(counts, d.otlpPoint)
	}
	return counts
}

func checkStart(t *testing.T, name string, p otlpPoint) {
	t.Helper()
	if start := time.Time(p.StartTimeUnixNano); start.After(time.Time(p.TimeUnixNano)) || time.Since(start) > time.Hour {
		t.Errorf("%s %v began at %v", name, p.Attributes, start)
	}
}

// compareSeries wants in an export what was in /metrics before and after it: a value that did not change in between exactly,
// another one within.
func compareSeries(before, export, after map[string]float64) (same int, differences string) {
	var lines []string
	for name, value := range export {
		low, was := before[name]
		high, is := after[name]
		switch {
		case !was && !is:
			lines = append(lines, name+" is not in /metrics")
		case was && is && low == high && value == low:
			same++
		case was && is && (value < min(low, high) || value > max(low, high)):
			lines = append(lines, fmt.Sprintf("%s is %v, in /metrics %v and then %v", name, value, low, high))
		}
	}
	for name := range before {
		_, is := after[name]
		if _, sent := export[name]; is && !sent {
			lines = append(lines, name+" was not exported")
		}
	}
	slices.Sort(lines)
	return same, strings.Join(lines, "\n")
}

// mapping are the names that the documentation promises for labels.
type mapping map[string]string

func newMapping(t *testing.T) mapping {
	t.Helper()
	text, err := os.ReadFile("../docs/otlp.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| label | attribute |")
	if !found {
		t.Fatal("no table of labels in docs/otlp.md")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	m := make(mapping)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| `([a-z._]+)`").FindAllStringSubmatch(table, -1) {
		m[row[1]] = row[2]
	}
	return m
}

// series gives our metrics the names that they must have in OpenTelemetry.
func (m mapping) series(metrics lab.Metrics) map[string]float64 {
	all := make(map[string]float64)
	for _, s := range metrics {
		if !strings.HasPrefix(s.Name, "bridgewatch_") {
			continue
		}
		name := strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(s.Name, "_total"), "_seconds"), "_", ".")
		all[seriesName(name, m.attributes(s.Labels))] = s.Value
	}
	return all
}

func (m mapping) attributes(labels lab.Labels) attributes {
	values := map[string]string{"direction/rx": "receive", "direction/tx": "transmit"}
	a := make(attributes)
	for label, value := range labels {
		if value == "" {
			continue
		}
		name, known := m[label]
		if !known {
			name = "bridgewatch." + label
		}
		if mapped, special := values[label+"/"+value]; special {
			value = mapped
		}
		a[name] = value
	}
	return a
}

func seriesName(metric string, a attributes) string {
	parts := []string{metric}
	for _, key := range slices.Sorted(maps.Keys(a)) {
		parts = append(parts, key+"="+a[key])
	}
	return strings.Join(parts, " ")
}

// compareEvents wants the events of the victim's drop and of what is found because of it, and that they say what is known
// otherwise.
func compareEvents(t *testing.T, agent *lab.Agent, c *collector, victim *lab.Container, address netip.Addr) {
	t.Helper()
	mapped := newMapping(t)
	var counted attributes
	for _, s := range agent.Scrape(t).Select("bridgewatch_dropped_packets_total", lab.Labels{"container": victim.Name}) {
		if a := mapped.attributes(s.Labels); isForwarded(a) {
			counted = a
		}
	}
	if counted == nil {
		t.Fatal("no drop of the victim is in /metrics")
	}
	want := maps.Clone(counted)
	maps.Copy(want, attributes{
		"container.id": victim.ID, "network.type": "ipv4", "network.transport": "udp",
		"network.local.address": address.String(),
		"network.peer.address":  lab.OutsideAddress.String(), "network.peer.port": fmt.Sprint(port),
	})
	compareEvent(t, c.event(t, "bridgewatch.drop", victim), want,
		"bridgewatch.function", "bridgewatch.packets", "bridgewatch.bytes", "network.local.port", "network.interface.name")
	compareEvent(t, c.event(t, "bridgewatch.finding.raised", victim), attributes{
		"container.id": victim.ID, "container.name": victim.Name, "docker.network.name": "sent",
		"bridgewatch.finding.id": counted["bridgewatch.cause"], "bridgewatch.finding.severity": "warning",
	}, "bridgewatch.finding.evidence", "bridgewatch.finding.remedy", "bridgewatch.finding.confirm", "bridgewatch.finding.runbook")
}

// event waits for one of a name about a container.
func (c *collector) event(t *testing.T, name string, about *lab.Container) (event otlpRecord) {
	t.Helper()
	lab.Eventually(t, 30*time.Second, "an event "+name, func() bool {
		for _, r := range c.events(t, name) {
			if r.Attributes["container.id"] == about.ID {
				event = r
				return true
			}
		}
		return false
	})
	return event
}

// compareEvent wants some attributes to have these values, and others to be there.
func compareEvent(t *testing.T, event otlpRecord, want attributes, there ...string) {
	t.Helper()
	got := maps.Clone(event.Attributes)
	maps.DeleteFunc(got, func(key, _ string) bool {
		_, wanted := want[key]
		return !wanted
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs: %s", event.EventName, diff)
	}
	for _, key := range there {
		if event.Attributes[key] == "" {
			t.Errorf("%s has no %s: %v", event.EventName, key, event.Attributes)
		}
	}
}
