// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// How the engine is asked. Requests have a time limit each: an engine that hangs must not stop the rest of the agent.
const (
	requestTimeout = 10 * time.Second
	inspectWorkers = 8
	relistPeriod   = time.Minute
	maxBatch       = 256                  // events taken in together
	batchPause     = 2 * time.Millisecond // that ends a burst of them
	retryFirst     = 500 * time.Millisecond
	retryLast      = 15 * time.Second
)

// ErrUnsupportedEngine means an engine whose networks cannot be seen from here. Its text says which and what to do.
var ErrUnsupportedEngine = errors.New("unsupported engine")

// Docker keeps a State in step with the engine: by its events, and by full listings at the start, after every gap in
// the events, and now and then.
type Docker struct {
	options []client.Opt
	api     *client.Client // of the current connection
	state   *State
	hooks   DockerHooks
}

// DockerHooks are called by the one goroutine that follows the engine.
type DockerHooks struct {
	// Note is told when the connection comes and goes.
	Note func(DockerStatus)
	// Settle is called before anything is taken in that may give an address to another container: what was counted up
	// to now must be attributed first. Docker hands out the addresses of the dead again at once.
	Settle func()
	// Changed is called when something was taken in.
	Changed func()
}

// DockerStatus is the state of the connection to the engine.
type DockerStatus struct {
	Err     error // nil: connected, and the listing is in
	Version string
}

// OpenDocker finds the engine as the docker command does (DOCKER_HOST, DOCKER_CERT_PATH, DOCKER_TLS_VERIFY). It does
// not connect.
func OpenDocker(state *State, hooks DockerHooks) (*Docker, error) {
	d := &Docker{options: []client.Opt{client.FromEnv}, state: state, hooks: hooks}
	if err := d.renew(); err != nil {
		return nil, err
	}
	return d, nil
}

// renew makes a client for the next connection. A client agrees on an API version once, and an engine that was upgraded
// meanwhile may not speak that any more.
func (d *Docker) renew() error {
	api, err := client.New(d.options...)
	if err != nil {
		return fmt.Errorf("find docker: %w", err)
	}
	if d.api != nil {
		_ = d.api.Close() // only drops idle connections
	}
	d.api = api
	return nil
}

// Close ends the connection. It is to be called after Run.
func (d *Docker) Close() error { return d.api.Close() }

// Run follows the engine until ctx ends, through its absence and its restarts. It fails only with ErrUnsupportedEngine.
func (d *Docker) Run(ctx context.Context) error {
	wait := retryFirst
	for {
		connected, err := d.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrUnsupportedEngine) {
			return err
		}
		d.hooks.Note(DockerStatus{Err: err})
		if connected {
			wait = retryFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, retryLast)
	}
}

// follow subscribes, lists, and then takes in events until they end. connected: it came as far as that.
func (d *Docker) follow(ctx context.Context) (connected bool, err error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.renew(); err != nil {
		return false, err
	}
	version, err := d.checkEngine(ctx)
	if err != nil {
		return false, err
	}
	limit := time.AfterFunc(requestTimeout, cancel) // of the stream's beginning; the stream itself has none
	stream := d.api.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).
		Add("type", string(events.ContainerEventType), string(events.NetworkEventType), string(events.ServiceEventType),
			string(events.NodeEventType))})
	if !limit.Stop() {
		return false, fmt.Errorf("follow docker events: %w", context.DeadlineExceeded)
	}
	if err := d.list(ctx); err != nil {
		return false, err
	}
	d.hooks.Note(DockerStatus{Version: version})
	relist := time.NewTicker(relistPeriod)
	defer relist.Stop()
	asking.Go(func() { d.keepAskingOverlays(ctx) })
	for {
		select {
		case message := <-stream.Messages:
			batch := gather(message, stream.Messages)
			if slices.ContainsFunc(batch, movesAddresses) {
				d.hooks.Settle()
			}
			for _, message := range batch {
				d.handle(ctx, message)
			}
			switch {
			case slices.ContainsFunc(batch, changesSwarm):
				d.listSwarm(ctx)
			case d.state.Node().Role != "" && slices.ContainsFunc(batch, startsContainer):
				d.listGatewayBridge(ctx)
			}
			d.hooks.Changed()
		case <-d.state.swarmWanted:
			d.listSwarm(ctx)
			d.hooks.Changed()
		case <-d.state.tasks.wanted:
			d.listTasks(ctx)
		case err := <-stream.Err:
			return true, fmt.Errorf("follow docker events: %w", err)
		case <-relist.C:
			if err := d.list(ctx); err != nil {
				return true, err
			}
		}
	}
}

// checkEngine connects, agrees on an API version, and refuses engines that put their networks where no host's agent
// can see them.
func (d *Docker) checkEngine(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := d.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return "", fmt.Errorf("connect to docker: %w", err)
	}
	info, err := d.askNode(ctx)
	if err != nil {
		return "", err
	}
	for _, option := range info.SecurityOptions {
		switch {
		case strings.Contains(option, "name=rootless"):
			return "", fmt.Errorf("%w: rootless Docker keeps its networks in a namespace of its own; run the agent inside it or use rootful Docker", ErrUnsupportedEngine)
		case strings.Contains(option, "name=userns"):
			return "", fmt.Errorf("%w: remapped user namespaces (userns-remap) hide the containers; turn userns-remap off", ErrUnsupportedEngine)
		}
	}
	return info.ServerVersion, nil
}

// askNode asks the engine about itself, and takes in which node it is.
func (d *Docker) askNode(ctx context.Context) (system.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return system.Info{}, fmt.Errorf("ask docker about itself: %w", err)
	}
	d.takeNode(&result.Info)
	return result.Info, nil
}

// takeNode takes in which node it is. An engine that cannot work in its Swarm right now, as while it starts, while it is locked
// or when it is out of certificates, still is what it was in it.
func (d *Docker) takeNode(info *system.Info) {
	node := newNode(info.Name, info.Swarm)
	switch last := d.state.Node(); {
	case !isMember(info.Swarm.LocalNodeState):
	case info.Swarm.LocalNodeState != swarm.LocalNodeStateActive:
		last.Name = node.Name
		node = last
	case node.SwarmID == "" && node.ID == last.ID:
		node.SwarmID = last.SwarmID // managers without a majority do not say it
	}
	d.state.SetNode(node)
	d.state.setSwarmInfo(newSwarmInfo(info.Swarm))
}

// isMember tells whether an engine belongs to a Swarm, working or not.
func isMember(state swarm.LocalNodeState) bool {
	return state != "" && state != swarm.LocalNodeStateInactive
}

// Roles of a node in its Swarm.
const (
	roleManager = "manager"
	roleWorker  = "worker"
)

func newNode(name string, info swarm.Info) Node {
	node := Node{Name: name, ID: info.NodeID, Address: info.NodeAddr}
	if info.LocalNodeState == swarm.LocalNodeStateActive {
		node.Role = roleWorker
		if info.ControlAvailable {
			node.Role = roleManager
		}
	}
	if info.Cluster != nil {
		node.SwarmID = info.Cluster.ID
	}
	return node
}

// list takes in all networks and all running containers.
func (d *Docker) list(ctx context.Context) error {
	begun := time.Now()
	networks, err := d.listNetworks(ctx)
	if err != nil {
		return err
	}
	d.state.SetNetworks(networks)
	listCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	all, err := d.api.ContainerList(listCtx, client.ContainerListOptions{All: true})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	d.state.SetAttachments(attachments(all.Items))
	var mu sync.Mutex
	var containers []Container
	inspectCtx, cancel := context.WithTimeout(ctx, relistPeriod)
	defer cancel()
	group, inspectCtx := errgroup.WithContext(inspectCtx)
	group.SetLimit(inspectWorkers)
	for _, summary := range all.Items {
		if !isRunning(summary.State) {
			continue
		}
		group.Go(func() error {
			c, err := d.inspect(inspectCtx, summary.ID)
			switch {
			case errdefs.IsNotFound(err):
				return nil
			case client.IsErrConnectionFailed(err) || ctx.Err() != nil:
				return err
			case err != nil:
				c = newListed(summary) // one that the engine cannot tell of must not cost the others their names
			}
			mu.Lock()
			defer mu.Unlock()
			containers = append(containers, c)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	d.hooks.Settle()
	d.state.SetContainers(containers, begun)
	d.listUnstarted(ctx, all.Items)
	d.listSwarm(ctx)
	d.hooks.Changed()
	return nil
}

func (d *Docker) listNetworks(ctx context.Context) ([]Network, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	networks := make([]Network, 0, len(result.Items))
	for _, n := range result.Items {
		networks = append(networks, newNetwork(n.Network))
	}
	return networks, nil
}

func (d *Docker) inspect(ctx context.Context, id string) (Container, error) {
	c, _, err := d.inspectWithError(ctx, id)
	return c, err
}

// inspectWithError returns also why its last start failed; "": it did not.
func (d *Docker) inspectWithError(ctx context.Context, id string) (c Container, failure string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return Container{}, "", fmt.Errorf("inspect container %.12s: %w", id, err)
	}
	if result.Container.State != nil {
		failure = result.Container.State.Error
	}
	return newContainer(result.Container), failure, nil
}

// gather takes the events that have come with the first one, so that a burst of them is settled once.
func gather(first events.Message, messages <-chan events.Message) []events.Message {
	batch := []events.Message{first}
	for len(batch) < maxBatch {
		select {
		case message := <-messages:
			batch = append(batch, message)
		case <-time.After(batchPause):
			return batch
		}
	}
	return batch
}

// movesAddresses tells the events around which an address goes from one container to another.
func movesAddresses(e events.Message) bool {
	switch e.Action {
	case events.ActionDie, events.ActionConnect, events.ActionDisconnect:
		return true
	}
	return false
}

// changesSwarm tells the events after which Swarm is asked for all of its services and nodes, once for as many as come together.
// That a worker has joined or left is told by nothing but the mesh's own network, which comes or goes.
func changesSwarm(e events.Message) bool {
	if e.Type == events.NetworkEventType {
		return e.Actor.Attributes["type"] == overlayDriver && (e.Action == events.ActionCreate || e.Action == events.ActionDestroy)
	}
	return e.Type == events.ServiceEventType || e.Type == events.NodeEventType
}

func startsContainer(e events.Message) bool {
	return e.Type == events.ContainerEventType && e.Action == events.ActionStart
}

// handle takes in one event. What cannot be asked for is left to the next listing.
func (d *Docker) handle(ctx context.Context, e events.Message) {
	switch e.Type {
	case events.ContainerEventType:
		d.handleContainer(ctx, e)
	case events.NetworkEventType:
		d.handleNetwork(ctx, e)
		d.state.outdateOverlay(e.Actor.ID)
	case events.ServiceEventType, events.NodeEventType:
		d.state.outdateOverlays() // tasks are about to change, on whatever node, or nodes come and go
	}
}

func (d *Docker) handleContainer(ctx context.Context, e events.Message) {
	id := e.Actor.ID
	switch e.Action {
	case events.ActionDie, events.ActionDestroy:
		d.state.ContainerDied(id)
		if e.Action == events.ActionDestroy {
			d.state.noteStart(&Container{ID: id}, "")
		}
	case events.ActionCreate:
		d.state.SketchContainer(sketch(e))
		d.refresh(ctx, id)
	case events.ActionKill:
		d.state.ContainerSignalled(id)
	case events.ActionStart, events.ActionRename, events.ActionUpdate:
		d.refresh(ctx, id)
	default:
		if strings.HasPrefix(string(e.Action), string(events.ActionHealthStatus)) {
			d.refresh(ctx, id)
		}
	}
}

func (d *Docker) handleNetwork(ctx context.Context, e events.Message) {
	switch e.Action {
	case events.ActionDestroy, events.ActionRemove:
		d.state.RemoveNetwork(e.Actor.ID)
		return
	case events.ActionConnect, events.ActionDisconnect:
		d.refresh(ctx, e.Actor.Attributes["container"])
		if e.Action == events.ActionDisconnect {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	result, err := d.api.NetworkInspect(ctx, e.Actor.ID, client.NetworkInspectOptions{})
	if err == nil {
		d.state.PutNetwork(newNetwork(result.Network.Network))
	}
}

func (d *Docker) refresh(ctx context.Context, id string) {
	c, failure, err := d.inspectWithError(ctx, id)
	if err == nil {
		d.state.PutContainer(c)
		d.state.noteStart(&c, failure)
	}
}

// CheckDocker connects to the engine once and returns its version.
func CheckDocker(ctx context.Context) (version string, err error) {
	d, err := OpenDocker(NewState(Config{Now: time.Now}), DockerHooks{})
	if err != nil {
		return "", err
	}
	defer d.Close()
	return d.checkEngine(ctx)
}

// Sandboxes asks the engine once for the paths of the namespaces of all running containers that have one of their own, by
// the container's name.
func Sandboxes(ctx context.Context) (map[string]string, error) {
	state := NewState(Config{Now: time.Now, NetnsID: func(int) (int, error) { return -1, nil }})
	d, err := OpenDocker(state, DockerHooks{Settle: func() {}, Changed: func() {}})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if _, err := d.checkEngine(ctx); err != nil {
		return nil, err
	}
	if err := d.list(ctx); err != nil {
		return nil, err
	}
	paths := make(map[string]string)
	for _, c := range state.Inventory().Containers {
		if c.SandboxKey != "" && !c.onHost() {
			paths[c.Name] = c.SandboxKey
		}
	}
	return paths, nil
}
