// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// eight is when lookups of tests begin.
var eight = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// lookups makes lookups, each asked a second after the one before.
type lookups struct{ serial uint64 }

// ask makes one of a container that was answered with a code within a millisecond.
func (s *lookups) ask(container, name, rcode string, changes ...func(*Lookup)) Lookup {
	s.serial++
	asked := eight.Add(time.Duration(s.serial) * time.Second)
	server := netip.MustParseAddrPort("127.0.0.11:53")
	l := Lookup{
		DNSLookup: loader.DNSLookup{
			Serial: s.serial, Protocol: unix.IPPROTO_UDP, Client: netip.MustParseAddrPort("127.0.0.1:40000"),
			Question: loader.DNSQuestion{Name: name, Type: 1, Class: 1}, Tries: []loader.DNSTry{{Server: server, Asked: asked}}, Server: server,
		},
		Identity: Identity{Container: container}, ContainerID: idOf(container), Scope: ScopeContainer, Resolver: ResolverEmbedded,
		QType: "A", RCode: rcode,
	}
	switch rcode {
	case "":
		l.Outcome = loader.DNSTimedOut
	default:
		took(time.Millisecond)(&l)
	}
	for _, change := range changes {
		change(&l)
	}
	return l
}

func took(d time.Duration) func(*Lookup) {
	return func(l *Lookup) { l.Answered = l.Asked().Add(d) }
}

// leg makes what the engine asks for a lookup.
func (s *lookups) leg(of *Lookup, rcode string, changes ...func(*Lookup)) Lookup {
	l := s.ask(of.Container, of.Question.Name, rcode, changes...)
	l.ForwardOf, l.Resolver, l.Server = of.Serial, ResolverUpstream, netip.MustParseAddrPort("10.0.0.53:53")
	return l
}

func ended(outcome loader.DNSOutcome, rcode string) func(*Lookup) {
	return func(l *Lookup) { l.Outcome, l.RCode, l.Answered = outcome, rcode, time.Time{} }
}

func ofBase(base string) func(*Lookup)  { return func(l *Lookup) { l.Base = base } }
func ofType(qtype string) func(*Lookup) { return func(l *Lookup) { l.QType = qtype } }
func ofScope(scope Scope) func(*Lookup) {
	return func(l *Lookup) { l.Scope, l.Identity, l.ContainerID = scope, Identity{}, "" }
}

// named is rows in short: names, and the codes of the legs.
func named(rows []DNSRow) (all []string) {
	for i := range rows {
		text := rows[i].Name
		for _, leg := range rows[i].Upstream {
			text += " <- " + string(leg.Outcome) + " " + leg.RCode
		}
		all = append(all, strings.TrimSpace(text))
	}
	return all
}

func TestDNSTable(t *testing.T) {
	for _, tc := range []struct {
		name string
		news func(s *lookups) []DNS
		want []string
	}{
		{
			"the latest first",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "one", "NOERROR"), s.ask("web", "two", "")}}, {Lookups: []Lookup{s.ask("db", "three", "NXDOMAIN")}}}
			},
			[]string{"three", "two", "one"},
		},
		{
			"a leg that ended before its lookup, and one after it",
			func(s *lookups) []DNS {
				one := s.ask("web", "one", "NOERROR")
				return []DNS{{Lookups: []Lookup{s.leg(&one, "SERVFAIL"), one, s.leg(&one, "NOERROR")}}}
			},
			[]string{"one <- answered SERVFAIL <- answered NOERROR"},
		},
		{
			"legs of readings before and after",
			func(s *lookups) []DNS {
				one := s.ask("web", "one", "NOERROR")
				return []DNS{
					{Lookups: []Lookup{s.leg(&one, "REFUSED"), s.leg(&one, "SERVFAIL")}}, {Lookups: []Lookup{one}}, {Lookups: []Lookup{s.leg(&one, "")}},
				}
			},
			[]string{"one <- answered REFUSED <- answered SERVFAIL <- timed_out"},
		},
		{
			"a leg without its lookup",
			func(s *lookups) []DNS {
				one, two := s.ask("web", "one", "NOERROR"), s.ask("web", "two", "NOERROR")
				return []DNS{{Lookups: []Lookup{s.leg(&one, "NOERROR"), two}}}
			},
			[]string{"one", "two"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := NewDNSTable(0)
			for _, dns := range tc.news(&lookups{}) {
				table.Add(dns)
			}
			if diff := cmp.Diff(tc.want, named(table.Recent(DNSFilter{}))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Of more legs than there is room for it is told how many.
func TestDNSTableLegs(t *testing.T) {
	var s lookups
	table := NewDNSTable(0)
	one := s.ask("web", "one", "NOERROR")
	dns := DNS{Lookups: []Lookup{one}}
	for range maxLegs + 3 {
		dns.Lookups = append(dns.Lookups, s.leg(&one, "NOERROR"))
	}
	table.Add(dns)
	if rows := table.Recent(DNSFilter{}); len(rows) != 1 || len(rows[0].Upstream) != maxLegs || rows[0].MoreUpstream != 3 {
		t.Errorf("got %+v", rows)
	}
}

func TestDNSTableFilter(t *testing.T) {
	var s lookups
	table := NewDNSTable(0)
	table.Add(DNS{Lookups: []Lookup{
		s.ask("web", "good", "NOERROR"),
		s.ask("web", "wrong", "NXDOMAIN"),
		s.ask("db", "silent", ""),
		s.ask("db", "slow", "NOERROR", took(time.Second)),
		s.ask("db", "slowish", "NOERROR", took(20*time.Millisecond)),
		s.ask("db", "broken", "SERVFAIL"),
		s.ask("db", "lost", "NOERROR", ended(loader.DNSUnknown, "")),
		s.ask("web", "printer.local", "NOERROR", ended(loader.DNSUnawaited, "")),
		s.ask("", "stray", "REFUSED", ofScope(ScopeUnknown)),
		s.ask("", "registry", "REFUSED", ofScope(ScopeHost)),
		s.ask("web.1", "served", "NOERROR", func(l *Lookup) { l.Service = "front" }),
	}})
	for _, tc := range []struct {
		name   string
		filter DNSFilter
		want   []string
	}{
		{"all", DNSFilter{}, []string{"served", "registry", "printer.local", "lost", "broken", "slowish", "slow", "silent", "wrong", "good"}},
		{"all, and of nobody", DNSFilter{Unknown: true}, []string{"served", "registry", "stray", "printer.local", "lost", "broken", "slowish", "slow", "silent", "wrong", "good"}},
		{"limit", DNSFilter{Limit: 2}, []string{"served", "registry"}},
		{"container", DNSFilter{Container: "web"}, []string{"printer.local", "wrong", "good"}},
		{"service", DNSFilter{Container: "front"}, []string{"served"}},
		{"ID", DNSFilter{Container: idOf("web")}, []string{"printer.local", "wrong", "good"}},
		{"beginning of an ID", DNSFilter{Container: idOf("db")[:4]}, []string{"lost", "broken", "slowish", "slow", "silent"}},
		{"too little of it", DNSFilter{Container: idOf("db")[:3]}, nil},
		{"the host", DNSFilter{Container: "~host"}, []string{"registry"}},
		{"nobody", DNSFilter{Container: "nobody"}, nil},
		{"failed", DNSFilter{Failed: true}, []string{"registry", "broken", "silent", "wrong"}},
		{"failed, and of nobody", DNSFilter{Failed: true, Unknown: true}, []string{"registry", "stray", "broken", "silent", "wrong"}},
		{"failed of a container", DNSFilter{Failed: true, Container: "db"}, []string{"broken", "silent"}},
		{"slower, or never", DNSFilter{SlowerThan: 100 * time.Millisecond}, []string{"slow", "silent"}},
		{"much slower", DNSFilter{SlowerThan: time.Second}, []string{"silent"}},
		{"a little slower", DNSFilter{SlowerThan: 10 * time.Millisecond}, []string{"slowish", "slow", "silent"}},
		{"both", DNSFilter{SlowerThan: time.Microsecond, Failed: true, Container: "db"}, []string{"broken", "silent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rows, gaps := table.Find(tc.filter)
			if diff := cmp.Diff(tc.want, named(rows)); diff != "" {
				t.Error(diff)
			}
			if unknown := tc.want == nil; gaps.Unknown != unknown {
				t.Errorf("unknown is %t, want %t", gaps.Unknown, unknown)
			}
			// It is told what was left out of what would have been chosen.
			all := tc.filter
			all.Unknown, all.Limit = true, 0
			here := tc.filter
			here.Limit = 0
			if want := len(table.Recent(all)) - len(table.Recent(here)); gaps.Unowned != want {
				t.Errorf("%d of nobody are left out, want %d", gaps.Unowned, want)
			}
		})
	}
}

// What gave a client no answer is no failure if another way to complete the name was answered.
func TestDNSTableSearch(t *testing.T) {
	expansion := func(name, base string) Expansion {
		return Expansion{Identity: Identity{Container: "web"}, ContainerID: idOf("web"), Scope: ScopeContainer, Resolver: ResolverEmbedded, Name: name, Base: base}
	}
	for _, tc := range []struct {
		name   string
		news   func(s *lookups) []DNS
		failed []string
	}{
		{
			"search first, as with ndots",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{
					s.ask("web", "db.a", "NXDOMAIN", ofBase("db")), s.ask("web", "db.b", "NXDOMAIN", ofBase("db")), s.ask("web", "db", "NOERROR"),
				}}}
			},
			nil,
		},
		{
			"search last",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "db", "NXDOMAIN")}}, {Lookups: []Lookup{s.ask("web", "db.a", "NOERROR", ofBase("db"))}}}
			},
			nil,
		},
		{
			"search though there are no such records",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "db", "NOERROR"), s.ask("web", "db.a", "NXDOMAIN", ofBase("db"))}}}
			},
			nil,
		},
		{
			"known only by what followed",
			func(s *lookups) []DNS {
				return []DNS{
					{Lookups: []Lookup{s.ask("web", "db.a", "NXDOMAIN")}},
					{Lookups: []Lookup{s.ask("web", "db", "NOERROR")}, Expansions: []Expansion{expansion("db.a", "db")}},
				}
			},
			nil,
		},
		{
			"known even later",
			func(s *lookups) []DNS {
				return []DNS{
					{Lookups: []Lookup{s.ask("web", "db.a", "NXDOMAIN")}},
					{Lookups: []Lookup{s.ask("web", "db", "NOERROR")}}, {Expansions: []Expansion{expansion("db.a", "db")}},
				}
			},
			nil,
		},
		{
			"in vain",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "db.a", "NXDOMAIN", ofBase("db")), s.ask("web", "db", "NXDOMAIN")}}}
			},
			[]string{"db", "db.a"},
		},
		{
			"another type",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "db.a", "NXDOMAIN", ofBase("db")), s.ask("web", "db", "NOERROR", ofType("AAAA"))}}}
			},
			[]string{"db.a"},
		},
		{
			"another container's",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "db.a", "NXDOMAIN", ofBase("db")), s.ask("api", "db", "NOERROR")}}}
			},
			[]string{"db.a"},
		},
		{
			"another time",
			func(s *lookups) []DNS {
				first := s.ask("web", "db.a", "NXDOMAIN", ofBase("db"))
				s.serial += 10
				return []DNS{{Lookups: []Lookup{first, s.ask("web", "db", "NOERROR")}}}
			},
			[]string{"db.a"},
		},
		{
			"the same name a little later: it was not there before",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{s.ask("web", "db", "NXDOMAIN"), s.ask("web", "db", "NOERROR")}}}
			},
			[]string{"db"},
		},
		{
			"another failure is one",
			func(s *lookups) []DNS {
				return []DNS{{Lookups: []Lookup{
					s.ask("web", "db.a", "SERVFAIL", ofBase("db")), s.ask("web", "db.b", "", ofBase("db")), s.ask("web", "db", "NOERROR"),
				}}}
			},
			[]string{"db.b", "db.a"},
		},
		{
			"what the engine is told is no client's answer",
			func(s *lookups) []DNS {
				one := s.ask("web", "db.a", "NXDOMAIN", ofBase("db"))
				two := s.ask("web", "db", "")
				return []DNS{{Lookups: []Lookup{one, two, s.leg(&two, "NOERROR")}}}
			},
			[]string{"db", "db.a"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := NewDNSTable(0)
			all := 0
			for _, dns := range tc.news(&lookups{}) {
				table.Add(dns)
				for i := range dns.Lookups {
					if dns.Lookups[i].ForwardOf == 0 {
						all++
					}
				}
			}
			if diff := cmp.Diff(tc.failed, keys(table.Recent(DNSFilter{Failed: true}))); diff != "" {
				t.Error(diff)
			}
			if rows := table.Recent(DNSFilter{}); len(rows) != all {
				t.Errorf("%d rows, want %d", len(rows), all)
			}
		})
	}
}

func keys(rows []DNSRow) (names []string) {
	for i := range rows {
		names = append(names, rows[i].Name)
	}
	return names
}

// A lookup that has not failed says where its client found what it looked for.
func TestDNSTableFoundAs(t *testing.T) {
	var s lookups
	table := NewDNSTable(0)
	table.Add(DNS{Lookups: []Lookup{s.ask("web", "db.a", "NXDOMAIN", ofBase("db")), s.ask("web", "db", "NOERROR")}})
	rows := table.Recent(DNSFilter{})
	if len(rows) != 2 || rows[1].FoundAs != "db" || rows[0].FoundAs != "" {
		t.Errorf("got %+v", rows)
	}
}

// Of more lookups than there is room for, in one reading, the latest remain, each with its legs.
func TestDNSTableFloodInOneReading(t *testing.T) {
	const size, asked = 16, 100
	var s lookups
	var dns DNS
	var asks []Lookup
	for i := range asked {
		l := s.ask("web", fmt.Sprint(i), "NOERROR")
		asks = append(asks, l)
		dns.Lookups = append(dns.Lookups, s.leg(&l, "NOERROR"))
	}
	dns.Lookups = append(dns.Lookups, asks...)
	table := NewDNSTable(size)
	table.Add(dns)
	rows := table.Recent(DNSFilter{})
	if len(rows) != size {
		t.Errorf("%d rows, want %d", len(rows), size)
	}
	for i := range rows {
		if want := fmt.Sprint(asked - 1 - i); rows[i].Name != want || len(rows[i].Upstream) != 1 {
			t.Errorf("row %d is of %s with %d legs, want %s with one", i, rows[i].Name, len(rows[i].Upstream), want)
		}
	}
}

// Whatever there is a flood of pushes out only its like, and what is missing is told.
func TestDNSTableFlood(t *testing.T) {
	const size = 16
	good := func(s *lookups) []Lookup { return []Lookup{s.ask("noisy", "good", "NOERROR")} }
	searching := func(s *lookups) []Lookup {
		return []Lookup{s.ask("noisy", "good.a", "NXDOMAIN", ofBase("good")), s.ask("noisy", "good", "NOERROR")}
	}
	late := func(s *lookups) []Lookup { // a reading ends between both
		if s.serial%2 == 1 {
			return []Lookup{s.ask("noisy", "good", "NOERROR")}
		}
		return []Lookup{s.ask("noisy", "good.a", "NXDOMAIN", ofBase("good"))}
	}
	chatter := func(s *lookups) []Lookup {
		return []Lookup{s.ask("noisy", "printer.local", "", ended(loader.DNSUnawaited, ""))}
	}
	stray := func(s *lookups) []Lookup { return []Lookup{s.ask("", "stray", "SERVFAIL", ofScope(ScopeUnknown))} }
	forwarded := func(s *lookups) []Lookup {
		l := s.ask("noisy", "good", "NOERROR")
		return []Lookup{l, s.leg(&l, "SERVFAIL")}
	}
	failed := func(s *lookups) []Lookup { return []Lookup{s.ask("noisy", "bad", "SERVFAIL")} }
	own := func(name, rcode string, changes ...func(*Lookup)) func(s *lookups) []Lookup {
		return func(s *lookups) []Lookup { return []Lookup{s.ask("quiet", name, rcode, changes...)} }
	}
	all := []string{"slow", "fine", "bad"}
	for _, tc := range []struct {
		name  string
		flood func(s *lookups) []Lookup
		want  []string // of the quiet container, each once
	}{
		{"good ones", good, all},
		{"search lists", searching, all},
		{"search lists, in two readings", late, all},
		{"neighbours", chatter, all},
		{"unknown ones", stray, all},
		{"legs", forwarded, all},
		{"failed ones", failed, all},
		{"good ones of its own", own("good", "NOERROR"), []string{"good", "slow", "bad"}},
		{"slow ones of its own", own("late", "NOERROR", took(time.Second)), []string{"late", "fine", "bad"}},
		{"failed ones of its own", own("wrong", "SERVFAIL"), []string{"wrong", "slow", "fine"}},
		{"neighbours of its own", own("printer.local", "", ended(loader.DNSUnawaited, "")), []string{"printer.local", "slow", "fine", "bad"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s lookups
			table := NewDNSTable(size)
			quiet := []Lookup{s.ask("quiet", "bad", "SERVFAIL"), s.ask("quiet", "fine", "NOERROR"), s.ask("quiet", "slow", "NOERROR", took(time.Second))}
			s.serial++ // even
			table.Add(DNS{Lookups: quiet})
			for range 20 * size {
				table.Add(DNS{Lookups: tc.flood(&s)})
			}
			if diff := cmp.Diff(tc.want, slices.Compact(keys(table.Recent(DNSFilter{Container: "quiet"})))); diff != "" {
				t.Error(diff)
			}
			if rows := len(table.rows); rows > 3*size+2*size/sideShare {
				t.Errorf("%d rows are kept", rows)
			}
			if n := table.failed.count + table.slow.count + table.quick.count + table.group.count + table.unknown.count; n != len(table.rows) {
				t.Errorf("%d rows by serial, %d in all sorts", len(table.rows), n)
			}
			listed := 0
			for _, entries := range table.attempts {
				listed += len(entries)
			}
			if listed > len(table.rows) || len(table.early) > len(table.rows) {
				t.Errorf("%d attempts and %d lookups with early legs of %d rows", listed, len(table.early), len(table.rows))
			}
		})
	}
}

// Who has most rows makes room, whoever comes.
func TestDNSTableShares(t *testing.T) {
	const size = 12
	var s lookups
	table := NewDNSTable(size)
	ask := func(container string, times int) {
		for range times {
			table.Add(DNS{Lookups: []Lookup{s.ask(container, container, "SERVFAIL")}})
		}
	}
	for _, step := range []struct {
		container string
		times     int
		want      map[string]int
	}{
		{"loud", 2 * size, map[string]int{"loud": 12}},
		{"shy", 1, map[string]int{"loud": 11, "shy": 1}},
		{"noisy", 2 * size, map[string]int{"loud": 7, "shy": 1, "noisy": 4}}, // a third,
		{"loud", 2 * size, map[string]int{"loud": 7, "shy": 1, "noisy": 4}},
		{"shy", 2 * size, map[string]int{"loud": 4, "shy": 4, "noisy": 4}},
		{"new", 1, map[string]int{"new": 1}},
	} {
		ask(step.container, step.times)
		rows := table.Recent(DNSFilter{})
		got := make(map[string]int)
		for i := range rows {
			got[rows[i].Container]++
		}
		for container, want := range step.want {
			if got[container] != want {
				t.Errorf("after %d of %s: rows are %v, want %v", step.times, step.container, got, step.want)
			}
		}
		if len(rows) != size {
			t.Errorf("%d rows, want %d", len(rows), size)
		}
	}
}

func TestDNSTableGaps(t *testing.T) {
	const size = 8
	var s lookups
	table := NewDNSTable(size)
	table.Add(DNS{Lookups: []Lookup{s.ask("web", "bad", "SERVFAIL")}})
	if _, gaps := table.Find(DNSFilter{}); gaps != (Gaps{}) {
		t.Errorf("gaps are %+v before anything is missing", gaps)
	}
	var last time.Time // of what is pushed out
	for i := range 3 * size {
		l := s.ask("web", "good", "NOERROR")
		if i < 2*size {
			last = l.Asked()
		}
		table.Add(DNS{Lookups: []Lookup{l}})
	}
	quick := Gaps{Evicted: 2 * size, Kept: size, Oldest: last}
	for _, tc := range []struct {
		name   string
		filter DNSFilter
		want   Gaps
	}{
		{"failed", DNSFilter{Failed: true}, Gaps{}},
		{"slow", DNSFilter{SlowerThan: slowLookup}, Gaps{}},
		{"not so slow", DNSFilter{SlowerThan: slowLookup - 1}, quick},
		{"all", DNSFilter{}, quick},
		{"of nobody", DNSFilter{Failed: true, Container: "nobody"}, Gaps{Unknown: true}},
	} {
		if _, gaps := table.Find(tc.filter); gaps != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.name, gaps, tc.want)
		}
	}
}

// The host is known by its name, whether it has asked for anything or not.
func TestDNSTableKnowsTheHost(t *testing.T) {
	if rows, gaps := NewDNSTable(0).Find(DNSFilter{Container: Host}); len(rows) != 0 || gaps.Unknown {
		t.Errorf("got %+v, %+v", rows, gaps)
	}
}

// Legs of a lookup that never comes are pushed out like others, and forgotten.
func TestDNSTableForgetsEarlyLegs(t *testing.T) {
	var s lookups
	table := NewDNSTable(4)
	for range 100 {
		missing := s.ask("web", "one", "NOERROR")
		table.Add(DNS{Lookups: []Lookup{s.leg(&missing, "NOERROR")}})
	}
	if len(table.early) != 4 || len(table.rows) != 4 {
		t.Errorf("%d early legs, %d rows, want 4", len(table.early), len(table.rows))
	}
}

func TestDNSTableConcurrently(t *testing.T) {
	table := NewDNSTable(4)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			s := lookups{serial: uint64(i) * 1000}
			for range 100 {
				one := s.ask("web", "one", "SERVFAIL")
				table.Add(DNS{Lookups: []Lookup{s.leg(&one, "SERVFAIL"), one}})
				if rows := table.Recent(DNSFilter{Failed: true}); len(rows) == 0 || rows[0].Name != "one" {
					t.Errorf("got %+v", rows)
				}
				table.Add(DNS{Lookups: []Lookup{s.leg(&one, "SERVFAIL")}})
			}
		})
	}
	group.Wait()
}

// What is not known is not written.
func TestDNSRowAsJSON(t *testing.T) {
	var s lookups
	table := NewDNSTable(0)
	one := s.ask("web", "db", "NXDOMAIN", func(l *Lookup) {
		l.Misname, l.Targets = MisnameHostname, []NameTarget{{Identity: Identity{Container: "shop-db-1"}, ContainerID: "abc", UseName: "shop-db-1"}}
		l.Answer.RCode = 3
	})
	silent := s.leg(&one, "", func(l *Lookup) {
		l.Retries, l.Inferred = 1, true
		l.Tries = append(l.Tries, l.Tries[0])
		l.Tries[0].GaveUp = true
	})
	table.Add(DNS{Lookups: []Lookup{one, silent}})
	got, err := json.Marshal(table.Recent(DNSFilter{})[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-22T08:00:01Z","resolver":"embedded","protocol":"udp","client":"127.0.0.1:40000","server":"127.0.0.11:53",` +
		`"outcome":"answered","rcode":"NXDOMAIN","rcode_number":3,"duration_seconds":0.001,"scope":"container","container":"web","container_id":"` + idOf("web") +
		`","name":"db","qtype":"A","failed":true,"misname":"hostname","targets":[{"container":"shop-db-1","container_id":"abc","ask_for":"shop-db-1"}],` +
		`"upstream":[{"time":"2026-11-22T08:00:02Z","resolver":"upstream","protocol":"udp","client":"127.0.0.1:40000","server":"10.0.0.53:53",` +
		`"outcome":"timed_out","retries":1,"tries":[{"server":"127.0.0.11:53","asked":"2026-11-22T08:00:02Z","gave_up":true},` +
		`{"server":"127.0.0.11:53","asked":"2026-11-22T08:00:02Z"}],"inferred":true}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// 10,000 lookups, each of which the engine asks others for.
func BenchmarkDNSTableAdd(b *testing.B) {
	var s lookups
	var dns DNS
	for i := range 10000 {
		one := s.ask("web", fmt.Sprintf("name-%d.example", i%100), "NOERROR")
		dns.Lookups = append(dns.Lookups, one, s.leg(&one, "NOERROR"))
	}
	table := NewDNSTable(0)
	b.ReportAllocs()
	for b.Loop() {
		table.Add(dns)
	}
}
