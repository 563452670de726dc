// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
)

func TestParseSandboxName(t *testing.T) {
	for _, tc := range []struct {
		name, network string
		kind          SandboxKind
	}{
		{"1-u1sixx4w1u", "u1sixx4w1u", SandboxOverlay},
		{"10-u1sixx4w1", "u1sixx4w1", SandboxOverlay},
		{"lb_u1sixx4w1", "u1sixx4w1", SandboxLoadBalancer},
		{"ingress_sbox", "", SandboxIngress},
		{"default", "", SandboxHost},
		{"958fd9f896cd", "", SandboxContainer},
		{"123456789012", "", SandboxContainer},
		{"958fd9f896", "", ""},
		{"lb_", "", ""},
		{"1-", "", ""},
		{"-u1sixx4w1u", "", ""},
		{"a-u1sixx4w1u", "", ""},
		{"cni-1234-5678", "", ""},
		{"mynetns", "", ""},
		{"", "", ""},
	} {
		if kind, network := parseSandboxName(tc.name); kind != tc.kind || network != tc.network {
			t.Errorf("%q is %q of network %q, want %q of %q", tc.name, kind, network, tc.kind, tc.network)
		}
	}
}

func TestListSandboxes(t *testing.T) {
	lab := newSandboxLab(t)
	overlay, container := lab.make(t, "1-u1sixx4w1u"), lab.make(t, "958fd9f896cd")
	lab.make(t, "ingress_sbox")
	lab.make(t, "lb_u1sixx4w1")
	lab.make(t, "foreign")
	lab.destroy(t, lab.make(t, "1-hpadgzi7yf")) // the engine leaves the file for a minute
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"})
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "c"}, PeerName: "d"})
	moveTo(t, "b", container)
	moveTo(t, "d", overlay)

	numbers := make(map[string]int) // as ip says, by who is at the other end
	for _, l := range runJSON[[]struct {
		Name string `json:"ifname"`
		ID   int    `json:"link_netnsid"`
	}](t, "ip", "-j", "link", "show", "type", "veth") {
		numbers[l.Name] = l.ID
	}
	want := []Sandbox{
		{Path: overlay, Kind: SandboxOverlay, Network: "u1sixx4w1u", NetnsID: numbers["c"]},
		{Path: container, Kind: SandboxContainer, NetnsID: numbers["a"]},
		{Path: filepath.Join(lab.folder, "ingress_sbox"), Kind: SandboxIngress, NetnsID: -1},
		{Path: filepath.Join(lab.folder, "lb_u1sixx4w1"), Kind: SandboxLoadBalancer, Network: "u1sixx4w1", NetnsID: -1},
	}
	got, err := ListSandboxes(lab.folder)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sandboxes (-want +got):\n%s", diff)
	}
	for number, path := range map[int]string{numbers["c"]: overlay, numbers["a"]: "", -1: ""} {
		if s, found, err := findOverlay(lab.folder, number); err != nil || s.Path != path || found != (path != "") {
			t.Errorf("overlay of number %d is %q, %t, %v; want %q", number, s.Path, found, err, path)
		}
	}
}

func TestListSandboxesOfNoFolder(t *testing.T) {
	if got, err := ListSandboxes(""); err != nil || got != nil {
		t.Errorf("%v, %v; want none", got, err)
	}
	if got, err := ListSandboxes(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || got != nil {
		t.Errorf("%v, %v; want %v", got, err, os.ErrNotExist)
	}
}

// ipVXLAN is what ip says of a VXLAN device.
type ipVXLAN struct {
	Index    int      `json:"ifindex"`
	Name     string   `json:"ifname"`
	MTU      int      `json:"mtu"`
	Flags    []string `json:"flags"`
	LinkInfo struct {
		Data struct {
			ID       uint32 `json:"id"`
			Local    string `json:"local"`
			Local6   string `json:"local6"`
			Port     uint16 `json:"port"`
			Learning bool   `json:"learning"`
			Proxy    bool   `json:"proxy"`
		} `json:"info_data"`
	} `json:"linkinfo"`
	Counters struct {
		TX struct {
			Dropped       uint64 `json:"dropped"`
			CarrierErrors uint64 `json:"carrier_errors"`
		} `json:"tx"`
	} `json:"stats64"`
}

func (v ipVXLAN) want(tb testing.TB) VXLAN {
	tb.Helper()
	data := v.LinkInfo.Data
	vxlan := VXLAN{
		Index: v.Index, Name: v.Name, VNI: data.ID, Port: data.Port, Learning: data.Learning, Proxy: data.Proxy, MTU: v.MTU,
		Up: slices.Contains(v.Flags, "UP"), TXDropped: v.Counters.TX.Dropped, TXCarrierErrors: v.Counters.TX.CarrierErrors,
	}
	if local := data.Local + data.Local6; local != "" {
		vxlan.Local = netip.MustParseAddr(local)
	}
	return vxlan
}

// bridgeRow is what bridge says of a row.
type bridgeRow struct {
	MAC    string   `json:"mac"`
	Device string   `json:"ifname"`
	Peer   string   `json:"dst"`
	Flags  []string `json:"flags"`
	State  string   `json:"state"`
}

// wantFDB is what bridge says of the VXLAN devices' own tables.
func wantFDB(tb testing.TB) (want []FDBEntry) {
	tb.Helper()
	for _, row := range runJSON[[]bridgeRow](tb, "bridge", "-j", "fdb", "show") {
		if !strings.HasPrefix(row.Device, "vxlan") || !slices.Contains(row.Flags, "self") {
			continue
		}
		want = append(want, FDBEntry{
			Device: mustLink(tb, row.Device).Attrs().Index, MAC: mac(tb, row.MAC), Peer: netip.MustParseAddr(row.Peer),
			Permanent: row.State == "permanent",
		})
	}
	return want
}

func mac(tb testing.TB, text string) (mac [6]byte) {
	tb.Helper()
	parsed, err := net.ParseMAC(text)
	if err != nil || len(parsed) != len(mac) {
		tb.Fatalf("%q is no MAC address: %v", text, err)
	}
	copy(mac[:], parsed)
	return mac
}

func sortFDB(entries []FDBEntry) []FDBEntry {
	return slices.SortedFunc(slices.Values(entries), func(a, b FDBEntry) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
}

// An overlay of two subnets has two VXLAN devices. All is as the tools say.
func TestReadSandboxOfOverlay(t *testing.T) {
	lab := newSandboxLab(t)
	overlay, container := lab.make(t, "1-u1sixx4w1u"), lab.make(t, "958fd9f896cd")
	lab.addVXLAN(t, overlay, "vxlan0", "br0", 4097)
	lab.addVXLAN(t, overlay, "vxlan1", "br1", 4098)
	addLink(t, &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "vxlan2"}, VxlanId: 1<<24 - 1, Port: 4790, SrcAddr: net.ParseIP("2001:db8::1"),
	})
	moveTo(t, "vxlan2", overlay)
	lab.connect(t, overlay, "veth0", container, "10.11.0.2")()
	in(t, container, func() { // the bridge learns its MAC address; nobody knows the other
		sendFrames(t, "eth0", overlayFrames(t, "10.11.0.2", "10.11.0.99", 5)...)
	})
	in(t, overlay, func() {
		for _, row := range []string{
			"02:42:0a:0b:00:03 dev vxlan0 dst 10.99.0.2 self permanent",
			"02:42:0a:0b:00:04 dev vxlan0 dst 10.99.0.3 self permanent",
			"02:42:0a:0b:00:05 dev vxlan0 dst 10.99.0.3 self dynamic",
			"02:42:0a:0c:00:03 dev vxlan1 dst 10.99.0.2 self permanent",
			"02:42:0a:0c:00:03 dev vxlan2 dst 2001:db8::2 self permanent",
			"02:42:0a:0b:00:03 dev vxlan0 master", // what the bridge knows is another table
		} {
			run(t, "bridge", append([]string{"fdb", "add"}, strings.Fields(row)...)...)
		}
		run(t, "ip", "neigh", "add", "10.11.0.3", "lladdr", "02:42:0a:0b:00:03", "dev", "vxlan0", "nud", "permanent")
		run(t, "ip", "neigh", "add", "10.12.0.3", "lladdr", "02:42:0a:0c:00:03", "dev", "vxlan1", "nud", "permanent")
		run(t, "ip", "neigh", "add", "10.11.0.4", "lladdr", "02:42:0a:0b:00:04", "dev", "br0", "nud", "permanent")
		run(t, "sysctl", "-w", "net.ipv4.ip_forward=1")
	})

	sandboxes, err := ListSandboxes(lab.folder)
	if err != nil || len(sandboxes) != 2 {
		t.Fatalf("%v, %v", sandboxes, err)
	}
	got, err := ReadSandbox(sandboxes[0], new(MaxIPVSConnections))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range got.Errors {
		t.Error(err)
	}
	var vxlans []VXLAN
	var links []ipLink
	var rows []FDBEntry
	var netns Netns
	in(t, overlay, func() {
		for _, v := range runJSON[[]ipVXLAN](t, "ip", "-j", "-d", "-s", "link", "show", "type", "vxlan") {
			vxlans = append(vxlans, v.want(t))
		}
		links, rows, netns = runJSON[[]ipLink](t, "ip", "-j", "-d", "link"), wantFDB(t), ownNetns(t)
	})
	if got.Netns != netns || got.NetnsID != sandboxes[0].NetnsID || got.NetnsID < 0 || got.Forwarding != On {
		t.Errorf("netns %d, number %d, forwarding %q; want %d, %d, on", got.Netns, got.NetnsID, got.Forwarding, netns, sandboxes[0].NetnsID)
	}
	if got.NoIPVS || got.IPVS != nil {
		t.Errorf("no IPVS: %t, %v; want it not looked for", got.NoIPVS, got.IPVS)
	}
	if diff := cmp.Diff(vxlans, got.VXLANs, addresses()); diff != "" || len(vxlans) != 3 || vxlans[0].TXDropped != 5 {
		t.Errorf("%+v; want three, the first of which dropped 5 (-ip +got):\n%s", got.VXLANs, diff)
	}
	if diff := cmp.Diff(links, asIP(got.Links)); diff != "" {
		t.Errorf("links (-ip +got):\n%s", diff)
	}
	if diff := cmp.Diff(sortFDB(rows), sortFDB(got.FDB), addresses()); diff != "" || len(rows) != 5 {
		t.Errorf("rows (-bridge +got):\n%s", diff)
	}
	neighbours := []Neighbour{
		{Device: vxlans[0].Index, Address: netip.MustParseAddr("10.11.0.3"), MAC: mac(t, "02:42:0a:0b:00:03"), Confirmed: true},
		{Device: vxlans[1].Index, Address: netip.MustParseAddr("10.12.0.3"), MAC: mac(t, "02:42:0a:0c:00:03"), Confirmed: true},
	}
	slices.SortFunc(got.Neighbours, func(a, b Neighbour) int { return a.Address.Compare(b.Address) })
	if diff := cmp.Diff(neighbours, got.Neighbours, addresses()); diff != "" {
		t.Errorf("neighbours (-want +got):\n%s", diff)
	}
}

func TestReadSandboxWithoutVXLAN(t *testing.T) {
	lab := newSandboxLab(t)
	balancer := lab.make(t, "lb_u1sixx4w1")
	in(t, balancer, func() {
		addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
		run(t, "bridge", "fdb", "add", "02:42:0a:0b:00:03", "dev", "br0", "self", "permanent")
		run(t, "ip", "neigh", "add", "10.11.0.4", "lladdr", "02:42:0a:0b:00:04", "dev", "br0", "nud", "permanent")
		run(t, "sysctl", "-w", "net.ipv4.ip_forward=0")
	})
	got, err := ReadSandbox(Sandbox{Path: balancer, Kind: SandboxLoadBalancer, NetnsID: 77}, new(MaxIPVSConnections))
	if err != nil || got.Errors != nil {
		t.Fatal(err, got.Errors)
	}
	if got.Forwarding != Off || got.FDB != nil || got.Neighbours != nil || got.VXLANs != nil || len(got.Links) != 2 {
		t.Errorf("%+v; want two links, no forwarding and no tables", got)
	}
	if _, missing := os.Stat("/proc/net/ip_vs"); got.NoIPVS != (missing != nil) {
		t.Errorf("no IPVS: %t; it is missing: %v", got.NoIPVS, missing)
	}
	if got.NetnsID != -1 {
		t.Errorf("number %d; want that it has none", got.NetnsID)
	}
}

// IPVS is read of those who balance, each its own.
func TestReadSandboxIPVS(t *testing.T) {
	requireIPVS(t)
	lab := newSandboxLab(t)
	for i, sandbox := range []Sandbox{
		{Path: lab.make(t, "ingress_sbox"), Kind: SandboxIngress},
		{Path: lab.make(t, "lb_u1sixx4w1"), Kind: SandboxLoadBalancer},
		{Path: lab.make(t, "1-u1sixx4w1u"), Kind: SandboxOverlay},
	} {
		mark := uint32(256 + i)
		in(t, sandbox.Path, func() {
			run(t, "ipvsadm", "-A", "-f", fmt.Sprint(mark), "-s", "rr")
			write(t, "/proc/sys/net/ipv4/vs/conn_reuse_mode", "0")
		})
		got, err := ReadSandbox(sandbox, new(MaxIPVSConnections))
		if err != nil || got.Errors != nil || got.NoIPVS {
			t.Fatal(err, got.Errors, got.NoIPVS)
		}
		want := []VirtualService{{Mark: mark, Scheduler: "rr"}}
		reuse := Off
		if sandbox.Kind == SandboxOverlay {
			want, reuse = nil, Absent
		}
		if diff := cmp.Diff(want, got.IPVS, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || got.PortReuse != reuse {
			t.Errorf("%s: port reuse %q, want %q; services (-want +got):\n%s", sandbox.Kind, got.PortReuse, reuse, diff)
		}
	}
}

// The file of a namespace may be there when it is not, and lead to another one later.
func TestReadSandboxThatIsGone(t *testing.T) {
	lab := newSandboxLab(t)
	sandbox := Sandbox{Path: lab.make(t, "1-u1sixx4w1u"), Kind: SandboxOverlay}
	if _, err := ReadSandbox(sandbox, new(MaxIPVSConnections)); err != nil {
		t.Fatal(err)
	}
	lab.destroy(t, sandbox.Path)
	if got, err := ReadSandbox(sandbox, new(MaxIPVSConnections)); !errors.Is(err, ErrNetnsGone) || !cmp.Equal(got, SandboxState{}) {
		t.Errorf("%+v, %v; want %v", got, err, ErrNetnsGone)
	}
	lab.make(t, "1-u1sixx4w1u")
	after, err := ReadSandbox(sandbox, new(MaxIPVSConnections))
	if err != nil {
		t.Fatal(err)
	}
	in(t, sandbox.Path, func() {
		if want := ownNetns(t); after.Netns != want {
			t.Errorf("the new one is %d, want %d", after.Netns, want)
		}
	})
}

// What was read is free to die.
func TestReadSandboxKeepsNothingAlive(t *testing.T) {
	lab := newSandboxLab(t)
	overlay := lab.make(t, "1-u1sixx4w1u")
	lab.addVXLAN(t, overlay, "vxlan0", "br0", 4097)
	if _, err := ReadSandbox(Sandbox{Path: overlay}, new(MaxIPVSConnections)); err != nil {
		t.Fatal(err)
	}
	lab.destroy(t, overlay)
	awaitDeath(t)
}

// awaitDeath waits until no namespace is left that the calling thread's had a number for, nor the socket that VXLAN devices in
// them have here.
func awaitDeath(tb testing.TB) {
	tb.Helper()
	eventually(tb, "the namespaces are gone", func() bool {
		return run(tb, "ip", "netns", "list-id") == "" && run(tb, "ss", "-Hlun", "sport", "=", fmt.Sprint(DefaultDataPort)) == ""
	})
}
