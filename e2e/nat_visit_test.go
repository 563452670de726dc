// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// visit is a number of connections to a published port from one place, and what has to be said of them.
type visit struct {
	from      lab.Place
	source    netip.Addr // the route's, if not set
	to        netip.AddrPort
	server    *lab.Container
	client    enrich.Client
	mechanism enrich.Mechanism // NoMechanism: the container sees the client
	count     int              // many, if 0
}

// mirror starts a container that says whom it sees, behind the case's published ports.
func (s natStage) mirror(role string, options ...string) *lab.Container {
	s.Helper()
	options = append(append([]string{"--network", s.network}, s.publish()...), options...)
	server := s.engine.Serve(s, s.name+"-"+role, options, "mirror", port)
	s.awaitWatched(server.Name)
	return server
}

// awaitWatched waits until the agent knows of a container's published ports. What docker-proxy carries before that is not
// counted: nothing but the port tells that it is of interest.
func (s natStage) awaitWatched(container string) {
	s.Helper()
	lab.Eventually(s, patience, "the agent to know the ports of "+container, func() bool {
		return len(s.agent.Scrape(s).Select(attempts, lab.Labels{"container": container})) > 0
	})
}

// door is the published port at the host's address.
func (s natStage) door() netip.AddrPort {
	return s.doorAt(s.pick(lab.HostAddress, lab.HostAddress6))
}

// doorAt is the published port at another of the host's addresses.
func (s natStage) doorAt(addr netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(addr, s.published+uint16(slices.Index(s.families, s.family)))
}

// exchange opens connections to a mirror, all of which must be answered.
func (s natStage) exchange(from lab.Place, source netip.Addr, to netip.AddrPort, count int) []lab.Exchange {
	s.Helper()
	args := []string{"exchange", "--to", to.String(), "--protocol", s.protocol, "--count", strconv.Itoa(count)}
	if source.IsValid() {
		args = append(args, "--from", source.String())
	}
	r := from.Traffic(s, args...)
	if r.Sent != count {
		s.Fatalf("%d of %d %s connections to %s were answered: %v", r.Sent, count, s.protocol, to, r.Errors)
	}
	return r.Exchanged
}

// visit opens connections to a published port, makes sure that they are what they are meant to be, by what the server sees
// and what the conntrack tool says, and writes down what must have been counted.
func (s natStage) visit(v visit) {
	s.Helper()
	if v.count == 0 {
		v.count = many
	}
	exchanged := s.exchange(v.from, v.source, v.to, v.count)
	seen := map[netip.AddrPort]netip.AddrPort{}
	fresh := 0
	for _, e := range exchanged {
		seen[e.Local] = e.Seen
		if s.books.isNew(s.protocol, e.Local, v.to) {
			fresh++
		}
		if e.Kept() != (v.mechanism == enrich.NoMechanism) {
			s.Fatalf("%s from %s to %s: the server saw %s", s.protocol, e.Local, v.to, e.Seen)
		}
	}
	tracked := 0
	for _, entry := range s.host.Published(s, s.protocol, v.to) {
		who, ours := seen[entry.Original.Source]
		if !ours {
			continue
		}
		tracked++
		if !entry.Answered || !v.explains(s, entry, who) {
			s.Fatalf("%s to %s, of which the server saw %s: %+v", s.protocol, v.to, who, entry)
		}
	}
	if tracked != v.count {
		s.Fatalf("conntrack has %d of %d %s connections to %s", tracked, v.count, s.protocol, v.to)
	}
	s.book(v, fresh, fresh)
	s.requireRows(v, seen, "--container", v.server.Name)
}

// explains tells whether an entry of conntrack fits what the server saw and by which mechanism.
func (v visit) explains(s natStage, entry lab.Entry, seen netip.AddrPort) bool {
	if v.proxied() {
		return !entry.Translated() // another connection leads to the container
	}
	return entry.Reply.Source == s.at(v.server) && entry.Reply.Destination == seen
}

// proxied tells whether docker-proxy carries the connections.
func (v visit) proxied() bool {
	return v.mechanism == enrich.UserlandProxy || v.mechanism == enrich.IPv6ToIPv4Proxy
}

// book writes down what must have been counted of a visit.
func (s natStage) book(v visit, tried, answered int) {
	of := seriesOf{metric: attempts, container: v.server.Name, scope: "host", protocol: s.protocol, port: strconv.Itoa(int(v.to.Port()))}
	s.books.add(of, s.name, tried)
	of.metric, of.client, of.mechanism, of.sourceAddress = connections, string(v.client), string(v.mechanism), "lost"
	if v.mechanism == enrich.NoMechanism {
		of.sourceAddress = "preserved"
	}
	s.books.add(of, s.name, answered)
	if !v.proxied() {
		s.translated(v.server, "host", enrich.DNAT, s.protocol, tried)
	}
}

// requireRows holds the agent's live table against what each client and the server said of every connection.
func (s natStage) requireRows(v visit, seen map[netip.AddrPort]netip.AddrPort, choose ...string) {
	s.Helper()
	choose = append(choose, "--port", strconv.Itoa(int(v.to.Port())))
	var wrong string
	var exact, inferred, unknown int
	for end := time.Now().Add(patience); time.Now().Before(end) && exact+inferred < len(seen); time.Sleep(100 * time.Millisecond) {
		wrong, exact, inferred, unknown = "", 0, 0, 0
		for _, row := range natRows(s, s.agent, choose...) {
			who, ours := seen[row.Client]
			if !ours || row.Protocol != s.protocol || row.Destination != v.to || !row.Answered {
				continue
			}
			if row.From != v.client || row.Mechanism != v.mechanism || row.Lost != (v.mechanism != enrich.NoMechanism) {
				wrong = fmt.Sprintf("%+v", row)
			}
			switch {
			case row.Seen == who:
				exact++
			case v.proxied() && row.Inferred && row.Seen.Addr() == who.Addr():
				inferred++
			default:
				wrong = fmt.Sprintf("the server saw %s of %+v", who, row)
				unknown++
			}
		}
	}
	if v.proxied() {
		s.Logf("what the container sees of %s is known of %d connections, and may be another's of %d", s.protocol, exact, inferred)
	}
	if exact+inferred != len(seen) || wrong != "" {
		s.Errorf("the live table is right about %d of %d %s connections, and wrong about %d: %s", exact+inferred, len(seen), s.protocol, unknown, wrong)
	}
}

// natRows asks the agent for its live table.
func natRows(tb testing.TB, agent *lab.Agent, choose ...string) []enrich.NATRow {
	tb.Helper()
	return askNAT(tb, agent, append(choose, "--limit=10000")...).Rows
}

func askNAT(tb testing.TB, agent *lab.Agent, flags ...string) (said api.NAT) {
	tb.Helper()
	args := append([]string{"nat", "--output=json", "--api.socket=" + agent.Socket}, flags...)
	code, stdout, stderr := lab.Command(tb, nil, args...)
	if code != 0 {
		tb.Fatalf("bridgewatch %s ended with %d: %s", strings.Join(args, " "), code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil {
		tb.Fatalf("read the answer of nat: %v", err)
	}
	return said
}
