// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// DNSQuestion chooses what is of interest. The zero value asks for all lookups.
type DNSQuestion struct {
	enrich.DNSFilter
}

// DNS is what an agent knows of lookups.
type DNS struct {
	Now     time.Time       `json:"now"`
	Started time.Time       `json:"started"`                   // of the signal: what was asked before is not known
	Off     string          `json:"off,omitempty"`             // why the signal does not run; "" while it does
	Timeout float64         `json:"timeout_seconds,omitempty"` // after which a lookup counts as unanswered, and is shown
	Lost    uint64          `json:"lost,omitempty"`            // of what was seen, messages and lookups for which there was no room
	Rows    []enrich.DNSRow `json:"rows"`                      // the most recent first

	enrich.Gaps // what is missing among the rows
}

// Choose answers with what the question wants of the table, the most recent first.
func (q *DNSQuestion) Choose(answer *DNS, table *enrich.DNSTable) {
	answer.Rows, answer.Gaps = table.Find(q.DNSFilter)
}

// Parameters of the question, beside those of a NATQuestion.
const (
	paramFailed     = "failed"
	paramSlowerThan = "slower_than"
	paramUnknown    = "unknown"
)

// query is the question as the part of an address after the question mark.
func (q *DNSQuestion) query() string {
	values := make(url.Values)
	if q.Container != "" {
		values.Set(paramContainer, q.Container)
	}
	if q.Failed {
		values.Set(paramFailed, "true")
	}
	if q.Unknown {
		values.Set(paramUnknown, "true")
	}
	if q.SlowerThan != 0 {
		values.Set(paramSlowerThan, q.SlowerThan.String())
	}
	if q.Limit != 0 {
		values.Set(paramLimit, strconv.Itoa(q.Limit))
	}
	return values.Encode()
}

func (q *DNSQuestion) set(name, value string) (err error) {
	switch name {
	case paramContainer:
		q.Container = value
	case paramFailed:
		q.Failed, err = parseSwitch(name, value)
	case paramUnknown:
		q.Unknown, err = parseSwitch(name, value)
	case paramSlowerThan:
		q.SlowerThan, err = parseSpan(name, value)
	case paramLimit:
		q.Limit, err = parseLimit(value)
	default:
		err = fmt.Errorf("no parameter is called %q", name)
	}
	return err
}

func parseSpan(name, value string) (time.Duration, error) {
	span, err := time.ParseDuration(value)
	if err != nil || span <= 0 {
		return 0, fmt.Errorf("%s is %q, want a time like 100ms", name, value)
	}
	return span, nil
}
