// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// channels are what the nodes say to each other, by what the switch between them counts.
type channels struct {
	swarmStage
	wires map[channel][]*lab.Wire
	ahead map[channel]int64
}

// channel is what one side sends the other for one purpose.
type channel struct {
	from *side
	name string
}

// matches is how the switch tells them.
func (c channel) matches() []string {
	return map[string][]string{
		"vxlan":      {"udp dport 4789"},
		"gossip_udp": {"udp dport 7946"},
		"gossip_tcp": {"tcp dport 7946", "tcp sport 7946"},
		"manager":    {"tcp dport 2377", "tcp sport 2377"},
	}[c.name]
}

// watchChannels begins to count.
func (s swarmStage) watchChannels() *channels {
	s.Helper()
	c := &channels{s, map[channel][]*lab.Wire{}, nil}
	for _, from := range s.sides() {
		for _, name := range []string{"vxlan", "gossip_udp", "gossip_tcp", "manager"} {
			ch := channel{from, name}
			for _, match := range ch.matches() {
				c.wires[ch] = append(c.wires[ch], s.swarm.CountSent(s, lab.Between(from.Node, s.other(from).Node).And(match)))
			}
		}
	}
	c.ahead = c.compare(s.T)
	return c
}

// compare returns how much more the agents have counted than the switch, which began later, by channel and sender: first by the
// sender, then by the receiver. The nodes never cease to talk, but they pause.
func (c *channels) compare(t *testing.T) map[channel]int64 {
	t.Helper()
	ahead := map[channel]int64{}
	for _, at := range c.sides() {
		lab.Eventually(t, shown, "the nodes to be silent", func() bool {
			before := c.counted(t)
			metrics := at.agent.Scrape(t)
			for ch, n := range before {
				direction := "rx"
				if ch.from == at {
					direction = "tx"
				}
				got := metrics.Sum("bridgewatch_swarm_channel_packets_total", lab.Labels{
					"peer": c.other(at).Addr.String(), "channel": ch.name, "direction": direction,
				})
				ahead[channel{ch.from, ch.name + " as counted by " + at.Hostname}] = int64(got) - int64(n)
			}
			return maps.Equal(before, c.counted(t))
		})
	}
	return ahead
}

func (c *channels) counted(t *testing.T) map[channel]uint64 {
	t.Helper()
	all := map[channel]uint64{}
	for ch, wires := range c.wires {
		for _, w := range wires {
			all[ch] += w.Packets(t)
		}
	}
	return all
}

// require holds what the agents have counted since watchChannels against the switch.
func (c *channels) require(t *testing.T) {
	t.Helper()
	for ch, got := range c.compare(t) {
		if got != c.ahead[ch] {
			t.Errorf("from %s, %s: %d more than the switch has", ch.from.Hostname, ch.name, got-c.ahead[ch])
		}
	}
	for ch, n := range c.counted(t) {
		if n == 0 && ch.name != "gossip_tcp" { // every half minute
			t.Errorf("%s has sent nothing on %s: this proves nothing", ch.from.Hostname, ch.name)
		}
	}
	for _, at := range c.sides() {
		metrics := at.agent.Scrape(t)
		for _, name := range []string{"vxlan", "gossip_udp", "manager"} {
			heard := metrics.Select("bridgewatch_swarm_channel_last_received_timestamp_seconds", lab.Labels{"peer": c.other(at).Addr.String(), "channel": name})
			if len(heard) != 1 || heard[0].Value > float64(time.Now().Unix()+1) || heard[0].Value < float64(time.Now().Add(-hostTime).Unix()) {
				t.Errorf("%s last heard on %s:\n%s", at.Hostname, name, lines(heard))
			}
		}
	}
}

// hostTime is longer than any lab host lives.
const hostTime = 10 * time.Minute
