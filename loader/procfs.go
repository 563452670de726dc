// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Procfs is where processes are found by the numbers that the engine and the kernel's programs give them: a procfs of the
// host's process ids. "" is /proc, which in a container may be one of its own.
type Procfs string

// root returns the path of the procfs.
func (p Procfs) root() string {
	if p == "" {
		return "/proc"
	}
	return string(p)
}

// file returns the path of something that is said of a process.
func (p Procfs) file(process, name string) string { return filepath.Join(p.root(), process, name) }

// NetnsPath returns the path of a process's network namespace.
func (p Procfs) NetnsPath(pid int) string { return p.file(strconv.Itoa(pid), "ns/net") }

// NetnsID returns the number under which the caller's namespace knows the network namespace of a process, as links refer
// to it; -1 if it has none there. Numbers are reused once a namespace is gone.
func (p Procfs) NetnsID(pid int) (int, error) {
	file, err := os.Open(p.NetnsPath(pid))
	if err != nil {
		return -1, fmt.Errorf("find namespace number of process %d: %w", pid, err)
	}
	defer file.Close()
	return netnsIDOf(file)
}

// NumbersHost tells whether processes have the numbers here that the kernel's programs and the engine give them: those of the
// machine's first process id namespace, in which alone the kernel's own threads are, below number 2 (init/main.c, rest_init).
func (p Procfs) NumbersHost() (bool, error) {
	if _, err := os.Stat(p.file("1", "comm")); err != nil {
		return false, fmt.Errorf("find processes: %w", err)
	}
	name, err := os.ReadFile(p.file("2", "comm"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("read name of process 2: %w", err)
	}
	return string(name) == "kthreadd\n", nil
}
