// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// reasons names the running kernel's drop reasons. The numbers move between releases, even stable ones, so they are
// read from its BTF; those of a subsystem (the upper 16 bits) are in the BTF of the module that has them, which is
// searched when such a number first turns up.
type reasons struct {
	names    map[uint32]string
	searched map[uint32]bool // subsystems looked for in modules
}

const subsystemShift = 16

// readReasons reads the core reasons. A kernel that has none (before 5.17) gives an empty list and no error.
func readReasons(spec *btf.Spec) (*reasons, error) {
	r := &reasons{names: make(map[uint32]string), searched: make(map[uint32]bool)}
	var enum *btf.Enum
	err := spec.TypeByName("skb_drop_reason", &enum)
	if errors.Is(err, btf.ErrNotFound) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read drop reasons from BTF: %w", err)
	}
	r.add(enum)
	return r, nil
}

func (r *reasons) add(enum *btf.Enum) {
	for _, v := range enum.Values {
		if name, ok := reasonName(v.Name); ok {
			r.names[uint32(v.Value)] = name
		}
	}
}

// addSubsystem leaves out values without a subsystem's number: they are no packet's reason, and would rename a core one
// (qdisc_drop_reason begins with QDISC_DROP_UNSPEC, 0).
func (r *reasons) addSubsystem(enum *btf.Enum) {
	own := *enum
	own.Values = slices.DeleteFunc(slices.Clone(enum.Values), func(v btf.EnumValue) bool {
		return v.Value>>subsystemShift == 0
	})
	r.add(&own)
}

// reasonName turns an enumerator into the name that people use, and tells those that are no reasons.
func reasonName(enumerator string) (string, bool) {
	if strings.HasPrefix(enumerator, "__") || strings.HasSuffix(enumerator, "_MAX") || strings.HasSuffix(enumerator, "_MASK") {
		return "", false
	}
	name := strings.TrimPrefix(enumerator, "SKB_DROP_REASON_")
	if name == enumerator {
		name = strings.TrimPrefix(enumerator, "SKB_")
	}
	return name, true
}

// name returns the reason's name, "" for 0 on kernels without reasons, and its number where the kernel names it nowhere.
func (r *reasons) name(reason uint32) string {
	if name, ok := r.names[reason]; ok {
		return name
	}
	if reason == 0 {
		return ""
	}
	subsystem := reason >> subsystemShift
	if subsystem != 0 && !r.searched[subsystem] {
		r.searched[subsystem] = true
		r.searchModules()
		if name, ok := r.names[reason]; ok {
			return name
		}
	}
	return strconv.FormatUint(uint64(reason), 10)
}

// searchModules adds the reasons of every module that has its own. Modules without readable BTF are passed over: their
// reasons keep their numbers.
func (r *reasons) searchModules() {
	entries, err := os.ReadDir("/sys/kernel/btf")
	if err != nil {
		return
	}
	for _, entry := range entries {
		r.addModule(entry.Name())
	}
}

func (r *reasons) addModule(module string) {
	var spec *btf.Spec
	var err error
	if module == "vmlinux" {
		spec, err = btf.LoadKernelSpec()
	} else {
		spec, err = btf.LoadKernelModuleSpec(module)
	}
	if err != nil {
		return
	}
	for t, err := range spec.All() {
		if err != nil {
			return
		}
		enum, ok := t.(*btf.Enum)
		if ok && strings.HasSuffix(enum.Name, "_drop_reason") && enum.Name != "skb_drop_reason" {
			r.addSubsystem(enum)
		}
	}
}

// traceArguments counts the arguments of a tracepoint on the running kernel: kfree_skb grew from two to four.
func traceArguments(spec *btf.Spec, tracepoint string) (int, error) {
	var typedef *btf.Typedef
	if err := spec.TypeByName("btf_trace_"+tracepoint, &typedef); err != nil {
		return 0, fmt.Errorf("find tracepoint %s in BTF: %w", tracepoint, err)
	}
	pointer, ok := typedef.Type.(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("tracepoint %s: unexpected BTF %v", tracepoint, typedef.Type)
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("tracepoint %s: unexpected BTF %v", tracepoint, pointer.Target)
	}
	return len(proto.Params) - 1, nil // the first is the tracepoint's own
}
