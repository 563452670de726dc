// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

func TestParseDNSNames(t *testing.T) {
	for _, tc := range []struct {
		text string
		want DNSNames
		fits bool
	}{
		{"off", DNSNames{}, true},
		{"hash", DNSNames{limit: 100, hashed: true}, true},
		{"top:1", DNSNames{limit: 1}, true},
		{"top:1000", DNSNames{limit: 1000}, true},
		{"top:1001", DNSNames{}, false},
		{"top:0", DNSNames{}, false},
		{"top:-1", DNSNames{}, false},
		{"top:+1", DNSNames{}, false},
		{"top:99999999999999999999", DNSNames{}, false},
		{"top:", DNSNames{}, false},
		{"top", DNSNames{}, false},
		{"10", DNSNames{}, false},
		{"hash:10", DNSNames{}, false},
		{"Hash", DNSNames{}, false},
		{"", DNSNames{}, false},
	} {
		got, err := ParseDNSNames(tc.text)
		if got != tc.want || (err == nil) != tc.fits {
			t.Errorf("%q is %v, %v", tc.text, got, err)
		}
		if want := fmt.Sprintf("%q is neither off nor hash nor top:N with N from 1 to 1000", tc.text); err != nil && err.Error() != want {
			t.Errorf("the error is %q, want %q", err, want)
		}
	}
}

// nameMetrics are metrics that tell names apart.
func nameMetrics(t *testing.T, text string) (*testStore, *Metrics) {
	t.Helper()
	s, m := newTestMetrics()
	names, err := ParseDNSNames(text)
	if err != nil {
		t.Fatal(err)
	}
	m.SetDNSNames(names)
	return s, m
}

// lookUp has a name looked up so often.
func lookUp(m *Metrics, name string, n int) { lookUpAll(m, times(n, name)) }

func lookUpAll(m *Metrics, names []string) {
	var dns enrich.DNS
	for _, name := range names {
		l := lookupOf("alpha", enrich.ResolverEmbedded, "A", "NOERROR")
		l.Question.Name = name
		dns.Lookups = append(dns.Lookups, l)
	}
	m.AddDNS(dns)
}

// byName sums up what is shown of each name.
func (s *testStore) byName() map[string]float64 {
	sums := make(map[string]float64)
	for values, n := range s.shown(dnsNameLookups) {
		sums[values[:strings.LastIndex(values, ",")]] += n
	}
	return sums
}

func TestNameLookups(t *testing.T) {
	s, m := nameMetrics(t, "top:10")
	a := lookupOf("alpha", enrich.ResolverEmbedded, "A", "NOERROR")
	host := lookupOf("", enrich.ResolverDirect, "A", "NXDOMAIN")
	host.Identity = enrich.Identity{}
	m.AddDNS(enrich.DNS{Lookups: append(times(100, a), host,
		lookupOf("alpha", enrich.ResolverEmbedded, "AAAA", "NXDOMAIN"),
		lookupOf("alpha", enrich.ResolverUpstream, "A", "NOERROR"), // the engine's for one of these
		unanswered(a, loader.DNSTimedOut, 2), unanswered(a, loader.DNSUnknown, 0),
		unanswered(lookupOf("alpha", enrich.ResolverMDNS, "A", ""), loader.DNSUnawaited, 0),
	)})
	s.wantShown(t, dnsNameLookups, map[string]float64{
		"example.com,NOERROR": 0, "example.com,NXDOMAIN": 0, "example.com,timeout": 0, "example.com,none": 0,
	})
	s.wait(zeroFor)
	s.wantShown(t, dnsNameLookups, map[string]float64{
		"example.com,NOERROR": 100, "example.com,NXDOMAIN": 2, "example.com,timeout": 1, "example.com,none": 2,
	})
	clients := 0.0
	for values, n := range s.shown(dnsQueries) {
		if !strings.Contains(values, ",upstream,") {
			clients += n
		}
	}
	if got := s.sum(dnsNameLookups); got != clients {
		t.Errorf("names sum up to %g lookups, queries to %g", got, clients)
	}
}

func TestNamesAreOff(t *testing.T) {
	s, m := nameMetrics(t, "off")
	lookUp(m, "a.example", 10)
	s.wantShown(t, dnsNameLookups, map[string]float64{})
	if n := len(m.names.shown) + len(m.names.others); n != 0 {
		t.Errorf("%d names are remembered that nobody wants to know", n)
	}
}

// As long as there is room each has a series. Who comes late and is looked up the most takes the place of another, which keeps
// what it has and goes away when it is idle.
func TestTopNames(t *testing.T) {
	s, m := nameMetrics(t, "top:2")
	lookUp(m, "first.example", 3)
	lookUp(m, "second.example", 50)
	lookUp(m, "third.example", 7)
	s.wait(zeroFor)
	if diff := cmp.Diff(map[string]float64{"first.example": 3, "second.example": 50, Other: 7}, s.byName()); diff != "" {
		t.Fatal(diff)
	}
	s.wait(time.Minute)
	lookUp(m, "third.example", 5)
	lookUp(m, "first.example", 1)
	s.wait(zeroFor)
	want := map[string]float64{"first.example": 3, "second.example": 50, "third.example": 5, Other: 8}
	if diff := cmp.Diff(want, s.byName()); diff != "" {
		t.Error(diff)
	}
	for range 12 {
		s.wait(time.Minute)
		lookUp(m, "second.example", 1)
		lookUp(m, "third.example", 1)
		lookUp(m, "seldom.example", 1)
		m.SetInventory(inventoryOf())
	}
	s.wait(zeroFor)
	want = map[string]float64{"second.example": 62, "third.example": 17, Other: 20}
	if diff := cmp.Diff(want, s.byName()); diff != "" {
		t.Error(diff)
	}
}

// Names that are made up for one question each change nothing for those that matter.
func TestPassingNames(t *testing.T) {
	s, m := nameMetrics(t, "top:5")
	for i := range 3 {
		lookUp(m, fmt.Sprint("busy", i, ".example"), 20)
	}
	seen := make(map[string]bool)
	for i := range 30 {
		var passing []string
		for j := range 500 {
			passing = append(passing, fmt.Sprintf("%d.%d.tunnel.example", i, j))
		}
		lookUpAll(m, passing)
		for j := range 3 {
			lookUp(m, fmt.Sprint("busy", j, ".example"), 2)
		}
		lookUp(m, "late.example", 4)
		s.wait(time.Minute)
		m.SetInventory(inventoryOf())
		for name := range s.byName() {
			seen[name] = true
		}
	}
	s.wait(zeroFor)
	for i := range 3 {
		if got := s.byName()[fmt.Sprint("busy", i, ".example")]; got != 20+30*2 {
			t.Errorf("busy%d was looked up %g times, want 80", i, got)
		}
	}
	if s.byName()["late.example"] == 0 {
		t.Error("a name that is looked up a lot is not told apart")
	}
	if len(seen) > 3+1+1+2+2 { // two free places, for as long as series are kept
		t.Errorf("%d names had series: %v", len(seen), seen)
	}
	if n := len(m.names.others); n > m.names.maxOthers() {
		t.Errorf("%d other names are remembered", n)
	}
}

// A name that is looked up little more than another, or hardly ever, does not take its place: series would come and go.
func TestNamesStay(t *testing.T) {
	s, m := nameMetrics(t, "top:1")
	for range 20 {
		lookUp(m, "a.example", 10)
		lookUp(m, "b.example", 15)
		s.wait(time.Minute)
	}
	if shown := s.byName(); shown["b.example"] != 0 || shown["a.example"] != 200 {
		t.Errorf("%v", shown)
	}

	s, m = nameMetrics(t, "top:1")
	lookUp(m, "once.example", 1)
	lookUp(m, "some.example", worthShowing-1)
	s.wait(time.Minute)
	lookUp(m, "once.example", 1)
	if m.names.shown["once.example"] == nil {
		t.Error("a name that was looked up a few times takes the place of another")
	}
}

// Who has got a place keeps it until it is idle for as long as series are kept, also if it was not looked up since.
func TestNamesKeepTheirPlace(t *testing.T) {
	s, m := nameMetrics(t, "top:1")
	lookUp(m, "once.example", 1)
	lookUp(m, "often.example", 50)
	for range 3 {
		s.wait(time.Minute)
		lookUp(m, "other.example", 1)
	}
	s.wait(time.Minute)
	lookUp(m, "often.example", 2)
	s.wait(zeroFor)
	if diff := cmp.Diff(map[string]float64{"once.example": 1, "often.example": 2, Other: 53}, s.byName()); diff != "" {
		t.Error(diff)
	}
}

// What was looked up a lot long ago, and is a little still, makes room for what is looked up more now.
func TestNamesOfLongAgo(t *testing.T) {
	s, m := nameMetrics(t, "top:1")
	lookUp(m, "once.example", 2000)
	for range 120 {
		lookUp(m, "once.example", 1)
		lookUp(m, "now.example", 5)
		s.wait(time.Minute)
	}
	if m.names.shown["now.example"] == nil {
		t.Errorf("shown is %v", m.names.shown)
	}
}

// However fast the names change that are looked up the most, there are series of twice as many as are told apart, and no more.
func TestNamesTakeTurns(t *testing.T) {
	const limit = 3
	s, m := nameMetrics(t, fmt.Sprint("top:", limit))
	for round, n := 0, 5; round < 7; round, n = round+1, 3*n {
		for i := range limit {
			lookUp(m, fmt.Sprint(round, ".", i, ".example"), n)
			lookUp(m, fmt.Sprint(round-1, ".", i, ".example"), 1)
		}
		s.wait(time.Minute)
		m.SetInventory(inventoryOf())
		if names := s.byName(); len(names) > 2*limit+1 {
			t.Fatalf("%d names have series: %v", len(names), names)
		}
	}
	if len(m.names.left) != limit {
		t.Errorf("%d have left, want %d", len(m.names.left), limit)
	}
}

// Whatever is looked up: no counter goes down but to nothing, all of them together have all lookups that were ever seen there, and
// names and memory have bounds.
func TestNamesInTheLongRun(t *testing.T) {
	const limit = 20
	s, m := nameMetrics(t, fmt.Sprint("top:", limit))
	random := rand.New(rand.NewPCG(3, 4))
	zipf := rand.NewZipf(random, 1.3, 1, 10000)
	last := make(map[string]float64)
	rises := 0.0
	looked := 0
	for minute := range 300 {
		shift := uint64(minute / 60 * 3000) // what is popular changes
		var names []string
		for range 200 {
			names = append(names, fmt.Sprint("n", zipf.Uint64()+shift))
		}
		lookUpAll(m, names)
		looked += len(names)
		s.wait(zeroFor)
		m.SetInventory(inventoryOf())
		shown := s.byName()
		for name, n := range shown {
			if n < last[name] {
				t.Fatalf("%s went from %g to %g", name, last[name], n)
			}
			rises += n - last[name]
		}
		if n := len(shown); n > 2*limit+1 {
			t.Fatalf("%d names have series, want at most %d", n, 2*limit+1)
		}
		if n := len(m.names.others); n > m.names.maxOthers()+limit {
			t.Fatalf("%d other names are remembered", n)
		}
		maps.DeleteFunc(last, func(name string, _ float64) bool { _, still := shown[name]; return !still })
		maps.Copy(last, shown)
		s.wait(45 * time.Second)
	}
	if rises != float64(looked) {
		t.Errorf("counters have risen by %g in all, with %d lookups", rises, looked)
	}
	for i := range 3 { // the most popular of the last hours
		if name := fmt.Sprint("n", 12000+i); m.names.shown[name] == nil {
			t.Errorf("%s is not told apart", name)
		}
	}
}

// A hash tells names apart and does not tell them. The next agent's are others.
func TestHashedNames(t *testing.T) {
	shape := regexp.MustCompile(`^[0-9a-f]{8}$`)
	var hashes []string
	for range 2 {
		s, m := nameMetrics(t, "hash")
		for i := range 150 {
			lookUp(m, fmt.Sprint(i, ".example"), 1)
		}
		lookUp(m, "0.example", 1)
		s.wait(zeroFor)
		sum, twice := 0.0, 0
		for name, n := range s.byName() {
			sum += n
			if name != Other && !shape.MatchString(name) {
				t.Errorf("%s is no hash", name)
			}
			if n == 2 {
				twice++
				hashes = append(hashes, name)
			}
		}
		if n := len(s.byName()); n != hashedNames+1 || sum != 151 || twice != 1 {
			t.Errorf("%d names, %g lookups, %d names were looked up twice", n, sum, twice)
		}
	}
	if hashes[0] == hashes[1] {
		t.Errorf("two agents have the same hash %s of a name: it can be found by trial", hashes[0])
	}
}
