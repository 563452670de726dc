// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"testing"
)

func TestSentence(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{errors.New("no"), "no"},
		{errors.Join(errors.New("signal flow is off: no"), errors.New("signal drop is off: no")), "signal flow is off: no; signal drop is off: no"},
		{fmt.Errorf("read file: %w", errors.New("errors:\n  line 1: no\n  line 2: no")), "read file: errors: line 1: no; line 2: no"},
	} {
		if got := sentence(tc.err); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}
