// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Container is what the engine says of a container.
type Container struct {
	ID          string
	Name        string
	Image       string
	Labels      map[string]string
	NetworkMode string // network's name, host, none or container:ID
	SandboxKey  string // path of its network namespace
	PID         int    // of its first process, 0: not running
	Running     bool
	Health      string // as its health check says: starting, healthy or unhealthy; "": it has none
	StartedAt   time.Time
	Endpoints   []Endpoint
	Published   []PublishedPort

	Hostname       string // as it calls itself; of one that shares another's namespace, or the host's, it is that one's
	Domain         string // behind the host name; "" for most
	ResolvConfPath string // of its resolv.conf, on the host
	// What it was started with about name resolution, nil where that is left to the engine.
	DNSServers []netip.Addr
	DNSSearch  []string
	DNSOptions []string
}

// PublishedPort is a port of the host that leads to a container.
type PublishedPort struct {
	Host      netip.AddrPort // unspecified address: all of the host's, of its family. Port 0: none, in gateway mode routed
	Container uint16
	Protocol  string // tcp, udp, sctp
}

// Endpoint is a container's place on a network.
type Endpoint struct {
	NetworkID string
	Network   string
	MAC       [6]byte
	Addresses []netip.Addr
	Links     []string // names of the containers that legacy links lead to
	// Names are those under which the engine's resolver finds it there: its own, aliases, its short ID, its host name. None on
	// networks that the engine made, where it serves no names. A Swarm service's are not among them.
	Names []string
}

// Network is what the engine says of a network.
type Network struct {
	ID        string
	Name      string
	Driver    string
	Scope     string
	Bridge    string // its bridge device in the host's namespace; "" for drivers without one
	Internal  bool
	Encrypted bool
	MTU       string // as configured, "" for the driver's own
	VNI       string
	Subnets   []netip.Prefix
	Gateways  []netip.Addr
	Labels    map[string]string

	Created      time.Time
	Predefined   bool   // Docker made it (bridge, host, none, docker_gwbridge, ingress)
	Attached     int    // containers that are configured to be on it, running or not; Swarm services do not count
	ICC          bool   // containers on it may talk with each other: false only on bridge networks that say so
	Masquerade   bool   // Docker translates what leaves it: of bridge networks only, and in gateway mode nat
	GatewayMode4 string // nat, routed, isolated, nat-unprotected; "" for the default, nat
	GatewayMode6 string
	Trusted      string // devices by which anybody may reach containers directly, separated by colons; of bridge networks only
	Parent       string // device that macvlan and ipvlan networks are on
}

// sharedWith returns the ID of the container whose namespace this one lives in, "" if it has its own.
func (c *Container) sharedWith() string {
	id, found := strings.CutPrefix(c.NetworkMode, "container:")
	if !found {
		return ""
	}
	return id
}

// OwnsNetns tells whether the container has a network namespace to itself.
func (c *Container) OwnsNetns() bool { return c.sharedWith() == "" && !c.onHost() }

// onHost tells whether the container lives in the host's namespace.
func (c *Container) onHost() bool { return c.NetworkMode == "host" }

// publishes tells whether a port of the container is published, at whatever port of the host.
func (c *Container) publishes(port uint16, protocol string) bool {
	return slices.ContainsFunc(c.Published, func(p PublishedPort) bool {
		return p.Container == port && p.Protocol == protocol
	})
}

// childOnly tells whether a network's containers are reached without any device of the host's namespace.
func (n *Network) childOnly() bool { return n.Driver == "macvlan" || n.Driver == "ipvlan" }

// member is a container in the state, with what the kernel said of it.
type member struct {
	Container
	Identity

	netnsID int       // number of its namespace as links name it, -1: not known
	died    time.Time // zero while it lives
	joined  time.Time // when what it is called on which networks changed last while it was known; zero: it did not
	healthy time.Time // when its health check first said so, as far as was heard; zero: it has none, or is not
	seen    time.Time // when it was last heard of
	sketch  bool      // known from an event only: name and labels, no endpoints

	stopping bool     // it was sent a signal since it was started
	search   []string // of DNSSearch, what resolvers take
}

func (m *member) alive() bool { return m.died.IsZero() }

// die marks its end, once.
func (m *member) die(now time.Time) {
	if !m.alive() {
		return
	}
	m.died = now
	m.Running = false
	m.PID = 0
	m.netnsID = -1
}

// has tells whether an address is the container's own on one of its networks.
func (m *member) has(address netip.Addr) bool {
	return slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool { return slices.Contains(e.Addresses, address) })
}

// sameNames tells whether endpoints are on the same networks and under the same names, in whatever order.
func sameNames(a, b []Endpoint) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e Endpoint) bool {
		return !slices.ContainsFunc(b, func(f Endpoint) bool {
			return e.NetworkID == f.NetworkID && slices.Equal(e.Names, f.Names)
		})
	})
}

func (m *member) hasMAC(mac [6]byte) bool {
	return slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool { return e.MAC == mac })
}

// network returns the name of the network that has the given endpoint MAC or address, or of its only one.
func (m *member) network(mac [6]byte, addresses ...netip.Addr) string {
	for _, e := range m.Endpoints {
		if mac != ([6]byte{}) && e.MAC == mac {
			return e.Network
		}
		for _, a := range e.Addresses {
			for _, wanted := range addresses {
				if a == wanted {
					return e.Network
				}
			}
		}
	}
	if len(m.Endpoints) == 1 {
		return m.Endpoints[0].Network
	}
	return ""
}
