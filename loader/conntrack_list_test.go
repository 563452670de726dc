// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// listTracked counts what is listed.
func listTracked(tb testing.TB, list func(func(*Tracked)) error) map[connection]int {
	tb.Helper()
	found := make(map[connection]int)
	if err := list(func(t *Tracked) { found[connectionOf(t)]++ }); err != nil {
		tb.Error(err)
	}
	return found
}

func TestListTracked(t *testing.T) {
	lab := newNATLab(t)
	lab.translate(t, router4, "-A POSTROUTING -o outside -p udp -j MASQUERADE")
	lab.translate(t, router6, "-A POSTROUTING -o outside -j MASQUERADE")
	lab.translate(t, router4, "-A PREROUTING -i outside -p tcp --dport 81 -j REDIRECT --to-ports 80")
	lab.translate(t, router4, "-A PREROUTING -i outside -p udp --dport 53 -j DNAT --to-destination 172.30.0.99")
	lab.router.do(t, func() { listen(t, 80) })
	lab.world.do(t, func() {
		openTCP(t, netip.AddrPortFrom(router4, 81), 20) // redirected
		openTCP(t, netip.AddrPortFrom(router4, 80), 30) // not translated
		openUDP(t, netip.AddrPortFrom(router4, 53), 40) // to nobody
		openUDP(t, netip.AddrPortFrom(router4, 54), 25) // not translated
	})
	lab.container.do(t, func() {
		openUDP(t, netip.AddrPortFrom(world4, 9), 50)
		openICMP(t, netip.AddrPortFrom(world6, 0), 60)
		openICMP(t, netip.AddrPortFrom(world4, 0), 70) // not translated
	})
	var all, want map[connection]int
	eventually(t, "conntrack knows of all", func() bool {
		all = lab.conntrack(t)
		want = translatedOf(all)
		return len(all) == 295 && len(want) == 170
	})

	lab.router.do(t, func() {
		if diff := cmp.Diff(want, listTracked(t, ListTracked)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	lab.router.do(t, func() {
		untranslated := maps.Clone(all)
		maps.DeleteFunc(untranslated, func(c connection, _ int) bool { return c.Protocol != unix.IPPROTO_UDP || want[c] > 0 })
		if diff := cmp.Diff(untranslated, listTracked(t, ListUntranslatedUDP)); diff != "" || len(untranslated) != 25 {
			t.Errorf("%d of UDP that are not translated (-want +got):\n%s", len(untranslated), diff)
		}
	})
	inside := func(visit func(*Tracked)) error { return ListTrackedInside(lab.router.path(), visit) }
	if diff := cmp.Diff(want, listTracked(t, inside)); diff != "" {
		t.Errorf("from elsewhere (-want +got):\n%s", diff)
	}
	netns := lab.router.netns(t)
	err := inside(func(tracked *Tracked) {
		if tracked.Netns != netns || tracked.NetnsID != -1 {
			t.Errorf("in namespace %d, number %d, want %d", tracked.Netns, tracked.NetnsID, netns)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if elsewhere := listTracked(t, func(visit func(*Tracked)) error { return ListTrackedInside(lab.world.path(), visit) }); len(elsewhere) != 0 {
		t.Errorf("%d in a namespace that tracks nothing", len(elsewhere))
	}
}

// A kernel that knows of no filters lists all, whatever it is asked for.
func TestListMarkedWithoutFilters(t *testing.T) {
	statuses := []uint32{0, statusSourceNAT, statusDestNAT, statusSourceNAT | statusDestNAT, statusSeenReply}
	for _, tc := range []struct {
		name    string
		entries []uint32
		filters bool
		lists   int
	}{
		{"all kinds", statuses, false, 1},
		{"all kinds, filtered", statuses, true, 2},
		{"one kind only", []uint32{statusDestNAT, statusDestNAT}, false, 2},
		{"none", nil, false, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lists := 0
			list := func(filter statusFilter, visit func(*conntrackEntry)) error {
				lists++
				for _, status := range tc.entries {
					if !tc.filters || status&filter.mask == filter.value {
						visit(&conntrackEntry{status: status})
					}
				}
				return nil
			}
			want, got := make(map[uint32]int), make(map[uint32]int)
			for _, status := range tc.entries {
				if status&(statusSourceNAT|statusDestNAT) != 0 {
					want[status]++
				}
			}
			if err := listMarked(list, func(e *conntrackEntry) { got[e.status]++ }); err != nil {
				t.Error(err)
			}
			maps.DeleteFunc(got, func(status uint32, _ int) bool { return status&(statusSourceNAT|statusDestNAT) == 0 })
			if diff := cmp.Diff(want, got); diff != "" || lists != tc.lists {
				t.Errorf("listed %d times, want %d; (-want +got):\n%s", lists, tc.lists, diff)
			}
		})
	}
	refused := errors.New("refused")
	err := listMarked(func(statusFilter, func(*conntrackEntry)) error { return refused }, nil)
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
}

// However long the list is, it is never in memory.
func TestListTrackedTakesNoMemory(t *testing.T) {
	const count = 20_000
	lab := newNATLab(t)
	lab.translate(t, router4, "-A PREROUTING -i outside -p udp -j DNAT --to-destination 172.30.0.99")
	lab.world.do(t, func() { openRawUDP(t, netip.AddrPortFrom(router4, 53), count) })
	listed := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := ListTrackedInside(lab.router.path(), func(*Tracked) { listed++ }); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if listed != count {
		t.Errorf("%d listed, want %d", listed, count)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 1<<20 {
		t.Errorf("took %d bytes", taken)
	}
}

func TestListTrackedInsideGone(t *testing.T) {
	leftover := filepath.Join(t.TempDir(), "sandbox")
	if err := os.WriteFile(leftover, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/nonexistent", leftover} {
		if err := ListTrackedInside(path, nil); !errors.Is(err, ErrNetnsGone) {
			t.Errorf("%s: error %v, want %v", path, err, ErrNetnsGone)
		}
	}
}

// A kernel that tracks no connections has none, and is not asked, since that would have it begin to.
func TestListTrackedWithoutTracking(t *testing.T) {
	loadModules(t)
	enterFreshNetns(t)
	run(t, "conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1", "--dport", "53", "-t", "60", "-n", "192.0.2.9")
	if got := listTracked(t, ListTracked); len(got) != 1 {
		t.Fatalf("listed %v", got)
	}
	enterFreshMounts(t)
	hide(t, "/proc/sys/net/netfilter")
	if got := listTracked(t, ListTracked); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
}
