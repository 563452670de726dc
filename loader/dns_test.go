// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func mustOpenDNS(tb testing.TB, config DNSConfig) *DNS {
	tb.Helper()
	liftMemoryLimit(tb)
	signal, err := OpenDNS(config)
	if err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, signal) })
	return signal
}

// runDNS runs it until the test ends, or stop is called.
func runDNS(tb testing.TB, signal *DNS) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		signal.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	tb.Cleanup(stop)
	return stop
}

// awaitLookups returns the lookups of a namespace as soon as there are so many.
func awaitLookups(tb testing.TB, signal *DNS, of Netns, count int) (lookups []DNSLookup) {
	tb.Helper()
	eventually(tb, "lookups are told", func() bool {
		news, err := signal.Read()
		if err != nil {
			tb.Fatal(err)
		}
		for _, l := range news.Lookups {
			if l.Netns == of {
				lookups = append(lookups, l)
			}
		}
		return len(lookups) >= count
	})
	return lookups
}

// From the socket to the lookup.
func TestDNS(t *testing.T) {
	const count = 100
	lab := newDNSLab(t)
	to := netip.AddrPortFrom(world4, portDNS)
	var server *net.UDPConn
	lab.server.do(t, func() { server = mustListenUDP(t, to.String()) })
	signal := mustOpenDNS(t, DNSConfig{})
	runDNS(t, signal)
	var client net.Conn
	lab.client.do(t, func() { client = dialUDP(t, to) })
	took := make([]time.Duration, count)
	for i := range took {
		message := dnsQuery(uint16(1000+i), "name.example.", dns.TypeA)
		question, answer := dnsWire(t, message), dnsWire(t, dnsReply(message, dns.RcodeNameError))
		begun := time.Now()
		mustWrite(t, client, question)
		mustGet(t, server, question)
		if _, err := server.WriteToUDPAddrPort(answer, local(client)); err != nil {
			t.Fatal(err)
		}
		mustGet(t, client, answer)
		took[i] = time.Since(begun)
	}
	lookups := awaitLookups(t, signal, lab.client.netns(t), count)
	if len(lookups) != count {
		t.Fatalf("told of %d lookups, want %d", len(lookups), count)
	}
	for i, l := range lookups {
		if l.Outcome != DNSAnswered || l.ID != uint16(1000+i) || l.Question.Name != "name.example" || l.Client != local(client) ||
			l.Server != to || l.Protocol != unix.IPPROTO_UDP || l.Answer.RCode != dns.RcodeNameError || l.Retries != 0 {
			t.Errorf("%+v", l)
		}
		if l.Duration() <= 0 || l.Duration() > took[i] {
			t.Errorf("took %v, the client has measured %v", l.Duration(), took[i])
		}
	}
	if costs, err := signal.Costs(); err != nil || len(costs) != 2 {
		t.Errorf("costs %+v, %v", costs, err)
	}
	if usage := signal.Usage(); len(usage) == 0 {
		t.Error("no usage")
	}
}

// Answers that come in few long segments are all known, wherever in them they begin.
func TestDNSPipelined(t *testing.T) {
	const count = 70
	lab := newDNSLab(t)
	var questions, answers []byte
	for i := range count {
		question, answer := dnsPair(uint16(i), fmt.Sprintf("name%d.example", i), 50+5*i)
		questions, answers = append(questions, framedDNS(t, question)...), append(answers, framedDNS(t, answer)...)
	}
	to := netip.AddrPortFrom(world4, portDNS)
	lab.server.do(t, func() { answerTCP(t, to, len(questions), answers) })
	signal := mustOpenDNS(t, DNSConfig{})
	runDNS(t, signal)
	for range 5 {
		lab.client.do(t, func() { askTCP(t, to, questions, len(answers)) })
		for _, l := range awaitLookups(t, signal, lab.client.netns(t), count) {
			if l.Outcome != DNSAnswered || l.Answer.Records != 50+5*int(l.ID) {
				t.Errorf("told %s, with %d records", tellLookup(&l), l.Answer.Records)
			}
		}
	}
	if lost := lossesAt(t, signal.Losses, "stream_broken"); lost != 0 {
		t.Errorf("%d streams could not be followed", lost)
	}
}

func TestDNSTimesOut(t *testing.T) {
	client := newNamespace(t)
	signal := mustOpenDNS(t, DNSConfig{Timeout: 100 * time.Millisecond})
	runDNS(t, signal)
	client.do(t, func() { _ = mustListenUDP(t, "127.0.0.1:53") }) // which never answers
	var conn net.Conn
	client.do(t, func() { conn = dialUDP(t, netip.MustParseAddrPort("127.0.0.1:53")) })
	mustWrite(t, conn, dnsWire(t, dnsQuery(7, "name.example.", dns.TypeA)))
	lookups := awaitLookups(t, signal, client.netns(t), 1)
	if len(lookups) != 1 || lookups[0].Outcome != DNSTimedOut || lookups[0].Server.Port() != portDNS {
		t.Errorf("%+v", lookups)
	}
}

// An answer may have been among what the ring had no room for.
func TestDNSDoesNotKnowAfterLosses(t *testing.T) {
	const count = 1000
	client := newNamespace(t)
	signal := mustOpenDNS(t, DNSConfig{Timeout: 100 * time.Millisecond, RingSize: 4096})
	var conn net.Conn
	client.do(t, func() {
		_ = mustListenUDP(t, "127.0.0.1:53")
		conn = dialUDP(t, netip.MustParseAddrPort("127.0.0.1:53"))
	})
	for i := range count {
		mustWrite(t, conn, dnsWire(t, dnsQuery(uint16(i), "name.example.", dns.TypeA)))
	}
	lost := lossesAt(t, signal.Losses, "ring_full")
	if lost == 0 || lost >= count {
		t.Fatalf("the ring had no room for %d of %d", lost, count)
	}
	runDNS(t, signal)
	for _, l := range awaitLookups(t, signal, client.netns(t), count-int(lost)) {
		if l.Outcome != DNSUnknown {
			t.Errorf("%+v", l)
		}
	}
	// What is asked afterwards has its answer, or it has none.
	mustWrite(t, conn, dnsWire(t, dnsQuery(count, "name.example.", dns.TypeA)))
	if lookups := awaitLookups(t, signal, client.netns(t), 1); lookups[0].Outcome != DNSTimedOut {
		t.Errorf("%+v", lookups[0])
	}
}

func TestDNSTellsErrors(t *testing.T) {
	signal := mustOpenDNS(t, DNSConfig{})
	if err := signal.program.reader.Close(); err != nil {
		t.Fatal(err)
	}
	runDNS(t, signal)
	var err error
	eventually(t, "Read returns an error", func() bool {
		_, err = signal.Read()
		return err != nil
	})
	if !strings.Contains(err.Error(), "read ring of dns packets") {
		t.Error(err)
	}
}

func TestOpenDNS(t *testing.T) {
	if signal, err := OpenDNS(DNSConfig{RingSize: 5000}); err == nil {
		mustClose(t, signal)
		t.Error("a ring may have 5000 bytes")
	}
	signal := mustOpenDNS(t, DNSConfig{})
	stop := runDNS(t, signal)
	stop()
	for _, place := range []string{"ring_full", "segmented"} {
		lossesAt(t, signal.Losses, place)
	}
}
