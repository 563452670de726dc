// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bridgewatch/bridgewatch/loader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostNetns is the host's own namespace in these tests.
const hostNetns loader.Netns = 1

// Its own links, by ifindex.
const (
	uplink     = 2  // its only hardware
	webBridge  = 10 // of the network web
	backBridge = 20 // of the network back
)

// world is a host whose clock and namespaces a test moves.
type world struct {
	*State
	t   *testing.T
	now time.Time

	// netnsIDs numbers the namespaces of processes. As in the kernel a namespace has a number once a link leads there.
	netnsIDs map[int]int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), netnsIDs: make(map[int]int)}
	w.State = NewState(Config{
		Host:           hostNetns,
		ContainerLabel: ContainerByName,
		NetnsID:        w.netnsID,
		Now:            func() time.Time { return w.now },
	})
	w.listed = true
	w.LinkChanged(loader.LinkChange{Link: loader.Link{Index: 1, Name: "lo", Loopback: true, PeerNetnsID: -1}, MovedNetnsID: -1})
	w.SetNetworks([]Network{bridgeNetwork("web", "172.30.1."), bridgeNetwork("back", "172.30.2.")})
	w.SetHostAddresses(addresses("192.0.2.1", "172.30.1.1", "172.30.2.1"))
	w.LinkChanged(change(loader.Link{Index: uplink, Name: "eth0", Kind: "device", PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: webBridge, Name: "br-web", Kind: "bridge", PeerNetnsID: -1}))
	w.LinkChanged(change(loader.Link{Index: backBridge, Name: "br-back", Kind: "bridge", PeerNetnsID: -1}))
	return w
}

func bridgeNetwork(name, prefix string) Network {
	return Network{
		ID: idOf("network " + name), Name: name, Driver: "bridge", Scope: "local", Bridge: "br-" + name,
		Subnets: []netip.Prefix{netip.MustParsePrefix(prefix + "0/24")}, Gateways: addresses(prefix + "1"),
		ICC: true, Masquerade: true,
	}
}

var errNoProcess = errors.New("no such process")

func (w *world) netnsID(pid int) (int, error) {
	if pid == 0 {
		w.t.Error("asked for the namespace of process 0")
	}
	number, known := w.netnsIDs[pid]
	if !known {
		return -1, errNoProcess
	}
	return number, nil
}

func (w *world) wait(d time.Duration) { w.now = w.now.Add(d) }

// idOf makes the 64 digits of an ID.
func idOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

func addresses(texts ...string) []netip.Addr {
	list := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// container is a running one without a network.
func (w *world) container(name string) Container {
	return Container{
		ID: idOf(name), Name: name, NetworkMode: "none", PID: pidOf(name), Running: true, StartedAt: w.now,
		SandboxKey: "/var/run/docker/netns/" + idOf(name)[:12],
	}
}

// pidOf gives each name a process of its own.
func pidOf(name string) int {
	sum := sha256.Sum256([]byte(name))
	return 1000 + int(sum[0])<<8 + int(sum[1])
}

// on puts a container on a network, with one address and the MAC that ends in its last number.
func on(c Container, network, address string) Container {
	a := netip.MustParseAddr(address)
	c.NetworkMode = network
	c.Endpoints = append(c.Endpoints, Endpoint{
		NetworkID: idOf("network " + network), Network: network, MAC: macOf(a), Addresses: []netip.Addr{a},
		Names: []string{c.Name, c.ID[:shortID]},
	})
	return c
}

func macOf(a netip.Addr) [6]byte {
	four := a.As4()
	return [6]byte{2, 0x42, four[0], four[1], four[2], four[3]}
}

func change(l loader.Link) loader.LinkChange {
	return loader.LinkChange{Link: l, MovedNetnsID: -1}
}

// veth is the host's end of a container's device, on a bridge.
func veth(index, bridge, netnsID int) loader.LinkChange {
	return change(loader.Link{
		Index: index, Kind: "veth", Name: "veth", Master: bridge, Peer: index + 1000, PeerNetnsID: netnsID,
	})
}

func gone(c loader.LinkChange) loader.LinkChange {
	c.Gone = true
	return c
}

func processOf(name string, netns loader.Netns) loader.Process {
	return loader.Process{Netns: netns, PID: pidOf(name), Cgroup: idOf(name)}
}

// connected is a container on a bridge network with everything known: its veth and namespace have the same number.
func (w *world) connected(c Container, bridge, index int) Container {
	w.t.Helper()
	w.netnsIDs[c.PID] = index
	w.LinkChanged(veth(index, bridge, index))
	w.PutContainer(c)
	w.Process(loader.Process{Netns: loader.Netns(index), PID: c.PID, Cgroup: c.ID})
	return c
}

// flowAt returns what is made at once of a flow of one packet at a device.
func (w *world) flowAt(device loader.DeviceID, local, remote string) (Flow, bool) {
	w.t.Helper()
	flows, _ := w.Attribute([]loader.Flow{flowOf(device, local, remote)}, nil)
	if len(flows) == 0 {
		return Flow{}, false
	}
	return flows[len(flows)-1], true
}

func flowOf(device loader.DeviceID, local, remote string) loader.Flow {
	one := loader.Counts{Skbs: 1, Packets: 1, Bytes: 100}
	return loader.Flow{
		Device: device, Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), RX: one, TX: one,
	}
}

// wantFlowOwner fails unless flows at the device belong to the container, whose records do not wait.
func (w *world) wantFlowOwner(device loader.DeviceID, container, network string) {
	w.t.Helper()
	flow, done := w.flowAt(device, "172.30.1.200", "198.51.100.1")
	if !done {
		w.t.Fatalf("flow at device %d waits; want it to be %s's", device, container)
	}
	if flow.Container != container || flow.Network != network || flow.Via != ViaContainer {
		w.t.Errorf("flow at device %d is of %q on %q via %q, want %q on %q",
			device, flow.Container, flow.Network, flow.Via, container, network)
	}
}

// wantNetnsOwner fails unless drops in the namespace belong to the container.
func (w *world) wantNetnsOwner(netns loader.Netns, container string) {
	w.t.Helper()
	_, drops := w.Attribute(nil, []loader.Drop{{Netns: netns, Reason: "NO_SOCKET"}})
	if len(drops) == 0 {
		w.t.Fatalf("drop in namespace %d waits; want it to be %s's", netns, container)
	}
	if d := drops[len(drops)-1]; d.Container != container || d.Scope != ScopeContainer {
		w.t.Errorf("drop in namespace %d is of %q, scope %q; want %q", netns, d.Container, d.Scope, container)
	}
}

// live finds a running container in the inventory.
func (w *world) live(name string) LiveContainer {
	w.t.Helper()
	for _, c := range w.Inventory().Containers {
		if c.Name == name {
			return c
		}
	}
	w.t.Fatalf("no container %s in the inventory", name)
	return LiveContainer{}
}
