// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// privilege is a capability that the agent uses, and what for.
type privilege struct {
	value   cap.Value
	reason  string
	forLife bool // not only at the start
}

// privileges are all that the agent uses.
func privileges() []privilege {
	all := []privilege{
		{cap.BPF, "load programs and read their tables", true},
		{cap.PERFMON, "let programs read kernel memory: drops, processes, routes, lookups", true},
		{cap.NET_ADMIN, "attach to the devices of containers, to uplinks and to the root of cgroup v2", true},
		{cap.SYS_ADMIN, "enter the namespaces of containers and of overlay networks, measure own cost", true},
		{cap.NET_BROADCAST, "hear of translations and changed rules inside of containers, and of what overlay networks miss", true},
		{cap.SYS_PTRACE, "say which process has a published port", true},
		{cap.SYSLOG, "name the kernel functions that drop packets", false},
	}
	if os.Geteuid() != 0 { // the engine's folder is root's
		all = append(all, privilege{cap.DAC_READ_SEARCH, "reach the engine's folder of namespaces", true})
	}
	return all
}

// missingPrivileges lists those that the process does not have. CAP_SYS_ADMIN stands for those that were once part of it
// (kernel/bpf/token.c, bpf_capable; include/linux/capability.h, perfmon_capable): engines up to 20.10 cannot grant these.
func missingPrivileges() ([]privilege, error) {
	have := cap.GetProc()
	admin, err := have.GetFlag(cap.Effective, cap.SYS_ADMIN)
	if err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	var missing []privilege
	for _, p := range privileges() {
		has, err := have.GetFlag(cap.Effective, p.value)
		if err != nil {
			return nil, fmt.Errorf("read own capabilities: %w", err)
		}
		has = has || admin && (p.value == cap.BPF || p.value == cap.PERFMON)
		if !has {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// requirePrivileges fails if no signal can run for want of privileges.
func requirePrivileges() error {
	missing, err := missingPrivileges()
	if err != nil {
		return err
	}
	lacks := make(map[cap.Value]bool)
	for _, p := range missing {
		lacks[p.value] = true
	}
	if lacks[cap.BPF] || lacks[cap.NET_ADMIN] && lacks[cap.PERFMON] {
		return errors.New("needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN: run it as root, or grant them; see bridgewatch check")
	}
	return nil
}

// giveUpPrivileges keeps only the capabilities needed for life, in all threads.
func giveUpPrivileges() error {
	have, keep := cap.GetProc(), cap.NewSet()
	for _, p := range privileges() {
		if !p.forLife {
			continue
		}
		has, err := have.GetFlag(cap.Permitted, p.value)
		if err != nil {
			return fmt.Errorf("read own capabilities: %w", err)
		}
		if !has {
			continue
		}
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := keep.SetFlag(flag, true, p.value); err != nil {
				return fmt.Errorf("choose capabilities: %w", err)
			}
		}
	}
	if err := keep.SetProc(); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}
