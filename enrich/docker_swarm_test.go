// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What a manager of 20.10 answers, shortened: a service of a stack, and one that was created alone.
const (
	swarmServices = `[
{"ID":"2u8tdwtfn29bswdas7lp5db1c","Spec":{"Name":"app_web","Labels":{"bridgewatch.source-address":"required","com.docker.stack.namespace":"app","team":"a"}},
 "Endpoint":{"Spec":{"Mode":"vip"},"Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":8000,"PublishMode":"ingress"},
  {"Protocol":"udp","TargetPort":81,"PublishedPort":8001,"PublishMode":"host"},{"Protocol":"udp","TargetPort":53,"PublishedPort":5353}]}},
{"ID":"ro9idi92l7a0q8zk0l3doz50h","Spec":{"Name":"alone","Labels":{}},
 "Endpoint":{"Spec":{"Mode":"vip"},"Ports":[{"Protocol":"tcp","TargetPort":443,"PublishedPort":8443,"PublishMode":"ingress"}]}}]`
	gatewayBridgeNetwork = `{"Name":"docker_gwbridge","Id":"c29142f0c5cb","Scope":"local","Driver":"bridge","Containers":{
"d8571488c3e1":{"Name":"gateway_fa4e623d96f9","IPv4Address":"172.18.0.3/16","IPv6Address":""},
"ingress-sbox":{"Name":"gateway_ingress-sbox","MacAddress":"02:42:ac:12:00:02","IPv4Address":"172.18.0.2/16","IPv6Address":""}}}`
)

// swarm is what the engine is asked of its Swarm, and answers.
type swarmAnswers struct {
	status                  int
	services, gatewayBridge string
}

func (e *engine) answerSwarm(answers *swarmAnswers) {
	e.change(func() {
		e.misbehave = func(path string, w http.ResponseWriter, _ *http.Request) bool {
			text := map[string]string{"/services": answers.services, "/networks/docker_gwbridge": answers.gatewayBridge}[path]
			if text == "" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			if path == "/services" && answers.status != 0 {
				w.WriteHeader(answers.status)
			}
			fmt.Fprint(w, text)
			return true
		}
	})
}

// known is what the state has of it.
type knownSwarm struct {
	Sandbox netip.Addr
	Ports   map[ingressPort]Identity
}

func (s *session) swarm() knownSwarm {
	s.mu.Lock()
	defer s.mu.Unlock()
	return knownSwarm{s.ingressSandbox, s.ingressPorts}
}

func wantSwarm(t *testing.T, want, got knownSwarm) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("swarm (-want +got):\n%s", diff)
	}
}

func TestSwarmOfManager(t *testing.T) {
	e := newEngine(t, "1.41")
	answers := &swarmAnswers{services: swarmServices, gatewayBridge: gatewayBridgeNetwork}
	e.answerSwarm(answers)
	s := follow(t, e)
	s.wantStatus(true)
	web, alone := Identity{Stack: "app", Service: "web"}, Identity{Service: "alone"}
	want := knownSwarm{netip.MustParseAddr("172.18.0.2"), map[ingressPort]Identity{
		{8000, "tcp"}: web, {5353, "udp"}: web, {8443, "tcp"}: alone,
	}}
	wantSwarm(t, want, s.swarm())
	var services []string
	for _, service := range s.Inventory().Services {
		services = append(services, fmt.Sprintf("%+v asks %q", service.Identity, service.Labels["bridgewatch.source-address"]))
	}
	if diff := cmp.Diff([]string{fmt.Sprintf("%+v asks %q", alone, ""), fmt.Sprintf("%+v asks %q", web, "required")}, services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	// A service's labels for us hold for its containers; its others are its own.
	for _, c := range s.Inventory().Containers {
		asks := c.Labels["bridgewatch.source-address"] == "required"
		if isWeb := c.Identity.Service == "web"; asks != isWeb || isWeb && (c.Labels["team"] != "" || c.Labels[labelSwarmTask] == "") {
			t.Errorf("container %s has labels %q", c.Name, c.Labels)
		}
	}

	// News of a service is taken in at once.
	e.change(func() { answers.services = "[]" })
	e.event("service", "remove", "2u8tdwtfn29bswdas7lp5db1c", map[string]string{"name": "app_web"})
	s.eventually("services are gone", func() bool { return len(s.swarm().Ports) == 0 && len(s.Inventory().Services) == 0 })
}

func TestSwarmOfWorker(t *testing.T) {
	e := newEngine(t, "1.51")
	e.answerSwarm(&swarmAnswers{
		http.StatusServiceUnavailable, `{"message":"This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."}`,
		gatewayBridgeNetwork,
	})
	s := follow(t, e)
	s.wantStatus(true)
	wantSwarm(t, knownSwarm{Sandbox: netip.MustParseAddr("172.18.0.2")}, s.swarm())
	if !slices.ContainsFunc(s.Inventory().Networks, func(n Network) bool { return n.ID == "c29142f0c5cb" }) {
		t.Errorf("%s is not known: %+v", gatewayBridge, s.Inventory().Networks)
	}
}

// Without a Swarm nobody is asked for one, and an engine that cannot answer leaves the rest as it is.
func TestSwarmIsMissing(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers swarmAnswers
		outside bool
	}{
		{"not in one", swarmAnswers{services: swarmServices, gatewayBridge: gatewayBridgeNetwork}, true},
		{"no answer", swarmAnswers{status: http.StatusInternalServerError, services: `{"message":"no leader"}`}, false},
		{"no answer that can be read", swarmAnswers{services: "{", gatewayBridge: "[]"}, false},
		{"no sandbox", swarmAnswers{services: "[]", gatewayBridge: `{"Name":"docker_gwbridge","Containers":{}}`}, false},
		{"ports that are none", swarmAnswers{services: `[{"Spec":{"Name":"x"},"Endpoint":{"Ports":[{"PublishedPort":0},{"PublishedPort":65536}]}}]`}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEngine(t, "1.51")
			if tc.outside {
				e.change(func() { e.info["Swarm"] = map[string]any{"LocalNodeState": "inactive"} })
			}
			e.answerSwarm(&tc.answers)
			s := follow(t, e)
			s.wantStatus(true)
			wantSwarm(t, knownSwarm{}, s.swarm())
			e.change(func() {
				if asked := strings.Contains(strings.Join(e.asked, " "), "/services"); asked == tc.outside {
					t.Errorf("asked for services: %t", asked)
				}
			})
		})
	}
}

// A node joins a Swarm without an event of its own. It is noticed with the mesh's network, with the first service, and when traffic
// goes where nobody was told to be.
func TestSwarmJoinedLater(t *testing.T) {
	for _, tc := range []struct {
		name string
		news func(e *engine, s *session)
	}{
		{"the mesh gets its network", func(e *engine, _ *session) {
			e.event("network", "create", "i", map[string]string{"name": "ingress", "type": "overlay"})
		}},
		{"a service is made", func(e *engine, _ *session) {
			e.event("service", "create", "2u8tdwtfn29bswdas7lp5db1c", map[string]string{"name": "app_web"})
		}},
		{"traffic to nobody on the gateway bridge", func(_ *engine, s *session) {
			s.PutNetwork(Network{
				ID: "g", Name: gatewayBridge, Driver: "bridge", Bridge: gatewayBridge,
				Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")},
			})
			s.AttributeNAT(s.opened(entry("203.0.113.9:1->192.0.2.1:8000", "172.18.0.2:8000->203.0.113.9:1")))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEngine(t, "1.51")
			var joined any
			e.change(func() {
				joined = e.info["Swarm"]
				e.info["Swarm"] = map[string]any{"LocalNodeState": "inactive"}
			})
			e.answerSwarm(&swarmAnswers{services: swarmServices, gatewayBridge: gatewayBridgeNetwork})
			s := follow(t, e)
			s.wantStatus(true)
			wantSwarm(t, knownSwarm{}, s.swarm())
			e.change(func() { e.info["Swarm"] = joined })
			tc.news(e, s)
			s.eventually("node and services of the Swarm are known", func() bool {
				got := s.swarm()
				return s.Node().Role == "manager" && got.Sandbox == netip.MustParseAddr("172.18.0.2") && len(got.Ports) == 3
			})
		})
	}
}

// A stack of many services is one question, not one for each.
func TestSwarmIsAskedOncePerBurst(t *testing.T) {
	e := newEngine(t, "1.51")
	release := make(chan struct{})
	answers := &swarmAnswers{services: swarmServices, gatewayBridge: gatewayBridgeNetwork}
	e.answerSwarm(answers)
	s := follow(t, e)
	s.wantStatus(true)
	asked := func() (n int) {
		e.change(func() {
			for _, path := range e.asked {
				if path == "/services" {
					n++
				}
			}
		})
		return n
	}
	first := asked()
	e.change(func() { // the engine is busy with one event while the others come
		misbehave := e.misbehave
		e.misbehave = func(path string, w http.ResponseWriter, r *http.Request) bool {
			if path == "/networks/busy" {
				<-release
			}
			return misbehave(path, w, r)
		}
	})
	e.event("network", "create", "busy", nil)
	const events = 50
	for range events {
		e.event("service", "update", "2u8tdwtfn29bswdas7lp5db1c", map[string]string{"name": "app_web"})
	}
	e.event("container", "create", "last", map[string]string{"name": "last"})
	close(release)
	s.eventually("all events are taken in, and then Swarm is asked", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.members["last"] != nil && asked() > first
	})
	if got := asked() - first; got > events/5 {
		t.Errorf("asked %d times for %d events", got, events)
	}
}

// Names are served on the networks of a service's tasks, and the manager counts those that run.
func TestSwarmServiceNetworks(t *testing.T) {
	e := newEngine(t, "1.41")
	e.answerSwarm(&swarmAnswers{gatewayBridge: gatewayBridgeNetwork, services: `[
{"ID":"9sj9rnztb1tlk2xxuopw10l2c","Spec":{"Name":"shop_front","TaskTemplate":{"Networks":[
  {"Target":"p2snfwmu4td68t09iggs8j6fv","Aliases":["front"]},{"Target":"zq0"}]},"EndpointSpec":{"Mode":"vip"}},
 "Endpoint":{"Spec":{"Mode":"vip"},"VirtualIPs":[{"NetworkID":"p2snfwmu4td68t09iggs8j6fv","Addr":"10.0.1.2/24"},{"NetworkID":"ingress","Addr":"10.0.0.3/24"}]},
 "ServiceStatus":{"RunningTasks":2,"DesiredTasks":3}},
{"ID":"8lsyu1kgoxjs56kebzv1gok5y","Spec":{"Name":"rr","TaskTemplate":{},"EndpointSpec":{"Mode":"dnsrr"}},"Endpoint":{"Spec":{}}}]`})
	s := follow(t, e)
	s.wantStatus(true)
	want := []Service{
		{ID: "8lsyu1kgoxjs56kebzv1gok5y", Name: "rr"},
		{ID: "9sj9rnztb1tlk2xxuopw10l2c", Name: "shop_front", Running: 2, Networks: []ServiceNetwork{
			{NetworkID: "p2snfwmu4td68t09iggs8j6fv", Aliases: []string{"front"}, VIP: netip.MustParseAddr("10.0.1.2")}, {NetworkID: "zq0"},
		}},
	}
	var got []Service
	for _, service := range s.Inventory().Services {
		got = append(got, service.Service)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
