// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Node is a machine of a Swarm: a network, a mount and a UTS namespace, where Docker's files are at its default paths. What is
// written to the lab's folder is seen from all nodes and from the lab host.
type Node struct {
	*Engine
	Host     Place  // the node's own network namespace
	Hostname string // as the Swarm knows it
	Addr     netip.Addr
	pid      string // of the process that keeps the namespaces
}

// newNode makes a node without an engine, until the test ends.
func newNode(tb testing.TB, name string, addr netip.Addr, flags []string) *Node {
	tb.Helper()
	dir := tempDir(tb)
	keeper := exec.Command("sleep", "infinity")
	keeper.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	if err := keeper.Start(); err != nil {
		tb.Fatalf("make namespaces of %s: %v", name, err)
	}
	tb.Cleanup(func() {
		_ = keeper.Process.Kill()
		_ = keeper.Wait()
	})
	pid := strconv.Itoa(keeper.Process.Pid)
	proc := filepath.Join("/proc", pid)
	enter := []string{"nsenter", "--target", pid, "--mount", "--net", "--uts"}
	n := &Node{
		Engine: &Engine{
			Name: "unix://" + proc + "/root/run/docker.sock", socket: "unix:///run/docker.sock", dir: dir,
			daemon: append(append(enter, "dockerd"), flags...), enter: enter, netns: proc + "/ns/net",
			sandboxes: proc + "/root/run/docker/netns",
		},
		Host: namespacePlace(tb, proc+"/ns/net"), Hostname: name, Addr: addr, pid: pid,
	}
	n.setUp(tb)
	return n
}

// setUp gives the namespaces what a machine has: file systems, a name, and an uplink to the underlay's switch.
func (n *Node) setUp(tb testing.TB) {
	tb.Helper()
	for _, folder := range []string{"cgroup", "docker", "etc"} {
		if err := os.Mkdir(filepath.Join(n.dir, folder), 0o711); err != nil {
			tb.Fatal(err)
		}
	}
	resolver, names := filepath.Join(n.dir, "resolv.conf"), filepath.Join(n.dir, "hosts")
	for file, text := range map[string]string{
		resolver: "nameserver " + OutsideAddress.String() + "\n",
		// Swarm asks for every task's image there first, and must not wait for the answer.
		names: "127.0.0.1 localhost docker.io index.docker.io registry-1.docker.io\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	underlay := Place{NetNS: "/run/netns/underlay"}
	underlay.Run(tb, "ip", "link", "add", n.Hostname, "type", "veth", "peer", "name", "eth0", "netns", n.pid)
	underlay.plug(tb, n.Hostname)
	for _, line := range []string{
		"mount --make-rprivate /",
		"mount --rbind /sys/fs/cgroup " + n.dir + "/cgroup",
		"mount -t sysfs sysfs /sys", // shows this network namespace
		"mount --rbind " + n.dir + "/cgroup /sys/fs/cgroup",
		"mount -t bpf bpf /sys/fs/bpf",
		"mount -t tmpfs tmpfs /run",
		"mount --bind " + n.dir + "/docker /var/lib/docker",
		"mount --bind " + n.dir + "/etc /etc/docker",
		"mount --bind " + resolver + " /etc/resolv.conf",
		"mount --bind " + names + " /etc/hosts",
		"hostname " + n.Hostname,
		// A new namespace has it from the machine's first. Docker drops what it does not forward itself only where it turned
		// that on.
		"sysctl -q -w net.ipv4.ip_forward=0",
		"ip link set lo up",
		"ip address add " + n.Addr.String() + "/24 dev eth0",
		"ip link set eth0 gso_max_segs 1 up",
		"ip route add default via " + OnUnderlay.String(),
	} {
		run(tb, append(n.enter[:len(n.enter):len(n.enter)], strings.Fields(line)...)...)
	}
}

func (n *Node) swarmFlags() []string {
	return []string{"--advertise-addr", n.Addr.String(), "--listen-addr", n.Addr.String() + ":2377"}
}

// Kill ends the daemon, and containerd with it, without giving them a chance to clean up. Revive brings it back.
func (n *Node) Kill(tb testing.TB) {
	tb.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		tb.Errorf("kill dockerd: %v", err)
	}
	_ = n.cmd.Wait() // killed
	n.log.Close()
	// Whoever adopts containerd does not wait for it, and dockerd takes what is left of it for a process that runs.
	pidFile := filepath.Join("/proc", n.pid, "root/run/docker/containerd/containerd.pid")
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		tb.Error(err)
	}
	n.cmd = nil
}

// Revive starts a daemon that was killed.
func (n *Node) Revive(tb testing.TB) {
	tb.Helper()
	n.start(tb)
}

// close ends the engine and all that runs on it.
func (n *Node) close(tb testing.TB) {
	if n.cmd == nil {
		n.start(tb)
	}
	_, _ = try(n.command("swarm", "leave", "--force")...) // it may have left
	n.removeContainers(tb)
	n.stop(tb)
	n.logEnd(tb)
}
