// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/enrich/findings"
)

func TestFindingsFlags(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want findings.Config
		err  string
	}{
		{"defaults", nil, findings.Config{Hold: 2 * time.Minute, UnusedAfter: 24 * time.Hour}, ""},
		{"all", []string{
			"--findings.hold=15s", "--findings.unused-after=1h", "--findings.ignore=filtered@shop/web,mtu-mismatch", "--findings.ignore=filtered@db",
		}, findings.Config{Hold: 15 * time.Second, UnusedAfter: time.Hour, Ignore: []findings.Ignore{
			{ID: "filtered", Stack: "shop", Service: "web"}, {ID: "mtu-mismatch"}, {ID: "filtered", Service: "db"},
		}}, ""},
		{"hold too short", []string{"--findings.hold=14s"}, findings.Config{},
			"--findings.hold must be at least 15s, or scrapes may miss a finding"},
		{"no time", []string{"--findings.unused-after=-1s"}, findings.Config{}, "--findings.unused-after must not be negative"},
		{"unknown", []string{"--findings.ignore=nonsense"}, findings.Config{},
			`read --findings.ignore: no finding is called "nonsense"; see bridgewatch explain`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var flags findingsFlags
			parser, err := kong.New(&flags)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(tc.args); err != nil {
				t.Fatal(err)
			}
			got, err := flags.config()
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got %v, want %s", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}
