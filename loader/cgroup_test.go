// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// pathOf is a path to an open folder that leads nowhere else, whatever is mounted.
func pathOf(folder *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", folder.Fd()) }

func mustOpenCgroupRoot(tb testing.TB) *os.File {
	tb.Helper()
	root, err := openCgroupRoot()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, root) })
	return root
}

func mustOpenCgroup(tb testing.TB, path string) *os.File {
	tb.Helper()
	cgroup, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, cgroup) })
	return cgroup
}

// rootFinder is in the environment of a process that is to attach to the root, and to say whether it is it.
const rootFinder = "BRIDGEWATCH_TEST_ROOT_FINDER"

// findRoot tells the root by what only it lacks (Documentation/admin-guide/cgroup-v2.rst: cgroup.type "exists on non-root
// cgroups"), and by the cgroup that was made below it.
func findRoot(child string) error {
	program, err := openDNSProgram(0)
	if err != nil {
		return err
	}
	if err := program.Close(); err != nil {
		return err
	}
	root, err := openCgroupRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := os.Stat(filepath.Join(pathOf(root), "cgroup.type")); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("it is not the root: cgroup.type: %v", err)
	}
	_, err = os.Stat(filepath.Join(pathOf(root), child, "cgroup.type"))
	return err
}

func TestOpenCgroupRoot(t *testing.T) {
	if child := os.Getenv(rootFinder); child != "" {
		if err := findRoot(child); err != nil {
			t.Fatal(err)
		}
		return
	}
	const (
		places  = `$(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo)`
		unmount = `for m in ` + places + `; do umount -l $m || exit 1; done; `
		begin   = `exec "$@"`
		own     = `exec unshare --cgroup `
		again   = own + `sh -ec 'd=$(mktemp -d); mount -t cgroup2 none $d; `
		lack    = `exec setpriv --bounding-set=-dac_read_search "$@"`
	)
	for _, tc := range []struct{ name, script, want string }{
		{"as it is", begin, ""},
		{"not mounted", unmount + begin, ""},
		{"something else mounted over it", `for m in ` + places + `; do mount -t tmpfs none $m; done; ` + begin, ""},
		{"mounted elsewhere", unmount + `d=$(mktemp -d)/'a b\c'; mkdir "$d"; mount -t cgroup2 none "$d"; ` + begin, ""},
		{"in a namespace", own + `"$@"`, ""},
		{"in a namespace, not mounted", unmount + own + `"$@"`, ""},
		{"in a namespace, mounted there", unmount + again + begin + `' sh "$@"`, ""},
		{"in a namespace, may read what it sees", unmount + again + lack + `' sh "$@"`, "--cgroupns=host"},
		{"may read what it sees", lack, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := mustOpenCgroupRoot(t)
			child := fmt.Sprintf("bridgewatch-test-%d", os.Getpid())
			cgroup := mustOpenCgroup(t, newCgroup(t, pathOf(root), child))
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", tc.script, "sh",
				program, "-test.run=^TestOpenCgroupRoot$")
			cmd.Env = append(os.Environ(), rootFinder+"="+child)
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
			out, err := cmd.CombinedOutput()
			if (err == nil) != (tc.want == "") || !strings.Contains(string(out), tc.want) {
				t.Errorf("%v, want %q:\n%s", err, tc.want, out)
			}
		})
	}
}

func TestCgroupMount(t *testing.T) {
	for _, tc := range []struct {
		line, want string
		ok         bool
	}{
		{"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw", "/sys/fs/cgroup/unified", true},
		{"41 31 0:38 /.. /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate", "/sys/fs/cgroup", true},
		{`41 31 0:38 / /a\040b\134c\011d\012e rw - cgroup2 none rw`, "/a b\\c\td\ne", true},
		{"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu", "", false},
		{"32 31 0:29 / /cgroup2 rw,relatime - tmpfs cgroup2 rw", "", false},
		{"41 31 - cgroup2 cgroup2 rw", "", false},
		{"", "", false},
	} {
		if got, ok := cgroupMount(tc.line); got != tc.want || ok != tc.ok {
			t.Errorf("%q is at %q, %t, want %q, %t", tc.line, got, ok, tc.want, tc.ok)
		}
	}
}
