// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
)

func newReasons(names map[uint32]string) *reasons {
	return &reasons{names: names, searched: make(map[uint32]bool)}
}

func TestReasonNames(t *testing.T) {
	r := newReasons(map[uint32]string{})
	r.add(&btf.Enum{Name: "skb_drop_reason", Values: []btf.EnumValue{
		{Name: "SKB_NOT_DROPPED_YET", Value: 0},
		{Name: "SKB_CONSUMED", Value: 1},
		{Name: "SKB_DROP_REASON_NOT_SPECIFIED", Value: 2},
		{Name: "SKB_DROP_REASON_NO_SOCKET", Value: 3},
		{Name: "SKB_DROP_REASON_MAX", Value: 4},
		{Name: "SKB_DROP_REASON_SUBSYS_MASK", Value: 0xffff0000},
		{Name: "__SKB_DROP_REASON_LAST", Value: 5},
	}})
	r.addSubsystem(&btf.Enum{Name: "ovs_drop_reason", Values: []btf.EnumValue{
		{Name: "OVS_DROP_UNSPEC", Value: 0},
		{Name: "__OVS_DROP_REASON", Value: 3 << 16},
		{Name: "OVS_DROP_LAST_ACTION", Value: 3<<16 + 1},
	}})
	want := map[uint32]string{
		0: "NOT_DROPPED_YET", 1: "CONSUMED", 2: "NOT_SPECIFIED", 3: "NO_SOCKET", 3<<16 + 1: "OVS_DROP_LAST_ACTION",
	}
	if diff := cmp.Diff(want, r.names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReasonOfNumber(t *testing.T) {
	r := newReasons(map[uint32]string{2: "NOT_SPECIFIED", 3<<16 + 1: "OVS_DROP_LAST_ACTION"})
	for reason, want := range map[uint32]string{
		0: "", 2: "NOT_SPECIFIED", 77: "77", 3<<16 + 1: "OVS_DROP_LAST_ACTION", 0x7fff0001: "2147418113",
	} {
		if got := r.name(reason); got != want {
			t.Errorf("%#x: %q, want %q", reason, got, want)
		}
	}
	if !r.searched[0x7fff] || r.searched[3] || r.searched[0] {
		t.Errorf("searched modules for %v, want only the subsystem that is not known", r.searched)
	}
}

func TestReasonsOfRunningKernel(t *testing.T) {
	spec := mustKernelSpec(t)
	r, err := readReasons(spec)
	if err != nil {
		t.Fatal(err)
	}
	arguments, err := traceArguments(spec, "kfree_skb")
	if err != nil {
		t.Fatal(err)
	}
	if arguments < 2 || arguments > 4 {
		t.Errorf("kfree_skb has %d arguments, want 2 to 4", arguments)
	}
	if named := len(r.names) > 0; named != (arguments >= 3) {
		t.Errorf("%d reasons, though the tracepoint has %d arguments", len(r.names), arguments)
	}
	if len(r.names) == 0 {
		return // before 5.17
	}
	found := make(map[string]bool)
	for _, name := range r.names {
		found[name] = true
	}
	for _, name := range []string{"NOT_SPECIFIED", "NO_SOCKET"} {
		if !found[name] {
			t.Errorf("no %s among %d reasons", name, len(r.names))
		}
	}
	for _, name := range []string{"MAX", "SUBSYS_MASK"} {
		if found[name] {
			t.Errorf("%s is no reason", name)
		}
	}
}

// mac80211 has reasons of its own; where it is not, the number stays a number, and nothing breaks.
func TestReasonOfUnknownSubsystem(t *testing.T) {
	r, err := readReasons(mustKernelSpec(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.name(1<<16 + 4242); got != "69778" {
		t.Errorf("%q", got)
	}
}

func TestTraceArguments(t *testing.T) {
	spec := mustKernelSpec(t)
	for tracepoint, want := range map[string]int{"sched_process_exec": 3, "consume_skb": 0} {
		got, err := traceArguments(spec, tracepoint)
		if err != nil || (want != 0 && got != want) || got < 1 {
			t.Errorf("%s: %d, %v, want %d", tracepoint, got, err, want)
		}
	}
	if _, err := traceArguments(spec, "no_such_tracepoint"); err == nil {
		t.Error("found a tracepoint that is not there")
	}
}

func mustKernelSpec(tb testing.TB) *btf.Spec {
	tb.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		tb.Fatal(err)
	}
	return spec
}
