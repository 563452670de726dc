// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/api"
	"github.com/bridgewatch/bridgewatch/exporters/prometheus"
	"github.com/bridgewatch/bridgewatch/loader"
)

// minRetention leaves a series that begins with its container's end the time to be seen, at 0 and then with its value.
const minRetention = 30 * time.Second

// What a lookup may wait for: below it, slow answers would look lost; above it, what is waited for fills the table.
const (
	minDNSTimeout = 100 * time.Millisecond
	maxDNSTimeout = time.Minute
)

// shutdownTimeout is how long requests under way may take when the agent ends.
const shutdownTimeout = 3 * time.Second

type runCommand struct {
	ListenAddress  string        `name:"web.listen-address" default:"127.0.0.1:10470" help:"Address for /metrics, /healthz and /readyz."`
	WebConfig      string        `name:"web.config.file" help:"File with TLS and authentication, in the format of Prometheus's exporter-toolkit."`
	APISocket      string        `name:"api.socket" default:"/run/bridgewatch/bridgewatch.sock" help:"Unix socket that the other commands ask."`
	Procfs         loader.Procfs `name:"path.procfs" default:"/proc" placeholder:"DIR" help:"A procfs with the process ids of the host: in a container without --pid=host, where the host's /proc is mounted."`
	LogLevel       slog.Level    `name:"log.level" default:"info" help:"debug, info, warn or error."`
	LogFormat      string        `name:"log.format" enum:"text,json" default:"text" help:"text or json."`
	ContainerLabel string        `name:"metrics.container-label" enum:"name,service,none" default:"name" help:"What the container label holds: name, service or none."`
	Retention      time.Duration `name:"metrics.retention" default:"10m" help:"How long a container's series are kept after it is gone."`
	SeriesLimit    int           `name:"metrics.series-limit" default:"100000" help:"Series in all; what does not fit is counted as ~other."`
	FlowTable      uint32        `name:"flow.table-size" default:"32768" help:"Conversations that are told apart between two readings, 5 seconds apart at most. One takes 350 bytes."`
	DropTable      uint32        `name:"drop.table-size" default:"8192" help:"Combinations of place, reason and addresses of drops that are told apart between two readings. One takes 640 bytes."`
	NATTable       int           `name:"nat.table-size" default:"4096" help:"Connections of each sort that bridgewatch nat can show. One takes 700 bytes."`
	DNSTable       int           `name:"dns.table-size" default:"4096" help:"Lookups of each sort that bridgewatch dns can show. One takes about 1 kB."`
	DNSTimeout     time.Duration `name:"dns.timeout" default:"5s" help:"How long a lookup waits for an answer before it has failed: what resolvers wait."`
	DNSNames       dnsNamesFlag  `name:"dns.names" default:"off" help:"Which names metrics count lookups of: off, hash or top:N. hash writes hashes of the 100 that are looked up the most, which nobody can reverse; top:N writes the N that are, in full."`
	findingsFlags
	Strict bool `help:"Fail if any signal cannot run."`
}

// dnsNamesFlag reads which names metrics tell apart.
type dnsNamesFlag struct{ exporters.DNSNames }

func (f *dnsNamesFlag) UnmarshalText(text []byte) (err error) {
	f.DNSNames, err = exporters.ParseDNSNames(string(text))
	return err
}

func (c *runCommand) validate() error {
	switch {
	case c.SeriesLimit < 1000:
		return errors.New("--metrics.series-limit must be at least 1000")
	case c.FlowTable < 1024 || c.DropTable < 1024:
		return errors.New("--flow.table-size and --drop.table-size must be at least 1024")
	case c.NATTable < 1:
		return errors.New("--nat.table-size must be at least 1")
	case c.DNSTable < 1:
		return errors.New("--dns.table-size must be at least 1")
	case c.DNSTimeout < minDNSTimeout || c.DNSTimeout > maxDNSTimeout:
		return fmt.Errorf("--dns.timeout must be from %s to %s", minDNSTimeout, maxDNSTimeout)
	case c.Retention < minRetention:
		return fmt.Errorf("--metrics.retention must be at least %s: a new series shows 0 for its first 15 s", minRetention)
	}
	if c.WebConfig != "" {
		if err := web.Validate(c.WebConfig); err != nil {
			return fmt.Errorf("read --web.config.file: %w", err)
		}
	}
	return nil
}

// Run is the agent. What can fail for reasons that a person can change is tried first, before anything is attached.
func (c *runCommand) Run(ctx context.Context, to streams) error {
	if err := c.validate(); err != nil {
		return err
	}
	board, err := c.config()
	if err != nil {
		return err
	}
	if err := requirePrivileges(); err != nil {
		return err
	}
	log := c.logger(to.err)
	alone, err := claimHost()
	if err != nil {
		return err
	}
	defer alone.Close()
	scrapes, err := c.listen(log)
	if err != nil {
		return err
	}
	defer scrapes.Close()
	questions, err := listenUnix(c.APISocket)
	if err != nil {
		return err
	}
	defer questions.Close()

	store := exporters.NewStore(exporters.StoreConfig{Limit: c.SeriesLimit, Retention: c.Retention, Now: time.Now})
	agent, err := openAgent(log, store, c, board)
	if err != nil {
		return err
	}
	defer agent.close()
	if off := agent.signalsOff(); c.Strict && off != nil {
		return fmt.Errorf("--strict: %w", off)
	}
	if err := agent.openOTLP(ctx, store); err != nil {
		return err
	}
	defer agent.closeOTLP()
	if err := giveUpPrivileges(); err != nil {
		log.Warn("cannot give up privileges", "error", err)
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agent.run(ctx) })
	group.Go(func() error { return c.serveScrapes(ctx, scrapes, agent, store) })
	group.Go(func() error {
		return serve(ctx, questions, api.Handler(api.Answers{Status: agent.status, Findings: agent.findings, NAT: agent.answerNAT, DNS: agent.answerDNS}))
	})
	log.Info("bridgewatch runs", "version", version, "metrics", "http://"+scrapes.Addr().String()+"/metrics")
	if err := group.Wait(); err != nil {
		return err
	}
	log.Info("bridgewatch ends")
	return nil
}

func (c *runCommand) logger(to io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}

func (c *runCommand) listen(log *slog.Logger) (net.Listener, error) {
	listener, err := net.Listen("tcp", c.ListenAddress)
	if err != nil {
		return nil, fmt.Errorf("listen for scrapes: %w; choose another --web.listen-address", err)
	}
	if address, ok := listener.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() && c.WebConfig == "" {
		log.Warn("metrics are served to the network without TLS or authentication; see --web.config.file", "address", address)
	}
	return listener, nil
}

func (c *runCommand) serveScrapes(ctx context.Context, listener net.Listener, agent *agent, store *exporters.Store) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", prometheus.New(store, agent.collect).Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !agent.ready() {
			http.Error(w, "still reading the inventory", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	finished := shutdownAfter(ctx, server)
	config := &web.FlagConfig{WebConfigFile: &c.WebConfig}
	if err := web.Serve(listener, server, config, slog.New(slog.DiscardHandler)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve scrapes: %w", err)
	}
	<-finished
	return nil
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	finished := shutdownAfter(ctx, server)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	<-finished
	return nil
}

// shutdownAfter ends a server when ctx ends, and lets requests under way finish: then finished is closed.
func shutdownAfter(ctx context.Context, server *http.Server) (finished <-chan struct{}) {
	done := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		_ = server.Shutdown(grace) // what does not finish in time is cut off with the process
	})
	return done
}

// removeSocket removes what a killed agent left. An agent in another network namespace may still use it, and anything but a
// socket is somebody else's.
func removeSocket(path string) error {
	found, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for old --api.socket: %w", err)
	}
	if found.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("--api.socket %s is there already and is no socket; choose another", path)
	}
	if connection, err := net.Dial("unix", path); err == nil {
		connection.Close()
		return fmt.Errorf("another agent answers on --api.socket %s; choose another", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old --api.socket: %w", err)
	}
	return nil
}

// listenUnix makes the socket that only root, and the group that it is given to, can ask.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of --api.socket: %w", err)
	}
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on --api.socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("protect --api.socket: %w", err), listener.Close())
	}
	return listener, nil
}
