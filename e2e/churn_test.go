// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestChurn makes and removes 200 containers in about a minute. None is missed, and nothing of them stays.
func TestChurn(t *testing.T) {
	const containers, parallel, count = 200, 4, 50
	engine := lab.StartEngine(t)
	// Longer than the 15 s for which a new series shows its zero, so that each container's count can be seen.
	agent := lab.StartAgent(t, engine, "--metrics.retention=30s")
	network := engine.Network(t, "churn", "--subnet", "10.94.0.0/24")
	options := []string{"--network", network}
	receiver := engine.Serve(t, "receiver", options, "udp-listen", port)
	to := netip.AddrPortFrom(receiver.Addr(t, network, lab.IPv4), port)
	lab.Eventually(t, patience, "the uplink to be watched, too", func() bool {
		return agent.Scrape(t).Sum("bridgewatch_attached_devices", lab.Labels{"device_kind": "uplink"}) == 1
	})
	before, observedBefore := agent.Objects(t), observed(agent.Scrape(t))

	var running errgroup.Group
	running.SetLimit(parallel)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	var reports [containers]lab.Report
	go func() {
		defer cancel()
		for i := range containers {
			running.Go(func() (err error) {
				reports[i], err = engine.RunOnce("churn-"+strconv.Itoa(i), options, shortLife(to, count)...)
				return err
			})
		}
		failed <- running.Wait()
	}()
	last := lastValues(t, ctx, agent)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}

	var sent uint64
	var wrong []string
	for i, r := range reports {
		name, truth := "churn-"+strconv.Itoa(i), r.Transmitted.Packets
		sent += truth
		if truth < count || last[name] != truth {
			wrong = append(wrong, fmt.Sprintf("%s transmitted %d packets, %d datagrams in them, counted %d", name, truth, r.Sent, last[name]))
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%d of %d containers are wrong, such as\n%s", len(wrong), containers, strings.Join(wrong[:min(10, len(wrong))], "\n"))
	}
	requireRetired(t, agent)
	metrics := agent.Scrape(t)
	if counted := observed(metrics) - observedBefore; counted < sent {
		t.Errorf("the total of all packets grew by %d; the containers alone transmitted %d", counted, sent)
	}
	t.Logf("held before: %+v, and now: %+v", before, agent.Objects(t))
	lab.Eventually(t, patience, "the agent to let go of what the containers had", func() bool {
		now := agent.Objects(t)
		return len(now.Links) <= len(before.Links) && len(now.Maps) <= len(before.Maps) &&
			len(now.Programs) <= len(before.Programs) && now.Descriptors <= before.Descriptors+3 // web connections
	})
}

// observed is all that the flow signal has ever counted.
func observed(metrics lab.Metrics) uint64 {
	return metrics.Sum("bridgewatch_observed_packets_total", lab.Labels{"signal": "flow"})
}

// lastValues scrapes every second until ctx ends and the last series show their values, and returns the last count of
// what each container sent.
func lastValues(t *testing.T, ctx context.Context, agent *lab.Agent) map[string]uint64 {
	t.Helper()
	last := map[string]uint64{}
	scrape := func() {
		for _, s := range agent.Scrape(t).Select("bridgewatch_skbs_total", lab.Labels{"direction": "tx"}) {
			name := s.Labels["container"]
			if uint64(s.Value) < last[name] { // a counter never goes down
				t.Errorf("%s: the count went from %d down to %v", name, last[name], s.Value)
			}
			last[name] = uint64(s.Value)
		}
	}
	for ctx.Err() == nil {
		scrape()
		time.Sleep(time.Second)
	}
	for end := time.Now().Add(16 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		scrape()
	}
	scrape()
	return last
}

// requireRetired waits until no series names a container of the churn.
func requireRetired(t *testing.T, agent *lab.Agent) {
	t.Helper()
	lab.Eventually(t, 30*time.Second, "the series of the containers to be retired", func() bool {
		return !strings.Contains(agent.Text(t), `"churn-`)
	})
}
