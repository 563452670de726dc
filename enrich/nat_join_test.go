// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// asked is a connection to alpha's port 8080 that docker-proxy carries.
func asked(port int) loader.Tracked {
	return with(plain(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:8080", port)), unseen)
}

// dialedBy is docker-proxy's own for it, or a host process's.
func dialedBy(port int) loader.Tracked {
	return with(plain(fmt.Sprintf("172.30.1.1:%d->172.30.1.2:80", port)), local)
}

// joined is what was found out of a connection.
type joined struct {
	Client, Seen string
	Inferred     bool
}

func joinedOf(list []PublishedConnection) (all []joined) {
	for _, c := range list {
		all = append(all, joined{c.Original.Source.String(), text(c.Seen), c.Inferred})
	}
	return all
}

// Readings fall anywhere between what belongs together.
func TestJoinAcrossReadings(t *testing.T) {
	want := []joined{{"203.0.113.9:1", "172.30.1.1:1", false}}
	for _, tc := range []struct {
		name     string
		protocol uint8
		readings [][]string // what each of them has
		told     []joined   // connections
		joined   []joined   // what is told of them later
	}{
		{"all at once", unix.IPPROTO_TCP, [][]string{{"opened", "answered", "dialed"}}, want, nil},
		{"answer later", unix.IPPROTO_TCP, [][]string{{"opened"}, {"answered", "dialed"}}, want, nil},
		{"docker-proxy later", unix.IPPROTO_TCP, [][]string{{"opened", "answered"}, {"dialed"}}, []joined{{"203.0.113.9:1", "", false}}, want},
		{"UDP at once", unix.IPPROTO_UDP, [][]string{{"opened", "dialed", "answered"}}, want, nil},
		{"UDP, answer later", unix.IPPROTO_UDP, [][]string{{"opened", "dialed"}, {"answered"}}, want, nil},
		{"UDP, docker-proxy later", unix.IPPROTO_UDP, [][]string{{"opened"}, {"dialed", "answered"}}, want, nil},
		{"UDP, heard of after docker-proxy", unix.IPPROTO_UDP, [][]string{{"dialed"}, {"opened", "answered"}}, want, nil},
		{"UDP, heard of long after docker-proxy", unix.IPPROTO_UDP, [][]string{{"dialed"}, {}, {}, {"opened", "answered"}}, []joined{{"203.0.113.9:1", "", false}}, nil},
		{"UDP, never answered", unix.IPPROTO_UDP, [][]string{{"opened"}, {"dialed"}}, nil, want},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.publish("alpha", "0.0.0.0:8080->80/tcp", "0.0.0.0:8080->80/udp")
			var told, later []joined
			for _, reading := range tc.readings {
				var news loader.NATNews
				for _, step := range reading {
					switch step {
					case "opened":
						news.Opened = append(news.Opened, w.events(with(asked(1), of(tc.protocol)))...)
					case "answered":
						news.Answered = append(news.Answered, w.events(with(asked(1), of(tc.protocol)))...)
					case "dialed":
						news.Opened = append(news.Opened, w.events(with(dialedBy(1), of(tc.protocol)))...)
					}
				}
				w.wait(time.Second)
				nat := w.AttributeNAT(news)
				told = append(told, joinedOf(nat.Connections)...)
				later = append(later, joinedOf(nat.Joined)...)
			}
			if diff := cmp.Diff(tc.told, told); diff != "" {
				t.Errorf("connections (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.joined, later); diff != "" {
				t.Errorf("told later (-want +got):\n%s", diff)
			}
		})
	}
}

// Each of docker-proxy's connections belongs to the one that was answered just before. Where several wait it is the oldest,
// and that is a guess.
func TestJoinInOrder(t *testing.T) {
	w := newPort(t)
	var news loader.NATNews
	answer := func(port int) { news.Answered = append(news.Answered, w.events(asked(port))...) }
	dial := func(port int) { news.Opened = append(news.Opened, w.events(dialedBy(port))...) }
	answer(1)
	dial(1)
	answer(2)
	dial(2)
	answer(3)
	answer(4)
	dial(3)
	dial(4)
	news.Opened[0], news.Opened[3] = news.Opened[3], news.Opened[0] // they come in no particular order
	news.Answered[1], news.Answered[2] = news.Answered[2], news.Answered[1]
	want := []joined{
		{"203.0.113.9:1", "172.30.1.1:1", false},
		{"203.0.113.9:3", "172.30.1.1:3", true},
		{"203.0.113.9:2", "172.30.1.1:2", false},
		{"203.0.113.9:4", "172.30.1.1:4", true}, // the only one that is left of the two
	}
	if diff := cmp.Diff(want, joinedOf(w.AttributeNAT(news).Connections)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What no device has sent is heard of after docker-proxy has passed it on. Which of several came first nobody knows.
func TestJoinOfWhatWasHeardOfLate(t *testing.T) {
	w := newPort(t)
	w.publish("alpha", "0.0.0.0:8080->80/udp")
	udp := of(unix.IPPROTO_UDP)
	dials := w.events(with(dialedBy(1), udp), with(dialedBy(2), udp))
	w.wait(50 * time.Millisecond)
	openings := w.events(with(asked(1), udp), with(asked(2), udp))
	nat := w.AttributeNAT(loader.NATNews{Opened: append(openings, dials...)})
	want := []joined{{"203.0.113.9:1", "172.30.1.1:1", true}, {"203.0.113.9:2", "172.30.1.1:2", true}}
	if diff := cmp.Diff(want, joinedOf(nat.Attempts)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A process of the host that connects to the container itself is not taken for docker-proxy while nothing waits for that.
func TestDirectConnectionIsNotJoined(t *testing.T) {
	for _, tc := range []struct {
		name string
		news func(w *world) loader.NATNews
		want []joined
	}{
		{
			"before",
			func(w *world) (news loader.NATNews) {
				news.Opened = w.events(dialedBy(1))
				news.Answered = w.events(asked(7))
				return news
			},
			[]joined{{"203.0.113.9:7", "", false}},
		},
		{
			"long after",
			func(w *world) (news loader.NATNews) {
				news.Answered = w.events(asked(7))
				w.wait(joinWindow)
				news.Opened = w.events(dialedBy(1))
				return news
			},
			[]joined{{"203.0.113.9:7", "", false}},
		},
		{
			"after docker-proxy's",
			func(w *world) (news loader.NATNews) {
				news.Answered = w.events(asked(7))
				news.Opened = w.events(dialedBy(7), dialedBy(1))
				return news
			},
			[]joined{{"203.0.113.9:7", "172.30.1.1:7", true}}, // which of the two was docker-proxy's nothing tells
		},
		{
			"long after docker-proxy's",
			func(w *world) (news loader.NATNews) {
				news.Answered = w.events(asked(7))
				news.Opened = w.events(dialedBy(7))
				w.wait(2 * joinWindow)
				news.Opened = append(news.Opened, w.events(dialedBy(1))...)
				return news
			},
			[]joined{{"203.0.113.9:7", "172.30.1.1:7", false}},
		},
		{
			"to another container",
			func(w *world) (news loader.NATNews) {
				news.Answered = w.events(asked(7))
				news.Opened = w.events(with(plain("172.30.1.1:1->172.30.1.3:80"), local))
				return news
			},
			[]joined{{"203.0.113.9:7", "", false}},
		},
		{
			"from an address that is not the bridge's",
			func(w *world) (news loader.NATNews) {
				news.Answered = w.events(asked(7))
				news.Opened = w.events(with(plain("192.0.2.1:1->172.30.1.2:80"), local), plain("172.30.1.3:1->172.30.1.2:80"))
				return news
			},
			[]joined{{"203.0.113.9:7", "", false}},
		},
		{
			"while a client was not answered: docker-proxy does not know of it",
			func(w *world) loader.NATNews { return w.opened(asked(7), dialedBy(1)) },
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			nat := w.AttributeNAT(tc.news(w))
			if diff := cmp.Diff(tc.want, joinedOf(nat.Connections)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, c := range nat.Attempts {
				if c.Seen.IsValid() || c.Port != 8080 {
					t.Errorf("attempt at %d sees %v", c.Port, c.Seen)
				}
			}
		})
	}
}

// As long as a process of the host connects to the container itself, nothing tells whose a connection is.
func TestJoinBesideDirectConnections(t *testing.T) {
	w := newPort(t)
	reading := func(client int, direct bool) (told []joined) {
		var news loader.NATNews
		if direct {
			news.Opened = w.events(dialedBy(100 + client))
		}
		if client > 0 {
			news.Answered = w.events(asked(client))
			news.Opened = append(news.Opened, w.events(dialedBy(client))...)
		}
		told = joinedOf(w.AttributeNAT(news).Connections)
		w.wait(joinWindow / 4)
		return told
	}
	step := func(name string, want bool, got []joined) {
		t.Helper()
		if len(got) != 1 || got[0].Inferred != want {
			t.Errorf("%s: got %+v, want inferred %t", name, got, want)
		}
	}
	step("nobody else", false, reading(1, false))
	step("in the same reading", true, reading(2, true))
	reading(0, true)
	step("in the reading before", true, reading(3, false))
	for range 6 {
		reading(0, false)
	}
	step("no more, when that is forgotten", false, reading(4, false))
	for range 6 {
		w.AttributeNAT(loader.NATNews{Opened: w.events(with(plain("172.30.1.1:1->172.30.1.3:80"), local))})
	}
	step("to another container", false, reading(5, false))
	w.wait(joinMemory + time.Second)
	w.AttributeNAT(loader.NATNews{})
	if left := len(w.pending.nat.joins.strays); left != 0 {
		t.Errorf("%d are remembered for ever", left)
	}
}

// Once it was a guess, it is one for those right after, too.
func TestJoinAfterAGuess(t *testing.T) {
	w := newPort(t)
	first := loader.NATNews{Answered: w.events(asked(1), asked(2))}
	first.Opened = w.events(dialedBy(1), dialedBy(2))
	w.AttributeNAT(first)
	for _, want := range []bool{true, false} {
		news := loader.NATNews{Answered: w.events(asked(3))}
		news.Opened = w.events(dialedBy(3))
		if got := joinedOf(w.AttributeNAT(news).Connections); len(got) != 1 || got[0].Inferred != want {
			t.Errorf("got %+v, want inferred %t", got, want)
		}
		w.wait(2 * joinWindow)
	}
}

// The mesh's own entry may be read first, or in a reading of its own.
func TestMeshJoinInEveryOrder(t *testing.T) {
	host := entry("203.0.113.9:39340->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:39340")
	inside := with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"), inNetns(77), byIPVS)
	want := []joined{{"203.0.113.9:39340", "10.0.0.2:39340", false}}
	for _, tc := range []struct {
		name     string
		readings []func(w *world) loader.NATNews
		joined   []joined
	}{
		{"at once", []func(*world) loader.NATNews{
			func(w *world) loader.NATNews {
				return loader.NATNews{Opened: w.events(inside, host), Answered: w.events(inside, host)}
			},
		}, nil},
		{"the mesh's later", []func(*world) loader.NATNews{
			func(w *world) loader.NATNews { return w.opened(host) },
			func(w *world) loader.NATNews {
				return loader.NATNews{Opened: w.events(inside), Answered: w.events(host)}
			},
		}, nil},
		{"the mesh's after the answer", []func(*world) loader.NATNews{
			func(w *world) loader.NATNews { return loader.NATNews{Opened: w.events(host), Answered: w.events(host)} },
			func(w *world) loader.NATNews { return w.opened(inside) },
		}, want},
		{"the mesh's first", []func(*world) loader.NATNews{
			func(w *world) loader.NATNews { return w.opened(inside) },
			func(w *world) loader.NATNews { return loader.NATNews{Opened: w.events(host), Answered: w.events(host)} },
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			var told, later []joined
			for _, news := range tc.readings {
				nat := w.AttributeNAT(news(w))
				told = append(told, joinedOf(nat.Connections)...)
				later = append(later, joinedOf(nat.Joined)...)
				w.wait(time.Second)
			}
			if tc.joined == nil {
				if diff := cmp.Diff(want, told); diff != "" {
					t.Errorf("connections (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(tc.joined, later); diff != "" {
				t.Errorf("told later (-want +got):\n%s", diff)
			}
		})
	}
}

// The same addresses and ports again are another connection, which may be served elsewhere.
func TestJoinOfPortsUsedAgain(t *testing.T) {
	w := newPort(t)
	host := entry("203.0.113.9:39340->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:39340")
	for _, seen := range []string{"10.0.0.2:39340", "10.0.0.2:1024"} {
		inside := with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->"+seen), inNetns(77), byIPVS)
		nat := w.AttributeNAT(loader.NATNews{Opened: w.events(host, inside), Answered: w.events(host)})
		if got := text(nat.Connections[0].Seen); got != seen {
			t.Errorf("seen %s, want %s", got, seen)
		}
		w.wait(time.Second)
	}
}

// What is remembered is bounded in number and in time.
func TestJoinsAreBounded(t *testing.T) {
	w := newPort(t)
	var news loader.NATNews
	for i := range maxJoins + 100 {
		e := with(plain(fmt.Sprintf("203.0.%d.9:%d->192.0.2.1:8080", i/60000, 1+i%60000)), unseen)
		news.Answered = append(news.Answered, loader.NATEvent{Tracked: e, At: w.now})
	}
	if got := len(w.AttributeNAT(news).Connections); got != maxJoins+100 {
		t.Errorf("%d connections, want %d: all count", got, maxJoins+100)
	}
	joins := &w.pending.nat.joins
	if len(joins.carried) != maxJoins {
		t.Errorf("%d are remembered, want %d", len(joins.carried), maxJoins)
	}
	if diff := cmp.Diff(map[string]uint64{"not_joined": 100, "maybe_mesh": 0}, lossesOf(w.State)); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	w.wait(joinMemory + time.Second)
	w.AttributeNAT(loader.NATNews{})
	if len(joins.carried)+len(joins.queues) != 0 {
		t.Errorf("%d and %d are remembered for ever", len(joins.carried), len(joins.queues))
	}
}

// The same addresses and ports twice in one reading: the first still waits for docker-proxy when the news are others'.
func TestJoinOfTheSameAgainInOneReading(t *testing.T) {
	for _, tc := range []struct {
		name    string
		between []loader.Tracked // answered in the reading that docker-proxy's connection is in
		told    []joined
	}{
		{"nothing else", nil, nil},
		{"another client", []loader.Tracked{entry("203.0.113.77:7->192.0.2.1:8080", "172.30.1.2:80->203.0.113.77:7")}, []joined{{"203.0.113.77:7", "203.0.113.77:7", false}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.AttributeNAT(loader.NATNews{Answered: w.events(asked(1), asked(1))})
			w.wait(time.Second)
			nat := w.AttributeNAT(loader.NATNews{Opened: w.events(dialedBy(9)), Answered: w.events(tc.between...)})
			if diff := cmp.Diff(tc.told, joinedOf(nat.Connections)); diff != "" {
				t.Errorf("connections (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]joined{{"203.0.113.9:1", "172.30.1.1:9", true}}, joinedOf(nat.Joined)); diff != "" {
				t.Errorf("told later (-want +got):\n%s", diff)
			}
		})
	}
}

// What is joined, answered and told needs no room any more.
func TestJoinsAreForgottenOnceTold(t *testing.T) {
	mesh := entry("203.0.113.9:39340->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:39340")
	inside := with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"), inNetns(77), byIPVS)
	for _, tc := range []struct {
		name string
		news func(w *world) loader.NATNews
		left int
	}{
		{"docker-proxy's", func(w *world) loader.NATNews {
			answered := w.events(asked(1))
			return loader.NATNews{Answered: answered, Opened: w.events(dialedBy(1))}
		}, 0},
		{"the mesh's", func(w *world) loader.NATNews {
			opened := w.events(mesh, inside)
			return loader.NATNews{Opened: opened, Answered: w.events(inside, mesh)}
		}, 0},
		{"not answered", func(w *world) loader.NATNews { return w.opened(mesh, inside) }, 1},
		{"not joined", func(w *world) loader.NATNews {
			return loader.NATNews{Opened: w.events(mesh), Answered: w.events(mesh)}
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.AttributeNAT(tc.news(w))
			if tc.left == 0 {
				w.AttributeNAT(loader.NATNews{Answered: w.events(inside)}) // is of nobody that waits
			}
			if got := len(w.pending.nat.joins.carried); got != tc.left {
				t.Errorf("%d are remembered, want %d", got, tc.left)
			}
		})
	}
}

func lossesOf(s *State) map[string]uint64 {
	counts := make(map[string]uint64)
	for _, l := range s.NATLosses() {
		counts[l.Place] = l.Count
	}
	return counts
}
