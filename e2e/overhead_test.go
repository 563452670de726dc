// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// pairs is how often everything is measured with the agent and without it.
const pairs = 9

// load is traffic whose rate can be measured.
type load struct {
	name, unit string
	rate       func() float64
}

// BenchmarkOverhead measures what the agent costs the traffic of a host: the same again and again, with it and without it in
// turns, and the median of the ratios of neighbours. Connections are also put to the agent's account, in its own processor
// time.
func BenchmarkOverhead(b *testing.B) {
	engine := lab.StartEngine(b)
	loads := newLoads(b, engine)
	with, without := make([][]float64, len(loads)), make([][]float64, len(loads))
	var own []float64 // microseconds of the agent's for a connection
	for range b.N {
		for i := range pairs {
			// Who comes first changes, so that a machine that gets faster or slower does not favour either.
			for _, watched := range []bool{i%2 == 0, i%2 != 0} {
				if !watched {
					measure(loads, without)
					continue
				}
				agent := lab.StartAgent(b, engine)
				measure(loads, with)
				own = append(own, costOfConnections(b, agent, loads[len(loads)-1]))
				agent.Stop(b)
			}
		}
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "traffic\twithout\twith\tunit\tratio\tlowest\thighest")
	for i, l := range loads {
		ratios := make([]float64, len(with[i]))
		for j := range ratios {
			ratios[j] = with[i][j] / without[i][j]
		}
		fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%s\t%.3f\t%.3f\t%.3f\n", l.name, median(without[i]), median(with[i]), l.unit,
			median(ratios), slices.Min(ratios), slices.Max(ratios))
		b.ReportMetric(median(ratios), strings.ReplaceAll(l.name, " ", "-")+"-ratio")
	}
	w.Flush()
	b.Logf("%d pairs, %.1f µs of the agent for a connection\n%s", len(with[0]), median(own), text.String())
	b.ReportMetric(median(own), "agent-µs/connection")
	b.ReportMetric(0, "ns/op")
}

// measure adds the rate of each load to its others.
func measure(loads []load, rates [][]float64) {
	for i, l := range loads {
		rates[i] = append(rates[i], l.rate())
	}
}

// newLoads prepares traffic within a bridge, and from a bridge to the outside, by routing and masquerade.
func newLoads(b *testing.B, engine *lab.Engine) []load {
	network := newNetwork(b, engine, "overhead")
	client := engine.Run(b, "overhead-client", []string{"--network", network})
	peer := engine.Run(b, "overhead-server", []string{"--network", network})
	var loads []load
	for _, server := range []struct {
		way   string
		place lab.Place
		at    netip.Addr
	}{
		{"bridged", peer.Place, peer.Addr(b, network, lab.IPv4)},
		{"routed", lab.Outside(b), netip.MustParseAddr("192.0.2.1")}, // who answers from the address that was asked
	} {
		server.place.Serve(b, "tcp-listen", 7001)
		server.place.Serve(b, "udp-listen", 7002, "--answer")
		server.place.Serve(b, "mirror", 7003)
		to := func(port uint16) string { return netip.AddrPortFrom(server.at, port).String() }
		loads = append(loads,
			load{server.way + " TCP stream", "Gbit/s", func() float64 {
				r := client.Traffic(b, "tcp-send", "--to", to(7001), "--for", "1500ms")
				return float64(r.Bytes) * 8 / r.Seconds / 1e9
			}},
			load{server.way + " 64-byte UDP", "packets/s", func() float64 { return datagrams(b, client, to(7002), "--greet") }},
			load{server.way + " 64-byte UDP one way", "packets/s", func() float64 { return datagrams(b, client, to(7002)) }},
			load{server.way + " new TCP connections", "connections/s", func() float64 { return connect(b, client, to(7003)) }},
		)
	}
	return loads
}

// datagrams have 64 bytes with Ethernet's header. Those that nothing ever answers remain new to connection tracking.
func datagrams(b *testing.B, client *lab.Container, to string, flags ...string) float64 {
	r := client.Traffic(b, append([]string{"udp-send", "--to", to, "--size", "22", "--count", "500000"}, flags...)...)
	return float64(r.Sent) / r.Seconds
}

// connectionsAtOnce is how many connections are opened to measure their rate.
const connectionsAtOnce = 5000

func connect(b *testing.B, client *lab.Container, to string) float64 {
	r := client.Traffic(b, "exchange", "--to", to, "--count", strconv.Itoa(connectionsAtOnce), "--reset")
	if r.Sent != connectionsAtOnce {
		b.Fatalf("%d of %d connections: %v", r.Sent, connectionsAtOnce, r.Errors)
	}
	return float64(r.Sent) / r.Seconds
}

// costOfConnections is the agent's processor time for each of a load's connections, in microseconds, beyond what it uses for
// nothing.
func costOfConnections(b *testing.B, agent *lab.Agent, connections load) float64 {
	const span = 5 * time.Second // longer than from one reading to the next
	spent := func(load func() float64) time.Duration {
		before, end := processorTime(b, agent), time.Now().Add(span)
		load()
		time.Sleep(time.Until(end))
		return processorTime(b, agent) - before
	}
	idle := spent(func() float64 { return 0 })
	return (spent(connections.rate) - idle).Seconds() * 1e6 / connectionsAtOnce
}

// processorTime is what the agent has used of the processor.
func processorTime(b *testing.B, agent *lab.Agent) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", agent.PID()))
	if err != nil {
		b.Fatal(err)
	}
	// PID (NAME) STATE …: utime and stime are the 14th and the 15th, in hundredths of a second.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var sum time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
