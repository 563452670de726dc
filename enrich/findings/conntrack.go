// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// conntrackRules are about what connection tracking, which NAT rests on, cannot do or does wrong.
func conntrackRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "snat-exhaustion", Severity: Warning,
				Title:   "There are no source ports left, or soon none, for connections from an address of the host to one destination.",
				Remedy:  "Let the program reuse its connections. Else spread them over more destinations, or over more addresses of the host (SNAT to a range, or com.docker.network.host_ipv4 per network).",
				Confirm: "conntrack -L -p {protocol} --orig-dst {destination} --orig-port-dst {port} 2>/dev/null | wc -l",
				Basis:   "packets that the kernel dropped since no free source port was found for them; and the ports in use per address, destination and protocol in the host's table of tracked connections",
			},
			find: portsExhausted,
		},
		{
			Definition: Definition{
				ID: "dns-5s-race", Severity: Warning,
				Title:   "DNS queries are lost in connection tracking: lookups stall for the resolver's timeout, mostly five seconds.",
				Remedy:  "See first whether source ports towards the resolver run out (bridgewatch nat --egress) or the table is full (conntrack -C). If so, have programs ask less often, or use a resolver that is reached without NAT, such as a cache in the container's own network. Else two queries that one socket sends at once (A and AAAA) compete for one entry, of which Linux since 5.7 loses few: set the resolver option single-request-reopen (--dns-opt).",
				Confirm: "conntrack -S | grep -o 'insert_failed=[0-9]*'",
				Basis:   "packets for port 53 over UDP that netfilter dropped while the count of entries that could not be inserted rose",
			},
			inside: true,
			find:   racing,
		},
		{
			Definition: Definition{
				ID: "stale-udp-ct", Severity: Warning,
				Title:   "UDP for a published port goes where its container is not: connection tracking remembers an older way.",
				Remedy:  "Delete the stale entries: conntrack -D -p udp --orig-port-dst PORT, for IPv6 with -f ipv6. Docker from 23.0 on does so when a container starts; if they come back with each restart, publish the port under its own number.",
				Confirm: "conntrack -L -f {family} -p udp --orig-port-dst {port}",
				Basis:   "tracked UDP connections to a published port of the host that lead to an address which no container has, or past the container although rules lead others to it, for longer than an unanswered entry lives that nobody uses",
			},
			after: unused,
			find:  staleEntries,
		},
		{
			Definition: Definition{
				ID: "ct-invalid-rst", Severity: Warning,
				Title:   "Segments for a published port count as invalid and are not translated: the host answers with a reset.",
				Remedy:  "Drop them before the host sees them: a rule in INPUT for packets with ctstate INVALID. Or let connection tracking accept segments outside the window: net.netfilter.nf_conntrack_tcp_be_liberal=1.",
				Confirm: "conntrack -S | grep -o ' invalid=[0-9]*'",
				Basis:   "TCP segments for a published port that reached the host's own stack and belonged to no connection there, while connection tracking's count of invalid packets rose, beside the connections to the container",
			},
			find: resetting,
		},
		{
			Definition: Definition{
				ID: "unnatted-rst-leak", Severity: Info,
				Title:   "The ends of a container's connections leave the host under its private address.",
				Remedy:  "They are RST and FIN segments of connections that NAT has forgotten, and hurt nobody; somebody may ask who sends from private addresses, though. Drop packets with ctstate INVALID in chain DOCKER-USER.",
				Confirm: "timeout 60 tcpdump -nn -c 10 -i {device} src host {source} and tcp",
				Basis:   "RST and FIN segments that left by a device that is not Docker's with a source in a network that Docker is to translate, and hardly anything else from there",
			},
			find: leavingLeftovers,
		},
	}
}

// portsExhausted finds containers that lost packets for want of a port, and destinations for which that is near.
func portsExhausted(v *View) []hit {
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		if l.Cause != "snat-exhaustion" || !l.victim() || !v.enough(l.Packets, perMinute) {
			continue
		}
		h := v.lossHit(l)
		h.fill["protocol"], h.fill["port"] = "tcp", "PORT"
		if d := &l.Example; hasPorts(d.Protocol) && d.DestinationPort != 0 {
			h.fill["protocol"], h.fill["port"] = enrich.ProtocolName(d.Protocol), strconv.Itoa(int(d.DestinationPort))
		}
		hits = append(hits, h)
	}
	for i := range v.Tracking.Pressure {
		if p := &v.Tracking.Pressure[i]; p.Limit > 0 && p.Used*100 >= p.Limit*nearlyFull {
			hits = append(hits, pressed(p))
		}
	}
	return hits
}

// pressed is that nearly all ports of an address are in use. That concerns all who connect from it.
func pressed(p *enrich.PortPressure) hit {
	protocol := enrich.ProtocolName(p.Protocol)
	between := p.Address.String() + " > " + p.Destination.String() + " " + protocol
	facts := []Fact{
		text("connections", between),
		number("ports in use", float64(p.Used), "of "+strconv.Itoa(p.Limit)),
	}
	if name := orElse(p.Example.Container, p.Example.Service); name != "" {
		facts = append(facts, text("one who uses them", name))
	}
	return hit{
		subject:  Subject{Scope: enrich.ScopeHost, Object: between},
		evidence: facts,
		fill: map[string]string{
			"protocol": protocol, "destination": p.Destination.Addr().String(), "port": strconv.Itoa(int(p.Destination.Port())),
		},
	}
}

// stalled is how many lost queries within the Window make a finding. Each is a lookup that takes five seconds.
const stalled = 3

// racing finds containers whose queries got no entry, in the namespace where that was.
func racing(v *View) []hit {
	return v.losingWhile(
		func(l *Loss) bool { return l.Cause == "dns-5s-race" && v.enough(l.Packets, stalled) },
		func(l *Loss) []Fact {
			failed := v.Conntrack.InsertFailed
			if l.Subject.Scope == enrich.ScopeContainer {
				failed = v.Rises[l.Example.ContainerID].InsertFailed
			}
			return slices.Concat(meanwhile("entries not inserted", failed),
				meanwhile("lookups that waited and were asked again", v.stalls(l.Example.ContainerID)))
		})
}

// losingWhile finds the containers whose losses are as wanted, and says what else there was.
func (v *View) losingWhile(wanted func(*Loss) bool, also func(*Loss) []Fact) []hit {
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		if !l.victim() || !wanted(l) {
			continue
		}
		h := v.lossHit(l)
		h.evidence = append(h.evidence, also(l)...)
		hits = append(hits, h)
	}
	return hits
}

// meanwhile is by how much a counter has grown within the Window; nothing if it has not.
func meanwhile(counter string, n uint64) []Fact {
	if n == 0 {
		return nil
	}
	return []Fact{number(counter, float64(n), "in the last minute")}
}

// unused is longer than an entry lives that is not used: 30 s (nf_conntrack_udp_timeout) if it was never answered. It is also
// longer than from one look at the table to the next.
const unused = 45 * time.Second

// staleEntries finds published UDP ports with clients whose packets go where nobody is.
func staleEntries(v *View) []hit {
	running := v.running()
	first := make(map[Subject]*enrich.StaleEntry)
	entries := make(map[Subject]int)
	var order []Subject
	for i := range v.Tracking.Stale {
		e := &v.Tracking.Stale[i]
		c := running[e.ContainerID]
		if c == nil || e.Protocol != unix.IPPROTO_UDP {
			continue
		}
		subject := ofPort(c, e.Port, "udp")
		subject.Network = e.Network
		if entries[subject]++; first[subject] == nil {
			first[subject] = e
			order = append(order, subject)
		}
	}
	var hits []hit
	for _, subject := range order {
		e := first[subject]
		h := portHit(subject, e.Port, "udp",
			number("stale entries", float64(entries[subject]), v.trackedNow()),
			text("example", e.Original.Source.String()+" > "+e.Original.Destination.String()+" udp"),
			text("goes to", wayOf(e)), text("container's addresses", addressesOf(running[e.ContainerID])))
		h.fill["container"], h.fill["family"] = running[e.ContainerID].Name, familyOf(&e.Original)
		hits = append(hits, h)
	}
	return hits
}

// trackedNow is what stale entries are counted in: those that were looked at.
func (v *View) trackedNow() string {
	if more := v.Tracking.MoreStale; more > 0 {
		return "tracked now, and " + strconv.Itoa(more) + " more of this port or others"
	}
	return "tracked now"
}

// wayOf is where an entry leads.
func wayOf(e *enrich.StaleEntry) string {
	if e.Reply.Source == e.Original.Destination {
		return "the host itself"
	}
	return e.Reply.Source.String()
}

func addressesOf(c *enrich.LiveContainer) string {
	var names []string
	for _, e := range c.Endpoints {
		for _, a := range e.Addresses {
			names = append(names, a.String())
		}
	}
	slices.Sort(names)
	return orElse(list(names), "none")
}

// lateShare is how many connections there must be to one reset before that is noise: to a busy server some segments come late
// for connections that are over.
const lateShare = 100

// resetting finds containers whose clients are sent resets, more of them than are late.
func resetting(v *View) []hit {
	connections := make(map[string]uint64) // by container
	for i := range v.Uses {
		connections[v.Uses[i].ContainerID] += v.Uses[i].Connections
	}
	return v.losingWhile(
		func(l *Loss) bool {
			return l.Cause == "ct-invalid-rst" && v.enough(l.Packets, perMinute) &&
				l.Packets*lateShare >= connections[l.Example.ContainerID]
		},
		func(*Loss) []Fact { return meanwhile("packets invalid on the host", v.Conntrack.Invalid) })
}

// leftovers is how many ends of connections within the Window somebody may ask about.
const leftovers = 100

// leavingLeftovers finds containers that send out so many ends of connections, and hardly anything else.
func leavingLeftovers(v *View) []hit {
	var hits []hit
	for i := range v.Leaks {
		l := &v.Leaks[i]
		if l.Resets < leftovers || l.Packets >= l.Resets+perMinute || !v.isToTranslate(l) {
			continue
		}
		h := hit{
			subject:  l.Subject,
			evidence: append([]Fact{number("RST and FIN segments untranslated", float64(l.Resets), "in the last minute")}, v.leakFacts(l)...),
			fill:     map[string]string{"device": "UPLINK", "source": l.Example.Source.String()},
		}
		if device := v.link(l.Example.Device); device != nil {
			h.fill["device"] = device.Name
		}
		hits = append(hits, h)
	}
	return hits
}
