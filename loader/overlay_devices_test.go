// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the nodes on a link on top of the uplink.
var topHere, topThere = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")

// gossip sends datagrams of 100 bytes of payload between two addresses, from the calling thread's namespace.
func gossip(t *testing.T, from, to netip.Addr, count int) {
	t.Helper()
	socket := mustListenUDP(t, netip.AddrPortFrom(from, 0).String())
	sendUDP(t, socket, netip.AddrPortFrom(to, DefaultGossipPort), count, 100)
}

// listenGossip lets datagrams arrive, so that nothing answers them.
func listenGossip(t *testing.T, at netip.Addr) {
	t.Helper()
	mustListenUDP(t, netip.AddrPortFrom(at, DefaultGossipPort).String())
}

// A packet passes the link that it is routed to, or for, and those below it. It counts at the former.
func TestOverlayCountsOnceOnStackedLinks(t *testing.T) {
	const out, in, size = 10, 11, ethernetHeader + ipv4Header + udpHeader + 100
	for _, tc := range []struct {
		name       string
		here       string // what makes the link "top", of the uplink "outside"
		there      string // likewise, of "inside"; "": there is none
		lower      bool   // the uplink is watched too
		ported     bool   // it is a port of the link on top
		tagInBytes bool
	}{
		{name: "vlan", here: "link outside type vlan id 7", there: "link inside type vlan id 7", lower: true},
		{
			name: "vlan whose tag is in the bytes", here: "link outside type vlan id 7 reorder_hdr off",
			there: "link inside type vlan id 7", lower: true, tagInBytes: true,
		},
		{name: "macvlan", here: "link outside type macvlan mode bridge", lower: true},
		{name: "ipvlan", here: "link outside type ipvlan mode l2", lower: true},
		{name: "bond", here: "type bond mode active-backup miimon 10", ported: true},
		{name: "bridge", here: "type bridge", ported: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newOverlayLab(t)
			for _, node := range []*overlayNode{lab.here, lab.there} {
				node.host.do(t, func() { run(t, "ethtool", "-K", node.uplink.Name, "txvlan", "off", "rxvlan", "off") })
			}
			if out, err := exec.Command("ip", append([]string{"link", "add", "name", "top"}, strings.Fields(tc.here)...)...).CombinedOutput(); err != nil {
				if strings.Contains(string(out), "Unknown device type") || strings.Contains(string(out), "not supported") {
					return // not in this kernel; it is in those that make test-kernels runs
				}
				t.Fatalf("add link: %v: %s", err, out)
			}
			if tc.ported {
				run(t, "ip", "link", "set", "outside", "down")
				run(t, "ip", "link", "set", "outside", "master", "top")
				run(t, "ip", "link", "set", "outside", "up")
			}
			run(t, "ip", "link", "set", "top", "up")
			addAddress(t, "top", topHere.String()+"/24")
			device := "inside"
			lab.there.host.do(t, func() {
				if tc.there != "" {
					device = "top"
					run(t, "ip", append([]string{"link", "add", "name", "top"}, strings.Fields(tc.there)...)...)
					run(t, "ip", "link", "set", "top", "up")
				}
				addAddress(t, device, topThere.String()+"/24")
				listenGossip(t, topThere)
			})
			top := mustLink(t, "top").Attrs()
			addNeighbour(t, "top", topThere, net.HardwareAddr(lab.there.uplink.MAC[:]).String())
			lab.there.host.do(t, func() { addNeighbour(t, device, topHere, top.HardwareAddr.String()) })
			listenGossip(t, topHere)
			eventually(t, "the link on top carries", func() bool {
				s := mustLink(t, "top").Attrs()
				return s.OperState == netlink.OperUp || s.OperState == netlink.OperUnknown
			})
			watched := []int{top.Index}
			if tc.lower {
				watched = append(watched, lab.here.uplink.Index)
			}
			lab.setDevices(t, watched...)
			gossip(t, topHere, topThere, out)
			lab.there.host.do(t, func() { gossip(t, topThere, topHere, in) })
			row := func(outgoing bool, count, size uint64) OverlayTraffic {
				return OverlayTraffic{
					Channel: ChannelGossipUDP, Outgoing: outgoing, Local: topHere, Peer: topThere,
					Counts: Counts{Skbs: count, Packets: count, Bytes: count * size},
				}
			}
			length := uint64(size)
			if tc.tagInBytes {
				length += 4
			}
			want := []OverlayTraffic{row(true, out, length), row(false, in, length)}
			if diff := gocmp.Diff(want, readTraffic(t, lab.overlays, out+in), compareTraffic()...); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A tunnel that the nodes' own traffic takes, such as WireGuard's, has no Ethernet header.
func TestOverlayByTunnel(t *testing.T) {
	const count, size = 10, ipv4Header + udpHeader + 100
	lab := newOverlayLab(t)
	tunnel := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "tunnel"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1,
		Flags: netlink.TUNTAP_DEFAULTS | netlink.TUNTAP_NO_PI,
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		run(t, "modprobe", "tun")
	}
	addLink(t, tunnel)
	defer mustClose(t, tunnel.Fds[0])
	setUp(t, "tunnel")
	addAddress(t, "tunnel", topHere.String()+"/24")
	listenGossip(t, topHere)
	lab.setDevices(t, lab.here.uplink.Index, mustLink(t, "tunnel").Attrs().Index)
	gossip(t, topHere, topThere, count)
	extended := overlayPacket{over6: true, protocol: 60, rest: slices.Concat(extension(17), udpWith(40000, 4789, inTunnel(7)...))}
	incoming := [][]byte{
		(&overlayPacket{protocol: 17, rest: udpWith(7946, 40000, 1)}).packet(t, topThere, topHere),
		extended.packet(t, world6, lab.here.v6),
	}
	for _, packet := range incoming {
		if _, err := tunnel.Fds[0].Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	row := func(channel Channel, outgoing bool, local, peer netip.Addr, vni uint32, count, size int) OverlayTraffic {
		return OverlayTraffic{
			Channel: channel, Outgoing: outgoing, Local: local, Peer: peer, VNI: vni,
			Counts: Counts{Skbs: uint64(count), Packets: uint64(count), Bytes: uint64(count * size)},
		}
	}
	want := []OverlayTraffic{
		row(ChannelGossipUDP, true, topHere, topThere, 0, count, size),
		row(ChannelGossipUDP, false, topHere, topThere, 0, 1, len(incoming[0])),
		row(ChannelVXLAN, false, lab.here.v6, world6, 7, 1, len(incoming[1])),
	}
	if diff := gocmp.Diff(want, readTraffic(t, lab.overlays, count+2), compareTraffic()...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Links come and go: those of the last call are watched, those that are not there do not matter.
func TestOverlayFollowsDevices(t *testing.T) {
	const ghost = 4711
	lab := newOverlayLab(t)
	late := newNamespace(t)
	addUplink := func() int {
		addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "late"}, PeerName: "far"})
		move(t, "far", late)
		addAddress(t, "late", topHere.String()+"/24")
		setUp(t, "late")
		link := mustLink(t, "late").Attrs()
		var far string
		late.do(t, func() {
			addAddress(t, "far", topThere.String()+"/24")
			setUp(t, "far")
			addNeighbour(t, "far", topHere, link.HardwareAddr.String())
			far = mustLink(t, "far").Attrs().HardwareAddr.String()
		})
		addNeighbour(t, "late", topThere, far)
		return link.Index
	}
	exchange := func(out, in int) {
		t.Helper()
		before := mustLink(t, "late").Attrs().Statistics
		gossip(t, topHere, topThere, out)
		late.do(t, func() { gossip(t, topThere, topHere, in) })
		eventually(t, "all has passed", func() bool {
			after := mustLink(t, "late").Attrs().Statistics
			return after.TxPackets-before.TxPackets >= uint64(out) && after.RxPackets-before.RxPackets >= uint64(in)
		})
	}
	listenGossip(t, netip.IPv4Unspecified())
	late.do(t, func() { listenGossip(t, netip.IPv4Unspecified()) })
	index := addUplink()
	exchange(10, 20)
	lab.setDevices(t, lab.here.uplink.Index, index, ghost)
	if before := lossesAt(t, lab.overlays.Losses, "before_attach"); before != 30 {
		t.Errorf("before_attach = %d, want 30", before)
	}
	exchange(11, 21)
	readTraffic(t, lab.overlays, 32)

	lab.setDevices(t, lab.here.uplink.Index)
	exchange(12, 22)
	readTraffic(t, lab.overlays, 0)

	lab.setDevices(t, lab.here.uplink.Index, index)
	if before := lossesAt(t, lab.overlays.Losses, "before_attach"); before != 30 {
		t.Errorf("before_attach = %d, want 30: it was watched before", before)
	}
	exchange(13, 23)
	deleteLink(t, "late")
	lab.setDevices(t, lab.here.uplink.Index, index)
	lab.setDevices(t, lab.here.uplink.Index)
	readTraffic(t, lab.overlays, 36)

	again := addUplink()
	lab.setDevices(t, lab.here.uplink.Index, again)
	exchange(14, 24)
	readTraffic(t, lab.overlays, 38)
	if diff := gocmp.Diff(map[string]int{"uplink": 2}, lab.overlays.Devices()); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

// An agent that was killed leaves its filters where there is no tcx. The next one takes their place, and none disturbs the
// other signals on the same link.
func TestOverlayAfterKill(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			lab := newOverlayLab(t)
			clsact := clsact || !haveTCX(t)
			lab.setDevices(t)
			lab.overlays.clsact = clsact
			lab.setDevices(t, lab.here.uplink.Index)
			flows, egress := mustOpenFlows(t, 0), mustOpenEgress(t, EgressConfig{})
			flows.clsact, egress.clsact = clsact, clsact
			mustWatchOutside(t, flows, lab.here.uplink, false)
			if err := egress.SetSubnets([]netip.Prefix{netip.PrefixFrom(lab.here.v4, 32)}); err != nil {
				t.Fatal(err)
			}
			if err := egress.SetDevices([]int{lab.here.uplink.Index}); err != nil {
				t.Fatal(err)
			}
			if !clsact {
				lab.setDevices(t) // what the kernel does with the links of a process that ends
			}
			lab.overlays = mustOpenOverlay(t, OverlayConfig{})
			lab.overlays.clsact = clsact
			lab.setDevices(t, lab.here.uplink.Index)
			lab.there.host.do(t, func() { listenGossip(t, world4) })
			listenGossip(t, lab.here.v4)
			gossip(t, lab.here.v4, world4, 10)
			lab.there.host.do(t, func() { gossip(t, world4, lab.here.v4, 11) })
			readTraffic(t, lab.overlays, 21)
			rx, tx := carried(of(mustRead(t, flows.Read), DeviceID(lab.here.uplink.Index)))
			if rx.Skbs < 10 || tx.Skbs < 11 {
				t.Errorf("the flow signal counted %d and %d packets, want at least 10 and 11", rx.Skbs, tx.Skbs)
			}
			if sum, _ := sumEgress(mustRead(t, egress.Read)); sum.Skbs != 10 {
				t.Errorf("the egress signal counted %d packets, want 10", sum.Skbs)
			}
			if !clsact {
				return
			}
			if got := filters(t, "outside"); len(got) != 5 {
				t.Errorf("filters %q, want the flow signal's two, the egress signal's and two", got)
			}
			if cleaned := mustRead(t, DetachLeftovers); !slices.Equal(cleaned, []string{"outside"}) || hasClsact(t, "outside") {
				t.Errorf("cleaned %q, clsact left: %t", cleaned, hasClsact(t, "outside"))
			}
		})
	}
}

// Where one direction cannot be attached to, neither is, and the next call tries both again.
func TestOverlayAttachesBothOrNone(t *testing.T) {
	lab := newOverlayLab(t)
	lab.setDevices(t)
	egress := lab.overlays.objects.Egress
	lab.overlays.objects.Egress = loadEmpty(t).EmptyKfreeSkb // of a type that cannot be attached
	if err := lab.overlays.SetDevices([]int{lab.here.uplink.Index}); err == nil {
		t.Error("no error")
	}
	if n := lab.overlays.Devices()["uplink"]; n != 0 {
		t.Errorf("%d links are watched", n)
	}
	lab.there.host.do(t, func() {
		sendFrames(t, "inside", framesTo(lab.here.uplink.MAC[:], (&overlayPacket{protocol: 50, rest: make([]byte, 8)}).packet(t, world4, lab.here.v4))...)
	})
	readTraffic(t, lab.overlays, 0)
	lab.overlays.objects.Egress = egress
	lab.setDevices(t, lab.here.uplink.Index)
	send := rawSocket(t)
	send(packet4(lab.here.v4, unix.IPPROTO_ESP, 0, make([]byte, 8)...))
	readTraffic(t, lab.overlays, 1)
}

// What links have carried before the node joins a Swarm is nothing that should have been counted.
func TestOverlayBeginsLate(t *testing.T) {
	enterFreshNetns(t)
	overlays := mustOpenOverlay(t, OverlayConfig{})
	host := newNamespace(t)
	uplink := vethPair(t, host)
	sendFrames(t, uplink.Name, overlayFrames(t, "10.11.0.2", "10.11.0.3", 20)...)
	if err := overlays.SetDevices([]int{uplink.Index}); err != nil {
		t.Fatal(err)
	}
	if before := lossesAt(t, overlays.Losses, "before_attach"); before != 0 {
		t.Errorf("before_attach = %d, want 0", before)
	}
}
