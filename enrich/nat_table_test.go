// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// line is a row in short.
type line struct {
	Container    string
	Kind         NATKind
	Client, Seen string
	Server       string
	Port         uint16
	Mechanism    Mechanism
	Lost         bool
	Answered     bool
}

func linesOf(rows []NATRow) (lines []line) {
	for _, r := range rows {
		lines = append(lines, line{
			Container: r.Container, Kind: r.Kind, Client: text(r.Client), Seen: text(r.Seen), Server: text(r.Server),
			Port: r.Port, Mechanism: r.Mechanism, Lost: r.Lost, Answered: r.Answered,
		})
	}
	return lines
}

func TestNATTable(t *testing.T) {
	outgoing := with(entry("172.30.2.2:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868"), masqueraded(loader.On))
	incoming := entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:39340")
	hidden := entry("203.0.113.9:39350->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39350")
	lookup := with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), of(unix.IPPROTO_UDP))
	mesh := entry("203.0.113.9:1->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:1")
	inMesh := with(entry("203.0.113.9:1->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:1"), inNetns(77), byIPVS)
	both := func(w *world, entries ...loader.Tracked) loader.NATNews {
		return loader.NATNews{Opened: w.events(entries...), Answered: w.events(entries...)}
	}
	for _, tc := range []struct {
		name string
		news func(w *world) []loader.NATNews
		want []line
	}{
		{
			"all kinds, the latest first",
			func(w *world) []loader.NATNews {
				return []loader.NATNews{w.opened(outgoing, incoming, hidden, with(lookup, inNetns(alphaPort)))}
			},
			[]line{
				{"alpha", EmbeddedDNS, "127.0.0.1:51157", "127.0.0.1:51157", "127.0.0.11:40123", 0, "", false, false},
				{"alpha", DNAT, "203.0.113.9:39350", "172.30.1.1:39350", "172.30.1.2:80", 8080, InboundMasquerade, true, false},
				{"alpha", DNAT, "203.0.113.9:39340", "203.0.113.9:39340", "172.30.1.2:80", 8080, NoMechanism, false, false},
				{"gamma", Masquerade, "172.30.2.2:58868", "192.0.2.1:58868", "203.0.113.9:53", 0, "", false, false},
			},
		},
		{
			"answered at once, and later",
			func(w *world) []loader.NATNews {
				return []loader.NATNews{both(w, outgoing), w.opened(incoming), {Answered: w.events(incoming)}}
			},
			[]line{
				{"alpha", DNAT, "203.0.113.9:39340", "203.0.113.9:39340", "172.30.1.2:80", 8080, NoMechanism, false, true},
				{"gamma", Masquerade, "172.30.2.2:58868", "192.0.2.1:58868", "203.0.113.9:53", 0, "", false, true},
			},
		},
		{
			"docker-proxy's, joined later",
			func(w *world) []loader.NATNews { return []loader.NATNews{both(w, asked(7)), w.opened(dialedBy(40000))} },
			[]line{{"alpha", "", "203.0.113.9:7", "172.30.1.1:40000", "172.30.1.2:80", 8080, UserlandProxy, true, true}},
		},
		{
			"docker-proxy's, without its own connection",
			func(w *world) []loader.NATNews { return []loader.NATNews{both(w, asked(7))} },
			[]line{{"alpha", "", "203.0.113.9:7", "", "", 8080, UserlandProxy, true, true}},
		},
		{
			"docker-proxy's UDP, without its own connection: the address is known",
			func(w *world) []loader.NATNews {
				w.publish("alpha", "0.0.0.0:8080->80/udp")
				return []loader.NATNews{both(w, with(asked(7), of(unix.IPPROTO_UDP)))}
			},
			[]line{{"alpha", "", "203.0.113.9:7", "172.30.1.1:0", "", 8080, UserlandProxy, true, true}},
		},
		{
			"docker-proxy's UDP, that nobody answers",
			func(w *world) []loader.NATNews {
				w.publish("alpha", "0.0.0.0:8080->80/udp")
				return []loader.NATNews{w.opened(with(asked(7), of(unix.IPPROTO_UDP)))}
			},
			[]line{{"alpha", "", "203.0.113.9:7", "", "", 8080, "", false, false}},
		},
		{
			"opened before the agent started",
			func(w *world) []loader.NATNews {
				return []loader.NATNews{{Answered: w.events(outgoing, hidden)}}
			},
			[]line{{"alpha", DNAT, "203.0.113.9:39350", "172.30.1.1:39350", "172.30.1.2:80", 8080, InboundMasquerade, true, true}},
		},
		{
			"routing mesh: the host's and its own",
			func(w *world) []loader.NATNews { return []loader.NATNews{w.opened(mesh, inMesh)} },
			[]line{
				{"", IPVS, "203.0.113.9:1", "10.0.0.2:1", "10.0.0.5:9090", 0, "", false, false},
				{"", DNAT, "203.0.113.9:1", "10.0.0.2:1", "10.0.0.5:9090", 9090, IngressMesh, true, false},
			},
		},
		{
			"routing mesh, its own not seen",
			func(w *world) []loader.NATNews { return []loader.NATNews{w.opened(mesh)} },
			[]line{{"", DNAT, "203.0.113.9:1", "", "", 9090, IngressMesh, true, false}},
		},
		{
			"routing mesh, its own seen later, and the answer later still",
			func(w *world) []loader.NATNews {
				return []loader.NATNews{w.opened(mesh), w.opened(inMesh), {Answered: w.events(mesh)}}
			},
			[]line{
				{"", IPVS, "203.0.113.9:1", "10.0.0.2:1", "10.0.0.5:9090", 0, "", false, false},
				{"", DNAT, "203.0.113.9:1", "10.0.0.2:1", "10.0.0.5:9090", 9090, IngressMesh, true, true},
			},
		},
		{
			"the same addresses and ports again",
			func(w *world) []loader.NATNews { return []loader.NATNews{both(w, hidden), w.opened(hidden)} },
			[]line{
				{"alpha", DNAT, "203.0.113.9:39350", "172.30.1.1:39350", "172.30.1.2:80", 8080, InboundMasquerade, true, false},
				{"alpha", DNAT, "203.0.113.9:39350", "172.30.1.1:39350", "172.30.1.2:80", 8080, InboundMasquerade, true, true},
			},
		},
		{
			"the same addresses and ports again, by docker-proxy",
			func(w *world) []loader.NATNews { return []loader.NATNews{both(w, asked(7)), w.opened(asked(7))} },
			[]line{
				{"alpha", "", "203.0.113.9:7", "", "", 8080, "", false, false},
				{"alpha", "", "203.0.113.9:7", "", "", 8080, UserlandProxy, true, true},
			},
		},
		{
			"the same addresses and ports in two namespaces",
			func(w *world) []loader.NATNews {
				return []loader.NATNews{
					w.opened(with(lookup, inNetns(alphaPort)), with(lookup, inNumber(betaPort))),
					{Answered: w.events(with(lookup, inNetns(betaPort)))},
				}
			},
			[]line{
				{"beta", EmbeddedDNS, "127.0.0.1:51157", "127.0.0.1:51157", "127.0.0.11:40123", 0, "", false, true},
				{"alpha", EmbeddedDNS, "127.0.0.1:51157", "127.0.0.1:51157", "127.0.0.11:40123", 0, "", false, false},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			table := NewNATTable(0)
			for _, news := range tc.news(w) {
				w.wait(time.Second)
				table.Add(w.AttributeNAT(news))
			}
			if diff := cmp.Diff(tc.want, linesOf(table.Rows(NATFilter{}))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNATTableFilter(t *testing.T) {
	w := newPort(t)
	table := NewNATTable(0)
	table.Add(w.AttributeNAT(w.opened(
		with(entry("172.30.2.2:5->172.30.1.3:80", "172.30.1.3:80->172.30.1.1:5"), masqueraded(loader.On)),
		entry("172.30.2.2:1->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:1"),
		entry("203.0.113.9:2->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:2"),
		entry("203.0.113.9:3->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:3"),
		entry("203.0.113.9:4->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:4"),
	)))
	for _, tc := range []struct {
		name   string
		filter NATFilter
		want   []string // clients
	}{
		{"all", NATFilter{}, []string{"203.0.113.9:4", "203.0.113.9:3", "203.0.113.9:2", "172.30.2.2:1", "172.30.2.2:5"}},
		{"container", NATFilter{Container: "gamma"}, []string{"172.30.2.2:1", "172.30.2.2:5"}},
		{"container's ID", NATFilter{Container: idOf("alpha")}, []string{"203.0.113.9:3", "203.0.113.9:2"}},
		{"container's short ID", NATFilter{Container: idOf("alpha")[:12]}, []string{"203.0.113.9:3", "203.0.113.9:2"}},
		{"as little of it as tells it from others", NATFilter{Container: idOf("alpha")[:4]}, []string{"203.0.113.9:3", "203.0.113.9:2"}},
		{"less than that", NATFilter{Container: idOf("alpha")[:3]}, nil},
		{"who answers", NATFilter{Container: "beta"}, []string{"172.30.2.2:5"}},
		{"who answers, by ID", NATFilter{Container: idOf("beta")[:12]}, []string{"172.30.2.2:5"}},
		{"service", NATFilter{Container: "front"}, []string{"203.0.113.9:4"}},
		{"port", NATFilter{Port: 8080}, []string{"203.0.113.9:3", "203.0.113.9:2"}},
		{"lost", NATFilter{Lost: true}, []string{"203.0.113.9:4", "203.0.113.9:3"}},
		{"lost of a container at a port", NATFilter{Lost: true, Container: "alpha", Port: 8080}, []string{"203.0.113.9:3"}},
		{"limit", NATFilter{Limit: 2}, []string{"203.0.113.9:4", "203.0.113.9:3"}},
		{"none", NATFilter{Container: "delta"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, row := range table.Rows(tc.filter) {
				got = append(got, row.Client.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The oldest rows go first, and lookups push out only each other.
func TestNATTableIsBounded(t *testing.T) {
	const size = 16
	w := newPort(t)
	table := NewNATTable(size)
	outgoing := func(port int) loader.Tracked {
		return entry(fmt.Sprintf("172.30.2.2:%d->203.0.113.9:53", port), fmt.Sprintf("203.0.113.9:53->192.0.2.1:%d", port))
	}
	for i := range 100 {
		var batch []loader.Tracked
		if i < size {
			batch = append(batch, outgoing(1000+i))
		}
		for j := range 10 {
			port := 2000 + 10*i + j
			batch = append(batch, with(entry(fmt.Sprintf("127.0.0.1:%d->127.0.0.11:53", port),
				fmt.Sprintf("127.0.0.11:40123->127.0.0.1:%d", port)), inNetns(alphaPort)))
		}
		table.Add(w.AttributeNAT(w.opened(batch...)))
		w.wait(time.Second)
	}
	rows := table.Rows(NATFilter{})
	if len(rows) != size+size/sideShare {
		t.Fatalf("%d rows, want %d and %d lookups", len(rows), size, size/sideShare)
	}
	if got := rows[0].Client.Port(); got != 2999 {
		t.Errorf("the latest is from port %d, want 2999", got)
	}
	for i := range 1000 {
		table.Add(w.AttributeNAT(w.opened(outgoing(3000 + i))))
	}
	if got := table.Rows(NATFilter{Container: "gamma"}); len(got) != size || got[size-1].Client.Port() != 4000-size {
		t.Errorf("%d rows, the oldest from %v; want %d from port %d on", len(got), got[len(got)-1].Client, size, 4000-size)
	}
	if len(table.outgoing.index) != size || len(table.lookups.index) != size/sideShare {
		t.Errorf("%d and %d keys are left", len(table.outgoing.index), len(table.lookups.index))
	}
}

// What loses its client's address outlives any number of others, and what is missing is said.
func TestNATTableKeepsSortsApart(t *testing.T) {
	const size = 16
	w := newPort(t)
	table := NewNATTable(size)
	lost := entry("203.0.113.9:7->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:7")
	elsewhere := entry("172.30.2.2:7->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:7")
	elsewhere.Netns, elsewhere.NetnsID = 987654, -1
	table.Add(w.AttributeNAT(w.opened(lost, asked(8), elsewhere)))
	table.Add(w.AttributeNAT(loader.NATNews{Answered: w.events(lost, asked(8))}))
	w.wait(patience + time.Second)
	table.Add(w.AttributeNAT(loader.NATNews{})) // what is nobody's has waited for somebody
	_, gaps := table.Find(NATFilter{}, true)
	if diff := cmp.Diff(Gaps{}, gaps); diff != "" {
		t.Errorf("before anything is pushed out (-want +got):\n%s", diff)
	}
	var later time.Time
	for i := range 10 * size {
		if i == 9*size+size/2 {
			later = w.now
		}
		kept := entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:8080", 1000+i), fmt.Sprintf("172.30.1.2:80->203.0.113.9:%d", 1000+i))
		out := entry(fmt.Sprintf("172.30.2.2:%d->203.0.113.9:53", 1000+i), fmt.Sprintf("203.0.113.9:53->192.0.2.1:%d", 1000+i))
		now := w.now
		news := w.opened(kept, out, asked(2000+i)) // nobody answers the last
		for j := range news.Opened {
			news.Opened[j].At = now
		}
		table.Add(w.AttributeNAT(news))
		w.wait(time.Second)
	}
	published := Gaps{Evicted: 19 * size, Kept: size, Oldest: later}
	all := Gaps{Evicted: 19*size + 9*size, Kept: 2 * size, Oldest: later}
	for _, tc := range []struct {
		name   string
		filter NATFilter
		rows   int
		want   Gaps
	}{
		{"lost", NATFilter{Lost: true}, 2, Gaps{}},
		{"lost of a container", NATFilter{Lost: true, Container: "alpha"}, 2, Gaps{}},
		{"lost of nobody", NATFilter{Lost: true, Container: "nobody"}, 0, Gaps{Unknown: true}},
		{"published", NATFilter{Port: 8080}, size + 2, published},
		{"all", NATFilter{}, 2*size + 3, all},
		{"outgoing", NATFilter{Container: "gamma"}, size, all},
	} {
		rows, gaps := table.Find(tc.filter, true)
		if len(rows) != tc.rows {
			t.Errorf("%s: %d rows, want %d", tc.name, len(rows), tc.rows)
		}
		if diff := cmp.Diff(tc.want, gaps); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	var many []loader.Tracked
	for i := range 3 * size {
		many = append(many, entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:8080", 5000+i), fmt.Sprintf("172.30.1.2:80->172.30.1.1:%d", 5000+i)))
	}
	began := w.now
	flood := w.opened(many...)
	for i := range flood.Opened {
		flood.Opened[i].At = began
	}
	table.Add(w.AttributeNAT(flood))
	want := Gaps{Evicted: 2*size + 2, Kept: size, Oldest: began}
	if _, gaps := table.Find(NATFilter{Lost: true}, false); gaps != want {
		t.Errorf("lost ones push out lost ones: got %+v, want %+v", gaps, want)
	}
}

// A row that is found to have lost its client moves to the others of its sort, with what was known of it.
func TestNATTableMovesRows(t *testing.T) {
	w := newPort(t)
	table := NewNATTable(2)
	table.Add(w.AttributeNAT(w.opened(asked(1), asked(2))))
	if rows := table.Rows(NATFilter{Lost: true}); len(rows) != 0 {
		t.Errorf("nobody answered, and lost are %+v", linesOf(rows))
	}
	answer := loader.NATNews{Answered: w.events(asked(1))}
	answer.Opened = w.events(dialedBy(40000))
	table.Add(w.AttributeNAT(answer))
	table.Add(w.AttributeNAT(w.opened(asked(3), asked(4), asked(5))))
	want := []line{
		{"alpha", "", "203.0.113.9:5", "", "", 8080, "", false, false},
		{"alpha", "", "203.0.113.9:4", "", "", 8080, "", false, false},
		{"alpha", "", "203.0.113.9:1", "172.30.1.1:40000", "172.30.1.2:80", 8080, UserlandProxy, true, true},
	}
	rows, gaps := table.Find(NATFilter{}, true)
	if diff := cmp.Diff(want, linesOf(rows)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if gaps.Evicted != 2 || gaps.Kept != 2 {
		t.Errorf("got %+v, want 2 pushed out, and no gap among them", gaps)
	}
	if len(table.kept.index) != 2 || len(table.lost.index) != 1 {
		t.Errorf("%d and %d keys are left", len(table.kept.index), len(table.lost.index))
	}
}

// A rule without limits translates the host's own connection to docker-proxy too. It is the published port's all the same.
func TestNATTableOfMasqueradedLoopback(t *testing.T) {
	w := newPort(t)
	e := with(entry("127.0.0.1:7->127.0.0.1:8080", "127.0.0.1:8080->172.30.1.1:7"), local, masqueraded(loader.On))
	table := NewNATTable(0)
	news := w.opened(e)
	news.Answered = w.events(e)
	news.Opened = append(news.Opened, w.events(dialedBy(40000))...)
	table.Add(w.AttributeNAT(news))
	want := []line{{"alpha", Masquerade, "127.0.0.1:7", "172.30.1.1:40000", "172.30.1.2:80", 8080, UserlandProxy, true, true}}
	if diff := cmp.Diff(want, linesOf(table.Rows(NATFilter{Container: "alpha"}))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The beginning of an ID finds its container, unless somebody is called so, or several begin so.
func TestNATFilterResolves(t *testing.T) {
	all := []Owner{
		{"", "one", "aaaa1" + idOf("x")[5:]}, {"", "two", "aaaa2" + idOf("x")[5:]}, {"", "two", "aaaa2" + idOf("x")[5:]},
		{"cafe", "cafe.1", "bbbb" + idOf("x")[4:]}, {"", "other", "cafe" + idOf("x")[4:]},
	}
	for name, tc := range map[string]struct {
		want  string
		known bool
	}{
		"":      {"", true},
		"one":   {"one", true},
		"aaaa":  {"aaaa", false},
		"aaaa2": {all[1].ContainerID, true},
		"bbbb":  {all[3].ContainerID, true},
		"bbb":   {"bbb", false},
		"cafe":  {"cafe", true},
		"dddd":  {"dddd", false},
	} {
		filter := NATFilter{Container: name}
		if known := filter.Resolve(slices.Values(all)); known != tc.known || filter.Container != tc.want {
			t.Errorf("%q: %q, known %t; want %q, %t", name, filter.Container, known, tc.want, tc.known)
		}
	}
}

// A key that is used again is not lost with the old row.
func TestNATTableKeepsTheLaterOfEqualKeys(t *testing.T) {
	w := newPort(t)
	table := NewNATTable(2)
	one := entry("172.30.2.2:1->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:1")
	two := entry("172.30.2.2:2->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:2")
	table.Add(w.AttributeNAT(w.opened(one, one, two)))
	table.Add(w.AttributeNAT(loader.NATNews{Answered: w.events(one)}))
	if got := linesOf(table.Rows(NATFilter{})); len(got) != 2 || got[0].Answered || !got[1].Answered {
		t.Errorf("got %+v, want the older one of two answered", got)
	}
}

func TestNATTableConcurrently(t *testing.T) {
	w := newPort(t)
	nat := w.AttributeNAT(w.opened(entry("203.0.113.9:3->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:3")))
	table := NewNATTable(4)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 100 {
				table.Add(nat)
				if rows := table.Rows(NATFilter{Lost: true}); len(rows) == 0 || rows[0].Port != 8080 {
					t.Errorf("got %+v", rows)
				}
			}
		})
	}
	group.Wait()
}

// What is not known is not written.
func TestNATRowAsJSON(t *testing.T) {
	w := newPort(t)
	table := NewNATTable(0)
	table.Add(w.AttributeNAT(w.opened(asked(7))))
	got, err := json.Marshal(table.Rows(NATFilter{})[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-22T08:00:00Z","scope":"host","container":"alpha","network":"web","container_id":"` + idOf("alpha") +
		`","protocol":"tcp","client":"203.0.113.9:7","destination":"192.0.2.1:8080","published_port":8080,` +
		`"client_kind":"remote","source_address_lost":false,"answered":false}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// 10,000 new connections, and their answers.
func BenchmarkNATTableAdd(b *testing.B) {
	var nat NAT
	for i := range 10000 {
		e := entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:8080", 1024+i), fmt.Sprintf("172.30.1.2:80->203.0.113.9:%d", 1024+i))
		event := loader.NATEvent{Tracked: e}
		nat.Translations = append(nat.Translations, Translation{NATEvent: event, Scope: ScopeHost, Kind: DNAT})
		c := PublishedConnection{NATEvent: event, Scope: ScopeHost, Port: 8080, Protocol: "tcp"}
		nat.Attempts = append(nat.Attempts, c)
		nat.Connections = append(nat.Connections, c)
		nat.Answered = append(nat.Answered, NATAnswer{Kind: DNAT, key: publishedKey(&c)})
	}
	table := NewNATTable(0)
	b.ReportAllocs()
	for b.Loop() {
		table.Add(nat)
	}
}

// Of more connections in one reading than there are rows the last ones are whole, too.
func TestNATTableOfOneReading(t *testing.T) {
	w := newPort(t)
	table := NewNATTable(4)
	var entries []loader.Tracked
	for i := 1; i <= 8; i++ {
		entries = append(entries, entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:8080", i), fmt.Sprintf("172.30.1.2:80->203.0.113.9:%d", i)))
	}
	table.Add(w.AttributeNAT(w.opened(entries...)))
	rows := table.Rows(NATFilter{})
	if len(rows) != 4 {
		t.Fatalf("%d rows, want 4", len(rows))
	}
	for _, r := range rows {
		if r.Kind != DNAT || r.Scope != ScopeHost || r.Container != "alpha" {
			t.Errorf("row of %s has kind %q, scope %q, container %q", r.Client, r.Kind, r.Scope, r.Container)
		}
	}
}
