// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Container is a running container of the lab's image.
type Container struct {
	Place
	Name string
	ID   string
	PID  int // of its first process, as the lab host sees it

	engine   *Engine
	networks map[string]endpoint
}

type endpoint struct {
	IPAddress         string
	GlobalIPv6Address string
	MacAddress        string
	Gateway           string
}

// Run starts a container with the given options of `docker run`, until the test ends. Without a command it sleeps.
func (e *Engine) Run(tb testing.TB, name string, options []string, command ...string) *Container {
	tb.Helper()
	c := e.Start(tb, name, options, command...)
	tb.Cleanup(func() { e.Docker(tb, "rm", "--force", name) })
	return c
}

// Start is Run for a container that the caller removes, or that takes the place of one that Run started.
func (e *Engine) Start(tb testing.TB, name string, options []string, command ...string) *Container {
	tb.Helper()
	if len(command) == 0 {
		command = []string{"sleep"}
	}
	args := append([]string{"run", "--detach", "--name", name}, options...)
	args = append(args, Image, "traffic")
	e.Docker(tb, append(args, command...)...)
	return e.Inspect(tb, name)
}

// RunInVain makes a container, until the test ends, that the engine cannot start. It returns the name.
func (e *Engine) RunInVain(tb testing.TB, name string, options ...string) string {
	tb.Helper()
	args := append([]string{"run", "--detach", "--name", name}, options...)
	out, err := try(e.command(append(args, Image, "traffic", "sleep")...)...)
	tb.Cleanup(func() { e.Docker(tb, "rm", "--force", name) })
	if err == nil {
		tb.Fatalf("%s was started: %s", name, out)
	}
	return name
}

// RunOnce runs a container that Docker removes as soon as its command ends, and returns what the command reported.
// It is safe to use in parallel.
func (e *Engine) RunOnce(name string, options []string, command ...string) (Report, error) {
	args := append([]string{"run", "--rm", "--name", name}, options...)
	args = append(args, Image, "traffic")
	out, err := try(e.command(append(args, command...)...)...)
	if err != nil {
		return Report{}, err
	}
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return Report{}, fmt.Errorf("read report %q: %w", out, err)
	}
	return r, nil
}

// Inspect returns a container as it is now.
func (e *Engine) Inspect(tb testing.TB, name string) *Container {
	tb.Helper()
	var inspected []struct {
		ID    string `json:"Id"`
		State struct {
			PID int `json:"Pid"`
		}
		NetworkSettings struct {
			Networks map[string]endpoint
		}
	}
	if err := json.Unmarshal([]byte(e.Docker(tb, "inspect", name)), &inspected); err != nil {
		tb.Fatalf("inspect %s: %v", name, err)
	}
	got := inspected[0]
	return &Container{
		Place: Place{
			NetNS: "/proc/" + strconv.Itoa(got.State.PID) + "/ns/net",
			exec:  e.command("exec", name, "traffic"),
		},
		Name: name, ID: got.ID, PID: got.State.PID, engine: e, networks: got.NetworkSettings.Networks,
	}
}

// Network makes a network with the given options of `docker network create`, until the test ends.
func (e *Engine) Network(tb testing.TB, name string, options ...string) string {
	tb.Helper()
	e.Docker(tb, append(append([]string{"network", "create"}, options...), name)...)
	tb.Cleanup(func() { e.Docker(tb, "network", "rm", name) })
	return name
}

// Bridge returns the name of the Linux bridge that belongs to a network.
func (e *Engine) Bridge(tb testing.TB, network string) string {
	tb.Helper()
	if network == "bridge" {
		return "docker0"
	}
	return "br-" + e.Docker(tb, "network", "inspect", "--format", "{{.Id}}", network)[:12]
}

// Serve starts a listener in a container and waits until it listens.
func (e *Engine) Serve(tb testing.TB, name string, options []string, command string, port uint16, flags ...string) *Container {
	tb.Helper()
	c := e.Run(tb, name, options, append([]string{command, strconv.Itoa(int(port))}, flags...)...)
	c.awaitListener(tb, port)
	return c
}

// Addr returns the container's IPv4 address, or its IPv6 address, in a network.
func (c *Container) Addr(tb testing.TB, network string, family Family) netip.Addr {
	tb.Helper()
	text := c.networks[network].IPAddress
	if family == IPv6 {
		text = c.networks[network].GlobalIPv6Address
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		tb.Fatalf("%s has no %s address in network %s", c.Name, family, network)
	}
	return addr
}

// HardwareAddr returns the container's hardware address in a network.
func (c *Container) HardwareAddr(network string) string { return c.networks[network].MacAddress }

// Gateway returns the IPv4 address of a network's bridge.
func (c *Container) Gateway(network string) string { return c.networks[network].Gateway }

// Remove kills and removes the container.
func (c *Container) Remove(tb testing.TB) {
	tb.Helper()
	c.engine.Docker(tb, "rm", "-f", c.Name)
}

// Wait waits for the container's end and returns what its traffic program reported.
func (c *Container) Wait(tb testing.TB) Report {
	tb.Helper()
	c.engine.Docker(tb, "wait", c.Name)
	return c.Report(tb)
}

// Report returns what the container's first process reported.
func (c *Container) Report(tb testing.TB) Report {
	tb.Helper()
	return parseReport(tb, c.engine.Docker(tb, "logs", c.Name))
}

// HostLink returns the name of the host's end of one of the container's veth devices.
func (c *Container) HostLink(tb testing.TB, device string) string {
	tb.Helper()
	link, err := netlink.LinkByIndex(c.link(tb, device).Attrs().ParentIndex)
	if err != nil {
		tb.Fatalf("find host end of %s's %s: %v", c.Name, device, err)
	}
	return link.Attrs().Name
}

// DeviceOn returns the name of the container's device in a network, found by its hardware address.
func (c *Container) DeviceOn(tb testing.TB, network string) string {
	tb.Helper()
	handle := c.netlink(tb)
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		tb.Fatal(err)
	}
	want, err := net.ParseMAC(c.HardwareAddr(network))
	if err != nil {
		tb.Fatalf("%s is not on network %s", c.Name, network)
	}
	for _, link := range links {
		if strings.EqualFold(link.Attrs().HardwareAddr.String(), want.String()) {
			return link.Attrs().Name
		}
	}
	tb.Fatalf("%s has no device on network %s", c.Name, network)
	return ""
}

// link returns a device of the place.
func (p Place) link(tb testing.TB, device string) netlink.Link {
	tb.Helper()
	handle := p.netlink(tb)
	defer handle.Close()
	link, err := handle.LinkByName(device)
	if err != nil {
		tb.Fatalf("find device %s: %v", device, err)
	}
	return link
}

func (p Place) netlink(tb testing.TB) *netlink.Handle {
	tb.Helper()
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		tb.Fatalf("open namespace %s: %v", p.NetNS, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		tb.Fatalf("open netlink in %s: %v", p.NetNS, err)
	}
	return handle
}
