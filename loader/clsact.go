// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What our filters look like on kernels without tcx. They outlive the process that made them, so a later one must know
// them: the same place and name replace what an agent that was killed left behind.
const (
	filterName     = "bridgewatch"
	filterPriority = 1
	flowHandle     = 0xb71d
	egressHandle   = 0xb71e
	overlayHandle  = 0xb71f // all may be on one device
)

// clsactHook is a filter of ours.
type clsactHook struct{ filter *netlink.BpfFilter }

// attachClsact puts a direct-action filter first in line. The qdisc that carries it may be somebody else's.
func attachClsact(index int, program *ebpf.Program, parent, handle uint32) (hook, error) {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add clsact: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent, Handle: handle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: filterName, DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return nil, fmt.Errorf("attach clsact filter: %w", err)
	}
	return &clsactHook{filter: filter}, nil
}

// Close removes the filter, and the qdisc if nothing else is on it. A device that is gone took both along.
func (h *clsactHook) Close() error {
	err := netlink.FilterDel(h.filter)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove clsact filter: %w", err)
	}
	return removeEmptyClsact(h.filter.LinkIndex)
}

// sandboxHook is one in a namespace that has to be entered to remove it.
type sandboxHook struct {
	path  string
	index int
	inner hook
}

// Close removes it there. A namespace that is gone took it along.
func (h *sandboxHook) Close() error {
	if err := inNetns(h.path, h.inner.Close); !errors.Is(err, ErrNetnsGone) {
		return err
	}
	return nil
}

// gone tells whether the device that it was on is no more.
func (h *sandboxHook) gone() bool {
	err := inNetns(h.path, func() error {
		_, err := netlink.LinkByIndex(h.index)
		return err
	})
	return errors.Is(err, ErrNetnsGone) || isLinkNotFound(err)
}

func removeEmptyClsact(index int) error {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil // gone with all that was on it
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil || len(filters) > 0 {
			return err
		}
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		return fmt.Errorf("list qdiscs of %s: %w", l.Attrs().Name, err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove clsact of %s: %w", l.Attrs().Name, err)
			}
		}
	}
	return nil
}

// DetachLeftovers removes what a killed agent left on the devices of the calling thread's namespace, and returns their
// names. With tcx there is never anything: the kernel cleans up.
func DetachLeftovers() ([]string, error) {
	links, err := allLinks()
	if err != nil {
		return nil, err
	}
	var cleaned []string
	for _, l := range links {
		found := false
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			ours, err := ourFilters(l, parent)
			if err != nil {
				return cleaned, err
			}
			for _, filter := range ours {
				found = true
				if err := (&clsactHook{filter: filter}).Close(); err != nil {
					return cleaned, err
				}
			}
		}
		if found {
			cleaned = append(cleaned, l.Attrs().Name)
		}
	}
	return cleaned, nil
}

// DetachLeftoversIn does the same in the network namespace at path.
func DetachLeftoversIn(path string) ([]string, error) {
	var cleaned []string
	err := inNetns(path, func() (err error) {
		cleaned, err = DetachLeftovers()
		return err
	})
	return cleaned, err
}

func ourFilters(l netlink.Link, parent uint32) ([]*netlink.BpfFilter, error) {
	filters, err := netlink.FilterList(l, parent)
	if err != nil {
		return nil, fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
	}
	var ours []*netlink.BpfFilter
	for _, filter := range filters {
		if bpf, ok := filter.(*netlink.BpfFilter); ok && bpf.Name == filterName {
			ours = append(ours, bpf)
		}
	}
	return ours, nil
}
