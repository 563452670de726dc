// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/bridgewatch/bridgewatch/enrich"
)

// NATQuestion chooses what is of interest. The zero value asks for all translated connections but lookups.
type NATQuestion struct {
	enrich.NATFilter

	Lookups bool // also those to the engine's resolver
	Egress  bool // where the connections of containers appear to come from, instead
}

// NAT is what an agent knows of translated connections.
type NAT struct {
	Now        time.Time       `json:"now"`
	Started    time.Time       `json:"started"`              // of the signal: what was opened before is not known
	Off        string          `json:"off,omitempty"`        // why the signal does not run; "" while it does
	Incomplete string          `json:"incomplete,omitempty"` // what it cannot tell, and why
	Rows       []enrich.NATRow `json:"rows"`                 // the most recent first
	Egress     *Egress         `json:"egress,omitempty"`     // nil: not asked for, or not looked at yet

	enrich.Gaps // what is missing among the rows
}

// Egress is where the connections of containers appear to come from, and how near an address is to having no port left.
type Egress struct {
	Time       time.Time        `json:"time"`                 // of the look
	Identities []EgressIdentity `json:"identities"`           // sorted by the container's name
	Pressure   []PortPressure   `json:"pressure"`             // the highest first
	Incomplete string           `json:"incomplete,omitempty"` // why connections are missing, if so
}

// EgressIdentity is an enrich.EgressIdentity.
type EgressIdentity struct {
	enrich.Identity

	ContainerID string     `json:"container_id"`
	Address     netip.Addr `json:"address"`
	Connections int        `json:"connections"` // tracked at the look
	Sharing     int        `json:"sharing"`     // containers under the address, with this one
}

// PortPressure is an enrich.PortPressure.
type PortPressure struct {
	Address     netip.Addr      `json:"address"`
	Destination netip.AddrPort  `json:"destination"`
	Protocol    string          `json:"protocol"`
	Used        int             `json:"used"`
	Limit       int             `json:"limit"`
	Example     enrich.Identity `json:"example"` // one of those who use them
}

// Choose answers with what the question wants of the table, the most recent first.
func (q *NATQuestion) Choose(answer *NAT, table *enrich.NATTable) {
	answer.Rows, answer.Gaps = table.Find(q.NATFilter, q.Lookups)
}

// ChooseEgress answers with what the question wants of what was tracked at that time: the containers, and the addresses that these
// appear under.
func (q *NATQuestion) ChooseEgress(answer *NAT, tracking *enrich.Tracking, at time.Time) {
	egress := &Egress{Time: at, Identities: []EgressIdentity{}, Pressure: []PortPressure{}}
	answer.Egress = egress
	filter := q.NATFilter
	answer.Unknown = !filter.Resolve(func(yield func(enrich.Owner) bool) {
		for i := range tracking.Identities {
			if !yield(ownerOf(&tracking.Identities[i])) {
				return
			}
		}
	})
	under := make(map[netip.Addr]bool)
	for _, i := range tracking.Identities {
		if filter.Names(ownerOf(&i)) {
			egress.Identities = append(egress.Identities, EgressIdentity{i.Identity, i.ContainerID, i.Address, i.Connections, i.Sharing})
			under[i.Address] = true
		}
	}
	for _, p := range tracking.Pressure {
		if q.Container == "" || under[p.Address] {
			egress.Pressure = append(egress.Pressure, PortPressure{
				p.Address, p.Destination, enrich.ProtocolName(p.Protocol), p.Used, p.Limit, p.Example,
			})
		}
	}
	slices.SortStableFunc(egress.Identities, func(a, b EgressIdentity) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.ContainerID, b.ContainerID))
	})
	if q.Limit > 0 {
		egress.Identities = egress.Identities[:min(len(egress.Identities), q.Limit)]
		egress.Pressure = egress.Pressure[:min(len(egress.Pressure), q.Limit)]
	}
}

func ownerOf(i *enrich.EgressIdentity) enrich.Owner {
	return enrich.Owner{Service: i.Service, Container: i.Container, ContainerID: i.ContainerID}
}

// Parameters of the question.
const (
	paramContainer = "container"
	paramPort      = "port"
	paramLost      = "lost"
	paramLimit     = "limit"
	paramLookups   = "lookups"
	paramEgress    = "egress"
)

// query is the question as the part of an address after the question mark.
func (q *NATQuestion) query() string {
	values := make(url.Values)
	if q.Container != "" {
		values.Set(paramContainer, q.Container)
	}
	if q.Port != 0 {
		values.Set(paramPort, strconv.Itoa(int(q.Port)))
	}
	if q.Limit != 0 {
		values.Set(paramLimit, strconv.Itoa(q.Limit))
	}
	for name, wanted := range map[string]bool{paramLost: q.Lost, paramLookups: q.Lookups, paramEgress: q.Egress} {
		if wanted {
			values.Set(name, "true")
		}
	}
	return values.Encode()
}

func (q *NATQuestion) set(name, value string) (err error) {
	switch name {
	case paramContainer:
		q.Container = value
	case paramPort:
		q.Port, err = parsePort(value)
	case paramLimit:
		q.Limit, err = parseLimit(value)
	case paramLost:
		q.Lost, err = parseSwitch(name, value)
	case paramLookups:
		q.Lookups, err = parseSwitch(name, value)
	case paramEgress:
		q.Egress, err = parseSwitch(name, value)
	default:
		err = fmt.Errorf("no parameter is called %q", name)
	}
	return err
}

func parsePort(value string) (uint16, error) {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port is %q, want 1 to 65535", value)
	}
	return uint16(port), nil
}

func parseLimit(value string) (int, error) {
	limit, err := strconv.Atoi(value)
	if err != nil || limit < 1 {
		return 0, fmt.Errorf("limit is %q, want a number from 1", value)
	}
	return limit, nil
}

func parseSwitch(name, value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s is %q, want true or false", name, value)
	}
	return on, nil
}
