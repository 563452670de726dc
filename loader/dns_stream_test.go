// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// dnsConnection is a TCP connection as the tracker sees it.
type dnsConnection struct {
	t              *dnsTracker
	client, server netip.AddrPort
	at             time.Duration
	asked          uint32 // the next sequence number of the client
	answered       uint32 // and of the server
}

// newDNSConnection is one whose sequence numbers begin anew soon.
func newDNSConnection(t *dnsTracker) *dnsConnection {
	return &dnsConnection{t: t, client: netip.MustParseAddrPort(socketA), server: netip.MustParseAddrPort(serverA), asked: 1<<32 - 20, answered: 1<<32 - 9}
}

func (c *dnsConnection) packet(outgoing bool, flags uint8, sequence uint32, payload []byte, length int) {
	p := &dnsPacket{netns: oneNetns, at: dnsEpoch().Add(c.at), outgoing: outgoing, protocol: unix.IPPROTO_TCP, source: c.client, destination: c.server,
		flags: flags, sequence: sequence, length: length, payload: payload}
	if !outgoing {
		p.source, p.destination = c.server, c.client
	}
	c.t.packet(p)
	c.at += time.Millisecond
}

func (c *dnsConnection) open() *dnsConnection {
	c.packet(true, flagSYN, c.asked-1, nil, 0)
	c.packet(false, flagSYN|flagACK, c.answered-1, nil, 0)
	return c
}

func (c *dnsConnection) close() {
	c.packet(true, flagFIN|flagACK, c.asked, nil, 0)
	c.packet(false, flagFIN|flagACK, c.answered, nil, 0)
}

// ask and answer send the next bytes, in segments.
func (c *dnsConnection) ask(segments ...[]byte) {
	for _, payload := range segments {
		c.packet(true, flagACK, c.asked, payload, len(payload))
		c.asked += uint32(len(payload))
	}
}

func (c *dnsConnection) answer(segments ...[]byte) {
	for _, payload := range segments {
		c.packet(false, flagACK, c.answered, payload, len(payload))
		c.answered += uint32(len(payload))
	}
}

// answerCopied sends an answer of which only the beginning is copied.
func (c *dnsConnection) answerCopied(payload []byte, copied int) {
	c.packet(false, flagACK, c.answered, payload[:copied], len(payload))
	c.answered += uint32(len(payload))
}

// skip has the server send something that nobody sees.
func (c *dnsConnection) skip(payload []byte) uint32 {
	at := c.answered
	c.answered += uint32(len(payload))
	return at
}

// late sends what was skipped.
func (c *dnsConnection) late(sequence uint32, payload []byte) {
	c.packet(false, flagACK, sequence, payload, len(payload))
}

// framedDNS is messages as TCP has them.
func framedDNS(tb testing.TB, messages ...*dns.Msg) (stream []byte) {
	tb.Helper()
	for _, m := range messages {
		wire := dnsWire(tb, m)
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(wire))), wire...)
	}
	return stream
}

// dnsPair is a question of a name, and its answer with so many addresses.
func dnsPair(id uint16, name string, addresses int) (question, answer *dns.Msg) {
	question = dnsQuery(id, name, dns.TypeA)
	var records []string
	for i := range addresses {
		records = append(records, fmt.Sprintf("%s. 60 A 192.0.2.%d", name, i%256))
	}
	return question, dnsReply(question, dns.RcodeSuccess, records...)
}

// endsOf is names and outcomes alone, and how often they were asked if more than once.
func endsOf(news DNSNews) []string {
	var ends []string
	for _, l := range news.Lookups {
		end := fmt.Sprintf("%s: %d", l.Question.Name, l.Outcome)
		if l.Messages != 1 {
			end += fmt.Sprintf(", asked %d times", l.Messages)
		}
		ends = append(ends, end)
	}
	for _, odd := range news.Odd {
		ends = append(ends, fmt.Sprintf("%s: %d", odd.Oddity, odd.Count))
	}
	return ends
}

// Messages may be cut into segments anywhere.
func TestDNSStreamSplitAnywhere(t *testing.T) {
	questionA, answerA := dnsPair(1, "a", 1)
	questionB, answerB := dnsPair(2, "b", 1)
	questions, answers := framedDNS(t, questionA, questionB), framedDNS(t, answerA, answerB)
	want := []string{"a: 0", "b: 0"}
	for i := range answers {
		for j := i; j < len(answers); j++ {
			tracker := newDNSTracker(DNSConfig{}, hostNetns)
			c := newDNSConnection(tracker).open()
			k, l := min(i, len(questions)), min(j, len(questions))
			c.ask(questions[:k], questions[k:l], questions[l:])
			c.answer(answers[:i], answers[i:j], answers[j:])
			news := tracker.take()
			if diff := cmp.Diff(want, endsOf(news)); diff != "" {
				t.Fatalf("cut at %d and %d (-want +got):\n%s", i, j, diff)
			}
			for _, lookup := range news.Lookups {
				if len(lookup.Answer.Addresses) != 1 || lookup.Protocol != unix.IPPROTO_TCP {
					t.Fatalf("cut at %d and %d: %+v", i, j, lookup)
				}
			}
			if losses := lossesOf(tracker); len(losses) > 0 || tracker.streams.bytes != 0 {
				t.Fatalf("cut at %d and %d: losses %v, %d bytes kept", i, j, losses, tracker.streams.bytes)
			}
		}
	}
}

// Segments may come in any order, and again.
func TestDNSStreamAnyOrder(t *testing.T) {
	questionA, answerA := dnsPair(1, "a", 3)
	questionB, answerB := dnsPair(2, "b", 3)
	answers := framedDNS(t, answerA, answerB)
	cuts := []int{0, 1, 30, len(answers)/2 + 1, len(answers) - 5, len(answers)}
	for order := range permutations([]int{0, 1, 2, 3, 4}) {
		tracker := newDNSTracker(DNSConfig{}, hostNetns)
		c := newDNSConnection(tracker).open()
		c.ask(framedDNS(t, questionA, questionB))
		for _, i := range slices.Concat(order, order[:2]) {
			c.late(c.answered+uint32(cuts[i]), answers[cuts[i]:cuts[i+1]])
		}
		if diff := cmp.Diff([]string{"a: 0", "b: 0"}, endsOf(tracker.take())); diff != "" {
			t.Fatalf("in order %v (-want +got):\n%s", order, diff)
		}
		if losses := lossesOf(tracker); len(losses) > 0 || tracker.streams.bytes != 0 {
			t.Fatalf("in order %v: losses %v, %d bytes kept", order, losses, tracker.streams.bytes)
		}
	}
}

// permutations visits all orders of some numbers.
func permutations(of []int) func(func([]int) bool) {
	return func(visit func([]int) bool) { permute(of, 0, visit) }
}

func permute(of []int, from int, visit func([]int) bool) bool {
	if from == len(of) {
		return visit(slices.Clone(of))
	}
	for i := from; i < len(of); i++ {
		of[from], of[i] = of[i], of[from]
		if !permute(of, from+1, visit) {
			return false
		}
		of[from], of[i] = of[i], of[from]
	}
	return true
}

func TestDNSStream(t *testing.T) {
	questionA, answerA := dnsPair(1, "a", 1)
	questionB, answerB := dnsPair(2, "b", 1)
	questionC, answerC := dnsPair(3, "c", 1)
	_, big := dnsPair(1, "a", 600)
	askA, askB, askC := framedDNS(t, questionA), framedDNS(t, questionB), framedDNS(t, questionC)
	getA, getB, getC, getBig := framedDNS(t, answerA), framedDNS(t, answerB), framedDNS(t, answerC), framedDNS(t, big)
	broken := func(n uint64) Loss { return Loss{"stream_broken", n} }
	for _, tc := range []struct {
		name   string
		talk   func(c *dnsConnection)
		want   []string
		losses []Loss
	}{
		{name: "several at a time, answered in another order", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB)
			c.answer(slices.Concat(getB, getA))
			c.close()
		}, want: []string{"b: 0", "a: 0"}},
		{name: "sent again", talk: func(c *dnsConnection) {
			c.open()
			c.ask(askA)
			c.packet(true, flagACK, c.asked-uint32(len(askA)), askA, len(askA))
			c.packet(true, flagACK, c.asked-uint32(len(askA)), slices.Concat(askA, askB), len(askA)+len(askB))
			c.asked += uint32(len(askB))
			c.packet(true, flagACK, c.asked-1, []byte{0}, 1) // are you alive?
			c.answer(getA, getB)
			c.late(c.answered-uint32(len(getB)), getB)
			c.close()
			c.packet(true, flagACK, c.asked-uint32(len(askB)), askB, len(askB))
		}, want: []string{"a: 0", "b: 0"}},
		{name: "question in the SYN", talk: func(c *dnsConnection) {
			c.packet(true, flagSYN, c.asked-1, askA, len(askA))
			c.packet(true, flagSYN, c.asked-1, askA, len(askA))
			c.packet(false, flagSYN|flagACK, c.answered-1, nil, 0)
			c.answer(getA)
		}, want: []string{"a: 0"}},
		{name: "beginning of a big answer", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB)
			c.answerCopied(getBig, 4096)
			c.answer(getB)
		}, want: []string{"a: 0", "b: 0"}},
		{name: "beginnings of a big answer's segments", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB)
			c.answerCopied(getBig[:3000], 100)
			c.answerCopied(getBig[3000:], 50)
			c.answer(getB)
		}, want: []string{"a: 0", "b: 0"}},
		{name: "big answer in many segments", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB)
			for chunk := range slices.Chunk(getBig, 1000) {
				c.answer(chunk)
			}
			c.answer(getB)
		}, want: []string{"a: 0", "b: 0"}},
		{name: "beginning of an answer where none was copied", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB, askC)
			c.answerCopied(slices.Concat(getBig, getB), 4096)
			c.answer(getC)
			c.t.advance(dnsEpoch().Add(time.Minute))
		}, want: []string{"a: 0", "c: 0", "b: 2"}, losses: []Loss{{"answer_unknown", 1}, broken(1)}},
		{name: "begun before the agent", talk: func(c *dnsConnection) {
			c.answer(getC) // to what nobody has seen
			c.ask(askA, askB)
			c.answer(getA, getB)
			c.close()
		}, want: []string{"a: 0", "b: 0"}, losses: []Loss{{"unmatched", 1}}},
		{name: "begun before the agent, within a message", talk: func(c *dnsConnection) {
			c.ask(askA[9:], slices.Concat(askB, askC))
			c.answer(getBig[1:4000], getBig[4000:], getB, getC)
		}, want: []string{"b: 0", "c: 0"}, losses: []Loss{broken(2)}},
		{name: "begun before the agent, and alive", talk: func(c *dnsConnection) {
			c.packet(true, flagACK, c.asked-1, []byte{0}, 1)
			c.packet(false, flagACK, c.answered-1, []byte{0}, 1)
			c.ask(askA)
			c.answer(getA)
		}, want: []string{"a: 0"}},
		{name: "begun before the agent, and not what it seems", talk: func(c *dnsConnection) {
			c.ask(getA)
			c.ask(framedDNS(t, &dns.Msg{Question: []dns.Question{{Name: "a.", Qtype: 1, Qclass: 257}}}))
			c.ask(askA)
			c.answer(getA)
			c.t.advance(dnsEpoch().Add(time.Minute))
		}, want: []string{"a: 0"}, losses: []Loss{broken(1)}},
		{name: "opening not seen, ended with the answer", talk: func(c *dnsConnection) {
			c.packet(true, flagFIN|flagACK, c.asked, askA, len(askA))
			c.packet(false, flagFIN|flagACK, c.answered, getA, len(getA))
		}, want: []string{"a: 0"}},
		{name: "gap filled", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB, askC)
			at := c.skip(getA)
			c.answer(getB, getC)
			c.late(at, getA)
		}, want: []string{"a: 0", "b: 0", "c: 0"}},
		{name: "gap filled, what came early is gone", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB)
			at := c.skip(getA)
			used := slices.Clone(getB)
			c.answer(used)
			clear(used)
			c.late(at, getA)
		}, want: []string{"a: 0", "b: 0"}},
		{name: "gap filled, what came early was sent again", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB)
			at := c.skip(getA)
			for range 2 * dnsHeldLimit {
				c.late(c.answered, getB)
			}
			c.late(at, getA)
		}, want: []string{"a: 0", "b: 0"}},
		{name: "gap filled, a long segment behind it", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB, askC)
			at := c.skip(getA)
			for piece := range slices.Chunk(slices.Concat(bytes.Repeat(getBig, 6), getB, getC), copyMax) {
				c.answer(piece)
			}
			c.late(at, getA)
		}, want: []string{"a: 0", "b: 0", "c: 0"}},
		{name: "question in a gap", talk: func(c *dnsConnection) {
			c.open()
			c.asked += uint32(len(askA))
			c.ask(askB)
			c.at += dnsGapTime
			c.ask(askC)
			c.answer(getA, getB, getC)
		}, want: []string{"b: 0", "c: 0"}, losses: []Loss{{"unmatched", 1}, broken(1)}},
		{name: "gap for too long", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB, askC)
			c.skip(getA)
			c.answer(getB)
			c.at += dnsGapTime
			c.answer(getC)
			c.t.advance(dnsEpoch().Add(time.Minute))
		}, want: []string{"b: 0", "c: 0", "a: 2"}, losses: []Loss{{"answer_unknown", 1}, broken(1)}},
		{name: "gap with too much behind it", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB, askC)
			c.skip(getA)
			c.answer(getB)
			for i := range dnsHeldLimit {
				c.answer(getC[i : i+1])
			}
			c.answer(getC[dnsHeldLimit:])
		}, want: []string{"b: 0", "c: 0"}, losses: []Loss{broken(1)}},
		{name: "two gaps", talk: func(c *dnsConnection) {
			c.open().ask(askA, askB, askC)
			c.skip(getA)
			c.answer(getB)
			c.skip(getA)
			c.answer(getC[:20])
			c.at += dnsGapTime
			c.answer(getC[20:], getC)
		}, want: []string{"b: 0", "c: 0"}, losses: []Loss{broken(2)}},
		{name: "port used again", talk: func(c *dnsConnection) {
			c.open().ask(askA)
			c.answer(getA)
			c.packet(false, flagRST, c.answered, nil, 0)
			c.asked, c.answered = 77, 88
			c.open().ask(askA)
			c.answer(getA)
		}, want: []string{"a: 0", "a: 0"}},
		{name: "another opens it", talk: func(c *dnsConnection) {
			c.open().ask(askA)
			c.packet(false, flagSYN, 4711, nil, 0)
			c.answer(getA)
		}, want: []string{"a: 0"}},
		{name: "another ends it", talk: func(c *dnsConnection) {
			c.open().ask(askA)
			c.packet(false, flagRST, 4711, nil, 0)
			c.answer(getA)
			c.ask(askB)
			c.answer(getB)
		}, want: []string{"a: 0", "b: 0"}},
		{name: "served to a client at port 53", talk: func(c *dnsConnection) {
			c.client = netip.MustParseAddrPort("192.0.2.10:53")
			c.packet(false, flagSYN, c.answered-1, nil, 0)
			c.packet(true, flagSYN|flagACK, c.asked-1, nil, 0)
			c.answer(askA) // which the peer sends
			c.ask(getA)
			c.packet(false, flagSYN, c.answered-1, nil, 0)
		}},
		{name: "served to somebody who uses port 53", talk: func(c *dnsConnection) {
			c.packet(false, flagSYN, c.answered-1, nil, 0)
			c.packet(true, flagSYN|flagACK, c.asked-1, nil, 0)
			c.answer([]byte("\x00\x10 HTTP/1.1 200 OK"))
			c.ask(getA)
		}},
		{name: "zone transfer", talk: func(c *dnsConnection) {
			question := dnsQuery(1, "a", dns.TypeAXFR)
			c.open().ask(framedDNS(t, question))
			for range 5 {
				c.answer(framedDNS(t, dnsReply(question, 0, "a. 60 A 192.0.2.1")))
			}
		}, want: []string{"a: 0"}},
		{name: "garbage", talk: func(c *dnsConnection) {
			c.open().ask([]byte{0, 0, 0, 1, 9}, askA)
			c.answer([]byte{0, 3, 1, 2, 3}, getA)
		}, want: []string{"a: 0", "malformed_query: 2", "malformed_response: 1"}},
		{name: "asked in a stream, answered by a datagram", talk: func(c *dnsConnection) {
			c.open().ask(askA)
			step := gets(0, socketA, serverA, 1, "a")
			step.step(t, c.t)
			c.answer(getA)
		}, want: []string{"a: 0", "unasked: 1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracker := newDNSTracker(DNSConfig{}, hostNetns)
			tc.talk(newDNSConnection(tracker))
			if diff := cmp.Diff(tc.want, endsOf(tracker.take())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.losses, lossesOf(tracker), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("losses (-want +got):\n%s", diff)
			}
			checkDNSBounds(t, tracker)
		})
	}
}

// A question in a stream is forwarded in one, too, and the embedded resolver's port differs between the two directions.
func TestDNSStreamForwarded(t *testing.T) {
	question, answer := dnsPair(1, "a", 1)
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	embedded, upstream := newDNSConnection(tracker), newDNSConnection(tracker)
	embedded.client, embedded.server = netip.MustParseAddrPort(localSocket), netip.MustParseAddrPort(embeddedAsked)
	embedded.packet(true, flagSYN, embedded.asked-1, nil, 0)
	embedded.ask(framedDNS(t, question))
	upstream.at = embedded.at
	upstream.open().ask(framedDNS(t, question))
	upstream.answer(framedDNS(t, answer))
	embedded.at, embedded.server = upstream.at, netip.MustParseAddrPort(embeddedAnswer)
	embedded.packet(false, flagSYN|flagACK, embedded.answered-1, nil, 0)
	embedded.answer(framedDNS(t, answer))
	want := []string{
		"2 a A in 2: 198.51.100.1@4ms+1ms, for 1 of 2: NOERROR by 198.51.100.1 after 1ms",
		"1 a A in 2: 127.0.0.11@1ms+6ms, forwarded: NOERROR by 127.0.0.11 after 6ms",
	}
	if diff := cmp.Diff(want, tellDNS(tracker.take())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := len(tracker.streams.by); got != 2 {
		t.Errorf("%d streams", got)
	}
}

// Of more streams than there is room for, those that are closed are forgotten first, then those that were not used for longest.
func TestDNSStreamsMany(t *testing.T) {
	question, answer := dnsPair(1, "a", 1)
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	connection := func(i int) *dnsConnection {
		c := newDNSConnection(tracker)
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(1024+i))
		return c.open()
	}
	closed := connection(0)
	closed.close()
	first := connection(1)
	first.ask(framedDNS(t, question))
	second := connection(2)
	for i := range dnsStreamLimit - 2 {
		connection(3 + i)
	}
	if losses := lossesOf(tracker); len(losses) > 0 {
		t.Errorf("losses %v while one was closed", losses)
	}
	second.ask(framedDNS(t, question)) // just in time
	connection(dnsStreamLimit + 1)
	second.answer(framedDNS(t, answer))
	first.at = second.at
	first.answer(framedDNS(t, answer)[9:]) // not to be understood any more
	tracker.advance(dnsEpoch().Add(time.Minute))
	if diff := cmp.Diff([]string{"a: 0", "a: 2"}, endsOf(tracker.take())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := []Loss{{"answer_unknown", 1}, {"stream_broken", 1}, {"stream_forgotten", 2}}
	if diff := cmp.Diff(want, lossesOf(tracker)); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	checkDNSBounds(t, tracker)
	tracker.advance(dnsEpoch().Add(time.Hour))
	if len(tracker.streams.by) > 0 {
		t.Errorf("%d streams that nobody uses", len(tracker.streams.by))
	}
}

// However much comes early, or in long messages, no more than a bound is kept.
func TestDNSStreamsKeepLittle(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	much := make([]byte, 4096)
	for i := range 1000 {
		c := newDNSConnection(tracker)
		c.client = netip.AddrPortFrom(c.client.Addr(), uint16(1024+i))
		c.open().ask([]byte{255, 255}, much, much, much)
		c.answered += 100
		for range dnsHeldLimit - 1 {
			c.answer(much)
		}
		checkDNSBounds(t, tracker)
	}
	if tracker.streams.bytes < dnsStreamBytes/2 {
		t.Errorf("only %d bytes are kept", tracker.streams.bytes)
	}
	tracker.advance(dnsEpoch().Add(time.Hour))
	if tracker.streams.bytes != 0 {
		t.Errorf("%d bytes are kept of nothing", tracker.streams.bytes)
	}
}

// checkDNSBounds checks that a tracker remembers no more than it may, and knows how much that is.
func checkDNSBounds(tb testing.TB, t *dnsTracker) {
	tb.Helper()
	for _, usage := range t.usage() {
		if usage.Entries < 0 || usage.Entries > usage.Capacity {
			tb.Fatalf("%+v", usage)
		}
	}
	bytes, listed := 0, 0
	for _, s := range t.streams.by {
		for _, f := range []*dnsFlow{&s.in, &s.out} {
			bytes += len(f.message)
			for _, held := range f.held {
				bytes += len(held.payload)
			}
			if len(f.held) > dnsHeldLimit || len(f.message) > dnsMessageKept {
				tb.Fatalf("%d segments and %d bytes are kept of a flow", len(f.held), len(f.message))
			}
		}
	}
	for _, chain := range []chain[dnsStream]{t.streams.open, t.streams.closed} {
		for at := chain.front; at != nil; at = at.after {
			listed++
		}
	}
	if bytes != t.streams.bytes || listed != len(t.streams.by) {
		tb.Fatalf("%d bytes in %d streams are taken for %d in %d", bytes, len(t.streams.by), t.streams.bytes, listed)
	}
	waiting, sent := 0, 0
	for at := t.waiting.front; at != nil; at = at.after {
		waiting++
		sent += len(at.of.sent)
		if len(at.of.sent) > dnsTryLimit || len(at.of.Tries) > dnsTryLimit {
			tb.Fatalf("a lookup of %d exchanges and %d tries", len(at.of.sent), len(at.of.Tries))
		}
	}
	if sent != t.sent || len(t.exchanges) > sent || len(t.numbered) > sent || len(t.alike) > waiting {
		tb.Fatalf("%d lookups wait, with %d exchanges, of which %d are known as %d, %d numbers, %d alike",
			waiting, sent, t.sent, len(t.exchanges), len(t.numbered), len(t.alike))
	}
	for _, memory := range append(t.ended[:], t.forwarders) {
		if memory.len() > 2*memory.limit {
			tb.Fatalf("%d exchanges are remembered", memory.len())
		}
	}
	if t.bytes > dnsNewsLimit || len(t.odd.list) > dnsOddLimit+dnsOddFloor+64 {
		tb.Fatalf("%d lookups and %d oddities are not read", len(t.news), len(t.odd.list))
	}
}

// A segment may claim to be anywhere, half the numbers away too, and is nowhere then. The stream goes on.
func TestDNSStreamFarAway(t *testing.T) {
	for _, distance := range []uint32{1<<31 - 1, 1 << 31, 1<<31 + 1} {
		t.Run(fmt.Sprint(distance), func(t *testing.T) {
			tracker := newDNSTracker(DNSConfig{}, hostNetns)
			c := newDNSConnection(tracker).open()
			for _, outgoing := range []bool{true, false} {
				next := c.asked
				if !outgoing {
					next = c.answered
				}
				c.packet(outgoing, flagACK, next+distance, []byte{1, 2, 3}, 3)
			}
			query := dnsQuery(7, "name.example.", dns.TypeA)
			c.ask(framedDNS(t, query))
			c.answer(framedDNS(t, dnsReply(query, dns.RcodeSuccess)))
			if news := tracker.take(); len(news.Lookups) != 1 || news.Lookups[0].Outcome != DNSAnswered {
				t.Errorf("got %+v", news)
			}
		})
	}
}
