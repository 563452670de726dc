// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/otlp"
	"github.com/bridgewatch/bridgewatch/loader"
)

// How often things are done without being asked.
const (
	collectPeriod   = 5 * time.Second  // between readings when nobody scrapes: what the tables must hold
	resyncPeriod    = time.Minute      // between looks at what events may have missed
	costPeriod      = time.Minute      // between measurements of the programs
	costLength      = time.Second      // of one
	unwatchedPeriod = 2 * time.Second  // between looks for containers and overlay networks to be entered, and for uplinks
	placePeriod     = 10 * time.Second // between looks at whether this is the host's namespace
)

// agent wires the signals to the state and the state to the series. A signal that cannot run is nil, and signals says why.
type agent struct {
	log     *slog.Logger
	started time.Time
	procfs  loader.Procfs
	links   *loader.Links
	drops   *loader.Drops
	flows   *loader.Flows
	execs   *loader.Execs
	egress  *loader.Egresses
	state   *enrich.State
	docker  *enrich.Docker
	metrics *exporters.Metrics
	recent  *findings.Recent
	board   *findings.Board
	otlp    *otlp.Exporter // nil: nobody asked for it
	signals []exporters.Signal
	*translations
	*lookups
	*overlays

	engine     atomic.Pointer[enrich.DockerStatus] // nil: not tried yet
	collecting sync.Mutex
	judging    sync.Mutex             // taken before collecting
	inside     map[string]insideLinks // judge's own, by container ID
	uplinks    sync.Mutex
	unwatched  string                 // watchUplinks' own: what was wrong last time
	unentered  string                 // watchInside's own: what was wrong last time
	sandboxes  string                 // judge's own: the engine's folder of namespaces, once known
	apis       enrich.ClearAPIs       // judge's own
	unread     atomic.Pointer[unread] // what of the state could not be read last time
	placed     bool                   // this is the host's namespace; checkPlace's own
}

// openAgent starts whatever can run. It fails only if nothing can.
func openAgent(log *slog.Logger, store *exporters.Store, config *runCommand, board findings.Config) (*agent, error) {
	a := &agent{
		log: log, started: time.Now(), procfs: config.Procfs, metrics: exporters.NewMetrics(store),
		recent: findings.NewRecent(), board: findings.NewBoard(board),
	}
	var err error
	a.execs, err = loader.OpenExecs()
	a.signal("exec", err)
	a.flows, err = loader.OpenFlows(config.FlowTable)
	a.signal("flow", err)
	a.drops, err = loader.OpenDrops(loader.DropsConfig{TableSize: config.DropTable, Kallsyms: "/proc/kallsyms"})
	a.signal("drop", err)
	a.egress, err = loader.OpenEgress(loader.EgressConfig{})
	a.signal("egress", err)
	a.openTranslations(config)
	a.openLookups(config)
	a.openOverlays()
	if a.flows == nil && a.drops == nil && a.nat == nil && a.dns == nil {
		return nil, errors.Join(fmt.Errorf("no signal can run: %w; see bridgewatch check", a.signalsOff()), a.close())
	}
	if a.drops != nil && a.drops.NoFunctions != nil {
		log.Warn("drops have no function and few causes", "error", a.drops.NoFunctions)
	}
	if a.links, err = loader.OpenLinks(); err != nil {
		return nil, errors.Join(err, a.close())
	}
	a.checkProcfs()
	processes, host := a.processes()
	a.noteExisting(processes, host)
	a.state = enrich.NewState(enrich.Config{
		Host: host, ContainerLabel: enrich.ContainerLabel(config.ContainerLabel), NetnsID: a.procfs.NetnsID, Now: time.Now,
	})
	for _, p := range processes {
		a.state.Process(p)
	}
	if a.docker, err = enrich.OpenDocker(a.state, enrich.DockerHooks{
		Note: a.engineChanged, Settle: a.settle, Changed: a.inventoryChanged,
	}); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

// signal notes how the start of one went.
func (a *agent) signal(name string, err error) {
	s := exporters.Signal{Name: name, Since: time.Now()}
	if err != nil {
		s.Reason = err.Error()
		a.log.Warn("signal is off", "signal", name, "reason", s.Reason)
	}
	a.signals = append(a.signals, s)
}

// signalsOff joins the reasons of all signals that do not run.
func (a *agent) signalsOff() error {
	var errs []error
	for _, s := range a.signals {
		if s.Reason != "" {
			errs = append(errs, fmt.Errorf("signal %s is off: %s", s.Name, s.Reason))
		}
	}
	return errors.Join(errs...)
}

// processes lists what runs, and finds the number of the host's namespace, which is this process's own.
func (a *agent) processes() ([]loader.Process, loader.Netns) {
	if a.execs == nil {
		return nil, loader.OwnNetns()
	}
	inode, err := loader.HostNetnsInode()
	if err != nil {
		a.log.Warn("own namespace is unknown", "error", err)
	}
	processes, err := a.execs.Running()
	if err != nil {
		a.log.Warn("cannot list processes", "error", err)
	}
	for _, p := range processes {
		if p.NetnsInode == inode {
			return processes, p.Netns
		}
	}
	return processes, loader.OwnNetns()
}

// run works until ctx ends.
func (a *agent) run(ctx context.Context) error {
	a.noteCounters()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return loader.Watch(ctx, a.links, a.flows, loader.Observer{
			LinkChanged: a.state.LinkChanged,
			DeviceMoved: a.state.DeviceMoved,
			Failed:      func(err error) { a.log.Warn("device is not watched", "error", err) },

			SandboxFolder:  a.state.SandboxFolder,
			Encrypted:      a.state.Encrypted,
			OverlayWatched: a.state.OverlayDevices,
		})
	})
	group.Go(func() error { return a.docker.Run(ctx) })
	a.runTranslations(ctx, group)
	a.runLookups(ctx, group)
	a.runOverlays(ctx, group)
	group.Go(func() error { return every(ctx, placePeriod, a.checkPlace) })
	if a.execs != nil {
		group.Go(func() error { return a.execs.Run(ctx, a.state.Process) })
	}
	group.Go(func() error { return every(ctx, collectPeriod, always(a.collect)) })
	group.Go(func() error { return every(ctx, judgePeriod, always(func() { a.judge(ctx) })) })
	group.Go(func() error { return every(ctx, unwatchedPeriod, always(a.watchInside)) })
	group.Go(func() error { return every(ctx, unwatchedPeriod, always(a.watchUplinks)) })
	group.Go(func() error { return every(ctx, resyncPeriod, always(a.resync)) })
	group.Go(func() error {
		if err := loader.SampleCosts(ctx, costPeriod, costLength); err != nil {
			a.log.Warn("own cost is not measured", "error", err)
		}
		return nil
	})
	a.readAddresses()
	return group.Wait()
}

func every(ctx context.Context, period time.Duration, f func() error) error {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := f(); err != nil {
				return err
			}
		}
	}
}

// always makes what handles its own errors one of the things that are done every so often.
func always(f func()) func() error {
	return func() error {
		f()
		return nil
	}
}

// errPlace means that this is not the namespace where Docker's bridges are.
var errPlace = errors.New("none of Docker's bridges is in this network namespace; run the agent in the host's (--network host)")

// checkPlace ends an agent that would watch the wrong links and call everything unknown.
func (a *agent) checkPlace() error {
	if engine := a.engine.Load(); a.placed || engine == nil || engine.Err != nil {
		return nil
	}
	if !a.state.SeesBridges() {
		return errPlace
	}
	a.placed = true // bridges that vanish later are somebody's doing, and to be reported, not a reason to end
	return nil
}

// collect brings the series up to date with the kernel.
func (a *agent) collect() {
	a.collecting.Lock()
	defer a.collecting.Unlock()
	a.metrics.SetInventory(a.state.Inventory())
	a.showCluster()
	a.count()
	own := a.status()
	a.metrics.SetOwn(&own)
}

// settle attributes what was counted up to now, before an address may go to another container. The traffic of one that
// lived for a moment may be all that tells which address it had.
func (a *agent) settle() {
	a.collecting.Lock()
	defer a.collecting.Unlock()
	a.count()
}

// count takes what the kernel has counted all the way to the series. collecting is held.
func (a *agent) count() {
	read := a.read()
	flows, drops := a.state.Attribute(read.flows, read.drops)
	egress := a.state.AttributeEgress(read.egress)
	a.metrics.AddFlows(flows)
	a.metrics.AddDrops(drops)
	a.metrics.AddEgress(egress)
	now := time.Now()
	a.countTranslations(read.nat, now)
	a.countLookups(read.dns, drops, now)
	a.countOverlays(read.overlay, now)
	a.recent.AddFlows(flows, now)
	a.recent.AddDrops(drops, now)
	a.recent.AddEgress(egress, now)
	a.otlp.AddDrops(drops)
}

// counted is what the kernel has counted since the last reading.
type counted struct {
	flows   []loader.Flow
	drops   []loader.Drop
	egress  []loader.Egress
	nat     loader.NATNews
	dns     loader.DNSNews
	overlay []loader.OverlayTraffic
}

// read empties the tables of all signals at once: each has to wait for the kernel.
func (a *agent) read() (read counted) {
	var group errgroup.Group
	if a.flows != nil {
		group.Go(func() (err error) {
			read.flows, err = a.flows.Read()
			return err
		})
	}
	if a.drops != nil {
		group.Go(func() (err error) {
			read.drops, err = a.drops.Read()
			return err
		})
	}
	if a.egress != nil {
		group.Go(func() (err error) {
			read.egress, err = a.egress.Read()
			return err
		})
	}
	if a.nat != nil {
		group.Go(func() (err error) {
			read.nat, err = a.nat.Read()
			return err
		})
	}
	if a.dns != nil {
		group.Go(func() (err error) {
			read.dns, err = a.dns.Read()
			return err
		})
	}
	if a.overlay != nil && a.counts.Load() { // on a node that never was in a Swarm there is nothing to wait for
		group.Go(func() (err error) {
			read.overlay, err = a.overlay.Read()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		a.log.Error("cannot read all counts; they are kept", "error", err)
	}
	return read
}

// watchUplinks counts what leaves by the links that lead out of this host under an address of Docker's networks.
func (a *agent) watchUplinks() {
	if a.egress == nil {
		return
	}
	a.uplinks.Lock() // the newer view of both must not be overtaken by an older one
	defer a.uplinks.Unlock()
	devices, subnets := a.state.Uplinks()
	err := errors.Join(a.egress.SetSubnets(subnets), a.egress.SetDevices(devices))
	if warnAnew(&a.unwatched, err) {
		a.log.Warn("not all uplinks are watched", "error", err)
	}
}

// watchInside enters the containers whose devices cannot be watched from outside.
func (a *agent) watchInside() {
	if a.flows == nil {
		return
	}
	var errs []error
	unwatched := a.state.Unwatched()
	for _, id := range slices.Sorted(maps.Keys(unwatched)) {
		devices, err := a.flows.WatchSandbox(unwatched[id])
		if err != nil && !errors.Is(err, loader.ErrNetnsGone) {
			errs = append(errs, fmt.Errorf("container %.12s: %w", id, err))
		}
		for device, l := range devices {
			a.state.DeviceInside(device, l, id)
		}
	}
	if warnAnew(&a.unentered, errors.Join(errs...)) {
		a.log.Warn("not all containers without a device on the host are watched", "error", a.unentered)
	}
}

// resync looks for what no event told of.
func (a *agent) resync() {
	a.readAddresses()
	if a.flows != nil {
		if err := a.flows.Sweep(); err != nil {
			a.log.Warn("cannot forget dead devices", "error", err)
		}
		a.state.ForgetDevices(a.flows.Knows)
	}
	if a.execs == nil {
		return
	}
	processes, _ := a.processes()
	for _, p := range processes {
		a.state.Process(p)
	}
}

func (a *agent) readAddresses() {
	addresses, err := loader.HostAddresses()
	if err != nil {
		a.log.Warn("own addresses are unknown", "error", err)
		return
	}
	a.state.SetHostAddresses(addresses)
}

// inventoryChanged is told when containers or networks have come or gone. A network's bridge has an address of the host, which
// docker-proxy uses at once.
func (a *agent) inventoryChanged() {
	a.readAddresses()
	a.watchPublished()
	a.watchSwarm()
}

// engineChanged is told of the connection to Docker, and after each new one looks again at who lives where.
func (a *agent) engineChanged(status enrich.DockerStatus) {
	if status.Err == nil {
		a.resync()
		a.watchUplinks()
		a.watchSwarm()
		a.lookAtOverlays()
	}
	last := a.engine.Swap(&status) // from here on the agent is ready
	switch {
	case status.Err == nil:
		a.log.Info("connected to docker", "version", status.Version)
	case last == nil || last.Err == nil:
		a.log.Warn("docker is not there; links and drops are watched without names", "error", status.Err)
	}
}

// ready tells whether the signals run and Docker has been asked.
func (a *agent) ready() bool { return a.engine.Load() != nil }

func (a *agent) close() error {
	a.collecting.Lock() // a scrape that was cut off may still be reading
	defer a.collecting.Unlock()
	var errs []error
	if a.docker != nil {
		errs = append(errs, a.docker.Close())
	}
	if a.drops != nil {
		errs = append(errs, a.drops.Close())
	}
	if a.flows != nil {
		errs = append(errs, a.flows.Close())
	}
	if a.execs != nil {
		errs = append(errs, a.execs.Close())
	}
	if a.egress != nil {
		errs = append(errs, a.egress.Close())
	}
	if a.links != nil {
		errs = append(errs, a.links.Close())
	}
	errs = append(errs, a.translations.close(), a.lookups.close(), a.overlays.close())
	return errors.Join(errs...)
}

// checkProcfs warns of process ids that are not the host's: nothing would be found under those that the engine and the kernel
// give.
func (a *agent) checkProcfs() {
	numbers, err := a.procfs.NumbersHost()
	switch {
	case err != nil:
		a.log.Warn("it is not known whether processes have the host's ids", "error", err)
	case !numbers:
		a.log.Warn("processes do not have the host's ids here, so that the state of containers is not read; mount the host's /proc and give its place with --path.procfs, or run with --pid=host")
	}
}
