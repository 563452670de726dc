// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// dnsServe is a DNS server that does what it is asked for: the first label of a name, up to its first hyphen, is the name of
// a behaviour. Of names that are none, it knows all.
type dnsServe struct {
	Log    string           `required:"" help:"File for a line of JSON on each message that comes."`
	Listen []netip.AddrPort `default:"0.0.0.0:53,[::]:53" help:"Where to listen."`
	UDP    bool             `name:"udp-only" help:"Do not listen on TCP."`
	Always string           `help:"The behaviour for all names."`
}

// asked is a message that came to the server.
type asked struct {
	Time     time.Time      `json:"time"`
	Client   netip.AddrPort `json:"client"`
	ID       uint16         `json:"id"`
	Name     string         `json:"name"` // in lower case, without the dot at its end
	Type     string         `json:"type"`
	Protocol string         `json:"protocol"` // tcp or udp
}

const (
	slowAnswer = 2 * time.Second
	lateAnswer = 7 * time.Second // nobody waits that long
)

// Run ends only when its process is killed, or a socket cannot be opened.
func (c dnsServe) Run() error {
	file, err := os.Create(c.Log)
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer file.Close()
	s := dnsServer{always: c.Always, log: json.NewEncoder(file), known: map[dns.Question]bool{}}
	protocols := []string{"tcp", "udp"} // who waits for the UDP port finds both
	if c.UDP {
		protocols = protocols[1:]
	}
	failed := make(chan error)
	for _, protocol := range protocols {
		for _, at := range c.Listen {
			family := "4"
			if at.Addr().Is6() {
				family = "6"
			}
			server := &dns.Server{Net: protocol + family, Addr: at.String(), Handler: &s, MaxTCPQueries: -1}
			listening := make(chan struct{})
			server.NotifyStartedFunc = func() { close(listening) }
			go func() { failed <- server.ListenAndServe() }()
			select {
			case <-listening:
			case err := <-failed:
				return fmt.Errorf("listen on %s: %w", at, err)
			}
		}
	}
	return <-failed
}

// dnsServer answers messages.
type dnsServer struct {
	always string
	mu     sync.Mutex // guards what follows
	log    *json.Encoder
	known  map[dns.Question]bool // that were asked before, of the behaviour for which that matters
}

// ServeDNS is called by a goroutine for each datagram, and by one for each connection.
func (s *dnsServer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	question := query.Question[0]
	protocol := w.RemoteAddr().Network()
	s.note(asked{
		time.Now(), addrPortOf(w.RemoteAddr()), query.Id,
		strings.ToLower(strings.TrimSuffix(question.Name, ".")), dns.TypeToString[question.Qtype], protocol,
	})
	behaviour := s.always
	if behaviour == "" {
		behaviour, _, _ = strings.Cut(strings.ToLower(question.Name), ".")
		behaviour, _, _ = strings.Cut(behaviour, "-")
	}

	answer := new(dns.Msg).SetReply(query)
	answer.RecursionAvailable = true
	if query.IsEdns0() != nil {
		answer.SetEdns0(1232, false)
	}
	switch behaviour {
	case "nx":
		answer.Rcode = dns.RcodeNameError
	case "bare":
		if strings.HasSuffix(question.Name, ".search.") {
			answer.Rcode = dns.RcodeNameError
		} else {
			answer.Answer = records(question, 1)
		}
	case "servfail":
		answer.Rcode = dns.RcodeServerFailure
	case "refused":
		answer.Rcode = dns.RcodeRefused
	case "never":
		return
	case "second":
		if s.isNew(question) {
			return
		}
		answer.Answer = records(question, 1)
	case "slow":
		time.Sleep(slowAnswer)
		answer.Answer = records(question, 1)
	case "late":
		time.Sleep(lateAnswer)
		answer.Answer = records(question, 1)
	case "big":
		if protocol == "udp" {
			answer.Truncated = true
		} else {
			answer.Answer = records(question, 100)
		}
	case "wrongid":
		answer.Id ^= 1 << 15
		answer.Answer = records(question, 1)
	case "garbage":
		_, _ = w.Write(append([]byte{byte(query.Id >> 8), byte(query.Id)}, strings.Repeat("\xff", 40)...))
		return
	case "other":
		answer.Question[0].Name = "elsewhere.example."
		answer.Answer = records(answer.Question[0], 1)
	default:
		answer.Answer = records(question, 1)
	}
	_ = w.WriteMsg(answer) // who asked may be gone
}

// isNew tells whether the question was not asked before.
func (s *dnsServer) isNew(question dns.Question) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known[question]
	s.known[question] = true
	return !known
}

func (s *dnsServer) note(message asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.log.Encode(message); err != nil {
		panic(err) // the log is the truth
	}
}

// records are count answers to the question, none if it is for a type that names do not have here.
func records(question dns.Question, count int) []dns.RR {
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: 60}
	var all []dns.RR
	for i := range count {
		last := byte(i + 1)
		switch question.Qtype {
		case dns.TypeA:
			all = append(all, &dns.A{Hdr: header, A: net.IPv4(203, 0, 113, last)})
		case dns.TypeAAAA:
			addr := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 3, 15: last})
			all = append(all, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		case dns.TypeTXT:
			all = append(all, &dns.TXT{Hdr: header, Txt: []string{strings.Repeat("x", 200)}})
		}
	}
	return all
}

// addrPortOf is an address as it is on the wire: an IPv6 socket does not say so of IPv4.
func addrPortOf(addr net.Addr) netip.AddrPort {
	at := netip.MustParseAddrPort(addr.String())
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
