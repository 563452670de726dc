// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// LongPacket is how many bytes a packet must have at least for a Dropper to drop it. Nothing that a host or a container
// sends on its own (address resolution, multicast) is that long.
const LongPacket = 700

// Dropper is somebody else's BPF program on a device: it drops long packets and counts them.
type Dropper struct{ count *ebpf.Map }

// DropXDP drops long packets that a device of the host receives, in the device's driver or, if generic, in the stack.
func DropXDP(tb testing.TB, device string, generic bool) *Dropper {
	tb.Helper()
	d, prog := newDropper(tb, ebpf.XDP, 1, 2, // XDP_DROP, XDP_PASS
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Add.Imm(asm.R2, LongPacket),
		asm.JGT.Reg(asm.R2, asm.R3, "pass"),
	)
	flags := link.XDPDriverMode
	if generic {
		flags = link.XDPGenericMode
	}
	attached, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex(tb, device), Flags: flags})
	if err != nil {
		tb.Fatalf("attach XDP program to %s: %v", device, err)
	}
	tb.Cleanup(func() { attached.Close() })
	return d
}

// DropTC drops long packets that a device of the host receives, or that it sends, by a clsact filter as `tc filter add` makes it.
func DropTC(tb testing.TB, device string, egress bool) *Dropper {
	tb.Helper()
	d, prog := newDropper(tb, ebpf.SchedCLS, 2, -1, // TC_ACT_SHOT, TC_ACT_UNSPEC
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // len
		asm.JLT.Imm(asm.R2, LongPacket, "pass"),
	)
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	clsact := &netlink.GenericQdisc{
		QdiscType: "clsact",
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex(tb, device),
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
	}
	if err := netlink.QdiscReplace(clsact); err != nil {
		tb.Fatalf("add clsact to %s: %v", device, err)
	}
	tb.Cleanup(func() { _ = netlink.QdiscDel(clsact) })
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex(tb, device), Parent: parent, Handle: 1, Priority: 1, Protocol: 3, // ETH_P_ALL
		},
		Fd: prog.FD(), Name: "dropper", DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		tb.Fatalf("add filter to %s: %v", device, err)
	}
	return d
}

// Packets returns how many packets the program has dropped.
func (d *Dropper) Packets(tb testing.TB) uint64 {
	tb.Helper()
	var n uint64
	if err := d.count.Lookup(uint32(0), &n); err != nil {
		tb.Fatalf("read dropper's count: %v", err)
	}
	return n
}

// newDropper loads a program that counts and drops a packet, unless the first instructions jump to "pass".
func newDropper(tb testing.TB, kind ebpf.ProgramType, drop, pass int32, isLong ...asm.Instruction) (*Dropper, *ebpf.Program) {
	tb.Helper()
	count, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "dropper", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	})
	if err != nil {
		tb.Fatalf("make map: %v", err)
	}
	tb.Cleanup(func() { count.Close() })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "dropper", Type: kind, License: "GPL",
		Instructions: append(isLong,
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, count.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, drop),
			asm.Return(),
			asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
			asm.Return(),
		),
	})
	if err != nil {
		tb.Fatalf("load dropper: %v", err)
	}
	tb.Cleanup(func() { prog.Close() })
	return &Dropper{count}, prog
}

func ifindex(tb testing.TB, device string) int {
	tb.Helper()
	l, err := netlink.LinkByName(device)
	if err != nil {
		tb.Fatalf("find device %s: %v", device, err)
	}
	return l.Attrs().Index
}
