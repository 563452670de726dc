// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// The host's life: so many services, for so long, one of which changes every now and then.
const (
	services = 20
	length   = 5 * time.Minute
	every    = 4 * time.Second
)

// TestHealthyHost lets services talk, look each other up, restart and be replaced. Nothing is wrong, so nothing may be found.
func TestHealthyHost(t *testing.T) {
	// Who asks for a service while that is restarted asks the world, where somebody has to say that there is no such name.
	lab.Outside(t).ServeDNS(t, []netip.Addr{lab.OutsideAddress}, "--always", "nx")
	engine := lab.StartEngine(t, "--dns", lab.OutsideAddress.String())
	agent := lab.StartAgent(t, engine)
	found := lab.WatchFindings(t, agent)
	networks := []string{
		engine.Network(t, "front", "--subnet", "10.71.0.0/24"),
		engine.Network(t, "back", "--subnet", "10.72.0.0/24"),
		engine.Network(t, "dual", "--subnet", "10.73.0.0/24"),
	}
	for i := range services {
		engine.Run(t, serviceName(i), serviceOptions(networks, i), serviceCommand(networks, i)...)
		if i%4 == 0 { // on a second network, too
			engine.Docker(t, "network", "connect", networks[(i+1)%len(networks)], serviceName(i))
		}
	}

	for i, end := 0, time.Now().Add(length); time.Now().Before(end); i++ {
		changeService(t, engine, networks, i)
		time.Sleep(every)
	}

	for f, span := range found.Seen() {
		t.Errorf("found on a healthy host, at %s: %+v", span.First.Format(time.TimeOnly), f)
	}
	metrics := agent.Scrape(t)
	if n := metrics.Sum("bridgewatch_findings_raised_total", nil); n != 0 {
		t.Errorf("%d findings were raised", n)
	}
	if n := metrics.Sum("bridgewatch_packets_total", nil); n < 100000 {
		t.Errorf("only %d packets: this host was not busy", n)
	}
	for _, s := range metrics.Select("bridgewatch_dropped_packets_total", lab.Labels{"kind": "fault"}) {
		if s.Value > 0 && s.Labels["scope"] != "unknown" { // unknown: the other labs'
			t.Logf("too few for a finding: %v %v", s.Labels, s.Value)
		}
	}
	code, stdout, stderr := lab.Command(t, engine, "doctor", "--api.socket="+agent.Socket)
	if code != 0 || strings.Count(strings.TrimSpace(stdout), "\n") != 0 || !strings.HasPrefix(stdout, "healthy") {
		t.Errorf("doctor ended with %d and said\n%s%s", code, stdout, stderr)
	}
}

func serviceName(i int) string { return "svc-" + strconv.Itoa(i) }

func serviceOptions(networks []string, i int) []string {
	own := []string{"--network", networks[i%len(networks)]}
	if i%5 == 0 {
		own = append(own, "--publish", fmt.Sprintf("0.0.0.0:%d:%d", 8100+i, port))
	}
	return own
}

// serviceCommand talks to the next services on the same network.
func serviceCommand(networks []string, i int) []string {
	var peers []string
	for step := 1; step < services && len(peers) < 3; step++ {
		if peer := (i + step) % services; peer%len(networks) == i%len(networks) {
			peers = append(peers, serviceName(peer))
		}
	}
	return []string{"talk", strconv.Itoa(port), "--to", strings.Join(peers, ",")}
}

// changeService restarts or replaces one service, or runs a job that lives for a moment.
func changeService(t *testing.T, engine *lab.Engine, networks []string, i int) {
	t.Helper()
	n := (i * 7) % services
	switch i % 3 {
	case 0:
		engine.Docker(t, "restart", "--time", "1", serviceName(n))
	case 1:
		engine.Docker(t, "rm", "--force", serviceName(n))
		engine.Start(t, serviceName(n), serviceOptions(networks, n), serviceCommand(networks, n)...)
	case 2:
		network := networks[n%len(networks)]
		to := netip.AddrPortFrom(engine.Inspect(t, serviceName(n)).Addr(t, network, lab.IPv4), port)
		job := lab.Datagrams{To: to, Count: 20}.Args()
		if _, err := engine.RunOnce("job-"+strconv.Itoa(i), []string{"--network", network}, job...); err != nil {
			t.Fatal(err)
		}
	}
}
