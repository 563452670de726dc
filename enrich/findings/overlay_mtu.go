// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// overlayMTURules are about the room that tunnels leave.
func overlayMTURules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "overlay-mtu", Severity: Warning,
				Title:   "An overlay network's packets are larger than what its tunnel can carry.",
				Remedy:  "Make the network anew with an MTU that fits, docker network create --opt com.docker.network.driver.mtu=N; the ingress network too, docker network rm ingress first. N is the MTU of the link between the nodes less 50 (70 over IPv6, 26 more and rounded down to a multiple of 4 if encrypted). Or give that link a larger one.",
				Confirm: "nsenter --net={sandbox} ip -o link show",
				Basis:   "the MTUs of the network's VXLAN device, bridge, ports and containers beside each other and beside that of the link that leads to the other nodes, less what a tunnel adds; or packets between nodes that the kernel dropped for their size, or of which a fragment did not come",
			},
			after: settle,
			find:  tooLargeForTunnel,
		},
	}
}

// What a tunnel adds to a container's packet, in bytes. The sum for VXLAN (Ethernet 14, IP 20 or 40, UDP 8, VXLAN 8) is what the
// engine itself takes off, over IPv4 at least; for ESP it is the engine's estimate (daemon/libnetwork/drivers/overlay:
// vxlanEncap, pktExpansion), after which it rounds down to a multiple of 4.
const (
	vxlanOverIPv4 = 50
	vxlanOverIPv6 = 70
	espExpansion  = 26
	espAlignment  = 4
)

func tooLargeForTunnel(v *View) []hit {
	var hits []hit
	for i := range v.Cluster.Networks {
		if h, found := v.mtuHit(&v.Cluster.Networks[i]); found {
			hits = append(hits, h)
		}
	}
	for i := range v.Lost {
		l := &v.Lost[i]
		if l.Cause != "mtu-route" && l.Cause != "mtu-bridge" && l.Cause != "fragment-lost" || !v.lasting(l) {
			continue
		}
		h := hit{subject: between(l.Network, l.Peer), evidence: tunnelFacts(l), fill: v.peerFill(l.Network, l.Peer)}
		if l.Peer.IsValid() {
			h.evidence = append(h.evidence, v.nodeFact("node", l.Peer))
			h.confirm = "ip route get {peer}"
		}
		hits = append(hits, h)
	}
	return hits
}

// mtuHit compares the MTUs of a network with each other, and with the room that the tunnel to each node on it has.
func (v *View) mtuHit(n *enrich.OverlayNetwork) (h hit, found bool) {
	devices := v.mtusOn(n)
	if devices.least == 0 {
		return h, false
	}
	link, room := v.tunnelRoom(n)
	fits := link == nil || devices.most <= room
	if fits && devices.least == devices.most {
		return h, false
	}
	h = hit{subject: onNetwork(n.Name), fill: v.peerFill(n.Name, netip.Addr{})}
	h.evidence = []Fact{
		number("largest MTU on the network", float64(devices.most), "bytes"),
		number("smallest MTU on the network", float64(devices.least), "bytes"), text("smallest at", devices.device),
	}
	if link != nil {
		h.evidence = append(h.evidence, number("MTU of the link "+link.Name, float64(link.MTU), "bytes"),
			number("MTU that fits", float64(room), "bytes"))
	}
	return h, true
}

// mtusOn are those of the devices in a network's namespace here, and of its containers' ends.
func (v *View) mtusOn(n *enrich.OverlayNetwork) (s spread) {
	if n.Sandbox == nil {
		return s
	}
	for _, d := range n.Sandbox.VXLANs {
		s.add(d.MTU, d.Name)
	}
	for _, l := range n.Sandbox.Links {
		if l.Kind == "bridge" || l.Master != 0 {
			s.add(l.MTU, l.Name)
		}
	}
	v.eachEndpoint(func(c *enrich.LiveContainer, e *enrich.Endpoint, on *enrich.Network) {
		if on.ID != n.ID || e.MAC == ([6]byte{}) {
			return
		}
		for _, l := range v.Containers[c.ID].Links {
			if l.MAC == e.MAC {
				s.add(l.MTU, l.Name+" in "+v.engineName(c.ID))
			}
		}
	})
	return s
}

// tunnelRoom is how large a container's packet may be so that its tunnel fits the link to every other node on the network, and
// the narrowest of these links; nil: there is no other node, or no link is known that leads there.
func (v *View) tunnelRoom(n *enrich.OverlayNetwork) (narrowest *loader.Link, room int) {
	seen := make(map[netip.Addr]bool)
	for _, e := range n.Endpoints {
		if !e.Host.IsValid() || e.Local || seen[e.Host] {
			continue
		}
		seen[e.Host] = true
		link := v.linkTo(e.Host)
		if link == nil {
			continue
		}
		if here := link.MTU - overhead(e.Host, n.Encrypted); narrowest == nil || here < room {
			narrowest, room = link, here
		}
	}
	if n.Encrypted {
		room -= room % espAlignment
	}
	return narrowest, room
}

func overhead(peer netip.Addr, encrypted bool) int {
	added := vxlanOverIPv4
	if peer.Is6() {
		added = vxlanOverIPv6
	}
	if encrypted {
		added += espExpansion
	}
	return added
}

// linkTo finds the device that the host's routes lead to an address by; nil: none is known.
func (v *View) linkTo(address netip.Addr) *loader.Link {
	bits, device := -1, 0
	for _, r := range v.Host.Routes {
		if r.Destination.Contains(address) && r.Destination.Bits() > bits && r.Device != 0 {
			bits, device = r.Destination.Bits(), r.Device
		}
	}
	if bits < 0 {
		return nil
	}
	return v.link(device)
}
