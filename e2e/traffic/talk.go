// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// talk is a service among others: it echoes what comes, and asks the others by name. A peer that is away for a moment is
// asked again.
type talk struct {
	Port  uint16        `arg:"" help:"Where all of them listen, with TCP and UDP."`
	To    []string      `help:"Names of the others."`
	Every time.Duration `default:"300ms" help:"How long to wait before the next is asked."`
	Size  int           `default:"2000" help:"Bytes that are sent, and come back."`
}

// Run ends only when its process is killed.
func (c talk) Run() error {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(c.Port))))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go echoStreams(listener)
	go echoDatagrams(packets)
	for {
		for _, name := range c.To {
			address := net.JoinHostPort(name, strconv.Itoa(int(c.Port)))
			for _, network := range []string{"tcp", "udp"} {
				_ = c.ask(network, address)
			}
			time.Sleep(c.Every)
		}
		time.Sleep(c.Every)
	}
}

// ask sends and waits for the echo.
func (c talk) ask(network, address string) error {
	conn, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	size := c.Size
	if network == "udp" {
		size = min(size, 1000)
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, size))
	return err
}

func echoStreams(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func echoDatagrams(packets net.PacketConn) {
	buffer := make([]byte, 65536)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo(buffer[:n], from)
	}
}
