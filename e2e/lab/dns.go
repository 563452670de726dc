// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Programs in the lab's image that look names up with getaddrinfo. See e2e/resolve.
const (
	Musl = "resolve-musl"
	GNU  = "resolve-gnu"
)

// DNSLookup is a lookup as its client saw it.
type DNSLookup struct {
	Name     string
	Type     string
	ID       uint16
	Client   netip.AddrPort
	Protocol string // udp or tcp
	Tries    int
	Asked    time.Time
	// Seconds is how long it took, zero without an answer if the client is the traffic program's own.
	Seconds   float64
	Answered  bool
	RCode     string
	Truncated bool
	Addresses []netip.Addr
	Error     string
}

// Duration is how long it took.
func (l DNSLookup) Duration() time.Duration { return time.Duration(l.Seconds * float64(time.Second)) }

// DNSMessage is a question that has come to a server.
type DNSMessage struct {
	Time     time.Time
	Client   netip.AddrPort
	ID       uint16
	Name     string // in lower case, without the dot at its end
	Type     string
	Protocol string // udp or tcp
}

// DNSServer is a server that answers as the first label of a name says. See e2e/traffic.
type DNSServer struct {
	// End kills the server.
	End func()
	log string
}

// ServeDNS starts a server at addresses of a place, until the test ends, and waits until it listens. Flags are those of the
// traffic program's dns-serve.
func (p Place) ServeDNS(tb testing.TB, at []netip.Addr, flags ...string) *DNSServer {
	tb.Helper()
	s := &DNSServer{log: filepath.Join(tempDir(tb), "log")}
	args := []string{"dns-serve", "--log", s.log}
	for _, addr := range at {
		args = append(args, "--listen", netip.AddrPortFrom(addr, 53).String())
	}
	s.End = p.Start(tb, append(args, flags...)...)
	for _, addr := range at {
		Eventually(tb, 10*time.Second, "a DNS server at "+addr.String(), func() bool {
			return p.Run(tb, "ss", "-H", "-a", "-n", "-u", "src", netip.AddrPortFrom(addr, 53).String()) != ""
		})
	}
	return s
}

// Asked returns what has come to the server, in order.
func (s *DNSServer) Asked(tb testing.TB) []DNSMessage {
	tb.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		tb.Fatalf("read log of DNS server: %v", err)
	}
	var all []DNSMessage
	for line := range strings.Lines(string(text)) {
		var m DNSMessage
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			tb.Fatalf("read log of DNS server: %q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// NameServer makes an address the machine's name server, as engines that are started after that see it, until the test ends.
func NameServer(tb testing.TB, addr netip.Addr) {
	tb.Helper()
	file := filepath.Join(tempDir(tb), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+addr.String()+"\n"), 0o644); err != nil {
		tb.Fatal(err)
	}
	run(tb, "mount", "--bind", file, "/etc/resolv.conf")
	tb.Cleanup(func() { run(tb, "umount", "/etc/resolv.conf") })
}

// With is the container as a place for another of the image's programs than the traffic program.
func (c *Container) With(program string) Place {
	return Place{NetNS: c.NetNS, exec: c.engine.command("exec", c.Name, program)}
}

// libraries are the files that a program loads when it starts.
func libraries(tb testing.TB, program string) []string {
	tb.Helper()
	var files []string
	for _, field := range strings.Fields(run(tb, "ldd", program)) {
		if strings.HasPrefix(field, "/") {
			files = append(files, field)
		}
	}
	return files
}
