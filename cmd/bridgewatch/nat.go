// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

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
	return live(ctx, to.out, c.Watch, func(ctx context.Context, to io.Writer) error { return c.show(ctx, to, question) })
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
		return q, errWatchJSON
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
	if err != nil {
		return unasked(err, c.APISocket)
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
