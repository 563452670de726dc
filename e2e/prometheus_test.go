// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/dashboards"
	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// prometheus is the address of a running Prometheus.
type prometheus string

// startPrometheus starts a Prometheus that scrapes an agent as the shipped configuration does, but every two seconds,
// and evaluates the shipped rules. It ends with the test. Settings are more lines for the scrape job.
func startPrometheus(t *testing.T, agent string, settings ...string) prometheus {
	t.Helper()
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte(shipped(t, dashboards.Rules)), 0o600); err != nil {
		t.Fatal(err)
	}
	return startPrometheusWith(t, "global:\n  evaluation_interval: 2s\nrule_files: ["+rules+"]\n"+scrapeConfig(t, agent, settings))
}

// startPrometheusWith starts one with a configuration and more flags. It ends with the test.
func startPrometheusWith(t *testing.T, text string, flags ...string) prometheus {
	t.Helper()
	const address = "127.0.0.1:9090" // the lab host has it free
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("prometheus", append([]string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--web.listen-address=" + address}, flags...)...)
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
	lab.Eventually(t, 30*time.Second, "prometheus", func() bool {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return address
}

// scrapeConfig is the shipped configuration with the agent's address. A service discovery that sets labels of the same
// names as the agent's is played by labels of the target: the agent's must stay what they are.
func scrapeConfig(t *testing.T, agent string, settings []string) string {
	t.Helper()
	config := shipped(t, dashboards.ScrapeConfig)
	for from, to := range map[string]string{
		"scrape_interval: 15s":           strings.Join(append([]string{"scrape_interval: 2s"}, settings...), "\n    "),
		`- targets: ["127.0.0.1:10470"]`: `- targets: ["` + agent + `"]` + "\n        labels: {service: bystander, container: bystander}",
	} {
		if !strings.Contains(config, from) {
			t.Fatalf("no %q in the shipped configuration", from)
		}
		config = strings.Replace(config, from, to, 1)
	}
	return config
}

func shipped(t *testing.T, name string) string {
	t.Helper()
	text, err := fs.ReadFile(dashboards.Files(), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// query returns the answer to an instant query.
func (p prometheus) query(t *testing.T, expr string) lab.Metrics {
	t.Helper()
	var answer struct {
		Result []struct {
			Metric lab.Labels
			Value  [2]any // time, value as text
		}
	}
	p.get(t, "/api/v1/query?query="+url.QueryEscape(expr), &answer)
	var metrics lab.Metrics
	for _, r := range answer.Result {
		text, _ := r.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("query %s: %v", expr, err)
		}
		metrics = append(metrics, lab.Sample{Labels: r.Metric, Value: value})
	}
	return metrics
}

// await waits until a query has one result with the value.
func (p prometheus) await(t *testing.T, expr string, want float64) {
	t.Helper()
	p.awaitWithin(t, 30*time.Second, expr, want)
}

func (p prometheus) awaitWithin(t *testing.T, within time.Duration, expr string, want float64) {
	t.Helper()
	lab.Eventually(t, within, expr+" to be "+strconv.FormatFloat(want, 'f', -1, 64), func() bool {
		got := p.query(t, expr)
		return len(got) == 1 && got[0].Value == want
	})
}

// rule is one rule as Prometheus last evaluated it.
type rule struct {
	Name, Health, LastError string
	Alerts                  []struct {
		Labels lab.Labels
		State  string
	}
}

// rules returns all rules.
func (p prometheus) rules(t *testing.T) []rule {
	t.Helper()
	var answer struct{ Groups []struct{ Rules []rule } }
	p.get(t, "/api/v1/rules", &answer)
	var all []rule
	for _, group := range answer.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Error("prometheus has no rules")
	}
	return all
}

// get reads an answer of Prometheus's API.
func (p prometheus) get(t *testing.T, path string, data any) {
	t.Helper()
	resp, err := http.Get("http://" + string(p) + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		t.Fatalf("get %s: %s: %v: %s", path, resp.Status, err, answer.Error)
	}
}
