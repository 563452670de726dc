// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// A container that ends takes its file along, which is no problem. That none can be reached is one.
func TestResolvConfProblem(t *testing.T) {
	gone := fmt.Errorf("read resolv.conf: %w", fs.ErrNotExist)
	for _, tc := range []struct {
		name         string
		wanted, read int
		err          error
		want         string
	}{
		{"all read", 3, 3, nil, ""},
		{"one has ended", 3, 2, gone, ""},
		{"all are elsewhere", 3, 1, errors.Join(gone, gone), "name servers and search domains of 2 of 3 are not known: read resolv.conf: file does not exist"},
		{"not allowed", 3, 2, errors.New("permission denied"), "name servers and search domains of 1 of 3 are not known: permission denied"},
	} {
		if got := resolvConfProblem(tc.wanted, tc.read, tc.err); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// What doctor observes with when no agent runs is what an agent is started with by default.
func TestRunDefaults(t *testing.T) {
	var defaults runCommand
	if err := kong.ApplyDefaults(&defaults); err != nil {
		t.Fatal(err)
	}
	if err := defaults.validate(); err != nil {
		t.Error(err)
	}
	if defaults.DNSTimeout != 5*time.Second || defaults.DNSTable != 4096 {
		t.Errorf("lookups wait for %s, in a table of %d", defaults.DNSTimeout, defaults.DNSTable)
	}
}
