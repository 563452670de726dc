// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/exporters"
)

// families returns the agent's metrics with their labels, those of its process that come with them, and what our rules record.
// A histogram is what Prometheus makes of it everywhere: series with classic buckets.
func families(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{"process_cpu_seconds_total": nil, "process_resident_memory_bytes": nil}
	for _, f := range exporters.Families() {
		if f.Type != exporters.Histogram {
			all[f.Name] = f.Labels
			continue
		}
		all[f.Name+"_count"], all[f.Name+"_sum"] = f.Labels, f.Labels
		all[f.Name+"_bucket"] = append(slices.Clone(f.Labels), "le")
	}
	for _, m := range record.FindAllStringSubmatch(text(t, Rules), -1) {
		labels := slices.Concat(groupings(m[2])...)
		for _, name := range word.FindAllString(m[2], -1) {
			if strings.Contains(name, ":") { // recorded before this one
				labels = append(labels, all[name]...)
			}
		}
		all[m[1]] = labels
	}
	return all
}

var record = regexp.MustCompile(`(?m)^ +- record: (\S+)\n +expr: >-\n((?: {10,}.*\n)+)`)

// Prometheus's own labels, and those that it renames ours to.
var targetLabels = []string{"cluster", "instance", "job", "exported_service", "exported_container"}

// What may stand in a query beside metrics and labels. An unknown word is a misspelt metric.
var words = strings.Fields(`by on or and unless ignoring group_left sum min max count group topk rate increase changes
	absent label_replace avg_over_time last_over_time max_over_time min_over_time resets vector up m h s ms bool bottomk clamp_min offset time
	histogram_quantile`)

var (
	quoted   = regexp.MustCompile(`"[^"]*"`)
	word     = regexp.MustCompile(`[a-zA-Z_~][a-zA-Z0-9_:]*`)
	selector = regexp.MustCompile(`([\w:]+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`(\w+)\s*[=!]`)
	grouping = regexp.MustCompile(`\b(?:by|on|group_left) \(([^)]*)\)`)
	duration = regexp.MustCompile(`\[[^\]]*\]`)
	replaced = regexp.MustCompile(`"(\w+)",\s*"[^"]*",\s*"\w*",\s*"`) // what label_replace writes to
)

// groupings returns the labels of each by and on clause of a PromQL expression.
func groupings(expr string) [][]string {
	var all [][]string
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		all = append(all, word.FindAllString(m[1], -1))
	}
	return all
}

// unknownNames says which names of a PromQL expression are neither metrics, nor their labels, nor labels that it makes.
func unknownNames(metrics map[string][]string, expr string) []string {
	allowed := slices.Clone(targetLabels)
	for _, m := range replaced.FindAllStringSubmatch(expr, -1) {
		allowed = append(allowed, m[1])
	}
	made := len(allowed)
	expr = duration.ReplaceAllString(quoted.ReplaceAllString(expr, `""`), "")
	var problems []string
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		known := slices.Concat(targetLabels, metrics[m[1]])
		for _, label := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(known, label[1]) {
				problems = append(problems, fmt.Sprintf("%s has no label %s", m[1], label[1]))
			}
		}
	}
	bare := grouping.ReplaceAllString(selector.ReplaceAllString(expr, "$1"), "")
	for _, name := range word.FindAllString(bare, -1) {
		labels, known := metrics[name]
		allowed = append(allowed, labels...)
		if !known && !slices.Contains(words, name) {
			problems = append(problems, "no metric "+name)
		}
	}
	for _, by := range groupings(expr) {
		for _, label := range by {
			if len(allowed) > made && !slices.Contains(allowed, label) {
				problems = append(problems, "no label "+label)
			}
		}
	}
	return problems
}

// The check itself finds what it is there to find.
func TestUnknownNames(t *testing.T) {
	metrics := families(t)
	for _, tc := range []struct {
		expr string
		want []string
	}{
		{`sum by (instance, id) (bridgewatch_finding{severity="critical", container!=""} == 1)`, nil},
		{`sum(rate(bridgewatch_packets[5m]))`, []string{"no metric bridgewatch_packets"}},
		{`bridgewatch_finding{cause="filtered"}`, []string{"bridgewatch_finding has no label cause"}},
		{`max by (instance, cause) (bridgewatch_finding{id="x"})`, []string{"no label cause"}},
		{`max_over_time(instance_stack_service:bridgewatch_packets:rate5m{service!=""}[7d]) > 0.5`, nil},
		{`instance_stack_service:bridgewatch_packets:rate5m{reason=""}`, []string{"instance_stack_service:bridgewatch_packets:rate5m has no label reason"}},
		{`instance_stack_service:bridgewatch_packets:rate7m`, []string{"no metric instance_stack_service:bridgewatch_packets:rate7m"}},
		{`histogram_quantile(0.9, sum by (resolver, le) (rate(bridgewatch_dns_lookup_duration_seconds_bucket[5m])))`, nil},
		{`sum by (le) (bridgewatch_dns_lookup_duration_seconds_count)`, []string{"no label le"}},
		{`rate(bridgewatch_dns_lookup_duration_seconds[5m])`, []string{"no metric bridgewatch_dns_lookup_duration_seconds"}},
		{`process_open_fds`, []string{"no metric process_open_fds"}},
		{`bridgewatch_docker_up and on (job, node) bridgewatch_build_info`, []string{"no label node"}},
		{`sum by (node) (label_replace(bridgewatch_docker_up, "node", "$1", "instance", "(.+)"))`, nil},
		{`sum by (peer) (label_replace(bridgewatch_signal_enabled, "node", "$1", "instance", "(.+)"))`, []string{"no label peer"}},
	} {
		if diff := cmp.Diff(tc.want, unknownNames(metrics, tc.expr)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.expr, diff)
		}
	}
}

var bucket = regexp.MustCompile(`(bridgewatch_\w+)_bucket\{[^}]*\ble=~?\\?"([^"\\]+)\\?"`)

// A bound of a bucket that a query asks for is one of the histogram's, written as every Prometheus may have it: 1 or 1.0.
func TestBucketsExist(t *testing.T) {
	bounds := map[string][]float64{}
	for _, f := range exporters.Families() {
		bounds[f.Name] = f.Bounds
	}
	asked := 0
	for _, file := range append(dashboardNames(t), Rules) {
		for _, m := range bucket.FindAllStringSubmatch(text(t, file), -1) {
			asked++
			plain, point, _ := strings.Cut(m[2], "|")
			bound, err := strconv.ParseFloat(plain, 64)
			if err != nil || !slices.Contains(bounds[m[1]], bound) {
				t.Errorf("%s asks for the bucket %s of %s, whose bounds are %v", file, plain, m[1], bounds[m[1]])
			}
			if bound == math.Trunc(bound) && point != plain+"[.]0" {
				t.Errorf("%s asks for the bucket %q of %s, which OpenMetrics writes as %s.0", file, m[2], m[1], plain)
			}
		}
	}
	if asked == 0 {
		t.Error("nothing asks for a bucket: this test looks at nothing")
	}
}
