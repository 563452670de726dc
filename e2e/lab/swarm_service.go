// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Network makes an attachable overlay network with the given options of `docker network create`. It ends with the Swarm. A node
// other than the manager knows it as soon as somebody there is on it.
func (s *Swarm) Network(tb testing.TB, name string, options ...string) string {
	tb.Helper()
	s.Manager.Docker(tb, append(append([]string{"network", "create", "--driver", "overlay", "--attachable"}, options...), name)...)
	return name
}

// Service makes a service with the given options of `docker service create`. It ends with the Swarm. Without a command its tasks
// sleep. It does not wait for them: see [Node.Task].
func (s *Swarm) Service(tb testing.TB, name string, options []string, command ...string) {
	tb.Helper()
	if len(command) == 0 {
		command = []string{"sleep"}
	}
	args := append([]string{"service", "create", "--detach", "--no-resolve-image", "--name", name}, options...)
	s.Manager.Docker(tb, append(append(args, Image, "traffic"), command...)...)
}

// On is the option of a service whose tasks shall all run on one node.
func (n *Node) On() string { return "--constraint=node.hostname==" + n.Hostname }

// Task waits for a service's task on the node, with the given slot, or any with slot 0, and returns its container.
func (n *Node) Task(tb testing.TB, service string, slot int) *Container {
	tb.Helper()
	name := service + "."
	if slot > 0 {
		name += strconv.Itoa(slot) + "."
	}
	var id string
	Eventually(tb, time.Minute, fmt.Sprintf("a task %s… on %s", name, n.Hostname), func() bool {
		ids, err := try(n.command("ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+service, "--filter", "name=^"+name)...)
		found := strings.Fields(ids)
		if err != nil || len(found) != 1 {
			return false
		}
		id = found[0]
		return true
	})
	return n.Inspect(tb, id)
}

// Overlay is the namespace where a node keeps a network's bridge and VXLAN devices. It must have one.
func (n *Node) Overlay(tb testing.TB, network string) Place {
	tb.Helper()
	id := n.Docker(tb, "network", "inspect", "--format", "{{.Id}}", network)
	found, err := filepath.Glob(filepath.Join(n.Sandboxes(), "*-"+id[:10]))
	if err != nil || len(found) != 1 {
		tb.Fatalf("find namespace of %s on %s: %d, %v", network, n.Hostname, len(found), err)
	}
	return namespacePlace(tb, found[0])
}

// LoadBalancer is the namespace where a node serves a network's virtual addresses. It must have one.
func (n *Node) LoadBalancer(tb testing.TB, network string) Place {
	tb.Helper()
	id := n.Docker(tb, "network", "inspect", "--format", "{{.Id}}", network)
	return n.Sandbox(tb, "lb_"+id[:9])
}

// VNI returns the number of a network that the node knows. The manager gives it one a moment after it was made.
func (n *Node) VNI(tb testing.TB, network string) (vni uint32) {
	tb.Helper()
	const option = "com.docker.network.driver.overlay.vxlanid_list"
	Eventually(tb, 30*time.Second, "a number for network "+network, func() bool {
		text := n.Docker(tb, "network", "inspect", "--format", `{{index .Options "`+option+`"}}`, network)
		if text != "" {
			vni = uint32(number(tb, text))
		}
		return text != ""
	})
	return vni
}
