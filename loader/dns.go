// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// embeddedResolver is the address at which the engine answers containers on networks of their own.
var embeddedResolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// DNSOutcome is how a lookup ended.
type DNSOutcome uint8

// The outcomes.
const (
	DNSAnswered  DNSOutcome = iota
	DNSTimedOut             // nothing came within the timeout after it was last asked
	DNSUnknown              // nothing was seen to come, but records were lost meanwhile
	DNSUnawaited            // a question to a group (mDNS, LLMNR), which anybody or nobody answers
)

// DNSGroup says which protocol a message is of.
type DNSGroup uint8

// The protocols: they share the format, not the way in which they ask.
const (
	DNSUnicast DNSGroup = iota
	MulticastDNS
	LLMNR
)

// DNSQuestion is what is asked. Of a message with several questions, the first.
type DNSQuestion struct {
	Name  string // in lower case, without the dot at its end; "." is the root. Bytes that are not printable ASCII, and dots and backslashes inside of a label, as \DDD
	Type  uint16
	Class uint16
}

// DNSTry is a message that asks.
type DNSTry struct {
	Server netip.AddrPort // as the socket sends to it: of the embedded resolver the port is one of its own
	Asked  time.Time
	Answer time.Time // zero: none was seen
	// GaveUp says that the client asked again, or the timeout passed, without an answer.
	GaveUp bool
}

// DNSAnswer is what a lookup's answer says.
type DNSAnswer struct {
	RCode     uint16 // with the upper bits that EDNS has
	Truncated bool
	Records   int          // in the answer section, as its header has it
	Addresses []netip.Addr // of A and AAAA records, 16 at most
}

// DNSLookup is a question of one client, with all messages that ask it, and what came of it.
type DNSLookup struct {
	Serial   uint64 // numbers the lookups of this agent from 1 on, in the order in which they were first asked
	Netns    Netns  // of the client's socket
	Protocol uint8  // unix.IPPROTO_UDP or IPPROTO_TCP
	Group    DNSGroup
	Client   netip.AddrPort // of the last try
	ID       uint16         // likewise
	Question DNSQuestion
	// RecursionDesired says that the client wants an answer. Who does not is a resolver itself, which finds its way from server to
	// server, some of which are always dead.
	RecursionDesired bool

	Tries    []DNSTry // in order, at least one, 16 at most: of more the first and the last are kept
	Messages int      // that asked it: more than Tries if those were too many
	Retries  int      // how often it was asked again; asking several servers at once is asking once
	Outcome  DNSOutcome
	Server   netip.AddrPort // who answered, or was asked last
	Answered time.Time      // zero: not
	Answer   DNSAnswer

	Forwarded bool // the engine, which was asked, has asked somebody else for it
	// ForwardOf is the Serial of the lookup at the embedded resolver that the engine asks this one for; 0: of none.
	// AskedFor is that one's namespace: this one's own, or another, if the engine asks from the host's.
	ForwardOf uint64
	AskedFor  Netns
}

// Asked is when it was first asked.
func (l *DNSLookup) Asked() time.Time { return l.Tries[0].Asked }

// Duration is how long it took from the first question to the answer; 0 without one.
func (l *DNSLookup) Duration() time.Duration {
	if l.Answered.IsZero() {
		return 0
	}
	return l.Answered.Sub(l.Asked())
}

// Embedded tells whether the engine's resolver is asked.
func (l *DNSLookup) Embedded() bool { return l.Server.Addr() == embeddedResolver }

// DNSOddity is a sort of message that is not as it should be, and ends no lookup.
type DNSOddity string

// The oddities.
const (
	DNSMalformedQuery    DNSOddity = "malformed_query"
	DNSMalformedResponse DNSOddity = "malformed_response" // one of which only the records cannot be read ends its lookup all the same
	DNSLate              DNSOddity = "late"               // the answer to a lookup that has timed out, or a second one from the same server
	DNSUnasked           DNSOddity = "unasked"            // nobody has asked, or with another ID
	DNSOtherQuestion     DNSOddity = "other_question"     // the ID is right and the question is not
)

// DNSOdd counts such messages.
type DNSOdd struct {
	Netns  Netns
	Server netip.Addr // who is asked, or answers; of more than 1,024 between two readings, the others together are of none
	Group  DNSGroup
	Oddity DNSOddity
	// Forwarded says that it has come to a socket by which the engine has asked for a lookup at the embedded resolver.
	Forwarded bool
	Count     uint64
}

// DNSNews is what became of lookups since the last [DNS.Read].
type DNSNews struct {
	// Lookups are those that have ended, each once in its life, in the order of their ends: at once when an answer comes, at
	// the first Read that is more than the timeout and half a second after they were last asked if none does. What the engine
	// asks others for one of them is its own lookup, and may come before or after it.
	Lookups []DNSLookup
	Odd     []DNSOdd
}

// DNSConfig says how lookups are watched.
type DNSConfig struct {
	Timeout  time.Duration // after which a lookup counts as unanswered; 0: 5 s
	RingSize uint32        // bytes between kernel and user space, a power of two; 0: 4 MiB
	Pending  int           // lookups that are waited for at a time; 0: 65,536
}

const (
	// dnsPeriod is how often the ring is looked at, unless much of it is full before: what an answer's news may be late.
	dnsPeriod = 50 * time.Millisecond
	// dnsReadLimit is how many packets are taken at once, while Read has to wait.
	dnsReadLimit = 1 << 15
)

// DNS tells of lookups by the messages that sockets of this host send and receive, in all namespaces. Its methods may be
// called concurrently.
type DNS struct {
	program *dnsProgram

	due chan struct{} // see Due

	mu      sync.Mutex
	tracker *dnsTracker
	lost    uint64 // packets, by now
	failed  error  // what Run has met first since the last Read
}

// OpenDNS loads the programs and attaches them to the root of cgroup v2, beside those of others. The calling thread's network
// namespace is taken for the host's. Needs 5.10, BTF, CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; CAP_SYS_ADMIN where cgroup v2 is
// not mounted, and CAP_DAC_READ_SEARCH in a cgroup namespace of its own.
func OpenDNS(config DNSConfig) (*DNS, error) {
	program, err := openDNSProgram(config.RingSize)
	if err != nil {
		return nil, err
	}
	return &DNS{program: program, due: make(chan struct{}, 1), tracker: newDNSTracker(config, OwnNetns())}, nil
}

// Run takes packets out of the kernel's ring, before it is full, and makes lookups of them, until ctx ends. There must be but
// one. It goes on after an error, which the next Read returns.
func (d *DNS) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.program.wait(time.Now().Add(dnsPeriod))
		d.mu.Lock()
		if err := errors.Join(err, d.gather()); d.failed == nil {
			d.failed = err
		}
		d.mu.Unlock()
		if err != nil { // which wait has not waited for
			time.Sleep(dnsPeriod)
		}
	}
}

// gather has the tracker know what is in the ring: mu is held.
func (d *DNS) gather() error {
	now := time.Now()
	if err := d.noteLosses(now); err != nil {
		return err
	}
	last := now
	all, err := d.program.read(dnsReadLimit, func(p *dnsPacket) {
		last = p.at
		d.tracker.packet(p)
	})
	if err != nil {
		return err
	}
	if !all {
		now = last
	}
	d.tracker.advance(now)
	if d.tracker.crowded() {
		select {
		case d.due <- struct{}{}:
		default: // whoever should read knows
		}
	}
	return nil
}

// Due receives when so much has been found that it should be read soon: a flood of lookups takes memory.
func (d *DNS) Due() <-chan struct{} { return d.due }

// noteLosses tells the tracker if the ring was full since it was last asked: before it gets what came behind the lost.
func (d *DNS) noteLosses(now time.Time) error {
	lost, err := d.program.ringFull()
	if err != nil {
		return err
	}
	if lost != d.lost {
		d.tracker.lost(now)
	}
	d.lost = lost
	return nil
}

// Read returns what Run has found since the last Read, and the first error that it met. What comes with an error is good.
func (d *DNS) Read() (DNSNews, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.failed
	d.failed = nil
	return d.tracker.take(), err
}

// Losses says what was missed since the start: packets that found the ring full (ring_full), datagrams behind the first of
// several that were sent as one for the kernel to cut apart (segmented), and what the tracker had no room for.
func (d *DNS) Losses() ([]Loss, error) {
	losses, err := d.program.losses()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(losses, d.tracker.losses()...), nil
}

// Costs says what the programs have cost, while the kernel measured them.
func (d *DNS) Costs() ([]ProgramCost, error) { return d.program.costs() }

// Usage says how much the tracker remembers.
func (d *DNS) Usage() []MapUsage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tracker.usage()
}

// Close detaches the programs. A Run must have ended. What was not read is lost.
func (d *DNS) Close() error { return d.program.Close() }
