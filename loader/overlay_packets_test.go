// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// overlayPacket is what follows an IP header, and what it is to the overlay signal.
type overlayPacket struct {
	name      string
	over6     bool
	protocol  layers.IPProtocol
	rest      []byte
	change    func(*layers.IPv4)
	start     byte    // what the packet begins with instead of its version; the kernel does not send such a thing
	channel   Channel // "": none, and it does not count
	vni       uint32
	malformed bool
	unparsed  bool // it counts as such
}

// udpWith and tcpWith are their headers with somebody's ports.
func udpWith(source, destination uint16, payload ...byte) []byte {
	return slices.Concat(ports(source, destination), []byte{0, byte(8 + len(payload)), 0, 0}, payload)
}

func tcpWith(source, destination uint16) []byte {
	return append(ports(source, destination), make([]byte, 16)...)
}

// inTunnel is a VXLAN header with nothing of interest behind it.
func inTunnel(vni uint32) []byte {
	header := []byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
	return append(header, make([]byte, 42)...)
}

func overlayPackets() []overlayPacket {
	const udp, tcp, esp = layers.IPProtocolUDP, layers.IPProtocolTCP, layers.IPProtocolESP
	var all []overlayPacket
	add := func(p overlayPacket) { all = append(all, p) }
	both := func(name string, protocol layers.IPProtocol, rest []byte, channel Channel) {
		add(overlayPacket{name: name, protocol: protocol, rest: rest, channel: channel})
		add(overlayPacket{name: name, over6: true, protocol: protocol, rest: rest, channel: channel})
	}
	tunnel := func(name string, rest []byte, vni uint32, malformed bool) {
		p := overlayPacket{name: name, protocol: udp, rest: rest, channel: ChannelVXLAN, vni: vni, malformed: malformed}
		add(p)
		p.over6 = true
		add(p)
	}
	tunnel("vxlan", udpWith(40000, 4789, inTunnel(4097)...), 4097, false)
	tunnel("vxlan of the last network", udpWith(40000, 4789, inTunnel(1<<24-1)...), 1<<24-1, false)
	tunnel("vxlan of network 0", udpWith(40000, 4789, inTunnel(0)...), 0, false)
	tunnel("vxlan with all flags", udpWith(40000, 4789, append([]byte{0xff, 0xff, 0xff, 0xff}, inTunnel(7)[4:]...)...), 7, false)
	tunnel("vxlan from the gossip's port", udpWith(7946, 4789, inTunnel(7)...), 7, false)
	tunnel("vxlan without payload", udpWith(40000, 4789, inTunnel(7)[:8]...), 7, false)
	tunnel("no vni", udpWith(40000, 4789, append([]byte{0xf7, 0xff, 0xff, 0xff}, inTunnel(7)[4:]...)...), 0, true)
	tunnel("header cut short", udpWith(40000, 4789, inTunnel(7)[:7]...), 0, true)
	tunnel("no header", udpWith(40000, 4789), 0, true)
	tunnel("udp header cut short", udpWith(40000, 4789)[:6], 0, true)
	tunnel("nothing behind the ports", udpWith(40000, 4789)[:4], 0, true)
	tunnel("a header that is only padding", append(udpWith(40000, 4789, 8, 0, 0, 0), 0, 0, 9, 0, 0, 0, 0, 0), 0, true)

	both("from the data port", udp, udpWith(4789, 40000, inTunnel(7)...), "")
	both("to the data port by tcp", tcp, tcpWith(40000, 4789), "")
	both("gossip by udp", udp, udpWith(7946, 7946, 1, 2, 3), ChannelGossipUDP)
	both("gossip by udp to", udp, udpWith(40000, 7946, 1, 2, 3), ChannelGossipUDP)
	both("gossip by udp from", udp, udpWith(7946, 40000, 1, 2, 3), ChannelGossipUDP)
	both("gossip by tcp to", tcp, tcpWith(40000, 7946), ChannelGossipTCP)
	both("gossip by tcp from", tcp, tcpWith(7946, 40000), ChannelGossipTCP)
	both("manager to", tcp, tcpWith(40000, 2377), ChannelManager)
	both("manager from", tcp, tcpWith(2377, 40000), ChannelManager)
	both("manager's port by udp", udp, udpWith(2377, 2377, 1), "")
	both("dns", udp, udpWith(40000, 53, 1), "")
	both("https", tcp, tcpWith(40000, 443), "")
	both("port 0", tcp, tcpWith(0, 0), "")
	both("udp port 0", udp, udpWith(0, 0), "")
	both("esp", esp, make([]byte, 40), ChannelESP)
	both("gre", layers.IPProtocolGRE, make([]byte, 40), "")
	both("ah without anything", protocolAH, authentication(layers.IPProtocolNoNextHeader), "")

	options := func(l *layers.IPv4) {
		l.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	}
	offset := func(units uint16) func(*layers.IPv4) { return func(l *layers.IPv4) { l.FragOffset = units } }
	first := func(l *layers.IPv4) { l.Flags = layers.IPv4MoreFragments }
	add(overlayPacket{
		name: "vxlan behind options", protocol: udp, rest: udpWith(40000, 4789, inTunnel(7)...), change: options,
		channel: ChannelVXLAN, vni: 7,
	})
	add(overlayPacket{name: "manager behind options", protocol: tcp, rest: tcpWith(2377, 9), change: options, channel: ChannelManager})
	add(overlayPacket{name: "esp behind options", protocol: esp, rest: make([]byte, 40), change: options, channel: ChannelESP})
	add(overlayPacket{
		name: "first fragment", protocol: udp, rest: udpWith(40000, 4789, inTunnel(7)[:16]...), change: first,
		channel: ChannelVXLAN, vni: 7,
	})
	for _, units := range []uint16{1, 0x100, 0x1000} {
		add(overlayPacket{name: "later fragment", protocol: udp, rest: udpWith(40000, 4789, inTunnel(7)...), change: offset(units)})
		add(overlayPacket{name: "later fragment of esp", protocol: esp, rest: make([]byte, 40), change: offset(units)})
		add(overlayPacket{
			name: "later fragment", over6: true, protocol: layers.IPProtocolIPv6Fragment,
			rest: slices.Concat(fragment(udp, units), udpWith(40000, 4789, inTunnel(7)...)),
		})
	}
	both("nothing behind the addresses", layers.IPProtocolNoNextHeader, nil, "")
	add(overlayPacket{name: "last fragment of two bytes", protocol: udp, rest: []byte{1, 2}, change: offset(9)})
	add(overlayPacket{name: "no ports", protocol: udp, rest: []byte{1, 2}, unparsed: true})
	add(overlayPacket{name: "no ports behind options", protocol: udp, rest: []byte{1, 2}, change: options, unparsed: true})
	add(overlayPacket{name: "no ports", over6: true, protocol: udp, rest: []byte{1, 2}, unparsed: true})
	add(overlayPacket{name: "no extension", over6: true, protocol: layers.IPProtocolIPv6HopByHop, rest: []byte{1, 2}, unparsed: true})
	add(overlayPacket{
		name: "no ports behind an extension", over6: true, protocol: layers.IPProtocolIPv6Destination,
		rest: slices.Concat(extension(udp), []byte{1, 2}), unparsed: true,
	})
	broken := func(name string, start byte, over6 bool, rest []byte) {
		add(overlayPacket{name: name, start: start, over6: over6, protocol: udp, rest: rest, unparsed: true})
	}
	broken("header longer than the packet", 0x4f, false, udpWith(1, 2))
	broken("header shorter than it can be", 0x44, false, udpWith(40000, 4789, inTunnel(7)...))
	broken("of another version", 0x55, false, udpWith(40000, 4789, inTunnel(7)...))
	broken("of another version", 0x70, true, udpWith(40000, 4789, inTunnel(7)...))

	const hop, destination = layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Destination
	add(overlayPacket{
		name: "every extension", over6: true, protocol: destination, channel: ChannelVXLAN, vni: 7,
		rest: slices.Concat(extension(protocolAH), authentication(layers.IPProtocolIPv6Fragment), fragment(udp, 0), udpWith(40000, 4789, inTunnel(7)...)),
	})
	add(overlayPacket{
		name: "gossip behind an extension", over6: true, protocol: hop, channel: ChannelGossipTCP,
		rest: slices.Concat(extension(tcp), tcpWith(9, 7946)),
	})
	add(overlayPacket{
		name: "esp behind an extension", over6: true, protocol: destination, channel: ChannelESP,
		rest: slices.Concat(extension(esp), make([]byte, 40)),
	})
	add(overlayPacket{
		name: "others behind an extension", over6: true, protocol: destination, rest: slices.Concat(extension(udp), udpWith(40000, 53, 1)),
	})
	pile := []byte{}
	for range 8 {
		pile = append(pile, extension(destination)...)
	}
	add(overlayPacket{
		name: "too many extensions", over6: true, protocol: destination, unparsed: true,
		rest: slices.Concat(pile, extension(udp), udpWith(40000, 4789, inTunnel(7)...)),
	})
	add(overlayPacket{
		name: "extension cut short", over6: true, protocol: destination, rest: append(extension(udp)[:6:6], 0, 0)[:6], unparsed: true,
	})
	return all
}

// packet puts an IP header before it.
func (p *overlayPacket) packet(tb testing.TB, from, to netip.Addr) []byte {
	tb.Helper()
	v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: p.protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p.protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	header := gopacket.SerializableLayer(v4)
	if p.over6 {
		header = v6
	} else if p.change != nil {
		p.change(v4)
	}
	packet := serialize(tb, header, gopacket.Payload(p.rest))
	if p.start != 0 {
		packet[0] = p.start
	}
	return packet
}

// rawSockets send packets of both families as they are given, by the calling thread's namespace's routes.
func rawSockets(tb testing.TB) (send func(packet []byte, to netip.Addr)) {
	tb.Helper()
	open := func(family int) int {
		socket, err := unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = unix.Close(socket) })
		return socket
	}
	v4, v6 := open(unix.AF_INET), open(unix.AF_INET6)
	return func(packet []byte, to netip.Addr) {
		tb.Helper()
		var err error
		if to.Is4() {
			err = unix.Sendto(v4, packet, 0, &unix.SockaddrInet4{Addr: to.As4()})
		} else {
			err = unix.Sendto(v6, packet, 0, &unix.SockaddrInet6{Addr: to.As16()})
		}
		if err != nil {
			tb.Fatalf("send %x: %v", packet, err)
		}
	}
}

// framesTo makes frames of packets, to the hardware address of a device.
func framesTo(hardware net.HardwareAddr, packets ...[]byte) (frames [][]byte) {
	for _, packet := range packets {
		etherType := []byte{0x08, 0x00}
		if packet[0]>>4 == 6 {
			etherType = []byte{0x86, 0xdd}
		}
		frames = append(frames, slices.Concat(hardware, mac1, etherType, packet))
	}
	return frames
}

// Each packet is told for what it is, whichever way it goes, and what is none of ours does not count. Behind each comes
// one of ESP, which does.
func TestOverlayTellsPackets(t *testing.T) {
	lab := newOverlayLab(t)
	for _, node := range []*overlayNode{lab.here, lab.there} {
		node.host.do(t, func() { // nobody answers
			run(t, "nft", "add table inet silence")
			run(t, "nft", "add chain inet silence quiet { type filter hook prerouting priority 0 ; policy drop ; }")
		})
	}
	send := rawSockets(t)
	last := overlayPacket{protocol: layers.IPProtocolESP, rest: make([]byte, 8)}
	for _, p := range overlayPackets() {
		local, peer, family := lab.here.v4, lab.there.v4, " over ipv4"
		if p.over6 {
			local, peer, family = lab.here.v6, lab.there.v6, " over ipv6"
		}
		if p.start == 0 {
			t.Run(p.name+family+" out", func(t *testing.T) {
				packet := p.packet(t, local, peer)
				p.want(t, lab, true, packet, func() {
					send(packet, peer)
					send(last.packet(t, lab.here.v4, lab.there.v4), lab.there.v4)
				})
			})
		}
		t.Run(p.name+family+" in", func(t *testing.T) {
			packet := p.packet(t, peer, local)
			frames := framesTo(lab.here.uplink.MAC[:], packet, last.packet(t, lab.there.v4, lab.here.v4))
			if p.over6 {
				copy(frames[0][12:], []byte{0x86, 0xdd})
			}
			p.want(t, lab, false, packet, func() {
				lab.there.host.do(t, func() { sendFrames(t, "inside", frames...) })
			})
		})
	}
}

// want sends the packet and the last one, and compares what is counted.
func (p *overlayPacket) want(t *testing.T, lab *overlayLab, outgoing bool, packet []byte, send func()) {
	t.Helper()
	before := lossesAt(t, lab.overlays.Losses, "unparsed")
	send()
	var want []OverlayTraffic
	add := func(row OverlayTraffic, size int) {
		row.Outgoing, row.Counts = outgoing, Counts{Skbs: 1, Packets: 1, Bytes: uint64(ethernetHeader + size)}
		want = addTraffic(want, row)
	}
	add(OverlayTraffic{Channel: ChannelESP, Local: lab.here.v4, Peer: lab.there.v4}, ipv4Header+8)
	if p.channel != "" {
		row := OverlayTraffic{Channel: p.channel, VNI: p.vni, Malformed: p.malformed, Local: lab.here.v4, Peer: lab.there.v4}
		if p.over6 {
			row.Local, row.Peer = lab.here.v6, lab.there.v6
		}
		add(row, len(packet))
	}
	sortTraffic(want)
	if diff := gocmp.Diff(want, readTraffic(t, lab.overlays, sumTraffic(want).Skbs), compareTraffic()...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if unparsed := lossesAt(t, lab.overlays.Losses, "unparsed") - before; (unparsed == 1) != p.unparsed || unparsed > 1 {
		t.Errorf("unparsed = %d, want one: %t", unparsed, p.unparsed)
	}
}

// Headers need not be in the memory of the sk_buff itself: of frames larger than a page a packet socket leaves nothing
// there but the link's header, as some cards do.
func TestOverlayReadsWholePacket(t *testing.T) {
	const size = 6000
	lab := newOverlayLab(t)
	run(t, "ip", "link", "set", "outside", "mtu", "9000")
	var packets [][]byte
	var want []OverlayTraffic
	for _, over6 := range []bool{false, true} {
		for _, extended := range []bool{false, true} {
			p := overlayPacket{over6: over6, protocol: layers.IPProtocolUDP, rest: udpWith(40000, 4789, inTunnel(7)...)}
			p.rest[4] = size >> 8 // of the datagram's length
			if extended && over6 {
				p.protocol, p.rest = layers.IPProtocolIPv6Destination, slices.Concat(extension(p.protocol), p.rest)
			} else if extended {
				p.change = func(l *layers.IPv4) {
					l.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
				}
			}
			p.rest = append(p.rest, make([]byte, size)...)
			from, to := lab.there.v4, lab.here.v4
			if over6 {
				from, to = lab.there.v6, lab.here.v6
			}
			packet := p.packet(t, from, to)
			packets = append(packets, packet)
			want = addTraffic(want, OverlayTraffic{
				Channel: ChannelVXLAN, VNI: 7, Local: to, Peer: from,
				Counts: Counts{Skbs: 1, Packets: 1, Bytes: uint64(ethernetHeader + len(packet))},
			})
		}
	}
	lab.there.host.do(t, func() {
		run(t, "ip", "link", "set", "inside", "mtu", "9000")
		sendFrames(t, "inside", framesTo(lab.here.uplink.MAC[:], packets...)...)
	})
	got := outgoing(readTraffic(t, lab.overlays, 4), false)
	sortTraffic(want)
	if diff := gocmp.Diff(want, got, compareTraffic()...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The length that a datagram says of itself does not hold for what the kernel has put together from many.
func TestOverlayReadsVNIOfLongFrames(t *testing.T) {
	overlays := mustOpenOverlay(t, OverlayConfig{})
	datagram := udpWith(40000, 4789, inTunnel(7)...)
	datagram[5] = 12
	packet := (&overlayPacket{protocol: layers.IPProtocolUDP, rest: datagram}).packet(t, v4a, v4b)
	frame := framesTo(make([]byte, 6), packet)[0]
	if _, err := overlays.objects.Ingress.Run(&ebpf.RunOptions{Data: frame, Context: segmentedContext()}); err != nil {
		t.Fatal(err)
	}
	want := []OverlayTraffic{{
		Channel: ChannelVXLAN, VNI: 7, Local: v4b, Peer: v4a, Counts: Counts{Skbs: 1, Packets: 44, Bytes: uint64(len(frame))},
	}}
	if diff := gocmp.Diff(want, mustRead(t, overlays.Read), compareTraffic()...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a link hears that is for others, or for a VLAN, has not reached this node. A tag without a number is a priority.
func TestOverlayCountsOwnPacketsOnly(t *testing.T) {
	lab := newOverlayLab(t)
	run(t, "ip", "link", "set", "outside", "promisc", "on")
	esp := overlayPacket{protocol: layers.IPProtocolESP, rest: make([]byte, 40)}
	packet := esp.packet(t, lab.there.v4, lab.here.v4)
	mine := net.HardwareAddr(lab.here.uplink.MAC[:])
	tagged := func(id uint16) []byte {
		return slices.Concat(mine, mac1, []byte{0x81, 0x00, 0xe0 | byte(id>>8), byte(id), 0x08, 0x00}, packet)
	}
	frames := slices.Concat(
		framesTo(mac2, packet), // to somebody else
		framesTo(net.HardwareAddr{255, 255, 255, 255, 255, 255}, packet), // to all
		framesTo(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, packet),
		[][]byte{tagged(7), tagged(0xfff), tagged(0)},
		framesTo(mine, packet),
	)
	lab.there.host.do(t, func() { sendFrames(t, "inside", frames...) })
	want := []OverlayTraffic{{
		Channel: ChannelESP, Local: lab.here.v4, Peer: lab.there.v4,
		Counts: Counts{Skbs: 2, Packets: 2, Bytes: 2 * uint64(ethernetHeader+len(packet))},
	}}
	got := outgoing(readTraffic(t, lab.overlays, 2), false)
	if diff := gocmp.Diff(want, got, compareTraffic()...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if arrived := mustLink(t, "outside").Attrs().Statistics.RxPackets; arrived < uint64(len(frames)) {
		t.Errorf("%d frames arrived, want %d: this proves nothing", arrived, len(frames))
	}
}

// Whatever it is, it goes on to the next program.
func TestOverlayPassesBrokenFramesOn(t *testing.T) {
	overlays := mustOpenOverlay(t, OverlayConfig{})
	for _, s := range slices.Concat(samples(t), brokenFrames(t)) {
		copy(s.frame, make([]byte, 6)) // to the loopback, whose packets these are
		mustPassOn(t, overlays.objects.Ingress, s.frame)
		mustPassOn(t, overlays.objects.Egress, s.frame)
	}
	if out := outgoing(mustRead(t, overlays.Read), true); len(out) != 0 {
		t.Errorf("counted as sent what no route leads anywhere: %+v", out)
	}
}
