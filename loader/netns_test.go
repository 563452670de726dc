// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInNetns(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	var stat unix.Stat_t
	if err := unix.Fstat(int(inside.file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	before := ownInode(t)
	if got := inside.inode(t); uint64(got) != stat.Ino || got == before {
		t.Errorf("ran in namespace %d, want %d", got, stat.Ino)
	}
	if after := ownInode(t); after != before {
		t.Errorf("the caller is in namespace %d, was in %d", after, before)
	}
	broken := errors.New("broken")
	if err := inNetns(inside.path(), func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want what was returned inside", err)
	}
}

// Nobody who enters namespaces stays in one: not even on the first thread, which cannot end.
func TestInNetnsLeavesNoThreadBehind(t *testing.T) {
	inside := newNamespace(t)
	var entered, left sync.WaitGroup
	entered.Add(50)
	for range 50 { // at a time, so that no thread of the process is spared
		left.Go(func() {
			err := inNetns(inside.path(), func() error {
				entered.Done()
				entered.Wait()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	left.Wait()
	var stat unix.Stat_t
	if err := unix.Fstat(int(inside.file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no thread is in the namespace", func() bool {
		threads, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil || len(threads) == 0 {
			t.Fatalf("list own threads: %v", err)
		}
		for _, thread := range threads {
			var is unix.Stat_t
			if unix.Stat(thread, &is) == nil && is.Ino == stat.Ino {
				return false
			}
		}
		return true
	})
}

// Docker leaves the files of dead namespaces behind.
func TestNetnsIsGone(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "sandbox")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"no file": "/nonexistent", "no namespace": plain} {
		err := inNetns(path, func() error {
			t.Errorf("%s: ran somewhere", name)
			return nil
		})
		if !errors.Is(err, ErrNetnsGone) {
			t.Errorf("%s: %v, want %v", name, err, ErrNetnsGone)
		}
	}
}
