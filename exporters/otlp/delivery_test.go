// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// raise sends n findings.
func raise(e *Exporter, n int) {
	for range n {
		e.AddFindings([]findings.Change{{Finding: exampleFinding()}})
	}
}

// What a collector refuses, all or a part of it, counts as lost, and exactly that.
func TestRefused(t *testing.T) {
	for _, over := range []protocol{overGRPC, overHTTP} {
		for _, tc := range []struct {
			name            string
			mood            mood
			metrics, events func(sent uint64) uint64
		}{
			{"all", mood{refuse: true}, func(n uint64) uint64 { return n }, func(n uint64) uint64 { return n }},
			{"some", mood{reject: 3}, func(uint64) uint64 { return 3 }, func(uint64) uint64 { return 3 }},
		} {
			t.Run(string(over)+"/"+tc.name, func(t *testing.T) {
				c := startCollector(t, over)
				t.Setenv("OTEL_BLRP_SCHEDULE_DELAY", "3600000") // one request
				c.set(tc.mood)
				store := fixture("web.1")
				e, said := open(t, store)
				raise(e, 10)
				finish(t, e)
				produced, err := newProducer(Config{Store: store, Collect: func() {}}, false).Produce(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				sent := countPoints(&metricdata.ResourceMetrics{ScopeMetrics: produced})
				want := map[string]uint64{"metrics_export": tc.metrics(uint64(sent)), "logs_export": tc.events(10), "logs_queue_full": 0}
				if diff := cmp.Diff(want, losses(e)); diff != "" {
					t.Error(diff)
				}
				wantOneFailureEach(t, said)
			})
		}
	}
}

// A queue that is full refuses what comes next, and says how much: what arrives in the end and what was lost are all there
// was. Drops stand back behind findings before that.
func TestQueueFull(t *testing.T) {
	for _, over := range []protocol{overGRPC, overHTTP} {
		t.Run(string(over), func(t *testing.T) {
			c := startCollector(t, over)
			t.Setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "100")
			t.Setenv("OTEL_LOGS_EXPORTER", "otlp")
			t.Setenv("OTEL_METRICS_EXPORTER", "none")
			hang := make(chan struct{})
			c.set(mood{hang: hang})
			e, _ := open(t, fixture())
			var drops []enrich.Drop
			for i := range 60 {
				d := exampleDrop()
				d.Cause = fmt.Sprint("cause-", i)
				drops = append(drops, d)
			}
			e.AddDrops(drops)
			raise(e, 200)
			if diff := cmp.Diff(map[string]uint64{"logs_export": 0, "logs_queue_full": 10 + 150}, losses(e)); diff != "" {
				t.Error(diff)
			}
			c.set(mood{})
			close(hang)
			eventually(t, "the queue to be empty", func() bool { return e.events.pending.Load() == 0 })
			raise(e, 1)
			finish(t, e)
			names := make(map[string]int)
			_, records := c.received()
			for _, r := range records {
				names[r.EventName]++
			}
			if diff := cmp.Diff(map[string]int{dropSampled: 50, findingRaised: 51}, names); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Nobody waits for a collector that is not there, or does not answer, and the end is bounded.
func TestUnreachable(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, over := range []protocol{overGRPC, overHTTP} {
		for _, tc := range []struct{ name, address string }{
			{"silent", "http://" + silent.Addr().String()},
			{"gone", "http://" + gone.Addr().String()},
			{"no such host", "http://collector.invalid:4317"},
		} {
			t.Run(string(over)+"/"+tc.name, func(t *testing.T) {
				cleanEnvironment(t)
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", tc.address)
				t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", string(over))
				for _, timeout := range []string{"OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_BLRP_EXPORT_TIMEOUT"} {
					t.Setenv(timeout, "100")
				}
				t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
				t.Setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
				e, said := open(t, fixture("web.1"))
				const sent = 3000
				raise(e, sent)
				eventually(t, "losses", func() bool {
					lost := losses(e)
					return lost["metrics_export"] > 0 && lost["logs_export"]+lost["logs_queue_full"] == sent
				})
				ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				defer cancel()
				ended := make(chan error, 1)
				go func() { ended <- e.Close(ctx) }()
				select {
				case <-ended:
				case <-time.After(time.Minute):
					t.Fatal("it does not end")
				}
				wantOneFailureEach(t, said)
			})
		}
	}
}

// wantOneFailureEach wants one line in the log that a signal's export fails.
func wantOneFailureEach(t *testing.T, said *notes) {
	t.Helper()
	for _, signal := range []string{"metrics", "logs"} {
		if n := strings.Count(said.String(), `msg="otlp export fails" otlp=`+signal); n != 1 {
			t.Errorf("it logged %d failures of %s, want 1:\n%s", n, signal, said)
		}
	}
}

// When a collector is back, that is said once, and the values are right again, since they are totals.
func TestRecovery(t *testing.T) {
	c := startCollector(t, overHTTP)
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
	t.Setenv("OTEL_LOGS_EXPORTER", "none")
	c.set(mood{refuse: true})
	e, said := open(t, fixture("web.1"))
	eventually(t, "a loss", func() bool { return losses(e)["metrics_export"] > 0 })
	c.set(mood{})
	delivered := func(n int) func() bool {
		return func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.requests >= n
		}
	}
	eventually(t, "an export", delivered(2))
	lost := losses(e)["metrics_export"]
	eventually(t, "more exports", delivered(5))
	if now := losses(e)["metrics_export"]; now != lost {
		t.Errorf("it lost %d more", now-lost)
	}
	finish(t, e)
	text := said.String()
	if strings.Count(text, "otlp export fails") != 1 || strings.Count(text, "otlp export works again") != 1 {
		t.Errorf("it logged\n%s", text)
	}
	received, _ := c.received()
	for _, p := range points(received["bridgewatch.skbs"]) {
		if texts(p.Attributes)["network.io.direction"] == "transmit" && p.GetAsDouble() != 2 {
			t.Errorf("the value is %v, want 2", p)
		}
	}
}

// Failures are logged once in a while, however often they are.
func TestSay(t *testing.T) {
	said := &notes{}
	d := newDelivery(slog.New(slog.NewTextHandler(said, nil)))
	now := start
	for range 600 { // ten minutes of one failure and one success a second
		d.done(1, errors.New("no"), now)
		d.done(1, nil, now)
		now = now.Add(time.Second)
	}
	if n := strings.Count(said.String(), "\n"); n != 20 {
		t.Errorf("it logged %d lines in 10 minutes, want 20", n)
	}
	if lost := d.lost.Load(); lost != 600 {
		t.Errorf("%d lost, want 600", lost)
	}
}

func TestUndelivered(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{io.EOF, 10},
		{errors.New("failed to upload metrics: OTLP partial success: too\nmany (9 rejected) (4 metric data points rejected)"), 4},
		{errors.New("OTLP partial success: x (4 logs rejected)"), 4},
		{errors.New("OTLP partial success: empty message (0 logs rejected)"), 0},
		{errors.New("OTLP partial success: x (400 logs rejected)"), 10},
		{errors.Join(errors.New("OTLP partial success: x (4 logs rejected)"), io.EOF), 10},
	} {
		if got := undelivered(10, tc.err); got != tc.want {
			t.Errorf("%v: %d of 10, want %d", tc.err, got, tc.want)
		}
	}
}
