// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// TestRecentUnserved: what counts is what came since the last client that fared better, and since the container began.
func TestRecentUnserved(t *testing.T) {
	const client, to = "203.0.113.9:50000", "192.168.1.5:8080"
	vain := func(seconds int) enrich.PublishedConnection { return visited("", client, to, seconds) }
	mesh := func(c enrich.PublishedConnection) enrich.PublishedConnection {
		c.Identity, c.ContainerID, c.Scope = enrich.Identity{Stack: "stack", Service: "api"}, "", enrich.ScopeIngress
		c.Mechanism, c.Preserved = enrich.IngressMesh, false
		return c
	}
	passed := func(c enrich.PublishedConnection) enrich.PublishedConnection {
		c.Mechanism, c.Seen, c.Server = enrich.UserlandProxy, addrPort("172.20.0.1:40000"), addrPort("172.20.0.2:80")
		return c
	}
	type step struct {
		seconds int
		nat     enrich.NAT
	}
	for _, c := range []struct {
		name  string
		steps []step
		began int // when the container started
		want  []uint64
		first int
	}{
		{"in vain", []step{{1, attempts(vain(1), vain(1))}, {20, attempts(vain(20))}}, -100, []uint64{3}, 1},
		{"told out of order", []step{{21, attempts(vain(20), vain(2))}}, -100, []uint64{2}, 2},
		{"a rule is there again", []step{{1, attempts(vain(1))}, {2, attempts(visited(enrich.NoMechanism, client, to, 2))}}, -100, nil, 0},
		{"and gone again", []step{
			{1, attempts(vain(1), vain(1))}, {2, attempts(visited(enrich.NoMechanism, client, to, 2))}, {3, attempts(vain(3))},
		}, -100, []uint64{1}, 3},
		{"a rule for the other family only", []step{
			{1, attempts(vain(1))}, {2, attempts(visited(enrich.NoMechanism, "[2001:db8::9]:5", "[2001:db8::5]:8080", 2))},
		}, -100, []uint64{1}, 1},
		{"the proxy answers", []step{
			{1, enrich.NAT{Attempts: []enrich.PublishedConnection{vain(1)}, Connections: []enrich.PublishedConnection{vain(1)}}},
		}, -100, nil, 0},
		{"the proxy passes it on, and nobody answers", []step{{1, attempts(vain(1))}, {2, attempts(passed(vain(2)))}}, -100, nil, 0},
		{"the proxy has passed it on", []step{
			{1, attempts(vain(1))}, {2, enrich.NAT{Joined: []enrich.PublishedConnection{passed(vain(1))}}}, {3, attempts(vain(3))},
		}, -100, []uint64{1}, 3},
		{"the proxy has passed the host itself on", []step{{1, attempts(vain(1))}, {2, func() enrich.NAT {
			local := passed(vain(1))
			local.Client = enrich.ClientHost
			return enrich.NAT{Joined: []enrich.PublishedConnection{local}}
		}()}}, -100, []uint64{1}, 1},
		{"the proxy answers the host itself", []step{{1, attempts(vain(1))}, {2, func() enrich.NAT {
			local := vain(2)
			local.Client = enrich.ClientHost
			return connections(local)
		}()}}, -100, []uint64{1}, 1},
		{"the host itself, in vain", []step{{1, func() enrich.NAT {
			local := vain(1)
			local.Client = enrich.ClientHost
			return attempts(local)
		}()}}, -100, nil, 0},
		{"of the mesh, where the engine's socket answers", []step{{1, attempts(mesh(vain(1)))}, {2, connections(mesh(vain(1)))}}, -100, []uint64{1}, 1},
		{"of the mesh, and a rule is there again", []step{
			{1, attempts(mesh(vain(1)))}, {2, attempts(mesh(visited(enrich.NoMechanism, client, to, 2)))},
		}, -100, nil, 0},
		{"before the container began", []step{{1, attempts(vain(1))}}, 3, nil, 0},
		{"while it began", []step{{1, attempts(vain(1))}}, -3, nil, 0},
		{"since it began", []step{{1, attempts(vain(1))}}, -4, []uint64{1}, 1},
		{"of a container that is gone", []step{{1, attempts(func() enrich.PublishedConnection {
			gone := vain(1)
			gone.ContainerID = "0123456789abcdef"
			return gone
		}())}}, -100, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRecent()
			for _, s := range c.steps {
				r.AddNAT(s.nat, at(s.seconds))
			}
			view := healthy()
			view.container(webID).StartedAt = at(c.began)
			view.Now = at(25)
			r.Fill(&view)
			var got []uint64
			for _, u := range view.Unserved {
				got = append(got, u.Attempts)
				if !u.First.Equal(at(c.first)) || u.Last.Before(u.First) || u.Example.Original.Source != addrPort(client) {
					t.Errorf("from %s to %s, such as %+v", u.First, u.Last, u.Example)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("attempts in vain (-want +got):\n%s", diff)
			}
			view.Now = at(90)
			if r.Fill(&view); len(view.Unserved) != 0 || len(r.unserved.entries) != 0 {
				t.Errorf("after the window: %+v", view.Unserved)
			}
		})
	}
}

// TestFlushIsFoundAndClears plays a firewall that takes the rules away and an operator who brings them back.
func TestFlushIsFoundAndClears(t *testing.T) {
	r, board := NewRecent(), NewBoard(Config{Hold: 10 * time.Second})
	var log []string
	for second := 0; second <= 60; second += 5 {
		c := visited(enrich.NoMechanism, "203.0.113.9:50000", "192.168.1.5:8080", second)
		if second >= 20 && second < 40 {
			c = visited("", "203.0.113.9:50000", "192.168.1.5:8080", second)
		}
		r.AddNAT(attempts(c), at(second))
		view := filled(r, second)
		for _, change := range board.Evaluate(&view) {
			what := "raised "
			if change.Cleared {
				what = "cleared "
			}
			log = append(log, view.Now.Sub(start).String()+" "+what+change.ID)
		}
	}
	if diff := cmp.Diff([]string{"30s raised firewall-flush", "45s cleared firewall-flush"}, log); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// TestRecentDenied: what the host's own rules drop of a published port would not have got there with the port's own rule.
func TestRecentDenied(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*enrich.Drop, *View)
		want   uint64
	}{
		{"a first packet for a published port", nil, 4},
		{"for a port of another protocol", func(d *enrich.Drop, _ *View) { d.Protocol = 17 }, 0},
		{"for another port", func(d *enrich.Drop, _ *View) { d.DestinationPort = 8081 }, 0},
		{"for a port published on another address", func(_ *enrich.Drop, v *View) {
			containerOf(v, webID).Published[0].Host = addrPort("192.168.1.6:8080")
		}, 0},
		{"for a port published on this address", func(_ *enrich.Drop, v *View) {
			containerOf(v, webID).Published[0].Host = addrPort("192.168.1.5:8080")
		}, 4},
		{"for a port published over IPv6 only", func(_ *enrich.Drop, v *View) {
			containerOf(v, webID).Published = containerOf(v, webID).Published[1:]
		}, 0},
		{"a late packet of a connection that is over", func(d *enrich.Drop, _ *View) { d.Initiator = d.Responder }, 0},
		{"an answer", func(d *enrich.Drop, _ *View) { d.Initiator = d.Destination }, 0},
		{"what a rule has translated", func(d *enrich.Drop, _ *View) { d.DNAT = true }, 0},
		{"what the host sends", func(d *enrich.Drop, _ *View) { d.Direction = enrich.TX }, 0},
		{"what the host sends to itself", func(d *enrich.Drop, _ *View) { d.Source, d.Initiator = d.Destination, d.Destination }, 0},
		{"for everybody on the link", func(d *enrich.Drop, _ *View) { d.Destination = addr("192.168.1.255") }, 0},
		{"from a link-local address", func(d *enrich.Drop, _ *View) {
			d.Source, d.Initiator, d.Destination = addr("fe80::9"), addr("fe80::9"), addr("fe80::5")
		}, 0},
		{"by a rule about containers", func(d *enrich.Drop, _ *View) { d.Cause = "docker-user" }, 0},
		{"of a container that has just begun", func(_ *enrich.Drop, v *View) { containerOf(v, webID).StartedAt = at(-4) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			view := healthy()
			d := dropped("host-firewall", "", 2)
			d.Kind, d.Direction, d.Protocol = enrich.KindPolicy, enrich.RX, 6
			d.Source, d.Initiator, d.SourcePort = addr("203.0.113.9"), addr("203.0.113.9"), 50000
			d.Destination, d.DestinationPort = addr("192.168.1.5"), 8080
			if c.change != nil {
				c.change(&d, &view)
			}
			require := func(r *Recent, seconds int, want uint64) {
				t.Helper()
				view.Now = at(seconds)
				r.Fill(&view)
				var got uint64
				for _, u := range view.Unserved {
					got += u.Attempts
				}
				if got != want {
					t.Errorf("at %d s: %d attempts in vain, want %d", seconds, got, want)
				}
			}
			r := NewRecent()
			require(r, 0, 0)
			r.AddDrops([]enrich.Drop{d}, at(0))
			require(r, 0, 0) // as far as is known, this host sends nobody on to a container
			elsewhere := visited(enrich.NoMechanism, "203.0.113.9:50000", "192.168.1.5:32770", 0)
			elsewhere.ContainerID, elsewhere.Port = dbID, 32770
			r.AddNAT(attempts(elsewhere), at(0))
			r.AddDrops([]enrich.Drop{d}, at(0))
			r.AddDrops([]enrich.Drop{d}, at(20))
			require(r, 25, c.want)
			r.AddNAT(attempts(visited(enrich.NoMechanism, "203.0.113.8:1", "192.168.1.5:8080", 26)), at(26))
			require(r, 27, 0)
		})
	}
}

// TestRecentDeniedByFamily: a host may translate one family only. Then rules of its own guard the ports of the other.
func TestRecentDeniedByFamily(t *testing.T) {
	const client6, to6 = "[2001:db8::9]:50000", "[2001:db8::5]:8080"
	d := dropped("host-firewall", "", 2)
	d.Kind, d.Direction, d.Protocol = enrich.KindPolicy, enrich.RX, 6
	d.Source, d.Initiator, d.SourcePort = addrPort(client6).Addr(), addrPort(client6).Addr(), 50000
	d.Destination, d.DestinationPort = addrPort(to6).Addr(), 8080
	for _, c := range []struct {
		name     string
		from, to string // of who is sent on
		want     uint64
	}{
		{"IPv4 is sent on", "203.0.113.9:50000", "192.168.1.5:8080", 0},
		{"IPv6 is sent on", client6, to6, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRecent()
			filled(r, 0) // the ports
			r.AddNAT(attempts(visited(enrich.NoMechanism, c.from, c.to, 0)), at(0))
			r.AddDrops([]enrich.Drop{d}, at(1))
			var got uint64
			for _, u := range filled(r, 2).Unserved {
				got += u.Attempts
			}
			if got != c.want {
				t.Errorf("%d attempts in vain, want %d", got, c.want)
			}
		})
	}
}
