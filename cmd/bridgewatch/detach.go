// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/bridgewatch/bridgewatch/loader"
)

type detachCommand struct{}

// Run removes what only a kernel without tcx can have kept. A running agent would be left blind, so there must be none.
func (detachCommand) Run(to streams) error {
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
	if len(devices) == 0 {
		fmt.Fprintln(to.out, "nothing of ours is in the kernel")
	}
	return nil
}
