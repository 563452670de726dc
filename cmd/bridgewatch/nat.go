// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// watchPeriod is how often --watch asks.
const watchPeriod = 2 * time.Second

// natCommand has no environment twins for the container and the port: legacy links set BRIDGEWATCH_PORT, to something else.
type natCommand struct {
	Container string  `env:"-" placeholder:"NAME" help:"Only this container or service, by its name in metrics, or a container by the first digits of its ID, 4 at least."`
	Port      *uint16 `env:"-" placeholder:"N" help:"Only connections to this published port of the host."`
	Lost      bool    `help:"Only connections to published ports, those whose container does not see the client's address."`
	Lookups   bool    `help:"Also lookups of containers at Docker's resolver."`
	Egress    bool    `help:"Which addresses the connections of containers to the outside appear under, and how many of their ports are in use."`
	Limit     *int    `placeholder:"N" help:"How many to show at most: of connections the most recent, 50 unless given; with --egress all unless given."`
	Watch     bool    `help:"Refresh every 2 s, until interrupted."`
	Output    string  `enum:"table,json" default:"table" help:"table or json."`
	APISocket string  `name:"api.socket" default:"/run/bridgewatch/bridgewatch.sock" help:"Unix socket of the agent."`
}

// Run asks the agent once, or again and again. It fails if none answers, or one that does not see translations.
func (c *natCommand) Run(ctx context.Context, to streams) error {
	question, err := c.question()
	if err != nil {
		return err
	}
	if !c.Watch {
		return c.show(ctx, to.out, question)
	}
	for {
		var screen bytes.Buffer
		err := c.show(ctx, &screen, question)
		switch {
		case ctx.Err() != nil:
			return nil // that is how watching ends
		case err != nil:
			return err
		}
		if err := redraw(to.out, screen.Bytes()); err != nil {
			return err
		}
		if !wait(ctx, watchPeriod) {
			return nil
		}
	}
}

func (c *natCommand) question() (q api.NATQuestion, err error) {
	switch {
	case c.Limit != nil && *c.Limit < 1:
		return q, errors.New("--limit must be at least 1")
	case c.Port != nil && *c.Port == 0:
		return q, errors.New("--port must be at least 1")
	case c.Egress && (c.Port != nil || c.Lost || c.Lookups):
		return q, errors.New("--egress is about what leaves the host: it goes with neither --port nor --lost nor --lookups")
	case c.Watch && c.Output == "json":
		return q, errors.New("--watch shows a table: it does not go with --output=json")
	}
	q = api.NATQuestion{
		NATFilter: enrich.NATFilter{Container: c.Container, Lost: c.Lost, Limit: c.limit()}, Lookups: c.Lookups, Egress: c.Egress,
	}
	if c.Port != nil {
		q.Port = *c.Port
	}
	return q, nil
}

// natLimit is how many connections are shown unless somebody wants another number, as the help has it.
const natLimit = 50

// limit is 0 where all are wanted. Who appears under which address is no list with an end that matters less.
func (c *natCommand) limit() int {
	switch {
	case c.Limit != nil:
		return *c.Limit
	case c.Egress:
		return 0
	}
	return natLimit
}

// show asks once and prints the answer.
func (c *natCommand) show(ctx context.Context, to io.Writer, question api.NATQuestion) error {
	answer, err := api.AskNAT(ctx, c.APISocket, question)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("no agent is running behind %s; start one with bridgewatch run", c.APISocket)
	}
	if err != nil {
		return unanswered(err, c.APISocket)
	}
	if answer.Off != "" {
		return fmt.Errorf("the agent behind %s sees no translations: signal nat is off: %s; see bridgewatch check", c.APISocket, answer.Off)
	}
	if c.Output == "json" {
		return printJSON(to, &answer)
	}
	p := natPrinter{answer: &answer, question: &question}
	if question.Egress {
		p.egress()
	} else {
		p.connections()
	}
	p.limits()
	_, err = io.WriteString(to, p.String())
	return err
}

// Of a terminal (ECMA-48): cursor to the top, and erase all that is below.
const clearScreen = "\x1b[H\x1b[J"

// redraw shows a text in place of the one before, as far as it fits on the terminal: the most recent is at its top. What is no
// terminal gets all of it.
func redraw(to io.Writer, text []byte) error {
	height, found := terminalHeight(to)
	if !found {
		_, err := to.Write(text)
		return err
	}
	shown := []byte(clearScreen)
	for line := range bytes.Lines(text) {
		if height--; height > 0 {
			shown = append(shown, line...)
		}
	}
	_, err := to.Write(shown)
	return err
}

func terminalHeight(to io.Writer) (lines int, found bool) {
	file, ok := to.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 {
		return 0, false
	}
	return int(size.Row), true
}
