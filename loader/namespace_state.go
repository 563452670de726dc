// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ReadNetns reads the counters of the network namespace that a process lives in, without entering it. ErrNetnsGone: the
// process has ended. The number of one that has may belong to another soon, in any namespace: the caller must know that it
// still is who it was. Links stays empty. It may be
// called concurrently. Takes about 50 µs, more on machines with many processors, whose counts the kernel adds up.
func (p Procfs) ReadNetns(pid int) (NetnsState, error) {
	process := strconv.Itoa(pid)
	var s NetnsState
	var err error
	// It may be missing although the process lives: that is told apart by the files after it, which every kernel has.
	s.Conntrack, err = readConntrackStats(p.file(process, "net/stat/nf_conntrack"))
	if err != nil && !gone(err) {
		return NetnsState{}, err
	}
	for _, table := range []struct {
		file     string
		prefix   string
		counters map[string]*uint64
	}{
		{"netstat", "TcpExt:", map[string]*uint64{"ListenOverflows": &s.ListenOverflows, "ListenDrops": &s.ListenDrops}},
		{"snmp", "Ip:", map[string]*uint64{"OutNoRoutes": &s.OutNoRoutes}},
	} {
		path := p.file(process, "net/"+table.file)
		text, err := os.ReadFile(path)
		if gone(err) {
			return NetnsState{}, fmt.Errorf("%w: that of process %d", ErrNetnsGone, pid)
		}
		if err != nil {
			return NetnsState{}, fmt.Errorf("read counters of network namespace: %w", err)
		}
		if err := readCounters(text, table.prefix, table.counters); err != nil {
			return NetnsState{}, fmt.Errorf("read counters of network namespace: %s: %w", path, err)
		}
	}
	return s, nil
}

// gone tells whether reading in /proc/PID failed since the process has ended: before the file was opened, or after.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// readCounters reads counters of a table from a file such as /proc/net/netstat, in which a line of names is followed by
// one of values, each after the table's name. A counter that the kernel does not have stays as it is.
func readCounters(text []byte, prefix string, counters map[string]*uint64) error {
	var names [][]byte
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || string(fields[0]) != prefix {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if len(fields) != len(names) {
			return fmt.Errorf("table %s has %d names and %d values", prefix, len(names)-1, len(fields)-1)
		}
		for i, name := range names {
			counter, wanted := counters[string(name)]
			if !wanted {
				continue
			}
			value, err := strconv.ParseUint(string(fields[i]), 10, 64)
			if err != nil {
				return fmt.Errorf("counter %s: %w", name, err)
			}
			*counter = value
		}
		return nil
	}
	return fmt.Errorf("table %s is not there", prefix)
}

// LinksInside lists the links in the network namespace at path, such as a container's SandboxKey. ErrNetnsGone: it is no
// namespace any more. It enters the namespace, which needs CAP_SYS_ADMIN, and CAP_DAC_READ_SEARCH or ownership of the
// folder. It may be called concurrently.
func LinksInside(sandboxPath string) ([]Link, error) {
	var links []Link
	err := inNetns(sandboxPath, func() error {
		found, err := allLinks()
		if err != nil {
			return fmt.Errorf("in %s: %w", sandboxPath, err)
		}
		for _, link := range found {
			links = append(links, newLink(link))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return links, nil
}
