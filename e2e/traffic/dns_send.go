// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
)

// dnsShout asks a group, and waits for nobody: multicast DNS, or LLMNR.
type dnsShout struct {
	Name  string         `arg:"" help:"What to ask for."`
	To    netip.AddrPort `required:"" help:"Group and port."`
	Count int            `default:"1"`
}

// Run reports how many questions were sent.
func (c dnsShout) Run() error {
	conn, err := net.Dial("udp", c.To.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	message, err := new(dns.Msg).SetQuestion(dns.Fqdn(c.Name), dns.TypeA).Pack()
	if err != nil {
		return fmt.Errorf("pack question: %w", err)
	}
	r := report{}
	for range c.Count {
		if _, err := conn.Write(message); err != nil {
			return os.NewSyscallError("write", err)
		}
		r.Sent++
	}
	return r.print()
}

// dnsFlood asks at a rate, whatever comes back, from one port.
type dnsFlood struct {
	Name   string         `arg:"" help:"What to ask for. Each question is for a name of its own below it."`
	Server netip.AddrPort `required:"" help:"Whom to ask."`
	Count  uint16         `default:"10000" help:"How many questions. Each has an ID of its own."`
	Rate   int            `default:"10000" help:"How many a second."`
	Linger time.Duration  `default:"2s" help:"How long to wait for more answers when the last question is sent."`
}

// Run reports how many questions were sent, and how many were answered.
func (c dnsFlood) Run() error {
	conn, err := net.Dial("udp", c.Server.String())
	if err != nil {
		return err
	}
	answered := make(chan int)
	go func() { answered <- countAnswers(conn) }()
	begun := time.Now()
	r := report{}
	for id := range c.Count {
		query := new(dns.Msg).SetQuestion(fmt.Sprintf("ok-%d.%s", id, dns.Fqdn(c.Name)), dns.TypeA)
		query.Id = id
		message, err := query.Pack()
		if err != nil {
			return fmt.Errorf("pack question: %w", err)
		}
		if _, err := conn.Write(message); err != nil {
			return os.NewSyscallError("write", err)
		}
		r.Sent++
		time.Sleep(time.Until(begun.Add(time.Duration(r.Sent) * time.Second / time.Duration(c.Rate))))
	}
	r.Seconds = time.Since(begun).Seconds()
	if err := conn.SetReadDeadline(time.Now().Add(c.Linger)); err != nil {
		return err
	}
	r.Answered = <-answered
	return r.print()
}

// countAnswers counts IDs until the connection's deadline.
func countAnswers(conn net.Conn) int {
	seen := map[uint16]bool{}
	answer := make([]byte, 65536)
	for {
		n, err := conn.Read(answer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return len(seen)
		case err == nil && n >= 2:
			seen[binary.BigEndian.Uint16(answer)] = true
		}
	}
}
