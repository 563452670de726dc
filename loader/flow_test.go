// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// of keeps the flows of one device.
func of(flows []Flow, id DeviceID) []Flow {
	return slices.DeleteFunc(flows, func(f Flow) bool { return f.Device != id })
}

// carried sums up what the container behind a device received and sent.
func carried(flows []Flow) (rx, tx Counts) {
	for _, f := range flows {
		rx.Add(f.RX)
		tx.Add(f.TX)
	}
	return rx, tx
}

// interfaceCounts are the device's own counters, as the container behind it sees them.
func interfaceCounts(tb testing.TB, name string) (rx, tx Counts) {
	tb.Helper()
	s := mustLink(tb, name).Attrs().Statistics
	return Counts{Skbs: s.TxPackets, Bytes: s.TxBytes}, Counts{Skbs: s.RxPackets, Bytes: s.RxBytes}
}

func (c Counts) withoutSegments() Counts {
	c.Packets = 0
	return c
}

func mustWatchOutside(tb testing.TB, flows *Flows, l Link, born bool) DeviceID {
	tb.Helper()
	id, err := flows.WatchOutside(l, born)
	if err != nil {
		tb.Fatal(err)
	}
	if id != DeviceID(l.Index) {
		tb.Errorf("device number %d, want the ifindex %d", id, l.Index)
	}
	return id
}

func TestFlowsEqualInterfaceCounters(t *testing.T) {
	const out, in, size = 500, 300, 100
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	flows := mustOpenFlows(t, 0)
	id := mustWatchOutside(t, flows, outside, true)

	host := mustListenUDP(t, "192.0.2.1:5000")
	inside.do(t, func() {
		container := mustListenUDP(t, "192.0.2.2:6000")
		sendUDP(t, container, netip.MustParseAddrPort("192.0.2.1:5000"), out, size)
	})
	sendUDP(t, host, netip.MustParseAddrPort("192.0.2.2:6000"), in, size)

	got := of(mustRead(t, flows.Read), id)
	rx, tx := carried(got)
	wantRX, wantTX := interfaceCounts(t, "outside")
	if rx.withoutSegments() != wantRX || tx.withoutSegments() != wantTX {
		t.Errorf("counted rx %+v tx %+v, the device says rx %+v tx %+v", rx, tx, wantRX, wantTX)
	}
	const frame = 14 + 20 + 8 + size
	want := Flow{
		Device: id, Local: netip.MustParseAddr("192.0.2.2"), Remote: netip.MustParseAddr("192.0.2.1"), LocalPort: 6000,
		RemotePort: 5000, EtherType: unix.ETH_P_IP, Protocol: unix.IPPROTO_UDP,
		RX: Counts{Skbs: in, Packets: in, Bytes: in * frame}, TX: Counts{Skbs: out, Packets: out, Bytes: out * frame},
	}
	if !slices.Contains(got, want) {
		t.Errorf("no %+v\nin %+v", want, got)
	}
}

// A big TCP segment counts once as what the device carries and as all that it stands for.
func TestFlowsCountSegments(t *testing.T) {
	const size = 1 << 20
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	flows := mustOpenFlows(t, 0)
	id := mustWatchOutside(t, flows, outside, true)
	listener, err := net.Listen("tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var conn net.Conn
	inside.do(t, func() { conn, err = net.Dial("tcp", "192.0.2.1:80") })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer conn.Close()
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Error(err)
		}
	}()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, accepted); n != size || err != nil {
		t.Fatalf("received %d bytes: %v", n, err)
	}
	accepted.Close()

	var rx, tx Counts
	var flags uint8
	eventually(t, "all is counted as the device counts", func() bool {
		read := of(mustRead(t, flows.Read), id)
		moreRX, moreTX := carried(read)
		rx.Add(moreRX)
		tx.Add(moreTX)
		for _, f := range read {
			flags |= f.TXFlags
		}
		wantRX, wantTX := interfaceCounts(t, "outside")
		return rx.withoutSegments() == wantRX && tx.withoutSegments() == wantTX
	})
	const (
		segment   = 1500 - 20 - 32 // with timestamps
		synFinAck = 0x13
	)
	if tx.Packets < size/segment || tx.Packets <= tx.Skbs {
		t.Errorf("%d packets in %d skbs, want at least %d packets in fewer skbs", tx.Packets, tx.Skbs, size/segment)
	}
	if flags&synFinAck != synFinAck {
		t.Errorf("TCP flags %#x, want SYN, FIN and ACK among them", flags)
	}
}

func TestWatchTwiceCountsOnce(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	flows := mustOpenFlows(t, 0)
	mustWatchOutside(t, flows, outside, true)
	id := mustWatchOutside(t, flows, outside, true)
	inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
	if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
		t.Errorf("%d packets, want 10", tx.Skbs)
	}
	if devices := flows.Devices(); len(devices) != 1 || devices["veth"] != 1 {
		t.Errorf("devices %v", devices)
	}
}

func TestUnwatch(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	outside := vethPair(t, inside)
	flows := mustOpenFlows(t, 0)
	id := mustWatchOutside(t, flows, outside, true)
	send := func() { inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) }) }
	send()
	if err := flows.Unwatch(id); err != nil {
		t.Fatal(err)
	}
	send()
	if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
		t.Errorf("%d packets, want the 10 before", tx.Skbs)
	}
	if n := len(flows.devices); n != 0 {
		t.Errorf("%d devices remembered", n)
	}
	mustWatchOutside(t, flows, outside, false)
	send()
	if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
		t.Errorf("watched again: %d packets, want 10", tx.Skbs)
	}
}

func TestDeviceDeletedWhileWatched(t *testing.T) {
	for _, tc := range []struct {
		name string
		size uint32
	}{{"with room", 0}, {"with a full table", 4}} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			inside := newNamespace(t)
			outside := vethPair(t, inside)
			flows := mustOpenFlows(t, tc.size)
			id := mustWatchOutside(t, flows, outside, true)
			inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
			deleteLink(t, "outside")
			if err := flows.Unwatch(id); err != nil {
				t.Fatal(err)
			}
			if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
				t.Errorf("%d packets, want 10", tx.Skbs)
			}
			if got := mustRead(t, flows.Read); len(got) != 0 {
				t.Errorf("counted after its end: %+v", got)
			}
			if len(flows.devices) != 0 || len(flows.Devices()) != 0 {
				t.Errorf("devices remembered: %v", flows.devices)
			}
		})
	}
}

// What a device carried before it was watched is a loss if it was born meanwhile, and nobody's business if not.
func TestBeforeAttach(t *testing.T) {
	for _, tc := range []struct {
		name string
		born bool
		want uint64
	}{{"born", true, 10}, {"listed", false, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			enterFreshNetns(t)
			inside := newNamespace(t)
			outside := vethPair(t, inside)
			flows := mustOpenFlows(t, 0)
			inside.do(t, func() { sendFrames(t, "inside", conversations(t, 10)...) })
			mustWatchOutside(t, flows, outside, tc.born)
			if before := lossesAt(t, flows.Losses, "before_attach"); before != tc.want {
				t.Errorf("before_attach = %d, want %d", before, tc.want)
			}
		})
	}
}

// A device watched from its birth is followed into the container that it was made for.
func TestWatchInsideFollowsTheDevice(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "parent"})
	setUp(t, "uplink")
	setUp(t, "parent")
	addLink(t, &netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: mustLink(t, "parent").Attrs().Index},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	})
	flows := mustOpenFlows(t, 0)
	id, err := flows.WatchInside(newLink(mustLink(t, "child")), true)
	if err != nil {
		t.Fatal(err)
	}
	if id < ownNumbers {
		t.Errorf("device number %d could be an ifindex", id)
	}
	if err := netlink.LinkSetNsFd(mustLink(t, "child"), int(inside.file.Fd())); err != nil {
		t.Fatal(err)
	}
	inside.do(t, func() { setUp(t, "child") })
	if !flows.SurvivesMove() {
		if id = watchSandbox(t, flows, inside); id < ownNumbers {
			t.Errorf("device number %d could be an ifindex", id)
		}
	}
	inside.do(t, func() { sendFrames(t, "child", conversations(t, 10)...) })
	rx, tx := carried(of(mustRead(t, flows.Read), id))
	if tx.Skbs != 10 || rx.Skbs != 0 {
		t.Errorf("%d sent, %d received, want 10 and 0", tx.Skbs, rx.Skbs)
	}

	inside.do(t, func() { deleteLink(t, "child") })
	if !flows.SurvivesMove() {
		return // whose device is gone cannot be told from outside
	}
	if err := flows.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := flows.Devices()["macvlan"]; n != 0 {
		t.Errorf("%d devices after the only one died", n)
	}
}

func watchSandbox(tb testing.TB, flows *Flows, inside namespace) DeviceID {
	tb.Helper()
	watched, err := flows.WatchSandbox(inside.path())
	if err != nil {
		tb.Fatal(err)
	}
	if len(watched) != 1 {
		tb.Fatalf("watched %v, want one child", watched)
	}
	for id := range watched {
		return id
	}
	return 0
}

func TestWatchSandbox(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	inside.do(t, func() {
		addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "parent"})
		setUp(t, "uplink")
		setUp(t, "parent")
		addLink(t, &netlink.Macvlan{
			LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: mustLink(t, "parent").Attrs().Index},
			Mode:      netlink.MACVLAN_MODE_BRIDGE,
		})
		setUp(t, "child")
	})
	flows := mustOpenFlows(t, 0)
	id := watchSandbox(t, flows, inside)
	inside.do(t, func() { sendFrames(t, "child", conversations(t, 10)...) })
	if _, tx := carried(of(mustRead(t, flows.Read), id)); tx.Skbs != 10 {
		t.Errorf("%d sent, want 10", tx.Skbs)
	}
	if err := flows.Unwatch(id); err != nil {
		t.Error(err)
	}
}

func TestWatchOfDeviceThatIsGone(t *testing.T) {
	enterFreshNetns(t)
	flows := mustOpenFlows(t, 0)
	if _, err := flows.WatchOutside(Link{Index: 4711, Name: "ghost", Kind: "veth"}, true); err == nil || !isLinkNotFound(err) {
		t.Errorf("watched a device that is not there: %v", err)
	}
	if n := flows.Usage()[1].Entries; n != 0 {
		t.Errorf("%d devices remembered", n)
	}
	var value flowFlowValue
	if err := flows.objects.Other.Lookup(uint32(4711), &value); err == nil {
		t.Error("its totals still have room")
	}
}
