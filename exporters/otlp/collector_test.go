// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bridgewatch/bridgewatch/exporters"
)

// collector receives OTLP as the standard says, and keeps it.
type collector struct {
	address string

	mu       sync.Mutex
	mood     mood
	resource *resource.Resource
	metrics  map[string]*metrics.Metric // by name, the points of all requests together
	requests int                        // with metrics
	records  []*logs.LogRecord
	headers  map[string]string // the "token" of each signal
}

// mood is how a collector treats what it is sent.
type mood struct {
	refuse bool          // with an error that is no use to try again after
	reject int64         // so many items of each request are not taken
	hang   chan struct{} // no answer before this is closed, or the sender gives up
}

func (c *collector) set(m mood) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mood = m
}

// receive takes in a request, unless the mood is against it.
func (c *collector) receive(ctx context.Context, signal, token string, take func()) (rejected int64, err error) {
	c.mu.Lock()
	m := c.mood
	c.mu.Unlock()
	if m.hang != nil {
		select {
		case <-m.hang:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.refuse {
		return 0, status.Error(codes.InvalidArgument, "no")
	}
	c.headers[signal] = token
	take()
	return m.reject, nil
}

func (c *collector) takeMetrics(
	ctx context.Context, token string, r *colmetrics.ExportMetricsServiceRequest,
) (*colmetrics.ExportMetricsServiceResponse, error) {
	rejected, err := c.receive(ctx, "metrics", token, func() {
		c.requests++
		for _, rm := range r.ResourceMetrics {
			c.resource = rm.Resource
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					c.addMetric(m)
				}
			}
		}
	})
	answer := &colmetrics.ExportMetricsServiceResponse{}
	if rejected > 0 {
		answer.PartialSuccess = &colmetrics.ExportMetricsPartialSuccess{RejectedDataPoints: rejected, ErrorMessage: "too (many)"}
	}
	return answer, err
}

func (c *collector) addMetric(m *metrics.Metric) {
	known := c.metrics[m.Name]
	if known == nil {
		c.metrics[m.Name] = m
		return
	}
	if sum := known.GetSum(); sum != nil {
		sum.DataPoints = append(sum.DataPoints, m.GetSum().DataPoints...)
	}
	if gauge := known.GetGauge(); gauge != nil {
		gauge.DataPoints = append(gauge.DataPoints, m.GetGauge().DataPoints...)
	}
	if histogram := known.GetHistogram(); histogram != nil {
		histogram.DataPoints = append(histogram.DataPoints, m.GetHistogram().DataPoints...)
	}
}

func (c *collector) takeLogs(
	ctx context.Context, token string, r *collogs.ExportLogsServiceRequest,
) (*collogs.ExportLogsServiceResponse, error) {
	rejected, err := c.receive(ctx, "logs", token, func() {
		for _, rl := range r.ResourceLogs {
			c.resource = rl.Resource
			for _, sl := range rl.ScopeLogs {
				c.records = append(c.records, sl.LogRecords...)
			}
		}
	})
	answer := &collogs.ExportLogsServiceResponse{}
	if rejected > 0 {
		answer.PartialSuccess = &collogs.ExportLogsPartialSuccess{RejectedLogRecords: rejected}
	}
	return answer, err
}

// metricsService and logsService are the collector's two gRPC services.
type metricsService struct {
	colmetrics.UnimplementedMetricsServiceServer
	*collector
}

func (s metricsService) Export(
	ctx context.Context, r *colmetrics.ExportMetricsServiceRequest,
) (*colmetrics.ExportMetricsServiceResponse, error) {
	return s.takeMetrics(ctx, token(ctx), r)
}

type logsService struct {
	collogs.UnimplementedLogsServiceServer
	*collector
}

func (s logsService) Export(
	ctx context.Context, r *collogs.ExportLogsServiceRequest,
) (*collogs.ExportLogsServiceResponse, error) {
	return s.takeLogs(ctx, token(ctx), r)
}

func token(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("token"), " ")
}

// startCollector starts one that speaks the protocol, and tells the exporter of it by the standard variables. Metrics are
// exported when the exporter is closed, and not before.
func startCollector(t *testing.T, over protocol) *collector {
	t.Helper()
	c := &collector{metrics: make(map[string]*metrics.Metric), headers: make(map[string]string)}
	if over == overGRPC {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		colmetrics.RegisterMetricsServiceServer(server, metricsService{collector: c})
		collogs.RegisterLogsServiceServer(server, logsService{collector: c})
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(listener) }()
		t.Cleanup(func() {
			server.Stop()
			if err := <-ended; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		c.address = "http://" + listener.Addr().String()
	} else {
		server := httptest.NewServer(c.handler())
		t.Cleanup(server.Close)
		c.address = server.URL
	}
	cleanEnvironment(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.address)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", string(over))
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
	t.Setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
	return c
}

// cleanEnvironment hides the machine's own variables from a test.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
}

func (c *collector) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		var request colmetrics.ExportMetricsServiceRequest
		serveOTLP(w, r, &request, func() (proto.Message, error) { return c.takeMetrics(r.Context(), r.Header.Get("token"), &request) })
	})
	mux.HandleFunc("POST /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		var request collogs.ExportLogsServiceRequest
		serveOTLP(w, r, &request, func() (proto.Message, error) { return c.takeLogs(r.Context(), r.Header.Get("token"), &request) })
	})
	return mux
}

func serveOTLP(w http.ResponseWriter, r *http.Request, request proto.Message, take func() (proto.Message, error)) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	var text []byte
	if err == nil {
		var answer proto.Message
		if answer, err = take(); err == nil {
			text, err = proto.Marshal(answer)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(text)
}

// received returns what has come in so far.
func (c *collector) received() (map[string]*metrics.Metric, []*logs.LogRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics, c.records
}

// texts makes plain values of attributes.
func texts(attributes []*common.KeyValue) map[string]any {
	all := make(map[string]any, len(attributes))
	for _, a := range attributes {
		all[a.Key] = plain(a.Value)
	}
	return all
}

func plain(v *common.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_DoubleValue:
		return v.DoubleValue
	case *common.AnyValue_KvlistValue:
		return texts(v.KvlistValue.Values)
	}
	return v
}

// notes collects what an exporter logs.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// open opens an exporter of a store, and closes it with the test if the test has not.
func open(t *testing.T, store *exporters.Store) (e *Exporter, said *notes) {
	t.Helper()
	said = &notes{}
	e, err := Open(t.Context(), Config{
		Store: store, Collect: func() {}, Version: "1.2.3", Log: slog.New(slog.NewTextHandler(said, nil)),
	})
	if err != nil || e == nil {
		t.Fatalf("open: %v, %v", e, err)
	}
	t.Cleanup(func() {
		ended, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = e.Close(ended) // most tests have closed it already
	})
	return e, said
}

// finish closes an exporter, which sends all it has.
func finish(t *testing.T, e *Exporter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// losses are an exporter's, by place.
func losses(e *Exporter) map[string]uint64 {
	all := make(map[string]uint64)
	for _, l := range e.Losses() {
		all[l.Place] = l.Count
	}
	return all
}
