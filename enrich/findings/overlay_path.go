// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// overlayPathRules are about the way between nodes.
func overlayPathRules() []rule {
	const (
		showRules = "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -e {port}"
		listen    = "timeout 10 tcpdump -c 5 -ni any udp dst port {port} and src {peer}"
	)
	return []rule{
		{
			Definition: Definition{
				ID: "vni-unknown", Severity: Warning,
				Title:   "Another node sends frames of an overlay network that this node is not on.",
				Remedy:  "Look for that network's containers on this node: if there are some, docker service update --force gives the service new tasks; if there are none, the other node's table is stale, and a restart of its engine clears it.",
				Confirm: listen,
				Basis:   "VXLAN packets of another node of the Swarm that the kernel dropped, over five seconds or longer, because no device here has their number (VNI), and still none has",
			},
			find: strayNetworks,
		},
		{
			Definition: Definition{
				ID: "4789-closed", Severity: Critical,
				Title:   "Containers do not reach those on another node: the overlay networks' UDP port is blocked.",
				Remedy:  "Let UDP 4789, or what docker swarm init --data-path-port named, pass between all nodes, both ways: in the hosts' rules and in the provider's security groups. The evidence says on which side to look.",
				Confirm: showRules,
				Basis:   "VXLAN packets from or to another node of the Swarm that a rule here dropped, or for which no socket was here; or, as a suspicion, TCP from containers here to those there of which nothing came back, and no VXLAN at all since, though the node was heard on other ports",
			},
			find: closed,
		},
		{
			Definition: Definition{
				ID: "4789-collision", Severity: Warning,
				Title:   "Somebody else uses the overlay networks' UDP port: what comes in on it is not of this Swarm.",
				Remedy:  "See whose it is: a hypervisor's network, another CNI, another Swarm. Give this Swarm a port of its own, docker swarm init --data-path-port, which takes a new Swarm; or let only nodes reach the port.",
				Confirm: "timeout 10 tcpdump -c 5 -ni any udp dst port {port} and src {peer}",
				Basis:   "packets to the port from addresses that are no node's and with a number (VNI) that no network here has, and packets without a readable VXLAN header, whoever sent them",
			},
			find: foreign,
		},
		{
			Definition: Definition{
				ID: "advertise-nat", Severity: Critical,
				Title:   "A node of the Swarm cannot be reached at the address that it gives for its containers' traffic.",
				Remedy:  "Let the node join again with an address that the others can reach: --advertise-addr, or --data-path-addr for this traffic alone. Behind NAT, join the sites by a VPN first, and give its addresses.",
				Confirm: "ip route get {peer}",
				Basis:   "VXLAN packets to a node that the kernel dropped, over five seconds or longer, for want of a route or because nobody answered at the address, from which nothing has ever come while the agent ran",
			},
			find: unreachable,
		},
		{
			Definition: Definition{
				ID: "encrypted-esp-blocked", Severity: Critical,
				Title:   "Containers on encrypted overlay networks do not reach those on another node: ESP is blocked.",
				Remedy:  "Let IP protocol 50 (ESP) pass between all nodes, both ways, in the hosts' rules and in the provider's security groups, which have it apart from TCP and UDP. No NAT may lie between nodes, and the kernels need ESP (CONFIG_INET_ESP).",
				Confirm: "timeout 10 tcpdump -c 5 -ni any ip proto 50 and host {peer}",
				Basis:   "ESP packets from or to another node of the Swarm that a rule here dropped, or that the kernel does not know; or, as a suspicion, TCP from containers here to those there on encrypted networks of which nothing came back, and no ESP at all since, though the node was heard on other ports",
			},
			find: espBlocked,
		},
		{
			Definition: Definition{
				ID: "encrypted-plain-drop", Severity: Critical,
				Title:   "Another node sends an encrypted overlay network's frames in the clear, and this node drops them.",
				Remedy:  "See why that node does not encrypt: its kernel lacks ESP, its engine could not write the policy, or it is of another version. Restart its engine, which exchanges keys anew. If it is no node of yours, somebody tries to inject frames.",
				Confirm: showRules,
				Basis:   "VXLAN packets with the number (VNI) of an encrypted network that a rule here dropped on their way in, over five seconds or longer",
			},
			find: inTheClear,
		},
	}
}

// peerLoss is what was lost from or to one node for one cause, on whatever network.
type peerLoss struct {
	packets     uint64
	networks    []string
	first, last time.Time
	most        *TunnelLoss
}

// crossing is which way packets went.
type crossing struct {
	peer     netip.Addr
	outgoing bool
}

// lostByPeer sums up what was lost for a cause.
func (v *View) lostByPeer(cause string) map[crossing]*peerLoss {
	all := make(map[crossing]*peerLoss)
	for i := range v.Lost {
		l := &v.Lost[i]
		if l.Cause != cause {
			continue
		}
		key := crossing{l.Peer, l.Outgoing}
		p := all[key]
		if p == nil {
			p = &peerLoss{first: l.First, last: l.Last, most: l}
			all[key] = p
		}
		p.add(l)
	}
	return all
}

func (p *peerLoss) add(l *TunnelLoss) {
	p.packets += l.Packets
	if l.First.Before(p.first) {
		p.first = l.First
	}
	if l.Last.After(p.last) {
		p.last = l.Last
	}
	if l.Packets > p.most.Packets {
		p.most = l
	}
	if l.Network != "" && !slices.Contains(p.networks, l.Network) {
		p.networks = append(p.networks, l.Network)
	}
}

func (v *View) lastingLoss(p *peerLoss) bool {
	return v.enough(p.packets, perMinute) && p.last.Sub(p.first) >= sustained
}

// sortedCrossings are the keys, in a fixed order.
func sortedCrossings(all map[crossing]*peerLoss) []crossing {
	return slices.SortedFunc(maps.Keys(all), func(a, b crossing) int {
		return cmp.Or(a.peer.Compare(b.peer), compareBool(a.outgoing, b.outgoing))
	})
}

func (p *peerLoss) facts() []Fact {
	facts := []Fact{lost(p.packets)}
	if len(p.networks) > 0 {
		facts = append(facts, text("networks", list(p.networks)))
	}
	return append(facts, exampleFacts(&p.most.Example)...)
}

// cutOffFor finds the nodes from or to which rules of this node drop a kind of traffic, and those that seem to be cut off. There
// is one hit for each node: what is proven is told before what is suspected.
func (v *View) cutOffFor(cause, what string, encrypted bool) []hit {
	hits := make(map[netip.Addr]hit)
	all := v.lostByPeer(cause)
	for _, key := range sortedCrossings(all) {
		p := all[key]
		if v.peer(key.peer) == nil || !v.lastingLoss(p) {
			continue
		}
		h := hits[key.peer]
		h.subject, h.fill = between("", key.peer), v.peerFill("", key.peer)
		h.evidence = slices.Concat(h.evidence, []Fact{
			v.nodeFact("node", key.peer), text("what is wrong", wrongHere(p.most, what)),
		}, p.facts())
		hits[key.peer] = h
	}
	for i := range v.Cluster.Peers {
		p := &v.Cluster.Peers[i]
		if _, proven := hits[p.Address]; proven {
			continue
		}
		if evidence := v.unanswered(p, what, encrypted); evidence != nil {
			hits[p.Address] = hit{
				subject: between("", p.Address), evidence: evidence, fill: v.peerFill("", p.Address),
				confirm: "timeout 10 tcpdump -c 5 -ni any " + captureOf(encrypted) + " and src {peer}",
			}
		}
	}
	return slices.SortedFunc(maps.Values(hits), func(a, b hit) int { return compareSubjects(a.subject, b.subject) })
}

func captureOf(encrypted bool) string {
	if encrypted {
		return "ip proto 50"
	}
	return "udp dst port {port}"
}

// wrongHere says which way is blocked, and where to look.
func wrongHere(l *TunnelLoss, what string) string {
	switch {
	case l.Outgoing:
		return "this node does not let " + what + " out: look at its rules in OUTPUT"
	case isUntaken(&l.Example):
		return "this node has nobody who takes " + what + ": the device of the network is down or gone, or the kernel lacks it"
	}
	return "this node does not let " + what + " in: look at its rules in PREROUTING and INPUT"
}

// isUntaken tells a packet that no socket or protocol took from one that a rule dropped.
func isUntaken(d *enrich.Drop) bool {
	return d.Reason == "NO_SOCKET" || d.Reason == "IP_NOPROTO" || strings.HasPrefix(d.Function, "__udp") ||
		strings.HasPrefix(d.Function, "ip_protocol_deliver") || strings.HasPrefix(d.Function, "ip_local_deliver")
}

// unansweredSegments is how many TCP segments must be without an answer: what a connection tries in a quarter of a minute.
const unansweredSegments = 5

// unanswered tells whether a node seems to be cut off for a kind of traffic: containers here sent TCP to its containers, some of
// it left this node, and since then nothing at all has come of that kind, while the node was heard on other ports even later. nil:
// it does not. Neither datagrams alone nor silence prove anything.
func (v *View) unanswered(p *enrich.SwarmPeer, what string, encrypted bool) []Fact {
	if p.State == nodeDown {
		return nil
	}
	var sent uint64
	var received, heard time.Time
	for i := range v.Channels {
		c := &v.Channels[i]
		switch {
		case c.Inner:
		case c.Peer == p.Address && c.Channel == carrierOf(encrypted):
			sent += c.Sent
			received = later(received, c.LastReceived)
		case c.Peer == p.Control && isControl(c.Channel):
			heard = later(heard, c.LastReceived)
		}
	}
	segments, first, last := v.talkedTo(p.Address, encrypted, received)
	if sent == 0 || !v.enough(segments, unansweredSegments) || last.Sub(first) < sustained || heard.Sub(first) < sustained {
		return nil
	}
	return []Fact{
		text("node", nodeText(p.Node, p.Address)),
		text("what is wrong", "suspected: "+what+" to the node, or from it, is lost on the way or there: look at its rules and at the provider's security groups, both ways"),
		number("TCP segments without an answer", float64(segments), fmt.Sprintf("in %.0f s", last.Sub(first).Seconds())),
		number(what+" packets sent", float64(sent), "in the last minute"),
		text(what+" last received", when(received)),
		text("last heard on other ports", when(heard)),
	}
}

// nodeDown is what managers say of a node that they have lost.
const nodeDown = "down"

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.TimeOnly) + " UTC"
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// carrierOf is the channel of encrypted networks, or of the others.
func carrierOf(encrypted bool) loader.Channel {
	if encrypted {
		return loader.ChannelESP
	}
	return loader.ChannelVXLAN
}

// isControl tells the engines' own traffic from containers'.
func isControl(c loader.Channel) bool { return c != loader.ChannelVXLAN && c != loader.ChannelESP }

// talkedTo sums up what containers here sent in vain to those of a node since a moment, on encrypted networks or on others.
func (v *View) talkedTo(peer netip.Addr, encrypted bool, since time.Time) (segments uint64, first, last time.Time) {
	for _, t := range v.Talks {
		n := v.overlay(t.Network)
		if t.Peer != peer || n == nil || n.Encrypted != encrypted || !t.First.After(since) {
			continue
		}
		segments += t.Sent
		last = later(last, t.Last)
		if first.IsZero() || t.First.Before(first) {
			first = t.First
		}
	}
	return segments, first, last
}

func closed(v *View) []hit     { return v.cutOffFor("4789-closed", "VXLAN", false) }
func espBlocked(v *View) []hit { return v.cutOffFor("encrypted-esp-blocked", "ESP", true) }

// unreachable finds nodes whose address leads nowhere. One that was ever heard of from there is only away.
func unreachable(v *View) []hit {
	var hits []hit
	all := v.lostByPeer("advertise-nat")
	for _, key := range sortedCrossings(all) {
		p := all[key]
		if !v.lastingLoss(p) || v.wasHeard(key.peer) {
			continue
		}
		evidence := []Fact{text("node", "not known")}
		if key.peer.IsValid() {
			evidence[0] = v.nodeFact("node", key.peer)
		}
		hits = append(hits, hit{subject: between("", key.peer), evidence: append(evidence, p.facts()...), fill: v.peerFill("", key.peer)})
	}
	return hits
}

// wasHeard tells whether anything has come from an address since the agent started.
func (v *View) wasHeard(address netip.Addr) bool {
	return slices.ContainsFunc(v.Channels, func(c PeerChannel) bool { return c.Peer == address && !c.FirstReceived.IsZero() })
}

// strayNetworks finds the nodes that send what is of no network here. What is of a network that is here again is over.
func strayNetworks(v *View) []hit {
	var hits []hit
	for i := range v.Lost {
		l := &v.Lost[i]
		if l.Cause != "vni-unknown" || v.peer(l.Peer) == nil || !v.lasting(l) {
			continue
		}
		name := ""
		if n := v.overlayOf(l.VNI); n != nil {
			if n.Sandbox != nil {
				continue
			}
			name = n.Name
		}
		h := hit{subject: between(name, l.Peer), fill: v.peerFill(name, l.Peer)}
		h.subject.Object = fmt.Sprintf("VNI %d from %s", l.VNI, l.Peer)
		h.evidence = append([]Fact{v.nodeFact("node", l.Peer), number("VNI", float64(l.VNI), "")}, tunnelFacts(l)...)
		hits = append(hits, h)
	}
	return hits
}

// overlayOf finds the network that has a VNI; nil: none that is known.
func (v *View) overlayOf(vni uint32) *enrich.OverlayNetwork {
	for i := range v.Cluster.Networks {
		if slices.Contains(v.Cluster.Networks[i].VNIs, vni) {
			return &v.Cluster.Networks[i]
		}
	}
	return nil
}

// foreign finds out whether somebody else's packets come to the port. Senders may be many, and may be made up.
func foreign(v *View) []hit {
	if !v.Cluster.Self.IsValid() {
		return nil
	}
	var strange, malformed uint64
	var senders []string
	var latest *PeerChannel
	for i := range v.Channels {
		c := &v.Channels[i]
		stranger := c.Channel == loader.ChannelVXLAN && !c.Inner && !c.Known && c.Network == "" && v.overlayOf(c.VNI) == nil
		if stranger {
			strange += c.Received
		}
		malformed += c.Malformed
		if stranger && c.Received > 0 || c.Malformed > 0 {
			if name := nodeText(c.Node, c.Peer); !slices.Contains(senders, name) {
				senders = append(senders, name)
			}
			if latest == nil || c.LastReceived.After(latest.LastReceived) {
				latest = c
			}
		}
	}
	if !v.enough(strange+malformed, perMinute) || latest == nil {
		return nil
	}
	facts := []Fact{
		number("packets of no network here", float64(strange), "in the last minute"),
		number("packets without a readable header", float64(malformed), "in the last minute"),
		number("senders", float64(len(senders)), ""), text("they are", list(senders)),
	}
	if strange > 0 && latest.VNI != 0 {
		facts = append(facts, number("VNI", float64(latest.VNI), "of the latest"))
	}
	return onHost(facts, v.peerFill("", latest.Peer))
}

// inTheClear finds nodes that do not encrypt what they should.
func inTheClear(v *View) []hit {
	var hits []hit
	for i := range v.Lost {
		l := &v.Lost[i]
		if l.Cause != "encrypted-plain-drop" || !v.lasting(l) {
			continue
		}
		h := hit{subject: between(l.Network, l.Peer), fill: v.peerFill(l.Network, l.Peer)}
		if l.Peer.IsValid() {
			sender := "no node of this Swarm"
			if p := v.peer(l.Peer); p != nil {
				sender = "node " + orElse(p.Node, p.Address.String())
			}
			h.evidence = append(h.evidence, text("sender", sender+", "+l.Peer.String()))
		}
		h.evidence = append(h.evidence, tunnelFacts(l)...)
		hits = append(hits, h)
	}
	return hits
}
