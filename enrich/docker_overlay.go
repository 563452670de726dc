// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"
)

// maxOverlayAnswer is how much an engine may say of one network, in bytes: some 50,000 endpoints.
const maxOverlayAnswer = 16 << 20

// overlayTick is how often to look whether there is a network to ask for, and overlayTimeout how long an answer may take.
const (
	overlayTick    = time.Second
	overlayTimeout = 3 * time.Second
)

// overlayAnswer is what the engine says of an overlay network that it is on, if it is asked to say all (verbose): the same on
// managers and workers, since every node hears it by gossip. The client's own type is of no use: engines before 29 write "<nil>"
// where there is no virtual address, at which it gives up.
type overlayAnswer struct {
	ID    string `json:"Id"`
	Peers []struct {
		IP string
	}
	// Containers are those of this node, by ID. The load balancer is under a name of its own.
	Containers map[string]struct {
		EndpointID, MacAddress, IPv4Address string
	}
	// Services are those of all nodes. Who is of none is under the empty name.
	Services map[string]struct {
		VIP          string
		LocalLBIndex uint32 // the firewall mark by which IPVS knows the virtual address here; 0: it does not
		Tasks        []overlayTask
	}
	Status struct {
		IPAM struct {
			Subnets map[string]struct{ IPsInUse, DynamicIPsAvailable uint64 }
		}
	}
}

type overlayTask struct {
	Name, EndpointID, EndpointIP string
	Info                         map[string]string
}

// hostOfTask is where in a task's Info the data-path address of its node is.
const hostOfTask = "Host IP"

// keepAskingOverlays asks for overlay networks until ctx ends, beside the one who takes in events: an engine whose Swarm is in
// trouble may take its time. What was said over the last connection is asked for anew: engines number firewall marks from the
// beginning when they start.
func (d *Docker) keepAskingOverlays(ctx context.Context) {
	d.state.distrustOverlays()
	tick := time.NewTicker(overlayTick)
	defer tick.Stop()
	for {
		d.askOverlays(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// askOverlays asks for the overlay networks of which there is news, or may be. What cannot be asked for stays as it is known.
func (d *Docker) askOverlays(ctx context.Context) {
	for _, id := range d.state.dueOverlays() {
		if ctx.Err() != nil {
			return
		}
		asked := d.state.config.Now()
		answer, err := d.inspectOverlay(ctx, id)
		if err != nil {
			d.state.overlayUnanswered(id, asked)
			continue
		}
		d.state.setOverlay(id, newOverlayWord(answer, asked))
	}
}

// inspectOverlay asks for one network. For each load balancer on it the engine then writes a line into its log ("Inconsistent
// driver and libnetwork state"), which is why it is not asked more often than needed.
func (d *Docker) inspectOverlay(ctx context.Context, id string) (*overlayAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, overlayTimeout)
	defer cancel()
	host, err := client.ParseHostURL(d.api.DaemonHost())
	if err != nil {
		return nil, fmt.Errorf("inspect network %.12s: %w", id, err)
	}
	address := url.URL{
		Scheme: "http", Host: "docker", Path: host.Path + "/v" + d.api.ClientVersion() + "/networks/" + id,
		RawQuery: url.Values{"verbose": {"true"}}.Encode(),
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("inspect network %.12s: %w", id, err)
	}
	response, err := d.plain().Do(request)
	if err != nil {
		return nil, fmt.Errorf("inspect network %.12s: %w", id, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("inspect network %.12s: engine says %s", id, response.Status)
	}
	var answer overlayAnswer
	if err := json.NewDecoder(io.LimitReader(response.Body, maxOverlayAnswer)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("inspect network %.12s: %w", id, err)
	}
	if answer.ID != id {
		return nil, fmt.Errorf("inspect network %.12s: engine tells of %.12s", id, answer.ID)
	}
	return &answer, nil
}

// plain is an HTTP client for the engine, over the connections of the one that knows where it is and how to be let in.
func (d *Docker) plain() *http.Client {
	dial := d.api.Dialer()
	return &http.Client{
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newOverlayWord takes from an answer what can be read of it.
func newOverlayWord(answer *overlayAnswer, asked time.Time) *overlayWord {
	w := &overlayWord{asked: asked, services: make(map[string]overlayService, len(answer.Services))}
	for _, p := range answer.Peers {
		if address := parseAddress(p.IP); address.IsValid() {
			w.peers = append(w.peers, address)
		}
	}
	slices.SortFunc(w.peers, netip.Addr.Compare)
	w.peers = slices.Compact(w.peers)
	local := make(map[string][6]byte)
	for key, c := range answer.Containers {
		local[c.EndpointID] = parseMAC(c.MacAddress)
		address, _, _ := strings.Cut(c.IPv4Address, "/")
		if e := (overlayEndpoint{
			id: c.EndpointID, address: parseAddress(address), mac: local[c.EndpointID], local: true, balancer: true, since: asked,
		}); strings.HasPrefix(key, balancerKey) && e.address.IsValid() {
			w.endpoints = append(w.endpoints, e) // services do not have it
		}
	}
	for name, s := range answer.Services {
		w.services[name] = overlayService{vip: parseAddress(s.VIP), mark: s.LocalLBIndex}
		for _, t := range s.Tasks {
			if e := newOverlayEndpoint(name, t, asked); e.address.IsValid() {
				e.mac, e.local = local[e.id]
				w.endpoints = append(w.endpoints, e)
			}
		}
	}
	slices.SortFunc(w.endpoints, func(a, b overlayEndpoint) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.id, b.id))
	})
	for text, use := range answer.Status.IPAM.Subnets {
		if subnet, err := netip.ParsePrefix(text); err == nil {
			w.use = append(w.use, SubnetUse{subnet, use.IPsInUse, use.DynamicIPsAvailable})
		}
	}
	slices.SortFunc(w.use, func(a, b SubnetUse) int { return a.Subnet.Compare(b.Subnet) })
	return w
}

// balancerKey begins the name of the load balancer of a network, before the network's, where containers have their IDs.
const balancerKey = "lb-"

// meshEndpoint is what the engine calls the routing mesh's endpoint of every node.
const meshEndpoint = "ingress-endpoint"

func newOverlayEndpoint(service string, t overlayTask, asked time.Time) overlayEndpoint {
	return overlayEndpoint{
		id: t.EndpointID, service: service, name: t.Name, address: parseAddress(t.EndpointIP),
		host: parseAddress(t.Info[hostOfTask]), balancer: service == "" && t.Name == meshEndpoint, since: asked,
	}
}

// parseAddress returns no valid address for what is none.
func parseAddress(text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil || address.IsUnspecified() {
		return netip.Addr{}
	}
	return address.Unmap()
}

func parseMAC(text string) (mac [6]byte) {
	if parsed, err := net.ParseMAC(text); err == nil && len(parsed) == len(mac) {
		copy(mac[:], parsed)
	}
	return mac
}
