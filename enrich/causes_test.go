// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// More of the town: networks whose containers are kept apart, and devices that are not Docker's.
const (
	quietBridge = 30 // of a network with ICC off
	moodyPort   = 31
	moorePort   = 32
	closedLink  = 40 // of an internal network
	innerPort   = 41
	virBridge   = 60 // of somebody's virtual machines
	virPort     = 61
	tunnel      = 62
	guestPort   = 63 // of somebody's container
)

// newCity is the town with that, a minute after all of it was made.
func newCity(t *testing.T) *world {
	w := newTown(t)
	quiet, closed := bridgeNetwork("quiet", "172.30.3."), bridgeNetwork("closed", "172.30.4.")
	quiet.ICC, closed.Internal = false, true
	w.PutNetwork(quiet)
	w.PutNetwork(closed)
	w.LinkChanged(change(loader.Link{Index: quietBridge, Name: "br-quiet", Kind: "bridge", PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: closedLink, Name: "br-closed", Kind: "bridge", PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: virBridge, Name: "virbr0", Kind: "bridge", PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: virPort, Name: "vnet0", Kind: "tun", Master: virBridge, PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: tunnel, Name: "wg0", Kind: "wireguard", PeerNetnsID: -1}))
	w.connected(on(w.container("moody"), "quiet", "172.30.3.2"), quietBridge, moodyPort)
	w.connected(on(w.container("moore"), "quiet", "172.30.3.3"), quietBridge, moorePort)
	w.connected(on(w.container("inner"), "closed", "172.30.4.2"), closedLink, innerPort)
	beta := w.connected(on(w.container("beta"), "web", "172.30.1.3"), webBridge, betaPort)
	beta.Published = []PublishedPort{{Host: netip.MustParseAddrPort("0.0.0.0:8080"), Container: 80, Protocol: "tcp"}}
	w.PutContainer(beta)
	w.SetHostAddresses(addresses("192.0.2.1", "172.30.1.1", "172.30.2.1", "172.30.3.1", "172.30.4.1", "10.99.0.77", "fe80::1"))
	w.wait(time.Minute)
	return w
}

// lost is one drop as the kernel tells of it.
type lost loader.Drop

// dropped begins with what the kernel says. It was received in the host's namespace, is IPv4, and has a route.
func dropped(reason, function string) lost {
	return lost{
		Counts: loader.Counts{Skbs: 1, Packets: 1, Bytes: 100}, Reason: reason, Function: function, Netns: hostNetns,
		EtherType: unix.ETH_P_IP, Routed: true,
	}
}

// between is what netfilter dropped, which kernels name in three ways; all rows are tried with each.
func between(source, destination string) lost {
	return dropped("NETFILTER_DROP", "nf_hook_slow").from(source).to(destination)
}

func (l lost) from(source string) lost {
	l.Source = netip.MustParseAddr(source)
	if l.Source.Is6() {
		l.EtherType = unix.ETH_P_IPV6
	}
	return l
}

func (l lost) to(destination string) lost {
	l.Destination = netip.MustParseAddr(destination)
	if l.Destination.Is6() {
		l.EtherType = unix.ETH_P_IPV6
	}
	return l
}

func (l lost) in(netns loader.Netns) lost {
	l.Netns, l.Device, l.DeviceName = netns, int(netns)+1000, "eth0"
	return l
}

func (l lost) by(in, device int) lost {
	l.InDevice, l.Device = in, device
	return l
}

func (l lost) unrouted() lost {
	l.Routed = false
	return l
}

func (l lost) tracked(initiator, responder string) lost {
	l.Initiator, l.Responder = netip.MustParseAddr(initiator), netip.MustParseAddr(responder)
	return l
}

func (l lost) translated(initiator, responder string) lost {
	l = l.tracked(initiator, responder)
	l.DNAT = true
	return l
}

func (l lost) made() lost {
	l.Outgoing = true
	return l
}

func (l lost) port(protocol uint8, port uint16) lost {
	l.Protocol, l.DestinationPort = protocol, port
	return l
}

func (l lost) of(bytes uint64) lost {
	l.Bytes = bytes
	return l
}

func (l lost) mac(destination string) lost {
	l.DestinationMAC = mac(destination)
	return l
}

func (l lost) ether(protocol uint16) lost {
	l.EtherType = protocol
	return l
}

// causeCase is a drop and what is made of it.
type causeCase struct {
	name   string
	before func(*world) // what happens first, if anything
	drop   lost
	cause  string
	victim string // container
}

// netfilterCases are rows of section 1.2 of the catalogue: who and where tells rules apart.
func netfilterCases() []causeCase {
	return []causeCase{
		{"a container's way out", nil, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge), "filtered", "alpha"},
		{"a container's way to the host", nil, between("172.30.1.2", "172.30.1.1").by(webBridge, webBridge), "filtered", "alpha"},
		{"the host's way to a container", nil, between("172.30.1.1", "172.30.1.2").by(0, webBridge).made(), "filtered", "alpha"},
		{"masqueraded, on its way out", nil, between("192.0.2.1", "198.51.100.1").by(webBridge, uplink).tracked("172.30.1.2", "198.51.100.1"), "filtered", "alpha"},
		{"between containers of one network", nil, between("172.30.1.2", "172.30.1.3").by(alphaPort, betaPort), "filtered", "alpha"},
		{"in a container", nil, between("172.30.1.2", "198.51.100.1").in(alphaPort).made(), "own-firewall", "alpha"},
		{"in a container, at the ingress network's guard", nil, between("10.0.0.9", "10.0.0.5").in(alphaPort).port(unix.IPPROTO_TCP, 81), "own-firewall", "alpha"},
		{"in a namespace that is nobody's", nil, between("10.0.0.9", "10.0.0.5").in(4711), "filtered", ""},
		{"in a container of an internal network", nil, between("172.30.4.2", "198.51.100.1").in(innerPort).made(), "own-firewall", "inner"},
		{"of a container on the host's network", nil, lost{Cgroup: idOf("router"), Reason: "NETFILTER_DROP", Netns: hostNetns, Outgoing: true, Source: netip.MustParseAddr("192.0.2.1"), Destination: netip.MustParseAddr("198.51.100.1"), Device: uplink}, "filtered", "router"},
		{"of many, addresses left out", nil, lost{Other: true, Reason: "NETFILTER_DROP", Netns: hostNetns, InDevice: webBridge, Device: uplink}, "filtered", ""},
		{"to a macvlan container", nil, between("198.51.100.1", "10.99.0.2").by(uplink, uplink), "filtered", "delta"},

		{"ICC off, bridged", nil, between("172.30.3.2", "172.30.3.3").by(moodyPort, moorePort), "icc-false", "moody"},
		{"ICC off, bridged, IPv6 with link-local addresses", nil, between("fe80::2", "fe80::3").by(moodyPort, moorePort), "icc-false", "moody"},
		{"ICC off, back by a published port", nil, between("172.30.3.2", "172.30.3.3").by(quietBridge, quietBridge).translated("172.30.3.2", "172.30.3.3"), "icc-false", "moody"},
		{"ICC off, but to the host", nil, between("172.30.3.2", "172.30.3.1").by(quietBridge, quietBridge), "filtered", "moody"},
		{"ICC off, but to the outside", nil, between("172.30.3.2", "198.51.100.1").by(quietBridge, quietBridge), "filtered", "moody"},

		{"internal network, way out", nil, between("172.30.4.2", "198.51.100.1").by(closedLink, closedLink), "internal-net", "inner"},
		{"internal network, way in", nil, between("198.51.100.1", "172.30.4.2").by(uplink, uplink), "internal-net", "inner"},
		{"internal network, to another network", nil, between("172.30.4.2", "172.30.1.2").by(closedLink, closedLink), "internal-net", "inner"},
		{"internal network, no route in the container", nil, dropped("IP_OUTNOROUTES", "ip_queue_xmit").from("172.30.4.2").in(innerPort).made(), "internal-net", "inner"},
		{"internal network, to the host", nil, between("172.30.4.2", "172.30.4.1").by(closedLink, closedLink), "filtered", "inner"},

		{"between networks, engines up to 28", nil, between("172.30.1.2", "172.30.2.2").by(webBridge, webBridge), "isolation-between-bridges", "alpha"},
		{"between networks, engines from 29 on", nil, between("172.30.1.2", "172.30.2.2").by(webBridge, webBridge).unrouted(), "isolation-between-bridges", "alpha"},
		{"between networks by a published port", nil, between("172.30.1.2", "172.30.2.2").by(webBridge, webBridge).translated("172.30.1.2", "172.30.2.2"), "filtered", "alpha"},

		{"straight from the uplink, engines from 28 on", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).unrouted().port(unix.IPPROTO_TCP, 80), "direct-route-drop", "beta"},
		{"straight from a VPN", nil, between("10.8.0.9", "172.30.1.2").by(tunnel, tunnel).unrouted(), "direct-route-drop", "alpha"},
		{"straight from a virtual machine", nil, between("192.168.122.5", "172.30.1.2").by(virBridge, virBridge).unrouted(), "direct-route-drop", "alpha"},
		{"straight to an address that nobody has", nil, between("198.51.100.1", "172.30.1.99").by(uplink, uplink).unrouted(), "direct-route-drop", ""},
		{"straight from the uplink, engines before 28", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).port(unix.IPPROTO_TCP, 81).tracked("198.51.100.1", "172.30.1.3"), "unpublished-port", "beta"},
		{"straight, the published number of another protocol", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).port(unix.IPPROTO_UDP, 80), "unpublished-port", "beta"},
		{"straight, ping", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).port(unix.IPPROTO_ICMP, 0), "unpublished-port", "beta"},
		{"straight to a published port", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).port(unix.IPPROTO_TCP, 80).tracked("198.51.100.1", "172.30.1.3"), "filtered", "beta"},
		{"by a published port", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).port(unix.IPPROTO_TCP, 81).translated("198.51.100.1", "172.30.1.3"), "docker-user", "beta"},
		{"by a published port, the answer", nil, between("172.30.1.3", "198.51.100.1").by(webBridge, webBridge).translated("198.51.100.1", "172.30.1.3"), "filtered", "beta"},
		{"by a published port, from the host", nil, between("192.0.2.1", "172.30.1.3").by(0, webBridge).made().translated("192.0.2.1", "172.30.1.3"), "filtered", "beta"},
		{"by a published port, from its own network", nil, between("172.30.1.2", "172.30.1.3").by(webBridge, webBridge).translated("172.30.1.2", "172.30.1.3"), "filtered", "alpha"},
		{"by a published port, from a macvlan container", nil, between("10.99.0.2", "172.30.1.3").by(uplink, uplink).translated("10.99.0.2", "172.30.1.3"), "filtered", "delta"},

		{"the end of a connection that is forgotten", nil, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).port(unix.IPPROTO_TCP, 443), "untracked", "alpha"},
		{"the same, for the host", nil, between("172.30.1.2", "172.30.1.1").by(webBridge, webBridge).port(unix.IPPROTO_TCP, 443), "untracked", "alpha"},
		{"TCP of a connection that is known", nil, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).port(unix.IPPROTO_TCP, 443).tracked("172.30.1.2", "198.51.100.1"), "filtered", "alpha"},
		{"TCP before tracking", nil, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).port(unix.IPPROTO_TCP, 443).unrouted(), "filtered", "alpha"},
		{"TCP before tracking, made by the host", nil, between("172.30.1.1", "172.30.1.2").by(0, webBridge).port(unix.IPPROTO_TCP, 443).made(), "filtered", "alpha"},
		{"TCP while connection tracking is full", func(w *world) { w.SetConntrackFull(true) }, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).port(unix.IPPROTO_TCP, 443), "filtered", "alpha"},
		{"TCP where nothing is tracked", func(w *world) { w.SetConntrackEmpty(true) }, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).port(unix.IPPROTO_TCP, 443), "filtered", "alpha"},

		{"an answer from outside", nil, between("198.51.100.1", "172.30.1.3").by(uplink, uplink).port(unix.IPPROTO_TCP, 40000).tracked("172.30.1.3", "198.51.100.1"), "filtered", "beta"},

		{"virtual machines, bridged", nil, between("192.168.122.5", "192.168.122.6").by(virPort, virPort), "forward-policy-drop", ""},
		{"virtual machines, routed", nil, between("192.168.122.5", "198.51.100.1").by(virBridge, virBridge), "forward-policy-drop", ""},
		{"a router's", nil, between("10.8.0.9", "198.51.100.1").by(tunnel, tunnel), "forward-policy-drop", ""},
		{"not forwarded yet", nil, between("10.8.0.9", "198.51.100.1").by(tunnel, tunnel).unrouted(), "host-firewall", ""},
		{"what the host receives", nil, between("198.51.100.1", "192.0.2.1").by(uplink, uplink).port(unix.IPPROTO_TCP, 22), "host-firewall", ""},
		{"what the host sends", nil, between("192.0.2.1", "198.51.100.1").by(0, uplink).made(), "host-firewall", ""},
		{"what the host says to itself", nil, between("127.0.0.1", "127.0.0.1").by(1, 1), "host-firewall", ""},
		{"without an engine nobody can say so", func(w *world) { w.listed = false }, between("198.51.100.1", "192.0.2.1").by(uplink, uplink), "filtered", ""},
		{"a stranger's by a container", nil, between("10.8.0.9", "198.51.100.1").by(webBridge, webBridge), "filtered", ""},

		{"connection tracking full", func(w *world) { w.SetConntrackFull(true) }, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).unrouted(), "conntrack-full", "alpha"},
		{"connection tracking full, the host's own", func(w *world) { w.SetConntrackFull(true) }, between("192.0.2.1", "198.51.100.1").by(0, uplink).made(), "conntrack-full", ""},
		{"connection tracking full, but tracked", func(w *world) { w.SetConntrackFull(true) }, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).tracked("172.30.1.2", "198.51.100.1"), "filtered", "alpha"},
		{"connection tracking full, past tracking", func(w *world) { w.SetConntrackFull(true) }, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge), "filtered", "alpha"},
		{"connection tracking full, in a container", func(w *world) { w.SetConntrackFull(true) }, between("172.30.1.2", "198.51.100.1").in(alphaPort).unrouted(), "own-firewall", "alpha"},
		{"connection tracking with room again", func(w *world) { w.SetConntrackFull(true); w.SetConntrackFull(false) }, between("172.30.1.2", "198.51.100.1").by(webBridge, webBridge).unrouted(), "filtered", "alpha"},
	}
}

func TestNetfilterCauses(t *testing.T) {
	for _, tc := range netfilterCases() {
		t.Run(tc.name, func(t *testing.T) {
			tc.check(t)
			if tc.drop.Reason == "NETFILTER_DROP" && tc.cause != "conntrack-full" {
				tc.drop.Function = "nft_do_chain" // nf_tables frees on its own, from 6.7 on
				tc.check(t)
			}
			if tc.drop.Reason == "NETFILTER_DROP" {
				tc.drop.Reason, tc.drop.Function = "", "nf_hook_slow" // before 5.17
				tc.check(t)
			}
		})
	}
}

// check fails unless the drop has the cause, its kind, and the victim.
func (tc *causeCase) check(t *testing.T) {
	t.Helper()
	w := newCity(t)
	if tc.before != nil {
		tc.before(w)
	}
	_, drops := w.Attribute(nil, []loader.Drop{loader.Drop(tc.drop)})
	for _, more := range []time.Duration{patience, countPatience - patience} {
		if len(drops) == 0 {
			w.wait(more)
			_, drops = w.Attribute(nil, nil)
		}
	}
	if len(drops) != 1 {
		t.Fatalf("%d drops, want 1", len(drops))
	}
	type verdict struct {
		Cause  string
		Kind   Kind
		Victim string
	}
	got := verdict{drops[0].Cause, drops[0].Kind, drops[0].Container}
	if diff := cmp.Diff(verdict{tc.cause, kindOf(t, tc.cause), tc.victim}, got); diff != "" {
		t.Errorf("%s at %s: (-want +got):\n%s", tc.drop.Reason, tc.drop.Function, diff)
	}
}

// kinds is what the catalogue says of each cause's kind.
var kinds = map[Kind][]string{
	KindFault: {
		"filtered", "link-down", "foreign-program", "rp-filter", "no-route", "ip-forward-off", "localnet", "hairpin", "dead-endpoint", "neigh-queue",
		"neigh-overflow", "mtu-route", "mtu-bridge", "ttl-loop", "csum-offload", "v6-disabled", "veth-down", "cpu-backlog", "qdisc",
		"fragment-lost", "forward-policy-drop", "conntrack-full", "no-memory", "unknown", "snat-exhaustion", "dns-5s-race",
		"ct-invalid-rst", "resolver-nat-lost", "vni-unknown", "vtep-src-mismatch", "fdb-row-missing", "neigh-row-missing", "stale-vtep",
		"advertise-nat", "encrypted-plain-drop", "encrypted-esp-blocked", "4789-closed", "7946-closed", "2377-closed", "ipvs-unavailable",
		"ipvs-no-backend",
	},
	KindPolicy: {
		"icc-false", "internal-net", "isolation-between-bridges", "direct-route-drop", "unpublished-port", "host-firewall",
		"macvlan-host", "security-policy", "docker-user", "own-firewall", "ingress-unlisted-port", "host-mode-node",
	},
	KindApplication: {
		"no-listener", "rcvbuf", "accept-overflow", "socket-filter", "tcp-reset", "tcp-window", "tcp-authentication", "peer-ended",
		"malformed",
	},
	KindBenign: {
		"multicast", "local-message", "test-run", "socket-teardown", "consumed", "link-setup", "ping-copy", "segmented", "post-close",
		"tcp-duplicate", "fragment-duplicate", "other-host", "unhandled-protocol", "martian", "untracked",
		"vxlan-malformed",
	},
}

func kindOf(t *testing.T, cause string) Kind {
	t.Helper()
	for kind, names := range kinds {
		for _, name := range names {
			if name == cause {
				return kind
			}
		}
	}
	t.Fatalf("no kind is known of cause %s", cause)
	return ""
}

// Every cause has a row, and the kind that the rows expect.
func TestCausesAreTested(t *testing.T) {
	tested := make(map[string]bool)
	for _, tc := range slices.Concat(netfilterCases(), kernelCases(), conntrackCases(), overlayCases()) {
		tested[tc.cause] = true
	}
	for _, c := range Causes() {
		if !tested[c.Name] {
			t.Errorf("no row has cause %s", c.Name)
		}
		if kind := kindOf(t, c.Name); kind != c.Kind {
			t.Errorf("cause %s is of kind %s, want %s", c.Name, c.Kind, kind)
		}
	}
}
