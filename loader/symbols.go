// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ErrNoSymbols means that the kernel hides its addresses from this process.
var ErrNoSymbols = errors.New("kernel addresses are hidden (needs CAP_SYSLOG, and kernel.kptr_restrict below 2)")

// symbols names kernel functions by address. The kernel checks privileges when the file is opened, so the descriptor is
// kept and goes on working after they are given up. Names are looked up in one pass for all addresses not seen before
// and then remembered: there are few places that drop packets, and the whole list would take 10 MB.
//
// Methods must not be called concurrently.
type symbols struct {
	file  io.ReadSeekCloser
	names map[uint64]string
}

// openSymbols opens the list of kernel symbols. ErrNoSymbols: it is there but says nothing.
func openSymbols(path string) (*symbols, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open kernel symbols: %w", err)
	}
	s := &symbols{file: file, names: make(map[uint64]string)}
	hidden := true // then all addresses are 0
	err = s.scan(func(address uint64, _ string) bool {
		hidden = address == 0
		return hidden
	})
	if err == nil && hidden {
		err = ErrNoSymbols
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// scan calls visit for every symbol of code, in the file's order, until visit returns false.
func (s *symbols) scan(visit func(address uint64, name string) bool) error {
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind kernel symbols: %w", err)
	}
	lines := bufio.NewScanner(s.file)
	for lines.Scan() {
		address, name, ok := parseSymbol(lines.Text())
		if ok && !visit(address, name) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read kernel symbols: %w", err)
	}
	return nil
}

// parseSymbol reads a line of /proc/kallsyms: address, type, name and perhaps [module]. Only code counts.
func parseSymbol(line string) (address uint64, name string, ok bool) {
	hex, rest, found := strings.Cut(line, " ")
	if !found || len(rest) < 3 || rest[1] != ' ' || !strings.ContainsRune("tTwW", rune(rest[0])) {
		return 0, "", false
	}
	address, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return 0, "", false
	}
	name, _, _ = strings.Cut(rest[2:], "\t")
	return address, name, name != ""
}

// extent returns where a function, or the part of it that the compiler kept apart, begins and where the next symbol does. 0, 0: there is none of that name.
func (s *symbols) extent(function string) (start, end uint64, err error) {
	err = s.scan(func(address uint64, name string) bool {
		if plainFunction(name) == function {
			start = address
			end = 0
		} else if start != 0 && address > start && (end == 0 || address < end) {
			end = address
		}
		return true
	})
	return start, end, err
}

// resolve finds the names of all addresses that were not asked for before.
func (s *symbols) resolve(addresses []uint64) error {
	var unknown []uint64
	for _, a := range addresses {
		if _, known := s.names[a]; !known {
			unknown = append(unknown, a)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	unknown = slices.Compact(unknown)
	starts := make([]uint64, len(unknown))
	names := make([]string, len(unknown))
	err := s.scan(func(address uint64, name string) bool {
		// The nearest symbol below each address; the list is not sorted where modules begin.
		first, _ := slices.BinarySearch(unknown, address)
		for i := first; i < len(unknown) && starts[i] <= address; i++ {
			starts[i], names[i] = address, name
		}
		return true
	})
	if err != nil {
		return err
	}
	for i, a := range unknown {
		s.names[a] = plainFunction(names[i])
	}
	return nil
}

func (s *symbols) name(address uint64) string { return s.names[address] }

func (s *symbols) close() error { return s.file.Close() }

// plainFunction strips what compilers append to the names of parts and copies of a function.
func plainFunction(name string) string {
	for _, suffix := range []string{".isra.", ".constprop.", ".part.", ".cold", ".llvm."} {
		if i := strings.Index(name, suffix); i > 0 {
			name = name[:i]
		}
	}
	return name
}
