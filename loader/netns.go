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
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNetnsGone, path)
	}
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer file.Close()
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	if stat.Type != nsfsMagic {
		return fmt.Errorf("%w: %s", ErrNetnsGone, path)
	}
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
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace %s: %w", path, back))
		}
		done <- err
	}()
	return <-done
}

// NetnsIDOfProcess returns the number under which the caller's namespace knows the network namespace of a process, as
// links refer to it; -1 if it has none there. Numbers are reused once a namespace is gone.
func NetnsIDOfProcess(pid int) (int, error) {
	id, err := netlink.GetNetNsIdByPid(pid)
	if err != nil {
		return -1, fmt.Errorf("find namespace number of process %d: %w", pid, err)
	}
	return id, nil
}
