// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// How the table is asked about connections of local processes.
const (
	askBatch  = 64                     // connections that one system call asks about
	firstWait = 100 * time.Millisecond // before the second time
	lastWait  = 30 * time.Second       // between times, at most
	askLimit  = 1 << 16                // connections that wait for an answer
)

// localAnswers finds out which connections of processes in the host's namespace are answered. Their answers come in by a
// device, or from another namespace, but do not leave by one, so that the program does not see them: the kernel's table is
// asked. Its methods must not be called concurrently.
type localAnswers struct {
	host    Netns
	socket  int // -1: not needed yet
	waiting map[localConnection]*localWait
	refused uint64 // connections that there was no room for
}

// localConnection is what the table knows a connection by.
type localConnection struct {
	protocol uint8
	original Tuple
}

// localWait is a connection that has not been answered when it was last looked at, or has been just then.
type localWait struct {
	event    NATEvent
	answered bool
	next     time.Time
	wait     time.Duration
}

func newLocalAnswers() *localAnswers {
	return &localAnswers{host: OwnNetns(), socket: -1, waiting: make(map[localConnection]*localWait)}
}

// see takes what the program tells.
func (l *localAnswers) see(r *natRecord) {
	connection := localConnection{r.Protocol, r.Original}
	if r.answered {
		delete(l.waiting, connection)
		return
	}
	if !r.Local || r.Netns != l.host || !hasPorts(r.Protocol) {
		return
	}
	if len(l.waiting) >= askLimit {
		l.refused++
		return
	}
	l.waiting[connection] = &localWait{event: r.NATEvent, wait: firstWait}
}

// hasPorts tells which protocols' connections can be to a port.
func hasPorts(protocol uint8) bool {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP:
		return true
	}
	return false
}

// ask looks which have been answered by now. Who has not is asked about again after twice the time, until the kernel has
// forgotten the connection; who has is visited a moment later, unless the program has told by then. It takes some
// microseconds for each.
func (l *localAnswers) ask(now time.Time, visit func(natRecord)) error {
	var batch []localConnection
	for connection, w := range l.waiting {
		if now.Before(w.next) {
			continue
		}
		if w.answered {
			delete(l.waiting, connection)
			visit(natRecord{NATEvent: w.event, answered: true})
			continue
		}
		w.next = now.Add(w.wait)
		w.wait = min(2*w.wait, lastWait)
		if batch = append(batch, connection); len(batch) == askBatch {
			if err := l.askAbout(batch, now); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return l.askAbout(batch, now)
}

func (l *localAnswers) askAbout(batch []localConnection, now time.Time) error {
	if err := l.open(); err != nil {
		return err
	}
	var request []byte
	for i, connection := range batch {
		request = append(request, getRequest(connection, uint32(i))...)
	}
	if err := unix.Sendto(l.socket, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("look up connections: %w", err)
	}
	buffer := make([]byte, dumpBuffer)
	for replies := 0; replies < len(batch); {
		n, _, err := unix.Recvfrom(l.socket, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			l.close() // what is still to come must not answer another question
			return fmt.Errorf("look up connections: %w", err)
		}
		for datagram := buffer[:n]; len(datagram) > 0; replies++ {
			header, body, rest, ok := nextMessage(datagram)
			var sequence uint32
			if ok {
				sequence = binary.NativeEndian.Uint32(datagram[8:])
			}
			if !ok || sequence >= uint32(len(batch)) {
				l.close()
				return errors.New("look up connections: the kernel's answer is not understood")
			}
			datagram = rest
			l.reply(batch[sequence], header.Type, body, now)
		}
	}
	return nil
}

// reply takes what the table says of a connection: an error if it does not have it, or any more.
func (l *localAnswers) reply(connection localConnection, kind uint16, body []byte, now time.Time) {
	w := l.waiting[connection]
	entry, ok := parseConntrack(body)
	if kind != conntrackNew || ok && entry.Reply != w.event.Reply { // gone, and maybe another between the same ends
		delete(l.waiting, connection)
		return
	}
	if ok && entry.replied() {
		w.answered, w.event.At, w.next = true, now, now.Add(firstWait)
	}
}

// getRequest asks for the entry of a connection.
func getRequest(c localConnection, sequence uint32) []byte {
	source, destination := uint16(ctaIPv4Source), uint16(ctaIPv4Destination)
	family := byte(unix.AF_INET)
	if c.original.Source.Addr().Is6() {
		source, destination, family = ctaIPv6Source, ctaIPv6Destination, unix.AF_INET6
	}
	ip := appendAttribute(nil, source, c.original.Source.Addr().AsSlice())
	ip = appendAttribute(ip, destination, c.original.Destination.Addr().AsSlice())
	ports := appendAttribute(nil, ctaProtocolNumber, []byte{c.protocol})
	ports = appendAttribute(ports, ctaProtocolSourcePort, binary.BigEndian.AppendUint16(nil, c.original.Source.Port()))
	ports = appendAttribute(ports, ctaProtocolDestinationPort, binary.BigEndian.AppendUint16(nil, c.original.Destination.Port()))
	tuple := appendAttribute(nil, ctaTupleIP|unix.NLA_F_NESTED, ip)
	tuple = appendAttribute(tuple, ctaTupleProtocol|unix.NLA_F_NESTED, ports)

	request := make([]byte, unix.SizeofNlMsghdr+sizeofNfgenmsg, 128)
	binary.NativeEndian.PutUint16(request[4:], conntrackGet)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(request[8:], sequence)
	request[unix.SizeofNlMsghdr] = family
	request = appendAttribute(request, ctaTupleOriginal|unix.NLA_F_NESTED, tuple)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	return request
}

// appendAttribute adds one with its content to a list of them.
func appendAttribute(list []byte, kind uint16, content []byte) []byte {
	list = binary.NativeEndian.AppendUint16(list, uint16(attributeHeader+len(content)))
	list = binary.NativeEndian.AppendUint16(list, kind)
	list = append(list, content...)
	return append(list, make([]byte, -len(content)&3)...)
}

func (l *localAnswers) open() error {
	if l.socket >= 0 {
		return nil
	}
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("look up connections: %w (%s)", err, needsNetlink)
	}
	// The kernel answers before it returns from the question, unless it has no room or the message is lost.
	err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err != nil {
		return errors.Join(fmt.Errorf("look up connections: %w", err), unix.Close(socket))
	}
	l.socket = socket
	return nil
}

func (l *localAnswers) close() error {
	if l.socket < 0 {
		return nil
	}
	err := unix.Close(l.socket)
	l.socket = -1
	return err
}
