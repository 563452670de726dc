// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

// relay listens on the lab host until the test ends, and passes connections on to an address in another network namespace. It
// returns where it listens.
func relay(tb testing.TB, namespace, to string) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go pass(client, namespace, to)
		}
	}()
	return listener.Addr().String()
}

// pass ends the client's connection when the server ends its own, or there is none.
func pass(client net.Conn, namespace, to string) {
	defer client.Close()
	var server net.Conn
	err := inNamespace(namespace, func() (err error) {
		server, err = net.Dial("tcp", to)
		return err
	})
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

// freeAddress returns a loopback address of a network namespace that nothing listens on.
func freeAddress(tb testing.TB, namespace string) string {
	tb.Helper()
	var listener net.Listener
	err := inNamespace(namespace, func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// inNamespace calls f on a thread that is in a network namespace; "" is the lab host's. Sockets that f opens stay there.
func inNamespace(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // until the end of this goroutine, which ends the thread
		ended <- func() error {
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return fmt.Errorf("open namespace %s: %w", path, err)
			}
			defer ns.Close()
			if err := netns.Set(ns); err != nil {
				return fmt.Errorf("enter namespace %s: %w", path, err)
			}
			return f()
		}()
	}()
	return <-ended
}
