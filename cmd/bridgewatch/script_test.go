// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bridgewatch": main})
}

// TestScripts runs the program as an operator would, where that needs neither privileges nor a kernel.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":    exits,
			"sentence": oneSentence,
		},
	})
}

// exits runs a program and wants an exit code: exits CODE PROGRAM [ARGS].
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGS]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("run %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

// oneSentence wants the last program to have said why it could not run, in one line on stderr with the text: sentence TEXT.
func oneSentence(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: sentence TEXT")
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout is %q, want nothing", out)
	}
	said := ts.ReadFile("stderr")
	line, rest, ended := strings.Cut(said, "\n")
	if !ended || rest != "" || !strings.HasPrefix(line, "bridgewatch: ") || !strings.Contains(line, args[0]) {
		ts.Fatalf("stderr is %q, want one line that says %q", said, args[0])
	}
}
