// SPDX-License-Identifier: Apache-2.0

// Package findings says what is wrong on a host, whom it concerns and what to do about it. It reads what the rest of the
// agent knows (inventory, drops, state of the kernel) and neither asks nor changes anything itself.
//
// A finding is defined in one place, a rule in the file of its subject: id, severity, remedy, confirming command and the
// function that looks for it. Metrics, alerts, doctor and runbooks all come from that.
package findings

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// Severity says how much a finding matters.
type Severity string

// The severities. Users feel what is critical; a warning is a ticket; information alerts nobody.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
	Info     Severity = "info"
)

// Severities returns all, gravest first.
func Severities() []Severity { return []Severity{Critical, Warning, Info} }

// AtLeast tells whether s is as grave as other, or graver.
func (s Severity) AtLeast(other Severity) bool {
	return slices.Index(Severities(), s) <= slices.Index(Severities(), other)
}

// Definition is what there is to say about a finding before it holds anywhere.
type Definition struct {
	ID       string   // the slug, which is also its runbook's name; of a cause, if it comes from drops
	Severity Severity // the same wherever it holds
	Title    string   // what holds, in a sentence without a subject's name
	Remedy   string   // what to do, in a sentence or two
	// Confirm is one shell command, run on the host, that shows the same without Bridgewatch. {container}, {network},
	// {device} and what else a rule's hits fill in stand for the subject.
	Confirm string
	Basis   string // how it is established: what was looked at
}

// Subject is whom a finding concerns.
type Subject struct {
	enrich.Identity
	Scope  enrich.Scope `json:"scope,omitempty"`
	Object string       `json:"object,omitempty"` // what else it takes to tell it from others: a port, an address, a device
}

// Fact is a piece of evidence: a number with its unit, or a text.
type Fact struct {
	Name   string  `json:"name"`
	Number float64 `json:"number"`
	Unit   string  `json:"unit,omitempty"`
	Text   string  `json:"text,omitempty"` // set for what is no number
}

// MarshalJSON leaves the number out of what is none.
func (f Fact) MarshalJSON() ([]byte, error) {
	if f.Text != "" {
		return json.Marshal(map[string]string{"name": f.Name, "text": f.Text})
	}
	type plain Fact
	return json.Marshal(plain(f))
}

// Finding is a definition that holds for a subject.
type Finding struct {
	ID       string    `json:"id"`
	Severity Severity  `json:"severity"`
	Title    string    `json:"title"`
	Subject  Subject   `json:"subject"`
	Since    time.Time `json:"since"`
	LastSeen time.Time `json:"last_seen"` // when the evidence last held
	Evidence []Fact    `json:"evidence"`
	Remedy   string    `json:"remedy"`
	Confirm  string    `json:"confirm"`
	Basis    string    `json:"basis"`
	Runbook  string    `json:"runbook"` // address of its page
}

// Runbook returns the address of a finding's page in docs/findings.
func Runbook(id string) string {
	return "https://github.com/bridgewatch/bridgewatch/blob/main/docs/findings/" + id + ".md"
}

// hit is a place where a rule's condition holds now.
type hit struct {
	subject  Subject
	evidence []Fact
	// fill are values for what stands in braces in the definition's Confirm, beyond those of the subject or instead of them.
	fill map[string]string
	// confirm stands for the definition's Confirm where that would show nothing; "": it does show it.
	confirm string
}

// rule is a definition and what finds it.
type rule struct {
	Definition
	after  time.Duration // how long the condition must have held without a break; 0: at once
	inside bool          // Confirm, a single command, looks at the namespace where it happened, which may be a container's
	find   func(*View) []hit
}

// Times that conditions must hold before they count. What drops of the Window show needs none.
const (
	// settle lets the engine's word and the kernel's agree: they are read one after the other while things change. It is
	// two looks, so that doctor sees within its ten seconds what an agent sees.
	settle = 5 * time.Second
	// leave lets what is being made get its owner, and what is being removed go.
	leave = 30 * time.Second
)

// number is a fact that is one.
func number(name string, n float64, unit string) Fact { return Fact{Name: name, Number: n, Unit: unit} }

// text is a fact that is none.
func text(name, value string) Fact { return Fact{Name: name, Text: value} }
