// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listen has the calling thread's namespace take connections of both families.
func listen(tb testing.TB, port uint16) {
	tb.Helper()
	for _, family := range []string{"tcp4", "tcp6"} {
		listener, err := net.Listen(family, fmt.Sprintf(":%d", port))
		if err != nil {
			tb.Error(err)
			return
		}
		tb.Cleanup(func() { listener.Close() })
	}
}

func TestNATTellsEachConnectionOnce(t *testing.T) {
	const count = 1000
	for _, place := range []string{"host", "child"} {
		for _, family := range []string{"ipv4", "ipv6"} {
			router, world, container, dead := router4, world4, container4, dead4
			if family == "ipv6" {
				router, world, container, dead = router6, world6, container6, dead6
			}
			literal := func(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
			for _, tc := range []struct {
				name      string
				rule      string
				outgoing  bool
				to        netip.AddrPort
				protocols []string
			}{
				{"masquerade", "-A POSTROUTING -o outside -j MASQUERADE", true, netip.AddrPortFrom(world, 80), []string{"tcp", "udp", "icmp", "sctp"}},
				{"snat", "-A POSTROUTING -o outside -j SNAT --to-source " + router.String(), true, netip.AddrPortFrom(world, 80), []string{"tcp", "udp"}},
				{"dnat tcp", "-A PREROUTING -i outside -p tcp -j DNAT --to-destination " + literal(container, 80), false, netip.AddrPortFrom(router, 8080), []string{"tcp"}},
				{"dnat udp", "-A PREROUTING -i outside -p udp -j DNAT --to-destination " + literal(container, 53), false, netip.AddrPortFrom(router, 5353), []string{"udp"}},
				{"dnat sctp", "-A PREROUTING -i outside -p sctp -j DNAT --to-destination " + container.String(), false, netip.AddrPortFrom(router, 5353), []string{"sctp"}},
				{"redirect tcp", "-A PREROUTING -i outside -p tcp -j REDIRECT --to-ports 80", false, netip.AddrPortFrom(router, 8080), []string{"tcp"}},
				{"redirect to silence", "-A PREROUTING -i outside -p udp -j REDIRECT --to-ports 53", false, netip.AddrPortFrom(router, 5353), []string{"udp"}},
				{"dead neighbour tcp", "-A PREROUTING -i outside -p tcp -j DNAT --to-destination " + dead.String(), false, netip.AddrPortFrom(router, 8080), []string{"tcp"}},
				{"dead neighbour udp", "-A PREROUTING -i outside -p udp -j DNAT --to-destination " + dead.String(), false, netip.AddrPortFrom(router, 8080), []string{"udp"}},
			} {
				t.Run(place+"/"+family+"/"+tc.name, func(t *testing.T) {
					lab := newNATLab(t)
					lab.translate(t, router, tc.rule)
					lab.router.do(t, func() {
						listen(t, 80)
						mustListenUDP(t, literal(router, 53))
					})
					lab.container.do(t, func() { listen(t, 80) })
					lab.world.do(t, func() { listen(t, 80) }) // conntrack forgets a connection that is refused
					observer, netns, id := lab.router, lab.router.netns(t), -1
					if place == "child" {
						observer, id = newNamespace(t), 7
						observer.do(t, func() {
							if err := netlink.SetNetNsIdByFd(int(lab.router.file.Fd()), id); err != nil {
								t.Error(err)
							}
						})
					}
					o := &opened{nat: mustOpenNAT(t, observer, NATConfig{})}
					runNAT(t, o.nat)
					from := lab.world
					if tc.outgoing {
						from = lab.container
					}
					from.do(t, func() {
						for _, protocol := range tc.protocols {
							openers[protocol](t, tc.to, count)
						}
					})
					wanted := count * len(tc.protocols)
					var want map[connection]int
					eventually(t, "conntrack knows of all", func() bool {
						want = translatedOf(lab.conntrack(t))
						return len(want) == wanted
					})
					o.want(t, want)
					chain := "PREROUTING"
					if tc.outgoing {
						chain = "POSTROUTING"
					}
					if counted := lab.translated(t, router, chain); counted != wanted {
						t.Errorf("the rules counted %d connections, want %d", counted, wanted)
					}
					for _, e := range o.news {
						if e.Netns != netns && !(e.Netns == 0 && id >= 0) || e.NetnsID != id {
							t.Fatalf("in namespace %d, number %d, want %d, %d", e.Netns, e.NetnsID, netns, id)
						}
					}
				})
			}
		}
	}
}

var _ = unix.AF_INET
