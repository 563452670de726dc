// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"strconv"
	"testing"
	"time"
)

// Who is seen again keeps its place, and is never called another name. Who is known has one in any case.
func TestLabelNames(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	n := newLabelNames(3, strconv.Itoa, func() time.Time { return now })
	want := func(key int, text string) {
		t.Helper()
		if got := n.label(key); got != text {
			t.Errorf("label of %d is %q, want %q", key, got, text)
		}
	}
	n.set(map[int]string{1: "one"})
	want(1, "one")
	want(2, "2")
	want(3, "3")
	want(6, "6")
	want(4, Other)
	now = now.Add(9 * time.Minute)
	want(3, "3")
	now = now.Add(9 * time.Minute)
	n.forget(10 * time.Minute)
	if n.told(1) != "one" || n.told(2) != "" || n.told(3) != "3" {
		t.Errorf("told apart are %q, %q and %q", n.told(1), n.told(2), n.told(3))
	}
	want(4, "4")
	n.set(map[int]string{4: "four"}) // known by now: it leaves its place to another, and one that was known keeps its name
	want(1, "one")
	want(4, "four")
	want(5, "5")
	want(7, Other)
	now = now.Add(11 * time.Minute)
	n.forget(10 * time.Minute)
	want(7, "7")
	want(1, "1")
}
