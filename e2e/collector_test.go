// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// The collector's addresses, one for each protocol of OTLP. The lab host has them free.
const (
	collectorGRPC = "127.0.0.1:4317"
	collectorHTTP = "127.0.0.1:4318"
)

// collector is a running OpenTelemetry Collector, which writes what it receives to a file.
type collector struct {
	cmd  *exec.Cmd
	file string
	log  string
}

// startCollector starts one that nobody has told anything yet. It ends with the test at the latest.
func startCollector(t *testing.T) *collector {
	t.Helper()
	dir := t.TempDir()
	c := &collector{file: filepath.Join(dir, "received"), log: filepath.Join(dir, "log")}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: %q}}}}
exporters: {file: {path: %q, flush_interval: 100ms}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [otlp], exporters: [file]}
    logs: {receivers: [otlp], exporters: [file]}
`, collectorGRPC, collectorHTTP, c.file)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.cmd = exec.Command("../bin/tools/collector", "--config", config)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("start collector (make collector): %v", err)
	}
	t.Cleanup(func() {
		c.stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(c.log)
			t.Logf("the collector's log:\n%s", text)
		}
	})
	for _, address := range []string{collectorGRPC, collectorHTTP} {
		lab.Eventually(t, 30*time.Second, "the collector", func() bool {
			connection, err := net.Dial("tcp", address)
			if err == nil {
				connection.Close()
			}
			return err == nil
		})
	}
	return c
}

// stop ends it; the second time it does nothing.
func (c *collector) stop(t *testing.T) {
	t.Helper()
	if c.cmd.ProcessState != nil {
		return
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stop collector: %v", err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("stop collector: %v", err)
	}
}

// received is a request, in OTLP's JSON.
type received struct {
	ResourceMetrics []struct {
		Resource     struct{ Attributes attributes }
		ScopeMetrics []struct{ Metrics []otlpMetric }
	}
	ResourceLogs []struct {
		Resource  struct{ Attributes attributes }
		ScopeLogs []struct{ LogRecords []otlpRecord }
	}
}

type otlpMetric struct {
	Name  string
	Unit  string
	Gauge *struct{ DataPoints []otlpPoint }
	Sum   *struct {
		DataPoints             []otlpPoint
		AggregationTemporality int // 2: cumulative
		IsMonotonic            bool
	}
	Histogram *struct {
		DataPoints             []otlpDistribution
		AggregationTemporality int
	}
}

type otlpDistribution struct {
	otlpPoint
	Count        uint64 `json:",string"`
	BucketCounts []string
}

type otlpPoint struct {
	Attributes        attributes
	StartTimeUnixNano nanoseconds
	TimeUnixNano      nanoseconds
	AsDouble          float64
}

type otlpRecord struct {
	EventName      string
	SeverityNumber int
	Attributes     attributes
}

// attributes are read as text, whatever their type.
type attributes map[string]string

func (a *attributes) UnmarshalJSON(text []byte) error {
	var list []struct {
		Key   string
		Value map[string]json.RawMessage
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*a = make(attributes, len(list))
	for _, pair := range list {
		for _, value := range pair.Value { // one, under its type
			(*a)[pair.Key] = string(value)
			if plain, err := strconv.Unquote(string(value)); err == nil {
				(*a)[pair.Key] = plain
			}
		}
	}
	return nil
}

// nanoseconds since 1970, which JSON has as text.
type nanoseconds time.Time

func (n *nanoseconds) UnmarshalJSON(text []byte) error {
	plain, err := strconv.Unquote(string(text))
	if err != nil {
		return err
	}
	ns, err := strconv.ParseInt(plain, 10, 64)
	*n = nanoseconds(time.Unix(0, ns))
	return err
}

// received returns all requests so far.
func (c *collector) received(t *testing.T) []received {
	t.Helper()
	text, err := os.ReadFile(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the rest is still being written
	var all []received
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r received
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("read what the collector wrote: %v", err)
		}
		all = append(all, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// events returns all log records of a name.
func (c *collector) events(t *testing.T, name string) []otlpRecord {
	t.Helper()
	var records []otlpRecord
	for _, r := range c.received(t) {
		for _, rl := range r.ResourceLogs {
			for _, sl := range rl.ScopeLogs {
				for _, record := range sl.LogRecords {
					if record.EventName == name {
						records = append(records, record)
					}
				}
			}
		}
	}
	return records
}
