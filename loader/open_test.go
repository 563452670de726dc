// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"io"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// kallsyms is where the tests' kernel lists its symbols.
const kallsyms = "/proc/kallsyms"

func mustOpenDrops(tb testing.TB, config DropsConfig) *Drops {
	tb.Helper()
	liftMemoryLimit(tb)
	drops, err := OpenDrops(config)
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, drops) })
	return drops
}

func mustOpenFlows(tb testing.TB, tableSize uint32) *Flows {
	tb.Helper()
	liftMemoryLimit(tb)
	flows, err := OpenFlows(tableSize)
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, flows) })
	return flows
}

func mustOpenExecs(tb testing.TB) *Execs {
	tb.Helper()
	liftMemoryLimit(tb)
	execs, err := OpenExecs()
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, execs) })
	return execs
}

// fatalLoad shows all that the verifier said.
func fatalLoad(tb testing.TB, err error) {
	tb.Helper()
	if verifier, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		tb.Logf("%+v", verifier)
	}
	tb.Fatal(err)
}

// liftMemoryLimit does what the agent does at its start: before 5.11 maps count against RLIMIT_MEMLOCK.
func liftMemoryLimit(tb testing.TB) {
	tb.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		tb.Fatal(err)
	}
}

func mustClose(tb testing.TB, closer io.Closer) {
	tb.Helper()
	if err := closer.Close(); err != nil {
		tb.Error(err)
	}
}

func TestOpenDrops(t *testing.T) {
	drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
	if drops.NoFunctions != nil {
		t.Error(drops.NoFunctions)
	}
}

func TestOpenFlows(t *testing.T) { mustOpenFlows(t, 0) }

func TestOpenExecs(t *testing.T) { mustOpenExecs(t) }

func TestCheckSaysWhatIsNeededWorks(t *testing.T) {
	liftMemoryLimit(t)
	for _, ability := range Check() {
		if ability.Needed && !ability.OK {
			t.Errorf("%s: %s: %s", ability.Signal, ability.Name, ability.Detail)
		}
		if !ability.OK && (ability.Detail == "" || ability.Remedy == "") {
			t.Errorf("%s: %s is off without a word: %+v", ability.Signal, ability.Name, ability)
		}
	}
}
