// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Ability is whether one thing works on this host with these privileges, found out by trying it.
type Ability struct {
	Signal string `json:"signal"` // that needs it
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`           // the signal cannot run without it
	Detail string `json:"detail,omitempty"` // what was found
	Remedy string `json:"remedy,omitempty"` // what would change it
}

// Check tries everything that the signals need. It loads and attaches programs for a moment, and leaves nothing behind.
func Check() []Ability {
	return []Ability{
		checkBTF(), checkDrops(), checkReasons(), checkFunctions(), checkFlows(), checkTCX(), checkEgress(),
		checkOverlay(), checkMisses(), checkNAT(), checkNATSources(), checkDNS(), checkRulesets(), checkExecs(), checkLinks(),
	}
}

// KernelRelease returns what uname says.
func KernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

func ability(signal, name string, err error, remedy string) Ability {
	a := Ability{Signal: signal, Name: name, OK: err == nil, Needed: true}
	if err != nil {
		a.Detail, a.Remedy = err.Error(), remedy
	}
	return a
}

func checkBTF() Ability {
	_, err := btf.LoadKernelSpec()
	return ability("all", "kernel type information (BTF)", err, "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions do since 5.10")
}

func checkDrops() Ability {
	drops, err := OpenDrops(DropsConfig{Kallsyms: "/proc/kallsyms"})
	if err == nil {
		err = drops.Close()
	}
	return ability("drop", "tracepoint kfree_skb", err, "run as root, or with CAP_BPF and CAP_PERFMON; use kernel 5.10 or newer")
}

func checkReasons() Ability {
	a := Ability{Signal: "drop", Name: "drop reasons"}
	spec, err := btf.LoadKernelSpec()
	if err == nil {
		var r *reasons
		if r, err = readReasons(spec); err == nil && len(r.names) == 0 {
			err = errors.New("this kernel gives none")
		}
	}
	if err != nil {
		a.Detail, a.Remedy = err.Error(), "causes are found by kernel function alone; kernel 5.17 or newer has reasons"
		return a
	}
	a.OK = true
	return a
}

func checkFunctions() Ability {
	a := Ability{Signal: "drop", Name: "kernel function names", OK: true}
	s, err := openSymbols("/proc/kallsyms")
	if err == nil {
		err = s.close()
	}
	if err != nil {
		a.OK, a.Detail = false, err.Error()
		a.Remedy = "grant CAP_SYSLOG and set kernel.kptr_restrict to 0 or 1; without them drops have no function and few causes"
	}
	return a
}

func checkFlows() Ability {
	flows, err := OpenFlows(0)
	if err == nil {
		err = flows.Close()
	}
	return ability("flow", "traffic programs", err, "run as root, or with CAP_BPF and CAP_NET_ADMIN; use kernel 5.10 or newer")
}

// checkTCX tries to attach to a device that cannot exist: a kernel that has tcx says that it does not.
func checkTCX() Ability {
	a := Ability{Signal: "flow", Name: "tcx", OK: true}
	flows, err := OpenFlows(1)
	if err != nil {
		a.OK, a.Detail, a.Remedy = false, err.Error(), "see traffic programs"
		return a
	}
	defer flows.Close()
	_, err = link.AttachTCX(link.TCXOptions{
		Interface: math.MaxInt32, Program: flows.objects.Ingress, Attach: ebpf.AttachTCXIngress,
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		a.OK = false
		a.Detail = "clsact filters are used instead; a killed agent leaves them until its next start or bridgewatch detach"
		a.Remedy = "kernel 6.6 or newer has tcx"
	}
	return a
}

func checkEgress() Ability {
	egress, err := OpenEgress(EgressConfig{})
	if err == nil {
		err = egress.Close()
	}
	return ability("egress", "program at uplinks", err, "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; use kernel 5.10 or newer")
}

func checkOverlay() Ability {
	overlays, err := OpenOverlay(OverlayConfig{})
	if err == nil {
		err = overlays.Close()
	}
	return ability("overlay", "programs at uplinks", err, "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; use kernel 5.10 or newer")
}

func checkMisses() Ability {
	misses, err := OpenMisses()
	if err == nil {
		err = misses.Close()
	}
	a := ability("overlay", "misses of VXLAN devices", err, "run as root, or with CAP_NET_ADMIN and CAP_NET_BROADCAST")
	a.Needed = false
	return a
}

func checkNAT() Ability {
	nat, err := OpenNAT(NATConfig{})
	if err == nil {
		err = nat.Close()
	}
	return ability("nat", "translations", err, needsForNAT)
}

const needsForNAT = "run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_BROADCAST; use kernel 5.10 or newer"

// checkNATSources tells whether both of the signal's sources are there: with one alone some connections are not told.
func checkNATSources() Ability {
	a := Ability{Signal: "nat", Name: "program and conntrack events", OK: true}
	nat, err := OpenNAT(NATConfig{})
	if err == nil {
		err = errors.Join(nat.Incomplete(), nat.Close())
	}
	if err != nil {
		a.OK, a.Detail, a.Remedy = false, err.Error(), needsForNAT
	}
	return a
}

func checkDNS() Ability {
	dns, err := OpenDNS(DNSConfig{})
	if err == nil {
		err = dns.Close()
	}
	return ability("dns", "lookups", err, "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; use kernel 5.10 or newer")
}

func checkRulesets() Ability {
	rulesets, err := OpenRulesets("")
	if err == nil {
		err = rulesets.Close()
	}
	return ability("ruleset", "changes of firewall rules", err, "run as root, or with CAP_NET_ADMIN and CAP_NET_BROADCAST; use a kernel with nftables")
}

func checkExecs() Ability {
	execs, err := OpenExecs()
	if err == nil {
		_, err = execs.Running()
		err = errors.Join(err, execs.Close())
	}
	return ability("exec", "processes of containers", err, "run as root, or with CAP_BPF and CAP_PERFMON; use kernel 5.10 or newer")
}

func checkLinks() Ability {
	links, err := OpenLinks()
	if err == nil {
		err = links.Close()
	}
	return ability("all", "link events", err, "allow netlink sockets (AF_NETLINK) in the agent's sandbox")
}

// HostAddresses lists the addresses of the calling thread's namespace.
func HostAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	addresses := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		text, _, _ := strings.Cut(a.String(), "/")
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address.Unmap())
		}
	}
	return addresses, nil
}
