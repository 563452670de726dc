// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/sys/unix"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters"
)

// The names of the events.
const (
	findingRaised  = "bridgewatch.finding.raised"
	findingCleared = "bridgewatch.finding.cleared"
	dropSampled    = "bridgewatch.drop"
)

// dropsPerSecond is how many drops of one cause are sent within a second. The metrics count them all.
const dropsPerSecond = 1

// events makes log records of what happens, and hands them to the SDK as far as its queue has room. The SDK would drop the
// oldest without saying so.
type events struct {
	store   *exporters.Store
	logger  log.Logger
	room    int64
	pending atomic.Int64 // records that the SDK has, queued or under way
	refused atomic.Uint64
	sample  sample
}

func newEvents(store *exporters.Store, queue int) *events {
	return &events{store: store, room: int64(queue)}
}

// emit refuses a record beyond so many pending ones.
func (e *events) emit(r log.Record, room int64) {
	if e.pending.Add(1) > room {
		e.pending.Add(-1)
		e.refused.Add(1)
		return
	}
	e.logger.Emit(context.Background(), r)
}

// addFinding sends a finding's beginning or end.
func (e *events) addFinding(c *findings.Change, now time.Time) {
	var r log.Record
	r.SetEventName(findingRaised)
	r.SetTimestamp(c.Since)
	r.SetSeverity(severity(c.Severity))
	if c.Cleared {
		r.SetEventName(findingCleared)
		r.SetTimestamp(now)
		r.SetSeverity(log.SeverityInfo)
	}
	r.SetSeverityText(string(c.Severity))
	r.SetBody(attribute.StringValue(validText(sentence(&c.Finding))))
	r.AddAttributes(e.findingAttributes(&c.Finding)...)
	e.emit(r, e.room)
}

func severity(s findings.Severity) log.Severity {
	switch s {
	case findings.Critical:
		return log.SeverityError
	case findings.Warning:
		return log.SeverityWarn
	}
	return log.SeverityInfo
}

// sentence is what a finding says, with its evidence.
func sentence(f *findings.Finding) string {
	parts := []string{f.Title}
	for _, fact := range f.Evidence {
		value := fact.Text
		if value == "" {
			value = strings.TrimSpace(strconv.FormatFloat(fact.Number, 'f', -1, 64) + " " + fact.Unit)
		}
		parts = append(parts, fact.Name+": "+value)
	}
	return strings.Join(parts, "; ")
}

func (e *events) findingAttributes(f *findings.Finding) []attribute.KeyValue {
	var list []attribute.KeyValue
	subject := &f.Subject
	for _, l := range [][2]string{
		{"id", f.ID}, {"severity", string(f.Severity)},
		{"stack", subject.Stack}, {"service", subject.Service}, {"container", subject.Container}, {"network", subject.Network},
		{"scope", string(subject.Scope)}, {"container_id", e.containerID(subject.Identity)},
		{"finding.object", subject.Object}, {"finding.remedy", f.Remedy}, {"finding.confirm", f.Confirm},
		{"finding.basis", f.Basis}, {"finding.runbook", f.Runbook},
	} {
		list = appendLabel(list, l[0], l[1])
	}
	return append(list, attribute.Key("bridgewatch.finding.evidence").Map(evidence(f.Evidence)...))
}

func evidence(facts []findings.Fact) []attribute.KeyValue {
	list := make([]attribute.KeyValue, 0, len(facts))
	for _, fact := range facts {
		key := attribute.Key(validText(fact.Name))
		if fact.Text != "" {
			list = append(list, key.String(validText(fact.Text)))
		} else {
			list = append(list, key.Float64(fact.Number))
		}
	}
	return list
}

// containerID is that of the only running container of an identity. Several tasks may share one.
func (e *events) containerID(i enrich.Identity) string {
	if ids := e.store.ContainerIDs(exporters.Owner{Stack: i.Stack, Service: i.Service, Container: i.Container}); len(ids) == 1 {
		return ids[0]
	}
	return ""
}

// addDrops sends a sample of the drops that are somebody's loss. While half of the queue is taken they have to stand back
// behind findings.
func (e *events) addDrops(drops []enrich.Drop, now time.Time) {
	for i := range drops {
		d := &drops[i]
		if d.Kind == enrich.KindBenign || !e.sample.take(d.Cause, now) {
			continue
		}
		var r log.Record
		r.SetEventName(dropSampled)
		r.SetTimestamp(now)
		r.SetSeverity(log.SeverityInfo)
		if d.Kind == enrich.KindFault {
			r.SetSeverity(log.SeverityWarn)
		}
		r.SetBody(attribute.StringValue(validText(fmt.Sprintf("%d packets dropped: %s", d.Packets, d.Cause))))
		r.AddAttributes(dropAttributes(d)...)
		e.emit(r, (e.room+1)/2)
	}
}

func dropAttributes(d *enrich.Drop) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.Int64("bridgewatch.packets", int64(d.Packets)),
		attribute.Int64("bridgewatch.bytes", int64(d.Bytes)),
	}
	for _, l := range [][2]string{
		{"stack", d.Stack}, {"service", d.Service}, {"container", d.Container}, {"container_id", d.ContainerID},
		{"network", d.Network}, {"scope", string(d.Scope)}, {"device_kind", d.DeviceKind}, {"direction", string(d.Direction)},
		{"reason", d.Reason}, {"function", d.Function}, {"cause", d.Cause}, {"kind", string(d.Kind)},
	} {
		list = appendLabel(list, l[0], l[1])
	}
	if d.DeviceName != "" {
		list = append(list, semconv.NetworkInterfaceName(validText(d.DeviceName)))
	}
	return append(list, endAttributes(d)...)
}

// endAttributes say between whom the packet went, as the victim sees it.
func endAttributes(d *enrich.Drop) []attribute.KeyValue {
	if !d.Source.IsValid() || !d.Destination.IsValid() {
		return nil
	}
	source, destination := netip.AddrPortFrom(d.Source, d.SourcePort), netip.AddrPortFrom(d.Destination, d.DestinationPort)
	local, peer := destination, source
	if d.Direction == enrich.TX {
		local, peer = source, destination
	}
	list := []attribute.KeyValue{
		semconv.NetworkLocalAddress(local.Addr().String()), semconv.NetworkPeerAddress(peer.Addr().String()),
	}
	switch d.EtherType {
	case unix.ETH_P_IP:
		list = append(list, semconv.NetworkTypeIPv4)
	case unix.ETH_P_IPV6:
		list = append(list, semconv.NetworkTypeIPv6)
	default:
		return list // ARP
	}
	list = appendLabel(list, "protocol", enrich.ProtocolName(d.Protocol))
	if d.Protocol == unix.IPPROTO_TCP || d.Protocol == unix.IPPROTO_UDP || d.Protocol == unix.IPPROTO_SCTP {
		list = append(list, semconv.NetworkLocalPort(int(local.Port())), semconv.NetworkPeerPort(int(peer.Port())))
	}
	return list
}

// sample is how many drops of each cause were taken within the current second.
type sample struct {
	second int64
	taken  map[string]int
}

func (s *sample) take(cause string, now time.Time) bool {
	if second := now.Unix(); second != s.second || s.taken == nil {
		s.second, s.taken = second, make(map[string]int)
	}
	s.taken[cause]++
	return s.taken[cause] <= dropsPerSecond
}
