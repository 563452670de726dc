// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// natWidth is how many columns a line of the table has at most, where no two addresses are longer.
const natWidth = 100

const noAnswer = "no answer"

// natPrinter collects what the command nat says.
type natPrinter struct {
	strings.Builder
	answer   *api.NAT
	question *api.NATQuestion
}

// natCells are a row of the table: when, whose, client, where to, what is seen of the client, and what takes it away.
type natCells [6]string

// connections writes the table of them. A row that does not fit into its columns, or is too long, is broken between addresses.
func (p *natPrinter) connections() {
	rows := p.answer.Rows
	if len(rows) == 0 {
		p.none()
		return
	}
	table := []natCells{{"TIME", "CONTAINER", "CLIENT", "CONNECTS TO", "SEEN AS", "LOST BY"}}
	inferred := false
	for i := range rows {
		table = append(table, p.cells(&rows[i]))
		inferred = inferred || rows[i].Inferred
	}
	widths := make(columnWidths, len(natCells{}))
	fits := make([]bool, len(table))
	for i := range table {
		fits[i] = widths.admit(table[i][:], natWidth)
	}
	for i := range table {
		if fits[i] {
			p.WriteString(widths.line(table[i][:]))
		} else {
			p.broken(&table[i], widths)
		}
	}
	if inferred {
		p.WriteString("~ is a port that is not known: nothing in docker-proxy's packets tells for whom\nthey are.\n")
	}
	if len(rows) == p.question.Limit {
		fmt.Fprintf(p, "These are the latest %d; --limit shows more, if there are any.\n", len(rows))
	}
	if len(rows) != p.question.Limit || rows[len(rows)-1].Time.Before(p.answer.Oldest) {
		p.WriteString(forgottenText(&p.answer.Gaps))
	}
}

// none says why there is nothing to show.
func (p *natPrinter) none() {
	what := "translated connections"
	if p.question.Lost || p.question.Port != 0 {
		what = "connections"
	}
	var which []string
	if p.question.Container != "" {
		which = append(which, "of "+printable(p.question.Container))
	}
	if p.question.Port != 0 {
		which = append(which, fmt.Sprintf("to published port %d", p.question.Port))
	}
	if p.question.Lost {
		which = append(which, "that lose their client's address")
	}
	text := "no " + strings.Join(append([]string{what}, which...), " ")
	fmt.Fprintf(p, "%s\n%s", text, sinceText(&p.answer.Gaps, p.answer.Started, p.answer.Now))
	p.unknown()
}

// unknown says that nothing the agent knows of is of the container that was asked for.
func (p *natPrinter) unknown() {
	if p.answer.Unknown {
		p.WriteString(strangerText("connection", p.question.Container, "nat"))
	}
}

// limits says what the agent cannot tell.
func (p *natPrinter) limits() {
	if p.answer.Incomplete != "" {
		fmt.Fprintf(p, "Not all can be seen: %s.\n", printable(p.answer.Incomplete))
	}
}

func (p *natPrinter) cells(r *enrich.NATRow) natCells {
	return natCells{
		clockText(p.answer.Now, r.Time), ownerText(r.Owner()), addressText(r.Client), addressText(r.Destination) + protocolText(r.Protocol), seenText(r), lostBy(r),
	}
}

// protocolText is what follows a port that is not TCP's.
func protocolText(protocol string) string {
	if protocol == "tcp" {
		return ""
	}
	return "/" + protocol
}

func addressText(a netip.AddrPort) string {
	switch {
	case !a.IsValid():
		return "-"
	case a.Port() == 0: // a protocol without ports
		return a.Addr().String()
	}
	return a.String()
}

func seenText(r *enrich.NATRow) string {
	switch {
	case !r.Seen.IsValid() && !r.Answered:
		return noAnswer
	case !r.Seen.IsValid():
		return "-"
	case r.Inferred:
		return withoutPort(r.Seen.Addr())
	case r.Seen == r.Client:
		return "the same"
	}
	return addressText(r.Seen)
}

// withoutPort writes an address of which the port is not known.
func withoutPort(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]:~"
	}
	return a.String() + ":~"
}

// lostBy says what takes the client's address away, "-" if nothing does.
func lostBy(r *enrich.NATRow) string {
	unanswered := !r.Answered && r.Seen.IsValid() // else it is said there
	by := ""
	switch {
	case r.Lost:
		by = string(r.Mechanism)
	case r.Seen.IsValid() && r.Seen.Addr() != r.Client.Addr():
		by = string(r.Kind)
	}
	switch {
	case by == "" && unanswered:
		return noAnswer
	case by == "":
		return "-"
	case unanswered:
		return by + ", " + noAnswer
	}
	return by
}

// broken writes the way of a connection below the container's name, as many steps to a line as have room.
func (p *natPrinter) broken(row *natCells, widths columnWidths) {
	indent := strings.Repeat(" ", widths[0]+2)
	fmt.Fprintf(p, "%-*s  %s\n", widths[0], row[0], row[1])
	line := indent + row[2]
	for _, step := range []string{" -> " + row[3], " -> " + row[4], "  " + row[5]} {
		if columns(line+step) > natWidth {
			p.WriteString(line + "\n")
			line = indent + " "
		}
		line += step
	}
	p.WriteString(line + "\n")
}

// egress writes where the connections of containers appear to come from, and which addresses have few ports left.
func (p *natPrinter) egress() {
	e := p.answer.Egress
	switch {
	case e == nil:
		p.WriteString("the agent has not looked at the tracked connections yet\n")
		return
	case len(e.Identities) == 0 && e.Incomplete != "": // then there may be some
	case len(e.Identities) == 0 && p.question.Container != "":
		fmt.Fprintf(p, "no connection of %s to the outside was tracked\nat the last look, %s\n", printable(p.question.Container), p.look())
		p.unknown()
	case len(e.Identities) == 0:
		fmt.Fprintf(p, "no connection of a container to the outside was tracked\nat the last look, %s\n", p.look())
	default:
		p.identities(e.Identities)
		fmt.Fprintf(p, "This is as of the last look, %s.\n", p.look())
	}
	if len(e.Pressure) > 0 {
		p.WriteString("\nPorts in use, where most are:\n")
		p.pressure(e.Pressure)
	}
	if e.Incomplete != "" {
		fmt.Fprintf(p, "Not all is known: %s.\n", printable(e.Incomplete))
	}
}

// look is when the tracked connections were looked at.
func (p *natPrinter) look() string { return spanText(p.answer.Now.Sub(p.answer.Egress.Time)) + " ago" }

func (p *natPrinter) identities(all []api.EgressIdentity) {
	table := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CONTAINER\tAPPEARS AS\tSHARED WITH\tCONNECTIONS")
	for i := range all {
		e := &all[i]
		name := ownerText(enrich.Owner{Service: e.Service, Container: e.Container, ContainerID: e.ContainerID})
		shared := "nobody"
		if others := e.Sharing - 1; others > 0 {
			shared = number(others, "other")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", name, e.Address, shared, e.Connections)
	}
	table.Flush()
}

func (p *natPrinter) pressure(all []api.PortPressure) {
	table := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "USED\tOF\t\tADDRESS\tDESTINATION\tFOR ONE")
	for i := range all {
		u := &all[i]
		name := ownerText(enrich.Owner{Service: u.Example.Service, Container: u.Example.Container})
		fmt.Fprintf(table, "%d\t%d\t%d %%\t%s\t%s%s\t%s\n", u.Used, u.Limit, percent(u.Used, u.Limit), u.Address,
			addressText(u.Destination), protocolText(u.Protocol), name)
	}
	table.Flush()
}

func percent(part, whole int) int {
	if whole == 0 {
		return 0
	}
	return 100 * part / whole
}
