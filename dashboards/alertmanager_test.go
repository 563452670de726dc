// SPDX-License-Identifier: Apache-2.0

package dashboards

import (
	"bytes"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAlertmanagerRoutes asks Alertmanager's own tool where alerts go.
func TestAlertmanagerRoutes(t *testing.T) {
	amtool(t, "check-config", Alertmanager)
	for _, tc := range []struct {
		want   string
		labels []string
	}{
		{"pager", []string{"alertname=BridgewatchServiceLosesPackets", "severity=critical", "instance=a", "service=web"}},
		{"pager", []string{"alertname=BridgewatchSourceAddressLost", "severity=critical", "instance=a", "service=web", "published_port=80"}},
		{"tickets", []string{"alertname=BridgewatchPublishedPortBroken", "severity=warning", "instance=a", "service=web", "published_port=80"}},
		{"pager", []string{"alertname=BridgewatchDNSUpstreamSilent", "severity=critical", "instance=a"}},
		{"tickets", []string{"alertname=BridgewatchDNSUpstreamSilent", "severity=warning", "instance=a", "server=192.0.2.53"}},
		{"pager", []string{"alertname=BridgewatchOverlayLoss", "severity=critical", "instance=a", "source=192.0.2.1", "destination=192.0.2.2"}},
		{"pager", []string{"alertname=BridgewatchIpForwardOff", "severity=critical", "instance=a"}},
		{"tickets", []string{"alertname=BridgewatchFiltered", "severity=warning", "instance=a"}},
		{"tickets", []string{"alertname=BridgewatchDown", "severity=warning", "instance=a"}},
	} {
		got := amtool(t, append([]string{"config", "routes", "test", "--config.file=" + Alertmanager}, tc.labels...)...)
		if strings.TrimSpace(got) != tc.want {
			t.Errorf("%v goes to %s, want %s", tc.labels, got, tc.want)
		}
	}
}

// amtool runs Alertmanager's own checker, which Debian's package prometheus-alertmanager brings.
func amtool(t *testing.T, args ...string) string {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := exec.Command("amtool", args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("amtool %s: %v\n%s%s", strings.Join(args, " "), err, &out, &complaint)
	}
	return out.String()
}

type labels map[string]string

// with returns the labels and more.
func (l labels) with(more ...string) labels {
	all := maps.Clone(l)
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

func alert(name, severity string, more ...string) labels {
	return labels{"alertname": name, "severity": severity, "cluster": "c", "instance": "a"}.with(more...)
}

// TestInhibition gives alerts to a real Alertmanager with our configuration, and asks which of them it holds back.
func TestInhibition(t *testing.T) {
	manager := startAlertmanager(t)
	var (
		page       = alert("BridgewatchServiceLosesPackets", "critical", "stack", "shop", "service", "web")
		pageAlone  = alert("BridgewatchServiceLosesPackets", "critical", "container", "vote")
		noForward  = alert("BridgewatchIpForwardOff", "critical", "scope", "host")
		oneTicket  = alert("BridgewatchFiltered", "warning", "stack", "shop", "service", "web", "container", "web.1", "network", "front", "scope", "host")
		alone      = alert("BridgewatchFiltered", "warning", "container", "vote", "network", "front", "scope", "host")
		down       = alert("BridgewatchDown", "warning", "job", "bridgewatch")
		signalOff  = alert("BridgewatchSignalOff", "warning", "job", "bridgewatch", "signal", "flow")
		fullTable  = alert("BridgewatchConntrackFull", "warning", "scope", "host")
		fullOfOne  = alert("BridgewatchConntrackFull", "warning", "stack", "shop", "service", "web", "container", "web.1", "scope", "host")
		neighbours = alert("BridgewatchNeighOverflow", "warning", "scope", "host")
		dead       = alert("BridgewatchDeadEndpoint", "warning", "container", "vote", "network", "front", "scope", "container")
		icc        = alert("BridgewatchIccBypass", "warning", "network", "front", "scope", "host")
		tcpOpen    = alert("BridgewatchDaemonTcpOpen", "critical", "scope", "host")
		flush      = alert("BridgewatchFirewallFlush", "critical", "container", "vote", "scope", "host")
		addresses  = alert("BridgewatchSourceAddressLost", "critical", "because", "changed", "stack", "shop", "service", "web", "published_port", "80")
		broken     = alert("BridgewatchPublishedPortBroken", "warning", "container", "other", "published_port", "81")
		proxied    = alert("BridgewatchUserlandProxySrc", "warning", "stack", "shop", "service", "web", "container", "web.1", "scope", "host")
		failures   = alert("BridgewatchConntrackFailures", "warning", "container", "other", "scope", "container")
		nobody     = alert("BridgewatchDNSUpstreamSilent", "critical")
		oneServer  = alert("BridgewatchDNSUpstreamSilent", "warning", "server", "192.0.2.53")
		lookups    = alert("BridgewatchDNSFailureRatio", "critical", "stack", "shop", "service", "web", "resolver", "embedded")
		slow       = alert("BridgewatchDNSLatency", "warning", "stack", "shop", "service", "db", "network", "front", "resolver", "embedded")
		lookupsOne = alert("BridgewatchDNSFailureRatio", "critical", "container", "vote", "resolver", "embedded")
		slowAlone  = alert("BridgewatchDNSLatency", "warning", "network", "front", "resolver", "embedded")
		cutOff     = alert("BridgewatchResolverNatLost", "critical", "container", "vote", "scope", "container")
		blocked    = alert("BridgewatchUpstreamBlocked", "critical", "stack", "shop", "service", "web", "container", "web.1", "scope", "container")
		servfail   = alert("BridgewatchServfail", "warning", "container", "vote", "scope", "container")
		wrongName  = alert("BridgewatchNxdomainWrongName", "warning", "container", "vote", "scope", "container")
		loss       = alert("BridgewatchOverlayLoss", "critical", "network", "shop", "vni", "4097", "encapsulation", "vxlan",
			"source", "192.0.2.2", "destination", "192.0.2.1")
		oneWay  = loss.with("alertname", "BridgewatchOverlayOneWay")
		silent  = labels{"alertname": "BridgewatchOverlayPeerSilent", "severity": "critical", "cluster": "c", "source": "192.0.2.2"}
		closed  = alert("Bridgewatch4789Closed", "critical", "scope", "host")
		unheard = alert("BridgewatchPeerSilent", "critical", "scope", "host")
		natted  = alert("BridgewatchAdvertiseNat", "critical", "scope", "host")
		foreign = labels{"alertname": "DiskFull", "severity": "warning", "cluster": "c", "instance": "a", "stack": "shop", "service": "web"}
	)
	for _, tc := range []struct {
		name      string
		alerts    []labels
		inhibited []labels
	}{
		{"a page holds back the tickets about its service", []labels{page, oneTicket}, []labels{oneTicket}},
		{"but not those of others",
			[]labels{page, alone, oneTicket.with("stack", "blog"), oneTicket.with("service", "db"), oneTicket.with("instance", "b"),
				oneTicket.with("cluster", "d"), foreign, down, icc}, nil},
		{"the same for a container without a service", []labels{pageAlone, alone, alone.with("container", "other"), down, icc}, []labels{alone}},
		{"a host that forwards nothing is one page",
			[]labels{noForward, page, pageAlone, oneTicket, alone, noForward.with("container", "web.1", "stack", "shop", "service", "web")},
			[]labels{page, pageAlone, oneTicket, alone, noForward.with("container", "web.1", "stack", "shop", "service", "web")}},
		{"which says nothing about the agent, the host itself or other hosts",
			[]labels{noForward, down, signalOff, fullTable, icc, tcpOpen, oneTicket.with("instance", "b"), foreign}, nil},
		{"a full table is one ticket, and holds no page back", []labels{fullTable, fullOfOne, alone, pageAlone.with("container", "other"), icc},
			[]labels{fullOfOne, alone}},
		{"a full neighbour table is one ticket", []labels{neighbours, neighbours.with("container", "vote"), dead, alone}, []labels{
			neighbours.with("container", "vote"), dead}},
		{"one container's full table says nothing of others", []labels{fullOfOne, alone}, nil},
		{"without Docker's rules, what comes of it is no further message",
			[]labels{flush, addresses, broken, proxied, failures, broken.with("instance", "b"), page},
			[]labels{addresses, broken, proxied}},
		{"lost addresses are one page, which holds back the tickets about how", []labels{addresses, proxied, broken, proxied.with("service", "db")},
			[]labels{proxied}},
		{"a broken port holds nothing back", []labels{broken, proxied, failures, broken.with("published_port", "82")}, nil},
		{"where no server answers lookups, one page is enough",
			[]labels{nobody, oneServer, lookups, slow, blocked, servfail, wrongName, page, lookups.with("instance", "b"), slow.with("cluster", "d")},
			[]labels{oneServer, lookups, slow, blocked, servfail}},
		{"one silent server of several explains slowness, and holds no page back", []labels{oneServer, lookups, slow, servfail},
			[]labels{slow}},
		{"why a service's lookups fail is its page", []labels{blocked, lookups, lookups.with("service", "db"), lookups.with("stack", "blog"), oneServer},
			[]labels{lookups}},
		{"the same for lookups of a container without a service",
			[]labels{cutOff, lookupsOne, lookupsOne.with("container", "other"), lookups}, []labels{lookupsOne}},
		{"lookups that fail are one page, which holds back the tickets about how", []labels{lookups, oneTicket, slow.with("service", "web"), servfail},
			[]labels{oneTicket, slow.with("service", "web")}},
		{"without Docker's rules, or forwarding, nobody asks outside",
			[]labels{flush, nobody, oneServer, lookups, slow, blocked, noForward.with("instance", "b"), nobody.with("instance", "b"),
				slowAlone.with("instance", "b")},
			[]labels{nobody, oneServer, lookups, slow, blocked, nobody.with("instance", "b"), slowAlone.with("instance", "b")}},
		{"why nothing comes in at a node is its page", []labels{closed, loss, oneWay, loss.with("instance", "b", "destination", "192.0.2.3")},
			[]labels{loss, oneWay}},
		{"one direction alone is no second loss", []labels{oneWay, loss, loss.with("source", "192.0.2.3"), loss.with("network", "blog", "vni", "4098")},
			[]labels{loss}},
		{"what is lost of all encrypted networks is each one's loss",
			[]labels{loss.with("encapsulation", "esp", "network", "", "vni", ""), loss, loss.with("source", "192.0.2.3")}, []labels{loss}},
		{"a node that nobody hears is one page",
			[]labels{silent, loss, oneWay, loss.with("source", "192.0.2.3"), loss.with("cluster", "d"), closed.with("instance", "b")},
			[]labels{loss, oneWay}},
		{"that one host misses a node, or cannot reach it, says nothing of others", []labels{unheard, natted, silent.with("source", "192.0.2.4"), loss, oneWay},
			[]labels{loss}},
		{"an agent that is down holds nothing back", []labels{down, page, alone, icc, signalOff, tcpOpen}, nil},
		{"another critical finding of the host holds nothing back", []labels{tcpOpen, oneTicket, alone, down, signalOff, icc, page.with("instance", "b")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(sorted(tc.inhibited), sorted(manager.inhibited(t, tc.alerts))); diff != "" {
				t.Errorf("held back (-want +got):\n%s", diff)
			}
		})
	}
}

// sorted writes labels as lines, in order.
func sorted(all []labels) []string {
	var lines []string
	for _, l := range all {
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(l)) {
			pairs = append(pairs, name+"="+l[name])
		}
		lines = append(lines, strings.Join(pairs, " "))
	}
	slices.Sort(lines)
	return lines
}

// alertmanager is a running one.
type alertmanager struct {
	url   string
	cases int
}

// startAlertmanager starts an Alertmanager with our configuration, until the test ends.
func startAlertmanager(t *testing.T) *alertmanager {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	var log bytes.Buffer
	cmd := exec.Command("prometheus-alertmanager", "--config.file="+Alertmanager, "--storage.path="+t.TempDir(),
		"--web.listen-address="+address, "--cluster.listen-address=")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Alertmanager (Debian's prometheus-alertmanager): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Alertmanager's log:\n%s", &log)
		}
	})
	m := &alertmanager{url: "http://" + address}
	eventually(t, "Alertmanager", func() bool {
		resp, err := http.Get(m.url + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return m
}

// inhibited gives alerts to Alertmanager and returns those that it holds back. Each call is about clusters of its own.
func (m *alertmanager) inhibited(t *testing.T, alerts []labels) []labels {
	t.Helper()
	m.cases++
	prefix := string(rune('a'+m.cases)) + "-"
	// Alertmanager looks at alerts one after the other: when it holds back the last, it has seen all.
	last := labels{"alertname": "BridgewatchFiltered", "severity": "warning", "service": "last", "cluster": prefix}
	for _, l := range append(slices.Clone(alerts), last.with("severity", "critical"), last) {
		m.post(t, l.with("cluster", prefix+l["cluster"]))
	}
	var held []labels
	eventually(t, "Alertmanager to have seen all", func() bool {
		held = nil
		done := false
		for _, a := range m.alerts(t) {
			cluster, ours := strings.CutPrefix(a.Labels["cluster"], prefix)
			switch {
			case !ours || len(a.Status.InhibitedBy) == 0:
			case a.Labels["service"] == "last":
				done = true
			default:
				held = append(held, a.Labels.with("cluster", cluster))
			}
		}
		return done
	})
	return held
}

func (m *alertmanager) post(t *testing.T, l labels) {
	t.Helper()
	body, err := json.Marshal([]object{{"labels": l}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(m.url+"/api/v2/alerts", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("post alert: %s", resp.Status)
	}
}

type managedAlert struct {
	Labels labels
	Status struct{ InhibitedBy []string }
}

func (m *alertmanager) alerts(t *testing.T) []managedAlert {
	t.Helper()
	resp, err := http.Get(m.url + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []managedAlert
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
