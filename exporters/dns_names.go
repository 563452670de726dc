// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// DNSNames says which names of lookups metrics tell apart. The zero value is none.
type DNSNames struct {
	limit  int
	hashed bool
}

const (
	maxNames    = 1000
	hashedNames = 100
)

// ParseDNSNames reads off, hash or top:N, with N from 1 to 1000. Hashes are told apart of 100 names.
func ParseDNSNames(text string) (DNSNames, error) {
	switch text {
	case "off":
		return DNSNames{}, nil
	case "hash":
		return DNSNames{limit: hashedNames, hashed: true}, nil
	}
	number, top := strings.CutPrefix(text, "top:")
	n, err := strconv.ParseUint(number, 10, 16)
	if !top || err != nil || n < 1 || n > maxNames {
		return DNSNames{}, fmt.Errorf("%q is neither off nor hash nor top:N with N from 1 to %d", text, maxNames)
	}
	return DNSNames{limit: int(n)}, nil
}

// SetDNSNames says of which names lookups are counted, from now on. Without it they are not. It must not be called concurrently
// with the other methods, and only before AddDNS.
func (m *Metrics) SetDNSNames(names DNSNames) {
	m.names = newNameTable(names, m.store.config.Retention)
}

// Values of the label rcode of lookups without an answer.
const (
	codeTimeout = "timeout"
	codeNone    = "none" // none is awaited, or it is not known whether one came
)

// addNames counts lookups by name. Those that the engine makes for others are the same ones over again.
func (m *Metrics) addNames(lookups []enrich.Lookup) {
	if m.names.limit == 0 {
		return
	}
	now := m.store.config.Now()
	type key struct{ label, code string }
	var counts tallyOf[key]
	m.names.renew(now)
	for i := range lookups {
		if l := &lookups[i]; l.Resolver != enrich.ResolverUpstream {
			counts.add(key{m.names.label(l.Question.Name, now), outcomeCode(l)})
		}
	}
	for _, k := range counts.keys {
		m.store.Add(dnsNameLookups, counts.counts[k], k.label, k.code)
	}
}

func outcomeCode(l *enrich.Lookup) string {
	switch l.Outcome {
	case loader.DNSAnswered:
		return l.RCode
	case loader.DNSTimedOut:
		return codeTimeout
	}
	return codeNone
}

// nameTable chooses the names that are told apart: as long as there is room each, then those that are looked up the most. All
// others are together. Whoever has had a series keeps what was counted there, which is retired when it is idle, so that no
// counter goes down or takes over what another has counted. At no time are there series of more than twice as many names as are
// told apart.
type nameTable struct {
	DNSNames
	retention time.Duration // of series that nothing is added to
	key       [sha256.Size]byte

	shown   map[string]*shownName
	left    map[string]time.Time // names that are told apart no more and whose series may still be there, with the time when they left
	others  map[string]int       // how often names that are not shown were looked up of late, at least
	renewed time.Time
	halved  time.Time
}

type shownName struct {
	label string
	count int // of late
	used  time.Time
}

func newNameTable(names DNSNames, retention time.Duration) *nameTable {
	t := &nameTable{
		DNSNames: names, retention: retention,
		shown: make(map[string]*shownName), left: make(map[string]time.Time), others: make(map[string]int),
	}
	_, _ = rand.Read(t.key[:]) // never fails
	return t
}

// label is what stands for a name, which was looked up once more.
func (t *nameTable) label(name string, now time.Time) string {
	s := t.shown[name]
	if s == nil && len(t.shown) < t.limit {
		s = t.show(name, now)
	}
	if s == nil {
		t.countOther(name)
		return Other
	}
	s.count++
	s.used = now
	return s.label
}

func (t *nameTable) show(name string, now time.Time) *shownName {
	s := &shownName{label: name, count: t.others[name], used: now}
	if t.hashed {
		s.label = t.hash(name)
	}
	t.shown[name] = s
	delete(t.left, name)
	delete(t.others, name)
	return s
}

// hash cannot be reversed by trying out likely names, since its key is nowhere but here. It is another one after each start.
func (t *nameTable) hash(name string) string {
	mac := hmac.New(sha256.New, t.key[:])
	mac.Write([]byte(name))
	return hex.EncodeToString(mac.Sum(nil)[:4])
}

// countOther finds the frequent ones with bounded memory, after Misra and Gries: if there is no room for one more, all are counted
// down by one, and what is at none goes. So each name that makes up more than one in len(others) stays.
func (t *nameTable) countOther(name string) {
	if _, known := t.others[name]; known || len(t.others) < t.maxOthers() {
		t.others[name]++
		return
	}
	for other, count := range t.others {
		t.others[other] = count - 1
	}
	maps.DeleteFunc(t.others, func(_ string, count int) bool { return count <= 0 })
}

func (t *nameTable) maxOthers() int { return 1000 + 4*t.limit }

// renew makes room where series are idle, and now and then shows what is looked up more than what is shown. What was long ago
// counts ever less.
func (t *nameTable) renew(now time.Time) {
	if now.Sub(t.renewed) < time.Minute {
		return
	}
	t.renewed = now
	maps.DeleteFunc(t.shown, func(_ string, s *shownName) bool { return now.Sub(s.used) >= t.retention })
	maps.DeleteFunc(t.left, func(_ string, since time.Time) bool { return now.Sub(since) >= t.retention })
	t.exchange(now)
	if now.Sub(t.halved) >= t.retention {
		t.halved = now
		for _, s := range t.shown {
			s.count /= 2
		}
		for name, count := range t.others {
			t.others[name] = count / 2
		}
		maps.DeleteFunc(t.others, func(_ string, count int) bool { return count == 0 })
	}
}

// worthShowing is how often a name must have been looked up to take the place of another: names that are made up for one
// question each shall not come and go.
const worthShowing = 5

// exchange takes those out that are shown and looked up the least, for others that are looked up more than twice as often.
func (t *nameTable) exchange(now time.Time) {
	least := slices.SortedFunc(maps.Keys(t.shown), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.shown[a].count, t.shown[b].count), cmp.Compare(a, b))
	})
	most := slices.SortedFunc(maps.Keys(t.others), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.others[b], t.others[a]), cmp.Compare(a, b))
	})
	for _, name := range most {
		if t.others[name] < worthShowing {
			return
		}
		if len(t.shown) >= t.limit {
			if len(least) == 0 || t.others[name] <= 2*t.shown[least[0]].count || len(t.left) >= t.limit {
				return
			}
			t.hide(least[0], now)
			least = least[1:]
		}
		t.show(name, now)
	}
}

func (t *nameTable) hide(name string, now time.Time) {
	t.others[name] = t.shown[name].count
	t.left[name] = now
	delete(t.shown, name)
}
