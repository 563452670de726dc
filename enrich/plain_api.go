// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bridgewatch/bridgewatch/loader"
)

// plainPort is the port that Docker's API has by convention where it is not encrypted.
const plainPort = 2375

// How listeners are asked whether they are Docker's API.
const (
	askPeriod       = time.Minute     // between questions to the same one
	askTimeout      = 2 * time.Second // for all that are asked at a time
	maxAnswerHeader = 1 << 16         // bytes that are read of an answer
)

// ClearAPIs finds out which listeners of the host offer Docker's API without encryption. It remembers what they answered.
// The zero value has asked nobody. It must not be used concurrently.
type ClearAPIs struct {
	answers map[netip.AddrPort]clearAnswer
}

type clearAnswer struct {
	clear bool
	asked time.Time
}

// Ask returns those of the listeners that offer the API to others than the host itself, on the port where it is by
// convention: nobody else is asked. Each is asked when it appears and then once a minute, all at the same time, and Ask
// takes two seconds at most.
func (c *ClearAPIs) Ask(ctx context.Context, listeners []loader.Listener, now time.Time) []netip.AddrPort {
	return c.ask(ctx, exposed(listeners), now)
}

func (c *ClearAPIs) ask(ctx context.Context, addresses []netip.AddrPort, now time.Time) (clear []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers := make([]clearAnswer, len(addresses))
	var asking sync.WaitGroup
	for i, at := range addresses {
		last, known := c.answers[at]
		if known && now.Sub(last.asked) < askPeriod {
			answers[i] = last
			continue
		}
		asking.Go(func() { answers[i] = clearAnswer{AnswersInClear(ctx, at), now} })
	}
	asking.Wait()
	c.answers = make(map[netip.AddrPort]clearAnswer, len(addresses)) // who does not listen any more is forgotten
	for i, at := range addresses {
		c.answers[at] = answers[i]
		if answers[i].clear {
			clear = append(clear, at)
		}
	}
	return clear
}

// exposed are the addresses on the plain port that others than the host itself can reach, each once: several sockets may
// share one.
func exposed(listeners []loader.Listener) (addresses []netip.AddrPort) {
	for _, l := range listeners {
		if l.Address.Port() == plainPort && !l.Address.Addr().IsLoopback() && !slices.Contains(addresses, l.Address) {
			addresses = append(addresses, l.Address)
		}
	}
	return addresses
}

// AnswersInClear tells whether who listens on an address of this host offers Docker's API without encryption. It sends
// GET /_ping over plain HTTP, follows no redirect, uses no proxy and takes two seconds at most. Where a socket listens on
// all addresses, the loopback one of its family is asked; and for [::], which mostly takes IPv4 too, then that of IPv4.
func AnswersInClear(ctx context.Context, at netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return slices.ContainsFunc(reachedAt(at), func(at netip.AddrPort) bool { return pings(ctx, at) })
}

// reachedAt are the addresses at which to ask a socket that listens on one.
func reachedAt(listening netip.AddrPort) []netip.AddrPort {
	loopback4 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), listening.Port())
	switch address := listening.Addr().Unmap(); {
	case address == netip.IPv4Unspecified():
		return []netip.AddrPort{loopback4}
	case address == netip.IPv6Unspecified():
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Loopback(), listening.Port()), loopback4}
	default:
		return []netip.AddrPort{netip.AddrPortFrom(address, listening.Port())}
	}
}

// pings tells whether an address answers a ping as Docker's API does: with its version and one of the two statuses that
// it has for that, https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemPing.
func pings(ctx context.Context, at netip.AddrPort) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/_ping", nil)
	if err != nil {
		return false // an address with a zone; the kernel's list of sockets has none
	}
	request.Header.Set("User-Agent", "bridgewatch")
	// Alone, a transport neither follows redirects nor reads the environment for a proxy.
	transport := http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswerHeader}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close() // nothing of it is read
	known := response.StatusCode == http.StatusOK || response.StatusCode == http.StatusInternalServerError
	return known && response.Header.Get("Api-Version") != ""
}
