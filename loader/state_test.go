// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// run starts a tool in the calling thread's namespace and returns what it prints.
func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// runJSON does so with a tool that prints JSON.
func runJSON[T any](tb testing.TB, name string, args ...string) (value T) {
	tb.Helper()
	if err := json.Unmarshal([]byte(run(tb, name, args...)), &value); err != nil {
		tb.Fatal(err)
	}
	return value
}

// mustReadHost reads all, and what cannot be read fails the test.
func mustReadHost(tb testing.TB, query HostQuery) HostState {
	tb.Helper()
	s := ReadHost(query)
	for _, err := range s.Errors {
		tb.Error(err)
	}
	return s
}

// enterFreshMounts gives the calling thread, which is the test's own, mounts of its own.
func enterFreshMounts(tb testing.TB) {
	tb.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		tb.Fatal(err)
	}
}

// hide puts an empty folder where there is another.
func hide(tb testing.TB, folder string) {
	tb.Helper()
	if err := unix.Mount("none", folder, "tmpfs", 0, ""); err != nil {
		tb.Fatalf("hide %s: %v", folder, err)
	}
}

// replace puts a file with some text where there is another.
func replace(tb testing.TB, file, text string) {
	tb.Helper()
	other := filepath.Join(tb.TempDir(), "other")
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Mount(other, file, "", unix.MS_BIND, ""); err != nil {
		tb.Fatalf("replace %s: %v", file, err)
	}
}

// loadModules has the kernel load what it may have as modules.
func loadModules(tb testing.TB) {
	tb.Helper()
	for module, setting := range map[string]string{
		"br_netfilter": "/proc/sys/net/bridge/bridge-nf-call-iptables",
		"nf_conntrack": "/proc/sys/net/netfilter/nf_conntrack_max",
	} {
		if _, err := os.Stat(setting); errors.Is(err, os.ErrNotExist) {
			run(tb, "modprobe", module)
		}
	}
}

func TestSwitches(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	switches := func() [4]Switch {
		s := mustReadHost(t, HostQuery{})
		return [4]Switch{s.Forwarding4, s.Forwarding6, s.BridgeNetfilter4, s.BridgeNetfilter6}
	}
	settings := []string{
		"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding",
		"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables",
	}
	for i := range settings {
		for j, setting := range settings {
			run(t, "sysctl", "-w", setting+"="+map[bool]string{true: "1", false: "0"}[i == j])
		}
		want := [4]Switch{Off, Off, Off, Off}
		want[i] = On
		if diff := cmp.Diff(want, switches()); diff != "" {
			t.Errorf("only %s is on (-want +got):\n%s", settings[i], diff)
		}
	}

	// The others' namespaces have their own.
	other := newNamespace(t)
	other.do(t, func() { write(t, "/proc/sys/net/ipv4/ip_forward", "1") })
	if s := mustReadHost(t, HostQuery{}); s.Forwarding4 != Off {
		t.Errorf("forwarding is %q, and on in another namespace only", s.Forwarding4)
	}
}

// What the kernel does not have is absent, and no error.
func TestKernelWithoutModules(t *testing.T) {
	loadModules(t) // so that there is something to hide
	enterFreshNetns(t)
	enterFreshMounts(t)
	hide(t, "/proc/sys/net/bridge")
	hide(t, "/proc/sys/net/netfilter")
	hide(t, "/proc/sys/net/ipv6")
	s := mustReadHost(t, HostQuery{})
	if s.BridgeNetfilter4 != Absent || s.BridgeNetfilter6 != Absent || s.Forwarding6 != Absent || s.Forwarding4 == Absent {
		t.Errorf("switches %q %q %q %q", s.Forwarding4, s.Forwarding6, s.BridgeNetfilter4, s.BridgeNetfilter6)
	}
	if s.Conntrack != (Table{}) {
		t.Errorf("conntrack %+v", s.Conntrack)
	}
}

// What cannot be read is said, once each, and costs nothing else.
func TestUnreadableState(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	enterFreshMounts(t)
	replace(t, "/proc/sys/net/ipv4/ip_forward", "maybe\n")
	replace(t, "/proc/sys/net/netfilter/nf_conntrack_max", "many\n")
	s := ReadHost(HostQuery{SandboxFolder: "/nonexistent"})
	var got []string
	for _, err := range s.Errors {
		got = append(got, err.Error())
	}
	want := []string{
		`read kernel setting ipv4/ip_forward: strconv.Atoi: parsing "maybe": invalid syntax`,
		`read kernel setting netfilter/nf_conntrack_max: strconv.Atoi: parsing "many": invalid syntax`,
		"list sandboxes: open /nonexistent: no such file or directory (give the agent the engine's folder, and CAP_DAC_READ_SEARCH if it is another user's)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if s.Forwarding4 != Absent || s.Conntrack != (Table{}) || s.Sandboxes != nil {
		t.Errorf("what was not read is %q, %+v, %q", s.Forwarding4, s.Conntrack, s.Sandboxes)
	}
	if s.Forwarding6 == Absent || len(s.Links) == 0 || s.Neighbours4.Limit == 0 {
		t.Errorf("the rest is missing: %+v", s)
	}
}

func TestConntrackTable(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	if s := mustReadHost(t, HostQuery{}); s.Conntrack.Entries != 0 {
		t.Errorf("%d entries in a new namespace", s.Conntrack.Entries)
	}
	for port := range 7 {
		run(t, "conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2",
			"--sport", strconv.Itoa(1000+port), "--dport", "53", "-t", "60")
	}
	newNamespace(t).do(t, func() {
		run(t, "conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1", "--dport", "53", "-t", "60")
	})
	s := mustReadHost(t, HostQuery{})
	if got, want := strconv.Itoa(s.Conntrack.Entries), run(t, "conntrack", "-C"); got != want || got != "7" {
		t.Errorf("%s entries, conntrack says %s, want 7", got, want)
	}
	if got, want := strconv.Itoa(s.Conntrack.Limit), run(t, "sysctl", "-n", "net.netfilter.nf_conntrack_max"); got != want {
		t.Errorf("limit %s, sysctl says %s", got, want)
	}
}

// ipLink is what ip says of a link.
type ipLink struct {
	Index    int    `json:"ifindex"`
	Name     string `json:"ifname"`
	MTU      int    `json:"mtu"`
	Master   string `json:"master"`
	Address  string `json:"address"`
	LinkInfo struct {
		Kind string `json:"info_kind"`
	} `json:"linkinfo"`
}

// asIP writes links as ip does.
func asIP(links []Link) []ipLink {
	names := make(map[int]string)
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var all []ipLink
	for _, l := range links {
		var mac []string
		for _, b := range l.MAC {
			mac = append(mac, strconv.FormatUint(uint64(b)|0x100, 16)[1:])
		}
		is := ipLink{Index: l.Index, Name: l.Name, MTU: l.MTU, Master: names[l.Master], Address: strings.Join(mac, ":")}
		if is.LinkInfo.Kind = l.Kind; l.Kind == "device" {
			is.LinkInfo.Kind = ""
		}
		all = append(all, is)
	}
	return all
}

func TestHostLinks(t *testing.T) {
	enterFreshNetns(t)
	addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br", MTU: 1400}})
	vethPair(t, newNamespace(t))
	addLink(t, &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "port", MTU: 9000, MasterIndex: mustLink(t, "br").Attrs().Index}, PeerName: "end",
	})
	s := mustReadHost(t, HostQuery{})
	if diff := cmp.Diff(runJSON[[]ipLink](t, "ip", "-j", "-d", "link"), asIP(s.Links)); diff != "" {
		t.Errorf("links (-ip +got):\n%s", diff)
	}
	for _, l := range s.Links {
		if want := newLink(mustLink(t, l.Name)); l != want {
			t.Errorf("listed %+v, asked for by name %+v", l, want)
		}
	}
}

func TestSandboxes(t *testing.T) {
	enterFreshNetns(t)
	enterFreshMounts(t)
	folder := t.TempDir()
	for _, name := range []string{"dead", "b", "a"} {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "dead" { // Docker leaves the file for a while
			continue
		}
		if err := unix.Mount(newNamespace(t).path(), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Error(err)
			}
		})
	}
	want := []string{filepath.Join(folder, "a"), filepath.Join(folder, "b")}
	if diff := cmp.Diff(want, mustReadHost(t, HostQuery{SandboxFolder: folder}).Sandboxes); diff != "" {
		t.Errorf("sandboxes (-want +got):\n%s", diff)
	}
	if s := mustReadHost(t, HostQuery{}); s.Sandboxes != nil {
		t.Errorf("nobody asked for %q", s.Sandboxes)
	}
}

func TestUntilWhole(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name  string
		list  []error // the answers, of which the last is given ever after
		want  error
		tries int
	}{
		{"at once", []error{nil}, nil, 1},
		{"things change", []error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, nil}, nil, 3},
		{"it fails", []error{netlink.ErrDumpInterrupted, broken}, broken, 2},
		{"things never stop changing", []error{netlink.ErrDumpInterrupted}, netlink.ErrDumpInterrupted, 10},
	} {
		tries := 0
		err := untilWhole(func() error {
			tries++
			return tc.list[min(tries, len(tc.list))-1]
		})
		if !errors.Is(err, tc.want) || tries != tc.tries {
			t.Errorf("%s: %v after %d tries, want %v after %d", tc.name, err, tries, tc.want, tc.tries)
		}
	}
}
