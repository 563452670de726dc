// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

func (l lost) flags(flags uint8) lost {
	l.TCPFlags = flags
	return l
}

func (l lost) at(reason, function string) lost {
	l.Reason, l.Function = reason, function
	return l
}

// rising reads connection tracking's counters twice: of the host, and of alpha.
func rising(host, alpha loader.ConntrackStats) func(*world) {
	return func(w *world) {
		base := loader.ConntrackStats{Entries: 9, InsertFailed: 1000, Invalid: 1000, Drop: 1000}
		w.SetConntrackStats(base, map[string]loader.ConntrackStats{idOf("alpha"): base})
		add := func(rise loader.ConntrackStats) loader.ConntrackStats {
			rise.InsertFailed += base.InsertFailed
			rise.Invalid += base.Invalid
			rise.Drop += base.Drop
			return rise
		}
		w.SetConntrackStats(add(host), map[string]loader.ConntrackStats{idOf("alpha"): add(alpha)})
	}
}

// conntrackCases are what connection tracking itself loses: rows N8, N9 and N12 of the catalogue.
func conntrackCases() []causeCase {
	var (
		none        = loader.ConntrackStats{}
		failing     = rising(loader.ConntrackStats{InsertFailed: 1, Drop: 1}, none)
		failingHere = rising(none, loader.ConntrackStats{InsertFailed: 1, Drop: 1})
		invalid     = rising(loader.ConntrackStats{Invalid: 1}, none)
		both        = rising(loader.ConntrackStats{Invalid: 1, InsertFailed: 1}, loader.ConntrackStats{Invalid: 1, InsertFailed: 1})
		longAgo     = func(w *world) { both(w); w.wait(recently + time.Second) }
	)
	out := between("192.0.2.1", "198.51.100.1").by(webBridge, uplink).tracked("172.30.1.2", "198.51.100.1")
	lookup := out.port(unix.IPPROTO_UDP, 53)
	inside := between("127.0.0.1", "127.0.0.11").in(alphaPort).made().translated("127.0.0.1", "127.0.0.11").port(unix.IPPROTO_UDP, 40123)
	middle := between("198.51.100.1", "192.0.2.1").by(uplink, uplink).port(unix.IPPROTO_TCP, 8080).flags(tcpACK).at("NO_SOCKET", "tcp_v4_rcv")
	return []causeCase{
		{"no port left", failing, out.port(unix.IPPROTO_TCP, 443), "snat-exhaustion", "alpha"},
		{"no port left, before 5.17", failing, out.port(unix.IPPROTO_TCP, 443).at("", "nf_hook_slow"), "snat-exhaustion", "alpha"},
		{"no port left, UDP", failing, out.port(unix.IPPROTO_UDP, 443), "snat-exhaustion", "alpha"},
		{"translated, nothing fails", nil, out.port(unix.IPPROTO_TCP, 443), "filtered", "alpha"},
		{"translated, what fails is invalid", invalid, out.port(unix.IPPROTO_TCP, 443), "filtered", "alpha"},
		{"translated, it fails in a container", failingHere, out.port(unix.IPPROTO_TCP, 443), "filtered", "alpha"},
		{"translated, it failed long ago", longAgo, out.port(unix.IPPROTO_TCP, 443), "filtered", "alpha"},
		{"translated, a chain of nf_tables", failing, out.port(unix.IPPROTO_TCP, 443).at("NETFILTER_DROP", "nft_do_chain"), "filtered", "alpha"},
		{"not translated yet", failing, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).tracked("172.30.1.2", "198.51.100.1"), "filtered", "alpha"},
		{"the answer", failing, between("198.51.100.1", "172.30.1.2").by(uplink, webBridge).tracked("172.30.1.2", "198.51.100.1"), "filtered", "alpha"},
		{"the answer by a published port", failing, between("192.0.2.1", "198.51.100.1").by(webBridge, uplink).translated("198.51.100.1", "172.30.1.3"), "filtered", "beta"},

		{"lookup at an outside server", failing, lookup, "dns-5s-race", "alpha"},
		{"lookup at an outside server, before 5.17", failing, lookup.at("", "nf_hook_slow"), "dns-5s-race", "alpha"},
		{"lookup at the engine's resolver", failingHere, inside, "dns-5s-race", "alpha"},
		{"lookup, nothing fails", nil, lookup, "filtered", "alpha"},
		{"lookup, it failed long ago", longAgo, lookup, "filtered", "alpha"},
		{"lookup at the engine's resolver, it fails on the host", failing, inside, "own-firewall", "alpha"},
		{"lookup, a chain of nf_tables", failing, lookup.at("NETFILTER_DROP", "nft_do_chain"), "filtered", "alpha"},
		{"lookup, not translated", failing, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).tracked("172.30.1.2", "198.51.100.1").port(unix.IPPROTO_UDP, 53), "filtered", "alpha"},
		{"lookup over TCP", failing, out.port(unix.IPPROTO_TCP, 53), "snat-exhaustion", "alpha"},
		{"lookup, the answer", failing, between("198.51.100.1", "172.30.1.2").by(uplink, webBridge).tracked("172.30.1.2", "198.51.100.1").port(unix.IPPROTO_UDP, 53), "filtered", "alpha"},

		{"invalid", invalid, middle, "ct-invalid-rst", "beta"},
		{"invalid, before 5.17", invalid, middle.at("", "tcp_v4_rcv"), "ct-invalid-rst", "beta"},
		{"invalid, with a proxy", invalid, middle.at("TCP_FLAGS", "tcp_v4_do_rcv"), "ct-invalid-rst", "beta"},
		{"invalid, with a proxy, before 6.12", invalid, middle.at("NOT_SPECIFIED", "tcp_v4_do_rcv"), "ct-invalid-rst", "beta"},
		{"middle of a connection, nothing is invalid", failing, middle, "no-listener", ""},
		{"middle of a connection, with a proxy, nothing is invalid", nil, middle.at("TCP_FLAGS", "tcp_v4_do_rcv"), "tcp-duplicate", ""},
		{"middle of a connection, invalid long ago", longAgo, middle, "no-listener", ""},
		{"middle of a connection that is tracked", invalid, middle.tracked("198.51.100.1", "192.0.2.1"), "no-listener", ""},
		{"middle of a connection, nothing is tracked", func(w *world) { invalid(w); w.SetConntrackEmpty(true) }, middle, "no-listener", ""},
		{"middle of a connection, no room to track it", func(w *world) { invalid(w); w.SetConntrackFull(true) }, middle, "no-listener", ""},
		{"first segment", invalid, middle.flags(tcpSYN), "no-listener", ""},
		{"answer to a first segment that somebody forged", invalid, middle.flags(tcpSYN | tcpACK), "no-listener", ""},
		{"end of a connection that is forgotten", invalid, middle.flags(tcpFIN | tcpACK), "no-listener", ""},
		{"reset of a connection that is forgotten", invalid, middle.flags(tcpRST | tcpACK), "no-listener", ""},
		{"flags are not known", invalid, middle.flags(0), "no-listener", ""},
		{"another port", invalid, middle.port(unix.IPPROTO_TCP, 8081), "no-listener", ""},
		{"another address", invalid, middle.to("192.0.2.77"), "no-listener", ""},
		{"in a container", both, middle.in(alphaPort).to("172.30.1.2"), "no-listener", "alpha"},
	}
}

func TestConntrackCauses(t *testing.T) {
	for _, tc := range conntrackCases() {
		t.Run(tc.name, tc.check)
	}
}

// The counters are read a moment after the packets were lost: the drop waits for that, and is settled when they have risen.
func TestConntrackCausesWait(t *testing.T) {
	for _, tc := range conntrackCases() {
		switch tc.cause {
		case "snat-exhaustion", "dns-5s-race", "ct-invalid-rst":
		default:
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			w := newCity(t)
			if _, drops := w.Attribute(nil, []loader.Drop{loader.Drop(tc.drop)}); len(drops) != 0 {
				t.Fatalf("settled at once: %+v", drops)
			}
			w.wait(time.Second)
			tc.before(w)
			_, drops := w.Attribute(nil, nil)
			if len(drops) != 1 || drops[0].Cause != tc.cause {
				t.Errorf("got %+v, want one of cause %s", drops, tc.cause)
			}
		})
	}
}

// Drops may be looked at many times between one reading of the counters and the next.
func TestConntrackCausesWaitForTheSecondCount(t *testing.T) {
	w := newCity(t)
	stats := loader.ConntrackStats{Entries: 9}
	w.SetConntrackStats(stats, nil)
	out := between("192.0.2.1", "198.51.100.1").by(webBridge, uplink).tracked("172.30.1.2", "198.51.100.1").port(unix.IPPROTO_TCP, 443)
	look := func(drops ...loader.Drop) []Drop {
		_, settled := w.Attribute(nil, drops)
		return settled
	}
	if got := look(loader.Drop(out), loader.Drop(out)); len(got) != 0 {
		t.Fatalf("settled at once: %+v", got)
	}
	w.wait(patience)
	w.SetConntrackStats(stats, nil) // may have been read before the packets were lost
	if got := look(); len(got) != 0 {
		t.Fatalf("settled by the first count: %+v", got)
	}
	w.wait(patience)
	w.SetConntrackStats(stats, nil)
	if got := look(loader.Drop(out)); len(got) != 2 || got[0].Cause != "filtered" || got[1].Cause != "filtered" {
		t.Fatalf("settled by the second count: %+v", got)
	}
	w.wait(time.Second)
	stats.InsertFailed++
	w.SetConntrackStats(stats, nil)
	if got := look(); len(got) != 1 || got[0].Cause != "snat-exhaustion" {
		t.Fatalf("settled by the count that has risen: %+v", got)
	}
}

// A container may end while its drop waits, and another take its address and its port over: what was lost is not that one's.
func TestConntrackCausesWaitForTheDead(t *testing.T) {
	for _, tc := range conntrackCases() {
		switch tc.cause {
		case "snat-exhaustion", "dns-5s-race", "ct-invalid-rst":
		default:
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			w := newCity(t)
			w.Attribute(nil, []loader.Drop{loader.Drop(tc.drop)})
			next := w.live(tc.victim).Container
			next.ID, next.Name, next.PID = idOf("next"), "next", 0
			w.ContainerDied(idOf(tc.victim))
			w.PutContainer(next)
			w.wait(time.Second)
			tc.before(w)
			_, drops := w.Attribute(nil, nil)
			if len(drops) != 1 || drops[0].Cause != tc.cause || drops[0].Container != tc.victim {
				t.Errorf("got %+v, want one of %s", drops, tc.victim)
			}
		})
	}
}

// What a chain of nf_tables drops waits for no counter, nor does a plain closed port.
func TestPlainDropsDoNotWait(t *testing.T) {
	for _, d := range []lost{
		between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).tracked("172.30.1.2", "198.51.100.1").port(unix.IPPROTO_UDP, 53).at("NETFILTER_DROP", "nft_do_chain"),
		between("198.51.100.1", "192.0.2.1").by(uplink, uplink).port(unix.IPPROTO_TCP, 8081).flags(tcpSYN).at("NO_SOCKET", "tcp_v4_rcv"),
	} {
		w := newCity(t)
		if _, drops := w.Attribute(nil, []loader.Drop{loader.Drop(d)}); len(drops) != 1 {
			t.Errorf("%s at %s waits", d.Reason, d.Function)
		}
	}
}

// What a namespace counted before it was first looked at is no trouble of today's, and one that is gone is forgotten.
func TestConntrackStatsBegin(t *testing.T) {
	w := newCity(t)
	many := loader.ConntrackStats{InsertFailed: 1000, Invalid: 1000}
	w.SetConntrackStats(many, map[string]loader.ConntrackStats{idOf("alpha"): many})
	if got := w.conntrack[hostConntrack]; !got.failed.IsZero() || !got.invalid.IsZero() {
		t.Errorf("host: %+v after the first look", got)
	}
	w.SetConntrackStats(many, nil)
	if _, known := w.conntrack[idOf("alpha")]; known {
		t.Error("what is gone is remembered")
	}
}
