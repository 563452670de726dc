// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// Process is a process and the network namespace that it lives in.
type Process struct {
	Netns      Netns
	NetnsInode uint32
	PID        int            // of the thread group, as the host numbers it
	Ports      [maxPorts]Port // the namespace's veths that lead to the host's; those not in use are zero
	Cgroup     string         // name of the nearest cgroup that can be a container's; "" if there is none
}

const maxPorts = 4

// Port is a veth of a container's namespace and its other end in the host's.
type Port struct {
	Index int // ifindex in the container
	Peer  int // ifindex in the host's namespace
}

// Execs tells which processes, and so which containers, live in which network namespace.
type Execs struct {
	objects  execKernel
	tracing  link.Link
	iterator *link.Iter
	reader   *ringbuf.Reader
}

type execKernel struct {
	Started *ebpf.Program `ebpf:"exec_started"`
	Running *ebpf.Program `ebpf:"exec_running"`
	Execs   *ebpf.Map     `ebpf:"execs"`
	Lost    *ebpf.Map     `ebpf:"exec_lost"`
}

// OpenExecs loads the programs and attaches them. Needs 5.10, BTF, CAP_BPF and CAP_PERFMON.
func OpenExecs() (*Execs, error) {
	e := &Execs{}
	if err := e.open(); err != nil {
		return nil, errors.Join(explain(err), e.Close())
	}
	return e, nil
}

func (e *Execs) open() error {
	allowMemory()
	spec, err := loadExec()
	if err != nil {
		return fmt.Errorf("load exec object: %w", err)
	}
	inode, err := HostNetnsInode()
	if err != nil {
		return err
	}
	if err := spec.Variables["config"].Set(execExecConfig{HostNetns: inode}); err != nil {
		return fmt.Errorf("configure exec object: %w", err)
	}
	if err := spec.LoadAndAssign(&e.objects, nil); err != nil {
		return fmt.Errorf("load exec object: %w", err)
	}
	if e.reader, err = ringbuf.NewReader(e.objects.Execs); err != nil {
		return fmt.Errorf("open ring of processes: %w", err)
	}
	if e.iterator, err = link.AttachIter(link.IterOptions{Program: e.objects.Running}); err != nil {
		return fmt.Errorf("attach process iterator: %w", err)
	}
	if e.tracing, err = link.AttachTracing(link.TracingOptions{Program: e.objects.Started}); err != nil {
		return fmt.Errorf("attach to tracepoint sched_process_exec: %w", err)
	}
	return nil
}

// Running lists all processes of the machine with their namespaces. It may be called at any time.
func (e *Execs) Running() ([]Process, error) {
	stream, err := e.iterator.Open()
	if err != nil {
		return nil, fmt.Errorf("iterate over processes: %w", err)
	}
	defer stream.Close()
	var processes []Process
	for {
		var record execExecProcess
		err := binary.Read(stream, binary.NativeEndian, &record)
		if errors.Is(err, io.EOF) {
			return processes, nil
		}
		if err != nil {
			return nil, fmt.Errorf("iterate over processes: %w", err)
		}
		processes = append(processes, record.process())
	}
}

// Run calls started for every process that a container starts in a network namespace other than the host's, before that process
// runs its first instruction's worth of network traffic. It returns when ctx ends, and closes the ring.
func (e *Execs) Run(ctx context.Context, started func(Process)) error {
	stop := context.AfterFunc(ctx, func() { e.reader.Close() })
	defer stop()
	var sample ringbuf.Record
	for {
		err := e.reader.ReadInto(&sample)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read ring of processes: %w", err)
		}
		var record execExecProcess
		if _, err := binary.Decode(sample.RawSample, binary.NativeEndian, &record); err != nil {
			return fmt.Errorf("read ring of processes: %w", err)
		}
		started(record.process())
	}
}

func (r *execExecProcess) process() Process {
	process := Process{Netns: Netns(r.Netns), NetnsInode: r.NetnsInode, PID: int(r.Pid), Cgroup: text(r.Cgroup[:])}
	for i, p := range r.Ports {
		process.Ports[i] = Port{Index: int(p.Ifindex), Peer: int(p.Peer)}
	}
	return process
}

// Losses says how many starts the ring had no room for.
func (e *Execs) Losses() ([]Loss, error) {
	lost, err := readPerCPU(e.objects.Lost)
	if err != nil {
		return nil, err
	}
	return []Loss{{Place: "ring_full", Count: lost[0]}}, nil
}

// Costs says what the program has cost, while the kernel measured it.
func (e *Execs) Costs() ([]ProgramCost, error) {
	cost, _, err := programCost("exec_started", e.objects.Started)
	return []ProgramCost{cost}, err
}

// Close detaches the programs.
func (e *Execs) Close() error {
	var errs []error
	if e.tracing != nil {
		errs = append(errs, e.tracing.Close())
	}
	if e.iterator != nil {
		errs = append(errs, e.iterator.Close())
	}
	if e.reader != nil {
		errs = append(errs, e.reader.Close())
	}
	return errors.Join(append(errs, closeAll(e.objects.Started, e.objects.Running, e.objects.Execs, e.objects.Lost))...)
}
