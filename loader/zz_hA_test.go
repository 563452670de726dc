// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"fmt"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	for _, order := range []string{"ours", "ours,other", "other,ours", "ours,ours", "other,other", "other,ours,ours"} {
		lab := newNATLab(t)
		lab.container.do(t, func() { rules(t, router4, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW") })
		r := openNATProgramIn(t, lab.router, NATConfig{})
		lab.container.do(t, func() {
			for _, c := range order {
				if c == ',' {
					continue
				}
			}
		})
		lab.router.do(t, func() {
			for _, l := range splitZZ(order) {
				f := noFilter
				if l == "ours" {
					f = r.program.filterFD()
				}
				e, err := openConntrackEvents(1<<20, f)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { _ = e.close() })
			}
		})
		lab.translate(t, router4, "-A POSTROUTING -o outside -p udp --dport 53 -j MASQUERADE")
		drops := mustOpenDrops(t, DropsConfig{Kallsyms: kallsyms})
		lab.container.do(t, func() { openRawUDP(t, apZZ(), 200) })
		time.Sleep(100 * time.Millisecond)
		got := map[string]uint64{}
		for _, d := range mustRead(t, drops.Read) {
			got[fmt.Sprintf("%s %s netns=%d dev=%d eth=%x", d.Reason, d.Function, d.Netns, d.Device, d.EtherType)] += d.Skbs
		}
		t.Log(order, got)
		losses, _ := drops.Losses()
		t.Log(losses)
	}
}
func splitZZ(s string) (out []string) {
	cur := ""
	for _, c := range s + "," {
		if c == ',' {
			out = append(out, cur)
			cur = ""
		} else {
			cur += string(c)
		}
	}
	return
}
func apZZ() netip.AddrPort { return netip.AddrPortFrom(world4, 9) }
