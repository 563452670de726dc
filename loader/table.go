// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// batchSize is how many entries one system call reads: enough to make the call's cost vanish, few enough that the
// buffers (about 300 bytes an entry) stay below a megabyte.
const batchSize = 2048

// table is a hash that BPF programs count in and that is read without losing a count.
//
// It is a pair of hashes, of which one is in use: slot 0 of an array of maps. drain puts the other one there. That
// system call returns only when no program can still be using the one taken out (the kernel waits for an RCU grace
// period after such a change: kernel/bpf/syscall.c, maybe_wait_bpf_programs, since 5.0), so it can be read and emptied
// at leisure. Emptying a table that is in use loses what is counted between the read and the delete.
//
// Methods must not be called concurrently.
type table[K, V any] struct {
	name    string
	outer   *ebpf.Map
	inner   [2]*ebpf.Map
	active  int
	entries atomic.Int64 // found by the last drain
	keys    []K
	values  []V
}

// newTable makes the two hashes for outer, of at most size entries each (0: as the object says), and puts one in use.
// The table owns the hashes; outer stays the caller's.
func newTable[K, V any](name string, outer *ebpf.Map, spec *ebpf.MapSpec, size uint32) (*table[K, V], error) {
	t := &table[K, V]{name: name, outer: outer}
	for i := range t.inner {
		inner := spec.InnerMap.Copy()
		inner.Name = name
		if size != 0 {
			inner.MaxEntries = size
		}
		m, err := ebpf.NewMap(inner)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("create table %s: %w", name, err), t.close())
		}
		t.inner[i] = m
	}
	if err := outer.Put(uint32(0), t.inner[0]); err != nil {
		return nil, errors.Join(fmt.Errorf("use table %s: %w", name, err), t.close())
	}
	size = t.inner[0].MaxEntries()
	t.keys = make([]K, min(batchSize, size))
	t.values = make([]V, min(batchSize, size))
	return t, nil
}

// drain visits and removes every entry counted since the last drain. What visit is given is only valid until it returns.
// After an error the rest of the entries is kept for a later drain.
func (t *table[K, V]) drain(visit func(*K, *V)) error {
	next := 1 - t.active
	if err := t.outer.Put(uint32(0), t.inner[next]); err != nil {
		return fmt.Errorf("swap table %s: %w", t.name, err)
	}
	full := t.inner[t.active]
	t.active = next
	entries := 0

	var cursor ebpf.MapBatchCursor
	for {
		n, err := full.BatchLookupAndDelete(&cursor, t.keys, t.values, nil)
		for i := range n {
			visit(&t.keys[i], &t.values[i])
		}
		entries += n
		t.entries.Store(int64(entries))
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read table %s: %w", t.name, err)
		}
	}
}

func (t *table[K, V]) capacity() int { return int(t.inner[0].MaxEntries()) }

func (t *table[K, V]) usage() MapUsage {
	return MapUsage{Map: t.name, Entries: int(t.entries.Load()), Capacity: t.capacity()}
}

func (t *table[K, V]) close() error {
	var errs []error
	for _, m := range t.inner {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// MapUsage is how full a table was when it was last read.
type MapUsage struct {
	Map      string
	Entries  int
	Capacity int
}
