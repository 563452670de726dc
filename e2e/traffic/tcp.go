// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

type tcpConnect struct {
	To      netip.AddrPort `required:"" help:"Where to."`
	Count   int            `default:"1" help:"How many connections, all at once."`
	Timeout time.Duration  `default:"700ms" help:"How long to wait for each; below 1s, so that no SYN is sent twice."`
}

// Run opens the connections and holds all of them until the last attempt is over. Then it resets them, so that neither
// end repeats anything to an end that has gone.
func (c tcpConnect) Run() error {
	r := report{Errors: map[string]int{}}
	var mu sync.Mutex // guards r and open
	var open []net.Conn
	var attempts sync.WaitGroup
	for range c.Count {
		attempts.Go(func() {
			conn, err := net.DialTimeout("tcp", c.To.String(), c.Timeout)
			mu.Lock()
			defer mu.Unlock()
			var timeout net.Error
			switch {
			case err == nil:
				r.Sent++
				open = append(open, conn)
			case errors.As(err, &timeout) && timeout.Timeout():
				r.Errors["ETIMEDOUT"]++
			default:
				r.Errors[errorName(err)]++
			}
		})
	}
	attempts.Wait()
	for _, conn := range open {
		if err := errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close()); err != nil {
			return fmt.Errorf("reset connection: %w", err)
		}
	}
	return r.print()
}

type tcpListen struct {
	Port        uint16 `arg:"" help:"Port on all addresses."`
	IPv4        bool   `name:"ipv4" help:"Only on those of IPv4."`
	NeverAccept bool   `help:"Leave connections in the backlog."`
	Backlog     int    `default:"128" help:"Length of the backlog."`
}

func (c tcpListen) Run() error {
	fd, err := c.socket()
	if err != nil {
		return err
	}
	if err := unix.Listen(fd, c.Backlog); err != nil {
		return fmt.Errorf("listen on port %d: %w", c.Port, err)
	}
	if c.NeverAccept {
		return sleepCommand{For: time.Hour}.Run()
	}
	for {
		conn, _, err := unix.Accept(fd)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go discard(conn)
	}
}

func (c tcpListen) socket() (int, error) {
	if c.IPv4 {
		return boundSocket(netip.AddrPortFrom(netip.IPv4Unspecified(), c.Port), unix.SOCK_STREAM)
	}
	return listenSocket(c.Port, unix.SOCK_STREAM)
}

// discard reads until the other end closes.
func discard(fd int) {
	defer unix.Close(fd)
	buffer := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, buffer)
		if n == 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return
		}
	}
}

type tcpSend struct {
	To  netip.AddrPort `required:"" help:"Where to."`
	For time.Duration  `default:"1s" help:"How long to send."`

	Pause time.Duration `help:"How long to wait after each block of 256 KiB."`
}

func (c tcpSend) Run() error {
	conn, err := net.Dial("tcp", c.To.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	var r report
	block := make([]byte, 256<<10)
	begun := time.Now()
	for end := begun.Add(c.For); time.Now().Before(end); {
		n, err := conn.Write(block)
		r.Bytes += int64(n)
		if err != nil {
			return fmt.Errorf("send stream: %w", err)
		}
		time.Sleep(c.Pause)
	}
	// Wait for the other end's close: then all that was sent has arrived.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return fmt.Errorf("close stream: %w", err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("await close: %w", err)
	}
	r.Seconds = time.Since(begun).Seconds()
	r.Sent = 1
	return r.print()
}
