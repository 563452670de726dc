// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What engines say of a port that is taken, 20.10 and 28.
const (
	allocated  = "driver failed programming external connectivity on endpoint two (c0b1a549bc7f): Bind for 0.0.0.0:8080 failed: port is already allocated"
	proxyInUse = "driver failed programming external connectivity on endpoint three (ac442e084f8d): Error starting userland proxy: listen tcp4 0.0.0.0:9090: bind: address already in use"
	hostInUse  = "failed to set up container networking: driver failed programming external connectivity on endpoint c (0123): failed to bind host port for 127.0.0.1:8081:172.17.0.2:80/tcp: address already in use"
)

func TestReadFailure(t *testing.T) {
	for _, tc := range []struct {
		failure string
		taken   bool
		port    uint16
		at      string // address and protocol, as far as they are known
	}{
		{allocated, true, 8080, "0.0.0.0 "},
		{proxyInUse, true, 9090, "0.0.0.0 tcp"},
		{hostInUse, true, 8081, "127.0.0.1 tcp"},
		{"failed to set up container networking: failed to bind host port 0.0.0.0:8082/tcp: address already in use", true, 8082, "0.0.0.0 tcp"},
		{"failed to bind host port 192.0.2.1:514/udp: address already in use", true, 514, "192.0.2.1 udp"},
		{"Bind for :::8083 failed: port is already allocated", true, 8083, ":: "},
		{"Bind for [::]:8084 failed: port is already allocated", true, 8084, ":: "},
		{"Error starting userland proxy: listen udp6 [::1]:8085: bind: address already in use", true, 8085, "::1 udp"},
		{"failed to bind host port for [::]:8086:[fd00::2]:80/tcp: address already in use", true, 8086, ":: tcp"},
		{"Bind for :8087 failed: port is already allocated", true, 8087, "invalid IP "},
		{"Bind for 0.0.0.0:70000 failed: port is already allocated", true, 0, "invalid IP "},
		{"address already in use", true, 0, "invalid IP "},
		{"failed to create task for container: exec: \"nginx\": executable file not found in $PATH", false, 0, "invalid IP "},
		{"", false, 0, "invalid IP "},
	} {
		if taken := isPortTaken(tc.failure); taken != tc.taken {
			t.Errorf("%q: taken %t, want %t", tc.failure, taken, tc.taken)
		}
		var u UnstartedContainer
		u.readFailure(tc.failure)
		if at := u.Address.String() + " " + u.Protocol; u.Error != tc.failure || u.Port != tc.port || at != tc.at {
			t.Errorf("%q: port %d of %q, want %d of %q", u.Error, u.Port, at, tc.port, tc.at)
		}
	}
}

// addStopped gives the engine a container that does not run.
func (e *engine) addStopped(name, state, failure string) {
	e.t.Helper()
	e.change(func() {
		c := copyOf(e.t, e.find("shop-db-1"))
		c["Id"], c["Name"] = idOf(name), "/"+name
		for key, value := range map[string]any{"Running": false, "Status": state, "Pid": 0, "Error": failure} {
			at(c, "State")[key] = value
		}
		at(c, "Config")["Labels"] = map[string]any{}
		e.containers = append(e.containers, c)
	})
}

func TestUnstarted(t *testing.T) {
	e := newEngine(t, "1.41")
	e.addStopped("two", "created", allocated)
	e.addStopped("three", "exited", proxyInUse)
	e.addStopped("ended", "exited", "")
	e.addStopped("broken", "created", "exec: no such file")
	e.addStopped("dead", "dead", allocated) // being removed
	s := follow(t, e)
	s.wantStatus(true)
	want := []UnstartedContainer{
		{Identity{Container: "three"}, idOf("three"), "three", proxyInUse, 9090, netip.IPv4Unspecified(), "tcp"},
		{Identity{Container: "two"}, idOf("two"), "two", allocated, 8080, netip.IPv4Unspecified(), ""},
	}
	wantUnstarted(t, s, want)

	// A failing start is heard of by the network that it gives up: nothing else is told.
	e.addStopped("four", "created", hostInUse)
	e.event("network", "disconnect", idOf("network shop_default"), map[string]string{"name": "shop_default", "container": idOf("four")})
	want = []UnstartedContainer{{Identity{Container: "four"}, idOf("four"), "four", hostInUse, 8081, netip.MustParseAddr("127.0.0.1"), "tcp"}, want[0], want[1]}
	s.eventually("four failed", func() bool { return len(s.Inventory().Unstarted) == 3 })
	wantUnstarted(t, s, want)

	// One starts after all, one is removed.
	e.change(func() {
		state := at(e.find("two"), "State")
		state["Running"], state["Status"], state["Pid"], state["Error"] = true, "running", 4712, ""
	})
	e.event("container", "start", idOf("two"), map[string]string{"name": "two"})
	e.event("container", "destroy", idOf("three"), map[string]string{"name": "three"})
	s.eventually("one is left", func() bool { return len(s.Inventory().Unstarted) == 1 })
	wantUnstarted(t, s, want[:1])
}

func wantUnstarted(t *testing.T, s *session, want []UnstartedContainer) {
	t.Helper()
	if diff := cmp.Diff(want, s.Inventory().Unstarted, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("unstarted (-want +got):\n%s", diff)
	}
}

// Of very many that do not run the newest are asked, and those that are known; who is gone is forgotten.
func TestUnstartedIsBounded(t *testing.T) {
	e := newEngine(t, "1.51")
	for i := range maxUnstarted {
		e.addStopped(fmt.Sprint("ended-", i), "exited", "")
	}
	e.addStopped("two", "created", allocated)
	s := newWorld(t)
	docker := e.open(s.State, func(DockerStatus) {})
	defer docker.Close()
	if _, err := docker.checkEngine(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := func() (asked int, unstarted []UnstartedContainer) {
		t.Helper()
		e.change(func() { e.asked = nil })
		if err := docker.list(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.change(func() {
			for _, path := range e.asked {
				if path == "/containers/"+idOf("two")+"/json" {
					asked++
				}
			}
		})
		return asked, s.Inventory().Unstarted
	}
	if asked, unstarted := list(); asked != 0 || len(unstarted) != 0 {
		t.Errorf("two is the oldest, and was asked %d times: %+v", asked, unstarted)
	}
	s.noteStart(&Container{ID: idOf("two"), Name: "two"}, allocated)
	if asked, unstarted := list(); asked != 1 || len(unstarted) != 1 {
		t.Errorf("two is known, and was asked %d times: %+v", asked, unstarted)
	}
	e.change(func() { e.containers = e.containers[:len(e.containers)-1] })
	if _, unstarted := list(); len(unstarted) != 0 {
		t.Errorf("two is no more: %+v", unstarted)
	}
}
