// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

type udpSend struct {
	To          netip.AddrPort `required:"" help:"Where to."`
	From        netip.Addr     `help:"Source address, if not the route's."`
	Count       int            `default:"1" help:"How many datagrams."`
	Size        int            `default:"64" help:"Payload bytes of each datagram."`
	TTL         int            `help:"Time to live, or hop limit."`
	Interval    time.Duration  `help:"Pause after each datagram."`
	BadChecksum bool           `help:"Send a wrong UDP checksum."`
	Whole       bool           `help:"Forbid fragments, whatever the path's MTU is known to be."`
	Linger      time.Duration  `help:"Pause before the report, when all datagrams have left."`
	Stay        bool           `help:"Stay alive after the report."`
	Greet       bool           `help:"First send one byte, and wait until it is answered."`
}

// Run sends until the kernel has taken Count datagrams.
//
// An error that an earlier packet caused (an ICMP message, a failed neighbour) is reported by a later send, which
// then sends nothing: that datagram is tried again. A datagram that a rule in OUTPUT dropped was made and counts as
// taken, although the send says EPERM.
func (c udpSend) Run() error {
	fd, datagram, err := c.open()
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return report{Errors: map[string]int{errorName(err): 1}}.print()
	}
	if err != nil {
		return err
	}
	if c.Greet {
		if err := greet(fd); err != nil {
			return err
		}
	}
	r := report{Errors: map[string]int{}}
	begun := time.Now()
	for tries := 0; r.Sent < c.Count && tries < 4*c.Count; tries++ {
		_, err := unix.Write(fd, datagram)
		if err != nil {
			r.Errors[errorName(err)]++
		}
		switch {
		case err == nil, errors.Is(err, unix.EPERM):
			r.Sent++
		case errors.Is(err, unix.ENOBUFS):
			time.Sleep(time.Millisecond)
		}
		time.Sleep(c.Interval)
	}
	r.Seconds = time.Since(begun).Seconds()
	if c.Linger > 0 {
		if err := awaitEmpty(fd); err != nil {
			return err
		}
		time.Sleep(c.Linger)
	}
	if r.Transmitted, err = transmitted(); err != nil {
		return err
	}
	if err := r.print(); err != nil {
		return err
	}
	if c.Stay {
		return sleepCommand{For: time.Hour}.Run()
	}
	return nil
}

// greet makes the flow one that is answered, for connection tracking.
func greet(fd int) error {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("set time to wait: %w", err)
	}
	var err error
	for range 10 {
		if _, err = unix.Write(fd, []byte{0}); err != nil {
			return fmt.Errorf("greet: %w", err)
		}
		if _, err = unix.Read(fd, []byte{0}); err == nil {
			return nil
		}
	}
	return fmt.Errorf("await answer: %w", err)
}

// awaitEmpty waits until nothing that the socket sent is left in this namespace, such as for want of the neighbour's
// hardware address.
func awaitEmpty(fd int) error {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil {
			return fmt.Errorf("read send queue: %w", err)
		}
		if waiting == 0 {
			return nil
		}
	}
	return errors.New("datagrams did not leave in 5s")
}

// open returns a connected socket and what to write to it.
func (c udpSend) open() (int, []byte, error) {
	kind, protocol := unix.SOCK_DGRAM, 0
	datagram := make([]byte, c.Size)
	if c.BadChecksum {
		kind, protocol = unix.SOCK_RAW, unix.IPPROTO_UDP
		datagram = wrongDatagram(c.To.Port(), c.Size)
	}
	fd, err := openSocket(c.To.Addr(), kind, protocol)
	if err != nil {
		return -1, nil, err
	}
	if err := setHopLimit(fd, c.To.Addr(), c.TTL); err != nil {
		return -1, nil, fmt.Errorf("set time to live: %w", err)
	}
	if err := setFragments(fd, c.To.Addr(), !c.Whole); err != nil {
		return -1, nil, fmt.Errorf("allow fragments: %w", err)
	}
	if c.From.IsValid() {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(c.From, 0))); err != nil {
			return -1, nil, fmt.Errorf("bind %s: %w", c.From, err)
		}
	}
	to := c.To
	if c.BadChecksum {
		to = netip.AddrPortFrom(to.Addr(), 0) // a raw socket has no port
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return -1, nil, fmt.Errorf("connect %s: %w", c.To, err)
	}
	return fd, datagram, nil
}

// wrongDatagram returns a UDP header and payload with a checksum that fits no pair of addresses that the lab uses.
func wrongDatagram(port uint16, size int) []byte {
	b := make([]byte, 8+size)
	binary.BigEndian.PutUint16(b[0:], 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], 0xdead)
	return b
}

type udpListen struct {
	Port          uint16 `arg:"" help:"Port on all addresses."`
	NeverRead     bool   `help:"Leave datagrams in the queue."`
	ReceiveBuffer int    `help:"Size of the receive queue in bytes."`
	Answer        bool   `help:"Answer datagrams of one byte."`
}

func (c udpListen) Run() error {
	fd, err := listenSocket(c.Port, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	if c.ReceiveBuffer > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, c.ReceiveBuffer); err != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, c.ReceiveBuffer); err != nil {
				return fmt.Errorf("set receive buffer: %w", err)
			}
		}
	}
	if c.NeverRead {
		return sleepCommand{For: time.Hour}.Run()
	}
	buffer := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("read", err)
		}
		if c.Answer && n == 1 {
			_ = unix.Sendto(fd, buffer[:n], 0, from) // the sender asks again
		}
	}
}

// errorName returns the symbol of a system call's error, such as ECONNREFUSED.
func errorName(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
