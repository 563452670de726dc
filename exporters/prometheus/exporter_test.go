// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

var update = flag.Bool("update", false, "write the golden files")

// What a scraper says that it reads.
const (
	acceptText        = "text/plain;version=0.0.4"
	acceptOpenMetrics = "application/openmetrics-text;version=1.0.0"
)

var start = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// example is a store in which every family has a series.
func example() *exporters.Store {
	now := start
	store := exporters.NewStore(exporters.StoreConfig{Limit: 1000, Retention: time.Hour, Now: func() time.Time { return now }})
	metrics := exporters.NewMetrics(store)
	names, err := exporters.ParseDNSNames("top:10")
	if err != nil {
		panic(err)
	}
	metrics.SetDNSNames(names)
	web := enrich.Identity{Stack: "shop", Service: "web", Container: "web.1"}
	metrics.SetInventory(enrich.Inventory{
		Node: enrich.Node{Name: "n1", ID: "node1", SwarmID: "swarm1", Role: "manager", Address: "10.99.0.1"},
		Containers: []enrich.LiveContainer{{
			Container: enrich.Container{
				ID: strings.Repeat("ab", 32), Name: "shop_web.1.xyz", Image: "web:2", StartedAt: start,
				Labels:    map[string]string{"bridgewatch.source-address": "required"},
				Published: []enrich.PublishedPort{{Host: netip.MustParseAddrPort("0.0.0.0:8080"), Container: 80, Protocol: "tcp"}},
				Endpoints: []enrich.Endpoint{{NetworkID: "net1", Network: "shop_front"}},
			},
			Identity: web, Networks: []string{"shop_front"},
		}},
		Networks: []enrich.Network{{ID: "net1", Name: "shop_front", Driver: "bridge", Scope: "local", Bridge: "br-net1", MTU: "1450"}},
	})
	now = start.Add(10 * time.Second)
	web.Network = "shop_front"
	one := loader.Flow{
		EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_TCP, Remote: netip.MustParseAddr("198.51.100.1"),
		RX: loader.Counts{Skbs: 2, Packets: 20, Bytes: 30000}, TX: loader.Counts{Skbs: 3, Packets: 4, Bytes: 500},
	}
	metrics.AddFlows([]enrich.Flow{
		{Flow: one, Identity: web, Scope: enrich.ScopeContainer, Via: enrich.ViaContainer, Peer: enrich.Peer{Service: enrich.External}},
		{Flow: one, Identity: enrich.Identity{Network: "shop_front"}, Scope: enrich.ScopeHost, Via: enrich.ViaBridge},
		{Flow: one, Scope: enrich.ScopeUnknown, Via: enrich.ViaNobody},
	})
	metrics.AddDrops([]enrich.Drop{{
		Drop: loader.Drop{
			Counts: loader.Counts{Skbs: 1, Packets: 44, Bytes: 64000}, Reason: "NETFILTER_DROP", Function: "nft_do_chain",
		},
		Identity: web, Scope: enrich.ScopeHost, DeviceKind: "bridge", Direction: enrich.TX, Cause: "filtered", Kind: enrich.KindFault,
	}})
	metrics.AddEgress([]enrich.Egress{{Egress: loader.Egress{Counts: loader.Counts{Skbs: 1, Packets: 2, Bytes: 300}, Resets: 1}, Identity: web}})
	translated := loader.NATEvent{Tracked: loader.Tracked{Protocol: unix.IPPROTO_TCP}}
	visit := enrich.PublishedConnection{
		Identity: web, Scope: enrich.ScopeHost, Port: 8080, Protocol: "tcp", Client: enrich.ClientRemote, Mechanism: enrich.InboundMasquerade,
	}
	metrics.AddNAT(enrich.NAT{
		Translations: []enrich.Translation{{NATEvent: translated, Identity: web, Scope: enrich.ScopeHost, Kind: enrich.DNAT}},
		Attempts:     []enrich.PublishedConnection{visit, visit}, Connections: []enrich.PublishedConnection{visit},
	})
	metrics.AddDNS(exampleDNS(web))
	metrics.SetCluster(exampleCluster(web))
	metrics.AddOverlay(exampleOverlay())
	metrics.AddDrops([]enrich.Drop{{
		Drop:  loader.Drop{Counts: loader.Counts{Skbs: 1, Packets: 3, Bytes: 450}, Reason: "VXLAN_VNI_NOT_FOUND", Function: "vxlan_rcv"},
		Scope: enrich.ScopeHost, DeviceKind: "underlay", Direction: enrich.RX, Cause: "vni-unknown", Kind: enrich.KindFault,
		Tunnel: &enrich.Tunnel{VNI: 5000, Local: netip.MustParseAddr("10.99.0.1"), Peer: netip.MustParseAddr("10.99.0.2")},
	}})
	metrics.SetTracking(&enrich.Tracking{Pressure: []enrich.PortPressure{{Protocol: unix.IPPROTO_TCP, Used: 700, Limit: 28232}}})
	metrics.AddRulesetChanges([]loader.RulesetChange{{NetnsID: -1}})
	id := strings.Repeat("ab", 32)
	metrics.SetState(
		&loader.HostState{Conntrack: loader.Table{Entries: 12, Limit: 65536}, ConntrackStats: &loader.ConntrackStats{Entries: 12, Invalid: 9}},
		map[string]loader.NetnsState{id: {ListenOverflows: 3, Conntrack: loader.ConntrackStats{Entries: 2, InsertFailed: 1}}},
	)
	metrics.SetFindings([]findings.Finding{{
		ID: "filtered", Severity: findings.Warning, Since: now, Subject: findings.Subject{Identity: web, Scope: enrich.ScopeHost},
	}}, map[string]uint64{"filtered": 1})
	metrics.SetOwn(&exporters.Own{
		Version: "1.2.3", Revision: "0123456789ab", GoVersion: "go1.26",
		Signals: []exporters.Signal{
			{Name: "flow", Since: start}, {Name: "drop", Since: start}, {Name: "exec", Reason: "no \"BTF\"\nhere \\", Since: start},
		},
		Docker:   exporters.DockerState{Up: true},
		Devices:  map[string]int{"veth": 1},
		Losses:   []exporters.SignalLoss{{Signal: "flow", Place: "table_full", Count: 5}},
		Programs: []loader.ProgramCost{{Program: "flow_ingress", Runs: 1000, Time: 50 * time.Microsecond}},
		Maps:     []loader.MapUsage{{Map: "flows", Entries: 7, Capacity: 16384}},
	})
	now = start.Add(30 * time.Second)
	return store
}

// exampleCluster is a Swarm of two nodes, with a service whose second task has gone and is still served.
func exampleCluster(of enrich.Identity) *enrich.Cluster {
	self, other := netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("10.99.0.2")
	mac := [6]byte{2, 0x42, 10, 0, 1, 7}
	remote := enrich.ClusterEndpoint{Address: netip.MustParseAddr("10.0.1.7"), MAC: mac, Host: other}
	return &enrich.Cluster{
		Self:  self,
		Peers: []enrich.SwarmPeer{{Address: other, Control: other, Node: "n2", ID: "node2", State: "ready", Nets: []string{"shop_back"}}},
		Networks: []enrich.OverlayNetwork{{
			Network: enrich.Network{ID: "net2", Name: "shop_back"}, VNIs: []uint32{4097},
			Sandbox: &loader.SandboxState{
				FDB:        []loader.FDBEntry{{MAC: mac, Peer: other, Permanent: true}},
				Neighbours: []loader.Neighbour{{Address: remote.Address, MAC: mac, Confirmed: true}},
			},
			LoadBalancer: &loader.SandboxState{Sandbox: loader.Sandbox{Kind: loader.SandboxLoadBalancer}},
			Endpoints:    []enrich.ClusterEndpoint{remote}, Known: true,
			Use: []enrich.SubnetUse{{Subnet: netip.MustParsePrefix("10.0.1.0/24"), Used: 5, Available: 249}},
			VIPs: []enrich.VirtualAddress{{
				Identity: of, Address: netip.MustParseAddr("10.0.1.2"), Tasks: []enrich.ClusterEndpoint{remote}, Served: true,
				Backends: []loader.IPVSBackend{
					{Address: remote.Address, Weight: 1, Active: 4, Inactive: 2}, {Address: netip.MustParseAddr("10.0.1.8"), Weight: 1},
				},
				Dead: []netip.Addr{netip.MustParseAddr("10.0.1.8")},
			}},
		}},
	}
}

// exampleOverlay is traffic of that Swarm, and something that somebody missed.
func exampleOverlay() enrich.Overlay {
	row := enrich.OverlayTraffic{
		OverlayTraffic: loader.OverlayTraffic{
			Channel: loader.ChannelVXLAN, Local: netip.MustParseAddr("10.99.0.1"), Peer: netip.MustParseAddr("10.99.0.2"), VNI: 4097,
			Counts: loader.Counts{Skbs: 5, Packets: 50, Bytes: 70000}, Last: start.Add(9 * time.Second),
		},
		Network: "shop_back", NetworkID: "net2", Node: "n2", Known: true,
	}
	sent := row
	sent.Outgoing = true
	gossip := row
	gossip.Channel, gossip.VNI, gossip.Network = loader.ChannelGossipUDP, 0, ""
	return enrich.Overlay{
		Traffic: []enrich.OverlayTraffic{row, sent, gossip},
		Misses:  []enrich.OverlayMiss{{Miss: loader.Miss{MAC: [6]byte{2, 0x42, 10, 0, 1, 9}, Count: 2}, Network: "shop_back"}},
	}
}

// exampleDNS are lookups of a container's: one that Docker answers, and one that it asks others for, twice. And what came too late.
func exampleDNS(of enrich.Identity) enrich.DNS {
	inside := lookup(of, enrich.ResolverEmbedded, "127.0.0.11:40000", 400*time.Microsecond)
	outside := lookup(of, enrich.ResolverUpstream, "192.0.2.53:53", 30*time.Millisecond)
	outside.RCode, outside.Retries, outside.Answer.Truncated = "SERVFAIL", 1, true
	silent := lookup(of, enrich.ResolverEmbedded, "127.0.0.11:40000", 0)
	silent.Outcome, silent.RCode, silent.Answered = loader.DNSTimedOut, "", time.Time{}
	return enrich.DNS{
		Lookups: []enrich.Lookup{inside, outside, silent},
		Odd: []enrich.OddMessage{{
			DNSOdd: loader.DNSOdd{Oddity: loader.DNSLate, Count: 1}, Identity: of, Scope: enrich.ScopeContainer, Resolver: enrich.ResolverUpstream,
		}},
		Expansions: []enrich.Expansion{{Identity: of, Scope: enrich.ScopeContainer, Resolver: enrich.ResolverEmbedded}},
	}
}

// lookup is one that was answered after some time.
func lookup(of enrich.Identity, resolver enrich.Resolver, server string, took time.Duration) enrich.Lookup {
	at, answered := netip.MustParseAddrPort(server), start.Add(took)
	return enrich.Lookup{
		DNSLookup: loader.DNSLookup{
			Question: loader.DNSQuestion{Name: "db"}, RecursionDesired: true, Server: at, Outcome: loader.DNSAnswered, Answered: answered,
			Tries: []loader.DNSTry{{Server: at, Asked: start, Answer: answered}},
		},
		Identity: of, Scope: enrich.ScopeContainer, Resolver: resolver, QType: "A", RCode: "NOERROR",
	}
}

func none() {}

// scrape asks the handler as a scraper does.
func scrape(tb testing.TB, handler http.Handler, accept string) string {
	tb.Helper()
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if answer.Code != http.StatusOK {
		tb.Fatalf("scrape: %d %s", answer.Code, body)
	}
	return string(body)
}

// ours are the lines about our own metrics, not the process's.
func ours(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if strings.HasPrefix(name, "bridgewatch_") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func TestGolden(t *testing.T) {
	for _, tc := range []struct{ name, accept string }{
		{"metrics.txt", acceptText},
		{"metrics.openmetrics", acceptOpenMetrics},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := scrape(t, New(example(), none).Handler(), tc.accept)
			got := ours(text)
			path := filepath.Join("testdata", tc.name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with -update if this is meant: %s", diff)
			}
			if tc.accept == acceptOpenMetrics && !strings.HasSuffix(text, "# EOF\n") {
				t.Error("it has no end")
			}
			for _, process := range []string{"go_goroutines", "process_resident_memory_bytes"} {
				if !strings.Contains(text, "\n"+process+" ") {
					t.Errorf("%s is missing", process)
				}
			}
		})
	}
}

// Every family is there as soon as it has a series, and readers of the format agree.
func TestParse(t *testing.T) {
	families := parse(t, scrape(t, New(example(), none).Handler(), acceptText))
	for _, f := range exporters.Families() {
		found := families[f.Name]
		if found == nil {
			t.Errorf("%s is missing", f.Name)
			continue
		}
		want := map[exporters.Type]dto.MetricType{
			exporters.Counter: dto.MetricType_COUNTER, exporters.Gauge: dto.MetricType_GAUGE, exporters.Histogram: dto.MetricType_HISTOGRAM,
		}[f.Type]
		if found.GetType() != want || found.GetHelp() != f.Help {
			t.Errorf("%s is %v %q, want %v %q", f.Name, found.GetType(), found.GetHelp(), want, f.Help)
		}
		for _, m := range found.Metric {
			if len(m.Label) != len(f.Labels) {
				t.Errorf("%s has %d labels, want %d, always", f.Name, len(m.Label), len(f.Labels))
			}
		}
	}
}

func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return families
}

// The client library's own check, which a scrape does without, has nothing to say.
func TestConsistency(t *testing.T) {
	if _, err := (prometheus.Gatherers{New(example(), none)}).Gather(); err != nil {
		t.Error(err)
	}
}

func TestLint(t *testing.T) {
	families, err := New(example(), none).Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Names in label values are whatever a person put there.
func TestHostileLabelValues(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"quotes", `a"b"`, `a"b"`},
		{"newline", "a\nb\r", "a\nb\r"},
		{"backslash", `a\nb\`, `a\nb\`},
		{"braces", `{a="b"} 1 2`, `{a="b"} 1 2`},
		{"zero byte", "a\x00b", "a\x00b"},
		{"other scripts", "контейнер-容器", "контейнер-容器"},
		{"no UTF-8", "a\xff\xfeb", "a\ufffdb"},
		{"long", strings.Repeat("x", 100000), strings.Repeat("x", 100000)},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := exporters.NewStore(exporters.StoreConfig{Limit: 1000, Retention: time.Hour, Now: time.Now})
			metrics := exporters.NewMetrics(store)
			metrics.SetInventory(enrich.Inventory{Containers: []enrich.LiveContainer{{
				Container: enrich.Container{ID: "id", Name: tc.value, Image: tc.value},
				Identity:  enrich.Identity{Stack: tc.value, Service: tc.value, Container: tc.value},
				Networks:  []string{tc.value},
			}}})
			for _, accept := range []string{acceptText, acceptOpenMetrics} {
				text := scrape(t, New(store, none).Handler(), accept)
				if accept != acceptText {
					continue
				}
				labels := make(map[string]string)
				for _, l := range parse(t, text)["bridgewatch_packets_total"].Metric[0].Label {
					labels[l.GetName()] = l.GetValue()
				}
				want := map[string]string{
					"stack": tc.want, "service": tc.want, "container": tc.want, "network": tc.want,
					"scope": "container", "direction": "rx",
				}
				if diff := cmp.Diff(want, labels); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// A new counter's creation is told by the format that has a place for it, and its value is 0 at first.
func TestCreated(t *testing.T) {
	now := start
	store := exporters.NewStore(exporters.StoreConfig{Limit: 1000, Retention: time.Hour, Now: func() time.Time { return now }})
	metrics := exporters.NewMetrics(store)
	metrics.AddDrops([]enrich.Drop{{Drop: loader.Drop{Reason: "X", Function: "f", Counts: loader.Counts{Skbs: 3, Packets: 3}}}})
	handler := New(store, none).Handler()
	for _, value := range []string{"0.0", "3.0"} {
		text := scrape(t, handler, acceptOpenMetrics)
		for _, line := range []string{
			fmt.Sprintf("bridgewatch_drop_locations_total{function=\"f\",reason=\"X\"} %s\n", value),
			fmt.Sprintf("bridgewatch_drop_locations_created{function=\"f\",reason=\"X\"} %.9g", float64(start.Unix())),
		} {
			if !strings.Contains(text, line) {
				t.Errorf("no line %q after %v", line, now.Sub(start))
			}
		}
		now = now.Add(20 * time.Second)
	}
}

// Every scrape asks for fresh counts, several at once do not disturb each other, and what was retired is gone.
func TestScrapes(t *testing.T) {
	store := exporters.NewStore(exporters.StoreConfig{Limit: 1000, Retention: time.Nanosecond, Now: time.Now})
	metrics := exporters.NewMetrics(store)
	var mu sync.Mutex
	refreshed := 0
	handler := New(store, func() {
		mu.Lock()
		defer mu.Unlock()
		refreshed++
		name := fmt.Sprint("c", refreshed)
		metrics.SetInventory(enrich.Inventory{Containers: []enrich.LiveContainer{{
			Container: enrich.Container{ID: name, Name: name}, Identity: enrich.Identity{Container: name}, Networks: []string{"web"},
		}}})
	}).Handler()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				scrape(t, handler, acceptText)
			}
		})
	}
	group.Wait()
	if refreshed != 80 {
		t.Errorf("refreshed %d times in 80 scrapes", refreshed)
	}
	text := scrape(t, handler, acceptText)
	if strings.Contains(text, `"c80"`) || !strings.Contains(text, `"c81"`) {
		t.Error("the scrape shows who is gone, or not who is there")
	}
}

// BenchmarkScrape is the bar of 1,000 containers: with 20 series each, and the 30 that they have at most.
func BenchmarkScrape(b *testing.B) {
	for _, reasons := range []int{6, 11} {
		store := exporters.NewStore(exporters.StoreConfig{Limit: 100000, Retention: time.Hour, Now: time.Now})
		metrics := exporters.NewMetrics(store)
		fill(metrics, 1000, reasons)
		handler := New(store, none).Handler()
		series := strings.Count(ours(scrape(b, handler, acceptText)), "container=\"") / 1000
		for _, accept := range []string{acceptText, acceptOpenMetrics} {
			format, _, _ := strings.Cut(accept, ";")
			b.Run(fmt.Sprintf("%s/series=%d", strings.TrimPrefix(format, "application/"), series), func(b *testing.B) {
				size := 0
				for b.Loop() {
					size = len(scrape(b, handler, accept))
				}
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/scrape")
				b.ReportMetric(float64(size), "bytes/scrape")
			})
		}
	}
}

// fill gives each container traffic on one network, lookups, and drops for so many reasons.
func fill(metrics *exporters.Metrics, containers, reasons int) {
	var inventory enrich.Inventory
	var drops []enrich.Drop
	var dns enrich.DNS
	for i := range containers {
		identity := enrich.Identity{Stack: fmt.Sprint("stack", i/10), Service: "web", Container: fmt.Sprint("web.", i%10)}
		inventory.Containers = append(inventory.Containers, enrich.LiveContainer{
			Container: enrich.Container{
				ID: fmt.Sprintf("%064x", i), Name: fmt.Sprint("web.", i), Image: "web:1", StartedAt: start,
				Endpoints: []enrich.Endpoint{{NetworkID: "net1", Network: "front"}},
			},
			Identity: identity, Networks: []string{"front"},
		})
		on := identity
		on.Network = "front"
		for n := range 80 { // of all the durations for which there are native buckets
			took := time.Duration(math.Exp2(float64(n)/8) * float64(100*time.Microsecond))
			dns.Lookups = append(dns.Lookups,
				lookup(on, enrich.ResolverEmbedded, "127.0.0.11:40000", took), lookup(on, enrich.ResolverUpstream, "192.0.2.53:53", took))
		}
		kinds := []enrich.Kind{enrich.KindFault, enrich.KindApplication, enrich.KindPolicy, enrich.KindBenign}
		for r := range reasons {
			drops = append(drops, enrich.Drop{
				Drop:     loader.Drop{Reason: fmt.Sprint("REASON_", r), Counts: loader.Counts{Skbs: 1, Packets: 1}},
				Identity: identity, Scope: enrich.ScopeHost, DeviceKind: "bridge", Direction: enrich.RX, Cause: "filtered",
				Kind: kinds[r%len(kinds)],
			})
		}
	}
	metrics.SetInventory(inventory)
	metrics.AddDrops(drops)
	metrics.AddDNS(dns)
}
