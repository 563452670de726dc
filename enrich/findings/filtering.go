// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

// filteringRules are about packets that somebody's rules or programs keep back, or ought to.
func filteringRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "filtered", Severity: Warning,
				Title:   "A firewall rule drops or rejects a container's packets.",
				Remedy:  "Find the rule by its counter, and allow the traffic in chain DOCKER-USER, which is passed before Docker's own rules. Match the original port there (-m conntrack --ctorigdstport): the destination is translated already.",
				Confirm: "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -iwE 'drop|reject'",
				Basis:   "packets that netfilter dropped in the kernel, by their owner, and that no rule of Docker's explains",
			},
			find: losing("filtered", perMinute),
		},
		{
			Definition: Definition{
				ID: "docker-user", Severity: Info,
				Title:   "A firewall rule keeps clients outside away from a published port.",
				Remedy:  "If they are welcome, allow them before that rule in chain DOCKER-USER, and match the published port there (-m conntrack --ctorigdstport): the destination is translated already. If nobody outside is, publish the port on 127.0.0.1.",
				Confirm: "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -iwE 'drop|reject'",
				Basis:   "packets from outside, translated to a container by a published port, that netfilter dropped on the host",
			},
			find: losing("docker-user", perMinute),
		},
		{
			Definition: Definition{
				ID: "own-firewall", Severity: Info,
				Title:   "A firewall rule inside a container drops or rejects its packets.",
				Remedy:  "Find out who makes rules there: Docker guards a Swarm task's address on the ingress network, and VPN clients and tools such as fail2ban bring their own. Change them in the container.",
				Confirm: "sh -c 'iptables-save -c; ip6tables-save -c; nft list ruleset' 2>/dev/null | grep -iwE 'drop|reject'",
				Basis:   "packets that netfilter dropped in a container's own namespace",
			},
			inside: true,
			find:   losing("own-firewall", perMinute),
		},
		{
			Definition: Definition{
				ID: "forward-policy-drop", Severity: Info,
				Title:   "A rule or the policy of chain FORWARD drops forwarded traffic that is not Docker's.",
				Remedy:  "On a router or beside Kubernetes it may be somebody's rule, and meant. Else Docker set the chain's policy to DROP when it turned forwarding on: accept the traffic in chain DOCKER-USER, or turn forwarding on before Docker starts and set \"ip-forward-no-drop\" (28.0). If only bridged frames are hit, turn net.bridge.bridge-nf-call-iptables off where nothing needs it.",
				Confirm: "sh -c 'iptables -nvL FORWARD; ip6tables -nvL FORWARD; nft list ruleset' 2>/dev/null | grep -iE 'forward.*policy drop'",
				Basis:   "forwarded packets that netfilter dropped in the host's namespace between devices that are not Docker's",
			},
			find: hostLosing("forward-policy-drop", perMinute),
		},
		{
			Definition: Definition{
				ID: "foreign-program", Severity: Warning,
				Title:   "An XDP or tc program of somebody else drops a container's packets.",
				Remedy:  "Find out who attached the program to the device and whether it means these packets; change its rules, or detach it.",
				Confirm: "bpftool net show dev {device}",
				Basis:   "packets that the kernel dropped on the verdict of an XDP or tc program; Bridgewatch's own programs never give one",
			},
			inside: true,
			find:   losing("foreign-program", perMinute),
		},
		{
			Definition: Definition{
				ID: "rp-filter", Severity: Warning,
				Title:   "Strict reverse path filtering drops a container's packets.",
				Remedy:  "The way back to the sender leads through another device. Set net.ipv4.conf.all.rp_filter and that of the device to 2 (loose), or route replies by source; on several networks, choose the container's default gateway with gw-priority (28.0).",
				Confirm: "nstat -az TcpExtIPReversePathFilter",
				Basis:   "packets that the kernel dropped because their source is routed by another device than they came in by",
			},
			inside: true,
			find:   losing("rp-filter", perMinute),
		},
		{
			Definition: Definition{
				ID: "direct-route-drop", Severity: Info,
				Title:   "Packets sent straight to a container's address from outside its bridge are dropped.",
				Remedy:  "Docker 28 and newer guard container addresses this way; rules in DOCKER-USER come too late. Use a published port, or trust the device with the network's option com.docker.network.bridge.trusted_host_interfaces (28.2), or give the network gateway mode \"routed\".",
				Confirm: "sh -c 'iptables-save -c -t raw; ip6tables-save -c -t raw; nft list ruleset' 2>/dev/null | grep -iw drop",
				Basis:   "packets for a container's address that netfilter dropped before routing, on a device that is not the network's bridge",
			},
			find: losing("direct-route-drop", perMinute),
		},
		{
			Definition: Definition{
				ID: "unpublished-port", Severity: Info,
				Title:   "Packets for a port that a container does not publish are dropped.",
				Remedy:  "Publish the port, or attach whoever asks to the container's network.",
				Confirm: "docker port {container}",
				Basis:   "packets routed to a container from outside its network that netfilter dropped, for a port that is not published",
			},
			find: losing("unpublished-port", perMinute),
		},
		{
			Definition: Definition{
				ID: "icc-false", Severity: Info,
				Title:   "Containers of a network without inter-container communication try to talk to each other.",
				Remedy:  "This is what com.docker.network.bridge.enable_icc=false asks for. If they are meant to talk, put them on a network of their own where it is on.",
				Confirm: "docker network inspect -f '{{json .Options}}' {network}",
				Basis:   "packets between two ports of one Docker bridge that netfilter dropped, on a network with enable_icc=false",
			},
			find: losing("icc-false", perMinute),
		},
		{
			Definition: Definition{
				ID: "internal-net", Severity: Info,
				Title:   "A container on an internal network tries to reach something outside of it.",
				Remedy:  "Internal networks lead nowhere by design. If the container needs the outside, attach it to a second network.",
				Confirm: "docker network inspect -f '{{.Internal}}' {network}",
				Basis:   "packets that came from an internal network's bridge, or were sent towards it, and that netfilter dropped; and the rise of OutNoRoutes in the namespace of a container on internal networks only: IPv4 packets that its own processes could not send; and its lookups that the embedded resolver answered SERVFAIL",
			},
			find: leavingInternal,
		},
		{
			Definition: Definition{
				ID: "isolation-between-bridges", Severity: Info,
				Title:   "A container tries to reach a container on another bridge network.",
				Remedy:  "Docker keeps bridge networks apart. Attach both containers to one network, or talk through a published port.",
				Confirm: "docker inspect -f '{{json .NetworkSettings.Networks}}' {container}",
				Basis:   "packets from one Docker bridge to an address of another's that netfilter dropped",
			},
			find: losing("isolation-between-bridges", perMinute),
		},
		{
			Definition: Definition{
				ID: "icc-bypass", Severity: Warning,
				Title:   "A network forbids inter-container communication, but nothing enforces it.",
				Remedy:  "Load the module br_netfilter and set net.bridge.bridge-nf-call-iptables (for IPv6 bridge-nf-call-ip6tables) to 1, and keep it so in /etc/sysctl.d.",
				Confirm: "sysctl net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables",
				Basis:   "the network's option enable_icc, the ports on its bridge, and whether bridged frames pass the packet filter at all",
			},
			after: settle,
			find:  iccBypassed,
		},
		{
			Definition: Definition{
				ID: "iptables-false", Severity: Warning,
				Title:   "A container's private address leaves the host untranslated, so replies cannot come back.",
				Remedy:  "Docker's masquerading rule is missing: turn \"iptables\" on in daemon.json, or restart Docker if somebody flushed the rules. To do without NAT, say so with gateway mode \"routed\" and give the outside a route back.",
				Confirm: "sh -c 'iptables-save -t nat; ip6tables-save -t nat; nft list ruleset' 2>/dev/null | grep -iwE 'masquerade|snat'",
				Basis:   "packets that left by a device that is not Docker's with a source in a network that Docker is to translate; leftovers of closed connections do not count, nor destinations that answered the container",
			},
			after: settle, // who answers, by routes back, does so by then
			find:  leaking,
		},
	}
}

// iccBypassed finds networks whose containers the packet filter is to keep apart, but never gets to see: it takes
// br_netfilter for frames between two ports of one bridge.
func iccBypassed(v *View) []hit {
	var hits []hit
	ports := v.ports()
	for _, b := range v.sortedBridges() {
		neighbours := len(ports[b.link.Index])
		if b.ICC || neighbours < 2 { // one alone has nobody to talk to
			continue
		}
		var facts []Fact
		if hasFamily(b.Network, false) && v.Host.BridgeNetfilter4 != loader.On {
			facts = append(facts, text("net.bridge.bridge-nf-call-iptables", position(v.Host.BridgeNetfilter4)))
		}
		if hasFamily(b.Network, true) && v.Host.BridgeNetfilter6 != loader.On {
			facts = append(facts, text("net.bridge.bridge-nf-call-ip6tables", position(v.Host.BridgeNetfilter6)))
		}
		if len(facts) > 0 {
			facts = append(facts, number("ports on the bridge", float64(neighbours), ""))
			hits = append(hits, hit{subject: onNetwork(b.Name), evidence: facts})
		}
	}
	return hits
}

// leaking finds containers on networks that Docker is to translate whose packets left as they were. RST and FIN segments of
// connections that NAT has forgotten do so on every host, and hurt nobody.
func leaking(v *View) []hit {
	var hits []hit
	for i := range v.Leaks {
		l := &v.Leaks[i]
		if l.Packets < l.Resets+perMinute || !v.isToTranslate(l) {
			continue
		}
		facts := []Fact{number("packets untranslated", float64(l.Packets-l.Resets), "in the last minute")}
		hits = append(hits, hit{subject: l.Subject, evidence: append(facts, v.leakFacts(l)...)})
	}
	return hits
}

// leavingInternal finds containers on internal networks that lose packets, cannot send them, or ask for names that only somebody
// outside could know.
func leavingInternal(v *View) []hit {
	hits, running := unrouted("internal-net", true)(v), v.running()
	for i := range v.DNS.Legs {
		l := &v.DNS.Legs[i]
		if !v.isSealed(l, running) || !v.enough(l.ServFail, perMinute) {
			continue
		}
		h := v.dnsHit(l.Subject, l.ContainerID, l.Server, ofLookups("lookups that failed", l.ServFail, l))
		h.fill["network"] = running[l.ContainerID].Endpoints[0].Network
		hits = merge(hits, h)
	}
	return hits
}

// isToTranslate tells whether Docker is to translate what leaked.
func (v *View) isToTranslate(l *Leak) bool {
	n := v.network(l.Subject.Network)
	return n != nil && n.Driver == "bridge" && !n.Internal && n.Masquerade && gatewayMode(n, l.Example.Source.Is6()) != "routed"
}

// leakFacts say which packet it was for example.
func (v *View) leakFacts(l *Leak) []Fact {
	facts := []Fact{
		text("example", l.Example.Source.String()+" > "+l.Example.Destination.String()+" "+enrich.ProtocolName(l.Example.Protocol)),
	}
	if device := v.link(l.Example.Device); device != nil {
		facts = append(facts, text("left by", device.Name))
	}
	return facts
}

// position says a switch's in words.
func position(s loader.Switch) string { return orElse(string(s), "not there") }
