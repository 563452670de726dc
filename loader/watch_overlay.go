// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// OverlayDevice is a watched device in an overlay network's namespace.
type OverlayDevice struct {
	ID DeviceID
	// Link is the device as it was at the last look, numbered as in its own namespace. A veth's Peer is the ifindex of its other
	// end, in the namespace of the container, the load balancer or the mesh that it leads to, or on the way there.
	Link Link
}

// place is where a device of another namespace is. The path of a namespace may be another's tomorrow.
type place struct {
	netns Netns
	index int
	mac   [6]byte // tells it from one before it where Netns is an inode, which is used again as ifindexes are
}

// WatchOverlay attaches to what is not yet watched in the overlay network's namespace at path: each veth, through which a
// container, a load balancer or the mesh is reached, and if vxlan is set each VXLAN device. It returns all that is watched there.
// Counts of a veth are as who is behind it sees them; those of a VXLAN device as this node does: TX is what it was given to send,
// before it looked for a node to send it to. Devices that are there no more are let go. What a veth carried before counts as a loss
// if it was not there the last time, and so does what a VXLAN device has carried since it was there and not asked for. After an
// error the others are watched nonetheless. When ctx ends the rest is left.
//
// ErrNetnsGone: the namespace is no more. It enters the namespace, which it does not keep alive. Looking takes less than a
// millisecond, attaching about 25 ms for each device, in between of which others have their turn.
func (f *Flows) WatchOverlay(ctx context.Context, path string, vxlan bool) ([]OverlayDevice, error) {
	return f.watchOverlay(ctx, path, vxlan, 0)
}

// watchOverlay does so. moved is the ifindex of a device that has just gone there, which alone is attached to: all that it ever
// carried before counts as a loss. 0: whatever is there.
func (f *Flows) watchOverlay(ctx context.Context, path string, vxlan bool, moved int) ([]OverlayDevice, error) {
	o := overlayLook{Flows: f, path: path, vxlan: vxlan, moved: moved, watched: f.placed()} // before it looks: what comes meanwhile is not gone
	err := inNetns(path, func() error { return o.here(ctx) })
	return o.devices, err
}

// overlayLook is one look at an overlay's namespace.
type overlayLook struct {
	*Flows
	path    string
	vxlan   bool
	moved   int
	again   bool                // all was watched there before
	watched map[place]placement // what was before the look, without what it has found
	devices []OverlayDevice     // that are watched
}

// here looks at the calling thread's namespace.
func (o *overlayLook) here(ctx context.Context) error {
	links, err := listOverlay()
	if err != nil {
		return fmt.Errorf("watch overlay %s: %w", o.path, err)
	}
	netns := OwnNetns()
	o.overlays.Lock()
	o.again = o.looked[netns]
	o.overlays.Unlock()
	var errs []error
	for _, l := range links {
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
		p := place{netns, l.Index, l.MAC}
		known, found := o.watched[p]
		delete(o.watched, p)
		id := known.id
		if !found {
			id, found, err = o.attachTo(l, p)
			errs = append(errs, unlessGone(err))
		}
		if found {
			o.devices = append(o.devices, OverlayDevice{ID: id, Link: l})
		}
	}
	for p, known := range o.watched { // there no more, nor is its namespace if that was another
		if p.netns == netns || known.path == o.path {
			errs = append(errs, o.Unwatch(known.id))
		}
	}
	if o.moved == 0 {
		o.overlays.Lock()
		o.looked[netns] = true
		o.overlays.Unlock()
	}
	return errors.Join(errs...)
}

// attachTo attaches to a device unless somebody has meanwhile; false: it is not watched.
func (o *overlayLook) attachTo(l Link, p place) (DeviceID, bool, error) {
	o.overlays.Lock()
	defer o.overlays.Unlock()
	if known, found := o.placed()[p]; found {
		return known.id, true, nil
	}
	veth, fresh := l.Kind == "veth", o.moved == l.Index
	if o.moved != 0 && !fresh {
		return 0, false, nil
	}
	if !veth && !o.vxlan {
		return 0, false, o.skip(l, p, fresh || o.again)
	}
	carried, skipped := o.skipped[p]
	d := &device{kind: l.Kind, sandbox: o.path, place: p, carried: carried}
	id, err := o.watchOwn(l, d, veth, fresh || skipped || veth && o.again)
	if err != nil {
		return 0, false, err
	}
	delete(o.skipped, p)
	return id, true, nil
}

// skip remembers what a VXLAN device has carried that may have to be watched once it is known whose it is. overlays is held.
func (o *overlayLook) skip(l Link, p place, born bool) (err error) {
	if _, known := o.skipped[p]; known {
		return nil
	}
	var carried uint64
	if !born {
		if carried, err = packetsSeen(l.Index); err != nil {
			return fmt.Errorf("watch %s: %w", l.Name, err)
		}
	}
	o.skipped[p] = carried
	return nil
}

// placement is a watched device of an overlay, under the path by which its namespace was entered.
type placement struct {
	id   DeviceID
	path string
}

// placed returns what is watched in overlays' namespaces.
func (f *Flows) placed() map[place]placement {
	f.mu.Lock()
	defer f.mu.Unlock()
	watched := make(map[place]placement)
	for id, d := range f.devices {
		if d.place != (place{}) && !d.gone {
			watched[d.place] = placement{id, d.sandbox}
		}
	}
	return watched
}

// forgetOverlays forgets of the namespaces of which nothing is watched that they were looked at.
func (f *Flows) forgetOverlays() {
	f.overlays.Lock()
	defer f.overlays.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	alive := make(map[Netns]bool)
	for _, d := range f.devices {
		alive[d.place.netns] = true
	}
	for netns := range f.looked {
		if !alive[netns] {
			delete(f.looked, netns)
		}
	}
	for p := range f.skipped {
		if !alive[p.netns] {
			delete(f.skipped, p)
		}
	}
}

// listOverlay lists what may be watched of the calling thread's namespace, which is an overlay's.
func listOverlay() ([]Link, error) {
	found, err := allLinks()
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, l := range found {
		if kind := l.Type(); kind == "veth" || kind == "vxlan" {
			links = append(links, newLink(l))
		}
	}
	return links, nil
}

// overlayHook is a clsact filter in an overlay's namespace, which has to be entered to remove it.
type overlayHook struct {
	path  string
	place place
	inner hook
}

// Close removes it there. A device that is gone took it along, and another in its place may have one of its own.
func (h *overlayHook) Close() error {
	err := inNetns(h.path, func() error {
		if !h.place.isHere() {
			return nil
		}
		return h.inner.Close()
	})
	if errors.Is(err, ErrNetnsGone) {
		return nil
	}
	return err
}

// gone tells whether the device that it was on is no more.
func (h *overlayHook) gone() bool {
	here := true
	err := inNetns(h.path, func() error {
		here = h.place.isHere()
		return nil
	})
	return errors.Is(err, ErrNetnsGone) || !here
}

// isHere tells whether the device is there, in the calling thread's namespace. What cannot be asked is taken for there.
func (p place) isHere() bool {
	if OwnNetns() != p.netns {
		return false
	}
	l, err := netlink.LinkByIndex(p.index)
	if err != nil {
		return !isLinkNotFound(err)
	}
	return newLink(l).MAC == p.mac
}

// watchMoved watches a device that went from the host's namespace into another, if that is an overlay's. There it is a bridge's
// port before the container at its other end starts: the engine moves that one, and begins, about 250 ms later.
func (w *watcher) watchMoved(ctx context.Context, change LinkChange) error {
	if w.observer.SandboxFolder == nil || change.MovedNetnsID < 0 || change.Kind != "veth" && change.Kind != "vxlan" {
		return nil
	}
	overlay, found, err := findOverlay(w.observer.SandboxFolder(), change.MovedNetnsID)
	if err != nil || !found {
		return err
	}
	devices, err := w.flows.watchOverlay(ctx, overlay.Path, w.observer.Encrypted(overlay.Network), change.MovedIndex)
	if len(devices) > 0 {
		w.observer.OverlayWatched(overlay.Path, devices)
	}
	if errors.Is(err, ErrNetnsGone) {
		return nil
	}
	return err
}
