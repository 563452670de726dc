// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// Values of the label encapsulation.
const (
	encapsulationVXLAN = "vxlan"
	encapsulationESP   = "esp"
)

// Values of the label table.
const (
	tableFDB       = "fdb"
	tableNeighbour = "neighbour"
)

// AddOverlay counts what passed between this node and others, and what its VXLAN devices missed. It must not be called
// concurrently with the other methods.
func (m *Metrics) AddOverlay(overlay enrich.Overlay) {
	for i := range overlay.Traffic {
		t := &overlay.Traffic[i]
		switch {
		case t.Channel == loader.ChannelESP && !t.Known && t.Peer.IsValid():
			continue // somebody's VPN: a stranger's datagram names a network, this does not
		case t.Malformed:
			m.store.Add(overlayMalformed, float64(t.Packets), m.overlays.peer(t.Peer))
			continue // anybody may send that: it is no sign of life of a channel
		case t.Channel == loader.ChannelVXLAN, t.Channel == loader.ChannelESP:
			m.addTunnelled(t)
		}
		if !t.Inner { // else it passed the uplink as ESP
			m.addChannel(t)
		}
	}
	if len(overlay.Traffic) > 0 {
		m.store.Replace(channelReceived, m.overlays.heardSamples())
	}
	for i := range overlay.Misses {
		miss := &overlay.Misses[i]
		table := tableFDB
		if miss.Address.IsValid() {
			table = tableNeighbour
		}
		m.store.Add(overlayMisses, float64(miss.Count), miss.Network, table)
	}
}

// addTunnelled counts packets of overlay networks. There may be a row for each network, peer and direction in each reading, so
// that their labels are made without a list on the heap.
func (m *Metrics) addTunnelled(t *enrich.OverlayTraffic) {
	o, local := m.overlays, t.Local
	switch {
	case t.Inner: // the tunnel's ends are not in the packet: both nodes take those that the Swarm says
		local = netip.Addr{}
	case t.Channel == loader.ChannelVXLAN && o.encrypted[t.VNI]:
		return // it was counted inside, and should not be here in the clear
	default:
		o.noteLocal(t)
	}
	values := [...]string{t.Network, o.vni(t.VNI), o.local(local), o.peer(t.Peer), directionLabel(t.Outgoing), encapsulationVXLAN}
	if t.Channel == loader.ChannelESP {
		values[0], values[1], values[5] = "", "", encapsulationESP
	}
	m.store.Add(overlayPackets, float64(t.Packets), values[:]...)
	m.store.Add(overlayBytes, float64(t.Bytes), values[:]...)
}

func (m *Metrics) addChannel(t *enrich.OverlayTraffic) {
	peer := m.overlays.peer(t.Peer)
	m.store.Add(channelPackets, float64(t.Packets), peer, string(t.Channel), directionLabel(t.Outgoing))
	key := heardKey{t.Peer.Unmap(), t.Channel}
	if peer != Other && !t.Outgoing && t.Last.After(m.overlays.heard[key]) {
		m.overlays.heard[key] = t.Last
	}
}

// addTunnelDrop shows a drop among those of overlay networks, if it is one.
func (m *Metrics) addTunnelDrop(d *enrich.Drop) {
	t := d.Tunnel
	if t == nil {
		return
	}
	o := m.overlays
	values := [...]string{
		t.Network, o.vni(t.VNI), o.local(t.Local), "", directionLabel(t.Outgoing), encapsulationVXLAN, reasonLabel(d.Reason), d.Cause,
	}
	if t.Peer.IsValid() {
		values[3] = o.peer(t.Peer)
	}
	if t.Encrypted {
		values[0], values[1], values[5] = "", "", encapsulationESP
	}
	m.store.Add(overlayDropped, float64(d.Packets), values[:]...)
}

func directionLabel(outgoing bool) string {
	if outgoing {
		return string(enrich.TX)
	}
	return string(enrich.RX)
}

// Whoever can send a packet can make up addresses and networks: so many of those that the Swarm does not know are told apart.
const (
	maxOtherPeers  = 16
	maxOtherLocals = 8
	maxOtherVNIs   = 16
)

// overlayNames are the label values that series of overlay networks have.
type overlayNames struct {
	self   netip.Addr // this node's data-path address; not valid: not known
	peers  *labelNames[netip.Addr]
	locals *labelNames[netip.Addr]
	vnis   *labelNames[uint32]

	encrypted map[uint32]bool // by VNI
	ends      map[tunnelEnd]netip.Addr
	heard     map[heardKey]time.Time // when something last came
}

// tunnelEnd is this node's end of what goes to a peer, or comes from it. Its address is mostly the data path's own, but a node
// with several may send from another: the route chooses.
type tunnelEnd struct {
	peer     netip.Addr
	outgoing bool
}

type heardKey struct {
	peer    netip.Addr
	channel loader.Channel
}

func newOverlayNames(now func() time.Time) *overlayNames {
	return &overlayNames{
		peers:  newLabelNames(maxOtherPeers, netip.Addr.String, now),
		locals: newLabelNames(maxOtherLocals, netip.Addr.String, now),
		vnis:   newLabelNames(maxOtherVNIs, vniText, now),
		ends:   make(map[tunnelEnd]netip.Addr), heard: make(map[heardKey]time.Time),
	}
}

// peer is the label of another node's address. Of what found the kernel's table full none is known.
func (o *overlayNames) peer(address netip.Addr) string {
	if !address.IsValid() {
		return Other
	}
	return o.peers.label(address.Unmap())
}

// vni is the label of a network's number, of which 0 is none.
func (o *overlayNames) vni(vni uint32) string {
	if vni == 0 {
		return ""
	}
	return o.vnis.label(vni)
}

// local is the label of an address of this node's. Of one that is not known it is the data path's.
func (o *overlayNames) local(address netip.Addr) string {
	if !address.IsValid() {
		address = o.self
	}
	if !address.IsValid() {
		return ""
	}
	return o.locals.label(address.Unmap())
}

// noteLocal keeps by which address of this node packets of a known peer come and go.
func (o *overlayNames) noteLocal(t *enrich.OverlayTraffic) {
	if t.Known && t.Local.IsValid() && t.Peer.IsValid() {
		o.ends[tunnelEnd{t.Peer.Unmap(), t.Outgoing}] = t.Local.Unmap()
	}
}

// end is the label of the address of this node under which a peer's packets are counted, or will be.
func (o *overlayNames) end(peer netip.Addr, outgoing bool) string {
	return o.local(o.ends[tunnelEnd{peer, outgoing}])
}

func (o *overlayNames) heardSamples() []Sample {
	samples := make([]Sample, 0, len(o.heard))
	for key, at := range o.heard {
		samples = append(samples, Sample{Value: float64(at.UnixMilli()) / 1000, Values: []string{o.peers.told(key.peer), string(key.channel)}})
	}
	slices.SortFunc(samples, func(a, b Sample) int { // of two addresses of one node the later one: Replace takes the first
		return cmp.Or(slices.Compare(a.Values, b.Values), cmp.Compare(b.Value, a.Value))
	})
	return samples
}
