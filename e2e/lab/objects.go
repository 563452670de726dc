// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Objects are the identifiers of BPF objects that a process holds open.
type Objects struct {
	Links, Maps, Programs []uint32
	// Descriptors is the number of all the process's open files.
	Descriptors int
}

// Objects returns what the agent holds in the kernel now.
func (a *Agent) Objects(tb testing.TB) Objects {
	tb.Helper()
	var held Objects
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", a.PID()))
	if err != nil {
		tb.Fatal(err)
	}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue // closed meanwhile
		}
		held.Descriptors++
		held.add(tb, string(text))
	}
	return held
}

func (o *Objects) add(tb testing.TB, fdinfo string) {
	tb.Helper()
	kinds := map[string]*[]uint32{"link_id:": &o.Links, "map_id:": &o.Maps, "prog_id:": &o.Programs}
	for line := range strings.Lines(fdinfo) {
		fields := strings.Fields(line)
		if len(fields) != 2 || kinds[fields[0]] == nil {
			continue
		}
		ids := kinds[fields[0]]
		*ids = append(*ids, uint32(number(tb, fields[1])))
		if fields[0] == "link_id:" {
			return // a link's program is held by its own descriptor
		}
	}
}

// Alive returns those of the objects that are still in the kernel.
func (o Objects) Alive(tb testing.TB) Objects {
	tb.Helper()
	var alive Objects
	for _, id := range o.Links {
		if l, err := link.NewFromID(link.ID(id)); exists(tb, err) {
			l.Close()
			alive.Links = append(alive.Links, id)
		}
	}
	for _, id := range o.Maps {
		if m, err := ebpf.NewMapFromID(ebpf.MapID(id)); exists(tb, err) {
			m.Close()
			alive.Maps = append(alive.Maps, id)
		}
	}
	for _, id := range o.Programs {
		if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); exists(tb, err) {
			p.Close()
			alive.Programs = append(alive.Programs, id)
		}
	}
	return alive
}

func exists(tb testing.TB, err error) bool {
	tb.Helper()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatalf("open BPF object: %v", err)
	}
	return err == nil
}
