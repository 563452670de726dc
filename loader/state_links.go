// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From include/uapi/linux: rtnetlink.h, if_link.h, and the positions of IPv6 settings in a link's list of them, ipv6.h.
const (
	rtextFilterSkipStats = 1 << 3
	iflaInet6Conf        = 2
	devconfForwarding    = 0
	devconfAcceptRA      = 3
	devconfDisableIPv6   = 26
)

// readLinks lists the links, without their statistics, which are half of it. IPv6's settings come along with each link;
// procfs would take three reads for each.
func (s *HostState) readLinks() error {
	var messages [][]byte
	err := untilWhole(func() (err error) {
		messages, err = listLinks()
		return err
	})
	if err != nil {
		return fmt.Errorf("list links: %w (%s)", err, needsNetlink)
	}
	var errs []error
	for _, m := range messages {
		found, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("read link: %w", err))
			continue
		}
		link := newLink(found)
		s.Links = append(s.Links, link)
		if link.Loopback || link.Master != 0 || found.Attrs().RawFlags&unix.IFF_UP == 0 || !ignoresRouters(m) {
			continue
		}
		advertised, err := routerAdvertisements(link.Name)
		if err != nil {
			errs = append(errs, err)
		}
		if advertised > 0 {
			s.RouterAdvertised6 = append(s.RouterAdvertised6, link.Index)
		}
	}
	return errors.Join(errs...)
}

func listLinks() ([][]byte, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats)))
	return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
}

// ignoresRouters tells from a link's message whether the kernel would learn routes there if it did not forward: accept_ra
// 1 means "unless forwarding is on" (Documentation/networking/ip-sysctl.rst).
func ignoresRouters(m []byte) bool {
	conf := inet6Conf(m)
	return conf.at(devconfDisableIPv6) == 0 && conf.at(devconfForwarding) != 0 && conf.at(devconfAcceptRA) == 1
}

// devconf are a link's settings for a family of addresses.
type devconf []byte

// at returns the setting at a position, 0 if the kernel has none there.
func (c devconf) at(position int) int32 {
	if len(c) < 4*(position+1) {
		return 0
	}
	return int32(binary.NativeEndian.Uint32(c[4*position:]))
}

// inet6Conf finds the settings for IPv6 in a link's message; nil: the link has no IPv6.
func inet6Conf(m []byte) devconf {
	if len(m) < unix.SizeofIfInfomsg {
		return nil
	}
	value := m[unix.SizeofIfInfomsg:]
	for _, kind := range []uint16{unix.IFLA_AF_SPEC, unix.AF_INET6, iflaInet6Conf} { // one inside the other
		value = attribute(value, kind)
	}
	return value
}

// attribute returns the value of the first netlink attribute of a kind; nil: there is none, or the lengths before it lie.
func attribute(attributes []byte, kind uint16) []byte {
	for len(attributes) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(attributes))
		if size < unix.SizeofRtAttr || size > len(attributes) {
			return nil
		}
		if binary.NativeEndian.Uint16(attributes[2:])&nl.NLA_TYPE_MASK == kind {
			return attributes[unix.SizeofRtAttr:size]
		}
		padded := (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
		attributes = attributes[min(padded, len(attributes)):]
	}
	return nil
}

// routerAdvertisements returns how many came in on a link since it was made, accepted or not. None on one that is gone.
func routerAdvertisements(name string) (int, error) {
	file, err := os.ReadFile("/proc/thread-self/net/dev_snmp6/" + name)
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count router advertisements: %w (let the agent read /proc/net)", err)
	}
	for line := range bytes.Lines(file) {
		fields := bytes.Fields(line)
		if len(fields) == 2 && string(fields[0]) == "Icmp6InRouterAdvertisements" {
			return strconv.Atoi(string(fields[1]))
		}
	}
	return 0, nil
}
