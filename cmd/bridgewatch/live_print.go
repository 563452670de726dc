// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// columnWidths are those of a table's columns, without the two blanks between them.
type columnWidths []int

// admit widens the columns for a row, unless the table gets wider than the limit.
func (w columnWidths) admit(row []string, limit int) bool {
	widened, sum := make(columnWidths, len(w)), 2*(len(w)-1)
	for i, text := range row {
		widened[i] = max(w[i], columns(text))
		sum += widened[i]
	}
	if sum > limit {
		return false
	}
	copy(w, widened)
	return true
}

func (w columnWidths) line(row []string) string {
	line := ""
	for i, text := range row {
		line += text + strings.Repeat(" ", max(0, w[i]-columns(text))+2)
	}
	return strings.TrimRight(line, " ") + "\n"
}

// clockText writes the time as logs of containers have it, or how long ago it was where that says little.
func clockText(now, at time.Time) string {
	if ago := now.Sub(at); ago >= 24*time.Hour {
		return spanText(ago)
	}
	return at.Format(time.TimeOnly)
}

// ownerText names the container as --container takes it.
func ownerText(o enrich.Owner) string {
	switch {
	case o.Container == enrich.AdHoc && o.ContainerID != "":
		return fmt.Sprintf("%.12s", o.ContainerID)
	case o.Container != "":
		return printable(o.Container)
	case o.Service != "":
		return printable(o.Service)
	}
	return "-"
}

// forgottenText says what later rows have pushed out of the agent's memory.
func forgottenText(g *enrich.Gaps) string {
	if g.Evicted == 0 {
		return ""
	}
	return fmt.Sprintf("The agent keeps the latest %d, the oldest of %s.\nIt has forgotten %d before those.\n",
		g.Kept, g.Oldest.Format(time.DateTime), g.Evicted)
}

// sinceText says of nothing since when there is nothing.
func sinceText(g *enrich.Gaps, started, now time.Time) string {
	if g.Evicted > 0 {
		return fmt.Sprintf("among the latest %d, the oldest of %s\n", g.Kept, g.Oldest.Format(time.DateTime))
	}
	return fmt.Sprintf("since %s, when the agent began to watch, %s ago\n", started.Format(time.DateTime), spanText(now.Sub(started)))
}

// strangerText says that nothing the agent knows of is of the container that was asked for.
func strangerText(what, container, command string) string {
	return fmt.Sprintf("No %s is of a container or service called %s, nor of the only\n"+
		"container whose ID begins so. Names are those in metrics: see bridgewatch %s\nwithout --container.\n",
		what, printable(container), command)
}
