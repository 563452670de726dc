// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// exchange opens connections to a mirror, each from a port of its own, and asks on each whom the mirror sees.
type exchange struct {
	To       netip.AddrPort `required:"" help:"Where to."`
	Protocol string         `default:"tcp" enum:"tcp,udp"`
	From     netip.Addr     `help:"Source address, if not the route's."`
	Count    int            `default:"1" help:"How many connections. All stay open until the last was answered."`
	Pace     time.Duration  `help:"Time between opening one connection and the next."`
	Tries    int            `default:"20" help:"How often to ask on a connection that does not answer, each second."`
	Reset    bool           `help:"Reset the connections instead of closing them, so that their ports are free at once. TCP."`
	Repeat   int            `help:"How often to ask again on each connection."`
	Interval time.Duration  `default:"1s" help:"Time between one round of questions and the next."`
}

// exchanged is what both ends of a connection say of who opened it.
type exchanged struct {
	Local netip.AddrPort `json:"local"`
	Seen  netip.AddrPort `json:"seen"`
}

// How a question is asked: a datagram may be lost, and is sent again on the same connection.
const (
	answerTime = time.Second
	tries      = 20
	atOnce     = 32 // connections that wait for an answer
)

// Run reports the connections that were answered.
func (c exchange) Run() error {
	r := report{Errors: map[string]int{}}
	var mu sync.Mutex // guards r and open
	var open []net.Conn
	var attempts sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	begun := time.Now()
	for range c.Count {
		time.Sleep(c.Pace)
		slots <- struct{}{}
		attempts.Go(func() {
			defer func() { <-slots }()
			conn, got, err := c.open()
			mu.Lock()
			defer mu.Unlock()
			if conn != nil {
				open = append(open, conn)
			}
			if err != nil {
				r.Errors[errorName(err)]++
				return
			}
			r.Sent++
			r.Exchanged = append(r.Exchanged, got)
		})
	}
	attempts.Wait()
	r.Seconds = time.Since(begun).Seconds()
	for range c.Repeat {
		time.Sleep(c.Interval)
		for _, conn := range open {
			_, _ = c.ask(conn)
		}
	}
	for _, conn := range open {
		if stream, is := conn.(*net.TCPConn); is && c.Reset {
			if err := stream.SetLinger(0); err != nil {
				return fmt.Errorf("reset connection: %w", err)
			}
		}
		conn.Close()
	}
	return r.print()
}

// open returns a connection and what was asked on it. The connection is there even if nobody answered.
func (c exchange) open() (net.Conn, exchanged, error) {
	dialer := net.Dialer{Timeout: time.Duration(c.Tries) * answerTime}
	if c.From.IsValid() {
		local := netip.AddrPortFrom(c.From, 0)
		dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
		if c.Protocol == "udp" {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	conn, err := dialer.Dial(c.Protocol, c.To.String())
	if err != nil {
		return nil, exchanged{}, err
	}
	local := netip.MustParseAddrPort(conn.LocalAddr().String())
	seen, err := c.ask(conn)
	return conn, exchanged{Local: local, Seen: seen}, err
}

// ask asks the mirror at the other end whom it sees.
func (c exchange) ask(conn net.Conn) (seen netip.AddrPort, err error) {
	for range c.Tries {
		if _, err = conn.Write([]byte("?")); err != nil {
			return seen, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return seen, err
		}
		var line string
		line, err = bufio.NewReader(conn).ReadString('\n')
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue
		}
		if err != nil {
			return seen, err
		}
		return netip.ParseAddrPort(strings.TrimSpace(line))
	}
	return seen, errors.New("no answer")
}
