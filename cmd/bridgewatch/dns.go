// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

type dnsCommand struct {
	Container  string         `env:"-" placeholder:"NAME" help:"Only this container or service, by its name in metrics, or a container by the first digits of its ID, 4 at least; ~host for the host itself."`
	Failed     bool           `help:"Only lookups that gave their client no answer: nothing came, or SERVFAIL, REFUSED or another code that says so, or NXDOMAIN, unless the client then found the name with another search suffix or without one."`
	SlowerThan *time.Duration `placeholder:"TIME" help:"Only lookups that took longer than this, such as 100ms, or had no answer."`
	Unknown    bool           `help:"Also lookups of network namespaces that are no container's of Docker's, such as another engine's."`
	Limit      int            `default:"50" help:"How many lookups to show at most, the most recent."`
	Watch      bool           `help:"Refresh every 2 s, until interrupted."`
	Output     string         `enum:"table,json" default:"table" help:"table or json."`
	APISocket  string         `name:"api.socket" default:"/run/bridgewatch/bridgewatch.sock" help:"Unix socket of the agent."`
}

// Run asks the agent once, or again and again. It fails if none answers, or one that does not see lookups.
func (c *dnsCommand) Run(ctx context.Context, to streams) error {
	question, err := c.question()
	if err != nil {
		return err
	}
	return live(ctx, to.out, c.Watch, func(ctx context.Context, screen io.Writer) error {
		return c.show(ctx, screen, question, dnsWidth(to.out))
	})
}

func (c *dnsCommand) question() (q api.DNSQuestion, err error) {
	switch {
	case c.Limit < 1:
		return q, errors.New("--limit must be at least 1")
	case c.SlowerThan != nil && *c.SlowerThan <= 0:
		return q, errors.New("--slower-than must be a time, such as 100ms")
	case c.Watch && c.Output == "json":
		return q, errWatchJSON
	}
	q = api.DNSQuestion{DNSFilter: enrich.DNSFilter{Container: c.Container, Failed: c.Failed, Limit: c.Limit, Unknown: c.Unknown}}
	if c.SlowerThan != nil {
		q.SlowerThan = *c.SlowerThan
	}
	return q, nil
}

// show asks once and prints the answer, in lines of so many columns at most where it can.
func (c *dnsCommand) show(ctx context.Context, to io.Writer, question api.DNSQuestion, width int) error {
	answer, err := api.AskDNS(ctx, c.APISocket, question)
	if err != nil {
		return unasked(err, c.APISocket)
	}
	if answer.Off != "" {
		return fmt.Errorf("the agent behind %s sees no lookups: signal dns is off: %s; see bridgewatch check", c.APISocket, answer.Off)
	}
	if c.Output == "json" {
		return printJSON(to, &answer)
	}
	p := dnsPrinter{answer: &answer, question: &question, width: width}
	p.lookups()
	_, err = io.WriteString(to, p.String())
	return err
}

// Columns of a line, where nobody knows better, and where somebody does.
const (
	plainDNSWidth = 120
	minDNSWidth   = width
	maxDNSWidth   = 160
)

func dnsWidth(to io.Writer) int {
	_, columns, found := terminalSize(to)
	if !found {
		return plainDNSWidth
	}
	return min(max(columns, minDNSWidth), maxDNSWidth)
}
