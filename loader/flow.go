// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
)

// DeviceID is the number under which a watched device is counted. A device of the host's namespace has its ifindex; one
// that was watched from its birth and has since left for another namespace, where it may have got a new ifindex, has a
// number of its own, and so has one that was watched in another namespace. No number is used twice.
type DeviceID uint32

// ownNumbers is where the numbers begin that are no ifindexes, which are positive ints.
const ownNumbers DeviceID = 1 << 31

// Flow is what one device carried of one conversation since the last [Flows.Read].
type Flow struct {
	Device DeviceID

	// Local is the container's side; Remote whoever it talks to. Not valid for what is not IP.
	Local      netip.Addr
	Remote     netip.Addr
	LocalPort  uint16 // ICMP: type
	RemotePort uint16 // ICMP: code
	EtherType  uint16
	Protocol   uint8

	RX, TX           Counts // as the container sees it; a bridge: as the network behind it
	RXFlags, TXFlags uint8  // all TCP flags seen, ored

	Other    bool // the table was full: the device's totals are exact, the conversation is not known
	Unparsed bool
}

// Flows counts what crosses devices. All methods may be called concurrently.
type Flows struct {
	objects   flowKernel
	spec      *ebpf.CollectionSpec
	detail    *table[flowFlowKey, flowFlowValue]
	reading   sync.Mutex
	tableFull uint64 // counter at the last Read

	overlays sync.Mutex       // held while an overlay's device is attached to; taken before mu, and guards the next two
	looked   map[Netns]bool   // the overlays' namespaces of which all was watched before
	skipped  map[place]uint64 // VXLAN devices that were not asked for, and what they had carried by then, in packets

	mu sync.Mutex
	attacher
	devices      map[DeviceID]*device
	nextOwn      DeviceID
	beforeAttach uint64
	spent        flowCosts // by copies of the programs that are no more
}

// flowKernel is what is loaded of the object; the programs are those for devices of the host's namespace.
type flowKernel struct {
	flowPair
	Flows    *ebpf.Map `ebpf:"flows"`
	Other    *ebpf.Map `ebpf:"flows_other"`
	Counters *ebpf.Map `ebpf:"flow_counters"`
}

// flowPair is one copy of the two programs.
type flowPair struct {
	Ingress *ebpf.Program `ebpf:"flow_ingress"`
	Egress  *ebpf.Program `ebpf:"flow_egress"`
}

func (p *flowPair) close() error { return closeAll(p.Ingress, p.Egress) }

// OpenFlows loads the programs; nothing is counted before devices are watched. tableSize is the number of conversations
// kept between two reads, 0: the object's 32,768. Needs 5.10, CAP_BPF and CAP_NET_ADMIN.
func OpenFlows(tableSize uint32) (*Flows, error) {
	f := &Flows{devices: make(map[DeviceID]*device), looked: make(map[Netns]bool), skipped: make(map[place]uint64), nextOwn: ownNumbers}
	if err := f.open(tableSize); err != nil {
		return nil, errors.Join(explain(err), f.Close())
	}
	return f, nil
}

func (f *Flows) open(tableSize uint32) error {
	allowMemory()
	spec, err := loadFlow()
	if err != nil {
		return fmt.Errorf("load flow object: %w", err)
	}
	f.spec = spec.Copy()
	if err := spec.Variables["config"].Set(flowFlowConfig{Outside: 1}); err != nil {
		return fmt.Errorf("configure flow object: %w", err)
	}
	if err := spec.LoadAndAssign(&f.objects, nil); err != nil {
		return fmt.Errorf("load flow object: %w", err)
	}
	f.detail, err = newTable[flowFlowKey, flowFlowValue]("flows", f.objects.Flows, spec.Maps["flows"], tableSize)
	return err
}

// copyFor loads a copy of the programs that counts all it sees for one device. outside: the container is at its other end.
func (f *Flows) copyFor(id DeviceID, outside bool) (*flowPair, error) {
	spec := f.spec.Copy()
	config := flowFlowConfig{Device: uint32(id)}
	if outside {
		config.Outside = 1
	}
	if err := spec.Variables["config"].Set(config); err != nil {
		return nil, fmt.Errorf("configure flow object: %w", err)
	}
	var pair flowPair
	options := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"flows": f.objects.Flows, "flows_other": f.objects.Other, "flow_counters": f.objects.Counters,
	}}
	if err := spec.LoadAndAssign(&pair, &options); err != nil {
		return nil, fmt.Errorf("load flow object: %w", err)
	}
	return &pair, nil
}

// Read returns all that was counted since the last Read. After an error some may come with the next one; none is lost.
func (f *Flows) Read() ([]Flow, error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	gone := f.goneDevices() // before the tables are swapped, so that nothing of theirs is in the one now in use
	var flows []Flow
	err := f.detail.drain(func(k *flowFlowKey, v *flowFlowValue) {
		flows = append(flows, newFlow(k, v))
	})
	other, otherErr := f.readOther(gone)
	return append(flows, other...), errors.Join(err, otherErr)
}

func newFlow(k *flowFlowKey, v *flowFlowValue) Flow {
	rx, tx := &v.Count[flowFlowDirectionFLOW_RX], &v.Count[flowFlowDirectionFLOW_TX]
	return Flow{
		Device:     DeviceID(k.Device),
		Local:      address(k.Local),
		Remote:     address(k.Remote),
		LocalPort:  k.LocalPort,
		RemotePort: k.RemotePort,
		EtherType:  k.EthProto,
		Protocol:   k.Protocol,
		RX:         Counts{Skbs: rx.Skbs, Packets: rx.Packets, Bytes: rx.Bytes},
		TX:         Counts{Skbs: tx.Skbs, Packets: tx.Packets, Bytes: tx.Bytes},
		RXFlags:    uint8(rx.TcpFlags),
		TXFlags:    uint8(tx.TcpFlags),
		Unparsed:   k.Unparsed != 0,
	}
}

// goneDevices lists the devices whose last counts are to be read now.
func (f *Flows) goneDevices() map[DeviceID]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone := make(map[DeviceID]bool)
	for id, d := range f.devices {
		if d.gone {
			gone[id] = true
		}
	}
	return gone
}

// readOther returns what found no room in the table, and forgets the gone devices, now read for the last time.
// The entries of flows_other only grow, so their last values are kept to take the difference.
func (f *Flows) readOther(gone map[DeviceID]bool) ([]Flow, error) {
	counters, err := readPerCPU(f.objects.Counters)
	if err != nil {
		return nil, err
	}
	full := counters[flowFlowCounterFLOW_TABLE_FULL]
	changed := full != f.tableFull

	f.mu.Lock()
	defer f.mu.Unlock()
	var flows []Flow
	var errs []error
	for id, device := range f.devices {
		last := device.gone && gone[id]
		if !changed && !last {
			continue
		}
		flow, err := f.readOtherOf(id, device)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if flow.RX.Skbs+flow.TX.Skbs > 0 {
			flows = append(flows, flow)
		}
		if last {
			if err := f.objects.Other.Delete(uint32(id)); err != nil {
				errs = append(errs, fmt.Errorf("forget device %d: %w", id, err))
				continue
			}
			delete(f.devices, id)
		}
	}
	if len(errs) == 0 {
		f.tableFull = full
	}
	return flows, errors.Join(errs...)
}

func (f *Flows) readOtherOf(id DeviceID, device *device) (Flow, error) {
	var value flowFlowValue
	if err := f.objects.Other.Lookup(uint32(id), &value); err != nil {
		return Flow{}, fmt.Errorf("read totals of device %d: %w", id, err)
	}
	flow := newFlow(&flowFlowKey{Device: uint32(id)}, &value)
	flow.Other = true
	rx, tx := flow.RX, flow.TX
	flow.RX, flow.TX = rx.minus(device.otherRX), tx.minus(device.otherTX)
	device.otherRX, device.otherTX = rx, tx
	return flow, nil
}

func (c Counts) minus(o Counts) Counts {
	return Counts{Skbs: c.Skbs - o.Skbs, Packets: c.Packets - o.Packets, Bytes: c.Bytes - o.Bytes}
}

// Losses says what could not be recorded in full since the start: packets that passed a new device before it was watched
// (before_attach), packets counted for their device only (table_full), packets not counted (lost), and headers that
// could not be read (unparsed).
func (f *Flows) Losses() ([]Loss, error) {
	counters, err := readPerCPU(f.objects.Counters)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return []Loss{
		{Place: "before_attach", Count: f.beforeAttach},
		{Place: "table_full", Count: counters[flowFlowCounterFLOW_TABLE_FULL]},
		{Place: "lost", Count: counters[flowFlowCounterFLOW_LOST]},
		{Place: "unparsed", Count: counters[flowFlowCounterFLOW_NOT_PARSED]},
	}, nil
}

// Costs says what the programs have cost, all copies of each together, while the kernel measured them.
func (f *Flows) Costs() ([]ProgramCost, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	costs, err := f.objects.costs()
	errs := []error{err}
	costs.add(f.spent)
	for _, d := range f.devices {
		if d.programs == nil {
			continue
		}
		more, err := d.programs.costs()
		errs = append(errs, err)
		costs.add(more)
	}
	return costs[:], errors.Join(errs...)
}

// flowCosts are those of the two programs, in the order of flowPair.
type flowCosts [2]ProgramCost

func (p *flowPair) costs() (costs flowCosts, err error) {
	if costs[0], _, err = programCost("flow_ingress", p.Ingress); err != nil {
		return costs, err
	}
	costs[1], _, err = programCost("flow_egress", p.Egress)
	return costs, err
}

func (c *flowCosts) add(o flowCosts) {
	for i := range c {
		c[i].Runs += o[i].Runs
		c[i].Time += o[i].Time
	}
}

// Usage says how full the tables were at the last Read.
func (f *Flows) Usage() []MapUsage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []MapUsage{
		f.detail.usage(),
		{Map: "flows_other", Entries: len(f.devices), Capacity: int(f.objects.Other.MaxEntries())},
	}
}

// Close detaches from all devices. What was not read is lost.
func (f *Flows) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, device := range f.devices {
		errs = append(errs, device.detach())
	}
	if f.detail != nil {
		errs = append(errs, f.detail.close())
	}
	errs = append(errs, f.objects.close(), closeAll(f.objects.Flows, f.objects.Other, f.objects.Counters))
	return errors.Join(errs...)
}
