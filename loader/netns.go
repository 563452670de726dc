// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nsfsMagic is what statfs says of a file that is a namespace (include/uapi/linux/magic.h, NSFS_MAGIC).
const nsfsMagic = 0x6e736673

// ErrNetnsGone means that a path no longer is a network namespace: Docker leaves the files of dead ones behind for up
// to a minute.
var ErrNetnsGone = errors.New("network namespace is gone")

// inNetns runs f on a thread of its own inside the network namespace at path. The thread is not used again, but goes
// back first: a process's first thread never ends, and would keep the namespace and pass for one of its processes.
// Needs CAP_SYS_ADMIN, and CAP_DAC_READ_SEARCH or ownership of the folder.
func inNetns(path string, f func() error) error {
	file, err := openNetns(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return inNetnsOf(file, f)
}

// openNetns opens the network namespace at path, which lives at least until the file is closed.
func openNetns(path string) (*os.File, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNetnsGone, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace: %w", err), file.Close())
	}
	if stat.Type != nsfsMagic {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrNetnsGone, path), file.Close())
	}
	return file, nil
}

// inNetnsOf does what inNetns does, in the namespace that file is.
func inNetnsOf(file *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", file.Name(), err)
			return
		}
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace %s: %w", file.Name(), back))
		}
		done <- err
	}()
	return <-done
}

// netnsIDOf returns the number under which the caller's namespace knows the one that file is; -1 if it has none there.
func netnsIDOf(file *os.File) (int, error) {
	id, err := netlink.GetNetNsIdByFd(int(file.Fd()))
	if err != nil {
		return -1, fmt.Errorf("find number of namespace %s: %w (%s)", file.Name(), err, needsNetlink)
	}
	return id, nil
}
