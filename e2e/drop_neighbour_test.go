// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// neighbourCases drop between two that should reach each other directly.
func neighbourCases() []dropCase {
	return []dropCase{
		{"neighbour-queue", bothFamilies, neighbourQueue},
		{"macvlan-host", ipv4Only, macvlanHost},
		{"v6-disabled", ipv6Only, v6Disabled},
		{"device-down", ipv4Only, deviceDown},
		{"port-disabled", ipv6Only, portDisabled},
	}
}

// introduce tells one container the hardware address of another, so that it need not ask.
func (s stage) introduce(to, other *lab.Container) {
	s.Helper()
	s.ip(to.Place, "neighbour", "replace", s.at(other).Addr().String(), "lladdr", other.HardwareAddr(s.network),
		"dev", "eth0", "nud", "permanent")
}

// noneArrived is what was sent, unless something of it has been received.
func (s stage) noneArrived(receiver *lab.Container, sent uint64) count {
	s.Helper()
	if got := receiver.SNMP(s, s.udpProtocol(), "InDatagrams"); got != 0 {
		s.Fatalf("%d datagrams came through", got)
	}
	return exactly(sent)
}

// neighbourQueue sends a burst to an address that nobody has yet. What waits is delivered once somebody has it, and the
// rest is lost.
func neighbourQueue(s stage) []drops {
	victim, receiver := s.run("victim"), s.serve("receiver", "udp-listen")
	queue := "net.ipv4.neigh.eth0.unres_qlen_bytes"
	if s.family == lab.IPv6 {
		queue = "net.ipv6.neigh.eth0.unres_qlen_bytes"
	}
	victim.Run(s, "sysctl", "-w", queue+"=8192")
	late := netip.AddrPortFrom(s.pick(netip.MustParseAddr("10.80.0.251"), netip.MustParseAddr("fd00:80::251")), port)
	sent := victim.Send(s, lab.Datagrams{To: late, Count: 100})
	s.ip(receiver.Place, "address", "add", late.Addr().String(), "dev", "eth0")
	arrived := snmp(receiver.Place, s.udpProtocol(), "InDatagrams")
	lab.Eventually(s, patience, "what waits to be delivered", func() bool { return arrived(s) > 0 })
	return of(victim, "container", "tx", fault("neigh-queue"), exactly(sent-arrived(s)), "sent - InDatagrams", "NEIGH_QUEUEFULL", "NOT_SPECIFIED")
}

// macvlanHost sends to the host whose uplink the network is on.
func macvlanHost(s stage) []drops {
	s.network = s.engine.Network(s, s.name, "--driver", "macvlan", "--opt", "parent=eth0",
		"--subnet", "192.0.2.0/24", "--gateway", "192.0.2.1", "--aux-address", "host="+lab.HostAddress.String())
	victim := s.run("victim")
	sent := victim.Send(s, lab.Datagrams{To: s.atHost(), Count: 20})
	s.awaitDeadNeighbour(victim.Place, lab.HostAddress)
	return of(victim, "container", "tx", policy("macvlan-host"), exactly(sent), "sent", "NEIGH_FAILED", "NOT_SPECIFIED")
}

// v6Disabled takes IPv6 from a container that others still send to.
func v6Disabled(s stage) []drops {
	sender, victim := s.run("sender"), s.serve("victim", "udp-listen")
	s.introduce(sender, victim)
	victim.Run(s, "sysctl", "-w", "net.ipv6.conf.eth0.disable_ipv6=1")
	discarded := snmp(victim.Place, "Ip6", "InDiscards")
	before := discarded(s)
	sent := sender.Send(s, lab.Datagrams{To: s.at(victim), Count: 50})
	if n := discarded(s) - before; n < sent { // the kernel discards multicast there, too
		s.Errorf("Ip6InDiscards grew by %d", n)
	}
	return of(victim, "container", "rx", fault("v6-disabled"), exactly(sent), "sent, InDiscards", "IPV6DISABLED", "NOT_SPECIFIED")
}

// What a container loses while it begins, or to one that has ended just now, is no fault: ports come up and go down then.
const (
	matures  = 10 * time.Second // after its beginning
	outlives = 6 * time.Second  // before its end
)

// stalled is what does not get through, since something has been done that keeps the bridge from passing it on.
func (s stage) stalled(sender, receiver *lab.Container, reasons ...string) []drops {
	s.Helper()
	sent := sender.Send(s, lab.Datagrams{To: s.at(receiver), Count: 50})
	return of(sender, "host", "tx", fault("veth-down"), s.noneArrived(receiver, sent), "sent, none received", append(reasons, "NOT_SPECIFIED")...)
}

// deviceDown takes the container's end of its link down.
func deviceDown(s stage) []drops {
	victim, other := s.run("victim"), s.serve("other", "udp-listen")
	s.introduce(victim, other)
	other.Run(s, "ip", "link", "set", "eth0", "down")
	lost := s.stalled(victim, other, "NO_TX_TARGET")
	time.Sleep(outlives)
	return lost
}

// portDisabled has the bridge pass nothing on to a container's port, and take nothing from it, while the link is up.
func portDisabled(s stage) []drops {
	closed, other := s.serve("closed", "udp-listen"), s.serve("other", "udp-listen")
	s.introduce(closed, other)
	s.introduce(other, closed)
	s.host.Run(s, "bridge", "link", "set", "dev", closed.HostLink(s, "eth0"), "state", "0")
	to := s.stalled(other, closed, "NO_TX_TARGET")
	time.Sleep(matures)
	from := s.stalled(closed, other, "BRIDGE_INGRESS_STP_STATE")
	time.Sleep(outlives)
	return append(to, from...)
}
