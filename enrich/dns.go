// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Resolver is whom a lookup is addressed to: a leg, never summed over.
type Resolver string

// The resolvers.
const (
	ResolverEmbedded Resolver = "embedded" // the engine's, at 127.0.0.11
	ResolverUpstream Resolver = "upstream" // whom the engine asks for a container
	ResolverDirect   Resolver = "direct"   // whom a container, or the host, asks itself
	ResolverMDNS     Resolver = "mdns"
	ResolverLLMNR    Resolver = "llmnr"
)

// Resolvers returns all.
func Resolvers() []Resolver {
	return []Resolver{ResolverEmbedded, ResolverUpstream, ResolverDirect, ResolverMDNS, ResolverLLMNR}
}

// What is not of these question types and response codes is other.
const otherCode = "other"

// QTypes returns all question types that are told apart.
func QTypes() []string {
	return []string{"A", "AAAA", "PTR", "SRV", "MX", "TXT", "CNAME", "NS", "SOA", "HTTPS", "SVCB", "ANY", otherCode}
}

// RCodes returns all response codes that are told apart.
func RCodes() []string {
	return []string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", otherCode}
}

// Misname says why a name is not found, or not by this container, though Docker knows one like it.
type Misname string

// The reasons.
const (
	// MisnameHostname: it is a container's host name, in a form that the engine's resolver does not serve.
	MisnameHostname Misname = "hostname"
	// MisnameOtherNetwork: it is somebody's name, on networks that the asker is not on, or of one that is on none of its own.
	MisnameOtherNetwork Misname = "other_network"
	// MisnameDefaultBridge: it is somebody's name, but the asker is on the default bridge, where no names are served.
	MisnameDefaultBridge Misname = "default_bridge"
	// MisnameMissing: somebody who runs on a network of the asker's has it, and the engine does not know.
	MisnameMissing Misname = "missing"
)

// NameTarget is who has a name.
type NameTarget struct {
	Identity
	ContainerID string
	UseName     string // by which the asker finds it; "": by none
	// Since is since when it is known to run where the asker could find it; zero: not known. Of one that is missing alone.
	Since time.Time
}

// Answerer is who has an address of an answer.
type Answerer struct {
	Address netip.Addr
	Owner   Identity // with the network; zero: none of this host's containers
}

// Lookup is a lookup with its owner.
type Lookup struct {
	loader.DNSLookup
	Identity

	Scope       Scope
	ContainerID string
	Resolver    Resolver
	QType       string // A, AAAA, ...; other
	RCode       string // NOERROR, NXDOMAIN, ...; other; "": not answered
	// Inferred says that the engine asked from the host's namespace, so that the container is known by ID, name and time alone.
	Inferred bool
	// Base is the name without the search suffix that was put behind it, if this is known to be such an attempt. "": it is none
	// that is known.
	Base string
	// Misname says why an address was asked for in vain, if Docker knows a reason; Targets are who has the name, four at most.
	Misname Misname
	Targets []NameTarget
	// Answerers are the owners of the answer's addresses, in the embedded resolver's answers. None if all are nobody's here.
	Answerers []Answerer
}

// Failed tells whether the client got no answer, or one that says that something is wrong: any code but NOERROR and NXDOMAIN.
func (l *Lookup) Failed() bool {
	switch l.Outcome {
	case loader.DNSTimedOut:
		return true
	case loader.DNSAnswered:
		return l.RCode != "NOERROR" && l.RCode != "NXDOMAIN"
	}
	return false
}

// OddMessage is messages that belong to no lookup, with their owner.
type OddMessage struct {
	loader.DNSOdd
	Identity

	Scope    Scope
	Resolver Resolver
}

// StaleUse is a container that sends to an address that it got from a DNS answer and nobody has any more.
type StaleUse struct {
	Identity
	ContainerID string
	Scope       Scope
	Name        string     // that it had asked for
	Address     netip.Addr // that it got
	Answered    time.Time
	Gone        Identity  // whose address it was
	Used        time.Time // when a packet to it was last lost
	Packets     uint64
}

// Expansion is a lookup that was only made since its client puts search suffixes behind names, and that found nothing.
type Expansion struct {
	Identity
	ContainerID string
	Scope       Scope
	Resolver    Resolver
	Name, Base  string // as asked, and without the suffix
}

// DNS is what a reading of the dns signal means.
type DNS struct {
	Lookups []Lookup
	Odd     []OddMessage
	// Expansions are of lookups here or in one of the readings before: what followed may be what tells.
	Expansions []Expansion
	Stale      []StaleUse
}
