// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How events are received. One has about 250 bytes, and takes 1,280 of the socket's buffer.
const (
	eventBatch         = 64      // by one system call
	eventSize          = 2 << 10 // at most
	defaultEventBuffer = 8 << 20 // bytes; the kernel doubles it
	memoryInfoSize     = 9       // SK_MEMINFO_VARS in include/uapi/linux/sock_diag.h
	memoryInfoDrops    = 8       // SK_MEMINFO_DROPS
	sizeofNetnsID      = 4       // of what NETLINK_LISTEN_ALL_NSID adds to a message
	noFilter           = -1      // instead of a program's descriptor
)

// conntrackEvents receives the kernel's news of new connections, of the namespace that it was opened in and of all others
// that this one has a number for. Its methods must not be called concurrently.
type conntrackEvents struct {
	socket   int
	batch    *eventBuffers
	entry    conntrackEntry // the one that visit is given
	dropped  uint64         // by the kernel, up to the last look
	counter  uint32         // the kernel's, at the last look
	unparsed uint64
	missed   uint64 // dropped and unparsed, when read last told of them
}

// eventBuffers is what one system call receives into. Nothing in it moves while the call runs: it is on the heap.
type eventBuffers struct {
	headers [eventBatch]mmsghdr
	vectors [eventBatch]unix.Iovec
	senders [eventBatch]unix.RawSockaddrNetlink
	control [eventBatch][64]byte
	data    [eventBatch][eventSize]byte
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	unix.Msghdr
	length uint32
	_      [4]byte
}

// openConntrackEvents subscribes to the new connections. buffer is in bytes, filter is the descriptor of a program that
// chooses events, or noFilter. Needs CAP_NET_ADMIN, and CAP_NET_BROADCAST in the user namespaces of the other network
// namespaces. Subscribing has the kernel load nf_conntrack_netlink, and what that needs, if they are modules.
func openConntrackEvents(buffer, filter int) (*conntrackEvents, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("subscribe to conntrack events: %w (%s)", err, needsNetlink)
	}
	e := &conntrackEvents{socket: socket, batch: new(eventBuffers)}
	if err := e.subscribe(buffer, filter); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to conntrack events: %w", err), e.close())
	}
	return e, nil
}

func (e *conntrackEvents) subscribe(buffer, filter int) error {
	if err := unix.SetsockoptInt(e.socket, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fmt.Errorf("listen to all namespaces: %w (needs CAP_NET_BROADCAST)", err)
	}
	// Beyond net.core.rmem_max this needs CAP_NET_ADMIN. A smaller buffer works too: what it has no room for is counted.
	if err := unix.SetsockoptInt(e.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		if err := unix.SetsockoptInt(e.socket, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return fmt.Errorf("set receive buffer: %w", err)
		}
	}
	if filter != noFilter {
		if err := e.choose(filter); err != nil {
			return err
		}
	}
	// A socket without a number passes for the kernel's own, which gets none of its events.
	if err := unix.Bind(e.socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind socket: %w", err)
	}
	if err := unix.SetsockoptInt(e.socket, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_CONNTRACK_NEW); err != nil {
		return fmt.Errorf("join group of new connections: %w (needs CAP_NET_ADMIN)", err)
	}
	return nil
}

// choose has a program choose from the events that come from now on.
func (e *conntrackEvents) choose(filter int) error {
	if err := unix.SetsockoptInt(e.socket, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter); err != nil {
		return fmt.Errorf("attach filter to conntrack events: %w", err)
	}
	return nil
}

// read calls visit for the events that have come, up to limit or a batch more, and says whether some of them had got lost. What
// visit is given is only valid until it returns.
func (e *conntrackEvents) read(limit int, visit func(*conntrackEntry)) (reading, error) {
	result := reading{more: true}
	for taken := 0; taken < limit; {
		n, err := e.receive()
		if errors.Is(err, unix.EAGAIN) {
			result.more = false
			break
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // the kernel counts what had no room, but not what it had no memory for
			result.missed = true
			continue
		case err != nil:
			return result, fmt.Errorf("receive conntrack events: %w", err)
		}
		for i := range n {
			e.visit(i, visit)
		}
		taken += n
	}
	if err := e.countDropped(); err != nil {
		return result, err
	}
	if missed := e.dropped + e.unparsed; missed != e.missed {
		e.missed, result.missed = missed, true
	}
	return result, nil
}

// receive waits for nothing, and fills at most the batch.
func (e *conntrackEvents) receive() (int, error) {
	b := e.batch
	for i := range b.headers {
		b.vectors[i].Base = &b.data[i][0]
		b.vectors[i].SetLen(eventSize)
		h := &b.headers[i]
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.senders[i])), uint32(unsafe.Sizeof(b.senders[i]))
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		h.Control = &b.control[i][0]
		h.SetControllen(len(b.control[i]))
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(e.socket),
		uintptr(unsafe.Pointer(&b.headers)), eventBatch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// visit reads one of the batch. Only the kernel is believed.
func (e *conntrackEvents) visit(i int, visit func(*conntrackEntry)) {
	h := &e.batch.headers[i]
	if e.batch.senders[i].Pid != 0 {
		return
	}
	if h.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		e.unparsed++
		return
	}
	netnsID := parseNetnsID(e.batch.control[i][:h.Controllen])
	for datagram := e.batch.data[i][:h.length]; len(datagram) > 0; {
		header, body, rest, ok := nextMessage(datagram)
		if !ok {
			e.unparsed++
			return
		}
		datagram = rest
		if header.Type != conntrackNew {
			continue
		}
		if e.entry, ok = parseConntrack(body); !ok {
			e.unparsed++
			continue
		}
		e.entry.NetnsID = netnsID
		visit(&e.entry)
	}
}

// parseNetnsID returns the number of the namespace that an event is from; -1: of the socket's own.
func parseNetnsID(control []byte) int {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if header.Level == unix.SOL_NETLINK && header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(data) >= sizeofNetnsID {
			return int(int32(binary.NativeEndian.Uint32(data)))
		}
		control = rest
	}
	return -1
}

// losses says how many events that the filter let pass found no room in the socket's buffer, and how many could not be read.
func (e *conntrackEvents) losses() ([]Loss, error) {
	if err := e.countDropped(); err != nil {
		return nil, err
	}
	return []Loss{{Place: "netlink_overrun", Count: e.dropped}, {Place: "unparsed", Count: e.unparsed}}, nil
}

// countDropped asks the kernel how many events had no room, before its counter of 32 bits has come around.
func (e *conntrackEvents) countDropped() error {
	var info [memoryInfoSize]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(e.socket), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return fmt.Errorf("read losses of conntrack events: %w", errno)
	}
	e.dropped += uint64(info[memoryInfoDrops] - e.counter)
	e.counter = info[memoryInfoDrops]
	return nil
}

func (e *conntrackEvents) close() error { return unix.Close(e.socket) }
