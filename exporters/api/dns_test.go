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

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// Both the question and the answer arrive as they were sent.
func TestDNS(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC)
	leg := enrich.DNSLeg{
		Time: at, Resolver: enrich.ResolverUpstream, Protocol: "tcp", Client: netip.MustParseAddrPort("172.18.0.2:40001"),
		Server: netip.MustParseAddrPort("[2001:db8::53]:53"), Outcome: enrich.Answered, RCode: "other", Code: 23, Truncated: true,
		Records: 3, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, Seconds: 0.0123456789,
		Retries: 1, Inferred: true, Tries: []enrich.DNSTry{
			{Server: netip.MustParseAddrPort("10.0.0.53:53"), Asked: at, GaveUp: true},
			{Server: netip.MustParseAddrPort("[2001:db8::53]:53"), Asked: at.Add(time.Second), Answer: at.Add(2 * time.Second)},
		},
	}
	want := DNS{
		Now: at, Started: at.Add(-time.Hour), Timeout: 5, Lost: 3,
		Gaps: enrich.Gaps{Evicted: 7, Kept: 4096, Oldest: at.Add(-time.Minute), Unknown: true},
		Rows: []enrich.DNSRow{
			{
				DNSLeg: leg, Scope: enrich.ScopeContainer, Stack: "shop", Service: "web", Container: "web.1", Network: "front",
				ContainerID: strings.Repeat("ab", 32), Name: `a\.b.example`, QType: "AAAA", Failed: true, FoundAs: "b", Base: "a",
				Misname: enrich.MisnameOtherNetwork, Upstream: []enrich.DNSLeg{leg, leg}, MoreUpstream: 2,
				Targets:   []enrich.DNSTarget{{Identity: enrich.Identity{Container: "db", Network: "back"}, ContainerID: "abc", UseName: "db"}},
				Answerers: []enrich.DNSAnswerer{{Address: netip.MustParseAddr("192.0.2.1"), Owner: enrich.Identity{Service: "db"}}},
			},
			{Scope: enrich.ScopeUnknown, Name: ".", QType: "NS"},
		},
	}
	for _, question := range []DNSQuestion{
		{},
		{enrich.DNSFilter{Container: "a&b=c d/ä?", Failed: true, SlowerThan: 90*time.Minute + time.Nanosecond, Unknown: true, Limit: 50}},
	} {
		var asked DNSQuestion
		socket := serve(t, Handler(Answers{DNS: func(q DNSQuestion) DNS {
			asked = q
			return want
		}}))
		got, err := AskDNS(t.Context(), socket, question)
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
func TestDNSUnknown(t *testing.T) {
	old := serve(t, Handler(Answers{NAT: func(NATQuestion) NAT { return NAT{} }}))
	if _, err := AskDNS(t.Context(), old, DNSQuestion{}); err == nil || !strings.Contains(err.Error(), ErrUnknownQuestion.Error()) {
		t.Errorf("older agent: %v, want %v", err, ErrUnknownQuestion)
	}
}

func TestDNSBadQuestions(t *testing.T) {
	socket := serve(t, Handler(Answers{DNS: func(q DNSQuestion) DNS {
		t.Errorf("it answers %+v", q)
		return DNS{}
	}}))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	for query, want := range map[string]string{
		"slower_than=0s":      `slower_than is "0s", want a time like 100ms`,
		"slower_than=-1s":     `slower_than is "-1s", want a time like 100ms`,
		"slower_than=100":     `slower_than is "100", want a time like 100ms`,
		"slower_than=":        `slower_than is "", want a time like 100ms`,
		"failed=perhaps":      `failed is "perhaps", want true or false`,
		"limit=0":             `limit is "0", want a number from 1`,
		"port=53":             `no parameter is called "port"`,
		"failed=1&failed=1":   `failed is given 2 times`,
		"container=%zz":       `parse question`,
		"container=a;limit=3": `parse question`,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bridgewatch"+dnsPath+"?"+query, nil)
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
}

func TestChooseDNS(t *testing.T) {
	table := enrich.NewDNSTable(2)
	for i, name := range []string{"one", "two", "three"} {
		table.Add(enrich.DNS{Lookups: []enrich.Lookup{{
			DNSLookup: loader.DNSLookup{
				Serial: uint64(i + 1), Outcome: loader.DNSTimedOut, Question: loader.DNSQuestion{Name: name},
				Tries: []loader.DNSTry{{Asked: time.Unix(int64(i), 0)}},
			},
			Identity: enrich.Identity{Container: "web"}, Scope: enrich.ScopeContainer,
		}}})
	}
	question := DNSQuestion{enrich.DNSFilter{Container: "web", Failed: true}}
	var answer DNS
	question.Choose(&answer, table)
	if len(answer.Rows) != 2 || answer.Rows[0].Name != "three" || answer.Evicted != 1 || answer.Unknown {
		t.Errorf("got %+v", answer)
	}
}

// A list is one also if nothing is on it.
func TestDNSNoRows(t *testing.T) {
	answer := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, dnsPath+"?failed=true", nil)
	Handler(Answers{DNS: func(DNSQuestion) DNS { return DNS{} }}).ServeHTTP(answer, request)
	if text := answer.Body.String(); !strings.Contains(text, `"rows":[]`) {
		t.Errorf("it says %s", text)
	}
}
