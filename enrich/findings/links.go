// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"maps"
	"net"
	"slices"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// linkRules are about devices: veths, bridges and their ports, MTUs and hardware addresses.
func linkRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "link-down", Severity: Warning,
				Title:   "A link that a container's packets leave by is down.",
				Remedy:  "Check its cable, its bond or its tunnel, and set it up again. If it is to stay down, remove the route that still leads there.",
				Confirm: "ip -br link show {device}",
				Basis:   "packets of a container that the kernel dropped at a device of the host that was down or had no carrier",
			},
			find: losing("link-down", perMinute),
		},
		{
			Definition: Definition{
				ID: "veth-down", Severity: Warning,
				Title:   "A bridge cannot hand packets on to a container: its port is down.",
				Remedy:  "Set the interface up again, or restart the container, which makes a new one.",
				Confirm: "ip -o link show type veth | grep -v -e 'state UP'",
				Basis:   "packets that a bridge dropped because the port they were for takes none, although the container runs",
			},
			find: losing("veth-down", perMinute),
		},
		{
			Definition: Definition{
				ID: "mtu-route", Severity: Warning,
				Title:   "A container's packets are too big for the way out, and it does not adapt.",
				Remedy:  "Give the network the MTU of the way out (com.docker.network.driver.mtu), and let ICMP \"fragmentation needed\" through to the container; else clamp the MSS of TCP.",
				Confirm: "ip route get {destination}",
				Basis:   "packets to one destination that the kernel kept dropping for their size seconds after it had first answered that they are too big",
			},
			inside: true,
			find:   losses(ignoresPathMTU),
		},
		{
			Definition: Definition{
				ID: "mtu-bridge", Severity: Warning,
				Title:   "Packets are too big for a bridge port or a veth, which drops them without a word.",
				Remedy:  "Give all of the path one MTU: the container's end, the host's end of its veth, the bridge and its other ports. Set it with com.docker.network.driver.mtu, and recreate the containers.",
				Confirm: "ip -o link show",
				Basis:   "packets that a bridge or a veth dropped because they exceed the MTU of the next device; nobody is told by ICMP at this place",
			},
			find: losing("mtu-bridge", perMinute),
		},
		{
			Definition: Definition{
				ID: "mtu-mismatch", Severity: Info,
				Title:   "Devices along a network's path differ in MTU.",
				Remedy:  "Set one MTU with com.docker.network.driver.mtu, no larger than the way out's, and recreate the containers. Until then what is larger than the smallest is lost.",
				Confirm: "ip -o link show | grep -e {bridge}",
				Basis:   "the MTUs of the network's bridge, of its ports, of the containers' ends, and of the device that the default route leaves by",
			},
			after: settle,
			find:  mtusDiffer,
		},
		{
			Definition: Definition{
				ID: "hairpin", Severity: Warning,
				Title:   "A container does not reach itself, or its neighbour, through a published port.",
				Remedy:  "Talk by service name on the network instead. Through the host's address it takes the userland proxy, or hairpin mode on the bridge port together with Docker's masquerading.",
				Confirm: "bridge -d link show | grep -B1 -e 'hairpin off'",
				Basis:   "packets that after translation would return by the bridge port they came from, or that came back to their sender with its own address as source",
			},
			find: losing("hairpin", perMinute),
		},
		{
			Definition: Definition{
				ID: "csum-offload", Severity: Warning,
				Title:   "Packets arrive with wrong checksums.",
				Remedy:  "Most often a network card's checksum offload is broken, in virtual machines and for encapsulated packets: turn it off with ethtool -K on the sending host's uplink, or update driver and hypervisor.",
				Confirm: "nstat -az TcpInCsumErrors UdpInCsumErrors",
				Basis:   "packets that the kernel dropped for the checksum of IP, TCP, UDP or ICMP",
			},
			inside: true,
			find:   losing("csum-offload", perMinute),
		},
		{
			Definition: Definition{
				ID: "v6-disabled", Severity: Warning,
				Title:   "IPv6 packets reach a container whose interface has IPv6 turned off.",
				Remedy:  "Give the container's network IPv6, or stop announcing an IPv6 address for the service.",
				Confirm: "nsenter -t $(docker inspect -f '{{.State.Pid}}' {container}) -n sysctl -a -r 'ipv6.*disable_ipv6'",
				Basis:   "IPv6 packets that the kernel dropped because the interface has disable_ipv6 set",
			},
			find: losing("v6-disabled", perMinute),
		},
		{
			Definition: Definition{
				ID: "macvlan-host", Severity: Info,
				Title:   "A container on a macvlan or ipvlan network tries to reach its own host.",
				Remedy:  "Such networks never lead to the device they are on. Give the host a macvlan interface of its own on the same parent and a route to the container by it, or use a bridge network for this.",
				Confirm: "docker network inspect -f '{{index .Options \"parent\"}}' {network}",
				Basis:   "packets of the container whose next hop, an address of its parent's host, never answered",
			},
			find: losing("macvlan-host", perMinute),
		},
		{
			Definition: Definition{
				ID: "bridge-full", Severity: Warning,
				Title:   "A bridge is about to run out of ports.",
				Remedy:  "The kernel allows 1,024 ports on a bridge, after which containers do not start any more. Spread the containers over several networks.",
				Confirm: "ip -o link show master {bridge} | wc -l",
				Basis:   "the number of links whose master is the network's bridge",
			},
			find: bridgesFull,
		},
		{
			Definition: Definition{
				ID: "dup-mac", Severity: Warning,
				Title:   "Several interfaces on one network have the same MAC address.",
				Remedy:  "Frames go now to one, now to the other. Remove the fixed MAC address (--mac-address, mac_address) from all but one, and recreate the containers.",
				Confirm: "docker network inspect -f '{{range .Containers}}{{.MacAddress}} {{.Name}}{{\"\\n\"}}{{end}}' {network} | grep -i {object}",
				Basis:   "the MAC addresses of running containers on one network, as the engine assigned them and as their interfaces have them",
			},
			after: settle,
			find:  macsRepeat,
		},
	}
}

// mayRepeat is how many packets may be lost after the first ones without a doubt that the sender adapts: an answer may get
// lost, too.
const mayRepeat = 3

// ignoresPathMTU tells whether a container goes on sending what it was told is too big. That the first packets to a new
// destination are dropped and answered is how a path's MTU is found (RFC 1191). It is so all day where the uplink's MTU is
// below the 1500 of Docker's default: 1460 on GCE, 1420 with WireGuard.
func ignoresPathMTU(_ *View, l *Loss) bool { return l.Cause == "mtu-route" && l.Repeated >= mayRepeat }

// spread is how MTUs of several devices differ.
type spread struct {
	least, most int
	device      string // that has the least
}

func (s *spread) add(mtu int, device string) {
	if s.least == 0 || mtu < s.least {
		s.least, s.device = mtu, device
	}
	s.most = max(s.most, mtu)
}

// mtusDiffer finds networks with devices that drop what their neighbours send. A container's end, the host's end, the
// bridge and its other ports hand frames on as they are, so they must agree. The uplink only has to be as large as the
// bridge where that is larger than Docker's default: below it, the host answers what is too big, and senders adapt.
func mtusDiffer(v *View) []hit {
	var hits []hit
	ports, uplink := v.ports(), v.uplink()
	ends := make(map[int][]containerEnd) // by ifindex of the bridge
	for _, end := range v.containerEnds() {
		ends[end.port.Master] = append(ends[end.port.Master], end)
	}
	for _, b := range v.sortedBridges() {
		var s spread
		for _, p := range ports[b.link.Index] {
			s.add(p.MTU, p.Name)
		}
		for _, end := range ends[b.link.Index] {
			s.add(end.link.MTU, end.link.Name+" in "+v.engineName(end.container))
		}
		if s.least == 0 {
			continue // nobody is on it
		}
		s.add(b.link.MTU, b.link.Name)
		tooLargeForUplink := uplink != nil && s.most > defaultMTU && s.most > uplink.MTU
		if s.least == s.most && !tooLargeForUplink {
			continue
		}
		facts := []Fact{
			number("MTU of the bridge", float64(b.link.MTU), "bytes"),
			number("smallest on the path", float64(s.least), "bytes"), text("smallest at", s.device),
			number("largest on the path", float64(s.most), "bytes"),
		}
		if uplink != nil {
			facts = append(facts, number("MTU of the uplink "+uplink.Name, float64(uplink.MTU), "bytes"))
		}
		hits = append(hits, hit{subject: onNetwork(b.Name), evidence: facts, fill: map[string]string{"bridge": b.link.Name}})
	}
	return hits
}

// defaultMTU is Docker's, whatever the uplink's is.
const defaultMTU = 1500

// containerEnd is the end of a veth inside a container whose other end is a port of a bridge.
type containerEnd struct {
	container string // its ID
	link      *loader.Link
	port      *loader.Link
}

// containerEnds are those that were read, by container.
func (v *View) containerEnds() []containerEnd {
	ports := make(map[int]*loader.Link)
	for i := range v.Host.Links {
		if l := &v.Host.Links[i]; l.Kind == "veth" && l.Master != 0 {
			ports[l.Index] = l
		}
	}
	var all []containerEnd
	for _, id := range slices.Sorted(maps.Keys(v.Containers)) {
		links := v.Containers[id].Links
		for i := range links {
			if p := ports[links[i].Peer]; p != nil && links[i].Kind == "veth" && p.Peer == links[i].Index {
				all = append(all, containerEnd{id, &links[i], p})
			}
		}
	}
	return all
}

// uplink is the device that the IPv4 default route leaves by, of several the one with the largest MTU; nil: there is none.
func (v *View) uplink() *loader.Link {
	var found *loader.Link
	for i := range v.Host.Routes {
		r := &v.Host.Routes[i]
		if r.Destination.Bits() != 0 || r.Destination.Addr().Is6() {
			continue
		}
		if l := v.link(r.Device); l != nil && (found == nil || l.MTU > found.MTU) {
			found = l
		}
	}
	return found
}

// manyPorts is near enough to the kernel's BR_MAX_PORTS (net/bridge/br_private.h), 1024.
const manyPorts = 900

func bridgesFull(v *View) []hit {
	var hits []hit
	ports := v.ports()
	for _, b := range v.sortedBridges() {
		if n := len(ports[b.link.Index]); n >= manyPorts {
			hits = append(hits, hit{
				subject:  onNetwork(b.Name),
				evidence: []Fact{number("ports", float64(n), "of 1024")},
				fill:     map[string]string{"bridge": b.link.Name},
			})
		}
	}
	return hits
}

// station is a MAC address on a network.
type station struct {
	network string
	mac     [6]byte
}

// macsRepeat finds MAC addresses that two running containers have on one network, by the engine's word or in fact. On
// ipvlan all share their parent's.
func macsRepeat(v *View) []hit {
	owners := make(map[station][]string) // IDs
	add := func(network string, mac [6]byte, id string) {
		s := station{network, mac}
		if mac != ([6]byte{}) && !slices.Contains(owners[s], id) {
			owners[s] = append(owners[s], id)
		}
	}
	v.eachEndpoint(func(c *enrich.LiveContainer, e *enrich.Endpoint, n *enrich.Network) {
		if n.Driver != "ipvlan" {
			add(n.Name, e.MAC, c.ID)
		}
	})
	bridges := v.bridges()
	for _, end := range v.containerEnds() {
		if b, ok := bridges[end.port.Master]; ok {
			add(b.Name, end.link.MAC, end.container)
		}
	}
	var hits []hit
	for s, ids := range owners {
		if len(ids) < 2 {
			continue
		}
		subject := onNetwork(s.network)
		subject.Object = net.HardwareAddr(s.mac[:]).String()
		hits = append(hits, hit{subject: subject, evidence: []Fact{
			number("interfaces", float64(len(ids)), ""), text("containers", list(v.engineNames(ids))),
		}})
	}
	return hits
}
