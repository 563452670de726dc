// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// session is a Docker that runs.
type session struct {
	*world
	statuses chan DockerStatus
	stop     context.CancelFunc
	ended    chan error
}

// follow runs a Docker on the engine until the test ends.
func follow(t *testing.T, e *engine) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &session{world: newWorld(t), statuses: make(chan DockerStatus, 100), stop: cancel, ended: make(chan error, 1)}
	// Process and namespaces are not this test's business.
	s.State = NewState(Config{
		Host: hostNetns, ContainerLabel: ContainerByName, Now: time.Now,
		NetnsID: func(int) (int, error) { return -1, errNoProcess },
	})
	docker := e.open(s.State, func(status DockerStatus) { s.statuses <- status })
	go func() { s.ended <- docker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-s.ended:
		case <-time.After(5 * time.Second):
			t.Error("Run goes on after its context ended")
		}
		docker.Close()
	})
	return s
}

// wantStatus waits for the next news of the connection.
func (s *session) wantStatus(up bool) DockerStatus {
	s.t.Helper()
	select {
	case status := <-s.statuses:
		if (status.Err == nil) != up {
			s.t.Fatalf("status is %+v, want up %t", status, up)
		}
		return status
	case <-time.After(requestTimeout + 5*time.Second):
		s.t.Fatal("no news of the connection")
	}
	return DockerStatus{}
}

// eventually waits until the condition holds.
func (s *session) eventually(what string, holds func() bool) {
	s.t.Helper()
	for range 500 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("not within 5 s: %s", what)
}

func (s *session) names() []string {
	names := []string{}
	for _, c := range s.Inventory().Containers {
		names = append(names, c.Name)
	}
	return names
}

func (s *session) has(name string) bool { return strings.Contains(strings.Join(s.names(), "\n"), name) }

// Both ends of the supported engines say the same, in slightly different words.
func TestListing(t *testing.T) {
	for _, version := range []string{"1.41", "1.51"} {
		t.Run(version, func(t *testing.T) {
			e := newEngine(t, version)
			s := follow(t, e)
			status := s.wantStatus(true)
			want := map[string]string{"1.41": "20.10.24+dfsg1", "1.51": "28.5.2"}[version]
			if status.Version != want {
				t.Errorf("version is %q, want %q", status.Version, want)
			}
			wantInventory(t, s.Inventory())
		})
	}
}

func wantInventory(t *testing.T, got Inventory) {
	t.Helper()
	wantNode := Node{Name: "n1", ID: testNodeID, SwarmID: "k0wz4q8e2fjz1yhbqkzt4o2wq", Role: "manager", Address: "10.99.0.1"}
	if diff := cmp.Diff(wantNode, got.Node); diff != "" {
		t.Errorf("node: %s", diff)
	}
	type seen struct {
		Identity Identity
		Networks []string
		PID      int
		Mode     string
	}
	containers := make(map[string]seen)
	for _, c := range got.Containers {
		containers[c.Name] = seen{Identity: c.Identity, Networks: c.Networks, PID: c.PID, Mode: c.NetworkMode}
	}
	if diff := cmp.Diff(map[string]seen{
		"app_web.2." + testTaskID: {
			Identity: Identity{Stack: "app", Service: "web", Container: "web.2"}, Networks: []string{"app_backend"}, PID: 11847, Mode: "default",
		},
		"app_log." + testNodeID + ".09kq6wxydog149luo17t0g487": {
			Identity: Identity{Stack: "app", Service: "log", Container: "log.n1"}, Networks: []string{"app_backend"}, PID: 11757, Mode: "default",
		},
		"shop-db-1": {
			Identity: Identity{Stack: "shop", Service: "db", Container: "shop-db-1"},
			Networks: []string{"shop_default"}, PID: 10278, Mode: "shop_default",
		},
		"jolly_wozniak": {Identity: Identity{Container: AdHoc}, Networks: []string{"bridge"}, PID: 10200, Mode: "default"},
		"router":        {Identity: Identity{Container: "router"}, PID: 11330, Mode: "host"},
		"tuner":         {Identity: Identity{Container: "tuner"}, PID: 11391, Mode: "container:" + idOf("shop-db-1")},
		"m1":            {Identity: Identity{Container: "m1"}, Networks: []string{"lan"}, PID: 10826, Mode: "lan"},
	}, containers, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("containers: %s", diff)
	}
	networks := make(map[string]Network)
	for _, n := range got.Networks {
		networks[n.Name] = n
	}
	created := time.Date(2026, 11, 22, 8, 6, 43, 512345678, time.UTC)
	for _, want := range []Network{
		{
			ID: "f912a84383664e485580d01c187c3d783b6a447125f7dc4884cb8fa8b1419179", Name: "bridge", Driver: "bridge", Scope: "local",
			Bridge: "docker0", MTU: "1500", Subnets: prefixes("172.17.0.0/16"), Gateways: addresses("172.17.0.1"),
			Created: created, Predefined: true, Attached: 1, ICC: true, Masquerade: true,
		},
		{
			ID: "cf59ef91e357aec2abcce65c54775a48be6629503a980fcec37c9e1f556a2e4c", Name: "shop_default", Driver: "bridge", Scope: "local",
			Bridge: "br-cf59ef91e357", Subnets: prefixes("172.30.1.0/24", "fd00:30:1::/64"), Gateways: addresses("172.30.1.1", "fd00:30:1::1"),
			Labels: map[string]string{
				"com.docker.compose.network": "default", "com.docker.compose.project": "shop", "com.docker.compose.version": "2.29.1",
			},
			Created: created, Attached: 1, ICC: true, Masquerade: true,
		},
		{
			ID: "u1sixx4w1upm6mj6mf3fqj6mc", Name: "app_backend", Driver: "overlay", Scope: "swarm", VNI: "4097", Encrypted: true,
			Subnets: prefixes("10.11.0.0/24"), Gateways: addresses("10.11.0.1"),
			Labels:  map[string]string{"com.docker.stack.namespace": "app"},
			Created: created, Attached: 2, ICC: true,
		},
		{
			ID: networks["docker_gwbridge"].ID, Name: "docker_gwbridge", Driver: "bridge", Scope: "local", Bridge: "docker_gwbridge",
			Subnets: networks["docker_gwbridge"].Subnets, Gateways: networks["docker_gwbridge"].Gateways,
			Created: created, Predefined: true, Masquerade: true,
		},
		{
			ID: networks["lan"].ID, Name: "lan", Driver: "macvlan", Scope: "local", Parent: "eth0",
			Subnets: networks["lan"].Subnets, Gateways: networks["lan"].Gateways,
			Created: created, Attached: 1, ICC: true,
		},
		{
			ID: networks["host"].ID, Name: "host", Driver: "host", Scope: "local",
			Created: created, Predefined: true, Attached: 1, ICC: true,
		},
	} {
		if diff := cmp.Diff(want, networks[want.Name], cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("network %s: %s", want.Name, diff)
		}
	}
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// The endpoints of a container are found by address, both families, and by MAC.
func TestEndpoints(t *testing.T) {
	s := follow(t, newEngine(t, "1.41"))
	s.wantStatus(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, address := range addresses("172.30.1.3", "fd00:30:1::3") {
		if m := s.memberByAddress(address); m == nil || m.Name != "shop-db-1" {
			t.Errorf("address %s is of %+v, want shop-db-1", address, m)
		}
	}
	if m := s.index().mac("shop_default", mac("172.30.1.3")); m == nil || m.Name != "shop-db-1" {
		t.Errorf("MAC is of %+v, want shop-db-1", m)
	}
	router := s.members[idOf("router")]
	if len(router.Endpoints) != 1 || len(router.Endpoints[0].Addresses) != 0 {
		t.Errorf("endpoints of a host-network container: %+v, want one without addresses", router.Endpoints)
	}
}

func TestEvents(t *testing.T) {
	e := newEngine(t, "1.51")
	s := follow(t, e)
	s.wantStatus(true)

	id := idOf("shop-db-1")
	e.change(func() { e.find("shop-db-1")["Name"] = "/shop-old-1" })
	e.event("container", "rename", id, map[string]string{"name": "shop-old-1", "oldName": "/shop-db-1"})
	s.eventually("the rename", func() bool { return s.has("shop-old-1") && !s.has("shop-db-1") })

	e.event("container", "die", id, map[string]string{"name": "shop-old-1", "exitCode": "0"})
	s.eventually("the death", func() bool { return !s.has("shop-old-1") })

	e.event("container", "start", id, map[string]string{"name": "shop-old-1"})
	s.eventually("the start", func() bool { return s.has("shop-old-1") })

	e.change(func() {
		fresh := copyOf(t, e.networks[3])
		fresh["Id"], fresh["Name"] = idOf("network fresh"), "fresh"
		e.networks = append(e.networks, fresh)
	})
	e.event("network", "create", idOf("network fresh"), map[string]string{"name": "fresh", "type": "bridge"})
	hasNetwork := func() bool {
		for _, n := range s.Inventory().Networks {
			if n.Name == "fresh" && n.Bridge == "br-"+idOf("network fresh")[:12] {
				return true
			}
		}
		return false
	}
	s.eventually("the new network", hasNetwork)

	e.change(func() {
		db := e.find("shop-old-1")
		endpoint := copyOf(t, at(db, "NetworkSettings", "Networks", "shop_default"))
		endpoint["NetworkID"] = idOf("network fresh")
		at(db, "NetworkSettings", "Networks")["fresh"] = endpoint
	})
	e.event("network", "connect", idOf("network fresh"), map[string]string{"container": id, "name": "fresh", "type": "bridge"})
	s.eventually("the connection", func() bool { return cmp.Equal(s.live("shop-old-1").Networks, []string{"fresh", "shop_default"}) })

	e.change(func() { delete(at(e.find("shop-old-1"), "NetworkSettings", "Networks"), "fresh") })
	e.event("network", "disconnect", idOf("network fresh"), map[string]string{"container": id, "name": "fresh", "type": "bridge"})
	s.eventually("the disconnection", func() bool { return cmp.Equal(s.live("shop-old-1").Networks, []string{"shop_default"}) })

	e.event("network", "destroy", idOf("network fresh"), map[string]string{"name": "fresh", "type": "bridge"})
	s.eventually("the network's end", func() bool { return !hasNetwork() })
}

// Of a container that lives for a moment the event of its creation is all there is.
func TestShortLived(t *testing.T) {
	e := newEngine(t, "1.41")
	s := follow(t, e)
	s.wantStatus(true)
	id := idOf("moment")
	e.event("container", "create", id, map[string]string{
		"image": "job:1", "name": "batch-job-1", labelComposeProject: "batch", labelComposeService: "job", labelComposeNumber: "1",
	})
	s.eventually("the sketch", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.members[id] != nil
	})
	s.Process(processOf("moment", 100))
	_, drops := s.Attribute(nil, dropsIn(100))
	want := Identity{Stack: "batch", Service: "job", Container: "batch-job-1"}
	if len(drops) != 1 || drops[0].Identity != want {
		t.Errorf("drops %+v, want one of %+v", drops, want)
	}
}

// An engine that ends its stream, or is restarted, is asked again from the start.
func TestReconnect(t *testing.T) {
	e := newEngine(t, "1.41")
	s := follow(t, e)
	s.wantStatus(true)

	e.change(func() { e.find("router")["Name"] = "/gateway" })
	e.emit(endOfStream)
	s.wantStatus(false)
	s.wantStatus(true)
	if !s.has("gateway") {
		t.Errorf("containers are %v after the stream's end, want gateway among them", s.names())
	}

	e.stop()
	s.wantStatus(false)
	if !s.has("gateway") {
		t.Error("what was known is forgotten while the engine is away")
	}
	if err := os.Remove(e.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	e.change(func() { e.find("gateway")["Name"] = "/edge" })
	e.start()
	for range 10 {
		if status := <-s.statuses; status.Err == nil {
			break
		}
	}
	if !s.has("edge") {
		t.Errorf("containers are %v after the restart, want edge among them", s.names())
	}
}

// An upgraded engine may no longer speak the API version that was agreed on with the old one.
func TestUpgrade(t *testing.T) {
	e := newEngine(t, "1.51")
	s := follow(t, e)
	s.wantStatus(true)
	for _, step := range []struct{ version, oldest, want string }{
		{"1.41", "1.12", "20.10.24+dfsg1"}, // back, because something broke
		{"1.51", "1.44", "28.5.2"},         // and again
	} {
		e.load(step.version)
		e.change(func() { e.oldest = step.oldest })
		e.emit(endOfStream)
		s.wantStatus(false)
		if status := s.wantStatus(true); status.Version != step.want {
			t.Errorf("version is %q, want %q", status.Version, step.want)
		}
	}
}

func TestRefusedEngines(t *testing.T) {
	for _, tc := range []struct {
		option string
		says   string
	}{
		{"name=rootless", "rootless"},
		{"name=userns", "userns-remap"},
	} {
		t.Run(tc.option, func(t *testing.T) {
			e := newEngine(t, "1.51")
			e.change(func() { e.info["SecurityOptions"] = []any{"name=seccomp,profile=builtin", tc.option} })
			s := follow(t, e)
			select {
			case err := <-s.ended:
				s.ended <- nil
				if !errors.Is(err, ErrUnsupportedEngine) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("Run ended with %v, want it to say %s", err, tc.says)
				}
				if strings.ContainsAny(err.Error(), "\n") {
					t.Errorf("%q is more than one sentence", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("Run goes on")
			}
		})
	}
}

// The engine is found by DOCKER_HOST.
func TestCheckDocker(t *testing.T) {
	e := newEngine(t, "1.41")
	t.Setenv("DOCKER_HOST", "unix://"+e.socket)
	version, err := CheckDocker(t.Context())
	if err != nil || version != "20.10.24+dfsg1" {
		t.Errorf("got %q, %v", version, err)
	}
	e.stop()
	if _, err := CheckDocker(t.Context()); err == nil || !strings.Contains(err.Error(), "connect to docker") {
		t.Errorf("without an engine: %v, want it to say what was tried", err)
	}
	t.Setenv("DOCKER_HOST", "nonsense")
	if _, err := CheckDocker(t.Context()); err == nil || !strings.Contains(err.Error(), "find docker") {
		t.Errorf("with nonsense in DOCKER_HOST: %v, want it to say what was tried", err)
	}
}

// Listing 200 containers must not take 200 round trips one after the other, nor more than a few at once.
func TestInspectsAreBounded(t *testing.T) {
	e := newEngine(t, "1.41")
	running, most := 0, 0
	e.change(func() {
		template := e.find("jolly_wozniak")
		for i := range 200 {
			fresh := copyOf(t, template)
			fresh["Id"], fresh["Name"] = idOf(string(rune('a'+i))), "/c"+string(rune('a'+i))
			e.containers = append(e.containers, fresh)
		}
		e.misbehave = func(path string, _ http.ResponseWriter, _ *http.Request) bool {
			if !strings.HasPrefix(path, "/containers/") || path == "/containers/json" {
				return false
			}
			e.change(func() { running++; most = max(most, running) })
			time.Sleep(time.Millisecond)
			e.change(func() { running-- })
			return false
		}
	})
	s := follow(t, e)
	s.wantStatus(true)
	if got := len(s.names()); got != 207 {
		t.Errorf("%d containers, want 207", got)
	}
	e.change(func() {
		if most < 2 || most > inspectWorkers {
			t.Errorf("%d inspections at once, want 2 to %d", most, inspectWorkers)
		}
	})
}
