// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startHolding starts a process of the given name that holds nothing but a listener, which the test gives up.
func startHolding(tb testing.TB, name string, listener *net.TCPListener) *exec.Cmd {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), name)
	run(tb, "cp", "/bin/sleep", program)
	socket, err := listener.File()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(program, "60")
	cmd.ExtraFiles = []*os.File{socket}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	mustClose(tb, socket)
	mustClose(tb, listener)
	return cmd
}

// processAt is who listens on a port of the calling thread's namespace.
func processAt(tb testing.TB, s HostState, port uint16) string {
	tb.Helper()
	for _, l := range s.Listeners {
		if l.Address.Port() == port {
			return l.Process
		}
	}
	tb.Fatalf("nobody listens on port %d", port)
	return ""
}

// anyListener listens on some port of the calling thread's namespace.
func anyListener(tb testing.TB) *net.TCPListener {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return listener.(*net.TCPListener)
}

func TestListenersProcess(t *testing.T) {
	startHolding(t, "docker-proxy", anyListener(t)) // of another engine
	enterFreshNetns(t)
	for port, name := range map[int]string{8080: "docker-proxy", 8081: "nginx", 8082: "nginx"} {
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		startHolding(t, name, listener.(*net.TCPListener))
	}
	query := HostQuery{Ports: []uint16{8080, 8081}, Owners: new(SocketOwners)}
	for _, look := range []string{"first", "remembered"} {
		s := mustReadHost(t, query)
		got := map[uint16]string{8080: processAt(t, s, 8080), 8081: processAt(t, s, 8081), 8082: processAt(t, s, 8082)}
		want := map[uint16]string{8080: "docker-proxy", 8081: "nginx", 8082: ""}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s look (-want +got):\n%s", look, diff)
		}
		if s.Proxies != 1 {
			t.Errorf("%s look: %d proxies", look, s.Proxies)
		}
	}
	query.Owners = nil
	if s := mustReadHost(t, query); processAt(t, s, 8080) != "" || s.Proxies != 0 {
		t.Errorf("nobody asked for %q, %d", processAt(t, s, 8080), s.Proxies)
	}
}

// fakeProcesses puts another /proc in the place of the calling thread's, for good.
type fakeProcesses struct{ testing.TB }

func newFakeProcesses(tb testing.TB) fakeProcesses {
	tb.Helper()
	enterFreshNetns(tb) // a thread of its own
	enterFreshMounts(tb)
	hide(tb, "/proc")
	return fakeProcesses{tb}
}

// put makes a process that holds sockets.
func (f fakeProcesses) put(pid int, name string, sockets ...uint32) {
	f.Helper()
	folder := fmt.Sprintf("/proc/%d", pid)
	if err := os.MkdirAll(folder+"/fd", 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(folder+"/comm", []byte(name+"\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	for i, socket := range sockets {
		if err := os.Symlink(fmt.Sprintf("socket:[%d]", socket), fmt.Sprintf("%s/fd/%d", folder, i)); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/null", folder+"/fd/100"); err != nil {
		f.Fatal(err)
	}
}

// Processes are looked at for a socket that is new, and twice a minute.
func TestSocketOwnersRemember(t *testing.T) {
	proc := newFakeProcesses(t)
	proc.put(10, "docker-proxy", 1)
	proc.put(11, "docker-proxy", 2)
	proc.put(12, "dockerd", 9)
	proc.put(13, "sshd", 3)
	var owners SocketOwners
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	check := func(what string, proxies int, want map[uint32]string) {
		t.Helper()
		var inodes []uint32
		for inode := range want {
			inodes = append(inodes, inode)
		}
		if err := owners.update(inodes, now); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, owners.names); diff != "" || owners.proxies != proxies {
			t.Errorf("%s: %d proxies, want %d (-want +got):\n%s", what, owners.proxies, proxies, diff)
		}
	}
	check("all are new", 2, map[uint32]string{1: "docker-proxy", 2: "docker-proxy", 3: "sshd", 4: ""})
	proc.put(14, "nginx", 4)
	now = now.Add(ownersPeriod - time.Second)
	check("a while later", 2, map[uint32]string{1: "docker-proxy", 3: "sshd", 4: ""})
	now = now.Add(time.Second)
	check("half a minute later", 2, map[uint32]string{1: "docker-proxy", 3: "sshd", 4: "nginx"})
	proc.put(15, "docker-proxy", 5)
	check("a new one", 3, map[uint32]string{3: "sshd", 4: "nginx", 5: "docker-proxy"})
	proc.put(16, "docker-proxy")
	check("nothing new", 3, map[uint32]string{})
}

// BenchmarkSocketOwners is what it costs to find out who listens on a new port: looking at all processes of this machine.
func BenchmarkSocketOwners(b *testing.B) {
	enterFreshNetns(b)
	mustListenTCP(b, "tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), 8080).String())
	for b.Loop() {
		mustReadHost(b, HostQuery{Ports: []uint16{8080}, Owners: new(SocketOwners)})
	}
}
