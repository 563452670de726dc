// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const ipvsTop = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n" + ipvsHead

func TestParseIPVS(t *testing.T) {
	addr, at := netip.MustParseAddr, netip.MustParseAddrPort
	for _, tc := range []struct {
		name, text string
		want       []VirtualService
		err        string
	}{
		{name: "nothing", text: ipvsTop},
		{
			name: "as the engine makes them",
			text: ipvsTop + "FWM  00000101 rr \n" +
				"  -> 0A0B0004:0000      Masq    0      0          0         \n" +
				"  -> 0A0B0003:0000      Masq    1      2          3         \n" +
				"FWM  00000102 rr \n",
			want: []VirtualService{
				{Mark: 257, Scheduler: "rr", Backends: []IPVSBackend{
					{Address: addr("10.11.0.3"), Weight: 1, Active: 2, Inactive: 3}, {Address: addr("10.11.0.4")}}},
				{Mark: 258, Scheduler: "rr"},
			},
		},
		{
			name: "by address, with flags",
			text: ipvsTop + "TCP  C0000201:1F90 wlc ops persistent 360 FFFFFFFF\n" +
				"  -> AC1E0002:0050      Route   10000  0          100000    \n" +
				"UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 sh \n" +
				"  -> [fd00:0030:0000:0000:0000:0000:0000:0002]:0035      Masq    1      0          0         \n" +
				"SCTP  C0000201:0001 rr \n",
			want: []VirtualService{
				{Address: at("192.0.2.1:1"), Protocol: 132, Scheduler: "rr"},
				{Address: at("192.0.2.1:8080"), Protocol: 6, Scheduler: "wlc", Backends: []IPVSBackend{
					{Address: addr("172.30.0.2"), Weight: 10000, Inactive: 100000}}},
				{Address: at("[2001:db8::1]:53"), Protocol: 17, Scheduler: "sh", Backends: []IPVSBackend{
					{Address: addr("fd00:30::2"), Weight: 1}}},
			},
		},
		{name: "empty", text: "", err: "has another head than expected"},
		{name: "another protocol", text: ipvsTop + "ESP  C0000201:0001 rr \n", err: "unknown protocol"},
		{name: "a service cut short", text: ipvsTop + "FWM  00000101\n", err: "too few fields"},
		{name: "a backend cut short", text: ipvsTop + "FWM  00000101 rr\n  -> 0A0B0003:0000 Masq 1 2\n", err: "too few fields"},
		{name: "a backend alone", text: ipvsTop + "  -> 0A0B0003:0000      Masq    1      2          3         \n", err: "of no service"},
		{name: "no mark", text: ipvsTop + "FWM  xyz rr \n", err: "invalid syntax"},
		{name: "no address", text: ipvsTop + "TCP  C00002:1F90 rr \n", err: "no address"},
		{name: "no hexadecimal address", text: ipvsTop + "TCP  C00002XX:1F90 rr \n", err: "no address"},
		{name: "no port", text: ipvsTop + "TCP  C0000201 rr \n", err: "no port"},
		{name: "no weight", text: ipvsTop + "FWM  00000101 rr\n  -> 0A0B0003:0000 Masq x 2 3\n", err: "invalid syntax"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseIPVS([]byte(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %+v, %v; want error %q", got, err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestSilentConnections(t *testing.T) {
	const head = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
	for _, tc := range []struct {
		name, text string
		want       map[netip.Addr]int
		err        string
	}{
		{name: "empty", want: map[netip.Addr]int{}},
		{
			name: "long silent, and just not",
			text: head +
				"TCP 0A0B0007 B61C 0A0B0002 0050 0A0B0003 0050 ESTABLISHED     299\n" +
				"TCP 0A0B0007 B61D 0A0B0002 0050 0A0B0003 0050 ESTABLISHED       0\n" +
				"TCP 0A0B0007 B61E 0A0B0002 0050 0A0B0004 0050 ESTABLISHED     300\n" +
				"TCP 0A0B0007 B61F 0A0B0002 0050 0A0B0004 0050 FIN_WAIT         90\n" +
				"UDP 0A0B0007 B61F 0A0B0002 0050 0A0B0004 0050 UDP              90\n" +
				"TCP fd00:0030:0000:0000:0000:0000:0000:0007 B61C fd00:0030:0000:0000:0000:0000:0000:0001 0050 fd00:0030:0000:0000:0000:0000:0000:0002 0050 ESTABLISHED     100 sip x\n",
			want: map[netip.Addr]int{netip.MustParseAddr("10.11.0.3"): 2, netip.MustParseAddr("fd00:30::2"): 1},
		},
		{name: "cut short", text: head + "TCP 0A0B0007 B61C 0A0B0002\n", err: "too few fields"},
		{name: "no time", text: head + "TCP 0A0B0007 B61C 0A0B0002 0050 0A0B0003 0050 ESTABLISHED x\n", err: "invalid syntax"},
		{name: "no backend", text: head + "TCP 0A0B0007 B61C 0A0B0002 0050 xyz 0050 ESTABLISHED 1\n", err: "no address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := silentConnections([]byte(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, %v; want error %q", got, err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// Connections that have ended are listed too, and all namespaces' together take the time.
func TestAffordable(t *testing.T) {
	left := 100
	for i, step := range []struct {
		active, inactive, left int
		want                   bool
	}{{10, 30, 60, true}, {0, 10, 50, false}, {50, 0, 0, true}, {1, 1, -2, false}, {1, 0, -3, false}} {
		services := []VirtualService{{Backends: []IPVSBackend{{Active: step.active}, {Inactive: step.inactive}}}}
		if got := affordable(services, &left); got != step.want || left != step.left {
			t.Errorf("step %d: %t, %d left; want %t, %d", i, got, left, step.want, step.left)
		}
	}
}

// Every kernel says whether it has IPVS, and one that has none is no error.
func TestNoIPVS(t *testing.T) {
	_, missing := os.Stat("/proc/net/ip_vs")
	newNamespace(t).do(t, func() {
		services, none, err := readIPVS(new(MaxIPVSConnections))
		if len(services) != 0 || none != (missing != nil) || err != nil {
			t.Errorf("got %+v, none %t, %v in a new namespace; IPVS is missing: %v", services, none, err, missing)
		}
		if reuse, err := readPortReuse(); (reuse == Absent) != (missing != nil) || err != nil {
			t.Errorf("conn_reuse_mode is %q, %v; IPVS is missing: %v", reuse, err, missing)
		}
	})
}

// What is read is what ipvsadm reads by netlink, of the namespace that is looked at and no other.
func TestReadIPVS(t *testing.T) {
	requireIPVS(t)
	lab := newNATLab(t)
	from, from6 := netip.AddrPortFrom(router4, 8080), netip.AddrPortFrom(router6, 8080)
	to, to6 := netip.AddrPortFrom(container4, 80), netip.AddrPortFrom(container6, 80)
	lab.balance(t, from, to)
	lab.balance(t, from6, to6)
	lab.router.do(t, func() {
		run(t, "ipvsadm", "-A", "-f", "257", "-s", "rr")
		run(t, "ipvsadm", "-a", "-f", "257", "-r", container4.String(), "-m", "-w", "7")
		run(t, "ipvsadm", "-a", "-f", "257", "-r", dead4.String(), "-m", "-w", "0")
		run(t, "ipvsadm", "-A", "-f", "258", "-s", "wlc")
	})
	lab.container.do(t, func() { listen(t, 80) })
	const count, count6 = 3, 2
	lab.world.do(t, func() {
		openTCP(t, from, count)
		openTCP(t, from6, count6)
		openUDP(t, from, count)
	})
	silent := func(services []VirtualService) (sum int) {
		for _, s := range services {
			for _, b := range s.Backends {
				sum += b.Silent
			}
		}
		return sum
	}
	// As many active connections as were opened: the handshakes have been seen to their end.
	var got, want []VirtualService
	eventually(t, "all connections are active", func() bool {
		lab.router.do(t, func() {
			want = ipvsadmList(t)
			var none bool
			var err error
			if got, none, err = readIPVS(new(MaxIPVSConnections)); none || err != nil {
				t.Errorf("none %t, %v", none, err)
			}
		})
		active := 0
		for _, s := range want {
			for _, b := range s.Backends {
				active += b.Active
			}
		}
		return active == count+count6
	})
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("ipvsadm's (-) and what was read (+):\n%s", diff)
	}
	if len(want) != 6 || silent(got) != 0 {
		t.Errorf("%d services, %d silent connections; want 6 and 0", len(want), silent(got))
	}
	// A timeout below what silence is taken from makes the same of connections that are made with it.
	lab.router.do(t, func() { run(t, "ipvsadm", "--set", "200", "0", "0") })
	lab.world.do(t, func() { openTCP(t, from, 1) })
	eventually(t, "one is silent", func() bool {
		lab.router.do(t, func() { got, _, _ = readIPVS(new(MaxIPVSConnections)) })
		return silent(got) > 0
	})
	if silent(got) != 1 {
		t.Errorf("%+v", got)
	}
	lab.container.do(t, func() {
		if services, none, err := readIPVS(new(MaxIPVSConnections)); len(services) != 0 || none || err != nil {
			t.Errorf("the container's namespace has %+v, %t, %v", services, none, err)
		}
	})
	for value, want := range map[string]Switch{"0": Off, "1": On, "2": On} {
		lab.router.do(t, func() {
			write(t, "/proc/sys/net/ipv4/vs/conn_reuse_mode", value)
			if got, err := readPortReuse(); got != want || err != nil {
				t.Errorf("conn_reuse_mode %s is %q, %v; want %q", value, got, err, want)
			}
		})
	}
}

// ipvsadmList is what ipvsadm lists in the calling thread's namespace.
func ipvsadmList(tb testing.TB) (services []VirtualService) {
	tb.Helper()
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			tb.Errorf("ipvsadm: %v", err)
		}
		return n
	}
	protocols := map[string]uint8{"TCP": 6, "UDP": 17}
	for line := range strings.Lines(run(tb, "ipvsadm", "-L", "-n")) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 3, fields[1] == "RemoteAddress:Port", fields[0] == "IP", fields[0] == "Prot":
		case fields[0] == "FWM":
			services = append(services, VirtualService{Mark: uint32(number(fields[1])), Scheduler: fields[2]})
		case fields[0] == "->":
			at, err := netip.ParseAddrPort(fields[1])
			if err != nil {
				tb.Errorf("ipvsadm: %v", err)
			}
			last := &services[len(services)-1]
			last.Backends = append(last.Backends, IPVSBackend{
				Address: at.Addr(), Weight: number(fields[3]), Active: number(fields[4]), Inactive: number(fields[5]),
			})
		default:
			at, err := netip.ParseAddrPort(fields[1])
			if err != nil {
				tb.Errorf("ipvsadm: %v", err)
			}
			services = append(services, VirtualService{Protocol: protocols[fields[0]], Address: at, Scheduler: fields[2]})
		}
	}
	sortIPVS(services)
	return services
}
