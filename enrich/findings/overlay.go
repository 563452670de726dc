// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// overlayRules are about what carries overlay networks from node to node.
func overlayRules() []rule {
	return slices.Concat(overlayTableRules(), overlayPathRules(), overlayMTURules())
}

// overlayTableRules are about what this node's tables say of who is where.
func overlayTableRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "fdb-row-missing", Severity: Critical,
				Title:   "This node does not know behind which node a container of an overlay network is: what is sent to it is dropped here.",
				Remedy:  "Write the row: nsenter --net=SANDBOX bridge fdb replace MAC dev vxlan0 dst NODE self permanent. That is a stop-gap; docker service update --force, which gives the service new tasks, or a restart of the engine makes it good.",
				Confirm: "nsenter --net={sandbox} bridge fdb show dev {device} | grep -c -e {mac}",
				Basis:   "the rows of the network's VXLAN device beside the endpoints that the engine lists on other nodes, at two looks in a row; and what that device dropped, or told the kernel that it misses",
			},
			find: rowsMissing(tableFDB, "fdb-row-missing"),
		},
		{
			Definition: Definition{
				ID: "neigh-row-missing", Severity: Critical,
				Title:   "This node does not answer ARP for a container of an overlay network that is on another node: nobody here reaches it.",
				Remedy:  "Write the row: nsenter --net=SANDBOX ip neigh replace ADDRESS lladdr MAC dev vxlan0 nud permanent. That is a stop-gap; docker service update --force, which gives the service new tasks, or a restart of the engine makes it good.",
				Confirm: "nsenter --net={sandbox} ip neigh show {address}",
				Basis:   "the neighbours of the network's VXLAN device, which answers ARP for other nodes, beside the endpoints that the engine lists there, at two looks in a row; and packets of containers whose next hop never answered, and what the device told the kernel that it misses",
			},
			find: rowsMissing(tableNeighbour, "neigh-row-missing"),
		},
		{
			Definition: Definition{
				ID: "stale-vtep", Severity: Critical,
				Title:   "Frames of an overlay network go to a node where their container is not.",
				Remedy:  "On the node that sends them, lead the row to the right node: nsenter --net=SANDBOX bridge fdb replace MAC dev vxlan0 dst NODE self permanent. That is a stop-gap; docker service update --force, which gives the service new tasks, or a restart of that node's engine makes it good.",
				Confirm: "nsenter --net={sandbox} bridge fdb show dev {device} | grep -e {mac}",
				Basis:   "rows of the network's VXLAN device that at two looks in a row lead to another node than the engine says; or frames that came here from another node for a container that is on neither",
			},
			find: leadAstray,
		},
		{
			Definition: Definition{
				ID: "vtep-src-mismatch", Severity: Critical,
				Title:   "Another node's frames of an overlay network are dropped: they come from another address than the Swarm knows it by.",
				Remedy:  "Make that node send from its data-path address: give its route to this node that source (ip route replace … src ADDRESS), or let it join again with the --data-path-addr that it really sends from. No NAT may lie between nodes.",
				Confirm: "timeout 10 tcpdump -c 5 -ni any udp dst port {port} and src {peer}",
				Basis:   "frames that the network's VXLAN device dropped, over five seconds or longer, because its table has their sender behind another address than they came from",
			},
			find: mismatching,
		},
	}
}

// sustained is how long packets must have been lost at least: at every move and end some are on their way, until the news has
// gone round.
const sustained = 5 * time.Second

// lasting tells whether packets were lost for longer than news takes to go round, and enough of them.
func (v *View) lasting(l *TunnelLoss) bool {
	return v.enough(l.Packets, perMinute) && l.Last.Sub(l.First) >= sustained
}

// between is a network and another node as a subject. Without a network it is all that goes between the nodes.
func between(network string, peer netip.Addr) Subject {
	s := onNetwork(network)
	if peer.IsValid() {
		s.Object = peer.String()
	}
	return s
}

// peerFill are the values that commands about another node need.
func (v *View) peerFill(network string, peer netip.Addr) map[string]string {
	fill := map[string]string{
		"peer": "NODE", "port": fmt.Sprint(cmp.Or(v.Cluster.Ports.Data, defaultDataPort)), "sandbox": "SANDBOX", "device": "vxlan0", "mac": "MAC",
		"address": "ADDRESS",
	}
	if peer.IsValid() {
		fill["peer"] = peer.String()
	}
	if n := v.overlay(network); n != nil && n.Sandbox != nil {
		fill["sandbox"] = n.Sandbox.Path
		if len(n.Sandbox.VXLANs) > 0 {
			fill["device"] = n.Sandbox.VXLANs[0].Name
		}
	}
	return fill
}

// defaultDataPort is the engine's, unless a Swarm is made with another.
const defaultDataPort = 4789

// overlay finds a network of the Swarm by its name; nil: there is none.
func (v *View) overlay(name string) *enrich.OverlayNetwork {
	for i := range v.Cluster.Networks {
		if v.Cluster.Networks[i].Name == name {
			return &v.Cluster.Networks[i]
		}
	}
	return nil
}

// peer finds another node of the Swarm by its data-path address; nil: there is none.
func (v *View) peer(address netip.Addr) *enrich.SwarmPeer {
	for i := range v.Cluster.Peers {
		if v.Cluster.Peers[i].Address == address {
			return &v.Cluster.Peers[i]
		}
	}
	return nil
}

// nodeFact says which node is concerned.
func (v *View) nodeFact(name string, address netip.Addr) Fact {
	node := ""
	if p := v.peer(address); p != nil {
		node = p.Node
	}
	return text(name, nodeText(node, address))
}

func nodeText(name string, address netip.Addr) string {
	if name == "" {
		return address.String()
	}
	return name + " (" + address.String() + ")"
}

// tunnelFacts say what was lost, and what the kernel said of it.
func tunnelFacts(l *TunnelLoss) []Fact {
	return append([]Fact{lost(l.Packets)}, exampleFacts(&l.Example)...)
}

// Tables of a VXLAN device.
type table string

const (
	tableFDB       table = "fdb"       // behind which node a MAC address is
	tableNeighbour table = "neighbour" // which MAC address an address has
)

// table is the one that a miss was in.
func (m *MissedPeer) table() table {
	if m.Address.IsValid() {
		return tableNeighbour
	}
	return tableFDB
}

// gap is rows that are wrong in the same way: those of one node's endpoints.
type gap struct {
	host netip.Addr // where they are
	got  netip.Addr // where the rows lead; not valid: there are none
}

// gaps sorts endpoints whose rows are not there by their nodes.
func gaps(endpoints []enrich.ClusterEndpoint) map[gap][]enrich.ClusterEndpoint {
	all := make(map[gap][]enrich.ClusterEndpoint)
	for _, e := range endpoints {
		all[gap{host: e.Host}] = append(all[gap{host: e.Host}], e)
	}
	return all
}

// led sorts endpoints whose rows lead to the wrong node.
func led(entries []enrich.AstrayEntry) map[gap][]enrich.ClusterEndpoint {
	all := make(map[gap][]enrich.ClusterEndpoint)
	for _, a := range entries {
		key := gap{a.Host, a.Got}
		all[key] = append(all[key], a.ClusterEndpoint)
	}
	return all
}

// rowHits are those of a network's wrong rows.
func (v *View) rowHits(n *enrich.OverlayNetwork, in table, cause string, wrong map[gap][]enrich.ClusterEndpoint) []hit {
	var hits []hit
	for _, key := range slices.SortedFunc(maps.Keys(wrong), func(a, b gap) int {
		return cmp.Or(a.host.Compare(b.host), a.got.Compare(b.got))
	}) {
		hits = append(hits, v.rowHit(n.Name, in, cause, key, wrong[key]))
	}
	return hits
}

func (v *View) rowHit(network string, in table, cause string, key gap, whose []enrich.ClusterEndpoint) hit {
	evidence := []Fact{
		number("rows", float64(len(whose)), ""), text("endpoints", endpointNames(whose)), v.nodeFact("where they are", key.host),
	}
	h := hit{subject: between(network, key.host), fill: v.peerFill(network, key.host)}
	if key.got.IsValid() {
		evidence = append(evidence, v.nodeFact("where the rows lead", key.got))
		h.subject.Object += " by " + key.got.String()
	}
	if missed := v.missedOf(whose, in); missed > 0 {
		evidence = append(evidence, number("asked for in vain", float64(missed), "in the last minute"))
	}
	for i := range v.Lost {
		if l := &v.Lost[i]; l.Cause == cause && l.Network == network && l.Peer == key.host {
			evidence = append(evidence, tunnelFacts(l)...)
			break
		}
	}
	h.evidence = evidence
	h.fill["mac"] = net.HardwareAddr(whose[0].MAC[:]).String()
	h.fill["address"] = whose[0].Address.String()
	return h
}

// missedOf is how often the devices missed somebody of these.
func (v *View) missedOf(whose []enrich.ClusterEndpoint, in table) (sum uint64) {
	for i := range v.Missed {
		m := &v.Missed[i]
		if m.table() == in && slices.ContainsFunc(whose, func(e enrich.ClusterEndpoint) bool {
			return e.NetworkID == m.NetworkID && e.Address == m.Endpoint.Address
		}) {
			sum += m.Count
		}
	}
	return sum
}

func endpointNames(whose []enrich.ClusterEndpoint) string {
	names := make([]string, 0, len(whose))
	for _, e := range whose {
		names = append(names, fmt.Sprintf("%s (%s)", orElse(e.Name, "load balancer"), e.Address))
	}
	slices.Sort(names)
	return list(names)
}

// rowsMissing finds nodes of whose endpoints rows are missing. Where the engine has not told who is on a network, what is lost
// has to do.
func rowsMissing(in table, cause string) func(*View) []hit {
	return func(v *View) []hit {
		var hits []hit
		for i := range v.Cluster.Networks {
			n := &v.Cluster.Networks[i]
			whose := n.NoFDB
			if in == tableNeighbour {
				whose = n.NoNeighbour
			}
			hits = append(hits, v.rowHits(n, in, cause, gaps(whose))...)
		}
		for i := range v.Lost {
			l := &v.Lost[i]
			if n := v.overlay(l.Network); l.Cause != cause || n != nil && n.Known || !v.lasting(l) {
				continue
			}
			hits = append(hits, hit{subject: between(l.Network, l.Peer), evidence: tunnelFacts(l), fill: v.peerFill(l.Network, l.Peer)})
		}
		return hits
	}
}

// leadAstray finds rows here that lead to the wrong node, and nodes whose rows lead here wrongly.
func leadAstray(v *View) []hit {
	var hits []hit
	for i := range v.Cluster.Networks {
		n := &v.Cluster.Networks[i]
		hits = append(hits, v.rowHits(n, tableFDB, "stale-vtep", led(n.Astray))...)
	}
	return append(hits, v.ledHere()...)
}

// ledHere finds the nodes from which frames came that are for nobody here. They are dropped at the VXLAN device; or, where a
// bridge hands to all of its ports what it knows nobody for, by each whom they are not for, of whom the load balancer counts.
func (v *View) ledHere() []hit {
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		n := v.overlay(l.Subject.Network)
		if l.Cause != "stale-vtep" || n == nil || !v.enough(l.Packets, perMinute) || l.Last.Sub(l.First) < sustained {
			continue
		}
		from := hostOf(n, l.Example.Source)
		h := hit{subject: between(n.Name, from), evidence: []Fact{lost(l.Packets)}, fill: v.peerFill(n.Name, from)}
		if from.IsValid() {
			h.subject.Object += " by here"
			h.evidence = append(h.evidence, v.nodeFact("whose rows lead here", from))
		}
		if to := hostOf(n, l.Example.Destination); to.IsValid() {
			h.evidence = append(h.evidence, v.nodeFact("where it should have gone", to))
		}
		h.evidence = append(h.evidence, exampleFacts(&l.Example)...)
		h.confirm = "timeout 10 tcpdump -c 5 -ni any udp dst port {port} and src {peer}"
		hits = append(hits, h)
	}
	return hits
}

// hostOf is the node of whoever has an address on a network; not valid: it is not known.
func hostOf(n *enrich.OverlayNetwork, address netip.Addr) netip.Addr {
	for i := range n.Endpoints {
		if n.Endpoints[i].Address == address {
			return n.Endpoints[i].Host
		}
	}
	return netip.Addr{}
}

// mismatching finds addresses that frames come from, and should not.
func mismatching(v *View) []hit {
	var hits []hit
	for i := range v.Lost {
		l := &v.Lost[i]
		if l.Cause != "vtep-src-mismatch" || !v.lasting(l) {
			continue
		}
		evidence := []Fact{text("comes from", orElse(addressText(l.Peer), "not known")), text("nodes on the network", orElse(v.nodesOn(l.Network), "not known"))}
		hits = append(hits, hit{
			subject: between(l.Network, l.Peer), evidence: append(evidence, tunnelFacts(l)...), fill: v.peerFill(l.Network, l.Peer),
		})
	}
	return hits
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// nodesOn names the other nodes that are on a network.
func (v *View) nodesOn(network string) string {
	var names []string
	for _, p := range v.Cluster.Peers {
		if slices.Contains(p.Nets, network) {
			names = append(names, nodeText(p.Node, p.Address))
		}
	}
	return list(names)
}
