// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// fuzzBytes is what a fuzz test makes its choices of. At the end it is all zero.
type fuzzBytes []byte

func (b *fuzzBytes) next() byte {
	if len(*b) == 0 {
		return 0
	}
	c := (*b)[0]
	*b = (*b)[1:]
	return c
}

// choose returns one of n.
func (b *fuzzBytes) choose(n int) int { return int(b.next()) % n }

func (b *fuzzBytes) take(n int) []byte {
	n = min(n, len(*b))
	taken := (*b)[:n]
	*b = (*b)[n:]
	return taken
}

// fuzzTruth is what must come of what a fuzz test does.
type fuzzTruth struct {
	asked   int // messages that ask
	told    int // those that were told of
	serials map[uint64]bool
}

// read takes the news and checks them.
func (truth *fuzzTruth) read(t *testing.T, tracker *dnsTracker) {
	t.Helper()
	checkDNSBounds(t, tracker)
	for _, l := range tracker.take().Lookups {
		if truth.serials == nil {
			truth.serials = make(map[uint64]bool)
		}
		if truth.serials[l.Serial] || l.Serial == 0 {
			t.Fatalf("told twice: %s", tellLookup(&l))
		}
		truth.serials[l.Serial] = true
		truth.told += l.Messages
		if len(l.Tries) == 0 || len(l.Tries) > dnsTryLimit || l.Messages < len(l.Tries) || l.Retries >= l.Messages ||
			l.Question.Name == "" || l.ForwardOf >= l.Serial || l.Embedded() && l.ForwardOf != 0 ||
			(l.Outcome == DNSAnswered) == l.Answered.IsZero() {
			t.Fatalf("told %s: %+v", tellLookup(&l), l)
		}
	}
}

// end waits until nothing is waited for, and checks that each question was told exactly once.
func (truth *fuzzTruth) end(t *testing.T, tracker *dnsTracker) {
	t.Helper()
	tracker.advance(tracker.now.Add(time.Hour))
	truth.read(t, tracker)
	if truth.told != truth.asked {
		t.Fatalf("%d questions, %d told of", truth.asked, truth.told)
	}
	for serial := range tracker.serial {
		if !truth.serials[serial+1] {
			t.Fatalf("lookup %d is not told of", serial+1)
		}
	}
	if tracker.sent != 0 || tracker.waiting.front != nil || len(tracker.exchanges)+len(tracker.numbered)+len(tracker.alike) != 0 || tracker.streams.bytes != 0 {
		t.Fatalf("%d exchanges and %d bytes are remembered of nothing", tracker.sent, tracker.streams.bytes)
	}
}

// Whatever is asked and answered, each question is told exactly once, and no more is remembered than there is room for.
func FuzzDNSTracker(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<14 {
			return
		}
		b := fuzzBytes(data)
		tracker := newDNSTracker(DNSConfig{Pending: 1 + b.choose(40)}, hostNetns)
		var truth fuzzTruth
		for at := time.Duration(0); len(b) > 0; {
			at += time.Duration(b.choose(64)*b.choose(64)) * time.Millisecond
			switch what := b.choose(16); what {
			case 0:
				tracker.lost(dnsEpoch().Add(at))
			case 1:
				tracker.advance(dnsEpoch().Add(at))
			case 2:
				truth.read(t, tracker)
			case 3: // anything
				step := asks(at, socketA, serverA, 0, ".").bytes(b.take(40)...)
				step.outgoing = false
				tracker.packet(step.packet(step.raw, len(step.raw)+b.choose(3)))
			default:
				if fuzzMessage(t, &b, tracker, at-time.Duration(b.choose(20))*time.Millisecond, what >= 10) {
					truth.asked++
				}
			}
		}
		truth.end(t, tracker)
	})
}

// fuzzMessage sends a question, or an answer, between one of some clients and one of some servers, and tells which.
func fuzzMessage(t *testing.T, b *fuzzBytes, tracker *dnsTracker, at time.Duration, isAnswer bool) bool {
	server := []string{serverA, serverB, serverC, embeddedAsked, embeddedAsked, "127.0.0.53:53", "224.0.0.251:5353", "[ff02::1:3]:5355"}[b.choose(8)]
	client := fmt.Sprintf("192.0.2.%d:%d", 1+b.choose(2), []int{53, 40000, 40001, 40002}[b.choose(4)])
	if isAnswer && server == embeddedAsked {
		server = embeddedAnswer
	}
	step := asks(at, client, server, uint16(b.choose(4)), []string{"a", "B", "b"}[b.choose(3)]).in(Netns(1 + b.choose(3)))
	if b.choose(4) == 0 {
		step = step.of(dns.TypeAAAA)
	}
	if isAnswer {
		step.outgoing, step.message = false, dnsReply(step.message, b.choose(6))
	}
	step.step(t, tracker)
	return !isAnswer
}

// However a stream is cut, sent again and mixed up, no question is told twice, and none that has come is missing, unless it
// was counted that something of the stream was not seen. A lookup that has begun is told once in any case.
func FuzzDNSStream(f *testing.F) {
	f.Add([]byte("\x03\x10\x00\x00\x20\x00\x00\x30\x00\x00"))
	begun, asks := "\x01\x02\x00\x00\x00", func(from, length string) string { // three questions of 25 bytes, all copied
		return "\x01\x01\x03\x00" + from + length + "\x01\x01"
	}
	f.Add([]byte(begun + asks("\x00", "\x4b")))                                               // at once
	f.Add([]byte(begun + asks("\x32", "\x19") + asks("\x19", "\x19") + asks("\x00", "\x19"))) // the last one first
	f.Add([]byte(begun + asks("\x00", "\x19") + asks("\x0c", "\x2b") + asks("\x01", "\x4a"))) // again
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<13 {
			return
		}
		b := fuzzBytes(data)
		tracker := newDNSTracker(DNSConfig{}, hostNetns)
		c := newDNSConnection(tracker)
		truth := fuzzStream{opened: b.choose(4) > 0, honest: true}
		if truth.opened {
			c.open()
		}
		var questions, answers []byte
		for id := range 1 + b.choose(6) {
			question, answer := dnsPair(uint16(id), fmt.Sprintf("name%d", id), b.choose(256))
			questions, answers = append(questions, framedDNS(t, question)...), append(answers, framedDNS(t, answer)...)
			truth.ends = append(truth.ends, len(questions))
		}
		truth.come = make([]bool, len(questions))
		closed := false
		for len(b) > 0 {
			if !closed { // what comes long after the end is nobody's
				c.at += time.Duration(b.choose(16)*b.choose(16)) * time.Millisecond
			}
			switch b.choose(12) {
			case 0:
				truth.honest = false
				c.packet(b.choose(2) == 0, b.next(), binary.BigEndian.Uint32(append(b.take(4), 0, 0, 0, 0)), b.take(b.choose(64)), b.choose(128))
			case 1:
				closed = true
				c.close()
			case 2:
				tracker.advance(dnsEpoch().Add(c.at))
			case 3, 4, 5, 6:
				from, to := fuzzSegment(&b, c, true, c.asked, questions)
				for i := from; i < to; i++ {
					truth.come[i] = true
				}
			default:
				fuzzSegment(&b, c, false, c.answered, answers)
			}
			checkDNSBounds(t, tracker)
		}
		tracker.advance(dnsEpoch().Add(time.Hour))
		truth.check(t, tracker, c)
	})
}

// fuzzStream is what must come of a stream.
type fuzzStream struct {
	opened bool   // from its beginning on
	honest bool   // all that was sent is of the stream
	ends   []int  // of the questions, in bytes
	come   []bool // each of these bytes
}

// whole is how many questions have come to their ends, with all before them.
func (truth *fuzzStream) whole() int {
	come := len(truth.come)
	if i := slices.Index(truth.come, false); i >= 0 {
		come = i
	}
	count, exact := slices.BinarySearch(truth.ends, come)
	if exact {
		count++
	}
	return count
}

// fuzzSegment sends a part of a stream, of which not all may be copied, and tells which.
func fuzzSegment(b *fuzzBytes, c *dnsConnection, outgoing bool, first uint32, stream []byte) (from, to int) {
	from = (b.choose(256)<<8 | b.choose(256)) % len(stream)
	to = min(len(stream), from+b.choose(256)*b.choose(32))
	payload := stream[from:to]
	copied := len(payload)
	if b.choose(4) == 0 {
		copied = min(copied, b.choose(256))
	}
	c.packet(outgoing, flagACK, first+uint32(from), payload[:copied], len(payload))
	return from, to
}

// check checks what was told of a stream.
func (truth *fuzzStream) check(t *testing.T, tracker *dnsTracker, c *dnsConnection) {
	t.Helper()
	checkDNSBounds(t, tracker)
	serials := make(map[uint64]bool)
	names := make(map[string]int)
	for _, l := range tracker.take().Lookups {
		if serials[l.Serial] || l.Protocol != unix.IPPROTO_TCP || l.Client != c.client || l.Server.Addr() != netip.MustParseAddrPort(serverA).Addr() {
			t.Fatalf("told %+v", l)
		}
		serials[l.Serial] = true
		names[l.Question.Name] += l.Messages
	}
	if uint64(len(serials)) != tracker.serial {
		t.Fatalf("%d lookups, %d told of", tracker.serial, len(serials))
	}
	if !truth.honest || tracker.missed.broken > 0 {
		return // what is taken for a message's beginning may be sent again
	}
	for name, messages := range names {
		if messages != 1 {
			t.Errorf("%s is asked once, and told of as asked %d times", name, messages)
		}
	}
	if len(names) > len(truth.ends) {
		t.Errorf("%d questions, %d told of", len(truth.ends), len(names))
	}
	if !truth.opened {
		return // it is followed from somewhere on
	}
	if whole := truth.whole(); uint64(len(names))+tracker.missed.cut < uint64(whole) {
		t.Errorf("%d questions have come, %d are told of, %d messages were cut", whole, len(names), tracker.missed.cut)
	}
}

// BenchmarkDNSTracker is what a question and its answer take together, while others wait.
func BenchmarkDNSTracker(b *testing.B) {
	for _, waiting := range []int{0, 50_000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			tracker := newDNSTracker(DNSConfig{}, hostNetns)
			question := dnsQuery(1, "api.backend.example.com", dns.TypeA)
			asked := dnsWire(b, question)
			answered := dnsWire(b, dnsReply(question, 0, "api.backend.example.com. 600 A 172.18.0.5", "api.backend.example.com. 600 A 172.18.0.6"))
			out := dnsPacket{netns: oneNetns, outgoing: true, protocol: unix.IPPROTO_UDP, at: dnsEpoch(),
				source: netip.MustParseAddrPort(localSocket), destination: netip.MustParseAddrPort(embeddedAsked), payload: asked, length: len(asked)}
			in := out
			in.outgoing, in.source, in.destination = false, netip.MustParseAddrPort(embeddedAnswer), out.source
			in.payload, in.length = answered, len(answered)
			for i := range waiting {
				binary.BigEndian.PutUint16(asked, uint16(i))
				tracker.packet(&out)
			}
			out.source = netip.MustParseAddrPort(socketA)
			in.destination = out.source
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				binary.BigEndian.PutUint16(asked, uint16(i))
				binary.BigEndian.PutUint16(answered, uint16(i))
				tracker.packet(&out)
				tracker.packet(&in)
				if i%1024 == 0 {
					tracker.take()
				}
			}
			if tracker.take(); tracker.missed != (dnsMissed{}) || tracker.sent != waiting {
				b.Fatalf("%+v, %d wait", tracker.missed, tracker.sent)
			}
		})
	}
}
