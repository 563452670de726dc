// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters"
)

const (
	acceptProtobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	duration       = "bridgewatch_dns_lookup_duration_seconds"
)

// answered is a store with 1,000 lookups of a service that took from 1 ms to 1 s, half of them 20 ms.
func answered() *exporters.Store {
	now := start
	store := exporters.NewStore(exporters.StoreConfig{Limit: 1000, Retention: time.Hour, Now: func() time.Time { return now }})
	metrics := exporters.NewMetrics(store)
	web := enrich.Identity{Stack: "shop", Service: "web", Container: "web.1", Network: "front"}
	var dns enrich.DNS
	for i := range 1000 {
		took := 20 * time.Millisecond
		if i%2 == 0 {
			took = time.Duration(1+i) * time.Millisecond
		}
		dns.Lookups = append(dns.Lookups, lookup(web, enrich.ResolverEmbedded, "127.0.0.11:40000", took))
	}
	metrics.AddDNS(dns)
	now = start.Add(30 * time.Second)
	return store
}

// decode reads what Prometheus reads if it asks for native histograms.
func decode(t *testing.T, body string) map[string]*dto.MetricFamily {
	t.Helper()
	decoder := expfmt.NewDecoder(strings.NewReader(body), expfmt.NewFormat(expfmt.TypeProtoDelim))
	families := make(map[string]*dto.MetricFamily)
	for {
		family := &dto.MetricFamily{}
		err := decoder.Decode(family)
		if errors.Is(err, io.EOF) {
			return families
		}
		if err != nil {
			t.Fatalf("decode: %v", err)
		}
		families[family.GetName()] = family
	}
}

// A histogram has the buckets of its family, and native ones in the format that has a place for them.
func TestProtobuf(t *testing.T) {
	families := decode(t, scrape(t, New(answered(), none).Handler(), acceptProtobuf))
	family := families[duration]
	if family.GetType() != dto.MetricType_HISTOGRAM || len(family.Metric) != 1 {
		t.Fatalf("%s is %v", duration, family)
	}
	h := family.Metric[0].Histogram
	if h.GetSampleCount() != 1000 || math.Abs(h.GetSampleSum()-(500*0.02+250)) > 1e-6 {
		t.Errorf("%d observed, %g s in all", h.GetSampleCount(), h.GetSampleSum())
	}
	if !h.GetCreatedTimestamp().AsTime().Equal(start) {
		t.Errorf("it was created at %v, want %v", h.GetCreatedTimestamp().AsTime(), start)
	}
	classic := make(map[float64]uint64)
	for _, b := range h.Bucket {
		classic[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	if len(classic) != 14 || classic[0.01] != 5 || classic[0.025] != 513 || classic[1] != 1000 {
		t.Errorf("the classic buckets have %v", classic)
	}
	var native, count int64
	for _, delta := range h.PositiveDelta {
		count += delta
		native += count
	}
	if h.GetSchema() != 3 || native+int64(h.GetZeroCount()) != 1000 || len(h.PositiveSpan) == 0 {
		t.Errorf("%d in native buckets of schema %d", native, h.GetSchema())
	}
	if counter := families["bridgewatch_series_overflow_total"]; counter.GetType() != dto.MetricType_COUNTER ||
		counter.Metric[0].Counter.CreatedTimestamp == nil {
		t.Errorf("counters are %v", counter)
	}
}

// Both formats of text have the classic buckets alone.
func TestHistogramText(t *testing.T) {
	for _, accept := range []string{acceptText, acceptOpenMetrics} {
		text := scrape(t, New(answered(), none).Handler(), accept)
		for _, line := range []string{
			duration + `_bucket{network="front",resolver="embedded",scope="container",service="web",stack="shop",le="0.025"} 513`,
			duration + `_bucket{network="front",resolver="embedded",scope="container",service="web",stack="shop",le="+Inf"} 1000`,
			duration + `_count{network="front",resolver="embedded",scope="container",service="web",stack="shop"} 1000`,
		} {
			if !strings.Contains(text, line+"\n") {
				t.Errorf("no line %s as %s", line, accept)
			}
		}
		created := fmt.Sprintf("%s_created{network=\"front\",resolver=\"embedded\",scope=\"container\",service=\"web\",stack=\"shop\"} %.9g",
			duration, float64(start.Unix()))
		if strings.Contains(text, created) != (accept == acceptOpenMetrics) {
			t.Errorf("as %s the line %s is there, or is not", accept, created)
		}
	}
}

// The real Prometheus takes classic histograms and native ones, and knows how long most lookups take from either.
func TestPrometheus(t *testing.T) {
	for _, tc := range []struct {
		name    string
		flags   []string
		queries map[string][2]float64 // what the result is between
	}{
		{"classic", nil, map[string][2]float64{
			duration + `_count`:                                  {1000, 1000},
			duration + `_bucket{le=~"0.025"}`:                    {513, 513},
			`histogram_quantile(0.5, ` + duration + `_bucket)`:   {0.01, 0.025},
			`count(` + duration + `_bucket)`:                     {15, 15},
			`bridgewatch_dns_queries_total{resolver="embedded"}`: {1000, 1000},
			`count({__name__=~"bridgewatch_.+"}) > bool 100`:     {1, 1},
		}},
		{"native", []string{"--enable-feature=native-histograms"}, map[string][2]float64{
			`histogram_count(` + duration + `)`:         {1000, 1000},
			`histogram_sum(` + duration + `)`:           {259.99, 260.01},
			`histogram_quantile(0.5, ` + duration + `)`: {0.018, 0.022},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // it waits 5 s before its first scrape
			server := httptest.NewServer(New(answered(), none).Handler())
			t.Cleanup(server.Close)
			p := startPrometheus(t, server.Listener.Addr().String(), tc.flags...)
			for query, want := range tc.queries {
				value := p.await(t, query)
				if value < want[0] || value > want[1] {
					t.Errorf("%s is %g, want %g to %g", query, value, want[0], want[1])
				}
			}
		})
	}
}

// prometheusAt is the address of a running Prometheus.
type prometheusAt string

// startPrometheus starts one, of Debian's package prometheus, that scrapes a target each second. It ends with the test.
func startPrometheus(t *testing.T, target string, flags ...string) prometheusAt {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("scrape_configs: [{job_name: a, scrape_interval: 1s, metrics_path: /, static_configs: [{targets: [%q]}]}]", target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("prometheus", append(flags, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0")...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start prometheus (Debian's prometheus): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("prometheus's log:\n%s", text)
		}
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if found := listening.FindSubmatch(text); found != nil {
			return prometheusAt(found[1])
		}
	}
	t.Fatal("prometheus does not listen")
	return ""
}

// listening finds the port that it has chosen: one that is chosen for it may be somebody else's by the time it is there.
var listening = regexp.MustCompile(`msg="Listening on".* address=(127\.0\.0\.1:[0-9]+)`)

// await waits until a query has a result, and returns its value.
func (p prometheusAt) await(t *testing.T, query string) float64 {
	t.Helper()
	var last error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		value, err := p.query(query)
		if err == nil {
			return value
		}
		last = err
	}
	t.Fatalf("%s has no result: %v", query, last)
	return 0
}

func (p prometheusAt) query(query string) (float64, error) {
	resp, err := http.Get("http://" + string(p) + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%s: %s", resp.Status, body)
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(value) {
		return 0, fmt.Errorf("the value is %q", text)
	}
	return value, nil
}
