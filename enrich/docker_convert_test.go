// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// engineVersions are the oldest and the newest APIs that are spoken, and one between.
var engineVersions = []string{"1.41", "1.51", "1.52"}

// newEngineOf starts one of a version. Since 1.52 what is said of a container's first network is said with the networks
// only.
func newEngineOf(t *testing.T, version string) *engine {
	t.Helper()
	if version != "1.52" {
		return newEngine(t, version)
	}
	e := newEngine(t, "1.51")
	e.change(func() {
		e.version = "1.52"
		for _, c := range e.containers {
			for _, gone := range []string{
				"Bridge", "HairpinMode", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen", "SecondaryIPAddresses",
				"SecondaryIPv6Addresses", "EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress",
				"IPPrefixLen", "IPv6Gateway", "MacAddress",
			} {
				delete(at(c, "NetworkSettings"), gone)
			}
		}
	})
	return e
}

func binding(address, port string) map[string]any {
	return map[string]any{"HostIp": address, "HostPort": port}
}

func TestPublishedPorts(t *testing.T) {
	for _, version := range engineVersions {
		t.Run(version, func(t *testing.T) {
			e := newEngineOf(t, version)
			e.change(func() {
				at(e.find("shop-db-1"), "NetworkSettings")["Ports"] = map[string]any{
					"80/tcp":   []any{binding("::", "8080"), binding("0.0.0.0", "8080")},
					"53/udp":   []any{binding("127.0.0.1", "5353")},
					"90/sctp":  []any{binding("", "90")},
					"443/tcp":  []any{binding("::", "")}, // gateway mode routed: open, at no port of the host
					"9000/tcp": nil,                      // only exposed
				}
			})
			s := follow(t, e)
			s.wantStatus(true)
			port := netip.MustParseAddrPort
			want := []PublishedPort{
				{Host: port("127.0.0.1:5353"), Container: 53, Protocol: "udp"},
				{Host: port("0.0.0.0:8080"), Container: 80, Protocol: "tcp"},
				{Host: port("[::]:8080"), Container: 80, Protocol: "tcp"},
				{Host: port("0.0.0.0:90"), Container: 90, Protocol: "sctp"},
				{Host: port("[::]:0"), Container: 443, Protocol: "tcp"},
			}
			got := s.live("shop-db-1")
			if diff := cmp.Diff(want, got.Published, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(s.live("jolly_wozniak").Published) != 0 {
				t.Errorf("a container without ports publishes %v", s.live("jolly_wozniak").Published)
			}
			for _, tc := range []struct {
				port     uint16
				protocol string
				want     bool
			}{
				{80, "tcp", true}, {80, "udp", false}, {8080, "tcp", false}, {443, "tcp", true}, {9000, "tcp", false},
			} {
				if published := got.publishes(tc.port, tc.protocol); published != tc.want {
					t.Errorf("%d/%s is published: %t, want %t", tc.port, tc.protocol, published, tc.want)
				}
			}
		})
	}
}

// The ports of one that stopped are still those of its last packets.
func TestPublishedPortsOfTheStopped(t *testing.T) {
	w := newWorld(t)
	c := on(w.container("alpha"), "web", "172.30.1.2")
	c.Published = []PublishedPort{{Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: 80, Protocol: "tcp"}}
	w.PutContainer(c)
	c.Running, c.PID, c.Published, c.Endpoints = false, 0, nil, nil
	w.PutContainer(c)
	m := w.memberByAddress(netip.MustParseAddr("172.30.1.2"))
	if m == nil || m.alive() || !m.publishes(80, "tcp") {
		t.Errorf("found %+v, want the dead alpha with its port", m)
	}
}

// Links of the default bridge are the container's, those of other networks their endpoint's.
func TestLegacyLinks(t *testing.T) {
	for _, version := range engineVersions {
		t.Run(version, func(t *testing.T) {
			e := newEngineOf(t, version)
			e.change(func() {
				at(e.find("jolly_wozniak"), "HostConfig")["Links"] = []any{"/m1:/jolly_wozniak/lan", "/db:/jolly_wozniak/database", "/db:/jolly_wozniak/db"}
				db := e.find("shop-db-1")
				at(db, "HostConfig")["Links"] = []any{"jolly_wozniak:old"} // also kept there, and of no effect
				at(db, "NetworkSettings", "Networks", "shop_default")["Links"] = []any{"shop-web-1:web"}
			})
			s := follow(t, e)
			s.wantStatus(true)
			got := make(map[string][]string)
			for _, c := range s.Inventory().Containers {
				for _, endpoint := range c.Endpoints {
					if endpoint.Links != nil {
						got[c.Name+" on "+endpoint.Network] = endpoint.Links
					}
				}
			}
			want := map[string][]string{"jolly_wozniak on bridge": {"db", "m1"}, "shop-db-1 on shop_default": {"shop-web-1"}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whoever is configured for a network counts, but only who runs is a container of the inventory.
func TestAttached(t *testing.T) {
	for _, version := range engineVersions {
		t.Run(version, func(t *testing.T) {
			e := newEngineOf(t, version)
			e.change(func() {
				for name, state := range map[string]string{"shop-old-1": "exited", "shop-new-1": "created"} {
					c := copyOf(t, e.find("shop-db-1"))
					c["Id"], c["Name"] = idOf(name), "/"+name
					at(c, "State")["Running"], at(c, "State")["Status"], at(c, "State")["Pid"] = false, state, 0
					endpoint := at(c, "NetworkSettings", "Networks", "shop_default")
					endpoint["IPAddress"] = ""
					if state == "created" {
						endpoint["NetworkID"] = "" // until it runs for the first time
					}
					e.containers = append(e.containers, c)
				}
				paused := copyOf(t, e.find("shop-db-1"))
				paused["Id"], paused["Name"] = idOf("shop-cold-1"), "/shop-cold-1"
				at(paused, "State")["Status"], at(paused, "State")["Paused"], at(paused, "State")["Pid"] = "paused", true, 4711
				e.containers = append(e.containers, paused)
			})
			s := follow(t, e)
			s.wantStatus(true)
			if got := s.attachedTo("shop_default"); got != 4 {
				t.Errorf("%d are attached to shop_default, want 4: one runs, one is paused, one has ended, one never ran", got)
			}
			if got := s.attachedTo("none"); got != 0 {
				t.Errorf("%d are attached to none, want 0", got)
			}
			if s.has("shop-old-1") || s.has("shop-new-1") || !s.has("shop-cold-1") {
				t.Errorf("containers are %v, want those that run", s.names())
			}
		})
	}
}

func (s *session) attachedTo(network string) int {
	s.t.Helper()
	for _, n := range s.Inventory().Networks {
		if n.Name == network {
			return n.Attached
		}
	}
	s.t.Fatalf("no network %s", network)
	return 0
}

// A network is not unused between two listings because its container is new.
func TestAttachedBetweenListings(t *testing.T) {
	w := newWorld(t)
	w.SetAttachments(map[string][]Endpoint{idOf("old"): {{NetworkID: idOf("network web"), Network: "web"}}})
	w.PutContainer(on(w.container("old"), "web", "172.30.1.2"))
	w.PutContainer(on(w.container("new"), "web", "172.30.1.3"))
	got := make(map[string]int)
	for _, n := range w.Inventory().Networks {
		got[n.Name] = n.Attached
	}
	if diff := cmp.Diff(map[string]int{"web": 2, "back": 0}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNetworkOptions(t *testing.T) {
	type options struct {
		ICC, Masquerade, Predefined bool
		Mode4, Mode6, Parent        string
		Trusted, Label              string
	}
	for _, version := range engineVersions {
		t.Run(version, func(t *testing.T) {
			e := newEngineOf(t, version)
			e.change(func() {
				for name, options := range map[string]map[string]any{
					"apart":  {optionICC: "false", optionMasquerade: "0", optionTrusted: "eth0:eth1"},
					"routed": {optionGatewayMode4: "routed", optionGatewayMode6: "nat-unprotected"},
					"spelt":  {optionICC: "FALSE", optionMasquerade: "nonsense"},
				} {
					n := copyOf(t, e.networks[3])
					n["Id"], n["Name"], n["Options"] = idOf("network "+name), name, options
					n["Labels"] = map[string]any{"is": name}
					e.networks = append(e.networks, n)
				}
				ingress := copyOf(t, e.networks[5])
				ingress["Id"], ingress["Name"], ingress["Ingress"] = "ingressid", "mesh", true
				e.networks = append(e.networks, ingress)
			})
			s := follow(t, e)
			s.wantStatus(true)
			got := make(map[string]options)
			for _, n := range s.Inventory().Networks {
				got[n.Name] = options{n.ICC, n.Masquerade, n.Predefined, n.GatewayMode4, n.GatewayMode6, n.Parent, n.Trusted, n.Labels["is"]}
			}
			want := map[string]options{
				"bridge":          {ICC: true, Masquerade: true, Predefined: true},
				"host":            {ICC: true, Predefined: true},
				"none":            {ICC: true, Predefined: true},
				"docker_gwbridge": {Masquerade: true, Predefined: true},
				"mesh":            {ICC: true, Predefined: true},
				"shop_default":    {ICC: true, Masquerade: true},
				"app_backend":     {ICC: true},
				"lan":             {ICC: true, Parent: "eth0"},
				"apart":           {Trusted: "eth0:eth1", Label: "apart"},
				"routed":          {ICC: true, Masquerade: true, Mode4: "routed", Mode6: "nat-unprotected", Label: "routed"},
				"spelt":           {Masquerade: true, Label: "spelt"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Engines say in two places what their resolver serves: from 1.45 on all of it as DNSNames, before as aliases without the
// container's own name.
func TestServedNames(t *testing.T) {
	for _, version := range engineVersions {
		t.Run(version, func(t *testing.T) {
			e := newEngineOf(t, version)
			e.change(func() {
				db := e.find("shop-db-1")
				at(db, "Config")["Hostname"], at(db, "Config")["Domainname"] = "dbhost", "corp.test"
				host := at(db, "HostConfig")
				host["Dns"], host["DnsSearch"], host["DnsOptions"] = []any{"192.0.2.53"}, []any{"a.test"}, []any{"ndots:2"}
				at(db, "NetworkSettings", "Networks", "shop_default")["Aliases"] = []any{"database", "c0c86e53f526", "dbhost"}
				if version != "1.41" {
					at(db, "NetworkSettings", "Networks", "shop_default")["Aliases"] = []any{"database"}
					at(db, "NetworkSettings", "Networks", "shop_default")["DNSNames"] = []any{"shop-db-1", "database", "c0c86e53f526", "dbhost"}
				}
			})
			s := follow(t, e)
			s.wantStatus(true)
			got := make(map[string][]string)
			for _, c := range s.Inventory().Containers {
				for _, endpoint := range c.Endpoints {
					got[c.Name+" on "+endpoint.Network] = slices.Sorted(slices.Values(endpoint.Names))
				}
			}
			want := map[string][]string{
				"shop-db-1 on shop_default": {"c0c86e53f526", "database", "dbhost", "shop-db-1"},
				"jolly_wozniak on bridge":   nil, "router on host": nil, "m1 on lan": {"ca0df2c95aa1", "m1"},
				"app_web.2.llzn6b35dfiq0v9gcz1dod1xc on app_backend":                         {"app_web.2.llzn6b35dfiq0v9gcz1dod1xc", "b1fd67ebe325"},
				"app_log.gg9smtd7vp27wabyylj4qb3vj.09kq6wxydog149luo17t0g487 on app_backend": {"9e2ab981f890", "app_log.gg9smtd7vp27wabyylj4qb3vj.09kq6wxydog149luo17t0g487"},
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			db := s.live("shop-db-1")
			own := []any{db.Hostname, db.Domain, db.DNSServers, db.DNSSearch, db.DNSOptions}
			wantOwn := []any{"dbhost", "corp.test", []netip.Addr{netip.MustParseAddr("192.0.2.53")}, []string{"a.test"}, []string{"ndots:2"}}
			if diff := cmp.Diff(wantOwn, own, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("its own (-want +got):\n%s", diff)
			}
			if want := "/var/lib/docker/containers/" + db.ID + "/resolv.conf"; db.ResolvConfPath != want {
				t.Errorf("resolv.conf is at %q, want %q", db.ResolvConfPath, want)
			}
		})
	}
}
