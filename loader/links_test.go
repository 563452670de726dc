// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownNamespace is the one of the calling thread.
func ownNamespace(tb testing.TB) namespace {
	tb.Helper()
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, file) })
	return namespace{file}
}

// followLinks lets links run in the calling thread's namespace until the test ends.
func followLinks(tb testing.TB, links *Links) <-chan LinkChange {
	tb.Helper()
	changes := make(chan LinkChange, 10_000)
	ctx, stop := context.WithCancel(context.Background())
	host := ownNamespace(tb)
	ended := make(chan error, 1)
	go func() {
		ended <- inNetns(host.path(), func() error {
			return links.Run(ctx, func(change LinkChange) { changes <- change })
		})
	}()
	tb.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	return changes
}

func mustOpenLinks(tb testing.TB) *Links {
	tb.Helper()
	links, err := OpenLinks()
	if err != nil {
		tb.Fatal(err)
	}
	return links
}

// await returns the next change that matches.
func await(tb testing.TB, changes <-chan LinkChange, what string, matches func(LinkChange) bool) LinkChange {
	tb.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case change := <-changes:
			if matches(change) {
				return change
			}
		case <-timeout:
			tb.Fatalf("no news: %s", what)
		}
	}
}

func named(name string) func(LinkChange) bool {
	return func(c LinkChange) bool { return c.Name == name && !c.Gone }
}

func TestLinksFollowChanges(t *testing.T) {
	enterFreshNetns(t)
	inside := newNamespace(t)
	changes := followLinks(t, mustOpenLinks(t))
	if lo := await(t, changes, "loopback is listed", named("lo")); !lo.Loopback || !lo.Listed || lo.Kind != "device" || lo.Index != 1 {
		t.Errorf("loopback %+v", lo)
	}

	addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}})
	bridge := await(t, changes, "a bridge is made", named("br"))
	if bridge.Kind != "bridge" || bridge.Listed || bridge.Master != 0 || bridge.MovedNetnsID != -1 {
		t.Errorf("bridge %+v", bridge)
	}
	addLink(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "outside", MTU: 1400}, PeerName: "inside"})
	peer := await(t, changes, "the veth's first end", func(c LinkChange) bool { return c.Kind == "veth" })
	end := await(t, changes, "the veth's other end", func(c LinkChange) bool { return c.Kind == "veth" && c.Index != peer.Index })
	if peer.Name == "outside" {
		peer, end = end, peer
	}
	if end.Name != "outside" || peer.Name != "inside" || end.MTU != 1400 || end.Peer != peer.Index || end.PeerNetnsID != -1 {
		t.Errorf("ends %+v and %+v", end, peer)
	}

	if err := netlink.LinkSetMaster(mustLink(t, "outside"), mustLink(t, "br")); err != nil {
		t.Fatal(err)
	}
	await(t, changes, "it becomes a port", func(c LinkChange) bool { return c.Index == end.Index && c.Master == bridge.Index })
	if err := netlink.LinkSetNoMaster(mustLink(t, "outside")); err != nil {
		t.Fatal(err)
	}
	await(t, changes, "it is no port any more", func(c LinkChange) bool { return c.Index == end.Index && c.Master == 0 })
	if err := netlink.LinkSetName(mustLink(t, "outside"), "renamed"); err != nil {
		t.Fatal(err)
	}
	await(t, changes, "it is renamed", func(c LinkChange) bool { return c.Index == end.Index && c.Name == "renamed" })

	move(t, "inside", inside)
	moved := await(t, changes, "the peer leaves", func(c LinkChange) bool { return c.Index == peer.Index && c.Gone })
	if moved.MovedNetnsID != netnsID(t, inside) || moved.MovedIndex != indexIn(t, inside, "inside") || moved.Kind != "veth" {
		t.Errorf("moved %+v, want namespace %d, ifindex %d", moved, netnsID(t, inside), indexIn(t, inside, "inside"))
	}
	setUp(t, "renamed")
	inside.do(t, func() { setUp(t, "inside") })
	await(t, changes, "the end knows where its peer is", func(c LinkChange) bool {
		return c.Index == end.Index && c.PeerNetnsID == moved.MovedNetnsID
	})

	deleteLink(t, "renamed")
	gone := await(t, changes, "it is deleted", func(c LinkChange) bool { return c.Index == end.Index && c.Gone })
	if gone.MovedNetnsID != -1 || gone.Kind != "veth" || gone.Listed {
		t.Errorf("deleted %+v", gone)
	}
}

func move(tb testing.TB, name string, to namespace) {
	tb.Helper()
	if err := netlink.LinkSetNsFd(mustLink(tb, name), int(to.file.Fd())); err != nil {
		tb.Fatal(err)
	}
}

// netnsID is the number that the calling thread's namespace has for another.
func netnsID(tb testing.TB, of namespace) int {
	tb.Helper()
	id, err := netlink.GetNetNsIdByFd(int(of.file.Fd()))
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func indexIn(tb testing.TB, n namespace, name string) (index int) {
	tb.Helper()
	n.do(tb, func() { index = mustLink(tb, name).Attrs().Index })
	return index
}

// A listing finds what events have missed, and says nothing of the rest.
func TestLinksResync(t *testing.T) {
	enterFreshNetns(t)
	links := mustOpenLinks(t)
	t.Cleanup(func() { mustClose(t, links) })
	known := make(map[int]Link)
	list := func() (changes []LinkChange) {
		if err := links.list(known, func(c LinkChange) { changes = append(changes, c) }); err != nil {
			t.Fatal(err)
		}
		return changes
	}
	if first := list(); len(first) != len(known) || len(known) == 0 {
		t.Errorf("%d changes, %d links known", len(first), len(known))
	}
	if again := list(); len(again) != 0 {
		t.Errorf("news of nothing: %+v", again)
	}
	addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}})
	ghost := Link{Index: 4711, Name: "ghost", Kind: "veth", Master: 2}
	known[ghost.Index] = ghost
	want := []LinkChange{
		{Link: newLink(mustLink(t, "br")), MovedNetnsID: -1, Listed: true},
		{Link: ghost, Gone: true, MovedNetnsID: -1, Listed: true},
	}
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if _, still := known[ghost.Index]; still {
		t.Error("what is gone is remembered")
	}
}

// Events that come faster than they are read are lost: they are counted, and a listing makes them good.
func TestLinksOverrun(t *testing.T) {
	enterFreshNetns(t)
	links := mustOpenLinks(t)
	if err := links.socket.SetReceiveBufferSize(4096, true); err != nil {
		t.Fatal(err)
	}
	addLink(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
	for i := range 50 {
		if err := netlink.LinkSetName(mustLink(t, fmt.Sprintf("br%d", i)), fmt.Sprintf("br%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	changes := followLinks(t, links)
	await(t, changes, "the link has its last name", named("br50"))
	eventually(t, "the overrun is counted", func() bool { return links.Losses()[0].Count > 0 })
	if links.Losses()[0].Place != "netlink_overrun" {
		t.Errorf("losses %+v", links.Losses())
	}
}

func TestNote(t *testing.T) {
	veth := Link{Index: 5, Name: "veth5", Kind: "veth", PeerNetnsID: -1}
	port := veth
	port.Master = 3
	for _, tc := range []struct {
		name   string
		known  []Link
		change LinkChange
		want   []LinkChange
		after  int
	}{
		{"new", nil, LinkChange{Link: veth}, []LinkChange{{Link: veth}}, 1},
		{"same", []Link{veth}, LinkChange{Link: veth}, nil, 1},
		{"changed", []Link{veth}, LinkChange{Link: port}, []LinkChange{{Link: port}}, 1},
		{"gone", []Link{veth}, LinkChange{Link: veth, Gone: true}, []LinkChange{{Link: veth, Gone: true}}, 0},
		{"gone twice", nil, LinkChange{Link: veth, Gone: true}, nil, 0},
		{
			"gone without a word on its kind",
			[]Link{veth},
			LinkChange{Link: Link{Index: 5, Name: "veth5"}, Gone: true},
			[]LinkChange{{Link: Link{Index: 5, Name: "veth5", Kind: "veth"}, Gone: true}},
			0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			known := make(map[int]Link)
			for _, l := range tc.known {
				known[l.Index] = l
			}
			var got []LinkChange
			note(known, tc.change, func(c LinkChange) { got = append(got, c) })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(known) != tc.after {
				t.Errorf("%d links known, want %d", len(known), tc.after)
			}
		})
	}
}

// linkMessage is an event on a link as the kernel sends it: here, the veth "v" of index 5 that went to namespace 2.
func linkMessage() syscall.NetlinkMessage {
	data := make([]byte, unix.SizeofIfInfomsg)
	data[4] = 5
	attribute := func(kind uint16, value ...byte) {
		length := 4 + len(value)
		data = append(data, byte(length), 0, byte(kind), byte(kind>>8))
		data = append(data, value...)
		data = append(data, make([]byte, -len(data)&3)...)
	}
	attribute(unix.IFLA_IFNAME, 'v', 0)
	attribute(unix.IFLA_LINKINFO, 9, 0, unix.IFLA_INFO_KIND, 0, 'v', 'e', 't', 'h', 0, 0, 0, 0)
	attribute(iflaNewNetnsID, 2, 0, 0, 0)
	attribute(iflaNewIfindex, 7, 0, 0, 0)
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_DELLINK}, Data: data}
}

func TestParseLink(t *testing.T) {
	bridgeNews, short, route := linkMessage(), linkMessage(), linkMessage()
	bridgeNews.Data[0] = unix.AF_BRIDGE
	short.Data = short.Data[:unix.SizeofIfInfomsg-1]
	route.Header.Type = unix.RTM_NEWROUTE
	for _, tc := range []struct {
		name    string
		message syscall.NetlinkMessage
		want    LinkChange
		ok      bool
	}{
		{"moved", linkMessage(), LinkChange{
			Link: Link{Index: 5, Name: "v", Kind: "veth", PeerNetnsID: -1}, Gone: true, MovedNetnsID: 2, MovedIndex: 7,
		}, true},
		{"a bridge's news of its port", bridgeNews, LinkChange{}, false},
		{"cut short", short, LinkChange{}, false},
		{"no link", route, LinkChange{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseLink(&tc.message)
			if diff := cmp.Diff(tc.want, got); diff != "" || ok != tc.ok {
				t.Errorf("ok %t, (-want +got):\n%s", ok, diff)
			}
		})
	}
}

// Whatever the bytes of an event are, reading them does not end the agent.
func FuzzParseLink(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), linkMessage().Data)
	f.Add(uint16(unix.RTM_DELLINK), make([]byte, unix.SizeofIfInfomsg))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		message := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}
		if change, ok := parseLink(&message); !ok && change != (LinkChange{}) {
			t.Errorf("no link event, but %+v", change)
		}
	})
}
