// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dumpBuffer holds whatever the kernel puts into one part of a listing (net/netlink/af_netlink.c: 32 KiB).
const dumpBuffer = 64 << 10

// translations are those whose destination is translated, whatever becomes of the source, and the others.
var translations = [...]statusFilter{
	{mask: statusDestNAT, value: statusDestNAT},
	{mask: statusDestNAT | statusSourceNAT, value: statusSourceNAT},
}

// ListTracked calls visit for every translated connection of the calling thread's network namespace. What visit is given is
// only valid until it returns. Connections come and go meanwhile: one that is there all the while is visited, and where the
// kernel has to look anew at a part of its table it may be so twice. Needs CAP_NET_ADMIN.
//
// It takes about 2 µs of processor time for each that is translated, and where the kernel cannot choose (before 5.15), or has
// IPVS, which leaves no mark on what it translates, for each that is not; else half of it.
func ListTracked(visit func(*Tracked)) error {
	netns := OwnNetns()
	translated := func(e *conntrackEntry) {
		if e.Translated() {
			e.Netns = netns
			visit(&e.Tracked)
		}
	}
	if _, err := os.Stat("/proc/thread-self/net/ip_vs"); err == nil {
		return listConntrack(statusFilter{}, translated)
	}
	return listMarked(listConntrack, translated)
}

// ListUntranslatedUDP does what [ListTracked] does for the connections of UDP that are not translated. It takes about 1 µs of
// processor time for every one that is not, whatever its protocol.
func ListUntranslatedUDP(visit func(*Tracked)) error {
	netns := OwnNetns()
	return listConntrack(statusFilter{mask: statusSourceNAT | statusDestNAT}, func(e *conntrackEntry) {
		if e.Protocol == unix.IPPROTO_UDP && !e.Translated() {
			e.Netns = netns
			visit(&e.Tracked)
		}
	})
}

// listMarked lists the entries with a mark of NAT, and may list others with them. It is enough to list once if the kernel
// knows of no filters, which shows by what it lists.
func listMarked(list func(statusFilter, func(*conntrackEntry)) error, visit func(*conntrackEntry)) error {
	filtered := true
	for i, filter := range translations {
		err := list(filter, func(e *conntrackEntry) {
			matches := e.status&filter.mask == filter.value
			filtered = filtered && matches
			if i == 0 || matches {
				visit(e)
			}
		})
		if err != nil || !filtered {
			return err
		}
	}
	return nil
}

// ListTrackedInside does what [ListTracked] does in the network namespace at path, such as a container's SandboxKey or
// /proc/PID/ns/net. ErrNetnsGone: it is no namespace any more. It enters the namespace, which needs CAP_SYS_ADMIN, and
// CAP_DAC_READ_SEARCH or ownership of the folder.
func ListTrackedInside(path string, visit func(*Tracked)) error {
	return inNetns(path, func() error { return ListTracked(visit) })
}

// statusFilter chooses entries by bits of their status: those that mask selects are as in value. Its zero value chooses all.
type statusFilter struct{ mask, value uint32 }

// tracksConnections tells whether the kernel has connection tracking at this moment. Asking netlink for its entries would
// have it load the module.
func tracksConnections() bool {
	_, err := os.Stat(sysctlFolder + "netfilter/nf_conntrack_max")
	return !errors.Is(err, os.ErrNotExist)
}

// listConntrack calls visit for every entry of the calling thread's namespace that the filter chooses, where the kernel can
// (since 5.15); else for all. A kernel that tracks no connections has none.
func listConntrack(filter statusFilter, visit func(*conntrackEntry)) error {
	if !tracksConnections() {
		return nil
	}
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("list tracked connections: %w (%s)", err, needsNetlink)
	}
	defer unix.Close(socket)
	if err := unix.Sendto(socket, dumpRequest(filter), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("list tracked connections: %w", err)
	}
	if err := readDump(socket, visit); err != nil {
		return fmt.Errorf("list tracked connections: %w (needs nf_conntrack_netlink in the kernel, and CAP_NET_ADMIN)", err)
	}
	return nil
}

func dumpRequest(filter statusFilter) []byte {
	request := make([]byte, unix.SizeofNlMsghdr+sizeofNfgenmsg, 64)
	binary.NativeEndian.PutUint16(request[4:], conntrackGet)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if filter.mask != 0 {
		request = appendUint32(request, ctaStatus, filter.value)
		request = appendUint32(request, ctaStatusMask, filter.mask)
	}
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	return request
}

func appendUint32(list []byte, kind uint16, value uint32) []byte {
	list = binary.NativeEndian.AppendUint16(list, attributeHeader+4)
	list = binary.NativeEndian.AppendUint16(list, kind)
	return binary.BigEndian.AppendUint32(list, value)
}

// readDump reads a listing to its end. Entries that cannot be read are passed over.
func readDump(socket int, visit func(*conntrackEntry)) error {
	buffer := make([]byte, dumpBuffer)
	var entry conntrackEntry
	for {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for datagram := buffer[:n]; len(datagram) > 0; {
			header, body, rest, ok := nextMessage(datagram)
			if !ok {
				return errors.New("the kernel's answer is cut short")
			}
			datagram = rest
			switch header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return dumpResult(body)
			case conntrackNew:
				if entry, ok = parseConntrack(body); ok {
					visit(&entry)
				}
			}
		}
	}
}

// dumpResult is what the last message of a listing says: 0 or an error's negative number.
func dumpResult(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return syscall.Errno(-code)
	}
	return nil
}
