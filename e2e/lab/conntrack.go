// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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

// ConntrackFailures is what a place's connection tracking could not do, by the name of the kernel's counter: insert_failed,
// drop, early_drop and invalid among others.
func (p Place) ConntrackFailures(tb testing.TB) map[string]uint64 {
	tb.Helper()
	sum := map[string]uint64{}
	for _, pair := range strings.Fields(p.Run(tb, "conntrack", "--stats")) { // a line for each processor
		if name, value, is := strings.Cut(pair, "="); is && name != "cpu" {
			sum[name] += number(tb, value)
		}
	}
	return sum
}

// FillConntrack fills a place's table of tracked connections with ones that the kernel does not give up, and returns how
// many there are then. The limit is the machine's: only its first network namespace may change it.
func (p Place) FillConntrack(tb testing.TB) (entries uint64) {
	tb.Helper()
	const most = 1 << 20
	limit := number(tb, strings.TrimSpace(p.Run(tb, "sysctl", "-n", "net.netfilter.nf_conntrack_max")))
	if limit > most {
		tb.Fatalf("the machine's table has room for %d connections, which are too many to fill it", limit)
	}
	var lines bytes.Buffer
	for i := range limit {
		fmt.Fprintf(&lines, "--create --proto udp --orig-src 198.18.%[1]d.1 --orig-dst 198.19.0.1 --orig-port-src %[2]d --orig-port-dst 7 "+
			"--reply-src 198.19.0.1 --reply-dst 198.18.%[1]d.1 --reply-port-src 7 --reply-port-dst %[2]d --timeout 600 --status SEEN_REPLY,ASSURED\n",
			i/50000, 1+i%50000)
	}
	file := filepath.Join(tempDir(tb), "entries")
	if err := os.WriteFile(file, lines.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Run(tb, "conntrack", "--flush") })
	if _, err := try("nsenter", "--net="+p.NetNS, "conntrack", "--load-file", file); err == nil {
		tb.Fatalf("%d connections do not fill the table", limit)
	}
	return number(tb, strings.TrimSpace(p.Run(tb, "conntrack", "--count")))
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
