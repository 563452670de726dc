// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

type detachCommand struct{}

// Run removes what only a kernel without tcx can have kept. A running agent would be left blind, so there must be none.
func (detachCommand) Run(ctx context.Context, to streams) error {
	alone, err := claimHost()
	if err != nil {
		return err
	}
	defer alone.Close()
	devices, err := loader.DetachLeftovers()
	for _, name := range devices {
		fmt.Fprintf(to.out, "removed filters from %s\n", name)
	}
	if err != nil {
		return err
	}
	inside, whole, err := detachInside(ctx, to)
	if err != nil {
		return err
	}
	if len(devices)+inside == 0 && whole {
		fmt.Fprintln(to.out, "nothing of ours is in the kernel")
	}
	return nil
}

// detachInside does the same in the namespaces of running containers, where macvlan and ipvlan devices are, and in those of
// overlay networks, where the other ends of containers' devices are. whole: all of them were looked into.
func detachInside(ctx context.Context, to streams) (removed int, whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	paths, unasked := enrich.Sandboxes(ctx)
	if unasked != nil {
		fmt.Fprintf(to.err, "containers were not looked into: %v\n", unasked)
	}
	for name, path := range paths {
		if removed, err = detachIn(to, path, "container "+name, removed); err != nil {
			return removed, false, err
		}
	}
	overlays, unlisted := overlaySandboxes(paths)
	if unlisted != nil {
		fmt.Fprintf(to.err, "not all overlay networks were looked into: %v\n", unlisted)
	}
	for _, overlay := range overlays {
		if removed, err = detachIn(to, overlay.Path, "overlay network "+overlay.Network, removed); err != nil {
			return removed, false, err
		}
	}
	return removed, unasked == nil && unlisted == nil, nil
}

// detachIn does so in one namespace, and adds how many devices there were to those of before.
func detachIn(to streams, path, whose string, before int) (removed int, err error) {
	devices, err := loader.DetachLeftoversIn(path)
	for _, device := range devices {
		fmt.Fprintf(to.out, "removed filters from %s of %s\n", device, whose)
	}
	if errors.Is(err, loader.ErrNetnsGone) {
		err = nil
	}
	return before + len(devices), err
}

// engineFolder is where the engine keeps its namespaces unless it is told otherwise. The routing mesh has an overlay network there
// even if no container runs, which would say where they are.
const engineFolder = "/var/run/docker/netns"

// overlaySandboxes are the namespaces of overlay networks beside those of containers.
func overlaySandboxes(containers map[string]string) (overlays []loader.Sandbox, err error) {
	var errs []error
	folders := map[string]bool{engineFolder: true}
	for _, path := range containers {
		folders[filepath.Dir(path)] = true
	}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		listed, err := loader.ListSandboxes(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, s := range listed {
			if s.Kind == loader.SandboxOverlay {
				overlays = append(overlays, s)
			}
		}
	}
	return overlays, errors.Join(errs...)
}
