// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// tracked says what a table with these entries means.
func (w *world) tracked(entries ...loader.Tracked) Tracking {
	w.t.Helper()
	list := func(translated bool) func(visit func(*loader.Tracked)) error {
		return func(visit func(*loader.Tracked)) error {
			var shared loader.Tracked // what is visited is only valid until visit returns
			for _, e := range entries {
				if shared = e; shared.Translated() == translated {
					visit(&shared)
				}
			}
			return nil
		}
	}
	tracking, err := w.Track(list(true), list(false))
	if err != nil {
		w.t.Fatal(err)
	}
	return tracking
}

// outgoing is a masqueraded connection.
func outgoing(from string, port int, address, to string) loader.Tracked {
	return entry(fmt.Sprintf("%s:%d->%s", from, port, to), fmt.Sprintf("%s->%s:%d", to, address, port))
}

// Where ports are many, one destination each is no pressure.
func TestNoPortPressure(t *testing.T) {
	w := newPort(t)
	one := outgoing("172.30.1.2", 1024, "192.0.2.1", "203.0.113.9:443")
	if got := w.tracked(one, one, outgoing("172.30.1.2", 1024, "192.0.2.1", "203.0.113.9:444")).Pressure; len(got) != 0 {
		t.Errorf("got %+v, want none", got)
	}
}

func TestEgressIdentities(t *testing.T) {
	w := newPort(t)
	c := w.members[idOf("beta")].Container // beta is on another network too
	w.PutContainer(on(c, "back", "172.30.2.3"))
	tracking := w.tracked(
		outgoing("172.30.1.2", 1024, "192.0.2.1", "203.0.113.9:443"),
		outgoing("172.30.1.2", 1025, "192.0.2.1", "203.0.113.9:443"),
		with(outgoing("172.30.1.2", 7, "192.0.2.1", "203.0.113.9:7"), of(unix.IPPROTO_ICMP)),
		outgoing("172.30.1.2", 1026, "192.0.2.2", "203.0.113.10:443"),
		outgoing("172.30.1.3", 1024, "192.0.2.1", "203.0.113.11:443"),
		outgoing("172.30.2.3", 1030, "192.0.2.1", "203.0.113.11:443"),
		outgoing("172.30.2.2", 1024, "192.0.2.3", "203.0.113.9:443"),
		outgoing("192.168.122.5", 1024, "192.0.2.1", "203.0.113.9:445"),                    // a virtual machine's
		entry("172.30.1.2:2000->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:2000"),         // does not leave the host
		entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:39340"),     // comes in
		entry("203.0.113.9:39341->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39341"),      // likewise
		outgoing("172.30.1.9", 1024, "192.0.2.1", "203.0.113.9:446"),                       // of a container that nobody knows
		entry("172.30.1.2:2001->203.0.113.9:80", "172.30.1.1:3128->172.30.1.2:2001"),       // to the host
		entry("172.30.1.2:2003->203.0.113.9:80", "192.0.2.1:3128->172.30.1.1:2003"),        // likewise
		with(entry("172.30.1.2:2002->203.0.113.9:80", "203.0.113.9:80->172.30.1.2:60000")), // keeps its address
	)
	want := []EgressIdentity{
		{Identity{Container: "alpha", Network: "web"}, idOf("alpha"), netip.MustParseAddr("192.0.2.1"), 3, 2},
		{Identity{Container: "alpha", Network: "web"}, idOf("alpha"), netip.MustParseAddr("192.0.2.2"), 1, 1},
		{Identity{Container: "beta", Network: "back"}, idOf("beta"), netip.MustParseAddr("192.0.2.1"), 2, 2},
		{Identity{Container: "gamma", Network: "back"}, idOf("gamma"), netip.MustParseAddr("192.0.2.3"), 1, 1},
	}
	if diff := cmp.Diff(want, tracking.Identities, comparers()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPortPressure(t *testing.T) {
	w := newPort(t)
	var entries []loader.Tracked
	for i := range 300 {
		entries = append(entries, outgoing("172.30.1.2", 1024+i, "192.0.2.1", "203.0.113.9:443"))
	}
	entries = append(entries, entries[:100]...) // visited twice
	for i := range 200 {
		entries = append(entries, outgoing("192.168.122.5", 1024+i, "192.0.2.1", "203.0.113.10:443"))
		entries = append(entries, with(outgoing("172.30.2.2", 1024+i, "192.0.2.1", "203.0.113.9:443"), of(unix.IPPROTO_UDP)))
		entries = append(entries, with(outgoing("172.30.2.2", i, "192.0.2.1", "203.0.113.9:443"), of(unix.IPPROTO_SCTP))) // below 1024
		entries = append(entries, with(outgoing("172.30.2.2", 1024+i, "192.0.2.1", fmt.Sprintf("203.0.113.9:%d", 1024+i)), of(unix.IPPROTO_ICMP)))
		entries = append(entries, entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:8080", 1024+i), fmt.Sprintf("172.30.1.2:80->203.0.113.9:%d", 1024+i)))
	}
	for i := range 100 {
		entries = append(entries, outgoing("172.30.2.2", 1024+i, "192.0.2.2", "203.0.113.9:443"))
	}
	for i := range 20 {
		entries = append(entries, outgoing("172.30.2.2", 1024, "192.0.2.1", fmt.Sprintf("203.0.113.%d:80", 100+i)))
		entries = append(entries, outgoing("172.30.2.2", 1025, "192.0.2.1", fmt.Sprintf("203.0.113.%d:80", 100+i)))
		entries = append(entries, outgoing("172.30.2.2", 1024, "192.0.2.1", fmt.Sprintf("203.0.113.%d:81", 100+i)))
		entries = append(entries, outgoing("172.30.2.2", 1024, "192.0.2.1", fmt.Sprintf("203.0.113.%d:81", 100+i)))
	}
	got := w.tracked(entries...).Pressure
	if len(got) != maxPressure {
		t.Fatalf("%d, want %d", len(got), maxPressure)
	}
	want := []PortPressure{
		{netip.MustParseAddr("192.0.2.1"), end("203.0.113.9:443"), unix.IPPROTO_TCP, 300, 64512, Identity{Container: "alpha", Network: "web"}},
		{netip.MustParseAddr("192.0.2.1"), end("203.0.113.9:443"), unix.IPPROTO_UDP, 200, 64512, Identity{Container: "gamma", Network: "back"}},
		{netip.MustParseAddr("192.0.2.1"), end("203.0.113.10:443"), unix.IPPROTO_TCP, 200, 64512, Identity{}},
		{netip.MustParseAddr("192.0.2.2"), end("203.0.113.9:443"), unix.IPPROTO_TCP, 100, 64512, Identity{Container: "gamma", Network: "back"}},
		{netip.MustParseAddr("192.0.2.1"), end("203.0.113.100:80"), unix.IPPROTO_TCP, 2, 64512, Identity{Container: "gamma", Network: "back"}},
	}
	if diff := cmp.Diff(want, got[:len(want)], comparers()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStaleEntries(t *testing.T) {
	udp := of(unix.IPPROTO_UDP)
	toOld := with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.30.1.200:53->203.0.113.9:39340"), udp)
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
		setup func(w *world)
		want  string // the container that it should go to
	}{
		{name: "to an address that nobody has", entry: toOld, want: "alpha"},
		{
			name:  "to one that the dead had",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.30.1.3:53->203.0.113.9:39340"), udp),
			setup: func(w *world) { w.ContainerDied(idOf("beta")) },
			want:  "alpha",
		},
		{
			name:  "by the gateway bridge to one that the dead had",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.18.0.9:53->203.0.113.9:39340"), udp),
			setup: func(w *world) {
				w.learned[netip.MustParseAddr("172.18.0.9")] = idOf("beta")
				w.ContainerDied(idOf("beta"))
			},
			want: "alpha",
		},
		{
			name:  "by the gateway bridge: nobody tells who has the address",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.18.0.9:53->203.0.113.9:39340"), udp),
		},
		{
			name:  "to who publishes the port",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.30.1.2:53->203.0.113.9:39340"), udp),
		},
		{
			name:  "to another one that lives",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.30.1.3:53->203.0.113.9:39340"), udp),
		},
		{
			name:  "to the routing mesh",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.18.0.2:5300->203.0.113.9:39340"), udp),
		},
		{
			name:  "to elsewhere",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "198.51.100.7:53->203.0.113.9:39340"), udp),
		},
		{name: "of a port that nobody publishes any more", entry: toOld, setup: func(w *world) { w.ContainerDied(idOf("alpha")) }},
		{name: "before all containers are known", entry: toOld, setup: func(w *world) { w.listed = false }},
		{name: "TCP", entry: entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.200:80->203.0.113.9:39340")},
		{name: "what goes out", entry: with(outgoing("172.30.1.200", 1024, "192.0.2.1", "203.0.113.9:53"), udp)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			if tc.setup != nil {
				tc.setup(w)
			}
			w.wait(time.Second)
			got := w.tracked(tc.entry).Stale
			if tc.want == "" {
				if len(got) != 0 {
					t.Errorf("got %+v, want none", got)
				}
				return
			}
			want := []StaleEntry{{tc.entry, Identity{Container: tc.want, Network: "web"}, idOf(tc.want), 5300}}
			if diff := cmp.Diff(want, got, comparers()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Of each protocol the highest is told, however many others have more.
func TestPortPressureOfEachProtocol(t *testing.T) {
	w := newPort(t)
	var entries []loader.Tracked
	for i := range 3 * maxPressure {
		to := fmt.Sprintf("203.0.113.%d:443", i)
		for port := range 5 {
			entries = append(entries, outgoing("172.30.1.2", 1024+port, "192.0.2.1", to))
		}
		udp := of(unix.IPPROTO_UDP)
		entries = append(entries, with(outgoing("172.30.2.2", 1024, "192.0.2.1", to), udp), with(outgoing("172.30.2.2", 1025, "192.0.2.1", to), udp))
	}
	entries = append(entries, with(outgoing("172.30.2.2", 1026, "192.0.2.1", "203.0.113.7:443"), of(unix.IPPROTO_UDP)))
	got := w.tracked(entries...).Pressure
	if len(got) != maxPressure+1 {
		t.Fatalf("%d, want %d", len(got), maxPressure+1)
	}
	want := PortPressure{netip.MustParseAddr("192.0.2.1"), end("203.0.113.7:443"), unix.IPPROTO_UDP, 3, 64512, Identity{Container: "gamma", Network: "back"}}
	if diff := cmp.Diff(want, got[maxPressure], comparers()); diff != "" {
		t.Errorf("the last one (-want +got):\n%s", diff)
	}
}

// Of a listing that fails in its midst what was read counts.
func TestTrackPartOfATable(t *testing.T) {
	w := newPort(t)
	torn := errors.New("cut short")
	entry := outgoing("172.30.1.2", 1024, "192.0.2.1", "203.0.113.9:443")
	tracking, err := w.Track(func(visit func(*loader.Tracked)) error {
		visit(&entry)
		return torn
	}, nil)
	if !errors.Is(err, torn) || len(tracking.Identities) != 1 {
		t.Errorf("got %+v and error %v, want one identity and %v", tracking, err, torn)
	}
}

// Nothing is told of more entries than anybody reads.
func TestTrackingIsBounded(t *testing.T) {
	w := newPort(t)
	var entries []loader.Tracked
	for i := range maxStale + 10 {
		entries = append(entries, with(entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:5300", 1024+i),
			fmt.Sprintf("172.30.1.200:53->203.0.113.9:%d", 1024+i)), of(unix.IPPROTO_UDP)))
	}
	if got := w.tracked(entries...); len(got.Stale) != maxStale || got.MoreStale != 10 {
		t.Errorf("%d stale entries and %d more, want %d and 10", len(got.Stale), got.MoreStale, maxStale)
	}
}

// 65,000 masqueraded connections.
func BenchmarkTrack(b *testing.B) {
	s := NewState(Config{Host: hostNetns, Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
	s.PutNetwork(bridgeNetwork("web", "172.30.1."))
	s.PutContainer(on(Container{ID: idOf("alpha"), Name: "alpha", Running: true}, "web", "172.30.1.2"))
	entries := make([]loader.Tracked, 0, 65000)
	for i := range 65000 {
		to := fmt.Sprintf("203.0.%d.%d:443", i/256, i%256)
		entries = append(entries, outgoing("172.30.1.2", 1024+i%60000, "192.0.2.1", to))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Track(func(visit func(*loader.Tracked)) error {
			for i := range entries {
				visit(&entries[i])
			}
			return nil
		}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
