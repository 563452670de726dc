// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker.
var version = "dev"

type versionCommand struct{}

func (versionCommand) Run(to streams) error {
	_, err := fmt.Fprintf(to.out, "bridgewatch %s (%s, %s)\n", version, revision(), runtime.Version())
	return err
}

// revision is the commit that the binary was built from, as far as the toolchain knows.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value[:min(12, len(setting.Value))]
		}
	}
	return "unknown"
}
