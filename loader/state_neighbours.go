// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From include/uapi/linux/neighbour.h: attributes of a table, and where in two of them the numbers are that we need.
const (
	sizeofNdtmsg        = 4
	ndtaThresh3         = 4
	ndtaConfig          = 5
	ndtaStats           = 7
	ndtConfigEntries    = 4  // 32 bits
	ndtStatsTableFulls  = 80 // 64 bits
	neighbourTableReply = 3  // seconds to wait for it
)

// confirmed are the states in which the kernel uses an address without a doubt. In the delay before it asks again, and while
// it asks, the answer is seconds old.
const confirmed = netlink.NUD_REACHABLE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT

// readNeighbours lists who the host knows on its links, both families at once.
func (s *HostState) readNeighbours() error {
	var found []netlink.Neigh
	err := untilWhole(func() (err error) {
		found, err = netlink.NeighListExecute(netlink.Ndmsg{Family: unix.AF_UNSPEC})
		return err
	})
	if err != nil {
		return fmt.Errorf("list neighbours: %w (%s)", err, needsNetlink)
	}
	for i := range found {
		n := &found[i]
		address, ok := netip.AddrFromSlice(n.IP)
		if !ok || n.State&netlink.NUD_NOARP != 0 {
			continue
		}
		neighbour := Neighbour{
			Device: n.LinkIndex, Address: address,
			Failed: n.State&netlink.NUD_FAILED != 0, Confirmed: n.State&confirmed != 0,
		}
		if len(n.HardwareAddr) == len(neighbour.MAC) {
			copy(neighbour.MAC[:], n.HardwareAddr)
		}
		s.Neighbours = append(s.Neighbours, neighbour)
	}
	return nil
}

// readNeighbourTables reads how full the kernel's two tables are. Procfs says the same, but in the first network
// namespace only.
func (s *HostState) readNeighbourTables() error {
	for family, table := range map[uint8]*Table{unix.AF_INET: &s.Neighbours4, unix.AF_INET6: &s.Neighbours6} {
		found, err := readNeighbourTable(family)
		if err != nil {
			return fmt.Errorf("read neighbour table: %w (%s)", err, needsNetlink)
		}
		*table = found
	}
	return nil
}

// readNeighbourTable asks for a family's table. The kernel goes on to each link's settings, but only when these are
// fetched; the first message is all that is needed.
func readNeighbourTable(family uint8) (Table, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return Table{}, err
	}
	defer socket.Close()
	if err := socket.SetReceiveTimeout(&unix.Timeval{Sec: neighbourTableReply}); err != nil {
		return Table{}, err
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGHTBL, unix.NLM_F_DUMP)
	request.AddRawData([]byte{family, 0, 0, 0})
	if err := socket.Send(request); err != nil {
		return Table{}, err
	}
	messages, _, err := socket.Receive()
	if err != nil {
		return Table{}, err
	}
	if len(messages) == 0 || messages[0].Header.Type != unix.RTM_NEWNEIGHTBL {
		return Table{}, nil // the family is not there
	}
	return parseNeighbourTable(messages[0].Data)
}

func parseNeighbourTable(m []byte) (Table, error) {
	if len(m) < sizeofNdtmsg {
		return Table{}, errors.New("message is too short")
	}
	attributes := m[sizeofNdtmsg:]
	config, limit := attribute(attributes, ndtaConfig), attribute(attributes, ndtaThresh3)
	if len(config) < ndtConfigEntries+4 || len(limit) < 4 {
		return Table{}, errors.New("message lacks the number of entries")
	}
	table := Table{
		Entries: int(binary.NativeEndian.Uint32(config[ndtConfigEntries:])),
		Limit:   int(binary.NativeEndian.Uint32(limit)),
	}
	if stats := attribute(attributes, ndtaStats); len(stats) >= ndtStatsTableFulls+8 {
		table.Overflows = binary.NativeEndian.Uint64(stats[ndtStatsTableFulls:])
	}
	return table, nil
}
