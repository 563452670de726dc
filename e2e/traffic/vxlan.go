// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// vxlanSend sends what the other end of a tunnel may send, or somebody who takes the port for something else.
type vxlanSend struct {
	To          netip.AddrPort `required:"" help:"Where to."`
	VNI         uint32         `name:"vni" help:"Number of the network."`
	Source      hardwareAddr   `default:"02:00:00:00:00:01" help:"Who sends the frame inside."`
	Destination hardwareAddr   `default:"02:00:00:00:00:02" help:"To whom the frame inside is."`
	Malformed   bool           `help:"Leave the flag out that says that there is a number."`
	Count       int            `default:"1" help:"How many."`
	Interval    time.Duration  `help:"Pause after each."`
}

// Run sends frames without content.
func (c vxlanSend) Run() error {
	fd, err := openSocket(c.To.Addr(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(c.To)); err != nil {
		return fmt.Errorf("connect %s: %w", c.To, err)
	}
	r := report{}
	for range c.Count {
		if err := write(fd, c.datagram()); err != nil {
			return err
		}
		r.Sent++
		time.Sleep(c.Interval)
	}
	return r.print()
}

// datagram is a VXLAN header (RFC 7348, 5) and an Ethernet frame for local experiments (IEEE 802).
func (c vxlanSend) datagram() []byte {
	const header, frame, flagVNI, experimental = 8, 60, 0x08, 0x88b5
	b := make([]byte, header+frame)
	if !c.Malformed {
		b[0] = flagVNI
	}
	binary.BigEndian.PutUint32(b[4:], c.VNI<<8)
	copy(b[header:], c.Destination[:])
	copy(b[header+6:], c.Source[:])
	binary.BigEndian.PutUint16(b[header+12:], experimental)
	return b
}

// hardwareAddr is an Ethernet address.
type hardwareAddr [6]byte

// UnmarshalText reads the usual notation.
func (a *hardwareAddr) UnmarshalText(text []byte) error {
	parsed, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	if len(parsed) != len(a) {
		return fmt.Errorf("not an Ethernet address: %s", text)
	}
	copy(a[:], parsed)
	return nil
}
