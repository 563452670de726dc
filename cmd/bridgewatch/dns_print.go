// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/exporters/api"
)

// dnsPrinter collects what the command dns says.
type dnsPrinter struct {
	strings.Builder
	answer   *api.DNS
	question *api.DNSQuestion
	width    int // columns

	excused, inferred bool // rows with these marks were written
}

// Columns of the table. Those from the resolver on are filled for each leg.
const (
	columnTime = iota
	columnContainer
	columnNetwork
	columnName
	columnType
	columnResolver
	columnAnswer
	columnTook
	columnTries
	dnsColumns
)

// dnsCells are a line of the table.
type dnsCells [dnsColumns]string

// dnsRecord is what the table says of a lookup: its line, those of legs and servers below it, and sentences about it.
type dnsRecord struct {
	first dnsCells
	below []dnsCells
	notes []string
}

// lookups writes the table of them. A line that does not fit into its columns is broken behind the name.
func (p *dnsPrinter) lookups() {
	rows := p.answer.Rows
	if len(rows) == 0 {
		p.none()
		return
	}
	records := make([]dnsRecord, 0, len(rows))
	for i := range rows {
		records = append(records, p.record(&rows[i]))
	}
	p.table(records)
	p.legend()
	if len(rows) == p.question.Limit {
		fmt.Fprintf(p, "These are the latest %d; --limit shows more, if there are any.\n", len(rows))
	}
	if len(rows) != p.question.Limit || rows[len(rows)-1].Time.Before(p.answer.Oldest) {
		p.WriteString(forgottenText(&p.answer.Gaps))
	}
	p.unowned()
	p.lost()
}

// unowned says how many lookups are not shown since they are nobody's.
func (p *dnsPrinter) unowned() {
	if n := p.answer.Unowned; n > 0 {
		p.paragraph(fmt.Sprintf("%d %s of network namespaces that are no container's of Docker's: see --unknown.", n, plural(n, "lookup")))
	}
}

func (p *dnsPrinter) table(records []dnsRecord) {
	head := dnsCells{"TIME", "CONTAINER", "NETWORK", "NAME", "TYPE", "RESOLVER", "ANSWER", "TOOK", "TRIES"}
	shown := p.shownColumns(&head, records)
	widths := make(columnWidths, len(shown))
	widths.admit(shown.of(&head), p.width)
	fits := make([]bool, len(records))
	for i := range records {
		fits[i] = p.admit(widths, shown, &records[i])
	}
	p.WriteString(widths.line(shown.of(&head)))
	for i := range records {
		if fits[i] {
			p.whole(widths, shown, &records[i])
		} else {
			p.broken(widths, &records[i])
		}
	}
}

// dnsShown are the columns that the table has, in order.
type dnsShown []int

func (s dnsShown) of(cells *dnsCells) (row []string) {
	for _, column := range s {
		row = append(row, cells[column])
	}
	return row
}

// shownColumns leaves out those that say nothing, and the network where there is no room for it.
func (p *dnsPrinter) shownColumns(head *dnsCells, records []dnsRecord) (shown dnsShown) {
	networks, retries := false, false
	for i := range records {
		networks = networks || records[i].first[columnNetwork] != "-"
		retries = retries || records[i].first[columnTries] != "1" ||
			slices.ContainsFunc(records[i].below, func(c dnsCells) bool { return c[columnTries] != "1" })
	}
	var without dnsShown
	for column := range dnsColumns {
		if column == columnTries && !retries {
			continue
		}
		shown = append(shown, column)
		if column != columnNetwork {
			without = append(without, column)
		}
	}
	if !networks || p.fitting(head, records, without) > p.fitting(head, records, shown) {
		return without
	}
	return shown
}

// fitting is how many records fit into the columns of a table.
func (p *dnsPrinter) fitting(head *dnsCells, records []dnsRecord, shown dnsShown) (n int) {
	widths := make(columnWidths, len(shown))
	widths.admit(shown.of(head), p.width)
	for i := range records {
		if p.admit(widths, shown, &records[i]) {
			n++
		}
	}
	return n
}

// admit widens the columns for a record, unless the table gets too wide.
func (p *dnsPrinter) admit(widths columnWidths, shown dnsShown, r *dnsRecord) bool {
	widened := slices.Clone(widths)
	for _, cells := range append([]dnsCells{r.first}, r.below...) {
		if !widened.admit(shown.of(&cells), p.width) {
			return false
		}
	}
	copy(widths, widened)
	return true
}

func (p *dnsPrinter) whole(widths columnWidths, shown dnsShown, r *dnsRecord) {
	p.WriteString(widths.line(shown.of(&r.first)))
	for i := range r.below {
		p.WriteString(widths.line(shown.of(&r.below[i])))
	}
	p.notes(widths, r)
}

// broken writes who asks for what, and below it each leg.
func (p *dnsPrinter) broken(widths columnWidths, r *dnsRecord) {
	indent := strings.Repeat(" ", widths[0]+2)
	c := &r.first
	p.WriteString(columnWidths{widths[0], widths[1], 0, 0}.line([]string{c[columnTime], c[columnContainer], c[columnName], c[columnType]}))
	for _, leg := range append([]dnsCells{r.first}, r.below...) {
		text := indent + leg[columnResolver] + "  " + leg[columnAnswer]
		if took := leg[columnTook]; took != "-" {
			text += "  " + took
		}
		if tries := leg[columnTries]; tries != "1" {
			text += "  " + tries + " tries"
		}
		p.WriteString(text + "\n")
	}
	p.notes(widths, r)
}

func (p *dnsPrinter) notes(widths columnWidths, r *dnsRecord) {
	indent := strings.Repeat(" ", widths[0]+2)
	for _, note := range r.notes {
		for _, line := range wrap(note, p.width-len(indent)) {
			p.WriteString(indent + line + "\n")
		}
	}
}

// record says all that the table has about a lookup.
func (p *dnsPrinter) record(r *enrich.DNSRow) (record dnsRecord) {
	record.first = p.leg(&r.DNSLeg, resolverText(&r.DNSLeg), r.Seconds, r.Retries+1)
	record.first[columnTime], record.first[columnContainer] = clockText(p.answer.Now, r.Time), ownerText(r.Owner())
	record.first[columnNetwork], record.first[columnName], record.first[columnType] = printable(r.Network), printable(r.Name), r.QType
	if r.Network == "" {
		record.first[columnNetwork] = "-"
	}
	record.first[columnAnswer] += p.mark(r)
	if r.Resolver != enrich.ResolverEmbedded { // of which there is but one
		record.below = p.silent(&r.DNSLeg)
	}
	for i := range r.Upstream {
		leg := &r.Upstream[i]
		seconds, tries := lastServer(leg)
		record.below = append(record.below, p.silent(leg)...)
		record.below = append(record.below, p.leg(leg, p.serverText(leg.Server, leg), seconds, tries))
	}
	record.notes = notesOf(r)
	return record
}

// leg fills the columns from the resolver on.
func (p *dnsPrinter) leg(leg *enrich.DNSLeg, resolver string, seconds float64, tries int) (cells dnsCells) {
	cells[columnResolver], cells[columnAnswer], cells[columnTook] = resolver, answerText(leg), "-"
	cells[columnTries] = strconv.Itoa(tries)
	switch {
	case leg.Outcome == enrich.Answered:
		cells[columnTook] = tookText(seconds)
	case leg.Outcome == enrich.TimedOut && p.answer.Timeout > 0:
		waited := p.answer.Timeout
		if n := len(leg.Tries); n > 0 {
			waited += leg.Tries[n-1].Asked.Sub(leg.Time).Seconds()
		}
		cells[columnTook] = "> " + tookText(waited)
	}
	return cells
}

// mark is what stands behind an answer: whose address it is, or that it did not matter.
func (p *dnsPrinter) mark(r *enrich.DNSRow) string {
	if r.FoundAs != "" {
		p.excused = true
		return "*"
	}
	if len(r.Addresses) == 0 {
		return ""
	}
	for _, a := range r.Answerers {
		if owner := identityText(a.Owner); a.Address == r.Addresses[0] && owner != "" {
			return " (" + owner + ")"
		}
	}
	return ""
}

// silent are lines for the servers that a client gave up before it asked the last one.
func (p *dnsPrinter) silent(leg *enrich.DNSLeg) (lines []dnsCells) {
	var servers []netip.AddrPort
	tries := make(map[netip.Addr]int)
	for _, t := range leg.Tries {
		server := t.Server.Addr()
		if server == leg.Server.Addr() || !t.GaveUp || !t.Answer.IsZero() {
			continue
		}
		if tries[server] == 0 {
			servers = append(servers, t.Server)
		}
		tries[server]++
	}
	for _, server := range servers {
		lines = append(lines, dnsCells{
			columnResolver: p.serverText(server, leg), columnAnswer: noAnswer, columnTook: "-", columnTries: strconv.Itoa(tries[server.Addr()]),
		})
	}
	return lines
}

// lastServer says how long the server that answered took, without those that were waited for in vain before, and how often it
// was asked.
func lastServer(leg *enrich.DNSLeg) (seconds float64, tries int) {
	if len(leg.Tries) == 0 {
		return leg.Seconds, 1
	}
	seconds = leg.Seconds
	for _, t := range leg.Tries {
		if t.Server.Addr() != leg.Server.Addr() {
			continue
		}
		tries++
		if !t.Answer.IsZero() {
			seconds = t.Answer.Sub(t.Asked).Seconds()
		}
	}
	return seconds, max(1, tries)
}

// resolverText says whom a client asked.
func resolverText(leg *enrich.DNSLeg) string {
	switch leg.Resolver {
	case enrich.ResolverDirect:
		return hostText(leg.Server) + protocolMark(leg)
	case enrich.ResolverUpstream:
		return arrow(leg) + hostText(leg.Server) + protocolMark(leg)
	}
	return string(leg.Resolver) + protocolMark(leg)
}

// serverText names a server that is one of several, or behind the engine's.
func (p *dnsPrinter) serverText(server netip.AddrPort, leg *enrich.DNSLeg) string {
	p.inferred = p.inferred || leg.Inferred
	return arrow(leg) + hostText(server) + protocolMark(leg)
}

func arrow(leg *enrich.DNSLeg) string {
	switch {
	case leg.Resolver != enrich.ResolverUpstream:
		return ""
	case leg.Inferred:
		return "~> "
	}
	return "-> "
}

// hostText leaves out the port that all of them have.
func hostText(server netip.AddrPort) string {
	if server.Port() == 53 {
		return server.Addr().String()
	}
	return addressText(server)
}

// protocolMark is what follows a server that was not asked over UDP.
func protocolMark(leg *enrich.DNSLeg) string {
	if leg.Protocol == "udp" {
		return ""
	}
	return "/" + leg.Protocol
}

// answerText is the first address and how many there are beside it, or what the answer says without one.
func answerText(leg *enrich.DNSLeg) string {
	switch leg.Outcome {
	case enrich.TimedOut:
		return "timed out"
	case enrich.NotKnown:
		return "not known"
	case enrich.Unawaited:
		return "-"
	}
	text := leg.RCode
	switch {
	case leg.RCode == "other":
		text = fmt.Sprintf("code %d", leg.Code)
	case len(leg.Addresses) > 1:
		text = fmt.Sprintf("%s +%d", leg.Addresses[0], len(leg.Addresses)-1)
	case len(leg.Addresses) == 1:
		text = leg.Addresses[0].String()
	case leg.Records > 0:
		text += ", " + number(leg.Records, "record")
	case leg.RCode == "NOERROR":
		text = "no records"
	}
	if leg.Truncated {
		text += ", truncated"
	}
	return text
}

// tookText writes a time with two or three digits, as many as matter.
func tookText(seconds float64) string {
	took := time.Duration(seconds * float64(time.Second))
	switch {
	case took < 100*time.Microsecond:
		return strconv.FormatFloat(seconds*1e3, 'f', 2, 64) + " ms"
	case took < 10*time.Millisecond:
		return strconv.FormatFloat(seconds*1e3, 'f', 1, 64) + " ms"
	case took < time.Second:
		return strconv.FormatFloat(seconds*1e3, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(seconds, 'f', 1, 64) + " s"
}

// notesOf are sentences about what a line cannot say.
func notesOf(r *enrich.DNSRow) (notes []string) {
	if r.Misname != "" && r.FoundAs == "" {
		notes = append(notes, misnameText(r))
	}
	if owners := ownersOf(r); len(owners) > 1 {
		notes = append(notes, "these are addresses of "+enumeration(owners))
	}
	if r.MoreUpstream > 0 {
		notes = append(notes, "and "+number(r.MoreUpstream, "more upstream lookup"))
	}
	return notes
}

// misnameText says why a name of Docker's is not found.
func misnameText(r *enrich.DNSRow) string {
	name := printable(r.Name)
	if r.Base != "" {
		name = printable(r.Base)
	}
	var owners, networks, names []string
	for _, t := range r.Targets {
		owners = appendNew(owners, identityText(t.Identity))
		networks = appendNew(networks, printable(t.Network))
		names = appendNew(names, printable(t.UseName))
	}
	of := enumeration(owners)
	if of == "" {
		of = "a container"
	}
	switch r.Misname {
	case enrich.MisnameHostname:
		return fmt.Sprintf("%s is the host name of %s, which is not served%s", name, of, askFor(names))
	case enrich.MisnameOtherNetwork:
		if len(networks) == 0 {
			return fmt.Sprintf("%s is a name of %s, which shares no network with the asker%s", name, of, askFor(names))
		}
		return fmt.Sprintf("%s is a name of %s on %s %s, which the asker is not on%s", name, of, plural(len(networks), "network"), enumeration(networks), askFor(names))
	case enrich.MisnameDefaultBridge:
		return fmt.Sprintf("%s is a name of %s, but the asker is on the default bridge, where no names are served", name, of)
	case enrich.MisnameMissing:
		return fmt.Sprintf("%s is a name of %s, which runs on a network of the asker's: the engine should know it", name, of)
	}
	return fmt.Sprintf("%s is a name of %s: %s", name, of, r.Misname)
}

func askFor(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; ask for " + strings.Join(names, " or ")
}

// ownersOf are the services, or containers without one, that the addresses of an answer belong to.
func ownersOf(r *enrich.DNSRow) (owners []string) {
	for _, a := range r.Answerers {
		owner := a.Owner
		if owner.Service != "" {
			owner.Container = ""
		}
		owners = appendNew(owners, identityText(owner))
	}
	return owners
}

func appendNew(list []string, text string) []string {
	if text == "" || slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}

// identityText is the container, or its service with the stack that tells it from others.
func identityText(i enrich.Identity) string {
	switch {
	case i.Container != "":
		return printable(i.Container)
	case i.Stack != "" && i.Service != "":
		return printable(i.Stack + "/" + i.Service)
	}
	return printable(i.Service)
}

// enumeration writes a, b and c.
func enumeration(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}

// legend says what the marks mean.
func (p *dnsPrinter) legend() {
	if p.excused {
		p.paragraph("* is no failure: the client then found the name with another search suffix, or without one.")
	}
	if p.inferred {
		p.paragraph("~> was asked from the host's namespace: for whom is known by ID, name and time alone.")
	}
}

func (p *dnsPrinter) paragraph(text string) {
	for _, line := range wrap(text, width) {
		p.WriteString(line + "\n")
	}
}

// none says why there is nothing to show.
func (p *dnsPrinter) none() {
	text := "no lookups"
	if p.question.Container != "" {
		text += " of " + printable(p.question.Container)
	}
	var which []string
	if p.question.Failed {
		which = append(which, "failed")
	}
	if p.question.SlowerThan > 0 {
		which = append(which, "took longer than "+p.question.SlowerThan.String())
	}
	if len(which) > 0 {
		text += " that " + strings.Join(which, " and ")
	}
	p.WriteString(text + "\n" + sinceText(&p.answer.Gaps, p.answer.Started, p.answer.Now))
	if p.answer.Unknown {
		p.WriteString(strangerText("lookup", p.question.Container, "dns"))
	}
	ended := "One is shown when it is answered"
	if p.answer.Timeout > 0 {
		ended += fmt.Sprintf(", or %s after it was last asked", tookText(p.answer.Timeout+0.5))
	}
	p.paragraph(ended + ". What a program finds in /etc/hosts or a cache, or asks over TLS or HTTPS, is not seen.")
	p.unowned()
	p.lost()
}

// lost says that some may be missing.
func (p *dnsPrinter) lost() {
	if p.answer.Lost > 0 {
		p.paragraph(fmt.Sprintf("Not all can be seen: for %s there was no room; see bridgewatch status.", number(int(p.answer.Lost), "message")))
	}
}
