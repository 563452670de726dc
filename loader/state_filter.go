// SPDX-License-Identifier: Apache-2.0

package loader

import "encoding/binary"

// Instructions of the kernel's socket filters, from include/uapi/linux/inet_diag.h. Each says how far to go on if it holds
// and if it does not; one that compares is followed by a second of the same size, which holds the port.
const (
	filterJump         = 1 // holds never
	filterLocalAtLeast = 2
	filterLocalAtMost  = 3

	filterInstruction = 4
	filterComparison  = 2 * filterInstruction
)

// maxPortRanges keeps the distances in a filter within their 16 bits.
const maxPortRanges = 2000

// portFilter writes a filter for sockets with a local port in one of the ranges, which are sorted and not empty. It halves
// them at each step, so that hundreds of published ports cost the kernel little for each of its sockets. Of too many
// ranges it lets through what lies between them, too.
func portFilter(ranges []portRange) []byte {
	if len(ranges) > maxPortRanges {
		ranges = []portRange{{ranges[0].first, ranges[len(ranges)-1].last}}
	}
	f := filter{end: searchSize(len(ranges))}
	f.search(ranges)
	return f.code
}

// searchSize is that of what search writes: for each range two comparisons and a jump, and a comparison between ranges.
func searchSize(ranges int) int {
	return ranges*(2*filterComparison+filterInstruction) + (ranges-1)*filterComparison
}

// filter is one being written. A socket that gets to its end passes; one that gets an instruction further does not.
type filter struct {
	code []byte
	end  int
}

func (f *filter) search(ranges []portRange) {
	if len(ranges) == 1 {
		f.compare(filterLocalAtLeast, ranges[0].first, f.end+filterInstruction)
		f.compare(filterLocalAtMost, ranges[0].last, f.end+filterInstruction)
		f.add(filterJump, filterInstruction, f.end)
		return
	}
	middle := len(ranges) / 2
	lower, upper := ranges[:middle], ranges[middle:]
	f.compare(filterLocalAtLeast, upper[0].first, len(f.code)+filterComparison+searchSize(len(upper)))
	f.search(upper)
	f.search(lower)
}

// compare goes on with what follows if it holds, else at a position.
func (f *filter) compare(code uint8, port uint16, otherwise int) {
	f.add(code, filterComparison, otherwise)
	f.code = binary.NativeEndian.AppendUint16(append(f.code, 0, 0), port)
}

func (f *filter) add(code, next uint8, otherwise int) {
	distance := otherwise - len(f.code)
	f.code = binary.NativeEndian.AppendUint16(append(f.code, code, next), uint16(distance))
}
