// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// askingDNS runs the command and returns what it asked and what it printed.
func askingDNS(t *testing.T, answer api.DNS, args ...string) (asked api.DNSQuestion, printed string) {
	t.Helper()
	socket := serving(t, api.Handler(api.Answers{DNS: func(q api.DNSQuestion) api.DNS {
		asked = q
		return answer
	}}))
	var out, errs bytes.Buffer
	code := execute(t.Context(), append([]string{"dns", "--api.socket=" + socket}, args...), &out, &errs)
	if code != exitGood || errs.Len() > 0 {
		t.Fatalf("exit code %d, stderr %q", code, errs.String())
	}
	return asked, out.String()
}

// legTo is a lookup at a server that was answered at noon.
func legTo(resolver enrich.Resolver, server, rcode string, ms float64, addresses ...string) enrich.DNSLeg {
	leg := enrich.DNSLeg{
		Time: noon, Resolver: resolver, Protocol: "udp", Client: port("172.18.0.2:40000"), Server: port(server), Outcome: enrich.Answered,
		RCode: rcode, Records: len(addresses), Seconds: ms / 1000,
	}
	for _, a := range addresses {
		leg.Addresses = append(leg.Addresses, netip.MustParseAddr(a))
	}
	return leg
}

// lookup is one of a container at the engine's resolver.
func lookup(container, name, qtype, rcode string, ms float64, addresses ...string) enrich.DNSRow {
	return enrich.DNSRow{
		DNSLeg: legTo(enrich.ResolverEmbedded, "127.0.0.11:53", rcode, ms, addresses...), Scope: enrich.ScopeContainer,
		Container: container, Network: "front", ContainerID: strings.Repeat("ab", 32), Name: name, QType: qtype,
		Failed: rcode != "NOERROR",
	}
}

func silent(leg enrich.DNSLeg) enrich.DNSLeg {
	leg.Outcome, leg.RCode, leg.Seconds = enrich.TimedOut, "", 0
	return leg
}

// manyLookups is what an agent says of a host where names are looked up in all ways.
func manyLookups() api.DNS {
	upstream := func(server, rcode string, ms float64, addresses ...string) enrich.DNSLeg {
		return legTo(enrich.ResolverUpstream, server, rcode, ms, addresses...)
	}
	served := lookup("web.1", "db", "A", "NOERROR", 0.21, "10.0.1.7")
	served.Answerers = []enrich.DNSAnswerer{{Address: served.Addresses[0], Owner: enrich.Identity{Service: "db", Container: "db.1"}}}
	service := lookup("web.1", "api", "A", "NOERROR", 0.19, "10.0.1.8")
	service.Answerers = []enrich.DNSAnswerer{{Address: service.Addresses[0], Owner: enrich.Identity{Stack: "shop", Service: "api"}}}
	without := lookup("web.1", "db", "AAAA", "NOERROR", 0.2)
	forwarded := lookup("web.1", "example.org", "A", "NOERROR", 14.2, "192.0.2.80", "192.0.2.81", "192.0.2.82")
	forwarded.Upstream = []enrich.DNSLeg{upstream("10.0.0.53:53", "NOERROR", 12.4, "192.0.2.80", "192.0.2.81", "192.0.2.82")}
	second := lookup("web.1", "slow.example", "A", "NOERROR", 4013, "192.0.2.83")
	leg := upstream("10.0.0.54:53", "NOERROR", 4012, "192.0.2.83")
	leg.Retries, leg.Inferred = 1, true
	leg.Tries = []enrich.DNSTry{
		{Server: port("10.0.0.53:53"), Asked: noon, GaveUp: true},
		{Server: port("10.0.0.54:53"), Asked: noon.Add(4 * time.Second), Answer: noon.Add(4012 * time.Millisecond)},
	}
	second.Upstream = []enrich.DNSLeg{leg}
	refused := lookup("web.1", "mail.example", "MX", "SERVFAIL", 31)
	refused.Upstream = []enrich.DNSLeg{upstream("10.0.0.53:53", "REFUSED", 11), upstream("10.0.0.54:53", "SERVFAIL", 16)}
	refused.MoreUpstream = 1
	dead := lookup("api", "gone.example", "A", "", 0)
	dead.DNSLeg = silent(dead.DNSLeg)
	dead.Retries = 2
	dead.Tries = []enrich.DNSTry{
		{Server: port("127.0.0.11:40123"), Asked: noon, GaveUp: true}, {Server: port("127.0.0.11:40123"), Asked: noon.Add(5 * time.Second), GaveUp: true},
		{Server: port("127.0.0.11:40123"), Asked: noon.Add(10 * time.Second), GaveUp: true},
	}
	dead.Upstream = []enrich.DNSLeg{silent(upstream("10.0.0.53:53", "", 0))}
	expansion := lookup("api", "db.corp.example", "A", "NXDOMAIN", 9)
	expansion.Base, expansion.FoundAs, expansion.Failed = "db", "db", false
	direct := lookup("old", "registry.example", "A", "NOERROR", 2031, "192.0.2.90")
	direct.Network = ""
	direct.DNSLeg = legTo(enrich.ResolverDirect, "198.51.100.8:53", "NOERROR", 2031, "192.0.2.90")
	direct.Retries = 2
	direct.Tries = []enrich.DNSTry{
		{Server: port("198.51.100.4:53"), Asked: noon, GaveUp: true}, {Server: port("198.51.100.4:53"), Asked: noon.Add(time.Second), GaveUp: true},
		{Server: port("198.51.100.8:53"), Asked: noon.Add(2 * time.Second), Answer: noon.Add(2031 * time.Millisecond)},
	}
	big := lookup("old", "big.example", "TXT", "NOERROR", 3.1)
	big.Truncated, big.Records = true, 4
	whole := lookup("old", "big.example", "TXT", "NOERROR", 5)
	whole.Protocol, whole.Records = "tcp", 24
	odd := lookup("old", "cookie.example", "A", "other", 3)
	odd.Code = 23
	unknown := lookup("old", "lost.example", "A", "", 0)
	unknown.Outcome, unknown.Failed = enrich.NotKnown, false
	printer := lookup("", "printer.local", "PTR", "", 0)
	printer.DNSLeg = legTo(enrich.ResolverMDNS, "224.0.0.251:5353", "", 0)
	printer.Outcome, printer.Failed, printer.Scope, printer.ContainerID, printer.Network = enrich.Unawaited, false, enrich.ScopeHost, "", ""
	orphan := lookup("~adhoc", "late.example", "A", "NOERROR", 0)
	orphan.DNSLeg = upstream("[2001:db8::53]:53", "NOERROR", 7, "2001:db8::80")
	misnamed := func(why enrich.Misname, targets ...enrich.DNSTarget) enrich.DNSRow {
		row := lookup("api", "db", "A", "NXDOMAIN", 8)
		row.Misname, row.Targets = why, targets
		return row
	}
	target := func(container, network, use string) enrich.DNSTarget {
		return enrich.DNSTarget{Identity: enrich.Identity{Container: container, Network: network}, ContainerID: "abc", UseName: use}
	}
	shared := lookup("api", "cache", "A", "NOERROR", 0.3, "10.0.1.9", "10.0.1.10")
	for i, stack := range []string{"shop", "blog"} {
		shared.Answerers = append(shared.Answerers, enrich.DNSAnswerer{
			Address: shared.Addresses[i], Owner: enrich.Identity{Stack: stack, Service: "cache", Container: stack + "-cache-1"},
		})
	}
	long := lookup("payment-gateway-of-the-shop-1", "a-long-name."+strings.Repeat("in-a-zone.", 10)+"example", "HTTPS", "NOERROR", 12, "2001:db8::80")
	long.Upstream = []enrich.DNSLeg{silent(upstream("[2001:db8:1:2:aaaa:bbbb:cccc:dddd]:53", "", 0)), upstream("10.0.0.54:53", "NOERROR", 11, "2001:db8::80")}
	hostile := lookup("a\x1b[31m\nb", "x\x1b[2Jy", "A", "NXDOMAIN", 1)
	old := lookup("web.1", "yesterday.example", "A", "NOERROR", 1, "192.0.2.1")
	old.Time = noon.Add(-25 * time.Hour)
	return api.DNS{
		Now: noon, Started: noon.Add(-26 * time.Hour), Timeout: 5,
		Rows: []enrich.DNSRow{
			served, service, without, forwarded, second, refused, dead, expansion, direct, big, whole, odd, unknown, printer, orphan,
			misnamed(enrich.MisnameHostname, target("shop-db-1", "", "shop-db-1")),
			misnamed(enrich.MisnameOtherNetwork, target("db-1", "back", ""), target("db-2", "far", "")),
			misnamed(enrich.MisnameOtherNetwork, target("db-1", "", "")),
			misnamed(enrich.MisnameDefaultBridge, target("db-1", "bridge", "")),
			misnamed(enrich.MisnameMissing, target("db-1", "front", "")), misnamed(enrich.MisnameMissing),
			shared, long, hostile, old,
		},
	}
}

// The table is for terminals of all widths. Only words that are too long themselves are longer than a line.
func TestDNSGolden(t *testing.T) {
	answer := manyLookups()
	for name, width := range map[string]int{"dns_80.golden": 80, "dns_120.golden": 120, "dns_160.golden": 160} {
		p := dnsPrinter{answer: &answer, question: &api.DNSQuestion{}, width: width}
		p.lookups()
		golden(t, name, []byte(p.String()))
		for line := range strings.Lines(p.String()) {
			if n := columns(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, "a-long-name") {
				t.Errorf("a line has %d columns, want at most %d: %q", n, width, line)
			}
		}
		if strings.ContainsRune(p.String(), '\x1b') {
			t.Error("a name commands the terminal")
		}
	}
	_, printed := askingDNS(t, answer)
	golden(t, "dns_120.golden", []byte(printed)) // as to a file
}

// Columns that say nothing are left out.
func TestDNSColumns(t *testing.T) {
	answer := manyLookups()
	answer.Rows = answer.Rows[:1]
	_, printed := askingDNS(t, answer)
	const want = "TIME      CONTAINER  NETWORK  NAME  TYPE  RESOLVER  ANSWER           TOOK\n" +
		"12:00:00  web.1      front    db    A     embedded  10.0.1.7 (db.1)  0.2 ms\n"
	if diff := cmp.Diff(want, printed); diff != "" {
		t.Error(diff)
	}
	answer.Rows[0].Network = ""
	if _, printed := askingDNS(t, answer); strings.Contains(printed, "NETWORK") {
		t.Errorf("it has a column of networks: %s", printed)
	}
}

// The JSON is what the agent says.
func TestDNSJSON(t *testing.T) {
	want := manyLookups()
	_, printed := askingDNS(t, want, "--output=json")
	golden(t, "dns.json.golden", []byte(printed))
	var got api.DNS
	if err := json.Unmarshal([]byte(printed), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestDNSAsks(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want enrich.DNSFilter
	}{
		{nil, enrich.DNSFilter{Limit: 50}},
		{
			[]string{"--container=web.1", "--failed", "--slower-than=1.5s", "--unknown", "--limit=3"},
			enrich.DNSFilter{Container: "web.1", Failed: true, SlowerThan: 1500 * time.Millisecond, Unknown: true, Limit: 3},
		},
	} {
		if asked, _ := askingDNS(t, manyLookups(), tc.args...); asked.DNSFilter != tc.want {
			t.Errorf("%q asks %+v, want %+v", tc.args, asked.DNSFilter, tc.want)
		}
	}
}

// A table with nothing in it says why.
func TestDNSNothing(t *testing.T) {
	nothing := api.DNS{Now: noon, Started: noon.Add(-190 * time.Second), Timeout: 5, Rows: []enrich.DNSRow{}}
	stranger, evicted, lost, unowned := nothing, nothing, nothing, nothing
	stranger.Unknown = true
	unowned.Unowned = 1
	evicted.Gaps = enrich.Gaps{Evicted: 904, Kept: 4096, Oldest: noon.Add(-time.Minute)}
	lost.Lost = 3
	const since = "since 2026-11-22 11:56:50, when the agent began to watch, 3m10s ago\n"
	const ended = "One is shown when it is answered, or 5.5 s after it was last asked. What a\n" +
		"program finds in /etc/hosts or a cache, or asks over TLS or HTTPS, is not seen.\n"
	for _, tc := range []struct {
		name   string
		answer api.DNS
		args   []string
		want   string
	}{
		{"at all", nothing, nil, "no lookups\n" + since + ended},
		{"but of strangers", unowned, nil, "no lookups\n" + since + ended +
			"1 lookup of network namespaces that are no container's of Docker's: see\n--unknown.\n"},
		{"failed", nothing, []string{"--failed"}, "no lookups that failed\n" + since + ended},
		{
			"of all that is asked for", nothing, []string{"--container=web.1", "--failed", "--slower-than=100ms"},
			"no lookups of web.1 that failed and took longer than 100ms\n" + since + ended,
		},
		{"of late", evicted, []string{"--failed"}, "no lookups that failed\namong the latest 4096, the oldest of 2026-11-22 11:59:00\n" + ended},
		{
			"of nobody", stranger, []string{"--container=x"},
			"no lookups of x\n" + since + "No lookup is of a container or service called x, nor of the only\n" +
				"container whose ID begins so. Names are those in metrics: see bridgewatch dns\nwithout --container.\n" + ended,
		},
		{
			"and not all would be seen", lost, nil,
			"no lookups\n" + since + ended + "Not all can be seen: for 3 messages there was no room; see bridgewatch status.\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, printed := askingDNS(t, tc.answer, tc.args...)
			if diff := cmp.Diff(tc.want, printed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is not shown is told where it may be missing.
func TestDNSTellsOfWhatIsMissing(t *testing.T) {
	const more = "These are the latest 3; --limit shows more, if there are any.\n"
	const forgotten = "The agent keeps the latest 4096, the oldest of 2026-11-22 11:00:00.\nIt has forgotten 904 before those.\n"
	answer := manyLookups()
	answer.Rows = answer.Rows[:3]
	evicted := answer
	evicted.Gaps = enrich.Gaps{Evicted: 904, Kept: 4096, Oldest: noon.Add(-time.Hour)}
	for _, tc := range []struct {
		name   string
		answer api.DNS
		limit  string
		want   string
	}{
		{"fewer than wanted", answer, "4", ""},
		{"as many as wanted", answer, "3", more},
		{"fewer than wanted, and some forgotten", evicted, "4", forgotten},
		{"as many as wanted, all of them later", evicted, "3", more},
	} {
		_, printed := askingDNS(t, tc.answer, "--limit="+tc.limit)
		if lines := strings.SplitAfterN(printed, "\n", 5); len(lines) != 5 || lines[4] != tc.want {
			t.Errorf("%s: it prints %q, want %q behind the table", tc.name, printed, tc.want)
		}
	}
}

// An agent that sees no lookups has no answer, which is another thing than none.
func TestDNSOff(t *testing.T) {
	socket := serving(t, api.Handler(api.Answers{DNS: func(api.DNSQuestion) api.DNS {
		return api.DNS{Now: noon, Off: "attach dns: no cgroup v2", Rows: []enrich.DNSRow{}}
	}}))
	for _, args := range [][]string{nil, {"--output=json"}, {"--watch"}} {
		var out, errs bytes.Buffer
		code := execute(t.Context(), append([]string{"dns", "--api.socket=" + socket}, args...), &out, &errs)
		want := "bridgewatch: the agent behind " + socket + " sees no lookups: signal dns is off: attach dns: no cgroup v2; see bridgewatch check\n"
		if code != exitCannot || out.Len() > 0 || errs.String() != want {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want %d and %q", args, code, out.String(), errs.String(), exitCannot, want)
		}
	}
}

// Watching asks again, and ends when it is interrupted, which is no failure.
func TestDNSWatch(t *testing.T) {
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	socket := serving(t, api.Handler(api.Answers{DNS: func(api.DNSQuestion) api.DNS {
		if asked.Add(1) == 2 {
			cancel()
		}
		return manyLookups()
	}}))
	var out, errs bytes.Buffer
	code := execute(ctx, []string{"dns", "--watch", "--api.socket=" + socket}, &out, &errs)
	if code != exitGood || errs.Len() > 0 || asked.Load() != 2 {
		t.Errorf("exit code %d, stderr %q, asked %d times; want %d, nothing and twice", code, errs.String(), asked.Load(), exitGood)
	}
	if !strings.HasPrefix(out.String(), "TIME ") {
		t.Errorf("to a file it prints %q", out.String())
	}
}

func TestTookText(t *testing.T) {
	for seconds, want := range map[float64]string{
		0.00004: "0.04 ms", 0.00021: "0.2 ms", 0.00999: "10.0 ms", 0.01: "10 ms", 0.9994: "999 ms", 1: "1.0 s", 75.04: "75.0 s",
	} {
		if got := tookText(seconds); got != want {
			t.Errorf("%v is written %q, want %q", seconds, got, want)
		}
	}
}
