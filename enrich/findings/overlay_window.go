// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// This file keeps what nodes send each other, and what is lost of it: the part of Recent that the overlay signal feeds.

// Bounds of what is kept. 200 nodes with 30 networks in common have 7,000 channels. Whoever is no node of the Swarm can
// write any source address.
const (
	maxChannels     = 8192
	maxStrangers    = 256
	maxMissed       = 1024
	maxTunnelLosses = 1024
	maxTalks        = 4096
)

// pause is how long nothing is lost between two troubles that have nothing to do with each other: TCP asks again after 1, 2,
// 4 and 8 seconds.
const pause = 15 * time.Second

// overlayRecent is what is kept of overlay networks.
type overlayRecent struct {
	channels  bounded[channelKey, channelEntry]
	strangers bounded[channelKey, channelEntry] // of who is no node of the Swarm, as far as is known
	missed    bounded[missedKey, missedEntry]
	losses    bounded[tunnelKey, tunnelEntry]
	talks     bounded[overlayAddress, talkEntry]
	hosts     map[overlayAddress]netip.Addr // the nodes of endpoints elsewhere
}

func newOverlayRecent() overlayRecent {
	return overlayRecent{
		channels:  newBounded[channelKey, channelEntry](maxChannels),
		strangers: newBounded[channelKey, channelEntry](maxStrangers),
		missed:    newBounded[missedKey, missedEntry](maxMissed),
		losses:    newBounded[tunnelKey, tunnelEntry](maxTunnelLosses),
		talks:     newBounded[overlayAddress, talkEntry](maxTalks),
	}
}

// channelKey is a channel to a node.
type channelKey struct {
	peer    netip.Addr
	channel loader.Channel
	vni     uint32
	inner   bool
}

type channelEntry struct {
	node, network             string
	sent, received, malformed slotted
	firstSent, lastSent       time.Time
	firstReceived             time.Time
	lastReceived              time.Time
	last                      time.Time // when anything passed
}

// missedKey is somebody on a network whom a device did not find.
type missedKey struct {
	network string // ID
	mac     [6]byte
	address netip.Addr
}

type missedEntry struct {
	example     enrich.OverlayMiss
	count       slotted
	first, last time.Time
}

// tunnelKey is where and why packets were lost.
type tunnelKey struct {
	network   string
	vni       uint32
	peer      netip.Addr
	outgoing  bool
	encrypted bool
	cause     string
}

type tunnelEntry struct {
	tunnel      enrich.Tunnel
	example     enrich.Drop
	packets     slotted
	first, last time.Time
}

type talkEntry struct {
	peer        netip.Addr
	sent        uint64
	first, last time.Time
}

// overlayAddress is an address on a network. Networks may use the same ones.
type overlayAddress struct {
	network string // name
	address netip.Addr
}

// AddOverlay takes in a reading of the overlay signal. Of misses only those count that are of somebody whose node is known:
// a device is also asked for addresses on this node, which it need not know, and for such as nobody has.
func (r *Recent) AddOverlay(o enrich.Overlay, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range o.Traffic {
		r.overlay.pass(&o.Traffic[i], now)
	}
	for i := range o.Misses {
		r.overlay.miss(&o.Misses[i], now)
	}
}

func (o *overlayRecent) pass(t *enrich.OverlayTraffic, now time.Time) {
	if !t.Peer.IsValid() || t.Packets == 0 { // of many, or only to say that there is such a peer
		return
	}
	e := o.channel(t)
	if e == nil {
		return
	}
	at := t.Last
	if at.IsZero() {
		at = now
	}
	e.node, e.network, e.last = cmp.Or(t.Node, e.node), cmp.Or(t.Network, e.network), now
	switch {
	case t.Outgoing:
		e.sent.add(now, t.Packets)
		note(&e.firstSent, &e.lastSent, at)
	case t.Malformed:
		e.malformed.add(now, t.Packets)
	default:
		e.received.add(now, t.Packets)
		note(&e.firstReceived, &e.lastReceived, at)
	}
}

func note(first, last *time.Time, at time.Time) {
	if first.IsZero() {
		*first = at
	}
	*last = at
}

// channel finds or makes the entry; nil: there is no room. A stranger that turns out to be a node takes its own along.
func (o *overlayRecent) channel(t *enrich.OverlayTraffic) *channelEntry {
	key := channelKey{t.Peer, t.Channel, t.VNI, t.Inner}
	if !t.Known {
		return o.strangers.entry(key, t.Packets)
	}
	if e := o.strangers.entries[key]; e != nil && o.channels.entries[key] == nil && len(o.channels.entries) < maxChannels {
		o.channels.entries[key] = e
		delete(o.strangers.entries, key)
	}
	return o.channels.entry(key, t.Packets)
}

func (o *overlayRecent) miss(m *enrich.OverlayMiss, now time.Time) {
	if !m.Endpoint.Host.IsValid() || m.Endpoint.Local || m.Count == 0 {
		return
	}
	e := o.missed.entry(missedKey{m.NetworkID, m.MAC, m.Address}, m.Count)
	if e == nil {
		return
	}
	if now.Sub(e.last) >= pause {
		e.first = now
	}
	e.example, e.last = *m, now
	e.count.add(now, m.Count)
}

// lose takes in a drop, if it was on an overlay network and anybody's loss.
func (o *overlayRecent) lose(d *enrich.Drop, now time.Time) {
	if d.Tunnel == nil || d.Kind != enrich.KindFault && d.Kind != enrich.KindPolicy {
		return
	}
	t := d.Tunnel
	e := o.losses.entry(tunnelKey{t.Network, t.VNI, t.Peer, t.Outgoing, t.Encrypted, d.Cause}, d.Packets)
	if e == nil {
		return
	}
	if now.Sub(e.last) >= pause {
		e.first = now
	}
	e.last = now
	e.tunnel, e.example = *t, *d
	e.packets.add(now, d.Packets)
}

// talk takes in a flow, if it is TCP between somebody here and somebody elsewhere on an overlay network. TCP answers always,
// so that it tells whether anything comes back: of datagrams nobody knows whether they are meant to be answered.
func (o *overlayRecent) talk(f *enrich.Flow, now time.Time) {
	if f.Protocol != unix.IPPROTO_TCP || f.Network == "" {
		return
	}
	key := overlayAddress{f.Network, f.Remote}
	peer := o.hosts[key]
	switch {
	case !peer.IsValid():
	case f.RX.Packets > 0:
		delete(o.talks.entries, key)
	case f.TX.Packets > 0:
		if e := o.talks.entry(key, f.TX.Packets); e != nil {
			e.peer = peer
			e.sent += f.TX.Packets
			note(&e.first, &e.last, now)
		}
	}
}

// fill sets what the view has of overlay networks.
func (o *overlayRecent) fill(view *View) {
	o.noteHosts(&view.Cluster)
	view.Channels = o.passed(view)
	view.Missed = o.missedIn(view.Now)
	view.Lost = o.lost(view.Now)
	view.Talks = o.unanswered(view.Now)
}

// noteHosts remembers who is on which other node.
func (o *overlayRecent) noteHosts(c *enrich.Cluster) {
	o.hosts = make(map[overlayAddress]netip.Addr)
	for i := range c.Networks {
		n := &c.Networks[i]
		for _, e := range n.Endpoints {
			if e.Host.IsValid() && !e.Local {
				o.hosts[overlayAddress{n.Name, e.Address}] = e.Host
			}
		}
	}
}

// passed lists the channels, and forgets those to who is no node of the Swarm any more.
func (o *overlayRecent) passed(view *View) (all []PeerChannel) {
	nodes := make(map[netip.Addr]string, len(view.Cluster.Peers))
	for _, p := range view.Cluster.Peers {
		nodes[p.Address] = p.Node
		if p.Control.IsValid() {
			nodes[p.Control] = p.Node
		}
	}
	for _, table := range []bounded[channelKey, channelEntry]{o.channels, o.strangers} {
		for key, e := range table.entries {
			node, known := nodes[key.peer]
			if !known && view.Now.Sub(e.last) >= Window {
				delete(table.entries, key)
				continue
			}
			c := PeerChannel{
				Peer: key.peer, Node: cmp.Or(node, e.node), Known: known, Channel: key.channel, Network: e.network, VNI: key.vni, Inner: key.inner,
				FirstSent: e.firstSent, LastSent: e.lastSent, FirstReceived: e.firstReceived, LastReceived: e.lastReceived,
			}
			c.Sent, _ = e.sent.sum(view.Now)
			c.Received, _ = e.received.sum(view.Now)
			c.Malformed, _ = e.malformed.sum(view.Now)
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b PeerChannel) int {
		return cmp.Or(a.Peer.Compare(b.Peer), strings.Compare(string(a.Channel), string(b.Channel)), cmp.Compare(a.VNI, b.VNI),
			compareBool(a.Inner, b.Inner))
	})
	return all
}

func (o *overlayRecent) missedIn(now time.Time) (all []MissedPeer) {
	for key, e := range o.missed.entries {
		count, _ := e.count.sum(now)
		if count == 0 {
			delete(o.missed.entries, key)
			continue
		}
		m := MissedPeer{OverlayMiss: e.example, First: e.first, Last: e.last}
		m.Count = count
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b MissedPeer) int {
		return cmp.Or(strings.Compare(a.NetworkID, b.NetworkID), bytes.Compare(a.MAC[:], b.MAC[:]), a.Address.Compare(b.Address))
	})
	return all
}

func (o *overlayRecent) lost(now time.Time) (all []TunnelLoss) {
	for key, e := range o.losses.entries {
		packets, _ := e.packets.sum(now)
		if packets == 0 {
			delete(o.losses.entries, key)
			continue
		}
		all = append(all, TunnelLoss{
			Tunnel: e.tunnel, Cause: key.cause, Packets: packets, First: e.first, Last: e.last, Example: e.example,
		})
	}
	slices.SortFunc(all, func(a, b TunnelLoss) int {
		return cmp.Or(strings.Compare(a.Cause, b.Cause), strings.Compare(a.Network, b.Network), cmp.Compare(a.VNI, b.VNI),
			a.Peer.Compare(b.Peer), compareBool(a.Outgoing, b.Outgoing), compareBool(a.Encrypted, b.Encrypted))
	})
	return all
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// unanswered lists who does not answer, of those who are still there: who has ended need not.
func (o *overlayRecent) unanswered(now time.Time) (all []Talk) {
	for key, e := range o.talks.entries {
		if now.Sub(e.last) >= Window || o.hosts[key] != e.peer {
			delete(o.talks.entries, key)
			continue
		}
		all = append(all, Talk{Network: key.network, Address: key.address, Peer: e.peer, Sent: e.sent, First: e.first, Last: e.last})
	}
	slices.SortFunc(all, func(a, b Talk) int {
		return cmp.Or(a.Peer.Compare(b.Peer), strings.Compare(a.Network, b.Network), a.Address.Compare(b.Address))
	})
	return all
}

func (o *overlayRecent) overflow() []loader.Loss {
	return []loader.Loss{
		{Place: "recent_channels", Count: o.channels.rest},
		{Place: "recent_strangers", Count: o.strangers.rest},
		{Place: "recent_misses", Count: o.missed.rest},
		{Place: "recent_tunnel_losses", Count: o.losses.rest},
		{Place: "recent_talks", Count: o.talks.rest},
	}
}
