// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/bridgewatch/bridgewatch/loader"
)

func dropsIn(netns loader.Netns) []loader.Drop {
	return []loader.Drop{{Netns: netns, Reason: "NO_SOCKET", Counts: loader.Counts{Skbs: 1, Packets: 1}}}
}

// An engine that hangs is given up on after a while, wherever it hangs, and asked again.
func TestHangingEngine(t *testing.T) {
	places := []string{"/_ping", "/info", "/events", "/networks", "/containers/json"}
	var sessions []*session // at the same time, because it takes its time
	for _, where := range places {
		e := newEngine(t, "1.41")
		hung := false
		e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
			if hung {
				return false
			}
			hung = path == where
			return hangAt(where)(path, w, r)
		}
		sessions = append(sessions, follow(t, e))
	}
	stuck := newEngine(t, "1.41")
	stuck.misbehave = hangAt("/containers/" + idOf("m1") + "/json")
	withStuck := follow(t, stuck)

	for i, s := range sessions {
		t.Log(places[i])
		s.wantStatus(false)
		s.wantStatus(true)
	}
	// A single container that hangs is known from the list.
	withStuck.wantStatus(true)
	withStuck.Process(processOf("m1", 100))
	withStuck.wantNetnsOwner(100, "m1")
}

// hangAt never answers at a path.
func hangAt(where string) func(path string, w http.ResponseWriter, r *http.Request) bool {
	return func(path string, _ http.ResponseWriter, r *http.Request) bool {
		if path == where {
			<-r.Context().Done()
		}
		return path == where
	}
}

// A hanging engine does not keep the agent from ending.
func TestEndWhileHanging(t *testing.T) {
	for _, where := range []string{"/_ping", "/events", "/containers/json"} {
		t.Run(where, func(t *testing.T) {
			e := newEngine(t, "1.41")
			hangs := make(chan struct{}, 10)
			e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
				if path == where {
					hangs <- struct{}{}
				}
				return hangAt(where)(path, w, r)
			}
			s := follow(t, e)
			<-hangs
			s.stop()
			select {
			case err := <-s.ended:
				s.ended <- nil
				if err != nil {
					t.Errorf("Run ended with %v", err)
				}
			case <-time.After(2 * time.Second):
				t.Error("Run goes on")
			}
		})
	}
}

// Whatever the engine answers, it is asked again until it makes sense.
func TestLyingEngine(t *testing.T) {
	lies := map[string]func(w http.ResponseWriter){
		"truncated": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `[{"Id":"`)
			panic(http.ErrAbortHandler)
		},
		"garbage":    func(w http.ResponseWriter) { fmt.Fprint(w, "\x00\xff<html>") },
		"empty":      func(http.ResponseWriter) {},
		"wrong type": func(w http.ResponseWriter) { fmt.Fprint(w, `[[1],{"Id":{}}]`) },
		"error":      func(w http.ResponseWriter) { http.Error(w, "out of memory", http.StatusInternalServerError) },
	}
	for name, lie := range lies {
		for _, where := range []string{"/info", "/networks", "/containers/json"} {
			t.Run(name+" "+where, func(t *testing.T) {
				t.Parallel()
				e := newEngine(t, "1.41")
				e.misbehave = func(path string, w http.ResponseWriter, _ *http.Request) bool {
					if path == where {
						lie(w)
					}
					return path == where
				}
				s := follow(t, e)
				s.wantStatus(false)
				e.change(func() { e.misbehave = nil })
				s.wantStatus(true)
				if len(s.names()) != 7 {
					t.Errorf("containers are %v, want all 7", s.names())
				}
			})
		}
	}
}

// A container of which the engine talks nonsense does not cost the others their names.
func TestOneBadContainer(t *testing.T) {
	for name, answer := range map[string]string{
		"error":      "",
		"garbage":    "<html>",
		"bad MAC":    `{"Id":"x","NetworkSettings":{"Networks":{"a":{"MacAddress":"zz"}}}}`,
		"bad IP":     `{"Id":"x","NetworkSettings":{"Networks":{"a":{"IPAddress":"300.1.1.1"}}}}`,
		"wrong type": `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, "1.41")
			e.misbehave = func(path string, w http.ResponseWriter, _ *http.Request) bool {
				if path != "/containers/"+idOf("m1")+"/json" {
					return false
				}
				if answer == "" {
					http.Error(w, `{"message":"layer not known"}`, http.StatusInternalServerError)
				}
				fmt.Fprint(w, answer)
				return true
			}
			s := follow(t, e)
			s.wantStatus(true)
			if len(s.names()) < 6 {
				t.Errorf("containers are %v, want the 6 good ones", s.names())
			}
			s.Process(processOf("m1", 100))
			s.wantNetnsOwner(100, "m1")
		})
	}
}

// Documents with holes in them are taken for what they still say.
func TestHoles(t *testing.T) {
	e := newEngine(t, "1.51")
	e.change(func() {
		for i, edit := range []func(c map[string]any){
			func(c map[string]any) { c["NetworkSettings"] = nil },
			func(c map[string]any) { c["HostConfig"] = nil },
			func(c map[string]any) { c["Config"] = nil },
			func(c map[string]any) { at(c, "NetworkSettings")["Networks"] = map[string]any{"bridge": nil} },
			func(c map[string]any) { at(c, "NetworkSettings")["Networks"] = nil },
			func(c map[string]any) { at(c, "State")["StartedAt"] = "yesterday" },
			func(c map[string]any) { at(c, "State")["Pid"] = -1 },
			func(c map[string]any) { c["Name"] = "" },
			func(c map[string]any) { c["Id"] = "short" },
		} {
			fresh := copyOf(t, e.find("jolly_wozniak"))
			fresh["Id"], fresh["Name"] = idOf(fmt.Sprint("hole ", i)), fmt.Sprint("/hole-", i)
			edit(fresh)
			e.containers = append(e.containers, fresh)
		}
		e.networks = append(e.networks,
			map[string]any{"Id": "", "Name": "", "Driver": "bridge"},
			map[string]any{"Id": "short", "Name": "short", "Driver": "bridge", "IPAM": nil, "Options": nil},
		)
	})
	s := follow(t, e)
	s.wantStatus(true)
	if !s.has("hole-0") || !s.has("hole-6") {
		t.Errorf("containers are %v, want those with holes among them", s.names())
	}
	s.Unwatched()
	s.Attribute([]loader.Flow{flowOf(11, "172.17.0.2", "172.17.0.1")}, dropsIn(hostNetns))
}

// An event stream of nonsense costs a reconnection, and events without sense nothing.
func TestHostileEvents(t *testing.T) {
	e := newEngine(t, "1.51")
	s := follow(t, e)
	s.wantStatus(true)
	for _, event := range []string{
		`{}`,
		`{"Type":"container","Action":"start"}`,
		`{"Type":"container","Action":"create","Actor":{"ID":"","Attributes":null}}`,
		`{"Type":"container","Action":"create","Actor":{"ID":"../../images/json","Attributes":{"name":"up"}}}`,
		`{"Type":"network","Action":"connect","Actor":{"ID":"?","Attributes":{}}}`,
		`{"Type":"network","Action":"destroy","Actor":{"ID":"nobody"}}`,
		`{"Type":"volume","Action":"mount","Actor":{"ID":"v"}}`,
		`{"Type":"container","Action":"exec_create: sh -c 'echo \"\u0000\"'","Actor":{"ID":"` + idOf("m1") + `"}}`,
	} {
		e.emit(event)
	}
	e.change(func() { e.find("router")["Name"] = "/gateway" })
	e.event("container", "rename", idOf("router"), nil)
	s.eventually("the event after the odd ones", func() bool { return s.has("gateway") })

	e.emit("\x00 no JSON")
	s.wantStatus(false)
	s.wantStatus(true)
}

// Names are whatever a person, or a registry, put there.
func TestHostileNames(t *testing.T) {
	const name = "a\"b\\\nc\x00{}'; -- \u202e"
	e := newEngine(t, "1.51")
	e.change(func() {
		c := e.find("m1")
		c["Name"] = "/" + name
		at(c, "Config")["Image"] = strings.Repeat("i", 10000)
		at(c, "Config")["Labels"] = map[string]any{labelStack: name, labelSwarmService: name + "_" + name, "": ""}
		at(c, "NetworkSettings", "Networks")[name] = copyOf(t, at(c, "NetworkSettings", "Networks", "lan"))
	})
	s := follow(t, e)
	s.wantStatus(true)
	want := Identity{Stack: name, Service: name, Container: name}
	if got := s.live(name).Identity; got != want {
		t.Errorf("identity is %q, want %q", got, want)
	}

	// What is no UTF-8 is no JSON either, but engines have been seen to send it.
	e.misbehave = nil
	e.emit(`{"Type":"container","Action":"create","Actor":{"ID":"` + idOf("odd") + `","Attributes":{"name":"od` + "\xff" + `d"}}}`)
	s.eventually("the odd container", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		m := s.members[idOf("odd")]
		return m != nil && m.Name == "od\ufffdd"
	})
}

// FuzzContainer feeds the decoder of the engine's documents, and what is made of them.
func FuzzContainer(f *testing.F) {
	for _, version := range []string{"1.41", "1.51"} {
		for _, kind := range []string{"containers", "networks"} {
			text, err := os.ReadFile(filepath.Join("testdata", "engine-"+version, kind+".json"))
			if err != nil {
				f.Fatal(err)
			}
			var documents []json.RawMessage
			if err := json.Unmarshal(text, &documents); err != nil {
				f.Fatal(err)
			}
			for _, d := range documents {
				f.Add([]byte(d))
			}
		}
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		state := NewState(Config{
			Host: hostNetns, Now: time.Now, NetnsID: func(int) (int, error) { return 3, nil },
		})
		var n network.Inspect
		if json.Unmarshal(document, &n) == nil {
			state.PutNetwork(newNetwork(n.Network))
		}
		var c container.InspectResponse
		if json.Unmarshal(document, &c) == nil {
			state.PutContainer(newContainer(c))
		}
		state.LinkChanged(veth(11, webBridge, 3))
		state.Attribute([]loader.Flow{flowOf(11, "172.30.1.2", "172.30.1.3")}, dropsIn(hostNetns))
		state.Inventory()
		state.Unwatched()
	})
}
