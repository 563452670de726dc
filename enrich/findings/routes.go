// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net"
	"net/netip"
	"slices"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// routeRules are about the host's routes and who answers at the end of them.
func routeRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "ip-forward-off", Severity: Critical,
				Title:   "The host does not forward packets, so containers reach nothing beyond it.",
				Remedy:  "Set net.ipv4.ip_forward=1 (for IPv6 net.ipv6.conf.all.forwarding=1), keep it in /etc/sysctl.d, and find the hardening tool that turned it off.",
				Confirm: "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
				Basis:   "the forwarding switches of the host's namespace beside the networks that need them and have somebody on them, and packets that the kernel dropped instead of forwarding",
			},
			find: forwardingOff,
		},
		{
			Definition: Definition{
				ID: "no-route", Severity: Warning,
				Title:   "There is no route for a container's packets.",
				Remedy:  "Add the missing route or gateway on the host; check whether the destination is the one that was meant.",
				Confirm: "ip route get {destination}",
				Basis:   "packets that the kernel dropped because it has no route to their destination, or one that forbids it, and the rise of OutNoRoutes in the container's namespace: IPv4 packets that its own processes could not send",
			},
			inside: true,
			find:   unrouted("no-route", false),
		},
		{
			Definition: Definition{
				ID: "localnet", Severity: Warning,
				Title:   "Packets are sent to, or from, a loopback address across a real device.",
				Remedy:  "Something translates to 127.0.0.1: let it point to an address of the container or of the bridge instead. A port published on 127.0.0.1 serves this host alone.",
				Confirm: "sh -c 'iptables-save -t nat; nft list ruleset' 2>/dev/null | grep -F 127.0.0",
				Basis:   "packets that the kernel dropped because a loopback address may not appear on a device with route_localnet off",
			},
			inside: true,
			find:   losing("localnet", perMinute),
		},
		{
			Definition: Definition{
				ID: "ttl-loop", Severity: Warning,
				Title:   "A container's packets use up their time to live on this host.",
				Remedy:  "They most likely run in a circle between routers: compare the route here with that of the next hop, and correct the one that points back.",
				Confirm: "traceroute -n {destination}",
				Basis:   "packets that the kernel dropped because their time to live had come to its end, more than a path trace sends",
			},
			// A path trace ends one packet here for each probe: mtr 60 in a minute, traceroute 3 in all.
			inside: true,
			find:   losing("ttl-loop", 100),
		},
		{
			Definition: Definition{
				ID: "dead-endpoint", Severity: Warning,
				Title:   "Packets are sent to an address that nobody answers for.",
				Remedy:  "If it is the gateway, named as the next hop, bring it back or correct the route. Else whoever sends holds on to the address of a container that is gone, by a stale DNS answer or an old NAT entry: make it resolve the name again, or delete the entry (conntrack -D -d ADDRESS).",
				Confirm: "ip neigh show {destination}",
				Basis:   "packets to an address in a Docker network, or by way of a gateway, that the kernel dropped because address resolution failed, for longer than a container takes to restart, or on an overlay network for a minute after a task has ended; a machine of the LAN that is off is not counted",
			},
			inside: true,
			find:   deadEndpoints,
		},
		{
			Definition: Definition{
				ID: "neigh-queue", Severity: Info,
				Title:   "Packets are lost while an address is being resolved.",
				Remedy:  "A short burst towards a new neighbour is harmless. If it goes on, look for an address that does not answer; else raise net.ipv4.neigh.default.unres_qlen_bytes.",
				Confirm: "ip -s neigh show {destination}",
				Basis:   "packets that did not fit into the queue of a neighbour whose address was not resolved yet",
			},
			inside: true,
			find:   losingToDead("neigh-queue", perMinute),
		},
		{
			Definition: Definition{
				ID: "dup-ip", Severity: Warning,
				Title:   "An address of a container is used by somebody else too.",
				Remedy:  "Give one of them another address. On macvlan networks of several hosts, give each host its own --ip-range, for the engines do not know of each other.",
				Confirm: "ip neigh show {object}",
				Basis:   "the addresses that the engine assigned, and the MAC address that answered for them just now by the host's neighbour table",
			},
			after: settle,
			find:  addressesRepeat,
		},
		{
			Definition: Definition{
				ID: "route-overlap", Severity: Warning,
				Title:   "A Docker network's subnet overlaps with a route of the host.",
				Remedy:  "Hosts behind that route are out of reach, or the containers are. Recreate the network with another --subnet, and set \"default-address-pools\" in daemon.json so that it does not happen again.",
				Confirm: "sh -c 'ip -4 route; ip -6 route' | grep -e {bridge} -e {device}",
				Basis:   "the subnets of bridge networks beside the routes of the main table that lead by other devices",
			},
			after: settle,
			find:  routesOverlap,
		},
		{
			Definition: Definition{
				ID: "v6-ra-lost", Severity: Warning,
				Title:   "The host has lost its IPv6 default route: with forwarding on it ignores router advertisements.",
				Remedy:  "Set net/ipv6/conf/DEVICE/accept_ra=2 for the uplink and keep it in /etc/sysctl.d, or configure the route by hand.",
				Confirm: "sysctl net/ipv6/conf/{device}/accept_ra net/ipv6/conf/{device}/forwarding",
				Basis:   "router advertisements that came in and were ignored, since forwarding is on and accept_ra is 1, and the absence of a default route",
			},
			after: settle,
			find:  advertisementsIgnored,
		},
	}
}

// forwardingOff finds the switch off while there are networks that need it, or what is dropped for it, which may be for a
// single device's switch. It is one finding, the host's.
func forwardingOff(v *View) []hit {
	var facts []Fact
	for _, family := range []struct {
		ipv6     bool
		name     string
		position loader.Switch
	}{
		{false, "net.ipv4.ip_forward", v.Host.Forwarding4},
		{true, "net.ipv6.conf.all.forwarding", v.Host.Forwarding6},
	} {
		if needing := v.forwarding(family.ipv6); family.position == loader.Off && len(needing) > 0 {
			facts = append(facts, text(family.name, "off"), text("networks that need it", list(needing)))
		}
	}
	lost, fill := v.hostLosses("ip-forward-off", perMinute)
	return onHost(append(facts, lost...), fill)
}

// forwarding names the networks with a bridge that lead beyond the host, by IPv4 or by IPv6. One without ports has nobody
// who needs it: Docker's default bridge is always there.
func (v *View) forwarding(ipv6 bool) []string {
	var names []string
	ports := v.ports()
	for _, b := range v.sortedBridges() {
		if len(ports[b.link.Index]) > 0 && !b.Internal && hasFamily(b.Network, ipv6) && gatewayMode(b.Network, ipv6) != "isolated" {
			names = append(names, b.Name)
		}
	}
	return names
}

// deadEndpoints finds containers whose packets wait for somebody of Docker's who is gone, or for a gateway. That another
// machine on the link is off is its own business. On an overlay network a task that ends has no successor at its address: each
// update leaves clients behind that hold on to the old one for a while.
func deadEndpoints(v *View) []hit {
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		hop, concerns := v.silent(l)
		if l.Cause != "dead-endpoint" || !v.enough(l.Packets, perMinute) || !l.victim() || l.restarting() || !concerns || l.ToContainer && v.isOverlay(l.Subject.Network) {
			continue
		}
		h := v.lossHit(l)
		if hop.IsValid() {
			h.evidence = append(h.evidence, text("next hop", hop.String()+", the gateway"))
			h.fill["destination"] = hop.String()
		}
		hits = append(hits, h)
	}
	return hits
}

// isOverlay tells whether a network spans nodes.
func (v *View) isOverlay(network string) bool {
	n := v.network(network)
	return n != nil && n.Driver == "overlay"
}

// silent tells whether it is Docker's business that nobody answers for the next hop of lost packets, and which gateway that
// is if it is one.
func (v *View) silent(l *Loss) (gateway netip.Addr, concerns bool) {
	to := l.Example.Destination
	if !to.IsValid() {
		return netip.Addr{}, false
	}
	if v.isGateway(to) {
		return to, true
	}
	if l.ToContainer || v.inContainersSubnet(to) {
		return netip.Addr{}, true
	}
	if l.Subject.Scope != enrich.ScopeContainer {
		gateway = v.nextHop(to)
		return gateway, gateway.IsValid()
	}
	n := v.network(l.Subject.Network)
	if n == nil || contains(n.Subnets, to) {
		return netip.Addr{}, false // on the link of a macvlan or ipvlan network
	}
	for _, g := range n.Gateways {
		if g.Is6() == to.Is6() {
			return g, true
		}
	}
	return netip.Addr{}, false
}

// isGateway tells whether an address is one that the host routes by, or a network's containers do.
func (v *View) isGateway(a netip.Addr) bool {
	return slices.ContainsFunc(v.Host.Routes, func(r loader.Route) bool { return r.Gateway == a }) ||
		slices.ContainsFunc(v.Inventory.Networks, func(n enrich.Network) bool { return slices.Contains(n.Gateways, a) })
}

// nextHop is the gateway of the host's most specific route to an address; invalid: none, or the address is on the link.
func (v *View) nextHop(to netip.Addr) netip.Addr {
	best := loader.Route{Destination: netip.PrefixFrom(to, -1)}
	for _, r := range v.Host.Routes {
		if r.Destination.Contains(to) && r.Destination.Bits() > best.Destination.Bits() {
			best = r
		}
	}
	return best.Gateway
}

// unrouted finds containers that lost packets to a cause for want of a route, and those whose own processes could not even
// send: then there is no packet to lose. For those on internal networks only it is meant so.
func unrouted(cause string, internal bool) func(*View) []hit {
	lost := losing(cause, perMinute)
	return func(v *View) []hit {
		hits := lost(v)
		for i := range v.Inventory.Containers {
			c := &v.Inventory.Containers[i]
			refused := v.Rises[c.ID].OutNoRoutes
			if refused < perMinute || c.NetworkMode == "none" || v.onInternalOnly(c) != internal {
				continue
			}
			hits = merge(hits, unsent(c, refused))
		}
		return hits
	}
}

// unsent is that a container's processes had no route for so many packets.
func unsent(c *enrich.LiveContainer, packets uint64) hit {
	h := hit{
		subject:  of(c, "", enrich.ScopeContainer),
		evidence: []Fact{number("IPv4 packets not sent", float64(packets), "in the last minute")},
		fill:     map[string]string{"container": c.Name, "destination": "ADDRESS"},
	}
	if len(c.Endpoints) > 0 {
		h.fill["network"] = c.Endpoints[0].Network
	}
	if len(c.Endpoints) == 1 {
		h.subject.Network = c.Endpoints[0].Network
	}
	return h
}

// merge adds a hit: to the evidence of one that concerns the same subject.
func merge(hits []hit, h hit) []hit {
	for i := range hits {
		if hits[i].subject == h.subject {
			hits[i].evidence = append(hits[i].evidence, h.evidence...)
			return hits
		}
	}
	return append(hits, h)
}

// onInternalOnly tells whether no network of a container leads beyond it.
func (v *View) onInternalOnly(c *enrich.LiveContainer) bool {
	return len(c.Endpoints) > 0 && !slices.ContainsFunc(c.Endpoints, func(e enrich.Endpoint) bool {
		n := v.network(e.Network)
		return n == nil || !n.Internal
	})
}

// addressed is an address on a network.
type addressed struct {
	network string
	address netip.Addr
}

// holder is who has an address.
type holder struct {
	container *enrich.LiveContainer
	mac       [6]byte
}

// addressesRepeat finds addresses of running containers that the engine gave twice, or for which somebody else answers.
func addressesRepeat(v *View) []hit {
	holders := make(map[addressed][]holder)
	var order []addressed
	v.eachEndpoint(func(c *enrich.LiveContainer, e *enrich.Endpoint, n *enrich.Network) {
		for _, a := range e.Addresses {
			key := addressed{n.Name, a}
			if len(holders[key]) == 0 {
				order = append(order, key)
			}
			holders[key] = append(holders[key], holder{c, e.MAC})
		}
	})
	answers := v.answers()
	var hits []hit
	for _, key := range order {
		first := holders[key][0]
		facts := []Fact{text("address", key.address.String()), text("container", first.container.Name)}
		if len(holders[key]) > 1 {
			facts = append(facts, text("also of", holders[key][1].container.Name))
		} else if mac, ok := answers[key]; ok && v.isAnother(mac, first, key.network) {
			facts = append(facts, text("its MAC address", hardware(first.mac)), text("answered by", hardware(mac)))
		} else {
			continue
		}
		subject := of(first.container, key.network, enrich.ScopeHost)
		subject.Object = key.address.String()
		hits = append(hits, hit{subject: subject, evidence: facts})
	}
	return hits
}

func hardware(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }

// answers are the MAC addresses that answered the host on networks' bridges and on the parents of macvlan networks. The
// host never talks with its own containers by the parent, so whoever answers there is somebody else.
func (v *View) answers() map[addressed][6]byte {
	networks := make(map[int][]string) // by ifindex
	for index, b := range v.bridges() {
		networks[index] = []string{b.Name}
	}
	for i := range v.Inventory.Networks {
		n := &v.Inventory.Networks[i]
		for j := range v.Host.Links {
			if l := &v.Host.Links[j]; n.Driver == "macvlan" && n.Parent != "" && l.Name == n.Parent {
				networks[l.Index] = append(networks[l.Index], n.Name)
			}
		}
	}
	all := make(map[addressed][6]byte)
	for _, n := range v.Host.Neighbours {
		if !n.Confirmed || n.MAC == ([6]byte{}) {
			continue
		}
		for _, network := range networks[n.Device] {
			all[addressed{network, n.Address}] = n.MAC
		}
	}
	return all
}

// isAnother tells whether a MAC address is that of somebody else than the holder who is there now. On a bridge it must be
// one that is known: right after a container is replaced, the one that is gone may still be believed.
func (v *View) isAnother(mac [6]byte, h holder, network string) bool {
	if h.mac == ([6]byte{}) || mac == h.mac || slices.Contains(v.macsOf(h.container.ID), mac) {
		return false
	}
	if n := v.network(network); n != nil && n.Driver == "macvlan" {
		return true
	}
	for i := range v.Inventory.Containers {
		if c := &v.Inventory.Containers[i]; c.ID != h.container.ID && slices.Contains(v.macsOf(c.ID), mac) {
			return true
		}
	}
	return slices.ContainsFunc(v.Host.Links, func(l loader.Link) bool { return l.MAC == mac })
}

// macsOf are all that a container has, by the engine's word and in fact.
func (v *View) macsOf(id string) [][6]byte {
	var macs [][6]byte
	if c := v.container(id); c != nil {
		for _, e := range c.Endpoints {
			macs = append(macs, e.MAC)
		}
	}
	for _, l := range v.Containers[id].Links {
		macs = append(macs, l.MAC)
	}
	return macs
}

// broadest is how short a prefix may be and still lead to something in particular. Shorter ones stand for a default
// route, such as the two halves that VPNs set.
const broadest = 8

// routesOverlap finds routes by other devices that lead into a network's subnet, or into which it cuts a hole. What Docker
// made for its own bridges does not count, nor what leads nowhere (blackhole), nor a network that has no route itself.
func routesOverlap(v *View) []hit {
	var hits []hit
	foreign := v.foreignRoutes()
	for _, b := range v.sortedBridges() {
		for _, r := range foreign {
			if !v.cuts(b, r) {
				continue
			}
			device := v.link(r.Device)
			if device == nil || device.Loopback {
				continue
			}
			hits = append(hits, hit{
				subject: onNetwork(b.Name),
				evidence: []Fact{
					text("subnet", prefixes(b.Subnets)),
					text("route", r.Destination.String()+" dev "+device.Name+" proto "+r.Protocol),
				},
				fill: map[string]string{"bridge": b.link.Name, "device": device.Name},
			})
			break // one is enough to say what is wrong
		}
	}
	return hits
}

// foreignRoutes are those that lead to something in particular by a device that is not Docker's.
func (v *View) foreignRoutes() []loader.Route {
	bridges := v.bridges()
	var all []loader.Route
	for _, r := range v.Host.Routes {
		to := r.Destination
		if r.Device == 0 || to.Bits() < broadest || to.Addr().IsLinkLocalUnicast() || to.Addr().IsMulticast() {
			continue
		}
		if _, dockers := bridges[r.Device]; !dockers {
			all = append(all, r)
		}
	}
	return all
}

// cuts tells whether a route leads into a network's subnet or around it, and the host has a route of its own to that.
func (v *View) cuts(b bridged, r loader.Route) bool {
	to := r.Destination
	return slices.ContainsFunc(b.Subnets, func(subnet netip.Prefix) bool {
		return subnet.Overlaps(to) && slices.ContainsFunc(v.Host.Routes, func(own loader.Route) bool {
			return own.Device == b.link.Index && own.Destination.Overlaps(subnet)
		})
	})
}

func prefixes(all []netip.Prefix) string {
	names := make([]string, 0, len(all))
	for _, p := range all {
		names = append(names, p.String())
	}
	return list(names)
}

// advertisementsIgnored finds links where routers offer a route that the host does not take, and has not got.
func advertisementsIgnored(v *View) []hit {
	hasDefault := slices.ContainsFunc(v.Host.Routes, func(r loader.Route) bool {
		return r.Destination.Bits() == 0 && r.Destination.Addr().Is6() && r.Device != 0
	})
	if hasDefault {
		return nil
	}
	var hits []hit
	for _, index := range v.Host.RouterAdvertised6 {
		if _, dockers := v.bridges()[index]; dockers {
			continue
		}
		l := v.link(index)
		if l == nil {
			continue
		}
		hits = append(hits, hit{
			subject:  Subject{Scope: enrich.ScopeHost, Object: l.Name},
			evidence: []Fact{text("device", l.Name), text("forwarding", "on"), number("accept_ra", 1, ""), text("IPv6 default route", "none")},
			fill:     map[string]string{"device": l.Name},
		})
	}
	return hits
}
