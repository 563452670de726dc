// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

const (
	width      = 80 // columns of a plain terminal
	labelWidth = 12 // columns of what stands before a finding's details
)

// style is a terminal's way to make text stand out (ECMA-48, select graphic rendition). The zero value is plain.
type style string

const (
	bold   style = "1"
	red    style = "1;31"
	yellow style = "1;33"
	cyan   style = "1;36"
	green  style = "32"
)

// diagnosisPrinter collects what doctor says.
type diagnosisPrinter struct {
	strings.Builder
	colored bool
	now     time.Time
}

// printDiagnosis writes the findings, gravest first, and what they rest on; one line if the host is healthy.
func printDiagnosis(to io.Writer, d *diagnosis, colored bool) error {
	p := &diagnosisPrinter{colored: colored, now: d.now}
	for _, severity := range findings.Severities() {
		p.group(severity, d)
	}
	p.verdict(d)
	_, err := io.WriteString(to, p.String())
	return err
}

// group writes the findings of one severity.
func (p *diagnosisPrinter) group(severity findings.Severity, d *diagnosis) {
	if d.count(severity) == 0 {
		return
	}
	p.styled(severityStyle(severity), strings.ToUpper(string(severity)))
	p.WriteString("\n\n")
	for i := range d.Holding {
		if d.Holding[i].Severity == severity {
			p.finding(&d.Holding[i])
		}
	}
}

func (d *diagnosis) count(severity findings.Severity) (n int) {
	for i := range d.Holding {
		if d.Holding[i].Severity == severity {
			n++
		}
	}
	return n
}

func severityStyle(severity findings.Severity) style {
	switch severity {
	case findings.Critical:
		return red
	case findings.Warning:
		return yellow
	}
	return cyan
}

func (p *diagnosisPrinter) finding(f *findings.Finding) {
	for _, line := range wrap(f.Title, width) {
		p.styled(bold, line)
		p.WriteByte('\n')
	}
	p.detail("concerns", subjectText(f.Subject))
	p.detail("since", fmt.Sprintf("%s, %s ago", f.Since.Format(time.DateTime+" MST"), spanText(p.now.Sub(f.Since))))
	p.detail("evidence", evidenceText(f.Evidence))
	p.detail("found by", f.Basis)
	p.detail("remedy", f.Remedy)
	p.detail("more", "bridgewatch explain "+f.ID)
	if f.Confirm != "" {
		// The command has its line for itself, however long that is, so that it can be copied.
		p.detail("confirm", "as root on this host:")
		fmt.Fprintf(p, "    %s\n", printable(f.Confirm))
	}
	p.WriteByte('\n')
}

// detail writes a label and a text, wrapped beside it.
func (p *diagnosisPrinter) detail(label, text string) {
	if text == "" {
		return
	}
	for _, line := range wrap(text, width-labelWidth) {
		fmt.Fprintf(p, "%-*s%s\n", labelWidth, "  "+label, line)
		label = ""
	}
}

// verdict writes how many findings there are, what they rest on, and what could not be looked at.
func (p *diagnosisPrinter) verdict(d *diagnosis) {
	scene := fmt.Sprintf("%s on %s", number(d.Containers, "container"), number(d.Networks, "network"))
	basis := "observed for " + spanText(d.Evaluated.Sub(d.Started))
	if d.Ignored > 0 {
		basis += fmt.Sprintf(", %d ignored", d.Ignored)
	}
	if d.Healthy {
		p.styled(green, "healthy")
		fmt.Fprintf(p, ": %s, no findings (%s)\n", scene, basis)
		return
	}
	p.paragraph(fmt.Sprintf("%s: %s, %s (%s)", d.Host, scene, d.tally(), basis), "")
	if len(d.NotSeen) == 0 {
		return
	}
	p.WriteString("\nNot everything could be looked at:\n")
	for _, reason := range d.NotSeen {
		p.paragraph("- "+reason, "  ")
	}
}

// paragraph wraps a text; lines after the first begin with indent.
func (p *diagnosisPrinter) paragraph(text, indent string) {
	for i, line := range wrap(text, width-len(indent)) {
		if i > 0 {
			p.WriteString(indent)
		}
		p.WriteString(line)
		p.WriteByte('\n')
	}
}

func (p *diagnosisPrinter) styled(s style, text string) {
	if p.colored {
		text = "\x1b[" + string(s) + "m" + text + "\x1b[0m"
	}
	p.WriteString(text)
}

// tally counts the findings by severity: "1 critical, 2 warnings".
func (d *diagnosis) tally() string {
	var parts []string
	if n := d.count(findings.Critical); n > 0 {
		parts = append(parts, fmt.Sprintf("%d critical", n))
	}
	if n := d.count(findings.Warning); n > 0 {
		parts = append(parts, number(n, "warning"))
	}
	if n := d.count(findings.Info); n > 0 {
		parts = append(parts, fmt.Sprintf("%d info", n))
	}
	if len(parts) == 0 {
		return "no findings"
	}
	return strings.Join(parts, ", ")
}

// subjectText names whom a finding concerns.
func subjectText(s findings.Subject) string {
	var parts []string
	if s.Container != "" {
		parts = append(parts, "container "+s.Container)
	}
	switch {
	case s.Service != "" && s.Stack != "":
		parts = append(parts, "service "+s.Stack+"/"+s.Service)
	case s.Service != "":
		parts = append(parts, "service "+s.Service)
	case s.Stack != "":
		parts = append(parts, "stack "+s.Stack)
	}
	if s.Network != "" {
		parts = append(parts, "network "+s.Network)
	}
	if s.Object != "" {
		parts = append(parts, s.Object)
	}
	switch {
	case len(parts) == 0:
		return "this host"
	case s.Scope == enrich.ScopeHost:
		parts = append(parts, "in the host's namespace")
	case s.Scope == enrich.ScopeContainer:
		parts = append(parts, "in the container's namespace")
	}
	return strings.Join(parts, ", ")
}

func evidenceText(facts []findings.Fact) string {
	var parts []string
	for _, f := range facts {
		value := f.Text
		if value == "" {
			value = strings.TrimSpace(numberText(f.Number) + " " + f.Unit)
		}
		parts = append(parts, f.Name+": "+value)
	}
	return strings.Join(parts, "; ")
}

// numberText writes whole numbers in full, and others with two digits after the point.
func numberText(n float64) string {
	if n == math.Trunc(n) {
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	return strconv.FormatFloat(n, 'f', 2, 64)
}

// spanText writes a span of time with its two largest units: 42s, 3m10s, 5h20m, 3d4h.
func spanText(span time.Duration) string {
	span = max(0, span.Round(time.Second))
	day := 24 * time.Hour
	switch {
	case span < time.Hour:
		return span.String()
	case span < day:
		return fmt.Sprintf("%dh%dm", span/time.Hour, span%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", span/day, span%day/time.Hour)
}

func number(n int, what string) string { return fmt.Sprintf("%d %s", n, plural(n, what)) }

func plural(n int, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}

// wrap breaks a text into lines of at most limit columns, between words where it can.
func wrap(text string, limit int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(printable(text)) {
		if line != "" && columns(line)+1+columns(word) <= limit {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		runes := []rune(word)
		for ; len(runes) > limit; runes = runes[limit:] {
			lines = append(lines, string(runes[:limit]))
		}
		line = string(runes)
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

func columns(text string) int { return utf8.RuneCountInString(text) }

// printable makes one line of a text, and replaces what could move a terminal's cursor or change its state: names come
// from whoever runs containers.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
