// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// crowd is a host with so many containers on 30 networks, each of which publishes a port and is on a port of a bridge.
func crowd(containers int) View {
	const networks = 30
	v := View{Now: start, Listed: true, Owners: map[int]string{}, Containers: map[string]loader.NetnsState{}}
	v.Host.Forwarding4, v.Host.Forwarding6 = loader.On, loader.On
	for n := range networks {
		bridge := fmt.Sprintf("br-%012x", n)
		v.Inventory.Networks = append(v.Inventory.Networks, enrich.Network{
			ID: fmt.Sprint("net", n), Name: fmt.Sprint("net", n), Driver: "bridge", Bridge: bridge, ICC: true, Masquerade: true,
			Attached: containers / networks, Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)},
		})
		v.Host.Links = append(v.Host.Links, loader.Link{Index: n + 1, Name: bridge, Kind: "bridge", MTU: 1500})
	}
	for i := range containers {
		network := v.Inventory.Networks[i%networks]
		id, index := fmt.Sprintf("%064x", i), networks+1+i
		v.Inventory.Containers = append(v.Inventory.Containers, enrich.LiveContainer{
			Container: enrich.Container{
				ID: id, Name: fmt.Sprint("c", i), Running: true, PID: i + 1,
				Endpoints: []enrich.Endpoint{{
					NetworkID: network.ID, Network: network.Name, MAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)},
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i % networks), byte(i >> 8), byte(i)})},
				}},
				Published: []enrich.PublishedPort{{
					Host: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(10000+i)), Container: 80, Protocol: "tcp",
				}},
			},
			Identity: enrich.Identity{Container: fmt.Sprint("c", i)}, Networks: []string{network.Name},
		})
		v.Host.Links = append(v.Host.Links, loader.Link{
			Index: index, Name: fmt.Sprint("veth", i), Kind: "veth", Master: i%networks + 1, PeerNetnsID: i, MTU: 1500,
		})
		v.Owners[index] = id
		v.Containers[id] = loader.NetnsState{}
	}
	return v
}

// usesOf are of remote clients that a container sees, and of others that it does not.
func usesOf(c *enrich.LiveContainer) []Use {
	kept, lost := webUse(enrich.NoMechanism, 50, "203.0.113.9:50000", ""), webUse(enrich.UserlandProxy, 50, "203.0.113.9:50000", "")
	uses := []Use{kept, lost}
	for i := range uses {
		uses[i].Subject.Identity, uses[i].ContainerID, uses[i].Port = c.Identity, c.ID, c.Published[0].Host.Port()
	}
	return uses
}

// BenchmarkEvaluate looks for findings on a host where there are none, and where each container loses packets and its
// clients' addresses.
func BenchmarkEvaluate(b *testing.B) {
	for _, containers := range []int{100, 1000} {
		for _, lost := range []uint64{0, 50} {
			b.Run(fmt.Sprintf("containers=%d/lost=%d", containers, lost), func(b *testing.B) {
				board, view := NewBoard(Config{Hold: Window}), crowd(containers)
				for i := range view.Inventory.Containers {
					if lost > 0 {
						l := loss("filtered", lost)
						l.Subject.Identity = view.Inventory.Containers[i].Identity
						view.Losses = append(view.Losses, l)
						view.Uses = append(view.Uses, usesOf(&view.Inventory.Containers[i])...)
					}
				}
				b.ReportAllocs()
				for b.Loop() {
					board.Evaluate(&view)
				}
				b.ReportMetric(float64(len(board.Standing())), "findings")
			})
		}
	}
}

// BenchmarkAddDNS takes in 1,000 lookups of 1,000 containers, both legs of each.
func BenchmarkAddDNS(b *testing.B) {
	var dns enrich.DNS
	for i := range 1000 {
		asked, up := lookup(enrich.ResolverEmbedded, "127.0.0.11", 1), lookup(enrich.ResolverUpstream, "192.0.2.53", 1)
		asked.ContainerID = fmt.Sprintf("%064x", i)
		up.ContainerID = asked.ContainerID
		dns.Lookups = append(dns.Lookups, asked, up)
	}
	r := NewRecent()
	b.ReportAllocs()
	for b.Loop() {
		r.AddDNS(dns, at(2))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(dns.Lookups)), "ns/lookup")
}
