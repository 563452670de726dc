// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// Drop is what was dropped since the last [Drops.Read] by one function for one reason, of one conversation in one place.
type Drop struct {
	Counts

	Reason   string // the kernel's name without SKB_DROP_REASON_; "" on kernels without reasons (before 5.17)
	Function string // the kernel function that dropped it; "" where its name is hidden

	Netns      Netns  // where it happened; 0: not known
	Device     int    // ifindex in Netns, 0: none
	DeviceName string // at the time of the first packet
	DeviceKind string // rtnetlink's kind: veth, bridge, …; "" for hardware and loopback
	LinkDown   bool   // Device was down or had no carrier, at the first packet
	InDevice   int    // ifindex in Netns that it came in by, 0: none
	Outgoing   bool   // made in Netns, not received
	Routed     bool   // it had a route: what is received has none before it has passed netfilter's PREROUTING

	EtherType       uint16
	Protocol        uint8
	Source          netip.Addr // of ARP: the sender's address. Not valid where unknown
	Destination     netip.Addr
	SourcePort      uint16 // ICMP: type
	DestinationPort uint16 // ICMP: code
	TCPFlags        uint8  // the byte of its header, of the first packet; 0: not TCP, or not known

	// Initiator and Responder are the two ends of its conntrack entry before and behind NAT; not valid without an entry.
	Initiator netip.Addr
	Responder netip.Addr
	// DNAT tells that the entry changes the destination, as that of a connection to a published port does.
	DNAT bool

	SourceMAC      [6]byte // zero where unknown
	DestinationMAC [6]byte

	VXLAN bool // the addresses are an outer header's
	VNI   uint32

	Cgroup string // of the sending or receiving socket in the host's namespace; "" if unknown

	Other    bool // the table was full: device and reason are exact, addresses are left out
	Unparsed bool // its headers lie or are cut short
	Fragment bool // not the first fragment
}

// DropsConfig says how to count drops.
type DropsConfig struct {
	TableSize uint32 // conversations kept between two reads; 0: the object's 8,192
	Kallsyms  string // path of the kernel's symbols
}

// Drops counts the packets that the kernel drops. Its methods must not be called concurrently.
type Drops struct {
	objects dropKernel
	tracing link.Link
	detail  *table[dropDropKey, dropDropValue]
	other   *table[dropDropKey, dropDropValue]
	reasons *reasons
	symbols *symbols // nil where they are hidden

	// NoFunctions says why functions have no names; nil when they have.
	NoFunctions error
}

// dropKernel is what is loaded of the object.
type dropKernel struct {
	KfreeSkb   *ebpf.Program `ebpf:"drop_kfree_skb"`
	Drops      *ebpf.Map     `ebpf:"drops"`
	DropsOther *ebpf.Map     `ebpf:"drops_other"`
	Counters   *ebpf.Map     `ebpf:"drop_counters"`

	VXLANPort *ebpf.Variable `ebpf:"vxlan_port"`
}

// OpenDrops loads the program and attaches it: from then on every drop counts. Needs 5.10, BTF, CAP_BPF and CAP_PERFMON.
func OpenDrops(config DropsConfig) (*Drops, error) {
	d := &Drops{}
	if err := d.open(config); err != nil {
		return nil, errors.Join(explain(err), d.Close())
	}
	return d, nil
}

func (d *Drops) open(config DropsConfig) error {
	allowMemory()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("load kernel BTF: %w", err)
	}
	if d.reasons, err = readReasons(kernel); err != nil {
		return err
	}
	spec, err := loadDrop()
	if err != nil {
		return fmt.Errorf("load drop object: %w", err)
	}
	constants, err := d.constants(kernel, config.Kallsyms)
	if err != nil {
		return err
	}
	if err := spec.Variables["config"].Set(constants); err != nil {
		return fmt.Errorf("configure drop object: %w", err)
	}
	if err := spec.LoadAndAssign(&d.objects, nil); err != nil {
		return fmt.Errorf("load drop object: %w", err)
	}
	d.detail, err = newTable[dropDropKey, dropDropValue]("drops", d.objects.Drops, spec.Maps["drops"], config.TableSize)
	if err != nil {
		return err
	}
	d.other, err = newTable[dropDropKey, dropDropValue]("drops_other", d.objects.DropsOther, spec.Maps["drops_other"], 0)
	if err != nil {
		return err
	}
	d.tracing, err = link.AttachTracing(link.TracingOptions{Program: d.objects.KfreeSkb})
	if err != nil {
		return fmt.Errorf("attach to tracepoint kfree_skb: %w", err)
	}
	return nil
}

// constants finds out what differs between kernels.
func (d *Drops) constants(kernel *btf.Spec, kallsyms string) (dropDropConfig, error) {
	arguments, err := traceArguments(kernel, "kfree_skb")
	if err != nil {
		return dropDropConfig{}, err
	}
	inode, err := HostNetnsInode()
	if err != nil {
		return dropDropConfig{}, err
	}
	constants := dropDropConfig{Arguments: uint32(arguments), HostNetns: inode}
	d.symbols, d.NoFunctions = openSymbols(kallsyms)
	if d.NoFunctions == nil {
		err = d.ignore(&constants)
	}
	return constants, err
}

// ignore finds out where the kernel frees, with an event, what is no packet of its own: a dropped packet's fragments, and what
// else hangs on it; and a message's copy for one that listens to netlink but has a filter against it, as [NAT] does.
func (d *Drops) ignore(constants *dropDropConfig) error {
	for i, functions := range [2][]string{
		{"skb_release_data"},
		{"netlink_broadcast_filtered", "netlink_broadcast"}, // the second where it has the first within itself, as in 6.1
	} {
		place := &constants.Ignored[i]
		for _, function := range functions {
			var err error
			if place.Start, place.End, err = d.symbols.extent(function); err != nil {
				return err
			}
			if place.Start != 0 {
				break
			}
		}
	}
	return nil
}

// SetVXLANPort says to which UDP port VXLAN goes besides 4789, 0: none. From then on drops of such packets have their VNI, and
// no source port. It may be called while other methods are.
func (d *Drops) SetVXLANPort(port uint16) error {
	if err := d.objects.VXLANPort.Set(port); err != nil {
		return fmt.Errorf("tell drops of the VXLAN port %d: %w", port, err)
	}
	return nil
}

// Read returns all drops since the last Read. After an error some may come with the next one; none is lost.
func (d *Drops) Read() ([]Drop, error) {
	var keys []dropDropKey
	var values []dropDropValue
	collect := func(k *dropDropKey, v *dropDropValue) {
		keys = append(keys, *k)
		values = append(values, *v)
	}
	err := errors.Join(d.detail.drain(collect), d.other.drain(collect))
	if d.symbols != nil {
		locations := make([]uint64, len(keys))
		for i := range keys {
			locations[i] = keys[i].Location
		}
		err = errors.Join(err, d.symbols.resolve(locations))
	}
	drops := make([]Drop, len(keys))
	for i := range keys {
		drops[i] = d.drop(&keys[i], &values[i])
	}
	return drops, err
}

func (d *Drops) drop(k *dropDropKey, v *dropDropValue) Drop {
	has := func(flag dropDropFlag) bool { return dropDropFlag(k.Flags)&flag != 0 }
	drop := Drop{
		Counts:          Counts{Skbs: v.Skbs, Packets: v.Packets, Bytes: v.Bytes},
		Reason:          d.reasons.name(k.Reason),
		Netns:           Netns(k.Netns),
		Device:          int(k.Ifindex),
		DeviceName:      text(v.Device[:]),
		DeviceKind:      text(v.Kind[:]),
		InDevice:        int(k.Iif),
		Outgoing:        has(dropDropFlagDROP_OUT),
		Routed:          has(dropDropFlagDROP_ROUTED),
		EtherType:       k.EthProto,
		Protocol:        k.Protocol,
		Source:          address(k.Saddr),
		Destination:     address(k.Daddr),
		SourcePort:      k.Sport,
		DestinationPort: k.Dport,
		VXLAN:           has(dropDropFlagDROP_VXLAN_OUTER),
		VNI:             k.Vni,
		Cgroup:          text(v.Cgroup[:]),
		Other:           has(dropDropFlagDROP_OTHER),
		Unparsed:        has(dropDropFlagDROP_UNPARSED),
		Fragment:        has(dropDropFlagDROP_FRAGMENT),
	}
	if d.symbols != nil {
		drop.Function = d.symbols.name(k.Location)
	}
	// The rest is the entry's first packet's, and an entry without addresses holds packets of many.
	if drop.Other {
		drop.Cgroup = ""
		return drop
	}
	drop.LinkDown = v.LinkDown != 0
	drop.TCPFlags = v.TcpFlags
	if v.HasMac != 0 {
		drop.DestinationMAC, drop.SourceMAC = [6]byte(v.Macs[:6]), [6]byte(v.Macs[6:])
	}
	if v.HasConntrack != 0 {
		drop.Initiator, drop.Responder, drop.DNAT = address(v.Initiator), address(v.Responder), v.HasDnat != 0
	}
	return drop
}

// Losses says what could not be recorded in full since the start: events that the kernel kept from the program
// (recursion), packets that lost their addresses to a full table (table_full), packets not counted by any table (lost),
// and headers that could not be read (unparsed).
func (d *Drops) Losses() ([]Loss, error) {
	counters, err := readPerCPU(d.objects.Counters)
	if err != nil {
		return nil, err
	}
	_, missed, err := programCost("drop_kfree_skb", d.objects.KfreeSkb)
	if err != nil {
		return nil, err
	}
	return []Loss{
		{Place: "recursion", Count: missed},
		{Place: "table_full", Count: counters[dropDropCounterDROP_TABLE_FULL]},
		{Place: "lost", Count: counters[dropDropCounterDROP_LOST]},
		{Place: "unparsed", Count: counters[dropDropCounterDROP_NOT_PARSED]},
	}, nil
}

// Costs says what the program has cost, while the kernel measured it.
func (d *Drops) Costs() ([]ProgramCost, error) {
	cost, _, err := programCost("drop_kfree_skb", d.objects.KfreeSkb)
	return []ProgramCost{cost}, err
}

// Usage says how full the tables were at the last Read.
func (d *Drops) Usage() []MapUsage { return []MapUsage{d.detail.usage(), d.other.usage()} }

// Close detaches the program. What was not read is lost.
func (d *Drops) Close() error {
	var errs []error
	if d.tracing != nil {
		errs = append(errs, d.tracing.Close())
	}
	if d.symbols != nil {
		errs = append(errs, d.symbols.close())
	}
	for _, t := range []*table[dropDropKey, dropDropValue]{d.detail, d.other} {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	errs = append(errs, closeAll(d.objects.KfreeSkb, d.objects.Drops, d.objects.DropsOther, d.objects.Counters))
	return errors.Join(errs...)
}
