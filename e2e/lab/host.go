// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What tells a process that it runs on a lab host: where that host's files are, and where the programs are.
const (
	dirVariable      = "BRIDGEWATCH_LAB_DIR"
	programsVariable = "BRIDGEWATCH_LAB_PROGRAMS"
)

// listing is in place of a folder in a process that lists the tests and runs none.
const listing = "-"

// Addresses of the uplink's two ends, and what lies beyond it.
var (
	HostAddress     = netip.MustParseAddr("192.0.2.2")
	OutsideAddress  = netip.MustParseAddr("198.51.100.1")
	HostAddress6    = netip.MustParseAddr("2001:db8:1::2")
	OutsideAddress6 = netip.MustParseAddr("2001:db8:2::1")
)

// Main runs a package's tests on new lab hosts, each on one of its own and several at a time, and returns the exit code. It
// needs root. The longest tests begin first, so that none is left alone at the end.
//
// It builds the agent and the traffic program first, where the network can still be reached, unless BRIDGEWATCH_LAB_PROGRAMS
// names a folder that has them: there is no compiler in a virtual machine.
func Main(m *testing.M, longest ...string) int {
	switch dir := os.Getenv(dirVariable); dir {
	case "": // the one that was started
	case listing:
		return m.Run()
	default:
		if err := setUpHost(dir); err != nil {
			fmt.Fprintln(os.Stderr, "set up lab host:", err)
			return 1
		}
		return m.Run()
	}
	flag.Parse()
	code, err := runOnNewHosts(longest)
	if err != nil {
		fmt.Fprintln(os.Stderr, "run lab hosts:", err)
		return 1
	}
	return code
}

// pace is how many lab hosts there are at a time, and how long a test may take, so that one that hangs ends in time for its
// output to be seen.
type pace struct {
	atOnce  int
	timeout time.Duration
}

// machinePace is this machine's. Tests wait for most of the time; but not in a virtual machine whose processors are emulated: there,
// one takes all of them, and its time.
func machinePace() (pace, error) {
	processors, err := os.ReadFile("/proc/cpuinfo")
	if bytes.Contains(processors, []byte("QEMU TCG")) {
		return pace{atOnce: 1, timeout: 40 * time.Minute}, err
	}
	return pace{atOnce: 4, timeout: 10 * time.Minute}, err
}

// runOnNewHosts deals the tests out, and ends all that they left running.
//
// A process id namespace would end them by itself. But then the numbers that the kernel's programs see of processes are
// not those that the agent sees, as they are on a host.
func runOnNewHosts(longest []string) (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("the lab makes namespaces and runs Docker: it needs root")
	}
	dir, err := os.MkdirTemp("", "bridgewatch-lab-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	programs := os.Getenv(programsVariable)
	if programs == "" {
		programs = dir
		if err := buildPrograms(programs); err != nil {
			return 0, err
		}
	}
	patterns, err := testPatterns(longest)
	if err != nil {
		return 0, err
	}

	pace, err := machinePace()
	if err != nil {
		return 0, err
	}

	// Orphans of the labs become children of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("adopt orphans: %w", err)
	}
	defer func() { err = errors.Join(err, endChildren()) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	var group errgroup.Group
	group.SetLimit(pace.atOnce)
	var mu sync.Mutex // one test's output after the other
	for i, pattern := range patterns {
		group.Go(func() error {
			own := filepath.Join(dir, strconv.Itoa(i)) // short: see tempDir
			out, exit, err := runOnNewHost(ctx, programs, own, pattern, pace.timeout)
			mu.Lock()
			defer mu.Unlock()
			_, _ = os.Stdout.Write(out)
			code = max(code, exit)
			return err
		})
	}
	err = group.Wait()
	return code, err
}

// testPatterns are the -test.run patterns of the tests that were asked for, one for each, the longest first. Benchmarks are run
// beside nothing else: all on one host, where no test runs.
func testPatterns(longest []string) ([]string, error) {
	if flag.Lookup("test.bench").Value.String() != "" {
		return []string{"^$"}, nil
	}
	top, sub, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	list := exec.Command("/proc/self/exe", "-test.list", cmp.Or(top, "."))
	list.Env = append(os.Environ(), dirVariable+"="+listing)
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list tests: %w", err)
	}
	names := strings.Fields(string(out))
	turn := func(name string) int {
		if i := slices.Index(longest, name); i >= 0 {
			return i
		}
		return len(longest)
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(turn(a), turn(b)) })
	var patterns []string
	for _, name := range names {
		pattern := "^" + name + "$"
		if sub != "" {
			pattern += "/" + sub
		}
		patterns = append(patterns, pattern)
	}
	return patterns, nil
}

// runOnNewHost runs this program again in namespaces of its own. programs is where Main has built what it needs.
func runOnNewHost(ctx context.Context, programs, dir, pattern string, timeout time.Duration) (out []byte, code int, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, 0, err
	}
	runtime.LockOSThread() // the death signal is tied to the thread, which ends with this goroutine
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append(os.Args[1:len(os.Args):len(os.Args)], "-test.run", pattern, "-test.timeout", timeout.String())...)
	cmd.Env = append(os.Environ(), dirVariable+"="+dir, programsVariable+"="+programs)
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	out, err = cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, max(exit.ExitCode(), 1), nil
	}
	return out, 0, err
}

// endChildren kills the children of this process, and then the orphans that they leave, until there are none.
func endChildren() error {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for children: %w", err)
		}
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			return err
		}
		for _, file := range stats {
			stat, err := os.ReadFile(file)
			if err != nil {
				continue // ended meanwhile
			}
			// PID (NAME) STATE PARENT …
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err == nil && fields[1] == strconv.Itoa(os.Getpid()) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// buildPrograms writes what the lab runs to a folder.
func buildPrograms(dir string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find module: %w", err)
	}
	root := strings.TrimSpace(string(out))
	return errors.Join(
		build(root, "go", "build", "-o", filepath.Join(dir, "traffic"), "./e2e/traffic"),
		build(root, "go", "build", "-o", filepath.Join(dir, "bridgewatch"), "./cmd/bridgewatch"),
		build(root, "gcc", "-O2", "-Wall", "-Werror", "-o", filepath.Join(dir, GNU), "e2e/resolve/resolve.c"),
		build(root, "musl-gcc", "-O2", "-Wall", "-Werror", "-static", "-o", filepath.Join(dir, Musl), "e2e/resolve/resolve.c"),
	)
}

// build runs a compiler in the module's root. Go makes static programs.
func build(root string, command ...string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build with %q: %w\n%s", command, err, out)
	}
	return nil
}

// setUpHost gives the new namespaces what a host has: file systems, an uplink and a world beyond it.
func setUpHost(dir string) error {
	for _, line := range []string{
		"mount --make-rprivate /",
		"mkdir -p " + dir + "/cgroup",
		"mount --rbind /sys/fs/cgroup " + dir + "/cgroup",
		"mount -t sysfs sysfs /sys", // shows this network namespace
		"mount --rbind " + dir + "/cgroup /sys/fs/cgroup",
		"mount -t bpf bpf /sys/fs/bpf",
		"mount -t tmpfs tmpfs /run",

		"ip netns attach host " + strconv.Itoa(os.Getpid()),
		"ip link set lo up",
		"ip netns add outside",
		"ip link add eth0 type veth peer name eth0 netns outside",
		"ip address add 192.0.2.2/24 dev eth0",
		"ip address add 2001:db8:1::2/64 dev eth0 nodad",
		"ip link set eth0 up",
		"ip -n outside link set lo up",
		"ip -n outside address add 192.0.2.1/24 dev eth0",
		"ip -n outside address add 2001:db8:1::1/64 dev eth0 nodad",
		"ip -n outside address add 198.51.100.1/32 dev lo",
		"ip -n outside address add 2001:db8:2::1/128 dev lo",
		"ip -n outside link set eth0 up",
		"ip -n outside route add fd00::/8 via 2001:db8:1::2",
		"ip route add default via 192.0.2.1",
		"ip route add default via 2001:db8:1::1",
		"sysctl -q -w net.ipv6.conf.all.forwarding=1",     // Docker 20.10 leaves it to the operator
		"sysctl -q -w net.ipv6.conf.default.accept_dad=0", // a bridge's address is good at once
	} {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// program returns the path of a program that Main built.
func program(tb testing.TB, name string) string {
	tb.Helper()
	dir := os.Getenv(programsVariable)
	if dir == "" {
		tb.Fatal("not on a lab host: TestMain must call lab.Main")
	}
	return filepath.Join(dir, name)
}

// tempDir is a short path: Docker keeps unix sockets there, whose paths are limited to 108 bytes.
func tempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp(os.Getenv(dirVariable), "")
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}
