// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Of a task that gets healthy no event tells. What its load balancer does is a reason to ask.
func TestStrangeBackendsAreAskedFor(t *testing.T) {
	for address, want := range map[string][]string{"10.0.1.3": nil, "10.0.1.99": {ov1ID}} {
		w := newSwarmWorld(t)
		w.wait(overlayPause)
		w.tell()
		w.lb.IPVS = []loader.VirtualService{{Mark: 256, Backends: []loader.IPVSBackend{{Address: netip.MustParseAddr(address), Weight: 1}}}}
		w.look()
		w.wait(overlayPauseMost)
		if diff := cmp.Diff(want, w.dueOverlays()); diff != "" {
			t.Errorf("%s: asked for (-want +got):\n%s", address, diff)
		}
	}
}
