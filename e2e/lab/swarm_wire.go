// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// Wire is a rule of the switch between the nodes: it counts what it matches, and may drop it.
type Wire struct {
	underlay Place
	counter  string
	handle   string // "": lifted
	chain    string
}

// Where on the switch a rule is: it sees frames as they come in, on their way, and as they go out.
const (
	wireIn      = "in"
	wireThrough = "through"
	wireOut     = "out"
)

// wireTable is an nftables table for bridges, whose rules come one by one. They come before br_netfilter, which has priority 0 and takes
// packets away from others there.
const wireTable = `
add table bridge lab
add chain bridge lab in { type filter hook prerouting priority -300; }
add chain bridge lab through { type filter hook forward priority -200; }
add chain bridge lab out { type filter hook postrouting priority 300; }`

// Match is what a rule of the switch matches, in the language of nft: the outer header of what a node sends to the other.
type Match string

// Between matches what one node sends to another.
func Between(from, to *Node) Match {
	return Match(fmt.Sprintf("ip saddr %s ip daddr %s", from.Addr, to.Addr))
}

// VXLAN narrows a match to the frames of a network, by its number; 0 is any. Of a datagram in fragments only the first has it.
func (m Match) VXLAN(vni uint32) Match {
	m += " udp dport 4789"
	if vni != 0 {
		m += Match(" @th,96,24 " + strconv.FormatUint(uint64(vni), 10)) // behind 8 bytes of UDP and 4 of VXLAN
	}
	return m
}

// And narrows a match by more of nft's language.
func (m Match) And(more string) Match { return m + Match(" "+more) }

// CountSent counts what comes into the switch, until the test ends.
func (s *Swarm) CountSent(tb testing.TB, what Match) *Wire {
	tb.Helper()
	return s.addWire(tb, wireIn, what, "")
}

// CountArrived counts what goes out of the switch to a node, until the test ends.
func (s *Swarm) CountArrived(tb testing.TB, at *Node, what Match) *Wire {
	tb.Helper()
	return s.addWire(tb, wireOut, "oifname "+Match(at.Hostname)+" "+what, "") // what is flooded goes elsewhere, too
}

// Block drops what is on its way through the switch, until it is lifted or the test ends.
func (s *Swarm) Block(tb testing.TB, what Match) *Wire {
	tb.Helper()
	w := s.addWire(tb, wireThrough, what, "drop")
	tb.Cleanup(func() { w.Lift(tb) })
	return w
}

func (s *Swarm) addWire(tb testing.TB, chain string, what Match, verdict string) *Wire {
	tb.Helper()
	s.wires++
	w := &Wire{underlay: s.Underlay, chain: chain, counter: "wire" + strconv.Itoa(s.wires)}
	w.nft(tb, "add counter bridge lab "+w.counter)
	added := w.nft(tb, "--echo --handle add rule bridge lab "+chain+" "+string(what)+" counter name "+w.counter+" "+verdict)
	// add rule … # handle 7
	_, handle, _ := strings.Cut(added, "# handle ")
	w.handle = strings.TrimSpace(handle)
	if w.handle == "" {
		tb.Fatalf("nft added no rule for %s: %s", what, added)
	}
	return w
}

// Packets returns how many packets the rule has matched.
func (w *Wire) Packets(tb testing.TB) uint64 {
	tb.Helper()
	return w.Counted(tb).Packets
}

// Counted returns what the rule has matched. Bytes are those of frames with their Ethernet header.
func (w *Wire) Counted(tb testing.TB) Counted {
	tb.Helper()
	var listed struct {
		Nftables []struct{ Counter *Counted }
	}
	text := w.nft(tb, "--json list counter bridge lab "+w.counter)
	if err := json.Unmarshal([]byte(text), &listed); err != nil {
		tb.Fatalf("read %s: %v\n%s", w.counter, err, text)
	}
	for _, object := range listed.Nftables {
		if object.Counter != nil {
			const ethernetHeader = 14 // netfilter counts from the network header on
			object.Counter.Bytes += ethernetHeader * object.Counter.Packets
			return *object.Counter
		}
	}
	tb.Fatalf("no counter %s in %s", w.counter, text)
	return Counted{}
}

// Lift removes the rule. Its count stays.
func (w *Wire) Lift(tb testing.TB) {
	tb.Helper()
	if w.handle == "" {
		return
	}
	w.nft(tb, "delete rule bridge lab "+w.chain+" handle "+w.handle)
	w.handle = ""
}

func (w *Wire) nft(tb testing.TB, command string) string {
	tb.Helper()
	return w.underlay.Run(tb, append([]string{"nft"}, strings.Fields(command)...)...)
}
