// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sandboxLab is a host, which is the calling thread's namespace, and the engine's folder. The namespaces in it live as long as
// the files: nobody else holds them.
type sandboxLab struct{ folder string }

func newSandboxLab(tb testing.TB) *sandboxLab {
	tb.Helper()
	enterFreshNetns(tb)
	enterFreshMounts(tb)
	return &sandboxLab{folder: tb.TempDir()}
}

// make makes a namespace under a name, and returns its path.
func (l *sandboxLab) make(tb testing.TB, name string) (path string) {
	tb.Helper()
	path = filepath.Join(l.folder, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	defer mustClose(tb, host)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatal(err)
	}
	setUpNetns(tb)
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			tb.Error(err)
		}
	})
	return path
}

// destroy ends a namespace as the engine does, which leaves the file behind.
func (l *sandboxLab) destroy(tb testing.TB, path string) {
	tb.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		tb.Fatal(err)
	}
}

// in runs f in the namespace at path. f must not end the test.
func in(tb testing.TB, path string, f func()) {
	tb.Helper()
	err := inNetns(path, func() error {
		f()
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// moveTo moves a link of the host into the namespace at path, and returns the host's number for that.
func moveTo(tb testing.TB, name, path string) int {
	tb.Helper()
	file, err := openNetns(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer mustClose(tb, file)
	move(tb, name, namespace{file})
	return netnsID(tb, namespace{file})
}

// addVXLAN gives an overlay's namespace a bridge and a VXLAN device, as the engine does for each subnet.
func (l *sandboxLab) addVXLAN(tb testing.TB, path, name, bridge string, vni int) {
	tb.Helper()
	addLink(tb, &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "vx", MTU: 1450}, VxlanId: vni, Port: DefaultDataPort,
		Learning: true, Proxy: true, L2miss: true, L3miss: true,
	})
	moveTo(tb, "vx", path)
	in(tb, path, func() {
		quiet := false
		addLink(tb, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge, MTU: 1450}, MulticastSnooping: &quiet})
		if err := netlink.LinkSetName(mustLink(tb, "vx"), name); err != nil {
			tb.Error(err)
		}
		enslave(tb, name, bridge)
		setUp(tb, bridge)
	})
}

// enslave makes a link a bridge's port and sets it up.
func enslave(tb testing.TB, name, bridge string) {
	tb.Helper()
	if err := netlink.LinkSetMaster(mustLink(tb, name), mustLink(tb, bridge)); err != nil {
		tb.Error(err)
	}
	setUp(tb, name)
}

// connect gives a container a leg on an overlay in the engine's order: a pair on the host, one end of which goes into the overlay's
// namespace and becomes the port name. The other is eth0 in the container's, once start is called.
func (l *sandboxLab) connect(tb testing.TB, overlay, name, container, address string) (start func()) {
	tb.Helper()
	addLink(tb, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port", MTU: 1450}, PeerName: "end"})
	moveTo(tb, "port", overlay)
	in(tb, overlay, func() {
		if err := netlink.LinkSetName(mustLink(tb, "port"), name); err != nil {
			tb.Error(err)
		}
		enslave(tb, name, "br0")
	})
	return func() {
		if err := netlink.LinkSetHardwareAddr(mustLink(tb, "end"), overlayMAC(address)); err != nil {
			tb.Fatal(err)
		}
		moveTo(tb, "end", container)
		in(tb, container, func() {
			if err := netlink.LinkSetName(mustLink(tb, "end"), "eth0"); err != nil {
				tb.Error(err)
			}
			addAddress(tb, "eth0", address+"/24")
			setUp(tb, "eth0")
		})
		eventually(tb, "the bridge has noticed that the port has a carrier", func() (forwards bool) {
			in(tb, overlay, func() {
				ports := runJSON[[]struct{ State string }](tb, "bridge", "-j", "link", "show", "dev", name)
				forwards = len(ports) == 1 && ports[0].State == "forwarding"
			})
			return forwards
		})
	}
}

// overlayMAC is the one that the engine gives an endpoint.
func overlayMAC(address string) net.HardwareAddr {
	ip := netip.MustParseAddr(address).As4()
	return append(net.HardwareAddr{0x02, 0x42}, ip[:]...)
}

// overlayFrames are UDP from one endpoint to another, as their container sends them: whole, since bridges may look at it.
func overlayFrames(tb testing.TB, from, to string, count int) (frames [][]byte) {
	tb.Helper()
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
		SrcIP: netip.MustParseAddr(from).AsSlice(), DstIP: netip.MustParseAddr(to).AsSlice(),
	}
	datagram := &layers.UDP{SrcPort: 4000, DstPort: 5000}
	if err := datagram.SetNetworkLayerForChecksum(ip); err != nil {
		tb.Fatal(err)
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: overlayMAC(from), DstMAC: overlayMAC(to), EthernetType: layers.EthernetTypeIPv4},
		ip, datagram, gopacket.Payload("to whom it may concern"))
	if err != nil {
		tb.Fatal(err)
	}
	return slices.Repeat([][]byte{buffer.Bytes()}, count)
}

// overlayQuestions are ARP for an endpoint's MAC address.
func overlayQuestions(tb testing.TB, from, to string, count int) (frames [][]byte) {
	tb.Helper()
	frame := serialize(tb,
		&layers.Ethernet{SrcMAC: overlayMAC(from), DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: overlayMAC(from), SourceProtAddress: netip.MustParseAddr(from).AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(to).AsSlice(),
		})
	return slices.Repeat([][]byte{frame}, count)
}
