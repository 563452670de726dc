// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// attributeOf is one that holds bytes.
func attributeOf(kind uint16, value ...byte) []byte { return ctAttribute(kind, value) }

func addressesOf(source, destination string) []byte {
	a, b := netip.MustParseAddr(source), netip.MustParseAddr(destination)
	kind := uint16(ctaIPv4Source)
	if a.Is6() {
		kind = ctaIPv6Source
	}
	return nested(ctaTupleIP, attributeOf(kind, a.AsSlice()...), attributeOf(kind+1, b.AsSlice()...))
}

func portsOf(protocol byte, source, destination uint16) []byte {
	return nested(ctaTupleProtocol, attributeOf(ctaProtocolNumber, protocol),
		attributeOf(ctaProtocolSourcePort, byte(source>>8), byte(source)),
		attributeOf(ctaProtocolDestinationPort, byte(destination>>8), byte(destination)))
}

func statusOf(status byte) []byte { return attributeOf(ctaStatus, 0, 0, 0, status) }

// conntrackMessage is an entry as the kernel describes it.
func conntrackMessage(attributes ...[]byte) []byte {
	return slices.Concat([]byte{unix.AF_INET, 0, 0, 0}, slices.Concat(attributes...))
}

func TestParseConntrack(t *testing.T) {
	const published, seen, confirmed = 1 << 5, 1 << 1, 1 << 3
	end := netip.MustParseAddrPort
	original := nested(ctaTupleOriginal, addressesOf("192.0.2.2", "192.0.2.1"), portsOf(6, 40000, 8080))
	reply := nested(ctaTupleReply, addressesOf("172.30.0.2", "192.0.2.2"), portsOf(6, 80, 40000))
	unknown := attributeOf(99, 1, 2, 3)
	want := conntrackEntry{
		Tracked: Tracked{
			NetnsID: -1, Protocol: 6, DestinationNAT: true,
			Original: Tuple{end("192.0.2.2:40000"), end("192.0.2.1:8080")},
			Reply:    Tuple{end("172.30.0.2:80"), end("192.0.2.2:40000")},
		},
		status: published | seen | confirmed,
	}
	echo := func(id byte, numbered, identified uint16) []byte {
		return nested(ctaTupleProtocol, attributeOf(ctaProtocolNumber, byte(numbered)), attributeOf(identified, 0, id), attributeOf(5, 8), attributeOf(6, 0))
	}
	whole := conntrackMessage(original, reply, statusOf(published|seen|confirmed))
	for _, tc := range []struct {
		name    string
		message []byte
		want    conntrackEntry
		ok      bool
	}{
		{"published port", whole, want, true},
		{"in another order, with what is not known", conntrackMessage(unknown, statusOf(published|seen|confirmed), reply, unknown, original), want, true},
		{"ping", conntrackMessage(
			nested(ctaTupleOriginal, addressesOf("172.30.0.2", "192.0.2.2"), echo(7, 1, ctaProtocolICMPID)),
			nested(ctaTupleReply, addressesOf("192.0.2.2", "192.0.2.1"), echo(9, 1, ctaProtocolICMPID)), statusOf(1<<4),
		), conntrackEntry{Tracked: Tracked{
			NetnsID: -1, Protocol: 1, SourceNAT: true,
			Original: Tuple{end("172.30.0.2:7"), end("192.0.2.2:7")}, Reply: Tuple{end("192.0.2.2:9"), end("192.0.2.1:9")},
		}, status: 1 << 4}, true},
		{"ping of IPv6", conntrackMessage(
			nested(ctaTupleOriginal, addressesOf("fd00::2", "2001:db8::2"), echo(7, 58, ctaProtocolICMPv6ID)),
			nested(ctaTupleReply, addressesOf("2001:db8::2", "fd00::2"), echo(7, 58, ctaProtocolICMPv6ID)), statusOf(0),
		), conntrackEntry{Tracked: Tracked{
			NetnsID: -1, Protocol: 58,
			Original: Tuple{end("[fd00::2]:7"), end("[2001:db8::2]:7")}, Reply: Tuple{end("[2001:db8::2]:7"), end("[fd00::2]:7")},
		}}, true},
		{"without ports", conntrackMessage(
			nested(ctaTupleOriginal, addressesOf("172.30.0.2", "192.0.2.2"), nested(ctaTupleProtocol, attributeOf(ctaProtocolNumber, 50))),
			nested(ctaTupleReply, addressesOf("192.0.2.2", "192.0.2.1"), nested(ctaTupleProtocol, attributeOf(ctaProtocolNumber, 50))), statusOf(1<<4),
		), conntrackEntry{Tracked: Tracked{
			NetnsID: -1, Protocol: 50, SourceNAT: true,
			Original: Tuple{end("172.30.0.2:0"), end("192.0.2.2:0")}, Reply: Tuple{end("192.0.2.2:0"), end("192.0.2.1:0")},
		}, status: 1 << 4}, true},
		{"nothing", nil, conntrackEntry{}, false},
		{"only a header", conntrackMessage(), conntrackEntry{}, false},
		{"no answer", conntrackMessage(original, statusOf(0)), conntrackEntry{}, false},
		{"no status", conntrackMessage(original, reply), conntrackEntry{}, false},
		{"a longer status", conntrackMessage(original, reply, attributeOf(ctaStatus, 0, 0, 0, 0, 8)), conntrackEntry{}, false},
		{"two protocols", conntrackMessage(original, nested(ctaTupleReply, addressesOf("172.30.0.2", "192.0.2.2"), portsOf(17, 80, 40000)), statusOf(0)), conntrackEntry{}, false},
		{"two families", conntrackMessage(original, nested(ctaTupleReply, nested(ctaTupleIP,
			attributeOf(ctaIPv4Source, 1, 2, 3, 4), attributeOf(ctaIPv6Destination, make([]byte, 16)...)), portsOf(6, 80, 40000)), statusOf(0)), conntrackEntry{}, false},
		{"half an address", conntrackMessage(original, nested(ctaTupleReply, nested(ctaTupleIP,
			attributeOf(ctaIPv4Source, 1, 2), attributeOf(ctaIPv4Destination, 1, 2, 3, 4)), portsOf(6, 80, 40000)), statusOf(0)), conntrackEntry{}, false},
		{"a length that lies", append(slices.Clone(whole), 200, 0, 1, 0), conntrackEntry{}, false},
		{"a length below the header's", append(slices.Clone(whole), 3, 0, 1, 0), conntrackEntry{}, false},
		{"cut short", whole[:len(whole)-3], conntrackEntry{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseConntrack(tc.message)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(conntrackEntry{})); diff != "" || ok != tc.ok {
				t.Errorf("ok %t, (-want +got):\n%s", ok, diff)
			}
			if allocated := testing.AllocsPerRun(10, func() { parseConntrack(tc.message) }); allocated != 0 {
				t.Errorf("%v allocations", allocated)
			}
		})
	}
}

// Whatever the bytes of a message are, what is read of them is whole or nothing.
func FuzzConntrackMessage(f *testing.F) {
	f.Add(conntrackMessage(
		nested(ctaTupleOriginal, addressesOf("192.0.2.2", "192.0.2.1"), portsOf(6, 40000, 8080)),
		nested(ctaTupleReply, addressesOf("172.30.0.2", "192.0.2.2"), portsOf(6, 80, 40000)), statusOf(1<<5)))
	f.Add(conntrackMessage(
		nested(ctaTupleOriginal, addressesOf("fd00::2", "2001:db8::2"), nested(ctaTupleProtocol, attributeOf(ctaProtocolICMPv6ID, 1, 2))),
		nested(ctaTupleReply, addressesOf("2001:db8::2", "fd00::2")), statusOf(0)))
	f.Fuzz(func(t *testing.T, message []byte) {
		entry, ok := parseConntrack(message)
		if !ok && entry != (conntrackEntry{}) {
			t.Errorf("no entry, but %+v", entry)
		}
		if !ok {
			return
		}
		for _, tuple := range []Tuple{entry.Original, entry.Reply} {
			if !tuple.Source.IsValid() || !tuple.Destination.IsValid() || tuple.Source.Addr().Is4() != tuple.Destination.Addr().Is4() {
				t.Errorf("read %+v", entry)
			}
		}
		for rest := message; len(rest) > 0; {
			var body []byte
			before := len(rest)
			if _, body, rest, ok = nextMessage(rest); ok && len(body)+len(rest) >= before {
				t.Fatal("a message takes nothing off the datagram")
			}
		}
	})
}
