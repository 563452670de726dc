// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/bridgewatch/bridgewatch/loader"
)

// expanded are expansions in short.
func expanded(d DNS) (texts []string) {
	for _, e := range d.Expansions {
		texts = append(texts, fmt.Sprintf("%s %s: %s of %s", e.Container, e.Resolver, e.Name, e.Base))
	}
	return texts
}

func TestExpansions(t *testing.T) {
	type question struct {
		name    string
		pause   time.Duration // before it
		changes []func(*loader.DNSLookup)
	}
	ask := func(name string, changes ...func(*loader.DNSLookup)) question { return question{name, 0, changes} }
	later := func(pause time.Duration, q question) question { q.pause = pause; return q }
	found := answering("203.0.113.9")
	upstream := func(l *loader.DNSLookup) { at53("192.0.2.53")(l); forwardedFor(alphaPort)(l) }
	noData := answeringCode(dns.RcodeSuccess)
	known := &loader.ResolvConf{Search: []string{"a.test", "b.test"}, Ndots: 1}
	for _, tc := range []struct {
		name      string
		conf      *loader.ResolvConf // nil: not known
		questions []question
		want      []string
		bases     []string // of the lookups
	}{
		{
			"suffixes first, as musl and glibc do", known,
			[]question{ask("db.a.test"), ask("db.b.test"), ask("db", found)},
			[]string{"alpha embedded: db.a.test of db", "alpha embedded: db.b.test of db"},
			[]string{"db", "db", ""},
		},
		{
			"the second suffix finds it", known,
			[]question{ask("db.a.test"), ask("db.b.test", found)},
			[]string{"alpha embedded: db.a.test of db"},
			[]string{"db", "db"},
		},
		{
			"suffixes last, for Docker's ndots:0", known,
			[]question{ask("db"), ask("db.a.test"), ask("db.b.test")},
			[]string{"alpha embedded: db.a.test of db", "alpha embedded: db.b.test of db"},
			[]string{"", "db", "db"},
		},
		{
			"a name with dots", known,
			[]question{ask("www.example.com"), ask("www.example.com.a.test", noData), ask("www.example.com.b.test", found)},
			[]string{"alpha embedded: www.example.com.a.test of www.example.com"},
			[]string{"", "www.example.com", "www.example.com"},
		},
		{"it is meant", known, []question{ask("mail.a.test"), ask("www.a.test")}, nil, []string{"", ""}},
		{"it is meant, and asked for again", known, []question{ask("mail.a.test"), ask("mail.a.test")}, nil, []string{"", ""}},
		{"it is meant, and the suffix comes after it", known,
			[]question{ask("mail.a.test"), ask("mail.a.test.a.test"), ask("mail.a.test.b.test")},
			[]string{"alpha embedded: mail.a.test.a.test of mail.a.test", "alpha embedded: mail.a.test.b.test of mail.a.test"},
			[]string{"", "mail.a.test", "mail.a.test"}},
		{"the first suffix finds it", known, []question{ask("db.a.test", found), ask("db.b.test", found)}, nil, []string{"", ""}},
		{"much later", known, []question{ask("db.a.test"), later(searchPause, ask("db"))}, nil, []string{"", ""}},
		{
			"after the slower of two types", known, []question{ask("db.a.test"), later(5*time.Second, ask("db"))},
			[]string{"alpha embedded: db.a.test of db"}, []string{"db", ""},
		},
		{"no suffix of its own", known, []question{ask("db.c.test"), ask("db")}, nil, []string{"", ""}},
		{"it has no suffixes", &loader.ResolvConf{}, []question{ask("db.a.test"), ask("db")}, nil, []string{"", ""}},
		{"of another type", known, []question{ask("db.a.test", ofQType(dns.TypeAAAA)), ask("db")}, nil, []string{"", ""}},
		{"multicast DNS", known, []question{ask("db.a.test", inGroup(loader.MulticastDNS, "224.0.0.251:5353")), ask("db")}, nil, []string{"", ""}},
		{
			"on both legs", known,
			[]question{ask("db.a.test", upstream), ask("db.a.test"), ask("db", found)},
			[]string{"alpha upstream: db.a.test of db", "alpha embedded: db.a.test of db"},
			[]string{"db", "db", ""},
		},
		{"each try once", known,
			[]question{ask("db.a.test"), ask("db"), ask("db"), ask("db.a.test"), ask("db")},
			[]string{"alpha embedded: db.a.test of db", "alpha embedded: db.a.test of db"},
			[]string{"db", "", "", "db", ""}},
		{
			"the list is not known", nil,
			[]question{ask("db.a.test"), ask("db.b.test"), ask("db"), ask("web.b.test"), ask("web.a.test", found), ask("x.y.test"), ask("z")},
			[]string{"alpha embedded: db.a.test of db", "alpha embedded: db.b.test of db", "alpha embedded: web.b.test of web"},
			[]string{"db", "db", "", "web", "web", "", ""},
		},
		{"the list is not known, and it is later", nil,
			[]question{ask("db.a.test"), later(searchPauseGuessed, ask("db"))}, nil, []string{"", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newNamedTown(t)
			if tc.conf != nil {
				w.SetResolvConfs(map[string]loader.ResolvConf{idOf("alpha"): *tc.conf})
			}
			var lookups []loader.DNSLookup
			for _, q := range tc.questions {
				w.wait(q.pause + time.Millisecond)
				lookups = append(lookups, w.asked(alphaPort, q.name, q.changes...))
			}
			got := w.attribute(lookups...)
			if diff := cmp.Diff(tc.want, expanded(got)); diff != "" {
				t.Errorf("expansions (-want +got):\n%s", diff)
			}
			var bases []string
			for _, l := range got.Lookups {
				bases = append(bases, l.Base)
			}
			if diff := cmp.Diff(tc.bases, bases); diff != "" {
				t.Errorf("bases (-want +got):\n%s", diff)
			}

			// One by one it is the same, but that what was told already stays as it is.
			w = newNamedTown(t)
			if tc.conf != nil {
				w.SetResolvConfs(map[string]loader.ResolvConf{idOf("alpha"): *tc.conf})
			}
			var one []string
			for _, l := range lookups {
				one = append(one, expanded(w.attribute(l))...)
			}
			slices.Sort(one)
			all := expanded(got)
			slices.Sort(all)
			if diff := cmp.Diff(all, one); diff != "" {
				t.Errorf("one by one (-together +one by one):\n%s", diff)
			}
		})
	}
}

// Clients do not explain each other.
func TestExpansionsOfOthers(t *testing.T) {
	w := newNamedTown(t)
	if got := expanded(w.attribute(w.asked(alphaPort, "db.a.test"), w.asked(gammaPort, "db"), w.asked(hostNetns, "db"))); got != nil {
		t.Errorf("got %q, want none", got)
	}
}

// The name that explains may itself wait, since the engine should know it.
func TestExpansionOfAMissingName(t *testing.T) {
	w := newNamedTown(t)
	w.SetResolvConfs(map[string]loader.ResolvConf{idOf("alpha"): {Search: []string{"a.test"}}})
	got := expanded(w.attribute(w.asked(alphaPort, "beta"), w.asked(alphaPort, "beta.a.test")))
	w.wait(patience)
	got = append(got, expanded(w.attribute())...)
	if diff := cmp.Diff([]string{"alpha embedded: beta.a.test of beta"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The host has a list, too, and a container may have been started with one.
func TestSearchLists(t *testing.T) {
	w := newNamedTown(t)
	c := w.members[idOf("gamma")].Container
	c.DNSSearch = []string{"Own.Test.", "."}
	w.PutContainer(c)
	w.SetResolvConfs(map[string]loader.ResolvConf{ofHost: {Search: []string{"host.test"}}})
	for id, want := range map[string]string{ofHost: "[host.test] true", idOf("gamma"): "[own.test] true", idOf("beta"): "[] false"} {
		suffixes, known := w.searchList(id)
		if got := fmt.Sprint(suffixes, known); got != want {
			t.Errorf("list of %.12q is %s, want %s", id, got, want)
		}
	}
	got := expanded(w.attribute(
		w.asked(hostNetns, "db.host.test", at53("192.0.2.53")), w.asked(hostNetns, "db.own.test"), w.asked(hostNetns, "db")))
	if diff := cmp.Diff([]string{" direct: db.host.test of db"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestResolvConfs(t *testing.T) {
	w := newNamedTown(t)
	for _, name := range []string{"alpha", "beta"} {
		c := w.members[idOf(name)].Container
		c.ResolvConfPath = "/containers/" + name + "/resolv.conf"
		w.PutContainer(c)
	}
	w.ContainerDied(idOf("beta"))
	want := map[string]string{"": "/etc/resolv.conf", idOf("alpha"): "/containers/alpha/resolv.conf"}
	if diff := cmp.Diff(want, w.ResolvConfPaths()); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	w.SetResolvConfs(map[string]loader.ResolvConf{"": {Ndots: 1}, idOf("alpha"): {Search: []string{"a.test"}}})
	if got := w.live("alpha").ResolvConf; got == nil || len(got.Search) != 1 {
		t.Errorf("alpha's is %+v", got)
	}
	if got := w.live("gamma").ResolvConf; got != nil {
		t.Errorf("gamma's is %+v, want that it is not known", got)
	}
	if got := w.Inventory().ResolvConf; got == nil || got.Ndots != 1 {
		t.Errorf("the host's is %+v", got)
	}
}

// What is remembered is forgotten in time, and its amount is bounded: of one client, so that others have room.
func TestSearchesAreBounded(t *testing.T) {
	w := newNamedTown(t)
	suffix := loader.ResolvConf{Search: []string{"a.test"}}
	w.SetResolvConfs(map[string]loader.ResolvConf{idOf("alpha"): suffix, idOf("gamma"): suffix})
	var lookups []loader.DNSLookup
	for i := range maxSearches {
		l := w.asked(alphaPort, fmt.Sprintf("x%d.a.test", i))
		w.wait(-10 * time.Millisecond)
		lookups = append(lookups, l)
	}
	w.attribute(lookups...)
	const room = (maxSearches*searchShare + searchShare) / (searchShare + 1)
	if got, want := w.DNSLosses()[0], (loader.Loss{Place: "searches", Count: 2*maxSearches - room}); got != want {
		t.Errorf("lost %+v, want %+v", got, want)
	}
	got := expanded(w.attribute(w.asked(gammaPort, "db.a.test"), w.asked(gammaPort, "db"), w.asked(alphaPort, "no-room.a.test"), w.asked(alphaPort, "no-room")))
	if diff := cmp.Diff([]string{"gamma embedded: db.a.test of db"}, got); diff != "" {
		t.Errorf("of two clients (-want +got):\n%s", diff)
	}
	w.wait(searchKept + time.Second)
	w.attribute(w.asked(alphaPort, "late.a.test"))
	w.wait(searchKept + time.Second)
	w.attribute(w.asked(alphaPort, "later.a.test"))
	memory := &w.pending.dns.searches
	if of := memory.clients[alphaPort]; len(memory.clients) != 1 || memory.notes != 2 || len(of.notes) != 2 || len(of.tries) != 1 || len(of.vain) != 1 {
		t.Errorf("remembers %+v of %d clients in %d notes; want one lookup", of, len(memory.clients), memory.notes)
	}
}

// Of a name that is asked for again and again all is explained, whoever of its clients goes on first.
func TestExpansionsOfMany(t *testing.T) {
	const many = 300
	w := newNamedTown(t)
	w.SetResolvConfs(map[string]loader.ResolvConf{idOf("alpha"): {Search: []string{"a.test", "b.test"}}})
	var lookups []loader.DNSLookup
	asked := func(l loader.DNSLookup) { lookups = append(lookups, l) }
	var early loader.DNSLookup
	for i := range many {
		if i == many/10 {
			early = w.asked(alphaPort, "db", answering("192.0.2.9"))
		}
		asked(w.asked(alphaPort, "db.a.test"))
	}
	for i := range many {
		asked(w.asked(alphaPort, "db.b.test", func(l *loader.DNSLookup) {
			if i%2 == 1 { // it took long
				l.Tries[0].Asked = early.Asked()
			}
		}))
	}
	early.Answered = w.now // it was asked before most of them
	asked(early)
	asked(w.asked(alphaPort, "db"))
	if got := len(w.attribute(lookups...).Expansions); got != 2*many {
		t.Errorf("told %d expansions, want %d", got, 2*many)
	}
}

// A name with many suffixes is no search list's. What a lookup looks at in vain does not grow with what there was before.
func TestHostileSearches(t *testing.T) {
	w := newNamedTown(t)
	lookups := []loader.DNSLookup{w.asked(alphaPort, "q.com"), w.asked(alphaPort, "q")}
	w.wait(-20 * time.Millisecond)
	const many = 1000
	for i := range many {
		lookups = append(lookups, w.asked(alphaPort, fmt.Sprintf("a.r%d", i)))
		w.wait(-10 * time.Millisecond)
	}
	w.attribute(lookups...)
	of := w.pending.dns.searches.clients[alphaPort]
	if got := len(of.tries[searchKey{dns.TypeA, "a"}]); got != maxTrySuffixes {
		t.Errorf("remembers a with %d suffixes, want %d", got, maxTrySuffixes)
	}
	if got, want := w.DNSLosses()[0].Count, uint64(many-maxTrySuffixes); got != want {
		t.Errorf("lost %d, want %d", got, want)
	}
}

// A container may have been started with any list.
func TestSearchListIsBounded(t *testing.T) {
	w := newNamedTown(t)
	c := w.members[idOf("gamma")].Container
	c.DNSSearch = []string{"."}
	for i := range 1000 {
		c.DNSSearch = append(c.DNSSearch, fmt.Sprintf("S%d.test", i/2))
	}
	w.PutContainer(c)
	suffixes, known := w.searchList(c.ID)
	want := []string{"s0.test", "s1.test", "s2.test", "s3.test", "s4.test", "s5.test", "s6.test", "s7.test"}
	if diff := cmp.Diff(want, suffixes); diff != "" || !known {
		t.Errorf("known %t (-want +got):\n%s", known, diff)
	}
}
