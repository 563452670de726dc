// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// engine is a Docker engine on a unix socket that answers with what real ones of an API version answer. Whatever it is
// asked with anything but a GET, or a HEAD of /_ping, fails its test.
type engine struct {
	t      *testing.T
	socket string
	server *http.Server
	served sync.WaitGroup

	mu         sync.Mutex
	version    string // of its API
	oldest     string // API version that it still speaks
	info       map[string]any
	networks   []map[string]any
	containers []map[string]any
	listeners  map[chan string]bool // of its events
	asked      []string             // paths without the version
	misbehave  func(path string, w http.ResponseWriter, r *http.Request) bool
}

// newEngine starts one with the containers of testdata.
func newEngine(t *testing.T, version string) *engine {
	t.Helper()
	folder, err := os.MkdirTemp("", "engine") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	e := &engine{t: t, socket: filepath.Join(folder, "docker.sock"), listeners: make(map[chan string]bool)}
	e.load(version)
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *engine) load(version string) {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version, e.oldest = version, "1.12"
	if version == "1.51" {
		e.oldest = "1.24"
	}
	e.info, e.networks, e.containers = nil, nil, nil
	for name, into := range map[string]any{"info": &e.info, "networks": &e.networks, "containers": &e.containers} {
		text, err := os.ReadFile(filepath.Join("testdata", "engine-"+version, name+".json"))
		if err != nil {
			e.t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			e.t.Fatalf("%s of %s: %v", name, version, err)
		}
	}
}

func (e *engine) start() {
	e.t.Helper()
	listener, err := net.Listen("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	e.server = &http.Server{Handler: e, ReadHeaderTimeout: time.Minute}
	e.served.Go(func() { _ = e.server.Serve(listener) })
}

// stop cuts all connections, as a killed engine does.
func (e *engine) stop() {
	_ = e.server.Close()
	e.served.Wait()
}

// ServeHTTP implements http.Handler.
func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	version, path, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
	path = "/" + path
	if !found || !strings.HasPrefix(r.URL.Path, "/v") {
		version, path = "", r.URL.Path
	}
	if r.Method != http.MethodGet && (r.Method != http.MethodHead || path != "/_ping") {
		e.t.Errorf("engine was sent %s %s", r.Method, r.URL.Path)
	}
	e.mu.Lock()
	e.asked = append(e.asked, path)
	all := r.URL.Query().Get("all") == "1"
	misbehave, ours, oldest := e.misbehave, e.version, e.oldest
	e.mu.Unlock()
	if misbehave != nil && misbehave(path, w, r) {
		return
	}
	w.Header().Set("Api-Version", ours)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case version != "" && older(ours, version):
		refuse(w, fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", version, ours))
	case version != "" && older(version, oldest):
		refuse(w, fmt.Sprintf("client version %s is too old. Minimum supported API version is %s", version, oldest))
	case path == "/events":
		e.stream(w, r)
	default:
		e.answer(path, all, w)
	}
}

func refuse(w http.ResponseWriter, why string) {
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": why})
}

func older(a, b string) bool {
	minor := func(version string) int {
		n, _ := strconv.Atoi(strings.TrimPrefix(version, "1."))
		return n
	}
	return minor(a) < minor(b)
}

// answer does what needs no waiting.
func (e *engine) answer(path string, all bool, w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found any
	switch {
	case path == "/_ping":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "OK")
		return
	case path == "/info":
		found = e.info
	case path == "/networks":
		found = e.networks
	case path == "/containers/json":
		found = e.summaries(all)
	case strings.HasPrefix(path, "/networks/"):
		found = byID(e.networks, strings.TrimPrefix(path, "/networks/"))
	case strings.HasPrefix(path, "/containers/"):
		found = byID(e.containers, strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json"))
	}
	if object, isObject := found.(map[string]any); found == nil || isObject && object == nil {
		w.WriteHeader(http.StatusNotFound)
		found = map[string]string{"message": "No such thing: " + path}
	}
	_ = json.NewEncoder(w).Encode(found)
}

func byID(objects []map[string]any, id string) map[string]any {
	for _, o := range objects {
		if o["Id"] == id {
			return o
		}
	}
	return nil
}

// summaries are what a listing says of the running containers, or of all.
func (e *engine) summaries(all bool) []map[string]any {
	list := []map[string]any{}
	for _, c := range e.containers {
		state := at(c, "State")
		if !all && state["Running"] != true {
			continue
		}
		list = append(list, map[string]any{
			"Id": c["Id"], "Names": []any{c["Name"]}, "Image": at(c, "Config")["Image"], "ImageID": c["Image"],
			"Command": "/bin/server -v", "Created": 1795680421, "Ports": []any{}, "Labels": at(c, "Config")["Labels"],
			"State": state["Status"], "Status": "Up 2 minutes", "Mounts": []any{},
			"HostConfig":      map[string]any{"NetworkMode": at(c, "HostConfig")["NetworkMode"]},
			"NetworkSettings": map[string]any{"Networks": at(c, "NetworkSettings")["Networks"]},
		})
	}
	return list
}

// stream sends events until one end leaves.
func (e *engine) stream(w http.ResponseWriter, r *http.Request) {
	listener := make(chan string, 100)
	e.mu.Lock()
	e.listeners[listener] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.listeners, listener)
	}()
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case event := <-listener:
			if event == endOfStream {
				return
			}
			fmt.Fprintln(w, event)
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// endOfStream in place of an event ends the stream.
const endOfStream = ""

// emit sends one event to all who listen, as it is.
func (e *engine) emit(event string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for listener := range e.listeners {
		listener <- event
	}
}

// event sends one in the form of engines.
func (e *engine) event(kind, action, id string, attributes map[string]string) {
	e.t.Helper()
	text, err := json.Marshal(map[string]any{
		"status": action, "id": id, "from": attributes["image"], "Type": kind, "Action": action, "scope": "local",
		"Actor": map[string]any{"ID": id, "Attributes": attributes}, "time": 1795680421, "timeNano": 1795680421123456789,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.emit(string(text))
}

// change edits what the engine knows.
func (e *engine) change(edit func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	edit()
}

// find returns a container's document by name.
func (e *engine) find(name string) map[string]any {
	e.t.Helper()
	for _, c := range e.containers {
		if c["Name"] == "/"+name {
			return c
		}
	}
	e.t.Fatalf("no container %s in the test's engine", name)
	return nil
}

// at follows keys into a document.
func at(document map[string]any, keys ...string) map[string]any {
	for _, key := range keys {
		document, _ = document[key].(map[string]any)
	}
	return document
}

// copyOf makes a deep copy of a document.
func copyOf(t *testing.T, document map[string]any) map[string]any {
	t.Helper()
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	var fresh map[string]any
	if err := json.Unmarshal(text, &fresh); err != nil {
		t.Fatal(err)
	}
	return fresh
}

// open makes a Docker for the engine.
func (e *engine) open(state *State, note func(DockerStatus)) *Docker {
	e.t.Helper()
	d := &Docker{
		options: []client.Opt{client.WithHost("unix://" + e.socket)}, state: state,
		hooks: DockerHooks{Note: note, Settle: func() {}, Changed: func() {}},
	}
	if err := d.renew(); err != nil {
		e.t.Fatal(err)
	}
	return d
}
