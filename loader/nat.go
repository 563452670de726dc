// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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
// that sees packets leave by devices, and the events of the kernel's connection tracking. Its methods may be called
// concurrently, but for Known, which is for before the first Read.
type NAT struct {
	// Incomplete says what of the two does not run, and so what is not told; nil: both do.
	Incomplete error

	config NATConfig
	netns  Netns  // the host's
	inode  uint32 // likewise

	mu        sync.Mutex
	program   *natProgram          // nil: not to be had, or not yet
	events    *conntrackEvents     // likewise
	tracking  time.Time            // when to look next whether the kernel has connection tracking; zero: no more
	endpoints map[NATEndpoint]bool // without an address: any
	union     *natUnion
}

// OpenNAT loads and attaches the program, subscribes to the events, and remembers what is in the table of the calling
// thread's namespace, the host's. It fails if neither can be had. Needs 5.10, BTF, CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and
// CAP_NET_BROADCAST.
//
// A kernel that does not track connections yet is left so. What could not be had of it is tried again within a second of its
// beginning; what fails then is an error of Run or Read. Subscribing to the events has it load nf_conntrack_netlink if that is
// a module, which by itself does nothing to packets; Docker loads it too.
func OpenNAT(config NATConfig) (*NAT, error) {
	if config.SocketBuffer == 0 {
		config.SocketBuffer = defaultEventBuffer
	}
	inode, err := HostNetnsInode()
	if err != nil {
		return nil, err
	}
	n := &NAT{config: config, netns: OwnNetns(), inode: inode, union: newNATUnion()}
	known := n.remember()
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
	if noProgram != nil {
		noProgram = fmt.Errorf("answers, devices and what has no room in the socket's buffer are not told: %w", noProgram)
	}
	if noEvents != nil {
		noEvents = fmt.Errorf("connections that never get to a device are not told: %w", noEvents)
	}
	n.Incomplete = errors.Join(noProgram, noEvents, known)
	return n, nil
}

// openProgram loads it, and has it know the endpoints.
func (n *NAT) openProgram() error {
	program, err := openNATProgram(n.config, n.inode)
	if err != nil {
		return err
	}
	if err := program.setEndpoints(slices.Collect(maps.Keys(n.endpoints))); err != nil {
		return errors.Join(err, program.Close())
	}
	n.program = program
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

// awaitTracking opens what is missing once the kernel tracks connections.
func (n *NAT) awaitTracking(now time.Time) error {
	if n.tracking.IsZero() || now.Before(n.tracking) {
		return nil
	}
	if !tracksConnections() {
		n.tracking = now.Add(trackingPeriod)
		return nil
	}
	n.tracking = time.Time{}
	var noProgram error
	if n.program == nil {
		noProgram = n.openProgram()
	}
	return errors.Join(noProgram, n.openEvents())
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
// replace the old ones.
func (n *NAT) SetEndpoints(endpoints []NATEndpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := make(map[NATEndpoint]bool, len(endpoints))
	for _, e := range endpoints {
		if e.Address = e.Address.Unmap(); e.Address.IsUnspecified() {
			e.Address = netip.Addr{}
		}
		wanted[e] = true
	}
	if n.program != nil {
		if err := n.program.setEndpoints(endpoints); err != nil {
			return err
		}
	}
	n.endpoints = wanted
	return nil
}

// Run takes news out of the kernel's buffers, before they are full, until ctx ends. After an error Read still works, and
// alone takes what is in the buffers.
func (n *NAT) Run(ctx context.Context) error {
	ticker := time.NewTicker(gatherPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		n.mu.Lock()
		err := n.gather()
		n.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// Read returns what has happened since the last Read. What comes with an error is good.
func (n *NAT) Read() (NATNews, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.gather()
	return n.union.take(), err
}

// gather takes what is in the kernel's buffers.
func (n *NAT) gather() error {
	if n.union.waiting() >= newsLimit {
		return nil
	}
	now := time.Now()
	late := n.awaitTracking(now)
	var records func(func(natRecord)) error
	if n.program != nil {
		records = n.program.read
	}
	var events func(func(NATEvent)) error
	if n.events != nil {
		events = func(visit func(NATEvent)) error {
			return n.events.read(func(e *conntrackEntry) {
				if n.wants(e) {
					visit(NATEvent{Tracked: e.Tracked, At: now})
				}
			})
		}
	}
	return errors.Join(late, n.union.unite(now, records, events))
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
// (ring_full), packets that the kernel kept from it (recursion), and connections that it had no room to remember
// (not_remembered). Of the events: those that found the socket's buffer full (netlink_overrun), and those that could not be
// read (unparsed). What the other source had all the same is told: a loss of one alone is no connection missed.
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
