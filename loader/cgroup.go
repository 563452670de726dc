// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// cgroupRootID is the number of cgroup v2's root, and of its folder (kernel/cgroup/cgroup.c, cgroup_setup_root).
	cgroupRootID = 1
	// handleTypeKernfs is the type of a handle that is a number of 64 bits (FILEID_KERNFS in the kernel; 5.5).
	handleTypeKernfs = 0xfe
)

// openCgroupRoot opens the root of cgroup v2 itself, even if the caller's mounts and cgroup namespace show a part of it, or
// nothing. It mounts nothing that others see. Needs CAP_SYS_ADMIN if cgroup v2 is not mounted, and CAP_DAC_READ_SEARCH if the
// root is not visible.
func openCgroupRoot() (*os.File, error) {
	cgroup, err := openMountedCgroup()
	if err != nil {
		return nil, err
	}
	if cgroup == nil {
		if cgroup, err = mountCgroup(); err != nil {
			return nil, err
		}
	}
	if isCgroupRoot(cgroup) {
		return cgroup, nil
	}
	defer cgroup.Close()
	handle := unix.NewFileHandle(handleTypeKernfs, binary.NativeEndian.AppendUint64(nil, cgroupRootID))
	fd, err := unix.OpenByHandleAt(int(cgroup.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open root of cgroup v2 from within a cgroup namespace: %w (grant CAP_DAC_READ_SEARCH, or run the container with --cgroupns=host)", err)
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}

// isCgroupRoot tells the root from other cgroups.
func isCgroupRoot(cgroup *os.File) bool {
	var stat unix.Stat_t
	return unix.Fstat(int(cgroup.Fd()), &stat) == nil && stat.Ino == cgroupRootID
}

// openMountedCgroup opens a cgroup where v2 is mounted: the root if it is, else the one mounted last; nil: it is nowhere.
func openMountedCgroup() (*os.File, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var found *os.File
	for line := range strings.Lines(string(mounts)) {
		place, ok := cgroupMount(line)
		if !ok {
			continue
		}
		cgroup, err := openCgroup(place)
		if err != nil {
			continue // something else is mounted over it
		}
		if found != nil {
			found.Close()
		}
		if found = cgroup; isCgroupRoot(cgroup) {
			break
		}
	}
	return found, nil
}

// cgroupMount returns where a line of mountinfo says that cgroup v2 is mounted. The fields are those of
// Documentation/filesystems/proc.rst, 3.5.
func cgroupMount(line string) (string, bool) {
	mount, source, found := strings.Cut(line, " - ")
	if !found || !strings.HasPrefix(source, "cgroup2 ") {
		return "", false
	}
	fields := strings.Fields(mount)
	if len(fields) < 5 {
		return "", false
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	return unescape.Replace(fields[4]), true
}

// openCgroup opens a folder, if it is a cgroup of v2.
func openCgroup(path string) (*os.File, error) {
	cgroup, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(cgroup.Fd()), &stat); err != nil || stat.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, errors.Join(fmt.Errorf("%s is no cgroup", path), err, cgroup.Close())
	}
	return cgroup, nil
}

// mountCgroup mounts cgroup v2 nowhere: it is gone when the file is closed.
func mountCgroup() (*os.File, error) {
	fd, err := detachedMount("cgroup2")
	if err != nil {
		return nil, fmt.Errorf("cgroup v2 is not mounted; mount it: %w (grant CAP_SYS_ADMIN, or mount it at /sys/fs/cgroup)", err)
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}

func detachedMount(kind string) (int, error) {
	config, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(config)
	if err := unix.FsconfigCreate(config); err != nil {
		return -1, err
	}
	mount, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mount)
	// What fsmount returns is a path only (O_PATH), which cannot be read.
	return unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
