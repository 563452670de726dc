// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// newPort is the town with published ports, and with the routing mesh:
//
//	alpha  80/tcp, 53/udp at 8080, 5300 of all addresses
//	beta   80/tcp         at 8081 of 127.0.0.1, and at 8082 of all IPv6 addresses though it has none
//	task   80/tcp         at 8090, of a service on an overlay network: by way of the gateway bridge
func newPort(t *testing.T) *world {
	w := newTown(t)
	w.PutNetwork(Network{
		ID: idOf("network docker_gwbridge"), Name: gatewayBridge, Driver: "bridge", Bridge: gatewayBridge,
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}, Gateways: addresses("172.18.0.1"),
	})
	w.SetHostAddresses(addresses("192.0.2.1", "2001:db8::1", "172.30.1.1", "172.30.2.1", "172.18.0.1"))
	w.ingressSandbox = netip.MustParseAddr("172.18.0.2")
	w.ingressPorts = map[ingressPort]Identity{{9090, "tcp"}: {Stack: "shop", Service: "front"}}
	w.publish("alpha", "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "0.0.0.0:5300->53/udp")
	w.publish("beta", "127.0.0.1:8081->80/tcp", "[::]:8082->80/tcp")
	task := on(w.container("task"), "ov", "10.11.0.11")
	w.PutNetwork(Network{ID: idOf("network ov"), Name: "ov", Driver: "overlay", Scope: "swarm"})
	w.PutContainer(task)
	w.publish("task", "0.0.0.0:8090->80/tcp")
	return w
}

// publish adds ports to a container.
func (w *world) publish(name string, ports ...string) {
	w.t.Helper()
	c := w.members[idOf(name)].Container
	c.Published = nil
	for _, text := range ports {
		c.Published = append(c.Published, publishedFrom(w.t, text))
	}
	w.PutContainer(c)
}

// publishedFrom reads what the docker command prints of a port.
func publishedFrom(t *testing.T, text string) PublishedPort {
	t.Helper()
	host, rest, _ := strings.Cut(text, "->")
	number, protocol, _ := strings.Cut(rest, "/")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		t.Fatalf("published port %q: %v", text, err)
	}
	return PublishedPort{Host: netip.MustParseAddrPort(host), Container: uint16(port), Protocol: protocol}
}

// opened is news of connections that begin now, one microsecond after the other.
func (w *world) opened(entries ...loader.Tracked) loader.NATNews {
	return loader.NATNews{Opened: w.events(entries...)}
}

func (w *world) events(entries ...loader.Tracked) (events []loader.NATEvent) {
	for _, e := range entries {
		events = append(events, loader.NATEvent{Tracked: e, At: w.now})
		w.wait(time.Microsecond)
	}
	return events
}

// whose is all that attribution says of a translation, but for its kind.
type whose struct {
	Container, Network string
	Scope              Scope
}

func whoseOf(t Translation) whose { return whose{t.Container, t.Network, t.Scope} }

func TestTranslationsOwner(t *testing.T) {
	lookup := with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), of(unix.IPPROTO_UDP))
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
		want  whose
	}{
		{
			"masqueraded: who it comes from",
			entry("172.30.2.2:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868"),
			whose{"gamma", "back", ScopeHost},
		},
		{
			"sent on: who it goes to",
			entry("203.0.113.9:39340->192.0.2.1:8080", "172.30.1.2:80->203.0.113.9:39340"),
			whose{"alpha", "web", ScopeHost},
		},
		{
			"sent on and masqueraded: who it goes to",
			entry("172.30.2.2:39340->192.0.2.1:8080", "172.30.1.2:80->172.30.1.1:39340"),
			whose{"alpha", "web", ScopeHost},
		},
		{
			"sent on to nobody here: who it comes from",
			entry("172.30.2.2:39340->192.0.2.99:443", "203.0.113.9:443->192.0.2.1:39340"),
			whose{"gamma", "back", ScopeHost},
		},
		{
			"redirected to the host: who it comes from",
			entry("172.30.2.2:39340->203.0.113.9:80", "172.30.2.1:3128->172.30.2.2:39340"),
			whose{"gamma", "back", ScopeHost},
		},
		{
			"sent on to a task by the gateway bridge: who publishes the port",
			entry("203.0.113.9:39340->192.0.2.1:8090", "172.18.0.5:80->203.0.113.9:39340"),
			whose{"task", gatewayBridge, ScopeHost},
		},
		{
			"the host's own",
			entry("192.0.2.1:39340->203.0.113.9:80", "203.0.113.9:80->198.51.100.7:39340"),
			whose{"", "", ScopeHost},
		},
		{
			"a virtual machine's",
			entry("192.168.122.5:39340->203.0.113.9:80", "203.0.113.9:80->192.0.2.1:39340"),
			whose{"", "", ScopeHost},
		},
		{"in a container's namespace, by its cookie", with(lookup, inNetns(gammaPort)), whose{"gamma", "", ScopeContainer}},
		{"in a container's namespace, by its number", with(lookup, inNumber(gammaPort)), whose{"gamma", "", ScopeContainer}},
		{
			"the cookie goes before the number, which is used again",
			with(lookup, inNumber(gammaPort), inNetns(alphaPort)), whose{"alpha", "", ScopeContainer},
		},
		{
			"an address in a container's namespace is not the host's",
			with(entry("172.30.2.2:39340->203.0.113.9:80", "203.0.113.9:80->172.30.1.2:39340"), inNetns(alphaPort)),
			whose{"alpha", "web", ScopeContainer},
		},
		{
			"in the routing mesh",
			with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"), inNetns(77), byIPVS),
			whose{"", "", ScopeIngress},
		},
		{
			"in the routing mesh, by number",
			with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"), inNumber(77), byIPVS),
			whose{"", "", ScopeIngress},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			got := w.AttributeNAT(w.opened(tc.entry)).Translations
			if len(got) != 1 {
				t.Fatalf("%d translations at once, want 1", len(got))
			}
			if diff := cmp.Diff(tc.want, whoseOf(got[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !cmp.Equal(got[0].Tracked, tc.entry, comparers()) {
				t.Errorf("got connection %+v, want %+v", got[0].Tracked, tc.entry)
			}
		})
	}
}

func comparers() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	}
}

// The service of the mesh is known where Swarm tells: on a manager.
func TestMeshTranslationsAreTheServices(t *testing.T) {
	w := newPort(t)
	host := entry("203.0.113.9:39340->192.0.2.1:9090", "172.18.0.2:9090->203.0.113.9:39340")
	inside := with(entry("203.0.113.9:39340->172.18.0.2:9090", "10.0.0.5:9090->10.0.0.2:39340"), inNetns(77), byIPVS)
	want := Identity{Stack: "shop", Service: "front"}
	for _, tr := range w.AttributeNAT(w.opened(host, inside)).Translations {
		if tr.Identity != want || tr.ContainerID != "" {
			t.Errorf("in %s: of %+v, want %+v", tr.Scope, tr.Identity, want)
		}
	}
}

// A second later everything is known.
func TestNATOfContainersNotKnownYet(t *testing.T) {
	outgoing := entry("172.30.1.9:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868")
	incoming := entry("203.0.113.9:39340->192.0.2.1:8099", "172.30.1.9:80->203.0.113.9:39340")
	lookup := entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157")
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
		want  whose
	}{
		{"masqueraded", outgoing, whose{"late", "web", ScopeHost}},
		{"sent on", incoming, whose{"late", "web", ScopeHost}},
		{"inside, by cookie", with(lookup, inNetns(60)), whose{"late", "", ScopeContainer}},
		{"inside, by number", with(lookup, inNumber(60)), whose{"late", "", ScopeContainer}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			news := w.opened(tc.entry)
			news.Answered = w.events(tc.entry)
			if got := w.AttributeNAT(news); len(got.Translations)+len(got.Attempts)+len(got.Answered)+len(got.Connections) != 0 {
				t.Fatalf("at once: %+v, want it to wait", got)
			}
			w.wait(time.Second)
			late := on(w.container("late"), "web", "172.30.1.9")
			late.Published = []PublishedPort{publishedFrom(t, "0.0.0.0:8099->80/tcp")}
			w.connected(late, webBridge, 60)
			got := w.AttributeNAT(loader.NATNews{})
			if len(got.Translations) != 1 || len(got.Answered) != 1 {
				t.Fatalf("%d translations, %d of them answered, want 1 each", len(got.Translations), len(got.Answered))
			}
			if diff := cmp.Diff(tc.want, whoseOf(got.Translations[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tc.entry == incoming && (len(got.Attempts) != 1 || len(got.Connections) != 1 || got.Connections[0].Container != "late") {
				t.Errorf("attempts %+v, connections %+v, want one of late each", got.Attempts, got.Connections)
			}
			if again := w.AttributeNAT(loader.NATNews{}); len(again.Translations)+len(again.Answered) != 0 {
				t.Errorf("told again: %+v", again)
			}
		})
	}
}

// What is of a dead container's address may be of the one that has it next, and is the dead one's if it was before its end.
func TestNATOfTheDead(t *testing.T) {
	w := newPort(t)
	outgoing := entry("172.30.1.3:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868")
	before := w.opened(outgoing)
	w.wait(time.Second)
	w.ContainerDied(idOf("beta"))
	w.wait(time.Second)
	if got := w.AttributeNAT(before).Translations; len(got) != 1 || got[0].Container != "beta" {
		t.Errorf("before its end: %+v, want beta's", got)
	}
	after := w.opened(outgoing)
	if got := w.AttributeNAT(after).Translations; len(got) != 0 {
		t.Fatalf("after its end: %+v, want it to wait", got)
	}
	w.connected(on(w.container("heir"), "web", "172.30.1.3"), webBridge, 61)
	if got := w.AttributeNAT(loader.NATNews{}).Translations; len(got) != 1 || got[0].Container != "heir" {
		t.Errorf("after its end: %+v, want heir's", got)
	}
}

// Nobody waits for ever.
func TestNATPatience(t *testing.T) {
	w := newPort(t)
	lookup := entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157")
	w.AttributeNAT(w.opened(
		entry("172.30.1.9:58868->203.0.113.9:53", "203.0.113.9:53->192.0.2.1:58868"),
		with(lookup, inNetns(60)), with(lookup, inNumber(60)),
	))
	w.wait(patience - time.Second)
	if got := w.AttributeNAT(loader.NATNews{}).Translations; len(got) != 0 {
		t.Fatalf("%d lost patience", len(got))
	}
	w.wait(time.Second)
	want := []whose{{"", "", ScopeHost}, {"", "", ScopeUnknown}, {"", "", ScopeUnknown}}
	var got []whose
	for _, tr := range w.AttributeNAT(loader.NATNews{}).Translations {
		got = append(got, whoseOf(tr))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// As long as the engine has not told of its containers, every address may be of one.
func TestNATBeforeTheListing(t *testing.T) {
	w := newPort(t)
	w.listed = false
	w.AttributeNAT(w.opened(entry("192.168.122.5:39340->203.0.113.9:80", "203.0.113.9:80->192.0.2.1:39340")))
	w.listed = true
	if got := w.AttributeNAT(loader.NATNews{}).Translations; len(got) != 1 {
		t.Errorf("%d translations after the listing, want 1", len(got))
	}
}

// What waits is bounded.
func TestNATPendingIsBounded(t *testing.T) {
	w := newPort(t)
	lookup := with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), inNetns(60))
	news := loader.NATNews{Opened: make([]loader.NATEvent, maxPending+5)}
	for i := range news.Opened {
		news.Opened[i] = loader.NATEvent{Tracked: lookup, At: w.now}
	}
	if got := len(w.AttributeNAT(news).Translations); got != 5 {
		t.Errorf("%d found no room, want 5", got)
	}
	w.wait(patience)
	if got := len(w.AttributeNAT(loader.NATNews{}).Translations); got != maxPending {
		t.Errorf("%d had waited, want %d", got, maxPending)
	}
}

// The kernel is asked once per namespace and reading, not once per connection.
func TestNamespacesAreAskedForOnce(t *testing.T) {
	w := newPort(t)
	asked := 0
	find := w.config.NetnsID
	w.config.NetnsID = func(pid int) (int, error) { asked++; return find(pid) }
	lookup := with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), inNumber(alphaPort))
	news := w.opened(lookup, lookup, lookup, lookup, lookup)
	news.Answered = news.Opened
	if got := len(w.AttributeNAT(news).Translations); got != 5 {
		t.Fatalf("%d translations, want 5", got)
	}
	first := asked
	w.AttributeNAT(news)
	if limit := len(w.members); first > limit || asked-first > limit {
		t.Errorf("asked %d and %d times for one namespace among %d containers", first, asked-first, limit)
	}
}

// 10,000 connections of all kinds on a host with 500 containers, opened and answered within five seconds.
func BenchmarkAttributeNAT(b *testing.B) {
	const containers, connections = 500, 10000
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	s := NewState(Config{
		Host: hostNetns, Now: func() time.Time { return now }, NetnsID: func(pid int) (int, error) { return pid, nil },
	})
	s.listed = true
	s.SetHostAddresses(addresses("192.0.2.1"))
	web := bridgeNetwork("web", "172.30.0.")
	web.Subnets = []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")}
	s.PutNetwork(web)
	addressOf := func(i int) string { return fmt.Sprintf("172.30.%d.%d", 1+i/250, 1+i%250) }
	for i := range containers {
		c := on(Container{ID: idOf(fmt.Sprint(i)), Name: fmt.Sprint("c", i), PID: 1000 + i, Running: true}, "web", addressOf(i))
		c.Published = []PublishedPort{{Host: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(10000+i)), Container: 80, Protocol: "tcp"}}
		s.PutContainer(c)
	}
	var news loader.NATNews
	for i := range connections {
		address, port, published := addressOf(i%containers), 1024+i, 10000+i%containers
		e := plain(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:%d", port, published))
		switch i % 4 {
		case 0:
			e = entry(fmt.Sprintf("%s:%d->203.0.113.9:443", address, port), fmt.Sprintf("203.0.113.9:443->192.0.2.1:%d", port))
		case 1:
			e = entry(fmt.Sprintf("203.0.113.9:%d->192.0.2.1:%d", port, published), fmt.Sprintf("%s:80->203.0.113.9:%d", address, port))
		case 2:
			e = with(entry("127.0.0.1:51157->127.0.0.11:53", "127.0.0.11:40123->127.0.0.1:51157"), inNumber(1000+i%containers))
		}
		news.Opened = append(news.Opened, loader.NATEvent{Tracked: e})
	}
	news.Answered = slices.Clone(news.Opened)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(5 * time.Second)
		for i := range news.Opened {
			news.Opened[i].At, news.Answered[i].At = now, now
		}
		s.AttributeNAT(news)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*connections), "ns/connection")
}

// The gateway bridge gives the addresses of the dead to others, and the engine does not tell.
func TestLearnedAddressOfTheDead(t *testing.T) {
	address := netip.MustParseAddr("172.18.0.5")
	for _, tc := range []struct {
		name string
		step func(w *world)
		want string
	}{
		{"is another's", func(w *world) { w.ContainerDied(idOf("task")) }, "other"},
		{"not while it lives", func(*world) {}, "task"},
		{"not what the engine tells", func(w *world) {
			w.ContainerDied(idOf("task"))
			w.PutContainer(on(w.container("told"), gatewayBridge, "172.18.0.5"))
		}, "told"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.learn(address, w.members[idOf("task")])
			w.PutContainer(on(w.container("other"), "ov", "10.11.0.12"))
			w.wait(time.Second)
			tc.step(w)
			w.learn(address, w.members[idOf("other")])
			out := entry("172.18.0.5:4000->203.0.113.9:443", "203.0.113.9:443->192.0.2.1:4000")
			nat := w.AttributeNAT(w.opened(out))
			if len(nat.Translations) != 1 || nat.Translations[0].Container != tc.want {
				t.Errorf("%+v, want one of %s's", nat.Translations, tc.want)
			}
			if learned := w.learned[address]; tc.want == "told" && learned != idOf("task") {
				t.Errorf("learned that %s has it, in spite of what the engine tells", learned)
			}
		})
	}
}

// An overlay network's load balancer has a namespace of its own that nobody tells of: its translations need not wait.
func TestLoadBalancersTranslations(t *testing.T) {
	for _, tc := range []struct {
		name  string
		entry loader.Tracked
		want  []Scope // at once
	}{
		{"to a virtual address", with(entry("10.11.0.11:39340->10.11.0.5:80", "10.11.0.12:80->10.11.0.9:39340"), inNetns(78), byIPVS), []Scope{ScopeLoadBalancer}},
		{"by a rule", with(entry("10.11.0.11:39340->10.11.0.5:80", "10.11.0.12:80->10.11.0.9:39340"), inNetns(78)), nil},
		{"to elsewhere", with(entry("10.11.0.11:39340->10.12.0.5:80", "10.12.0.12:80->10.11.0.9:39340"), inNetns(78), byIPVS), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.PutNetwork(Network{
				ID: idOf("network ov"), Name: "ov", Driver: "overlay", Scope: "swarm",
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.11.0.0/24")},
			})
			var got []Scope
			for _, tr := range w.AttributeNAT(w.opened(tc.entry)).Translations {
				got = append(got, tr.Scope)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
