// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

// answer is a server that says one thing, with the header of Docker's API or without.
func answer(status int, apiVersion string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if apiVersion != "" {
			w.Header().Set("Api-Version", apiVersion)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "OK")
	})
}

// serveAt serves on an address and returns which it is.
func serveAt(t *testing.T, network, address string, handler http.Handler) netip.AddrPort {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listenAt(t, network, address)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).AddrPort()
}

func listenAt(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// hanging takes connections, since the kernel does, and says nothing.
func hanging(t *testing.T) netip.AddrPort {
	t.Helper()
	return listenAt(t, "tcp4", "127.0.0.1:0").Addr().(*net.TCPAddr).AddrPort()
}

// closing ends each connection as soon as it is made.
func closing(t *testing.T) netip.AddrPort {
	t.Helper()
	listener := listenAt(t, "tcp4", "127.0.0.1:0")
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connection.Close()
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestAnswersInClear(t *testing.T) {
	web := func(handler http.Handler) func(*testing.T) netip.AddrPort {
		return func(t *testing.T) netip.AddrPort { return serveAt(t, "tcp4", "127.0.0.1:0", handler) }
	}
	elsewhere := func(t *testing.T) netip.AddrPort {
		docker := serveAt(t, "tcp4", "127.0.0.1:0", answer(http.StatusOK, "1.41"))
		return serveAt(t, "tcp4", "127.0.0.1:0", http.RedirectHandler("http://"+docker.String()+"/_ping", http.StatusFound))
	}
	encrypted := func(t *testing.T) netip.AddrPort {
		server := httptest.NewUnstartedServer(answer(http.StatusOK, "1.41"))
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.Listener.Addr().(*net.TCPAddr).AddrPort()
	}
	nobody := func(t *testing.T) netip.AddrPort {
		listener := listenAt(t, "tcp4", "127.0.0.1:0")
		listener.Close()
		return listener.Addr().(*net.TCPAddr).AddrPort()
	}
	for _, tc := range []struct {
		name  string
		start func(*testing.T) netip.AddrPort
		want  bool
	}{
		{"an engine", web(answer(http.StatusOK, "1.41")), true},
		{"an engine that is not well", web(answer(http.StatusInternalServerError, "1.41")), true},
		{"another service that likes all", web(answer(http.StatusOK, "")), false},
		{"another service that has a version", web(answer(http.StatusNotFound, "2")), false},
		{"one that leads to an engine", elsewhere, false},
		{"TLS only", encrypted, false},
		{"hangs", hanging, false},
		{"closes", closing, false},
		{"nobody", nobody, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := AnswersInClear(t.Context(), tc.start(t)); got != tc.want {
				t.Errorf("answers in clear: %t, want %t", got, tc.want)
			}
		})
	}
}

// What is sent, and where to if a socket listens on all addresses.
func TestWhereItIsAsked(t *testing.T) {
	for _, tc := range []struct{ name, network, serves, listening, want string }{
		{"IPv4", "tcp4", "127.0.0.1", "127.0.0.1", "127.0.0.1"},
		{"another address", "tcp4", "127.0.0.2", "127.0.0.2", "127.0.0.2"},
		{"IPv4 of an IPv6 socket", "tcp4", "127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1"},
		{"all of IPv4", "tcp4", "0.0.0.0", "0.0.0.0", "127.0.0.1"},
		{"all of IPv4, of an IPv6 socket", "tcp4", "0.0.0.0", "::ffff:0.0.0.0", "127.0.0.1"},
		{"IPv6", "tcp6", "::1", "::1", "::1"},
		{"all", "tcp", "::", "::", "::1"},
		{"all of IPv6", "tcp6", "::", "::", "::1"},
		{"all, but IPv6 does not work", "tcp4", "127.0.0.1", "::", "127.0.0.1"},
		{"IPv6 alone is not IPv4's", "tcp6", "::1", "0.0.0.0", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			type question struct{ Method, URL, Host, Agent string }
			var mu sync.Mutex
			var got, want []question
			served := serveAt(t, tc.network, net.JoinHostPort(tc.serves, "0"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, question{r.Method, r.URL.String(), r.Host, r.UserAgent()})
				w.Header().Set("Api-Version", "1.41")
			}))
			if tc.want != "" {
				host := netip.AddrPortFrom(netip.MustParseAddr(tc.want), served.Port()).String()
				want = append(want, question{"GET", "/_ping", host, "bridgewatch"})
			}
			at := netip.AddrPortFrom(netip.MustParseAddr(tc.listening), served.Port())
			if answered := AnswersInClear(t.Context(), at); answered != (tc.want != "") {
				t.Errorf("%s answers in clear: %t", at, answered)
			}
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("questions (-want +got):\n%s", diff)
			}
		})
	}
}

// counted is an engine that counts how often it was asked, and may turn into something else.
type counted struct {
	mu    sync.Mutex
	asked int
	other bool
}

func (c *counted) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if !c.other {
		w.Header().Set("Api-Version", "1.41")
	}
}

func TestClearAPIs(t *testing.T) {
	var engine, other counted
	other.other = true
	at := []netip.AddrPort{serveAt(t, "tcp4", "127.0.0.1:0", &other), serveAt(t, "tcp4", "127.0.0.1:0", &engine)}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var apis ClearAPIs
	look := func(after time.Duration, addresses, want []netip.AddrPort, asked int) {
		t.Helper()
		if diff := cmp.Diff(want, apis.ask(t.Context(), addresses, start.Add(after)), cmp.Comparer(equalAddrPorts)); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", after, diff)
		}
		for name, server := range map[string]*counted{"engine": &engine, "other": &other} {
			server.mu.Lock()
			if server.asked != asked {
				t.Errorf("after %s the %s was asked %d times, want %d", after, name, server.asked, asked)
			}
			server.mu.Unlock()
		}
	}
	look(0, at, at[1:], 1)
	look(59*time.Second, at, at[1:], 1)
	look(time.Minute, at, at[1:], 2)
	engine.mu.Lock()
	engine.other = true
	engine.mu.Unlock()
	look(119*time.Second, at, at[1:], 2)
	look(2*time.Minute, at, nil, 3)
	look(125*time.Second, nil, nil, 3)
	engine.mu.Lock()
	engine.other = false
	engine.mu.Unlock()
	look(130*time.Second, at, at[1:], 4) // they are back, and may be somebody else
}

func equalAddrPorts(a, b netip.AddrPort) bool { return a == b }

// However many say nothing, there is time for those that do.
func TestClearAPIsAreAskedTogether(t *testing.T) {
	var addresses []netip.AddrPort
	for range 5 {
		addresses = append(addresses, hanging(t))
	}
	want := []netip.AddrPort{serveAt(t, "tcp4", "127.0.0.1:0", answer(http.StatusOK, "1.41"))}
	var apis ClearAPIs
	if diff := cmp.Diff(want, apis.ask(t.Context(), append(addresses, want...), time.Now()), cmp.Comparer(equalAddrPorts)); diff != "" {
		t.Errorf("in clear (-want +got):\n%s", diff)
	}
}

func TestExposed(t *testing.T) {
	var listeners []loader.Listener
	for _, address := range []string{
		"127.0.0.1:2375", "127.0.0.2:2375", "[::1]:2375", "[::ffff:127.0.0.1]:2375", "0.0.0.0:2376", "[::]:80",
		"0.0.0.0:2375", "192.0.2.2:2375", "[::]:2375", "[::]:2375", // two processes may share one
	} {
		listeners = append(listeners, loader.Listener{Address: netip.MustParseAddrPort(address)})
	}
	var want []netip.AddrPort
	for _, l := range listeners[6:9] {
		want = append(want, l.Address)
	}
	if diff := cmp.Diff(want, exposed(listeners), cmp.Comparer(equalAddrPorts)); diff != "" {
		t.Errorf("exposed (-want +got):\n%s", diff)
	}
}
