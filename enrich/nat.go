// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Scopes of Swarm's own namespaces, of which every node has its own.
const (
	ScopeIngress      Scope = "ingress"      // the routing mesh's
	ScopeLoadBalancer Scope = "loadbalancer" // of an overlay network, for its services' virtual addresses
)

// NATKind is what a translation does. One that changes both ends has the kind of the destination's.
type NATKind string

// The kinds.
const (
	Masquerade  NATKind = "masquerade"   // the source becomes an address of the device
	SNAT        NATKind = "snat"         // the source becomes a given address
	DNAT        NATKind = "dnat"         // the destination becomes another host
	Redirect    NATKind = "redirect"     // the destination becomes the namespace itself, or another port of it
	IPVS        NATKind = "ipvs"         // a virtual server chose the destination
	EmbeddedDNS NATKind = "embedded_dns" // a container's lookup goes to the engine's resolver
)

// NATKinds returns all.
func NATKinds() []NATKind { return []NATKind{Masquerade, SNAT, DNAT, Redirect, IPVS, EmbeddedDNS} }

// Client is where a connection to a published port comes from.
type Client string

// The clients.
const (
	ClientRemote    Client = "remote"
	ClientHost      Client = "host"
	ClientContainer Client = "container"
)

// Clients returns all.
func Clients() []Client { return []Client{ClientRemote, ClientHost, ClientContainer} }

// Mechanism is by what a connection to a published port loses its client's address.
type Mechanism string

// The mechanisms.
const (
	NoMechanism       Mechanism = "none" // it keeps it
	IngressMesh       Mechanism = "ingress_mesh"
	UserlandProxy     Mechanism = "userland_proxy"
	InboundMasquerade Mechanism = "inbound_masquerade"
	IPv6ToIPv4Proxy   Mechanism = "ipv6_to_ipv4_proxy"
	// Hairpin is that a rule puts the bridge's address in place of one of this host: Docker's own where a container comes to
	// itself or the host by loopback, else one that is meant for what leaves the host.
	Hairpin Mechanism = "hairpin"
)

// Mechanisms returns all.
func Mechanisms() []Mechanism {
	return []Mechanism{NoMechanism, IngressMesh, UserlandProxy, InboundMasquerade, IPv6ToIPv4Proxy, Hairpin}
}

// LabelSourceAddress is the label on containers and Swarm services that want addresses kept, if it says
// [SourceAddressRequired]: their clients' from the published port to them, and their own on its way out.
const (
	LabelSourceAddress    = ownLabels + "source-address"
	SourceAddressRequired = "required"
)

// Translation is a translated connection with its owner: the container whose source or whose destination is translated.
type Translation struct {
	loader.NATEvent
	Identity

	Scope       Scope
	ContainerID string
	Kind        NATKind
	Published   bool   // it goes to a published port: there is an attempt of it
	ServedBy    *Owner // the container that it leads to, if that is another one; nil: none that is known
}

// PublishedConnection is a connection to a published port of the host, or an attempt at one.
type PublishedConnection struct {
	loader.NATEvent
	Identity // of the container that serves it, in the routing mesh of the service alone

	Scope       Scope
	ContainerID string
	Port        uint16  // of the host
	Protocol    string  // tcp, udp, sctp
	Kind        NATKind // of the host's translation; "": none. A proxy carries what has no new destination
	Client      Client
	Preserved   bool // the container sees the client's address
	Mechanism   Mechanism
	// Seen is what the container sees as its peer, and Server where the container is; not valid where that is not known, or
	// not yet.
	Seen, Server netip.AddrPort
	// Inferred says that Seen was joined by time, since nothing in the packets tells.
	Inferred bool
	// Gateway is the address that docker-proxy connects to the container from; not valid: none, or it could be several.
	Gateway netip.Addr
}

// NATAnswer says that the first answer of a translated connection has left.
type NATAnswer struct {
	Kind NATKind
	key  natKey
}

// NAT is what a reading of the nat signal means.
type NAT struct {
	Translations []Translation
	Attempts     []PublishedConnection // at all published ports, answered or not
	Connections  []PublishedConnection // those that were answered

	// What follows is news of what is told above, or was told before. It counts nothing of its own.

	Answered []NATAnswer           // of translated connections
	Joined   []PublishedConnection // of which only now it is known what the container sees
}

// NATRow is a line of the live table of translated connections.
type NATRow struct {
	Time        time.Time      `json:"time"` // when it was opened
	Scope       Scope          `json:"scope"`
	Stack       string         `json:"stack,omitempty"`
	Service     string         `json:"service,omitempty"`
	Container   string         `json:"container,omitempty"`
	Network     string         `json:"network,omitempty"`
	ContainerID string         `json:"container_id,omitempty"`
	Protocol    string         `json:"protocol"`
	Kind        NATKind        `json:"kind,omitempty"` // empty: not translated
	Client      netip.AddrPort `json:"client"`         // who opened it
	Destination netip.AddrPort `json:"destination"`    // whom it was opened to: the published address, of what comes in
	// Seen is the source that whoever answers sees. Port 0 of a protocol with ports: it is not known.
	Seen      netip.AddrPort `json:"seen,omitzero"`
	Server    netip.AddrPort `json:"server,omitzero"`            // who answers
	ServedBy  *Owner         `json:"server_container,omitempty"` // the container that answers another one's
	Port      uint16         `json:"published_port,omitempty"`   // 0: it is none to a published port
	From      Client         `json:"client_kind,omitempty"`
	Lost      bool           `json:"source_address_lost"` // the container behind a published port does not see the client
	Mechanism Mechanism      `json:"mechanism,omitempty"` // empty: nobody answers whom a proxy would carry
	Inferred  bool           `json:"inferred,omitempty"`
	Answered  bool           `json:"answered"`
}

// EgressIdentity is the address that a container's connections to the outside appear under.
type EgressIdentity struct {
	Identity
	ContainerID string
	Address     netip.Addr
	Connections int // tracked right now
	Sharing     int // containers whose connections appear under the address, with this one
}

// PortPressure is how many of the ports of an address are in use towards one destination.
type PortPressure struct {
	Address     netip.Addr
	Destination netip.AddrPort
	Protocol    uint8
	Used        int
	Limit       int // how many there are to choose from
	Example     Identity
}

// StaleEntry is an entry of connection tracking that still sends to an address that no container has any more.
type StaleEntry struct {
	loader.Tracked
	Identity           // of the container that the published port leads to now
	ContainerID string // likewise
	Port        uint16
}

// Tracking is what the host's table of tracked connections says at a moment.
type Tracking struct {
	Identities []EgressIdentity
	// Pressure is of the destinations with most ports in use, of those with more than one, highest first: ten, and the highest
	// of each protocol.
	Pressure  []PortPressure
	Stale     []StaleEntry
	MoreStale int // how many there are that Stale has no room for
}
