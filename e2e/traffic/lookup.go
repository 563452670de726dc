// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net"
	"strings"
	"time"
)

type lookup struct {
	Name   string `arg:"" help:"Whose address to look up."`
	Server string `default:"127.0.0.11:53" help:"Whom to ask."`
	Count  int    `default:"1" help:"How often, each time from a port of its own."`
}

// Run reports how many lookups were answered with an address.
func (c lookup) Run() error {
	r := report{Errors: map[string]int{}}
	var open []net.Conn // until the end, so that no port comes twice
	for id := range c.Count {
		conn, err := net.Dial("udp", c.Server)
		if err != nil {
			return err
		}
		open = append(open, conn)
		answer, err := c.ask(conn, uint16(id))
		switch {
		case err != nil:
			r.Errors[errorName(err)]++
		case binary.BigEndian.Uint16(answer[6:]) == 0:
			r.Errors["no address"]++
		default:
			r.Sent++
		}
	}
	for _, conn := range open {
		conn.Close()
	}
	return r.print()
}

// ask asks for the IPv4 addresses of the name (RFC 1035, 4.1).
func (c lookup) ask(conn net.Conn, id uint16) ([]byte, error) {
	query := binary.BigEndian.AppendUint16(nil, id)
	query = append(query, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	for label := range strings.SplitSeq(c.Name, ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 1, 0, 1) // A, IN
	answer := make([]byte, 512)
	var err error
	for range tries {
		if _, err = conn.Write(query); err != nil {
			return nil, err
		}
		if err = conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return nil, err
		}
		if _, err = conn.Read(answer); err == nil {
			return answer, nil
		}
	}
	return nil, err
}
