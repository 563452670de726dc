// SPDX-License-Identifier: Apache-2.0

package enrich

import "testing"

func TestProtocolName(t *testing.T) {
	for protocol, want := range map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp", 47: "other", 0: "other"} {
		if got := ProtocolName(protocol); got != want {
			t.Errorf("ProtocolName(%d) = %q, want %q", protocol, got, want)
		}
	}
}
