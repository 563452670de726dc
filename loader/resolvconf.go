// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// HostResolvConf is the path of the host's own.
const HostResolvConf = "/etc/resolv.conf"

// Containers write theirs as they like, so that what is taken of one is bounded.
const (
	maxResolvConf = 64 << 10 // bytes
	// maxServers is more than resolvers ask: glibc, musl and the engine's take 3.
	maxServers = 8
	// MaxSuffixes is how many search suffixes are taken, more than most resolvers do: glibc took 6 before 2.26, and takes all
	// since; musl takes 256 bytes of them.
	MaxSuffixes = 8
	// maxSuffix is the longest name there is, in bytes of text (RFC 1035, section 2.3.4).
	maxSuffix = 253
)

// From engines since 26, in the comments of the file that they make for containers whose lookups they answer
// (daemon/libnetwork/internal/resolvconf of moby): whom they ask themselves.
const (
	upstreamsComment   = "# ExtServers: ["
	noUpstreamsComment = "# NO EXTERNAL NAMESERVERS DEFINED"
)

// ResolvConf is what a resolv.conf says.
type ResolvConf struct {
	Servers []netip.Addr // in order, the first 8; those that are no addresses are left out
	Search  []string     // suffixes as of SearchSuffixes
	Ndots   int          // names with fewer dots are tried with the suffixes first

	// Upstreams are whom the engine's resolver asks for the container, the first 8. UpstreamsKnown: the engine has said it here.
	Upstreams      []Upstream
	UpstreamsKnown bool
}

// Upstream is a server that the engine's resolver asks.
type Upstream struct {
	Address  netip.Addr
	FromHost bool // it is asked from the host's namespace, not from the container's
}

// ReadResolvConf reads one. It is no error that it says nothing of use: resolvers take what they understand.
func ReadResolvConf(path string) (ResolvConf, error) {
	file, err := os.Open(path)
	if err != nil {
		return ResolvConf{}, fmt.Errorf("read resolv.conf: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxResolvConf+1))
	if err != nil {
		return ResolvConf{}, fmt.Errorf("read resolv.conf: %w", err)
	}
	if len(text) > maxResolvConf {
		return ResolvConf{}, fmt.Errorf("read resolv.conf %s: larger than %d bytes", path, maxResolvConf)
	}
	return parseResolvConf(text)
}

// ReadResolvConfs reads those at the given paths, and returns all that can be read under the same keys, with an error for
// those that cannot.
func ReadResolvConfs(paths map[string]string) (map[string]ResolvConf, error) {
	read := make(map[string]ResolvConf, len(paths))
	var failures []error
	for key, path := range paths {
		conf, err := ReadResolvConf(path)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		read[key] = conf
	}
	return read, errors.Join(failures...)
}

func parseResolvConf(text []byte) (ResolvConf, error) {
	config, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		return ResolvConf{}, fmt.Errorf("parse resolv.conf: %w", err)
	}
	conf := ResolvConf{Ndots: config.Ndots, Search: SearchSuffixes(config.Search)}
	for _, server := range config.Servers {
		if address, err := netip.ParseAddr(server); err == nil && len(conf.Servers) < maxServers {
			conf.Servers = append(conf.Servers, address.Unmap())
		}
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if servers, found := strings.CutPrefix(line, upstreamsComment); found {
			conf.Upstreams, conf.UpstreamsKnown = parseUpstreams(strings.TrimSuffix(servers, "]")), true
		} else if line == noUpstreamsComment {
			conf.UpstreamsKnown = true
		}
	}
	return conf, nil
}

// SearchSuffixes returns the suffixes of a list as it is written: the first [MaxSuffixes], each once, in lower case, without the
// dot at their end. The root is none, and neither is what is too long for a name.
func SearchSuffixes(listed []string) (suffixes []string) {
	for _, suffix := range listed {
		if len(suffixes) == MaxSuffixes {
			break
		}
		suffix = strings.ToLower(strings.Trim(suffix, "."))
		if suffix != "" && len(suffix) <= maxSuffix && !slices.Contains(suffixes, suffix) {
			suffixes = append(suffixes, strings.Clone(suffix)) // not the whole file with it
		}
	}
	return suffixes
}

// parseUpstreams reads addresses as in "host(192.0.2.1) 192.0.2.2".
func parseUpstreams(text string) (upstreams []Upstream) {
	for _, server := range strings.Fields(text) {
		inside, fromHost := strings.CutPrefix(server, "host(")
		if address, err := netip.ParseAddr(strings.TrimSuffix(inside, ")")); err == nil && len(upstreams) < maxServers {
			upstreams = append(upstreams, Upstream{Address: address.Unmap(), FromHost: fromHost})
		}
	}
	return upstreams
}
