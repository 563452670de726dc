// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"
	"time"
)

// Networks may lie within each other, and one may have been where another is now.
func TestBridgeNetworkOfAnAddress(t *testing.T) {
	network := func(name, subnet string) Network {
		n := bridgeNetwork(name, "172.31.0.")
		n.Subnets = []netip.Prefix{netip.MustParsePrefix(subnet)}
		return n
	}
	for _, tc := range []struct {
		name     string
		networks []Network
		removed  []string // in this order, a second apart
		want     string
	}{
		{"alone", []Network{network("a", "172.31.0.0/16")}, nil, "a"},
		{"the longest", []Network{network("a", "172.31.0.0/16"), network("b", "172.31.5.0/24"), network("c", "172.31.0.0/20")}, nil, "b"},
		{"a living one before the longest", []Network{network("a", "172.31.0.0/16"), network("b", "172.31.5.0/24")}, []string{"b"}, "a"},
		{"the longest of those that are gone", []Network{network("a", "172.31.0.0/16"), network("b", "172.31.5.0/24")}, []string{"b", "a"}, "b"},
		{"a living one of the same length", []Network{network("a", "172.31.5.0/24"), network("b", "172.31.5.0/24")}, []string{"a"}, "b"},
		{"the last of the same length", []Network{network("a", "172.31.5.0/24"), network("b", "172.31.5.0/24")}, []string{"a", "b"}, "b"},
		{"none", []Network{network("a", "172.31.6.0/24")}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 20 { // the order of maps differs
				w := newWorld(t)
				for _, n := range tc.networks {
					w.PutNetwork(n)
				}
				for _, name := range tc.removed {
					w.wait(time.Second)
					w.RemoveNetwork(idOf("network " + name))
				}
				got := ""
				if n := w.index().bridgeNetwork(netip.MustParseAddr("172.31.5.9")); n != nil {
					got = n.Name
				}
				if got != tc.want {
					t.Fatalf("on network %q, want %q", got, tc.want)
				}
			}
		})
	}
}
