// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/netfilter/nf_tables.h: the message that ends each change of rules, and what it says.
const (
	rulesetChanged     = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	rulesetGeneration  = 1 // NFTA_GEN_ID
	rulesetProcess     = 2 // NFTA_GEN_PROC_PID, since 4.14 as is the next
	rulesetProcessName = 3 // NFTA_GEN_PROC_NAME
	rulesetGroup       = unix.NFNLGRP_NFTABLES
	rulesetBuffer      = 1 << 20 // bytes of the socket's buffer; a message takes about 1 KiB of it
	rulesetMessage     = 4096    // bytes of a message at most: it has 44
	maxRulesetChanges  = 4096    // kept between two reads; an engine that starts makes some hundreds
	netlinkTypeOffset  = 4       // nlmsg_type in struct nlmsghdr
)

// RulesetChange is one change of the nftables rules of a network namespace: whatever one transaction changed.
type RulesetChange struct {
	NetnsID    int    // the number under which the socket's namespace knows it; -1: it is that namespace itself
	Generation uint32 // of the namespace's rules; one more with each change
	Process    string // name of the process that made it: iptables for the engine's own, too
	PID        int    // of that process, as the first process id namespace numbers it
	// Parent is the name of the process that had started it. It is asked for when the news comes and may have ended by then:
	// "" is not known.
	Parent string
	At     time.Time
}

// Rulesets receives the kernel's news of changed nftables rules, which those of iptables-nft are too, in its own network
// namespace and all that this one has a number for. Legacy iptables tells nobody. All methods may be called concurrently.
type Rulesets struct {
	procfs Procfs
	socket *os.File

	mu       sync.Mutex
	changes  []RulesetChange
	beyond   uint64 // changes that were not kept
	overruns uint64
	unparsed uint64
}

// OpenRulesets subscribes to changes of rules. Needs CAP_NET_ADMIN, and CAP_NET_BROADCAST for other namespaces than its own.
func OpenRulesets(procfs Procfs) (*Rulesets, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of rules: %w (%s)", err, needsNetlink)
	}
	r := &Rulesets{procfs: procfs, socket: os.NewFile(uintptr(socket), "rulesets")}
	if err := subscribeToRulesets(socket); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to changes of rules: %w", err), r.Close())
	}
	return r, nil
}

func subscribeToRulesets(socket int) error {
	// A socket without an address of its own is passed over.
	if err := unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fmt.Errorf("listen to all namespaces: %w", err)
	}
	// Beyond net.core.rmem_max this needs CAP_NET_ADMIN. A smaller buffer works too: an overrun is counted.
	_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rulesetBuffer)
	filter := rulesetFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, rulesetGroup); err != nil {
		return fmt.Errorf("join group: %w (needs CAP_NET_ADMIN)", err)
	}
	return nil
}

// rulesetFilter lets only the message pass that ends a change, which is a datagram of its own, and none of those that say
// which rules it was: they are many. It loads big endian what is in the machine's order.
func rulesetFilter() []unix.SockFilter {
	kind := make([]byte, 2)
	binary.NativeEndian.PutUint16(kind, rulesetChanged)
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: netlinkTypeOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(kind))},
		{Code: unix.BPF_RET | unix.BPF_K, K: rulesetMessage},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Run takes in the news until ctx ends, and closes the subscription then.
func (r *Rulesets) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	connection, err := r.socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive changes of rules: %w", err)
	}
	data, control := make([]byte, rulesetMessage), make([]byte, 256)
	for {
		var n, controls int
		var received error
		err := connection.Read(func(socket uintptr) bool {
			n, controls, _, _, received = unix.Recvmsg(int(socket), data, control, 0)
			return !errors.Is(received, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("receive changes of rules: %w", err)
		case errors.Is(received, unix.ENOBUFS):
			r.count(&r.overruns)
		case errors.Is(received, unix.EINTR):
		case received != nil:
			return fmt.Errorf("receive changes of rules: %w", received)
		default:
			r.take(data[:n], parseNetnsID(control[:controls]))
		}
	}
}

// take keeps what a datagram says.
func (r *Rulesets) take(datagram []byte, netnsID int) {
	change, ok := parseRulesetChange(datagram)
	if !ok {
		r.count(&r.unparsed)
		return
	}
	change.NetnsID, change.At = netnsID, time.Now()
	change.Parent = r.procfs.parentOf(change.PID, change.Process)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.changes) == maxRulesetChanges {
		r.beyond++
		return
	}
	r.changes = append(r.changes, change)
}

func (r *Rulesets) count(counter *uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*counter++
}

// parseRulesetChange reads a message; false: it is another, or cut short.
func parseRulesetChange(datagram []byte) (change RulesetChange, ok bool) {
	header, body, _, ok := nextMessage(datagram)
	if !ok || header.Type != rulesetChanged || len(body) < sizeofNfgenmsg {
		return RulesetChange{}, false
	}
	attributes := body[sizeofNfgenmsg:]
	generation := attribute(attributes, rulesetGeneration)
	if len(generation) != 4 {
		return RulesetChange{}, false
	}
	change.Generation = binary.BigEndian.Uint32(generation)
	if pid := attribute(attributes, rulesetProcess); len(pid) == 4 {
		change.PID = int(binary.BigEndian.Uint32(pid))
	}
	name, _, _ := bytes.Cut(attribute(attributes, rulesetProcessName), []byte{0})
	change.Process = string(name)
	return change, true
}

// parentOf names the process that started another, which must still be there under its name.
func (p Procfs) parentOf(pid int, name string) string {
	own, parent, err := p.readProcess(pid)
	if err != nil || own != name {
		return ""
	}
	parentName, _, err := p.readProcess(parent)
	if err != nil {
		return ""
	}
	return parentName
}

// readProcess returns a process's name and its parent's number, as procfs numbers them.
func (p Procfs) readProcess(pid int) (name string, parent int, err error) {
	stat, err := os.ReadFile(p.file(strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", 0, fmt.Errorf("read process: %w", err)
	}
	// The name is in parentheses, and may have some itself. After it come the state and the parent.
	first, last := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if first < 0 || last < first {
		return "", 0, fmt.Errorf("read process %d: no name", pid)
	}
	fields := bytes.Fields(stat[last+1:])
	if len(fields) < 2 {
		return "", 0, fmt.Errorf("read process %d: no parent", pid)
	}
	if parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return "", 0, fmt.Errorf("read process %d: %w", pid, err)
	}
	return string(stat[first+1 : last]), parent, nil
}

// Read returns the changes since the last Read, in the order in which they were made in each namespace.
func (r *Rulesets) Read() []RulesetChange {
	r.mu.Lock()
	defer r.mu.Unlock()
	changes := r.changes
	r.changes = nil
	return changes
}

// Losses says how often news came faster than it was taken in (netlink_overrun), how many changes were more than is kept
// (queue_full), and how many messages could not be read (unparsed).
func (r *Rulesets) Losses() []Loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	return []Loss{
		{Place: "netlink_overrun", Count: r.overruns},
		{Place: "queue_full", Count: r.beyond},
		{Place: "unparsed", Count: r.unparsed},
	}
}

// Close ends the subscription and a Run that is waiting.
func (r *Rulesets) Close() error {
	err := r.socket.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
