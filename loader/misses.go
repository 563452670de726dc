// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How misses are received. A message has about 80 bytes, and takes 768 of the socket's buffer.
const (
	missBuffer  = 4 << 20 // bytes of it; the kernel doubles it
	missMessage = 4096    // bytes of a message at most
	missBatch   = 256     // messages taken in without a pause: with it, 25,000 in a second
	missPause   = 10 * time.Millisecond
	missRetry   = time.Second // after an error
	maxMisses   = 4096        // different ones kept between two reads
	sizeofNdmsg = 12
	ndmIfindex  = 4 // where in struct ndmsg it is
)

// Misses counts what VXLAN devices tell when they do not know where to: a frame for a MAC address without a row in the device's
// table (l2miss), which is dropped, and a question for an address without a neighbour (l3miss), which is not answered. The
// engine makes its devices so that they tell, and has not listened since 2018. It hears those of its own network namespace and of
// all that this one has a number for, as it has of those that a device went to from here. It keeps no namespace alive. All methods
// may be called concurrently.
type Misses struct {
	socket *os.File

	mu       sync.Mutex
	counts   map[Miss]uint64 // by a Miss without a count
	full     uint64
	unparsed uint64
	overruns uint64
	drops    uint32 // the kernel's counter of overruns when it was last read
	err      error  // of the last attempt to receive
}

// OpenMisses subscribes to the misses. Needs CAP_NET_BROADCAST for other namespaces than its own.
func OpenMisses() (*Misses, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to misses of vxlan devices: %w (%s)", err, needsNetlink)
	}
	m := &Misses{socket: os.NewFile(uintptr(socket), "misses"), counts: make(map[Miss]uint64)}
	if err := subscribeToMisses(socket); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to misses of vxlan devices: %w", err), m.Close())
	}
	return m, nil
}

func subscribeToMisses(socket int) error {
	// A socket without an address of its own is passed over.
	if err := unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fmt.Errorf("listen to all namespaces: %w (needs CAP_NET_BROADCAST)", err)
	}
	// Each message that finds no room is counted, so that there is nothing to be told of it.
	if err := unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1); err != nil {
		return fmt.Errorf("go on after an overrun: %w", err)
	}
	// Beyond net.core.rmem_max this needs CAP_NET_ADMIN. A smaller buffer works too.
	_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, missBuffer)
	filter := missFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_NEIGH); err != nil {
		return fmt.Errorf("join group: %w", err)
	}
	return nil
}

// missFilter lets only the message pass by which the kernel asks who knows, and none of the news of neighbours, which are many.
// It loads big endian what is in the machine's order.
func missFilter() []unix.SockFilter {
	kind := make([]byte, 2)
	binary.NativeEndian.PutUint16(kind, unix.RTM_GETNEIGH)
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: netlinkTypeOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(kind))},
		{Code: unix.BPF_RET | unix.BPF_K, K: missMessage},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Run takes in the misses until ctx ends, and closes the subscription then. After an error, which Err tells, it goes on.
func (m *Misses) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = m.Close() })
	defer stop()
	connection, err := m.socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive misses: %w", err)
	}
	data, control := make([]byte, missMessage), make([]byte, 256)
	for {
		pause := missPause
		err := connection.Read(func(socket uintptr) bool {
			taken, err := m.receive(int(socket), data, control)
			if m.note(err); err != nil {
				pause = missRetry
			}
			return taken > 0 || err != nil
		})
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("receive misses: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// receive takes in what has come, up to a batch of messages.
func (m *Misses) receive(socket int, data, control []byte) (taken int, err error) {
	for taken < missBatch {
		n, controls, _, from, err := unix.Recvmsg(socket, data, control, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return taken, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return taken, err
		}
		taken++
		if isKernel(from) {
			m.take(data[:n], parseNetnsID(control[:controls]))
		}
	}
	return taken, nil
}

func (m *Misses) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// Err says why misses are not heard of at the moment; nil: they are.
func (m *Misses) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		return nil
	}
	return fmt.Errorf("receive misses of vxlan devices: %w", m.err)
}

// isKernel tells the kernel from a process, which with CAP_NET_ADMIN in its namespace may send to the group.
func isKernel(sender unix.Sockaddr) bool {
	address, ok := sender.(*unix.SockaddrNetlink)
	return ok && address.Pid == 0
}

// take counts what a datagram says.
func (m *Misses) take(datagram []byte, netnsID int) {
	miss, ok := parseMiss(datagram)
	miss.NetnsID = netnsID
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok {
		m.unparsed++
		return
	}
	if miss.Address.Is6() && miss.Address.IsLinkLocalUnicast() {
		return // asked for by the devices' own duplicate address detection; the engine gives nobody one
	}
	if _, known := m.counts[miss]; !known && len(m.counts) >= maxMisses {
		m.full++
		if miss = miss.anybody(); len(m.counts) >= 2*maxMisses { // so many devices is somebody's attack
			return
		}
	}
	m.counts[miss]++
}

// anybody is the miss without who is missed: of an address that nobody has, or of the MAC address of all.
func (m Miss) anybody() Miss {
	if m.Address.IsValid() {
		m.Address = netip.IPv4Unspecified()
	} else {
		m.MAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return m
}

// parseMiss reads a message (vxlan_fdb_miss and vxlan_ip_miss in drivers/net/vxlan); false: it is another, or cut short.
func parseMiss(datagram []byte) (miss Miss, ok bool) {
	header, body, _, ok := nextMessage(datagram)
	if !ok || header.Type != unix.RTM_GETNEIGH || len(body) < sizeofNdmsg {
		return Miss{}, false
	}
	miss.Device = int(int32(binary.NativeEndian.Uint32(body[ndmIfindex:])))
	if address := attribute(body[sizeofNdmsg:], netlink.NDA_DST); address != nil {
		miss.Address, ok = netip.AddrFromSlice(address)
		return miss, ok
	}
	mac := attribute(body[sizeofNdmsg:], netlink.NDA_LLADDR)
	if len(mac) != len(miss.MAC) {
		return Miss{}, false
	}
	copy(miss.MAC[:], mac)
	return miss, true
}

// Read returns the misses since the last Read, in no order. Where there were too many different ones, some are of the address 0.0.0.0
// or the MAC address ff:ff:ff:ff:ff:ff: nobody knows whose.
func (m *Misses) Read() []Miss {
	m.mu.Lock()
	counts := m.counts
	m.counts = make(map[Miss]uint64)
	m.mu.Unlock()
	misses := make([]Miss, 0, len(counts))
	for miss, count := range counts {
		miss.Count = count
		misses = append(misses, miss)
	}
	return misses
}

// Losses says how many misses came faster than they were taken in (netlink_overrun), how many were more different ones than are
// kept and are counted for the device only (table_full), and how many messages could not be read (unparsed).
func (m *Misses) Losses() []Loss {
	m.mu.Lock()
	defer m.mu.Unlock()
	if drops, err := socketDrops(m.socket); err == nil { // else it is closed, and the last word holds
		m.overruns += uint64(drops - m.drops)
		m.drops = drops
	}
	return []Loss{
		{Place: "netlink_overrun", Count: m.overruns},
		{Place: "table_full", Count: m.full},
		{Place: "unparsed", Count: m.unparsed},
	}
}

// socketDrops asks the kernel how many messages had no room in a socket's buffer. Its counter comes around after 32 bits.
func socketDrops(socket *os.File) (uint32, error) {
	connection, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info [memoryInfoSize]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno unix.Errno
	err = connection.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return info[memoryInfoDrops], err
}

// Close ends the subscription and a Run that is waiting.
func (m *Misses) Close() error {
	err := m.socket.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
