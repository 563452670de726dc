// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/dashboards"
	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

const runbooks = "https://github.com/bridgewatch/bridgewatch/blob/main/docs/"

// TestAlertmanager makes faults, and sees them arrive where operators get their messages: from the agent, through a real
// Prometheus and a real Alertmanager with what we ship for them, but for shorter times.
func TestAlertmanager(t *testing.T) {
	engine := lab.StartEngine(t)
	network := engine.Network(t, "front", "--subnet", subnet)
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	messages := receive(t)
	manager := startAlertmanager(t, messages)
	prom := launchPrometheus(t, "alerting:\n  alertmanagers:\n    - static_configs: [{targets: ["+string(manager)+"]}]\n"+
		scrapeConfig(t, agent.Address, nil), hurried(t))

	host := lab.Host(t)
	world := netip.AddrPortFrom(lab.OutsideAddress, port)
	client := func(service string, perSecond int) *lab.Container {
		return engine.Run(t, "shop-"+service, []string{"--network", network,
			"--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=" + service},
			"udp-send", "--to", world.String(), "--count", strconv.Itoa(600*perSecond),
			"--interval", (time.Second / time.Duration(perSecond)).String(), "--stay")
	}
	about := func(name, severity, service string, more lab.Labels) lab.Labels {
		l := lab.Labels{"alertname": name, "severity": severity, "instance": agent.Address, "stack": "shop", "service": service}
		for k, v := range more {
			l[k] = v
		}
		return l
	}
	filtered := func(service string) lab.Labels {
		return about("BridgewatchFiltered", "warning", service,
			lab.Labels{"container": "shop-" + service + "-1", "network": network, "scope": "host"})
	}

	scratched := client("scratched", 100)
	to := netip.AddrPortFrom(lab.OutsideAddress, port+1)
	host.AddRule(t, lab.IPv4, "filter", "DOCKER-USER", "-s", scratched.Addr(t, network, lab.IPv4).String(), "-p", "udp",
		"--dport", strconv.Itoa(int(to.Port())), "-j", "DROP")
	scratched.Send(t, lab.Datagrams{To: to, Count: 30})
	broken := client("broken", 10)
	host.AddRule(t, lab.IPv4, "filter", "DOCKER-USER", "-s", broken.Addr(t, network, lab.IPv4).String(), "-j", "DROP")

	// A burst among very many packets is a ticket.
	ticket := messages.await(t, "/tickets", "firing", filtered("scratched"))
	requireAnnotations(t, ticket, "filtered", "Container shop-scratched-1, network front, host "+agent.Address+": ")

	// All packets is a page, which says what the tickets say that it holds back.
	losing := about("BridgewatchServiceLosesPackets", "critical", "broken", nil)
	page := messages.await(t, "/pager", "firing", losing)
	if got, want := page.Annotations["runbook_url"], runbooks+"agent.md#bridgewatchservicelosespackets"; got != want {
		t.Errorf("the page's runbook is %s, want %s", got, want)
	}
	if got, want := page.Annotations["description"], "filtered (container shop-broken-1, network front, runbook "+runbooks+
		"findings/filtered.md)"; !strings.Contains(got, want) {
		t.Errorf("the page does not name the finding: %s", got)
	}
	manager.awaitState(t, filtered("broken"), "suppressed")
	manager.awaitState(t, filtered("scratched"), "active")

	// A host that forwards nothing is one page, whatever it does to services.
	host.Run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
	t.Cleanup(func() { host.Run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1") })
	off := lab.Labels{"alertname": "BridgewatchIpForwardOff", "severity": "critical", "instance": agent.Address, "scope": "host"}
	page = messages.await(t, "/pager", "firing", off)
	requireAnnotations(t, page, "ip-forward-off", "Host "+agent.Address+": ")
	manager.awaitState(t, losing, "suppressed")

	host.Run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	messages.await(t, "/pager", "resolved", off)

	for _, m := range messages.all() {
		expected := slices.ContainsFunc([]lab.Labels{filtered("scratched"), filtered("broken"), losing, off},
			func(want lab.Labels) bool { return cmp.Equal(want, m.Labels) })
		// What others on the machine do may cost records.
		elsewhere := m.Labels["alertname"] == "BridgewatchLosingRecords"
		if !expected && !elsewhere {
			t.Errorf("a message that nobody expects at %s: %s %v", m.path, m.Status, m.Labels)
		}
	}
	for _, r := range prom.rules(t) {
		if r.Health != "ok" {
			t.Errorf("rule %s cannot be evaluated: %s: %s", r.Name, r.Health, r.LastError)
		}
	}
}

// requireAnnotations holds what an operator reads against what the finding's definition says.
func requireAnnotations(t *testing.T, m message, id, subject string) {
	t.Helper()
	catalogue := findings.Catalogue()
	d := catalogue[slices.IndexFunc(catalogue, func(d findings.Definition) bool { return d.ID == id })]
	if got, want := m.Annotations["summary"], subject+d.Title; got != want {
		t.Errorf("summary is %q, want %q", got, want)
	}
	if got := m.Annotations["description"]; !strings.Contains(got, d.Remedy) || !strings.HasSuffix(got, d.Confirm) {
		t.Errorf("description has neither remedy nor command: %q", got)
	}
	if got, want := m.Annotations["runbook_url"], runbooks+"findings/"+id+".md"; got != want {
		t.Errorf("runbook is %q, want %q", got, want)
	}
}

// hurried are the shipped rules with shorter times.
func hurried(t *testing.T) []string {
	t.Helper()
	services := replaced(t, shipped(t, dashboards.Rules), 1, "for: 10m", "for: 5s") // the first alert
	return []string{
		replaced(t, services, -1, "[5m]", "[20s]"),
		replaced(t, replaced(t, shipped(t, dashboards.FindingRules), -1, "for: 1m", "for: 2s"), -1, "[3m]", "[10s]"),
	}
}

// replaced replaces the first n occurrences of a text, or all, and requires that there are any.
func replaced(t *testing.T, text string, n int, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("no %q in what is shipped", from)
	}
	return strings.Replace(text, from, to, n)
}

// launchPrometheus starts a Prometheus with a configuration of everything but its rules, which it evaluates every two
// seconds. It ends with the test.
func launchPrometheus(t *testing.T, config string, rules []string) prometheus {
	t.Helper()
	const address = "127.0.0.1:9090" // the lab host has it free
	dir := t.TempDir()
	var names []string
	for i, text := range rules {
		name := filepath.Join(dir, fmt.Sprintf("%d.rules.yml", i))
		writeFile(t, name, text)
		names = append(names, name)
	}
	file := filepath.Join(dir, "prometheus.yml")
	writeFile(t, file, "global: {evaluation_interval: 2s}\nrule_files: ["+strings.Join(names, ", ")+"]\n"+config)
	launch(t, "http://"+address+"/-/ready", "prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address)
	return address
}

// alertmanager is the address of a running Alertmanager.
type alertmanager string

// startAlertmanager starts an Alertmanager with the shipped configuration, which sends to a server of ours and waits for
// seconds where it would for minutes. It ends with the test.
func startAlertmanager(t *testing.T, to *messages) alertmanager {
	t.Helper()
	const address = "127.0.0.1:9093" // the lab host has it free
	config := shipped(t, dashboards.Alertmanager)
	for _, hurry := range [][2]string{
		{"http://127.0.0.1:9095", to.url}, {"group_wait: 30s", "group_wait: 1s"}, {"group_wait: 10s", "group_wait: 1s"},
		{"group_interval: 5m", "group_interval: 2s"},
	} {
		config = replaced(t, config, -1, hurry[0], hurry[1])
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "alertmanager.yml")
	writeFile(t, file, config)
	launch(t, "http://"+address+"/-/ready", "prometheus-alertmanager", "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--cluster.listen-address=")
	return address
}

// awaitState waits until Alertmanager has an alert with exactly these labels in a state: active or suppressed.
func (m alertmanager) awaitState(t *testing.T, labels lab.Labels, state string) {
	t.Helper()
	lab.Eventually(t, 30*time.Second, fmt.Sprintf("%v to be %s", labels, state), func() bool {
		resp, err := http.Get("http://" + string(m) + "/api/v2/alerts")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var alerts []struct {
			Labels lab.Labels
			Status struct{ State string }
		}
		if err := json.NewDecoder(resp.Body).Decode(&alerts); err != nil {
			t.Fatal(err)
		}
		for _, a := range alerts {
			if cmp.Equal(a.Labels, labels) {
				return a.Status.State == state
			}
		}
		return false
	})
}

// launch starts a daemon and waits until its address answers. It ends with the test.
func launch(t *testing.T, ready string, command ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s (Debian's packages prometheus and prometheus-alertmanager): %v", command[0], err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s's log:\n%s", command[0], text)
		}
	})
	lab.Eventually(t, 30*time.Second, command[0], func() bool {
		resp, err := http.Get(ready)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// messages are what Alertmanager has sent.
type messages struct {
	url string

	mu  sync.Mutex
	got []message
}

type message struct {
	path        string
	Status      string // firing or resolved
	Labels      lab.Labels
	Annotations map[string]string
}

// receive plays the one whom Alertmanager sends its messages to.
func receive(t *testing.T) *messages {
	m := &messages{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Alerts []message }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, a := range body.Alerts {
			a.path = r.URL.Path
			m.got = append(m.got, a)
		}
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

func (m *messages) all() []message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.got)
}

// await waits for a message about an alert with exactly these labels.
func (m *messages) await(t *testing.T, path, status string, labels lab.Labels) message {
	t.Helper()
	var found message
	lab.Eventually(t, 2*time.Minute, fmt.Sprintf("a message at %s: %s %v", path, status, labels), func() bool {
		all := m.all()
		i := slices.IndexFunc(all, func(a message) bool {
			return a.path == path && a.Status == status && cmp.Equal(a.Labels, labels)
		})
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}
