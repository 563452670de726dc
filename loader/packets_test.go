// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// headers is what a parser says of a packet.
type headers struct {
	EtherType       uint16
	Protocol        uint8
	Source          netip.Addr
	Destination     netip.Addr
	SourcePort      uint16
	DestinationPort uint16
	TCPFlags        uint8
	VXLAN           bool
	VNI             uint32
	Fragment        bool
	Unparsed        bool
}

// sample is a packet and what is to be found in it.
type sample struct {
	name  string
	frame []byte
	want  headers
}

var (
	mac1, mac2 = net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	v4a, v4b   = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	v6a, v6b   = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:ffff::2")
)

const (
	tcpFlagsSynAck     = 0x12
	protocolAH         = 51
	protocolUDPLite    = 136
	etherTypeLLDP      = 0x88cc
	etherTypeTag       = 0x8100
	shortEthernetFrame = 0x0600 // below it the EtherType's place holds a length
)

func ethernet(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: mac1, DstMAC: mac2, EthernetType: t}
}

func tag(t layers.EthernetType) *layers.Dot1Q { return &layers.Dot1Q{VLANIdentifier: 7, Type: t} }

func ipv4(protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: v4a.AsSlice(), DstIP: v4b.AsSlice()}
}

func ipv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: v6a.AsSlice(), DstIP: v6b.AsSlice()}
}

func tcp() *layers.TCP { return &layers.TCP{SrcPort: 40000, DstPort: 443, SYN: true, ACK: true} }

func udp(destination uint16) *layers.UDP {
	return &layers.UDP{SrcPort: 40000, DstPort: layers.UDPPort(destination)}
}

func vxlan() *layers.VXLAN { return &layers.VXLAN{ValidIDFlag: true, VNI: 4097} }

// extension is an IPv6 extension header of the common form, of 8 bytes.
func extension(next layers.IPProtocol) gopacket.Payload {
	return gopacket.Payload{byte(next), 0, 1, 4, 0, 0, 0, 0}
}

// fragment is an IPv6 fragment header; offset counts units of 8 bytes.
func fragment(next layers.IPProtocol, offset uint16) gopacket.Payload {
	b := gopacket.Payload{byte(next), 0, 0, 0, 0, 0, 0, 9}
	binary.BigEndian.PutUint16(b[2:], offset<<3|1)
	return b
}

// authentication is an IPsec header of 24 bytes.
func authentication(next layers.IPProtocol) gopacket.Payload {
	return append(gopacket.Payload{byte(next), 4}, make([]byte, 22)...)
}

func arp() *layers.ARP {
	return &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: mac1, SourceProtAddress: v4a.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: v4b.AsSlice(),
	}
}

func ports(source, destination uint16) gopacket.Payload {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), destination)
}

func serialize(tb testing.TB, parts ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, parts...); err != nil {
		tb.Fatal(err)
	}
	return buffer.Bytes()
}

// inIPv4 and inIPv6 are what is expected of packets between the two addresses.
func inIPv4(protocol layers.IPProtocol) headers {
	return headers{EtherType: uint16(layers.EthernetTypeIPv4), Protocol: uint8(protocol), Source: v4a, Destination: v4b}
}

func inIPv6(protocol layers.IPProtocol) headers {
	return headers{EtherType: uint16(layers.EthernetTypeIPv6), Protocol: uint8(protocol), Source: v6a, Destination: v6b}
}

func (h headers) ports(source, destination uint16) headers {
	h.SourcePort, h.DestinationPort = source, destination
	return h
}

func (h headers) tcp() headers {
	h = h.ports(40000, 443)
	h.TCPFlags = tcpFlagsSynAck
	return h
}

func (h headers) fragment() headers {
	h.Fragment = true
	return h
}

func (h headers) unparsed() headers {
	h.Unparsed = true
	return h
}

func (h headers) vxlan(vni uint32) headers {
	h = h.ports(0, 4789)
	h.VXLAN, h.VNI = true, vni
	return h
}

// samples are packets of every kind that the parsers know, and of some that they do not.
func samples(tb testing.TB) []sample {
	tb.Helper()
	const (
		ip, ip6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
		tagged  = layers.EthernetTypeDot1Q
		double  = layers.EthernetTypeQinQ
	)
	payload := gopacket.Payload("some forty bytes of nothing of importance")
	with := func(change func(*layers.IPv4)) *layers.IPv4 {
		l := ipv4(layers.IPProtocolUDP)
		change(l)
		return l
	}
	inner := []gopacket.SerializableLayer{ethernet(ip), ipv4(layers.IPProtocolTCP), tcp()}
	pile := []gopacket.SerializableLayer{ethernet(ip6), ipv6(layers.IPProtocolIPv6HopByHop)}
	for range 8 {
		pile = append(pile, extension(layers.IPProtocolIPv6Destination))
	}
	pile = append(pile, extension(layers.IPProtocolUDP), udp(53), payload)

	options := ipv4(layers.IPProtocolTCP)
	options.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	udp4, udp6 := inIPv4(layers.IPProtocolUDP), inIPv6(layers.IPProtocolUDP)

	var all []sample
	add := func(name string, want headers, parts ...gopacket.SerializableLayer) {
		all = append(all, sample{name, serialize(tb, parts...), want})
	}
	add("ipv4 tcp", inIPv4(layers.IPProtocolTCP).tcp(), ethernet(ip), ipv4(layers.IPProtocolTCP), tcp(), payload)
	add("ipv4 udp", udp4.ports(40000, 53), ethernet(ip), ipv4(layers.IPProtocolUDP), udp(53), payload)
	add("ipv4 udp, nothing behind the ports", udp4.ports(1, 2), ethernet(ip), ipv4(layers.IPProtocolUDP), ports(1, 2))
	add("ipv4 udplite", inIPv4(protocolUDPLite).ports(7, 8), ethernet(ip), ipv4(protocolUDPLite), ports(7, 8), payload)
	add("ipv4 sctp", inIPv4(layers.IPProtocolSCTP).ports(5000, 6000), ethernet(ip), ipv4(layers.IPProtocolSCTP),
		&layers.SCTP{SrcPort: 5000, DstPort: 6000}, payload)
	add("ipv4 icmp", inIPv4(layers.IPProtocolICMPv4).ports(3, 4), ethernet(ip), ipv4(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}, payload)
	add("ipv4 gre", inIPv4(layers.IPProtocolGRE), ethernet(ip), ipv4(layers.IPProtocolGRE), payload)
	add("ipv4 with options", inIPv4(layers.IPProtocolTCP).tcp(), ethernet(ip), options, tcp(), payload)
	add("ipv4 first fragment", udp4.ports(40000, 53), ethernet(ip),
		with(func(l *layers.IPv4) { l.Flags = layers.IPv4MoreFragments }), udp(53), payload)
	for _, offset := range []uint16{1, 0x100, 0x1000} {
		add(fmt.Sprintf("ipv4 later fragment %#x", offset), udp4.fragment(), ethernet(ip),
			with(func(l *layers.IPv4) { l.FragOffset = offset }), payload)
		add(fmt.Sprintf("ipv6 later fragment %#x", offset), udp6.fragment(), ethernet(ip6), ipv6(layers.IPProtocolIPv6Fragment),
			fragment(layers.IPProtocolUDP, offset), payload)
	}
	add("ipv6 tcp", inIPv6(layers.IPProtocolTCP).tcp(), ethernet(ip6), ipv6(layers.IPProtocolTCP), tcp(), payload)
	add("ipv6 udp", udp6.ports(40000, 53), ethernet(ip6), ipv6(layers.IPProtocolUDP), udp(53), payload)
	add("ipv6 sctp", inIPv6(layers.IPProtocolSCTP).ports(5000, 6000), ethernet(ip6), ipv6(layers.IPProtocolSCTP),
		&layers.SCTP{SrcPort: 5000, DstPort: 6000}, payload)
	add("ipv6 icmp", inIPv6(layers.IPProtocolICMPv6).ports(135, 0), ethernet(ip6), ipv6(layers.IPProtocolICMPv6),
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, 0)}, payload)
	add("ipv6 no next header", inIPv6(layers.IPProtocolNoNextHeader), ethernet(ip6), ipv6(layers.IPProtocolNoNextHeader))
	add("ipv6 every extension", inIPv6(layers.IPProtocolTCP).tcp(), ethernet(ip6), ipv6(layers.IPProtocolIPv6HopByHop),
		extension(layers.IPProtocolIPv6Routing), extension(layers.IPProtocolIPv6Destination),
		extension(protocolAH), authentication(layers.IPProtocolIPv6Fragment),
		fragment(layers.IPProtocolTCP, 0), tcp(), payload)
	add("ipv6 first fragment", udp6.ports(40000, 53), ethernet(ip6), ipv6(layers.IPProtocolIPv6Fragment),
		fragment(layers.IPProtocolUDP, 0), udp(53), payload)
	add("ipv6 too many extensions", inIPv6(layers.IPProtocolIPv6Destination).unparsed(), pile...)
	add("arp", headers{EtherType: uint16(layers.EthernetTypeARP), Source: v4a, Destination: v4b},
		ethernet(layers.EthernetTypeARP), arp())
	foreign := arp()
	foreign.Protocol = layers.EthernetTypeIPv6
	add("arp of no ipv4", headers{EtherType: uint16(layers.EthernetTypeARP)}.unparsed(),
		ethernet(layers.EthernetTypeARP), foreign)
	add("lldp", headers{EtherType: etherTypeLLDP}, ethernet(etherTypeLLDP), payload)
	add("tagged ipv4 tcp", inIPv4(layers.IPProtocolTCP).tcp(),
		ethernet(tagged), tag(ip), ipv4(layers.IPProtocolTCP), tcp(), payload)
	add("tagged arp", headers{EtherType: uint16(layers.EthernetTypeARP), Source: v4a, Destination: v4b},
		ethernet(tagged), tag(layers.EthernetTypeARP), arp())
	add("doubly tagged ipv6 udp", udp6.ports(40000, 53),
		ethernet(double), tag(tagged), tag(ip6), ipv6(layers.IPProtocolUDP), udp(53), payload)
	add("three tags", headers{EtherType: etherTypeTag}, ethernet(double), tag(tagged), tag(tagged), tag(ip),
		ipv4(layers.IPProtocolUDP), udp(53), payload)
	add("vxlan over ipv4", udp4.vxlan(4097),
		append([]gopacket.SerializableLayer{ethernet(ip), ipv4(layers.IPProtocolUDP), udp(4789), vxlan()}, inner...)...)
	add("vxlan over ipv6", udp6.vxlan(4097),
		append([]gopacket.SerializableLayer{ethernet(ip6), ipv6(layers.IPProtocolUDP), udp(4789), vxlan()}, inner...)...)
	add("vxlan port without vni", udp4.ports(40000, 4789),
		ethernet(ip), ipv4(layers.IPProtocolUDP), udp(4789), gopacket.Payload(make([]byte, 16)))
	add("ipv4 that says it is version 5", headers{EtherType: uint16(ip)}.unparsed(),
		ethernet(ip), with(func(l *layers.IPv4) { l.Version = 5 }), udp(53), payload)
	add("ipv6 that says it is version 4", headers{EtherType: uint16(ip6)}.unparsed(),
		ethernet(ip6), ipv4(layers.IPProtocolUDP), udp(53), payload)
	return all
}

// testable tells whether every kernel lets BPF_PROG_TEST_RUN have a frame: newer ones refuse those whose first network
// header is cut short. TestShortFrames sends such.
func testable(frame []byte) bool {
	if len(frame) < 14 {
		return false
	}
	switch layers.EthernetType(binary.BigEndian.Uint16(frame[12:])) {
	case layers.EthernetTypeIPv4:
		return len(frame) >= 14+20
	case layers.EthernetTypeIPv6:
		return len(frame) >= 14+40
	}
	return true
}

// brokenFrames are samples cut off at every length and with bytes changed, and noise. They are the same in every run.
func brokenFrames(tb testing.TB) []sample {
	tb.Helper()
	random := rand.New(rand.NewPCG(20, 26))
	var broken []sample
	add := func(name string, frame []byte) {
		if testable(frame) {
			broken = append(broken, sample{name: name, frame: frame})
		}
	}
	for _, s := range samples(tb) {
		for length := 14; length < len(s.frame); length++ {
			add(fmt.Sprintf("%s cut to %d", s.name, length), s.frame[:length])
		}
		for i := range 40 {
			frame := append([]byte(nil), s.frame...)
			for range 1 + random.IntN(4) {
				frame[12+random.IntN(len(frame)-12)] = byte(random.Uint32())
			}
			add(fmt.Sprintf("%s changed %d", s.name, i), frame)
		}
	}
	types := []uint16{0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8}
	for i := range 2000 {
		frame := make([]byte, 14+random.IntN(120))
		for j := range frame {
			frame[j] = byte(random.Uint32())
		}
		if i%4 != 0 {
			binary.BigEndian.PutUint16(frame[12:], types[random.IntN(len(types))])
		}
		add(fmt.Sprintf("noise %d", i), frame)
	}
	return broken
}
