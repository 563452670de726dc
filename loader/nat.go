// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gatherPeriod is short enough that the events of 100,000 connections a second fit into the socket's buffer meanwhile.
	gatherPeriod = 50 * time.Millisecond
	// newsLimit is how much is kept for Read before the rest is left in the kernel's buffers.
	newsLimit = 1 << 17
	// trackingPeriod is how often a kernel without connection tracking is looked at again.
	trackingPeriod = time.Second
	// retryLimit is how long it takes at most until what could not be had when tracking began is tried again.
	retryLimit = 5 * time.Minute
)

// NATNews is what happened to connections since the last [NAT.Read], in no particular order. What never gets to a device is
// told a little late.
type NATNews struct {
	// Opened are the new connections that are translated, in any namespace, and those of the host's namespace to one of the
	// endpoints given to [NAT.SetEndpoints], translated or not. Each is in here once in its life.
	Opened []NATEvent
	// Answered are those of them whose first answer has left: of TCP the SYN and ACK. The same Read tells that it was opened,
	// or one before, unless it was there before the agent.
	Answered []NATEvent
}

// NATEvent is something that happened to a connection.
type NATEvent struct {
	Tracked
	At time.Time
}

// NATEndpoint is where connections may go to that are of interest even if nothing translates them: a published port, or the
// port of a container that one leads to.
type NATEndpoint struct {
	Protocol uint8
	Address  netip.Addr // unspecified: any, of both families
	Port     uint16
}

// NATConfig says how much is kept between two reads.
type NATConfig struct {
	RingSize     uint32 // bytes of the program's ring, a power of two; 0: 4 MiB
	SocketBuffer int    // bytes for conntrack's events, of which the kernel takes twice as many; 0: 8 MiB
	Connections  uint32 // that the program remembers, so as to count each once; 0: 65,536
}

// NAT tells of new connections that are translated, each once. It has them from two sources that check each other: a program
// that sees packets leave by devices, and the events of the kernel's connection tracking. A first packet that
// is sent again after the program had to forget its connection is known by having no event; if those of its namespace do not
// come, or some got lost in the last seconds, the connection is told again. Its methods may be called
// concurrently, but for Known, which is for before the first Read.
type NAT struct {
	config NATConfig
	netns  Netns  // the host's
	inode  uint32 // likewise

	mu        sync.Mutex
	program   *natProgram          // nil: not to be had, or not yet
	events    *conntrackEvents     // likewise
	tracking  time.Time            // when to look next whether the kernel has connection tracking; zero: no more
	retry     time.Duration        // after which to look again for what could not be had
	endpoints map[NATEndpoint]bool // plain; those that the program knows, if there is one
	union     *natUnion
	failed    error // what Run has met first since the last Read

	// Why something is missing; nil: it is not.
	noProgram, noEvents, notKnown, unset error
}

// OpenNAT loads and attaches the program, subscribes to the events, and remembers what is in the table of the calling
// thread's namespace, the host's. It fails if neither can be had. Needs 5.10, BTF, CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and
// CAP_NET_BROADCAST.
//
// A kernel that does not track connections yet is left so. What could not be had of it is tried again within a second of its
// beginning, and what fails then, now and again. Subscribing to the events has it load nf_conntrack_netlink if that is a
// module, which by itself does nothing to packets; Docker loads it too.
func OpenNAT(config NATConfig) (*NAT, error) {
	if config.SocketBuffer == 0 {
		config.SocketBuffer = defaultEventBuffer
	}
	inode, err := HostNetnsInode()
	if err != nil {
		return nil, err
	}
	n := &NAT{config: config, netns: OwnNetns(), inode: inode, union: newNATUnion()}
	notKnown := n.remember()
	noProgram := n.openProgram()
	if !tracksConnections() {
		n.tracking = time.Now().Add(trackingPeriod)
		if errors.Is(noProgram, unix.EPERM) {
			return nil, noProgram
		}
		return n, nil // without the module the program may not know what an entry looks like
	}
	noEvents := n.openEvents()
	if noProgram != nil && noEvents != nil {
		return nil, errors.Join(noProgram, noEvents)
	}
	n.noProgram, n.noEvents, n.notKnown = noProgram, noEvents, notKnown
	return n, nil
}

// Incomplete says what is missing of the two sources, and so what is not told; nil: nothing. It may change once a kernel
// begins to track connections.
func (n *NAT) Incomplete() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	missing := []error{n.notKnown, n.unset}
	if n.noProgram != nil {
		missing = append(missing, fmt.Errorf("answers, devices and what has no room in the socket's buffer are not told: %w", n.noProgram))
	}
	if n.noEvents != nil {
		missing = append(missing, fmt.Errorf("connections that never get to a device are not told: %w", n.noEvents))
	}
	return errors.Join(missing...)
}

// openProgram loads it, and has it know the endpoints and choose the events.
func (n *NAT) openProgram() error {
	program, err := openNATProgram(n.config, n.inode)
	if err != nil {
		return err
	}
	if n.events != nil {
		if err := n.events.choose(program.filterFD()); err != nil {
			return errors.Join(err, program.Close())
		}
	}
	n.program = program
	n.setEndpoints(n.endpoints)
	return nil
}

// openEvents subscribes to them, with the program's filter if there is one.
func (n *NAT) openEvents() error {
	switch on, err := readSysctl("netfilter/nf_conntrack_events"); {
	case err != nil:
		return fmt.Errorf("subscribe to conntrack events: %w (the kernel needs CONFIG_NF_CONNTRACK_EVENTS)", err)
	case on == 0:
		return errors.New("subscribe to conntrack events: net.netfilter.nf_conntrack_events is 0")
	}
	filter := noFilter
	if n.program != nil {
		filter = n.program.filterFD()
	}
	var err error
	n.events, err = openConntrackEvents(n.config.SocketBuffer, filter)
	return err
}

// awaitTracking opens what is missing once the kernel tracks connections, and tries again what fails.
func (n *NAT) awaitTracking(now time.Time) {
	if n.tracking.IsZero() || now.Before(n.tracking) {
		return
	}
	if !tracksConnections() {
		n.tracking = now.Add(trackingPeriod)
		return
	}
	if n.program == nil {
		n.noProgram = n.openProgram()
	}
	if n.events == nil {
		n.noEvents = n.openEvents()
	}
	if n.program != nil && n.events != nil {
		n.tracking = time.Time{}
		return
	}
	n.retry = min(max(2*n.retry, trackingPeriod), retryLimit)
	n.tracking = now.Add(n.retry)
}

// Known says that the connections in the tables of the network namespaces at these paths, such as a container's SandboxKey
// or /proc/PID/ns/net, are not new. It is for the namespaces that were there before the agent, and takes as long as
// [ListTrackedInside]. One that is gone is passed over.
func (n *NAT) Known(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if err := inNetns(path, n.remember); err != nil && !errors.Is(err, ErrNetnsGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remember lists what is in the table of the calling thread's namespace and may still pass for new: what has not been
// answered.
func (n *NAT) remember() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return listConntrack(statusFilter{mask: statusSeenReply}, func(e *conntrackEntry) {
		if !e.replied() {
			n.union.existing(&e.Tracked)
		}
	})
}

// SetEndpoints says of which connections to the host's namespace to tell even if they are not translated. The new endpoints
// replace the old ones. The program has room for 65,536 of them; if there are more, the error says how many are left out.
func (n *NAT) SetEndpoints(endpoints []NATEndpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setEndpoints(plainEndpoints(endpoints))
	return n.unset
}

// setEndpoints has both sources choose by the same ones.
func (n *NAT) setEndpoints(wanted map[NATEndpoint]bool) {
	n.endpoints, n.unset = wanted, nil
	if n.program != nil {
		n.unset = n.program.setEndpoints(wanted)
		n.endpoints = maps.Clone(n.program.endpoints)
	}
}

// plainEndpoints writes those the same way that mean the same: any address is none, and an IPv4 address is not mapped.
func plainEndpoints(endpoints []NATEndpoint) map[NATEndpoint]bool {
	plain := make(map[NATEndpoint]bool, len(endpoints))
	for _, e := range endpoints {
		if e.Address = e.Address.Unmap(); e.Address.IsUnspecified() {
			e.Address = netip.Addr{}
		}
		plain[e] = true
	}
	return plain
}

// Run takes news out of the kernel's buffers, before they are full, until ctx ends. It goes on after an error, which the next
// Read returns.
func (n *NAT) Run(ctx context.Context) {
	ticker := time.NewTicker(gatherPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		n.mu.Lock()
		if err := n.gather(); n.failed == nil {
			n.failed = err
		}
		n.mu.Unlock()
	}
}

// Read returns what has happened since the last Read, and the first error since then. What comes with an error is good.
func (n *NAT) Read() (NATNews, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.gather()
	if n.failed != nil {
		err = n.failed
	}
	n.failed = nil
	return n.union.take(), err
}

// gather takes what is in the kernel's buffers, but no more than gatherLimit of each: mu is held.
func (n *NAT) gather() error {
	if n.union.waiting() >= newsLimit {
		return nil
	}
	now := time.Now()
	n.awaitTracking(now)
	var records func(func(natRecord)) error
	if n.program != nil {
		records = func(visit func(natRecord)) error { return n.program.read(gatherLimit, visit) }
	}
	var events func(func(NATEvent)) (reading, error)
	if n.events != nil {
		events = func(visit func(NATEvent)) (reading, error) {
			return n.events.read(gatherLimit, func(e *conntrackEntry) {
				if n.wants(e) {
					visit(NATEvent{Tracked: e.Tracked, At: now})
				}
			})
		}
	}
	return n.union.unite(now, records, events)
}

// wants chooses from the events, which no filter can as well, and says whose those of the host's namespace are.
func (n *NAT) wants(e *conntrackEntry) bool {
	host := e.NetnsID < 0
	if host {
		e.Netns = n.netns
	}
	return e.Translated() || host && n.isEndpoint(e.Protocol, e.Original.Destination)
}

func (n *NAT) isEndpoint(protocol uint8, to netip.AddrPort) bool {
	exactly := NATEndpoint{Protocol: protocol, Address: to.Addr(), Port: to.Port()}
	anywhere := NATEndpoint{Protocol: protocol, Port: to.Port()}
	return n.endpoints[exactly] || n.endpoints[anywhere]
}

// Losses says what one of the two sources missed since the start. Of the program: records that found its ring full
// (ring_full), packets that the kernel kept from it (recursion), connections that it had no room to remember
// (not_remembered), and those of the host's own processes that were too many to look for their answers (not_awaited). Of the
// events: those that found the socket's buffer full (netlink_overrun), and those that could not be read (unparsed). What the
// other source had all the same is told: a loss of one alone is no connection missed.
func (n *NAT) Losses() ([]Loss, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var losses []Loss
	var errs []error
	if n.program != nil {
		of, err := n.program.losses()
		losses, errs = append(losses, of...), append(errs, err)
	}
	if n.events != nil {
		of, err := n.events.losses()
		losses, errs = append(losses, of...), append(errs, err)
	}
	return losses, errors.Join(errs...)
}

// Costs says what the program has cost, while the kernel measured it.
func (n *NAT) Costs() ([]ProgramCost, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.program == nil {
		return nil, nil
	}
	return n.program.costs()
}

// Usage says how many connections are remembered that a late packet might tell of again.
func (n *NAT) Usage() []MapUsage {
	n.mu.Lock()
	defer n.mu.Unlock()
	return []MapUsage{{Map: "nat_remembered", Entries: n.union.known.len(), Capacity: 2 * rememberedLimit}}
}

// Close detaches the program and ends the subscription. A Run must have ended. What was not read is lost.
func (n *NAT) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	if n.events != nil {
		errs = append(errs, n.events.close())
		n.events = nil
	}
	if n.program != nil {
		errs = append(errs, n.program.Close())
		n.program = nil
	}
	return errors.Join(errs...)
}
