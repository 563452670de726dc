// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// showIPVS lists what a load balancer spreads, and over whom.
const showIPVS = "nsenter --net={sandbox} ipvsadm -Ln"

// ipvsRules are about virtual addresses of services and the routing mesh, which IPVS serves in namespaces of their own.
func ipvsRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "ipvs-unavailable", Severity: Critical,
				Title:   "The kernel has no IPVS: neither virtual addresses of services nor ports of the routing mesh work on this node.",
				Remedy:  "Load the module (modprobe ip_vs), have it loaded at each start (/etc/modules-load.d), and restart Docker, which asks for it only once. Where the kernel is made without it, use --endpoint-mode dnsrr and publish ports with mode=host.",
				Confirm: "modprobe --dry-run --verbose ip_vs",
				Basis:   "/proc/net/ip_vs, which is missing in the namespaces of load balancers and of the mesh, beside the virtual addresses of services; and packets for those, that nobody answers for",
			},
			after: settle,
			find:  noIPVS,
		},
		{
			Definition: Definition{
				ID: "ipvs-no-backend", Severity: Critical,
				Title:   "A service's virtual address has nobody behind it on this node, although tasks run.",
				Remedy:  "Have the engine write it anew: docker service update --force, or restart the engine on this node. Until then use tasks.SERVICE, or a port published with mode=host.",
				Confirm: showIPVS,
				Basis:   "the backends that IPVS has for the service in its load balancer's namespace, none for half a minute, beside the tasks that the engine lists; and packets for the address that containers lost since nobody answered for it",
			},
			after: leave,
			find:  noBackend,
		},
		{
			Definition: Definition{
				ID: "ipvs-stale-backend", Severity: Critical,
				Title:   "A service's virtual address leads to addresses that none of its tasks has: some connections to it fail.",
				Remedy:  "Take the backend out (nsenter --net=SANDBOX ipvsadm -d -f MARK -r ADDRESS:0), which helps at once. A restart of the engine on this node makes the list anew.",
				Confirm: showIPVS,
				Basis:   "the backends that IPVS gives new connections to, in the load balancer's namespace, beside the service's tasks as the engine lists them; for half a minute",
			},
			after: leave,
			find:  staleBackends,
		},
		{
			Definition: Definition{
				ID: "ipvs-drain", Severity: Info,
				Title:   "A task of a service shuts down, and connections by the service's virtual address still go to it.",
				Remedy:  "New connections go to others. Those that are open end with the task, when --stop-grace-period is over: have the program close them at SIGTERM, and clients come again.",
				Confirm: showIPVS,
				Basis:   "backends of IPVS with weight 0 and active connections, for half a minute",
			},
			after: leave,
			find:  draining,
		},
		{
			Definition: Definition{
				ID: "ipvs-idle-900", Severity: Info,
				Title:   "Connections by a service's virtual address have been silent for ten minutes: IPVS forgets them when it is fifteen.",
				Remedy:  "What is sent on a forgotten connection is lost or reset, and neither end knows before. Send keep-alives more often (net.ipv4.tcp_keepalive_time below 900, for sockets with SO_KEEPALIVE), close what a pool does not use, or use tasks.SERVICE or --endpoint-mode dnsrr.",
				Confirm: "nsenter --net={sandbox} ipvsadm -Lnc",
				Basis:   "established TCP connections that IPVS has less than 300 of its 900 seconds left for, by backend",
			},
			find: silentConnections,
		},
		{
			Definition: Definition{
				ID: "ipvs-port-reuse", Severity: Warning,
				Title:   "A load balancer drops connection attempts of clients that use a port again.",
				Remedy:  "Set net.ipv4.vs.conn_reuse_mode to 0 in the load balancer's namespace. The engine does so itself if the module ip_vs is loaded before it makes the namespace: load it at each start (/etc/modules-load.d). Linux before 5.9 is hit harder.",
				Confirm: "nsenter --net={sandbox} sysctl net.ipv4.vs.conn_reuse_mode",
				Basis:   "net.ipv4.vs.conn_reuse_mode in the namespace of a load balancer or the mesh, and TCP segments that netfilter, which IPVS is a part of, dropped there",
			},
			find: reusedPorts,
		},
		{
			Definition: Definition{
				ID: "vip-no-ping", Severity: Info,
				Title:   "Pings of a service's virtual address are lost. They would say nothing of its tasks.",
				Remedy:  "IPVS balances TCP, UDP and SCTP. A ping is answered by the load balancer at most, and by nobody while the service has no task. Ask the service's port, or ping tasks.SERVICE.",
				Confirm: "getent ahostsv4 tasks.{service}",
				Basis:   "ICMP echo requests for a virtual address that the kernel dropped",
			},
			inside: true,
			find:   lostPings,
		},
		{
			Definition: Definition{
				ID: "mesh-forwarding-off", Severity: Critical,
				Title:   "A load balancer does not forward: requests reach the tasks, and all answers are lost.",
				Remedy:  "Turn it on: nsenter --net=SANDBOX sysctl -w net.ipv4.ip_forward=1. New namespaces take it from the machine's first: set net.ipv4.ip_forward to 1 there before Docker starts (/etc/sysctl.d).",
				Confirm: "nsenter --net={sandbox} sysctl net.ipv4.ip_forward",
				Basis:   "net.ipv4.ip_forward in the namespaces of load balancers and of the mesh that have services to balance",
			},
			after: settle,
			find:  meshNotForwarding,
		},
	}
}

// balancers calls with the networks whose load balancer on this node could be read.
func (v *View) balancers(call func(*enrich.OverlayNetwork)) {
	for i := range v.Cluster.Networks {
		n := &v.Cluster.Networks[i]
		if s := n.LoadBalancer; s != nil && !s.NoIPVS && len(s.Errors) == 0 {
			call(n)
		}
	}
}

// eachVIP calls with the virtual addresses of these networks, if the engine has told whose they are.
func (v *View) eachVIP(call func(*enrich.OverlayNetwork, *enrich.VirtualAddress)) {
	v.balancers(func(n *enrich.OverlayNetwork) {
		for i := range n.VIPs {
			if n.Known {
				call(n, &n.VIPs[i])
			}
		}
	})
}

// balancerScope is the kind of a load balancer's namespace.
func balancerScope(n *enrich.OverlayNetwork) enrich.Scope {
	if n.LoadBalancer.Kind == loader.SandboxIngress {
		return enrich.ScopeIngress
	}
	return enrich.ScopeLoadBalancer
}

// vipHit concerns a virtual address.
func vipHit(n *enrich.OverlayNetwork, vip *enrich.VirtualAddress, evidence ...Fact) hit {
	subject := Subject{Identity: vip.Identity, Scope: balancerScope(n), Object: vip.Address.String()}
	subject.Network = n.Name
	return hit{
		subject: subject, evidence: append([]Fact{text("virtual address", vip.Address.String())}, evidence...),
		fill: map[string]string{"sandbox": n.LoadBalancer.Path},
	}
}

// balancerHit concerns a load balancer.
func balancerHit(n *enrich.OverlayNetwork, evidence ...Fact) hit {
	return hit{
		subject:  Subject{Identity: enrich.Identity{Network: n.Name}, Scope: balancerScope(n)},
		evidence: append([]Fact{text("namespace", n.LoadBalancer.Path)}, evidence...),
		fill:     map[string]string{"sandbox": n.LoadBalancer.Path},
	}
}

// noIPVS finds out whether there are virtual addresses that nothing can serve. The engine has the kernel load the module when a
// service's first task comes, so that it may be missing until then.
func noIPVS(v *View) []hit {
	if !v.Cluster.NoIPVS {
		return nil
	}
	var names []string
	for i := range v.Cluster.Networks {
		for _, vip := range v.Cluster.Networks[i].VIPs {
			if len(vip.Tasks) > 0 {
				names = append(names, orElse(vip.Service, vip.Address.String()))
			}
		}
	}
	for i := range v.Inventory.Services {
		if s := &v.Inventory.Services[i]; len(s.Mesh) > 0 && s.Running > 0 {
			names = append(names, s.Identity.Service)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil
	}
	facts := []Fact{
		text("/proc/net/ip_vs", "not there"), number("services with a virtual address", float64(len(names)), ""), text("services", list(names)),
	}
	if lost, _ := v.hostLosses("ipvs-unavailable", perMinute); len(lost) > 0 {
		facts = append(facts, lost...)
	}
	return onHost(facts, nil)
}

// noBackend finds virtual addresses that should be served here and are not: IPVS has nobody, or nobody answers ARP for the address.
// One whose backends all have weight 0 is of tasks that shut down.
func noBackend(v *View) []hit {
	var hits []hit
	v.eachVIP(func(n *enrich.OverlayNetwork, vip *enrich.VirtualAddress) {
		if len(vip.Tasks) == 0 {
			return
		}
		l := v.lostTo(n, vip)
		known := ""
		switch {
		case !vip.Served:
			known = "not known"
		case len(vip.Backends) == 0:
			known = "known, without a backend"
		case l == nil:
			return
		default:
			known = "known, and not answered for"
		}
		h := vipHit(n, vip, text("to IPVS it is", known), number("tasks", float64(len(vip.Tasks)), ""), text("addresses of tasks", taskAddresses(vip.Tasks)))
		if l != nil {
			h.evidence = append(append(h.evidence, lost(l.Packets)), exampleFacts(&l.Example)...)
		}
		hits = append(hits, h)
	})
	return hits
}

// lostTo is what containers here lost for want of somebody who answers for a virtual address; nil: too little.
func (v *View) lostTo(n *enrich.OverlayNetwork, vip *enrich.VirtualAddress) *Loss {
	for i := range v.Losses {
		l := &v.Losses[i]
		if l.Cause == "ipvs-no-backend" && l.Subject.Network == n.Name && l.Example.Destination == vip.Address && v.enough(l.Packets, perMinute) {
			return l
		}
	}
	return nil
}

func taskAddresses(tasks []enrich.ClusterEndpoint) string {
	names := make([]string, 0, len(tasks))
	for _, t := range tasks {
		names = append(names, t.Address.String())
	}
	return list(names)
}

// staleBackends finds virtual addresses that lead to somebody else, or nobody. Backends with weight 0 get nothing new.
func staleBackends(v *View) []hit {
	var hits []hit
	v.eachVIP(func(n *enrich.OverlayNetwork, vip *enrich.VirtualAddress) {
		var stale []string
		alive, active := 0, 0
		for _, b := range vip.Backends {
			switch {
			case b.Weight == 0:
			case slices.Contains(vip.Dead, b.Address):
				stale = append(stale, b.Address.String())
				active += b.Active
			default:
				alive++
			}
		}
		if len(stale) > 0 {
			hits = append(hits, vipHit(n, vip, text("backends of no task", list(stale)),
				number("backends", float64(len(stale)), fmt.Sprintf("of %d", alive+len(stale))), number("connections to them", float64(active), "")))
		}
	})
	return hits
}

// draining finds tasks that shut down and are still talked to.
func draining(v *View) []hit {
	var hits []hit
	v.eachVIP(func(n *enrich.OverlayNetwork, vip *enrich.VirtualAddress) {
		var names []string
		active := 0
		for _, b := range vip.Backends {
			if b.Weight == 0 && b.Active > 0 {
				names = append(names, nameOfTask(vip, b.Address))
				active += b.Active
			}
		}
		if len(names) > 0 {
			hits = append(hits, vipHit(n, vip, text("shut down", list(names)), number("connections to them", float64(active), "")))
		}
	})
	return hits
}

func nameOfTask(vip *enrich.VirtualAddress, address netip.Addr) string {
	for _, t := range vip.Tasks {
		if t.Address == address && t.Container != "" {
			return t.Container + " (" + address.String() + ")"
		}
	}
	return address.String()
}

func silentConnections(v *View) []hit {
	var hits []hit
	v.eachVIP(func(n *enrich.OverlayNetwork, vip *enrich.VirtualAddress) {
		silent, active := 0, 0
		for _, b := range vip.Backends {
			silent += b.Silent
			active += b.Active
		}
		if silent > 0 {
			hits = append(hits, vipHit(n, vip, number("silent connections", float64(silent), fmt.Sprintf("of %d", active))))
		}
	})
	return hits
}

// reusedPorts finds load balancers that drop segments while they are set to treat such connections in a way of their own. Many
// are set so and nobody notices: since Linux 5.9 few connections are hit.
func reusedPorts(v *View) []hit {
	var hits []hit
	v.balancers(func(n *enrich.OverlayNetwork) {
		if n.LoadBalancer.PortReuse != loader.On {
			return
		}
		for i := range v.Losses {
			l := &v.Losses[i]
			if l.Subject.Scope != balancerScope(n) || l.Subject.Network != n.Name || !l.isFiltered() ||
				l.Example.Protocol != unix.IPPROTO_TCP || !v.enough(l.Packets, perMinute) {
				continue
			}
			h := balancerHit(n, text("net.ipv4.vs.conn_reuse_mode", position(n.LoadBalancer.PortReuse)), lost(l.Packets))
			h.evidence = append(h.evidence, exampleFacts(&l.Example)...)
			hits = merge(hits, h)
		}
	})
	return hits
}

// isFiltered tells what netfilter dropped, by the kernel's reason, or where there are none by the function.
func (l *Loss) isFiltered() bool {
	return l.Example.Reason == "NETFILTER_DROP" || l.Example.Reason == "" && l.Example.Function == "nf_hook_slow"
}

const icmpEcho = 8 // RFC 792, as a Drop's source port

func lostPings(v *View) []hit {
	services := make(map[overlayAddress]*enrich.VirtualAddress) // networks may share a subnet
	for i := range v.Cluster.Networks {
		n := &v.Cluster.Networks[i]
		for j := range n.VIPs {
			services[overlayAddress{n.Name, n.VIPs[j].Address}] = &n.VIPs[j]
		}
	}
	var hits []hit
	for i := range v.Losses {
		l := &v.Losses[i]
		e := &l.Example
		vip := services[overlayAddress{l.Subject.Network, e.Destination}]
		if vip == nil || v.Cluster.NoIPVS || e.Protocol != unix.IPPROTO_ICMP || e.SourcePort != icmpEcho || !l.victim() || !v.enough(l.Packets, pings) {
			continue
		}
		h := v.lossHit(l)
		h.evidence = append([]Fact{text("virtual address", vip.Address.String())}, h.evidence...)
		h.fill["service"] = orElse(vip.Service, "SERVICE")
		hits = append(hits, h)
	}
	return hits
}

// pings is how many must be lost: who waits for an address that nobody answers for loses them in threes.
const pings = 3

// meshNotForwarding finds load balancers that cannot send answers on to clients.
func meshNotForwarding(v *View) []hit {
	var hits []hit
	v.balancers(func(n *enrich.OverlayNetwork) {
		if n.LoadBalancer.Forwarding == loader.Off && len(n.LoadBalancer.IPVS) > 0 {
			hits = append(hits, balancerHit(n, text("net.ipv4.ip_forward", position(n.LoadBalancer.Forwarding)),
				number("services", float64(len(n.LoadBalancer.IPVS)), "in it")))
		}
	})
	return hits
}
