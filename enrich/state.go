// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// keep is how long the dead are remembered, so that what is read of them late still finds its owner.
const keep = time.Minute

// Config says how a State names things.
type Config struct {
	Host           loader.Netns // the host's network namespace
	ContainerLabel ContainerLabel

	// NetnsID finds the number under which links know a process's namespace: loader.NetnsIDOfProcess.
	NetnsID func(pid int) (int, error)
	Now     func() time.Time
}

// State is what is known of the host: containers and networks from the engine, links, namespaces and processes from the
// kernel. News comes in any order; what belongs together is joined when both are there. All methods may be called
// concurrently.
type State struct {
	config Config

	mu      sync.Mutex
	indexed *stationIndex // nil: to be made anew
	pending pending
	// candidates remembers which rules there are for what the kernel says.
	candidates     map[signature][]candidate
	swept          time.Time // when the dead were last forgotten
	listed         bool      // the engine's containers are known
	conntrackFull  bool
	conntrackEmpty bool
	conntrack      map[string]conntrackTrouble // by container ID
	counted        uint64                      // how often that was taken in
	forwardingOff4 bool
	forwardingOff6 bool
	node           Node
	members        map[string]*member // by container ID
	networks       map[string]*knownNetwork
	// attachments are the endpoints of all containers that the last listing had, by container ID, running or not.
	attachments map[string][]Endpoint
	links       map[int]*port              // the host's, by ifindex
	children    map[loader.DeviceID]*child // devices watched inside containers
	netns       map[loader.Netns]string    // namespace to container ID
	left        map[loader.Netns]time.Time // when a container moved out of a namespace into a new one
	learned     map[netip.Addr]string      // addresses seen at a container's device, to its ID
	addresses   map[netip.Addr]struct{}    // the host's own
	gatewayLegs map[string]Endpoint        // places on docker_gwbridge, by container ID
	// ingressSandbox is the address on docker_gwbridge of the namespace that Swarm's routing mesh runs in; zero: none known.
	ingressSandbox netip.Addr
	swarmWanted    chan struct{} // asks whoever follows the engine for what Swarm makes of this node
	swarmAsked     time.Time
	tasks          serviceTasks
	// ingressPorts are the ports that the routing mesh publishes, with the services behind them. Only a manager can tell.
	ingressPorts map[ingressPort]Identity
	services     []Service // of the Swarm
	unstarted    []UnstartedContainer
	kept         []loader.Listener // see SetKeptPorts
	overlays     overlays
}

// ingressPort is a port of every node that the routing mesh publishes.
type ingressPort struct {
	Port     uint16
	Protocol string // tcp, udp, sctp
}

// Node is the engine's host.
type Node struct {
	Name    string
	ID      string // in its Swarm, "" if it is in none
	SwarmID string
	Role    string // manager, worker, or ""
	Address string // in its Swarm
}

type knownNetwork struct {
	Network
	gone time.Time
}

// port is a link of the host and the container behind it.
type port struct {
	loader.Link
	owner string // container ID, "" unknown. It stays: an ifindex is not used again
	gone  time.Time
}

// child is a device watched inside a container's namespace.
type child struct {
	loader.Link
	index   int // ifindex in the container
	netnsID int
	owner   string
	entered time.Time // when the container started that was entered for it; zero: it was followed there
}

// NewState makes an empty one.
func NewState(config Config) *State {
	return &State{
		config:     config,
		candidates: make(map[signature][]candidate),
		members:    make(map[string]*member),
		networks:   make(map[string]*knownNetwork),
		links:      make(map[int]*port),
		children:   make(map[loader.DeviceID]*child),
		netns:      make(map[loader.Netns]string),
		left:       make(map[loader.Netns]time.Time),
		learned:    make(map[netip.Addr]string),
		addresses:  make(map[netip.Addr]struct{}),

		swarmWanted: make(chan struct{}, 1),
		tasks:       newServiceTasks(),
		overlays:    newOverlays(),
	}
}

// SetNode says which node this is. Names of global tasks carry it.
func (s *State) SetNode(node Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node == s.node {
		return
	}
	s.node = node
	for _, m := range s.members {
		s.identify(m)
	}
}

// Node returns what SetNode said last.
func (s *State) Node() Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// identify is to be called after every change of a container.
func (s *State) identify(m *member) {
	s.indexed = nil
	m.Identity = identify(m.Name, m.Labels, s.node.Name, s.config.ContainerLabel)
}

// SetHostAddresses says which addresses are the host's own.
func (s *State) SetHostAddresses(addresses []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.addresses)
	for _, a := range addresses {
		s.addresses[a] = struct{}{}
	}
}

// PutContainer adds a container or what is new of it.
func (s *State) PutContainer(c Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putContainer(c)
}

// SketchContainer adds a container of which only an event told so far, unless more is known already.
func (s *State) SketchContainer(c Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[c.ID]
	if m == nil {
		s.putContainer(c)
		s.members[c.ID].sketch = true
		return
	}
	if m.Name == "" { // the kernel was first to tell of it
		m.Name, m.Image, m.Labels = c.Name, c.Image, c.Labels
		s.identify(m)
	}
}

func (s *State) putContainer(c Container) {
	m := s.members[c.ID]
	if m == nil {
		m = &member{netnsID: -1}
		s.members[c.ID] = m
	}
	if !c.Running && len(m.Endpoints) > 0 {
		// A stopped container's have no addresses and no ports, but its last packets had.
		c.Endpoints, c.Published = m.Endpoints, m.Published
	}
	if c.PID == 0 {
		c.PID = m.PID
	}
	if c.PID != m.PID {
		m.netnsID = -1
	}
	if m.ID != "" && !sameNames(m.Endpoints, c.Endpoints) {
		m.joined = s.config.Now()
	}
	switch {
	case c.Health != healthy:
		m.healthy = time.Time{}
	case m.Health != healthy || !c.StartedAt.Equal(m.StartedAt):
		m.healthy = s.config.Now()
	}
	m.stopping = m.stopping && c.StartedAt.Equal(m.StartedAt)
	m.search = loader.SearchSuffixes(c.DNSSearch)
	m.Container = c
	if c.SandboxKey != "" {
		s.overlays.folder = filepath.Dir(c.SandboxKey)
	}
	m.sketch = false
	m.seen = s.config.Now()
	s.identify(m)
	switch {
	case c.Running:
		m.died = time.Time{}
	case !c.StartedAt.IsZero():
		m.die(s.config.Now())
	}
	if !m.OwnsNetns() {
		s.disown(m)
	}
	if m.alive() && m.PID != 0 && m.netnsID < 0 && m.OwnsNetns() {
		s.bindNetnsID(m)
	}
}

// ContainerDied marks a container's end. It may start again, in another namespace.
func (s *State) ContainerDied(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.members[id]; m != nil {
		m.die(s.config.Now())
		s.indexed = nil
	}
}

// ContainerSignalled notes that a container was sent a signal, as it is to stop it.
func (s *State) ContainerSignalled(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.members[id]; m != nil {
		m.stopping = true
		s.pending.dns.names.outdate()
	}
}

// SetContainers takes in a listing of all running containers that was begun at the given time: whoever is not listed, and
// was not heard of since, has died unnoticed.
func (s *State) SetContainers(containers []Container, begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := make(map[string]bool, len(containers))
	s.listed = true
	for _, c := range containers {
		listed[c.ID] = true
		s.putContainer(c)
	}
	for id, m := range s.members {
		if !listed[id] && m.seen.Before(begun) {
			m.die(s.config.Now())
			s.indexed = nil
		}
	}
}

// SetConntrackFull says whether the host's connection tracking table has no room, or had none a moment ago.
func (s *State) SetConntrackFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conntrackFull = full
}

// SetConntrackEmpty says whether the host tracks no connection at all: then it means nothing that one is not tracked.
func (s *State) SetConntrackEmpty(empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conntrackEmpty = empty
}

// SetForwardingOff says for which families the host does not forward. Kernels before 5.17 do not say so of a drop.
func (s *State) SetForwardingOff(ipv4, ipv6 bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forwardingOff4, s.forwardingOff6 = ipv4, ipv6
}

// SetAttachments says which networks each container, by its ID, is configured to be on, whether it runs or not.
func (s *State) SetAttachments(attachments map[string][]Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attachments = attachments
}

// PutNetwork adds a network or what is new of it.
func (s *State) PutNetwork(n Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexed = nil
	s.networks[n.ID] = &knownNetwork{Network: n}
}

// RemoveNetwork marks a network's end.
func (s *State) RemoveNetwork(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexed = nil
	if n := s.networks[id]; n != nil && n.gone.IsZero() {
		n.gone = s.config.Now()
	}
}

// SetNetworks replaces the whole list of networks.
func (s *State) SetNetworks(networks []Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexed = nil
	listed := make(map[string]bool, len(networks))
	for _, n := range networks {
		listed[n.ID] = true
		s.networks[n.ID] = &knownNetwork{Network: n}
	}
	for id, n := range s.networks {
		if !listed[id] && n.gone.IsZero() {
			n.gone = s.config.Now()
		}
	}
}

// sweep forgets the long dead.
func (s *State) sweep() {
	s.indexed = nil
	old := func(t time.Time) bool { return !t.IsZero() && s.config.Now().Sub(t) > keep }
	for id, m := range s.members {
		if m.sketch && old(m.seen.Add(2*keep)) {
			m.die(s.config.Now()) // no engine knows it, so none will tell of its end
		}
		if old(m.died) {
			delete(s.members, id)
			s.overlays.legs.forget(id)
		}
	}
	for id, n := range s.networks {
		if old(n.gone) {
			delete(s.networks, id)
			delete(s.overlays.words, id)
		}
	}
	for index, p := range s.links {
		if old(p.gone) || p.Name == "" && s.members[p.owner] == nil { // the latter: no event ever told of it
			delete(s.links, index)
		}
	}
	known := func(id string) bool { return s.members[id] != nil }
	for ns, id := range s.netns {
		if !known(id) || old(s.left[ns]) {
			delete(s.netns, ns)
			delete(s.left, ns)
		}
	}
	for id, c := range s.children {
		if c.owner != "" && !known(c.owner) {
			delete(s.children, id)
		}
	}
	for a, id := range s.learned {
		if !known(id) {
			delete(s.learned, a)
		}
	}
	s.forgetMeshed()
}
