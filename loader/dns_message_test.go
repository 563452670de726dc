// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
)

// dnsWire packs a message by another library than the one that reads it.
func dnsWire(tb testing.TB, m *dns.Msg) []byte {
	tb.Helper()
	wire, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return wire
}

// dnsQuery is a question as clients ask it.
func dnsQuery(id uint16, name string, kind uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	m.Id = id
	return m
}

// dnsReply answers a question.
func dnsReply(to *dns.Msg, rcode int, records ...string) *dns.Msg {
	m := new(dns.Msg).SetRcode(to, rcode)
	m.RecursionAvailable, m.Compress = true, true
	for _, record := range records {
		rr, err := dns.NewRR(record)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

// readDNS returns what is read of a message, without the memory that is used again.
func readDNS(copied []byte, length int) (dnsMessage, dnsFlaw) {
	var r dnsReader
	m, flaw := r.read(copied, length)
	if m == nil {
		return dnsMessage{}, flaw
	}
	return *m, flaw
}

func TestDNSMessage(t *testing.T) {
	question := dnsQuery(7, "Web.Example.COM", dns.TypeA)
	addresses := func(texts ...string) (of []netip.Addr) {
		for _, text := range texts {
			of = append(of, netip.MustParseAddr(text))
		}
		return of
	}
	asked := func(m dnsMessage) dnsMessage {
		m.id, m.asks, m.name, m.kind, m.class = 7, true, []byte("web.example.com"), 1, 1
		return m
	}
	two := dnsReply(question, dns.RcodeSuccess, "Web.Example.COM. 60 CNAME b.example.com.", "b.example.com. 30 A 192.0.2.1",
		"b.example.com. 20 A 192.0.2.2", "b.example.com. 10 TXT x")
	edns := dnsReply(question, dns.RcodeBadVers)
	edns.SetEdns0(1232, false)
	edns.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS, Class: 1}, Ns: "a."}}
	truncated := dnsReply(question, dns.RcodeSuccess)
	truncated.Truncated = true
	var many []string
	for i := range 20 {
		many = append(many, "web.example.com. 5 AAAA 2001:db8::"+strconv.Itoa(i+1))
	}
	mdns := dnsQuery(0, `My\032Printer\.v2._ipp._tcp.local`, dns.TypeSRV)
	mdns.RecursionDesired = false
	mdns.Question = append(mdns.Question, mdns.Question[0])
	dotted := dnsReply(mdns, dns.RcodeSuccess, `My\032Printer\.v2._ipp._tcp.local. 9 SRV 0 0 631 p.local.`, "p.local. 8 A 192.0.2.3")
	noQuestion := dnsReply(question, dns.RcodeFormatError)
	noQuestion.Question = nil
	loop := append(dnsWire(t, dnsReply(question, 0)), 0xc0, 33, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1)
	loop[7] = 1
	overlong := slices.Concat([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, slices.Repeat([]byte("\x07abcdefg"), 32), []byte{0, 0, 1, 0, 1})
	short := dnsWire(t, dnsReply(question, 0, "web.example.com. 9 A 192.0.2.1"))
	short[len(short)-5] = 3
	reserved := slices.Concat([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x41}, make([]byte, 0x41), []byte{0, 0, 1, 0, 1})
	chaos := dnsWire(t, dnsReply(question, 0, "web.example.com. 9 A 192.0.2.1"))
	chaos[len(chaos)-11] = dns.ClassCHAOS
	truncatedWithin := dnsReply(question, 0, "web.example.com. 9 A 192.0.2.1")
	truncatedWithin.Truncated = true
	for _, tc := range []struct {
		name string
		wire []byte
		cut  int // bytes that were not copied
		want dnsMessage
		flaw dnsFlaw
	}{
		{name: "question", wire: dnsWire(t, question), want: asked(dnsMessage{})},
		{name: "answers", wire: dnsWire(t, two), want: asked(dnsMessage{response: true, answer: DNSAnswer{
			Records: 4, Addresses: addresses("192.0.2.1", "192.0.2.2")}})},
		{name: "answers cut", wire: dnsWire(t, two), cut: 20, want: asked(dnsMessage{response: true, answer: DNSAnswer{
			Records: 4, Addresses: addresses("192.0.2.1")}})},
		{name: "question cut", wire: dnsWire(t, question), cut: 1, flaw: dnsCut},
		{name: "name cut", wire: dnsWire(t, question), cut: 10, flaw: dnsCut},
		{name: "name's end cut", wire: dnsWire(t, question), cut: 5, flaw: dnsCut},
		{name: "header cut", wire: dnsWire(t, question), cut: 28, flaw: dnsCut},
		{name: "nothing", flaw: dnsMalformed},
		{name: "half a header", wire: dnsWire(t, question)[:8], flaw: dnsMalformed},
		{name: "half a question", wire: dnsWire(t, question)[:len(dnsWire(t, question))-3], flaw: dnsMalformed},
		{name: "answers missing", wire: dnsWire(t, two)[:len(dnsWire(t, two))-3], want: asked(dnsMessage{response: true, broken: true, answer: DNSAnswer{
			Records: 4, Addresses: addresses("192.0.2.1", "192.0.2.2")}})},
		{name: "extended code", wire: dnsWire(t, edns), want: asked(dnsMessage{response: true, answer: DNSAnswer{RCode: 16}})},
		{name: "truncated", wire: dnsWire(t, truncated), want: asked(dnsMessage{response: true, answer: DNSAnswer{Truncated: true}})},
		{name: "many", wire: dnsWire(t, dnsReply(question, 0, many...)), want: asked(dnsMessage{response: true, answer: DNSAnswer{
			Records: 20, Addresses: addresses("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4",
				"2001:db8::5", "2001:db8::6", "2001:db8::7", "2001:db8::8", "2001:db8::9", "2001:db8::10", "2001:db8::11", "2001:db8::12",
				"2001:db8::13", "2001:db8::14", "2001:db8::15", "2001:db8::16")}})},
		{name: "two questions, dot in a label", wire: dnsWire(t, mdns), want: dnsMessage{asks: true, name: []byte(`my printer\046v2._ipp._tcp.local`), kind: 33, class: 1}},
		{name: "answer with a dot in a label", wire: dnsWire(t, dotted), want: dnsMessage{response: true, asks: true,
			name: []byte(`my printer\046v2._ipp._tcp.local`), kind: 33, class: 1,
			answer: DNSAnswer{Records: 2, Addresses: addresses("192.0.2.3")}}},
		{name: "bytes", wire: dnsWire(t, dnsQuery(1, `\000\\\255~`, dns.TypeA)), want: dnsMessage{id: 1, asks: true, name: []byte(`\000\092\255~`), kind: 1, class: 1}},
		{name: "root", wire: dnsWire(t, dnsQuery(1, ".", dns.TypeNS)), want: dnsMessage{id: 1, asks: true, name: []byte("."), kind: 2, class: 1}},
		{name: "without question", wire: dnsWire(t, noQuestion), want: dnsMessage{id: 7, response: true, answer: DNSAnswer{RCode: 1}}},
		{name: "loop in a question", wire: []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, flaw: dnsMalformed},
		{name: "reserved label", wire: reserved, flaw: dnsMalformed},
		{name: "overlong name", wire: overlong, flaw: dnsMalformed},
		{name: "loop in an answer", wire: loop, want: asked(dnsMessage{response: true, answer: DNSAnswer{Records: 1}})},
		{name: "address of 3 bytes", wire: short, want: asked(dnsMessage{response: true, answer: DNSAnswer{Records: 1}})},
		{name: "address of another class", wire: chaos, want: asked(dnsMessage{response: true, answer: DNSAnswer{Records: 1}})},
		{name: "truncated within a record", wire: dnsWire(t, truncatedWithin)[:len(dnsWire(t, truncatedWithin))-2], want: asked(dnsMessage{
			response: true, answer: DNSAnswer{Truncated: true, Records: 1}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, flaw := readDNS(tc.wire[:len(tc.wire)-tc.cut], len(tc.wire))
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(dnsMessage{}), cmpopts.IgnoreFields(dnsMessage{}, "recurse"), cmpopts.EquateComparable(netip.Addr{})); diff != "" || flaw != tc.flaw {
				t.Errorf("flaw %d, want %d (-want +got):\n%s", flaw, tc.flaw, diff)
			}
		})
	}
}

// What is right is read without allocating.
func TestDNSMessageAllocations(t *testing.T) {
	question := dnsQuery(7, "web.example.com", dns.TypeA)
	answer := dnsReply(question, 0, "web.example.com. 60 CNAME b.example.com.", "b.example.com. 30 A 192.0.2.1", "b.example.com. 30 A 192.0.2.2")
	answer.SetEdns0(1232, false)
	var r dnsReader
	for _, wire := range [][]byte{dnsWire(t, question), dnsWire(t, answer)} {
		if allocated := testing.AllocsPerRun(100, func() { r.read(wire, len(wire)) }); allocated != 0 {
			t.Errorf("%v allocations for a message of %d bytes", allocated, len(wire))
		}
	}
}

// Whatever the bytes of a message are, nothing panics, and what another library reads whole is read the same.
func FuzzDNSMessage(f *testing.F) {
	question := dnsQuery(7, `Web\.1.Example.com`, dns.TypeA)
	answer := dnsReply(question, 0, "web.example.com. 60 CNAME b.example.com.", "b.example.com. 30 A 192.0.2.1", "b.example.com. 30 AAAA 2001:db8::1")
	answer.SetEdns0(1232, false)
	for _, m := range []*dns.Msg{question, answer} {
		f.Add(dnsWire(f, m), uint16(0))
		f.Add(dnsWire(f, m), uint16(9))
	}
	f.Fuzz(func(t *testing.T, wire []byte, cut uint16) {
		copied := wire[:max(0, len(wire)-int(cut))]
		m, flaw := readDNS(copied, len(wire))
		if flaw == dnsCut && len(copied) == len(wire) {
			t.Error("cut, though all is there")
		}
		if flaw != dnsSound && (m.asks || m.answer.Records > 0) {
			t.Errorf("flaw %d, but %+v", flaw, m)
		}
		if len(m.answer.Addresses) > dnsAddressLimit || len(m.name) > 4*dnsNameLimit || m.asks && len(m.name) == 0 {
			t.Errorf("read %+v", m)
		}
		for _, c := range m.name {
			if c < ' ' || c > '~' || c >= 'A' && c <= 'Z' {
				t.Errorf("name %q", m.name)
			}
		}
		var other dns.Msg
		if err := other.Unpack(wire); err != nil || cut > 0 {
			return
		}
		compareDNS(t, wire, &other, m, flaw)
	})
}

// compareDNS compares what two libraries have read.
func compareDNS(t *testing.T, wire []byte, other *dns.Msg, m dnsMessage, flaw dnsFlaw) {
	t.Helper()
	if len(other.Question) > 0 {
		q := other.Question[0]
		name := wireName(t, q.Name)
		if !bytes.HasPrefix(wire[dnsHeaderLength:], name) || len(wire) < dnsHeaderLength+len(name)+4 {
			return // it points into the header, or ends early, which the other library takes
		}
		if flaw != dnsSound || m.id != other.Id || m.response != other.Response || int(m.opcode) != other.Opcode || m.recurse != other.RecursionDesired {
			t.Fatalf("flaw %d, %+v instead of %v", flaw, m, other)
		}
		if plain := plainName(name); plain != string(m.name) || q.Qtype != m.kind || q.Qclass != m.class {
			t.Errorf("%q %d %d instead of %q %d %d", m.name, m.kind, m.class, plain, q.Qtype, q.Qclass)
		}
	}
	if m.response && flaw == dnsSound && !m.broken && plainEDNS(other) && int(m.answer.RCode) != other.Rcode {
		t.Errorf("code %d instead of %d", m.answer.RCode, other.Rcode)
	}
}

// plainEDNS tells whether there is one OPT record at most, and of the version that there is: of others nobody says which
// counts, or what it means.
func plainEDNS(m *dns.Msg) bool {
	records := 0
	for _, rr := range m.Extra {
		if opt, is := rr.(*dns.OPT); is {
			if records++; records > 1 || opt.Version() != 0 {
				return false
			}
		}
	}
	return true
}

// wireName packs a name of the other library.
func wireName(t *testing.T, name string) []byte {
	t.Helper()
	wire := make([]byte, 2*dnsNameLimit)
	end, err := dns.PackDomainName(name, wire, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return wire[:end]
}

// plainName writes a packed name as [DNSQuestion] has it.
func plainName(wire []byte) string {
	var labels []string
	for at := 0; wire[at] != 0; at += 1 + int(wire[at]) {
		labels = append(labels, string(appendLabel(nil, wire[at+1:at+1+int(wire[at])])))
	}
	if len(labels) == 0 {
		return "."
	}
	return strings.Join(labels, ".")
}
