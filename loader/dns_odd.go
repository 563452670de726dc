// SPDX-License-Identifier: Apache-2.0

package loader

import "net/netip"

const (
	// dnsOddLimit is how many namespaces and servers are told apart in one reading. Whoever sends messages that nobody
	// asked for may choose where they seem to come from.
	dnsOddLimit = 1 << 10
	// dnsOddFloor is how many more there may be without the server, before all others are told as of no namespace.
	dnsOddFloor = 1 << 10
)

// dnsOddities counts messages that are not as they should be, each once.
type dnsOddities struct {
	list  []DNSOdd
	place map[DNSOdd]int // in list, by one of no count
}

// count counts a message.
func (t *dnsTracker) count(p *dnsPath, group DNSGroup, oddity DNSOddity) {
	forwarded := t.forwarders.again(t.socket(p.netns, p.protocol, p.local), t.now)
	t.odd.add(DNSOdd{Netns: p.netns, Server: p.peer.Addr(), Group: group, Oddity: oddity, Forwarded: forwarded})
}

func (o *dnsOddities) add(odd DNSOdd) {
	if o.place == nil {
		o.place = make(map[DNSOdd]int)
	}
	at, known := o.place[odd]
	if !known && len(o.list) >= dnsOddLimit {
		odd.Server = netip.Addr{}
		at, known = o.place[odd]
	}
	if !known && len(o.list) >= dnsOddLimit+dnsOddFloor {
		odd.Netns = 0
		at, known = o.place[odd]
	}
	if !known {
		at = len(o.list)
		o.place[odd] = at
		o.list = append(o.list, odd)
	}
	o.list[at].Count++
}

// take hands out the counts, and begins anew.
func (o *dnsOddities) take() []DNSOdd {
	list := o.list
	*o = dnsOddities{}
	return list
}
