// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OverlayConfig says how much is kept.
type OverlayConfig struct {
	TableSize uint32 // what one peer sends or gets on one network or channel, between two reads; 0: the object's 8,192
}

// maxManagerPorts is how many managers' ports are told apart from others: OVERLAY_MANAGER_PORTS.
const maxManagerPorts = 6

// maxOverlaySums is how many networks and channels the table without addresses has room for.
const maxOverlaySums = 1024

// Overlays counts what this node and the others of its Swarm send each other. All methods may be called concurrently.
type Overlays struct {
	objects overlayKernel
	detail  *table[overlayOverlayKey, overlayOverlayValue]
	other   *table[overlayOverlayKey, overlayOverlayValue] // without addresses: what found no room in detail
	clock   kernelClock

	reading   sync.Mutex
	tableFull uint64 // counter at the last Read

	mu sync.Mutex
	attacher
	devices      map[int][]hook // by ifindex
	ports        overlayOverlayPorts
	newest       int // the highest ifindex of a link that was not watched from its beginning, and need not have been
	beforeAttach uint64
}

// overlayKernel is what is loaded of the object.
type overlayKernel struct {
	Ingress  *ebpf.Program `ebpf:"overlay_ingress"`
	Egress   *ebpf.Program `ebpf:"overlay_egress"`
	Config   *ebpf.Map     `ebpf:"overlay_config"`
	Detail   *ebpf.Map     `ebpf:"overlays"`
	Other    *ebpf.Map     `ebpf:"overlays_other"`
	Counters *ebpf.Map     `ebpf:"overlay_counters"`
}

// OpenOverlay loads the programs. Nothing is counted before there are devices; before there are ports only ESP is. Needs
// 5.10, CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
func OpenOverlay(config OverlayConfig) (*Overlays, error) {
	o := &Overlays{devices: make(map[int][]hook)}
	if err := o.open(config); err != nil {
		return nil, errors.Join(explain(err), o.Close())
	}
	return o, nil
}

func (o *Overlays) open(config OverlayConfig) error {
	allowMemory()
	spec, err := loadOverlay()
	if err != nil {
		return fmt.Errorf("load overlay object: %w", err)
	}
	if err := spec.LoadAndAssign(&o.objects, nil); err != nil {
		return fmt.Errorf("load overlay object: %w", err)
	}
	o.detail, err = newTable[overlayOverlayKey, overlayOverlayValue]("overlays", o.objects.Detail, spec.Maps["overlays"], config.TableSize)
	if err != nil {
		return err
	}
	o.other, err = newTable[overlayOverlayKey, overlayOverlayValue]("overlays_other", o.objects.Other, spec.Maps["overlays_other"], maxOverlaySums)
	if err != nil {
		return err
	}
	if o.clock, err = newKernelClock(); err != nil {
		return err
	}
	o.newest, err = newestLink()
	return err
}

// SetDevices says by which links, given by ifindex, packets leave the host and reach it: these are watched and no others.
// Ports of a bridge or a bond must not be among them, since what comes in passes them and then the link above. Links with
// VLAN or macvlan devices on top may be: each packet counts at one of them only. A link that is not there, or no longer, is
// passed over. After an error the others are watched all the same, and calling it again tries again. What a new link carried
// before counts as a loss, unless none was watched until now. Attaching takes about 20 ms for each new link, under the kernel's
// RTNL lock.
func (o *Overlays) SetDevices(indexes []int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.devices) == 0 && len(indexes) > 0 { // counting begins
		o.newest = max(o.newest, slices.Max(indexes))
	}
	var errs []error
	for index := range o.devices {
		if !slices.Contains(indexes, index) {
			errs = append(errs, o.unwatch(index))
		}
	}
	for _, index := range indexes {
		if o.devices[index] == nil {
			errs = append(errs, o.watch(index))
		}
	}
	return errors.Join(errs...)
}

func (o *Overlays) watch(index int) error {
	l, err := netlink.LinkByIndex(index)
	if isLinkNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch link %d: %w", index, err)
	}
	hooks, err := o.attach(index, l.Type())
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", l.Attrs().Name, err)
	}
	o.devices[index] = hooks
	if stats := l.Attrs().Statistics; stats != nil && index > o.newest {
		o.beforeAttach += stats.RxPackets + stats.TxPackets
	}
	return nil
}

// attach puts both programs on the link, or none. What comes to an ipvlan child came to its parent before, with the same address and
// so for this host there too: it counts at the parent alone.
func (o *Overlays) attach(index int, kind string) (hooks []hook, err error) {
	if kind != "ipvlan" {
		in, err := o.attachFirst(index, o.objects.Ingress, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS, overlayHandle)
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, in)
	}
	out, err := o.attachFirst(index, o.objects.Egress, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS, overlayHandle)
	if err != nil {
		for _, in := range hooks {
			err = errors.Join(err, in.Close())
		}
		return nil, err
	}
	return append(hooks, out), nil
}

func (o *Overlays) unwatch(index int) error {
	o.newest = max(o.newest, index) // no new link, if it is to be watched again
	var errs []error
	for _, h := range o.devices[index] {
		if err := h.Close(); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("unwatch link %d: %w", index, err))
		}
	}
	delete(o.devices, index)
	return errors.Join(errs...)
}

// SetPorts says where the Swarm's nodes listen, from now on.
func (o *Overlays) SetPorts(ports OverlayPorts) error {
	config := overlayOverlayPorts{Data: ports.Data, Gossip: ports.Gossip}
	managers := slices.Sorted(slices.Values(ports.Managers)) // often each manager's, and all the same
	copy(config.Managers[:maxManagerPorts], slices.Compact(managers))
	o.mu.Lock()
	defer o.mu.Unlock()
	if config == o.ports {
		return nil
	}
	if err := o.objects.Config.Put(uint32(0), config); err != nil {
		return fmt.Errorf("set ports of the swarm: %w", err)
	}
	o.ports = config
	return nil
}

// Read returns all that was counted since the last Read. After an error some may come with the next one; none is lost.
func (o *Overlays) Read() ([]OverlayTraffic, error) {
	o.reading.Lock()
	defer o.reading.Unlock()
	origin := o.clock.origin()
	var traffic []OverlayTraffic
	visit := func(k *overlayOverlayKey, v *overlayOverlayValue) {
		traffic = append(traffic, newOverlayTraffic(k, v, origin))
	}
	err := o.detail.drain(visit)
	return traffic, errors.Join(err, o.readOther(visit))
}

// readOther looks where something is only after the table was full, since each table's reading waits for the kernel.
func (o *Overlays) readOther(visit func(*overlayOverlayKey, *overlayOverlayValue)) error {
	counters, err := readPerCPU(o.objects.Counters)
	if err != nil {
		return err
	}
	full := counters[overlayOverlayCounterOVERLAY_TABLE_FULL]
	if full == o.tableFull {
		return nil
	}
	if err := o.other.drain(visit); err != nil {
		return err
	}
	o.tableFull = full
	return nil
}

func newOverlayTraffic(k *overlayOverlayKey, v *overlayOverlayValue, origin time.Time) OverlayTraffic {
	return OverlayTraffic{
		Channel:   channelNames()[k.Channel],
		Outgoing:  k.Outgoing != 0,
		Local:     address(k.Local),
		Peer:      address(k.Peer),
		VNI:       k.Vni,
		Malformed: k.Malformed != 0,
		Counts:    Counts{Skbs: v.Skbs, Packets: v.Packets, Bytes: v.Bytes},
		Last:      origin.Add(time.Duration(v.LastNs)),
	}
}

// channelNames are by the program's numbers.
func channelNames() [6]Channel {
	return [...]Channel{
		overlayOverlayChannelOVERLAY_VXLAN:      ChannelVXLAN,
		overlayOverlayChannelOVERLAY_ESP:        ChannelESP,
		overlayOverlayChannelOVERLAY_GOSSIP_UDP: ChannelGossipUDP,
		overlayOverlayChannelOVERLAY_GOSSIP_TCP: ChannelGossipTCP,
		overlayOverlayChannelOVERLAY_MANAGER:    ChannelManager,
	}
}

// Losses says what could not be recorded in full since the start: packets of any kind that a new link had carried before it
// was watched (before_attach), packets that found no room with their addresses (table_full), those of them not counted at all (lost), and packets
// of any kind that end before their ports, so that nobody knows whether they should count (unparsed).
func (o *Overlays) Losses() ([]Loss, error) {
	counters, err := readPerCPU(o.objects.Counters)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return []Loss{
		{Place: "before_attach", Count: o.beforeAttach},
		{Place: "table_full", Count: counters[overlayOverlayCounterOVERLAY_TABLE_FULL]},
		{Place: "lost", Count: counters[overlayOverlayCounterOVERLAY_LOST]},
		{Place: "unparsed", Count: counters[overlayOverlayCounterOVERLAY_NOT_PARSED]},
	}, nil
}

// Costs says what the programs have cost, while the kernel measured them.
func (o *Overlays) Costs() ([]ProgramCost, error) {
	ingress, _, err := programCost("overlay_ingress", o.objects.Ingress)
	if err != nil {
		return nil, err
	}
	egress, _, err := programCost("overlay_egress", o.objects.Egress)
	return []ProgramCost{ingress, egress}, err
}

// Usage says how full the tables were at the last Read.
func (o *Overlays) Usage() []MapUsage {
	return []MapUsage{o.detail.usage(), o.other.usage()}
}

// Devices counts the watched links, all of which are uplinks.
func (o *Overlays) Devices() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return map[string]int{"uplink": len(o.devices)}
}

// Close detaches from all links. What was not read is lost.
func (o *Overlays) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, index := range slices.Collect(maps.Keys(o.devices)) {
		errs = append(errs, o.unwatch(index))
	}
	for _, t := range []*table[overlayOverlayKey, overlayOverlayValue]{o.detail, o.other} {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	k := &o.objects
	errs = append(errs, closeAll(k.Ingress, k.Egress, k.Config, k.Detail, k.Other, k.Counters))
	return errors.Join(errs...)
}
