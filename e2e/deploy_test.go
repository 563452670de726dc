// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// agentImage is what the test calls the image that it builds.
const agentImage = "bridgewatch:lab"

// deployment is files that users deploy, and an engine for them.
type deployment struct {
	*testing.T
	engine *lab.Engine
	folder string   // a copy of the files
	env    []string // what they ask for
}

// newDeployment builds the agent's image on an engine whose namespaces containers can see.
func newDeployment(t *testing.T, flags ...string) deployment {
	t.Helper()
	lab.ShareMounts(t)
	lab.NameServer(t, netip.MustParseAddr("127.0.0.1")) // refuses at once: Swarm asks for a newer image first
	engine := lab.StartEngine(t, flags...)
	engine.BuildImage(t, "../deploy/Dockerfile", agentImage)
	return deployment{t, engine, copyDeployment(t), []string{
		"BRIDGEWATCH_IMAGE=" + agentImage,
		"BRIDGEWATCH_LISTEN_ADDRESS=" + lab.HostAddress.String() + ":10470",
		"DOCKER_SOCKET=" + strings.TrimPrefix(engine.Name, "unix://"),
		"DOCKER_NETNS=" + engine.Sandboxes(),
		"DOCKER_HOST=" + engine.Name,
	}}
}

// memlock is what of a file lifts the limit of locked memory, which no kernel from 5.11 on asks for.
var memlock = regexp.MustCompile(`(?m)^ +ulimits:\n +memlock:.*\n`)

// copyDeployment copies the files as they are, but where this machine's own privileges do not allow to lift limits.
func copyDeployment(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../deploy")); err != nil {
		t.Fatal(err)
	}
	if exec.Command("sh", "-c", "ulimit -l unlimited").Run() == nil {
		return folder
	}
	for _, name := range []string{"stack.yml", "compose.yml"} {
		file := filepath.Join(folder, name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !memlock.Match(text) {
			t.Fatalf("%s lifts no limit of locked memory", name)
		}
		if err := os.WriteFile(file, memlock.ReplaceAll(text, nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// run runs a command on the host with what the files ask for in its environment.
func (d deployment) run(command ...string) string {
	d.Helper()
	return lab.Host(d).Run(d, slices.Concat([]string{"env"}, d.env, command)...)
}

// awaitHealthy waits until the health check of the image says that the agent's container is well, and returns its ID.
func (d deployment) awaitHealthy(filter string) (id string) {
	d.Helper()
	lab.Eventually(d, 2*time.Minute, "the agent's container to be healthy", func() bool {
		id = d.engine.Docker(d, "ps", "--quiet", "--filter", filter, "--filter", "health=healthy")
		return id != ""
	})
	return id
}

// sees checks that the agent in a container sees what one on the host would, of containers that are made after its own.
func (d deployment) sees() {
	d.Helper()
	agent := &lab.Agent{URL: "http://" + lab.HostAddress.String() + ":10470"}
	sender, receiver := pair(d.T, d.engine, "later", "bridge")
	exchange(d.T, agent, "bridge", lab.IPv4, sender, receiver)
	const closed = 4242
	sent := sender.Send(d, lab.Datagrams{To: netip.AddrPortFrom(receiver.Addr(d, "bridge", lab.IPv4), closed), Count: 20})
	lost := lab.Labels{"container": "later-receiver", "scope": "container", "cause": "no-listener", "kind": "application"}
	lab.Eventually(d, 30*time.Second, "the drops inside of a container", func() bool {
		return agent.Scrape(d).Sum("bridgewatch_dropped_packets_total", lost) == sent
	})
	metrics := agent.Scrape(d)
	for _, signal := range metrics.Select("bridgewatch_signal_enabled", nil) {
		if signal.Value != 1 {
			d.Errorf("signal %s is off: %s", signal.Labels["signal"], signal.Labels["reason"])
		}
	}
	if len(metrics.Select("bridgewatch_tcp_listen_overflows_total", lab.Labels{"container": "later-receiver"})) == 0 {
		d.Error("the agent does not read the state of a container's namespace")
	}
}

// asks runs a command of the agent's program in its container.
func (d deployment) asks(id string, command ...string) string {
	d.Helper()
	return d.engine.Docker(d, append([]string{"exec", id, "/bridgewatch"}, command...)...)
}

// TestDeployStack deploys the agent as users of Swarm do, and finds it as their Prometheus does.
func TestDeployStack(t *testing.T) {
	d := newDeployment(t, "--live-restore=false") // Swarm refuses it
	d.engine.Docker(t, "swarm", "init", "--advertise-addr", lab.HostAddress.String(), "--listen-addr", lab.HostAddress.String()+":2377")
	t.Cleanup(func() { d.engine.Docker(t, "swarm", "leave", "--force") })
	d.run("docker", "stack", "deploy", "--resolve-image", "never", "--compose-file", filepath.Join(d.folder, "stack.yml"), "bridgewatch")
	id := d.awaitHealthy("label=com.docker.swarm.service.name=bridgewatch_agent")
	d.sees()
	t.Log(d.asks(id, "status"))
	t.Log(d.asks(id, "check"))
	t.Run("prometheus", d.isFoundByPrometheus)
	t.Run("monitoring", d.takesMonitoring)
	t.Run("changed", d.takesChanges)
	d.engine.Docker(t, "stack", "rm", "bridgewatch")
}

// takesChanges deploys once more, with another config file and the name that this takes.
func (d deployment) takesChanges(t *testing.T) {
	web := filepath.Join(d.folder, "web.yml")
	if err := os.WriteFile(web, []byte("basic_auth_users: {operator: \""+passwordHash+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.env = append(d.env, "BRIDGEWATCH_CONFIG=2")
	d.run("docker", "stack", "deploy", "--resolve-image", "never", "--compose-file", filepath.Join(d.folder, "stack.yml"), "bridgewatch")
	lab.Eventually(t, time.Minute, "the agent to ask for a password", func() bool {
		resp, err := http.Get("http://" + lab.HostAddress.String() + ":10470/metrics")
		if err != nil {
			return false // the old agent is gone, the new one is not there yet
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusUnauthorized
	})
}

// takesMonitoring has the engine take the stack that reads the agents, with the files that its head says to write first. Its
// images are nowhere to be had here, so that nothing of it starts.
func (d deployment) takesMonitoring(t *testing.T) {
	for _, what := range []string{"rules", "dashboards"} {
		if code, _, text := lab.Command(t, d.engine, "export", what, "--directory", filepath.Join(d.folder, what)); code != 0 {
			t.Fatalf("export %s: %s", what, text)
		}
	}
	d.run("docker", "stack", "deploy", "--resolve-image", "never", "--compose-file", filepath.Join(d.folder, "monitoring.yml"), "monitoring")
	services := strings.Fields(d.engine.Docker(t, "stack", "services", "--format", "{{.Name}}", "monitoring"))
	slices.Sort(services)
	want := []string{"monitoring_collector", "monitoring_docker-socket-proxy", "monitoring_grafana", "monitoring_prometheus"}
	if !slices.Equal(services, want) {
		t.Errorf("the engine made services %v, want %v", services, want)
	}
	d.engine.Docker(t, "stack", "rm", "monitoring")
}

// isFoundByPrometheus has Prometheus find the agent by Swarm's list of nodes, as the shipped configuration says.
func (d deployment) isFoundByPrometheus(t *testing.T) {
	text, err := os.ReadFile("../deploy/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer(
		"tcp://docker-socket-proxy:2375", d.engine.Name,
		"scrape_interval: 15s", "scrape_interval: 2s",
		"/etc/prometheus/rules/*.rules.yml", "", // they have tests of their own
	).Replace(string(text))
	p := startPrometheusWith(t, config)
	p.await(t, `up{job="bridgewatch", instance="`+d.engine.Docker(t, "info", "--format", "{{.Name}}")+`"}`, 1)
	p.await(t, `count(bridgewatch_node_info{role="manager"})`, 1)
}

// TestDeployCompose runs the agent as users of one host do.
func TestDeployCompose(t *testing.T) {
	d := newDeployment(t)
	compose := []string{"docker-compose", "--project-name", "watch", "--file", filepath.Join(d.folder, "compose.yml")}
	d.run(append(compose, "up", "--detach")...)
	t.Cleanup(func() { d.run(append(compose, "down")...) })
	id := d.awaitHealthy("label=com.docker.compose.service=agent")
	d.sees()
	t.Log(d.asks(id, "status"))
}

// TestDeployFiles has the other files checked by those who are to read them.
func TestDeployFiles(t *testing.T) {
	folder := t.TempDir()
	unit := filepath.Join(folder, "bridgewatch.service")
	text, err := os.ReadFile("../deploy/bridgewatch.service")
	if err != nil {
		t.Fatal(err)
	}
	// The program is not installed here.
	if err := os.WriteFile(unit, []byte(strings.Replace(string(text), "/usr/local/bin/bridgewatch", "/bin/true", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit},
		{"../bin/tools/collector", "validate", "--config", "../deploy/collector.yml"},
		{"promtool", "check", "config", "--syntax-only", "../deploy/prometheus.yml"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", command, err, out)
		}
	}
}
