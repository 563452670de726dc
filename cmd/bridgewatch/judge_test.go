// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// What is asked of the host's state follows the containers; the folder of their namespaces outlives the last of them.
func TestHostQuery(t *testing.T) {
	published := func(protocol string, port uint16) enrich.PublishedPort {
		return enrich.PublishedPort{Host: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Container: 80, Protocol: protocol}
	}
	web := enrich.LiveContainer{Container: enrich.Container{
		SandboxKey: "/run/docker/netns/0123456789ab",
		Published:  []enrich.PublishedPort{published("tcp", 8080), published("udp", 53)},
	}}
	a := &agent{}
	for _, tc := range []struct {
		containers []enrich.LiveContainer
		want       loader.HostQuery
	}{
		{nil, loader.HostQuery{}},
		{[]enrich.LiveContainer{web}, loader.HostQuery{Ports: []uint16{8080}, SandboxFolder: "/run/docker/netns"}},
		{nil, loader.HostQuery{SandboxFolder: "/run/docker/netns"}},
	} {
		if diff := cmp.Diff(tc.want, a.hostQuery(&enrich.Inventory{Containers: tc.containers})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
