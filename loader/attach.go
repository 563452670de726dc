// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is one that the flow programs are attached to.
type device struct {
	kind     string
	hooks    []hook
	programs *flowPair // a copy of its own, or nil
	sandbox  string    // path of the namespace that it is in; "": the one that it was attached in, or wherever it went since
	place    place     // of an overlay's
	carried  uint64    // what it had carried when it was left out at first, in packets
	gone     bool      // from the kernel; its last counts are still to be read

	otherRX, otherTX Counts // of flows_other, as last read
}

// hook is one attachment.
type hook interface{ Close() error }

// detach takes the programs off the device.
func (d *device) detach() error {
	var errs []error
	for _, h := range d.hooks {
		errs = append(errs, h.Close())
	}
	d.hooks = nil
	if d.programs != nil {
		errs = append(errs, d.programs.close())
		d.programs = nil
	}
	return errors.Join(errs...)
}

// WatchOutside attaches to a device of the host's namespace through which a container, or a network, is reached: the
// host's end of a veth, a bridge. born: it came into being under the agent's eyes, so that whatever it carried before
// counts as a loss. Attaching takes about 20 ms, under the kernel's RTNL lock. Watching it twice does nothing.
func (f *Flows) WatchOutside(l Link, born bool) (DeviceID, error) {
	id := DeviceID(l.Index)
	return id, f.watch(id, l, &device{kind: l.Kind}, &f.objects.flowPair, born)
}

// WatchInside attaches to a macvlan or ipvlan child in the calling thread's namespace. With tcx the attachment follows the
// device into the container that it is made for.
func (f *Flows) WatchInside(l Link, born bool) (DeviceID, error) {
	return f.watchInside(l, "", born)
}

func (f *Flows) watchInside(l Link, sandbox string, born bool) (DeviceID, error) {
	return f.watchOwn(l, &device{kind: l.Kind, sandbox: sandbox}, false, born)
}

// watchOwn attaches a copy of the programs, with a number of its own, to a device of the calling thread's namespace.
func (f *Flows) watchOwn(l Link, d *device, outside, born bool) (DeviceID, error) {
	f.mu.Lock()
	id := f.nextOwn
	f.nextOwn++
	f.mu.Unlock()
	if err := f.makeRoom(id, l); err != nil { // before programs are loaded for nothing
		return 0, err
	}
	programs, err := f.copyFor(id, outside)
	if err != nil {
		return 0, errors.Join(err, f.objects.Other.Delete(uint32(id)))
	}
	d.programs = programs
	if err := f.watch(id, l, d, programs, born); err != nil {
		return 0, errors.Join(err, programs.close())
	}
	return id, nil
}

func (f *Flows) watch(id DeviceID, l Link, d *device, programs *flowPair, born bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.devices[id]
	if old != nil && !old.gone {
		return nil
	}
	if old != nil { // back before its last counts were read: go on from there
		d.otherRX, d.otherTX = old.otherRX, old.otherTX
	} else if err := f.makeRoom(id, l); err != nil {
		return err
	}
	before, err := packetsSeen(l.Index)
	if err == nil {
		err = f.attach(d, l, programs)
	}
	if err != nil {
		d.programs = nil // the caller's
		err = errors.Join(fmt.Errorf("watch %s: %w", l.Name, err), d.detach())
		if old == nil {
			err = errors.Join(err, f.objects.Other.Delete(uint32(id)))
		}
		return err
	}
	if born {
		f.beforeAttach += before - min(before, d.carried)
	}
	f.devices[id] = d
	return nil
}

// makeRoom makes the entry that the totals of a device are counted in when the table is full.
func (f *Flows) makeRoom(id DeviceID, l Link) error {
	if err := f.objects.Other.Put(uint32(id), flowFlowValue{}); err != nil {
		return fmt.Errorf("watch %s: make room for its totals: %w (%d devices can be watched)", l.Name, err, f.objects.Other.MaxEntries())
	}
	return nil
}

// packetsSeen reads the device's own counters.
func packetsSeen(index int) (uint64, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return 0, fmt.Errorf("read its counters: %w", err)
	}
	stats := l.Attrs().Statistics
	if stats == nil {
		return 0, nil
	}
	return stats.RxPackets + stats.TxPackets, nil
}

func (f *Flows) attach(d *device, l Link, programs *flowPair) error {
	for _, side := range []struct {
		program *ebpf.Program
		tcx     ebpf.AttachType
		parent  uint32
	}{
		{programs.Ingress, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
		{programs.Egress, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
	} {
		h, err := f.attachSide(l, d, side.program, side.tcx, side.parent)
		if err != nil {
			return err
		}
		d.hooks = append(d.hooks, h)
	}
	return nil
}

func (f *Flows) attachSide(l Link, d *device, program *ebpf.Program, at ebpf.AttachType, parent uint32) (hook, error) {
	h, err := f.attachFirst(l.Index, program, at, parent, flowHandle)
	switch {
	case err != nil || d.sandbox == "" || !f.clsact:
		return h, err
	case d.place != place{}:
		return &overlayHook{path: d.sandbox, place: d.place, inner: h}, nil
	default:
		return &sandboxHook{path: d.sandbox, index: l.Index, inner: h}, nil
	}
}

// attacher attaches programs of type tc to devices of the calling thread's namespace.
type attacher struct {
	clsact bool // the kernel has no tcx
}

// attachFirst puts the program first, so that nobody else's verdict hides a packet from it. A kernel without tcx (before
// 6.6) has clsact, where handle tells our signals' filters apart.
func (a *attacher) attachFirst(index int, program *ebpf.Program, at ebpf.AttachType, parent, handle uint32) (hook, error) {
	if !a.clsact {
		h, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: at, Anchor: link.Head()})
		if !errors.Is(err, ebpf.ErrNotSupported) {
			if err != nil {
				return nil, fmt.Errorf("attach to %s: %w", at, err)
			}
			return h, nil
		}
		a.clsact = true
	}
	return attachClsact(index, program, parent, handle)
}

// Unwatch forgets a device that is gone from the kernel, or is no longer a container's, after its last counts are read.
func (f *Flows) Unwatch(id DeviceID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[id]
	if d == nil || d.gone {
		return nil
	}
	d.gone = true
	var errs []error
	if d.programs != nil {
		spent, err := d.programs.costs()
		errs = append(errs, err)
		f.spent.add(spent)
	}
	if err := d.detach(); err != nil && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unwatch device %d: %w", id, err)
	}
	return nil
}

// Knows tells whether a device is watched, or is gone and its last counts are still to be read.
func (f *Flows) Knows(id DeviceID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.devices[id] != nil
}

// Devices counts the watched devices by kind.
func (f *Flows) Devices() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	kinds := make(map[string]int)
	for _, d := range f.devices {
		if !d.gone {
			kinds[d.kind]++
		}
	}
	return kinds
}

// SurvivesMove tells whether an attachment follows its device into another namespace: tcx does, clsact does not.
func (f *Flows) SurvivesMove() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.clsact
}
