// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// swarmPortRules are about what engines say to each other. No packet is sent to find out: they talk anyway.
func swarmPortRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "7946-closed", Severity: Critical,
				Title:   "Gossip between this node and another is blocked: news of containers and services does not get through.",
				Remedy:  "Let 7946/tcp and 7946/udp pass between all nodes, both ways: in the firewall of each and in what lies between them. The evidence says which protocol, and which way.",
				Confirm: "timeout 60 tcpdump -c 20 -ni any host {peer} and port {port}",
				Basis:   "packets on port 7946 that one side sends and the other does not answer, for longer than gossip needs to go round, while the peer is heard of on other channels; and such packets that netfilter dropped in the host's namespace",
			},
			after: leave,
			find:  gossipBlocked,
		},
		{
			Definition: Definition{
				ID: "2377-closed", Severity: Critical,
				Title:   "A manager's port is blocked between this node and another: orders and reports do not get through.",
				Remedy:  "Let 2377/tcp pass from all nodes to all managers: in the managers' firewalls and in what lies between. Workers that cannot report count as down, and their tasks are started elsewhere.",
				Confirm: "timeout 60 tcpdump -c 20 -ni any host {peer} and tcp port {port}",
				Basis:   "segments on a manager's port that one side sends and the other does not answer, while the peer is heard of on other channels; and such segments that netfilter dropped in the host's namespace",
			},
			after: leave,
			find:  managerBlocked,
		},
		{
			Definition: Definition{
				ID: "peer-silent", Severity: Critical,
				Title:   "Nothing comes from another node of the Swarm any more, on any channel.",
				Remedy:  "See whether the node and its engine run and the network between the nodes is whole. If it is gone for good, remove it: docker node rm, on a manager.",
				Confirm: "timeout 60 tcpdump -c 1 -ni any src {peer}",
				Basis:   "the last packet of each channel that came from a node which the Swarm lists, and this node's last words to it: gossip, managers' traffic and tunnels, for a minute or longer",
			},
			after: leave,
			find:  silentPeers,
		},
	}
}

const (
	// gossipSlack and gossipRounds make the time for which gossip with a node may be silent although nothing is wrong. An engine
	// probes one node a second, in an order that it shuffles after each round, so that a node's turn comes once in so many
	// seconds as it has peers, and twice that at most from one time to the next (hashicorp/memberlist). Each probe is
	// acknowledged. In four rounds a node is probed twice at least, mostly four times, and probes as often itself: more than
	// chance loses.
	gossipSlack  = 30 * time.Second
	gossipRounds = 4
	// handshake is how long TCP must stay unanswered: three segments, which are sent again after 1 s and 3 s. What is sent on a
	// connection that was there before is sent again ever more seldom: fewer do if nothing has come for a Window.
	handshake         = 3 * time.Second
	handshakeSegments = 3
	// farewell is how long this node may go on speaking to one that leaves the Swarm: connections are closed.
	farewell = 3 * time.Second
	// blockedPackets is how many packets a firewall must have dropped: as many as a handshake tries.
	blockedPackets = 3
)

// gossipSilence is for how long gossip with one node must be silent to mean anything, with so many of them.
func (v *View) gossipSilence() time.Duration {
	return gossipSlack + gossipRounds*time.Second*time.Duration(len(v.Cluster.Peers))
}

// peerSilence is the same of everything.
func (v *View) peerSilence() time.Duration { return max(Window, v.gossipSilence()) }

// dialogue is all that this node and another have said to each other.
type dialogue struct {
	*enrich.SwarmPeer
	channels []*PeerChannel
}

func (v *View) dialogues() []dialogue {
	byAddress := make(map[netip.Addr][]*PeerChannel)
	for i := range v.Channels {
		c := &v.Channels[i]
		byAddress[c.Peer] = append(byAddress[c.Peer], c)
	}
	all := make([]dialogue, 0, len(v.Cluster.Peers))
	for i := range v.Cluster.Peers {
		p := &v.Cluster.Peers[i]
		d := dialogue{SwarmPeer: p, channels: byAddress[p.Address]}
		if p.Control.IsValid() && p.Control != p.Address {
			d.channels = append(d.channels[:len(d.channels):len(d.channels)], byAddress[p.Control]...)
		}
		all = append(all, d)
	}
	return all
}

// heard is when something last came from the node on any channel but one; nil: on any.
func (d *dialogue) heard(except *PeerChannel) (last time.Time) {
	for _, c := range d.channels {
		if c != except && c.LastReceived.After(last) {
			last = c.LastReceived
		}
	}
	return last
}

// isAnswered tells the channels on which whatever comes is answered. Of tunnels nobody knows: what is in them may want no answer.
func isAnswered(c loader.Channel) bool {
	return c == loader.ChannelGossipUDP || c == loader.ChannelGossipTCP || c == loader.ChannelManager
}

// pending is for how long one side has gone on without a word of the other's: since that was last heard, or since it began.
func pending(first, last, answered time.Time) time.Duration {
	if answered.After(first) {
		first = answered
	}
	return last.Sub(first)
}

// Ways in which a channel may be blocked.
const (
	unansweredThere = "what this node sends is not answered: it is lost on the way, or the answers are on theirs"
	unansweredHere  = "what the peer sends comes in, and this node does not answer: its own firewall"
)

// blocked tells in which way a channel is blocked, "" if it is not, as far as it can tell. It is if the peer is heard of on
// others for as long as it is not on this.
func (v *View) blocked(d *dialogue, c *PeerChannel) (way string) {
	there, here := pending(c.FirstSent, c.LastSent, c.LastReceived), pending(c.FirstReceived, c.LastReceived, c.LastSent)
	least, still := v.gossipSilence(), v.gossipSilence()
	if c.Channel != loader.ChannelGossipUDP {
		// Segments are sent when there is something to say, which may be seldom: those of the Window count.
		least, still = handshake, Window
		if c.Received > 0 || c.Sent < handshakeSegments && there < Window {
			there = 0
		}
		if c.Sent > 0 || c.Received < handshakeSegments && here < Window {
			here = 0
		}
	}
	switch elsewhere := d.heard(c); {
	case v.Now.Sub(elsewhere) >= v.peerSilence():
		return ""
	case there >= least && v.Now.Sub(c.LastSent) < still && elsewhere.Sub(c.LastSent.Add(-there)) >= least:
		return unansweredThere
	case here >= least && v.Now.Sub(c.LastReceived) < still:
		return unansweredHere
	}
	return ""
}

func gossipBlocked(v *View) []hit {
	port := cmp.Or(v.Cluster.Ports.Gossip, loader.DefaultGossipPort)
	return v.blockedPorts("7946-closed", port, loader.ChannelGossipUDP, loader.ChannelGossipTCP)
}

func managerBlocked(v *View) []hit {
	port := uint16(loader.DefaultManagerPort)
	if ports := v.Cluster.Ports.Managers; len(ports) > 0 {
		port = ports[0]
	}
	return v.blockedPorts("2377-closed", port, loader.ChannelManager)
}

// blockedPorts finds the peers that a port is blocked to, or from, and whether this host's own firewall does so.
func (v *View) blockedPorts(id string, port uint16, channels ...loader.Channel) []hit {
	hits := v.firewalled(id, port)
	for _, d := range v.dialogues() {
		for _, c := range d.channels {
			for _, channel := range channels {
				if way := v.blocked(&d, c); c.Channel == channel && way != "" {
					hits = append(hits, v.blockedHit(&d, c, port, way))
				}
			}
		}
	}
	return hits
}

func (v *View) blockedHit(d *dialogue, c *PeerChannel, port uint16, way string) hit {
	protocol := "tcp"
	if c.Channel == loader.ChannelGossipUDP {
		protocol = "udp"
	}
	return hit{
		subject: Subject{Scope: enrich.ScopeHost, Object: c.Peer.String() + " " + portName(port, protocol)},
		evidence: []Fact{
			text("peer", nodeText(d.Node, c.Peer)), text("what happens", way),
			number("packets sent", float64(c.Sent), "in the last minute"), number("packets received", float64(c.Received), "in the last minute"),
			text("last received", sinceStart(c.LastReceived)), text("last received on others", sinceStart(d.heard(c))),
		},
		fill: map[string]string{"peer": c.Peer.String(), "port": fmt.Sprint(port)},
	}
}

// sinceStart says when something was last.
func sinceStart(last time.Time) string {
	if last.IsZero() {
		return "not since the agent has started"
	}
	return clock(last)
}

// firewalled finds out whether netfilter on this host drops what goes between it and other nodes.
func (v *View) firewalled(id string, port uint16) []hit {
	for i := range v.Losses {
		l := &v.Losses[i]
		if l.Cause != id || l.Subject.Scope != enrich.ScopeHost || l.victim() || !v.enough(l.Packets, blockedPackets) {
			continue
		}
		fill := exampleFill(&l.Example)
		fill["port"], fill["peer"] = fmt.Sprint(port), "NODE"
		return []hit{{
			subject: Subject{Scope: enrich.ScopeHost}, fill: fill,
			evidence: append([]Fact{text("what happens", "a rule on this host drops it"), lost(l.Packets)}, exampleFacts(&l.Example)...),
			confirm:  "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -iwE 'drop|reject'",
		}}
	}
	return nil
}

// missed tells when this node has first and last spoken to one of which it has heard no more, on channels that answer; zero: it has
// not. It need not go on: once nobody answers ARP no packet leaves. If its own link is down its last words may have been answered.
// One that left is spoken to for a moment more, and managers say at once that it is down.
func (d *dialogue) missed(heard time.Time) (first, last time.Time) {
	least := heard.Add(-farewell)
	if d.State == "down" {
		least = heard.Add(farewell)
	}
	for _, c := range d.channels {
		if !isAnswered(c.Channel) || c.LastSent.IsZero() || !c.LastSent.After(least) {
			continue
		}
		if first.IsZero() || c.FirstSent.Before(first) {
			first = c.FirstSent
		}
		if c.LastSent.After(last) {
			last = c.LastSent
		}
	}
	return first, last
}

// silentPeers finds nodes that have been spoken to and have not said anything since, for long.
func silentPeers(v *View) []hit {
	var hits []hit
	for _, d := range v.dialogues() {
		heard := d.heard(nil)
		first, last := d.missed(heard)
		if last.IsZero() || min(v.Now.Sub(heard), v.Now.Sub(first)) < v.peerSilence() {
			continue
		}
		peer := d.Address
		if d.Control.IsValid() {
			peer = d.Control
		}
		hits = append(hits, hit{
			subject: Subject{Scope: enrich.ScopeHost, Object: d.Address.String()},
			evidence: []Fact{
				text("peer", nodeText(d.Node, d.Address)), text("last received", sinceStart(heard)),
				text("last sent to it", clock(last)),
				text("managers say", orElse(d.State, "not known on this node")), text("networks in common", orElse(list(d.Nets), "none")),
			},
			fill: map[string]string{"peer": peer.String()},
		})
	}
	return hits
}
