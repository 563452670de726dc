// SPDX-License-Identifier: Apache-2.0

// Bridgewatch observes the networks of a Docker host: what every container sends, receives and loses.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

// Exit codes.
const (
	exitGood     = 0
	exitNegative = 1 // the command's negative answer
	exitCannot   = 2 // it could not run
)

// errNegative is the negative answer of a command that has already said why.
var errNegative = errors.New("negative")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// commands is what the command line can say. Every flag can be given in the environment too, as BRIDGEWATCH_ and its name.
type commands struct {
	Run     runCommand     `cmd:"" help:"Run the agent: watch this host and serve /metrics."`
	Status  statusCommand  `cmd:"" help:"Show what the running agent does: signals, devices, losses, own cost."`
	Doctor  doctorCommand  `cmd:"" help:"Say what is wrong with container networks here, and what to do about it."`
	NAT     natCommand     `cmd:"" name:"nat" help:"Show translated connections: who the client is, what the container sees, and by what it is lost."`
	DNS     dnsCommand     `cmd:"" name:"dns" help:"Show lookups: who asked for which name, whom, what came back and when, and what Docker's resolver asked others for it."`
	Check   checkCommand   `cmd:"" help:"Say what this kernel, host and these privileges allow, and what would change it."`
	Explain explainCommand `cmd:"" help:"Show the runbook of a finding, or list all findings."`
	Export  exportCommand  `cmd:"" help:"Write the rules, dashboards or configuration that match this version."`
	Detach  detachCommand  `cmd:"" help:"Remove whatever a killed agent left in the kernel."`
	Version versionCommand `cmd:"" help:"Show the version."`
}

// streams is where commands write to.
type streams struct{ out, err io.Writer }

// execute runs one command and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c commands
	exited, code := false, exitGood
	parser, err := kong.New(&c,
		kong.Name("bridgewatch"),
		kong.Description("What every container on this Docker host sends, receives and loses."),
		kong.DefaultEnvars("BRIDGEWATCH"),
		kong.Writers(stdout, stderr),
		kong.Exit(func(status int) { exited, code = true, status }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(streams{out: stdout, err: stderr}),
	)
	if err != nil {
		fmt.Fprintf(stderr, "bridgewatch: %v\n", err)
		return exitCannot
	}
	command, err := parser.Parse(args)
	if exited {
		return code // --help has been shown
	}
	if err != nil {
		fmt.Fprintf(stderr, "bridgewatch: %s; see bridgewatch --help\n", sentence(err))
		return exitCannot
	}
	switch err := command.Run(); {
	case err == nil:
		return exitGood
	case errors.Is(err, errNegative):
		return exitNegative
	default:
		fmt.Fprintf(stderr, "bridgewatch: %s\n", sentence(err))
		return exitCannot
	}
}

// sentence makes one line of an error, which may be several joined ones.
func sentence(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.ReplaceAll(strings.Join(lines, "; "), ":; ", ": ")
}
