// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"hash/maphash"
	"net/netip"
	"time"
)

const (
	// rememberedFor is for how long at least a lookup that timed out is known to an answer that comes yet, and a socket of the
	// engine's to what it may get.
	rememberedFor = 30 * time.Second
	// rememberedAnswers bounds each half of what is remembered of ended lookups.
	rememberedAnswers = 1 << 15
)

// newDNSMemory returns what remembers exchanges of lookups that have ended, by their outcome.
func newDNSMemory(timeout time.Duration) [3]remembered {
	return [...]remembered{
		DNSAnswered: {period: timeout, limit: rememberedAnswers},
		DNSTimedOut: {period: max(rememberedFor, timeout), limit: rememberedAnswers},
		DNSUnknown:  {period: timeout, limit: rememberedAnswers},
	}
}

// key is what is remembered of an exchange that has ended.
func (t *dnsTracker) key(exchange dnsExchange, q DNSQuestion) uint64 {
	return maphash.Comparable(t.seed, struct {
		dnsExchange
		DNSQuestion
	}{exchange, q})
}

// socket is what is remembered of a client.
func (t *dnsTracker) socket(netns Netns, protocol uint8, client netip.AddrPort) uint64 {
	return maphash.Comparable(t.seed, dnsExchange{netns: netns, protocol: protocol, client: client})
}

// again tells whether there is one of a key, and keeps it.
func (r *remembered) again(key uint64, now time.Time) bool {
	if !r.take(key, now) {
		return false
	}
	r.add(key, now)
	return true
}
