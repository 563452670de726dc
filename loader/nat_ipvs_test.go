// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// requireIPVS ends the test where the kernel was made without IPVS. Where it has it, it has to work.
func requireIPVS(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		return
	}
	if err := exec.Command("modprobe", "--dry-run", "ip_vs").Run(); err != nil {
		tb.Skip("this kernel has no IPVS: no module ip_vs, and none built in")
	}
	run(tb, "modprobe", "ip_vs")
}

// balance has the router hand the connections to its port on to the container's, as Swarm does: by a virtual server that
// translates, and tells connection tracking.
func (l *natLab) balance(tb testing.TB, from, to netip.AddrPort) {
	tb.Helper()
	l.router.do(tb, func() {
		write(tb, "/proc/sys/net/ipv4/vs/conntrack", "1")
		for _, protocol := range []string{"-t", "-u"} {
			run(tb, "ipvsadm", "-A", protocol, from.String(), "-s", "rr")
			run(tb, "ipvsadm", "-a", protocol, from.String(), "-r", to.String(), "-m")
		}
	})
}

// balanced says how many connections the router's virtual servers have counted.
func (l *natLab) balanced(tb testing.TB) (count int) {
	tb.Helper()
	var list string
	l.router.do(tb, func() { list = run(tb, "ipvsadm", "-L", "-n", "--stats", "--exact") })
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "TCP" && fields[0] != "UDP" {
			continue
		}
		connections, err := strconv.Atoi(fields[2])
		if err != nil {
			tb.Errorf("ipvsadm says %q: %v", line, err)
		}
		count += connections
	}
	return count
}

// IPVS gives a connection another destination without the mark of a rule that does. Each source alone, and both, tell of it
// once, and the program of its answer. In the ingress network a rule gives it another source too.
func TestNATOfIPVS(t *testing.T) {
	requireIPVS(t)
	const count = 200
	const track, ingress = "-A POSTROUTING -o lo -j MASQUERADE", "-A POSTROUTING -o port -j MASQUERADE"
	for _, family := range []string{"ipv4", "ipv6"} {
		router, container, gateway := router4, container4, netip.MustParseAddr("172.30.0.1")
		if family == "ipv6" {
			router, container, gateway = router6, container6, netip.MustParseAddr("fd00:30::1")
		}
		for _, tc := range []struct {
			name     string
			rule     string
			events   string // nf_conntrack_events
			config   NATConfig
			answered int
		}{
			{"both", track, "1", NATConfig{}, 2 * count},
			{"ingress", ingress, "1", NATConfig{}, 2 * count},
			{"program alone", track, "0", NATConfig{}, 2 * count},
			{"events alone", track, "1", NATConfig{RingSize: refuseProgram}, 0},
		} {
			t.Run(family+"/"+tc.name, func(t *testing.T) {
				lab := newNATLab(t)
				from, to := netip.AddrPortFrom(router, 8080), netip.AddrPortFrom(container, 80)
				lab.translate(t, router, tc.rule)
				lab.balance(t, from, to)
				lab.router.do(t, func() { write(t, "/proc/sys/net/netfilter/nf_conntrack_events", tc.events) })
				lab.container.do(t, func() { listen(t, 80) })
				echo(t, lab.container, to)
				o := newOpened(t, openNATAnyway(t, lab.router, tc.config), lab)
				lab.world.do(t, func() {
					openTCP(t, from, count)
					openUDP(t, from, count)
				})
				o.want(t, lab.awaitTranslated(t, 2*count))
				eventually(t, "IPVS has counted as many", func() bool { return lab.balanced(t) == 2*count }) // each 2 s
				eventually(t, fmt.Sprintf("%d are answered", tc.answered), func() bool {
					o.read(t)
					return sum(o.answered) == tc.answered
				})
				for _, e := range o.news {
					client := e.Original.Source.Addr()
					if tc.rule == ingress {
						client = gateway
					}
					if e.DestinationNAT || e.Reply.Source != to || e.Reply.Destination.Addr() != client || e.SourceNAT != (tc.rule == ingress) {
						t.Fatalf("told %+v", e)
					}
				}
			})
		}
	}
}
