// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"time"
)

// resolve looks names up as programs in Go do.
type resolve struct {
	Names []string `arg:"" help:"What to look up, one after the other."`
	For   string   `default:"ip" enum:"ip,ip4,ip6" help:"Which addresses."`
	Times int      `default:"1" help:"How often to go through the names."`
}

// Run reports what came of the names.
func (c resolve) Run() error {
	resolver := net.Resolver{PreferGo: true}
	var r report
	for range c.Times {
		for _, name := range c.Names {
			l := lookedUp{Name: name, Asked: time.Now()}
			addresses, err := resolver.LookupNetIP(context.Background(), c.For, name)
			l.Seconds = time.Since(l.Asked).Seconds()
			l.Answered, l.Addresses = err == nil, addresses
			if err != nil {
				l.Error = err.Error()
			}
			r.Lookups = append(r.Lookups, l)
		}
	}
	return r.print()
}
