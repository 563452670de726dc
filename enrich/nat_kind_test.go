// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// entry is a TCP connection of the host's namespace, with both tuples as the conntrack tool shows them, and the kernel's
// marks for what differs between them.
func entry(original, reply string) loader.Tracked {
	t := loader.Tracked{
		Netns: hostNetns, NetnsID: -1, Protocol: unix.IPPROTO_TCP, Original: tuple(original), Reply: tuple(reply),
		Device: uplink,
	}
	t.SourceNAT = t.Original.Source != t.Reply.Destination
	t.DestinationNAT = t.Original.Destination != t.Reply.Source
	return t
}

// plain is an entry that nothing translates.
func plain(original string) loader.Tracked {
	source, destination, _ := strings.Cut(original, "->")
	return entry(original, destination+"->"+source)
}

func tuple(text string) loader.Tuple {
	source, destination, _ := strings.Cut(text, "->")
	return loader.Tuple{Source: end(source), Destination: end(destination)}
}

func end(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// change applies changes to a connection.
func with(t loader.Tracked, changes ...func(*loader.Tracked)) loader.Tracked {
	for _, change := range changes {
		change(&t)
	}
	return t
}

func inNetns(netns loader.Netns) func(*loader.Tracked) {
	return func(t *loader.Tracked) { t.Netns = netns }
}

// inNumber is what an event tells of a namespace.
func inNumber(number int) func(*loader.Tracked) {
	return func(t *loader.Tracked) { t.Netns, t.NetnsID, t.Device = 0, number, 0 }
}

func of(protocol uint8) func(*loader.Tracked) {
	return func(t *loader.Tracked) { t.Protocol = protocol }
}

func masqueraded(s loader.Switch) func(*loader.Tracked) {
	return func(t *loader.Tracked) { t.Masqueraded = s }
}

func local(t *loader.Tracked) { t.Local = true }

func unseen(t *loader.Tracked) { t.Device = 0 } // by the program

func byIPVS(t *loader.Tracked) { t.DestinationNAT = false }

// Tuples as real entries have them, in the namespaces where they are made.
func TestNATKind(t *testing.T) {
	const insideAlpha = alphaPort
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
		want  NATKind
	}{
		{
			"masquerade",
			with(entry("172.30.1.2:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868"), masqueraded(loader.On)),
			Masquerade,
		},
		{
			"source given by a rule",
			with(entry("172.30.1.2:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868"), masqueraded(loader.Off)),
			SNAT,
		},
		{
			"to the host's address, by what is not known",
			entry("172.30.1.2:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:1024"),
			Masquerade,
		},
		{
			"to an address that is not the host's, by what is not known",
			entry("172.30.1.2:58868->203.0.113.9:53", "203.0.113.9:53->198.51.100.7:58868"),
			SNAT,
		},
		{
			"published port",
			entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:39340"),
			DNAT,
		},
		{
			"published port and source, as a masquerade of everything does",
			with(entry("203.0.113.9:39350->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39350"), masqueraded(loader.On)),
			DNAT,
		},
		{
			"to another port of the host",
			entry("203.0.113.9:39340->192.0.2.1:80", "192.0.2.1:8080->203.0.113.9:39340"),
			Redirect,
		},
		{
			"to a bridge's own address",
			entry("172.30.1.2:39340->203.0.113.9:80", "172.30.1.1:3128->172.30.1.2:39340"),
			Redirect,
		},
		{
			"to another port of another host",
			entry("203.0.113.9:39340->198.51.100.7:80", "198.51.100.7:8080->203.0.113.9:39340"),
			DNAT,
		},
		{
			"a source port that was taken",
			entry("192.0.2.1:39340->203.0.113.9:80", "203.0.113.9:80->192.0.2.1:1024"),
			"",
		},
		{"nothing", plain("192.0.2.1:39340->203.0.113.9:80"), ""},
		{
			"virtual server",
			with(entry("203.0.113.9:39340->192.0.2.1:80", "198.51.100.7:80->192.0.2.1:39340"), byIPVS),
			IPVS,
		},
		{
			"echo with another identifier",
			with(entry("172.30.1.2:7->203.0.113.9:7", "203.0.113.9:9->192.0.2.1:9"), of(unix.IPPROTO_ICMP), masqueraded(loader.On)),
			Masquerade,
		},
		{
			"lookup",
			with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), of(unix.IPPROTO_UDP), inNetns(insideAlpha)),
			EmbeddedDNS,
		},
		{
			"lookup in a namespace that is nobody's",
			with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), of(unix.IPPROTO_UDP), inNetns(77)),
			EmbeddedDNS,
		},
		{
			"routing mesh's redirect in a task",
			with(entry("10.0.0.2:39340->172.30.1.2:9090", "172.30.1.2:80->10.0.0.2:39340"), inNetns(insideAlpha)),
			Redirect,
		},
		{
			"a container's own redirect to loopback",
			with(entry("172.30.1.2:39340->203.0.113.9:80", "127.0.0.1:15001->172.30.1.2:39340"), inNetns(insideAlpha)),
			Redirect,
		},
		{
			"a container's redirect at an address that was learned",
			with(entry("10.0.0.2:39340->172.30.1.77:80", "172.30.1.77:8080->10.0.0.2:39340"), inNetns(insideAlpha)),
			Redirect,
		},
		{
			"in a container to another host",
			with(entry("172.30.1.2:39340->203.0.113.9:80", "203.0.113.10:80->172.30.1.2:39340"), inNetns(insideAlpha)),
			DNAT,
		},
		{
			"routing mesh",
			with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"), inNetns(77), byIPVS),
			IPVS,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.learned[netip.MustParseAddr("172.30.1.77")] = idOf("alpha")
			p, _ := w.place(&loader.NATEvent{Tracked: tc.entry, At: w.now})
			if p.kind != tc.want {
				t.Errorf("got %q, want %q", p.kind, tc.want)
			}
		})
	}
}
