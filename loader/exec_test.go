// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// containerID looks like one.
var containerID = strings.Repeat("0123456789abcdef", 4)

// hierarchies are the cgroup hierarchies of this machine that name containers: the unified one, and of cgroup v1 one of
// those that every engine uses.
func hierarchies(tb testing.TB) []string {
	tb.Helper()
	var found []string
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		tb.Fatal("no cgroups are mounted")
	}
	return found
}

// newCgroup makes cgroups, each within the one before, and returns the path of the innermost.
func newCgroup(tb testing.TB, parent string, names ...string) string {
	tb.Helper()
	for _, name := range names {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { eventually(tb, "remove "+dir, func() bool { return os.Remove(dir) == nil }) })
		parent = dir
	}
	return parent
}

// startIn starts a process in a cgroup, and in a new network namespace if it is asked for: it joins the cgroup, then
// executes another program, as a container's first process does.
func startIn(tb testing.TB, cgroup string, newNetns bool) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("/bin/sh", "-c", `echo $$ >"$0/cgroup.procs" && exec sleep 60`, cgroup)
	if newNetns {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			tb.Error(err)
		}
		_ = cmd.Wait() // says that it was killed
	})
	return cmd
}

// namespaceOf is the network namespace of a process.
func namespaceOf(tb testing.TB, cmd *exec.Cmd) namespace {
	tb.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, file) })
	return namespace{file}
}

func TestExecsNameContainers(t *testing.T) {
	for _, hierarchy := range hierarchies(t) {
		for _, tc := range []struct {
			name    string
			cgroups []string
			want    string
		}{
			{"cgroupfs", []string{containerID}, containerID},
			{"systemd", []string{"docker-" + containerID + ".scope"}, "docker-" + containerID + ".scope"},
			{"cgroups of its own", []string{containerID, "init", "worker"}, containerID},
		} {
			t.Run(hierarchy+" "+tc.name, func(t *testing.T) {
				cgroup := newCgroup(t, hierarchy, tc.cgroups...)
				execs := mustOpenExecs(t)
				started := runExecs(t, execs)
				startIn(t, cgroup, false) // in the host's namespace: nobody's business
				cmd := startIn(t, cgroup, true)

				var got Process
				select {
				case got = <-started:
				case <-time.After(5 * time.Second):
					t.Fatal("no process was reported")
				}
				inside := namespaceOf(t, cmd)
				want := Process{
					Netns: inside.netns(t), NetnsInode: inside.inode(t), PID: cmd.Process.Pid, Cgroup: tc.want,
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("reported (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(want, listed(t, execs, cmd.Process.Pid)); diff != "" {
					t.Errorf("listed (-want +got):\n%s", diff)
				}
				if losses, err := execs.Losses(); err != nil || len(losses) != 1 || losses[0] != (Loss{Place: "ring_full"}) {
					t.Errorf("losses %+v, %v", losses, err)
				}
			})
		}
	}
}

// runExecs passes on what starts, of the test's own container only.
func runExecs(tb testing.TB, execs *Execs) <-chan Process {
	tb.Helper()
	started := make(chan Process, 100)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- execs.Run(ctx, func(p Process) {
			if strings.Contains(p.Cgroup, containerID) {
				started <- p
			}
		})
	}()
	tb.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	return started
}

// listed is a process as the list of all has it.
func listed(tb testing.TB, execs *Execs, pid int) Process {
	tb.Helper()
	running := mustRead(tb, execs.Running)
	i := slices.IndexFunc(running, func(p Process) bool { return p.PID == pid })
	if i < 0 {
		tb.Fatalf("process %d is not listed", pid)
	}
	return running[i]
}

// A container that has its veth before it starts its program, as Docker's have, is known by it.
func TestExecsKnowPorts(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	execs := mustOpenExecs(t)
	started := runExecs(t, execs)
	cgroup := newCgroup(t, hierarchies(t)[0], containerID)
	var cmd *exec.Cmd
	inside.do(t, func() { cmd = startIn(t, cgroup, false) })
	var got Process
	select {
	case got = <-started:
	case <-time.After(5 * time.Second):
		t.Fatal("no process was reported")
	}
	var want Process
	want.Ports[0] = Port{Index: indexIn(t, inside, "inside"), Peer: outside.Index}
	if diff := cmp.Diff(want.Ports, got.Ports); diff != "" || got.PID != cmd.Process.Pid {
		t.Errorf("reported ports of process %d (-want +got):\n%s", got.PID, diff)
	}
	if diff := cmp.Diff(want.Ports, listed(t, execs, cmd.Process.Pid).Ports); diff != "" {
		t.Errorf("listed ports (-want +got):\n%s", diff)
	}
}

func TestRunningListsOwnProcess(t *testing.T) {
	execs := mustOpenExecs(t)
	file, err := os.Open("/proc/self/ns/net") // the first thread's, which may not be this one's
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	own := namespace{file}
	if got := listed(t, execs, os.Getpid()); got.Netns != own.netns(t) || got.NetnsInode != own.inode(t) {
		t.Errorf("listed as %+v, want namespace %d, inode %d", got, own.netns(t), own.inode(t))
	}
}
