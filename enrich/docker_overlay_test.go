// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/events"
)

// What a worker of 20.10 answered, whose Swarm has another node: a network that somebody made, and the routing mesh's.
const (
	ov1ID     = "w5pdc7nbxyb49db9p2degqiee"
	ingressID = "nvybi6uv790qpswfuinatgmi8"
)

func readAnswer(t *testing.T, name string) *overlayAnswer {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "overlay", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var answer overlayAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	return &answer
}

var (
	n1, n2       = netip.MustParseAddr("10.99.7.1"), netip.MustParseAddr("10.99.7.2")
	byComparison = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})
)

// told is an endpoint in short.
func told(w *overlayWord) (all []string) {
	for _, e := range w.endpoints {
		text := fmt.Sprintf("%s %q %q at %s", e.address, e.service, e.name, e.host)
		if e.local {
			text += fmt.Sprintf(", local %x", e.mac)
		}
		if e.balancer {
			text += ", balancer"
		}
		all = append(all, text)
	}
	return all
}

func TestOverlayAnswer(t *testing.T) {
	asked := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	w := newOverlayWord(readAnswer(t, "ov1-1.41"), asked)
	if diff := cmp.Diff([]string{
		`10.0.1.3 "app_web" "app_web.1.kwftwfxua2dagp15fvhws9lhe" at 10.99.7.2, local 02420a000103`,
		`10.0.1.4 "app_web" "app_web.2.nbldzy0vy81lutpyxup704n8w" at 10.99.7.1`,
		`10.0.1.6 "" "" at invalid IP, local 02420a000106, balancer`,
		`10.0.1.8 "agent" "agent.ls9c09mtn9qxq5z8rx6j6gqzg.z1fxqqp3mamjwpugyrm0bx1b8" at 10.99.7.1`,
		`10.0.1.9 "agent" "agent.lf36jlgj09l6vabn8vpkmld1e.dcerwvvrpzmd5rb374lf0ggcm" at 10.99.7.2, local 02420a000109`,
		`10.0.1.10 "rr" "rr.1.k2n14epri3zos9rlon05qjs6z" at 10.99.7.1`,
		`10.0.1.11 "rr" "rr.2.58wtjugem0si2ssqpa6zesg0k" at 10.99.7.2, local 02420a00010b`,
		`10.0.1.12 "" "c1" at 10.99.7.1`,
		`10.0.1.13 "" "c2" at 10.99.7.2, local 02420a00010d`,
	}, told(w)); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]netip.Addr{n1, n2}, w.peers, byComparison); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]overlayService{
		"": {}, "rr": {mark: 258}, "agent": {netip.MustParseAddr("10.0.1.7"), 257}, "app_web": {netip.MustParseAddr("10.0.1.2"), 256},
	}, w.services, cmp.AllowUnexported(overlayService{}), byComparison); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	for _, e := range w.endpoints {
		if !e.since.Equal(asked) {
			t.Errorf("%s is known since %s", e.address, e.since)
		}
	}
}

// Of the routing mesh all nodes' endpoints are among the tasks.
func TestOverlayAnswerOfMesh(t *testing.T) {
	if diff := cmp.Diff([]string{
		`10.0.0.2 "" "ingress-endpoint" at 10.99.7.1, balancer`,
		`10.0.0.3 "" "ingress-endpoint" at 10.99.7.2, local 02420a000003, balancer`,
		`10.0.0.5 "pub" "pub.1.dg3o2sfi8xirhpck1czes7nhj" at 10.99.7.2, local 000000000000`,
		`10.0.0.6 "pub" "pub.2.x12v7zll7w9bynjpqa2cak5kd" at 10.99.7.1`,
	}, withoutMAC(told(newOverlayWord(readAnswer(t, "ingress-1.41"), time.Now())), "10.0.0.5")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// withoutMAC blanks out the one of an endpoint.
func withoutMAC(all []string, address string) []string {
	for i, text := range all {
		if before, _, found := strings.Cut(text, "local "); found && strings.HasPrefix(text, address+" ") {
			all[i] = before + "local 000000000000"
		}
	}
	return all
}

// Engines from 29 on write an empty VIP, and how full subnets are.
func TestOverlayAnswerOfNewEngine(t *testing.T) {
	var answer overlayAnswer
	if err := json.Unmarshal([]byte(`{"Id":"x","Peers":[{"Name":"a","IP":"fd00::1"},{"Name":"b","IP":"nonsense"}],"Containers":{},
"Services":{"rr":{"VIP":"","Ports":[],"LocalLBIndex":0,"Tasks":[
 {"Name":"rr.1.a","EndpointID":"e1","EndpointIP":"10.0.1.2","Info":null},{"Name":"rr.2.b","EndpointID":"e2","EndpointIP":"","Info":{}}]}},
"Status":{"IPAM":{"Subnets":{"10.0.1.0/24":{"IPsInUse":9,"DynamicIPsAvailable":247},"fd00:1::/64":{"IPsInUse":1,"DynamicIPsAvailable":18446744073709551615},"?":{}}}}}`),
		&answer); err != nil {
		t.Fatal(err)
	}
	w := newOverlayWord(&answer, time.Now())
	if diff := cmp.Diff([]string{`10.0.1.2 "rr" "rr.1.a" at invalid IP`}, told(w)); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(addresses("fd00::1"), w.peers, byComparison); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]SubnetUse{
		{netip.MustParsePrefix("10.0.1.0/24"), 9, 247}, {netip.MustParsePrefix("fd00:1::/64"), 1, 1<<64 - 1},
	}, w.use, byComparison); diff != "" {
		t.Errorf("use (-want +got):\n%s", diff)
	}
}

// answerOverlay has the engine tell of its overlay network, in full if it is asked so.
func (e *engine) answerOverlay(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "overlay", "ov1-1.41.json"))
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	e.change(func() {
		e.networks = append(e.networks, answer)
		e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
			if path != "/networks/"+ov1ID && path != "/networks" {
				return false
			}
			shown := answer
			if r.URL.Query().Get("verbose") != "true" {
				shown = copyOf(t, answer)
				delete(shown, "Services")
			}
			w.Header().Set("Content-Type", "application/json")
			if path == "/networks" {
				_ = json.NewEncoder(w).Encode([]any{shown})
				return true
			}
			_ = json.NewEncoder(w).Encode(shown)
			return true
		}
	})
	return answer
}

// asks counts questions.
func (e *engine) asks(path string) (n int) {
	e.change(func() {
		for _, asked := range e.asked {
			if asked == path {
				n++
			}
		}
	})
	return n
}

func (s *session) endpoints(network string) (names []string) {
	for _, n := range s.Cluster().Networks {
		if n.ID != network {
			continue
		}
		for _, e := range n.Endpoints {
			names = append(names, fmt.Sprintf("%s %s/%s/%s", e.Address, e.Stack, e.Service, e.Container))
		}
	}
	return names
}

// A network is asked for once, in full, when it is first heard of, and again when there is news: not for nothing.
func TestOverlayIsAsked(t *testing.T) {
	e := newEngine(t, "1.41")
	answer := e.answerOverlay(t)
	s := follow(t, e)
	s.wantStatus(true)
	s.eventually("endpoints are known", func() bool { return len(s.endpoints(ov1ID)) == 9 })
	path := "/networks/" + ov1ID
	if asked := e.asks(path); asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	time.Sleep(overlayPause + 2*overlayTick)
	if asked := e.asks(path); asked != 1 {
		t.Errorf("asked %d times without a reason", asked)
	}
	e.change(func() {
		at(answer, "Services", "app_web")["Tasks"] = []any{}
	})
	for range 20 { // a service is updated
		e.event("service", "update", "2u8tdwtfn29bswdas7lp5db1c", map[string]string{"name": "app_web"})
	}
	s.eventually("news of a service leads to a question", func() bool { return len(s.endpoints(ov1ID)) == 7 })
	if asked := e.asks(path); asked != 2 {
		t.Errorf("asked %d times for one burst of events", asked)
	}
}

// Events are taken in while the engine takes its time over a network.
func TestOverlayQuestionsBlockNobody(t *testing.T) {
	e := newEngine(t, "1.41")
	e.answerOverlay(t)
	path := "/networks/" + ov1ID
	var open atomic.Bool
	e.change(func() {
		answer := e.misbehave
		e.misbehave = func(asked string, w http.ResponseWriter, r *http.Request) bool {
			if asked != path {
				return answer(asked, w, r)
			}
			open.Store(true)
			<-r.Context().Done()
			open.Store(false)
			return true
		}
	})
	s := follow(t, e)
	s.wantStatus(true)
	s.eventually("the question is asked", open.Load)
	e.event("service", "update", "2u8tdwtfn29bswdas7lp5db1c", map[string]string{"name": "app_web"})
	services := e.asks("/services")
	s.eventually("an event is taken in", func() bool { return e.asks("/services") > services })
	if !open.Load() {
		t.Error("it was not, before the question had its time")
	}
}

// What was said over one connection is asked for again over the next: firewall marks are others, if the engine has started anew.
func TestOverlayIsAskedAgainByEachConnection(t *testing.T) {
	w := newSwarmWorld(t)
	w.tell()
	if due := w.dueOverlays(); len(due) > 0 {
		t.Fatalf("%q are due", due)
	}
	w.distrustOverlays()
	if due := w.dueOverlays(); len(due) != 2 {
		t.Errorf("%q are due", due)
	}
}

// News of a node is news of every network: who has left is on none any more.
func TestNodeEventsOutdateOverlays(t *testing.T) {
	w := newSwarmWorld(t)
	w.tell()
	d := &Docker{state: w.State}
	d.handle(t.Context(), events.Message{Type: events.NodeEventType, Action: events.ActionRemove, Actor: events.Actor{ID: managerID}})
	w.wait(overlayPause)
	if due := w.dueOverlays(); len(due) != 2 {
		t.Errorf("%q are due", due)
	}
}

// An engine that hangs, lies or is gone costs a request's time, and nothing that is known.
func TestOverlayAnswersThatAreNone(t *testing.T) {
	for _, tc := range []struct {
		name  string
		reply func(w http.ResponseWriter, r *http.Request)
	}{
		{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"error", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"Id":"`+ov1ID+`","Services":{}}`)
		}},
		{"gone", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such network", http.StatusNotFound) }},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x00<html>") }},
		{"wrong type", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"Id":"`+ov1ID+`","Services":[1]}`) }},
		{"another network", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"Id":"other","Services":{}}`) }},
		{"elsewhere", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/v1.41/info")
			w.WriteHeader(http.StatusFound)
		}},
		{"without end", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"Id":"`+ov1ID+`","Peers":[{"IP":"10.0.0.1"}`)
			line := strings.Repeat(`,{"IP":"10.0.0.1"}`, 1<<10)
			for range 2 * maxOverlayAnswer / len(line) {
				if _, err := fmt.Fprint(w, line); err != nil {
					return
				}
			}
			fmt.Fprint(w, "]}")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, "1.41")
			e.answerOverlay(t)
			state := NewState(Config{Host: hostNetns, Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
			state.SetNode(Node{Name: "n", Role: roleWorker})
			state.SetNetworks([]Network{{ID: ov1ID, Name: "ov1", Driver: "overlay"}})
			d := e.open(state, func(DockerStatus) {})
			defer d.Close()
			if _, err := d.checkEngine(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.askOverlays(t.Context())
			known := told(state.overlays.words[ov1ID])
			if len(known) == 0 {
				t.Fatal("nothing is known to begin with")
			}
			e.change(func() {
				e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
					if path != "/networks/"+ov1ID {
						return false
					}
					tc.reply(w, r)
					return true
				}
			})
			state.overlays.words[ov1ID].tried = time.Time{}
			begun := time.Now()
			d.askOverlays(t.Context())
			if took := time.Since(begun); took > overlayTimeout+5*time.Second {
				t.Errorf("took %s", took)
			}
			w := state.overlays.words[ov1ID]
			if diff := cmp.Diff(known, told(w)); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if w.wanted.IsZero() || w.pause <= overlayPause {
				t.Errorf("asked again %s after %s, want: later, but asked", w.pause, w.wanted)
			}
		})
	}
}

// Several networks take turns.
func TestOverlaysTakeTurns(t *testing.T) {
	w := newWorld(t)
	w.SetNode(Node{Name: "n", Role: roleWorker})
	w.PutNetwork(Network{ID: "a", Driver: "overlay"})
	w.PutNetwork(Network{ID: "b", Driver: "overlay"})
	w.PutNetwork(Network{ID: "c", Driver: "overlay"})
	want := func(what string, ids ...string) {
		t.Helper()
		if got := w.dueOverlays(); !slices.Equal(got, ids) {
			t.Errorf("%s: %q are due, want %q", what, got, ids)
		}
	}
	want("at the start", "a", "b", "c")
	w.setOverlay("a", &overlayWord{asked: w.now})
	w.overlayUnanswered("c", w.now)
	want("one has had no turn", "b")
	w.setOverlay("b", &overlayWord{asked: w.now})
	w.wait(overlayPause)
	want("one had no answer", "c")
	w.setOverlay("c", &overlayWord{asked: w.now})
	want("all have")
	w.outdateOverlay("b")
	want("an event is followed by others")
	w.wait(overlayDebounce)
	want("it is over", "b")
	w.setOverlay("b", &overlayWord{asked: w.now, peers: []netip.Addr{n1}})
	w.wait(overlayRefresh - 10*time.Second)
	want("nothing happens")
	w.outdateOverlays()
	w.wait(10 * time.Second)
	want("a service changes, and time passes", "a", "c", "b")
	w.RemoveNetwork("a")
	want("one is gone", "c", "b")
	w.SetNode(Node{Name: "n"})
	want("in no Swarm")
}

// Whoever is missed again and again without anybody knowing him is asked for ever more seldom.
func TestOverlayBacksOff(t *testing.T) {
	w := newWorld(t)
	w.SetNode(Node{Name: "n", Role: roleWorker})
	w.PutNetwork(Network{ID: "a", Driver: "overlay"})
	w.setOverlay("a", &overlayWord{asked: w.now})
	asked := 0
	for range int(10 * time.Minute / time.Second) {
		w.mu.Lock()
		w.missOverlay("a")
		w.mu.Unlock()
		w.wait(time.Second)
		for _, id := range w.dueOverlays() {
			asked++
			w.setOverlay(id, &overlayWord{asked: w.now})
		}
	}
	if asked < 3 || asked > 9 {
		t.Errorf("asked %d times in ten minutes", asked)
	}
	w.outdateOverlay("a")
	w.wait(overlayPause)
	if len(w.dueOverlays()) != 1 {
		t.Error("news of it does not bring back the short pause")
	}
}
