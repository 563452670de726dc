// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
	"github.com/bridgewatch/bridgewatch/enrich"
)

// forwardInNewNamespaces lets the mesh's namespaces forward: a new one takes the setting from the machine's first, where
// Docker switches forwarding on elsewhere.
func forwardInNewNamespaces(t *testing.T) {
	t.Helper()
	lab.Host(t).Run(t, "nsenter", "--net=/proc/1/ns/net", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
}

// exchangeUntil asks until the mesh answers, which Swarm sets up some seconds after the tasks have begun.
func exchangeUntil(t *testing.T, from lab.Place, to netip.AddrPort) {
	t.Helper()
	lab.Eventually(t, 2*time.Minute, "an answer of "+to.String(), func() bool {
		return from.Traffic(t, "exchange", "--to", to.String(), "--count", "2").Sent == 2
	})
}

// TestVote is the two services of Docker's own networking talk: clients that ask another service by its name, and visitors
// who come to that by the routing mesh of any node.
func TestVote(t *testing.T) {
	forwardInNewNamespaces(t)
	s := newSwarmStage(t)
	app := s.tunnel("overlay1")
	const published = 8080
	s.swarm.Service(t, "vote", []string{"--network", app.name, "--replicas", "2", "--replicas-max-per-node", "1",
		"--publish", fmt.Sprintf("published=%d,target=%d", published, port)}, "mirror", strconv.Itoa(port))
	s.swarm.Service(t, "client", []string{"--network", app.name, s.manager.On()})
	client := s.manager.Task(t, "client", 1)
	tasks := map[*side]*lab.Container{s.manager: s.manager.Task(t, "vote", 0), s.worker: s.worker.Task(t, "vote", 0)}

	vip := netip.AddrPortFrom(s.virtualAddress("vote", app.name), port)
	exchangeUntil(t, client.Place, vip)
	const visits = 20
	asked := client.Traffic(t, "exchange", "--to", vip.String(), "--count", strconv.Itoa(visits))
	balancers := []netip.Addr{}
	for _, e := range asked.Exchanged {
		if !slices.Contains(balancers, e.Seen.Addr()) {
			balancers = append(balancers, e.Seen.Addr())
		}
	}
	if asked.Sent != visits || len(balancers) != 1 {
		t.Fatalf("the tasks answered %d of %d, and saw %v instead of the client's node's load balancer", asked.Sent, visits, balancers)
	}

	for _, at := range s.sides() {
		door := netip.AddrPortFrom(at.Addr, published)
		exchangeUntil(t, lab.Outside(t), door)
		of := lab.Labels{"published_port": strconv.Itoa(published), "service": "vote", "container": "", "scope": "ingress",
			"client": "remote", "source_address": "lost", "mechanism": string(enrich.IngressMesh)}
		lab.Eventually(t, time.Minute, "the first visits", func() bool { return at.agent.Scrape(t).Sum(connections, of) >= 2 })
		before := at.agent.Scrape(t).Sum(connections, of)
		visited := lab.Outside(t).Traffic(t, "exchange", "--to", door.String(), "--count", strconv.Itoa(visits))
		if visited.Sent != visits {
			t.Fatalf("%d of %d visits by %s were answered: %v", visited.Sent, visits, at.Hostname, visited.Errors)
		}
		seen := map[netip.AddrPort]netip.AddrPort{}
		for _, e := range visited.Exchanged {
			seen[e.Local] = e.Seen
			if e.Kept() {
				t.Fatalf("the task saw the client itself, %s", e.Seen)
			}
		}
		s.eventuallyWithin(time.Minute, "visits by "+at.Hostname, func() (wrong []string) {
			if got := at.agent.Scrape(t).Sum(connections, of); got != before+visits {
				wrong = append(wrong, fmt.Sprintf("%d connections more, want %d", got-before, visits))
			}
			named := 0
			for _, row := range natRows(t, at.agent, "--lost", "--port", strconv.Itoa(published)) {
				if who, ours := seen[row.Client]; ours && row.Seen == who {
					named++
				}
			}
			if named != visits {
				wrong = append(wrong, fmt.Sprintf("the true client of %d visits is named, want %d", named, visits))
			}
			return wrong
		})
	}
	s.requireTunnels(app)
	s.eventuallyWithin(time.Minute, "who talks with whom", func() (wrong []string) {
		of := lab.Labels{"source_service": "client", "destination_service": "vote", "network": app.name, "protocol": "tcp"}
		if s.manager.agent.Scrape(t).Sum("bridgewatch_conversation_bytes_total", of) == 0 {
			wrong = append(wrong, "nothing from client to vote")
		}
		for _, at := range s.sides() {
			live := lab.Labels{"service": "vote", "network": "ingress", "state": "live"}
			if got := at.agent.Scrape(t).Sum("bridgewatch_ipvs_backends", live); got != 2 {
				wrong = append(wrong, fmt.Sprintf("%d live backends of vote in the mesh of %s", got, at.Hostname))
			}
			has := slices.ContainsFunc(at.found.Standing(), func(f lab.Finding) bool { return f.ID == "mesh-snat" && f.Service == "vote" })
			if !has {
				wrong = append(wrong, at.Hostname+" does not say that the mesh hides clients")
			}
		}
		return wrong
	})
	for at, task := range tasks {
		requireEqual(t, at.agent, s.member(task, app.name, lab.Labels{"service": "vote"}))
	}
}
