// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsHeaderLength = 12
	// dnsNameLimit is how long a name may be in a message (RFC 1035 section 3.1), with its labels' lengths.
	dnsNameLimit = 255
	// dnsAddressLimit is how many addresses of an answer are told.
	dnsAddressLimit = 16
	// mdnsUnicast is set in the class of an mDNS question that may be answered to its asker alone (RFC 6762 section 5.4).
	mdnsUnicast = 1 << 15
)

// dnsFlaw is what keeps a message from being read.
type dnsFlaw uint8

const (
	dnsSound     dnsFlaw = iota
	dnsMalformed         // header and question are not as they must be
	dnsCut               // the copy ends before the question does
)

// dnsMessage is what is read of a message.
type dnsMessage struct {
	id       uint16
	response bool
	opcode   dnsmessage.OpCode
	recurse  bool // a question that wants an answer, not a hint where to ask
	asks     bool // it has a question; else name, kind and class are empty
	name     []byte
	kind     uint16
	class    uint16
	answer   DNSAnswer // of a response
	broken   bool      // a response whose records cannot all be read, though all of it was copied and it is not truncated
}

// question returns what the message asks, of its own memory.
func (m *dnsMessage) question() DNSQuestion {
	return DNSQuestion{Name: string(m.name), Type: m.kind, Class: m.class}
}

// isAbout tells whether a question is the message's.
func (m *dnsMessage) isAbout(q *DNSQuestion) bool {
	return m.asks && q.Type == m.kind && q.Class == m.class && q.Name == string(m.name)
}

// dnsReader reads messages without allocating, unless they are broken.
type dnsReader struct {
	message   dnsMessage
	parser    dnsmessage.Parser
	name      [4 * dnsNameLimit]byte
	addresses [dnsAddressLimit]netip.Addr
}

// read reads a message of a length of which there may be only the beginning. What it returns is valid until the next read.
func (r *dnsReader) read(copied []byte, length int) (*dnsMessage, dnsFlaw) {
	m := &r.message
	*m = dnsMessage{}
	short := dnsMalformed
	if len(copied) < length {
		short = dnsCut
	}
	header, err := r.parser.Start(copied)
	if err != nil {
		return nil, short
	}
	m.id, m.response, m.opcode, m.recurse = header.ID, header.Response, header.OpCode, header.RecursionDesired
	if binary.BigEndian.Uint16(copied[4:]) > 0 {
		if flaw := m.readQuestion(copied[dnsHeaderLength:], r.name[:0], short); flaw != dnsSound {
			return nil, flaw
		}
	}
	if m.response {
		m.answer = DNSAnswer{
			RCode: uint16(header.RCode), Truncated: header.Truncated, Records: int(binary.BigEndian.Uint16(copied[6:])),
		}
		m.broken = r.readRecords(header.RCode) != nil && short == dnsMalformed && !header.Truncated
	}
	return m, dnsSound
}

// readQuestion reads the first question. The library would refuse a dot inside of a label, which service names of mDNS have,
// and an earlier name to point to there is none.
func (m *dnsMessage) readQuestion(from, name []byte, short dnsFlaw) dnsFlaw {
	at := 0
	for {
		if at >= len(from) {
			return short
		}
		length := int(from[at])
		at++
		if length == 0 {
			break
		}
		if length > 63 || at+length >= dnsNameLimit {
			return dnsMalformed
		}
		if at+length > len(from) {
			return short
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		name = appendLabel(name, from[at:at+length])
		at += length
	}
	if len(from) < at+4 {
		return short
	}
	if len(name) == 0 {
		name = append(name, '.')
	}
	m.asks, m.name = true, name
	m.kind, m.class = binary.BigEndian.Uint16(from[at:]), binary.BigEndian.Uint16(from[at+2:])
	return dnsSound
}

// appendLabel writes a label as [DNSQuestion] has it.
func appendLabel(name, label []byte) []byte {
	for _, c := range label {
		switch {
		case c < ' ' || c > '~' || c == '.' || c == '\\':
			name = append(name, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
		case c >= 'A' && c <= 'Z':
			name = append(name, c+'a'-'A')
		default:
			name = append(name, c)
		}
	}
	return name
}

// readRecords reads the answers, and the upper bits of the code that are in the OPT record. It fails where no record can be
// found any more, and passes over those that it finds and cannot read.
func (r *dnsReader) readRecords(rcode dnsmessage.RCode) error {
	p := &r.parser
	if err := p.SkipAllQuestions(); err != nil {
		return err
	}
	for {
		switch header, err := p.AnswerHeader(); {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return r.readExtendedRCode(rcode)
		case err == nil:
			r.readAddress(&header)
		}
		if err := p.SkipAnswer(); err != nil {
			return err
		}
	}
}

// readAddress keeps what an address record says. The record is still to be skipped.
func (r *dnsReader) readAddress(header *dnsmessage.ResourceHeader) {
	var address netip.Addr
	at := r.parser // a copy, that is not moved on
	switch {
	case header.Class != dnsmessage.ClassINET:
		return
	case header.Type == dnsmessage.TypeA && header.Length == 4:
		record, err := at.AResource()
		if err != nil {
			return
		}
		address = netip.AddrFrom4(record.A)
	case header.Type == dnsmessage.TypeAAAA && header.Length == 16:
		record, err := at.AAAAResource()
		if err != nil {
			return
		}
		address = netip.AddrFrom16(record.AAAA)
	default:
		return
	}
	a := &r.message.answer
	if a.Addresses == nil {
		a.Addresses = r.addresses[:0]
	}
	if len(a.Addresses) < dnsAddressLimit {
		a.Addresses = append(a.Addresses, address)
	}
}

func (r *dnsReader) readExtendedRCode(rcode dnsmessage.RCode) error {
	p := &r.parser
	if err := p.SkipAllAuthorities(); err != nil {
		return err
	}
	for {
		switch header, err := p.AdditionalHeader(); {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return nil
		case err == nil && header.Type == dnsmessage.TypeOPT:
			r.message.answer.RCode = uint16(header.ExtendedRCode(rcode))
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
}
