// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// use is all that is said of a connection to a published port, but for the connection itself.
type use struct {
	Stack, Service, Container, Network string
	Scope                              Scope
	Port                               uint16
	Protocol                           string
	Client                             Client
	Mechanism                          Mechanism
	Seen, Server                       string
	Inferred                           bool
}

func useOf(c PublishedConnection) use {
	return use{
		Stack: c.Stack, Service: c.Service, Container: c.Container, Network: c.Network, Scope: c.Scope, Port: c.Port,
		Protocol: c.Protocol, Client: c.Client, Mechanism: c.Mechanism, Seen: text(c.Seen), Server: text(c.Server),
		Inferred: c.Inferred,
	}
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func usesOf(list []PublishedConnection) (uses []use) {
	for _, c := range list {
		uses = append(uses, useOf(c))
	}
	return uses
}

// alphaUse is a connection to alpha's port, to be filled in.
func alphaUse(client Client, mechanism Mechanism, seen string) use {
	u := use{
		Container: "alpha", Network: "web", Scope: ScopeHost, Port: 8080, Protocol: "tcp",
		Client: client, Mechanism: mechanism, Seen: seen,
	}
	if seen != "" {
		u.Server = "172.30.1.2:80"
	}
	return u
}

func (u use) of(container, network string) use { u.Container, u.Network = container, network; return u }
func (u use) at(port uint16, server string) use {
	u.Port, u.Server = port, server
	return u
}

// mechanisms are connections to published ports as the host's table has them, with docker-proxy's own or the routing mesh's
// after the answer of TCP, before that of UDP.
func mechanisms() []struct {
	name   string
	entry  loader.Tracked
	second []loader.Tracked
	want   use
} {
	udp := of(unix.IPPROTO_UDP)
	mesh := func(e loader.Tracked) loader.Tracked { return with(e, inNetns(77), byIPVS) }
	return []struct {
		name   string
		entry  loader.Tracked
		second []loader.Tracked
		want   use
	}{
		{
			name:  "rule",
			entry: entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:39340"),
			want:  alphaUse(ClientRemote, NoMechanism, "203.0.113.9:39340"),
		},
		{
			name:  "rule, at an address that the host was not said to have",
			entry: entry("203.0.113.9:39340->192.0.2.50:8080", "172.30.1.2:80->203.0.113.9:39340"),
			want:  alphaUse(ClientRemote, NoMechanism, "203.0.113.9:39340"),
		},
		{
			name:  "rule, and the client's port was taken",
			entry: entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:1024"),
			want:  alphaUse(ClientRemote, NoMechanism, "203.0.113.9:1024"),
		},
		{
			name:  "rule, IPv6",
			entry: entry("[2001:db8:9::9]:39340->[2001:db8::1]:8083", "[fd00::7]:80->[2001:db8:9::9]:39340"),
			want:  alphaUse(ClientRemote, NoMechanism, "[2001:db8:9::9]:39340").of("dual", "six").at(8083, "[fd00::7]:80"),
		},
		{
			name:  "rule, UDP",
			entry: with(entry("203.0.113.9:39340->192.0.2.1:5300", "172.30.1.2:53->203.0.113.9:39340"), udp),
			want: use{
				Container: "alpha", Network: "web", Scope: ScopeHost, Port: 5300, Protocol: "udp", Client: ClientRemote,
				Mechanism: NoMechanism, Seen: "203.0.113.9:39340", Server: "172.30.1.2:53",
			},
		},
		{
			name:  "rule, to a task by the gateway bridge",
			entry: entry("203.0.113.9:39340->192.0.2.1:8090", "172.18.0.5:80->203.0.113.9:39340"),
			want:  alphaUse(ClientRemote, NoMechanism, "203.0.113.9:39340").of("task", gatewayBridge).at(8090, "172.18.0.5:80"),
		},
		{
			name:  "the host, by its own address",
			entry: with(entry("192.0.2.1:39340->192.0.2.1:8080", "172.30.1.2:80->192.0.2.1:39340"), local),
			want:  alphaUse(ClientHost, NoMechanism, "192.0.2.1:39340"),
		},
		{
			name:  "the host, though nobody saw who sent it",
			entry: with(entry("192.0.2.1:39340->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39340"), unseen),
			want:  alphaUse(ClientHost, Hairpin, "172.30.1.1:39340"),
		},
		{
			name:  "another container, without docker-proxy",
			entry: entry("172.30.2.2:39340->192.0.2.1:8080", "172.30.1.2:80->172.30.2.2:39340"),
			want:  alphaUse(ClientContainer, NoMechanism, "172.30.2.2:39340"),
		},
		{
			name:  "source translated on its way in",
			entry: with(entry("203.0.113.9:39350->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39350"), masqueraded(loader.On)),
			want:  alphaUse(ClientRemote, InboundMasquerade, "172.30.1.1:39350"),
		},
		{
			name:  "hairpin: the container itself",
			entry: entry("172.30.1.2:39350->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39350"),
			want:  alphaUse(ClientContainer, Hairpin, "172.30.1.1:39350"),
		},
		{
			name:  "hairpin: another on the same network",
			entry: entry("172.30.1.3:39350->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39350"),
			want:  alphaUse(ClientContainer, Hairpin, "172.30.1.1:39350"),
		},
		{
			name:  "hairpin: the host by loopback, without docker-proxy",
			entry: with(entry("127.0.0.1:39350->127.0.0.1:8080", "172.30.1.2:80->172.30.1.1:39350"), local),
			want:  alphaUse(ClientHost, Hairpin, "172.30.1.1:39350"),
		},
		{
			name:   "docker-proxy: the host by loopback",
			entry:  with(plain("127.0.0.1:39350->127.0.0.1:8080"), local),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.2:80"), local)},
			want:   alphaUse(ClientHost, UserlandProxy, "172.30.1.1:40000"),
		},
		{
			name:   "docker-proxy: another container",
			entry:  plain("172.30.1.3:39350->192.0.2.1:8080"),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.2:80"), local)},
			want:   alphaUse(ClientContainer, UserlandProxy, "172.30.1.1:40000"),
		},
		{
			name:   "docker-proxy: remote, since no rule translates",
			entry:  with(plain("203.0.113.9:39350->192.0.2.1:8080"), unseen),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.2:80"), local)},
			want:   alphaUse(ClientRemote, UserlandProxy, "172.30.1.1:40000"),
		},
		{
			name:   "docker-proxy: port of loopback only",
			entry:  with(plain("127.0.0.1:39350->127.0.0.1:8081"), local),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.3:80"), local)},
			want:   alphaUse(ClientHost, UserlandProxy, "172.30.1.1:40000").of("beta", "web").at(8081, "172.30.1.3:80"),
		},
		{
			name:   "docker-proxy: UDP",
			entry:  with(plain("203.0.113.9:39350->192.0.2.1:5300"), udp, unseen),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.2:53"), udp, local)},
			want: use{
				Container: "alpha", Network: "web", Scope: ScopeHost, Port: 5300, Protocol: "udp", Client: ClientRemote,
				Mechanism: UserlandProxy, Seen: "172.30.1.1:40000", Server: "172.30.1.2:53",
			},
		},
		{
			name:   "docker-proxy: IPv6 client of a container without IPv6",
			entry:  with(plain("[2001:db8:9::9]:39350->[2001:db8::1]:8082"), unseen),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.3:80"), local)},
			want:   alphaUse(ClientRemote, IPv6ToIPv4Proxy, "172.30.1.1:40000").of("beta", "web").at(8082, "172.30.1.3:80"),
		},
		{
			name:   "docker-proxy: IPv6 client of a container with IPv6",
			entry:  with(plain("[::1]:39350->[::1]:8083"), local),
			second: []loader.Tracked{with(plain("[fd00::1]:40000->[fd00::7]:80"), local)},
			want:   alphaUse(ClientHost, UserlandProxy, "[fd00::1]:40000").of("dual", "six").at(8083, "[fd00::7]:80"),
		},
		{
			name:   "docker-proxy, by way of a redirect",
			entry:  with(entry("203.0.113.9:39350->192.0.2.1:80", "192.0.2.1:8080->203.0.113.9:39350"), unseen),
			second: []loader.Tracked{with(plain("172.30.1.1:40000->172.30.1.2:80"), local)},
			want:   alphaUse(ClientRemote, UserlandProxy, "172.30.1.1:40000"),
		},
		{
			name:   "routing mesh",
			entry:  entry("203.0.113.9:39340->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:39340"),
			second: []loader.Tracked{mesh(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"))},
			want: use{
				Stack: "shop", Service: "front", Scope: ScopeIngress, Port: 9090, Protocol: "tcp", Client: ClientRemote,
				Mechanism: IngressMesh, Seen: "10.0.0.2:39340", Server: "10.0.0.5:9090",
			},
		},
		{
			name:   "routing mesh: the host",
			entry:  with(entry("192.0.2.1:39340->192.0.2.1:9090", "172.18.0.2:9090->172.18.0.1:1025"), local),
			second: []loader.Tracked{mesh(entry("172.18.0.1:1025->172.18.0.2:9090", "10.0.0.6:9090->10.0.0.2:1025"))},
			want: use{
				Stack: "shop", Service: "front", Scope: ScopeIngress, Port: 9090, Protocol: "tcp", Client: ClientHost,
				Mechanism: IngressMesh, Seen: "10.0.0.2:1025", Server: "10.0.0.6:9090",
			},
		},
		{
			name:  "routing mesh that no rule leads to",
			entry: with(plain("203.0.113.9:39340->192.0.2.1:9090"), unseen),
			want: use{
				Stack: "shop", Service: "front", Scope: ScopeIngress, Port: 9090, Protocol: "tcp", Client: ClientRemote,
				Mechanism: IngressMesh,
			},
		},
		{
			name:  "routing mesh whose service is not known",
			entry: entry("203.0.113.9:39340->192.0.2.1:9091", "172.18.0.2:9091->203.0.113.9:39340"),
			want: use{
				Scope: ScopeIngress, Port: 9091, Protocol: "tcp", Client: ClientRemote, Mechanism: IngressMesh,
			},
		},
		{
			name:  "rule to an address that the container has no more",
			entry: entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.200:80->203.0.113.9:39340"),
			want:  alphaUse(ClientRemote, NoMechanism, "203.0.113.9:39340").at(8080, "172.30.1.200:80"),
		},
		{
			name:  "rule to an address that nobody has, for a port that nobody publishes",
			entry: entry("203.0.113.9:39340->192.0.2.1:8099", "172.30.1.200:80->203.0.113.9:39340"),
			want:  alphaUse(ClientRemote, NoMechanism, "203.0.113.9:39340").of("", "web").at(8099, "172.30.1.200:80"),
		},
	}
}

// newHarbour is the port with a container that has both families, and publishes 80/tcp at 8083.
func newHarbour(t *testing.T) *world {
	w := newPort(t)
	six := bridgeNetwork("six", "172.30.6.")
	six.Subnets = append(six.Subnets, netip.MustParsePrefix("fd00::/64"))
	six.Gateways = append(six.Gateways, netip.MustParseAddr("fd00::1"))
	w.PutNetwork(six)
	dual := on(w.container("dual"), "six", "172.30.6.7")
	dual.Endpoints[0].Addresses = append(dual.Endpoints[0].Addresses, netip.MustParseAddr("fd00::7"))
	w.PutContainer(dual)
	w.publish("dual", "0.0.0.0:8083->80/tcp", "[::]:8083->80/tcp")
	return w
}

// settled lets news wait for as long as they do.
func (w *world) settled(news loader.NATNews) NAT {
	nat := w.AttributeNAT(news)
	if len(nat.Attempts)+len(nat.Connections) == 0 {
		w.wait(patience)
		return w.AttributeNAT(loader.NATNews{})
	}
	return nat
}

func TestPublishedConnections(t *testing.T) {
	for _, tc := range mechanisms() {
		t.Run(tc.name, func(t *testing.T) {
			w := newHarbour(t)
			news := w.opened(tc.entry)
			if tc.entry.Protocol == unix.IPPROTO_UDP {
				news.Opened = append(news.Opened, w.events(tc.second...)...)
				news.Answered = w.events(tc.entry)
			} else {
				news.Answered = w.events(tc.entry)
				news.Opened = append(news.Opened, w.events(tc.second...)...)
			}
			nat := w.settled(news)
			if diff := cmp.Diff([]use{tc.want}, usesOf(nat.Connections)); diff != "" {
				t.Errorf("connections (-want +got):\n%s", diff)
			}
			if len(nat.Attempts) != 1 {
				t.Fatalf("%d attempts, want 1", len(nat.Attempts))
			}
			attempt := tc.want
			attempt.Seen, attempt.Server = text(nat.Attempts[0].Seen), text(nat.Attempts[0].Server)
			if diff := cmp.Diff(attempt, useOf(nat.Attempts[0])); diff != "" {
				t.Errorf("attempt (-want +got):\n%s", diff)
			}
			if c := nat.Connections[0]; c.Preserved != (tc.want.Mechanism == NoMechanism) {
				t.Errorf("preserved %v by mechanism %s", c.Preserved, c.Mechanism)
			}
			if len(nat.Joined) != 0 {
				t.Errorf("%d told again", len(nat.Joined))
			}
		})
	}
}

// Where the engine has no docker-proxy it may hold the port itself: the kernel answers, and nobody serves.
func TestKeptPortsServeNobody(t *testing.T) {
	udp := of(unix.IPPROTO_UDP)
	at := func(address string) loader.Listener {
		return loader.Listener{Address: netip.MustParseAddrPort(address)}
	}
	onlyIPv6 := at("[::]:8080")
	onlyIPv6.V6Only = true
	for _, tc := range []struct {
		name   string
		kept   loader.Listener
		entry  loader.Tracked
		serves bool
	}{
		{"kept", at("0.0.0.0:8080"), entry("203.0.113.9:1->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1"), false},
		{"kept at the address", at("192.0.2.1:8080"), entry("203.0.113.9:1->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1"), false},
		{"kept for both families", at("[::]:8080"), entry("203.0.113.9:1->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1"), false},
		{"kept, and a rule translates the source", at("0.0.0.0:8080"), entry("127.0.0.1:1->127.0.0.1:8080", "127.0.0.1:8080->172.30.1.1:1"), false},
		{"kept for IPv6 only", onlyIPv6, entry("203.0.113.9:1->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1"), true},
		{"kept in the routing mesh", at("[::]:9090"), entry("203.0.113.9:1->192.0.2.1:9090", "192.0.2.1:9090->203.0.113.9:1"), false},
		{"another port", at("0.0.0.0:8081"), entry("203.0.113.9:1->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1"), true},
		{"another address", at("192.0.2.2:8080"), entry("203.0.113.9:1->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1"), true},
		{"a rule leads on", at("0.0.0.0:8080"), entry("203.0.113.9:1->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:1"), true},
		{"UDP", at("0.0.0.0:5300"), with(entry("203.0.113.9:1->192.0.2.1:5300", "192.0.2.1:5300->203.0.113.9:1"), udp), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.SetKeptPorts([]loader.Listener{tc.kept})
			nat := w.settled(loader.NATNews{Opened: w.events(tc.entry), Answered: w.events(tc.entry)})
			if serves := len(nat.Connections) == 1; len(nat.Attempts) != 1 || serves != tc.serves {
				t.Errorf("%d attempts and %d connections", len(nat.Attempts), len(nat.Connections))
			}
		})
	}
}

// What was opened before the agent started is a connection and no attempt.
func TestAnswerOfWhatWasThereBefore(t *testing.T) {
	for _, tc := range mechanisms() {
		t.Run(tc.name, func(t *testing.T) {
			w := newHarbour(t)
			news := loader.NATNews{Opened: w.events(tc.second...)}
			if tc.entry.Protocol != unix.IPPROTO_UDP {
				w.wait(-time.Second)
			}
			news.Answered = w.events(tc.entry)
			w.wait(time.Second)
			nat := w.settled(news)
			if len(nat.Attempts) != 0 || len(nat.Connections) != 1 {
				t.Fatalf("%d attempts and %d connections, want 0 and 1", len(nat.Attempts), len(nat.Connections))
			}
			want := tc.want
			if tc.entry.Protocol == unix.IPPROTO_UDP && tc.want.Mechanism == UserlandProxy {
				want.Seen, want.Server = "", "" // docker-proxy's connection is from before, too
			}
			if diff := cmp.Diff(want, useOf(nat.Connections[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNotPublished(t *testing.T) {
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
	}{
		{"the host's connection to the same port elsewhere", with(plain("192.0.2.1:39340->203.0.113.9:8080"), local)},
		{"a port of another address", plain("203.0.113.9:39340->192.0.2.1:8081")},
		{"a port of the other family", with(plain("[2001:db8:9::9]:39340->[2001:db8::1]:5300"), of(unix.IPPROTO_UDP))},
		{"a port of another protocol", with(plain("203.0.113.9:39340->192.0.2.1:8080"), of(unix.IPPROTO_UDP))},
		{"a rule that is not Docker's", entry("203.0.113.9:39340->192.0.2.1:8088", "172.30.1.2:80->203.0.113.9:39340")},
		{"a rule to another port than is published", entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:81->203.0.113.9:39340")},
		{"a rule to a virtual machine", entry("203.0.113.9:39340->192.0.2.1:2222", "192.168.122.5:22->203.0.113.9:39340")},
		{"the outside", entry("172.30.1.2:39340->203.0.113.9:8080", "203.0.113.9:8080->192.0.2.1:39340")},
		{"docker-proxy's own", with(plain("172.30.1.1:39340->172.30.1.2:80"), local)},
		{"a container's own namespace", with(plain("172.30.1.1:39340->172.30.1.2:8080"), inNetns(alphaPort))},
		{
			"echo",
			with(entry("203.0.113.9:8080->192.0.2.1:8080", "172.30.1.2:8080->203.0.113.9:8080"), of(unix.IPPROTO_ICMP)),
		},
		{"the mesh's port at another host", plain("192.0.2.1:39340->203.0.113.9:9090")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newHarbour(t)
			news := w.opened(tc.entry)
			news.Answered = w.events(tc.entry)
			nat := w.AttributeNAT(news)
			w.wait(patience)
			later := w.AttributeNAT(loader.NATNews{})
			if uses := usesOf(append(append(append(nat.Attempts, nat.Connections...), later.Attempts...), later.Connections...)); len(uses) != 0 {
				t.Errorf("got %+v", uses)
			}
		})
	}
}

// Of several that published a port it is the one that lives.
func TestPublishedPortOfTheLiving(t *testing.T) {
	w := newPort(t)
	w.ContainerDied(idOf("alpha"))
	w.wait(time.Second)
	toNobody := entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:39340")
	if got := w.settled(w.opened(toNobody)).Attempts; len(got) != 1 || got[0].Container != "alpha" {
		t.Errorf("as long as there is no other: %+v, want an attempt of alpha's", usesOf(got))
	}
	w.publish("gamma", "0.0.0.0:8080->80/tcp")
	if got := w.settled(w.opened(toNobody)).Attempts; len(got) != 1 || got[0].Container != "gamma" {
		t.Errorf("then: %+v, want an attempt of gamma's", usesOf(got))
	}
	w.publish("beta", "192.0.2.1:8080->80/tcp")
	if got := w.settled(w.opened(plain("203.0.113.9:39340->192.0.2.1:8080"))).Attempts; len(got) != 1 || got[0].Container != "beta" {
		t.Errorf("at the very address: %+v, want an attempt of beta's", usesOf(got))
	}
}

// Every connection of a mix is counted once, and by its own mechanism.
func TestMixOnOnePort(t *testing.T) {
	w := newHarbour(t)
	var opened, answered []loader.NATEvent
	want := make(map[Mechanism]int)
	for i := range 300 {
		client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), uint16(20000+i)).String()
		proxied := netip.AddrPortFrom(netip.MustParseAddr("172.30.1.1"), uint16(20000+i)).String()
		var e loader.Tracked
		var second []loader.Tracked
		switch i % 3 {
		case 0:
			e = entry(client+"->192.0.2.1:8080", "172.30.1.2:80->"+client)
			want[NoMechanism]++
		case 1:
			e = entry(client+"->192.0.2.1:8080", "172.30.1.2:80->"+proxied)
			want[InboundMasquerade]++
		case 2:
			e = with(plain(client+"->192.0.2.1:8080"), unseen)
			second = append(second, with(plain(proxied+"->172.30.1.2:80"), local))
			want[UserlandProxy]++
		}
		opened = append(opened, w.events(e)...)
		answered = append(answered, w.events(e)...)
		opened = append(opened, w.events(second...)...)
	}
	nat := w.AttributeNAT(loader.NATNews{Opened: opened, Answered: answered})
	got := make(map[Mechanism]int)
	for _, c := range nat.Connections {
		got[c.Mechanism]++
		if seen := c.Seen; !seen.IsValid() || seen.Port() != c.Original.Source.Port() || c.Inferred {
			t.Fatalf("%v sees %v, inferred %v", c.Original, seen, c.Inferred)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(nat.Attempts) != 300 {
		t.Errorf("%d attempts, want 300; mechanisms (-want +got):\n%s", len(nat.Attempts), diff)
	}
	if len(nat.Translations) != 200 {
		t.Errorf("%d translations, want 200", len(nat.Translations))
	}
}

// A worker is not told which service has a port of the mesh. It learns that from what its own tasks are sent.
func TestMeshServiceIsLearned(t *testing.T) {
	w := newPort(t)
	w.PutNetwork(Network{ID: idOf("network ingress"), Name: "ingress", Driver: "overlay", Scope: "swarm", Predefined: true})
	c := on(on(w.container("front"), "ov", "10.11.0.12"), "ingress", "10.0.0.6")
	c.Labels = map[string]string{labelStack: "shop", labelSwarmService: "shop_front"}
	w.PutContainer(c)
	w.Process(processOf("front", 62))
	host := entry("203.0.113.9:39340->192.0.2.1:9099", "172.18.0.2:9099->203.0.113.9:39340")
	ofService := func() Identity {
		t.Helper()
		attempts := w.AttributeNAT(w.opened(host)).Attempts
		if len(attempts) != 1 {
			t.Fatalf("%d attempts, want 1", len(attempts))
		}
		return attempts[0].Identity
	}
	w.AttributeNAT(w.opened(
		with(entry("10.11.0.2:39340->10.11.0.12:9099", "10.11.0.12:80->10.11.0.2:39340"), inNetns(62)), // a redirect of its own
	))
	if got := ofService(); got != (Identity{}) {
		t.Errorf("before: %+v, want nobody", got)
	}
	w.AttributeNAT(w.opened(with(entry("10.0.0.2:39340->10.0.0.6:9099", "10.0.0.6:80->10.0.0.2:39340"), inNetns(62))))
	if got, want := ofService(), (Identity{Stack: "shop", Service: "front"}); got != want {
		t.Errorf("then: %+v, want %+v", got, want)
	}
	if attempts := w.AttributeNAT(w.opened(plain("203.0.113.9:1->192.0.2.1:9099"))).Attempts; len(attempts) != 1 {
		t.Errorf("%d attempts at the port that no rule leads from, want 1", len(attempts))
	}
	watches := func() bool {
		return slices.Contains(w.NATEndpoints(), loader.NATEndpoint{Protocol: 6, Address: netip.IPv4Unspecified(), Port: 9099})
	}
	if !watches() {
		t.Error("the port is not watched")
	}
	for i := range maxMeshed + 10 {
		w.AttributeNAT(w.opened(with(entry("10.0.0.2:39340->10.0.0.6:"+strconv.Itoa(10000+i), "10.0.0.6:80->10.0.0.2:39340"), inNetns(62))))
	}
	if got := len(w.pending.nat.meshed); got != maxMeshed {
		t.Errorf("%d ports are remembered, want %d", got, maxMeshed)
	}
	// That no task of it is here any more may mean that the service has none.
	w.ContainerDied(idOf("front"))
	if attempts := w.AttributeNAT(w.opened(plain("203.0.113.9:2->192.0.2.1:9099"))).Attempts; len(attempts) != 0 || watches() {
		t.Errorf("%d attempts at the port of a service that has no task here; watched %t", len(attempts), watches())
	}
	if got, want := ofService(), (Identity{Stack: "shop", Service: "front"}); got != want {
		t.Errorf("as long as rules lead to it: %+v, want %+v", got, want)
	}
	w.Attribute(nil, nil)
	w.wait(meshMemory + time.Second)
	w.Attribute(nil, nil)
	if got := len(w.pending.nat.meshed); got != 0 {
		t.Errorf("%d ports are remembered for ever", got)
	}
}

func TestNATEndpoints(t *testing.T) {
	w := newHarbour(t)
	w.learned[netip.MustParseAddr("172.18.0.5")] = idOf("task")
	w.publish("gamma", "0.0.0.0:0->80/tcp", "0.0.0.0:8080->81/sctp", "192.0.2.1:8080->81/sctp") // the first: in gateway mode routed
	w.ContainerDied(idOf("beta"))
	var got []string
	for _, e := range w.NATEndpoints() {
		got = append(got, ProtocolName(e.Protocol)+" "+netip.AddrPortFrom(e.Address, e.Port).String())
	}
	want := []string{
		"tcp 172.18.0.5:80", "tcp 172.30.1.2:80", "tcp 172.30.6.7:80", "tcp [fd00::7]:80",
		"tcp 0.0.0.0:8080", "tcp [::]:8080", "tcp 0.0.0.0:8083", "tcp [::]:8083", "tcp 0.0.0.0:8090",
		"tcp 0.0.0.0:9090", "tcp [::]:9090",
		"udp 172.30.1.2:53", "udp 0.0.0.0:5300",
		"sctp 172.30.2.2:81", "sctp 0.0.0.0:8080", "sctp 192.0.2.1:8080",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The signal asks every second.
func TestNATEndpointsAreMadeOnce(t *testing.T) {
	w := newPort(t)
	first := w.NATEndpoints()
	if again := w.NATEndpoints(); &first[0] != &again[0] {
		t.Error("made anew though nothing changed")
	}
	learned := netip.MustParseAddr("172.18.0.5")
	has := func(e loader.NATEndpoint) bool { return slices.Contains(w.NATEndpoints(), e) }
	w.learn(learned, w.members[idOf("task")])
	if !has(loader.NATEndpoint{Protocol: unix.IPPROTO_TCP, Address: learned, Port: 80}) {
		t.Error("an address that was learned is missing")
	}
	w.SetServices([]Service{{Name: "back", Mesh: []MeshPort{{9191, "udp"}}}})
	if !has(loader.NATEndpoint{Protocol: unix.IPPROTO_UDP, Address: netip.IPv4Unspecified(), Port: 9191}) {
		t.Error("a port of the routing mesh is missing")
	}
	w.SetContainers(nil, w.now.Add(time.Second))
	if has(loader.NATEndpoint{Protocol: unix.IPPROTO_TCP, Address: learned, Port: 80}) {
		t.Error("the dead are there")
	}
}

// Where nobody tells where the routing mesh is, or what it told is old, a connection to it looks as one that keeps its client's
// address.
func TestMeshThatNobodyTellsOf(t *testing.T) {
	known := entry("203.0.113.9:1->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:1")
	unknown := entry("203.0.113.9:1->192.0.2.1:9099", "172.18.0.2:9099->203.0.113.9:1")
	mesh := []use{{Scope: ScopeIngress, Port: 9099, Protocol: "tcp", Client: ClientRemote, Mechanism: IngressMesh}}
	for _, tc := range []struct {
		name  string
		knows string // the sandbox's address, as it is said to be
		entry loader.Tracked
		later string // that the engine says, asked again
		want  []use
		lost  uint64
	}{
		{"a port that a manager tells", "", known, "", []use{{
			Stack: "shop", Service: "front", Scope: ScopeIngress, Port: 9090, Protocol: "tcp", Client: ClientRemote, Mechanism: IngressMesh,
		}}, 0},
		{"a port that nobody tells", "", unknown, "", nil, 2},
		{"an old address", "172.18.0.9", unknown, "", nil, 2},
		{"told when asked again", "", unknown, "172.18.0.2", mesh, 0},
		{"moved, and told when asked again", "172.18.0.9", unknown, "172.18.0.2", mesh, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.ingressSandbox = netip.Addr{}
			if tc.knows != "" {
				w.ingressSandbox = netip.MustParseAddr(tc.knows)
			}
			nat := w.AttributeNAT(loader.NATNews{Opened: w.events(tc.entry), Answered: w.events(tc.entry)})
			if len(nat.Attempts)+len(nat.Connections) != 0 {
				t.Fatalf("told at once: %+v", usesOf(nat.Connections))
			}
			select {
			case <-w.swarmWanted:
			default:
				t.Error("the engine is not asked again")
			}
			if tc.later != "" {
				w.SetIngressSandbox(netip.MustParseAddr(tc.later))
			} else {
				w.wait(patience)
			}
			nat = w.AttributeNAT(loader.NATNews{})
			if diff := cmp.Diff(tc.want, usesOf(nat.Connections)); diff != "" || len(nat.Attempts) != len(tc.want) {
				t.Errorf("%d attempts, connections (-want +got):\n%s", len(nat.Attempts), diff)
			}
			if got := lossesOf(w.State)["maybe_mesh"]; got != tc.lost {
				t.Errorf("%d losses, want %d", got, tc.lost)
			}
			if len(w.swarmWanted) != 0 {
				t.Error("the engine is asked all the time")
			}
		})
	}
}
