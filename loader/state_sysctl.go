// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// sysctlFolder shows the settings of the calling thread's network namespace.
const sysctlFolder = "/proc/sys/net/"

// readSwitches reads the settings that decide whether the host forwards and filters for containers. Since 5.3 those of
// br_netfilter are each namespace's own.
func (s *HostState) readSwitches() error {
	var errs []error
	for _, setting := range []struct {
		name string
		to   *Switch
	}{
		{"ipv4/ip_forward", &s.Forwarding4},
		{"ipv6/conf/all/forwarding", &s.Forwarding6},
		{"bridge/bridge-nf-call-iptables", &s.BridgeNetfilter4},
		{"bridge/bridge-nf-call-ip6tables", &s.BridgeNetfilter6},
	} {
		var err error
		*setting.to, err = readSwitch(setting.name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// readSwitch reads a setting that is on or off. A kernel that does not have it is no error.
func readSwitch(name string) (Switch, error) {
	value, err := readSysctl(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Absent, nil
	case err != nil:
		return Absent, err
	case value == 0:
		return Off, nil
	}
	return On, nil
}

// readConntrack reads how many connections are tracked, which the kernel counts anyway, and how many may be. A kernel
// that tracks none has no such table.
func (s *HostState) readConntrack() error {
	entries, err := readSysctl("netfilter/nf_conntrack_count")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	limit, err := readSysctl("netfilter/nf_conntrack_max")
	if err != nil {
		return err
	}
	s.Conntrack = Table{Entries: entries, Limit: limit}
	return nil
}

// readSysctl reads a setting that is a number.
func readSysctl(name string) (int, error) {
	text, err := os.ReadFile(sysctlFolder + name)
	if err != nil {
		return 0, fmt.Errorf("read kernel setting: %w (let the agent read %s)", err, sysctlFolder)
	}
	value, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0, fmt.Errorf("read kernel setting %s: %w", name, err)
	}
	return value, nil
}
