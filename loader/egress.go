// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Egress is what one address of the given subnets sent out of the host by one link since the last [Egresses.Read].
type Egress struct {
	Device   int // ifindex of the link that it left by
	Protocol uint8
	Source   netip.Addr // not valid: the table was full, and only the device is known
	// Destination is that of the first of these packets.
	Destination netip.Addr
	Counts      Counts
	Resets      uint64 // packets among them that carried RST or FIN
}

// EgressConfig says how much is kept.
type EgressConfig struct {
	TableSize uint32 // sources, by link and protocol, between two reads; 0: the object's 4,096
}

// maxEgressDevices is how many links the table by link alone has room for.
const maxEgressDevices = 256

// Egresses counts what leaves the host untranslated. All methods may be called concurrently.
type Egresses struct {
	objects egressKernel
	detail  *table[egressEgressKey, egressEgressValue]
	other   *table[egressEgressKey, egressEgressValue] // by device alone: what found no room in detail

	reading   sync.Mutex
	tableFull uint64 // counter at the last Read

	mu sync.Mutex
	attacher
	devices      map[int]hook // by ifindex
	newest       int          // the highest ifindex of a link that was there at the start, or was watched before
	beforeAttach uint64
	subnets      subnets
}

// egressKernel is what is loaded of the object.
type egressKernel struct {
	Program  *ebpf.Program `ebpf:"egress"`
	Coarse   *ebpf.Map     `ebpf:"egress_coarse"`
	Subnets  *ebpf.Map     `ebpf:"egress_subnets"`
	Detail   *ebpf.Map     `ebpf:"egresses"`
	Other    *ebpf.Map     `ebpf:"egresses_other"`
	Counters *ebpf.Map     `ebpf:"egress_counters"`
}

// OpenEgress loads the program. Nothing is counted before there are devices and subnets. Needs 5.10, CAP_BPF, CAP_PERFMON
// and CAP_NET_ADMIN.
func OpenEgress(config EgressConfig) (*Egresses, error) {
	e := &Egresses{devices: make(map[int]hook)}
	if err := e.open(config); err != nil {
		return nil, errors.Join(explain(err), e.Close())
	}
	return e, nil
}

func (e *Egresses) open(config EgressConfig) error {
	allowMemory()
	spec, err := loadEgress()
	if err != nil {
		return fmt.Errorf("load egress object: %w", err)
	}
	if err := spec.LoadAndAssign(&e.objects, nil); err != nil {
		return fmt.Errorf("load egress object: %w", err)
	}
	e.subnets = subnets{trie: e.objects.Subnets, coarse: e.objects.Coarse, known: make(map[egressEgressSubnet]bool)}
	e.detail, err = newTable[egressEgressKey, egressEgressValue]("egresses", e.objects.Detail, spec.Maps["egresses"], config.TableSize)
	if err != nil {
		return err
	}
	e.other, err = newTable[egressEgressKey, egressEgressValue]("egresses_other", e.objects.Other, spec.Maps["egresses_other"], maxEgressDevices)
	if err != nil {
		return err
	}
	e.newest, err = newestLink()
	return err
}

// SetDevices says by which links, given by ifindex, packets leave the host: these are watched and no others. A link that
// is not there, or no longer, is passed over. A packet counts once, at the link that it is routed to, though it also
// passes those below. After an error the others are watched all the same, and calling it again tries again. Attaching
// takes about 10 ms for each new link, under the kernel's RTNL lock.
func (e *Egresses) SetDevices(indexes []int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for index := range e.devices {
		if !slices.Contains(indexes, index) {
			errs = append(errs, e.unwatch(index))
		}
	}
	for _, index := range indexes {
		if e.devices[index] == nil {
			errs = append(errs, e.watch(index))
		}
	}
	return errors.Join(errs...)
}

func (e *Egresses) watch(index int) error {
	l, err := netlink.LinkByIndex(index)
	if isLinkNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch link %d: %w", index, err)
	}
	h, err := e.attachFirst(index, e.objects.Program, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS, egressHandle)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", l.Attrs().Name, err)
	}
	e.devices[index] = h
	if stats := l.Attrs().Statistics; stats != nil && index > e.newest {
		e.beforeAttach += stats.TxPackets
	}
	return nil
}

func (e *Egresses) unwatch(index int) error {
	e.newest = max(e.newest, index) // no new link, if it is to be watched again
	h := e.devices[index]
	delete(e.devices, index)
	if err := h.Close(); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("unwatch link %d: %w", index, err)
	}
	return nil
}

// SetSubnets says which source addresses should not leave the host. The new subnets replace the old ones; a subnet that is
// in both lists is not missing for a moment. An error that names a subnet, or their number, has changed nothing.
func (e *Egresses) SetSubnets(prefixes []netip.Prefix) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.subnets.replace(prefixes)
}

// Read returns all that was counted since the last Read. After an error some may come with the next one; none is lost.
func (e *Egresses) Read() ([]Egress, error) {
	e.reading.Lock()
	defer e.reading.Unlock()
	var egresses []Egress
	visit := func(k *egressEgressKey, v *egressEgressValue) {
		egresses = append(egresses, newEgress(k, v))
	}
	err := e.detail.drain(visit)
	return egresses, errors.Join(err, e.readOther(visit))
}

// readOther looks where something is only after the table was full, since each table's reading waits for the kernel.
func (e *Egresses) readOther(visit func(*egressEgressKey, *egressEgressValue)) error {
	counters, err := readPerCPU(e.objects.Counters)
	if err != nil {
		return err
	}
	full := counters[egressEgressCounterEGRESS_TABLE_FULL]
	if full == e.tableFull {
		return nil
	}
	if err := e.other.drain(visit); err != nil {
		return err
	}
	e.tableFull = full
	return nil
}

func newEgress(k *egressEgressKey, v *egressEgressValue) Egress {
	return Egress{
		Device:      int(k.Device),
		Protocol:    uint8(k.Protocol),
		Source:      address(k.Source),
		Destination: address(v.Destination),
		Counts:      Counts{Skbs: v.Skbs, Packets: v.Packets, Bytes: v.Bytes},
		Resets:      v.Resets,
	}
}

// Losses says what could not be recorded in full since the start: packets, of any source, that a new link had sent before
// it was watched (before_attach), packets counted for their link only (table_full), packets not counted (lost), and
// counted ones of which no protocol or flags could be read (unparsed).
func (e *Egresses) Losses() ([]Loss, error) {
	counters, err := readPerCPU(e.objects.Counters)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return []Loss{
		{Place: "before_attach", Count: e.beforeAttach},
		{Place: "table_full", Count: counters[egressEgressCounterEGRESS_TABLE_FULL]},
		{Place: "lost", Count: counters[egressEgressCounterEGRESS_LOST]},
		{Place: "unparsed", Count: counters[egressEgressCounterEGRESS_NOT_PARSED]},
	}, nil
}

// Costs says what the program has cost, while the kernel measured it.
func (e *Egresses) Costs() ([]ProgramCost, error) {
	cost, _, err := programCost("egress", e.objects.Program)
	return []ProgramCost{cost}, err
}

// Usage says how full the tables were at the last Read, and how many subnets there are now.
func (e *Egresses) Usage() []MapUsage {
	e.mu.Lock()
	defer e.mu.Unlock()
	return []MapUsage{
		e.detail.usage(),
		e.other.usage(),
		{Map: "egress_subnets", Entries: len(e.subnets.known), Capacity: e.subnets.capacity()},
	}
}

// Devices counts the watched links, all of which are uplinks.
func (e *Egresses) Devices() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return map[string]int{"uplink": len(e.devices)}
}

// Close detaches from all links. What was not read is lost.
func (e *Egresses) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, index := range slices.Collect(maps.Keys(e.devices)) {
		errs = append(errs, e.unwatch(index))
	}
	for _, t := range []*table[egressEgressKey, egressEgressValue]{e.detail, e.other} {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	o := &e.objects
	errs = append(errs, closeAll(o.Program, o.Coarse, o.Subnets, o.Detail, o.Other, o.Counters))
	return errors.Join(errs...)
}
