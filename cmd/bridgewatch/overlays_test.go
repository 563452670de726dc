// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// mountSandboxes makes a folder such as the engine's, in which this process's namespace has each of the names until the test ends.
func mountSandboxes(t *testing.T, names ...string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for _, name := range names {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	return folder
}

// Of the engine's namespaces those are read that are nobody's; what a dead one has left is no problem, but a folder that cannot be
// reached is.
func TestListSandboxes(t *testing.T) {
	folder := mountSandboxes(t, "1-0123456789", "lb_012345678", "ingress_sbox", "0123456789ab", "default")
	if err := os.WriteFile(filepath.Join(folder, "1-9876543210"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var problems unread
	kinds := make(map[loader.SandboxKind]int)
	for _, s := range listSandboxes(folder, &problems) {
		kinds[s.Kind]++
		if len(s.Links) == 0 {
			t.Errorf("%s has no links", s.Path)
		}
	}
	want := map[loader.SandboxKind]int{loader.SandboxOverlay: 1, loader.SandboxLoadBalancer: 1, loader.SandboxIngress: 1}
	if diff := cmp.Diff(want, kinds); diff != "" || len(problems) > 0 {
		t.Errorf("problems %q, kinds (-want +got):\n%s", problems, diff)
	}
	if listed := listSandboxes(filepath.Join(folder, "nowhere"), &problems); len(listed) > 0 || len(problems) != 1 ||
		!strings.HasPrefix(problems[0], "list sandboxes: ") {
		t.Errorf("of a folder that is not there: %v, problems %q", listed, problems)
	}
}

// What lasts is told once, and again after it was over.
func TestWarnAnew(t *testing.T) {
	var last string
	refused := errors.New("refused")
	for i, step := range []struct {
		err  error
		want bool
	}{{nil, false}, {refused, true}, {refused, false}, {errors.New("full"), true}, {nil, false}, {refused, true}} {
		if got := warnAnew(&last, step.err); got != step.want {
			t.Errorf("step %d, %v: %t", i, step.err, got)
		}
	}
}

// Whoever asks for a look does not wait, however often.
func TestLookAtOverlays(t *testing.T) {
	a := &agent{overlays: &overlays{lookNow: make(chan struct{}, 1)}}
	for range 3 {
		a.lookAtOverlays()
	}
	if len(a.lookNow) != 1 {
		t.Errorf("%d looks are asked for, want one", len(a.lookNow))
	}
}

// Nobody's hearing of misses is a problem, whether it never began or does not go on.
func TestUnheard(t *testing.T) {
	refused := errors.New("refused")
	if err := (&overlays{refused: refused}).unheard(); !errors.Is(err, refused) {
		t.Errorf("%v, want %v", err, refused)
	}
	if err := (&overlays{misses: &loader.Misses{}}).unheard(); err != nil {
		t.Error(err)
	}
}
