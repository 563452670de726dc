// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

const (
	webVIP    = "10.9.1.2"
	webTask1  = "10.9.1.4"
	webTask2  = "10.9.1.5"
	balancer  = "/run/docker/netns/lb_zmq0dp2jp"
	meshNetns = "/run/docker/netns/ingress_sbox"
)

// swarmed puts a healthy Swarm around the healthy host: two other nodes, a service of two tasks behind a virtual address and the mesh.
func swarmed(v *View) {
	service := enrich.Identity{Stack: "stack", Service: "front"}
	tasks := func(addresses ...string) (all []enrich.ClusterEndpoint) {
		for i, a := range addresses {
			name := []string{"front.1", "front.2"}[i]
			e := enrich.ClusterEndpoint{Identity: service, Name: "stack_" + name + ".xyz", Address: addr(a), Host: addr("192.168.1.6")}
			e.Container = name
			all = append(all, e)
		}
		return all
	}
	backends := func(addresses ...string) (all []loader.IPVSBackend) {
		for _, a := range addresses {
			all = append(all, loader.IPVSBackend{Address: addr(a), Weight: 1, Active: 10, Inactive: 100})
		}
		return all
	}
	state := func(path string, kind loader.SandboxKind, marks ...uint32) *loader.SandboxState {
		s := &loader.SandboxState{Sandbox: loader.Sandbox{Path: path, Kind: kind}, Forwarding: loader.On, PortReuse: loader.On}
		for _, m := range marks {
			s.IPVS = append(s.IPVS, loader.VirtualService{Mark: m})
		}
		return s
	}
	overlay := func(path string, vni uint32) *loader.SandboxState {
		return &loader.SandboxState{
			Sandbox: loader.Sandbox{Path: path, Kind: loader.SandboxOverlay}, VXLANs: []loader.VXLAN{{Index: 14, Name: "vxlan0", VNI: vni}},
		}
	}
	front := tasks(webTask1, webTask2)
	v.Cluster = enrich.Cluster{
		Self: addr("192.168.1.5"), Ports: loader.OverlayPorts{Data: 4789, Gossip: 7946, Managers: []uint16{2377}},
		Peers: []enrich.SwarmPeer{
			{Address: addr("192.168.1.6"), Control: addr("192.168.1.6"), Node: "two", State: "ready", Nets: []string{"ingress", "stack_back"}},
			{Address: addr("192.168.1.7"), Node: "three", Manager: true, State: "ready"},
		},
		Networks: []enrich.OverlayNetwork{
			{
				Network: *v.network("ingress"), VNIs: []uint32{4096}, Known: true,
				Sandbox:      overlay("/run/docker/netns/1-yyy0dp2jpu", 4096),
				LoadBalancer: state(meshNetns, loader.SandboxIngress, 256),
				VIPs: []enrich.VirtualAddress{{
					Identity: service, Address: addr("10.0.0.4"), Served: true, Tasks: tasks("10.0.0.5", "10.0.0.6"), Backends: backends("10.0.0.5", "10.0.0.6"),
				}},
			},
			{
				Network: *v.network("stack_back"), VNIs: []uint32{4097}, Known: true, Endpoints: front,
				Sandbox:      overlay("/run/docker/netns/1-zmq0dp2jpu", 4097),
				LoadBalancer: state(balancer, loader.SandboxLoadBalancer, 257),
				VIPs: []enrich.VirtualAddress{{
					Identity: service, Address: addr(webVIP), Served: true, Tasks: front, Backends: backends(webTask1, webTask2),
				}},
			},
		},
	}
	for i, id := range []string{"yyy0dp2jpu0000000000", "zmq0dp2jpu0000000000"} {
		v.Cluster.Networks[i].ID = id
		v.network(v.Cluster.Networks[i].Name).ID = id
	}
	v.Channels = controlChannels()
}

// inSwarm changes the host that a healthy Swarm is around.
func inSwarm(change func(*View)) func(*View) {
	return func(v *View) {
		swarmed(v)
		change(v)
	}
}

// onVIP changes the service's virtual address on stack_back.
func onVIP(change func(*enrich.VirtualAddress)) func(*View) {
	return inSwarm(func(v *View) { change(&v.Cluster.Networks[1].VIPs[0]) })
}

// unreached is packets for the service's virtual address that nobody answers for.
func unreached(v *View, packets uint64) {
	l := loss("ipvs-no-backend", packets)
	l.Subject.Network, l.Example.Destination = "stack_back", addr(webVIP)
	v.Losses = []Loss{l}
}

func ipvsCases() []ruleCase {
	const list = "nsenter --net=" + balancer + " ipvsadm -Ln"
	onWeb := Subject{
		Identity: enrich.Identity{Stack: "stack", Service: "front", Network: "stack_back"}, Scope: enrich.ScopeLoadBalancer, Object: webVIP,
	}
	onMesh := Subject{
		Identity: enrich.Identity{Stack: "stack", Service: "front", Network: "ingress"}, Scope: enrich.ScopeIngress, Object: "10.0.0.4",
	}
	at := text("virtual address", webVIP)
	lost := func(v *View, subject Subject, packets uint64) *Loss {
		l := loss("unknown", packets)
		l.Subject, l.Example.ContainerID, l.Example.Scope = subject, "", subject.Scope
		l.Example.Reason, l.Example.Function = "NETFILTER_DROP", "nf_hook_slow"
		v.Losses = []Loss{l}
		return &v.Losses[0]
	}
	inBalancer := Subject{Identity: enrich.Identity{Network: "stack_back"}, Scope: enrich.ScopeLoadBalancer}
	ping := func(v *View, packets uint64) *enrich.Drop {
		l := loss("veth-down", packets)
		l.Subject.Network, l.Subject.Scope = "stack_back", enrich.ScopeContainer
		l.Example.Protocol, l.Example.SourcePort, l.Example.DestinationPort, l.Example.Destination = unix.IPPROTO_ICMP, 8, 0, addr(webVIP)
		v.Losses = []Loss{l}
		return &v.Losses[0].Example
	}
	pinged := func(v *View) { // of what the drop itself raises, only what is asked here
		v.Losses[0].Cause = "multicast"
	}
	return []ruleCase{
		{"a healthy Swarm", inSwarm(func(*View) {}), nil},
		{
			"no IPVS", inSwarm(func(v *View) {
				v.Cluster.NoIPVS = true
				for i := range v.Cluster.Networks {
					v.Cluster.Networks[i].LoadBalancer.NoIPVS = true
					v.Cluster.Networks[i].VIPs[0].Served, v.Cluster.Networks[i].VIPs[0].Backends = false, nil
				}
				v.Inventory.Services = []enrich.LiveService{{
					Service: enrich.Service{Name: "site", Running: 1, Mesh: []enrich.MeshPort{{Port: 8080, Protocol: "tcp"}}}, Identity: enrich.Identity{Service: "site"},
				}}
			}),
			one("ipvs-unavailable", onTheHost(""), "modprobe --dry-run --verbose ip_vs",
				text("/proc/net/ip_vs", "not there"), number("services with a virtual address", 2, ""), text("services", "front, site")),
		},
		{"no IPVS yet, before a task has begun", inSwarm(func(v *View) {
			v.Cluster.NoIPVS = true
			for i := range v.Cluster.Networks {
				v.Cluster.Networks[i].LoadBalancer.NoIPVS, v.Cluster.Networks[i].VIPs[0].Tasks = true, nil
			}
			v.Inventory.Services = []enrich.LiveService{{
				Service: enrich.Service{Name: "site", Mesh: []enrich.MeshPort{{Port: 8080, Protocol: "tcp"}}}, Identity: enrich.Identity{Service: "site"},
			}}
		}), nil},
		{"no IPVS, and nobody needs it", inSwarm(func(v *View) {
			v.Cluster.NoIPVS = true
			for i := range v.Cluster.Networks {
				v.Cluster.Networks[i].LoadBalancer.NoIPVS, v.Cluster.Networks[i].VIPs = true, nil
			}
		}), nil},
		{
			"IPVS has the address without a backend", onVIP(func(a *enrich.VirtualAddress) { a.Backends = nil }),
			one("ipvs-no-backend", onWeb, list, at, text("to IPVS it is", "known, without a backend"), number("tasks", 2, ""),
				text("addresses of tasks", webTask1+", "+webTask2)),
		},
		{
			"IPVS does not know an address of the mesh", inSwarm(func(v *View) {
				a := &v.Cluster.Networks[0].VIPs[0]
				a.Served, a.Backends = false, nil
			}),
			one("ipvs-no-backend", onMesh, "nsenter --net="+meshNetns+" ipvsadm -Ln", text("virtual address", "10.0.0.4"),
				text("to IPVS it is", "not known"), number("tasks", 2, ""), text("addresses of tasks", "10.0.0.5, 10.0.0.6")),
		},
		{
			"nobody answers for an address that IPVS knows", inSwarm(func(v *View) { unreached(v, 10) }),
			one("ipvs-no-backend", onWeb, list, at, text("to IPVS it is", "known, and not answered for"), number("tasks", 2, ""),
				text("addresses of tasks", webTask1+", "+webTask2), number("packets lost", 10, "in the last minute"),
				text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"), text("device", "br-f0f0f0f0f0f0"),
				text("example", "172.20.0.2:40000 > "+webVIP+":443 tcp"), text("direction", "tx"), text("scope", "host")),
		},
		{"a few packets are not answered for", inSwarm(func(v *View) { unreached(v, 9) }), nil},
		{"a service without tasks is not answered for", inSwarm(func(v *View) {
			unreached(v, 10)
			a := &v.Cluster.Networks[1].VIPs[0]
			a.Served, a.Backends, a.Tasks = false, nil, nil
		}), nil},
		{"a service without tasks", onVIP(func(a *enrich.VirtualAddress) { a.Served, a.Backends, a.Tasks = false, nil, nil }), nil},
		{"whose tasks all shut down", onVIP(func(a *enrich.VirtualAddress) {
			for i := range a.Backends {
				a.Backends[i].Weight, a.Backends[i].Active = 0, 0
			}
		}), nil},
		{"a network that nobody here is on", inSwarm(func(v *View) {
			n := &v.Cluster.Networks[1]
			n.LoadBalancer, n.VIPs[0].Served, n.VIPs[0].Backends = nil, false, nil
		}), nil},
		{"a load balancer that could not be read", inSwarm(func(v *View) {
			n := &v.Cluster.Networks[1]
			n.LoadBalancer.Errors, n.VIPs[0].Served, n.VIPs[0].Backends = []error{loader.ErrNetnsGone}, false, nil
		}), nil},
		{
			"a backend of no task", onVIP(func(a *enrich.VirtualAddress) { a.Tasks, a.Dead = a.Tasks[:1], []netip.Addr{addr(webTask2)} }),
			one("ipvs-stale-backend", onWeb, list, at, text("backends of no task", webTask2), number("backends", 1, "of 2"),
				number("connections to them", 10, "")),
		},
		{
			"all that is left of a service", onVIP(func(a *enrich.VirtualAddress) {
				a.Tasks, a.Dead = nil, []netip.Addr{addr(webTask1), addr(webTask2)}
			}),
			one("ipvs-stale-backend", onWeb, list, at, text("backends of no task", webTask1+", "+webTask2), number("backends", 2, "of 2"),
				number("connections to them", 20, "")),
		},
		{"a backend of no task that gets nothing new", onVIP(func(a *enrich.VirtualAddress) {
			a.Tasks = a.Tasks[:1]
			a.Backends[1].Weight, a.Backends[1].Active = 0, 0
		}), nil},
		{"the engine has not told whose it is", inSwarm(func(v *View) {
			n := &v.Cluster.Networks[1]
			n.Known, n.VIPs[0].Tasks = false, nil
		}), nil},
		{
			"a task that shuts down and is talked to", onVIP(func(a *enrich.VirtualAddress) { a.Backends[1].Weight = 0 }),
			one("ipvs-drain", onWeb, list, at, text("shut down", "front.2 ("+webTask2+")"), number("connections to them", 10, "")),
		},
		{"a task that shuts down and has only closed connections", onVIP(func(a *enrich.VirtualAddress) {
			a.Backends[1].Weight, a.Backends[1].Active = 0, 0
		}), nil},
		{
			"silent connections", onVIP(func(a *enrich.VirtualAddress) { a.Backends[0].Silent, a.Backends[1].Silent = 3, 4 }),
			one("ipvs-idle-900", onWeb, "nsenter --net="+balancer+" ipvsadm -Lnc", at, number("silent connections", 7, "of 20")),
		},
		{
			"segments dropped where ports are used again", inSwarm(func(v *View) { lost(v, inBalancer, 10).Cause = "multicast" }),
			one("ipvs-port-reuse", inBalancer, "nsenter --net="+balancer+" sysctl net.ipv4.vs.conn_reuse_mode",
				text("namespace", balancer), text("net.ipv4.vs.conn_reuse_mode", "on"), number("packets lost", 10, "in the last minute"),
				text("kernel's reason", "NETFILTER_DROP"), text("kernel function", "nf_hook_slow"), text("device", "br-f0f0f0f0f0f0"),
				text("example", "172.20.0.2:40000 > 203.0.113.7:443 tcp"), text("direction", "tx"), text("scope", "loadbalancer")),
		},
		{"dropped where nothing is done to such connections", inSwarm(func(v *View) {
			lost(v, inBalancer, 10).Cause = "multicast"
			v.Cluster.Networks[1].LoadBalancer.PortReuse = loader.Off
		}), nil},
		{"too few dropped", inSwarm(func(v *View) { lost(v, inBalancer, 9).Cause = "multicast" }), nil},
		{"dropped by something else", inSwarm(func(v *View) {
			l := lost(v, inBalancer, 10)
			l.Cause, l.Example.Reason = "multicast", "NEIGH_FAILED"
		}), nil},
		{"datagrams dropped", inSwarm(func(v *View) {
			l := lost(v, inBalancer, 10)
			l.Cause, l.Example.Protocol = "multicast", unix.IPPROTO_UDP
		}), nil},
		{"dropped in another load balancer", inSwarm(func(v *View) {
			l := lost(v, inBalancer, 10)
			l.Cause, l.Subject.Network = "multicast", "other"
		}), nil},
		{
			"pings of a virtual address", inSwarm(func(v *View) {
				ping(v, 3)
				pinged(v)
			}),
			one("vip-no-ping", webOn("stack_back", enrich.ScopeContainer, ""),
				"nsenter -t $(docker inspect -f '{{.State.Pid}}' shop-web-1) -n getent ahostsv4 tasks.front",
				text("virtual address", webVIP), number("packets lost", 3, "in the last minute"),
				text("kernel's reason", "SOME_REASON"), text("kernel function", "some_function"), text("device", "br-f0f0f0f0f0f0"),
				text("example", "172.20.0.2 > "+webVIP+" icmp"), text("direction", "tx"), text("scope", "host")),
		},
		{"too few pings", inSwarm(func(v *View) {
			ping(v, 2)
			pinged(v)
		}), nil},
		{"pings of the same address on another network", inSwarm(func(v *View) {
			ping(v, 3)
			pinged(v)
			v.Losses[0].Subject.Network = "front"
		}), nil},
		{"pings of a task", inSwarm(func(v *View) {
			ping(v, 3).Destination = addr(webTask1)
			pinged(v)
		}), nil},
		{"answers to pings", inSwarm(func(v *View) {
			ping(v, 3).SourcePort = 0
			pinged(v)
		}), nil},
		{"a load balancer that does not forward, and has nothing to", inSwarm(func(v *View) {
			l := v.Cluster.Networks[0].LoadBalancer
			l.Forwarding, l.IPVS = loader.Off, nil
		}), nil},
		{
			"the mesh does not forward", inSwarm(func(v *View) { v.Cluster.Networks[0].LoadBalancer.Forwarding = loader.Off }),
			one("mesh-forwarding-off", Subject{Identity: enrich.Identity{Network: "ingress"}, Scope: enrich.ScopeIngress},
				"nsenter --net="+meshNetns+" sysctl net.ipv4.ip_forward",
				text("namespace", meshNetns), text("net.ipv4.ip_forward", "off"), number("services", 1, "in it")),
		},
		{"forwarding could not be read", inSwarm(func(v *View) { v.Cluster.Networks[0].LoadBalancer.Forwarding = loader.Absent }), nil},
	}
}

// The engine's list and the kernel's are read at different moments: what does not agree has to stay so.
func TestIPVSChangesTakeTime(t *testing.T) {
	for id, change := range map[string]func(*View){
		"ipvs-no-backend":    onVIP(func(a *enrich.VirtualAddress) { a.Backends = nil }),
		"ipvs-stale-backend": onVIP(func(a *enrich.VirtualAddress) { a.Dead = []netip.Addr{addr(webTask2)} }),
		"ipvs-drain":         onVIP(func(a *enrich.VirtualAddress) { a.Backends[0].Weight = 0 }),
	} {
		view := healthy()
		change(&view)
		if all := look(NewBoard(Config{}), view, leave-1); len(all) != 0 {
			t.Errorf("%s: too early: %+v", id, all)
		}
		if all := look(NewBoard(Config{}), view, leave); len(all) != 1 || all[0].ID != id {
			t.Errorf("%s: found %+v", id, all)
		}
	}
}

// Kernels before 5.17 give no reasons.
func TestFilteredWithoutReason(t *testing.T) {
	for function, want := range map[string]bool{"nf_hook_slow": true, "ip_rcv": false, "": false} {
		l := Loss{Example: enrich.Drop{Drop: loader.Drop{Function: function, Source: netip.Addr{}}}}
		if got := l.isFiltered(); got != want {
			t.Errorf("%q: %t, want %t", function, got, want)
		}
	}
}
