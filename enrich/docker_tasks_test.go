// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What a manager of 28.5 answers, shortened.
const runningTasks = `[
{"ID":"kdjv2y9w1qjk4yq8dr1rt2c3e","ServiceID":"2u8tdwtfn29bswdas7lp5db1c","Slot":1,"NodeID":"n2",
 "Status":{"Timestamp":"2026-11-22T08:07:41.123456789Z","State":"running","Message":"started","PortStatus":{}},"DesiredState":"running",
 "NetworksAttachments":[{"Network":{"ID":"u1sixx4w1upm6mj6mf3fqj6mc","Spec":{"Name":"app_backend"}},"Addresses":["10.11.0.7/24"]}]},
{"ID":"0q9b6a5c8m2z7x1v3n4k5j6h7","ServiceID":"2u8tdwtfn29bswdas7lp5db1c","Slot":2,"NodeID":"n1",
 "Status":{"Timestamp":"2026-11-22T08:06:00Z","State":"preparing","Message":"preparing","PortStatus":{}},"DesiredState":"running",
 "NetworksAttachments":[{"Network":{"ID":"u1sixx4w1upm6mj6mf3fqj6mc","Spec":{"Name":"app_backend"}},"Addresses":["10.11.0.8/24"]}]}]`

// Tasks are asked for when the name of their service is missed.
func TestMissedServicesAreAskedFor(t *testing.T) {
	e := newEngine(t, "1.51")
	filters := make(chan string, 10)
	e.change(func() {
		e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
			text := map[string]string{"/services": swarmServices, "/networks/docker_gwbridge": gatewayBridgeNetwork, "/tasks": runningTasks}[path]
			if text == "" {
				return false
			}
			if path == "/tasks" {
				filters <- r.URL.Query().Get("filters")
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, text)
			return true
		}
	})
	s := follow(t, e)
	s.wantStatus(true)
	const web, backend = "2u8tdwtfn29bswdas7lp5db1c", "u1sixx4w1upm6mj6mf3fqj6mc"
	s.mu.Lock()
	holder := nameHolder{service: &s.services[1], network: backend}
	_, known := s.tasks.since(&holder, time.Now())
	s.tasks.want(time.Now())
	s.mu.Unlock()
	if known || holder.service.ID != web {
		t.Fatalf("tasks of %+v are known before anybody asked", holder.service)
	}
	want := `{"desired-state":{"running":true},"service":{"` + web + `":true}}`
	select {
	case got := <-filters:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nobody asks for tasks")
	}
	begun := time.Date(2026, 11, 22, 8, 7, 41, 123456789, time.UTC)
	s.eventually("it is known since when a task runs", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		since, known := s.tasks.since(&holder, time.Time{})
		return known && !since.After(begun) && !since.IsZero()
	})
}

// Health and signals are heard of at once.
func TestHealthAndSignals(t *testing.T) {
	for _, version := range []string{"1.41", "1.51"} {
		t.Run(version, func(t *testing.T) {
			e := newEngine(t, version)
			id := idOf("shop-db-1")
			health := func(status string) {
				e.change(func() {
					at(e.find("shop-db-1"), "State")["Health"] = map[string]any{"Status": status, "FailingStreak": 0, "Log": []any{}}
				})
			}
			health("starting")
			s := follow(t, e)
			s.wantStatus(true)
			if got := s.live("shop-db-1").Health; got != "starting" {
				t.Errorf("health is %q", got)
			}
			if got := s.live("router").Health; got != "" {
				t.Errorf("health of one without a check is %q", got)
			}
			health("healthy")
			e.event("container", "health_status: healthy", id, map[string]string{"name": "shop-db-1"})
			s.eventually("it is healthy", func() bool { return s.live("shop-db-1").Health == healthy })
			health("none")
			e.event("container", "update", id, map[string]string{"name": "shop-db-1"})
			s.eventually("it has no check", func() bool { return s.live("shop-db-1").Health == "" })

			e.event("container", "kill", id, map[string]string{"name": "shop-db-1", "signal": "15"})
			s.eventually("it is told to stop", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.members[id].stopping
			})
		})
	}
}
