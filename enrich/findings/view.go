// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// View is all that a rule may look at, as it is at a moment. Rules must not change it.
type View struct {
	Now        time.Time
	Inventory  enrich.Inventory
	Host       loader.HostState
	Containers map[string]loader.NetnsState // the namespaces of containers, by ID of the container that owns one

	// What happened within the last Window, summed by whom it concerns.
	Losses  []Loss
	Leaks   []Leak
	Inbound []Inbound

	Config Config
}

// Window is how far back the counts of a View reach.
const Window = time.Minute

// Loss is what one victim lost for one cause within the Window.
type Loss struct {
	Subject Subject // Object is empty
	Cause   string
	Kind    enrich.Kind
	Packets uint64
	First   time.Time
	Last    time.Time
	Example enrich.Drop // the latest of them
}

// Leak is what one container sent out of the host under its private address within the Window.
type Leak struct {
	Subject Subject
	Packets uint64 // all
	Resets  uint64 // of these, RST and FIN segments: leftovers of connections that NAT has forgotten
	Example loader.Egress
}

// Inbound is traffic that came to a container from outside of the host, to one of its ports, within the Window.
type Inbound struct {
	Subject     Subject
	ContainerID string
	Port        uint16
	Protocol    uint8
	Packets     uint64
}
