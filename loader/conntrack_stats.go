// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ConntrackStats is what connection tracking says of one network namespace. The counters are since its birth, and those of a
// processor begin again after 2^32 (include/linux/netfilter/nf_conntrack_common.h, ip_conntrack_stat).
type ConntrackStats struct {
	Entries      int    // tracked right now
	InsertFailed uint64 // new connections whose place was taken when they were to be entered: their first packet is lost
	Drop         uint64 // packets lost for want of an entry: those, and what found the table full
	EarlyDrop    uint64 // entries given up for others, since the table was full
	Invalid      uint64 // packets that belong to no connection, or do not fit into theirs: NAT leaves them as they are
}

// Since returns how much the counters of one and the same namespace have grown, and its entries of now. Each is the sum of one of
// 32 bits for each processor, and so right but for multiples of 2^32, however many of them have begun again. A namespace as old as
// the machine is never new; the kernel's module may be, and then the sums fall by less than half of that.
func (s ConntrackStats) Since(before ConntrackStats) ConntrackStats {
	grown := func(before, now uint64) uint64 {
		switch wrapped := uint32(now - before); {
		case now >= before:
			return now - before
		case wrapped < 1<<31:
			return uint64(wrapped)
		}
		return now
	}
	return ConntrackStats{
		Entries: s.Entries, InsertFailed: grown(before.InsertFailed, s.InsertFailed), Drop: grown(before.Drop, s.Drop),
		EarlyDrop: grown(before.EarlyDrop, s.EarlyDrop), Invalid: grown(before.Invalid, s.Invalid),
	}
}

// From include/uapi/linux/netfilter/nfnetlink_conntrack.h: what ctnetlink says of one processor, each 32 bits, big endian.
const (
	ctGetStatsCPU   = 4 // IPCTNL_MSG_CT_GET_STATS_CPU
	ctaInvalid      = 4
	ctaInsertFailed = 9
	ctaDrop         = 10
	ctaEarlyDrop    = 11
)

// sizeofNfgenmsg is the header that netfilter's messages begin with (include/uapi/linux/netfilter/nfnetlink.h, nfgenmsg).
const sizeofNfgenmsg = 4

// readConntrackStats reads what connection tracking has counted in this namespace. A kernel that tracks nothing has nothing
// to say.
func (s *HostState) readConntrackStats() error {
	if s.Conntrack.Limit == 0 {
		return nil
	}
	stats, err := hostConntrackStats("/proc/thread-self/net/stat/nf_conntrack", s.Conntrack.Entries)
	if err == nil {
		s.ConntrackStats = &stats
	}
	return err
}

// hostConntrackStats reads the counters from procfs, else asks ctnetlink, since kernels may leave out the former
// (CONFIG_NF_CONNTRACK_PROCFS). That does not say how many entries there are.
func hostConntrackStats(path string, entries int) (ConntrackStats, error) {
	stats, err := readConntrackStats(path)
	if !errors.Is(err, os.ErrNotExist) {
		return stats, err
	}
	if stats, err = askConntrackStats(); err == nil {
		stats.Entries = entries
	}
	return stats, err
}

// readConntrackStats reads a namespace's /proc/PID/net/stat/nf_conntrack: a line of names, and one of hexadecimal numbers
// for each processor. The entries are the namespace's, the same in each line (net/netfilter/nf_conntrack_standalone.c,
// ct_cpu_seq_show).
func readConntrackStats(path string) (ConntrackStats, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return ConntrackStats{}, fmt.Errorf("read connection tracking's counters: %w", err)
	}
	stats, err := parseConntrackStats(text)
	if err != nil {
		return ConntrackStats{}, fmt.Errorf("read connection tracking's counters: %s: %w", path, err)
	}
	return stats, nil
}

func parseConntrackStats(text []byte) (stats ConntrackStats, err error) {
	var entries uint64
	counters := map[string]*uint64{
		"entries": &entries, "insert_failed": &stats.InsertFailed, "drop": &stats.Drop,
		"early_drop": &stats.EarlyDrop, "invalid": &stats.Invalid,
	}
	var columns []*uint64 // nil: not wanted
	processors := uint64(0)
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if columns == nil {
			for _, name := range fields {
				columns = append(columns, counters[string(name)])
			}
			continue
		}
		if len(fields) != len(columns) {
			return ConntrackStats{}, fmt.Errorf("%d names and %d values", len(columns), len(fields))
		}
		for i, counter := range columns {
			if counter == nil {
				continue
			}
			value, err := strconv.ParseUint(string(fields[i]), 16, 32)
			if err != nil {
				return ConntrackStats{}, err
			}
			*counter += value
		}
		processors++
	}
	if processors == 0 {
		return ConntrackStats{}, errors.New("no processor is listed")
	}
	stats.Entries = int(entries / processors)
	return stats, nil
}

// askConntrackStats asks ctnetlink for the counters of this namespace.
func askConntrackStats() (stats ConntrackStats, err error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|ctGetStatsCPU, unix.NLM_F_DUMP)
	request.AddRawData([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0})
	messages, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return ConntrackStats{}, fmt.Errorf("ask for connection tracking's counters: %w (%s)", err, needsNetlink)
	}
	for _, m := range messages {
		if len(m) < sizeofNfgenmsg {
			continue
		}
		for number, counter := range map[uint16]*uint64{
			ctaInsertFailed: &stats.InsertFailed, ctaDrop: &stats.Drop, ctaEarlyDrop: &stats.EarlyDrop, ctaInvalid: &stats.Invalid,
		} {
			if value := attribute(m[sizeofNfgenmsg:], number); len(value) == 4 {
				*counter += uint64(binary.BigEndian.Uint32(value))
			}
		}
	}
	return stats, nil
}
