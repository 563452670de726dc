// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// perMinute is how many packets one victim must lose for one cause within the Window to make a finding, where nothing else
// is said: more than the seven tries of one TCP connection that is not answered (tcp_syn_retries), and than noise makes.
const perMinute = 10

// restart is how long a container may be away while it is restarted or replaced.
const restart = 10 * time.Second

// etherARP is from include/uapi/linux/if_ether.h.
const etherARP = 0x0806

// losing finds the containers that lost so many packets for a cause.
func losing(cause string, packets uint64) func(*View) []hit {
	return losses(func(v *View, l *Loss) bool { return l.Cause == cause && v.enough(l.Packets, packets) })
}

// losingToDead is losing, but for packets to a container that was there a moment ago, and may be again at once.
func losingToDead(cause string, packets uint64) func(*View) []hit {
	return losses(func(v *View, l *Loss) bool {
		return l.Cause == cause && v.enough(l.Packets, packets) && !l.restarting()
	})
}

// enough tells whether packets are as many as are wanted of a whole Window. Who observes for less has seen less, but a few
// strays prove nothing.
func (v *View) enough(packets, wanted uint64) bool {
	if observed := v.Config.Observed; observed > 0 && observed < Window {
		wanted = max(wanted*uint64(observed)/uint64(Window), min(wanted, strays))
	}
	return packets >= wanted
}

// strays are so few packets that nothing follows from them, however short the time.
const strays = 5

// restarting tells whether packets were for a container that was there a moment ago.
func (l *Loss) restarting() bool { return l.ToContainer && l.Last.Sub(l.First) < restart }

// losses finds the containers whose losses are as wanted. What nobody lost whom the engine knows is not Docker's.
func losses(wanted func(*View, *Loss) bool) func(*View) []hit {
	return func(v *View) []hit {
		var hits []hit
		for i := range v.Losses {
			if l := &v.Losses[i]; l.victim() && wanted(v, l) {
				hits = append(hits, v.lossHit(l))
			}
		}
		return hits
	}
}

// hostLosing finds out whether the host lost so many packets for a cause, whoever else is hit.
func hostLosing(cause string, packets uint64) func(*View) []hit {
	return func(v *View) []hit {
		facts, fill := v.hostLosses(cause, packets)
		return onHost(facts, fill)
	}
}

// hostLosses sums up what was lost for a cause that is the host's; nil: too little. A namespace that is neither the host's
// nor a container's is none of ours.
func (v *View) hostLosses(cause string, packets uint64) ([]Fact, map[string]string) {
	var sum uint64
	var most *Loss
	var victims []string
	for i := range v.Losses {
		l := &v.Losses[i]
		if l.Cause != cause || !l.victim() && l.Subject.Scope != enrich.ScopeHost {
			continue
		}
		sum += l.Packets
		if most == nil || l.Packets > most.Packets {
			most = l
		}
		if name := l.Subject.Container; name != "" && !slices.Contains(victims, name) {
			victims = append(victims, name)
		}
	}
	if !v.enough(sum, packets) || most == nil {
		return nil, nil
	}
	facts := []Fact{lost(sum)}
	if len(victims) > 0 {
		slices.Sort(victims)
		facts = append(facts, number("containers hit", float64(len(victims)), ""), text("containers", list(victims)))
	}
	return append(facts, exampleFacts(&most.Example)...), exampleFill(&most.Example)
}

// onHost is a hit that concerns the host; none without evidence.
func onHost(facts []Fact, fill map[string]string) []hit {
	if len(facts) == 0 {
		return nil
	}
	return []hit{{subject: Subject{Scope: enrich.ScopeHost}, evidence: facts, fill: fill}}
}

// victim tells whether a container lost the packets.
func (l *Loss) victim() bool { return l.Example.ContainerID != "" }

func (v *View) lossHit(l *Loss) hit {
	h := hit{subject: l.Subject, fill: exampleFill(&l.Example)}
	h.evidence = append([]Fact{lost(l.Packets)}, exampleFacts(&l.Example)...)
	h.fill["container"] = v.engineName(l.Example.ContainerID)
	return h
}

func lost(packets uint64) Fact { return number("packets lost", float64(packets), "in the last minute") }

// exampleFacts say what the kernel said of a drop, and which packet it was.
func exampleFacts(d *enrich.Drop) []Fact {
	facts := []Fact{
		text("kernel's reason", orElse(d.Reason, "not given")),
		text("kernel function", orElse(d.Function, "hidden")),
	}
	if d.DeviceName != "" {
		facts = append(facts, text("device", d.DeviceName))
	}
	if d.Source.IsValid() {
		facts = append(facts, text("example", conversation(d)))
	}
	return append(facts, text("direction", string(d.Direction)), text("scope", string(d.Scope)))
}

// conversation names the ends of a packet, as they were where it was dropped.
func conversation(d *enrich.Drop) string {
	source, destination := d.Source.String(), d.Destination.String()
	if hasPorts(d.Protocol) && !d.Fragment {
		source = netip.AddrPortFrom(d.Source, d.SourcePort).String()
		destination = netip.AddrPortFrom(d.Destination, d.DestinationPort).String()
	}
	protocol := enrich.ProtocolName(d.Protocol)
	if d.EtherType == etherARP {
		protocol = "arp"
	}
	return source + " > " + destination + " " + protocol
}

func hasPorts(protocol uint8) bool {
	return protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP || protocol == unix.IPPROTO_SCTP
}

// exampleFill has words in capitals where a drop does not tell: they are for the reader to fill in.
func exampleFill(d *enrich.Drop) map[string]string {
	fill := map[string]string{
		"device": orElse(d.DeviceName, "DEVICE"), "function": orElse(d.Function, "FUNCTION"),
		"source": "ADDRESS", "destination": "ADDRESS",
	}
	if d.Source.IsValid() {
		fill["source"] = d.Source.String()
	}
	if d.Destination.IsValid() {
		fill["destination"] = d.Destination.String()
	}
	return fill
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// list names the first few of many.
func list(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
