// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
	"github.com/bridgewatch/bridgewatch/loader"
)

// lookups wires the dns signal.
type lookups struct {
	dns      *loader.DNS // nil: it does not run
	dnsTable *enrich.DNSTable
	timeout  time.Duration // after which a lookup counts as unanswered
}

// openLookups starts the dns signal.
func (a *agent) openLookups(config *runCommand) {
	a.lookups = &lookups{dnsTable: enrich.NewDNSTable(config.DNSTable), timeout: config.DNSTimeout}
	a.metrics.SetDNSNames(config.DNSNames.DNSNames)
	var err error
	a.dns, err = loader.OpenDNS(loader.DNSConfig{Timeout: config.DNSTimeout})
	a.signal("dns", err)
}

// runLookups follows the signal until ctx ends.
func (a *agent) runLookups(ctx context.Context, group *errgroup.Group) {
	if a.dns == nil {
		return
	}
	group.Go(func() error {
		a.dns.Run(ctx)
		return nil
	})
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-a.dns.Due():
				a.settle()
			}
		}
	})
}

// countLookups takes what the signal has read all the way to the series. What was lost of late tells who uses answers that hold
// no more. collecting is held.
func (a *agent) countLookups(news loader.DNSNews, drops []enrich.Drop, now time.Time) {
	dns := a.state.AttributeDNS(news)
	dns.Stale = a.state.StaleUses(drops)
	a.metrics.AddDNS(dns)
	a.dnsTable.Add(dns)
	a.recent.AddDNS(dns, now)
}

// readResolvConfs reads whom containers ask for names, and which suffixes they put behind them.
func (a *agent) readResolvConfs(problems *unread) {
	paths := a.state.ResolvConfPaths()
	confs, err := loader.ReadResolvConfs(paths)
	a.state.SetResolvConfs(confs)
	if problem := resolvConfProblem(len(paths), len(confs), err); problem != "" {
		*problems = append(*problems, problem)
	}
}

// resolvConfProblem says what is wrong if of so many only so many could be read, the host's among them. A container that has
// just ended has taken its own along; if all have, they are somewhere else.
func resolvConfProblem(wanted, read int, err error) string {
	if err == nil || errors.Is(err, fs.ErrNotExist) && read > 1 {
		return ""
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Sprintf("name servers and search domains of %d of %d are not known: %s", wanted-read, wanted, first)
}

// answerDNS says what is known of lookups. What was read a moment ago may still wait for its owner.
func (a *agent) answerDNS(question api.DNSQuestion) api.DNS {
	a.settle()
	answer := api.DNS{Now: time.Now(), Timeout: a.timeout.Seconds()}
	for _, s := range a.signals {
		if s.Name == "dns" {
			answer.Started, answer.Off = s.Since, s.Reason
		}
	}
	if a.dns != nil {
		losses, err := a.dns.Losses()
		if err != nil {
			a.log.Warn("losses are unknown", "signal", "dns", "error", err)
		}
		for _, loss := range losses {
			answer.Lost += loss.Count
		}
	}
	question.Choose(&answer, a.dnsTable)
	return answer
}

func (l *lookups) close() error {
	if l.dns == nil {
		return nil
	}
	return l.dns.Close()
}
