// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Counts is an amount of traffic.
type Counts struct {
	Skbs    uint64 // kernel packets, as interface and rule counters count them
	Packets uint64 // packets on the wire: a GSO skb counts as the segments it stands for
	Bytes   uint64
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Skbs += o.Skbs
	c.Packets += o.Packets
	c.Bytes += o.Bytes
}

// Loss is how much a signal could not record in full, or at all, at one place. It only grows.
type Loss struct {
	Place string
	Count uint64
}

// ProgramCost is what one program has cost while the kernel measured it.
type ProgramCost struct {
	Program string
	Runs    uint64
	Time    time.Duration
}

// Netns numbers a network namespace as the kernel programs do: by its cookie, which is never used twice, or where the
// kernel has none (before 5.12) by its inode, which is. 0 is unknown.
type Netns uint64

// HostNetnsInode returns the inode number of the calling thread's network namespace, which for an agent is the host's.
func HostNetnsInode() (uint32, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return uint32(stat.Ino), nil
}

// OwnNetns returns the number of the calling thread's network namespace without asking the kernel programs: its cookie
// (SO_NETNS_COOKIE, 5.14), else its inode number; 0 if neither can be read.
func OwnNetns() Netns {
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		defer unix.Close(fd)
		if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
			return Netns(cookie)
		}
	}
	inode, err := HostNetnsInode()
	if err != nil {
		return 0
	}
	return Netns(inode)
}

// allowMemory lets maps take the memory they need: before 5.11 it counts against RLIMIT_MEMLOCK. Without the privilege to
// lift that (CAP_SYS_RESOURCE), loading may fail, and says so.
func allowMemory() { _ = rlimit.RemoveMemlock() }

// refusedError says what privileges are missing, instead of the library's guess.
type refusedError struct{ err error }

func (refusedError) Error() string {
	return "not permitted: needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and below 5.11 an unlimited RLIMIT_MEMLOCK"
}

func (e refusedError) Unwrap() error { return e.err }

// explain adds to a load or attach error what an operator can do about it.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		return fmt.Errorf("the kernel's verifier refuses the program: %w", err)
	case errors.Is(err, unix.EPERM):
		return refusedError{err: err}
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w (the kernel needs BTF: CONFIG_DEBUG_INFO_BTF)", err)
	}
	return err
}

// address turns 16 bytes in network order, IPv6 or IPv4-mapped, into an address. All zero is no address.
func address(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	if b == ([16]byte{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(b).Unmap()
}

// readPerCPU sums each slot of a per-CPU array of counters.
func readPerCPU(m *ebpf.Map) ([]uint64, error) {
	sums := make([]uint64, m.MaxEntries())
	var perCPU []uint64
	for i := range sums {
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counters %s: %w", m, err)
		}
		for _, v := range perCPU {
			sums[i] += v
		}
	}
	return sums, nil
}

// programCost reads what the kernel measured of a program, which is nothing while nobody has its statistics on.
func programCost(name string, p *ebpf.Program) (ProgramCost, uint64, error) {
	stats, err := p.Stats()
	if err != nil {
		return ProgramCost{}, 0, fmt.Errorf("read statistics of %s: %w", name, err)
	}
	return ProgramCost{Program: name, Runs: stats.RunCount, Time: stats.Runtime}, stats.RecursionMisses, nil
}

// text returns the bytes before the first zero.
func text(b []int8) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}

// temporary tells a netlink read that was only interrupted from one that failed.
func temporary(err error) bool {
	return errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EAGAIN)
}

// closeAll closes BPF objects, whose Close does nothing on nil.
func closeAll(objects ...io.Closer) error {
	var errs []error
	for _, o := range objects {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}
