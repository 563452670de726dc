// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// stateCase makes a state of the host that is a finding without any packet being dropped, until the test that it plays
// in ends. It returns whom the findings concern.
type stateCase struct {
	name string
	play func(s stage) []lab.Finding
}

// settles is how long some states must last before they count: a container that is being made is not wrong yet, and the table
// of tracked connections is read every half minute.
const settles = time.Minute

// TestStateFindings makes all states at once, under one agent, and then undoes them.
func TestStateFindings(t *testing.T) {
	engine := lab.StartEngine(t, "--host=tcp://192.0.2.2:2375", "--tls=false")
	agent := lab.StartAgent(t, engine, "--findings.hold="+hold.String(), "--findings.unused-after=1s")
	found := lab.WatchFindings(t, agent)

	var want []lab.Finding
	t.Run("while they hold", func(t *testing.T) {
		for _, c := range stateCases() {
			want = append(want, c.play(stage{t, engine, lab.Host(t), lab.Outside(t), "", lab.IPv4, c.name})...)
		}
		want = append(want, lab.Finding{ID: "daemon-tcp-open", Severity: "critical", Scope: "host"})
		slices.SortFunc(want, compareFindings)
		var standing []lab.Finding
		for end := time.Now().Add(settles); time.Now().Before(end) && !cmp.Equal(want, standing); time.Sleep(time.Second) {
			standing = found.Standing()
			slices.SortFunc(standing, compareFindings)
		}
		if diff := cmp.Diff(want, standing); diff != "" {
			t.Errorf("what is found is not what is wrong (-want +got):\n%s", diff)
		}
		code, stdout, stderr := lab.Command(t, engine, "doctor", "--api.socket="+agent.Socket)
		t.Logf("doctor, which ended with %d:\n%s%s", code, stdout, stderr)
		if code != 1 {
			t.Errorf("doctor ended with %d, want 1", code)
		}
	})
	lab.Eventually(t, clears, "all findings but that of the engine itself to clear", func() bool {
		return len(found.Standing()) == 1
	})
	for f := range found.Seen() {
		if !slices.Contains(want, f) && f.ID != "unused-network" { // what a network is between its last container's end and its own
			t.Errorf("a finding that no case made: %+v", f)
		}
	}
}

func compareFindings(a, b lab.Finding) int {
	return slices.Compare([]string{a.ID, a.Container, a.Network, a.Scope}, []string{b.ID, b.Container, b.Network, b.Scope})
}

func stateCases() []stateCase {
	return []stateCase{
		{"icc-bypass", iccBypass},
		{"unnatted", unnatted},
		{"mtu-mismatch", mtuMismatch},
		{"accept-overflow", acceptOverflow},
		{"ipv6-proxy", ipv6Proxy},
		{"userland-proxy", userlandProxy},
		{"loopback-exposed", loopbackExposed},
		{"unused", unusedNetwork},
		{"link", legacyLink},
		{"same-mac", sameMAC},
		{"same-ip", sameIP},
		{"same-ip-lan", sameIPOnLAN},
		{"router-lost", routerLost},
		{"bridge-full", bridgeFull},
		{"overlap", routeOverlap},
		{"leftovers", leftovers},
		{"broad-masquerade", masqueradeInbound},
		{"shared-address", sharedAddress},
		{"reset-leak", resetLeak},
		{"port-taken", portTaken},
		{"port-displaced", portDisplaced},
		{"proxies", manyProxies},
	}
}

// own makes a network for one case, and the stage on it.
func (s stage) own(subnet string, options ...string) stage {
	s.Helper()
	s.network = s.engine.Network(s, s.name, append([]string{"--subnet", subnet}, options...)...)
	return s
}

func iccBypass(s stage) []lab.Finding {
	s = s.own("10.60.0.0/24", "--opt", "com.docker.network.bridge.enable_icc=false")
	s.run("a")
	s.run("b")
	s.host.Run(s, "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0")
	s.Cleanup(func() { s.host.Run(s, "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1") })
	return []lab.Finding{{ID: "icc-bypass", Severity: "warning", Network: s.network, Scope: "host"}}
}

// unnatted flushes what Docker wrote for the network, as other managers of firewalls do.
func unnatted(s stage) []lab.Finding {
	s = s.own("10.61.0.0/24")
	victim := s.run("victim")
	bridge := s.engine.Bridge(s, s.network)
	s.host.Run(s, "iptables", "-w", "-t", "nat", "-D", "POSTROUTING", "-s", "10.61.0.0/24", "!", "-o", bridge, "-j", "MASQUERADE")
	victim.Start(s, lab.Datagrams{To: s.beyond(), Count: 100000, Interval: 50 * time.Millisecond}.Args()...)
	return []lab.Finding{{ID: "iptables-false", Severity: "warning", Container: victim.Name, Network: s.network, Scope: "host"}}
}

func mtuMismatch(s stage) []lab.Finding {
	s = s.own("10.62.0.0/24")
	s.run("a").Run(s, "ip", "link", "set", "eth0", "mtu", "1300")
	return []lab.Finding{{ID: "mtu-mismatch", Severity: "info", Network: s.network, Scope: "host"}}
}

func acceptOverflow(s stage) []lab.Finding {
	s = s.own("10.63.0.0/24")
	sender := s.run("sender")
	owner := s.serve("owner", "tcp-listen", "--never-accept", "--backlog=2")
	for range 4 {
		sender.Start(s, "tcp-connect", "--to", s.at(owner).String(), "--count", "20", "--timeout", "5m")
	}
	return []lab.Finding{{ID: "accept-overflow", Severity: "warning", Container: owner.Name, Scope: "container"}}
}

// ipv6Proxy publishes on all of the host's addresses, as Docker does unless told otherwise.
func ipv6Proxy(s stage) []lab.Finding {
	s = s.own("10.64.0.0/24")
	c := s.engine.Run(s, s.name+"-web", []string{"--network", s.network, "--publish", "8064:7000"})
	return []lab.Finding{{ID: "ipv6-proxy-src", Severity: "info", Container: c.Name, Scope: "host"}}
}

// userlandProxy takes a published port's translation away: what is left is docker-proxy.
func userlandProxy(s stage) []lab.Finding {
	s = s.own("10.65.0.0/24")
	c := s.engine.Serve(s, s.name+"-web", []string{"--network", s.network, "--publish", "0.0.0.0:8065:7000"}, "tcp-listen", port)
	s.host.AddRule(s, lab.IPv4, "nat", "PREROUTING", "-p", "tcp", "--dport", "8065", "-j", "ACCEPT")
	s.outside.Start(s, "tcp-send", "--to", netip.AddrPortFrom(lab.HostAddress, 8065).String(), "--for", "5m", "--pause", "1s")
	return []lab.Finding{{ID: "userland-proxy-src", Severity: "warning", Container: c.Name, Scope: "host"}}
}

// loopbackExposed reaches a port that is published for the host alone from the next machine. From 28.0 on the engine guards it:
// there nothing is to be found, until somebody takes the guard away.
func loopbackExposed(s stage) []lab.Finding {
	s = s.own("10.66.0.0/24")
	s.ip(s.outside, "route", "add", "10.66.0.0/24", "via", lab.HostAddress.String())
	s.undo(s.outside, "route", "delete", "10.66.0.0/24", "via", lab.HostAddress.String())
	guards := s.engine.Major(s) >= 28
	if guards {
		s.requireGuarded(s.serveLoopback("guarded", 8067))
	}
	c := s.serveLoopback("web", 8066)
	if guards { // as a reload of firewalld did before 28.3.3
		s.host.Run(s, "iptables", "-w", "-t", "raw", "-D", "PREROUTING", "-d", s.at(c).Addr().String(),
			"!", "-i", s.engine.Bridge(s, s.network), "-j", "DROP")
	}
	// Few, for their answers leave untranslated.
	if r := s.outside.Connect(s, s.at(c), 3); r.Sent != 3 {
		s.Errorf("%d connections: %v", r.Sent, r.Errors)
	}
	return []lab.Finding{{ID: "lo-publish-exposed", Severity: "warning", Container: c.Name, Network: s.network, Scope: "host"}}
}

// serveLoopback starts a server behind a port of the host's loopback address.
func (s stage) serveLoopback(role string, published int) *lab.Container {
	s.Helper()
	publish := fmt.Sprintf("127.0.0.1:%d:%d", published, port)
	return s.engine.Serve(s, s.name+"-"+role, []string{"--network", s.network, "--publish", publish}, "tcp-listen", port)
}

// requireGuarded makes sure that the engine's own rule drops what comes for a container from the next machine.
func (s stage) requireGuarded(c *lab.Container) {
	s.Helper()
	const count = 3 // as many as are found elsewhere, and too few for direct-route-drop
	guard := s.host.FindRule(s, lab.IPv4, "raw", "-d "+s.at(c).Addr().String()+"/32", "-j DROP")
	r := s.outside.Connect(s, s.at(c), count)
	if r.Sent != 0 || r.Errors["ETIMEDOUT"] != count || guard.Packets(s) != count {
		s.Errorf("%d connections: %v, and %d packets were dropped, want none, and %d", r.Sent, r.Errors, guard.Packets(s), count)
	}
}

func unusedNetwork(s stage) []lab.Finding {
	s = s.own("10.67.0.0/24")
	return []lab.Finding{{ID: "unused-network", Severity: "info", Network: s.network, Scope: "host"}}
}

func legacyLink(s stage) []lab.Finding {
	db := s.engine.Run(s, s.name+"-db", nil)
	app := s.engine.Run(s, s.name+"-app", []string{"--link", db.Name + ":db"})
	return []lab.Finding{{ID: "legacy-link", Severity: "info", Container: app.Name, Network: "bridge", Scope: "container"}}
}

func sameMAC(s stage) []lab.Finding {
	s = s.own("10.68.0.0/24")
	for _, role := range []string{"a", "b"} {
		s.run(role).Run(s, "ip", "link", "set", "eth0", "address", "02:42:0a:44:00:99")
	}
	return []lab.Finding{{ID: "dup-mac", Severity: "warning", Network: s.network, Scope: "host"}}
}

// sameIP has a container answer for the address of another, which does not.
func sameIP(s stage) []lab.Finding {
	s = s.own("10.71.0.0/24")
	owner, other := s.run("owner"), s.run("other")
	owner.Run(s, "sysctl", "-w", "net.ipv4.conf.eth0.arp_ignore=8")
	s.ip(other.Place, "address", "add", s.at(owner).Addr().String()+"/24", "dev", "eth0")
	s.host.Start(s, lab.Datagrams{To: s.at(owner), Count: 100000, Interval: 500 * time.Millisecond}.Args()...)
	return []lab.Finding{{ID: "dup-ip", Severity: "warning", Container: owner.Name, Network: s.network, Scope: "host"}}
}

// sameIPOnLAN has another machine answer for the address of a container on a macvlan network: two engines know nothing of
// each other.
func sameIPOnLAN(s stage) []lab.Finding {
	s.network = s.name
	far := newMacvlan(s)
	s.ip(s.host, "address", "add", "10.84.0.200/24", "dev", "parent0")
	owner := s.run("owner")
	s.ip(far, "address", "add", s.at(owner).Addr().String()+"/24", "dev", "far0")
	s.host.Start(s, lab.Datagrams{To: s.at(owner), Count: 100000, Interval: 500 * time.Millisecond}.Args()...)
	return []lab.Finding{{ID: "dup-ip", Severity: "warning", Container: owner.Name, Network: s.network, Scope: "host"}}
}

// routerLost has the host forward, as Docker's IPv6 makes it, so that it hears routers and does not listen to them.
func routerLost(s stage) []lab.Finding {
	s.family = lab.IPv6
	s.ip(s.host, "route", "delete", "default", "via", "2001:db8:1::1")
	s.undo(s.host, "route", "add", "default", "via", "2001:db8:1::1")
	s.outside.Traffic(s, "router-advertise", "eth0")
	return []lab.Finding{{ID: "v6-ra-lost", Severity: "warning", Scope: "host"}}
}

// bridgeFull fills a bridge with ports that lead nowhere.
func bridgeFull(s stage) []lab.Finding {
	s = s.own("10.72.0.0/24")
	s.run("a")
	s.host.Run(s, "sh", "-c", `for i in $(seq 450); do
		echo link add full$i group 72 master "$1" type veth peer name full-$i group 72
		echo link set full-$i master "$1"
	done | ip -batch -`, "sh", s.engine.Bridge(s, s.network))
	s.Cleanup(func() { s.host.Run(s, "ip", "link", "delete", "group", "72") })
	return []lab.Finding{{ID: "bridge-full", Severity: "warning", Network: s.network, Scope: "host"}}
}

func routeOverlap(s stage) []lab.Finding {
	s = s.own("10.69.0.0/16")
	s.run("a")
	s.ip(s.host, "route", "add", "10.69.7.0/24", "via", "192.0.2.1")
	s.undo(s.host, "route", "delete", "10.69.7.0/24", "via", "192.0.2.1")
	return []lab.Finding{{ID: "route-overlap", Severity: "warning", Network: s.network, Scope: "host"}}
}

// leftovers are what a removal leaves that was cut short: a namespace of nobody's, and a port of nobody's.
func leftovers(s stage) []lab.Finding {
	s = s.own("10.70.0.0/24")
	s.run("a")
	sandbox := filepath.Join(s.engine.Sandboxes(), "deadbeef0001")
	s.host.Run(s, "touch", sandbox)
	s.host.Run(s, "mount", "--bind", "/run/netns/outside", sandbox)
	s.Cleanup(func() {
		s.host.Run(s, "umount", sandbox)
		s.host.Run(s, "rm", sandbox)
	})
	s.host.Run(s, "ip", "link", "add", "veth0123456", "type", "veth", "peer", "name", "left0")
	s.Cleanup(func() { s.host.Run(s, "ip", "link", "delete", "veth0123456") })
	s.host.Run(s, "ip", "link", "set", "veth0123456", "master", s.engine.Bridge(s, s.network))
	return []lab.Finding{
		{ID: "leftover-device", Severity: "info", Scope: "host"},
		{ID: "leftover-sandbox", Severity: "info", Scope: "host"},
	}
}

// masqueradeInbound has a rule that is meant for what leaves take what comes in, too.
func masqueradeInbound(s stage) []lab.Finding {
	s = s.own("10.73.0.0/24")
	c := s.engine.Serve(s, s.name+"-web", []string{"--network", s.network, "--publish", "0.0.0.0:8073:7000"}, "mirror", port)
	s.host.AddRule(s, lab.IPv4, "nat", "POSTROUTING", "-d", s.at(c).Addr().String(), "-j", "MASQUERADE")
	s.outside.Start(s, "exchange", "--to", netip.AddrPortFrom(lab.HostAddress, 8073).String(), "--count", "300", "--pace", "1s")
	return []lab.Finding{{ID: "broad-masq", Severity: "warning", Container: c.Name, Scope: "host"}}
}

// sharedAddress has two containers talk to the outside, which is to recognise one of them by its address.
func sharedAddress(s stage) []lab.Finding {
	s = s.own("10.74.0.0/24")
	talk := lab.Datagrams{To: s.beyond(), Count: 100000, Interval: time.Second}.Args()
	one := s.engine.Run(s, s.name+"-one", []string{"--network", s.network, "--label", "bridgewatch.source-address=required"}, talk...)
	s.run("other", talk...)
	return []lab.Finding{{ID: "masq-src", Severity: "info", Container: one.Name, Scope: "host"}}
}

// resetLeak resets connections that nobody knows of any more, so that nothing translates that.
func resetLeak(s stage) []lab.Finding {
	s = s.own("10.75.0.0/24")
	c := s.run("client", "tcp-reset", "--to", s.beyond().String(), "--count", "100000", "--interval", "100ms")
	return []lab.Finding{{ID: "unnatted-rst-leak", Severity: "info", Container: c.Name, Network: s.network, Scope: "host"}}
}

// portTaken has a process of the host be first.
func portTaken(s stage) []lab.Finding {
	s = s.own("10.76.0.0/24")
	s.host.Serve(s, "tcp-listen", 8076)
	late := s.engine.RunInVain(s, s.name+"-late", "--network", s.network, "--publish", "0.0.0.0:8076:7000")
	return []lab.Finding{{ID: "port-conflict", Severity: "warning", Container: late, Scope: "host"}}
}

// portDisplaced has a process of the host come in the place of a container's docker-proxy that has died.
func portDisplaced(s stage) []lab.Finding {
	s = s.own("10.77.0.0/24")
	c := s.engine.Run(s, s.name+"-web", []string{"--network", s.network, "--publish", "0.0.0.0:8077:7000"})
	s.host.EndListener(s, 8077)
	s.host.Serve(s, "tcp-listen", 8077, "--ipv4") // what listens on [::] may leave IPv4 to others
	return []lab.Finding{{ID: "port-conflict", Severity: "warning", Container: c.Name, Scope: "host"}}
}

// manyProxies publishes a range.
func manyProxies(s stage) []lab.Finding {
	s = s.own("10.78.0.0/24")
	s.engine.Run(s, s.name+"-web", []string{"--network", s.network, "--publish", "0.0.0.0:9000-9109:9000-9109"})
	return []lab.Finding{{ID: "proxy-process-storm", Severity: "info", Scope: "host"}}
}
