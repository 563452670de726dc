// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestNumbersHost tells the host's procfs from one that numbers processes for a container.
func TestNumbersHost(t *testing.T) {
	if host, err := Procfs("").NumbersHost(); err != nil || !host {
		t.Errorf("/proc numbers the host's processes: got %t, %v", host, err)
	}
	own := containerProcfs(t)
	if host, err := own.NumbersHost(); err != nil || host {
		t.Errorf("a container's procfs does not number the host's processes: got %t, %v", host, err)
	}
	if _, err := Procfs(t.TempDir()).NumbersHost(); err == nil {
		t.Error("an empty folder is no procfs, and no error says so")
	}
}

// TestProcfsElsewhere reads by numbers that hold in another procfs only.
func TestProcfsElsewhere(t *testing.T) {
	container := containerProcfs(t)
	if _, err := container.ReadNetns(1); err != nil {
		t.Errorf("read the namespace of a container's first process: %v", err)
	}
	processes, err := container.processes()
	if err != nil || len(processes) == 0 || len(processes) > 3 {
		t.Errorf("got %d processes of a container that has two: %v, %v", len(processes), processes, err)
	}
	first, err := os.Readlink(container.NetnsPath(1))
	own, ownErr := os.Readlink(Procfs("").NetnsPath(os.Getpid()))
	if err != nil || ownErr != nil || first == own {
		t.Errorf("the container's first process is in %q, this one in %q: %v, %v", first, own, err, ownErr)
	}
}

// containerProcfs starts a process with process ids and a network namespace of its own, and returns its procfs.
func containerProcfs(t *testing.T) Procfs {
	t.Helper()
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount", "--net", "sh", "-c",
		"mount -t proc proc /proc && readlink /proc/self/ns/pid && exec sleep infinity")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "pid:") {
		t.Fatalf("start a process in namespaces of its own: %q, %v", line, err)
	}
	return Procfs(Procfs("").file(firstProcess(t, cmd.Process.Pid), "root/proc"))
}

// firstProcess is a process that shares the mounts of another: its only child.
func firstProcess(t *testing.T, parent int) string {
	t.Helper()
	out, err := exec.Command("pgrep", "--parent", strconv.Itoa(parent)).Output()
	if err != nil {
		t.Fatalf("find the container's first process: %v", err)
	}
	return strings.TrimSpace(string(out))
}
