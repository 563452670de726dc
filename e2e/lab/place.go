// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Place is somewhere in the lab with a network stack of its own, or the part of one that a container sees.
type Place struct {
	// NetNS is the path of the network namespace.
	NetNS string
	// exec is what runs a program as a process of the place.
	exec []string
}

// Host is the lab host itself.
func Host(tb testing.TB) Place {
	return namespacePlace(tb, "/run/netns/host")
}

// Outside is the world beyond the host's uplink.
func Outside(tb testing.TB) Place {
	return namespacePlace(tb, "/run/netns/outside")
}

// NewNamespace makes a network namespace with nothing in it but a loopback device, until the test ends.
func NewNamespace(tb testing.TB, name string) Place {
	tb.Helper()
	run(tb, "ip", "netns", "add", name)
	tb.Cleanup(func() { run(tb, "ip", "netns", "delete", name) })
	run(tb, "ip", "-n", name, "link", "set", "lo", "up")
	return namespacePlace(tb, "/run/netns/"+name)
}

func namespacePlace(tb testing.TB, path string) Place {
	tb.Helper()
	return Place{NetNS: path, exec: []string{"nsenter", "--net=" + path, program(tb, "traffic")}}
}

// Run runs one of the machine's own tools in the place's network namespace and returns its output.
func (p Place) Run(tb testing.TB, command ...string) string {
	tb.Helper()
	return run(tb, append([]string{"nsenter", "--net=" + p.NetNS}, command...)...)
}

// Report is what the traffic program says that it did.
type Report struct {
	Sent   int            // datagrams given to the kernel, or connections established
	Bytes  int64          // payload bytes of a stream
	Errors map[string]int // failed system calls by symbol
	// Seconds is how long it took to send that.
	Seconds float64

	// Answered counts DNS lookups that were answered.
	Answered int
	// Strays counts messages on a socket shared by all lookups that answer none of them.
	Strays int
	// Lookups are the DNS lookups, in order.
	Lookups []DNSLookup

	// Exchanged are the connections that a mirror answered on.
	Exchanged []Exchange

	// Transmitted is what the devices of the sender's namespace had sent, but for loopback.
	Transmitted Counted
}

// Exchange is what both ends of a connection say of who opened it: the one who did, and the one who answered.
type Exchange struct{ Local, Seen netip.AddrPort }

// Kept tells whether the client's address reaches the server.
func (e Exchange) Kept() bool { return e.Local.Addr() == e.Seen.Addr() }

// Counted are packets and their bytes, Ethernet header included.
type Counted struct{ Packets, Bytes uint64 }

// Traffic runs the traffic program in the place until it is done.
func (p Place) Traffic(tb testing.TB, args ...string) Report {
	tb.Helper()
	return parseReport(tb, run(tb, append(p.exec[:len(p.exec):len(p.exec)], args...)...))
}

// Begin is Traffic that goes on beside the test, which waits for it and its report by what Begin returns.
func (p Place) Begin(tb testing.TB, args ...string) (wait func() Report) {
	tb.Helper()
	cmd := exec.Command(p.exec[0], append(p.exec[1:len(p.exec):len(p.exec)], args...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %q: %v", cmd.Args, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tb.Cleanup(func() { _ = cmd.Process.Kill() })
	return func() Report {
		tb.Helper()
		if err := <-ended; err != nil {
			tb.Fatalf("%q: %v", cmd.Args, err)
		}
		return parseReport(tb, out.String())
	}
}

func parseReport(tb testing.TB, text string) Report {
	tb.Helper()
	var r Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		tb.Fatalf("read report of traffic %q: %v", text, err)
	}
	return r
}

// Serve runs the traffic program in the place until the test ends, and waits until it listens on the port.
func (p Place) Serve(tb testing.TB, command string, port uint16, flags ...string) {
	tb.Helper()
	p.Start(tb, append([]string{command, strconv.Itoa(int(port))}, flags...)...)
	p.awaitListener(tb, port)
}

// Start runs the traffic program in the place until the test ends, or until it is told to end it.
func (p Place) Start(tb testing.TB, args ...string) (end func()) {
	tb.Helper()
	args = append(p.exec[:len(p.exec):len(p.exec)], args...)
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %q: %v", args, err)
	}
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	tb.Cleanup(end)
	return end
}

// awaitListener waits until a socket of the place's namespace is bound to the port.
func (p Place) awaitListener(tb testing.TB, port uint16) {
	tb.Helper()
	Eventually(tb, 10*time.Second, "a listener on port "+strconv.Itoa(int(port)), func() bool {
		return strings.TrimSpace(p.Run(tb, "ss", "-H", "-a", "-n", "-t", "-u", "sport", "=", ":"+strconv.Itoa(int(port)))) != ""
	})
}

// EndListener kills whoever listens on a TCP port of the place.
func (p Place) EndListener(tb testing.TB, port uint16) {
	tb.Helper()
	listeners := func() string {
		return p.Run(tb, "ss", "-H", "-l", "-n", "-t", "-p", "sport", "=", ":"+strconv.Itoa(int(port)))
	}
	found := listenerPID.FindAllStringSubmatch(listeners(), -1)
	if len(found) == 0 {
		tb.Fatalf("nobody listens on port %d", port)
	}
	for _, match := range found {
		run(tb, "kill", match[1])
	}
	Eventually(tb, 10*time.Second, "the listeners' end", func() bool { return listeners() == "" })
}

// listenerPID is how ss names a process.
var listenerPID = regexp.MustCompile(`\bpid=(\d+)`)

// Datagrams is a counted number of UDP packets.
type Datagrams struct {
	To          netip.AddrPort
	From        netip.Addr // the route's, if not set
	Count       int
	Size        int // payload bytes; 64 if 0
	TTL         int // the system's default if 0
	BadChecksum bool
	Whole       bool          // never fragmented
	Interval    time.Duration // between one and the next
}

// Args returns the traffic program's arguments that send d.
func (d Datagrams) Args() []string {
	args := []string{"udp-send", "--to", d.To.String(), "--count", strconv.Itoa(d.Count)}
	if d.Size > 0 {
		args = append(args, "--size", strconv.Itoa(d.Size))
	}
	if d.TTL > 0 {
		args = append(args, "--ttl", strconv.Itoa(d.TTL))
	}
	if d.From.IsValid() {
		args = append(args, "--from", d.From.String())
	}
	if d.BadChecksum {
		args = append(args, "--bad-checksum")
	}
	if d.Interval > 0 {
		args = append(args, "--interval", d.Interval.String())
	}
	if d.Whole {
		args = append(args, "--whole")
	}
	return args
}

// Send sends the datagrams from the place and returns how many the kernel took.
func (p Place) Send(tb testing.TB, d Datagrams) uint64 {
	tb.Helper()
	r := p.Traffic(tb, d.Args()...)
	if r.Sent != d.Count {
		tb.Fatalf("sent %d of %d datagrams to %s: %v", r.Sent, d.Count, d.To, r.Errors)
	}
	return uint64(r.Sent)
}

// Connect attempts count TCP connections at once, without ever repeating a SYN.
func (p Place) Connect(tb testing.TB, to netip.AddrPort, count int) Report {
	tb.Helper()
	return p.Traffic(tb, "tcp-connect", "--to", to.String(), "--count", strconv.Itoa(count))
}

// Eventually waits until the condition holds, or fails the test.
func Eventually(tb testing.TB, within time.Duration, what string, condition func() bool) {
	tb.Helper()
	for end := time.Now().Add(within); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited %s for %s", within, what)
		}
	}
}

// run runs a command and returns its standard output.
func run(tb testing.TB, command ...string) string {
	tb.Helper()
	out, err := try(command...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// try runs a command; its error holds what the command said.
func try(command ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &commandError{command, err, stderr.String() + stdout.String()}
	}
	return stdout.String(), nil
}

type commandError struct {
	command []string
	err     error
	output  string
}

func (e *commandError) Error() string {
	return strings.Join(e.command, " ") + ": " + e.err.Error() + ": " + strings.TrimSpace(e.output)
}

func (e *commandError) Unwrap() error { return e.err }
