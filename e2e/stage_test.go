// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// port is what the cases' traffic goes to.
const port = 7000

// stage is where one case plays: an engine, a network with IPv4 and IPv6, the family of the case's traffic, and
// names that no other case uses.
type stage struct {
	testing.TB
	engine  *lab.Engine
	host    lab.Place
	outside lab.Place
	network string
	family  lab.Family
	name    string
}

// run starts a container on the stage's network.
func (s stage) run(role string, command ...string) *lab.Container {
	s.Helper()
	return s.engine.Run(s, s.name+"-"+role, []string{"--network", s.network}, command...)
}

// serve starts a listener on the stage's network.
func (s stage) serve(role, command string, flags ...string) *lab.Container {
	s.Helper()
	return s.engine.Serve(s, s.name+"-"+role, []string{"--network", s.network}, command, port, flags...)
}

// at is the traffic's port at the address that a container has on the stage's network.
func (s stage) at(c *lab.Container) netip.AddrPort {
	s.Helper()
	return netip.AddrPortFrom(c.Addr(s, s.network, s.family), port)
}

// beyond is the traffic's port outside of the host.
func (s stage) beyond() netip.AddrPort {
	return netip.AddrPortFrom(s.pick(lab.OutsideAddress, lab.OutsideAddress6), port)
}

// pick returns the value for the stage's family.
func (s stage) pick(ipv4, ipv6 netip.Addr) netip.Addr {
	if s.family == lab.IPv6 {
		return ipv6
	}
	return ipv4
}

// ip runs iproute2 for the stage's family in a place.
func (s stage) ip(place lab.Place, args ...string) {
	s.Helper()
	version := "-4"
	if s.family == lab.IPv6 {
		version = "-6"
	}
	place.Run(s, append([]string{"ip", version}, args...)...)
}

// undo runs iproute2 when the case ends.
func (s stage) undo(place lab.Place, args ...string) {
	s.Cleanup(func() { s.ip(place, args...) })
}

// firstSubnet has room for all cases, and no address in it is used twice at once.
const (
	subnet  = "10.80.0.0/24"
	subnet6 = "fd00:80::/64"
)

// newNetwork makes the network that cases share.
func newNetwork(tb testing.TB, engine *lab.Engine, name string) string {
	tb.Helper()
	return engine.Network(tb, name, "--subnet", subnet, "--ipv6", "--subnet", subnet6)
}
