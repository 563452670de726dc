// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"github.com/bridgewatch/bridgewatch/enrich"
)

// withoutProxyCases connect to published ports of an engine that has no docker-proxy.
func withoutProxyCases() []natCase {
	return []natCase{
		{"remote", bothFamilies, remoteClient},
		{"host-address", bothFamilies, hostMasqueraded},
		{"loopback", ipv4Only, loopbackMasqueraded}, // IPv6 has no route_localnet
		{"itself", bothFamilies, toItself},
		{"sibling", bothFamilies, toSibling},
	}
}

// hostMasqueraded is a process of the host: Docker's rule puts the bridge's address in, so that answers come back the same way.
func hostMasqueraded(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.visit(visit{from: s.host, to: s.door(), server: server, client: enrich.ClientHost, mechanism: enrich.Hairpin})
	})
}

// loopbackMasqueraded is a process of the host that uses the loopback address.
func loopbackMasqueraded(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.visit(visit{from: s.host, to: s.doorAt(loopback.Addr()), server: server, client: enrich.ClientHost, mechanism: enrich.Hairpin})
	})
}

// toItself is the server as its own client, by way of the host's address.
func toItself(s natStage) {
	server := s.mirror("server")
	s.each(func(s natStage) {
		s.visit(visit{from: server.Place, to: s.door(), server: server, client: enrich.ClientContainer, mechanism: enrich.Hairpin})
	})
}

// toSibling is a container on the server's bridge. Docker has no rule for it, so that it keeps its address.
func toSibling(s natStage) {
	server, client := s.mirror("server"), s.run("client")
	s.each(func(s natStage) {
		s.visit(visit{from: client.Place, to: s.door(), server: server, client: enrich.ClientContainer, mechanism: enrich.NoMechanism})
	})
}
