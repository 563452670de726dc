// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// Entry is a connection as the conntrack tool lists it.
type Entry struct {
	Protocol        string
	Original, Reply Tuple
	Answered        bool // a packet came back
}

// Tuple is one direction of a connection. ICMP's identifier is in place of both ports.
type Tuple struct{ Source, Destination netip.AddrPort }

// Translated tells whether the answer is expected from or for somebody else.
func (e Entry) Translated() bool {
	return e.Original.Source != e.Reply.Destination || e.Original.Destination != e.Reply.Source
}

// Tracked lists what a place's connection tracking holds of a family. The arguments are those of `conntrack --dump` that
// choose entries.
func (p Place) Tracked(tb testing.TB, family Family, choose ...string) []Entry {
	tb.Helper()
	text := p.Run(tb, append([]string{"conntrack", "--dump", "--family", strings.ToLower(string(family))}, choose...)...)
	var entries []Entry
	for line := range strings.Lines(text) {
		entries = append(entries, parseEntry(tb, line))
	}
	return entries
}

// Published lists the entries of connections to one address and port.
func (p Place) Published(tb testing.TB, protocol string, to netip.AddrPort) []Entry {
	tb.Helper()
	family := IPv4
	if to.Addr().Is6() {
		family = IPv6
	}
	return p.Tracked(tb, family, "--proto", protocol, "--orig-dst", to.Addr().String(), "--orig-port-dst", strconv.Itoa(int(to.Port())))
}

// parseEntry reads a line such as
//
//	udp 17 29 src=A dst=B sport=1 dport=2 [UNREPLIED] src=B dst=A sport=2 dport=1 mark=0 use=1
func parseEntry(tb testing.TB, line string) Entry {
	tb.Helper()
	words := strings.Fields(line)
	entry := Entry{Protocol: words[0], Answered: true}
	var values [2]map[string]string // of the one direction, and of the other
	direction := -1
	for _, word := range words {
		if word == "[UNREPLIED]" {
			entry.Answered = false
		}
		key, value, isPair := strings.Cut(word, "=")
		if !isPair {
			continue
		}
		if key == "src" {
			direction++
			values[direction] = map[string]string{}
		}
		values[direction][key] = value
	}
	entry.Original, entry.Reply = parseTuple(tb, values[0]), parseTuple(tb, values[1])
	return entry
}

func parseTuple(tb testing.TB, values map[string]string) Tuple {
	tb.Helper()
	end := func(address string, ports ...string) netip.AddrPort {
		addr, err := netip.ParseAddr(values[address])
		if err != nil {
			tb.Fatalf("read entry of conntrack %v: %v", values, err)
		}
		for _, port := range ports {
			if text, has := values[port]; has {
				return netip.AddrPortFrom(addr, uint16(number(tb, text)))
			}
		}
		return netip.AddrPortFrom(addr, 0)
	}
	return Tuple{end("src", "sport", "id"), end("dst", "dport", "id")}
}
