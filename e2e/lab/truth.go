// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Family is a version of the Internet protocol.
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

func (f Family) tables() string {
	if f == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// Rule is an iptables rule whose counter a test can read.
type Rule struct {
	place  Place
	family Family
	table  string
	text   []string // what the rule's line contains
}

// AddRule puts a rule at the head of a chain until the test ends. The specification is iptables', without table
// and chain.
func (p Place) AddRule(tb testing.TB, family Family, table, chain string, spec ...string) Rule {
	tb.Helper()
	comment := strings.NewReplacer("/", "-", "#", "-").Replace(tb.Name()) + "-" + table + "-" + chain
	spec = append([]string{chain}, spec...)
	spec = append(spec, "-m", "comment", "--comment", comment)
	prefix := []string{family.tables(), "-w", "-t", table}
	p.Run(tb, append(append(prefix, "-I"), spec...)...)
	tb.Cleanup(func() {
		// The namespace, and the rule with it, may be gone already.
		_, _ = try(append(append([]string{"nsenter", "--net=" + p.NetNS}, append(prefix, "-D")...), spec...)...)
	})
	return Rule{p, family, table, []string{comment}}
}

// FindRule returns somebody else's rule: the one whose line, as iptables-save prints it, contains all the texts.
func (p Place) FindRule(tb testing.TB, family Family, table string, texts ...string) Rule {
	tb.Helper()
	r := Rule{p, family, table, texts}
	r.count(tb)
	return r
}

// Packets returns how many packets matched the rule.
func (r Rule) Packets(tb testing.TB) uint64 {
	tb.Helper()
	packets, _ := r.count(tb)
	return packets
}

// Bytes returns the length of all packets that matched, from the network header on.
func (r Rule) Bytes(tb testing.TB) uint64 {
	tb.Helper()
	_, bytes := r.count(tb)
	return bytes
}

func (r Rule) count(tb testing.TB) (packets, bytes uint64) {
	tb.Helper()
	saved := r.place.Run(tb, r.family.tables()+"-save", "-c", "-t", r.table)
	var found []string
	for line := range strings.Lines(saved) {
		if containsAll(line, r.text) {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		tb.Fatalf("found %d rules with %q in\n%s", len(found), r.text, saved)
	}
	// [packets:bytes] -A CHAIN …
	counters, _, _ := strings.Cut(strings.TrimPrefix(found[0], "["), "]")
	first, second, _ := strings.Cut(counters, ":")
	return number(tb, first), number(tb, second)
}

// PolicyPackets returns how many packets a chain's policy decided on, which must be as given.
func (p Place) PolicyPackets(tb testing.TB, family Family, table, chain, policy string) uint64 {
	tb.Helper()
	saved := p.Run(tb, family.tables()+"-save", "-c", "-t", table)
	for line := range strings.Lines(saved) {
		// :CHAIN POLICY [packets:bytes]
		if counters, found := strings.CutPrefix(line, ":"+chain+" "+policy+" ["); found {
			packets, _, _ := strings.Cut(counters, ":")
			return number(tb, packets)
		}
	}
	tb.Fatalf("chain %s has no policy %s in\n%s", chain, policy, saved)
	return 0
}

func containsAll(line string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(line, text) {
			return false
		}
	}
	return strings.HasPrefix(line, "[")
}

// Stats returns a device's own counters.
func (p Place) Stats(tb testing.TB, device string) netlink.LinkStatistics {
	tb.Helper()
	return *p.link(tb, device).Attrs().Statistics
}

// LinkAddr returns a device's hardware address.
func (p Place) LinkAddr(tb testing.TB, device string) string {
	tb.Helper()
	return p.link(tb, device).Attrs().HardwareAddr.String()
}

// Qdisc are counters of a queueing discipline.
type Qdisc struct {
	Root    bool
	Drops   uint64 // packets
	Backlog uint64 // bytes waiting
}

// Qdisc returns the counters of a device's root queueing discipline.
func (p Place) Qdisc(tb testing.TB, device string) Qdisc {
	tb.Helper()
	var all []Qdisc
	text := p.Run(tb, "tc", "-s", "-j", "qdisc", "show", "dev", device)
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		tb.Fatalf("read queueing disciplines of %s: %v", device, err)
	}
	for _, q := range all {
		if q.Root {
			return q
		}
	}
	tb.Fatalf("no root queueing discipline on %s: %s", device, text)
	return Qdisc{}
}

// SNMP returns one of the namespace's protocol counters, such as Udp RcvbufErrors, TcpExt ListenOverflows or, for
// IPv6, Udp6 RcvbufErrors.
func (p Place) SNMP(tb testing.TB, protocol, counter string) uint64 {
	tb.Helper()
	if strings.HasSuffix(protocol, "6") {
		return p.snmp6(tb, protocol+counter)
	}
	var names []string
	for line := range strings.Lines(p.Run(tb, "cat", "/proc/net/snmp", "/proc/net/netstat")) {
		fields := strings.Fields(line)
		if fields[0] != protocol+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == counter {
				return number(tb, fields[i])
			}
		}
	}
	tb.Fatalf("no counter %s %s", protocol, counter)
	return 0
}

func (p Place) snmp6(tb testing.TB, name string) uint64 {
	tb.Helper()
	for line := range strings.Lines(p.Run(tb, "cat", "/proc/net/snmp6")) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == name {
			return number(tb, fields[1])
		}
	}
	tb.Fatalf("no counter %s", name)
	return 0
}

func number(tb testing.TB, text string) uint64 {
	tb.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}
