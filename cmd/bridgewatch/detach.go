// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
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
	inside, err := detachInside(ctx, to)
	if err != nil {
		return err
	}
	if len(devices)+inside == 0 {
		fmt.Fprintln(to.out, "nothing of ours is in the kernel")
	}
	return nil
}

// detachInside does the same in the namespaces of running containers, where macvlan and ipvlan devices are.
func detachInside(ctx context.Context, to streams) (removed int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	paths, err := enrich.Sandboxes(ctx)
	if err != nil {
		fmt.Fprintf(to.err, "containers were not looked into: %v\n", err)
		return 0, nil
	}
	for name, path := range paths {
		devices, err := loader.DetachLeftoversIn(path)
		for _, device := range devices {
			fmt.Fprintf(to.out, "removed filters from %s of container %s\n", device, name)
		}
		removed += len(devices)
		if err != nil && !errors.Is(err, loader.ErrNetnsGone) {
			return removed, err
		}
	}
	return removed, nil
}
