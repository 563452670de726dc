// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"maps"
	"sync"
	"testing"
	"time"
)

// Finding is a finding as the agent's metrics name it.
type Finding struct{ ID, Severity, Stack, Service, Container, Network, Scope string }

// Span is when something was seen.
type Span struct{ First, Last time.Time }

// Findings is what an agent has found since it is watched.
type Findings struct {
	mu   sync.Mutex
	seen map[Finding]Span
	last time.Time // when it was last asked
}

// WatchFindings asks an agent every second what it finds of its lab, until the test ends.
func WatchFindings(tb testing.TB, agent *Agent) *Findings {
	f := &Findings{seen: map[Finding]Span{}}
	stop, stopped := make(chan struct{}), make(chan struct{})
	tb.Cleanup(func() {
		close(stop)
		<-stopped
	})
	go func() {
		defer close(stopped)
		for {
			text, err := agent.text()
			if err == nil {
				err = f.note(text, time.Now())
			}
			if err != nil {
				tb.Errorf("watch findings: %v", err)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return f
}

func (f *Findings) note(text string, now time.Time) error {
	metrics, err := parseMetrics(text)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = now
	for _, s := range metrics.Select("bridgewatch_finding", nil) {
		found := Finding{
			s.Labels["id"], s.Labels["severity"],
			s.Labels["stack"], s.Labels["service"], s.Labels["container"], s.Labels["network"], s.Labels["scope"],
		}
		span, known := f.seen[found]
		if !known {
			span.First = now
		}
		span.Last = now
		f.seen[found] = span
	}
	return nil
}

// Seen returns all that were ever seen.
func (f *Findings) Seen() map[Finding]Span {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.seen)
}

// Standing returns those that were there when the agent was last asked.
func (f *Findings) Standing() []Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	var standing []Finding
	for found, span := range f.seen {
		if span.Last.Equal(f.last) {
			standing = append(standing, found)
		}
	}
	return standing
}
