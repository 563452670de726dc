// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// symbolList is what a kernel might say. Modules begin at lower addresses, and their lists are not sorted.
const symbolList = `0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000100 T skb_release_data
ffffffff81000180 t kfree_skb_reason
ffffffff81000200 W ip_rcv.part.0
ffffffff81000300 d some_data
ffffffff81000400 T __udp4_lib_rcv
ffffffffc0000500 t tbf_enqueue	[sch_tbf]
ffffffffc0000400 t tbf_reset	[sch_tbf]
ffffffffc0000100 t br_handle_frame.cold	[bridge]
`

func symbolsFrom(tb testing.TB, list string) (*symbols, error) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "kallsyms")
	if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
		tb.Fatal(err)
	}
	s, err := openSymbols(file)
	if err == nil {
		tb.Cleanup(func() { mustClose(tb, s.file) })
	}
	return s, err
}

func mustSymbols(tb testing.TB, list string) *symbols {
	tb.Helper()
	s, err := symbolsFrom(tb, list)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestParseSymbol(t *testing.T) {
	for _, tc := range []struct {
		line    string
		address uint64
		name    string
		ok      bool
	}{
		{"ffffffff81000100 T skb_release_data", 0xffffffff81000100, "skb_release_data", true},
		{"ffffffffc0000100 t br_forward\t[bridge]", 0xffffffffc0000100, "br_forward", true},
		{"ffffffff81000100 W weak", 0xffffffff81000100, "weak", true},
		{"ffffffff81000100 D data", 0, "", false},
		{"0000000000000000 T hidden", 0, "hidden", true},
		{"xyz T name", 0, "", false},
		{"ffffffff81000100 T ", 0, "", false},
		{"ffffffff81000100 T \t[bridge]", 0xffffffff81000100, "", false},
		{"ffffffff81000100", 0, "", false},
		{"", 0, "", false},
	} {
		address, name, ok := parseSymbol(tc.line)
		if name != tc.name || ok != tc.ok || (ok && address != tc.address) {
			t.Errorf("%q: %#x, %q, %t", tc.line, address, name, ok)
		}
	}
}

func FuzzParseSymbol(f *testing.F) {
	for line := range strings.Lines(symbolList) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if _, name, ok := parseSymbol(line); ok && (name == "" || !strings.Contains(line, name)) {
			t.Errorf("%q: name %q", line, name)
		}
	})
}

func TestExtent(t *testing.T) {
	s := mustSymbols(t, symbolList)
	for _, tc := range []struct {
		function   string
		start, end uint64
	}{
		{"skb_release_data", 0xffffffff81000100, 0xffffffff81000180},
		{"ip_rcv", 0xffffffff81000200, 0xffffffff81000400},         // data is passed over
		{"__udp4_lib_rcv", 0xffffffff81000400, 0xffffffffc0000100}, // the nearest, not the first behind it
		{"tbf_enqueue", 0xffffffffc0000500, 0},                     // the last has no end
		{"no_such_function", 0, 0},
	} {
		start, end, err := s.extent(tc.function)
		if err != nil || start != tc.start || end != tc.end {
			t.Errorf("%s: [%#x, %#x), %v, want [%#x, %#x)", tc.function, start, end, err, tc.start, tc.end)
		}
	}
}

func TestResolve(t *testing.T) {
	s := mustSymbols(t, symbolList)
	want := map[uint64]string{
		0xffffffff81000100: "skb_release_data",
		0xffffffff8100017f: "skb_release_data",
		0xffffffff81000234: "ip_rcv",
		0xffffffff81000404: "__udp4_lib_rcv",
		0xffffffffc0000123: "br_handle_frame",
		0xffffffffc0000410: "tbf_reset",
		0xffffffffc0000999: "tbf_enqueue",
		0x1000:             "",
	}
	var addresses []uint64
	for address := range want {
		addresses = append(addresses, address, address)
	}
	if err := s.resolve(addresses[:4]); err != nil {
		t.Fatal(err)
	}
	if err := s.resolve(addresses); err != nil {
		t.Fatal(err)
	}
	for address, name := range want {
		if got := s.name(address); got != name {
			t.Errorf("%#x: %q, want %q", address, got, name)
		}
	}
}

// What is known is not looked up again.
func TestResolveRemembers(t *testing.T) {
	s := mustSymbols(t, symbolList)
	if err := s.resolve([]uint64{0xffffffff81000100}); err != nil {
		t.Fatal(err)
	}
	if err := s.file.Close(); err != nil {
		t.Fatal(err)
	}
	s.file, _ = os.Open(os.DevNull)
	if err := s.resolve([]uint64{0xffffffff81000100}); err != nil || s.name(0xffffffff81000100) != "skb_release_data" {
		t.Errorf("%q, %v", s.name(0xffffffff81000100), err)
	}
}

func TestHiddenSymbols(t *testing.T) {
	for name, list := range map[string]string{
		"all addresses are zero": "0000000000000000 T _text\n0000000000000000 T skb_release_data\n",
		"the list is empty":      "",
	} {
		if _, err := symbolsFrom(t, list); !errors.Is(err, ErrNoSymbols) {
			t.Errorf("%s: %v, want %v", name, err, ErrNoSymbols)
		}
	}
	if _, err := openSymbols("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

func TestPlainFunction(t *testing.T) {
	for name, want := range map[string]string{
		"ip_rcv":                           "ip_rcv",
		"ip_rcv_core.isra.0":               "ip_rcv_core",
		"tcp_v4_rcv.cold":                  "tcp_v4_rcv",
		"nf_hook.constprop.0.isra.3":       "nf_hook",
		"__netif_receive_skb.constprop.12": "__netif_receive_skb",
		"udp_rcv.llvm.1234567890":          "udp_rcv",
		".part.0":                          ".part.0",
	} {
		if got := plainFunction(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// The running kernel's own list has what the drop signal asks it.
func TestSymbolsOfRunningKernel(t *testing.T) {
	s, err := openSymbols(kallsyms)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s.file)
	start, end, err := s.extent("skb_release_data")
	if err != nil || start == 0 || end <= start || end-start > 1<<14 {
		t.Errorf("skb_release_data: [%#x, %#x), %v", start, end, err)
	}
	if err := s.resolve([]uint64{start + 1, end - 1}); err != nil {
		t.Fatal(err)
	}
	if a, b := s.name(start+1), s.name(end-1); a != "skb_release_data" || b != "skb_release_data" {
		t.Errorf("its addresses are named %q and %q", a, b)
	}
}
