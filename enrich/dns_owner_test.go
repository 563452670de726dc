// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/bridgewatch/bridgewatch/loader"
)

// asked is a lookup at the embedded resolver that found nothing, as it ends: 10 ms after it began.
func (w *world) asked(netns loader.Netns, name string, changes ...func(*loader.DNSLookup)) loader.DNSLookup {
	w.t.Helper()
	begun := w.now
	w.wait(10 * time.Millisecond)
	l := loader.DNSLookup{
		Netns: netns, Protocol: 17, Server: netip.MustParseAddrPort("127.0.0.11:40123"),
		Question: loader.DNSQuestion{Name: name, Type: dns.TypeA, Class: dns.ClassINET},
		Tries:    []loader.DNSTry{{Asked: begun}}, Answered: w.now, Answer: loader.DNSAnswer{RCode: dns.RcodeNameError},
	}
	for _, change := range changes {
		change(&l)
	}
	return l
}

func at53(server string) func(*loader.DNSLookup) {
	return func(l *loader.DNSLookup) { l.Server = netip.AddrPortFrom(netip.MustParseAddr(server), 53) }
}

func answering(addresses ...string) func(*loader.DNSLookup) {
	return func(l *loader.DNSLookup) {
		l.Answer = loader.DNSAnswer{RCode: dns.RcodeSuccess, Records: len(addresses)}
		for _, a := range addresses {
			l.Answer.Addresses = append(l.Answer.Addresses, netip.MustParseAddr(a))
		}
	}
}

func answeringCode(code uint16) func(*loader.DNSLookup) {
	return func(l *loader.DNSLookup) { l.Answer = loader.DNSAnswer{RCode: code} }
}

func ofQType(number uint16) func(*loader.DNSLookup) {
	return func(l *loader.DNSLookup) { l.Question.Type = number }
}

func timedOut(l *loader.DNSLookup) {
	l.Outcome, l.Answered, l.Answer = loader.DNSTimedOut, time.Time{}, loader.DNSAnswer{}
}

func inGroup(group loader.DNSGroup, server string) func(*loader.DNSLookup) {
	return func(l *loader.DNSLookup) { l.Group, l.Server = group, netip.MustParseAddrPort(server) }
}

func forwardedFor(netns loader.Netns) func(*loader.DNSLookup) {
	return func(l *loader.DNSLookup) { l.ForwardOf, l.AskedFor = 1, netns }
}

// attribute returns what is told at once.
func (w *world) attribute(lookups ...loader.DNSLookup) DNS {
	w.t.Helper()
	return w.AttributeDNS(loader.DNSNews{Lookups: lookups})
}

// told is all that attribution says of a lookup's place.
type toldLookup struct {
	Container, Network string
	Scope              Scope
	Resolver           Resolver
	QType, RCode       string
	Inferred, Failed   bool
}

func toldOf(l Lookup) toldLookup {
	return toldLookup{l.Container, l.Network, l.Scope, l.Resolver, l.QType, l.RCode, l.Inferred, l.Failed()}
}

func TestLookupsOwner(t *testing.T) {
	for _, tc := range []struct {
		name    string
		netns   loader.Netns
		changes []func(*loader.DNSLookup)
		want    toldLookup
	}{
		{"embedded", alphaPort, nil, toldLookup{"alpha", "web", ScopeContainer, ResolverEmbedded, "A", "NXDOMAIN", false, false}},
		{
			"direct", gammaPort, []func(*loader.DNSLookup){at53("192.0.2.53"), answering("203.0.113.9"), ofQType(dns.TypeAAAA)},
			toldLookup{"gamma", "back", ScopeContainer, ResolverDirect, "AAAA", "NOERROR", false, false},
		},
		{
			"on two networks", deltaNetns, []func(*loader.DNSLookup){answeringCode(dns.RcodeRefused), ofQType(dns.TypeLOC)},
			toldLookup{"delta", "", ScopeContainer, ResolverEmbedded, "other", "REFUSED", false, true},
		},
		{
			"of one that shares another's namespace", alphaPort, []func(*loader.DNSLookup){answeringCode(dns.RcodeBadVers), ofQType(dns.TypeSVCB)},
			toldLookup{"alpha", "web", ScopeContainer, ResolverEmbedded, "SVCB", "other", false, true},
		},
		{
			"the engine asks in the container's namespace", alphaPort,
			[]func(*loader.DNSLookup){at53("192.0.2.53"), forwardedFor(alphaPort), answeringCode(dns.RcodeServerFailure)},
			toldLookup{"alpha", "web", ScopeContainer, ResolverUpstream, "A", "SERVFAIL", false, true},
		},
		{
			"the engine asks in the host's namespace", hostNetns,
			[]func(*loader.DNSLookup){at53("192.0.2.53"), forwardedFor(alphaPort), timedOut},
			toldLookup{"alpha", "web", ScopeHost, ResolverUpstream, "A", "", true, true},
		},
		{
			"the host's own", hostNetns, []func(*loader.DNSLookup){at53("127.0.0.53")},
			toldLookup{"", "", ScopeHost, ResolverDirect, "A", "NXDOMAIN", false, false},
		},
		{"nowhere", 0, nil, toldLookup{"", "", ScopeUnknown, ResolverEmbedded, "A", "NXDOMAIN", false, false}},
		{
			"multicast DNS", alphaPort, []func(*loader.DNSLookup){
				inGroup(loader.MulticastDNS, "224.0.0.251:5353"), timedOut, func(l *loader.DNSLookup) { l.Outcome = loader.DNSUnawaited },
			},
			toldLookup{"alpha", "web", ScopeContainer, ResolverMDNS, "A", "", false, false},
		},
		{
			"LLMNR", hostNetns, []func(*loader.DNSLookup){inGroup(loader.LLMNR, "[ff02::1:3]:5355")},
			toldLookup{"", "", ScopeHost, ResolverLLMNR, "A", "NXDOMAIN", false, false},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newNamedTown(t)
			got := w.attribute(w.asked(tc.netns, "nobody.test", tc.changes...)).Lookups
			if len(got) != 1 {
				t.Fatalf("told %d lookups, want 1", len(got))
			}
			if diff := cmp.Diff(tc.want, toldOf(got[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is asked in the engine's own namespaces is no container's, and does not wait for one.
func TestLookupsInSandboxes(t *testing.T) {
	w := newSwarmWorld(t)
	for netns, want := range map[loader.Netns]Scope{lbNetns: ScopeLoadBalancer, meshNetns: ScopeIngress, ov1Netns: ScopeOverlay} {
		got := w.attribute(w.asked(netns, "nobody.test")).Lookups
		if len(got) != 1 || got[0].Scope != want || got[0].ContainerID != "" {
			t.Errorf("%s: %+v", want, got)
		}
	}
}

// The first lookup of a container comes before the engine has said its name.
func TestLookupsWait(t *testing.T) {
	w := newNamedTown(t)
	early := w.asked(77, "one.test")
	w.Process(processOf("late", 77))
	if got := w.attribute(early).Lookups; len(got) != 0 {
		t.Fatalf("told %v of nobody, want that it waits", got)
	}
	w.PutContainer(on(w.container("late"), "web", "172.30.1.77"))
	got := w.attribute(w.asked(77, "two.test")).Lookups
	if len(got) != 2 || got[0].Question.Name != "one.test" || got[0].Container != "late" || got[1].Container != "late" {
		t.Errorf("told %+v, want both of late", got)
	}

	w.attribute(w.asked(78, "three.test"))
	w.wait(patience)
	got = w.attribute().Lookups
	if len(got) != 1 || got[0].Container != "" || got[0].Scope != ScopeUnknown {
		t.Errorf("told %+v, want one of nobody", got)
	}
	w.wait(patience)
	if got := w.attribute().Lookups; len(got) != 0 {
		t.Errorf("told %+v again", got)
	}
}

// One reading with very many does not make the next one as large.
func TestLookupsRoomIsBounded(t *testing.T) {
	w := newNamedTown(t)
	lookups := make([]loader.DNSLookup, 0, 2*maxTold)
	for range 2 * maxTold {
		lookups = append(lookups, w.asked(hostNetns, "one.test", answering("192.0.2.7")))
	}
	if got := len(w.attribute(lookups...).Lookups); got != 2*maxTold {
		t.Errorf("told %d, want %d", got, 2*maxTold)
	}
	if got := cap(w.attribute().Lookups); got > maxTold {
		t.Errorf("has room for %d, want %d at most", got, maxTold)
	}
}

func TestOddMessagesOwner(t *testing.T) {
	w := newNamedTown(t)
	odd := func(netns loader.Netns, server string, group loader.DNSGroup) loader.DNSOdd {
		return loader.DNSOdd{Netns: netns, Server: netip.MustParseAddr(server), Group: group, Oddity: loader.DNSLate, Count: 3}
	}
	forwarded := func(odd loader.DNSOdd) loader.DNSOdd {
		odd.Forwarded = true
		return odd
	}
	news := loader.DNSNews{Odd: []loader.DNSOdd{
		odd(alphaPort, "127.0.0.11", loader.DNSUnicast), odd(gammaPort, "192.0.2.53", loader.DNSUnicast),
		forwarded(odd(gammaPort, "192.0.2.53", loader.DNSUnicast)), forwarded(odd(hostNetns, "192.0.2.53", loader.DNSUnicast)),
		odd(hostNetns, "224.0.0.251", loader.MulticastDNS), odd(99, "192.0.2.53", loader.DNSUnicast),
	}}
	told := w.AttributeDNS(news).Odd
	if len(told) != 5 {
		t.Errorf("told %d messages at once, want 5", len(told))
	}
	w.wait(patience)
	told = append(told, w.attribute().Odd...)
	type place struct {
		container, network string
		scope              Scope
		resolver           Resolver
		count              uint64
	}
	var got []place
	for _, o := range told {
		got = append(got, place{o.Container, o.Network, o.Scope, o.Resolver, o.Count})
	}
	want := []place{
		{"alpha", "web", ScopeContainer, ResolverEmbedded, 3}, {"gamma", "back", ScopeContainer, ResolverDirect, 3},
		{"gamma", "back", ScopeContainer, ResolverUpstream, 3}, {"", "", ScopeHost, ResolverUpstream, 3},
		{"", "", ScopeHost, ResolverMDNS, 3}, {"", "", ScopeUnknown, ResolverDirect, 3},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(place{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What the labels may hold is what is listed.
func TestDNSCodes(t *testing.T) {
	types, codes := make(map[string]bool), make(map[string]bool)
	for number := range uint16(1000) {
		types[qtype(number)] = true
		codes[rcode(number)] = true
	}
	for name, got := range map[string]map[string]bool{"types": types, "codes": codes} {
		want := map[string][]string{"types": QTypes(), "codes": RCodes()}[name]
		if len(got) != len(want) || slices.ContainsFunc(want, func(s string) bool { return !got[s] }) {
			t.Errorf("%s are %v, want %v", name, got, want)
		}
	}
}
