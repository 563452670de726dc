// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ReadSandbox enters a network namespace of the engine and reads what is in it. ErrNetnsGone: it is no more. What is there now is
// read, and numbered: an overlay that was made anew has its path, and may have its number, from the one before. The namespace is
// held only while this reads, for about a millisecond. connections is how many of IPVS may still be looked at one by one, of
// [MaxIPVSConnections] for all namespaces together; what there are is taken off. It may be called concurrently. Needs CAP_SYS_ADMIN,
// and CAP_DAC_READ_SEARCH if the folder is another user's.
func ReadSandbox(sandbox Sandbox, connections *int) (SandboxState, error) {
	s := SandboxState{Sandbox: sandbox}
	file, err := openNetns(sandbox.Path)
	if err != nil {
		return SandboxState{}, fmt.Errorf("read sandbox: %w", err)
	}
	defer file.Close()
	if s.NetnsID, err = netnsIDOf(file); err != nil {
		s.Errors = append(s.Errors, err)
	}
	err = inNetnsOf(file, func() error {
		s.read(connections)
		return nil
	})
	if err != nil {
		return SandboxState{}, fmt.Errorf("read sandbox: %w", err)
	}
	return s, nil
}

// read reads the calling thread's namespace.
func (s *SandboxState) read(connections *int) {
	s.Netns = OwnNetns()
	readIPVS := func() error { return s.readIPVS(connections) }
	for _, read := range []func() error{s.readLinks, s.readFDB, s.readNeighbours, s.readForwarding, readIPVS} {
		if err := read(); err != nil {
			s.Errors = append(s.Errors, err)
		}
	}
}

func (s *SandboxState) readLinks() error {
	found, err := allLinks()
	if err != nil {
		return err
	}
	for _, l := range found {
		s.Links = append(s.Links, newLink(l))
		if vxlan, ok := l.(*netlink.Vxlan); ok {
			s.VXLANs = append(s.VXLANs, newVXLAN(vxlan))
		}
	}
	return nil
}

func newVXLAN(found *netlink.Vxlan) VXLAN {
	vxlan := VXLAN{
		Index: found.Index, Name: found.Name,
		VNI: uint32(found.VxlanId), Port: uint16(found.Port),
		Learning: found.Learning, Proxy: found.Proxy,
		MTU: found.MTU, Up: found.RawFlags&unix.IFF_UP != 0,
	}
	if local, ok := netip.AddrFromSlice(found.SrcAddr); ok {
		vxlan.Local = local
	}
	if counters := found.Statistics; counters != nil {
		vxlan.TXDropped, vxlan.TXCarrierErrors = counters.TxDropped, counters.TxCarrierErrors
	}
	return vxlan
}

func (s *SandboxState) isVXLAN(device int) bool {
	return slices.ContainsFunc(s.VXLANs, func(v VXLAN) bool { return v.Index == device })
}

// readFDB lists the rows of the VXLAN devices' own tables. What the bridge has learned of them comes with the same listing.
func (s *SandboxState) readFDB() error {
	if len(s.VXLANs) == 0 {
		return nil
	}
	var found []netlink.Neigh
	err := untilWhole(func() (err error) {
		found, err = netlink.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE})
		return err
	})
	if err != nil {
		return fmt.Errorf("list forwarding tables: %w (%s)", err, needsNetlink)
	}
	for i := range found {
		row := &found[i]
		if row.Flags&netlink.NTF_SELF == 0 || !s.isVXLAN(row.LinkIndex) {
			continue
		}
		// The kernel moves no row with one of these states to another node, and none ages (vxlan_snoop, vxlan_cleanup).
		entry := FDBEntry{Device: row.LinkIndex, Permanent: row.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0}
		if len(row.HardwareAddr) == len(entry.MAC) {
			copy(entry.MAC[:], row.HardwareAddr)
		}
		if peer, ok := netip.AddrFromSlice(row.IP); ok {
			entry.Peer = peer
		}
		s.FDB = append(s.FDB, entry)
	}
	return nil
}

func (s *SandboxState) readNeighbours() error {
	if len(s.VXLANs) == 0 {
		return nil
	}
	var all HostState
	if err := all.readNeighbours(); err != nil {
		return err
	}
	for _, n := range all.Neighbours {
		if s.isVXLAN(n.Device) {
			s.Neighbours = append(s.Neighbours, n)
		}
	}
	return nil
}

func (s *SandboxState) readForwarding() (err error) {
	s.Forwarding, err = readSwitch("ipv4/ip_forward")
	return err
}

// readIPVS reads what load balancers and the mesh spread.
func (s *SandboxState) readIPVS(connections *int) error {
	if s.Kind != SandboxLoadBalancer && s.Kind != SandboxIngress {
		return nil
	}
	var err, reuseErr error
	s.IPVS, s.NoIPVS, err = readIPVS(connections)
	s.PortReuse, reuseErr = readPortReuse()
	return errors.Join(err, reuseErr)
}
