// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

const (
	minObservation = time.Second
	settled        = 15 * time.Second // what an agent needs at its start: much must hold for 10 s before it counts
	startPatience  = 25 * time.Second // for an agent that has only just started
	startPoll      = 500 * time.Millisecond
	staleAfter     = 30 * time.Second // several times longer than an agent needs between two looks
)

type doctorCommand struct {
	For       time.Duration     `default:"10s" help:"How long to observe if no agent runs."`
	FailOn    findings.Severity `enum:"critical,warning,info" default:"warning" help:"The exit code is 1 if a finding as grave as this holds: critical, warning or info."`
	Output    string            `enum:"table,json" default:"table" help:"table or json."`
	Color     string            `enum:"auto,always,never" default:"auto" help:"auto (on a terminal, and without NO_COLOR), always or never."`
	APISocket string            `name:"api.socket" default:"/run/bridgewatch/bridgewatch.sock" help:"Unix socket of the agent."`
	ignoreFlags
}

// observer watches this host for a while, without an agent.
type observer func(context.Context, *slog.Logger, time.Duration) (api.Findings, error)

// Run asks the agent, or observes if there is none. The answer is negative if a finding as grave as --fail-on holds.
func (c *doctorCommand) Run(ctx context.Context, to streams) error { return c.run(ctx, to, observe) }

func (c *doctorCommand) run(ctx context.Context, to streams, observe observer) error {
	ignored, err := c.parse()
	if err != nil {
		return err
	}
	if c.For < minObservation {
		return fmt.Errorf("--for must be at least %s", minObservation)
	}
	found, err := askAgent(ctx, to.err, c.APISocket, startPatience)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		found, err = c.observe(ctx, to.err, observe)
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return errors.New("interrupted: nothing can be said yet")
	case err != nil:
		return err
	}
	d := diagnose(found, ignored, time.Now())
	if d.blind() {
		return d.blindness()
	}
	if c.Output == "json" {
		err = printJSON(to.out, &d)
	} else {
		err = printDiagnosis(to.out, &d, c.colored(to.out))
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(d.Holding, func(f findings.Finding) bool { return f.Severity.AtLeast(c.FailOn) }) {
		return errNegative
	}
	return nil
}

// askAgent waits as long as patience for an agent that has only just started.
func askAgent(ctx context.Context, to io.Writer, socket string, patience time.Duration) (api.Findings, error) {
	asked := time.Now()
	for told := false; ; told = true {
		found, err := api.AskFindings(ctx, socket)
		switch {
		case err != nil:
			return found, unanswered(err, socket)
		case found.Evaluated.Sub(found.Started) >= settled:
			return found, nil
		case found.Docker.Error != "": // without Docker it cannot look
			return found, nil
		case time.Since(asked) < patience:
		case found.Evaluated.IsZero():
			return found, fmt.Errorf("the agent behind %s has not looked for findings since its start at %s; see its log",
				socket, found.Started.Format(time.DateTime))
		default:
			return found, nil
		}
		if !told && isTerminal(to) {
			fmt.Fprintln(to, "the agent has only just started: waiting for it to look")
		}
		if !wait(ctx, startPoll) {
			return found, fmt.Errorf("wait for the agent: %w", ctx.Err())
		}
	}
}

// unanswered says what can be done about an agent that does not say what it finds. Other errors stay as they are.
func unanswered(err error, socket string) error {
	switch {
	case errors.Is(err, api.ErrUnknownQuestion):
		return fmt.Errorf("the agent behind %s is older than this command and does not know the question; restart it with version %s", socket, version)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the agent behind %s does not answer; restart it", socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the agent behind %s answers only to root and to its socket's group", socket)
	}
	return err
}

// observe is the way without an agent. Whoever waits at a terminal is told for what.
func (c *doctorCommand) observe(ctx context.Context, to io.Writer, observe observer) (api.Findings, error) {
	if isTerminal(to) {
		fmt.Fprintf(to, "no agent is running: observing for %s\n", c.For)
	}
	// What cannot be looked at is part of the answer; the log need not say it again.
	log := slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelError}))
	found, err := observe(ctx, log, c.For)
	if err != nil {
		return found, fmt.Errorf("no agent answers behind %s; observe without one: %w", c.APISocket, err)
	}
	return found, nil
}

// colored tells whether to colour. What is said on the command line goes before NO_COLOR (https://no-color.org).
func (c *doctorCommand) colored(to io.Writer) bool {
	switch c.Color {
	case "always":
		return true
	case "never":
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(to)
}

func isTerminal(to io.Writer) bool {
	file, ok := to.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// diagnosis is what doctor says, and the shape of its JSON.
type diagnosis struct {
	Healthy bool     `json:"healthy"`  // everything could be looked at, and nothing was found
	NotSeen []string `json:"not_seen"` // what could not be looked at, and why
	Ignored int      `json:"ignored"`  // findings left out because of --findings.ignore
	api.Findings

	now time.Time
}

// diagnose leaves out what is ignored, and says what could not be looked at.
func diagnose(found api.Findings, ignored []findings.Ignore, now time.Time) diagnosis {
	d := diagnosis{Findings: found, now: now}
	d.Holding = slices.DeleteFunc(append([]findings.Finding{}, found.Holding...), func(f findings.Finding) bool {
		return slices.ContainsFunc(ignored, func(i findings.Ignore) bool { return i.Matches(f.ID, f.Subject) })
	})
	d.Ignored = len(found.Holding) - len(d.Holding)
	d.NotSeen = d.unseen()
	d.Healthy = len(d.NotSeen) == 0 && len(d.Holding) == 0
	return d
}

// unseen says for everything that could not be looked at why.
func (d *diagnosis) unseen() []string {
	reasons := []string{}
	for _, s := range d.Signals {
		if s.Reason != "" {
			reasons = append(reasons, fmt.Sprintf("%s: signal %s is off: %s", signalLack(s.Name), s.Name, s.Reason))
		}
	}
	for _, problem := range d.Unread {
		reasons = append(reasons, "some state: "+problem)
	}
	rest := ""
	if len(reasons) > 0 {
		rest = "everything else: "
	}
	age := d.now.Sub(d.Evaluated)
	switch {
	case d.Evaluated.IsZero() && !d.Docker.Up:
		reasons = append(reasons, rest+"Docker is "+dockerText(d.Docker))
	case d.Evaluated.IsZero():
		reasons = append(reasons, rest+"findings have not been looked for")
	case !d.Docker.Up:
		reasons = append(reasons, "what is new: Docker is "+dockerText(d.Docker))
	case age > staleAfter:
		reasons = append(reasons, fmt.Sprintf("what is new: the agent looked %s ago for the last time; see its log", spanText(age)))
	}
	return reasons
}

// signalLack is what is not seen without a signal.
func signalLack(name string) string {
	switch name {
	case "drop":
		return "lost packets"
	case "flow":
		return "who talks with whom"
	case "exec":
		return "containers that live for a moment"
	case "egress":
		return "addresses that leave the host untranslated"
	case "nat":
		return "translations, and clients whose address is lost"
	case "dns":
		return "lookups that fail"
	case "overlay":
		return "what nodes of the Swarm send each other"
	case "ruleset":
		return "when firewall rules change"
	}
	return name
}

// blind tells whether there was nothing at all to look at.
func (d *diagnosis) blind() bool { return d.Evaluated.IsZero() }

// blindness says why, and what would help.
func (d *diagnosis) blindness() error {
	reasons := d.NotSeen
	if !d.Docker.Up {
		reasons = append(reasons[:len(reasons):len(reasons)], "start Docker or set DOCKER_HOST")
	}
	return fmt.Errorf("nothing could be looked at: %s", strings.Join(reasons, "; "))
}
