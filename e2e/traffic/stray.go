// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// tcpStray sends segments of a connection that are far beyond what its other end expects: connection tracking takes them for
// invalid. Finding out where the connection is needs CAP_NET_ADMIN.
type tcpStray struct {
	To    netip.AddrPort `required:"" help:"Where to."`
	Count int            `default:"1" help:"How many segments."`
}

// beyondWindow is more than any window has (RFC 7323, 2.3).
const beyondWindow = 1 << 30

func (c tcpStray) Run() error {
	conn, err := net.Dial("tcp", c.To.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	next, err := nextSequence(conn.(*net.TCPConn))
	if err != nil {
		return fmt.Errorf("ask where the connection is: %w", err)
	}
	raw, err := rawSocket(c.To.Addr(), unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(raw)
	segment := newSegment(netip.MustParseAddrPort(conn.LocalAddr().String()), c.To, next+beyondWindow, flagACK|flagPSH, "stray.")
	r := report{}
	for range c.Count {
		if err := write(raw, segment); err != nil {
			return err
		}
		r.Sent++
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		return fmt.Errorf("reset connection: %w", err)
	}
	return r.print()
}

// tcpReset resets connections that there are not, as programs do with those that everybody else has forgotten.
type tcpReset struct {
	To       netip.AddrPort `required:"" help:"Where to."`
	Count    int            `default:"1" help:"How many resets."`
	Interval time.Duration  `help:"Pause after each."`
}

func (c tcpReset) Run() error {
	raw, err := rawSocket(c.To.Addr(), unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(raw)
	own, err := localAddr(raw)
	if err != nil {
		return err
	}
	const someonesPort = 40000
	segment := newSegment(netip.AddrPortFrom(own, someonesPort), c.To, 1, flagACK|flagRST, "")
	r := report{}
	for range c.Count {
		if err := write(raw, segment); err != nil {
			return err
		}
		r.Sent++
		time.Sleep(c.Interval)
	}
	return r.print()
}

// localAddr is the address that a connected socket sends from.
func localAddr(fd int) (netip.Addr, error) {
	own, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask for own address: %w", err)
	}
	switch own := own.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(own.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(own.Addr), nil
	}
	return netip.Addr{}, errors.New("a socket of no known family")
}

// nextSequence is the sequence number that the connection's next segment will have (TCP_REPAIR in tcp(7)).
func nextSequence(conn *net.TCPConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var next int
	var failed error
	err = raw.Control(func(descriptor uintptr) {
		fd := int(descriptor)
		const on, offSilently, sendQueue = 1, -1, 2 // TCP_REPAIR_ON, TCP_REPAIR_OFF_NO_WP, TCP_SEND_QUEUE
		if failed = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, on); failed != nil {
			return
		}
		choose := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, sendQueue)
		value, read := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		next = value
		failed = errors.Join(choose, read, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, offSilently))
	})
	return uint32(next), errors.Join(err, failed)
}

// Flags of a segment (RFC 9293, 3.1).
const (
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
)

// newSegment is a segment with its checksum. It acknowledges nothing that was sent.
func newSegment(from, to netip.AddrPort, sequence uint32, flags byte, data string) []byte {
	const header = 20
	b := append(make([]byte, header), data...)
	binary.BigEndian.PutUint16(b[0:], from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint32(b[4:], sequence)
	binary.BigEndian.PutUint32(b[8:], 1) // acknowledges
	b[12] = header / 4 << 4
	b[13] = flags
	binary.BigEndian.PutUint16(b[14:], 1024) // window
	binary.BigEndian.PutUint16(b[16:], internetChecksum(append(pseudoHeader(from.Addr(), to.Addr(), len(b)), b...)))
	return b
}

// pseudoHeader is what TCP's checksum covers beside the segment, in the longer form of IPv6 (RFC 8200, 8.1). The sum over
// that of IPv4 is the same.
func pseudoHeader(from, to netip.Addr, length int) []byte {
	b := append(from.AsSlice(), to.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return binary.BigEndian.AppendUint32(b, unix.IPPROTO_TCP)
}
