// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/exporters/otlp"
)

// openOTLP starts the export to a collector, if the environment asks for one.
func (a *agent) openOTLP(ctx context.Context, store *exporters.Store) (err error) {
	a.collecting.Lock() // the first export collects too, and may come at once
	defer a.collecting.Unlock()
	a.otlp, err = otlp.Open(ctx, otlp.Config{Store: store, Collect: a.collect, Version: version, Log: a.log})
	return err
}

// closeOTLP sends what is left, which it reads from the kernel once more.
func (a *agent) closeOTLP() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := a.otlp.Close(ctx); err != nil {
		a.log.Warn("cannot deliver all that is left to the collector", "error", err)
	}
}
