// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// What Swarm gives the first node of a new cluster.
var (
	ingressOnBridge = netip.MustParseAddr("172.18.0.2") // the ingress sandbox on docker_gwbridge
	ingressEndpoint = netip.MustParseAddr("10.0.0.2")   // the same on the ingress network
)

// TestMesh asks a service through Swarm's routing mesh. Where the kernel has IPVS it is the real one. Elsewhere Swarm makes
// all but the rules: those are made here, with DNAT in the place of IPVS.
func TestMesh(t *testing.T) {
	engine := lab.StartEngine(t, "--live-restore=false") // Swarm refuses it
	s := natStage{
		stage:     stage{t, engine, lab.Host(t), lab.Outside(t), "ingress", lab.IPv4, "mesh"},
		published: 8080, families: ipv4Only, books: newBooks(),
	}
	engine.Docker(t, "swarm", "init", "--advertise-addr", lab.HostAddress.String(), "--listen-addr", lab.HostAddress.String()+":2377")
	t.Cleanup(func() { engine.Docker(t, "swarm", "leave", "--force") })
	s.agent = lab.StartAgent(t, engine, "--findings.hold="+hold.String())
	found := lab.WatchFindings(t, s.agent)
	task := s.createService("web")

	kind := enrich.IPVS
	_ = exec.Command("modprobe", "--quiet", "ip_vs").Run() // Docker does so when it needs it; there may be none to load
	if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
		kind = enrich.DNAT
		s.emulateMesh(task)
	} else {
		s.awaitMesh()
	}
	t.Logf("the mesh translates by %s", kind)
	for _, s.protocol = range []string{"tcp", "udp"} {
		s.throughMesh(s.outside, enrich.ClientRemote, task, kind)
		s.throughMesh(s.host, enrich.ClientHost, task, kind)
	}
	want := lab.Finding{ID: "mesh-snat", Severity: "info", Service: "web", Scope: "ingress"}
	lab.Eventually(t, appears, "the finding", func() bool { return slices.Contains(found.Standing(), want) })
	s.books.audit(t, s.agent)
}

// createService starts a service of one mirror behind the mesh, and returns the container of its task.
func (s natStage) createService(name string) *lab.Container {
	s.Helper()
	args := []string{"service", "create", "--detach", "--no-resolve-image", "--name", name}
	for _, protocol := range []string{"tcp", "udp"} {
		args = append(args, "--publish", "published="+strconv.Itoa(int(s.published))+",target="+strconv.Itoa(port)+",protocol="+protocol)
	}
	s.engine.Docker(s, append(args, lab.Image, "traffic", "mirror", strconv.Itoa(port))...)
	s.Cleanup(func() { s.engine.Docker(s, "service", "rm", name) })
	var id string
	lab.Eventually(s, 3*time.Minute, "the service's task", func() bool { // in a virtual machine it takes its time
		id = s.engine.Docker(s, "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+name)
		return id != ""
	})
	return s.engine.Inspect(s, id)
}

// awaitMesh waits until Swarm leads the published port to the task, which takes it some seconds longer than the task's start.
func (s natStage) awaitMesh() {
	s.Helper()
	sandbox := s.engine.Sandbox(s, "ingress_sbox")
	sandbox.Run(s, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1") // a new namespace has it from the machine's first, which is Docker's elsewhere
	lab.Eventually(s, 2*time.Minute, "the mesh", func() bool {
		rules := s.host.Run(s, "iptables-save", "-t", "nat")
		return strings.Count(rules, "--to-destination "+netip.AddrPortFrom(ingressOnBridge, s.published).String()) == 2 &&
			strings.Count(sandbox.Run(s, "cat", "/proc/net/ip_vs"), "-> 0A0000") > 0
	})
}

// emulateMesh makes the rules that Swarm makes if there is IPVS, and those that stand for it.
func (s natStage) emulateMesh(task *lab.Container) {
	s.Helper()
	sandbox := s.engine.Sandbox(s, "ingress_sbox")
	sandbox.Run(s, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	s.host.AddRule(s, lab.IPv4, "filter", "FORWARD", "-d", ingressOnBridge.String(), "-j", "ACCEPT")
	s.host.AddRule(s, lab.IPv4, "nat", "POSTROUTING", "-o", "docker_gwbridge", "-m", "addrtype", "--src-type", "LOCAL", "-j", "MASQUERADE")
	at := strconv.Itoa(int(s.published))
	for _, protocol := range []string{"tcp", "udp"} {
		mesh := []string{"-p", protocol, "-m", "addrtype", "--dst-type", "LOCAL", "--dport", at, "-j", "DNAT", "--to-destination"}
		for _, chain := range []string{"PREROUTING", "OUTPUT"} {
			s.host.AddRule(s, lab.IPv4, "nat", chain, append(mesh, netip.AddrPortFrom(ingressOnBridge, s.published).String())...)
		}
		sandbox.AddRule(s, lab.IPv4, "nat", "PREROUTING", append(mesh, task.Addr(s, "ingress", lab.IPv4).String())...)
		sandbox.AddRule(s, lab.IPv4, "nat", "POSTROUTING", "-p", protocol, "-d", "10.0.0.0/24", "--dport", at, "-j", "SNAT", "--to-source", ingressEndpoint.String())
	}
}

// throughMesh opens connections to the service, makes sure by every namespace on their way that they are what they are meant
// to be, and writes down what must have been counted.
func (s natStage) throughMesh(from lab.Place, client enrich.Client, task *lab.Container, kind enrich.NATKind) {
	s.Helper()
	seen, bySeen := map[netip.AddrPort]netip.AddrPort{}, map[netip.AddrPort]bool{}
	for _, e := range s.exchange(from, netip.Addr{}, s.door(), many) {
		seen[e.Local], bySeen[e.Seen] = e.Seen, true
		if e.Seen.Addr() != ingressEndpoint {
			s.Fatalf("the task saw %s of %s", e.Seen, e.Local)
		}
	}
	bridged := netip.AddrPortFrom(ingressOnBridge, s.published)
	inside := netip.AddrPortFrom(task.Addr(s, "ingress", lab.IPv4), s.published)
	onBridge := map[netip.AddrPort]netip.AddrPort{} // what the task sees, by what the sandbox sees
	s.requireTracked(s.host.Published(s, s.protocol, s.door()), many, func(entry lab.Entry) bool {
		who, ours := seen[entry.Original.Source]
		onBridge[entry.Reply.Destination] = who
		return ours && entry.Reply.Source == bridged
	})
	s.requireTracked(s.engine.Sandbox(s, "ingress_sbox").Published(s, s.protocol, bridged), many, func(entry lab.Entry) bool {
		who, ours := onBridge[entry.Original.Source]
		return ours && entry.Reply.Source == inside && entry.Reply.Destination == who
	})
	s.requireTracked(task.Published(s, s.protocol, inside), many, func(entry lab.Entry) bool {
		return bySeen[entry.Original.Source] && entry.Translated()
	})

	of := seriesOf{metric: attempts, service: "web", scope: "ingress", protocol: s.protocol, port: strconv.Itoa(int(s.published))}
	s.books.add(of, s.name, many)
	of.metric, of.client, of.sourceAddress, of.mechanism = connections, string(client), "lost", string(enrich.IngressMesh)
	s.books.add(of, s.name, many)
	for place, kind := range map[string]enrich.NATKind{"host": enrich.DNAT, "ingress": kind, "container": enrich.Redirect} {
		of := seriesOf{metric: translations, service: "web", scope: place, protocol: s.protocol, kind: string(kind)}
		if place == "container" {
			of.container = "web.1"
		}
		s.books.add(of, s.name, many)
	}
	s.requireRows(visit{to: s.door(), client: client, mechanism: enrich.IngressMesh}, seen)
}
