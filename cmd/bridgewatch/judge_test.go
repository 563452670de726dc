// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// What is asked of the host's state follows the containers; the folder of their namespaces outlives the last of them.
func TestKeptPorts(t *testing.T) {
	at := netip.MustParseAddrPort
	engines := []loader.Listener{{Address: at("0.0.0.0:8080"), Process: "dockerd"}, {Address: at("[::]:8083"), V6Only: true, Process: "dockerd"}}
	got := keptPorts([]loader.Listener{
		engines[0], {Address: at("0.0.0.0:8081"), Process: "docker-proxy"}, {Address: at("0.0.0.0:8082")}, engines[1],
	})
	if want := engines; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

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
		inventory enrich.Inventory
		want      loader.HostQuery
	}{
		{enrich.Inventory{}, loader.HostQuery{}},
		{enrich.Inventory{Unstarted: []enrich.UnstartedContainer{{Port: 8081}, {Port: 0}}}, loader.HostQuery{Ports: []uint16{8081}}},
		{enrich.Inventory{Containers: []enrich.LiveContainer{web}}, loader.HostQuery{Ports: []uint16{8080}, SandboxFolder: "/run/docker/netns"}},
		{enrich.Inventory{}, loader.HostQuery{SandboxFolder: "/run/docker/netns"}},
	} {
		if diff := cmp.Diff(tc.want, a.hostQuery(&tc.inventory)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
