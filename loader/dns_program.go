// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// dnsProgram tells of the packets by which sockets ask name servers and are answered. Its methods must not be called
// concurrently, but for losses and costs.
type dnsProgram struct {
	objects dnsKernel
	links   []*link.RawLink
	reader  *ringbuf.Reader
	clock   kernelClock
	sample  ringbuf.Record
	waiting bool // sample is a record that is not visited yet
}

// dnsKernel is what is loaded of the object.
type dnsKernel struct {
	Egress   *ebpf.Program `ebpf:"dns_egress"`
	Ingress  *ebpf.Program `ebpf:"dns_ingress"`
	Packets  *ebpf.Map     `ebpf:"dns_packets"`
	Counters *ebpf.Map     `ebpf:"dns_counters"`
}

// wakeParts is in how many parts the ring is filled: with each, its reader is woken before its time.
const wakeParts = 4

// openDNSProgram loads the programs and attaches them at the root of cgroup v2. ringSize is in bytes, a power of two; 0: as
// the object says. Needs 5.10, BTF, CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and what [openCgroupRoot] needs.
func openDNSProgram(ringSize uint32) (*dnsProgram, error) {
	p := &dnsProgram{}
	if err := p.load(ringSize); err != nil {
		return nil, errors.Join(explain(err), p.Close())
	}
	root, err := openCgroupRoot()
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	defer root.Close()
	if err := p.attach(root); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *dnsProgram) load(ringSize uint32) (err error) {
	if p.clock, err = newKernelClock(); err != nil {
		return err
	}
	allowMemory()
	spec, err := loadDns()
	if err != nil {
		return fmt.Errorf("load dns object: %w", err)
	}
	ring := spec.Maps["dns_packets"]
	if ringSize != 0 {
		ring.MaxEntries = ringSize
	}
	if err := spec.Variables["config"].Set(dnsDnsConfig{PartBytes: ring.MaxEntries / wakeParts}); err != nil {
		return fmt.Errorf("configure dns object: %w", err)
	}
	if err := spec.LoadAndAssign(&p.objects, nil); err != nil {
		return fmt.Errorf("load dns object: %w", err)
	}
	if p.reader, err = ringbuf.NewReader(p.objects.Packets); err != nil {
		return fmt.Errorf("open ring of dns packets: %w", err)
	}
	return nil
}

// attach does so beside the programs of others. At the root they see the packets of all cgroups.
func (p *dnsProgram) attach(cgroup *os.File) error {
	for _, side := range []struct {
		program *ebpf.Program
		at      ebpf.AttachType
	}{
		{p.objects.Ingress, ebpf.AttachCGroupInetIngress},
		{p.objects.Egress, ebpf.AttachCGroupInetEgress},
	} {
		l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: side.program, Attach: side.at})
		if errors.Is(err, unix.EPERM) { // it is not for lack of privilege: who may load may attach
			return fmt.Errorf("attach %s to the root of cgroup v2: another program is there that allows no other (it was attached without BPF_F_ALLOW_MULTI); bpftool cgroup tree shows it", side.at)
		}
		if err != nil {
			return fmt.Errorf("attach %s to the root of cgroup v2: %w", side.at, err)
		}
		p.links = append(p.links, l)
	}
	return nil
}

// wait returns when a good part of the ring is full, or at that time.
func (p *dnsProgram) wait(until time.Time) error {
	if p.waiting {
		return nil
	}
	p.reader.SetDeadline(until)
	err := p.reader.ReadInto(&p.sample)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ring of dns packets: %w", err)
	}
	p.waiting = true
	return nil
}

// read visits what is in the ring now, oldest first, up to limit, and tells whether that was all. What visit is given is
// valid until it returns.
func (p *dnsProgram) read(limit int, visit func(*dnsPacket)) (bool, error) {
	origin := p.clock.origin()
	past := time.Unix(1, 0) // what is there is still read
	for range limit {
		if err := p.wait(past); err != nil {
			return false, err
		}
		if !p.waiting {
			return true, nil
		}
		p.waiting = false
		packet, err := parseDNSRecord(p.sample.RawSample, origin)
		if err != nil {
			return false, err
		}
		visit(&packet)
	}
	return false, nil
}

// parseDNSRecord reads a record of the ring: a header, and so much of the payload as was copied.
func parseDNSRecord(raw []byte, origin time.Time) (dnsPacket, error) {
	const size = int(unsafe.Sizeof(dnsDnsPacket{}))
	if len(raw) < size {
		return dnsPacket{}, fmt.Errorf("read ring of dns packets: record of %d bytes", len(raw))
	}
	// It is laid out as in C (structs.HostLayout). Taking it apart field by field costs more than all the rest.
	record := (*dnsDnsPacket)(unsafe.Pointer(unsafe.SliceData(raw)))
	if int(record.Copied) > len(raw)-size {
		return dnsPacket{}, fmt.Errorf("read ring of dns packets: %d bytes of payload in a record of %d", record.Copied, len(raw))
	}
	return dnsPacket{
		netns:       Netns(record.Netns),
		at:          origin.Add(time.Duration(record.TimeNs)),
		outgoing:    record.Outgoing != 0,
		protocol:    record.Protocol,
		source:      netip.AddrPortFrom(address(record.Saddr), hostOrder(record.Sport)),
		destination: netip.AddrPortFrom(address(record.Daddr), hostOrder(record.Dport)),
		flags:       record.TcpFlags,
		sequence:    record.Sequence,
		length:      int(record.Length),
		payload:     raw[size : size+int(record.Copied)],
	}, nil
}

// ringFull is how many packets found the ring full since the start.
func (p *dnsProgram) ringFull() (uint64, error) {
	counters, err := readPerCPU(p.objects.Counters)
	if err != nil {
		return 0, err
	}
	return counters[dnsDnsCounterDNS_RING_FULL], nil
}

// losses says what was not told since the start: packets that found the ring full (ring_full), and datagrams behind the
// first of several that a program had the kernel cut apart (segmented).
func (p *dnsProgram) losses() ([]Loss, error) {
	counters, err := readPerCPU(p.objects.Counters)
	if err != nil {
		return nil, err
	}
	return []Loss{
		{Place: "ring_full", Count: counters[dnsDnsCounterDNS_RING_FULL]},
		{Place: "segmented", Count: counters[dnsDnsCounterDNS_SEGMENTED]},
	}, nil
}

// costs says what the programs have cost, while the kernel measured them.
func (p *dnsProgram) costs() ([]ProgramCost, error) {
	egress, _, err := programCost("dns_egress", p.objects.Egress)
	if err != nil {
		return nil, err
	}
	ingress, _, err := programCost("dns_ingress", p.objects.Ingress)
	return []ProgramCost{egress, ingress}, err
}

// Close detaches the programs. What was not read is lost.
func (p *dnsProgram) Close() error {
	var errs []error
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	o := &p.objects
	return errors.Join(append(errs, closeAll(o.Egress, o.Ingress, o.Packets, o.Counters))...)
}
