// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestDoctor asks what is wrong where no agent runs: on a host with two faults and one that is accepted, and then on the
// same host, healed.
func TestDoctor(t *testing.T) {
	engine := lab.StartEngine(t)
	s := stage{t, engine, lab.Host(t), lab.Outside(t), "", lab.IPv4, "doctor"}.own("10.74.0.0/24")
	server := s.serve("server", "udp-listen")
	victim := s.run("victim")
	accepted := s.engine.Run(s, s.name+"-accepted", []string{"--network", s.network, "--label", "bridgewatch.ignore=filtered"})

	t.Run("faults", func(t *testing.T) {
		s.TB = t
		s.host.Run(t, "sysctl", "-w", "net.ipv4.ip_forward=0")
		t.Cleanup(func() { s.host.Run(t, "sysctl", "-w", "net.ipv4.ip_forward=1") })
		s.host.AddRule(t, s.family, "filter", s.userChain(), append(s.destination(server), "-j", "DROP")...)
		for _, sender := range []*lab.Container{victim, accepted} {
			sender.Start(t, lab.Datagrams{To: s.at(server), Count: 100000, Interval: 50 * time.Millisecond}.Args()...)
		}
		code, stdout := diagnosed(t, engine, "--output=json")
		want := []lab.Finding{
			{ID: "filtered", Severity: "warning", Container: victim.Name, Network: s.network, Scope: "host"},
			{ID: "ip-forward-off", Severity: "critical", Scope: "host"},
		}
		if diff := cmp.Diff(want, printedFindings(t, stdout)); code != 1 || diff != "" {
			t.Errorf("doctor ended with %d, want 1; what it finds is not what is wrong (-want +got):\n%s", code, diff)
		}
	})
	t.Run("healed", func(t *testing.T) {
		sent := victim.Send(t, lab.Datagrams{To: s.at(server), Count: 100})
		code, stdout := diagnosed(t, engine)
		if code != 0 || !strings.HasPrefix(stdout, "healthy: 3 containers on 1 network, ") || strings.Count(stdout, "\n") != 1 {
			t.Errorf("after %d packets that arrived doctor ended with %d and said\n%s", sent, code, stdout)
		}
	})
}

// diagnosed runs doctor, which must find out by itself and leave nothing in the kernel.
func diagnosed(t *testing.T, engine *lab.Engine, flags ...string) (code int, stdout string) {
	t.Helper()
	flags = append([]string{"doctor", "--for=10s", "--api.socket=" + filepath.Join(t.TempDir(), "none.sock")}, flags...)
	code, stdout, held := lab.CommandHolding(t, engine, flags...)
	if len(held.Links) == 0 || len(held.Maps) == 0 || len(held.Programs) == 0 {
		t.Errorf("doctor held %+v while it observed", held)
	}
	lab.Eventually(t, patience, "the kernel to free what doctor held", func() bool {
		return cmp.Equal(held.Alive(t), lab.Objects{})
	})
	return code, stdout
}

// printedFindings reads doctor's JSON.
func printedFindings(t *testing.T, stdout string) []lab.Finding {
	t.Helper()
	var said struct {
		Findings []struct {
			ID, Severity string
			Subject      struct{ Stack, Service, Container, Network, Scope string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil {
		t.Fatalf("read what doctor says: %v\n%s", err, stdout)
	}
	var found []lab.Finding
	for _, f := range said.Findings {
		found = append(found, lab.Finding{
			ID: f.ID, Severity: f.Severity, Stack: f.Subject.Stack, Service: f.Subject.Service,
			Container: f.Subject.Container, Network: f.Subject.Network, Scope: f.Subject.Scope,
		})
	}
	slices.SortFunc(found, compareFindings)
	return found
}

// TestDoctorExport gives Prometheus and Alertmanager what the program exports for them.
func TestDoctorExport(t *testing.T) {
	host := lab.Host(t)
	for what, check := range map[string][]string{
		"rules":         {"promtool", "check", "rules"},
		"scrape-config": {"promtool", "check", "config"},
		"alertmanager":  {"amtool", "check-config"},
	} {
		folder := t.TempDir()
		if code, stdout, stderr := lab.Command(t, nil, "export", what, "--directory="+folder); code != 0 {
			t.Fatalf("export %s: exit code %d\n%s%s", what, code, stdout, stderr)
		}
		files, err := filepath.Glob(filepath.Join(folder, "*.yml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("export %s wrote %v, %v", what, files, err)
		}
		host.Run(t, append(check, files...)...)
	}
}
