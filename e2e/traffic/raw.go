// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// rawSocket returns a socket on which packets are sent without the kernel's headers but the network's.
func rawSocket(to netip.Addr, protocol int) (int, error) {
	fd, err := openSocket(to, unix.SOCK_RAW, protocol)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", to, err)
	}
	return fd, nil
}

// write has the kernel take a packet. An error that an earlier packet caused is reported by a later write, which then
// writes nothing.
func write(fd int, packet []byte) error {
	for range tries {
		_, err := unix.Write(fd, packet)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			time.Sleep(time.Millisecond)
		}
	}
	return errors.New("the kernel takes no packet")
}

type ping struct {
	To    netip.Addr `required:"" help:"Where to."`
	Count int        `default:"1" help:"How many echo requests, each with an identifier of its own."`
}

// Run sends the requests and reports how many were answered.
func (c ping) Run() error {
	protocol, request, reply, header := unix.IPPROTO_ICMP, byte(8), byte(0), 20
	if c.To.Is6() {
		protocol, request, reply, header = unix.IPPROTO_ICMPV6, byte(128), byte(129), 0
	}
	fd, err := rawSocket(c.To, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return fmt.Errorf("set time to wait: %w", err)
	}
	r := report{Errors: map[string]int{}}
	answer := make([]byte, 1500)
	for id := range c.Count {
		packet := make([]byte, 16)
		packet[0] = request
		binary.BigEndian.PutUint16(packet[4:], uint16(id+1))
		binary.BigEndian.PutUint16(packet[2:], internetChecksum(packet)) // of ICMPv6 the kernel makes it
		if err := write(fd, packet); err != nil {
			return err
		}
		for {
			n, err := unix.Read(fd, answer)
			if err != nil {
				r.Errors[errorName(err)]++
				break
			}
			if n >= header+8 && answer[header] == reply && binary.BigEndian.Uint16(answer[header+4:]) == uint16(id+1) {
				r.Sent++
				break
			}
		}
	}
	return r.print()
}

// internetChecksum is that of RFC 1071.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

type sctpInit struct {
	To    netip.AddrPort `required:"" help:"Where to."`
	Count int            `default:"1" help:"How many associations to ask for, each from a port of its own."`
}

// Run asks for associations as a kernel with SCTP does (RFC 9260, 3.3.2). What is answered is left to nobody.
func (c sctpInit) Run() error {
	fd, err := rawSocket(c.To.Addr(), unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const firstPort, initChunk, chunkLength = 20000, 1, 20
	r := report{}
	for i := range c.Count {
		packet := make([]byte, 12+chunkLength)
		binary.BigEndian.PutUint16(packet[0:], uint16(firstPort+i))
		binary.BigEndian.PutUint16(packet[2:], c.To.Port())
		packet[12] = initChunk
		binary.BigEndian.PutUint16(packet[14:], chunkLength)
		binary.BigEndian.PutUint32(packet[16:], uint32(i+1)) // initiate tag
		binary.BigEndian.PutUint32(packet[20:], 65536)       // window
		binary.BigEndian.PutUint16(packet[24:], 1)           // outbound streams
		binary.BigEndian.PutUint16(packet[26:], 1)           // inbound streams
		binary.LittleEndian.PutUint32(packet[8:], crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli)))
		if err := write(fd, packet); err != nil {
			return err
		}
		r.Sent++
	}
	return r.print()
}

// udpSpread sends datagrams whose ports are all different from each other, without a socket for each.
type udpSpread struct {
	To           netip.AddrPort `required:"" help:"Where to, and the first port."`
	Destinations int            `default:"1" help:"How many ports to send to."`
	From         uint16         `default:"1024" help:"The first port to send from."`
	Sources      int            `default:"1" help:"How many ports to send from, to each of those."`
	Rounds       int            `default:"1" help:"How often to send all of it."`
	Interval     time.Duration  `default:"1s" help:"Time between one round and the next."`
}

func (c udpSpread) Run() error {
	fd, err := rawSocket(c.To.Addr(), unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if c.To.Addr().Is6() { // which IPv4 allows to leave out
		const checksumAt = 6
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, checksumAt); err != nil {
			return fmt.Errorf("have the checksum made: %w", err)
		}
	}
	r := report{}
	datagram := make([]byte, 8+8)
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	for round := range c.Rounds {
		if round > 0 {
			time.Sleep(c.Interval)
		}
		for source := range c.Sources {
			binary.BigEndian.PutUint16(datagram[0:], c.From+uint16(source))
			for destination := range c.Destinations {
				binary.BigEndian.PutUint16(datagram[2:], c.To.Port()+uint16(destination))
				if err := write(fd, datagram); err != nil {
					return err
				}
				r.Sent++
			}
		}
	}
	return r.print()
}
