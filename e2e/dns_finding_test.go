// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// dnsTrouble is something wrong with lookups. play makes it, and returns what must be found.
type dnsTrouble struct {
	name string
	play func(s troubleStage) []lab.Finding
}

// troubleStage is a stage with a network of its own, and servers that have one behaviour each.
type troubleStage struct {
	stage
	behaving map[string]netip.Addr
	hosts    *lab.DNSServer // the host's, as its resolv.conf says
	old      *lab.Container // on a network called old, since the test began
}

// outsideServer has all behaviours.
var outsideServer = lab.OutsideAddress

func dnsTroubles() []dnsTrouble {
	return []dnsTrouble{
		{"servfail", servfail},
		{"misnamed", namesOnDefaultBridge},
		{"elsewhere", nameOfOtherNetwork},
		{"search", searchDomains},
		{"silent", silentServer},
		{"killed", killedServer},
		{"collision", collidingAliases},
		{"stale", staleAnswer},
		{"overload", refusingResolver},
		{"flushed", flushedNAT},
		{"sealed", sealedNetwork},
		{"truncated", cutAnswers},
		{"rejoin", unknownToEngine}, // last: it takes somebody who has run for a minute
	}
}

// TestDNSFindings makes all that can be wrong with lookups, one after the other, and waits until it is over.
func TestDNSFindings(t *testing.T) {
	lab.NameServer(t, hostServer)
	engine := lab.StartEngine(t)
	outside := lab.Outside(t)
	hosts := lab.Host(t).ServeDNS(t, []netip.Addr{hostServer})
	outside.ServeDNS(t, []netip.Addr{outsideServer})
	behaving := map[string]netip.Addr{}
	for i, b := range []string{"nx", "never", "big"} {
		addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i)})
		outside.Run(t, "ip", "address", "add", addr.String(), "dev", "lo")
		outside.ServeDNS(t, []netip.Addr{addr}, "--always="+b, "--udp-only")
		behaving[b] = addr
	}
	old := stage{t, engine, lab.Host(t), outside, "", lab.IPv4, "old"}.own("10.90.0.0/24").run("web")
	begun := time.Now()

	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	found := lab.WatchFindings(t, agent)
	var want []lab.Finding
	for i, trouble := range dnsTroubles() {
		s := troubleStage{stage{t, engine, lab.Host(t), outside, "", lab.IPv4, trouble.name}, behaving, hosts, old}
		s.stage = s.own(fmt.Sprintf("10.91.%d.0/24", i))
		if trouble.name == "rejoin" {
			time.Sleep(time.Until(begun.Add(time.Minute + time.Second)))
		}
		want = append(want, trouble.play(s)...)
	}
	missing := func() []lab.Finding {
		seen := found.Seen()
		return slices.DeleteFunc(slices.Clone(want), func(w lab.Finding) bool { _, raised := seen[w]; return raised })
	}
	for end := time.Now().Add(appears); time.Now().Before(end) && len(missing()) > 0; {
		time.Sleep(time.Second)
	}
	for _, f := range missing() {
		t.Errorf("not found: %+v", f)
	}
	lab.Eventually(t, clears, "all findings to clear", func() bool { return len(found.Standing()) == 0 })
	for f := range found.Seen() {
		if !slices.Contains(want, f) {
			t.Errorf("a finding that nobody made: %+v", f)
		}
	}
}

// found is what must be found of a container, on the stage's network.
func (s troubleStage) found(id, severity string, c *lab.Container) []lab.Finding {
	return []lab.Finding{{ID: id, Severity: severity, Container: c.Name, Network: s.network, Scope: "container"}}
}

// client starts a container on the stage's network, for which the engine asks a server.
func (s troubleStage) client(server netip.Addr, options ...string) *lab.Container {
	s.Helper()
	return s.engine.Run(s, s.name, append([]string{"--network", s.network, "--dns", server.String()}, options...))
}

func servfail(s troubleStage) []lab.Finding {
	c := s.client(outsideServer)
	c.Traffic(s, "dns-ask", "servfail-#.test", "--count=20")
	return s.found("servfail", "warning", c)
}

func namesOnDefaultBridge(s troubleStage) []lab.Finding {
	c := s.engine.Run(s, s.name, []string{"--dns", s.behaving["nx"].String()})
	c.Traffic(s, "dns-ask", s.old.Name, server53(s.behaving["nx"]), "--count=5")
	s.network = "bridge"
	return s.found("nxdomain-wrong-name", "warning", c)
}

func nameOfOtherNetwork(s troubleStage) []lab.Finding {
	c := s.client(s.behaving["nx"])
	c.Traffic(s, "dns-ask", s.old.Name, "--count=5")
	return s.found("other-network", "warning", c)
}

// searchDomains are tried for every name, and the server knows none in them.
func searchDomains(s troubleStage) []lab.Finding {
	c := s.client(outsideServer, "--dns-search=one.search", "--dns-search=two.search", "--dns-opt=ndots:3")
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("bare-%d.test", i))
	}
	c.With(lab.Musl).Traffic(s, names...)
	return s.found("ndots-search", "info", c)
}

func silentServer(s troubleStage) []lab.Finding {
	c := s.client(s.behaving["never"])
	c.Traffic(s, "dns-ask", "a-#.test", "--count=6", "--rate=1", "--patience=1s")
	return s.found("upstream-blocked", "critical", c)
}

// killedServer has answered until it is killed.
func killedServer(s troubleStage) []lab.Finding {
	addr := netip.MustParseAddr("198.51.100.20")
	s.ip(s.outside, "address", "add", addr.String(), "dev", "lo")
	server := s.outside.ServeDNS(s, []netip.Addr{addr})
	c := s.client(addr)
	if r := c.Traffic(s, "dns-ask", "ok-#.test", "--count=5"); r.Answered != 5 {
		s.Errorf("%d of 5 lookups were answered: %v", r.Answered, r.Errors)
	}
	server.End()
	c.Traffic(s, "dns-ask", "ok-again-#.test", "--count=6", "--rate=1", "--patience=1s")
	return s.found("upstream-blocked", "critical", c)
}

// collidingAliases are those of two projects on one network.
func collidingAliases(s troubleStage) []lab.Finding {
	for _, project := range []string{"blue", "green"} {
		s.engine.Run(s, s.name+"-"+project, []string{
			"--network", s.network, "--network-alias", "db",
			"--label", "com.docker.compose.project=" + project, "--label", "com.docker.compose.service=db",
		})
	}
	c := s.client(outsideServer)
	c.Traffic(s, "dns-ask", "db", "--count=5")
	return []lab.Finding{{ID: "alias-collision", Severity: "warning", Network: s.network, Scope: "host"}}
}

// staleAnswer has a client go on with an address after its owner has got another.
func staleAnswer(s troubleStage) []lab.Finding {
	options := []string{"--network", s.network, "--network-alias", "db"}
	owner := s.engine.Start(s, s.name+"-db", options)
	was := s.at(owner)
	c := s.client(outsideServer)
	c.Traffic(s, "dns-ask", "db")
	s.engine.Run(s, s.name+"-db-again", options) // before the other goes, so that it cannot get its address
	owner.Remove(s)
	c.Start(s, lab.Datagrams{To: was, Count: 300, Interval: 100 * time.Millisecond}.Args()...)
	return append(s.found("stale-record", "warning", c), s.found("dead-endpoint", "warning", c)...)
}

// resolverInstead has a server in a container answer what is meant for the engine's resolver, at the same address.
func (s troubleStage) resolverInstead(c *lab.Container, behaviour string) {
	const port = "5300"
	c.Start(s, "dns-serve", "--log=/log", "--listen=127.0.0.11:"+port, "--udp-only", "--always="+behaviour)
	lab.Eventually(s, patience, "the resolver", func() bool {
		return c.Run(s, "ss", "-H", "-a", "-n", "-u", "src", "127.0.0.11:"+port) != ""
	})
	c.AddRule(s, lab.IPv4, "nat", "OUTPUT", "-d", "127.0.0.11", "-p", "udp", "--dport", "53", "-j", "DNAT", "--to-destination", "127.0.0.11:"+port)
	c.AddRule(s, lab.IPv4, "nat", "POSTROUTING", "-s", "127.0.0.11", "-p", "udp", "--sport", port, "-j", "SNAT", "--to-source", ":53")
}

// refusingResolver stands for that of newer engines when it has more than 1,024 at a time. That of 20.10 says nothing.
func refusingResolver(s troubleStage) []lab.Finding {
	c := s.client(outsideServer)
	s.resolverInstead(c, "refused")
	c.Traffic(s, "dns-ask", "ok-#.test", "--count=20")
	return s.found("resolver-overload", "warning", c)
}

func flushedNAT(s troubleStage) []lab.Finding {
	c := s.client(outsideServer)
	c.Run(s, "iptables", "-t", "nat", "-F")
	c.Traffic(s, "dns-ask", "ok-#.test", "--count=10", "--together", "--patience=100ms")
	s.network = "" // the packets leave by none
	return s.found("resolver-nat-lost", "critical", c)
}

// sealedNetwork is sealed, but for the engine's resolver up to 25.0.4, which asks the host's server. Newer ones refuse to: their
// container asks for names outside in vain.
func sealedNetwork(s troubleStage) []lab.Finding {
	s.network = s.engine.Network(s, s.name+"-internal", "--internal", "--subnet", "10.92.0.0/24")
	c := s.engine.Run(s, s.name, []string{"--network", s.network})
	code, came, found := "SERVFAIL", 0, s.found("internal-net", "info", c)
	if s.engine.Major(s) < 25 {
		code, came, found = "NOERROR", 10, s.found("internal-net-dns", "warning", c)
	}
	before := len(s.hosts.Asked(s))
	r := c.Traffic(s, "dns-ask", "ok-#.test", "--count=10")
	for _, l := range r.Lookups {
		if l.RCode != code {
			s.Errorf("the answer for %s is %q %s, want %s", l.Name, l.RCode, l.Error, code)
		}
	}
	if got := len(s.hosts.Asked(s)) - before; got != came || len(r.Lookups) != 10 {
		s.Errorf("%d of %d lookups on an internal network have come to the host's server, want %d of 10", got, len(r.Lookups), came)
	}
	return found
}

func cutAnswers(s troubleStage) []lab.Finding {
	c := s.client(s.behaving["big"])
	c.Traffic(s, "dns-ask", "a-#.test", "--count=5")
	c.Traffic(s, "dns-ask", "a-#.test", "--count=5", "--protocol=tcp", "--patience=1s")
	return s.found("truncation", "warning", c)
}

// unknownToEngine stands for an engine that has lost names, which none does that is asked to. The name is that of somebody who
// has run for a while.
func unknownToEngine(s troubleStage) []lab.Finding {
	c := s.client(outsideServer)
	s.engine.Docker(s, "network", "connect", "old", c.Name)
	s.resolverInstead(c, "nx")
	c.Traffic(s, "dns-ask", s.old.Name, "--count=12", "--rate=1")
	s.network = "" // it is on two
	return s.found("nxdomain-after-rejoin", "critical", c)
}
