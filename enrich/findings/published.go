// SPDX-License-Identifier: Apache-2.0

package findings

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// publishedRules are about ports of the host: those that lead to containers, and the engine's own.
func publishedRules() []rule {
	return []rule{
		{
			Definition: Definition{
				ID: "firewall-flush", Severity: Critical,
				Title:   "Clients of a published port are not sent on to its container: the rules that did so are gone.",
				Remedy:  "A firewall tool has removed Docker's rules. Restart Docker, which writes them anew (it stops containers unless live-restore is on), and see to it that the firewall starts before Docker and leaves table nat alone. With firewalld use Docker 28.3.3 or newer.",
				Confirm: "sh -c 'iptables-save -t nat; ip6tables-save -t nat; nft list ruleset' 2>/dev/null | grep -iw dnat | grep -c 'dport {port} '",
				Basis:   "remote clients' attempts at a published port that no rule translated and that nobody answered, or a rule for the host itself dropped, while its container ran and none fared better; a port that is closed inside the container is not meant, for attempts at it are translated",
			},
			find: flushed,
		},
		{
			Definition: Definition{
				ID: "proxy-process-storm", Severity: Info,
				Title:   "Very many docker-proxy processes run, one for each published port and address family.",
				Remedy:  "Publish fewer ports: a range is as many processes as it has ports, and they take memory and make starting slow. Use host networking or macvlan for ranges, or set \"userland-proxy\": false in daemon.json.",
				Confirm: "pgrep -cx docker-proxy",
				Basis:   "the number of processes of docker-proxy",
			},
			find: manyProxies,
		},
		{
			Definition: Definition{
				ID: "lo-publish-exposed", Severity: Warning,
				Title:   "A port published on 127.0.0.1 only is reached from outside of the host.",
				Remedy:  "Before version 28.0 Docker does not guard such ports against neighbours on the same link. Upgrade, or drop packets from outside to the container's address in table raw.",
				Confirm: "conntrack -L --reply-src {container_address}",
				Basis:   "packets from outside that arrived at the container's port, beside the address that the port is published on",
			},
			find: loopbackExposed,
		},
		{
			Definition: Definition{
				ID: "daemon-tcp-open", Severity: Critical,
				Title:   "The Docker API listens on TCP without encryption: whoever reaches it is root on this host.",
				Remedy:  "Remove the tcp:// address from dockerd's hosts and use ssh://, or demand client certificates (--tlsverify, port 2376). Until then close the port to everybody else.",
				Confirm: "curl -sim 2 --noproxy '*' http://{address}/_ping",
				Basis:   "TCP listeners of the host on port 2375 with an address beyond loopback, and whether they answer a ping over plain HTTP with the version of Docker's API",
			},
			find: daemonOpen,
		},
	}
}

// publishedHit concerns a published port: it tells findings of one container apart.
func publishedHit(c *enrich.LiveContainer, p enrich.PublishedPort, evidence ...Fact) hit {
	h := portHit(ofPort(c, p.Host.Port(), p.Protocol), p.Host.Port(), p.Protocol, evidence...)
	h.fill["container"] = c.Name
	return h
}

// inVain is how many attempts without an answer make a finding.
const inVain = 3

// flushed finds published ports that ought to be translated and are not, with nobody to take the place of the rules. While
// docker-proxy does, userland-proxy-src says so.
func flushed(v *View) []hit {
	running := v.running()
	var hits []hit
	for i := range v.Unserved {
		u := &v.Unserved[i]
		ipv6, least := client(&u.Example).Is6(), settle
		if c := running[u.ContainerID]; c != nil {
			if !v.isSentTo(c, ipv6) {
				continue
			}
		} else if least = leave; ipv6 { // the routing mesh, which speaks IPv4 only, and whose services are known late
			continue
		}
		if u.Attempts < inVain || u.Last.Sub(u.First) < least {
			continue
		}
		facts := []Fact{
			number("attempts in vain", float64(u.Attempts), "since "+clock(u.First)),
			number("for", u.Last.Sub(u.First).Seconds(), "s"), visit(&u.Example),
		}
		hits = append(hits, portHit(u.Subject, u.Port, u.Protocol, append(facts, v.rulesetFacts()...)...))
	}
	return hits
}

// rulesetFacts say when the host's rules were last changed.
func (v *View) rulesetFacts() []Fact {
	if v.RulesetChanged.IsZero() {
		return nil
	}
	when := clock(v.RulesetChanged)
	if v.RulesetChangedBy != "" {
		when += " by " + v.RulesetChangedBy
	}
	return []Fact{text("rules last changed", when)}
}

func clock(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

// isSentTo tells whether Docker is to translate what comes to a container's published ports from a family's clients.
func (v *View) isSentTo(c *enrich.LiveContainer, ipv6 bool) bool {
	return slices.ContainsFunc(c.Endpoints, func(e enrich.Endpoint) bool {
		n := v.network(e.Network)
		if n == nil || n.Driver != "bridge" || n.Internal {
			return false
		}
		mode := gatewayMode(n, ipv6)
		return mode != "routed" && mode != "isolated" &&
			slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return a.Is6() == ipv6 })
	})
}

// storm is how many proxies are worth a word. Each takes some megabytes.
const storm = 100

func manyProxies(v *View) []hit {
	if v.Proxies < storm {
		return nil
	}
	ports, most := 0, (*enrich.LiveContainer)(nil)
	for i := range v.Inventory.Containers {
		c := &v.Inventory.Containers[i]
		ports += len(c.Published)
		if most == nil || len(c.Published) > len(most.Published) {
			most = c
		}
	}
	facts := []Fact{number("docker-proxy processes", float64(v.Proxies), ""), number("published ports, by address", float64(ports), "")}
	if ports > 0 {
		facts = append(facts, text("most of them of", most.Name), number("ports of that, by address", float64(len(most.Published)), ""))
	}
	return onHost(facts, nil)
}

// established is how many packets make a connection: the handshake, and something said. Fewer may be a scan's, which a guard
// in the container's own namespace ends.
const established = 3

// loopbackExposed finds ports published for the host alone that somebody outside got through to. On networks whose
// containers may be reached directly, by anybody or by a device that is trusted, that is by design, and so it is on macvlan
// and ipvlan.
func loopbackExposed(v *View) []hit {
	var hits []hit
	for _, in := range v.Inbound {
		c, n := v.container(in.ContainerID), v.network(in.Subject.Network)
		if c == nil || n == nil || n.Driver != "bridge" || in.Packets < established || v.inDockerSubnet(in.Remote) {
			continue
		}
		if mode := gatewayMode(n, in.Remote.Is6()); mode == "routed" || mode == "nat-unprotected" || n.Trusted != "" {
			continue
		}
		p, only := onLoopbackOnly(c, in.Port, enrich.ProtocolName(in.Protocol))
		if !only {
			continue
		}
		h := publishedHit(c, p,
			text("published on", p.Host.String()), text("reached by", in.Remote.String()),
			number("packets", float64(in.Packets), "in the last minute"))
		h.subject.Network = n.Name
		h.fill["container_address"] = addressOn(c, n.ID, in.Remote.Is6())
		hits = append(hits, h)
	}
	return hits
}

// onLoopbackOnly tells whether a container's port is published, and on loopback addresses alone.
func onLoopbackOnly(c *enrich.LiveContainer, port uint16, protocol string) (found enrich.PublishedPort, only bool) {
	for _, p := range c.Published {
		if p.Container != port || p.Protocol != protocol {
			continue
		}
		if !p.Host.Addr().IsLoopback() {
			return enrich.PublishedPort{}, false
		}
		found, only = p, true
	}
	return found, only
}

// addressOn is a container's address on a network.
func addressOn(c *enrich.LiveContainer, networkID string, ipv6 bool) string {
	for _, e := range c.Endpoints {
		for _, a := range e.Addresses {
			if e.NetworkID == networkID && a.Is6() == ipv6 {
				return a.String()
			}
		}
	}
	return "ADDRESS"
}

func daemonOpen(v *View) []hit {
	var hits []hit
	for _, at := range v.ClearAPIs {
		ask := at.String()
		if at.Addr().Unmap().IsUnspecified() {
			ask = fmt.Sprintf("localhost:%d", at.Port())
		}
		hits = append(hits, hit{
			subject:  Subject{Scope: enrich.ScopeHost, Object: at.String()},
			evidence: []Fact{text("listens on", at.String()), text("answered in clear", "GET /_ping, as Docker's API does")},
			fill:     map[string]string{"address": ask},
		})
	}
	return hits
}
