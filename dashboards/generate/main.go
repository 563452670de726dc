// SPDX-License-Identifier: Apache-2.0

// Command generate writes the Grafana dashboards and the rules about findings into the folder that it is started in, which is
// dashboards/. A dashboard is one file here, with a line or two for each panel; an alert about a finding is what enrich/findings
// says of it. Change those, and run
//
//	go generate ./dashboards
package main

import (
	"fmt"
	"os"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run() error {
	all, err := files()
	if err != nil {
		return err
	}
	for name, text := range all {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// files returns all that is generated, by name.
func files() (map[string][]byte, error) {
	all := map[string][]byte{"findings.rules.yml": findingRules(findings.Catalogue())}
	for name, p := range map[string]page{
		"overview.json": overview(), "drops.json": drops(), "flow.json": flow(), "nat.json": nat(), "dns.json": dns(),
		"overlay.json": overlay(), "swarm.json": swarm(), "agent.json": agent(),
	} {
		text, err := p.grafana()
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		all[name] = text
	}
	return all, nil
}
