// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"strings"
	"testing"
)

// Frames counts what every hardware address sends into the host's bridges, by a rule of nftables. It sees a
// container's frames from the first one on, and keeps its counts when the container has gone.
type Frames struct{ table string }

// CountFrames counts until the test ends.
func CountFrames(tb testing.TB) Frames {
	tb.Helper()
	f := Frames{"lab"}
	run(tb, "nft", "add table bridge "+f.table)
	tb.Cleanup(func() { run(tb, "nft", "delete table bridge "+f.table) })
	run(tb, "nft", "add set bridge "+f.table+" senders { type ether_addr; size 4096; flags dynamic; }")
	run(tb, "nft", "add chain bridge "+f.table+" frames { type filter hook prerouting priority -300; }")
	run(tb, "nft", "add rule bridge "+f.table+" frames update @senders { ether saddr counter }")
	return f
}

// From returns what a hardware address has sent.
func (f Frames) From(tb testing.TB, address string) Counted {
	tb.Helper()
	var listed struct {
		Nftables []struct {
			Set *struct {
				Elem []struct {
					Elem struct {
						Val     string
						Counter Counted
					}
				}
			}
		}
	}
	text := run(tb, "nft", "-j", "list set bridge "+f.table+" senders")
	if err := json.Unmarshal([]byte(text), &listed); err != nil {
		tb.Fatalf("read counts of frames: %v\n%s", err, text)
	}
	const ethernetHeader = 14 // netfilter counts from the network header on
	for _, object := range listed.Nftables {
		if object.Set == nil {
			continue
		}
		for _, e := range object.Set.Elem {
			if strings.EqualFold(e.Elem.Val, address) {
				counted := e.Elem.Counter
				counted.Bytes += ethernetHeader * counted.Packets
				return counted
			}
		}
	}
	return Counted{}
}
