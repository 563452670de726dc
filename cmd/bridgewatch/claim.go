// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// claimName is an abstract unix socket: it belongs to the network namespace, so that there is one agent in each, and it is
// gone with the process, however that ends.
const claimName = "@bridgewatch"

// claimHost makes sure that no other agent counts here. The claim holds until it is closed.
func claimHost() (io.Closer, error) {
	claim, err := net.Listen("unix", claimName)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("another agent is running on this host, or doctor is looking at it%s; stop it first", holder())
	}
	if err != nil {
		return nil, fmt.Errorf("claim this host: %w", err)
	}
	return claim, nil
}

// holder says who has the claim, if the kernel tells.
func holder() string {
	connection, err := net.Dial("unix", claimName)
	if err != nil {
		return ""
	}
	defer connection.Close()
	raw, err := connection.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ""
	}
	text := ""
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			text = fmt.Sprintf(" (process %d)", peer.Pid)
		}
	})
	return text
}
