// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bridgewatch/bridgewatch/loader"
)

// Without Docker overlay networks are looked into nonetheless, and that nothing is there is not said of what nobody has seen.
func TestDetachWithoutDocker(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+t.TempDir()+"/nowhere.sock")
	var out, errs bytes.Buffer
	removed, whole, err := detachInside(t.Context(), streams{out: &out, err: &errs})
	if removed != 0 || whole || err != nil || !strings.Contains(errs.String(), "containers were not looked into: ") {
		t.Errorf("removed %d, whole %t, %v; said %q", removed, whole, err, errs.String())
	}
}

func TestOverlaySandboxes(t *testing.T) {
	folder := mountSandboxes(t, "1-0123456789", "lb_012345678", "0123456789ab")
	overlays, err := overlaySandboxes(map[string]string{"web": folder + "/0123456789ab", "odd": "/nowhere/netns/x"})
	var found []string
	for _, s := range overlays {
		if s.Kind != loader.SandboxOverlay {
			t.Errorf("%+v is none", s)
		}
		found = append(found, s.Path)
	}
	if err != nil || !strings.Contains(strings.Join(found, " "), folder+"/1-0123456789") {
		t.Errorf("found %q, %v", found, err)
	}
}
