// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bridgewatch/bridgewatch/e2e/lab"
)

// TestPrometheus scrapes the agent with the real Prometheus.
func TestPrometheus(t *testing.T) {
	engine := lab.StartEngine(t)
	agent := lab.StartAgent(t, engine)
	sender, receiver := pair(t, engine, "scraped", "bridge")
	exchange(t, agent, "bridge", lab.IPv4, sender, receiver)

	t.Run("promtool", func(t *testing.T) {
		cmd := exec.Command("promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(agent.Text(t))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool check metrics: %v\n%s", err, out)
		}
	})
	t.Run("prometheus", func(t *testing.T) {
		p := startPrometheus(t, agent.Address)
		p.await(t, "up", 1)
		want := float64(sender.Stats(t, "eth0").TxPackets)
		p.await(t, `bridgewatch_packets_total{container="scraped-sender", direction="tx"}`, want)
	})
}

// The lab's password, and its bcrypt hash.
const (
	password     = "open sesame"
	passwordHash = "$2a$04$RaZ/5Wem0eGsfSUKgKuCwu6tVasifC.ZpdUkN0uXa8S35WAVTUctG"
)

// TestWebConfig protects the agent by a web config file, as exporters do.
func TestWebConfig(t *testing.T) {
	engine := lab.StartEngine(t)
	keys := newKeys(t)
	config := filepath.Join(keys.dir, "web.yml")
	if err := os.WriteFile(config, []byte(`
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
basic_auth_users:
  operator: "`+passwordHash+`"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := lab.LaunchAgent(t, engine, "--web.config.file="+config)
	address := "https://" + agent.Address + "/metrics"
	lab.Eventually(t, 30*time.Second, "the agent to answer", func() bool {
		status, err := get(keys.client(true), address, password)
		return err == nil && status == http.StatusOK
	})
	for _, tc := range []struct {
		name     string
		client   *http.Client
		address  string
		password string
		want     int // status, or 0 for no connection
	}{
		{"all right", keys.client(true), address, password, http.StatusOK},
		{"wrong password", keys.client(true), address, "guess", http.StatusUnauthorized},
		{"no certificate", keys.client(false), address, password, 0},
		{"no TLS", http.DefaultClient, agent.URL + "/metrics", password, http.StatusBadRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := get(tc.client, tc.address, tc.password); got != tc.want {
				t.Errorf("status %d (%v), want %d", got, err, tc.want)
			}
		})
	}
	t.Run("prometheus", func(t *testing.T) {
		p := startPrometheus(t, agent.Address, "scheme: https",
			fmt.Sprintf("basic_auth: {username: operator, password: %q}", password),
			fmt.Sprintf("tls_config: {ca_file: %[1]s/ca.crt, cert_file: %[1]s/client.crt, key_file: %[1]s/client.key}", keys.dir))
		p.await(t, "up", 1)
	})
}

func get(client *http.Client, address, password string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	req.SetBasicAuth("operator", password)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
