// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// mustOpenRulesets follows the rules of the calling thread's namespace until the test ends.
func mustOpenRulesets(tb testing.TB) *Rulesets {
	tb.Helper()
	rulesets, err := OpenRulesets("")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- rulesets.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
		for _, loss := range rulesets.Losses() {
			if loss.Count != 0 {
				tb.Errorf("lost %d: %s", loss.Count, loss.Place)
			}
		}
		mustClose(tb, rulesets)
	})
	return rulesets
}

// wantRulesetChanges fails unless just these changes are told.
func wantRulesetChanges(tb testing.TB, r *Rulesets, want []RulesetChange) {
	tb.Helper()
	var got []RulesetChange
	eventually(tb, "the changes are told", func() bool {
		got = append(got, r.Read()...)
		return len(got) >= len(want)
	})
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(RulesetChange{}, "At", "Parent")); diff != "" {
		tb.Errorf("changes (-want +got):\n%s", diff)
	}
	for _, c := range got {
		if age := time.Since(c.At); age < 0 || age > time.Minute {
			tb.Errorf("change was at %s", c.At)
		}
	}
}

// change starts a tool that changes rules, and returns what is to be told of it.
func change(tb testing.TB, netnsID int, generation uint32, name string, args ...string) RulesetChange {
	tb.Helper()
	cmd := exec.Command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return RulesetChange{NetnsID: netnsID, Generation: generation, Process: name, PID: cmd.Process.Pid}
}

// One transaction is one change, whatever it holds. Namespaces that have no number here are not heard of.
func TestRulesetChanges(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	vethPair(t, inside) // gives it a number
	stranger := newNamespace(t)
	number := mustNetnsID(t, inside)
	rulesets := mustOpenRulesets(t)

	want := []RulesetChange{
		change(t, -1, 2, "nft", "table ip a { chain x { accept; }; chain y { drop; }; }"),
		change(t, -1, 3, "nft", "flush", "ruleset"),
	}
	inside.do(t, func() { want = append(want, change(t, number, 2, "nft", "add", "table", "ip", "b")) })
	stranger.do(t, func() { change(t, 0, 2, "nft", "add", "table", "ip", "c") })
	run(t, "nft", "list", "ruleset") // asking changes nothing
	want = append(want, change(t, -1, 4, "nft", "add", "table", "ip6", "d"))
	wantRulesetChanges(t, rulesets, want)
}

func TestRulesetChangeOfIptables(t *testing.T) {
	enterFreshNetns(t)
	rulesets := mustOpenRulesets(t)
	cmd := exec.Command("iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []RulesetChange
	eventually(t, "the change is told", func() bool {
		got = append(got, rulesets.Read()...)
		return len(got) > 0
	})
	for _, c := range got {
		if c.Parent != "" && c.Parent != name(t, os.Getpid()) { // it may have ended too soon to be asked
			t.Errorf("%s was started by %q", c.Process, c.Parent)
		}
		if c.Process != "iptables-nft" && c.Process != "iptables" || c.PID != cmd.Process.Pid || c.NetnsID != -1 {
			t.Errorf("%+v, want it of iptables, process %d", c, cmd.Process.Pid)
		}
	}
}

// name is what the kernel calls a process.
func name(tb testing.TB, pid int) string {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// A process that has another's number is not taken for it.
func TestParentOf(t *testing.T) {
	child := startContainer(t)
	for _, tc := range []struct {
		name string
		pid  int
		want string
	}{
		{"sleep", child.Process.Pid, name(t, os.Getpid())},
		{"iptables", child.Process.Pid, ""},
		{"sleep", 0, ""},
	} {
		if got := Procfs("").parentOf(tc.pid, tc.name); got != tc.want {
			t.Errorf("parent of %s, process %d, is %q, want %q", tc.name, tc.pid, got, tc.want)
		}
	}
}

func mustNetnsID(tb testing.TB, n namespace) int {
	tb.Helper()
	out := run(tb, "ip", "link", "show", "dev", "outside")
	_, number, _ := strings.Cut(out, "link-netnsid ")
	id, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil {
		tb.Fatalf("%s: %v", out, err)
	}
	return id
}

// However many come, memory is bounded and none goes uncounted.
func TestRulesetQueueIsBounded(t *testing.T) {
	var r Rulesets
	message := make([]byte, unix.SizeofNlMsghdr+sizeofNfgenmsg+8)
	copy(message, []byte{byte(len(message)), 0, 0, 0, rulesetChanged & 0xff, rulesetChanged >> 8})
	copy(message[unix.SizeofNlMsghdr+sizeofNfgenmsg:], []byte{8, 0, rulesetGeneration, 0, 0, 0, 0, 7})
	for range maxRulesetChanges + 3 {
		r.take(message, -1)
	}
	r.take(message[:20], -1)
	if got := len(r.Read()); got != maxRulesetChanges {
		t.Errorf("%d are kept, want %d", got, maxRulesetChanges)
	}
	if diff := cmp.Diff([]Loss{{"netlink_overrun", 0}, {"queue_full", 3}, {"unparsed", 1}}, r.Losses()); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	if r.take(message, -1); len(r.Read()) != 1 {
		t.Error("after a Read there is room again")
	}
}
