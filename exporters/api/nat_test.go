// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

var compareAddresses = cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})

// Both the question and the answer arrive as they were sent.
func TestNAT(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC)
	want := NAT{
		Now: at, Started: at.Add(-time.Hour), Incomplete: "no events",
		Gaps: enrich.Gaps{Evicted: 7, Kept: 4096, Oldest: at.Add(-time.Minute), Unknown: true},
		Rows: []enrich.NATRow{
			{
				Time: at, Scope: enrich.ScopeHost, Stack: "shop", Service: "web", Container: "web.1", Network: "front",
				ContainerID: strings.Repeat("ab", 32), Protocol: "tcp", Kind: enrich.DNAT,
				Client: netip.MustParseAddrPort("203.0.113.7:51234"), Destination: netip.MustParseAddrPort("[2001:db8::10]:8080"),
				Seen: netip.MustParseAddrPort("172.18.0.1:43210"), Server: netip.MustParseAddrPort("172.18.0.2:80"),
				Port: 8080, From: enrich.ClientRemote, Lost: true, Mechanism: enrich.UserlandProxy, Inferred: true, Answered: true,
			},
			{
				Time: at, Scope: enrich.ScopeIngress, Protocol: "udp", Client: netip.MustParseAddrPort("203.0.113.8:5"),
				Destination: netip.MustParseAddrPort("192.0.2.1:53"),
			},
		},
		Egress: &Egress{
			Time: at.Add(-12 * time.Second),
			Identities: []EgressIdentity{{
				enrich.Identity{Service: "web", Container: "web.1", Network: "front"}, "abc", netip.MustParseAddr("192.0.2.1"), 5, 2,
			}},
			Pressure: []PortPressure{{
				netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("198.51.100.1:443"), "tcp", 27000, 28232, enrich.Identity{Container: "c"},
			}},
		},
	}
	for _, question := range []NATQuestion{
		{},
		{NATFilter: enrich.NATFilter{Container: "a&b=c d/ä?", Port: 65535, Lost: true, Limit: 50}, Lookups: true, Egress: true},
		{NATFilter: enrich.NATFilter{Port: 53}, Egress: true},
	} {
		var asked NATQuestion
		socket := serve(t, Handler(Answers{NAT: func(q NATQuestion) NAT {
			asked = q
			return want
		}}))
		got, err := AskNAT(t.Context(), socket, question)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareAddresses); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(question, asked); diff != "" {
			t.Errorf("asked (-), understood (+): %s", diff)
		}
	}
}

// An older agent is told from one that refuses the question.
func TestNATUnknown(t *testing.T) {
	old := serve(t, Handler(Answers{Findings: func() Findings { return Findings{} }}))
	if _, err := AskNAT(t.Context(), old, NATQuestion{}); err == nil || !strings.Contains(err.Error(), ErrUnknownQuestion.Error()) {
		t.Errorf("older agent: %v, want %v", err, ErrUnknownQuestion)
	}
}

func TestNATBadQuestions(t *testing.T) {
	socket := serve(t, Handler(Answers{NAT: func(q NATQuestion) NAT {
		t.Errorf("it answers %+v", q)
		return NAT{}
	}}))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	for query, want := range map[string]string{
		"port=0":           `port is "0", want 1 to 65535`,
		"port=65536":       `port is "65536", want 1 to 65535`,
		"port=http":        `port is "http", want 1 to 65535`,
		"port=":            `port is "", want 1 to 65535`,
		"limit=0":          `limit is "0", want a number from 1`,
		"limit=-1":         `limit is "-1", want a number from 1`,
		"limit=1e3":        `limit is "1e3", want a number from 1`,
		"lost=perhaps":     `lost is "perhaps", want true or false`,
		"lookups=":         `lookups is "", want true or false`,
		"egress=2":         `egress is "2", want true or false`,
		"service=web":      `no parameter is called "service"`,
		"port=1&port=2":    `port is given 2 times`,
		"container=%zz":    `parse question`,
		"container=a;b=%3": `parse question`,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bridgewatch"+natPath+"?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest || err != nil || !strings.Contains(string(said), want) {
			t.Errorf("%s is answered with %s %q, want 400 and %q", query, response.Status, said, want)
		}
	}
	if _, err := AskNAT(t.Context(), socket, NATQuestion{NATFilter: enrich.NATFilter{Limit: -1}}); err == nil || !strings.HasSuffix(err.Error(), `ask the agent: limit is "-1", want a number from 1`) {
		t.Errorf("the asker is told %v", err)
	}
}

// opened is a connection of a container that is translated.
func opened(second int, container string, kind enrich.NATKind, port uint16) enrich.Translation {
	return enrich.Translation{
		NATEvent: loader.NATEvent{
			Tracked: loader.Tracked{Protocol: unix.IPPROTO_TCP, Original: loader.Tuple{
				Source:      netip.AddrPortFrom(netip.MustParseAddr("172.18.0.2"), port),
				Destination: netip.MustParseAddrPort("198.51.100.1:443"),
			}},
			At: time.Unix(int64(second), 0),
		},
		Identity: enrich.Identity{Container: container}, ContainerID: "id-" + container, Scope: enrich.ScopeContainer, Kind: kind,
	}
}

// Lookups, of which there are many, hide nothing of the rest.
func TestChoose(t *testing.T) {
	table := enrich.NewNATTable(0)
	for i := range 10 {
		table.Add(enrich.NAT{Translations: []enrich.Translation{
			opened(2*i, "alpha", enrich.Masquerade, uint16(1000+i)), opened(2*i+1, "alpha", enrich.EmbeddedDNS, uint16(2000+i)),
		}})
	}
	for _, tc := range []struct {
		question NATQuestion
		want     []uint16 // ports of the clients
	}{
		{NATQuestion{NATFilter: enrich.NATFilter{Limit: 3}}, []uint16{1009, 1008, 1007}},
		{NATQuestion{NATFilter: enrich.NATFilter{Limit: 3}, Lookups: true}, []uint16{2009, 1009, 2008}},
		{NATQuestion{NATFilter: enrich.NATFilter{Container: "beta"}}, []uint16{}},
	} {
		got := []uint16{}
		var answer NAT
		tc.question.Choose(&answer, table)
		for _, row := range answer.Rows {
			got = append(got, row.Client.Port())
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%+v: %s", tc.question, diff)
		}
	}
}

// A list is one also if nothing is on it.
func TestNATNoRows(t *testing.T) {
	answer := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, natPath+"?egress=true", nil)
	Handler(Answers{NAT: func(NATQuestion) NAT { return NAT{} }}).ServeHTTP(answer, request)
	if text := answer.Body.String(); !strings.Contains(text, `"rows":[]`) {
		t.Errorf("it says %s", text)
	}
}

func TestChooseEgress(t *testing.T) {
	own, shared := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	tracking := enrich.Tracking{
		Identities: []enrich.EgressIdentity{
			{Identity: enrich.Identity{Service: "web", Container: "web.1"}, ContainerID: strings.Repeat("a", 64), Address: shared, Connections: 7, Sharing: 2},
			{Identity: enrich.Identity{Container: "db"}, ContainerID: strings.Repeat("b", 64), Address: shared, Connections: 1, Sharing: 2},
			{Identity: enrich.Identity{Container: "vote"}, ContainerID: strings.Repeat("c", 64), Address: own, Connections: 3, Sharing: 1},
		},
		Pressure: []enrich.PortPressure{
			{Address: shared, Protocol: unix.IPPROTO_TCP, Used: 900, Limit: 1000, Example: enrich.Identity{Container: "db"}},
			{Address: own, Protocol: unix.IPPROTO_UDP, Used: 3, Limit: 1000, Example: enrich.Identity{Container: "vote"}},
		},
	}
	for _, tc := range []struct {
		name      string
		container string
		limit     int
		want      []string // containers
		used      []int
	}{
		{"all, by name", "", 0, []string{"db", "vote", "web.1"}, []int{900, 3}},
		{"only so many", "", 1, []string{"db"}, []int{900}},
		{"a container, and its address", "vote", 0, []string{"vote"}, []int{3}},
		{"a service, under an address that another is the example of", "web", 0, []string{"web.1"}, []int{900}},
		{"an ID", "bbbbbbbbbbbb", 0, []string{"db"}, []int{900}},
		{"four digits of an ID", "bbbb", 0, []string{"db"}, []int{900}},
		{"too little of an ID", "bbb", 0, []string{}, []int{}},
		{"no ID", "BBBB", 0, []string{}, []int{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := NATQuestion{NATFilter: enrich.NATFilter{Container: tc.container, Limit: tc.limit}, Egress: true}
			containers, used := []string{}, []int{}
			at := time.Unix(1, 0)
			var answer NAT
			q.ChooseEgress(&answer, &tracking, at)
			egress := answer.Egress
			if unknown := len(tc.want) == 0; answer.Unknown != unknown || !egress.Time.Equal(at) {
				t.Errorf("unknown %t, of %v; want %t and %v", answer.Unknown, egress.Time, unknown, at)
			}
			for _, i := range egress.Identities {
				containers = append(containers, i.Container)
			}
			for _, p := range egress.Pressure {
				used = append(used, p.Used)
			}
			if diff := cmp.Diff(tc.want, containers); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.used, used); diff != "" {
				t.Error(diff)
			}
		})
	}
}
