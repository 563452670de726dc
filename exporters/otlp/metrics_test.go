// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

var start = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// fixture is a store in which containers have sent, received and lost something.
func fixture(names ...string) *exporters.Store {
	now := start
	store := exporters.NewStore(exporters.StoreConfig{Limit: 100000, Retention: time.Hour, Now: func() time.Time { return now }})
	m := exporters.NewMetrics(store)
	var inventory enrich.Inventory
	for i, name := range names {
		inventory.Containers = append(inventory.Containers, enrich.LiveContainer{
			Container: enrich.Container{ID: fmt.Sprintf("%064x", i+1), Name: name, Image: "web:2", StartedAt: start},
			Identity:  enrich.Identity{Stack: "shop", Service: "web", Container: name}, Networks: []string{"front"},
		})
	}
	m.SetInventory(inventory)
	now = start.Add(10 * time.Second)
	for _, c := range inventory.Containers {
		identity := c.Identity
		identity.Network = "front"
		m.AddFlows([]enrich.Flow{{
			Flow: loader.Flow{EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_TCP, TX: loader.Counts{Skbs: 2, Packets: 7, Bytes: 9000}},
			Via:  enrich.ViaContainer, Identity: identity, Scope: enrich.ScopeContainer, Peer: enrich.Peer{Service: enrich.External},
		}})
		m.AddDrops([]enrich.Drop{{
			Drop: loader.Drop{
				Counts: loader.Counts{Skbs: 1, Packets: 44, Bytes: 64000}, Reason: "NETFILTER_DROP", Function: "nft_do_chain",
			},
			Identity: identity, Scope: enrich.ScopeHost, DeviceKind: "bridge", Direction: enrich.TX, Cause: "filtered", Kind: enrich.KindFault,
		}})
	}
	m.SetOwn(&exporters.Own{Version: "1.2.3", Revision: "0123", GoVersion: "go1.26", Docker: exporters.DockerState{Up: true}})
	now = start.Add(30 * time.Second)
	return store
}

// points returns a metric's data points, whatever its type.
func points(m *metrics.Metric) []*metrics.NumberDataPoint {
	if m.GetSum() != nil {
		return m.GetSum().DataPoints
	}
	return m.GetGauge().GetDataPoints()
}

func TestMetrics(t *testing.T) {
	for _, over := range []protocol{overGRPC, overHTTP} {
		t.Run(string(over), func(t *testing.T) {
			c := startCollector(t, over)
			store := fixture("web.1", "bad\xffname")
			e, said := open(t, store)
			before := time.Now()
			finish(t, e)
			got, _ := c.received()

			dropped := got["bridgewatch.dropped.packets"]
			if sum := dropped.GetSum(); dropped.GetUnit() != "{packet}" || !sum.GetIsMonotonic() ||
				sum.GetAggregationTemporality() != metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
				t.Errorf("dropped packets are %v, want a cumulative monotonic sum of packets", dropped)
			}
			want := map[string]any{
				"docker.stack.name": "shop", "docker.service.name": "web", "container.name": "web.1", "docker.network.name": "front",
				"bridgewatch.scope": "host", "bridgewatch.device_kind": "bridge", "network.io.direction": "transmit",
				"error.type": "NETFILTER_DROP", "bridgewatch.cause": "filtered", "bridgewatch.kind": "fault",
			}
			found := false
			for _, p := range points(dropped) {
				if !cmp.Equal(want, texts(p.Attributes)) {
					continue
				}
				found = true
				if created := start.Add(10 * time.Second); p.GetAsDouble() != 44 || p.StartTimeUnixNano != uint64(created.UnixNano()) {
					t.Errorf("the point is %v, want 44 since %v", p, created)
				}
				if at := time.Unix(0, int64(p.TimeUnixNano)); at.Before(before) || at.After(time.Now()) {
					t.Errorf("its time is %v, which is not that of the export", at)
				}
			}
			if !found {
				t.Errorf("no point with %v in %v", want, dropped)
			}
			if up := got["bridgewatch.docker.up"]; up.GetGauge() == nil || up.Unit != "{engine}" || points(up)[0].StartTimeUnixNano != 0 {
				t.Errorf("docker up is %v, want a gauge, which has no beginning", up)
			}
			if diff := cmp.Diff(map[string]uint64{"metrics_export": 0, "logs_export": 0, "logs_queue_full": 0}, losses(e)); diff != "" {
				t.Error(diff)
			}
			if text := said.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "otlp export is on") {
				t.Errorf("it logged %s", text)
			}
		})
	}
}

// What arrives is what every other exporter shows: the same series, with the same values.
func TestValues(t *testing.T) {
	c := startCollector(t, overGRPC)
	store := fixture("web.1", "web.2")
	e, _ := open(t, store)
	finish(t, e)
	received, _ := c.received()
	got, want := make(map[string]float64), make(map[string]float64)
	for name, m := range received {
		for _, p := range points(m) {
			got[name+fmt.Sprint(texts(p.Attributes))] = p.GetAsDouble()
		}
	}
	store.Each(func(f *exporters.Family, s *exporters.Series, value exporters.Value) {
		attributes := make(map[string]any)
		set := seriesAttributes(f, s.Values)
		for _, a := range set.ToSlice() {
			attributes[string(a.Key)] = a.Value.AsString()
		}
		want[metricName(f)+fmt.Sprint(attributes)] = value.Number
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The SDK has a limit of 2,000 attribute sets for a metric, which is not for ours. What is too much for one request goes
// into several.
func TestManySeries(t *testing.T) {
	const many = 5000
	store := fixture()
	m := exporters.NewMetrics(store)
	for i := range many {
		m.AddDrops([]enrich.Drop{{Drop: loader.Drop{Reason: "X", Function: fmt.Sprint("f", i), Counts: loader.Counts{Skbs: 1}}}})
	}
	c := startCollector(t, overGRPC)
	e, _ := open(t, store)
	finish(t, e)
	got, _ := c.received()
	functions := make(map[any]bool)
	for _, p := range points(got["bridgewatch.drop.locations"]) {
		attributes := texts(p.Attributes)
		if attributes["otel.metric.overflow"] != nil {
			t.Fatal("it has overflown")
		}
		functions[attributes["bridgewatch.function"]] = true
	}
	if len(functions) != many {
		t.Errorf("points of %d functions, want %d", len(functions), many)
	}
	if lost := losses(e)["metrics_export"]; lost != 0 || c.requests != 2 {
		t.Errorf("%d points lost in %d requests", lost, c.requests)
	}
}

// Each export reads the kernel first, and its values are those of that moment.
func TestCollect(t *testing.T) {
	c := startCollector(t, overHTTP)
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
	store := fixture("web.1")
	m := exporters.NewMetrics(store)
	collected := 0
	e, err := Open(t.Context(), Config{Store: store, Log: discard(), Collect: func() {
		collected++
		m.AddFlows([]enrich.Flow{{Flow: loader.Flow{RX: loader.Counts{Packets: 1}}, Via: enrich.ViaNobody}})
	}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "three exports", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.requests >= 3
	})
	finish(t, e)
	received, _ := c.received()
	var values []float64
	for _, p := range points(received["bridgewatch.observed.packets"]) {
		if texts(p.Attributes)["bridgewatch.signal"] == "flow" {
			values = append(values, p.GetAsDouble())
		}
	}
	const before = 7 // what the fixture's container has sent
	if last := values[len(values)-1]; last != float64(before+collected) {
		t.Errorf("the last export has %v, want %d after %d readings", last, before+collected, collected)
	}
	if !slices.IsSorted(values) || len(slices.Compact(values)) < 3 {
		t.Errorf("the exports have %v, want more each time", values)
	}
}

func TestResource(t *testing.T) {
	for _, tc := range []struct {
		name        string
		environment map[string]string
		want        map[string]any
	}{
		{"default", nil, map[string]any{"service.name": "bridgewatch", "service.version": "1.2.3"}},
		{"service name", map[string]string{"OTEL_SERVICE_NAME": "watcher"}, map[string]any{"service.name": "watcher"}},
		{
			"attributes",
			map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,service.instance.id=n1"},
			map[string]any{"service.name": "bridgewatch", "deployment.environment.name": "prod", "service.instance.id": "n1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startCollector(t, overHTTP)
			for name, value := range tc.environment {
				t.Setenv(name, value)
			}
			e, _ := open(t, fixture("web.1"))
			finish(t, e)
			got := texts(c.resource.GetAttributes())
			for name := range maps.Keys(got) {
				if _, wanted := tc.want[name]; !wanted {
					delete(got, name)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A collector that writes for Prometheus makes the names of /metrics again.
func TestNames(t *testing.T) {
	seen := make(map[string]string)
	for _, f := range exporters.Families() {
		name := metricName(f)
		if other, taken := seen[name]; taken {
			t.Errorf("%s and %s are both %s", f.Name, other, name)
		}
		seen[name] = f.Name
		back := strings.ReplaceAll(name, ".", "_")
		if f.Unit == "s" {
			back += "_seconds"
		}
		if f.Unit == "By" && !strings.HasSuffix(back, "_bytes") {
			back += "_bytes"
		}
		if f.Type == exporters.Counter {
			back += "_total"
		}
		if back != f.Name {
			t.Errorf("%s comes back as %s", f.Name, back)
		}
	}
	for prometheus, want := range map[string]string{
		"bridgewatch_dropped_packets_total":           "bridgewatch.dropped.packets",
		"bridgewatch_bytes_total":                     "bridgewatch.bytes",
		"bridgewatch_program_run_seconds_total":       "bridgewatch.program.run",
		"bridgewatch_finding":                         "bridgewatch.finding",
		"bridgewatch_finding_start_timestamp_seconds": "bridgewatch.finding.start.timestamp",
		"bridgewatch_container_start_time_seconds":    "bridgewatch.container.start.time",
		"bridgewatch_conversation_bytes_total":        "bridgewatch.conversation.bytes",
		"bridgewatch_signal_start_time_seconds":       "bridgewatch.signal.start.time",
		"bridgewatch_unattributed_packets_total":      "bridgewatch.unattributed.packets",
		"bridgewatch_tcp_listen_overflows_total":      "bridgewatch.tcp.listen.overflows",
		"bridgewatch_unnatted_egress_packets_total":   "bridgewatch.unnatted.egress.packets",
		"bridgewatch_published_connections_total":     "bridgewatch.published.connections",
		"bridgewatch_snat_ports_used":                 "bridgewatch.snat.ports.used",
		"bridgewatch_dns_lookup_duration_seconds":     "bridgewatch.dns.lookup.duration",
	} {
		if seen[want] != prometheus {
			t.Errorf("%s is not %s", prometheus, want)
		}
	}
}

// Every label is an attribute, and no two of a metric are the same one.
func TestAttributes(t *testing.T) {
	for _, f := range exporters.Families() {
		values := make([]string, len(f.Labels))
		for i := range values {
			values[i] = fmt.Sprint("value", i)
		}
		set := seriesAttributes(f, values)
		if set.Len() != len(f.Labels) {
			t.Errorf("%s has %d labels and %d attributes", f.Name, len(f.Labels), set.Len())
		}
		empty := seriesAttributes(f, make([]string, len(f.Labels)))
		if empty.Len() != 0 {
			t.Errorf("%s has attributes for empty labels", f.Name)
		}
	}
}

// The page says of each label what becomes of it, and names what is sent and lost.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/otlp.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| label | attribute |")
	table, _, _ = strings.Cut(table, "\n\n")
	got := make(map[string]attribute.Key)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| `([a-z._]+)`").FindAllStringSubmatch(table, -1) {
		got[row[1]] = attribute.Key(row[2])
	}
	if diff := cmp.Diff(attributeKeys, got); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{
		findingRaised, findingCleared, dropSampled, "metrics_export", "logs_export", "logs_queue_full",
		fmt.Sprint("| `OTEL_BLRP_MAX_QUEUE_SIZE` | ", defaultQueue, " |"),
	} {
		if !strings.Contains(string(text), name) {
			t.Errorf("docs/otlp.md does not name %s", name)
		}
	}
}
