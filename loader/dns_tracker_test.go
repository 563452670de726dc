// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	hostNetns, oneNetns, otherNetns = Netns(1), Netns(2), Netns(3)

	// Sockets and servers.
	socketA, socketB, socketC     = "192.0.2.10:40001", "192.0.2.10:40002", "192.0.2.10:40003"
	serverA, serverB, serverC     = "198.51.100.1:53", "198.51.100.2:53", "198.51.100.3:53"
	embeddedAsked, embeddedAnswer = "127.0.0.11:41234", "127.0.0.11:53"
	localSocket                   = "127.0.0.1:40004"
)

// dnsStep is a message, or something else that happens.
type dnsStep struct {
	at             time.Duration
	netns          Netns
	protocol       uint8
	outgoing       bool
	client, server string
	message        *dns.Msg
	raw            []byte // instead of the message
	uncopied       int
	lost           bool // packets, before
	advance        bool
}

// asks is a question for an address, from the first container's namespace.
func asks(at time.Duration, client, server string, id uint16, name string) dnsStep {
	return dnsStep{at: at, netns: oneNetns, protocol: unix.IPPROTO_UDP, outgoing: true, client: client, server: server, message: dnsQuery(id, name, dns.TypeA)}
}

// gets is an answer to such a question.
func gets(at time.Duration, client, server string, id uint16, name string) dnsStep {
	s := asks(at, client, server, id, name)
	s.outgoing, s.message = false, dnsReply(s.message, dns.RcodeSuccess)
	return s
}

func elapses(at time.Duration) dnsStep { return dnsStep{at: at, advance: true} }
func loses(at time.Duration) dnsStep   { return dnsStep{at: at, lost: true} }

func (s dnsStep) in(netns Netns) dnsStep       { s.netns = netns; return s }
func (s dnsStep) of(kind uint16) dnsStep       { s.message.Question[0].Qtype = kind; return s }
func (s dnsStep) classed(class uint16) dnsStep { s.message.Question[0].Qclass = class; return s }
func (s dnsStep) coded(rcode int) dnsStep      { s.message.Rcode = rcode; return s }
func (s dnsStep) purpose(opcode int) dnsStep   { s.message.Opcode = opcode; return s }
func (s dnsStep) unasking() dnsStep            { s.message.Question = nil; return s }
func (s dnsStep) turned() dnsStep              { s.message.Response = !s.message.Response; return s }
func (s dnsStep) bytes(raw ...byte) dnsStep    { s.raw = raw; return s }
func (s dnsStep) without(bytes int) dnsStep    { s.uncopied = bytes; return s }

// step has the tracker see it.
func (s *dnsStep) step(tb testing.TB, t *dnsTracker) {
	tb.Helper()
	at := dnsEpoch().Add(s.at)
	switch {
	case s.lost:
		t.lost(at)
		return
	case s.advance:
		t.advance(at)
		return
	}
	wire := s.raw
	if wire == nil {
		wire = dnsWire(tb, s.message)
	}
	t.packet(s.packet(wire[:len(wire)-s.uncopied], len(wire)))
}

func dnsEpoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func (s *dnsStep) packet(payload []byte, length int) *dnsPacket {
	p := &dnsPacket{netns: s.netns, at: dnsEpoch().Add(s.at), outgoing: s.outgoing, protocol: s.protocol,
		source: netip.MustParseAddrPort(s.client), destination: netip.MustParseAddrPort(s.server), payload: payload, length: length}
	if !s.outgoing {
		p.source, p.destination = p.destination, p.source
	}
	return p
}

// tellDNS writes news as the tests have them: number, question, tries and end of each lookup; then the oddities.
func tellDNS(news DNSNews) []string {
	var told []string
	for i := range news.Lookups {
		told = append(told, tellLookup(&news.Lookups[i]))
	}
	for _, odd := range news.Odd {
		forwarded := ""
		if odd.Forwarded {
			forwarded = ", forwarded"
		}
		told = append(told, fmt.Sprintf("%s from %s in %d%s: %d", odd.Oddity, odd.Server, odd.Netns, forwarded, odd.Count))
	}
	return told
}

func tellLookup(l *DNSLookup) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s in %d:", l.Serial, l.Question.Name, dns.TypeToString[l.Question.Type], l.Netns)
	if l.Question.Class != dns.ClassINET {
		fmt.Fprintf(&b, " class %d", l.Question.Class)
	}
	for _, try := range l.Tries {
		fmt.Fprintf(&b, " %s@%v", try.Server.Addr(), try.Asked.Sub(dnsEpoch()))
		if try.GaveUp {
			b.WriteString("!")
		}
		if !try.Answer.IsZero() {
			fmt.Fprintf(&b, "+%v", try.Answer.Sub(try.Asked))
		}
	}
	if l.Messages != len(l.Tries) {
		fmt.Fprintf(&b, ", %d messages", l.Messages)
	}
	if l.Retries > 0 {
		fmt.Fprintf(&b, ", %d retries", l.Retries)
	}
	if l.Forwarded {
		b.WriteString(", forwarded")
	}
	if l.ForwardOf > 0 {
		fmt.Fprintf(&b, ", for %d of %d", l.ForwardOf, l.AskedFor)
	}
	switch l.Outcome {
	case DNSAnswered:
		fmt.Fprintf(&b, ": %s by %s after %v", dns.RcodeToString[int(l.Answer.RCode)], l.Server.Addr(), l.Duration())
	case DNSTimedOut:
		b.WriteString(": timed out")
	case DNSUnknown:
		b.WriteString(": unknown")
	case DNSUnawaited:
		b.WriteString(": unawaited")
	}
	return b.String()
}

func TestDNSTracker(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, tc := range []struct {
		name   string
		config DNSConfig
		steps  []dnsStep
		want   []string
		losses []Loss
	}{
		{name: "answered", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(9*ms, socketA, serverA, 1, "a."), elapses(time.Minute)},
			want: []string{"1 a A in 2: 198.51.100.1@0s+9ms: NOERROR by 198.51.100.1 after 9ms"}},
		{name: "embedded", steps: []dnsStep{asks(0, localSocket, embeddedAsked, 1, "a."), gets(9*ms, localSocket, embeddedAnswer, 1, "a.").coded(dns.RcodeNameError)},
			want: []string{"1 a A in 2: 127.0.0.11@0s+9ms: NXDOMAIN by 127.0.0.11 after 9ms"}},
		{name: "A and AAAA at once", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a."), asks(0, socketA, serverA, 2, "a.").of(dns.TypeAAAA),
			gets(2*ms, socketA, serverA, 2, "a.").of(dns.TypeAAAA), gets(3*ms, socketA, serverA, 1, "a."),
		}, want: []string{
			"2 a AAAA in 2: 198.51.100.1@0s+2ms: NOERROR by 198.51.100.1 after 2ms",
			"1 a A in 2: 198.51.100.1@0s+3ms: NOERROR by 198.51.100.1 after 3ms",
		}},
		{name: "two questions of one ID", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a."), asks(0, socketA, serverA, 1, "a.").of(dns.TypeAAAA),
			gets(2*ms, socketA, serverA, 1, "a.").of(dns.TypeAAAA), gets(3*ms, socketA, serverA, 1, "a."),
		}, want: []string{
			"2 a AAAA in 2: 198.51.100.1@0s+2ms: NOERROR by 198.51.100.1 after 2ms",
			"1 a A in 2: 198.51.100.1@0s+3ms: NOERROR by 198.51.100.1 after 3ms",
		}},
		{name: "same exchange in two namespaces", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 1, "a."), asks(0, localSocket, embeddedAsked, 1, "a.").in(otherNetns),
			gets(1*ms, localSocket, embeddedAnswer, 1, "a.").in(otherNetns), gets(2*ms, localSocket, embeddedAnswer, 1, "a."),
		}, want: []string{
			"2 a A in 3: 127.0.0.11@0s+1ms: NOERROR by 127.0.0.11 after 1ms",
			"1 a A in 2: 127.0.0.11@0s+2ms: NOERROR by 127.0.0.11 after 2ms",
		}},
		{name: "other case", steps: []dnsStep{asks(0, socketA, serverA, 1, "wEb.A."), gets(9*ms, socketA, serverA, 1, "WeB.a.")},
			want: []string{"1 web.a A in 2: 198.51.100.1@0s+9ms: NOERROR by 198.51.100.1 after 9ms"}},
		{name: "answer without a question", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(9*ms, socketA, serverA, 1, "a.").unasking().coded(dns.RcodeFormatError)},
			want: []string{"1 a A in 2: 198.51.100.1@0s+9ms: FORMERR by 198.51.100.1 after 9ms"}},
		{name: "from port 53", steps: []dnsStep{
			asks(0, "192.0.2.10:53", serverA, 1, "a."), gets(9*ms, "192.0.2.10:53", serverA, 1, "a."),
			// Somebody who asks from there, too, is answered.
			gets(1*s, "192.0.2.10:53", serverB, 1, "a.").turned(), asks(1*s, "192.0.2.10:53", serverB, 1, "a.").turned(),
		}, want: []string{"1 a A in 2: 198.51.100.1@0s+9ms: NOERROR by 198.51.100.1 after 9ms"}},

		// Time.
		{name: "timed out", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), elapses(5*s + 500*ms)}},
		{name: "told half a second later", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), elapses(5*s + 501*ms), elapses(time.Minute)},
			want: []string{"1 a A in 2: 198.51.100.1@0s!: timed out"}},
		{name: "told by another packet's time", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(6*s, socketB, serverA, 1, "b.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s!: timed out"}},
		{name: "other timeout", config: DNSConfig{Timeout: s}, steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), elapses(1600 * ms)},
			want: []string{"1 a A in 2: 198.51.100.1@0s!: timed out"}},
		{name: "just in time", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(5*s, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s+5s: NOERROR by 198.51.100.1 after 5s"}},
		{name: "late, not told yet", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(5*s+ms, socketA, serverA, 1, "a."), elapses(6 * s)},
			want: []string{"1 a A in 2: 198.51.100.1@0s!: timed out", "late from 198.51.100.1 in 2: 1"}},
		{name: "late, told", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(30*s, socketA, serverA, 1, "a."), gets(30*s, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s!: timed out", "late from 198.51.100.1 in 2: 2"}},
		{name: "times that go back", steps: []dnsStep{asks(time.Minute, socketA, serverA, 1, "a."), asks(0, socketB, serverA, 2, "b."), gets(0, socketB, serverA, 2, "b."), elapses(time.Minute + 6*s)},
			want: []string{"2 b A in 2: 198.51.100.1@0s+0s: NOERROR by 198.51.100.1 after 0s", "1 a A in 2: 198.51.100.1@1m0s!: timed out"}},

		// Retries.
		{name: "same socket", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(5*s, socketA, serverA, 1, "a."), gets(5*s+2*ms, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@5s+2ms, 1 retries: NOERROR by 198.51.100.1 after 5.002s"}},
		{name: "same socket, next server", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(5*s, socketA, serverB, 1, "a."), gets(5*s+2*ms, socketA, serverB, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.2@5s+2ms, 1 retries: NOERROR by 198.51.100.2 after 5.002s"}},
		{name: "first server after all", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(5*s, socketA, serverB, 1, "a."), gets(5*s+2*ms, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s+5.002s 198.51.100.2@5s, 1 retries: NOERROR by 198.51.100.1 after 5.002s"}},
		{name: "all servers at once, twice", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a."), asks(0, socketA, serverB, 1, "a."), asks(ms, socketA, serverC, 1, "a."),
			asks(2500*ms, socketA, serverA, 1, "a."), asks(2500*ms, socketA, serverB, 1, "a."), asks(2500*ms, socketA, serverC, 1, "a."),
			gets(2600*ms, socketA, serverB, 1, "a."), gets(2700*ms, socketA, serverC, 1, "a."),
		}, want: []string{
			"1 a A in 2: 198.51.100.1@0s! 198.51.100.2@0s! 198.51.100.3@1ms! 198.51.100.1@2.5s 198.51.100.2@2.5s+100ms 198.51.100.3@2.5s, 1 retries: NOERROR by 198.51.100.2 after 2.6s",
		}},
		{name: "socket per server", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(20*ms, socketB, serverB, 1, "a."), gets(30*ms, socketB, serverB, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.2@20ms+10ms, 1 retries: NOERROR by 198.51.100.2 after 30ms"}},
		{name: "socket and ID per try", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(5*s+400*ms, socketB, serverA, 2, "a."), gets(5*s+500*ms, socketB, serverA, 2, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@5.4s+100ms, 1 retries: NOERROR by 198.51.100.1 after 5.5s"}},
		{name: "socket and ID per try, in vain", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(5*s, socketB, serverA, 2, "a."), elapses(10 * s), asks(10*s, socketC, serverB, 3, "a."), elapses(16 * s)},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@5s! 198.51.100.2@10s!, 2 retries: timed out"}},
		{name: "somebody else who wants to know", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(900*ms, socketB, serverA, 2, "a."), gets(950*ms, socketB, serverA, 2, "a."), gets(960*ms, socketA, serverA, 1, "a.")},
			want: []string{"2 a A in 2: 198.51.100.1@900ms+50ms: NOERROR by 198.51.100.1 after 50ms", "1 a A in 2: 198.51.100.1@0s+960ms: NOERROR by 198.51.100.1 after 960ms"}},
		{name: "both retry", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a."), asks(500*ms, socketB, serverA, 2, "a."), asks(5*s, socketC, serverA, 3, "a."), asks(5*s+400*ms, "192.0.2.10:40009", serverA, 4, "a."),
			gets(6*s, socketC, serverA, 3, "a."), gets(6*s, "192.0.2.10:40009", serverA, 4, "a."),
		}, want: []string{
			"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@5s+1s, 1 retries: NOERROR by 198.51.100.1 after 6s",
			"2 a A in 2: 198.51.100.1@500ms! 198.51.100.1@5.4s+600ms, 1 retries: NOERROR by 198.51.100.1 after 5.5s",
		}},
		{name: "too late for a retry", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(5*s+501*ms, socketB, serverA, 2, "a."), gets(5*s+510*ms, socketB, serverA, 2, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s!: timed out", "2 a A in 2: 198.51.100.1@5.501s+9ms: NOERROR by 198.51.100.1 after 9ms"}},
		{name: "same socket, at once", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), asks(9*ms, socketA, serverA, 1, "a."), gets(10*ms, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@9ms+1ms, 1 retries: NOERROR by 198.51.100.1 after 10ms"}},
		{name: "a resolver of the host's own that keeps the ID", steps: []dnsStep{
			asks(0, "127.0.0.1:40000", "127.0.0.53:53", 1, "a."), asks(0, socketA, serverA, 1, "a."), gets(ms, socketA, serverA, 1, "a."), gets(2*ms, "127.0.0.1:40000", "127.0.0.53:53", 1, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@0s+1ms: NOERROR by 198.51.100.1 after 1ms",
			"1 a A in 2: 127.0.0.53@0s+2ms: NOERROR by 127.0.0.53 after 2ms",
		}},
		{name: "other leg", steps: []dnsStep{asks(0, localSocket, embeddedAsked, 1, "a."), asks(2*s, socketA, serverA, 2, "a."), gets(3*s, socketA, serverA, 2, "a."), gets(3*s, localSocket, embeddedAnswer, 1, "a.")},
			want: []string{"2 a A in 2: 198.51.100.1@2s+1s: NOERROR by 198.51.100.1 after 1s", "1 a A in 2: 127.0.0.11@0s+3s: NOERROR by 127.0.0.11 after 3s"}},
		{name: "a resolver of the host's own", steps: []dnsStep{
			asks(0, "127.0.0.1:40000", "127.0.0.53:53", 1, "a."), asks(0, socketA, serverA, 2, "a."), asks(5*s, socketB, serverB, 3, "a."),
			gets(5100*ms, socketB, serverB, 3, "a."), gets(5*s, "127.0.0.1:40000", "127.0.0.53:53", 1, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@0s! 198.51.100.2@5s+100ms, 1 retries: NOERROR by 198.51.100.2 after 5.1s",
			"1 a A in 2: 127.0.0.53@0s+5s: NOERROR by 127.0.0.53 after 5s",
		}},
		{name: "again after an answer", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a."), gets(ms, socketA, serverA, 1, "a.").coded(dns.RcodeServerFailure),
			asks(2*ms, socketA, serverA, 1, "a."), gets(3*ms, socketA, serverA, 1, "a."),
		}, want: []string{
			"1 a A in 2: 198.51.100.1@0s+1ms: SERVFAIL by 198.51.100.1 after 1ms",
			"2 a A in 2: 198.51.100.1@2ms+1ms: NOERROR by 198.51.100.1 after 1ms",
		}},
		{name: "again and again", steps: slices.Concat(func() (steps []dnsStep) {
			for i := range 21 {
				steps = append(steps, asks(time.Duration(i)*3*s, socketA, serverA, 1, "a."))
			}
			return steps
		}(), []dnsStep{asks(63*s, socketA, serverA, 1, "a."), gets(63*s+ms, socketA, serverA, 1, "a.")}),
			want: []string{
				"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@3s! 198.51.100.1@6s! 198.51.100.1@9s! 198.51.100.1@12s! 198.51.100.1@15s! 198.51.100.1@18s! 198.51.100.1@21s!" +
					" 198.51.100.1@24s! 198.51.100.1@27s! 198.51.100.1@30s! 198.51.100.1@33s! 198.51.100.1@36s! 198.51.100.1@39s! 198.51.100.1@42s! 198.51.100.1@1m0s!, 21 messages, 20 retries: timed out",
				"2 a A in 2: 198.51.100.1@1m3s+1ms: NOERROR by 198.51.100.1 after 1ms",
			}},

		// What the engine asks others.
		{name: "forwarded", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a."), gets(5*ms, socketA, serverA, 7, "a."), gets(6*ms, localSocket, embeddedAnswer, 7, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@1ms+4ms, for 1 of 2: NOERROR by 198.51.100.1 after 4ms",
			"1 a A in 2: 127.0.0.11@0s+6ms, forwarded: NOERROR by 127.0.0.11 after 6ms",
		}},
		{name: "forwarded from the host's namespace", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a.").in(hostNetns), gets(5*ms, socketA, serverA, 7, "a.").in(hostNetns),
		}, want: []string{"2 a A in 1: 198.51.100.1@1ms+4ms, for 1 of 2: NOERROR by 198.51.100.1 after 4ms"}},
		{name: "not forwarded", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a.").in(otherNetns), asks(ms, socketA, serverA, 8, "a."),
			asks(ms, socketB, serverA, 7, "b."), asks(ms, socketC, serverA, 7, "a.").of(dns.TypeAAAA),
			gets(2*ms, socketA, serverA, 7, "a.").in(otherNetns), gets(2*ms, socketA, serverA, 8, "a."), gets(2*ms, socketB, serverA, 7, "b."),
			gets(2*ms, socketC, serverA, 7, "a.").of(dns.TypeAAAA),
		}, want: []string{
			"2 a A in 3: 198.51.100.1@1ms+1ms: NOERROR by 198.51.100.1 after 1ms",
			"3 a A in 2: 198.51.100.1@1ms+1ms: NOERROR by 198.51.100.1 after 1ms",
			"4 b A in 2: 198.51.100.1@1ms+1ms: NOERROR by 198.51.100.1 after 1ms",
			"5 a AAAA in 2: 198.51.100.1@1ms+1ms: NOERROR by 198.51.100.1 after 1ms",
		}},
		{name: "forwarded to the next server", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a."), asks(4*s, socketB, serverB, 7, "a."),
			gets(4*s+5*ms, socketB, serverB, 7, "a."), gets(4*s+6*ms, localSocket, embeddedAnswer, 7, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@1ms! 198.51.100.2@4s+5ms, 1 retries, for 1 of 2: NOERROR by 198.51.100.2 after 4.004s",
			"1 a A in 2: 127.0.0.11@0s+4.006s, forwarded: NOERROR by 127.0.0.11 after 4.006s",
		}},
		{name: "forwarded after the client has given up", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a."), asks(4*s, socketB, serverB, 7, "a."), asks(8*s, socketC, serverC, 7, "a."),
			gets(8*s+5*ms, socketC, serverC, 7, "a."), gets(8*s+6*ms, localSocket, embeddedAnswer, 7, "a."),
		}, want: []string{
			"1 a A in 2: 127.0.0.11@0s!, forwarded: timed out",
			"2 a A in 2: 198.51.100.1@1ms! 198.51.100.2@4s! 198.51.100.3@8s+5ms, 2 retries, for 1 of 2: NOERROR by 198.51.100.3 after 8.004s",
			"late from 127.0.0.11 in 2: 1",
		}},
		{name: "forwarded after another had the answer", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(0, socketA, serverA, 7, "a."), asks(2*s, localSocket, embeddedAsked, 7, "a."), asks(2*s, socketB, serverA, 7, "a."),
			asks(4*s, socketC, serverB, 7, "a."), gets(4*s+ms, socketC, serverB, 7, "a."), gets(4*s+2*ms, localSocket, embeddedAnswer, 7, "a."),
			asks(6*s, socketC, serverB, 7, "a."), gets(6*s+ms, socketC, serverB, 7, "a."),
			asks(20*s, socketC, serverB, 7, "b."), gets(20*s+ms, socketC, serverB, 7, "b."),
			asks(40*s, socketC, serverB, 7, "a."), gets(40*s+ms, socketC, serverB, 7, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@0s! 198.51.100.1@2s! 198.51.100.2@4s+1ms, 2 retries, for 1 of 2: NOERROR by 198.51.100.2 after 4.001s",
			"1 a A in 2: 127.0.0.11@0s! 127.0.0.11@2s+2.002s, 1 retries, forwarded: NOERROR by 127.0.0.11 after 4.002s",
			"3 a A in 2: 198.51.100.2@6s+1ms, for 1 of 2: NOERROR by 198.51.100.2 after 1ms",
			"4 b A in 2: 198.51.100.2@20s+1ms: NOERROR by 198.51.100.2 after 1ms",
			"5 a A in 2: 198.51.100.2@40s+1ms: NOERROR by 198.51.100.2 after 1ms",
		}},
		{name: "asked of another server by the client itself", steps: []dnsStep{
			asks(0, socketA, embeddedAsked, 7, "a."), asks(0, socketA, serverA, 7, "a."), gets(ms, socketA, serverA, 7, "a."), gets(2*ms, socketA, embeddedAnswer, 7, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@0s+1ms: NOERROR by 198.51.100.1 after 1ms",
			"1 a A in 2: 127.0.0.11@0s+2ms: NOERROR by 127.0.0.11 after 2ms",
		}},
		{name: "forwarded for a retry with another ID", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a."), asks(5*s, "127.0.0.1:40005", embeddedAsked, 8, "a."), asks(5*s+ms, socketB, serverA, 8, "a."),
			gets(5*s+5*ms, socketB, serverA, 8, "a."), gets(5*s+6*ms, "127.0.0.1:40005", embeddedAnswer, 8, "a."),
		}, want: []string{
			"2 a A in 2: 198.51.100.1@1ms! 198.51.100.1@5.001s+4ms, 1 retries, for 1 of 2: NOERROR by 198.51.100.1 after 5.004s",
			"1 a A in 2: 127.0.0.11@0s! 127.0.0.11@5s+6ms, 1 retries, forwarded: NOERROR by 127.0.0.11 after 5.006s",
		}},
		{name: "forwarded for two containers", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(0, socketA, serverA, 7, "a.").in(hostNetns),
			asks(2*s, localSocket, embeddedAsked, 8, "a.").in(otherNetns), asks(2*s, socketB, serverA, 8, "a.").in(hostNetns),
			gets(3*s, socketA, serverA, 7, "a.").in(hostNetns), gets(3*s, socketB, serverA, 8, "a.").in(hostNetns),
		}, want: []string{
			"2 a A in 1: 198.51.100.1@0s+3s, for 1 of 2: NOERROR by 198.51.100.1 after 3s",
			"4 a A in 1: 198.51.100.1@2s+1s, for 3 of 3: NOERROR by 198.51.100.1 after 1s",
		}},
		{name: "forwarded for two containers of one ID, one after the other", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(0, socketA, serverA, 7, "a.").in(hostNetns),
			asks(2*s, localSocket, embeddedAsked, 7, "a.").in(otherNetns), asks(2*s, socketB, serverA, 7, "a.").in(hostNetns),
			gets(3*s, socketA, serverA, 7, "a.").in(hostNetns), gets(3*s, socketB, serverA, 7, "a.").in(hostNetns),
		}, want: []string{
			"2 a A in 1: 198.51.100.1@0s+3s, for 1 of 2: NOERROR by 198.51.100.1 after 3s",
			"4 a A in 1: 198.51.100.1@2s+1s, for 3 of 3: NOERROR by 198.51.100.1 after 1s",
		}},
		{name: "forwarded for two containers of one ID", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(0, localSocket, embeddedAsked, 7, "a.").in(otherNetns),
			asks(0, socketA, serverA, 7, "a.").in(hostNetns), asks(0, socketB, serverA, 7, "a.").in(hostNetns), asks(ms, socketC, serverA, 7, "a."),
			gets(s, socketA, serverA, 7, "a.").in(hostNetns), gets(s, socketB, serverA, 7, "a.").in(hostNetns), gets(s, socketC, serverA, 7, "a."),
		}, want: []string{
			"3 a A in 1: 198.51.100.1@0s+1s, for 2 of 3: NOERROR by 198.51.100.1 after 1s",
			"4 a A in 1: 198.51.100.1@0s+1s, for 1 of 2: NOERROR by 198.51.100.1 after 1s",
			"5 a A in 2: 198.51.100.1@1ms+999ms, for 1 of 2: NOERROR by 198.51.100.1 after 999ms",
		}},

		{name: "odd messages to one that forwards", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a."), asks(ms, socketB, serverA, 8, "b."),
			gets(s, socketA, serverA, 9, "a."), gets(s, socketA, serverA, 7, "b."), gets(s, socketA, serverA, 7, "").bytes(1, 2, 3),
			gets(s, socketB, serverA, 9, "b."), gets(s, socketB, serverA, 8, "a."), gets(s, socketB, serverA, 7, "").bytes(1, 2, 3),
			gets(s, socketA, serverA, 7, "a.").in(otherNetns),
			gets(5*s+2*ms, socketA, serverA, 7, "a."), gets(30*s, socketA, serverA, 7, "a."),
		}, want: []string{
			"1 a A in 2: 127.0.0.11@0s!, forwarded: timed out",
			"2 a A in 2: 198.51.100.1@1ms!, for 1 of 2: timed out", "3 b A in 2: 198.51.100.1@1ms!: timed out",
			"unasked from 198.51.100.1 in 2, forwarded: 1", "other_question from 198.51.100.1 in 2, forwarded: 1", "malformed_response from 198.51.100.1 in 2, forwarded: 1",
			"unasked from 198.51.100.1 in 2: 1", "other_question from 198.51.100.1 in 2: 1", "malformed_response from 198.51.100.1 in 2: 1",
			"unasked from 198.51.100.1 in 3: 1",
			"late from 198.51.100.1 in 2, forwarded: 2",
		}},
		{name: "the same, from the host's namespace, of a second try", steps: []dnsStep{
			asks(0, localSocket, embeddedAsked, 7, "a."), asks(ms, socketA, serverA, 7, "a.").in(hostNetns), asks(4*s, socketB, serverB, 7, "a.").in(hostNetns),
			gets(4*s+ms, socketB, serverB, 9, "a.").in(hostNetns), gets(4*s+2*ms, socketA, serverA, 9, "a.").in(hostNetns),
			gets(5*s, socketB, serverB, 7, "a.").in(hostNetns), gets(6*s, socketB, serverB, 7, "a.").in(hostNetns),
		}, want: []string{
			"2 a A in 1: 198.51.100.1@1ms! 198.51.100.2@4s+1s, 1 retries, for 1 of 2: NOERROR by 198.51.100.2 after 4.999s",
			"1 a A in 2: 127.0.0.11@0s!, forwarded: timed out",
			"unasked from 198.51.100.2 in 1, forwarded: 1", "unasked from 198.51.100.1 in 1, forwarded: 1", "late from 198.51.100.2 in 1, forwarded: 1",
		}},

		// Groups.
		{name: "groups", steps: []dnsStep{
			asks(0, "192.0.2.10:5353", "224.0.0.251:5353", 0, "p.local.").classed(1 | mdnsUnicast), asks(0, "192.0.2.10:40000", "224.0.0.252:5355", 9, "p."),
			asks(s, "192.0.2.10:5353", "224.0.0.251:5353", 0, "p.local.").turned(), // an answer
			gets(s, "192.0.2.10:5353", "192.0.2.99:5353", 0, "p.local."), gets(s, "192.0.2.10:40000", "192.0.2.99:5355", 9, "p."),
			gets(s, "192.0.2.10:5353", "192.0.2.99:5353", 0, "p.local.").turned(), // a question
			gets(s, "192.0.2.10:5353", "192.0.2.99:5353", 0, "").bytes(1, 2, 3),
		}, want: []string{"1 p.local A in 2: 224.0.0.251@0s: unawaited", "2 p A in 2: 224.0.0.252@0s: unawaited", "malformed_response from 192.0.2.99 in 2: 1"}},
		{name: "the embedded resolver's port may be any", steps: []dnsStep{asks(0, localSocket, "127.0.0.11:5353", 1, "a."), gets(ms, localSocket, embeddedAnswer, 1, "a.")},
			want: []string{"1 a A in 2: 127.0.0.11@0s+1ms: NOERROR by 127.0.0.11 after 1ms"}},

		// Oddities.
		{name: "unasked", steps: []dnsStep{
			gets(0, socketA, serverA, 1, "a."), asks(s, socketA, serverA, 1, "a."), gets(s, socketA, serverA, 2, "a."), gets(s, socketA, serverB, 1, "a."),
			gets(s, socketB, serverA, 1, "a."), gets(s, socketA, serverA, 1, "a.").in(otherNetns), gets(2*s, socketA, serverA, 1, "a."),
		}, want: []string{
			"1 a A in 2: 198.51.100.1@1s+1s: NOERROR by 198.51.100.1 after 1s",
			"unasked from 198.51.100.1 in 2: 3", "unasked from 198.51.100.2 in 2: 1", "unasked from 198.51.100.1 in 3: 1",
		}},
		{name: "other question", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(ms, socketA, serverA, 1, "b."), gets(2*ms, socketA, serverA, 1, "a.").of(dns.TypeAAAA), gets(3*ms, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s+3ms: NOERROR by 198.51.100.1 after 3ms", "other_question from 198.51.100.1 in 2: 2"}},
		{name: "another answer", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(ms, socketA, serverA, 1, "a."), gets(2*ms, socketA, serverA, 1, "a.")},
			want: []string{"1 a A in 2: 198.51.100.1@0s+1ms: NOERROR by 198.51.100.1 after 1ms", "late from 198.51.100.1 in 2: 1"}},
		{name: "malformed", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a.").bytes(0, 1, 1, 0, 0, 1), asks(0, socketA, serverA, 1, "a.").unasking(), asks(0, socketA, serverA, 1, "a.").turned(),
			asks(0, socketA, serverA, 1, "a.").purpose(9), asks(0, socketA, serverA, 1, "a.").bytes([]byte{}...),
			gets(0, socketA, serverA, 1, "a.").bytes(0, 1, 1, 0, 0, 1), gets(0, socketA, serverA, 1, "a.").turned(), gets(0, socketA, serverA, 1, "a.").purpose(9),
		}, want: []string{"malformed_query from 198.51.100.1 in 2: 5", "malformed_response from 198.51.100.1 in 2: 3"}},
		{name: "broken records", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), gets(ms, socketA, serverA, 1, "a.").bytes(append(dnsWireWith(1, 1), "\x01a\x00\x00\x01\x00\x01\xff"...)...)},
			want: []string{"1 a A in 2: 198.51.100.1@0s+1ms: NOERROR by 198.51.100.1 after 1ms", "malformed_response from 198.51.100.1 in 2: 1"}},
		{name: "no lookup", steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a.").purpose(dns.OpcodeUpdate), gets(0, socketA, serverA, 1, "a.").purpose(dns.OpcodeUpdate), asks(0, socketA, serverA, 1, "a.").purpose(dns.OpcodeNotify),
			elapses(time.Minute),
		}},

		// Losses.
		{name: "answer lost", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), loses(s), loses(-s), asks(2*s, socketB, serverA, 2, "b."), elapses(time.Minute)},
			want:   []string{"1 a A in 2: 198.51.100.1@0s: unknown", "2 b A in 2: 198.51.100.1@2s!: timed out"},
			losses: []Loss{{"answer_unknown", 1}}},
		{name: "lost, and asked again", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), loses(s), asks(5*s, socketA, serverA, 1, "a."), elapses(time.Minute)},
			want: []string{"1 a A in 2: 198.51.100.1@0s! 198.51.100.1@5s!, 1 retries: timed out"}},
		{name: "question lost", steps: []dnsStep{loses(0), gets(s, socketA, serverA, 1, "a."), gets(6*s, socketA, serverA, 1, "a.")},
			want:   []string{"unasked from 198.51.100.1 in 2: 1"},
			losses: []Loss{{"unmatched", 1}}},
		{name: "answer not lost, but late", steps: []dnsStep{asks(0, socketA, serverA, 1, "a."), loses(s), elapses(6 * s), gets(7*s, socketA, serverA, 1, "a.")},
			want:   []string{"1 a A in 2: 198.51.100.1@0s: unknown"},
			losses: []Loss{{"answer_unknown", 1}, {"unmatched", 1}}},
		{name: "question cut", steps: []dnsStep{asks(0, socketA, serverA, 1, "a.").without(2), asks(0, socketA, serverA, 1, "a.").without(8)},
			losses: []Loss{{"cut", 2}}},
		{name: "many questions of one ID", steps: slices.Concat(func() (steps []dnsStep) {
			for i := range dnsQuestionLimit + 1 {
				steps = append(steps, asks(0, socketA, serverA, 1, string(rune('a'+i))))
			}
			return steps
		}(), []dnsStep{gets(ms, socketA, serverA, 1, "i")}),
			want: []string{"1 a A in 2: 198.51.100.1@0s: unknown", "9 i A in 2: 198.51.100.1@0s+1ms: NOERROR by 198.51.100.1 after 1ms"}, losses: []Loss{{"not_awaited", 1}}},
		{name: "more than there is room for", config: DNSConfig{Pending: 2}, steps: []dnsStep{
			asks(0, socketA, serverA, 1, "a."), asks(ms, socketA, serverA, 2, "b."), asks(2*ms, socketA, serverA, 3, "c."),
			gets(3*ms, socketA, serverA, 1, "a."), gets(3*ms, socketA, serverA, 2, "b."), gets(3*ms, socketA, serverA, 3, "c."),
		}, want: []string{
			"1 a A in 2: 198.51.100.1@0s: unknown",
			"2 b A in 2: 198.51.100.1@1ms+2ms: NOERROR by 198.51.100.1 after 2ms",
			"3 c A in 2: 198.51.100.1@2ms+1ms: NOERROR by 198.51.100.1 after 1ms",
		}, losses: []Loss{{"not_awaited", 1}, {"unmatched", 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracker := newDNSTracker(tc.config, hostNetns)
			for _, step := range tc.steps {
				step.step(t, tracker)
			}
			if diff := cmp.Diff(tc.want, tellDNS(tracker.take())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.want, tellDNS(tracker.take())); diff == "" && tc.want != nil {
				t.Error("told twice")
			}
			if diff := cmp.Diff(tc.losses, lossesOf(tracker), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("losses (-want +got):\n%s", diff)
			}
		})
	}
}

// dnsWireWith is the header of an answer with some questions and records.
func dnsWireWith(questions, records byte) []byte {
	return []byte{0, 1, 0x81, 0x80, 0, questions, 0, records, 0, 0, 0, 0}
}

// lossesOf are those that there are.
func lossesOf(t *dnsTracker) []Loss {
	return slices.DeleteFunc(t.losses(), func(l Loss) bool { return l.Count == 0 })
}

// What is told of an answer is not overwritten by the next.
func TestDNSTrackerAnswers(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	want := map[string]DNSAnswer{}
	for i, name := range []string{"a", "b"} {
		question, answer := dnsPair(uint16(i), name, 2+i)
		answer.Answer[0].(*dns.A).A[3] = byte(100 + i)
		for _, m := range []*dns.Msg{question, answer} {
			step := asks(0, socketA, serverA, 0, name)
			step.message, step.outgoing = m, !m.Response
			step.step(t, tracker)
		}
		m, _ := readDNS(dnsWire(t, answer), len(dnsWire(t, answer)))
		want[name] = m.answer
	}
	got := map[string]DNSAnswer{}
	for _, l := range tracker.take().Lookups {
		got[l.Question.Name] = l.Answer
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A lookup that is asked of ever more servers is several.
func TestDNSTrackerManyServers(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	for i := range 3 * dnsTryLimit / 2 {
		step := asks(0, socketA, fmt.Sprintf("198.51.100.%d:53", i), 1, "a")
		step.step(t, tracker)
	}
	checkDNSBounds(t, tracker)
	last := gets(time.Millisecond, socketA, serverA, 1, "a")
	last.step(t, tracker)
	tracker.advance(dnsEpoch().Add(time.Minute))
	var messages []int
	for _, l := range tracker.take().Lookups {
		messages = append(messages, l.Messages)
	}
	if diff := cmp.Diff([]int{dnsTryLimit, dnsTryLimit / 2}, messages); diff != "" {
		t.Errorf("messages of each (-want +got):\n%s", diff)
	}
}

// A server whose try is told no more may answer all the same.
func TestDNSTrackerManyTries(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	for i := range dnsTryLimit + 1 {
		step := asks(time.Duration(i)*time.Second, socketA, []string{serverA, serverB}[i%2], 1, "a")
		step.step(t, tracker)
	}
	answer := gets(time.Duration(dnsTryLimit)*time.Second, socketA, serverB, 1, "a")
	answer.step(t, tracker)
	l := tracker.take().Lookups[0]
	if last := l.Tries[dnsTryLimit-1]; l.Server.String() != serverB || last.Server.String() != serverA || !last.Answer.IsZero() {
		t.Errorf("%s answers, and is told as %v", l.Server, last)
	}
}

// Whoever pretends to be many servers in many namespaces is counted, and takes no more memory than a bound.
func TestDNSOdditiesAreBounded(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	const servers, namespaces = 3000, 2 * dnsOddLimit
	for i := range servers {
		step := gets(0, socketA, fmt.Sprintf("198.51.%d.%d:53", i/256, i%256), 1, "a")
		step.step(t, tracker)
	}
	for i := range namespaces {
		step := gets(0, socketA, serverA, 1, "a").in(Netns(100 + i))
		step.step(t, tracker)
	}
	checkDNSBounds(t, tracker)
	var named, total uint64
	for _, odd := range tracker.take().Odd {
		total += odd.Count
		if odd.Server.IsValid() {
			named += odd.Count
		}
	}
	if named != dnsOddLimit || total != servers+namespaces {
		t.Errorf("%d of %d are told with their server", named, total)
	}
	if again := tracker.take().Odd; again != nil {
		t.Errorf("told twice: %v", again)
	}
}

// What was needed for a flood is given back.
func TestDNSTrackerShrinks(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	for i := range dnsTablesKept + 1 {
		step := asks(0, socketA, serverA, uint16(i), "a")
		step.step(t, tracker)
	}
	if tracker.most != dnsTablesKept+1 {
		t.Errorf("%d have waited", tracker.most)
	}
	tracker.advance(dnsEpoch().Add(time.Minute))
	if told := len(tracker.take().Lookups); told != dnsTablesKept+1 || tracker.most != 0 {
		t.Errorf("%d are told of, and the tables are for %d", told, tracker.most)
	}
}

// Who finds its way itself, from server to server, says so.
func TestDNSTrackerRecursion(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	for i, desired := range []bool{true, false} {
		step := asks(0, socketA, serverA, uint16(i), "a.")
		step.message.RecursionDesired = desired
		step.step(t, tracker)
		answer := gets(time.Millisecond, socketA, serverA, uint16(i), "a.")
		answer.step(t, tracker)
		if told := tracker.take().Lookups; len(told) != 1 || told[0].RecursionDesired != desired {
			t.Errorf("recursion is desired: %v, got %+v", desired, told)
		}
	}
}

// News that nobody reads take so much memory and no more. What does not fit is counted.
func TestDNSTrackerUnread(t *testing.T) {
	tracker := newDNSTracker(DNSConfig{}, hostNetns)
	step := asks(0, socketA, "224.0.0.251:5353", 1, strings.Repeat(strings.Repeat("\\200", 60)+".", 4))
	wire := dnsWire(t, step.message)
	const sent = 50_000
	for i := range sent {
		tracker.packet(step.packet(wire, len(wire)))
		if i == 100 && tracker.crowded() {
			t.Error("it should be read soon after 100 lookups")
		}
	}
	if !tracker.crowded() {
		t.Error("it need not be read soon")
	}
	told := tracker.take().Lookups
	memory := 0
	for i := range told {
		memory += told[i].memory()
	}
	if memory > dnsNewsLimit || memory < dnsNewsLimit*9/10 {
		t.Errorf("%d lookups take %d bytes", len(told), memory)
	}
	if diff := cmp.Diff([]Loss{{"unread", uint64(sent - len(told))}}, lossesOf(tracker)); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	if tracker.packet(step.packet(wire, len(wire))); len(tracker.take().Lookups) != 1 || tracker.crowded() {
		t.Error("after it was read there is no room")
	}
}
