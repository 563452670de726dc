// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/loader"
)

type checkCommand struct {
	Output string `enum:"table,json" default:"table" help:"table or json."`
}

// Run prints what works. Its answer is negative if a signal cannot run.
func (c *checkCommand) Run(ctx context.Context, to streams) error {
	abilities := loader.Check()
	abilities = append(abilities, checkPrivileges()...)
	abilities = append(abilities, checkDocker(ctx))
	var err error
	if c.Output == "json" {
		err = printJSON(to.out, abilities)
	} else {
		err = printAbilities(to.out, abilities)
	}
	if err != nil {
		return err
	}
	for _, a := range abilities {
		if a.Needed && !a.OK {
			return errNegative
		}
	}
	return nil
}

func checkPrivileges() []loader.Ability {
	missing, err := missingPrivileges()
	if err != nil {
		return []loader.Ability{{Signal: "all", Name: "capabilities", Detail: err.Error()}}
	}
	lacks := make(map[string]bool)
	for _, p := range missing {
		lacks[p.value.String()] = true
	}
	abilities := make([]loader.Ability, 0, len(privileges()))
	for _, p := range privileges() {
		a := loader.Ability{Signal: "all", Name: p.value.String(), OK: !lacks[p.value.String()], Detail: "to " + p.reason}
		if !a.OK {
			a.Remedy = "run as root, or grant it"
		}
		abilities = append(abilities, a)
	}
	return abilities
}

func checkDocker(ctx context.Context) loader.Ability {
	a := loader.Ability{Signal: "all", Name: "Docker engine"}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	version, err := enrich.CheckDocker(ctx)
	if err != nil {
		a.Detail = err.Error()
		if errors.Is(err, enrich.ErrUnsupportedEngine) {
			a.Needed = true
			return a
		}
		a.Remedy = "start Docker or set DOCKER_HOST; without it devices and drops are counted without names"
		return a
	}
	a.OK, a.Detail = true, "version "+version
	return a
}

func printAbilities(to io.Writer, abilities []loader.Ability) error {
	fmt.Fprintf(to, "kernel %s\n", loader.KernelRelease())
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, a := range abilities {
		state := "ok"
		switch {
		case !a.OK && a.Needed:
			state = "FAILS"
		case !a.OK:
			state = "missing"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", state, a.Signal, a.Name, a.Detail)
		if a.Remedy != "" {
			fmt.Fprintf(table, "\t\t\t→ %s\n", a.Remedy)
		}
	}
	return table.Flush()
}
