// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// Of all sockets those are the engine's own that only keep a port.
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

// What is asked of the host's state follows the containers and the routing mesh; the folder of the containers' namespaces
// outlives the last of them.
func TestHostQuery(t *testing.T) {
	published := func(protocol string, port uint16) enrich.PublishedPort {
		return enrich.PublishedPort{Host: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Container: 80, Protocol: protocol}
	}
	web := enrich.LiveContainer{Container: enrich.Container{
		SandboxKey: "/run/docker/netns/0123456789ab",
		Published:  []enrich.PublishedPort{published("tcp", 8080), published("udp", 53)},
	}}
	endpoint := func(protocol uint8, address string, port uint16) loader.NATEndpoint {
		return loader.NATEndpoint{Protocol: protocol, Address: netip.MustParseAddr(address), Port: port}
	}
	mesh := []loader.NATEndpoint{
		endpoint(unix.IPPROTO_TCP, "172.20.0.2", 80), // a container's own
		endpoint(unix.IPPROTO_TCP, "0.0.0.0", 8082), endpoint(unix.IPPROTO_TCP, "::", 8082), endpoint(unix.IPPROTO_UDP, "0.0.0.0", 514),
	}
	a := &agent{}
	for _, tc := range []struct {
		inventory enrich.Inventory
		endpoints []loader.NATEndpoint
		want      loader.HostQuery
	}{
		{enrich.Inventory{}, nil, loader.HostQuery{}},
		{enrich.Inventory{Unstarted: []enrich.UnstartedContainer{{Port: 8081}, {Port: 0}}}, nil, loader.HostQuery{Ports: []uint16{8081}}},
		{enrich.Inventory{}, mesh, loader.HostQuery{Ports: []uint16{8082}}},
		{enrich.Inventory{Containers: []enrich.LiveContainer{web}}, nil, loader.HostQuery{Ports: []uint16{8080}, SandboxFolder: "/run/docker/netns"}},
		{enrich.Inventory{}, nil, loader.HostQuery{SandboxFolder: "/run/docker/netns"}},
	} {
		if diff := cmp.Diff(tc.want, a.hostQuery(&tc.inventory, tc.endpoints)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
