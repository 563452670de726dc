// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/swarm"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Namespaces of the named town.
const (
	deltaNetns   loader.Netns = 301
	plainNetns   loader.Netns = 302
	frontNetns   loader.Netns = 303
	overlayOther loader.Netns = 304
	sealedNetns  loader.Netns = 305
)

// newNamedTown is a host where everybody has run for a minute:
//
//	alpha    on web, also called al; its host name alpha-host is served, alpha-host.corp.test is not
//	beta     on web; its host name is old-name, which the engine does not know
//	gamma    on back, also called cache and api.example.com
//	delta    on web and back
//	sealed   on inner, which is internal
//	plain    and other on the default bridge; their host names are plain-host and other-host
//	side     in alpha's namespace, router in the host's
//	task     of the Swarm service shop_front on the overlay ov, where alone.1 of another node's manager is not known
//	guest    on ov, too
func newNamedTown(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.PutNetwork(Network{ID: idOf("network bridge"), Name: defaultBridge, Driver: "bridge", Bridge: "docker0", Predefined: true})
	w.PutNetwork(Network{ID: idOf("network ov"), Name: "ov", Driver: "overlay", Scope: "swarm"})
	w.PutNetwork(Network{ID: idOf("network ingress"), Name: "ingress", Driver: "overlay", Scope: "swarm", Predefined: true})

	alpha := on(w.container("alpha"), "web", "172.30.1.2")
	alpha.Endpoints[0].Names = append(alpha.Endpoints[0].Names, "al", "alpha-host")
	alpha.Hostname, alpha.Domain = "alpha-host", "corp.test"
	w.connected(alpha, webBridge, alphaPort)
	beta := on(w.container("beta"), "web", "172.30.1.3")
	beta.Hostname = "old-name"
	w.connected(beta, webBridge, betaPort)
	gamma := on(w.container("gamma"), "back", "172.30.2.2")
	gamma.Endpoints[0].Names = append(gamma.Endpoints[0].Names, "Cache", "api.example.com")
	w.connected(gamma, backBridge, gammaPort)
	w.put(on(on(w.container("delta"), "web", "172.30.1.4"), "back", "172.30.2.4"), deltaNetns)
	w.PutNetwork(Network{ID: idOf("network inner"), Name: "inner", Driver: "bridge", Bridge: "br-inner", Internal: true})
	w.put(on(w.container("sealed"), "inner", "172.30.3.2"), sealedNetns)
	plain := withoutNames(on(w.container("plain"), defaultBridge, "172.17.0.2"))
	plain.Hostname = "plain-host"
	w.put(plain, plainNetns)
	other := withoutNames(on(w.container("other"), defaultBridge, "172.17.0.3"))
	other.Hostname = "other-host"
	w.PutContainer(other)

	side := w.container("side")
	side.NetworkMode, side.Hostname = "container:"+alpha.ID, "alpha-host"
	w.PutContainer(side)
	router := w.container("router")
	router.NetworkMode, router.Hostname = "host", "machine"
	w.PutContainer(router)

	task := on(w.container("shop_front.1.g6q7h4vdky5j9mrpcv3n66xik"), "ov", "10.11.0.3")
	task.Labels = map[string]string{
		labelSwarmService: "shop_front", labelStack: "shop", labelSwarmTask: "shop_front.1.g6q7h4vdky5j9mrpcv3n66xik",
	}
	task = on(task, "ingress", "10.0.0.5")
	task.Hostname = task.ID[:shortID]
	w.put(task, frontNetns)
	w.put(on(w.container("guest"), "ov", "10.11.0.9"), overlayOther)
	w.wait(time.Minute)
	return w
}

// put makes a container known with its namespace.
func (w *world) put(c Container, netns loader.Netns) {
	w.t.Helper()
	w.PutContainer(c)
	w.Process(loader.Process{Netns: netns, PID: c.PID, Cgroup: c.ID})
}

func withoutNames(c Container) Container {
	for i := range c.Endpoints {
		c.Endpoints[i].Names = nil
	}
	return c
}

// explained is a lookup as it is told, at once or after a while.
func (w *world) explained(l loader.DNSLookup) Lookup {
	w.t.Helper()
	got := w.attribute(l).Lookups
	if len(got) == 0 {
		w.wait(patience)
		got = w.attribute().Lookups
	}
	if len(got) != 1 {
		w.t.Fatalf("told %d lookups, want one", len(got))
	}
	return got[0]
}

// targetsOf are targets in short: whose on which network, and what to use.
func targetsOf(l Lookup) (texts []string) {
	for _, t := range l.Targets {
		texts = append(texts, fmt.Sprintf("%s/%s@%s=%s", t.Service, t.Container, t.Network, t.UseName))
	}
	return texts
}

func TestMisname(t *testing.T) {
	type want struct {
		Misname Misname
		Targets []string
	}
	direct := at53("192.0.2.53")
	for _, tc := range []struct {
		name    string
		netns   loader.Netns
		asked   string
		changes []func(*loader.DNSLookup)
		want    want
	}{
		{name: "nobody's", netns: alphaPort, asked: "nobody"},
		{name: "with dots, and nobody's", netns: alphaPort, asked: "gamma.example.com"},
		{name: "on another network", netns: alphaPort, asked: "gamma", want: want{MisnameOtherNetwork, []string{"/gamma@back="}}},
		{
			name: "in whatever case, by an alias", netns: alphaPort, asked: "cache",
			want: want{MisnameOtherNetwork, []string{"/gamma@back="}},
		},
		{
			name: "on another network, which it names", netns: alphaPort, asked: "cache.back",
			want: want{MisnameOtherNetwork, []string{"/gamma@back="}},
		},
		{name: "of a network that its owner is not on", netns: alphaPort, asked: "gamma.ov"},
		{
			name: "an alias of another network, of one that shares one", netns: alphaPort, asked: "delta.back",
			want: want{MisnameOtherNetwork, []string{"/delta@back=delta"}},
		},
		{
			name: "on the default bridge, asked for elsewhere", netns: alphaPort, asked: "plain",
			want: want{MisnameOtherNetwork, []string{"/plain@bridge="}},
		},
		{
			name: "a host name on the default bridge, asked for elsewhere", netns: alphaPort, asked: "other-host",
			want: want{MisnameOtherNetwork, []string{"/other@bridge="}},
		},
		{
			name: "of one in the asker's namespace", netns: alphaPort, asked: "side",
			want: want{MisnameOtherNetwork, []string{"/side@=alpha"}},
		},
		{name: "of one on the host", netns: alphaPort, asked: "router", want: want{MisnameOtherNetwork, []string{"/router@="}}},
		{name: "the host's name", netns: alphaPort, asked: "machine"},
		{name: "its own host name", netns: betaPort, asked: "Old-Name", changes: []func(*loader.DNSLookup){ofQType(dns.TypeAAAA)}},
		{name: "its own, with its domain", netns: alphaPort, asked: "alpha-host.corp.test"},
		{
			name: "its own host name on the default bridge", netns: plainNetns, asked: "plain-host", changes: []func(*loader.DNSLookup){direct},
		},
		{name: "a host name, and its upstream fails", netns: alphaPort, asked: "old-name", changes: []func(*loader.DNSLookup){answeringCode(dns.RcodeServerFailure)}},
		{name: "a host name, and its upstream does not answer", netns: alphaPort, asked: "old-name", changes: []func(*loader.DNSLookup){timedOut}},
		{
			name: "a public name that is a host name, and its upstream fails", netns: betaPort, asked: "alpha-host.corp.test",
			changes: []func(*loader.DNSLookup){answeringCode(dns.RcodeServerFailure)},
		},
		{
			name: "a host name where there is no upstream", netns: sealedNetns, asked: "alpha-host.corp.test",
			changes: []func(*loader.DNSLookup){answeringCode(dns.RcodeServerFailure)}, want: want{MisnameHostname, []string{"/alpha@web="}},
		},
		{name: "a public name that is an alias elsewhere", netns: alphaPort, asked: "api.example.com", want: want{MisnameOtherNetwork, []string{"/gamma@back="}}},
		{name: "likewise, and its upstream fails", netns: alphaPort, asked: "api.example.com", changes: []func(*loader.DNSLookup){answeringCode(dns.RcodeServerFailure)}},
		{
			name: "likewise, from the default bridge", netns: plainNetns, asked: "api.example.com",
			changes: []func(*loader.DNSLookup){direct, timedOut},
		},
		{name: "a host name", netns: alphaPort, asked: "old-name", want: want{MisnameHostname, []string{"/beta@web=beta"}}},
		{
			name: "a host name with its domain", netns: betaPort, asked: "alpha-host.corp.test",
			want: want{MisnameHostname, []string{"/alpha@web=alpha"}},
		},
		{
			name: "a host name that is served there", netns: gammaPort, asked: "alpha-host",
			want: want{MisnameOtherNetwork, []string{"/alpha@web="}},
		},
		{name: "served here, but not found", netns: alphaPort, asked: "beta", want: want{MisnameMissing, []string{"/beta@web=beta"}}},
		{
			name: "by its short ID", netns: alphaPort, asked: idOf("beta")[:12],
			want: want{MisnameMissing, []string{"/beta@web=beta"}},
		},
		{name: "found", netns: alphaPort, asked: "gamma", changes: []func(*loader.DNSLookup){answering("203.0.113.9")}},
		{name: "of another type", netns: alphaPort, asked: "gamma", changes: []func(*loader.DNSLookup){ofQType(dns.TypeMX)}},
		{
			name: "its upstream fails", netns: alphaPort, asked: "gamma", changes: []func(*loader.DNSLookup){answeringCode(dns.RcodeServerFailure)},
			want: want{MisnameOtherNetwork, []string{"/gamma@back="}},
		},
		{
			name: "its upstream does not answer", netns: alphaPort, asked: "gamma", changes: []func(*loader.DNSLookup){timedOut},
			want: want{MisnameOtherNetwork, []string{"/gamma@back="}},
		},
		{name: "a resolver that does not answer misses nobody", netns: alphaPort, asked: "beta", changes: []func(*loader.DNSLookup){timedOut}},
		{name: "asked of another server", netns: alphaPort, asked: "gamma", changes: []func(*loader.DNSLookup){direct}},
		{
			name: "from the default bridge", netns: plainNetns, asked: "other", changes: []func(*loader.DNSLookup){direct},
			want: want{MisnameDefaultBridge, []string{"/other@bridge="}},
		},
		{
			name: "a host name from the default bridge", netns: plainNetns, asked: "other-host",
			changes: []func(*loader.DNSLookup){direct, timedOut},
			want:    want{MisnameDefaultBridge, []string{"/other@bridge="}},
		},
		{
			name: "of another network from the default bridge", netns: plainNetns, asked: "al",
			changes: []func(*loader.DNSLookup){direct, answeringCode(dns.RcodeRefused)},
			want:    want{MisnameDefaultBridge, []string{"/alpha@web="}},
		},
		{
			name: "a service of another network", netns: alphaPort, asked: "shop_front",
			want: want{MisnameOtherNetwork, []string{"front/front.1@ov="}},
		},
		{
			name: "a service's tasks", netns: overlayOther, asked: "tasks.shop_front",
			want: want{MisnameMissing, []string{"front/front.1@ov=shop_front"}},
		},
		{
			name: "a task", netns: alphaPort, asked: "shop_front.1.g6q7h4vdky5j9mrpcv3n66xik",
			want: want{MisnameOtherNetwork, []string{"front/front.1@ov="}},
		},
		{name: "the routing mesh serves no names", netns: alphaPort, asked: "shop_front.ingress"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newNamedTown(t)
			got := w.explained(w.asked(tc.netns, tc.asked, tc.changes...))
			if diff := cmp.Diff(tc.want, want{got.Misname, targetsOf(got)}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Who is also on another network has the engine's resolver, whomever it asks beside that.
func TestMisnameOnTwoNetworks(t *testing.T) {
	w := newNamedTown(t)
	w.PutContainer(on(w.members[idOf("plain")].Container, "web", "172.30.1.50"))
	if got := w.explained(w.asked(plainNetns, "other", at53("192.0.2.53"))); got.Misname != "" {
		t.Errorf("asked of another server: %q, want no reason", got.Misname)
	}
}

// Who was made and does not run yet may be on its way to the asker's network, which the engine does not tell before.
func TestMisnameOfCreated(t *testing.T) {
	w := newNamedTown(t)
	created := on(w.container("epsilon"), "web", "172.30.1.51")
	started := created.StartedAt
	created.Running, created.PID, created.StartedAt = false, 0, time.Time{}
	created.Endpoints[0].NetworkID = ""
	for _, known := range []func(){func() { w.SketchContainer(created) }, func() { w.PutContainer(created) }} {
		known()
		if got := w.explained(w.asked(alphaPort, "epsilon")); got.Misname != "" {
			t.Errorf("got %q of %v, want no reason", got.Misname, targetsOf(got))
		}
	}
	created.Running, created.PID, created.StartedAt = true, 4711, started
	created.Endpoints[0].NetworkID, created.Endpoints[0].Network = idOf("network back"), "back"
	w.PutContainer(created)
	if got := w.explained(w.asked(alphaPort, "epsilon")); got.Misname != MisnameOtherNetwork {
		t.Errorf("got %q, want %q", got.Misname, MisnameOtherNetwork)
	}
}

// As long as the engine does not say which network the asker has just come to, nobody's name is on another.
func TestMisnameOfNewcomer(t *testing.T) {
	w := newNamedTown(t)
	w.PutContainer(on(w.container("epsilon"), "back", "172.30.2.51"))
	asker := w.members[idOf("alpha")]
	network := asker.Endpoints[0].NetworkID
	for _, tc := range []struct {
		id   string
		want Misname
	}{{"", ""}, {network, MisnameOtherNetwork}} {
		asker.Endpoints[0].NetworkID = tc.id
		if got := w.explained(w.asked(alphaPort, "epsilon")); got.Misname != tc.want {
			t.Errorf("on network %.12q: got %q of %v, want %q", tc.id, got.Misname, targetsOf(got), tc.want)
		}
	}
}

// Who is on many networks, and of whom there are many, is named four times at most.
func TestMisnameHasFewTargets(t *testing.T) {
	w := newNamedTown(t)
	for i := range 6 {
		c := on(w.container(fmt.Sprintf("many-%d", i)), "back", fmt.Sprintf("172.30.2.%d", 20+i))
		c.Endpoints[0].Names = append(c.Endpoints[0].Names, "many")
		w.PutContainer(c)
	}
	got := w.attribute(w.asked(alphaPort, "many")).Lookups[0]
	want := []string{"/many-0@back=", "/many-1@back=", "/many-2@back=", "/many-3@back="}
	if diff := cmp.Diff(want, targetsOf(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The engine tells of a container's end and of its beginning later than its resolver does.
func TestMissingNames(t *testing.T) {
	missing := func(w *world, name string) Misname { return w.explained(w.asked(alphaPort, name)).Misname }
	t.Run("it has just died", func(t *testing.T) {
		w := newNamedTown(t)
		l := w.asked(alphaPort, "beta")
		if got := w.attribute(l).Lookups; len(got) != 0 {
			t.Fatalf("told %+v at once", got)
		}
		w.ContainerDied(idOf("beta"))
		if got := w.attribute().Lookups; len(got) != 1 || got[0].Misname != "" {
			t.Errorf("told %+v, want no reason", got)
		}
	})
	t.Run("it has begun again", func(t *testing.T) {
		w := newNamedTown(t)
		w.attribute(w.asked(alphaPort, "beta"))
		c := w.members[idOf("beta")].Container
		c.StartedAt = w.now
		w.PutContainer(c)
		if got := w.attribute().Lookups; len(got) != 1 || got[0].Misname != "" {
			t.Errorf("told %+v, want no reason", got)
		}
	})
	t.Run("it has just come to the network", func(t *testing.T) {
		w := newNamedTown(t)
		w.PutContainer(on(w.members[idOf("gamma")].Container, "web", "172.30.1.9"))
		if got := missing(w, "gamma"); got != "" {
			t.Errorf("got %q, want no reason", got)
		}
		w.wait(servedAfter)
		if got := missing(w, "gamma"); got != MisnameMissing {
			t.Errorf("later: got %q, want %q", got, MisnameMissing)
		}
	})
	t.Run("it has a new name", func(t *testing.T) {
		w := newNamedTown(t)
		c := w.members[idOf("beta")].Container
		c.Name = "renamed"
		c.Endpoints = []Endpoint{c.Endpoints[0]}
		c.Endpoints[0].Names = []string{"renamed"}
		w.PutContainer(c)
		for _, name := range []string{"beta", "renamed"} {
			if got := missing(w, name); got != "" {
				t.Errorf("%s: got %q, want no reason", name, got)
			}
		}
	})
	t.Run("told after a while", func(t *testing.T) {
		if got := missing(newNamedTown(t), "beta"); got != MisnameMissing {
			t.Errorf("got %q, want %q", got, MisnameMissing)
		}
	})
}

// Of a name that very many have a few are looked at.
func TestMisnameOfManyReplicas(t *testing.T) {
	w := newNamedTown(t)
	for i := range 100 {
		c := on(w.container(fmt.Sprintf("shop_web.%d.x", i)), "ov", fmt.Sprintf("10.11.1.%d", i))
		c.Labels = map[string]string{labelSwarmService: "shop_web", labelSwarmTask: c.Name}
		c.Endpoints[0].Names = append(c.Endpoints[0].Names, "web", "web")
		if i < 50 {
			c.Health = "starting"
		}
		w.PutContainer(c)
	}
	w.wait(time.Minute)
	if got := w.explained(w.asked(overlayOther, "web")); got.Misname != MisnameMissing || len(got.Targets) != maxTargets {
		t.Errorf("%q of %q, want %q of %d", got.Misname, targetsOf(got), MisnameMissing, maxTargets)
	}
	if got := w.attribute(w.asked(alphaPort, "web")).Lookups[0]; got.Misname != MisnameOtherNetwork || len(got.Targets) != maxTargets {
		t.Errorf("%q of %q, want %q of %d", got.Misname, targetsOf(got), MisnameOtherNetwork, maxTargets)
	}
	if got := len(w.names().holders["web"]); got != maxTargets {
		t.Errorf("%d holders are kept, want %d", got, maxTargets)
	}
}

// It is told since when who is missing could be found.
func TestMissingSince(t *testing.T) {
	since := func(w *world, name string) time.Time {
		w.t.Helper()
		got := w.explained(w.asked(alphaPort, name))
		if got.Misname != MisnameMissing || len(got.Targets) != 1 {
			w.t.Fatalf("%q of %+v, want %q of one", got.Misname, got.Targets, MisnameMissing)
		}
		return got.Targets[0].Since
	}
	w := newNamedTown(t)
	if got, want := since(w, "beta"), w.members[idOf("beta")].StartedAt; !got.Equal(want) {
		t.Errorf("of one that has always been there: %v, want %v", got, want)
	}
	w.PutContainer(on(w.members[idOf("gamma")].Container, "web", "172.30.1.9"))
	joined := w.now
	w.wait(time.Minute)
	if got := since(w, "gamma"); !got.Equal(joined) {
		t.Errorf("of one that has come to the network: %v, want %v", got, joined)
	}
	if got := w.attribute(w.asked(alphaPort, "plain")).Lookups[0]; len(got.Targets) != 1 || !got.Targets[0].Since.IsZero() {
		t.Errorf("of one on another network: %+v, want that it is not known", got.Targets)
	}
}

// Swarm has a task's names served while it is healthy and until it is told to stop; those of others are while they run.
func TestMissingTasks(t *testing.T) {
	const task, other = "shop_front.1.g6q7h4vdky5j9mrpcv3n66xik", "guest"
	for _, tc := range []struct {
		name    string
		becomes func(w *world, c Container)
		task    Misname // why the task's name is not found
		since   bool    // since what became of it
	}{
		{"without a health check", func(*world, Container) {}, MisnameMissing, false},
		{"it becomes healthy", func(w *world, c Container) {
			c.Health = "starting"
			w.PutContainer(c)
			w.wait(time.Minute)
			c.Health = healthy
			w.PutContainer(c)
			w.wait(servedAfter)
			w.PutContainer(c) // by the next listing
		}, MisnameMissing, true},
		{"it has just become healthy", func(w *world, c Container) { c.Health = healthy; w.PutContainer(c) }, "", false},
		{"it is not healthy yet", func(w *world, c Container) { c.Health = "starting"; w.PutContainer(c); w.wait(time.Hour) }, "", false},
		{"it is not healthy any more", func(w *world, c Container) { c.Health = "unhealthy"; w.PutContainer(c); w.wait(time.Hour) }, "", false},
		{"it is told to stop", func(w *world, c Container) { w.ContainerSignalled(c.ID); w.wait(time.Hour) }, "", false},
		{"it is told to stop, and listed", func(w *world, c Container) { w.ContainerSignalled(c.ID); w.PutContainer(c) }, "", false},
		{"it was told to stop, and started again", func(w *world, c Container) {
			w.ContainerSignalled(c.ID)
			w.ContainerDied(c.ID)
			w.wait(time.Minute)
			c.StartedAt = w.now
			w.PutContainer(c)
			w.wait(servedAfter)
		}, MisnameMissing, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newNamedTown(t)
			begun := w.now
			for _, name := range []string{other, task} {
				tc.becomes(w, w.members[idOf(name)].Container)
			}
			got := w.explained(w.asked(overlayOther, "tasks.shop_front"))
			if got.Misname != tc.task {
				t.Errorf("a task: %q, want %q", got.Misname, tc.task)
			}
			if len(got.Targets) == 1 && got.Targets[0].Since.After(begun) != tc.since {
				t.Errorf("known since %v, begun %v", got.Targets[0].Since, begun)
			}
			got = w.explained(w.asked(frontNetns, other))
			if got.Misname != MisnameMissing {
				t.Errorf("another container: %q, want %q", got.Misname, MisnameMissing)
			}
		})
	}
}

// A task is unregistered two seconds before it is told to stop.
func TestMissingTaskDrains(t *testing.T) {
	w := newNamedTown(t)
	if got := w.attribute(w.asked(overlayOther, "shop_front")).Lookups; len(got) != 0 {
		t.Fatalf("told %+v at once", got)
	}
	w.wait(2 * time.Second)
	w.ContainerSignalled(idOf("shop_front.1.g6q7h4vdky5j9mrpcv3n66xik"))
	if got := w.attribute().Lookups; len(got) != 1 || got[0].Misname != "" {
		t.Errorf("told %+v, want no reason", got)
	}
}

// A manager knows services whose tasks are elsewhere.
func TestMisnameOfServices(t *testing.T) {
	w := newNamedTown(t)
	w.SetServices(frontAndIdle())
	for _, tc := range []struct {
		netns   loader.Netns
		name    string
		misname Misname
		targets []string
	}{
		{alphaPort, "front", MisnameOtherNetwork, []string{"front/@ov="}},
		{alphaPort, "tasks.front.ov", MisnameOtherNetwork, []string{"front/@ov="}},
		{overlayOther, "shop_front", "", nil}, // nobody has said that it still runs
		{overlayOther, "idle", "", nil},       // without a task it has no address
		{alphaPort, "idle", MisnameOtherNetwork, []string{"idle/@ov="}},
	} {
		got := w.explained(w.asked(tc.netns, tc.name))
		if got.Misname != tc.misname || cmp.Diff(tc.targets, targetsOf(got)) != "" {
			t.Errorf("%s: %q of %q, want %q of %q", tc.name, got.Misname, targetsOf(got), tc.misname, tc.targets)
		}
	}
	w.SetServices(nil)
	if got := w.explained(w.asked(alphaPort, "front")); got.Misname != "" {
		t.Errorf("after the service's end: %q", got.Misname)
	}
}

func frontAndIdle() []Service {
	return []Service{
		{
			ID: "id of front", Name: "shop_front", Labels: map[string]string{labelStack: "shop"}, Running: 2,
			Networks: []ServiceNetwork{{NetworkID: idOf("network ov"), Aliases: []string{"front"}}},
		},
		{ID: "id of idle", Name: "idle", Networks: []ServiceNetwork{{NetworkID: idOf("network ov")}}},
	}
}

// swarmTask is one as Swarm lists it.
func swarmTask(service string, state swarm.TaskState, since time.Time, network string) swarm.Task {
	return swarm.Task{
		ServiceID: service, Status: swarm.TaskStatus{State: state, Timestamp: since},
		NetworksAttachments: []swarm.NetworkAttachment{{Network: swarm.Network{ID: network}}},
	}
}

// That a service runs is asked for anew while its name is missed: what is known of it may be a minute old, and counts those
// that are about to stop.
func TestMissingServices(t *testing.T) {
	ov := idOf("network ov")
	for _, tc := range []struct {
		name   string
		answer func(now time.Time) []swarm.Task // as of now
		before bool                             // it was asked for before the lookup
		want   time.Duration                    // since when before now; 0: it is no reason
	}{
		{"it runs", func(now time.Time) []swarm.Task {
			return []swarm.Task{
				swarmTask("id of front", swarm.TaskStateRunning, now.Add(-time.Minute), ov),
				swarmTask("id of front", swarm.TaskStateRunning, now.Add(-time.Hour), ov),
				swarmTask("id of front", swarm.TaskStateStarting, now.Add(-2*time.Hour), ov),
				swarmTask("another", swarm.TaskStateRunning, now.Add(-3*time.Hour), ov),
				swarmTask("id of front", swarm.TaskStateRunning, now.Add(-4*time.Hour), "another"),
			}
		}, false, time.Hour},
		{"it does not any more", func(time.Time) []swarm.Task { return nil }, false, 0},
		{"it is just beginning", func(now time.Time) []swarm.Task {
			return []swarm.Task{swarmTask("id of front", swarm.TaskStateRunning, now, ov)}
		}, false, 0},
		{"its node's clock is ahead", func(now time.Time) []swarm.Task {
			return []swarm.Task{swarmTask("id of front", swarm.TaskStateRunning, now.Add(time.Hour), ov)}
		}, false, 0},
		{"it ran before the lookup", func(now time.Time) []swarm.Task {
			return []swarm.Task{swarmTask("id of front", swarm.TaskStateRunning, now.Add(-time.Hour), ov)}
		}, true, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newNamedTown(t)
			w.SetServices(frontAndIdle())
			ask := func() time.Time {
				w.setTasks([]string{"id of front"}, tc.answer(w.now), w.now)
				return w.now
			}
			var asked time.Time
			if tc.before {
				asked = ask()
			}
			if got := w.attribute(w.asked(overlayOther, "front"), w.asked(overlayOther, "idle")).Lookups; len(got) != 1 {
				t.Fatalf("told %+v at once, want idle", got)
			}
			if len(w.tasks.wanted) != 1 {
				t.Fatal("nobody is asked for tasks")
			}
			if got := w.takeMissedServices(); len(got) != 1 || got[0] != "id of front" {
				t.Errorf("asks for the tasks of %q", got)
			}
			w.wait(time.Millisecond)
			if !tc.before {
				asked = ask()
			}
			w.wait(patience)
			got := w.attribute().Lookups
			if len(got) != 1 {
				t.Fatalf("told %d lookups, want one", len(got))
			}
			if tc.want == 0 {
				if got[0].Misname != "" {
					t.Errorf("got %q of %+v, want no reason", got[0].Misname, got[0].Targets)
				}
				return
			}
			if len(got[0].Targets) != 1 || got[0].Misname != MisnameMissing || !got[0].Targets[0].Since.Equal(asked.Add(-tc.want)) {
				t.Errorf("got %q of %+v, asked %v", got[0].Misname, got[0].Targets, asked)
			}
		})
	}
}

// Swarm is asked neither too often nor for too many, and who is no more is forgotten.
func TestMissedServicesAreBounded(t *testing.T) {
	w := newNamedTown(t)
	var services []Service
	for i := range 2 * maxMissed {
		id := fmt.Sprintf("s%d", i)
		services = append(services, Service{ID: id, Name: id, Running: 1, Networks: []ServiceNetwork{{NetworkID: idOf("network ov")}}})
	}
	w.SetServices(services)
	for i := range services {
		w.attribute(w.asked(overlayOther, services[i].Name, func(*loader.DNSLookup) { w.wait(-10 * time.Millisecond) }))
	}
	<-w.tasks.wanted
	if got := len(w.takeMissedServices()); got != maxMissed {
		t.Errorf("asks for %d, want %d", got, maxMissed)
	}
	w.attribute()
	if len(w.tasks.wanted) != 0 {
		t.Error("asks again at once")
	}
	w.wait(taskPause)
	w.attribute()
	if len(w.tasks.wanted) != 1 {
		t.Error("does not ask again later")
	}
	w.setTasks([]string{"s0", "s1"}, nil, w.now)
	w.SetServices(services[1:])
	if len(w.tasks.known) != 1 {
		t.Errorf("knows of %d services, want 1", len(w.tasks.known))
	}
}
