// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// updates is how many there are, of so many services in turn, and pace how long each has before the next.
const (
	updates  = 50
	updating = 5
	pace     = time.Second
)

// TestOverlayUpdates replaces the tasks of services again and again. Others talk to them meanwhile. Nothing is wrong, so nothing
// may be found, and nothing may be left.
func TestOverlayUpdates(t *testing.T) {
	s := newSwarmStage(t, "--metrics.retention=30s")
	s.tunnel("shop")
	var names []string
	for i := range updating {
		names = append(names, "web-"+strconv.Itoa(i))
	}
	talk := []string{"talk", strconv.Itoa(port), "--to", strings.Join(names, ",")}
	for i, name := range names {
		s.swarm.Service(t, name, []string{"--network", "shop", "--endpoint-mode", "dnsrr", s.sides()[i%2].On(),
			"--update-monitor", "100ms", "--update-failure-action", "continue", "--stop-grace-period", "1s"}, talk...)
	}
	for _, at := range s.sides() {
		at.Run(t, "client-"+at.Hostname, []string{"--network", "shop"}, talk...)
	}
	first := s.awaitTasks(names, nil)
	s.settle()
	before := s.kept()

	for i := range updates {
		s.manager.Docker(t, "service", "update", "--detach", "--quiet", "--no-resolve-image", "--env-add", "UPDATE="+strconv.Itoa(i), names[i%updating])
		time.Sleep(pace)
	}
	s.awaitTasks(names, first)
	s.settle()
	s.eventuallyWithin(time.Minute, "what is left", func() (wrong []string) {
		after := s.kept()
		for _, at := range s.sides() {
			for _, what := range slices.Sorted(maps.Keys(after[at])) {
				if before, now := before[at][what], after[at][what]; now > before {
					wrong = append(wrong, fmt.Sprintf("%s has %d %s, and had %d", at.Hostname, now, what, before))
				}
			}
		}
		return wrong
	})
	s.requireOnly()
}

// awaitTasks waits until each service has done its last update, and has a task that is none of the old ones.
func (s swarmStage) awaitTasks(services []string, old map[string]string) (ids map[string]string) {
	s.Helper()
	lab.Eventually(s, 2*time.Minute, "the services' tasks", func() bool {
		ids = map[string]string{}
		for i, name := range services {
			ids[name] = s.sides()[i%2].Docker(s, "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+name)
			if ids[name] == "" || strings.Contains(ids[name], "\n") || ids[name] == old[name] {
				return false
			}
		}
		return old == nil || !strings.Contains(s.manager.Docker(s, append([]string{"service", "inspect", "--format", "{{.UpdateStatus.State}}"}, services...)...), "updating")
	})
	return ids
}

// settle waits until each agent watches what there is.
func (s swarmStage) settle() {
	s.Helper()
	time.Sleep(shown)
}

// kept is what an agent keeps for containers: devices that it watches, BPF objects that it holds, and series.
func (s swarmStage) kept() map[*side]map[string]int {
	s.Helper()
	all := map[*side]map[string]int{}
	for _, at := range s.sides() {
		kept := map[string]int{}
		metrics := at.agent.Scrape(s)
		for _, sample := range metrics.Select("bridgewatch_attached_devices", nil) {
			kept["devices, "+sample.Labels["device_kind"]] = int(sample.Value)
		}
		for _, name := range []string{"bridgewatch_packets_total", "bridgewatch_overlay_packets_total", "bridgewatch_overlay_entries", "bridgewatch_container_info"} {
			kept["series of "+name] = len(metrics.Select(name, nil))
		}
		kept["BPF links"] = len(at.agent.Objects(s).Links)
		all[at] = kept
	}
	return all
}
