// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Names of the engine's own processes, as the kernel has them.
const (
	proxyProcess  = "docker-proxy"
	engineProcess = "dockerd"
)

// ownersPeriod is how often all processes are looked at for no other reason than that they may have changed. It takes about
// 10 µs each.
const ownersPeriod = 30 * time.Second

// SocketOwners finds out which processes hold the sockets that listen, and how many are the engine's proxies. It remembers
// what it found, since looking takes long: a process is looked at anew only for a socket that was not there before. The
// zero value has looked at none. It must not be used concurrently.
//
// Whose a socket is can be seen with CAP_SYS_PTRACE, or of processes that have no more privileges than the caller and the
// same user, and only of processes that Procfs shows.
type SocketOwners struct {
	Procfs Procfs // not to be changed once it was used

	names   map[uint32]string // by the socket's inode; "": nobody's who can be seen
	proxies int
	looked  time.Time // at all processes
}

// process is one that procfs shows.
type process struct {
	folder string
	name   string
}

// isElsewhere tells a process in another network namespace than this, such as another engine's in a container. One that may not be
// looked at is taken for one here.
func (p *process) isElsewhere(here string) bool {
	theirs, err := os.Readlink(p.folder + "/ns/net")
	return err == nil && theirs != here
}

// update makes names those of the given sockets.
func (o *SocketOwners) update(inodes []uint32, now time.Time) error {
	again := now.Sub(o.looked) >= ownersPeriod
	names := make(map[uint32]string, len(inodes))
	missing := make(map[string]uint32) // by what a descriptor of it leads to
	for _, inode := range inodes {
		name, known := o.names[inode]
		names[inode] = name
		if !known || name == "" && again {
			missing[fmt.Sprintf("socket:[%d]", inode)] = inode
		}
	}
	o.names = names
	if len(missing) == 0 && !again {
		return nil
	}
	processes, err := o.Procfs.processes()
	if err != nil {
		return err
	}
	o.looked, o.proxies = now, 0
	here, _ := os.Readlink("/proc/thread-self/ns/net")
	for _, p := range processes {
		if p.name == proxyProcess && !p.isElsewhere(here) {
			o.proxies++
		}
	}
	for _, engines := range []bool{true, false} { // mostly it is one of the former, and others may have many descriptors
		for _, p := range processes {
			if engine := p.name == proxyProcess || p.name == engineProcess; engine == engines {
				o.find(p, missing)
			}
		}
	}
	return nil
}

// find takes the sockets that a process holds away from those that are missing.
func (o *SocketOwners) find(p process, missing map[string]uint32) {
	if len(missing) == 0 {
		return
	}
	descriptors, err := readNames(p.folder + "/fd")
	if err != nil {
		return // it has ended, or is not to be looked at
	}
	for _, descriptor := range descriptors {
		target, err := os.Readlink(p.folder + "/fd/" + descriptor)
		if err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		if inode, wanted := missing[target]; wanted {
			o.names[inode] = p.name
			delete(missing, target)
		}
	}
}

// processes lists all that there are.
func (p Procfs) processes() ([]process, error) {
	entries, err := readNames(p.root())
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var processes []process
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry); err != nil {
			continue
		}
		folder := filepath.Join(p.root(), entry)
		name, err := os.ReadFile(folder + "/comm")
		if err != nil {
			continue // it has ended
		}
		processes = append(processes, process{folder, string(bytes.TrimSuffix(name, []byte("\n")))})
	}
	return processes, nil
}

// readNames lists a folder, in no order and without asking what its entries are.
func readNames(path string) ([]string, error) {
	folder, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	return folder.Readdirnames(-1)
}
