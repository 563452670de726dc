// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// What IPVS shows of the calling thread's network namespace (net/netfilter/ipvs/ip_vs_ctl.c and ip_vs_conn.c). The files tell
// as much as its netlink family does, in one read. They are there once the module is loaded, which reading does not do.
const (
	ipvsServices    = "/proc/thread-self/net/ip_vs"
	ipvsConnections = "/proc/thread-self/net/ip_vs_conn"
)

// MaxIPVSConnections is up to how many connections are worth being looked at one by one, in all namespaces of a look together: all
// share one table, and of it the kernel walks through what comes before for each fifty lines or so.
const MaxIPVSConnections = 10000

const (
	// silentExpiry is the time, in seconds, that IPVS still gives an established TCP connection which has been silent for ten
	// minutes. Unless somebody has changed it, it begins with 900 at each packet.
	silentExpiry = 300
)

// readIPVS reads what IPVS spreads in the calling thread's network namespace, sorted. None says that the kernel has no IPVS, or has not
// loaded it. The namespace's connections are taken off connections, which is how many may be looked at one by one. Nothing stays open.
func readIPVS(connections *int) (services []VirtualService, none bool, err error) {
	text, err := os.ReadFile(ipvsServices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read IPVS services: %w", err)
	}
	if services, err = parseIPVS(text); err != nil {
		return nil, false, fmt.Errorf("read IPVS services: %s: %w", ipvsServices, err)
	}
	if !affordable(services, connections) {
		return services, false, nil
	}
	if text, err = os.ReadFile(ipvsConnections); err != nil {
		return services, false, fmt.Errorf("read IPVS connections: %w", err)
	}
	silent, err := silentConnections(text)
	if err != nil {
		return services, false, fmt.Errorf("read IPVS connections: %s: %w", ipvsConnections, err)
	}
	for _, service := range services {
		for i := range service.Backends {
			b := &service.Backends[i]
			b.Silent = min(silent[b.Address], b.Active)
		}
	}
	return services, false, nil
}

// affordable tells whether connections are to be looked at one by one, of which only the active ones are of interest, and takes all
// that will be listed off those that may be.
func affordable(services []VirtualService, connections *int) bool {
	active := 0
	for _, service := range services {
		for _, b := range service.Backends {
			active += b.Active
			*connections -= b.Active + b.Inactive
		}
	}
	return active > 0 && *connections >= 0
}

// readPortReuse reads whether IPVS gives special treatment to a connection that begins where an old one is remembered, in the
// calling thread's network namespace.
func readPortReuse() (Switch, error) {
	return readSwitch("ipv4/vs/conn_reuse_mode")
}

// ipvsHead is the last line before the first service.
const ipvsHead = "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"

// parseIPVS reads a list of virtual services, each of which is followed by its backends.
func parseIPVS(text []byte) (services []VirtualService, err error) {
	_, list, found := bytes.Cut(text, []byte(ipvsHead))
	if !found {
		return nil, errors.New("has another head than expected")
	}
	for line := range bytes.Lines(list) {
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if string(fields[0]) != "->" {
			service, err := parseVirtualService(fields)
			if err != nil {
				return nil, fmt.Errorf("line %q: %w", line, err)
			}
			services = append(services, service)
			continue
		}
		backend, err := parseIPVSBackend(fields)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		if len(services) == 0 {
			return nil, fmt.Errorf("line %q: a backend of no service", line)
		}
		last := &services[len(services)-1]
		last.Backends = append(last.Backends, backend)
	}
	sortIPVS(services)
	return services, nil
}

// sortIPVS brings into order what the kernel lists by a hash, or the latest first.
func sortIPVS(services []VirtualService) {
	slices.SortFunc(services, func(a, b VirtualService) int {
		return cmp.Or(cmp.Compare(a.Mark, b.Mark), a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol))
	})
	for _, s := range services {
		slices.SortFunc(s.Backends, func(a, b IPVSBackend) int { return a.Address.Compare(b.Address) })
	}
}

var errShort = errors.New("has too few fields")

// parseVirtualService reads protocol, address and scheduler, or FWM, mark and scheduler.
func parseVirtualService(fields [][]byte) (service VirtualService, err error) {
	if len(fields) < 3 {
		return service, errShort
	}
	service.Scheduler = string(fields[2])
	if string(fields[0]) == "FWM" {
		mark, err := strconv.ParseUint(string(fields[1]), 16, 32)
		service.Mark = uint32(mark)
		return service, err
	}
	switch string(fields[0]) {
	case "TCP":
		service.Protocol = unix.IPPROTO_TCP
	case "UDP":
		service.Protocol = unix.IPPROTO_UDP
	case "SCTP":
		service.Protocol = unix.IPPROTO_SCTP
	default:
		return service, errors.New("has an unknown protocol")
	}
	service.Address, err = parseIPVSAddress(fields[1])
	return service, err
}

// parseIPVSBackend reads an arrow, address, way of forwarding, weight, active and inactive connections.
func parseIPVSBackend(fields [][]byte) (backend IPVSBackend, err error) {
	if len(fields) < 6 {
		return backend, errShort
	}
	at, err := parseIPVSAddress(fields[1])
	if err != nil {
		return backend, err
	}
	backend.Address = at.Addr()
	for i, to := range []*int{&backend.Weight, &backend.Active, &backend.Inactive} {
		if *to, err = strconv.Atoi(string(fields[3+i])); err != nil {
			return backend, err
		}
	}
	return backend, nil
}

// parseIPVSAddress reads 0A000005:0050 and [2001:0db8:0000:0000:0000:0000:0000:0001]:0050.
func parseIPVSAddress(text []byte) (netip.AddrPort, error) {
	i := bytes.LastIndexByte(text, ':')
	if i < 0 {
		return netip.AddrPort{}, errors.New("an address has no port")
	}
	port, err := strconv.ParseUint(string(text[i+1:]), 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	address, err := parseHexAddress(bytes.Trim(text[:i], "[]"))
	return netip.AddrPortFrom(address, uint16(port)), err
}

// parseHexAddress reads an address as the kernel prints it: IPv4 as one hexadecimal number.
func parseHexAddress(text []byte) (netip.Addr, error) {
	if bytes.IndexByte(text, ':') >= 0 {
		return netip.ParseAddr(string(text))
	}
	var address [4]byte
	if len(text) != hex.EncodedLen(len(address)) {
		return netip.Addr{}, fmt.Errorf("%q is no address", text)
	}
	if _, err := hex.Decode(address[:], text); err != nil {
		return netip.Addr{}, fmt.Errorf("%q is no address: %w", text, err)
	}
	return netip.AddrFrom4(address), nil
}

// Fields of a connection's line.
const (
	connProtocol = iota
	_            // the client's address
	_            // and port
	_            // the virtual address that it connected to
	_            // and port
	connBackend
	_ // and port
	connState
	connExpires
	connFields
)

// silentConnections counts the established TCP connections that have been silent for ten minutes, by the backend's address.
func silentConnections(text []byte) (map[netip.Addr]int, error) {
	silent := make(map[netip.Addr]int)
	head := true
	for line := range bytes.Lines(text) {
		if head {
			head = false
			continue
		}
		fields := bytes.Fields(line)
		if len(fields) < connFields {
			return nil, fmt.Errorf("line %q: %w", line, errShort)
		}
		if string(fields[connProtocol]) != "TCP" || string(fields[connState]) != "ESTABLISHED" {
			continue
		}
		expires, err := strconv.ParseUint(string(fields[connExpires]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		if expires >= silentExpiry {
			continue
		}
		backend, err := parseHexAddress(fields[connBackend])
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		silent[backend]++
	}
	return silent, nil
}
