// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
	"github.com/bridgewatch/bridgewatch/loader"
)

// TestTrack: a listing that fails does not leave the one before it standing, and says so until the next.
func TestTrack(t *testing.T) {
	at := netip.MustParseAddrPort
	connections := func(ports ...uint16) lister {
		return func(visit func(*loader.Tracked)) error {
			for _, port := range ports {
				visit(&loader.Tracked{
					Protocol: unix.IPPROTO_TCP, SourceNAT: true,
					Original: loader.Tuple{Source: netip.AddrPortFrom(netip.MustParseAddr("172.20.0.2"), port), Destination: at("198.51.100.1:443")},
					Reply:    loader.Tuple{Source: at("198.51.100.1:443"), Destination: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)},
				})
			}
			return nil
		}
	}
	refused := errors.New("list tracked connections: no buffer")
	failing := func(after lister) lister {
		return func(visit func(*loader.Tracked)) error { return errors.Join(after(visit), refused) }
	}
	a := &agent{state: enrich.NewState(enrich.Config{}), translations: &translations{}}
	egress := func() *api.Egress {
		var answer api.NAT
		a.answerEgress(&answer, api.NATQuestion{})
		return answer.Egress
	}
	if egress() != nil {
		t.Error("it says something before it has looked")
	}
	for _, step := range []struct {
		name     string
		listed   lister
		used     []int // ports towards the destination
		problems unread
	}{
		{"of two connections", connections(1024, 1025), []int{2}, nil},
		{"that fails after three", failing(connections(1024, 1025, 1026)), []int{3}, unread{refused.Error()}},
		{"that fails at once", failing(connections()), nil, unread{refused.Error()}},
		{"of two again", connections(1024, 1025), []int{2}, nil},
	} {
		t.Run("a listing "+step.name, func(t *testing.T) {
			a.tracked = time.Time{}
			for _, when := range []string{"then", "before the next"} {
				var problems unread
				a.track(&problems, step.listed, connections())
				if !slices.Equal(problems, step.problems) {
					t.Errorf("%s the problems are %q, want %q", when, problems, step.problems)
				}
				step.listed = connections(1, 2, 3, 4, 5, 6, 7) // for which it is not time yet
			}
			var used []int
			for _, p := range a.lastTracking().Pressure {
				used = append(used, p.Used)
			}
			if !slices.Equal(used, step.used) {
				t.Errorf("ports in use: %v, want %v", used, step.used)
			}
			if at := egress().Time; at.IsZero() || at.After(time.Now()) {
				t.Errorf("it was looked at %v", at)
			}
			if told, failed := egress().Incomplete, len(step.problems) > 0; (told != "") != failed {
				t.Errorf("the answer is incomplete for %q", told)
			}
		})
	}
}
