// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"encoding/pem"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

func TestReadEnvironment(t *testing.T) {
	const address = "http://collector:4318"
	for _, tc := range []struct {
		name string
		set  map[string]string
		want environment
	}{
		{"nothing", nil, environment{}},
		{"address", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": address}, environment{metrics: overHTTP, logs: overHTTP, queue: 2048}},
		{"address of metrics", map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": address}, environment{metrics: overHTTP, queue: 2048}},
		{"address of logs", map[string]string{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": address}, environment{logs: overHTTP, queue: 2048}},
		{"metrics", map[string]string{"OTEL_METRICS_EXPORTER": "otlp"}, environment{metrics: overHTTP, queue: 2048}},
		{"logs", map[string]string{"OTEL_LOGS_EXPORTER": "otlp"}, environment{logs: overHTTP, queue: 2048}},
		{
			"no logs", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_LOGS_EXPORTER": "none"},
			environment{metrics: overHTTP, queue: 2048},
		},
		{
			"gRPC for one",
			map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"},
			environment{metrics: overHTTP, logs: overGRPC, queue: 2048},
		},
		{
			"gRPC but for one",
			map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
				"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
			},
			environment{metrics: overHTTP, logs: overGRPC, queue: 2048},
		},
		{"disabled", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_SDK_DISABLED": "TRUE"}, environment{}},
		{
			"queue and delta",
			map[string]string{
				"OTEL_METRICS_EXPORTER": "otlp", "OTEL_BLRP_MAX_QUEUE_SIZE": "10",
				"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
			},
			environment{metrics: overHTTP, queue: 10, delta: true},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cleanEnvironment(t)
			for name, value := range tc.set {
				t.Setenv(name, value)
			}
			got, err := readEnvironment()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(environment{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Values that make no sense are told with the name of the variable, and nothing is started.
func TestWrongEnvironment(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ variable, value, said string }{
		{"OTEL_METRICS_EXPORTER", "prometheus", `"prometheus" is neither otlp nor none`},
		{"OTEL_LOGS_EXPORTER", "console", `"console" is neither otlp nor none`},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", `"http/json" is neither grpc nor http/protobuf`},
		{"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "udp", `"udp" is neither grpc nor http/protobuf`},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "no address"},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://a b", "no address"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s", `"10s" is no number above 0`},
		{"OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "0", `"0" is no number above 0`},
		{"OTEL_EXPORTER_OTLP_HEADERS", "secret", "no list"},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "zip", `"zip" is neither gzip nor none`},
		{"OTEL_EXPORTER_OTLP_INSECURE", "perhaps", `"perhaps" is neither true nor false`},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", "/none.pem", "no such file"},
		{"OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", empty, "no certificate"},
		{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/none.pem", "no such file"},
		{"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "native", `"native" is neither explicit_bucket_histogram nor base2`},
		{"OTEL_METRIC_EXPORT_INTERVAL", "1m", `"1m" is no number above 0`},
		{"OTEL_METRIC_EXPORT_TIMEOUT", "-1", `"-1" is no number above 0`},
		{"OTEL_BLRP_MAX_QUEUE_SIZE", "many", `"many" is no number above 0`},
		{"OTEL_RESOURCE_ATTRIBUTES", "nonsense", "missing value"},
	} {
		t.Run(tc.variable, func(t *testing.T) {
			cleanEnvironment(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
			t.Setenv(tc.variable, tc.value)
			e, err := Open(t.Context(), Config{Store: fixture(), Collect: func() {}, Log: discard()})
			if err == nil {
				t.Fatalf("it opened %v", e)
			}
			if e != nil || !strings.HasPrefix(err.Error(), "read "+tc.variable+": ") || !strings.Contains(err.Error(), tc.said) {
				t.Errorf("error is %q, want one about %s that says %q", err, tc.variable, tc.said)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error %q gives away a secret", err)
			}
		})
	}
}

// Who asks for nothing gets nothing, and may use it.
func TestNothing(t *testing.T) {
	cleanEnvironment(t)
	e, err := Open(t.Context(), Config{Store: fixture(), Collect: func() { t.Error("collected") }, Log: discard()})
	if e != nil || err != nil {
		t.Fatalf("opened %v, %v", e, err)
	}
	e.AddDrops([]enrich.Drop{exampleDrop()})
	e.AddFindings([]findings.Change{{Finding: exampleFinding()}})
	if losses := e.Losses(); losses != nil {
		t.Errorf("losses are %v", losses)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// One signal can be sent without the other.
func TestOneSignal(t *testing.T) {
	for _, tc := range []struct {
		off     string
		metrics bool
		places  map[string]uint64
	}{
		{"OTEL_METRICS_EXPORTER", false, map[string]uint64{"logs_export": 0, "logs_queue_full": 0}},
		{"OTEL_LOGS_EXPORTER", true, map[string]uint64{"metrics_export": 0}},
	} {
		t.Run(tc.off, func(t *testing.T) {
			c := startCollector(t, overHTTP)
			t.Setenv(tc.off, "none")
			e, _ := open(t, fixture("web.1"))
			e.AddDrops([]enrich.Drop{exampleDrop()})
			raise(e, 1)
			if diff := cmp.Diff(tc.places, losses(e)); diff != "" {
				t.Error(diff)
			}
			finish(t, e)
			got, records := c.received()
			if (len(got) > 0) != tc.metrics || (len(records) > 0) == tc.metrics {
				t.Errorf("%d metrics and %d records arrived", len(got), len(records))
			}
		})
	}
}

// Headers reach the collector, those of one signal before those of all.
// An exporter that cannot be made is said before anything collects: the caller holds what collecting would wait for.
func TestNothingCollectsBeforeAllIsOpen(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:4318")
	t.Setenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc")
	t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://[fe80::1%25eth0]:4317")
	config := Config{Collect: func() { t.Error("collected") }, Log: slog.New(slog.DiscardHandler)}
	if e, err := Open(t.Context(), config); err == nil {
		t.Errorf("opened %+v", e)
	}
}

func TestHeaders(t *testing.T) {
	for _, over := range []protocol{overGRPC, overHTTP} {
		t.Run(string(over), func(t *testing.T) {
			c := startCollector(t, over)
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "token=open%20sesame")
			t.Setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "token=of-logs")
			t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
			e, _ := open(t, fixture("web.1"))
			raise(e, 1)
			finish(t, e)
			if diff := cmp.Diff(map[string]string{"metrics": "open sesame", "logs": "of-logs"}, c.headers); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A collector is trusted by the certificate that the operator names, and by none else.
func TestTLS(t *testing.T) {
	c := &collector{metrics: make(map[string]*metrics.Metric), headers: make(map[string]string)}
	server := httptest.NewUnstartedServer(c.handler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{false, true} {
		cleanEnvironment(t)
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
		if trusted {
			t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority)
		}
		e, _ := open(t, fixture("web.1"))
		raise(e, 1)
		finish(t, e)
		got, records := c.received()
		if (len(got) > 0) != trusted || (len(records) > 0) != trusted {
			t.Errorf("trusted: %t; %d metrics and %d records arrived", trusted, len(got), len(records))
		}
	}
}
