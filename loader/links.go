// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From include/uapi/linux/if_link.h: where a link that leaves a namespace goes to, since 4.15.
const (
	iflaNewNetnsID = 45
	iflaNewIfindex = 49
)

// linkBuffer is asked for the netlink socket. An event takes about 1.5 KiB; a thousand containers starting at once fit.
const linkBuffer = 8 << 20

// resyncPeriod is how often the host's links are listed in full, to make good whatever events may have missed.
const resyncPeriod = time.Minute

// Link is a network device of the host's namespace.
type Link struct {
	Index       int
	Name        string
	Kind        string // rtnetlink's: veth, bridge, macvlan, …; "device" for hardware and loopback
	Loopback    bool
	Master      int // ifindex of the bridge that it is a port of, 0: none
	Peer        int // ifindex of the other end or the parent, in PeerNetnsID's namespace
	PeerNetnsID int // -1: this namespace
	MTU         int
	MAC         [6]byte
}

// LinkChange is news of a link.
type LinkChange struct {
	Link

	Gone bool // from the host's namespace

	// Of a link that went into another namespace: that namespace's number as seen from the host's, and its ifindex there.
	MovedNetnsID int // -1: it did not, or is not known
	MovedIndex   int

	Listed bool // from a listing, not from an event
}

// Links follows the links of the host's network namespace.
type Links struct {
	socket   *nl.NetlinkSocket
	overruns atomic.Uint64
}

// OpenLinks subscribes to the kernel's link events.
func OpenLinks() (*Links, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link events: %w", err)
	}
	// Beyond net.core.rmem_max this needs CAP_NET_ADMIN. A smaller buffer works too: an overrun leads to a new listing.
	_ = socket.SetReceiveBufferSize(linkBuffer, true)
	return &Links{socket: socket}, nil
}

// Close ends the subscription and a Run that is waiting.
func (l *Links) Close() error {
	l.socket.Close()
	return nil
}

// Losses says how often events were lost because they came too fast; each time all links were listed anew.
func (l *Links) Losses() []Loss {
	return []Loss{{Place: "netlink_overrun", Count: l.overruns.Load()}}
}

// Run calls changed for every link that is there, then for every change, and for the differences that a listing finds:
// now and then, and after events were lost. Calls come one at a time. It returns when ctx ends, and closes the
// subscription.
func (l *Links) Run(ctx context.Context, changed func(LinkChange)) error {
	stop := context.AfterFunc(ctx, func() { l.socket.Close() })
	defer stop()
	known := make(map[int]Link)
	var listed time.Time // never yet
	if err := l.socket.SetReceiveTimeout(&unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("set receive timeout: %w", err)
	}
	for {
		if time.Since(listed) >= resyncPeriod {
			switch err := l.list(known, changed); {
			case err == nil:
				listed = time.Now()
			case !errors.Is(err, unix.EINTR):
				return err
			}
		}
		messages, _, err := l.socket.Receive()
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, unix.ENOBUFS):
			l.overruns.Add(1)
			listed = time.Time{}
		case err != nil && !temporary(err):
			return fmt.Errorf("receive link events: %w", err)
		}
		for i := range messages {
			change, ok := parseLink(&messages[i])
			if !ok {
				continue
			}
			note(known, change, changed)
		}
	}
}

// note reports a change if it is one, and remembers it.
func note(known map[int]Link, change LinkChange, changed func(LinkChange)) {
	old, had := known[change.Index]
	switch {
	case change.Gone && !had:
		return
	case change.Gone:
		delete(known, change.Index)
		if change.Kind == "" {
			change.Kind = old.Kind
		}
	case had && old == change.Link:
		return
	default:
		known[change.Index] = change.Link
	}
	changed(change)
}

// list compares what is there with what is known. EINTR: links changed all the while, and it is to be tried again.
func (l *Links) list(known map[int]Link, changed func(LinkChange)) error {
	links, err := allLinks()
	if err != nil {
		return err
	}
	present := make(map[int]bool, len(links))
	for _, found := range links {
		link := newLink(found)
		present[link.Index] = true
		note(known, LinkChange{Link: link, MovedNetnsID: -1, Listed: true}, changed)
	}
	for index, link := range known {
		if !present[index] {
			note(known, LinkChange{Link: link, Gone: true, MovedNetnsID: -1, Listed: true}, changed)
		}
	}
	return nil
}

// parseLink reads a link event; false: it is none that can be read.
func parseLink(m *syscall.NetlinkMessage) (change LinkChange, ok bool) {
	// The library panics at attributes whose lengths lie. Such an event is nothing, and the next listing makes it good.
	defer func() {
		if recover() != nil {
			change, ok = LinkChange{}, false
		}
	}()
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return LinkChange{}, false
	}
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] == unix.AF_BRIDGE { // a bridge's own news of a port
		return LinkChange{}, false
	}
	header := unix.NlMsghdr(m.Header)
	found, err := netlink.LinkDeserialize(&header, m.Data)
	if err != nil {
		return LinkChange{}, false
	}
	change = LinkChange{Link: newLink(found), Gone: m.Header.Type == unix.RTM_DELLINK, MovedNetnsID: -1}
	attributes, err := nl.ParseRouteAttr(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return change, true
	}
	for _, a := range attributes {
		if len(a.Value) < 4 {
			continue
		}
		switch a.Attr.Type {
		case iflaNewNetnsID:
			change.MovedNetnsID = int(int32(binary.NativeEndian.Uint32(a.Value)))
		case iflaNewIfindex:
			change.MovedIndex = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return change, true
}

// allLinks lists the links of the calling thread's namespace. EINTR: links changed all the while.
func allLinks() (links []netlink.Link, err error) {
	err = untilWhole(func() (err error) {
		links, err = netlink.LinkList()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w (%s)", err, needsNetlink)
	}
	return links, nil
}

// newestLink is the greatest ifindex in the calling thread's namespace: links that come later have greater ones.
func newestLink() (newest int, err error) {
	links, err := allLinks()
	for _, l := range links {
		newest = max(newest, l.Attrs().Index)
	}
	return newest, err
}

func newLink(found netlink.Link) Link {
	attrs := found.Attrs()
	link := Link{
		Index:       attrs.Index,
		Name:        attrs.Name,
		Kind:        found.Type(),
		Loopback:    attrs.RawFlags&unix.IFF_LOOPBACK != 0,
		Master:      attrs.MasterIndex,
		Peer:        attrs.ParentIndex,
		PeerNetnsID: attrs.NetNsID,
		MTU:         attrs.MTU,
	}
	copy(link.MAC[:], attrs.HardwareAddr)
	return link
}
