// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestAnswerers(t *testing.T) {
	services := []Service{{
		Name: "shop_front", Labels: map[string]string{labelStack: "shop"},
		Networks: []ServiceNetwork{{NetworkID: idOf("network ov"), VIP: netip.MustParseAddr("10.11.0.2")}},
	}}
	for _, tc := range []struct {
		name      string
		netns     loader.Netns
		addresses []string
		change    func(*loader.DNSLookup)
		want      []string
	}{
		{"a neighbour", alphaPort, []string{"172.30.1.3"}, nil, []string{"172.30.1.3 /beta@web"}},
		{
			"several, and a stranger", alphaPort, []string{"172.30.1.3", "172.30.1.99", "172.30.1.4"}, nil,
			[]string{"172.30.1.3 /beta@web", "172.30.1.99 /@", "172.30.1.4 /delta@web"},
		},
		{"strangers", alphaPort, []string{"203.0.113.9"}, nil, nil},
		{"an address on another's network", alphaPort, []string{"172.30.2.2"}, nil, nil},
		{
			"of an overlay", overlayOther, []string{"10.11.0.3", "10.11.0.2"}, nil,
			[]string{"10.11.0.3 front/front.1@ov", "10.11.0.2 front/@ov"},
		},
		{"of another server", alphaPort, []string{"172.30.1.3"}, at53("192.0.2.53"), nil},
		{"the dead", gammaPort, []string{"172.30.2.4"}, nil, []string{"172.30.2.4 /delta@back"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newNamedTown(t)
			w.SetServices(services)
			if tc.name == "the dead" {
				w.ContainerDied(idOf("delta"))
			}
			change := func(l *loader.DNSLookup) {
				if tc.change != nil {
					tc.change(l)
				}
			}
			var got []string
			for _, a := range w.explained(w.asked(tc.netns, "name", answering(tc.addresses...), change)).Answerers {
				got = append(got, fmt.Sprintf("%s %s/%s@%s", a.Address, a.Owner.Service, a.Owner.Container, a.Owner.Network))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// lostTo is a drop of two packets that a container sent.
func lostTo(container, cause, address string) Drop {
	return Drop{
		Drop:     loader.Drop{Counts: loader.Counts{Packets: 2}, Destination: netip.MustParseAddr(address), Outgoing: true},
		Identity: Identity{Container: container}, ContainerID: idOf(container), Scope: ScopeContainer, Cause: cause,
	}
}

func TestStaleUses(t *testing.T) {
	w := newNamedTown(t)
	w.attribute(w.asked(alphaPort, "beta", answering("172.30.1.3")), w.asked(alphaPort, "outside", answering("203.0.113.9")))
	answered := w.now
	w.wait(time.Minute)
	dead := lostTo("alpha", "dead-endpoint", "172.30.1.3")
	if got := w.StaleUses([]Drop{dead}); got != nil {
		t.Errorf("while its owner lives: %+v", got)
	}
	w.ContainerDied(idOf("beta"))
	w.wait(keep + time.Second) // the dead are forgotten meanwhile
	w.Attribute(nil, nil)
	got := w.StaleUses([]Drop{
		dead, dead,
		lostTo("alpha", "filtered", "172.30.1.3"),      // not for that
		lostTo("alpha", "dead-endpoint", "172.30.1.4"), // it was not told this one
		lostTo("alpha", "no-route", "203.0.113.9"),     // nobody's here
		lostTo("delta", "dead-endpoint", "172.30.1.3"), // it was told nothing
	})
	want := []StaleUse{{
		Identity: Identity{Container: "alpha", Network: "web"}, ContainerID: idOf("alpha"), Scope: ScopeContainer, Name: "beta",
		Address: netip.MustParseAddr("172.30.1.3"), Answered: answered.Add(-10 * time.Millisecond), Used: w.now, Packets: 4,
		Gone: Identity{Container: "beta", Network: "web"},
	}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Its successor has the address again.
	w.PutContainer(on(w.container("successor"), "web", "172.30.1.3"))
	if got := w.StaleUses([]Drop{dead}); got != nil {
		t.Errorf("when another one has it: %+v", got)
	}
}

// The living go before the dead who had the address, in whatever order they are looked at.
func TestStaleUsesOfTheSucceeded(t *testing.T) {
	w := newNamedTown(t)
	w.attribute(w.asked(alphaPort, "beta", answering("172.30.1.3")))
	w.ContainerDied(idOf("beta"))
	for i := range 20 {
		c := on(w.container(fmt.Sprintf("successor-%d", i)), "web", "172.30.1.3")
		w.PutContainer(c)
		if got := w.StaleUses([]Drop{lostTo("alpha", "dead-endpoint", "172.30.1.3")}); got != nil {
			t.Fatalf("though %s has it: %+v", c.Name, got)
		}
		w.ContainerDied(c.ID)
	}
}

// Who asked has ended: what it was told is forgotten. There is room for so many only.
func TestResolvedAddressesAreBounded(t *testing.T) {
	w := newNamedTown(t)
	w.attribute(w.asked(alphaPort, "beta", answering("172.30.1.3")), w.asked(alphaPort, "beta", answering("172.30.1.3")))
	memory := &w.pending.dns.resolved
	if memory.count != 1 {
		t.Errorf("remembers %d addresses, want 1", memory.count)
	}
	w.ContainerDied(idOf("alpha"))
	w.wait(keep + time.Second)
	w.Attribute(nil, nil)
	w.attribute()
	if memory.count != 0 || len(memory.got) != 0 {
		t.Errorf("remembers %d addresses of %d after the asker's end", memory.count, len(memory.got))
	}
	memory.count = maxAnswers
	w.attribute(w.asked(gammaPort, "delta", answering("172.30.2.4")))
	if got, want := w.DNSLosses()[1], (loader.Loss{Place: "answers", Count: 1}); got != want {
		t.Errorf("lost %+v, want %+v", got, want)
	}
}
