// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// side is one node of a Swarm with its agent.
type side struct {
	*lab.Node
	agent *lab.Agent
	found *lab.Findings
	said  sync.Map // what doctor said, by the finding that it was asked for when that was first seen
}

// swarmStage is where the cases of a Swarm play.
type swarmStage struct {
	*testing.T
	swarm           *lab.Swarm
	manager, worker *side
}

// newSwarmStage starts a Swarm, and an agent on each of its nodes.
func newSwarmStage(t *testing.T, flags ...string) swarmStage {
	t.Helper()
	lab.Outside(t).ServeDNS(t, []netip.Addr{lab.OutsideAddress}, "--always", "nx") // for names that are nobody's at a moment
	s := swarmStage{T: t, swarm: lab.StartSwarm(t)}
	start := func(node *lab.Node) *side {
		agent := lab.StartAgent(t, node.Engine, append([]string{"--findings.hold=" + hold.String()}, flags...)...)
		at := &side{Node: node, agent: agent, found: lab.WatchFindings(t, agent)}
		at.keepEvidence(t)
		return at
	}
	s.manager, s.worker = start(s.swarm.Manager), start(s.swarm.Worker)
	return s
}

// keepEvidence asks doctor about whatever is found, until the test ends: findings say why, their series do not.
func (at *side) keepEvidence(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
	go func() {
		defer close(stopped)
		for {
			for _, f := range at.found.Standing() {
				if _, known := at.said.Load(f); !known && f.Severity != "info" {
					_, text, _ := lab.Command(t, at.Engine, "doctor", "--api.socket="+at.agent.Socket)
					at.said.Store(f, text)
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	}()
}

// in is the stage of a subtest.
func (s swarmStage) in(t *testing.T) swarmStage {
	s.T = t
	return s
}

func (s swarmStage) sides() []*side { return []*side{s.manager, s.worker} }

// other is the other side.
func (s swarmStage) other(of *side) *side {
	if of == s.manager {
		return s.worker
	}
	return s.manager
}

// hasIPVS tells whether the kernel has what serves virtual addresses.
func hasIPVS() bool {
	_ = exec.Command("modprobe", "--quiet", "ip_vs").Run() // Docker does so when it needs it; there may be none to load
	_, err := os.Stat("/proc/net/ip_vs")
	return err == nil
}

// tunnel is an overlay network, and what the switch between the nodes counts of it.
type tunnel struct {
	name string
	vni  uint32
	// Frames that one node has sent, and those that have arrived at the other, by who sent them.
	sent, arrived map[*side]*lab.Wire
}

// tunnel makes an overlay network.
func (s swarmStage) tunnel(name string, options ...string) tunnel {
	s.Helper()
	s.swarm.Network(s, name, options...)
	t := tunnel{name, s.manager.VNI(s, name), map[*side]*lab.Wire{}, map[*side]*lab.Wire{}}
	for _, from := range s.sides() {
		frames := lab.Between(from.Node, s.other(from).Node).VXLAN(t.vni)
		t.sent[from], t.arrived[from] = s.swarm.CountSent(s, frames), s.swarm.CountArrived(s, s.other(from).Node, frames)
	}
	return t
}

// labels are those of the series that count what a node exchanges with the other on the network.
func (s swarmStage) labels(t tunnel, at *side, direction string) lab.Labels {
	return lab.Labels{
		"network": t.name, "vni": strconv.FormatUint(uint64(t.vni), 10), "encapsulation": "vxlan",
		"local": at.Addr.String(), "peer": s.other(at).Addr.String(), "direction": direction,
	}
}

// requireTunnels holds the counts of both nodes against those of the switch, since the networks' birth.
func (s swarmStage) requireTunnels(tunnels ...tunnel) {
	s.Helper()
	s.eventually("the tunnels' counts", func() (wrong []string) {
		for _, t := range tunnels {
			for _, from := range s.sides() {
				wrong = append(wrong, s.tunnelDifferences(t, from, true)...)
			}
		}
		return wrong
	})
}

// tunnelDifferences are those of what one side says to have sent, and the other to have received. Bytes are the same only of
// single segments: longer ones have one header each before they are cut.
func (s swarmStage) tunnelDifferences(t tunnel, from *side, bytes bool) (wrong []string) {
	s.Helper()
	to := s.other(from)
	compare := func(at *side, direction string, wire *lab.Wire) {
		labels := s.labels(t, at, direction)
		metrics := at.agent.Scrape(s)
		want := wire.Counted(s)
		got := lab.Counted{Packets: metrics.Sum(tunnelled, labels), Bytes: metrics.Sum("bridgewatch_overlay_bytes_total", labels)}
		if got.Packets != want.Packets || bytes && got.Bytes != want.Bytes {
			wrong = append(wrong, fmt.Sprintf("%s counted %+v for %v, the switch %+v; all of the network:\n%s",
				at.Hostname, got, labels, want, lines(metrics.Select(tunnelled, lab.Labels{"network": t.name}))))
		}
	}
	compare(from, "tx", t.sent[from])
	compare(to, "rx", t.arrived[from])
	return wrong
}

// eventually waits until nothing is wrong, and says what still is when that takes too long.
func (s swarmStage) eventually(what string, wrong func() []string) {
	s.Helper()
	s.eventuallyWithin(shown, what, wrong)
}

func (s swarmStage) eventuallyWithin(within time.Duration, what string, wrong func() []string) {
	s.Helper()
	var found []string
	for end := time.Now().Add(within); ; time.Sleep(500 * time.Millisecond) {
		if found = wrong(); len(found) == 0 {
			return
		}
		if time.Now().After(end) {
			s.Errorf("%s:\n%s", what, strings.Join(found, "\n"))
			return
		}
	}
}

// requireEntries holds what the agents say of the tables of a network's VXLAN devices against what the tools show, and against
// how many endpoints there are on the other node, its load balancer among them.
func (s swarmStage) requireEntries(network string, remote map[*side]int) {
	s.Helper()
	s.eventually("entries of "+network, func() (wrong []string) {
		for _, at := range s.sides() {
			overlay := at.Overlay(s, network)
			metrics := at.agent.Scrape(s)
			for table, rows := range map[string]string{
				"fdb":       overlay.Run(s, "bridge", "fdb", "show", "dev", "vxlan0"),
				"neighbour": overlay.Run(s, "ip", "neigh", "show", "dev", "vxlan0", "nud", "permanent"),
			} {
				there := remote[at]
				if table == "fdb" {
					rows = strings.Join(slices.DeleteFunc(strings.Split(rows, "\n"), func(row string) bool { return !strings.Contains(row, " dst ") }), "\n")
				}
				if n := strings.Count(strings.TrimSpace(rows)+"\n", "\n"); n != there {
					s.Fatalf("%s has %d rows for %s, want %d:\n%s", at.Hostname, n, network, there, rows)
				}
				for _, metric := range []string{"bridgewatch_overlay_entries", "bridgewatch_overlay_expected_entries"} {
					got := metrics.Select(metric, lab.Labels{"network": network, "table": table})
					if len(got) != 1 || got[0].Value != float64(there) {
						wrong = append(wrong, fmt.Sprintf("%s, want %d:\n%s", at.Hostname, there, lines(got)))
					}
				}
			}
		}
		return wrong
	})
}

// on the network, a member's device and the series that count it.
func (s swarmStage) member(c *lab.Container, network string, labels lab.Labels) device {
	s.Helper()
	d := on(s, c, network)
	d.labels = maps.Clone(labels)
	d.labels["network"], d.labels["scope"] = network, "container"
	return d
}

// plain are the labels of a container that is of no service.
func plain(c *lab.Container) lab.Labels { return lab.Labels{"container": c.Name, "service": ""} }

// task are the labels of a service's task.
func task(service, number string) lab.Labels {
	return lab.Labels{"container": service + "." + number, "service": service, "stack": ""}
}

// headers of a datagram in a container's frame.
const datagramHeaders = 14 + 20 + 8

// TestOverlay counts what is right between two nodes: traffic on all kinds of overlay networks, from the first packet on.
func TestOverlay(t *testing.T) {
	s := newSwarmStage(t)
	ipvs := hasIPVS()
	channels := s.watchChannels()
	shop, back := s.tunnel("shop"), s.tunnel("back", "--internal")
	tunnels := []tunnel{shop, back}

	// Containers that no service has, and one that is on both networks.
	near := s.manager.Run(t, "near", []string{"--network", shop.name})
	far := s.worker.Serve(t, "far", []string{"--network", shop.name}, "udp-listen", port)
	s.worker.Docker(t, "network", "connect", back.name, far.Name)
	far = s.worker.Inspect(t, far.Name)
	inner := s.manager.Serve(t, "inner", []string{"--network", back.name}, "udp-listen", port)
	deep := s.worker.Serve(t, "deep", []string{"--network", back.name}, "tcp-listen", port)
	// Services: one of which each node has a task, one behind a virtual address, one at a port of its node.
	s.swarm.Service(t, "each", []string{"--mode", "global", "--network", shop.name, "--endpoint-mode", "dnsrr"}, "udp-listen", strconv.Itoa(port))
	s.swarm.Service(t, "web", []string{"--network", shop.name, s.worker.On()}, "tcp-listen", strconv.Itoa(port))
	s.swarm.Service(t, "door", []string{"--network", shop.name, "--endpoint-mode", "dnsrr", s.worker.On(),
		"--publish", fmt.Sprintf("mode=host,published=8080,target=%d", port)}, "mirror", strconv.Itoa(port))
	eachNear, eachFar := s.manager.Task(t, "each", 0), s.worker.Task(t, "each", 0)
	web, door := s.worker.Task(t, "web", 1), s.worker.Task(t, "door", 1)

	at := func(c *lab.Container, network string) netip.AddrPort {
		return netip.AddrPortFrom(c.Addr(t, network, lab.IPv4), port)
	}
	const count, size = 1000, 200
	near.Send(t, lab.Datagrams{To: at(far, shop.name), Count: count, Size: size})
	far.Send(t, lab.Datagrams{To: at(inner, back.name), Count: count, Size: size})
	near.Send(t, lab.Datagrams{To: at(eachFar, shop.name), Count: count, Size: size})
	near.Send(t, lab.Datagrams{To: at(eachNear, shop.name), Count: count, Size: size}) // on the same node: through no tunnel
	eachFar.Send(t, lab.Datagrams{To: at(eachNear, shop.name), Count: count, Size: size})
	requireResolved(t, near, "each", eachNear.Addr(t, shop.name, lab.IPv4), eachFar.Addr(t, shop.name, lab.IPv4))
	requireResolved(t, near, "tasks.web", web.Addr(t, shop.name, lab.IPv4))
	if r := near.Connect(t, at(web, shop.name), 10); r.Sent != 10 {
		t.Errorf("%d of 10 connections to a task: %v", r.Sent, r.Errors)
	}
	if r := near.Connect(t, netip.AddrPortFrom(s.virtualAddress("web", shop.name), port), 1); (r.Sent == 1) != ipvs {
		t.Errorf("a virtual address answered %d connections, and IPVS is there: %t; %v", r.Sent, ipvs, r.Errors)
	}
	s.throughDoor("8080")
	s.requireTunnels(tunnels...)

	t.Run("a stream", func(t *testing.T) {
		inner.Traffic(t, "tcp-send", "--to", at(deep, back.name).String(), "--for", "2s")
		s.in(t).requireStream(back)
	})
	t.Run("containers", func(t *testing.T) {
		requireEqual(t, s.manager.agent, s.member(near, shop.name, plain(near)), s.member(inner, back.name, plain(inner)),
			s.member(eachNear, shop.name, task("each", "n1")))
		requireEqual(t, s.worker.agent, s.member(far, shop.name, plain(far)), s.member(far, back.name, plain(far)),
			s.member(deep, back.name, plain(deep)), s.member(eachFar, shop.name, task("each", "n2")),
			s.member(web, shop.name, task("web", "1")), s.member(door, shop.name, task("door", "1")))
	})
	t.Run("tables", func(t *testing.T) {
		const loadBalancer = 1
		s := s.in(t)
		s.requireEntries(shop.name, map[*side]int{s.manager: 4 + loadBalancer, s.worker: 2 + loadBalancer})
		s.requireEntries(back.name, map[*side]int{s.manager: 2 + loadBalancer, s.worker: 1 + loadBalancer})
	})
	t.Run("conversations", func(t *testing.T) {
		bytes := uint64(count * (datagramHeaders + size))
		var both lab.Metrics // each is counted by one agent: the sender's
		for _, at := range s.sides() {
			at.agent.Settle(t)
			both = append(both, at.agent.Scrape(t)...)
		}
		for _, c := range []struct {
			network, from, to string
			want              uint64
		}{
			{shop.name, "near", "far", bytes},
			{back.name, "far", "inner", bytes},
			{shop.name, "each", "each", bytes},
			{shop.name, "near", "each", 2 * bytes},
		} {
			requireConversation(t, both, lab.Labels{
				"source_service": c.from, "destination_service": c.to, "network": c.network, "protocol": "udp", "source_stack": "", "destination_stack": "",
			}, c.want)
		}
	})
	t.Run("channels", func(t *testing.T) { channels.require(t) })
	t.Run("each agent its own", func(t *testing.T) { s.in(t).requireOwn(near, far) })
	s.requireFound(ipvs)
}

// requireResolved holds the addresses that a container gets for a name against want.
func requireResolved(t *testing.T, c *lab.Container, name string, want ...netip.Addr) {
	t.Helper()
	r := c.Traffic(t, "dns-ask", name, "--count=1")
	if len(r.Lookups) != 1 {
		t.Fatalf("looked %s up %d times: %v", name, len(r.Lookups), r.Errors)
	}
	got := slices.SortedFunc(slices.Values(r.Lookups[0].Addresses), netip.Addr.Compare)
	slices.SortFunc(want, netip.Addr.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("%s is %v for %s, want %v", name, got, c.Name, want)
	}
}

// virtualAddress is a service's on a network.
func (s swarmStage) virtualAddress(service, network string) netip.Addr {
	s.Helper()
	id := s.manager.Docker(s, "network", "inspect", "--format", "{{.Id}}", network)
	text := s.manager.Docker(s, "service", "inspect", "--format", `{{range .Endpoint.VirtualIPs}}{{if eq .NetworkID "`+id+`"}}{{.Addr}}{{end}}{{end}}`, service)
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		s.Fatalf("virtual address of %s on %s: %v", service, network, err)
	}
	return prefix.Addr()
}

// throughDoor visits a port that a service has on the worker alone. The service sees who comes.
func (s swarmStage) throughDoor(published string) {
	s.Helper()
	of := lab.Labels{"published_port": published, "protocol": "tcp", "service": "door", "container": "door.1"}
	lab.Eventually(s, patience, "the agent to know the port", func() bool {
		return len(s.worker.agent.Scrape(s).Select(attempts, of)) > 0
	})
	r := lab.Outside(s).Traffic(s, "exchange", "--to", s.worker.Addr.String()+":"+published, "--count", strconv.Itoa(many))
	for _, e := range r.Exchanged {
		if !e.Kept() {
			s.Fatalf("the service saw %s of %s", e.Seen, e.Local)
		}
	}
	s.eventually("visits", func() (wrong []string) {
		metrics := s.worker.agent.Scrape(s)
		kept := maps.Clone(of)
		kept["client"], kept["source_address"], kept["mechanism"] = "remote", "preserved", "none"
		for metric, labels := range map[string]lab.Labels{attempts: of, connections: kept} {
			if got := metrics.Sum(metric, labels); got != uint64(r.Sent) || r.Sent != many {
				wrong = append(wrong, fmt.Sprintf("%d of %d visits, %d in %s%v:\n%s", r.Sent, many, got, metric, labels, lines(metrics.Select(metric, nil))))
			}
		}
		if n := s.manager.agent.Scrape(s).Sum(attempts, lab.Labels{"published_port": published}); n != 0 {
			wrong = append(wrong, fmt.Sprintf("the manager, who does not have the port, counted %d", n))
		}
		return wrong
	})
}

// requireStream holds the packets of bulk traffic against the switch.
func (s swarmStage) requireStream(of tunnel) {
	s.Helper()
	s.requirePackets(of)
	if n := of.sent[s.manager].Packets(s); n < 10000 {
		s.Errorf("a stream of %d packets", n)
	}
}

// requirePackets is requireTunnels without bytes.
func (s swarmStage) requirePackets(of tunnel) {
	s.Helper()
	s.eventually("packets", func() (wrong []string) {
		return append(s.tunnelDifferences(of, s.manager, false), s.tunnelDifferences(of, s.worker, false)...)
	})
}

// requireOwn makes each node lose packets and look names up, and looks for that on the other.
func (s swarmStage) requireOwn(near, far *lab.Container) {
	s.Helper()
	for _, at := range s.sides() {
		c := map[*side]*lab.Container{s.manager: near, s.worker: far}[at]
		lost := at.Host.AddRule(s, lab.IPv4, "filter", "DOCKER-USER", "-d", lab.OutsideAddress.String(), "-p", "udp", "--dport", strconv.Itoa(port), "-j", "DROP")
		c.Send(s, lab.Datagrams{To: netip.AddrPortFrom(lab.OutsideAddress, port), Count: fewPackets - 1})
		if n := lost.Packets(s); n != fewPackets-1 {
			s.Errorf("the rule on %s has dropped %d packets", at.Hostname, n)
		}
		s.eventually("drops of "+at.Hostname, func() (wrong []string) {
			of := lab.Labels{"container": c.Name, "network": "docker_gwbridge", "scope": "host", "direction": "tx", "cause": "filtered"}
			for side, want := range map[*side]uint64{at: fewPackets - 1, s.other(at): 0} {
				if got := side.agent.Scrape(s).Sum("bridgewatch_dropped_packets_total", of); got != want {
					wrong = append(wrong, fmt.Sprintf("%s counted %d, want %d:\n%s\n%s", side.Hostname, got, want,
						lines(side.agent.Scrape(s).Select("bridgewatch_dropped_packets_total", lab.Labels{"reason": "NETFILTER_DROP"})),
						lines(side.agent.Scrape(s).Select("bridgewatch_dropped_packets_total", lab.Labels{"container": c.Name}))))
				}
			}
			return wrong
		})
	}
	for at, foreign := range map[*side][]string{s.manager: {"far", "deep", "web.1", "door.1", "each.n2"}, s.worker: {"near", "inner", "each.n1"}} {
		for _, sample := range at.agent.Scrape(s) {
			if slices.Contains(foreign, sample.Labels["container"]) {
				s.Errorf("%s has a series of the other node's container: %s%v %v", at.Hostname, sample.Name, sample.Labels, sample.Value)
			}
		}
	}
}

// requireFound looks for findings that a Swarm in good order must not have.
func (s swarmStage) requireFound(ipvs bool) {
	s.Helper()
	s.requireOnly()
	for _, at := range s.sides() {
		has := slices.ContainsFunc(at.found.Standing(), func(f lab.Finding) bool { return f.ID == "ipvs-unavailable" })
		if has == ipvs {
			s.Errorf("%s finds that there is no IPVS: %t; it is there: %t", at.Hostname, has, ipvs)
		}
		s.Logf("found on %s:\n%s", at.Hostname, findingLines(at.found.Standing()))
	}
}
