// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Image is the lab's only container image: busybox, the traffic program, and [Musl] and [GNU].
const Image = "lab:1"

// Engine is a Docker engine on the lab host, or on a node of a Swarm: see [StartSwarm]. Its methods are for one goroutine at a
// time.
type Engine struct {
	Name string // value of DOCKER_HOST on the lab host

	dir       string
	daemon    []string // dockerd's command
	enter     []string // runs a command where the engine is; empty: on the lab host
	netns     string   // path of the network namespace where it is; "": the lab host's
	socket    string   // value of DOCKER_HOST where the engine is
	sandboxes string
	cmd       *exec.Cmd
	log       *os.File
}

// StartEngine starts a Docker engine with the lab's image in it. When the test ends, its containers are removed and
// it is stopped. There can be one at a time. Flags are dockerd's, beside those that the lab needs.
func StartEngine(tb testing.TB, flags ...string) *Engine {
	tb.Helper()
	dir := tempDir(tb)
	config := filepath.Join(dir, "daemon.json") // not the machine's
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		tb.Fatal(err)
	}
	exec := filepath.Join(dir, "exec")
	e := &Engine{dir: dir, Name: "unix://" + filepath.Join(dir, "docker.sock"), sandboxes: filepath.Join(exec, "netns")}
	e.socket = e.Name
	e.daemon = append([]string{"dockerd", "--config-file", config, "--data-root", filepath.Join(dir, "data"), "--exec-root", exec,
		"--pidfile", filepath.Join(dir, "pid"), "--host", e.Name, "--live-restore"}, flags...)
	e.start(tb)
	tb.Cleanup(func() { e.close(tb) })
	e.importImage(tb)
	return e
}

func (e *Engine) start(tb testing.TB) {
	tb.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	e.log = log
	e.cmd = exec.Command(e.daemon[0], e.daemon[1:]...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		tb.Fatalf("start dockerd (Debian's docker.io): %v", err)
	}
	Eventually(tb, 30*time.Second, "dockerd", func() bool {
		_, err := try(e.command("version")...)
		return err == nil
	})
}

// Restart stops the daemon and starts it again; its containers go on running.
func (e *Engine) Restart(tb testing.TB) {
	tb.Helper()
	e.stop(tb)
	e.start(tb)
}

func (e *Engine) stop(tb testing.TB) {
	tb.Helper()
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Errorf("stop dockerd: %v", err)
	}
	if err := e.cmd.Wait(); err != nil {
		tb.Errorf("stop dockerd: %v", err)
	}
	e.log.Close()
}

// logEnd shows the end of the daemon's log if the test has failed.
func (e *Engine) logEnd(tb testing.TB) {
	if tb.Failed() {
		log, _ := os.ReadFile(filepath.Join(e.dir, "log"))
		tb.Logf("end of dockerd's log:\n%s", log[max(0, len(log)-2000):])
	}
}

// close removes all that the engine made.
func (e *Engine) close(tb testing.TB) {
	e.removeContainers(tb)
	e.Docker(tb, "network", "prune", "-f")
	e.stop(tb)
	e.logEnd(tb)
	for _, tables := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"raw", "nat", "filter"} {
			run(tb, tables, "-w", "-t", table, "-F")
			run(tb, tables, "-w", "-t", table, "-X")
		}
		run(tb, tables, "-w", "-P", "FORWARD", "ACCEPT")
	}
	run(tb, "ip", "link", "delete", "docker0")
}

func (e *Engine) removeContainers(tb testing.TB) {
	tb.Helper()
	if ids := strings.Fields(e.Docker(tb, "ps", "-aq")); len(ids) > 0 {
		e.Docker(tb, append([]string{"rm", "-f"}, ids...)...)
	}
}

// Sandboxes is the folder where the engine keeps the network namespaces of containers.
func (e *Engine) Sandboxes() string { return e.sandboxes }

// Sandbox is one of those namespaces, by the name of its file.
func (e *Engine) Sandbox(tb testing.TB, name string) Place {
	return namespacePlace(tb, filepath.Join(e.Sandboxes(), name))
}

// Docker runs a command of the docker CLI and returns its output without the newline at its end.
func (e *Engine) Docker(tb testing.TB, args ...string) string {
	tb.Helper()
	return strings.TrimSpace(run(tb, e.command(args...)...))
}

func (e *Engine) command(args ...string) []string {
	return append([]string{"docker", "--host", e.Name}, args...)
}

// importImage makes the image from the machine's static busybox, the traffic program, and the one that looks names up, with
// the machine's C library.
func (e *Engine) importImage(tb testing.TB) {
	tb.Helper()
	root := filepath.Join(e.dir, "image")
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		tb.Fatal(err)
	}
	for name, source := range map[string]string{
		"busybox": "/bin/busybox", "traffic": program(tb, "traffic"), Musl: program(tb, Musl), GNU: program(tb, GNU),
	} {
		run(tb, "cp", source, filepath.Join(bin, name))
	}
	run(tb, append([]string{"cp", "--parents", "--dereference", "--target-directory", root}, libraries(tb, program(tb, GNU))...)...)
	for _, applet := range []string{"sh", "sleep", "ping"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			tb.Fatal(err)
		}
	}
	archive := filepath.Join(e.dir, "image.tar")
	run(tb, "tar", "-C", root, "-cf", archive, ".")
	e.Docker(tb, "import", "--change", "ENV PATH=/bin", archive, Image)
}

// Major is the engine's version up to the first dot: what Docker does changes from one to the other.
func (e *Engine) Major(tb testing.TB) int {
	tb.Helper()
	version := e.Docker(tb, "version", "--format", "{{.Server.Version}}")
	text, _, _ := strings.Cut(version, ".")
	major, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatalf("version %q of the engine: %v", version, err)
	}
	return major
}
