// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"path/filepath"
	"testing"
)

// BuildImage builds the agent's own image by a Dockerfile, with what was built for the tests in it.
func (e *Engine) BuildImage(tb testing.TB, dockerfile, tag string) {
	tb.Helper()
	folder := tempDir(tb)
	run(tb, "cp", program(tb, "bridgewatch"), filepath.Join(folder, "bridgewatch"))
	e.Docker(tb, "build", "--quiet", "--file", dockerfile, "--tag", tag, folder)
}

// ShareMounts lets what is mounted in the lab's folder from now on appear in containers too, as below /run on a host that
// systemd runs: an engine that is started later keeps its namespaces there.
func ShareMounts(tb testing.TB) {
	tb.Helper()
	folder := filepath.Dir(tempDir(tb))
	run(tb, "mount", "--bind", folder, folder)
	run(tb, "mount", "--make-shared", folder)
}
