// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// patience is how long the kernel may take for what it does on its own.
const patience = 10 * time.Second

// linkCases drop on bridges and veth devices.
func linkCases() []dropCase {
	return []dropCase{
		{"port-mtu", bothFamilies, portMTU},
		{"port-mtu-filtered", ipv4Only, portMTUFiltered},
		{"container-mtu", bothFamilies, containerMTU},
		{"rate-limit", bothFamilies, rateLimit},
		{"xdp-driver", bothFamilies, xdpDriver},
		{"xdp-generic", bothFamilies, xdpGeneric},
		{"tc-ingress", bothFamilies, tcIngress},
		{"tc-egress", bothFamilies, tcEgress},
	}
}

// portMTU makes a port of the bridge narrower than the bridge. Without netfilter on bridges every kernel drops there.
func portMTU(s stage) []drops {
	s.bypassNetfilter()
	return portMTUFiltered(s)
}

// bypassNetfilter keeps netfilter from what is bridged, for the rest of the case.
func (s stage) bypassNetfilter() {
	s.Helper()
	s.host.Run(s, "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")
	s.Cleanup(func() {
		s.host.Run(s, "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
	})
}

// portMTUFiltered is portMTU where netfilter sees bridged packets: it would take apart what may be fragmented.
func portMTUFiltered(s stage) []drops {
	victim, other := s.run("victim"), s.serve("other", "udp-listen")
	s.host.Run(s, "ip", "link", "set", other.HostLink(s, "eth0"), "mtu", "1300")
	before := other.Stats(s, "eth0").RxBytes
	sent := victim.Send(s, lab.Datagrams{To: s.at(other), Count: 50, Size: 1400, Whole: true})
	if got := other.Stats(s, "eth0").RxBytes - before; got > 1400 {
		s.Fatalf("%d bytes came through", got)
	}
	return of(victim, "host", "tx", fault("mtu-bridge"), exactly(sent), "sent, none received", "PKT_TOO_BIG", "NOT_SPECIFIED")
}

// containerMTU makes a container's device narrower than the bridge.
func containerMTU(s stage) []drops {
	victim, other := s.run("victim"), s.serve("other", "udp-listen")
	other.Run(s, "ip", "link", "set", "eth0", "mtu", "1300")
	veth := other.HostLink(s, "eth0")
	dropped := func(tb testing.TB) uint64 { return s.host.Stats(tb, veth).TxDropped }
	before := dropped(s)
	victim.Send(s, lab.Datagrams{To: s.at(other), Count: 50, Size: 1400})
	return of(victim, "host", "tx", fault("mtu-bridge"), since(dropped, before), "veth tx_dropped", "PKT_TOO_BIG", "NOT_SPECIFIED")
}

// rateLimit shapes what a container may receive. What the host itself sends to all ports may be dropped, too: the truth
// is what did not arrive.
func rateLimit(s stage) []drops {
	victim, other := s.run("victim"), s.serve("other", "udp-listen")
	veth := other.HostLink(s, "eth0")
	s.host.Run(s, "tc", "qdisc", "add", "dev", veth, "root", "tbf", "rate", "100kbit", "burst", "2000", "limit", "5000")
	sent := victim.Send(s, lab.Datagrams{To: s.at(other), Count: 200, Size: 500})
	lab.Eventually(s, patience, "the queue to run empty", func() bool { // else it is purged with the device
		return s.host.Qdisc(s, veth).Backlog == 0
	})
	arrived := snmp(other.Place, s.udpProtocol(), "InDatagrams")
	missing := func(tb testing.TB) uint64 { return sent - arrived(tb) }
	if dropped := s.host.Qdisc(s, veth).Drops; dropped < missing(s) {
		s.Errorf("tbf dropped %d, and %d are missing", dropped, missing(s))
	}
	lost := of(victim, "host", "tx", fault("qdisc"), missing, "sent - InDatagrams", "QDISC_DROP", "QDISC_OVERLIMIT", "NOT_SPECIFIED")
	lost[0].orNobody = true // the host's own
	return lost
}

// foreign is a case of somebody else's program, which attach puts on the sender's or the receiver's port of the bridge.
func foreign(s stage, reason, counter string, attach func(sender, receiver string) *lab.Dropper) []drops {
	s.Helper()
	sender, receiver := s.run("sender"), s.serve("receiver", "udp-listen")
	dropper := attach(sender.HostLink(s, "eth0"), receiver.HostLink(s, "eth0"))
	sender.Send(s, lab.Datagrams{To: s.at(receiver), Count: 100, Size: lab.LongPacket})
	return of(sender, "host", "tx", fault("foreign-program"), dropper.Packets, counter, reason, "NOT_SPECIFIED")
}

func xdpDriver(s stage) []drops {
	return foreign(s, "XDP", "XDP program's counter", func(sender, _ string) *lab.Dropper {
		return lab.DropXDP(s, sender, false)
	})
}

func xdpGeneric(s stage) []drops {
	return foreign(s, "XDP", "XDP program's counter", func(sender, _ string) *lab.Dropper {
		return lab.DropXDP(s, sender, true)
	})
}

func tcIngress(s stage) []drops {
	return foreign(s, "TC_INGRESS", "tc program's counter", func(sender, _ string) *lab.Dropper {
		return lab.DropTC(s, sender, false)
	})
}

func tcEgress(s stage) []drops {
	return foreign(s, "TC_EGRESS", "tc program's counter", func(_, receiver string) *lab.Dropper {
		return lab.DropTC(s, receiver, true)
	})
}
