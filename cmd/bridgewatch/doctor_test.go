// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s, which -update writes, differs:\n%s", path, diff)
	}
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// healthy is what an agent says that sees everything and finds nothing.
func healthy() api.Findings {
	return api.Findings{
		Host: "node-1", Started: noon.Add(-26 * time.Hour), Evaluated: noon, Containers: 12, Networks: 3,
		Docker: exporters.DockerState{Up: true, Version: "28.5.2"},
		Signals: []exporters.Signal{
			{Name: "flow", Since: noon.Add(-26 * time.Hour)},
			{Name: "drop", Since: noon.Add(-26 * time.Hour)},
		},
		Holding: []findings.Finding{},
	}
}

// threeFaults is what an agent says of a host with one fault of each severity.
func threeFaults() api.Findings {
	found := healthy()
	found.Holding = []findings.Finding{
		{
			ID: "ip-forward-off", Severity: findings.Critical,
			Title:   "The host does not forward packets, so containers reach nothing beyond it.",
			Subject: findings.Subject{Scope: enrich.ScopeHost},
			Since:   noon.Add(-42 * time.Second), LastSeen: noon,
			Evidence: []findings.Fact{
				{Name: "net.ipv4.ip_forward", Number: 0},
				{Name: "bridge networks", Number: 3, Unit: "networks"},
			},
			Remedy: "Turn forwarding on with sysctl -w net.ipv4.ip_forward=1, find what turned it off, and write the setting " +
				"to /etc/sysctl.d so that it survives a restart.",
			Confirm: "sysctl net.ipv4.ip_forward",
			Basis:   "the host's setting, while Docker has networks that need it",
			Runbook: findings.Runbook("ip-forward-off"),
		},
		{
			ID: "filtered", Severity: findings.Warning,
			Title: "A firewall rule drops or rejects a container's packets.",
			Subject: findings.Subject{
				Identity: enrich.Identity{Stack: "shop", Service: "web", Container: "web.1", Network: "shop_default"},
				Scope:    enrich.ScopeHost,
			},
			Since: noon.Add(-190 * time.Minute), LastSeen: noon,
			Evidence: []findings.Fact{
				{Name: "lost within a minute", Number: 1234, Unit: "packets"},
				{Name: "reason", Text: "NETFILTER_DROP"},
				{Name: "function", Text: "nf_hook_slow"},
				{Name: "latest", Text: "10.0.0.9:43210 to 172.18.0.2:8080, tcp"},
			},
			Remedy:  "Find the rule whose counter grows, and let the container's port pass before it.",
			Confirm: "iptables-save -c | grep -E -- '-j (DROP|REJECT)' | grep -v -e '^\\[0:0\\]' | sort -t '[' -k 2 -n -r | head -20",
			Basis:   "the kernel's reason and the function that dropped",
			Runbook: findings.Runbook("filtered"),
		},
		{
			ID: "mtu-mismatch", Severity: findings.Info,
			Title:   "Devices along a network's path differ in MTU.",
			Subject: findings.Subject{Identity: enrich.Identity{Container: "db", Network: "backend"}, Object: "eth0"},
			Since:   noon.Add(-75 * time.Hour), LastSeen: noon,
			Evidence: []findings.Fact{
				{Name: "container's end", Number: 9000, Unit: "bytes"},
				{Name: "bridge", Number: 1500, Unit: "bytes"},
				{Name: "share of frames above it", Number: 12.3456, Unit: "%"},
			},
			Remedy:  "Give the network the MTU of the uplink: com.docker.network.driver.mtu.",
			Confirm: "ip -d link show master br-0123456789ab",
			Basis:   "the MTUs of both ends of the veth pair and of the bridge",
			Runbook: findings.Runbook("mtu-mismatch"),
		},
	}
	return found
}

// printed is what doctor prints at noon.
func printed(t *testing.T, found api.Findings, colored bool) string {
	t.Helper()
	d := diagnose(found, nil, noon)
	var out bytes.Buffer
	if err := printDiagnosis(&out, &d, colored); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestDoctorGolden(t *testing.T) {
	golden(t, "doctor.golden", []byte(printed(t, threeFaults(), false)))
}

func TestDoctorJSONGolden(t *testing.T) {
	d := diagnose(threeFaults(), nil, noon)
	var out bytes.Buffer
	if err := printJSON(&out, &d); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.json.golden", out.Bytes())
}

// Whatever the names are, no line is wider than a terminal, but for the commands, which can be copied.
func TestDoctorWidth(t *testing.T) {
	long := threeFaults()
	long.Signals[0].Reason = "attach: " + strings.Repeat("no such device or address, ", 10)
	for i := range long.Holding {
		f := &long.Holding[i]
		f.Subject.Container = strings.Repeat("container", 20)
		f.Evidence = append(f.Evidence, findings.Fact{Name: "address", Text: strings.Repeat("fd00::", 30)})
		f.Title += strings.Repeat(" and more", 20)
	}
	for name, found := range map[string]api.Findings{"three faults": threeFaults(), "long names": long} {
		commands := make(map[string]bool)
		for _, f := range found.Holding {
			commands[f.Confirm] = true
		}
		for line := range strings.Lines(printed(t, found, false)) {
			line = strings.TrimSuffix(line, "\n")
			if columns(line) > 80 && !commands[strings.TrimSpace(line)] {
				t.Errorf("%s: %d columns: %s", name, columns(line), line)
			}
			delete(commands, strings.TrimSpace(line))
		}
		if len(commands) > 0 {
			t.Errorf("%s: not on a line of their own: %v", name, commands)
		}
	}
}

// Only what is coloured differs, and nobody's name colours anything.
func TestDoctorColour(t *testing.T) {
	found := threeFaults()
	found.Holding[1].Subject.Container = "evil\x1b[2Jname\r\u009b31m"
	found.Holding[1].Confirm = "ip link show '\x1b]0;title\a'"
	found.Holding[1].Evidence[1].Text = "two\nlines"
	plain, colored := printed(t, found, false), printed(t, found, true)
	if strings.ContainsFunc(plain, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) }) {
		t.Errorf("control characters in %q", plain)
	}
	for _, want := range []string{"\x1b[1;31mCRITICAL\x1b[0m", "\x1b[1;33mWARNING\x1b[0m", "\x1b[1;36mINFO\x1b[0m"} {
		if !strings.Contains(colored, want) {
			t.Errorf("no %q in %q", want, colored)
		}
	}
	for _, s := range []style{bold, red, yellow, cyan} {
		colored = strings.ReplaceAll(colored, "\x1b["+string(s)+"m", "")
	}
	if diff := cmp.Diff(plain, strings.ReplaceAll(colored, "\x1b[0m", "")); diff != "" {
		t.Errorf("colour changes the text:\n%s", diff)
	}
}

// What could not be looked at is never called healthy.
func TestDoctorVerdict(t *testing.T) {
	const scene = "12 containers on 3 networks, no findings (observed for "
	for _, tc := range []struct {
		name   string
		change func(*api.Findings)
		want   string
	}{
		{"healthy", func(*api.Findings) {}, "healthy: " + scene + "1d2h)\n"},
		{"one of each", func(f *api.Findings) { f.Containers, f.Networks = 1, 1 },
			"healthy: 1 container on 1 network, no findings (observed for 1d2h)\n"},
		{"just observed", func(f *api.Findings) {
			f.Started = noon.Add(-10 * time.Second)
			f.Signals = append(f.Signals, exporters.Signal{Name: "exec"})
		}, "healthy: " + scene + "10s)\n"},
		{"signal off", func(f *api.Findings) { f.Signals[1].Reason = "no BTF" },
			"node-1: " + scene + "1d2h)\n\nNot everything could be looked at:\n- lost packets: signal drop is off: no BTF\n"},
		{"Docker has gone", func(f *api.Findings) {
			f.Docker = exporters.DockerState{Error: "connect to docker: no"}
			f.Containers = 0
		},
			"node-1: 0 containers on 3 networks, no findings (observed for 1d2h)\n\n" +
				"Not everything could be looked at:\n- what is new: Docker is not there: connect to docker: no\n"},
		{"agent stuck", func(f *api.Findings) { f.Evaluated = noon.Add(-5 * time.Minute) },
			"node-1: " + scene + "1d1h)\n\n" +
				"Not everything could be looked at:\n- what is new: the agent looked 5m0s ago for the last time; see its log\n"},
		{"never looked", func(f *api.Findings) { f.Evaluated = time.Time{} },
			"node-1: " + scene + "0s)\n\n" +
				"Not everything could be looked at:\n- findings have not been looked for\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found := healthy()
			tc.change(&found)
			if diff := cmp.Diff(tc.want, printed(t, found, false)); diff != "" {
				t.Error(diff)
			}
			if d := diagnose(found, nil, noon); d.Healthy != strings.HasPrefix(tc.want, "healthy") {
				t.Errorf("JSON says healthy: %t", d.Healthy)
			}
		})
	}
}

// finding makes a socket on which an agent says that it has just found that.
func finding(t *testing.T, found api.Findings) (socket string) {
	t.Helper()
	return serving(t, api.Handler(api.Answers{
		Status: func() exporters.Own { return exporters.Own{} },
		Findings: func() api.Findings {
			found.Started = time.Now().Add(-26 * time.Hour)
			if found.Docker.Up { // as the agent, which cannot look without
				found.Evaluated = time.Now()
			}
			return found
		},
	}))
}

func TestDoctorExitCodes(t *testing.T) {
	three, info, blind := threeFaults(), threeFaults(), healthy()
	blind.Evaluated = time.Time{}
	info.Holding = info.Holding[2:]
	off, unreadable := healthy(), healthy()
	off.Signals[0].Reason = "no BTF"
	unreadable.Unread = []string{"list sandboxes: permission denied"}
	blind.Docker = exporters.DockerState{Error: "connect to docker: no"}
	blinder := blind
	blinder.Signals = append([]exporters.Signal{{Name: "flow", Reason: "no BTF"}}, blind.Signals[1:]...)
	for _, tc := range []struct {
		name  string
		found api.Findings
		flags []string
		want  int
		out   string // part of stdout
		err   string // part of stderr, which is empty without it
	}{
		{"healthy", healthy(), nil, exitGood, "healthy: ", ""},
		{"healthy, for whoever wants to know all", healthy(), []string{"--fail-on=info"}, exitGood, "healthy: ", ""},
		{"three faults", three, nil, exitNegative, "CRITICAL", ""},
		{"only what is critical fails", three, []string{"--fail-on=critical"}, exitNegative, "WARNING", ""},
		{"information", info, nil, exitGood, "INFO", ""},
		{"information fails", info, []string{"--fail-on=info"}, exitNegative, "INFO", ""},
		{"warning does not fail", three, []string{"--fail-on=critical", "--findings.ignore=ip-forward-off"}, exitGood, "WARNING", ""},
		{"all is ignored", three, []string{"--findings.ignore=ip-forward-off,mtu-mismatch", "--findings.ignore=filtered@shop/web"},
			exitGood, "no findings (observed for", ""},
		{"ignored elsewhere", three, []string{"--findings.ignore=filtered@shop/db"}, exitNegative, "filtered", ""},
		{"JSON", three, []string{"--output=json"}, exitNegative, `"healthy": false`, ""},
		{"healthy JSON", healthy(), []string{"--output=json"}, exitGood, `"healthy": true`, ""},
		{"something not seen", off, nil, exitGood, "signal flow is off", ""},
		{"some state not read", unreadable, nil, exitGood, "list sandboxes: permission denied", ""},
		{"nothing seen", blind, nil, exitCannot, "",
			"nothing could be looked at: Docker is not there: connect to docker: no; start Docker or set DOCKER_HOST\n"},
		{"nothing seen, nor counted", blinder, nil, exitCannot, "",
			"nothing could be looked at: who talks with whom: signal flow is off: no BTF; everything else: Docker is not there: connect to docker: no; start Docker or set DOCKER_HOST\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append([]string{"doctor", "--api.socket=" + finding(t, tc.found)}, tc.flags...)
			if code := execute(t.Context(), args, &out, &errs); code != tc.want {
				t.Errorf("exit code %d, want %d", code, tc.want)
			}
			if !strings.Contains(out.String(), tc.out) || (tc.out == "") != (out.Len() == 0) {
				t.Errorf("stdout is %q, want %q in it", out.String(), tc.out)
			}
			if !strings.Contains(errs.String(), tc.err) || (tc.err == "") != (errs.Len() == 0) {
				t.Errorf("stderr is %q, want %q in it", errs.String(), tc.err)
			}
		})
	}
}

// A flag leaves out what it names and nothing else, and the output says that something is left out.
func TestDoctorIgnore(t *testing.T) {
	three := threeFaults()
	filtered := three.Holding[1]
	for _, tc := range []struct {
		ignore findings.Ignore
		want   bool
	}{
		{findings.Ignore{ID: "filtered"}, true},
		{findings.Ignore{ID: "filtered", Stack: "shop", Service: "web"}, true},
		{findings.Ignore{ID: "filtered", Service: "web"}, false}, // of no stack
		{findings.Ignore{ID: "filtered", Stack: "shop", Service: "db"}, false},
		{findings.Ignore{ID: "mtu-mismatch"}, false},
	} {
		if got := tc.ignore.Matches(filtered.ID, filtered.Subject); got != tc.want {
			t.Errorf("%+v accepts it: %t, want %t", tc.ignore, got, tc.want)
		}
	}
	if db := three.Holding[2]; !(findings.Ignore{ID: "mtu-mismatch", Service: "db"}).Matches(db.ID, db.Subject) {
		t.Error("a container without a service does not stand for itself")
	}
	d := diagnose(three, []findings.Ignore{{ID: "filtered"}, {ID: "mtu-mismatch"}}, noon)
	if len(d.Holding) != 1 || d.Holding[0].ID != "ip-forward-off" || d.Ignored != 2 {
		t.Errorf("kept %+v, ignored %d", d.Holding, d.Ignored)
	}
	if diff := cmp.Diff(threeFaults(), three); diff != "" {
		t.Errorf("the answer itself was changed: %s", diff)
	}
	var out bytes.Buffer
	if err := printDiagnosis(&out, &d, false); err != nil || !strings.Contains(out.String(), "2 ignored)") {
		t.Errorf("%v, printed %s", err, out.String())
	}
}

// The JSON comes back as what the agent said.
func TestDoctorJSON(t *testing.T) {
	want := threeFaults()
	var out, errs bytes.Buffer
	code := execute(t.Context(), []string{"doctor", "--output=json", "--api.socket=" + finding(t, want)}, &out, &errs)
	if code != exitNegative || errs.Len() > 0 {
		t.Fatalf("exit code %d, stderr %q", code, errs.String())
	}
	var got diagnosis
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want.Started, want.Evaluated = got.Started, got.Evaluated // they go by the moment of the question
	if diff := cmp.Diff(want, got.Findings); diff != "" {
		t.Error(diff)
	}
}

func TestDoctorColourFlag(t *testing.T) {
	socket := finding(t, threeFaults())
	for _, tc := range []struct {
		flags   []string
		noColor string
		want    bool
	}{
		{nil, "", false}, // this is no terminal
		{[]string{"--color=never"}, "", false},
		{[]string{"--color=always"}, "", true},
		{[]string{"--color=always"}, "1", true},
		{[]string{"--color=always", "--output=json"}, "", false},
	} {
		t.Setenv("NO_COLOR", tc.noColor)
		var out, errs bytes.Buffer
		execute(t.Context(), append([]string{"doctor", "--api.socket=" + socket}, tc.flags...), &out, &errs)
		if got := strings.Contains(out.String(), "\x1b["); got != tc.want || out.Len() == 0 {
			t.Errorf("%v, NO_COLOR=%q: coloured is %t, want %t; stderr %q", tc.flags, tc.noColor, got, tc.want, errs.String())
		}
	}
}

// On a terminal the output is coloured, unless the operator has said that he wants none.
func TestDoctorTerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	c := doctorCommand{Color: "auto"}
	for _, tc := range []struct {
		noColor, term string
		want          bool
	}{
		{"", "xterm", true},
		{"", "", true},
		{"1", "xterm", false},
		{"0", "xterm", false}, // any value but none
		{"", "dumb", false},
	} {
		t.Setenv("NO_COLOR", tc.noColor)
		t.Setenv("TERM", tc.term)
		if got := c.colored(terminal); got != tc.want {
			t.Errorf("NO_COLOR=%q TERM=%q: coloured is %t", tc.noColor, tc.term, got)
		}
	}
	if isTerminal(&bytes.Buffer{}) {
		t.Error("a buffer is taken for a terminal")
	}
}

// Without an agent the host is observed, for as long as was asked for.
func TestDoctorWithoutAgent(t *testing.T) {
	folder := socketFolder(t)
	missing, dead := filepath.Join(folder, "none.sock"), filepath.Join(folder, "dead.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false) // as a killed agent leaves it
	listener.Close()
	c := doctorCommand{For: 3 * time.Second, FailOn: findings.Warning, Output: "table", Color: "auto"}
	var asked time.Duration
	found := threeFaults()
	observe := func(_ context.Context, _ *slog.Logger, duration time.Duration) (api.Findings, error) {
		asked = duration
		found.Evaluated = time.Now()
		return found, nil
	}
	var out, errs bytes.Buffer
	for _, c.APISocket = range []string{missing, dead} {
		asked = 0
		out.Reset()
		if err := c.run(t.Context(), streams{&out, &errs}, observe); !errors.Is(err, errNegative) || asked != c.For {
			t.Errorf("%s: observed for %s, answer %v", c.APISocket, asked, err)
		}
		if !strings.Contains(out.String(), "CRITICAL") || errs.Len() > 0 {
			t.Errorf("%s: stdout %q, stderr %q", c.APISocket, out.String(), errs.String())
		}
	}
	fail := func(context.Context, *slog.Logger, time.Duration) (api.Findings, error) {
		return api.Findings{}, errors.New("no BTF")
	}
	err = c.run(t.Context(), streams{&out, &errs}, fail)
	if err == nil || !strings.Contains(err.Error(), dead) || !strings.Contains(err.Error(), "no BTF") {
		t.Errorf("got %v, want it to name the socket and the reason", err)
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.run(interrupted, streams{&out, &errs}, fail); err == nil || !strings.HasPrefix(err.Error(), "interrupted") {
		t.Errorf("after an interruption it says %v", err)
	}
	idle := func(context.Context, *slog.Logger, time.Duration) (api.Findings, error) {
		return api.Findings{Docker: exporters.DockerState{Up: true}}, nil
	}
	out.Reset()
	if err := c.run(t.Context(), streams{&out, &errs}, idle); err == nil || out.Len() > 0 {
		t.Errorf("nobody has looked: %v, stdout %q", err, out.String())
	}
}

// An agent that has only just started is waited for: until it has looked, and until it can have found what counts only
// after a while.
func TestDoctorYoungAgent(t *testing.T) {
	var asked atomic.Int32
	socket := serving(t, api.Handler(api.Answers{
		Findings: func() api.Findings {
			found := healthy()
			switch asked.Add(1) {
			case 1:
				found.Evaluated = time.Time{}
			case 2:
				found.Evaluated = found.Started.Add(settled - time.Second)
			default:
				found.Evaluated = found.Started.Add(settled)
			}
			return found
		},
	}))
	var errs bytes.Buffer
	found, err := askAgent(t.Context(), &errs, socket, time.Minute)
	if err != nil || found.Evaluated.Sub(found.Started) != settled || asked.Load() != 3 || errs.Len() > 0 {
		t.Errorf("answer %d, %+v, %v, stderr %q", asked.Load(), found, err, errs.String())
	}
	asked.Store(0)
	if _, err := askAgent(t.Context(), &errs, socket, 0); err == nil || !strings.Contains(err.Error(), "has not looked for findings") {
		t.Errorf("out of patience: %v", err)
	}
	if found, err := askAgent(t.Context(), &errs, socket, 0); err != nil || found.Evaluated.IsZero() {
		t.Errorf("out of patience with one that has looked: %+v, %v", found, err)
	}
	asked.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := askAgent(ctx, &errs, socket, time.Minute); err == nil {
		t.Error("the wait goes on after its context has ended")
	}
}

// Without Docker an agent does not look, and is not waited for.
func TestDoctorAgentWithoutDocker(t *testing.T) {
	var asked atomic.Int32
	socket := serving(t, api.Handler(api.Answers{Findings: func() api.Findings {
		asked.Add(1)
		return api.Findings{Started: time.Now(), Docker: exporters.DockerState{Error: "connect to docker: no"}}
	}}))
	var out, errs bytes.Buffer
	code := execute(t.Context(), []string{"doctor", "--api.socket=" + socket}, &out, &errs)
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	if code != exitCannot || out.Len() > 0 || !strings.Contains(errs.String(), "Docker is not there: connect to docker: no") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out.String(), errs.String())
	}
}

// What answers but cannot say is told from no agent, in which case the host would be observed.
func TestDoctorBadAgent(t *testing.T) {
	quick := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for _, tc := range []struct {
		name    string
		handler http.Handler
		ctx     func(*testing.T) context.Context
		want    string
	}{
		{"older", api.Handler(api.Answers{Status: func() exporters.Own { return exporters.Own{} }}), (*testing.T).Context, "is older than this command"},
		{"no agent", http.NotFoundHandler(), (*testing.T).Context, "is older than this command"},
		{"broken", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), (*testing.T).Context, "500"},
		{"hanging", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), quick, "does not answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			socket := serving(t, tc.handler)
			code := execute(tc.ctx(t), []string{"doctor", "--api.socket=" + socket}, &out, &errs)
			if code != exitCannot || out.Len() > 0 || strings.Count(errs.String(), "\n") != 1 || !strings.Contains(errs.String(), tc.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want one line with %q", code, out.String(), errs.String(), tc.want)
			}
		})
	}
}

func TestUnanswered(t *testing.T) {
	other := errors.New("ask the agent: no")
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", unix.EACCES)}, "the agent behind a.sock answers only to root and to its socket's group"},
		{context.DeadlineExceeded, "the agent behind a.sock does not answer; restart it"},
		{other, other.Error()},
	} {
		if got := unanswered(tc.err, "a.sock").Error(); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		text  string
		limit int
		want  []string
	}{
		{"", 10, nil},
		{"  \n ", 10, nil},
		{"one", 10, []string{"one"}},
		{"one two\nthree", 10, []string{"one two", "three"}},
		{"exactly 10", 10, []string{"exactly 10"}},
		{"elevenchars", 10, []string{"elevenchar", "s"}},
		{"a elevenchars b", 10, []string{"a", "elevenchar", "s b"}},
		{"äöü äöü äöü", 7, []string{"äöü äöü", "äöü"}},
	} {
		if diff := cmp.Diff(tc.want, wrap(tc.text, tc.limit)); diff != "" {
			t.Errorf("%q in %d columns: %s", tc.text, tc.limit, diff)
		}
	}
}

func TestSpanText(t *testing.T) {
	for span, want := range map[time.Duration]string{
		-time.Second:                            "0s",
		1400 * time.Millisecond:                 "1s",
		190 * time.Second:                       "3m10s",
		320*time.Minute + 59*time.Second:        "5h20m",
		76*time.Hour + 59*time.Minute:           "3d4h",
		59*time.Minute + 59700*time.Millisecond: "1h0m",
	} {
		if got := spanText(span); got != want {
			t.Errorf("%s is written %s, want %s", span, got, want)
		}
	}
}

func TestSubjectText(t *testing.T) {
	for _, tc := range []struct {
		subject findings.Subject
		want    string
	}{
		{findings.Subject{}, "this host"},
		{findings.Subject{Scope: enrich.ScopeHost}, "this host"},
		{findings.Subject{Object: "tcp port 2375"}, "tcp port 2375"},
		{findings.Subject{Identity: enrich.Identity{Network: "backend"}}, "network backend"},
		{findings.Subject{Identity: enrich.Identity{Stack: "shop"}}, "stack shop"},
		{findings.Subject{Identity: enrich.Identity{Service: "web"}}, "service web"},
		{findings.Subject{Identity: enrich.Identity{Container: "db"}, Scope: enrich.ScopeContainer}, "container db, in the container's namespace"},
		{findings.Subject{
			Identity: enrich.Identity{Stack: "shop", Service: "web", Container: "web.1", Network: "n"}, Scope: enrich.ScopeHost, Object: "eth0",
		}, "container web.1, service shop/web, network n, eth0, in the host's namespace"},
	} {
		if got := subjectText(tc.subject); got != tc.want {
			t.Errorf("%+v is %q, want %q", tc.subject, got, tc.want)
		}
	}
}
