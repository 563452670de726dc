// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// A container has at most so many series for its lookups that are told apart, five of them from its birth and mostly ten. What is
// beyond is counted off all networks and by resolver alone, but what went well and what failed stay apart: 44 series more, of one
// that asks everybody and meets everything. A server outside has four.
const (
	maxLookupSeries    = 24
	maxUpstreamServers = 8
)

// Codes of answers that are told apart in any case: alerts look at them.
const (
	codeSuccess       = "NOERROR"
	codeNoName        = "NXDOMAIN"
	codeServerFailure = "SERVFAIL"
	codeRefused       = "REFUSED"
)

// AddDNS counts lookups that have ended and what came with them. It must not be called concurrently with the other methods.
func (m *Metrics) AddDNS(dns enrich.DNS) {
	counts, servers := tallyOf[lookupKey]{}, tallyOf[serverKey]{}
	for i := range dns.Lookups {
		l := &dns.Lookups[i]
		countLookup(&counts, l)
		if asksServer(l) {
			countTries(&servers, l)
		}
		m.observeDuration(l)
	}
	for i := range dns.Odd {
		o := &dns.Odd[i]
		counts.addMany(lookupKey{dnsOdd, o.Identity, o.Scope, o.Resolver, string(o.Oddity)}, float64(o.Count))
	}
	for i := range dns.Expansions {
		e := &dns.Expansions[i]
		counts.add(lookupKey{dnsExpansions, e.Identity, e.Scope, e.Resolver, ""})
	}
	for _, k := range counts.keys {
		values, told := m.lookupValues(k)
		if !told {
			m.store.Add(seriesOverflow, 1, k.family.Name)
		}
		m.store.Add(k.family, counts.counts[k], values...)
	}
	for _, k := range servers.keys {
		m.store.Add(k.family, servers.counts[k], m.serverLabel(k.server))
	}
	m.addNames(dns.Lookups)
}

// asksServer tells whether a lookup says something of the servers that this host depends on. What is in a namespace that nobody
// knows may have a world of its own, and who wants no recursion is a resolver that asks all the world's.
func asksServer(l *enrich.Lookup) bool {
	return l.RecursionDesired && l.Scope != enrich.ScopeUnknown && (l.Resolver == enrich.ResolverUpstream || l.Resolver == enrich.ResolverDirect)
}

// lookupKey is one of the families of lookups, and the labels of a series there.
type lookupKey struct {
	family *Family
	enrich.Identity
	scope    enrich.Scope
	resolver enrich.Resolver
	detail   string // the last label, of families that have one more
}

func (k *lookupKey) values() []string {
	values := identityValues(k.Identity, k.scope, string(k.resolver))
	if len(k.family.Labels) > len(values) {
		values = append(values, k.detail)
	}
	return values
}

// service is where the histogram of a lookup's duration belongs.
func (k *lookupKey) service() Place {
	return Place{Owner: Owner{Stack: k.Stack, Service: k.Service}, Network: k.Network}
}

func countLookup(counts *tallyOf[lookupKey], l *enrich.Lookup) {
	k := lookupKey{dnsQueries, l.Identity, l.Scope, l.Resolver, l.QType}
	counts.add(k)
	k.detail = ""
	switch l.Outcome {
	case loader.DNSTimedOut:
		k.family = dnsTimeouts
		counts.add(k)
	case loader.DNSAnswered:
		k.family, k.detail = dnsResponses, l.RCode
		counts.add(k)
		if k.detail = ""; l.Answer.Truncated {
			k.family = dnsTruncated
			counts.add(k)
		}
	}
	if l.Retries > 0 {
		k.family = dnsRetries
		counts.addMany(k, float64(l.Retries))
	}
}

// observeDuration takes a lookup in that was answered. Others have no duration.
func (m *Metrics) observeDuration(l *enrich.Lookup) {
	if l.Outcome == loader.DNSAnswered {
		m.store.Observe(dnsDuration, max(0, l.Duration().Seconds()), l.Stack, l.Service, l.Network, string(l.Scope), string(l.Resolver))
	}
}

// lookupValues keeps each owner within its number of series: what is beyond is not told apart. The host's own have no bound of
// their own.
func (m *Metrics) lookupValues(k lookupKey) (values []string, told bool) {
	values = k.values()
	owner := ownerOf(k.Identity)
	if owner == (Owner{}) ||
		m.lookups.admit(owner.key(), append([]string{k.family.Name}, values[3:]...), k.family.place(values), maxLookupSeries) {
		return values, true
	}
	k.Network = ""
	if k.family != dnsResponses || k.detail != codeSuccess && k.detail != codeNoName && k.detail != codeServerFailure {
		k.detail = other
	}
	return k.values(), false
}

// planDNS makes those series of a container's lookups exist at 0 that alerts compare: that it asks, that it is answered, that it
// fails, and that nobody answers.
func (m *Metrics) planDNS(c *enrich.LiveContainer) {
	resolver, asks := likelyResolver(c)
	if !asks {
		return
	}
	k := lookupKey{Identity: c.Identity, scope: enrich.ScopeContainer, resolver: resolver}
	if len(c.Endpoints) == 1 {
		k.Network = c.Endpoints[0].Network
	}
	for _, foreseen := range []struct {
		family *Family
		detail string
	}{{dnsQueries, "A"}, {dnsQueries, "AAAA"}, {dnsResponses, codeSuccess}, {dnsResponses, codeServerFailure}, {dnsTimeouts, ""}} {
		k.family, k.detail = foreseen.family, foreseen.detail
		values, _ := m.lookupValues(k)
		m.store.Plan(k.family, values...)
	}
	m.store.Keep(k.service()) // of durations
}

// likelyResolver is whom a container will ask: the engine's, unless it is on the default bridge alone, where that does not
// answer. One in another's namespace, the host's too, asks as that one does.
func likelyResolver(c *enrich.LiveContainer) (resolver enrich.Resolver, asks bool) {
	for _, e := range c.Endpoints {
		switch e.Network {
		case "host", "none":
		case "bridge":
			resolver, asks = enrich.ResolverDirect, true
		default:
			return enrich.ResolverEmbedded, true
		}
	}
	return resolver, asks
}

type serverKey struct {
	family *Family
	server netip.Addr
}

// countTries counts each message that asked a server, and in the families of what did not happen that there was none: a rate of
// nothing is no rate of 0.
func countTries(servers *tallyOf[serverKey], l *enrich.Lookup) {
	count := func(f *Family, server netip.AddrPort, n float64) {
		servers.addMany(serverKey{f, server.Addr().Unmap()}, n)
	}
	for i := range l.Tries {
		try := &l.Tries[i]
		answered := !try.Answer.IsZero()
		failed := answered && try.Server == l.Server && (l.RCode == codeServerFailure || l.RCode == codeRefused)
		count(dnsUpstreamQueries, try.Server, 1)
		count(dnsUpstreamResponses, try.Server, truth(answered))
		count(dnsUpstreamTimeouts, try.Server, truth(try.GaveUp && !answered))
		count(dnsUpstreamFailures, try.Server, truth(failed))
	}
	if forgotten := l.Messages - len(l.Tries); forgotten > 0 { // of very many, whose servers are not known any more
		count(dnsUpstreamQueries, l.Server, float64(forgotten))
		count(dnsUpstreamTimeouts, l.Server, float64(forgotten))
	}
}

// upstreamFamilies have a series for each server.
func upstreamFamilies() []*Family {
	return []*Family{dnsUpstreamQueries, dnsUpstreamResponses, dnsUpstreamTimeouts, dnsUpstreamFailures}
}

// serverLabel tells so many servers apart: those that somebody is configured to ask, and others as long as there is room. The rest
// is no overflow: programs may ask whom they like.
func (m *Metrics) serverLabel(server netip.Addr) string {
	label := server.String()
	switch {
	case m.store.room(dnsUpstreamQueries, maxUpstreamServers, label):
	case m.servers[label]:
		m.store.evict(upstreamFamilies(), func(label string) bool { return m.servers[label] })
	default:
		return Other
	}
	return label
}

// setServers notes whom the host and its containers are to ask: of very many the host's, and those that most containers are.
func (m *Metrics) setServers(inventory *enrich.Inventory) {
	hosts := configured(inventory.ResolvConf)
	named := make(map[netip.Addr]int)
	for i := range inventory.Containers {
		c := &inventory.Containers[i]
		own := configured(c.ResolvConf)
		for _, server := range c.DNSServers {
			own[server.Unmap()] = true
		}
		for server := range own {
			named[server]++
		}
	}
	for server := range hosts {
		named[server] += len(inventory.Containers) + 1
	}
	delete(named, embeddedResolver)
	first := slices.SortedFunc(maps.Keys(named), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(named[b], named[a]), a.Compare(b))
	})
	m.servers = make(map[string]bool)
	for _, server := range first[:min(len(first), maxUpstreamServers)] {
		m.servers[server.String()] = true
	}
}

// embeddedResolver is the engine's own, which asks others.
var embeddedResolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// maxConfigured is how many servers a resolver looks at, the engine's and that of a C library.
const maxConfigured = 3

// configured are the servers that a resolv.conf names, which may be nil: those of the program, and those of the engine.
func configured(conf *loader.ResolvConf) map[netip.Addr]bool {
	servers := make(map[netip.Addr]bool)
	if conf == nil {
		return servers
	}
	for _, server := range conf.Servers[:min(len(conf.Servers), maxConfigured)] {
		servers[server] = true
	}
	for _, upstream := range conf.Upstreams[:min(len(conf.Upstreams), maxConfigured)] {
		servers[upstream.Address] = true
	}
	return servers
}
