// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

func vniText(vni uint32) string { return strconv.FormatUint(uint64(vni), 10) }

// SetCluster takes in what this node knows of its Swarm: whom it may talk with on what, so that all of that is there at 0 before
// the first packet is lost, and how its overlay networks are set up. It must not be called concurrently with the other methods.
func (m *Metrics) SetCluster(cluster *enrich.Cluster) {
	m.overlays.set(cluster)
	m.overlays.forget(m.store.config.Retention)
	for i := range cluster.Peers {
		m.planPeer(&cluster.Peers[i], cluster.Networks)
	}
	m.store.Replace(peerInfo, peerSamples(cluster.Peers))
	m.store.Replace(channelReceived, m.overlays.heardSamples())
	m.setEntries(cluster)
	m.setAddresses(cluster)
	m.setIPVS(cluster)
}

func (o *overlayNames) set(cluster *enrich.Cluster) {
	o.self = cluster.Self.Unmap()
	peers, vnis, locals := make(map[netip.Addr]string), make(map[uint32]string), make(map[netip.Addr]string)
	for i := range cluster.Peers { // a node has one name, whichever of its addresses something is for
		p := &cluster.Peers[i]
		peers[p.Address.Unmap()] = p.Address.Unmap().String()
		if _, other := peers[p.Control.Unmap()]; p.Control.IsValid() && !other {
			peers[p.Control.Unmap()] = p.Address.Unmap().String()
		}
	}
	o.encrypted = make(map[uint32]bool)
	for i := range cluster.Networks {
		for _, vni := range cluster.Networks[i].VNIs {
			vnis[vni] = vniText(vni)
			o.encrypted[vni] = cluster.Networks[i].Encrypted
		}
	}
	if o.self.IsValid() {
		locals[o.self] = o.self.String()
	}
	o.peers.set(peers)
	o.vnis.set(vnis)
	o.locals.set(locals)
}

// forget makes room for others where series have been retired.
func (o *overlayNames) forget(retention time.Duration) {
	o.peers.forget(retention)
	o.locals.forget(retention)
	o.vnis.forget(retention)
	maps.DeleteFunc(o.ends, func(end tunnelEnd, _ netip.Addr) bool { return o.peers.told(end.peer) == "" })
	maps.DeleteFunc(o.heard, func(key heardKey, _ time.Time) bool { return o.peers.told(key.peer) == "" })
}

// planPeer makes the series exist at 0 of all that this node and a peer may send each other. What is of a peer that has left is
// planned no more, and goes when nothing has come for long enough.
func (m *Metrics) planPeer(p *enrich.SwarmPeer, networks []enrich.OverlayNetwork) {
	address := p.Address.Unmap()
	peer := m.overlays.peer(address)
	m.store.Plan(overlayMalformed, peer)
	for _, outgoing := range []bool{false, true} {
		direction := directionLabel(outgoing)
		for _, channel := range loader.Channels() {
			if p.Control.IsValid() || channel == loader.ChannelVXLAN || channel == loader.ChannelESP {
				m.store.Plan(channelPackets, peer, string(channel), direction)
			}
		}
		local := m.overlays.end(address, outgoing)
		encrypted := false
		for i := range networks {
			n := &networks[i]
			if !slices.Contains(p.Nets, n.Name) {
				continue
			}
			at := local
			if n.Encrypted { // it is counted inside, by the addresses that the Swarm says
				encrypted, at = true, m.overlays.local(netip.Addr{})
			}
			for _, vni := range n.VNIs {
				m.planTunnel(n.Name, m.overlays.vni(vni), at, peer, direction, encapsulationVXLAN)
			}
		}
		if encrypted {
			m.planTunnel("", "", local, peer, direction, encapsulationESP)
		}
	}
}

func (m *Metrics) planTunnel(values ...string) {
	m.store.Plan(overlayPackets, values...)
	m.store.Plan(overlayBytes, values...)
}

// Values of the label role.
const (
	roleManager = "manager"
	roleWorker  = "worker"
)

func peerSamples(peers []enrich.SwarmPeer) []Sample {
	samples := make([]Sample, 0, len(peers))
	for i := range peers {
		p := &peers[i]
		role := roleWorker
		if p.Manager {
			role = roleManager
		}
		samples = append(samples, Sample{Value: 1, Values: []string{p.Address.Unmap().String(), p.Node, role, p.State}})
	}
	return samples
}

// setEntries shows to how many endpoints of each overlay network this node knows the way, and to how many it should. Networks that
// nobody on this node is on have no tables here.
func (m *Metrics) setEntries(cluster *enrich.Cluster) {
	var entries, expected []Sample
	for i := range cluster.Networks {
		n := &cluster.Networks[i]
		if n.Sandbox == nil {
			continue
		}
		for _, table := range []string{tableFDB, tableNeighbour} {
			m.store.Plan(overlayMisses, n.Name, table)
		}
		if !n.Known || len(n.Sandbox.Errors) > 0 { // what could not be read looks empty
			continue
		}
		remote := newRemotes(n.Endpoints)
		fdb, neighbours := remote.found(n.Sandbox)
		entries = append(entries, sample(fdb, n.Name, tableFDB), sample(neighbours, n.Name, tableNeighbour))
		expected = append(expected, sample(len(remote.macs), n.Name, tableFDB), sample(len(remote.addresses), n.Name, tableNeighbour))
	}
	m.store.Replace(overlayEntries, entries)
	m.store.Replace(overlayExpected, expected)
}

func sample(n int, values ...string) Sample { return Sample{Value: float64(n), Values: values} }

// remotes are the endpoints on other nodes, by what a network's tables know them by.
type remotes struct {
	macs      map[[6]byte]bool
	addresses map[netip.Addr]bool
}

func newRemotes(endpoints []enrich.ClusterEndpoint) remotes {
	r := remotes{macs: make(map[[6]byte]bool), addresses: make(map[netip.Addr]bool)}
	for i := range endpoints {
		e := &endpoints[i]
		if e.Local || !e.Host.IsValid() {
			continue
		}
		if e.MAC != [6]byte{} {
			r.macs[e.MAC] = true
		}
		if e.Address.IsValid() {
			r.addresses[e.Address] = true
		}
	}
	return r
}

// found counts those whom a namespace's tables lead to. Rows of others do not make up for one that is missing, and what a VXLAN
// device has learned from packets does not last: of one that was looked for in vain there is an entry too.
func (r *remotes) found(s *loader.SandboxState) (fdb, neighbours int) {
	macs, addresses := make(map[[6]byte]bool), make(map[netip.Addr]bool)
	for _, row := range s.FDB {
		if r.macs[row.MAC] && row.Permanent && row.Peer.IsValid() {
			macs[row.MAC] = true
		}
	}
	for _, n := range s.Neighbours {
		if r.addresses[n.Address] && n.MAC != [6]byte{} && !n.Failed {
			addresses[n.Address] = true
		}
	}
	return len(macs), len(addresses)
}

// setAddresses shows how many endpoints more each network has addresses for, where the engine tells: of each family one.
func (m *Metrics) setAddresses(cluster *enrich.Cluster) {
	var samples []Sample
	for i := range cluster.Networks {
		n := &cluster.Networks[i]
		available := make(map[bool]float64) // by whether it is IPv6
		for _, u := range n.Use {
			available[u.Subnet.Addr().Is6()] += float64(u.Available)
		}
		if len(available) > 0 {
			least := slices.Min(slices.Collect(maps.Values(available)))
			samples = append(samples, Sample{Value: least, Values: []string{n.Name}})
		}
	}
	m.store.Replace(networkAddresses, samples)
}

// States of a backend.
const (
	backendLive     = "live"
	backendDead     = "dead"     // no task has its address, and yet connections are sent there
	backendDraining = "draining" // it gets no new connections
)

// setIPVS shows whom the virtual addresses lead to that are served on this node.
func (m *Metrics) setIPVS(cluster *enrich.Cluster) {
	var backends, connections []Sample
	for i := range cluster.Networks {
		n := &cluster.Networks[i]
		if n.LoadBalancer == nil || len(n.LoadBalancer.Errors) > 0 {
			continue
		}
		scope := enrich.ScopeLoadBalancer
		if n.LoadBalancer.Kind == loader.SandboxIngress {
			scope = enrich.ScopeIngress
		}
		for j := range n.VIPs {
			vip := &n.VIPs[j]
			values := func(state string) []string {
				identity := enrich.Identity{Stack: vip.Stack, Service: vip.Service, Network: n.Name}
				return identityValues(identity, scope, vip.Address.Unmap().String(), state)
			}
			states, active, inactive := tallyBackends(vip)
			for _, state := range []string{backendLive, backendDead, backendDraining} {
				backends = append(backends, sample(states[state], values(state)...))
			}
			connections = append(connections, sample(active, values("active")...), sample(inactive, values("inactive")...))
		}
	}
	m.store.Replace(ipvsBackends, backends)
	m.store.Replace(ipvsConnections, connections)
}

// tallyBackends counts a virtual address's backends by state, and their connections.
func tallyBackends(vip *enrich.VirtualAddress) (states map[string]int, active, inactive int) {
	states = make(map[string]int)
	for _, b := range vip.Backends {
		state := backendLive
		switch {
		case b.Weight == 0:
			state = backendDraining
		case slices.Contains(vip.Dead, b.Address):
			state = backendDead
		}
		states[state]++
		active += b.Active
		inactive += b.Inactive
	}
	return states, active, inactive
}
