// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// dnsAsk is a DNS client that does exactly what it is told: no search list, no cache, no idea of its own of when to ask again.
type dnsAsk struct {
	Name     string         `arg:"" help:"What to ask for. A # in it becomes the number of the lookup."`
	Server   netip.AddrPort `default:"127.0.0.11:53" help:"Whom to ask."`
	Types    []string       `default:"A" name:"type" help:"Types to ask for, each lookup for the next of them."`
	Count    int            `default:"1" help:"How many lookups."`
	Rate     int            `help:"Lookups per second, whether or not the ones before are answered. 0: each waits for the one before."`
	Together bool           `help:"Make all lookups at once."`
	Protocol string         `default:"udp" enum:"tcp,udp" help:"tcp: on a connection for each lookup."`
	OneConn  bool           `name:"one-connection" help:"Make all lookups on one connection."`
	Split    bool           `help:"Send each message in several segments."`
	EDNS     uint16         `name:"edns" help:"Offer to take answers of that many bytes."`
	Tries    int            `default:"1" help:"How often to ask for what is not answered, with the same ID from the same port."`
	Patience time.Duration  `default:"6s" help:"How long to wait for the answer to each try."`
	FirstID  uint16         `default:"1" help:"ID of the first lookup. Each has the next one."`
}

// lookedUp is one lookup, as its client saw it.
type lookedUp struct {
	Name     string         `json:"name"`
	Type     string         `json:"type,omitempty"`
	ID       uint16         `json:"id,omitempty"`
	Client   netip.AddrPort `json:"client,omitzero"`
	Protocol string         `json:"protocol,omitempty"`
	Tries    int            `json:"tries,omitempty"`
	// Asked is when, and Seconds how long it took to be answered, by a message with the same ID.
	Asked     time.Time    `json:"asked"`
	Seconds   float64      `json:"seconds"`
	Answered  bool         `json:"answered"`
	RCode     string       `json:"rcode,omitempty"`
	Truncated bool         `json:"truncated,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Error     string       `json:"error,omitempty"`
}

// Run reports how many lookups were answered, and how.
func (c dnsAsk) Run() error {
	var shared *dnsConn
	if c.Protocol == "udp" || c.OneConn {
		var err error
		if shared, err = c.dial(); err != nil {
			return err
		}
		defer shared.Close()
	}
	all := make([]lookedUp, c.Count)
	var waiting sync.WaitGroup
	begun := time.Now()
	for i := range c.Count {
		waiting.Go(func() { all[i] = c.lookUp(shared, i) })
		switch {
		case c.Rate > 0:
			time.Sleep(time.Until(begun.Add(time.Duration(i+1) * time.Second / time.Duration(c.Rate))))
		case !c.Together:
			waiting.Wait()
		}
	}
	waiting.Wait()
	r := report{Errors: map[string]int{}, Lookups: all}
	for _, l := range all {
		r.Sent += l.Tries
		if l.Answered {
			r.Answered++
		}
		if l.Error != "" {
			r.Errors[l.Error]++
		}
	}
	if shared != nil {
		shared.mu.Lock()
		r.Strays = shared.strays
		shared.mu.Unlock()
	}
	return r.print()
}

// lookUp makes one lookup, on a connection of its own if there is none.
func (c dnsAsk) lookUp(conn *dnsConn, number int) lookedUp {
	l := lookedUp{
		Name: strings.ReplaceAll(c.Name, "#", strconv.Itoa(number+1)), Type: c.Types[number%len(c.Types)],
		ID: c.FirstID + uint16(number), Protocol: c.Protocol, Asked: time.Now(),
	}
	if conn == nil {
		var err error
		if conn, err = c.dial(); err != nil {
			l.Error = errorName(err)
			return l
		}
		defer conn.Close()
	}
	l.Client = addrPortOf(conn.LocalAddr())
	query := new(dns.Msg).SetQuestion(dns.Fqdn(l.Name), dns.StringToType[l.Type])
	query.Id = l.ID
	if c.EDNS > 0 {
		query.SetEdns0(c.EDNS, false)
	}
	message, err := query.Pack()
	if err != nil {
		l.Error = err.Error()
		return l
	}
	answered := conn.expect(l.ID)
	for l.Tries < c.Tries {
		at, err := conn.send(message)
		l.Tries++
		if l.Tries == 1 {
			l.Asked = at
		}
		if err != nil {
			l.Error = errorName(err)
		}
		select {
		case got := <-answered:
			l.note(got)
			return l
		case <-time.After(c.Patience):
		}
	}
	return l
}

// note takes down what a message with the ID says. It need not be an answer.
func (l *lookedUp) note(got received) {
	answer := new(dns.Msg)
	if err := answer.Unpack(got.message); err != nil {
		l.Error = "malformed"
		return
	}
	if len(answer.Question) == 0 {
		l.Error = "malformed"
		return
	}
	if !strings.EqualFold(answer.Question[0].Name, dns.Fqdn(l.Name)) {
		l.Error = "other question"
		return
	}
	l.Answered, l.Seconds, l.Error = true, got.at.Sub(l.Asked).Seconds(), ""
	l.RCode, l.Truncated = dns.RcodeToString[answer.Rcode], answer.Truncated
	for _, record := range answer.Answer {
		var addr netip.Addr
		switch record := record.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(record.A.To4())
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(record.AAAA)
		default:
			continue
		}
		l.Addresses = append(l.Addresses, addr)
	}
}

// dnsConn is a socket with many lookups on it.
type dnsConn struct {
	net.Conn
	stream, split bool

	mu      sync.Mutex // guards what follows, and that messages do not mix
	waiting map[uint16]chan received
	strays  int // messages that nobody waited for
}

// received is an answer and when it came.
type received struct {
	message []byte
	at      time.Time
}

func (c dnsAsk) dial() (*dnsConn, error) {
	conn, err := net.DialTimeout(c.Protocol, c.Server.String(), c.Patience)
	if err != nil {
		return nil, err
	}
	d := &dnsConn{Conn: conn, stream: c.Protocol == "tcp", split: c.Split, waiting: map[uint16]chan received{}}
	go d.receive()
	return d, nil
}

// expect returns where the next answer with the ID goes.
func (d *dnsConn) expect(id uint16) <-chan received {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting[id] = make(chan received, 1)
	return d.waiting[id]
}

// send sends a message and returns when it began to; split, the two bytes of its length, three more, and the rest come apart.
func (d *dnsConn) send(message []byte) (time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := time.Now()
	if !d.stream {
		_, err := d.Write(message)
		for tries := 0; errors.Is(err, unix.ECONNREFUSED) && tries < 10; tries++ { // which is about one before, and this is not sent
			_, err = d.Write(message)
		}
		return at, err
	}
	message = append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
	if d.split {
		for _, end := range []int{1, 1, 3} { // of what is left
			if _, err := d.Write(message[:end]); err != nil {
				return at, err
			}
			message = message[end:]
			time.Sleep(5 * time.Millisecond)
		}
	}
	_, err := d.Write(message)
	return at, err
}

// receive hands answers out until the socket is closed.
func (d *dnsConn) receive() {
	buffer := make([]byte, 65536)
	for {
		n, err := d.read(buffer)
		at := time.Now()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || d.stream && err != nil {
			return
		}
		if err != nil || n < 2 {
			continue // a datagram that was refused
		}
		id := binary.BigEndian.Uint16(buffer)
		d.mu.Lock()
		waiting := d.waiting[id]
		delete(d.waiting, id)
		if waiting == nil {
			d.strays++
		}
		d.mu.Unlock()
		if waiting != nil {
			waiting <- received{bytes.Clone(buffer[:n]), at}
		}
	}
}

// read reads one message.
func (d *dnsConn) read(buffer []byte) (int, error) {
	if !d.stream {
		return d.Read(buffer)
	}
	var length [2]byte
	if _, err := io.ReadFull(d, length[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(d, buffer[:binary.BigEndian.Uint16(length[:])])
}
