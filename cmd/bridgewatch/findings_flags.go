// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

// minHold is a scrape or two: what is shorter can be missed by Prometheus.
const minHold = 15 * time.Second

// ignoreFlags say which states their operator accepts.
type ignoreFlags struct {
	Ignore []string `name:"findings.ignore" placeholder:"ID[@STACK/SERVICE]" help:"Finding to accept, everywhere or for one service. Can be repeated."`
}

func (f *ignoreFlags) parse() ([]findings.Ignore, error) {
	var ignored []findings.Ignore
	for _, text := range f.Ignore {
		ignore, err := findings.ParseIgnore(text)
		if err != nil {
			return nil, fmt.Errorf("read --findings.ignore: %w", err)
		}
		ignored = append(ignored, ignore)
	}
	return ignored, nil
}

// findingsFlags say how the agent keeps findings.
type findingsFlags struct {
	ignoreFlags
	Hold        time.Duration `name:"findings.hold" default:"2m" help:"How long a finding stays on show after its evidence has gone."`
	UnusedAfter time.Duration `name:"findings.unused-after" default:"24h" help:"How old a network without containers must be to be called unused."`
}

// config fails on what cannot be meant.
func (f *findingsFlags) config() (findings.Config, error) {
	if f.Hold < minHold {
		return findings.Config{}, fmt.Errorf("--findings.hold must be at least %s, or scrapes may miss a finding", minHold)
	}
	if f.UnusedAfter < 0 {
		return findings.Config{}, errors.New("--findings.unused-after must not be negative")
	}
	ignored, err := f.parse()
	if err != nil {
		return findings.Config{}, err
	}
	return findings.Config{Hold: f.Hold, UnusedAfter: f.UnusedAfter, Ignore: ignored}, nil
}
