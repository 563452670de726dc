// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// mirror answers whatever it is sent with the address that it sees the sender under.
type mirror struct {
	Ports []uint16 `arg:"" help:"Ports on all addresses, TCP and UDP."`
}

// Run ends only when its process is killed.
func (c mirror) Run() error {
	failed := make(chan error)
	for _, port := range c.Ports {
		address := fmt.Sprint(":", port)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		packets, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		go func() { failed <- mirrorStreams(listener) }()
		go func() { failed <- mirrorDatagrams(packets) }()
	}
	return <-failed
}

func mirrorStreams(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			question := make([]byte, 64)
			for {
				if _, err := conn.Read(question); err != nil {
					return
				}
				if _, err := conn.Write(seen(conn.RemoteAddr())); err != nil {
					return
				}
			}
		}()
	}
}

func mirrorDatagrams(packets *net.UDPConn) error {
	raw, err := packets.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil || failed != nil {
		return fmt.Errorf("ask for destinations: %w", errors.Join(err, failed))
	}
	question, arrived := make([]byte, 65536), make([]byte, 256)
	for {
		_, n, _, from, err := packets.ReadMsgUDP(question, arrived)
		if err != nil {
			return err
		}
		// Answer from the address that was asked. If that cannot be, the sender asks again.
		_, _, _ = packets.WriteMsgUDP(seen(from), arrived[:n], from)
	}
}

// seen is the line that says who the other end is, without the disguise that IPv4 has on an IPv6 socket.
func seen(other net.Addr) []byte {
	at := netip.MustParseAddrPort(other.String())
	return fmt.Appendln(nil, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
}
