// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// passOn is TCX_NEXT and TC_ACT_UNSPEC: the packet goes on as if nobody had looked.
const passOn = 0xffffffff

// Marks of a parsed packet, as in parse.bpf.h.
const (
	markUnparsed = 1 << 0
	markFragment = 1 << 1
)

// testRunDevice is where BPF_PROG_TEST_RUN lets packets arrive: the loopback device.
const testRunDevice DeviceID = 1

// twin is the drop signal's parser in a program that can be run.
type twin struct{ objects parseTwinObjects }

func mustLoadTwin(tb testing.TB) *twin {
	tb.Helper()
	liftMemoryLimit(tb)
	var t twin
	if err := loadParseTwinObjects(&t.objects, nil); err != nil {
		fatalLoad(tb, err)
	}
	tb.Cleanup(func() { mustClose(tb, &t.objects) })
	return &t
}

func (t *twin) parse(tb testing.TB, frame []byte) headers {
	tb.Helper()
	mustPassOn(tb, t.objects.ParseTwin, frame)
	var parsed parseTwinTuple
	if err := t.objects.Parsed.Lookup(uint32(0), &parsed); err != nil {
		tb.Fatal(err)
	}
	return headers{
		EtherType:       parsed.EthProto,
		Protocol:        parsed.Protocol,
		Source:          address(parsed.Saddr),
		Destination:     address(parsed.Daddr),
		SourcePort:      parsed.Sport,
		DestinationPort: parsed.Dport,
		VXLAN:           parsed.IsVxlan != 0,
		VNI:             parsed.Vni,
		Fragment:        parsed.Marks&markFragment != 0,
		Unparsed:        parsed.Marks&markUnparsed != 0,
	}
}

// mustPassOn runs a program of type tc on frame.
func mustPassOn(tb testing.TB, program *ebpf.Program, frame []byte) {
	tb.Helper()
	verdict, err := program.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		tb.Fatalf("run on %x: %v", frame, err)
	}
	if verdict != passOn {
		tb.Fatalf("verdict %#x on %x, want %#x", verdict, frame, uint32(passOn))
	}
}

// countedNow empties the table in use, which is exact as long as no program runs, and faster than Read.
func countedNow(tb testing.TB, f *Flows) []Flow {
	tb.Helper()
	var flows []Flow
	var key flowFlowKey
	var value flowFlowValue
	table := f.detail.inner[f.detail.active]
	for table.NextKey(nil, &key) == nil {
		if err := errors.Join(table.Lookup(&key, &value), table.Delete(&key)); err != nil {
			tb.Fatal(err)
		}
		flows = append(flows, newFlow(&key, &value))
	}
	return flows
}

// parseFlow runs both flow programs on frame and returns what they say of it, after checking that each counts it once
// and that they say the same.
func parseFlow(tb testing.TB, f *Flows, frame []byte) headers {
	tb.Helper()
	mustPassOn(tb, f.objects.Ingress, frame)
	tx := countedNow(tb, f)
	mustPassOn(tb, f.objects.Egress, frame)
	rx := countedNow(tb, f)
	if len(tx) != 1 || len(rx) != 1 {
		tb.Fatalf("%d and %d entries of one packet, want 1 and 1", len(tx), len(rx))
	}
	once := Counts{Skbs: 1, Packets: 1, Bytes: uint64(len(frame))}
	if tx[0].TX != once || tx[0].RX != (Counts{}) || tx[0].Device != testRunDevice {
		tb.Errorf("from the container: counted %+v, want %+v", tx[0], once)
	}
	back := Flow{
		Device: testRunDevice, Local: tx[0].Remote, Remote: tx[0].Local, LocalPort: tx[0].RemotePort, RemotePort: tx[0].LocalPort,
		EtherType: tx[0].EtherType, Protocol: tx[0].Protocol, RX: once, RXFlags: tx[0].TXFlags, Unparsed: tx[0].Unparsed,
	}
	if tx[0].Protocol == unix.IPPROTO_ICMP || tx[0].Protocol == unix.IPPROTO_ICMPV6 {
		back.LocalPort, back.RemotePort = tx[0].LocalPort, tx[0].RemotePort // type and code, whichever way it went
	}
	if diff := cmp.Diff(back, rx[0], cmpopts.EquateComparable(Flow{})); diff != "" {
		tb.Errorf("to the container (-want +got):\n%s", diff)
	}
	return headers{
		EtherType: tx[0].EtherType, Protocol: tx[0].Protocol, Source: tx[0].Local, Destination: tx[0].Remote,
		SourcePort: tx[0].LocalPort, DestinationPort: tx[0].RemotePort, TCPFlags: tx[0].TXFlags, Unparsed: tx[0].Unparsed,
	}
}

// asFlow leaves out what a flow does not tell.
func (h headers) asFlow() headers {
	h.VXLAN, h.VNI, h.Fragment = false, 0, false
	return h
}

// asDrop leaves out what a drop does not tell.
func (h headers) asDrop() headers {
	h.TCPFlags = 0
	return h
}

var compareHeaders = cmpopts.EquateComparable(headers{})

func TestFlowReadsHeaders(t *testing.T) {
	flows := mustOpenFlows(t, 16)
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			if diff := cmp.Diff(s.want.asFlow(), parseFlow(t, flows, s.frame), compareHeaders); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDropReadsHeaders(t *testing.T) {
	twin := mustLoadTwin(t)
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			if diff := cmp.Diff(s.want.asDrop(), twin.parse(t, s.frame), compareHeaders); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever arrives: it passes, it is counted once, and both parsers say the same of it.
func TestBrokenFrames(t *testing.T) {
	flows, twin := mustOpenFlows(t, 16), mustLoadTwin(t)
	for _, s := range brokenFrames(t) {
		holdParsersTogether(t, flows, twin, s.frame)
		if t.Failed() {
			t.Fatalf("on %s: %x", s.name, s.frame)
		}
	}
}

func FuzzParsers(f *testing.F) {
	flows, twin := mustOpenFlows(f, 16), mustLoadTwin(f)
	for _, s := range samples(f) {
		f.Add(s.frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !testable(frame) || len(frame) > 1514 {
			return
		}
		holdParsersTogether(t, flows, twin, frame)
	})
}

func holdParsersTogether(tb testing.TB, flows *Flows, twin *twin, frame []byte) {
	tb.Helper()
	flow, drop := parseFlow(tb, flows, frame), twin.parse(tb, frame)
	if flow.EtherType < shortEthernetFrame && drop.EtherType < shortEthernetFrame {
		flow.EtherType, drop.EtherType = 0, 0 // a length; the kernel has numbers of its own for what follows one
	}
	if diff := cmp.Diff(drop.asFlow(), flow.asDrop(), compareHeaders); diff != "" {
		tb.Errorf("drop and flow disagree (-drop +flow):\n%s", diff)
	}
}
