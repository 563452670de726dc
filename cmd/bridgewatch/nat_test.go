// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// translating makes a socket on which an agent says that of its translations, whatever it is asked, until the test ends.
func translating(t *testing.T, answer api.NAT) (socket string) {
	t.Helper()
	return serving(t, api.Handler(api.Answers{NAT: func(api.NATQuestion) api.NAT { return answer }}))
}

// asking runs the command and returns what it asked and what it printed.
func asking(t *testing.T, answer api.NAT, args ...string) (asked api.NATQuestion, printed string) {
	t.Helper()
	socket := serving(t, api.Handler(api.Answers{NAT: func(q api.NATQuestion) api.NAT {
		asked = q
		return answer
	}}))
	var out, errs bytes.Buffer
	code := execute(t.Context(), append([]string{"nat", "--api.socket=" + socket}, args...), &out, &errs)
	if code != exitGood || errs.Len() > 0 {
		t.Fatalf("exit code %d, stderr %q", code, errs.String())
	}
	return asked, out.String()
}

func port(text string) netip.AddrPort {
	if text == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(text)
}

// visit is a connection to a published port.
func visit(container, client, to, seen string, how enrich.Mechanism) enrich.NATRow {
	return enrich.NATRow{
		Time: noon, Scope: enrich.ScopeHost, Container: container, ContainerID: strings.Repeat("ab", 32), Protocol: "tcp",
		Client: port(client), Destination: port(to), Seen: port(seen), Port: port(to).Port(), From: enrich.ClientRemote,
		Lost: how != enrich.NoMechanism, Mechanism: how, Answered: true,
	}
}

// manyWays is what an agent says of a host on which clients come in all ways.
func manyWays() api.NAT {
	inferred := visit("web.1", "192.0.2.10:40312", "192.0.2.10:8080", "172.18.0.1:43210", enrich.UserlandProxy)
	inferred.Inferred = true
	ipv6 := visit("web.1", "[2001:db8:1:2:aaaa:bbbb:cccc:dddd]:51236", "[2001:db8:1:2::10]:8080", "172.18.0.1:43212", enrich.IPv6ToIPv4Proxy)
	ipv6.Inferred = true
	pending := visit("web.1", "203.0.113.9:51237", "192.0.2.10:8080", "", "")
	pending.Lost, pending.Answered = false, false
	loopback := pending // a rule without limits translates it, and nobody answers
	loopback.Client, loopback.Destination, loopback.Kind = port("127.0.0.1:51237"), port("127.0.0.1:8080"), enrich.Masquerade
	dual := visit("web.1", "[2001:db8::9]:5", "[2001:db8::10]:8080", "[fd00::1]:43213", enrich.UserlandProxy)
	dual.Inferred = true
	mesh := visit("", "203.0.113.7:51238", "192.0.2.10:8081", "", enrich.IngressMesh)
	mesh.Service, mesh.Stack, mesh.Scope, mesh.Kind = "api", "shop", enrich.ScopeIngress, enrich.DNAT
	unknown := mesh
	unknown.Service, unknown.Stack = "", ""
	adhoc := visit("~adhoc", "203.0.113.7:51239", "192.0.2.10:53", "203.0.113.7:51239", enrich.NoMechanism)
	adhoc.Protocol, adhoc.Kind, adhoc.Answered = "udp", enrich.DNAT, false
	out := enrich.NATRow{
		Time: noon.Add(-25 * time.Hour), Scope: enrich.ScopeHost, Container: "shop-worker-1", Protocol: "tcp", Kind: enrich.Masquerade,
		Client: port("172.18.0.5:33000"), Destination: port("198.51.100.20:443"), Seen: port("192.0.2.10:33000"), Answered: true,
	}
	ping := out
	ping.Protocol, ping.Client, ping.Destination, ping.Seen = "icmp", port("172.18.0.5:17"), port("198.51.100.20:17"), port("192.0.2.10:17")
	tunnel := out
	tunnel.Protocol, tunnel.Client, tunnel.Destination, tunnel.Seen = "other", port("172.18.0.5:0"), port("198.51.100.20:0"), port("192.0.2.10:0")
	hostile := visit("a\x1b[31m\nb-container-whose-name-has-no-end", "203.0.113.7:51240", "192.0.2.10:80", "203.0.113.7:51240", enrich.NoMechanism)
	return api.NAT{
		Now: noon, Started: noon.Add(-26 * time.Hour),
		Rows: []enrich.NATRow{
			visit("web.1", "203.0.113.7:51234", "192.0.2.10:8080", "203.0.113.7:51234", enrich.NoMechanism),
			visit("web.1", "203.0.113.7:51235", "192.0.2.10:8080", "172.18.0.1:51235", enrich.InboundMasquerade),
			inferred, ipv6, dual, pending, loopback, mesh, unknown, adhoc, hostile, out, ping, tunnel,
		},
	}
}

func TestNATGolden(t *testing.T) {
	_, printed := asking(t, manyWays())
	golden(t, "nat.golden", []byte(printed))
	for line := range strings.Lines(printed) {
		if n := columns(strings.TrimSuffix(line, "\n")); n > natWidth {
			t.Errorf("a line has %d columns, want at most %d: %q", n, natWidth, line)
		}
	}
	if strings.ContainsRune(printed, '\x1b') {
		t.Error("a container's name commands the terminal")
	}
}

func egressOf(address string) api.NAT {
	shared := netip.MustParseAddr(address)
	return api.NAT{
		Now: noon, Started: noon.Add(-time.Hour), Rows: []enrich.NATRow{},
		Egress: &api.Egress{
			Time: noon.Add(-12 * time.Second),
			Identities: []api.EgressIdentity{
				{Identity: enrich.Identity{Container: "db"}, Address: shared, Connections: 1, Sharing: 2},
				{Identity: enrich.Identity{Container: "~adhoc"}, ContainerID: strings.Repeat("cd", 32), Address: shared, Connections: 20310, Sharing: 13},
				{Identity: enrich.Identity{Container: "mail"}, Address: netip.MustParseAddr("192.0.2.11"), Connections: 4, Sharing: 1},
			},
			Pressure: []api.PortPressure{
				{
					Address: shared, Destination: port("198.51.100.20:443"), Protocol: "tcp", Used: 63900, Limit: 64512,
					Example: enrich.Identity{Container: "shop-worker-1"},
				},
				{Address: shared, Destination: port("198.51.100.53:53"), Protocol: "udp", Used: 14, Limit: 64512},
			},
		},
	}
}

func TestNATEgressGolden(t *testing.T) {
	asked, printed := asking(t, egressOf("192.0.2.10"), "--egress", "--container=db")
	golden(t, "nat_egress.golden", []byte(printed))
	if want := (api.NATQuestion{NATFilter: enrich.NATFilter{Container: "db"}, Egress: true}); asked != want {
		t.Errorf("asked %+v, want %+v", asked, want)
	}
}

// The JSON is what the agent says.
func TestNATJSON(t *testing.T) {
	for name, want := range map[string]api.NAT{"nat.json.golden": manyWays(), "nat_egress.json.golden": egressOf("2001:db8::10")} {
		_, printed := asking(t, want, "--output=json")
		golden(t, name, []byte(printed))
		var got api.NAT
		if err := json.Unmarshal([]byte(printed), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestNATAsks(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want api.NATQuestion
	}{
		{nil, api.NATQuestion{NATFilter: enrich.NATFilter{Limit: 50}}},
		{
			[]string{"--container=web.1", "--port=65535", "--lost", "--limit=3", "--lookups"},
			api.NATQuestion{NATFilter: enrich.NATFilter{Container: "web.1", Port: 65535, Lost: true, Limit: 3}, Lookups: true},
		},
		{[]string{"--egress"}, api.NATQuestion{Egress: true}}, // all: they come in no order in which the last matter less
		{[]string{"--egress", "--limit=3"}, api.NATQuestion{NATFilter: enrich.NATFilter{Limit: 3}, Egress: true}},
	} {
		if asked, _ := asking(t, manyWays(), tc.args...); asked != tc.want {
			t.Errorf("%q asks %+v, want %+v", tc.args, asked, tc.want)
		}
	}
}

// A table with nothing in it says why.
func TestNATNothing(t *testing.T) {
	nothing := api.NAT{Now: noon, Started: noon.Add(-190 * time.Second), Rows: []enrich.NATRow{}}
	incomplete := nothing
	incomplete.Incomplete = "connections that never get to a device are not told: no events"
	unread := nothing
	empty := nothing
	empty.Egress = &api.Egress{Time: noon.Add(-12 * time.Second)}
	stranger := empty
	stranger.Unknown = true
	unlisted := nothing
	unlisted.Egress = &api.Egress{Incomplete: "list tracked connections: operation not permitted"}
	partly := egressOf("192.0.2.10")
	partly.Egress = &api.Egress{
		Time: noon, Identities: partly.Egress.Identities[:1], Incomplete: "list tracked connections: timeout",
	}
	evicted := nothing
	evicted.Gaps = enrich.Gaps{Evicted: 904, Kept: 4096, Oldest: noon.Add(-time.Minute)}
	const since = "since 2026-11-22 11:56:50, when the agent began to watch, 3m10s ago\n"
	const nobody = "No connection is of a container or service called x, nor of the only\n" +
		"container whose ID begins so. Names are those in metrics: see bridgewatch nat\nwithout --container.\n"
	for _, tc := range []struct {
		name   string
		answer api.NAT
		args   []string
		want   string
	}{
		{"at all", nothing, nil, "no translated connections\n" + since},
		{"lost", nothing, []string{"--lost"}, "no connections that lose their client's address\n" + since},
		{
			"lost of late", evicted, []string{"--lost"},
			"no connections that lose their client's address\namong the latest 4096, the oldest of 2026-11-22 11:59:00\n",
		},
		{"of a container", nothing, []string{"--container=web.1", "--port=80"}, "no connections of web.1 to published port 80\n" + since},
		{"of nobody", stranger, []string{"--container=x"}, "no translated connections of x\n" + since + nobody},
		{
			"and not all would be seen", incomplete, nil,
			"no translated connections\n" + since + "Not all can be seen: connections that never get to a device are not told: no events.\n",
		},
		{
			"leaves", empty, []string{"--egress"},
			"no connection of a container to the outside was tracked\nat the last look, 12s ago\n",
		},
		{
			"leaves one container", empty, []string{"--egress", "--container=x"},
			"no connection of x to the outside was tracked\nat the last look, 12s ago\n",
		},
		{
			"leaves nobody", stranger, []string{"--egress", "--container=x"},
			"no connection of x to the outside was tracked\nat the last look, 12s ago\n" + nobody,
		},
		{
			"could be listed", unlisted, []string{"--egress", "--container=x"},
			"Not all is known: list tracked connections: operation not permitted.\n",
		},
		{
			"could be listed further", partly, []string{"--egress"},
			"CONTAINER  APPEARS AS  SHARED WITH  CONNECTIONS\ndb         192.0.2.10  1 other      1\n" +
				"This is as of the last look, 0s ago.\n" +
				"Not all is known: list tracked connections: timeout.\n",
		},
		{"was looked at", unread, []string{"--egress"}, "the agent has not looked at the tracked connections yet\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, printed := asking(t, tc.answer, tc.args...)
			if diff := cmp.Diff(tc.want, printed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNATLimitIsTold(t *testing.T) {
	const told = "These are the latest 14; --limit shows more, if there are any.\n"
	if _, printed := asking(t, manyWays(), "--limit=14"); !strings.HasSuffix(printed, told) {
		t.Errorf("it ends %q, want %q", printed[len(printed)-100:], told)
	}
	if _, printed := asking(t, manyWays(), "--limit=15"); strings.Contains(printed, "--limit") {
		t.Error("it speaks of a limit that was not reached")
	}
}

// What is forgotten is told where it may be missing.
func TestNATTellsOfWhatIsForgotten(t *testing.T) {
	const told = "The agent keeps the latest 4096, the oldest of 2026-11-22 11:00:00.\nIt has forgotten 904 before those.\n"
	answer := manyWays()
	answer.Gaps = enrich.Gaps{Evicted: 904, Kept: 4096, Oldest: noon.Add(-time.Hour)}
	recent := answer
	recent.Rows = answer.Rows[:3]
	for _, tc := range []struct {
		name   string
		answer api.NAT
		limit  string
		want   bool
	}{
		{"all rows", answer, "50", true},
		{"as many as wanted, some of them older", answer, "14", true},
		{"as many as wanted, all of them later", recent, "3", false},
	} {
		if _, printed := asking(t, tc.answer, "--limit="+tc.limit); strings.HasSuffix(printed, told) != tc.want {
			t.Errorf("%s: told %t, want %t: it ends %q", tc.name, !tc.want, tc.want, printed[len(printed)-120:])
		}
	}
}

// An agent that sees no translations has no answer, which is another thing than none.
func TestNATOff(t *testing.T) {
	socket := translating(t, api.NAT{Now: noon, Off: "load nat: no BTF", Rows: []enrich.NATRow{}})
	for _, args := range [][]string{nil, {"--output=json"}, {"--egress"}, {"--watch"}} {
		var out, errs bytes.Buffer
		code := execute(t.Context(), append([]string{"nat", "--api.socket=" + socket}, args...), &out, &errs)
		want := "bridgewatch: the agent behind " + socket + " sees no translations: signal nat is off: load nat: no BTF; see bridgewatch check\n"
		if code != exitCannot || out.Len() > 0 || errs.String() != want {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want %d and %q", args, code, out.String(), errs.String(), exitCannot, want)
		}
	}
}

// Watching asks again, and ends when it is interrupted, which is no failure.
func TestNATWatch(t *testing.T) {
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	socket := serving(t, api.Handler(api.Answers{NAT: func(api.NATQuestion) api.NAT {
		if asked.Add(1) == 2 {
			cancel()
		}
		return manyWays()
	}}))
	var out, errs bytes.Buffer
	code := execute(ctx, []string{"nat", "--watch", "--api.socket=" + socket}, &out, &errs)
	if code != exitGood || errs.Len() > 0 || asked.Load() != 2 {
		t.Errorf("exit code %d, stderr %q, asked %d times; want %d, nothing and twice", code, errs.String(), asked.Load(), exitGood)
	}
	if !strings.HasPrefix(out.String(), "TIME ") || strings.ContainsRune(out.String(), '\x1b') {
		t.Errorf("to a file it prints %q", out.String())
	}
}

// A terminal shows the top of the table, which is its latest.
func TestRedraw(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for _, call := range []func() error{
		func() error { return unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0) },
		func() error {
			return unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 4, Col: 80})
		},
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	number, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	if err := redraw(screen, []byte("1\n2\n3\n4\n5\n")); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 100)
	n, err := terminal.Read(shown)
	if err != nil {
		t.Fatal(err)
	}
	if want := clearScreen + "1\r\n2\r\n3\r\n"; string(shown[:n]) != want {
		t.Errorf("the terminal gets %q, want %q", shown[:n], want)
	}
}
