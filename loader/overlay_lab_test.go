// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// swarmPorts are where an engine listens by default.
var swarmPorts = OverlayPorts{Data: DefaultDataPort, Gossip: DefaultGossipPort, Managers: []uint16{DefaultManagerPort}}

// What comes before a container's frame in a tunnel, in bytes.
const vxlanHeader = 8

// overlayNode is a node of an overlayLab: its host's namespace, and one in which its containers' ends of tunnels are.
type overlayNode struct {
	host, containers namespace
	uplink           Link
	v4, v6           netip.Addr
}

// overlayLab is two nodes joined by a veth, the first of which is the calling goroutine's namespace.
type overlayLab struct {
	here, there *overlayNode
	overlays    *Overlays // of the first
	networks    int
}

func newOverlayLab(t *testing.T) *overlayLab {
	t.Helper()
	enterFreshNetns(t)
	lab := &overlayLab{
		here: &overlayNode{
			host: ownNamespace(t), containers: newNamespace(t),
			v4: netip.MustParseAddr("192.0.2.1"), v6: netip.MustParseAddr("2001:db8::1"),
		},
		there: &overlayNode{host: newNamespace(t), containers: newNamespace(t), v4: world4, v6: world6},
	}
	lab.here.uplink = vethPair(t, lab.there.host)
	lab.there.host.do(t, func() { lab.there.uplink = newLink(mustLink(t, "inside")) })
	lab.here.join(t, lab.there)
	lab.there.join(t, lab.here)
	lab.overlays = mustOpenOverlay(t, OverlayConfig{})
	lab.setDevices(t, lab.here.uplink.Index)
	return lab
}

// join gives a node its IPv6 address and the other's hardware address, so that nobody asks for it.
func (n *overlayNode) join(t *testing.T, other *overlayNode) {
	t.Helper()
	n.host.do(t, func() {
		addIPv6(t, n.uplink.Name, n.v6.String()+"/64")
		for _, address := range []netip.Addr{other.v4, other.v6} {
			addNeighbour(t, n.uplink.Name, address, net.HardwareAddr(other.uplink.MAC[:]).String())
		}
	})
}

func addNeighbour(tb testing.TB, device string, address netip.Addr, hardware string) {
	tb.Helper()
	run(tb, "ip", "neigh", "replace", address.String(), "lladdr", hardware, "dev", device, "nud", "permanent")
}

func mustOpenOverlay(tb testing.TB, config OverlayConfig) *Overlays {
	tb.Helper()
	liftMemoryLimit(tb)
	overlays, err := OpenOverlay(config)
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, overlays) })
	mustSetPorts(tb, overlays, swarmPorts)
	return overlays
}

func mustSetPorts(tb testing.TB, overlays *Overlays, ports OverlayPorts) {
	tb.Helper()
	if err := overlays.SetPorts(ports); err != nil {
		tb.Fatal(err)
	}
}

func (l *overlayLab) setDevices(tb testing.TB, indexes ...int) {
	tb.Helper()
	if err := l.overlays.SetDevices(indexes); err != nil {
		tb.Fatal(err)
	}
}

// overlayNetwork is a tunnel between the nodes' containers, who have one address each.
type overlayNetwork struct{ here, there netip.Addr }

// addNetwork makes one as the engine does: the device is made on the host and moved to where the containers are, and knows
// who is where from the beginning.
func (l *overlayLab) addNetwork(t *testing.T, vni, mtu int, over6 bool) overlayNetwork {
	t.Helper()
	l.networks++
	network := overlayNetwork{
		here:  netip.AddrFrom4([4]byte{10, 11, byte(l.networks), 1}),
		there: netip.AddrFrom4([4]byte{10, 11, byte(l.networks), 2}),
	}
	l.here.addTunnel(t, l.there, vni, mtu, over6, network.here, network.there)
	l.there.addTunnel(t, l.here, vni, mtu, over6, network.there, network.here)
	return network
}

func (n *overlayNode) addTunnel(t *testing.T, other *overlayNode, vni, mtu int, over6 bool, own, others netip.Addr) {
	t.Helper()
	local, remote := n.v4, other.v4
	if over6 {
		local, remote = n.v6, other.v6
	}
	name, number := fmt.Sprintf("vx%d", vni), strconv.Itoa(vni)
	n.host.do(t, func() {
		run(t, "ip", "link", "add", name, "type", "vxlan", "id", number, "dstport", "4789",
			"local", local.String(), "remote", remote.String(), "udpcsum")
		move(t, name, n.containers)
	})
	n.containers.do(t, func() {
		run(t, "ip", "link", "set", name, "address", hardwareOf(own), "mtu", strconv.Itoa(mtu), "up")
		addAddress(t, name, own.String()+"/24")
		addNeighbour(t, name, others, hardwareOf(others))
		mustListenUDP(t, netip.AddrPortFrom(own, 9).String()) // else what comes is answered by ICMP
	})
}

// hardwareOf is what the engine gives an address.
func hardwareOf(address netip.Addr) string {
	b := address.As4()
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// send sends datagrams from the node's containers.
func (n *overlayNode) send(t *testing.T, from, to netip.Addr, count, size int) {
	t.Helper()
	n.containers.do(t, func() {
		sendUDP(t, mustListenUDP(t, netip.AddrPortFrom(from, 0).String()), netip.AddrPortFrom(to, 9), count, size)
	})
}

// frame is what a datagram of size bytes in a tunnel takes on the wire.
func frame(size int, over6 bool) uint64 {
	outer := ipv4Header
	if over6 {
		outer = ipv6Header
	}
	return uint64(ethernetHeader + outer + udpHeader + vxlanHeader + ethernetHeader + ipv4Header + udpHeader + size)
}

// truth lets nftables count what matches in a namespace, at its hook prerouting or output, and returns what reads it.
func truth(tb testing.TB, n namespace, hook, match string) func() Counts {
	tb.Helper()
	var name string
	n.do(tb, func() {
		run(tb, "nft", "add table inet truth")
		run(tb, "nft", fmt.Sprintf("add chain inet truth %s { type filter hook %s priority -400 ; }", hook, hook))
		name = "c" + strconv.Itoa(strings.Count(run(tb, "nft", "list table inet truth"), "\n"))
		run(tb, "nft", "add counter inet truth "+name)
		run(tb, "nft", fmt.Sprintf("add rule inet truth %s %s counter name %s", hook, match, name))
	})
	return func() (counted Counts) {
		n.do(tb, func() {
			var list struct {
				NFTables []struct {
					Counter *struct{ Packets, Bytes uint64 }
				}
			}
			if err := json.Unmarshal([]byte(run(tb, "nft", "-j", "list counter inet truth "+name)), &list); err != nil {
				tb.Error(err)
			}
			for _, object := range list.NFTables {
				if object.Counter != nil {
					counted = Counts{Skbs: object.Counter.Packets, Bytes: object.Counter.Bytes}
				}
			}
		})
		return counted
	}
}

// compareTraffic leaves out the time, which other tests look at.
func compareTraffic() []gocmp.Option {
	return []gocmp.Option{cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(OverlayTraffic{}, "Last")}
}

// readTraffic reads until what was counted sums up to so many skbs, and fails if it is more. Rows of several readings are
// put together.
func readTraffic(tb testing.TB, overlays *Overlays, skbs uint64) (all []OverlayTraffic) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%d packets are counted", skbs), func() bool {
		for _, traffic := range mustRead(tb, overlays.Read) {
			all = addTraffic(all, traffic)
		}
		return sumTraffic(all).Skbs >= skbs
	})
	if sum := sumTraffic(all); sum.Skbs != skbs {
		tb.Errorf("%d packets are counted, want %d", sum.Skbs, skbs)
	}
	sortTraffic(all)
	return all
}

func sortTraffic(all []OverlayTraffic) {
	slices.SortFunc(all, func(a, b OverlayTraffic) int {
		return cmp.Or(cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.VNI, b.VNI), boolCompare(a.Outgoing, b.Outgoing), a.Peer.Compare(b.Peer))
	})
}

// boolCompare has true first.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func addTraffic(all []OverlayTraffic, more OverlayTraffic) []OverlayTraffic {
	for i := range all {
		same := all[i]
		same.Counts, same.Last = more.Counts, more.Last
		if same == more {
			all[i].Add(more.Counts)
			all[i].Last = more.Last
			return all
		}
	}
	return append(all, more)
}

func sumTraffic(all []OverlayTraffic) (sum Counts) {
	for _, traffic := range all {
		sum.Add(traffic.Counts)
	}
	return sum
}

// outgoing keeps one direction.
func outgoing(all []OverlayTraffic, out bool) []OverlayTraffic {
	return slices.DeleteFunc(slices.Clone(all), func(t OverlayTraffic) bool { return t.Outgoing != out })
}
