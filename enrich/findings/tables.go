// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// tableRules are about tables and queues of bounded size.
func tableRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "conntrack-full", Severity: Warning,
				Title:   "The connection tracking table is full, or nearly so.",
				Remedy:  "Raise net.netfilter.nf_conntrack_max, shorten its timeouts, and look for whoever opens so many connections.",
				Confirm: "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
				Basis:   "entries of the host's table beside its limit, and packets that the kernel dropped because an entry could not be made",
			},
			find: conntrackFull,
		},
		{
			Definition: Definition{
				ID: "neigh-overflow", Severity: Warning,
				Title:   "The neighbour (ARP) table is full, or nearly so.",
				Remedy:  "Raise net.ipv4.neigh.default.gc_thresh1, 2 and 3 (and those of ipv6). The table is one for all namespaces of the host.",
				Confirm: "ip -s ntable show name arp_cache",
				Basis:   "entries of the kernel's neighbour tables beside gc_thresh3, the rise of its own count of entries refused, and packets that the kernel dropped because an entry could not be made",
			},
			find: neighboursFull,
		},
		{
			Definition: Definition{
				ID: "cpu-backlog", Severity: Warning,
				Title:   "A processor's receive queue overflows.",
				Remedy:  "Raise net.core.netdev_max_backlog, spread the load over processors (RPS), and look for a bridge with very many ports, where every broadcast is multiplied.",
				Confirm: "cat /proc/net/softnet_stat",
				Basis:   "packets that the kernel dropped because the backlog of a processor was full",
			},
			find: hostLosing("cpu-backlog", perMinute),
		},
		{
			Definition: Definition{
				ID: "qdisc", Severity: Warning,
				Title:   "A traffic shaper or a full send queue drops a container's packets.",
				Remedy:  "Look at the queueing discipline of the device: raise its rate or its length, or send less.",
				Confirm: "tc -s qdisc show dev {device}",
				Basis:   "packets that a queueing discipline refused or dropped",
			},
			// Active queue management (fq_codel is the default of most distributions) drops a packet now and then to slow
			// senders down. That is its business; what goes beyond is a queue too short or a limit too low.
			inside: true,
			find:   losing("qdisc", 100),
		},
		{
			Definition: Definition{
				ID: "fragment-lost", Severity: Warning,
				Title:   "Fragmented packets cannot be put together again.",
				Remedy:  "Some fragments are lost on their way, at a firewall that lets no fragments pass or where the MTU is smaller. Send smaller packets, or give all of the path one MTU.",
				Confirm: "nstat -az IpReasmFails IpReasmTimeout Ip6ReasmFails",
				Basis:   "fragments that the kernel dropped because the rest did not come in time",
			},
			inside: true,
			find:   losing("fragment-lost", perMinute),
		},
		{
			Definition: Definition{
				ID: "no-memory", Severity: Warning,
				Title:   "The kernel has no memory for a container's packets.",
				Remedy:  "Give the host memory, or take load off it; vm.min_free_kbytes keeps more back for the network.",
				Confirm: "dmesg | grep -e 'page allocation failure'",
				Basis:   "packets that the kernel dropped because it could not get memory for them",
			},
			find: losing("no-memory", perMinute),
		},
		{
			Definition: Definition{
				ID: "accept-overflow", Severity: Warning,
				Title:   "A server in a container does not accept connections fast enough.",
				Remedy:  "Raise the backlog that the program passes to listen and net.core.somaxconn of the container (--sysctl), or let the program accept faster.",
				Confirm: "nsenter -t $(docker inspect -f '{{.State.Pid}}' {container}) -n nstat -az TcpExtListenOverflows TcpExtListenDrops",
				Basis:   "the rise of ListenOverflows in the container's namespace; the kernel reports no drop for these",
			},
			find: acceptOverflows,
		},
		{
			Definition: Definition{
				ID: "unknown", Severity: Info,
				Title:   "The kernel drops a container's packets for a reason that Bridgewatch cannot explain.",
				Remedy:  "The evidence names the kernel function and its reason. Please report both together with the kernel's version, so that the cause gets a name.",
				Confirm: "perf trace -a --event skb:kfree_skb sleep 10 2>&1 | grep -e {function}",
				Basis:   "dropped packets whose reason and function are in none of the known causes",
			},
			find: losing("unknown", perMinute),
		},
	}
}

// nearlyFull is the share of a table's limit in percent from which on it is time to act.
const nearlyFull = 85

// fullness is the evidence that a table is nearly full; nil: it is not, or its limit is not known.
func fullness(name string, t loader.Table) []Fact {
	if t.Limit <= 0 || t.Entries*100 < t.Limit*nearlyFull {
		return nil
	}
	return []Fact{number(name+" entries", float64(t.Entries), ""), number(name+" limit", float64(t.Limit), "")}
}

func conntrackFull(v *View) []hit {
	lost, fill := v.hostLosses("conntrack-full", perMinute)
	return onHost(append(fullness("conntrack", v.Host.Conntrack), lost...), fill)
}

func neighboursFull(v *View) []hit {
	facts := append(fullness("IPv4", v.Host.Neighbours4), fullness("IPv6", v.Host.Neighbours6)...)
	if v.NeighboursRefused >= perMinute {
		facts = append(facts, number("entries refused", float64(v.NeighboursRefused), "in the last minute"))
	}
	lost, fill := v.hostLosses("neigh-overflow", perMinute)
	return onHost(append(facts, lost...), fill)
}

// acceptOverflows finds containers that refused connections in the last minute since a server was too slow to accept them.
func acceptOverflows(v *View) []hit {
	var hits []hit
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		rise := v.Rises[c.ID]
		if rise.ListenOverflows < perMinute {
			continue
		}
		hits = append(hits, hit{
			subject: of(c, "", enrich.ScopeContainer),
			evidence: []Fact{
				number("connections refused", float64(rise.ListenOverflows), "in the last minute"),
				number("listen drops", float64(rise.ListenDrops), "in the last minute"),
			},
			fill: map[string]string{"container": c.Name},
		})
	}
	return hits
}
