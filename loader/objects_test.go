// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// object is a BPF program, map or link of the running kernel.
type object struct {
	kind string // as fdinfo has it: prog_id, map_id or link_id
	id   uint32
}

type objects map[object]bool

// kernelObjects are those that this process holds open.
func kernelObjects(tb testing.TB) objects {
	tb.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		tb.Fatal(err)
	}
	held := make(objects)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // the one that listed the others
		}
		if err != nil {
			tb.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			kind, number, _ := strings.Cut(line, ":")
			if kind != "prog_id" && kind != "map_id" && kind != "link_id" {
				continue
			}
			id, err := strconv.ParseUint(strings.TrimSpace(number), 10, 32)
			if err != nil {
				tb.Fatalf("%s: %v", file, err)
			}
			held[object{kind, uint32(id)}] = true
		}
	}
	return held
}

func (o objects) without(others objects) objects {
	rest := make(objects)
	for object := range o {
		if !others[object] {
			rest[object] = true
		}
	}
	return rest
}

// alive are those that the kernel still has.
func (o objects) alive(tb testing.TB) objects {
	tb.Helper()
	alive := make(objects)
	for object := range o {
		closer, err := object.open()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		mustClose(tb, closer)
		alive[object] = true
	}
	return alive
}

func (o object) open() (io.Closer, error) {
	switch o.kind {
	case "prog_id":
		return ebpf.NewProgramFromID(ebpf.ProgramID(o.id))
	case "map_id":
		return ebpf.NewMapFromID(ebpf.MapID(o.id))
	case "link_id":
		return link.NewFromID(link.ID(o.id))
	}
	return nil, fmt.Errorf("open %s %d: unknown kind", o.kind, o.id)
}

func TestCloseLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		open func(testing.TB) (io.Closer, error)
	}{
		{"drops", func(testing.TB) (io.Closer, error) { return OpenDrops(DropsConfig{Kallsyms: kallsyms}) }},
		{"execs", func(testing.TB) (io.Closer, error) { return OpenExecs() }},
		{"flows", func(tb testing.TB) (io.Closer, error) {
			outside := vethPair(tb, newNamespace(tb))
			flows, err := OpenFlows(0)
			if err == nil {
				mustWatchOutside(tb, flows, outside, true)
			}
			return flows, err
		}},
		{"egress", func(tb testing.TB) (io.Closer, error) {
			outside := vethPair(tb, newNamespace(tb))
			egress, err := OpenEgress(EgressConfig{})
			if err == nil {
				err = egress.SetDevices([]int{outside.Index})
			}
			return egress, err
		}},
		{"overlay", func(tb testing.TB) (io.Closer, error) {
			outside := vethPair(tb, newNamespace(tb))
			overlays, err := OpenOverlay(OverlayConfig{})
			if err == nil {
				err = overlays.SetDevices([]int{outside.Index})
			}
			return overlays, err
		}},
		{"dns", func(testing.TB) (io.Closer, error) { return OpenDNS(DNSConfig{}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			liftMemoryLimit(t)
			before := kernelObjects(t)
			signal, err := tc.open(t)
			if err != nil {
				t.Fatal(err)
			}
			made := kernelObjects(t).without(before)
			if len(made) < 3 {
				t.Fatalf("only %v were made: this proves nothing", made)
			}
			if err := signal.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all that was made is gone from the kernel", func() bool {
				return len(made.alive(t)) == 0
			})
			if left := kernelObjects(t).without(before); len(left) != 0 {
				t.Errorf("descriptors left open: %v", left)
			}
		})
	}
}
