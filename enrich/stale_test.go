// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/loader"
)

// TestPassedBy has an entry of UDP that leads past the container.
func TestPassedBy(t *testing.T) {
	udp := func(original, reply string) loader.Tracked { return with(entry(original, reply), of(unix.IPPROTO_UDP)) }
	led := udp("203.0.113.7:1000->192.0.2.1:5300", "172.30.1.2:53->203.0.113.7:1000")
	past := udp("203.0.113.9:39340->192.0.2.1:5300", "192.0.2.1:5300->203.0.113.9:39340")
	fresh := udp("203.0.113.8:2000->192.0.2.1:5300", "192.0.2.1:5300->203.0.113.8:2000")
	open := func(entries ...loader.Tracked) func(w *world) {
		return func(w *world) { w.AttributeNAT(w.opened(entries...)) }
	}
	restart := func(w *world) {
		c := w.members[idOf("alpha")].Container
		w.ContainerDied(idOf("alpha"))
		w.AttributeNAT(w.opened(past))
		w.wait(time.Second)
		c.StartedAt = w.now
		w.PutContainer(c)
		w.AttributeNAT(w.opened(past)) // the rules are about to be made
		w.wait(time.Minute)
	}
	for _, tc := range []struct {
		name  string
		steps []func(w *world)
		table []loader.Tracked
		stale bool
	}{
		{"made while the container was not there", []func(*world){open(led), restart}, []loader.Tracked{past}, true},
		{"the same, of whom the table alone tells that there are rules", []func(*world){restart}, []loader.Tracked{led, past}, true},
		{"the same, and new ones come in since", []func(*world){restart, open(led)}, []loader.Tracked{past}, true},
		{"nobody knows of rules", []func(*world){restart}, []loader.Tracked{past}, false},
		{"no rules any more", []func(*world){open(led), restart, open(fresh)}, []loader.Tracked{led, past}, false},
		{"from the host itself", []func(*world){open(led)}, []loader.Tracked{udp("192.0.2.1:1000->192.0.2.1:5300", "192.0.2.1:5300->192.0.2.1:1000")}, false},
		{"from a container", []func(*world){open(led)}, []loader.Tracked{udp("172.30.1.3:1000->192.0.2.1:5300", "192.0.2.1:5300->172.30.1.3:1000")}, false},
		{"another port", []func(*world){open(led)}, []loader.Tracked{udp("203.0.113.9:1000->192.0.2.1:5301", "192.0.2.1:5301->203.0.113.9:1000")}, false},
		{"nobody is there now", []func(*world){open(led), func(w *world) { w.ContainerDied(idOf("alpha")) }}, []loader.Tracked{past}, false},
		{"TCP", []func(*world){open(led)}, []loader.Tracked{entry("203.0.113.9:1000->192.0.2.1:8080", "192.0.2.1:8080->203.0.113.9:1000")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newPort(t)
			w.wait(time.Minute)
			for _, step := range tc.steps {
				step(w)
			}
			var want []StaleEntry
			if tc.stale {
				want = []StaleEntry{{past, Identity{Container: "alpha", Network: "web"}, idOf("alpha"), 5300}}
			}
			if diff := cmp.Diff(want, w.tracked(tc.table...).Stale, comparers()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
