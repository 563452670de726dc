// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// watchQueue is how many links may wait to be attached to; beyond it the kernel's socket buffer holds the news.
const watchQueue = 8192

// Observer is told what happens to links. Its functions are called one at a time each, but not by one goroutine.
type Observer struct {
	// LinkChanged gets every change of the host's links, in the kernel's order, before anything is attached.
	LinkChanged func(LinkChange)
	// DeviceMoved says which namespace a device watched from its birth went to.
	DeviceMoved func(DeviceID, LinkChange)
	// Failed gets what could not be watched.
	Failed func(error)

	// SandboxFolder says where the engine keeps its namespaces; "": not known yet. nil: nothing that goes into an overlay
	// network's namespace is watched there, and the two functions after it are not called.
	SandboxFolder func() string
	// Encrypted tells whether the overlay network whose ID begins so is encrypted: then its VXLAN devices are watched too.
	Encrypted func(network string) bool
	// OverlayWatched gets all that is watched in an overlay network's namespace, each time that something has gone there.
	OverlayWatched func(path string, devices []OverlayDevice)
}

// Watch follows the host's links and keeps all devices watched that a container is reached through: veths that are a
// bridge's ports, bridges, macvlan and ipvlan children, and veths that go into an overlay's namespace. Attaching is slow, so
// there is a queue for it, in which news of the moment overtakes what a listing found: a container that starts now must be
// watched before its first packet. flows may be nil. Watch returns when ctx ends.
func Watch(ctx context.Context, links *Links, flows *Flows, observer Observer) error {
	w := &watcher{flows: flows, observer: observer, children: make(map[int]DeviceID)}
	news := make(chan LinkChange, watchQueue)
	listed := make(chan LinkChange, watchQueue)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return links.Run(ctx, func(change LinkChange) {
			observer.LinkChanged(change)
			queue := news
			if change.Listed && !change.Gone {
				queue = listed
			}
			select {
			case queue <- change:
			case <-ctx.Done():
			}
		})
	})
	group.Go(func() error {
		w.run(ctx, news, listed)
		return nil
	})
	return group.Wait()
}

type watcher struct {
	flows    *Flows
	observer Observer
	children map[int]DeviceID // macvlan and ipvlan devices still in the host's namespace, by ifindex
}

func (w *watcher) run(ctx context.Context, news, listed <-chan LinkChange) {
	for {
		select {
		case change := <-news:
			w.handle(ctx, change)
			continue
		default:
		}
		select {
		case change := <-news:
			w.handle(ctx, change)
		case change := <-listed:
			w.handle(ctx, change)
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) handle(ctx context.Context, change LinkChange) {
	if w.flows == nil {
		return
	}
	var err error
	if change.Gone {
		err = w.gone(ctx, change)
	} else {
		err = w.watch(change)
	}
	if err := unlessGone(err); err != nil {
		w.observer.Failed(err)
	}
}

// unlessGone passes an error on, unless it is that a device was gone before its turn came.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENODEV) || isLinkNotFound(err) {
		return nil
	}
	return err
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

func (w *watcher) watch(change LinkChange) error {
	var err error
	switch change.Kind {
	case "bridge":
		_, err = w.flows.WatchOutside(change.Link, !change.Listed)
	case "veth":
		if change.Master != 0 {
			_, err = w.flows.WatchOutside(change.Link, !change.Listed)
		}
	case "macvlan", "ipvlan":
		if _, known := w.children[change.Index]; known {
			return nil
		}
		var id DeviceID
		if id, err = w.flows.WatchInside(change.Link, !change.Listed); err == nil {
			w.children[change.Index] = id
		}
	}
	return err
}

func (w *watcher) gone(ctx context.Context, change LinkChange) error {
	id, child := w.children[change.Index]
	if !child {
		return errors.Join(unlessGone(w.flows.Unwatch(DeviceID(change.Index))), unlessGone(w.watchMoved(ctx, change)))
	}
	delete(w.children, change.Index)
	if change.MovedNetnsID >= 0 && w.flows.SurvivesMove() {
		w.observer.DeviceMoved(id, change)
		return nil
	}
	return w.flows.Unwatch(id)
}

// WatchSandbox watches the macvlan and ipvlan children in the network namespace at path: those of a container that was
// there before the agent, or on kernels whose attachments do not follow a device. The map gives each one's ifindex there.
func (f *Flows) WatchSandbox(path string) (map[DeviceID]Link, error) {
	watched := make(map[DeviceID]Link)
	err := inNetns(path, func() error {
		links, err := allLinks()
		if err != nil {
			return err
		}
		for _, found := range links {
			l := newLink(found)
			if l.Kind != "macvlan" && l.Kind != "ipvlan" {
				continue
			}
			id, err := f.watchInside(l, path, false)
			if err != nil {
				return err
			}
			watched[id] = l
		}
		return nil
	})
	return watched, err
}

// Sweep forgets devices that died in another namespace, of which the host gets no news. A tcx link whose device is gone
// says ifindex 0; for a clsact filter the namespace is looked into.
func (f *Flows) Sweep() error {
	defer f.forgetOverlays()
	dead, inside := f.dead()
	for id, h := range inside {
		if h.gone() {
			dead = append(dead, id)
		}
	}
	var errs []error
	for _, id := range dead {
		errs = append(errs, f.Unwatch(id))
	}
	return errors.Join(errs...)
}

// insideHook is a clsact filter in another namespace, which takes some time to ask.
type insideHook interface{ gone() bool }

// dead lists the devices that have died, and for those of which it has to be asked one of each one's filters.
func (f *Flows) dead() (dead []DeviceID, inside map[DeviceID]insideHook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	inside = make(map[DeviceID]insideHook)
	for id, d := range f.devices {
		if id < ownNumbers || d.gone || len(d.hooks) == 0 {
			continue
		}
		switch h := d.hooks[0].(type) {
		case insideHook:
			inside[id] = h
		case link.Link:
			if isDetached(h) {
				dead = append(dead, id)
			}
		}
	}
	return dead, inside
}

// isDetached tells whether the device of a tcx link is gone.
func isDetached(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	tcx := info.TCX()
	return tcx != nil && tcx.Ifindex == 0
}
