// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// natProgram tells of connections whose packets leave by a device. Its methods must not be called concurrently.
type natProgram struct {
	objects   natKernel
	tracing   link.Link
	reader    *ringbuf.Reader
	clock     kernelClock
	sample    ringbuf.Record
	endpoints map[NATEndpoint]bool // in the kernel's map, plain
	local     *localAnswers
}

// natKernel is what is loaded of the object.
type natKernel struct {
	NetDevQueue  *ebpf.Program `ebpf:"nat_net_dev_queue"`
	FilterEvents *ebpf.Program `ebpf:"nat_filter_events"`
	Connections  *ebpf.Map     `ebpf:"nat_connections"`
	Endpoints    *ebpf.Map     `ebpf:"nat_endpoints"`
	Records      *ebpf.Map     `ebpf:"nat_records"`
	Counters     *ebpf.Map     `ebpf:"nat_counters"`
}

// natRecord is what the program tells of a connection: that it was opened or, if answered, that its first answer left.
// Device and Local are of the first packet in both.
type natRecord struct {
	NATEvent
	answered bool
}

// openNATProgram loads the programs and attaches the one that is for packets. hostNetns is the inode number of the host's
// namespace, which is the calling thread's. Needs 5.10, BTF, CAP_BPF and CAP_PERFMON.
func openNATProgram(config NATConfig, hostNetns uint32) (*natProgram, error) {
	p := &natProgram{endpoints: make(map[NATEndpoint]bool), local: newLocalAnswers()}
	if err := p.open(config, hostNetns); err != nil {
		return nil, errors.Join(explain(err), p.Close())
	}
	return p, nil
}

func (p *natProgram) open(config NATConfig, hostNetns uint32) (err error) {
	if p.clock, err = newKernelClock(); err != nil {
		return err
	}
	allowMemory()
	if err := requireConntrackTypes(); err != nil {
		return err
	}
	spec, err := loadNat()
	if err != nil {
		return fmt.Errorf("load nat object: %w", err)
	}
	if config.RingSize != 0 {
		spec.Maps["nat_records"].MaxEntries = config.RingSize
	}
	if config.Connections != 0 {
		spec.Maps["nat_connections"].MaxEntries = config.Connections
	}
	if err := spec.Variables["config"].Set(natNatConfig{HostNetns: hostNetns}); err != nil {
		return fmt.Errorf("configure nat object: %w", err)
	}
	if err := spec.LoadAndAssign(&p.objects, nil); err != nil {
		return fmt.Errorf("load nat object: %w", err)
	}
	if p.reader, err = ringbuf.NewReader(p.objects.Records); err != nil {
		return fmt.Errorf("open ring of connections: %w", err)
	}
	if p.tracing, err = link.AttachTracing(link.TracingOptions{Program: p.objects.NetDevQueue}); err != nil {
		return fmt.Errorf("attach to tracepoint net_dev_queue: %w", err)
	}
	return nil
}

// requireConntrackTypes looks whether the kernel says how its entries are laid out: without that the program would load and
// never tell anything.
func requireConntrackTypes() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("load kernel BTF: %w", err)
	}
	var entry *btf.Struct
	if err := kernel.TypeByName("nf_conn", &entry); err != nil {
		return fmt.Errorf("find conntrack's entries in the kernel's BTF: %w", err)
	}
	return nil
}

// read visits what is in the ring now, oldest first, up to limit, and does not wait for more; then the connections of the host's
// own processes that were answered meanwhile.
func (p *natProgram) read(limit int, visit func(natRecord)) error {
	origin := p.clock.origin()
	p.reader.SetDeadline(time.Unix(1, 0)) // past: what is there is still read
	for range limit {
		err := p.reader.ReadInto(&p.sample)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return fmt.Errorf("read ring of connections: %w", err)
		}
		var record natNatRecord
		if _, err := binary.Decode(p.sample.RawSample, binary.NativeEndian, &record); err != nil {
			return fmt.Errorf("read ring of connections: %w", err)
		}
		told := record.natRecord(origin)
		p.local.see(&told)
		visit(told)
	}
	return p.local.ask(time.Now(), visit)
}

func (r *natNatRecord) natRecord(origin time.Time) natRecord {
	record := natRecord{answered: r.Event == uint8(natNatEventNAT_ANSWERED)}
	record.At = origin.Add(time.Duration(r.TimeNs))
	record.Tracked = Tracked{
		Netns:          Netns(r.Netns),
		NetnsID:        -1,
		Protocol:       r.Protocol,
		Original:       r.Original.tuple(),
		Reply:          r.Reply.tuple(),
		SourceNAT:      r.Status&statusSourceNAT != 0,
		DestinationNAT: r.Status&statusDestNAT != 0,
		Device:         int(r.Ifindex),
		Local:          r.Local != 0,
	}
	switch natNatMasquerade(r.Masquerade) {
	case natNatMasqueradeNAT_MASQUERADE_ON:
		record.Masqueraded = On
	case natNatMasqueradeNAT_MASQUERADE_OFF:
		record.Masqueraded = Off
	}
	return record
}

func (t *natNatTuple) tuple() Tuple {
	return Tuple{
		Source:      netip.AddrPortFrom(address(t.Saddr), hostOrder(t.Sport)),
		Destination: netip.AddrPortFrom(address(t.Daddr), hostOrder(t.Dport)),
	}
}

// hostOrder turns a number of 16 bits in network order into one in the machine's, and back.
func hostOrder(network uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], network)
	return binary.BigEndian.Uint16(b[:])
}

// setEndpoints says of which connections in the host's namespace to tell though nothing translates them: as many of the
// wanted as there is room for, in their order. An endpoint that was there before is not missing for a moment. After an error
// endpoints says which are there.
func (p *natProgram) setEndpoints(wanted map[NATEndpoint]bool) error {
	chosen := slices.SortedFunc(maps.Keys(wanted), compareEndpoints)
	var errs []error
	if room := int(p.objects.Endpoints.MaxEntries()); len(chosen) > room {
		errs = append(errs, fmt.Errorf("set endpoints: no room for %d of %d", len(chosen)-room, len(chosen)))
		chosen = chosen[:room]
	}
	keep := make(map[NATEndpoint]bool, len(chosen))
	for _, e := range chosen {
		keep[e] = true
	}
	for e := range p.endpoints {
		if keep[e] {
			continue
		}
		if err := p.objects.Endpoints.Delete(newNATEndpoint(e)); err != nil {
			return errors.Join(append(errs, fmt.Errorf("remove endpoint: %w", err))...)
		}
		delete(p.endpoints, e)
	}
	for _, e := range chosen {
		if p.endpoints[e] {
			continue
		}
		if err := p.objects.Endpoints.Put(newNATEndpoint(e), uint8(1)); err != nil {
			return errors.Join(append(errs, fmt.Errorf("add endpoint: %w", err))...)
		}
		p.endpoints[e] = true
	}
	return errors.Join(errs...)
}

func compareEndpoints(a, b NATEndpoint) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
}

// newNATEndpoint turns a plain endpoint into the kernel's.
func newNATEndpoint(e NATEndpoint) natNatEndpoint {
	endpoint := natNatEndpoint{Port: hostOrder(e.Port), Protocol: e.Protocol}
	if !e.Address.IsValid() {
		return endpoint
	}
	for i, b := 0, e.Address.As16(); i < len(endpoint.Address); i++ {
		endpoint.Address[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return endpoint
}

// filterFD returns the descriptor of the program that chooses from conntrack's events, to attach to a socket. It remains
// the natProgram's.
func (p *natProgram) filterFD() int { return p.objects.FilterEvents.FD() }

// losses says what was not told since the start: records that found the ring full (ring_full), packets that the kernel kept
// from the program (recursion), connections that there was no room to remember (not_remembered), and those of the host's own
// processes that were too many to wait for their answer (not_awaited).
func (p *natProgram) losses() ([]Loss, error) {
	counters, err := readPerCPU(p.objects.Counters)
	if err != nil {
		return nil, err
	}
	_, missed, err := programCost("nat_net_dev_queue", p.objects.NetDevQueue)
	if err != nil {
		return nil, err
	}
	return []Loss{
		{Place: "ring_full", Count: counters[natNatCounterNAT_RING_FULL]},
		{Place: "recursion", Count: missed},
		{Place: "not_remembered", Count: counters[natNatCounterNAT_NOT_REMEMBERED]},
		{Place: "not_awaited", Count: p.local.refused},
	}, nil
}

// costs says what the programs have cost, while the kernel measured them.
func (p *natProgram) costs() ([]ProgramCost, error) {
	packets, _, err := programCost("nat_net_dev_queue", p.objects.NetDevQueue)
	if err != nil {
		return nil, err
	}
	events, _, err := programCost("nat_filter_events", p.objects.FilterEvents)
	return []ProgramCost{packets, events}, err
}

// Close detaches the program. What was not read is lost.
func (p *natProgram) Close() error {
	var errs []error
	if p.tracing != nil {
		errs = append(errs, p.tracing.Close())
	}
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	errs = append(errs, p.local.close())
	o := &p.objects
	errs = append(errs, closeAll(o.NetDevQueue, o.FilterEvents, o.Connections, o.Endpoints, o.Records, o.Counters))
	return errors.Join(errs...)
}
