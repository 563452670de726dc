// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// balanced is how long tasks and findings about their load balancers may take: half a minute until one counts as lasting, and a
// machine's time that is emulated.
const balanced = 6 * time.Minute

// balancerStage is where a service of two tasks is served by a virtual address and by the mesh.
type balancerStage struct {
	*testing.T
	engine *lab.Engine
	agent  *lab.Agent
	found  *lab.Findings
}

// balancerAt is where a network's virtual addresses are served on a node.
type balancerAt struct {
	lab.Place
	network, scope string
}

// TestMeshBackends holds what the agent says of a service's backends against what ipvsadm lists where the kernel serves them, while
// tasks come and go and while backends are put in and taken out by hand. Where the kernel has no IPVS, the agent has to say so.
func TestMeshBackends(t *testing.T) {
	ipvs := hasIPVS()
	engine := lab.StartEngine(t, "--live-restore=false") // Swarm refuses it
	engine.Docker(t, "swarm", "init", "--advertise-addr", lab.HostAddress.String(), "--listen-addr", lab.HostAddress.String()+":2377")
	t.Cleanup(func() { engine.Docker(t, "swarm", "leave", "--force") })
	agent := lab.LaunchAgent(t, engine, "--findings.hold="+hold.String())
	lab.Eventually(t, balanced, "the agent to be ready", func() bool {
		answer, err := http.Get(agent.URL + "/readyz")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	s := balancerStage{t, engine, agent, lab.WatchFindings(t, agent)}
	s.engine.Docker(s, "network", "create", "--driver", "overlay", "--attachable", "back")
	s.createService()
	if !ipvs {
		unavailable := lab.Finding{ID: "ipvs-unavailable", Severity: "critical", Scope: "host"}
		s.appears(unavailable)
		s.engine.Docker(s, "service", "rm", "web")
		s.clear(unavailable)
		return
	}
	back, mesh := s.balancers()
	s.setForwarding(back, "1")
	s.setForwarding(mesh, "1")
	s.beginStreams(back, 2)
	t.Run("all is well", func(t *testing.T) {
		s := s.on(t)
		lab.Eventually(s, balanced, "both tasks to have a connection", func() bool { return s.active(back) == 2 })
		s.agree(back, 2, 0)
		s.agree(mesh, 2, 0)
		s.standsNone()
	})
	t.Run("all is wrong", func(t *testing.T) {
		s := s.on(t)
		wrong := []lab.Finding{
			s.ofService("ipvs-stale-backend", "critical", back), s.ofService("ipvs-idle-900", "info", back),
			s.ofService("ipvs-no-backend", "critical", mesh),
			{ID: "mesh-forwarding-off", Severity: "critical", Network: mesh.network, Scope: mesh.scope},
		}
		stale, tasks := s.unused(back), s.listed(mesh)
		s.ipvsadm(back, "-a", "-r", stale, "-m", "-w", "1")
		back.Run(s, "ipvsadm", "--set", "200", "0", "0") // of packets to come: below what silence is taken from
		for _, b := range tasks {
			s.ipvsadm(mesh, "-d", "-r", b.address.String())
		}
		s.setForwarding(mesh, "0")
		s.agree(back, 2, 1)
		s.agree(mesh, 0, 0)
		s.appears(wrong...)
		s.ipvsadm(back, "-d", "-r", stale)
		back.Run(s, "ipvsadm", "--set", "900", "0", "0")
		for _, b := range tasks {
			s.ipvsadm(mesh, "-a", "-r", b.address.String(), "-m", "-w", "1")
		}
		s.setForwarding(mesh, "1")
		s.agree(back, 2, 0)
		s.agree(mesh, 2, 0)
		s.clear(wrong...)
	})
	t.Run("the tasks shut down", func(t *testing.T) {
		s := s.on(t)
		drain := s.ofService("ipvs-drain", "info", back)
		s.engine.Docker(s, "service", "scale", "--detach", "web=0")
		s.agree(back, 0, 0)
		s.appears(drain)
		lab.Eventually(s, balanced, "IPVS to forget the service", func() bool { return len(s.listed(back)) == 0 && len(s.listed(mesh)) == 0 })
		s.agree(back, 0, 0)
		s.agree(mesh, 0, 0)
		s.clear(drain)
	})
	for f := range s.found.Seen() {
		if f.ID == "ipvs-port-reuse" || f.ID == "ipvs-unavailable" || f.ID == "vip-no-ping" || f.ID == "gwbridge" || f.ID == "vxlan-leak" {
			t.Errorf("found %+v", f)
		}
	}
}

func (s balancerStage) on(t *testing.T) balancerStage {
	s.T = t
	return s
}

// stopping is how long the service's tasks take to end: they do not listen to SIGTERM.
const stopping = 90 * time.Second

func (s balancerStage) createService() {
	s.Helper()
	at := strconv.Itoa(port)
	s.engine.Docker(s, "service", "create", "--detach", "--no-resolve-image", "--name", "web", "--replicas", "2", "--network", "back",
		"--publish", "published=8080,target="+at, "--stop-grace-period", stopping.String(),
		lab.Image, "sh", "-c", "trap '' TERM; traffic tcp-listen "+at+"; true")
	lab.Eventually(s, balanced, "both tasks", func() bool {
		ids := s.engine.Docker(s, "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name=web")
		return len(strings.Fields(ids)) == 2
	})
}

// balancers finds the namespaces where the service is served, once it is.
func (s balancerStage) balancers() (back, mesh balancerAt) {
	s.Helper()
	id := s.engine.Docker(s, "network", "inspect", "--format", "{{.Id}}", "back")
	back = balancerAt{s.engine.Sandbox(s, "lb_"+id[:9]), "back", "loadbalancer"}
	mesh = balancerAt{s.engine.Sandbox(s, "ingress_sbox"), "ingress", "ingress"}
	for _, at := range []balancerAt{back, mesh} {
		lab.Eventually(s, balanced, "the service on "+at.network, func() bool { return len(s.listed(at)) == 2 })
	}
	return back, mesh
}

// setForwarding turns it on or off in a namespace, which has it from the machine's first, and that is not the lab's host.
func (s balancerStage) setForwarding(at balancerAt, value string) {
	s.Helper()
	at.Run(s, "sysctl", "-q", "-w", "net.ipv4.ip_forward="+value)
}

// ofService is a finding of the service at a load balancer.
func (s balancerStage) ofService(id, severity string, at balancerAt) lab.Finding {
	return lab.Finding{ID: id, Severity: severity, Service: "web", Network: at.network, Scope: at.scope}
}

// appears waits until all of these stand.
func (s balancerStage) appears(all ...lab.Finding) {
	s.Helper()
	for _, f := range all {
		lab.Eventually(s, balanced, f.ID, func() bool { return slices.Contains(s.found.Standing(), f) })
	}
}

// clear waits until none of these does.
func (s balancerStage) clear(all ...lab.Finding) {
	s.Helper()
	for _, f := range all {
		lab.Eventually(s, balanced, f.ID+" to clear", func() bool { return !slices.Contains(s.found.Standing(), f) })
	}
}

// standsNone requires that nothing is found about load balancers now, for as long as it would take to be.
func (s balancerStage) standsNone() {
	s.Helper()
	for end := time.Now().Add(45 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		for _, f := range s.found.Standing() {
			if strings.HasPrefix(f.ID, "ipvs-") || f.ID == "mesh-forwarding-off" {
				s.Fatalf("found %+v", f)
			}
		}
	}
}

// backend is a line of ipvsadm's list.
type backend struct {
	address        netip.Addr
	weight, active int
}

// listed is what ipvsadm lists of the only service in a namespace.
func (s balancerStage) listed(at balancerAt) (all []backend) {
	s.Helper()
	for line := range strings.Lines(at.Run(s, "ipvsadm", "-L", "-n")) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[0] != "->" || fields[1] == "RemoteAddress:Port" {
			continue
		}
		address, err := netip.ParseAddrPort(fields[1])
		if err != nil {
			s.Fatalf("ipvsadm: %v", err)
		}
		b := backend{address: address.Addr()}
		for i, to := range map[int]*int{3: &b.weight, 4: &b.active} {
			if *to, err = strconv.Atoi(fields[i]); err != nil {
				s.Fatalf("ipvsadm: %v", err)
			}
		}
		all = append(all, b)
	}
	return all
}

func (s balancerStage) active(at balancerAt) (sum int) {
	s.Helper()
	for _, b := range s.listed(at) {
		sum += b.active
	}
	return sum
}

// ipvsadm changes the only service in a namespace.
func (s balancerStage) ipvsadm(at balancerAt, command string, args ...string) {
	s.Helper()
	mark := ""
	for line := range strings.Lines(at.Run(s, "ipvsadm", "-L", "-n")) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "FWM" {
			mark = fields[1]
		}
	}
	at.Run(s, append([]string{"ipvsadm", command, "-f", mark}, args...)...)
}

// unused is an address of a network that nobody has.
func (s balancerStage) unused(at balancerAt) string {
	s.Helper()
	taken := s.listed(at)[0].address.As4()
	taken[3] = 99
	return netip.AddrFrom4(taken).String()
}

// agree requires that the agent tells of as many backends as ipvsadm lists, of which so many are live and dead, and of as many
// connections.
func (s balancerStage) agree(at balancerAt, live, dead int) {
	s.Helper()
	type told struct{ Live, Dead, Draining, Active int }
	var got, want told
	matches := func() bool {
		want = told{Live: live, Dead: dead}
		for _, b := range s.listed(at) {
			if b.weight == 0 {
				want.Draining++
			}
			want.Active += b.active
		}
		metrics := s.agent.Scrape(s)
		count := func(metric, state string) int {
			return int(metrics.Sum(metric, lab.Labels{"network": at.network, "scope": at.scope, "service": "web", "state": state}))
		}
		const backends = "bridgewatch_ipvs_backends"
		got = told{
			count(backends, "live"), count(backends, "dead"), count(backends, "draining"), count("bridgewatch_ipvs_connections", "active"),
		}
		return got == want && live+dead+want.Draining == len(s.listed(at))
	}
	for end := time.Now().Add(balanced); !matches(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			s.Fatalf("on %s the agent tells of %+v, ipvsadm of %+v", at.network, got, want)
		}
	}
}

// beginStreams opens so many connections to the service's virtual address, on each of which something is sent every second.
func (s balancerStage) beginStreams(at balancerAt, count int) {
	s.Helper()
	addresses := strings.Fields(at.Run(s, "ip", "-4", "-o", "address", "show", "dev", "eth0"))
	i := slices.IndexFunc(addresses, func(field string) bool { return strings.HasSuffix(field, "/32") })
	if i < 0 {
		s.Fatalf("no virtual address: %v", addresses)
	}
	to := strings.TrimSuffix(addresses[i], "/32") + ":" + strconv.Itoa(port)
	client := s.engine.Run(s, "client", []string{"--network", at.network})
	for range count {
		client.Start(s, "tcp-send", "--to", to, "--for", "1h", "--pause", "1s")
	}
}
